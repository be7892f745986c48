"""The address, scheme and host of a client behind trusted proxies.

A proxy appends its client to `Forwarded` (RFC 7239) or `X-Forwarded-For`, after any
existing entries. Everything to the left of the entries of our own proxies may have been
made up by the client. So the list is read from the right, only as long as the writers
are trusted, and nothing to the left can change what was read before: quoted strings are
found from their end, too.

This module cannot know which of the two headers a proxy writes, and most pass on the
other one as their client sent it. So if both are present, they must name the same
client; otherwise neither is used, and the address is that of the proxy.

Scheme and host are taken from the entry of the outermost trusted proxy, if it can be
identified.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from itertools import islice
from typing import Any

from ..constants import TOKEN
from ..protocol.fields import Headers

__all__ = ["TrustedProxies", "client_address", "client_hosts", "client_scheme"]

#: Longest chain of proxies that is followed; real ones have one to four.
_MAX_HOPS = 32

#: RFC 7239 §4, `forwarded-pair`, with its end; pairs before it may be empty.
_PAIR = re.compile(rf'[ \t;]*({TOKEN})=(?:({TOKEN})|"((?:[^"\\]|\\.)*)")[ \t]*(?:;|\Z)')
#: RFC 7239 §6, `node`, except for "unknown" and names that replace addresses.
_NODE = re.compile(
    r"(?:([0-9.]{7,15})|\[([0-9A-Fa-f:.]{2,45})\])"
    r"(?::(?:([0-9]{1,5})|_[A-Za-z0-9._-]+))?"
)
#: In X-Forwarded-For IPv6 addresses have no brackets, unless there is a port.
_BARE = re.compile(r"[0-9A-Fa-f:.]{2,45}")

_SCHEMES = {"http": "http", "ws": "http", "https": "https", "wss": "https"}
_PORT = re.compile("[0-9]{1,5}")

_Address = IPv4Address | IPv6Address
_Hop = tuple[_Address, int]


class TrustedProxies:
    """The proxies whose headers are believed.

    Args:
        networks: such as "10.0.0.0/8"; "unix" for the peers of a Unix socket.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        names = list(networks)
        self._unix = "unix" in names
        self._networks: list[IPv4Network | IPv6Network] = [
            ip_network(name) for name in names if name != "unix"
        ]

    def trust(self, address: Any) -> bool:
        """Whether a socket's peer is such a proxy: (host, port), or a string (Unix)."""
        if not isinstance(address, tuple):
            return self._unix
        try:
            return ip_address(address[0]) in self
        except ValueError:
            return False

    def __contains__(self, host: _Address) -> bool:
        return any(host in network for network in self._networks)


def client_address(address: Any, headers: Headers, trusted: TrustedProxies) -> Any:
    """The rightmost address that is not trusted.

    Args:
        address: of the socket's peer; it is returned when it is not trusted itself.
        headers: of the request, with `Forwarded` or `X-Forwarded-For`.
        trusted: the proxies to believe.

    Returns:
        (host, port) of the client, with port 0 if unknown. An entry that is malformed,
        "unknown" or hidden (RFC 7239 §6.3) ends the search: the last trusted address is
        returned, and so is the leftmost when all are trusted. If the two headers name
        different clients, one of them is forged: `address` is returned.
    """
    if not trusted.trust(address):
        return address
    named = [
        _walk(address, _hops(split(",".join(lines)), read), trusted)
        for header, split, read in _HEADERS
        if (lines := headers.get_all(header))
    ]
    if len({client[0] for client in named}) != 1:
        return address
    return named[0]


def client_scheme(
    address: Any, headers: Headers, trusted: TrustedProxies
) -> str | None:
    """The scheme that the client used with the outermost proxy: "http" or "https".

    Args:
        address: of the socket's peer.
        headers: of the request, with `Forwarded: proto=` or `X-Forwarded-Proto`.
        trusted: the proxies to believe.

    Returns:
        None if no trusted proxy states it, or the two headers differ.
    """
    if not trusted.trust(address):
        return None
    told = []
    if lines := headers.get_all("Forwarded"):
        told.append(_outermost(",".join(lines), trusted).get("proto", ""))
    if lines := headers.get_all("X-Forwarded-Proto"):
        told.append(_aligned(",".join(lines), headers, trusted))
    schemes = {_SCHEMES.get(word.lower()) for word in told if word}
    return schemes.pop() if len(schemes) == 1 else None


def client_hosts(address: Any, headers: Headers, trusted: TrustedProxies) -> list[str]:
    """The hosts, with their ports, that the client may have asked the proxy for.

    Args:
        address: of the socket's peer.
        headers: of the request, with `Forwarded: host=`, `X-Forwarded-Host` and
            `X-Forwarded-Port`, which completes those without a port and `Host`.
        trusted: the proxies to believe.
    """
    if not trusted.trust(address):
        return []
    hosts = [part.strip() for part in headers.get("X-Forwarded-Host", "").split(",")]
    if lines := headers.get_all("Forwarded"):
        hosts.append(_outermost(",".join(lines), trusted).get("host", ""))
    port = headers.get("X-Forwarded-Port", "").rpartition(",")[2].strip()
    if _PORT.fullmatch(port):
        hosts.append(headers.get("Host", ""))
        hosts += [f"{host}:{port}" for host in hosts if host and not _has_port(host)]
    return [host for host in hosts if host]


