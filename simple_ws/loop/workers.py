"""Threads for what blocks: a pool of bounded size, and calls with a future.

What is run in them on behalf of connections, and in which order, is decided in
`handlers.pending`; WSGI applications are run by `wsgi`.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Protocol, TypeVar

__all__ = ["Call", "Job", "Pool"]

logger = logging.getLogger("simple_ws")

R = TypeVar("R")


class Job(Protocol):
    """What a worker does."""

    def run(self) -> object:
        """Do it; it must not raise."""


class Pool:
    """Worker threads, made when they are first needed.

    They are daemons: a program can end though one of them hangs.

    Args:
        name: of the threads, with a number behind it.
        size: how many at most.
        limit: jobs that may wait for one.
        on_idle: called in a worker when there is nothing more to do.

    Jobs that wait for somebody else (`aside`) do not count towards `size`: others run
    in further threads meanwhile.

    Every method may be called from any thread.
    """

    def __init__(
        self,
        name: str,
        size: int,
        limit: int,
        on_idle: Callable[[], object] = lambda: None,
    ) -> None:
        self._name = name
        self._size = size
        self._limit = limit
        self._on_idle = on_idle
        self._threads: set[int] = set()
        self._idle = 0  # threads without a job
        self._alive = self._made = 0  # threads now, and so far
        self._aside = 0  # jobs that wait for somebody else
        self._returning = 0  # of them those that wait for a place
        self._queue: deque[Job] = deque()
        self._running: set[Job] = set()
        self._ended = False
        lock = threading.Lock()
        self._changed = threading.Condition(lock)  # for threads without a job
        self._place = threading.Condition(lock)  # for jobs that return

    def submit(self, job: Job, *, limited: bool = True) -> bool:
        """Have a job run.

        Args:
            job: to be run.
            limited: False for those of which there cannot be too many.

        Returns:
            False when too many wait already, or the pool has ended.
        """
        with self._changed:
            if self._ended or (limited and len(self._queue) >= self._limit):
                return False
            self._queue.append(job)
            self._call_thread()
        return True

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave the place of a job to others while it waits; in a worker.

        It is back at the end of the block, when there is a place again; jobs that have
        not begun come after it.
        """
        with self._changed:
            self._aside += 1
            if self._returning:
                self._place.notify()
            elif self._queue:
                self._call_thread()
        try:
            yield
        finally:
            with self._changed:
                self._returning += 1
                self._place.wait_for(lambda: self._active < self._size)
                self._returning -= 1
                self._aside -= 1
                self._changed.notify()  # a thread may be one too many now

    @property
    def _active(self) -> int:
        """Jobs that run, and do not wait."""
        return len(self._running) - self._aside

    def _call_thread(self) -> None:
        """Wake a thread for what is in the queue, or make one."""
        if self._idle < len(self._queue) and self._alive - self._aside < self._size:
            self._alive += 1
            self._made += 1
            name = f"{self._name} {self._made}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        self._changed.notify()

    @property
    def busy(self) -> bool:
        """Whether jobs run, or wait."""
        with self._changed:
            return bool(self._queue or self._running)

    def is_worker(self) -> bool:
        """Whether the caller is one of the threads."""
        return threading.get_ident() in self._threads

    def withdraw(self) -> list[Job]:
        """Take back the jobs that have not begun."""
        with self._changed:
            jobs = list(self._queue)
            self._queue.clear()
            return jobs

    def end(self) -> list[Job]:
        """Take no more; threads end when the jobs that are in are done.

        Returns:
            The jobs that run at this moment.
        """
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            return list(self._running)

    def _work(self) -> None:
        self._threads.add(threading.get_ident())
        while (job := self._next()) is not None:
            job.run()
            with self._changed:
                self._running.discard(job)
                if self._returning:
                    self._place.notify()
                idle = not self._running and not self._queue
            # Or it would live until this thread has something else to do.
            del job
            if idle:
                self._on_idle()
        self._threads.discard(threading.get_ident())

    def _next(self) -> Job | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._may_begin() or self._may_leave())
            self._idle -= 1
            if not self._may_begin():
                self._alive -= 1
                return None
            job = self._queue.popleft()
            self._running.add(job)
            return job

    def _may_begin(self) -> bool:
        return bool(self._queue) and self._active + self._returning < self._size

    def _may_leave(self) -> bool:
        if self._ended and not self._queue:
            return True
        return self._alive - self._aside > self._size


class Call(Future[R]):
    """A call of a function in a worker, and the future of its result.

    What the function raises is logged when nobody has asked for it.
    """

    def __init__(self, function: Callable[[], R]) -> None:
        super().__init__()
        self._function: Callable[[], R] | None = function
        self._name = repr(function)
        self._asked = False

    def run(self) -> None:
        """Call it; for `Pool`."""
        function, self._function = self._function, None
        if function is None or not self.set_running_or_notify_cancel():
            return
        try:
            self.set_result(function())
        except BaseException as error:  # also what is meant to end a program
            self.set_exception(error)
            # The error's traceback knows this frame, and this frame the error's owner:
            # a circle, which would keep `__del__` waiting for the garbage collector.
            self = None  # type: ignore[assignment]

    def result(self, timeout: float | None = None) -> R:
        """See `concurrent.futures.Future.result`."""
        self._asked = True
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """See `concurrent.futures.Future.exception`."""
        self._asked = True
        return super().exception(timeout)

    def __del__(self) -> None:
        if self._asked or not self.done() or self.cancelled():
            return
        error = super().exception()
        if error is not None:
            logger.error(
                "%s failed in a thread, and nobody asked", self._name, exc_info=error
            )
