"""Work that very many wait for at once, such as the end of an outage: each turn of the
loop does some of it, so that others are served in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from ..constants import TURN
from ..loop.reactor import Reactor

__all__ = ["Turns", "TurnsHost"]


class TurnsHost(Protocol):
    """What it needs of its server."""

    @property
    def reactor(self) -> Reactor:
        """The event loop."""


class Turns:
    """What is to be done, in order.

    Args:
        host: the server.
    """

    def __init__(self, host: TurnsHost) -> None:
        self._host = host
        self._jobs: deque[Callable[[], object]] = deque()
        self._scheduled = False  # `_work` will be called

    def begin_run(self) -> None:
        """A run begins: what was left to do in the last turn of another is void."""
        self._jobs.clear()
        self._scheduled = False

    def add(self, job: Callable[[], object]) -> None:
        """Do something in a later turn; it may be needless then, and has to look."""
        self._jobs.append(job)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._host.reactor.call_soon(self._work)

    def _work(self) -> None:
        """Do as much as a turn may take, and at least one thing."""
        self._scheduled = False
        clock = self._host.reactor.clock
        end = clock() + TURN
        try:
            while self._jobs:
                self._jobs.popleft()()
                if clock() > end:
                    break
        finally:
            if self._jobs:
                self._schedule()
