"""`ThreadWorkers`: a server that serves in several threads (`worker_class="thread"`).

Each thread has a `ThreadServer`, with a loop of its own. The server in front of them,
which users know, has no run: its methods are passed on to the threads, here. Only a
Python without the GIL makes this worth while, so others are refused.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from typing import Any

from ..cluster.thread_engine import SharedEngine
from ..cluster.worker import Worker
from ..connection.client import Client
from ..errors import InvalidState
from ..handlers.shared import GroupOfAll
from ..loop.listener import take_over
from ..loop.signals import StopSignals
from ..ops.totals import total
from .cluster import Cluster
from .control import ControlRun
from .server import Server
from .state import ServerState
from .thread_server import ThreadPlace, ThreadServer
from .workers import Workers, refuse_handover

__all__ = ["ThreadWorkers", "check_threads", "gil_is_enabled"]

#: Methods of the server that are those of the caller's loop; elsewhere of the first.
_OF_THIS_LOOP = (
    "broadcast",
    "call_at",
    "call_later",
    "deliver",
    "every",
    "history",
    "present",
    "publish",
    "run_in_thread",
    "send_to",
)
#: Those that are for the loop of a client.
_OF_THE_CLIENT = ("bind", "subscribe", "unsubscribe")
#: Those that change what is no object, and so must be told to all.
_FOR_ALL = ("allow_new_connections", "deny_new_connections", "use")
#: Those that are asked of all, and how the answers are joined.
_JOINED: dict[str, Callable[[list[Any]], Any]] = {
    "count": sum,
    "is_online": any,
    "members": lambda lists: list(chain.from_iterable(lists)),
    "online": lambda lists: list(dict.fromkeys(chain.from_iterable(lists))),
}


def gil_is_enabled() -> bool:
    """Whether one thread at a time runs Python."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def check_threads() -> None:
    """Refuse threads that would take turns.

    Raises:
        ValueError: This Python has a GIL, or it is enabled.
    """
    if gil_is_enabled():
        raise ValueError(
            'worker_class="thread" needs a free-threaded Python, such as python3.14t, '
            'whose GIL is not enabled (PYTHON_GIL=0); worker_class="process", the '
            "default, serves in several processes with any Python"
        )


