"""Every option of a handler and a server: its default, what it may be, what it means.

A wrong value is refused when it is given, with the option's name, the value and what is
allowed. Options given to a handler win over those of its server.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, cast

from .constants import LARGEST
from .deflate import Deflate
from .handshake import OriginRule, plain_origin

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["Options", "check_options"]


_DEFAULT_DEFLATE = Deflate()

#: Most threads that make sense where one of them computes at a time.
_MAX_THREADS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options with their defaults; times in seconds, sizes in bytes.

    Attributes:
        ping: send heartbeat pings.
        ping_interval: a client silent for so long is pinged.
        ping_timeout: no sign of life so long after a ping: cut, `ping_timeout`.
        compression: what is agreed to when a client offers permessage-deflate, or None.
        max_frame_size: largest payload of one outgoing frame; None never splits.
        buffer_size: first read size; it grows while reads come back full.
        max_size: largest incoming message, after inflation; None takes any.
        write_limit: largest unsent output of one client.
        slow_consumer: beyond it: "close" (1013), "drop_new" or "drop_old".
        max_connections: beyond: HTTP 503; None for no limit.
        open_timeout: for the opening handshake.
        close_timeout: for the peer's answer to our close frame.
        idle_timeout: no message for so long: closed, `idle_timeout`; None never.
        origins: who may connect from a browser; None lets everybody.
        subprotocols: what is spoken, by preference.
        backlog: connections the system keeps waiting for us.
        reuse_port: several processes may listen on the port (SO_REUSEPORT).
        unix: path of a Unix socket to listen on, in place of host and port.
        ssl: TLS with this context; None without.
        certfile, keyfile: PEM files to make such a context of; the key may stand in
            `certfile`.
        trusted_proxies: networks whose `Forwarded` and `X-Forwarded-For` are believed,
            such as "10.0.0.0/8"; "unix" for whoever comes by a Unix socket.
        auth_timeout: no identity (`client.bind`) for so long: closed, `auth_timeout`;
            only where an authenticator is installed. None never.
        max_connections_per_ip: of one address; beyond: HTTP 429; None for no limit.
        message_rate: (messages a second, burst) that a client may send; beyond: closed
            with 1008, `rate`. None for no limit.
        handshake_rate: (handshakes a second, burst) of the server; beyond: HTTP 503.
        max_buffered: unsent output of all clients together; beyond, those that have
            output waiting are slow consumers; of the server.
        slow_callback: callbacks that take longer are logged, with their names.
        worker_threads: threads for `in_thread` and `Server.run_in_thread`, made when
            needed; of the server.
        max_body: largest body of a plain HTTP request; beyond: 413.
        busy_poll: look for work so long before going to sleep, which saves a wake-up
            (some 10 µs) for the price of a core; of the server, 0 never.
    """

    ping: bool = True
    ping_interval: float = 5.0
    ping_timeout: float = 20.0
    compression: Deflate | None = _DEFAULT_DEFLATE
    max_frame_size: int | None = 8192
    buffer_size: int = 4096
    max_size: int | None = 2**20
    write_limit: int = 2**20
    slow_consumer: str = "close"
    max_connections: int | None = None
    open_timeout: float = 10.0
    close_timeout: float = 1.0
    idle_timeout: float | None = None
    origins: tuple[OriginRule, ...] | None = None
    subprotocols: tuple[str, ...] = ()
    backlog: int = 1024
    reuse_port: bool = False
    busy_poll: float = 0.0
    unix: str | None = None
    ssl: SSLContext | None = None
    certfile: str | None = None
    keyfile: str | None = None
    trusted_proxies: tuple[str, ...] = ()
    auth_timeout: float | None = 15.0
    max_body: int = 2**20
    max_connections_per_ip: int | None = None
    message_rate: tuple[float, float] | None = None
    handshake_rate: tuple[float, float] | None = None
    max_buffered: int = 2**28
    slow_callback: float = 0.2
    worker_threads: int = 8

    def merged(self, given: Mapping[str, Any]) -> Options:
        """These options, with checked ones (`check_options`) in their place."""
        return replace(self, **given)


