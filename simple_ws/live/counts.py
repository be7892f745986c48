"""`Counts`: commands of clients, or calls of the server API, for the stats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["Counts"]


class Counts:
    """They never decrease.

    Args:
        names: of all commands.

    Attributes:
        commands: those that were carried out, by name.
        malformed: what was no command.
    """

    __slots__ = ("_errors", "commands", "malformed")

    def __init__(self, names: Iterable[str]) -> None:
        self.commands = dict.fromkeys(names, 0)
        self.malformed = 0
        self._errors: dict[str, int] = {}

    def note_error(self, code: int) -> None:
        """One was answered with an error."""
        name = str(code)
        self._errors[name] = self._errors.get(name, 0) + 1

    def gather(self) -> dict[str, Any]:
        """All of them; from any thread."""
        return {
            "commands": dict(self.commands),
            "errors": dict(self._errors),
            "malformed": self.malformed,
        }
