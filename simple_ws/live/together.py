"""`Together`: subscriptions that begin in the same turn of the loop, with one reply.

Those by the server begin with the reply to `connect`: what is published before it is
a part of it, what comes later follows it. So when the last one is known, the others are
looked up again, and nothing is sent before the reply.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..server.feeds import Arrival
from .topics import Beginning

__all__ = ["Together"]


class Together:
    """Several subscriptions.

    Args:
        beginnings: that are to begin.
        reply: called when it is known where all of them begin; then they do.
        then: called after that.
    """

    def __init__(
        self,
        beginnings: list[Beginning],
        reply: Callable[[], object],
        then: Callable[[], object],
    ) -> None:
        self._arrived: dict[Beginning, Arrival | None] = dict.fromkeys(beginnings)
        self._reply, self._then = reply, then
        self._looking = False
        for beginning in beginnings:
            beginning.arrive = partial(self._note, beginning)
            beginning.end = partial(self._drop, beginning)

    def look(self) -> None:
        """Look where all of them begin; reply if that is known, or once it is."""
        self._look(list(self._arrived), again=False)

    def _look(self, beginnings: list[Beginning], again: bool) -> None:
        self._looking = True
        for beginning in beginnings:
            self._arrived[beginning] = None
            beginning.look(again)
        self._looking = False
        arrived = {
            beginning: arrival
            for beginning, arrival in self._arrived.items()
            if arrival is not None
        }
        if len(arrived) == len(self._arrived):
            self._begin(arrived)

    def _begin(self, arrived: dict[Beginning, Arrival]) -> None:
        for beginning, arrival in arrived.items():
            beginning.settle(arrival)
        self._reply()
        for beginning in arrived:
            beginning.begin_feed()
        self._then()

    def _note(self, beginning: Beginning, arrival: Arrival) -> None:
        self._arrived[beginning] = arrival
        self._look_again(beginning)

    def _drop(self, beginning: Beginning) -> None:
        del self._arrived[beginning]
        self._look_again(None)

    def _look_again(self, last: Beginning | None) -> None:
        """Those that were known before the last one may have got messages since."""
        if not self._looking and None not in self._arrived.values():
            others = [each for each in self._arrived if each is not last]
            self._look(others, again=True)
