"""Callbacks that take their time: `async def` ones, and those of worker threads.

`Errands` runs what callbacks return and is not done yet (`deferred`). `Awaited` takes a
handler's place and keeps the order of the events for each client; `LateChain` is to
several middlewares what `middleware.Chain` is where everything is done at once.
Turning inside an asyncio loop is left to `loop.asyncio_bridge`.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextvars import copy_context
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any

from ..connection.client import Client
from ..constants import CloseCause, SendStatus
from ..errors import InvalidState
from ..loop.deferred import InThread, Steps, discard, go_through, is_late
from ..loop.reactor import Reactor
from ..loop.workers import Call, Pool
from ..protocol.http11 import Request, Response
from .middleware import Chain, Middleware

if TYPE_CHECKING:
    import asyncio

__all__ = ["Awaited", "Errand", "Errands", "LateChain", "TooMany"]

logger = logging.getLogger("simple_ws")

#: Events of one client that wait for a callback before nothing more is read of it.
#: What has been read already may bring up to 7 more (`_fallback.connection`).
_ENOUGH = 8
#: The same in bytes of messages: beside those 7, one beyond it at most.
_ENOUGH_BYTES = 64 * 1024
#: Calls that wait for a worker thread, but for callbacks of clients: of those there is
#: one a client.
_MAX_CALLS = 1000

#: Called in the loop's thread with what something has come to: a value, or an error.
Done = Callable[[Any, BaseException | None], object]


class GivenUp(BaseException):
    """A callback was cancelled, or meant to end the program."""


class TooMany(InvalidState):
    """More calls wait for a worker thread than are taken."""


class Errand:
    """Something under way that ends later; `Errands.begin` makes it."""

    __slots__ = ("_give_up", "_then")

    def __init__(self, then: Done) -> None:
        self._then = then
        self._give_up: Callable[[], object] = _nothing

    def cancel(self) -> None:
        """Give it up, as far as that can be done.

        A coroutine is cancelled, a call that waits for a thread does not happen, one
        that runs goes on. `done` is called in any case.
        """
        self._give_up()


class Errands:
    """Everything that callbacks of a server have begun and that ends later.

    Args:
        reactor: of the loop's thread, in which everything but the work is done.
        threads: worker threads at most.

    Attributes:
        lines: of each client that waits for something, what that is and what is next.
        closing: the server ends: of clients, nothing but `on_close` is begun any more.
        on_idle: called when nothing is under way any more.
    """

    def __init__(self, reactor: Reactor, threads: int) -> None:
        self.lines: dict[Client, Line] = {}
        self.closing = False
        self.on_idle: Callable[[], object] = _nothing
        self._reactor = reactor
        self._under_way: set[Errand] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context = copy_context()
        self._pool = Pool("simple_ws worker", threads, _MAX_CALLS, self._on_idle_pool)

    @property
    def busy(self) -> bool:
        """Whether something is under way that the end of the server waits for."""
        return bool(self._under_way) or (not self.closing and self._pool.busy)

    def await_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """Await coroutines in this asyncio loop from now on."""
        self._loop = loop
        # Each task has a copy: what one callback sets is nothing to the next.
        self._context = copy_context()

    def begin(self, late: Any, done: Done, *, limited: bool = False) -> Errand:
        """Bring something about.

        Args:
            late: which `loop.deferred.is_late`.
            done: called in the loop's thread when it has ended, not before this
                returns; with an `Exception` or `GivenUp` if it did not end well.
            limited: there may be many of this kind.

        Raises:
            InvalidState: It is to be awaited, and there is no asyncio loop.
            TooMany: It is `limited`, and too many wait.
        """
        errand = Errand(done)
        try:
            self._start(errand, late, partial(self._finish, errand), limited)
        except BaseException:
            discard(late)
            raise
        self._under_way.add(errand)
        return errand

    def run_in_thread(self, function: Callable[[], Any]) -> Call[Any]:
        """Call a function in a worker thread; from any thread.

        Raises:
            TooMany: Too many wait.
        """
        call = Call(function)
        if not self._pool.submit(call):
            raise TooMany(f"{_MAX_CALLS:,} calls wait for a thread already")
        return call

    def is_worker(self) -> bool:
        """Whether the caller runs in one of the threads."""
        return self._pool.is_worker()

    def wind_up(self) -> None:
        """Cancel what is under way, but what clients are told of their end."""
        self.closing = True
        told = {line.errand for line in self.lines.values() if line.kind is Kind.CLOSE}
        for errand in self._under_way - told:
            errand.cancel()
        for job in self._pool.withdraw():
            if isinstance(job, Call):
                job.cancel()
            else:
                self._pool.submit(job, limited=False)

    def end(self) -> None:
        """Wait for nothing any more; who was not told of an end is told now."""
        self.wind_up()
        late, self._under_way = self._under_way, set()
        lines, self.lines = self.lines, {}
        if late:
            logger.warning("%d callbacks did not end in time", len(late))
        for errand in late:
            errand.cancel()
        for line in lines.values():
            for kind, _, function, args in line.waiting:
                if kind is Kind.CLOSE:
                    self._tell_of_end(line.client, partial(function, *args))
        self._pool.end()

    def _tell_of_end(self, client: Client, on_close: Callable[[], Any]) -> None:
        try:
            result = on_close()
            if is_late(result):
                self.begin(result, _nothing)
        except Exception as error:
            client._on_callback_error(error)

    def _start(self, errand: Errand, late: Any, then: Done, limited: bool) -> None:
        if isinstance(late, Steps):
            go_on = partial(self._go_on, errand, late, then)
            self._start(errand, late.waits_for, go_on, limited)
        elif isinstance(late, InThread):
            job = _Job(late.call, then, self._reactor)
            errand._give_up = job.cancel
            if not self._pool.submit(job, limited=limited):
                raise TooMany(f"{_MAX_CALLS:,} calls wait for a thread already")
        else:
            self._await(errand, late, then)

    def _await(self, errand: Errand, late: Any, then: Done) -> None:
        loop = self._loop
        if loop is None or loop.is_closed():
            raise InvalidState(
                f"nobody awaits {late!r}: use `await server.serve_async()` or "
                "`server.attach(loop)`"
            )
        coroutine = late if inspect.iscoroutine(late) else _wait_for(late)
        task = loop.create_task(coroutine, context=self._context.copy())
        errand._give_up = partial(_cancel, task)
        task.add_done_callback(partial(_on_task_done, then))

    def _go_on(
        self,
        errand: Errand,
        steps: Steps,
        then: Done,
        value: Any,
        error: BaseException | None,
    ) -> None:
        try:
            result = steps.go_on(value, error)
            if is_late(result):
                self._start(errand, result, then, limited=False)
                return
        except (Exception, GivenUp) as caught:
            then(None, caught)
        else:
            then(result, None)

    def _finish(self, errand: Errand, value: Any, error: BaseException | None) -> None:
        if errand in self._under_way:
            self._under_way.discard(errand)
            errand._then(value, error)
            if not self._under_way:
                self.on_idle()

    def _on_idle_pool(self) -> None:
        self._reactor.call_threadsafe(self.on_idle)


def _cancel(task: asyncio.Task[Any]) -> None:
    if not task.get_loop().is_closed():  # otherwise it is beyond that
        task.cancel()


async def _wait_for(late: Any) -> Any:
    return await late


def _on_task_done(then: Done, task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if task.cancelled():
        then(None, GivenUp("cancelled"))
    elif error is not None:
        then(None, error if isinstance(error, Exception) else GivenUp(repr(error)))
    else:
        then(task.result(), None)


class _Job:
    """A call in a worker, whose result is wanted in the loop's thread."""

    def __init__(self, call: Callable[[], Any], then: Done, reactor: Reactor) -> None:
        self._call: Callable[[], Any] | None = call
        self._then = then
        self._reactor = reactor

    def cancel(self) -> None:
        """Do nothing, if it has not begun."""
        self._call = None

    def run(self) -> None:
        """Call it; see `workers.Job`."""
        call, self._call = self._call, None
        value, error = None, None
        try:
            if call is None:
                raise GivenUp("cancelled")
            value = call()
        except (Exception, GivenUp) as caught:
            error = caught
        except BaseException as caught:  # meant to end a program, which others serve
            error = GivenUp(repr(caught))
        self._reactor.call_threadsafe(partial(self._then, value, error))
        # The traceback of the error knows this frame: no circle.
        error = None


