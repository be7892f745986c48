"""Two storms, simulated: clients that come back, and nodes that subscribe again.

Times are those of `costs.py`; numbers and pauses are those of the library. The network
is a fixed round trip. The same seed gives the same result.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from costs import MICRO, Costs
from queueing import Clock, Core, Job

__all__ = ["Reconnects", "Restart", "Result", "reconnect", "restart"]

#: Histories that a node reads at once, messages of a page, channels of a batch
#: (`cluster/kept.py`, `cluster/redis_engine.py`).
READS, PAGE, WINDOW = 16, 256, 512
#: Longest first pause before a node connects again, and of all, in seconds: full
#: jitter (`cluster/link.py`).
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
#: Seconds without a byte after which it gives its connection up: one until it asks,
#: two for the answer (`cluster/redis_engine.py`).
SILENCE = 3.0
#: Seconds after which a client's TCP tries again, doubled each time; after which the
#: client gives the attempt up (`open_timeout`); and up to which it then waits, doubled
#: each time, at most the second (`examples/common/connection.js`).
SYN_TIMEOUT, OPEN_TIMEOUT, CLIENT_PAUSES = 1.0, 10.0, (0.5, 10.0)


@dataclass
class Result:
    """What came of a storm.

    Attributes:
        seconds: until the last was back.
        behind: seconds by which a node's loop was behind, at most.
        engine: seconds of work of the engine's busiest core.
        reads: histories that were read from the engine.
        refused: attempts that came to nothing: of clients, because the queue of the
            system was full; of nodes, because the engine did not answer in time.
        times: when each of them was back, in order.
    """

    seconds: float = 0.0
    behind: float = 0.0
    engine: float = 0.0
    reads: int = 0
    refused: int = 0
    times: list[float] = field(default_factory=list)


# --- Clients come back ----------------------------------------------------------------


@dataclass(frozen=True)
class Reconnects:
    """A node was killed, and its clients go to the others.

    Attributes:
        clients: of the node that was killed.
        jitter: each waits for a random time of up to so many seconds.
        nodes: that are left, each with an equal part.
        backlog: connections that the system of a node queues.
        topics: with history; each client is subscribed to one, at random.
        known: of the topics, the share that a node has copies of already.
        history: messages of each topic.
        missed: of these, by each client.
        live: share of a node's core that its other clients need.
        notice: seconds until a client has noticed, at most.
        round_trip: seconds to the engine and back.
    """

    clients: int = 50_000
    jitter: float = 0.0
    nodes: int = 3
    backlog: int = 1024
    topics: int = 1_000
    known: float = 0.0
    history: int = 100
    missed: int = 10
    live: float = 0.3
    notice: float = 0.2
    round_trip: float = 0.0005


class _Topic:
    """What a node has of a topic."""

    __slots__ = ("in_step", "joining")

    def __init__(self, in_step: bool) -> None:
        self.in_step = in_step
        #: What waits until it is in step.
        self.joining: list[Callable[[], object]] = []


class _Node:
    """A node that is left."""

    def __init__(
        self,
        storm: Reconnects,
        costs: Costs,
        clock: Clock,
        engine: Core,
        rng: random.Random,
        result: Result,
    ) -> None:
        self.core = Core(clock, 1 - storm.live)
        self._storm, self._costs, self._clock = storm, costs, clock
        self._engine, self._rng, self._result = engine, rng, result
        self._queued = 0  # in the system's queue
        self._topics: dict[int, _Topic] = {}
        self._to_read: list[_Topic] = []
        self._reading = 0

    def connect(
        self, topic: int, attempt: int = 0, passed: float = 0.0, wait: float = 0.0
    ) -> None:
        """A client tries to connect, and again if the system has no room for it.

        Args:
            topic: that it is subscribed to.
            attempt: the number of it.
            passed: seconds since the attempt began.
            wait: of its TCP, before it came here.
        """
        if self._queued >= self._storm.backlog:
            self._result.refused += 1
            wait = 2 * wait or SYN_TIMEOUT
            if passed + wait < OPEN_TIMEOUT:
                again = partial(self.connect, topic, attempt, passed + wait, wait)
                self._clock.call_later(wait, again)
                return
            first, longest = CLIENT_PAUSES
            pause = self._rng.uniform(0, min(longest, first * 2.0**attempt))
            again = partial(self.connect, topic, attempt + 1)
            self._clock.call_later(OPEN_TIMEOUT - passed + pause, again)
            return
        self._queued += 1
        self.core.add(self._costs.handshake * MICRO, partial(self._accepted, topic))

    def _accepted(self, number: int) -> None:
        self._queued -= 1
        topic = self._topics.get(number)
        if topic is None:
            known = number < self._storm.known * self._storm.topics
            topic = self._topics[number] = _Topic(known)
            if not known:
                self._to_read.append(topic)
                self._read()
        if topic.in_step:
            self._join()
        else:
            topic.joining.append(self._join)

    def _join(self) -> None:
        costs = self._costs
        cost = costs.join + costs.replay * self._storm.missed
        self.core.add(cost * MICRO, self._back)

    def _back(self) -> None:
        self._result.times.append(self._clock.now)

    def _read(self) -> None:
        while self._to_read and self._reading < READS:
            self._reading += 1
            topic = self._to_read.pop(0)
            cost = self._costs.subscribe
            self._read_page(topic, self._storm.history, cost * MICRO)

    def _read_page(self, topic: _Topic, left: int, before: float) -> None:
        """Read a page of what is left of a history."""
        costs, messages = self._costs, min(left, PAGE)
        self._result.reads += 1
        at_engine = before + (costs.read + costs.read_message * messages) * MICRO
        here = (costs.page + costs.page_message * messages) * MICRO

        def end() -> None:
            if left > messages:
                self._read_page(topic, left - messages, 0.0)
                return
            self._reading -= 1
            topic.in_step = True
            for join in topic.joining:
                join()
            self._read()

        def answer() -> None:
            self._clock.call_later(
                self._storm.round_trip, lambda: self.core.add(here, end)
            )

        self._engine.add(at_engine, answer)


def reconnect(storm: Reconnects, costs: Costs, seed: int = 1) -> Result:
    """Simulate it."""
    clock, result, rng = Clock(), Result(), random.Random(seed)
    engine = Core(clock)
    nodes = [
        _Node(storm, costs, clock, engine, rng, result) for _ in range(storm.nodes)
    ]
    for number in range(storm.clients):
        node = nodes[number % storm.nodes]
        when = rng.uniform(0, storm.jitter) + rng.uniform(0, storm.notice)
        topic = rng.randrange(storm.topics)
        clock.call_at(when, partial(node.connect, topic))
    clock.run()
    result.seconds = result.times[-1]
    result.behind = max(node.core.longest for node in nodes)
    result.engine = engine.busy
    return result


# --- Nodes subscribe again ------------------------------------------------------------


@dataclass(frozen=True)
class Restart:
    """All servers of the engine were away for some seconds, and are back.

    Attributes:
        nodes: that use it.
        topics: of each node.
        shards: servers of the engine, each with an equal part of the topics.
        away: seconds for which they were away.
        kept: share of the topics that has a history.
        missed: messages of each of these that a node reads.
        limit: seconds after which the simulation ends, whether all are back or not.
        round_trip: seconds to the engine and back.
    """

    nodes: int = 1_000
    topics: int = 10_000
    shards: int = 1
    away: float = 5.0
    kept: float = 0.0
    missed: int = 1
    limit: float = 120.0
    round_trip: float = 0.0005


class _Link:
    """The connection of a node to a shard."""

    def __init__(
        self,
        storm: Restart,
        costs: Costs,
        clock: Clock,
        engine: Core,
        core: Core,
        topics: int,
        rng: random.Random,
        result: Result,
    ) -> None:
        self._storm, self._costs, self._clock = storm, costs, clock
        self._engine, self._core, self._rng = engine, core, rng
        self._topics, self._result = topics, result
        self._failures = 0
        self._connection = 0  # its number: what belongs to an earlier one is void
        self._jobs: list[Job] = []
        self._heard = 0.0
        self._reset()
        self._pause()

    def _reset(self) -> None:
        self._subscribed = 0
        self._unread = self._storm.kept * self._topics
        self._reading = 0
        self._up = False

    def _pause(self) -> None:
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures, 16))
        self._failures += 1
        self._clock.call_later(self._rng.uniform(0, longest), self._connect)

    def _connect(self) -> None:
        if self._clock.now < self._storm.away:
            self._pause()
        elif self._clock.now < self._storm.away + self._storm.limit:
            self._connection += 1
            self._reset()
            self._heard = self._clock.now
            self._watch()
            self._ask(self._costs.greeting, 0.0, self._subscribe)

    def _ask(self, cost: float, here: float, then: Callable[[], object]) -> None:
        """Have the engine do something, then this node, then go on."""
        number = self._connection

        def answered() -> None:
            if number == self._connection:
                self._heard = self._clock.now
                self._core.add(here * MICRO, go_on)

        def go_on() -> None:
            if number == self._connection:
                then()

        answer = partial(self._clock.call_later, self._storm.round_trip, answered)
        job = self._engine.add(cost * MICRO, answer)
        self._jobs = [*self._jobs[1 - READS :], job]

    def _watch(self) -> None:
        """Give the connection up when the engine is silent."""
        number = self._connection

        def look() -> None:
            if number != self._connection or self._up:
                return
            silent_at = self._heard + SILENCE
            if self._clock.now >= silent_at:
                self._give_up()
            else:
                self._clock.call_at(silent_at, look)

        self._clock.call_at(self._heard + SILENCE, look)

    def _give_up(self) -> None:
        self._connection += 1
        self._result.refused += 1
        for job in self._jobs:
            job.cancelled = True
        if self._subscribed:
            self._engine.add(self._costs.cut * self._subscribed * MICRO)
        self._pause()

    def _subscribe(self) -> None:
        """One batch after the other."""
        batch = min(WINDOW, self._topics - self._subscribed)
        if batch <= 0:
            self._read()
            return

        def confirmed() -> None:
            self._subscribed += batch
            self._subscribe()

        costs = self._costs
        self._ask(costs.subscribe * batch, costs.subscribed * batch, confirmed)

    def _read(self) -> None:
        """Then the histories, some at once."""
        costs, missed = self._costs, self._storm.missed
        while self._unread >= 1 and self._reading < READS:
            self._unread -= 1
            self._reading += 1
            self._result.reads += 1
            self._ask(
                costs.read + costs.read_message * missed,
                costs.page + costs.page_message * missed,
                self._has_read,
            )
        if not self._reading:
            self._up = True
            self._result.times.append(self._clock.now - self._storm.away)

    def _has_read(self) -> None:
        self._reading -= 1
        self._read()


def restart(storm: Restart, costs: Costs, seed: int = 1) -> Result:
    """Simulate it. `seconds` counts from when the engine is back."""
    clock, result, rng = Clock(), Result(), random.Random(seed)
    engines = [Core(clock) for _ in range(storm.shards)]
    cores = [Core(clock) for _ in range(storm.nodes)]
    for core in cores:
        for number, engine in enumerate(engines):
            topics = (storm.topics + number) // storm.shards
            _Link(storm, costs, clock, engine, core, topics, rng, result)
    clock.run()
    result.seconds = result.times[-1] if result.times else storm.limit
    result.behind = max(core.longest for core in cores)
    result.engine = max(engine.busy for engine in engines)
    return result
