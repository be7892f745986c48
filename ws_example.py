"""A shared drawing board: run this file and open the address it prints.

The class ``WSHandler`` has all the WebSocket code. Its page, index.html, is served on
the same port, or with ``python -m http.server 8000`` in a second window.
"""

import argparse
import secrets
import sys
from collections import deque
from pathlib import Path

from simple_ws import Client, Request, Response, Server, WebSocket

STROKE, CLEAR = '{"type":"stroke",', '{"type":"clear"}'  # as index.html writes them


class WSHandler(WebSocket):
    board = secrets.token_hex(4)  # so that pages notice when a new drawing was started
    strokes: deque[str] = deque(maxlen=1000)  # the drawing so far, for newcomers

    def on_open(self, client: Client) -> None:
        print("Client connected!")
        drawing = {"board": self.board, "strokes": list(self.strokes)}
        client.write_message({"type": "welcome", **drawing})
        self.count_people()

    def on_message(self, msg: str | bytes, client: Client) -> None:
        if msg == CLEAR:
            self.strokes.clear()
        elif isinstance(msg, str) and msg.startswith(STROKE):
            self.strokes.append(msg)
        self.send_to_all(msg)

    def on_close(self, client: Client) -> None:
        print("Client left...")
        self.count_people()

    def on_ping(self, client: Client) -> None:
        print("Ping...")

    def on_pong(self, client: Client) -> None:
        print("... pong!")

    def count_people(self) -> None:
        count = sum(client.is_open() for client in self.clients)
        self.send_to_all({"type": "people", "count": count})

    def send_to_all(self, msg: object) -> None:
        for client in self.clients:
            if client.is_open():
                client.write_message(msg)


def page(request: Request) -> Response:
    """Serve the page, and no other file of this folder."""
    text = Path(__file__).with_name("index.html").read_text(encoding="utf-8")
    return Response(200, text, {"Content-Type": "text/html; charset=utf-8"})


def main() -> None:
    parser = argparse.ArgumentParser(description="A shared drawing board.")
    parser.add_argument("--host", default="", help="where to listen (everywhere)")
    parser.add_argument("--port", type=int, default=8080, help="on which port (8080)")
    args = parser.parse_args()

    # A stroke is at most 8 KiB; a newcomer gets the whole drawing in one message.
    handler = WSHandler(max_size=8192, write_limit=16 * 1024 * 1024)
    try:
        server = Server(args.host, args.port)
        server.mount("*", handler)
        server.http("/")(page)
        server.http("/index.html")(page)
        server.listen()
    except (OSError, OverflowError, ValueError) as error:
        sys.exit(str(error))

    name = "localhost" if args.host in ("", "0.0.0.0", "::") else args.host
    name = f"[{name}]" if ":" in name else name
    print(f"Open http://{name}:{server.port} in a browser", flush=True)
    server.run()


if __name__ == "__main__":
    main()
