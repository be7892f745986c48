"""Forked processes: what they do with their copies of our descriptors.

A process that is forked from a callback (multiprocessing, `os.fork`) has a copy of
every socket, of the epoll descriptor, and of the signal handlers. The run goes on in
the parent: the child forgets it. It closes its copies and must not touch more than
them: `shutdown` would end the parent's connections, and `epoll_ctl` change what the
parent waits for.
"""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakSet

__all__ = ["close_copy", "close_socket", "note"]

logger = logging.getLogger("simple_ws")


class Forgetful(Protocol):
    """What has descriptors."""

    def _on_fork(self) -> object:
        """This is a forked process: forget what belongs to the parent."""


_owners: WeakSet[Forgetful] = WeakSet()


def note(owner: Forgetful) -> None:
    """Have `owner._on_fork()` called in each process forked by Python from now on."""
    _owners.add(owner)


def close_socket(sock: Any) -> None:
    """Close a socket so that the peer sees its end.

    It would not while another process has a copy: `close` alone sends nothing then.
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


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
