"""`bench`: how fast a server echoes, with percentiles and a histogram."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from bisect import bisect_right
from typing import Any

from .. import aio
from ..errors import ConnectionClosed
from .values import count, seconds, url

__all__ = ["add_bench", "histogram", "percentile"]

_BAR = 40
_ROWS = 12
#: Seconds after the end to wait for outstanding echoes.
_TIMEOUT = 5.0


def add_bench(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "bench",
        help="measure an echo server",
        description="Open connections, send messages that the server echoes, and print "
        "the latency. The client is written in Python: it can measure about "
        "10,000 messages a second, not the fastest.",
        epilog="example: simple-ws bench ws://localhost:8080/ -c 50 --seconds 5",
    )
    parser.add_argument("url", metavar="URL", type=url)
    parser.add_argument("-c", "--connections", type=count, default=10)
    parser.add_argument(
        "--size", type=count, default=32, help="message size in bytes; default: 32"
    )
    parser.add_argument(
        "--in-flight",
        type=count,
        default=1,
        help="messages in flight per connection; default: 1",
    )
    parser.add_argument(
        "--seconds", type=seconds, default=3.0, help="duration; default: 3"
    )
    parser.add_argument(
        "--text", action="store_true", help="send text messages instead of binary"
    )
    parser.set_defaults(run=_run)


class _Figures:
    """The results of all connections."""

    def __init__(self) -> None:
        self.opened: list[float] = []
        self.latencies: list[float] = []
        self.wrong = 0
        self.lost = 0


def _run(options: argparse.Namespace) -> int:
    figures = _Figures()
    began = time.perf_counter()
    asyncio.run(_measure(options, figures))
    _report(options, figures, time.perf_counter() - began)
    return 1 if figures.wrong or figures.lost or not figures.latencies else 0


async def _measure(options: argparse.Namespace, figures: _Figures) -> None:
    connections: list[Any] = []
    try:
        await _open_all(connections, options, figures)
        await _echo_all(connections, options, figures)
    finally:
        await asyncio.gather(*(connection.close() for connection in connections))


async def _open_all(
    connections: list[Any], options: argparse.Namespace, figures: _Figures
) -> None:
    """Connect one after the other, to measure the time of a handshake as well."""
    for _ in range(options.connections):
        began = time.perf_counter()
        connections.append(
            await aio.connect(options.url, max_size=None, compression=False)
        )
        figures.opened.append(time.perf_counter() - began)


async def _echo_all(
    connections: list[Any], options: argparse.Namespace, figures: _Figures
) -> None:
    end = time.perf_counter() + options.seconds
    progress = asyncio.create_task(_show_progress(options.seconds, figures))
    echoes = [
        asyncio.create_task(_echo(connection, options, end, figures))
        for connection in connections
    ]
    try:
        heard, silent = await asyncio.wait(echoes, timeout=options.seconds + _TIMEOUT)
    finally:
        progress.cancel()
        for echo in echoes:
            echo.cancel()
        await asyncio.gather(progress, *echoes, return_exceptions=True)
    for echo in heard:
        echo.result()  # raises internal errors
    if silent:
        figures.lost += len(silent)
        some = f"{len(silent):,} connections"
        print(f"simple-ws: no echo for {some}", file=sys.stderr)


async def _echo(
    connection: Any, options: argparse.Namespace, end: float, figures: _Figures
) -> None:
    payload: str | bytes = os.urandom(options.size)
    if options.text:
        payload = "x" * options.size
    try:
        while time.perf_counter() < end:
            began = time.perf_counter()
            for _ in range(options.in_flight):
                await connection.send(payload)
            for _ in range(options.in_flight):
                figures.wrong += await connection.recv() != payload
                figures.latencies.append(time.perf_counter() - began)
    except ConnectionClosed as error:
        figures.lost += 1
        print(f"simple-ws: {error}", file=sys.stderr)


async def _show_progress(seconds: float, figures: _Figures) -> None:
    """Show progress, on a terminal only."""
    if not sys.stderr.isatty():
        return
    began = time.perf_counter()
    try:
        while True:
            part = min(1.0, (time.perf_counter() - began) / seconds)
            bar = "#" * round(part * _BAR)
            text = f"\r[{bar:<{_BAR}}] {len(figures.latencies):,} messages "
            print(text, end="", file=sys.stderr, flush=True)
            await asyncio.sleep(0.1)
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def percentile(ordered: list[float], part: float) -> float:
    """The value that `part` of an ordered list does not exceed."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def histogram(ordered: list[float]) -> list[str]:
    """Lines with bars: the number of messages by latency, in doubling steps."""
    step = 1e-6
    rows: list[tuple[str, int]] = []
    while step < ordered[0]:
        step *= 2
    lower = 0
    while lower < len(ordered) and len(rows) < _ROWS:
        last = len(rows) == _ROWS - 1
        upper = len(ordered) if last else bisect_right(ordered, step)
        label = "more" if last and ordered[-1] > step else f"≤ {_time(step)}"
        rows.append((label, upper - lower))
        lower = upper
        step *= 2
    most = max(count for _, count in rows)
    return [
        f"  {label:>10} {'█' * round(count / most * _BAR):<{_BAR}} {count:,}"
        for label, count in rows
    ]


def _time(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _report(options: argparse.Namespace, figures: _Figures, spent: float) -> None:
    ordered = sorted(figures.latencies)
    rate = len(ordered) / options.seconds
    opened = sorted(figures.opened)
    rows = [
        ("connections", f"{options.connections:,}, {options.in_flight} in flight each"),
        ("message", f"{options.size:,} bytes, {'text' if options.text else 'binary'}"),
        ("echoed", f"{len(ordered):,} in {options.seconds:g} s"),
        ("rate", f"{rate:,.0f} messages/s, {rate * options.size / 1e6:,.2f} MB/s"),
        ("handshake", f"{_time(percentile(opened, 0.5))} (median)"),
    ]
    if figures.wrong or figures.lost:
        rows.append(("wrong", f"{figures.wrong:,} echoes, {figures.lost:,} lost"))
    for name, value in rows:
        print(f"{name:<12} {value}")
    if ordered:
        parts = (0.5, 0.9, 0.99, 0.999)
        shown = (
            f"p{part * 100:g} {_time(percentile(ordered, part))}" for part in parts
        )
        print(f"{'latency':<12} {', '.join(shown)}, max {_time(ordered[-1])}")
        print("\n".join(histogram(ordered)))
