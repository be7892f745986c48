"""The broker of `workers=N` without an engine: messages between processes of a machine.

It speaks the part of Redis's protocol that `redis_engine` and `Publisher` use, on a
Unix socket that only this user can reach, and is a process of its own: when it is
killed, the supervisor starts another on the same socket, and the links connect again.

    supervisor: listening = BrokerSocket()      # before it forks
    broker:     run_broker(listening.sock, listening.secret, parent=sock)
    workers:    connect to listening.path, with listening.secret as the password

What is published to a channel without subscribers is dropped. The histories of topics
are in its memory, and end with it (`broker_history`).
"""

from __future__ import annotations

import errno
import gc
import hmac
import logging
import os
import secrets
import shutil
import signal
import socket
import stat
import struct
import tempfile
import time
from contextlib import suppress
from glob import glob
from itertools import count
from typing import Any

from ..loop.listener import Listener, bind_unix
from ..loop.reactor import READ, Reactor
from .broker_connection import BrokerConnection
from .broker_history import Histories

__all__ = ["Broker", "BrokerSocket", "run_broker"]

logger = logging.getLogger("simple_ws")

#: Connections that wait to be accepted, while a killed broker is replaced.
_BACKLOG = 1024
#: Seconds between two signs of life.
HEARTBEAT = 1.0
#: Seconds between two looks for messages that have expired, and topics of one look.
_SWEEP, _SWEPT = 1.0, 2000
#: Names of the directory and of the socket in it.
_PREFIX, _NAME = "simple_ws-", "broker"
#: Seconds in which a directory is new.
_NEW = 60.0
#: The level of LOCAL_PEERCRED, and bytes of its `struct xucred` (sys/ucred.h).
_SOL_LOCAL, _XUCRED_SIZE = 0, 76


class BrokerSocket:
    """The listening socket of a broker, in a directory that only this user can enter.

    It is the supervisor's, so that it outlives each broker.

    Attributes:
        sock: bound and listening.
        path: for clients.
        secret: their password.

    Raises:
        OSError: The directory or the socket cannot be made.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        _remove_stale()
        self._directory = tempfile.mkdtemp(prefix=_PREFIX)  # of mode 0700
        self.path = os.path.join(self._directory, _NAME)
        try:
            self.sock, self._file = bind_unix(self.path, _BACKLOG)
        except BaseException:
            self._remove_directory()
            raise
        self.secret = secrets.token_hex(32)

    def close(self) -> None:
        """Close it and remove its file; a forked process leaves the file."""
        self.sock.close()
        if self._pid == os.getpid():
            self._remove_directory()

    def _remove_directory(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


def _remove_stale() -> None:
    """Remove what supervisors that were killed have left."""
    for path in glob(os.path.join(tempfile.gettempdir(), f"{_PREFIX}*", _NAME)):
        directory = os.path.dirname(path)
        with suppress(OSError):  # it is another user's, or somebody else was faster
            status = os.lstat(directory)
            ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
            # One that was made just now may be bound, and not listen yet.
            if ours and time.time() - status.st_mtime > _NEW and _refuses(path):
                os.unlink(path)
                os.rmdir(directory)


def _refuses(path: str) -> bool:
    """Whether it is a socket on which nobody listens."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED


class Broker:
    """Passes messages on between its connections.

    Args:
        reactor: open; drives it.
        sock: a Unix socket, bound and listening, shared with other processes; None: all
            its connections are made by `connect`.
        secret: the password of clients.
    """

    def __init__(
        self, reactor: Reactor, sock: socket.socket | None, secret: str
    ) -> None:
        self.channels: dict[bytes, dict[BrokerConnection, None]] = {}
        self.connections: set[BrokerConnection] = set()
        self.histories = Histories()
        self._reactor = reactor
        self._secret = secret.encode()
        self._numbers = count(1)
        self._listener: Listener | None = None
        if sock is not None:
            self._listener = Listener(reactor, sock, self._on_accept, shared=True)
        self._sweeping = reactor.call_later(_SWEEP, self._sweep)

    def connect(self) -> socket.socket:
        """Return a new connection to it, in the thread of its loop.

        Raises:
            OSError: There are no more descriptors.
        """
        theirs, ours = socket.socketpair()
        self._add(ours)
        return theirs

    def close(self) -> None:
        """Close all connections, and stop listening."""
        self._sweeping.cancel()
        if self._listener is not None:
            self._listener.close()
        for connection in list(self.connections):
            connection.close()

    def forget(self) -> None:
        """Close a forked process's copies of the connections."""
        for connection in self.connections:
            connection.forget()

    def is_secret(self, password: bytes) -> bool:
        """Whether it is the password."""
        return hmac.compare_digest(password, self._secret)

    def remove(self, connection: BrokerConnection) -> None:
        """It is closed."""
        self.connections.discard(connection)

    def _on_accept(self, sock: socket.socket, address: Any) -> None:
        user = _user_of(sock)
        if user not in (None, 0, os.geteuid()):
            logger.warning("the broker refuses a connection of user %d", user)
            sock.close()
        else:
            self._add(sock)

    def _sweep(self) -> None:
        self.histories.sweep(self._reactor.time(), _SWEPT)
        self._sweeping = self._reactor.call_later(_SWEEP, self._sweep)

    def _add(self, sock: socket.socket) -> None:
        number = next(self._numbers)
        self.connections.add(BrokerConnection(sock, self._reactor, self, number))


def _user_of(sock: socket.socket) -> int | None:
    """The user of the process that has connected; None where the system tells none.

    The directory and the password keep others out, too.
    """
    linux = getattr(socket, "SO_PEERCRED", None)
    bsd = getattr(socket, "LOCAL_PEERCRED", None)
    with suppress(OSError):
        if linux is not None:
            data = sock.getsockopt(socket.SOL_SOCKET, linux, 12)
            return int(struct.unpack("iII", data)[1])  # process, user, group
        if bsd is not None:
            data = sock.getsockopt(_SOL_LOCAL, bsd, _XUCRED_SIZE)
            return int(struct.unpack_from("II", data)[1])  # version, user, …
    return None


def run_broker(sock: socket.socket, secret: str, parent: socket.socket) -> None:
    """Serve as the broker, in a process of its own, until the parent has ended.

    Signals that end a program are ignored: a terminal or systemd sends them to all
    processes at once, and workers that drain still need it. It ends with the parent.

    Args:
        sock: of `BrokerSocket`.
        secret: of it.
        parent: one of a pair, whose other end only the parent has open: its end ends
            the broker. A byte each `HEARTBEAT` seconds says that the loop turns.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    gc.freeze()  # what the parent has left is not ours to look through
    parent.setblocking(False)
    reactor = Reactor()
    reactor.open()
    broker = Broker(reactor, sock, secret)
    ended = False

    def on_parent(events: int) -> None:
        nonlocal ended
        ended = _is_at_end(parent)
        reactor.want_attention()

    def beat() -> None:
        with suppress(OSError):  # the parent stands still, or has ended
            parent.send(b".")
        reactor.call_later(HEARTBEAT, beat)

    reactor.register(parent, READ, on_parent)
    beat()
    try:
        while not ended:
            reactor.run_turns()
    finally:
        broker.close()
        reactor.close()


def _is_at_end(sock: socket.socket) -> bool:
    """Whether nothing more can come from a socket that is ready."""
    try:
        return not sock.recv(4096)
    except BlockingIOError:
        return False
    except OSError:
        return True
