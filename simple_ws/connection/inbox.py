"""`Inbox`: what a coroutine that owns a connection has not received yet.

It is bounded: when it is full, the server stops reading from the client. Waiting in it
is left to one task at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from typing import TYPE_CHECKING, Any

from ..errors import InvalidState
from ..loop.shedding import hold_input

if TYPE_CHECKING:
    import asyncio

    from .client import Client

__all__ = ["Inbox"]

#: Messages and bytes that may wait; then the server stops reading from the client,
#: until half of them have been received. Input read already may add some.
_MAX_MESSAGES = 128
_MAX_BYTES = 64 * 1024
#: Bytes that a message counts besides its payload: empty ones must count, too.
_OVERHEAD = 64


class Inbox:
    """The messages of one connection, and who waits for them, and for its end.

    Attributes:
        messages: those that wait, the earliest first.
        received: whether any message has been taken.
        waits: how many tasks wait in a method of the connection.
        answers: pings that wait for their pongs, the earliest first: when each was
            sent, and the future.
    """

    __slots__ = (
        "_buffered_input",
        "_client",
        "_ended",
        "_loop",
        "_receiver",
        "answers",
        "messages",
        "received",
        "waits",
    )

    def __init__(self, client: Client) -> None:
        self.messages: deque[Any] = deque()
        self.received = False
        self.waits = 0
        self.answers: dict[bytes, tuple[float, asyncio.Future[float]]] = {}
        self._loop = client._loop
        self._client: Client | None = client  # until it has ended: no cycle remains
        self._buffered_input = 0
        self._receiver: asyncio.Future[None] | None = None
        self._ended: asyncio.Future[None] | None = None

    def put(self, msg: Any) -> None:
        """A message was received."""
        client, messages = self._client, self.messages
        messages.append(msg)
        size = self._buffered_input + _size(msg)
        hold_input(self._loop, self, size)
        full = len(messages) >= _MAX_MESSAGES or size >= _MAX_BYTES
        if (
            full
            and client is not None
            and client._open
            and not client._paused_by_callbacks
        ):
            client._pause_reading(True)
        self._wake()

    def take(self) -> Any:
        """The next message; there is one."""
        client, messages = self._client, self.messages
        msg = messages.popleft()
        self.received = True
        hold_input(self._loop, self, self._buffered_input - _size(msg))
        if (
            client is not None
            and client._paused_by_callbacks
            and len(messages) <= _MAX_MESSAGES // 2
            and self._buffered_input <= _MAX_BYTES // 2
        ):
            client._pause_reading(False)
        return msg

    async def wait(self) -> None:
        """Wait for a message, or for the end.

        Raises:
            InvalidState: Another task is waiting for one.
        """
        from asyncio import get_running_loop

        while not self.messages and self._client is not None:
            if self._receiver is not None and not self._receiver.done():
                raise InvalidState("another task is receiving from this client")
            self._receiver = get_running_loop().create_future()
            await self.hold(self._receiver)

    async def wait_for_end(self) -> None:
        """Wait until the connection has ended."""
        from asyncio import get_running_loop, shield

        if self._client is not None:
            if self._ended is None:
                self._ended = get_running_loop().create_future()
            await self.hold(shield(self._ended))

    async def hold(self, awaitable: Any) -> Any:
        """Await something that the end of the connection will end."""
        self.waits += 1
        try:
            return await awaitable
        finally:
            self.waits -= 1

    def answer(self, unanswered: Container[bytes], now: float) -> None:
        """A pong was received: tell those whose pings are not unanswered any more.

        Args:
            unanswered: the payloads of other pings.
            now: the time of the loop.
        """
        for payload in [each for each in self.answers if each not in unanswered]:
            sent, future = self.answers.pop(payload)
            if not future.done():
                future.set_result(now - sent)

    def end(self, error: Exception) -> None:
        """The connection has ended: wake all that wait.

        Args:
            error: what is raised for pings without a pong.
        """
        self._client = None
        self._wake()
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        for _, future in self.answers.values():
            if not future.done():
                future.set_exception(error)
        self.answers.clear()

    def _wake(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None and not receiver.done():
            receiver.set_result(None)

    def _shed_input(self) -> None:
        """See `loop.shedding.InputHolder`."""
        if self._client is not None:
            self._client._shed_input()
        self.messages.clear()
        hold_input(self._loop, self, 0)


def _size(msg: Any) -> int:
    # A middleware may have made anything of it.
    return _OVERHEAD + (len(msg) if isinstance(msg, str | bytes) else 0)
