"""What reading a history costs: ``python benchmarks/reads.py``

The first client of a topic on a node has it read the history from Redis. A node with
one client fills some topics, then the client joins them all, from their last message
on. The result is CPU time for a topic: of Redis, and of the node's loop until all are
joined. Redis has to be installed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from engine_servers import redis
from resubscription import ask

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from simple_ws import Publisher, Server, WebSocket, connect

TEXT = "x" * 200
SIZES = (1, 10, 100)


def cpu_of_redis(path: str) -> float:
    """Seconds that its main thread has worked."""
    lines = ask(path, "INFO", "CPU").decode().splitlines()
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    names = ("used_cpu_user_main_thread", "used_cpu_sys_main_thread")
    return sum(float(found[name]) for name in names)


class Reader(WebSocket):
    """Joins topics when its client says how many, and tells the time that it took."""

    topics = joined = 0
    begun = 0.0

    def on_message(self, msg: Any, client: Any) -> None:
        size, topics = map(int, msg.split())
        self.topics, self.joined, self.begun = topics, 0, time.thread_time()
        for number in range(topics):
            client.subscribe(f"{size}/{number}", since=1)

    def on_join(self, client: Any, topic: str, join: Any) -> None:
        self.joined += 1
        if self.joined == self.topics:
            client.send(f"done {time.thread_time() - self.begun}")


def fill(path: str, size: int, topics: int) -> None:
    """Give each topic so many messages."""
    with Publisher(f"unix://{path}") as publisher:
        for number in range(topics):
            for _ in range(size):
                publisher.publish(f"{size}/{number}", TEXT)


def measure(client: Any, path: str, size: int, topics: int) -> tuple[float, float]:
    """Microseconds of Redis and of the node for a topic with so many messages."""
    fill(path, size, topics)
    before = cpu_of_redis(path)
    client.send(f"{size} {topics}")
    while True:
        message = client.recv()
        if message.startswith("done"):
            here = float(message.split()[1])
            return (cpu_of_redis(path) - before) / topics * 1e6, here / topics * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topics", type=int, default=100)
    topics = parser.parse_args().topics
    with redis() as served:
        server = Server("127.0.0.1", 0, engine=f"unix://{served.path}", ping=False)
        server.topic("*", history=max(SIZES))
        server.mount("/", Reader())
        server.start()
        try:
            with connect(f"ws://127.0.0.1:{server.port}/") as client:
                for size in SIZES:
                    engine, node = measure(client, served.path, size, topics)
                    print(f"{size} messages: Redis {engine:.0f} µs, node {node:.0f} µs")
        finally:
            server.stop(0)


if __name__ == "__main__":
    main()
