"""What several nodes have answered, and the future of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..loop.future import LoopFuture

__all__ = ["Answers", "AnswersFuture"]


class Answers(NamedTuple):
    """The answers of the nodes, as far as they came in time.

    Attributes:
        value: what they amount to: of `count` and `disconnect` the sum, of `online`
            whether any node said so, of `ask` the list of answers.
        answers: by the name of the node.
        errors: by the name of the node, where answering failed: what was wrong.
        missing: the names of nodes that did not answer in time, or have gone meanwhile.
    """

    value: Any
    answers: dict[str, Any]
    errors: dict[str, str]
    missing: list[str]


class AnswersFuture(LoopFuture[Answers]):
    """The future of an `Answers`.

    It never fails, and comes no later than the timeout.
    """
