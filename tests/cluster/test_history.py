"""The ring of a topic's last messages, against a list that keeps all of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_ws.cluster.history import Entry, History, new_epoch
from simple_ws.cluster.position import Position

pytestmark = pytest.mark.one_backend


class Model:
    """All messages, and what of them can be read."""

    def __init__(self, size: int, keep: float | None, top: int) -> None:
        self.size, self.keep, self.floor = size, keep, top
        self.entries: list[Entry] = []
        self.expired = top

    @property
    def top(self) -> int:
        return self.floor + len(self.entries)

    @property
    def first(self) -> int:
        return max(self.expired, self.top - self.size, self.floor) + 1

    def append(self, tag: int, body: Any, now: float) -> None:
        self.entries.append(Entry(self.top + 1, tag, now, body))

    def remove(self, offset: int) -> None:
        self.expired = max(self.expired, offset)

    def expire(self, now: float) -> None:
        keep = math.inf if self.keep is None else self.keep
        for entry in self.readable():
            if entry.time >= now - keep:
                break
            self.expired = entry.offset

    def readable(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.offset >= self.first]

    def knows(self, offset: int, tag: int | None, base: int | None) -> bool:
        if not 0 <= offset <= self.top:
            return False
        if offset == 0 or tag is None or offset < self.top - self.size:
            return True
        if offset < self.floor:
            return True
        if offset == self.floor:
            return base is None or tag == base
        return self.entries[offset - self.floor - 1].tag == tag


STEPS = st.lists(
    st.tuples(st.sampled_from("aaaatx"), st.integers(0, 3), st.integers(0, 30))
    | st.tuples(st.just("r"), st.integers(-3, 40), st.none() | st.integers(0, 9)),
    max_size=60,
)


@given(
    size=st.integers(1, 6),
    keep=st.none() | st.integers(1, 40),
    top=st.integers(0, 5),
    base=st.none() | st.integers(0, 3),
    steps=STEPS,
)
def test_it_has_what_a_list_would_have(
    size: int, keep: int | None, top: int, base: int | None, steps: list[Any]
) -> None:
    history = History(size, keep, "e", top, base)
    model = Model(size, keep, top)
    now = 0.0
    for kind, first, second in steps:
        if kind == "r":
            expected = [e for e in model.readable() if e.offset > first][:second]
            assert list(history.after(first, second)) == expected
            continue
        now += second
        if kind == "x":
            history.remove(model.top - first)
            model.remove(model.top - first)
        if kind == "a":
            model.append(first, object(), now)
            assert history.append(first, model.entries[-1].body, now) == model.top
        history.expire(now)
        model.expire(now)
        assert (history.top, history.first) == (model.top, model.first)
        assert len(history) == len(model.readable())
        tag = model.entries[-1].tag if model.entries else base
        assert history.position == Position("e", model.top, tag)
    assert list(history.after(0)) == model.readable()
    for offset in range(-1, model.top + 2):
        for tag in (None, 0, 1, 2, 3, 4):
            known = Position("e", offset, tag)
            assert history.knows(known) is model.knows(offset, tag, base), known
            assert not history.knows(Position("f", offset, tag))


def test_what_is_removed_may_not_have_come_yet() -> None:
    history = History(3)
    history.append(1, "a", 0.0)
    history.remove(2)
    assert (len(history), list(history.after(0))) == (0, [])
    for body in "bc":
        history.append(1, body, 0.0)
    assert [entry.body for entry in history.after(0)] == ["c"]
    assert len(history) == 1


def test_bodies_that_cannot_be_read_are_let_go() -> None:
    class Body:
        alive = 0

        def __init__(self) -> None:
            Body.alive += 1

        def __del__(self) -> None:
            Body.alive -= 1

    history = History(3, 10.0)
    for now in range(8):
        history.append(1, Body(), float(now))
    assert Body.alive <= 4
    history.expire(100.0)
    assert Body.alive <= 1


def test_epochs_are_of_their_own() -> None:
    epochs = {new_epoch() for _ in range(1000)}
    assert len(epochs) == 1000
    assert all(Position(epoch, 1, None) for epoch in epochs)
    assert History(1).epoch != History(1).epoch
