"""Negotiation of permessage-deflate: RFC 6455 §9.1, RFC 7692 §5 and §7.1."""

from __future__ import annotations

import copy
import pickle
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_ws.deflate import Agreement, Deflate, negotiate, parse_extensions
from simple_ws.errors import HandshakeError

pytestmark = pytest.mark.one_backend

PMD = "permessage-deflate"

#: Nothing is asked of the client by the server.
OPEN = Deflate(server_max_window_bits=15, client_max_window_bits=15)


def agree(
    *lines: str, config: Deflate = OPEN
) -> tuple[str, Agreement] | tuple[None, None]:
    return negotiate(parse_extensions(lines), config) or (None, None)


# --- Reading the header --------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "extensions"),
    [
        ([], []),
        (["foo"], [("foo", [])]),
        (["foo, bar; baz=2"], [("foo", []), ("bar", [("baz", "2")])]),
        (["foo", "bar; baz=2"], [("foo", []), ("bar", [("baz", "2")])]),
        (["foo;a;b=1;a"], [("foo", [("a", None), ("b", "1"), ("a", None)])]),
        (
            [" foo\t; a = 1 ;b , bar "],
            [("foo", [("a", "1"), ("b", None)]), ("bar", [])],
        ),
        (['foo; a="1"'], [("foo", [("a", "1")])]),
        ([r'foo; a="\1\0"'], [("foo", [("a", "10")])]),
        (["FOO; A=B"], [("foo", [("A", "B")])]),
        # RFC 9110 §5.6.1.2: empty elements are ignored.
        (["foo,, bar,"], [("foo", []), ("bar", [])]),
        ([", ,foo"], [("foo", [])]),
        (["", "foo", " "], [("foo", [])]),
        # An empty field is as if it were not there.
        ([""], []),
        (["", ""], []),
    ],
)
def test_header_is_read(lines: list[str], extensions: list[object]) -> None:
    assert parse_extensions(lines) == extensions


@pytest.mark.parametrize(
    "line",
    [
        " ",
        ",",
        ";",
        "foo;",
        "foo; ,bar",
        "foo;;a",
        "foo bar",
        "foo; a b",
        "foo=1",
        "foo; a=",
        "foo; =1",
        "foo; a==1",
        "foo; a=1=2",
        'foo; a="1',
        'foo; a=1"',
        'foo; a=""',
        'foo; a="1 2"',
        'foo; a="1,2"',
        'foo; a="1"2',
        r'foo; a="1\"',
        r'foo; a="\""',
        '"foo"',
        "fo/o",
        "foo; (a)",
        "foo\xa0",
        "permessage-deflate, foo;",
        "foo, permessage-deflate; client_max_window_bits=",
    ],
)
def test_malformed_header_is_refused(line: str) -> None:
    # RFC 6455 §9.1: "the recipient of such malformed data MUST immediately _Fail the
    # WebSocket Connection_".
    with pytest.raises(HandshakeError, match="Sec-WebSocket-Extensions") as caught:
        parse_extensions([line])
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "line",
    [
        '"' + '\\"' * 8_000,
        "a;b=" + '"' * 16_000,
        "a," * 8_000,
        "a;" * 8_000,
        "a" * 16_000,
        " " * 16_000,
        "a" + " " * 16_000 + "b",
    ],
    ids=["escapes", "quotes", "elements", "parameters", "name", "blanks", "gap"],
)
def test_hostile_header_takes_no_time(line: str) -> None:
    # A pattern that tried quoted strings again at every quote took 3 s here.
    began = time.process_time()
    with suppress(HandshakeError):
        parse_extensions([line])
    assert time.process_time() - began < 0.2


@pytest.mark.parametrize("part", [", a", "; a", ","])
def test_extensions_and_parameters_have_a_limit(part: str) -> None:
    """A head of 16 KiB of them would keep the others waiting for milliseconds."""
    assert parse_extensions(["x" + part * 99])
    with pytest.raises(HandshakeError, match="More than 100") as refused:
        parse_extensions(["x" + part * 100])
    assert refused.value.status == 400


@given(st.text(alphabet='ab;=,"\\ \t1', max_size=20))
def test_only_documented_errors_escape(line: str) -> None:
    try:
        found = parse_extensions([line])
    except HandshakeError:
        return
    # What is read can be written and read again.
    text = ", ".join(
        "; ".join([name, *(k if v is None else f"{k}={v}" for k, v in parameters)])
        for name, parameters in found
    )
    assert parse_extensions([text]) == found


# --- Negotiating ---------------------------------------------------------------------

