"""Imports point down: the table of design.md §3, held against the source."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import simple_ws

PACKAGE = Path(simple_ws.__file__).parent

#: From the bottom to the top. A new module gets its place here first; one that is named
#: before it is written does no harm.
LAYERS = {
    "words": "constants errors",
    "codecs": (
        "_fallback _fallback_codecs _fallback_loop _fallback_outbox "
        "_fallback_connection _speedups _deflate _upgrade _loop _outbox _connection "
        "_selector _accept speedups "
        "http11 framing deflate uri messages"
    ),
    "protocol": "handshake client_handshake client_proxy protocol",
    "engine": "timers selector reactor listener tls",
    "server": (
        "options topics routing journal gate ending heartbeat connection hub handler "
        "middleware schedule later workers awaiting attachment http static wsgi "
        "incoming proxies stats metrics dashboard site server"
    ),
    "faces": (
        "websocket client_options client_core client_dial client "
        "aio_connection aio_dial aio cli_values cli cli_bench cli_connect cli_reload "
        "testing pytest_plugin __init__ __main__"
    ),
}
LEVELS = {
    module: level
    for level, modules in enumerate(LAYERS.values())
    for module in modules.split()
}
NAMES = list(LAYERS)

#: Relative imports of Cython, which `ast` cannot read; `include` puts a file in place.
_CYTHON = re.compile(
    r"^[ \t]*from[ \t]+\.(\w*)[ \t]+c?import[ \t]+\(?([\w \t,]*)"
    r'|^[ \t]*include[ \t]+"(\w+)\.pxi"',
    re.MULTILINE,
)


def sources(folder: Path = PACKAGE) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in {".py", ".pyx", ".pxi", ".pxd"}
    )


def imported_from(module: str | None, names: list[str]) -> set[str]:
    """Modules that `from .module import names` reaches."""
    if module:
        return {module.split(".")[0]}
    return {name if name in LEVELS else "__init__" for name in names}


def imports_of_python(text: str) -> set[str]:
    """Modules of the package that are imported anywhere, for type checking as well."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            package, _, rest = (node.module or "").partition(".")
            if node.level:
                found |= imported_from(node.module, names)
            elif package == "simple_ws":
                found |= imported_from(rest, names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                package, _, rest = alias.name.partition(".")
                if package == "simple_ws":
                    found |= imported_from(rest, [])  # `simple_ws.x`
                    found |= set() if rest else {"__init__"}
    return found


def imports_of_cython(text: str) -> set[str]:
    found: set[str] = set()
    for module, names, included in _CYTHON.findall(text):
        if included:
            found.add(included)
        else:
            found |= imported_from(module, re.findall(r"\w+", names))
    return found


def imports_of(path: Path) -> set[str]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return imports_of_python(text)
    return imports_of_cython(text)


def upward(module: str, imported: set[str]) -> set[str]:
    """What stands above a module, or nowhere."""
    return {name for name in imported if LEVELS.get(name, 99) > LEVELS[module]}


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.name)
def test_module_is_in_the_table(path: Path) -> None:
    assert path.parent == PACKAGE, "modules stand in one folder"
    assert path.stem in LEVELS, f"{path.name} has no layer in tests/test_layers.py"


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.name)
def test_imports_point_down(path: Path) -> None:
    above = upward(path.stem, imports_of(path))
    layer = NAMES[LEVELS[path.stem]]
    assert not above, f"{path.name} ({layer}) imports from above: {sorted(above)}"


def test_imports_make_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in sources():
        graph.setdefault(path.stem, set()).update(imports_of(path))
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")
    assert order[-1] in {"__init__", "__main__", "cli"}


def test_every_module_is_in_one_layer() -> None:
    assert len(LEVELS) == sum(len(modules.split()) for modules in LAYERS.values())


def test_package_is_really_read() -> None:
    assert {"deflate", "errors", "speedups"} <= imports_of(PACKAGE / "protocol.py")
    assert "constants" in imports_of(PACKAGE / "_speedups.pyx")


@pytest.mark.parametrize(
    ("text", "imported"),
    [
        ("from .errors import X", {"errors"}),
        ("from . import server", {"server"}),
        ("from . import BACKEND", {"__init__"}),
        ("from simple_ws.server import Server", {"server"}),
        ("from simple_ws import server, Client", {"server", "__init__"}),
        ("import simple_ws.server as s", {"server"}),
        ("import simple_ws", {"__init__"}),
        ("import os, re", set()),
        ("if TYPE_CHECKING:\n    from .server import Server", {"server"}),
        ("def f():\n    from .server import Server", {"server"}),
    ],
)
def test_every_form_of_import_is_seen(text: str, imported: set[str]) -> None:
    assert imports_of_python(text) == imported


@pytest.mark.parametrize(
    ("text", "imported"),
    [
        ("from .errors import (\n    X,\n)", {"errors"}),
        ("from .server cimport thing", {"server"}),
        ("from . cimport server", {"server"}),
        ("    from .server import Server", {"server"}),
        ('include "_connection.pxi"', {"_connection"}),
        ("from libc.string cimport memcpy\nimport os", set()),
    ],
)
def test_every_form_of_import_in_cython_is_seen(text: str, imported: set[str]) -> None:
    assert imports_of_cython(text) == imported


def test_upward_import_would_be_found() -> None:
    assert upward("protocol", {"errors", "speedups", "server"}) == {"server"}
    assert upward("errors", {"errors", "no_such_module"}) == {"no_such_module"}
