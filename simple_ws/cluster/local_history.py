"""The histories of a process without an engine."""

from __future__ import annotations

from collections.abc import Callable

from .content import Content
from .history import History
from .position import Position
from .topic_rules import TopicRule

__all__ = ["LocalTopic", "LocalTopics"]

#: Seconds for which the positions of an empty topic are remembered.
_IDLE = 3600.0
#: Topics that are remembered although they have neither a message nor a subscriber.
_MAX_UNUSED = 1_000


class LocalTopic:
    """A topic with history of this process.

    Args:
        rule: of the topic.

    Attributes:
        history: all that is kept.
        in_step, may_lag: see `replica.Replica`.
    """

    __slots__ = ("_keys", "history")

    in_step = True
    may_lag = False

    def __init__(self, rule: TopicRule) -> None:
        self.history = History(rule.history, rule.keep)
        #: The offsets of messages with a key of the user, the oldest first.
        self._keys: dict[str, int] = {}

    def when_in_step(self, callback: Callable[[], object]) -> None:
        """Call a function now."""
        callback()

    def when_at(self, offset: int, callback: Callable[[], object]) -> None:
        """Do nothing: what has not come is nowhere."""

    def forget_waiting(self, callback: Callable[[], object]) -> None:
        """Nothing waits."""

    def append(self, content: Content, key: str | None, now: float) -> None:
        """Add a message, of which `place_of` has said that it is not there."""
        history = self.history
        if key is not None:
            self._keys[key] = history.top + 1
        # What tells messages of one epoch apart is their offset.
        history.append(_tag(history.top + 1), content, now)

    def remove(self) -> int:
        """Drop the messages; return the offset of the newest one."""
        self.history.remove(self.history.top)
        self._keys.clear()
        return self.history.top

    def place_of(self, key: str | None, now: float) -> Position | None:
        """Where the message with a key is; None: there is none that can be read."""
        if key is None:
            return None
        history, keys = self.history, self._keys
        history.expire(now)
        while keys and keys[oldest := next(iter(keys))] < history.first:
            del keys[oldest]
        offset = keys.get(key)
        return None if offset is None else Position(history.epoch, offset, _tag(offset))


def _tag(offset: int) -> int:
    return offset * 40503 & 0xFFFF


class LocalTopics:
    """All of them, by name."""

    def __init__(self) -> None:
        self._topics: dict[str, LocalTopic] = {}
        self._used: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._topics)

    def get(self, topic: str, rule: TopicRule, now: float) -> LocalTopic:
        """The topic of this name, which has this rule."""
        self._used[topic] = now
        found = self._topics.get(topic)
        if found is None:
            found = self._topics[topic] = LocalTopic(rule)
        return found

    def sweep(self, now: float, in_use: Callable[[str], object]) -> None:
        """Free the memory of messages that are too old, and of topics that are empty
        and were not used for an hour: their positions mean nothing any more. Of those
        that never had a message, a stranger may have made very many: only the last ones
        are remembered so long."""
        unused: list[str] = []
        for topic, found in list(self._topics.items()):
            history = found.history
            history.expire(now)
            if len(history) or in_use(topic):
                continue
            if now - self._used[topic] > _IDLE:
                self._forget(topic)
            elif not history.top:
                unused.append(topic)
        if len(unused) > _MAX_UNUSED:
            unused.sort(key=self._used.__getitem__)
            for topic in unused[:-_MAX_UNUSED]:
                self._forget(topic)

    def _forget(self, topic: str) -> None:
        del self._topics[topic], self._used[topic]
