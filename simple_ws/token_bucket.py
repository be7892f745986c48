"""A rate limit: tokens are refilled at a rate, up to a burst."""

from __future__ import annotations

__all__ = ["TokenBucket"]


class TokenBucket:
    """Allows a number of events per second, and a burst at once.

    The C core has the same in `_c/token_bucket.pxi`, but for `rest`.

    Args:
        rate: tokens refilled each second.
        burst: most tokens it holds, and the number at the start.
        now: seconds of a clock that never runs backwards.
    """

    __slots__ = ("_burst", "_filled_at", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = self._tokens = burst
        self._filled_at = now

    def take(self, now: float) -> bool:
        """Take a token; False when there is none."""
        refill = (now - self._filled_at) * self._rate
        self._tokens = min(self._burst, self._tokens + refill)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def rest(self, seconds: float) -> None:
        """Give no token for so many seconds from now on, unless it rests already."""
        if self._tokens >= 0:
            self._tokens = min(self._tokens, 1 - seconds * self._rate)
