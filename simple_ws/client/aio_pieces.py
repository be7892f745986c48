"""Messages in pieces, of the asyncio client: `send(iterable)` and `recv_streaming`.

A task that sends one has its turn until the end of the message; others wait. Framing is
left to `protocol.fragments`, what is received to `client.incoming`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, TypeVar
from typing import Protocol as Role

from ..constants import CloseCode
from ..errors import ConnectionClosed, InvalidState
from ..protocol.fragments import Fragments
from ..protocol.websocket import Protocol
from .incoming import Stream
from .pieces import BROKEN_OFF, SENDING

if TYPE_CHECKING:
    from typing import Self

__all__ = ["BREATH", "Outgoing", "Pieces"]

_T = TypeVar("_T")

#: Messages, or pieces of one, after which `send` lets other tasks run: a transport that
#: takes everything would never make it wait. `recv` does so when more messages wait.
BREATH = 64


class Host(Role):
    """The connection."""

    _protocol: Protocol
    _outgoing: Outgoing | None

    async def _wait_for_turn(self) -> None:
        """Wait for room, and for the end of a message in pieces."""

    async def _wait_for_room(self) -> None:
        """Wait until the transport takes more."""

    def is_open(self) -> bool:
        """Whether messages can be sent."""

    def _closed(self) -> ConnectionClosed:
        """The exception for a connection that is not open."""

    def _put(self, frame: bytes) -> None:
        """Queue frames for sending."""

    def _atomically(self, step: Callable[..., _T], *args: Any) -> _T:
        """Take a step as a whole."""

    def _begin_close(self, code: int, reason: str) -> None:
        """Start the closing handshake."""

    def _wake_senders(self) -> None:
        """Wake tasks that wait for their turn."""

    async def _recv_piece(self, stream: Stream) -> str | bytes | None:
        """The next piece of a message; None: nothing more."""


class Outgoing:
    """A message that a task sends in pieces.

    Args:
        connection: where it is sent.
        binary: see `Connection.send`.
    """

    def __init__(self, connection: Host, binary: bool | None) -> None:
        self._connection = connection
        self._fragments = Fragments(connection._protocol, binary)
        self._task = asyncio.current_task()
        self._count = 0

    async def send(self, pieces: Any) -> None:
        """Send the message; on any error in the middle of it close with 1011."""
        connection, fragments = self._connection, self._fragments
        try:
            if isinstance(pieces, AsyncIterable):
                async for piece in pieces:
                    await self._send(fragments.encode(piece))
            else:
                for piece in pieces:
                    await self._send(fragments.encode(piece))
            fragments.check_end()
            await self._send(None)
        except BaseException:
            if fragments.begun:
                code = CloseCode.INTERNAL_ERROR
                connection._atomically(connection._begin_close, code, BROKEN_OFF)
            raise
        finally:
            if connection._outgoing is self:
                connection._outgoing = None
                connection._wake_senders()

    def check_task(self) -> None:
        """Another message is to be sent.

        Raises:
            InvalidState: By the iterable itself; it would wait for itself.
        """
        if self._task is asyncio.current_task():
            raise InvalidState(SENDING)

    async def _send(self, payload: bytes | None) -> None:
        """Send a piece, in its turn; None: the end."""
        connection, fragments = self._connection, self._fragments
        self._count += 1
        if not self._count % BREATH:
            await asyncio.sleep(0)
        if connection._outgoing is not self:
            await connection._wait_for_turn()
            connection._outgoing = self
        else:
            await connection._wait_for_room()
        if not connection.is_open():
            raise connection._closed()
        frames = fragments.frame_end() if payload is None else fragments.frame(payload)
        if frames:
            connection._atomically(connection._put, frames)


class Pieces(AsyncIterator[str | bytes]):
    """The pieces of one message, as they come; see `Connection.recv_streaming`."""

    def __init__(self, connection: Host) -> None:
        self._connection = connection
        self._stream = Stream()

    def __aiter__(self) -> Self:
        """Itself."""
        return self

    async def __anext__(self) -> str | bytes:
        stream = self._stream
        piece = None if stream.over else await self._connection._recv_piece(stream)
        if piece is None:
            raise StopAsyncIteration
        return piece
