"""The listening sockets of `workers=N`: bound by the supervisor, and kept by it.

On Linux each worker has its own socket (SO_REUSEPORT), among which the system spreads
the connections. The supervisor keeps them open, so connections that wait in the queue
of a worker that has ended are accepted by its successor. Elsewhere SO_REUSEPORT does
not spread anything, and a Unix socket or one that was handed over is one: the workers
share it then, and accept few at a time, so that one of them does not take all.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

from ..loop.listener import SocketFile, bind, bind_unix, port_of

__all__ = ["ListeningSockets"]

#: Connections accepted in one turn from a socket that workers share.
_SHARED_BATCH = 8


class ListeningSockets:
    """The sockets of all workers.

    Args:
        sets: for each worker the sockets it listens on.
        shared: the sets are one and the same.
        file: of a Unix socket.
        given: they were bound elsewhere, where copies may be open.

    Attributes:
        sets, shared, given: see above.
        batch: connections to be accepted in one turn; None is the default.
    """

    def __init__(
        self,
        sets: Sequence[Sequence[socket.socket]],
        shared: bool,
        file: SocketFile | None = None,
        given: bool = False,
    ) -> None:
        self.sets = sets
        self.shared = shared
        self.given = given
        self.batch = _SHARED_BATCH if shared else None
        self._file = file

    @classmethod
    def one_for_all(
        cls,
        sockets: Sequence[socket.socket],
        count: int,
        file: SocketFile | None = None,
        given: bool = False,
    ) -> ListeningSockets:
        """The same sockets for each of `count` workers."""
        return cls([sockets] * count, True, file, given)

    @classmethod
    def bind_unix(cls, path: str, backlog: int, count: int) -> ListeningSockets:
        """A Unix socket; see `loop.listener.bind_unix`."""
        sock, file = bind_unix(path, backlog)
        return cls.one_for_all([sock], count, file)

    @classmethod
    def bind(
        cls, host: str, port: int, backlog: int, reuse_port: bool, count: int
    ) -> ListeningSockets:
        """Bind a port for `count` workers; see `loop.listener.bind`.

        Args:
            host: see there.
            port: see there.
            backlog: see there.
            reuse_port: other programs may listen on the port, too.
            count: of the workers.

        Raises:
            OSError: An address is not available; the message names it.
        """
        if not spreads_connections():
            return cls.one_for_all(bind(host, port, backlog, reuse_port), count)
        if port and not reuse_port:
            # With SO_REUSEPORT the port of another server would seem to be free.
            for sock in bind(host, port, backlog, reuse_port=False):
                sock.close()
        sets: list[list[socket.socket]] = []
        try:
            for _ in range(count):
                sets.append(bind(host, port, backlog, reuse_port=True))
                port = port_of(sets[0][0])
        except BaseException:
            _close(sets)
            raise
        return cls(sets, shared=False)

    @property
    def first(self) -> socket.socket:
        """One of them, whose address says where the server listens."""
        return self.sets[0][0]

    def keep_only(self, index: int | None) -> None:
        """Close a new process's copies of the sockets that are not its own.

        Args:
            index: of the worker that it is; None if it is none.
        """
        if index is None or not self.shared:
            _close([each for at, each in enumerate(self.sets) if at != index])

    def leave_to_others(self) -> None:
        """Another program has them: neither the file nor what waits is lost."""
        self._file, self.given = None, True

    def own_file(self, path: str) -> None:
        """The file of the Unix socket is this program's from now on."""
        self._file = SocketFile(path)

    def close(self) -> None:
        """Close all, and remove the file of a Unix socket."""
        if self._file is not None:
            self._file.remove()
        _close(self.sets)


def spreads_connections() -> bool:
    """Whether the system spreads connections among sockets with SO_REUSEPORT."""
    return sys.platform == "linux"


def _close(sets: Sequence[Sequence[socket.socket]]) -> None:
    for sockets in sets:
        for sock in sockets:
            sock.close()
