"""What MODULE:NAME stands for, and the server that is made of it."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import Server
from ..handlers.handler import BaseHandler
from .values import Failure, UsageError

__all__ = ["FaultOfUser", "find", "made", "mounted"]

_WANTED = "a handler, a Server, a function of (msg, client), or one that makes these"


class FaultOfUser(Exception):
    """Code of the user raised; the cause is shown with its traceback."""


def find(what: str) -> Any:
    """The object named by MODULE:NAME, from the current folder first.

    Raises:
        UsageError: There is none.
        FaultOfUser: Importing the module raised.
    """
    module_name, _, name = what.partition(":")
    parts = [*module_name.split("."), *name.split(".")]
    if not all(part.isidentifier() for part in parts):
        raise UsageError(f"expected MODULE:NAME such as chat:Room, not {what!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        missing = getattr(error, "name", None)
        if isinstance(error, ModuleNotFoundError) and _is_within(missing, module_name):
            raise UsageError(f"there is no module {module_name!r} here") from None
        raise FaultOfUser from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise UsageError(f"{module_name!r} has no {name!r}") from None
    return found


def _is_within(missing: str | None, module_name: str) -> bool:
    """Whether the module itself is missing, or a package that contains it."""
    return f"{module_name}.".startswith(f"{missing}.")


def made(found: Any, what: str) -> Any:
    """What is to be served: a `Server`, a handler, or a function of (msg, client).

    Args:
        found: one of these, a class of them, or a function without arguments that
            returns any of these.
        what: its name, for errors.

    Raises:
        FaultOfUser: Code of the user raised.
        Failure: It is none of these, or cannot be created without arguments.
    """
    if isinstance(found, type) and issubclass(found, BaseHandler | Server):
        return _create(found, what)
    if _is_factory(found):
        name = f"{what}()"
        found = _create(found, what)
        if inspect.iscoroutine(found):
            found.close()
            raise Failure(
                f"{name} is async; a function that makes a server must not be"
            )
        if isinstance(found, type):
            return made(found, name)
        if not (isinstance(found, BaseHandler | Server) or callable(found)):
            raise Failure(f"{name} must return {_WANTED}, not {found!r}")
    elif not (isinstance(found, BaseHandler | Server) or callable(found)):
        raise UsageError(f"{what} must be {_WANTED}, not {found!r}")
    return found


def _is_factory(found: Any) -> bool:
    """Whether it is called without arguments, and cannot be with (msg, client)."""
    if isinstance(found, BaseHandler | Server) or not callable(found):
        return False
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # of some functions written in C
        return False
    return _takes(signature) and not _takes(signature, None, None)


def _takes(signature: inspect.Signature, *arguments: Any) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _create(make: Callable[[], Any], what: str) -> Any:
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise Failure(f"{what}() cannot be created: {error}") from None
    try:
        return make()
    except Exception as error:
        raise FaultOfUser from error


def mounted(served: Any, path: str, address: dict[str, Any]) -> Server:
    """A new server for a handler or a function of (msg, client).

    Raises:
        Failure: A callback takes other arguments.
    """
    server = Server(**address)
    try:
        if isinstance(served, BaseHandler):
            server.mount(path, served)
        else:
            server.route(path)(served)
    except TypeError as error:  # a callback with another signature
        raise Failure(error) from None
    return server
