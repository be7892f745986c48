"""What an application goes through with an SDK in JavaScript, step by step.

The same scenarios run with the npm package `centrifuge` and with our client.js, in Node
(tests/live/test_clients_js.py) and in a real Chromium (test_clients_browser.py).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from time import time
from typing import Any

import pytest
from live_peer import allow
from proxy import Proxy
from sdk_driver import Sdk, SdkError

from simple_ws import Server
from simple_ws.live import Connected, LiveError
from simple_ws.tokens import Tokens

__all__ = ["SCENARIOS", "Scenario", "World"]

Scenario = Callable[["World"], None]
SCENARIOS: list[Scenario] = []
#: Seconds between pings, so that a dead network is noticed soon.
HEARTBEAT = 1.0


def scenario(function: Scenario) -> Scenario:
    SCENARIOS.append(function)
    return function


class World:
    """A server behind a proxy, and an SDK; the server can be replaced.

    Attributes:
        sdk: the SDK.
        server: the running server.
        proxy: what clients connect to.
        refusals: errors that on_subscribe raises, one after the other.
    """

    def __init__(self, sdk: Sdk) -> None:
        self.sdk = sdk
        self.refusals: list[LiveError] = []
        self._tokens: Any = None
        self._stack = ExitStack()
        self.server = self._start(0)
        self.port = self.server.port or 0
        self.proxy = self._stack.enter_context(Proxy(self.port))
        self._stack.callback(lambda: self.server.stop(drain=0))
        sdk.reset(self.url)

    def close(self) -> None:
        self._stack.close()

    def ask_for_tokens(self) -> Any:
        """From now on clients need tokens; returns what makes them."""
        pytest.importorskip("jwt", reason="needs PyJWT")
        self._tokens = Tokens("a secret of thirty-two bytes or more")
        self.restart()
        self.sdk.reset(self.url.replace("/live/", "/signed/"))
        return self._tokens

    @property
    def url(self) -> str:
        """Of the server through the proxy."""
        return self.proxy.url.replace("redis:", "ws:") + "/live/websocket"

    def restart(self, drain: float = 0) -> None:
        """Another server takes the place of this one; what it has kept is lost."""
        self.server.stop(drain=drain)
        self.server = self._start(self.port)

    def _start(self, port: int) -> Server:
        server = Server("127.0.0.1", port, presence_grace=0)
        server.topic("room:*", history=1000, presence=True)
        server.topic("short:*", history=10)
        live = server.live(
            "/live",
            authorize=self.authorize,
            on_connect=self.on_connect,
            on_subscribe=self.on_subscribe,
            heartbeat=HEARTBEAT,
            heartbeat_timeout=0.5,
            max_topics=1000,
        )
        self.live = live

        if self._tokens is not None:
            server.live("/signed", authorize=self.authorize, tokens=self._tokens)

        @live.method
        def add(client: Any, data: Any) -> Any:
            return data[0] + data[1]

        server.start()
        return server

    def authorize(self, client: Any, action: str, topic: str) -> bool:
        return allow(client, action, topic) and not topic.startswith("secret")

    def on_connect(self, client: Any, request: Any) -> Connected | bool:
        if request.token == "bad":
            return False
        data = request.data if isinstance(request.data, dict) else {}
        return Connected(
            user=data.get("user"),
            data={"token": request.token, "data": request.data},
            topics=data.get("topics", ()),
        )

    def on_subscribe(self, client: Any, topic: str, data: Any) -> Any:
        if self.refusals:
            raise self.refusals.pop(0)
        return data

    def soon(self, function: Callable[..., Any], *args: Any) -> None:
        """Call a function in the loop's thread."""
        self.server.call_later(0, partial(function, *args))

    def publish(self, topic: str, *numbers: Any) -> None:
        """Publish as the server; see `data_of`."""
        for number in numbers:
            self.server.publish(topic, {"server": number})


def data_of(publications: list[Any]) -> list[Any]:
    """What clients have published, and the numbers of `World.publish`."""
    data = [each["data"] for each in publications]
    return [
        each.get("server", each) if isinstance(each, dict) else each for each in data
    ]


