"""`ResponseReader`: an HTTP response as a client reads it (RFC 9112), with an excerpt.

What the response means is left to `client_handshake` and `proxy_tunnel`. Requests are
read by `http11`.
"""

from __future__ import annotations

import re
from http import HTTPStatus

from ..constants import MAX_HEAD_SIZE, MAX_HEADER_COUNT
from ..errors import HandshakeError
from .fields import Headers
from .grammar import find_head_end, head_pattern, split_fields
from .http_body import ChunkedBody

__all__ = ["MAX_BODY", "ResponseReader"]

#: RFC 9112 §4 and §5: no line folding, no bare CR or LF; the reason may be missing.
_HEAD = head_pattern(
    rb"HTTP/([0-9])\.([0-9]) ([1-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?"
)
_BARE_LF = "a line of its answer ends without CR LF"

#: Bytes kept of a refusal's body: enough for a sentence or an error document.
MAX_BODY = 1024


class ResponseReader:
    """Parses an HTTP response at any byte boundary: its head, and some of its body.

    Args:
        tunnel: it is the response to a CONNECT; if successful, it has no body.

    Attributes:
        begun: whether any byte was received.
        status: 0 until the head is complete.
        version: (1, 1) for HTTP/1.1.
        headers: the header fields.
        body: its first bytes, at most `MAX_BODY`.
        rest: the bytes after a head without a body.
        complete: whether no more of the body is needed.
    """

    def __init__(self, *, tunnel: bool = False) -> None:
        self.begun = False
        self.status = 0
        self.version = (0, 0)
        self.headers = Headers()
        self.body = b""
        self.rest = b""
        self.complete = False
        self._tunnel = tunnel
        self._buffer = bytearray()
        self._seen = 0  # bytes of the buffer already searched for the end of a head
        self._chunks = ChunkedBody(2**64)  # unlimited: only an excerpt is kept
        self._size = 0  # bytes of heads so far, including interim responses

    def feed(self, data: bytes) -> None:
        """Process bytes.

        Raises:
            HandshakeError: Not an HTTP/1.1 response, or it exceeds a limit.
        """
        self.begun = True
        self._buffer += data
        while not self.status and (end := self._find_end()) >= 0:
            self._read_head(bytes(self._buffer[:end]))
            self._size += end
            del self._buffer[:end]
        if self.status:
            self._read_body()

    def feed_eof(self) -> None:
        """The peer has closed the connection: the body ends here."""
        self.complete = True

    def describe(self) -> str:
        """Status, reason phrase, and the first line of a text body."""
        try:
            phrase = f" {HTTPStatus(self.status).phrase}"
        except ValueError:
            phrase = ""
        kind = self.headers.get("Content-Type", "text/plain")
        text = self.body.decode("utf-8", "replace").strip()
        line = text.partition("\n")[0].strip()[:200].strip()
        shown = kind.startswith("text/plain") and line.isprintable() and line
        return f"{self.status}{phrase}" + (f" ({line})" if shown else "")

    def _find_end(self) -> int:
        """Where the head ends, or -1 while it is incomplete."""
        buffer = self._buffer
        start = bytes(buffer[:5])
        if start != b"HTTP/"[: len(start)]:
            hint = ", but TLS: try wss://" if start.startswith(b"\x15\x03") else ""
            raise HandshakeError(400, f"it does not speak HTTP{hint}")
        room = MAX_HEAD_SIZE - self._size
        end = find_head_end(buffer, self._seen, room, _BARE_LF)
        if end < 0 and len(buffer) >= room:
            limit = f"{MAX_HEAD_SIZE:,} bytes"
            raise HandshakeError(400, f"the head of its answer exceeds {limit}")
        self._seen = len(buffer) if end < 0 else 0  # the next head starts over
        return end

    def _read_head(self, head: bytes) -> None:
        match = _HEAD.fullmatch(head)
        if match is None:
            raise HandshakeError(400, "the head of its answer is malformed")
        major, minor, status, fields = match.groups()
        if fields.count(b"\r\n") > MAX_HEADER_COUNT:
            limit = f"{MAX_HEADER_COUNT} header lines"
            raise HandshakeError(400, f"its answer has more than {limit}")
        # RFC 9110 §15.2: "A client MUST be able to parse one or more 1xx responses
        # received prior to a final response, even if the client does not expect one."
        if int(status) >= 200 or int(status) == 101:
            self.status = int(status)
            self.version = (int(major), int(minor))
            self.headers = Headers(split_fields(fields))

    def _read_body(self) -> None:
        if self.status == 101 or (self._tunnel and 200 <= self.status < 300):
            self.rest += self._buffer
            self._buffer.clear()
            self.complete = True
        elif self.status in (204, 304):
            self.complete = True
        elif "chunked" in self.headers.tokens("Transfer-Encoding"):
            self._read_chunks()
        else:
            length = self.headers.get("Content-Length", "")
            wanted = min(int(length), MAX_BODY) if _is_length(length) else MAX_BODY
            self.body = bytes(self._buffer[:wanted])
            self.complete = len(self.body) == wanted
            self._keep(MAX_BODY)

    def _read_chunks(self) -> None:
        """Malformed chunks end the body, because it is only shown to people."""
        data = bytes(self._buffer)
        self._buffer.clear()
        try:
            self.complete = self._chunks.feed(data)
        except HandshakeError:
            self.complete = True
        self.body = self._chunks.collected[:MAX_BODY]
        if len(self.body) == MAX_BODY:
            self.complete = True

    def _keep(self, limit: int) -> None:
        """Stop when the excerpt is complete."""
        if len(self._buffer) > limit:
            self.complete = True


def _is_length(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,18}", text) is not None
