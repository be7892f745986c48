"""`build`: the server that a Centrifugo configuration describes."""

from __future__ import annotations

import contextlib
import re
from typing import Any
from urllib.parse import quote, urlsplit

from ... import Cors, Server
from ...live.api import Api, check_keys
from ...live.endpoints import Endpoints, serve
from ..values import UsageError
from .channels import Channels
from .connecting import Connecting, make_tokens
from .keys import ChannelOptions
from .pem import tls_options
from .reader import Settings

__all__ = ["build"]

#: Messages and seconds that are kept with `client.insecure`, for recovery alone.
_INSECURE_HISTORY = 100, 60.0


def build(settings: Settings, **options: Any) -> Server:
    """Make the server.

    Args:
        settings: the configuration.
        options: of the server, besides those of the configuration.

    Raises:
        UsageError: A path or a file is wrong.
    """
    channels = Channels(settings)
    given = _server_options(settings) | options
    try:
        server = Server(
            settings["http_server.address"], settings["http_server.port"], **given
        )
    except (OSError, TypeError, ValueError) as error:
        place = "engine.redis" if "engine" in given else "http_server"
        raise UsageError(f"{place}: {error}") from None
    try:
        for pattern, channel in channels.patterns().items():
            _add_topics(server, pattern, channel, settings["client.insecure"])
        _serve_live(server, settings, channels)
        _serve_rest(server, settings, channels)
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from None
    return server


def _server_options(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {"presence_grace": 0, **tls_options(settings)}
    if settings["client.connection_limit"]:
        options["max_connections"] = settings["client.connection_limit"]
    if settings["engine.type"] == "redis":
        options["engine"] = _engine(settings)
    return options


def _engine(settings: Settings) -> list[str]:
    return [_engine_url(settings, each) for each in settings["engine.redis.address"]]


def _engine_url(settings: Settings, address: str) -> str:
    """An address, with what stands beside it in the configuration."""
    redis = "engine.redis"
    url = urlsplit(address if "://" in address else f"redis://{address}")
    host, path, query = url.netloc, url.path, url.query
    user, password = settings[f"{redis}.user"], settings[f"{redis}.password"]
    if password and "@" not in host:
        host = f"{quote(user, '')}:{quote(password, '')}@{host}"
    if settings[f"{redis}.db"] and path in ("", "/"):
        path = f"/{settings[f'{redis}.db']}"
    if "prefix=" not in query:
        prefix = re.sub("[^A-Za-z0-9_:-]", "_", settings[f"{redis}.prefix"])
        query = "&".join(filter(None, (query, f"prefix={prefix}")))
    return f"{url.scheme}://{host}{path}?{query}"


def _add_topics(
    server: Server, pattern: str, channel: ChannelOptions, insecure: bool
) -> None:
    size, ttl = channel.history_size, channel.history_ttl or None
    if insecure and not size:
        # Everybody may ask for recovery there, also where no history is configured.
        size, ttl = _INSECURE_HISTORY
    server.topic(
        pattern,
        history=size,
        keep=ttl,
        # Who joins and leaves is known of those who are present.
        presence=channel.presence or channel.join_leave,
    )


def _serve_live(server: Server, settings: Settings, channels: Channels) -> None:
    connecting = Connecting(settings, channels)
    serve(
        server,
        _endpoints(settings),
        hooks={
            "authorize": channels.authorize,
            "on_connect": connecting.on_connect,
        },
        options={
            "origins": _origins(settings["client.allowed_origins"]),
            "max_size": settings["websocket.message_size_limit"],
        },
        heartbeat=settings["client.ping_interval"],
        heartbeat_timeout=settings["client.pong_timeout"],
        max_topics=settings["client.channel_limit"],
        command_rate=None,  # Centrifugo has no such limit
        flags=channels.flags,
        present_alone=True,
        cors=_cors(settings["client.allowed_origins"]),
        tokens=make_tokens(settings),
        allow_anonymous=True,  # `connecting` decides about them
    )


def _endpoints(settings: Settings) -> Endpoints:
    served = {
        name: settings[f"{name}.handler_prefix"]
        for name in ("sse", "http_stream", "uni_sse")
        if settings[f"{name}.enabled"]
    }
    if "sse" in served or "http_stream" in served:
        served["emulation"] = settings["emulation.handler_prefix"]
    return Endpoints(
        websocket=settings["websocket.handler_prefix"],
        client_js="/connection/client.js",  # for pages without npm
        client_d_ts="/connection/client.d.ts",
        **served,
    )


def _origins(patterns: tuple[str, ...]) -> Any:
    """Origins of pages that may connect, as the option `origins` takes them.

    Programs that are no browsers say none.
    """
    if "*" in patterns:
        return None
    if not patterns:
        return (None, "same")
    return (None, *map(_origin, patterns))


def _cors(patterns: tuple[str, ...]) -> Cors | None:
    """Likewise, by HTTP.

    Raises:
        UsageError: One is no origin.
    """
    if not patterns:
        return None
    if "*" in patterns:
        return Cors("*")
    rules = [_origin(pattern) for pattern in patterns]
    try:
        cors = Cors(rules)
    except ValueError as error:
        raise UsageError(f"client.allowed_origins: {error}") from None
    # Not to patterns that mean any page.
    with contextlib.suppress(ValueError):
        cors = Cors(rules, credentials=True)
    return cors


def _origin(pattern: str) -> str | re.Pattern[str]:
    if "*" not in pattern:
        return pattern
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.IGNORECASE)


def _serve_rest(server: Server, settings: Settings, channels: Channels) -> None:
    if settings["http_api.insecure"] or settings["http_api.key"]:
        insecure = settings["http_api.insecure"]
        keys = () if insecure else check_keys(settings["http_api.key"])
        Api(server, keys, channels.options).serve(settings["http_api.handler_prefix"])
    if settings["health.enabled"]:
        server.http(settings["health.handler_prefix"])(_health)
    if settings["prometheus.enabled"]:
        server.metrics(settings["prometheus.handler_prefix"])


def _health(request: Any) -> dict[str, Any]:
    return {}
