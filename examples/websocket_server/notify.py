"""Event sources: /notify sends events, /listen receives them, by priority.

Replaces event_server.py, notify.html and listen.html of python-websocket-server. Run
it, then open both addresses it prints:

    python examples/websocket_server/notify.py [port]

A client on /notify is an event source and is sent its number. A client on /listen sends
two numbers, that of a source and a priority. Each event goes to one listener only: the
one with the highest priority (the latest among equals), or the next one if that has
left.
"""

import argparse
from pathlib import Path
from typing import Any

from simple_ws import Client, Server, WebSocket

FOLDER = Path(__file__).resolve().parent

parser = argparse.ArgumentParser(description="Event sources and listeners.")
parser.add_argument("port", nargs="?", type=int, default=9001)
args = parser.parse_args()

server = Server("127.0.0.1", args.port)


def topic_of(source: Any) -> str:
    """The topic whose subscribers listen to a source."""
    return f"source {source}"


class Notify(WebSocket):
    def on_open(self, client: Client) -> None:
        client.write_message(f"this is the event source {client.id}")

    def on_message(self, msg: str, client: Client) -> str:
        event = f"Source {client.id}: {msg}"
        listener = server.deliver(topic_of(client.id), event)
        if listener is None:
            return "nobody listens"
        return f"listener {listener.id} has it"

    def on_close(self, client: Client) -> None:
        topic = topic_of(client.id)
        for listener in server.members(topic):
            listener.write_message(f"event source {client.id} has left")
            listener.unsubscribe(topic)


class Listen(WebSocket):
    def on_message(self, msg: str, client: Client) -> str:
        try:
            source, priority = map(int, msg.split())
        except ValueError:
            return "send two numbers: an event source and a priority"
        if source not in {client.id for client in notify.clients}:
            return f"{source} not available"
        client.subscribe(topic_of(source), priority)
        return f"listening to events from {source} with priority {priority}"


notify = server.mount("/notify", Notify())
server.mount("/listen", Listen())
server.static("/", FOLDER / "pages")
server.static("/common", FOLDER.parent / "common")
server.every(15, lambda: server.broadcast(""))  # pages see that the network is alive
server.listen()
print(f"Open http://127.0.0.1:{server.port}/notify.html in a browser", flush=True)
print(f"and  http://127.0.0.1:{server.port}/listen.html in another window", flush=True)
server.run()
