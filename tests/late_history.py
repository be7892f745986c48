"""A topic whose history comes when the test says so."""

from __future__ import annotations

from collections.abc import Callable

from simple_ws.cluster.history import History

__all__ = ["LateHistory"]


class LateHistory:
    """Where those who wait for it get it."""

    may_lag = True

    def __init__(self) -> None:
        self.in_step = False
        self.history: History | None = None
        self._waiting: dict[Callable[[], object], None] = {}

    def when_in_step(self, callback: Callable[[], object]) -> None:
        self._waiting[callback] = None

    def when_at(self, offset: int, callback: Callable[[], object]) -> None:
        raise AssertionError

    def forget_waiting(self, callback: Callable[[], object]) -> None:
        self._waiting.pop(callback, None)

    def come(self) -> None:
        self.in_step = True
        self.history = History(10, None, "e", 0, 0)
        waiting, self._waiting = self._waiting, {}
        for callback in waiting:
            callback()
