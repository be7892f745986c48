"""`WebSocket`: the class users subclass."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from .connection import Client
from .deflate import Deflate
from .errors import InvalidState
from .handshake import OriginRule
from .http11 import Request
from .options import Options, check_options
from .server import Server
from .topics import Group

__all__ = ["WebSocket"]

logger = logging.getLogger("simple_ws")

_OPTION_NAMES = tuple(Options.__dataclass_fields__)


class WebSocket:
    """Handles the connections of one path; subclass it and write the callbacks.

    `Handler(host, port, **options)` serves on every path until it is stopped (Ctrl-C
    and SIGTERM stop it). `Handler(**options)` makes a handler for `Server.mount`.

    Args:
        host: name or address to listen on; "" is every interface.
        port: port to listen on; without it nothing is served yet.
        options: see `options.Options`; an attribute of the class with an option's name
            counts as given, and what is given here wins.

    Raises:
        TypeError, ValueError: An option is unknown or wrong.
        OSError: The address is taken or not ours; the message names it.

    Attributes:
        clients: the open connections, the earliest first; iterating is safe while
            clients come and go.
        server: the `Server` it is mounted on, or None.

    Every option is an attribute under its own name. All callbacks run in the thread of
    the loop and must not block.
    """

    #: Class of the connections; a subclass of `Client` with state and methods.
    client_class: type[Client] = Client

    _given: dict[str, Any]
    clients: Group[Client]
    #: `on_message`, bound once for all connections.
    message_callback: Callable[[Any, Any], Any]
    server: Server | None
    options: Options

    ping: bool
    ping_interval: float
    ping_timeout: float
    compression: Deflate | None
    max_frame_size: int | None
    buffer_size: int
    max_size: int | None
    write_limit: int
    slow_consumer: str
    max_connections: int | None
    open_timeout: float
    close_timeout: float
    idle_timeout: float | None
    origins: tuple[OriginRule, ...] | None
    subprotocols: tuple[str, ...]
    backlog: int
    reuse_port: bool
    busy_poll: float

    def __new__(cls, *args: Any, **kwargs: Any) -> WebSocket:
        """Make what the server needs, also for subclasses that forget __init__."""
        self = super().__new__(cls)
        self.clients = Group()
        self.server = None
        self.message_callback = self.on_message
        self._given = check_options(
            {
                name: getattr(cls, name)
                for name in (*_OPTION_NAMES, "ping_intervall")
                if hasattr(cls, name)
            }
        )
        self._take_options(Options())
        return self

    def __init__(
        self, host: str | None = None, port: int | None = None, **options: Any
    ) -> None:
        self._given |= check_options(options)
        self._take_options(Options())
        if host is None and port is None:
            return
        if port is None:
            raise TypeError(f"port is missing: {type(self).__name__}({host!r}, port)")
        server = Server("" if host is None else host, port, **self._given)
        server.mount("*", self)
        server.run()

    @property
    def host(self) -> str | None:
        """Where its server listens, or None."""
        return None if self.server is None else self.server.host

    @property
    def port(self) -> int | None:
        """Where its server listens, the real port once it does, or None."""
        return None if self.server is None else self.server.port

    def on_request(self, request: Request) -> Any:
        """Decide about a client before the upgrade.

        Returns:
            None to accept it, a `Response` to refuse it, or any other object to accept
            it with this as `client.session`.
        """

    def on_open(self, client: Any) -> Any:
        """A connection opened; the client may be written to."""

    def on_message(self, msg: Any, client: Any) -> Any:
        """A message came: `str` for text, `bytes` for binary.

        Returns:
            None, or an answer that is sent as by `client.write_message`.
        """

    def on_close(self, client: Any) -> Any:
        """A connection ended; once for each `on_open`. See `client.close_cause`."""

    def on_ping(self, client: Any) -> Any:
        """A ping passed: the heartbeat's, or one of the client's (answered already)."""

    def on_pong(self, client: Any) -> Any:
        """A pong came; `client.latency` is fresh."""

    def on_drain(self, client: Any) -> Any:
        """All output of a client that had reported back-pressure has left."""

    def on_error(self, error: Exception, client: Any) -> Any:
        """A callback raised. Unless overridden: log it, close the client with 1011."""
        logger.error("a callback failed for %r", client, exc_info=error)
        client._fail_handler()

    def select_subprotocol(self, offered: Sequence[str]) -> str | None:
        """Choose among the subprotocols a client offers (RFC 6455 §4.2.2).

        Unless overridden: the first of the option `subprotocols` that is offered, or
        None, which goes on without one.
        """
        return next((name for name in self.subprotocols if name in offered), None)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "on_message":
            self.message_callback = value
            # Connections take it once, when they open: looking it up for every message
            # takes 34 ns.
            for client in self.clients:
                client._on_message = value

    def _take_options(self, defaults: Options) -> None:
        self.options = defaults.merged(self._given)
        for name in _OPTION_NAMES:
            super().__setattr__(name, getattr(self.options, name))
        super().__setattr__("ping_intervall", self.options.ping_interval)

    def _adopt(self, server: Server) -> None:
        """Belong to a server; its options stand behind the handler's own."""
        if self.server is not None and self.server is not server:
            raise InvalidState("the handler is mounted on another server")
        self.server = server
        self._take_options(server.options)
