"""What stands between connections and handlers, for all handlers of a server.

`Middleware` is to be subclassed; `Chain` puts several before a handler: in order on the
way in (`on_request`, `on_open`, messages), in reverse order on the way out (`on_send`,
`on_close`). The rest are ready-made.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, ClassVar, Final

from .connection import Client
from .constants import SendStatus
from .errors import AuthenticationError, InvalidData, InvalidState
from .handler import BaseHandler, check_callback
from .http11 import Request, Response

__all__ = [
    "Chain",
    "FirstMessageAuth",
    "JSONMessages",
    "Middleware",
    "Radio",
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
    """Sees what comes and goes on all paths of a server; `Server.use` puts it in.

    Every method is optional. They run in the thread of the loop and must not block;
    `on_send` runs in the thread that sends, and what it raises reaches whoever sends.

    Attributes:
        STOP: what `on_first_message`, `on_message` and `on_send` return to have the
            message go no further.
        authenticates: clients must be bound to an identity (`client.bind`) within the
            option `auth_timeout`.
    """

    STOP: Final = _Stop.STOP
    authenticates: ClassVar[bool] = False

    def on_use(self, server: Any) -> Any:
        """It was put into a server."""

    def on_request(self, request: Request) -> Any:
        """Decide about a client before the upgrade, as `WebSocket.on_request` does."""

    def on_open(self, client: Any) -> Any:
        """A connection opened."""

    def on_first_message(self, msg: Any, client: Any) -> Any:
        """The first message of a client that comes as far as here; before `on_message`.

        Returns:
            The message, another one in its place, or `STOP`.
        """
        return msg

    def on_message(self, msg: Any, client: Any) -> Any:
        """A message came.

        Returns:
            The message, another one in its place, or `STOP`.
        """
        return msg

    def on_send(self, msg: Any, client: Any) -> Any:
        """A message is about to be sent to a client.

        Returns:
            The message, another one in its place, or `STOP`.
        """
        return msg

    def on_close(self, client: Any) -> Any:
        """A connection ended."""


def check_middleware(middleware: object) -> None:
    """Refuse what is no middleware.

    Raises:
        TypeError: It is of another class, or a method has another signature.
    """
    if not isinstance(middleware, Middleware):
        raise TypeError(
            f"middleware must be an instance of Middleware, not {middleware!r}"
        )
    for name, handed in _HANDED.items():
        what = f"{type(middleware).__name__}.{name}"
        check_callback(what, getattr(middleware, name), handed)


def _overrides(middleware: Middleware, name: str) -> bool:
    return getattr(type(middleware), name) is not getattr(Middleware, name) or (
        name in vars(middleware)
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
        outward = tuple(
            middleware.on_send
            for middleware in reversed(middlewares)
            if _overrides(middleware, "on_send")
        )
        self.client_class = handler.client_class
        if outward:
            self.client_class = _sending_through(handler.client_class, outward)
        # How many middlewares a client's messages have reached, while not all.
        self._reached: dict[Client, int] = {}

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
        if self._inward:
            self._reached[client] = 0
        for told in self._all:
            client._call(told.on_open, client)

    def on_close(self, client: Client) -> None:
        """Tell all, the handler first."""
        self._reached.pop(client, None)
        for told in reversed(self._all):
            client._call(told.on_close, client)

    def on_message(self, msg: Any, client: Client) -> object:
        """Hand a message through; the handler's answer is the answer."""
        reached = self._reached.get(client)
        for index, middleware in enumerate(self._inward):
            if reached is not None and index >= reached:
                reached = self._note_reached(client, index + 1)
                msg = middleware.on_first_message(msg, client)
                if msg is _Stop.STOP:
                    return None
            msg = middleware.on_message(msg, client)
            if msg is _Stop.STOP:
                return None
        return self._handler.message_callback(msg, client)

    def _note_reached(self, client: Client, reached: int) -> int | None:
        if reached < len(self._inward):
            self._reached[client] = reached
            return reached
        self._reached.pop(client, None)
        return None


def _sending_through(
    client_class: type[Client], filters: Sequence[Callable[[Any, Any], Any]]
) -> type[Client]:
    """A class of connections whose messages pass through functions."""

    def write_message(
        self: Client, msg: object, binary: bool | None = None
    ) -> SendStatus:
        if not self.is_open():
            return SendStatus.DROPPED
        for function in filters:
            msg = function(msg, self)
            if msg is _Stop.STOP:
                return SendStatus.DROPPED
        return client_class.write_message(self, msg, binary)

    members = {"write_message": write_message, "send": write_message}
    return type(client_class.__name__, (client_class,), {"__slots__": (), **members})


# Ready-made


class FirstMessageAuth(Middleware):
    """Lets nobody pass who has not said who they are in their first message.

    Args:
        check: called with that message, and with the client if it needs two
            arguments; returns the identity, which the client is bound to. It raises
            `AuthenticationError` to refuse: the client is closed with 1008. Whatever
            else it raises is the handler's failure (1011).

    The message goes no further. Who says nothing for `auth_timeout` seconds is closed
    with 1008.
    """

    authenticates = True

    def __init__(self, check: Callable[..., Any]) -> None:
        self._check = check
        try:
            check_callback("check", check, ("msg",))
            self._check = lambda msg, client: check(msg)
        except TypeError:
            check_callback("check", check, ("msg", "client"))

    def on_first_message(self, msg: Any, client: Any) -> Any:
        """Take it for credentials."""
        identity = self._check(msg, client)
        if identity is None:
            logger.error("check of FirstMessageAuth returned None, not an identity")
            raise AuthenticationError("no identity")
        client.bind(identity)
        return self.STOP


class JSONMessages(Middleware):
    """Handlers get and give what JSON can say; text on the wire is JSON.

    Binary messages pass as they are. Text that is not JSON fails the connection with
    1007 (`bad_data`).
    """

    def on_message(self, msg: Any, client: Any) -> Any:
        """Parse text."""
        if not isinstance(msg, str):
            return msg
        try:
            return json.loads(msg)
        except (ValueError, RecursionError) as error:
            raise InvalidData("the message is not JSON") from error

    def on_send(self, msg: Any, client: Any) -> Any:
        """Write whatever is not binary as JSON."""
        if isinstance(msg, bytes | bytearray | memoryview):
            return msg
        return json.dumps(msg)


class Radio(Middleware):
    """Broadcasts on a timer, while somebody is connected.

    Args:
        interval: seconds from one message to the next.
        produce: called for each message, without arguments; None sends nothing.
    """

    def __init__(self, interval: float, produce: Callable[[], Any]) -> None:
        check_callback("produce", produce, ())
        self._interval = interval
        self._produce = produce
        self._server: Any = None
        self._timer: Any = None

    def on_use(self, server: Any) -> Any:
        """Remember where to broadcast."""
        if self._server not in (None, server):
            raise InvalidState("a Radio broadcasts on one server")
        self._server = server

    def on_open(self, client: Any) -> Any:
        """Begin with the first one."""
        if self._timer is None:
            self._timer = self._server.every(self._interval, self._send)

    def on_close(self, client: Any) -> Any:
        """Cease with the last one."""
        if not self._server.clients and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send(self) -> None:
        msg = self._produce()
        if msg is not None:
            self._server.broadcast(msg)
