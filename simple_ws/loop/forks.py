"""Forked processes: closing their copies of the descriptors.

A process that is forked from a callback (multiprocessing, `os.fork`) has a copy of
every socket, of the epoll descriptor, and of the signal handlers. The run continues
in the parent; the child forgets it. It only closes its copies: `shutdown` would end the
parent's connections, and `epoll_ctl` would change what the parent waits for.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakSet

__all__ = ["close_copy", "close_socket", "note"]

logger = logging.getLogger("simple_ws")


class Forgetful(Protocol):
    """An object that owns descriptors."""

    def _on_fork(self) -> object:
        """This is a forked process: forget what belongs to the parent."""


_owners: WeakSet[Forgetful] = WeakSet()


def note(owner: Forgetful) -> None:
    """Call `owner._on_fork()` in each process forked by Python from now on."""
    _owners.add(owner)


def close_socket(sock: Any) -> None:
    """Close a socket so that the peer sees its end.

    `close` alone sends nothing while another process has a copy.
    """
    if type(sock) is socket.socket:
        with suppress(OSError):  # the peer has gone before
            sock.shutdown(socket.SHUT_RDWR)
    sock.close()  # a `TLSSocket` does both


def close_copy(sock: Any) -> None:
    """Close a forked process's copy of a socket."""
    getattr(sock, "close_copy", sock.close)()


def _forget_all() -> None:
    for owner in list(_owners):
        try:
            owner._on_fork()
        except Exception:
            logger.exception("a forked process could not close its copies")


class _SignalMask(threading.local):
    """Keeps signals that stop a program waiting while a fork is under way.

    One that reached the child between the fork and `_forget_all` would find a handler
    of the parent's, be noted, and then be lost, because that handler is given back.
    Each thread has a mask of its own, and may fork while another does.
    """

    def __init__(self) -> None:
        self._before: set[Any] | None = None

    def block(self) -> None:
        if _owners:
            stops = {signal.SIGTERM, signal.SIGINT}
            self._before = signal.pthread_sigmask(signal.SIG_BLOCK, stops)

    def restore(self) -> None:
        before, self._before = self._before, None
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


if hasattr(os, "register_at_fork"):
    _mask = _SignalMask()

    def _begin_in_child() -> None:
        _forget_all()
        _mask.restore()

    os.register_at_fork(
        before=_mask.block,
        after_in_parent=_mask.restore,
        after_in_child=_begin_in_child,
    )
