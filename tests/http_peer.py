"""A peer that speaks HTTP; h11 checks the responses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import h11
from harness import Driven, Peer

Piece = bytes | str


class Answered(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def ask(method: str, target: str, *lines: str, version: str = "1.1") -> bytes:
    """The head of a request."""
    host = ["Host: example.com"] if version == "1.1" else []
    head = [f"{method} {target} HTTP/{version}", *host, *lines]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n"


def chunked(pieces: Iterable[bytes]) -> bytes:
    """A body in chunks."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return chunks + b"0\r\n\r\n"


class HttpPeer:
    """A connection that asks for pages, one after the other.

    What h11 does not understand as the answer to just that request fails the test.
    """

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._rest = b""

    def get(self, target: str, *lines: str) -> Answered:
        return self.fetch("GET", target, *lines)

    def fetch(
        self, method: str, target: str, *lines: str, body: bytes = b""
    ) -> Answered:
        if body:
            lines = (*lines, f"Content-Length: {len(body)}")
        self.peer.write(ask(method, target, *lines) + body)
        return self.read(method)

    def read(self, method: str = "GET") -> Answered:
        """The answer to a request that was sent; interim ones are passed over."""
        judge = h11.Connection(h11.CLIENT)
        judge.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
        judge.send(h11.EndOfMessage())
        head, body = None, b""
        judge.receive_data(self._rest) if self._rest else None
        while True:
            event = judge.next_event()
            if event is h11.NEED_DATA:
                judge.receive_data(self.peer._receive())
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
        assert head is not None
        self._rest = judge.trailing_data[0]
        headers: dict[str, str] = {}
        for name, value in head.headers:
            lines = [headers[name.decode()]] if name.decode() in headers else []
            headers[name.decode()] = ", ".join([*lines, value.decode()])
        return Answered(head.status_code, headers, body)

    def is_closed(self) -> bool:
        """Wait for the end of the connection; nothing may come before it."""
        return self.peer.read_rest() == b"" and not self._rest


def browse(driven: Driven) -> HttpPeer:
    """A new connection."""
    return HttpPeer(driven.join())


def get(driven: Driven, target: str, *lines: str) -> Answered:
    """One page by a connection of its own."""
    return browse(driven).get(target, *lines)
