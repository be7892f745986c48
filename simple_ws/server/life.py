"""`Life`: a run of a server begins, serves, stops, and is torn down.

The states and their order are in `state`, what exists during a run in `run`, closing
the connections in `shutdown`. What users call is in `server`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..connection.admission import Admission
from ..connection.client import Client
from ..loop.listener import Listener, SocketFile, bind, bind_unix, limit_unsent, port_of
from ..loop.signals import StopSignals
from .forwarded import TrustedProxies
from .operations import Operations
from .plans import make_plans
from .presence import PresenceRun
from .run import Run
from .shutdown import Shutdown
from .state import ServerState
from .upgrade import UpgradeConnection
from .workers import Workers

if TYPE_CHECKING:
    from ..cluster.engine_address import EngineAddress
    from .sharded_engine import AnyEngine

__all__ = ["Life"]


class Life(Operations):
    """See the head of the module; `Server` sets the attributes."""

    #: Seconds that never run backwards; tests set another clock.
    _clock: Callable[[], float] = staticmethod(time.monotonic)

    host: str
    port: int
    proxies: TrustedProxies | None
    _asked_port: int
    #: Wraps an accepted socket in TLS, if there is TLS.
    _encrypted: Callable[..., Any] | None
    _engine_addresses: list[EngineAddress]
    _workers: Workers
    _handled: StopSignals | None
    #: Seconds to drain if `stop` is given none; for the command line.
    _drain: float | None

    # Beginning and ending

    def _open_run(
        self,
        sockets: Iterable[socket.socket],
        file: SocketFile | None,
        shared: bool,
        batch: int | None = None,
    ) -> None:
        """Create the run that accepts from listening sockets; see `Listener`."""
        sockets = tuple(sockets)
        try:
            run = self._make_run()
        except OSError:  # no descriptor is left
            for sock in sockets:
                sock.close()
            raise
        for sock in sockets:
            limit_unsent(sock, self.options.notsent_lowat)
        run.listeners = [
            Listener(
                run.reactor,
                sock,
                self._on_accept,
                file,
                shared,
                batch,
                accept=run.opener.accept,
            )
            for sock in sockets
        ]
        self._move(ServerState.LISTENING)

    def _open_sockets(self) -> tuple[list[socket.socket], SocketFile | None]:
        options = self.options
        if options.unix is not None:
            sock, file = bind_unix(options.unix, options.backlog)
            return [sock], file
        port, reuse_port = self._asked_port, options.reuse_port
        sockets = bind(self.host, port, options.backlog, reuse_port)
        self.port = port_of(sockets[0])
        return sockets, None

    def _begin_in_memory(self, loop: Any) -> None:
        """Start without a port, for connections in memory; used by `testing`.

        Args:
            loop: an asyncio loop for handlers that need one, or None.
        """
        self._make_run()
        self._move(ServerState.LISTENING)
        self._enter(loop)

    def _enter(self, loop: Any) -> Run:
        run = self._current
        # Before other threads may ask for the loop's thread.
        run.begin(loop)
        if self._asgi is not None:
            self._asgi.begin(run, loop)
        self._move(ServerState.RUNNING)
        if self._engine is not None:
            self._engine.begin()
        try:
            self._worker_hooks.start(self._workers.worker)
        except BaseException:
            self._tear_down()
            raise
        return run

    def _make_run(self) -> Run:
        """Create the loop, once all handlers are mounted."""
        mounted = [handler.options for handler in self._router.targets()]
        make = partial(make_plans, self)
        run = Run(self.options, mounted, self._clock, self._log_counts, make)
        run.pending.on_idle = self._note_idle
        self._engine = self._open_engine(run)
        self._schedule.begin(run.reactor)
        control = self.cluster._begin(run.reactor, self._engine)
        if any(rule.presence for rule in self._topic_rules):
            grace = self.options.presence_grace
            self._presence = PresenceRun(
                self, run.reactor, control, self._engine, grace
            )
        self._histories.begin(run.reactor)
        engine = None if self._engine is None else self._engine.stats
        self._stats.begin(run.reactor, engine)
        self._run = run
        return run

    @property
    def _lacks_engine(self) -> bool:
        has_one = bool(self._engine_addresses) or self.options.workers > 1
        return has_one and self._run is None

    def _open_engine(self, run: Run) -> AnyEngine | None:
        """The engine of the options, or what connects the workers, if there are any."""
        workers = self._workers
        if workers.shared_engine is not None:
            from ..cluster.engines import shared_setup
            from .engine import EngineHost

            setup = shared_setup(workers.shared_engine, run.reactor)
            return EngineHost(setup, run.reactor, self, workers.id)
        addresses = self._engine_addresses
        if not addresses and workers.broker_address is not None:
            addresses = [workers.broker_address]
        return self._make_engine(run, addresses) if addresses else None

    def _make_engine(self, run: Run, addresses: list[EngineAddress]) -> AnyEngine:
        from ..cluster.announced_rules import encode_rules  # only when needed
        from ..cluster.engines import open_engine
        from .engine import EngineHost

        secret, rules = self.options.engine_secret, encode_rules(self._topic_rules)
        setups = [open_engine(each, secret, run.reactor) for each in addresses]
        for setup in setups:
            setup.engine.announce(rules)
        if len(setups) == 1:
            return EngineHost(setups[0], run.reactor, self, self._workers.id)
        from .sharded_engine import ShardedEngine

        return ShardedEngine(setups, run.reactor, self, self._workers.id)

    def _use_clock(self, clock: Callable[[], float]) -> None:
        """Use another clock; before anything runs. For `testing`."""
        self._clock = clock
        self._histories.clock = clock
        self._admission = Admission(self.options, clock)
        for handler in self._router.targets():
            handler._set_admission()
        self._forget_plans()

    def _start_applications(self, run: Run) -> None:
        """Let ASGI applications start, in the thread that will serve.

        Raises:
            StartupFailed: One of them cannot.
        """
        run.reactor.owner = threading.get_ident()
        if self._asgi is not None:
            try:
                self._asgi.start(run, self._after_turn)
            except BaseException:
                self._tear_down()
                self._asgi.close_loop()
                raise

    def _serve(self, run: Run) -> None:
        run.reactor.owner = threading.get_ident()
        run.started.set()
        try:
            if self._asgi is not None:
                self._asgi.serve(run)
            else:
                while not self._done():
                    run.reactor.run_turns()
        finally:
            self._tear_down()
            self._close_own_loop()

    def _serve_in_thread(
        self, run: Run, fail: Callable[[BaseException], object]
    ) -> None:
        try:
            self._start_applications(run)
        except BaseException as error:
            fail(error)
            run.started.set()
        else:
            self._serve(run)

    def _after_turn(self) -> bool:
        """End the run when it is over; return whether it continues."""
        if self._done():
            self._tear_down()
        return self._run is not None

    def _close_own_loop(self) -> None:
        if self._asgi is not None:
            self._asgi.close_loop()

    def _done(self) -> bool:
        if self._state is ServerState.STOPPING:
            run = self._current
            waits = self.clients or self._stats.viewers or run.closing or run.upgrades
            if waits or run.pending.busy:
                return False
            return self._asgi is None or self._asgi.are_over()
        return self._state is ServerState.ABORTING

    def _begin_stop(self, drain: float | None) -> None:
        """Begin the shutdown, in the thread of the loop."""
        if self._state is not ServerState.RUNNING:
            return
        self._move(ServerState.STOPPING)
        drain = self._drain if drain is None else drain
        run = self._current
        run.accept_no_more()
        shutdown = Shutdown(run, self.options, self._everybody, self._abort_late)
        run.note_end = shutdown.log_end
        shutdown.begin([*self.clients, *self._stats.viewers], drain)

    def _begin_stop_of_all(self, drain: float | None) -> None:
        """Begin the shutdown here, and in the other workers if there are any."""
        self._workers.ask_to_stop(drain)
        self._begin_stop(drain)

    def _leads(self) -> bool:
        """Whether this process makes the calls of `every(once=True)`."""
        engine = self._engine
        return self._workers.leads and (engine is None or engine.leads)

    def _wants_lease(self) -> bool:
        return self._schedule.has_once and self._workers.leads

    @property
    def _is_stopping(self) -> bool:
        return self._state is ServerState.STOPPING

    def _abort(self) -> None:
        """End after this turn of the loop."""
        self._begin_stop(None)
        if self._state is ServerState.STOPPING:
            self._move(ServerState.ABORTING)
            self._current.reactor.want_attention()

    def _abort_late(self) -> None:
        """Requests were cut, and calls cancelled; applications have time to end."""
        if self._asgi is None or self._asgi.are_over():
            self._abort()
        else:
            self._current.reactor.call_later(self._asgi.patience, self._abort)

    def _everybody(self) -> list[Client]:
        """All clients, including closing ones and those of dashboards."""
        return [*self.clients, *self._stats.viewers, *self._current.closing]

    def _tear_down(self) -> None:
        """Release everything, in any state; `run` works again."""
        if self._run is None or self._state is ServerState.CLOSING:
            return
        run = self._run
        self._move(ServerState.CLOSING)
        try:
            run.detach()
            run.cut(self._everybody())
            self._end_routes()
            if self._asgi is not None:
                self._asgi.end()
            self._schedule.end()
            self.cluster._end()
            self._histories.end()
            if self._engine is not None:
                self._engine.end()
            run.reactor.finish_calls()
        finally:  # also when `on_close` ends the program
            try:
                run.close()
            finally:
                self._stats.end()
                self._run = self._engine = self._presence = None
                self._move(ServerState.STOPPED)
                self._worker_hooks.stop()
                if run.note_end is not None:
                    run.note_end()
                run.finished.set()

    def _end_routes(self) -> None:
        self._routes.end()

    def _on_fork(self) -> None:
        """This is a forked process: the server runs in the parent, and not here.

        One that only listens may run in this process, see `Run.own_descriptors`.
        """
        if self._handled is not None:
            self._handled.give_back()
        run = self._run
        if run is None or not self._running:
            return
        if self._state is not ServerState.CLOSING:
            self._move(ServerState.CLOSING)
        if self._engine is not None:
            self._engine.forget()
        self.cluster._forget()
        run.forget(self._everybody())
        self._schedule.end()
        self._stats.end()
        self._run = self._engine = self._presence = None
        self._move(ServerState.STOPPED)

    def _note_idle(self) -> None:
        if self._state is ServerState.STOPPING:
            self._current.reactor.want_attention()

    # Called by connections

    @property
    def _incoming(self) -> Collection[UpgradeConnection]:
        """Connections that are not upgraded: handshakes, and plain HTTP."""
        run = self._run
        return () if run is None else run.upgrades

    def _forget_upgrade(self, connection: UpgradeConnection) -> None:
        """A handshake is over."""
        run = self._current
        run.upgrades.discard(connection)
        if self._state is not ServerState.RUNNING:
            run.reactor.attention = True

    def _on_accept(
        self, sock: socket.socket, address: Any, data: bytes | None = None
    ) -> UpgradeConnection:
        """A connection was accepted; see `UpgradeConnection.begin` for `data`."""
        run = self._current
        if self._encrypted is not None:
            sock = self._encrypted(
                sock, address, run.reactor.call_later, run.log.may_say
            )
        upgrade = UpgradeConnection(sock, address, self)
        run.upgrades.add(upgrade)
        try:
            upgrade.begin(data)
        except BaseException as error:
            run.reactor.on_failure(upgrade, error)
        return upgrade
