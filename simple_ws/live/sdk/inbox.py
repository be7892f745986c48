"""What has come and was not read: with a limit, and word of what is missing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from ...checks import duration
from .codec import Message, Publication
from .interfaces import Driver

__all__ = ["Inbox"]

E = TypeVar("E", bound=Publication | Message)


class Inbox(Generic[E]):
    """What waits for the user. It is filled in the thread of the client, and read in
    any thread; what is read by one thread is not read by another.

    Args:
        driver: of the client.
        ended: returns why nothing comes any more; None: something may.
        on_taken: called when there may be room.

    Attributes:
        lost: how many were dropped.
    """

    def __init__(
        self,
        driver: Driver,
        ended: Callable[[], Exception | None],
        on_taken: Callable[[], object] = lambda: None,
    ) -> None:
        self.lost = 0
        self._driver, self._ended, self._on_taken = driver, ended, on_taken
        self._items: deque[E] = deque()
        # Topics of which something is missing before what comes next, and before what
        # waits.
        self._gaps: set[str] = set()
        self._dropped: set[str] = set()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[E]:
        return iter(list(self._items))

    def put(self, item: E) -> None:
        """One more has come."""
        self._items.append(_marked(item, self._gaps) if self._gaps else item)

    def drop_oldest(self) -> None:
        """Nobody has read it in time."""
        try:
            dropped = self._items.popleft()
        except IndexError:
            return  # it was read at this moment
        self.lost += 1
        if isinstance(dropped, Publication):
            self._dropped.add(dropped.topic)

    def note_gap(self, topic: str) -> None:
        """Something was missed before the next one of a topic."""
        self._gaps.add(topic)

    def take(self, timeout: float | None) -> E:
        """Wait for the next one.

        Raises:
            TypeError, ValueError: `timeout` is not a number of seconds.
            TimeoutError: None came in time.
            Exception: Why none comes any more.
            InvalidState: See `Driver.check_may_wait`.
        """
        if timeout is not None:
            timeout = duration("timeout", timeout)
        end = None if timeout is None else self._driver.clock() + timeout
        while True:
            try:
                item = self._items.popleft()
            except IndexError:
                self._wait(timeout, end)
            else:
                self._on_taken()
                return _marked(item, self._dropped) if self._dropped else item

    def _wait(self, timeout: float | None, end: float | None) -> None:
        error = self._ended()
        if error is not None and not self._items:
            raise error
        left = None if end is None else max(0.0, end - self._driver.clock())
        if not self._driver.wait(self._has_news, left):
            raise TimeoutError(f"nothing came within {timeout:g} s")

    def _has_news(self) -> bool:
        self._on_taken()  # another thread may have filled it since
        return bool(self._items) or self._ended() is not None


def _marked(item: E, topics: set[str]) -> E:
    """The item; if something of its topic is missing before it, it says so."""
    if isinstance(item, Publication) and item.topic in topics:
        topics.discard(item.topic)
        return item._replace(gap=True)
    return item
