"""What stands between connections and handlers, for all handlers of a server.

`Middleware` is to be subclassed; `Chain` puts several before a handler: in order on the
way in (`on_request`, `on_open`, messages), in reverse order on the way out (`on_send`,
`on_close`). The rest are ready-made.
"""

from __future__ import annotations

import json
import logging
import math
import types
from collections.abc import Callable, Generator, Iterator, Sequence
from enum import Enum
from typing import Any, ClassVar, Final

from ..connection.client import Client
from ..constants import SendStatus
from ..errors import AuthenticationError, InvalidData, InvalidState
from ..loop.deferred import check_callback, check_not_late, discard, go_through, is_late
from ..loop.schedule import check_interval
from ..messages import encode_json
from ..protocol.http11 import Request, Response
from .handler import BaseHandler

__all__ = [
    "Chain",
    "FirstMessageAuth",
    "JSONMessages",
    "Middleware",
    "Radio",
    "changes_output",
    "check_middleware",
]

logger = logging.getLogger("simple_ws")

_HANDED = {
    "on_use": ("server",),
    "on_request": ("request",),
    "on_open": ("client",),
    "on_first_message": ("msg", "client"),
    "on_message": ("msg", "client"),
    "on_send": ("msg", "client"),
    "on_close": ("client",),
}


class _Stop(Enum):
    STOP = "stop"


