"""How often one kind of line is written to the log.

Peers can cause most of what is logged: what repeats is counted and summed up, so that a
crowd that leaves at once, or sends nonsense, is not a flood of lines.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

__all__ = ["Repeats"]

logger = logging.getLogger("simple_ws")

#: Lines of one kind in a window of so many seconds; those beyond are counted.
_LINES = 20
_WINDOW = 10.0


class Repeats:
    """What was logged in this window, by kind; for the loop's thread.

    Args:
        call_later: makes the timer that sums up.
    """

    def __init__(
        self, call_later: Callable[[float, Callable[[], None]], object]
    ) -> None:
        self._call_later = call_later
        self._seen: dict[str, int] = {}
        self._levels: dict[str, int] = {}

    def may_say(self, kind: str, level: int = logging.INFO) -> bool:
        """Whether one more line of a kind may be written; if not, it is counted.

        Args:
            kind: a few words, for the line that sums up; one of few.
            level: of that line.
        """
        if not self._seen:
            self._call_later(_WINDOW, self.sum_up)
        self._seen[kind] = count = self._seen.get(kind, 0) + 1
        self._levels[kind] = level
        return count <= _LINES

    def sum_up(self) -> None:
        """Say how many lines were not written, and begin anew."""
        seen, self._seen = self._seen, {}
        levels, self._levels = self._levels, {}
        for kind, count in seen.items():
            if count > _LINES:
                more = count - _LINES
                logger.log(levels[kind], "%s: %d more in %g s", kind, more, _WINDOW)
