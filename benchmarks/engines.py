"""From one process to the client of another: ``python benchmarks/engines.py``

A server publishes messages of 128 bytes at a fixed rate; a client of another server, in
another process, receives them. The way between the two is Redis, or the broker that
`workers=N` starts; for comparison, what users write without an engine: redis-py, with
hiredis, in a thread of the receiving process, on the same Redis.

The output has the CPU time of the receiving process, all threads, for a message, and
the time from `publish` to the client; medians of the rounds. The ways take turns. The
client and Redis have the same cores, so latencies say little on a busy machine: CPU
times do. Linux only; Redis has to be installed.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import environment
from engine_servers import broker, redis

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from simple_ws import Server, WebSocket  # noqa: E402
from simple_ws.cluster import resp  # noqa: E402
from simple_ws.cluster.envelope import HEADER_SIZE  # noqa: E402
from simple_ws.cluster.redis_url import EngineAddress  # noqa: E402

#: Bytes of a message, and of the frame that the client gets.
SIZE, FRAME = 128, 132
TOPIC = "bench"
WARMUP = 0.5


class Way(NamedTuple):
    """How messages come to the receiving process."""

    name: str
    #: "engine", or "thread" for redis-py.
    receiver: str
    broker: bool
    #: hiredis reads the replies.
    hiredis: bool


WAYS = (
    Way("Redis", "engine", broker=False, hiredis=False),
    Way("Redis, hiredis", "engine", broker=False, hiredis=True),
    Way("broker of workers=N", "engine", broker=True, hiredis=False),
    Way("redis-py in a thread", "thread", broker=False, hiredis=True),
)


class Result(NamedTuple):
    """Of one round: microseconds."""

    cpu: float
    p50: float
    p99: float
    rate: float


# --- The processes --------------------------------------------------------------------


def with_engine(path: str, secret: str) -> Server:
    """A server on Redis, or on the broker if there is a secret."""
    if not secret:
        return Server("127.0.0.1", 0, engine=f"unix://{path}", ping=False)
    server = Server("127.0.0.1", 0, ping=False)
    server._engine_address = EngineAddress("local", path=path, password=secret)
    return server


class Room(WebSocket):
    """All listen."""

    def on_open(self, client: Any) -> None:
        client.subscribe(TOPIC)


def receive(receiver: str, path: str, secret: str) -> None:
    """The process whose client receives."""
    if receiver == "engine":
        server = with_engine(path, secret)
    else:
        server = Server("127.0.0.1", 0, ping=False)
        threading.Thread(target=listen, args=(server, path), daemon=True).start()
    server.mount("/", Room())
    server.listen()
    print(server.port, flush=True)
    server.run()


def listen(server: Server, path: str) -> None:
    """What users do without an engine."""
    import redis  # of the peers' environment

    with redis.Redis(unix_socket_path=path).pubsub() as pubsub:
        pubsub.subscribe(f"sws.t.{TOPIC}")
        for message in pubsub.listen():
            if message["type"] == "message":
                server.publish(TOPIC, message["data"][HEADER_SIZE:])


def publish(path: str, secret: str, rate: int, seconds: float) -> None:
    """The process that publishes, for some seconds."""
    server = with_engine(path, secret)
    sent = 0
    padding = bytes(SIZE - 8)

    def send(begun: float) -> None:
        nonlocal sent
        passed = time.monotonic() - begun
        last = min(passed * rate, sent + rate / 200)  # what it has missed comes later
        while sent < last:
            server.publish(TOPIC, time.monotonic_ns().to_bytes(8, "big") + padding)
            sent += 1
        if passed < seconds:
            server.call_later(0.001, lambda: send(begun))
        else:
            server.stop(0)

    @server.on_engine
    def begin(state: Any) -> None:
        if state.up and not sent:
            send(time.monotonic())

    server.run()


# --- Measuring ------------------------------------------------------------------------


def cpu_of(pid: int) -> float:
    """Seconds that all threads of a process have run."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


@contextmanager
def role(way: Way, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """This program in another process."""
    python = environment.python("venv") if way.hiredis else sys.executable
    reader = "hiredis" if way.hiredis else "python"
    command = [python, __file__, "--role", reader, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def enter(port: int) -> socket.socket:
    """A client; the messages come in frames of `FRAME` bytes."""
    sock = socket.create_connection(("127.0.0.1", port), 10)
    sock.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n"
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    return sock


def read(sock: socket.socket, pid: int, seconds: float) -> Result:
    """Read for some seconds after the warm-up."""
    data, latencies, start, cpu = b"", [], 0, 0.0
    warm = 0
    while True:
        received = sock.recv(2**18)
        now = time.monotonic_ns()
        data += received
        if not warm:
            warm = now + int(WARMUP * 1e9)
        if not start and now >= warm:
            start, cpu = now, cpu_of(pid)
        used = len(data) // FRAME * FRAME
        if start:
            latencies += [
                now - int.from_bytes(data[at : at + 8], "big")
                for at in range(4, used, FRAME)
            ]
        data = data[used:]
        if start and now >= start + seconds * 1e9:
            break
    count, spent = len(latencies), cpu_of(pid) - cpu
    latencies.sort()
    return Result(
        spent * 1e6 / count,
        latencies[count // 2] / 1e3,
        latencies[count * 99 // 100] / 1e3,
        count * 1e9 / (now - start),
    )


def measure(way: Way, rate: int, seconds: float) -> Result:
    """One round of one way."""
    with broker() if way.broker else redis() as (_, path, secret):
        name = way.receiver
        with role(way, "receive", name, path, secret) as receiver:
            assert receiver.stdout is not None
            sock = enter(int(receiver.stdout.readline()))
            total = seconds + WARMUP + 1
            publisher = WAYS[0]  # always the same one
            with sock, role(publisher, "publish", path, secret, rate, total):
                return read(sock, receiver.pid, seconds)


def run_role(reader: str, name: str, *arguments: str) -> None:
    """Be one of the other processes."""
    if reader == "python":
        resp._hiredis = None  # it may be installed all the same
    if name == "receive":
        receive(*arguments)
    else:
        path, secret, rate, seconds = arguments
        publish(path, secret, int(rate), float(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", type=int, nargs="+", default=[5_000, 20_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--role", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        run_role(*options.role)
        return
    if not shutil.which("redis-server"):
        sys.exit("redis-server is not installed")
    environment.prepare()
    missing = environment.install_engines()
    for name, why in missing.items():
        print(f"without {name}: {why}")
    ways = [way for way in WAYS if not (missing and way.hiredis)]
    print("CPU µs a message of the receiving process | p50 ms | p99 ms | messages/s")
    for rate in options.rates:
        results: dict[Way, list[Result]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way in ways:
                results[way].append(measure(way, rate, options.seconds))
        for way, rounds in results.items():
            cpu, p50, p99, seen = map(statistics.median, zip(*rounds, strict=True))
            print(
                f"{rate:,}/s, {way.name}: {cpu:.1f} | {p50 / 1e3:.2f} | "
                f"{p99 / 1e3:.2f} | {seen:,.0f}"
            )


if __name__ == "__main__":
    main()
