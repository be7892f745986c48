"""`restarts`: when a process that has ended is started again."""

from __future__ import annotations

import pytest

from simple_ws.cluster.restarts import Restarts

pytestmark = pytest.mark.one_backend


def test_waits_grow_while_lives_are_short() -> None:
    restarts = Restarts()
    waits = [restarts.delay(0.5) for _ in range(8)]
    assert waits == [0, 1, 2, 4, 8, 16, 30, 30]
    assert restarts.count == 8


def test_a_long_life_begins_anew() -> None:
    restarts = Restarts()
    assert [restarts.delay(lived) for lived in (1, 1, 1, 9.9, 10, 9.9, 600)] == [
        0, 1, 2, 4, 0, 1, 0,
    ]  # fmt: skip
