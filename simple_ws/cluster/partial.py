"""Input that is cut anywhere: what is incomplete waits for the rest."""

from __future__ import annotations

__all__ = ["PartialInput"]


class PartialInput:
    """What readers of RESP have in common, in both directions."""

    def __init__(self) -> None:
        #: Bytes that are not read yet, and how many more the next element needs.
        self._waiting: list[bytes] = []
        self._needed = 0

    def _join(self, data: bytes) -> bytes | None:
        """The bytes to read, with those that waited; None while too few have come.

        They are joined once, however small the pieces of an element are.
        """
        if not self._waiting:
            return data
        self._waiting.append(data)
        self._needed -= len(data)
        if self._needed > 0:
            return None
        data = b"".join(self._waiting)
        self._waiting.clear()
        return data
