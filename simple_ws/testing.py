"""A test kit: a server without ports, and a clock that the test controls.

    from simple_ws.testing import TestServer

    def test_everybody_hears_it():
        with TestServer(Chat()) as server:
            alice, bob = server.connect("/room"), server.connect("/room")
            alice.send("hello")
            assert bob.recv() == "hello"
            server.advance(25)          # time passes, nobody sleeps
            bob.stall()                 # a peer that does not read
            …
            bob.assert_closed(1013, cause="slow_consumer")

Server and clients run in the thread of the test; every step runs the server until it is
idle. Handlers can be `async def`: a private asyncio loop uses the same clock. With
pytest installed, the fixture `simple_ws` creates such servers and closes them.
"""

from __future__ import annotations

import itertools
import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from http.client import HTTPResponse
from io import BytesIO
from typing import TYPE_CHECKING, Any

from .checks import duration
from .client.core import ClientCore
from .client.options import check_client_options
from .connection.client import Client
from .constants import CloseCause, Opcode
from .errors import NO_CLOSE_FRAME
from .handlers.handler import BaseHandler
from .loop.deferred import is_async
from .messages import check_ping
from .protocol.client_handshake import Opening, Outcome
from .protocol.uri import parse_uri
from .server.server import Server
from .speedups import apply_mask, build_frame

if TYPE_CHECKING:
    import asyncio

__all__ = ["Clock", "HTTPAnswer", "TestClient", "TestServer"]

#: Seconds of real time to wait for other threads before a test has failed.
_TIMEOUT = 5.0
#: Turns until a server that never comes to rest is given up.
_MAX_TURNS = 100_000
#: Bytes that the system keeps for a peer that does not read.
_SOCKET_BUFFER = 65536

#: Of clients: what they hold in memory is the test's own.
_DEFAULTS = {"compression": False, "read_limit": 2**30, "max_size": None}

_peers = itertools.count(1)


