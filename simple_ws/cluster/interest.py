"""Which channels somebody here listens to: counted, batched, and given up late.

The first listener of a channel subscribes to it; when the last one is gone, the
subscription stays for a second, because listeners often come back (a page that is
loaded again). The changes of a turn of the loop are passed on together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

__all__ = ["Interest", "Subscriptions"]

#: Seconds that a subscription stays without a listener.
LINGER = 1.0


class Subscriptions(Protocol):
    """What passes them on (`engine.Engine`)."""

    def subscribe(self, channels: Iterable[str]) -> None:
        """Receive what is published to these channels."""

    def unsubscribe(self, channels: Iterable[str]) -> None:
        """Receive it no more."""


class Interest:
    """Counts the listeners of each channel.

    Args:
        subscriptions: are kept as they should be.
        call_soon: calls a function in this turn of the loop, or the next.
        call_later: calls a function after so many seconds.
        dropped: is called with each channel that was given up.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        call_soon: Callable[[Callable[[], object]], object],
        call_later: Callable[[float, Callable[[], object]], object],
        dropped: Callable[[str], object] = lambda channel: None,
    ) -> None:
        self._subscriptions = subscriptions
        self._call_soon = call_soon
        self._call_later = call_later
        self._dropped = dropped
        self._listeners: dict[str, int] = {}
        # Ordered, each once: what is to be subscribed to in this turn, and what has no
        # listener any more.
        self._new: dict[str, None] = {}
        self._left: dict[str, None] = {}
        self._leaving: dict[str, None] = {}
        self._timed = False

    @property
    def channels(self) -> list[str]:
        """Those with a listener."""
        return list(self._listeners)

    def __contains__(self, channel: str) -> bool:
        return channel in self._listeners

    def add(self, channel: str) -> None:
        """Somebody listens to a channel."""
        count = self._listeners.get(channel, 0)
        self._listeners[channel] = count + 1
        if count:
            return
        if self._left.pop(channel, 0) is None or self._leaving.pop(channel, 0) is None:
            return  # the subscription is there still
        if not self._new:
            self._call_soon(self.apply)
        self._new[channel] = None

    def remove(self, channel: str) -> None:
        """Somebody listens to it no more."""
        count = self._listeners.get(channel, 0)
        if count > 1:
            self._listeners[channel] = count - 1
            return
        if self._listeners.pop(channel, None) is None:
            return
        if self._new.pop(channel, 0) is None:
            self._dropped(channel)  # nobody was told yet
            return
        self._left[channel] = None
        if not self._timed:
            self._timed = True
            self._call_later(LINGER, self._sweep)

    def apply(self) -> None:
        """Pass on what is new in this turn."""
        if self._new:
            new, self._new = self._new, {}
            self._subscriptions.subscribe(new)

    def _sweep(self) -> None:
        """Give up those that had no listener for one to two seconds."""
        gone, self._leaving, self._left = self._leaving, self._left, {}
        if gone:
            self._subscriptions.unsubscribe(gone)
            for channel in gone:
                self._dropped(channel)
        self._timed = bool(self._leaving)
        if self._timed:
            self._call_later(LINGER, self._sweep)
