"""Connected sockets for the blocking client, within a deadline.

Names and addresses (RFC 8305), TLS, and waiting for one socket. All sockets are
non-blocking; what goes over them is left to `blocking`.
"""

from __future__ import annotations

import math
import os
import select
import selectors
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ssl import SSLContext, SSLSocket

__all__ = [
    "NEXT_ATTEMPT",
    "READ",
    "WRITE",
    "Socket",
    "dial",
    "dial_unix",
    "interleaved",
    "shake_tls",
    "start_tls",
    "wait_for",
]

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

#: Seconds after which the next address is tried while the previous one has not answered
#: (RFC 8305 §8).
NEXT_ATTEMPT = 0.25
#: Longest single wait in seconds: `poll` takes milliseconds as an int.
_LONG = 86400.0

#: Returns the seconds left until the deadline; raises once it has passed.
Left = Callable[[], float]


class Socket(Protocol):
    """The socket methods that the client needs, plain or with TLS."""

    def recv(self, size: int, /) -> bytes:
        """Receive; `BlockingIOError` if nothing is available."""

    def send(self, data: Any, /) -> int:
        """Send some of the data; `BlockingIOError` if there is no room."""

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""

    def getpeername(self) -> Any:
        """The address of the peer."""

    def shutdown(self, how: int, /) -> None:
        """End one direction or both."""

    def close(self) -> None:
        """Close it."""


def wait_for(sock: Socket, events: int, timeout: float | None) -> int:
    """Wait until a socket is ready.

    Args:
        sock: the socket to wait for.
        events: `READ` and `WRITE`.
        timeout: seconds; None waits for ever.

    Returns:
        The events it is ready for; errors and hang-ups count as both. 0 after the
        timeout, or earlier if that is very long.
    """
    timeout = _LONG if timeout is None else max(0.0, min(timeout, _LONG))
    if not hasattr(select, "poll"):
        return _select(sock, events, timeout)
    poll = select.poll()
    mask = (select.POLLIN if events & READ else 0) | (
        select.POLLOUT if events & WRITE else 0
    )
    poll.register(sock.fileno(), mask)
    ready = poll.poll(math.ceil(timeout * 1000))
    if not ready:
        return 0
    found: int = ready[0][1]
    if found & ~(select.POLLIN | select.POLLOUT):
        return events
    return (READ if found & select.POLLIN else 0) | (
        WRITE if found & select.POLLOUT else 0
    )


def _select(sock: Socket, events: int, timeout: float) -> int:
    """The same without `poll`, on Windows."""
    one = [sock.fileno()]
    reads, writes = one if events & READ else [], one if events & WRITE else []
    found = select.select(reads, writes, one, timeout)
    if found[2]:
        return events
    return (READ if found[0] else 0) | (WRITE if found[1] else 0)


