"""From one process to the client of another: ``python benchmarks/engines.py``

A server publishes messages of 128 bytes at a fixed rate; a client of another server, in
another process, receives them. The way between the two is Redis, or the broker that
`workers=N` starts; for comparison, on the same Redis, what users write without an
engine: redis-py, with hiredis, in a thread of the receiving process; python-socketio
with its Redis manager; Django Channels with both layers of channels_redis.

The output has the CPU time of the receiving process, all threads, for a message, and
the time from `publish` to the client; medians of the rounds. The ways take turns. The
client and Redis have the same cores, so latencies say little on a busy machine: CPU
times do. A way that is slower than the rate shows fewer messages.

The last lines are of a node that subscribes to 10,000 topics again after its connection
was cut. Linux only; Redis has to be installed.
"""

from __future__ import annotations

import argparse
import os
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
from engine_servers import Served, broker, redis
from resubscription import measure_resubscription

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from simple_ws import Server, WebSocket  # noqa: E402
from simple_ws.cluster import resp  # noqa: E402
from simple_ws.cluster.engine_address import EngineAddress  # noqa: E402
from simple_ws.cluster.envelope import HEADER_SIZE  # noqa: E402

SIZE = 128
TOPIC = "bench"
#: Messages that are kept, where some are.
HISTORY = 100
WARMUP = 0.5


class Wire(NamedTuple):
    """How a message looks at the client."""

    #: Size of a frame in bytes, and the offset of the time in it.
    frame: int = 132
    time_at: int = 4
    #: The time is text.
    text: bool = True
    #: The client has to greet as one of Socket.IO does.
    socketio: bool = False

    def sent_at(self, data: bytes, frame_at: int) -> int:
        """When a message was published, in nanoseconds."""
        at = frame_at + self.time_at
        if self.text:
            return int(data[at : at + 20])
        return int.from_bytes(data[at : at + 8], "big")


OURS = Wire(text=False)


class Way(NamedTuple):
    """How messages come to the receiving process."""

    name: str
    #: "engine", "history" for a topic with one, "thread" for redis-py, or a file in
    #: `peers/`.
    receiver: str
    broker: bool = False
    #: hiredis reads the replies.
    hiredis: bool = True
    wire: Wire = OURS
    #: Of channels_redis.
    layer: str = ""

    @property
    def is_peer(self) -> bool:
        """Both processes are a peer's."""
        return self.receiver.endswith(".py")


SOCKETIO = Wire(frame=142, time_at=12, socketio=True)
CHANNELS = "engine_channels.py"
WAYS = (
    Way("Redis", "engine", hiredis=False),
    Way("Redis, hiredis", "engine"),
    Way("broker of workers=N", "engine", broker=True, hiredis=False),
    Way("Redis, hiredis, history", "history"),
    Way("broker, history", "history", broker=True, hiredis=False),
    Way("redis-py in a thread", "thread"),
    Way("python-socketio", "engine_socketio.py", wire=SOCKETIO),
    Way("channels_redis", CHANNELS, wire=Wire(), layer="core.RedisChannelLayer"),
    Way(
        "channels_redis, pub/sub",
        CHANNELS,
        wire=Wire(),
        layer="pubsub.RedisPubSubChannelLayer",
    ),
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
    server._engine_addresses = [EngineAddress("local", path=path, password=secret)]
    return server


class Room(WebSocket):
    """All listen."""

    def on_open(self, client: Any) -> None:
        client.subscribe(TOPIC)


def receive(receiver: str, path: str, secret: str) -> None:
    """The process whose client receives."""
    if receiver in ("engine", "history"):
        server = with_engine(path, secret)
        if receiver == "history":
            server.topic(TOPIC, history=HISTORY)
    else:
        server = Server("127.0.0.1", 0, ping=False)
        threading.Thread(target=listen, args=(server, path), daemon=True).start()
    server.mount("/", Room())
    server.listen()
    print("PORT", server.port, flush=True)
    server.run()


def listen(server: Server, path: str) -> None:
    """What users do without an engine."""
    import redis  # of the peers' environment

    with redis.Redis(unix_socket_path=path).pubsub() as pubsub:
        pubsub.subscribe(f"sws.t.{TOPIC}")
        for message in pubsub.listen():
            if message["type"] == "message":
                server.publish(TOPIC, message["data"][HEADER_SIZE:])


def publish(receiver: str, path: str, secret: str, rate: int, seconds: float) -> None:
    """The process that publishes, for some seconds."""
    server = with_engine(path, secret)
    if receiver == "history":
        server.topic(TOPIC, history=HISTORY)
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
    """One of the processes of a way."""
    if way.is_peer:
        command = [environment.python("venv"), str(environment.PEERS / way.receiver)]
    elif way.hiredis:
        command = [environment.python("venv"), __file__, "--role", "hiredis"]
    else:
        command = [sys.executable, __file__, "--role", "python"]
    command += map(str, arguments)
    variables = {**os.environ, "CHANNEL_LAYER": way.layer}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=variables
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def receiving(way: Way, served: Served) -> Any:
    """The process whose client receives."""
    if way.is_peer:
        return role(way, "receive", served.path)
    return role(way, "receive", way.receiver, served.path, served.secret)


def publishing(way: Way, served: Served, rate: int, seconds: float) -> Any:
    """The publishing process; all our variants use the same program."""
    if way.is_peer:
        return role(way, "publish", served.path, rate, seconds)
    where = (way.receiver, served.path, served.secret)
    return role(WAYS[0], "publish", *where, rate, seconds)


def enter(port: int, wire: Wire) -> socket.socket:
    """A client; nothing but the messages comes to it."""
    sock = socket.create_connection(("127.0.0.1", port), 10)
    path = "/socket.io/?EIO=4&transport=websocket" if wire.socketio else "/"
    sock.sendall(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    if wire.socketio:
        read_frame(sock)  # of Engine.IO: it is open
        sock.sendall(b"\x81\x82\0\0\0\0" + b"40")
        read_frame(sock)  # of Socket.IO: the namespace is open
    return sock


def read_frame(sock: socket.socket) -> bytes:
    """The payload of one frame."""
    size = sock.recv(2, socket.MSG_WAITALL)[1]
    if size == 126:
        size = int.from_bytes(sock.recv(2, socket.MSG_WAITALL), "big")
    return sock.recv(size, socket.MSG_WAITALL)


def read(sock: socket.socket, wire: Wire, pid: int, seconds: float) -> Result:
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
        used = len(data) // wire.frame * wire.frame
        if start:
            latencies += [
                now - wire.sent_at(data, at) for at in range(0, used, wire.frame)
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
    with (
        broker() if way.broker else redis() as served,
        receiving(way, served) as receiver,
    ):
        sock = enter(int(receiver.stdout.readline().split()[1]), way.wire)
        total = seconds + WARMUP + 1
        with sock, publishing(way, served, rate, total):
            return read(sock, way.wire, receiver.pid, seconds)


def run_role(reader: str, name: str, *arguments: str) -> None:
    """Be one of the other processes."""
    if reader == "python":
        resp._hiredis = None  # it may be installed all the same
    if name == "receive":
        receive(*arguments)
    else:
        receiver, path, secret, rate, seconds = arguments
        publish(receiver, path, secret, int(rate), float(seconds))


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
    compare(ways, options)
    print(measure_resubscription(10_000, options.rounds))


def compare(ways: list[Way], options: argparse.Namespace) -> None:
    """Measure all ways in turn, at each rate."""
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
