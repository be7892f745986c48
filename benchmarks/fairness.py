"""The effect of a firehose on other clients: ``python benchmarks/fairness.py``

Twenty polite clients each send 32 bytes fifty times a second and wait for the echo,
first alone, then together with one client that sends as much as it can, of one kind
after the other. The output has the latencies of the polite clients, and the factor by
which the firehose raises their 99th percentile.

Server, polite clients and firehose are separate processes; the server has one core, the
clients share another. So the figures include what the firehose takes from the polite
clients on their own core, which is not the server's fault.
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
    """Echo to everybody, until standard input ends."""
    from simple_ws import BACKEND, Server, WebSocket

    class Echo(WebSocket):
        def on_message(self, msg, client):
            return msg

    server = Server("127.0.0.1", 0, slow_callback=60)
    server.mount("*", Echo())
    server.start()
    print(server.port, BACKEND, flush=True)
    sys.stdin.read()
    server.stop(drain=0)


def firehose(port: int, kind: str) -> None:
    """Send as much as is taken, and throw away what comes back."""
    data = memoryview(KINDS[kind]())
    sock = connect(port, OFFER)
    sock.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
    left, sent, began = data, 0, time.monotonic()
    while True:
        ((_, events),) = selector.select()
        if events & selectors.EVENT_READ and not sock.recv(2**20):
            break
        if events & selectors.EVENT_WRITE:
            count = sock.send(left[: 2**18])
            sent += count
            left = left[count:] or data
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


def beside(port: int, kind: str, seconds: float, core: int) -> tuple[list[float], str]:
    """Latencies beside a firehose, and how much it was."""
    hose = start("firehose", port, kind, core=core)
    try:
        assert hose.stdout is not None
        hose.stdout.readline()  # it is up to speed
        latencies = measure(port, seconds, core)
        if hose.poll() is not None:
            return latencies, "was cut off"
    finally:
        hose.kill()
        rest, _ = hose.communicate()
    rates = [float(line) for line in rest.splitlines()]
    return latencies, f"{sum(rates) / max(1, len(rates)) / 1e6:.1f} MB/s"


def row(name: str, latencies: list[float], alone: float, hose: str) -> str:
    middle = latencies[len(latencies) // 2]
    late = latencies[int(len(latencies) * 0.99)]
    factor = f"{late / alone:.1f}" if alone else ""
    figures = "".join(f"{value * 1e3:10.2f}" for value in (middle, late, latencies[-1]))
    return f"{name:36}{figures}{factor:>9}  {hose}"


def run(seconds: float, kinds: list[str]) -> None:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    server = start("serve", core=cores[0])
    try:
        assert server.stdout is not None
        port, backend = server.stdout.readline().split()
        print(f"backend {backend}, {CLIENTS} clients, {seconds:g} s each; milliseconds")
        print(f"{'beside':36}{'p50':>10}{'p99':>10}{'max':>10}{'p99 ×':>9}  firehose")
        alone = measure(int(port), seconds, cores[-1])
        print(row("nobody", alone, 0.0, ""))
        base = alone[int(len(alone) * 0.99)]
        for kind in kinds:
            latencies, hose = beside(int(port), kind, seconds, cores[-1])
            print(row(kind, latencies, base, hose), flush=True)
    finally:
        server.kill()
        server.communicate()


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "serve":
        serve()
    elif len(sys.argv) > 1 and sys.argv[1] == "firehose":
        firehose(int(sys.argv[2]), sys.argv[3])
    elif len(sys.argv) > 1 and sys.argv[1] == "polite":
        polite(int(sys.argv[2]), float(sys.argv[3]))
    else:
        parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
        parser.add_argument("--seconds", type=float, default=5.0, help="of each row")
        parser.add_argument("--kinds", default=",".join(KINDS), help="of firehose")
        options = parser.parse_args()
        run(options.seconds, options.kinds.split(","))


if __name__ == "__main__":
    main()
