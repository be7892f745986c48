"""Finds the ends of blocks in a deflate stream, bit by bit (RFC 1951 §3.2).

Independent of zlib: nothing is inflated; an invalid stream counts as incomplete.
"""

from __future__ import annotations

from functools import lru_cache

__all__ = ["is_whole_message"]

TAIL = b"\x00\x00\xff\xff"

_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
#: Extra bits of length codes 257 to 285, and of distance codes 0 to 29 (§3.2.5).
_LENGTH_BITS = (0,) * 8 + tuple(n for n in range(1, 6) for _ in range(4)) + (0,)
_DISTANCE_BITS = (0, 0, *(n for n in range(14) for _ in range(2)))
_FIXED = [8] * 144 + [9] * 112 + [7] * 24 + [8] * 8
#: By number of bits and value: the symbol.
Code = dict[tuple[int, int], int]


class _Broken(Exception):
    """The data ends inside a block, or is not deflate."""


class _Bits:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pos = 0
        self.stored_at = -1  # byte with the lengths of the last stored block

    def take(self, count: int) -> int:
        value = 0
        for shift in range(count):
            if self.pos == 8 * len(self.data):
                raise _Broken
            bit = self.data[self.pos >> 3] >> (self.pos & 7) & 1
            value |= bit << shift
            self.pos += 1
        return value

    def align(self) -> None:
        self.pos = -(-self.pos // 8) * 8

    def symbol(self, code: Code) -> int:
        value = 0
        for count in range(1, 16):
            value = value << 1 | self.take(1)
            if (count, value) in code:
                return code[count, value]
        raise _Broken


# The same messages are given to both backends, and whole and byte by byte.
@lru_cache(maxsize=8192)
def is_whole_message(packed: bytes) -> bool:
    """Whether a compressed message is not cut off in the middle of a block.

    Either its last stream ends with it (RFC 7692 §7.2.3.4), or the tail that the sender
    has taken off (§7.2.1) is the rest of an empty block.
    """
    bits = _Bits(packed)
    final = False
    try:
        while bits.pos < 8 * len(packed):
            final = _read_block(bits)
        if final:
            return True
    except _Broken:
        pass
    bits = _Bits(packed + TAIL)
    try:
        while bits.pos < 8 * len(packed):
            final = _read_block(bits)
    except _Broken:
        return False
    # Only the lengths of a block without bytes are as long as the tail.
    return not final and bits.stored_at == len(packed)


def _read_block(bits: _Bits) -> bool:
    """Read over one block; say whether it is the last one of its stream."""
    final, kind = bool(bits.take(1)), bits.take(2)
    if kind == 0:
        bits.align()
        bits.stored_at = bits.pos // 8
        size = bits.take(16)
        if size ^ 0xFFFF != bits.take(16) or bits.pos + 8 * size > 8 * len(bits.data):
            raise _Broken
        bits.pos += 8 * size
    elif kind == 1:
        _read_symbols(bits, _code(_FIXED), _code([5] * 30))
    elif kind == 2:
        _read_symbols(bits, *_read_codes(bits))
    else:
        raise _Broken
    if final:
        bits.align()
    return final


def _read_symbols(bits: _Bits, literals: Code, distances: Code) -> None:
    while (symbol := bits.symbol(literals)) != 256:
        if symbol > 256:
            if symbol > 285:
                raise _Broken
            bits.take(_LENGTH_BITS[symbol - 257])
            bits.take(_DISTANCE_BITS[bits.symbol(distances)])


def _read_codes(bits: _Bits) -> tuple[Code, Code]:
    """The codes of a block that brings its own (§3.2.7)."""
    literals, distances = bits.take(5) + 257, bits.take(5) + 1
    lengths = [0] * 19
    for index in _ORDER[: bits.take(4) + 4]:
        lengths[index] = bits.take(3)
    code = _code(lengths)
    found: list[int] = []
    while len(found) < literals + distances:
        symbol = bits.symbol(code)
        if symbol < 16:
            found.append(symbol)
        elif symbol == 16:
            if not found:
                raise _Broken
            found += found[-1:] * (bits.take(2) + 3)
        else:
            found += [0] * (bits.take(3) + 3 if symbol == 17 else bits.take(7) + 11)
    if len(found) > literals + distances or not found[256]:
        raise _Broken
    return _code(found[:literals]), _code(found[literals:])


def _code(lengths: list[int]) -> Code:
    """The codes of symbols of such lengths (§3.2.2)."""
    code: Code = {}
    value = 0
    for count in range(1, 16):
        for symbol, length in enumerate(lengths):
            if length == count:
                code[count, value] = symbol
                value += 1
        if value > 1 << count:
            raise _Broken  # more than there are
        value <<= 1
    return code