class Kind(Enum):
    """What waits in a line."""

    MESSAGE = auto()
    CLOSE = auto()
    #: What `on_error` has begun.
    ERROR = auto()
    OTHER = auto()


class Line:
    """What one client waits for, and what is next.

    Attributes:
        kind, errand: of the callback that is under way.
        waiting: events that came later: kind, bytes of the message, callback and its
            arguments.
        size: bytes of all that waits.
    """

    __slots__ = ("client", "errand", "kind", "size", "waiting")

    waiting: deque[tuple[Kind, int, Callable[..., Any], tuple[Any, ...]]]

    def __init__(self, client: Client) -> None:
        self.client = client
        self.kind = Kind.OTHER
        self.errand: Errand | None = None
        self.size = 0
        self.waiting = deque()

    def add(self, kind: Kind, function: Callable[..., Any], args: Any) -> None:
        """Put an event behind the others; enough of them, and reading ceases."""
        size = len(args[0]) if kind is Kind.MESSAGE else 0
        self.waiting.append((kind, size, function, args))
        self.size += size
        enough = len(self.waiting) >= _ENOUGH or self.size > _ENOUGH_BYTES
        # Whoever is closing is heard: what comes is thrown away.
        if enough and self.client.is_open() and not self.client._held:
            self.client._hold(True)

    def add_next(self, kind: Kind, late: Any) -> None:
        """Put what was begun already before the others."""
        self.waiting.appendleft((kind, 0, _the_same, (late,)))

    def take(self) -> tuple[Kind, Callable[..., Any], tuple[Any, ...]]:
        """The next event; few enough left, and reading goes on."""
        kind, size, function, args = self.waiting.popleft()
        self.size -= size
        few = len(self.waiting) <= _ENOUGH // 2 and self.size <= _ENOUGH_BYTES // 2
        if few and self.client._held:
            self.client._hold(False)
        return kind, function, args


