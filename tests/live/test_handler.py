"""`Server.live` as clients see it, frame by frame."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from live_peer import LivePeer, allow

from simple_ws import (
    AuthenticationError,
    FirstMessageAuth,
    JSONMessages,
    Middleware,
    Server,
    WebSocket,
    in_thread,
)
from simple_ws.live import Connected, LiveError
from simple_ws.testing import TestServer


class Site:
    """A server with `live`, and what the tests do with it."""

    def __init__(self) -> None:
        self.kits: list[TestServer] = []

    def __call__(self, *, rules: dict[str, dict[str, Any]] = {}, **options: Any) -> Any:  # noqa: B006
        server = Server("127.0.0.1", 0, ping=False, presence_grace=0)
        for pattern, rule in rules.items():
            server.topic(pattern, **rule)
        options.setdefault("authorize", allow)
        self.live = server.live("/live", **options)
        self.server = server
        return self

    def start(self) -> TestServer:
        kit = TestServer(self.server, raise_server_exceptions=False)
        self.kits.append(kit)
        return kit

    def peer(self) -> LivePeer:
        kit = self.kits[-1] if self.kits else self.start()
        return LivePeer(kit)

    def connected(self, **params: Any) -> LivePeer:
        peer = self.peer()
        peer.connect(**params)
        return peer


@pytest.fixture
def site() -> Iterator[Any]:
    made = Site()
    yield made
    for kit in made.kits:
        kit.close()


HISTORY = {"room:*": {"history": 5}}


class TestConnect:
    def test_reply_has_what_sdks_need(self, site: Any) -> None:
        result = site().peer().connect()
        assert result["client"].startswith(
            str(site.server.clients.__iter__().__next__().id)
        )
        assert result["ping"] == 25
        assert result["pong"] is True
        assert "data" not in result

    def test_hook_gets_what_the_client_said(self, site: Any) -> None:
        seen: list[Any] = []

        def on_connect(client: Any, request: Any) -> Connected:
            seen.append(request)
            return Connected(user="ann", data={"hello": 1}, topics=["news"])

        peer = site(on_connect=on_connect).peer()
        result = peer.connect(token="t", data={"x": 1}, name="js", version="5")
        assert result["data"] == {"hello": 1}
        assert result["subs"] == {"news": {}}
        assert peer.client.client_id == "ann"
        assert tuple(seen[0]) == ("t", {"x": 1}, "js", "5", {}, "", None, ())
        site.server.publish("news", {"a": 1})
        assert peer.publications() == [({"a": 1}, 0)]

    @pytest.mark.parametrize("how", ["false", "error", "auth"])
    def test_refused_client_is_told_and_does_not_come_back(
        self, site: Any, how: str
    ) -> None:
        def on_connect(client: Any, request: Any) -> Any:
            if how == "error":
                raise LiveError(500, "go away")
            if how == "auth":
                raise AuthenticationError("no")
            return False

        peer = site(on_connect=on_connect).peer()
        assert peer.fail("connect") == (500 if how == "error" else 101)
        peer.peer.assert_closed(3500)

    def test_hook_that_fails_is_an_internal_error(
        self, site: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        def on_connect(client: Any, request: Any) -> Any:
            raise KeyError("x")

        peer = site(on_connect=on_connect).peer()
        with caplog.at_level(logging.ERROR, "simple_ws"):
            assert peer.do("connect")["error"] == {
                "code": 100,
                "message": "internal server error",
                "temporary": True,
            }
        assert "connect" in caplog.text

    def test_commands_before_connect(self, site: Any) -> None:
        peer = site().peer()
        assert peer.fail("subscribe", channel="a") == 101
        assert peer.client.topics == frozenset()
        assert peer.connect()["pong"]
        assert peer.fail("connect") == 107

    def test_who_does_not_connect_is_disconnected(self, site: Any) -> None:
        peer = site().peer()
        site.kits[0].advance(26)
        peer.peer.assert_closed(3502)

    def test_nothing_reaches_who_is_not_connected(self, site: Any) -> None:
        peer = site().peer()
        assert site.server.broadcast("x") == 0
        assert peer.take() == []
        peer.connect()
        assert site.server.broadcast({"x": 1}) == 1
        assert peer.pushes() == [{"message": {"data": {"x": 1}}}]


class TestHeartbeat:
    def test_pings_and_pongs(self, site: Any) -> None:
        peer = site().connected()
        for _ in range(3):
            site.kits[0].advance(25)
            assert peer.take() == [{}]
            peer.peer.send("{}")
        site.kits[0].advance(20)
        peer.peer.assert_open()

    def test_server_that_stood_still_has_not_read_the_answers_yet(
        self, site: Any
    ) -> None:
        peer = site().connected()
        (kit,) = site.kits
        kit.advance(25)
        assert peer.take() == [{}]
        kit.advance(7.5)
        kit.clock.now += 60
        kit.settle()
        peer.peer.send("{}")
        kit.advance(20)
        peer.peer.assert_open()

    def test_who_does_not_answer_is_disconnected_and_comes_back(
        self, site: Any
    ) -> None:
        peer = site().connected()
        site.kits[0].advance(25.5)
        peer.peer.assert_open()
        site.kits[0].advance(9)
        peer.peer.assert_closed(3012)

    def test_timeout_is_less_than_the_interval(self, site: Any) -> None:
        with pytest.raises(ValueError, match="less than heartbeat"):
            site(heartbeat=5, heartbeat_timeout=5)


class TestMalformed:
    def test_each_is_answered_and_the_tenth_closes(self, site: Any) -> None:
        peer = site().connected()
        for _ in range(9):
            peer.peer.send("nonsense")
            error = {"code": 107, "message": "bad request"}
            assert peer.take() == [{"error": error}]
        assert peer.fail("rpc", method=5) == 107
        peer.peer.assert_closed(3501)
        assert site.live.malformed == 10

    def test_unknown_commands(self, site: Any) -> None:
        assert site().connected().fail("what") == 107

    def test_commands_after_the_tenth_are_not_read(self, site: Any) -> None:
        peer = site().connected()
        publish = '{"id":5,"subscribe":{"channel":"a"}}'
        peer.peer.send("x\n" * 10 + publish)
        assert len(peer.take()) == 10
        assert site.server.count("a") == 0


class TestLimits:
    def test_too_many_commands_are_an_error_before_a_disconnect(
        self, site: Any
    ) -> None:
        peer = site(command_rate=(1, 3), max_topics=50).peer()
        peer.connect()
        assert peer.ask("ping") == {}
        assert peer.ask("ping") == {}
        error = peer.do("ping")["error"]
        assert (error["code"], error["temporary"]) == (111, True)
        assert "wait 1.0 s" in error["message"]
        site.kits[0].advance(1)
        assert peer.ask("ping") == {}
        for _ in range(149):
            peer.fail("ping")
        peer.peer.assert_open()
        peer.fail("ping")
        peer.peer.assert_closed(3013)

    def test_what_comes_behind_a_refused_command_is_refused_for_a_while(
        self, site: Any
    ) -> None:
        """Otherwise a client that sends what was refused again has lost its order."""
        peer = site(command_rate=(100, 2)).connected()
        assert peer.ask("ping") == {}
        assert peer.fail("ping") == 111
        for _ in range(3):
            site.kits[0].advance(0.03)
            assert peer.fail("ping") == 111
        site.kits[0].advance(0.011)
        assert peer.ask("ping") == {}
        assert peer.fail("ping") == 111

    def test_topics_of_a_client(self, site: Any) -> None:
        peer = site(max_topics=2).connected()
        peer.ask("subscribe", channel="a")
        peer.ask("subscribe", channel="b")
        assert peer.fail("subscribe", channel="c") == 106
        peer.ask("unsubscribe", channel="a")
        peer.ask("subscribe", channel="c")

    def test_subscribers_of_a_topic(self, site: Any) -> None:
        site(rules={"a": {"max_subscribers": 1}})
        first, second = site.connected(), site.connected()
        first.ask("subscribe", channel="a")
        assert second.fail("subscribe", channel="a") == 106
        first.ask("unsubscribe", channel="a")
        second.ask("subscribe", channel="a")

    def test_names_of_topics(self, site: Any) -> None:
        peer = site().connected()
        peer.ask("subscribe", channel="x" * 255)
        assert peer.fail("subscribe", channel="x" * 256) == 107
        assert peer.fail("publish", channel="x" * 256, data=1) == 107

    def test_slow_consumers_cannot_lose_single_messages(self, site: Any) -> None:
        with pytest.raises(ValueError, match="slow_consumer must be 'close'"):
            site(slow_consumer="drop_new")


class Raw(WebSocket):
    def on_open(self, client: Any) -> None:
        client.subscribe("a")


class TestSubscribe:
    def test_all_meet_in_one_topic(self, site: Any) -> None:
        site().server.mount("/raw", Raw())
        peer, raw = site.connected(), site.kits[0].connect("/raw")
        assert peer.ask("subscribe", channel="a") == {}
        assert site.server.publish("a", {"x": 1}) == 2
        assert peer.publications() == [({"x": 1}, 0)]
        assert raw.messages == ['{"x":1}']
        assert peer.ask("publish", channel="a", data=["y"]) == {}
        assert peer.publications() == [(["y"], 0)]
        assert raw.messages[1:] == ['["y"]']
        site.server.publish("a", "text")
        site.server.publish("a", b"\x00")
        assert peer.publications() == [("text", 0), ("AA==", 0)]
        assert raw.messages[2:] == ["text", b"\x00"]
        assert site.server.count("a") == 2
        assert site.server.members("a") == [raw.client, peer.client]

    def test_scalars_can_be_published(self, site: Any) -> None:
        site(rules=HISTORY).server.mount("/raw", Raw())
        peer, raw = site.connected(), site.kits[0].connect("/raw")
        for topic in ("a", "room:1"):
            peer.ask("subscribe", channel=topic)
            for value in (5, None, True, 1.5):
                peer.ask("publish", channel=topic, data=value)
            got = [data for data, _ in peer.publications()]
            assert got == [5, None, True, 1.5]
        assert raw.messages == ["5", "null", "true", "1.5"]

    def test_twice_is_an_error(self, site: Any) -> None:
        peer = site().connected()
        peer.ask("subscribe", channel="a")
        assert peer.fail("subscribe", channel="a") == 105

    def test_unsubscribe(self, site: Any) -> None:
        peer = site().connected()
        peer.ask("subscribe", channel="a")
        assert peer.ask("unsubscribe", channel="a") == {}
        assert peer.ask("unsubscribe", channel="a") == {}
        assert site.server.publish("a", "x") == 0
        assert peer.take() == []
        assert site.server.count("a") == 0

    def test_client_that_leaves_is_no_subscriber(self, site: Any) -> None:
        peer = site().connected()
        peer.ask("subscribe", channel="a")
        peer.peer.close()
        assert site.server.count("a") == 0
        assert not site.server._feeds

    def test_reply_is_before_what_is_published(self, site: Any) -> None:
        peer = site().connected()
        peer.send(
            {"id": 7, "subscribe": {"channel": "a"}},
            {"id": 8, "publish": {"channel": "a", "data": 1}},
        )
        kinds = [next(iter(each)) for each in peer.take()]
        assert kinds == ["id", "push", "id"]

    def test_many_in_one_frame(self, site: Any) -> None:
        peer = site().connected()
        peer.send(*({"id": n, "subscribe": {"channel": f"{n}"}} for n in range(2, 102)))
        assert [each["id"] for each in peer.take()] == list(range(2, 102))

    def test_default_is_to_refuse(self, site: Any) -> None:
        peer = site(authorize=None).connected()
        assert peer.fail("subscribe", channel="a") == 103
        assert peer.fail("publish", channel="a", data=1) == 103
        assert peer.fail("presence", channel="a") == 103
        assert peer.fail("history", channel="a") == 103
        assert peer.fail("rpc", method="a") == 103

    def test_authorize_is_asked_with_client_action_and_topic(self, site: Any) -> None:
        asked: list[Any] = []

        def authorize(client: Any, action: str, topic: str) -> bool:
            asked.append((client, action, topic))
            return topic != "b"

        peer = site(authorize=authorize).connected()
        peer.ask("subscribe", channel="a")
        assert peer.fail("subscribe", channel="b") == 103
        assert peer.fail("publish", channel="b", data=1) == 103
        actions = [("subscribe", "a"), ("subscribe", "b"), ("publish", "b")]
        assert asked == [(peer.client, *each) for each in actions]

    def test_hooks_change_or_refuse(self, site: Any) -> None:
        def on_publish(client: Any, topic: str, data: Any) -> Any:
            if data == "no":
                return False
            return {"from": 1, "text": data}

        def on_subscribe(client: Any, topic: str, data: Any) -> Any:
            if data == "no":
                raise LiveError(400, "not you", temporary=True)
            return {"hello": data}

        peer = site(on_publish=on_publish, on_subscribe=on_subscribe).connected()
        error = peer.do("subscribe", channel="a", data="no")["error"]
        assert error == {"code": 400, "message": "not you", "temporary": True}
        assert peer.ask("subscribe", channel="a", data=1) == {"data": {"hello": 1}}
        assert peer.fail("publish", channel="a", data="no") == 103
        peer.ask("publish", channel="a", data="x")
        assert peer.publications() == [({"from": 1, "text": "x"}, 0)]

    @pytest.mark.parametrize("name", ["on_subscribe", "on_publish", "on_connect"])
    def test_hook_that_returns_no_json_is_an_internal_error(
        self, site: Any, name: str
    ) -> None:
        def hook(*args: Any) -> Any:
            return Connected(data=object()) if name == "on_connect" else object()

        peer = site(**{name: hook}).peer()
        if name == "on_connect":
            assert peer.fail("connect") == 100
            assert peer.fail("connect") == 100
            return
        peer.connect()
        if name == "on_publish":
            assert peer.fail("publish", channel="a", data=1) == 100
            return
        assert peer.fail("subscribe", channel="a") == 100
        assert peer.fail("subscribe", channel="a") == 100
        assert site.server.count("a") == 0

    def test_failing_authorize_refuses(self, site: Any) -> None:
        def authorize(client: Any, action: str, topic: str) -> bool:
            raise KeyError

        assert (
            site(authorize=authorize).connected().fail("subscribe", channel="a") == 100
        )


class TestRecovery:
    def test_offsets_and_recovery(self, site: Any) -> None:
        site(rules=HISTORY)
        peer = site.connected()
        result = peer.ask("subscribe", channel="room:1", recoverable=True)
        assert result["recoverable"] is True
        assert result["positioned"] is True
        assert result["offset"] == 0
        for number in range(3):
            site.server.publish("room:1", {"n": number})
        assert peer.publications() == [({"n": n}, n + 1) for n in range(3)]
        peer.peer.close()
        site.server.publish("room:1", "four")
        again = site.connected()
        epoch = result["epoch"]
        result = again.ask(
            "subscribe", channel="room:1", recover=True, epoch=epoch, offset=2
        )
        assert result["recovered"] is True
        assert result["was_recovering"] is True
        assert result["offset"] == 4
        assert result["publications"] == [
            {"data": {"n": 2}, "offset": 3},
            {"data": "four", "offset": 4},
        ]
        site.server.publish("room:1", "five")
        assert again.publications() == [("five", 5)]
        # With nothing missed, and the epoch of the second time.
        third = site.connected()
        epoch = result["epoch"]
        result = third.ask(
            "subscribe", channel="room:1", recover=True, epoch=epoch, offset=5
        )
        assert result["recovered"] is True
        assert "publications" not in result

    @pytest.mark.parametrize(
        ("epoch", "offset"),
        [
            (None, 1),  # the history has the last five
            (None, 99),  # nobody can have got that
            (None, 2**60),
            ("nonsense", 3),
            ("abcd:0:0000", 3),
            ("", 0),
        ],
    )
    def test_what_cannot_be_whole_is_told(
        self, site: Any, epoch: str | None, offset: int
    ) -> None:
        site(rules=HISTORY)
        peer = site.connected()
        begun = peer.ask("subscribe", channel="room:1", recoverable=True)
        for number in range(8):
            site.server.publish("room:1", str(number))
        ask = {
            "channel": "room:1",
            "recover": True,
            "epoch": begun["epoch"] if epoch is None else epoch,
            "offset": offset,
        }
        result = site.connected().ask("subscribe", **ask)
        assert result["recovered"] is False
        assert "publications" not in result
        assert result["offset"] == 8
        other = site.connected()
        assert other.fail("subscribe", **ask, flag=2) == 112
        assert site.server.count("room:1") == 2

    def test_all_that_is_kept_is_enough(self, site: Any) -> None:
        site(rules=HISTORY)
        epoch = site.connected().ask("subscribe", channel="room:1", recoverable=True)
        for number in range(8):
            site.server.publish("room:1", str(number))
        result = site.connected().ask(
            "subscribe", channel="room:1", recover=True, epoch=epoch["epoch"], offset=3
        )
        assert result["recovered"] is True
        assert [each["offset"] for each in result["publications"]] == [4, 5, 6, 7, 8]

    def test_topics_without_history_cannot_recover(self, site: Any) -> None:
        peer = site().connected()
        result = peer.ask("subscribe", channel="a", recover=True, offset=3, epoch="x")
        assert result == {"was_recovering": True, "recovered": False}

    def test_positions_are_for_those_who_ask(self, site: Any) -> None:
        site(rules=HISTORY)
        assert site.connected().ask("subscribe", channel="room:1") == {}
        result = site.connected().ask("subscribe", channel="room:1", positioned=True)
        assert "recoverable" not in result
        assert result["positioned"] is True

    def test_force_recovery(self, site: Any) -> None:
        site(rules=HISTORY, force_recovery=True)
        assert site.connected().ask("subscribe", channel="room:1")["recoverable"]


class TestHistory:
    def publications(self, result: Any) -> list[Any]:
        return [(each["data"], each["offset"]) for each in result["publications"]]

    def test_pages(self, site: Any) -> None:
        site(rules=HISTORY)
        peer = site.connected()
        for number in range(1, 8):
            site.server.publish("room:1", number * "x")
        ask = peer.ask
        top = ask("history", channel="room:1")
        assert (top["offset"], top["publications"]) == (7, [])
        everything = ask("history", channel="room:1", limit=-1)
        assert [n for _, n in self.publications(everything)] == [3, 4, 5, 6, 7]
        first = ask("history", channel="room:1", limit=2)
        assert self.publications(first) == [("xxx", 3), ("xxxx", 4)]
        since = {"epoch": top["epoch"], "offset": 4}
        page = ask("history", channel="room:1", limit=2, since=since)
        assert [n for _, n in self.publications(page)] == [5, 6]
        page = ask("history", channel="room:1", limit=2, reverse=True)
        assert [n for _, n in self.publications(page)] == [7, 6]
        since = {"epoch": top["epoch"], "offset": 6}
        page = ask("history", channel="room:1", limit=2, since=since, reverse=True)
        assert [n for _, n in self.publications(page)] == [5, 4]
        page = ask("history", channel="room:1", limit=1, since={"offset": 3})
        assert [n for _, n in self.publications(page)] == [4]
        wrong = {"epoch": "abcd:0:", "offset": 3}
        assert peer.fail("history", channel="room:1", limit=1, since=wrong) == 112

    def test_topics_without_history(self, site: Any) -> None:
        assert site().connected().fail("history", channel="a") == 108


class TestPresence:
    def test_members_and_pushes(self, site: Any) -> None:
        def on_connect(client: Any, request: Any) -> Any:
            client.present_as = {"name": request.data}
            return Connected(user=request.data) if request.data else None

        site(rules={"hall": {"presence": True}}, on_connect=on_connect)
        peer = site.connected(data="ann")
        peer.ask("subscribe", channel="hall", join_leave=True)
        site.kits[0].advance(0.1)
        ann = {"client": "ann", "user": "ann", "conn_info": {"name": "ann"}}
        assert peer.pushes() == [{"channel": "hall", "join": {"info": ann}}]
        other = site.peer()
        name = other.connect()["client"]
        other.ask("subscribe", channel="hall")
        site.kits[0].advance(0.1)
        info = {"client": name, "user": "", "conn_info": {"name": None}}
        assert peer.pushes() == [{"channel": "hall", "join": {"info": info}}]
        assert other.pushes() == []
        assert peer.ask("presence", channel="hall") == {
            "presence": {"ann": ann, name: info}
        }
        stats = peer.ask("presence_stats", channel="hall")
        assert stats == {"num_clients": 2, "num_users": 2}
        other.ask("unsubscribe", channel="hall")
        site.kits[0].advance(1)
        (push,) = peer.pushes()
        assert push["leave"]["info"]["client"] == name

    def test_topics_without_presence(self, site: Any) -> None:
        peer = site().connected()
        assert peer.fail("presence", channel="a") == 108
        assert peer.fail("presence_stats", channel="a") == 108


class TestCalls:
    def test_methods(self, site: Any) -> None:
        site()

        @site.live.method
        def add(client: Any, data: Any) -> Any:
            return data[0] + data[1]

        @site.live.method("fail")
        def _(client: Any, data: Any) -> Any:
            raise LiveError(400, "no", temporary=False)

        @site.live.method
        def wrong(client: Any, data: Any) -> Any:
            return object()

        peer = site.connected()
        assert peer.ask("rpc", method="add", data=[1, 2]) == {"data": 3}
        assert peer.do("rpc", method="fail")["error"] == {"code": 400, "message": "no"}
        assert peer.fail("rpc", method="none") == 104
        assert peer.fail("rpc") == 104
        assert peer.fail("rpc", method="wrong") == 100
        assert peer.fail("rpc", method="add", data=5) == 100
        with pytest.raises(ValueError, match="a method 'add' already"):
            site.live.method("add")(add)
        with pytest.raises(TypeError, match="'less' must be a function of"):
            site.live.method("less")(lambda data: data)

    def test_hook_changes_or_refuses(self, site: Any) -> None:
        def on_rpc(client: Any, method: str, data: Any) -> Any:
            return False if data == "no" else [data]

        site(on_rpc=on_rpc).live.method("echo")(lambda client, data: data)
        peer = site.connected()
        assert peer.ask("rpc", method="echo", data=1) == {"data": [1]}
        assert peer.fail("rpc", method="echo", data="no") == 103

    def test_send_has_no_reply(self, site: Any) -> None:
        got: list[Any] = []
        peer = site(on_send=lambda client, data: got.append(data)).connected()
        peer.send({"send": {"data": {"x": 1}}})
        assert peer.take() == []
        assert got == [{"x": 1}]

    def test_refresh_is_not_available(self, site: Any) -> None:
        peer = site().connected()
        assert peer.fail("refresh", token="x") == 108
        assert peer.fail("sub_refresh", channel="a", token="x") == 108


class TestDeferred:
    def test_threads(self, site: Any) -> None:
        @in_thread
        def authorize(client: Any, action: str, topic: str) -> bool:
            return topic != "no"

        site(authorize=authorize).live.method("echo")(
            in_thread(lambda client, data: data)
        )
        peer = site.connected()
        peer.send(
            {"id": 11, "subscribe": {"channel": "no"}},
            {"id": 12, "subscribe": {"channel": "a"}},
            {"id": 13, "publish": {"channel": "a", "data": 1}},
            {"id": 14, "unsubscribe": {"channel": "a"}},
        )
        got: list[Any] = []
        site.kits[0].wait_until(lambda: got.extend(peer.take()) or len(got) == 5)
        assert [each.get("id") for each in got] == [11, 12, None, 13, 14]
        peer.send({"id": 15, "rpc": {"method": "echo", "data": 5}})
        got.clear()
        site.kits[0].wait_until(lambda: got.extend(peer.take()) or got)
        assert got == [{"id": 15, "rpc": {"data": 5}}]

    def test_async(self, site: Any) -> None:
        gate: list[asyncio.Future[None]] = []

        async def authorize(client: Any, action: str, topic: str) -> bool:
            return True

        async def on_connect(client: Any, request: Any) -> Any:
            return Connected(data=1)

        site(authorize=authorize, on_connect=on_connect)

        @site.live.method
        async def slow(client: Any, data: Any) -> Any:
            gate.append(asyncio.get_running_loop().create_future())
            await gate[0]
            return "done"

        peer = site.connected()
        peer.send({"id": 20, "rpc": {"method": "slow"}})
        # What is called does not hold up the others.
        assert peer.ask("subscribe", channel="a") == {}
        gate[0].set_result(None)
        site.kits[0].settle()
        assert peer.take() == [{"id": 20, "rpc": {"data": "done"}}]

    def test_what_waits_is_bounded_and_carried_out_in_order(self, site: Any) -> None:
        gates: list[asyncio.Future[bool]] = []

        async def authorize(client: Any, action: str, topic: str) -> bool:
            if gates:
                return True
            gates.append(asyncio.get_running_loop().create_future())
            return await gates[0]

        peer = site(authorize=authorize, heartbeat=1, heartbeat_timeout=0.5).connected()
        for number in range(10, 300):
            peer.send({"id": number, "subscribe": {"channel": f"{number % 100}"}})
        site.kits[0].settle()
        assert len(peer.client._live._waiting) == 1  # the others were not read
        site.kits[0].advance(3)
        gates[0].set_result(True)
        site.kits[0].settle()
        replies = [each["id"] for each in peer.take() if each]
        assert replies == list(range(10, 300))

    def test_client_that_leaves_while_a_hook_runs(self, site: Any) -> None:
        gates: list[asyncio.Future[bool]] = []

        async def authorize(client: Any, action: str, topic: str) -> bool:
            gates.append(asyncio.get_running_loop().create_future())
            return await gates[-1]

        peer = site(authorize=authorize).connected()
        peer.send({"id": 20, "subscribe": {"channel": "a"}})
        peer.peer.close()
        gates[0].set_result(True)
        site.kits[0].settle()
        assert site.server.count("a") == 0

    def test_async_needs_a_loop(self) -> None:
        async def authorize(client: Any, action: str, topic: str) -> bool:
            return True

        server = Server("127.0.0.1", 0)
        server.live("/live", authorize=authorize)
        with pytest.raises(Exception, match="authorize is async"):
            server.run()


class TestByTheServer:
    def test_subscribe_and_unsubscribe(self, site: Any) -> None:
        site(rules=HISTORY)
        peer = site.connected()
        assert peer.client.subscribe("a") is True
        assert peer.pushes() == [{"channel": "a", "subscribe": {}}]
        site.server.publish("room:1", "before")
        site.server.subscribe("room:1", peer.client, since="all")
        first, second = peer.pushes()
        assert first["subscribe"]["recoverable"] is True
        assert first["subscribe"]["offset"] == 0
        assert second["pub"] == {"data": "before", "offset": 1}
        site.server.publish("room:1", "x")
        assert peer.publications() == [("x", 2)]
        peer.client.unsubscribe("a")
        site.server.unsubscribe("room:1", peer.client)
        gone = {"code": 2000, "reason": "server unsubscribe"}
        assert peer.pushes() == [
            {"channel": "a", "unsubscribe": gone},
            {"channel": "room:1", "unsubscribe": gone},
        ]
        assert site.server.count("a") == 0

    def test_recovery_at_connect(self, site: Any) -> None:
        def on_connect(client: Any, request: Any) -> Any:
            return Connected(topics=["room:1"])

        site(rules=HISTORY, on_connect=on_connect)
        subs = site.peer().connect()["subs"]
        site.server.publish("room:1", "x")
        said = {"recover": True, "epoch": subs["room:1"]["epoch"], "offset": 0}
        peer = site.peer()
        result = peer.connect(subs={"room:1": said, "not:mine": said})["subs"]
        assert list(result) == ["room:1"]
        assert result["room:1"]["recovered"] is True
        assert result["room:1"]["publications"] == [{"data": "x", "offset": 1}]

    def test_subscribed_before_it_is_connected(self, site: Any) -> None:
        def on_connect(client: Any, request: Any) -> None:
            client.subscribe("a")

        peer = site(on_connect=on_connect).peer()
        assert peer.connect()["subs"] == {"a": {}}

    def test_messages_to_one(self, site: Any) -> None:
        peer = site(on_connect=lambda c, r: Connected(user="ann")).connected()
        assert site.server.send_to("ann", {"x": 1}) == 1
        peer.client.write_message("hello")
        peer.client.send(b"\x00")
        got = [each["message"]["data"] for each in peer.pushes()]
        assert got == [{"x": 1}, "hello", "AA=="]

    def test_gap_makes_clients_begin_again(self, site: Any) -> None:
        site(rules=HISTORY)
        peer, plain, theirs = site.connected(), site.connected(), site.connected()
        peer.ask("subscribe", channel="room:1", recoverable=True)
        peer.ask("subscribe", channel="a")
        theirs.client.subscribe("room:1")
        site.live.on_gap("room:1", 3)
        site.live.on_gap("a", None)
        site.live.on_gap(None, None)
        gone = {"code": 2500, "reason": "insufficient state"}
        assert peer.pushes() == [{"channel": "room:1", "unsubscribe": gone}]
        assert plain.pushes() == []
        theirs.peer.assert_closed(3010)

    def test_drain_says_to_come_back(self, site: Any) -> None:
        peer = site().connected()
        site.server.stop()
        site.kits[0].advance(0.1)
        peer.peer.assert_closed(3001, reason="shutdown")

    def test_many_clients_are_told_in_batches(self, site: Any) -> None:
        peers = [site().connected()]
        peers += [site.connected() for _ in range(299)]
        site.server.stop(drain=20)
        (kit,) = site.kits
        left, steps = len(peers), []
        while left:
            kit.advance(0.25)
            told = [peer for peer in peers if peer.peer.close_code is not None]
            steps.append(left - (left := len(peers) - len(told)))
        assert max(steps) <= 100
        assert {peer.peer.close_code for peer in peers} == {3001}


class TestMiddlewares:
    def test_frames_are_not_theirs(self, site: Any) -> None:
        site().server.use(JSONMessages())
        site.server.mount("/raw", Raw())
        peer, raw = site.connected(), site.kits[0].connect("/raw")
        peer.send({"id": 7, "subscribe": {"channel": "a"}}, {"id": 8, "ping": {}})
        assert len(peer.take()) == 2
        site.server.publish("a", 5)
        assert peer.publications() == [(5, 0)]
        assert raw.messages == ["5"]

    def test_all_else_is(self, site: Any) -> None:
        class Closed(Middleware):
            def on_request(self, request: Any) -> bool:
                return "ok" in request.query

        site().server.use(Closed())
        with pytest.raises(Exception, match="403"):
            site.peer()

    def test_strangers_cannot_connect_without_an_identity(self, site: Any) -> None:
        def on_connect(client: Any, request: Any) -> Any:
            return Connected(user="ann") if request.token else None

        site(on_connect=on_connect).server.use(FirstMessageAuth(lambda msg: msg))
        assert site.peer().fail("connect") == 101
        peer = site.connected(token="x")
        peer.ask("subscribe", channel="a")
        assert site.server.publish("a", 1 and "x") == 1


def test_one_encoding_for_all(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = [site().connected()] + [site.connected() for _ in range(20)]
    for peer in peers:
        peer.ask("subscribe", channel="a")
    encode: Callable[..., str] = site.server._feeds._encode
    made: list[str] = []

    def counted(*args: Any) -> str:
        made.append(encode(*args))
        return made[-1]

    site.server._feeds._encode = counted
    assert site.server.publish("a", {"x": 1}) == 21
    assert len(made) == 1
    for peer in peers:
        assert peer.publications() == [({"x": 1}, 0)]


def test_subprotocol_is_agreed(site: Any) -> None:
    kit = site().start()
    client = kit.connect("/live/websocket", subprotocols=["centrifuge-json"])
    assert client.client.subprotocol == "centrifuge-json"


def test_sdks_that_speak_protobuf_are_told_not_to_come_back(site: Any) -> None:
    kit, form = site().start(), "centrifuge-protobuf"
    client = kit.connect("/live/websocket", subprotocols=[form])
    reason = "bad request: Protobuf is not served, use JSON"
    client.assert_closed(3501, reason=reason)
    both = kit.connect("/live/websocket", subprotocols=[form, "centrifuge-json"])
    assert both.client.subprotocol == "centrifuge-json"
    both.assert_open()


def test_paths(site: Any) -> None:
    site()
    with pytest.raises(ValueError, match="already"):
        site.server.live("/live")
    with pytest.raises(TypeError, match="authorize must be a function"):
        site.server.live("/other", authorize=5)
    with pytest.raises(TypeError, match="authorize must be a function"):
        site.server.live("/other", authorize=lambda client: True)


def test_json_of_replies_is_one_line_each(site: Any) -> None:
    peer = site().connected()
    peer.peer.send('{"id":2,"ping":{}}\n{"id":3,"ping":{}}')
    _, frame = peer.peer.messages
    assert [json.loads(line) for line in str(frame).split("\n")] == [
        {"id": 2, "ping": {}},
        {"id": 3, "ping": {}},
    ]
