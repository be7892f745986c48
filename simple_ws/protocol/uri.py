"""Addresses: `ws://user:password@host:port/path?query` (RFC 6455 §3, RFC 3986).

`parse_uri` converts an address written by a user, with international host names and
paths, into its form on the wire. `URI.join` resolves redirects; resolving the name and
connecting are left to the clients.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import NoReturn
from urllib.parse import quote, unquote, urljoin

from ..errors import InvalidURI
from ..text import HOST_AND_PORT, excerpt, redacted

__all__ = ["URI", "parse_uri"]

#: Schemes, and whether they mean TLS. A WebSocket begins as HTTP, so HTTP addresses are
#: accepted too.
_SCHEMES = {"ws": False, "wss": True, "http": False, "https": True}

_SHAPE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?")
#: Characters of a name (RFC 952), and the underscore of container networks.
_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?")
_SPACE = re.compile(r"[\x00-\x20\x7f]")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
#: RFC 3986 §3.2.1 forbids these; some parsers end the host at a backslash.
_BAD_USERINFO = re.compile(r"%(?![0-9A-Fa-f]{2})|[\\\"<>^`{|}\[\]\ud800-\udfff]")
#: RFC 6874 §2, unreserved characters only: `getaddrinfo` fails in odd ways on others.
_ZONE = re.compile(r"[0-9A-Za-z._~-]{1,32}")

#: Longer than any name that IDNA encodes into 253 characters: the codec is slow.
_LONGEST_HOST = 2048

#: RFC 3986 §3.3: what a path may contain unencoded, besides letters and digits; `%` is
#: checked before. A query may contain a question mark as well (§3.4).
_PATH_SAFE = "/%:@!$&'()*+,;=~-._"
_QUERY_SAFE = _PATH_SAFE + "?"


@dataclass(frozen=True, slots=True, repr=False)
class URI:
    """The address of a WebSocket server, as sent on the wire.

    Attributes:
        secure: with TLS.
        host: name in ASCII and lower case, or IP address without brackets.
        port: 1 to 65535.
        target: path and query, percent-encoded; begins with a slash.
        user, password: decoded; None where the address has none.
    """

    secure: bool
    host: str
    port: int
    target: str
    user: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        """The address with its query, but without user and password."""
        scheme, host = "wss" if self.secure else "ws", self.authority
        zone = self.host.partition("%")[2]
        if zone:  # RFC 6874 §2: "the percent sign [...] MUST be encoded"
            host = host.replace("]", f"%25{zone}]")
        return f"{scheme}://{host}{self.target}"

    def __repr__(self) -> str:
        return f"<URI {self.shown}>"

    @property
    def shown(self) -> str:
        """The address for logs and errors: without tokens in its query, and short."""
        return excerpt(redacted(str(self)))

    @property
    def origin(self) -> tuple[bool, str, int]:
        """What must be equal for credentials to be sent again."""
        return self.secure, self.host, self.port

    @property
    def authority(self) -> str:
        """The value of the Host field (RFC 9110 §7.2): no default port."""
        if self.port == (443 if self.secure else 80):
            return self._bracketed
        return f"{self._bracketed}:{self.port}"

    @property
    def host_and_port(self) -> str:
        """The target of a proxy's CONNECT (RFC 9110 §9.3.6)."""
        return f"{self._bracketed}:{self.port}"

    @property
    def tls_name(self) -> str:
        """The name that the certificate must be for."""
        return self.host.partition("%")[0].rstrip(".")

    @property
    def _bracketed(self) -> str:
        # RFC 6874 §4: a zone is only meaningful on this machine.
        host = self.host.partition("%")[0]
        return f"[{host}]" if ":" in host else host

    def join(self, location: str) -> URI:
        """Resolve the Location of a redirect (RFC 9110 §10.2.2).

        Raises:
            InvalidURI: It is not the address of a WebSocket server.
        """
        # `urljoin` knows http on every Python; both schemes mean the same here.
        base = f"http{str(self).removeprefix('ws')}"
        # Fields are read as latin-1; many servers send UTF-8 there.
        raw = location.encode("latin-1", "surrogateescape")
        text = raw.decode("utf-8", "replace")
        try:
            joined = urljoin(base, text)
        except ValueError:  # from brackets, or from the host after NFKC
            _refuse(text, "it is not an address")
        return parse_uri(joined.partition("#")[0])


