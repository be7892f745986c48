"""`ThreadServer`: what one thread serves of a server with `worker_class="thread"`.

It is a server of its own, with its own loop, connections, topics and counters, and an
end of the engine that all threads share. What users have set up (handlers, routes,
middlewares, rules of topics) is that of the server in front of it, which users know;
starting and stopping is up to `thread_workers`.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, cast

from ..cluster.thread_engine import SharedEngine
from ..cluster.worker import Worker
from ..handlers.handler import BaseHandler
from ..handlers.shared import GroupOfAll, GroupOfOne, SharedHandler
from ..loop.schedule import Job
from ..protocol.request import Request
from .handshake import HandshakeHandler
from .operations import Operations
from .run import Run
from .server import Server
from .workers import Workers

__all__ = ["ThreadPlace", "ThreadServer"]


class ThreadPlace(Workers):
    """One thread among the workers, for its `ThreadServer`.

    Args:
        server: in front of all threads.
        group: the same in all of them.
        worker: its number.
        shared_engine: of all threads, or None: they have the engine of the options.
        stop_all: has all threads stop.
    """

    apply = False

    def __init__(
        self,
        server: Server,
        group: str,
        worker: Worker,
        shared_engine: SharedEngine | None,
        stop_all: Callable[[float | None], object],
    ) -> None:
        super().__init__(server)
        self._worker = worker
        self._stop_all = stop_all
        self.shared_engine = shared_engine
        self.id = group

    @property
    def worker(self) -> Worker:
        """This thread among the workers."""
        return self._worker

    @property
    def leads(self) -> bool:
        """Whether this thread does what one of them alone does."""
        return self._worker.number == 1

    def ask_to_stop(self, drain: float | None) -> None:
        """Have the other threads stop, too."""
        self._stop_all(drain)

    def refuse(self, what: str) -> None:
        """How it serves is up to the workers."""

    def totals(self, own: dict[str, Any]) -> dict[str, Any]:
        """Of this thread alone."""
        return own


class ThreadServer(Server):
    """See the head of the module.

    Args:
        front: the server that users know.
        place: of this thread among the others.
    """

    def __init__(self, front: Server, place: ThreadPlace) -> None:
        self._front = front
        self._place = place
        self._handlers: dict[BaseHandler, SharedHandler] = {}
        self._making = Lock()
        self._adopted: set[Job] = set()
        self.host, self.port = front.host, front.port
        self._encrypted, self.proxies = front._encrypted, front.proxies
        self._engine_addresses = front._engine_addresses
        Operations.__init__(
            self, front.options.divided(place.worker.count), front._clock
        )
        self._asked_port = front._asked_port
        self._set_workers(place)
        self.clients = GroupOfOne(cast("GroupOfAll", front.clients))
        self._share(front)

    def _share(self, front: Server) -> None:
        """Have the setup of the front, as it is and as it will be."""
        self._router, self._routes = front._router, front._routes
        self._answering, self._wsgi = front._answering, front._wsgi
        self._middlewares = front._middlewares
        self._topic_rules = front._topic_rules
        self._engine_listeners = front._engine_listeners
        self._worker_hooks = front._worker_hooks.of_another_thread()
        self.cluster._questions = front.cluster._questions

    def note_changes(self) -> None:
        """The front has been told of something that is no object of its own."""
        self._filtered = self._front._filtered
        self._denied = self._front._denied

    def gather(self) -> dict[str, Any]:
        """The stats of this thread."""
        stats = self._stats
        paths = list(self._front._stats._paths.items())
        stats._paths = {self._of(handler): mounted for handler, mounted in paths}
        if self._place.leads:  # they count for all threads
            stats._sources = self._front._stats._sources
        return stats.gather(self)

    def _of(self, handler: BaseHandler) -> BaseHandler:
        """The handler as this thread has it, which has all that a handler has."""
        shared = self._handlers.get(handler)
        if shared is None:
            with self._making:
                shared = self._handlers.get(handler)
                if shared is None:
                    count = self._place.worker.count
                    shared = SharedHandler(handler, count, self._clock)
                    self._handlers[handler] = shared
        return cast("BaseHandler", shared)

    def _admit(self, handler: BaseHandler, request: Request) -> HandshakeHandler:
        admitted = super()._admit(self._of(handler), request)
        # One that denies all clients is not yet the one of this thread.
        return self._of(admitted) if isinstance(admitted, BaseHandler) else admitted

    def _enter(self, loop: Any) -> Run:
        self.note_changes()
        for job in self._front._schedule.jobs.copy():
            if job not in self._adopted:
                self._adopted.add(job)
                self._schedule.adopt(job)
        return super()._enter(loop)

    def _end_routes(self) -> None:
        """Other threads may still use them: `thread_workers` ends them."""
