"""`Board`: memory that the supervisor writes and its workers read.

All workers answer from the same place: numbers sent to each by its pipe would arrive at
different times, and a counter read at one worker and then at another might go back.

Only the supervisor writes. It writes the two halves in turn, each with a number and a
checksum, so a reader that comes in the middle of a write takes the other half.
"""

from __future__ import annotations

import json
import mmap
import struct
import zlib
from typing import Any

__all__ = ["Board"]

_LEADER = struct.Struct("=I")
_HEAD = struct.Struct("=QII")  # number, length, checksum
#: Bytes before the first half.
_START = 64
#: Bytes of one half; the system only provides the pages that are used.
_HALF = 2**23


class Board:
    """The shared memory; make it before the first fork."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _START + 2 * _HALF)
        self._number = 0

    @property
    def leader(self) -> int:
        """The process that does what one worker alone does; 0 for none."""
        number: int = _LEADER.unpack_from(self._memory, 0)[0]
        return number

    @leader.setter
    def leader(self, pid: int) -> None:
        _LEADER.pack_into(self._memory, 0, pid)

    def write(self, facts: dict[str, Any]) -> bool:
        """Replace the facts; return False if they are too large, and stay as they are.

        Args:
            facts: anything that JSON can encode.
        """
        data = json.dumps(facts, separators=(",", ":")).encode()
        if len(data) > _HALF - _HEAD.size:
            return False
        self._number += 1
        at = _START + self._number % 2 * _HALF
        body = at + _HEAD.size
        self._memory[body : body + len(data)] = data
        _HEAD.pack_into(self._memory, at, self._number, len(data), zlib.crc32(data))
        return True

    def read(self) -> dict[str, Any] | None:
        """The facts written last, a new dict each time; None before the first."""
        heads = sorted(
            (_HEAD.unpack_from(self._memory, at), at) for at in (_START, _START + _HALF)
        )
        for (number, size, checksum), at in reversed(heads):
            data = self._memory[at + _HEAD.size : at + _HEAD.size + size]
            if number and zlib.crc32(data) == checksum:
                facts: dict[str, Any] = json.loads(data)
                return facts
        return None

    def close(self) -> None:
        """Release the memory."""
        self._memory.close()
