"""What users may give as an option, and the form in which `Options` holds it.

A wrong value is refused when it is given; the error names the option, the value and
what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any, cast

from ..checks import (
    Check,
    compression,
    duration,
    flag,
    one_of,
    optional,
    path,
    rate,
    seconds,
    secret,
    several,
    ssl_context,
    subprotocols,
    whole,
)
from ..protocol.host import host_name
from ..protocol.server_handshake import OriginRule, plain_origin
from .options import Options

__all__ = ["check_options", "check_origins"]

#: Most threads that make sense where one of them computes at a time.
_MAX_THREADS = 1000
#: Most workers; machines with more cores are served by several programs.
_MAX_WORKERS = 1024


def check_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check options as a user gave them; return them as `Options` holds them.

    Raises:
        TypeError: An unknown option, or a value of a wrong type.
        ValueError: A value out of range.
    """
    checked = {}
    for name, value in given.items():
        # The spelling of simple_ws 0.3, still found in users' programs.
        name = "ping_interval" if name == "ping_intervall" else name
        if name not in _CHECKS:
            raise TypeError(
                f"unknown option {name!r}; options are {', '.join(sorted(_CHECKS))}"
            )
        if name in checked:
            raise TypeError("ping_interval and ping_intervall are the same option")
        checked[name] = _CHECKS[name](name, value)
    return checked


def _workers(name: str, value: Any) -> int:
    workers: int = whole(1, "processes")(name, value)
    if workers > _MAX_WORKERS:
        raise ValueError(f"{name} must be at most {_MAX_WORKERS:,}, not {value!r}")
    return workers


def _busy_poll(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    # Signals are only handled after busy polling.
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1 seconds, not {value!r}")
    return float(value)


def _worker_threads(name: str, value: Any) -> int:
    threads: int = whole(1, "threads")(name, value)
    if threads > _MAX_THREADS:
        raise ValueError(f"{name} must be at most {_MAX_THREADS:,}, not {value!r}")
    return threads


def check_origins(name: str, value: Any) -> tuple[OriginRule, ...] | None:
    """Origins and patterns, as `server_handshake.check_origin` takes them.

    Raises:
        TypeError, ValueError: One is neither.
    """
    if value is None:
        return None
    if isinstance(value, str | re.Pattern):
        value = (value,)
    return tuple(
        _origin(name, item) for item in several(name, value, "origins or patterns")
    )


def _origin(name: str, item: Any) -> OriginRule:
    """Strings with `*` become patterns; `*` matches anything but a slash."""
    if item is None:
        return None
    if isinstance(item, re.Pattern):
        if not isinstance(item.pattern, str):
            raise TypeError(f"{name} must hold patterns of str, not {item!r}")
        return cast("re.Pattern[str]", item)
    if not isinstance(item, str):
        raise TypeError(f"{name} must hold strings, patterns or None, not {item!r}")
    origin: str = item.lower()
    # An origin has no path, not even a slash at its end (RFC 6454 §6.1).
    # `file://` is what Cordova and old web views of Android send.
    named = origin in ("same", "null", "*", "file://")
    if not named and not re.fullmatch(r".+://[^/]+", origin):
        raise ValueError(
            f"{name} must hold origins such as 'https://example.com' or 'same', "
            f"not {item!r}"
        )
    if "*" in origin:
        pattern = ".*" if origin == "*" else re.escape(origin).replace(r"\*", "[^/]*")
        return re.compile(pattern, re.IGNORECASE)
    return plain_origin(origin)


def _networks(name: str, value: Any) -> tuple[str, ...]:
    """Networks in their canonical form, and "unix"."""
    items = (value,) if isinstance(value, str) else several(name, value, "networks")
    return tuple(_network(name, item) for item in items)


def _network(name: str, item: Any) -> str:
    if item == "unix":
        return "unix"
    if isinstance(item, int | bytes):  # `ipaddress` would accept them as addresses
        raise TypeError(f"{name} must hold networks, not {item!r}")
    try:
        return str(ip_network(item))
    except ValueError:
        raise ValueError(
            f"{name} must hold networks such as '10.0.0.0/8' or 'unix', not {item!r}"
        ) from None


def _hosts(name: str, value: Any) -> tuple[str, ...]:
    """Names in lower case, IPv6 addresses without brackets."""
    items = (value,) if isinstance(value, str) else several(name, value, "names")
    return tuple(_host(name, item) for item in items)


def _host(name: str, item: Any) -> str:
    if not isinstance(item, str):
        raise TypeError(f"{name} must hold strings, not {item!r}")
    host = host_name(item)
    plain = item.lower() in (host, f"{host}.", f"[{host}]")
    if not plain or not re.fullmatch(r"\*|(?:\*\.)?[^*/\s]+", host):
        raise ValueError(
            f"{name} must hold names such as 'example.com' or '*.example.com', without "
            f"a port, not {item!r}"
        )
    return host


def _engine(name: str, value: Any) -> str | tuple[str, ...]:
    """A URL, or several; their form is checked by the server, which knows engines."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple):
        raise TypeError(f"{name} must be a URL, not {type(value).__name__}")
    if not all(isinstance(url, str) for url in value):
        raise TypeError(f"{name} must be a URL, or hold nothing but URLs")
    return tuple(value)


_CHECKS: dict[str, Check] = {
    "ping": flag,
    "ping_interval": seconds,
    "ping_timeout": seconds,
    "compression": compression,
    "max_frame_size": optional(whole(1, "bytes")),
    "buffer_size": whole(1, "bytes"),
    "max_size": optional(whole(0, "bytes")),
    "write_limit": whole(0, "bytes"),
    "slow_consumer": one_of("close", "drop_new", "drop_old"),
    "max_connections": optional(whole(0, "connections")),
    "open_timeout": seconds,
    "close_timeout": seconds,
    "idle_timeout": optional(seconds),
    "origins": check_origins,
    "subprotocols": subprotocols,
    "backlog": whole(1, "connections"),
    "reuse_port": flag,
    "busy_poll": _busy_poll,
    "unix": optional(path),
    "ssl": optional(ssl_context),
    "certfile": optional(path),
    "keyfile": optional(path),
    "trusted_proxies": _networks,
    "auth_timeout": optional(seconds),
    "max_body": whole(0, "bytes"),
    "max_connections_per_ip": optional(whole(1, "connections")),
    "message_rate": optional(rate),
    "handshake_rate": optional(rate),
    "max_buffered": whole(0, "bytes"),
    "max_buffered_input": whole(0, "bytes"),
    "slow_callback": seconds,
    "access_log": flag,
    "worker_threads": _worker_threads,
    "max_header": whole(1, "bytes"),
    "keep_alive": seconds,
    "allowed_hosts": optional(_hosts),
    "notsent_lowat": optional(whole(1, "bytes")),
    "workers": _workers,
    "worker_class": one_of("process", "thread"),
    "presence_grace": duration,
    "engine": optional(_engine),
    "engine_secret": optional(secret),
}
assert set(_CHECKS) == set(Options._fields)
