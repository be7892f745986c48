"""SDK clients beside raw ones and python-socketio: ``python benchmarks/live.py``

- `publish`: 1,000 clients in a topic, and one that publishes 128 characters; the next
  message is published when all have it. `raw`: 1,000 WebSocket clients of the same
  server, without the protocol of `live`, get the same bytes in turn.
- `join`: 5,000 clients connect and join at once: the handshake, the greeting of the
  protocol, the subscription, and all replies.
- `memory`: of an idle client in one topic (`kept`: recoverable), as `idle` of `run.py`.
- `calls`: in one process and thread, without sockets: what a frame with one command
  costs, the reply included.

Server and load have a core each; the servers take turns in each round, a fresh process
each time; medians of the rounds. `CPU` is what the server used for one message to all,
or for one client. The load is a Python program: where it is the bottleneck, look at
`CPU`, not at the rate. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import environment
from live_calls import Calls
from live_load import cpu_of
from servers import Running, ServerFailed, Spec

ROOT = Path(__file__).resolve().parent.parent
LOAD = Path(__file__).with_name("live_load.py")
OURS = Spec(
    "live-ours",
    "simple_ws",
    lambda: [sys.executable, str(environment.PEERS / "live_ours.py")],
    env={"PYTHONPATH": str(ROOT)},
)
SOCKETIO = Spec(
    "live-socketio",
    "python-socketio",
    lambda: [
        environment.python("venv"),
        str(environment.PEERS / "live_socketio.py"),
    ],
)
#: What is measured: the work, the dialects of the clients, and the server.
ROWS = (
    ("publish", "live,raw", OURS),
    ("publish", "socketio", SOCKETIO),
    ("join", "live", OURS),
    ("join", "socketio", SOCKETIO),
    ("memory", "raw", OURS),
    ("memory", "live", OURS),
    ("memory", "kept", OURS),
    ("memory", "socketio", SOCKETIO),
)
#: How much better than what each has to be: (work, dialect, other, figure, factor).
GOALS = (
    ("publish", "live", "raw", "rate", 0.9),
    ("publish", "live", "socketio", "rate", 5.0),
    ("join", "live", "socketio", "rate", 5.0),
)


class Load:
    """The clients, in a process of their own; see `live_load`."""

    def __init__(self, cpu: int, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(LOAD), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
        )

    def next(self) -> dict[str, Any]:
        """Wait until it has done something; it waits for `go_on` then."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ServerFailed("the load has ended, see above")
        found: dict[str, Any] = json.loads(line)
        return found

    def go_on(self) -> None:
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class Benchmark:
    """All rounds.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.server_cpu, self.load_cpu = environment.choose_cpus()
        self.results: dict[str, list[dict[str, float]]] = defaultdict(list)

    def run(self) -> None:
        """Measure everything; a peer that fails is left out, with the reason."""
        rows = [row for row in ROWS if row[0] in self.options.works]
        for number in range(self.options.rounds):
            at = number % max(1, len(rows))
            for work, dialects, spec in rows[at:] + rows[:at]:
                try:
                    found = self._measure(work, dialects, spec)
                except ServerFailed as error:
                    print(f"SKIPPED {work} {dialects}: {error}", file=sys.stderr)
                    continue
                for dialect, figures in found.items():
                    self.results[f"{work} {dialect}"].append(figures)
            if "calls" in self.options.works:
                self._measure_calls()

    def _measure(
        self, work: str, dialects: str, spec: Spec
    ) -> dict[str, dict[str, float]]:
        """The figures of each dialect."""
        with Running(spec, "echo", False, self.server_cpu) as server:
            if work == "publish":
                return self._publish(dialects, server)
            measure = self._join if work == "join" else self._memory
            return {dialects: measure(dialects, server)}

    @contextmanager
    def _load(self, *arguments: object) -> Iterator[Load]:
        load = Load(self.load_cpu, *arguments)
        try:
            yield load
        finally:
            load.end()

    def _publish(self, dialects: str, server: Running) -> dict[str, dict[str, float]]:
        clients, seconds = self.options.clients, self.options.seconds
        arguments = server.port, clients, dialects, server.pid, seconds
        with self._load("publish", *arguments) as load:
            return load.next()

    def _join(self, dialect: str, server: Running) -> dict[str, float]:
        with self._load("join", server.port, self.options.joins, dialect) as load:
            load.next()
            before = cpu_of(server.pid)
            load.go_on()
            done = load.next()
            spent = cpu_of(server.pid) - before
        return {
            "rate": done["joined"] / done["seconds"],
            "cpu": spent / done["joined"] * 1e6,
        }

    def _memory(self, dialect: str, server: Running) -> dict[str, float]:
        with self._load("join", server.port, 64, dialect) as load:
            load.next()
            load.go_on()
            load.next()
        self._collect(server)
        before, clients = server.pss(), self.options.idle
        with self._load("join", server.port, clients, dialect) as load:
            load.next()
            load.go_on()
            load.next()
            self._collect(server)
            return {"bytes": (server.pss() - before) / clients}

    @staticmethod
    def _collect(server: Running) -> None:
        url = f"http://127.0.0.1:{server.port}/collect"
        with urllib.request.urlopen(url, timeout=30) as answer:
            answer.read()

    def _measure_calls(self) -> None:
        for name, found in Calls().measure().items():
            self.results[f"calls {name}"].append({"cpu": found})

    # The result

    def medians(self) -> dict[str, dict[str, float]]:
        """Of each row."""
        return {
            row: {
                figure: statistics.median(each[figure] for each in found)
                for figure in found[0]
            }
            for row, found in self.results.items()
        }

    def ratios(self) -> Iterator[tuple[str, float, float, float]]:
        """For each goal its text, the ratios of rates and of CPU times, and what is
        wanted; each ratio is computed within a round."""
        for work, dialect, other, figure, factor in GOALS:
            ours, theirs = (
                self.results.get(f"{work} {each}", []) for each in (dialect, other)
            )
            if len(ours) == len(theirs) > 0:
                pairs = list(zip(ours, theirs, strict=True))
                rate = statistics.median(a[figure] / b[figure] for a, b in pairs)
                cpu = statistics.median(b["cpu"] / a["cpu"] for a, b in pairs)
                yield f"{work}: {dialect} / {other}", rate, cpu, factor

    def show(self) -> None:
        """Print the tables."""
        print(f"{'work':44} {'rate /s':>10} {'CPU µs':>10} {'bytes':>8}")
        for row, found in self.medians().items():
            cells = [
                f"{found[name]:{width},.{digits}f}" if name in found else " " * width
                for name, width, digits in (
                    ("rate", 10, 0),
                    ("cpu", 10, 1),
                    ("bytes", 8, 0),
                )
            ]
            print(f"{row:44} {' '.join(cells)}".rstrip())
        print(f"\n{'ratio':44} {'rate':>10} {'CPU':>10} {'goal':>8}")
        for text, rate, cpu, factor in self.ratios():
            print(f"{text:44} {rate:10.2f} {cpu:10.2f} {factor:8.1f}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    works = ("publish", "join", "memory", "calls")
    parser.add_argument("--works", nargs="+", choices=works, default=works)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of `publish`")
    parser.add_argument("--clients", type=int, default=1000, help="of `publish`")
    parser.add_argument("--joins", type=int, default=5000, help="clients of `join`")
    parser.add_argument("--idle", type=int, default=10_000, help="of `memory`")
    parser.add_argument("--json", help="a file for all figures")
    return parser.parse_args()


def main() -> None:
    options = parse()
    environment.prepare()
    for name, reason in environment.install_engines().items():
        print(f"SKIPPED {name}: {reason}", file=sys.stderr)
    benchmark = Benchmark(options)
    machine = environment.machine(benchmark.server_cpu, benchmark.load_cpu)
    benchmark.run()
    benchmark.show()
    if options.json:
        data = {"machine": machine, "rounds": benchmark.results}
        Path(options.json).write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
