"""The wheel of heartbeats: each client once in an interval, and late in time."""

from __future__ import annotations

import pytest

from simple_ws.live.heartbeat import Heartbeats

pytestmark = pytest.mark.one_backend


class Beater:
    slot = 0
    pinged = False


def test_each_client_is_pinged_once_in_an_interval() -> None:
    beats: Heartbeats[Beater] = Heartbeats(25, 8)
    assert beats.tick == 1
    pinged: dict[Beater, list[int]] = {}
    for now in range(100):
        if now < 40:
            beater = Beater()
            beats.add(beater)
            pinged[beater] = []
        due, late = beats.turn()
        assert not late
        for each in due:
            pinged[each].append(now)
    for number, times in enumerate(pinged.values()):
        assert times == list(range(number + 24, 100, 25))


def test_who_has_not_answered_is_late_after_the_timeout() -> None:
    beats: Heartbeats[Beater] = Heartbeats(25, 8)
    one, two, gone = Beater(), Beater(), Beater()
    for each in (one, two, gone):
        beats.add(each)
    for _ in range(25):
        due, _ = beats.turn()
    assert due == [one, two, gone]
    one.pinged = gone.pinged = True
    beats.discard(gone)
    for _ in range(7):
        assert beats.turn()[1] == []
    assert beats.turn()[1] == [one]
