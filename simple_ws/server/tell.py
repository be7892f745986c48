"""Calling functions of users that are told something: a failure is only logged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..loop.deferred import is_deferred, name_of

__all__ = ["Telling", "tell"]


class Telling(Protocol):
    """What this needs of a server."""

    @property
    def _log(self) -> Any:
        """The log of this run."""

    def _run_deferred(
        self, deferred: Any, done: Callable[[Any, BaseException | None], object]
    ) -> None:
        """Run the deferred result of a callback."""


def tell(
    user: Telling, what: str, owner: str, callback: Callable[..., Any], *args: Any
) -> None:
    """Call a function of the user's; a failure is only logged.

    Args:
        user: the server.
        what: what it is told of, for the log.
        owner: stands before its name in the log.
        callback: may return a deferred result.
        args: what it is called with.
    """

    def done(_: object, error: BaseException | None) -> None:
        if error is not None:
            user._log.note_failure(
                f"callbacks about the {what} failed",
                "%s%s failed",
                owner,
                name_of(callback),
                error=error,
            )

    try:
        result = user._log.call(None, owner, callback, *args)
    except Exception as error:
        done(None, error)
        return
    if is_deferred(result):
        user._run_deferred(result, done)
