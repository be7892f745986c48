"""`Slot`: the place of one worker, which one process after another takes.

It knows their counts and when the next one starts. When to fork, stop and kill is
decided by the supervisor.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Any

from ..ops.totals import retired, total
from .liveness import Liveness
from .pipe import Pipe
from .restarts import Restarts

__all__ = ["Slot", "WorkerProcess", "ending"]


class WorkerProcess:
    """A process that serves, as the supervisor sees it.

    Args:
        pid: of the process.
        pipe: to it.
        now: seconds, when it was forked.

    Attributes:
        pid, pipe: see above.
        born: when it was forked.
        liveness: when it last gave a sign of life.
        turns: its loop does: it has given a sign of life.
        up: it serves, and its engine is up or was waited for.
        stopping: it was told to stop.
        failure: why it could not begin, in its words.
        stats: its last stats.
    """

    def __init__(self, pid: int, pipe: Pipe, now: float) -> None:
        self.pid = pid
        self.pipe = pipe
        self.born = now
        self.liveness = Liveness(pid, now)
        self.turns = self.up = False
        self.stopping = False
        self.failure: str | None = None
        self.stats: dict[str, Any] = {}

    def stop(self, drain: float | None, last: bool) -> None:
        """Tell it to shut down gracefully.

        Args:
            drain: seconds, see `Server.stop`.
            last: no other process will accept what waits in the queue of its sockets.
        """
        self.stopping = True
        self.pipe.send({"stop": drain, "last": last})
        if not self.turns:
            self.signal(signal.SIGTERM)  # its loop may not turn yet

    def cut(self) -> None:
        """Tell it to end at once."""
        self.pipe.send({"cut": True})

    def signal(self, number: int) -> None:
        """Send it a signal."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Slot:
    """The place of one worker.

    Args:
        number: of the worker, from 1.

    Attributes:
        number: see above.
        processes: those that live; while one replaces another there are two.
        due: when the next process starts; None if one lives.
        restarts: how often one was replaced because it ended, and when to do it.
        endings: number of processes that ended without being told to, by signal or
            exit code.
        was_up: one of them has served.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.processes: list[WorkerProcess] = []
        self.due: float | None = None
        self.restarts = Restarts()
        self.endings: dict[str, int] = {}
        self.was_up = False
        self._retired: dict[str, Any] = {}

    @property
    def serving(self) -> WorkerProcess | None:
        """The process that serves and was not told to stop, or None."""
        for process in self.processes:
            if process.up and not process.stopping:
                return process
        return None

    def remove(self, process: WorkerProcess) -> None:
        """A process has ended; its counts remain."""
        self.processes.remove(process)
        process.pipe.close()
        self._retired = total([self._retired, retired(process.stats)])

    def note_end(self, code: int) -> None:
        """One ended without being told to."""
        name = ending(code)
        self.endings[name] = self.endings.get(name, 0) + 1

    def stats(self) -> dict[str, Any]:
        """The counts of all processes that were here, and what the living ones have."""
        sums = total([self._retired, *(each.stats for each in self.processes)])
        serving = self.serving
        sums["worker"] = self.number
        sums["pid"] = None if serving is None else serving.pid
        sums["endings"] = dict(self.endings)
        return sums


def ending(code: int) -> str:
    """How a process has ended: its exit code, or the name of the signal."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"signal {-code}"
