"""Heartbeats: pings that the page can see, and clients that do not answer them.

The interval is divided into slots, and each client is in one of them: so the pings of
many clients are spread over it, and there is one timer for all.
"""

from __future__ import annotations

import math
from typing import Generic, Protocol, TypeVar

__all__ = ["Heartbeats"]

_SLOTS = 25


class Beating(Protocol):
    """What it needs of a client."""

    #: Its slot, and whether it has not answered.
    slot: int
    pinged: bool


B = TypeVar("B", bound=Beating)


class Heartbeats(Generic[B]):
    """All clients, by the time of their next ping.

    Args:
        interval: seconds between two pings of a client.
        timeout: seconds in which it must answer; less than the interval.

    Attributes:
        tick: seconds between two calls of `turn`.
    """

    def __init__(self, interval: float, timeout: float) -> None:
        self.tick = interval / _SLOTS
        self._behind = min(_SLOTS - 1, math.ceil(timeout / self.tick))
        self._now = 0
        self._slots: list[dict[B, None]] = [{} for _ in range(_SLOTS)]

    def add(self, client: B) -> None:
        """A client has come: its first ping is after the whole interval."""
        client.slot = self._now
        self._slots[self._now][client] = None

    def discard(self, client: B) -> None:
        """It has gone."""
        self._slots[client.slot].pop(client, None)

    def turn(self) -> tuple[list[B], list[B]]:
        """A tick has passed: who is to be pinged now, and who has not answered."""
        self._now = (self._now + 1) % _SLOTS
        late = self._slots[(self._now - self._behind) % _SLOTS]
        return list(self._slots[self._now]), [each for each in late if each.pinged]
