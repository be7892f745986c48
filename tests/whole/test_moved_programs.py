"""Programs of websockets that have moved here, as docs/migrating.md shows them.

Their clients are still those of websockets.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedOK

import simple_ws.server.life
from simple_ws import Server

PAGE = Path(__file__).parents[2] / "docs" / "migrating.md"
pytestmark = pytest.mark.skipif(
    not PAGE.exists(), reason="no checkout: the documentation is not here"
)


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the program of a server, and clients; the program ends by serving."""
    bind = simple_ws.server.life.bind

    def bind_anywhere(host: str, port: int, *rest: Any) -> Any:
        return bind("127.0.0.1", 0, *rest)

    monkeypatch.setattr(simple_ws.server.life, "bind", bind_anywhere)

    def run(name: str, drive: Any) -> dict[str, Any]:
        text = PAGE.read_text(encoding="utf-8")
        programs = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        (program,) = (each for each in programs if f"{name} = Server(" in each)
        names: dict[str, Any] = {}
        served: list[Coroutine[Any, Any, Any]] = []
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "run", served.append)
            exec(compile(program, str(PAGE), "exec"), names)
        served[0].close()
        asyncio.run(_drive(names[name], drive))
        return names

    return run


async def _drive(server: Server, drive: Any) -> None:
    server.attach()
    try:
        async with asyncio.timeout(DEADLINE):
            await drive(f"ws://127.0.0.1:{server.port}/")
    finally:
        server.stop(drain=0)


async def hear(client: ClientConnection, *wanted: dict[str, Any]) -> None:
    assert [json.loads(await client.recv()) for _ in wanted] == list(wanted)


async def say(client: ClientConnection, **event: Any) -> None:
    await client.send(json.dumps(event))


def test_counter(moved: Any) -> None:
    async def drive(url: str) -> None:
        async with connect(url) as ann:
            await hear(ann, {"users": 1}, {"value": 0})
            async with connect(url) as bob:
                await hear(ann, {"users": 2})
                await hear(bob, {"users": 2}, {"value": 0})
                await say(bob, action="plus")
                await say(bob, action="plus")
                await say(ann, action="minus")
                for client in (ann, bob):
                    values = [json.loads(await client.recv()) for _ in range(3)]
                    assert values[-1] == {"value": 1}
            await hear(ann, {"users": 1})

    assert moved("counting", drive)["value"] == 1


def test_game_in_phases(moved: Any) -> None:
    async def drive(url: str) -> None:
        async with connect(url) as ann, connect(url) as bob, connect(url) as lost:
            await say(lost, join="elsewhere")
            await hear(lost, {"error": "There is no such game."})
            with pytest.raises(ConnectionClosedOK):
                await lost.recv()
            await say(ann)
            key = json.loads(await ann.recv())["join"]
            await say(bob, join=key)
            await say(bob, take=1)
            await hear(bob, {"error": "You cannot do that."})
            for number in range(7):
                player = number % 2
                await say((ann, bob)[player], take=3)
                left = {"player": player, "sticks": 18 - 3 * number}
                await hear(ann, left)
                await hear(bob, left)
            await hear(ann, {"winner": 0})
            await hear(bob, {"winner": 0})
            with pytest.raises(ConnectionClosedOK):
                await ann.recv()

    assert moved("arena", drive)["games"] == {}
