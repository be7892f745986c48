"""`Server`: starting the server, driving its loop, and stopping it, as users ask.

What happens then is in `life`. Handlers and routes are left to `app`, sending to `hub`,
the events of one connection to `upgrade` and `connection.client`.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, TypeVarTuple

from ..checks import duration
from ..connection.option_checks import check_options
from ..connection.options import Options
from ..errors import InvalidState
from ..loop import forks
from ..loop.asyncio_bridge import Attachment, check_loop
from ..loop.deferred import is_async
from ..loop.listener import (
    name_of,
    port_of,
    take_over,
)
from ..loop.signals import StopSignals
from ..loop.workers import Call
from ..speedups import BACKEND
from .forwarded import TrustedProxies
from .life import Life
from .run import Run
from .state import ServerState
from .workers import Workers, refuse_handover

if TYPE_CHECKING:
    from typing import Unpack

    from ..cluster.engine_address import EngineAddress
    from ..connection.option_types import ServerOptions

__all__ = ["Server"]

logger = logging.getLogger("simple_ws")

R = TypeVar("R")
Args = TypeVarTuple("Args")

#: Seconds of one turn while `stop` drives the loop itself.
_STOP_TURN = 0.05
#: Seconds that `stop` waits beyond the shutdown's time for a loop driven elsewhere.
_STOP_GRACE = 1.0


class Server(Life):
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
        self._handled = None
        self._drain = None

    def _configure(self, host: str, port: int, options: Options) -> None:
        """Set the address, and what is made of options; see `cli.address`."""
        _check_unix(options, host, port)
        self._encrypted = _encryption(options)
        self.proxies = _proxies(options)
        self._engine_addresses = _engine_addresses(options)
        self.host = host
        self.port = self._asked_port = port

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

    def _signals(self, yielding: bool = False) -> StopSignals:
        """Let SIGINT and SIGTERM stop the server, as a context manager."""
        self._handled = StopSignals(self._on_signal, yielding)
        return self._handled

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