@scenario
def what_applications_do(world: World) -> None:
    ann = world.sdk.client("ann", options={"data": {"user": "ann"}}).connect()
    [connected] = ann.events("connected")
    assert connected["data"] == {"token": "", "data": {"user": "ann"}}
    assert connected["transport"] == "websocket"
    options = {"recoverable": True, "joinLeave": True, "data": {"x": 1}}
    room = ann.subscribe("room:1", options=options)
    [subscribed] = room.events("subscribed")
    assert subscribed["channel"] == "room:1"
    assert subscribed["data"] == {"x": 1}
    assert subscribed["recoverable"]
    assert subscribed["positioned"]
    assert not subscribed["wasRecovering"]
    assert not subscribed["recovered"]
    assert not subscribed["hasRecoveredPublications"]
    assert subscribed["streamPosition"]["offset"] == 0
    assert room.call("publish", {"text": "hello"}) == {}
    [publication] = room.wait_for("publication")
    assert publication["channel"] == "room:1"
    assert (publication["data"], publication["offset"]) == ({"text": "hello"}, 1)
    assert ann.call("publish", "room:1", "two") == {}
    history = room.call("history", {"limit": 10})
    assert data_of(history["publications"]) == [{"text": "hello"}, "two"]
    assert history["offset"] == 2
    assert history["epoch"]
    since = {"limit": 10, "since": {"offset": 1, "epoch": history["epoch"]}}
    found = ann.call("history", "room:1", since)["publications"]
    assert data_of(found) == ["two"]
    found = room.call("history", {"limit": 1, "reverse": True})["publications"]
    assert data_of(found) == ["two"]
    assert ann.call("rpc", "add", [1, 2]) == {"data": 3}
    with pytest.raises(SdkError, match="104, 'method not found'"):
        ann.call("rpc", "nothing", None)
    bob = world.sdk.client("bob", options={"data": {"user": "bob"}}).connect()
    bob.subscribe("room:1")
    joined = room.wait_for("join", 2)
    assert [each["info"]["user"] for each in joined] == ["ann", "bob"]
    users = [each["user"] for each in room.call("presence")["clients"].values()]
    assert sorted(users) == ["ann", "bob"]
    stats = ann.call("presenceStats", "room:1")
    assert stats == {"numClients": 2, "numUsers": 2}
    bob.do("disconnect")
    [left] = room.wait_for("leave")
    assert (left["channel"], left["info"]["user"]) == ("room:1", "bob")
    ann.call("send", {"any": "thing"})
    for client in world.live.clients:
        client.write_message({"to": "you"})
    assert ann.wait_for("message") == [{"data": {"to": "you"}}]


@scenario
def states_are_told_in_order(world: World) -> None:
    one = world.sdk.client()
    assert one.state == "disconnected"
    one.connect()
    room = one.subscribe("room:1")
    assert (one.state, room.state) == ("connected", "subscribed")
    room.do("unsubscribe")
    [told] = room.wait_for("unsubscribed")
    assert told == {"channel": "room:1", "code": 0, "reason": "unsubscribe called"}
    with pytest.raises(SdkError):
        room.call("publish", 1)
    one.do("disconnect")
    [told] = one.wait_for("disconnected")
    assert told == {"code": 0, "reason": "disconnect called"}
    [told] = one.wait_for("connecting")
    assert told == {"code": 0, "reason": "connect called"}
    with pytest.raises(SdkError):
        one.do("ready")


@scenario
def many_at_once_and_loops_without_waiting(world: World) -> None:
    one = world.sdk.client().connect()
    many = [{"name": "one", "channel": f"many:{n}"} for n in range(120)]
    world.sdk.do_all([("subscribe", each) for each in many])
    world.sdk.do_all([("ready", each) for each in many])
    room = one.subscribe("room:1", wait=False)
    name, both = {"name": "one"}, {"name": "one", "channel": "room:1"}
    world.sdk.do_all([("unsubscribe", both), ("subscribe", both)] * 20)
    world.sdk.do_all([("disconnect", name), ("connect", name)] * 10)
    room.do("ready")
    assert room.call("publish", 1) == {}
    assert data_of(room.wait_for("publication")) == [1]


@scenario
def what_was_missed_is_recovered_in_order_and_once(world: World) -> None:
    one = world.sdk.client().connect()
    room = one.subscribe("room:1", options={"recoverable": True})
    world.publish("room:1", 0)
    room.wait_for("publication")
    for lost in (1, 2):
        one.do("disconnect")
        world.publish("room:1", *range(300 * lost - 299, 300 * lost + 1))
        one.do("connect")
        room.wait_for("publication", 300 * lost + 1)
    publications = room.events("publication")
    assert data_of(publications) == list(range(601))
    assert [each["offset"] for each in publications] == list(range(1, 602))
    told = room.events("subscribed")
    assert [each["recovered"] for each in told] == [False, True, True]
    assert [each["hasRecoveredPublications"] for each in told] == [False, True, True]


