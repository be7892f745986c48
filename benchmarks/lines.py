"""Line charts as SVG, side by side, in the style of `charts.py`.

Standard library only; the same points give the same bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from charts import MARGIN, STYLE

__all__ = ["Line", "Panel", "picture"]

# All lengths in pixels of the picture.
WIDTH, HEIGHT = 272, 210
LEFT = 38  # room for the figures of the axis
GAP = 30
HEADER = 46
LEGEND = 16  # height of a line of it
#: Points of a line, at most.
POINTS = 80

LINES = """
  .line { fill: none; stroke-width: 2; stroke-linejoin: round }
  .grid { stroke: #d0d7de; stroke-opacity: .5; stroke-width: 1 }
  .end { text-anchor: end } .middle { text-anchor: middle }
  .c0 { stroke: #0969da } .c1 { stroke: #bc4c00 }
  .c2 { stroke: #1a7f37 } .c3 { stroke: #8250df } .c4 { stroke: #59636e }
  @media (prefers-color-scheme: dark) {
    .grid { stroke: #3d444d } .c0 { stroke: #4493f8 } .c1 { stroke: #f0883e }
    .c2 { stroke: #3fb950 } .c3 { stroke: #ab7df8 } .c4 { stroke: #9198a1 }
  }
"""


@dataclass(frozen=True)
class Line:
    """A name, and points in the order of x; above the panel's top it is cut."""

    label: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """A chart: y is a percentage, from 0 to 100.

    Attributes:
        title, note: above it.
        x_label: below it.
        ticks: of the x axis, which begins and ends with the first and the last.
        lines: at most five.
        logarithmic: the x axis.
    """

    title: str
    note: str
    x_label: str
    ticks: list[float]
    lines: list[Line]
    logarithmic: bool = False

    def x(self, value: float) -> float:
        """Pixels from the left of the axis."""
        low, high = self.ticks[0], self.ticks[-1]
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low) * WIDTH


def _y(value: float) -> float:
    """Pixels from the top of the chart."""
    return HEIGHT * (1 - value / 100)


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    step = max(1, -(-len(points) // POINTS))
    return [*points[:-1:step], *points[-1:]]


def _cut(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Up to where a line leaves the chart."""
    kept: list[tuple[float, float]] = []
    for x, y in points:
        if y > 100:
            if kept:
                before = kept[-1]
                part = (100 - before[1]) / (y - before[1])
                kept.append((before[0] + part * (x - before[0]), 100))
            break
        kept.append((x, y))
    return kept


def _axes(panel: Panel, left: float, top: float) -> list[str]:
    out = []
    for percent in (0, 25, 50, 75, 100):
        y = top + _y(percent)
        style = "grid" if percent else "axis"
        out += [
            f'<line class="{style}" x1="{left:.1f}" y1="{y:.1f}" '
            f'x2="{left + WIDTH:.1f}" y2="{y:.1f}"/>',
            f'<text class="note end" x="{left - 6:.1f}" y="{y + 4:.1f}">'
            f"{percent} %</text>",
        ]
    for tick in panel.ticks:
        x = left + panel.x(tick)
        out.append(
            f'<text class="note middle" x="{x:.1f}" y="{top + HEIGHT + 16}">'
            f"{tick:,g}</text>"
        )
    x = left + WIDTH / 2
    return [
        *out,
        f'<text class="note middle" x="{x:.1f}" y="{top + HEIGHT + 32}">'
        f"{escape(panel.x_label)}</text>",
    ]


def _draw(panel: Panel, left: float, legends: int) -> list[str]:
    top = HEADER + 40 + legends * LEGEND + 8
    out = [
        f'<text class="title" x="{left - LEFT:.1f}" y="{HEADER + 14}">'
        f"{escape(panel.title)}</text>",
        f'<text class="note" x="{left - LEFT:.1f}" y="{HEADER + 29}">'
        f"{escape(panel.note)}</text>",
    ]
    for number, line in enumerate(panel.lines):
        y = HEADER + 44 + number * LEGEND
        points = " ".join(
            f"{left + panel.x(x):.1f},{top + _y(y):.1f}"
            for x, y in _thinned(_cut(line.points))
        )
        out += [
            f'<line class="line c{number}" x1="{left - LEFT:.1f}" y1="{y}" '
            f'x2="{left - LEFT + 18:.1f}" y2="{y}"/>',
            f'<text class="note" x="{left - LEFT + 24:.1f}" y="{y + 4}">'
            f"{escape(line.label)}</text>",
            f'<polyline class="line c{number}" points="{points}"/>',
        ]
    return [*out, *_axes(panel, left, top)]


def picture(title: str, panels: list[Panel], footer: str) -> str:
    """The whole SVG: panels from left to right."""
    legends = max(len(panel.lines) for panel in panels)
    each = LEFT + WIDTH + GAP
    width = 2 * MARGIN + len(panels) * each - GAP + 10
    bottom = HEADER + 40 + legends * LEGEND + 8 + HEIGHT + 60
    height = bottom + 14
    body: list[str] = []
    for number, panel in enumerate(panels):
        body += _draw(panel, MARGIN + LEFT + number * each, legends)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}{LINES}</style>",
        f'<text class="head" x="{MARGIN}" y="28">{escape(title)}</text>',
        *body,
        f'<text class="note" x="{MARGIN}" y="{bottom}">{escape(footer)}</text>',
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
