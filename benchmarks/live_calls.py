"""What commands of SDK clients cost, in one process and without sockets; for `live.py`.

A frame with one command is given to the handler as the loop gives it, and the reply
lies in the outbox after it, with the publication if there is one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from simple_ws import Server
from simple_ws.testing import TestServer

__all__ = ["Calls"]

#: Calls in a row, and how often; no client may have more topics than this.
BATCH, BATCHES = 100, 50
DATA = {"text": "x" * 100, "number": 7}


class Calls:
    """Measures each command."""

    def __init__(self) -> None:
        self._server = Server("", 0)
        self._server.topic("kept*", history=100)
        self._live = self._server.live(
            "/live", authorize=lambda client, action, topic: True, command_rate=None
        )

    def measure(self) -> dict[str, float]:
        """CPU time of a call in microseconds, by name."""
        with TestServer(self._server) as kit:
            self._client = kit.connect("/live/websocket").client
            self._give('{"id":1,"connect":{}}')
            found = {}
            for name, topic in (("", "plain"), (", with history", "kept")):
                found[f"subscribe{name}"] = self._subscribe(topic)
                found[f"publish to one{name}"] = self._publish(topic)
            found["ping"] = self._time('{"id":2,"ping":{}}')
        publish = json.dumps({"id": 2, "publish": {"channel": "plain", "data": DATA}})
        found["JSON of publish, both ways"] = _mean(
            lambda: json.dumps(json.loads(publish)["publish"]["data"])
        )
        return found

    def _give(self, frame: str) -> None:
        self._live.on_message(frame, self._client)

    def _subscribe(self, topic: str) -> float:
        """To many topics; leaving them is not counted."""
        ask = '{{"id":2,"subscribe":{{"channel":"{}","recoverable":true}}}}'
        leave = '{{"id":2,"unsubscribe":{{"channel":"{}"}}}}'
        names = [f"{topic}{number}" for number in range(BATCH)]
        spent = 0.0
        for _ in range(BATCHES):
            begun = time.process_time()
            for name in names:
                self._give(ask.format(name))
            spent += time.process_time() - begun
            for name in names:
                self._give(leave.format(name))
            self._empty()
        return spent / BATCH / BATCHES * 1e6

    def _publish(self, topic: str) -> float:
        """To a topic that the client is in itself."""
        self._give(json.dumps({"id": 2, "subscribe": {"channel": topic}}))
        publish = {"id": 2, "publish": {"channel": topic, "data": DATA}}
        return self._time(json.dumps(publish))

    def _time(self, frame: str) -> float:
        spent = 0.0
        for _ in range(BATCHES):
            spent += _mean(lambda: self._give(frame))
            self._empty()
        return spent / BATCHES

    def _empty(self) -> None:
        client: Any = self._client
        client._drop_oldest(client.buffered_amount)


def _mean(call: Callable[[], object]) -> float:
    begun = time.process_time()
    for _ in range(BATCH):
        call()
    return (time.process_time() - begun) / BATCH * 1e6


if __name__ == "__main__":
    for name, microseconds in Calls().measure().items():
        print(f"{name:40} {microseconds:6.2f}")
