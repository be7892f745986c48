"""The histories that the broker keeps: bounds, and what it forgets when.

The promises of any engine are in `simple_ws.testing.histories`.
"""

from __future__ import annotations

import random

import pytest

from simple_ws.cluster import broker_history as module
from simple_ws.cluster.broker_history import Appended, Appending, Histories
from simple_ws.cluster.position import Position

pytestmark = pytest.mark.one_backend

DAY = 86400.0


def append(
    histories: Histories,
    seq: int,
    now: float = 0.0,
    *,
    channel: bytes = b"c",
    publisher: bytes = b"p",
    size: int = 3,
    keep: float | None = None,
    key: bytes | None = None,
) -> Appended:
    message = Appending(
        channel, publisher, seq, seq & 0xFFFF, size, keep, "ab", b"%d" % seq, key
    )
    return histories.append(message, now)


def offsets(histories: Histories, now: float = 0.0, channel: bytes = b"c") -> list[int]:
    page = histories.read(channel, None, 0, 1000, "cd", now)
    return [entry.offset for entry in page.entries]


def test_publishers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_PUBLISHERS", 3)
    histories = Histories()
    for seq, publisher in enumerate((b"a", b"b", b"c", b"a", b"d"), 1):
        append(histories, seq, publisher=publisher)
    assert append(histories, 1, publisher=b"a").again
    assert append(histories, 1, publisher=b"c").again
    assert not append(histories, 1, publisher=b"b").again


def test_keys_are_bounded_by_the_history() -> None:
    histories = Histories()
    for seq in range(1, 101):
        append(histories, seq, key=b"%d" % seq)
    topic = histories._topics[b"c"]
    assert list(topic.keys) == [b"98", b"99", b"100"]
    assert append(histories, 101, key=b"98").again
    assert not append(histories, 102, key=b"97").again


def test_topics_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_TOPICS", 2)
    histories = Histories()
    for channel in (b"a", b"b", b"a", b"c"):
        append(histories, len(histories) + 1, channel=channel)
    assert len(histories) == 2
    assert offsets(histories, channel=b"a") == [1, 2]
    assert offsets(histories, channel=b"b") == []


def test_topics_without_messages_take_no_history_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MAX_EMPTY", 5)
    histories = Histories()
    append(histories, 1)
    epochs = []
    for number in range(20):
        page = histories.read(b"%d" % number, None, 0, 9, f"{number:x}", 0.0)
        epochs.append(page.epoch)
    assert len(histories) == 6
    assert offsets(histories) == [1]
    assert histories.read(b"19", None, 0, 9, "ff", 0.0).epoch == epochs[19]
    assert append(histories, 1, channel=b"19").position.epoch == epochs[19]


def test_topics_are_swept_when_nothing_is_lost() -> None:
    histories = Histories()
    append(histories, 1, channel=b"short", keep=10.0)
    append(histories, 1, channel=b"forever")
    offsets(histories, channel=b"empty")
    for now, left in ((11.0, 3), (DAY, 3), (DAY + 1, 2), (DAY + 11, 1), (9 * DAY, 1)):
        histories.sweep(now, 1)
        histories.sweep(now, 100)
        histories.sweep(now, 100)
        assert len(histories) == left, now
    assert offsets(histories, 9 * DAY, b"forever") == [1]


def test_messages_that_expire_are_swept() -> None:
    histories = Histories()
    append(histories, 1, 0.0, keep=10.0)
    append(histories, 2, 5.0, keep=10.0)
    histories.sweep(12.0, 1)
    assert histories._topics[b"c"].history.first == 2


def test_sweeping_goes_on_where_it_was() -> None:
    histories = Histories()
    for number in range(10):
        append(histories, 1, channel=b"%d" % number, keep=1.0)
    for _ in range(4):
        histories.sweep(2 * DAY, 3)
    assert len(histories) == 0


def test_retention_that_changes_keeps_positions() -> None:
    choose = random.Random(7)
    histories = Histories()
    position = Position("ab", 0, 0)
    for seq in range(1, 200):
        size = choose.randrange(1, 6)
        keep = choose.choice((None, 100.0))
        after = append(histories, seq, float(seq), size=size, keep=keep).position
        assert after.offset == position.offset + 1
        page = histories.read(b"c", position, position.offset, 9, "ef", float(seq))
        assert not page.reset
        assert [entry.offset for entry in page.entries] == [after.offset]
        wrong = after._replace(tag=(after.tag or 0) ^ 1)
        assert not histories._topics[b"c"].history.knows(wrong)
        position = after


def test_page_ends_with_a_mebibyte() -> None:
    histories = Histories()
    for seq in range(1, 6):
        message = Appending(b"c", b"p", seq, 1, 9, None, "ab", b"x" * 400_000, None)
        histories.append(message, 0.0)
    page = histories.read(b"c", None, 0, 100, "cd", 0.0)
    assert [entry.offset for entry in page.entries] == [1, 2, 3]
