"""What happens when clients have sent more unfinished input than is allowed together.

The loop counts what each connection keeps (`LoopState.note_input`). Above the limit,
those that keep most are ended, until an eighth of the limit is free again: in that way
many small ones need not be compared at each further byte.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Protocol

from ..speedups import LoopState

__all__ = ["InputHolder", "hold_input", "shed_input"]


class InputHolder(Protocol):
    """Something that keeps input."""

    #: Bytes, as told to the loop.
    _buffered_input: int

    def _shed_input(self) -> None:
        """Let go of the input, and tell the peer."""


def hold_input(loop: LoopState, holder: InputHolder, size: int) -> None:
    """A holder of input has so many bytes now: note it there, and tell the loop."""
    before = holder._buffered_input
    if size != before:
        holder._buffered_input = size
        loop.note_input(holder, before, size)


def shed_input(loop: LoopState) -> None:
    """End those that keep most input; do nothing below the limit."""
    limit = loop.buffered_input_limit
    if loop.buffered_input <= limit:
        return
    holders: list[InputHolder] = list(loop.input_holders.values())
    holders.sort(key=attrgetter("_buffered_input"), reverse=True)
    for holder in holders:
        if loop.buffered_input <= limit - limit // 8:
            return
        try:
            holder._shed_input()
        except BaseException as error:
            loop.on_failure(holder, error)
