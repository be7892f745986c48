"""Listening sockets: binding them, and accepting connections.

Handling an accepted connection is left to the callback.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from ..speedups import accept_from
from .reactor import READ, Reactor

__all__ = [
    "Listener",
    "SocketFile",
    "bind",
    "bind_unix",
    "limit_unsent",
    "name_of",
    "port_of",
    "take_over",
]

logger = logging.getLogger("simple_ws")

#: Connections handed on at the end; systems keep 4096 waiting by default.
_MAX_WAITING = 65536
#: Connections taken in one turn, so that those who are in are served meanwhile.
_BATCH = 64
#: Seconds after which open connections get their turn regardless.
_LONG_BATCH = 0.005
#: Seconds before accepting again when descriptors or memory ran out.
_PAUSE = 0.25
#: Seconds in which that is logged only once; it may continue for hours.
_SILENCE = 10.0
#: Largest backlog that can be passed; the system caps it at somaxconn.
_MAX_INT = 2**31 - 1
_INTERNET = (socket.AF_INET, socket.AF_INET6)
#: Free ports to try when a host has several addresses.
_ATTEMPTS = 10
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def bind(host: str, port: int, backlog: int, reuse_port: bool) -> list[socket.socket]:
    """Open listening sockets for every address of a host.

    Args:
        host: a name or an address; "" is every interface, IPv4 and IPv6.
        port: 0 picks a free one, the same for all addresses.
        backlog: connections that the system queues.
        reuse_port: allow other processes to listen there too (SO_REUSEPORT).

    Raises:
        OSError: An address is not available; the message names it.
    """
    addresses = list(_addresses(host, port))
    attempts = _ATTEMPTS if port == 0 else 1
    while True:
        attempts -= 1
        try:
            return _open_all(addresses, port, backlog, reuse_port, both=not host)
        except OSError as error:
            # A port free on one address may be taken on the next: try another port.
            if error.errno != errno.EADDRINUSE or not attempts:
                raise


def _open_all(
    addresses: list[tuple[int, Any]],
    port: int,
    backlog: int,
    reuse_port: bool,
    both: bool,
) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for family, address in addresses:
            if port == 0 and sockets:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            sockets.append(_open(family, address, backlog, reuse_port, both))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _addresses(host: str, port: int) -> Iterator[tuple[int, Any]]:
    if not host:
        # One socket for both families; IPv4 alone where IPv6 is disabled.
        if socket.has_dualstack_ipv6() and _ipv6_works():
            yield socket.AF_INET6, ("::", port)
        else:
            yield socket.AF_INET, ("0.0.0.0", port)
        return
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise OSError(
            error.errno, f"cannot listen on {host!r}: {error.strerror}"
        ) from None
    except UnicodeError:  # an empty label, or one with more than 63 characters
        raise OSError(
            errno.EINVAL, f"cannot listen on {host!r}: not a host name"
        ) from None
    seen = dict.fromkeys((family, address) for family, _, _, _, address in found)
    for family, address in seen:
        if family != socket.AF_INET6 or len(seen) == 1 or _ipv6_works():
            yield family, address


def _ipv6_works() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _open(
    family: int, address: Any, backlog: int, reuse_port: bool, both: bool
) -> socket.socket:
    try:
        return socket.create_server(
            address,
            family=family,
            backlog=min(backlog, _MAX_INT),
            reuse_port=reuse_port,
            dualstack_ipv6=both and family == socket.AF_INET6,
        )
    except OSError as error:
        where = f"{address[0] if not both else '*'}:{address[1]}"
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"cannot listen on {where}: {reason}") from None


class SocketFile:
    """The file of a listening Unix socket, removed at the end.

    Args:
        path: where the socket is bound.

    Attributes:
        path: the same as an absolute path: the program may change its directory.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._pid = os.getpid()
        self._identity = _identity(self.path)

    def remove(self) -> None:
        """Remove the file, if it is still ours; call it before closing the socket.

        A forked process leaves it: others listen there.

        While the socket is open, no other file can have its inode number.
        """
        with suppress(OSError):
            ours = self._pid == os.getpid()
            if ours and _identity(self.path) == self._identity:
                os.unlink(self.path)


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def bind_unix(path: str, backlog: int) -> tuple[socket.socket, SocketFile]:
    """Open a listening Unix socket; access is controlled by its directory's mode.

    A file left behind by a dead server is replaced.

    Args:
        path: the file; systems accept at most 103 to 107 bytes.
        backlog: connections that the system queues.

    Returns:
        The socket, and its file.

    Raises:
        OSError: Another server listens there, the file is not a socket, or the path is
            not available; the message names it.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise OSError(
            errno.EAFNOSUPPORT,
            f"cannot listen on unix:{path}: this system has no Unix sockets",
        )
    sock, file = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), None
    try:
        _bind_file(sock, path)
        file = SocketFile(path)
        sock.listen(min(backlog, _MAX_INT))
    except OSError as error:
        if file is not None:
            file.remove()
        sock.close()
        # No errno: the path did not fit into an address.
        number = error.errno or errno.ENAMETOOLONG
        reason = error.strerror or f"{error}, it has {len(os.fsencode(path))} bytes"
        raise OSError(number, f"cannot listen on unix:{path}: {reason}") from None
    return sock, file


def _bind_file(sock: socket.socket, path: str) -> None:
    try:
        sock.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        _check_stale(path)
        os.unlink(path)
        sock.bind(path)


def _check_stale(path: str) -> None:
    """Raise OSError unless the file is a socket without a listener."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise OSError(errno.EEXIST, "the file is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return
        except BlockingIOError:
            pass  # its backlog is full
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def take_over(sockets: Iterable[socket.socket], backlog: int) -> list[socket.socket]:
    """Listen on sockets that were bound elsewhere.

    Args:
        sockets: stream sockets, which may be listening already.
        backlog: connections that the system queues.

    Raises:
        TypeError: An item is not a socket.
        ValueError: A socket is not a stream socket.
        OSError: A socket cannot listen.
    """
    taken = list(sockets)
    for sock in taken:
        if not isinstance(sock, socket.socket):
            raise TypeError(f"sockets must hold sockets, not {sock!r}")
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"sockets must hold stream sockets, not {sock!r}")
    for sock in taken:
        sock.listen(min(backlog, _MAX_INT))
    return taken


