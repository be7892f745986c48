"""The numbers of one publisher's messages, by channel."""

from __future__ import annotations

from collections import OrderedDict

from .envelope import MAX_SEQ

__all__ = ["Numbers"]

#: Channels whose last number is remembered; above it the oldest are forgotten, and
#: their next message has a number that is higher than all forgotten ones.
_MAX_NUMBERED = 100_000


class Numbers:
    """Counts the messages to each channel, with bounded memory."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, int] = OrderedDict()
        self._floor = 0  # no forgotten channel had a higher number

    def next(self, channel: str) -> int:
        """Return the number of the next message to a channel."""
        seq = self._last.pop(channel, self._floor) + 1
        if seq > MAX_SEQ:  # after 9 years of a million a second
            raise OverflowError("the numbers of messages are used up")
        self._last[channel] = seq
        if len(self._last) > _MAX_NUMBERED:
            _, forgotten = self._last.popitem(last=False)
            self._floor = max(self._floor, forgotten)
        return seq
