"""User timers: single or repeated calls, without drift.

`timers` has the loop's own. User timers outlive a restart of the server, can be set
from any thread, and continue when their callback raises.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

from .deferred import check_callback, is_deferred
from .reactor import Reactor
from .timers import Timer

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Job", "Schedule", "check_interval"]

logger = logging.getLogger("simple_ws")

#: Seconds; with shorter intervals a loop would do nothing else.
_SHORTEST = 0.001
#: Distant calls are checked again after this many seconds: the system clock may be set,
#: and selectors cannot wait for centuries.
_LONGEST_WAIT = 3600.0


class Job:
    """A timer: one call, or repeated calls.

    Args:
        schedule: the schedule it belongs to.
        callback: the function to call.
        delay: seconds until the first call.
        moment: time of the first call, in seconds since the epoch; instead of `delay`.
        interval: see the property.
        once: skip the calls that another process makes, see `Schedule.leads`.
    """

    def __init__(
        self,
        schedule: Schedule,
        callback: Callable[[], object],
        *,
        delay: float = 0.0,
        moment: float | None = None,
        interval: float | None = None,
        once: bool = False,
    ) -> None:
        self._interval = interval
        self._once = once
        self._schedule = schedule
        self._callback: Callable[[], object] | None = callback
        self._delay = delay
        self._moment = moment
        self._reactor: Reactor | None = None  # the reactor it is armed in
        self._timer: Timer | None = None
        self._first = self._due = 0.0
        self._count = 0  # intervals from the first call to the next one
        self._copied: Job | None = None  # from a timer whose end is its end, too

    def _callbacks(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        """The callback, with its name for errors."""
        if self._callback is not None:
            name = getattr(self._callback, "__name__", repr(self._callback))
            yield f"the timer {name}", self._callback

    @property
    def once(self) -> bool:
        """Whether only one of several processes makes the calls."""
        return self._once

    @property
    def interval(self) -> float | None:
        """Seconds between two calls; None for a single call."""
        return self._interval

    @property
    def active(self) -> bool:
        """Whether another call will follow."""
        return self._callback is not None

    def cancel(self) -> None:
        """Cancel the timer; from any thread. Does nothing if it has ended."""
        self._callback = None
        if self._timer is not None:
            self._timer.cancel()
        self._schedule.jobs.discard(self)

    def _arm(self, reactor: Reactor) -> None:
        """Start counting; nothing happens if it is counting already."""
        if self._reactor is not reactor:
            self._reactor = reactor
            delay = self._delay if self._moment is None else self._until_moment()
            self._first = self._due = reactor.time() + delay
            self._count = 0
            self._wait(reactor)

    def _disarm(self) -> None:
        self._reactor = None  # the reactor is gone, and its timers with it

    def _wait(self, reactor: Reactor) -> None:
        if self._callback is not None:
            soon = reactor.time() + _LONGEST_WAIT
            self._timer = reactor.call_at(min(self._due, soon), self._wake)

    def _wake(self) -> None:
        if self._copied is not None and not self._copied.active:
            self.cancel()
        callback, reactor = self._callback, self._reactor
        if callback is None or reactor is None:
            return
        if reactor.time() >= self._due:
            self._fire(callback, reactor)
            return
        if self._moment is not None:
            self._due = reactor.time() + self._until_moment()
        self._wait(reactor)

    def _until_moment(self) -> float:
        assert self._moment is not None
        return max(0.0, self._moment - time.time())

    def _fire(self, callback: Callable[[], object], reactor: Reactor) -> None:
        if self._interval is None:
            self.cancel()
        if self._once and not self._schedule.leads():
            self._plan_next(reactor)
            return
        try:
            result = self._schedule.call(callback)
            if is_deferred(result):
                done = partial(self._on_done, callback, reactor)
                self._schedule.run_deferred(result, done)
                return
        except Exception as error:
            _note_failure(reactor, callback, error)
        except BaseException:
            self._plan_next(reactor)  # the program may continue, and the timer too
            raise
        self._plan_next(reactor)

    def _on_done(
        self,
        callback: Callable[[], object],
        reactor: Reactor,
        value: object,
        error: BaseException | None,
    ) -> None:
        """The callback's deferred result is done; the next call waits for that."""
        if isinstance(error, Exception):
            _note_failure(reactor, callback, error)
        self._plan_next(reactor)

    def _plan_next(self, reactor: Reactor) -> None:
        # Unless the server has stopped in the meantime.
        if self._interval is not None and self._reactor is reactor:
            # Counted from the first call, not from now: calls do not drift, no matter
            # how long or late one was. Missed calls are skipped.
            missed = max(0.0, reactor.time() - self._due)
            self._count += int(missed // self._interval) + 1
            self._due = self._first + self._count * self._interval
            self._wait(reactor)


class Schedule:
    """All timers of a server.

    Args:
        run_deferred: runs a deferred result of a callback.
        check: raises when the loop cannot await a callback.
        call: calls a callback, and logs it when it is slow; see `Log.call`.

    Attributes:
        reactor: the reactor while the loop runs; timers count only then.
        leads: returns whether this process makes the calls that only one of several
            makes.
    """

    def __init__(
        self,
        run_deferred: Callable[[Any, Any], object],
        check: Callable[[Any], object],
        call: Callable[[Callable[[], object]], object],
    ) -> None:
        self.jobs: set[Job] = set()
        self.reactor: Reactor | None = None
        self.run_deferred = run_deferred
        self.call = call
        self.leads: Callable[[], bool] = lambda: True
        self._check = check

    @property
    def has_once(self) -> bool:
        """Whether there are calls that only one of several processes makes."""
        return any(job.once for job in self.jobs.copy())

    def every(
        self, interval: float, callback: Callable[[], object], once: bool = False
    ) -> Job:
        """Call `callback()` repeatedly."""
        interval = check_interval(interval)
        return self._add(callback, delay=interval, interval=interval, once=once)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Job:
        """Call `callback()` once, in `delay` seconds."""
        return self._add(callback, delay=_seconds("delay", delay, least=0.0))

    def call_at(self, when: float | datetime, callback: Callable[[], object]) -> Job:
        """Call `callback()` once, at a calendar time."""
        return self._add(callback, moment=_moment(when))

    def adopt(self, job: Job) -> None:
        """Have a timer of another schedule as well, until it is cancelled there."""
        callback = job._callback
        if callback is not None:
            copied = self._add(
                callback,
                delay=job._delay,
                moment=job._moment,
                interval=job.interval,
                once=job.once,
            )
            copied._copied = job

    def begin(self, reactor: Reactor) -> None:
        """The loop has started: timers set before count from now on."""
        self.reactor = reactor
        for job in self.jobs.copy():
            job._arm(reactor)

    def end(self) -> None:
        """The loop has ended: pending timers wait for the next one."""
        self.reactor = None
        for job in self.jobs.copy():
            job._disarm()

    def _add(self, callback: Any, **when: Any) -> Job:
        check_callback("callback", callback, ())
        self._check(callback)
        job = Job(self, callback, **when)
        # In this order: a timer that sees no reactor is found by `begin`.
        self.jobs.add(job)
        reactor = self.reactor
        if reactor is None:
            return job
        if get_ident() == reactor.owner:
            self._start(job)
        else:
            reactor.call_threadsafe(partial(self._start, job))
        return job

    def _start(self, job: Job) -> None:
        if self.reactor is not None and job.active:
            job._arm(self.reactor)


def check_interval(interval: object) -> float:
    """Check a user's time between two calls.

    Raises:
        TypeError: It is not a number.
        ValueError: It is out of range.
    """
    return _seconds("interval", interval, least=_SHORTEST)


def _seconds(name: str, value: object, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    seconds = _as_float(value)
    if not least <= seconds < math.inf:
        raise ValueError(
            f"{name} must be a finite number of seconds, {least:g} or more, "
            f"not {seconds!r}"
        )
    return seconds


def _moment(when: object) -> float:
    """Seconds since the epoch."""
    wanted = "when must be a datetime, or seconds since the epoch"
    if isinstance(when, int | float) and not isinstance(when, bool):
        seconds = _as_float(when)
        if not math.isfinite(seconds):
            raise ValueError(f"{wanted}, not {seconds!r}")
        return seconds
    from datetime import datetime  # only when needed

    if not isinstance(when, datetime):
        raise TypeError(f"{wanted}, not {when!r}")
    try:
        return when.timestamp()
    except (OverflowError, OSError, ValueError):
        raise ValueError(f"{wanted}, as this system knows them, not {when!r}") from None


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _note_failure(
    reactor: Reactor, callback: Callable[[], object], error: Exception
) -> None:
    reactor.failure_listener(error)
    if reactor.repeats.may_say("timers failed", logging.ERROR):
        logger.error("a timer failed: %r", callback, exc_info=error)