class Clock:
    """A clock whose time passes only when the test says so; call it to read it.

    Attributes:
        now: its time in seconds.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """What it says."""
        return self.now


class HTTPAnswer:
    """The response of a server to a plain HTTP request.

    Attributes:
        status, reason: from the status line.
        headers: header fields of the response; names are case-insensitive.
        body: bytes.
    """

    def __init__(self, status: int, reason: str, headers: Any, body: bytes) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.body = body

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """The body, parsed as JSON."""
        import json

        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<HTTPAnswer {self.status} {self.reason}>"


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

    __test__ = False  # for pytest: no test case, whatever its name says

    def __init__(self, served: BaseHandler | Server, **options: Any) -> None:
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
        self._loop: asyncio.AbstractEventLoop | None = None
        if any(is_async(function) for _, function in self.server._all_callbacks()):
            self._loop = _make_loop(self.clock)
        self.server._begin_in_memory(self._loop)
        self._newest: Client  # the client that opened last
        self._welcome = self.server._add_client
        self.server._add_client = self._note_client  # type: ignore[method-assign]

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
        client = TestClient(self, path, options)
        client._sock = self._join(address)
        self._clients.append(client)
        try:
            client._open()
        except BaseException:
            # Whoever was refused takes no part in what comes.
            self._clients.remove(client)
            client._sock.close()
            raise
        return client

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
        sock = self._join(address)
        fields = {"Host": "testserver", "Connection": "close", **(headers or {})}
        if body:
            fields.setdefault("Content-Length", str(len(body)))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        head = f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
        with sock:
            self._exchange(sock, head + body)
            return _parse_answer(self._read_all(sock), method)

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
            for client in self._clients:
                moved = client._read() or moved
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
            select.select([self.server.reactor.fileno()], [], [], 0.01)

    def close(self) -> None:
        """Stop the server and cut the remaining connections; can be called twice."""
        for client in self._clients:
            client._sock.close()
        if self.server._run is not None:
            self.server._tear_down()
        if self._loop is not None and not self._loop.is_closed():
            _finish(self._loop)

    # How it moves

    def _note_client(self, client: Client) -> None:
        self._newest = client
        self._welcome(client)

    def _join(self, address: tuple[str, int] | None) -> socket.socket:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        address = address or ("192.0.2.1", 1024 + next(_peers) % 60000)
        self.server._on_accept(theirs, address)
        return ours

    def _turn(self) -> bool:
        """One turn; whether there was something to do."""
        run = self.server._run
        if run is None:
            return False
        reactor = run.reactor
        busy = reactor.time_to_sleep(None) == 0
        busy = busy or bool(select.select([reactor.fileno()], [], [], 0)[0])
        if self._loop is not None:
            busy = _turn_loop(self._loop) or busy
        reactor.run_once(0)
        self.server._after_turn()
        return busy

    def _next_deadline(self) -> float | None:
        reactor = self.server.reactor
        deadlines = [reactor.timers.next_deadline(), reactor.wheel.next_deadline]
        if self._loop is not None:
            deadlines.append(self._loop.next_deadline())  # type: ignore[attr-defined]
        return min((due for due in deadlines if due is not None), default=None)

    def _exchange(self, sock: socket.socket, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[sock.send(view) :]
            except BlockingIOError:
                assert self._turn(), "the server reads no more"
            except OSError:
                return  # it has closed: its answer may be there
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
            select.select([sock.fileno(), self.server.reactor.fileno()], [], [], 0.01)


class TestClient(ClientCore):
    """A client of a `TestServer`; like others it answers pings and close frames.

    Attributes:
        client: the server's `Client` of this connection.
        pings: payloads of the pings received, including unanswered ones.
        answer_pings: False leaves pings unanswered.
    """

    __test__ = False

    client: Client

    def __init__(
        self,
        server: TestServer,
        path: str,
        options: Mapping[str, Any],
    ) -> None:
        uri = parse_uri(f"ws://testserver{path}")
        self._checked = check_client_options(uri, {**_DEFAULTS, **options})
        self._opening = Opening(uri, self._checked, stay=True)
        self._server = server
        self._sock: socket.socket
        self._stalled = False
        self._out = bytearray()
        self._opened = False
        self.answer_pings = True
        self.pings: list[bytes] = []

    # What a test does with it

    def send(self, msg: object, binary: bool | None = None) -> None:
        """Send a message, of the types that `Client.write_message` takes.

        Raises:
            ConnectionClosed: The connection is not open.
            TypeError: The message has another type.
        """
        self._need_open()
        self.send_raw(self._frame(msg, binary))

    def send_fragments(self, parts: Iterable[str | bytes]) -> None:
        """Send one message in as many frames as there are parts (RFC 6455 §5.4).

        Args:
            parts: all str for a text message, or all bytes for a binary one.

        Raises:
            ConnectionClosed: The connection is not open.
        """
        self._need_open()
        pieces = list(parts)
        opcode = Opcode.TEXT if isinstance(pieces[0], str) else Opcode.BINARY
        for index, piece in enumerate(pieces):
            final = 0x80 if index == len(pieces) - 1 else 0
            data = piece.encode() if isinstance(piece, str) else piece
            first = final | (opcode if index == 0 else Opcode.CONTINUATION)
            self.send_raw(build_frame(first, data, b"\1\2\3\4"))

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._out += data
        self._server.settle()

    def drip(self, data: bytes) -> None:
        """Send bytes one by one; the server reads each separately."""
        for index in range(len(data)):
            self.send_raw(data[index : index + 1])

    def recv(self) -> str | bytes:
        """Return the next message.

        Raises:
            ConnectionClosed: There is none, and the connection has ended.
            AssertionError: There is none, though the connection is open.
        """
        if not self._inbox:
            self._server.wait_until(lambda: self._inbox or self._ended, "a message")
        if not self._inbox:
            raise self._closed()
        return self._take()

    @property
    def messages(self) -> list[str | bytes]:
        """Messages that arrived but were not received yet, the oldest first."""
        self._server.settle()
        return [message for message, _ in self._inbox]

    def ping(self, payload: bytes | str = b"") -> float:
        """Send a ping; return the seconds on the clock until its pong.

        Args:
            payload: at most 125 bytes; when empty, a unique one is used.

        Raises:
            AssertionError: No pong arrived.
            ConnectionClosed: The connection is not open.
            TypeError, ValueError: The payload is neither bytes nor str, or too long.
        """
        payload = check_ping(payload)
        self._need_open()
        payload = self._ping(payload)
        self._server.wait_until(lambda: payload not in self._pings, "a pong")
        return self.latency or 0.0

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close with a closing handshake, as far as the server takes part in it.

        Args:
            code: sent as it is, even one that must not be sent (RFC 6455 §7.4).
            reason: text for people, cut to 123 bytes of UTF-8.
        """
        if self.is_open():
            self._start_close(code, reason)
        self._server.settle()

    def stall(self) -> None:
        """Stop reading: the output of the server piles up, as with a slow client."""
        self._stalled = True

    def resume(self) -> None:
        """Resume reading, starting with what has piled up."""
        self._stalled = False
        self._server.settle()

    def vanish(self) -> None:
        """Become silent for good, without a FIN, as if the cable were cut."""
        self._stalled = True
        self.answer_pings = False

    def cut(self) -> None:
        """End the connection without a close frame."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._lose("cut by the test", CloseCause.LOCAL)
        self._server.settle()

    # What a test says of it

    def assert_open(self) -> None:
        """Fail unless the connection is open on both sides."""
        self._server.settle()
        assert self.is_open(), self._state()
        assert self.client.is_open(), self._state()

    def assert_closed(
        self,
        code: int | None = None,
        *,
        cause: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Fail unless the server has closed the connection in this way.

        Args:
            code: the server's `close_code`.
            cause: its `close_cause`, see `CloseCause`.
            reason: a part of its `close_reason`.
        """
        self._server.settle()
        ended = self.client.close_cause
        assert ended is not None, self._state()
        assert code is None or self.client.close_code == code, self._state()
        assert cause is None or ended == cause, self._state()
        assert reason is None or reason in self.client.close_reason, self._state()

    def _state(self) -> str:
        client = self.client
        if client.close_cause is None:
            return f"{client!r} is open, {self!r}"
        return (
            f"{client!r} ended with {client.close_code} {client.close_reason!r}, "
            f"cause {client.close_cause!s}"
        )

    # How it moves

    def _open(self) -> None:
        self._out += self._opening.begin()
        self._server.wait_until(lambda: self._opened, "an answer to the handshake")

    def _need_open(self) -> None:
        self._server.settle()
        if not self.is_open():
            raise self._closed()

    def _read(self) -> bool:
        """Send what waits and read what has come; whether anything moved."""
        moved = self._write()
        if self._stalled:
            return moved
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return moved
        except OSError:
            data = b""
        if not self._opened:
            self._receive_answer(data)
        elif data:
            self._feed(data)
        elif self._loss is None and not self._ended:
            self._lose(NO_CLOSE_FRAME, CloseCause.EOF)
        else:
            return moved
        return True

    def _write(self) -> bool:
        if not self._out:
            return False
        try:
            sent = self._sock.send(self._out)
        except BlockingIOError:
            return False
        except OSError:
            sent = len(self._out)
        del self._out[:sent]
        return True

    def _receive_answer(self, data: bytes) -> None:
        opening = self._opening
        outcome = opening.receive(data) if data else opening.receive_eof()
        if outcome is Outcome.OPEN:
            self._opened = True
            accepted = opening.accepted
            super().__init__(opening.uri, accepted, self._checked, self._server.clock)
            self.client = self._server._newest
            if accepted.rest:
                self._feed(accepted.rest)
        elif outcome is Outcome.REDIRECT:
            opening.refuse()

    def _put(self, frame: bytes) -> None:
        self._out += frame

    def _put_pong(self, frame: bytes) -> None:
        self.pings.append(apply_mask(frame[6:], frame[2:6]))  # the client's are masked
        if self.answer_pings:
            self._out += frame


