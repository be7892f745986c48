"""Tracebacks that begin in the test, without the frames of the kit and the library."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

__all__ = ["begins_in_the_test", "without_library"]

T = TypeVar("T")


def without_library(traceback: TracebackType | None) -> TracebackType | None:
    """A traceback from its first frame that is not of this package on."""
    while traceback is not None and _is_ours(traceback):
        traceback = traceback.tb_next
    return traceback


def _is_ours(traceback: TracebackType) -> bool:
    # By module: the files of the extension are not where its frames say.
    name = traceback.tb_frame.f_globals.get("__name__", "")
    return str(name).partition(".")[0] == "simple_ws"


def begins_in_the_test(cls: type[T]) -> type[T]:
    """Decorator: what public methods raise has no frames of the kit before the test's.

    pytest shows the line of the test then, and the frames of callbacks below it.
    """
    for name in dir(cls):
        if name.startswith("_") and name not in ("__init__", "__exit__"):
            continue
        member = inspect.getattr_static(cls, name)
        if inspect.iscoroutinefunction(member):
            setattr(cls, name, _hiding_async(member))
        elif inspect.isfunction(member):
            setattr(cls, name, _hiding(member))
        elif isinstance(member, property) and member.fget is not None:
            setattr(cls, name, member.getter(_hiding(member.fget)))
    return cls


def _hiding(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            return method(*args, **kwargs)
        except BaseException as error:
            error.__traceback__ = without_library(error.__traceback__)
            raise

    return call


def _hiding_async(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            return await method(*args, **kwargs)
        except BaseException as error:
            error.__traceback__ = without_library(error.__traceback__)
            raise

    return call
