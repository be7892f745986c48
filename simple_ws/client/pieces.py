"""Messages in pieces, of the blocking client: `send(iterable)` and `recv_streaming`.

A thread that sends one has its turn until the end of the message; others wait, and so
does nothing else: the user's iterable runs outside of all locks, and may receive from
the same connection. Framing is left to `protocol.fragments`, what is received to
`client.incoming`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from threading import get_ident
from typing import Any
from typing import Protocol as Role

from ..constants import CloseCode
from ..errors import InvalidState
from ..protocol.fragments import Fragments
from ..protocol.websocket import Protocol
from .exclusive import CallHost, ExclusiveCalls
from .incoming import Stream

__all__ = ["BROKEN_OFF", "SENDING", "OthersTurn", "Outgoing", "Pieces"]

#: The reason of the close frame after an error in the middle of a message.
BROKEN_OFF = "a message broke off"
#: The text for a message inside of another one.
SENDING = (
    "a message in pieces is being sent here: another one would stand in the middle of "
    "it (RFC 6455 \u00a75.4)"
)
#: Seconds after which a thread that waits for its turn looks at the connection again.
_LOOK = 1.0


class Host(CallHost, Role):
    """The connection."""

    _calls: ExclusiveCalls
    _protocol: Protocol
    _outgoing: Outgoing | None

    def is_open(self) -> bool:
        """Whether messages can be sent."""

    def _send_frames(self, frames: bytes) -> Exception | None:
        """Send frames of a message, whose turn it is."""

    def _ready_to_send(self) -> Exception | None:
        """Wait until earlier output has been written."""

    def _start_close(self, code: int, reason: str) -> None:
        """Start the closing handshake."""

    def _flush(self) -> None:
        """Write as much output as the system takes."""

    def _recv_piece(self, stream: Stream, timeout: float | None) -> Any:
        """Wait for a piece: it, None if there are no more, or an exception."""


class OthersTurn(Exception):
    """Another thread is sending a message in pieces."""

    def __init__(self, over: threading.Event) -> None:
        self._over = over

    def wait(self) -> None:
        """Wait for the end of that message."""
        self._over.wait(_LOOK)


class Outgoing:
    """A message that a thread sends in pieces.

    Args:
        connection: where it is sent.
        binary: see `Connection.send`.
    """

    def __init__(self, connection: Host, binary: bool | None) -> None:
        self._connection = connection
        self._fragments = Fragments(connection._protocol, binary)
        self._thread = get_ident()
        self._over = threading.Event()

    def send(self, pieces: Iterable[object]) -> None:
        """Send the message; on any error in the middle of it close with 1011."""
        try:
            for piece in pieces:
                self._send(self._fragments.encode(piece), end=False)
            self._fragments.check_end()
            self._send(b"", end=True)
        except BaseException:
            self._connection._calls.run(self._connection, self._break_off, None, None)
            raise
        finally:
            if self._connection._outgoing is self:
                self._connection._outgoing = None
            self._over.set()

    def refusal(self) -> Exception:
        """Why another message cannot be sent now."""
        if self._thread == get_ident():
            return InvalidState(SENDING)
        return OthersTurn(self._over)

    def _send(self, payload: bytes, *, end: bool) -> None:
        connection = self._connection
        while True:
            error = connection._calls.run(connection, self._put, payload, end)
            if not isinstance(error, OthersTurn):
                break
            error.wait()
        if error is not None:
            raise error

    # Alone, as `Connection._send`

    def _put(self, payload: bytes, end: bool) -> Exception | None:
        connection = self._connection
        error = connection._ready_to_send()
        if error is not None:
            return error
        if connection._outgoing is not self:
            if connection._outgoing is not None:
                return connection._outgoing.refusal()
            connection._outgoing = self
        fragments = self._fragments
        frames = fragments.frame_end() if end else fragments.frame(payload)
        return connection._send_frames(frames) if frames else None

    def _break_off(self, _: None, __: None) -> None:
        connection = self._connection
        if self._fragments.begun and connection.is_open():
            connection._start_close(CloseCode.INTERNAL_ERROR, BROKEN_OFF)
            connection._flush()


class Pieces(Iterator[str | bytes]):
    """The pieces of one message, as they come; see `Connection.recv_streaming`."""

    def __init__(self, connection: Host, timeout: float | None) -> None:
        self._connection = connection
        self._timeout = timeout
        self._stream = Stream()

    def __next__(self) -> str | bytes:
        connection = self._connection
        if not self._stream.over:
            piece: Any = connection._calls.run(
                connection, connection._recv_piece, self._stream, self._timeout
            )
            if isinstance(piece, Exception):
                raise piece
            if piece is not None:
                return piece  # type: ignore[no-any-return] # str or bytes
        raise StopIteration
