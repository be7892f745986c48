"""/headers: a message names a header of the opening handshake, the reply is its value.

Replaces client_hdr.html of python-websocket-server. Run it, then open the address it
prints and ask for `User-Agent`, `Cookie` or `Origin`:

    python examples/websocket_server/headers.py [port]
"""

import argparse
from pathlib import Path

from simple_ws import Client, Server

FOLDER = Path(__file__).resolve().parent

parser = argparse.ArgumentParser(description="Tells clients what headers they sent.")
parser.add_argument("port", nargs="?", type=int, default=9001)
args = parser.parse_args()

server = Server("127.0.0.1", args.port)


@server.route("/headers")
def headers(msg: str, client: Client) -> str:
    # Header names are case-insensitive; a header may have several values.
    values = client.headers.get_all(msg)
    return ", ".join(values) if values else f"There is no header {msg!r}"


server.static("/", FOLDER / "pages")
server.static("/common", FOLDER.parent / "common")
server.every(15, lambda: server.broadcast(""))  # pages see that the network is alive
server.listen()
print(f"Open http://127.0.0.1:{server.port}/headers.html in a browser", flush=True)
server.run()
