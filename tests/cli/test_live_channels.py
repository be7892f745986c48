"""Who may do what in which channel (Centrifugo, "Channel permission model")."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from simple_ws.cli.live.channels import Channels
from simple_ws.cli.live.reader import read_settings
from simple_ws.live import LiveError
from simple_ws.live.flags import Flags

pytestmark = pytest.mark.one_backend

HISTORY = {"history_size": 5, "history_ttl": "60s"}


def client(user: str | None = None, *topics: str) -> Any:
    session = SimpleNamespace(topics=dict.fromkeys(topics), user=user or "")
    return SimpleNamespace(_live=session)


def channels(
    without: dict[str, Any] | None = None,
    rest: dict[str, Any] | None = None,
    **namespaces: dict[str, Any],
) -> Channels:
    named = [{"name": name, **options} for name, options in namespaces.items()]
    tree = {"without_namespace": without or {}, "namespaces": named}
    return Channels(read_settings({"channel": tree, **(rest or {})}))


def outcome(made: Channels, who: Any, action: str, channel: str) -> bool | int:
    """Whether it may, or the code of the error."""
    try:
        return made.authorize(who, action, channel)
    except LiveError as error:
        return error.code


ANN, NOBODY = client("ann"), client()


def test_unknown_namespace() -> None:
    made = channels({"allow_subscribe_for_client": True}, chat={})
    for action in ("subscribe", "publish", "presence", "history"):
        assert outcome(made, ANN, action, "other:1") == 102
    assert outcome(made, ANN, "subscribe", "chat:1") is False
    assert outcome(made, ANN, "subscribe", "1") is True
    assert outcome(made, ANN, "subscribe", ":1") is True


@pytest.mark.parametrize("action", ["subscribe", "publish", "presence", "history"])
def test_clients_and_anonymous_ones(action: str) -> None:
    made = channels(
        nobody={"presence": True, **HISTORY},
        users={f"allow_{action}_for_client": True, "presence": True, **HISTORY},
        everyone={
            f"allow_{action}_for_client": True,
            f"allow_{action}_for_anonymous": True,
            "presence": True,
            **HISTORY,
        },
        anonymous={f"allow_{action}_for_anonymous": True, "presence": True, **HISTORY},
    )
    expected = {
        "nobody": (False, False),
        "users": (True, False),
        "everyone": (True, True),
        "anonymous": (False, False),
    }
    found = {
        name: tuple(outcome(made, who, action, f"{name}:x") for who in (ANN, NOBODY))
        for name in expected
    }
    assert found == expected


@pytest.mark.parametrize("action", ["publish", "presence", "history"])
def test_subscribers(action: str) -> None:
    options = {f"allow_{action}_for_subscriber": True, "presence": True, **HISTORY}
    made = channels(options)
    assert outcome(made, client("ann", "x"), action, "x") is True
    assert outcome(made, client("ann", "y"), action, "x") is False
    assert outcome(made, client(None, "x"), action, "x") is False
    made = channels({**options, f"allow_{action}_for_anonymous": True})
    assert outcome(made, client(None, "x"), action, "x") is True


def test_what_a_channel_has_not_is_not_available() -> None:
    made = channels({"allow_presence_for_client": True, "join_leave": True})
    assert outcome(made, ANN, "presence", "x") == 108
    assert outcome(made, ANN, "history", "x") == 108
    assert outcome(made, ANN, "call", "method") == 108


def test_insecure_allows_all_that_there_is() -> None:
    made = channels({"presence": True}, {"client": {"insecure": True}}, chat=HISTORY)
    for action in ("subscribe", "publish", "presence"):
        assert outcome(made, NOBODY, action, "x") is True
    assert outcome(made, NOBODY, "history", "chat:x") is True
    assert outcome(made, NOBODY, "history", "x") == 108
    assert outcome(made, NOBODY, "subscribe", "other:x") == 102


def test_private_channels_are_for_tokens() -> None:
    made = channels({}, {"client": {"insecure": True}}, chat={})
    assert outcome(made, ANN, "subscribe", "$x") is False
    assert outcome(made, ANN, "subscribe", "$chat:x") is False
    assert outcome(made, ANN, "publish", "$chat:x") is True
    assert outcome(made, ANN, "publish", "$other:x") == 102


def test_channels_of_users() -> None:
    options = {"allow_user_limited_channels": True, "allow_subscribe_for_client": True}
    made = channels(options, chat={"allow_subscribe_for_client": True})
    for channel in ("#ann", "x#ann", "x#bob,ann"):
        assert outcome(made, ANN, "subscribe", channel) is True
        assert outcome(made, client("eve"), "subscribe", channel) is False
    assert outcome(made, NOBODY, "subscribe", "#") is False
    assert outcome(made, client("eve"), "subscribe", "chat:x#ann") is True


def test_names_of_channels() -> None:
    rest = {"channel": {"max_length": 20}}
    made = channels({"allow_subscribe_for_client": True, "channel_regex": "^[a-z]+$"})
    assert outcome(made, ANN, "subscribe", "abc") is True
    assert outcome(made, ANN, "subscribe", "abc1") == 107
    made = Channels(read_settings(rest))
    assert outcome(made, ANN, "subscribe", "a" * 21) == 107
    assert outcome(made, ANN, "subscribe", "a" * 20) is False
    assert outcome(made, ANN, "subscribe", "ä") == 107


def test_patterns_of_topics() -> None:
    made = channels({"presence": True}, chat=HISTORY)
    found = made.patterns()
    assert {name: options.history_size for name, options in found.items()} == {
        "*": 0,
        "chat:*": 5,
        "$chat:*": 5,
    }


FORCED = {"force_recovery": True, "force_positioning": True}
JOINS = {"join_leave": True}


@pytest.mark.parametrize(
    ("options", "asked", "by_server"),
    [
        ({}, Flags(False, False, False), Flags(False, False, False)),
        (FORCED | HISTORY, Flags(True, True, False), Flags(True, True, False)),
        (
            {"allow_recovery": True, "allow_positioning": True, **HISTORY},
            Flags(None, None, False),
            Flags(False, False, False),
        ),
        (
            {"allow_history_for_subscriber": True, **HISTORY},
            Flags(None, None, False),
            Flags(False, False, False),
        ),
        (JOINS, Flags(False, False, False), Flags(False, False, False)),
        (
            JOINS | {"force_push_join_leave": True},
            Flags(False, False, True),
            Flags(False, False, True),
        ),
        (
            {"force_push_join_leave": True},
            Flags(False, False, False),
            Flags(*[False] * 3),
        ),
        (
            JOINS | {"presence": True, "allow_presence_for_client": True},
            Flags(False, False, None),
            Flags(False, False, False),
        ),
    ],
)
def test_what_subscriptions_have(
    options: dict[str, Any], asked: Flags, by_server: Flags
) -> None:
    made = channels(options)
    assert made.flags(ANN, "x", False) == asked
    assert made.flags(ANN, "x", True) == by_server
    assert made.flags(ANN, "other:x", True) == Flags()


def test_personal_channel() -> None:
    key = "subscribe_to_user_personal_channel"
    assert channels().personal("ann") is None
    made = channels({}, {"client": {key: {"enabled": True}}})
    assert made.personal("ann") == "#ann"
    assert made.personal("") is None
    personal = {"enabled": True, "personal_channel_namespace": "own"}
    made = channels({}, {"client": {key: personal}}, own={})
    assert made.personal("ann") == "own:#ann"
