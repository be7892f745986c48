"""Calls: questions to one other node, and its answer.

Those to all nodes are in `asking`.
"""

from __future__ import annotations

import itertools
from typing import Any

from .asking import Answer, AskingHost, answer_with, said_in
from .channels import Audience
from .internal import encode
from .roster import Roster

__all__ = ["Calls"]


class Calls:
    """The calls of this node, and its answers to those of others.

    Args:
        host: answers, and reaches the others.
        roster: knows them.
    """

    def __init__(self, host: AskingHost, roster: Roster) -> None:
        self._host = host
        self._roster = roster
        self._numbers = itertools.count(1)
        self._pending: dict[int, tuple[str, Answer]] = {}

    def call(
        self, node: str, question: str, data: Any, timeout: float, done: Answer
    ) -> bool:
        """Ask another node.

        Args:
            node: its id.
            question: what its `AskingHost.answer` is called with.
            data: a JSON value.
            timeout: seconds.
            done: called once, with the answer, or with why there is none.

        Returns:
            False if there is no such node; then `done` is not called.
        """
        settled = self._roster.settled_at
        known = any(info.id == node for info in self._roster.others())
        if not known and (settled is None or self._host.time() >= settled):
            return False
        number = next(self._numbers)
        self._pending[number] = node, done
        body = encode("call", id=number, question=question, data=data)
        if self._host.send(Audience.NODE, node, body):
            late = lambda: self._finish(number, None, "no answer in time")  # noqa: E731
            self._host.call_later(timeout, late)
        else:
            self._finish(number, None, "the engine is away")
        return True

    def _finish(self, number: int, value: Any, error: str | None) -> None:
        pending = self._pending.pop(number, None)
        if pending is not None:
            pending[1](value, error)

    def on_engine(self, up: bool) -> None:
        """The engine has come, or has gone: then no answer comes."""
        if not up:
            self._finish_all("the engine is away")

    def on_gone(self, node: str) -> None:
        """A node has gone: it will not answer."""
        for number, (asked, _) in list(self._pending.items()):
            if asked == node:
                self._finish(number, None, "the node has gone")

    def end(self) -> None:
        """The server stops: nobody answers any more."""
        self._finish_all("the server stops")

    def _finish_all(self, why: str) -> None:
        for number in list(self._pending):
            self._finish(number, None, why)

    # What the others say

    def on_call(self, node: str, message: dict[str, Any]) -> None:
        """Another node asks.

        Raises:
            Malformed: It does not do it properly.
        """
        answer_with("result", self._host, node, message)

    def on_result(self, node: str, message: dict[str, Any]) -> None:
        """Another node answers.

        Raises:
            Malformed: It does not do it properly.
        """
        number, error = said_in(message)
        pending = self._pending.get(number)
        if pending is not None and pending[0] == node:
            self._finish(number, message.get("value"), error)
