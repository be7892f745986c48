"""The package twice in one process: with the extension, and in pure Python.

A process has one backend, and one module for each name; so the modules of each copy are
imported, kept, and removed from `sys.modules` again. Later imports by a function of a
copy would find the wrong one: everything is imported at once.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

__all__ = ["Copy", "load"]

#: Helpers of the tests that import the package.
_HELPERS = ("harness", "rfc_cases")
#: Not fuzzed, or only there with other packages.
_LEFT_OUT = ("simple_ws.cli", "simple_ws.__main__", "simple_ws.pytest_plugin")


class Copy:
    """One copy of the package, and of the helpers of its tests.

    Attributes:
        backend: "extension" or "fallback".
    """

    def __init__(self, modules: dict[str, Any]) -> None:
        self._modules = modules
        self.backend: str = modules["simple_ws"].BACKEND

    def __getitem__(self, name: str) -> Any:
        """A module by its name in the package, such as "protocol.uri", or a helper."""
        return self._modules.get(f"simple_ws.{name}") or self._modules[name]

    def __repr__(self) -> str:
        return f"<Copy {self.backend}>"


def load(instrument: Callable[[], Any]) -> tuple[Copy, Copy]:
    """Import both copies; `instrument` gives a context in which imports are watched.

    Only of the one in pure Python, which has all the branches: it takes some seconds.
    """
    # The extension can be initialised once, so the other copy comes first.
    slow, fast = _import("0", instrument), _import("1", nullcontext)
    assert (slow.backend, fast.backend) == ("fallback", "extension")
    return fast, slow


def _import(extension: str, instrument: Callable[[], Any]) -> Copy:
    os.environ["SIMPLE_WS_EXTENSION"] = extension
    with instrument():
        package = importlib.import_module("simple_ws")
        for found in pkgutil.walk_packages(package.__path__, "simple_ws."):
            if not found.name.startswith(_LEFT_OUT) and _belongs(found.name, extension):
                importlib.import_module(found.name)
        for name in _HELPERS:
            importlib.import_module(name)
    names = [name for name in sys.modules if _is_ours(name)]
    return Copy({name: sys.modules.pop(name) for name in names})


def _belongs(name: str, extension: str) -> bool:
    return name != "simple_ws._speedups" or extension == "1"


def _is_ours(name: str) -> bool:
    return name in _HELPERS or name.partition(".")[0] == "simple_ws"
