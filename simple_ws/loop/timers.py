"""Time: exact timers in a heap, and a coarse wheel for deadlines of connections.

`Timers` is for the few calls that must be exact. `Wheel` (of `speedups`) is for the
many that rarely come due, one per connection: adding and removing one is a few stores,
where pushing on a heap at every message cost 4.7 µs a message at 10,000 clients.
Both are told the time; their clocks only tell how long they have taken.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections import deque
from collections.abc import Callable

from ..constants import SWEEP_TIME
from ..speedups import Wheel

__all__ = ["Timer", "Timers", "Wheel"]

logger = logging.getLogger("simple_ws")

#: With fewer timers than this, cancelled ones are not searched for.
_FEW = 64


class Timer:
    """A call at a given time; `cancel` prevents it."""

    __slots__ = ("_callback", "_order", "when")

    def __init__(self, when: float, order: int, callback: Callable[[], object]) -> None:
        self.when = when
        self._order = order
        self._callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Cancel the call; no harm when it has happened."""
        self._callback = None

    @property
    def active(self) -> bool:
        """Whether the call is still pending."""
        return self._callback is not None

    def __lt__(self, other: Timer) -> bool:
        return (self.when, self._order) < (other.when, other._order)

    def _fire(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Timers:
    """A heap of timers; those due at the same time run in the order of creation.

    Args:
        clock: with it, one call of `run_due` takes a millisecond, and little more: what
            is left is due at once.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._heap: list[Timer] = []
        #: Taken from the heap and about to be called; empty except after an interrupt,
        #: or while there are more than fit into a turn.
        self._due: deque[Timer] = deque()
        self._order = itertools.count()
        self._many = _FEW  # at this number, cancelled ones are removed

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call `callback()` once the clock reaches `when` (seconds)."""
        if len(self._heap) >= self._many:
            self._drop_cancelled()
        timer = Timer(when, next(self._order), callback)
        heapq.heappush(self._heap, timer)
        return timer

    def _drop_cancelled(self) -> None:
        """Remove cancelled timers: a timeout of an hour, set and cancelled by each
        visit, would otherwise stay for that hour."""
        self._heap = [timer for timer in self._heap if timer.active]
        heapq.heapify(self._heap)
        self._many = max(_FEW, 2 * len(self._heap))

    def next_deadline(self) -> float | None:
        """When the next timer is due, or None."""
        heap = self._heap
        if self._due:
            return self._due[0].when
        while heap and not heap[0].active:
            heapq.heappop(heap)
        return heap[0].when if heap else None

    def run_due(self, now: float) -> None:
        """Call what is due at `now`; timers created meanwhile wait for the next turn.

        An exception is logged, and does not affect the others.
        """
        due, heap = self._due, self._heap
        # A signal handler may raise after any call: a timer in neither list would be
        # lost, while one in both is still called only once.
        while heap and heap[0].when <= now:
            due.append(heap[0])
            heapq.heappop(heap)
        clock = self._clock
        until = 0.0 if clock is None else clock() + SWEEP_TIME
        while due:
            try:
                due[0]._fire()
            except Exception:
                logger.exception("internal error in a timer")
            due.popleft()
            if clock is not None and clock() > until:
                break
