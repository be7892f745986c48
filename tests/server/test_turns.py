"""What very many wait for is done over several turns of the loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from late_history import LateHistory

from simple_ws.constants import TURN
from simple_ws.server.arrivals import Arriving
from simple_ws.server.feeds import Arrival
from simple_ws.server.turns import Turns

pytestmark = pytest.mark.one_backend

#: Seconds that one job takes on the clock of these tests.
JOB = TURN / 10


class Loop:
    """A host and its loop, whose clock moves by the work that is done."""

    def __init__(self) -> None:
        self.now = 0.0
        self._soon: deque[Callable[[], object]] = deque()

    @property
    def reactor(self) -> Any:
        return self

    def clock(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], object]) -> None:
        self._soon.append(callback)

    def turn(self) -> float:
        """Run one turn; return how long it took."""
        began = self.now
        for _ in range(len(self._soon)):
            self._soon.popleft()()
        return self.now - began

    @property
    def idle(self) -> bool:
        return not self._soon


def test_a_turn_does_some_of_it_and_the_next_one_more() -> None:
    loop = Loop()
    turns, done = Turns(loop), []

    def job(number: int) -> None:
        loop.now += JOB
        done.append(number)

    for number in range(100):
        turns.add(lambda number=number: job(number))
    lengths = []
    while not loop.idle:
        lengths.append(loop.turn())
    assert done == list(range(100))
    assert len(lengths) >= 9
    assert max(lengths) <= TURN + 2 * JOB


def test_a_job_longer_than_a_turn_is_done_all_the_same() -> None:
    loop = Loop()
    turns, done = Turns(loop), []

    def job() -> None:
        loop.now += 2 * TURN
        done.append(1)

    turns.add(job)
    turns.add(job)
    loop.turn()
    assert len(done) == 1
    loop.turn()
    assert len(done) == 2
    assert loop.idle


def test_a_job_that_fails_does_not_stop_the_others() -> None:
    loop = Loop()
    turns, done = Turns(loop), []
    turns.add(lambda: 1 // 0)
    turns.add(lambda: done.append(1))
    with pytest.raises(ZeroDivisionError):
        loop.turn()
    loop.turn()
    assert done == [1]


def test_nothing_of_a_run_is_left_for_the_next() -> None:
    loop = Loop()
    turns, done = Turns(loop), []
    turns.add(lambda: done.append("old"))
    loop._soon.clear()  # the loop has ended
    turns.begin_run()
    turns.add(lambda: done.append("new"))
    loop.turn()
    assert done == ["new"]


def test_subscribers_of_feeds_that_waited_for_the_engine_arrive_over_many_turns() -> (
    None
):
    loop, source, arrived = Loop(), LateHistory(), []
    turns = Turns(loop)

    def arrive(number: int, arrival: Arrival) -> None:
        loop.now += JOB
        arrived.append(number)
        ways[number].end()

    ways = [
        Arriving(
            source,
            loop.reactor,
            turns,
            None,
            lambda history: None,
            lambda arrival, number=number: arrive(number, arrival),
        )
        for number in range(1000)
    ]
    for way in ways:
        way.look()
    source.come()
    assert arrived == []
    ways[500].end()  # it has gone meanwhile
    longest = 0.0
    while not loop.idle:
        longest = max(longest, loop.turn())
    assert arrived == [number for number in range(1000) if number != 500]
    assert longest <= TURN + 2 * JOB
