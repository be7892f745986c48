"""`Pipe`: the bytes of a response on their way from a worker thread to the loop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

from ..protocol.http_body import IncompleteResponse

__all__ = ["Gone", "Pipe", "Waiting"]

#: Bytes of a response that may wait for the peer before the application is paused; most
#: pages are smaller.
_MAX_WAITING = 256 * 1024
#: Bytes still waiting when the application continues.
_FEW_WAITING = _MAX_WAITING // 2
#: Bytes passed to the socket at once.
_PIECE = 64 * 1024

Waiting = AbstractContextManager[None]


class Gone(Exception):
    """The client does not read the response any more."""


class Pipe:
    """Bytes of a response between a worker and the loop (`http_body.Source`).

    Args:
        on_bytes: called in the worker when there are some after `read` found none.
        park: makes the context that a worker is in while it waits.
    """

    def __init__(
        self, on_bytes: Callable[[], object], park: Callable[[], Waiting]
    ) -> None:
        self._on_bytes = on_bytes
        self._park = park
        self._changed = threading.Condition()
        self._pieces: deque[bytes | memoryview] = deque()
        self._size = 0
        self._asked = False
        self._closed = self._ended = self._failed = False

    # In the worker

    def put(self, data: bytes, *, wait: bool = True) -> None:
        """Add bytes, always the whole piece: it is in memory already.

        Args:
            data: not empty.
            wait: until the peer has read enough of the earlier bytes.

        Raises:
            Gone: The peer has disconnected, or reads too little.
        """
        if wait and self._is_full():
            with self._park(), self._changed:
                # The loop watches the deadline, and closes this when it has passed.
                self._changed.wait_for(lambda: self._size <= _FEW_WAITING)
        with self._changed:
            if self._closed:
                raise Gone
            self._pieces.append(data)
            self._size += len(data)
        self._tell()

    def _is_full(self) -> bool:
        with self._changed:
            return self._size >= _MAX_WAITING

    def end(self, *, failed: bool = False) -> None:
        """There are no more bytes, because it is complete or the application failed."""
        with self._changed:
            self._failed = failed and not self._ended
            self._ended = True
        self._tell()

    def _tell(self) -> None:
        with self._changed:
            asked, self._asked = self._asked, False
        if asked:
            self._on_bytes()

    # In the loop

    def read(self) -> bytes | None:
        """See `protocol.http_body.Source`."""
        with self._changed:
            if self._pieces:
                return self._take()
            if self._failed:
                raise IncompleteResponse("the application failed")
            self._asked = not self._ended
            return b"" if self._ended else None

    def _take(self) -> bytes:
        pieces: list[bytes | memoryview] = []
        size = 0
        while self._pieces and size < _PIECE:
            piece = self._pieces.popleft()
            room = _PIECE - size
            if len(piece) > room:  # the rest is copied later
                piece = memoryview(piece)
                self._pieces.appendleft(piece[room:])
                piece = piece[:room]
            pieces.append(piece)
            size += len(piece)
        self._size -= size
        if self._size <= _FEW_WAITING:
            self._changed.notify()
        return b"".join(pieces)

    def close(self) -> None:
        """No more is read; the worker notices with its next piece."""
        with self._changed:
            self._closed = True
            self._pieces.clear()
            self._size = 0
            self._changed.notify()
