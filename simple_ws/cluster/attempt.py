"""An attempt to connect, in a thread of its own, that can be given up at any moment.

Looking up names and connecting block; nothing else of a link does. The thread's only
way back is `done`, called in that thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["Attempt", "Connect", "start_thread"]

#: Connects and returns the socket, or raises; it looks now and then whether the attempt
#: is cancelled, and raises then. For a thread.
Connect = Callable[[Callable[[], bool]], Any]


def start_thread(function: Callable[[], object]) -> None:
    """Call a function in a daemon thread."""
    threading.Thread(target=function, name="simple_ws engine", daemon=True).start()


class Attempt:
    """One attempt; `run` is for the thread, everything else for its owner's.

    Args:
        connect: see `Connect`.
        done: called when it has ended, and was not cancelled before.
    """

    def __init__(self, connect: Connect, done: Callable[[Attempt], object]) -> None:
        self._connect, self._done = connect, done
        self._lock = threading.Lock()
        self._cancelled = False
        self._sock: Any = None
        #: Why it failed.
        self.error: Exception | None = None

    def run(self) -> None:
        """Connect, and say that it is done."""
        try:
            sock = self._connect(lambda: self._cancelled)
        except Exception as error:
            self.error = error
        else:
            with self._lock:
                self._sock = sock
                if self._cancelled:
                    self._close()
        if not self._cancelled:
            self._done(self)

    def take(self) -> Any:
        """The socket, which belongs to the caller from now on; None without one."""
        sock, self._sock = self._sock, None
        return sock

    def cancel(self) -> None:
        """Give it up: its socket is closed, now or once it is there."""
        with self._lock:
            self._cancelled = True
            self._close()

    def forget(self) -> None:
        """Close a forked process's copy; its thread does not exist here, but may have
        held the lock."""
        self._cancelled = True
        self._close()

    def _close(self) -> None:
        sock = self.take()
        if sock is not None:
            with suppress(OSError):
                sock.close()
