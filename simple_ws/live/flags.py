"""`Flags`: what the subscriptions of a topic have besides its publications."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["AS_ASKED", "Flags"]


class Flags(NamedTuple):
    """For each: True for all, False for none, None for those who ask for it.

    Attributes:
        recoverable: they are told their position, and get what they missed when they
            come back.
        positioned: they are told their position.
        join_leave: they are told who comes and goes.
    """

    recoverable: bool | None = None
    positioned: bool | None = None
    join_leave: bool | None = None

    def asked(
        self,
        recoverable: bool = False,
        positioned: bool = False,
        join_leave: bool = False,
    ) -> Flags:
        """What a subscriber gets that asks for this."""
        return Flags(
            recoverable if self.recoverable is None else self.recoverable,
            positioned if self.positioned is None else self.positioned,
            join_leave if self.join_leave is None else self.join_leave,
        )

    def overridden(self, override: Mapping[str, bool]) -> Flags:
        """What a subscriber gets whose token says something else."""
        return Flags(
            override.get("recover", self.recoverable),
            override.get("position", self.positioned),
            override.get("join_leave", self.join_leave),
        )


#: As the clients ask for it.
AS_ASKED = Flags()
