"""`Driving`: an open blocking connection as whoever waits moves it.

Reads, answers pings, writes what waits, and knows when one of its times is over. What
users call is in `client.blocking`, which says what to wait for; one thread is let in at
a time by `client.exclusive`.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..constants import MAX_READ, CloseCause, CloseCode
from ..errors import NO_ANSWER, NO_CLOSE_FRAME, ConnectionClosed
from ..protocol.client_handshake import Accepted
from ..protocol.uri import URI
from .background import keepalive_thread
from .core import LINGER, ClientCore
from .dial import READ, WRITE, Socket, wait_for
from .exclusive import ExclusiveCalls
from .options import ClientOptions

if TYPE_CHECKING:
    from .pieces import Outgoing

__all__ = ["Answer", "Driving"]

_PONG = b"\x8a"
#: Frames waiting to be sent above which only the last pong is kept.
_MANY_FRAMES = 128
#: Size of the first read, in bytes.
_FIRST_READ = 64 * 1024
#: Smallest read: the largest record of TLS. OpenSSL keeps the rest of a record, and
#: waiting for the socket would not report it.
_LEAST_READ = 16 * 1024
#: Seconds of reading at once while nobody waits for messages.
_LONG_LOOK = 0.01
#: Seconds to read what the server sent before it left, once a write has failed.
_LAST_WORDS = 0.05
#: A thread that only waits to write checks after this many seconds whether it must read
#: as well: otherwise two peers that send to each other might wait for ever.
_TAKE_OVER = 0.05

_clock = time.monotonic
_wait_for = wait_for


class Answer:
    """The outcome of a ping."""

    __slots__ = ("came", "latency")

    def __init__(self) -> None:
        self.came = False
        self.latency = 0.0


class Driving(ClientCore):
    """See the head of the module.

    Args:
        sock: connected and non-blocking; with TLS after its handshake.
        uri: of the server, after redirects.
        accepted: what was agreed in the opening handshake.
        options: of the client.
    """

    def __init__(
        self, sock: Socket, uri: URI, accepted: Accepted, options: ClientOptions
    ) -> None:
        super().__init__(uri, accepted, options, _clock)
        self.address: Any = None
        with suppress(OSError):  # it may have been reset already
            self.address = sock.getpeername()
        self._sock = sock
        self._calls = ExclusiveCalls()  # guards everything
        # Frames that the system has not taken; the first may be a part of one.
        self._outbox: deque[bytes | memoryview] = deque()
        self._progress_at = self._last_received  # when the system last took some
        self._read_size = _FIRST_READ
        # Bytes may be available that waiting would not report.
        self._readable = True
        self._covered = 0  # what threads wait for at the socket, for all
        self._eof = False
        self._released = False
        self._answers: dict[bytes, Answer] = {}  # pings whose pongs are awaited
        self._outgoing: Outgoing | None = None  # a message that is sent in pieces
        if accepted.rest:
            self._feed(accepted.rest)
            self._flush()
        if options.background:
            keepalive_thread.add(self)

    # What `blocking` provides, see `exclusive.CallHost`

    def _within(self, job: Callable[..., Any], first: Any, second: Any) -> Any:
        """Do what can be done while this thread is inside another call."""
        raise AssertionError("to be provided")

    def _do_queued(self) -> None:
        """Do what is queued."""
        raise AssertionError("to be provided")

    # What `ClientCore` asks for

    def _put(self, frame: bytes) -> None:
        if not self._eof and not self._released:
            if not self._outbox:
                self._progress_at = self._clock()
            self._outbox.append(frame)

    def _put_pong(self, frame: bytes) -> None:
        last = self._outbox[-1] if len(self._outbox) > _MANY_FRAMES else b""
        if isinstance(last, bytes) and last[:1] == _PONG:
            self._outbox.pop()
        self._put(frame)

    def _on_pong(self, payload: bytes, latency: float) -> None:
        answer = self._answers.get(payload)
        if answer is not None:
            answer.came = True
            answer.latency = latency

    # Conditions to wait for

    @property
    def _over(self) -> bool:
        """Whether the closing handshake is done, or cannot be done any more."""
        return self._ended or self._eof

    def _has_news(self) -> bool:
        return bool(self._inbox) or self._ended

    def _has_room(self) -> bool:
        return not self._outbox or self._over

    def _is_gone(self) -> bool:
        return self._eof or self._released

    # Waiting: the lock is held, and released only while waiting

    def _wait_until(self, done: Callable[[], bool], deadline: float | None) -> bool:
        """Drive the connection until a condition holds; False at the deadline."""
        while not done():
            if self._calls.queued:
                self._calls.do_queued_within()
            events = self._wanted() & ~self._covered
            if events:
                self._move(events, deadline)
            else:  # other threads do it, or the inbox is full until a message is taken
                left = None if deadline is None else deadline - self._clock()
                self._wait_unlocked(0, left)
            if deadline is not None and self._clock() >= deadline:
                return done()
        return True

    def _move(self, events: int, deadline: float | None) -> None:
        """Wait for the socket and handle its events, for all threads."""
        self._covered |= events
        try:
            if self._rest and self._unread and events & READ:
                self._read_rest(events)
            else:
                self._wait_and_read(events, deadline)
            if self._outbox:
                self._flush()
        finally:
            self._covered &= ~events
            if self._calls.waiting:
                self._calls.notify()

    def _wait_and_read(self, events: int, deadline: float | None) -> None:
        ready = events
        if not self._readable or not events & READ:
            ready = self._wait_unlocked(events, self._time_to_wait(events, deadline))
        if ready & READ:
            self._read()
        if not ready or (self._outbox and self._is_stalled()):
            self._on_time()

    def _read_rest(self, events: int) -> None:
        """Process input left over from a turn; other threads may run in between."""
        if not self._released:
            self._wait_unlocked(events, 0.0)
        self._read_on()
        if self._is_stalled():
            self._on_time()

    def _is_stalled(self) -> bool:
        """Whether the server does not read, whatever it sends."""
        timeout = self._options.write_timeout
        return bool(self._outbox) and self._clock() - self._progress_at >= timeout

    def _wait_unlocked(self, events: int, timeout: float | None) -> int:
        """Let others come in; what is raised meanwhile leaves nothing half done.

        Args:
            events: to wait for at the socket; 0 waits until another thread has news.
            timeout: seconds; None waits for ever.

        Returns:
            The events the socket is ready for; 0 also if there is something to do
            first, or the connection has been released.
        """
        try:
            ready = self._calls.wait(_wait_for, self._sock, events, timeout)
        finally:
            if self._released and not self._calls.waiting:
                self._sock.close()
        return 0 if self._released else ready

    def _wanted(self) -> int:
        """The events that the socket must be watched for."""
        done = self._full or (self._eof and not self._rest)
        reading = 0 if done else READ
        return reading | (WRITE if self._outbox else 0)

    def _time_to_wait(self, events: int, deadline: float | None) -> float | None:
        """Seconds until the next deadline."""
        times = [] if deadline is None else [deadline]
        if self._outbox:
            times.append(self._progress_at + self._options.write_timeout)
        beat = self._next_beat() if self.is_open() else None
        if beat is not None:
            times.append(beat)
        left = min(times) - self._clock() if times else None
        if not events & READ:
            # The reading thread may leave, or the inbox have room again: check.
            left = _TAKE_OVER if left is None else min(left, _TAKE_OVER)
        return left

    def _on_time(self) -> None:
        """Nothing happened before a deadline: find out which one has passed."""
        now = self._clock()
        if self._released:
            return
        if self._is_stalled():
            self._give_up_slow()
            self._release()
        elif self._full or self._outbox:
            # While we do not read, silence is our fault; a pong would wait as well.
            self._last_received = now
        elif self.is_open() and not self._keep_alive(now):
            self._give_up_silent()
            self._flush()
            self._release()

    # Called from time to time by the thread of `client.background`

    def _do_what_is_due(self) -> None:
        if not self._calls.waiting:
            self._calls.run(self, self._do_due, None, None)

    def _do_due(self, _: None, __: None) -> None:
        """Do what is due, without waiting; a thread that waits does it by itself."""
        if self._released or self._calls.waiting:
            return
        self._readable = True
        turn_ends = self._clock() + _LONG_LOOK
        while self._readable and not self._full and not self._eof:
            self._read()
            if self._clock() >= turn_ends:
                break
        if self._unread:
            self._read_on()
        if self._outbox:
            self._flush()
        self._on_time()
        if self._outbox:
            self._flush()
        if self._eof and not self._rest:
            self._leave()

    # The socket

    def _read(self) -> None:
        self._readable = False
        size = self._read_size
        try:
            data = self._sock.recv(size)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno is None:
                raise  # not the system: a signal handler did, such as TimeoutError
            self._on_end(error.strerror or str(error), CloseCause.RESET)
            return
        if not data:
            self._on_end(NO_CLOSE_FRAME, CloseCause.EOF)
            return
        if len(data) == size:
            self._readable = True
            self._read_size = min(size * 2, MAX_READ)
        elif len(data) < size >> 2 and size > _FIRST_READ:
            self._read_size = size >> 1
        self._feed(data)
        if self._rest and self._unread and not self._inbox:
            self._read_size = _LEAST_READ  # much work, and no result

    def _flush(self) -> None:
        """Write as much output as the system takes."""
        outbox = self._outbox
        while outbox:
            first = outbox[0]
            try:
                sent = self._sock.send(first)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno is None:
                    raise  # as in `_read`
                self._on_write_error(error)
                return
            if sent == len(first):
                outbox.popleft()
                if outbox:
                    self._progress_at = self._clock()
            else:
                self._progress_at = self._clock()
                outbox[0] = memoryview(first)[sent:]

    def _on_write_error(self, error: OSError) -> None:
        """The server has gone; unread input may still contain its reason."""
        self._outbox.clear()
        self._readable = True
        deadline = self._clock() + _LAST_WORDS
        while self._readable and not self._full and not self._eof:
            self._read()
            while self._unread and self._clock() < deadline:
                self._read_on()
            if self._clock() >= deadline:
                break
        self._on_end(error.strerror or str(error), CloseCause.RESET)

    def _on_end(self, reason: str, cause: CloseCause) -> None:
        self._eof = True
        self._outbox.clear()
        self._lose(reason, cause)

    # Ending

    def _leave_with_error(self) -> ConnectionClosed:
        """Release a connection that is not open; return the exception to raise."""
        self._leave()
        return self._closed()

    def _leave(self) -> None:
        """Wait for the server to close the connection, then release it.

        RFC 6455 §7.1.1: the client "SHOULD wait for the server to close the connection
        but MAY close the connection at any time subject to the definitions".
        """
        if not self._released:
            self._wait_until(self._has_room, None)
            deadline = self._clock() + self._options.close_timeout
            self._wait_until(lambda: self._ended or self._is_gone(), deadline)
            deadline = min(deadline, self._clock() + LINGER)
            self._wait_until(self._is_gone, deadline)
        if not self._eof:
            reason = NO_ANSWER
            self._protocol.conclude(CloseCode.ABNORMAL, reason, CloseCause.LOCAL)
        self._release()

    def _release(self) -> None:
        """Close the socket; nothing more is read or written."""
        if self._released:
            return
        self._released = True
        keepalive_thread.remove(self)
        self._outbox.clear()
        self._close_socket()
        self._calls.notify()
        self._log_end()

    def _close_socket(self) -> None:
        if self._calls.waiting:
            # The descriptor must not be given away while somebody waits for it.
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        else:
            self._sock.close()
