"""client.js alone with a clock, and among servers that misbehave: nothing that they say
hurts the page.

What it does with good servers is in test_clients_js.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from node_js import NODE, SCRIPTS, needs_node
from sdk_driver import Sdk, SdkClient, SdkError, node_sdk
from sdk_scenarios import World

from simple_ws import Server, WebSocket
from simple_ws.live.script import client_js

pytestmark = [needs_node, pytest.mark.one_backend]


class Liar(WebSocket):
    """Answers commands with what a test has set.

    Attributes:
        once: lines that are sent after the reply to the first `connect`.
        results: what is the result of a command, as JSON; by default {}.
        errors: likewise, its error.
        heard: the commands, and the pongs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.once: list[str | bytes] = []
        self.results: dict[str, str] = {}
        self.errors: dict[str, str] = {}
        self.heard: list[Any] = []

    def on_message(self, msg: Any, client: Any) -> None:
        for line in msg.split("\n"):
            command = json.loads(line)
            self.heard.append(command)
            number = command.pop("id", None)
            if number is not None:
                self.answer(number, *command, client)

    def answer(self, number: int, method: str, client: Any) -> None:
        if method in self.errors:
            client.write_message(f'{{"id":{number},"error":{self.errors[method]}}}')
        else:
            result = self.results.get(method, "{}")
            client.write_message(f'{{"id":{number},"{method}":{result}}}')
        if method == "subscribe":
            once, self.once = self.once, []
            for frame in once:
                client.write_message(frame)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """client.js, as it is served."""
    path: Path = tmp_path_factory.mktemp("js") / "client.mjs"
    path.write_bytes(client_js().plain)
    return path


@pytest.fixture(scope="module")
def sdk(module: Path) -> Iterator[Sdk]:
    with node_sdk(module) as made:
        yield made


@pytest.fixture
def liar(sdk: Sdk) -> Iterator[Liar]:
    server = Server("127.0.0.1", 0)
    liar = Liar()
    server.mount("/", liar)
    server.start()
    sdk.reset(f"ws://127.0.0.1:{server.port}/")
    yield liar
    sdk.reset("ws://127.0.0.1:1/")
    server.stop(drain=0)


#: The code of calls whose connection ended.
CLOSED = 11
FAST = {"minResubscribeDelay": 10, "maxResubscribeDelay": 50}


def subscribed(sdk: Sdk) -> tuple[SdkClient, SdkClient]:
    one = sdk.client().connect()
    return one, one.subscribe("room", options=FAST)


def assert_sound(sdk: Sdk, one: SdkClient, room: SdkClient) -> None:
    """It works, or comes back; and objects are as they were."""
    for attempt in range(2):
        for each in (one, room):
            if each.state in ("disconnected", "unsubscribed"):
                each.do("connect" if each is one else "subscribe", channel=each.channel)
            each.do("ready")
        try:
            assert one.call("rpc", "x", None) == {}
        except SdkError as error:  # what was strange has come meanwhile
            if attempt or error.args[0] != CLOSED:
                raise
    assert sdk.do("pollution") == []


