"""`ClockLoop`: an asyncio loop driven by the test kit, with the clock of the test.

It uses two lists that asyncio's loop keeps for itself, as there is no public way to ask
what is ready, and what will be due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from .clock import Clock

__all__ = ["ClockLoop"]


class ClockLoop(asyncio.SelectorEventLoop):
    """Runs only inside `turn`; its timers obey `clock`."""

    _ready: Any
    _scheduled: Any

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        super().__init__()

    def time(self) -> float:
        """The time of the test's clock."""
        return self._clock.now

    def next_deadline(self) -> float | None:
        """When the next timer is due, by the clock."""
        timers = [timer for timer in self._scheduled if not timer.cancelled()]
        return min((timer.when() for timer in timers), default=None)

    def turn(self, callback: Callable[[], object] | None = None) -> bool:
        """Run what is due; return whether there was anything.

        Args:
            callback: called behind that, in the same turn.
        """
        due = self.next_deadline()
        busy = bool(self._ready) or (due is not None and due <= self._clock.now)
        if callback is not None:
            self.call_soon(callback)
        self.call_soon(self.stop)
        self.run_forever()
        return busy

    def finish(self) -> None:
        """Cancel remaining tasks, let them end, and close."""
        if self.is_closed():
            return
        for task in asyncio.all_tasks(self):
            task.cancel()
        while asyncio.all_tasks(self):
            self.turn()
        self.close()