def dial(
    host: str, port: int, source_address: tuple[str, int] | None, left: Left
) -> socket.socket:
    """Connect to the first address of a host that answers.

    Args:
        host: name or address. The system's name look-up has its own timeout.
        port: of the server.
        source_address: local address to connect from.
        left: seconds until the deadline.

    Raises:
        OSError: No address could be connected to.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    left()
    sock = _Race(found, source_address).run(left)
    # Messages are written whole: Nagle's algorithm would only delay them.
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def dial_unix(path: str, left: Left) -> socket.socket:
    """Connect to a Unix socket."""
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise OSError("this system has no Unix sockets")
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(left())
        sock.connect(path)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


class _Race:
    """Attempts to connect, each started a little after the previous one (RFC 8305 §5).

    Args:
        found: what `getaddrinfo` returned.
        source_address: local address to connect from.
    """

    def __init__(
        self, found: list[Any], source_address: tuple[str, int] | None
    ) -> None:
        self._waiting = deque(interleaved(found))
        self._source_address = source_address
        self._under_way: set[socket.socket] = set()
        self._errors: list[OSError] = []

    def run(self, left: Left) -> socket.socket:
        with selectors.DefaultSelector() as selector:
            try:
                while self._waiting or self._under_way:
                    self._begin_next(selector)
                    if not self._under_way:
                        continue
                    timeout = min(left(), NEXT_ATTEMPT) if self._waiting else left()
                    for key, _ in selector.select(timeout):
                        selector.unregister(key.fileobj)
                        if (winner := self._finish(key.fileobj)) is not None:
                            return winner
            finally:
                for sock in self._under_way:
                    sock.close()
        raise self._errors[-1]

    def _begin_next(self, selector: selectors.BaseSelector) -> None:
        if not self._waiting:
            return
        family, kind, protocol, _, address = self._waiting.popleft()
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)
            sock.setblocking(False)
            if self._source_address is not None:
                sock.bind(self._source_address)
            with suppress(BlockingIOError):
                sock.connect(address)
        except OSError as error:
            self._errors.append(error)
            if sock is not None:
                sock.close()
            return
        self._under_way.add(sock)
        selector.register(sock, selectors.EVENT_WRITE)

    def _finish(self, sock: Any) -> socket.socket | None:
        """The socket, if it has connected."""
        self._under_way.discard(sock)
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number == 0:
            winner: socket.socket = sock
            return winner
        self._errors.append(OSError(number, os.strerror(number)))
        sock.close()
        return None


def interleaved(found: list[Any]) -> list[Any]:
    """The addresses, alternating between families (RFC 8305 §4)."""
    families: dict[int, list[Any]] = {}
    for entry in found:
        families.setdefault(entry[0], []).append(entry)
    turns = chain.from_iterable(zip_longest(*families.values()))
    return [entry for entry in turns if entry is not None]


def start_tls(
    sock: socket.socket, context: SSLContext, server_hostname: str, left: Left
) -> BlockingTLSSocket:
    """Do the TLS handshake on a connected socket, which the result then owns.

    Raises:
        OSError: It failed (`ssl.SSLError`), or the connection was lost.
    """
    return BlockingTLSSocket(shake_tls(sock, context, server_hostname, left))


def shake_tls(
    sock: socket.socket, context: SSLContext, server_hostname: str, left: Left
) -> SSLSocket:
    """Likewise, with the socket of `ssl` as its result."""
    import ssl

    tls = context.wrap_socket(
        sock, server_hostname=server_hostname, do_handshake_on_connect=False
    )
    try:
        while True:
            try:
                tls.do_handshake()
                return tls
            except ssl.SSLWantReadError:
                wait_for(tls, READ, left())
            except ssl.SSLWantWriteError:
                wait_for(tls, WRITE, left())
    except BaseException:
        tls.close()
        raise


class BlockingTLSSocket:
    """A TLS socket with the behaviour of a plain non-blocking one.

    Only one thread may use it at a time: OpenSSL requires that.

    Args:
        sock: after its handshake, non-blocking.
    """

    def __init__(self, sock: SSLSocket) -> None:
        import ssl

        self._sock = sock
        self._blocks = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
        self.fileno = sock.fileno
        self.getpeername = sock.getpeername
        self.close = sock.close

    def recv(self, size: int, /) -> bytes:
        """Receive; `BlockingIOError` if nothing is available."""
        try:
            return self._sock.recv(size)
        except self._blocks as error:
            raise BlockingIOError from error

    def send(self, data: Any, /) -> int:
        """Send some of the data; `BlockingIOError` if there is no room.

        After that, the same data must be passed again: OpenSSL may hold some of it.
        """
        try:
            return self._sock.send(data)
        except self._blocks as error:
            raise BlockingIOError from error

    def shutdown(self, how: int, /) -> None:
        """End the connection below TLS, in both directions whatever `how` says.

        Ending one direction alone is not possible: `ssl` would return raw bytes then.
        """
        if how == socket.SHUT_RDWR:
            self._sock.shutdown(how)
