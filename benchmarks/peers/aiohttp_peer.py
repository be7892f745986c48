"""aiohttp, on uvloop or asyncio."""

import asyncio

import common
from aiohttp import WSMsgType, web

clients = set()
args = common.parse()


async def send(client, message):
    if message.type is WSMsgType.TEXT:
        await client.send_str(message.data)
    else:
        await client.send_bytes(message.data)


async def handler(request):
    client = web.WebSocketResponse(
        max_msg_size=args.max_size, compress=bool(args.deflate)
    )
    await client.prepare(request)
    clients.add(client)
    try:
        async for message in client:
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                continue
            if args.mode == "echo":
                await send(client, message)
            else:
                for receiver in list(clients):
                    await send(receiver, message)
    finally:
        clients.discard(client)
    return client


async def run():
    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listener = common.listening_socket(args.port)
    context = common.tls_context(args)
    await web.SockSite(runner, listener, backlog=4096, ssl_context=context).start()
    common.ready(listener.getsockname()[1])
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    common.run(run(), args)
