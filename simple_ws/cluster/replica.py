"""What a node has of a topic with history: a copy that follows the engine's.

    start: READ from the beginning ─► pages ─► in step: messages are appended and
        delivered as they come; subscribers begin where they want to, without the engine
    a message is missing, or the connection was lost: READ from where we are ─► in step
    the epoch is another, or our last message is not there: a gap of unknown size, then
        all that the new history has

While a read is under way what is published is dropped: it is in the page, or in the
next one. So it is delivered once, in order, and nothing has to be merged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple, Protocol

from .content import Content
from .engine import Page
from .history import History, Retention
from .position import Position

__all__ = ["Opened", "Replica", "ReplicaHost"]

#: Clients that wait for an offset that has not come.
_MAX_AHEAD = 1_000
#: Publishers remembered for each topic.
_MAX_PUBLISHERS = 1_000


class Opened(NamedTuple):
    """A message out of its envelope."""

    content: Content
    publisher: bytes
    #: Grows with each message of the publisher to this topic.
    seq: int
    #: Connections of this node that do not get it.
    exclude: Collection[Any]


class ReplicaHost(Protocol):
    """What a replica needs of its node."""

    def read_soon(self, replica: Replica) -> None:
        """Read the topic from `replica.top`, and call `on_page`."""

    def open_entry(self, channel: str, envelope: bytes) -> Opened | None:
        """The message in an envelope; None if it is none of ours."""

    def deliver_entry(self, channel: str, message: Opened) -> None:
        """Send a message to those who are in step."""

    def note_gap(self, channel: str, missing: int | None) -> None:
        """Those who are in step have missed messages."""

    def note_repeat(self) -> None:
        """A message came again, and is dropped."""


class Replica:
    """The copy of one topic.

    Args:
        channel: of the topic.
        retention: of the topic.
        host: the node.

    Attributes:
        channel: of the topic.
        may_lag: other nodes may have more.
        in_step: it has all that was published, as far as that has come here.
        history: the copy; None until the first page.
    """

    __slots__ = (
        "_ahead",
        "_host",
        "_last",
        "_retention",
        "_waiting",
        "channel",
        "history",
        "in_step",
    )

    may_lag = True

    def __init__(self, channel: str, retention: Retention, host: ReplicaHost) -> None:
        self.channel = channel
        self.in_step = False
        self.history: History | None = None
        self._retention = retention
        self._host = host
        self._waiting: dict[Callable[[], object], None] = {}
        #: Who waits for an offset that has not come.
        self._ahead: dict[Callable[[], object], int] = {}
        # The last number of each publisher, the most recent one last.
        self._last: dict[bytes, int] = {}

    @property
    def known(self) -> Position | None:
        """The newest message that was delivered here; None: none yet."""
        return None if self.history is None else self.history.position

    def when_in_step(self, callback: Callable[[], object]) -> None:
        """Call a function once, when the copy is in step, or now if it is."""
        if self.in_step:
            callback()
        else:
            self._waiting[callback] = None

    def when_at(self, offset: int, callback: Callable[[], object]) -> None:
        """Call a function once, when the message of an offset has come. Nobody knows
        whether it will, and of very many not all are called."""
        if len(self._ahead) < _MAX_AHEAD:
            self._ahead[callback] = offset

    def forget_waiting(self, callback: Callable[[], object]) -> None:
        """Do not call it any more; nothing happens if it does not wait."""
        self._waiting.pop(callback, None)
        self._ahead.pop(callback, None)

    def _wake(self, top: int) -> None:
        ready = [callback for callback, at in self._ahead.items() if at <= top]
        for callback in ready:
            self._ahead.pop(callback, None)  # an earlier one may have let it go
            callback()

    # What the engine says

    def on_push(self, position: Position, envelope: bytes, now: float) -> None:
        """A message was published."""
        history = self.history
        if not self.in_step or history is None:
            return  # it will be in a page
        if position.epoch == history.epoch:
            if position.offset == history.top + 1:
                self._append(history, position.tag or 0, envelope, now)
                return
            if position.offset <= history.top:
                self._host.note_repeat()
                return
        self.catch_up()

    def fall_behind(self) -> None:
        """The connection is lost: what comes next may not be the next message."""
        self.in_step = False

    def catch_up(self) -> None:
        """Read what may be missing."""
        self.in_step = False
        self._host.read_soon(self)

    def on_page(self, page: Page, now: float) -> None:
        """What was read."""
        history = self.history
        first = page.entries[0].offset if page.entries else page.top + 1
        if history is None or page.reset or page.epoch != history.epoch:
            if history is not None:
                self._host.note_gap(self.channel, None)
            history = self._begin(page.epoch, first - 1)
        elif first > history.top + 1:
            self._host.note_gap(self.channel, first - 1 - history.top)
            history = self._begin(page.epoch, first - 1)
        for entry in page.entries:
            if entry.offset == history.top + 1:
                self._append(history, entry.tag, entry.body, now - entry.time)
        if history.top >= page.top:
            self._be_in_step()
        else:
            self._host.read_soon(self)

    def _begin(self, epoch: str, top: int) -> History:
        size, keep = self._retention
        tag = 0 if top == 0 else None
        self.history = History(size, keep, epoch, top, tag)
        return self.history

    def _append(
        self, history: History, tag: int, envelope: bytes, published: float
    ) -> None:
        message = self._host.open_entry(self.channel, envelope)
        history.append(tag, None if message is None else message.content, published)
        if self._ahead:
            self._wake(history.top)
        if message is None:
            return
        if self._note_number(message):
            self._host.deliver_entry(self.channel, message)
        else:
            self._host.note_repeat()

    def _note_number(self, message: Opened) -> bool:
        """Whether a message was not delivered before.

        An engine that has lost its data gets again what it has not confirmed, though
        some of it has come back before.
        """
        last = self._last.pop(message.publisher, 0)
        self._last[message.publisher] = max(last, message.seq)
        if len(self._last) > _MAX_PUBLISHERS:
            del self._last[next(iter(self._last))]
        return message.seq > last

    def _be_in_step(self) -> None:
        self.in_step = True
        waiting, self._waiting = self._waiting, {}
        for callback in waiting:
            callback()
