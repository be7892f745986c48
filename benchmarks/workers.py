"""Several workers beside one process: ``python benchmarks/workers.py``

Echo of 32 bytes on 100 connections, and handshakes, served by one process and by two
workers in turn. The load generator has the same two cores, so the rate that it sees
says little: what counts is the CPU time of all processes of the server for a message.
With it, `capacity` is how much more the workers could serve on cores of their own:

    workers x (CPU a message of one process / CPU a message of the workers)

The last table has how 1,000 connections are spread over the workers.

Threads instead of processes, on a Python without the GIL (`scripts/free_threaded.sh`):
``benchmarks/workers.py --worker-class thread --python PYTHON``.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import environment

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
WORKS = {
    "echo32": ["echo", "--connections", "100", "--size", "32"],
    "handshake": ["handshake", "--inflight", "64"],
}

SERVER = """
import sys
from simple_ws import Server, WebSocket

class Echo(WebSocket):
    def on_message(self, msg, client):
        return msg

options = {"workers": int(sys.argv[1]), "compression": False}
server = Server("127.0.0.1", 0, worker_class=sys.argv[2], **options)
server.mount("/ws", Echo())
server.mount("/", Echo())

@server.http("/stats")
def stats(request):
    return server.stats()

server.listen()
print(server.port, flush=True)
server.run()
"""


class Served:
    """The server with some number of workers, in processes of its own."""

    def __init__(self, workers: int, worker_class: str, python: str) -> None:
        self.workers = workers
        self._process = subprocess.Popen(
            [python, "-c", SERVER, str(workers), worker_class],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        while len(self.stats().get("workers", [None])) < workers:
            time.sleep(0.05)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def stats(self) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}/stats"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def cpu(self) -> float:
        """Seconds of CPU that all its processes have taken."""
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return sum(map(_cpu_of, (str(pid), *children)))

    def measure(self, arguments: list[str], seconds: float) -> float:
        """Microseconds of CPU for a message or handshake."""
        before = self.cpu()
        command = [str(environment.program("loadgen")), *arguments]
        command += ["--port", str(self.port), "--pid", str(self._process.pid)]
        command += ["--seconds", str(seconds), "--warmup", "0.02"]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        result = json.loads(done.stdout.splitlines()[-1])
        if result["error"]:
            sys.exit(f"load generator: {result['error']}")
        return float((self.cpu() - before) * 1e6 / result["messages"])

    def spread(self, count: int) -> list[int]:
        """How many of `count` connections each worker has."""
        socks = [_open(self.port) for _ in range(count)]
        try:
            while True:
                stats = self.stats()
                if stats["connections"]["open"] == count:
                    return [w["connections"]["open"] for w in stats["workers"]]
                time.sleep(0.1)
        finally:
            for sock in socks:
                sock.close()


def _cpu_of(pid: str) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _open(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    return sock


def compare(
    workers: int, rounds: int, seconds: float, worker_class: str, python: str
) -> None:
    """Print the CPU of each work, by one process and by the workers, in turn."""
    print("work        one µs   workers µs   capacity")
    for name, arguments in WORKS.items():
        taken: dict[int, list[float]] = {1: [], workers: []}
        for _ in range(rounds):
            for count, values in taken.items():
                with Served(count, worker_class, python) as served:
                    values.append(served.measure(arguments, seconds))
        one, several = (statistics.median(values) for values in taken.values())
        print(f"{name:<10}{one:8.2f}{several:13.2f}{workers * one / several:11.2f}")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--worker-class", default="process")
    parser.add_argument("--python", default=sys.executable, help="of the server")
    options = parser.parse_args()
    environment.prepare()
    environment.compile_programs()
    kind = options.worker_class, options.python
    compare(options.workers, options.rounds, options.seconds, *kind)
    with Served(options.workers, *kind) as served:
        found = served.spread(1000)
        ratio = max(found) / max(1, min(found))
        print(f"spread of 1,000: {' '.join(map(str, found))}, 1 : {ratio:.2f}")


if __name__ == "__main__":
    main()
