"""Echo client for the Autobahn test suite: plays each case of a fuzzing server.

Usage: client.py {blocking,asyncio} ws://127.0.0.1:<port> <agent>

It prints ``backend=<name>`` first. Limits are raised above the largest message of the
suite (16 MiB, cases 9.1.6 and 9.2.6); everything else has its default.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import simple_ws
from simple_ws import ConnectionClosed, aio

_MIB = 1024 * 1024
_OPTIONS: dict[str, Any] = {
    "max_size": 32 * _MIB,
    # No heartbeat in the middle of a case that waits on purpose.
    "ping_interval": None,
    "compression": True,
    "proxy": None,
}


def play(url: str, agent: str) -> None:
    """Play all cases with the blocking client."""
    with simple_ws.connect(f"{url}/getCaseCount", **_OPTIONS) as ws:
        count = int(ws.recv())
    for case in range(1, count + 1):
        with simple_ws.connect(_case(url, agent, case), **_OPTIONS) as ws:
            try:
                for message in ws:
                    ws.send(message)
            except ConnectionClosed:
                pass  # the suite judges how
    with simple_ws.connect(f"{url}/updateReports?agent={agent}", **_OPTIONS) as ws:
        list(ws)


async def play_async(url: str, agent: str) -> None:
    """Play all cases with the asyncio client."""
    async with aio.connect(f"{url}/getCaseCount", **_OPTIONS) as ws:
        count = int(await ws.recv())
    for case in range(1, count + 1):
        async with aio.connect(_case(url, agent, case), **_OPTIONS) as ws:
            try:
                async for message in ws:
                    await ws.send(message)
            except ConnectionClosed:
                pass
    async with aio.connect(f"{url}/updateReports?agent={agent}", **_OPTIONS) as ws:
        async for _ in ws:
            pass


def _case(url: str, agent: str, case: int) -> str:
    return f"{url}/runCase?case={case}&agent={agent}"


def main() -> None:
    """Play until the cases are over."""
    face, url, agent = sys.argv[1:]
    print(f"backend={simple_ws.BACKEND}", flush=True)
    if face == "asyncio":
        asyncio.run(play_async(url, agent))
    else:
        play(url, agent)


if __name__ == "__main__":
    main()
