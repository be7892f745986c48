"""What a client says that it has got, and where it begins.

The argument `since` of `Client.subscribe` is often a stranger's: nothing is refused,
and what means nothing is a gap.
"""

from __future__ import annotations

import enum
from typing import Any, Final, Literal, NamedTuple

from .history import History
from .position import MAX_OFFSET, Position, parse_position

__all__ = ["ALL", "UNKNOWN", "Since", "Start", "is_ahead", "parse_since", "start"]


class _Since(enum.Enum):
    #: All messages that there are.
    ALL = "all"
    #: Nobody knows: the same, and a gap before them.
    UNKNOWN = "unknown"


ALL: Final = _Since.ALL
UNKNOWN: Final = _Since.UNKNOWN

#: None: only what is published from now on; a number of last messages; a position.
Since = Position | int | Literal[_Since.ALL, _Since.UNKNOWN] | None


def parse_since(given: Any) -> Since:
    """Read what a user gave; never raises."""
    if given is None:
        return None
    if given == "all" and isinstance(given, str):
        return ALL
    if isinstance(given, int) and not isinstance(given, bool):
        return min(given, MAX_OFFSET) if given >= 0 else UNKNOWN
    return parse_position(given) or UNKNOWN


class Start(NamedTuple):
    """Where a subscriber begins."""

    #: It gets the messages after this offset.
    after: int
    #: Messages before that which it has missed for ever; None: not known.
    gap: int | None


def is_ahead(history: History, since: Since) -> bool:
    """Whether somebody claims to have got more of a history than it has."""
    return (
        isinstance(since, Position)
        and since.epoch == history.epoch
        and since.offset > history.top
    )


def start(history: History, since: Since, now: float) -> Start:
    """Where somebody begins.

    Args:
        history: of the topic.
        since: what it has got.
        now: seconds of the clock that `History.append` was given.
    """
    if since is None:
        return Start(history.top, 0)
    history.expire(now)
    oldest = history.first - 1
    if isinstance(since, int):
        return Start(max(history.top - since, oldest), 0)
    if since is ALL:
        return Start(oldest, 0)
    if not isinstance(since, Position) or not history.knows(since):
        return Start(oldest, None)
    return Start(max(since.offset, oldest), max(0, oldest - since.offset))
