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


class OwnedEcho(WebSocket):
    async def on_connect(self, client):
        async for msg in client:
            await client.send(msg)


class Text(str):
    pass


class Data(bytes):
    pass


def reply(msg, client):
    client.write_message(msg)


#: All documented ways to reply, by name.
FORMS = {
    "function": reply,
    "lambda": lambda msg, client: client.write_message(msg),
    "binary": lambda msg, client: client.write_message(msg, binary=True),
    "positional": lambda msg, client: client.write_message(msg, True),
    "text": lambda msg, client: client.write_message(msg, binary=False),
    "text-positional": lambda msg, client: client.write_message(msg, False),
    "send": lambda msg, client: client.send(msg),
    "send-binary": lambda msg, client: client.send(msg, binary=True),
    "return": lambda msg, client: msg,
    "return-bytearray": lambda msg, client: bytearray(msg),
    "bytearray": lambda msg, client: client.write_message(bytearray(msg)),
    "memoryview": lambda msg, client: client.write_message(memoryview(msg)),
    "str-subclass": lambda msg, client: client.write_message(Text(msg)),
    "bytes-subclass": lambda msg, client: client.write_message(Data(msg)),
    "dict": lambda msg, client: client.write_message({"text": "x" * 21}),
    "return-dict": lambda msg, client: {"text": "x" * 21},
}


class Alone(WebSocket):
    """Each client is the only subscriber of a topic of its own."""

    def on_open(self, client):
        client.topic = str(client.id)
        client.subscribe(client.topic)


class Publishing(Alone):
    def on_message(self, msg, client):
        self.server.publish(client.topic, msg)


class PublishingAsAnother(Alone):
    """A client publishes to all but itself: the one that came before or after."""

    last = None

    def on_open(self, client):
        super().on_open(client)
        client.other = self.last
        if self.last is not None:
            self.last.other = client
        self.last = client

    def on_message(self, msg, client):
        client.other.publish(client.topic, msg)


class SendingTo(WebSocket):
    def on_open(self, client):
        client.bind(client.id)

    def on_message(self, msg, client):
        self.server.send_to(client.id, msg)


#: What sends to several, to one.
HANDLERS = {
    "publish": Publishing,
    "client-publish": PublishingAsAnother,
    "send-to": SendingTo,
}


#: How messages are received.
CALLBACKS = {"plain": Echo, "async": AsyncEcho, "wait": WaitingEcho, "owned": OwnedEcho}


class BroadcastLoop(WebSocket):
    def on_message(self, msg, client):
        for client in self.clients:
            client.write_message(msg)


class Broadcast(WebSocket):
    def on_message(self, msg, client):
        self.server.broadcast(msg)


class Publish(WebSocket):
    def on_open(self, client):
        client.subscribe("all")

    def on_message(self, msg, client):
        self.server.publish("all", msg)


class Topics(WebSocket):
    """The path is the topic."""

    def on_open(self, client):
        client.topic = client.path
        client.subscribe(client.topic)

    def on_message(self, msg, client):
        self.server.publish(client.topic, msg)


class FromThread(Publish):
    def __init__(self):
        super().__init__()
        self.publish = common.in_thread(lambda msg: self.server.publish("all", msg))

    def on_message(self, msg, client):
        self.publish(msg)


#: What is not echoed.
TO_MANY = {
    "broadcast": Broadcast,
    "publish": Publish,
    "topics": Topics,
    "thread": FromThread,
}


def handler_of(args):
    """What serves all paths, as the arguments say."""
    if args.form in HANDLERS:
        return HANDLERS[args.form]()
    if args.mode == "echo":
        handler = CALLBACKS[args.callback]()
    elif args.broadcast_form == "loop":
        handler = BroadcastLoop()
    else:
        handler = TO_MANY[args.mode]()
    if args.form in FORMS:
        handler.on_message = FORMS[args.form]
    return handler


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
        form={"choices": [*FORMS, *HANDLERS, "route"], "help": "how to reply"},
        busy_poll={"type": float, "default": 0.0, "help": "seconds"},
        callback={"choices": CALLBACKS, "default": "plain", "help": "with --loop"},
        deflate_parameters={"choices": ["default", "equal"], "default": "equal"},
    )
    frame = None if args.max_frame_size == "none" else int(args.max_frame_size)
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
    if args.form == "route":
        server.route("*")(reply)
    else:
        server.mount("*", handler_of(args))
    server.listen()
    print("BACKEND", simple_ws.BACKEND)
    common.ready(server.port)
    if args.loop:
        common.run(server.serve_async(), args)
    else:
        server.run()


if __name__ == "__main__":
    main()
