"""Medians, ratios and warnings from the runs, and the tables.

Ratios are computed within each round (two runs a few seconds apart), then their median:
this cancels out anything that slows the machine for a minute.
"""

from __future__ import annotations

import sys
from statistics import median

#: The load generator was the bottleneck when it was busier than this ...
LOAD_BUSY = 0.90
#: ... while the server was idler than this.
SERVER_BUSY = 0.90
#: Share of the two cores taken by others that makes a figure doubtful.
OTHERS_BUSY = 0.10

#: What a run costs, and whom; medians of these stand in the tables.
COSTS = (
    "server_us",
    "p50_us",
    "p99_us",
    "server_cpu",
    "loadgen_cpu",
    "others_cpu",
    "wire_in_per_message",
)


def valid(runs: list[dict]) -> list[dict]:
    """The runs without an error."""
    return [run for run in runs if not run["error"]]


def summary(work: dict, name: str, baseline: str) -> dict | None:
    """Median, spread and costs of one server in one work; None without a valid run."""
    runs = valid(work["runs"].get(name, []))
    if not runs:
        return None
    values = [run["value"] for run in runs]
    row = {
        "median": median(values),
        "min": min(values),
        "max": max(values),
        "runs": len(runs),
    }
    for key in COSTS:
        row[key] = median(run.get(key, 0.0) for run in runs)
    row["ratio"] = ratio(work, name, baseline, "value")
    row["cpu_ratio"] = ratio(work, name, baseline, "server_us")
    return row


def ratio(work: dict, name: str, baseline: str, key: str) -> float | None:
    """Median over the rounds of server : baseline; for CPU time the other way round, so
    that more is better everywhere but in memory."""
    found = []
    pairs = zip(
        work["runs"].get(name, []), work["runs"].get(baseline, []), strict=False
    )
    for mine, other in pairs:
        if mine["error"] or other["error"] or not mine.get(key) or not other.get(key):
            continue
        share = mine[key] / other[key]
        found.append(1 / share if key == "server_us" else share)
    return median(found) if found else None


def has_invalid(data: dict) -> bool:
    """Whether any run of any work had an error."""
    return any(
        run["error"]
        for work in data["works"].values()
        for runs in work["runs"].values()
        for run in runs
    )


def warnings(work: dict, name: str) -> list[str]:
    """What a reader must know about a server's runs in one work."""
    runs = work["runs"].get(name, [])
    good = valid(runs)
    found = []
    if len(good) < len(runs):
        reason = next(run["error"] for run in runs if run["error"])
        found.append(f"INVALID {len(runs) - len(good)} of {len(runs)} runs: {reason}")
    row = summary(work, name, name)
    if row is None or work["unit"] == "KiB":
        return found
    if row["loadgen_cpu"] > LOAD_BUSY and row["server_cpu"] < SERVER_BUSY:
        found.append(
            f"the load generator was the bottleneck ({row['loadgen_cpu']:.0%} busy, "
            f"the server {row['server_cpu']:.0%}): trust the CPU time, not the rate"
        )
    return found


def disturbance(work: dict) -> str:
    """How much of the two cores others took meanwhile, if it matters; else nothing."""
    shares = [
        run.get("others_cpu", 0.0)
        for runs in work["runs"].values()
        for run in valid(runs)
    ]
    if not shares or median(shares) <= OTHERS_BUSY:
        return ""
    return (
        f"others took {median(shares):.0%} of the two cores (between {min(shares):.0%} "
        f"and {max(shares):.0%}): repeat it, or trust the CPU time only"
    )


# ---- text ----------------------------------------------------------------------------


def progress(number: int, rounds: int, work, spec, result: dict) -> None:
    """One line for one run, on standard error."""
    outcome = f"{number_text(result['value'], work.unit)} {work.unit}"
    if result["error"]:
        outcome = f"INVALID {result['error']}"
    print(
        f"[{number}/{rounds}] {work.name:<12} {spec.name:<14} {outcome}",
        file=sys.stderr,
    )


def number_text(value: float, unit: str) -> str:
    """A figure with as many digits as it deserves."""
    return f"{value:.2f}" if unit == "KiB" else f"{value:,.0f}"


def _ratio_text(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def text(data: dict) -> str:
    """All tables, what is missing, and the warnings."""
    machine = data["machine"]
    kept = data["options"]
    parts = [
        f"{machine['cpu']}, Linux {machine['kernel']}, Python {machine['python']}; "
        f"server on CPU {machine['server_cpu']}, load on CPU {machine['load_cpu']}; "
        f"{kept['rounds']} rounds of {kept['seconds']:g} s, {kept['payload']} payload",
        "versions: " + ", ".join(f"{k} {v}" for k, v in machine["versions"].items()),
    ]
    if not machine["cores_apart"]:
        parts.append("WARNING: server and load share a core: the figures mean little")
    for name, server in data["servers"].items():
        if server["missing"]:
            parts.append(f"SKIPPED {name}: {server['missing']}")
    parts += [_table(data, name) for name in data["works"]]
    return "\n\n".join(parts)


def _table(data: dict, name: str) -> str:
    work = data["works"][name]
    memory = work["unit"] == "KiB"
    head = ["server", work["unit"], "min–max", "× C", "× picows"]
    if not memory:
        head += [
            "CPU µs",
            "CPU × C",
            "CPU × picows",
            "p50 µs",
            "p99 µs",
            "server",
            "load",
        ]
    if name == "deflate":
        head.append("wire B")
    rows, notes = [head], []
    for server in data["servers"]:
        if data["servers"][server]["missing"] or server not in work["runs"]:
            continue
        rows.append(_row(data, work, server, head))
        notes += [f"  ! {server}: {warning}" for warning in warnings(work, server)]
    if disturbance(work):
        notes.insert(0, "  ! " + disturbance(work))
    return "\n".join([work["title"], *_align(rows), *notes])


def _row(data: dict, work: dict, server: str, head: list[str]) -> list[str]:
    label = data["servers"][server]["label"]
    row, unit = summary(work, server, "c"), work["unit"]
    if row is None:
        return [label, "INVALID"] + ["–"] * (len(head) - 2)
    cells = [
        label,
        number_text(row["median"], unit),
        f"{number_text(row['min'], unit)}–{number_text(row['max'], unit)}",
        _ratio_text(row["ratio"]),
        _ratio_text(ratio(work, server, "picows", "value")),
    ]
    if unit != "KiB":
        cells += [
            f"{row['server_us']:.2f}",
            _ratio_text(row["cpu_ratio"]),
            _ratio_text(ratio(work, server, "picows", "server_us")),
            f"{row['p50_us']:,.0f}",
            f"{row['p99_us']:,.0f}",
            f"{row['server_cpu']:.0%}",
            f"{row['loadgen_cpu']:.0%}",
        ]
    if "wire B" in head:
        cells.append(f"{row['wire_in_per_message']:.0f}")
    return cells


def _align(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [
            cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return lines
