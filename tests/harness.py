"""Helpers for the tests of the server: a recording handler, a raw peer, two servers.

`running` serves in a background thread on a free port, as users do. `Driven` is a
server in the test's own thread: it runs only when the test does something, by a clock
that the test moves. Nothing sleeps here: every wait is for an event, with a deadline.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from simple_ws import Client, Server, WebSocket
from simple_ws.client.exclusive import ExclusiveCalls
from simple_ws.testing import Clock, TestServer

__all__ = [
    "ADDRESS",
    "BINARY",
    "CLOSE",
    "DEADLINE",
    "KEY",
    "PING",
    "PONG",
    "REQUEST",
    "TEXT",
    "Clock",
    "Driven",
    "Echo",
    "Event",
    "Peer",
    "Recorder",
    "Wrapped",
    "close_frame",
    "connect",
    "frame",
    "open_files",
    "open_peer",
    "poll_until",
    "queues_of",
    "request",
    "running",
    "small_buffers",
    "wait_for_end",
]

#: Seconds after which a test gives up; only a failing test waits so long.
DEADLINE = float(os.environ.get("TEST_DEADLINE", 15))
_PACKAGE = os.path.dirname(sys.modules["simple_ws"].__file__ or "") + os.sep

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
ADDRESS = ("192.0.2.1", 12345)
KEY = b"\x37\xfa\x21\x3d"

REQUEST = (
    "GET {path} HTTP/1.1\r\n"
    "Host: example.com\r\n"
    "Upgrade: websocket\r\n"
    "Connection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Version: 13\r\n"
    "{headers}\r\n"
)


def request(path: str = "/", *headers: str) -> bytes:
    """A good upgrade request; `headers` are more lines such as "Origin: x"."""
    lines = "".join(f"{line}\r\n" for line in headers)
    return REQUEST.format(path=path, headers=lines).encode("latin-1")


def frame(
    opcode: int, payload: bytes | str = b"", fin: bool = True, rsv: int = 0
) -> bytes:
    """A masked frame, as clients send them."""
    data = payload.encode() if isinstance(payload, str) else payload
    first = bytes((fin << 7 | rsv | opcode,))
    size = len(data)
    if size < 126:
        head = first + bytes((0x80 | size,))
    elif size < 65536:
        head = first + b"\xfe" + size.to_bytes(2, "big")
    else:
        head = first + b"\xff" + size.to_bytes(8, "big")
    repeated = (KEY * (size // 4 + 1))[:size]
    masked = int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")
    return head + KEY + masked.to_bytes(size, "big")


def close_frame(code: int, reason: str = "") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


class Event(NamedTuple):
    name: str
    client: Any
    value: Any


class Recorder(WebSocket):
    """Notes every callback in `events`, in order."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.events: list[Event] = []
        self._changed = threading.Condition()

    def note(self, name: str, client: Any, value: Any = None) -> None:
        with self._changed:
            self.events.append(Event(name, client, value))
            self._changed.notify_all()

    def of(self, name: str) -> list[Any]:
        """The values of all events of a name."""
        return [event.value for event in self.events if event.name == name]

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]

    def wait_for(self, name: str, count: int = 1) -> Any:
        """Wait for the count-th event of a name; return its value."""
        with self._changed:
            came = self._changed.wait_for(lambda: len(self.of(name)) >= count, DEADLINE)
        assert came, f"no {name!r} number {count} among {self.events}"
        return self.of(name)[count - 1]

    def client(self, index: int = 0) -> Any:
        """The index-th client that opened."""
        self.wait_for("open", index + 1)
        return [event.client for event in self.events if event.name == "open"][index]

    def on_open(self, client: Any) -> Any:
        self.note("open", client)

    def on_message(self, msg: Any, client: Any) -> Any:
        self.note("message", client, msg)

    def on_close(self, client: Any) -> None:
        end = (client.close_code, client.close_reason, client.close_cause)
        self.note("close", client, end)

    def on_ping(self, client: Any) -> None:
        self.note("ping", client, client.ping_payload)

    def on_pong(self, client: Any) -> None:
        self.note("pong", client, client.pong_payload)

    def on_drain(self, client: Any) -> None:
        self.note("drain", client)

    def on_error(self, error: Exception, client: Any) -> None:
        self.note("error", client, error)
        client.close(1011, "the handler failed")


class Echo(Recorder):
    def on_message(self, msg: Any, client: Any) -> Any:
        super().on_message(msg, client)
        return msg


