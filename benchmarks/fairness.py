"""The effect of a firehose on other clients: ``python benchmarks/fairness.py``

Twenty polite clients each send 32 bytes fifty times a second and wait for the echo,
first alone, then together with clients that send as much as they can, of one kind after
the other. The output has the latencies of the polite clients, the factor by which the
firehoses raise their 99th percentile, and the longest turn of the server's loop.

Server, polite clients and firehoses are separate processes; the server has one core,
the clients share another, where the polite ones come first. So the figures include what
the firehoses take from the polite clients on their own core, which is not the server's
fault.
"""

from __future__ import annotations

import argparse
import os
import random
import selectors
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIENTS, PACE, SIZE = 20, 0.02, 32
OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n"


def frame(opcode: int, payload: bytes, fin: bool = True, rsv: int = 0) -> bytes:
    """A client's frame; masked with zeroes, which changes nothing."""
    head = bytes((fin << 7 | rsv | opcode,))
    if len(payload) < 126:
        head += bytes((0x80 | len(payload),))
    elif len(payload) < 65536:
        head += struct.pack(">BH", 0xFE, len(payload))
    else:
        head += struct.pack(">BQ", 0xFF, len(payload))
    return head + bytes(4) + payload


def small_bomb() -> bytes:
    """A mebibyte of zeroes, in a kilobyte."""
    deflate = zlib.compressobj(9, wbits=-15)
    data = deflate.compress(bytes(2**20)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return frame(2, data[:-4], rsv=0x40)


def packed_digits() -> bytes:
    """A mebibyte of random digits, compressed: slow to inflate and to compress."""
    rng = random.Random(1)
    deflate = zlib.compressobj(6, wbits=-15)
    digits = "".join(str(rng.randrange(10)) for _ in range(2**20)).encode()
    data = deflate.compress(digits) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return frame(1, data[:-4], rsv=0x40)


#: What a firehose sends, again and again.
KINDS = {
    "small messages": lambda: frame(2, b"x" * 8) * 20_000,
    "messages of 1 KiB": lambda: frame(2, bytes(1024)) * 500,
    "messages of 1 MiB": lambda: frame(2, bytes(2**20)),
    "pings": lambda: frame(9, b"x") * 20_000,
    "fragments of a byte": lambda: (
        frame(2, b"x", fin=False) + frame(0, b"x", fin=False) * 20_000 + frame(0, b"x")
    ),
    "compressed zeroes": lambda: small_bomb() * 50,
    "compressed digits": packed_digits,
}


def connect(port: int, extra: str = "") -> socket.socket:
    """An open WebSocket connection."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + extra.encode() + b"\r\n"
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101 "), head
    return sock


# --- The three programs --------------------------------------------------------------


def serve() -> None:
    """Echo to everybody, until standard input ends; for each line of it, print the
    longest turn since the last."""
    from simple_ws import BACKEND, Server, WebSocket

    class Echo(WebSocket):
        def on_message(self, msg, client):
            return msg

    server = Server("127.0.0.1", 0, slow_callback=60)
    server.mount("*", Echo())
    server.start()
    print(server.port, BACKEND, flush=True)
    for _ in sys.stdin:
        print(server.reactor.longest_turn, flush=True)
        server.reactor.longest_turn = 0.0
    server.stop(drain=0)


def firehoses(port: int, kind: str, count: int) -> None:
    """Send as much as is taken, and throw away what comes back."""
    os.nice(19)
    data = memoryview(KINDS[kind]())
    selector = selectors.DefaultSelector()
    left = {}
    for _ in range(count):
        sock = connect(port, OFFER)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
        left[sock] = data
    sent, began = 0, time.monotonic()
    while left:
        for key, events in selector.select():
            sock = key.fileobj
            try:
                if events & selectors.EVENT_READ and not sock.recv(2**20):
                    raise ConnectionError("ended by the server")
                if events & selectors.EVENT_WRITE:
                    taken = sock.send(left[sock][: 2**18])
                    sent += taken
                    left[sock] = left[sock][taken:] or data
            except BlockingIOError:
                pass
            except OSError:
                selector.unregister(sock)
                del left[sock]
        if time.monotonic() - began > 0.5:
            print(sent / (time.monotonic() - began), flush=True)
            sent, began = 0, time.monotonic()


def polite(port: int, seconds: float) -> None:
    """Talk at a pace; print every latency."""
    rng = random.Random(1)
    message, selector = frame(2, bytes(SIZE)), selectors.DefaultSelector()
    due, sent_at, latencies = {}, {}, []
    for _ in range(CLIENTS):
        sock = connect(port)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(sock, selectors.EVENT_READ)
        due[sock] = time.perf_counter() + rng.uniform(0, PACE)
    end = time.perf_counter() + seconds
    while (now := time.perf_counter()) < end:
        for sock, when in list(due.items()):
            if now >= when:
                del due[sock]
                sent_at[sock] = time.perf_counter()
                sock.send(message)
        patience = min(due.values(), default=now + PACE) - now
        for key, _ in selector.select(max(0.0, patience)):
            sock = key.fileobj
            assert len(sock.recv(1000)) == SIZE + 2
            now = time.perf_counter()
            latencies.append(now - sent_at.pop(sock))
            due[sock] = now + rng.uniform(0.5, 1.5) * PACE
    # Those who were not answered waited at least so long.
    latencies += [end - when for when in sent_at.values()]
    print(" ".join(f"{seconds:.7f}" for seconds in latencies))


# --- Putting them together -----------------------------------------------------------


def start(what: str, *arguments: object, core: int) -> subprocess.Popen[str]:
    pinned: list[str] = []
    if hasattr(os, "sched_setaffinity"):
        pinned = ["taskset", "-c", str(core)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [*pinned, sys.executable, __file__, what, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def measure(port: int, seconds: float, core: int) -> list[float]:
    """Latencies of the polite, sorted."""
    process = start("polite", port, seconds, core=core)
    output, _ = process.communicate(timeout=seconds + 30)
    return sorted(map(float, output.split()))


def beside(
    port: int, kind: str, hostile: int, seconds: float, core: int
) -> tuple[list[float], str]:
    """Latencies next to firehoses, and how much these sent."""
    hose = start("firehoses", port, kind, hostile, core=core)
    try:
        assert hose.stdout is not None
        hose.stdout.readline()  # it is up to speed
        latencies = measure(port, seconds, core)
        if hose.poll() is not None:
            return latencies, "were cut off"
    finally:
        hose.kill()
        rest, _ = hose.communicate()
    rates = [float(line) for line in rest.splitlines()]
    return latencies, f"{sum(rates) / max(1, len(rates)) / 1e6:.1f} MB/s"


def longest_turn(server: subprocess.Popen[str]) -> float:
    """Of the server's loop, since this was asked the last time."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write("\n")
    server.stdin.flush()
    return float(server.stdout.readline())


def row(name: str, latencies: list[float], alone: float, turn: float, hose: str) -> str:
    middle = latencies[len(latencies) // 2]
    late = latencies[int(len(latencies) * 0.99)]
    factor = f"{late / alone:.1f}" if alone else ""
    values = (middle, late, latencies[-1], turn)
    figures = "".join(f"{value * 1e3:10.2f}" for value in values)
    return f"{name:36}{figures}{factor:>9}  {hose}"


def run(seconds: float, hostile: int, kinds: list[str]) -> None:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    server = start("serve", core=cores[0])
    try:
        assert server.stdout is not None
        port, backend = server.stdout.readline().split()
        print(
            f"backend {backend}, {CLIENTS} polite clients, {hostile} firehoses, "
            f"{seconds:g} s each; milliseconds"
        )
        names = "".join(f"{name:>10}" for name in ("p50", "p99", "max", "turn"))
        print(f"{'beside':36}{names}{'p99 ×':>9}  firehoses")
        alone = measure(int(port), seconds, cores[-1])
        print(row("nobody", alone, 0.0, longest_turn(server), ""))
        base = alone[int(len(alone) * 0.99)]
        for kind in kinds:
            latencies, hose = beside(int(port), kind, hostile, seconds, cores[-1])
            turn = longest_turn(server)
            print(row(kind, latencies, base, turn, hose), flush=True)
    finally:
        server.kill()
        server.communicate()


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "serve":
        serve()
    elif len(sys.argv) > 1 and sys.argv[1] == "firehoses":
        firehoses(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    elif len(sys.argv) > 1 and sys.argv[1] == "polite":
        polite(int(sys.argv[2]), float(sys.argv[3]))
    else:
        parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
        parser.add_argument("--seconds", type=float, default=5.0, help="of each row")
        parser.add_argument("--hostile", type=int, default=100, help="firehoses")
        parser.add_argument("--kinds", default=",".join(KINDS), help="of firehose")
        options = parser.parse_args()
        run(options.seconds, options.hostile, options.kinds.split(","))


if __name__ == "__main__":
    main()
