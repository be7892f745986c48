"""picows, on uvloop or asyncio: text echoed as ``str``, binary as ``bytes``.

picows passes frames to its users. Every other peer (and every program that reads its
messages) builds the message object, so it is done here too; picows has no
permessage-deflate.
"""

import asyncio
import sys

import common
from picows import WSListener, WSMsgType, ws_create_server

TEXT, BINARY, CONTINUATION, CLOSE = (
    WSMsgType.TEXT,
    WSMsgType.BINARY,
    WSMsgType.CONTINUATION,
    WSMsgType.CLOSE,
)


class Echo(WSListener):
    fragments = None

    def on_ws_frame(self, transport, frame):
        kind = frame.msg_type
        if kind == BINARY and frame.fin:
            self.on_message(transport, BINARY, frame.get_payload_as_bytes())
        elif kind == TEXT and frame.fin:
            self.on_message(transport, TEXT, frame.get_payload_as_utf8_text())
        elif kind == CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif kind in (TEXT, BINARY, CONTINUATION):
            self.on_fragment(transport, kind, frame)

    def on_fragment(self, transport, kind, frame):
        if kind != CONTINUATION:
            self.kind, self.fragments = kind, []
        self.fragments.append(frame.get_payload_as_bytes())
        if frame.fin:
            message = b"".join(self.fragments)
            if self.kind == TEXT:
                message = message.decode()
            self.on_message(transport, self.kind, message)

    def on_message(self, transport, kind, message):
        transport.send(kind, message)


transports = set()
#: Those who asked for a path, by path.
topics = {}


class Broadcast(Echo):
    def on_ws_connected(self, transport):
        transports.add(transport)

    def on_ws_disconnected(self, transport):
        transports.discard(transport)

    def on_message(self, transport, kind, message):
        for receiver in transports:
            receiver.send(kind, message)


class Topic(Echo):
    """Sends to those who asked for the same path."""

    def __init__(self, request):
        self.members = topics.setdefault(request.path, set())

    def on_ws_connected(self, transport):
        self.members.add(transport)

    def on_ws_disconnected(self, transport):
        self.members.discard(transport)

    def on_message(self, transport, kind, message):
        for receiver in self.members:
            receiver.send(kind, message)


class FromThread(Broadcast):
    """A thread gives the message to the loop."""

    def __init__(self):
        self.publish = common.in_thread(self.from_thread)
        self.loop = asyncio.get_running_loop()

    def on_message(self, transport, kind, message):
        self.publish((transport, kind, message))

    def from_thread(self, arguments):
        self.loop.call_soon_threadsafe(super().on_message, *arguments)


LISTENERS = {
    "echo": Echo,
    "broadcast": Broadcast,
    "publish": Broadcast,
    "topics": Topic,
    "thread": FromThread,
}


async def serve(args):
    listener = LISTENERS[args.mode]
    server = await ws_create_server(
        listener if args.mode == "topics" else lambda request: listener(),
        "127.0.0.1",
        args.port,
        max_frame_size=args.max_size,
        backlog=4096,
        ssl=common.tls_context(args),
    )
    common.ready(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def main():
    args = common.parse()
    if args.deflate:
        sys.exit("UNSUPPORTED picows has no permessage-deflate")
    common.run(serve(args), args)


if __name__ == "__main__":
    main()
