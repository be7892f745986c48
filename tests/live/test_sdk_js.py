"""The unmodified npm package `centrifuge`, in Node, against `Server.live`."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from live_peer import allow
from node_js import NODE, SCRIPTS, needs_node

from simple_ws import Server
from simple_ws.live import Connected

pytestmark = needs_node


def prepare(server: Server) -> None:
    server.topic("room:*", history=1000, presence=True)

    def on_connect(client: Any, request: Any) -> Connected:
        return Connected(data={"you": request.data})

    live = server.live("/live", authorize=allow, on_connect=on_connect, max_topics=1000)

    @live.method
    def add(client: Any, data: Any) -> Any:
        return data[0] + data[1]

    @live.method
    def cut(client: Any, data: Any) -> None:
        for each in live.clients:
            if f"{each.id}@{server.cluster.id}" == data:
                each.terminate()

    @live.method
    def gap(client: Any, data: Any) -> None:
        live.on_gap("room:1", None)


def drive(port: int, transport: str) -> list[Any]:
    done = subprocess.run(
        [NODE, str(SCRIPTS / "sdk.mjs"), str(port), transport],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("transport", ["websocket", "http_stream", "sse"])
def test_all_that_an_application_does(transport: str) -> None:
    server = Server("127.0.0.1", 0, presence_grace=0)
    prepare(server)
    server.start()
    try:
        said = drive(server.port or 0, transport)
    finally:
        server.stop(drain=0)
    assert said == [
        ["connected", {"you": {"who": "ann"}}],
        ["publication", [{"text": "hello"}, 1]],
        ["rpc", 3],
        ["error", 104],
        ["history", [{"text": "hello"}]],
        ["joined", True],
        ["presence", 1],
        ["stats", 1],
        ["many", 500],
        ["loops", "connected"],
        ["missed", 300],
        ["recovered", True],
        ["recovered", True],
        ["again", True],
    ]
