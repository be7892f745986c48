"""What tokens say, checked: claims of a verified token in, values out.

Signatures and times are left to `tokens`. Sources: RFC 7519 §4.1; centrifugal.dev,
"Client JWT authentication" and "Channel JWT authorization".
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import TokenError

__all__ = [
    "LATEST",
    "ConnectionClaims",
    "SubscriptionClaims",
    "TopicClaims",
    "read_connection",
    "read_subscription",
    "time_of",
]

#: Seconds since 1970 in the year 9999; larger numbers are mistakes.
LATEST = 253_402_300_799


class TopicClaims(NamedTuple):
    """What a token says of a topic.

    Attributes:
        info: of the client in the topic, any JSON; None without it.
        data: for the client, any JSON; None without it.
        override: options of the topic for this client, by name, such as `join_leave`.
    """

    info: Any = None
    data: Any = None
    override: Mapping[str, bool] = {}


class ConnectionClaims(NamedTuple):
    """What a connection token says.

    Attributes:
        user: the claim `sub`; "" is nobody in particular.
        expires_at: seconds since 1970 when the connection ends unless it is refreshed,
            the claim `expire_at`, or else `exp`; None: never.
        info: of the client, any JSON; None without it.
        topics: that the client is subscribed to by the server, the claims `subs` and
            `channels`.
        meta: any JSON, for the server alone; None without it.
        claims: all of them.
    """

    user: str
    expires_at: float | None
    info: Any
    topics: Mapping[str, TopicClaims]
    meta: Any
    claims: Mapping[str, Any]


class SubscriptionClaims(NamedTuple):
    """What a subscription token says.

    Attributes:
        user: whom it allows to subscribe, the claim `sub`.
        channel: the topic.
        client: the only connection that may use it; "": all of the user.
        expires_at: as of a connection.
        topic: what it says of the topic.
        claims: all of them.
    """

    user: str
    channel: str
    client: str
    expires_at: float | None
    topic: TopicClaims
    claims: Mapping[str, Any]


def read_connection(claims: dict[str, Any]) -> ConnectionClaims:
    """Read the claims of a connection token.

    Raises:
        TokenError: One has a wrong type.
    """
    if claims.get("channel") is not None:
        raise TokenError("this is the token of a subscription, not of a connection")
    topics: dict[str, TopicClaims] = {}
    channels = _field(claims, "channels", list)
    for channel in channels or ():
        topics[_checked_channel(channel)] = TopicClaims()
    for channel, options in (_field(claims, "subs", dict) or {}).items():
        topics[_checked_channel(channel)] = _topic(options)
    return ConnectionClaims(
        _field(claims, "sub", str) or "",
        _expires_at(claims),
        _given(claims, "info"),
        topics,
        claims.get("meta"),
        claims,
    )


def read_subscription(claims: dict[str, Any]) -> SubscriptionClaims:
    """Read the claims of a subscription token.

    Raises:
        TokenError: One is missing, or has a wrong type.
    """
    channel = claims.get("channel")
    if channel is None:
        raise TokenError("this is the token of a connection: it has no channel")
    return SubscriptionClaims(
        _field(claims, "sub", str) or "",
        _checked_channel(channel),
        _field(claims, "client", str) or "",
        _expires_at(claims),
        _topic(claims),
        claims,
    )


def time_of(claims: Mapping[str, Any], name: str) -> float | None:
    """A claim that is a time (RFC 7519 §2, NumericDate); None without it.

    Raises:
        TokenError: It is none.
    """
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenError(f"the claim {name} is not a time in seconds")
    if not 0 <= value <= LATEST:  # nor NaN
        raise TokenError(f"the claim {name} is not a time in seconds since 1970")
    return float(value)


def _expires_at(claims: Mapping[str, Any]) -> float | None:
    """When what the token is for expires; `expire_at` 0 is never."""
    expire_at = time_of(claims, "expire_at")
    return time_of(claims, "exp") if expire_at is None else expire_at or None


def _topic(options: object) -> TopicClaims:
    if not isinstance(options, dict):
        raise TokenError("the claim subs is not an object of objects")
    override = {}
    for name, value in (_field(options, "override", dict) or {}).items():
        if isinstance(value, dict):
            value = value.get("value", False)
        if not isinstance(value, bool):
            raise TokenError("the claim override is not an object of booleans")
        override[name] = value
    return TopicClaims(_given(options, "info"), _given(options, "data"), override)


def _given(claims: Mapping[str, Any], name: str) -> Any:
    """What is given as JSON, or in base64."""
    encoded = _field(claims, f"b64{name}", str)
    if not encoded:
        return claims.get(name)
    try:
        return json.loads(base64.b64decode(encoded, validate=True))
    except (binascii.Error, RecursionError, ValueError):
        raise TokenError(f"the claim b64{name} is not JSON in base64") from None


def _checked_channel(channel: object) -> str:
    if not isinstance(channel, str) or not channel:
        raise TokenError("the name of a channel is not a str, or empty")
    return channel


def _field(claims: Mapping[str, Any], name: str, kind: type) -> Any:
    value = claims.get(name)
    if value is not None and not isinstance(value, kind):
        raise TokenError(f"the claim {name} is not of type {kind.__name__}")
    return value
