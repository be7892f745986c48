"""simple_ws 0.3.1, the predecessor of this library (in a separate environment).

It was written for Python 3.6: the ``loop`` argument that it passes to asyncio was
removed in 3.10 and is dropped here; nothing else is changed.
"""

import asyncio

import common

asyncio.set_event_loop(asyncio.new_event_loop())
start_server = asyncio.start_server


async def start_and_tell(client_connected_cb, host, port, loop=None):
    server = await start_server(client_connected_cb, host, port, backlog=4096)
    common.ready(server.sockets[0].getsockname()[1])
    return server


asyncio.start_server = start_and_tell

from simple_ws import WebSocket  # noqa: E402  (it takes its loop at import)


class Echo(WebSocket):
    def on_message(self, msg, client):
        client.write_message(msg, binary=not isinstance(msg, str))


class Broadcast(WebSocket):
    def on_message(self, msg, client):
        for receiver in self.clients:
            if receiver.is_open():
                receiver.write_message(msg, binary=not isinstance(msg, str))


if __name__ == "__main__":
    args = common.parse()
    handler = Echo if args.mode == "echo" else Broadcast
    handler("127.0.0.1", args.port, compression=bool(args.deflate))
