"""`live` on two servers with one engine: one topic, recovery anywhere, and publications
that are acknowledged when the engine has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from harness import Peer, open_peer
from live_peer import allow
from nodes import KEEPING_ENGINES, Nodes, broker_server, engine_server
from redis_server import redis_server

from simple_ws import Server
from simple_ws.cluster import link

pytestmark = pytest.mark.one_backend


@pytest.fixture(params=KEEPING_ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    with engine_server(request.param) as made:
        yield made


def prepare(server: Server) -> None:
    server.topic("room:*", history=100)
    server.topic("hall", presence=True)
    server.topic("lobby", presence=True, history=10)
    server.live("/live", authorize=allow)


class Reader:
    """A client that is connected, on one of the nodes."""

    def __init__(self, stack: ExitStack, nodes: Nodes, number: int) -> None:
        path = "/live/websocket"
        self.peer: Peer = stack.enter_context(open_peer(nodes.servers[number], path))
        self._number = 0
        self._lines: list[dict[str, Any]] = []
        self.name = self.ask("connect")["client"]
        self.info = {"client": self.name, "user": ""}

    def read(self) -> dict[str, Any]:
        while not self._lines:
            frame = self.peer.read_message()
            assert isinstance(frame, str)
            self._lines = [json.loads(line) for line in frame.split("\n")]
        return self._lines.pop(0)

    def ask(self, method: str, /, **params: Any) -> dict[str, Any]:
        """The result of a command; its pushes stay."""
        self._number += 1
        self.peer.text(json.dumps({"id": self._number, method: params}))
        before = []
        while (reply := self.read()).get("id") != self._number:
            before.append(reply)
        self._lines = before + self._lines
        result = reply[method]
        assert isinstance(result, dict)
        return result

    def push(self) -> dict[str, Any]:
        push = self.read()["push"]
        assert isinstance(push, dict)
        return push


def test_one_topic_with_history(engine: Any, stack: ExitStack) -> None:
    nodes = Nodes(stack, engine, prepare=prepare)
    one, two = Reader(stack, nodes, 0), Reader(stack, nodes, 1)
    begun = [
        each.ask("subscribe", channel="room:1", recoverable=True) for each in (one, two)
    ]
    assert begun[0]["offset"] == 0
    assert one.ask("publish", channel="room:1", data={"n": 1}) == {}
    nodes.servers[1].publish("room:1", "two")
    for each in (one, two):
        pub = {"data": {"n": 1}, "offset": 1, "info": one.info}
        assert each.push()["pub"] == pub
        assert each.push()["pub"] == {"data": "two", "offset": 2}
    # Acknowledged is stored: whoever comes now has it, on any node.
    assert one.ask("publish", channel="room:1", data=3) == {}
    later = Reader(stack, nodes, 1)
    epoch = begun[0]["epoch"]
    result = later.ask(
        "subscribe", channel="room:1", recover=True, epoch=epoch, offset=1
    )
    assert result["recovered"] is True
    assert result["publications"] == [
        {"data": "two", "offset": 2},
        {"data": 3, "offset": 3, "info": one.info},
    ]
    page = later.ask("history", channel="room:1", limit=10)
    assert [each["offset"] for each in page["publications"]] == [1, 2, 3]


def test_history_that_nobody_here_listens_to(engine: Any, stack: ExitStack) -> None:
    nodes = Nodes(stack, engine, prepare=prepare)
    one, two = Reader(stack, nodes, 0), Reader(stack, nodes, 1)
    one.ask("publish", channel="room:2", data="x")
    page = two.ask("history", channel="room:2", limit=10)
    assert [each["data"] for each in page["publications"]] == ["x"]


def test_topics_without_history_and_messages_to_all(
    engine: Any, stack: ExitStack
) -> None:
    nodes = Nodes(stack, engine, prepare=prepare)
    one, two = Reader(stack, nodes, 0), Reader(stack, nodes, 1)
    two.ask("subscribe", channel="news")
    two.ask("publish", channel="news", data="the engine knows of it")
    pub = {"data": "the engine knows of it", "info": two.info}
    assert two.push()["pub"] == pub
    one.ask("publish", channel="news", data={"a": [1]})
    assert two.push()["pub"] == {"data": {"a": [1]}, "info": one.info}
    one.ask("publish", channel="news", data=5)
    assert two.push() == {"channel": "news", "pub": {"data": 5, "info": one.info}}
    nodes.servers[0].broadcast({"to": "all"})
    assert two.push() == {"message": {"data": {"to": "all"}}}


@pytest.mark.parametrize("topic", ["hall", "lobby"])
def test_presence_of_both(engine: Any, stack: ExitStack, topic: str) -> None:
    nodes = Nodes(stack, engine, prepare=prepare, presence_grace=0)
    one, two = Reader(stack, nodes, 0), Reader(stack, nodes, 1)
    one.ask("subscribe", channel=topic, join_leave=True)
    two.ask("subscribe", channel=topic)
    came = {one.push()["join"]["info"]["client"] for _ in range(2)}
    assert came == {one.name, two.name}
    assert set(one.ask("presence", channel=topic)["presence"]) == came


def test_engine_that_is_away_is_an_error_that_is_tried_again(stack: ExitStack) -> None:
    with broker_server() as engine:
        nodes = Nodes(stack, engine, 1, prepare=prepare)
        one = Reader(stack, nodes, 0)
        engine.stop()
        try:
            one.peer.text('{"id":9,"subscribe":{"channel":"room:1"}}')
            error = one.read()["error"]
            assert (error["code"], error["temporary"]) == (100, True)
            assert nodes.servers[0].count("room:1") == 0
        finally:
            engine.go_on()
        assert one.ask("subscribe", channel="room:1", positioned=True)["offset"] == 0


def test_history_that_is_lost_is_told(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "_LONGEST_PAUSE", 0.2)
    with redis_server() as engine:
        nodes = Nodes(stack, engine, prepare=prepare)
        one, two = Reader(stack, nodes, 0), Reader(stack, nodes, 1)
        for each in (one, two):
            begun = each.ask("subscribe", channel="room:1", recoverable=True)
        one.ask("publish", channel="room:1", data="x")
        for each in (one, two):
            assert each.push()["pub"]["offset"] == 1
        engine.kill()
        engine.start()
        for each in (one, two):
            gone = {"code": 2500, "reason": "insufficient state"}
            assert each.push() == {"channel": "room:1", "unsubscribe": gone}
            result = each.ask(
                "subscribe",
                channel="room:1",
                recover=True,
                epoch=begun["epoch"],
                offset=1,
            )
            assert result["recovered"] is False
        two.ask("publish", channel="room:1", data="y")
        for each in (one, two):
            pub = each.push()["pub"]
            assert (pub["data"], pub["offset"]) == ("y", result["offset"] + 1)


def test_what_is_published_while_the_engine_is_away_is_acknowledged_later(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "_LONGEST_PAUSE", 0.2)
    with redis_server() as engine:
        nodes = Nodes(stack, engine, 1, prepare=prepare)
        one = Reader(stack, nodes, 0)
        one.ask("subscribe", channel="room:1")
        engine.kill()
        nodes.until(0, up=False)
        one.peer.text('{"id":77,"publish":{"channel":"room:1","data":1}}')
        one.ask("ping")  # it is carried out, and not answered
        assert one._lines == []
        engine.start()
        came = [one.read() for _ in range(2)]
        assert {"id": 77, "publish": {}} in came
        assert one.ask("history", channel="room:1", limit=5)["offset"] == 1
