"""A server that speaks enough RESP3 for a publisher, and both kinds of publishers."""

from __future__ import annotations

import asyncio
import hashlib
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from harness import DEADLINE

import simple_ws.aio
from simple_ws import Publisher
from simple_ws.cluster.envelope import HEADER_SIZE, Envelope, open_
from simple_ws.cluster.resp import PythonReader

__all__ = [
    "HELLO",
    "KINDS",
    "STORED",
    "Appended",
    "AsyncPublisher",
    "Published",
    "PublisherServer",
    "hurry",
    "publisher_server",
]

STORED = b"*3\r\n$5\r\nab:1:\r\n:0\r\n:7\r\n"
HELLO = b"%3\r\n+server\r\n+redis\r\n+version\r\n+7.0.0\r\n+role\r\n+master\r\n"


class Published(NamedTuple):
    """A message that a server has received, and on which connection."""

    connection: int
    channel: str
    data: bytes

    @property
    def envelope(self) -> Envelope:
        return open_(self.data, self.channel, None)


class Appended(NamedTuple):
    """A message to a topic with history: the arguments of the script, and its keys."""

    connection: int
    arguments: list[bytes]

    @property
    def seq(self) -> int:
        return int(self.arguments[4])

    @property
    def body(self) -> bytes:
        return self.arguments[9][HEADER_SIZE:]


class PublisherServer:
    """Answers HELLO and PUBLISH as it is told to.

    Attributes:
        hello, answer: what it answers: bytes, sent one by one; None: it closes the
            connection; b"": nothing.
        reads: more than the beginning of what comes.
        connections: accepted so far.
        published: what came.
        rules: answers GET of the rules, `read` the keys that were asked for.
        stored: what it answers the next messages to topics with history, `STORED` if it
            is empty; `appended`: what came of them.
        open: sockets that were accepted and not closed.
    """

    def __init__(self) -> None:
        self.hello: bytes | None = HELLO
        self.answer: bytes | None = b":1\r\n"
        self.reads = True
        self.connections = 0
        self.published: list[Published] = []
        self.rules: bytes | None = b"$-1\r\n"
        self.read: list[str] = []
        self.stored: list[bytes | None] = []
        self.appended: list[Appended] = []
        self.open: list[socket.socket] = []
        self._changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"redis://someone:sesame@127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._changed:
                    self.connections += 1
                    self.open.append(sock)
                number = self.connections
                thread = threading.Thread(
                    target=self._serve, args=[sock, number], daemon=True
                )
                thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        reader = PythonReader()
        with suppress(OSError):
            while data := self._recv(sock):
                for command in reader.receive(data):
                    if not self._obey(sock, number, command):
                        break
                else:
                    continue
                break
        with self._changed:
            if sock in self.open:
                self.open.remove(sock)
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
            self._changed.notify_all()

    def _recv(self, sock: socket.socket) -> bytes:
        """What has come; while `reads` is False, wait until the peer has gone."""
        data = sock.recv(65536)
        if not self.reads:
            poll = select.poll()
            poll.register(sock, 0)
            poll.poll(DEADLINE * 1000)
            return b""
        return data

    def _obey(self, sock: socket.socket, number: int, command: list[bytes]) -> bool:
        if command[0] == b"HELLO":
            return self._say(sock, self.hello)
        if command[0] == b"GET":
            with self._changed:
                self.read.append(command[1].decode())
            return self._say(sock, self.rules)
        if command[0] == b"SCRIPT":
            digest = hashlib.sha1(command[2]).hexdigest().encode()
            return self._say(sock, b"$40\r\n%b\r\n" % digest)
        if command[0] == b"EVALSHA":
            with self._changed:
                self.appended.append(Appended(number, command[3:]))
                answer = self.stored.pop(0) if self.stored else STORED
                self._changed.notify_all()
            return self._say(sock, answer)
        assert command[0] == b"PUBLISH"
        published = Published(number, command[1].decode(), command[2])
        with self._changed:
            self.published.append(published)
            self._changed.notify_all()
        return self._say(sock, self.answer)

    def _say(self, sock: socket.socket, answer: bytes | None) -> bool:
        for byte in answer or b"":
            sock.sendall(bytes([byte]))
        return answer is not None

    def wait_for(self, condition: Callable[[], object]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE)

    def close_all(self) -> None:
        """End all connections, as a server that is stopped does."""
        with self._changed:
            ended = set(self.open)
            for sock in ended:
                with suppress(OSError):  # the peer was faster
                    sock.shutdown(socket.SHUT_RDWR)
            # It may have connected again.
            self._changed.wait_for(lambda: ended.isdisjoint(self.open), DEADLINE)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.close_all()


@contextmanager
def publisher_server() -> Iterator[PublisherServer]:
    server = PublisherServer()
    try:
        yield server
    finally:
        server.close()


class AsyncPublisher:
    """The publisher for asyncio, called as the one that blocks."""

    def __init__(self, *args: Any, loop_factory: Any = None, **options: Any) -> None:
        self.publisher = simple_ws.aio.Publisher(*args, **options)
        self._runner = asyncio.Runner(loop_factory=loop_factory)

    def publish(self, topic: Any, msg: Any, **options: Any) -> int:
        return self._runner.run(self.publisher.publish(topic, msg, **options))

    def broadcast(self, msg: Any) -> int:
        return self._runner.run(self.publisher.broadcast(msg))

    def send_to(self, client_id: Any, msg: Any) -> int:
        return self._runner.run(self.publisher.send_to(client_id, msg))

    def close(self) -> None:
        self._runner.run(self.publisher.close())

    def __enter__(self) -> AsyncPublisher:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()
        # What the transports have to close, they close in the next turns.
        self._runner.run(asyncio.sleep(0))
        self._runner.close()

    def __repr__(self) -> str:
        return repr(self.publisher)


def hurry(publisher: Any, timeout: float) -> None:
    """Give it another timeout: where the test needs time to be over, and not before."""
    inner = getattr(publisher, "publisher", publisher)
    inner._options = inner._options._replace(timeout=timeout)


KINDS = {"blocking": Publisher, "asyncio": AsyncPublisher}
