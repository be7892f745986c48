"""Exact timers in a heap, and the coarse wheel; time is a number."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_ws.loop.timers import Timer, Timers, Wheel

# --- Timers --------------------------------------------------------------------------


def test_timers_run_in_the_order_of_their_moments() -> None:
    timers = Timers()
    ran: list[str] = []
    for when, name in ((3.0, "c"), (1.0, "a"), (2.0, "b"), (1.0, "a2")):
        timers.call_at(when, lambda name=name: ran.append(name))  # type: ignore[misc]
    assert timers.next_deadline() == 1.0
    timers.run_due(0.999)
    assert ran == []
    timers.run_due(2.0)
    assert ran == ["a", "a2", "b"]
    assert timers.next_deadline() == 3.0
    timers.run_due(99.0)
    assert ran == ["a", "a2", "b", "c"]
    assert timers.next_deadline() is None


def test_cancelled_timer_never_runs() -> None:
    timers = Timers()
    ran: list[int] = []
    timer = timers.call_at(1.0, lambda: ran.append(1))
    timers.call_at(2.0, lambda: ran.append(2))
    assert timer.active
    timer.cancel()
    timer.cancel()
    assert not timer.active
    assert timers.next_deadline() == 2.0
    timers.run_due(5.0)
    assert ran == [2]


def test_timer_cancelled_by_one_that_is_due_with_it() -> None:
    timers = Timers()
    ran: list[str] = []
    later: list[Timer] = []
    timers.call_at(1.0, lambda: later[0].cancel())
    later.append(timers.call_at(1.0, lambda: ran.append("later")))
    timers.run_due(1.0)
    assert ran == []


def test_timer_is_over_when_its_callback_runs() -> None:
    timers = Timers()
    states: list[bool] = []
    timer = timers.call_at(1.0, lambda: states.append(timer.active))
    timers.run_due(1.0)
    assert states == [False]
    timer.cancel()


def test_timers_made_meanwhile_wait_for_the_next_turn() -> None:
    # Otherwise a timer that makes itself anew, already due, would stop the loop.
    timers = Timers()
    ran: list[float] = []

    def again() -> None:
        ran.append(0)
        timers.call_at(0.0, again)

    timers.call_at(0.0, again)
    timers.run_due(1.0)
    assert len(ran) == 1
    timers.run_due(1.0)
    assert len(ran) == 2


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=30))
def test_timers_run_once_each_and_never_early(
    entries: list[tuple[float, bool]],
) -> None:
    timers = Timers()
    ran: list[tuple[float, int]] = []
    now = 0.0

    def note(when: float, order: int) -> Callable[[], None]:
        def callback() -> None:
            assert when <= now
            ran.append((when, order))

        return callback

    for order, (when, cancelled) in enumerate(entries):
        timer = timers.call_at(when, note(when, order))
        if cancelled:
            timer.cancel()
    while (deadline := timers.next_deadline()) is not None:
        now = deadline
        timers.run_due(now)
    expected = [(when, i) for i, (when, off) in enumerate(entries) if not off]
    assert ran == sorted(expected)


def test_timers_of_one_moment_run_in_several_turns_if_they_take_long() -> None:
    clock = itertools.count(0.0, 0.0004)
    timers = Timers(lambda: next(clock))
    ran: list[int] = []
    for number in range(20):
        timers.call_at(1.0, partial(ran.append, number))
    counts = []
    while timers.next_deadline() is not None:
        before = len(ran)
        timers.run_due(1.0)
        counts.append(len(ran) - before)
    assert ran == list(range(20))
    assert max(counts) <= 4


def test_owners_of_one_moment_are_swept_in_several_turns_if_they_take_long() -> None:
    clock = itertools.count(0.0, 0.002)
    wheel = Wheel(1.0, clock=lambda: next(clock))
    owners = [Owner() for _ in range(20)]
    for owner in owners:
        wheel.put(owner, 1.0)
    wheel.run_due(2.0)
    assert 1 <= sum(len(owner.swept) for owner in owners) <= 8
    while wheel.is_due(2.0):
        wheel.run_due(2.0)
    assert all(len(owner.swept) == 1 for owner in owners)


# --- The wheel -----------------------------------------------------------------------


class Owner:
    """Notes when it was looked at; does what it is told then."""

    def __init__(self, answer: Callable[[float], float | None] | None = None) -> None:
        self._wheel_slot: dict[Any, None] | None = None
        self.swept: list[float] = []
        self._answer = answer

    def _sweep(self, now: float) -> float | None:
        self.swept.append(now)
        assert self._wheel_slot is None
        return self._answer(now) if self._answer else None


def turn(wheel: Wheel, until: float) -> None:
    """Sleep and wake as the reactor does."""
    while wheel.next_deadline is not None and wheel.next_deadline <= until:
        wheel.run_due(wheel.next_deadline)


@pytest.mark.parametrize("when", [0.0, 0.1, 0.999, 1.0, 1.001, 5.5, 1e6])
@pytest.mark.parametrize("grain", [0.25, 1.0, 0.1])
def test_owner_is_swept_late_by_at_most_a_grain(when: float, grain: float) -> None:
    wheel, owner = Wheel(grain), Owner()
    wheel.put(owner, when)
    assert len(wheel) == 1
    wheel.run_due(when - 1e-6)
    assert owner.swept == []
    assert wheel.next_deadline is not None
    assert when <= wheel.next_deadline <= when + grain * 1.0001
    turn(wheel, when + 2 * grain)
    assert len(owner.swept) == 1
    assert when <= owner.swept[0] <= when + grain * 1.0001
    assert (len(wheel), wheel.next_deadline) == (0, None)


def test_put_again_replaces_the_moment() -> None:
    wheel, owner = Wheel(1.0), Owner()
    wheel.put(owner, 1.0)
    wheel.put(owner, 7.0)
    assert len(wheel) == 1
    turn(wheel, 6.9)
    assert owner.swept == []
    wheel.put(owner, 7.2)
    turn(wheel, 20.0)
    assert owner.swept == [8.0]


def test_discarded_owner_is_not_swept() -> None:
    wheel, owner = Wheel(1.0), Owner()
    wheel.discard(owner)
    wheel.put(owner, 1.0)
    wheel.discard(owner)
    wheel.discard(owner)
    turn(wheel, 9.0)
    assert owner.swept == []
    assert owner._wheel_slot is None


def test_sweep_tells_the_next_moment() -> None:
    wheel = Wheel(1.0)
    owner = Owner(lambda now: now + 3 if now < 8 else None)
    wheel.put(owner, 1.5)
    turn(wheel, 99.0)
    assert owner.swept == [2.0, 6.0, 10.0]
    assert owner._wheel_slot is None


def test_moment_that_is_over_comes_next() -> None:
    # A sweep may ask for a moment in the past: it must not be asked again at once.
    wheel = Wheel(1.0)
    owner = Owner(lambda now: 0.0 if now < 4 else None)
    wheel.put(owner, 0.0)
    turn(wheel, 99.0)
    assert owner.swept == [1.0, 2.0, 3.0, 4.0]


def test_long_sleep_sweeps_everybody_in_order() -> None:
    wheel = Wheel(1.0)
    order: list[int] = []
    owners = [Owner(lambda _, n=n: order.append(n)) for n in range(5)]  # type: ignore[misc]
    for number in (3, 0, 4, 1, 2):
        wheel.put(owners[number], float(number))
    wheel.run_due(100.0)
    assert order == [0, 1, 2, 3, 4]


def test_many_of_one_moment_are_swept_in_several_turns() -> None:
    wheel = Wheel(1.0)
    owners = [Owner(lambda now: now + 100) for _ in range(1000)]
    for owner in owners:
        wheel.put(owner, 1.0)
    turns = []
    while wheel.is_due(2.0):
        wheel.run_due(2.0)
        turns.append(sum(len(owner.swept) for owner in owners))
    assert turns[-1] == 1000
    assert max(after - before for before, after in pairwise([0, *turns])) <= 100
    assert wheel.next_deadline is not None
    assert wheel.next_deadline > 100


@pytest.mark.parametrize("turns", range(6))
def test_sweep_may_discard_others_of_the_same_moment(turns: int) -> None:
    # The order within a moment is not told; whoever comes first takes out the others.
    wheel = Wheel(1.0)
    owners: list[Owner] = []

    def discard_others(now: float) -> None:
        for owner in owners:
            wheel.discard(owner)

    owners += [Owner(discard_others) for _ in range(5 + turns)]
    for owner in owners:
        wheel.put(owner, 1.0)
    turn(wheel, 9.0)
    assert sum(len(owner.swept) for owner in owners) == 1
    assert len(wheel) == 0


@pytest.mark.parametrize("turns", range(6))
def test_sweep_may_put_off_others_of_the_same_moment(turns: int) -> None:
    wheel = Wheel(1.0)
    owners: list[Owner] = []

    def put_off_others(now: float) -> None:
        if now == 2.0:
            for owner in owners:
                if not owner.swept:
                    wheel.put(owner, 5.0)

    owners += [Owner(put_off_others) for _ in range(5 + turns)]
    for owner in owners:
        wheel.put(owner, 1.0)
    turn(wheel, 9.0)
    assert sorted(owner.swept for owner in owners) == [[2.0], *[[6.0]] * (4 + turns)]
    assert len(wheel) == 0


def test_sweep_that_raises_leaves_the_others_in() -> None:
    wheel = Wheel(1.0)

    def fail(now: float) -> None:
        raise RuntimeError("broken")

    others = [Owner() for _ in range(5)]
    for owner in (Owner(fail), *others):
        wheel.put(owner, 1.0)
    with pytest.raises(RuntimeError):
        turn(wheel, 9.0)
    turn(wheel, 9.0)
    assert all(len(owner.swept) == 1 for owner in others)


@given(
    grain=st.sampled_from([0.1, 0.25, 1.0]),
    moments=st.lists(
        st.tuples(st.integers(0, 5), st.none() | st.floats(0, 50)), max_size=30
    ),
)
def test_everybody_is_swept_once_and_never_early(
    grain: float, moments: list[tuple[int, float | None]]
) -> None:
    wheel = Wheel(grain)
    owners = [Owner() for _ in range(6)]
    due: dict[int, float] = {}
    for number, when in moments:
        if when is None:
            wheel.discard(owners[number])
            due.pop(number, None)
        else:
            wheel.put(owners[number], when)
            due[number] = when
    assert len(wheel) == len(due)
    turn(wheel, 100.0)
    for number, owner in enumerate(owners):
        assert len(owner.swept) == (number in due)
        for swept in owner.swept:
            assert due[number] <= swept <= due[number] + grain * 1.0001
