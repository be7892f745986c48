"""Radio: a message to all clients on a timer, while at least one is connected.

Replaces example 2 of Pywss. Run it:

    python examples/pywss/example2.py [port] [--seconds 10]

and paste this into the console of a browser (F12):

    ws = new WebSocket("ws://127.0.0.1:8866/test/example/2");
    ws.onmessage = (event) => console.log(JSON.parse(event.data));
"""

import argparse

from simple_ws import Client, JSONMessages, Radio, Server

parser = argparse.ArgumentParser(description="Broadcasts on a timer.")
parser.add_argument("port", nargs="?", type=int, default=8866)
parser.add_argument("--seconds", type=float, default=10, help="between two broadcasts")
args = parser.parse_args()

server = Server("127.0.0.1", args.port)


def programme() -> str:
    """Called for each broadcast; returning None would skip it."""
    return "Hello, Welcome To Pywss-Radio"


@server.route("/test/example/2")
def example_2(msg: object, client: Client) -> None:
    """Nothing to do: these clients only listen."""


server.use(JSONMessages())  # text messages are JSON, in both directions
server.use(Radio(args.seconds, programme))
server.listen()
print(f"Listening on ws://127.0.0.1:{server.port}/test/example/2", flush=True)
server.run()