def port_of(sock: socket.socket) -> int:
    """The port that a socket is bound to; 0 if it has none."""
    address = sock.getsockname()
    return address[1] if isinstance(address, tuple) else 0


def name_of(sock: socket.socket) -> str:
    """The address a socket listens on, for logs."""
    address = sock.getsockname()
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"{host}:{address[1]}"
    return f"unix:{os.fsdecode(address)}"


def limit_unsent(sock: socket.socket, size: int | None) -> None:
    """Limit a connection's unsent output in the kernel (TCP_NOTSENT_LOWAT).

    Accepted connections inherit it from the listening socket. Does nothing for Unix
    sockets, and where the system has no such option.

    Args:
        sock: listening or connected.
        size: bytes; None leaves it to the system, which takes megabytes.
    """
    option = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if size is None or option is None or sock.family not in _INTERNET:
        return
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, option, min(size, _MAX_INT))


def _send_at_once(sock: socket.socket) -> None:
    if sock.family in _INTERNET:
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Listener:
    """Accepts connections from one listening socket, in batches.

    Args:
        sock: bound and listening; the listener owns it from now on.
        on_accept: called with each connection, non-blocking, and its peer's address,
            and with what else `accept` returns.
        file: of a Unix socket, to be removed at the end.
        shared: another process may have the socket, too, such as systemd.
        batch: connections taken in one turn.
        accept: takes the next connection of a socket; returns None if that is all,
            else the arguments of `on_accept`. By default `accept_from`.
    """

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        on_accept: Callable[..., object],
        file: SocketFile | None = None,
        shared: bool = False,
        batch: int | None = None,
        accept: Callable[[socket.socket], tuple[Any, ...] | None] = accept_from,
    ) -> None:
        self._reactor = reactor
        self._sock = sock
        self._on_accept = on_accept
        self._file = file
        self._shared = shared
        self._batch = _BATCH if batch is None else batch
        self._pid = os.getpid()
        self._paused = False
        self._silent_until = -math.inf
        self._closed = False
        sock.setblocking(False)
        # Output is written whole, once per turn, so Nagle's algorithm only delays it.
        # On Linux accepted sockets inherit the option, which saves a call for each.
        self._inherits = sys.platform == "linux"
        _send_at_once(sock)
        self._accept_next = accept if self._inherits else accept_from
        self.watch()

    def watch(self) -> None:
        """Register with the loop; again after the loop was opened again."""
        self._reactor.register(self._sock, READ, self._on_ready)

    def own(self) -> None:
        """No other process has the socket any more."""
        self._shared = False

    def forget(self) -> None:
        """Close a forked process's copy of the socket."""
        self._closed = True
        self._sock.close()

    def close(self, backlog: bool = False) -> None:
        """Stop listening.

        Args:
            backlog: hand on the connections that wait to be accepted. They would be
                reset, although another process may listen on the port (SO_REUSEPORT).
        """
        if not self._closed:
            self._closed = True
            if not self._paused:
                self._reactor.unregister(self._sock)
            if self._file is not None:
                self._file.remove()
            waiting = self._take_backlog() if backlog and self._is_ours() else []
            self._sock.close()
            for sock, address in waiting:
                self._accept(sock, address)

    def _is_ours(self) -> bool:
        """Whether no other process has the socket, and accepts what waits there."""
        return not self._shared and self._pid == os.getpid()

    def _take_backlog(self) -> list[tuple[socket.socket, Any]]:
        """All that waits now, in one go: what comes until the close is lost."""
        taken: list[tuple[socket.socket, Any]] = []
        with suppress(OSError):  # nothing waits, or there are no more descriptors
            while len(taken) < _MAX_WAITING:
                taken.append(accept_from(self._sock))
        return taken

    def _on_ready(self, events: int) -> None:
        clock = self._reactor.clock
        latest = clock() + _LONG_BATCH
        for _ in range(self._batch):
            # Each may have run a handshake, with the user's `on_request`.
            if self._closed or self._reactor.interrupted or clock() > latest:
                return
            try:
                accepted = self._accept_next(self._sock)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return
                # ECONNABORTED and similar: only this peer is gone.
                continue
            if accepted is not None:
                self._accept(*accepted)

    def _accept(self, sock: socket.socket, address: Any, *more: Any) -> None:
        """Pass a connection on; close it if that fails."""
        try:
            if not self._inherits:
                _send_at_once(sock)
            self._on_accept(sock, address, *more)
        except Exception as error:
            kind = "connections could not be served"
            if self._reactor.repeats.may_say(kind, logging.ERROR):
                text = "the connection of %s cannot be served"
                logger.error(text, address, exc_info=error)
            sock.close()

    def _pause(self, error: OSError) -> None:
        """Pause accepting; otherwise the loop would spin: the socket stays readable."""
        now = self._reactor.time()
        if now >= self._silent_until:
            logger.warning("accepting is paused: %s", error.strerror)
            self._silent_until = now + _SILENCE
        self._paused = True
        self._reactor.unregister(self._sock)
        self._reactor.call_later(_PAUSE, self._resume)

    def _resume(self) -> None:
        if not self._closed:
            self._paused = False
            self._reactor.register(self._sock, READ, self._on_ready)
            self._on_ready(READ)
