"""Compare WebSocket clients: ``python benchmarks/clients.py``, see README.md.

Each talks to the C echo server, which is on another core and is never the bottleneck.
Rounds are interleaved; tables show medians, and ratios within each round.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import environment
from client_peers import ASYNC, BLOCKING
from environment import HERE, ROOT
from servers import SPECS, Running

#: (title, bytes of a message, messages under way)
WORKS = [
    ("32 B, one under way", 32, 1),
    ("32 B, 50 under way", 32, 50),
    ("64 KiB, one under way", 65536, 1),
]
#: How a peer is called in the tables, and which is the one to compare with.
KINDS = {"blocking": BLOCKING, "asyncio": ASYNC}
YARDSTICK = "websockets"

#: Seconds that a run may take longer than it measures.
PATIENCE = 20.0

Result = dict[str, float]
Key = tuple[str, str]  # kind and name; "simple_ws, pure Python" is a name, too
FALLBACK = "simple_ws, pure Python"


def contestants() -> list[Key]:
    """Every client, ours first."""
    return [
        (kind, name)
        for kind, peers in KINDS.items()
        for name in ["simple_ws", FALLBACK, *list(peers)[1:]]
    ]


def measure(
    key: Key, port: int, size: int, inflight: int, seconds: float, cpu: int
) -> Result:
    """Run one client once.

    Raises:
        RuntimeError: It failed; with what it said last.
    """
    kind, name = key
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    env["PYTHONPATH"] = str(ROOT)
    env["SIMPLE_WS_EXTENSION"] = "0" if name == FALLBACK else "1"
    command = [environment.python("venv"), str(HERE / "client_peers.py"), kind]
    command += [name.partition(",")[0], str(port), str(size), str(inflight)]
    done = subprocess.run(
        [*command, str(seconds)],
        env=env,
        capture_output=True,
        text=True,
        timeout=seconds + PATIENCE,
        preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
    )
    if done.returncode:
        last = (done.stderr.strip() or "no word").splitlines()[-1]
        raise RuntimeError(f"{kind} {name}: {environment.scrub(last)}")
    result: Result = json.loads(done.stdout)
    return result


def table(title: str, rounds: list[dict[Key, Result]]) -> str:
    """What the rounds of one work found, as lines."""
    lines = [
        "",
        title,
        f"{'':10}{'client':26}{'messages/s':>12}{'CPU µs':>9}"
        f"{'× ' + YARDSTICK:>14}{'CPU ×':>8}",
    ]
    for key in contestants():
        runs = [found[key] for found in rounds if key in found]
        if not runs:
            lines.append(f"{key[0]:10}{key[1]:26}{'failed':>12}")
            continue
        both = [f for f in rounds if key in f and (key[0], YARDSTICK) in f]
        base = [(f[key], f[key[0], YARDSTICK]) for f in both]
        rate = median([own["rate"] / other["rate"] for own, other in base] or [0])
        cpu = median([other["cpu_us"] / own["cpu_us"] for own, other in base] or [0])
        lines.append(
            f"{key[0]:10}{key[1]:26}{median(r['rate'] for r in runs):>12,.0f}"
            f"{median(r['cpu_us'] for r in runs):>9.1f}{rate:>14.2f}{cpu:>8.2f}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run")
    parser.add_argument("--json", type=Path, help="write all runs to this file")
    options = parser.parse_args()
    environment.prepare()
    environment.compile_programs()
    missing = environment.install_clients()
    for name, reason in missing.items():
        print(f"SKIPPED {name}: {reason}", file=sys.stderr)
    server_cpu, client_cpu = environment.choose_cpus()
    found: dict[str, list[dict[Key, Result]]] = {title: [] for title, _, _ in WORKS}
    failed = False
    with Running(SPECS["c"], "echo", deflate=False, cpu=server_cpu) as server:
        for turn in range(options.rounds):
            for title, size, inflight in WORKS:
                results: dict[Key, Result] = {}
                order = contestants()
                for key in order[turn % len(order) :] + order[: turn % len(order)]:
                    try:
                        results[key] = measure(
                            key,
                            server.port,
                            size,
                            inflight,
                            options.seconds,
                            client_cpu,
                        )
                    except (RuntimeError, subprocess.TimeoutExpired) as error:
                        failed = True
                        print(f"INVALID {error}", file=sys.stderr)
                found[title].append(results)
    machine = environment.machine(server_cpu, client_cpu)
    print(f"{machine['cpu']}, Python {machine['python']}; asyncio runs on uvloop")
    for title, rounds in found.items():
        print(table(title, rounds))
    if options.json:
        runs = {
            title: [{" ".join(key): r for key, r in f.items()} for f in rounds]
            for title, rounds in found.items()
        }
        options.json.write_text(
            json.dumps({"machine": machine, "runs": runs}, indent=1)
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
