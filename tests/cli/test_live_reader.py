"""Configurations of Centrifugo: what is read, what is refused, what is passed over."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from simple_ws.cli.live.keys import KEYS, V5_NAMES, ChannelOptions
from simple_ws.cli.live.reader import Settings, read_settings
from simple_ws.cli.values import UsageError

pytestmark = pytest.mark.one_backend

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_is_the_defaults_of_centrifugo() -> None:
    settings = read_settings({})
    assert settings["http_server.port"] == 8000
    assert settings["http_server.address"] == ""
    assert not settings["client.insecure"]
    assert settings["client.channel_limit"] == 128
    assert (settings["client.ping_interval"], settings["client.pong_timeout"]) == (
        25,
        8,
    )
    assert settings.without_namespace == ChannelOptions()
    assert settings.namespaces == {}
    assert settings.warnings == ()


V6 = {
    "client": {
        "token": {"hmac_secret_key": "secret", "audience": "a"},
        "allowed_origins": ["https://example.com"],
        "allow_anonymous_connect_without_token": True,
        "ping_interval": "10s",
        "pong_timeout": "1500ms",
        "channel_limit": 7,
    },
    "channel": {
        "without_namespace": {"history_size": 10, "history_ttl": "1h30m"},
        "namespaces": [
            {"name": "chat", "presence": True, "allow_subscribe_for_client": True},
            {"name": "news"},
        ],
    },
    "http_api": {"key": "api", "insecure": False},
    "engine": {"type": "redis", "redis": {"address": "redis://a:1 redis://b:2"}},
    "sse": {"enabled": True},
    "health": {"enabled": True},
    "log": {"level": "debug"},
    "http_server": {"port": 9000, "tls": {"enabled": False}},
}
V5 = {
    "token_hmac_secret_key": "secret",
    "token_audience": "a",
    "allowed_origins": ["https://example.com"],
    "allow_anonymous_connect_without_token": True,
    "ping_interval": "10s",
    "pong_timeout": "1500ms",
    "client_channel_limit": 7,
    "history_size": 10,
    "history_ttl": "1h30m",
    "namespaces": V6["channel"]["namespaces"],  # type: ignore[index]
    "api_key": "api",
    "engine": "redis",
    "redis_address": ["redis://a:1", "redis://b:2"],
    "sse": True,
    "health": True,
    "log_level": "debug",
    "port": "9000",
    "tls": False,
}


@pytest.mark.parametrize("tree", [V6, V5], ids=["v6", "v5"])
def test_both_forms_mean_the_same(tree: dict[str, Any]) -> None:
    settings = read_settings(tree)
    assert settings.warnings == ()
    assert settings["client.token.hmac_secret_key"] == "secret"
    assert settings["client.token.audience"] == "a"
    assert settings["client.allowed_origins"] == ("https://example.com",)
    assert settings["client.allow_anonymous_connect_without_token"] is True
    assert settings["client.ping_interval"] == 10
    assert settings["client.pong_timeout"] == 1.5
    assert settings["client.channel_limit"] == 7
    assert settings.without_namespace == ChannelOptions(
        history_size=10, history_ttl=5400
    )
    assert settings.namespaces == {
        "chat": ChannelOptions(presence=True, allow_subscribe_for_client=True),
        "news": ChannelOptions(),
    }
    assert settings["http_api.key"] == "api"
    assert settings["engine.type"] == "redis"
    assert settings["engine.redis.address"] == ("redis://a:1", "redis://b:2")
    assert settings["health.enabled"] is settings["sse.enabled"] is True
    assert settings["log.level"] == "debug"
    assert settings["http_server.port"] == 9000


def test_names_of_version_5_are_keys_of_version_6() -> None:
    assert set(V5_NAMES.values()) <= {*KEYS, "channel.namespaces"}


def test_environment_overrides_the_file() -> None:
    settings = read_settings(
        V6,
        {
            "PATH": "/bin",
            "CENTRIFUGO_CLIENT_INSECURE": "true",
            "CENTRIFUGO_HTTP_SERVER_PORT": "8001",
            "CENTRIFUGO_CLIENT_ALLOWED_ORIGINS": "https://a.org https://b.org",
            "CENTRIFUGO_CHANNEL_WITHOUT_NAMESPACE_HISTORY_TTL": "300s",
            "CENTRIFUGO_CHANNEL_NAMESPACES_CHAT_JOIN_LEAVE": "1",
            "CENTRIFUGO_API_KEY": "of version 5",
        },
    )
    assert settings["client.insecure"] is True
    assert settings["http_server.port"] == 8001
    assert settings["client.allowed_origins"] == ("https://a.org", "https://b.org")
    assert settings.without_namespace.history_ttl == 300
    assert settings.namespaces["chat"].join_leave
    assert settings.namespaces["chat"].presence
    assert settings["http_api.key"] == "of version 5"
    assert settings.warnings == ()


@pytest.mark.parametrize("names", ["small-history ab", '[{"name":"small-history"}]'])
def test_namespaces_of_the_environment(names: str) -> None:
    settings = read_settings(
        {},
        {
            "CENTRIFUGO_CHANNEL_NAMESPACES": names,
            "CENTRIFUGO_CHANNEL_NAMESPACES_SMALL_HISTORY_HISTORY_SIZE": "2",
            "CENTRIFUGO_CHANNEL_NAMESPACES_SMALL_HISTORY_HISTORY_TTL": "300s",
        },
    )
    wanted = ChannelOptions(history_size=2, history_ttl=300)
    assert settings.namespaces["small-history"] == wanted


def test_arguments_override_all() -> None:
    environment = {"CENTRIFUGO_HTTP_SERVER_PORT": "8001"}
    arguments = {"http_server.port": 0, "http_server.address": None}
    settings = read_settings(V6, environment, arguments)
    assert settings["http_server.port"] == 0


def warnings_of(
    tree: dict[str, Any], environment: dict[str, str] | None = None
) -> list[str]:
    text = " is not supported and was ignored"
    warnings = read_settings(tree, environment).warnings
    assert all(text in warning for warning in warnings)
    return [warning.replace(text, "") for warning in warnings]


def test_what_is_not_honoured_is_named_once() -> None:
    assert warnings_of(
        {
            "websocket": {"compression": True, "compression_level": 1},
            "admin": {"enabled": True, "password": "x"},
            "proxies": [{"name": "p"}],
            "channel": {
                "without_namespace": {"delta_publish": True},
                "namespaces": [{"name": "ab", "force_recovery_mode": "cache"}],
            },
            "clientt": {"insecure": True},
        }
    ) == [
        "websocket.compression",
        "websocket.compression_level",
        "admin",
        "proxies",
        "channel.without_namespace.delta_publish",
        "channel.namespaces[0].force_recovery_mode",
        "clientt",
    ]
    assert warnings_of({"client": {"insecur": True}}) == [
        "client.insecur (did you mean client.insecure?)"
    ]
    assert warnings_of({}, {"CENTRIFUGO_ADMIN_ENABLED": "true"}) == [
        "the environment variable CENTRIFUGO_ADMIN_ENABLED"
    ]


def test_what_is_switched_off_is_not_missed() -> None:
    assert not warnings_of(
        {
            "websocket": {"compression": False},
            "admin": {"enabled": False, "password": "x"},
            "swagger": {},
            "proxies": [],
            "grpc_api": None,
        },
        {"CENTRIFUGO_ADMIN_ENABLED": "false", "CENTRIFUGO_DEBUG_ENABLED": ""},
    )


def refused(tree: dict[str, Any], environment: dict[str, str] | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        read_settings(tree, environment)
    return str(caught.value)


def nested(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("client.insecure", 1, "true or false, not 1"),
        ("client.insecure", "yes", "true or false, not 'yes'"),
        ("client.channel_limit", 0, "a whole number from 1 to 2,147,483,647, not 0"),
        ("client.channel_limit", True, "from 1 to 2,147,483,647, not True"),
        ("client.channel_limit", "1.5", "from 1 to 2,147,483,647, not '1.5'"),
        ("http_server.port", 65536, "a whole number from 0 to 65,535, not 65536"),
        ("client.ping_interval", 25, 'a duration such as "300s" or "1h30m", not 25'),
        ("client.ping_interval", "25", "or \"1h30m\", not '25'"),
        ("client.ping_interval", "-1s", "or \"1h30m\", not '-1s'"),
        ("client.allowed_origins", [1], "a list of strings, not [1]"),
        ("log.level", "loud", "info, warn, error or fatal, not 'loud'"),
        ("engine.type", "nats", "memory or redis, not 'nats'"),
        ("client", 5, "a group of keys, not int"),
        ("client.token.hmac_secret_key", 12345, "a string, not int"),
        ("http_api.key", ["hidden"], "a string, not list"),
        ("websocket.handler_prefix", "x", "a path that begins with '/', not 'x'"),
        ("channel.namespaces", {}, "a list of groups of keys, each with a name, not"),
    ],
)
def test_wrong_value_is_named_with_what_is_allowed(
    path: str, value: Any, text: str
) -> None:
    said = refused(nested(path, value))
    assert said.startswith(f"{path} must be ")
    assert text in said
    assert "hidden" not in said
    assert "12345" not in said


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"namespaces": [{"name": "x"}]}, "namespaces[0].name must be 2 or more"),
        ({"namespaces": [{}]}, "namespaces[0].name must be 2 or more"),
        ({"namespaces": [{"name": "ab"}] * 2}, "a namespace 'ab' already"),
        (
            {"namespaces": [{"name": "ab", "presence": 3}]},
            "namespaces[0].presence must be true or false, not 3",
        ),
        ({"history_size": 5}, "without_namespace: history needs history_size and"),
        ({"history_ttl": "5s"}, "without_namespace: history needs history_size and"),
        (
            {"namespaces": [{"name": "ab", "force_recovery": True}]},
            "the namespace 'ab': force_recovery needs history_size",
        ),
        ({"channel_regex": "("}, "channel_regex is malformed"),
        ({"pong_timeout": "25s"}, "less than client.ping_interval, not 25 s and 25 s"),
        (
            {
                "user_subscribe_to_personal": True,
                "user_personal_channel_namespace": "p",
            },
            "there is no namespace 'p'",
        ),
        ({"port": "http"}, "port must be a whole number from 0 to 65,535, not 'http'"),
    ],
)
def test_values_that_do_not_go_together(tree: dict[str, Any], text: str) -> None:
    assert text in refused(tree)


def test_wrong_variable_is_named() -> None:
    name = "CENTRIFUGO_CLIENT_INSECURE"
    assert refused({}, {name: "maybe"}).startswith(f"{name} must be true or false")
    name = "CENTRIFUGO_CHANNEL_NAMESPACES"
    assert refused({}, {name: "[{]"}).startswith(f"{name} is not JSON")


def test_null_is_not_given() -> None:
    settings: Settings = read_settings({"client": None, "port": None, "log": {}})
    assert settings["http_server.port"] == 8000


def test_every_key_is_documented() -> None:
    page = (ROOT / "docs/howto/live-server.md").read_text()
    for path in KEYS:
        name = path.rpartition(".")[2]
        shown = re.sub(r"_for_\w+", "", name)  # there is a line for each action
        assert name in page or shown in page, path
