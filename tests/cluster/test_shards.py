"""Which of several engines has a topic."""

from __future__ import annotations

from collections import Counter

import pytest

from simple_ws.cluster.channels import Channels
from simple_ws.cluster.engine_url import parse_all
from simple_ws.cluster.shards import jump_hash, shard_of

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize(
    ("key", "count", "found"),
    [
        (1, 1, 0),
        (42, 57, 43),
        (0xDEAD10CC, 1, 0),
        (0xDEAD10CC, 666, 361),
        (256, 1024, 520),
    ],
)
def test_jump_hash_is_that_of_the_paper(key: int, count: int, found: int) -> None:
    assert jump_hash(key, count) == found


def test_engines_have_about_as_many_topics() -> None:
    counts = Counter(shard_of(f"room:{number}", 4) for number in range(4000))
    assert set(counts) == {0, 1, 2, 3}
    assert all(800 < count < 1200 for count in counts.values())


def test_engine_that_is_added_takes_its_part_and_nothing_else_moves() -> None:
    moved = 0
    for number in range(3000):
        before, after = (shard_of(f"room:{number}", count) for count in (3, 4))
        assert after in (before, 3)
        moved += after != before
    assert 600 < moved < 900


def test_it_is_the_same_everywhere() -> None:
    assert [shard_of(name, 5) for name in ("a", "é", "\ud800", "")] == [0, 2, 3, 2]


def test_topic_has_one_engine_with_history_or_without() -> None:
    channels = Channels("sws")
    names = [channels.topic("a"), channels.kept("a")]
    assert {channels.shard_key(name) for name in names} == {"a"}
    others = {channels.all, channels.identity("a"), channels.nodes}
    assert {channels.shard_key(name) for name in others} == others


@pytest.mark.parametrize(
    ("urls", "text"),
    [
        ([], "one at least"),
        (["redis://:secret@a", "redis://a"], "twice"),
        (["redis://:secret@a?prefix=x", "redis://b"], "same prefix"),
        (["redis://:secret@a", "nats://b"], "Redis or Valkey"),
        (["redis://:secret@a", "memory://"], "Redis or Valkey"),
        (["redis://:secret@a", "http://b"], "scheme"),
    ],
)
def test_lists_that_are_refused(urls: list[str], text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        parse_all(urls)
    assert "secret" not in str(caught.value)


def test_one_url_is_a_list_of_one() -> None:
    assert parse_all("memory://") == parse_all(["memory://"])
    assert len(parse_all(["redis://a", "redis+sentinel://b/main"])) == 2
