"""Questions to all nodes: who answers, and who has not answered in time.

The nodes that are asked are those of the roster; a question of the first second waits
until these are known. The end is the last answer, the timeout, or the loss of the
engine: what has come then is the result, with the names of those that are missing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from contextlib import suppress
from typing import Any, Protocol

from .answers import Answers, AnswersFuture
from .channels import Audience
from .internal import Nodes, encode, value_of
from .roster import NodeInfo, Roster

__all__ = [
    "MAX_BODY",
    "Answer",
    "Asking",
    "AskingHost",
    "answer_with",
    "checked_json",
    "said_in",
]

#: The largest question, and the largest answer, as JSON.
MAX_BODY = 256 * 1024
#: The longest text of an error that goes to the node that asked.
_MAX_ERROR = 1000

#: Called with an answer, or the text of an error.
Answer = Callable[[Any, str | None], None]


class AskingHost(Nodes, Protocol):
    """What it needs of its node."""

    def describe(self) -> NodeInfo:
        """This node."""

    def answer(self, question: str, data: Any, done: Answer) -> None:
        """Answer a question, now or later, with a JSON value; must not raise."""


class _Pending:
    """A question that is not fully answered."""

    def __init__(self, future: AnswersFuture, join: Callable[[list[Any]], Any]) -> None:
        self.future = future
        self.join = join
        self.waits_for: dict[str, str] = {}  # names by id
        self.answers: dict[str, tuple[Any, str | None]] = {}  # by id, with the error
        self.missing: list[str] = []

    def note(self, node: str, value: Any, error: str | None) -> None:
        """A node has answered."""
        self.waits_for.pop(node, None)
        self.answers[node] = value, error

    def give_up(self, node: str) -> None:
        """A node will not answer."""
        name = self.waits_for.pop(node, None)
        if name is not None:
            self.missing.append(name)

    def finish(self, name_of: Callable[[str], str]) -> None:
        """Nobody else will answer."""
        answers, errors = {}, {}
        for node, (value, error) in self.answers.items():
            if error is None:
                answers[name_of(node)] = value
            else:
                errors[name_of(node)] = error
        missing = [*self.missing, *self.waits_for.values()]
        value = self.join(list(answers.values()))
        with suppress(InvalidStateError):  # ended as the server stopped
            self.future.set_result(Answers(value, answers, errors, missing))


class Asking:
    """The questions of this node, and its answers to those of others.

    Args:
        host: answers, and reaches the others.
        roster: knows them.
        own: the id of this node.
        alone: there is no engine, and no other node.
    """

    def __init__(
        self, host: AskingHost, roster: Roster, own: str, *, alone: bool = False
    ) -> None:
        self._host = host
        self._roster = roster
        self._own = own
        self._alone = alone
        self._numbers = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        # Before the engine has come for the first time, questions wait for it.
        self._unsent: dict[int, bytes] | None = None if alone else {}
        self._up = self._ended = False

    def ask(
        self,
        question: str,
        data: Any,
        timeout: float,
        future: AnswersFuture,
        join: Callable[[list[Any]], Any],
    ) -> None:
        """Ask all nodes.

        Args:
            question: what `AskingHost.answer` is called with.
            data: a JSON value.
            timeout: seconds.
            future: gets the result.
            join: makes its value of the list of answers.
        """
        number = next(self._numbers)
        pending = self._pending[number] = _Pending(future, join)
        pending.waits_for = {self._own: self._host.describe().name}
        if (
            not self._alone
        ):  # otherwise it may be what JSON has not, such as an identity
            body = encode("ask", id=number, question=question, data=data)
            if self._unsent is not None:
                self._unsent[number] = body
            else:
                self._send(number, body)
        self._host.call_later(timeout, lambda: self._finish(number))

        def done(value: Any, error: str | None) -> None:
            if number in self._pending:
                pending.note(self._own, value, error)
                self._look(number)

        if self._ended:
            self._finish(number)
        else:
            self._host.answer(question, data, done)

    def _send(self, number: int, body: bytes) -> None:
        others = self._roster.others()
        pending = self._pending[number]
        pending.waits_for.update((info.id, info.name) for info in others)
        if self._up and self._host.send(Audience.NODES, None, body):
            wait = (self._roster.settled_at or 0.0) - self._host.time()
            if wait > 0:
                # A little later, since seconds are rounded.
                self._host.call_later(wait + 0.001, lambda: self._note_settled(number))
        else:
            for info in others:
                pending.give_up(info.id)

    def _note_settled(self, number: int) -> None:
        """Who was not known when it was asked is known now."""
        pending = self._pending.get(number)
        if pending is None:
            return
        for info in self._roster.others():
            if info.id not in pending.answers:
                pending.waits_for[info.id] = info.name
        self._look(number)

    def _look(self, number: int) -> None:
        """End a question that all have answered."""
        pending = self._pending.get(number)
        if pending is None:
            return
        settled_at = self._roster.settled_at
        settling = settled_at is not None and self._host.time() < settled_at
        unsent = self._unsent is not None and number in self._unsent
        if not pending.waits_for and not settling and not unsent:
            self._finish(number)

    def _finish(self, number: int) -> None:
        pending = self._pending.pop(number, None)
        if self._unsent:
            self._unsent.pop(number, None)
        if pending is not None:
            pending.finish(self._name_of)

    def _name_of(self, node: str) -> str:
        own = node == self._own
        return self._host.describe().name if own else self._roster.name(node)

    # What happens to the others

    def on_engine(self, up: bool) -> None:
        """The engine has come, or has gone; the roster knows already."""
        self._up = up
        if up and self._unsent is not None:
            unsent, self._unsent = self._unsent, None
            for number, body in unsent.items():
                self._send(number, body)
        elif not up:
            self._give_up([info.id for info in self._roster.others()])

    def on_gone(self, node: str) -> None:
        """A node has gone: it will not answer."""
        self._give_up([node])

    def _give_up(self, nodes: list[str]) -> None:
        for number, pending in list(self._pending.items()):
            for node in nodes:
                pending.give_up(node)
            self._look(number)

    def end(self) -> None:
        """The server stops: nobody answers any more."""
        self._unsent = None
        self._ended = True
        for number in list(self._pending):
            self._finish(number)

    # What they say

    def on_ask(self, node: str, message: dict[str, Any]) -> None:
        """Another node asks.

        Raises:
            Malformed: It does not do it properly.
        """
        answer_with("answer", self._host, node, message)

    def on_answer(self, node: str, message: dict[str, Any]) -> None:
        """Another node answers.

        Raises:
            Malformed: It does not do it properly.
        """
        number, error = said_in(message)
        pending = self._pending.get(number)
        if pending is not None and node not in pending.answers:
            pending.note(node, message.get("value"), error)
            self._look(number)


def checked_json(value: Any, what: str) -> Any:
    """A value as it arrives at another node.

    Raises:
        TypeError, ValueError: JSON cannot represent it, or it is too large.
    """
    text = json.dumps(value, allow_nan=False)
    if len(text) > MAX_BODY:
        raise ValueError(f"{what} of {len(text):,} bytes exceeds {MAX_BODY:,}")
    return json.loads(text)


def answer_with(
    kind: str, host: AskingHost, node: str, message: dict[str, Any]
) -> None:
    """Answer the question of another node by a message of a kind.

    Raises:
        Malformed: It does not ask properly.
    """
    number = value_of(message, "id", int)
    question = value_of(message, "question", str)

    def done(value: Any, error: str | None) -> None:
        if error is None:
            body = encode(kind, id=number, value=value)
        else:
            body = encode(kind, id=number, error=error[:_MAX_ERROR])
        host.send(Audience.NODE, node, body)

    host.answer(question, message.get("data"), done)


def said_in(message: dict[str, Any]) -> tuple[int, str | None]:
    """Which question another node answers, and its error.

    Raises:
        Malformed: It does not do it properly.
    """
    number = value_of(message, "id", int)
    return number, value_of(message, "error", str) if "error" in message else None
