"""Limits repeated log lines of one kind.

Peers can cause most log lines, so repeated ones are counted and summarised: many
clients that leave at once, or send invalid data, do not flood the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

__all__ = ["Repeats"]

logger = logging.getLogger("simple_ws")

#: Lines of one kind in a window of `_WINDOW` seconds; further ones are only counted.
_LINES = 20
_WINDOW = 10.0


class Repeats:
    """The lines logged in this window, by kind; for the loop's thread.

    Args:
        call_later: sets the timer for the summary.
    """

    def __init__(
        self, call_later: Callable[[float, Callable[[], None]], object]
    ) -> None:
        self._call_later = call_later
        self._seen: dict[str, int] = {}
        self._levels: dict[str, int] = {}

    def may_say(self, kind: str, level: int = logging.INFO) -> bool:
        """Whether another line of this kind may be written; if not, it is counted.

        Args:
            kind: a few words for the summary; from a small set.
            level: level of the line.
        """
        if not self._seen:
            self._call_later(_WINDOW, self.sum_up)
        self._seen[kind] = count = self._seen.get(kind, 0) + 1
        self._levels[kind] = level
        return count <= _LINES

    def sum_up(self) -> None:
        """Log how many lines were suppressed, and start over."""
        seen, self._seen = self._seen, {}
        levels, self._levels = self._levels, {}
        for kind, count in seen.items():
            if count > _LINES:
                more = count - _LINES
                logger.log(levels[kind], "%s: %d more in %g s", kind, more, _WINDOW)
