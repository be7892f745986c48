"""`Server`: handlers on paths, one port, one loop.

It accepts, routes, starts and stops. Who receives is left to `hub`, what happens on one
connection to `incoming` and `connection`.
"""

from __future__ import annotations

import logging
import math
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, TypeVar, cast

from .attachment import Attachment, check_loop
from .awaiting import Awaited, Errand, Errands, LateChain, TooMany
from .connection import Client
from .constants import CloseCause, CloseCode
from .dashboard import Dashboard, from_this_machine
from .errors import HandshakeError, InvalidState
from .gate import Gate, retry_after
from .handler import BaseHandler, FunctionHandler
from .http import Entry, Pages, answered_by, check_methods
from .http11 import Request
from .hub import Hub
from .incoming import Incoming, Mount
from .journal import Journal
from .later import ends_later, is_async
from .listener import Listener, SocketFile, bind, bind_unix
from .metrics import Metrics
from .middleware import Chain, Middleware, changes_output, check_middleware
from .options import Options, check_options
from .proxies import TrustedProxies
from .reactor import Reactor
from .routing import Router, check_pattern
from .schedule import Job, Schedule
from .speedups import BACKEND
from .static import Static
from .stats import Audience, Figures
from .workers import Call
from .wsgi import Wsgi

__all__ = ["Server"]

logger = logging.getLogger("simple_ws")

R = TypeVar("R")
H = TypeVar("H", bound=BaseHandler)
F = TypeVar("F", bound=Callable[..., Any])
W = TypeVar("W", bound=Middleware)

#: Seconds of one turn of a stop that nobody else turns for.
_STOP_TURN = 0.05

#: Seconds that a stop waits longer than it should take, for a loop that is not ours.
_STOP_GRACE = 1.0

#: Clients that a stop sends away at once, and parts it makes of more at most.
_FAREWELL = 500
_MAX_FAREWELLS = 20
#: Seconds of a turn after which peers are not held to what they did not do meanwhile.
_PAUSE = 0.5


