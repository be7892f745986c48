"""The opening handshake of a client (RFC 6455 §4.1): request and response.

Sans-I/O: `Opening` produces the bytes of the request and processes those of the
response. It follows redirects by returning the next address; connecting to it, proxies
and timeouts are left to the clients. The server's side is `protocol.server_handshake`.
"""

from __future__ import annotations

import base64
import enum
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import unquote

from ..constants import VERSION
from ..deflate import EXTENSION, Agreement, Deflate, agree, parse_extensions
from ..deflate import offer as offer_deflate
from ..errors import (
    ConnectError,
    HandshakeError,
    HandshakeRefused,
    InvalidHandshake,
    InvalidURI,
)
from ..speedups import accept_key
from ..text import MASK, excerpt
from .fields import Headers
from .response_reader import ResponseReader
from .uri import URI

__all__ = [
    "Accepted",
    "Offer",
    "Opening",
    "Outcome",
    "basic",
    "without",
]

#: Seconds to wait for the body of a refusal, once the head of the refusal is complete.
BODY_TIMEOUT = 1.0
#: Redirects that are followed; as many as browsers' `fetch` had at first (RFC 2068).
MAX_REDIRECTS = 5

#: Longest hint searched for in the text of a refusal, in characters.
_SHORTEST_SECRET = 6

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