def test_it_does_what_it_promises_alone(module: Path) -> None:
    version = subprocess.run([NODE, "--version"], capture_output=True, text=True)
    if tuple(map(int, re.findall(r"\d+", version.stdout))) < (20, 4):
        pytest.skip("needs Node 20.4 for a clock that the test moves")
    done = subprocess.run(
        [NODE, "--test", str(SCRIPTS / "client_test.mjs")],
        env={**os.environ, "CLIENT": str(module)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_published_again_with_its_key_comes_once(sdk: Sdk) -> None:
    world = World(sdk)
    try:
        one = sdk.client().connect()
        room = one.subscribe("room:1")
        for key in ("a", "b", "a"):
            one.call("publish", "room:1", key, {"key": key})
            room.call("publish", f"also {key}", {"key": f"also {key}"})
        room.call("publish", "last")
        shown = [each["data"] for each in room.wait_for("publication", 5)]
        assert shown == ["a", "also a", "b", "also b", "last"]
    finally:
        world.close()


@pytest.mark.parametrize(
    "frame",
    [
        "null",
        "5",
        '"x"',
        "[]",
        "{}",
        "<html>",
        "",
        "\n\n",
        '{"id":',
        b"\xff\x00",
        '{"error":{}}',
        '{"id":99999,"error":null}',
        '{"id":"x","rpc":{}}',
        '{"id":-1}',
        '{"push":null}',
        '{"push":5}',
        '{"push":{}}',
        '{"push":{"channel":5,"pub":{}}}',
        '{"push":{"channel":"room","pub":5}}',
        '{"push":{"channel":"room","pub":{"offset":"x","info":5,"tags":5}}}',
        '{"push":{"channel":"room","pub":{"offset":-1}}}',
        '{"push":{"channel":"room","pub":{"offset":1e300}}}',
        '{"push":{"channel":"room","join":{"info":null}}}',
        '{"push":{"channel":"room","leave":5}}',
        '{"push":{"channel":"room","unsubscribe":{}}}',
        '{"push":{"channel":"room","unsubscribe":{"code":"x","reason":5}}}',
        '{"push":{"channel":"room","unsubscribe":{"code":2000}}}',
        '{"push":{"channel":"room","unsubscribe":{"code":2500}}}',
        '{"push":{"channel":"nobody","unsubscribe":{"code":2500}}}',
        '{"push":{"channel":"new","subscribe":{"publications":5}}}',
        '{"push":{"channel":"new","subscribe":{"publications":[null,{"offset":1}]}}}',
        '{"push":{"channel":"new","subscribe":5}}',
        '{"push":{"message":5}}',
        '{"push":{"channel":"room","refresh":{},"connect":{},"tomorrow":{}}}',
        '{"push":{"disconnect":{}}}',
        '{"push":{"disconnect":{"code":"x"}}}',
        '{"push":{"disconnect":{"code":3000,"reason":"again"}}}',
        '{"push":{"refresh":{"expires":true,"ttl":-5}}}',
        '{"__proto__":{"id":1,"polluted":1},"push":{"__proto__":{"polluted":1}}}',
        '{"push":{"channel":"__proto__","pub":{"data":1}}}',
        '{"push":{"channel":"__proto__","subscribe":{"recoverable":true,"epoch":"e"}}}',
        '{"push":{"channel":"constructor","unsubscribe":{"code":0}}}',
        '{"push":{"channel":"toString","join":{"info":{"client":"x"}}}}',
        "[" * 200_000,
        '{"push":{"channel":"room","pub":{"data":'
        + "[" * 50_000
        + "]" * 50_000
        + "}}}",
    ],
    ids=lambda frame: repr(frame)[:60],
)
def test_strange_frames(liar: Liar, sdk: Sdk, frame: str | bytes) -> None:
    liar.once = [frame]
    assert_sound(sdk, *subscribed(sdk))


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("connect", "null"),
        ("connect", "5"),
        ("connect", '{"client":5,"ping":"x","pong":5,"subs":5,"data":null}'),
        ("connect", '{"subs":{"a":null}}'),
        ("connect", '{"subs":{"a":5,"__proto__":{"recoverable":true}}}'),
        ("connect", '{"ping":1e300,"expires":true,"ttl":1e300}'),
        ("connect", '{"ping":-1,"expires":true,"ttl":-1}'),
        ("subscribe", "null"),
        ("subscribe", '{"publications":5}'),
        ("subscribe", '{"publications":[5]}'),
        ("subscribe", '{"publications":[null]}'),
        ("subscribe", '{"offset":"x","epoch":5,"recoverable":5,"positioned":"x"}'),
        ("subscribe", '{"expires":true,"ttl":"x","publications":{"length":1e9}}'),
    ],
)
def test_strange_results_at_first(
    liar: Liar, sdk: Sdk, method: str, result: str
) -> None:
    liar.results[method] = result
    one = sdk.client(options={"maxReconnectDelay": 20})
    one.do("connect")
    one.wait_for("connecting" if "null" in result else "connected")
    one.subscribe("room", wait=False, options=FAST)
    liar.results.clear()
    assert_sound(sdk, one, sdk.of("one", "room"))


@pytest.mark.parametrize(
    ("method", "args", "result"),
    [
        ("history", [{"limit": 1}], '{"publications":{},"offset":-1}'),
        ("history", [{"limit": 1}], '{"publications":[null]}'),
        ("presence", [], '{"presence":5}'),
        ("presence", [], '{"presence":null}'),
        ("presence", [], '{"presence":{"__proto__":{"polluted":1},"x":null}}'),
        ("presenceStats", [], "5"),
    ],
)
def test_strange_results_of_calls_end_them(
    liar: Liar, sdk: Sdk, method: str, args: list[Any], result: str
) -> None:
    name = {"presenceStats": "presence_stats"}.get(method, method)
    one, room = subscribed(sdk)
    liar.results[name] = result
    with suppress(SdkError):
        room.call(method, *args)
    assert_sound(sdk, one, room)


@pytest.mark.parametrize(
    "error",
    [
        "5",
        "[]",
        '{"code":"x"}',
        '{"code":-1,"message":5}',
        '{"message":{"toString":1}}',
    ],
)
def test_strange_errors_reject_calls(liar: Liar, sdk: Sdk, error: str) -> None:
    one, room = subscribed(sdk)
    liar.errors["publish"] = error
    with pytest.raises(SdkError):
        room.call("publish", 1)
    assert_sound(sdk, one, room)


