"""The clients that `clients.py` compares, one per process.

Each connects to an echo server on this machine, keeps a number of messages in flight
for some seconds, compares every echo, and prints a line of JSON. Each is written as its
documentation shows; compression is off, and so are heartbeats where possible.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

WARMUP = 0.3  # seconds


class Clock:
    """Says when a client may stop, and counts what it did in the measured time."""

    def __init__(self, seconds: float) -> None:
        self._begin = time.perf_counter() + WARMUP
        self._end = self._begin + seconds
        self._counted_from: tuple[float, float] | None = None
        self.messages = 0

    def goes_on(self, done: int) -> bool:
        """Note that so many messages came back; whether there is time for more."""
        now = time.perf_counter()
        if self._counted_from is None:
            if now >= self._begin:
                self._counted_from = now, time.process_time()
            return True
        self.messages += done
        if now < self._end:
            return True
        began, cpu = self._counted_from
        self.rate = self.messages / (now - began)
        self.cpu_us = (time.process_time() - cpu) / self.messages * 1e6
        return False


def drive(
    send: Callable[[bytes], object],
    recv: Callable[[], bytes],
    message: bytes,
    inflight: int,
    clock: Clock,
) -> None:
    """Keep a blocking client busy."""
    more = True
    while more:
        for _ in range(inflight):
            send(message)
        for _ in range(inflight):
            assert recv() == message
        more = clock.goes_on(inflight)


async def drive_async(
    send: Callable[[bytes], Awaitable[object]],
    recv: Callable[[], Awaitable[bytes]],
    message: bytes,
    inflight: int,
    clock: Clock,
) -> None:
    """The same for asyncio."""
    more = True
    while more:
        for _ in range(inflight):
            await send(message)
        for _ in range(inflight):
            assert await recv() == message
        more = clock.goes_on(inflight)


# ---- blocking ------------------------------------------------------------------------


def run_simple_ws(url: str, *rest: Any) -> None:
    import simple_ws

    with simple_ws.connect(url, compression=False, ping_interval=None) as ws:
        drive(ws.send, ws.recv, *rest)


def run_websockets(url: str, *rest: Any) -> None:
    from websockets.sync.client import connect

    with connect(url, compression=None, ping_interval=None) as ws:
        drive(ws.send, ws.recv, *rest)


def run_websocket_client(url: str, *rest: Any) -> None:
    import websocket

    ws = websocket.create_connection(url)
    drive(ws.send_binary, ws.recv, *rest)
    ws.close()


# ---- asyncio -------------------------------------------------------------------------


async def run_simple_ws_async(url: str, *rest: Any) -> None:
    from simple_ws.aio import connect

    async with connect(url, compression=False, ping_interval=None) as ws:
        await drive_async(ws.send, ws.recv, *rest)


async def run_websockets_async(url: str, *rest: Any) -> None:
    from websockets.asyncio.client import connect

    async with connect(url, compression=None, ping_interval=None) as ws:
        await drive_async(ws.send, ws.recv, *rest)


async def run_aiohttp_async(url: str, *rest: Any) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.ws_connect(url) as ws:
        await drive_async(ws.send_bytes, ws.receive_bytes, *rest)


BLOCKING = {
    "simple_ws": run_simple_ws,
    "websockets": run_websockets,
    "websocket-client": run_websocket_client,
}
ASYNC = {
    "simple_ws": run_simple_ws_async,
    "websockets": run_websockets_async,
    "aiohttp": run_aiohttp_async,
}


def main() -> None:
    kind, name, port, size, inflight, seconds = sys.argv[1:]
    rest = (os.urandom(int(size)), int(inflight), clock := Clock(float(seconds)))
    url = f"ws://127.0.0.1:{port}/"
    if kind == "blocking":
        BLOCKING[name](url, *rest)
    else:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(ASYNC[name](url, *rest))
    print(json.dumps({"rate": clock.rate, "cpu_us": clock.cpu_us}))


if __name__ == "__main__":
    main()
