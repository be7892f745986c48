"""Every option of handlers and servers: its default, its valid values, its meaning.

A wrong value is refused when it is given; the error names the option, the value and
what is allowed. Options given to a handler override those of its server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, cast

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
from ..constants import MAX_HEAD_SIZE
from ..deflate import Deflate
from ..protocol.host import host_name
from ..protocol.server_handshake import OriginRule, plain_origin

if TYPE_CHECKING:
    import os
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
    from ssl import SSLContext

    #: A single origin, pattern, or None for programs; or several of them.
    Origin: TypeAlias = str | re.Pattern[str] | None
    Origins: TypeAlias = Origin | Iterable[Origin]
    Network: TypeAlias = str | IPv4Network | IPv6Network | IPv4Address | IPv6Address
    FilePath: TypeAlias = str | os.PathLike[str]

__all__ = [
    "HandlerOptions",
    "OptionAttributes",
    "Options",
    "ServerOptions",
    "check_options",
    "check_origins",
    "divided",
]


_DEFAULT_DEFLATE = Deflate()


class _Default(int):
    """A default; `is` distinguishes it from an equal number given by the user."""


DEFAULT_FRAME_SIZE = _Default(8192)

#: Most threads that make sense where one of them computes at a time.
_MAX_THREADS = 1000
#: Most workers; machines with more cores are served by several programs.
_MAX_WORKERS = 1024
#: Limits of all connections together. A rate of messages is that of one client.
_DIVIDED = (
    "max_connections",
    "max_connections_per_ip",
    "handshake_rate",
    "max_buffered",
    "max_buffered_input",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options with their defaults; times in seconds, sizes in bytes.

    Attributes:
        ping: send heartbeat (keepalive) pings.
        ping_interval: a client that was silent for this long is pinged.
        ping_timeout: a client that shows no sign of life for this long after a ping is
            closed with 1011, cause `ping_timeout`.
        compression: the parameters accepted when a client offers permessage-deflate, or
            None.
        max_frame_size: largest payload of one outgoing frame; None never splits. The
            default does not split compressed messages; a value that is given does.
        buffer_size: size of the first read; it grows while reads fill it.
        max_size: largest incoming message, after inflation; None is no limit.
        write_limit: largest unsent output per client.
        slow_consumer: above `write_limit`: "close" (1013), "drop_new" or "drop_old".
        max_connections: above this limit HTTP 503; None is no limit.
        open_timeout: time for the opening handshake.
        close_timeout: time for the peer to answer our close frame.
        idle_timeout: a client without a message for this long is closed, cause
            `idle_timeout`; None never.
        origins: origins of web pages that may connect; None allows all.
        subprotocols: supported subprotocols, in order of preference.
        backlog: length of the system's queue of connections not yet accepted.
        reuse_port: several processes can listen on the port (SO_REUSEPORT).
        unix: path of a Unix socket to listen on, instead of host and port.
        ssl: TLS with this context; None is no TLS.
        certfile, keyfile: PEM files to create such a context from; the key can be in
            `certfile`.
        trusted_proxies: networks whose `Forwarded` and `X-Forwarded-For` headers are
            trusted, such as "10.0.0.0/8"; "unix" for clients of a Unix socket.
        auth_timeout: a client without an identity (`client.bind`) for this long is
            closed, cause `auth_timeout`; only where authentication is required. None
            never.
        max_connections_per_ip: per address; above this limit HTTP 429; None is no
            limit.
        message_rate: (messages per second, burst) that a client may send; above this
            rate it is closed with 1008, cause `rate`. None is no limit.
        handshake_rate: (handshakes per second, burst) of the server; above it HTTP 503.
        max_buffered: unsent output of all clients together; above this limit, clients
            with output waiting are slow consumers; for the server only.
        max_buffered_input: input of all clients together that is kept in memory: of
            messages and requests that are incomplete, or that wait for a callback.
            Above this limit those who have sent most are closed with 1013, cause
            `overloaded`, or get HTTP 503; for the server only.
        slow_callback: callbacks that take longer are logged, with their names.
        access_log: log each plain HTTP request (INFO, logger `simple_ws.access`), with
            its path but without its query; for the server only.
        worker_threads: threads for `in_thread` and `Server.run_in_thread`, created on
            demand; for the server only.
        max_body: largest body of a plain HTTP request; a larger one gets 413.
        max_header: largest head of a request, first line and header fields together; a
            larger one gets 431, or 414 if the first line alone is too long; for the
            server only.
        keep_alive: time between two plain requests on a connection; for the server
            only.
        allowed_hosts: host names that requests may be for (their `Host`), such as
            "example.com" or "*.example.com"; other requests get 421. None allows all;
            for the server only.
        notsent_lowat: largest unsent output of one client that the system holds
            besides (TCP_NOTSENT_LOWAT); what exceeds it waits here, where
            `write_limit` and `slow_consumer` see it. None leaves megabytes to the
            system; for the server only.
        presence_grace: a member of a topic with presence who comes back within this
            time has neither left nor joined; 0 tells each change at once; for the
            server only.
        engine: URL of what connects several processes and nodes, such as
            "redis://localhost", or "memory://" for tests; see `docs/cluster.md`. A list
            of them shares the topics among several servers of Redis. None: this process
            is alone; for the server only.
        engine_secret: signs what goes through the engine; what is not signed with it is
            dropped. None does not; for the server only.
        busy_poll: poll for this long before sleeping, which saves a wake-up (some 10
            µs) at the cost of a core; for the server only, 0 never.
        workers: processes that serve, see `Server.run`; for the server only. 1 serves
            in the process that calls it. Limits of the server and of its handlers are
            divided among the workers.
        worker_class: what the workers are: "process", or "thread" on a free-threaded
            Python whose GIL is not enabled; for the server only.
    """

    ping: bool = True
    ping_interval: float = 5.0
    ping_timeout: float = 20.0
    compression: Deflate | None = _DEFAULT_DEFLATE
    max_frame_size: int | None = DEFAULT_FRAME_SIZE
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
    max_buffered_input: int = 2**27
    slow_callback: float = 0.2
    access_log: bool = False
    worker_threads: int = 8
    max_header: int = MAX_HEAD_SIZE
    keep_alive: float = 75.0
    allowed_hosts: tuple[str, ...] | None = None
    notsent_lowat: int | None = 16 * 1024
    workers: int = 1
    worker_class: str = "process"
    presence_grace: float = 5.0
    # Not in the representation: a URL may hold a password.
    engine: str | Sequence[str] | None = field(default=None, repr=False)
    engine_secret: bytes | None = field(default=None, repr=False)

    @property
    def splits_packed(self) -> bool:
        """Whether `max_frame_size` was given: then it holds for compressed messages.

        Safari and iOS 15.0 to 15.3 close a connection at the first fragment of one.
        """
        return self.max_frame_size is not DEFAULT_FRAME_SIZE

    def merged(self, given: Mapping[str, Any]) -> Options:
        """A copy of these options, updated with checked ones (`check_options`)."""
        return replace(self, **given)

    def divided(self, count: int) -> Options:
        """A copy with the limits of one of `count` workers; see `divided`."""
        limits = {name: getattr(self, name) for name in _DIVIDED}
        return self.merged(divided(limits, count))


