"""`Restarts`: when a process that has ended is started again."""

from __future__ import annotations

__all__ = ["Restarts"]

#: Seconds after which a process counts as one that works.
_SHORT_LIFE = 10.0
#: Seconds of the first wait and of the longest one.
_FIRST, _LONGEST = 1.0, 30.0


class Restarts:
    """At once; then after 1, 2, 4 … 30 s, as long as each lives less than 10 s.

    Attributes:
        count: how many ended so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._wait = 0.0

    def delay(self, lived: float) -> float:
        """Seconds until the next start of a process that lived so many seconds."""
        self.count += 1
        if lived >= _SHORT_LIFE:
            self._wait = 0.0
        wait = self._wait
        self._wait = min(_LONGEST, max(_FIRST, 2 * wait))
        return wait
