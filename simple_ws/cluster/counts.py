"""What a node counts."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NodeCounts"]


@dataclass(slots=True)
class NodeCounts:
    """Counts since the node was made.

    Attributes:
        published: messages given to the engine.
        received: messages delivered here that came from the engine.
        lost: not given to the engine, as it was not there; delivered here alone, and
            for topics with history nowhere.
        unsure: given to it, but not confirmed; delivered here, unless the topic has a
            history.
        refused: not taken by the engine; delivered here alone, and for topics with
            history nowhere.
        resent: for topics with history: sent again after an interruption.
        again: of these, what the engine had already; nothing was published twice.
        repeats: came again, or late, and were not delivered.
        missing: messages of others that never came, as far as they are known.
        gaps: how often listeners were told of a gap.
        invalid: envelopes that were malformed, or not signed as they must be.
    """

    published: int = 0
    received: int = 0
    lost: int = 0
    unsure: int = 0
    refused: int = 0
    resent: int = 0
    again: int = 0
    repeats: int = 0
    missing: int = 0
    gaps: int = 0
    invalid: int = 0
