"""`AsyncClient`: a connection that a coroutine owns (`WebSocket.on_connect`).

Its methods wait; what they wait for is in `inbox` and `drains`. Running the coroutine
is left to `handlers.owned`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from ..checks import duration
from ..constants import CloseCause, CloseCode
from ..errors import (
    ConnectionClosed,
    ConnectionClosedOK,
    InvalidState,
    connection_closed,
)
from ..messages import check_ping
from ..protocol.keepalive import beat_payload
from .client import Client
from .inbox import Inbox

if TYPE_CHECKING:
    from typing import Self

__all__ = ["AsyncClient", "Closed"]

#: Bytes of output of this turn after which `send` writes it, to see whether there is
#: room for more; asyncio's own limit.
_HIGH_WATER = 64 * 1024
#: Messages after which `send` lets other tasks run, as in the asyncio client.
_BREATH = 64


class AsyncClient(Client):
    """One open connection, owned by a coroutine; see `WebSocket.on_connect`.

    All that `Client` has, and methods that wait. These belong to the asyncio loop that
    the server runs in; others can be called from any thread, as ever. Several tasks can
    send; only one at a time can receive. Cancelling has no half effects: a cancelled
    `recv` loses no message, a cancelled `send` has not sent.
    """

    __slots__ = ("_inbox", "_sending", "_sends")

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._inbox = Inbox(self)
        self._sending = False
        self._sends = 0

    def __aiter__(self) -> Self:
        """Iterate over messages until the connection ends.

        Raises:
            ConnectionClosedError: It ended with a code other than 1000 or 1001, or
                1005, which says that the close frame had none.
        """
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.recv()
        except ConnectionClosedOK:
            raise StopAsyncIteration from None

    async def recv(self, timeout: float | None = None) -> Any:
        """Wait for a message.

        While 128 messages or 64 KiB wait, the server does not read from the client.

        Args:
            timeout: seconds; None waits until a message arrives or the connection ends.

        Returns:
            str for a text message, bytes for a binary one; or what middlewares have
            made of it.

        Raises:
            TypeError, ValueError: `timeout` is not a number of seconds.
            TimeoutError: No message arrived in time; the connection stays usable.
            ConnectionClosed: The connection has ended, and all messages were received.
            InvalidState: Another task is receiving.
        """
        inbox = self._inbox
        if not inbox.messages:
            if timeout is None:
                await inbox.wait()
            else:
                await self._wait_within(duration("timeout", timeout))
            if not inbox.messages:
                raise self._closed()
        return inbox.take()

    async def send(  # type: ignore[override] # it waits
        self, msg: object, binary: bool | None = None
    ) -> None:
        """Send a message, as `write_message`; wait first while the client takes none.

        The message itself is then accepted whole: a client that reads, however slowly,
        is not disconnected as a slow consumer (option `slow_consumer`) by `send`. One
        that reads nothing is, in the end: by the heartbeat (`ping_timeout`).

        Args:
            msg: see `write_message`.
            binary: see `write_message`.

        Raises:
            TypeError, ValueError: See `write_message`.
            ConnectionClosed: The connection has ended, or is closing.
        """
        self._sends += 1
        if not self._sends % _BREATH:
            from asyncio import sleep

            await sleep(0)
        while self.buffered_amount and self._is_full():
            await self._inbox.hold(self.drain())
        if not self._open:
            raise self._closed()
        self._sending = True
        try:
            self.write_message(msg, binary)
        finally:
            self._sending = False

    async def ping(  # type: ignore[override] # it waits
        self, payload: bytes | str = b"", timeout: float | None = None
    ) -> float:
        """Send a ping and wait for its pong (RFC 6455 §5.5.2).

        Args:
            payload: at most 125 bytes; when empty, a unique one is used.
            timeout: seconds; None takes the option `ping_timeout`.

        Returns:
            The round-trip time in seconds.

        Raises:
            TypeError, ValueError: The payload or `timeout` is wrong.
            InvalidState: Another task is waiting for the pong to this payload.
            TimeoutError: No pong arrived in time; the connection stays usable.
            ConnectionClosed: The connection has ended, or is closing.
        """
        payload = check_ping(payload) or beat_payload()
        if timeout is None:
            timeout = self._options.ping_timeout
        else:
            timeout = duration("timeout", timeout)
        return await self._ping_within(payload, timeout)

    def close(  # type: ignore[override] # what it returns can be awaited, too
        self, code: int = 1000, reason: str = "", *, status: int | None = None
    ) -> Closed:
        """See `Client.close`; to wait until the connection has ended, await the result.

        Returns:
            Like False when the connection is already closing or closed.
        """
        return Closed(self, super().close(code, reason, status=status))

    async def wait_closed(self) -> None:
        """Wait until the connection has ended; for coroutines that receive nothing."""
        await self._inbox.wait_for_end()

    def _closed(self) -> ConnectionClosed:
        cause = self.close_cause or CloseCause.LOCAL
        code = self.close_code or CloseCode.ABNORMAL
        return connection_closed(code, self.close_reason, cause)

    def _is_full(self) -> bool:
        if not self._write_blocked and self.buffered_amount >= _HIGH_WATER:
            self._flush()
        return self._write_blocked and self._open

    async def _wait_within(self, timeout: float) -> None:
        from asyncio import timeout as within

        try:
            async with within(timeout):
                await self._inbox.wait()
        except TimeoutError:
            if not self._inbox.messages and not self._ended:
                raise TimeoutError(f"no message within {timeout:g} s") from None

    async def _ping_within(self, payload: bytes, timeout: float) -> float:
        from asyncio import get_running_loop
        from asyncio import timeout as within

        answers = self._inbox.answers
        if payload in answers:
            raise InvalidState(f"a task is waiting for the pong to {payload!r}")
        if not super().ping(payload):
            raise self._closed()
        future: Any = get_running_loop().create_future()
        answers[payload] = self._loop.time(), future
        try:
            async with within(timeout):
                latency: float = await self._inbox.hold(future)
                return latency
        except TimeoutError:
            raise TimeoutError(f"no pong within {timeout:g} s") from None
        finally:
            answers.pop(payload, None)

    # Called by the byte path, and by the end of the connection

    def _make_room(self, size: int) -> bool:
        return self._sending or super()._make_room(size)

    def _end(self) -> None:
        super()._end()
        self._inbox.end(self._closed())


class Closed:
    """What `AsyncClient.close` returns: whether it has begun; await it for the end."""

    __slots__ = ("_begun", "_client")

    def __init__(self, client: AsyncClient, begun: bool) -> None:
        self._client, self._begun = client, begun

    def __bool__(self) -> bool:
        return self._begun

    def __await__(self) -> Generator[Any, None, None]:
        return self._client.wait_closed().__await__()
