"""What an engine is: the messages of several nodes go through it, sans-I/O.

An engine is to the nodes of a cluster what `protocol.websocket.Protocol` is to a
socket: bytes go in by `receive` and come out by `take_output`; it has no socket, clock
or thread. `link` connects it to the server's reactor, `publisher` to a blocking socket.
The promises of an engine are tests: `simple_ws.testing.engines`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple, Protocol

from .history import Entry, Retention
from .position import Position

__all__ = [
    "Accepted",
    "Delivered",
    "Engine",
    "EngineEvent",
    "Failed",
    "Messages",
    "Notice",
    "Origin",
    "Page",
    "ReadRefused",
    "Ready",
    "Refused",
    "Stored",
    "Subscribed",
]


class Ready(NamedTuple):
    """The engine takes messages and subscriptions from now on."""

    #: Its name and version, for the log.
    server: str


class Subscribed(NamedTuple):
    """All channels that were asked for are subscribed to now."""


class Delivered(NamedTuple):
    """A message was published to a channel, by any node, this one too."""

    channel: str
    envelope: bytes
    #: Connections of this process that do not get it, of whatever loop: only from an
    #: engine that is in this process.
    exclude: Collection[Any] = ()


class Accepted(NamedTuple):
    """The engine has the oldest message that was neither accepted nor refused yet."""

    #: Connections of the engine that it was sent to; -1 where that is not known (NATS).
    receivers: int


class Stored(NamedTuple):
    """Like `Accepted`, for a message that was appended to the history of its topic."""

    #: Where it is; or, if it was there already and its publisher has appended others
    #: since, where the last one of them is.
    position: Position
    #: It was there already; nothing was published.
    again: bool
    #: As in `Accepted`.
    receivers: int = 0


class Refused(NamedTuple):
    """The engine does not take the oldest message; the connection goes on."""

    reason: str


class Page(NamedTuple):
    """The result of the oldest `read` that has none yet."""

    channel: str
    epoch: str
    #: Offset of the newest message of the topic.
    top: int
    #: The position that was known is not of this history: the entries are its first.
    reset: bool
    #: One after the other; empty where what was asked for has expired, or is to come.
    #: Their bodies are envelopes, their times seconds since they were published.
    entries: list[Entry]


class ReadRefused(NamedTuple):
    """The result of the oldest `read`: this topic cannot be read; all else goes on.

    Its keys are of another type, we may not read them, or the engine keeps no
    histories: it would not help to connect again.
    """

    channel: str
    reason: str


class Notice(NamedTuple):
    """Something is not allowed, and the connection goes on without it."""

    #: Of a channel or key.
    name: str
    reason: str


class Failed(NamedTuple):
    """The connection must be given up."""

    reason: str
    #: It would fail again: the program or the operator must change something.
    permanent: bool = False


EngineEvent = (
    Ready
    | Subscribed
    | Delivered
    | Accepted
    | Stored
    | Refused
    | Page
    | ReadRefused
    | Failed
    | Notice
)


class Origin(NamedTuple):
    """What tells a message from all others of its topic."""

    publisher: bytes
    #: Grows with each message of this publisher to this topic.
    seq: int
    #: Of the user: a message with a key that is in the history is not appended again.
    key: str | None


class Messages(Protocol):
    """What an engine is to its node. All methods are for one thread.

    A message that was neither accepted nor refused when the connection is lost may have
    been delivered or not.
    """

    #: Whether topics can have a history: `append` and `read` work. It may become False
    #: before `Ready`, where the server does not let us; both are refused then.
    keeps_history: bool

    @property
    def channels(self) -> int:
        """The channels that are asked for."""

    @property
    def size(self) -> int:
        """Bytes of output that were not taken."""

    @property
    def round_trip(self) -> float | None:
        """Seconds of the last probe from here to here; None: not known yet."""

    def announce(self, rules: bytes) -> None:
        """Leave it in the engine whenever it is connected, for programs that are no
        nodes: see `announced_rules`. Empty: nothing."""

    def subscribe(self, channels: Iterable[str]) -> None:
        """Receive what is published to these channels, from now on or once ready."""

    def unsubscribe(self, channels: Iterable[str]) -> None:
        """Receive it no more; something may still come."""

    def receives(self, channel: str) -> bool:
        """Whether a message that is published now will be delivered here as well: the
        subscription is before it in the output, or done."""

    def publish(self, channel: str, envelope: bytes) -> None:
        """Publish a message, once `Ready` has come; answered in order."""

    def append(
        self, channel: str, envelope: bytes, origin: Origin, retention: Retention
    ) -> None:
        """Append a message to the history of a topic, and publish it.

        Answered in order, with those of `publish`, by `Stored` or `Refused`. It is
        published once, however often it is appended: a message whose number is not
        higher than the last one of its publisher was there already. Subscribers get it
        as `Delivered`, with the position and a space before the envelope.

        Args:
            channel: of `Channels.kept`.
            envelope: is stored as it is.
            origin: of the message.
            retention: of the topic, the same in all nodes.
        """

    def read(
        self, channel: str, known: Position | None, after: int, limit: int
    ) -> None:
        """Read the history of a topic; answered in order by `Page` or `ReadRefused`.

        The subscription to the channel, if it is asked for, is processed before: what
        the page lacks at its end is delivered after it. A page that ends below its
        `top`, and has messages, is to be followed by another.

        Args:
            channel: of `Channels.kept`.
            known: of the last message that this node has got; None: it has got none.
                Where it is not of this history, that has lost messages, and gets a new
                epoch.
            after: messages after this offset; at most that of `known`.
            limit: messages of one page; it has fewer where they are large (1 MiB).
        """


class Engine(Messages, Protocol):
    """Messages between nodes, sans-I/O. All methods are for one thread.

    After `connected` events come from `receive` and `tick`. Output is to be taken and
    sent after each call.
    """

    def connected(self, now: float) -> None:
        """A connection is open; `now` in seconds of any clock that only goes forward.

        The channels that were asked for before are subscribed to again.
        """

    def disconnected(self) -> None:
        """The connection is closed: forget what belonged to it, and its output."""

    def receive(self, data: bytes, now: float) -> list[EngineEvent]:
        """Process bytes of the peer, cut anywhere; never raises for what they are."""

    def take_output(self) -> bytes:
        """Return the bytes that are to be sent, and forget them."""

    def deadline(self) -> float | None:
        """When `tick` is to be called."""

    def tick(self, now: float) -> list[EngineEvent]:
        """Look at the time: probe, or give up, a silent peer."""