class Peer:
    """The other end of a connection, byte by byte.

    Args:
        sock: connected.
        pump: called while there is nothing to read or no room to write; waits for the
            socket by default.
    """

    def __init__(
        self, sock: socket.socket, pump: Callable[[], object] | None = None
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.head = b""
        self._pump = pump
        self._buffer = b""

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *args: object) -> None:
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Cut the connection with a RST."""
        self.sock.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.sock.close()

    def end(self) -> None:
        """Say that nothing more will be sent."""
        self.sock.shutdown(socket.SHUT_WR)

    def shake(self, path: str = "/", *headers: str, then: bytes = b"") -> Peer:
        """The opening handshake, with bytes right behind it; expects to be let in."""
        self.write(request(path, *headers) + then)
        self.head = self.read_head()
        assert self.head.startswith(b"HTTP/1.1 101 "), self.head
        return self

    def write(self, data: bytes) -> None:
        deadline = time.monotonic() + DEADLINE
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                self._wait(deadline, writing=True)

    def send(self, opcode: int, payload: bytes | str = b"", **how: Any) -> None:
        self.write(frame(opcode, payload, **how))

    def text(self, payload: str) -> None:
        self.send(TEXT, payload)

    def read(self, size: int) -> bytes:
        """Exactly so many bytes."""
        while len(self._buffer) < size:
            data = self._receive()
            assert data, f"ended after {self._buffer[:200]!r}"
            self._buffer += data
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def read_head(self) -> bytes:
        """Up to and with an empty line."""
        while b"\r\n\r\n" not in self._buffer:
            data = self._receive()
            assert data, f"ended after {self._buffer[:200]!r}"
            self._buffer += data
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        return head

    def read_frame(self) -> tuple[int, bytes]:
        """First byte and payload of the next frame."""
        first, size = self.read(2)
        if size == 126:
            size = int.from_bytes(self.read(2), "big")
        elif size == 127:
            size = int.from_bytes(self.read(8), "big")
        return first, self.read(size)

    def read_message(self) -> str | bytes:
        """The next message; it must be one, whole or in fragments."""
        first, payload = self.read_frame()
        opcode = first & 0x0F
        while not first & 0x80:
            first, more = self.read_frame()
            assert first & 0x7F == 0, f"frame 0x{first:x} inside a message"
            payload += more
        assert opcode in (TEXT, BINARY), f"a frame of opcode {opcode}: {payload!r}"
        return payload.decode() if opcode == TEXT else payload

    def read_close(self) -> tuple[int | None, str]:
        """Code and reason of the close frame that must come next."""
        first, payload = self.read_frame()
        assert first == 0x80 | CLOSE, (first, payload[:100])
        if not payload:
            return None, ""
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    def read_rest(self) -> bytes:
        """Everything up to the end of the connection."""
        while data := self._receive():
            self._buffer += data
        data, self._buffer = self._buffer, b""
        return data

    def nothing_waits(self) -> bool:
        """Whether nothing has come that was not read."""
        if not self._buffer:
            try:
                self._buffer = self.sock.recv(65536)
            except BlockingIOError:
                return True
        return False

    def read_now(self) -> bytes:
        """What has come so far."""
        data, self._buffer = self._buffer, b""
        with suppress(BlockingIOError):
            data += self.sock.recv(2**20)
        return data

    def leave(self, code: int = 1000, reason: str = "") -> tuple[int | None, str]:
        """Close properly; return how it was answered."""
        self.write(close_frame(code, reason))
        answer = self.read_close()
        assert self.read_rest() == b""
        self.sock.close()
        return answer

    def _receive(self) -> bytes:
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                return self.sock.recv(2**20)
            except BlockingIOError:
                self._wait(deadline, writing=False)

    def _wait(self, deadline: float, writing: bool) -> None:
        assert time.monotonic() < deadline, "nothing happened in time"
        if self._pump is not None:
            self._pump()
        elif writing:
            select.select([], [self.sock], [], 1)
        else:
            select.select([self.sock], [], [], 1)


def connect(server: Server, host: str = "127.0.0.1") -> Peer:
    """A TCP connection to a server, without a handshake."""
    return Peer(socket.create_connection((host, server.port), timeout=DEADLINE))


def open_peer(server: Server, path: str = "/", *headers: str) -> Peer:
    """A connection that is open."""
    return connect(server).shake(path, *headers)


@contextmanager
def running(handler: WebSocket | None = None, **options: Any) -> Iterator[Server]:
    """A server in a thread of its own, on a free port of the loopback."""
    server = Server("127.0.0.1", 0, **options)
    if handler is not None:
        server.mount("*", handler)
    server.start()
    try:
        yield server
    finally:
        server.stop(drain=0)


def open_files() -> int:
    """How many descriptors this process has open, where the system tells (Linux); or 0.

    What earlier tests have left to the garbage collector is gone before.
    """
    gc.collect()
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def poll_until(server: Server, condition: Callable[[], object]) -> None:
    """Drive a server from here until something has come to be."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        server.poll(0.01)


def wait_for_end(server: Server) -> None:
    """Wait until a server has stopped."""
    run = server._run
    assert run is None or run.finished.wait(DEADLINE)