#: (offers, answer of a server that asks for nothing)
OFFERS = [
    ([], None),
    (["foo"], None),
    ([PMD], PMD),
    (["Permessage-Deflate"], PMD),
    ([f"foo, {PMD}"], PMD),
    (["foo", PMD], PMD),
    (["x-webkit-deflate-frame"], None),
    # §7.1.1
    ([f"{PMD}; server_no_context_takeover"], f"{PMD}; server_no_context_takeover"),
    ([f"{PMD}; client_no_context_takeover"], f"{PMD}; client_no_context_takeover"),
    (
        [f"{PMD}; client_no_context_takeover; server_no_context_takeover"],
        f"{PMD}; server_no_context_takeover; client_no_context_takeover",
    ),
    ([f"{PMD}; server_no_context_takeover=1"], None),
    ([f'{PMD}; client_no_context_takeover="true"'], None),
    # §7.1.2.1: it is answered with a window as small, or smaller.
    *(
        ([f"{PMD}; server_max_window_bits={n}"], f"{PMD}; server_max_window_bits={n}")
        for n in range(8, 16)
    ),
    ([f'{PMD}; server_max_window_bits="10"'], f"{PMD}; server_max_window_bits=10"),
    ([f"{PMD}; server_max_window_bits"], None),
    *(
        ([f"{PMD}; {side}_max_window_bits={value}"], None)
        for side in ("server", "client")
        for value in ("7", "16", "0", "08", "010", "+10", "-8", "1e1", "x", "8.0")
    ),
    # §7.1.2.2
    ([f"{PMD}; client_max_window_bits"], PMD),
    ([f"{PMD}; client_max_window_bits=15"], PMD),
    *(
        ([f"{PMD}; client_max_window_bits={n}"], f"{PMD}; client_max_window_bits={n}")
        for n in range(8, 15)
    ),
    ([f'{PMD}; client_max_window_bits="9"'], f"{PMD}; client_max_window_bits=9"),
    # §7.1: what declines an offer
    ([f"{PMD}; unknown"], None),
    ([f"{PMD}; unknown=1; client_max_window_bits"], None),
    ([f"{PMD}; Server_No_Context_Takeover"], None),
    ([f"{PMD}; server_no_context_takeover; server_no_context_takeover"], None),
    ([f"{PMD}; client_no_context_takeover; client_no_context_takeover"], None),
    ([f"{PMD}; server_max_window_bits=10; server_max_window_bits=10"], None),
    ([f"{PMD}; client_max_window_bits; client_max_window_bits=10"], None),
    # §5.1, §7.1: several offers, the first one that can be met
    ([f"{PMD}; unknown, {PMD}"], PMD),
    ([f"{PMD}; unknown", PMD], PMD),
    (
        [f"{PMD}; server_max_window_bits=10, {PMD}"],
        f"{PMD}; server_max_window_bits=10",
    ),
    (
        [f"{PMD}; server_max_window_bits=7, {PMD}; client_no_context_takeover, {PMD}"],
        f"{PMD}; client_no_context_takeover",
    ),
    ([f"{PMD}; a, {PMD}; b"], None),
    # §7.1.3, the examples
    ([f"{PMD}; client_max_window_bits; server_max_window_bits=10"],
     f"{PMD}; server_max_window_bits=10"),
    ([f"{PMD}; client_max_window_bits; server_max_window_bits=10, {PMD}; "
      "client_max_window_bits"], f"{PMD}; server_max_window_bits=10"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "answer"), OFFERS)
def test_offers_are_answered(lines: list[str], answer: str | None) -> None:
    assert agree(*lines)[0] == answer


ALL = (
    f"{PMD}; server_no_context_takeover; client_no_context_takeover; "
    "server_max_window_bits=9; client_max_window_bits=10"
)

#: (what the server asks for, offer, answer)
ASKED = [
    ({}, ALL, ALL),
    ({"server_no_context_takeover": True}, PMD, f"{PMD}; server_no_context_takeover"),
    ({"client_no_context_takeover": True}, PMD, f"{PMD}; client_no_context_takeover"),
    # §7.1.2.1: also where the client did not offer it.
    ({"server_max_window_bits": 9}, PMD, f"{PMD}; server_max_window_bits=9"),
    ({"server_max_window_bits": 9}, f"{PMD}; server_max_window_bits=12",
     f"{PMD}; server_max_window_bits=9"),
    ({"server_max_window_bits": 12}, f"{PMD}; server_max_window_bits=9",
     f"{PMD}; server_max_window_bits=9"),
    # §7.1.2.2: only where the client did offer it.
    ({"client_max_window_bits": 9}, PMD, PMD),
    ({"client_max_window_bits": 9}, f"{PMD}; client_max_window_bits",
     f"{PMD}; client_max_window_bits=9"),
    ({"client_max_window_bits": 9}, f"{PMD}; client_max_window_bits=15",
     f"{PMD}; client_max_window_bits=9"),
    ({"client_max_window_bits": 12}, f"{PMD}; client_max_window_bits=10",
     f"{PMD}; client_max_window_bits=10"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "offer", "answer"), ASKED)
