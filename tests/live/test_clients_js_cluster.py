"""JavaScript clients of two nodes of two workers over Redis; processes are killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from node_js import needs_node
from programs import WORKERS, Program
from proxy import Proxy
from redis_server import redis_server
from sdk_driver import Sdk, SdkClient, node_sdk

from simple_ws.live.script import client_js

pytestmark = [needs_node, pytest.mark.one_backend]

BODY = """
server.topic("room", history=20000)
live = server.live("/live", authorize=lambda client, action, topic: True)

@live.method
def pid(client, data):
    return os.getpid()

@live.method
def fill(client, numbers):
    for number in range(*numbers):
        server.publish("room", {"n": number})
"""
RECOVERABLE = {"recoverable": True, "minResubscribeDelay": 10}


class Node:
    """One of two, which comes back to its port, behind a proxy."""

    def __init__(self, stack: ExitStack, engine: str) -> None:
        self._stack, self._engine = stack, engine
        self.port = 0
        self.start()
        self.proxy = stack.enter_context(Proxy(self.port))
        self.url = self.proxy.url.replace("redis:", "ws:") + "/live/websocket"

    def start(self) -> None:
        options = f'"127.0.0.1", {self.port}, workers=2, engine="{self._engine}"'
        program = Program(WORKERS.format(options=options, body=BODY))
        self.program = self._stack.enter_context(program)
        self.port = int(self.program.wait_for(r"^port (\d+)")[1])

    def restart(self) -> None:
        """Stop as for an update: clients are told to come back."""
        self.program.process.send_signal(signal.SIGTERM)
        self.program.wait_for("returned")
        self.start()


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    with ExitStack() as stack:
        engine = stack.enter_context(redis_server())
        yield [Node(stack, engine.url) for _ in range(2)]


@pytest.fixture(params=["centrifuge", "client.js"])
def sdk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sdk]:
    module: str | Path = request.param
    if module == "client.js":
        module = tmp_path / "client.mjs"
        module.write_bytes(client_js().plain)
    with node_sdk(module) as made:
        made.reset("ws://127.0.0.1:1/")
        yield made


def enter(sdk: Sdk, name: str, node: Node) -> SdkClient:
    return sdk.client(name, url=node.url).connect()


def data_of(room: SdkClient) -> list[Any]:
    return [each["data"] for each in room.events("publication")]


def test_what_is_acknowledged_is_shown_once_and_in_order(
    nodes: list[Node], sdk: Sdk
) -> None:
    ann, bob = (enter(sdk, *each) for each in zip(("ann", "bob"), nodes, strict=True))
    rooms = [each.subscribe("room", options=RECOVERABLE) for each in (ann, bob)]
    sdk.do("publish_steadily", name="bob", channel="room")
    rooms[0].wait_for("publication", 10)
    nodes[0].proxy.cut()
    ann.wait_for("connected", 2)
    os.kill(ann.call("rpc", "pid", None)["data"], signal.SIGKILL)
    ann.wait_for("connected", 3)
    nodes[0].restart()
    ann.wait_for("connected", 4)
    codes = [each["code"] for each in ann.events("connecting")]
    assert codes[3] == 3001
    os.kill(bob.call("rpc", "pid", None)["data"], signal.SIGKILL)
    bob.wait_for("connected", 2)
    seen = len(rooms[0].events("publication"))
    rooms[0].wait_for("publication", seen + 10)
    acknowledged = sdk.do("stop")
    bob.call("publish", "room", "last")
    for room in rooms:
        assert all(each["recovered"] for each in room.events("subscribed")[1:])
        shown = data_of(room)
        while shown[-1] != "last":
            room.wait_for("publication", len(shown) + 1)
            shown = data_of(room)
        assert len(set(shown)) == len(shown)
        assert [each for each in shown if each in acknowledged] == acknowledged
        offsets = [each["offset"] for each in room.events("publication")]
        assert offsets == list(range(offsets[0], offsets[0] + len(offsets)))


def test_ten_thousand_messages_while_offline(nodes: list[Node], sdk: Sdk) -> None:
    ann, bob = (enter(sdk, *each) for each in zip(("ann", "bob"), nodes, strict=True))
    room = ann.subscribe("room", options=RECOVERABLE)
    ann.do("disconnect")
    for first in range(0, 10_000, 1000):
        bob.call("rpc", "fill", [first, first + 999])
        bob.call("publish", "room", {"n": first + 999})  # stored after the others
    ann.connect()
    room.wait_for("publication", 10_000)
    assert [each["n"] for each in data_of(room)] == list(range(10_000))
    assert room.events("subscribed")[-1]["recovered"]
