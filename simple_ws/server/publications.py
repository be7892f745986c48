"""What `Server.history` gives: the messages of a topic, now or later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

from ..errors import InvalidState
from ..loop.future import LoopFuture

__all__ = ["HistoryFuture", "Publication"]


class Publication(NamedTuple):
    """A message of a topic with history.

    Attributes:
        position: where it stands, for `since`.
        msg: as it was published; dicts and lists as they come back from JSON.
    """

    position: str
    msg: Any


class HistoryFuture(LoopFuture[list[Publication]], Sequence[Publication]):
    """The messages of a topic, the oldest first: a sequence once it is done.

    In the loop's thread it is done at once without an engine, and where somebody of
    this process is subscribed to the topic. Otherwise `result()` in a thread,
    `add_done_callback` and `await` wait for it. It fails with `TimeoutError` when the
    engine gives no history in time, and with `InvalidState` when the server stops, or
    does not run and has an engine or workers.
    """

    def __len__(self) -> int:
        return len(self._messages())

    @overload
    def __getitem__(self, index: int) -> Publication: ...
    @overload
    def __getitem__(self, index: slice) -> list[Publication]: ...
    def __getitem__(self, index: int | slice) -> Publication | list[Publication]:
        return self._messages()[index]

    def __iter__(self) -> Iterator[Publication]:
        return iter(self._messages())

    def _messages(self) -> list[Publication]:
        if not self.done():
            raise InvalidState(
                "the history has not come yet: use result() in a thread, "
                "add_done_callback or await"
            )
        return self.result()
