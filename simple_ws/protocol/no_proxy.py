"""Hosts that are reached without the proxy from the environment.

`is_direct` reads `no_proxy` with the combined rules of curl, Go and Python: names with
their subdomains, addresses, networks, ports. Choosing the proxy is left to
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
    """Whether to connect to a server directly.

    Always for a server on this machine: a proxy elsewhere would look for it on its own
    host.

    Args:
        uri: of the server. Its name is not resolved: an address in `no_proxy` only
            matches URIs with that address.
        no_proxy: entries separated by commas or spaces. `*` matches all hosts;
            `example.com` and `.example.com` a host and its subdomains, `*.example.com`
            the subdomains only; `10.1.2.3`, `::1`, `10.0.0.0/8`, `fd00::/8` addresses;
            with a port (`[::1]:8080`) an entry matches that port only. Other entries
            are ignored.
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
    """Whether an entry that is a name matches this host."""
    domain = _ascii(pattern.removeprefix("*").removeprefix("."))
    if not domain:
        return False
    return host.endswith(f".{domain}") or (host == domain and pattern[0] != "*")


def _covers(pattern: str, address: Address) -> bool:
    """Whether an entry that is an address or a network contains this address."""
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
    """The host as an address, or None; an IPv4-mapped IPv6 address becomes IPv4."""
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
