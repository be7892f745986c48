"""Every exception of the package.

    WebSocketError
    ├── ProtocolError              the peer broke RFC 6455 or RFC 7692     1002
    │   ├── InvalidData            text that is not UTF-8, broken deflate  1007
    │   ├── MessageTooBig          beyond `max_size`                       1009
    │   └── RateExceeded           too many messages or empty fragments    1008
    ├── HandshakeError             the opening handshake failed        HTTP status
    ├── AuthenticationError        wrong credentials            HTTP 401, 1008
    └── InvalidState               we were called when it cannot be

A fault of the peer is raised in codecs and caught in one place, which fails that
connection; a fault of the caller is raised at once to the caller, as `InvalidState`,
`ValueError` or `TypeError`.
"""

from __future__ import annotations

from collections.abc import Sequence

from .constants import CloseCause, CloseCode

__all__ = [
    "AuthenticationError",
    "HandshakeError",
    "InvalidData",
    "InvalidState",
    "MessageTooBig",
    "ProtocolError",
    "RateExceeded",
    "WebSocketError",
]


class WebSocketError(Exception):
    """Root of all exceptions of this package."""


class ProtocolError(WebSocketError):
    """The peer broke a rule of RFC 6455 or RFC 7692.

    Attributes:
        code: close code the connection is failed with (RFC 6455 §7.4.1).
        cause: the connection's `close_cause`.
    """

    code = CloseCode.PROTOCOL_ERROR
    cause = CloseCause.PROTOCOL_ERROR


class InvalidData(ProtocolError):
    """A payload is not what its type promises (RFC 6455 §8.1, RFC 7692 §6.2)."""

    code = CloseCode.INVALID_DATA
    cause = CloseCause.BAD_DATA


class MessageTooBig(ProtocolError):
    """A message exceeds `max_size`."""

    code = CloseCode.MESSAGE_TOO_BIG
    cause = CloseCause.TOO_BIG


class RateExceeded(ProtocolError):
    """More than the options allow in this time, or to no purpose."""

    code = CloseCode.POLICY_VIOLATION
    cause = CloseCause.RATE


class HandshakeError(WebSocketError):
    """The opening handshake cannot succeed (RFC 6455 §4).

    Attributes:
        status: HTTP status of the refusal.
        headers: more header fields for it, as (name, value) pairs.
    """

    def __init__(
        self, status: int, reason: str, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = tuple(headers)


class AuthenticationError(WebSocketError):
    """To be raised by users: these are not the right credentials.

    Raised in `on_request` the client is refused with 401; in any other callback it is
    closed with 1008. The text goes to the log only: the peer is not told what exists.
    """


class InvalidState(WebSocketError):
    """A method was called when it cannot be, such as `run` on a running server."""
