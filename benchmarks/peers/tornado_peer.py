"""tornado on its default event loop (asyncio)."""

import asyncio
import logging

import common
from tornado.httpserver import HTTPServer
from tornado.web import Application
from tornado.websocket import WebSocketHandler

args = common.parse()
clients = set()


class Echo(WebSocketHandler):
    def check_origin(self, origin):
        return True

    def get_compression_options(self):
        if not args.deflate:
            return None
        return {"compression_level": common.LEVEL, "mem_level": common.MEM_LEVEL}

    def on_message(self, message):
        self.write_message(message, binary=isinstance(message, bytes))


class Broadcast(Echo):
    def open(self):
        clients.add(self)

    def on_close(self):
        clients.discard(self)

    def on_message(self, message):
        binary = isinstance(message, bytes)
        for client in clients:
            client.write_message(message, binary=binary)


async def run():
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    app = Application(
        [("/", Echo if args.mode == "echo" else Broadcast)],
        websocket_max_message_size=args.max_size,
    )
    listener = common.listening_socket(args.port)
    HTTPServer(app).add_sockets([listener])
    common.ready(listener.getsockname()[1])
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(run())
