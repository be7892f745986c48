"""simple_ws of this checkout; ``SIMPLE_WS_EXTENSION`` chooses the backend."""

import asyncio

import common

import simple_ws
from simple_ws import Server, WebSocket
from simple_ws.deflate import Deflate


class Echo(WebSocket):
    def on_message(self, msg, client):
        client.write_message(msg)


class AsyncEcho(WebSocket):
    async def on_message(self, msg, client):
        client.write_message(msg)


class WaitingEcho(WebSocket):
    async def on_message(self, msg, client):
        await asyncio.sleep(0)
        client.write_message(msg)


class Text(str):
    pass


class Data(bytes):
    pass


#: All documented ways to reply, by name; the message is bytes.
FORMS = {
    "binary": lambda msg, client: client.write_message(msg, binary=True),
    "positional": lambda msg, client: client.write_message(msg, True),
    "text": lambda msg, client: client.write_message(msg, binary=False),
    "send": lambda msg, client: client.send(msg),
    "return": lambda msg, client: msg,
    "bytearray": lambda msg, client: client.write_message(bytearray(msg)),
    "memoryview": lambda msg, client: client.write_message(memoryview(msg)),
    "str-subclass": lambda msg, client: client.write_message(Text("x" * 32)),
    "bytes-subclass": lambda msg, client: client.write_message(Data(msg)),
    "dict": lambda msg, client: client.write_message({"text": "x" * 21}),
}


#: How messages are received.
CALLBACKS = {"plain": Echo, "async": AsyncEcho, "wait": WaitingEcho}


class BroadcastLoop(WebSocket):
    def on_message(self, msg, client):
        for client in self.clients:
            client.write_message(msg)


class Broadcast(WebSocket):
    def on_message(self, msg, client):
        self.server.broadcast(msg)


def compression(args):
    """Off, the library's defaults, or the parameters all peers share."""
    if not args.deflate:
        return False
    if args.deflate_parameters == "default":
        return True
    return Deflate(
        server_max_window_bits=common.WINDOW,
        client_max_window_bits=common.WINDOW,
        level=common.LEVEL,
        mem_level=common.MEM_LEVEL,
        threshold=0,
    )


def main():
    args = common.parse(
        max_frame_size={"default": "8192", "help": "bytes, or none"},
        broadcast_form={"choices": ["server", "loop"], "default": "server"},
        form={"choices": FORMS, "help": "how to reply"},
        busy_poll={"type": float, "default": 0.0, "help": "seconds"},
        callback={"choices": CALLBACKS, "default": "plain", "help": "with --loop"},
        deflate_parameters={"choices": ["default", "equal"], "default": "equal"},
    )
    frame = None if args.max_frame_size == "none" else int(args.max_frame_size)
    handlers = {"server": Broadcast, "loop": BroadcastLoop}
    echo = CALLBACKS[args.callback]
    handler = echo() if args.mode == "echo" else handlers[args.broadcast_form]()
    if args.form:
        handler.on_message = FORMS[args.form]
    server = Server(
        "127.0.0.1",
        args.port,
        compression=compression(args),
        max_frame_size=frame,
        max_size=args.max_size,
        write_limit=common.WRITE_LIMIT,
        backlog=4096,
        busy_poll=args.busy_poll,
        certfile=args.tls,
    )
    server.mount("*", handler)
    server.listen()
    print("BACKEND", simple_ws.BACKEND)
    common.ready(server.port)
    if args.loop:
        common.run(server.serve_async(), args)
    else:
        server.run()


if __name__ == "__main__":
    main()