class HandlerOptions(TypedDict, total=False):
    """The keyword arguments of a handler, for type checkers; see `Options`."""

    ping: bool
    ping_interval: float
    ping_timeout: float
    compression: Deflate | bool | None
    max_frame_size: int | None
    buffer_size: int
    max_size: int | None
    write_limit: int
    slow_consumer: Literal["close", "drop_new", "drop_old"]
    max_connections: int | None
    close_timeout: float
    idle_timeout: float | None
    origins: Origins
    subprotocols: Iterable[str]
    auth_timeout: float | None
    max_connections_per_ip: int | None
    message_rate: tuple[float, float] | None
    handshake_rate: tuple[float, float] | None


class ServerOptions(HandlerOptions, total=False):
    """The keyword arguments of a server, for type checkers; see `Options`."""

    open_timeout: float
    backlog: int
    reuse_port: bool
    busy_poll: float
    unix: FilePath | None
    ssl: SSLContext | None
    certfile: FilePath | None
    keyfile: FilePath | None
    trusted_proxies: str | Iterable[Network]
    max_body: int
    max_buffered: int
    max_buffered_input: int
    slow_callback: float
    access_log: bool
    worker_threads: int
    max_header: int
    keep_alive: float
    allowed_hosts: str | Iterable[str] | None
    notsent_lowat: int | None
    workers: int
    worker_class: Literal["process", "thread"]
    presence_grace: float
    engine: str | Sequence[str] | None
    engine_secret: str | bytes | None


class OptionAttributes:
    """The options as attributes of a handler, for type checkers.

    A class may set them, so they have the types that are accepted; `Options` has those
    of the values in force.
    """

    ping: bool
    ping_interval: float
    ping_timeout: float
    compression: Deflate | bool | None
    max_frame_size: int | None
    buffer_size: int
    max_size: int | None
    write_limit: int
    slow_consumer: Literal["close", "drop_new", "drop_old"]
    max_connections: int | None
    open_timeout: float
    close_timeout: float
    idle_timeout: float | None
    origins: Origins
    subprotocols: Iterable[str]
    backlog: int
    reuse_port: bool
    busy_poll: float
    unix: FilePath | None
    ssl: SSLContext | None
    certfile: FilePath | None
    keyfile: FilePath | None
    trusted_proxies: str | Iterable[Network]
    auth_timeout: float | None
    max_body: int
    max_connections_per_ip: int | None
    message_rate: tuple[float, float] | None
    handshake_rate: tuple[float, float] | None
    max_buffered: int
    max_buffered_input: int
    slow_callback: float
    access_log: bool
    worker_threads: int
    max_header: int
    keep_alive: float
    allowed_hosts: str | Iterable[str] | None
    notsent_lowat: int | None
    workers: int
    worker_class: Literal["process", "thread"]
    presence_grace: float
    engine: str | Sequence[str] | None
    engine_secret: str | bytes | None


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


def divided(given: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Checked options of a server or handler, for one of its `count` workers.

    What the server may have in all is divided, rounded up: so the workers together may
    exceed a limit by `count - 1`, but none is left without anything.
    """
    return {
        name: _share(value, count) if name in _DIVIDED else value
        for name, value in given.items()
    }


def _share(limit: Any, count: int) -> Any:
    if limit is None:
        return None
    if isinstance(limit, tuple):
        rate, burst = limit
        return rate / count, max(1.0, burst / count)
    return -(-limit // count)


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
assert set(_CHECKS) == {field.name for field in fields(Options)}
