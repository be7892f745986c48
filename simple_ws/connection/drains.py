"""`Drains`: coroutines that wait until clients have taken their output.

When that is so is noticed by `closing`; what is too much output, by `backpressure`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from .interfaces import Connection

if TYPE_CHECKING:
    import asyncio

__all__ = ["Drains"]


class Drains:
    """The waits of all connections of a server; nearly always there are none."""

    def __init__(self) -> None:
        self._waiting: dict[Connection, list[asyncio.Future[None]]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    async def wait(self, client: Connection) -> None:
        """Wait until a connection has taken its output, or has ended."""
        from asyncio import get_running_loop  # a server does without, until it waits

        client._flush()
        if not client.is_open() or not client.buffered_amount:
            return
        client._await_drain = True
        future = get_running_loop().create_future()
        futures = self._waiting.setdefault(client, [])
        futures.append(future)
        try:
            await future
        finally:
            with suppress(ValueError):
                futures.remove(future)

    def wake(self, client: Connection) -> None:
        """A connection has taken its output, or has ended."""
        for future in self._waiting.pop(client, ()):
            if not future.done():
                future.set_result(None)
