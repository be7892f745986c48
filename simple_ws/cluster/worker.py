"""A worker process as it sees itself: its number, and its pipe to the supervisor.

`Worker` is what users are handed. `WorkerLink` tells the supervisor from the worker's
own loop each second that the loop turns; a thread could still say so while the loop
hangs. It says that the worker is up once its engine is, so that nobody is sent to one
who cannot pass messages on. How the process begins and ends is in `process`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..loop.reactor import READ, Reactor
from .board import Board
from .pipe import Pipe

if TYPE_CHECKING:
    from .broker import BrokerSocket

__all__ = ["HEARTBEAT", "Worker", "WorkerHost", "WorkerLink"]

#: Seconds between two signs of life.
HEARTBEAT = 1.0
#: Seconds that a worker waits for its engine before it says that it is up: the site
#: serves without the engine, too. Longer than it takes to connect over any network.
ENGINE_WAIT = 3.0


class Worker:
    """One of the processes that serve.

    Attributes:
        number: from 1 to `count`; its successor has the same.
        count: of the workers; 1 without the option `workers`.
        pid: of the process.
    """

    number: int
    count: int
    pid: int

    def __init__(self, number: int = 1, count: int = 1) -> None:
        self.number = number
        self.count = count
        self.pid = os.getpid()

    def __repr__(self) -> str:
        return f"Worker(number={self.number}, count={self.count}, pid={self.pid})"


class WorkerHost(NamedTuple):
    """What a worker's link asks of its server.

    Attributes:
        stats: returns the stats of this process.
        stop: begins the shutdown; given seconds or None, and whether nobody will
            accept the connections that wait in the queue.
        cut: ends at once.
        when_ready: has a function called once the engine is up; at once if it is, or if
            there is none.
    """

    stats: Callable[[], dict[str, Any]]
    stop: Callable[[float | None, bool], object]
    cut: Callable[[], object]
    when_ready: Callable[[Callable[[], object]], object]


class WorkerLink:
    """The worker's end of what connects it with the supervisor.

    Args:
        worker: who it is.
        pipe: to the supervisor.
        board: where the supervisor writes the sums.
        broker: whose `path` and `secret` lead to the broker; None if there is none.

    Attributes:
        worker, board, broker: see above.
        turns: the loop has turned.
    """

    def __init__(
        self,
        worker: Worker,
        pipe: Pipe,
        board: Board,
        broker: BrokerSocket | None = None,
    ) -> None:
        self.worker = worker
        self.board = board
        self.broker = broker
        self.turns = False
        self._told = False  # that it is up
        self._pipe = pipe
        self._host: WorkerHost
        self._reactor: Reactor

    @property
    def leads(self) -> bool:
        """Whether this process does what only one of the workers does."""
        return self.board.leader == self.worker.pid

    def begin(self, reactor: Reactor, host: WorkerHost) -> None:
        """The loop is about to turn: listen to the supervisor, and talk to it."""
        self._reactor, self._host = reactor, host
        reactor.register(self._pipe, READ, self._on_ready)
        reactor.call_soon(self._on_first_turn)

    def ask_to_stop(self, drain: float | None) -> None:
        """Have the supervisor stop all workers; in the loop's thread."""
        self._pipe.send({"stop": drain})

    def end(self, stats: dict[str, Any]) -> None:
        """The loop has ended: send the last counts."""
        self._pipe.send_last({"stats": stats})

    def fail(self, reason: str) -> None:
        """Say why this worker cannot begin."""
        self._pipe.send_last({"failed": reason})

    def _on_first_turn(self) -> None:
        self.turns = True
        self._beat()
        self._reactor.call_later(ENGINE_WAIT, self._say_up)
        self._host.when_ready(self._say_up)

    def _say_up(self) -> None:
        if not self._told:
            self._told = True
            self._pipe.send({"up": True, "stats": self._host.stats()})

    def _beat(self) -> None:
        self._pipe.send({"stats": self._host.stats()}, droppable=True)
        self._reactor.call_later(HEARTBEAT, self._beat)

    def _on_ready(self, events: int) -> None:
        messages, there = self._pipe.receive()
        for message in messages:
            if "stop" in message:
                self._host.stop(message["stop"], message["last"])
            if "cut" in message:
                self._host.cut()
        if not there:  # the supervisor was killed: workers do not outlive it
            self._reactor.unregister(self._pipe)
            self._host.cut()


class NamesWorker(logging.Filter):
    """Adds the number of the worker to each line of the log, as `ws_worker`."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._number = worker.number

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every line pass."""
        record.__dict__["ws_worker"] = self._number  # as `extra=` does it
        return True
