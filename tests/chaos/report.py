"""What a chaos run prints in the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from measuring import MIB

__all__ = ["print_report"]


def print_report(chaos: Any) -> None:
    """Print the account of a run."""
    rows = [*_of_run(chaos), *_of_messages(chaos), *_of_processes(chaos)]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")


def _of_run(chaos: Any) -> Iterator[tuple[str, str]]:
    members = chaos.crowd.members
    ends: Counter[str] = sum((member.ends for member in members), Counter())
    yield "seed", f"{chaos.options.seed}"
    yield "time", f"{(time.monotonic() - chaos.began) / 60:.1f} minutes"
    yield "faults", ", ".join(f"{n} {k}" for k, n in chaos.faults_done.most_common())
    yield "slowest recovery", f"{chaos.slowest:.2f} s"
    sessions = len(chaos.ledger.sessions)
    yield "clients", f"{len(members)}, in {sessions:,} connections"
    told = ", ".join(f"{n:,} {how}" for how, n in ends.most_common())
    yield "ends of connections", told or "none"


def _of_messages(chaos: Any) -> Iterator[tuple[str, str]]:
    totals, nodes = chaos.ledger.totals, chaos.ledger.nodes.values()
    sent = sum(session.sent for session in chaos.ledger.sessions)
    yield "sent by clients", f"{sent:,}"
    yield "taken by nodes", f"{totals['taken']:,}, by {len(nodes)} processes"
    yield "not taken", f"{totals['not taken']:,}, as the connection had ended"
    counted = [
        f"{sum(len(getattr(node, name)) for node in nodes):,} {name}"
        for name in ("lost", "unsure", "refused")
    ]
    yield "counted at publishers", ", ".join(counted)
    errors: Counter[str] = sum((script.errors for script in chaos.scripts), Counter())
    if chaos.scripts:
        yield "calls of scripts that failed", f"{errors.total():,}"
    if acknowledged := len(chaos.ledger.acknowledged):
        failed: Counter[str] = sum((m.failed for m in chaos.crowd.members), Counter())
        yield "acknowledged to SDKs", f"{acknowledged:,}; calls failed: {dict(failed)}"
        told = sum(member.told for member in chaos.crowd.members)
        yield "SDKs told of a loss", f"{told:,} times"
    yield "received by clients", f"{totals['received']:,}"
    missing = [
        f"{totals['told and counted']:,} told by number, and counted",
        f"{totals['told']:,} told",
        f"{totals['counted']:,} counted",
        f"{totals['in hands']:,} in the hands of a killed process",
    ]
    yield "missing at clients", "; ".join(missing)


def _of_processes(chaos: Any) -> Iterator[tuple[str, str]]:
    watch = chaos.watch
    sizes = [size / MIB for _, size in watch.memory] or [0.0]
    trend = "too short for a trend"
    if watch.growth is not None:
        trend = f"trend of the last two thirds {watch.growth / MIB:+.1f} MiB"
    told = f"{sizes[0]:.1f} MiB first, {max(sizes):.1f} most, {sizes[-1]:.1f} last"
    yield "memory (PSS)", f"{told}; {trend}"
    yield "descriptors", "{} first, {} last".format(*watch.descriptors)
    yield from (("left out", note) for note in chaos.site.notes)
