"""Clients on their way into topics with history: what they missed, then `on_join`.

A client that joins gets the messages that it lacks as fast as it takes them, and no
live ones; these go to the history meanwhile. When it has all, it becomes a subscriber
in the same turn: so it misses nothing, and gets nothing twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, Protocol

from ..cluster.content import Content
from ..cluster.history import History
from ..cluster.position import Position
from ..cluster.since import UNKNOWN, Since, is_ahead, start
from ..connection.client import Client
from ..constants import TURN, SendStatus
from ..loop.reactor import Reactor
from ..loop.timers import Timer
from .turns import Turns

__all__ = [
    "FIRST_PAUSE",
    "LONGEST_PAUSE",
    "Join",
    "Joins",
    "JoinsHost",
    "Source",
    "lags",
]

#: Seconds between two looks for what a client has got elsewhere, doubled each time;
#: above the second one nobody has it, in 5 s altogether: an engine that is silent for
#: 3 s is given up, so until then this process may lag without knowing it.
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 4.0
#: Messages sent between two looks at the clock.
_BETWEEN_LOOKS = 64


class Join(NamedTuple):
    """A client has entered a topic, see `WebSocket.on_join`.

    Attributes:
        position: of the newest message it has got; for `since` when it comes back.
            Empty for a topic without history.
        recovered: how many messages it was sent that it had missed.
        gap: how many messages it has missed for ever; None: not known.
    """

    position: str
    recovered: int
    gap: int | None


class Source(Protocol):
    """The history of a topic (`replica.Replica`, `local_history.LocalTopic`)."""

    @property
    def in_step(self) -> bool:
        """Whether `history` has all that was published."""

    @property
    def history(self) -> History | None:
        """The messages; none until it was in step."""

    def when_in_step(self, callback: Callable[[], object]) -> None:
        """Call a function once, as soon as it is in step."""

    def when_at(self, offset: int, callback: Callable[[], object]) -> None:
        """Call a function once, when the message of an offset has come, if it does."""

    def forget_waiting(self, callback: Callable[[], object]) -> None:
        """Do not call it any more."""

    @property
    def may_lag(self) -> bool:
        """Whether another process may have more of it, which is on its way here."""


def lags(source: Source, since: Since) -> bool:
    """Whether somebody may have got more than has come here: on another node, which can
    be ahead by some milliseconds, or seconds where the engine is slow."""
    history = source.history
    return source.may_lag and history is not None and is_ahead(history, since)


class JoinsHost(Protocol):
    """What it needs of its server."""

    @property
    def reactor(self) -> Reactor:
        """The event loop."""

    _strangers: set[Client]

    def _send_content(self, client: Client, content: Content) -> SendStatus:
        """Send one client a message of a history."""

    def _add_subscriber(self, topic: str, client: Client, priority: float) -> None:
        """The client gets what is published from now on."""


class _Joining:
    """A client on its way into a topic."""

    __slots__ = (
        "after",
        "client",
        "epoch",
        "gap",
        "joins",
        "pause",
        "priority",
        "recovered",
        "since",
        "source",
        "timer",
        "topic",
    )

    def __init__(
        self,
        joins: Joins,
        topic: str,
        client: Client,
        priority: float,
        since: Since,
        source: Source,
    ) -> None:
        self.joins = joins
        self.topic, self.client, self.priority = topic, client, priority
        self.since, self.source = since, source
        #: Until it is looked again.
        self.timer: Timer | None = None
        #: Seconds until it is looked again whether the source has come as far.
        self.pause = FIRST_PAUSE
        #: Of what `after` counts; "" until it has begun.
        self.epoch = ""
        self.after = 0
        self.recovered = 0
        self.gap: int | None = 0

    def note_ready(self) -> None:
        """What it has waited for is there."""
        self.joins._note_ready(self)

    def take_turn(self) -> None:
        """It is its turn."""
        self.joins._take_turn(self)

    def end(self) -> None:
        """It waits for nothing any more."""
        self.source.forget_waiting(self.note_ready)
        if self.timer is not None:
            self.timer.cancel()


class Joins:
    """All clients of a server that are on their way.

    Args:
        host: the server.
        turns: serve those whose source has become ready.
    """

    def __init__(self, host: JoinsHost, turns: Turns) -> None:
        self._host, self._turns = host, turns
        self._joining: dict[Client, dict[str, _Joining]] = {}
        self._counts: Counter[str] = Counter()

    def count(self, topic: str) -> int:
        """Clients on their way into a topic."""
        return self._counts[topic]

    def begin(
        self, topic: str, client: Client, priority: float, since: Since, source: Source
    ) -> None:
        """Let a client join; a join into the same topic begins anew."""
        self.cancel(topic, client)
        joining = _Joining(self, topic, client, priority, since, source)
        if self._may_begin(joining) and self._replay(joining):
            self._finish(joining)
            return
        if topic not in (client._topics or ()):
            return  # its connection has ended meanwhile
        self._joining.setdefault(client, {})[topic] = joining
        self._counts[topic] += 1
        self._wait(joining)

    def cancel(self, topic: str, client: Client) -> bool:
        """The client has left; return whether it was on its way."""
        of_client = self._joining.get(client)
        joining = None if of_client is None else of_client.pop(topic, None)
        if joining is None:
            return False
        joining.end()
        if not of_client:
            del self._joining[client]
        self._counts[topic] -= 1
        if not self._counts[topic]:
            del self._counts[topic]
        return True

    def resume(self, client: Client) -> None:
        """A client has taken its output, or is no stranger any more: go on."""
        for joining in list(self._joining.get(client, {}).values()):
            if self._is_current(joining):
                self._resume(joining)

    def _is_current(self, joining: _Joining) -> bool:
        of_client = self._joining.get(joining.client)
        return of_client is not None and of_client.get(joining.topic) is joining

    def _may_begin(self, joining: _Joining) -> bool:
        source = joining.source
        if not source.in_step or joining.client in self._host._strangers:
            return False
        return bool(joining.epoch) or not self._has_to_wait(joining)

    @staticmethod
    def _has_to_wait(joining: _Joining) -> bool:
        in_time = joining.pause < LONGEST_PAUSE
        return in_time and lags(joining.source, joining.since)

    def _wait(self, joining: _Joining) -> None:
        """Go on when the source is in step, or has got some more."""
        source, reactor = joining.source, self._host.reactor
        if not source.in_step:
            source.when_in_step(joining.note_ready)
        elif not joining.epoch and self._has_to_wait(joining):
            if isinstance(joining.since, Position):
                source.when_at(joining.since.offset, joining.note_ready)
            joining.timer = reactor.call_later(joining.pause, joining.note_ready)
            joining.pause *= 2

    def _resume(self, joining: _Joining) -> None:
        if not self._may_begin(joining):
            self._wait(joining)
        elif self._replay(joining):
            self._finish(joining)

    def _note_ready(self, joining: _Joining) -> None:
        """Not at once: very many may wait for one source."""
        self._turns.add(joining.take_turn)

    def _take_turn(self, joining: _Joining) -> None:
        if self._is_current(joining):
            self._resume(joining)

    def _replay(self, joining: _Joining) -> bool:
        """Send what the client lacks; return whether it has all."""
        history = joining.source.history
        assert history is not None, "the source is in step"
        self._place(joining, history)
        clock = self._host.reactor.clock
        end = clock() + TURN
        while joining.after < history.top:  # it may grow meanwhile
            for entry in history.after(joining.after):
                status = self._send(joining, entry.body)
                if status is SendStatus.DROPPED and not self._was_refused(joining):
                    return False  # it is closing, or `on_drain` follows
                joining.after = entry.offset
                if status is SendStatus.BACKPRESSURE:
                    return False
                if not entry.offset % _BETWEEN_LOOKS and clock() > end:
                    self._note_ready(joining)  # others want to be served, too
                    return False
            self._place(joining, history)
        return True

    def _send(self, joining: _Joining, content: Content | None) -> SendStatus:
        if content is None:  # it was not signed as it must be
            return SendStatus.SENT
        status = self._host._send_content(joining.client, content)
        joining.recovered += status is not SendStatus.DROPPED
        return status

    @staticmethod
    def _was_refused(joining: _Joining) -> bool:
        """Whether a message was dropped by a middleware or its error: for good, as it
        would be if it was published now."""
        client = joining.client
        return client.is_open() and not client._await_drain

    def _place(self, joining: _Joining, history: History) -> None:
        """Find where the client is now in a history that may have moved on."""
        now = self._host.reactor.clock()
        if not joining.epoch:
            joining.after, joining.gap = start(history, joining.since, now)
        elif joining.epoch != history.epoch:
            joining.after, joining.gap = start(history, UNKNOWN, now)
        else:
            history.expire(now)
            lost = history.first - 1 - joining.after
            if lost > 0:
                joining.after += lost
                joining.gap = None if joining.gap is None else joining.gap + lost
        joining.epoch = history.epoch

    def _finish(self, joining: _Joining) -> None:
        topic, client, history = joining.topic, joining.client, joining.source.history
        assert history is not None
        self.cancel(topic, client)
        if not client.is_open() or topic not in (client._topics or ()):
            return
        self._host._add_subscriber(topic, client, joining.priority)
        join = Join(str(history.position), joining.recovered, joining.gap)
        client._call(client._handler.on_join, client, topic, join)
