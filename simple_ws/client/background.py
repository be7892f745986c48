"""One thread for all blocking connections: it keeps those alive that nobody uses.

A program that computes for a minute between two calls would not answer pings, and the
server would give it up.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import Protocol
from weakref import WeakSet

__all__ = ["KeepaliveThread", "keepalive_thread"]

logger = logging.getLogger("simple_ws")

#: Seconds between two looks at a connection: how late a pong may be.
_PERIOD = 1.0


class KeptAlive(Protocol):
    """A connection."""

    def _do_what_is_due(self) -> None:
        """Do what is due now, without waiting, unless a thread is in a call of it."""


class KeepaliveThread:
    """Looks at connections, as long as there are some; every method is thread-safe."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        """Begin anew; also in a child after a fork: the parent's are not its own."""
        # Re-entrant: `__del__` of the user's may close a connection at any moment.
        self._lock = threading.RLock()
        self._connections: WeakSet[KeptAlive] = WeakSet()
        self._thread: threading.Thread | None = None
        self._no_more = threading.Event()

    def add(self, connection: KeptAlive) -> None:
        """Look at this connection as well; it is not kept alive by that."""
        with self._lock:
            self._connections.add(connection)
            if self._thread is None:
                self._no_more = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=[self._no_more], daemon=True
                )
                self._thread.name = "simple_ws keep-alive"
                self._thread.start()

    def remove(self, connection: KeptAlive) -> None:
        """Look at it no more; the thread ends with the last one."""
        with self._lock:
            self._connections.discard(connection)
            self._end_if_idle()

    def _end_if_idle(self) -> bool:
        if not self._connections:
            self._thread = None
            self._no_more.set()
        return self._no_more.is_set()

    def _run(self, no_more: threading.Event) -> None:
        while not no_more.wait(_PERIOD):
            self._look_at_all()
            with self._lock:
                if no_more.is_set() or self._end_if_idle():
                    return

    def _look_at_all(self) -> None:
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            try:
                connection._do_what_is_due()
            except Exception:
                logger.exception("%r cannot be kept alive", connection)


keepalive_thread = KeepaliveThread()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=keepalive_thread._forget)
