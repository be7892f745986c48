"""`ControlRun`: what one run of a server has of the other nodes.

It is the host of `cluster.control.Control`: it describes this node, answers questions
about the clients that are here, and passes on what travels by the engine.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import InvalidStateError
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

from ..cluster.answers import Answers, AnswersFuture
from ..cluster.asking import Answer, checked_json
from ..cluster.channels import Audience, decode_identity
from ..cluster.control import Control
from ..cluster.roster import NodeInfo
from ..cluster.topic_rules import TopicRules
from ..connection.topics import Group, Identities, Topics
from ..constants import RELEASE
from ..loop.deferred import is_deferred, name_of
from ..loop.reactor import Reactor
from ..messages import check_close
from .tell import Telling

if TYPE_CHECKING:
    from .sharded_engine import AnyEngine

__all__ = ["AnswerKind", "ControlRun", "ControlUser"]

logger = logging.getLogger("simple_ws")


#: Called with the server and the data of a question; returns what JSON can represent,
#: or an `InThread` that does, or raises LookupError, TypeError or ValueError.
AnswerKind = Callable[[Any, Any], Any]


class ControlUser(Telling, Protocol):
    """What it needs of its server."""

    clients: Group[Any]
    _topics: Topics[Any]
    _identities: Identities[Any]
    _topic_rules: TopicRules
    _inputs: dict[str, Callable[[str], bool]]


class ControlRun:
    """The control of one run; see `cluster.control.ControlHost`.

    Args:
        user: the server.
        reactor: of the run.
        engine: of the run, or None: this process is alone.
        own: the functions that answer the questions of the user, by name.
        kinds: those that answer questions of other kinds, besides the ones here.

    Attributes:
        id: of this node.
        control: this node among the others.
    """

    def __init__(
        self,
        user: ControlUser,
        reactor: Reactor,
        engine: AnyEngine | None,
        own: dict[str, Callable[[Any], Any]],
        kinds: Mapping[str, AnswerKind],
    ) -> None:
        self.id = os.urandom(8).hex() if engine is None else engine.id
        self._user = user
        self._reactor = reactor
        self._engine = engine
        self._own = own
        self._kinds = kinds
        self._name = f"{socket.gethostname()}/{os.getpid()}/{self.id[:4]}"
        self._started = time.time()
        self._ended = False
        #: Questions of other threads that are not answered.
        self._asked: dict[AnswersFuture, Callable[[list[Any]], Any]] = {}
        self.control = Control(
            self,
            self.id,
            self._note_invalid,
            alone=engine is None,
            rules=user._topic_rules.digest(),
        )
        if engine is not None:
            engine.listen_internal(self)

    def ask(
        self,
        question: str,
        data: Any,
        timeout: float,
        join: Callable[[list[Any]], Any],
    ) -> AnswersFuture:
        """Ask all nodes, from any thread."""
        future = AnswersFuture(self._in_loop)

        def begin() -> None:
            self.control.asking.ask(question, data, timeout, future, join)

        if self._in_loop():
            begin()
            return future
        self._asked[future] = join
        future.add_done_callback(lambda done: self._asked.pop(future, None))
        self._reactor.call_threadsafe(begin)
        if self._ended:  # meanwhile: perhaps nothing is called any more
            self._end_questions()
        return future

    def end(self) -> None:
        """The run ends: tell the others, and end the questions."""
        self._ended = True
        self.control.end()
        self._end_questions()

    def _end_questions(self) -> None:
        """End the questions of other threads that the loop has not begun to ask."""
        for future, join in list(self._asked.items()):
            with suppress(InvalidStateError):  # somebody else was faster
                future.set_result(Answers(join([]), {}, {}, [self._name]))

    def _in_loop(self) -> bool:
        return get_ident() == self._reactor.owner

    # For the engine

    def on_engine(self, up: bool) -> None:
        """The engine has come, or has gone."""
        self.control.on_engine(up)

    def on_internal(self, sender: str, channel: str, body: bytes) -> None:
        """A node has said something."""
        self.control.receive(sender, body)

    def stats(self) -> dict[str, Any]:
        """What is in the entry `engine` of `Server.stats`."""
        control = self.control
        return {"nodes": 1 + len(control.roster), "unknown": control.inbox.unknown}

    # For the control

    def time(self) -> float:
        """See `ControlHost`; likewise below."""
        return self._reactor.time()

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        """Call it in so many seconds."""
        self._reactor.call_later(delay, callback)

    def send(self, audience: Audience, value: str | None, body: bytes) -> bool:
        """Send something to other nodes."""
        return self._engine is not None and self._engine.send_internal(
            audience, value, body
        )

    def describe(self) -> NodeInfo:
        """This node."""
        clients = len(self._user.clients)
        return NodeInfo(self.id, self._name, clients, self._started, RELEASE, own=True)

    def note_gone(self, node: str, seen: float) -> None:
        """A node has gone."""
        self.control.on_gone(node, seen)

    def note_other_rules(self, node: NodeInfo) -> None:
        """Messages that others keep and this node does not, or the other way, do not
        come here."""
        if self._user._log.may_say("rules of topics", logging.WARNING):
            logger.warning(
                "the node %s has other rules of topics than this one: history, keep "
                "and presence (Server.topic) must be the same on all nodes, or their "
                "clients miss messages",
                node.name,
            )

    def note_forgotten(self) -> None:
        """Others may have counted this node as gone."""
        self.control.on_forgotten()

    def _note_invalid(self, sender: str, why: str) -> None:
        if self._engine is not None:
            self._engine.note_internal_invalid(sender, why)

    # Answers

    def answer(self, question: str, data: Any, done: Answer) -> None:
        """Answer a question of this node or another."""
        kind, _, name = question.partition(":")
        if kind == "own":
            self._answer_own(name, data, done)
            return
        answer = _ANSWERS.get(kind) or self._kinds.get(kind)
        if answer is None:
            done(None, f"a question {question!r} is not known here")
            return

        def give(value: Any, error: BaseException | None) -> None:
            if error is None:
                done(value, None)
            else:
                done(None, f"a wrong question {question!r}: {error}")

        try:
            value = answer(self._user, data)
        except (LookupError, TypeError, ValueError) as error:
            give(None, error)
            return
        if is_deferred(value):
            self._user._run_deferred(value, give)
        else:
            give(value, None)

    def _answer_own(self, name: str, data: Any, done: Answer) -> None:
        function = self._own.get(name)
        if function is None:
            done(None, f"nothing answers {name!r} here")
            return

        def give(value: Any, error: BaseException | None) -> None:
            if error is None:
                try:
                    value = checked_json(value, "an answer")
                except (TypeError, ValueError) as wrong:
                    error = wrong
            if error is None:
                done(value, None)
                return
            self._note_failure(function, error)
            done(None, f"{type(error).__name__}: {error}")

        try:
            result = self._user._log.call(None, "answer ", function, data)
        except Exception as error:
            give(None, error)
            return
        if is_deferred(result):
            self._user._run_deferred(result, give)
        else:
            give(result, None)

    def _note_failure(self, function: object, error: BaseException) -> None:
        self._user._log.note_failure(
            "answers to other nodes failed",
            "the answer %s failed",
            name_of(function),
            error=error,
        )


def _count(user: ControlUser, topic: Any) -> int:
    return len(user._topics.members(topic))


def _online(user: ControlUser, identity: Any) -> bool:
    return bool(user._identities.members(_decoded(identity)))


def _disconnect(user: ControlUser, data: Any) -> int:
    identity, code, reason = data
    code = check_close(code, reason)
    clients = list(user._identities.members(_decoded(identity)))
    return sum(bool(client.close(code, reason)) for client in clients)


def _input(user: ControlUser, data: Any) -> bool | None:
    """Whether there was room for the input of a client; None: it is not here."""
    key, frame = data
    take = user._inputs.get(key)
    return None if take is None else take(frame)


def _decoded(identity: Any) -> Any:
    """An identity as it came from another node, or as it is: without an engine."""
    return decode_identity(identity[0]) if isinstance(identity, list) else identity


#: What each node can be asked, besides the questions of users.
_ANSWERS: dict[str, AnswerKind] = {
    "count": _count,
    "online": _online,
    "disconnect": _disconnect,
    "input": _input,
}
