"""`BaseHandler`: callbacks and options of the connections of one path.

`websocket.WebSocket` is what users subclass; it adds serving by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from ..connection.admission import Admission
from ..connection.client import Client
from ..connection.options import Options, check_options
from ..connection.topics import Group
from ..deflate import Deflate
from ..errors import InvalidState
from ..loop.deferred import check_callback, check_not_late, ends_later
from ..protocol.http11 import Request
from ..protocol.server_handshake import OriginRule
from ..speedups import Tally

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = [
    "CALLBACKS",
    "BaseHandler",
    "FunctionHandler",
]

logger = logging.getLogger("simple_ws")

_OPTION_NAMES = tuple(Options.__dataclass_fields__)
_OPTIONS = frozenset((*_OPTION_NAMES, "ping_intervall"))
#: Options that need a count which is kept (`connection.admission`).
_AT_THE_DOOR = frozenset(("max_connections_per_ip", "handshake_rate"))

#: What each callback is handed.
CALLBACKS = {
    "on_request": ("request",),
    "on_open": ("client",),
    "on_message": ("msg", "client"),
    "on_close": ("client",),
    "on_ping": ("client",),
    "on_pong": ("client",),
    "on_drain": ("client",),
    "on_error": ("error", "client"),
    "select_subprotocol": ("offered",),
}


class BaseHandler:
    """What `WebSocket` is, but for serving by itself.

    A plain function may be put in place of a method, and taken away again by `del`.
    An option that is set as an attribute counts as given; connections that are open
    may go on with what they have.
    """

    #: Class of the connections: a subclass of `Client` with your own state and methods.
    client_class: type[Client] = Client

    _given: dict[str, Any]
    clients: Group[Client]
    #: `on_message`, bound once for all connections.
    message_callback: Callable[[Any, Any], Any]
    server: Any
    #: Some callbacks are async, or `in_thread`.
    _late: bool
    options: Options
    #: What logs and figures call it.
    name: str
    #: Counts of its connections.
    tally: Tally
    _admission: Admission | None

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
    unix: str | None
    ssl: SSLContext | None
    certfile: str | None
    keyfile: str | None
    trusted_proxies: tuple[str, ...]
    auth_timeout: float | None
    max_body: int
    max_connections_per_ip: int | None
    message_rate: tuple[float, float] | None
    handshake_rate: tuple[float, float] | None
    max_buffered: int
    slow_callback: float
    worker_threads: int

    #: True if clients of this handler must be bound to an identity (`client.bind`)
    #: within the option `auth_timeout`.
    authenticates = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make what the server needs, also for subclasses that forget __init__."""
        self = super().__new__(cls)
        self.clients = Group()
        self.server = None
        self.name = cls.__name__
        self.tally = Tally()
        self._admission = None
        self._late = any(ends_later(getattr(cls, name)) for name in CALLBACKS)
        self.message_callback = self.on_message
        self._given = check_options(
            {name: getattr(cls, name) for name in _OPTIONS if hasattr(cls, name)}
        )
        self._take_options(Options())
        return self

    def on_request(self, request: Request) -> Any:
        """Accept or refuse a client before the upgrade.

        Returns:
            None to accept it, a `Response` to refuse it, or any other object to accept
            it with this object as `client.session`.
        """

    def on_open(self, client: Any) -> Any:
        """A connection opened; you can write to the client."""

    def on_message(self, msg: Any, client: Any) -> Any:
        """A message arrived: `str` for text, `bytes` for binary.

        Returns:
            None, or a reply, which is sent as by `client.write_message`. The return
            value of that method counts as None.
        """

    def on_close(self, client: Any) -> Any:
        """A connection ended; once for each `on_open`. See `client.close_cause`."""

    def on_ping(self, client: Any) -> Any:
        """A ping was sent by the heartbeat, or received (and already answered)."""

    def on_pong(self, client: Any) -> Any:
        """A pong arrived; `client.latency` is up to date."""

    def on_drain(self, client: Any) -> Any:
        """All output of a client that had reported back-pressure has been written."""

    def on_error(self, error: Exception, client: Any) -> Any:
        """A callback raised. By default: log it, and close the client with 1011."""
        logger.error("a callback failed for %r", client, exc_info=error)
        client._fail_handler()

    def select_subprotocol(self, offered: Sequence[str]) -> str | None:
        """Choose among the subprotocols a client offers (RFC 6455 §4.2.2).

        By default the first of the option `subprotocols` that the client offers, or
        None, which continues without a subprotocol.
        """
        return next((name for name in self.subprotocols if name in offered), None)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OPTIONS:
            self._give({name: value})
            return
        if name in CALLBACKS:
            check_callback(name, value, CALLBACKS[name])
            if ends_later(value):
                self._take_late(name, value)
        super().__setattr__(name, value)
        if name == "on_message":
            self._note_message_callback()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name == "on_message":
            self._note_message_callback()

    def _note_message_callback(self) -> None:
        """Connections take it once, when they open: looking it up for every message
        takes 34 ns."""
        self.message_callback = self.on_message
        for client in self.clients:
            client._take_callback()

    def _give(self, options: dict[str, Any]) -> None:
        """Take options that a user gives, in place of earlier ones."""
        given = check_options(options)
        self._given |= given
        self._take_options(Options() if self.server is None else self.server.options)
        if given.keys().isdisjoint(_AT_THE_DOOR):
            return
        if self.server is None:
            self._set_admission()
        else:  # in the loop's thread: in another, clients come and go meanwhile
            self.server._on_loop(self._set_admission)

    def _callbacks(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        """Every callback, with the name that errors call it by."""
        for name in CALLBACKS:
            yield f"{self.name}.{name}", getattr(self, name)

    def _take_late(self, name: str, function: Callable[..., Any]) -> None:
        """Note a callback that ends later, if it can be waited for."""
        if name == "select_subprotocol":
            check_not_late(name, function)
        if self.server is not None:
            self.server._check_late(self, f"{self.name}.{name}", function)
        super().__setattr__("_late", True)

    def _take_options(self, defaults: Options) -> None:
        self.options = defaults.merged(self._given)
        for name in _OPTION_NAMES:
            super().__setattr__(name, getattr(self.options, name))
        super().__setattr__("ping_intervall", self.options.ping_interval)

    def _adopt(self, server: Any) -> None:
        """Belong to a server; its options stand behind the handler's own."""
        if self.server is not None and self.server is not server:
            raise InvalidState("the handler is mounted on another server")
        class_name = type(self).__name__
        if type(self).__hash__ is None:
            raise TypeError(f"{class_name} must be hashable; @dataclass needs eq=False")
        for name, handed in CALLBACKS.items():
            check_callback(f"{class_name}.{name}", getattr(self, name), handed)
        check_not_late(f"{class_name}.select_subprotocol", self.select_subprotocol)
        _check_client_class(f"{class_name}.client_class", self.client_class)
        was_ours, self.server = self.server is server, server
        self._take_options(server.options)
        if not was_ours:
            self._set_admission()

    def _set_admission(self) -> None:
        """Keep limits of the handler's own beside those of the server."""
        self._admission = None
        if self.server is not None and not self._given.keys().isdisjoint(_AT_THE_DOOR):
            self._admission = Admission(self.options, self.server._clock)
            for client in self.clients:
                self._admission.enter(client.address)

    def _abandon_server(self) -> None:
        """Belong to nobody: it came to no path."""
        self.server = None
        self._take_options(Options())
        self._set_admission()


def _check_client_class(what: str, client_class: object) -> None:
    """Refuse what cannot be the class of connections; a function may make them."""
    if isinstance(client_class, type):
        good = issubclass(client_class, Client)
    else:
        good = callable(client_class)
    if not good:
        raise TypeError(f"{what} must be a subclass of Client, not {client_class!r}")


class FunctionHandler(BaseHandler):
    """A handler of one function.

    Args:
        function: called with (msg, client); what it returns is the answer.
        options: of the handler.

    Raises:
        TypeError: The function has another signature.
    """

    def __init__(self, function: Callable[[Any, Any], Any], **options: Any) -> None:
        self._give(options)
        self.name = getattr(function, "__name__", repr(function))
        check_callback(self.name, function, CALLBACKS["on_message"])
        self.on_message = function  # type: ignore[assignment]

    def _callbacks(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        """The function."""
        yield self.name, self.on_message
