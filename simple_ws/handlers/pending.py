"""Pending calls: deferred results that the server runs (`loop.deferred`).

Coroutines run in the asyncio loop that the server is attached to, `in_thread` calls in
worker threads; their outcomes are delivered in the loop's thread. The order of the
events of one client is left to `ordering`, turning inside an asyncio loop to
`loop.asyncio_bridge`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from ..connection.client import Client
from ..errors import InvalidState
from ..loop.deferred import (
    Begun,
    DeferredCancelled,
    InThread,
    Suspended,
    discard,
    is_deferred,
)
from ..loop.reactor import Reactor
from ..loop.workers import Call, Pool

if TYPE_CHECKING:
    import asyncio

    from .eager import Eager

__all__ = ["PendingCall", "PendingCalls", "TooMany", "report_failure"]

logger = logging.getLogger("simple_ws")

#: Calls that may wait for a worker thread. Callbacks of clients are not counted: there
#: is at most one for each client.
_MAX_CALLS = 1000

#: Called in the loop's thread with an outcome: a value, or an error.
Done = Callable[[Any, BaseException | None], object]


class TooMany(InvalidState):
    """Too many calls are waiting for a worker thread."""


class PendingCall:
    """A running deferred result; created by `PendingCalls.run`."""

    __slots__ = ("_cancel", "_then", "essential")

    def __init__(self, then: Done, essential: bool = False) -> None:
        self.essential = essential
        self._then = then
        self._cancel: Callable[[], object] = _nothing

    def cancel(self) -> None:
        """Cancel it as far as possible.

        A coroutine is cancelled, a call waiting for a thread is not made, a running
        call continues. `done` is called in any case.
        """
        self._cancel()


class PendingCalls:
    """All running deferred results of a server's callbacks.

    Args:
        reactor: its thread runs everything except the work itself.
        threads: maximum number of worker threads.

    Attributes:
        closing: the server is ending: of clients only `on_close` is still called.
        on_idle: called when nothing is running any more.
        on_close: called by `close`, for callbacks that are still queued.
    """

    def __init__(self, reactor: Reactor, threads: int) -> None:
        self.closing = False
        self.on_idle: Callable[[], object] = _nothing
        self.on_close: list[Callable[[], object]] = []
        self._reactor = reactor
        self._running: set[PendingCall] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context = copy_context()
        self._eager: Eager | None = None
        self._pool = Pool("simple_ws worker", threads, _MAX_CALLS, self._on_idle_pool)

    @property
    def busy(self) -> bool:
        """Whether anything is running that must finish before the server ends."""
        return bool(self._running) or (not self.closing and self._pool.busy)

    @property
    def in_threads(self) -> bool:
        """Whether worker threads have something to do."""
        return self._pool.busy

    def await_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run coroutines in this asyncio loop from now on."""
        from .eager import Eager  # only when needed: it imports asyncio

        self._loop = loop
        # Each task has a copy, so context variables set by a callback are not shared.
        self._context = copy_context()
        self._eager = Eager(loop, self._context)

    def begin(self, deferred: Any) -> Any:
        """Run a deferred result as far as it does not wait.

        Returns:
            Its result, if it has ended; otherwise what is to be given to `run`.

        Raises:
            Exception, DeferredCancelled: It has failed.
        """
        while isinstance(deferred, Suspended):
            value, error = None, None
            try:
                value = self.begin(deferred.waits_for)
            except (Exception, DeferredCancelled) as caught:
                error = caught
            if is_deferred(value):
                deferred.waits_for = value
                return deferred
            deferred = deferred.resume(value, error)
        eager = self._eager
        if eager is None or type(deferred) is not CoroutineType or not self._awaits():
            return deferred
        return eager.begin(deferred)

    def _awaits(self) -> bool:
        return self._loop is not None and not self._loop.is_closed()

    def run(
        self,
        deferred: Any,
        done: Done,
        *,
        limited: bool = False,
        essential: bool = False,
    ) -> PendingCall:
        """Run a deferred result.

        Args:
            deferred: see `loop.deferred.is_deferred`.
            done: called in the loop's thread when it has ended, not before this
                returns; with an `Exception` or `DeferredCancelled` if it failed.
            limited: whether the number of such calls must be limited.
            essential: `cancel_all` does not cancel it.

        Raises:
            InvalidState: It must be awaited, and there is no asyncio loop.
            TooMany: It is `limited`, and too many are waiting.
        """
        call = PendingCall(done, essential)
        try:
            self._start(call, deferred, partial(self._finish, call), limited)
        except BaseException:
            discard(deferred)
            raise
        self._running.add(call)
        return call

    def future_of(self, deferred: Any) -> asyncio.Future[Any]:
        """Run a deferred result; its outcome, for a coroutine that awaits it."""
        assert self._loop is not None
        future: asyncio.Future[Any] = self._loop.create_future()
        call = self.run(deferred, partial(_settle, future))
        future.add_done_callback(partial(_cancel_with, call))
        return future

    def run_in_thread(self, function: Callable[[], Any]) -> Call[Any]:
        """Call a function in a worker thread; from any thread.

        Raises:
            TooMany: Too many are waiting.
        """
        call = Call(function)
        if not self._pool.submit(call):
            raise TooMany(f"{_MAX_CALLS:,} calls are waiting for a thread already")
        return call

    def is_worker(self) -> bool:
        """Whether the caller runs in one of the threads."""
        return self._pool.is_worker()

    def cancel_all(self) -> None:
        """Cancel all running results, except essential ones."""
        self.closing = True
        for call in [call for call in self._running if not call.essential]:
            call.cancel()
        for item in self._pool.withdraw():
            if isinstance(item, Call):
                item.cancel()
            else:
                self._pool.submit(item, limited=False)

    def close(self) -> None:
        """Stop waiting for results; `on_close` callbacks are still called."""
        self.cancel_all()
        running, self._running = self._running, set()
        if running:
            logger.warning("%d callbacks did not finish in time", len(running))
        for call in running:
            call.cancel()
        for callback in self.on_close:
            callback()
        self._pool.end()
        if self._eager is not None:
            self._eager.close()

    def _start(
        self, call: PendingCall, deferred: Any, then: Done, limited: bool
    ) -> None:
        if isinstance(deferred, Suspended):
            resume = partial(self._resume, call, deferred, then)
            self._start(call, deferred.waits_for, resume, limited)
        elif isinstance(deferred, InThread):
            item = _ThreadCall(deferred.call, then, self._reactor)
            call._cancel = item.cancel
            if not self._pool.submit(item, limited=limited):
                raise TooMany(f"{_MAX_CALLS:,} calls are waiting for a thread already")
        elif isinstance(deferred, Begun):
            deferred.then = then
            call._cancel = deferred.cancel
        else:
            self._await(call, deferred, then)

    def _await(self, call: PendingCall, deferred: Any, then: Done) -> None:
        loop = self._loop
        if loop is None or loop.is_closed():
            raise InvalidState(
                f"nothing awaits {deferred!r}: use `await server.serve_async()` or "
                "`server.attach(loop)`"
            )
        is_coroutine = isinstance(deferred, CoroutineType)
        coroutine = deferred if is_coroutine else _wait_for(deferred)
        task = loop.create_task(coroutine, context=self._context.copy())
        call._cancel = partial(_cancel, task)
        task.add_done_callback(partial(_on_task_done, then))

    def _resume(
        self,
        call: PendingCall,
        suspended: Suspended,
        then: Done,
        value: Any,
        error: BaseException | None,
    ) -> None:
        try:
            result = suspended.resume(value, error)
            if is_deferred(result):
                self._start(call, result, then, limited=False)
                return
        except (Exception, DeferredCancelled) as caught:
            then(None, caught)
        else:
            then(result, None)

    def _finish(
        self, call: PendingCall, value: Any, error: BaseException | None
    ) -> None:
        if call in self._running:
            self._running.discard(call)
            try:
                call._then(value, error)
            finally:
                if not self._running:
                    self.on_idle()

    def _on_idle_pool(self) -> None:
        self._reactor.call_threadsafe(self.on_idle)


