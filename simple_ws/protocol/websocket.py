"""One connection after its opening handshake, sans-I/O (RFC 6455 §5-§7, RFC 7692).

Bytes go in by `receive`, which gives at most one event a call, so that the caller can
look at the connection again between two events. Bytes to send come out in `output`, or
are returned by the `send_*` methods; `connection.client` and `client.core` send them.
There is no socket, clock or thread here; masking, UTF-8 and deflate are done by
`speedups`.

The states and their transitions:

    OPEN     we send Close -> CLOSING; the peer's Close, a fault or the end -> CLOSED
    CLOSING  the peer's Close, a fault or the end -> CLOSED
    CLOSED   nothing
"""

from __future__ import annotations

import os
from codecs import utf_8_decode
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from ..constants import (
    MAX_CLOSE_REASON,
    MAX_CONTROL_PAYLOAD,
    MAX_EMPTY_FRAGMENTS,
    CloseCause,
    CloseCode,
    Opcode,
    State,
    may_travel,
)
from ..deflate import Agreement
from ..errors import InvalidData, MessageTooBig, ProtocolError, RateExceeded
from ..speedups import (
    Deflater,
    Inflater,
    Utf8Validator,
    apply_mask,
    build_frame,
    parse_header,
)

__all__ = ["Event", "Protocol", "Rules", "concluded"]

Buffer = bytes | bytearray | memoryview

#: (opcode, payload): TEXT with a str, BINARY, PING and PONG with bytes. (CLOSE, None)
#: means that the state has become CLOSED; the protocol's attributes hold the reasons.
Event = tuple[int, Any]

_FIN = 0x80
_RSV1 = 0x40
_RSV = 0x70
_CONTROL = 0x08

_TEXT = int(Opcode.TEXT)
_BINARY = int(Opcode.BINARY)
_CONTINUATION = int(Opcode.CONTINUATION)
_CLOSE = int(Opcode.CLOSE)
_PING = int(Opcode.PING)
_PONG = int(Opcode.PONG)
_OPCODES = frozenset(int(opcode) for opcode in Opcode)

_STEPS = {
    State.OPEN: (State.CLOSING, State.CLOSED),
    State.CLOSING: (State.CLOSED,),
    State.CLOSED: (),
}

_NO_LIMIT = 2**62

#: Bytes of output that a piece of a compressed frame is likely to have: it takes a
#: fraction of a millisecond.
_INFLATED_PIECE = 64 * 1024
#: Bytes of the first piece, which may become a thousand times as many; and of any.
_FIRST_PIECE, _LAST_PIECE = 128, 8192

# Placeholders while no message is read; an idle connection owns no buffers.
_NOTHING = bytearray()
_IDLE_VALIDATOR = Utf8Validator()


class Rules:
    """What connections of one kind have in common; most of them need nothing else.

    A connection that has only received and sent plain messages has no `Protocol`: that
    is created by `begin` at the first control frame or fragment, or when it ends.

    Args:
        max_size, max_frame_size, agreement: see `Protocol`.
    """

    __slots__ = ("agreement", "max_frame_size", "max_size")

    def __init__(
        self,
        max_size: int | None = 2**20,
        max_frame_size: int | None = None,
        agreement: Agreement | None = None,
    ) -> None:
        self.max_size = _NO_LIMIT if max_size is None else min(max_size, _NO_LIMIT)
        self.max_frame_size = max_frame_size or _NO_LIMIT
        self.agreement = agreement

    def begin(self) -> Protocol:
        """The protocol of one connection of a server."""
        return Protocol(
            max_size=self.max_size,
            max_frame_size=self.max_frame_size,
            agreement=self.agreement,
        )