NAMES = ["__proto__", "constructor", "toString", "hasOwnProperty", "", "é\n\u2028"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_names_like_others(liar: Liar, sdk: Sdk, name: str) -> None:
    member = {"client": name, "user": name}
    liar.results["presence"] = json.dumps({"presence": {name: member}})
    one = sdk.client().connect()
    room = one.subscribe(name)
    publish = json.dumps({"push": {"channel": name, "pub": {"data": 1}}})
    liar.once = [publish]
    one.subscribe("room")
    assert room.wait_for("publication") == [{"channel": name, "data": 1}]
    assert room.call("presence") == {"clients": {name: member}}
    assert sorted(sdk.do("channels", name="one")) == sorted([name, "room"])
    room.do("remove")
    assert sdk.do("channels", name="one") == ["room"]
    assert sdk.do("pollution") == []


def test_names_of_subscriptions_by_the_server(liar: Liar, sdk: Sdk) -> None:
    sub = {"recoverable": True, "epoch": "e", "offset": 1}
    liar.results["connect"] = json.dumps({"subs": dict.fromkeys(NAMES, sub)})
    one = sdk.client().connect()
    told = [each["channel"] for each in one.wait_for("subscribed", len(NAMES))]
    assert sorted(told) == sorted(NAMES)
    one.do("disconnect")
    one.connect()
    claim = {"recover": True, "epoch": "e", "offset": 1}
    [_, again] = [each for each in liar.heard if "connect" in each]
    assert again["connect"]["subs"] == dict.fromkeys(NAMES, claim)
    assert sdk.do("pollution") == []


def test_floods_are_bounded(liar: Liar, sdk: Sdk) -> None:
    liar.results["connect"] = '{"ping":25,"pong":true}'
    push = '{"push":{"channel":"%d","subscribe":{}}}'
    liar.once = [
        "\n".join(["{}"] * 200_000),
        "\n".join(push % n for n in range(12_000)),
    ]
    one, room = subscribed(sdk)
    assert_sound(sdk, one, room)
    assert len(one.events("subscribed")) == 10_000
    # A pong is 3 characters; what is not yet taken is bounded, not what is read.
    assert 0 < liar.heard.count({}) < 200_000


def test_frames_have_a_size(liar: Liar, sdk: Sdk) -> None:
    text = "x" * (2**25 + 1)
    liar.once = [json.dumps({"push": {"message": {"data": text}}})]
    one, room = subscribed(sdk)
    told = one.wait_for("connecting", 2)[-1]
    assert told == {"code": 1, "reason": "bad frame"}
    assert one.events("message") == []
    assert_sound(sdk, one, room)


OWN_CODES = dict.fromkeys((1000, 1001, 1008, 1011), True) | {1009: False}
CODES = {3000: True, 3499: True, 3500: False, 3999: False}
CODES |= {code + 1000: back for code, back in CODES.items()}


@pytest.mark.parametrize(("code", "back"), (OWN_CODES | CODES).items())
def test_close_codes_say_whether_to_come_back(
    liar: Liar, sdk: Sdk, code: int, back: bool
) -> None:
    one, _ = subscribed(sdk)
    [client] = liar.clients
    client.close(code, "because")
    told = assert_told(one, back)
    if code >= 3000:
        assert told == {"code": code, "reason": "because"}


@pytest.mark.parametrize(("code", "back"), CODES.items())
def test_pushes_say_whether_to_come_back(
    liar: Liar, sdk: Sdk, code: int, back: bool
) -> None:
    one, _ = subscribed(sdk)
    [client] = liar.clients
    reason = {"code": code, "reason": "because"}
    client.write_message(json.dumps({"push": {"disconnect": reason}}))
    assert assert_told(one, back) == reason


def assert_told(one: SdkClient, back: bool) -> Any:
    """It comes back, or not; returns what it says about it."""
    if back:
        told = one.wait_for("connecting", 2)[-1]
        one.wait_for("connected", 2)
        return told
    [told] = one.wait_for("disconnected")
    assert one.state == "disconnected"
    return told


def test_listeners_that_throw_stop_nothing(liar: Liar, sdk: Sdk) -> None:
    one = sdk.client(throws=True)
    one.do("connect")
    room = one.subscribe("room", options=FAST, throws=True)
    push = '{"push":{"channel":"room","pub":{"data":1}}}'
    for client in liar.clients:
        client.write_message(push)
        client.write_message(push)
    room.wait_for("publication", 2)
    assert_sound(sdk, one, room)


def test_calls_that_wait_are_bounded(sdk: Sdk) -> None:
    sdk.reset("ws://127.0.0.1:1/")
    one = sdk.client()
    codes = sdk.do("calls", name="one", count=10_001)
    assert codes == [12]
    one.do("disconnect")


def test_arguments_are_checked(liar: Liar, sdk: Sdk) -> None:
    with pytest.raises(SdkError, match="Invalid URL"):
        sdk.client(url="not a url")
    one = sdk.client(url="http://127.0.0.1:1/x")
    one.do("subscribe", channel="room")
    with pytest.raises(SdkError, match="there is a subscription"):
        sdk.do("new_subscription", name="one", channel="room")
