"""`ClockLoop`: an asyncio loop driven by the test kit, with the clock of the test.

It uses two lists that asyncio's loop keeps for itself, as there is no public way to ask
what is ready, and what will be due.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import tasks
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .clock import Clock

__all__ = ["ClockLoop"]

#: Whose task is entered, since Python 3.12; 3.11 keeps one for each loop.
_swap_task: Any = getattr(tasks, "_swap_current_task", None)


@contextmanager
def _no_running_loop() -> Iterator[None]:
    """Leave the asyncio loop of the test, if there is one, so that another may run."""
    outer = asyncio._get_running_loop()
    if outer is None:
        yield
        return
    task = None if _swap_task is None else _swap_task(outer, None)
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(outer)
        if _swap_task is not None:
            _swap_task(outer, task)


class ClockLoop(asyncio.SelectorEventLoop):
    """Runs only inside `turn`; its timers obey `clock`."""

    _ready: Any
    _scheduled: Any
    _selector: Any

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._in_executor = 0
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
        with _no_running_loop():
            self.run_forever()
        return busy

    @property
    def waits_for_others(self) -> bool:
        """Whether something may come by itself: from a thread, or a socket."""
        # One descriptor is its own.
        return self._in_executor > 0 or len(self._selector.get_map()) > 1

    def run_in_executor(  # type: ignore[override] # typed as a function of any
        self, executor: Any, func: Any, *args: Any
    ) -> Any:
        """As in asyncio; counted until it is done."""
        future = super().run_in_executor(executor, func, *args)
        self._in_executor += 1
        future.add_done_callback(self._note_executed)
        return future

    def _note_executed(self, future: object) -> None:
        self._in_executor -= 1

    @property
    def threads(self) -> frozenset[threading.Thread]:
        """Those of its own executor."""
        executor = getattr(self, "_default_executor", None)
        return frozenset(getattr(executor, "_threads", ()))

    def finish(self) -> None:
        """Cancel remaining tasks, let them end, and close."""
        if self.is_closed():
            return
        for task in asyncio.all_tasks(self):
            task.cancel()
        while asyncio.all_tasks(self):
            self.turn()
        self.close()
