"""The envelope in which a message travels between nodes.

Big-endian:

    version 1 B | flags 1 B | publisher 8 B | session 2 B | seq 6 B
    | [HMAC-SHA256, the first 16 B, of the channel, 0, and everything else] | body

`publisher` is random for each process, `session` counts its connections to the engine,
`seq` its messages to this channel. It is never pickle, and a version that is not known
is refused: a new one is read a release before it is written.

The body of a message with headers is

    kind of the message 1 B | length of the headers 4 B | headers, JSON | its body
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import struct
from typing import Any, NamedTuple

from ..constants import Opcode
from ..messages import encode_message

__all__ = [
    "HEADER_SIZE",
    "MAX_SEQ",
    "Content",
    "Envelope",
    "EnvelopeError",
    "JsonText",
    "Kind",
    "WithHeaders",
    "bare",
    "decode_body",
    "encode_body",
    "open_",
    "seal",
]

_VERSION = 1
_HEAD = struct.Struct(">BB8sHHI")
#: Bytes before the signature, or the body.
HEADER_SIZE = _HEAD.size
_SIGNATURE_SIZE = 16
_KIND, _SIGNED = 0x03, 0x04
#: The largest sequence number; the next one starts again with another session.
MAX_SEQ = 2**48 - 1


class Kind(enum.IntEnum):
    """What the body is."""

    TEXT = 0
    BINARY = 1
    #: Text that middlewares see as a dict or list.
    JSON = 2
    #: One of these, with headers.
    HEADERS = 3


_KINDS = tuple(Kind)
_BARE = (Kind.TEXT, Kind.BINARY, Kind.JSON)
_HEADERS = struct.Struct(">BI")


class Envelope(NamedTuple):
    """A message and where it comes from."""

    publisher: bytes
    session: int
    seq: int
    kind: Kind
    body: bytes


class EnvelopeError(ValueError):
    """Bytes that are no envelope, or one that is not signed as it must be."""


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
        EnvelopeError: The headers are malformed.
    """
    if kind is Kind.HEADERS:
        return _decode_headers(body)
    if kind is Kind.BINARY:
        return body
    text = body.decode(errors="replace")
    return JsonText(text) if kind is Kind.JSON else text


def _decode_headers(body: bytes) -> WithHeaders:
    if len(body) < _HEADERS.size:
        raise EnvelopeError("the headers of a message are incomplete")
    kind, size = _HEADERS.unpack_from(body)
    begin = _HEADERS.size
    end = begin + size
    if kind not in _BARE or end > len(body):
        raise EnvelopeError("the headers of a message are malformed")
    headers = body[begin:end].decode(errors="replace")
    # They go out to clients as they are, in a line of JSON.
    if headers[:1] != "{" or headers[-1:] != "}" or "\n" in headers:
        raise EnvelopeError("the headers of a message are no JSON object")
    return WithHeaders(decode_body(Kind(kind), body[end:]), headers)


def seal(envelope: Envelope, channel: str, secret: bytes | None) -> bytes:
    """Encode an envelope.

    Args:
        envelope: its session is below 2**16, its seq at most `MAX_SEQ`.
        channel: on which it is sent: a signed one is valid on no other.
        secret: signs it; None does not.
    """
    flags = envelope.kind | (_SIGNED if secret is not None else 0)
    seq = envelope.seq
    head = _HEAD.pack(
        _VERSION,
        flags,
        envelope.publisher,
        envelope.session,
        seq >> 32,
        seq & 0xFFFFFFFF,
    )
    if secret is None:
        return head + envelope.body
    return head + _sign(secret, channel, head, envelope.body) + envelope.body


def open_(data: bytes, channel: str, secret: bytes | None) -> Envelope:
    """Decode an envelope.

    Args:
        data: as received.
        channel: on which it was received.
        secret: that it must be signed with; None: it may be signed or not.

    Raises:
        EnvelopeError: It is malformed, of another version, or not signed so.
    """
    if len(data) < HEADER_SIZE:
        raise EnvelopeError(f"an envelope has {HEADER_SIZE} bytes at least")
    version, flags, publisher, session, high, low = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise EnvelopeError(f"version {version} of the envelope is not known")
    kind = _KINDS[flags & _KIND]
    if flags & ~(_KIND | _SIGNED):
        raise EnvelopeError(f"the flags 0x{flags:02x} are not known")
    body = data[HEADER_SIZE:]
    if flags & _SIGNED:
        signature, body = body[:_SIGNATURE_SIZE], body[_SIGNATURE_SIZE:]
    else:
        signature = b""
    if secret is not None:
        right = _sign(secret, channel, data[:HEADER_SIZE], body)
        if not hmac.compare_digest(signature, right):
            raise EnvelopeError("it is not signed with our secret")
    return Envelope(publisher, session, high << 32 | low, kind, body)


def _sign(secret: bytes, channel: str, head: bytes, body: bytes) -> bytes:
    content = b"%b\0%b%b" % (channel.encode("utf-8", "surrogatepass"), head, body)
    return hmac.digest(secret, content, hashlib.sha256)[:_SIGNATURE_SIZE]
