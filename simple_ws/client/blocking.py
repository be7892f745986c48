"""The blocking client: `connect(url)`, and the `Connection` it returns.

    with connect("ws://localhost:8080/") as ws:
        ws.send("hello")
        for message in ws:
            print(message)

Whoever waits (in `recv`, `ping`, `close`, or in `send` for a slow server) moves the
connection meanwhile: reads, answers pings, writes what waits. While nobody does,
`client.background` has a look at it from time to time. Of several threads that wait one
reads and one writes, for all. Code of the user's that runs in the middle of that, in
signal handlers and `__del__`, may send and close, and what it raises leaves nothing
half done (`client.exclusive`). Reading and framing is left to `client.core`, opening to
`client.opening`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..checks import duration
from ..constants import MAX_READ, CloseCause, CloseCode
from ..errors import (
    NO_ANSWER,
    NO_CLOSE_FRAME,
    ConnectionClosed,
    InvalidState,
)
from ..messages import check_close, check_ping
from ..protocol.client_handshake import Accepted
from ..protocol.uri import URI
from .address import Address, ask, read_address
from .background import attendant
from .core import (
    LINGER,
    ClientCore,
    encode,
    may_end_quietly,
)
from .dial import READ, WRITE, Socket, wait_for
from .exclusive import ExclusiveCalls
from .opening import Opener
from .options import ClientOptions, check_client_options, check_tls_options

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self, Unpack

    from .options import ConnectOptions

__all__ = ["Connection", "connect"]

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

_A = TypeVar("_A")
_B = TypeVar("_B")
_T = TypeVar("_T")

_clock = time.monotonic
_wait_for = wait_for


def connect(url: Address, **options: Unpack[ConnectOptions]) -> Connection:
    """Open a connection to a WebSocket server (RFC 6455 §4.1).

    Args:
        url: such as "wss://example.com/chat?room=1"; a user and password in it are sent
            as Basic credentials. Or a function that returns the address; it is called
            once, and its time does not count.
        options: see `client.options.ClientOptions`.

    Returns:
        The open connection; close it by `with` or `close`.

    Raises:
        TypeError, ValueError: An option is wrong; `InvalidURI`: the address is wrong.
        HandshakeRefused: The server answered with a status other than 101.
        ConnectError: The connection failed, see `errors` for the kinds; or the function
            for the address raised an `OSError`. Its other exceptions are passed on.
    """
    uri = read_address(url)
    checked = check_client_options(uri, options)
    if uri is None:
        assert callable(url)
        uri = ask(url)
        check_tls_options(uri, options)
    return Opener(uri, checked).open(partial(Connection, options=checked))


class Connection(ClientCore):
    """An open connection to a server; `connect` creates it.

    One thread can send while another receives; every method can be called from any
    thread.

    A signal handler or `__del__` may run while its thread is in a call of the same
    connection. There `send` only queues the message, `close` only starts the closing
    handshake, and `recv` and `ping` raise `InvalidState`. An exception out of a signal
    handler (Ctrl-C) leaves the connection usable where it came while we waited, as it
    nearly always does, and ends it otherwise (1006).

    Attributes:
        url: the server's address, after redirects, without user and password.
        headers: the header fields of the server's opening handshake.
        subprotocol: what was agreed (RFC 6455 §1.9), or None.
        latency: seconds from the last answered ping to its pong, or None.
        address: (host, port) of the server, or of the proxy to it.
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
        self._answers: dict[bytes, _Answer] = {}  # pings whose pongs are awaited
        if accepted.rest:
            self._feed(accepted.rest)
            self._flush()
        if options.background:
            attendant.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close: 1000, 1011 after an error, 1001 if the program is ending."""
        if kind is None:
            self.close()
        elif issubclass(kind, Exception):
            self.close(CloseCode.INTERNAL_ERROR)
        else:
            self.close(CloseCode.GOING_AWAY)

    def __iter__(self) -> Iterator[str | bytes]:
        """Iterate over messages until the connection ends.

        Raises:
            ConnectionClosed: It ended with a code other than 1000 or 1001, or 1005,
                which means that there was no code.
        """
        while True:
            try:
                message = self.recv()
            except ConnectionClosed as error:
                if may_end_quietly(error):
                    return
                raise
            yield message

    # What users may do

    def recv(self, timeout: float | None = None) -> str | bytes:
        """Wait for a message.

        Args:
            timeout: seconds; None waits until a message arrives or the connection ends.
                0 does not wait.

        Returns:
            str for a text message, bytes for a binary one.

        Raises:
            TypeError, ValueError: `timeout` is not a number of seconds.
            TimeoutError: No message arrived in time; the connection stays usable.
            ConnectionClosed: The connection has ended, and all messages were received.
        """
        if timeout is not None:
            timeout = duration("timeout", timeout)
        message = self._calls.run(self, self._recv, timeout, None)
        if isinstance(message, Exception):
            raise message
        return message

    def send(self, msg: object, binary: bool | None = None) -> None:
        """Send a message (RFC 6455 §6.1).

        Returns when the operating system has accepted the message. While the server
        does not read, this receives messages for a later `recv`, up to `read_limit`, so
        that both sides can send at the same time.

        Args:
            msg: str is sent as text; bytes, bytearray and memoryview as binary; dict
                and list as JSON text.
            binary: True sends either as binary, False either as text.

        Raises:
            TypeError: A message of another type.
            ValueError: Bytes sent as text that are not valid UTF-8.
            ConnectionClosed: The connection has ended, or ends now because the server
                has read nothing for `write_timeout` (cause `slow_consumer`).
        """
        opcode, payload = encode(msg, binary)
        error = self._calls.run(self, self._send, opcode, payload)
        if error is not None:
            raise error

    def ping(self, payload: bytes | str = b"", timeout: float | None = None) -> float:
        """Send a ping and wait for its pong (RFC 6455 §5.5.2).

        Messages that arrive in the meantime wait for `recv`; above `read_limit` the
        client stops reading, so the pong cannot arrive either.

        Args:
            payload: at most 125 bytes; when empty, a unique one is used.
            timeout: seconds; None takes `ping_timeout`.

        Returns:
            The round-trip time in seconds.

        Raises:
            TypeError, ValueError: The payload or `timeout` is wrong.
            InvalidState: Another thread is waiting for the pong to this payload.
            TimeoutError: No pong arrived in time; the connection stays usable.
            ConnectionClosed: The connection has ended.
        """
        payload = check_ping(payload)
        if timeout is not None:
            timeout = duration("timeout", timeout)
        timeout = self._options.ping_timeout if timeout is None else timeout
        latency = self._calls.run(self, self._ping_and_wait, payload, timeout)
        if isinstance(latency, Exception):
            raise latency
        return latency

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection (RFC 6455 §7.1.2), and wait until it is closed.

        The server has `close_timeout` to answer. Messages that arrived before can still
        be received, those that arrive now are discarded. Does nothing on a connection
        that has ended.

        Args:
            code: the close code to send; one that may be sent on the wire (§7.4).
            reason: text for people, at most 123 bytes of UTF-8.

        Raises:
            TypeError: `code` is not an int, or `reason` not a str.
            ValueError: The code must not be sent, or the reason is too long.
        """
        code = check_close(code, reason)
        self._calls.run(self, self._close, code, str.__str__(reason))

    def wait_closed(self, timeout: float | None = None) -> None:
        """Wait until the connection is closed, by whichever side.

        Messages that arrive in the meantime wait for `recv`; above `read_limit` the
        client stops reading, and does not see the server's close frame.

        Args:
            timeout: seconds; None is no limit.

        Raises:
            TypeError, ValueError: `timeout` is not a number of seconds.
            TimeoutError: It was not closed in time; the connection stays usable.
        """
        if timeout is not None:
            timeout = duration("timeout", timeout)
        error = self._calls.run(self, self._wait_closed, timeout, None)
        if error is not None:
            raise error

    def fileno(self) -> int:
        """The file descriptor, for `select` and similar; -1 once closed.

        Messages may be buffered without the system's knowledge: when the descriptor
        becomes readable, call `recv(0)` until it raises `TimeoutError`.
        """
        return self._sock.fileno()

    # The same, alone: errors are returned; what is raised came from elsewhere

    def _recv(self, timeout: float | None, _: None) -> str | bytes | Exception:
        if not self._inbox:
            deadline = None if timeout is None else self._clock() + timeout
            came = self._wait_until(self._has_news, deadline)
            while not came and timeout == 0 and self._unread:
                # To the end: `select` will not tell that there is more.
                came = self._wait_until(self._has_news, deadline)
            if not came:
                return TimeoutError(f"no message within {timeout:g} s")
        if not self._inbox:
            return self._farewell()
        if self._calls.waiting and self._full:
            self._calls.notify()  # there will be room for what others wait for
        self._make_room()
        return self._inbox.popleft()[0]

    def _send(self, opcode: int, payload: bytes) -> Exception | None:
        if self._outbox:
            self._flush()
            self._wait_until(self._has_room, None)
        if not self.is_open():
            return self._farewell()
        # The connection is open, so the outbox is empty: `_put` has nothing to check.
        self._progress_at = self._clock()
        self._outbox.append(self._frame(opcode, payload))
        self._flush()
        if self._outbox:
            self._wait_until(self._has_room, None)
        if self._outbox or self._eof or self._released:
            return self._farewell()
        return None

    def _ping_and_wait(
        self, payload: bytes, timeout: float | None
    ) -> float | Exception:
        deadline = None if timeout is None else self._clock() + timeout
        if not self.is_open():
            return self._farewell()
        if payload in self._answers:
            return InvalidState(f"a thread is waiting for the pong to {payload!r}")
        payload = self._ping(payload)
        answer = self._answers[payload] = _Answer()
        self._flush()
        try:
            came = self._wait_until(lambda: answer.came or self._over, deadline)
        finally:
            self._answers.pop(payload, None)
            self._pings.pop(payload, None)
        if answer.came:
            return answer.latency
        if not came:
            return TimeoutError(f"no pong within {timeout:g} s")
        return self._farewell()

    def _wait_closed(self, timeout: float | None, _: None) -> Exception | None:
        deadline = None if timeout is None else self._clock() + timeout
        if not self._wait_until(lambda: not self.is_open(), deadline):
            return TimeoutError(f"not closed within {timeout:g} s")
        self._leave()
        return None

    def _close(self, code: int, reason: str) -> None:
        if self.is_open():
            self._start_close(code, reason)
        elif self._loss is not None:
            self._protocol.conclude(CloseCode.ABNORMAL, *self._loss)
        self._leave()

    # Called from time to time by the thread of `client.background`

    def _attend(self) -> None:
        if not self._calls.waiting:
            self._calls.run(self, self._attend_alone, None, None)

    def _attend_alone(self, _: None, __: None) -> None:
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

    # Calls of a thread that is inside another call already

    def _within(self, job: Callable[..., Any], first: Any, second: Any) -> Any:
        """Do what can be done while this thread is inside another call."""
        if job == self._send:
            return self._send_within(first, second)
        if job == self._close:
            return self._close_within(first, second)
        return _refusal()

    def _send_within(self, opcode: int, payload: bytes) -> Exception | None:
        if not self.is_open():
            return self._closed()
        self._calls.queue(self._send_queued, opcode, payload)
        self._do_queued()
        return None

    def _send_queued(self, opcode: int, payload: bytes) -> None:
        if self.is_open():
            self._put(self._frame(opcode, payload))
            self._flush()

    def _close_within(self, code: int, reason: str) -> None:
        self._calls.queue(self._close_queued, code, reason)
        self._do_queued()

    def _close_queued(self, code: int, reason: str) -> None:
        if self.is_open():
            self._start_close(code, reason)
            self._flush()
            self._elsewhere(self._close, code, reason)

    def _do_queued(self) -> None:
        self._calls.do_queued(self)
        if self._outbox and self._calls.is_waiting():
            self._elsewhere(self._wait_until, self._has_room, None)

    def _elsewhere(
        self, job: Callable[[_A, _B], object], first: _A, second: _B
    ) -> None:
        """Have another thread wait: this one is in the middle of something."""
        run = partial(self._calls.run, self, job, first, second)
        with suppress(RuntimeError):  # there are none at the end of the interpreter
            threading.Thread(target=run, daemon=True).start()

    def _cut(self) -> None:
        super()._cut()
        self._calls.leave()
        self._eof = True
        self._release()
        self._close_socket()  # `_release` may be what was interrupted

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
                self._go_on(events)
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

    def _go_on(self, events: int) -> None:
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

    def _farewell(self) -> ConnectionClosed:
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
        attendant.remove(self)
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


def _refusal() -> InvalidState:
    return InvalidState(
        "this thread is inside a call of the same connection, which a signal handler "
        "or __del__ has interrupted: there only send and close can be called"
    )


class _Answer:
    """The outcome of a ping."""

    __slots__ = ("came", "latency")

    def __init__(self) -> None:
        self.came = False
        self.latency = 0.0
