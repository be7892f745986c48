"""Authentication: the first message must say who a client is.

Replaces example 3 of Pywss. Run it:

    python examples/pywss/example3.py [port] [--auth-timeout 15]

and paste this into the console of a browser (F12):

    ws = new WebSocket("ws://127.0.0.1:8866/test/example/3");
    ws.onmessage = (event) => console.log(JSON.parse(event.data));
    ws.onclose = (event) => console.log("closed", event.code, event.reason);
    ws.onopen = () => {
      ws.send(JSON.stringify({"name": "example3"}));  // goes to check()
      ws.send(JSON.stringify("Is anybody there?"));   // goes to example_3()
    };

A client that sends something else first, or nothing within the timeout, is closed with
1008.
"""

import argparse
from typing import Any

from simple_ws import (
    AuthenticationError,
    Client,
    FirstMessageAuth,
    JSONMessages,
    Server,
)

parser = argparse.ArgumentParser(description="Authentication by the first message.")
parser.add_argument("port", nargs="?", type=int, default=8866)
parser.add_argument("--auth-timeout", type=float, default=15, help="seconds for it")
args = parser.parse_args()

server = Server("127.0.0.1", args.port, auth_timeout=args.auth_timeout)


def check(msg: Any) -> str:
    """Return the sender of this first message; a real check would verify a password."""
    match msg:
        case {"name": name}:
            return str(name)
        case _:
            # The text goes to the log. The client only learns that it failed.
            raise AuthenticationError("the first message has no name")


@server.route("/test/example/3")
def example_3(msg: Any, client: Client) -> str:
    """Only clients that check() has accepted get here."""
    return f"{client.client_id} said: {msg}"


server.use(JSONMessages())  # check() gets what this has parsed
server.use(FirstMessageAuth(check))
server.listen()
print(f"Listening on ws://127.0.0.1:{server.port}/test/example/3", flush=True)
server.run()
