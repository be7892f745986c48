"""The server in a background thread of an ordinary program.

    python examples/loops/thread.py [port]

The program reads lines from its input and sends them to all clients; it prints what
clients send. The end of the input (Ctrl-D), or Ctrl-C, ends it. In a browser (F12):

    ws = new WebSocket("ws://127.0.0.1:8080/");
    ws.onmessage = (event) => console.log(event.data);
    ws.onopen = () => ws.send("hello, terminal");
"""

import argparse
import sys

from simple_ws import Client, Server, WebSocket

parser = argparse.ArgumentParser(description="A server in a thread.")
parser.add_argument("port", nargs="?", type=int, default=8080)
args = parser.parse_args()


class Printer(WebSocket):
    """Its callbacks run in the server's thread."""

    def on_message(self, msg: str | bytes, client: Client) -> None:
        print(f"{client.address[0]}: {msg!r}", flush=True)


server = Server("127.0.0.1", args.port)
server.mount("/", Printer())
server.start()  # returns when the port is bound
print(f"Listening on ws://127.0.0.1:{server.port}/", flush=True)
try:
    for line in sys.stdin:
        server.broadcast(line.rstrip("\n"))  # from any thread
except KeyboardInterrupt:
    pass
finally:
    server.stop(drain=1)
