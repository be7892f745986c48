"""Compare WebSocket servers: ``python benchmarks/run.py`` (see README.md).

Each round runs every server once for every workload, so that a slow minute of the
machine affects all of them; the tables show medians over the rounds. Needs Linux, a C
compiler and zlib; installs the peers into ``.bench/`` in the root of the checkout.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import environment
import goals
import report
from servers import SPECS, Running, ServerFailed, Spec, before

#: Seconds the load generator may take to end once it has said its last word.
LOAD_LIMIT = 30.0

#: Connections opened and closed before the idle measurement, so that what is loaded or
#: cached at first use is not counted as memory of a connection.
IDLE_WARMUP = 64

#: Seconds between the last handshake and the look at the memory: by then each client of
#: ours was pinged once, and has answered (`ping_interval` is 5).
IDLE_SETTLE = 8.0


@dataclass(frozen=True)
class Work:
    """One row of the contract's table of numbers."""

    name: str
    title: str
    load: tuple[str, ...]
    mode: str = "echo"
    deflate: bool = False
    beside: bool = False
    unit: str = "messages/s"

    @property
    def tls(self) -> bool:
        """Whether its connections are encrypted."""
        return "--tls" in self.load


def _fan_out(mode: str, connections: int, *more: str) -> dict:
    """The fields of a work in which a message goes to many."""
    load = ("broadcast", "--connections", str(connections), *more)
    if "--size" not in more:
        load = (*load, "--size", "128")
    return {"load": load, "mode": mode, "unit": "deliveries/s"}


def _echo(size: int, connections: int, *more: str) -> tuple[str, ...]:
    return ("echo", "--size", str(size), "--connections", str(connections), *more)


_WORKS = [
    Work("echo32", "echo 32 B × 100", _echo(32, 100)),
    Work(
        "pipelined", "echo 32 B × 10, 50 in flight", _echo(32, 10, "--inflight", "50")
    ),
    Work(
        "text",
        "replies with text, 32 B × 10, 50 in flight",
        _echo(32, 10, "--inflight", "50", "--text", "--any"),
    ),
    Work("echo1k", "echo 1 KiB × 100", _echo(1024, 100)),
    Work("text1k", "echo 1 KiB × 100, text", _echo(1024, 100, "--text")),
    Work("single", "echo 32 B, one client alone", _echo(32, 1)),
    Work("echo64k", "echo 64 KiB × 10", _echo(65536, 10)),
    Work("echo1m", "echo 1 MiB × 4", _echo(1048576, 4)),
    Work("broadcast", "broadcast 128 B to 1,000", **_fan_out("broadcast", 1000)),
    Work("broadcast5k", "broadcast 128 B to 5,000", **_fan_out("publish", 5000)),
    Work("topic10k", "publish 128 B to 10,000", **_fan_out("publish", 10_000)),
    Work(
        "topics1k",
        "publish 128 B in 1,000 topics of 10",
        **_fan_out("topics", 10_000, "--group", "10"),
    ),
    Work("thread", "publish 128 B to 100 by a thread", **_fan_out("thread", 100)),
    Work(
        "blocked",
        "publish 512 B to 1,000, 10 of them blocked",
        **_fan_out("publish", 1000, "--blocked", "10", "--size", "512"),
    ),
    Work(
        "deflate",
        "permessage-deflate echo, 512 B JSON × 50",
        _echo(512, 50, "--deflate"),
        deflate=True,
    ),
    Work(
        "handshake",
        "handshakes, 64 at once",
        ("handshake", "--progress", "64"),
        unit="handshakes/s",
    ),
    Work(
        "echo32_beside",
        "echo 32 B × 100 beside idle connections",
        _echo(32, 100),
        beside=True,
    ),
    Work("idle", "memory of an idle connection", ("idle",), unit="KiB"),
    Work(
        "idle_deflate",
        "memory of an idle connection, deflate offered",
        ("idle", "--deflate"),
        deflate=True,
        unit="KiB",
    ),
    Work("tls_echo32", "TLS echo 32 B × 100", _echo(32, 100, "--tls")),
    Work("tls_echo1k", "TLS echo 1 KiB × 100", _echo(1024, 100, "--tls")),
    Work("tls_echo64k", "TLS echo 64 KiB × 10", _echo(65536, 10, "--tls")),
    Work("idle_tls", "memory of an idle TLS connection", ("idle", "--tls"), unit="KiB"),
    Work(
        "tls_handshake",
        "TLS handshakes, 64 at once",
        ("handshake", "--progress", "64", "--tls"),
        unit="handshakes/s",
    ),
]

