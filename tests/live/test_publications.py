"""A publication for raw clients and SDK clients: encoded once, and the same errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from live_peer import LivePeer, allow

from simple_ws import Middleware, Server, WebSocket
from simple_ws.testing import TestServer


class Raw(WebSocket):
    def on_open(self, client: Any) -> None:
        client.subscribe("news")
        client.subscribe("kept")


class Counted(dict[str, Any]):
    """Counts how often it is encoded."""

    encoded = 0

    def items(self) -> Any:
        self.encoded += 1
        return super().items()


class Site:
    """A server with a raw client and an SDK client in the same topics."""

    def __init__(self, kit: TestServer) -> None:
        self.server = kit.server
        self.raw = kit.connect("/raw")
        self.peer = LivePeer(kit)
        self.peer.connect()
        for topic in ("news", "kept"):
            self.peer.ask("subscribe", channel=topic)


@pytest.fixture
def server() -> Server:
    made = Server("127.0.0.1", 0, ping=False)
    made.topic("kept", history=10)
    made.mount("/raw", Raw())
    made.live("/live", authorize=allow)
    return made


@pytest.fixture
def site(server: Server) -> Iterator[Site]:
    with TestServer(server) as kit:
        yield Site(kit)


@pytest.mark.parametrize("topic", ["news", "kept"])
def test_publication_is_encoded_once_for_all(site: Site, topic: str) -> None:
    msg = Counted(a="ä", b=[1])
    assert site.server.publish(topic, msg) == 2
    assert msg.encoded == 1
    assert site.raw.messages[-1] == '{"a":"ä","b":[1]}'
    pub = site.peer.pushes()[-1]["pub"]
    assert pub["data"] == {"a": "ä", "b": [1]}


@pytest.mark.parametrize("topic", ["news", "kept"])
def test_publication_of_a_client_is_encoded_once(topic: str) -> None:
    msg = Counted(a="ä")
    server = Server("127.0.0.1", 0, ping=False)
    server.topic("kept", history=10)
    server.mount("/raw", Raw())
    server.live("/live", authorize=allow, on_publish=lambda client, topic, data: msg)
    with TestServer(server) as kit:
        site = Site(kit)
        site.peer.send({"id": 9, "publish": {"channel": topic, "data": 1}})
        assert msg.encoded == 1
        assert site.raw.messages == ['{"a":"ä"}']
        (pub,) = (each["push"]["pub"] for each in site.peer.take() if "push" in each)
        assert pub["data"] == msg


@pytest.mark.parametrize("topic", ["news", "kept"])
def test_half_an_emoji_is_an_escape_for_all(site: Site, topic: str) -> None:
    assert site.server.publish(topic, ["\ud83d"]) == 2
    assert site.raw.messages == ['["\\ud83d"]']
    assert site.peer.pushes()[0]["pub"]["data"] == ["\ud83d"]


@pytest.mark.parametrize("topic", ["news", "kept", "nobody"])
@pytest.mark.parametrize("msg", [{1}, 5, None, "\ud83d", [float("nan")], {"a": {1}}])
def test_what_cannot_be_sent_is_sent_to_nobody(
    site: Site, topic: str, msg: object
) -> None:
    with pytest.raises((TypeError, ValueError)):
        site.server.publish(topic, msg)
    assert site.raw.messages == []
    assert site.peer.pushes() == []


def test_middlewares_see_the_object(server: Server) -> None:
    seen = []

    class Watch(Middleware):
        def on_send(self, msg: Any, client: Any) -> Any:
            seen.append(msg)
            return msg

    server.use(Watch())
    with TestServer(server) as kit:
        site, msg = Site(kit), {"a": 1}
        site.server.publish("news", msg)
        assert seen == [msg]
        assert seen[0] is msg
        assert json.loads(site.raw.messages[0]) == msg
        assert site.peer.pushes()[0]["pub"] == {"data": {"a": 1}}


def test_who_publishes_is_told_as_it_is_now(site: Site) -> None:
    peer, client = site.peer, site.peer.client

    def told(topic: str = "news") -> Any:
        peer.send({"id": 9, "publish": {"channel": topic, "data": 1}})
        (info,) = (e["push"]["pub"]["info"] for e in peer.take() if "push" in e)
        return info

    name = client._live.client_id
    assert told() == told("kept") == {"user": "", "client": name}
    client.bind("ann")
    assert told() == {"user": "ann", "client": name}
    client.present_as = {"age": 1}
    assert told() == {"user": "ann", "client": name, "conn_info": {"age": 1}}
    client.present_as = {"age": 2}
    assert told()["conn_info"] == {"age": 2}
    client._live.topics["kept"].info = {"role": "admin"}
    assert told("kept")["chan_info"] == {"role": "admin"}
    assert "chan_info" not in told()