def _has_port(host: str) -> bool:
    return ":" in host.rpartition("]")[2]


def _outermost(text: str, trusted: TrustedProxies) -> dict[str, str]:
    """The parameters of the element of `Forwarded` that names the client."""
    pairs: dict[str, str] = {}
    for element in islice(_quoted_elements(text), _MAX_HOPS):
        read = _read_pairs(element.strip(" \t"))
        if read is None:
            return pairs
        if not read:
            continue
        pairs = read
        hop = _read_node(pairs.get("for", ""))
        if hop is None or hop[0] not in trusted:
            break
    return pairs


def _aligned(text: str, headers: Headers, trusted: TrustedProxies) -> str:
    """The element of `X-Forwarded-Proto` that belongs to the client.

    If each proxy has added one, it has the same position from the right as the client
    in `X-Forwarded-For`; otherwise it is the last one, which the nearest has written.
    """
    words = [word.strip(" \t") for word in _plain_elements(text)]
    hops = ",".join(headers.get_all("X-Forwarded-For"))
    nodes = [node.strip(" \t") for node in islice(_plain_elements(hops), _MAX_HOPS)]
    if len(nodes) != len(words):
        return words[0]
    for word, node in zip(words, nodes, strict=True):
        hop = _read_plain(node)
        if hop is None or hop[0] not in trusted:
            return word
    return words[-1]


def _walk(address: Any, hops: Iterator[_Hop], trusted: TrustedProxies) -> Any:
    for host, port in islice(hops, _MAX_HOPS):
        address = str(host), port
        if host not in trusted:
            break
    return address


def _hops(
    elements: Iterator[str], read: Callable[[str], _Hop | None]
) -> Iterator[_Hop]:
    """The hops from the nearest on, up to the first that cannot be parsed."""
    for element in elements:
        element = element.strip(" \t")
        if not element:
            continue  # RFC 9110 §5.6.1.2: "a recipient MUST parse and ignore" these
        hop = read(element)
        if hop is None:
            return
        yield hop


def _plain_elements(text: str) -> Iterator[str]:
    """The elements separated by commas, from right to left."""
    end = len(text)
    while end >= 0:
        comma = text.rfind(",", 0, end)
        yield text[comma + 1 : end]
        end = comma


def _quoted_elements(text: str) -> Iterator[str]:
    """The elements separated by commas outside quoted strings, from right to left."""
    end = at = len(text)
    while at > 0:
        at -= 1
        if text[at] == ",":
            yield text[at + 1 : end]
            end = at
        elif text[at] == '"':
            at = _opening_quote(text, at)
    yield text[:end]


def _opening_quote(text: str, closing: int) -> int:
    """The start of the quoted string that ends at `closing`; -1 if there is none."""
    at = text.rfind('"', 0, closing)
    while at > 0:
        first = at
        while first > 0 and text[first - 1] == "\\":
            first -= 1
        if (at - first) % 2 == 0:
            break
        at = text.rfind('"', 0, first)  # escaped: a part of the string
    return at


def _read_forwarded(element: str) -> _Hop | None:
    pairs = _read_pairs(element)
    return None if pairs is None else _read_node(pairs.get("for", ""))


def _read_pairs(element: str) -> dict[str, str] | None:
    """The parameters of an element of `Forwarded`; None when it is malformed."""
    # §4: `[ forwarded-pair ] *( ";" [ forwarded-pair ] )`
    element = element.rstrip(" \t;")
    pairs: dict[str, str] = {}
    pos = 0
    while pos < len(element):
        pair = _PAIR.match(element, pos)
        if pair is None:
            return None
        pos = pair.end()
        name = pair[1].lower()
        if name in pairs:
            return None  # §4: "MUST NOT occur more than once"
        pairs[name] = pair[2] or re.sub(r"\\(.)", r"\1", pair[3] or "")
    return pairs


def _read_plain(element: str) -> _Hop | None:
    if _BARE.fullmatch(element) and element.count(":") > 1:
        return _hop(element, None)
    return _read_node(element)


def _read_node(text: str) -> _Hop | None:
    node = _NODE.fullmatch(text)
    return None if node is None else _hop(node[1] or node[2], node[3])


def _hop(host: str, port: str | None) -> _Hop | None:
    number = int(port or 0)
    if number > 65535:
        return None
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped, number
    return address, number


#: The headers, how the elements of each are separated, and how one is parsed.
_HEADERS = (
    ("Forwarded", _quoted_elements, _read_forwarded),
    ("X-Forwarded-For", _plain_elements, _read_plain),
)