class Awaited:
    """A handler, or a chain before one, whose callbacks may end later.

    For each client they run one after the other, in the order of the events. While one
    is under way, later events of this client wait; beyond a few, nothing more is read
    of it. A message that waits is dropped when a callback ends the connection, as it
    is where nothing waits: what has been read is handled before the next callback.

    Args:
        mount: what would stand here otherwise.
        errands: of the server.
    """

    def __init__(self, mount: Any, errands: Errands) -> None:
        self._mount = mount
        self._errands = errands
        self.message_callback = self.on_message

    def __getattr__(self, name: str) -> Any:
        if name == "_mount":
            raise AttributeError(name)
        return getattr(self._mount, name)

    def on_open(self, client: Client) -> None:
        """See `WebSocket.on_open`; likewise below."""
        self._do(client, Kind.OTHER, self._mount.on_open, client)

    def on_message(self, msg: Any, client: Client) -> Any:
        """The answer, when it is there at once."""
        return self._do(client, Kind.MESSAGE, self._hear, msg, client)

    def on_ping(self, client: Client) -> None:
        """A ping passed."""
        self._do(client, Kind.OTHER, self._tell_ping, client.ping_payload, client)

    def on_pong(self, client: Client) -> None:
        """A pong came."""
        self._do(client, Kind.OTHER, self._tell_pong, client.pong_payload, client)

    def on_drain(self, client: Client) -> None:
        """All output has left."""
        self._do(client, Kind.OTHER, self._mount.on_drain, client)

    def on_close(self, client: Client) -> None:
        """A connection ended."""
        self._do(client, Kind.CLOSE, self._mount.on_close, client)

    def on_error(self, error: Exception, client: Client) -> None:
        """A callback raised; nothing else of this client happens before it is done."""
        result = self._mount.on_error(error, client)
        if not is_late(result):
            return
        line = self._errands.lines.get(client)
        if line is None:
            self._begin(Line(client), Kind.ERROR, result)
        else:
            line.add_next(Kind.ERROR, result)

    def _hear(self, msg: Any, client: Client) -> Any:
        # It may be replaced while the server runs.
        return self._mount.message_callback(msg, client)

    def _tell_ping(self, payload: bytes, client: Client) -> Any:
        client.ping_payload = payload  # others may have come meanwhile
        return self._mount.on_ping(client)

    def _tell_pong(self, payload: bytes, client: Client) -> Any:
        client.pong_payload = payload
        return self._mount.on_pong(client)

    def _do(
        self, client: Client, kind: Kind, function: Callable[..., Any], *args: Any
    ) -> Any:
        line = self._errands.lines.get(client)
        if line is not None:
            line.add(kind, function, args)
            return None
        result = function(*args)
        if not is_late(result):
            return result
        line = self._errands.lines.get(client)
        if line is None:
            self._begin(Line(client), kind, result)
        else:  # a part of it has failed, and what that has begun comes first
            line.add_next(kind, result)
        return None

    def _begin(self, line: Line, kind: Kind, late: Any) -> None:
        line.errand = self._errands.begin(late, partial(self._settled, line))
        line.kind = kind
        self._errands.lines[line.client] = line

    def _settled(self, line: Line, value: Any, error: BaseException | None) -> None:
        client = line.client
        if error is not None:
            _report(client, line.kind, error)
        elif line.kind is Kind.MESSAGE:
            _answer(client, value)
        self._go_on(line)

    def _go_on(self, line: Line) -> None:
        """Do what waits, up to the next that ends later."""
        client = line.client
        line.kind, line.errand = Kind.OTHER, None
        while line.waiting:
            kind, function, args = line.take()
            if kind is not Kind.CLOSE and self._is_over(client):
                discard(args[0])
                continue
            try:
                result = function(*args)
                if is_late(result):
                    self._begin(line, kind, result)
                    return
            except Exception as error:
                _report(client, kind, error)
            else:
                if kind is Kind.MESSAGE:
                    _answer(client, result)
        self._errands.lines.pop(client, None)

    def _is_over(self, client: Client) -> bool:
        """Whether a callback has ended the connection, or the server ends."""
        return self._errands.closing or client.close_cause in _ENDED_BY_CALLBACK


