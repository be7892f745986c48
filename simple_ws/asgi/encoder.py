"""`ResponseBytes`: an application's response as bytes, while the application makes it.

It is the `Encoder` of `http.exchange`, for headers that are bytes already; where a body
ends is decided as in `protocol.http_body.ResponseEncoder`.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import Any

from ..constants import TOKEN
from ..protocol.http_body import IncompleteResponse
from ..protocol.response import http_date, may_have_body

__all__ = ["ResponseBytes"]

#: Bytes of a response that may wait for the peer before `send` does.
MAX_WAITING = 64 * 1024
#: Bytes still waiting when it goes on.
FEW_WAITING = MAX_WAITING // 2
#: Bytes handed to the socket at once.
_PIECE = 64 * 1024

_FIELDS = re.compile(rb"(?:%b: [^\r\n\0]*\r\n)*" % TOKEN.encode())
#: RFC 9112: they are about one connection, which is the server's.
_HOP_BY_HOP = frozenset(
    (b"connection", b"transfer-encoding", b"keep-alive", b"upgrade", b"trailer")
)


class ResponseBytes:
    """The bytes of one response.

    Args:
        status: 200 to 599.
        headers: names and values, as the application gives them.
        body: its first piece.
        more: others follow.
        version: HTTP version of the request.
        head_only: it answers HEAD.
        stays: the connection may stay open after it.

    Attributes:
        stays: whether the connection stays open.
        waiting: bytes of the body that were not read yet.

    Raises:
        TypeError, ValueError: A header field is not two pieces of bytes, or has an
            invalid name or value.
        RuntimeError: The body is longer or shorter than its Content-Length.
    """

    waiting = 0
    _ended = _failed = False
    _pieces: Any = ()

    def __init__(
        self,
        status: int,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        more: bool,
        *,
        version: tuple[int, int],
        head_only: bool,
        stays: bool,
    ) -> None:
        self.stays = stays
        self._omitted = head_only or not may_have_body(status)
        self._left: int | None = None  # bytes of the body that are to come
        self._chunked = False
        lines, dated = self._take_fields(headers)
        if not dated:
            lines.append(_date_line(int(time.time())))
        if self._left is None and may_have_body(status):
            if not more:
                self._left = len(body)
                lines.append(b"content-length: %d\r\n" % len(body))
            elif version >= (1, 1):
                self._chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
            else:  # RFC 9112 §6.3: the end of the connection ends the body
                self.stays = self.stays and head_only
        if not self.stays:
            lines.append(b"connection: close\r\n")
        elif version < (1, 1):
            lines.append(b"connection: keep-alive\r\n")
        lines.append(b"\r\n")
        self._head = _status_line(status) + b"".join(lines)
        if more or len(body) > _PIECE:
            self._pieces = deque()
            self.put(body, more)
            return
        self._check_length(len(body), more)
        self._ended = True
        if not self._omitted:
            self._head += body

    def _take_fields(
        self, headers: Iterable[tuple[bytes, bytes]]
    ) -> tuple[list[bytes], bool]:
        """The lines of the application's fields; and whether there is a date."""
        lines = []
        dated = False
        for name, value in headers:
            line = b"%b: %b\r\n" % (name, value)
            lower = name.lower()
            if lower in _HOP_BY_HOP:
                if lower == b"connection" and value.strip().lower() == b"close":
                    self.stays = False
                continue
            if lower == b"content-length":
                self._left = _length(value)
            elif lower == b"date":
                dated = True
            lines.append(line)
        block = b"".join(lines)
        # A line break in a value would begin another field.
        if block.count(b"\n") != len(lines) or not _FIELDS.fullmatch(block):
            raise ValueError(f"a header field of {lines!r} is malformed")
        return lines, dated

    # For the application

    def put(self, body: bytes, more: bool) -> None:
        """Add a piece of the body.

        Raises:
            RuntimeError: The body is longer or shorter than its Content-Length.
        """
        if self._omitted:
            self._ended = not more
            return
        self._check_length(len(body), more)
        if body:
            if self._chunked:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            self._pieces.append(body)
            self.waiting += len(body)
        if not more:
            if self._chunked:
                self._pieces.append(b"0\r\n\r\n")
                self.waiting += 5
            self._ended = True

    def _check_length(self, size: int, more: bool) -> None:
        if self._left is None or self._omitted:
            return
        self._left -= size
        if self._left < 0:
            raise RuntimeError("the body is longer than its content-length")
        if self._left and not more:
            raise RuntimeError("the body is shorter than its content-length")

    def fail(self) -> None:
        """There will be no more, and the body is not complete."""
        self._failed = True

    # For the exchange

    @property
    def whole(self) -> bytes | None:
        """The response, if it is there as a whole."""
        return self._head if self._ended and not self._pieces else None

    def skip(self, size: int) -> None:
        """So many bytes of the whole response have been sent already."""
        self._head = self._head[size:]

    def read(self) -> bytes | None:
        """See `http.exchange.Encoder`.

        Raises:
            IncompleteResponse: The application has failed.
        """
        pieces = self._pieces
        piece, self._head = self._head, b""
        if pieces:
            if piece:
                pieces.appendleft(piece)
                self.waiting += len(piece)
            piece = self._take()
        elif not piece and self._failed:
            raise IncompleteResponse("the application failed")
        if piece or self._ended:
            return piece
        return None

    def _take(self) -> bytes:
        pieces = self._pieces
        piece: bytes = pieces.popleft()
        if pieces and len(piece) < _PIECE:
            taken = [piece]
            size = len(piece)
            while pieces and size + len(pieces[0]) <= _PIECE:
                taken.append(pieces.popleft())
                size += len(taken[-1])
            piece = b"".join(taken)
        self.waiting -= len(piece)
        return piece

    def close(self) -> None:
        """See `http.exchange.Encoder`."""
        self._pieces = ()
        self.waiting = 0


def _length(value: bytes) -> int:
    if not re.fullmatch(rb"[0-9]{1,18}", value):
        raise ValueError(f"content-length must be a whole number, not {value!r}")
    return int(value)


@lru_cache(maxsize=64)
def _status_line(status: int) -> bytes:
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    return f"HTTP/1.1 {status} {reason}\r\n".encode()


@lru_cache(maxsize=1)
def _date_line(second: int) -> bytes:
    return f"date: {http_date(second)}\r\n".encode()
