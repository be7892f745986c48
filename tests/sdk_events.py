"""For tests of `centrifuge-python`: what it was told, and a loop to run it in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from harness import DEADLINE

__all__ = ["Events", "leave", "run_test"]

W = TypeVar("W", bound="World")


class World(Protocol):
    """A server, and clients of the SDK."""

    async def stop(self) -> None: ...


class Events:
    """What a client or subscription of the SDK was told."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []
        self._changed = asyncio.Event()

    def __getattr__(self, name: str) -> Callable[[Any], Awaitable[None]]:
        if not name.startswith("on_"):
            raise AttributeError(name)

        async def note(context: Any) -> None:
            self.log.append((name[3:], context))
            self._changed.set()

        return note

    async def until(self, name: str, count: int = 1) -> list[Any]:
        """What came under a name, at least so often."""
        async with asyncio.timeout(DEADLINE):
            while len(found := self.of(name)) < count:
                self._changed.clear()
                await self._changed.wait()
        return found

    def of(self, name: str) -> list[Any]:
        return [context for told, context in self.log if told == name]

    @property
    def data(self) -> list[Any]:
        return [context.pub.data for context in self.of("publication")]


async def leave(*clients: Any) -> None:
    """Disconnect, and wait until the SDK has closed its sockets as well."""
    for client in clients:
        with suppress(Exception):
            await client.disconnect()
    async with asyncio.timeout(DEADLINE):
        while rest := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(rest)
        await asyncio.sleep(0)  # what they closed is called back


def run_test(make: Callable[[], W], test: Callable[[W], Awaitable[None]]) -> None:
    """Run a test in a loop and a world of its own."""

    async def main() -> None:
        world = make()
        try:
            async with asyncio.timeout(2 * DEADLINE):
                await test(world)
        finally:
            await world.stop()

    asyncio.run(main())
