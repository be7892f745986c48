"""`AsyncTestServer` and `AsyncTestClient`: the test kit inside a running asyncio loop.

Coroutines of handlers run in that loop, so they may use what the test has made there.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol

from ..checks import duration
from ..connection.client import Client
from ..server.server import Server
from .client import TestClient
from .clock import Clock
from .http import HTTPAnswer, parse_answer, request_bytes
from .tracebacks import begins_in_the_test

__all__ = ["AsyncTestClient", "AsyncTestServer"]

#: Seconds of real time to wait for the loop's other work before a test fails.
_TIMEOUT = 15.0
#: Turns of the loop without anything to do, after which it counts as idle: a chain of
#: awaits takes a turn for each.
_IDLE_TURNS = 10
#: Seconds between two looks at what other tasks and threads bring.
_PAUSE = 0.001


class Kit(Protocol):
    """What it needs of the kit that it drives (`server.TestServer` has it)."""

    server: Server
    clock: Clock

    def close(self) -> None:
        """Stop the server."""

    def _connecting(
        self, path: str, options: Mapping[str, Any], address: tuple[str, int] | None
    ) -> AbstractContextManager[TestClient]:
        """A new client, which must open meanwhile."""

    def _join(
        self, address: tuple[str, int] | None = None
    ) -> tuple[socket.socket, Any]:
        """Connect a peer; return its socket, and the server's end."""

    def _exchange(self, sock: socket.socket, data: bytes) -> None:
        """Send bytes to the server."""

    def _step(self) -> bool:
        """Run one turn of all; return whether there was anything to do."""

    def _next_deadline(self) -> float | None:
        """When something is due, by the clock."""

    def _others_at_work(self) -> bool:
        """Whether something may come by itself."""

    def _raise_failures(self) -> None:
        """Fail the test by what callbacks have raised since the last time."""


@begins_in_the_test
class AsyncTestServer:
    """What `async with TestServer(...)` gives: its methods are awaited.

    Timers of the server obey the clock of the test; `asyncio.sleep` that of the loop.

    Attributes:
        server: the `Server`.
        clock: the `Clock` that `advance` moves.
    """

    __test__ = False

    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self.server: Server = kit.server
        self.clock: Clock = kit.clock

    async def connect(
        self,
        path: str = "/",
        *,
        address: tuple[str, int] | None = None,
        **options: Any,
    ) -> AsyncTestClient:
        """Open a WebSocket connection; see `TestServer.connect`."""
        with self._kit._connecting(path, options, address) as client:
            client._begin_opening()
            await self._wait(lambda: client._opened, "an answer to the handshake")
        return AsyncTestClient(self, client)

    async def request(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        address: tuple[str, int] | None = None,
    ) -> HTTPAnswer:
        """Send a plain HTTP request, and return the response; see `TestServer`."""
        sock, _ = self._kit._join(address)
        data = bytearray()
        ended = False

        def read() -> bool:
            nonlocal ended
            with suppress(BlockingIOError):
                while piece := sock.recv(65536):
                    data.extend(piece)
                ended = True
            return ended

        with sock:
            self._kit._exchange(sock, request_bytes(method, path, headers or {}, body))
            await self._wait(read, "a whole answer")
        return parse_answer(bytes(data), method)

    async def advance(self, seconds: float) -> None:
        """Let time pass for the server; everything due happens in order."""
        duration("seconds", seconds)
        await self._advance_until(lambda: False, self.clock.now + seconds)

    async def settle(self) -> None:
        """Run the server and the loop until they have nothing to do.

        Raises:
            Exception: What a callback has raised; see `TestServer.settle`.
        """
        import asyncio  # only when needed: that takes a while

        idle = 0
        while idle < _IDLE_TURNS:
            idle = 0 if self._kit._step() else idle + 1
            await asyncio.sleep(0)
        self._kit._raise_failures()

    async def wait_until(
        self, condition: Callable[[], object], what: str = "it"
    ) -> None:
        """Run server and loop until a condition is true that others bring about.

        Raises:
            AssertionError: It is still false after some seconds of real time.
        """
        import asyncio

        end = time.monotonic() + _TIMEOUT
        await self.settle()
        while not condition():
            assert time.monotonic() < end, f"{what} did not come in {_TIMEOUT:g} s"
            await asyncio.sleep(_PAUSE)
            await self.settle()

    def close(self) -> None:
        """Stop the server; leaving the `async with` does it, too."""
        self._kit.close()

    async def _wait(
        self, condition: Callable[[], object], what: str, timeout: float | None = None
    ) -> bool:
        """See `TestServer._wait`."""
        await self.settle()
        if not condition() and self._others_at_work():
            await self.wait_until(
                lambda: condition() or not self._others_at_work(), what
            )
        await self.settle()  # one of them may just have ended
        if timeout is not None:
            return await self._advance_until(condition, self.clock.now + timeout)
        assert condition(), (
            f"{what} did not come, and the server has nothing to do at this time"
        )
        return True

    async def _advance_until(self, condition: Callable[[], object], end: float) -> bool:
        """See `TestServer._advance_until`."""
        await self.settle()
        while not condition():
            due = self._kit._next_deadline()
            if due is None or due >= end:
                self.clock.now = end
                await self.settle()
                return bool(condition())
            self.clock.now = max(self.clock.now, due)
            await self.settle()
        return True

    def _others_at_work(self) -> bool:
        """Whether coroutines of handlers or others have not ended."""
        run = self.server._run
        return run is not None and (run.pending.busy or self._kit._others_at_work())


@begins_in_the_test
class AsyncTestClient:
    """A client of an `AsyncTestServer`; `TestClient` documents its methods.

    Attributes:
        peer: the `TestClient`, for what needs no waiting: `stall`, `vanish` and so on.
    """

    __test__ = False

    def __init__(self, server: AsyncTestServer, peer: TestClient) -> None:
        self._server = server
        self.peer = peer

    @property
    def client(self) -> Client:
        """The server's `Client` of this connection."""
        return self.peer.client

    def is_open(self) -> bool:
        """Whether messages can be sent: opened, and not closing, closed or lost."""
        return self.peer.is_open()

    async def send(self, msg: object, binary: bool | None = None) -> None:
        """Send a message, and run the server until it has nothing to do."""
        self.peer.send(msg, binary)
        await self._server.settle()

    async def send_json(self, value: Any) -> None:
        """Send any value as JSON text."""
        self.peer.send_json(value)
        await self._server.settle()

    async def recv(self, timeout: float | None = None) -> str | bytes:
        """Return the next message; with a timeout, the clock moves until it comes."""
        await self._server._wait(self.peer._has_input, "a message", timeout)
        return self.peer.recv(timeout)

    async def recv_json(self, timeout: float | None = None) -> Any:
        """Return the next message, parsed as JSON."""
        await self._server._wait(self.peer._has_input, "a message", timeout)
        return self.peer.recv_json(timeout)

    async def messages(self) -> list[str | bytes]:
        """Messages that arrived but were not received yet, the oldest first."""
        await self._server.settle()
        return self.peer.messages

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close with a closing handshake."""
        self.peer.close(code, reason)
        await self._server.settle()

    async def assert_open(self) -> None:
        """Fail unless the connection is open on both sides."""
        await self._server.settle()
        self.peer.assert_open()

    async def assert_closed(
        self,
        code: int | None = None,
        *,
        cause: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Fail unless the server has closed the connection in this way."""
        await self._server.settle()
        self.peer.assert_closed(code, cause=cause, reason=reason)
