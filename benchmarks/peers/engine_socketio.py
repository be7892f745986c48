"""python-socketio with its Redis manager, on aiohttp and uvloop."""

import common
import engine_common
import socketio
import uvloop
from aiohttp import web


def receive(url):
    uvloop.run(serve(url))


async def serve(url):
    manager = socketio.AsyncRedisManager(url)
    server = socketio.AsyncServer(async_mode="aiohttp", client_manager=manager)

    @server.event
    async def connect(sid, environ):
        await server.enter_room(sid, engine_common.TOPIC)

    app = web.Application()
    server.attach(app)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listener = common.listening_socket(0)
    await web.SockSite(runner, listener).start()
    common.ready(listener.getsockname()[1])
    while True:
        await server.sleep(3600)


async def publish(url, rate, seconds):
    manager = socketio.AsyncRedisManager(url, write_only=True)

    async def send(message):
        await manager.emit("m", message, room=engine_common.TOPIC)

    await engine_common.pace(send, rate, seconds)


if __name__ == "__main__":
    engine_common.main(receive, publish)
