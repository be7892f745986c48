"""`Middleware`, the class to subclass: code that runs around all handlers of a server.

Calling several in order is left to `chain`; the library's own ones are in
`ready_made`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, ClassVar, Final, Self

from ..loop.deferred import check_callback, check_not_deferred
from ..protocol.http11 import Request
from .handler import CALLBACKS
from .names import Names

__all__ = [
    "HOOKS",
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
}


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