@scenario
def a_network_that_is_cut_loses_nothing(world: World) -> None:
    one = world.sdk.client().connect()
    room = one.subscribe("room:1", options={"recoverable": True})
    for n in range(5):
        world.publish("room:1", n)
        world.proxy.cut()
        connecting = one.wait_for("connecting", n + 2)[-1]
        assert connecting["code"] == 1
        one.wait_for("connected", n + 2)
        room.wait_for("publication", n + 1)
    assert data_of(room.events("publication")) == list(range(5))


@scenario
def a_network_that_is_silent_is_noticed(world: World) -> None:
    options = {"maxServerPingDelay": 200}
    one = world.sdk.client(options=options).connect()
    room = one.subscribe("room:1", options={"recoverable": True})
    world.proxy.detain()
    world.publish("room:1", "missed")
    connecting = one.wait_for("connecting", 2)[-1]
    assert connecting == {"code": 2, "reason": "no ping"}
    assert data_of(room.wait_for("publication")) == ["missed"]
    world.proxy.release()


@scenario
def a_server_that_has_lost_its_history_is_told(world: World) -> None:
    one = world.sdk.client().connect()
    room = one.subscribe("room:1", options={"recoverable": True})
    world.publish("room:1", 1, 2)
    room.wait_for("publication", 2)
    world.restart()
    again = room.wait_for("subscribed", 2)[-1]
    assert again["wasRecovering"]
    assert not again["recovered"]
    world.publish("room:1", 3)
    assert data_of(room.wait_for("publication", 3)) == [1, 2, 3]


@scenario
def more_than_the_history_is_told(world: World) -> None:
    one = world.sdk.client().connect()
    room = one.subscribe("short:1", options={"recoverable": True})
    one.do("disconnect")
    world.publish("short:1", *range(50))
    one.do("connect")
    again = room.wait_for("subscribed", 2)[-1]
    assert (again["wasRecovering"], again["recovered"]) == (True, False)
    assert room.events("publication") == []
    room.do("unsubscribe")
    world.publish("short:1", "a", "b")
    room.do("subscribe", options={})
    assert data_of(room.wait_for("publication", 2)) == ["a", "b"]


@scenario
def a_server_that_stops_sends_them_to_the_next_one(world: World) -> None:
    one = world.sdk.client().connect()
    one.subscribe("room:1")
    world.restart(drain=5)
    connecting = one.wait_for("connecting", 2)[-1]
    assert connecting == {"code": 3001, "reason": "shutdown"}
    one.wait_for("connected", 2)


@scenario
def refusals_say_why(world: World) -> None:
    one = world.sdk.client(options={"token": "bad"})
    one.do("connect")
    [told] = one.wait_for("disconnected")
    assert told == {"code": 101, "reason": "unauthorized"}
    two = world.sdk.client("two").connect()
    secret = two.subscribe("secret", wait=False)
    [told] = secret.wait_for("unsubscribed")
    assert told == {"channel": "secret", "code": 103, "reason": "permission denied"}
    with pytest.raises(SdkError, match="103, 'permission denied'"):
        two.call("publish", "secret", 1)


@scenario
def temporary_errors_are_tried_again(world: World) -> None:
    one = world.sdk.client().connect()
    world.refusals = [LiveError(400, "later", temporary=True)] * 2
    fast = {"minResubscribeDelay": 10, "maxResubscribeDelay": 50}
    room = one.subscribe("room:1", options=fast)
    told = room.events("error")
    assert [each["type"] for each in told] == ["subscribe", "subscribe"]
    assert [each["error"]["code"] for each in told] == [400, 400]
    assert len(one.events("connecting")) == 1


@scenario
def functions_may_fail_at_first(world: World) -> None:
    fails: Any = {"fails": "no network"}
    one = world.sdk.client(tokens=[fails, "t1"], data=[fails, fails, {"user": "ann"}])
    one.connect()
    [connected] = one.events("connected")
    assert connected["data"] == {"token": "t1", "data": {"user": "ann"}}
    types = [each["type"] for each in one.events("error")]
    assert types == ["connectToken", "connectData", "connectData"]
    fast = {"minResubscribeDelay": 10, "maxResubscribeDelay": 50}
    room = one.subscribe("room:1", tokens=[fails, "t"], data=[fails, 5], options=fast)
    assert room.events("subscribed")[0]["data"] == 5
    types = [each["type"] for each in room.events("error")]
    assert types == ["subscribeToken", "subscribeData"]
    two = world.sdk.client("two", tokens=[{"unauthorized": True}])
    two.do("connect")
    [told] = two.wait_for("disconnected")
    assert told == {"code": 1, "reason": "unauthorized"}


