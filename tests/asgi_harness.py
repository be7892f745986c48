"""A server with an ASGI application that the test drives, and small applications."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from harness import Driven

from simple_ws import Server
from simple_ws.testing import TestServer

Event = dict[str, Any]
App = Callable[..., Any]


class Served(Driven):
    """A server with one application.

    Args:
        app: the application.
        prefix: where it is.
        mounted: arguments of `Server.asgi`.
        options: of the server.
    """

    def __init__(
        self, app: App, prefix: str = "/", *, mounted: Any = None, **options: Any
    ) -> None:
        self._peers = []
        server = Server("127.0.0.1", 0, **options)
        server.asgi(prefix, app, **(mounted or {}))
        TestServer.__init__(self, server, raise_server_exceptions=False)


class Calls:
    """An application that notes its scopes and events, and does what a test says.

    Args:
        act: awaited with (scope, receive, send) for each request; those of the
            lifespan are answered.
    """

    def __init__(self, act: App) -> None:
        self.act = act
        self.scopes: list[Event] = []
        self.received: list[Event] = []
        self.errors: list[BaseException] = []
        self.ended = 0

    async def __call__(self, scope: Event, receive: App, send: App) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return

        async def noted() -> Event:
            event: Event = await receive()
            self.received.append(event)
            return event

        self.scopes.append(scope)
        try:
            await self.act(scope, noted, send)
        except BaseException as error:
            self.errors.append(error)
            raise
        finally:
            self.ended += 1


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> Event:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: bytes = b"", more: bool = False) -> Event:
    return {"type": "http.response.body", "body": data, "more_body": more}


def answering(data: bytes = b"hello", *headers: tuple[bytes, bytes]) -> Calls:
    """Answers without waiting for anything."""

    async def act(scope: Event, receive: App, send: App) -> None:
        await send(start(200, *headers))
        await send(body(data))

    return Calls(act)


async def forever() -> None:
    """Wait until cancelled."""
    await asyncio.get_running_loop().create_future()


async def silent(scope: Event, receive: App, send: App) -> None:
    """Answers nothing."""


async def failing(scope: Event, receive: App, send: App) -> None:
    """Fails at once."""
    raise ValueError("what went wrong")


async def failing_later(scope: Event, receive: App, send: App) -> None:
    """Fails after it has waited."""
    await asyncio.sleep(0)
    raise ValueError("what went wrong")
