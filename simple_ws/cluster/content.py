"""What travels in an envelope: messages, and their bodies as bytes.

The body of a message with headers is

    kind of the message 1 B | length of the headers 4 B | headers, JSON | its body
"""

from __future__ import annotations

import enum
import struct
from typing import Any, NamedTuple

from ..constants import Opcode
from ..messages import encode_message

__all__ = [
    "Content",
    "ContentError",
    "JsonText",
    "Kind",
    "WithHeaders",
    "bare",
    "decode_body",
    "encode_body",
]


class Kind(enum.IntEnum):
    """What the body is."""

    TEXT = 0
    BINARY = 1
    #: Text that middlewares see as a dict or list.
    JSON = 2
    #: One of these, with headers.
    HEADERS = 3


_BARE = (Kind.TEXT, Kind.BINARY, Kind.JSON)
_HEADERS = struct.Struct(">BI")


class ContentError(ValueError):
    """Bytes that are no message."""


def encode_body(msg: object) -> tuple[Kind, bytes]:
    """Encode a message: what it is, and the body of its envelope.

    Raises:
        TypeError, ValueError: See `messages.encode_message`: other processes cannot
            turn any object into a message.
    """
    if type(msg) is WithHeaders:
        kind, body = encode_body(msg.msg)
        headers = msg.headers.encode()
        return Kind.HEADERS, _HEADERS.pack(kind, len(headers)) + headers + body
    opcode, body = encode_message(msg, None)
    if isinstance(msg, dict | list | JsonText):
        return Kind.JSON, body
    return (Kind.TEXT if opcode == Opcode.TEXT else Kind.BINARY), body


class JsonText(str):
    """The text of a dict or list that was published."""

    __slots__ = ()


class WithHeaders(NamedTuple):
    """A message, and what is said about it, which only clients of `live` get.

    Attributes:
        msg: the message, or what is kept of it.
        headers: a JSON object as text, without line feeds.
    """

    msg: Any
    headers: str


#: A message: text, bytes, or a dict or list as its text; perhaps with headers.
Content = str | bytes | WithHeaders


def bare(msg: Any) -> Any:
    """A message without its headers."""
    return msg.msg if type(msg) is WithHeaders else msg


def decode_body(kind: Kind, body: bytes) -> Content:
    """The message of a body; text that is not UTF-8 is repaired.

    Raises:
        ContentError: The headers are malformed.
    """
    if kind is Kind.HEADERS:
        return _decode_headers(body)
    if kind is Kind.BINARY:
        return body
    text = body.decode(errors="replace")
    return JsonText(text) if kind is Kind.JSON else text


def _decode_headers(body: bytes) -> WithHeaders:
    if len(body) < _HEADERS.size:
        raise ContentError("the headers of a message are incomplete")
    kind, size = _HEADERS.unpack_from(body)
    begin = _HEADERS.size
    end = begin + size
    if kind not in _BARE or end > len(body):
        raise ContentError("the headers of a message are malformed")
    headers = body[begin:end].decode(errors="replace")
    # They go out to clients as they are, in a line of JSON.
    if headers[:1] != "{" or headers[-1:] != "}" or "\n" in headers:
        raise ContentError("the headers of a message are no JSON object")
    return WithHeaders(decode_body(Kind(kind), body[end:]), headers)
