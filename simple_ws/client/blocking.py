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
half done (`client.exclusive`). Moving it is left to `client.driving`, reading and
framing to `client.core`, opening to `client.opening`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..checks import duration
from ..constants import CloseCode
from ..errors import (
    ConnectionClosedOK,
    InvalidState,
)
from ..messages import check_close, check_ping, is_in_pieces
from .address import Address, ask, read_address
from .core import encode
from .driving import Answer, Driving
from .incoming import Stream
from .opening import Opener
from .options import check_client_options, check_tls_options
from .pieces import SENDING, OthersTurn, Outgoing, Pieces

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self, Unpack

    from .options import ConnectOptions

__all__ = ["Connection", "connect"]

_A = TypeVar("_A")
_B = TypeVar("_B")


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


class Connection(Driving):
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
            ConnectionClosedError: It ended with a code other than 1000 or 1001, or
                1005, which means that there was no code.
        """
        while True:
            try:
                message = self.recv()
            except ConnectionClosedOK:
                return
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
        message: Any = self._calls.run(self, self._recv, timeout, None)
        if isinstance(message, Exception):
            raise message
        return message  # type: ignore[no-any-return] # str or bytes

    def recv_streaming(self, timeout: float | None = None) -> Iterator[str | bytes]:
        """Wait for a message, and receive it in pieces, as they come.

        Pieces need not be the frames of the server: what has arrived is one piece. A
        large message is never in memory as a whole; `max_size` holds for the whole of
        it, and above `read_limit` of what waits the client stops reading.

        If you receive something else before its end, the rest is skipped.

        Args:
            timeout: seconds to wait for each piece; None: no limit.

        Returns:
            An iterator over the pieces: str for a text message, cut between characters,
            bytes for a binary one. An empty message is one empty piece. It raises

            - TimeoutError: Nothing came in time; you can go on with it.
            - ConnectionClosed: The connection has ended, also if it was in the middle
              of the message.
            - InvalidState: Another message has been received since.

        Raises:
            TypeError, ValueError: `timeout` is not a number of seconds.
        """
        if timeout is not None:
            timeout = duration("timeout", timeout)
        return Pieces(self, timeout)

    def send(self, msg: object, binary: bool | None = None) -> None:
        """Send a message (RFC 6455 §6.1).

        An iterable, such as a generator, is sent as one message in several frames
        (§5.4), each piece as it comes; another thread that sends waits for its end. If
        the iterable raises an exception after the first piece, the connection is closed
        with 1011, as the server cannot be told otherwise, and the exception is raised.
        Without any piece, nothing is sent.

        Returns when the operating system has accepted the message. While the server
        does not read, this receives messages for a later `recv`, up to `read_limit`, so
        that both sides can send at the same time.

        Args:
            msg: str is sent as text; bytes, bytearray and memoryview as binary; dict
                and list as JSON text. Or another iterable, of only str or only bytes.
            binary: True sends either as binary, False either as text.

        Raises:
            TypeError: A message of another type.
            ValueError: Bytes sent as text that are not valid UTF-8.
            InvalidState: An iterable that is being sent here sends another message.
            ConnectionClosed: The connection has ended, or ends now because the server
                has read nothing for `write_timeout` (cause `slow_consumer`).
        """
        try:
            opcode, payload = encode(msg, binary)
        except TypeError:
            if not is_in_pieces(msg):
                raise
            opcode = 0
        if not opcode:
            self._send_pieces(msg, binary)
            return
        error = self._calls.run(self, self._send, opcode, payload)
        if error is not None:
            while isinstance(error, OthersTurn):
                error.wait()
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

    def _send_pieces(self, pieces: Any, binary: bool | None) -> None:
        if not isinstance(pieces, Iterable):
            raise TypeError("an async iterable can be sent by the asyncio client only")
        Outgoing(self, binary).send(pieces)

    # The same, alone: errors are returned; what is raised came from elsewhere

    def _recv(self, timeout: float | None, _: None) -> Any:
        if not self._inbox or self._incoming is not None:
            error = self._wait_for_entry(timeout, None)
            if error is not None:
                return error
        if self._calls.waiting and self._full:
            self._calls.notify()  # there will be room for what others wait for
        self._make_room()
        return self._inbox.popleft()[0]

    def _recv_piece(self, stream: Stream, timeout: float | None) -> Any:
        error = self._wait_for_entry(timeout, stream)
        if error is not None:
            return error
        if self._calls.waiting and self._full:
            self._calls.notify()
        return self._take_piece(stream)

    def _wait_for_entry(
        self, timeout: float | None, stream: Stream | None
    ) -> Exception | None:
        """Wait for a message, or for a piece of one."""
        deadline = None if timeout is None else self._clock() + timeout
        while True:
            # Another thread may have done the other thing, while this one waited.
            if stream is None:
                self._leave_stream()
            elif stream.left:
                return stream.refusal()
            else:
                self._stream(stream)
            if self._inbox:
                return None
            came = self._wait_until(self._has_news, deadline)
            while not came and timeout == 0 and self._unread:
                # To the end: `select` will not tell that there is more.
                came = self._wait_until(self._has_news, deadline)
            if not came:
                return TimeoutError(f"no message within {timeout:g} s")
            if not self._inbox:
                return self._leave_with_error()

    def _send(self, opcode: int, payload: bytes) -> Exception | None:
        if self._outbox or not self.is_open():
            error = self._ready_to_send()
            if error is not None:
                return error
        if self._outgoing is not None:
            return self._outgoing.refusal()
        return self._send_frames(self._frame(opcode, payload))

    def _ready_to_send(self) -> Exception | None:
        """Wait until earlier output has been written."""
        if self._outbox:
            self._flush()
            self._wait_until(self._has_room, None)
        return None if self.is_open() else self._leave_with_error()

    def _send_frames(self, frames: bytes) -> Exception | None:
        # The connection is open, so the outbox is empty: `_put` has nothing to check.
        self._progress_at = self._clock()
        self._outbox.append(frames)
        self._flush()
        if self._outbox:
            self._wait_until(self._has_room, None)
        if self._outbox or self._eof or self._released:
            return self._leave_with_error()
        return None

    def _ping_and_wait(
        self, payload: bytes, timeout: float | None
    ) -> float | Exception:
        deadline = None if timeout is None else self._clock() + timeout
        if not self.is_open():
            return self._leave_with_error()
        if payload in self._answers:
            return InvalidState(f"a thread is waiting for the pong to {payload!r}")
        payload = self._ping(payload)
        answer = self._answers[payload] = Answer()
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
        return self._leave_with_error()

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
        if self._outgoing is not None:
            return InvalidState(SENDING)
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


def _refusal() -> InvalidState:
    return InvalidState(
        "this thread is inside a call of the same connection, which a signal handler "
        "or __del__ has interrupted: there only send and close can be called"
    )
