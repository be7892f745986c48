"""Limits on new connections, checked before the upgrade, with a `Retry-After`."""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any

from ..errors import HandshakeError
from ..token_bucket import TokenBucket
from .options import Options
from .topics import Group

__all__ = ["Admission", "retry_after"]

#: Limits of `Retry-After` in seconds; each refused client is told a random value, so
#: that they do not all come back at once.
_SOONEST, _LATEST = 1, 10


def retry_after() -> tuple[str, str]:
    """A `Retry-After` header field (RFC 9110 §10.2.3)."""
    return "Retry-After", str(random.randint(_SOONEST, _LATEST))


def overloaded() -> HandshakeError:
    """The refusal of a request of which too much is kept (`max_buffered_input`)."""
    text = "The server has too many unfinished requests."
    return HandshakeError(503, text, [retry_after()])


class Admission:
    """Counts connections by address, and handshakes by time.

    Args:
        options: those of the server, or of a handler that sets such limits itself.
        clock: seconds that never run backwards.

    Attributes:
        refused: number of handshakes refused, by HTTP status.
        counts_hosts: `enter` and `leave` do something.
    """

    def __init__(self, options: Options, clock: Callable[[], float]) -> None:
        self.refused: dict[int, int] = {}
        self._per_host = options.max_connections_per_ip
        self.counts_hosts = self._per_host is not None
        self._clock = clock
        self._hosts: dict[str, int] = {}
        rate = options.handshake_rate
        self._bucket = None if rate is None else TokenBucket(*rate, clock())

    def check(self, address: Any) -> None:
        """Refuse a handshake that exceeds a limit.

        Raises:
            HandshakeError: 429 or 503, with `Retry-After`.
        """
        # First, so that a single host cannot use up the rate of all.
        self.check_host(address)
        self.check_rate()

    def check_rate(self) -> None:
        """Refuse a handshake that exceeds `handshake_rate`, or count it.

        Raises:
            HandshakeError: 503, with `Retry-After`.
        """
        if self._bucket is not None and not self._bucket.take(self._clock()):
            raise HandshakeError(
                503, "Too many handshakes at the moment.", [retry_after()]
            )

    def check_host(self, address: Any) -> None:
        """Refuse a handshake from an address that has reached its limit.

        Raises:
            HandshakeError: 429, with `Retry-After`.
        """
        limit = self._per_host
        if limit is not None and self._hosts.get(_host(address), 0) >= limit:
            raise HandshakeError(
                429, "Too many connections from this address.", [retry_after()]
            )

    def check_room(self, clients: Group[Any], limit: int | None) -> None:
        """Refuse a handshake when `limit` clients are connected.

        Raises:
            HandshakeError: 503, with `Retry-After`.
        """
        if limit is not None and len(clients) >= limit:
            raise HandshakeError(503, "The server is full.", [retry_after()])

    def enter(self, address: Any) -> None:
        """A connection of this address opened."""
        if self._per_host is not None and (host := _host(address)):
            self._hosts[host] = self._hosts.get(host, 0) + 1

    def leave(self, address: Any) -> None:
        """A connection of this address ended."""
        if self._per_host is not None and (host := _host(address)):
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]

    def note_refusal(self, status: int) -> None:
        """A handshake was refused, here or elsewhere."""
        self.refused[status] = self.refused.get(status, 0) + 1


def _host(address: Any) -> str:
    """What an address counts as: an IPv6 address as its /64, which one customer has.

    A peer on a Unix socket has none, and is not counted.
    """
    host: str = address[0] if isinstance(address, tuple) else ""
    return _network_of(host) if ":" in host else host


def _network_of(host: str) -> str:
    try:
        address = IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Address(int(address) >> 64 << 64))