def test_server_asks_for_its_own_parameters(
    asked: dict[str, int], offer: str, answer: str
) -> None:
    assert agree(offer, config=OPEN.__replace__(**asked))[0] == answer  # type: ignore[arg-type]


configs = st.builds(
    Deflate,
    server_no_context_takeover=st.booleans(),
    client_no_context_takeover=st.booleans(),
    server_max_window_bits=st.integers(8, 15),
    client_max_window_bits=st.integers(8, 15),
)
parameters = st.fixed_dictionaries(
    {},
    optional={
        "server_no_context_takeover": st.none(),
        "client_no_context_takeover": st.none(),
        "server_max_window_bits": st.integers(8, 15),
        "client_max_window_bits": st.none() | st.integers(8, 15),
    },
)


@given(config=configs, offered=parameters)
def test_answer_is_one_the_client_may_get(
    config: Deflate, offered: dict[str, int | None]
) -> None:
    pairs = [(k, None if v is None else str(v)) for k, v in offered.items()]
    agreed = negotiate([(PMD, pairs)], config)
    assert agreed is not None
    text, agreement = agreed
    ((name, answered),) = parse_extensions([text])
    answer = dict(answered)
    assert name == PMD
    assert len(answer) == len(answered)
    # §7.1.1: what the client asks of the server must be granted.
    if "server_no_context_takeover" in offered:
        assert "server_no_context_takeover" in answer
    bits = offered.get("server_max_window_bits")
    if bits is not None:
        assert int(answer["server_max_window_bits"] or 0) <= bits
    # §7.1.2.2: "If a received extension negotiation offer doesn't have the
    # "client_max_window_bits" extension parameter, the corresponding extension
    # negotiation response [...] MUST NOT include" it.
    if "client_max_window_bits" in answer:
        assert "client_max_window_bits" in offered
        limit = offered["client_max_window_bits"] or 15
        assert 8 <= int(answer["client_max_window_bits"] or 0) <= limit
    # Both sides read the same from the answer: what is not said has its default.
    assert agreement == Agreement(
        send_takeover="server_no_context_takeover" not in answer,
        receive_takeover="client_no_context_takeover" not in answer,
        send_window_bits=int(answer.get("server_max_window_bits") or 15),
        receive_window_bits=int(answer.get("client_max_window_bits") or 15),
        level=config.level,
        mem_level=config.mem_level,
        threshold=config.threshold,
    )
    assert agreement.send_window_bits <= config.server_max_window_bits


def test_agreement_carries_what_is_not_negotiated() -> None:
    config = Deflate(level=1, mem_level=9, threshold=0)
    _, agreement = agree(PMD, config=config)
    assert agreement is not None
    assert (agreement.level, agreement.mem_level, agreement.threshold) == (1, 9, 0)


# --- Deflate(...) --------------------------------------------------------------------

RANGES = [
    ("server_max_window_bits", 8, 15),
    ("client_max_window_bits", 8, 15),
    ("level", 0, 9),
    ("mem_level", 1, 9),
    ("threshold", 0, 2**63 - 1),
]


@pytest.mark.parametrize(("name", "low", "high"), RANGES)
def test_deflate_takes_its_ranges_and_nothing_beyond(
    name: str, low: int, high: int
) -> None:
    for value in (low, high):
        assert getattr(Deflate(**{name: value}), name) == value  # type: ignore[arg-type]
    for value in (low - 1, high + 1):
        text = f"Deflate: {name} must be from {low} to {high}, not {value}"
        with pytest.raises(ValueError, match=text):
            Deflate(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [row[0] for row in RANGES])
@pytest.mark.parametrize("value", ["10", 10.0, True, None])
def test_deflate_refuses_other_types(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"Deflate: {name} must be an int, not "):
        Deflate(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["server_no_context_takeover", "client_no_context_takeover"]
)
@pytest.mark.parametrize("value", [0, 1, "yes", None])
def test_deflate_flags_are_booleans(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"Deflate: {name} must be True or False, not "):
        Deflate(**{name: value})  # type: ignore[arg-type]


def test_copy_is_equal_and_its_changes_are_checked() -> None:
    config = Deflate(level=5)
    assert copy.copy(config) == pickle.loads(pickle.dumps(config)) == config
    assert config.__replace__(level=6) == Deflate(level=6) != config
    with pytest.raises(ValueError, match="level must be from 0 to 9, not 10"):
        config.__replace__(level=10)
    with pytest.raises(AttributeError, match="a Deflate cannot be changed: level"):
        config.level = 6
