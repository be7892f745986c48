"""`BrokerProcess`: the broker's process as the supervisor keeps it alive.

Its socket is the supervisor's and outlives it, so the workers' links connect again to
the same place. What it does is in `broker`.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from .broker import BrokerSocket, run_broker
from .process import fork, reap
from .restarts import Restarts
from .slot import ending

__all__ = ["BrokerProcess"]

logger = logging.getLogger("simple_ws")


class BrokerProcess:
    """One broker after another.

    Attributes:
        socket: where all of them listen; for the workers its path and secret.
        due: when the next one starts; None while one lives.
    """

    def __init__(self) -> None:
        self.socket = BrokerSocket()
        self.due: float | None = None
        self._restarts = Restarts()
        self._pid = 0
        self._born = 0.0
        self._ours = -1  # our end of its pipe, which tells it that we have ended

    def start(self, now: float, leave: Callable[[], object]) -> None:
        """Fork it; try again later if there is no room for a process.

        Args:
            now: seconds.
            leave: called in the new process, to close what is not the broker's.
        """
        self.due = None
        try:
            theirs, self._ours = os.pipe()
        except OSError as error:
            self._start_later(now, error)
            return
        try:
            self._pid = fork(partial(self._work, theirs, leave))
            self._born = now
        except OSError as error:
            self._close_pipe()
            self._start_later(now, error)
        finally:
            os.close(theirs)

    def look_after(self, now: float, leave: Callable[[], object]) -> None:
        """Start another one if it has ended, at once or when it is due."""
        if self._pid and (code := reap(self._pid)) is not None:
            self._pid = 0
            self._close_pipe()
            self.due = now + self._restarts.delay(now - self._born)
            text = "the broker ended: %s; it is started again in %.0f s"
            logger.error(text, ending(code), self.due - now)
        if self.due is not None and now >= self.due:
            self.start(now, leave)

    def forget(self) -> None:
        """Close the copies of a worker, which only needs to know where it is."""
        self._close_pipe()
        self.socket.close()

    def end(self) -> None:
        """End it; it stores nothing. All workers have ended."""
        if self._pid:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._pid = 0
        self._close_pipe()
        self.socket.close()

    def _start_later(self, now: float, error: OSError) -> None:
        logger.error("the broker cannot be started: %s", error)
        self.due = now + max(1.0, self._restarts.delay(0.0))

    def _work(self, theirs: int, leave: Callable[[], object]) -> int:
        self._close_pipe()
        leave()
        run_broker(self.socket.sock, self.socket.secret, theirs)
        return 0

    def _close_pipe(self) -> None:
        if self._ours >= 0:
            os.close(self._ours)
            self._ours = -1
