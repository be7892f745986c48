"""A shared drawing board: run this file and open the address it prints.

All that WebSocket needs is the class ``WSHandler``. The rest serves index.html, which
``python -m http.server 8000`` in a second window does just as well.
"""

import argparse
import secrets
import socket
import sys
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from simple_ws import Server, WebSocket

STROKE, CLEAR = '{"type":"stroke",', '{"type":"clear"}'  # as index.html writes them


class WSHandler(WebSocket):
    board = secrets.token_hex(4)  # so that pages notice when another drawing began
    strokes = deque(maxlen=1000)  # the drawing, for those who come later

    def on_open(self, client):
        print("Client connected!")
        drawing = {"board": self.board, "strokes": list(self.strokes)}
        client.write_message({"type": "welcome", **drawing})
        self.count_people()

    def on_message(self, msg, target_client):
        if msg == CLEAR:
            self.strokes.clear()
        elif isinstance(msg, str) and msg.startswith(STROKE):
            self.strokes.append(msg)
        self.send_to_all(msg)

    def on_close(self, client):
        print("Client left...")
        self.count_people()

    def on_ping(self, client):
        print("Ping...")

    def on_pong(self, client):
        print("... pong!")

    def count_people(self):
        count = sum(client.is_open() for client in self.clients)
        self.send_to_all({"type": "people", "count": count})

    def send_to_all(self, msg):
        for client in self.clients:
            if client.is_open():
                client.write_message(msg)


class PageHandler(BaseHTTPRequestHandler):
    """Answers with the page, and with nothing else of this folder."""

    def do_GET(self):
        if self.path.partition("?")[0] not in ("/", "/index.html"):
            self.send_error(404)
            return
        page = Path(__file__).with_name("index.html").read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *args):
        """Keep quiet."""


def serve_page(host, port):
    """Serve the page in the background, unless somebody else does; return the port."""
    try:
        socket.create_connection((host or "localhost", port), timeout=1).close()
    except OSError:  # nobody answers there, so the port is ours
        if ":" in host:
            ThreadingHTTPServer.address_family = socket.AF_INET6
        server = ThreadingHTTPServer((host, port), PageHandler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_port
    print(f"Something else serves port {port}: going on with the WebSocket alone.")
    return port


def main():
    parser = argparse.ArgumentParser(description="A shared drawing board.")
    parser.add_argument("--host", default="", help="where to listen (everywhere)")
    parser.add_argument("--port", type=int, default=8080, help="WebSocket (8080)")
    parser.add_argument("--page-port", type=int, default=8000, help="the page (8000)")
    args = parser.parse_args()

    # A stroke is 8 KiB at most; the whole drawing goes to a newcomer in one piece.
    handler = WSHandler(max_size=8192, write_limit=16 * 1024 * 1024)
    try:
        server = Server(args.host, args.port)
        server.mount("*", handler)
        server.listen()
        page_port = serve_page(args.host, args.page_port)
    except (OSError, OverflowError, ValueError) as error:
        sys.exit(str(error))

    name = "localhost" if args.host in ("", "0.0.0.0", "::") else args.host
    name = f"[{name}]" if ":" in name else name
    query = "" if server.port == 8080 else f"/?ws={server.port}"
    print(f"Open http://{name}:{page_port}{query} in a browser", flush=True)
    server.run()


if __name__ == "__main__":
    main()
