"""How late is what a slow dashboard shows: ``python benchmarks/latest.py``

Fifty keys change twenty times a second, but for the last one, which changes once a
second: 200 KB/s. A client on a line of 50 KB/s is subscribed to all of them. Each
message says when it was published. So the client knows how old it is when it comes, how
old the values of the other 49 keys are that it shows, and how many changes of the rare
key it has seen. Topics with ``latest`` are compared with ``slow_consumer="drop_old"``,
and with Bun's ``publish`` if it can be installed.

Server and client are separate processes, on a core each where there are two. The line
is the client's: small buffers, and reads at a pace; what the system of the server keeps
is bounded by ``notsent_lowat`` as always (Bun leaves it as it is).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import environment

ROOT = Path(__file__).resolve().parent.parent
KEYS, CHANGES, SIZE = 50, 20, 200  # keys; changes a second of each; bytes of a message
STEP = 0.01  # seconds between two reads
#: Of the client's socket; the system doubles it.
BUFFER = 8 * 1024

#: What is compared: options of our server and handler, and whether with `latest`.
OURS = {
    "latest": ({}, {}, True),
    "latest, notsent_lowat 2 KiB": ({"notsent_lowat": 2048}, {}, True),
    "drop_old, write_limit 16 KiB": (
        {},
        {"slow_consumer": "drop_old", "write_limit": 16 * 1024},
        False,
    ),
    "drop_old, write_limit 1 MiB": ({}, {"slow_consumer": "drop_old"}, False),
}
#: Bun's `publish` drops new messages above its `backpressureLimit`.
BUN = {
    "Bun, backpressureLimit 16 KiB": 16 * 1024,
    "Bun, backpressureLimit 1 MiB": 2**20,
}


# --- The programs ---------------------------------------------------------------------


def serve(name: str) -> None:
    """Publish until standard input ends."""
    from simple_ws import Server, WebSocket

    server_options, options, latest = OURS[name]
    ticks = itertools.count(1)

    class Board(WebSocket):
        def on_open(self, client):
            client.subscribe("board")

    def change():
        rare = next(ticks) % CHANGES
        for key in range(KEYS - 1 if rare else KEYS):
            values = {"key": key, "time": time.time(), "more": ""}
            values["more"] = "x" * (SIZE - len(json.dumps(values)))
            server.publish("board", values)

    server = Server("127.0.0.1", 0, compression=False, **server_options)
    if latest:
        server.topic("board", latest=lambda msg: msg["key"])
    server.mount("*", Board(**options))
    server.every(1 / CHANGES, change)
    server.start()
    print("PORT", server.port, flush=True)
    sys.stdin.read()
    server.stop(drain=0)


def connect(port: int) -> socket.socket:
    """An open WebSocket connection with small buffers."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    sock.connect(("127.0.0.1", port))
    sock.sendall(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101 "), head
    return sock


def watch(port: int, rate: float, seconds: float) -> None:
    """Read at a rate, in bytes a second; print the ages of what is shown, as JSON."""
    shown: dict[int, float] = {}
    of_messages: list[float] = []
    of_keys: list[float] = []
    count, rare = 0, set()
    for now, share, messages in read_slowly(connect(port), rate, seconds):
        count += len(messages)
        for msg in messages:
            if msg["key"] == KEYS - 1:
                rare.add(msg["time"])
            else:
                shown[msg["key"]] = msg["time"]
        if share > 0.5:  # the queues are full by then, if there are any
            of_messages += [now - msg["time"] for msg in messages]
            of_keys += [now - shown[key] for key in shown]
    seen = len(rare) / seconds
    print(json.dumps([count, seen, sorted(of_messages), sorted(of_keys)]))


def read_slowly(
    sock: socket.socket, rate: float, seconds: float
) -> Iterator[tuple[float, float, list[dict]]]:
    """The time, how much of all the time is over, and the messages that have come."""
    began, taken, data = time.time(), 0, b""
    while (now := time.time()) < began + seconds:
        room = int((now - began) * rate) - taken
        if room > 0:
            piece = sock.recv(room)
            if not piece:
                raise SystemExit("the server has ended the connection")
            taken += len(piece)
            data, messages = split(data + piece)
            yield time.time(), (now - began) / seconds, messages
        time.sleep(STEP)


def split(data: bytes) -> tuple[bytes, list[dict]]:
    """The messages that are whole, and the rest."""
    messages, pos = [], 0
    while len(data) - pos >= 4:
        size, start = data[pos + 1], pos + 2
        if size == 126:
            size, start = int.from_bytes(data[pos + 2 : pos + 4], "big"), pos + 4
        if len(data) < start + size:
            break
        messages.append(json.loads(data[start : start + size]))
        pos = start + size
    return data[pos:], messages


# --- Putting them together ------------------------------------------------------------


def start(command: list[str], core: int) -> subprocess.Popen[str]:
    if hasattr(os, "sched_setaffinity"):
        command = ["taskset", "-c", str(core), *command]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def commands(with_bun: bool) -> Iterator[tuple[str, list[str]]]:
    for name in OURS:
        yield name, [sys.executable, __file__, "serve", name]
    if not with_bun:
        return
    environment.prepare()
    for trouble in environment.install({"bun"}).values():
        print(f"SKIPPED Bun: {trouble}")
        return
    program = str(environment.PEERS / "bun_latest.js")
    for name, limit in BUN.items():
        options = [KEYS, CHANGES, SIZE, limit]
        yield name, [environment.bun(), program, *map(str, options)]


def measure(command: list[str], rate: float, seconds: float) -> list:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    server = start(command, cores[0])
    try:
        assert server.stdout is not None
        _, port = server.stdout.readline().split()
        arguments = map(str, ("watch", port, rate, seconds))
        client = start([sys.executable, __file__, *arguments], cores[-1])
        output, _ = client.communicate(timeout=seconds + 30)
        return json.loads(output)
    finally:
        server.kill()
        server.communicate()


def row(name: str, count: int, rare: float, messages: list, of_keys: list) -> str:
    def at(values: list, share: float) -> str:
        index = min(len(values) - 1, int(len(values) * share))
        return f"{values[index]:10.2f}" if values else f"{'none':>10}"

    figures = at(messages, 0.5) + at(messages, 1) + at(of_keys, 0.5) + at(of_keys, 1)
    return f"{name:32}{figures}{count:>10}{rare:>6.0%}"


def run(rate: float, seconds: float, with_bun: bool) -> None:
    print(
        f"{KEYS} keys × {CHANGES}/s × {SIZE} bytes to a client that reads "
        f"{rate / 1000:g} KB/s, {seconds:g} s each; ages in seconds, second half"
    )
    names = ("message", "max", "key", "max", "messages")
    print(f"{'':32}" + "".join(f"{name:>10}" for name in names) + f"{'rare':>6}")
    for name, command in commands(with_bun):
        print(row(name, *measure(command, rate, seconds)), flush=True)


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2])
    elif sys.argv[1:2] == ["watch"]:
        watch(int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
    else:
        parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
        parser.add_argument("--seconds", type=float, default=30.0, help="of each row")
        parser.add_argument("--rate", type=float, default=50_000, help="bytes a second")
        parser.add_argument("--without-bun", action="store_true")
        options = parser.parse_args()
        run(options.rate, options.seconds, not options.without_bun)


if __name__ == "__main__":
    main()
