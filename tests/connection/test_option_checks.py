"""Options are checked when they are given: name, value, what is allowed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_ws.connection.option_checks import check_options
from simple_ws.connection.options import Options
from simple_ws.deflate import Deflate

pytestmark = pytest.mark.one_backend

FLAGS = ["ping", "reuse_port"]
SECONDS = [
    "ping_interval",
    "ping_timeout",
    "open_timeout",
    "close_timeout",
    "idle_timeout",
]
#: (name, the smallest value)
WHOLE = [
    ("max_frame_size", 1),
    ("buffer_size", 1),
    ("max_size", 0),
    ("write_limit", 0),
    ("max_connections", 0),
    ("backlog", 1),
]
#: The largest number of anything.
MOST = 2**63 - 1
NAMES = [
    *FLAGS,
    *SECONDS,
    *(name for name, _ in WHOLE),
    "compression",
    "slow_consumer",
    "origins",
    "subprotocols",
]
OR_NONE = ["max_frame_size", "max_size", "max_connections", "idle_timeout"]


def check(name: str, value: object) -> object:
    (checked,) = check_options({name: value}).values()
    return checked


def refused(error: type[Exception], name: str, value: object) -> str:
    """The text, which names the option and the value as it was given."""
    with pytest.raises(error) as caught:
        check_options({name: value})
    assert type(caught.value) is error
    text = str(caught.value)
    assert text.startswith(name)
    return text


@pytest.mark.parametrize("name", Options._fields)
def test_every_default_passes_its_own_check(name: str) -> None:
    default = getattr(Options(), name)
    assert check(name, default) == default


def test_unknown_option_is_named_with_those_there_are() -> None:
    with pytest.raises(TypeError, match=r"unknown option 'pingg'; .*ping, ping_int"):
        check_options({"pingg": True})


def test_old_spelling_is_taken() -> None:
    assert check_options({"ping_intervall": 3}) == {"ping_interval": 3.0}
    with pytest.raises(TypeError, match="the same option"):
        check_options({"ping_interval": 3, "ping_intervall": 3})


@pytest.mark.parametrize("name", FLAGS)
def test_flags_are_booleans(name: str) -> None:
    for value in (True, False):
        assert check(name, value) is value
    for wrong in (0, 1, "yes", None):
        text = refused(TypeError, name, wrong)
        assert text == f"{name} must be True or False, not {wrong!r}"


@pytest.mark.parametrize("name", SECONDS)
def test_times_are_more_than_nothing(name: str) -> None:
    for value in (0.001, 1, 1e9):
        checked = check(name, value)
        assert checked == value
        assert type(checked) is float
    for wrong in (0, -1, 0.0, -0.5, float("inf"), float("nan")):
        text = refused(ValueError, name, wrong)
        assert "more than 0 seconds" in text
        assert text.endswith(f", not {wrong!r}")
    for wrong_type in ("5", True, [5]):
        assert "a number of seconds" in refused(TypeError, name, wrong_type)
    assert check(name, MOST) == float(MOST)
    for wrong in (2.0**64, 10**400):
        text = refused(ValueError, name, wrong)
        assert f"must be at most {MOST:,} seconds" in text
        assert text.endswith(f", not {wrong!r}")


@pytest.mark.parametrize(("name", "least"), WHOLE)
def test_sizes_and_counts_are_whole_numbers(name: str, least: int) -> None:
    for value in (least, least + 1, 2**40):
        assert check(name, value) == value
    text = refused(ValueError, name, least - 1)
    assert f"must be at least {least}" in text
    assert text.endswith(f"not {least - 1}")
    for wrong in ("5", 5.0, True, [5]):
        assert "a whole number of" in refused(TypeError, name, wrong)
    assert check(name, MOST) == MOST
    text = refused(ValueError, name, MOST + 1)
    assert f"must be at most {MOST:,}" in text
    assert text.endswith(f"not {MOST + 1}")


@pytest.mark.parametrize("name", ["message_rate", "handshake_rate"])
def test_rates_are_pairs_within_bounds(name: str) -> None:
    assert check(name, [5, 10]) == (5.0, 10.0)
    assert check(name, (5e-324, 1)) == (5e-324, 1.0)
    assert check(name, (MOST, MOST)) == (float(MOST), float(MOST))
    nan, inf = float("nan"), float("inf")
    for wrong in ((0, 1), (1, 0), (1, 0.5), (nan, 1), (1, nan), (inf, 1), (1, inf),
                  (10**400, 1), (1, 10**400), (-1, 1)):  # fmt: skip
        text = refused(ValueError, name, wrong)
        assert text.endswith(f"at most {MOST:,} or None, not {wrong!r}")
    for wrong_type in (5, "5", (1,), (1, 2, 3), (True, 1), ("1", 1), {1: 2}):
        text = refused(TypeError, name, wrong_type)
        assert text.endswith(f"(number a second, burst) or None, not {wrong_type!r}")


@pytest.mark.parametrize("name", NAMES)
def test_none_is_for_those_that_may_be_without(name: str) -> None:
    if name in (*OR_NONE, "compression", "origins"):
        assert check(name, None) is None
    else:
        error = ValueError if name == "slow_consumer" else TypeError
        assert "None" in refused(error, name, None)


@pytest.mark.parametrize("name", OR_NONE)
def test_text_says_that_none_is_allowed(name: str) -> None:
    assert " or None, not 'x'" in refused(TypeError, name, "x")
    assert " or None, not -1" in refused(ValueError, name, -1)


def test_compression_is_a_flag_or_a_configuration() -> None:
    assert check("compression", True) == Deflate()
    assert check("compression", False) is None
    config = Deflate(level=1)
    assert check("compression", config) is config
    for wrong in (1, "deflate", {"level": 1}, Deflate):
        assert "a Deflate(...)" in refused(TypeError, "compression", wrong)


def test_slow_consumer_is_one_of_three() -> None:
    for value in ("close", "drop_new", "drop_old"):
        assert check("slow_consumer", value) == value
    for wrong in ("drop", "CLOSE", 1):
        assert refused(ValueError, "slow_consumer", wrong) == (
            "slow_consumer must be one of 'close', 'drop_new', 'drop_old', "
            f"not {wrong!r}"
        )


@pytest.mark.parametrize(
    ("value", "checked"),
    [
        ((), ()),
        (["chat"], ("chat",)),
        (("b", "a"), ("b", "a")),
        (iter(["a", "b"]), ("a", "b")),
    ],
)
def test_subprotocols_keep_their_order(value: object, checked: object) -> None:
    assert check("subprotocols", value) == checked


def test_subprotocols_are_tokens() -> None:
    for wrong in ("chat", b"chat", 5, {"chat": 1}):
        assert "a list of names" in refused(TypeError, "subprotocols", wrong)
    assert "must hold strings" in refused(TypeError, "subprotocols", [5])
    for name in ("", "a b", "a,b", "é", "a\n"):
        text = refused(ValueError, "subprotocols", ["ok", name])
        assert text.endswith(f"not {name!r}")


@pytest.mark.parametrize(
    ("value", "checked"),
    [
        ([], ()),
        ("same", ("same",)),
        ("Same", ("same",)),
        ("null", ("null",)),
        ("file://", ("file://",)),
        ("HTTPS://Example.com:8443", ("https://example.com:8443",)),
        (["http://a", None], ("http://a", None)),
        (re.compile("x"), (re.compile("x"),)),
        ("*", (re.compile(".*", re.IGNORECASE),)),
    ],
)
def test_origins_are_brought_into_one_form(value: object, checked: object) -> None:
    assert check("origins", value) == checked


def test_star_stands_for_anything_but_a_slash() -> None:
    checked = check("origins", ["https://*.example.com"])
    assert isinstance(checked, tuple)
    (pattern,) = checked
    assert pattern.fullmatch("https://a.b.EXAMPLE.com")
    assert not pattern.fullmatch("https://evil.com/.example.com")
    assert not pattern.fullmatch("https://a.exampleXcom")


def test_wrong_origins_are_refused() -> None:
    for wrong in (5, b"https://a", {"same": 1}):
        refused(TypeError, "origins", wrong)
    for item in (5, b"https://a", re.compile(b"x")):
        assert repr(item) in refused(TypeError, "origins", [item])
    # A path never stands in an Origin (RFC 6454 §6.1): such a rule would let nobody in.
    for text in ("example.com", "", "https://", "https://a/", "https://a/b", "://a"):
        assert refused(ValueError, "origins", [text]).endswith(f"not {text!r}")


@given(
    name=st.sampled_from(NAMES),
    value=st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.binary(max_size=5),
        st.lists(st.none() | st.integers() | st.text(max_size=3), max_size=3),
    ),
)
def test_only_documented_errors_escape(name: str, value: object) -> None:
    try:
        checked = check_options({name: value})
    except (TypeError, ValueError) as error:
        text = str(error)
    else:
        # What was checked once passes again, and means the same.
        assert check_options(checked) == checked
        return
    assert name in text


def test_allowed_hosts_are_names() -> None:
    given = [
        "Example.COM",
        "*.example.org",
        "[::1]",
        "::1",
        "127.0.0.1",
        "a.test.",
        "*",
    ]
    kept = "example.com", "*.example.org", "::1", "::1", "127.0.0.1", "a.test", "*"
    assert check("allowed_hosts", given) == kept
    assert check("allowed_hosts", "example.com") == ("example.com",)
    assert check("allowed_hosts", None) is None
    for wrong in ("example.com:80", "http://example.com", "", "a b", "a*.b", "*b", "/"):
        assert "without a port" in refused(ValueError, "allowed_hosts", [wrong])
    for wrong_type in (7, {"a": 1}, [b"a"], [None]):
        refused(TypeError, "allowed_hosts", wrong_type)


def test_head_and_keep_alive_have_limits_of_their_own() -> None:
    assert (Options().max_header, Options().keep_alive) == (16 * 1024, 75)
    assert check("max_header", 1) == 1
    assert "at least 1 bytes" in refused(ValueError, "max_header", 0)
    assert check("keep_alive", 3) == 3.0
    assert "more than 0 seconds" in refused(ValueError, "keep_alive", 0)


def test_bound_of_unsent_output_in_the_system() -> None:
    assert Options().notsent_lowat == 16 * 1024
    assert check("notsent_lowat", None) is None
    assert check("notsent_lowat", 1) == 1
    assert "at least 1 bytes" in refused(ValueError, "notsent_lowat", 0)
    assert "or None" in refused(TypeError, "notsent_lowat", "16k")
