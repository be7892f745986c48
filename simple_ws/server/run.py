"""`Run`: the state of one run of a server, from `listen` to the end of `stop`.

It is created when the server begins to listen, and dropped when it has stopped, so that
nothing of one run remains for the next. Whatever outlives a run (handlers, routes,
middleware, counters) belongs to the server.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..connection.client import Client
from ..connection.log import Log, LogCounts
from ..connection.options import Options
from ..constants import CloseCause
from ..handlers.pending import PendingCalls
from ..loop.asyncio_bridge import Attachment
from ..loop.listener import Listener
from ..loop.reactor import Reactor
from ..speedups import Opener, Plans
from .handshake import HandshakeHandler
from .upgrade import UpgradeConnection

if TYPE_CHECKING:
    import asyncio

__all__ = ["Run"]

#: A turn that takes longer than this, in seconds, counts as a pause: the server did not
#: read, so it does not count against the timeouts of peers.
_PAUSE = 0.5


class Run:
    """The loop of one run, and everything that lives in it.

    Args:
        options: of the server.
        handlers: options of the mounted handlers.
        clock: seconds that never run backwards.
        counts: of the server, for the log.
        make_plans: see `Opener`.

    Attributes:
        reactor: the loop; open.
        log: of this run.
        pending: the running deferred results of callbacks.
        listeners: of the port, until the server stops.
        opener: opens connections whose handshake is ordinary.
        upgrades: connections that are not upgraded.
        closing: clients that have ended, but whose sockets are open.
        chains: wrappers that replace a handler, because of middleware or deferred
            callbacks.
        asyncio_loop: the asyncio loop that awaits callbacks, or None.
        attachment: to that loop, where it drives the server.
        thread: of `Server.start`.
        polled: `Server.poll` drives it.
        owns_loop: the asyncio loop is the server's own, which turns it.
        signals: number of signals that asked it to stop.
        started: set when the loop turns.
        finished: set when the run has ended.
        note_end: called just before; None without a graceful shutdown.
    """

    def __init__(
        self,
        options: Options,
        handlers: Iterable[Options],
        clock: Callable[[], float],
        counts: LogCounts,
        make_plans: Callable[[], Plans | None],
    ) -> None:
        self.reactor = Reactor(
            grain=_grain([options, *handlers]),
            clock=clock,
            busy_poll=options.busy_poll,
            buffered_limit=options.max_buffered,
            buffered_input_limit=options.max_buffered_input,
            slow=options.slow_callback,
            pause=max(_PAUSE, options.slow_callback),
            slow_listener=self._on_slow,
        )
        self.log = Log(self.reactor, counts)
        self.pending = PendingCalls(self.reactor, options.worker_threads)
        self.listeners: list[Listener] = []
        self.opener = Opener(self.reactor, make_plans)
        self.upgrades: set[UpgradeConnection] = set()
        self.closing: set[Client] = set()
        self.chains: dict[Any, HandshakeHandler] = {}
        self.asyncio_loop: asyncio.AbstractEventLoop | None = None
        self.attachment: Attachment | None = None
        self.thread: threading.Thread | None = None
        self.polled = self.owns_loop = False
        self.signals = 0
        self.started = threading.Event()
        self.finished = threading.Event()
        self.note_end: Callable[[], None] | None = None
        self.reactor.open()

    @property
    def driven(self) -> bool:
        """Whether another loop must drive it."""
        return self.polled or (self.attachment is not None and not self.owns_loop)

    @property
    def orphaned(self) -> bool:
        """Whether the asyncio loop that drives it is closed: nothing will end it."""
        return self.attachment is not None and self.attachment.loop.is_closed()

    def begin(self, asyncio_loop: asyncio.AbstractEventLoop | None) -> None:
        """Run in this thread from now on."""
        self.own_descriptors()
        self.asyncio_loop = asyncio_loop
        self.opener.forget()
        if asyncio_loop is not None:
            self.pending.await_in(asyncio_loop)
        self.reactor.owner = threading.get_ident()

    def own_descriptors(self) -> None:
        """Open the loop again in a process that was forked after `Server.listen`.

        Two processes would share one epoll descriptor, and each be told of what only
        the other one knows.
        """
        if not self.reactor.belongs_here():
            self.reactor.close()
            self.reactor.open()
            for listener in self.listeners:
                listener.watch()

    def forget(self, clients: Iterable[Client]) -> None:
        """Close a forked process's copies of all descriptors."""
        self.reactor.forget()
        for listener in self.listeners:
            listener.forget()
        for upgrade in self.upgrades:
            upgrade.forget()
        for client in clients:
            client._forget()

    def accept_no_more(self) -> None:
        """Close the listeners; answer the requests that have begun, and no more.

        Connections of the backlog count: their clients have connected.
        """
        self.reactor.want_attention()
        self.opener.forget()
        for listener in self.listeners:
            listener.close(backlog=True)
        for upgrade in list(self.upgrades):
            upgrade.stop()

    def cut(self, clients: Iterable[Client]) -> None:
        """Close the sockets of clients, and of all connections not upgraded."""
        for cut in self.cuts(clients):
            cut()

    def cuts(self, clients: Iterable[Client]) -> Iterator[Callable[[], object]]:
        """The same, each as a call of its own."""
        for upgrade in list(self.upgrades):
            yield upgrade.close
        for client in clients:
            yield partial(client._cut, "the server stopped", CloseCause.SHUTDOWN)

    def detach(self) -> None:
        """Close the listeners, and leave the asyncio loop."""
        for listener in self.listeners:
            listener.close()
        if self.attachment is not None:
            self.attachment.end()

    def close(self) -> None:
        """End pending callbacks, and close the loop."""
        try:
            self.pending.close()
        finally:
            self.log.end()
            self.reactor.close()

    def _on_slow(self, target: object, seconds: float) -> None:
        if isinstance(target, Client):
            self.log.note_slow_client(target, seconds)


def _grain(everybody: Iterable[Options]) -> float:
    """Seconds by which coarse deadlines may be exceeded."""
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
    # A quarter of the shortest deadline, but not so fine that it wakes too often.
    return max(0.01, min(1.0, shortest / 4))
