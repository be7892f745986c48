"""`totals`: the stats of several processes as one."""

from __future__ import annotations

from typing import Any

import pytest
from harness import Driven, Echo

from simple_ws.ops.totals import retired, total

pytestmark = pytest.mark.one_backend


def figures(**changes: Any) -> dict[str, Any]:
    base = {
        "time": 100.0,
        "started": 50.0,
        "uptime": 50.0,
        "backend": "extension",
        "connections": {"open": 2, "opened": 5, "dashboards": 1},
        "handlers": [{"name": "Echo", "paths": ["/", "/b"], "clients": 2, "busy": 0.5}],
        "closed": {"peer": 3},
        "refused": {"503": 1},
        "buffered": 7,
        "longest_turn": 0.2,
    }
    return {**base, **changes}


def test_counts_are_added() -> None:
    other = figures(
        time=101.0,
        started=60.0,
        uptime=40.0,
        handlers=[
            {"name": "Chat", "paths": ["/chat"], "clients": 1, "busy": 0.1},
            {"name": "Echo", "paths": ["/"], "clients": 1, "busy": 0.25},
        ],
        refused={"429": 2},
        longest_turn=0.1,
    )
    assert total([figures(), other]) == {
        "time": 101.0,
        "started": 50.0,
        "uptime": 50.0,
        "backend": "extension",
        "connections": {"open": 4, "opened": 10, "dashboards": 2},
        "handlers": [
            {"name": "Echo", "paths": ["/"], "clients": 3, "busy": 0.75},
            {"name": "Chat", "paths": ["/chat"], "clients": 1, "busy": 0.1},
        ],
        "closed": {"peer": 6},
        "refused": {"503": 1, "429": 2},
        "buffered": 14,
        "longest_turn": 0.2,
    }


def test_counters_of_a_process_that_has_ended_remain() -> None:
    assert retired(figures()) == figures(
        started=None,
        uptime=0,
        connections={"open": 0, "opened": 5, "dashboards": 0},
        handlers=[{"name": "Echo", "paths": ["/", "/b"], "clients": 0, "busy": 0.5}],
        buffered=0,
        longest_turn=0,
    )
    assert total([retired(figures()), figures(started=90.0)])["started"] == 90.0
    assert total([{}, retired({})]) == {}


def engine_figures(**changes: Any) -> dict[str, Any]:
    base = {
        "up": 1,
        "reason": "",
        "server": "redis 7.2",
        "rtt": 0.001,
        "published": 3,
        "lost": 1,
        "connects": {"start": 1},
        "buffered": 9,
        "channels": 4,
        "nodes": 3,
        "unknown": 1,
    }
    return {**base, **changes}


def test_engines_are_added_and_those_of_the_ended_keep_their_counts() -> None:
    down = engine_figures(
        up=0, reason="cut", server="", rtt=None, connects={"start": 1, "error": 2}
    )
    assert total([{"engine": engine_figures(rtt=0.5)}, {"engine": down}]) == {
        "engine": engine_figures(
            reason="cut",
            rtt=0.5,
            published=6,
            lost=2,
            connects={"start": 2, "error": 2},
            buffered=18,
            channels=8,
            unknown=2,
        )
    }
    assert retired({"engine": down})["engine"] == engine_figures(
        up=0,
        server="",
        rtt=None,
        connects={"start": 1, "error": 2},
        buffered=0,
        channels=0,
        nodes=0,
    )
    assert total([{"engine": None}, {"engine": None}]) == {"engine": None}
    assert total([{"engine": None}, {"engine": down}]) == {"engine": down}


def test_real_stats_can_be_added() -> None:
    with Driven(Echo()) as driven:
        driven.join().shake().text("hello")
        driven.advance(0)
        stats = driven.server.stats()
    both = total([stats, retired(stats)])
    assert both["connections"]["open"] == stats["connections"]["open"] == 1
    assert both["connections"]["opened"] == 2 * stats["connections"]["opened"]
    assert both["total"]["messages_received"] == 2
    assert both.keys() == stats.keys()
