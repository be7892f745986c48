"""`Lookup`: which handler or HTTP route gets a request, and who may not come in.

It refuses async callbacks that nothing would await, too. Handlers and routes are
registered by `app`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..connection.admission import Admission, retry_after
from ..connection.client import Client
from ..connection.log import Log, LogCounts
from ..connection.options import Options
from ..constants import CloseCause, CloseCode
from ..errors import NOT_FOUND, HandshakeError, InvalidState
from ..handlers.handler import BaseHandler
from ..handlers.middleware import Middleware
from ..handlers.pending import PendingCall, TooMany
from ..handlers.wrapping import wrap
from ..http.routes import Route, Routes
from ..http.routing import Router, routing_path
from ..loop.deferred import DeferredCancelled, is_async
from ..loop.schedule import Schedule
from ..ops.stats import Stats
from ..protocol.request import Request
from ..speedups import Opener
from .cluster import Cluster
from .denial import Denial
from .forwarded import TrustedProxies
from .handshake import HandshakeHandler
from .hub import Hub
from .run import Run
from .state import ServerState
from .worker_hooks import WorkerHooks
from .workers import Workers

if TYPE_CHECKING:
    from ..cluster.node import EngineState
    from ..http.wsgi import Wsgi
    from .applications import Applications

__all__ = ["Lookup"]

#: From the first turn of the loop to the end.
_RUNNING = frozenset(
    (
        ServerState.RUNNING,
        ServerState.STOPPING,
        ServerState.ABORTING,
        ServerState.CLOSING,
    )
)


class Lookup(Hub):
    """See the head of the module.

    Args:
        options: of the server.
        clock: seconds that never run backwards.
    """

    proxies: TrustedProxies | None
    #: Wraps an accepted socket in TLS; None without TLS.
    _encrypted: Callable[..., Any] | None
    _workers: Workers

    def __init__(self, options: Options, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.options = options
        self._log_counts = LogCounts()
        self._admission = Admission(options, clock)
        self._stats = Stats()
        self._router: Router[BaseHandler] = Router()
        self._routes = Routes()
        self._answering: list[tuple[str, Callable[..., Any]]] = []  # HTTP, with names
        self._wsgi: list[Wsgi] = []
        self._asgi: Applications | None = None
        self._middlewares: list[Middleware] = []
        self._denied: tuple[int, str] | Denial | None = None
        self._worker_hooks = WorkerHooks()
        self._engine_listeners: list[Callable[[EngineState], Any]] = []
        self.cluster = Cluster(self)
        #: What takes the input of a client that comes by requests of its own, by the
        #: client's secret; it returns False if there is no room.
        self._inputs: dict[str, Callable[[str], bool]] = {}
        self._schedule = Schedule(
            self._run_deferred, self._check_timer, self._call_timer
        )

    # The run

    def _divide_limits(self, count: int) -> None:
        """Take the limits of one of `count` workers, in its process."""
        self.options = self.options.divided(count)
        self._admission = Admission(self.options, self._clock)
        for handler in self._router.targets():
            handler._divide_limits(count)
        self._forget_plans()

    @property
    def _current(self) -> Run:
        """The current run; there is one from `listen` to the end."""
        assert self._run is not None, "the server does not run"
        return self._run

    @property
    def _opener(self) -> Opener:
        return self._current.opener

    def _of(self, handler: BaseHandler) -> BaseHandler:
        """What has the connections of a handler: itself, but for `ThreadServer`."""
        return handler

    def _forget_plans(self) -> None:
        """What new clients get has changed; from any thread."""
        run = self._run
        if run is not None:
            run.opener.forget()

    @property
    def _log(self) -> Log:
        run = self._run
        assert run is not None, "the server does not run"
        return run.log

    @property
    def _asyncio_loop(self) -> Any:
        """The asyncio loop that awaits callbacks, or None."""
        run = self._run
        return None if run is None else run.asyncio_loop

    @property
    def _running(self) -> bool:
        """Whether a loop turns, or is being closed."""
        return self._state in _RUNNING

    # Called by connections

    def _find_handler(self, request: Request) -> HandshakeHandler:
        """The handler of a path; raises HandshakeError 404, 405 or 503."""
        found = self._router.find(routing_path(request.encoded_path))
        if found is None:
            page = self._routes.find(request)
            if page is not None and (page.has is None or page.has(request)):
                raise page.refusal()
            raise HandshakeError(404, NOT_FOUND)
        if found[0]._always_admitted:
            return found[0]  # accessible even when the server is full
        handler, request.params = found
        return self._admit(handler, request)

    def _admit(self, handler: BaseHandler, request: Request) -> HandshakeHandler:
        """What a client of a handler is handled by, with all that stands before it.

        Raises:
            HandshakeError: There is no room, or no new client is let in.
        """
        denied = self._denied
        if isinstance(denied, tuple):
            status, reason = denied
            retry = [retry_after()] if status in (429, 503) else []
            raise HandshakeError(status, reason, retry)
        self._check_limits(handler, request.address)
        if denied is not None:
            return denied
        if self._middlewares or self._asyncio_loop is not None or handler._has_deferred:
            return self._chain(handler)
        return handler

    def _check_limits(self, handler: BaseHandler, address: Any) -> None:
        """Count a new client of a handler; HandshakeError if it is one too many."""
        admission = self._admission
        admission.check_room(self.clients, self.options.max_connections)
        admission.check_room(handler.clients, handler.options.max_connections)
        own = handler._admission
        if own is None:
            admission.check(address)
        else:
            admission.check_host(address)
            # Before the server's rate limit, which refused clients must not use up.
            own.check(address)
            admission.check_rate()

    def _check_again(self, handler: HandshakeHandler, request: Request) -> None:
        """Refuse a client whose handshake took time: others may have come."""
        admission = self._admission
        admission.check_room(self.clients, self.options.max_connections)
        admission.check_room(handler.clients, handler.options.max_connections)
        admission.check_host(request.address)
        if handler._admission is not None:
            handler._admission.check_host(request.address)

    def _find_route(self, request: Request) -> Route | None:
        """The HTTP route of a path, or None.

        A folder at "/" does not hide the paths of handlers: a path that is not in the
        folder may be one of those, and gets their response.
        """
        page = self._routes.find(request)
        if page is None or page.has is None:
            return page
        if self._router.find_named(routing_path(request.encoded_path)) is None:
            return page
        return page if page.has(request) else None

    def _add_client(self, client: Client) -> None:
        """A connection opened."""
        self._stats.opened += 1
        handler = client._handler
        if handler._closed_to_strangers:
            self._add_stranger(client)
        self.clients.add(client)
        self._plain.pop(None, None)
        handler.clients.add(client)
        if self._state is ServerState.STOPPING:  # its handshake had begun before
            close = partial(
                client._close,
                CloseCode.GOING_AWAY,
                "the server stops",
                CloseCause.SHUTDOWN,
            )
            self._current.reactor.call_soon(close)
        if self._admission.counts_hosts:
            self._admission.enter(client.address)
        own = handler._admission
        if own is not None:
            own.enter(client.address)

    def _remove_client(self, client: Client) -> None:
        """A connection ended."""
        self._forget_client(client)
        self.clients.discard(client)
        self._plain.pop(None, None)
        handler = client._handler
        handler.clients.discard(client)
        if self._admission.counts_hosts:
            self._admission.leave(client.address)
        own = handler._admission
        if own is not None:
            own.leave(client.address)
        self._note_closing(client)

    def _note_closing(self, client: Client) -> None:
        """A connection has ended; its socket may have to wait for the peer."""
        if client._attached:
            self._current.closing.add(client)

    def _release_client(self, client: Client) -> None:
        """The socket of a connection is closed."""
        run = self._current
        run.closing.discard(client)
        if self._state is not ServerState.RUNNING:
            run.reactor.attention = True  # a server that stops ends with the last one

    def _chain(self, handler: BaseHandler) -> HandshakeHandler:
        """A handler with all that stands before it."""
        # Only the current ones: another thread may be adding one.
        middlewares = tuple(self._middlewares)
        key = handler, handler._has_deferred, len(middlewares)
        chains, pending = self._current.chains, self._current.pending
        chain = chains.get(key)
        if chain is None:
            in_asyncio = self._asyncio_loop is not None
            chain = wrap(handler, middlewares, pending, in_asyncio=in_asyncio)
            chains[key] = chain
        return chain

    def _run_limited(
        self, deferred: Any, done: Callable[[Any, BaseException | None], object]
    ) -> PendingCall:
        """Run a deferred result of a user function.

        Raises:
            HandshakeError: 503, too many calls are waiting for a thread.
            InvalidState: It must be awaited, and the server is in no asyncio loop.
        """
        try:
            return self._current.pending.run(deferred, done, limited=True)
        except TooMany:
            raise HandshakeError(503, "The server is busy.", [retry_after()]) from None

    def _is_worker(self) -> bool:
        """Whether the caller is user code that `stop` waits for."""
        run = self._run
        return (run is not None and run.pending.is_worker()) or any(
            application.is_worker() for application in self._wsgi
        )

    def _check_deferred(
        self, handler: BaseHandler, what: str, function: Callable[..., Any]
    ) -> None:
        """Refuse a deferred callback that nothing would await.

        Raises:
            InvalidState: Nothing would await it.
        """
        if self._running:
            self._check_awaited([(what, function)], self._asyncio_loop)
            if (
                handler.clients
                and self._asyncio_loop is None
                and not handler._has_deferred
            ):
                raise InvalidState(f"{what} must be in_thread before clients connect")

    def _check_awaited(
        self, callbacks: Iterable[tuple[str, Callable[..., Any]]], loop: Any
    ) -> None:
        """Refuse async callbacks that nothing would await."""
        for what, function in callbacks:
            if loop is None and is_async(function):
                raise InvalidState(
                    f"{what} is async: use `await server.serve_async()` or "
                    "`server.attach(loop)`"
                )

    def _all_callbacks(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        targets, jobs = self._router.targets(), self._schedule.jobs.copy()
        owners: list[Any] = [*targets, *self._middlewares, *jobs]
        for owner in owners:
            yield from owner._callbacks()
        yield from self._answering
        yield from self.cluster._callbacks()

    def _check_timer(self, callback: Callable[[], object]) -> None:
        if self._running:
            name = getattr(callback, "__name__", repr(callback))
            self._check_awaited([(f"the timer {name}", callback)], self._asyncio_loop)

    def _begin_deferred(self, deferred: Any) -> Any:
        """Run it as far as it does not wait; see `PendingCalls.begin`.

        Raises:
            RuntimeError: It has cancelled itself.
        """
        try:
            return self._current.pending.begin(deferred)
        except DeferredCancelled as error:
            raise RuntimeError("it was cancelled") from error

    def _run_deferred(
        self, deferred: Any, done: Callable[[Any, BaseException | None], object]
    ) -> None:
        self._current.pending.run(deferred, done)

    def _call_timer(self, callback: Callable[[], object]) -> object:
        return self._log.call(None, "the timer ", callback)
