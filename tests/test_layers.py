"""Folders are layers and imports point down, as in the table of docs/design.md."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import simple_ws

PACKAGE = Path(simple_ws.__file__).parent
pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.skipif(
        not (PACKAGE / "_speedups.pyx").exists(),
        reason="no checkout: a wheel has only a part of the sources",
    ),
]

#: From the bottom to the top: folders (with a slash), and the modules at the top.
LAYERS = {
    "words": "constants errors text checks messages deflate token_bucket older_package",
    "speedups": "speedups _speedups _c/ _fallback/",
    "protocol": "protocol/",
    "loop": "loop/",
    "connection": "connection/",
    "client": "client/",
    "handlers": "handlers/",
    "http": "http/",
    "asgi": "asgi/",
    "ops": "ops/",
    "cluster": "cluster/",
    "server": "server/",
    "tokens": "tokens/",
    "live": "live/",
    "faces": "__init__ aio testing/ pytest_plugin publisher http11 schedule types",
    "cli": "cli/ __main__",
}
LEVELS = {
    place: level
    for level, places in enumerate(LAYERS.values())
    for place in places.split()
}
NAMES = list(LAYERS)

#: Imports of Cython, which `ast` cannot read.
_CYTHON = re.compile(
    r"^[ \t]*from[ \t]+(\.+)([\w.]*)[ \t]+c?import[ \t]+\(?([\w \t,]*)"
    r'|^[ \t]*include[ \t]+"([\w/]+)\.pxi"',
    re.MULTILINE,
)


def sources() -> list[Path]:
    return sorted(
        path
        for path in PACKAGE.rglob("*")
        if path.suffix in {".py", ".pyx", ".pxi", ".pxd"}
    )


def name_of(path: Path) -> str:
    """`server/hub` for simple_ws/server/hub.py, `server` for its __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if len(parts) > 1 and parts[-1] == "__init__":
        parts = parts[:-1]
    return "/".join(parts)


MODULES = {name_of(path) for path in sources()}


def place_of(module: str) -> str:
    """What stands for a module in the table: its folder, or itself."""
    folder, slash, _ = module.partition("/")
    if slash or (PACKAGE / folder).is_dir():
        return f"{folder}/"
    return module


def level_of(module: str) -> int:
    return LEVELS.get(place_of(module), 99)


def reached(base: list[str], names: list[str]) -> set[str]:
    """Modules that `from base import names` reaches, `base` from the package on."""
    module = "/".join(base)
    below = {"/".join([*base, name]) for name in names}
    found = below & MODULES
    if found != below or not names:
        found.add(module or "__init__")
    return found


def imported(level: int, module: str, names: list[str], at: Path) -> set[str]:
    """Likewise for an import as it is written in the file `at`."""
    if level:
        package = list(at.parent.relative_to(PACKAGE).parts)
        package = package[: len(package) - level + 1]
        return reached([*package, *filter(None, module.split("."))], names)
    head, *rest = module.split(".")
    return reached(rest, names) if head == "simple_ws" else set()


def imports_of_python(text: str, at: Path) -> set[str]:
    """Modules of the package that are imported anywhere, for type checking as well."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            found |= imported(node.level, node.module or "", names, at)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                found |= imported(0, alias.name, [], at)
    return found


def imports_of_cython(text: str, at: Path) -> set[str]:
    if at.suffix == ".pxi":
        at = PACKAGE / "_speedups.pyx"  # it is read there
    found: set[str] = set()
    for dots, module, names, included in _CYTHON.findall(text):
        if included:
            found.add(included)
        else:
            found |= imported(len(dots), module, re.findall(r"\w+", names), at)
    return found


def imports_of(path: Path) -> set[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return imports_of_python(text, path)
    return imports_of_cython(text, path)


def upward(module: str, names: set[str]) -> set[str]:
    """What stands above a module, or nowhere."""
    return {name for name in names if level_of(name) > level_of(module)}


def test_every_module_has_a_place() -> None:
    lost = {module for module in MODULES if level_of(module) == 99}
    assert not lost, f"no layer in tests/test_layers.py has {sorted(lost)}"


def test_imports_point_down() -> None:
    above = {
        name_of(path): sorted(found)
        for path in sources()
        if (found := upward(name_of(path), imports_of(path)))
    }
    assert not above, f"these import from above: {above}"


def test_imports_make_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in sources():
        graph.setdefault(name_of(path), set()).update(imports_of(path))
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")
    assert {"cli", "pytest_plugin"} <= set(order)


def test_every_place_is_in_one_layer() -> None:
    assert len(LEVELS) == sum(len(places.split()) for places in LAYERS.values())


def test_package_is_really_read() -> None:
    protocol = PACKAGE / "protocol" / "websocket.py"
    assert {"deflate", "errors", "speedups"} <= imports_of(protocol)
    assert {"constants", "_c/loop"} <= imports_of(PACKAGE / "_speedups.pyx")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from ..errors import X", {"errors"}),
        ("from .hub import Hub", {"server/hub"}),
        ("from . import hub", {"server/hub"}),
        ("from .. import server", {"server"}),
        ("from .. import BACKEND", {"__init__"}),
        ("from ..loop import tls", {"loop/tls"}),
        ("from ..client import connect", {"client"}),
        ("from simple_ws.server import Server", {"server"}),
        ("from simple_ws import server, Client", {"server", "__init__"}),
        ("import simple_ws.server.hub as h", {"server/hub"}),
        ("import simple_ws", {"__init__"}),
        ("import os, re", set()),
        ("if TYPE_CHECKING:\n    from .hub import Hub", {"server/hub"}),
        ("def f():\n    from .hub import Hub", {"server/hub"}),
    ],
)
def test_every_form_of_import_is_seen(text: str, found: set[str]) -> None:
    assert imports_of_python(text, PACKAGE / "server" / "x.py") == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from .errors import (\n    X,\n)", {"errors"}),
        ("from .server cimport thing", {"server"}),
        ("from . cimport server", {"server"}),
        ("    from .loop.tls import X", {"loop/tls"}),
        ('include "_c/connection.pxi"', {"_c/connection"}),
        ("from libc.string cimport memcpy\nimport os", set()),
    ],
)
def test_every_form_of_import_in_cython_is_seen(text: str, found: set[str]) -> None:
    assert imports_of_cython(text, PACKAGE / "_c" / "x.pxi") == found


def test_upward_import_would_be_found() -> None:
    found = {"errors", "speedups", "server/hub"}
    assert upward("protocol/websocket", found) == {"server/hub"}
    assert upward("errors", {"errors", "no_such_module"}) == {"no_such_module"}
