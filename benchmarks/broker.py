"""CPU time of the local broker, compared with Redis: ``python benchmarks/broker.py``

One client publishes messages of 128 bytes to a channel with 0, 1, 10 and 100
subscribers, one by one (each waits for its reply) or so many at once. The output has
the CPU time of the broker for a message and for a delivery, the best of three rounds.
Redis is measured on a Unix socket, too, where `redis-server` is installed; Linux only.
"""

from __future__ import annotations

import select
import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path

from engine_servers import Served, broker, redis

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from simple_ws.cluster.resp import encode_command  # noqa: E402

BODY = b"x" * 128
PUBLISH = encode_command(b"PUBLISH", b"c", BODY)
PUSH = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$128\r\n%b\r\n" % BODY
BATCHES = (1, 10, 100)
SUBSCRIBERS = {0: 20_000, 1: 20_000, 10: 5_000, 100: 1_000}


def cpu_of(pid: int) -> float:
    """Seconds that the main thread of a process has run."""
    text = Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii")
    return int(text.split()[0]) / 1e9


def enter(served: Served) -> socket.socket:
    login = (b"AUTH", b"default", served.secret.encode()) if served.secret else ()
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(served.path)
    sock.sendall(encode_command(b"HELLO", b"3", *login))
    sock.recv(4096)
    return sock


def measure(served: Served, count: int, total: int, batch: int) -> float:
    """CPU seconds of the broker for each message."""
    receivers = [enter(served) for _ in range(count)]
    for sock in receivers:
        sock.sendall(encode_command(b"SUBSCRIBE", b"c"))
        sock.recv(4096)
    sender = enter(served)
    sockets = {sock.fileno(): sock for sock in [*receivers, sender]}
    poll = select.epoll()
    for number, sock in sockets.items():
        sock.setblocking(False)
        poll.register(number, select.EPOLLIN)
    reply = len(b":%d\r\n" % count)
    sent = replied = pushed = 0
    begun = cpu_of(served.pid)
    while replied < total * reply or pushed < total * count * len(PUSH):
        more = min(batch - (sent - replied // reply), total - sent)
        if more > 0:
            sender.setblocking(True)
            sender.sendall(PUBLISH * more)
            sender.setblocking(False)
            sent += more
        for number, _ in poll.poll(5):
            with suppress(BlockingIOError):
                size = len(sockets[number].recv(2**18))
                if sockets[number] is sender:
                    replied += size
                else:
                    pushed += size
    spent = cpu_of(served.pid) - begun
    for sock in sockets.values():
        sock.close()
    poll.close()
    return spent / total


def main() -> None:
    servers = {"broker": broker}
    if shutil.which("redis-server"):
        servers["redis"] = redis
    print("CPU µs of the server for a message (for a delivery)")
    for name, serve in servers.items():
        with serve() as served:
            for batch in BATCHES:
                cells = []
                for count, total in SUBSCRIBERS.items():
                    size = total // 4 if batch == 1 else total
                    rounds = [measure(served, count, size, batch) for _ in range(3)]
                    best = min(rounds) * 1e6
                    cells.append(f"{count}: {best:.1f} ({best / max(count, 1):.2f})")
                print(f"{name}, {batch} at once, by subscribers: {', '.join(cells)}")


if __name__ == "__main__":
    main()
