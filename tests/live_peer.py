"""What the tests of `live` share: a client that sends commands and reads replies."""

from __future__ import annotations

import json
from typing import Any

from simple_ws.testing import TestServer

__all__ = ["LivePeer", "allow"]


def allow(client: Any, action: str, topic: str) -> bool:
    return True


class LivePeer:
    """A client of the protocol, without ports."""

    def __init__(self, kit: TestServer, path: str = "/live/websocket") -> None:
        self.kit = kit
        self.peer = kit.connect(path)
        self._number = 0
        self._waiting: list[dict[str, Any]] = []
        self._seen = 0

    @property
    def client(self) -> Any:
        """The server's side."""
        return self.peer.client

    def send(self, *commands: Any) -> None:
        """Send commands in one frame."""
        self.peer.send("\n".join(json.dumps(each) for each in commands))

    def take(self) -> list[dict[str, Any]]:
        """What has come."""
        taken, self._waiting = self._waiting, []
        frames = self.peer.messages[self._seen :]
        self._seen += len(frames)
        for frame in frames:
            assert isinstance(frame, str)
            taken += [json.loads(line) for line in frame.split("\n")]
        return taken

    def do(self, method: str, /, **params: Any) -> dict[str, Any]:
        """Send a command; return its reply, and leave the rest."""
        self._number += 1
        self.send({"id": self._number, method: params})
        replies = self.take()
        mine = [each for each in replies if each.get("id") == self._number]
        self._waiting = [each for each in replies if each.get("id") != self._number]
        assert len(mine) == 1, replies
        return mine[0]

    def ask(self, method: str, /, **params: Any) -> dict[str, Any]:
        """Send a command; return its result."""
        reply = self.do(method, **params)
        assert method in reply, reply
        result = reply[method]
        assert isinstance(result, dict)
        return result

    def fail(self, method: str, /, **params: Any) -> int:
        """Send a command; return the code of its error."""
        reply = self.do(method, **params)
        assert "error" in reply, reply
        code = reply["error"]["code"]
        assert isinstance(code, int)
        return code

    def connect(self, **params: Any) -> dict[str, Any]:
        """Send `connect`; return the result."""
        return self.ask("connect", **params)

    def pushes(self) -> list[dict[str, Any]]:
        """The pushes that have come; nothing else has."""
        taken = self.take()
        assert all("push" in each for each in taken), taken
        return [each["push"] for each in taken]

    def publications(self) -> list[Any]:
        """Data and offset of the publications that have come; nothing else has."""
        pubs = [each["pub"] for each in self.pushes()]
        return [(each["data"], each.get("offset", 0)) for each in pubs]
