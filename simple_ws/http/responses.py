"""The response that a return value, a refusal or a failure becomes."""

from __future__ import annotations

from typing import Any

from ..connection.log import Log
from ..constants import Delivered, SendStatus
from ..errors import FAILED, HandshakeError
from ..protocol.response import Response
from ..protocol.server_handshake import refusal
from ..speedups import ConnectionCore

__all__ = ["refused_by", "response_of", "server_error", "unauthorized"]

#: Return values of our own functions, as in `return server.broadcast(msg)`.
_NO_ANSWER = (SendStatus, Delivered, ConnectionCore)


def refused_by(error: HandshakeError, log: Log) -> Response:
    """The answer that a refusal asks for; 500 where that one cannot be sent.

    A header field may contain a line break, the text half of a surrogate pair: both are
    easily copied from a client's request.
    """
    try:
        return refusal(error)
    except (TypeError, ValueError) as problem:
        log.note_failure(
            "refusals could not be sent",
            "a refusal with %s cannot be sent: %s",
            error.status,
            problem,
        )
        return server_error()


def server_error() -> Response:
    """The response when user code failed, without details."""
    return Response(500, f"{FAILED}\n")


def unauthorized() -> HandshakeError:
    """The refusal for an `AuthenticationError`, without details."""
    return HandshakeError(401, "Who are you?", [("WWW-Authenticate", "Bearer")])


def response_of(given: Any) -> Response:
    """The response for the return value of a user function.

    Raises:
        TypeError: It cannot be a response.
        ValueError: Its status is not a final one.
    """
    if given is None or isinstance(given, _NO_ANSWER):
        return Response(204)
    if not isinstance(given, Response):
        return Response(200, given)
    if given.status < 200:
        raise ValueError(f"an answer must have a status of 200 or more, not {given!r}")
    return given
