"""Cost and benefit of compression: ``python benchmarks/deflate_table.py``.

A stream of JSON messages as sent by a dashboard (same keys, other values), and one of
chat lines. For each level, memory level, window and takeover: bytes on the wire as a
share of the uncompressed ones, µs to compress a message, and KiB per client. The table
in docs/performance.md is this output.
"""

from __future__ import annotations

import argparse
import json
import random
import time

from simple_ws import BACKEND
from simple_ws.speedups import Deflater

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "it",
    "you",
    "that",
    "he",
    "was",
    "for",
    "on",
    "are",
    "with",
    "as",
    "his",
    "they",
    "be",
    "at",
    "one",
    "have",
    "this",
    "from",
    "or",
    "had",
    "by",
    "hot",
    "but",
    "some",
    "what",
    "there",
    "we",
    "can",
    "out",
    "other",
    "were",
    "all",
    "your",
    "when",
    "up",
]


def dashboard(count: int, size: int) -> list[bytes]:
    rng = random.Random(1)
    messages = []
    for number in range(count):
        values, message = {}, b""
        while len(message) < size:
            values[f"sensor-{len(values)}"] = round(rng.uniform(-40, 120), 2)
            record = {"type": "update", "seq": number, "ok": True, "values": values}
            message = json.dumps(record).encode()
        messages.append(message[:size])
    return messages


def chat(count: int, size: int) -> list[bytes]:
    rng = random.Random(2)
    messages = []
    for number in range(count):
        text = " ".join(rng.choices(WORDS, k=size // 3))[: size - 60]
        record = {"type": "chat", "from": f"user-{number % 50}", "text": text}
        messages.append(json.dumps(record).encode())
    return messages


def measure(messages: list[bytes], setting: tuple[int, int, int, bool]):
    best = float("inf")
    for _ in range(5):
        deflater = Deflater(*setting)
        begun = time.perf_counter()
        sizes = [len(deflater.compress(message)) for message in messages]
        best = min(best, time.perf_counter() - begun)
    return sum(sizes) / sum(map(len, messages)), best / len(messages) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--size", type=int, default=512, help="bytes of a message")
    args = parser.parse_args()
    streams = [dashboard(args.count, args.size), chat(args.count, args.size)]
    print(f"backend {BACKEND}; {args.count} messages of about {args.size} bytes\n")
    print("| level | memory level | window bits | takeover | KiB a client |", end="")
    print(" dashboard: size, µs | chat: size, µs |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for takeover in (True, False):
        for bits, memory in ((9, 1), (10, 3), (11, 4), (12, 5), (13, 6), (15, 8)):
            for level in (1, 3, 6, 9):
                setting = (level, memory, bits, takeover)
                cells = []
                for stream in streams:
                    share, micros = measure(stream, setting)
                    cells.append(f"{share:.0%}, {micros:.1f}")
                kept = (2 ** (bits + 2) + 2 ** (memory + 9)) // 1024 + 6
                yes = "yes" if takeover else "no"
                row = [level, memory, bits, yes, kept, *cells]
                print("| " + " | ".join(map(str, row)) + " |")


if __name__ == "__main__":
    main()
