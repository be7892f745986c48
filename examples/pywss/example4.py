"""Data preprocessing: middleware changes messages before the handler sees them.

Replaces example 4 of Pywss. Run it:

    python examples/pywss/example4.py [port]

and paste this into the console of a browser (F12):

    ws = new WebSocket("ws://127.0.0.1:8866/test/example/4");
    ws.onmessage = (event) => console.log(JSON.parse(event.data));
    ws.onopen = () => ws.send(JSON.stringify({"name": "  example4 "}));
"""

import argparse
from typing import Any

from simple_ws import Client, JSONMessages, Middleware, Server

parser = argparse.ArgumentParser(description="Middleware that prepares messages.")
parser.add_argument("port", nargs="?", type=int, default=8866)
args = parser.parse_args()

server = Server("127.0.0.1", args.port)


class Tidy(Middleware):
    """Accepts only objects, and strips spaces around their texts."""

    def on_message(self, msg: Any, client: Client) -> Any:
        match msg:
            case {**fields}:
                return {
                    name: value.strip() if isinstance(value, str) else value
                    for name, value in fields.items()
                }
            case _:
                client.write_message({"error": "an object is needed"})
                return self.STOP  # the handler is not called


@server.route("/test/example/4")
def example_4(msg: Any, client: Client) -> dict[str, Any]:
    print(msg.__class__, flush=True)
    return {"type": type(msg).__name__, "data": msg}


# In the order for incoming messages: text becomes an object, which is then cleaned up.
# Outgoing messages pass in reverse order; only JSONMessages changes them.
server.use(JSONMessages())
server.use(Tidy())
server.listen()
print(f"Listening on ws://127.0.0.1:{server.port}/test/example/4", flush=True)
server.run()
