"""Positions in a topic with history, as the protocol has them: an epoch and an offset.

Ours have a tag of the message as well (`cluster.position`), which a client that counts
offsets cannot know. So the epoch that clients are given is the whole position at which
they began: when they come back, it tells a history that lost its end before that place
from the one they know.
"""

from __future__ import annotations

from typing import NamedTuple

from ..cluster.history import History
from ..cluster.position import MAX_OFFSET, Position, parse_position
from ..cluster.since import UNKNOWN, Since

__all__ = ["Claim", "epoch_of"]


def epoch_of(position: Position) -> str:
    """The epoch of a position for clients; its offset goes beside it."""
    return str(position)


class Claim(NamedTuple):
    """What a client says that it has got.

    Attributes:
        epoch: as it was given by `epoch_of`; "" is that of any history.
        offset: of the newest message it has got.
    """

    epoch: str
    offset: int

    @property
    def begun(self) -> Position | None:
        """Where it began; None: it does not know, or this is no position."""
        return parse_position(self.epoch)

    @property
    def position(self) -> Position | None:
        """Where it is now."""
        begun = self.begun
        if begun is None or self.offset > MAX_OFFSET:
            return None
        if begun.offset == self.offset:
            return begun
        return Position(begun.epoch, self.offset, None)

    def since(self, history: History) -> Since:
        """Where it begins in a history."""
        if not self.epoch:
            return Position(history.epoch, min(self.offset, MAX_OFFSET), None)
        begun, position = self.begun, self.position
        if begun is None or position is None or not history.knows(begun):
            return UNKNOWN
        return position
