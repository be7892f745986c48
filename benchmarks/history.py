"""What a history costs: ``python benchmarks/history.py``

In one process and one thread, without an engine: `publish` to a topic without
subscribers, with and without a history; `subscribe` with a position of which nothing
was missed, or 10 messages; the memory of a history of 100 messages of 200 bytes. CPU
times in microseconds, medians of the rounds, which take turns. What it costs with an
engine is measured by `engines.py`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from simple_ws import BACKEND, Server, WebSocket
from simple_ws.cluster.history import History
from simple_ws.testing import TestServer

SIZE, CALLS = 100, 20_000
TEXT = "x" * 200


class Room(WebSocket):
    """Its one client is subscribed by the benchmark."""


def microseconds(call: Callable[[], object]) -> float:
    """CPU time of a call."""
    begun = time.process_time()
    for _ in range(CALLS):
        call()
    return (time.process_time() - begun) / CALLS * 1e6


def calls(server: Server, client: Any) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    for _ in range(SIZE):
        server.publish("kept", TEXT)
    epoch, offset, _ = server.history("kept")[-1].position.split(":")
    positions = {missed: f"{epoch}:{int(offset) - missed}" for missed in (0, 10)}

    def join(missed: int) -> None:
        client.subscribe("kept", since=positions[missed])
        client.unsubscribe("kept")
        client._drop_oldest(client.buffered_amount)

    def enter() -> None:
        client.subscribe("plain")
        client.unsubscribe("plain")

    return {
        "join, nothing missed": lambda: join(0),
        "join, 10 missed": lambda: join(10),
        "subscribe without history": enter,
        "publish, 200 B of text": lambda: server.publish("plain", TEXT),
        "the same with history": lambda: server.publish("other", TEXT),
    }


def memory() -> float:
    """Bytes of one history that is full."""
    tracemalloc.start()
    histories = [History(SIZE) for _ in range(100)]
    for history in histories:
        for number in range(2 * SIZE):
            history.append(number, f"{number:03}{TEXT[3:]}", 0.0)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held / len(histories)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    server = Server("", 0)
    server.topic("kept", history=SIZE)
    server.topic("other", history=SIZE)
    server.mount("/", Room())
    with TestServer(server) as kit:
        measured = calls(server, kit.connect("/").client)
        results: dict[str, list[float]] = {name: [] for name in measured}
        for _ in range(rounds):
            for name, call in measured.items():
                results[name].append(microseconds(call))
    print(f"{BACKEND}: CPU µs a call")
    for name, found in results.items():
        print(f"{name}: {statistics.median(found):.2f}")
    print(f"a history of {SIZE} x {len(TEXT)} B: {memory():,.0f} bytes")


if __name__ == "__main__":
    main()
