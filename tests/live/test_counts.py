"""What `stats()` and the metrics say of `live` and of the server API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_peer import LivePeer, allow
from prometheus_client.parser import text_string_to_metric_families

from simple_ws import Server
from simple_ws.ops.totals import total
from simple_ws.testing import TestServer


@pytest.fixture
def kit() -> Iterator[TestServer]:
    server = Server("127.0.0.1", 0, ping=False)
    server.live("/live", authorize=allow, api_key="key")
    server.live("/other", authorize=allow, api_key="key")
    server.metrics()
    with TestServer(server) as kit:
        yield kit


def use(kit: TestServer) -> None:
    """Of each of both: a command, an error, and something malformed; calls of one."""
    for path in "/live", "/other":
        peer = LivePeer(kit, f"{path}/websocket")
        peer.connect()
        peer.ask("subscribe", channel="hall")
        assert peer.fail("subscribe", channel="hall") == 105
        peer.peer.send("no command")
    for body in b'{"channel": "hall", "data": 1}', b'{"channel": ""}', b"{":
        headers = {"X-API-Key": "key"}
        kit.request("POST", "/live/api/publish", headers=headers, body=body)


def test_stats_count_commands_errors_and_what_is_malformed(kit: TestServer) -> None:
    use(kit)
    stats = kit.server.stats()
    live, api = stats["live"], stats["api"]
    used = {name: count for name, count in live["commands"].items() if count}
    assert used == {"connect": 2, "subscribe": 4}
    assert (live["errors"], live["malformed"]) == ({"105": 2, "107": 2}, 2)
    used = {name: count for name, count in api["commands"].items() if count}
    assert used == {"publish": 2}
    assert (api["errors"], api["malformed"]) == ({"107": 2}, 1)
    # Of several workers they are added up.
    assert total([stats, stats])["live"]["errors"] == {"105": 4, "107": 4}


def test_metrics_have_them_too(kit: TestServer) -> None:
    use(kit)
    text = kit.request("GET", "/metrics").text
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "_live_" in sample.name or "_api_" in sample.name
    }
    expected = {
        ("simple_ws_live_commands_total", "subscribe"): 4,
        ("simple_ws_live_commands_total", "publish"): 0,
        ("simple_ws_live_errors_total", "105"): 2,
        ("simple_ws_live_malformed_total",): 2,
        ("simple_ws_api_calls_total", "publish"): 2,
        ("simple_ws_api_errors_total", "107"): 2,
        ("simple_ws_api_malformed_total",): 1,
    }
    assert {name: samples[name] for name in expected} == expected


def test_server_without_live_has_none() -> None:
    stats = Server("127.0.0.1", 0).stats()
    assert "live" not in stats
    assert "api" not in stats
