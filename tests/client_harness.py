"""Helpers for the tests of the clients: scripted servers, a common API, fake time.

`scripted` runs a server in a thread that follows the test's script, byte by byte.
`FACES` are the blocking client and the asyncio one on asyncio's loop and on uvloop, all
with the methods of the blocking one. `Patient` lets time pass for the blocking client
when nothing else happens, `FakeTimeLoop` does it for asyncio when the test says so.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib.util
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import BINARY, CLOSE, DEADLINE, TEXT, Clock

import simple_ws.aio
import simple_ws.client.blocking
from simple_ws.client.dial import wait_for

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def server_frame(opcode: int, payload: bytes | str = b"", first: int = 0x80) -> bytes:
    """A frame as servers send them: without a mask."""
    data = payload.encode() if isinstance(payload, str) else payload
    size = len(data)
    if size < 126:
        return bytes((first | opcode, size)) + data
    if size < 65536:
        return bytes((first | opcode, 126)) + size.to_bytes(2, "big") + data
    return bytes((first | opcode, 127)) + size.to_bytes(8, "big") + data


def server_close(code: int, reason: str = "") -> bytes:
    return server_frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


def accept_for(key: str) -> str:
    """What RFC 6455 §4.2.2 makes of a key; written down here a second time."""
    return base64.b64encode(hashlib.sha1(key.encode() + GUID).digest()).decode()


def answer_to(head: str, *lines: str) -> bytes:
    """A good answer to a request, with more header lines."""
    key = fields_of(head)["sec-websocket-key"]
    good = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_for(key)}",
        *lines,
    ]
    return "\r\n".join([*good, "\r\n"]).encode()


def fields_of(head: str) -> dict[str, str]:
    """Header fields by their names in lower case."""
    lines = (line.partition(": ") for line in head.split("\r\n")[1:])
    return {name.lower(): value for name, _, value in lines if name}


class Server:
    """The server's end of a connection, byte by byte."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(DEADLINE)
        self.sock = sock
        self.head = ""
        self._buffer = b""

    def read_head(self) -> str:
        """The head of a request."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        self.head = head.decode("latin-1")
        return self.head

    def accept(self, *lines: str, then: bytes = b"") -> Server:
        """Answer an opening handshake, with bytes right behind the answer."""
        self.write(answer_to(self.read_head(), *lines) + then)
        return self

    @property
    def fields(self) -> dict[str, str]:
        return fields_of(self.head)

    def write(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send(self, opcode: int, payload: bytes | str = b"") -> None:
        self.write(server_frame(opcode, payload))

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def read_frame(self) -> tuple[int, bytes]:
        """First byte and payload of the next frame, which must be masked."""
        first, size = self.read(2)
        assert size & 0x80, "a client must mask"
        size &= 0x7F
        if size == 126:
            size = int.from_bytes(self.read(2), "big")
        elif size == 127:
            size = int.from_bytes(self.read(8), "big")
        key = self.read(4)
        data = self.read(size)
        repeated = (key * (size // 4 + 1))[:size]
        plain = int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")
        return first, plain.to_bytes(size, "big")

    def read_message(self) -> str | bytes:
        first, payload = self.read_frame()
        assert first & 0x80
        assert first & 0x0F in (TEXT, BINARY), first
        return payload.decode() if first & 0x0F == TEXT else payload

    def read_close(self) -> tuple[int | None, str]:
        """Code and reason of the close frame that must come next."""
        first, payload = self.read_frame()
        assert first == 0x80 | CLOSE, (first, payload[:100])
        if not payload:
            return None, ""
        return int.from_bytes(payload[:2], "big"), payload[2:].decode()

    def leave(self, code: int = 1000, reason: str = "") -> None:
        """The closing handshake, begun here; then the connection is closed."""
        self.write(server_close(code, reason))
        assert self.read_close()[0] == code
        self.sock.close()

    def read_rest(self) -> bytes:
        """Everything up to the end of the connection."""
        while data := self.sock.recv(2**16):
            self._buffer += data
        data, self._buffer = self._buffer, b""
        return data

    def _more(self) -> None:
        data = self.sock.recv(2**20)
        assert data, f"ended after {self._buffer[:200]!r}"
        self._buffer += data


class Scripted:
    """A server that plays its scripts, one for each connection that comes.

    Attributes:
        port: where it listens.
        heads: the requests that came, in order.
    """

    def __init__(
        self, scripts: list[Callable[[Server], object]], unix: Path | None = None
    ) -> None:
        self._scripts = scripts
        if unix is None:
            self._socket = socket.create_server(("127.0.0.1", 0))
            self.port = self._socket.getsockname()[1]
            self.url = f"ws://127.0.0.1:{self.port}/"
        else:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.bind(str(unix))
            self._socket.listen()
        self._socket.settimeout(DEADLINE)
        self.heads: list[str] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for script in self._scripts:
                sock, _ = self._socket.accept()
                with sock:
                    server = Server(sock)
                    try:
                        script(server)
                    finally:
                        self.heads.append(server.head)
        except BaseException as error:
            self._error = error

    def finish(self, *, failed: bool) -> None:
        self._thread.join(0 if failed else DEADLINE)
        self._socket.close()
        if self._error is not None and not failed:
            raise self._error
        assert failed or not self._thread.is_alive(), "the script has not ended"


@contextmanager
def scripted(
    *scripts: Callable[[Server], object], unix: Path | None = None
) -> Iterator[Scripted]:
    """Serve connections by scripts; each must have been played at the end."""
    server = Scripted(list(scripts), unix)
    failed = True
    try:
        yield server
        failed = False
    finally:
        server.finish(failed=failed)


# --- Both clients as one -------------------------------------------------------------


class Blocking:
    """The blocking client."""

    name = "blocking"

    def connect(self, url: str, **options: Any) -> Any:
        return simple_ws.client.blocking.connect(url, **options)

    def close(self) -> None:
        """Nothing is left behind."""


class Asyncio:
    """The asyncio client, driven from outside its loop."""

    def __init__(self, name: str, make_loop: Callable[[], asyncio.AbstractEventLoop]):
        self.name = name
        self.loop = make_loop()
        self.complaints: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, said: self.complaints.append(said))
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def do(self, awaitable: Any) -> Any:
        async def wait() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(wait(), self.loop).result(DEADLINE)

    def connect(self, url: str, **options: Any) -> Any:
        return Driven(self, self.do(simple_ws.aio.connect(url, **options)))

    def close(self) -> None:
        self.do(self._finish())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE)
        self.loop.close()
        assert self.complaints == []

    async def _finish(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        assert not others, f"left behind: {others}"
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()


class Driven:
    """A connection of the asyncio client with the methods of the blocking one."""

    def __init__(self, face: Asyncio, ws: Any) -> None:
        self._face = face
        self._ws = ws

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._ws, name)
        if name not in ("send", "recv", "ping", "close", "wait_closed"):
            return value
        return lambda *args, **named: self._face.do(value(*args, **named))

    def __enter__(self) -> Driven:
        return self

    def __exit__(self, *error: Any) -> None:
        self._face.do(self._ws.__aexit__(*error))

    def __iter__(self) -> Iterator[Any]:
        while True:
            try:
                yield self._face.do(self._ws.__anext__())
            except StopAsyncIteration:
                return


def new_uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


FACES: dict[str, Callable[[], Any]] = {
    "blocking": Blocking,
    "asyncio": lambda: Asyncio("asyncio", asyncio.new_event_loop),
}
if importlib.util.find_spec("uvloop"):
    FACES["uvloop"] = lambda: Asyncio("uvloop", new_uvloop)


@contextmanager
def elsewhere() -> Iterator[Callable[..., Any]]:
    """Run functions in other threads; gives `start(function, *args) -> Future`."""
    with ThreadPoolExecutor() as threads:
        yield threads.submit


# --- Time ----------------------------------------------------------------------------


class Patient:
    """In place of `wait_for`: where the client would wait, the next step is taken.

    A step is a function, or None: what the client waits for does not come, and the
    time passes at once. So it is when there are no more steps. A client that would
    wait for ever fails the test.

    Attributes:
        clock: the client's.
        steps: to be taken.
        asked: what the client waited for, each time.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.asked: list[int] = []
        self.steps: deque[Callable[[], object] | None] = deque()

    def __call__(self, sock: Any, events: int, timeout: float | None) -> int:
        self.asked.append(events)
        while not (ready := wait_for(sock, events, 0)):
            step = self.steps.popleft() if self.steps else None
            if step is None:
                assert timeout is not None, "it would wait for ever"
                self.clock.now += timeout
                break
            step()
        return ready


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes when the test says so."""

    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__()

    def time(self) -> float:
        return self.clock.now

    async def advance(self, seconds: float) -> None:
        """Let time pass, and the loop notice it."""
        self.clock.now += seconds
        await turns()


async def turns(count: int = 5) -> None:
    """Let what can happen at once happen."""
    for _ in range(count):
        await asyncio.sleep(0)