#: Every work by name, in the order of the tables.
WORKS = {work.name: work for work in _WORKS}


class Bench:
    """The rounds and what they found; `data` is what goes into the JSON file."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        chosen = environment.choose_cpus()
        self.server_cpu = (
            chosen[0] if options.server_cpu is None else options.server_cpu
        )
        self.load_cpu = chosen[1] if options.load_cpu is None else options.load_cpu
        works, servers = options.works, options.servers
        self.data: dict = {
            "options": {
                "rounds": 0,
                "seconds": options.seconds,
                "warmup": options.warmup,
                "payload": options.payload,
                "idle_connections": options.idle_connections,
            },
            "works": {
                w.name: {"title": w.title, "unit": w.unit, "runs": {}} for w in works
            },
            "servers": {s.name: {"label": s.label, "missing": ""} for s in servers},
        }

    def run(self) -> None:
        """Install, see who starts, run all rounds; interrupted, keep what there is."""
        environment.prepare()
        environment.compile_programs()
        self._install()
        self._drop_tls()
        self.data["machine"] = environment.machine(self.server_cpu, self.load_cpu)
        specs = [spec for spec in self.options.servers if self._starts(spec)]
        try:
            for number in range(self.options.rounds):
                self._round(number, specs)
                self.data["options"]["rounds"] = number + 1
                self.save()
        except KeyboardInterrupt:
            print("\ninterrupted: what follows is unfinished", file=sys.stderr)
            self.data["interrupted"] = True
        self.save()

    def save(self) -> None:
        """Write the JSON file, if one is wanted."""
        if self.options.json:
            text = json.dumps(self.data, indent=1, ensure_ascii=False)
            self.options.json.write_text(text + "\n", encoding="utf-8")

    def _install(self) -> None:
        wanted = {need for spec in self.options.servers for need in spec.needs}
        missing = {} if self.options.no_install else environment.install(wanted)
        for spec in self.options.servers:
            reasons = [missing[need] for need in spec.needs if need in missing]
            if reasons:
                self._skip(spec, "not installed: " + reasons[0])

    def _drop_tls(self) -> None:
        """Leave the works with TLS out where they cannot be measured."""
        wanted = [work for work in self.options.works if work.tls]
        reason = environment.tls_trouble() if wanted else ""
        for work in wanted if reason else ():
            print(f"SKIPPED {work.name}: {reason}", file=sys.stderr)
            self.options.works.remove(work)
            del self.data["works"][work.name]

    def _skip(self, spec: Spec, reason: str) -> None:
        self.data["servers"][spec.name]["missing"] = reason
        print(f"SKIPPED {spec.name}: {reason}", file=sys.stderr)

    def _starts(self, spec: Spec) -> bool:
        if self.data["servers"][spec.name]["missing"]:
            return False
        try:
            with Running(spec, "echo", False, self.server_cpu):
                return True
        except (ServerFailed, OSError) as error:
            self._skip(spec, f"does not start: {error}")
            return False

    def _round(self, number: int, specs: list[Spec]) -> None:
        for work in self.options.works:
            what = work.name, work.deflate, work.tls, work.mode
            taking_part = [spec for spec in specs if spec.runs(*what)]
            if self.options.goals:
                wanted = goals.pairs()
                taking_part = [s for s in taking_part if (work.name, s.name) in wanted]
            # Another one begins in each round: nobody always has the same neighbour.
            shift = number % max(len(taking_part), 1)
            for spec in taking_part[shift:] + taking_part[:shift]:
                result = self._measure(spec, work)
                runs = self.data["works"][work.name]["runs"]
                runs.setdefault(spec.name, []).append(result)
                report.progress(number + 1, self.options.rounds, work, spec, result)

    def _measure(self, spec: Spec, work: Work) -> dict:
        """One run; whatever goes wrong ends up under "error" in the result."""
        try:
            how = spec, work.mode, work.deflate, self.server_cpu, work.tls
            with Running(*how) as server:
                result = self._how(work)(server, work)
                server.check_alive()
        except (ServerFailed, LoadFailed, OSError, subprocess.TimeoutExpired) as error:
            reason = environment.scrub(str(error)) or type(error).__name__
            return {"value": 0.0, "error": reason}
        return result

    def _how(self, work: Work) -> Callable[[Running, Work], dict]:
        if work.beside:
            return self._beside
        return self._idle if work.unit == "KiB" else self._speed

    def _beside(self, server: Running, work: Work) -> dict:
        """The speed while many others are connected and say nothing."""
        arguments = ["idle", "--connections", str(self.options.idle_connections)]
        with Load(server, arguments, self.load_cpu) as idle:
            idle.wait_for("ready")
            result = self._speed(server, work)
            result["error"] = result["error"] or idle.result()["error"]
        return result

    def _speed(self, server: Running, work: Work) -> dict:
        arguments = [*work.load, "--seconds", str(self.options.seconds)]
        arguments += ["--warmup", str(self.options.warmup)]
        if self.options.payload == "text":
            arguments.append("--text")
        busy: list[float] = []
        with Load(server, arguments, self.load_cpu) as load:
            load.wait_for("start", lambda: busy.append(self._busy_seconds()))
            load.wait_for("stop", lambda: busy.append(self._busy_seconds()))
            result = load.result()
        result["value"] = result["rate"]
        wall = max(result["seconds"], 0.001)
        own = (result["server_cpu"] + result["loadgen_cpu"]) * wall
        cpus = len({self.server_cpu, self.load_cpu})
        spent = busy[1] - busy[0] if len(busy) == 2 else own
        result["others_cpu"] = round(max(0.0, spent - own) / (wall * cpus), 3)
        return result

    def _busy_seconds(self) -> float:
        """CPU time spent so far by anybody on the two cores, stolen time included."""
        total = 0
        for line in Path("/proc/stat").read_text().splitlines():
            name, *fields = line.split()
            if name in {f"cpu{self.server_cpu}", f"cpu{self.load_cpu}"}:
                user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
                total += user + nice + system + irq + softirq + steal
        return total / os.sysconf("SC_CLK_TCK")

    def _idle(self, server: Running, work: Work) -> dict:
        count = self.options.idle_connections
        warmup = [*work.load, "--connections", str(IDLE_WARMUP)]
        with Load(server, warmup, self.load_cpu) as load:
            load.wait_for("ready")
            load.result()
        time.sleep(IDLE_SETTLE)
        before = server.pss()
        arguments = [*work.load, "--connections", str(count)]
        with Load(server, arguments, self.load_cpu) as load:
            load.wait_for("ready")
            time.sleep(IDLE_SETTLE)
            after = server.pss()
            result = load.result()
        result["pss_before"], result["pss_after"] = before, after
        result["value"] = round((after - before) / 1024 / count, 3)
        return result


class LoadFailed(Exception):
    """The load generator did not end as it should; what it found is worthless."""


class Load:
    """A run of the load generator against a server."""

    def __init__(self, server: Running, arguments: list[str], cpu: int) -> None:
        command = [str(environment.program("loadgen")), *arguments]
        command += ["--port", str(server.port), "--pid", str(server.pid)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
        )
        self._lines: list[str] = []

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        if not self._process.stdin.closed:
            self._process.stdin.close()

    def wait_for(self, event: str, action=lambda: None) -> None:
        """Read up to an event (or the end, which `result` judges), then act at once."""
        for line in self._process.stdout:
            self._lines.append(line)
            if line.strip() == f"EVENT {event}":
                action()
            if line.strip() == f"EVENT {event}" or line.startswith("{"):
                return

    def result(self) -> dict:
        """Let it finish and take its JSON; errors it counted are in "error"."""
        self._process.stdin.close()
        self._lines += self._process.stdout.readlines()
        code = self._process.wait(LOAD_LIMIT)
        last = self._lines[-1] if self._lines else ""
        if code not in (0, 1) or not last.startswith("{"):
            raise LoadFailed(f"load generator: exit code {code} {last.strip()}")
        result = json.loads(last)
        if result["errors"]:
            result["error"] = f"{result['errors']} errors: {result['error']}"
        elif result["mode"] != "idle" and not result["messages"]:
            result["error"] = "no message in the measured window"
        return result


# ---- the command line ----------------------------------------------------------------


def _choose(kind: str, table: dict):
    def parse(text: str) -> list:
        names = [name.strip() for name in text.split(",") if name.strip()]
        if kind == "work" and "idle" in names:
            names.insert(names.index("idle") + 1, "idle_deflate")
        unknown = [name for name in names if name not in table]
        if unknown or not names:
            raise argparse.ArgumentTypeError(
                f"unknown {kind} {', '.join(unknown)}; there are: {', '.join(table)}"
            )
        return [table[name] for name in dict.fromkeys(names)]

    return parse


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--works",
        type=_choose("work", WORKS),
        default=list(WORKS.values()),
        help="comma-separated: " + ",".join(WORKS),
    )
    parser.add_argument(
        "--servers",
        type=_choose("server", SPECS),
        default=list(SPECS.values()),
        help="comma-separated: " + ",".join(SPECS),
    )
    parser.add_argument(
        "--before",
        type=Path,
        metavar="CHECKOUT",
        help="another checkout of this library, measured beside this one",
    )
    parser.add_argument(
        "--goals",
        action="store_true",
        help="only what goals.py compares, and its table at the end",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured, each run")
    parser.add_argument("--warmup", type=float, default=0.7, help="seconds before it")
    parser.add_argument(
        "--payload",
        choices=["binary", "text"],
        default="binary",
        help="kind of the echoed and broadcast messages",
    )
    parser.add_argument("--idle-connections", type=int, default=10_000)
    parser.add_argument("--server-cpu", type=int, help="default: the first allowed")
    parser.add_argument("--load-cpu", type=int, help="default: one on another core")
    parser.add_argument("--json", type=Path, help="write all runs to this file")
    parser.add_argument(
        "--no-install", action="store_true", help="use what .bench/ has"
    )
    options = parser.parse_args()
    if options.goals:
        works, servers = map(set, zip(*goals.pairs(), strict=True))
        options.works = [work for work in options.works if work.name in works]
        options.servers = [each for each in options.servers if each.name in servers]
    if options.rounds < 1 or options.seconds <= 0 or options.idle_connections < 1:
        parser.error("rounds, seconds and connections are positive")
    if options.before:
        options.servers += before(options.before)
    return options


def main() -> int:
    if not sys.platform.startswith("linux"):
        sys.exit("the load generator needs epoll: Linux only")
    options = parse_options()
    bench = Bench(options)
    bench.run()
    print(report.text(bench.data))
    if options.goals:
        print("\n" + goals.text(bench.data["works"]))
    return 1 if report.has_invalid(bench.data) else 0


if __name__ == "__main__":
    sys.exit(main())
