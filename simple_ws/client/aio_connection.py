"""One connection of the asyncio client: what users call, and its waiting.

What moves it is in `client.aio_driving`, opening and reconnecting in `aio`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING

from ..checks import duration
from ..constants import CloseCode
from ..errors import ConnectionClosedOK, InvalidState
from ..messages import check_close, check_ping, is_in_pieces
from .aio_driving import Driving
from .aio_pieces import BREATH, Outgoing, Pieces
from .core import encode
from .incoming import Stream

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["Connection"]

_RECEIVING = "another task is receiving from this connection"


class Connection(Driving):
    """An open connection to a server; `connect` creates it.

    It belongs to one event loop. Several tasks can send; only one at a time can
    receive. Cancelling has no half effects: a cancelled `recv` loses no message, a
    cancelled `send` has not sent.

    Attributes:
        url: the server's address, after redirects, without user and password.
        headers: the header fields of the server's opening handshake.
        subprotocol: what was agreed (RFC 6455 §1.9), or None.
        latency: seconds from the last answered ping to its pong, or None.
        address: (host, port) of the server, or of the proxy to it.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close: 1000, 1011 after an error, 1001 if the task is cancelled."""
        if kind is None:
            await self.close()
        elif issubclass(kind, Exception):
            await self.close(CloseCode.INTERNAL_ERROR)
        else:
            await self.close(CloseCode.GOING_AWAY)

    def __aiter__(self) -> Self:
        """Iterate over messages until the connection ends.

        Raises:
            ConnectionClosedError: It ended with a code other than 1000 or 1001, or
                1005, which means that there was no code.
        """
        return self

    async def __anext__(self) -> str | bytes:
        try:
            return await self.recv()
        except ConnectionClosedOK:
            raise StopAsyncIteration from None

    async def recv(self, timeout: float | None = None) -> str | bytes:
        """Wait for a message.

        Args:
            timeout: seconds; None waits until a message arrives or the connection ends.

        Returns:
            str for a text message, bytes for a binary one.

        Raises:
            TypeError, ValueError: `timeout` is not a number of seconds.
            TimeoutError: No message arrived in time; the connection stays usable.
            ConnectionClosed: The connection has ended, and all messages were received.
            InvalidState: Another task is receiving.
        """
        if timeout is not None:
            timeout = duration("timeout", timeout)
        if self._incoming is not None and self._incoming.stream is not None:
            self._atomically(self._leave_own_stream)
        if self._inbox:
            self._receives += 1
            if self._receives >= BREATH or (self._reading_paused and self._unread):
                # Let others have their turn: messages come faster than they are taken.
                self._receives = 0
                await asyncio.sleep(0)
        if not self._inbox:
            self._receives = 0
            if timeout is None:
                await self._wait_for_news()
            else:
                await self._wait_for_news_within(timeout)
            if self._incoming is not None and self._incoming.stream is not None:
                raise InvalidState(_RECEIVING)
        if not self._inbox:
            raise self._closed()
        try:
            self._make_room()
            if self._reading_paused:
                self._wake_waiters()
            message: str | bytes = self._inbox.popleft()[0]
            return message
        except BaseException:
            self._cut()
            raise

    def recv_streaming(self) -> AsyncIterator[str | bytes]:
        """Receive the next message in pieces, as they come.

        Pieces need not be the frames of the server: what has arrived is one piece. A
        large message is never in memory as a whole; `max_size` holds for the whole of
        it, and above `read_limit` of what waits the client stops reading.

        If you receive something else before its end, the rest is skipped. Cancelling
        loses nothing; you can go on with the same iterator.

        Returns:
            An async iterator over the pieces: str for a text message, cut between
            characters, bytes for a binary one. An empty message is one empty piece. It
            raises

            - ConnectionClosed: The connection has ended, also if it was in the middle
              of the message.
            - InvalidState: Another task is receiving, or another message has been
              received since.
        """
        return Pieces(self)

    async def send(self, msg: object, binary: bool | None = None) -> None:
        """Send a message (RFC 6455 §6.1).

        Waits while too much earlier output has not been read by the server; the message
        itself is then accepted whole.

        An iterable or async iterable, such as a generator, is sent as one message in
        several frames (§5.4), each piece as it comes; another task that sends waits for
        its end. If the iterable raises an exception after the first piece, or the task
        is cancelled then, the connection is closed with 1011, as the server cannot be
        told otherwise, and the exception is raised. Without any piece, nothing is sent.

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
            await Outgoing(self, binary).send(msg)
            return
        self._sends += 1
        if not self._sends % BREATH:
            await asyncio.sleep(0)
        if self._writing_paused or self._outgoing is not None:
            await self._wait_for_turn()
        if not self.is_open():
            raise self._closed()
        try:
            self._transport.write(self._frame(opcode, payload))
        except BaseException:
            self._cut()
            raise

    async def ping(
        self, payload: bytes | str = b"", timeout: float | None = None
    ) -> float:
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
            InvalidState: Another task is waiting for the pong to this payload.
            TimeoutError: No pong arrived in time; the connection stays usable.
            ConnectionClosed: The connection has ended.
        """
        payload = check_ping(payload)
        if timeout is not None:
            timeout = duration("timeout", timeout)
        timeout = self._options.ping_timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(timeout):
                return await self._ping_and_wait(payload)
        except TimeoutError:
            raise TimeoutError(f"no pong within {timeout:g} s") from None

    async def close(self, code: int = 1000, reason: str = "") -> None:
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
        self._atomically(self._begin_close, code, reason)
        # Shielded: others wait for it as well.
        await asyncio.shield(self._gone)

    async def wait_closed(self, timeout: float | None = None) -> None:
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
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._gone)  # others wait for it as well
        except TimeoutError:
            raise TimeoutError(f"not closed within {timeout:g} s") from None

    # Waiting

    def _leave_own_stream(self) -> None:
        """Receive a message as a whole, unless another task is receiving pieces."""
        if self._receiver is None or self._receiver.done():
            self._leave_stream()
            self._wake_waiters()

    async def _recv_piece(self, stream: Stream) -> str | bytes | None:
        """The next piece of a message; None: nothing more."""
        if stream.left:
            raise stream.refusal()
        if self._inbox and self._reading_paused and self._unread:
            await asyncio.sleep(0)  # as in `recv`
        if self._receiver is None or self._receiver.done():
            self._atomically(self._stream, stream)
        await self._wait_for_news()
        if not self._inbox:
            raise self._closed()
        piece = self._atomically(self._take_piece, stream)
        if self._reading_paused:
            self._wake_waiters()
        return piece

    async def _wait_for_news(self) -> None:
        while not self._inbox and not self._ended:
            # If it is done, its task has not run since then.
            if self._receiver is not None and not self._receiver.done():
                raise InvalidState(_RECEIVING)
            self._receiver = self._asyncio_loop.create_future()
            await self._receiver

    async def _wait_for_news_within(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._wait_for_news()
        except TimeoutError:
            if not self._inbox and not self._ended:
                raise TimeoutError(f"no message within {timeout:g} s") from None

    async def _wait_for_room(self) -> None:
        while self._writing_paused and self.is_open():
            await self._wait_in_line()

    async def _wait_for_turn(self) -> None:
        """Wait for room, and for the end of a message in pieces."""
        while self.is_open():
            if self._outgoing is not None:
                self._outgoing.check_task()
            elif not self._writing_paused:
                return
            await self._wait_in_line()

    async def _wait_in_line(self) -> None:
        sender = self._asyncio_loop.create_future()
        self._senders.append(sender)
        try:
            await sender
        finally:
            with suppress(ValueError):
                self._senders.remove(sender)

    async def _ping_and_wait(self, payload: bytes) -> float:
        await self._wait_for_room()
        if not self.is_open():
            raise self._closed()
        if payload in self._answers:
            raise InvalidState(f"a task is waiting for the pong to {payload!r}")
        payload = self._atomically(self._ping, payload)
        answer: asyncio.Future[float] = self._asyncio_loop.create_future()
        self._answers[payload] = answer
        try:
            return await answer
        finally:
            self._answers.pop(payload, None)
            self._pings.pop(payload, None)