def check_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check options as a user gave them; return them as `Options` holds them.

    Raises:
        TypeError: An unknown option, or a value of a wrong type.
        ValueError: A value out of range.
    """
    checked = {}
    for name, value in given.items():
        # The spelling of simple_ws 0.3, which its users have in their programs.
        name = "ping_interval" if name == "ping_intervall" else name
        if name not in _CHECKS:
            raise TypeError(
                f"unknown option {name!r}; options are {', '.join(sorted(_CHECKS))}"
            )
        if name in checked:
            raise TypeError("ping_interval and ping_intervall are the same option")
        checked[name] = _CHECKS[name](name, value)
    return checked


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be more than 0 seconds, not {value!r}")
    if value > LARGEST:
        raise ValueError(f"{name} must be at most {LARGEST:,} seconds, not {value!r}")
    return float(value)


def _busy_poll(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    # Signals are looked at when the spinning is over.
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1 seconds, not {value!r}")
    return float(value)


def _whole(least: int, unit: str) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be a whole number of {unit}, not {value!r}")
        if value < least:
            raise ValueError(f"{name} must be at least {least:,} {unit}, not {value!r}")
        if value > LARGEST:
            raise ValueError(
                f"{name} must be at most {LARGEST:,} {unit}, not {value!r}"
            )
        return value

    return check


def _worker_threads(name: str, value: Any) -> int:
    threads: int = _whole(1, "threads")(name, value)
    if threads > _MAX_THREADS:
        raise ValueError(f"{name} must be at most {_MAX_THREADS:,}, not {value!r}")
    return threads


def _optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    def or_none(name: str, value: Any) -> Any:
        if value is None:
            return None
        try:
            return check(name, value)
        except (TypeError, ValueError) as error:
            text = str(error).replace(", not ", " or None, not ", 1)
            raise type(error)(text) from None

    return or_none


def _rate(name: str, value: Any) -> tuple[float, float]:
    wanted = f"{name} must be (number a second, burst)"
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{wanted}, not {value!r}")
    for number in value:
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"{wanted}, not {value!r}")
    rate, burst = value
    if not 0 < rate <= LARGEST or not 1 <= burst <= LARGEST:
        raise ValueError(
            f"{wanted}, more than 0 a second and a burst of at least 1, "
            f"both at most {LARGEST:,}, not {value!r}"
        )
    return float(rate), float(burst)


def _one_of(*allowed: str) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if value not in allowed:
            choice = ", ".join(map(repr, allowed))
            raise ValueError(f"{name} must be one of {choice}, not {value!r}")
        return str(value)

    return check


def _compression(name: str, value: Any) -> Deflate | None:
    if value is None or value is False:
        return None
    if value is True:
        return Deflate()
    if not isinstance(value, Deflate):
        raise TypeError(f"{name} must be True, False or a Deflate(...), not {value!r}")
    return value


def _several(name: str, value: Any, what: str) -> tuple[Any, ...]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list of {what}, not {value!r}")
    return tuple(value)


def _subprotocols(name: str, value: Any) -> tuple[str, ...]:
    names = _several(name, value, "names")
    for item in names:
        if not isinstance(item, str):
            raise TypeError(f"{name} must hold strings, not {item!r}")
        if not re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", item):
            raise ValueError(f"{name} must hold tokens of RFC 6455 §4.1, not {item!r}")
    return names


def _origins(name: str, value: Any) -> tuple[OriginRule, ...] | None:
    if value is None:
        return None
    if isinstance(value, str | re.Pattern):
        value = (value,)
    return tuple(
        _origin(name, item) for item in _several(name, value, "origins or patterns")
    )


def _origin(name: str, item: Any) -> OriginRule:
    """Strings with `*` become patterns; a `*` stands for anything but a slash."""
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
    named = origin in ("same", "null", "*")
    if not named and not re.fullmatch(r".+://[^/]+", origin):
        raise ValueError(
            f"{name} must hold origins such as 'https://example.com' or 'same', "
            f"not {item!r}"
        )
    if "*" in origin:
        pattern = ".*" if origin == "*" else re.escape(origin).replace(r"\*", "[^/]*")
        return re.compile(pattern, re.IGNORECASE)
    return plain_origin(origin)


def _path(name: str, value: Any) -> str:
    try:
        path = os.fsdecode(value)
    except TypeError:
        raise TypeError(f"{name} must be a path, not {value!r}") from None
    if not path or "\0" in path:
        raise ValueError(f"{name} must be a path, not {value!r}")
    return path


def _ssl(name: str, value: Any) -> SSLContext:
    import ssl  # not before it is needed: some builds of Python have none

    if not isinstance(value, ssl.SSLContext):
        raise TypeError(f"{name} must be an ssl.SSLContext, not {value!r}")
    return value


def _networks(name: str, value: Any) -> tuple[str, ...]:
    """Networks in their canonical form, and "unix"."""
    items = (value,) if isinstance(value, str) else _several(name, value, "networks")
    return tuple(_network(name, item) for item in items)


def _network(name: str, item: Any) -> str:
    if item == "unix":
        return "unix"
    if isinstance(item, int | bytes):  # `ipaddress` would take them for addresses
        raise TypeError(f"{name} must hold networks, not {item!r}")
    try:
        return str(ip_network(item))
    except ValueError:
        raise ValueError(
            f"{name} must hold networks such as '10.0.0.0/8' or 'unix', not {item!r}"
        ) from None


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "ping": _flag,
    "ping_interval": _seconds,
    "ping_timeout": _seconds,
    "compression": _compression,
    "max_frame_size": _optional(_whole(1, "bytes")),
    "buffer_size": _whole(1, "bytes"),
    "max_size": _optional(_whole(0, "bytes")),
    "write_limit": _whole(0, "bytes"),
    "slow_consumer": _one_of("close", "drop_new", "drop_old"),
    "max_connections": _optional(_whole(0, "connections")),
    "open_timeout": _seconds,
    "close_timeout": _seconds,
    "idle_timeout": _optional(_seconds),
    "origins": _origins,
    "subprotocols": _subprotocols,
    "backlog": _whole(1, "connections"),
    "reuse_port": _flag,
    "busy_poll": _busy_poll,
    "unix": _optional(_path),
    "ssl": _optional(_ssl),
    "certfile": _optional(_path),
    "keyfile": _optional(_path),
    "trusted_proxies": _networks,
    "auth_timeout": _optional(_seconds),
    "max_body": _whole(0, "bytes"),
    "max_connections_per_ip": _optional(_whole(1, "connections")),
    "message_rate": _optional(_rate),
    "handshake_rate": _optional(_rate),
    "max_buffered": _whole(0, "bytes"),
    "slow_callback": _seconds,
    "worker_threads": _worker_threads,
}
assert set(_CHECKS) == {field.name for field in fields(Options)}
