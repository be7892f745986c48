"""Topics with history: what is published to them is kept, and who joins begins there.

Without an engine the histories are here, otherwise in the engine, and a copy is here
for each topic that somebody here is subscribed to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from concurrent.futures import InvalidStateError
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ..cluster.content import (
    Content,
    JsonText,
    WithHeaders,
    bare,
    decode_body,
    encode_body,
)
from ..cluster.history import History
from ..cluster.local_history import LocalTopics
from ..cluster.position import Position
from ..cluster.since import Since, start
from ..cluster.topic_rules import TopicRule, TopicRules
from ..connection.client import Client
from ..constants import Delivered
from ..errors import InvalidState
from ..loop.future import LoopFuture
from ..loop.reactor import Reactor
from ..speedups import json_text
from .arrivals import Arriving
from .conflation import Subject
from .feeds import Arrival
from .joins import FIRST_PAUSE, LONGEST_PAUSE, Joins, JoinsHost, Source, lags
from .publications import Publication
from .turns import Turns

if TYPE_CHECKING:
    from .sharded_engine import AnyEngine

__all__ = ["Histories", "HistoriesHost"]

#: Seconds between two looks for messages that are too old.
_BETWEEN_SWEEPS = 30.0


class HistoriesHost(JoinsHost, Protocol):
    """What it needs of its server."""

    _engine: AnyEngine | None
    _topic_rules: TopicRules

    def _count(self, topic: str) -> int:
        """The subscribers of a topic."""

    @property
    def _lacks_engine(self) -> bool:
        """Whether it does not run, and its histories are not in this process."""

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
        turns: serve what waits for the engine.
    """

    def __init__(self, host: HistoriesHost, clock: Callable[[], float]) -> None:
        self._host = host
        self.turns = Turns(host)
        self.joins = Joins(host, self.turns)
        self.clock = clock
        self._local = LocalTopics()
        # What was asked for and has not come; other threads add to it.
        self._unread: dict[LoopFuture[Any], None] = {}
        self._ended = False

    @property
    def reactor(self) -> Reactor:
        """The event loop."""
        return self._host.reactor

    def begin(self, reactor: Reactor) -> None:
        """A run begins: free memory from time to time."""
        self._ended = False
        self.turns.begin_run()

        def sweep() -> None:
            self._sweep()
            reactor.call_later(_BETWEEN_SWEEPS, sweep)

        reactor.call_later(_BETWEEN_SWEEPS, sweep)

    def _sweep(self) -> None:
        engine, joins = self._host._engine, self.joins
        if engine is not None:
            engine.expire()
        else:
            self._local.sweep(
                self.clock(),
                lambda topic: self._host._count(topic) or joins.count(topic),
            )

    def publish(
        self,
        topic: str,
        rule: TopicRule,
        msg: Any,
        exclude: Collection[Client],
        key: str | None,
        subject: Subject | None,
        done: Callable[[Position | None], object] | None = None,
    ) -> int:
        """Keep a message, and send it to the subscribers.

        `done` is called with where it is kept, once that is known; None: nowhere.

        Raises:
            TypeError, ValueError: It cannot be kept, see `Hub.publish`.
        """
        engine = self._host._engine
        if engine is not None:
            taken = engine.append(topic, rule.retention, msg, exclude, key, done)
            return Delivered(0) if taken else False
        if self._host._lacks_engine:
            if done is not None:
                done(None)
            return False
        content, now = _content(msg), self.clock()
        receivers, local = 0, self._local.get(topic, rule, now)
        position = local.place_of(key, now)
        if position is None:
            local.append(content, key, now)
            if done is not None:
                position = local.history.position  # others may follow it at once
            receivers = self._host._send_kept(topic, content, exclude, subject)
        if done is not None:
            done(position)
        return Delivered(receivers)

    def remove(
        self, topic: str, rule: TopicRule, done: Callable[[int | None], object]
    ) -> None:
        """Remove the messages of a topic; positions stay valid.

        `done` is called with the offset of the newest one, or with None if the engine
        does not do it; not at all if it is lost meanwhile. With an engine, each node is
        then to `forget` them.
        """
        engine = self._host._engine
        if engine is not None:
            engine.remove(topic, done)
        elif self._host._lacks_engine:
            done(None)
        else:
            done(self._local.get(topic, rule, self.clock()).remove())

    def forget(self, topic: str, offset: int) -> None:
        """The messages of a topic up to an offset are removed: drop their copies."""
        if self._host._engine is not None:
            self._host._engine.forget_messages(topic, offset)

    def top(self, topic: str) -> int:
        """The offset of the message that was appended last, as it is being sent."""
        rule = self._host._topic_rules.find(topic)
        history = None if rule is None else self.source(topic, rule).history
        return 0 if history is None else history.top

    def arriving(
        self,
        topic: str,
        rule: TopicRule,
        since: Since,
        begin: Callable[[History], Since],
        arrive: Callable[[Arrival], object],
    ) -> Arriving:
        """A subscriber of a feed on its way; see `Hub._arriving`."""
        source, reactor = self.source(topic, rule), self._host.reactor
        return Arriving(source, reactor, self.turns, since, begin, arrive)

    def join(
        self, topic: str, rule: TopicRule, client: Client, priority: float, since: Since
    ) -> None:
        """Let a client join; it is noted as subscribed already."""
        self.joins.begin(topic, client, priority, since, self.source(topic, rule))

    def source(self, topic: str, rule: TopicRule) -> Source:
        """Where a topic with history begins; with an engine, it is listened to."""
        engine = self._host._engine
        if engine is not None:
            return engine.replica(topic, rule.retention)
        return self._local.get(topic, rule, self.clock())

    # Reading

    def read(
        self,
        future: LoopFuture[Any],
        topic: str,
        rule: TopicRule,
        since: Since,
        timeout: float,
        take: Callable[[History], Any],
    ) -> None:
        """Give what `take` makes of the history of a topic; see `Hub.history`."""
        engine = self._host._engine
        if future.done():
            return  # the server has stopped meanwhile
        if self._host._lacks_engine or (engine is not None and self._ended):
            self.refuse(future, InvalidState("the server does not run"))
        elif engine is not None:
            self._unread[future] = None
            reading = _Reading(self, engine, future, topic, since, take)
            reading.begin(rule, timeout)
        else:
            self.give(future, self.source(topic, rule), take)

    def read_soon(
        self, reactor: Reactor, future: LoopFuture[Any], read: Callable[[], object]
    ) -> None:
        """Have the loop read for another thread."""
        self._unread[future] = None
        reactor.call_threadsafe(read)
        if self._ended:  # meanwhile: perhaps nothing is called any more
            self._end_unread()

    def give(
        self, future: LoopFuture[Any], source: Source, take: Callable[[History], Any]
    ) -> None:
        """Give what is here."""
        self._unread.pop(future, None)
        history = source.history
        assert history is not None
        with suppress(InvalidStateError):  # the server has stopped meanwhile
            future.set_result(take(history))

    def publications(
        self, since: Since, limit: int | None, history: History
    ) -> list[Publication]:
        """The messages of a history, as users see them."""
        after = start(history, since, self.clock()).after
        if limit is not None and not isinstance(since, Position):
            after = max(after, history.top - limit)
        return [
            Publication(
                str(Position(history.epoch, entry.offset, entry.tag)),
                _message(entry.body),
            )
            for entry in history.after(after, limit)
            if entry.body is not None
        ]

    def refuse(self, future: LoopFuture[Any], error: Exception) -> None:
        """Give none."""
        self._unread.pop(future, None)
        with suppress(InvalidStateError):
            future.set_exception(error)

    def end(self) -> None:
        """The run ends."""
        self._ended = True
        self._end_unread()

    def _end_unread(self) -> None:
        for future in list(self._unread):
            self.refuse(future, InvalidState("the server has stopped"))