def _parse_answer(data: bytes, method: str) -> HTTPAnswer:
    class Source:
        def makefile(self, mode: str) -> BytesIO:
            return BytesIO(data)

    response = HTTPResponse(Source(), method=method)  # type: ignore[arg-type]
    response.begin()
    return HTTPAnswer(
        response.status, response.reason, response.headers, response.read()
    )


# A private asyncio loop that keeps the clock of the test


def _make_loop(clock: Clock) -> asyncio.AbstractEventLoop:
    import asyncio

    class Loop(asyncio.SelectorEventLoop):
        """Turned by the test; its timers obey the test's clock."""

        def time(self) -> float:
            return clock.now

        def next_deadline(self) -> float | None:
            timers = [timer for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
            return min((timer.when() for timer in timers), default=None)

        def has_work(self) -> bool:
            due = self.next_deadline()
            return bool(self._ready) or (due is not None and due <= clock.now)  # type: ignore[attr-defined]

    return Loop()


def _turn_loop(loop: Any) -> bool:
    """Do what is due; whether there was something."""
    busy = bool(loop.has_work())
    loop.call_soon(loop.stop)
    loop.run_forever()
    return busy


def _finish(loop: Any) -> None:
    import asyncio

    for task in asyncio.all_tasks(loop):
        task.cancel()
    while asyncio.all_tasks(loop):
        _turn_loop(loop)
    loop.close()
