"""Which nodes there are: each says so every 5 s, and after 15 s of silence it is gone.

A node that begins says that it is new, and the others tell it of themselves at once;
one that stops says good-bye. Silence counts only while this node listens: not while its
engine is down, nor while the process stood still.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple, Protocol

from .channels import Audience
from .internal import Nodes, encode, value_of

__all__ = ["BEAT", "GONE", "SETTLE", "NodeInfo", "Roster", "RosterHost"]

#: Seconds between two signs of life of a node.
BEAT = 5.0
#: Seconds of silence after which a node is gone: two signs of life may be lost.
GONE = 15.0
#: Seconds in which the others have told a new node of themselves.
SETTLE = 1.0
#: Seconds over which they spread that, so that a new node is not overrun.
_SPREAD = 0.3
#: A timer that is so late, in seconds, means that the process stood still.
_PAUSE = 1.0
#: Nodes that are remembered; one more is passed over.
_MAX_NODES = 10_000


class NodeInfo(NamedTuple):
    """A node of the cluster, see `Server.cluster`.

    Attributes:
        id: random, new at each start of the server.
        name: host, process id and the beginning of the id.
        clients: its open connections, as it has said last.
        started: when it began, in seconds since the epoch, by its own clock.
        version: of simple_ws.
        own: it is this one.
    """

    id: str
    name: str
    clients: int
    started: float
    version: str
    own: bool = False


class RosterHost(Nodes, Protocol):
    """What the roster needs of its node."""

    def describe(self) -> NodeInfo:
        """This node, as it is now."""

    def note_gone(self, node: str, seen: float) -> None:
        """A node was not heard since `seen`, or has said good-bye then."""

    def note_other_rules(self, node: NodeInfo) -> None:
        """A node that is new here has other rules of topics."""

    def note_forgotten(self) -> None:
        """Others may have counted this node as gone; it must tell all again."""


class _Known:
    """A node that was heard."""

    __slots__ = ("info", "introduced", "seen")

    def __init__(self, info: NodeInfo, seen: float) -> None:
        self.info = info
        self.seen = seen
        self.introduced = False  # it has told of itself


class Roster:
    """The nodes that are there, besides this one.

    Args:
        host: how they are reached.
        rules: of the topics here, see `TopicRules.digest`.

    Attributes:
        settled_at: when the others have told of themselves; None while the engine is
            down.
    """

    def __init__(self, host: RosterHost, rules: str = "") -> None:
        self.settled_at: float | None = None
        self._host = host
        self._rules = rules
        self._known: dict[str, _Known] = {}
        self._beat_at = 0.0
        self._due = 0.0
        self._running = False
        self._reminded_at = 0.0

    def __len__(self) -> int:
        return len(self._known)

    def others(self) -> list[NodeInfo]:
        """The other nodes."""
        return [known.info for known in list(self._known.values())]

    def name(self, node: str) -> str:
        """The name of a node, or its id if that is not known."""
        known = self._known.get(node)
        return node if known is None else known.info.name

    # The engine

    def on_engine(self, up: bool) -> None:
        """The engine has come, or has gone."""
        if not up:
            self.settled_at = None
            return
        now = self._host.time()
        self.settled_at = now + SETTLE
        # Nobody could be heard meanwhile: all get their time anew.
        for known in self._known.values():
            known.seen = now
        self._say_here(Audience.NODES, None, new=True)
        self._beat_at = now + BEAT * random.uniform(0.5, 1)
        if not self._running:
            self._running = True
            self._schedule(now)

    def end(self) -> None:
        """The server stops: say good-bye."""
        self._host.send(Audience.NODES, None, encode("bye"))
        self._running = False
        self._known.clear()

    # Signs of life

    def note_life(self, node: str) -> None:
        """A node was heard."""
        known = self._known.get(node)
        if known is not None:
            known.seen = self._host.time()
        else:
            self._enter(NodeInfo(node, node, 0, 0.0, ""))

    def on_here(self, node: str, message: dict[str, Any]) -> None:
        """A node says that it is there.

        Raises:
            Malformed: It does not say it properly.
        """
        info = NodeInfo(
            node,
            value_of(message, "name", str),
            value_of(message, "clients", int),
            value_of(message, "started", float),
            value_of(message, "version", str),
        )
        known = self._known.get(node)
        strange = known is None or not known.introduced
        if known is None:
            known = self._enter(info)
        known.info, known.seen, known.introduced = info, self._host.time(), True
        if strange and message.get("rules", "") != self._rules:
            self._host.note_other_rules(info)
        if message.get("new") is True:
            self._reply_later(node, forgotten=False)
        elif strange and self._settled and message.get("reply") is not True:
            self._reply_later(node, forgotten=True)  # it was gone, and may not know
        if message.get("forgotten") is True:
            self._remind()

    def on_bye(self, node: str, message: dict[str, Any]) -> None:
        """A node says good-bye."""
        if self._known.pop(node, None) is not None:
            self._host.note_gone(node, self._host.time())

    def _enter(self, info: NodeInfo) -> _Known:
        known = _Known(info, self._host.time())
        if len(self._known) < _MAX_NODES:
            self._known[info.id] = known
        return known

    @property
    def _settled(self) -> bool:
        return self.settled_at is not None and self._host.time() >= self.settled_at

    def _reply_later(self, node: str, forgotten: bool) -> None:
        def reply() -> None:
            self._say_here(Audience.NODE, node, reply=True, forgotten=forgotten)

        self._host.call_later(random.uniform(0, _SPREAD), reply)

    def _remind(self) -> None:
        """Another node had forgotten this one: one answer to all who say so."""
        now = self._host.time()
        if now >= self._reminded_at + BEAT:
            self._reminded_at = now
            self._host.note_forgotten()

    def _say_here(self, audience: Audience, node: str | None, **flags: bool) -> None:
        info = self._host.describe()
        body = encode(
            "here",
            name=info.name,
            clients=info.clients,
            started=info.started,
            version=info.version,
            **({"rules": self._rules} if self._rules else {}),
            **{name: True for name, flag in flags.items() if flag},
        )
        self._host.send(audience, node, body)

    # Time

    def _schedule(self, now: float) -> None:
        first = min((known.seen for known in self._known.values()), default=now)
        # Who is heard of meanwhile is looked at with the next sign of life of ours.
        self._due = max(now, min(self._beat_at, first + GONE))
        self._host.call_later(self._due - now, self._tick)

    def _tick(self) -> None:
        if not self._running:
            return
        now = self._host.time()
        pause = now - self._due
        if pause > _PAUSE:
            self._excuse(now, pause)
        if now >= self._beat_at:
            self._beat_at = now + BEAT
            self._say_here(Audience.NODES, None)
        if self.settled_at is not None:
            self._drop_silent(now)
        else:  # nobody can be heard
            for known in self._known.values():
                known.seen = now
        self._schedule(now)

    def _excuse(self, now: float, pause: float) -> None:
        """This process stood still: what the others said waits to be read."""
        for known in self._known.values():
            known.seen = min(now, known.seen + pause)
        if pause > GONE - BEAT and self.settled_at is not None:
            self._host.note_forgotten()

    def _drop_silent(self, now: float) -> None:
        silent = [n for n, known in self._known.items() if now >= known.seen + GONE]
        for node in silent:
            self._host.note_gone(node, self._known.pop(node).seen)
