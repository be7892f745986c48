"""`Cluster`: the face of all nodes to the user: who is there, and what they know.

Works the same in one process without an engine, which is a cluster of one node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..checks import seconds
from ..cluster.answers import Answers, AnswersFuture
from ..cluster.asking import Answer, checked_json
from ..cluster.channels import encode_identity
from ..cluster.roster import NodeInfo
from ..errors import InvalidState
from ..loop.deferred import check_callback
from ..loop.reactor import Reactor
from ..messages import check_close
from .control import AnswerKind, ControlRun, ControlUser

if TYPE_CHECKING:
    from .sharded_engine import AnyEngine

__all__ = ["Answers", "AnswersFuture", "Cluster", "NodeInfo"]

F = TypeVar("F", bound=Callable[..., Any])

#: Seconds that answers of other nodes are waited for.
_TIMEOUT = 2.0
#: The longest name of a question.
_MAX_NAME = 200


class ClusterUser(ControlUser, Protocol):
    """What it needs of its server."""

    @property
    def _running(self) -> bool:
        """Whether a loop turns."""

    @property
    def _asyncio_loop(self) -> Any:
        """The asyncio loop that awaits callbacks, or None."""

    def _check_awaited(self, callbacks: Any, loop: Any) -> None:
        """Refuse async callbacks that nothing would await."""


class Cluster:
    """All nodes that share the engine of a server; `Server.cluster`.

    A node is a process that serves. Each says every 5 seconds that it is there; one
    that was not heard for 15 seconds, or that stops, is no longer counted. Without an
    engine and without workers, this process is the only node.

    `count`, `online`, `disconnect` and `ask` ask all nodes, and return an
    `AnswersFuture` at once: `result()` waits for it in a thread, `add_done_callback`
    and `await` work in the loop. Its result is an `Answers` with what has come in time,
    and with the names of the nodes that are missing; it never is an exception. The
    timeout of each is in seconds.

    Every method may be called from any thread.
    """

    def __init__(self, user: ClusterUser) -> None:
        self._user = user
        self._questions: dict[str, Callable[[Any], Any]] = {}
        #: For the layer above: what answers other kinds of questions.
        self._kinds: dict[str, AnswerKind] = {}
        self._run: ControlRun | None = None
        self._has_engine = False

    @property
    def id(self) -> str:
        """The id of this node; "" while the server does not listen."""
        run = self._run
        return "" if run is None else run.id

    def nodes(self) -> list[NodeInfo]:
        """The nodes that are there, this one first; none while it does not listen.

        Those of a cluster that this node has just joined are known within a second.
        """
        run = self._run
        return [] if run is None else run.control.nodes()

    def count(self, topic: str, timeout: float = _TIMEOUT) -> AnswersFuture:
        """Ask how many subscribers a topic has on all nodes; the value is the sum.

        Raises:
            TypeError: The topic is not a str.
            InvalidState: The server does not run.
        """
        if not isinstance(topic, str):
            raise TypeError(f"topic must be a str, not {topic!r}")
        return self._ask("count", topic, timeout, _sum)

    def online(self, client_id: Any, timeout: float = _TIMEOUT) -> AnswersFuture:
        """Ask whether an identity has a connection on any node; the value is a bool.

        Raises:
            TypeError: The identity is not hashable; or there is an engine, and it is
                neither str, int, bytes nor UUID.
            InvalidState: The server does not run.
        """
        return self._ask("online", self._encoded(client_id), timeout, _any)

    def disconnect(
        self,
        client_id: Any,
        code: int = 1000,
        reason: str = "",
        timeout: float = _TIMEOUT,
    ) -> AnswersFuture:
        """Close all connections of an identity; the value is how many were closed.

        Args:
            client_id: as given to `bind`.
            code: the close code, as for `Client.close`.
            reason: text for people, at most 123 bytes of UTF-8.
            timeout: seconds to wait for the nodes.

        Raises:
            TypeError: See `online` and `Client.close`.
            ValueError: The code must not be sent, or the reason is too long.
            InvalidState: The server does not run.
        """
        code = check_close(code, reason)
        identity = self._encoded(client_id)
        return self._ask("disconnect", [identity, int(code), reason], timeout, _sum)

    def ask(
        self, name: str, data: Any = None, timeout: float = _TIMEOUT
    ) -> AnswersFuture:
        """Ask all nodes a question of your own; the value is the list of answers.

        Args:
            name: the nodes answer it by the function that `answer` has registered
                there.
            data: a JSON value of at most 256 KiB, for that function.
            timeout: seconds to wait for the nodes.

        Raises:
            TypeError: The name is not a str; or JSON cannot represent the data.
            ValueError: Likewise, or the data is too large.
            InvalidState: The server does not run.
        """
        _check_name(name)
        return self._ask(f"own:{name}", checked_json(data, "data"), timeout, list)

    def answer(self, name: str) -> Callable[[F], F]:
        """Answer a question of this node or another by the decorated function.

            @server.cluster.answer("jobs")
            def jobs(data):
                return len(queue)

        It is called in the loop's thread with the data that was given to `ask`, and
        returns a JSON value of at most 256 KiB. It may be `in_thread`, or async where
        callbacks of handlers may be. If it raises, the error is logged here, and stands
        in `Answers.errors`.

        Args:
            name: of the question; each has one function on a server.

        Raises:
            TypeError: The name is not a str, or the function takes other arguments.
            ValueError: The name is empty or longer than 200 characters, or it is
                answered already.
            InvalidState: The function is async, and the server does not run in an
                asyncio loop.
        """
        _check_name(name)

        def decorate(function: F) -> F:
            what = f"the answer to {name!r}"
            check_callback(what, function, ("data",))
            if name in self._questions:
                raise ValueError(f"{name!r} is answered already")
            if self._user._running:
                user = self._user
                user._check_awaited([(what, function)], user._asyncio_loop)
            self._questions[name] = function
            return function

        return decorate

    def __repr__(self) -> str:
        return f"<Cluster of {len(self.nodes())} nodes>"

    # For the server

    def _ask(
        self,
        question: str,
        data: Any,
        timeout: float,
        join: Callable[[list[Any]], Any],
    ) -> AnswersFuture:
        seconds("timeout", timeout)
        run = self._run
        if run is None or not self._user._running:
            raise InvalidState("the server does not run")
        return run.ask(question, data, timeout, join)

    def _call(
        self, node: str, question: str, data: Any, timeout: float, done: Answer
    ) -> bool:
        """Ask one other node, in the loop's thread; see `Calls.call`."""
        run = self._run
        return run is not None and run.control.calls.call(
            node, question, data, timeout, done
        )

    def _encoded(self, client_id: Any) -> Any:
        try:
            hash(client_id)
        except TypeError:
            raise TypeError(f"client_id must be hashable, not {client_id!r}") from None
        return [encode_identity(client_id)] if self._has_engine else client_id

    def _callbacks(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        """Every function, with the name that errors call it by."""
        for name, function in list(self._questions.items()):
            yield f"the answer to {name!r}", function

    def _begin(self, reactor: Reactor, engine: AnyEngine | None) -> ControlRun:
        """A run begins."""
        self._has_engine = engine is not None
        self._run = run = ControlRun(
            self._user, reactor, engine, self._questions, self._kinds
        )
        return run

    def _end(self) -> None:
        """The run ends: tell the others."""
        run, self._run = self._run, None
        if run is not None:
            run.end()

    def _forget(self) -> None:
        """This is a forked process: the run is the parent's."""
        self._run = None


def _sum(answers: list[Any]) -> int:
    return sum(answer for answer in answers if type(answer) is int)


def _any(answers: list[Any]) -> bool:
    return any(answer is True for answer in answers)


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {name!r}")
    if not 0 < len(name) <= _MAX_NAME:
        raise ValueError(
            f"name must have from 1 to {_MAX_NAME} characters, not {len(name)}"
        )
