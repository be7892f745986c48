"""Subscribers of feeds on their way into topics with history.

They wait until it is known here where they begin; unlike in `joins`, nothing is written
to them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..cluster.history import History
from ..cluster.since import Since, start
from .feeds import Arrival
from .joins import FIRST_PAUSE, LONGEST_PAUSE, Source, lags
from .turns import Turns

if TYPE_CHECKING:
    from ..loop.reactor import Reactor
    from ..loop.timers import Timer

__all__ = ["Arriving"]


class Arriving:
    """One of them; see `Hub._arriving` for the functions.

    Args:
        source: the history of the topic.
        reactor: of the run.
        turns: serve those whose source has become ready.
        since: what it has got, as far as it can be compared.
        begin: says where it begins in a history.
        arrive: called with that, once.
    """

    def __init__(
        self,
        source: Source,
        reactor: Reactor,
        turns: Turns,
        since: Since,
        begin: Callable[[History], Since],
        arrive: Callable[[Arrival], object],
    ) -> None:
        self._source = source
        self._reactor, self._turns = reactor, turns
        self._since = since
        self._begin = begin
        self._arrive = arrive
        self._pause = FIRST_PAUSE
        self._timer: Timer | None = None
        self._ended = False

    def look(self) -> None:
        """Arrive, or wait until the source is in step, and as far as the client."""
        source, self._timer = self._source, None
        if self._ended:
            return
        if not source.in_step:
            source.when_in_step(self._note_ready)
        elif self._pause < LONGEST_PAUSE and lags(source, self._since):
            self._timer = self._reactor.call_later(self._pause, self._note_ready)
            self._pause *= 2
        else:
            history = source.history
            assert history is not None, "the source is in step"
            self._arrive(_arrival(history, self._begin(history), self._reactor.clock()))

    def _note_ready(self) -> None:
        """Not at once: very many may wait for one source."""
        self._turns.add(self.look)

    def end(self) -> None:
        """It does not come, or has come."""
        self._ended = True
        self._source.forget_waiting(self._note_ready)
        if self._timer is not None:
            self._timer.cancel()


def _arrival(history: History, since: Since, now: float) -> Arrival:
    after, gap = start(history, since, now)
    missed = tuple(entry for entry in history.after(after) if entry.body is not None)
    return Arrival(history.position, missed, gap)
