"""Deadlines of very many owners, at a coarse grain; the twin of `_c/wheel.pxi`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..constants import MOST_SWEPT, SWEEP_TIME

__all__ = ["Sweepable", "Wheel"]


class Sweepable(Protocol):
    """An owner of a deadline in a `Wheel`; `_wheel_slot` is None outside of it."""

    _wheel_slot: dict[Any, None] | None

    def _sweep(self, now: float) -> float | None:
        """Check the own deadlines; return the next one, or None to leave."""


class Wheel:
    """Deadlines at a coarse grain, for very many owners with one each.

    Args:
        grain: seconds; an owner is checked up to this much after its deadline, never
            before.
        on_change: called when `next_deadline` may have changed.
        clock: with it, one call of `run_due` takes a millisecond, and little more.
    """

    def __init__(
        self,
        grain: float,
        on_change: Callable[[], object] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.grain = grain
        self._on_change = on_change
        self._clock = clock
        #: Dictionaries instead of sets, which take twice the memory.
        self._buckets: dict[int, dict[Sweepable, None]] = {}
        self._done: int | None = None
        #: When an owner must be checked next (seconds), or None.
        self.next_deadline: float | None = None

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def put(self, owner: Any, when: float) -> None:
        """Call `owner._sweep` soon after `when`; replaces its earlier deadline."""
        self.discard(owner)
        tick = int(when / self.grain) + 1
        if self._done is not None:
            tick = max(tick, self._done + 1)
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = {}
            if self.next_deadline is None or tick * self.grain < self.next_deadline:
                self._note_next()
        bucket[owner] = None
        owner._wheel_slot = bucket

    def discard(self, owner: Any) -> None:
        """Remove an owner; no harm when it is not in."""
        if owner._wheel_slot is not None:
            owner._wheel_slot.pop(owner, None)
            owner._wheel_slot = None

    def is_due(self, now: float) -> bool:
        """Whether an owner must be checked by now."""
        return self.next_deadline is not None and now >= self.next_deadline

    def run_due(self, now: float) -> None:
        """Sweep owners whose deadline has passed, but not more than fit into a turn:
        `next_deadline` stays in the past then, and the next call goes on."""
        deadline, clock = self.next_deadline, self._clock
        if deadline is None or now < deadline:
            return
        left = MOST_SWEPT
        until = 0.0 if clock is None else clock() + SWEEP_TIME
        # Division may round to just below the tick of the deadline.
        self._done = max(int(now / self.grain), round(deadline / self.grain))
        for tick in sorted(tick for tick in self._buckets if tick <= self._done):
            # Owners stay findable for `discard`: a sweep may remove any other owner.
            bucket = self._buckets[tick]
            while bucket and left:
                left -= 1
                self._sweep(bucket, now)
                if left % 8 == 0 and clock is not None and clock() > until:
                    left = 0
            if bucket:
                break
            del self._buckets[tick]
        self._note_next()

    def _sweep(self, bucket: dict[Sweepable, None], now: float) -> None:
        """Let one owner check its deadlines."""
        owner = next(reversed(bucket))
        del bucket[owner]
        owner._wheel_slot = None
        try:
            when = owner._sweep(now)
        except Exception:
            raise
        except BaseException:
            self.put(owner, now)  # it was interrupted: check it again soon
            raise
        if when is not None:
            self.put(owner, when)

    def _note_next(self) -> None:
        if self._on_change is not None:
            self._on_change()
        buckets = self._buckets
        self.next_deadline = min(buckets) * self.grain if buckets else None
