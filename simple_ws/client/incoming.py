"""`Incoming`: a message that is received in pieces, as they come.

Pieces wait in the inbox of the connection, as whole messages do, and count there. What
users iterate over, and the waiting, is left to `blocking` and `aio_connection`.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple
from typing import Protocol as Role

from ..errors import InvalidState
from ..protocol.websocket import Protocol

__all__ = ["Incoming", "Part", "Receiver", "Stream"]


class Receiver(Role):
    """The connection."""

    _protocol: Protocol
    _inbox: deque[tuple[Any, int]]
    _inbox_size: int

    def _keep(self, message: Any, size: int) -> None:
        """Put a message, or a part of one, into the inbox."""


class Part(NamedTuple):
    """A piece of a message, in the inbox.

    Attributes:
        data: what is new.
        last: whether the message ends with it.
    """

    data: str | bytes
    last: bool


class Stream:
    """One message that is received in pieces, for the user that iterates over it.

    Attributes:
        begun: whether a piece has been given to the user.
        over: whether all have.
        left: whether the user has gone on to another message.
    """

    __slots__ = ("begun", "left", "over")

    def __init__(self) -> None:
        self.begun = self.over = self.left = False

    def note(self, entry: Any) -> str | bytes | None:
        """What an entry of the inbox gives to the user; None: nothing more."""
        begun, self.begun = self.begun, True
        self.over = not _is_open(entry)
        data: str | bytes = entry.data if isinstance(entry, Part) else entry
        return data if data or not begun else None

    def refusal(self) -> InvalidState:
        """What is raised when the user has gone on to another message."""
        return InvalidState(
            "the rest of this message was skipped: the next one has been received"
        )


class Incoming:
    """What a connection has of messages in pieces; made for the first one.

    Args:
        core: the connection.

    Attributes:
        stream: the message that the user receives in pieces, until its end.
    """

    __slots__ = ("_protocol", "_skipping", "stream")

    def __init__(self, core: Receiver) -> None:
        self._protocol = core._protocol
        self.stream: Stream | None = None
        self._skipping = False  # the rest of a message that was left

    def begin(self, core: Receiver, stream: Stream) -> None:
        """Receive the next message in pieces; or go on with it."""
        if self.stream is not stream:
            self.leave(core)
            self.stream = stream
            self.collect(core)

    def collect(self, core: Receiver) -> None:
        """Put what has come of the message into the inbox, as a piece."""
        inbox = core._inbox
        if self._skipping:
            self._protocol.take_piece()
        elif self.stream is not None and (not inbox or _is_open(inbox[-1][0])):
            piece = self._protocol.take_piece()
            if piece:
                core._keep(Part(piece, last=False), len(piece))

    def end(self, core: Receiver, rest: str | bytes, size: int) -> None:
        """The message has ended."""
        if self._skipping:
            self._skipping = False
        else:
            core._keep(Part(rest, last=True), size)

    def leave(self, core: Receiver) -> None:
        """The next message is received otherwise: skip the rest of this one.

        If nothing of it was given to the user, it is whole again.
        """
        stream, self.stream = self.stream, None
        if stream is None:
            return
        stream.left = True
        parts = _take_parts(core)
        ended = bool(parts) and parts[-1].last
        if stream.begun:
            self._skipping = not ended
        elif parts:
            self._make_whole(core, [part.data for part in parts], ended)

    def _make_whole(self, core: Receiver, pieces: list[Any], ended: bool) -> None:
        whole = pieces[0][:0].join(pieces)
        size = len(whole.encode()) if isinstance(whole, str) else len(whole)
        if not ended:
            self._protocol.put_back(whole.encode() if isinstance(whole, str) else whole)
            return
        core._keep(whole, size)
        core._inbox.rotate(1)


def _is_open(entry: Any) -> bool:
    return isinstance(entry, Part) and not entry.last


def _take_parts(core: Receiver) -> list[Part]:
    """Take the parts at the front of the inbox; only those of one message are there."""
    inbox = core._inbox
    parts: list[Part] = []
    while inbox and isinstance(inbox[0][0], Part):
        entry, size = inbox.popleft()
        core._inbox_size -= size
        parts.append(entry)
    return parts
