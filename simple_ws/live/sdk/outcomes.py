"""What an error means for a client: to try again, or to give up."""

from __future__ import annotations

import logging

from ...client.backoff import may_heal
from ...constants import CloseCause, CloseCode
from ...errors import (
    AuthenticationError,
    ConnectError,
    ConnectionClosed,
    connection_closed,
)
from .. import codes
from ..codes import LiveError

__all__ = [
    "DISCONNECT_EXPIRED",
    "TOKEN_EXPIRED",
    "closed_by",
    "is_final",
    "is_for_good",
    "is_temporary",
    "lost",
    "note_no_token",
    "refusal",
]

logger = logging.getLogger("simple_ws")

#: The error, and the close code, of a client whose token has expired.
TOKEN_EXPIRED, DISCONNECT_EXPIRED = 109, 3005


def closed_by(error: Exception | None) -> ConnectionClosed:
    """What calls raise after the end; None: the user has closed it."""
    if error is None:
        return connection_closed(CloseCode.NORMAL, "", CloseCause.LOCAL)
    if isinstance(error, ConnectionClosed):
        return connection_closed(error.code, error.reason, error.cause)
    if isinstance(error, LiveError):
        code, text = codes.Disconnect.INVALID_TOKEN.code, error.message
        closed = connection_closed(code, text, CloseCause.PEER)
    else:
        closed = lost(str(error), CloseCause.EOF)
    closed.__cause__ = error
    return closed


def lost(reason: str, cause: CloseCause) -> ConnectionClosed:
    """The connection is gone, without a word of the server."""
    return connection_closed(CloseCode.ABNORMAL, reason, cause)


def is_for_good(error: Exception) -> bool:
    """Whether the server advises not to come back, or it would not help."""
    if isinstance(error, ConnectError):
        return not may_heal(error)
    if isinstance(error, ConnectionClosed):
        code = error.code
        too_big = code == CloseCode.MESSAGE_TOO_BIG
        return 3500 <= code < 4000 or 4500 <= code < 5000 or too_big
    return not isinstance(error, LiveError)


def is_temporary(error: LiveError) -> bool:
    """Whether the server advises to try it again."""
    return error.temporary or error.code <= codes.INTERNAL.code


def is_final(token: str | Exception) -> bool:
    """Whether the user says that there is no token for this client."""
    return token == "" or isinstance(token, AuthenticationError)


def refusal(token: str | Exception) -> Exception:
    """Why a client without a token has ended."""
    if isinstance(token, Exception):
        return token
    return LiveError(*codes.UNAUTHORIZED)


def note_no_token(error: Exception) -> None:
    """A function for tokens has failed."""
    # Not its text, which may contain the address of a token server.
    logger.warning("live: no token: %s", type(error).__name__)
