"""Who published, joined and left, as others are told: `info`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from live_peer import LivePeer, allow

from simple_ws import JSONMessages, Server, WebSocket
from simple_ws.live import Connected, Subscribed
from simple_ws.testing import TestServer


class Raw(WebSocket):
    def on_open(self, client: Any) -> None:
        client.subscribe("room:1")


class Site:
    def __init__(self) -> None:
        self.kits: list[TestServer] = []

    def __call__(self, history: int = 5, **options: Any) -> Site:
        server = Server("127.0.0.1", 0, ping=False, presence_grace=0)
        server.topic("room:*", history=history, presence=True)
        options.setdefault("authorize", allow)
        options.setdefault("on_connect", connect)
        server.live("/live", **options)
        server.mount("/raw", Raw())
        self.server = server
        self.kit = TestServer(server)
        self.kits.append(self.kit)
        return self

    def connected(self, name: str) -> LivePeer:
        peer = LivePeer(self.kit)
        peer.name = peer.connect(data=name)["client"]  # type: ignore[attr-defined]
        return peer


def connect(client: Any, request: Any) -> Connected:
    return Connected(user=request.data, info={"name": request.data.upper()})


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    for kit in made.kits:
        kit.close()


@pytest.mark.parametrize("history", [0, 5])
@pytest.mark.parametrize("data", [{"a": 1}, "text", 7, None, [1]])
def test_publication_says_who_published(site: Site, history: int, data: Any) -> None:
    ann, bob = site(history).connected("ann"), site.connected("bob")
    for peer in (ann, bob):
        peer.ask("subscribe", channel="room:1")
    raw = site.kit.connect("/raw")
    ann.ask("publish", channel="room:1", data=data)
    (push,) = bob.pushes()
    assert push["pub"]["data"] == data
    assert push["pub"]["info"] == {
        "user": "ann",
        "client": ann.name,  # type: ignore[attr-defined]
        "conn_info": {"name": "ANN"},
    }
    # Others get the data alone, as ever.
    text = json.dumps(data, separators=(",", ":"))
    assert raw.messages[-1] == (data if isinstance(data, str) else text)


def test_what_the_server_publishes_has_none(site: Site) -> None:
    ann = site().connected("ann")
    ann.ask("subscribe", channel="room:1")
    site.server.publish("room:1", {"a": 1})
    assert ann.pushes()[-1]["pub"] == {"data": {"a": 1}, "offset": 1}


def test_info_in_a_topic(site: Site) -> None:
    site(on_subscribe=lambda client, topic, data: Subscribed(info={"seat": data}))
    ann = site.connected("ann")
    ann.ask("subscribe", channel="room:1", data=4)
    ann.ask("publish", channel="room:1", data=1)
    assert ann.pushes()[-1]["pub"]["info"]["chan_info"] == {"seat": 4}


def test_history_and_recovery_have_it(site: Site) -> None:
    ann = site().connected("ann")
    begun = ann.ask("subscribe", channel="room:1", recoverable=True)
    ann.ask("publish", channel="room:1", data="hello")
    bob = site.connected("bob")
    (entry,) = bob.ask("history", channel="room:1", limit=5)["publications"]
    assert entry["data"] == "hello"
    assert entry["info"]["user"] == "ann"
    place = {"epoch": begun["epoch"], "offset": 0, "recover": True}
    result = bob.ask("subscribe", channel="room:1", **place)
    assert result["publications"] == [entry]
    # Those who read it otherwise get the message alone.
    (publication,) = site.server.history("room:1").result()
    assert publication.msg == "hello"


def test_raw_client_joins_with_the_message_alone(site: Site) -> None:
    ann = site().connected("ann")
    ann.ask("publish", channel="room:1", data={"a": 1})

    class Late(WebSocket):
        def on_open(self, client: Any) -> None:
            client.subscribe("room:1", since="start")

    site.server.mount("/late", Late())
    late = site.kit.connect("/late")
    assert late.messages == ['{"a":1}']


def test_middleware_sees_the_message_alone(site: Site) -> None:
    seen: list[Any] = []

    class Look(JSONMessages):
        def on_send(self, msg: Any, client: Any) -> Any:
            seen.append(msg)
            return super().on_send(msg, client)

    site()
    site.server.use(Look())
    site.kit.connect("/raw")
    site.connected("ann").ask("publish", channel="room:1", data={"a": 1})
    assert seen == [{"a": 1}]


def test_latest_is_asked_about_the_message_alone() -> None:
    asked: list[Any] = []

    def key(msg: Any) -> Any:
        asked.append(msg)
        return msg["id"]

    server = Server("127.0.0.1", 0, ping=False)
    server.topic("room:*", latest=key)
    server.live("/live", authorize=allow)
    with TestServer(server) as kit:
        peer = LivePeer(kit)
        peer.connect()
        peer.ask("publish", channel="room:1", data={"id": 3})
    assert asked == [{"id": 3}]


def test_members_are_shown_with_it(site: Site) -> None:
    ann = site().connected("ann")
    ann.ask("subscribe", channel="room:1", join_leave=True)
    ann.take()
    bob = site.connected("bob")
    bob.ask("subscribe", channel="room:1")
    (push,) = ann.pushes()
    assert push["join"]["info"]["conn_info"] == {"name": "BOB"}
    presence = ann.ask("presence", channel="room:1")["presence"]
    shown = {each["user"]: each["conn_info"] for each in presence.values()}
    assert shown == {"ann": {"name": "ANN"}, "bob": {"name": "BOB"}}
    bob.peer.close()
    site.kit.advance(1)
    (push,) = ann.pushes()
    assert push["leave"]["info"]["user"] == "bob"
