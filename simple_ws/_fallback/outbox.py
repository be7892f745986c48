"""Output that waits to be sent to one peer; the twin of `_c/outbox.pxi`."""

from __future__ import annotations

import socket
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import Any

from .loop import Counters, LoopState

__all__ = ["Outbox"]

_CONTROL = 0x08

#: Bytes of `write_limit` that each waiting message counts at least, except for a few:
#: each is an object, and a million one-byte messages would take 100 MB.
_MESSAGE_COST = 64
_FEW_MESSAGES = 64
#: Up to this size waiting frames are joined and sent at once; beyond it, copying costs
#: more than a scatter/gather call.
_JOIN_LIMIT = 64 * 1024
#: Buffers of one scatter/gather call; systems take 1,024 (IOV_MAX), few are needed.
_MAX_BUFFERS = 64

_nobody = Counters()


class Outbox:
    """Messages and control frames that the system has not taken yet.

    Args:
        sock: the socket they are written to.
        loop: counts the waiting output of all connections.
        write_limit: bytes that may wait; fewer if there are very many messages.
    """

    __slots__ = (
        "_checked_counters",
        "_half_full",
        "_latest",
        "_loop",
        "_many",
        "_offering",
        "_outbox",
        "_popped",
        "_sock",
        "_waiting",
        "_write_limit",
        "_writing",
        "bytes_sent",
    )

    def __init__(self, sock: socket.socket, loop: LoopState, write_limit: int) -> None:
        self._sock = sock
        self._loop = loop
        self._write_limit = write_limit
        #: Bytes and messages beyond which the system is asked to take some.
        self._half_full = write_limit >> 1
        self._many = (_FEW_MESSAGES + write_limit // _MESSAGE_COST) >> 1
        self._checked_counters = _nobody  # what `_counters` has checked
        # One entry for each message or control frame; only the first may be partly
        # sent, and is a memoryview then.
        self._outbox: deque[bytes | memoryview] = deque()
        self._popped = 0  # messages that have left its front
        self._latest: Any = None  # no message here is of a slot; a `latest.Latest`
        self._waiting = 0
        self._writing = False  # output is being written: re-entrant calls only queue
        self._offering = 0  # bytes at the front passed to the socket's method
        self.bytes_sent = 0

    @property
    def buffered_amount(self) -> int:
        """Bytes of output that the system has not taken yet."""
        return self._waiting

    @property
    def _counters(self) -> Counters:
        return self._checked_counters

    @_counters.setter
    def _counters(self, counters: Counters) -> None:
        if not isinstance(counters, Counters):
            raise TypeError(f"counters must be Counters, not {counters!r}")
        self._checked_counters = counters

    def _has_too_many(self) -> bool:
        """Whether so many messages wait that their objects exceed their bytes."""
        return len(self._outbox) > _FEW_MESSAGES + self._write_limit // _MESSAGE_COST

    def _next_offer(self) -> bytes | memoryview | list[bytes | memoryview]:
        """The next output for the system: one buffer, or several to gather."""
        outbox = self._outbox
        if self._waiting <= _JOIN_LIMIT:
            return b"".join(outbox)
        if not hasattr(self._sock, "sendmsg"):
            return outbox[0]
        while True:
            with suppress(RuntimeError):  # a signal handler has added one meanwhile
                return list(islice(outbox, _MAX_BUFFERS))

    def _consume(self, sent: int) -> None:
        """Remove sent bytes from the outbox."""
        outbox = self._outbox
        self._waiting -= sent
        self._loop.buffered -= sent
        self.bytes_sent += sent
        self._checked_counters.bytes_sent += sent
        if not self._waiting:
            self._latest = None
            outbox.clear()
            return
        while sent:
            size = len(outbox[0])
            if sent < size:
                outbox[0] = memoryview(outbox[0])[sent:]
                return
            self._popped += 1  # before: a signal handler may run after any call
            outbox.popleft()
            sent -= size

    def _begun(self) -> int:
        """Messages at the front that must leave: sent in part, or passed to the
        socket's method."""
        if not self._offering:
            # Without a call in between: it may be emptied by a signal handler.
            first = self._outbox[0] if self._outbox else None
            return 1 if isinstance(first, memoryview) else 0
        covered = count = 0
        # A copy that no signal handler changes meanwhile; likewise below.
        for frame in self._outbox.copy():
            if covered >= self._offering and not isinstance(frame, memoryview):
                break
            covered += len(frame)
            count += 1
        return count

    def _unfinished(self) -> int:
        """Bytes left of messages that were sent in part, or are being sent."""
        return sum(map(len, islice(self._outbox.copy(), self._begun())))

    def _drop_oldest(self, excess: int) -> int:
        """Drop messages, the oldest first, until at least `excess` bytes are gone.

        Messages sent in part must be finished; messages being sent and control frames
        stay.

        Returns:
            How many messages were dropped.
        """
        if self._writing and not self._offering:
            return 0  # called by code that interrupts a write: only queue
        outer, self._writing = self._writing, True
        try:
            return self._drop_until(excess)
        finally:
            self._writing = outer

    def _drop_until(self, excess: int) -> int:
        outbox, gone, dropped, begun = self._outbox, 0, 0, self._begun()
        stays: list[bytes | memoryview] = []
        latest = self._latest
        if latest is not None:
            latest.marks.clear()
        while outbox and gone < excess:
            if latest is not None:
                latest.forget_place(self._popped)
            self._popped += 1
            frame = outbox.popleft()
            if len(stays) < begun or frame[0] & _CONTROL:
                stays.append(frame)
            else:
                size = len(frame)
                gone += size
                self._waiting -= size
                self._loop.buffered -= size
                dropped += 1
        if self._waiting:  # no other code has emptied it meanwhile
            self._popped -= len(stays)
            outbox.extendleft(reversed(stays))
        return dropped

    def _discard_output(self) -> None:
        waiting, self._waiting = self._waiting, 0
        self._loop.buffered -= waiting
        self._offering = 0
        self._latest = None
        self._outbox.clear()
