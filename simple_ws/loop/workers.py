"""Worker threads for blocking code: a bounded pool, and calls with a future.

`handlers.pending` decides what runs in them for connections, and in which order;
`http.wsgi` runs WSGI applications.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

__all__ = ["Call", "Pool", "WorkItem"]

logger = logging.getLogger("simple_ws")

R = TypeVar("R")


class WorkItem(Protocol):
    """One piece of work for a worker."""

    def run(self) -> object:
        """Do the work; it must not raise."""


class Pool:
    """Worker threads, started when they are first needed.

    They are daemons: the program can end even if one of them hangs.

    Args:
        name: name of the threads, followed by a number.
        size: maximum number of threads that run items.
        limit: maximum number of items waiting for a thread.
        on_idle: called in a worker when no items are left.

    Items that wait inside `aside` do not count towards `size`: other items run in
    further threads meanwhile.

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
        self._idle = 0  # threads without an item
        self._alive = self._made = 0  # threads now, and so far
        self._aside = 0  # items inside `aside`
        self._returning = 0  # those of them that wait for a place
        self._queue: deque[WorkItem] = deque()
        self._running: set[WorkItem] = set()
        self._ended = False
        lock = threading.Lock()
        self._changed = threading.Condition(lock)  # for threads without an item
        self._place = threading.Condition(lock)  # for items that return

    def submit(self, item: WorkItem, *, limited: bool = True) -> bool:
        """Queue an item.

        Args:
            item: run by the next free worker.
            limited: False where something else limits their number.

        Returns:
            False when too many are waiting already, or the pool has ended.
        """
        with self._changed:
            if self._ended or (limited and len(self._queue) >= self._limit):
                return False
            self._queue.append(item)
            self._call_thread()
        return True

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Give an item's place to others while it waits; for use in a worker.

        The block ends when a place is free again; items that have not started get
        theirs later.
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
        """Items that run and are not inside `aside`."""
        return len(self._running) - self._aside

    def _call_thread(self) -> None:
        """Wake a thread for the queue, or start one."""
        if self._idle < len(self._queue) and self._alive - self._aside < self._size:
            self._alive += 1
            self._made += 1
            name = f"{self._name} {self._made}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
        self._changed.notify()

    @property
    def busy(self) -> bool:
        """Whether items are running or waiting."""
        with self._changed:
            return bool(self._queue or self._running)

    def is_worker(self) -> bool:
        """Whether the caller is one of the threads."""
        return threading.get_ident() in self._threads

    def withdraw(self) -> list[WorkItem]:
        """Take back the items that have not started."""
        with self._changed:
            items = list(self._queue)
            self._queue.clear()
            return items

    def end(self) -> list[WorkItem]:
        """Accept no more items; the threads end when all accepted ones are done.

        Returns:
            The items that are running at this moment.
        """
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            return list(self._running)

    def _work(self) -> None:
        self._threads.add(threading.get_ident())
        while (item := self._next()) is not None:
            item.run()
            with self._changed:
                self._running.discard(item)
                if self._returning:
                    self._place.notify()
                idle = not self._running and not self._queue
            # Otherwise the item would live until this thread runs the next one.
            del item
            if idle:
                self._on_idle()
        self._threads.discard(threading.get_ident())

    def _next(self) -> WorkItem | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._may_begin() or self._may_leave())
            self._idle -= 1
            if not self._may_begin():
                self._alive -= 1
                return None
            item = self._queue.popleft()
            self._running.add(item)
            return item

    def _may_begin(self) -> bool:
        return bool(self._queue) and self._active + self._returning < self._size

    def _may_leave(self) -> bool:
        if self._ended and not self._queue:
            return True
        return self._alive - self._aside > self._size


class Call(Future[R]):
    """A function call in a worker, and the future of its result.

    An exception is logged if it was never retrieved.
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
        except BaseException as error:  # including those that end programs
            self.set_exception(error)
            # The error's traceback refers to this frame, and this frame to the error's
            # owner: a cycle, which would delay `__del__` until garbage collection.
            self = None  # type: ignore[assignment]

    def result(self, timeout: float | None = None) -> R:
        """See `concurrent.futures.Future.result`."""
        self._asked = True
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """See `concurrent.futures.Future.exception`."""
        self._asked = True
        return super().exception(timeout)

    def _get_snapshot(self) -> Any:
        """What asyncio's futures ask for from CPython 3.15 on, instead of the above."""
        self._asked = True
        return super()._get_snapshot()  # type: ignore[misc]

    def __del__(self) -> None:
        if self._asked or not self.done() or self.cancelled():
            return
        error = super().exception()
        if error is not None:
            logger.error(
                "%s failed in a thread; the error was never retrieved",
                self._name,
                exc_info=error,
            )
