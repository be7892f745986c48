"""The blocking client: `connect(url)`, and the `Connection` it returns.

    with connect("ws://localhost:8080/") as ws:
        ws.send("hello")
        for message in ws:
            print(message)

There is no thread behind it: whoever waits (in `recv`, `ping`, `close`, or in `send`
for a slow server) moves the connection meanwhile: reads, answers pings, writes what
waits. Of several threads that wait one reads and one writes, for all. Code of the
user's that runs in the middle of that, in signal handlers and `__del__`, may send and
close, and what it raises leaves nothing half done. What is read and framed is
`client.core`, how the connection comes to be `protocol.client_handshake` and
`client.dial`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

from ..checks import duration
from ..constants import MAX_READ, CloseCause, CloseCode
from ..errors import (
    NO_ANSWER,
    NO_CLOSE_FRAME,
    ConnectError,
    ConnectionClosed,
    ConnectTimeout,
    InvalidState,
)
from ..messages import check_close, check_ping
from ..protocol.client_handshake import BODY_TIMEOUT, Accepted, Opening, Outcome
from ..protocol.proxy_tunnel import Tunnel
from ..protocol.uri import URI
from .address import Address, ask, read_address
from .core import (
    LINGER,
    ClientCore,
    encode,
    explain,
    may_end_quietly,
    unreachable,
)
from .dial import READ, WRITE, Socket, dial, dial_unix, start_tls, wait_for
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
    return _Opener(uri, checked).open()


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
        # Guards everything; given up only to wait. A thread may take it again: in a
        # signal handler, and then finds that it is `_busy` or one of those `_waiting`.
        self._mutex = threading.RLock()
        self._lock = threading.Condition(self._mutex)
        self._busy = False  # something is half done
        self._waiting: set[int] = set()  # threads, by their ids
        # What was raised in a thread that waited: it left nothing half done.
        self._raised_outside: dict[int, BaseException] = {}
        # What code in the middle of our lines has asked for.
        self._late: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
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
        message = self._run(self._recv, timeout, None)
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
        error = self._run(self._send, opcode, payload)
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
        latency = self._run(self._ping_and_wait, payload, timeout)
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
        self._run(self._close, code, str.__str__(reason))

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
        if self._waiting and self._full:
            self._lock.notify_all()  # there will be room for what others wait for
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

    def _close(self, code: int, reason: str) -> None:
        if self.is_open():
            self._start_close(code, reason)
        elif self._loss is not None:
            self._protocol.conclude(CloseCode.ABNORMAL, *self._loss)
        self._leave()

    # Running alone, although signal handlers and `__del__` run anywhere

    def _run(self, job: Callable[[_A, _B], _T], first: _A, second: _B) -> _T:
        """Do something while no other thread does.

        What is raised on the way came in the middle of our lines, from a signal handler
        most likely; the connection ends then, unless we were waiting.

        Args:
            job: what to do; in a signal handler or `__del__` that runs while this
                thread is here already, `_within` takes its place.
            first: its first argument.
            second: its second one. Always two: this is on the path of every message,
                and a call with `*args` is slower.
        """
        with self._mutex:
            if self._busy or (self._waiting and get_ident() in self._waiting):
                result: _T = self._within(job, first, second)
                return result
            try:
                self._busy = True
                return job(first, second)
            except BaseException as error:
                if self._raised_outside.pop(get_ident(), None) is not error:
                    self._cut()
                raise
            finally:
                self._busy = False
                if self._late:
                    self._do_late()

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
        self._do_late(self._send_queued, opcode, payload)
        return None

    def _send_queued(self, opcode: int, payload: bytes) -> None:
        if self.is_open():
            self._put(self._frame(opcode, payload))
            self._flush()

    def _close_within(self, code: int, reason: str) -> None:
        self._do_late(self._close_queued, code, reason)

    def _close_queued(self, code: int, reason: str) -> None:
        if self.is_open():
            self._start_close(code, reason)
            self._flush()
            self._elsewhere(self._close, code, reason)

    def _do_late(self, *job: Any) -> None:
        """Do what was asked for in the middle of our lines, as soon as none is on.

        Args:
            job: one more: a function and its arguments.
        """
        if job:
            self._late.append((job[0], job[1:]))
        while self._late and not self._busy:
            self._busy = True
            try:
                self._do_queued()
            except BaseException:
                self._cut()
                raise
            finally:
                self._busy = False
        if self._outbox and get_ident() in self._waiting:
            self._elsewhere(self._wait_until, self._has_room, None)

    def _do_queued(self) -> None:
        while self._late:
            step, args = self._late.popleft()
            step(*args)

    def _elsewhere(
        self, job: Callable[[_A, _B], object], first: _A, second: _B
    ) -> None:
        """Have another thread wait: this one is in the middle of something."""
        run = partial(self._run, job, first, second)
        with suppress(RuntimeError):  # there are none at the end of the interpreter
            threading.Thread(target=run, daemon=True).start()

    def _cut(self) -> None:
        super()._cut()
        self._waiting.discard(get_ident())
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
            if self._late:
                self._do_queued()
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
            if self._waiting:
                self._lock.notify_all()

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
        thread, ready = get_ident(), 0
        self._waiting.add(thread)
        self._busy = False
        try:
            # From here on signal handlers do by themselves what they would queue.
            if self._late:
                return 0
            if events:
                self._mutex.release()
                ready = _wait_for(self._sock, events, timeout)
                self._mutex.acquire()
            else:
                self._lock.wait(timeout)
        except BaseException as error:
            self._take_back()
            self._raised_outside[thread] = error
            raise
        finally:
            self._busy = True
            self._waiting.discard(thread)
            if self._released and not self._waiting:
                self._sock.close()
        return 0 if self._released else ready

    def _take_back(self) -> None:
        """Hold the mutex, which an interrupted wait may have given up."""
        while True:
            try:
                self._lock.notify(0)  # raises where it is not ours
                return
            except RuntimeError:
                with suppress(BaseException):  # one more interrupt
                    self._mutex.acquire()

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
        self._outbox.clear()
        self._close_socket()
        self._lock.notify_all()
        self._log_end()

    def _close_socket(self) -> None:
        if self._waiting:
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


class _Opener:
    """Opens one connection.

    Args:
        uri: the address given by the user.
        options: of the client.
    """

    def __init__(self, uri: URI, options: ClientOptions) -> None:
        self._home = uri
        self._options = options
        self._opening = Opening(uri, options, stay=options.unix is not None)
        self._deadline = _clock() + options.open_timeout
        self._refused = False

    def open(self) -> Connection:
        while True:
            uri = self._opening.uri
            try:
                sock = self._reach(uri)
                try:
                    outcome = self._exchange(sock, self._opening)
                    if outcome is Outcome.OPEN:
                        accepted = self._opening.accepted
                        return Connection(sock, uri, accepted, self._options)
                except BaseException:
                    sock.close()
                    raise
                sock.close()
            except OSError as error:
                if isinstance(error, ConnectError):
                    raise
                raise explain(uri, error) from error

    def _left(self) -> float:
        """Seconds until the deadline.

        Raises:
            ConnectTimeout: It has passed.
        """
        left = self._deadline - _clock()
        if left <= 0:
            limit = f"{self._options.open_timeout:g} s"
            raise ConnectTimeout(self._opening.uri.shown, f"not open within {limit}")
        return left

    def _reach(self, uri: URI) -> Socket:
        """A socket to the server, with TLS if the address requires it."""
        tls = self._options.tls_to(uri, self._home)
        sock = self._connect(uri)
        if tls is None:
            return sock
        return start_tls(sock, *tls, self._left)

    def _connect(self, uri: URI) -> socket.socket:
        options = self._options
        if options.unix is not None:
            return dial_unix(options.unix, self._left)
        proxy = options.proxy_to(uri)
        if proxy is None:
            return dial(uri.host, uri.port, options.source_address, self._left)
        return self._connect_by(proxy, uri)

    def _connect_by(self, proxy: URI, uri: URI) -> socket.socket:
        source, sock = self._options.source_address, None
        try:
            sock = dial(proxy.host, proxy.port, source, self._left)
            self._exchange(sock, Tunnel(proxy, uri, self._options.user_agent))
            return sock
        except BaseException as error:
            if sock is not None:
                sock.close()
            if isinstance(error, ConnectError) or not isinstance(error, OSError):
                raise
            raise unreachable(proxy, uri, error) from error

    def _exchange(self, sock: Socket, asking: Any) -> Any:
        """Send a request and return its outcome (`Opening` or `Tunnel`)."""
        request = memoryview(asking.begin())
        while request:
            try:
                request = request[sock.send(request) :]
            except BlockingIOError:
                _wait_for(sock, WRITE, self._left())
        outcome = None
        while not outcome:
            data = self._receive(sock, asking)
            outcome = asking.receive(data) if data else asking.receive_eof()
        return outcome

    def _receive(self, sock: Socket, asking: Any) -> bytes:
        while True:
            try:
                return sock.recv(_FIRST_READ)
            except BlockingIOError:
                self._wait_for_answer(sock, asking)
            except OSError:
                if not asking.refused:
                    raise
                return b""

    def _wait_for_answer(self, sock: Socket, asking: Any) -> None:
        if not asking.refused:
            _wait_for(sock, READ, self._left())
            return
        # The outcome is known; only an explanation may follow.
        if not self._refused:
            self._refused = True
            self._deadline = min(self._deadline, _clock() + BODY_TIMEOUT)
        timeout = self._deadline - _clock()
        if timeout <= 0 or not _wait_for(sock, READ, timeout):
            asking.refuse()
