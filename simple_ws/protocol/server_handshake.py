"""The opening handshake (RFC 6455 §4): validating the request, and the response.

Sans-I/O: requests in, bytes out. Finding the handler of a path and asking the user are
left to the server.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence

from ..constants import TOKEN, UPGRADE_HEAD, VERSION
from ..errors import ONE_HOST, HandshakeError
from ..speedups import accept_key
from .fields import Headers
from .host import asked_host, check_host
from .http11 import check_single_origin
from .request import Request
from .response import Response, check_field

__all__ = [
    "check_origin",
    "check_upgrade",
    "offered_subprotocols",
    "origin_matches",
    "plain_origin",
    "refusal",
    "upgrade_response",
]

_TOKEN = re.compile(TOKEN)
_UPGRADE = (("Upgrade", "websocket"), ("Connection", "Upgrade"))

#: Longest Origin that patterns are tried on, in characters: a name has at most 253, and
#: two stars in a pattern take quadratic time.
_MAX_ORIGIN = 512

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}

#: Values of `origins`: exact origins as from `plain_origin`, "same" for the request's
#: own host, compiled patterns, and None for requests without an Origin.
OriginRule = str | re.Pattern[str] | None


def check_upgrade(request: Request) -> str:
    """Check the client's opening handshake (RFC 6455 §4.2.1).

    Returns:
        Its `Sec-WebSocket-Key`.

    Raises:
        HandshakeError: 400, 405 or 426; the text says what was wrong.
    """
    if request.method != "GET":
        raise HandshakeError(
            405,
            f"A WebSocket handshake must be a GET request, not {request.method}.",
            [("Allow", "GET")],
        )
    if request.version < (1, 1):
        raise HandshakeError(400, "A WebSocket handshake needs HTTP/1.1 or higher.")
    headers = request.headers
    if "Upgrade" not in headers and "Sec-WebSocket-Key" not in headers:
        raise HandshakeError(
            426, "This address serves WebSocket, not plain HTTP.", _UPGRADE
        )
    _check_fields(headers)
    return _check_key(headers)


def _check_fields(headers: Headers) -> None:
    hosts = headers.get_all("Host")
    if len(hosts) != 1:
        raise HandshakeError(400, ONE_HOST)
    check_host(hosts[0])
    check_single_origin(headers)
    if "websocket" not in headers.tokens("Upgrade"):
        raise HandshakeError(400, "The Upgrade header must name websocket.")
    if "upgrade" not in headers.tokens("Connection"):
        raise HandshakeError(400, "The Connection header must name Upgrade.")
    # A body would be parsed as frames.
    lengths = set(headers.get_all("Content-Length"))
    if "Transfer-Encoding" in headers or not lengths <= {"0"}:
        raise HandshakeError(400, "A WebSocket handshake must not have a body.")
    versions = headers.get_all("Sec-WebSocket-Version")
    if not versions:
        raise HandshakeError(400, "The Sec-WebSocket-Version header is missing.")
    if versions != [VERSION]:
        # RFC 6455 §4.4: answer with the supported versions.
        raise HandshakeError(
            426,
            f"Only version {VERSION} of the WebSocket protocol is supported, "
            f"not {', '.join(versions)[:40]}.",
            [("Sec-WebSocket-Version", VERSION), *_UPGRADE],
        )


def _check_key(headers: Headers) -> str:
    keys = headers.get_all("Sec-WebSocket-Key")
    if len(keys) != 1:
        raise HandshakeError(
            400, "The request needs exactly one Sec-WebSocket-Key header."
        )
    try:
        nonce = base64.b64decode(keys[0], validate=True)
    except (binascii.Error, ValueError):
        nonce = b""
    if len(nonce) != 16:
        raise HandshakeError(
            400, "Sec-WebSocket-Key must be 16 bytes encoded as base64."
        )
    return keys[0]


def check_origin(
    request: Request,
    allowed: Sequence[OriginRule] | None,
    scheme: str | None = None,
    hosts: Sequence[str] = (),
) -> None:
    """Refuse a page that may not connect (RFC 6455 §10.2).

    Args:
        request: the handshake.
        allowed: None allows every origin.
        scheme: "http" or "https", as used by the client; None when unknown: a proxy
            that is not in `trusted_proxies` may have terminated TLS.
        hosts: further hosts, besides the request's, that the client may have asked for.

    Raises:
        HandshakeError: 403. Its notes say what was compared, for the log.
    """
    if allowed is None:
        return
    origin = request.origin
    own = _own_origins(request, scheme, hosts) if "same" in allowed else ()
    if any(origin_matches(origin, rule, own) for rule in allowed):
        return
    if origin is None:
        raise HandshakeError(403, "The Origin header is missing.")
    error = HandshakeError(403, "Pages of this Origin may not connect here.")
    compared = ", ".join([asked_host(request), *hosts])
    error.add_note(f"Origin {origin[:200]!a}, asked for {compared[:200]!a}")
    raise error


def _own_origins(
    request: Request, scheme: str | None, hosts: Sequence[str]
) -> tuple[str, ...]:
    """The origins of pages from this server."""
    schemes = ("http", "https") if scheme is None else (scheme,)
    asked = asked_host(request), *hosts
    origins = (plain_origin(f"{one}://{host}") for one in schemes for host in asked)
    return tuple(origin for origin in origins if not origin.endswith("//"))


def origin_matches(origin: str | None, rule: OriginRule, own: Sequence[str]) -> bool:
    """Whether an origin is allowed by a rule.

    Args:
        origin: as in the request.
        rule: "same" stands for `own`.
        own: the origins of pages from this server.
    """
    if origin is None or rule is None:
        return origin is rule
    if isinstance(rule, re.Pattern):
        return len(origin) <= _MAX_ORIGIN and rule.fullmatch(origin) is not None
    origin = plain_origin(origin)
    if rule == "same":
        return origin in own
    return origin == rule


def plain_origin(origin: str) -> str:
    """An origin in lower case, without the default port of its scheme.

    RFC 6454 §4 and §6: both forms are the same origin.
    """
    origin = origin.lower()
    return origin.removesuffix(_DEFAULT_PORTS.get(origin.partition("://")[0], ""))


def offered_subprotocols(headers: Headers) -> list[str]:
    """The subprotocols offered by the client, by its preference (RFC 6455 §4.1, 10).

    An empty field offers nothing, like a missing one.


    Raises:
        HandshakeError: 400, an element is not a token.
    """
    lines = headers.get_all("Sec-WebSocket-Protocol")
    if not any(lines):
        return []
    elements = [name.strip(" \t") for name in ",".join(lines).split(",")]
    # RFC 9110 §5.6.1.2: "A recipient MUST parse and ignore a reasonable number of
    # empty list elements".
    offered = [name for name in elements if name]
    if not offered or not all(map(_TOKEN.fullmatch, offered)):
        raise HandshakeError(400, "The Sec-WebSocket-Protocol header is malformed.")
    return offered


def upgrade_response(
    key: str,
    subprotocol: str | None = None,
    extensions: str | None = None,
    fields: Sequence[tuple[str, str]] = (),
) -> bytes:
    """The server's opening handshake (RFC 6455 §4.2.2).

    Raises:
        ValueError: One of the further header fields is malformed.
    """
    head = f"{UPGRADE_HEAD.decode()}{accept_key(key)}\r\n"
    if subprotocol is not None:
        head += f"Sec-WebSocket-Protocol: {subprotocol}\r\n"
    if extensions is not None:
        head += f"Sec-WebSocket-Extensions: {extensions}\r\n"
    for name, value in fields:
        check_field(name, value)
        head += f"{name}: {value}\r\n"
    return f"{head}\r\n".encode("latin-1")


def refusal(error: HandshakeError) -> Response:
    """The HTTP response to a failed handshake; its body gives the reason."""
    return Response(error.status, f"{error}\n", error.headers)
