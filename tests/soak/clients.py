"""Clients of a soak: `clients.py PORT COUNT SEED`, in one thread.

Each sends messages of random sizes, in fragments or not, compressed or not, several at
a time, and compares every echo with the message. From time to time one pauses, and one
ends: properly, by a reset, without closing, or in the middle of a frame. Then it
reconnects as a new client. SIGTERM waits for outstanding echoes and prints the counts
as a line of JSON; SIGKILL is expected.

It shares no code with simple_ws except `frame` of the tests' harness.
"""

from __future__ import annotations

import json
import random
import selectors
import signal
import socket
import struct
import sys
import time
import zlib
from collections import Counter, deque
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness import BINARY, CLOSE, PING, PONG, TEXT, frame, request

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
WORDS = "all work and no play makes Jack a dull boy €𝄞 ".encode()
NOISE = random.Random(0).randbytes(2**20)
OFFERS = [
    None,
    None,
    "permessage-deflate",
    "permessage-deflate; client_no_context_takeover",
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
]
#: Bytes that a client has under way at most.
MAX_UNDER_WAY = 2**20
#: Messages that one connection sends at most.
MAX_MESSAGES = 400

counts: Counter[str] = Counter()
errors: list[str] = []


class Wrong(Exception):
    """The server did what it should not."""


