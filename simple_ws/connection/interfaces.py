"""What a connection needs of its server and handler, and what its parts need of it.

`ConnectionHost` is the server, `Handler` has the user's callbacks, `Connection` is what
`calls`, `closing`, `keepalive` and `backpressure` work on (`client.Client` has it).
These parts have no state per connection, so all connections share one of each; the
state of a connection is in its own fields.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..constants import CloseCause
from ..loop.reactor import Reactor
from ..loop.timers import Timer
from ..protocol.keepalive import Pings
from ..protocol.websocket import Protocol as WebSocketProtocol
from ..speedups import Counters
from .admission import Admission
from .log import Ended, Log
from .options import Options
from .topics import Group

__all__ = ["Connection", "ConnectionHost", "Handler"]


class Handler(Protocol):
    """The callbacks of a connection (`server.websocket.WebSocket` has them)."""

    #: `on_message`, bound once for all connections.
    _message_callback: Callable[[Any, Any], object]

    @property
    def clients(self) -> Group[Any]:
        """The open connections."""

    @property
    def options(self) -> Options:
        """The options in force."""

    @property
    def authenticates(self) -> object:
        """True: clients must have an identity within `auth_timeout`."""

    @property
    def _closed_to_strangers(self) -> bool:
        """Whether nothing sent to many reaches clients without an identity."""

    @property
    def _log_name(self) -> str:
        """The handler's name in the log and in statistics."""

    @property
    def _counters(self) -> Counters:
        """Counters of its connections."""

    @property
    def _admission(self) -> Admission | None:
        """The handler's own limits for new connections, if it sets any."""

    def on_open(self, client: Any) -> object:
        """Called after the handshake."""

    def on_message(self, msg: Any, client: Any) -> object:
        """Called with a message; the return value is sent as the answer."""

    def on_close(self, client: Any) -> object:
        """Called once for each `on_open`."""

    def on_ping(self, client: Any) -> object:
        """Called when a ping was sent or received."""

    def on_pong(self, client: Any) -> object:
        """Called when a pong was received."""

    def on_drain(self, client: Any) -> object:
        """Called when the outbox has been written completely."""

    def on_error(self, error: Exception, client: Any) -> object:
        """Called when a callback has raised."""

    def on_join(self, client: Any, topic: str, join: Any) -> object:
        """Called when a client has entered a topic with history."""

    def on_gap(self, topic: str | None, missing: int | None) -> object:
        """Called when messages of other nodes did not arrive."""

    def on_presence(self, topic: str, member: Any, joined: bool) -> object:
        """Called when a member has joined a topic or left it."""


class ConnectionHost(Protocol):
    """What a connection needs of its server (the server implements this)."""

    @property
    def reactor(self) -> Reactor:
        """The event loop."""

    @property
    def _log(self) -> Log:
        """The log of this run."""

    def _add_client(self, client: Any) -> None:
        """The connection is open: count it, and include it in broadcasts."""

    def _remove_client(self, client: Any) -> None:
        """The connection has ended: count it no longer, and send it nothing."""

    def _note_drained(self, client: Any) -> None:
        """The connection has taken all its output."""

    async def _wait_for_drain(self, client: Any) -> None:
        """Wait until a connection has taken its output, or has ended."""

    def _payload_of(self, client: Any) -> dict[str, Any] | None:
        """What a connection says of itself."""

    def _say_payload(self, client: Any, payload: object) -> None:
        """A connection says something of itself."""

    def _release_client(self, client: Any) -> None:
        """The connection's socket is closed."""

    def subscribe(self, topic: str, client: Any, priority: float, since: Any) -> bool:
        """Add a subscription."""

    def unsubscribe(self, topic: str, client: Any) -> None:
        """End a subscription."""

    def publish(
        self, topic: str, msg: object, exclude: Any = (), *, key: str | None = None
    ) -> int:
        """Send to all subscribers except the excluded ones."""

    def bind(self, client: Any, client_id: Any) -> None:
        """Set the identity of the connection."""


class Connection(Ended, Protocol):
    """What the parts of a connection work on."""

    ping_payload: bytes
    pong_payload: bytes

    # From the byte path, in C or in Python.
    _sock: Any
    _protocol: WebSocketProtocol
    _counters: Counters
    _write_limit: int
    _attached: bool
    _unregistered: bool
    _ended: bool
    _write_blocked: bool
    _await_drain: bool
    _paused_by_callbacks: bool
    _paused_by_backpressure: bool
    _last_received: float
    _last_message: float

    _host: ConnectionHost
    _timer: Timer | None
    _wheel_slot: dict[Any, None] | None
    _ahead: tuple[int, int] | None
    _pings: Pings | None
    _pings_itself: bool

    @property
    def _ping_delay(self) -> float: ...
    def _take_beat(self) -> tuple[bytes, float] | None: ...

    @property
    def secure(self) -> bool:
        """Whether the connection uses TLS."""

    @property
    def _loop(self) -> Reactor: ...
    @property
    def _options(self) -> Options: ...
    @property
    def buffered_amount(self) -> int:
        """Bytes of output that the system has not accepted yet."""

    @property
    def status(self) -> int:
        """A `State`."""

    def is_open(self) -> bool:
        """Whether messages can be written."""

    def _sync(self) -> None: ...
    def _conclude(self, reason: str, cause: CloseCause) -> None: ...
    def _follow(self) -> None: ...
    def _flush(self) -> None: ...
    def _enqueue(self, frame: bytes | memoryview) -> None: ...
    def _pause_reading(self, paused: bool) -> None: ...
    def _watch(self, events: int) -> None: ...
    def _detach(self) -> None: ...
    def _discard_output(self) -> None: ...
    def _has_too_many(self) -> bool: ...
    def _unfinished(self) -> int: ...
    def _drop_oldest(self, excess: int) -> int: ...

    def _sweep(self, now: float) -> float | None: ...
    def _call(self, callback: Callable[..., object], *args: object) -> None: ...
    def _close(
        self,
        code: int,
        reason: str,
        cause: CloseCause = ...,
        timeout: float | None = ...,
    ) -> bool: ...
    def _end(self) -> None: ...
    def _interrupt(self, error: BaseException) -> None: ...
