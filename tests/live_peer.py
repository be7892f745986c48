"""What the tests of `live` share: a client that sends commands and reads replies."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from simple_ws.testing import TestServer

__all__ = ["LivePeer", "StreamPeer", "allow"]


def allow(client: Any, action: str, topic: str) -> bool:
    return True


class LivePeer:
    """A client of the protocol, without ports."""

    def __init__(
        self, kit: TestServer, path: str = "/live/websocket", **options: Any
    ) -> None:
        self.kit = kit
        self.peer = kit.connect(path, **options)
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


class StreamPeer(LivePeer):
    """A client without WebSockets: its commands are requests.

    Args:
        kit: of the server.
        form: "sse" or "http_stream".
        below: the path of `live`.
        lines: of the head of its request.
    """

    def __init__(
        self,
        kit: TestServer,
        form: str,
        *,
        below: str = "/live",
        lines: tuple[str, ...] = (),
        version: str = "1.1",
    ) -> None:
        self.kit, self.form, self._below = kit, form, below
        self._lines, self._version = ("Host: testserver", *lines), version
        self._number = 0
        self._waiting = []
        self.sock, self._upgrade = kit._join()
        self._data = b""
        self.head = ""
        self.ended = False
        self.session = self.node = ""

    @property
    def client(self) -> Any:
        client = self._upgrade.client
        assert client is not None, "the stream has not begun"
        return client

    def open(self, frame: str) -> None:
        """Ask for the stream with a first frame."""
        if self.form == "sse":
            self.ask_for("GET", f"{self._below}/sse?cf_connect={quote(frame)}")
        else:
            self.ask_for("POST", f"{self._below}/http_stream", frame.encode())

    def ask_for(self, method: str, target: str, body: bytes = b"") -> None:
        """Send a request whose answer may be a stream."""
        lines = self._lines
        if body:
            lines = (*lines, f"Content-Length: {len(body)}")
        head = "\r\n".join([f"{method} {target} HTTP/{self._version}", *lines, "", ""])
        self.kit._exchange(self.sock, head.encode() + body)

    def connect(self, **params: Any) -> dict[str, Any]:
        self._number += 1
        self.open(json.dumps({"id": self._number, "connect": params}))
        (reply,) = self.take()
        result = reply["connect"]
        assert isinstance(result, dict), reply
        self.session, self.node = result["session"], result["node"]
        return result

    def post(self, frame: str, **other: Any) -> int:
        """Send a frame; return the status of the answer."""
        given = {"session": self.session, "node": self.node, "data": frame, **other}
        body = json.dumps(given).encode()
        return self.kit.request("POST", f"{self._below}/emulation", body=body).status

    def send(self, *commands: Any) -> None:
        assert self.post("\n".join(json.dumps(each) for each in commands)) == 204

    def read(self) -> bytes:
        """What has come of the body."""
        self.kit.settle()
        with suppress(BlockingIOError):
            while data := self.sock.recv(65536):
                self._data += data
                self.kit.settle()
            self.ended = True
        if not self.head:
            head, separator, self._data = self._data.partition(b"\r\n\r\n")
            assert separator, head
            self.head = head.decode()
        body, self._data = self._data, b""
        return body

    @property
    def status(self) -> int:
        """Of the response."""
        return int(self.head.split(" ")[1])

    def take(self) -> list[dict[str, Any]]:
        taken, self._waiting = self._waiting, []
        for line in self.read().decode().split("\n"):
            text = line.removeprefix("data: ") if self.form == "sse" else line
            if text and not text.startswith(":"):
                taken.append(json.loads(text))
        return taken

    def leave(self) -> None:
        """Close the connection."""
        self.sock.close()
        self.kit.settle()
