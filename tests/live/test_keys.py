"""Publications that a client sends again, by their key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_peer import LivePeer, allow

from simple_ws import Server
from simple_ws.testing import TestServer


@pytest.fixture
def kit() -> Iterator[TestServer]:
    server = Server("127.0.0.1", 0, ping=False)
    server.topic("room:*", history=5)
    server.live("/live", authorize=allow)
    with TestServer(server) as kit:
        yield kit


@pytest.fixture
def reader(kit: TestServer) -> LivePeer:
    return connected(kit)


def connected(kit: TestServer) -> LivePeer:
    peer = LivePeer(kit)
    peer.connect()
    for topic in "room:1", "hall":
        peer.ask("subscribe", channel=topic)
    return peer


def test_what_is_sent_again_is_published_once(kit: TestServer) -> None:
    reader, writer, again = connected(kit), connected(kit), connected(kit)
    for peer in writer, again:
        assert peer.ask("publish", channel="room:1", data=1, key="a") == {}
    writer.ask("publish", channel="room:1", data=1, key="b")
    assert reader.publications() == [(1, 1), (1, 2)]


@pytest.mark.parametrize("key", ["", None])
def test_no_key(reader: LivePeer, key: str | None) -> None:
    for _ in range(2):
        reader.ask("publish", channel="room:1", data=1, key=key)
    assert len(reader.publications()) == 2


def test_key_means_nothing_without_history(reader: LivePeer) -> None:
    for _ in range(2):
        reader.ask("publish", channel="hall", data=1, key="a")
    assert len(reader.publications()) == 2


def test_client_cannot_use_a_key_of_the_server(
    kit: TestServer, reader: LivePeer
) -> None:
    reader.ask("publish", channel="room:1", data="theirs", key="order 17")
    kit.server.publish("room:1", "ours", key="order 17")
    assert [data for data, _ in reader.publications()] == ["theirs", "ours"]


def test_limit_of_a_key(reader: LivePeer) -> None:
    reader.ask("publish", channel="room:1", data=1, key=128 * "x")
    assert reader.fail("publish", channel="room:1", data=1, key=129 * "x") == 107
    assert reader.fail("publish", channel="room:1", data=1, key=5) == 107
