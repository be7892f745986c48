"""What `redis_engine` says to have a message stored or a history read, and what the
answers mean. The broker understands the same, without scripts.
"""

from __future__ import annotations

import math
import re
from typing import Any

from .engine import Origin, Page, Stored
from .history import Entry, Retention, new_epoch
from .position import MAX_OFFSET, Position, parse_position, tag_of
from .redis_scripts import Script

__all__ = [
    "APPEND_COMMAND",
    "READ_COMMAND",
    "REMOVE_COMMAND",
    "append_arguments",
    "page_of",
    "read_arguments",
    "script_command",
    "stored_of",
]

#: The broker's commands; their first argument is the channel.
APPEND_COMMAND, READ_COMMAND = b"HISTORY.APPEND", b"HISTORY.READ"
REMOVE_COMMAND = b"HISTORY.REMOVE"

_EPOCH = re.compile(rb"[0-9a-f]{1,16}")
_TAG = re.compile(rb"[0-9a-f]{4}")
#: Milliseconds that are kept at most, 140,000 years: Redis and Lua count the time until
#: then exactly.
_LONGEST = 2**52
#: Elements of the answer to a reading before the first message, and of a message.
_HEAD, _EACH = 3, 4


def script_command(script: Script, channel: bytes) -> tuple[bytes, ...]:
    """What comes before the arguments where a script does it."""
    base = channel[:-1]
    return b"EVALSHA", script.digest, b"3", base + b"m", base + b"s", base + b"k"


def append_arguments(
    envelope: bytes, origin: Origin, retention: Retention
) -> list[bytes]:
    """The arguments of `redis_scripts.APPEND`."""
    publisher, seq, key = origin
    size, keep = retention
    arguments = [
        publisher,
        b"%d" % seq,
        b"%04x" % tag_of(publisher + seq.to_bytes(8, "big")),
        b"%d" % size,
        b"" if keep is None else b"%d" % min(math.ceil(keep * 1000), _LONGEST),
        new_epoch().encode(),
        envelope,
    ]
    if key is not None:
        arguments.append(key.encode("utf-8", "surrogatepass"))
    return arguments


def read_arguments(known: Position | None, after: int, limit: int) -> list[bytes]:
    """The arguments of `redis_scripts.READ`."""
    epoch, offset, tag = Position("", 0, None) if known is None else known
    return [
        epoch.encode("utf-8", "replace"),
        b"%d" % offset,
        b"" if tag is None else b"%04x" % tag,
        b"%d" % after,
        b"%d" % limit,
        new_epoch().encode(),
    ]


def stored_of(reply: Any) -> Stored | None:
    """The answer to an appending; None: it is none."""
    if not isinstance(reply, list) or len(reply) != 3:
        return None
    place, again, receivers = reply
    if not isinstance(place, bytes) or again not in (0, 1):
        return None
    position = parse_position(place.decode("ascii", "replace"))
    if position is None or type(receivers) is not int:
        return None
    return Stored(position, again == 1, receivers)


def page_of(channel: str, reply: Any) -> Page | None:
    """The answer to a reading; None: it is none."""
    if not isinstance(reply, list) or len(reply) % _EACH != _HEAD:
        return None
    epoch, top, reset = reply[:_HEAD]
    if not isinstance(epoch, bytes) or not _EPOCH.fullmatch(epoch):
        return None
    if not _is_number(top) or reset not in (0, 1):
        return None
    entries = _entries(reply[_HEAD:])
    if entries is None or (entries and entries[-1].offset > top):
        return None
    return Page(channel, epoch.decode(), top, reset == 1, entries)


def _entries(values: list[Any]) -> list[Entry] | None:
    """Messages that follow each other, or None."""
    entries: list[Entry] = []
    for start in range(0, len(values), _EACH):
        offset, tag, age, body = values[start : start + _EACH]
        if not _is_number(offset) or not _is_number(age):
            return None
        if not isinstance(tag, bytes) or not _TAG.fullmatch(tag):
            return None
        if not isinstance(body, bytes):
            return None
        if entries and offset != entries[-1].offset + 1:
            return None
        entries.append(Entry(offset, int(tag, 16), age / 1000, body))
    return entries


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_OFFSET
