"""Every exception of the package.

    WebSocketError
    ├── ProtocolError              the peer broke RFC 6455 or RFC 7692     1002
    │   ├── InvalidData            text that is not UTF-8, broken deflate  1007
    │   ├── MessageTooBig          larger than `max_size`                  1009
    │   ├── RateExceeded           too many messages or empty fragments    1008
    │   └── ServerOverloaded       more than `max_buffered_input` waits    1013
    ├── HandshakeError             the opening handshake failed        HTTP status
    │   └── BadRequest             a plain or opening request is faulty        400
    │       └── MissingField       it lacks a value (a KeyError as well)       400
    ├── AuthenticationError        wrong credentials            HTTP 401, 1008
    │   └── TokenError             a token is not valid
    │       └── TokenExpired       it was valid before, or will be later
    ├── KeysUnavailable            the keys of tokens cannot be read at present
    ├── EngineError                a `Publisher` could not publish
    ├── InvalidState               a call that is not allowed in this state
    ├── StartupFailed              an ASGI application says that it cannot start
    ├── ConnectError               clients: the connection failed
    │   ├── InvalidURI             the address is wrong (a ValueError as well)
    │   ├── ConnectTimeout         not within `open_timeout` (a TimeoutError as well)
    │   ├── TLSError               no TLS, or a certificate that is not accepted
    │   ├── ProxyError             the proxy refused to connect
    │   ├── InvalidHandshake       the answer breaks RFC 6455 §4.1
    │   └── HandshakeRefused       a status other than 101             HTTP status
    ├── ConnectionClosed           clients: the connection has ended    close code
    │   ├── ConnectionClosedOK     as it should                   1000, 1001, 1005
    │   └── ConnectionClosedError  otherwise                         all other codes
    └── live.LiveError             a command of `live` is refused       its own code

A peer's mistake is raised in the codecs and caught in one place, which fails that
connection; a caller's mistake is raised at once to the caller, as `InvalidState`,
`ValueError` or `TypeError`. When a client's connection has ended, the call that needs
it open raises `ConnectionClosedOK` or `ConnectionClosedError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .constants import QUIET_CODES, CloseCause, CloseCode

__all__ = [
    "AuthenticationError",
    "BadRequest",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "EngineError",
    "HandshakeError",
    "HandshakeRefused",
    "InvalidData",
    "InvalidHandshake",
    "InvalidState",
    "InvalidURI",
    "KeysUnavailable",
    "MessageTooBig",
    "MissingField",
    "ProtocolError",
    "ProxyError",
    "RateExceeded",
    "ServerOverloaded",
    "StartupFailed",
    "TLSError",
    "TokenError",
    "TokenExpired",
    "WebSocketError",
]

# Texts that are used in several places.
NO_CLOSE_FRAME = "connection closed without a close frame"
NO_ANSWER = "no answer to our close frame"
ONE_HOST = "The request needs exactly one Host header."
NOT_FOUND = "There is nothing at this path."
FAILED = "The server failed."


class WebSocketError(Exception):
    """Root of all exceptions of this package.

    All of them can be pickled and copied with their attributes, so they come back from
    a process pool as they were raised. As with every Python exception, `__cause__` is
    not kept.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # `BaseException` would call the class with `args`, which may not match its
        # `__init__`, nor that of a user's subclass.
        return _restore, (type(self), self.args), self.__dict__ or None


def _restore(kind: type[WebSocketError], args: tuple[Any, ...]) -> WebSocketError:
    """Recreate an exception without its attributes; pickle needs it by name."""
    error = kind.__new__(kind)
    error.args = args
    return error


class ProtocolError(WebSocketError):
    """The peer broke a rule of RFC 6455 or RFC 7692.

    Attributes:
        code: close code the connection is failed with (RFC 6455 §7.4.1).
        cause: the connection's `close_cause`.
    """

    code = CloseCode.PROTOCOL_ERROR
    cause = CloseCause.PROTOCOL_ERROR


class InvalidData(ProtocolError):
    """A payload does not match its type (RFC 6455 §8.1, RFC 7692 §6.2)."""

    code = CloseCode.INVALID_DATA
    cause = CloseCause.BAD_DATA


class MessageTooBig(ProtocolError):
    """A message exceeds `max_size`."""

    code = CloseCode.MESSAGE_TOO_BIG
    cause = CloseCause.TOO_BIG


class RateExceeded(ProtocolError):
    """The peer sent more than the rate limits allow, or too many empty fragments."""

    code = CloseCode.POLICY_VIOLATION
    cause = CloseCause.RATE


class ServerOverloaded(ProtocolError):
    """The clients have sent more input that is incomplete, or waits, than
    `max_buffered_input`; this one had sent the most."""

    code = CloseCode.TRY_AGAIN_LATER
    cause = CloseCause.OVERLOADED