def _settle(
    future: asyncio.Future[Any], value: Any, error: BaseException | None
) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    elif isinstance(error, Exception):
        future.set_exception(error)
    else:
        future.cancel()


def _cancel_with(call: PendingCall, future: asyncio.Future[Any]) -> None:
    if future.cancelled():
        call.cancel()


def _cancel(task: asyncio.Task[Any]) -> None:
    if not task.get_loop().is_closed():  # otherwise it cannot be cancelled any more
        task.cancel()


async def _wait_for(deferred: Any) -> Any:
    return await deferred


def _on_task_done(then: Done, task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if task.cancelled():
        then(None, DeferredCancelled("cancelled"))
    elif error is not None:
        then(
            None,
            error if isinstance(error, Exception) else DeferredCancelled(repr(error)),
        )
    else:
        then(task.result(), None)


class _ThreadCall:
    """A call in a worker thread whose result is delivered in the loop's thread."""

    def __init__(self, call: Callable[[], Any], then: Done, reactor: Reactor) -> None:
        self._call: Callable[[], Any] | None = call
        self._then = then
        self._reactor = reactor

    def cancel(self) -> None:
        """Prevent the call, if it has not started."""
        self._call = None

    def run(self) -> None:
        """Call it; see `workers.WorkItem`."""
        call, self._call = self._call, None
        value, error = None, None
        try:
            if call is None:
                raise DeferredCancelled("cancelled")
            value = call()
        except (Exception, DeferredCancelled) as caught:
            error = caught
        except BaseException as caught:  # it would end the program, which serves others
            error = DeferredCancelled(repr(caught))
        self._reactor.call_threadsafe(partial(self._then, value, error))
        # The traceback of the error refers to this frame: avoid a cycle.
        error = None


def report_failure(client: Client, error: BaseException) -> None:
    """Handle an error of a deferred callback like that of any other callback."""
    if isinstance(error, Exception):
        client._on_callback_error(error)
    else:
        kind = f"callbacks of {client._handler._log_name} were cancelled"
        if client._host._log.may_say(kind, logging.WARNING):
            logger.warning("a callback for %r was cancelled: %s", client, error)
        client._fail_handler()


def _nothing(*args: Any) -> None:
    """Do nothing."""
