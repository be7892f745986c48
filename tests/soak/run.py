"""A soak: hundreds of clients, for minutes, some of them killed in the middle.

    make soak ARGS="--minutes 15"       or: python tests/soak/run.py --minutes 15

A server in one process, clients in others. Every echo is compared, whole processes of
clients are killed now and then, and memory (PSS) and descriptors of the server are
measured all the time. It stops by itself, prints the results, and exits with 0 if

- every echo was exact and in order, and no client was closed that had not asked for it;
- the server's log has no error and no traceback;
- memory stops growing once everything has been in use: less than a tenth, or 16 MiB,
  over the last two thirds of the time;
- in the end no client is left, and the server has as many descriptors as at the start.

It needs Linux (/proc).
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))

import measuring  # noqa: E402
from measuring import MIB  # noqa: E402

#: Seconds between two looks at the server, and between two kills.
LOOK, KILL = 1.0, 20.0
#: Seconds that clients have to come home, and the server to end.
TIMEOUT = 60.0


class Sample(NamedTuple):
    """The server at one moment."""

    at: float  # seconds since the beginning
    memory: int  # PSS, bytes
    descriptors: int
    clients: int


class Child:
    """A process that tells of itself in lines of JSON."""

    def __init__(self, name: str, *arguments: object) -> None:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / name), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.last: dict[str, Any] = {}
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)

    def read(self, timeout: float = 0.0) -> dict[str, Any]:
        """The latest that it said; wait for something if there was nothing yet."""
        try:
            while True:
                self.last = json.loads(self._lines.get(timeout=timeout or None))
                timeout = 0.0
                if self._lines.empty():
                    return self.last
        except queue.Empty:
            return self.last

    def catch_up(self) -> dict[str, Any]:
        """The latest, without waiting."""
        while not self._lines.empty():
            self.last = json.loads(self._lines.get())
        return self.last

    def finish(self, timeout: float) -> bool:
        """Wait for its end; whether it came by itself."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return False
        return self.process.returncode == 0


