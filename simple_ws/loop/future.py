"""`LoopFuture`: what the loop will have, for callbacks, threads and `await`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

from ..errors import InvalidState

__all__ = ["LoopFuture"]

T = TypeVar("T")


class LoopFuture(Future[T]):
    """A `concurrent.futures.Future` that comes through the loop.

    `result()` in another thread, `add_done_callback` (called in the loop's thread) and
    `await` all give the result. It cannot be cancelled.

    Args:
        in_loop: whether the caller is the thread of the loop.
    """

    def __init__(self, in_loop: Callable[[], bool]) -> None:
        super().__init__()
        self._in_loop = in_loop
        self.set_running_or_notify_cancel()

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result, in a thread that is not the loop's.

        Raises:
            InvalidState: It has not come, and this is the loop's thread, which would
                wait for itself.
            TimeoutError: It has not come within `timeout` seconds.
        """
        self._check_thread()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait likewise, and return the error instead of raising it."""
        self._check_thread()
        return super().exception(timeout)

    def __await__(self) -> Generator[Any, None, T]:
        """Wait in an asyncio loop."""
        import asyncio  # only where it is used

        return asyncio.wrap_future(self).__await__()

    def _check_thread(self) -> None:
        if not self.done() and self._in_loop():
            raise InvalidState(
                "the loop's thread cannot wait for what comes through the loop: use "
                "add_done_callback, await, or a function that is in_thread"
            )
