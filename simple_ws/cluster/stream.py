"""A connected socket for the reactor: what it waits for, plain or with TLS.

`Stream` and `TLSStream` give the same answers: None where nothing has come, 0 where
nothing was taken, and in `events` what to wait for next. When to call is left to
`link`.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..loop.reactor import READ, WRITE

if TYPE_CHECKING:
    from ssl import SSLSocket

__all__ = ["Stream", "TLSStream", "open_stream"]

_ABORT = struct.pack("ii", 1, 0)  # struct linger: on, for 0 seconds


class Stream:
    """A plain socket.

    Args:
        sock: connected; this object owns it from now on.

    Attributes:
        blocked: output waits until the socket is ready; to be reset then.
    """

    #: Whether input is to be looked for after any event, not only after `READ`.
    entangled = False

    def __init__(self, sock: Any) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.blocked = False

    @property
    def events(self) -> int:
        """What to wait for."""
        return READ | WRITE if self.blocked else READ

    @property
    def pending(self) -> bool:
        """Whether input waits here, which no selector can see."""
        return False

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return int(self._sock.fileno())

    def recv(self, size: int) -> bytes | None:
        """Receive; None if nothing is available, b"" at the end.

        Raises:
            OSError: The connection is lost.
        """
        try:
            return bytes(self._sock.recv(size))
        except (BlockingIOError, InterruptedError):
            return None

    def send(self, data: bytes | memoryview) -> int:
        """Send some of the data; 0 if there is no room.

        Raises:
            OSError: The connection is lost.
        """
        try:
            sent = int(self._sock.send(data))
        except (BlockingIOError, InterruptedError):
            sent = 0
        self.blocked = sent < len(data)
        return sent

    def abort(self) -> None:
        """Close it, and have the system drop what it has not sent.

        A message that counts as unsure must not reach the peer seconds later.
        """
        with suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        self.close()

    def close(self) -> None:
        """Close it; the system sends what it has."""
        with suppress(OSError):
            self._sock.close()


class TLSStream(Stream):
    """A TLS socket after its handshake. One thread at a time may use it.

    Either direction may have to wait for the other one (RFC 8446 §4.6.3, and
    renegotiation before it), so after any event both are to be tried.
    """

    entangled = True

    def __init__(self, sock: SSLSocket) -> None:
        import ssl  # some builds of Python lack it

        super().__init__(sock)
        self._want_read, self._want_write = ssl.SSLWantReadError, ssl.SSLWantWriteError
        self._recv_writes = self._send_reads = False

    @property
    def events(self) -> int:
        """What to wait for."""
        # A socket that is readable already would not let the loop sleep.
        if self._recv_writes:
            return WRITE
        return READ | WRITE if self.blocked and not self._send_reads else READ

    @property
    def pending(self) -> bool:
        """Whether input waits here, which no selector can see."""
        return bool(self._sock.pending())

    def recv(self, size: int) -> bytes | None:
        """See `Stream.recv`; at most one record."""
        self._recv_writes = False
        try:
            return bytes(self._sock.recv(size))
        except self._want_read:
            return None
        except self._want_write:
            self._recv_writes = True
            return None

    def send(self, data: bytes | memoryview) -> int:
        """See `Stream.send`. After 0, the same data must be passed again."""
        self._send_reads = False
        try:
            sent = int(self._sock.send(data))
        except self._want_write:
            sent = 0
        except self._want_read:
            sent, self._send_reads = 0, True
        self.blocked = not sent  # some is one record: there may be room for more
        return sent


def open_stream(sock: Any) -> Stream:
    """The stream of a connected socket, plain or `ssl.SSLSocket`."""
    return TLSStream(sock) if hasattr(sock, "pending") else Stream(sock)
