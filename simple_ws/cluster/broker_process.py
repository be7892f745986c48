"""`BrokerProcess`: the broker's process as the supervisor keeps it alive.

Its socket is the supervisor's and outlives it, so the workers' links connect again to
the same place. What it does is in `broker`.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from .broker import BrokerSocket, run_broker
from .liveness import Liveness
from .process import fork, reap, show_hangs
from .restarts import Restarts
from .slot import ending

__all__ = ["BrokerProcess"]

logger = logging.getLogger("simple_ws")

#: Bytes read at once, one for each sign of life.
_SIGNS = 4096


class BrokerProcess:
    """One broker after another.

    Attributes:
        socket: where all of them listen; for the workers its path and secret.
        due: when the next one starts; None while one lives.
    """

    #: Seconds without a sign of life after which it is ended. It runs no code of
    #: users, and its turns take milliseconds; workers have given it up after 3 s.
    STUCK_AFTER = 10.0
    #: Seconds from SIGABRT to SIGKILL.
    KILL_AFTER = 2.0

    def __init__(self) -> None:
        self.socket = BrokerSocket()
        self.due: float | None = None
        self._restarts = Restarts()
        self._pid = 0
        self._born = 0.0
        self._liveness: Liveness
        #: Its end tells each of us that the other has ended; it sends signs of life.
        self._ours: socket.socket | None = None

    def start(self, now: float, leave: Callable[[], object]) -> None:
        """Fork it; try again later if there is no room for a process.

        Args:
            now: seconds.
            leave: called in the new process, to close what is not the broker's.
        """
        self.due = None
        try:
            theirs, self._ours = socket.socketpair()
        except OSError as error:
            self._start_later(now, error)
            return
        self._ours.setblocking(False)
        try:
            self._pid = fork(partial(self._work, theirs, leave))
            self._born = now
            self._liveness = Liveness(self._pid, now)
        except OSError as error:
            self._close_pipe()
            self._start_later(now, error)
        finally:
            theirs.close()

    def look_after(self, now: float, leave: Callable[[], object]) -> None:
        """Start another one if it has ended, at once or when it is due; end it if it
        hangs."""
        if self._pid and (code := reap(self._pid)) is not None:
            self._pid = 0
            self._close_pipe()
            self.due = now + self._restarts.delay(now - self._born)
            text = "the broker ended: %s; it is started again in %.0f s"
            logger.error(text, ending(code), self.due - now)
        elif self._pid:
            self._check_liveness(now)
        if self.due is not None and now >= self.due:
            self.start(now, leave)

    def forgive(self, pause: float) -> None:
        """So many seconds without a sign of life do not count: we did not run."""
        if self._pid:
            self._liveness.seen += pause

    def _check_liveness(self, now: float) -> None:
        assert self._ours is not None
        with suppress(OSError):  # nothing has come
            if self._ours.recv(_SIGNS):
                self._liveness.seen = now
        silence = self._liveness.end_if_stuck(now, self.STUCK_AFTER, self.KILL_AFTER)
        if silence is not None:
            text = "the broker (process %d) has not turned for %.0f s: it is ended"
            logger.error(text, self._pid, silence)

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

    def _work(self, theirs: socket.socket, leave: Callable[[], object]) -> int:
        self._close_pipe()
        leave()
        show_hangs()
        run_broker(self.socket.sock, self.socket.secret, theirs)
        return 0

    def _close_pipe(self) -> None:
        if self._ours is not None:
            self._ours.close()
            self._ours = None
