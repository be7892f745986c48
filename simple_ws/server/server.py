"""`Server`: one port, one loop: how a site is run, and how it ends.

It accepts, starts and stops. What is served is left to `app`, who receives to `hub`,
what happens on one connection to `server.upgrade` and `connection.client`.
"""

from __future__ import annotations

import logging
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from ..connection.admission import Admission
from ..connection.client import Client
from ..connection.options import Options, check_options
from ..constants import CloseCause, CloseCode
from ..errors import InvalidState
from ..handlers.pending import PendingCalls
from ..loop.asyncio_bridge import Attachment, check_loop
from ..loop.deferred import is_async
from ..loop.listener import (
    Listener,
    SocketFile,
    bind,
    bind_unix,
    name_of,
    port_of,
    take_over,
)
from ..loop.reactor import Reactor
from ..loop.workers import Call
from ..messages import check_seconds
from ..speedups import BACKEND
from .app import App
from .forwarded import TrustedProxies
from .upgrade import UpgradeConnection

__all__ = ["Server"]

logger = logging.getLogger("simple_ws")

R = TypeVar("R")

#: Seconds of one turn of a stop that nobody else turns for.
_STOP_TURN = 0.05

#: Seconds that a stop waits longer than it should take, for a loop that is not ours.
_STOP_GRACE = 1.0

#: Clients that a stop sends away at once, and parts it makes of more at most.
_FAREWELL = 100
_MAX_FAREWELLS = 20
#: From so many on the parts take half of the time; fewer are gone sooner.
_CROWD = 1000
#: Seconds of a turn after which peers are not held to what they did not do meanwhile.
_PAUSE = 0.5


