"""The selector of the loop: epoll in C on Linux, otherwise the platform's best.

`EpollSelector` is a `selectors.BaseSelector` with one more method, `dispatch`, which
calls the callbacks of ready descriptors without creating objects. Any other
`BaseSelector` works in its place.
"""

from __future__ import annotations

import select
import selectors
import sys
from collections.abc import Mapping
from typing import Any

from ..speedups import LoopState, Poller, Wheel

__all__ = ["EpollSelector", "best_selector"]

#: What a selector can watch: a descriptor, or an object with `fileno()`.
_Watched = Any


def best_selector() -> selectors.BaseSelector:
    """The fastest selector there is here.

    Where gevent or eventlet have patched the standard library, it is theirs: a wait in
    C would stop all their greenlets, and with them those that the loop waits for.
    """
    if Poller is None or _is_patched():
        return selectors.DefaultSelector()
    return EpollSelector()


def _is_patched() -> bool:
    """Whether selectors were patched: gevent replaces what eventlet removes."""
    if selectors.DefaultSelector.__module__ != selectors.__name__:
        return True
    return sys.platform == "linux" and not hasattr(select, "epoll")


def _descriptor(fileobj: _Watched) -> int:
    return fileobj if isinstance(fileobj, int) else int(fileobj.fileno())


class EpollSelector(selectors.BaseSelector):
    """A selector for very many descriptors; `data` must be callable.

    The `fileobj` of its keys is the descriptor: objects are not kept.
    """

    def __init__(self) -> None:
        poller = self._poller = Poller()
        #: Like `register`, `modify` and `unregister`, but without making keys.
        self.add, self.change, self.remove = poller.add, poller.change, poller.remove

    @property
    def busy_poll(self) -> float:
        """Seconds to poll before sleeping; 0 by default."""
        return float(self._poller.busy_poll)

    @busy_poll.setter
    def busy_poll(self, seconds: float) -> None:
        self._poller.busy_poll = seconds

    def register(
        self, fileobj: _Watched, events: int, data: Any = None
    ) -> selectors.SelectorKey:
        """See `selectors.BaseSelector.register`."""
        fd = _descriptor(fileobj)
        self._poller.add(fd, events, data)
        return selectors.SelectorKey(fd, fd, events, data)

    def modify(
        self, fileobj: _Watched, events: int, data: Any = None
    ) -> selectors.SelectorKey:
        """See `selectors.BaseSelector.modify`."""
        fd = _descriptor(fileobj)
        self._poller.change(fd, events, data)
        return selectors.SelectorKey(fd, fd, events, data)

    def unregister(self, fileobj: _Watched) -> selectors.SelectorKey:
        """See `selectors.BaseSelector.unregister`."""
        key = self.get_key(fileobj)
        self._poller.remove(key.fd)
        return key

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        """See `selectors.BaseSelector.select`."""
        ready = self._poller.poll(_milliseconds(timeout))
        return [(self.get_key(fd), events) for fd, events in ready]

    def dispatch(self, loop: LoopState, timeout: float | None) -> bool:
        """Wait, set the loop's clock, and call `data(events)` of what is ready.

        Returns:
            Whether more descriptors may be ready than one call handles.
        """
        more: bool = self._poller.dispatch(loop, _milliseconds(timeout))
        return more

    def run(self, loop: LoopState, deadline: float | None, wheel: Wheel) -> bool:
        """Turn, flush and sweep until `deadline`, or until the loop wants `attention`.

        Returns:
            Whether more descriptors may be ready than the last turn handled.
        """
        until = -1.0 if deadline is None else deadline
        more: bool = self._poller.run(loop, until, wheel)
        return more

    def __len__(self) -> int:
        return len(self._poller)

    def fileno(self) -> int:
        """A descriptor that is readable when a watched one is ready."""
        return int(self._poller.fileno())

    def close(self) -> None:
        """See `selectors.BaseSelector.close`."""
        self._poller.close()

    def get_map(self) -> Mapping[_Watched, selectors.SelectorKey]:
        """All keys by descriptor; a new dict for each call."""
        return {
            fd: selectors.SelectorKey(fd, fd, events, data)
            for fd, events, data in self._poller.entries()
        }

    def get_key(self, fileobj: _Watched) -> selectors.SelectorKey:
        """See `selectors.BaseSelector.get_key`."""
        fd = _descriptor(fileobj)
        events, data = self._poller.entry(fd)
        return selectors.SelectorKey(fd, fd, events, data)


def _milliseconds(timeout: float | None) -> int:
    """A timeout for epoll, rounded up, so that a deadline has passed afterwards."""
    if timeout is None:
        return -1
    return 0 if timeout <= 0 else min(int(timeout * 1000) + 1, 2**31 - 1)
