"""A node whose connection to Redis was cut subscribes to its topics again.

The node runs in a separate process, with one client subscribed to all topics. The
result is the CPU time of its loop, from when the connection is lost until the engine is
there again and all gaps are told; and its longest turn meanwhile.
"""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine_servers import redis

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import simple_ws  # noqa: E402
from simple_ws import Server, WebSocket  # noqa: E402
from simple_ws.cluster.resp import encode_command  # noqa: E402

#: Seconds after the engine is there, until all that has to do with it is over.
_AFTER = 0.2


class Listener(WebSocket):
    """The client listens to all topics."""

    def on_open(self, client: Any) -> None:
        for number in range(int(client.query["topics"])):
            client.subscribe(f"topic:{number}")
        client.send("subscribed")

    def on_message(self, msg: Any, client: Any) -> Any:
        return msg

    def on_gap(self, topic: str | None, missing: int | None) -> None:
        """One of them for each topic."""


def serve(path: str) -> None:
    """Be the node: print the port, then milliseconds of CPU and of a turn each time."""
    server = Server("127.0.0.1", 0, engine=f"unix://{path}", ping=False)
    server.mount("/", Listener())
    begun = 0.0

    @server.on_engine
    def changed(state: Any) -> None:
        nonlocal begun
        if not state.up:
            begun = time.thread_time()
            server.reactor.longest_turn = 0.0
        elif begun:
            server.call_later(_AFTER, report)

    def report() -> None:
        spent = time.thread_time() - begun
        print(spent * 1e3, server.reactor.longest_turn * 1e3, flush=True)

    server.listen()
    print(server.port, flush=True)
    server.run()


@contextmanager
def node(path: str) -> Iterator[Any]:
    """A node, by what it prints."""
    command = [sys.executable, __file__, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout
        finally:
            process.kill()


def ask(path: str, *command: str) -> bytes:
    """What Redis answers, if that is short."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.sendall(encode_command(*(word.encode() for word in command)))
        return sock.recv(1000)


def wait_for_topic(path: str, topic: str) -> None:
    """Wait until the node has subscribed to a topic."""
    while not ask(path, "PUBSUB", "NUMSUB", f"sws.t.{topic}").endswith(b":1\r\n"):
        time.sleep(0.01)


def measure_resubscription(topics: int, rounds: int) -> str:
    """A line with the medians of so many rounds."""
    with redis() as served, node(served.path) as lines:
        url = f"ws://127.0.0.1:{int(lines.readline())}/?topics={topics}"
        with simple_ws.connect(url) as client:
            client.recv()
            found = []
            for _ in range(rounds):
                wait_for_topic(served.path, f"topic:{topics - 1}")
                client.send("")  # and for its loop, which has nothing else to do
                client.recv()
                ask(served.path, "CLIENT", "KILL", "TYPE", "pubsub")
                found.append(tuple(map(float, lines.readline().split())))
    spent, longest = map(statistics.median, zip(*found, strict=True))
    return (
        f"{topics:,} topics subscribed again: {spent:.0f} ms of the loop's time, "
        f"longest turn {longest:.1f} ms"
    )


if __name__ == "__main__":
    serve(sys.argv[1])
