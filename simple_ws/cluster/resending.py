"""Messages for topics with history that the engine has not confirmed.

They wait here while it is away, and are sent again with their numbers when it is back:
the engine knows which of them it has. What is full takes no more; what is too old goes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .engine import Origin
from .history import Retention
from .position import Position

__all__ = ["MAX_BYTES", "Resending", "Unconfirmed"]

#: What waits at most, and how long.
MAX_BYTES, MAX_MESSAGES, MAX_SECONDS = 8 * 2**20, 10_000, 30.0
#: What a connection is given before it has confirmed some of it: so what has waited
#: during an outage does not fill the output to the engine, which is bounded, too.
_WINDOW, _WINDOW_BYTES = 1024, 2**20


@dataclass(slots=True)
class Unconfirmed:
    """A message that the engine may have, or not.

    Attributes:
        entry: channel, envelope, origin and retention, as for `Engine.append`.
        published: when, in seconds of the clock that `expire` is given.
        done: called once that is known with where the engine has stored it; with None
            if it has not.
        sent: it was given to a connection, this one or an earlier one.
    """

    entry: tuple[str, bytes, Origin, Retention]
    published: float
    done: Callable[[Position | None], object] | None = None
    sent: bool = False

    @property
    def size(self) -> int:
        """Bytes of its envelope."""
        return len(self.entry[1])

    def end(self, position: Position | None = None) -> None:
        """Nothing more happens to it."""
        if self.done is not None:
            self.done(position)


class Resending:
    """A bounded queue of them, in the order of publishing."""

    def __init__(self) -> None:
        # Those given to this connection, and those after them.
        self._given: deque[Unconfirmed] = deque()
        self._waiting: deque[Unconfirmed] = deque()
        self._given_size = self._size = 0

    def __len__(self) -> int:
        return len(self._given) + len(self._waiting)

    def add(self, message: Unconfirmed) -> bool:
        """Add the newest one; return False where there is no room for it."""
        size = self._size + message.size
        if size > MAX_BYTES or len(self) >= MAX_MESSAGES:
            return False
        self._waiting.append(message)
        self._size = size
        return True

    def next(self) -> Unconfirmed | None:
        """Give the oldest one to the connection; None while it has enough to do."""
        waiting, given = self._waiting, self._given
        if not waiting or len(given) >= _WINDOW or self._given_size > _WINDOW_BYTES:
            return None
        message = waiting.popleft()
        given.append(message)
        self._given_size += message.size
        return message

    def confirm(self) -> Unconfirmed | None:
        """The oldest one that was given to the connection is done."""
        if not self._given:
            return None
        message = self._given.popleft()
        size = message.size
        self._size -= size
        self._given_size -= size
        return message

    def begin_again(self) -> None:
        """The connection is lost."""
        self._given.extend(self._waiting)
        self._waiting, self._given = self._given, deque()
        self._given_size = 0

    def expire(self, now: float) -> list[Unconfirmed]:
        """Remove and return those that wait and have done so for too long."""
        expired = []
        while self._waiting and now - self._waiting[0].published > MAX_SECONDS:
            self._size -= self._waiting[0].size
            expired.append(self._waiting.popleft())
        return expired

    def clear(self) -> list[Unconfirmed]:
        """Remove and return all."""
        self.begin_again()
        cleared, self._waiting = list(self._waiting), deque()
        self._size = 0
        return cleared
