"""Codes of the Centrifugo client protocol: of errors, disconnects and unsubscriptions.

Source: centrifugal.dev, "Client protocol codes". 100 to 399 are the protocol's errors,
400 to 1999 the application's.
"""

from __future__ import annotations

from typing import NamedTuple

from ..errors import WebSocketError

__all__ = [
    "ALREADY_SUBSCRIBED",
    "BAD_REQUEST",
    "EXPIRED",
    "INTERNAL",
    "LIMIT_EXCEEDED",
    "MAX_CHANNEL",
    "METHOD_NOT_FOUND",
    "NOT_AVAILABLE",
    "PERMISSION_DENIED",
    "TOKEN_EXPIRED",
    "TOO_MANY_REQUESTS",
    "UNAUTHORIZED",
    "UNKNOWN_CHANNEL",
    "UNRECOVERABLE_POSITION",
    "Code",
    "Disconnect",
    "DisconnectClient",
    "LiveError",
    "Unsubscribe",
]


class Code(NamedTuple):
    """A number with what it means."""

    code: int
    text: str


class LiveError(WebSocketError):
    """The answer to a command is this error; raised by methods and hooks of `live`.

    Args:
        code: 400 to 1999 for those of an application.
        message: one sentence for programmers.
        temporary: the client may try it again; SDKs do so by themselves when they
            connect or subscribe.

    Raises:
        TypeError, ValueError: The code is no int from 100 to 1999, or the message not a
            str.
    """

    def __init__(self, code: int, message: str, *, temporary: bool = False) -> None:
        if isinstance(code, bool) or not isinstance(code, int):
            raise TypeError(f"code must be an int, not {code!r}")
        if not 100 <= code <= 1999:
            raise ValueError(f"code must be from 100 to 1999, not {code}")
        if not isinstance(message, str):
            raise TypeError(f"message must be a str, not {message!r}")
        super().__init__(message)
        self.code = code
        self.message = message
        self.temporary = bool(temporary)

    @classmethod
    def _received(cls, code: int, message: str, temporary: bool) -> LiveError:
        """One that a server sent, whatever its code."""
        error = cls(INTERNAL.code, message, temporary=temporary)
        error.code = code
        return error


#: Characters of the name of a channel.
MAX_CHANNEL = 255

INTERNAL = Code(100, "internal server error")
UNAUTHORIZED = Code(101, "unauthorized")
UNKNOWN_CHANNEL = Code(102, "unknown channel")
PERMISSION_DENIED = Code(103, "permission denied")
METHOD_NOT_FOUND = Code(104, "method not found")
ALREADY_SUBSCRIBED = Code(105, "already subscribed")
LIMIT_EXCEEDED = Code(106, "limit exceeded")
BAD_REQUEST = Code(107, "bad request")
NOT_AVAILABLE = Code(108, "not available")
TOKEN_EXPIRED = Code(109, "token expired")
EXPIRED = Code(110, "expired")
TOO_MANY_REQUESTS = Code(111, "too many requests")
UNRECOVERABLE_POSITION = Code(112, "unrecoverable position")


class Disconnect:
    """Close codes. Clients come back after 3000 to 3499, and not after 3500 to 3999."""

    SHUTDOWN = Code(3001, "shutdown")
    SERVER_ERROR = Code(3004, "internal server error")
    EXPIRED = Code(3005, "connection expired")
    SLOW = Code(3008, "slow")
    INSUFFICIENT_STATE = Code(3010, "insufficient state")
    NO_PONG = Code(3012, "no pong")
    TOO_MANY_REQUESTS = Code(3013, "too many requests")
    INVALID_TOKEN = Code(3500, "invalid token")
    BAD_REQUEST = Code(3501, "bad request")
    PROTOBUF = Code(3501, "bad request: Protobuf is not served, use JSON")
    STALE = Code(3502, "stale")
    FORCED = Code(3503, "force disconnect")
    PERMISSION_DENIED = Code(3507, "permission denied")


class Unsubscribe:
    """Of a subscription that the server ends. Clients subscribe again from 2500 on."""

    SERVER = Code(2000, "server unsubscribe")
    INSUFFICIENT_STATE = Code(2500, "insufficient state")
    EXPIRED = Code(2501, "subscription expired")


class DisconnectClient(Exception):
    """A command is answered by the end of the connection.

    Attributes:
        code: of the end, one of `Disconnect`.
    """

    def __init__(self, code: Code) -> None:
        super().__init__(code.text)
        self.code = code
