"""The two backends are equal, and the right one is chosen."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from simple_ws import _fallback, speedups

#: `Poller` is None in Python: the platform's selector serves there.
NAMES = [name for name in _fallback.__all__ if name not in ("BACKEND", "Poller")]
FUNCTIONS = ["apply_mask", "build_frame", "parse_header"]
CLASSES = [name for name in NAMES if name not in FUNCTIONS]
METHODS = [
    (name, method)
    for name in CLASSES
    for method in vars(getattr(_fallback, name))
    if not method.startswith("_")
    and callable(getattr(getattr(_fallback, name), method))
]


def parameters(thing: object) -> list[inspect.Parameter]:
    """Names, kinds and defaults; a class in C cannot keep its annotations."""
    found = inspect.signature(thing).parameters.values()  # type: ignore[arg-type]
    return [each.replace(annotation=inspect.Parameter.empty) for each in found]


def test_backends_have_the_same_names(extension: ModuleType) -> None:
    assert sorted(extension.__all__) == sorted(_fallback.__all__)
    assert sorted(speedups.__all__) == sorted(_fallback.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_the_same_signature(extension: ModuleType, name: str) -> None:
    twin = inspect.signature(getattr(extension, name))
    assert twin == inspect.signature(getattr(_fallback, name))


@pytest.mark.parametrize("name", CLASSES)
def test_classes_take_the_same_arguments(extension: ModuleType, name: str) -> None:
    assert parameters(getattr(extension, name)) == parameters(getattr(_fallback, name))


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_methods_have_the_same_signature(
    extension: ModuleType, name: str, method: str
) -> None:
    twin = inspect.signature(getattr(getattr(extension, name), method))
    own = inspect.signature(getattr(getattr(_fallback, name), method))
    assert twin.return_annotation == own.return_annotation
    assert [str(each) for each in twin.parameters.values()] == [
        str(each) for each in own.parameters.values()
    ]


@pytest.mark.parametrize("path", [*NAMES, *map(".".join, METHODS)])
def test_docstrings_are_the_same(extension: ModuleType, path: str) -> None:
    own: object = _fallback
    twin: object = extension
    for name in path.split("."):
        own, twin = getattr(own, name), getattr(twin, name)
    assert inspect.getdoc(twin) == inspect.getdoc(own)
    assert inspect.getdoc(own)


def test_public_methods_are_the_same(extension: ModuleType) -> None:
    for name in CLASSES:
        owner = getattr(extension, name)
        twin = {
            each
            for each, value in vars(owner).items()
            if each[0] != "_" and callable(value)
        }
        assert twin == {method for owner_name, method in METHODS if owner_name == name}


def test_backend_says_which_one_it_is(codecs: ModuleType, backend: str) -> None:
    assert codecs.BACKEND == backend


@pytest.mark.skipif(
    os.environ.get("EXPECT_EXTENSION") != "1", reason="EXPECT_EXTENSION is not 1"
)
def test_extension_was_really_loaded() -> None:
    import simple_ws
    from simple_ws import _speedups

    assert simple_ws.BACKEND == "extension"
    assert speedups.apply_mask is _speedups.apply_mask
    assert not _speedups.__file__.endswith(".py")


def ask(wanted: str | None) -> subprocess.CompletedProcess[str]:
    """Import the package anew with SIMPLE_WS_EXTENSION as given."""
    environment = {k: v for k, v in os.environ.items() if k != "SIMPLE_WS_EXTENSION"}
    if wanted is not None:
        environment["SIMPLE_WS_EXTENSION"] = wanted
    # This process may have the package from the tree without having it installed.
    folder = os.path.dirname(os.path.dirname(os.path.abspath(speedups.__file__)))
    environment["PYTHONPATH"] = folder
    code = "import simple_ws; print(simple_ws.BACKEND)"
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.usefixtures("extension")
@pytest.mark.parametrize("wanted", [None, "", "1"])
def test_extension_serves_when_it_is_there(wanted: str | None) -> None:
    assert ask(wanted).stdout.strip() == "extension"


def test_fallback_serves_when_it_is_asked_for() -> None:
    assert ask("0").stdout.strip() == "fallback"


def test_wrong_value_is_named() -> None:
    answer = ask("maybe")
    assert answer.returncode != 0
    assert "SIMPLE_WS_EXTENSION must be 1, 0 or unset, not 'maybe'" in answer.stderr


def import_without_extension(wanted: str) -> subprocess.CompletedProcess[str]:
    """The same on an installation where the extension was not built."""
    code = (
        "import sys, importlib.abc\n"
        "class Missing(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'simple_ws._speedups':\n"
        "            raise ModuleNotFoundError('not built', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "import simple_ws; print(simple_ws.BACKEND)"
    )
    folder = os.path.dirname(os.path.dirname(os.path.abspath(speedups.__file__)))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SIMPLE_WS_EXTENSION": wanted, "PYTHONPATH": folder},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_extension_that_is_older_than_its_sources_is_told(tmp_path: Path) -> None:
    extension = tmp_path / "_speedups.so"
    parts = tmp_path / "_c"
    parts.mkdir()
    for path in (extension, parts / "loop.pxi"):
        path.touch()
        os.utime(path, (100, 100))
    assert not speedups._is_stale(str(tmp_path), str(extension))  # no checkout
    (tmp_path / "_speedups.pyx").touch()
    os.utime(tmp_path / "_speedups.pyx", (100, 100))
    assert not speedups._is_stale(str(tmp_path), str(extension))
    os.utime(parts / "loop.pxi", (101, 101))
    assert speedups._is_stale(str(tmp_path), str(extension))


def test_fallback_serves_when_the_extension_is_not_built() -> None:
    assert import_without_extension("").stdout.strip() == "fallback"


def test_missing_extension_is_an_error_when_it_must_be_there() -> None:
    answer = import_without_extension("1")
    assert answer.returncode != 0
    assert "ImportError: SIMPLE_WS_EXTENSION is 1, but: not built" in answer.stderr
