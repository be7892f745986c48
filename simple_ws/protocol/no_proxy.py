"""Which hosts are reached without the proxy that the environment names.

`is_direct` reads `no_proxy` as curl, Go and Python do together: names with their
subdomains, addresses, networks, ports. Which proxy it is about is left to
`proxy_tunnel`.
"""

from __future__ import annotations

import re
from ipaddress import (
    IPv4Address,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from .uri import URI

__all__ = ["is_direct"]

Address = IPv4Address | IPv6Address

#: A name, an address or a network; with or without a port.
_ENTRY = re.compile(
    r"(\[[^\]]*\](?:/\d+)?|[^:]*|[^\[\]]*:[^\[\]]*:[^\[\]]*)(?::(\d+))?"
)
_SEPARATORS = re.compile(r"[,\s]+")


def is_direct(uri: URI, no_proxy: str) -> bool:
    """Whether a server is connected to directly.

    A server on this machine always is: a proxy elsewhere would look for it on its own.

    Args:
        uri: of the server. Its name is not looked up: an address in `no_proxy` is for
            those who connect to that address.
        no_proxy: entries with commas or spaces between them. `*` means all hosts;
            `example.com` and `.example.com` a host and its subdomains, `*.example.com`
            the subdomains only; `10.1.2.3`, `::1`, `10.0.0.0/8`, `fd00::/8` addresses;
            a port behind any of them (`[::1]:8080`) means that port only. An entry that
            is none of these means nothing.
    """
    host = uri.host.partition("%")[0].rstrip(".")
    address = _read_address(host)
    if _is_loopback(host, address):
        return True
    entries = _SEPARATORS.split(no_proxy.strip().lower())
    return any(_matches(entry, host, address, uri.port) for entry in entries)


def _is_loopback(host: str, address: Address | None) -> bool:
    if address is not None:
        return address.is_loopback
    # RFC 6761 §6.3: "Users may assume that IPv4 and IPv6 address queries for localhost
    # names will always resolve to the respective IP loopback address."
    return host == "localhost" or host.endswith(".localhost")


def _matches(entry: str, host: str, address: Address | None, port: int) -> bool:
    parts = _ENTRY.fullmatch(entry)
    if parts is None or (parts[2] is not None and parts[2].lstrip("0") != str(port)):
        return False
    pattern = parts[1].replace("[", "").replace("]", "")
    if pattern == "*":
        return True
    if address is not None:
        return _covers(pattern, address)
    return _names(pattern.rstrip("."), host)


def _names(pattern: str, host: str) -> bool:
    """Whether an entry that is a name means this one."""
    domain = _ascii(pattern.removeprefix("*").removeprefix("."))
    if not domain:
        return False
    return host.endswith(f".{domain}") or (host == domain and pattern[0] != "*")


def _covers(pattern: str, address: Address) -> bool:
    """Whether an entry that is an address or a network holds this one."""
    try:
        network = ip_network(pattern, strict=False)
    except ValueError:
        return False
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            network = ip_network(f"{mapped}/{network.prefixlen - 96}", strict=False)
    return address in network


def _read_address(host: str) -> Address | None:
    """The address that a host is; IPv4 as such if it is mapped into IPv6."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def _ascii(name: str) -> str:
    try:
        return name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        return name
