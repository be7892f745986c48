"""`Screen`: what a person is shown, also while a line is being edited."""

from __future__ import annotations

import sys
from typing import Any

from ...text import for_terminal

__all__ = ["PROMPT", "Screen"]

PROMPT = "> "


class Screen:
    """Where a person reads; any thread may write.

    Attributes:
        editing: a line is being edited; what is shown goes above it.
    """

    def __init__(self) -> None:
        self.editing = False
        self._editor = _editor()

    def tell(self, text: str) -> None:
        """Show a line that is no message: not in standard output, if that is a pipe."""
        if self.editing:
            self.show(for_terminal(text))
        else:
            print(for_terminal(text), file=sys.stderr, flush=True)

    def show(self, text: str) -> None:
        """Show a harmless text above the line that is being edited."""
        typed = self._editor.get_line_buffer() if self._editor is not None else ""
        sys.stdout.write(f"\r\x1b[K{text}\n{PROMPT}{typed}")
        sys.stdout.flush()


def _editor() -> Any:
    try:
        import readline
    except ImportError:
        return None
    return readline
