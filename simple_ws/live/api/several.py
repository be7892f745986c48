"""`Several`: calls one after the other or beside each other, some in each turn of the
loop, so that others are served in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ...constants import TURN
from ...loop.reactor import Reactor

__all__ = ["Several"]

#: Calls that run beside each other.
_BESIDE = 1000


class Several:
    """Several calls, whose results are wanted together.

    Args:
        reactor: the loop.
        calls: each is given a function that it calls once, with its result.
        done: called with the results, in the order of the calls.
        parallel: the calls need not wait for each other.
    """

    def __init__(
        self,
        reactor: Reactor,
        calls: Sequence[Callable[[Callable[[Any], object]], object]],
        done: Callable[[list[Any]], object],
        *,
        parallel: bool = False,
    ) -> None:
        self._reactor, self._calls, self._done = reactor, calls, done
        self._most = _BESIDE if parallel else 1
        self._results: list[Any] = [None] * len(calls)
        self._next = self._running = 0
        self._busy = False  # it begins calls, in this turn or the next

    def begin(self) -> None:
        """Begin; to be called once."""
        self._work()

    def _work(self) -> None:
        calls, clock = self._calls, self._reactor.clock
        self._busy, end = True, clock() + TURN
        while self._next < len(calls) and self._running < self._most:
            number, self._next = self._next, self._next + 1
            self._running += 1
            calls[number](partial(self._note, number))
            if clock() > end:
                self._reactor.call_soon(self._work)
                return
        self._busy = False
        if not self._running:
            self._done(self._results)

    def _note(self, number: int, result: Any) -> None:
        self._results[number] = result
        self._running -= 1
        if not self._busy:
            self._work()
