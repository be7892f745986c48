"""`Server`: starting the server, driving its loop, and stopping it.

Handlers and routes are left to `app`, sending to `hub`, the state of one run to `run`,
closing the connections to `shutdown`, the events of one connection to `upgrade` and
`connection.client`.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, TypeVarTuple

from ..checks import duration
from ..connection.admission import Admission
from ..connection.client import Client
from ..connection.options import Options, check_options
from ..constants import CloseCause, CloseCode
from ..errors import InvalidState
from ..loop import forks
from ..loop.asyncio_bridge import Attachment, check_loop
from ..loop.deferred import is_async
from ..loop.listener import (
    Listener,
    SocketFile,
    bind,
    bind_unix,
    limit_unsent,
    name_of,
    port_of,
    take_over,
)
from ..loop.signals import StopSignals
from ..loop.workers import Call
from ..speedups import BACKEND
from .forwarded import TrustedProxies
from .operations import Operations
from .plans import make_plans
from .presence import PresenceRun
from .run import Run
from .shutdown import Shutdown
from .state import ServerState
from .upgrade import UpgradeConnection
from .workers import Workers, refuse_handover

if TYPE_CHECKING:
    from typing import Unpack

    from ..cluster.engine_address import EngineAddress
    from ..connection.options import ServerOptions
    from .sharded_engine import AnyEngine

__all__ = ["Server"]

logger = logging.getLogger("simple_ws")

R = TypeVar("R")
Args = TypeVarTuple("Args")

#: Seconds of one turn while `stop` drives the loop itself.
_STOP_TURN = 0.05
#: Seconds that `stop` waits beyond the shutdown's time for a loop driven elsewhere.
_STOP_GRACE = 1.0


class Server(Operations):
    """A WebSocket server: serves handlers, pages and files on one port.

    Args:
        host: name or address; "" listens on every interface, IPv4 and IPv6.
        port: 0 picks a free port; the attribute `port` has it once the server listens.
        options: see `options.Options`; they apply to every handler that does not set
            its own.

    Every public method can be called from any thread.

    Attributes:
        host, port: the address of the server; once it listens, the actual port.
        options: the options of the server.
        proxies: the proxies trusted to give client addresses, or None.
        clients: open connections of all handlers, the earliest first.
        reactor: the event loop; for measurements and tools.
        engine: the engine of this run, or None: `state` is an `EngineState`, `counts`
            what went through it and what did not.
        cluster: the other nodes: which there are, and what they know; see `Cluster`.
        figures: what `stats()` gathers from; for measurements and tools.

    Raises:
        TypeError, ValueError: An argument or option is wrong, or conflicts with
            another.
        OSError: `certfile` or `keyfile` cannot be read.
    """

    #: Makes the workers of `worker_class="thread"`, each of which has a server, so that
    #: they stand above this one: `simple_ws/__init__` sets it.
    _make_thread_workers: ClassVar[Callable[..., Workers]]
    #: Seconds that never run backwards; tests set another clock.
    _clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(
        self, host: str = "", port: int = 0, **options: Unpack[ServerOptions]
    ) -> None:
        if not isinstance(host, str):
            raise TypeError(f"host must be a str, not {host!r}")
        if isinstance(port, bool) or not isinstance(port, int):
            raise TypeError(f"port must be an int, not {port!r}")
        if not 0 <= port <= 65535:
            raise ValueError(f"port must be from 0 to 65535, not {port}")
        own = Options().merged(check_options(options))
        self._configure(host, port, own)
        super().__init__(own, self._clock)
        self._set_workers(self._make_workers(own))

    def _make_workers(self, options: Options) -> Workers:
        if options.worker_class == "process":
            return Workers(self)
        return self._make_thread_workers()

    def _set_workers(self, workers: Workers) -> None:
        self._workers = workers
        self._schedule.leads = self._leads
        forks.note(self)
        self._handled: StopSignals | None = None
        #: Seconds to drain if `stop` is given none; for the command line.
        self._drain: float | None = None

    def _configure(self, host: str, port: int, options: Options) -> None:
        """Set the address, and what is made of options; see `cli.address`."""
        _check_unix(options, host, port)
        self._encrypted = _encryption(options)
        self.proxies = _proxies(options)
        self._engine_addresses = _engine_addresses(options)
        self.host: str = host
        self.port: int = port
        self._asked_port = port

    # Running

    def listen(self, sockets: Iterable[socket.socket] = ()) -> None:
        """Bind the port; `run` and `start` do so unless it is bound already.

        Args:
            sockets: bound stream sockets, such as those that systemd passes
                (sd_listen_fds(3)). They are used instead of host, port and `unix`; the
                server owns them from now on, and closes them when it stops. If empty,
                the server binds its own.

        Raises:
            OSError: The address is in use or not local; the message names it.
            InvalidState: The server is listening already.
            TypeError: One of `sockets` is not a socket.
            ValueError: One of `sockets` is not a stream socket.
        """
        if self._workers.apply:
            self._workers.listen(sockets)
            return
        if self._run is not None:
            raise InvalidState("the server listens already")
        refuse_handover()
        given = take_over(sockets, self.options.backlog)
        opened, file = (given, None) if given else self._open_sockets()
        self._open_run(opened, file, shared=bool(given))
        if given:
            self.port = next(filter(None, map(port_of, given)), self.port)
            where = ", ".join(map(name_of, given))
        else:
            where = f"unix:{file.path}" if file else f"{self.host or '*'}:{self.port}"
        logger.info("listening on %s (backend: %s)", where, BACKEND)

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

    def run(self) -> None:
        """Serve until `stop`, or (in the main thread) until Ctrl-C or SIGTERM.

        Where signals cannot be handled (in other threads, in some programs that embed
        Python, or if the present handler is not one of Python and could not be
        restored), it serves without them; a log line says so.

        Shuts down gracefully: every client is sent close code 1001, messages accepted
        earlier are written, then `run` returns. A second signal ends it at once, a
        third one even interrupts a callback that hangs.

        With the option `workers` this process serves nothing itself: it forks so many
        processes that do, and replaces those that end. SIGHUP replaces all of them, one
        after another, without refusing a connection; SIGUSR2 the whole program, by one
        that it starts in the same way. See `on_worker_start`.

        Raises:
            InvalidState: The server is running already, or a callback is async. Or it
                has workers, and other threads are alive, or the system has no fork.
            OSError: See `listen`.
            SystemExit: A worker could not begin, with the code 3.
        """
        if self._workers.apply:
            self._workers.run()
            return
        run = self._begin(own_loop=True)
        with self._signals():
            self._start_applications(run)
            self._serve(run)

    def start(self) -> None:
        """Serve in a background thread; returns when the port is bound.

        Raises:
            InvalidState: The server is running already, or a callback is async.
            OSError: See `listen`.
        """
        if self._workers.apply:
            self._workers.start()
            return
        run = self._begin(own_loop=True)
        failures: list[BaseException] = []
        run.thread = threading.Thread(
            target=self._serve_in_thread,
            args=(run, failures.append),
            name="simple_ws",
            daemon=True,
        )
        run.thread.start()
        run.started.wait()
        if failures:
            run.thread.join()
            raise failures[0]

    def poll(self, timeout: float = 0.0) -> bool:
        """Run one turn of the server, for programs that have their own main loop.

        The first call binds the port. Always call it from the same thread, and often,
        or whenever `fileno()` is readable and in addition a few times per second.

        Args:
            timeout: seconds to wait for something to do.

        Returns:
            False once the server has stopped; call `listen` to start it again.

        Raises:
            TypeError, ValueError: `timeout` is not a number of seconds.
            InvalidState: The server runs in another thread, this is one of its
                callbacks, or a callback is async.
            OSError: See `listen`.
        """
        duration("timeout", timeout)
        self._workers.refuse("poll()")
        run = self._run
        if run is None and self._state is ServerState.STOPPED:
            return False
        if run is None or not run.polled:
            run = self._begin()
            run.polled = True
            # `fileno` also reports output written between two calls.
            run.reactor.work_listener = run.reactor.wake
            run.reactor.eager = True
            run.started.set()
        run.reactor.run_once(timeout)
        return self._after_turn()

    def attach(self, loop: Any = None) -> None:
        """Serve inside an asyncio event loop, of asyncio or uvloop.

        Binds the port and returns at once; the event loop drives the server as long as
        it runs. Call it in the loop's thread, for example in the `lifespan` of a
        FastAPI application. Callbacks can then be `async def`: for each client they are
        awaited in the order of the events. Once 8 events or 64 KiB of messages wait for
        the one that is awaited, the server stops reading from this client; up to 7
        events that it has read already are added. A callback that is cancelled closes
        its client with 1011.

        `stop` ends it; `await asyncio.to_thread(server.stop)` waits until it has ended.
        Signals are left to the program, which may do other things than serve: have it
        call `stop` before it ends, or clients see their connections cut (1006).

        Args:
            loop: None means the running loop.

        Raises:
            TypeError: Not an asyncio loop.
            InvalidState: The server is running already, or the loop is closed.
            RuntimeError: No loop is given, and none is running.
            OSError: See `listen`.
        """
        self._workers.refuse("attach()")
        if loop is None:
            import asyncio

            loop = asyncio.get_running_loop()
        check_loop(loop)
        if self._run is not None and self._run.orphaned:
            self._tear_down()
        run = self._begin(loop)
        if self._asgi is not None:
            self._asgi.on_failure(self._abort)
        try:
            run.attachment = Attachment(loop, run.reactor, self._after_turn)
        except BaseException:  # such as in debug mode, from another thread
            self._tear_down()
            raise
        run.started.set()

    async def serve_async(self) -> None:
        """Serve inside the running asyncio loop, until `stop`, a signal or cancelled.

        In the main thread SIGTERM and Ctrl-C stop the server as they do in `run`, and
        this returns; so other tasks of your program must end then, too. A signal that
        has a handler already, from `loop.add_signal_handler`, `signal.signal` or
        `asyncio.run` (Ctrl-C, by which it cancels its main task), is left to that.

        When cancelled, it first shuts down as `stop()` does; when cancelled again, it
        ends at once. See `attach`.

        Raises:
            InvalidState: The server runs in another loop, or without one.
            OSError: See `listen`.
        """
        import asyncio

        self._workers.refuse("serve_async()")
        loop = asyncio.get_running_loop()
        run = self._run
        if run is None or run.attachment is None or run.orphaned:
            self.attach(loop)
        attachment = self._current.attachment
        assert attachment is not None
        if attachment.loop is not loop:
            raise InvalidState("the server runs in another asyncio loop")
        with self._signals(yielding=True):
            await attachment.wait(self.stop, self._abort)
        if self._asgi is not None and self._asgi.failure is not None:
            raise self._asgi.failure

    def _after_turn(self) -> bool:
        """End the run when it is over; return whether it continues."""
        if self._done():
            self._tear_down()
        return self._run is not None

    def run_in_thread(
        self, function: Callable[[Unpack[Args]], R], *args: *Args
    ) -> Call[R]:
        """Call a blocking function in a worker thread; from any thread.

        There are `worker_threads` of these threads. They end with the server: running
        calls get the time given to `stop`, waiting ones are cancelled.

        Returns:
            The `concurrent.futures.Future` of its result; use `asyncio.wrap_future` to
            await it. An exception of the function is logged unless it is retrieved from
            the future.

        Raises:
            TypeError: Not a function, or an async one.
            InvalidState: The server is not running, or 1,000 calls are waiting already.
        """
        if not callable(function) or is_async(function):
            raise TypeError(f"function must be one that blocks, not {function!r}")
        run = self._run
        if run is None or not self._running:
            raise InvalidState("the server does not run")
        return run.pending.run_in_thread(partial(function, *args))

    def fileno(self) -> int:
        """A file descriptor that is readable when there is work for `poll`.

        Binds the port, as the first `poll` does. Timers do not make the descriptor
        readable.

        Raises:
            InvalidState: This platform (Windows) has no such descriptor: use a timer.
                Or the server has stopped: call `listen` to start it again.
        """
        self._workers.refuse("fileno()")
        if self._state is ServerState.STOPPED:
            raise InvalidState("the server has stopped")
        if self._run is None:
            self.listen()
        self._current.own_descriptors()
        try:
            return self._current.reactor.fileno()
        except AttributeError:
            raise InvalidState(
                "selectors have no descriptor on this platform: call `poll` on a timer"
            ) from None

    def stop(self, drain: float | None = None) -> None:
        """Shut down gracefully: refuse new clients, close the others with code 1001.

        Waits until the server has stopped, unless it is called from a callback. If
        another loop drives the server (`poll`, `attach`) and this is not its thread,
        `stop` waits no longer than the shutdown should take: the server stops when that
        loop runs again.

        Args:
            drain: seconds for clients to read what was written to them and to answer
                the close frame, and for running callbacks to end. After that
                connections are cut and callbacks are cancelled; callbacks that handle
                the cancellation have another `close_timeout`. The default is the option
                `close_timeout`; a client that is still reading earlier output then has
                `ping_timeout` in total.

        Raises:
            TypeError, ValueError: `drain` is not a number of seconds.
        """
        if drain is not None:
            duration("drain", drain)
        if self._workers.apply:
            self._workers.stop(drain)
            return
        # Only this run: a later one must not be stopped.
        run = self._run
        if run is None or self._state is ServerState.CLOSING:
            if run is not None and threading.get_ident() != run.reactor.owner:
                self._wait_for_end(run, drain)
        elif self._state is ServerState.LISTENING or run.orphaned:
            self._tear_down()
        elif threading.get_ident() == run.reactor.owner:
            self._stop_here(run, drain)
        else:
            run.reactor.call_threadsafe(partial(self._begin_stop_of_all, drain))
            self._wait_for_end(run, drain)

    def _stop_here(self, run: Run, drain: float | None) -> None:
        """Stop in the loop's thread, possibly in a callback."""
        reactor = run.reactor
        self._begin_stop_of_all(drain)
        if not reactor.turning:
            reactor.flush()  # before the deadline, which may be now
        if run.attachment is not None:
            run.attachment.finish()
        elif run.polled and not reactor.turning:
            while self.poll(_STOP_TURN):
                pass

    def _wait_for_end(self, run: Run, drain: float | None) -> None:
        """Wait in another thread; not in a worker, which the server waits for."""
        if self._is_worker():
            return
        # The loop that should turn may be waiting for the caller.
        close_timeout = self.options.close_timeout
        timeout = (close_timeout if drain is None else drain) + close_timeout
        run.finished.wait(timeout + _STOP_GRACE if run.driven else None)
        if run.thread is not None:
            run.thread.join()

    # States

    def _begin(self, loop: Any = None, *, own_loop: bool = False) -> Run:
        """Begin to run in this thread.

        Args:
            loop: the asyncio loop that awaits callbacks, or None.
            own_loop: make one if there is an application that needs it.
        """
        if self._running:
            raise InvalidState("the server runs already")
        if own_loop and self._asgi is not None:
            loop = self._asgi.open_loop()
        try:
            self._check_awaited(self._all_callbacks(), loop)
            if self._run is None:
                self.listen()
            return self._enter(loop)
        except BaseException:
            self._close_own_loop()
            raise

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
                run.finished.set()

    def _end_routes(self) -> None:
        self._routes.end()

    def _signals(self, yielding: bool = False) -> StopSignals:
        """Let SIGINT and SIGTERM stop the server, as a context manager."""
        self._handled = StopSignals(self._on_signal, yielding)
        return self._handled

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

    def _on_signal(self, number: int, frame: object) -> None:
        # Runs between two instructions of the loop: only set a flag.
        run = self._run
        if run is None:
            return
        run.signals += 1
        if run.signals > 2:
            raise KeyboardInterrupt
        end = partial(self._begin_stop, None) if run.signals == 1 else self._abort
        run.reactor.call_threadsafe(end)

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

    def _add_client(self, client: Client) -> None:
        """A connection opened."""
        self._stats.opened += 1
        super()._add_client(client)
        if self._is_stopping:  # its handshake had begun before
            close = partial(
                client._close,
                CloseCode.GOING_AWAY,
                "the server stops",
                CloseCause.SHUTDOWN,
            )
            self._current.reactor.call_soon(close)
        if self._admission.counts_hosts:
            self._admission.enter(client.address)
        own = client._handler._admission
        if own is not None:
            own.enter(client.address)

    def _remove_client(self, client: Client) -> None:
        """A connection ended."""
        super()._remove_client(client)
        if self._admission.counts_hosts:
            self._admission.leave(client.address)
        own = client._handler._admission
        if own is not None:
            own.leave(client.address)
        self._note_closing(client)

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


def _check_unix(options: Options, host: str, port: int) -> None:
    if options.unix is not None and (host or port):
        raise ValueError(
            f"either unix ({options.unix!r}) or host and port ({host!r}, {port})"
        )


def _proxies(options: Options) -> TrustedProxies | None:
    networks = options.trusted_proxies
    return TrustedProxies(networks) if networks else None


def _engine_addresses(options: Options) -> list[EngineAddress]:
    if options.engine is None:
        return []
    from ..cluster.engine_url import check_workers, parse_all  # only when needed

    addresses = parse_all(options.engine)
    check_workers(addresses[0], options.workers)
    return addresses


def _encryption(options: Options) -> Callable[..., Any] | None:
    """The function that wraps an accepted socket in TLS, or None without TLS."""
    given = options.ssl, options.certfile, options.keyfile
    if given == (None, None, None):
        return None
    from ..loop import tls  # only when needed: some Pythons have no ssl

    return partial(tls.TLSSocket, tls.server_context(*given))
