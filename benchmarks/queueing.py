"""A clock without waiting, and cores that work off jobs: the parts of `storms.py`."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable

__all__ = ["Clock", "Core", "Job"]


class Clock:
    """Calls functions in the order of their times.

    Attributes:
        now: seconds.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()  # what is due at once keeps its order

    def call_at(self, when: float, function: Callable[[], object]) -> None:
        """Call a function at a time."""
        heapq.heappush(self._due, (when, next(self._numbers), function))

    def call_later(self, delay: float, function: Callable[[], object]) -> None:
        """Call a function in so many seconds."""
        self.call_at(self.now + delay, function)

    def run(self) -> None:
        """Until nothing is due any more."""
        while self._due:
            self.now, _, function = heapq.heappop(self._due)
            function()


class Job:
    """Work for a core; it can be cancelled until it has begun."""

    __slots__ = ("added", "cancelled", "done", "seconds")

    def __init__(
        self, added: float, seconds: float, done: Callable[[], object] | None
    ) -> None:
        self.added = added
        self.seconds = seconds
        self.done = done
        self.cancelled = False


class Core:
    """One core: a queue with a single server, first come, first served.

    Args:
        clock: the time.
        share: of the core that is left for these jobs.

    Attributes:
        busy: seconds it has worked on them.
        longest: seconds that a job has waited, at most, until it began.
    """

    def __init__(self, clock: Clock, share: float = 1.0) -> None:
        self._clock = clock
        self._share = share
        self._jobs: deque[Job] = deque()
        self._job: Job | None = None  # what it works on
        self.busy = 0.0
        self.longest = 0.0

    def add(self, seconds: float, done: Callable[[], object] | None = None) -> Job:
        """Work for so many seconds, then call a function."""
        job = Job(self._clock.now, seconds, done)
        self._jobs.append(job)
        if self._job is None:
            self._begin()
        return job

    def _begin(self) -> None:
        """Begin the next job, if there is one."""
        self._job = None
        while self._jobs:
            job = self._jobs.popleft()
            if not job.cancelled:
                self._job = job
                self.busy += job.seconds
                self.longest = max(self.longest, self._clock.now - job.added)
                self._clock.call_later(job.seconds / self._share, self._end)
                return

    def _end(self) -> None:
        job = self._job
        if job is not None and job.done is not None:
            job.done()
        self._begin()
