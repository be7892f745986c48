"""What applications send and receive: types, and errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "Application",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "released",
    "unexpected",
]

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]


def unexpected(message: Message, expected: str) -> RuntimeError:
    """The error of an application that sends something else than it may."""
    return RuntimeError(f"expected {expected}, but got {message.get('type')!r}")


def released(waiter: asyncio.Future[None] | None) -> None:
    """Let a coroutine go on that waits for this, if one does."""
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