class Middleware:
    """Sees everything received and sent on all paths of a server; see `Server.use`.

    Every method is optional. Methods run in the thread of the loop and must not block,
    unless they are `in_thread`. `on_send` runs in the thread that writes to a client,
    and what it raises reaches the code that writes; messages that other threads
    broadcast, publish, deliver or send to an identity reach it in the loop's thread.
    All methods except `on_use` and `on_send` can be `async def` where callbacks of
    handlers can be.

    A plain function can replace a method, before `Server.use`.

    Attributes:
        STOP: returned by `on_first_message`, `on_message` and `on_send` to drop the
            message. They must not return None unless they were given None: it would be
            a forgotten `return`.
        authenticates: clients must be bound to an identity (`client.bind`) within the
            option `auth_timeout`.
    """

    STOP: Final = _Stop.STOP
    authenticates: ClassVar[bool] = False

    #: None is what it may make of a message.
    _makes_none: ClassVar[bool] = False

    def on_use(self, server: Any) -> Any:
        """The middleware was added to a server."""

    def on_request(self, request: Request) -> Any:
        """Accept or refuse a client before the upgrade; see `WebSocket.on_request`."""

    def on_open(self, client: Any) -> Any:
        """A connection opened."""

    def on_first_message(self, msg: Any, client: Any) -> Any:
        """The first message of a client to get this far; called before `on_message`.

        Returns:
            The message, another message to replace it, or `STOP`.
        """
        return msg

    def on_message(self, msg: Any, client: Any) -> Any:
        """A message arrived.

        Returns:
            The message, another message to replace it, or `STOP`.
        """
        return msg

    def on_send(self, msg: Any, client: Any) -> Any:
        """A message is about to be sent to a client.

        Returns:
            The message, another message to replace it, or `STOP`.
        """
        return msg

    def on_close(self, client: Any) -> Any:
        """A connection ended."""

    def _callbacks(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        """What is called of it, each with the name that errors call it by."""
        for name in _HANDED:
            yield f"{type(self).__name__}.{name}", getattr(self, name)


def check_middleware(middleware: object) -> None:
    """Refuse what is no middleware.

    Raises:
        TypeError: It is of another class, or a method has another signature or may not
            be async.
    """
    if not isinstance(middleware, Middleware):
        raise TypeError(
            f"middleware must be an instance of Middleware, not {middleware!r}"
        )
    for name, handed in _HANDED.items():
        what = f"{type(middleware).__name__}.{name}"
        check_callback(what, getattr(middleware, name), handed)
        if name in ("on_use", "on_send"):
            check_not_late(what, getattr(middleware, name))


def changes_output(middleware: Middleware) -> bool:
    """Whether it looks at what is sent."""
    return _overrides(middleware, "on_send")


def _overrides(middleware: Middleware, name: str) -> bool:
    return getattr(type(middleware), name) is not getattr(Middleware, name) or (
        name in vars(middleware)
    )


def _check_returned(middleware: Middleware, name: str, given: object) -> None:
    """Refuse None in place of a message."""
    if given is not None and not middleware._makes_none:
        raise TypeError(
            f"{type(middleware).__name__}.{name} returned None; it must return the "
            "message, another one, or Middleware.STOP"
        )


class Chain:
    """A handler with middlewares before it; it stands where the handler would.

    Args:
        handler: what is reached in the end.
        middlewares: in the order in which they were put in.
    """

    def __init__(self, handler: BaseHandler, middlewares: Sequence[Middleware]) -> None:
        self._handler = handler
        self._all: tuple[Any, ...] = (*middlewares, handler)
        self.clients = handler.clients
        self.tally = handler.tally
        self.message_callback = self.on_message
        self.authenticates = handler.authenticates or any(
            middleware.authenticates for middleware in middlewares
        )
        self._inward = tuple(
            middleware
            for middleware in middlewares
            if _overrides(middleware, "on_message")
            or _overrides(middleware, "on_first_message")
        )
        # So many of them at most ask for a first message.
        self._firsts = max(
            (
                number
                for number, middleware in enumerate(self._inward, 1)
                if _overrides(middleware, "on_first_message")
            ),
            default=0,
        )
        # How many of them a client's messages have reached, while not all.
        self._reached: dict[Client, int] = {}
        outward = tuple(filter(changes_output, reversed(middlewares)))
        self.client_class: Any = handler.client_class
        if outward:
            self.client_class = _sending_through(handler.client_class, outward)

    def __getattr__(self, name: str) -> Any:
        # Options, and the callbacks that no middleware has.
        if name == "_handler":
            raise AttributeError(name)
        return getattr(self._handler, name)

    def on_request(self, request: Request) -> object:
        """Ask all; the first `Response` refuses, the last session given counts."""
        session = None
        for asked in self._all:
            answer = asked.on_request(request)
            if isinstance(answer, Response):
                return answer
            session = session if answer is None else answer
        return session

    def on_open(self, client: Client) -> None:
        """Tell all; also if one fails or closes the client, since `on_close` comes."""
        if self._firsts:
            self._reached[client] = 0
        for told in self._all:
            client._call(told.on_open, client, owner=self._name_of(told))

    def on_close(self, client: Client) -> None:
        """Tell all, the handler first."""
        self._reached.pop(client, None)
        for told in reversed(self._all):
            client._call(told.on_close, client, owner=self._name_of(told))

    def _name_of(self, told: Any) -> str:
        handler = self._handler
        return handler.name if told is handler else type(told).__name__

    def on_message(self, msg: Any, client: Client) -> object:
        """Hand a message through; the handler's answer is the answer."""
        reached = self._reached.get(client)
        for index, middleware in enumerate(self._inward):
            if reached is not None and index >= reached:
                given, msg = msg, middleware.on_first_message(msg, client)
                if is_late(msg):
                    discard(msg)
                    name = type(middleware).__name__
                    raise InvalidState(f"nobody awaits {name}.on_first_message")
                if msg is None:
                    _check_returned(middleware, "on_first_message", given)
                # Behind it: where it fails, and the client stays, it is asked again.
                reached = self._note_reached(client, index + 1)
                if msg is _Stop.STOP:
                    return None
            given, msg = msg, middleware.on_message(msg, client)
            if msg is _Stop.STOP:
                return None
            if msg is None:
                _check_returned(middleware, "on_message", given)
        return self._handler.message_callback(msg, client)

    def _note_reached(self, client: Client, reached: int) -> int | None:
        if reached < self._firsts:
            self._reached[client] = reached
            return reached
        self._reached.pop(client, None)
        return None


def _sending_through(
    client_class: type[Client], filters: Sequence[Middleware]
) -> Callable[..., Client]:
    """A class of connections whose messages pass through middlewares.

    A class of its own, since the connections of handlers without such middlewares must
    not pay for it.
    """

    def write_message(
        self: Client, msg: object, binary: bool | None = None
    ) -> SendStatus:
        if not self.is_open():
            return SendStatus.DROPPED
        for middleware in filters:
            given, msg = msg, middleware.on_send(msg, self)
            if msg is _Stop.STOP:
                return SendStatus.DROPPED
            if msg is None:
                _check_returned(middleware, "on_send", given)
        return client_class.write_message(self, msg, binary)

    def refuse(*args: object) -> Client:
        raise TypeError(
            f"{client_class!r} cannot be subclassed, which middlewares with on_send "
            "need of a client_class"
        )

    members = {
        "__slots__": (),
        "__doc__": client_class.__doc__,
        "__module__": client_class.__module__,
        "write_message": write_message,
    }
    try:
        name = client_class.__name__
        made: type[Client] = types.new_class(
            name, (client_class,), exec_body=lambda space: space.update(members)
        )
        made.__qualname__ = client_class.__qualname__
    except Exception:  # a function, or a metaclass that wants something else
        logger.debug("no subclass of %r", client_class, exc_info=True)
        return refuse  # the handshake is the first to hear of it
    return made


# Ready-made


class FirstMessageAuth(Middleware):
    """Authenticates each client by its first message.

    Args:
        check: called with that message, and with the client if it takes two arguments;
            returns the identity, which the client is bound to. It raises
            `AuthenticationError` to refuse: the client is closed with 1008. Any other
            exception counts as a failure of the handler (1011).

    The check can be async, or `in_thread`. Handlers do not get the first message. A
    client that sends nothing for `auth_timeout` seconds is closed with 1008.

    An unauthenticated client is like any other, except that its messages do not pass:
    `on_open` was called, and it gets broadcasts. To keep messages from such clients,
    publish them to a topic that `check` or `on_message` subscribes the client to; or
    check credentials in `on_request`, before the connection is open.
    """

    authenticates = True

    def __init__(self, check: Callable[..., Any]) -> None:
        self._check = self._given = check
        try:
            check_callback("check", check, ("msg",))
            self._check = lambda msg, client: check(msg)
        except TypeError:
            check_callback("check", check, ("msg", "client"))

    def on_first_message(self, msg: Any, client: Any) -> Any:
        """Take it for credentials."""
        return go_through(self._admit(msg, client))

    def _callbacks(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        """The check as well."""
        yield from super()._callbacks()
        yield "check of FirstMessageAuth", self._given

    def _admit(self, msg: Any, client: Any) -> Generator[Any, Any, Any]:
        identity = yield self._check(msg, client)
        if identity is None or isinstance(identity, bool):
            # True would be everybody's.
            logger.error(
                "check of FirstMessageAuth returned %r, not an identity", identity
            )
            raise AuthenticationError("no identity")
        client.bind(identity)
        return self.STOP


class JSONMessages(Middleware):
    """Handlers receive and send JSON values; text on the wire is JSON (RFC 8259).

    Binary messages pass unchanged. Text that is not JSON fails the connection with 1007
    (`bad_data`), and so do NaN, infinities and numbers too large for a float. Sending
    an object that JSON cannot represent raises `TypeError` or `ValueError`.
    """

    _makes_none = True  # of `null`

    def on_message(self, msg: Any, client: Any) -> Any:
        """Parse text."""
        if not isinstance(msg, str):
            return msg
        try:
            return json.loads(msg, parse_float=_finite, parse_constant=_finite)
        except (ValueError, RecursionError) as error:
            raise InvalidData("the message is not JSON") from error

    def on_send(self, msg: Any, client: Any) -> Any:
        """Write whatever is not binary as JSON."""
        if isinstance(msg, bytes | bytearray | memoryview):
            return msg
        return encode_json(msg).decode()


def _finite(text: str) -> float:
    """A number that can be said again."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number


class Radio(Middleware):
    """Broadcasts on a timer, while at least one client is connected.

    Args:
        interval: seconds between two messages, and until the first one.
        produce: called without arguments for each message; None sends nothing. It can
            be async, or `in_thread`. Its exceptions are logged.

    Raises:
        TypeError, ValueError: `interval` is not 0.001 seconds or more, or `produce`
            takes arguments.
    """

    def __init__(self, interval: float, produce: Callable[[], Any]) -> None:
        check_callback("produce", produce, ())
        self._interval = check_interval(interval)
        self._produce = produce
        self._server: Any = None
        self._timer: Any = None

    def on_use(self, server: Any) -> Any:
        """Remember the server; start if a client is connected already."""
        if self._server not in (None, server):
            raise InvalidState("a Radio broadcasts on one server")
        self._server = server
        if server.clients:
            server.call_later(0, self._begin)

    def on_open(self, client: Any) -> Any:
        """Start with the first client."""
        self._begin()

    def on_close(self, client: Any) -> Any:
        """Stop with the last client."""
        self._cease_alone()

    def _begin(self) -> None:
        if self._timer is None:
            self._timer = self._server.every(self._interval, self._send)

    def _cease_alone(self) -> bool:
        """Cease when nobody is connected; say whether that is so."""
        if self._server.clients:
            return False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return True

    def _callbacks(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        """What makes the messages as well."""
        yield from super()._callbacks()
        yield "produce of Radio", self._produce

    def _send(self) -> Any:
        return go_through(self._produce_and_send())

    def _produce_and_send(self) -> Generator[Any, Any, None]:
        # Those who were connected before it was used leave unnoticed.
        if self._cease_alone():
            return
        msg = yield self._produce()
        if msg is not None:
            self._server.broadcast(msg)
