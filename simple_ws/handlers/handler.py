"""`BaseHandler`: callbacks and options of the connections of one path.

`server.websocket.WebSocket` is what users subclass; it adds serving by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

from ..connection.admission import Admission
from ..connection.client import Client
from ..connection.option_checks import check_options
from ..connection.option_types import OptionAttributes
from ..connection.options import Options, divided
from ..connection.topics import Group
from ..errors import InvalidState
from ..loop.deferred import (
    check_callback,
    check_not_deferred,
    is_async,
    returns_deferred,
)
from ..protocol.request import Request
from ..speedups import Counters
from .names import Names
from .of_clients import C, OfClients, check_client_class

if TYPE_CHECKING:
    from typing import Unpack

    from ..connection.option_types import HandlerOptions

__all__ = [
    "CALLBACKS",
    "BaseHandler",
    "FunctionHandler",
]

_OPTION_NAMES = Options._fields
_OPTIONS = frozenset((*_OPTION_NAMES, "ping_intervall"))
#: Options that need counters (`connection.admission`).
_COUNTED = frozenset(("max_connections_per_ip", "handshake_rate"))

#: What decides how clients are opened, besides options (`server.plans`).
_DECISIVE = frozenset(("on_request", "client_class", "authenticates"))

#: The arguments of each callback.
CALLBACKS: Final[dict[str, tuple[str, ...]]] = {
    "on_request": ("request",),
    "on_open": ("client",),
    "on_connect": ("client",),
    "on_message": ("msg", "client"),
    "on_close": ("client",),
    "on_ping": ("client",),
    "on_pong": ("client",),
    "on_drain": ("client",),
    "on_error": ("error", "client"),
    "on_join": ("client", "topic", "join"),
    "on_gap": ("topic", "missing"),
    "on_presence": ("topic", "member", "joined"),
    "select_subprotocol": ("offered",),
}


class BaseHandler(OptionAttributes, OfClients[C]):
    """The base of `WebSocket`, without the methods to serve by itself.

    A plain function may replace a callback, and be removed again with `del`. Setting an
    option as an attribute counts as passing it; connections that are open may keep the
    value they have.
    """

    #: Class of the connections: a subclass of `Client` with your own state and methods.
    client_class: type[C] = Client  # type: ignore[assignment] # the default of C

    # Documented by `WebSocket`.
    clients: Group[C]
    server: Any
    options: Options

    _given: dict[str, Any]
    #: `on_message`, bound once for all connections.
    _message_callback: Callable[[Any, Any], Any]
    #: Whether some callbacks are async or `in_thread`.
    _has_deferred: bool
    #: The handler's name in logs and statistics.
    _log_name: str
    #: Counters of its connections.
    _counters: Counters
    _admission: Admission | None
    #: Whether its clients are let in even when the server is full.
    _always_admitted = False

    #: True: clients of this handler must be bound to an identity (`client.bind`) within
    #: the option `auth_timeout`. Other values mean nothing.
    authenticates: Any = False
    #: Nothing sent to many reaches its clients before they have an identity: so it is
    #: where a middleware authenticates. A handler that does it by itself decides alone.
    _closed_to_strangers = False
    #: Its messages are frames of a protocol of their own: middlewares neither see nor
    #: change them, but do all else.
    _own_format = False
    #: Its callbacks never return a deferred result, but for `on_request`.
    _never_defers = False
    #: In topics with presence each of its connections is a member, not its identity.
    _present_alone = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Create the handler's state, even if a subclass forgets __init__."""
        _NAMES.check_class(cls)
        self = super().__new__(cls)
        self._set(
            clients=Group(),
            server=None,
            _log_name=cls.__name__,
            _counters=Counters(),
            _admission=None,
            _has_deferred=any(
                returns_deferred(getattr(cls, name)) for name in CALLBACKS
            ),
            _message_callback=self.on_message,
            _given=check_options(
                {name: getattr(cls, name) for name in _OPTIONS if hasattr(cls, name)}
            ),
        )
        self._note_quiet()
        self._take_options(Options())
        return self

    def _set(self, **attributes: Any) -> None:
        """Set attributes that users must not set."""
        for name, value in attributes.items():
            super().__setattr__(name, value)

    def on_request(self, request: Request) -> Any:
        """Accept or refuse a client before the upgrade.

        Returns:
            None or True to accept it; False (403) or a `Response` to refuse it; any
            other object to accept it with this object as `client.session`. Numbers,
            plain tuples, exceptions, functions, classes and the like say nothing: they
            are logged as a mistake of the program, and the client gets 500.
        """

    def on_open(self, client: C) -> Any:
        """A connection opened; you can write to the client."""

    def on_connect(self, client: Any) -> Any:
        """An `async def` that owns a connection, as an `AsyncClient`, from its opening.

        It receives the messages, instead of `on_message`:

            async def on_connect(self, client):
                async for msg in client:
                    await client.send(msg)

        When it returns, the connection is closed with 1000; when it raises, `on_error`
        is called, which closes with 1011. When the client leaves, its methods deliver
        what has arrived, then raise `ConnectionClosed`, which is no error here. A
        coroutine that has received nothing and waits for something else is cancelled
        then; one that is at work gets `close_timeout` before that. `on_close` follows
        when both have ended. It needs an asyncio loop, see `Server.serve_async`.
        """

    def on_message(self, msg: Any, client: C) -> Any:
        """A message arrived: `str` for text, `bytes` for binary.

        Returns:
            None, or a reply, which is sent as by `client.write_message`. The return
            value of that method counts as None.
        """

    def on_close(self, client: C) -> Any:
        """A connection ended; once for each `on_open`. See `client.close_cause`."""

    def on_ping(self, client: C) -> Any:
        """A ping was sent by the heartbeat, or received (and already answered)."""

    def on_pong(self, client: C) -> Any:
        """A pong arrived; `client.latency` is up to date."""

    def on_drain(self, client: C) -> Any:
        """All output of a client that had reported back-pressure has been written."""

    def on_error(self, error: Exception, client: C) -> Any:
        """A callback raised. By default: log it, and close the client with 1011."""
        client._host._log.note_failure(
            f"callbacks of {self._log_name} failed",
            "a callback failed for %r",
            client,
            error=error,
            client=client,
        )
        client._fail_handler()

    def on_join(self, client: C, topic: str, join: Any) -> Any:
        """A client has entered a topic with history, or one with `since`.

        It was sent what it had missed, and gets what is published from now on.

        Args:
            client: the client.
            topic: as it was given to `client.subscribe`.
            join: `position`, a str for `since` when it comes back, with the next
                messages counted: it is `epoch:offset:tag`, each message has the next
                offset, and the tag may be left out; `recovered`, how many messages it
                was sent; `gap`, how many it has missed for ever, None if nobody knows.
        """

    def on_gap(self, topic: str | None, missing: int | None) -> Any:
        """With an engine: messages of other nodes did not arrive here.

        Called once for each handler with subscribers of the topic, which may want to
        load their state again. For a topic with history only what is not in the history
        any more is missing.

        Args:
            topic: None for messages to an identity or to everybody.
            missing: how many; None if nobody knows whether there were any, as after
                each interruption of the connection to the engine.
        """

    def on_presence(self, topic: str, member: Any, joined: bool) -> Any:
        """A member has joined a topic with presence, or has left it.

        Called once for each change on each node, and for each handler with subscribers
        of the topic there: to tell clients, publish with `local=True`. A node that
        begins to watch a topic, as the first client here subscribes to it, is told of
        the members that are there already. Who comes back within the option
        `presence_grace`, on any node, has neither left nor joined.

        Args:
            topic: see `Server.topic`.
            member: an identity, or the name of a client without one; see
                `Server.present`.
            joined: False: the member has left, on all nodes.
        """

    def select_subprotocol(self, offered: Sequence[str]) -> str | None:
        """Choose among the subprotocols that a client offers (RFC 6455 §4.2.2).

        By default the first of the option `subprotocols` that the client offers, or
        None, which continues without a subprotocol.
        """
        return next((name for name in self.subprotocols if name in offered), None)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OPTIONS:
            self._give({name: value})
            return
        class_name = type(self).__name__
        if name in CALLBACKS:
            check_callback(name, value, CALLBACKS[name])
            if returns_deferred(value):
                self._take_deferred(name, value)
            if name == "on_connect" and self.server is not None:
                raise InvalidState(f"{class_name} is mounted: set on_connect before")
        elif name == "client_class":
            check_client_class(f"{class_name}.client_class", value)
        else:
            _NAMES.check(class_name, name, value)
        super().__setattr__(name, value)
        self._note_callback(name)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self._note_callback(name)

    def _note_callback(self, name: str) -> None:
        """An attribute was set or removed, which may be a callback."""
        if name == "on_message":
            self._note_message_callback()
        elif name in ("on_ping", "on_pong"):
            self._note_quiet()
        if name in _DECISIVE:
            self._forget_plans()

    def _note_quiet(self) -> None:
        """Connections ping by themselves while nobody wants to be told of it."""
        self._counters.quiet = all(
            getattr(getattr(self, name), "__func__", None) is getattr(BaseHandler, name)
            for name in ("on_ping", "on_pong")
        )

    def _forget_plans(self) -> None:
        """New clients are to be opened in another way."""
        if self.server is not None:
            self.server._forget_plans()

    def _note_message_callback(self) -> None:
        """Update the connections, which look the callback up once when they open: one
        look-up for each message would take 34 ns."""
        self._set(_message_callback=self.on_message)
        for client in self.clients:
            client._take_callback()

    def _give(self, options: Mapping[str, Any]) -> None:
        """Accept options from a user; they replace earlier ones."""
        given = check_options(options)
        self._given.update(given)
        self._take_options(Options() if self.server is None else self.server.options)
        if given.keys().isdisjoint(_COUNTED):
            return
        if self.server is None:
            self._set_admission()
        else:  # only in the loop's thread: clients come and go there
            self.server._on_loop(self._set_admission)

    def _callbacks(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        """Every callback, with the name that errors call it by."""
        for name in CALLBACKS:
            yield f"{self._log_name}.{name}", getattr(self, name)

    def _take_deferred(self, name: str, function: Callable[..., Any]) -> None:
        """Accept a deferred callback, if something can await it."""
        if name == "select_subprotocol":
            check_not_deferred(name, function)
        if self.server is not None:
            self.server._check_deferred(self, f"{self._log_name}.{name}", function)
        self._set(_has_deferred=True)
        self._forget_plans()

    def _take_options(self, defaults: Options) -> None:
        options = defaults.merged(self._given)
        self._set(options=options, ping_intervall=options.ping_interval)
        rules = self._counters
        rules.ping_interval = options.ping_interval if options.ping else math.inf
        rules.ping_timeout = options.ping_timeout
        rules.idle_timeout = options.idle_timeout or math.inf
        self._set(**{name: getattr(options, name) for name in _OPTION_NAMES})
        self._forget_plans()

    def _adopt(self, server: Any) -> None:
        """Mount on a server; the handler's own options override its options."""
        if self.server is not None and self.server is not server:
            raise InvalidState("the handler is mounted on another server")
        class_name = type(self).__name__
        if type(self).__hash__ is None:
            raise TypeError(f"{class_name} must be hashable; @dataclass needs eq=False")
        for name, handed in CALLBACKS.items():
            check_callback(f"{class_name}.{name}", getattr(self, name), handed)
        check_not_deferred(f"{class_name}.select_subprotocol", self.select_subprotocol)
        check_client_class(f"{class_name}.client_class", self.client_class)
        if self._is_owned():
            self._check_owned(class_name)
        was_ours = self.server is server
        self._set(server=server)
        self._take_options(server.options)
        if not was_ours:
            self._set_admission()

    def _is_owned(self) -> bool:
        """Whether a coroutine owns each connection."""
        return _overrides(self, "on_connect")

    def _check_owned(self, class_name: str) -> None:
        from ..connection.async_client import AsyncClient  # only when needed

        if not is_async(self.on_connect):
            raise TypeError(
                f"{class_name}.on_connect must be `async def`: a coroutine that owns "
                "the connection; on_open is called when one opens"
            )
        if _overrides(self, "on_message"):
            raise TypeError(
                f"{class_name} has on_connect and on_message: messages go to one only"
            )
        if self.client_class is not Client:
            what = f"{class_name}.client_class"
            check_client_class(what, self.client_class, AsyncClient)

    def _set_admission(self) -> None:
        """Create the handler's own limits, in addition to those of the server."""
        admission = None
        if self.server is not None and not self._given.keys().isdisjoint(_COUNTED):
            admission = Admission(self.options, self.server._clock)
            for client in self.clients:
                admission.enter(client.address)
        self._set(_admission=admission)
        self._forget_plans()

    def _divide_limits(self, count: int) -> None:
        """Take the limits of one of `count` workers, in its process."""
        self._set(_given=divided(self._given, count))
        self._take_options(self.server.options)
        self._set_admission()

    def _abandon_server(self) -> None:
        """Undo `_adopt`: mounting failed."""
        self._set(server=None)
        self._take_options(Options())
        self._set_admission()


def _overrides(handler: BaseHandler[Any], name: str) -> bool:
    """Whether a handler has a callback of its own."""
    default = getattr(BaseHandler, name)
    return getattr(getattr(handler, name), "__func__", None) is not default


#: Names on every handler. Users may set options and callbacks.
_NAMES: Final = Names(
    "handler",
    CALLBACKS,
    {
        "options": "the options in force",
        "server": "the server that the handler is mounted on",
        "clients": "the open connections",
        "host": "the address that the server listens on",
        "port": "the port that the server listens on",
    },
    (
        name
        for name in {*vars(BaseHandler), *BaseHandler.__annotations__}
        if name.startswith("_") and not name.startswith("__")
    ),
)


class FunctionHandler(BaseHandler):
    """A handler made from one function.

    Args:
        function: called with (msg, client); its return value is the reply.
        options: of the handler.

    Raises:
        TypeError: The function has another signature.
    """

    def __init__(
        self, function: Callable[[Any, Any], Any], **options: Unpack[HandlerOptions]
    ) -> None:
        self._give(options)
        name = getattr(function, "__name__", repr(function))
        self._set(_log_name=name)
        check_callback(name, function, CALLBACKS["on_message"])
        self.on_message = function  # type: ignore[assignment]

    def _callbacks(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        """The function."""
        yield self._log_name, self.on_message
