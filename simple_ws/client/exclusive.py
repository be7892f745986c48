"""One call at a time on a blocking connection, whoever makes it, and whenever.

Threads take turns by a lock that is given up only while waiting. Signal handlers and
`__del__` run in the middle of a call of their own thread, which has the lock already:
what they ask for is queued, and done between two steps of that call. What is called,
and what is done meanwhile, is left to `client.blocking`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import get_ident
from typing import Any, Protocol, TypeVar

__all__ = ["CallHost", "ExclusiveCalls"]

_A = TypeVar("_A")
_B = TypeVar("_B")
_S = TypeVar("_S")
_T = TypeVar("_T")


class CallHost(Protocol):
    """The connection that is called.

    It is handed in with each call, not kept: a cycle would leave a connection that
    nobody uses any more, and its socket, to the garbage collector.
    """

    def _within(self, job: Callable[..., Any], first: Any, second: Any) -> Any:
        """Do what can be done while this thread is inside another call."""

    def _do_queued(self) -> None:
        """Do what is queued, by `ExclusiveCalls.do_queued`."""

    def _cut(self) -> None:
        """End the connection: something was raised in the middle of a step."""


class ExclusiveCalls:
    """The lock of one connection, and what waits for it.

    Attributes:
        waiting: threads that have given up the lock to wait, by their ids.
        queued: functions and arguments, asked for in the middle of a call.
    """

    __slots__ = ("_busy", "_lock", "_mutex", "_raised_outside", "queued", "waiting")

    def __init__(self) -> None:
        # A thread may take it again: in a signal handler, and then finds that it is
        # `_busy` or one of those `waiting`.
        self._mutex = threading.RLock()
        self._lock = threading.Condition(self._mutex)
        self._busy = False  # something is half done
        self.waiting: set[int] = set()
        # What was raised in a thread that waited: it left nothing half done.
        self._raised_outside: dict[int, BaseException] = {}
        self.queued: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()

    def run(
        self, host: CallHost, job: Callable[[_A, _B], _T], first: _A, second: _B
    ) -> _T:
        """Do something while no other thread does.

        What is raised on the way came in the middle of our lines, from a signal handler
        most likely; the connection ends then, unless we were waiting.

        Args:
            host: the connection.
            job: what to do; in a signal handler or `__del__` that runs while this
                thread is here already, `_within` takes its place.
            first: its first argument.
            second: its second one. Always two: this is on the path of every message,
                and a call with `*args` is slower.
        """
        with self._mutex:
            if self._busy or (self.waiting and get_ident() in self.waiting):
                result: _T = host._within(job, first, second)
                return result
            try:
                self._busy = True
                return job(first, second)
            except BaseException as error:
                if self._raised_outside.pop(get_ident(), None) is not error:
                    host._cut()
                raise
            finally:
                self._busy = False
                if self.queued:
                    host._do_queued()

    def queue(self, job: Callable[..., object], *args: object) -> None:
        """Have something done as soon as nothing is half done."""
        self.queued.append((job, args))

    def do_queued(self, host: CallHost) -> None:
        """Do what is queued, unless something is half done."""
        while self.queued and not self._busy:
            self._busy = True
            try:
                self.do_queued_within()
            except BaseException:
                host._cut()
                raise
            finally:
                self._busy = False

    def do_queued_within(self) -> None:
        """Do what is queued, between two steps of a call."""
        while self.queued:
            job, args = self.queued.popleft()
            job(*args)

    def wait(
        self,
        wait_for: Callable[[_S, int, float | None], int],
        sock: _S,
        events: int,
        timeout: float | None,
    ) -> int:
        """Let others come in; what is raised meanwhile leaves nothing half done.

        Args:
            wait_for: waits for a socket.
            sock: it.
            events: to wait for at the socket; 0 waits until another thread has news.
            timeout: seconds; None waits for ever.

        Returns:
            The events the socket is ready for; 0 also if something is queued.
        """
        thread, ready = get_ident(), 0
        self.waiting.add(thread)
        self._busy = False
        try:
            # From here on signal handlers do by themselves what they would queue.
            if self.queued:
                return 0
            if events:
                self._mutex.release()
                ready = wait_for(sock, events, timeout)
                self._mutex.acquire()
            else:
                self._lock.wait(timeout)
        except BaseException as error:
            self._take_back()
            self._raised_outside[thread] = error
            raise
        finally:
            self._busy = True
            self.waiting.discard(thread)
        return ready

    def _take_back(self) -> None:
        """Hold the mutex, which an interrupted wait may have given up."""
        while True:
            try:
                self._lock.notify(0)  # raises where it is not ours
                return
            except RuntimeError:
                with suppress(BaseException):  # one more interrupt
                    self._mutex.acquire()

    def is_waiting(self) -> bool:
        """Whether this thread waits: then it has been interrupted."""
        return get_ident() in self.waiting

    def leave(self) -> None:
        """This thread waits no more."""
        self.waiting.discard(get_ident())

    def notify(self) -> None:
        """Wake the threads that wait for news."""
        self._lock.notify_all()
