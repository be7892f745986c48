"""Subscriptions by the server begin with the reply to `connect`, all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from live_peer import LivePeer, allow

from simple_ws import Server
from simple_ws.live import Connected
from simple_ws.testing import TestServer


class Held:
    """The way into a topic whose history has not come yet."""

    def __init__(self, arriving: Any, looks: list[Callable[[], None]]) -> None:
        self.end = arriving.end
        self._look, self._looks = arriving.look, looks

    def look(self) -> None:
        self._looks.append(self._look)


class Site:
    """A server with a topic that is late."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        server = self.server = Server("127.0.0.1", 0, ping=False, presence_grace=0)
        server.topic("room:*", history=10, presence=True)
        server.topic("late:*", history=10)
        topics = ["room:1", "late:1", "plain"]
        server.live(
            "/live",
            authorize=allow,
            on_connect=lambda client, request: Connected(topics=topics),
        )
        self.looks: list[Callable[[], None]] = []
        find = Server._arriving

        def arriving(hub: Any, topic: str, *args: Any) -> Any:
            found = find(hub, topic, *args)
            return Held(found, self.looks) if topic == "late:1" else found

        monkeypatch.setattr(Server, "_arriving", arriving)
        self.kit = TestServer(server)
        self.peer = LivePeer(self.kit)

    def publish(self, data: str) -> None:
        for topic in ("room:1", "plain"):
            self.server.publish(topic, data)

    def come(self) -> list[dict[str, Any]]:
        """The history comes now; return what the client gets."""
        for look in self.looks:
            look()
        self.kit.settle()
        return self.peer.take()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(monkeypatch)
    yield made
    made.kit.close()


def test_nothing_comes_before_the_reply_and_nothing_is_missed(site: Site) -> None:
    room = {"recover": True, "epoch": "", "offset": 0}
    site.peer.send({"id": 1, "connect": {"subs": {"room:1": room}}})
    site.publish("before")
    assert site.peer.take() == []
    reply, joined = site.come()
    subs = reply["connect"]["subs"]
    assert set(subs) == {"room:1", "late:1", "plain"}
    assert subs["room:1"]["recovered"] is True
    assert subs["room:1"]["publications"] == [{"data": "before", "offset": 1}]
    assert joined["push"]["channel"] == "room:1"
    assert "join" in joined["push"]
    site.publish("after")
    assert site.peer.publications() == [("after", 2), ("after", 0)]


def test_position_is_that_of_the_reply(site: Site) -> None:
    site.peer.send({"id": 1, "connect": {}})
    site.publish("before")
    reply = site.come()[0]
    assert reply["connect"]["subs"]["room:1"]["offset"] == 1


def test_commands_behind_it_find_all_subscriptions(site: Site) -> None:
    site.peer.send(
        {"id": 1, "connect": {}},
        {"id": 2, "publish": {"channel": "late:1", "data": "mine"}},
    )
    assert site.peer.take() == []
    replies = [each for each in site.come() if "join" not in each.get("push", {})]
    assert [each.get("id") for each in replies] == [1, None, 2]
    assert replies[1]["push"]["pub"]["data"] == "mine"


def test_one_that_does_not_come_in_time_is_left_out(site: Site) -> None:
    site.peer.send({"id": 1, "connect": {}})
    site.kit.advance(3)
    assert site.peer.take() == []
    site.publish("before")
    site.kit.advance(1.5)
    reply = site.peer.take()[0]
    assert set(reply["connect"]["subs"]) == {"room:1", "plain"}
    assert reply["connect"]["subs"]["room:1"]["offset"] == 1
    assert site.come() == []


def test_one_that_the_server_ends_before_is_left_out(site: Site) -> None:
    site.peer.send({"id": 1, "connect": {}})
    site.server.unsubscribe("room:1", site.peer.client)
    site.peer.take()
    (reply,) = site.come()
    assert set(reply["connect"]["subs"]) == {"late:1", "plain"}
    site.publish("after")
    assert site.peer.publications() == [("after", 0)]


@pytest.mark.parametrize("comes", [False, True])
def test_client_that_leaves_before_leaves_nothing(site: Site, comes: bool) -> None:
    site.peer.send({"id": 1, "connect": {}})
    site.peer.peer.close()
    if comes:
        site.come()
    site.kit.advance(5)
    assert site.server.count("room:1") == 0
    assert site.server.count("late:1") == 0
    assert not site.server.present("room:1")
