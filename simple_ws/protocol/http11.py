"""HTTP/1.1: the heads of requests, and the rules for all of them (RFC 9112).

`RequestReader` collects the bytes of one head within its limits. What users get of it
is in `request`, the rules for hosts in `host`, responses in `response`. Where bodies
end is left to `http_body`, the rules of an upgrade to `server_handshake`, sockets and
timeouts to the server.
"""

from __future__ import annotations

import re

from ..constants import MAX_HEAD_SIZE, MAX_HEADER_COUNT, TOKEN
from ..errors import ONE_HOST, HandshakeError
from .fields import Headers
from .grammar import ABSOLUTE_FORM, find_head_end, head_pattern, is_field_line
from .host import check_host
from .request import Request

__all__ = [
    "RequestReader",
    "check_request",
    "check_single_origin",
    "check_version",
    "expects_continue",
    "stays_open",
    "wants_upgrade",
]

_TOKEN = TOKEN.encode()
#: RFC 9112 §2.1 and §5: no space before the colon, no line folding, no bare CR or LF.
_HEAD = head_pattern(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_REQUEST_LINE = re.compile(_TOKEN + rb" [\x21-\x7e]+ HTTP/[0-9]\.[0-9]")
_METHOD_START = re.compile(_TOKEN)
_BARE_LF = "A line of the request ends without CR LF."


class RequestReader:
    """Collects one request head, at any byte boundary.

    Args:
        max_size: bytes of the whole head.
        max_count: header lines.

    `rest` holds the bytes after the head.
    """

    def __init__(
        self, max_size: int = MAX_HEAD_SIZE, max_count: int = MAX_HEADER_COUNT
    ) -> None:
        self.rest = b""
        self._max_size = max_size
        self._max_count = max_count
        self._buffer = bytearray()
        self._seen = 0

    @property
    def empty(self) -> bool:
        """Whether no byte has been received yet."""
        return not self._buffer

    @property
    def buffered_input(self) -> int:
        """Bytes kept."""
        return len(self._buffer)

    def feed(self, data: bytes) -> Request | None:
        """Process bytes; return the request when its head is complete.

        Raises:
            HandshakeError: 400 malformed, 414 or 431 beyond a limit.
        """
        buffer = self._buffer
        if not buffer:
            # RFC 9112 §2.2: a server "SHOULD ignore at least one empty line (CRLF)".
            data = data.lstrip(b"\r\n")
        buffer += data
        end = self._find_end()
        if end < 0 and len(buffer) > self._max_size:
            raise self._too_large()
        if end < 0:
            return None
        self.rest = bytes(buffer[end:])
        return self._parse(bytes(buffer[:end]))

    def _find_end(self) -> int:
        """Where the head ends, or -1; refuses early what cannot be HTTP."""
        buffer = self._buffer
        if buffer and not _METHOD_START.match(buffer):
            raise HandshakeError(400, "This is not an HTTP request.")
        end = find_head_end(buffer, self._seen, self._max_size, _BARE_LF)
        self._seen = len(buffer)
        return end

    def _too_large(self) -> HandshakeError:
        """RFC 9112 §3: "A server that receives a request-target longer than any URI it
        wishes to parse MUST respond with a 414 (URI Too Long) status code"."""
        begin = bytes(self._buffer[: self._max_size])
        if b" " in begin and b"\r\n" not in begin:
            status, what = 414, "line"
        else:
            status, what = 431, "head"
        return HandshakeError(
            status, f"The request {what} exceeds {self._max_size:,} bytes."
        )

    def _parse(self, head: bytes) -> Request:
        match = _HEAD.fullmatch(head)
        if match is None:
            raise HandshakeError(400, _what_is_wrong(head))
        method, target, major, minor, fields = match.groups()
        if fields.count(b"\r\n") > self._max_count:
            raise HandshakeError(
                431, f"The request has more than {self._max_count} header lines."
            )
        request = Request(
            method.decode(), target.decode(), (int(major), int(minor)), fields
        )
        _check_target(request)
        return request


def _check_target(request: Request) -> None:
    """RFC 9112 §3.2: a path, a URI, or `*`; not a CONNECT, as this is not a proxy."""
    target = request.target
    if "#" in target:  # WebSocket addresses have none either (RFC 6455 §3)
        raise HandshakeError(400, "The request target has a fragment.")
    if target.startswith("/") or ABSOLUTE_FORM.match(target):
        return
    if target != "*" or request.method != "OPTIONS":
        raise HandshakeError(400, "The request target is neither a path nor a URI.")


def _what_is_wrong(head: bytes) -> str:
    """A sentence that says what is wrong with a malformed head."""
    lines = head.split(b"\r\n")
    if not _REQUEST_LINE.fullmatch(lines[0]):
        return "The request line is malformed."
    for number, line in enumerate(lines[1:-2], 1):
        if line.startswith((b" ", b"\t")):
            return f"Header line {number} is folded (RFC 9112 §5.2)."
        if not is_field_line(line):
            return f"Header line {number} is malformed."
    return "The request head is malformed."


def check_version(request: Request) -> None:
    """Refuse an unsupported major version of HTTP (RFC 9110 §15.6.6).

    Raises:
        HandshakeError: 505.
    """
    if request.version[0] != 1:
        raise HandshakeError(505, "Only HTTP/1.0 and HTTP/1.1 are supported.")


def check_request(request: Request) -> None:
    """Check what HTTP requires of every request (RFC 9112 §2.3 and §3.2).

    Raises:
        HandshakeError: 400 or 505.
    """
    check_version(request)
    headers = request.headers
    hosts = headers.get_all("Host")
    # "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1
    # request message that lacks a Host header field and to any request message that
    # contains more than one". Health checks of version 1.0 have none.
    if len(hosts) != 1 and (hosts or request.version >= (1, 1)):
        raise HandshakeError(400, ONE_HOST)
    if hosts:
        check_host(hosts[0])
    check_single_origin(headers)


def check_single_origin(headers: Headers) -> None:
    """Refuse two Origin headers: the server might use one, a proxy the other.

    RFC 6454 §7.3: "The user agent MUST NOT include more than one Origin header field in
    any HTTP request."

    Raises:
        HandshakeError: 400.
    """
    if len(headers.get_all("Origin")) > 1:
        raise HandshakeError(400, "The request has more than one Origin header.")


def wants_upgrade(request: Request) -> bool:
    """Whether this is an attempt to open a WebSocket, even a malformed one.

    A client may offer other protocols in `Upgrade` and still accept plain HTTP.
    """
    values = request.headers._values
    if "upgrade" not in values and "sec-websocket-key" not in values:
        return False
    headers = request.headers
    return "websocket" in headers.tokens("Upgrade") or "Sec-WebSocket-Key" in headers


def stays_open(request: Request) -> bool:
    """Whether the client may send another request after this (RFC 9112 §9.3)."""
    options = request.headers.tokens("Connection")
    if "close" in options:
        return False
    return request.version >= (1, 1) or "keep-alive" in options


def expects_continue(request: Request) -> bool:
    """Whether the client waits for `CONTINUE` before it sends the body.

    Raises:
        HandshakeError: 417, it expects anything else (RFC 9110 §10.1.1).
    """
    expected = request.headers.tokens("Expect")
    if not expected or request.version < (1, 1):
        return False
    if expected != ["100-continue"]:
        raise HandshakeError(417, "The only expectation supported is 100-continue.")
    return True
