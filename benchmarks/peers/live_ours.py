"""simple_ws: SDK clients at /live, and raw clients at /ws, of one topic each."""

import gc
import json

import common

from simple_ws import Server, WebSocket

options = common.parse()


class Raw(WebSocket):
    """A client is subscribed by its first message; what it says then is published."""

    ping = False

    def on_message(self, msg, client):
        if msg == "join":
            client.subscribe("raw")
            client.send("joined")
        else:
            self.server.publish("raw", msg)


server = Server("127.0.0.1", options.port, compression=False)
server.topic("kept", history=100)
server.mount("/ws", Raw())
server.live(
    "/live",
    authorize=lambda client, action, topic: True,
    heartbeat=600,
    heartbeat_timeout=60,
    ping=False,
    command_rate=None,
)


@server.http("/collect")
def collect(request):
    """Memory is measured after this."""
    gc.collect()
    return json.dumps(len(server.clients))


server.listen()
common.ready(server.port)
server.run()
