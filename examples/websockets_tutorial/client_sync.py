"""Receives ten messages, asks the server to close, and ends when it has.

Replaces client_sync.py of the websockets tutorial; start server.py first.

    python examples/websockets_tutorial/client_sync.py [url]
"""

import sys

from simple_ws import connect

url = sys.argv[1] if len(sys.argv) > 1 else "ws://localhost:5000/nowtime"

with connect(url) as ws:
    for count, message in enumerate(ws, 1):
        print(message, flush=True)
        if count == 10:
            ws.send({"event": "close"})
            print("send close", flush=True)
