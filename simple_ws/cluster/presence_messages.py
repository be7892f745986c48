"""The form in which nodes say who is present: members and payloads, in pieces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .channels import decode_identity, encode_identity
from .internal import Malformed
from .present import Member, Payload

__all__ = ["Entry", "Pieces", "entry_of", "in_pieces", "member_of", "members_of"]

#: Bytes of members in one message, about.
_PIECE = 64 * 1024

#: A member and its payload, as they travel.
Entry = list[Any]


class Pieces:
    """The beginning of the state of a node, which comes in pieces, in order."""

    def __init__(self, number: int) -> None:
        self.entries: list[Entry] = []
        self._number = number
        self._next = 1

    def add(self, number: int, piece: int, entries: list[Entry]) -> bool:
        """Add a piece; return False if it does not follow."""
        if (number, piece) != (self._number, self._next):
            return False
        self.entries += entries
        self._next += 1
        return True


def entry_of(member: Member, payload: Payload) -> Entry:
    """A member and its payload, as they travel."""
    return [encode_identity(member), payload]


def member_of(text: object) -> Member:
    """A member without a payload; Malformed if it is none."""
    if not isinstance(text, str):
        raise Malformed("a member must be a str")
    try:
        return decode_identity(text)  # type: ignore[no-any-return]
    except ValueError as error:
        raise Malformed(str(error)) from None


def members_of(entries: list[Any]) -> dict[Member, Payload]:
    """Members and their payloads; Malformed if an entry is not one."""
    members: dict[Member, Payload] = {}
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != 2:
            raise Malformed("a member must have a payload or None")
        if not isinstance(entry[1], dict | None):
            raise Malformed("a payload must be an object or None")
        members[member_of(entry[0])] = entry[1]
    return members


def in_pieces(entries: list[Any]) -> Iterator[list[Any]]:
    """Cut entries into pieces of bounded size."""
    piece: list[Any] = []
    size = 0
    for entry in entries:
        size += len(json.dumps(entry))
        piece.append(entry)
        if size >= _PIECE:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece
