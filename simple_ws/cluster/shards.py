"""Which of several engines has a topic: the same in all processes, without asking.

Jump consistent hash: an engine that is added at the end takes its part of the topics,
and no topic moves between the others. (Lamping, Veach 2014, arXiv:1406.2294)
"""

from __future__ import annotations

from hashlib import blake2b

__all__ = ["jump_hash", "shard_of"]

_MULTIPLIER, _MASK = 2862933555777941757, 2**64 - 1


def jump_hash(key: int, count: int) -> int:
    """The number, from 0, of the one of `count` that has a key of 64 bits."""
    found, following = -1, 0
    while following < count:
        found = following
        key = (key * _MULTIPLIER + 1) & _MASK
        following = int((found + 1) * ((1 << 31) / ((key >> 33) + 1)))
    return found


def shard_of(name: str, count: int) -> int:
    """The number, from 0, of the engine of `count` that has a name."""
    data = name.encode("utf-8", "surrogatepass")
    digest = blake2b(data, digest_size=8, usedforsecurity=False).digest()
    return jump_hash(int.from_bytes(digest, "big"), count)
