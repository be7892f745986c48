"""The cost of publishing: many messages to one subscriber, one message to many.

``python benchmarks/topics.py [--subscribers 10000] [--publishes 1000000]``. A second
process holds the subscribers' ends and reads their input; the time is measured in the
loop's own thread, from the first publish until the last byte was written.
"""

from __future__ import annotations

import argparse
import os
import resource
import selectors
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simple_ws import BACKEND, Server, WebSocket

_REQUEST = (
    b"GET %s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_MESSAGE = "x" * 128
#: Publishes of one turn; their output leaves at its end.
_BATCH = 1000


def read_all(port: int, count: int) -> None:
    """Hold `count` connections and read until the parent ends."""
    selector = selectors.DefaultSelector()
    for number in range(count):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(_REQUEST % (b"/one" if number == 0 else b"/many"))
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if not key.fileobj.recv(1 << 20):
                selector.unregister(key.fileobj)


class Subscribers(WebSocket):
    """Everybody subscribes to the topic of their path."""

    ping = False

    def on_open(self, client) -> None:
        client.subscribe(client.path)


class Measurement:
    """The steps, one after the other, in the thread of the loop."""

    def __init__(self, server: Server, options: argparse.Namespace) -> None:
        self.server = server
        self.options = options
        self.left = options.publishes
        self.begun = 0.0

    def wait(self) -> None:
        """Wait until everybody is there and has been answered."""
        if len(self.server.clients) < self.options.subscribers + 1:
            self.server.call_later(0.1, self.wait)
        else:
            self.server.call_later(1.0, self.start)

    def start(self) -> None:
        self.begun = time.perf_counter()
        self.step()

    def step(self) -> None:
        """Publish some, and go on when the peer has read them."""
        (one,) = self.server.members("/one")
        if one.buffered_amount < one._write_limit // 4:
            for _ in range(min(_BATCH, self.left)):
                assert self.server.publish("/one", _MESSAGE) == 1
            self.left -= min(_BATCH, self.left)
        if self.left or one.buffered_amount:
            self.server.call_later(0, self.step)
            return
        spent = time.perf_counter() - self.begun
        count = self.options.publishes
        print(f"{count:,} publishes to one subscriber: {spent:.2f} s,", end=" ")
        print(f"{spent / count * 1e6:.2f} µs each")
        self.server.call_later(0.5, self.fan_out)

    def fan_out(self) -> None:
        """Publish once to all; the second of two turns has written it."""
        self.begun = time.perf_counter()
        taken = self.server.publish("/many", _MESSAGE)
        queued = time.perf_counter() - self.begun
        self.server.reactor.flush()
        spent = time.perf_counter() - self.begun
        print(f"one publish to {taken:,}: {spent * 1e3:.1f} ms,", end=" ")
        print(
            f"{spent / taken * 1e6:.2f} µs each ({queued * 1e3:.1f} ms to queue them)"
        )
        self.server.stop(drain=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subscribers", type=int, default=10_000)
    parser.add_argument("--publishes", type=int, default=1_000_000)
    parser.add_argument("--read", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.read:
        read_all(options.read, options.subscribers + 1)
    server = Server("127.0.0.1", 0, write_limit=2**24)
    server.mount("*", Subscribers())
    server.listen()
    print(f"backend: {BACKEND}")
    command = [sys.executable, __file__, "--read", str(server.port)]
    command += ["--subscribers", str(options.subscribers)]
    reader = subprocess.Popen(command, env={**os.environ})
    try:
        server.call_later(0, Measurement(server, options).wait)
        server.run()
    finally:
        reader.kill()
        reader.wait()


if __name__ == "__main__":
    main()
