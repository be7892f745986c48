"""`Options`: every option of handlers and servers, its default and its meaning.

Options given to a handler override those of its server. What users may give is in
`option_checks`, and for type checkers in `option_types`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..constants import MAX_HEAD_SIZE
from ..deflate import Deflate
from ..protocol.server_handshake import OriginRule

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["DEFAULT_FRAME_SIZE", "Options", "divided"]

_DEFAULT_DEFLATE = Deflate()


class _Default(int):
    """A default; `is` distinguishes it from an equal number given by the user."""


DEFAULT_FRAME_SIZE = _Default(8192)

#: Limits of all connections together. A rate of messages is that of one client.
_DIVIDED = (
    "max_connections",
    "max_connections_per_ip",
    "handshake_rate",
    "max_buffered",
    "max_buffered_input",
)


class Options(NamedTuple):
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
    engine: str | Sequence[str] | None = None
    engine_secret: bytes | None = None

    def __repr__(self) -> str:
        """Without those of the engine: its URL may hold a password."""
        shown = (name for name in self._fields if not name.startswith("engine"))
        return f"Options({', '.join(f'{n}={getattr(self, n)!r}' for n in shown)})"

    @property
    def splits_packed(self) -> bool:
        """Whether `max_frame_size` was given: then it holds for compressed messages.

        Safari and iOS 15.0 to 15.3 close a connection at the first fragment of one.
        """
        return self.max_frame_size is not DEFAULT_FRAME_SIZE

    def merged(self, given: Mapping[str, Any]) -> Options:
        """A copy of these options, updated with checked ones (`check_options`)."""
        return self._replace(**given)

    def divided(self, count: int) -> Options:
        """A copy with the limits of one of `count` workers; see `divided`."""
        limits = {name: getattr(self, name) for name in _DIVIDED}
        return self.merged(divided(limits, count))


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
