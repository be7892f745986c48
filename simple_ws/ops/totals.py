"""Sums of the stats of several processes, which never go back.

It takes dicts as `Stats.gather` returns them. Numbers are added unless `_OTHERWISE`
says so; what is new in them needs no line here unless adding it makes no sense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ["retired", "total"]


def _last_said(texts: list[str]) -> str:
    """The last one that is not empty."""
    return next(filter(None, reversed(texts)), "")


#: Values that are not added up.
_OTHERWISE: dict[str, Callable[[list[Any]], Any]] = {
    "time": max,
    "started": min,
    "uptime": max,
    "longest_turn": max,
    "reason": _last_said,
    "server": _last_said,
    "rtt": max,
    "nodes": max,
}

#: What a process has now, and no longer when it has ended; all else are counters.
_GAUGES = frozenset(
    (
        "open",
        "dashboards",
        "clients",
        "buffered",
        "topics",
        "identities",
        "members",
        "longest_turn",
        "uptime",
        "up",
        "channels",
        "nodes",
    )
)

#: What only a process that lives can say, and what stands there without one.
_UNSAID = {"started": None, "rtt": None, "reason": ""}


def total(stats: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The stats of several processes as one."""
    several = [each for each in stats if each]
    names = dict.fromkeys(name for each in several for name in each)
    return {
        name: _joined(name, [each[name] for each in several if name in each])
        for name in names
    }


def retired(stats: Mapping[str, Any]) -> dict[str, Any]:
    """What remains of the stats of a process that has ended: its counters."""
    return {name: _remains(name, value) for name, value in stats.items()}


def _joined(name: str, values: list[Any]) -> Any:
    known = [value for value in values if value is not None]
    if not known:
        return None
    if name in _OTHERWISE:
        return _OTHERWISE[name](known)
    if name == "handlers":
        return _joined_handlers(known)
    if isinstance(known[0], Mapping):
        return total(known)
    if isinstance(known[0], int | float) and not isinstance(known[0], bool):
        return sum(known)
    return known[-1]


def _joined_handlers(lists: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Handlers are the same if their first path is."""
    found: dict[str, list[dict[str, Any]]] = {}
    for handlers in lists:
        for handler in handlers:
            found.setdefault(handler["paths"][0], []).append(handler)
    return [total(same) for same in found.values()]


def _remains(name: str, value: Any) -> Any:
    if name in _GAUGES:
        return 0
    if name in _UNSAID:
        return _UNSAID[name]
    if name == "handlers":
        return [retired(handler) for handler in value]
    return retired(value) if isinstance(value, Mapping) else value
