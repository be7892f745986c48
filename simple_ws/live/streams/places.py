"""The ids of one-way events: where a client is in each of its topics.

A browser that comes back says the last one (`Last-Event-ID`).
"""

from __future__ import annotations

from collections.abc import Iterable

from ..positions import Claim

__all__ = ["LOST", "encode_places", "parse_places"]

#: Of somebody who has got something, but nobody knows what.
LOST = Claim("?", 0)
#: Digits of an offset.
_MAX_DIGITS = 16


def encode_places(places: Iterable[Claim | None]) -> str:
    """The id of an event: where a client is in each of its topics, in their order."""
    return ",".join(
        "" if place is None else f"{place.epoch}~{place.offset}" for place in places
    )


def parse_places(text: str, count: int) -> list[Claim | None]:
    """Read what `encode_places` has made; a stranger may have sent something else.

    Args:
        text: "" if it has got nothing yet.
        count: of its topics.
    """
    if not text:
        return [None] * count
    parts = text.split(",", count)
    if len(parts) != count:
        return [LOST] * count
    return list(map(_parse_place, parts))


def _parse_place(text: str) -> Claim | None:
    if not text:
        return None
    epoch, _, offset = text.partition("~")
    if not (epoch and offset.isascii() and offset.isdecimal()):
        return LOST
    return Claim(epoch, int(offset)) if len(offset) <= _MAX_DIGITS else LOST
