"""Mistakes in what programs give to `live` are found where they are made."""

from __future__ import annotations

from typing import Any

import pytest

from simple_ws import Server
from simple_ws.live import Connected, Subscribed
from simple_ws.tokens import Tokens

pytestmark = pytest.mark.one_backend

MILLISECONDS = 1_795_909_717_000
NO_TIME = [
    ("1795909717", TypeError),
    (True, TypeError),
    (-1, ValueError),
    (float("nan"), ValueError),
    (float("inf"), ValueError),
    (MILLISECONDS, ValueError),
]


@pytest.mark.parametrize(("value", "error"), NO_TIME)
def test_times(value: Any, error: type[Exception]) -> None:
    for kind in (Connected, Subscribed):
        with pytest.raises(error, match="expires_at must be seconds since 1970"):
            kind(expires_at=value)


@pytest.mark.parametrize(
    ("topics", "error"),
    [
        ("room:1", TypeError),  # it would mean six topics
        (5, TypeError),
        (None, TypeError),
        ({"room:1": {}}, TypeError),
        ([5], TypeError),
        ([""], ValueError),
        (["x" * 256], ValueError),
    ],
)
def test_topics_of_connected(topics: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="topics must"):
        Connected(topics=topics)


def test_topics_may_come_from_a_generator() -> None:
    names: Any = (f"room:{number}" for number in range(2))
    assert Connected(topics=names).topics == ("room:0", "room:1")
    assert Connected(topics=["x" * 255]).topics == ("x" * 255,)


def test_users_are_hashable() -> None:
    with pytest.raises(TypeError, match="user must be hashable"):
        Connected(user=["ann"])


@pytest.mark.parametrize("key", [b"secret", 5, {"secret": 1}])
def test_keys_are_not_in_messages(key: Any) -> None:
    with pytest.raises(TypeError, match=r"api_key must be a str, or a list") as caught:
        Server("127.0.0.1", 0).live("/live", api_key=key)
    assert "secret" not in str(caught.value)


def test_tokens_is_no_class() -> None:
    with pytest.raises(TypeError, match="tokens must be"):
        Server("127.0.0.1", 0).live("/live", tokens=Tokens)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"audience": 5}, TypeError),
        ({"audience": [5]}, TypeError),
        ({"audience": []}, ValueError),
        ({"audience": ""}, ValueError),
        ({"issuer": 5}, TypeError),
        ({"issuer": ["a"]}, TypeError),
        ({"issuer": ""}, ValueError),
        ({"clock": 5}, TypeError),
        ({"clock": lambda now: now}, TypeError),
        ({"allow_short_secret": "no"}, TypeError),
        ({"algorithms": 5}, TypeError),
    ],
)
def test_options_of_tokens(options: dict[str, Any], error: type[Exception]) -> None:
    (name,) = options
    with pytest.raises(error, match=f"^{name} must"):
        Tokens("s" * 32, **options)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e30, -1e30])
def test_tokens_expire_in_a_number_of_seconds(seconds: float) -> None:
    with pytest.raises(ValueError, match="expires_in must be seconds"):
        Tokens("s" * 32).connection("ann", expires_in=seconds)
