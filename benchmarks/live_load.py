"""The clients of `live.py`: they join a topic, and count what comes.

    live_load.py join PORT CLIENTS DIALECT
    live_load.py publish PORT CLIENTS DIALECT[,DIALECT…] SERVER'S-PROCESS SECONDS

It prints one line of JSON for each thing that it has done, and waits for a line before
it goes on. A dialect is how clients speak: `raw` WebSockets, the protocol of `live`, or
Socket.IO. Several of them take turns, so that what slows the machine slows all alike.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import sys
import time
from pathlib import Path
from typing import NamedTuple

#: Characters of a message; it has this size in all dialects.
SIZE = 128
_MESSAGE = "x" * SIZE
#: Connections on their way at once; as many as the backlog of all servers takes.
_AT_ONCE = 256
_TIMEOUT = 60.0


class Dialect(NamedTuple):
    """How clients speak.

    Attributes:
        path: of the WebSocket.
        greets: the server speaks first.
        join: what the client says, one after the other; each is answered by one frame.
        publish: what the publisher says.
    """

    path: str
    greets: bool
    join: tuple[str, ...]
    publish: str


DIALECTS = {
    "raw": Dialect("/ws", False, ("join",), _MESSAGE),
    "live": Dialect(
        "/live/websocket",
        False,
        ('{"id":1,"connect":{}}', '{"id":2,"subscribe":{"channel":"room"}}'),
        f'{{"id":3,"publish":{{"channel":"room","data":"{_MESSAGE}"}}}}',
    ),
    "kept": Dialect(
        "/live/websocket",
        False,
        (
            '{"id":1,"connect":{}}',
            '{"id":2,"subscribe":{"channel":"kept","recoverable":true}}',
        ),
        "",
    ),
    "socketio": Dialect(
        "/socket.io/?EIO=4&transport=websocket",
        True,
        ("40", '420["join"]'),
        f'42["say","{_MESSAGE}"]',
    ),
}


def frame(text: str) -> bytes:
    """A frame of a client, masked with zeros."""
    data = text.encode()
    size = bytes([0x80 | len(data)])
    if len(data) > 125:
        size = bytes([0xFE]) + len(data).to_bytes(2, "big")
    return b"\x81" + size + bytes(4) + data


def wire_size(text: str) -> int:
    """Bytes of a frame of a server."""
    return len(text) + (2 if len(text) < 126 else 4)


class Joining:
    """A connection that joins, step by step."""

    def __init__(self, dialect: Dialect, port: int) -> None:
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.connect_ex(("127.0.0.1", port))
        self._request = (
            f"GET {dialect.path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        self._steps = [frame(text) for text in dialect.join]
        self._data = b""
        self._shaken = False
        self._greeted = not dialect.greets

    def begin(self) -> None:
        """It is connected."""
        self.sock.sendall(self._request)

    def receive(self) -> bool:
        """Something has come; return whether it has joined."""
        data = self.sock.recv(65536)
        if not data:
            raise SystemExit("a server has closed a connection")
        self._data += data
        if not self._shaken:
            head, found, rest = self._data.partition(b"\r\n\r\n")
            if not found:
                return False
            if b" 101 " not in head:
                raise SystemExit(f"a server has refused: {head!r}")
            self._shaken, self._data = True, rest
            if self._greeted and self._is_over():
                return True
        while len(self._data) >= 2 and len(self._data) >= 2 + self._data[1]:
            self._data = self._data[2 + self._data[1] :]
            if self._is_over():
                return True
        return False

    def _is_over(self) -> bool:
        """All was said and answered; if not, say the next."""
        if self._steps:
            self.sock.sendall(self._steps.pop(0))
            return False
        return True


def join(dialect: Dialect, port: int, count: int) -> list[socket.socket]:
    """Let clients join, so many at once as can connect."""
    poll, joining = select.epoll(), {}
    joined: list[socket.socket] = []
    begun = 0
    end = time.monotonic() + _TIMEOUT
    while len(joined) < count:
        while begun < count and len(joining) < _AT_ONCE:
            made = Joining(dialect, port)
            joining[made.sock.fileno()] = made
            poll.register(made.sock, select.EPOLLOUT)
            begun += 1
        for number, events in poll.poll(1):
            if events & select.EPOLLOUT:
                joining[number].begin()
                poll.modify(number, select.EPOLLIN)
            elif joining[number].receive():
                poll.unregister(number)
                joined.append(joining.pop(number).sock)
        if time.monotonic() > end:
            raise SystemExit(f"only {len(joined)} of {count} clients have joined")
    return joined


class Room:
    """Clients of one dialect in one topic, and one that publishes.

    Attributes:
        publication: what comes at each client.
        published: messages so far.
        seconds: until all had them.
        cpu: seconds that the server used meanwhile.
    """

    def __init__(self, dialect: Dialect, port: int, count: int, pid: int) -> None:
        members = join(dialect, port, count)
        # It is connected, and in no topic.
        (self._sender,) = join(dialect._replace(join=dialect.join[:-1]), port, 1)
        self._poll, self._pid = select.epoll(), pid
        self._members = {sock.fileno(): sock for sock in members}
        for sock in members:
            self._poll.register(sock, select.EPOLLIN)
        self._message, self._due = frame(dialect.publish), 0
        self._publish_first()
        self.reset()

    def reset(self) -> None:
        """Count from now on."""
        self.published, self.seconds, self.cpu = 0, 0.0, 0.0

    def publish(self, count: int = 5) -> None:
        """Publish so often; the next one when all members have it."""
        begun, cpu = time.monotonic(), cpu_of(self._pid)
        for _ in range(count):
            self._publish()
        self.published += count
        self.seconds += time.monotonic() - begun
        self.cpu += cpu_of(self._pid) - cpu

    def _publish_first(self) -> None:
        """See what comes, and how large it is: `live` tells who published it."""
        self._sender.sendall(self._message)
        for sock in self._members.values():
            sock.setblocking(True)
            size = sock.recv(2, socket.MSG_WAITALL)[1]
            if size == 126:
                size = int.from_bytes(sock.recv(2, socket.MSG_WAITALL), "big")
            self.publication = sock.recv(size, socket.MSG_WAITALL).decode()
            sock.setblocking(False)
        self._due = wire_size(self.publication) * len(self._members)

    def _publish(self) -> None:
        self._sender.sendall(self._message)
        left = self._due
        while left > 0:
            for number, _ in self._poll.poll():
                left -= len(self._members[number].recv(65536))
        if left:
            raise SystemExit("more has come than was published")
        try:
            while self._sender.recv(65536):
                pass  # the reply
        except BlockingIOError:
            pass


def cpu_of(pid: int) -> float:
    """Seconds that all threads of a process have run."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def say(**values: object) -> None:
    """Tell what has happened, and wait for a line."""
    print(json.dumps(values), flush=True)
    sys.stdin.readline()


def main() -> None:
    work, port, count, names, *rest = sys.argv[1:]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if work == "join":
        say(ready=True)
        begun = time.monotonic()
        members = join(DIALECTS[names], int(port), int(count))
        say(joined=len(members), seconds=time.monotonic() - begun)
        return
    pid, seconds = int(rest[0]), float(rest[1])
    rooms: dict[str, Room] = {}
    for name in names.split(","):
        dialect = DIALECTS[name]
        if name == "raw" and "live" in rooms:  # the same bytes
            dialect = dialect._replace(publish=rooms["live"].publication)
        rooms[name] = Room(dialect, int(port), int(count), pid)
    for room in rooms.values():
        room.publish()
        room.reset()
    until = time.monotonic() + seconds * len(rooms)
    while time.monotonic() < until:
        for room in rooms.values():
            room.publish()
    say(
        **{
            name: {
                "rate": room.published / room.seconds,
                "cpu": room.cpu / room.published * 1e6,
            }
            for name, room in rooms.items()
        }
    )


if __name__ == "__main__":
    main()
