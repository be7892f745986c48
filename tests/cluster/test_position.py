"""Positions, which clients send back: data of strangers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_ws.cluster.history import new_epoch
from simple_ws.cluster.position import MAX_OFFSET, Position, parse_position, tag_of

pytestmark = pytest.mark.one_backend

POSITIONS = st.builds(
    Position,
    st.from_regex(r"\A[0-9a-f]{1,16}\Z"),
    st.integers(0, MAX_OFFSET),
    st.none() | st.integers(0, 0xFFFF),
)


@given(POSITIONS)
def test_text_is_read_again(position: Position) -> None:
    assert parse_position(str(position)) == position


def test_epoch_of_a_history_can_be_read() -> None:
    assert parse_position(f"{new_epoch()}:1") is not None


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("ab:1:00ff", Position("ab", 1, 255)),
        ("ab:1:", Position("ab", 1, None)),
        ("ab:1", Position("ab", 1, None)),
        ("0:0:0000", Position("0", 0, 0)),
        (f"ab:{MAX_OFFSET}", Position("ab", MAX_OFFSET, None)),
        ("ab:007", Position("ab", 7, None)),
    ],
)
def test_what_is_a_position(text: str, position: Position) -> None:
    assert parse_position(text) == position


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "ab",
        "ab:",
        ":1",
        "ab:1:0",
        "ab:1:00fff",
        "ab:1:00FF",
        "AB:1",
        "xyz:1",
        "ab:-1",
        "ab:+1",
        "ab: 1",
        "ab:1 ",
        "ab:1\n",
        "\nab:1",
        "ab:1:00ff:",
        "ab:\u0661",
        "\u0430b:1",
        "ab:1.0",
        "ab:1e3",
        f"ab:{MAX_OFFSET + 1}",
        f"ab:{10**16}",
        f"{'a' * 17}:1",
        "9" * 100_000,
        "ab:1\0",
        "ab:\ud800",
        None,
        1,
        b"ab:1",
        ["ab:1"],
        True,
    ],
)
def test_what_is_none(text: Any) -> None:
    assert parse_position(text) is None


@given(st.text() | st.binary() | st.integers() | st.none() | st.floats())
def test_nothing_is_raised(text: Any) -> None:
    position = parse_position(text)
    if position is not None:
        assert 0 <= position.offset <= MAX_OFFSET
        assert parse_position(str(position)) == position


def test_tags_tell_messages_apart() -> None:
    tags = [tag_of(b"somebody" + seq.to_bytes(8, "big")) for seq in range(1000)]
    assert all(0 <= tag <= 0xFFFF for tag in tags)
    # That of the next messages is another one.
    assert all(tags[i] not in tags[i + 1 : i + 100] for i in range(len(tags)))
