"""When a client connects again: how long it waits, and whether that may help."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import (
    ConnectError,
    HandshakeRefused,
    InvalidHandshake,
    InvalidURI,
    ProxyError,
    TLSError,
)

__all__ = ["Backoff", "may_heal", "retry_after"]

#: Statuses of a refusal that may change soon: too many requests, or a server in trouble
#: (RFC 9110 §15.5, §15.6, RFC 6585).
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
#: Longest Retry-After that is respected, in seconds.
_LONGEST_RETRY_AFTER = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait before a reconnect: exponential backoff with "full jitter".

    The n-th wait in a row is a random time of up to `first` * 2 ** n seconds, so that
    the clients of a server that was down do not all reconnect at the same moment.

    Args:
        first: longest first wait, in seconds.
        longest: longest wait of all, in seconds.
        stable: seconds that a connection must stay open to reset the count: a server
            that closes every connection at once must not be retried without pause.
        random: a function that returns numbers from 0 to 1.

    Raises:
        ValueError: A time is not positive, or `longest` is less than `first`.
    """

    first: float = 1.0
    longest: float = 60.0
    stable: float = 10.0
    random: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        for name in ("first", "longest", "stable"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"Backoff: {name} must be more than 0 seconds, "
                    f"not {getattr(self, name)!r}"
                )
        if self.longest < self.first:
            raise ValueError(
                f"Backoff: longest must be at least first={self.first:g}, "
                f"not {self.longest!r}"
            )

    def delay(self, attempt: int) -> float:
        """Seconds to wait before an attempt, counted from 0."""
        # No larger exponent: it would overflow after weeks without a network.
        return self.random() * min(self.longest, self.first * 2.0 ** min(attempt, 64))


def may_heal(error: ConnectError) -> bool:
    """Whether trying again later may help."""
    if isinstance(error, HandshakeRefused):
        return error.status in _PASSING
    if isinstance(error, ProxyError):
        return error.status in _PASSING or error.status == 0
    if isinstance(error, TLSError):
        import ssl

        return not isinstance(error.__cause__, ssl.SSLCertVerificationError)
    return not isinstance(error, InvalidURI | InvalidHandshake)


def retry_after(error: ConnectError) -> float:
    """Seconds that the server asked to wait (RFC 9110 §10.2.3), or 0."""
    headers = getattr(error, "headers", {})
    text = headers.get("Retry-After", "")
    if not text.isascii() or not text.isdecimal():
        return 0.0  # a date is for people; clocks differ
    return min(float(text[:9]), _LONGEST_RETRY_AFTER)
