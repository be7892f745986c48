"""JSON text by the extension: the same bytes and errors as `messages`."""

from __future__ import annotations

import enum
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_ws import messages

pytestmark = pytest.mark.one_backend

TEXTS = st.text(
    st.characters()
    | st.characters(categories=["Cs"])
    | st.sampled_from('"\\\n\r\t\b\f/\x00\x1f\x7f\x80\u07ff\u0800\uffff\U0010ffff'),
    max_size=20,
)
NUMBERS = (
    st.integers()
    | st.integers(-(2**63) - 1, -(2**63) + 1)
    | st.integers(2**63 - 1, 2**63 + 1)
    | st.floats()
)
KEYS = TEXTS | NUMBERS | st.booleans() | st.none() | st.tuples(st.integers())
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS | st.binary(max_size=2),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(KEYS, inner)
    ),
    max_leaves=12,
)


class Colour(enum.IntEnum):
    RED = 1


class Name(str):
    def __str__(self) -> str:
        return "not this"


class Share(float):
    def __repr__(self) -> str:
        return "nor this"


class Point(NamedTuple):
    x: int


class Rows(list):
    def __iter__(self) -> Any:
        return iter([1, 2])


class Fields(dict):
    def items(self) -> Any:
        return [("one", 1)]


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def itself() -> list[Any]:
    value: list[Any] = []
    value.append({"again": value})
    return value


#: No strategy finds these often.
CASES = [
    {},
    [],
    {"": ()},
    {Name('k"'): Name("v"), Colour.RED: Colour.RED, "share": Share(0.5)},
    [Point(1), Rows([3]), Fields(a=1), {1: 2, -3: 4}, {True: 5}],
    [-0.0, 1e300, 5e-324, 1e16, 0.1, 10**400],
    {"x": float("nan")},
    {"x": object()},
    {(1,): 2},
    nested(70),
    nested(100_000),
    itself(),
    {"long": "é" * 3000 + '"' * 3000, "ascii": "x" * 5000},
    {"cut": "\ud83d"},
    *(["a" * at + mark + "b" * (13 - at)] for at in range(13) for mark in '\x1f"\\'),
]


def outcome(encode: Any, value: object) -> tuple[str, object]:
    try:
        return "returned", encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        return type(error).__name__, str(error)


def check(extension: ModuleType, value: object) -> None:
    expected = outcome(messages.encode_json, value)
    assert outcome(extension.encode_json, value) == expected
    expected = outcome(messages.json_text, value)
    assert outcome(extension.json_text, value) == expected


@pytest.mark.parametrize("value", CASES, ids=range(len(CASES)))
def test_a_value_has_the_same_text_as_of_messages(
    extension: ModuleType, value: object
) -> None:
    check(extension, value)


@given(value=VALUES)
def test_any_value_has_the_same_text_as_of_messages(
    extension: ModuleType, value: object
) -> None:
    check(extension, value)
