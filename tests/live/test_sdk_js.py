"""The unmodified npm package `centrifuge`, in Node, against `Server.live`."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from live_peer import allow

from simple_ws import Server
from simple_ws.live import Connected

ROOT = Path(__file__).resolve().parents[2]
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(
    NODE is None or not (ROOT / "node_modules" / "centrifuge").is_dir(),
    reason="needs Node, and: npm install --no-save centrifuge ws",
)


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


def drive(port: int) -> list[Any]:
    assert NODE is not None
    script = Path(__file__).with_name("sdk.mjs")
    done = subprocess.run(
        [NODE, str(script), str(port)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_all_that_an_application_does() -> None:
    server = Server("127.0.0.1", 0, presence_grace=0)
    prepare(server)
    server.start()
    try:
        said = drive(server.port or 0)
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