class Server(Hub):
    """Serves WebSocket handlers on one port.

    Args:
        host: name or address; "" is every interface, IPv4 and IPv6.
        port: 0 picks a free one; `port` tells which once it listens.
        options: see `options.Options`; they hold for every handler that was not
            given its own.

    Every public method may be called from any thread.

    Attributes:
        host, port: where it listens, the real port once it does.
        options: the options of the server.
        proxies: whose word on addresses is believed, or None.
        clients: open connections of all handlers, the earliest first.

    Raises:
        TypeError, ValueError: An argument or option is wrong, or excludes another.
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
        self.options = Options().merged(check_options(options))
        _check_unix(self.options, host, port)
        self._encrypted = _encryption(self.options)
        self.proxies = _proxies(self.options)
        super().__init__()
        self.reactor = Reactor(clock=self._clock)
        self.journal = Journal(self.reactor)
        self.gate = Gate(self.options, self._clock)
        self.figures = Figures()
        self._router: Router[BaseHandler] = Router()
        self._pages = Pages()
        self._answering: list[tuple[str, Callable[..., Any]]] = []  # HTTP, with names
        self._middlewares: list[Middleware] = []
        self._chains: dict[tuple[BaseHandler, bool, int], Mount] = {}
        self._denied: tuple[int, str] | None = None
        self._schedule = Schedule(self._begin_late, self._check_timer)
        self._errands = Errands(self.reactor, self.options.worker_threads)
        self._loop: Any = None  # the asyncio loop that it is attached to
        self._attachment: Attachment | None = None
        self._asked_port = port
        self._signals_seen = 0
        self._listeners: list[Listener] = []
        self._listening = False  # from now on calls of other threads are queued
        self._incoming: set[Incoming] = set()
        self._ending: set[Client] = set()  # ended, but for their sockets
        self._thread: threading.Thread | None = None
        self._running = False
        self._stopping = False
        self._deadline_passed = False
        self._polling: bool | None = None  # None: poll may begin, False: it has ended
        self._started = threading.Event()
        self._finished = threading.Event()

    # What it serves

    def mount(self, path: str, handler: H) -> H:
        """Serve a handler on a path.

        Args:
            path: `/chat`, `/chat/{room}`, `/user/{id:int}`, `/game/*` or `*`; tried in
                this order. Types of parameters: str, int, float, uuid, and path at the
                end. `client.params` has the values.
            handler: an instance of `WebSocket`; it may be mounted on several paths.

        Returns:
            The handler.

        Raises:
            TypeError: Not a handler, one whose callbacks take other arguments, or not
                a path.
            ValueError: The path is malformed, or taken, or the handler was given
                options that are of the server.
            InvalidState: The handler is mounted on another server.
        """
        if not isinstance(handler, BaseHandler):
            raise TypeError(
                f"handler must be an instance of WebSocket, not {handler!r}"
            )
        _check_mounted(handler._given, self.options)
        if self._running:
            self._check_awaited(handler._callbacks(), self._loop)
        was_ours = handler.server is self
        handler._adopt(self)
        try:
            self._router.add(path, handler)
        except (TypeError, ValueError):
            if not was_ours:
                handler._abandon_server()
            raise
        self.figures.note_mount(path, handler)
        return handler

    def route(self, path: str, **options: Any) -> Callable[[F], F]:
        """Serve the decorated function or handler class on a path; see `mount`.

        A function is called with (msg, client); what it returns is the answer. Of a
        class one instance is made.

        Args:
            path: see `mount`.
            options: of this handler, see `options.Options`.

        Raises:
            TypeError, ValueError: The path is malformed, or taken; the function takes
                other arguments; an option is unknown or wrong.
        """
        check_pattern(path)  # now: without parentheses behind it, `path` is a function

        def decorate(target: F) -> F:
            if isinstance(target, type):
                self.mount(path, target(**options))
            else:
                self.mount(path, FunctionHandler(target, **options))
            return target

        return decorate

    def use(self, middleware: W) -> W:
        """Put a middleware behind those that are in, for all paths.

        Connections that are open already do not notice.

        Returns:
            The middleware.

        Raises:
            TypeError: Not an instance of `Middleware`, or one whose methods take other
                arguments.
            InvalidState: It is in already.
        """
        check_middleware(middleware)
        if any(known is middleware for known in self._middlewares):
            raise InvalidState(f"{type(middleware).__name__} is in use already")
        if self._running:
            self._check_awaited(middleware._callbacks(), self._loop)
        middleware.on_use(self)
        if changes_output(middleware):
            self._filtered = True
        self._middlewares.append(middleware)
        return middleware

    def deny_new_connections(
        self, status: int = 503, reason: str = "No new connections at the moment."
    ) -> None:
        """Refuse handshakes from now on; those who are in stay.

        Args:
            status: HTTP status of the refusal, 400 to 599.
            reason: text for people, its body.

        Raises:
            TypeError: `status` is not an int, or `reason` not a str.
            ValueError: The status does not refuse.
        """
        if isinstance(status, bool) or not isinstance(status, int):
            raise TypeError(f"status must be an int, not {status!r}")
        if not 400 <= status <= 599:
            raise ValueError(f"status must be from 400 to 599, not {status}")
        if not isinstance(reason, str):
            raise TypeError(f"reason must be a str, not {reason!r}")
        self._denied = status, reason

    def allow_new_connections(self) -> None:
        """Take back `deny_new_connections`."""
        self._denied = None

    # HTTP on the same port

    def http(self, path: str, methods: Iterable[str] = ("GET",)) -> Callable[[F], F]:
        """Answer plain HTTP requests for a path with the decorated function.

        It is called with a `Request` whose body is there as a whole, in the loop's
        thread: it must not block, unless it is `in_thread`. It returns a `Response`, a
        dict or list (JSON), str, bytes, or None for 204. It may raise
        `AuthenticationError` for 401, and `HandshakeError` for any status; whatever
        else it raises is logged, and 500.

        Args:
            path: see `mount`; `request.params` has the values. A WebSocket handler may
                be mounted on the same.
            methods: what it answers, HEAD along with GET. Several functions may share a
                path with different methods.

        Raises:
            TypeError: The function takes other arguments; `methods` is not a list of
                strings.
            ValueError: The path is malformed; a method is unknown, or taken.
            InvalidState: The function is async, and the server runs in no asyncio loop.
        """
        names = check_methods(methods)

        def decorate(function: F) -> F:
            name = getattr(function, "__name__", repr(function))
            if self._running:
                self._check_awaited([(name, function)], self._loop)
            self._pages.add(path, names, answered_by(function))
            self._answering.append((name, function))
            return function

        return decorate

    def static(self, prefix: str, folder: str | os.PathLike[str]) -> None:
        """Answer plain HTTP requests with the files of a folder.

        A folder in it is answered with its index.html; nothing that is hidden (by a
        dot at the begin of a name) or outside is seen.

        Args:
            prefix: the path that stands for the folder, such as "/" or "/files".
            folder: it must be there.

        Raises:
            TypeError: The folder is no path.
            ValueError: There is no such folder; the prefix is malformed, or taken.
        """
        files = Static(prefix, folder)
        self._pages.add_below(files.prefix, files.entry)

    def wsgi(self, prefix: str, app: Callable[..., Any], threads: int = 8) -> None:
        """Answer plain HTTP requests with a WSGI application (PEP 3333).

        It runs in worker threads, so it may block; requests for which there is no
        thread wait, and too many of them are answered with 503.

        Args:
            prefix: the path below which everything is the application's.
            app: called with (environ, start_response).
            threads: requests that it answers at a time.

        Raises:
            TypeError: The application takes other arguments; `threads` is no number.
            ValueError: The prefix is malformed, or taken; `threads` is out of range.
        """
        pages = Wsgi(prefix, app, threads)
        self._pages.add_below(pages.prefix, pages.entry, pages.end)

    # Figures for operators

    def stats(self) -> dict[str, Any]:
        """What the server has counted, as JSON can say it.

        Counts never go back, not even when the server is stopped and started again.
        Connections of dashboards are in none but `dashboards`. Times are in seconds.

        Returns:
            time, started: seconds since the epoch; `started` is None while it is
                stopped.
            uptime: since it listens.
            backend: see `simple_ws.BACKEND`.
            connections: `open` now, `opened` so far, and `dashboards`.
            total: counts of all handlers together: messages_received, messages_sent,
                bytes_received, bytes_sent (on the wire without TLS, with frames and
                the answer to the handshake); plain_sent, packed_sent, packed_received,
                plain_received (bytes of compressed messages, plain and packed); dropped
                (messages that slow consumers were not sent); busy (time spent on
                reading, callbacks included).
            handlers: for each its name, its paths, how many clients it has, and the
                same counts.
            closed: how many connections ended, by `CloseCause`.
            refused: how many were refused before the upgrade, by HTTP status.
            buffered: bytes of unsent output.
            topics, identities: how many have somebody.
            slow_callbacks: how many took longer than the option `slow_callback`.
            longest_turn: of the loop, in the last 10 to 20 seconds; for so long, others
                have waited.
        """
        return self.figures.gather(self)

    def metrics(
        self, path: str = "/metrics", allow: Callable[[Request], bool] | None = None
    ) -> None:
        """Have Prometheus read the figures over HTTP, in its text format 0.0.4.

        Args:
            path: see `mount`.
            allow: returns True for a request that may read them, False for 403; None
                lets everybody, so that a Prometheus elsewhere can. It may raise
                `HandshakeError` to refuse in another way.

        Raises:
            TypeError: `allow` is no function of a request, or async.
            ValueError: The path is malformed, or taken.
        """
        audience = None if allow is None else Audience(allow)
        self.http(path)(Metrics(self.stats, audience).answer)

    def dashboard(
        self,
        path: str = "/_simple_ws",
        allow: Callable[[Request], bool] | None = None,
    ) -> None:
        """Show the figures on a live page.

        Only to browsers on this machine, 403 otherwise: those that come from a loopback
        address and ask for "localhost" or such an address. Behind a proxy, on this
        machine or another, and for everybody elsewhere, `allow` must decide.

        Args:
            path: see `mount`; the page's own WebSocket is there too.
            allow: see `metrics`; None is the rule above.

        Raises:
            TypeError: `allow` is no function of a request, or async.
            ValueError: The path is malformed, or taken.
        """
        audience = Audience(from_this_machine if allow is None else allow)
        page = Dashboard(self, audience)
        page._adopt(self)
        self._router.add(path, page)  # not by `mount`: it is in no figures
        self.http(path)(page.page)

    # Timers

    def every(self, interval: float, callback: Callable[[], object]) -> Job:
        """Have `callback()` called every `interval` seconds while the server runs.

        Calls do not drift: they come at multiples of the interval, and those that a
        busy loop has missed are left out. What the callback raises is logged. It may be
        `in_thread`, or async where those of handlers may be; no call begins before the
        last one has ended.

        Returns:
            The timer; `cancel()` ends it, from any thread.

        Raises:
            TypeError, ValueError: `interval` is not 0.001 seconds or more.
        """
        return self._schedule.every(interval, callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Job:
        """Have `callback()` called in `delay` seconds; see `every`.

        Before the server listens, from the moment it does.

        Raises:
            TypeError, ValueError: `delay` is not 0 seconds or more.
        """
        return self._schedule.call_later(delay, callback)

    def call_at(self, when: float | datetime, callback: Callable[[], object]) -> Job:
        """Have `callback()` called at a moment, at once if it is past; see `every`.

        Args:
            when: a `datetime` (local time if it has no time zone), or seconds since
                the epoch as `time.time()` has them.
            callback: to be called.

        Raises:
            TypeError, ValueError: `when` is no such moment.
        """
        return self._schedule.call_at(when, callback)

    # Running

    def listen(self) -> None:
        """Bind the port; `run` and `start` do it where it was not done.

        Raises:
            OSError: The address is taken or not ours; the message names it.
            InvalidState: It listens already.
        """
        if self._listening or self._running:
            raise InvalidState("the server listens already")
        self._polling = None
        sockets, file = self._open_sockets()
        self._prepare()
        self._listeners = [
            Listener(self.reactor, sock, self._on_accept, file) for sock in sockets
        ]
        self._listening = True
        if file is not None:
            logger.info("listening on unix:%s (backend: %s)", file.path, BACKEND)
        else:
            host = self.host or "*"
            logger.info("listening on %s:%d (backend: %s)", host, self.port, BACKEND)

    def _open_sockets(self) -> tuple[list[socket.socket], SocketFile | None]:
        options = self.options
        if options.unix is not None:
            sock, file = bind_unix(options.unix, options.backlog)
            return [sock], file
        port, reuse_port = self._asked_port, options.reuse_port
        sockets = bind(self.host, port, options.backlog, reuse_port)
        self.port = sockets[0].getsockname()[1]
        return sockets, None

    def run(self) -> None:
        """Serve until `stop`; Ctrl-C and SIGTERM stop it too, in the main thread.

        Everybody is sent close code 1001, what was accepted is written, then it
        returns. A second signal ends at once, a third even a callback that hangs.

        Raises:
            InvalidState: It runs already, or a callback is async.
            OSError: See `listen`.
        """
        self._begin()
        with self._signals():
            self._serve()

    def start(self) -> None:
        """Serve in a background thread; returns when the port is bound.

        Raises:
            InvalidState: It runs already, or a callback is async.
            OSError: See `listen`.
        """
        self._begin()
        self._thread = threading.Thread(
            target=self._serve, name="simple_ws", daemon=True
        )
        self._thread.start()
        self._started.wait()

    def poll(self, timeout: float = 0.0) -> bool:
        """Do what there is to do, for programs that have a loop of their own.

        The first call binds the port. Always call it from the same thread, and often,
        or whenever `fileno()` is readable and a few times a second.

        Args:
            timeout: seconds to wait for something to do.

        Returns:
            False once the server has stopped; `listen` lets it begin anew.

        Raises:
            TypeError, ValueError: `timeout` is not a number of seconds.
            InvalidState: It runs in another thread, this is one of its callbacks, or
                a callback is async.
            OSError: See `listen`.
        """
        _check_seconds("timeout", timeout)
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
        """Serve inside an asyncio loop, of asyncio or uvloop.

        Binds the port and returns at once; the loop does the rest while it runs. Call
        it in the loop's thread. Callbacks may then be `async def`: for each client they
        are awaited in the order of the events. While one is awaited at most 16 events
        wait; then nothing is read of this client. A callback that is cancelled ends its
        client with 1011.

        `stop` ends it; `await asyncio.to_thread(server.stop)` waits for the end.

        Args:
            loop: None is the running one.

        Raises:
            TypeError: Not an asyncio loop.
            InvalidState: It runs already, or the loop is closed.
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

        Cancelled, it stops as `stop()` does before it ends; cancelled again, at once.
        See `attach`.

        Raises:
            InvalidState: It runs in another loop, or without one.
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
        """Call a function that blocks in a worker thread; from any thread.

        There are `worker_threads` of them. They end with the server: calls that are
        under way have the time that `stop` gives, those that wait then are cancelled.

        Returns:
            The `concurrent.futures.Future` of its result; `asyncio.wrap_future` makes
            it one to be awaited. What the function raises is logged when nobody asks
            for it.

        Raises:
            TypeError: Not a function, or an async one.
            InvalidState: The server does not run, or 1,000 calls wait already.
        """
        if not callable(function) or is_async(function):
            raise TypeError(f"function must be one that blocks, not {function!r}")
        if not self._running:
            raise InvalidState("the server does not run")
        return self._errands.run_in_thread(partial(function, *args))

    def fileno(self) -> int:
        """A descriptor that is readable when there is something for `poll` to do.

        It binds the port, as the first `poll` does. Timers do not make it readable.

        Raises:
            InvalidState: There is none on this platform (Windows): use a timer. Or the
                server has stopped; `listen` lets it begin anew.
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
        """Stop serving: nobody is accepted, everybody is sent close code 1001.

        Waits for the end, unless it is called from a callback. Where a loop that is not
        ours must turn for that (`poll`, `attach`), and this is not its thread, it waits
        no longer than it should take: the end comes when that loop turns again.

        Args:
            drain: seconds for the clients to take what was written to them and to
                answer, and for callbacks that are under way; the option `close_timeout`
                by default. Then they are cut, and cancelled; callbacks that are told of
                it have `close_timeout` more.

        Raises:
            TypeError, ValueError: `drain` is not a number of seconds.
        """
        if drain is None:
            drain = self.options.close_timeout
        _check_seconds("drain", drain)
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
            if self._errands.is_worker():
                return  # a callback, which is waited for
            # Whoever should turn may be waiting for whoever called this.
            driven = self._polling or attachment is not None
            patience = drain + self.options.close_timeout + _STOP_GRACE
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
        self.reactor = self.journal.reactor = Reactor(clock=clock)
        self.gate = Gate(self.options, clock)

    def _note_begin(self, loop: Any) -> None:
        self._loop = loop
        if loop is not None:
            self._errands.await_in(loop)
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
        inside = self.clients or self.figures.viewers
        empty = not inside and not self._ending and not self._incoming
        idle = empty and not self._errands.busy
        return self._stopping and (idle or self._deadline_passed)

    def _begin_stop(self, drain: float) -> None:
        if self._stopping:
            return
        self._stopping = True
        self.reactor.want_attention()
        for listener in self._listeners:
            listener.close()
        for incoming in list(self._incoming):
            incoming.stop()
        clients = [*self.clients, *self.figures.viewers]
        random.shuffle(clients)
        batches = max(1, min(_MAX_FAREWELLS, len(clients) // _FAREWELL))
        batches = batches if drain else 1
        size = -(-len(clients) // batches)
        self._dismiss(clients, size, drain / 2 / batches, self.reactor.time() + drain)
        self.reactor.call_later(drain, self._pass_deadline)

    def _dismiss(
        self, clients: list[Client], size: int, pause: float, deadline: float
    ) -> None:
        """Close some clients now and the others little by little.

        Thousands that are sent away at one moment would come back at one moment.
        """
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

    def _pass_deadline(self) -> None:
        """Cut whoever is left; `on_close` has time to end, where it takes time."""
        self._cut_all()
        self._errands.wind_up()
        patience = self.options.close_timeout
        self.reactor.call_later(patience, self._pass_last_deadline)

    def _pass_last_deadline(self) -> None:
        self._deadline_passed = True
        self.reactor.want_attention()

    def _cut_all(self) -> None:
        for incoming in list(self._incoming):
            incoming.close()
        for client in [*self.clients, *self.figures.viewers, *self._ending]:
            client._cut("the server stopped", CloseCause.SHUTDOWN)

    def _tear_down(self) -> None:
        """Give everything back, whatever state it is in; `run` works again."""
        for listener in self._listeners:
            listener.close()
        if self._attachment is not None:
            self._attachment.end()
        self._cut_all()
        self._pages.end()
        self._schedule.end()
        self.figures.end()
        # From now on other threads reach nobody, and queue nothing: threads that never
        # cease must not keep us.
        self._listening = False
        try:
            self.reactor.finish_calls()
            self._errands.end()
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
        self.reactor = self.journal.reactor = Reactor(clock=self._clock)
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
        self._errands = Errands(self.reactor, self.options.worker_threads)
        self._errands.on_idle = self._note_idle
        self.reactor.open()
        self._schedule.begin(self.reactor)
        self.figures.begin(self.reactor)

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
        drain = self.options.close_timeout
        self.reactor.call_threadsafe(partial(self._begin_stop, drain))

    # What connections ask of their server

    def find(self, request: Request) -> Mount:
        """The handler of a path; raises HandshakeError 404, 405 or 503."""
        found = self._router.find(request.path)
        if found is None:
            page = self._pages.find(request)
            if page is not None:
                raise page.refusal()
            raise HandshakeError(404, "There is nothing at this path.")
        if isinstance(found[0], Dashboard):
            return found[0]  # to be looked at when nobody else gets in
        if self._denied is not None:
            status, reason = self._denied
            retry = [retry_after()] if status in (429, 503) else []
            raise HandshakeError(status, reason, retry)
        mount, request.params = found
        gate = self.gate
        gate.check_room(self.clients, self.options.max_connections)
        gate.check_room(mount.clients, mount.options.max_connections)
        gate.check(request.address)
        if self._middlewares or self._loop is not None or mount._late:
            return self._chain(mount)
        return mount

    def check_again(self, mount: Mount, request: Request) -> None:
        """Refuse a client whose handshake took time: others may have come."""
        gate = self.gate
        gate.check_room(self.clients, self.options.max_connections)
        gate.check_room(mount.clients, mount.options.max_connections)
        gate.check_host(request.address)

    def find_page(self, request: Request) -> Entry | None:
        """What plain HTTP has at a path, or None."""
        return self._pages.find(request)

    def _chain(self, handler: BaseHandler) -> Mount:
        # As many as there are now: another thread may be putting one in.
        middlewares = tuple(self._middlewares)
        key = handler, handler._late, len(middlewares)
        chain = self._chains.get(key)
        if chain is None:
            # They have what a handler has, by handing on.
            mount: Any = handler
            late = handler._late or self._has_late_middleware()
            late = late or self._loop is not None
            if middlewares:
                mount = (LateChain if late else Chain)(handler, middlewares)
            if late:
                mount = Awaited(mount, self._errands)
            chain = self._chains[key] = cast("Mount", mount)
        return chain

    def _has_late_middleware(self) -> bool:
        return any(
            ends_later(function)
            for middleware in self._middlewares
            for _, function in middleware._callbacks()
        )

    def settle(
        self, late: Any, done: Callable[[Any, BaseException | None], object]
    ) -> Errand:
        """Bring about what a function of the user's has begun.

        Raises:
            HandshakeError: 503, too much waits for a thread.
            InvalidState: It is to be awaited, and the server is in no asyncio loop.
        """
        try:
            return self._errands.begin(late, done, limited=True)
        except TooMany:
            raise HandshakeError(503, "The server is busy.", [retry_after()]) from None

    def check_late(
        self, handler: BaseHandler, what: str, function: Callable[..., Any]
    ) -> None:
        """Refuse a callback that is not done when it returns, where that is too late.

        Raises:
            InvalidState: Nobody would wait for it.
        """
        if self._running:
            self._check_awaited([(what, function)], self._loop)
            if handler.clients and self._loop is None and not handler._late:
                raise InvalidState(f"{what} must be in_thread before clients connect")

    def _check_awaited(
        self, callbacks: Iterable[tuple[str, Callable[..., Any]]], loop: Any
    ) -> None:
        """Refuse async callbacks where nobody would await them."""
        for what, function in callbacks:
            if loop is None and is_async(function):
                raise InvalidState(
                    f"{what} is async: use `await server.serve_async()` or "
                    "`server.attach(loop)`"
                )

    def _all_callbacks(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        targets, jobs = self._router.targets(), tuple(self._schedule.jobs)
        owners: list[Any] = [*targets, *self._middlewares, *jobs]
        for owner in owners:
            yield from owner._callbacks()
        yield from self._answering

    def _check_timer(self, callback: Callable[[], object]) -> None:
        if self._running:
            name = getattr(callback, "__name__", repr(callback))
            self._check_awaited([(f"the timer {name}", callback)], self._loop)

    def _begin_late(
        self, late: Any, done: Callable[[Any, BaseException | None], object]
    ) -> None:
        self._errands.begin(late, done)

    def _note_idle(self) -> None:
        if self._stopping:
            self.reactor.want_attention()

    def left(self, incoming: Incoming) -> None:
        """A handshake is over."""
        self._incoming.discard(incoming)
        self.reactor.attention = True

    def welcome(self, client: Client) -> None:
        """A connection opened."""
        self.figures.opened += 1
        super().welcome(client)
        self.gate.enter(client.address)

    def forget(self, client: Client) -> None:
        """A connection ended."""
        super().forget(client)
        self.gate.leave(client.address)
        if client._registered:
            self._ending.add(client)

    def release(self, client: Client) -> None:
        """The socket of a connection is closed."""
        self._ending.discard(client)
        self.reactor.attention = True  # the last one ends a server that stops

    def _on_accept(self, sock: socket.socket, address: Any) -> None:
        if self._encrypted is not None:
            sock = self._encrypted(sock, address, self.reactor.call_later)
        incoming = Incoming(sock, address, self)
        self._incoming.add(incoming)
        incoming.begin()

    def _on_slow(self, target: object, seconds: float) -> None:
        if isinstance(target, Client):
            self.journal.note_slow_client(target, seconds)

    def _elsewhere(self) -> bool:
        # While nobody listens, nothing waits for the loop.
        return self._listening and super()._elsewhere()


#: Options of a listening socket, which a handler cannot have for itself.
_OF_THE_SOCKET = ("unix", "ssl", "certfile", "keyfile", "trusted_proxies")


def _check_mounted(given: Mapping[str, Any], options: Options) -> None:
    """Refuse what would be passed over in silence: a handler believed to have TLS."""
    for name in _OF_THE_SOCKET:
        if given.get(name) and given[name] != getattr(options, name):
            raise ValueError(f"{name} is an option of the server, not of one handler")


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
    from . import tls  # not before it is needed: some builds of Python have no ssl

    return partial(tls.TLSSocket, tls.server_context(*given))


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be 0 seconds or more, not {value!r}")
