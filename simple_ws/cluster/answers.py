"""What several nodes have answered, and the future of it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, NamedTuple

from ..errors import InvalidState

__all__ = ["Answers", "AnswersFuture"]


class Answers(NamedTuple):
    """The answers of the nodes, as far as they came in time.

    Attributes:
        value: what they amount to: of `count` and `disconnect` the sum, of `online`
            whether any node said so, of `ask` the list of answers.
        answers: by the name of the node.
        errors: by the name of the node, where answering failed: what was wrong.
        missing: the names of nodes that did not answer in time, or have gone meanwhile.
    """

    value: Any
    answers: dict[str, Any]
    errors: dict[str, str]
    missing: list[str]


class AnswersFuture(Future[Answers]):
    """The future of an `Answers`.

    It never fails: `result()` of another thread, `add_done_callback` (called in the
    loop's thread) and `await` all give the `Answers`, no later than the timeout. It
    cannot be cancelled.

    Args:
        in_loop: whether the caller is the thread of the loop.
    """

    def __init__(self, in_loop: Callable[[], bool]) -> None:
        super().__init__()
        self._in_loop = in_loop
        self.set_running_or_notify_cancel()

    def result(self, timeout: float | None = None) -> Answers:
        """Wait for the answers, in a thread that is not the loop's.

        Raises:
            InvalidState: They have not come, and this is the loop's thread, which would
                wait for itself.
            TimeoutError: They have not come within `timeout` seconds.
        """
        self._check_thread()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait likewise, and return None."""
        self._check_thread()
        return super().exception(timeout)

    def __await__(self) -> Generator[Any, None, Answers]:
        """Wait in an asyncio loop."""
        import asyncio  # only where it is used

        return asyncio.wrap_future(self).__await__()

    def _check_thread(self) -> None:
        if not self.done() and self._in_loop():
            raise InvalidState(
                "the loop's thread cannot wait for answers that come through the loop: "
                "use add_done_callback, await, or a function that is in_thread"
            )