class HandshakeError(WebSocketError):
    """The opening handshake cannot succeed (RFC 6455 §4).

    Attributes:
        status: HTTP status of the refusal.
        headers: additional header fields for it, as (name, value) pairs.
    """

    def __init__(
        self, status: int, reason: str, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = tuple(headers)


class BadRequest(HandshakeError):
    """A request does not have what the program needs: the client is answered 400.

    Raised when a request is read: by `Request.json`, `text` and `form`, and by indexing
    `query`, `headers` and `cookies`. Unless it is caught, the answer is sent without a
    traceback in the log. Programs may raise it as well.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(400, reason)


class MissingField(BadRequest, KeyError):
    """A request lacks a value that the program looked up by its name.

    Attributes:
        kind: what is missing, such as "query parameter".
        name: its name.
    """

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"The {kind} {name!r} is missing.")
        self.args = (kind, name)
        self.kind = kind
        self.name = name

    def __str__(self) -> str:
        return f"The {self.kind} {self.name!r} is missing."


class AuthenticationError(WebSocketError):
    """Wrong credentials; to be raised by your callbacks.

    Raised in `on_request`, it refuses the client with 401; in any other callback it
    closes the client with 1008. The text goes only to the log, so that it reveals
    nothing to the peer.
    """


class TokenError(AuthenticationError):
    """A token is not valid; see `tokens.Tokens`."""


class TokenExpired(TokenError):
    """A token has expired, or is not valid yet; all else was right."""


class KeysUnavailable(WebSocketError):
    """The keys that verify tokens cannot be read at present: try again."""


class EngineError(WebSocketError):
    """A `Publisher` could not publish, or does not know whether it did.

    Attributes:
        url: of the engine, without user, password and options.
        problem: what was wrong.
        unsure: the message was sent and not confirmed: it may have been published all
            the same. False: it certainly was not.
    """

    def __init__(self, url: str, problem: str, unsure: bool = False) -> None:
        super().__init__(url, problem, unsure)
        self.url = url
        self.problem = problem
        self.unsure = unsure

    def __str__(self) -> str:
        unsure = "; the message may have been published" if self.unsure else ""
        return f"{self.url}: {self.problem}{unsure}"


class InvalidState(WebSocketError):
    """The call is not allowed in this state, such as `run` on a running server."""


class StartupFailed(WebSocketError):
    """An application of `Server.asgi` could not start, in its own words."""


class ConnectError(WebSocketError):
    """A client could not connect.

    Raised as this class when the server cannot be reached: its name is unknown, nothing
    listens, the network is down; then `__cause__` is the system's `OSError`.

    Attributes:
        url: the address, without user and password, and with `***` for the values in
            its query, which may be tokens.
        problem: what was wrong, and what to try if that is known.
    """

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(url, problem)
        self.url = url
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.url}: {self.problem}"

    def __repr__(self) -> str:
        # Not all of `args`: the header fields of a response may contain a new cookie.
        return f"{type(self).__name__}({str(self)!r})"


class InvalidURI(ConnectError, ValueError):
    """The address is not a URL of a WebSocket server (RFC 6455 §3), or of a proxy."""


class ConnectTimeout(ConnectError, TimeoutError):
    """The connection was not open within `open_timeout`."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(url, problem)
        # `OSError` would take two arguments for an errno and its text.
        self.errno = self.strerror = None


class TLSError(ConnectError):
    """The TLS handshake failed; `__cause__` is the `ssl.SSLError`."""


class InvalidHandshake(ConnectError):
    """The server's answer to the opening handshake breaks RFC 6455 §4.1."""


class ProxyError(ConnectError):
    """The proxy could not be reached, or refused to connect.

    Attributes:
        status: HTTP status of the proxy's response, 0 if there was none.
        headers: its header fields.
        body: the first bytes of its body.
    """

    def __init__(
        self,
        url: str,
        problem: str,
        status: int = 0,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        super().__init__(url, problem)
        self.status = status
        self.headers: Mapping[str, str] = {} if headers is None else headers
        self.body = body


class HandshakeRefused(ConnectError):
    """The server answered the opening handshake with a status other than 101.

    Attributes:
        status: the HTTP status.
        headers: the header fields of the answer; names are case-insensitive.
        body: the first bytes of its body, at most 1 KiB.
    """

    def __init__(
        self,
        url: str,
        problem: str,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
    ) -> None:
        super().__init__(url, problem)
        self.args = (url, problem, status, headers, body)
        self.status = status
        self.headers = headers
        self.body = body


class ConnectionClosed(WebSocketError):
    """A client's connection has ended: nothing more can be sent or received.

    What is raised is one of its subclasses, which the close code decides.

    Attributes:
        code: the close code (RFC 6455 §7.4); 1005 without one, 1006 without a close
            frame.
        reason: the text sent with it.
        cause: why it ended, see `CloseCause`.
    """

    def __init__(self, code: int, reason: str, cause: CloseCause) -> None:
        super().__init__(code, reason, cause)
        self.code = code
        self.reason = reason
        self.cause = cause

    def __str__(self) -> str:
        reason = f" {self.reason!r}" if self.reason else ""
        return f"closed with {self.code}{reason} ({self.cause})"


class ConnectionClosedOK(ConnectionClosed):
    """A connection has ended as it should: with 1000, 1001, or a close frame without
    a code (1005). An iteration over messages stops there."""


class ConnectionClosedError(ConnectionClosed):
    """A connection has ended with a code that means a fault, or without a close frame
    (1006)."""


def connection_closed(code: int, reason: str, cause: CloseCause) -> ConnectionClosed:
    """The exception for a connection that has ended with this code."""
    kind = ConnectionClosedOK if code in QUIET_CODES else ConnectionClosedError
    return kind(code, reason, cause)
