"""Bar charts of a comparison, as SVG: ``charts.py results.json --out FILE``.

Standard library only; the same JSON gives the same bytes. Colours follow the reader's
light or dark scheme. ``--separate FOLDER`` writes one file for each workload instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

import report

# All lengths in pixels of the picture.
COLUMN = 440
GAP = 32
MARGIN = 20
LABEL = 168  # room for the names, right-aligned
VALUE = 74  # room for the figure behind the longest bar
BAR = 13
ROW = 20
TITLE = 40
HEADER = 52
FOOTER = 38

STYLE = """
  text { font: 12px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2328 }
  .head { font-size: 17px; font-weight: 600 }
  .title { font-size: 13px; font-weight: 600 }
  .note { font-size: 11px; fill: #59636e }
  .name { text-anchor: end }
  .own { font-weight: 600 }
  .bar { fill: #9aa7b4 } .bar-own { fill: #0969da } .bar-limit { fill: #d0d7de }
  .spread { stroke: #1f2328; stroke-opacity: .55; stroke-width: 1 }
  .axis { stroke: #d0d7de; stroke-width: 1 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .note { fill: #9198a1 }
    .bar { fill: #667080 } .bar-own { fill: #4493f8 } .bar-limit { fill: #3d444d }
    .spread { stroke: #e6edf3 } .axis { stroke: #3d444d }
  }
"""  # noqa: E501


@dataclass(frozen=True)
class Bar:
    """One server in one work; `value` is None where no run was valid."""

    server: str
    label: str
    value: float | None
    low: float
    high: float

    @property
    def own(self) -> bool:
        return self.server.startswith("ours")

    @property
    def style(self) -> str:
        return "bar-own" if self.own else "bar-limit" if self.server == "c" else "bar"


def bars(data: dict, name: str, metric: str, servers: set[str] | None) -> list[Bar]:
    """The servers of a work, best first, invalid ones last."""
    work = data["works"][name]
    found = []
    for server, runs in work["runs"].items():
        if servers and server not in servers:
            continue
        values = [_value(run, work["unit"], metric) for run in report.valid(runs)]
        label = data["servers"][server]["label"]
        if values:
            middle = report.median(values)
            found.append(Bar(server, label, middle, min(values), max(values)))
        else:
            found.append(Bar(server, label, None, 0, 0))
    sign = 1 if work["unit"] == "KiB" else -1
    return sorted(
        found, key=lambda b: (b.value is None, sign * (b.value or 0), b.label)
    )


def _value(run: dict, unit: str, metric: str) -> float:
    if metric == "cpu" and unit != "KiB" and run.get("server_us"):
        return 1e6 / run["server_us"]
    return run["value"]


def _figure(value: float, unit: str) -> str:
    if unit == "KiB":
        return f"{value:.1f} KiB"
    for size, suffix in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.0f}"


def panel(work: dict, rows: list[Bar], metric: str, x: int, y: int) -> list[str]:
    """One work: its title, a bar for each server, the rounds' spread as a line."""
    unit = work["unit"]
    better = "less is better" if unit == "KiB" else "more is better"
    measure = unit.replace("/s", " per CPU second") if metric == "cpu" else unit
    out = [
        f'<text class="title" x="{x}" y="{y + 14}">{escape(work["title"])}</text>',
        f'<text class="note" x="{x}" y="{y + 29}">{escape(measure)}, {better}</text>',
    ]
    left, room = x + LABEL, COLUMN - LABEL - VALUE
    most = max((row.high for row in rows if row.value is not None), default=1) or 1
    for i, row in enumerate(rows):
        top = y + TITLE + i * ROW
        out += _bar(row, unit, left, top, room / most)
    bottom = y + TITLE + len(rows) * ROW - (ROW - BAR) + 3
    top = y + TITLE - 3
    axis = f'<line class="axis" x1="{left}" y1="{top}" x2="{left}" y2="{bottom}"/>'
    return [*out, axis]


def _bar(row: Bar, unit: str, left: int, top: int, scale: float) -> list[str]:
    weight = "name own" if row.own else "name"
    text_y, label = top + BAR - 2.5, escape(row.label)
    out = [f'<text class="{weight}" x="{left - 7}" y="{text_y}">{label}</text>']
    if row.value is None:
        return [*out, f'<text class="note" x="{left + 6}" y="{text_y}">invalid</text>']
    width = row.value * scale
    low, high = left + row.low * scale, left + row.high * scale
    figure = escape(_figure(row.value, unit))
    return [
        *out,
        f'<rect class="{row.style}" x="{left}" y="{top}" width="{width:.1f}" '
        f'height="{BAR}"/>',
        f'<line class="spread" x1="{low:.1f}" y1="{top + BAR / 2}" x2="{high:.1f}" '
        f'y2="{top + BAR / 2}"/>',
        f'<text x="{max(left + width, high) + 6:.1f}" y="{text_y}">{figure}</text>',
    ]


def picture(data: dict, names: list[str], metric: str, servers: set[str] | None) -> str:
    """The whole SVG: panels in two columns, each put where the picture is shorter."""
    columns = 1 if len(names) == 1 else 2
    heights = [HEADER] * columns
    body: list[str] = []
    for name in names:
        rows = bars(data, name, metric, servers)
        if not rows:
            continue
        column = heights.index(min(heights))
        x = MARGIN + column * (COLUMN + GAP)
        body += panel(data["works"][name], rows, metric, x, heights[column])
        heights[column] += TITLE + len(rows) * ROW + 18
    width = 2 * MARGIN + columns * COLUMN + (columns - 1) * GAP
    height = max(heights) + FOOTER
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">',
        "<title>WebSocket servers compared</title>",
        f"<style>{STYLE}</style>",
        f'<text class="head" x="{MARGIN}" y="28">WebSocket servers on one core</text>',
        *body,
        *_footer(data, max(heights) + 12),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _footer(data: dict, y: int) -> list[str]:
    machine, kept = data["machine"], data["options"]
    versions = machine["versions"]
    line = (
        f"{machine['cpu']}, Python {machine['python']}; medians of {kept['rounds']} "
        f"rounds of {kept['seconds']:g} s, thin line: min–max; {machine['date'][:10]}"
    )
    names = ("picows", "websockets", "aiohttp", "tornado", "socketify", "bun", "ws")
    second = ", ".join(f"{name} {versions[name]}" for name in names if name in versions)
    missing = [s["label"] for s in data["servers"].values() if s["missing"]]
    if missing:
        second += "; missing: " + ", ".join(missing)
    return [
        f'<text class="note" x="{MARGIN}" y="{y}">{escape(line)}</text>',
        f'<text class="note" x="{MARGIN}" y="{y + 15}">{escape(second)}</text>',
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="what run.py --json wrote")
    parser.add_argument("--out", type=Path, default=Path("docs/performance.svg"))
    parser.add_argument("--separate", type=Path, help="a folder for one file each work")
    parser.add_argument(
        "--metric",
        choices=["rate", "cpu"],
        default="rate",
        help="per second, or per second of the server's CPU time",
    )
    parser.add_argument("--works", help="comma-separated; default: all in the file")
    parser.add_argument("--servers", help="comma-separated; default: all in the file")
    options = parser.parse_args()  # fmt: skip
    data = json.loads(options.results.read_text(encoding="utf-8"))
    names = options.works.split(",") if options.works else list(data["works"])
    unknown = [name for name in names if name not in data["works"]]
    if unknown:
        parser.error(f"not in {options.results}: {', '.join(unknown)}")
    servers = set(options.servers.split(",")) if options.servers else None
    wanted = {options.out: names}
    if options.separate:
        wanted = {options.separate / f"{name}.svg": [name] for name in names}
    for path, panels in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = picture(data, panels, options.metric, servers)
        path.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