_HINTS = {
    200: "; this path serves plain HTTP: is it the right one?",
    401: "; give credentials: headers={'Authorization': ...} or user:password@host",
    403: "; the server may ask for another origin=... or other credentials",
    404: "; is the path right?",
    426: "; the server wants another protocol",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a client requests.

    Attributes:
        subprotocols: the supported ones, by preference.
        headers: additional header fields, for the server that the user named.
        cookies: names and values, for that server, too.
        origin: the origin of the page that connects; None for programs.
        user_agent: None sends none.
        compression: the offered parameters of permessage-deflate, or None.
    """

    # Not in the repr: any of these may be a credential.
    subprotocols: tuple[str, ...] = field(default=(), repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    cookies: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    origin: str | None = None
    user_agent: str | None = "simple_ws"
    compression: Deflate | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the server agreed to.

    Attributes:
        headers: of its response.
        subprotocol: one of those offered, or None.
        agreement: about compression, or None.
        rest: bytes after the response: the first frames.
    """

    headers: Headers
    subprotocol: str | None
    agreement: Agreement | None
    rest: bytes


class Outcome(enum.Enum):
    """The meaning of a response that is not an error."""

    OPEN = "open"
    #: `Opening.uri` has changed: connect to that address.
    REDIRECT = "redirect"


class Opening:
    """The opening handshake with a server, and with those it redirects to.

    Args:
        uri: the address given by the user.
        offer: what to request.
        stay: never follow a redirect to another origin: the connection does not depend
            on the address.

    Attributes:
        uri: the address to connect to now.
        accepted: what was agreed, once `receive` returned `Outcome.OPEN`.
    """

    accepted: Accepted

    def __init__(self, uri: URI, offer: Offer, *, stay: bool = False) -> None:
        self.uri = uri
        self._offer = offer
        self._stay = stay
        self._given_uri = uri
        self._same_origin = True  # not redirected to another origin yet
        self._redirects = 0
        self._key = ""
        self._reader = ResponseReader()

    def begin(self) -> bytes:
        """Return the request for `uri`; call it again after each redirect."""
        # RFC 6455 §4.1, 7: "randomly selected for each connection".
        self._key = base64.b64encode(os.urandom(16)).decode()
        self._reader = ResponseReader()
        return self._request().encode("latin-1")

    def receive(self, data: bytes) -> Outcome | None:
        """Process bytes of the response; return None while it is incomplete.

        Raises:
            InvalidHandshake: It violates RFC 6455 §4.1 or RFC 9112.
            HandshakeRefused: Its status is not 101, and it is complete.
        """
        try:
            self._reader.feed(data)
            return self._read_outcome()
        except HandshakeError as error:
            raise InvalidHandshake(self.uri.shown, str(error)) from None

    def receive_eof(self) -> Outcome:
        """The server has closed the connection.

        Raises:
            ConnectError: Before the head of its response was complete.
            HandshakeRefused: After that.
        """
        if not self._reader.status:
            when = "in the middle of" if self._reader.begun else "without"
            problem = f"the server closed the connection {when} an answer"
            raise ConnectError(self.uri.shown, problem)
        self._reader.feed_eof()
        outcome = self._read_outcome()
        assert outcome is not None
        return outcome

    @property
    def refused(self) -> bool:
        """Whether only the rest of a refusal's body is missing."""
        return self._reader.status not in (0, 101)

    def _request(self) -> str:
        """RFC 6455 §4.1; without credentials after a redirect to another origin.

        RFC 9110 §15.4: "the user agent SHOULD [...] Remove or replace header fields
        that [...] were not automatically generated from [...] the request's context".
        Any field set by the user may be a credential, whatever its name (X-Api-Key).
        """
        offer, uri, same_origin = self._offer, self.uri, self._same_origin
        fields = [
            ("Host", uri.authority),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", self._key),
            ("Sec-WebSocket-Version", VERSION),
        ]
        if offer.origin is not None:
            fields.append(("Origin", offer.origin))
        if offer.subprotocols:
            fields.append(("Sec-WebSocket-Protocol", ", ".join(offer.subprotocols)))
        if offer.compression is not None:
            fields.append(
                ("Sec-WebSocket-Extensions", offer_deflate(offer.compression))
            )
        if offer.user_agent is not None:
            fields.append(("User-Agent", offer.user_agent))
        if offer.cookies and same_origin:
            pairs = (f"{name}={value}" for name, value in offer.cookies)
            fields.append(("Cookie", "; ".join(pairs)))
        own = list(offer.headers) if same_origin else []
        named = any(name.lower() == "authorization" for name, _ in own)
        user = self._given_uri.user
        if user is not None and same_origin and not named:
            fields.append(("Authorization", basic(user, self._given_uri.password)))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields + own)
        return f"GET {uri.target} HTTP/1.1\r\n{lines}\r\n"

    def _read_outcome(self) -> Outcome | None:
        reader = self._reader
        if not reader.status:
            return None
        if reader.status == 101:
            self.accepted = self._check_upgrade()
            return Outcome.OPEN
        location = reader.headers.get("Location")
        if reader.status in _REDIRECTS and location is not None:
            self._follow(location)
            return Outcome.REDIRECT
        if reader.complete:
            self.refuse()
        return None

    # Redirects

    def _follow(self, location: str) -> None:
        """Follow a redirect, if that is safe."""
        try:
            uri = self.uri.join(location)
        except InvalidURI as error:
            self.refuse(f"; it redirects to {error}")
        self._redirects += 1
        if self._redirects > MAX_REDIRECTS:
            self.refuse(f"; there were more than {MAX_REDIRECTS} redirects")
        if self.uri.secure and not uri.secure:
            self.refuse(f"; it redirects to {uri.shown}, which has no TLS")
        if uri.origin != self._given_uri.origin:
            if self._stay:
                self.refuse(f"; it redirects to {uri.shown}, which is another server")
            self._same_origin = False
        self.uri = uri

    def refuse(self, hint: str | None = None) -> NoReturn:
        """Report a response other than 101, with the part of its body received so far.

        Raises:
            HandshakeRefused: Always.
        """
        reader = self._reader
        if hint is None:
            hint = _hint(reader.status, reader.headers)
        raise HandshakeRefused(
            self.uri.shown,
            f"the server answered {without(self._secrets(), reader.describe())}{hint}",
            reader.status,
            reader.headers,
            reader.body,
        )

    def _secrets(self) -> Iterator[str]:
        """Our credentials, which a refusal might quote."""
        for _, value in self._offer.headers + self._offer.cookies:
            yield value
            yield value.rpartition(" ")[2]  # after "Bearer"
        yield from self._offer.subprotocols
        if self._given_uri.password is not None:
            yield self._given_uri.password
            yield basic(self._given_uri.user or "", self._given_uri.password).split()[1]
        for part in self._given_uri.target.partition("?")[2].split("&"):
            value = part.partition("=")[2] or part
            yield value
            yield unquote(value)

    # The server's opening handshake (RFC 6455 §4.1, from "Once the client's...")

    def _check_upgrade(self) -> Accepted:
        reader = self._reader
        headers = reader.headers
        if reader.version < (1, 1):
            raise _wrong("it uses HTTP/1.0")
        # Repeated equal values are accepted; proxies and small devices send them.
        if set(headers.tokens("Upgrade")) != {"websocket"}:
            raise _wrong("its Upgrade field does not contain websocket")
        if "upgrade" not in headers.tokens("Connection"):
            raise _wrong("its Connection field does not contain Upgrade")
        if set(headers.get_all("Sec-WebSocket-Accept")) != {accept_key(self._key)}:
            raise _wrong("its Sec-WebSocket-Accept field does not match our key")
        subprotocol = self._check_subprotocol(headers)
        agreement = self._check_extensions(headers)
        return Accepted(headers, subprotocol, agreement, reader.rest)

    def _check_subprotocol(self, headers: Headers) -> str | None:
        # Small devices send an empty one to choose none.
        chosen = [name for name in headers.get_all("Sec-WebSocket-Protocol") if name]
        if not chosen:
            return None
        # §11.3.4: it "MUST NOT appear more than once in an HTTP response".
        if len(chosen) > 1 or chosen[0] not in self._offer.subprotocols:
            named = excerpt(", ".join(chosen))
            raise _wrong(f"subprotocol '{named}' was not offered")
        return chosen[0]

    def _check_extensions(self, headers: Headers) -> Agreement | None:
        try:
            found = parse_extensions(headers.get_all("Sec-WebSocket-Extensions"))
        except HandshakeError:
            raise _wrong("its Sec-WebSocket-Extensions field is malformed") from None
        agreement = None
        for name, parameters in found:
            config = self._offer.compression
            if name != EXTENSION or config is None or agreement is not None:
                raise _wrong(f"extension '{excerpt(name)}' was not offered")
            try:
                agreement = agree(parameters, config)
            except ValueError as error:
                raise _wrong(excerpt(str(error))) from None
        return agreement


def basic(user: str, password: str | None) -> str:
    """The value of an Authorization field for an address (RFC 7617 §2)."""
    return "Basic " + base64.b64encode(f"{user}:{password or ''}".encode()).decode()


def without(secrets: Iterable[str], text: str) -> str:
    """Text from a peer, with our credentials replaced by `***`.

    Short ones stay: they would mask common words.
    """
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, MASK)
    return text


def _wrong(problem: str) -> HandshakeError:
    return HandshakeError(400, f"the server's answer is wrong: {problem}")


def _hint(status: int, headers: Headers) -> str:
    versions = headers.get_all("Sec-WebSocket-Version")
    if versions:  # RFC 6455 §4.4
        spoken = excerpt(", ".join(versions))
        return f"; it supports version {spoken} of the protocol, not {VERSION}"
    return _HINTS.get(status, "")
