"""/reverse: text comes back reversed, with dots between the characters.

Replaces client_rev.html and class revBhv of python-websocket-server. Shows a class for
each connection (`client_class`) and two kinds of origin validator. Run it, then open
the address it prints:

    python examples/websocket_server/reverse.py [port]
"""

import argparse
from pathlib import Path
from typing import Any

from simple_ws import Client, Request, Response, Server, WebSocket

FOLDER = Path(__file__).resolve().parent

parser = argparse.ArgumentParser(description="Reverses what it gets.")
parser.add_argument("port", nargs="?", type=int, default=9001)
args = parser.parse_args()

server = Server("127.0.0.1", args.port)


class Reverser(Client):
    """One object for each connection, with its state."""

    said = 0

    def reverse(self, text: str) -> str:
        self.said += 1
        return ".".join(text[::-1])


class Reverse(WebSocket[Reverser]):
    """One object for all connections of its path."""

    def on_open(self, client: Reverser) -> None:
        print(f"Connection ({client.id}) open", flush=True)

    def on_message(self, msg: str | bytes, client: Reverser) -> str | None:
        if isinstance(msg, bytes):
            client.close(1003, "only text can be reversed here")
            return None
        return client.reverse(msg)

    def on_close(self, client: Reverser) -> None:
        print(f"Connection ({client.id}) closed after {client.said} texts", flush=True)


class AskedReverse(Reverse):
    """The validator as code: it sees the whole request."""

    def on_request(self, request: Request) -> Response | None:
        print(f"The origin is: {request.origin!r}", flush=True)
        if not self.origin_validator(request.origin):
            return Response(403, "Pages from there may not connect.\n")
        return None  # accept

    def origin_validator(self, origin: Any) -> Any:
        return origin is None or origin.startswith("http://127.0.0.1:")


# The validator as data: pages of this server, and programs, which send no Origin.
server.mount("/reverse", Reverse(origins=["same", None]))
server.mount("/reverse/asked", AskedReverse())
server.static("/", FOLDER / "pages")
server.static("/common", FOLDER.parent / "common")
server.every(15, lambda: server.broadcast(""))  # pages see that the network is alive
server.listen()
print(f"Open http://127.0.0.1:{server.port}/reverse.html in a browser", flush=True)
server.run()
