"""Proxies of the clients: choosing one, and the CONNECT of HTTP (RFC 9110 §9.3.6).

RFC 6455 §4.1 has a client with a proxy ask that proxy for a TCP connection to the
server, with TLS or without. Sans-I/O, except that it reads the environment. What SOCKS
proxies are asked is left to `client.socks`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import NamedTuple

from ..errors import HandshakeError, InvalidURI, ProxyError
from ..text import excerpt, redacted
from .client_handshake import basic, without
from .no_proxy import is_direct
from .response_reader import ResponseReader
from .uri import URI, parse_uri

__all__ = ["ASKS_SYSTEM", "Proxy", "Socks", "Tunnel", "parse_proxy", "proxy_for"]

#: Whether the system has settings in addition to the environment. Reading them may be
#: slow: Windows resolves names.
ASKS_SYSTEM = sys.platform in ("win32", "darwin")


#: Schemes of SOCKS, and whether the proxy resolves the names of servers.
_SOCKS = {"socks5": False, "socks5h": True, "socks4": False, "socks4a": True}
#: RFC 1928 §3.
_SOCKS_PORT = 1080


class Socks(NamedTuple):
    """A SOCKS proxy (RFC 1928).

    Attributes:
        version: 4 or 5.
        resolves: it is asked for names, and not for addresses.
        uri: host, port, user and password.
    """

    version: int
    resolves: bool
    uri: URI

    @property
    def host_and_port(self) -> str:
        """For errors."""
        return self.uri.host_and_port


#: An HTTP proxy, or one of SOCKS.
Proxy = URI | Socks


def parse_proxy(address: str) -> Proxy:
    """Parse the address of a proxy: "http://user:password@host:port" or "host:port".

    Or "socks5://host:port"; socks5h has the proxy resolve names. Likewise socks4 and
    socks4a.

    Raises:
        ValueError: It is not an address, the proxy is of another kind, or python-socks
            is not installed.
    """
    scheme = address.partition("://")[0].lower() if "://" in address else ""
    if scheme in _SOCKS:
        return _parse_socks(scheme, address)
    if scheme not in ("", "http"):
        kinds = "http:// and socks5://"
        raise ValueError(f"only {kinds} proxies are supported, not {scheme}://")
    return parse_uri(address if scheme else f"http://{address}")


def _parse_socks(scheme: str, address: str) -> Socks:
    if find_spec("python_socks") is None:
        raise ValueError(f"{scheme}:// needs the package python-socks (extra socks)")
    rest = address.partition("://")[2]
    uri = parse_uri(f"http://{rest}")
    if uri.port == 80 and parse_uri(f"https://{rest}").port == 443:  # none is given
        uri = replace(uri, port=_SOCKS_PORT)
    return Socks(int(scheme[5]), _SOCKS[scheme], uri)


def proxy_for(uri: URI) -> Proxy | None:
    """The proxy for a server from the environment or the system settings, if any.

    For wss it is `wss_proxy` or `https_proxy`, for ws `ws_proxy` or `http_proxy`,
    otherwise `all_proxy`. A proxy of an unsupported kind, which is SOCKS where
    python-socks is missing, is skipped if another one can be used; the last resort is
    the one for the other scheme. Servers on this machine, and those in `no_proxy` (see
    `no_proxy.is_direct`), are connected to directly.

    Raises:
        InvalidURI: All proxies are of an unsupported kind.
    """
    if not (proxies := _environment()) and ASKS_SYSTEM:
        proxies = _system_settings(uri)
    if not proxies or is_direct(uri, proxies.get("no", "")):
        return None
    kinds = ("wss", "https", "all") if uri.secure else ("ws", "http", "all")
    named = [proxies[kind] for kind in kinds if kind in proxies]
    if not named:
        return None
    named += [proxies[kind] for kind in ("https", "http") if kind in proxies]
    problems = []
    for address in named:
        try:
            return parse_proxy(address)
        except ValueError as error:
            why = error.problem if isinstance(error, InvalidURI) else str(error)
            problems.append(f"{excerpt(redacted(address))}, cannot be used: {why}")
    raise InvalidURI(
        uri.shown,
        f"the proxy from the environment, {problems[0]}; pass proxy='http://host:port' "
        "to use another one, or proxy=None to connect directly; the variable no_proxy "
        "lists servers to connect to directly",
    )


def _environment() -> dict[str, str]:
    """The variables `*_proxy`, by the part before `_proxy`, in lower case.

    The rules of `urllib`: a lower-case name wins, and an empty one hides the other.
    """
    found = {}
    named = [
        (name[:-6].lower(), value, name)
        for name, value in os.environ.items()
        if name[-6:].lower() == "_proxy"
    ]
    for kind, value, name in sorted(named, key=lambda entry: entry[2].islower()):
        # CVE-2016-1000110: for a CGI program this is the request's field `Proxy`.
        if name == "HTTP_PROXY" and "REQUEST_METHOD" in os.environ:
            continue
        found[kind] = value.strip()
    return {kind: value for kind, value in found.items() if value}


def _system_settings(uri: URI) -> dict[str, str]:
    """The proxies set in Windows or macOS, except for servers excluded there."""
    from urllib.request import getproxies, proxy_bypass

    excepted = proxy_bypass(uri.host_and_port) or proxy_bypass(uri.host)
    return {} if excepted else getproxies()


class Tunnel:
    """Opens a tunnel through a proxy.

    Args:
        proxy: its address.
        uri: of the server.
        user_agent: as in the handshake; None sends none.
    """

    def __init__(self, proxy: URI, uri: URI, user_agent: str | None) -> None:
        self._proxy = proxy
        self._uri = uri
        self._user_agent = user_agent
        self._reader = ResponseReader(tunnel=True)

    def begin(self) -> bytes:
        """Return the request to be sent to the proxy."""
        target = self._uri.host_and_port
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if self._user_agent is not None:
            lines.append(f"User-Agent: {self._user_agent}")
        if self._proxy.user is not None:
            credentials = basic(self._proxy.user, self._proxy.password)
            lines.append(f"Proxy-Authorization: {credentials}")
        return "\r\n".join([*lines, "\r\n"]).encode("latin-1")

    def receive(self, data: bytes) -> bool:
        """Process bytes of the response; return True when the tunnel is open.

        Raises:
            ProxyError: The proxy refused it, or its response is invalid.
        """
        reader = self._reader
        try:
            reader.feed(data)
        except HandshakeError as error:
            self._fail(f"does not answer as one: {error}")
        if not reader.complete:
            return False
        if not 200 <= reader.status < 300:
            self.refuse()
        if reader.rest:
            # The client speaks first (RFC 6455 §4.2, TLS).
            self._fail("sent extra bytes after its answer")
        return True

    def receive_eof(self) -> None:
        """The proxy has closed the connection before the tunnel was open.

        Raises:
            ProxyError: Always.
        """
        if self._reader.status:
            self.refuse()
        self._fail("closed the connection without an answer")

    @property
    def refused(self) -> bool:
        """Whether only the rest of a refusal's body is missing."""
        return self._reader.status >= 300 or self._reader.status == 101

    def refuse(self) -> None:
        """Report the proxy's response, with the part of its body received so far.

        Raises:
            ProxyError: Always.
        """
        hint = ""
        if self._reader.status == 407:
            hint = "; give credentials: proxy='http://user:password@host:port'"
        proxy, said = self._proxy, self._reader.describe()
        if proxy.password is not None:
            credentials = basic(proxy.user or "", proxy.password).split()[1]
            said = without((proxy.password, credentials), said)
        self._fail(f"answered {said}{hint}")

    def _fail(self, problem: str) -> None:
        reader = self._reader
        raise ProxyError(
            self._uri.shown,
            f"the proxy {self._proxy.host_and_port} {problem}",
            reader.status,
            reader.headers,
            reader.body,
        )
