"""python-socketio on uvicorn: clients join a room and publish, each by an event."""

import gc

import common
import socketio
import uvicorn

options = common.parse()
# As simple_ws in this comparison: no heartbeats while it is measured.
sio = socketio.AsyncServer(
    async_mode="asgi", transports=["websocket"], ping_interval=600, ping_timeout=60
)
engine = socketio.ASGIApp(sio)


@sio.event
async def join(sid):
    await sio.enter_room(sid, "room")


@sio.event
async def say(sid, message):
    await sio.emit("m", message, room="room")


async def app(scope, receive, send):
    """Memory is measured after a request for /collect."""
    if scope["type"] == "http" and scope["path"] == "/collect":
        gc.collect()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"0"})
    else:
        await engine(scope, receive, send)


listener = common.listening_socket(options.port)
config = uvicorn.Config(
    app, log_level="warning", ws_per_message_deflate=False, ws_ping_interval=None
)
common.ready(listener.getsockname()[1])
uvicorn.Server(config).run(sockets=[listener])
