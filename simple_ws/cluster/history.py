"""The last messages of one topic, in a ring.

A server without an engine has one for each topic with history, a node for each such
topic that somebody here is subscribed to, and the broker for all of them.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Iterator
from typing import Any, NamedTuple

from .position import Position

__all__ = ["Entry", "History", "Retention", "new_epoch"]

#: In the place of a tag.
_UNKNOWN = -1


class Entry(NamedTuple):
    """A message of a topic."""

    offset: int
    tag: int
    #: When it was published, in seconds of the clock of who keeps it.
    time: float
    body: Any


class Retention(NamedTuple):
    """How much of a topic is kept: the rule of `Server.topic`."""

    #: Messages.
    size: int
    #: Seconds; None: no limit.
    keep: float | None


def new_epoch() -> str:
    """The epoch of a history that begins."""
    return os.urandom(4).hex()


class History:
    """The last messages of one topic; each costs 20 bytes and its own.

    One message more than `size` is known by its tag: it cannot be read, but tells
    whether somebody who got it last has missed none.

    Args:
        size: messages that can be read.
        keep: seconds for which a message can be read; None: no limit.
        epoch: of this history; by default a new one.
        top: offset of the message before the first one.
        tag: of that message; None: not known.

    Attributes:
        epoch: of this history.
        first: offset of the oldest message that can be read, or that is to come.
        top: offset of the newest message; 0: there was none.
    """

    __slots__ = (
        "_bodies",
        "_floor",
        "_keep",
        "_slots",
        "_tags",
        "_times",
        "epoch",
        "first",
        "top",
    )

    def __init__(
        self,
        size: int,
        keep: float | None = None,
        epoch: str | None = None,
        top: int = 0,
        tag: int | None = 0,
    ) -> None:
        self.epoch = new_epoch() if epoch is None else epoch
        self.top, self.first = top, top + 1
        self._slots = size + 1
        self._keep = math.inf if keep is None else keep
        # A message is in slot `(offset - floor) % slots`.
        self._floor = top
        self._bodies: list[Any] = [None]
        self._tags = array("i", (_UNKNOWN if tag is None else tag,))
        self._times = array("d", (0.0,))

    def __len__(self) -> int:
        """Messages that can be read, or will expire when somebody looks."""
        return max(0, self.top + 1 - self.first)

    @property
    def position(self) -> Position:
        """That of the newest message."""
        tag = self._tags[self._slot(self.top)]
        return Position(self.epoch, self.top, None if tag == _UNKNOWN else tag)

    def append(self, tag: int, body: Any, now: float) -> int:
        """Add the next message; return its offset."""
        self.top = top = self.top + 1
        bodies = self._bodies
        if len(bodies) < self._slots:
            bodies.append(body)
            self._tags.append(tag)
            self._times.append(now)
        else:
            slot = (top - self._floor) % self._slots
            bodies[slot], self._tags[slot], self._times[slot] = body, tag, now
            if top - self.first + 1 >= self._slots:
                self.first += 1
        return top

    def expire(self, now: float) -> None:
        """Drop the messages that are too old to be read."""
        oldest, first, top = now - self._keep, self.first, self.top
        while first <= top and self._times[slot := self._slot(first)] < oldest:
            self._bodies[slot] = None
            first += 1
        self.first = first

    def remove(self, offset: int) -> None:
        """Drop the messages up to an offset, those too that have not come yet."""
        first = self.first
        while first <= min(offset, self.top):
            self._bodies[self._slot(first)] = None
            first += 1
        self.first = max(first, offset + 1)

    def knows(self, position: Position) -> bool:
        """Whether the message at a position is known to be of this history.

        What is older than all that is known was of this history if its epoch is.
        """
        epoch, offset, tag = position
        if epoch != self.epoch or not 0 <= offset <= self.top:
            return False
        if tag is None or offset < max(self._floor, self.top + 1 - self._slots):
            return True
        return offset == 0 or self._tags[self._slot(offset)] in (tag, _UNKNOWN)

    def after(self, offset: int, limit: int | None = None) -> Iterator[Entry]:
        """The messages after an offset that can be read, the oldest first."""
        begin = max(offset + 1, self.first)
        end = self.top if limit is None else min(self.top, begin + limit - 1)
        for number in range(begin, end + 1):
            slot = self._slot(number)
            yield Entry(number, self._tags[slot], self._times[slot], self._bodies[slot])

    def _slot(self, offset: int) -> int:
        return (offset - self._floor) % self._slots