def parse_uri(url: str) -> URI:
    """Parse the address of a WebSocket server.

    Args:
        url: with the scheme ws, wss, http or https; host and path may contain any
            letters.

    Raises:
        TypeError: It is not a str.
        InvalidURI: It is not such an address; the error says what is wrong.
    """
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, not {type(url).__name__}")
    if _SPACE.search(url):
        _refuse(url, "it contains a space or a control character")
    shape = _SHAPE.fullmatch(url)
    if shape is None:
        _refuse(url, "it must begin like ws://host/ or wss://host/")
    scheme, authority, path, query, fragment = shape.groups()
    if scheme.lower() not in _SCHEMES:
        _refuse(url, f"the scheme must be ws or wss, not {excerpt(scheme)}")
    if fragment is not None:
        # RFC 6455 §3: "fragment identifiers are meaningless in the context of
        # WebSocket URIs and MUST NOT be used".
        _refuse(url, "a WebSocket address has no fragment; write a # in it as %23")
    secure = _SCHEMES[scheme.lower()]
    userinfo, host, port = _split_authority(url, authority)
    user, password = _read_userinfo(url, userinfo)
    return URI(
        secure,
        _read_host(url, host),
        _read_port(url, port) or (443 if secure else 80),
        _encode(url, path or "/", _PATH_SAFE) + _encode(url, query or "", _QUERY_SAFE),
        user,
        password,
    )


def _refuse(url: str, problem: str) -> NoReturn:
    raise InvalidURI(excerpt(redacted(url)), problem)


def _split_authority(url: str, authority: str) -> tuple[str | None, str, str | None]:
    userinfo, at, rest = authority.rpartition("@")
    parts = HOST_AND_PORT.fullmatch(rest)
    if parts is None:
        _refuse(url, "the part before the path must be host or host:port")
    return userinfo if at else None, parts[1], parts[2]


def _read_userinfo(url: str, userinfo: str | None) -> tuple[str | None, str | None]:
    if not userinfo:
        return None, None
    if _BAD_USERINFO.search(userinfo):
        _refuse(url, "percent-encode the special characters of user and password")
    user, colon, password = userinfo.partition(":")
    user, password = unquote(user), unquote(password)
    if ":" in user:
        # RFC 7617 §2: "a user-id containing a colon character is invalid".
        _refuse(url, "the user name must not contain a colon")
    return user, password if colon else None


def _read_host(url: str, host: str) -> str:
    if host.startswith("["):
        return _read_ipv6(url, host[1:-1])
    if len(host) > _LONGEST_HOST:
        _refuse(url, "its host name is too long")
    try:
        # Python's codec implements IDNA 2003, like the resolver of `socket`.
        name = unquote(host, errors="strict").lower().encode("idna").decode()
    except UnicodeError:
        _refuse(url, f"'{excerpt(host)}' is not a host name")
    if not name:
        _refuse(url, "it has no host")
    if len(name) > 253 or not _NAME.fullmatch(name):
        _refuse(url, f"'{excerpt(host)}' is not a host name")
    return name


def _read_ipv6(url: str, text: str) -> str:
    # RFC 6874 §2 writes the zone after %25; people write what `ip` prints.
    address, percent, zone = text.replace("%25", "%", 1).partition("%")
    try:
        host = str(IPv6Address(address))
    except AddressValueError:
        _refuse(url, f"'{excerpt(text)}' is not an IPv6 address")
    if percent and not _ZONE.fullmatch(zone):
        _refuse(url, f"'{excerpt(zone)}' is not a zone of an IPv6 address")
    return host + percent + zone


def _read_port(url: str, port: str | None) -> int | None:
    if not port:
        return None  # RFC 3986 §3.2.3: an empty port is the default one
    number = int(port) if len(port) <= 5 else 0
    if not 1 <= number <= 65535:
        _refuse(url, f"the port must be from 1 to 65535, not {excerpt(port)}")
    return number


def _encode(url: str, text: str, safe: str) -> str:
    """Percent-encode what must not be sent as it is; keep what is encoded already."""
    if _BAD_PERCENT.search(text):
        _refuse(url, "write a % in path or query as %25")
    try:
        return quote(text, safe=safe)
    except UnicodeEncodeError:
        _refuse(url, "path or query are not valid Unicode")
