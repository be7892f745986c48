"""The head of an HTTP message: where it ends, and its lines (RFC 9112 §2, §3, §5).

Requests and responses differ in their first line only; `http11` parses those that a
server reads, `response_reader` those that a client reads.
"""

from __future__ import annotations

import re

from ..constants import FIELD_LINES, TOKEN
from ..errors import HandshakeError

__all__ = [
    "ABSOLUTE_FORM",
    "find_head_end",
    "head_pattern",
    "is_field_line",
    "split_fields",
]

#: A request target in absolute form (RFC 9112 §3.2.2), up to its path. RFC 9110 §4.2.1
#: and §4.2.4: an empty host, and a user before it, are errors.
ABSOLUTE_FORM = re.compile(r"(?:https?|wss?)://[^/?#@]+(?![^/?#])", re.IGNORECASE)
_FIELD_LINE = re.compile(TOKEN.encode() + rb":[\t\x20-\x7e\x80-\xff]*")


def head_pattern(start_line: bytes) -> re.Pattern[bytes]:
    """A pattern for a whole head; its last group contains the header lines.

    Args:
        start_line: pattern of the first line, without its end.
    """
    return re.compile(start_line + rb"\r\n(" + FIELD_LINES + rb")\r\n")


def find_head_end(buffer: bytearray, seen: int, limit: int, bare_lf: str) -> int:
    """Find the end of a head, after its empty line.

    Args:
        buffer: the bytes received.
        seen: how many of them were searched before.
        limit: only this many bytes are searched: a head is too large beyond, however
            the bytes were split.
        bare_lf: error text for a line that ends without CR.

    Returns:
        -1 while there is no empty line.

    Raises:
        HandshakeError: 400, a line ends without CR LF.
    """
    end = buffer.find(b"\r\n\r\n", max(0, seen - 3), limit)
    line = buffer.find(b"\n", seen, limit)
    while line >= 0 and (end < 0 or line < end):
        if buffer[line - 1] != 13:
            raise HandshakeError(400, bare_lf)
        line = buffer.find(b"\n", line + 1, limit)
    return end + 4 if end >= 0 else -1


def is_field_line(line: bytes) -> bool:
    """Whether this is a valid header or trailer line, given without its end."""
    return _FIELD_LINE.fullmatch(line) is not None


def split_fields(lines: bytes) -> list[tuple[str, str]]:
    """Names and values of well-formed header lines."""
    parts = (line.partition(":") for line in lines.decode("latin-1").split("\r\n")[:-1])
    return [(name, value.strip(" \t")) for name, _, value in parts]