class Soak:
    """One run.

    Args:
        minutes: how long clients come.
        clients: connections at once, in all processes.
        workers: processes of clients.
        seed: of everything random.
    """

    def __init__(self, minutes: float, clients: int, workers: int, seed: int) -> None:
        self.seconds = minutes * 60
        self.each = max(1, clients // workers)
        self.rng = random.Random(seed)
        self.samples: list[Sample] = []
        self.problems: list[str] = []
        self.totals: Counter[str] = Counter()
        self.kills = 0
        self.server = Child("server.py")
        self.about = self.server.read(TIMEOUT)
        if "port" not in self.about:
            sys.exit("the server did not start")
        self.idle = self._look(0.0)
        self.workers = [self._worker() for _ in range(workers)]

    def _worker(self) -> Child:
        seed = self.rng.randrange(2**32)
        return Child("clients.py", self.about["port"], self.each, seed)

    def run(self) -> None:
        began = time.monotonic()
        next_kill = KILL / 2
        while (at := time.monotonic() - began) < self.seconds and not self.problems:
            time.sleep(LOOK)
            self.samples.append(self._look(at))
            self._mind_workers()
            if at > next_kill and at + 5 < self.seconds:
                next_kill = at + self.rng.uniform(KILL / 2, KILL * 3 / 2)
                self._kill_one()
        self._send_home()
        self._end()
        self._judge_memory()

    def _look(self, at: float) -> Sample:
        pid = self.server.process.pid
        said = self.server.catch_up()
        if said.get("alarms"):
            self.problems.append(f"the server's log: {said['alarms'][0]}")
        clients = said.get("clients", 0)
        return Sample(at, measuring.memory(pid), measuring.descriptors(pid), clients)

    def _mind_workers(self) -> None:
        for worker in self.workers:
            said = worker.catch_up()
            for error in said.get("errors", ()):
                self.problems.append(f"a client: {error}")
            if worker.process.poll() is not None:
                self.problems.append("a process of clients ended by itself")

    def _kill_one(self) -> None:
        """A whole process of clients is gone, in the middle of whatever it did."""
        index = self.rng.randrange(len(self.workers))
        worker = self.workers[index]
        worker.process.send_signal(signal.SIGKILL)
        worker.process.wait()
        self._count(worker)
        self.workers[index] = self._worker()
        self.kills += 1

    def _count(self, worker: Child) -> None:
        said = worker.catch_up()
        self.totals.update(
            {key: value for key, value in said.items() if isinstance(value, int)}
        )

    def _send_home(self) -> None:
        """Everything that is under way comes home, and is compared."""
        for worker in self.workers:
            worker.process.send_signal(signal.SIGTERM)
        for worker in self.workers:
            if not worker.finish(TIMEOUT):
                self.problems.append("clients did not come home")
            time.sleep(0.2)
            said = worker.catch_up()
            for error in said.get("errors", ()):
                self.problems.append(f"a client: {error}")
            if not said.get("done"):
                self.problems.append("clients did not tell how they ended")
            self._count(worker)

    def _end(self) -> None:
        deadline = time.monotonic() + TIMEOUT
        while True:
            last = self._look(self.seconds)
            if last.clients == 0 and last.descriptors <= self.idle.descriptors:
                break
            if time.monotonic() > deadline:
                self.problems.append(
                    f"in the end {last.clients} clients and {last.descriptors} "
                    f"descriptors are left; it began with {self.idle.descriptors}"
                )
                break
            time.sleep(0.5)
        self.last = last
        assert self.server.process.stdin is not None
        self.server.process.stdin.close()
        if not self.server.finish(TIMEOUT):
            self.problems.append("the server did not end by itself")
        if self.server.last.get("buffered"):
            self.problems.append("output is counted that nobody has")

    def _judge_memory(self) -> None:
        """Whether a line through the last two thirds is flat."""
        later = self.samples[len(self.samples) // 3 :]
        self.growth: float | None = None
        if len(later) < 20:
            return
        times = [sample.at for sample in later]
        sizes = [sample.memory for sample in later]
        self.growth = measuring.growth(times, sizes)
        if measuring.too_much(self.growth, sizes):
            self.problems.append(f"memory grows: {self.growth / MIB:.1f} MiB")

    def report(self) -> None:
        said, totals = self.server.last, self.totals
        memory = [sample.memory / MIB for sample in self.samples] or [0.0]
        descriptors = [sample.descriptors for sample in self.samples] or [0]
        clients = [sample.clients for sample in self.samples] or [0]
        ends = ", ".join(f"{count:,} {cause}" for cause, count in said["ends"].items())
        ways = ("close", "reset", "leave", "half")
        trend = "too short for a trend"
        if self.growth is not None:
            trend = f"trend of the last two thirds {self.growth / MIB:+.1f} MiB"
        rows = [
            ("backend", self.about["backend"]),
            ("time", f"{self.seconds / 60:g} minutes"),
            ("echoes", f"{totals['messages']:,}, all exact and in order"),
            ("bytes of messages", f"{totals['bytes']:,}"),
            ("connections", f"{totals['connections']:,}, {max(clients):,} at once"),
            ("ends by clients", ", ".join(f"{totals[way]:,} {way}" for way in ways)),
            ("ends as the server saw them", ends),
            ("processes killed", f"{self.kills} of {self.each} clients each"),
            ("clients that slept", f"{totals['sleeps']:,} times"),
            ("callbacks over 0.2 s", f"{said['slow']:,}"),
            (
                "memory (PSS)",
                f"{self.idle.memory / MIB:.1f} MiB idle, {memory[0]:.1f} first, "
                f"{max(memory):.1f} most, {self.last.memory / MIB:.1f} in the end; "
                f"{trend}",
            ),
            (
                "descriptors",
                f"{self.idle.descriptors} idle, {max(descriptors)} most, "
                f"{self.last.descriptors} in the end",
            ),
        ]
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            print(f"{name:{width}}  {value}")

    def kill(self) -> None:
        """Leave no process behind, whatever happened."""
        for child in [self.server, *self.workers]:
            if child.process.poll() is None:
                child.process.kill()
                child.process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--clients", type=int, default=300, help="at once")
    parser.add_argument("--workers", type=int, default=3, help="processes of clients")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    soak = Soak(options.minutes, options.clients, options.workers, options.seed)
    try:
        soak.run()
        soak.report()
    finally:
        soak.kill()
    for problem in dict.fromkeys(soak.problems):
        print(f"FAILED: {problem}", file=sys.stderr)
    if not soak.problems:
        print("passed")
    return bool(soak.problems)


if __name__ == "__main__":
    sys.exit(main())