class Connection:
    """One connection from its handshake to its end."""

    def __init__(self, port: int, rng: random.Random) -> None:
        self.rng = rng
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.connect_ex(("127.0.0.1", port))
        self.open = self.closing = self.over = False
        self.asleep_until = 0.0
        self.messages_left = rng.randrange(1, MAX_MESSAGES)
        self.end = rng.choice(["close", "close", "reset", "leave", "half"])
        self.window = rng.choice([1, 1, 4, 20])
        self.sleepy = rng.random() < 0.1
        self.expected: deque[tuple[int, bytes]] = deque()
        self.under_way = 0
        self._incoming = bytearray()
        self._message = b""
        self._opcode = 0
        self._packed = False
        offer = rng.choice(OFFERS)
        headers = [f"Sec-WebSocket-Extensions: {offer}"] if offer else []
        self._outgoing = bytearray(request("/soak", *headers))
        self._inflate: Any = None
        self._deflate: Any = None
        self._forgets = bool(offer and "client_no" in offer)
        self._server_forgets = bool(offer and "server_no" in offer)

    def events(self, now: float) -> int:
        wanted = WRITE if self._outgoing else 0
        if now >= self.asleep_until:
            wanted |= READ
        return wanted

    # Sending

    def talk(self, now: float, leaving: bool) -> None:
        """Put more messages on the way, or end."""
        if not self.open or self.closing or now < self.asleep_until:
            return
        if leaving:
            self.messages_left = 0
            self.end = "close"
        while (
            self.messages_left
            and len(self.expected) < self.window
            and self.under_way < MAX_UNDER_WAY
        ):
            self.messages_left -= 1
            self._say_something()
        if self.sleepy and self.rng.random() < 0.002:
            self.asleep_until = now + self.rng.uniform(0.2, 2.0)
            counts["sleeps"] += 1
        if not self.messages_left and (not self.expected or self.end != "close"):
            self._leave()

    def _say_something(self) -> None:
        rng = self.rng
        size = int(2 ** rng.uniform(0, 18)) - 1
        if rng.random() < 0.002:
            size = rng.randrange(2**18, 2**20)
        if rng.random() < 0.5:
            opcode = TEXT
            start = rng.randrange(len(WORDS))
            text = (WORDS * (size // len(WORDS) + 2))[start : start + size]
            payload = text.decode(errors="ignore").encode()
        else:
            opcode = BINARY
            start = rng.randrange(len(NOISE))
            payload = NOISE[start : start + size]
        self.expected.append((opcode, payload))
        self.under_way += len(payload)
        self._outgoing += self._framed(opcode, payload)
        if rng.random() < 0.02:
            self._outgoing += frame(PING, b"%d" % len(payload))
            self.expected.append((PONG, b"%d" % len(payload)))

    def _framed(self, opcode: int, payload: bytes) -> bytes:
        rng, rsv = self.rng, 0
        if self._deflate is not None and rng.random() < 0.7:
            flush = zlib.Z_FULL_FLUSH if self._forgets else zlib.Z_SYNC_FLUSH
            payload = (self._deflate.compress(payload) + self._deflate.flush(flush))[
                :-4
            ]
            rsv = 0x40
        if rng.random() < 0.7:
            return frame(opcode, payload, rsv=rsv)
        step = max(1, len(payload) // rng.choice([1, 2, 10, 50]))
        starts = list(range(0, len(payload), step)) or [0]
        return b"".join(
            frame(
                0 if start else opcode,
                payload[start : start + step],
                fin=start == starts[-1],
                rsv=0 if start else rsv,
            )
            for start in starts
        )

    def _leave(self) -> None:
        counts[self.end] += 1
        if self.end == "close":
            self._outgoing += frame(CLOSE, b"\x03\xe8")
            self.closing = True
            return
        if self.end == "half":  # in the middle of a frame
            self.write()
            self._outgoing[:] = frame(BINARY, bytes(5000))[:100]
            self.write()
        if self.end == "reset":
            linger = struct.pack("ii", 1, 0)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.over = True

    def write(self) -> None:
        try:
            while self._outgoing:
                sent = self.sock.send(self._outgoing[:65536])
                del self._outgoing[:sent]
        except BlockingIOError:
            pass
        except OSError as error:
            raise Wrong(f"cut while writing: {error}") from None

    # Receiving

    def read(self) -> None:
        try:
            data = self.sock.recv(2**17)
        except BlockingIOError:
            return
        except OSError as error:
            raise Wrong(f"cut while reading: {error}") from None
        if not data:
            if not self.closing or self.expected:
                raise Wrong(f"ended with {len(self.expected)} echoes missing")
            self.over = True
            return
        self._incoming += data
        if not self.open:
            self._shake()
        while self._take_frame():
            pass

    def _shake(self) -> None:
        head, found, rest = self._incoming.partition(b"\r\n\r\n")
        if not found:
            return
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Wrong(f"refused: {bytes(head[:80])!r}")
        if b"permessage-deflate" in head:
            self._inflate = zlib.decompressobj(wbits=-15)
            self._deflate = zlib.compressobj(1, wbits=-15)
        self._incoming = rest
        self.open = True
        counts["connections"] += 1

    def _take_frame(self) -> bool:
        data = self._incoming
        if not self.open or len(data) < 2:
            return False
        size, start = data[1], 2
        if size > 125:
            start = 4 if size == 126 else 10
            if len(data) < start:
                return False
            size = int.from_bytes(data[2:start], "big")
        if len(data) < start + size:
            return False
        first, payload = data[0], bytes(data[start : start + size])
        del data[: start + size]
        self._take(first, payload)
        return True

    def _take(self, first: int, payload: bytes) -> None:
        opcode = first & 0x0F
        if opcode == PING:
            self._outgoing += frame(PONG, payload)
        elif opcode == PONG:
            self._compare(PONG, payload)
        elif opcode == CLOSE:
            code = int.from_bytes(payload[:2], "big")
            if not self.closing or code != 1000 or self.expected:
                raise Wrong(f"closed with {code} {payload[2:]!r}")
        else:
            if opcode:
                self._opcode, self._packed = opcode, bool(first & 0x40)
                self._message = payload
            else:
                self._message += payload
            if first & 0x80:
                self._compare(self._opcode, self._inflated())

    def _inflated(self) -> bytes:
        message = self._message
        if not self._packed:
            return message
        data: bytes = self._inflate.decompress(message + b"\0\0\xff\xff")
        if self._server_forgets:
            self._inflate = zlib.decompressobj(wbits=-15)
        return data

    def _compare(self, opcode: int, payload: bytes) -> None:
        if not self.expected:
            raise Wrong(f"an echo too many, of {len(payload)} bytes")
        expected = self.expected.popleft()
        if expected != (opcode, payload):
            if opcode == PONG and payload.isdigit():
                # Of pings that came together only the last must be answered.
                while self.expected and self.expected[0][0] == PONG != expected[0]:
                    expected = self.expected.popleft()
            if expected != (opcode, payload):
                raise Wrong(
                    f"echo of {len(payload)} bytes instead of {len(expected[1])}"
                )
        if opcode != PONG:
            self.under_way -= len(payload)
            counts["messages"] += 1
            counts["bytes"] += len(payload)


def main(port: int, count: int, seed: int) -> None:
    rng = random.Random(seed)
    leaving = False

    def leave(number: int, where: object) -> None:
        nonlocal leaving
        leaving = True

    signal.signal(signal.SIGTERM, leave)
    selector = selectors.DefaultSelector()
    connections: dict[Connection, int] = {}
    last_told = time.monotonic()
    while True:
        while len(connections) < count and not leaving and not errors:
            connection = Connection(port, random.Random(rng.random()))
            connections[connection] = READ | WRITE
            selector.register(connection.sock, READ | WRITE, connection)
        if leaving and not connections:
            break
        for key, events in selector.select(0.1):
            step(key.data, events)
        now = time.monotonic()
        for connection in list(connections):
            tend(connection, now, leaving, selector, connections)
        if now - last_told > 1:
            last_told = now
            print(json.dumps({**counts, "errors": errors[:5]}), flush=True)
        if errors:
            leaving = True
    print(json.dumps({**counts, "errors": errors[:5], "done": True}), flush=True)


def step(connection: Connection, events: int) -> None:
    try:
        if events & READ:
            connection.read()
        if events & WRITE and not connection.over:
            connection.write()
    except Wrong as wrong:
        errors.append(str(wrong))
        connection.over = True


def tend(
    connection: Connection,
    now: float,
    leaving: bool,
    selector: selectors.BaseSelector,
    connections: dict[Connection, int],
) -> None:
    """Have it go on, watch for what it needs, or let it go."""
    try:
        if not connection.over:
            connection.talk(now, leaving)
    except Wrong as wrong:
        errors.append(str(wrong))
        connection.over = True
    if connection.over:
        if connections.pop(connection):
            selector.unregister(connection.sock)
        connection.sock.close()
        return
    wanted, watched = connection.events(now), connections[connection]
    if wanted != watched:
        connections[connection] = wanted
        if not wanted:
            selector.unregister(connection.sock)
        elif not watched:
            selector.register(connection.sock, wanted, connection)
        else:
            selector.modify(connection.sock, wanted, connection)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
