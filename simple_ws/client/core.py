"""The common part of both clients: a connection after its opening handshake.

`ClientCore` reads messages out of bytes into an inbox that has a limit, answers pings,
notes pongs, and knows how the connection ended. It drives `protocol` for that; the
ordinary message, whole in one frame, it reads and frames by itself. Sockets, waiting,
time-outs and threads are left to `blocking` and `aio_connection`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from os import urandom
from typing import Any

from ..constants import FAULTS, CloseCause, CloseCode, Opcode, State
from ..errors import ConnectionClosed, connection_closed
from ..messages import encode_message
from ..protocol.client_handshake import Accepted
from ..protocol.fields import Headers
from ..protocol.keepalive import (
    Action,
    Pings,
    beat_payload,
    next_action,
    next_look,
    no_answer,
)
from ..protocol.uri import URI
from ..protocol.websocket import Protocol
from ..speedups import build_frame
from .incoming import Incoming, Part, Stream
from .options import ClientOptions

__all__ = ["LINGER", "ClientCore", "encode"]

logger = logging.getLogger("simple_ws")

_TEXT = int(Opcode.TEXT)
_BINARY = int(Opcode.BINARY)
_PONG = 0x80 | Opcode.PONG
_FINAL_TEXT = 0x80 | _TEXT
_FINAL_BINARY = 0x80 | _BINARY

#: Seconds for the server to close the connection after the closing handshake: it should
#: close first (RFC 6455 §7.1.1), but nothing else is waited for.
LINGER = 1.0
#: Bytes that a waiting message counts besides its payload: empty ones must count, too.
_OVERHEAD = 64
#: Seconds of work on input before others may run: other tasks of an event loop, other
#: threads, the deadline of a waiting caller. The same as for the server.
_LONG_TURN = 0.002
#: Bytes of input between two readings of the clock, except for a longer uncompressed
#: frame: 2,048 empty frames, or what 4 MiB of zeros compress to.
_SLICE = 4096
#: The same for plain messages, as the inbox counts them: some thousand small ones.
_MANY = 64 * 1024

_NOTHING = Accepted(Headers(()), None, None, b"")


def encode(msg: object, binary: bool | None) -> tuple[int, bytes]:
    """A message's opcode and its bytes.

    May run code of the user's, such as `encode` of a subclass of str: to be called
    before anything is begun.

    Raises:
        TypeError: A message of another type.
        ValueError: Bytes sent as text that are not valid UTF-8.
    """
    if binary is None:
        if type(msg) is str:
            return _TEXT, msg.encode()
        if type(msg) is bytes:
            return _BINARY, msg
    return encode_message(msg, binary)


class ClientCore:
    """One open connection, as seen by its client.

    Args:
        uri: of the server, after redirects.
        accepted: what was agreed in the opening handshake; None where it is still to
            come, and `_agree` to be called then.
        options: of this client.
        clock: seconds that never run backwards.

    Attributes:
        url: the server's address, after redirects, without user and password.
        headers: the header fields of the server's opening handshake.
        subprotocol: what was agreed (RFC 6455 §1.9), or None.
        latency: seconds from the last answered ping to its pong, or None.
    """

    # Kept out of the instance's dictionary, to which subclasses and users add: above 30
    # keys CPython 3.11 no longer shares them between instances, and every attribute and
    # method costs more. With 33, `send` of the blocking client took 8 % longer.
    __slots__ = (
        "_clock",
        "_inbox",
        "_inbox_size",
        "_incoming",
        "_last_received",
        "_loss",
        "_options",
        "_pinged_at",
        "_pings",
        "_plain_below",
        "_protocol",
        "_read_from",
        "_rest",
        "_shown",
        "headers",
        "latency",
        "subprotocol",
        "url",
    )

    def __init__(
        self,
        uri: URI,
        accepted: Accepted | None,
        options: ClientOptions,
        clock: Callable[[], float],
    ) -> None:
        self.url = str(uri)
        self._shown = uri.shown
        self.latency: float | None = None
        self._options = options
        self._clock = clock
        self._agree(accepted or _NOTHING)
        # Messages, or the parts of one, and what each counts.
        self._inbox: deque[tuple[Any, int]] = deque()
        self._incoming: Incoming | None = None  # what is received in pieces
        self._inbox_size = 0
        # Input that is not parsed yet, because the inbox is full.
        self._rest = b""
        self._read_from = 0
        # Why no more input follows: the connection is gone.
        self._loss: tuple[str, CloseCause] | None = None
        self._pings = Pings()
        self._last_received = clock()
        self._pinged_at: float | None = None

    def _agree(self, accepted: Accepted) -> None:
        """Begin with what was agreed in the opening handshake."""
        self.headers: Headers = accepted.headers
        self.subprotocol = accepted.subprotocol
        options, agreement = self._options, accepted.agreement
        self._protocol = Protocol(
            server=False,
            max_size=options.max_size,
            max_frame_size=options.max_frame_size,
            agreement=agreement,
        )
        # Payloads below this are sent as they are, in one frame.
        self._plain_below = self._protocol.max_frame_size + 1
        if agreement is not None:
            self._plain_below = min(self._plain_below, agreement.threshold)

    # What users may read

    @property
    def compressed(self) -> bool:
        """Whether permessage-deflate was agreed (RFC 7692)."""
        return self._protocol.agreement is not None

    @property
    def close_code(self) -> int | None:
        """The close code that ended the connection, from either side; None while open.

        1005: the peer's close frame had no code; 1006: there was no close frame
        (RFC 6455 §7.1.5).
        """
        return self._protocol.close_code

    @property
    def close_reason(self) -> str:
        """The reason sent with the close code."""
        return self._protocol.close_reason

    @property
    def close_cause(self) -> CloseCause | None:
        """Why the connection ended, see `CloseCause`; None while open."""
        return self._protocol.close_cause

    def is_open(self) -> bool:
        """Whether messages can be sent: not closing, closed or lost."""
        return self._protocol.state is State.OPEN and self._loss is None

    def __repr__(self) -> str:
        state = self._protocol.state.name.lower()
        return f"<{type(self).__name__} {self._shown} {state}>"

    # What the owner of the socket provides

    def _put(self, frame: bytes) -> None:
        """Queue a frame for sending."""
        raise AssertionError("to be provided")

    def _put_pong(self, frame: bytes) -> None:
        """The same for a pong; it may replace one that has not been sent yet.

        RFC 6455 §5.5.3: an endpoint that has not sent the pongs of earlier pings yet
        "MAY elect to send a Pong frame for only the most recently processed Ping".
        """
        raise AssertionError("to be provided")

    def _on_pong(self, payload: bytes, latency: float) -> None:
        """A ping was answered, by its own pong or by a later one."""

    # Receiving

    @property
    def _full(self) -> bool:
        """Whether reading must stop until messages are taken."""
        waiting = self._inbox_size >= self._options.read_limit
        return waiting and self._protocol.state is State.OPEN

    @property
    def _unread(self) -> bool:
        """Whether input is left for another turn (`_read_on`)."""
        return bool(self._rest) and not self._full

    @property
    def _ended(self) -> bool:
        """Whether no message can enter the inbox any more."""
        return self._protocol.state is State.CLOSED

    def _feed(self, data: bytes) -> None:
        """Process bytes from the server."""
        self._last_received = self._clock()
        if self._rest:
            data = self._rest[self._read_from :] + data
        self._rest, self._read_from = data, 0
        self._read_on()

    def _lose(self, reason: str, cause: CloseCause) -> None:
        """The connection is gone; earlier input may still be parsed."""
        if self._loss is None:
            self._loss = (reason, cause)
            self._read_on()

    def _read_on(self) -> None:
        """Parse input while the inbox has room, for one turn.

        Input that exceeds the turn is `_unread` afterwards, for another call.
        """
        protocol, data, pos = self._protocol, self._rest, self._read_from
        end, turn_ends = len(data), None
        while pos < end and not self._full:
            if protocol.between_messages:
                pos = self._read_whole(data, pos, end)
                if pos == end or self._full:
                    break
            stop = pos + _SLICE
            if stop < end and protocol.remaining > _SLICE and not protocol.inflating:
                stop = pos + protocol.remaining
            pos = protocol.receive(data, pos, min(stop, end))
            self._follow()
            if self._incoming is not None:
                self._incoming.collect(self)
            now = self._clock()
            if turn_ends is None:
                turn_ends = now + _LONG_TURN
            elif now >= turn_ends:
                break
        if pos < end:
            self._rest, self._read_from = data, pos
            return
        self._rest, self._read_from = b"", 0
        if self._loss is not None:
            protocol.conclude(CloseCode.ABNORMAL, *self._loss)

    def _read_whole(self, data: bytes, pos: int, end: int) -> int:
        """Take the plain messages at the front: whole, in one frame, uncompressed.

        Stops before anything else, faults included: `protocol` handles those. Also
        after many messages, to read the clock.
        """
        max_size = self._protocol.max_size
        room = min(self._options.read_limit, self._inbox_size + _MANY)
        while end - pos >= 2 and self._inbox_size < room:
            first, length = data[pos], data[pos + 1]
            start = pos + 2
            if length == 126 and end - pos >= 4:
                length = data[pos + 2] << 8 | data[pos + 3]
                start = pos + 4
                if length < 126:
                    break
            elif length >= 126:  # includes masked frames
                break
            stop = start + length
            if stop > end or length > max_size:
                break
            payload = data[start:stop]
            if first == _FINAL_TEXT:
                try:
                    self._keep(payload.decode(), length)
                except UnicodeDecodeError:
                    break
            elif first == _FINAL_BINARY:
                self._keep(payload, length)
            else:
                break
            pos = stop
        return pos

    def _follow(self) -> None:
        """Act on what the protocol found: send its answers, keep its message."""
        protocol = self._protocol
        for frame in protocol.take_output():
            if frame[0] == _PONG:
                self._put_pong(frame)
            else:
                self._put(frame)
        event = protocol.take_event()
        if event is None:
            return
        opcode, payload = event
        if opcode == _BINARY:
            self._receive(payload, len(payload))
        elif opcode == _TEXT:
            # Counted in characters: equal to bytes for ASCII.
            size = len(payload) if payload.isascii() else len(payload.encode())
            self._receive(payload, size)
        elif opcode == Opcode.PONG:
            self._note_pong(payload)

    def _receive(self, payload: str | bytes, size: int) -> None:
        """A message has come; or its end, if it is received in pieces."""
        if self._protocol.given:
            assert self._incoming is not None
            self._incoming.end(self, payload, size)
        else:
            self._keep(payload, size)

    def _stream(self, stream: Stream) -> None:
        """Receive the next message in pieces; or go on with it."""
        if self._incoming is None:
            self._incoming = Incoming(self)
        self._incoming.begin(self, stream)

    def _leave_stream(self) -> None:
        """Receive the next message as a whole; skip the rest of another one."""
        if self._incoming is not None and self._incoming.stream is not None:
            self._incoming.leave(self)
            self._read_on()

    def _take_piece(self, stream: Stream) -> str | bytes | None:
        """The next piece from the inbox, which is not empty; None: nothing more."""
        piece = stream.note(self._inbox[0][0])
        if stream.over and self._incoming is not None:
            self._incoming.stream = None
        self._take()
        return piece

    def _keep(self, message: str | bytes | Part, size: int) -> None:
        size += _OVERHEAD
        self._inbox.append((message, size))
        self._inbox_size += size

    def _take(self) -> str | bytes:
        """The oldest message; taking it makes room for more.

        Raises:
            IndexError: There is none.
        """
        self._make_room()
        message: str | bytes = self._inbox.popleft()[0]
        return message

    def _make_room(self) -> None:
        """Count the oldest message as taken, and read on.

        It is taken as the last thing of all, so that what is raised in between by a
        signal handler does not lose it.
        """
        self._inbox_size -= self._inbox[0][1]
        if self._rest:
            self._read_on()

    def _closed(self) -> ConnectionClosed:
        """The exception for calls that need an open connection."""
        protocol = self._protocol
        if protocol.close_cause is not None:
            assert protocol.close_code is not None
            return connection_closed(
                protocol.close_code, protocol.close_reason, protocol.close_cause
            )
        assert self._loss is not None
        return connection_closed(CloseCode.ABNORMAL, *self._loss)

    # Sending

    def _frame(self, opcode: int, payload: bytes) -> bytes:
        """A message as it travels; it must be sent then, as it has been compressed."""
        if len(payload) < self._plain_below:
            # RFC 6455 §5.3: "The masking key needs to be unpredictable".
            return build_frame(0x80 | opcode, payload, urandom(4))
        return self._protocol.send_message(opcode, payload)

    # Pings

    def _ping(self, payload: bytes) -> bytes:
        """Send a ping; return its payload, a unique one if it was empty."""
        payload = payload or beat_payload()
        self._pings.note(payload, self._clock())
        self._put(self._protocol.send_ping(payload))
        return payload

    def _note_pong(self, payload: bytes) -> None:
        for answered, latency in self._pings.answer(payload, self._clock()):
            self.latency = latency
            self._on_pong(answered, latency)

    def _keep_alive(self, now: float) -> bool:
        """Ping a silent server; False when it has not answered for too long."""
        interval, timeout = self._options.ping_interval, self._options.ping_timeout
        action, self._pinged_at = next_action(
            now, self._last_received, self._pinged_at, interval, timeout
        )
        if action is Action.PING:
            self._ping(b"")
        return action is not Action.GIVE_UP

    def _next_beat(self) -> float | None:
        """When `_keep_alive` is due, by the clock."""
        interval, timeout = self._options.ping_interval, self._options.ping_timeout
        return next_look(self._last_received, self._pinged_at, interval, timeout)

    def _give_up_silent(self) -> None:
        """The server has not answered a ping: close, without waiting for an answer."""
        assert self._options.ping_timeout is not None
        reason = no_answer(self._options.ping_timeout)
        self._put(
            self._protocol.send_close(
                CloseCode.INTERNAL_ERROR, reason, CloseCause.PING_TIMEOUT
            )
        )
        self._protocol.conclude(CloseCode.ABNORMAL, reason, CloseCause.PING_TIMEOUT)

    def _give_up_slow(self) -> None:
        """The server does not read: end without a close frame, unread as the rest."""
        reason = f"the server has read nothing for {self._options.write_timeout:g} s"
        self._protocol.conclude(CloseCode.ABNORMAL, reason, CloseCause.SLOW_CONSUMER)

    # Ending

    def _cut(self) -> None:
        """End here and now: something was raised between two of our own lines.

        A signal handler did, most likely. Nobody knows what had been read or sent, and
        payload must not be taken for frames. Whole messages can still be received.
        """
        self._rest, self._read_from = b"", 0
        self._protocol.conclude(
            CloseCode.ABNORMAL, "interrupted by an exception", CloseCause.LOCAL
        )

    def _start_close(self, code: int, reason: str) -> None:
        """Start the closing handshake; messages that come now are skipped."""
        self._put(self._protocol.send_close(code, reason))
        self._read_on()

    def _log_end(self) -> None:
        """Say how it ended; once, and worth a line where it is a fault."""
        level = logging.INFO if self.close_cause in FAULTS else logging.DEBUG
        logger.log(level, "%s: %s", self._shown, self._closed())
