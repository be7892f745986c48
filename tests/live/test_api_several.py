"""Several calls at once: in order or beside each other, and in how many turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from simple_ws.constants import TURN
from simple_ws.live.api.several import Several
from simple_ws.loop.reactor import Reactor

Note = Callable[[Any], object]


class Turns:
    """A loop whose time the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon: list[Callable[[], object]] = []

    def clock(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.soon.append(callback)

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()


def begin(
    turns: Turns, calls: list[Callable[[Note], object]], parallel: bool
) -> list[list[Any]]:
    done: list[list[Any]] = []
    reactor = cast(Reactor, turns)
    Several(reactor, calls, done.append, parallel=parallel).begin()
    return done


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_calls_that_end_at_once(parallel: bool, count: int) -> None:
    calls = [lambda note, n=n: note(n) for n in range(count)]
    assert begin(Turns(), calls, parallel) == [list(range(count))]


@pytest.mark.parametrize("parallel", [False, True])
def test_turn_ends_when_it_has_taken_long(parallel: bool) -> None:
    turns = Turns()

    def slow(note: Note) -> None:
        turns.now += TURN * 0.6
        note("done")

    done = begin(turns, [slow] * 5, parallel)
    count = 1
    while not done:
        assert len(turns.soon) == 1
        turns.turn()
        count += 1
    assert (done, count, turns.soon) == ([["done"] * 5], 3, [])


def test_one_waits_for_the_other_unless_they_are_parallel() -> None:
    notes: list[Note] = []
    done = begin(Turns(), [notes.append] * 3, False)
    for number in range(3):
        assert (len(notes), done) == (number + 1, [])
        notes[number](number)
    assert done == [[0, 1, 2]]
    begin(Turns(), [notes.append] * 3, True)
    assert len(notes) == 6


def test_results_keep_their_order() -> None:
    notes: list[Note] = []
    done = begin(Turns(), [notes.append] * 3, True)
    for number in 2, 0, 1:
        assert done == []
        notes[number](number)
    assert done == [[0, 1, 2]]


@pytest.mark.parametrize("parallel", [False, True])
def test_call_that_ends_while_the_next_turn_is_awaited(parallel: bool) -> None:
    turns = Turns()
    notes: list[Note] = []

    def slow(note: Note) -> None:
        turns.now += TURN * 2
        notes.append(note)

    done = begin(turns, [slow, slow], parallel)
    notes[0]("first")
    assert len(notes) == 1
    turns.turn()
    notes[1]("second")
    turns.turn()
    assert done == [["first", "second"]]
    assert turns.soon == []
