"""The host that a request is for (RFC 9112 §3.2), and whether this server is it."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

from ..errors import HandshakeError
from .grammar import ABSOLUTE_FORM
from .request import Request

__all__ = ["asked_host", "check_allowed_host", "check_host", "host_name"]

#: RFC 3986 §3.2.2 and §3.2.3, without validating addresses.
_NAME = r"[A-Za-z0-9\-._~!$&'()*+,;=%"
_HOST = re.compile(rf"(?:{_NAME}]*|\[{_NAME}:]+\])(?::[0-9]*)?")
#: An address in brackets, bare IPv6, or a name; optionally a port.
_HOST_PARTS = re.compile(r"\[([^]]+)\](?::[0-9]*)?|([^:]*:[^:]*:.*|[^:]+?)(?::[0-9]*)?")


def asked_host(request: Request) -> str:
    """The host that a request is for, with its port if any; "" when it has none.

    RFC 9112 §3.2.2: if the target is in absolute form, Host is ignored.
    """
    authority = ABSOLUTE_FORM.match(request.target)
    if authority is None:
        return request.headers.get("Host", "")
    return authority[0].partition("://")[2]


def host_name(host: str) -> str:
    """The name or address in a Host header, lower case, without port and final dot."""
    match = _HOST_PARTS.fullmatch(host)
    if match is None:
        return host.lower()
    return (match[1] or match[2]).lower().removesuffix(".")


def check_allowed_host(request: Request, allowed: Collection[str]) -> None:
    """Refuse a request that is for another server (RFC 9110 §7.4).

    After DNS rebinding a page's Host header still has the page's own name, because the
    browser does not allow it to be changed.

    Args:
        request: also refused when it names no host.
        allowed: names as from `host_name`, "*.example.com" for all subdomains of a
            name, or "*".

    Raises:
        HandshakeError: 421.
    """
    # An application may use either, if the target has a host as well.
    for host in {asked_host(request), *request.headers.get_all("Host")}:
        name = host_name(host)
        if not any(_is_allowed(name, rule) for rule in allowed):
            raise HandshakeError(421, "This server does not serve this host.")


def _is_allowed(name: str, rule: str) -> bool:
    if rule.startswith("*"):
        return name != "" and name.endswith(rule[1:])
    return name == rule


@lru_cache(maxsize=256)  # a server has few names
def check_host(host: str) -> None:
    """Check the value of a Host header.

    Raises:
        HandshakeError: 400. RFC 9112 §3.2: "A server MUST respond with a 400 (Bad
            Request) status code to any HTTP/1.1 request message that [...] contains
            [...] a Host header field with an invalid field value".
    """
    if not _HOST.fullmatch(host):
        raise HandshakeError(400, "The Host header is malformed.")
