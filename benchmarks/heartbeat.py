"""What very many silent clients cost: ``python benchmarks/heartbeat.py``

Clients connect within a few seconds and say nothing; the server pings them. The output
has the CPU time of a ping and its pong, and the latency of ten busy clients (32 bytes,
one message in flight), alone and beside the silent ones.

Server and load have a core each. A process may have some 20,000 descriptors here, which
is why there are no more clients by default.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import environment
from run import Load
from servers import SPECS, Running, Spec, before

BUSY = ["echo", "--connections", "10", "--size", "32", "--warmup", "1"]


def spent(pid: int) -> float:
    """Seconds of CPU time that a process has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def beats(spec: Spec, cpus: tuple[int, int], clients: int, seconds: float) -> dict:
    """CPU time of pings and pongs while nothing else happens."""
    with Running(spec, "echo", False, cpus[0]) as server:
        idle = ["idle", "--connections", str(clients)]
        with Load(server, idle, cpus[1]) as load:
            load.wait_for("ready")
            began, cpu = time.monotonic(), spent(server.pid)
            time.sleep(seconds)
            cpu, took = spent(server.pid) - cpu, time.monotonic() - began
            pings = load.result()["pings"]
    return {"us": cpu * 1e6 / pings, "pings": pings, "core": cpu / took}


def latency(spec: Spec, cpus: tuple[int, int], clients: int, seconds: float) -> dict:
    """What the load generator says of the busy clients."""
    busy = [*BUSY, "--seconds", str(seconds)]
    with Running(spec, "echo", False, cpus[0]) as server:
        if not clients:
            with Load(server, busy, cpus[1]) as load:
                return load.result()
        idle = ["idle", "--connections", str(clients)]
        with Load(server, idle, cpus[1]) as silent:
            silent.wait_for("ready")
            with Load(server, busy, cpus[1]) as load:
                result = load.result()
            silent.result()
            return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=19_000)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--servers", default="ours,ours-fallback")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT")
    options = parser.parse_args()
    environment.prepare()
    environment.compile_programs()
    cpus = environment.choose_cpus()
    specs = [SPECS[name] for name in options.servers.split(",")]
    if options.before:
        names = {name.replace("ours", "before") for name in options.servers.split(",")}
        specs += [spec for spec in before(options.before) if spec.name in names]
    print("server            ping and pong        of a core   p99 alone     beside")
    for spec in specs:
        cost = beats(spec, cpus, options.clients, options.seconds)
        alone = latency(spec, cpus, 0, options.seconds / 3)
        beside = latency(spec, cpus, options.clients, options.seconds)
        print(
            f"{spec.name:<16} {cost['us']:6.1f} us x {cost['pings']:<7} "
            f"{cost['core']:9.1%} {alone['p99_us']:9.0f} us {beside['p99_us']:7.0f} us "
            f"(most {alone['max_us']:,.0f} and {beside['max_us']:,.0f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
