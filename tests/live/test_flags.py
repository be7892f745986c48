"""What subscriptions have besides publications, and members that are connections."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from live_peer import LivePeer, allow

from simple_ws import Server
from simple_ws.live import Connected
from simple_ws.live.endpoints import Endpoints, serve
from simple_ws.live.flags import Flags
from simple_ws.testing import TestServer


@pytest.mark.parametrize("flag", [None, True, False])
@pytest.mark.parametrize("asked", [True, False])
def test_flag_is_for_all_for_none_or_for_those_who_ask(
    flag: bool | None, asked: bool
) -> None:
    flags = Flags(flag, flag, flag).asked(asked, asked, asked)
    assert set(flags) == {asked if flag is None else flag}


#: By the topic.
FLAGS = {
    "all": Flags(True, True, True),
    "none": Flags(False, False, False),
    "asked": Flags(),
}


def find(client: Any, topic: str, by_server: bool) -> Flags:
    return FLAGS[topic]


@pytest.fixture
def kit() -> Iterator[TestServer]:
    server = Server("127.0.0.1", 0, ping=False, presence_grace=0)
    server.topic("*", history=5, presence=True)
    hooks = dict.fromkeys(
        ("on_subscribe", "on_publish", "on_rpc", "on_send", "on_disconnect")
    )

    def on_connect(client: Any, request: Any) -> Connected:
        return Connected(user="ann", topics=request.data or ())

    serve(
        server,
        Endpoints("/live/websocket"),
        hooks={**hooks, "authorize": allow, "on_connect": on_connect},
        options={},
        flags=find,
        present_alone=True,
    )
    with TestServer(server) as made:
        yield made


ASKING = {"recoverable": True, "positioned": True, "join_leave": True}


@pytest.mark.parametrize("asking", [{}, ASKING])
@pytest.mark.parametrize("topic", FLAGS)
def test_client_has_what_the_topic_gives(
    kit: TestServer, topic: str, asking: dict[str, Any]
) -> None:
    peer = LivePeer(kit)
    peer.connect()
    result = peer.ask("subscribe", channel=topic, **asking)
    has = topic == "all" or (topic == "asked" and bool(asking))
    assert result.get("recoverable", False) is has
    assert result.get("positioned", False) is has
    assert [next(iter(each)) for each in peer.pushes()] == ["channel"] * has


def test_who_may_not_recover_does_not(kit: TestServer) -> None:
    peer = LivePeer(kit)
    peer.connect()
    asked = {"channel": "none", "recover": True, "epoch": "", "offset": 0}
    assert peer.ask("subscribe", **asked) == {}
    peer.ask("unsubscribe", channel="none")
    assert peer.ask("subscribe", **{**asked, "channel": "all"})["was_recovering"]


@pytest.mark.parametrize("topic", FLAGS)
def test_server_subscribes_with_what_the_topic_gives(
    kit: TestServer, topic: str
) -> None:
    peer = LivePeer(kit)
    has = topic != "none"
    subs = peer.connect(data=[topic])["subs"]
    assert subs[topic].get("recoverable", False) is has
    peer.client.unsubscribe(topic)
    peer.client.subscribe(topic)
    _, pushed, *_ = [each for each in peer.pushes() if "join" not in each]
    assert pushed["subscribe"].get("recoverable", False) is has


def test_members_are_connections(kit: TestServer) -> None:
    one, two = LivePeer(kit), LivePeer(kit)
    names = [peer.connect()["client"] for peer in (one, two)]
    for peer in (one, two):
        peer.ask("subscribe", channel="all")
    joined = [each["join"]["info"] for each in one.pushes()]
    assert joined == [{"client": name, "user": "ann"} for name in names]
    assert one.ask("presence", channel="all")["presence"] == {
        name: {"client": name, "user": "ann"} for name in names
    }
    stats = one.ask("presence_stats", channel="all")
    assert stats == {"num_clients": 2, "num_users": 1}
    two.ask("unsubscribe", channel="all")
    (left,) = one.pushes()
    assert left["leave"]["info"] == {"client": names[1], "user": "ann"}
