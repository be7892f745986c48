"""`Mount`: an ASGI application below a prefix, for plain requests and WebSockets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..http.routes import Route, check_prefix
from ..loop.deferred import check_callback
from .events import Application, Receive, Scope, Send
from .http import Cycle
from .lifespan import Lifespan
from .websocket import WebSocketHandler

if TYPE_CHECKING:
    import asyncio

    from ..handlers.pending import PendingCalls

__all__ = ["Mount"]


class Mount:
    """An application, and where it is.

    Args:
        prefix: all paths below it belong to the application.
        app: the application.
        root_path: what a proxy has removed from the paths.
        max_body: bytes of a request's body, or None.

    Raises:
        TypeError: The application takes other arguments; another value is of a wrong
            type.
        ValueError: See `check_prefix`; `root_path` or `max_body` is wrong.
    """

    lifespan: Lifespan
    pending: PendingCalls
    loop: asyncio.AbstractEventLoop

    def __init__(
        self, prefix: str, app: Application, root_path: str, max_body: int | None
    ) -> None:
        self.prefix = check_prefix(prefix)
        check_callback("app", app, ("scope", "receive", "send"))
        self.app = app
        self.removed = _check_root_path(root_path)
        self.root_path = self.removed + self.prefix
        self.max_body = _check_max_body(max_body)
        self.name = f"the application {_name_of(app)}"
        self.handler = WebSocketHandler(self)
        self.route = Route(
            Cycle.call_application,  # type: ignore[arg-type]  # of these exchanges
            exchange=partial(Cycle, self),
        )

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application; tells by its kind that there must be a loop for it."""
        await self.app(scope, receive, send)

    def begin(
        self,
        pending: PendingCalls,
        loop: asyncio.AbstractEventLoop,
        on_end: Callable[[], object],
    ) -> None:
        """A run of the server begins; `on_end` is called when the lifespan is over."""
        self.pending, self.loop = pending, loop
        self.lifespan = Lifespan(self.app, loop, self.name, on_end)


def _name_of(app: object) -> str:
    """Its name in the log: that of a function, or of the class of an object."""
    return getattr(app, "__name__", None) or type(app).__name__


def _check_root_path(path: object) -> str:
    if not isinstance(path, str):
        raise TypeError(f"root_path must be a str, not {path!r}")
    if path and not path.startswith("/"):
        raise ValueError(f"root_path must begin with '/', not {path!r}")
    return path.rstrip("/")


def _check_max_body(size: Any) -> int | None:
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"max_body must be a number of bytes, not {size!r}")
    if size < 0:
        raise ValueError(f"max_body must be 0 or more, not {size}")
    return size
