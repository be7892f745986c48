"""The envelope in which a message travels between nodes.

Big-endian:

    version 1 B | flags 1 B | publisher 8 B | session 2 B | seq 6 B
    | [HMAC-SHA256, the first 16 B, of the channel, 0, and everything else] | body

`publisher` is random for each process, `session` counts its connections to the engine,
`seq` its messages to this channel. It is never pickle, and a version that is not known
is refused: a new one is read a release before it is written.
The body is left to `content`.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import NamedTuple

from .content import Kind

__all__ = [
    "HEADER_SIZE",
    "MAX_SEQ",
    "Envelope",
    "EnvelopeError",
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
_KINDS = tuple(Kind)


class Envelope(NamedTuple):
    """A message and where it comes from."""

    publisher: bytes
    session: int
    seq: int
    kind: Kind
    body: bytes


class EnvelopeError(ValueError):
    """Bytes that are no envelope, or one that is not signed as it must be."""


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
