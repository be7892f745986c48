"""Receives ten messages, asks the server to close, and ends when it has.

Replaces client_async.py of the websockets tutorial; start server.py first.

    python examples/websockets_tutorial/client_async.py [url]
"""

import asyncio
import sys

from simple_ws.aio import connect

url = sys.argv[1] if len(sys.argv) > 1 else "ws://localhost:5000/nowtime"


async def hello() -> None:
    async with connect(url) as ws:
        count = 0
        async for message in ws:
            print(message, flush=True)
            count += 1
            if count == 10:
                await ws.send({"event": "close"})
                print("send close", flush=True)


asyncio.run(hello())
