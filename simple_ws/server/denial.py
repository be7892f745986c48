"""New connections that are denied with a close code: opened, and closed at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..handlers.handler import BaseHandler

__all__ = ["Denial"]


class Denial(BaseHandler):
    """Replaces every handler while new connections are denied.

    Args:
        code: the close code, one that may be sent.
        reason: text for people.
    """

    def __init__(self, code: int, reason: str) -> None:
        self._give({})
        self._code = code
        self._reason = reason

    def select_subprotocol(self, offered: Sequence[str]) -> str | None:
        """The first one: browsers show no close code without an agreed subprotocol."""
        return offered[0]

    def on_open(self, client: Any) -> None:
        """Close the connection with the code."""
        client.close(self._code, self._reason)
