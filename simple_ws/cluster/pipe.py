"""`Pipe`: JSON messages over the socket between the supervisor and one worker.

Nothing here waits: what the other end does not take at once stays in a buffer. When
to read is left to the supervisor's and to the worker's own loop.
"""

from __future__ import annotations

import json
import socket
import struct
from contextlib import suppress
from typing import Any

__all__ = ["Pipe"]

_LENGTH = struct.Struct(">I")
#: Bytes of one message; stats of ten thousand handlers take less.
_MAX_SIZE = 2**26
#: Bytes read in one step.
_CHUNK = 2**16
#: Seconds that a worker that ends waits for the supervisor to take its last message.
_LAST_WAIT = 1.0


class Pipe:
    """One end.

    Args:
        sock: one of a pair of stream sockets; the pipe owns it from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._input = bytearray()
        self._output = bytearray()

    @classmethod
    def pair(cls) -> tuple[Pipe, Pipe]:
        """Both ends of a new pipe.

        Raises:
            OSError: There are no more descriptors.
        """
        one, other = socket.socketpair()
        return cls(one), cls(other)

    def fileno(self) -> int:
        """The descriptor, for selectors."""
        return self._sock.fileno()

    def send(self, message: dict[str, Any], droppable: bool = False) -> None:
        """Send a message, now or when the other end has taken the earlier ones.

        Args:
            message: anything that JSON can encode.
            droppable: leave it out if earlier output still waits; another will follow.
        """
        self.flush()
        if droppable and self._output:
            return
        self._output += _encode(message)
        self.flush()

    def flush(self) -> None:
        """Write as much as the other end takes."""
        try:
            while self._output:
                del self._output[: self._sock.send(self._output)]
        except BlockingIOError:
            pass
        except OSError:  # the other end has gone, which `receive` tells
            self._output.clear()

    def send_last(self, message: dict[str, Any]) -> None:
        """Send a message, and wait until the other end has taken it; but not long."""
        self._output += _encode(message)
        with suppress(OSError):
            self._sock.settimeout(_LAST_WAIT)
            self._sock.sendall(self._output)

    def receive(self) -> tuple[list[dict[str, Any]], bool]:
        """Read all that has come.

        Returns:
            The messages, and whether the other end is still there.
        """
        there = True
        try:
            while data := self._sock.recv(_CHUNK):
                self._input += data
            there = False
        except BlockingIOError:
            pass
        except OSError:
            there = False
        messages = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages, there

    def _next(self) -> dict[str, Any] | None:
        if len(self._input) < _LENGTH.size:
            return None
        (size,) = _LENGTH.unpack_from(self._input)
        end = _LENGTH.size + size
        if len(self._input) < end:
            return None
        message: dict[str, Any] = json.loads(self._input[_LENGTH.size : end])
        del self._input[:end]
        return message

    def close(self) -> None:
        """Close this end."""
        self._sock.close()


def _encode(message: dict[str, Any]) -> bytes:
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > _MAX_SIZE:
        raise ValueError(f"a message of {len(data):,} bytes exceeds {_MAX_SIZE:,}")
    return _LENGTH.pack(len(data)) + data
