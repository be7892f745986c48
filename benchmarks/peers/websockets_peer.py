"""websockets (its asyncio server), on uvloop or asyncio; ``--pure``: without its C."""

import asyncio
import sys

import common

if "--pure" in sys.argv:
    sys.modules["websockets.speedups"] = None

from websockets.asyncio.server import broadcast, serve
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

clients = set()


async def echo(client):
    async for message in client:
        await client.send(message)


async def send_to_all(client):
    clients.add(client)
    try:
        async for message in client:
            broadcast(clients, message)
    finally:
        clients.discard(client)


async def run(args):
    deflate = ServerPerMessageDeflateFactory(
        compress_settings={"level": common.LEVEL, "memLevel": common.MEM_LEVEL}
    )
    async with serve(
        echo if args.mode == "echo" else send_to_all,
        sock=common.listening_socket(args.port),
        compression=None,
        extensions=[deflate] if args.deflate else None,
        max_size=args.max_size,
        write_limit=common.WRITE_LIMIT,
        backlog=4096,
        ssl=common.tls_context(args),
    ) as server:
        common.ready(server.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    arguments = common.parse(pure={"action": "store_true"})
    common.run(run(arguments), arguments)
