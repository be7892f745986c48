"""This process among those that share an engine: one order, every loss counted or told.

What is published goes to the engine, and is delivered here when it comes back: so all
nodes see the messages of a channel in one order. When the connection is lost, what was
not confirmed is delivered here at once, and counted as `unsure`; later messages are
delivered here alone, and counted as `lost`, until the engine is there again.

Each message has a number, by its publisher and channel. A node delivers none that is
not newer than the last one of the same publisher, and tells of numbers that are missing
(`on_gap`). The promises are in docs/cluster.md.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ..constants import TURN
from .content import Kind
from .counts import NodeCounts
from .engine import (
    Accepted,
    Delivered,
    EngineEvent,
    Failed,
    Messages,
    Notice,
    Origin,
    Page,
    ReadRefused,
    Ready,
    Refused,
    Stored,
    Subscribed,
)
from .envelope import Envelope, EnvelopeError, open_, seal
from .history import Retention
from .interest import Interest
from .kept import Kept, KeptHost
from .numbers import Numbers
from .position import Position

__all__ = ["EngineState", "Message", "Node", "NodeHost"]

#: Publishers remembered for each channel.
_MAX_PUBLISHERS = 1_000


class EngineState(NamedTuple):
    """Whether the engine is there, as `Server.on_engine` is told.

    Attributes:
        up: messages go to the other nodes, and come from them.
        reason: why it is not up, "" if it is.
        server: the engine's name and version, "" until it was known.
    """

    up: bool
    reason: str
    server: str = ""


class Message(NamedTuple):
    """What is delivered here."""

    channel: str
    kind: Kind
    body: bytes
    #: Connections of this node that do not get it.
    exclude: Collection[Any]


class NodeHost(KeptHost, Protocol):
    """What a node needs of its server."""

    def call_soon(self, callback: Callable[[], object]) -> object:
        """Call it in this turn of the loop or the next."""

    def give_up_engine(self, reason: str) -> None:
        """Close the connection to the engine, and connect again later."""

    def deliver(self, message: Message) -> None:
        """Send a message to those who listen here; must not raise."""

    def deliver_internal(self, publisher: str, channel: str, body: bytes) -> None:
        """A node has sent something on an internal channel; must not raise."""

    def note_engine(self, state: EngineState) -> None:
        """The engine has come, or has gone."""


@dataclass(slots=True)
class _Sent:
    """A message that was given to the engine."""

    message: Message
    seq: int
    #: It will come back, since this node listens to its channel.
    comes_back: bool
    accepted: bool = field(default=False)
    #: Of the nodes themselves: not counted, and never delivered here instead.
    internal: bool = field(default=False)


class Node:
    """One process among those that share an engine.

    All methods are for the loop's thread.

    Args:
        engine: sans-I/O; driven by a `link.Link`, whose events are passed to `on_event`
            and whose changes of state to `on_link`.
        host: the server.
        secret: signs what is published; what is not signed so is not delivered.
        output_limit: bytes that wait for the engine; above it, it is given up.

    Attributes:
        id: of this node, random, as text.
        interest: the channels that somebody here listens to.
        internal: the channels on which nodes speak to each other. Their messages have
            no numbers, and are not in the counts: who sends them finds out by itself
            what is missing.
    """

    def __init__(
        self,
        engine: Messages,
        host: NodeHost,
        *,
        secret: bytes | None = None,
        output_limit: int = 8 * 2**20,
    ) -> None:
        self.state = EngineState(False, "not connected yet")
        self.counts = NodeCounts()
        self.interest = Interest(
            self, host.call_soon, host.call_later, self._forget_channel
        )
        self.internal = Interest(self, host.call_soon, host.call_later)
        self._engine = engine
        self._host = host
        self._secret = secret
        self._output_limit = output_limit
        self._id = os.urandom(8)
        self.id = self._id.hex()
        self._session = 0
        self._numbers = Numbers()
        # In the order of publishing: neither accepted nor refused (None: for a topic
        # with history); and accepted, but not come back yet, by number and channel.
        self._sent: deque[_Sent | None] = deque()
        self._returning: dict[tuple[str, int], _Sent] = {}
        #: The last number of each publisher, by channel, and whether it was told since
        #: the connection exists; those of channels that nothing has come of since then;
        #: and the channels whose listeners are still to be told of the interruption.
        self._last: dict[str, dict[bytes, tuple[int, bool]]] = {}
        self._before: dict[str, dict[bytes, tuple[int, bool]]] = {}
        self._untold: set[str] = set()
        self._telling: Iterator[str] = iter(())
        self._server = ""
        self._connected = False
        #: The topics with history.
        self.kept = Kept(
            self, host, self._id, self._numbers, self.interest, self.counts, secret
        )
        self._replicas = self.kept.replicas

    # Publishing

    def publish(
        self, channel: str, kind: Kind, body: bytes, exclude: Collection[Any] = ()
    ) -> None:
        """Publish a message to the engine; if it is not there, to this node alone."""
        message = Message(channel, kind, body, exclude)
        seq = self._numbers.next(channel)
        if self.state.up and self._engine.size > self._output_limit:
            self._host.give_up_engine(
                f"more than {self._output_limit:,} bytes wait for it"
            )
        if not self.state.up:
            self.counts.lost += 1
            self._deliver_own(message, seq)
            return
        self.interest.apply()  # so that the subscription is before the message
        comes_back = self._engine.receives(channel)
        envelope = Envelope(self._id, self._session, seq, kind, body)
        self._engine.publish(channel, seal(envelope, channel, self._secret))
        self.counts.published += 1
        sent = _Sent(message, seq, comes_back)
        self._sent.append(sent)
        if comes_back:
            self._returning[channel, seq] = sent
        else:
            self._deliver_own(message, seq)
        self._host.flush_engine()

    def send(self, channel: str, body: bytes) -> bool:
        """Send something to other nodes; return False if the engine is not there."""
        if not self.state.up or self._engine.size > self._output_limit:
            return False
        self.internal.apply()
        envelope = Envelope(self._id, self._session, 0, Kind.JSON, body)
        self._engine.publish(channel, seal(envelope, channel, self._secret))
        message = Message(channel, Kind.JSON, body, ())
        self._sent.append(_Sent(message, 0, comes_back=False, internal=True))
        self._host.flush_engine()
        return True

    def _deliver_own(self, message: Message, seq: int) -> None:
        """Deliver a message of our own that does not come back, or has."""
        if message.channel in self.interest:
            self._note_number(message.channel, self._id, seq)
            self._host.deliver(message)

    # For `kept`

    def append(
        self, channel: str, envelope: bytes, origin: Origin, retention: Retention
    ) -> None:
        """See `Engine.append`."""
        self._sent.append(None)
        self._engine.append(channel, envelope, origin, retention)

    def read(
        self, channel: str, known: Position | None, after: int, limit: int
    ) -> None:
        """See `Engine.read`."""
        self._engine.read(channel, known, after, limit)

    # For `interest`

    def subscribe(self, channels: Iterable[str]) -> None:
        """See `interest.Subscriptions`."""
        self._engine.subscribe(channels)
        self._host.flush_engine()

    def unsubscribe(self, channels: Iterable[str]) -> None:
        """See `interest.Subscriptions`."""
        self._engine.unsubscribe(channels)
        self._host.flush_engine()

    # What the link says

    def on_link(self, up: bool, reason: str) -> None:
        """The connection to the engine was made (then `Subscribed` is waited for), or
        lost, or could not be made."""
        if up:
            self._connected = True
            self._session = (self._session + 1) & 0xFFFF
            return
        was_up = self.state.up
        self._connected = False
        self._set_state(EngineState(False, reason, self._server))
        if was_up:
            self.kept.on_down()
            self._deliver_unsure()

    def on_event(self, event: EngineEvent) -> None:
        """Something came from the engine."""
        kind = type(event)
        if kind is Delivered:
            self._on_delivered(*event)
        elif kind is Accepted:
            self._on_accepted()
        elif isinstance(event, Stored):
            self._on_accepted()
            self.kept.on_stored(event)
        elif isinstance(event, Page):
            self.kept.on_page(event)
        elif isinstance(event, ReadRefused):
            self.kept.on_read_refused(event)
        elif isinstance(event, Refused):
            self._on_refused(event.reason)
        elif isinstance(event, Notice):
            self._host.note_invalid(event.name, event.reason)
        elif isinstance(event, Ready):
            self._server = event.server
        elif isinstance(event, Subscribed):
            self._on_subscribed()
        elif isinstance(event, Failed):
            self._host.give_up_engine(event.reason)

    def _on_subscribed(self) -> None:
        if self.state.up or not self._connected:
            return
        self._set_state(EngineState(True, "", self._server))
        # Nobody knows what was published while we were away.
        self._before |= self._last
        self._last = {}
        kept = self.kept.replicas
        channels = [each for each in self.interest.channels if each not in kept]
        self._untold, self._telling = set(channels), iter(channels)
        self._tell_next()
        self.kept.on_up()

    def _tell_next(self) -> None:
        """Tell listeners of the interruption, for as long as a turn may take; of
        10,000 channels it takes 70 ms."""
        until = self._host.clock() + TURN
        for channel in self._telling:
            self._tell_interruption(channel)
            if self._host.clock() > until:
                self._host.call_soon(self._tell_next)
                break

    def _tell_interruption(self, channel: str) -> None:
        if channel in self._untold:
            self._untold.discard(channel)
            self._tell_gap(channel, None)

    def _on_accepted(self) -> None:
        sent = self._sent.popleft() if self._sent else None
        if sent is not None:
            sent.accepted = True

    def _on_refused(self, reason: str) -> None:
        if not self._sent:
            return
        sent = self._sent.popleft()
        if sent is None:
            self.kept.on_refused(reason)
            return
        channel = sent.message.channel
        self.counts.refused += not sent.internal
        self._host.note_invalid(channel, f"the engine refused a message: {reason}")
        if self._returning.pop((channel, sent.seq), None) is not None:
            self._deliver_own(sent.message, sent.seq)

    def _deliver_unsure(self) -> None:
        """The connection is lost: deliver here what was not delivered, in order."""
        sent, self._sent = self._sent, deque()
        returning, self._returning = self._returning, {}
        self.counts.unsure += sum(
            each is not None and not each.internal for each in sent
        )
        for each in returning.values():
            self._deliver_own(each.message, each.seq)

    def _set_state(self, state: EngineState) -> None:
        if state != self.state:
            self.state = state
            self._host.note_engine(state)

    def end(self) -> None:
        """The link has stopped, and nothing will come of it any more.

        Nobody knows whether others got what was not confirmed, so it is counted.
        """
        self._connected = False
        self.state = EngineState(False, "stopped", self._server)
        self.kept.end()
        self._deliver_unsure()

    # What other nodes say

    def _on_delivered(
        self, channel: str, data: bytes, exclude: Collection[Any] = ()
    ) -> None:
        if channel in self._replicas:
            self.kept.on_delivered(channel, data)
            return
        try:
            envelope = open_(data, channel, self._secret)
        except EnvelopeError as error:
            # Else one of a history that we have left.
            if channel in self.interest or channel in self.internal:
                self.counts.invalid += 1
                self._host.note_invalid(channel, str(error))
            return
        publisher, _, seq, kind, body = envelope
        if publisher == self._id:
            sent = self._returning.pop((channel, seq), None)
            if sent is not None:
                exclude = sent.message.exclude
        if channel not in self.interest:  # the last listener has left meanwhile
            if channel in self.internal:
                self._host.deliver_internal(publisher.hex(), channel, body)
            return
        if self._note_number(channel, publisher, seq):
            self.counts.received += 1
            self._host.deliver(Message(channel, kind, body, exclude))

    def _note_number(self, channel: str, publisher: bytes, seq: int) -> bool:
        """Note the number of a message; return whether it is to be delivered."""
        publishers = self._last.get(channel)
        if publishers is None:
            publishers = self._begin_channel(channel)
        known = publishers.get(publisher)
        if known is None:
            if len(publishers) >= _MAX_PUBLISHERS:
                del publishers[next(iter(publishers))]
        elif seq <= known[0]:
            self.counts.repeats += 1
            return False
        elif seq > known[0] + 1 and known[1] and publisher != self._id:
            missing = seq - known[0] - 1
            self.counts.missing += missing
            publishers[publisher] = seq, True
            self._tell_gap(channel, missing)
        publishers[publisher] = seq, True
        return True

    def _begin_channel(self, channel: str) -> dict[bytes, tuple[int, bool]]:
        """The first message of a channel since the connection exists: the numbers of
        its publishers. Its listeners are told before that."""
        before = self._before.pop(channel, {})
        publishers = {who: (seq, False) for who, (seq, _) in before.items()}
        self._last[channel] = publishers
        self._tell_interruption(channel)
        return publishers

    def _tell_gap(self, channel: str, missing: int | None) -> None:
        if self._host.note_gap(channel, missing):
            self.counts.gaps += 1

    def _forget_channel(self, channel: str) -> None:
        """Nobody listens to a channel any more: numbers will be missing."""
        self._last.pop(channel, None)
        self._before.pop(channel, None)
        self._untold.discard(channel)
        self.kept.close(channel)
