"""Rooms by path: clients in /nowtime are sent the time every three seconds.

Replaces server.py of the websockets tutorial. Run it, and one of the clients:

    python examples/websockets_tutorial/server.py [port] [--seconds 3]
    python examples/websockets_tutorial/client_sync.py
    python examples/websockets_tutorial/client_async.py

A room has one timer for all its clients, and none while it is empty. To leave, a client
sends {"event": "close"}, or just disconnects.
"""

import argparse
from datetime import UTC, datetime
from typing import Any

from simple_ws import Client, JSONMessages, Server, WebSocket
from simple_ws.schedule import Job

ROOMS = ["/nowtime"]

parser = argparse.ArgumentParser(description="Tells the time to rooms.")
parser.add_argument("port", nargs="?", type=int, default=5000)
parser.add_argument("--seconds", type=float, default=3, help="between two times")
args = parser.parse_args()

server = Server("127.0.0.1", args.port)


def event(name: str, data: Any) -> dict[str, Any]:
    return {"status": 200, "event": name, "data": data}


def now() -> dict[str, Any]:
    time = datetime.now(UTC).replace(tzinfo=None)
    return event("nowtime", f"{time.isoformat()}Z")


class Room(WebSocket):
    """The room of one path, which is also the name of its topic."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.timer: Job | None = None

    def on_open(self, client: Client) -> None:
        client.subscribe(self.path)
        client.write_message(event("notification", "Welcom"))
        client.write_message(now())  # a newcomer gets the time at once
        if self.timer is None:
            print(f"{self.path}: somebody is here, the clock runs", flush=True)
            self.timer = server.every(args.seconds, self.send_time)

    def send_time(self) -> None:
        server.publish(self.path, now())

    def on_message(self, msg: Any, client: Client) -> None:
        match msg:
            case {"event": "close"}:
                client.write_message({"message": "bye"})
                client.close()
            case _:
                pass

    def on_close(self, client: Client) -> None:
        print(f"Leave Room {self.path}: {client.close_cause}", flush=True)
        if self.timer is not None and server.count(self.path) == 0:
            print(f"{self.path}: nobody is here, the clock stands", flush=True)
            self.timer.cancel()
            self.timer = None


class Unknown(WebSocket):
    """Every other path. Without it the server would refuse them with HTTP 404."""

    def on_open(self, client: Client) -> None:
        client.write_message(event("notification", "Unknown url"))
        client.close()


server.use(JSONMessages())
for path in ROOMS:
    server.mount(path, Room(path))
server.mount("*", Unknown())
server.listen()
print(f"Listening on ws://127.0.0.1:{server.port}{ROOMS[0]}", flush=True)
server.run()
