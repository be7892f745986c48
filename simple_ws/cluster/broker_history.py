"""The histories that the broker keeps: the same promises as `redis_scripts`, in memory.

They end with the broker. What commands look like is left to `broker_connection`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import NamedTuple

from .history import Entry, History
from .position import Position

__all__ = ["Appended", "Appending", "Histories", "Read"]

#: Topics that have had messages, topics that have had none (who reads these takes no
#: history from others), and publishers of a topic whose last number is known; above it,
#: those are forgotten that were silent for longest.
_MAX_TOPICS, _MAX_EMPTY, _MAX_PUBLISHERS = 100_000, 10_000, 1_000
#: Seconds for which the positions of a topic without messages stay valid.
_DAY = 86400.0
#: Bytes of messages of one page: the next one may exceed it.
_PAGE = 2**20


class Appending(NamedTuple):
    """A message that is to be appended; see `Engine.append`."""

    channel: bytes
    publisher: bytes
    seq: int
    tag: int
    size: int
    #: Seconds; None: no limit.
    keep: float | None
    #: Of the history, if it begins with this message.
    epoch: str
    envelope: bytes
    key: bytes | None


class Appended(NamedTuple):
    """Where a message is, and whether it was there already."""

    position: Position
    again: bool


class Read(NamedTuple):
    """See `engine.Page`."""

    epoch: str
    top: int
    reset: bool
    entries: list[Entry]


class _Topic:
    """The history of one topic, and what it needs to append nothing twice."""

    __slots__ = ("history", "keep", "keys", "publishers", "size", "used")

    def __init__(self, epoch: str, now: float) -> None:
        self.size, self.keep = 1, None
        self.history = History(1, None, epoch)
        #: The last number of each publisher, and where it is; the longest silent first.
        self.publishers: OrderedDict[bytes, tuple[int, int]] = OrderedDict()
        #: Where the messages with keys are, in order.
        self.keys: dict[bytes, int] = {}
        self.used = now

    size: int
    keep: float | None

    def set_retention(self, size: int, keep: float | None) -> None:
        """From now on, so much is kept."""
        if (size, keep) == (self.size, self.keep):
            return
        self.size, self.keep = size, keep
        old = self.history
        entries = list(old.after(max(old.first - 1, old.top - size)))
        top = old.top - len(entries)
        tag = old.position.tag if not entries else None
        self.history = History(size, keep, old.epoch, top, tag)
        for entry in entries:
            self.history.append(entry.tag, entry.body, entry.time)

    def position(self, offset: int) -> Position:
        """The position of a message, with its tag if it can be read."""
        if offset == self.history.top:
            return self.history.position
        tags = [entry.tag for entry in self.history.after(offset - 1, 1)]
        can_be_read = offset >= self.history.first
        return Position(self.history.epoch, offset, tags[0] if can_be_read else None)

    def note_publisher(self, publisher: bytes, seq: int, offset: int) -> None:
        """The last number of a publisher."""
        self.publishers[publisher] = seq, offset
        self.publishers.move_to_end(publisher)
        if len(self.publishers) > _MAX_PUBLISHERS:
            self.publishers.popitem(last=False)

    def note_key(self, key: bytes, offset: int) -> None:
        """Where the message with a key is; those that nobody can read are forgotten."""
        keys = self.keys
        keys.pop(key, None)
        keys[key] = offset
        while keys[oldest := next(iter(keys))] < self.history.first:
            del keys[oldest]

    def is_over(self, now: float) -> bool:
        """Whether nothing is lost with it."""
        return not len(self.history) and now - self.used > (self.keep or 0.0) + _DAY


class Histories:
    """Those of all topics, by channel."""

    def __init__(self) -> None:
        # The longest silent first; and those without a message yet.
        self._topics: OrderedDict[bytes, _Topic] = OrderedDict()
        self._empty: OrderedDict[bytes, _Topic] = OrderedDict()
        self._to_sweep: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._topics) + len(self._empty)

    def append(self, message: Appending, now: float) -> Appended:
        """Append a message, unless it is there; see `Engine.append`."""
        topic = self._topic(message.channel, message.epoch, now)
        publisher, seq, key = message.publisher, message.seq, message.key
        last = topic.publishers.get(publisher)
        if last is not None and seq <= last[0]:
            return Appended(topic.position(last[1]), True)
        topic.set_retention(message.size, message.keep)
        history = topic.history
        history.expire(now)
        offset = topic.keys.get(key, 0) if key is not None else 0
        again = offset >= history.first
        if not again:
            self._note_message(message.channel)
            offset = history.append(message.tag, message.envelope, now)
            if key is not None:
                topic.note_key(key, offset)
        topic.note_publisher(publisher, seq, offset)
        return Appended(topic.position(offset), again)

    def read(
        self,
        channel: bytes,
        known: Position | None,
        after: int,
        limit: int,
        epoch: str,
        now: float,
    ) -> Read:
        """Read one page; see `Engine.read`.

        Args:
            channel: of the topic.
            known: the position of the one who reads.
            after: an offset.
            limit: messages.
            epoch: of the history, if a new one is needed.
            now: the time of the entries is that since then.
        """
        history = self._topic(channel, epoch, now).history
        history.expire(now)
        reset = known is not None and not history.knows(known)
        if known is not None and reset:
            after = 0
            if known.epoch == history.epoch:
                history.epoch = epoch  # it has lost its end: all are to notice
        entries: list[Entry] = []
        size = 0
        for entry in history.after(max(after, 0), limit):
            entries.append(entry._replace(time=max(now - entry.time, 0.0)))
            size += len(entry.body)
            if size >= _PAGE:
                break
        return Read(history.epoch, history.top, reset, entries)

    def remove(self, channel: bytes) -> int:
        """Drop the messages of a topic; return the offset of the newest one."""
        topic = self._topics.get(channel)
        if topic is None:
            return 0
        topic.history.remove(topic.history.top)
        topic.keys.clear()
        return topic.history.top

    def sweep(self, now: float, count: int) -> None:
        """Drop what has expired, in so many of the topics; the others are next."""
        if not self._to_sweep:
            self._to_sweep.extend([*self._topics, *self._empty])
        for _ in range(min(count, len(self._to_sweep))):
            channel = self._to_sweep.popleft()
            topics = self._topics if channel in self._topics else self._empty
            topic = topics.get(channel)
            if topic is None:
                continue
            topic.history.expire(now)
            if topic.is_over(now):
                del topics[channel]

    def _topic(self, channel: bytes, epoch: str, now: float) -> _Topic:
        topics = self._topics if channel in self._topics else self._empty
        topic = topics.get(channel)
        if topic is None:
            topic = topics[channel] = _Topic(epoch, now)
            if len(topics) > _MAX_EMPTY:
                topics.popitem(last=False)
        else:
            topics.move_to_end(channel)
            topic.used = now
        return topic

    def _note_message(self, channel: bytes) -> None:
        """A topic gets a message, perhaps its first one."""
        topic = self._empty.pop(channel, None)
        if topic is not None:
            self._topics[channel] = topic
            if len(self._topics) > _MAX_TOPICS:
                self._topics.popitem(last=False)
