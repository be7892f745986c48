"""`Liveness`: whether the loop of a child process turns, and the end of one that hangs.

Its signs of life must come from the loop itself; how they come is left to its owner.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

__all__ = ["Liveness"]


class Liveness:
    """What is known of one process.

    Args:
        pid: of the process.
        now: seconds, when it was forked.

    Attributes:
        seen: when it last gave a sign of life.
    """

    def __init__(self, pid: int, now: float) -> None:
        self.seen = now
        self._pid = pid
        self._aborted: float | None = None  # when it was sent SIGABRT

    def end_if_stuck(
        self, now: float, stuck_after: float, kill_after: float
    ) -> float | None:
        """End it when it hangs: SIGABRT, which shows where, and SIGKILL later.

        Args:
            now: seconds.
            stuck_after: seconds of silence.
            kill_after: seconds from SIGABRT to SIGKILL.

        Returns:
            How long it was silent, when it is sent SIGABRT; None at any other time.
        """
        silence = now - self.seen
        if self._aborted is not None:
            if now - self._aborted > kill_after:
                self._signal(signal.SIGKILL)
        elif silence > stuck_after:
            self._aborted = now
            self._signal(signal.SIGABRT)
            return silence
        return None

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, number)
