"""`ApiCounts`: the calls of the server API, for the stats of the server."""

from __future__ import annotations

from typing import Any

from .api_fields import METHODS
from .codes import LiveError

__all__ = ["ApiCounts"]


class ApiCounts:
    """Calls by method, errors by code, and what was no call; they never decrease."""

    def __init__(self) -> None:
        self._calls = dict.fromkeys(METHODS, 0)
        self._errors: dict[str, int] = {}
        self._malformed = 0

    def note_call(self, name: str) -> None:
        """A method is called."""
        self._calls[name] += 1

    def note_error(self, error: LiveError) -> None:
        """The answer is an error."""
        code = str(error.code)
        self._errors[code] = self._errors.get(code, 0) + 1

    def note_malformed(self, error: LiveError) -> None:
        """A body was malformed; the answer is an error."""
        self._malformed += 1
        self.note_error(error)

    def gather(self) -> dict[str, Any]:
        """All of them; from any thread."""
        return {
            "calls": dict(self._calls),
            "errors": dict(self._errors),
            "malformed": self._malformed,
        }