class Driven(TestServer):
    """A server of the test kit for peers that are driven byte by byte.

    What the tests of the server ask of its insides stands here, once.
    """

    def __init__(self, handler: WebSocket | None = None, **options: Any) -> None:
        self.handler: Any = Recorder() if handler is None else handler
        self._peers: list[Peer] = []
        options.setdefault("raise_server_exceptions", False)  # their log is looked at
        super().__init__(self.handler, **options)

    def close(self) -> None:
        for peer in self._peers:
            peer.close()
        super().close()

    @property
    def reactor(self) -> Any:
        return self.server.reactor

    @property
    def handshaking(self) -> Collection[Any]:
        """Connections that are not upgraded: handshakes, and plain HTTP."""
        return self.server._incoming

    @property
    def closing(self) -> set[Any]:
        """Clients that have ended, but for their sockets."""
        run = self.server._run
        return set() if run is None else run.closing

    @property
    def pending(self) -> Any:
        """What callbacks have begun."""
        return self.server._current.pending

    @property
    def running(self) -> bool:
        """Whether it has not stopped."""
        return self.server._run is not None

    def stop_begins(self, drain: float | None = None) -> None:
        """Begin to stop, without turns; `running` is false when all is over."""
        self.server._begin_stop(drain)

    def tear_down(self) -> None:
        """Give everything back, whatever state it is in."""
        self.server._tear_down()

    def restart(self) -> None:
        """Run again, after it has stopped."""
        self.server._begin_in_memory(None)

    def turn(self, count: int = 1) -> None:
        """Turn the loop, as long as the server has one."""
        for _ in range(count):
            self._turn()

    def advance(self, seconds: float) -> None:
        """Let time pass in one step, and the server notice it when it is over.

        The kit lets everything happen when it is due; a server that is held up does
        not get to it, and that is what has to be right here.
        """
        self.clock.now += seconds
        self.turn(2)
        while self.server.reactor.wheel.is_due(self.clock.now):
            self.turn()  # there are more than one turn takes

    def until(self, condition: Callable[[], object]) -> None:
        """Turn until something is so."""
        self.wait_until(condition)

    def join(self, wrap: Callable[[socket.socket], Any] | None = None) -> Peer:
        """A connection before its handshake.

        Args:
            wrap: what the server gets instead of its socket.
        """
        theirs, _ = self._join(ADDRESS, wrap)
        peer = Peer(theirs, self.turn)
        self._peers.append(peer)
        return peer

    def open(
        self,
        path: str = "/",
        *headers: str,
        wrap: Callable[[socket.socket], Any] | None = None,
        then: bytes = b"",
    ) -> Peer:
        """A connection that is open."""
        return self.join(wrap).shake(path, *headers, then=then)


class Wrapped:
    """A socket that lets its user do everything, to be overridden."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def small_buffers(sock: socket.socket) -> socket.socket:
    """Have the system take only a few kilobytes of output."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return sock


def queues_of(server: Server) -> dict[Client, Any]:
    """Of each client that waits for a deferred callback, the events behind it."""
    queues: dict[Client, Any] = {}
    run = server._run
    for mount in () if run is None else run.chains.values():
        queues.update(getattr(mount, "_queues", {}))
    return queues


# --- Code that runs in the middle of ours --------------------------------------------


def interrupt() -> None:
    """What a signal handler does by default."""
    raise KeyboardInterrupt


def lines_until(
    stop: int,
    function: Callable[[], object],
    only: str | None = None,
    action: Callable[[], object] = interrupt,
) -> tuple[int, BaseException | None]:
    """Call a function; interrupt it at the n-th line of ours in it, or in one function.

    Not in `ExclusiveCalls.run`, which is up to `calls_until`: there are lines between
    the release of a lock and what is before where no signal handler runs.

    Returns:
        The lines there were, and what was raised.
    """
    seen = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal seen
        if not _is_ours(frame) or frame.f_code is ExclusiveCalls.run.__code__:
            return None
        if event == "line" and only in (None, frame.f_code.co_name):
            seen += 1
            if seen == stop:
                sys.settrace(None)
                action()
        return trace

    return _watch(sys.settrace, trace, function, lambda: seen)


def calls_until(
    stop: int,
    function: Callable[[], object],
    action: Callable[[], object] = interrupt,
) -> tuple[int, BaseException | None]:
    """Call a function; interrupt it where Python looks for signals: at the beginning of
    the n-th function of ours that it calls, or behind the n-th in C.

    Returns:
        The calls there were, and what was raised.
    """
    seen = 0

    def profile(frame: Any, event: str, arg: Any) -> None:
        nonlocal seen
        if event in ("call", "c_return") and _is_ours(frame):
            seen += 1
            if seen == stop:
                sys.setprofile(None)
                action()

    return _watch(sys.setprofile, profile, function, lambda: seen)


def _is_ours(frame: Any) -> bool:
    # Not by the name: a checkout is often called so, and its environment is in it.
    return bool(frame.f_code.co_filename.startswith(_PACKAGE))


def _watch(
    watch: Callable[[Any], None],
    watcher: Any,
    function: Callable[[], object],
    count: Callable[[], int],
) -> tuple[int, BaseException | None]:
    error: BaseException | None = None
    # It would call finalizers in between, and Python goes on behind what those raise.
    gc.disable()
    watch(watcher)
    try:
        function()
    except BaseException as raised:
        error = raised
    finally:
        watch(None)
        gc.enable()
    try:
        return count(), error
    finally:
        del error  # it holds this frame, and so all that it has come through