_ENDED_BY_CALLBACK = (CloseCause.LOCAL, CloseCause.HANDLER_ERROR)


def _answer(client: Client, value: Any) -> None:
    if value is None or type(value) is SendStatus:
        return  # no answer, or the callback has answered, see `ConnectionCore._deliver`
    try:
        client.write_message(value)
    except Exception as error:
        client._on_callback_error(error)


def _report(client: Client, kind: Kind, error: BaseException) -> None:
    """Treat an exception of a callback as that of any other."""
    if not isinstance(error, Exception):
        logger.warning("a callback for %r was given up: %s", client, error)
        client._fail_handler()
    elif kind is Kind.ERROR:
        logger.error("on_error failed for %r", client, exc_info=error)
        client._fail_handler()
    else:
        client._on_callback_error(error)


def _the_same(value: Any) -> Any:
    return value


def _nothing(*args: Any) -> None:
    """There is nobody to tell."""


Steady = Generator[Any, Any, Any]


class LateChain(Chain):
    """A chain of middlewares any of which may take its time."""

    def on_request(self, request: Request) -> object:
        """See `Chain`; likewise below."""
        return go_through(self._ask_all(request))

    def on_open(self, client: Client) -> Any:
        """Tell all."""
        if self._inward:
            self._reached[client] = 0
        return go_through(_tell_all(client, [told.on_open for told in self._all]))

    def on_close(self, client: Client) -> Any:
        """Tell all, the handler first."""
        self._reached.pop(client, None)
        callbacks = [told.on_close for told in reversed(self._all)]
        return go_through(_tell_all(client, callbacks))

    def on_message(self, msg: Any, client: Client) -> object:
        """Hand a message through."""
        return go_through(self._hand_through(msg, client))

    def _ask_all(self, request: Request) -> Steady:
        session = None
        for asked in self._all:
            answer = yield asked.on_request(request)
            if isinstance(answer, Response):
                return answer
            session = session if answer is None else answer
        return session

    def _hand_through(self, msg: Any, client: Client) -> Steady:
        reached = self._reached.get(client)
        for index, middleware in enumerate(self._inward):
            if reached is not None and index >= reached:
                msg = yield middleware.on_first_message(msg, client)
                reached = self._note_reached(client, index + 1)
                if msg is Middleware.STOP:
                    return None
            msg = yield middleware.on_message(msg, client)
            if msg is Middleware.STOP:
                return None
        return self._handler.message_callback(msg, client)


def _tell_all(client: Client, callbacks: Iterable[Callable[[Any], Any]]) -> Steady:
    """Tell one after the other, also if one fails or closes the client."""
    for callback in callbacks:
        try:
            yield callback(client)
        except (Exception, GivenUp) as error:
            _report(client, Kind.OTHER, error)