class Protocol:
    """The rules of one connection.

    Args:
        server: we are the server; peers of servers mask (§5.1).
        max_size: bytes of the largest message taken, after inflation; None takes any.
        max_frame_size: bytes of the largest frame payload sent; None never splits.
        agreement: what was negotiated about compression, or None.

    Attributes:
        state: see the module docstring.
        event: result of the last `receive`, to be taken by the caller.
        output: frames that answer the peer, to be taken and sent in this order.
        inflated: bytes of the last compressed message before and after inflation, to be
            taken by the caller for its statistics.
        given: bytes of the message being read that `take_piece` has returned.
        close_code, close_reason, close_cause: how it ended, valid once CLOSED; the
            first reason stays.
    """

    __slots__ = (
        "_compressed",
        "_control",
        "_deflater",
        "_empty",
        "_first",
        "_head",
        "_inflater",
        "_key",
        "_message",
        "_opcode",
        "_remaining",
        "_taken",
        "_validator",
        "_wire_size",
        "agreement",
        "between_messages",
        "close_cause",
        "close_code",
        "close_reason",
        "event",
        "given",
        "inflated",
        "max_frame_size",
        "max_size",
        "output",
        "server",
        "state",
    )

    def __init__(
        self,
        *,
        server: bool = True,
        max_size: int | None = 2**20,
        max_frame_size: int | None = None,
        agreement: Agreement | None = None,
    ) -> None:
        self.server = server
        self.max_size = _NO_LIMIT if max_size is None else min(max_size, _NO_LIMIT)
        self.max_frame_size = max_frame_size or _NO_LIMIT
        self.agreement = agreement
        self.state = State.OPEN
        self.event: Event | None = None
        self.output: tuple[bytes, ...] = ()
        self.inflated: tuple[int, int] | None = None
        self.close_code: int | None = None
        self.close_reason = ""
        self.close_cause: CloseCause | None = None
        #: True while OPEN, at a frame boundary with no fragments waiting: then the next
        #: frame may be parsed elsewhere (by the fast path).
        self.between_messages = True
        # The frame being read: its header in pieces, or its payload.
        self._head: bytearray | None = None
        self._key: bytes | None = None
        self._first = 0
        self._remaining = -1  # missing bytes of payload; -1: a header is next
        self._taken = 0  # bytes of payload processed, for the masking key
        self._control = b""  # payload of a control frame received so far
        # The message being read: 0, TEXT or BINARY.
        self._opcode = 0
        self._compressed = False
        self._message = _NOTHING
        self._wire_size = 0
        self.given = 0
        self._empty = 0  # number of empty fragments
        self._validator = _IDLE_VALIDATOR
        # Created on first use: a window is tens of kilobytes (RFC 7692 §7.1).
        self._deflater: Deflater | None = None
        self._inflater: Inflater | None = None

    # Receiving

    def receive(self, data: Buffer, start: int, end: int) -> int:
        """Process bytes from the peer, up to the first one that produces an event.

        Args:
            data: no reference to it is kept.
            start: where the new bytes begin.
            end: where they end.

        Returns:
            Where it stopped; less than `end` only after an event, which is then in
            `event`, or within a compressed frame, so that the caller can look at the
            clock. Never raises for input from the peer: a fault fails the connection
            (RFC 6455 §7.1.7).
        """
        try:
            pos = self._receive(data, start, end)
        except ProtocolError as error:
            self.fail(error)
            pos = end
        self.between_messages = (
            self._remaining < 0
            and self._head is None
            and self._opcode == 0
            and self.state is State.OPEN
        )
        return pos

    def take_output(self) -> tuple[bytes, ...]:
        """Return the frames that answer the peer, and forget them."""
        output, self.output = self.output, ()
        return output

    def take_event(self) -> Event | None:
        """Return the event of the last `receive` and forget it."""
        event, self.event = self.event, None
        return event

    def receive_eof(self) -> None:
        """The peer has ended the connection without a close frame (§7.1.4)."""
        self.conclude(CloseCode.ABNORMAL, "", CloseCause.EOF)

    def conclude(self, code: int, reason: str, cause: CloseCause) -> None:
        """End the connection without sending anything; an earlier reason stays."""
        if self.state is not State.CLOSED:
            self._note_end(code, reason, cause)
            self._move(State.CLOSED)

    def _receive(self, data: Buffer, pos: int, end: int) -> int:
        while pos < end and self.event is None:
            if self.state is State.CLOSED:
                # §1.4: "After receiving a control frame indicating the connection
                # should be closed, a peer discards any further data received".
                return end
            if self._remaining < 0:
                pos = self._receive_header(data, pos, end)
            elif self.inflating and self.state is State.OPEN:
                pos = self._receive_payload(data, pos, min(end, pos + self._piece()))
                if self._remaining > 0:
                    break
            else:
                pos = self._receive_payload(data, pos, end)
        return pos

    def _piece(self) -> int:
        """Bytes of a compressed frame to be inflated at once, by those before them."""
        received = self._wire_size - self._remaining
        inflated = self.given + len(self._message)
        likely = _INFLATED_PIECE * received // (inflated or 1)
        return max(_FIRST_PIECE, min(_LAST_PIECE, likely))

    def _receive_header(self, data: Buffer, pos: int, end: int) -> int:
        if self._head is None:
            if end - pos >= 2:
                # Before the length, as below: which fault is reported must not depend
                # on how the bytes were split.
                self._check_start(data[pos], data[pos + 1])
                header = parse_header(data, pos, end)
                if header is not None:
                    self._begin_frame(*header[1:])
                    return pos + header[0]
            self._head = bytearray()
        head = self._head
        while pos < end:
            head.append(data[pos])
            pos += 1
            if len(head) == 2:
                self._check_start(head[0], head[1])
            header = parse_header(head, 0, len(head))
            if header is not None:
                self._head = None
                self._begin_frame(*header[1:])
                break
        return pos

    def _check_start(self, first: int, second: int) -> None:
        """Check the first two bytes of a frame (§5.2, §5.4, §5.5)."""
        opcode = first & 0x0F
        if first & _RSV:
            self._check_reserved(first, opcode)
        if opcode not in _OPCODES:
            raise ProtocolError(f"unknown opcode 0x{opcode:X}")
        if opcode & _CONTROL:
            if not first & _FIN:
                raise ProtocolError("fragmented control frame")
            if second & 0x7F > MAX_CONTROL_PAYLOAD:
                raise ProtocolError("control frame of more than 125 bytes")
        elif opcode == _CONTINUATION and not self._opcode:
            raise ProtocolError("continuation frame without a message to continue")
        elif opcode != _CONTINUATION and self._opcode:
            raise ProtocolError("new message inside a fragmented one")
        # §5.1: "a server MUST close the connection upon receiving a frame that is not
        # masked"; "a client MUST close a connection if it detects a masked frame".
        if bool(second & 0x80) is not self.server:
            raise ProtocolError("unmasked frame" if self.server else "masked frame")

    def _check_reserved(self, first: int, opcode: int) -> None:
        # RFC 7692 §6: RSV1 marks the first frame of a compressed message, and no other.
        if first & _RSV != _RSV1 or self.agreement is None:
            raise ProtocolError("reserved bits are set")
        if opcode not in (_TEXT, _BINARY):
            raise ProtocolError("RSV1 is set on a frame that begins no message")

    def _begin_frame(self, first: int, length: int, key: bytes | None) -> None:
        self._first = first
        self._key = key
        self._taken = 0
        self._remaining = length
        if first & _CONTROL:
            self._control = b""
        else:
            if first & 0x0F != _CONTINUATION:
                self._begin_message(first & 0x0F, bool(first & _RSV1))
            self._check_size(length)
        if length == 0:
            self._end_frame()

    def _begin_message(self, opcode: int, compressed: bool) -> None:
        self._opcode = opcode
        self._compressed = compressed
        self._message = bytearray()
        self._wire_size = self._empty = self.given = 0
        if opcode == _TEXT:
            self._validator = Utf8Validator()

    def _check_size(self, length: int) -> None:
        """Refuse a message as soon as a header shows that it will be too big."""
        if self.state is not State.OPEN:
            return  # our close frame is sent: further input is only skipped
        self._wire_size += length
        if length == 0:
            self._empty += 1
            if self._empty > MAX_EMPTY_FRAGMENTS:
                raise RateExceeded(
                    f"message with more than {MAX_EMPTY_FRAGMENTS:,} empty fragments"
                )
        if self._compressed:
            # Deflate may expand incompressible data: by 4 % in zlib's smallest blocks
            # (5 bytes for each 127, memory level 1), by 12 % with fixed codes. More
            # than a quarter would be an endless chain of empty blocks.
            if self._wire_size > self.max_size + (self.max_size >> 2) + 1024:
                self._too_big(f"{self._wire_size:,} compressed bytes")
        elif self._wire_size > self.max_size:
            self._too_big(f"{self._wire_size:,} bytes")

    def _too_big(self, size: str) -> None:
        raise MessageTooBig(f"message of {size} exceeds max_size {self.max_size:,}")

    def _receive_payload(self, data: Buffer, pos: int, end: int) -> int:
        stop = min(end, pos + self._remaining)
        piece: Buffer = data[pos:stop]
        if self._key is not None:
            piece = apply_mask(piece, self._key, self._taken)
        self._taken += stop - pos
        self._remaining -= stop - pos
        if self._first & _CONTROL:
            self._control += piece
        elif self.state is State.OPEN:
            self._append(piece)
        if self._remaining == 0:
            self._end_frame()
        return stop

    def _append(self, piece: Buffer) -> None:
        """Add a piece to the message; fail at the first wrong byte."""
        room = self.max_size - self.given - len(self._message)
        if self._compressed:
            piece = self.inflater().feed(piece, room)
        # Only the bytes within the limit are validated first: whether a text is wrong
        # or too long must not depend on how the stream was split.
        if self._opcode == _TEXT and not self._validator.feed(piece[:room]):
            raise InvalidData("text is not valid UTF-8")
        if len(piece) > room:
            raise MessageTooBig(f"message exceeds max_size {self.max_size:,} inflated")
        self._message += piece

    def inflater(self) -> Inflater:
        """The inflate context for the peer's messages, created on first use."""
        if self._inflater is None:
            assert self.agreement is not None
            self._inflater = Inflater(
                self.agreement.receive_window_bits, self.agreement.receive_takeover
            )
        return self._inflater

    def _end_frame(self) -> None:
        self._remaining = -1
        first = self._first
        if first & _CONTROL:
            _ON_CONTROL[first & 0x0F](self, self._control)
        elif first & _FIN:
            if self.state is State.OPEN:
                self._end_message()
            self._opcode = 0

    def _end_message(self) -> None:
        if self._compressed:
            self._compressed = False
            self.inflater().finish()
            self.inflated = (self._wire_size, self.given + len(self._message))
        message, self._message = self._message, _NOTHING
        if self._opcode == _BINARY:
            self.event = (_BINARY, bytes(message))
        elif not self._validator.finish():
            raise InvalidData("text ends inside a UTF-8 sequence")
        else:
            self.event = (_TEXT, str(message, "utf-8"))

    def take_piece(self) -> str | bytes:
        """Return what is there of the message being read, which then begins behind it.

        A text is cut between two characters. What is left comes with the event of the
        message, or with the next call; `given` tells whether it is only a part.
        """
        message = self._message
        if not message or self.state is not State.OPEN:
            return b""
        piece: str | bytes
        if self._opcode == _TEXT:
            piece, size = utf_8_decode(message, "strict", False)
        else:
            piece, size = bytes(message), len(message)
        self._message = message[size:]
        self.given += size
        return piece

    def put_back(self, message: bytes) -> None:
        """Undo `take_piece`: this is all that it has returned of the message."""
        self._message = bytearray(message) + self._message
        self.given = 0

    @property
    def expected(self) -> int:
        """Bytes of the current message, as far as its headers have been read."""
        return self._wire_size if self._opcode else 0

    @property
    def buffered_input(self) -> int:
        """Bytes of the incomplete message that are kept, after inflation."""
        return len(self._message)

    @property
    def remaining(self) -> int:
        """Missing bytes of the current frame, not counting its header."""
        return max(0, self._remaining)

    @property
    def inflating(self) -> bool:
        """Whether the current frame is inflated, possibly to many times its size."""
        return self._compressed and not self._first & _CONTROL

    # Control frames

    def _on_ping(self, payload: bytes) -> None:
        # §5.5.2: "Upon receipt of a Ping frame, an endpoint MUST send a Pong frame in
        # response, unless it already received a Close frame." Having sent one does not
        # matter: after it §5.5.1 forbids data frames only.
        self.output += (self._frame(_FIN | _PONG, payload),)
        if self.state is State.OPEN:
            self.event = (_PING, payload)

    def _on_pong(self, payload: bytes) -> None:
        if self.state is State.OPEN:
            self.event = (_PONG, payload)

    def _on_close(self, payload: bytes) -> None:
        code, reason = _parse_close(payload)
        if self.state is State.OPEN:
            # §5.5.1: "the endpoint typically echos the status code it received".
            self.output += (self._frame(_FIN | _CLOSE, payload[:2]),)
        self._note_end(code, reason, CloseCause.PEER)
        self._move(State.CLOSED)
        self.event = (_CLOSE, None)

    def fail(self, error: ProtocolError) -> None:
        """Fail the connection (RFC 6455 §7.1.7)."""
        reason = str(error)
        if self.state is State.OPEN:
            self.output += (self._close_frame(error.code, reason),)
        self._note_end(error.code, reason, error.cause)
        self._move(State.CLOSED)
        self.event = (_CLOSE, None)

    def _note_end(self, code: int, reason: str, cause: CloseCause) -> None:
        if self.close_cause is None:
            self.close_code = int(code)
            self.close_reason = reason
            self.close_cause = cause

    def _move(self, state: State) -> None:
        if state not in _STEPS[self.state]:
            raise AssertionError(f"no step from {self.state!r} to {state!r}")
        self.state = state
        self.between_messages = False
        if state is State.CLOSED:
            # Nothing is read or written any more: free the memory.
            self._message = _NOTHING
            self._deflater = self._inflater = None

    # Sending

    def send_message(self, opcode: int, payload: Buffer) -> bytes:
        """Frame one message, compressed and split as agreed (§5.4, RFC 7692 §7.2.1).

        Args:
            opcode: TEXT or BINARY.
            payload: UTF-8 for TEXT.
        """
        agreement = self.agreement
        if agreement is not None and len(payload) >= agreement.threshold:
            return self.frame_message(opcode | _RSV1, self.deflater().compress(payload))
        return self.frame_message(opcode, payload)

    def frame_message(self, first: int, payload: Buffer) -> bytes:
        """Frame one message, split as agreed.

        Args:
            first: TEXT or BINARY, with RSV1 where `payload` is compressed.
            payload: as sent on the wire.
        """
        limit = self.max_frame_size
        if first & _RSV1 and self.agreement is not None and not self.agreement.splits:
            limit = _NO_LIMIT
        if len(payload) <= limit:
            return self._frame(_FIN | first, payload)
        return self._fragments(first, memoryview(payload), limit, _FIN)

    def frame_piece(self, first: int, payload: bytes) -> bytes:
        """Frame a piece of a message that more will follow, split as agreed (§5.4).

        Args:
            first: TEXT or BINARY, with RSV1 where the pieces are compressed; for all
                pieces but the first one CONTINUATION.
            payload: as sent on the wire.
        """
        return self._fragments(first, memoryview(payload), self.max_frame_size, 0)

    def _fragments(
        self, first: int, payload: memoryview, limit: int, fin: int
    ) -> bytes:
        frames = []
        last = (len(payload) - 1) // limit * limit
        for start in range(0, last, limit):
            frames.append(self._frame(first, payload[start : start + limit]))
            first = _CONTINUATION
        frames.append(self._frame(fin | first, payload[last:]))
        return b"".join(frames)

    def deflater(self) -> Deflater:
        """The deflate context for our messages, created on first use."""
        if self._deflater is None:
            agreement = self.agreement
            assert agreement is not None
            self._deflater = Deflater(
                agreement.level,
                agreement.mem_level,
                agreement.send_window_bits,
                agreement.send_takeover,
            )
        return self._deflater

    def send_ping(self, payload: bytes) -> bytes:
        """A ping frame; `payload` has at most 125 bytes (§5.5.2)."""
        return self._frame(_FIN | _PING, payload)

    def send_close(
        self, code: int, reason: str, cause: CloseCause = CloseCause.LOCAL
    ) -> bytes:
        """Start the closing handshake (§7.1.2); the state becomes CLOSING."""
        self._note_end(code, reason, cause)
        self._move(State.CLOSING)
        return self._close_frame(code, reason)

    def _close_frame(self, code: int, reason: str) -> bytes:
        payload = code.to_bytes(2, "big") + truncate(reason).encode()
        return self._frame(_FIN | _CLOSE, payload)

    def _frame(self, first: int, payload: Buffer) -> bytes:
        # §5.3: "The masking key needs to be unpredictable".
        return build_frame(first, payload, None if self.server else os.urandom(4))


_ON_CONTROL: dict[int, Callable[[Protocol, bytes], None]] = {
    _CLOSE: Protocol._on_close,
    _PING: Protocol._on_ping,
    _PONG: Protocol._on_pong,
}


def _parse_close(payload: bytes) -> tuple[int, str]:
    """Code and reason of a close frame (RFC 6455 §5.5.1, §7.4)."""
    if not payload:
        return CloseCode.NO_STATUS, ""
    if len(payload) == 1:
        raise ProtocolError("close frame with a payload of one byte")
    code = int.from_bytes(payload[:2], "big")
    if not may_travel(code):
        raise ProtocolError(f"close code {code} may not be sent")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError as error:
        raise InvalidData("close reason is not valid UTF-8") from error


def truncate(reason: str) -> str:
    """The part of a reason that fits into a close frame; characters stay whole."""
    return str.encode(reason)[:MAX_CLOSE_REASON].decode(errors="ignore")


@lru_cache(maxsize=64)
def concluded(code: int, reason: str, cause: CloseCause) -> Protocol:
    """The protocol of every connection that has ended like this before it had one.

    It is CLOSED, and nothing changes it any more.
    """
    protocol = Protocol()
    protocol.conclude(code, reason, cause)
    return protocol