@scenario
def calls_before_the_connection_wait_for_it(world: World) -> None:
    world.sdk.client("two").connect().subscribe("room:1")
    one = world.sdk.client()
    done = [one.begin("publish", "room:1", n) for n in range(50)]
    sum_of = one.begin("rpc", "add", [1, 2])
    one.do("connect")
    for each in done:
        assert each() == {}
    assert sum_of() == {"data": 3}
    two = world.sdk.of("two", "room:1")
    assert data_of(two.wait_for("publication", 50)) == list(range(50))
    waits = world.sdk.client("never", options={"timeout": 50}).begin("publish", "x", 1)
    with pytest.raises(SdkError, match="timeout"):
        waits()


@scenario
def subscriptions_by_the_server(world: World) -> None:
    one = world.sdk.client(options={"data": {"topics": ["room:7"]}}).connect()
    [subscribed] = one.wait_for("subscribed")
    assert subscribed["channel"] == "room:7"
    world.publish("room:7", 1)
    one.wait_for("publication")
    world.proxy.cut()
    world.publish("room:7", 2)
    assert data_of(one.wait_for("publication", 2)) == [1, 2]
    assert one.wait_for("subscribing") == [{"channel": "room:7"}]
    assert one.wait_for("subscribed", 2)[-1]["recovered"]
    [client] = world.live.clients
    world.soon(client.unsubscribe, "room:7")
    assert one.wait_for("unsubscribed") == [{"channel": "room:7"}]
    world.soon(client.subscribe, "room:8")
    assert one.wait_for("subscribed", 3)[-1]["channel"] == "room:8"


@scenario
def messages_that_are_lost_on_the_way_are_told(world: World) -> None:
    one = world.sdk.client().connect()
    room = one.subscribe("room:1", options={"positioned": True, "recoverable": True})
    world.soon(world.live.on_gap, "room:1", None)
    again = room.wait_for("subscribed", 2)[-1]
    assert again["wasRecovering"]
    assert room.events("subscribing")[-1]["code"] == 2500


@scenario
def two_tabs_have_each_what_the_other_says(world: World) -> None:
    tabs = [world.sdk.client(name).connect() for name in ("left", "right")]
    rooms = [tab.subscribe("room:1", options={"recoverable": True}) for tab in tabs]
    for n in range(20):
        rooms[n % 2].call("publish", n)
    for room in rooms:
        assert data_of(room.wait_for("publication", 20)) == list(range(20))


@scenario
def tokens_are_refreshed_without_a_reconnect(world: World) -> None:
    tokens = world.ask_for_tokens()
    soon, later = (tokens.connection("ann", expires_in=each) for each in (2, 3600))
    one = world.sdk.client(tokens=[soon, later]).connect()
    short, long = (
        tokens.subscription("ann", "secret:1", expires_in=each) for each in (2, 3600)
    )
    secret = one.subscribe("secret:1", tokens=[short, long])
    assert one.wait_for("getToken", 2) == [{}, {}]
    assert secret.wait_for("getToken", 2) == [{"channel": "secret:1"}] * 2
    with pytest.raises(SdkError, match="104"):  # what was sent before is answered, too
        one.call("rpc", "nothing", None)
    assert [each.state for each in (one, secret)] == ["connected", "subscribed"]
    for each in (one, secret):
        assert each.events("error") == []
    assert len(one.events("connecting")) == 1
    assert len(secret.events("subscribing")) == 1


@scenario
def tokens_that_have_expired_are_replaced(world: World) -> None:
    tokens = world.ask_for_tokens()
    past = Tokens("a secret of thirty-two bytes or more", clock=lambda: time() - 100)
    old, new = (each.connection("ann", expires_in=50) for each in (past, tokens))
    one = world.sdk.client(tokens=[old, new]).connect()
    assert [each["error"]["code"] for each in one.events("error")] == [109]
    old, new = (
        each.subscription("ann", "secret:1", expires_in=50) for each in (past, tokens)
    )
    fast = {"minResubscribeDelay": 10, "maxResubscribeDelay": 50}
    secret = one.subscribe("secret:1", tokens=[old, new], options=fast)
    assert [each["error"]["code"] for each in secret.events("error")] == [109]
    two = world.sdk.client("two", options={"token": "not a token"})
    two.do("connect")
    [told] = two.wait_for("disconnected")
    assert told["code"] == 3500
