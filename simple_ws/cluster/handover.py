"""Handing the listening sockets over to the program's next version (SIGUSR2).

The old supervisor starts the program again, as it was started itself, with its sockets
open; an environment variable says which they are. When all workers of the new one
serve, it says so by a pipe, and the old one stops its own. If it ends before, nothing
has changed.

    old: starts it ───────────► new: `received` in `listen`
    old: reads the pipe ◄────── new: `Received.tell_ready`
    old: stops gracefully            serves on the same sockets

When to do it is left to the supervisor.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..loop.listener import bind, port_of
from .slot import ending
from .sockets import ListeningSockets

__all__ = ["Handover", "Received", "received", "starter"]

#: Of the environment.
_VARIABLE = "SIMPLE_WS_HANDOVER"


class Handover:
    """The new program, as the old supervisor sees it.

    Args:
        pid: of the program.
        pipe: becomes readable when it serves, or has ended.

    Attributes:
        pid: see above.
    """

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self._pipe = pipe

    def fileno(self) -> int:
        """The descriptor, for selectors."""
        return self._pipe

    def wait_for_word(self) -> str | None:
        """Once it is readable: None if the program serves, else how it has ended."""
        if os.read(self._pipe, 1):
            return None
        with suppress(ChildProcessError):  # the program waits for all its children
            _, status = os.waitpid(self.pid, 0)  # it has closed the pipe by its end
            return ending(os.waitstatus_to_exitcode(status))
        return "it has ended"

    def terminate(self) -> None:
        """End it."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)

    def announce(self) -> None:
        """Tell systemd which process the service is now (sd_notify(3)).

        Otherwise the end of the old one would be that of the service.
        """
        address = os.environ.get("NOTIFY_SOCKET")
        if not address:
            return
        if address.startswith("@"):  # Linux's abstract names
            address = "\0" + address[1:]
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.sendto(b"MAINPID=%d" % self.pid, address)

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._pipe)


def starter(sockets: ListeningSockets, key: list[Any]) -> Callable[[], Handover] | None:
    """What starts this program once more, with the sockets; it may raise OSError.

    Args:
        sockets: of the workers.
        key: what the new program must want to listen on, to be given them.

    Returns:
        None where SIGUSR2 is the program's own, or the system cannot start programs so.
    """
    if not hasattr(os, "posix_spawn") or not sys.executable:
        return None
    if signal.getsignal(signal.SIGUSR2) != signal.SIG_DFL:
        return None
    return partial(_start, sockets, key)


def _start(sockets: ListeningSockets, key: list[Any]) -> Handover:
    pipe, ready = os.pipe()
    sets = [[sock.fileno() for sock in each] for each in sockets.sets]
    facts = {
        "parent": os.getpid(),
        "key": key,
        "sets": sets[:1] if sockets.shared else sets,
        "shared": sockets.shared,
        "given": sockets.given,
        "ready": ready,
    }
    environment = {**os.environ, _VARIABLE: json.dumps(facts)}
    try:
        with _inheritable([ready, *(each for some in sets for each in some)]):
            pid = os.posix_spawn(sys.executable, sys.orig_argv, environment)
    except BaseException:
        os.close(pipe)
        raise
    finally:
        os.close(ready)
    return Handover(pid, pipe)


@contextmanager
def _inheritable(descriptors: list[int]) -> Iterator[None]:
    """This process has no other thread that could start a program meanwhile."""
    for each in descriptors:
        os.set_inheritable(each, True)
    try:
        yield
    finally:
        for each in descriptors:
            os.set_inheritable(each, False)


@dataclass
class Received:
    """What the new program was given.

    Attributes:
        sets: the sockets, as in `ListeningSockets`; of a single worker if `shared`.
        shared, given: as there.
        key: what they were opened for.
    """

    sets: list[list[socket.socket]]
    shared: bool
    given: bool
    key: list[Any]
    _ready: int

    def adopt(self, count: int, host: str, backlog: int) -> ListeningSockets:
        """Listen on the sockets.

        Connections wait in each, so none may be dropped where there are fewer workers
        than before.

        Args:
            count: of the workers.
            host: see `loop.listener.bind`; for workers that are more than before.
            backlog: see there.

        Raises:
            OSError: A socket for another worker cannot be opened.
        """
        sets = self.sets
        if self.shared:
            return ListeningSockets.one_for_all(sets[0], count, given=self.given)
        for number, left in enumerate(sets[count:]):
            sets[number % count] += left
        del sets[count:]
        while len(sets) < count:
            sets.append(bind(host, port_of(sets[0][0]), backlog, reuse_port=True))
        return ListeningSockets(sets, shared=False)

    def tell_ready(self) -> None:
        """Have the old supervisor stop."""
        with suppress(OSError):  # it has ended
            os.write(self._ready, b"1")
        self.leave()

    def leave(self) -> None:
        """Close the pipe, such as in a worker, which has no use for it."""
        if self._ready >= 0:
            os.close(self._ready)
            self._ready = -1

    def refuse(self) -> None:
        """Close the sockets: they are not what the program wants."""
        for each in self.sets:
            for sock in each:
                sock.close()


def received() -> Received | None:
    """What an old supervisor has handed over to this program; None the second time."""
    text = os.environ.pop(_VARIABLE, None)
    if text is None:
        return None
    facts = json.loads(text)
    if facts["parent"] != os.getppid():  # the variable has come further than its pipe
        return None
    ready = facts["ready"]
    os.set_inheritable(ready, False)
    sets = [list(map(_open, each)) for each in facts["sets"]]
    return Received(sets, facts["shared"], facts["given"], facts["key"], ready)


def _open(descriptor: int) -> socket.socket:
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)
