"""Timers of users: once, or again and again, drift-free.

`timers` has the engine's own. These outlive a restart of the server, may be set from
any thread, and go on when their callback raises.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from .reactor import Reactor
from .timers import Timer

__all__ = ["Job", "Schedule"]

logger = logging.getLogger("simple_ws")


class Job:
    """A call to come, or one that comes again and again.

    Attributes:
        interval: seconds from one call to the next; None: there is one call only.
    """

    def __init__(
        self,
        schedule: Schedule,
        callback: Callable[[], object],
        delay: Callable[[], float],
        interval: float | None,
    ) -> None:
        self.interval = interval
        self._schedule = schedule
        self._callback: Callable[[], object] | None = callback
        self._delay = delay
        self._timer: Timer | None = None
        self._due = 0.0

    @property
    def active(self) -> bool:
        """Whether a call is still to come."""
        return self._callback is not None

    def cancel(self) -> None:
        """Have it happen no more; from any thread, no harm when it has happened."""
        self._callback = None
        if self._timer is not None:
            self._timer.cancel()
        self._schedule.jobs.discard(self)

    def _arm(self, reactor: Reactor) -> None:
        self._due = reactor.time() + max(0.0, self._delay())
        self._wait(reactor)

    def _wait(self, reactor: Reactor) -> None:
        if self._callback is not None:
            self._timer = reactor.call_at(self._due, self._fire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _fire(self) -> None:
        callback, reactor = self._callback, self._schedule.reactor
        if callback is None or reactor is None:
            return
        if self.interval is None:
            self.cancel()
        try:
            callback()
        except Exception:
            logger.exception("a timer failed: %r", callback)
        if self.interval is not None:
            # From the first call on, not from now: whatever it took, and however late
            # it was, calls do not drift. Those that were missed are left out.
            missed = max(0.0, reactor.time() - self._due)
            self._due += self.interval * (missed // self.interval + 1)
            self._wait(reactor)


class Schedule:
    """All jobs of a server.

    Args:
        on_loop: calls a function in the thread of the loop, at once when it is that.

    Attributes:
        reactor: of the loop while it runs; then jobs count.
    """

    def __init__(self, on_loop: Callable[..., object]) -> None:
        self.jobs: set[Job] = set()
        self.reactor: Reactor | None = None
        self._on_loop = on_loop

    def every(self, interval: float, callback: Callable[[], object]) -> Job:
        """Have `callback()` called again and again."""
        interval = _seconds("interval", interval, least=0.001)
        return self._add(callback, lambda: interval, interval)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Job:
        """Have `callback()` called once, in `delay` seconds."""
        delay = _seconds("delay", delay, least=0.0)
        return self._add(callback, lambda: delay, None)

    def call_at(self, when: float | datetime, callback: Callable[[], object]) -> Job:
        """Have `callback()` called once, at a moment of the calendar."""
        if isinstance(when, datetime):
            when = when.timestamp()
        moment = _seconds("when", when, least=0.0)
        return self._add(callback, lambda: moment - time.time(), None)

    def begin(self, reactor: Reactor) -> None:
        """The loop is there: what was set before counts from now on."""
        self.reactor = reactor
        for job in tuple(self.jobs):
            job._arm(reactor)

    def end(self) -> None:
        """The loop is gone: what was to come waits for the next one."""
        self.reactor = None
        for job in tuple(self.jobs):
            job._disarm()

    def _add(
        self, callback: Any, delay: Callable[[], float], interval: float | None
    ) -> Job:
        if not callable(callback):
            raise TypeError(f"callback must be a function, not {callback!r}")
        job = Job(self, callback, delay, interval)
        self.jobs.add(job)
        self._on_loop(self._start, job)
        return job

    def _start(self, job: Job) -> None:
        if self.reactor is not None and job.active:
            job._arm(self.reactor)


def _seconds(name: str, value: object, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not least <= value < math.inf:
        raise ValueError(f"{name} must be at least {least:g} seconds, not {value!r}")
    return float(value)
