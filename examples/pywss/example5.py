"""Point to point: named users, a list of who is online, and private messages.

Replaces example 5 of Pywss. Run it, then open the address it prints in two windows:

    python examples/pywss/example5.py [port] [--auth-timeout 15]

All messages are JSON. A client's first message says who it is, the others name their
receiver; one user can have several windows open, and sees everything in each:

    -> {"name": "Ann"}
    <- {"online": ["Ann", "Bob"]}                          whenever that changes
    -> {"to": "Bob", "text": "Hello!"}
    <- {"from": "Ann", "to": "Bob", "text": "Hello!"}      for Bob, and for Ann
    <- {"error": "Cid is not online"}
"""

import argparse
from pathlib import Path
from typing import Any

from simple_ws import (
    AuthenticationError,
    Client,
    FirstMessageAuth,
    JSONMessages,
    Server,
    WebSocket,
)

FOLDER = Path(__file__).resolve().parent

parser = argparse.ArgumentParser(description="A chat between two at a time.")
parser.add_argument("port", nargs="?", type=int, default=8866)
parser.add_argument("--auth-timeout", type=float, default=15, help="seconds for a name")
args = parser.parse_args()

server = Server("127.0.0.1", args.port, auth_timeout=args.auth_timeout)


def check(msg: Any) -> str:
    """Return the name in a first message; a real check would verify a password."""
    match msg:
        case {"name": str(name)} if 0 < len(name.strip()) <= 40:
            return name.strip()
        case _:
            raise AuthenticationError("the first message has no good name")


class Entrance(FirstMessageAuth):
    """Tells all clients when somebody has joined."""

    def on_first_message(self, msg: Any, client: Client) -> Any:
        stop = super().on_first_message(msg, client)  # calls check() and client.bind()
        client.subscribe("everybody")
        tell_who_is_online()
        return stop


class Chat(WebSocket):
    def on_message(self, msg: Any, client: Client) -> Any:
        match msg:
            case {"to": str(to), "text": str(text)}:
                return self.pass_on(client.client_id, to, text)
            case _:
                return {"error": "a message needs a 'to' and a 'text'"}

    def pass_on(self, sender: str, to: str, text: str) -> dict[str, str] | None:
        message = {"from": sender, "to": to, "text": text}
        if not server.send_to(to, message):  # to how many connections
            return {"error": f"{to} is not online"}
        if to != sender:
            server.send_to(sender, message)
        return None

    def on_close(self, client: Client) -> None:
        # Identity and subscriptions have ended before this is called.
        tell_who_is_online()


def tell_who_is_online() -> None:
    # The whole list each time: for dozens of users. docs/howto/chat.md, for hundreds,
    # sends only who joined or left.
    server.publish("everybody", {"online": sorted(server.online())})


server.use(JSONMessages())
server.use(Entrance(check))
server.mount("/test/example/5", Chat(max_size=16 * 1024))
server.static("/", FOLDER / "pages")
server.static("/common", FOLDER.parent / "common")
server.every(15, lambda: server.broadcast(""))  # pages see that the network is alive
server.listen()
print(f"Open http://127.0.0.1:{server.port}/chat.html in a browser", flush=True)
server.run()
