"""`TestServer`: a server without ports that runs when the test does something.

What its peers do is left to `client`. The project's own tests drive their server with
this class, too (tests/harness.py).
"""

from __future__ import annotations

import itertools
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ..checks import duration
from ..errors import InvalidState
from ..handlers.handler import BaseHandler
from ..loop.deferred import is_async
from ..server.server import Server
from ..server.upgrade import UpgradeConnection
from .client import TestClient
from .clock import Clock
from .http import HTTPAnswer, parse_answer, request_bytes
from .live import TestLive
from .tracebacks import begins_in_the_test, without_library

if TYPE_CHECKING:
    from typing import Unpack

    from ..connection.option_types import ServerOptions
    from ..server.run import Run
    from .aio_server import AsyncTestServer
    from .asyncio_loop import ClockLoop

__all__ = ["ServerFactory", "TestServer"]

#: Seconds of real time to wait for other threads before a test fails.
_TIMEOUT = 15.0
#: Turns after which a server that never becomes idle is given up.
_MAX_TURNS = 100_000
#: Turns of the test's loop in which coroutines that were cancelled end.
_LAST_TURNS = 3
#: Bytes that the system buffers for a peer that does not read.
_SOCKET_BUFFER = 65536

_peers = itertools.count(1)


@begins_in_the_test
class TestServer:
    """A server in the thread of a test, which runs only when the test does something.

    What a callback, a timer or a function of `Server.http` raises fails the test: the
    call of the kit that has run it raises the same exception, or an `ExceptionGroup` of
    several. `with pytest.raises(...)` expects one.

    `with TestServer(...)` works in a running asyncio loop, too: coroutines of handlers
    run in a loop of the kit, by the clock of the test. `async with TestServer(...)`
    returns an `AsyncTestServer`, with the same methods to be awaited: coroutines run in
    the loop of the test.

    Args:
        served: a handler, which is mounted on every path, or a `Server` that has not
            run yet.
        raise_server_exceptions: False: exceptions are logged only, as outside of tests,
            to test what clients get then (close code 1011, HTTP 500).
        options: options of the server that is created for a handler.

    Attributes:
        server: the `Server`.
        clock: the `Clock` that `advance` moves.

    Raises:
        TypeError: `served` is something else.
    """

    __test__ = False  # for pytest: not a test case, despite its name

    def __init__(
        self,
        served: BaseHandler[Any] | Server,
        *,
        raise_server_exceptions: bool = True,
        **options: Unpack[ServerOptions],
    ) -> None:
        self.clock = Clock()
        self._raises = raise_server_exceptions
        self._failures: list[Exception] = []
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
        self._begun = False
        if not _in_running_loop():  # there, perhaps `async with` follows
            self._begin()

    def _begin(self, loop: Any = None) -> None:
        """Start the server.

        Args:
            loop: the asyncio loop for coroutines; None: one of the kit, if needed.
        """
        callbacks = self.server._all_callbacks()
        if loop is None and any(is_async(function) for _, function in callbacks):
            # Only when needed: importing asyncio takes a while.
            from .asyncio_loop import ClockLoop

            loop = self._loop = ClockLoop(self.clock)
        self._begun = True
        self.server._begin_in_memory(loop)
        self.server.reactor.failure_listener = self._note_failure

    def __enter__(self) -> TestServer:
        if not self._begun:
            self._begin()
        return self

    def __exit__(self, kind: object = None, *args: object) -> None:
        if kind is not None:  # it has failed already
            self._raises = False
        self.close()

    async def __aenter__(self) -> AsyncTestServer:
        import asyncio

        from .aio_server import AsyncTestServer

        if self._begun:
            raise InvalidState("make the TestServer in the loop: it has begun already")
        self._begin(asyncio.get_running_loop())
        return AsyncTestServer(self)

    async def __aexit__(self, kind: object, *args: object) -> None:
        import asyncio

        try:
            self.__exit__(kind, *args)
        finally:
            for _ in range(_LAST_TURNS):
                await asyncio.sleep(0)

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
        with self._connecting(path, options, address) as client:
            client._open()
        return client

    @contextmanager
    def _connecting(
        self, path: str, options: Mapping[str, Any], address: tuple[str, int] | None
    ) -> Iterator[TestClient]:
        """A new client, which must open meanwhile."""
        client = TestClient(self, path, options, address)
        self._clients.append(client)
        try:
            yield client
        except BaseException:
            # A refused client takes no part in later steps.
            self._clients.remove(client)
            client._sock.close()
            self._raise_failures()  # why the server answered 500
            raise

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
        with sock:
            self._exchange(sock, request_bytes(method, path, headers or {}, body))
            return parse_answer(self._read_all(sock), method)

    def advance(self, seconds: float) -> None:
        """Let time pass; everything that becomes due happens in order.

        Args:
            seconds: how far to move the clock.

        Raises:
            TypeError, ValueError: The value does not move the clock forward.
        """
        duration("seconds", seconds)
        self._advance_until(lambda: False, self.clock.now + seconds)

    def _advance_until(self, condition: Callable[[], object], end: float) -> bool:
        """Let time pass until a condition is true; return whether it is at the end."""
        self.settle()
        while not condition():
            due = self._next_deadline()
            if due is None or due >= end:
                self.clock.now = end
                self.settle()
                return bool(condition())
            self.clock.now = max(self.clock.now, due)
            self.settle()
        return True

    def settle(self) -> None:
        """Run the server until it has nothing to do.

        Raises:
            Exception: What a callback has raised, unless `raise_server_exceptions` is
                False; an `ExceptionGroup` of several.
            AssertionError: It never comes to rest.
        """
        for _ in range(_MAX_TURNS):
            if not self._step():
                self._raise_failures()
                return
        raise AssertionError("the server does not come to rest")

    def _step(self) -> bool:
        """Run one turn of all; return whether there was anything to do."""
        moved = self._turn()
        for client in tuple(self._clients):
            moved = client._read() or moved
        for live in self._lives:
            moved = live._kit.step() or moved
        return moved

    def _note_failure(self, error: BaseException) -> None:
        if isinstance(error, Exception):  # nothing that was cancelled
            self._failures.append(error)

    def _raise_failures(self) -> None:
        """Fail the test by what callbacks have raised since the last time."""
        failures, self._failures = self._failures, []
        if not failures or not self._raises:
            return
        for error in failures:
            error.__traceback__ = without_library(error.__traceback__)
        if len(failures) > 1:
            raise ExceptionGroup("callbacks failed", failures)
        raise failures[0]

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

    def _wait(
        self, condition: Callable[[], object], what: str, timeout: float | None = None
    ) -> bool:
        """Run the server until a condition is true, and no longer than anything can
        make it true: threads in real time, the clock for `timeout` seconds of it.

        Raises:
            AssertionError: Without a timeout, it is still false.
        """
        self.settle()
        if not condition() and self._others_at_work():
            self.wait_until(lambda: condition() or not self._others_at_work(), what)
        self.settle()  # one of them may just have ended
        if timeout is not None:
            return self._advance_until(condition, self.clock.now + timeout)
        assert condition(), (
            f"{what} did not come, and the server has nothing to do at this time"
        )
        return True

    def _others_at_work(self) -> bool:
        """Whether something may come by itself, without the clock being moved."""
        run, loop = self.server._run, self._loop
        if run is None:
            return False
        if run.pending.in_threads or (loop is not None and loop.waits_for_others):
            return True
        if any(address.scheme != "memory" for address in self.server._engine_addresses):
            return True
        known = {threading.current_thread(), threading.main_thread()}
        known |= set() if loop is None else loop.threads
        return any(
            thread not in known and not thread.name.startswith("simple_ws ")
            for thread in threading.enumerate()
        )

    def close(self) -> None:
        """Stop the server and cut the remaining connections; can be called twice.

        Raises:
            Exception: What callbacks raise meanwhile, as from `settle`.
        """
        self._lives.clear()
        for client in self._clients:
            client._sock.close()
        if self.server._run is not None:
            self.server._tear_down()
        self._end_loop()
        self._raise_failures()

    def _end_loop(self) -> None:
        if self._loop is not None:
            self._loop.finish()
            self._loop = None

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
        if not self._begun:
            self._begin()
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


def _in_running_loop() -> bool:
    asyncio = sys.modules.get("asyncio")  # not imported: nothing runs in it
    return asyncio is not None and asyncio._get_running_loop() is not None


class ServerFactory(Protocol):
    """The type of the pytest fixture `ws_server`: it makes servers, and closes them."""

    def __call__(
        self,
        served: BaseHandler[Any] | Server,
        *,
        raise_server_exceptions: bool = True,
        **options: Unpack[ServerOptions],
    ) -> TestServer:
        """Make a server; see `TestServer`."""
