"""A proxy between a node and its engine, or a browser and a server, for tests of the
network's faults."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from harness import DEADLINE

__all__ = ["Proxy"]


class Proxy:
    """Passes bytes on to a port of this machine, until it is told otherwise.

    Args:
        port: of the engine, or of a server.
        refused: a connection is answered with HTTP 403 when these bytes come.

    Attributes:
        url: of the engine through it.
        port: that it listens on.
    """

    def __init__(self, port: int, refused: bytes | None = None) -> None:
        self._target = port
        self._refused = refused
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}"
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        #: Of new connections; and of those that were detained.
        self._passing = threading.Event()
        self._passing.set()
        self._detained: list[threading.Event] = []
        #: Bytes that may still come from the engine; None: as many as it likes.
        self._left: int | None = None
        self._start(self._accept)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *error: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.release()
        self.cut()
        for thread in tuple(self._threads):
            thread.join(DEADLINE)

    def hold(self) -> None:
        """Read no more, and pass nothing on, until `release`."""
        self._passing.clear()

    def detain(self) -> None:
        """Likewise, but serve new connections: what was sent before comes late."""
        self._passing.clear()
        self._detained.append(self._passing)
        self._passing = threading.Event()
        self._passing.set()

    def release(self) -> None:
        for passing in (self._passing, *self._detained):
            passing.set()
        self._detained.clear()

    def cut(self) -> None:
        """Close all connections."""
        with self._lock:
            for sock in self._sockets:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def cut_after(self, size: int) -> None:
        """Close a connection when so many bytes more have come from the engine, on all
        of them."""
        with self._lock:
            self._left = size

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                node, _ = self._listening.accept()
            except OSError:
                return
            try:
                engine = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                node.close()
                continue
            with self._lock:
                self._sockets |= {node, engine}
            ended = threading.Barrier(2)
            passing = self._passing
            self._start(self._pass_on, node, engine, ended, passing, False)
            self._start(self._pass_on, engine, node, ended, passing, True)

    def _pass_on(
        self,
        source: socket.socket,
        to: socket.socket,
        ended: threading.Barrier,
        passing: threading.Event,
        from_engine: bool,
    ) -> None:
        with suppress(OSError):
            while True:
                passing.wait()
                data = source.recv(4096)
                passing.wait()
                last = not data
                if from_engine:
                    data, last = self._limit(data)
                elif self._refused is not None and self._refused in data:
                    source.sendall(
                        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
                    )
                    break
                to.sendall(data)
                if last:
                    break
        for sock in (source, to):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        ended.wait(DEADLINE)  # the other direction may use them until now
        with self._lock:
            self._sockets.discard(source)
        source.close()

    def _limit(self, data: bytes) -> tuple[bytes, bool]:
        """What may be passed on, and whether it is the last of its connection."""
        with self._lock:
            if self._left is None or len(data) < self._left:
                if self._left is not None:
                    self._left -= len(data)
                return data, not data
            data, self._left = data[: self._left], None
            return data, True