class ThreadWorkers(Workers):
    """The threads of one server.

    Args:
        server: the one that users know.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.id = os.urandom(8).hex()
        self._front = server
        self._servers: list[ThreadServer] = []  # they outlive a run, with their counts
        self._threads: list[threading.Thread] = []
        self._local = threading.local()
        self._begun = threading.Semaphore(0)
        self._failures: list[BaseException] = []
        self._ending = threading.Lock()
        self._left = 0  # threads that have not ended
        self._waits = False  # the caller of `run` does, and is told of failures
        self._signals = 0
        server.clients = GroupOfAll()
        server.cluster = _ThreadsCluster(server, self)

    def here(self) -> ThreadServer | None:
        """The server of this thread; elsewhere the first one, while they serve."""
        own: ThreadServer | None = getattr(self._local, "server", None)
        if own is not None:
            return own
        return self._servers[0] if self._servers and self._front._running else None

    def refuse(self, what: str) -> None:
        """See `Workers.refuse`."""
        if self.apply:
            raise InvalidState(
                f"{what} serves in one thread: call run() or start() for "
                f"workers={self._front.options.workers}, or leave the option out"
            )

    # Serving

    def listen(self, sockets: Iterable[socket.socket]) -> None:
        """Bind the port for all threads; see `Server.listen`."""
        if self._sockets is not None:
            raise InvalidState("the server listens already")
        front = self._front
        refuse_handover()
        self._check_setup()
        given = take_over(sockets, front.options.backlog)
        self._sockets = listening = self._bind(given)
        self._note_listening(listening, "threads")
        self._make_servers()
        front._move(ServerState.LISTENING)
        for handler in front._router.targets():
            for server in self._servers:
                server._of(handler)
        for server, own in zip(self._servers, listening.sets, strict=True):
            if listening.shared:
                own = [sock.dup() for sock in own]
            server._open_run(own, None, listening.shared, listening.batch)

    def _check_setup(self) -> None:
        """Refuse what no thread could serve."""
        front = self._front
        for name, there in (("live", front._feeds), ("asgi", front._asgi)):
            if there is not None:
                raise InvalidState(
                    f'{name}() is not for worker_class="thread": leave that option out'
                )
        front._check_awaited(front._all_callbacks(), None)

    def _make_servers(self) -> None:
        if self._servers:
            return
        front, count = self._front, self._front.options.workers
        shared = None if front._engine_addresses else SharedEngine()
        for number in range(1, count + 1):
            place = ThreadPlace(
                front, self.id, Worker(number, count), shared, self.stop
            )
            self._servers.append(ThreadServer(front, place))
        self._take_calls()

    def run(self) -> None:
        """Serve until all threads have ended; see `Server.run`.

        Raises:
            BaseException: What `on_worker_start` or a thread has raised.
        """
        self._waits = True
        try:
            with StopSignals(self._on_signal):
                self._begin()
                self._join()
        finally:
            self._waits = False
        if self._failures:
            raise self._failures[0]

    def start(self) -> None:
        """Serve in the background; see `Server.start`."""
        self._begin()

    def _begin(self) -> None:
        """Start the threads, and wait until each of them serves."""
        front = self._front
        if self._threads:
            raise InvalidState("the server runs already")
        self._check_setup()
        if self._sockets is None:
            self.listen(())
        self._failures.clear()
        self._signals, self._left = 0, len(self._servers)
        front._move(ServerState.RUNNING)
        self._threads = [
            threading.Thread(
                target=self._work,
                args=(server,),
                name=f"simple_ws worker {number}",
                daemon=True,
            )
            for number, server in enumerate(self._servers, 1)
        ]
        for thread in self._threads:
            thread.start()
        for _ in self._threads:
            self._begun.acquire()
        if self._failures:
            self._join()
            raise self._failures[0]
        if self.on_ready is not None:
            self.on_ready()

    def _work(self, server: ThreadServer) -> None:
        self._local.server = server
        began = False
        try:
            run = server._begin()
            began = True
            self._begun.release()
            server._serve(run)
        except BaseException as error:
            self._tell_all(lambda each: each._begin_stop(0.0))
            if began and not self._waits:
                raise  # for `threading.excepthook`
            self._failures.append(error)
        finally:
            self._end_thread()
            if not began:
                self._begun.release()

    def _end_thread(self) -> None:
        """The last one to end closes what they had in common."""
        with self._ending:
            self._left -= 1
            if self._left:
                return
        front = self._front
        front._move(ServerState.CLOSING)
        front._routes.end()
        self._close_sockets()
        front._move(ServerState.STOPPED)
        self._threads = []

    def _close_sockets(self) -> None:
        sockets, self._sockets = self._sockets, None
        if sockets is not None:
            sockets.close()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    # Stopping

    def stop(self, drain: float | None) -> None:
        """Stop all threads, and wait for them unless one of them calls."""
        threads = self._threads
        if not threads:
            self._close_unused()
            return
        self._tell_all(lambda server: server._begin_stop(drain))
        if hasattr(self._local, "server") or any(
            server._is_worker() for server in self._servers
        ):
            return
        for thread in threads:
            thread.join()

    def _close_unused(self) -> None:
        """It listens, and has not served."""
        if self._sockets is None:
            return
        for server in self._servers:
            server._tear_down()
        self._front._move(ServerState.CLOSING)
        self._close_sockets()
        self._front._move(ServerState.STOPPED)

    def _tell_all(self, tell: Callable[[ThreadServer], object]) -> None:
        sockets = self._sockets
        if sockets is not None and sockets.shared:
            sockets.close()  # the threads have copies, and accept what waits
        for server in self._servers:
            run = server._run
            if run is not None:
                run.reactor.call_threadsafe(partial(self._tell, server, tell))

    def _tell(
        self, server: ThreadServer, tell: Callable[[ThreadServer], object]
    ) -> None:
        run, sockets = server._run, self._sockets
        if run is not None and sockets is not None and not sockets.given:
            for listener in run.listeners:
                listener.own()
        tell(server)

    def _on_signal(self, number: int, frame: object) -> None:
        self._signals += 1
        if self._signals > 2:
            raise KeyboardInterrupt
        if self._signals == 1:
            self._tell_all(lambda server: server._begin_stop(None))
        else:
            self._tell_all(lambda server: server._abort())

    # What is asked of the server that users know

    def totals(self, own: dict[str, Any]) -> dict[str, Any]:
        """The sums of all threads, and the stats of each."""
        if not self._servers:
            return own
        workers = [
            {**server.gather(), "worker": number, "pid": os.getpid(), "endings": {}}
            for number, server in enumerate(self._servers, 1)
        ]
        sums = total(workers)
        for name in ("worker", "pid", "endings"):
            del sums[name]
        return {**sums, "workers": workers}

    def _take_calls(self) -> None:
        """From now on the methods of the server in front are passed on."""
        front: Any = self._front
        calls = {
            **dict.fromkeys(_OF_THIS_LOOP, self._call_here),
            **dict.fromkeys(_OF_THE_CLIENT, self._call_host),
            **dict.fromkeys(_FOR_ALL, self._call_and_tell),
            **dict.fromkeys(_JOINED, self._call_each),
        }
        for name, call in calls.items():
            setattr(front, name, partial(call, name))
        front._forget_plans = self._forget_plans

    def _forget_plans(self) -> None:
        for server in self._servers:
            server._forget_plans()

    def _own(self, name: str) -> Callable[..., Any]:
        """A method of the server in front itself."""
        method: Callable[..., Any] = getattr(type(self._front), name)
        return partial(method, self._front)

    def _call_here(self, name: str, *args: Any, **options: Any) -> Any:
        here = self.here()
        method = self._own(name) if here is None else getattr(here, name)
        return method(*args, **options)

    def _call_host(self, name: str, *args: Any, **options: Any) -> Any:
        given = (*args, *options.values())
        client = next((each for each in given if isinstance(each, Client)), None)
        host: Any = None if client is None else client._host
        # The server in front says what is wrong with all others.
        method = getattr(host, name) if host in self._servers else self._own(name)
        return method(*args, **options)

    def _call_and_tell(self, name: str, *args: Any, **options: Any) -> Any:
        result = self._own(name)(*args, **options)
        for server in self._servers:
            server.note_changes()
        return result

    def _call_each(self, name: str, *args: Any) -> Any:
        return _JOINED[name]([getattr(each, name)(*args) for each in self._servers])


class _ThreadsCluster(Cluster):
    """The cluster as the node of the caller's thread knows it."""

    def __init__(self, front: Server, workers: ThreadWorkers) -> None:
        self._workers = workers
        super().__init__(front)

    @property
    def _run(self) -> ControlRun | None:
        here = self._workers.here()
        return self._alone if here is None else here.cluster._run

    @_run.setter
    def _run(self, run: ControlRun | None) -> None:
        self._alone = run

    @property
    def _has_engine(self) -> bool:
        return self._workers.apply or self._engine_alone

    @_has_engine.setter
    def _has_engine(self, has_engine: bool) -> None:
        self._engine_alone = has_engine
