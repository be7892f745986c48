"""Three callbacks as plain functions; messages to one client and to all.

Replaces examples/server.py and client.html of python-websocket-server. Run it, then
open the address it prints in two windows:

    python examples/websocket_server/server.py [port]

A message goes to all clients; `@3 hello` goes only to client 3.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from simple_ws import Client, Server, WebSocket

FOLDER = Path(__file__).resolve().parent

parser = argparse.ArgumentParser(description="Callbacks as plain functions.")
parser.add_argument("port", nargs="?", type=int, default=9001)
args = parser.parse_args()

server = Server("127.0.0.1", args.port)


def new_client(client: Client) -> None:
    print(f"New client connected and was given id {client.id}", flush=True)
    client.write_message(f"You are client {client.id}")
    server.broadcast("Hey all, a new client has joined us")


def client_left(client: Client) -> None:
    print(f"Client({client.id}) disconnected: {client.close_cause}", flush=True)
    server.broadcast(f"Client {client.id} has left us")


def message_received(msg: str, client: Client) -> Any:
    print(f"Client({client.id}) from {client.origin} said: {msg[:200]!r}", flush=True)
    private = re.fullmatch(r"@(\d+) (.+)", str(msg), re.DOTALL)
    if private is None:
        server.broadcast(f"Client {client.id}: {msg}")
        return None
    for other in server.clients:
        if str(other.id) == private[1]:
            other.write_message(f"Client {client.id}, to you alone: {private[2]}")
            return f"To client {other.id} alone: {private[2]}"
    return f"There is no client {private[1]}"  # the return value is sent back


# A handler is an object: its callbacks are set one by one, or written as methods of a
# subclass of WebSocket.
handler = WebSocket()
# In the place of methods, which mypy allows to nobody.
handler.on_open = new_client  # type: ignore[method-assign]
handler.on_close = client_left  # type: ignore[method-assign]
handler.on_message = message_received  # type: ignore[method-assign]

server.mount("*", handler)  # on every path
server.static("/", FOLDER / "pages")
server.static("/common", FOLDER.parent / "common")
server.every(15, lambda: server.broadcast(""))  # pages see that the network is alive
server.listen()
print(f"Open http://127.0.0.1:{server.port}/client.html in a browser", flush=True)
server.run()
