"""SDKs under faults: what was published is shown once and in order, or the SDK is told.

`centrifuge-python`, unmodified. The longer form is `make chaos ARGS="--live …"`.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE
from live_peer import allow
from nodes import Nodes
from redis_server import redis_server
from sdk_events import Events, leave

from simple_ws import Server

centrifuge = pytest.importorskip(
    "centrifuge", reason="centrifuge-python is not installed"
)

pytestmark = pytest.mark.one_backend

CHAOS = Path(__file__).parents[1] / "chaos" / "run.py"
FAULTS = "restart,worker-kill,freeze,clients-cut,redis-kill"


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="no /proc")
def test_two_nodes_of_two_workers_over_redis(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on this system")
    command = [sys.executable, str(CHAOS), "--live", "--history", "20000"]
    command += ["--servers", "2", "--clients", "2", "--rate", "60", "--freeze", "1"]
    command += ["--count", "5", "--every", "0.5", "--faults", FAULTS]
    command += ["--keep", str(tmp_path / "chaos")]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=55
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"1 {name}" in done.stdout for name in FAULTS.split(","))


@pytest.mark.parametrize(("missed", "kept"), [(10_000, 10_000), (101, 100)])
def test_client_that_was_offline_gets_all_or_is_told(missed: int, kept: int) -> None:
    """It comes back to another node, which has nothing of the topic yet."""

    def prepare(server: Server) -> None:
        server.topic("room", history=kept)
        server.live("/live", authorize=allow)

    with ExitStack() as stack:
        engine = stack.enter_context(redis_server())
        nodes = Nodes(stack, engine, 2, prepare=prepare)
        asyncio.run(_go_offline(nodes, missed, missed <= kept))


async def _go_offline(nodes: Nodes, count: int, whole: bool) -> None:
    events, told = Events(), Events()
    client = centrifuge.Client(_address(nodes, 0), events=events)
    sub = client.new_subscription("room", events=told, recoverable=True)
    await sub.subscribe()
    await client.connect()
    await told.until("subscribed")
    await sub.publish("first")
    await told.until("publication")
    await client.disconnect()
    for number in range(count):
        nodes.servers[0].publish("room", {"n": number})
    history = nodes.servers[0].history("room", limit=1)
    await asyncio.to_thread(history.result)
    client._address = _address(nodes, 1)
    await client.connect()
    await told.until("subscribed", 2)
    assert told.of("subscribed")[-1].was_recovering
    assert told.of("subscribed")[-1].recovered is whole
    nodes.servers[0].publish("room", "last")
    async with asyncio.timeout(DEADLINE):
        while told.data[-1] != "last":
            await told.until("publication", len(told.data) + 1)
    missed: list[Any] = [{"n": number} for number in range(count)] if whole else []
    assert told.data == ["first", *missed, "last"]
    await leave(client)


def _address(nodes: Nodes, number: int) -> str:
    return f"ws://127.0.0.1:{nodes.servers[number].port}/live/websocket"
