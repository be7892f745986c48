"""Whether the server of an engine is alive: any byte counts, silence is asked about."""

from __future__ import annotations

__all__ = ["SILENCE", "Silence"]

#: Seconds without a byte until a question (PING), and from there to the end.
_UNASKED, _ASKED = 1.0, 2.0
#: Seconds in which a silent server is given up.
SILENCE = _UNASKED + _ASKED
#: Seconds by which a look may be late; above it the loop stood still, not the server.
_LATE = 1.0


class Silence:
    """The silence on one connection.

    Args:
        now: seconds of the clock that all methods are given.

    Attributes:
        over: it was longer than a server that is alive is silent.
    """

    __slots__ = ("_asked", "_heard", "over")

    def __init__(self, now: float) -> None:
        self._heard = now
        # When a question was asked; a connection begins with one, or its answer.
        self._asked: float | None = now + _UNASKED
        self.over = False

    def hear(self, now: float) -> None:
        """Bytes have come."""
        self._heard, self._asked = now, None

    def deadline(self) -> float:
        """When it is to be looked at."""
        if self._asked is None:
            return self._heard + _UNASKED
        return self._asked + _ASKED

    def stood_still(self, due: float, now: float) -> bool:
        """Whether a look comes so late that the loop, not the server, stood still: then
        the server is given its time again, since what came is not read yet."""
        if now - due <= _LATE:
            return False
        self.hear(now)
        return True

    def look(self, now: float) -> bool:
        """Return whether to ask now; sets `over` when that was done for long enough."""
        if self._asked is not None:
            self.over = now >= self._asked + _ASKED
            return False
        if now < self._heard + _UNASKED:
            return False
        self._asked = now
        return True
