"""`Server`: handlers on paths, one port, one loop.

It accepts, routes, starts and stops. Who receives is left to `hub`, what happens on one
connection to `incoming` and `connection`.
"""

from __future__ import annotations

import logging
import math
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, TypeVar, cast

from .connection import Client
from .constants import CloseCause, CloseCode
from .errors import HandshakeError, InvalidState
from .gate import Gate, retry_after
from .handler import BaseHandler, FunctionHandler
from .http11 import Request
from .hub import Hub
from .incoming import Incoming, Mount
from .journal import Journal
from .listener import Listener, bind
from .middleware import Chain, Middleware, check_middleware
from .options import Options, check_options
from .reactor import Reactor
from .routing import Router
from .schedule import Job, Schedule
from .speedups import BACKEND

__all__ = ["Server"]

logger = logging.getLogger("simple_ws")

H = TypeVar("H", bound=BaseHandler)
F = TypeVar("F", bound=Callable[..., Any])
W = TypeVar("W", bound=Middleware)

#: Seconds of one turn of a stop that nobody else turns for.
_STOP_TURN = 0.05

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
        clients: open connections of all handlers, the earliest first.
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
        super().__init__()
        self.reactor = Reactor(clock=self._clock)
        self.journal = Journal(self.reactor)
        self.gate = Gate(self.options, self._clock)
        self._router: Router[BaseHandler] = Router()
        self._middlewares: list[Middleware] = []
        self._chains: dict[BaseHandler, Mount] = {}
        self._denied: tuple[int, str] | None = None
        self._schedule = Schedule(self._on_loop)
        self._asked_port = port
        self._signals_seen = 0
        self._listeners: list[Listener] = []
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
            ValueError: The path is malformed, or taken.
            InvalidState: The handler is mounted on another server.
        """
        if not isinstance(handler, BaseHandler):
            raise TypeError(
                f"handler must be an instance of WebSocket, not {handler!r}"
            )
        handler._adopt(self)
        self._router.add(path, handler)
        return handler

    def route(self, path: str, **options: Any) -> Callable[[F], F]:
        """Serve the decorated function or handler class on a path; see `mount`.

        A function is called with (msg, client); what it returns is the answer. Of a
        class one instance is made.

        Args:
            path: see `mount`.
            options: of this handler, see `options.Options`.

        Raises:
            TypeError: The function takes other arguments.
        """

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
        """
        check_middleware(middleware)
        middleware.on_use(self)
        self._middlewares.append(middleware)
        self._chains = {}
        return middleware

    def deny_new_connections(
        self, status: int = 503, reason: str = "No new connections at the moment."
    ) -> None:
        """Refuse handshakes from now on; those who are in stay.

        Args:
            status: HTTP status of the refusal, 400 to 599.
            reason: text for people, its body.

        Raises:
            ValueError: The status does not refuse.
        """
        if isinstance(status, bool) or not isinstance(status, int):
            raise TypeError(f"status must be an int, not {status!r}")
        if not 400 <= status <= 599:
            raise ValueError(f"status must be from 400 to 599, not {status}")
        self._denied = status, str(reason)

    def allow_new_connections(self) -> None:
        """Take back `deny_new_connections`."""
        self._denied = None

    # Timers

    def every(self, interval: float, callback: Callable[[], object]) -> Job:
        """Have `callback()` called every `interval` seconds while the server runs.

        Calls do not drift: they come at multiples of the interval, and those that a
        busy loop has missed are left out. What the callback raises is logged.

        Returns:
            The timer; `cancel()` ends it, from any thread.

        Raises:
            TypeError, ValueError: `interval` is not 0.001 seconds or more.
        """
        return self._schedule.every(interval, callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Job:
        """Have `callback()` called in `delay` seconds; see `every`.

        Before the server runs, from the moment it does.
        """
        return self._schedule.call_later(delay, callback)

    def call_at(self, when: float | datetime, callback: Callable[[], object]) -> Job:
        """Have `callback()` called at a moment, at once if it is past; see `every`.

        Args:
            when: a `datetime`, or seconds since the epoch as `time.time()` has them.
            callback: to be called.
        """
        return self._schedule.call_at(when, callback)

    # Running

    def listen(self) -> None:
        """Bind the port; `run` and `start` do it where it was not done.

        Raises:
            OSError: The address is taken or not ours; the message names it.
            InvalidState: It listens already.
        """
        if self._listeners:
            raise InvalidState("the server listens already")
        self._polling = None
        options = self.options
        sockets = bind(self.host, self._asked_port, options.backlog, options.reuse_port)
        self.port = sockets[0].getsockname()[1]
        self._prepare()
        self._listeners = [
            Listener(self.reactor, sock, self._on_accept) for sock in sockets
        ]
        logger.info(
            "listening on %s:%d (backend: %s)", self.host or "*", self.port, BACKEND
        )

    def run(self) -> None:
        """Serve until `stop`; Ctrl-C and SIGTERM stop it too, in the main thread.

        Everybody is sent close code 1001, what was accepted is written, then it
        returns. A second signal ends at once, a third even a callback that hangs.

        Raises:
            InvalidState: It runs already.
            OSError: See `listen`.
        """
        self._begin()
        with self._signals():
            self._serve()

    def start(self) -> None:
        """Serve in a background thread; returns when the port is bound.

        Raises:
            InvalidState: It runs already.
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
            InvalidState: It runs in another thread, or this is one of its callbacks.
            OSError: See `listen`.
        """
        if self._polling is None:
            self._begin()
            self._polling = True
            self._started.set()
        if self._polling:
            self.reactor.run_once(timeout)
            if self._done():
                self._tear_down()
        return self._polling

    def fileno(self) -> int:
        """A descriptor that is readable when there is something for `poll` to do."""
        if not self._listeners:
            self.listen()
        return self.reactor.fileno()

    def stop(self, drain: float | None = None) -> None:
        """Stop serving: nobody is accepted, everybody is sent close code 1001.

        Waits for the end, unless it is called from a callback.

        Args:
            drain: seconds for the clients to take what was written to them and to
                answer; the option `close_timeout` by default. Then they are cut.

        Raises:
            TypeError, ValueError: `drain` is not a number of seconds.
        """
        if drain is None:
            drain = self.options.close_timeout
        _check_drain(drain)
        # Before the question whether it runs: a later one has nothing to stop.
        reactor, thread = self.reactor, self._thread
        if not self._running:
            if self._listeners:
                self._tear_down()
        elif threading.get_ident() == reactor.owner:
            self._begin_stop(drain)
            if self._polling and not reactor.turning:
                while self.poll(_STOP_TURN):
                    pass
        else:
            reactor.call_threadsafe(partial(self._begin_stop, drain))
            self._finished.wait()
            if thread is not None:
                thread.join()

    def _begin(self) -> None:
        if self._running:
            raise InvalidState("the server runs already")
        if not self._listeners:
            self.listen()
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
        empty = not self.clients and not self._ending and not self._incoming
        return self._stopping and (empty or self._deadline_passed)

    def _begin_stop(self, drain: float) -> None:
        if self._stopping:
            return
        self._stopping = True
        self.reactor.want_attention()
        for listener in self._listeners:
            listener.close()
        for incoming in list(self._incoming):
            incoming.close()
        clients = list(self.clients)
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
        self._deadline_passed = True

    def _tear_down(self) -> None:
        """Give everything back, whatever state it is in; `run` works again."""
        for listener in self._listeners:
            listener.close()
        for incoming in list(self._incoming):
            incoming.close()
        for client in [*self.clients, *self._ending]:
            client._cut("the server stopped", CloseCause.SHUTDOWN)
        self._schedule.end()
        self.reactor.finish_calls()
        self.reactor.close()
        self._listeners = []
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
        self.reactor.open()
        self._schedule.begin(self.reactor)

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
        """The handler of a path; raises HandshakeError 404 or 503."""
        found = self._router.find(request.path)
        if found is None:
            raise HandshakeError(404, "There is nothing at this path.")
        if self._denied is not None:
            status, reason = self._denied
            retry = [retry_after()] if status in (429, 503) else []
            raise HandshakeError(status, reason, retry)
        mount, request.params = found
        gate = self.gate
        gate.check_room(self.clients, self.options.max_connections)
        gate.check_room(mount.clients, mount.options.max_connections)
        gate.check(request.address)
        return self._chain(mount) if self._middlewares else mount

    def _chain(self, handler: BaseHandler) -> Mount:
        chain = self._chains.get(handler)
        if chain is None:
            # It has what a handler has, by handing on.
            chain = cast("Mount", Chain(handler, self._middlewares))
            self._chains[handler] = chain
        return chain

    def left(self, incoming: Incoming) -> None:
        """A handshake is over."""
        self._incoming.discard(incoming)
        self.reactor.attention = True

    def welcome(self, client: Client) -> None:
        """A connection opened."""
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
        incoming = Incoming(sock, address, self)
        self._incoming.add(incoming)
        incoming.begin()

    def _on_slow(self, target: object, seconds: float) -> None:
        if isinstance(target, Client):
            self.journal.note_slow_client(target, seconds)

    def _elsewhere(self) -> bool:
        # While nobody listens, nothing waits for the loop.
        return bool(self._listeners) and super()._elsewhere()


def _check_drain(drain: object) -> None:
    if isinstance(drain, bool) or not isinstance(drain, int | float):
        raise TypeError(f"drain must be a number of seconds, not {drain!r}")
    if not 0 <= drain < math.inf:
        raise ValueError(f"drain must be 0 seconds or more, not {drain!r}")
