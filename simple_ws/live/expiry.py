"""What expires, by the second: connections and subscriptions that must be refreshed.

There is one timer for all, and none while nothing can expire; what never expires costs
nothing. Whether a thing is refreshed or ends is left to `lifetimes`.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

__all__ = ["Expiries", "Expiring"]


class Expiring(Protocol):
    """What it needs of a thing that can expire."""

    #: The second of its turn; None: it is not here.
    due: int | None


class Expiries:
    """All things that expire.

    Args:
        now: in seconds that never run backwards.
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = math.floor(now)
        self._seconds: dict[int, dict[Any, Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._seconds)

    def set(self, thing: Expiring, due: float, context: Any) -> None:
        """A thing expires at a time, and not at the one that was set before.

        Args:
            thing: that expires.
            due: in seconds of the clock.
            context: returned with it.
        """
        self.discard(thing)
        thing.due = second = max(math.ceil(due), self._now + 1)
        self._seconds.setdefault(second, {})[thing] = context

    def discard(self, thing: Expiring) -> None:
        """It does not expire any more; nothing happens if it did not."""
        second = thing.due
        if second is None:
            return
        thing.due = None
        things = self._seconds[second]
        del things[thing]
        if not things:
            del self._seconds[second]

    def turn(self, now: float) -> list[tuple[Any, Any]]:
        """What has expired, the first one first, each with its context."""
        before, self._now = self._now, max(self._now, math.floor(now))
        seconds = self._seconds
        passed = range(before + 1, self._now + 1)
        if len(passed) < len(seconds):
            due = [second for second in passed if second in seconds]
        else:
            due = sorted(second for second in seconds if second <= self._now)
        expired = [each for second in due for each in seconds.pop(second).items()]
        for thing, _ in expired:
            thing.due = None
        return expired
