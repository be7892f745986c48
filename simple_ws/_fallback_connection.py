"""The byte path of a connection in pure Python: socket, frames, callback, outbox.

`ConnectionCore` carries the
ordinary case by itself: a whole data message in one frame is unmasked and handed to the
callback, and what is written in return waits in the outbox until the loop flushes it,
once a turn. All else (control frames, fragments, compression, faults, closing) goes to
`protocol` through `_receive_odd`. What a connection is besides (identity, topics,
heartbeat, its end) is added by `connection`.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from itertools import islice
from threading import get_ident
from typing import Any

from ._fallback_codecs import apply_mask
from .constants import MAX_READ, Opcode, SendStatus, State
from .errors import ProtocolError
from .messages import encode_message

__all__ = ["ConnectionCore", "LoopState", "Poller"]

_PONG_FRAME = 0x8A
_READ, _WRITE = 1, 2  # selectors.EVENT_READ and EVENT_WRITE
_TEXT = int(Opcode.TEXT)
_OPEN = int(State.OPEN)
_FINAL_TEXT = 0x80 | _TEXT
_FINAL_BINARY = 0x80 | int(Opcode.BINARY)

#: Up to here waiting frames are joined and sent at once; beyond, copying costs more
#: than a scatter/gather call.
_JOIN_LIMIT = 64 * 1024
#: Buffers of one scatter/gather call; systems take 1,024 (IOV_MAX), few need them.
_MAX_BUFFERS = 64


#: There is no selector of ours in Python: the platform's serves.
Poller: Any = None


class LoopState:
    """What connections share with the loop that drives them.

    Args:
        clock: seconds that never run backwards.

    Attributes:
        now: what the clock said when this turn began, in seconds.
        owner: ident of the thread that runs the loop.
        dirty: connections to be flushed at the end of the turn.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.now = clock()
        self.owner = get_ident()
        self.dirty: list[Any] = []

    def tick(self) -> None:
        """Look at the clock; at the beginning of a turn."""
        self.now = self.clock()

    def flush(self) -> None:
        """Write what waits, once a connection; callbacks may fill outboxes again."""
        while self.dirty:
            dirty, self.dirty = self.dirty, []
            for connection in dirty:
                connection.flush()