class _Reading:
    """A topic is listened to until its history can be read."""

    def __init__(
        self,
        histories: Histories,
        engine: AnyEngine,
        future: LoopFuture[Any],
        topic: str,
        since: Since,
        take: Callable[[History], Any],
    ) -> None:
        self._histories = histories
        self._engine = engine
        self._future = future
        self._topic, self._since, self._take = topic, since, take
        self._pause = FIRST_PAUSE
        self._over = False

    def begin(self, rule: TopicRule, timeout: float) -> None:
        """Read, within so many seconds."""
        topic, reactor = self._topic, self._histories.reactor
        # Before its copy is read: that must not miss what is published meanwhile.
        self._engine.listen(self._engine.channels.kept(topic))
        self._source = self._histories.source(topic, rule)
        late = TimeoutError(f"the history of {topic!r} did not come in {timeout:g} s")
        fail = partial(self._fail, late)
        self._timer = reactor.call_later(
            timeout, lambda: self._histories.turns.add(fail)
        )
        self._look()

    def _look(self) -> None:
        source = self._source
        if self._future.done():
            return
        if not source.in_step:
            source.when_in_step(self._note_ready)
        elif self._pause < LONGEST_PAUSE and lags(source, self._since):
            self._histories.reactor.call_later(self._pause, self._note_ready)
            self._pause *= 2
        else:
            self._end()
            self._histories.give(self._future, source, self._take)

    def _note_ready(self) -> None:
        """Not at once: very many may wait for one source."""
        self._histories.turns.add(self._look)

    def _fail(self, error: Exception) -> None:
        if not self._over:  # it may have come meanwhile
            self._end()
            self._histories.refuse(self._future, error)

    def _end(self) -> None:
        self._over = True
        self._timer.cancel()
        self._source.forget_waiting(self._note_ready)
        self._engine.leave(self._engine.channels.kept(self._topic))


def _message(content: Content) -> Any:
    """A message as it was published."""
    content = bare(content)
    if type(content) is not JsonText:
        return content
    try:
        return json.loads(content)
    except (ValueError, RecursionError):  # a stranger has written it into the engine
        return str(content)


def _content(msg: Any) -> Content:
    """What is kept of a message."""
    if type(msg) is str:
        if not msg.isascii():
            msg.encode()  # raises for what is not valid Unicode
        return msg
    if isinstance(msg, dict | list):
        return JsonText(json_text(msg))
    if type(msg) is WithHeaders:
        return WithHeaders(_content(msg.msg), msg.headers)
    return msg if type(msg) is bytes else decode_body(*encode_body(msg))
