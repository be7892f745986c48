"""The keys of a Centrifugo configuration that are honoured, with kinds and defaults.

Source: centrifugal.dev, "Configure Centrifugo" and "Channels and namespaces". A key
that is added here is read from files and from the environment; what it does is in
`site` and `channels`, and `docs/howto/live-server.md` has a line for it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from .values import Read, boolean, choice, duration, text, whole, words

__all__ = ["CHANNEL_KEYS", "KEYS", "V5_NAMES", "ChannelOptions", "Key"]


class Key(NamedTuple):
    """A key.

    Attributes:
        read: its kind, see `values`.
        default: what it is without the configuration.
        is_secret: its value is not shown.
    """

    read: Read
    default: Any
    is_secret: bool = False


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """The options of the channels of a namespace; see `channels`."""

    presence: bool = False
    join_leave: bool = False
    force_push_join_leave: bool = False
    history_size: int = 0
    history_ttl: float = 0.0
    force_positioning: bool = False
    allow_positioning: bool = False
    force_recovery: bool = False
    allow_recovery: bool = False
    allow_subscribe_for_client: bool = False
    allow_subscribe_for_anonymous: bool = False
    allow_publish_for_client: bool = False
    allow_publish_for_subscriber: bool = False
    allow_publish_for_anonymous: bool = False
    allow_presence_for_client: bool = False
    allow_presence_for_subscriber: bool = False
    allow_presence_for_anonymous: bool = False
    allow_history_for_client: bool = False
    allow_history_for_subscriber: bool = False
    allow_history_for_anonymous: bool = False
    allow_user_limited_channels: bool = False
    channel_regex: str = ""


_KINDS: dict[str, Read] = {
    "history_size": whole(0),
    "history_ttl": duration,
    "channel_regex": text,
}

#: The keys of a namespace besides its name.
CHANNEL_KEYS = {
    each.name: Key(_KINDS.get(each.name, boolean), each.default)
    for each in fields(ChannelOptions)
}

_TOKEN = {
    "hmac_secret_key": Key(text, "", True),
    "rsa_public_key": Key(text, ""),
    "ecdsa_public_key": Key(text, ""),
    "jwks_public_endpoint": Key(text, ""),
    "audience": Key(text, ""),
    "issuer": Key(text, ""),
}
_PERSONAL = "client.subscribe_to_user_personal_channel"

#: By the path of each; namespaces stand in a list, see `reader`.
KEYS: dict[str, Key] = {
    "http_server.address": Key(text, ""),
    "http_server.port": Key(whole(0, 65535), 8000),
    "http_server.tls.enabled": Key(boolean, False),
    "http_server.tls.cert_pem": Key(text, ""),
    "http_server.tls.cert_pem_file": Key(text, ""),
    "http_server.tls.key_pem": Key(text, "", True),
    "http_server.tls.key_pem_file": Key(text, ""),
    "log.level": Key(
        choice("none", "trace", "debug", "info", "warn", "error", "fatal"), "info"
    ),
    "log.file": Key(text, ""),
    "engine.type": Key(choice("memory", "redis"), "memory"),
    "engine.redis.address": Key(words, ("redis://127.0.0.1:6379",), True),
    "engine.redis.prefix": Key(text, "centrifugo"),
    "engine.redis.user": Key(text, ""),
    "engine.redis.password": Key(text, "", True),
    "engine.redis.db": Key(whole(0), 0),
    "client.insecure": Key(boolean, False),
    "client.allowed_origins": Key(words, ()),
    **{f"client.token.{name}": key for name, key in _TOKEN.items()},
    "client.allow_anonymous_connect_without_token": Key(boolean, False),
    "client.disallow_anonymous_connection_tokens": Key(boolean, False),
    "client.user_id_http_header": Key(text, ""),
    "client.ping_interval": Key(duration, 25.0),
    "client.pong_timeout": Key(duration, 8.0),
    "client.channel_limit": Key(whole(1), 128),
    "client.connection_limit": Key(whole(0), 0),
    f"{_PERSONAL}.enabled": Key(boolean, False),
    f"{_PERSONAL}.personal_channel_namespace": Key(text, ""),
    **{f"channel.without_namespace.{name}": key for name, key in CHANNEL_KEYS.items()},
    "channel.max_length": Key(whole(1, 255), 255),
    "channel.private_prefix": Key(text, "$"),
    "channel.namespace_boundary": Key(text, ":"),
    "channel.user_boundary": Key(text, "#"),
    "channel.user_separator": Key(text, ","),
    "http_api.handler_prefix": Key(text, "/api"),
    "http_api.key": Key(text, "", True),
    "http_api.insecure": Key(boolean, False),
    "websocket.handler_prefix": Key(text, "/connection/websocket"),
    "websocket.message_size_limit": Key(whole(1), 65536),
    "sse.enabled": Key(boolean, True),
    "sse.handler_prefix": Key(text, "/connection/sse"),
    "http_stream.enabled": Key(boolean, True),
    "http_stream.handler_prefix": Key(text, "/connection/http_stream"),
    "uni_sse.enabled": Key(boolean, True),
    "uni_sse.handler_prefix": Key(text, "/connection/uni_sse"),
    "emulation.handler_prefix": Key(text, "/emulation"),
    "health.enabled": Key(boolean, False),
    "health.handler_prefix": Key(text, "/health"),
    "prometheus.enabled": Key(boolean, False),
    "prometheus.handler_prefix": Key(text, "/metrics"),
}

#: Names of Centrifugo 5 that mean the same. Some of them are groups of keys in 6.
V5_NAMES: dict[str, str] = {
    "address": "http_server.address",
    "port": "http_server.port",
    "tls": "http_server.tls.enabled",
    "tls_cert": "http_server.tls.cert_pem_file",
    "tls_key": "http_server.tls.key_pem_file",
    "log_level": "log.level",
    "log_file": "log.file",
    "engine": "engine.type",
    **{f"redis_{name}": f"engine.redis.{name}" for name in ("address", "prefix")},
    **{f"redis_{name}": f"engine.redis.{name}" for name in ("user", "password", "db")},
    "client_insecure": "client.insecure",
    "allowed_origins": "client.allowed_origins",
    **{f"token_{name}": f"client.token.{name}" for name in _TOKEN},
    "allow_anonymous_connect_without_token": (
        "client.allow_anonymous_connect_without_token"
    ),
    "disallow_anonymous_connection_tokens": (
        "client.disallow_anonymous_connection_tokens"
    ),
    "client_user_id_http_header": "client.user_id_http_header",
    "ping_interval": "client.ping_interval",
    "pong_timeout": "client.pong_timeout",
    "client_channel_limit": "client.channel_limit",
    "client_connection_limit": "client.connection_limit",
    "user_subscribe_to_personal": f"{_PERSONAL}.enabled",
    "user_personal_channel_namespace": f"{_PERSONAL}.personal_channel_namespace",
    **{name: f"channel.without_namespace.{name}" for name in CHANNEL_KEYS},
    "namespaces": "channel.namespaces",
    "channel_max_length": "channel.max_length",
    "channel_private_prefix": "channel.private_prefix",
    "channel_namespace_boundary": "channel.namespace_boundary",
    "channel_user_boundary": "channel.user_boundary",
    "channel_user_separator": "channel.user_separator",
    "api_key": "http_api.key",
    "api_insecure": "http_api.insecure",
    "websocket_message_size_limit": "websocket.message_size_limit",
    **{
        name: f"{name}.enabled"
        for name in ("sse", "http_stream", "uni_sse", "health", "prometheus")
    },
}
