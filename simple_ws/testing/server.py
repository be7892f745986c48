"""`TestServer`: a server without ports that runs when the test does something.

What its peers do is left to `client`. The project's own tests drive their server with
this class, too (tests/harness.py).
"""

from __future__ import annotations

import itertools
import select
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ..checks import duration
from ..handlers.handler import BaseHandler
from ..loop.deferred import is_async
from ..server.server import Server
from ..server.upgrade import UpgradeConnection
from .client import TestClient
from .clock import Clock
from .http import HTTPAnswer, parse_answer
from .live import TestLive

if TYPE_CHECKING:
    from typing import Unpack

    from ..connection.options import ServerOptions
    from ..server.run import Run
    from .asyncio_loop import ClockLoop

__all__ = ["ServerFactory", "TestServer"]

#: Seconds of real time to wait for other threads before a test fails.
_TIMEOUT = 15.0
#: Turns after which a server that never becomes idle is given up.
_MAX_TURNS = 100_000
#: Bytes that the system buffers for a peer that does not read.
_SOCKET_BUFFER = 65536

_peers = itertools.count(1)


class TestServer:
    """A server in the thread of a test, which runs only when the test does something.

    Args:
        served: a handler, which is mounted on every path, or a `Server` that has not
            run yet.
        options: options of the server that is created for a handler.

    Attributes:
        server: the `Server`.
        clock: the `Clock` that `advance` moves.

    Raises:
        TypeError: `served` is something else.
    """

    __test__ = False  # for pytest: not a test case, despite its name

    def __init__(
        self, served: BaseHandler[Any] | Server, **options: Unpack[ServerOptions]
    ) -> None:
        self.clock = Clock()
        if isinstance(served, BaseHandler):
            self.server = Server("127.0.0.1", 0, **options)
            self.server.mount("*", served)
        elif isinstance(served, Server) and not options:
            self.server = served
        else:
            raise TypeError(f"served must be a handler or a Server, not {served!r}")
        self.server._use_clock(self.clock)
        self._clients: list[TestClient] = []
        self._lives: list[TestLive] = []
        self._loop: ClockLoop | None = None
        if any(is_async(function) for _, function in self.server._all_callbacks()):
            # Only when needed: importing asyncio takes a while.
            from .asyncio_loop import ClockLoop

            self._loop = ClockLoop(self.clock)
        self.server._begin_in_memory(self._loop)

    def __enter__(self) -> TestServer:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def connect(
        self,
        path: str = "/",
        *,
        address: tuple[str, int] | None = None,
        **options: Any,
    ) -> TestClient:
        """Open a WebSocket connection.

        Args:
            path: the path, including the query if there is one.
            address: (host, port) that the server sees; by default an address reserved
                for documentation (RFC 5737).
            options: as for `simple_ws.connect`: subprotocols, headers, cookies, origin,
                compression (False by default) and so on.

        Raises:
            HandshakeRefused: The server answered with a status other than 101.
            TypeError, ValueError: An option is unknown or wrong.
        """
        client = TestClient(self, path, options, address)
        self._clients.append(client)
        try:
            client._open()
        except BaseException:
            # A refused client takes no part in later steps.
            self._clients.remove(client)
            client._sock.close()
            raise
        return client

    def live(self, path: str, **options: Any) -> TestLive:
        """Connect to a `Server.live`, and wait until that has succeeded.

        Args:
            path: as for `Server.live`.
            options: those of `simple_ws.live.connect`; and those of `connect`.

        Raises:
            LiveError: The server does not accept the client.
            ConnectError: It refused the connection, and trying again would not help.
            ConnectionClosed: It has closed it, and says not to come back.
            TypeError, ValueError: An option is unknown or wrong.
        """
        live = TestLive(self, f"{path}/websocket", options)
        self._lives.append(live)
        live._begin(None)
        return live

    def request(
        self,
        method: str = "GET",
        path: str = "/",
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        address: tuple[str, int] | None = None,
    ) -> HTTPAnswer:
        """Send a plain HTTP request, and return the response.

        Args:
            method: such as "POST".
            path: the path, including the query if there is one.
            headers: additional header fields, by name.
            body: the bytes of the body.
            address: (host, port) that the server sees, as for `connect`.

        Raises:
            AssertionError: There was no response.
        """
        sock, _ = self._join(address)
        fields = {"Host": "testserver", "Connection": "close", **(headers or {})}
        if body:
            fields.setdefault("Content-Length", str(len(body)))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        head = f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
        with sock:
            self._exchange(sock, head + body)
            return parse_answer(self._read_all(sock), method)

    def advance(self, seconds: float) -> None:
        """Let time pass; everything that becomes due happens in order.

        Args:
            seconds: how far to move the clock.

        Raises:
            TypeError, ValueError: The value does not move the clock forward.
        """
        duration("seconds", seconds)
        end = self.clock.now + seconds
        self.settle()
        while (due := self._next_deadline()) is not None and due < end:
            self.clock.now = max(self.clock.now, due)
            self.settle()
        self.clock.now = end
        self.settle()

    def settle(self) -> None:
        """Run the server until it has nothing to do."""
        for _ in range(_MAX_TURNS):
            moved = self._turn()
            for client in tuple(self._clients):
                moved = client._read() or moved
            for live in self._lives:
                moved = live._kit.step() or moved
            if not moved:
                return
        raise AssertionError("the server does not come to rest")

    def wait_until(self, condition: Callable[[], object], what: str = "it") -> None:
        """Run the server until a condition that other threads bring about is true.

        Args:
            condition: called repeatedly, until it returns something true.
            what: a description of it for the text of the error.

        Raises:
            AssertionError: It is still false after some seconds of real time.
        """
        end = time.monotonic() + _TIMEOUT
        while True:
            self.settle()
            if condition():
                return
            assert time.monotonic() < end, f"{what} did not come in {_TIMEOUT:g} s"
            self._wait_for_others()

    def close(self) -> None:
        """Stop the server and cut the remaining connections; can be called twice."""
        self._lives.clear()
        for client in self._clients:
            client._sock.close()
        if self.server._run is not None:
            self.server._tear_down()
        if self._loop is not None:
            self._loop.finish()

    # Driving the server

    def _join(
        self,
        address: tuple[str, int] | None = None,
        wrap: Callable[[socket.socket], Any] | None = None,
    ) -> tuple[socket.socket, UpgradeConnection]:
        """Connect a peer; return its socket, and the server's end of the connection.

        Args:
            address: that the server sees.
            wrap: returns what the server gets in place of its socket.
        """
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        address = address or ("192.0.2.1", 1024 + next(_peers) % 60000)
        given = theirs if wrap is None else wrap(theirs)
        return ours, self.server._on_accept(given, address)

    def _turn(self) -> bool:
        """Run one turn; return whether there was anything to do."""
        run = self.server._run
        if run is None:
            return False
        reactor = run.reactor
        busy = reactor.time_to_sleep(None) == 0
        busy = busy or bool(select.select([reactor.fileno()], [], [], 0)[0])
        if self._loop is not None:
            # In the loop: coroutines that begin at once ask for the one that runs.
            return self._loop.turn(partial(self._turn_server, run)) or busy
        self._turn_server(run)
        return busy

    def _turn_server(self, run: Run) -> None:
        if self.server._run is run:  # code in the asyncio loop may have ended it
            run.reactor.run_once(0)
            self.server._after_turn()

    def _next_deadline(self) -> float | None:
        reactor = self.server.reactor
        deadlines = [reactor.timers.next_deadline(), reactor.wheel.next_deadline]
        if self._loop is not None:
            deadlines.append(self._loop.next_deadline())
        deadlines += [live._kit.next_deadline for live in self._lives]
        return min((due for due in deadlines if due is not None), default=None)

    def _wait_for_others(self, *sockets: socket.socket) -> None:
        """Give other threads a moment; less if something happens."""
        run = self.server._run
        reactors = () if run is None else (run.reactor,)
        select.select([*sockets, *reactors], [], [], 0.01)

    def _exchange(self, sock: socket.socket, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[sock.send(view) :]
            except BlockingIOError:
                assert self._turn(), "the server reads no more"
            except OSError:
                return  # it has closed: its response may be complete
        self.settle()

    def _read_all(self, sock: socket.socket) -> bytes:
        data = bytearray()
        end = time.monotonic() + _TIMEOUT
        while True:
            with suppress(BlockingIOError):
                piece = sock.recv(65536)
                if not piece:
                    return bytes(data)
                data += piece
                continue
            self.settle()
            assert time.monotonic() < end, f"no whole answer: {bytes(data[:200])!r}"
            self._wait_for_others(sock)


class ServerFactory(Protocol):
    """The type of the pytest fixture `simple_ws`: it makes servers, and closes them."""

    def __call__(
        self, served: BaseHandler[Any] | Server, **options: Unpack[ServerOptions]
    ) -> TestServer:
        """Make a server; see `TestServer`."""
