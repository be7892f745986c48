"""Nodes that speak to each other on an engine in memory, by the clock of the test.

A `Network` has one order for all, as an engine has. A node can be down (its connection
is lost), be stopped (it reads and does nothing), or be killed; messages can be dropped.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections import deque
from collections.abc import Callable
from typing import Any

from simple_ws.cluster.asking import Answer
from simple_ws.cluster.channels import Audience, Channels
from simple_ws.cluster.control import Control
from simple_ws.cluster.roster import NodeInfo

__all__ = ["FakeNode", "Network"]


class Network:
    """Nodes on one engine, and the clock of all.

    Attributes:
        now: seconds.
        drops: says whether a message is lost on its way, by the node and the message.
        sent: every message: who has sent it, the channel, and what it is.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.nodes: dict[str, FakeNode] = {}
        self.drops: Callable[[FakeNode, dict[str, Any]], bool] = lambda node, what: (
            False
        )
        self.sent: list[tuple[str, str, dict[str, Any]]] = []
        self._timers: list[tuple[float, int, FakeNode, Callable[[], object]]] = []
        self._order = itertools.count()

    def add(
        self, node: str, make: Callable[[Network, str], FakeNode] | None = None
    ) -> FakeNode:
        """Start a node, whose engine is there at once."""
        added = self.nodes[node] = (make or FakeNode)(self, node)
        added.connect()
        return added

    def call_later(
        self, node: FakeNode, delay: float, callback: Callable[[], object]
    ) -> None:
        heapq.heappush(
            self._timers, (self.now + delay, next(self._order), node, callback)
        )

    def publish(self, sender: FakeNode, channel: str, body: bytes) -> None:
        message = json.loads(body)
        self.sent.append((sender.id, channel, message))
        for node in self.nodes.values():
            if node.hears(channel) and not self.drops(node, message):
                node.waiting.append((sender.id, channel, body))

    def settle(self) -> None:
        """Deliver all that is on its way."""
        busy = True
        while busy:
            busy = False
            for node in list(self.nodes.values()):
                busy |= node.read()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.settle()
        until = self.now + seconds
        while self._timers and self._timers[0][0] <= until:
            when, _, node, callback = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            node.run(callback)
            self.settle()
        self.now = until

    def kill(self, node: FakeNode) -> None:
        """The process ends at once."""
        del self.nodes[node.id]
        node.alive = False

    def said(self, kind: str) -> list[dict[str, Any]]:
        """The messages of a kind."""
        return [message for _, _, message in self.sent if message["k"] == kind]


class FakeNode:
    """One node; the host of its `Control`.

    Attributes:
        answers: what it answers, by question; an exception is an error.
        gone: the nodes that it was told of as gone, and when they were seen last.
    """

    rules = ""

    def __init__(self, network: Network, node: str) -> None:
        self.network, self.id = network, node
        self.channels = Channels("sws")
        self.control = self.make_control()
        self.listens = {self.channels.nodes, self.channels.node(node)}
        self.alive, self.up, self.stopped = True, False, False
        self.waiting: deque[tuple[str, str, bytes]] = deque()
        self.due: deque[Callable[[], object]] = deque()
        self.answers: dict[str, Any] = {}
        self.silent = False
        self.gone: list[tuple[str, float]] = []
        self.forgotten = 0
        self.other_rules: list[str] = []
        self.invalid: list[str] = []

    def make_control(self) -> Control:
        return Control(self, self.id, self.note_invalid, rules=self.rules)

    def note_invalid(self, sender: str, why: str) -> None:
        self.invalid.append(why)

    # What happens to it

    def connect(self) -> None:
        self.up = True
        self.on_engine(True)

    def cut(self) -> None:
        self.up = False
        self.waiting.clear()
        self.on_engine(False)

    def on_engine(self, up: bool) -> None:
        self.control.on_engine(up)

    def stop(self) -> None:
        """SIGSTOP."""
        self.stopped = True

    def go_on(self) -> None:
        """SIGCONT: what has come is read, then what is due is called."""
        self.stopped = False
        self.read()
        due, self.due = self.due, deque()
        for callback in due:
            callback()

    def hears(self, channel: str) -> bool:
        return self.up and channel in self.listens

    def read(self) -> bool:
        """Read what has come; whether there was something."""
        came = False
        while self.waiting and not self.stopped:
            came = True
            sender, channel, body = self.waiting.popleft()
            self.receive(sender, channel, body)
        return came

    def receive(self, sender: str, channel: str, body: bytes) -> None:
        self.control.receive(sender, body)

    def run(self, callback: Callable[[], object]) -> None:
        """Something is due."""
        if self.stopped:
            self.due.append(callback)
        elif self.alive:
            callback()

    # For the control

    def time(self) -> float:
        return self.network.now

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        self.network.call_later(self, delay, callback)

    def send(self, audience: Audience, value: str | None, body: bytes) -> bool:
        if self.up:
            self.network.publish(self, self.channels.name(audience, value), body)
        return self.up

    def describe(self) -> NodeInfo:
        return NodeInfo(self.id, f"name of {self.id}", 3, 5.0, "1.2", own=True)

    def answer(self, question: str, data: Any, done: Answer) -> None:
        if self.silent:
            return
        answer = self.answers.get(question)
        if isinstance(answer, Exception):
            done(None, str(answer))
        else:
            done([answer, data], None)

    def note_gone(self, node: str, seen: float) -> None:
        self.gone.append((node, seen))
        self.control.on_gone(node, seen)

    def note_other_rules(self, node: NodeInfo) -> None:
        self.other_rules.append(node.id)

    def note_forgotten(self) -> None:
        self.forgotten += 1
        self.control.on_forgotten()

    # For tests

    @property
    def others(self) -> list[str]:
        return sorted(info.id for info in self.control.nodes() if not info.own)
