"""The options as type checkers see them: arguments of a call, attributes of a class.

They have the types that are accepted; `options` has those of the values in force.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, TypedDict

from ..deflate import Deflate

if TYPE_CHECKING:
    import os
    import re
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
    from ssl import SSLContext
    from typing import TypeAlias

    #: A single origin, pattern, or None for programs; or several of them.
    Origin: TypeAlias = str | re.Pattern[str] | None
    Origins: TypeAlias = Origin | Iterable[Origin]
    Network: TypeAlias = str | IPv4Network | IPv6Network | IPv4Address | IPv6Address
    FilePath: TypeAlias = str | os.PathLike[str]

__all__ = ["HandlerOptions", "OptionAttributes", "ServerOptions"]


class HandlerOptions(TypedDict, total=False):
    """The keyword arguments of a handler; see `options.Options`."""

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
    """The keyword arguments of a server; see `options.Options`."""

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
    """The options as attributes of a handler, which a class may set."""

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
