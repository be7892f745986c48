"""What stands before a handler: middlewares, the order of events, its coroutines."""

from __future__ import annotations

from ..loop.deferred import returns_deferred
from .around import surrounded
from .chain import Chain
from .handler import BaseHandler
from .middleware import Middleware
from .ordering import Awaited
from .pending import PendingCalls
from .wrapper import Wrapper

__all__ = ["wrap"]


def wrap(
    handler: BaseHandler,
    middlewares: tuple[Middleware, ...],
    pending: PendingCalls,
    *,
    in_asyncio: bool,
) -> BaseHandler | Wrapper:
    """A handler with all that stands before it.

    Args:
        handler: of one path.
        middlewares: of the server, the outermost first.
        pending: runs what is deferred.
        in_asyncio: async functions can be awaited.
    """
    owned = _owned(handler, pending)
    wrapped: BaseHandler | Wrapper = handler if owned is None else owned
    awaited = (
        handler._has_deferred
        or _have_deferred(middlewares)
        or (in_asyncio and not handler._never_defers)
    )
    if middlewares:
        wrapped = Chain(wrapped, middlewares, awaited=awaited)
        wrapped = surrounded(wrapped, middlewares, pending)
    straight = wrapped is owned or (
        isinstance(wrapped, Chain) and not wrapped.sees_messages
    )
    if awaited:
        wrapped = Awaited(wrapped, pending)
    if owned is not None and straight:
        # Straight to the coroutine: nothing else wants them.
        wrapped._message_callback = owned.on_message
    return wrapped


def _owned(handler: BaseHandler, pending: PendingCalls) -> Wrapper | None:
    if not handler._is_owned():
        return None
    from .owned import Owned  # only when needed

    return Owned(handler, pending)


def _have_deferred(middlewares: tuple[Middleware, ...]) -> bool:
    return any(
        returns_deferred(function)
        for middleware in middlewares
        for _, function in middleware._callbacks()
    )
