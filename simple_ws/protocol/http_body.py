"""Where a body ends (RFC 9112 §6 and §7), for requests and responses.

`body_reader` chooses `LengthBody` or `ChunkedBody`, which collect the body of a request
at any byte boundary; `ResponseEncoder` produces the bytes of a response as fast as they
are taken. Sans-I/O, like `http11`, which has the heads.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol

from ..constants import MAX_HEAD_SIZE, MAX_HEADER_COUNT
from ..errors import HandshakeError
from .fields import Headers
from .grammar import is_field_line
from .request import Request
from .response import Response, encode_head, http_date, may_have_body

__all__ = [
    "CONTINUE",
    "ChunkedBody",
    "IncompleteResponse",
    "LengthBody",
    "ResponseEncoder",
    "Source",
    "Stream",
    "body_reader",
]

#: RFC 9110 §15.2.1: the client may send the body.
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

#: Bytes of the line before a chunk: 16 for its size, the rest for extensions.
_MAX_CHUNK_LINE = 256
#: Digits of a Content-Length: more than any `max_body` needs, and few for `int`.
_MAX_DIGITS = 18

#: Bytes of a body that are sent together with the head. A larger one is not copied: the
#: same body may be sent to many slow readers.
_MAX_JOINED = 64 * 1024

#: RFC 9112 §7.1; blanks are only allowed before the semicolon of an extension (§7.1.1).
_CHUNK_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,16})((?:[\t ]*;[\t\x20-\x7e\x80-\xff]*)?)\r\n"
)

# Requests


class LengthBody:
    """Collects a body of known length.

    `body` holds it when it is complete, less what was taken before, and `rest` the
    bytes after it.
    """

    def __init__(self, length: int) -> None:
        self.body = self.rest = b""
        self._length = length
        self._buffer = bytearray()

    @property
    def buffered_input(self) -> int:
        """Bytes kept."""
        return len(self._buffer)

    def feed(self, data: bytes) -> bool:
        """Process bytes; return whether the body is complete."""
        self._buffer += data
        if len(self._buffer) < self._length:
            return False
        self.body = bytes(self._buffer[: self._length])
        self.rest = bytes(self._buffer[self._length :])
        return True

    def take(self) -> bytes:
        """The bytes that were received since the last call; before it is complete."""
        taken = bytes(self._buffer)
        self._buffer.clear()
        self._length -= len(taken)
        return taken


class ChunkedBody:
    """Collects a chunked body (RFC 9112 §7.1), at any byte boundary.

    Args:
        max_size: bytes of the body. Chunk extensions and trailers are read and
            discarded; each may be as large as a request head.

    `body` holds it when it is complete, less what was taken before, and `rest` the
    bytes after it.
    """

    def __init__(self, max_size: int) -> None:
        self.body = self.rest = b""
        self._max_size = max_size
        self._buffer = bytearray()  # bytes not parsed yet
        self._collected = bytearray()
        self._taken = 0  # bytes of the body that `take` has returned
        self._left = 0  # missing bytes of the chunk
        self._extensions = self._trailers = self._trailer_lines = 0  # counted
        self._complete = False
        self._step = self._take_size

    @property
    def collected(self) -> bytes:
        """The part of the body received so far."""
        return bytes(self._collected)

    def take(self) -> bytes:
        """The bytes of the body since the last call; before it is complete."""
        taken = bytes(self._collected)
        self._collected.clear()
        self._taken += len(taken)
        return taken

    @property
    def buffered_input(self) -> int:
        """Bytes kept."""
        return len(self._collected) + len(self._buffer)

    def feed(self, data: bytes) -> bool:
        """Process bytes; return whether the body is complete.

        Raises:
            HandshakeError: 400 malformed, 413 larger than `max_size`, 431 too much
                around it.
        """
        self._buffer += data
        while not self._complete and self._step():
            pass
        if self._complete:
            self.body, self.rest = bytes(self._collected), bytes(self._buffer)
        return self._complete

    # Each step takes one part off the buffer; it returns False if bytes are missing.

    def _take_size(self) -> bool:
        line = self._take_line(_MAX_CHUNK_LINE)
        if line is None:
            return False
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise HandshakeError(400, "The size of a chunk is malformed.")
        self._extensions += len(match[2])
        if self._extensions > MAX_HEAD_SIZE:
            raise HandshakeError(431, "The extensions of the chunks are too long.")
        self._left = int(match[1], 16)
        if self._taken + len(self._collected) + self._left > self._max_size:
            raise _too_large(self._max_size)
        self._step = self._take_data if self._left else self._take_trailer
        return True

    def _take_data(self) -> bool:
        taken = self._buffer[: self._left]
        del self._buffer[: self._left]
        self._collected += taken
        self._left -= len(taken)
        if self._left:
            return False
        self._step = self._take_end
        return True

    def _take_end(self) -> bool:
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise HandshakeError(400, "A chunk is longer than its size.")
        del self._buffer[:2]
        self._step = self._take_size
        return True

    def _take_trailer(self) -> bool:
        line = self._take_line(MAX_HEAD_SIZE - self._trailers)
        if line is None:
            return False
        if line == b"\r\n":
            self._complete = True
            return True
        if not line.endswith(b"\r\n") or not is_field_line(line[:-2]):
            raise HandshakeError(400, "A trailer of the body is malformed.")
        self._trailers += len(line)
        self._trailer_lines += 1
        if self._trailer_lines > MAX_HEADER_COUNT:
            raise HandshakeError(431, "The body has too many trailers.")
        return True

    def _take_line(self, limit: int) -> bytes | None:
        """A line with its end, or None while it is incomplete."""
        end = self._buffer.find(b"\n", 0, limit)
        if end < 0:
            if len(self._buffer) >= limit:
                raise HandshakeError(431, "A line in the body is too long.")
            return None
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return line


def _too_large(limit: int) -> HandshakeError:
    """The refusal of a body larger than `max_body`."""
    return HandshakeError(413, f"The body of the request exceeds {limit:,} bytes.")


def body_reader(request: Request, max_size: int) -> LengthBody | ChunkedBody | None:
    """The reader for the body of a request; None when it has none (RFC 9112 §6.3).

    If a proxy and this server disagree about where a request ends, a part of it can be
    smuggled in as another request; so anything ambiguous is refused.

    Raises:
        HandshakeError: 400, 413 or 501.
    """
    headers = request.headers
    lengths = headers.get_all("Content-Length")
    if "Transfer-Encoding" not in headers:
        return _length_body(lengths, max_size) if lengths else None
    if lengths:
        raise HandshakeError(
            400, "The request has both Content-Length and Transfer-Encoding."
        )
    if request.version < (1, 1):
        raise HandshakeError(400, "HTTP/1.0 has no Transfer-Encoding.")
    codings = headers.tokens("Transfer-Encoding")
    if codings != ["chunked"]:
        if codings[-1:] != ["chunked"] or codings.count("chunked") > 1:
            raise HandshakeError(400, "Transfer-Encoding must end with one chunked.")
        raise HandshakeError(501, "The only transfer coding supported is chunked.")
    return ChunkedBody(max_size)


def _length_body(lengths: list[str], max_size: int) -> LengthBody | None:
    # Some proxies repeat the line; equal values are no contradiction.
    length, *others = set(lengths)
    if others or not re.fullmatch("[0-9]+", length):
        raise HandshakeError(400, "The Content-Length header is malformed.")
    digits = length.lstrip("0")
    if len(digits) > _MAX_DIGITS or int(digits or "0") > max_size:
        raise _too_large(max_size)
    return LengthBody(int(digits)) if digits else None


# Responses


class IncompleteResponse(Exception):
    """A body ended too early: its source failed, or has fewer bytes than announced."""


class Source(Protocol):
    """Produces the body of a response while it is sent."""

    def read(self) -> bytes | None:
        """The next piece; b"" at the end, None when there is none yet.

        Raises:
            IncompleteResponse, OSError: No more will follow.
        """

    def close(self) -> None:
        """No more is read; called at the end as well, and harmless when repeated."""


class Stream:
    """A response whose body is not held in memory as a whole.

    Args:
        status: 200 to 599.
        headers: all header fields except those about length and connection.
        source: of the body; closed by the code that sends the response.
        length: bytes of the body, or None when unknown.
        reason: the reason phrase; the usual one by default.
    """

    def __init__(
        self,
        status: int,
        headers: list[tuple[str, str]],
        source: Source,
        length: int | None = None,
        reason: str | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.source = source
        self.length = length
        self.reason = reason


class ResponseEncoder:
    """The bytes of one response, piece by piece.

    Args:
        given: the response.
        version: HTTP version of the request.
        head_only: it answers HEAD.
        stays: the connection may stay open after it.
        more: header fields that are added unless the response has them; those of `Vary`
            in any case, since caches read all of them.

    Attributes:
        stays: whether the connection stays open.
    """

    def __init__(
        self,
        given: Response | Stream,
        *,
        version: tuple[int, int] = (1, 1),
        head_only: bool = False,
        stays: bool = False,
        more: Sequence[tuple[str, str]] = (),
    ) -> None:
        length = given.length if isinstance(given, Stream) else len(given.body)
        has_body = may_have_body(given.status)
        self._source: Source | None = None
        self._body = b""
        self._left = length
        self._chunked = has_body and length is None and version >= (1, 1)
        # RFC 9112 §6.3: without either, the end of the connection ends the body.
        ends_by_close = has_body and length is None and not self._chunked
        self.stays = stays and not _says_close(given.headers)
        self.stays = self.stays and not (ends_by_close and not head_only)
        headers = self._headers(given, length if has_body else None, head_only)
        names = {name.lower() for name, _ in headers} if more else ()
        headers += [
            (name, value)
            for name, value in more
            if name == "Vary" or name.lower() not in names
        ]
        if version < (1, 1) and self.stays:
            headers.append(("Connection", "keep-alive"))
        reason = given.reason if isinstance(given, Stream) else None
        self._head = encode_head(given.status, headers, reason)
        self._take_body(given, has_body and not head_only)

    def _headers(
        self, given: Response | Stream, length: int | None, head_only: bool
    ) -> list[tuple[str, str]]:
        # The response to HEAD may have the length of a body that was not produced.
        told = head_only and not length
        headers = [
            (name, value)
            for name, value in given.headers
            if not _is_ours(name, value) or (told and name.lower() == "content-length")
        ]
        names = {name.lower() for name, _ in headers}
        if "date" not in names:
            headers.append(("Date", _date_of(int(time.time()))))
        if length is not None and "content-length" not in names:
            headers.append(("Content-Length", str(length)))
        if self._chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        if not self.stays:
            headers.append(("Connection", "close"))
        return headers

    def _take_body(self, given: Response | Stream, wanted: bool) -> None:
        if isinstance(given, Stream):
            self._source = given.source
            if not wanted:
                self.close()
        elif wanted:
            self._body = given.body

    def read(self) -> bytes | None:
        """The next bytes; b"" at the end, None when there are none yet.

        Raises:
            IncompleteResponse, OSError: The rest is not available.
        """
        head, self._head = self._head, b""
        if head and len(self._body) > _MAX_JOINED:
            return head
        piece = self._piece()
        if piece is None:
            return head or None
        return head + piece if head else piece

    def close(self) -> None:
        """No more is read."""
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def _piece(self) -> bytes | None:
        source = self._source
        if source is None:
            body, self._body = self._body, b""
            return body
        piece = b"" if self._left == 0 else source.read()
        if piece is None:
            return None
        if not piece:
            self.close()
            if self._left:
                raise IncompleteResponse(f"{self._left:,} bytes are missing")
            return b"0\r\n\r\n" if self._chunked else b""
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(piece), piece)
        if self._left is not None:
            piece = piece[: self._left]
            self._left -= len(piece)
        return piece


def _says_close(headers: Iterable[tuple[str, str]]) -> bool:
    """Whether these header fields ask to close the connection."""
    return "close" in Headers(headers).tokens("Connection")


def _is_ours(name: str, value: str) -> bool:
    """Whether a header field is about the connection, which the server manages."""
    name = name.lower()
    if name == "connection":
        return value.strip().lower() in ("close", "keep-alive")
    return name in ("content-length", "transfer-encoding", "keep-alive")


@lru_cache(maxsize=1)
def _date_of(second: int) -> str:
    return http_date(second)
