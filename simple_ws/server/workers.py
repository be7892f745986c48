"""`Workers`: a server that serves in several processes (the option `workers`).

Here is what the server does in the supervisor, which never has a run, and what in each
worker, which has one as any server. Keeping the workers alive is left to
`cluster.supervisor`, which is imported when needed: most programs are one process.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from ..cluster.worker import Worker, WorkerHost, WorkerLink
from ..connection.options import Options
from ..errors import InvalidState
from ..loop.listener import name_of, port_of, take_over
from ..loop.schedule import Schedule
from ..ops.stats import Stats, StatsSource
from ..speedups import BACKEND
from .run import Run

if TYPE_CHECKING:
    from ..cluster.engine_address import EngineAddress
    from ..cluster.handover import Received
    from ..cluster.sockets import ListeningSockets
    from ..cluster.supervisor import Supervisor
    from ..cluster.thread_engine import SharedEngine
    from .applications import Applications
    from .sharded_engine import AnyEngine

__all__ = ["Workers", "refuse_handover"]

logger = logging.getLogger("simple_ws")

#: Of `cluster.handover`, known without the import of what few programs need.
_HANDOVER = "SIMPLE_WS_HANDOVER"


class WorkersHost(StatsSource, Protocol):
    """What they need of their server (`server.Server` has it)."""

    options: Options
    host: str
    port: int
    _asked_port: int
    _run: Run | None
    _engine: AnyEngine | None
    _engine_addresses: list[EngineAddress]
    _schedule: Schedule
    _stats: Stats
    _asgi: Applications | None

    @property
    def _is_stopping(self) -> bool:
        """Whether the shutdown has begun."""

    def _all_callbacks(self) -> Iterable[tuple[str, Callable[..., Any]]]:
        """The callbacks of users, with names."""

    def _check_awaited(self, callbacks: Any, loop: None) -> None:
        """Refuse async callbacks."""

    def _divide_limits(self, count: int) -> None:
        """Take the limits of one of `count` workers."""

    def _open_run(
        self,
        sockets: Iterable[socket.socket],
        file: None,
        shared: bool,
        batch: int | None,
    ) -> None:
        """Accept from these sockets."""

    def _begin(self, loop: None = None, *, own_loop: bool) -> Run:
        """Begin to run in this thread."""

    def _start_applications(self, run: Run) -> None:
        """Let ASGI applications start."""

    def _serve(self, run: Run) -> None:
        """Run the loop to its end."""

    def _begin_stop(self, drain: float | None) -> None:
        """Begin the shutdown."""

    def _abort(self) -> None:
        """End after this turn of the loop."""


class Workers:
    """The workers of one server.

    Args:
        server: whose workers they are.

    Attributes:
        link: to the supervisor, in a worker; None elsewhere.
        on_ready: called in the supervisor when all of them serve for the first time.
        id: the same in all of them; "" without workers.
        shared_engine: of threads (`thread_workers`); None in processes.
    """

    shared_engine: SharedEngine | None = None

    def __init__(self, server: WorkersHost) -> None:
        self.link: WorkerLink | None = None
        self.on_ready: Callable[[], object] | None = None
        self.id = ""
        self._server = server
        self._sockets: ListeningSockets | None = None
        self._received: Received | None = None  # until all workers serve
        self._supervisor: Supervisor | None = None

    @property
    def apply(self) -> bool:
        """Whether this is the supervisor of a server with workers, or will be."""
        return self.link is None and self._server.options.workers > 1

    def refuse(self, what: str) -> None:
        """Refuse another way to serve.

        Raises:
            InvalidState: The server has workers.
        """
        if self.apply:
            raise InvalidState(
                f"{what} serves in one process: call run() for "
                f"workers={self._server.options.workers}, or leave the option out"
            )

    # In the supervisor

    def listen(self, sockets: Iterable[socket.socket]) -> None:
        """Bind the port for all workers; see `Server.listen`."""
        from ..cluster.engine_url import check_workers
        from ..cluster.handover import received

        if self._sockets is not None:
            raise InvalidState("the server listens already")
        server, options = self._server, self._server.options
        if server._engine_addresses:
            check_workers(server._engine_addresses[0], options.workers)
        given = take_over(sockets, options.backlog)
        self._received = received()
        adopted = self._adopt(given)
        if adopted is not None:
            self._sockets = adopted
            server.port = port_of(adopted.first) or server.port
        else:
            self._sockets = self._bind(given)
        self._note_listening(self._sockets, "workers")

    def _bind(self, given: Sequence[socket.socket]) -> ListeningSockets:
        """The sockets of all workers: those that were given, or new ones."""
        from ..cluster.sockets import ListeningSockets

        server, options = self._server, self._server.options
        count, backlog = options.workers, options.backlog
        if given:
            server.port = next(filter(None, map(port_of, given)), server.port)
            return ListeningSockets.one_for_all(given, count, given=True)
        if options.unix is not None:
            return ListeningSockets.bind_unix(options.unix, backlog, count)
        sockets = ListeningSockets.bind(
            server.host, server._asked_port, backlog, options.reuse_port, count
        )
        server.port = port_of(sockets.first)
        return sockets

    def _note_listening(self, sockets: ListeningSockets, what: str) -> None:
        logger.info(
            "listening on %s with %d %s (backend: %s)",
            name_of(sockets.first),
            self._server.options.workers,
            what,
            BACKEND,
        )

    @property
    def _key(self) -> list[Any]:
        """What this server wants to listen on."""
        server = self._server
        return [server.host, server._asked_port, server.options.unix]

    def _adopt(self, given: Sequence[socket.socket]) -> ListeningSockets | None:
        """Listen on what an older program has handed over, unless this one wants to be
        elsewhere, or was given sockets itself."""
        old, server = self._received, self._server
        if old is None:
            return None
        if given or old.key != self._key:
            logger.info("this program listens elsewhere than the one before it")
            old.refuse()
            return None
        options = server.options
        return old.adopt(options.workers, server.host, options.backlog)

    def _begin_to_serve(self) -> None:
        """All workers serve for the first time, in the supervisor."""
        old, self._received = self._received, None
        if old is not None:
            assert self._sockets is not None
            unix = self._server.options.unix
            if unix is not None and not self._sockets.given:
                self._sockets.own_file(unix)
            old.tell_ready()
        if self.on_ready is not None:
            self.on_ready()

    def run(self) -> None:
        """Serve until all workers have ended; see `Server.run`.

        Raises:
            InvalidState: It runs already, a callback is async, there are threads, or
                this system has no fork.
            SystemExit: A worker could not begin; with the code 3.
        """
        from ..cluster import handover
        from ..cluster.broker_process import BrokerProcess
        from ..cluster.supervisor import Supervisor, check_fork

        if self._supervisor is not None:
            raise InvalidState("the server runs already")
        check_fork()
        self.id = os.urandom(8).hex()
        server = self._server
        if server._asgi is None:  # otherwise each worker makes a loop
            server._check_awaited(server._all_callbacks(), None)
        if self._sockets is None:
            self.listen(())
        assert self._sockets is not None
        count = server.options.workers
        if count > (cores := _cores()):
            plural = "" if cores == 1 else "s"
            logger.warning("%d workers share %d core%s", count, cores, plural)
        try:
            broker = BrokerProcess() if self._needs_broker else None
            _import_for_workers()
            self._supervisor = Supervisor(
                self._sockets,
                count,
                self._serve,
                self._begin_to_serve,
                broker,
                handover.starter(self._sockets, self._key),
            )
            code = self._supervisor.run()
        finally:
            self._sockets.close()
            self._supervisor = self._sockets = None
        if code:
            raise SystemExit(code)

    def start(self) -> None:
        """Processes are forked by `run` alone."""
        self.refuse("start()")

    @property
    def _needs_broker(self) -> bool:
        """Whether nothing else carries messages from one worker to the others."""
        return self._server.options.engine is None

    def stop(self, drain: float | None) -> None:
        """Stop all workers; in the supervisor, such as in a handler of a signal."""
        if self._supervisor is not None:
            self._supervisor.stop(drain)
        elif self._sockets is not None:
            self._sockets.close()
            self._sockets = None

    def totals(self, own: dict[str, Any]) -> dict[str, Any]:
        """The sums of all workers, or the stats of this process without workers."""
        sums = None
        if self.link is not None:
            sums = self.link.board.read()
        elif self._supervisor is not None:
            sums = self._supervisor.stats()
        return own if sums is None else sums

    # In a worker

    @property
    def worker(self) -> Worker:
        """This process among the workers."""
        return Worker() if self.link is None else self.link.worker

    def ask_to_stop(self, drain: float | None) -> None:
        """Have the other workers stop, too; in the loop's thread."""
        if self.link is not None:
            self.link.ask_to_stop(drain)

    @property
    def leads(self) -> bool:
        """Whether this process does what one of the workers alone does."""
        if self.link is None:
            return True
        return self.link.leads and not self._server._is_stopping

    @property
    def broker_address(self) -> EngineAddress | None:
        """Where a worker reaches the others, if that is by the supervisor's broker."""
        broker = None if self.link is None else self.link.broker
        if broker is None:
            return None
        from ..cluster.engine_address import EngineAddress

        return EngineAddress("local", path=broker.path, password=broker.secret)

    def _serve(self, link: WorkerLink, sockets: Sequence[socket.socket]) -> None:
        server, listening = self._server, self._sockets
        assert listening is not None
        self.link = link
        self._supervisor = None
        if self._received is not None:
            self._received.leave()
        server._divide_limits(link.worker.count)
        server._open_run(sockets, None, shared=True, batch=listening.batch)
        run = server._begin(own_loop=True)
        stop = run.reactor.call_threadsafe
        signal.signal(
            signal.SIGTERM, lambda *_: stop(partial(server._begin_stop, None))
        )
        server._start_applications(run)
        gather = partial(server._stats.gather, server)
        engine = server._engine
        when_ready = _call if engine is None else engine.when_up
        link.begin(
            run.reactor,
            WorkerHost(gather, self._stop_worker, server._abort, when_ready),
        )
        server._serve(run)
        link.end(gather())

    def _stop_worker(self, drain: float | None, last: bool) -> None:
        """The supervisor says so."""
        server = self._server
        if last and server._run is not None:
            for listener in server._run.listeners:
                listener.own()
        server._begin_stop(drain)


def refuse_handover() -> None:
    """Refuse to take over from a program with workers, as a server without them.

    Raises:
        InvalidState: Such a program has started this one (SIGUSR2).
    """
    if _HANDOVER not in os.environ:
        return
    from ..cluster.handover import received

    if received() is not None:
        raise InvalidState(
            "a server without workers cannot take over from one that has them: "
            "restart the program"
        )


def _call(callback: Callable[[], object]) -> None:
    callback()


def _import_for_workers() -> None:
    """Import what every worker needs, before they are forked.

    Each would do it as it begins: in memory of its own, and on a busy machine so long
    that it is taken for one that hangs.
    """
    for name in ("cluster.announced_rules", "cluster.engines", "server.engine"):
        import_module(f"simple_ws.{name}")


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