class Server(App):
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

    Raises:
        TypeError, ValueError: An argument or option is wrong, or conflicts with
            another.
        OSError: `certfile` or `keyfile` cannot be read.
    """

    #: Seconds that never run backwards; tests have a clock of their own.
    _clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, host: str = "", port: int = 0, **options: Any) -> None:
        if not isinstance(host, str):
            raise TypeError(f"host must be a str, not {host!r}")
        if isinstance(port, bool) or not isinstance(port, int):
            raise TypeError(f"port must be an int, not {port!r}")
        if not 0 <= port <= 65535:
            raise ValueError(f"port must be from 0 to 65535, not {port}")
        self.host = host
        self.port = port
        own = Options().merged(check_options(options))
        _check_unix(own, host, port)
        self._encrypted = _encryption(own)
        self.proxies = _proxies(own)
        super().__init__(own, self._clock)
        self._attachment: Attachment | None = None
        self._asked_port = port
        self._signals_seen = 0
        self._listeners: list[Listener] = []
        self._listening = False  # from now on calls of other threads are queued
        self._incoming: set[UpgradeConnection] = set()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._deadline_passed = False
        self._polling: bool | None = None  # None: poll may begin, False: it has ended
        self._started = threading.Event()
        self._finished = threading.Event()

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
        if self._listening or self._running:
            raise InvalidState("the server listens already")
        given = take_over(sockets, self.options.backlog)
        self._polling = None
        opened, file = (given, None) if given else self._open_sockets()
        self._prepare()
        self._listeners = [
            Listener(self.reactor, sock, self._on_accept, file) for sock in opened
        ]
        self._listening = True
        if given:
            self.port = next(filter(None, map(port_of, given)), self.port)
            where = ", ".join(map(name_of, given))
        else:
            where = f"unix:{file.path}" if file else f"{self.host or '*'}:{self.port}"
        logger.info("listening on %s (backend: %s)", where, BACKEND)

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

        Shuts down gracefully: every client is sent close code 1001, messages accepted
        earlier are written, then `run` returns. A second signal ends it at once, a
        third one even interrupts a callback that hangs.

        Raises:
            InvalidState: The server is running already, or a callback is async.
            OSError: See `listen`.
        """
        self._begin()
        with self._signals():
            self._serve()

    def start(self) -> None:
        """Serve in a background thread; returns when the port is bound.

        Raises:
            InvalidState: The server is running already, or a callback is async.
            OSError: See `listen`.
        """
        self._begin()
        self._thread = threading.Thread(
            target=self._serve, name="simple_ws", daemon=True
        )
        self._thread.start()
        self._started.wait()

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
        check_seconds("timeout", timeout)
        if self._polling is None:
            self._begin()
            self._polling = True
            # Who watches `fileno` is told of what is written between two calls, too.
            self.reactor.work_listener = self.reactor.wake
            self.reactor.eager = True
            self._started.set()
        if self._polling:
            self.reactor.run_once(timeout)
            if self._done():
                self._tear_down()
        return self._polling

    def attach(self, loop: Any = None) -> None:
        """Serve inside an asyncio event loop, of asyncio or uvloop.

        Binds the port and returns at once; the event loop drives the server as long as
        it runs. Call it in the loop's thread, for example in the `lifespan` of a
        FastAPI application. Callbacks can then be `async def`: for each client they are
        awaited in the order of the events. While one is awaited, at most 16 events
        wait; then the server stops reading from this client. A callback that is
        cancelled closes its client with 1011.

        `stop` ends it; `await asyncio.to_thread(server.stop)` waits until it has ended.

        Args:
            loop: None means the running loop.

        Raises:
            TypeError: Not an asyncio loop.
            InvalidState: The server is running already, or the loop is closed.
            RuntimeError: No loop is given, and none is running.
            OSError: See `listen`.
        """
        if loop is None:
            import asyncio

            loop = asyncio.get_running_loop()
        check_loop(loop)
        if self._attachment is not None and self._attachment.loop.is_closed():
            self._tear_down()  # nobody has stopped it
        self._begin(loop)
        try:
            self._attachment = Attachment(loop, self.reactor, self._after_turn)
        except BaseException:  # such as in debug mode, from another thread
            self._tear_down()
            raise
        self._started.set()

    async def serve_async(self) -> None:
        """Serve inside the running asyncio loop until `stop`, or until cancelled.

        When cancelled, it first shuts down as `stop()` does; when cancelled again, it
        ends at once. See `attach`.

        Raises:
            InvalidState: The server runs in another loop, or without one.
            OSError: See `listen`.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        if self._attachment is None or self._attachment.loop.is_closed():
            self.attach(loop)
        assert self._attachment is not None
        if self._attachment.loop is not loop:
            raise InvalidState("the server runs in another asyncio loop")
        await self._attachment.wait(self.stop, self._pass_last_deadline)

    def _after_turn(self) -> bool:
        if self._done():
            self._tear_down()
            return False
        return True

    def run_in_thread(self, function: Callable[..., R], *args: Any) -> Call[R]:
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
        if not self._running:
            raise InvalidState("the server does not run")
        return self._pending.run_in_thread(partial(function, *args))

    def fileno(self) -> int:
        """A file descriptor that is readable when there is work for `poll`.

        Binds the port, as the first `poll` does. Timers do not make the descriptor
        readable.

        Raises:
            InvalidState: This platform (Windows) has no such descriptor: use a timer.
                Or the server has stopped: call `listen` to start it again.
        """
        if self._polling is False:
            raise InvalidState("the server has stopped")
        if not self._listening:
            self.listen()
        try:
            return self.reactor.fileno()
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
            check_seconds("drain", drain)
        # Before the question whether it runs: a later one has nothing to stop.
        reactor, thread, attachment = self.reactor, self._thread, self._attachment
        if not self._running or (attachment and attachment.loop.is_closed()):
            if self._listening:
                self._tear_down()
        elif threading.get_ident() == reactor.owner:
            self._begin_stop(drain)
            if not reactor.turning:
                reactor.flush()  # before the deadline, which may be now
            if attachment is not None:
                attachment.finish()
            elif self._polling and not reactor.turning:
                while self.poll(_STOP_TURN):
                    pass
        else:
            reactor.call_threadsafe(partial(self._begin_stop, drain))
            if self._is_worker():
                return  # a callback, which is waited for
            # Whoever should turn may be waiting for whoever called this.
            driven = self._polling or attachment is not None
            patience = self._patience(drain) + self._patience(None) + _STOP_GRACE
            self._finished.wait(patience if driven else None)
            if thread is not None:
                thread.join()

    def _begin(self, loop: Any = None) -> None:
        if self._running:
            raise InvalidState("the server runs already")
        self._check_awaited(self._all_callbacks(), loop)
        if not self._listening:
            self.listen()
        self._note_begin(loop)

    def _begin_in_memory(self, loop: Any) -> None:
        """Be ready for connections that do not come by a port; for `testing`.

        Args:
            loop: an asyncio loop for handlers that need one, or None.
        """
        self._prepare()
        self._listening = True
        self._note_begin(loop)

    def _use_clock(self, clock: Callable[[], float]) -> None:
        """Keep another time; before anything runs. For `testing`."""
        self._clock = clock
        self.reactor = self._log.reactor = Reactor(clock=clock)
        self._admission = Admission(self.options, clock)
        for handler in self._router.targets():
            handler._set_admission()

    def _note_begin(self, loop: Any) -> None:
        self._loop = loop
        if loop is not None:
            self._pending.await_in(loop)
        self._polling = None
        self._stopping = self._deadline_passed = False
        self._signals_seen = 0
        self._started.clear()
        self._finished.clear()
        # Before anybody may ask whose thread the loop's is.
        self.reactor.owner = threading.get_ident()
        self._running = True

    def _serve(self) -> None:
        self.reactor.owner = threading.get_ident()
        self._started.set()
        try:
            while not self._done():
                self.reactor.run_turns()
        finally:
            self._tear_down()

    def _done(self) -> bool:
        inside = self.clients or self._stats.viewers
        empty = not inside and not self._ending and not self._incoming
        idle = empty and not self._pending.busy
        return self._stopping and (idle or self._deadline_passed)

    def _patience(self, drain: float | None) -> float:
        """Seconds of a stop until whoever takes nothing of what it was sent is cut."""
        return self.options.close_timeout if drain is None else drain

    def _begin_stop(self, drain: float | None) -> None:
        if self._stopping:
            return
        self._stopping = True
        self.reactor.want_attention()
        for listener in self._listeners:
            listener.close()
        for incoming in list(self._incoming):
            incoming.stop()
        clients = [*self.clients, *self._stats.viewers]
        random.shuffle(clients)
        batches = max(1, min(_MAX_FAREWELLS, len(clients) // _FAREWELL))
        patience = self._patience(drain)
        batches = batches if patience else 1
        pause = patience / 2 / batches * min(1.0, len(clients) / _CROWD)
        size = -(-len(clients) // batches)
        now = self.reactor.time()
        deadline = None if drain is None else now + drain
        latest = now + self.options.ping_timeout if deadline is None else deadline
        self._dismiss(clients, size, pause, deadline)
        self.reactor.call_later(patience, partial(self._pass_deadline, latest))

    def _dismiss(
        self, clients: list[Client], size: int, pause: float, deadline: float | None
    ) -> None:
        """Close some clients now and the others little by little.

        Thousands that are sent away at one moment would come back at one moment.
        """
        patience = None  # what `close` gives, which is more for who takes its output
        if deadline is not None:
            patience = max(0.0, deadline - self.reactor.time())
        for client in clients[:size]:
            client._close(
                CloseCode.GOING_AWAY, "the server stops", CloseCause.SHUTDOWN, patience
            )
        rest = clients[size:]
        if rest:
            self.reactor.call_later(
                pause * random.uniform(0.5, 1.5),
                partial(self._dismiss, rest, size, pause, deadline),
            )

    def _pass_deadline(self, latest: float) -> None:
        """Cut whoever is left; `on_close` has time to end, where it takes time.

        Until `latest` wait for those who have not taken all that was accepted for
        them: whoever of them takes nothing gives up by itself.
        """
        rest = latest - self.reactor.time()
        if rest > 0 and any(client.buffered_amount for client in self._leaving()):
            patience = min(rest, max(0.1, self.options.close_timeout))
            self.reactor.call_later(patience, partial(self._pass_deadline, latest))
            return
        self._cut_all()
        self._pending.cancel_all()
        patience = self.options.close_timeout
        self.reactor.call_later(patience, self._pass_last_deadline)

    def _pass_last_deadline(self) -> None:
        self._deadline_passed = True
        self.reactor.want_attention()

    def _cut_all(self) -> None:
        for incoming in list(self._incoming):
            incoming.close()
        for client in self._leaving():
            client._cut("the server stopped", CloseCause.SHUTDOWN)

    def _leaving(self) -> list[Client]:
        return [*self.clients, *self._stats.viewers, *self._ending]

    def _tear_down(self) -> None:
        """Give everything back, whatever state it is in; `run` works again."""
        for listener in self._listeners:
            listener.close()
        if self._attachment is not None:
            self._attachment.end()
        self._cut_all()
        self._routes.end()
        self._schedule.end()
        self._stats.end()
        # From now on other threads reach nobody, and queue nothing: threads that never
        # cease must not keep us.
        self._listening = False
        try:
            try:
                self.reactor.finish_calls()
            finally:
                self._pending.close()
        finally:  # also when `on_close` ends the program
            self._give_back()

    def _give_back(self) -> None:
        self.reactor.close()
        self._listeners = []
        self._attachment = self._loop = None
        self._chains = {}
        self._running = False
        if self._polling:
            self._polling = False
        self._thread = None
        self.reactor = self._log.reactor = Reactor(clock=self._clock)
        self._finished.set()

    def _prepare(self) -> None:
        """Get the loop ready, once it is known what is mounted."""
        everybody = [self.options, *(mount.options for mount in self._router.targets())]
        shortest = min(
            min(
                options.ping_interval,
                options.ping_timeout,
                options.open_timeout,
                options.close_timeout,
                options.idle_timeout or 60,
                options.keep_alive,
            )
            for options in everybody
        )
        # A quarter of the shortest deadline, and never finer than is worth a wake-up.
        self.reactor.wheel.grain = max(0.01, min(1.0, shortest / 4))
        self.reactor.busy_poll = self.options.busy_poll
        self.reactor.buffered_limit = self.options.max_buffered
        self.reactor.slow = self.options.slow_callback
        self.reactor.pause = max(_PAUSE, self.options.slow_callback)
        self.reactor.slow_listener = self._on_slow
        self._pending = PendingCalls(self.reactor, self.options.worker_threads)
        self._pending.on_idle = self._note_idle
        self.reactor.open()
        self._schedule.begin(self.reactor)
        self._stats.begin(self.reactor)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Have SIGINT and SIGTERM stop the server while it runs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        # Runs between two instructions of whatever the loop is doing: only leave word.
        self._signals_seen += 1
        if self._signals_seen == 2:
            self._deadline_passed = True
        elif self._signals_seen > 2:
            raise KeyboardInterrupt
        self.reactor.call_threadsafe(partial(self._begin_stop, None))

    def _note_idle(self) -> None:
        if self._stopping:
            self.reactor.want_attention()

    def _forget_upgrade(self, incoming: UpgradeConnection) -> None:
        """A handshake is over."""
        self._incoming.discard(incoming)
        self.reactor.attention = True

    def _add_client(self, client: Client) -> None:
        """A connection opened."""
        self._stats.opened += 1
        super()._add_client(client)
        self._admission.enter(client.address)
        if client._handler._admission is not None:
            client._handler._admission.enter(client.address)

    def _remove_client(self, client: Client) -> None:
        """A connection ended."""
        super()._remove_client(client)
        self._admission.leave(client.address)
        if client._handler._admission is not None:
            client._handler._admission.leave(client.address)
        if client._registered:
            self._ending.add(client)

    def _release_client(self, client: Client) -> None:
        """The socket of a connection is closed."""
        self._ending.discard(client)
        self.reactor.attention = True  # the last one ends a server that stops

    def _on_accept(self, sock: socket.socket, address: Any) -> None:
        if self._encrypted is not None:
            sock = self._encrypted(
                sock, address, self.reactor.call_later, self._log.may_say
            )
        incoming = UpgradeConnection(sock, address, self)
        self._incoming.add(incoming)
        try:
            incoming.begin()
        except BaseException as error:
            self.reactor.on_failure(incoming, error)

    def _on_slow(self, target: object, seconds: float) -> None:
        if isinstance(target, Client):
            self._log.note_slow_client(target, seconds)

    def _elsewhere(self) -> bool:
        # While nobody listens, nothing waits for the loop.
        return self._listening and super()._elsewhere()


def _check_unix(options: Options, host: str, port: int) -> None:
    if options.unix is not None and (host or port):
        raise ValueError(
            f"either unix ({options.unix!r}) or host and port ({host!r}, {port})"
        )


def _proxies(options: Options) -> TrustedProxies | None:
    networks = options.trusted_proxies
    return TrustedProxies(networks) if networks else None


def _encryption(options: Options) -> Callable[..., Any] | None:
    """What makes a socket with TLS of an accepted one, where that is asked for."""
    given = options.ssl, options.certfile, options.keyfile
    if given == (None, None, None):
        return None
    from ..loop import tls  # not before it is needed: some Pythons have no ssl

    return partial(tls.TLSSocket, tls.server_context(*given))
