"""ASGI beside uvicorn: ``python benchmarks/asgi.py``

- `hello`: FastAPI answers `{"hello": "world"}` to 16 connections of wrk.
- `echo`: FastAPI sends each text of 32 characters back, to 100 connections.
- `single`: likewise, to one connection.
- `plain-hello`, `plain-echo`: an application without a framework.

Both servers run on uvloop, uvicorn with httptools and each of its WebSocket
implementations. They take turns in each round, a fresh process each time; medians of
the rounds. `CPU` is what the server used for one request or message; it says more than
the rate where server and load have to share cores. Needs `wrk` for HTTP. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import environment

HERE = Path(__file__).resolve().parent
CLOCK = os.sysconf("SC_CLK_TCK")
#: What a work takes part in: the application, and how the load is made.
WORKS = {
    "hello": ("app", None),
    "plain-hello": ("plain", None),
    "echo": ("app", ("--connections", "100")),
    "single": ("app", ("--connections", "1")),
    "plain-echo": ("plain", ("--connections", "100")),
}
UVICORN = ("websockets", "websockets-sansio", "wsproto")
#: At least so much faster than the best of uvicorn, by CPU for one.
GOALS = {"hello": 0.9, "echo": 1.5}


def servers(work: str) -> list[str]:
    """Who takes part in a work."""
    forms = UVICORN[:1] if WORKS[work][1] is None else UVICORN
    return ["simple-ws", *(f"uvicorn, {form}" for form in forms)]


def command(server: str, app: str, port: int, root: Path) -> list[str]:
    if server.startswith("simple-ws"):
        return [
            *(sys.executable, "-m", "simple_ws", "asgi", f"asgi_app:{app}"),
            *("--port", str(port), "--loop", "uvloop"),
        ]
    return [
        *(sys.executable, "-m", "uvicorn", f"asgi_app:{app}", "--port", str(port)),
        *("--loop", "uvloop", "--http", "httptools", "--ws", server.split(", ")[1]),
        *("--no-access-log", "--log-level", "warning"),
    ]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(server: str, app: str, root: Path) -> Iterator[tuple[int, int]]:
    """The port and the process of a server."""
    port = free_port()
    process = subprocess.Popen(
        command(server, app, port, root),
        cwd=HERE / "peers",
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def cpu_of(pid: int) -> float:
    """Seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK


def measure(work: str, server: str, seconds: float, root: Path) -> tuple[float, float]:
    """Requests or messages a second, and microseconds of CPU for one."""
    app, options = WORKS[work]
    with running(server, app, root) as (port, pid):
        if options is None:
            load(port, None, 0.5)
        else:
            load(port, options, 0.5)
        before = cpu_of(pid)
        count, took = load(port, options, seconds)
        return count / took, (cpu_of(pid) - before) / count * 1e6


def load(
    port: int, options: tuple[str, ...] | None, seconds: float
) -> tuple[int, float]:
    """Make a load; return how many answers came, and in how many seconds."""
    if options is None:
        told = subprocess.run(
            [
                "wrk",
                "-t1",
                "-c16",
                f"-d{max(1, round(seconds))}",
                f"http://127.0.0.1:{port}/",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        found = re.search(r"(\d+) requests in ([\d.]+)s", told)
        assert found is not None, told
        assert "Non-2xx" not in told, told
        return int(found[1]), float(found[2])
    told = subprocess.run(
        [
            *(str(environment.program("loadgen")), "echo", "--port", str(port)),
            *("--path", "/ws", "--text", "--warmup", "0", "--seconds", str(seconds)),
            *options,
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    figures = json.loads(told.splitlines()[-1])
    return figures["messages"], figures["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--works", default=",".join(WORKS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--before", type=Path, help="another checkout, to compare with")
    arguments = parser.parse_args()
    for work in arguments.works.split(","):
        if WORKS[work][1] is None and shutil.which("wrk") is None:
            print(f"{work:12} left out: there is no wrk on this system")
            continue
        rows: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for _ in range(arguments.rounds):
            for server in servers(work):
                figures = measure(work, server, arguments.seconds, HERE.parent)
                rows[server].append(figures)
            if arguments.before:
                figures = measure(
                    work, "simple-ws", arguments.seconds, arguments.before
                )
                rows["simple-ws, before"].append(figures)
        show(work, rows)


def show(work: str, rows: dict[str, list[tuple[float, float]]]) -> None:
    costs = {}
    for server, figures in rows.items():
        rate = statistics.median(rate for rate, _ in figures)
        costs[server] = statistics.median(cost for _, cost in figures)
        print(f"{work:12} {server:28} {rate:9,.0f}/s {costs[server]:8.1f} µs of CPU")
    best = min(cost for server, cost in costs.items() if "uvicorn" in server)
    factor = best / costs["simple-ws"]
    goal = f" (goal: {GOALS[work]})" if work in GOALS else ""
    print(f"{work:12} {factor:.2f} times the best of uvicorn{goal}", flush=True)


if __name__ == "__main__":
    main()
