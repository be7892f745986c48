"""Echo with a suffix: a function on a path, whose return value is sent back.

Replaces example 1 of Pywss. Run it:

    python examples/pywss/example1.py [port]

and paste this into the console of a browser (F12):

    ws = new WebSocket("ws://127.0.0.1:8866/test/example/1");
    ws.onmessage = (event) => console.log(JSON.parse(event.data));
    ws.onopen = () => ws.send("hello, pywss!");
"""

import argparse
import json
from typing import Any

from simple_ws import Client, Middleware, Server

parser = argparse.ArgumentParser(description="Echo with a suffix.")
parser.add_argument("port", nargs="?", type=int, default=8866)
args = parser.parse_args()

server = Server("127.0.0.1", args.port)


class JSONAnswers(Middleware):
    """Encodes outgoing messages as JSON: clients of Pywss read them with JSON.parse.

    Without it text is sent as it is.
    """

    def on_send(self, msg: str, client: Client) -> Any:
        return json.dumps(msg)


@server.route("/test/example/1")
def example_1(msg: str, client: Client) -> str:
    return f"{msg} - data from pywss"


server.use(JSONAnswers())
server.listen()
print(f"Listening on ws://127.0.0.1:{server.port}/test/example/1", flush=True)
server.run()
