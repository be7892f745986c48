"""What a large site would do, calculated: ``python benchmarks/simulate.py``

Nobody has a thousand nodes at hand. This takes what was measured on one (`costs.py`),
and simulates the cores of the nodes and of the engine as queues with a single server:

- a node is killed, and its clients come back to the others;
- the engine restarts, and all nodes subscribe to their topics again;
- nothing happens: shares of a core by kind of traffic and number of nodes.

Not simulated: bandwidth and losses of the network, TLS, proxies, the garbage collector,
other programs. Every cost, the sizes of the storms and the seed are options; the same
options give the same output. ``--svg FILE`` draws docs/at-scale.svg. Standard library
only, needs no server, and takes a minute or two.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import lines
import steady
from costs import Costs, add_options, given
from storms import Reconnects, Restart, Result, reconnect, restart

#: Rows of the table of clients: jitter, backlog, and the share of the topics that the
#: nodes have copies of.
WAYS = ((0.0, 1024, 0.0), (0.0, 65_536, 0.0), (5.0, 1024, 0.0), (30.0, 1024, 0.0),
        (5.0, 1024, 1.0))  # fmt: skip
NODES = (1, 10, 100, 1_000, 3_000)

Reconnected = list[tuple[Reconnects, Result]]
Restarted = list[tuple[Restart, Result]]


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    lines_ = [list(head)]
    lines_.append(["---"] * len(lines_[0]))
    lines_ += map(list, rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines_)


def percent(share: float) -> str:
    """A share of a core."""
    if share > 9.995:
        return f"{share:,.0f} cores"
    if share > 1:
        return f"{share:.1f} cores"
    return f"{share * 100:.2g} %" if share < 0.095 else f"{share * 100:.0f} %"


def simulate_reconnects(options: argparse.Namespace, costs: Costs) -> Reconnected:
    """All of the table."""
    found = []
    for clients in options.clients:
        for jitter, backlog, known in WAYS:
            storm = Reconnects(
                clients=clients,
                jitter=jitter,
                nodes=options.left,
                backlog=backlog,
                topics=options.histories,
                known=known,
                missed=options.missed,
                live=options.live,
            )
            found.append((storm, reconnect(storm, costs, options.seed)))
    return found


def simulate_restarts(options: argparse.Namespace, costs: Costs) -> Restarted:
    """All of the table."""
    storms = [
        Restart(nodes=nodes, topics=options.topics, shards=shards)
        for nodes in options.nodes
        for shards in (1, 8)
    ]
    return [(storm, restart(storm, costs, options.seed)) for storm in storms]


def reconnect_rows(found: Reconnected) -> Iterator[list[str]]:
    for storm, result in found:
        yield [
            f"{storm.clients:,}",
            f"{storm.jitter:g} s",
            f"{storm.backlog:,}",
            "no" if storm.known == 0 else f"{storm.known:.0%}",
            f"{result.seconds:.1f} s",
            f"{result.behind * 1e3:,.0f} ms",
            f"{result.refused:,}",
            f"{result.reads:,}",
            f"{result.engine:.1f} s",
        ]


def restart_rows(found: Restarted) -> Iterator[list[str]]:
    for storm, result in found:
        links, back = storm.nodes * storm.shards, len(result.times)
        whole = f"{result.seconds:.1f} s"
        if back < links:
            whole = f"{back / links:.0%} after {storm.limit:g} s"
        yield [
            f"{storm.nodes:,}",
            f"{storm.shards}",
            whole,
            f"{result.engine:.1f} s",
            f"{result.refused:,}",
        ]


def steady_rows(costs: Costs, clients: int) -> Iterator[list[str]]:
    for name, found, batched, alone in steady.loads(NODES, clients, costs):
        engine = [f"{percent(each.batched)} – {percent(each.alone)}" for each in found]
        nodes = max(each.node for each in found)
        yield [name, *engine, percent(nodes), f"{alone:,.0f} – {batched:,.0f}"]


# --- The chart ------------------------------------------------------------------------


def _shares(times: list[float], of: int) -> list[tuple[float, float]]:
    """How many per cent were back when."""
    step = max(1, len(times) // (2 * lines.POINTS))
    numbers = [*range(0, len(times), step), len(times) - 1]
    return [(0.0, 0.0), *((times[n], 100 * (n + 1) / of) for n in numbers)]


def reconnect_panel(found: Reconnected) -> lines.Panel:
    """The larger of the storms."""
    most = max(storm.clients for storm, _ in found)
    drawn = []
    for storm, result in found:
        if storm.clients == most and not storm.known:
            label = f"clients wait for up to {storm.jitter:g} s"
            if not storm.jitter:
                label = f"at once, backlog {storm.backlog:,}"
            points = [p for p in _shares(result.times, storm.clients) if p[0] <= 40]
            drawn.append(lines.Line(label, points))
    nodes = found[0][0].nodes
    return lines.Panel(
        "A node is killed",
        f"its {most:,} clients that are back on {nodes} others",
        "seconds",
        [0, 10, 20, 30, 40],
        drawn,
    )


def restart_panel(found: Restarted) -> lines.Panel:
    """All of them."""
    drawn = []
    for storm, result in found:
        links = storm.nodes * storm.shards
        points = [p for p in _shares(result.times, links) if p[0] <= 80]
        if not points[-1][1] >= 100:
            points.append((80.0, points[-1][1]))
        label = f"{storm.nodes:,} nodes, {storm.shards} Redis"
        if len(drawn) < 5:
            drawn.append(lines.Line(label, points))
    topics = found[0][0].topics
    return lines.Panel(
        "Redis restarts",
        f"connections up again, {topics:,} topics a node",
        "seconds",
        [0, 20, 40, 60, 80],
        drawn,
    )


def steady_panel(costs: Costs, clients: int) -> lines.Panel:
    """The engine's core, batched."""
    ticks = [1, 10, 100, 1_000, 10_000]
    numbers = [10 ** (n / 20) for n in range(81)]
    works = {**steady.WORKS}
    del works["rooms with history"]  # there is room for five
    return lines.Panel(
        "One Redis core, commands batched",
        f"share of it, {clients:,} clients a node",
        "nodes",
        [float(tick) for tick in ticks],
        [
            lines.Line(
                name,
                [
                    (n, 100 * steady.load(work, n, clients, costs).batched)
                    for n in numbers
                ],
            )
            for name, work in works.items()
        ],
        logarithmic=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--svg", type=Path, help="draw the results into this file")
    group = parser.add_argument_group("a node is killed")
    group.add_argument("--clients", type=int, nargs="+", default=[50_000, 200_000])
    group.add_argument("--left", type=int, default=3, help="nodes that are left")
    group.add_argument("--histories", type=int, default=1_000, help="topics")
    group.add_argument("--missed", type=int, default=10, help="messages, each client")
    group.add_argument("--live", type=float, default=0.3, help="share of a busy core")
    group = parser.add_argument_group("the engine restarts")
    group.add_argument("--nodes", type=int, nargs="+", default=[1_000, 2_000, 3_000])
    group.add_argument("--topics", type=int, default=10_000, help="of each node")
    group = parser.add_argument_group("nothing happens")
    group.add_argument("--each", type=int, default=10_000, help="clients of a node")
    add_options(parser)
    options = parser.parse_args()
    costs = given(options)
    reconnected = simulate_reconnects(options, costs)
    print("A node is killed\n")
    print(table(
        ("clients", "jitter", "backlog", "copies", "all back", "a loop is behind",
         "refused by the system", "reads", "Redis busy"),
        reconnect_rows(reconnected),
    ))  # fmt: skip
    restarted = simulate_restarts(options, costs)
    print("\nRedis restarts\n")
    print(table(
        ("nodes", "Redis", "all up", "Redis busy, each", "given up"),
        restart_rows(restarted),
    ))  # fmt: skip
    print("\nNothing happens: Redis, batched – one by one; nodes that fill 70 %\n")
    columns = [f"{number:,}" for number in NODES]
    print(table(
        ("traffic", *columns, "a node, at most", "limit"),
        steady_rows(costs, options.each),
    ))  # fmt: skip
    if options.svg:
        panels = [
            reconnect_panel(reconnected),
            restart_panel(restarted),
            steady_panel(costs, options.each),
        ]
        footer = "Simulated with measured costs: benchmarks/simulate.py"
        drawn = lines.picture("simple_ws at scale, calculated", panels, footer)
        options.svg.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