class ConnectionCore:
    """Carries messages between a socket and a callback.

    Args:
        sock: connected and non-blocking.
        loop: of the thread that drives it.
        protocol: the rules of this connection (`protocol.Protocol`).
        buffer_size: bytes of the first read.
        write_limit: bytes of unsent output beyond which `_make_room` is asked.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: LoopState,
        protocol: Any,
        buffer_size: int,
        write_limit: int,
    ) -> None:
        self._sock = sock
        self._loop = loop
        self._protocol = protocol
        self._buffer_size = self._read_size = min(buffer_size, MAX_READ)
        self._write_limit = write_limit
        #: Messages may be written: the protocol is OPEN. Set by `_sync`.
        self._open = True
        #: A frame begins here and no message is under way: we may read it. Likewise.
        self._ordinary = True
        self._on_message: Callable[[Any, Any], object] = _ignore
        # One entry a message or control frame; only the first may be partly sent, and
        # is a memoryview then.
        self._outbox: deque[bytes | memoryview] = deque()
        self._dirty = False
        self._blocked = False  # the socket takes no more; write interest is registered
        self._await_drain = False  # `_on_drained` is to be called
        self._last_received = loop.now
        self._last_message = loop.now
        self._waiting = 0

    @property
    def buffered_amount(self) -> int:
        """Bytes of output that the system has not taken yet."""
        return self._waiting

    # What the owner of the other cases provides

    def _receive_odd(self, data: bytes, start: int, end: int) -> int:
        """Have `protocol` read from data[start:end]; return where it stopped."""
        raise AssertionError("to be provided")

    def _on_fault(self, error: ProtocolError) -> None:
        """The peer broke a rule: fail the connection."""
        raise AssertionError("to be provided")

    def _on_lost(self, error: OSError | None) -> None:
        """The connection is gone: by an error, or by the peer's end (None)."""
        raise AssertionError("to be provided")

    def _on_callback_error(self, error: Exception) -> None:
        """The message callback raised."""
        raise AssertionError("to be provided")

    def _make_room(self, size: int) -> bool:
        """The outbox is over its limit; say whether a message may still enter it."""
        raise AssertionError("to be provided")

    def _watch(self, events: int) -> None:
        """Be called for these events from now on."""
        raise AssertionError("to be provided")

    def _on_drained(self) -> None:
        """All output has left."""
        raise AssertionError("to be provided")

    def _write_elsewhere(self, msg: object, binary: bool | None) -> SendStatus:
        """`write_message` was called from a thread that is not the loop's."""
        raise AssertionError("to be provided")

    def _sync(self) -> None:
        """Learn what the protocol has come to; after whatever may have changed it."""
        protocol = self._protocol
        self._open = protocol.state == _OPEN
        self._ordinary = protocol.between_messages

    # Receiving

    def __call__(self, events: int) -> None:
        """Called by the selector."""
        if events & _READ:
            self._on_readable()
        if events & _WRITE and self._blocked:
            self.flush()

    def _on_readable(self) -> None:
        try:
            data = self._sock.recv(self._read_size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._on_lost(error)
            return
        if not data:
            self._on_lost(None)
            return
        self._adapt_reads(len(data))
        self._last_received = self._loop.now
        self._feed(data)

    def _adapt_reads(self, size: int) -> None:
        """Read more at once while reads come back full, less when they do not."""
        if size == self._read_size:
            self._read_size = min(size * 2, MAX_READ)
        elif size < self._read_size >> 2 and self._read_size > self._buffer_size:
            self._read_size >>= 1

    def _feed(self, data: bytes) -> None:
        """Handle what was received, one message or event after the other."""
        pos, end = 0, len(data)
        while pos < end:
            # Every callback may have closed this connection: look again.
            if self._ordinary:
                pos = self._receive_whole(data, pos, end)
                if pos == end:
                    return
            pos = self._receive_odd(data, pos, end)

    def _receive_whole(self, data: bytes, pos: int, end: int) -> int:
        """Deliver the ordinary messages at the front: whole, one frame, plain.

        Stops before anything else, faults included: `protocol` judges those.
        """
        max_size = self._protocol.max_size
        while end - pos >= 6:
            first, second = data[pos], data[pos + 1]
            if 0x80 <= second < 0xFE:
                length = second & 0x7F
                start = pos + 6
            elif second == 0xFE and end - pos >= 8:
                length = data[pos + 2] << 8 | data[pos + 3]
                start = pos + 8
                if length < 126:
                    return pos
            else:
                return pos
            if start + length > end or length > max_size:
                return pos
            payload = apply_mask(data[start : start + length], data[start - 4 : start])
            msg: str | bytes = payload
            if first == _FINAL_TEXT:
                try:
                    msg = payload.decode()
                except UnicodeDecodeError:
                    return pos
            elif first != _FINAL_BINARY:
                return pos
            pos = start + length
            self._deliver(msg)
            if not self._ordinary:
                return pos
        return pos

    def _deliver(self, msg: str | bytes) -> None:
        """Call back with a message; what is returned is the answer."""
        self._last_message = self._loop.now
        try:
            answer = self._on_message(msg, self)
            if answer is not None:
                self.write_message(answer)
        except Exception as error:
            self._on_callback_error(error)

    # Sending

    def write_message(self, msg: object, binary: bool | None = None) -> SendStatus:
        """Send a message (RFC 6455 §6.1); from any thread.

        Args:
            msg: str is sent as text; bytes, bytearray and memoryview as binary, so
                that what `on_message` got can be passed on; dict and list as JSON text.
            binary: True sends either as binary, False either as text.

        Returns:
            `SendStatus.SENT`, `BACKPRESSURE` (accepted, earlier output still waits
            for the peer) or `DROPPED` (false: not open, or the slow-consumer policy).
            Never raises for a peer that has gone.

        Raises:
            TypeError: A message of another type.
            ValueError: Bytes sent as text that are not valid UTF-8.
        """
        if get_ident() != self._loop.owner:
            return self._write_elsewhere(msg, binary)
        if binary is None and type(msg) is str:
            return self._send(_TEXT, msg.encode())
        return self._send(*encode_message(msg, binary))

    def send(self, msg: object, binary: bool | None = None) -> SendStatus:
        """The same as `write_message`."""
        return self.write_message(msg, binary)

    def _send(self, opcode: int, payload: bytes) -> SendStatus:
        if not self._open:
            return SendStatus.DROPPED
        waiting = self._waiting
        # Before compressing: a message that enters the context must be sent.
        if (
            waiting
            and waiting + len(payload) > self._write_limit
            and not self._make_room(len(payload))
        ):
            return SendStatus.DROPPED
        self._enqueue(self._protocol.send_message(opcode, payload))
        if self._blocked:
            self._await_drain = True
            return SendStatus.BACKPRESSURE
        return SendStatus.SENT

    def _enqueue(self, frame: bytes | memoryview) -> None:
        """Put a message or control frame into the outbox."""
        self._outbox.append(frame)
        self._waiting += len(frame)
        if not self._dirty and not self._blocked:
            self._dirty = True
            self._loop.dirty.append(self)

    def _enqueue_pong(self, frame: bytes) -> None:
        """Put a pong into the outbox, in place of one that has not left yet.

        RFC 6455 §5.5.3: an endpoint that has not sent the pongs of earlier pings yet
        "MAY elect to send a Pong frame for only the most recently processed Ping".
        """
        outbox = self._outbox
        if self._blocked and outbox:
            last = outbox[-1]
            if isinstance(last, bytes) and last[0] == _PONG_FRAME:
                self._waiting -= len(outbox.pop())
        self._enqueue(frame)

    def flush(self) -> None:
        """Write what waits, as much as the system takes."""
        self._dirty = False
        while self._outbox:
            offer = self._next_offer()
            try:
                if isinstance(offer, list):
                    sent = self._sock.sendmsg(offer)
                    whole = sent == sum(map(len, offer))
                else:
                    sent = self._sock.send(offer)
                    whole = sent == len(offer)
            except (BlockingIOError, InterruptedError):
                sent, whole = 0, False
            except OSError as error:
                self._on_lost(error)
                return
            self._consume(sent)
            if not whole:
                self._block()
                return
        if self._blocked:
            self._blocked = False
            self._watch(_READ)
        if self._await_drain:
            self._await_drain = False
            self._on_drained()

    def _next_offer(self) -> bytes | memoryview | list[bytes | memoryview]:
        """What to hand to the system at once: one buffer, or several to gather."""
        outbox = self._outbox
        if len(outbox) == 1:
            return outbox[0]
        if self._waiting <= _JOIN_LIMIT:
            return b"".join(outbox)
        if hasattr(self._sock, "sendmsg"):
            return list(islice(outbox, _MAX_BUFFERS))
        return outbox[0]

    def _consume(self, sent: int) -> None:
        """Take what was sent off the outbox."""
        outbox = self._outbox
        self._waiting -= sent
        while sent:
            size = len(outbox[0])
            if sent < size:
                outbox[0] = memoryview(outbox[0])[sent:]
                return
            outbox.popleft()
            sent -= size

    def _block(self) -> None:
        if not self._blocked:
            self._blocked = True
            self._watch(_READ | _WRITE)

    def _take_outbox(self) -> list[bytes | memoryview]:
        """Empty the outbox; what was in it: messages and control frames.

        Only the first may be partly sent, and is a memoryview of the rest then.
        """
        items = list(self._outbox)
        self._discard_output()
        return items

    def _discard_output(self) -> None:
        self._outbox.clear()
        self._waiting = 0


def _ignore(msg: object, client: object) -> None:
    """Stands in until the connection has a callback."""
