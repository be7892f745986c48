"""The goals beside what was measured: ``python benchmarks/goals.py results.json …``

`run.py --goals` measures the pairs of a work and a server that stand here, and no
others. Ratios are by CPU time unless a goal says otherwise: each is the median of those
within a round, see `report.ratio`, and above 1 means less CPU time. What was not
measured is listed as such.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import report
from servers import FORMS

#: What the JSON of some runs has of each work; see `run.Bench.data`.
Works = dict[str, dict]


@dataclass(frozen=True)
class Goal:
    """One row.

    Attributes:
        title: what is compared.
        work: its name.
        servers: that must be measured, ours first.
        wanted: the goal as text.
        figure: of the work; None without a valid run.
        least: the goal is reached from here on; or
        most: up to here.
        digits: behind the point.
    """

    title: str
    work: str
    servers: tuple[str, ...]
    wanted: str
    figure: Callable[[dict], float | None]
    least: float = float("-inf")
    most: float = float("inf")
    digits: int = 2

    def row(self, works: Works) -> list[str]:
        """Title, goal, figure, by rate, whether it is reached."""
        work = works.get(self.work)
        value = None if work is None else self.figure(work)
        if work is None or value is None:
            return [self.title, self.wanted, "–", "–", "not measured"]
        by_rate = None
        if len(self.servers) > 1:
            by_rate = report.ratio(work, *self.servers[:2], "value")
        reached = self.least <= round(value, self.digits) <= self.most
        return [
            self.title,
            self.wanted,
            f"{value:.{self.digits}f}",
            "–" if by_rate is None else f"{by_rate:.2f}",
            "reached" if reached else "NOT reached",
        ]


def _of(
    work: str,
    title: str,
    baseline: str,
    least: float,
    server: str = "ours",
    key: str = "server_us",
) -> Goal:
    """At least this share of another server."""
    return Goal(
        f"{title}: {server} of {baseline}",
        work,
        (server, baseline),
        f"≥ {least:g}",
        lambda found: report.ratio(found, server, baseline, key),
        least=least,
    )


def _at_most(
    work: str, title: str, key: str, most: float, server: str = "ours"
) -> Goal:
    """At most this much of something."""
    return Goal(
        f"{title}: {server}",
        work,
        (server,),
        f"≤ {most:g}" if most < float("inf") else "–",
        lambda found: (report.summary(found, server, server) or {}).get(key),
        most=most,
    )


def _spelled(work: str, form: str) -> Goal:
    """A form of reply beside the best of all of this work."""
    server = f"ours-{form}" if form else "ours"
    all_forms = ["ours", *(f"ours-{other}" for other in FORMS[work])]

    def figure(found: dict) -> float | None:
        ratios = [report.ratio(found, server, each, "server_us") for each in all_forms]
        return min((ratio for ratio in ratios if ratio is not None), default=None)

    title = f"{work}, {form or 'method'} of the best form"
    return Goal(title, work, (server,), "≥ 0.9", figure, least=0.9)


_LOOPS = ("asyncio", "uvloop")


def _async_goals() -> Iterator[Goal]:
    for loop in _LOOPS:
        ours, plain = f"ours-{loop}", f"ours-plain-{loop}"
        # At most 1.5 times the CPU time of a plain callback.
        yield _of("single", "async, one in flight", plain, 0.67, ours)
        yield _at_most("pipelined", "async, 50 in flight, µs", "server_us", 3, ours)
        for peer in ("picows", "aiohttp"):
            name = f"{peer}-asyncio" if loop == "asyncio" else peer
            yield _of("single", "async, one in flight", name, 1.0, ours)
            yield _of("pipelined", "async, 50 in flight", name, 1.0, ours)


GOALS = [
    *(_spelled(work, form) for work, forms in FORMS.items() for form in ("", *forms)),
    _of("handshake", "handshakes", "bun", 1.0, key="value"),
    _of("handshake", "handshakes", "bun", 1.0),
    _of("handshake", "handshakes", "c", 0.8),
    _at_most("idle", "idle connection, KiB", "median", 1.0),
    _at_most("idle_deflate", "the same, deflate offered, KiB", "median", 1.1),
    *(
        _of(f"tls_echo{size}", f"TLS echo {size}", "picows", 1.05)
        for size in ("32", "1k", "64k")
    ),
    *(
        _at_most("idle_tls", "idle TLS connection, KiB", "median", float("inf"), server)
        for server in ("ours", "picows", "aiohttp")
    ),
    *_async_goals(),
    _of("echo32", "echo 32 B × 100", "c", 0.95),
    _of("pipelined", "echo 32 B, 50 in flight", "c", 0.60),
    _of("echo1k", "echo 1 KiB × 100", "c", 0.90),
    _of("echo1k", "echo 1 KiB × 100", "bun", 1.2),
    _of("text1k", "echo 1 KiB × 100, text", "c", 0.90),
    _of("text1k", "echo 1 KiB × 100, text", "bun", 1.2),
    _of("echo64k", "echo 64 KiB × 10", "c", 0.92),
    _of("broadcast", "broadcast to 1,000", "c", 0.98),
    _of("broadcast", "broadcast to 1,000", "bun", 1.0),
    _of("broadcast5k", "publish to 5,000", "c", 0.98),
    _of("broadcast5k", "publish to 5,000", "bun", 1.0),
    _of("topic10k", "publish to 10,000", "c", 0.98),
    _of("topic10k", "publish to 10,000", "bun", 1.0),
    *(_of("topic10k", "publish to 10,000", p, 1.0) for p in ("socketify", "picows")),
    *(
        _of("topics1k", "1,000 topics of 10", peer, least)
        for peer, least in (
            ("c", 0.9),
            ("bun", 1.0),
            ("socketify", 1.0),
            ("picows", 1.0),
        )
    ),
    _of("thread", "publish to 100 by a thread", "picows", 1.0),
    *(
        _of("blocked", "publish to 1,000, 10 blocked", peer, least)
        for peer, least in (
            ("c", 0.9),
            ("bun", 1.0),
            ("socketify", 1.0),
            ("picows", 1.0),
        )
    ),
    _of("echo32", "echo 32 B × 100", "websockets-pure", 2.0, "ours-fallback"),
    _of("echo64k", "echo 64 KiB × 10", "websockets-pure", 1.0, "ours-fallback"),
    _of("echo1m", "echo 1 MiB × 4", "websockets-pure", 1.0, "ours-fallback"),
]


def pairs() -> set[tuple[str, str]]:
    """The works and servers that the goals need."""
    return {(goal.work, server) for goal in GOALS for server in goal.servers}


def text(works: Works) -> str:
    """The table; in Markdown, to be pasted."""
    head = ["what", "goal", "measured", "by rate", ""]
    rows = [head, ["---"] * 5, *(goal.row(works) for goal in GOALS)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", help="JSON files of run.py")
    works: Works = {}
    for path in parser.parse_args().results:
        works |= json.loads(path.read_text(encoding="utf-8"))["works"]
    print(text(works))
    return 0


if __name__ == "__main__":
    sys.exit(main())
