"""The byte path of a connection in pure Python: socket, frames, callback, outbox; the
twin of `_c/connection.pxi`.

`ConnectionCore` handles the common case by itself, the fast path: a whole data message
in one frame is unmasked and passed to the callback; messages written in return wait in
the outbox until the loop flushes it, once per turn. Everything else (control frames,
fragments, compression, faults, closing) takes the slow path: `_receive_slow_path`, one
of the methods that `hooks` requires of a subclass, passes it to `protocol`. The rest of
a connection (identity, topics, keepalive, closing) is in `connection.client`.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Any

from ..constants import (
    LATEST_PING,
    MAX_READ,
    Delivered,
    Opcode,
    SendStatus,
    State,
)
from ..messages import encode_message
from ..text import shared_text
from ..token_bucket import TokenBucket
from .codecs import Deflater, apply_mask, build_frame
from .loop import LoopState
from .outbox import Outbox

__all__ = ["ConnectionCore", "Poller", "accept_from"]

_PONG_FRAME = 0x8A
_READ, _WRITE = 1, 2  # selectors.EVENT_READ and EVENT_WRITE
_TEXT = int(Opcode.TEXT)
_OPEN, _CLOSED = int(State.OPEN), int(State.CLOSED)
_NEVER = 2**62
# Looking up a member of an enum costs time at every use; these are the same objects.
_DROPPED, _SENT, _BACKPRESSURE = SendStatus
#: Not an opcode: a message is sent as it is, without a header.
_FRAMED = 0
#: Headers of short frames, by opcode and length.
_SHORT_HEADS = {
    opcode: [bytes((0x80 | opcode, size)) for size in range(126)] for opcode in (1, 2)
}
_SHORT_HEADS[_FRAMED] = [b""] * 126
_BINARY = int(Opcode.BINARY)
_FINAL_TEXT = 0x80 | _TEXT
_FINAL_BINARY = 0x80 | _BINARY
_PACKED = 0x40  # RSV1: the message is compressed (RFC 7692 §6)

#: Messages and events of one connection per turn; the rest waits for the next turn, so
#: that other connections are served.
_MANY_MESSAGES = 1024
#: Messages after which the clock is looked at, see `LoopState.share`; what is inflated
#: is an event, and before each of them it is looked at, too.
_LOOK_EVERY = 8
#: Bytes passed to `protocol` at once, unless they are of one frame: that many fragments
#: of one byte take it some milliseconds.
_SLICE = 4096
#: Pongs per turn that are all sent; of further ones only the last is sent.
_MANY_PONGS = 128

#: The golden section of 65,536: phases that are apart by it are spread evenly, however
#: many there are.
_GOLDEN = 40503

_ids = itertools.count(1)
_numbering = Lock()  # without the GIL, two threads might get the same

#: There is no Python twin of the C selector: the platform's is used.
Poller: Any = None


if TYPE_CHECKING:
    from .hooks import ConnectionHooks

    class _Base(Outbox, ConnectionHooks):
        """The hooks that a subclass must implement, known to type checkers."""
else:
    _Base = Outbox


class ConnectionCore(_Base):
    """Moves messages between a socket and a callback; subclasses do the rest.

    Args:
        sock: connected and non-blocking.
        loop: of the thread that drives it.
        rules: makes its protocol when that is needed (`protocol.websocket.Rules`).
        buffer_size: bytes of the first read.
        write_limit: bytes of unsent output beyond which `_make_room` is called.
    """

    # Instances with more than 30 attributes do not share keys, which makes each access
    # to their dicts slower. Attributes set by users are in a dict all the same.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_ahead",
        "_alone",
        "_attached",
        "_await_drain",
        "_bucket",
        "_buffer_size",
        "_buffered_input",
        "_client_id",
        "_dirty",
        "_ended",
        "_feeding",
        "_handler",
        "_host",
        "_last_message",
        "_last_received",
        "_max_size",
        "_on_fast_path",
        "_on_message",
        "_open",
        "_own_protocol",
        "_packing",
        "_paused_by_backpressure",
        "_paused_by_callbacks",
        "_phase",
        "_pinged_at",
        "_pings",
        "_pings_itself",
        "_plain_below",
        "_pongs",
        "_queued",
        "_read_size",
        "_request_kept",
        "_rest",
        "_rules",
        "_session",
        "_stale",
        "_threshold",
        "_timer",
        "_topics",
        "_unregistered",
        "_wheel_slot",
        "_write_blocked",
        "bytes_received",
        "id",
        "latency",
        "messages_received",
        "messages_sent",
        "opened_at",
        "ping_payload",
        "pong_payload",
        "subprotocol",
    )

    def __init__(
        self,
        sock: socket.socket,
        loop: LoopState,
        rules: Any,
        buffer_size: int,
        write_limit: int,
    ) -> None:
        if not isinstance(loop, LoopState):
            raise TypeError(f"loop must be a LoopState, not {loop!r}")
        self._attached = self._unregistered = self._ended = False
        self._init_owner()
        super().__init__(sock, loop, write_limit)
        self._rules = rules
        self._own_protocol: Any = None  # the protocol, if it was needed
        self._max_size = rules.max_size
        self._buffer_size = self._read_size = min(buffer_size, MAX_READ)
        #: Messages can be written: the protocol is OPEN. Set by `_sync`.
        self._open = True
        #: A frame begins here and no message is incomplete: the fast path may parse.
        self._on_fast_path = True
        self._on_message: Callable[[Any, Any], object] = _ignore
        self._dirty = False
        # The socket takes no more; write interest is registered.
        self._write_blocked = False
        self._await_drain = False  # `_on_drained` is to be called
        self._last_received = loop.now
        self._last_message = loop.now
        # Not read from, until the peer has read more of our output.
        self._paused_by_backpressure = False
        self._paused_by_callbacks = False  # nor until `_pause_reading` says so
        self._rest = b""  # of the last read, for another turn
        self._buffered_input = 0  # as told to the loop
        self._feeding = False  # what was read is being handled: nothing more is read
        self._queued = False  # in the loop's run queue: not heard before its turn there
        self._packing = False  # a message is on its way from our context to the outbox
        self._pongs = 0  # put into the outbox since the last write
        self._bucket: TokenBucket | None = None
        self.messages_received = self.messages_sent = 0
        self.bytes_received = 0
        agreement = rules.agreement
        self._threshold = _NEVER if agreement is None else agreement.threshold
        # Smaller payloads are sent uncompressed, in one frame.
        self._plain_below = min(self._threshold, rules.max_frame_size + 1)
        self._stale = False  # the peer's window is ahead of our context
        # What is sent now may be dropped later: it is compressed without context.
        self._alone = False
        self._init_heartbeat(loop)

    def _init_owner(self) -> None:
        """Fields of the owner; the extension stores most of them without objects."""
        with _numbering:
            self.id = next(_ids)
        self.opened_at = time.time()
        self.subprotocol: str | None = None
        self._host: Any = None
        self._handler: Any = None
        self._request_kept: Any = None
        self._timer: Any = None
        self._client_id: Any = None
        self._session: Any = None
        self._topics: Any = None

    def _init_heartbeat(self, loop: LoopState) -> None:
        self.latency: float | None = None
        self.ping_payload = self.pong_payload = b""
        self._wheel_slot: dict[Any, None] | None = None
        #: When the unanswered ping was sent, its offset in our output, and how much
        #: output before it the peer has not taken; None when no ping is pending.
        self._pinged_at: float | None = None
        self._ahead: tuple[int, int] | None = None
        self._pings: Any = None  # all unanswered ones, created on first use
        self._pings_itself = False  # in C it can: see `_c/heartbeat.pxi`
        self._phase = loop._phase
        loop._phase = (loop._phase + _GOLDEN) % 65536

    @property
    def _ping_delay(self) -> float:
        """Seconds by which its pings are later than those of others."""
        interval = self._checked_counters.ping_interval
        return self._phase / 65536 * min(LATEST_PING, interval / 4)

    def _take_beat(self) -> tuple[bytes, float] | None:
        """The unanswered ping that was sent from here, and when; it is told once."""
        return None

    @property
    def _protocol(self) -> Any:
        if self._own_protocol is None:
            self._own_protocol = self._rules.begin()
        return self._own_protocol

    @_protocol.setter
    def _protocol(self, protocol: Any) -> None:
        self._own_protocol = protocol

    def _limit_rate(self, rate: float, burst: float) -> None:
        """Set a message rate; `_on_rate` is called for messages that exceed it."""
        self._bucket = TokenBucket(rate, burst, self._loop.now)

    def _sync(self) -> None:
        """Copy the protocol's state; call it after anything that may change it."""
        protocol = self._own_protocol
        if protocol is None:
            self._open = self._on_fast_path = True
            return
        self._open = protocol.state == _OPEN
        self._on_fast_path = protocol.between_messages
        if protocol.state == _CLOSED:
            self._rest = b""
            if self._buffered_input:
                self._note_input()

    # Receiving

    def __call__(self, events: int) -> None:
        """Handle ready events; called by the selector."""
        if events & _READ and not (
            self._paused_by_backpressure
            or self._paused_by_callbacks
            or self._rest
            or self._feeding
            or self._queued
        ):
            waiting = self._waiting
            if not waiting or self._may_take(self._expected()):
                self._feeding = True
                try:
                    self._on_readable()
                finally:
                    self._feeding = False
                if self._buffered_input or self._rest or self._is_unfinished():
                    self._note_input()
        if events & _WRITE and self._write_blocked:
            self._flush()

    def _expected(self) -> int:
        """Bytes of the current message, as far as its headers have been read."""
        begun = self._own_protocol
        return 0 if begun is None else begun.expected

    def _detach(self) -> None:
        """The socket is closed: drop everything that refers to it."""

    def _pause_reading(self, paused: bool) -> None:
        """Pause or resume reading; for callbacks that have enough to do."""
        self._paused_by_callbacks = paused
        if self._write_blocked:
            if paused or self._paused_by_backpressure:
                self._watch(_WRITE)
            else:
                self._watch(_READ | _WRITE)
        else:
            self._watch(0 if paused else _READ)
        if not paused and self._rest:
            self._join_run_queue()

    def _may_take(self, size: int) -> bool:
        """Whether a message of this size may be delivered: there must be room for a
        reply of the same size.

        The server does not read from a peer that does not read. Otherwise a peer that
        sends without reading the replies would fill the memory, and one that does read
        them would be disconnected for sending quickly.
        """
        for _ in range(2):
            waiting, limit = self._waiting, self._write_limit
            if not waiting or (waiting <= limit >> 1 and waiting + size <= limit):
                return True
            if self._write_blocked or not self._open:
                break
            self._flush()  # this turn's output may simply not be flushed yet
        if not self._open or not self._write_blocked:
            return True  # no more replies; the peer's close frame may still come
        self._paused_by_backpressure = True
        self._watch(_WRITE)
        return False

    def _may_go_on(self, done: int) -> bool:
        """Whether this turn has time for more after `done` messages and events."""
        if done > _MANY_MESSAGES or self._paused_by_callbacks or self._loop.interrupted:
            return False
        return self._loop.clock() - self._loop._mark <= self._loop.share

    def _on_readable(self) -> None:
        try:
            data = self._sock.recv(self._read_size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._on_lost(error, True)
            return
        if not data:
            self._on_lost(None, True)
            return
        self._adapt_reads(len(data))
        self._last_received = self._loop.now
        self._feed(data)

    def _adapt_reads(self, size: int) -> None:
        """Enlarge the reads while they are full; shrink them when they are not."""
        self.bytes_received += size
        self._checked_counters.bytes_received += size
        if size == self._read_size:
            self._read_size = min(size * 2, MAX_READ)
        elif size < self._read_size >> 2 and self._read_size > self._buffer_size:
            self._read_size >>= 1

    def _feed(self, data: bytes) -> None:
        """Process received bytes, one message or event after the other.

        Input that exceeds this turn, or that a peer sends without reading, is kept.
        """
        pos, end, events = 0, len(data), 0
        while pos < end:
            # Every callback may have closed this connection: check again.
            if self._on_fast_path:
                pos = self._receive_whole(data, pos, end)
                if pos == end:
                    return
            events += 1
            protocol = self._protocol
            may_take = self._may_take(protocol.expected + _SLICE)
            if not may_take or not self._may_go_on(events):
                self._keep(data, pos)
                return
            # A single frame is always little work; many frames are not.
            size = max(_SLICE, protocol.remaining)
            pos = self._receive_slow_path(data, pos, min(end, pos + size))

    def _keep(self, data: bytes, pos: int) -> int:
        """Keep input for another turn; return where it ends."""
        self._rest = data[pos:]
        if not self._paused_by_backpressure and not self._paused_by_callbacks:
            # Many small frames: fewer at once.
            self._read_size = max(self._buffer_size, self._read_size >> 2)
            self._join_run_queue()
        return len(data)

    def _is_unfinished(self) -> bool:
        """Whether the protocol keeps input."""
        return not self._on_fast_path and self._attached

    def _note_input(self) -> None:
        """Tell the loop how much input is kept here."""
        before = self._buffered_input
        begun = self._own_protocol
        size = len(self._rest) + (0 if begun is None else begun.buffered_input)
        if size != before:
            self._buffered_input = size
            self._loop.note_input(self, before, size)

    def _join_run_queue(self) -> None:
        """Go on when the others have had their turn."""
        if not self._queued:
            self._queued = True
            loop = self._loop
            loop.run_queue.append(self)
            loop.attention = True
            if loop.eager:
                loop.on_dirty()

    def _yield_turn(self) -> None:
        """It took more than its share: from now on it waits until others had theirs."""
        paused = self._paused_by_backpressure or self._paused_by_callbacks
        if self._open and not paused:
            self._join_run_queue()

    def _receive_more(self) -> None:
        """Handle what was kept, or read; for the loop, from its run queue."""
        loop = self._loop
        self._queued = False
        paused = self._paused_by_backpressure or self._paused_by_callbacks
        if paused or self._feeding:
            return
        loop._mark = loop.clock()
        try:
            if self._rest:
                self._receive_rest()
                self._note_input()
            elif self._open:
                self(_READ)
        except BaseException as error:
            loop.on_failure(self, error)
        loop._account(self)

    def _receive_rest(self) -> None:
        rest = self._rest
        self._sync()
        self._rest = b""
        self._last_received = self._loop.now  # it is we who are late
        try:
            self._feeding = True
            self._feed(rest)
        finally:
            self._feeding = False

    def _receive_whole(self, data: bytes, pos: int, end: int) -> int:
        """Deliver the plain messages at the front: whole, in one frame, uncompressed.

        Stops before anything else, faults included: `protocol` handles those. Input
        that exceeds this turn is kept, and counts as processed.
        """
        # Inlined where functions would read better: a call costs 60 ns in Python, and
        # this loop runs once per message.
        max_size, number = self._max_size, int.from_bytes
        half, began = self._write_limit >> 1, self.messages_received
        look_at = began + _LOOK_EVERY
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
            stop = start + length
            if stop > end or length > max_size:
                return pos
            if self._waiting + length > half:
                if not self._may_take(length):
                    return self._keep(data, pos)
                if not self._on_fast_path:
                    return pos  # the callback's output has ended it
            if self.messages_received >= look_at:
                look_at += _LOOK_EVERY
                if not self._may_go_on(self.messages_received - began):
                    return self._keep(data, pos)
            key = data[start - 4 : start]
            if length < 1024:
                mask = number((key * (length // 4 + 1))[:length], "little")
                plain = number(data[start:stop], "little") ^ mask
                payload = plain.to_bytes(length, "little")
            else:
                payload = apply_mask(data[start:stop], key)
            msg: str | bytes = payload
            if first == _FINAL_TEXT:
                try:
                    msg = payload.decode()
                except UnicodeDecodeError:
                    return pos
            elif first != _FINAL_BINARY:
                return pos
            pos = stop
            self._deliver(msg)
            if not self._on_fast_path:
                return pos
        return pos

    def _deliver(self, msg: str | bytes) -> None:
        """Call back with a message; the return value is the reply."""
        self._last_message = self._loop.now
        self.messages_received += 1
        self._checked_counters.messages_received += 1
        if self._bucket is not None and not self._bucket.take(self._loop.now):
            self._on_rate()
            return
        try:
            answer = self._on_message(msg, self)
            if answer is None:
                return
            kind = type(answer)
            if kind is str or kind is bytes:
                self.write_message(answer)
            # `lambda msg, client: client.write_message(msg)` has answered already.
            elif kind is not SendStatus and kind is not Delivered:
                self._answer(answer)
        except Exception as error:
            self._on_callback_error(error)
        except BaseException as error:
            self._interrupt(error)

    def _interrupt(self, error: BaseException) -> None:
        """A callback raised what ends programs: what else was read waits."""
        # Until `_receive_more`, or until `protocol` has read some.
        self._on_fast_path = False
        self._loop.on_interrupt(error)

    # Sending

    def write_message(self, msg: object, binary: bool | None = None) -> SendStatus:
        """Send a message (RFC 6455 §6.1); from any thread.

        Args:
            msg: str is sent as text; bytes, bytearray and memoryview as binary, so
                that a received message can be passed on; dict and list as JSON text.
            binary: True sends either as binary, False either as text.

        Returns:
            `SendStatus.SENT`, `BACKPRESSURE` (accepted; output waits for the peer to
            read) or `DROPPED` (false: not open, or the slow-consumer policy).
            Never raises because the peer has gone.

        Raises:
            TypeError: A message of another type.
            ValueError: Bytes sent as text that are not valid UTF-8.
        """
        if get_ident() != self._loop.owner:
            return self._write_elsewhere(msg, binary)
        if binary is None:
            if type(msg) is str:
                return self._send_from(msg, _TEXT, msg.encode())
            if type(msg) is bytes:
                return self._send_from(msg, _BINARY, msg)
        opcode, payload = encode_message(msg, binary)
        return self._send_from(msg if type(msg) is str else payload, opcode, payload)

    def send(self, msg: object, binary: bool | None = None) -> SendStatus:
        """The same as `write_message`."""
        return self.write_message(msg, binary)

    def publish(self, topic: str, msg: object, *, key: str | None = None) -> int:
        """Send a message to all subscribers of a topic except this client.

        Args:
            topic: any name; this client does not need to be subscribed.
            msg: as for `write_message`, also for the errors raised.
            key: for a topic with history, see `Server.publish`.

        Returns:
            How many clients accepted it; 0 from a thread other than the loop's; with an
            engine see `Server.publish`.

        Raises:
            TypeError, ValueError: See `Server.publish`.
        """
        taken: int = self._host.publish(topic, msg, exclude=(self,), key=key)
        return taken

    def _send(self, opcode: int, payload: bytes) -> SendStatus:
        return self._send_from(payload, opcode, payload)

    def _send_framed(self, data: bytes) -> SendStatus:
        """Accept or drop a message that is sent as it is, without a header."""
        return self._send_from(data, _FRAMED, data)

    def _send_from(self, source: object, opcode: int, payload: bytes) -> SendStatus:
        """Accept or drop a message; `source` is the object given by the user."""
        if not self._open:
            return _DROPPED
        # Output being written does not count: it is nearly gone.
        size, waiting = len(payload), self._waiting - self._offering
        # Before compressing: a message that enters the context must be sent.
        if waiting and self._is_over(waiting + size) and not self._has_room(size):
            self._checked_counters.dropped += 1
            return _DROPPED
        if not self._open:
            # The policy has ended the connection, which mypy cannot know.
            return _DROPPED  # type: ignore[unreachable]
        self.messages_sent += 1
        self._checked_counters.messages_sent += 1
        if size < self._plain_below:
            if size < 126:
                frame = _SHORT_HEADS[opcode][size] + payload
            elif opcode:
                frame = build_frame(opcode | 0x80, payload)
            else:
                frame = payload
            self._enqueue(frame)
        else:
            self._enqueue_long(source, opcode, payload)
        # BACKPRESSURE must be reported while there is still room.
        if not self._write_blocked and (
            self._waiting > self._half_full or len(self._outbox) > self._many
        ):
            self._flush()
        if self._write_blocked:
            self._await_drain = True
            return _BACKPRESSURE
        return _SENT

    def _is_over(self, waiting: int) -> bool:
        loop = self._loop
        return (
            waiting > self._write_limit
            or loop.buffered > loop.buffered_limit
            or self._has_too_many()
        )

    def _has_room(self, size: int) -> bool:
        """Whether a message may enter a full outbox: in the place of an older one, or
        because of the policy."""
        latest = self._latest
        return (latest is not None and latest.takes(self, size)) or self._make_room(
            size
        )

    def _enqueue_long(self, source: object, opcode: int, payload: bytes) -> None:
        """Put a message into the outbox that must be compressed or split."""
        protocol, size = self._protocol, len(payload)
        if opcode == _FRAMED:
            self._enqueue(payload)
            return
        if size < self._threshold or self._packing:
            # Called by code that interrupts another message on its way: messages must
            # leave in the order of compression; a plain one may leave at any time.
            self._enqueue(protocol.frame_message(opcode, payload))
            return
        self._packing = True
        try:
            packed, shared = self._pack(source, payload)
            self._checked_counters.plain_sent += size
            self._checked_counters.packed_sent += len(packed)
            self._enqueue(protocol.frame_message(opcode | _PACKED, packed))
            self._stale = shared
        finally:
            self._packing = False

    def _pack(self, source: object, payload: bytes) -> tuple[bytes, bool]:
        """Compress a message: with this peer's context, unless it goes to others too.

        A second receiver of the same object in one turn shows that. The shared form
        refers to no earlier message, so any peer can inflate it; but it moves the
        peer's window, so our context must be reset before its next use.

        Returns:
            The payload, and whether it is the shared form.
        """
        loop, protocol = self._loop, self._protocol
        if self._alone and loop._source is not source:
            loop._note_source(source)
        if loop._source is source:
            return loop._pack_for_all(protocol.agreement, payload), True
        loop._note_source(source)
        deflater: Deflater = protocol.deflater()
        if self._stale:
            deflater.reset()
        self._stale = True  # until it is in the outbox
        return loop._compress(deflater, payload), False

    def _enqueue(self, frame: bytes | memoryview) -> None:
        """Put a message or control frame into the outbox."""
        size, marks = len(frame), not self._dirty and not self._write_blocked
        if marks:
            self._dirty = True
            self._loop.dirty.append(self)
        # In this order: a signal handler may raise after any call.
        self._waiting += size
        self._loop.buffered += size
        self._outbox.append(frame)
        if marks and self._loop.eager:
            self._loop.on_dirty()

    def _enqueue_pong(self, frame: bytes) -> None:
        """Put a pong into the outbox; it replaces one that has not been sent yet.

        RFC 6455 §5.5.3: an endpoint that has not sent the pongs of earlier pings yet
        "MAY elect to send a Pong frame for only the most recently processed Ping".
        """
        outbox = self._outbox
        self._pongs += 1
        many = self._write_blocked or self._pongs > _MANY_PONGS
        if many and outbox and not self._offering:
            last, size = outbox[-1], len(outbox[-1])
            if isinstance(last, bytes) and last[0] == _PONG_FRAME:
                self._waiting -= size
                self._loop.buffered -= size
                outbox.pop()
        self._enqueue(frame)

    def _flush(self) -> None:
        """Write waiting output, as much as the system takes.

        Re-entrant calls only queue: from a signal handler or `__del__` that runs
        between two lines of this, or inside a socket's method.
        """
        if self._writing:
            return
        try:
            self._writing = True
            left = self._offer_all()
        except BaseException:
            # It is unknown how much was sent, and nothing may be sent twice.
            self._abandon()
            raise
        finally:
            self._writing = False
            self._offering = 0
        if left is None:
            return
        if left:
            self._block()
            return
        if self._write_blocked:
            self._write_blocked = False
            self._resume_reading(0)
        if self._await_drain and not self._write_blocked:
            self._await_drain = False
            self._on_drained()

    def _offer_all(self) -> bool | None:
        """Write waiting output until the system takes no more.

        Returns:
            Whether output is left; None when the connection was lost or has ended.
        """
        self._pongs = 0
        outbox = self._outbox
        try:
            while outbox:
                # Usually there is one buffer; a call for it would take 60 ns.
                offer = outbox[0] if len(outbox) == 1 else self._next_offer()
                try:
                    if isinstance(offer, list):
                        self._offering = size = sum(map(len, offer))
                        sent = self._sock.sendmsg(offer)
                    else:
                        self._offering = size = len(offer)
                        sent = self._sock.send(offer)
                    if not 0 <= sent <= size:
                        raise ValueError(f"send returned {sent} for {size} bytes")
                except (BlockingIOError, InterruptedError):
                    sent = 0
                except OSError as error:
                    self._on_lost(error)
                    self._discard_output()
                    return None
                if not self._offering:
                    return None  # ended while the method ran
                self._consume(sent)
                self._offering = 0
                if sent and self._write_blocked:
                    self._last_received = self._loop.now  # a peer that reads is alive
                if sent < size:
                    return True
        except IndexError:
            return None  # ended between two lines
        return False

    def _block(self) -> None:
        """Wait for the peer to read; read from it again when it has read enough."""
        if not self._write_blocked:
            self._write_blocked = True
            self._watch(_WRITE if self._paused_by_callbacks else _READ | _WRITE)
            if self._latest is not None:
                self._latest.begin(self)
        elif self._paused_by_backpressure and self._waiting <= self._write_limit >> 2:
            self._resume_reading(_WRITE)

    def _resume_reading(self, events: int) -> None:
        """Read from the peer again, unless reading is paused for another reason."""
        self._paused_by_backpressure = False
        self._watch(events if self._paused_by_callbacks else _READ | events)
        if self._rest and not self._paused_by_callbacks:
            self._join_run_queue()


def _ignore(msg: object, client: object) -> None:
    """Placeholder until the connection has a callback."""


def accept_from(sock: socket.socket) -> tuple[socket.socket, Any]:
    """Accept a connection, non-blocking, with the address of its peer.

    Returns:
        The socket, and (host, port) or the address format of its family; IPv4 peers
        have an IPv4 address even on a socket for both families.

    Raises:
        OSError: As from `socket.accept`.
    """
    accepted, address = sock.accept()
    accepted.setblocking(False)
    if isinstance(address, tuple):
        address = shared_text(address[0].removeprefix("::ffff:")), address[1]
    return accepted, address
