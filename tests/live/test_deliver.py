"""`Server.deliver` to clients of `live`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_peer import LivePeer, allow

from simple_ws import Server, WebSocket
from simple_ws.testing import TestServer


class Raw(WebSocket):
    def on_open(self, client: object) -> None:
        client.subscribe("room:1", priority=-1)  # type: ignore[attr-defined]


@pytest.fixture
def kit() -> Iterator[TestServer]:
    server = Server("127.0.0.1", 0, ping=False)
    server.topic("room:*", history=5)
    server.live("/live", authorize=allow)
    server.mount("/raw", Raw())
    with TestServer(server) as kit:
        yield kit


def subscribed(kit: TestServer) -> LivePeer:
    peer = LivePeer(kit)
    peer.connect()
    peer.ask("subscribe", channel="room:1", recoverable=True)
    return peer


def test_it_reaches_the_latest_client_alone(kit: TestServer) -> None:
    first, second = subscribed(kit), subscribed(kit)
    assert kit.server.deliver("room:1", {"job": 1}) is second.client
    assert second.publications() == [({"job": 1}, 0)]
    assert first.take() == []
    assert first.ask("history", channel="room:1", limit=9)["publications"] == []
    second.peer.close()
    assert kit.server.deliver("room:1", "x") is first.client


def test_raw_clients_come_first(kit: TestServer) -> None:
    raw = kit.connect("/raw")
    live = subscribed(kit)
    assert kit.server.deliver("room:1", "x") is raw.client
    assert raw.recv() == "x"
    raw.close()
    assert kit.server.deliver("room:1", "x") is live.client


def test_nobody_is_there(kit: TestServer) -> None:
    peer = LivePeer(kit)
    peer.connect()
    assert kit.server.deliver("room:1", "x") is None
    assert peer.take() == []


def test_wrong_message_is_told(kit: TestServer) -> None:
    subscribed(kit)
    with pytest.raises(TypeError):
        kit.server.deliver("room:1", object())
