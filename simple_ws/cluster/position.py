"""Where a message stands in the history of its topic: `epoch:offset:tag`.

The epoch is random, and new whenever the history has begun anew; offsets count from 1.
The tag is of the message itself: after a failover that has lost the last messages
Redis gives their offsets to others, which epoch and offset alone would not show.
"""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

__all__ = ["MAX_OFFSET", "Position", "parse_position", "tag_of"]

#: The largest offset that is read: below it, Redis and JSON count exactly.
MAX_OFFSET = 2**53 - 1

_POSITION = re.compile(
    r"(?P<epoch>[0-9a-f]{1,16}):(?P<offset>[0-9]{1,16})(?::(?P<tag>[0-9a-f]{4})?)?",
    re.ASCII,
)


class Position(NamedTuple):
    """A place in the history of one topic."""

    epoch: str
    #: Of the message; 0 is before the first one.
    offset: int
    #: 0 to 65,535; None: not known, thus not compared.
    tag: int | None

    def __str__(self) -> str:
        tag = "" if self.tag is None else f"{self.tag:04x}"
        return f"{self.epoch}:{self.offset}:{tag}"


def parse_position(text: object) -> Position | None:
    """Read a position that somebody sent; None if it is none.

    The tag may be missing: who counts messages knows the offset alone.
    """
    if not isinstance(text, str):
        return None
    match = _POSITION.fullmatch(text)
    if match is None:
        return None
    offset, tag = int(match["offset"]), match["tag"]
    if offset > MAX_OFFSET:
        return None
    return Position(match["epoch"], offset, None if tag is None else int(tag, 16))


def tag_of(identity: bytes) -> int:
    """The tag of a message, from what tells it from all others."""
    return zlib.crc32(identity) & 0xFFFF
