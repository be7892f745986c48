"""The topics with history of one node: what it publishes to them, and its copies.

Nothing is delivered here that the engine has not stored. What is published while the
engine is away waits, and is sent when it is back (`resending`); what others published
meanwhile is read (`replica`). The promises are in docs/cluster.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Protocol

from .content import Content, ContentError, Kind, decode_body
from .counts import NodeCounts
from .engine import Origin, Page, ReadRefused, Stored
from .envelope import Envelope, EnvelopeError, open_, seal
from .history import Retention
from .interest import Interest
from .numbers import Numbers
from .position import Position, parse_position
from .replica import Opened, Replica
from .resending import MAX_BYTES, Resending, Unconfirmed

__all__ = ["Kept", "KeptHost"]

#: Topics that are read at once, and messages of one page: what waits to be sent to us
#: must stay below `client-output-buffer-limit pubsub` of Redis, which would cut us
#: again and again.
_READS, _PAGE = 16, 256
#: Seconds until a topic that could not be read is read again.
_READ_AGAIN = 5.0
#: Seconds between two looks for what is too old.
_BETWEEN_LOOKS = 1.0


class KeptEngine(Protocol):
    """What it needs of the engine; see `Engine`."""

    def append(
        self, channel: str, envelope: bytes, origin: Origin, retention: Retention
    ) -> None:
        """Append a message to a history, and publish it."""

    def read(
        self, channel: str, known: Position | None, after: int, limit: int
    ) -> None:
        """Read a history."""


class KeptHost(Protocol):
    """What it needs of its node and server."""

    def clock(self) -> float:
        """Seconds that never run backwards."""

    def call_later(self, delay: float, callback: Callable[[], object]) -> object:
        """Call it in so many seconds."""

    def flush_engine(self) -> None:
        """The engine has output."""

    def deliver_kept(
        self, channel: str, content: Content, exclude: Collection[Any]
    ) -> None:
        """Send a message to the subscribers who are in step; must not raise."""

    def note_gap(self, channel: str, missing: int | None) -> bool:
        """They have missed messages; return whether there are any of them."""

    def note_invalid(self, channel: str, why: str) -> None:
        """Something else than our messages came, or a message was not taken."""


class Kept:
    """See the head of the module; all methods are for the loop's thread.

    Args:
        engine: keeps histories.
        host: the server.
        publisher: identifies this process in envelopes.
        numbers: of its messages.
        interest: in channels; it counts who is subscribed.
        counts: of the node.
        secret: see `Node`.

    Attributes:
        replicas: the copies, by channel.
    """

    def __init__(
        self,
        engine: KeptEngine,
        host: KeptHost,
        publisher: bytes,
        numbers: Numbers,
        interest: Interest,
        counts: NodeCounts,
        secret: bytes | None,
    ) -> None:
        self._engine = engine
        self._host = host
        self._publisher = publisher
        self._numbers = numbers
        self._interest = interest
        self._counts = counts
        self._secret = secret
        self._up = False
        self._unconfirmed = Resending()
        self._looking = False  # for what is too old
        self.replicas: dict[str, Replica] = {}
        #: Who does not get a message of ours, until it comes back.
        self._excluded: dict[tuple[str, int], Collection[Any]] = {}
        self._to_read: dict[Replica, None] = {}
        self._reading: deque[Replica] = deque()
        # Fewer when the connection was lost while we read: the engine may have cut us
        # for what waited to be sent to us.
        self._reads, self._page = _READS, _PAGE

    @property
    def waiting(self) -> int:
        """Messages that the engine has not confirmed."""
        return len(self._unconfirmed)

    # Publishing

    def append(
        self,
        channel: str,
        kind: Kind,
        body: bytes,
        exclude: Collection[Any],
        key: str | None,
        retention: Retention,
        done: Callable[[Position | None], object] | None = None,
    ) -> bool:
        """Publish a message to a topic with history, now or when the engine is there.

        `done` is called once: with its position when the engine has stored it, with
        None when it was not taken here or there, or has waited for too long. That of a
        message that had to be sent again may be that of a later one of this node.

        Returns:
            Whether it was taken; False: too much waits for the engine.

        Raises:
            ValueError: It is too large to wait for the engine.
        """
        seq = self._numbers.next(channel)
        envelope = seal(
            Envelope(self._publisher, 0, seq, kind, body), channel, self._secret
        )
        if len(envelope) > MAX_BYTES:
            raise ValueError(
                "a message for a topic with history has at most "
                f"{MAX_BYTES - len(envelope) + len(body):,} bytes, not {len(body):,}"
            )
        origin = Origin(self._publisher, seq, key)
        message = Unconfirmed(
            (channel, envelope, origin, retention), self._host.clock(), done
        )
        if not self._unconfirmed.add(message):
            self._counts.refused += 1
            self._host.note_invalid(channel, "too many messages wait for the engine")
            message.end()
            return False
        if exclude and channel in self.replicas:
            self._excluded[channel, seq] = exclude
        if self._up:
            self._send()
        self._look_later()
        return True

    def _send(self) -> None:
        """Give the engine as many messages as may be under way."""
        counts, sent = self._counts, False
        while (message := self._unconfirmed.next()) is not None:
            if message.sent:
                counts.resent += 1
            else:
                counts.published += 1
            message.sent = sent = True
            self._engine.append(*message.entry)
        if sent:
            self._host.flush_engine()

    def on_stored(self, event: Stored) -> None:
        """The engine has the oldest message."""
        message = self._unconfirmed.confirm()
        if event.again:
            self._counts.again += 1
        if message is not None:
            message.end(event.position)
        self._send()

    def on_refused(self, reason: str) -> None:
        """The engine does not take the oldest message."""
        message = self._unconfirmed.confirm()
        if message is not None:
            self._counts.refused += 1
            self._forget_excluded(message)
            self._host.note_invalid(
                message.entry[0], f"the engine refused a message: {reason}"
            )
            message.end()
        self._send()

    def _look_later(self) -> None:
        if not self._looking:
            self._looking = True
            self._host.call_later(_BETWEEN_LOOKS, self._look)

    def _look(self) -> None:
        """Drop what is too old; what the engine is working on is its own."""
        self._looking = False
        if not self._up:
            for message in self._unconfirmed.expire(self._host.clock()):
                self._note_dropped(message)
        if self._unconfirmed:
            self._look_later()

    def _note_dropped(self, message: Unconfirmed) -> None:
        if message.sent:
            self._counts.unsure += 1
        else:
            self._counts.lost += 1
        self._forget_excluded(message)
        message.end()

    def _forget_excluded(self, message: Unconfirmed) -> None:
        channel, _, origin, _ = message.entry
        self._excluded.pop((channel, origin.seq), None)

    def end(self) -> None:
        """Nothing comes of the engine any more: count what it has not confirmed."""
        self._up = False
        for message in self._unconfirmed.clear():
            self._note_dropped(message)

    # The copies

    def open(self, channel: str, retention: Retention) -> Replica:
        """The copy of a topic that somebody here listens to, see `Interest`."""
        replica = self.replicas.get(channel)
        if replica is None:
            replica = self.replicas[channel] = Replica(channel, retention, self)
            if self._up:
                self._interest.apply()
                self.read_soon(replica)
        return replica

    def forget(self, channel: str, offset: int) -> None:
        """The engine has removed the messages up to an offset."""
        replica = self.replicas.get(channel)
        if replica is not None and replica.history is not None:
            replica.history.remove(offset)

    def close(self, channel: str) -> None:
        """Nobody listens to it any more."""
        replica = self.replicas.pop(channel, None)
        if replica is not None:
            self._to_read.pop(replica, None)
            if self._excluded:
                for key in [key for key in self._excluded if key[0] == channel]:
                    del self._excluded[key]

    def expire(self) -> None:
        """Free the memory of messages that cannot be read any more."""
        now = self._host.clock()
        for replica in self.replicas.values():
            if replica.history is not None:
                replica.history.expire(now)

    # The connection

    def on_up(self) -> None:
        """The engine takes messages, and has our subscriptions."""
        self._up = True
        self._send()
        for replica in self.replicas.values():
            self.read_soon(replica)

    def on_down(self) -> None:
        """The connection is lost."""
        self._up = False
        self._unconfirmed.begin_again()
        if self._reading:
            self._reads, self._page = max(1, self._reads // 2), max(1, self._page // 2)
        self._to_read.clear()
        self._reading.clear()
        for replica in self.replicas.values():
            replica.fall_behind()

    def on_delivered(self, channel: str, data: bytes) -> None:
        """A message was published, by this node or another."""
        text, _, envelope = data.partition(b" ")
        position = parse_position(text.decode("ascii", "replace"))
        if position is None:
            self._counts.invalid += 1
            self._host.note_invalid(channel, "a message without a position")
            return
        self.replicas[channel].on_push(position, envelope, self._host.clock())

    def on_page(self, page: Page) -> None:
        """The oldest read has a result."""
        if not self._reading:
            return
        replica = self._reading.popleft()
        if self.replicas.get(replica.channel) is replica:
            replica.on_page(page, self._host.clock())
        self._read()

    def on_read_refused(self, event: ReadRefused) -> None:
        """The oldest read has none: its subscribers wait until the topic can be read,
        as somebody has to change something in the engine."""
        if not self._reading:
            return
        replica = self._reading.popleft()
        why = f"its history cannot be read: {event.reason}"
        self._host.note_invalid(event.channel, why)

        def read_again() -> None:
            current = self.replicas.get(replica.channel) is replica
            if current and not replica.in_step:
                self.read_soon(replica)

        self._host.call_later(_READ_AGAIN, read_again)
        self._read()

    # For the copies: see `ReplicaHost`

    def read_soon(self, replica: Replica) -> None:
        """Read it, when fewer others are read."""
        if self._up:
            self._to_read[replica] = None
            self._read()

    def _read(self) -> None:
        if not self._to_read and not self._reading:
            self._reads, self._page = _READS, _PAGE
        while self._to_read and len(self._reading) < self._reads:
            replica = next(iter(self._to_read))
            del self._to_read[replica]
            self._reading.append(replica)
            known = replica.known
            after = 0 if known is None else known.offset
            self._engine.read(replica.channel, known, after, self._page)
            self._host.flush_engine()

    def open_entry(self, channel: str, envelope: bytes) -> Opened | None:
        """The message in an envelope."""
        try:
            publisher, _, seq, kind, body = open_(envelope, channel, self._secret)
            content = decode_body(kind, body)
        except (ContentError, EnvelopeError) as error:
            self._counts.invalid += 1
            self._host.note_invalid(channel, str(error))
            return None
        exclude: Collection[Any] = ()
        if self._excluded and publisher == self._publisher:
            exclude = self._excluded.pop((channel, seq), ())
        return Opened(content, publisher, seq, exclude)

    def deliver_entry(self, channel: str, message: Opened) -> None:
        """Send it to the subscribers."""
        self._counts.received += 1
        self._host.deliver_kept(channel, message.content, message.exclude)

    def note_gap(self, channel: str, missing: int | None) -> None:
        """Subscribers have missed messages."""
        self._counts.missing += missing or 0
        if self._host.note_gap(channel, missing):
            self._counts.gaps += 1

    def note_repeat(self) -> None:
        """A message came again."""
        self._counts.repeats += 1
