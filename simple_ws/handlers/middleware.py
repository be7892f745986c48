"""`Middleware`, the class to subclass: code that runs around all handlers of a server.

Calling several in order is left to `chain`; the library's own ones are in
`ready_made`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, ClassVar, Final, Self

from ..connection.client import Client
from ..loop.deferred import check_callback, check_not_deferred
from ..protocol.request import Request
from .handler import CALLBACKS
from .names import Names

__all__ = [
    "HOOKS",
    "Call",
    "Middleware",
    "changes_output",
    "check_middleware",
    "check_returned",
    "overrides",
]

#: The arguments of each hook.
HOOKS: Final[dict[str, tuple[str, ...]]] = {
    "on_use": ("server",),
    "on_request": ("request",),
    "on_open": ("client",),
    "on_first_message": ("msg", "client"),
    "on_message": ("msg", "client"),
    "on_send": ("msg", "client"),
    "on_close": ("client",),
    "on_error": ("error", "client"),
    "around": ("call",),
}


class Call:
    """What is done for one event; handed to `Middleware.around`, which calls it.

    It returns what the callback returns; in an `async def around` it is awaited.

    Attributes:
        name: of the callback: "on_request", "on_open", "on_message" or "on_close".
        args: of the callback.
        client: the client; None for `on_request`.
        request: of the opening handshake, for `on_request`; otherwise None.
        handler: the name of the handler, as in logs: for spans and metrics.
    """

    __slots__ = ("_returned", "_run", "args", "client", "handler", "name", "request")

    def __init__(
        self,
        name: str,
        handler: str,
        args: tuple[Any, ...],
        run: Callable[[], Any],
    ) -> None:
        self.name, self.handler, self.args = name, handler, args
        before = name == "on_request"
        self.client: Client | None = None if before else args[-1]
        self.request: Request | None = args[0] if before else None
        self._run = run
        self._returned: Any = None

    def __call__(self) -> Any:
        """Do the rest, and return its result."""
        self._returned = result = self._run()
        return result


class _Stop(Enum):
    STOP = "stop"


class Middleware:
    """Sees everything received and sent on all paths of a server; see `Server.use`.

    Every method is optional. Methods run in the thread of the loop and must not block,
    unless they are `in_thread`. `on_send` runs in the thread that writes to a client,
    and its exceptions reach the code that writes; messages that other threads
    broadcast, publish, deliver or send to an identity reach it in the loop's thread.
    All methods except `on_use` and `on_send` can be `async def` where callbacks of
    handlers can be.

    A plain function can replace a method, before `Server.use`.

    Attributes:
        STOP: returned by `on_first_message`, `on_message` and `on_send` to drop the
            message. They must not return None unless they were given None: it would be
            a forgotten `return`.
        authenticates: True: clients must be bound to an identity (`client.bind`) within
            the option `auth_timeout`, and until then get nothing that is sent to many
            (`broadcast`, `publish`, `deliver`). Other values mean nothing.
    """

    STOP: Final = _Stop.STOP
    authenticates: Any = False

    #: Whether it may turn a message into None.
    _makes_none: ClassVar[bool] = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Check the names of the class."""
        _NAMES.check_class(cls)
        return super().__new__(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        _NAMES.check(type(self).__name__, name, value)
        super().__setattr__(name, value)

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

    def on_error(self, error: Exception, client: Any) -> Any:
        """A callback raised; called before `on_error` of the handler, which decides.

        Exceptions by which a callback refuses or closes a client on purpose
        (`AuthenticationError`, `ProtocolError` and its subclasses) do not come here.

        Args:
            error: the exception, with its traceback.
            client: whose callback it was.
        """

    def around(self, call: Call) -> Any:
        """Stand around all that is done for one event: `return call()`.

        What is done are the hooks of all middlewares and the callback of the handler,
        for `on_request`, `on_open`, `on_message` and `on_close`. The `around` of the
        middleware that was added first is the outermost one. Exceptions of `on_request`
        and `on_message` pass through it; those of the others go to `on_error`.

        As `async def` it awaits, also what is a plain function: `return await call()`.
        As `def` it is over when an `async def` callback begins to wait.

        Args:
            call: does the rest when it is called; see `Call`. If it is not called,
                nothing is done for this event.

        Returns:
            What `call()` returned, or another reply to a message, or another decision
            about a request.
        """
        return call()

    def _callbacks(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        """The functions it calls, each with its name for errors."""
        for name in HOOKS:
            yield f"{type(self).__name__}.{name}", getattr(self, name)


_NAMES: Final = Names(
    "middleware",
    HOOKS,
    {"STOP": "the value that stops a message"},
    (name for name in vars(Middleware) if name in ("_callbacks", "_makes_none")),
    {name: "handlers" for name in CALLBACKS if name not in HOOKS},
)


def check_middleware(middleware: object) -> None:
    """Refuse what is not a middleware.

    Raises:
        TypeError: It is not a `Middleware`, or a method has another signature or must
            not be async.
    """
    if not isinstance(middleware, Middleware):
        raise TypeError(
            f"middleware must be an instance of Middleware, not {middleware!r}"
        )
    for name, handed in HOOKS.items():
        what = f"{type(middleware).__name__}.{name}"
        check_callback(what, getattr(middleware, name), handed)
        if name in ("on_use", "on_send"):
            check_not_deferred(what, getattr(middleware, name))


def changes_output(middleware: Middleware) -> bool:
    """Whether it uses `on_send`."""
    return overrides(middleware, "on_send")


def overrides(middleware: Middleware, name: str) -> bool:
    """Whether it overrides this method."""
    return getattr(type(middleware), name) is not getattr(Middleware, name) or (
        name in vars(middleware)
    )


def check_returned(middleware: Middleware, name: str) -> None:
    """Refuse a None that was returned instead of a message.

    Raises:
        TypeError: This middleware must not return None.
    """
    if not middleware._makes_none:
        raise TypeError(
            f"{type(middleware).__name__}.{name} returned None; it must return the "
            "message, another one, or Middleware.STOP"
        )
