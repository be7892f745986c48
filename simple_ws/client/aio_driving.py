"""`Driving`: an open connection as the transports of asyncio move it.

Their events, backpressure in both directions, and what is due at some time. What users
call is in `client.aio_connection`, which waits for it; parsing and framing are in
`client.core`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ..constants import CloseCause, CloseCode
from ..errors import NO_ANSWER, NO_CLOSE_FRAME
from ..protocol.client_handshake import Accepted
from ..protocol.uri import URI
from .core import LINGER, ClientCore
from .options import ClientOptions

if TYPE_CHECKING:
    from .aio_pieces import Outgoing

__all__ = ["Driving"]

_T = TypeVar("_T")

#: Bytes of unsent output above which `send` waits; asyncio's own default.
_HIGH_WATER = 64 * 1024

_clock = time.monotonic


class Driving(ClientCore):
    """See the head of the module.

    Args:
        transport: carries the messages.
        socket_transport: the same, or the one below TLS.
        uri: of the server, after redirects.
        accepted: what was agreed in the opening handshake.
        options: of the client.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        socket_transport: asyncio.Transport,
        uri: URI,
        accepted: Accepted,
        options: ClientOptions,
    ) -> None:
        # Not the loop's clock: uvloop's has a resolution of milliseconds.
        super().__init__(uri, accepted, options, _clock)
        loop = self._asyncio_loop = asyncio.get_running_loop()
        self.address: Any = transport.get_extra_info("peername")
        self._transport = transport
        self._socket_transport = socket_transport  # the same, or that below TLS
        self._receiver: asyncio.Future[None] | None = None
        self._senders: deque[asyncio.Future[None]] = deque()
        self._answers: dict[bytes, asyncio.Future[float]] = {}
        self._outgoing: Outgoing | None = None  # a message that is sent in pieces
        self._gone: asyncio.Future[None] = loop.create_future()
        self._sends = 0
        self._receives = 0  # without waiting
        self._reading_on = False  # the loop is asked for another turn of reading
        self._writing_paused = False  # the transport takes no more
        # The transport does not read: the inbox is full, or input is left to process.
        self._reading_paused = False
        self._last_pong: bytes | None = None  # waits until the transport takes more
        self._unsent = 0  # bytes in the transport when it was last checked
        self._beat: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._leaving = False  # the current timer is the last one
        transport.set_write_buffer_limits(_HIGH_WATER)
        transport.set_protocol(_Events(self))
        self._arm_beat()
        if accepted.rest:
            self._atomically(self._data_received, accepted.rest)

    # What `ClientCore` requires

    def _put(self, frame: bytes) -> None:
        # asyncio logs warnings for writes to an aborted transport.
        if self._loss is None and not self._transport.is_closing():
            self._transport.write(frame)

    def _put_pong(self, frame: bytes) -> None:
        if self._writing_paused:
            self._last_pong = frame
        else:
            self._put(frame)

    def _on_pong(self, payload: bytes, latency: float) -> None:
        answer = self._answers.get(payload)
        if answer is not None:
            _resolve(answer, latency)

    # Events of the transport (`_Events`)

    def _data_received(self, data: bytes) -> None:
        """Bytes were received."""
        self._feed(data)
        self._wake_waiters()

    def _eof_received(self) -> bool:
        """The server sends no more; asyncio then closes the transport."""
        self._lose(NO_CLOSE_FRAME, CloseCause.EOF)
        self._wake_waiters()
        return False

    def _connection_lost(self, error: Exception | None) -> None:
        """The connection is lost or closed."""
        if isinstance(error, OSError):
            self._lose(error.strerror or str(error), CloseCause.RESET)
        else:
            self._lose(NO_CLOSE_FRAME, CloseCause.EOF)
        for timer in (self._beat, self._stall, self._ending):
            if timer is not None:
                timer.cancel()
        _resolve(self._gone, None)
        self._wake_waiters()
        self._log_end()

    def _pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._writing_paused = True
        self._watch_output()

    def _resume_writing(self) -> None:
        """The transport's buffer has room again."""
        self._writing_paused = False
        if self._stall is not None:
            self._stall.cancel()
        pong, self._last_pong = self._last_pong, None
        if pong is not None and self.is_open():
            self._put(pong)
        self._wake_waiters()

    # Interrupts

    def _atomically(self, step: Callable[..., _T], *args: Any) -> _T:
        """Take a step as a whole; the connection ends where something is raised in it.

        Nothing of ours is: it was a signal handler, or memory has run out.
        """
        try:
            return step(*args)
        except BaseException:
            self._cut()
            raise

    def _cut(self) -> None:
        super()._cut()
        self._transport.abort()
        if not self._asyncio_loop.is_closed():
            self._asyncio_loop.call_soon(self._wake_waiters)

    # Following what has come to be

    def _begin_close(self, code: int, reason: str) -> None:
        if self.is_open():
            self._start_close(code, reason)
        elif self._loss is not None:
            self._protocol.conclude(CloseCode.ABNORMAL, *self._loss)
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        """Wake tasks whose wait is over, and pause or resume reading."""
        if self._inbox or self._ended:
            _resolve(self._receiver, None)
        unread = self._unread
        if unread and not self._reading_on:
            self._reading_on = True
            self._asyncio_loop.call_soon(self._atomically, self._read_rest)
        paused = unread or self._full
        if paused is not self._reading_paused:
            self._pause_reading(paused)
        if self.is_open():
            if not self._writing_paused:
                self._wake_senders()
            return
        self._wake_senders()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._closed())
        self._wait_for_end()

    def _read_rest(self) -> None:
        """Continue with input left over from earlier turns."""
        self._reading_on = False
        if self._unread:
            self._read_on()
        self._wake_waiters()

    def _wake_senders(self) -> None:
        for sender in self._senders:
            _resolve(sender, None)

    def _pause_reading(self, paused: bool) -> None:
        """Pause or resume reading."""
        self._reading_paused = paused
        if not self._transport.is_closing():
            if paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _wait_for_end(self) -> None:
        """Have the transport closed: by the server, or by us after `close_timeout`.

        RFC 6455 §7.1.1: the client "SHOULD wait for the server to close the connection
        but MAY close the connection at any time subject to the definitions". The
        timeout starts when our last frame has been written.
        """
        if self._gone.done() or self._leaving:
            return
        # Not 0: with TLS an empty buffer would count as full then.
        self._transport.set_write_buffer_limits(1, 0)
        if self._writing_paused and self._loss is None:
            return  # `_resume_writing` comes back here
        delay = self._options.close_timeout
        if self._ended or self._loss is not None:
            self._leaving = True
            delay = min(delay, LINGER)
        elif self._ending is not None:
            return
        if self._ending is not None:
            self._ending.cancel()
        self._ending = self._asyncio_loop.call_later(
            delay, self._atomically, self._on_close_timeout
        )

    def _on_close_timeout(self) -> None:
        reason = NO_ANSWER
        self._protocol.conclude(CloseCode.ABNORMAL, reason, CloseCause.LOCAL)
        self._transport.abort()

    # Time

    def _arm_beat(self) -> None:
        due = self._next_beat()
        if due is not None:
            delay = max(0.0, due - self._clock())
            self._beat = self._asyncio_loop.call_later(
                delay, self._atomically, self._on_beat
            )

    def _on_beat(self) -> None:
        """Ping a silent server, or give up."""
        if not self.is_open():
            return
        if self._reading_paused or self._writing_paused:
            # While we do not read, silence is our fault; a pong would wait as well.
            self._last_received = self._clock()
        elif not self._keep_alive(self._clock()):
            self._give_up_silent()
            self._transport.abort()
            self._wake_waiters()
            return
        self._arm_beat()

    def _watch_output(self) -> None:
        self._unsent = self._count_unsent()
        delay = self._options.write_timeout
        self._stall = self._asyncio_loop.call_later(
            delay, self._atomically, self._on_stall
        )

    def _on_stall(self) -> None:
        """Check whether the server has read at least something."""
        if self._count_unsent() < self._unsent:
            self._watch_output()
            return
        self._give_up_slow()
        self._transport.abort()
        self._wake_waiters()

    def _count_unsent(self) -> int:
        """Bytes waiting in the transport, and in the one below TLS."""
        layers = {self._transport, self._socket_transport}
        return sum(layer.get_write_buffer_size() for layer in layers)


class _Events(asyncio.Protocol):
    """The asyncio callbacks, kept apart from the user's connection."""

    def __init__(self, connection: Driving) -> None:
        self._connection = connection

    def data_received(self, data: bytes) -> None:
        try:
            self._connection._data_received(data)
        except BaseException:
            self._connection._cut()
            raise

    def eof_received(self) -> bool:
        return self._connection._atomically(self._connection._eof_received)

    def connection_lost(self, error: Exception | None) -> None:
        self._connection._atomically(self._connection._connection_lost, error)

    def pause_writing(self) -> None:
        self._connection._atomically(self._connection._pause_writing)

    def resume_writing(self) -> None:
        self._connection._atomically(self._connection._resume_writing)


def _resolve(future: asyncio.Future[Any] | None, value: Any) -> None:
    """Set a result, unless the waiting task was cancelled."""
    if future is not None and not future.done():
        future.set_result(value)
