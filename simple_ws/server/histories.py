"""Topics with history: what is published to them is kept, and who joins begins there.

Without an engine the histories are here, otherwise in the engine, and a copy is here
for each topic that somebody here is subscribed to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Protocol

from ..cluster.envelope import Content, JsonText, decode_body, encode_body
from ..cluster.local_history import LocalTopics
from ..cluster.position import Position
from ..cluster.since import Since, start
from ..cluster.topic_rules import TopicRule
from ..connection.client import Client
from ..connection.topics import Topics
from ..constants import Delivered
from ..errors import InvalidState
from ..loop.reactor import Reactor
from .conflation import Subject
from .joins import FIRST_PAUSE, LONGEST_PAUSE, Joins, JoinsHost, Source, lags
from .publications import HistoryFuture, Publication

if TYPE_CHECKING:
    from .sharded_engine import AnyEngine

__all__ = ["Histories", "HistoriesHost"]

#: Seconds between two looks for messages that are too old.
_BETWEEN_SWEEPS = 30.0


class HistoriesHost(JoinsHost, Protocol):
    """What it needs of its server."""

    _engine: AnyEngine | None
    _topics: Topics[Client]

    def _send_kept(
        self,
        topic: str,
        content: Content,
        exclude: Collection[Client],
        subject: Subject | None,
    ) -> int:
        """Send a message to the subscribers of a topic."""


class Histories:
    """The topics with history of a server.

    Args:
        host: the server.
        clock: seconds that never run backwards.

    Attributes:
        clock: as given.
        joins: clients on their way into a topic.
    """

    def __init__(self, host: HistoriesHost, clock: Callable[[], float]) -> None:
        self.joins = Joins(host)
        self._host = host
        self.clock = clock
        self._local = LocalTopics()
        self._unread: set[HistoryFuture] = set()

    def begin(self, reactor: Reactor) -> None:
        """A run begins: free memory from time to time."""

        def sweep() -> None:
            self._sweep()
            reactor.call_later(_BETWEEN_SWEEPS, sweep)

        reactor.call_later(_BETWEEN_SWEEPS, sweep)

    def _sweep(self) -> None:
        engine, topics, joins = self._host._engine, self._host._topics, self.joins
        if engine is not None:
            engine.expire()
        else:
            self._local.sweep(
                self.clock(),
                lambda topic: topics.members(topic) or joins.count(topic),
            )

    def publish(
        self,
        topic: str,
        rule: TopicRule,
        msg: Any,
        exclude: Collection[Client],
        key: str | None,
        subject: Subject | None,
    ) -> int:
        """Keep a message, and send it to the subscribers.

        Raises:
            TypeError, ValueError: It cannot be kept, see `Hub.publish`.
        """
        engine = self._host._engine
        if engine is not None:
            taken = engine.append(topic, rule.retention, msg, exclude, key)
            return Delivered(0) if taken else False
        content, now = _content(msg), self.clock()
        if not self._local.get(topic, rule, now).append(content, key, now):
            return Delivered(0)
        return Delivered(self._host._send_kept(topic, content, exclude, subject))

    def join(
        self, topic: str, rule: TopicRule, client: Client, priority: float, since: Since
    ) -> None:
        """Let a client join; it is noted as subscribed already."""
        self.joins.begin(topic, client, priority, since, self._source(topic, rule))

    def _source(self, topic: str, rule: TopicRule) -> Source:
        engine = self._host._engine
        if engine is not None:
            return engine.replica(topic, rule.retention)
        return self._local.get(topic, rule, self.clock())

    # Reading

    def read(
        self,
        future: HistoryFuture,
        topic: str,
        rule: TopicRule,
        since: Since,
        limit: int | None,
        timeout: float,
    ) -> None:
        """Give the messages of a topic; see `Hub.history`."""
        engine, reactor = self._host._engine, self._host.reactor
        source = self._source(topic, rule)
        if source.in_step and not lags(source, since):
            future.set_result(self._publications(source, since, limit))
            return
        assert engine is not None, "only a copy may be out of step"
        channel = engine.channels.kept(topic)
        engine.listen(channel)
        self._unread.add(future)

        def finish(error: Exception | None = None) -> None:
            if future in self._unread:
                self._unread.discard(future)
                timer.cancel()
                engine.leave(channel)
                if error is None:
                    future.set_result(self._publications(source, since, limit))
                else:
                    future.set_exception(error)

        def look(pause: float = FIRST_PAUSE) -> None:
            if pause < LONGEST_PAUSE and lags(source, since):
                reactor.call_later(pause, lambda: look(2 * pause))
            else:
                source.when_in_step(finish)

        late = TimeoutError(f"the history of {topic!r} did not come in {timeout:g} s")
        timer = reactor.call_later(timeout, lambda: finish(late))
        source.when_in_step(look)

    def end(self) -> None:
        """The run ends."""
        unread, self._unread = self._unread, set()
        for future in unread:
            future.set_exception(InvalidState("the server has stopped"))

    def _publications(
        self, source: Source, since: Since, limit: int | None
    ) -> list[Publication]:
        history = source.history
        assert history is not None
        begin = start(history, since, self.clock())
        after = begin.after
        if limit is not None and not isinstance(since, Position):
            after = max(after, history.top - limit)
        return [
            Publication(
                str(Position(history.epoch, entry.offset, entry.tag)),
                json.loads(entry.body) if type(entry.body) is JsonText else entry.body,
            )
            for entry in history.after(after, limit)
            if entry.body is not None
        ]


def _content(msg: Any) -> Content:
    """What is kept of a message."""
    if type(msg) is str:
        if not msg.isascii():
            msg.encode()  # raises for what is not valid Unicode
        return msg
    return msg if type(msg) is bytes else decode_body(*encode_body(msg))
