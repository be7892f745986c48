"""`Eager`: coroutines of callbacks begin at once; a task is needed if they wait.

Most of them never wait, and a task for each would cost two turns of the asyncio loop.
So a coroutine begins within a spare task: `current_task`, `asyncio.timeout` and task
groups need one. If it waits, that task goes on with it. Afterwards the task is spare
again, unless somebody holds a reference to it, or has cancelled it.

`_enter_task` and its kin are for those who make tasks: "Extending" in the documentation
of asyncio.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task, _register_task, _unregister_task
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from functools import partial
from sys import getrefcount
from typing import Any
from weakref import getweakrefcount

from ..loop.deferred import Begun, DeferredCancelled

__all__ = ["Eager"]

#: Spare tasks that are kept; each takes about 1 KiB.
_MAX_SPARE = 64
#: They end the program.
_FATAL = (KeyboardInterrupt, SystemExit)


class Eager:
    """See the head of the module.

    Args:
        loop: which is awaited in.
        context: of which each coroutine gets a copy.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Context) -> None:
        self._loop, self._context = loop, context
        self._spare: list[_Runner] = []
        self._closed = False

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine as far as it does not wait.

        Returns:
            Its result, if it has ended; otherwise what is to be awaited: `Begun`, or
            the coroutine, which has not begun then.

        Raises:
            Exception: What the coroutine raises.
            DeferredCancelled: It was cancelled.
        """
        if not self._spare:
            _Runner(self._loop, self._keep)  # for the next one
            return coroutine
        runner = self._spare.pop()
        task, loop = runner.task, self._loop
        references: tuple[int, int] | None = _references(runner)
        try:
            _enter_task(loop, task)
        except RuntimeError:  # another task runs: this is called by it
            self._spare.append(runner)
            return coroutine
        context = self._context.copy()
        try:
            waits_for = context.run(coroutine.send, None)
        except StopIteration as end:
            return end.value
        except asyncio.CancelledError:
            raise DeferredCancelled("cancelled") from None
        else:
            begun = Begun(task)
            runner.take_over(begun, coroutine, context, waits_for)
            references = None
            return begun
        finally:
            _leave_task(loop, task)
            if references is not None:
                self._put_back(runner, _references(runner) == references)

    def _put_back(self, runner: _Runner, unseen: bool) -> None:
        if unseen and not runner.task.cancelling() and not self._closed:
            self._spare.append(runner)
        else:
            runner.end()

    def _keep(self, runner: _Runner) -> None:
        """A runner waits for a coroutine, for the first time or again."""
        references = _references(runner)
        if runner.references is None:
            runner.references = references
        few = len(self._spare) < _MAX_SPARE
        self._put_back(runner, few and runner.references == references)

    def close(self) -> None:
        """Nothing more is to begin."""
        self._closed = True
        spare, self._spare = self._spare, []
        for runner in spare:
            runner.end()


def _references(runner: _Runner) -> tuple[int, int]:
    """How many references to its task there are, strong and weak.

    From CPython 3.14 on, some calls borrow what they are given from a variable of the
    caller, and others count a reference. So the task is no argument: it is read here.
    """
    task = runner.task
    return getrefcount(task), getweakrefcount(task)


class _Runner:
    """A task that goes on with coroutines; nobody sees it while it waits for one.

    Args:
        loop: of the task.
        keep: called, outside of the task, when it waits for a coroutine.

    Attributes:
        references: to the task, as `keep` saw them the first time.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, keep: Callable[[_Runner], object]
    ) -> None:
        self._loop, self._keep = loop, keep
        self._ready: asyncio.Future[None] = loop.create_future()
        self._begun: Begun | None = None
        self.references: tuple[int, int] | None = None
        self.task = loop.create_task(self._run())
        self._show(False)
        loop.call_soon(keep, self)

    def _show(self, shown: bool) -> None:
        """Whether `all_tasks` has it, and the loop complains if it is forgotten."""
        (_register_task if shown else _unregister_task)(self.task)
        self.task._log_destroy_pending = shown  # type: ignore[attr-defined]

    def take_over(
        self,
        begun: Begun,
        coroutine: Coroutine[Any, Any, Any],
        context: Context,
        waits_for: Any,
    ) -> None:
        """Go on with a coroutine that has begun."""
        self._begun = begun
        self._coroutine, self._context, self._waits_for = coroutine, context, waits_for
        self._show(True)
        self._wake()

    def end(self) -> None:
        """It gets no more coroutines."""
        if not self._loop.is_closed():
            self._wake()

    def _wake(self) -> None:
        if not self._ready.done():  # otherwise it was cancelled
            self._ready.set_result(None)

    async def _run(self) -> None:
        while await _Awaitable(self._run_one()):
            pass

    def _run_one(self) -> Generator[Any, Any, bool]:
        """Wait for a coroutine, and go on with it; return whether to do so again."""
        cancelled: BaseException | None = None
        try:
            yield from self._ready
        except asyncio.CancelledError as error:
            cancelled = error
        begun, self._begun = self._begun, None
        if begun is None:
            return False
        value, failure = yield from self._drive(cancelled)
        begun.task = None
        self._show(False)
        over = self.task.cancelling() or isinstance(failure, _FATAL)
        if not over:
            self._ready = self._loop.create_future()
            self._loop.call_soon(self._keep, self)
        self._tell(begun, value, failure)
        if isinstance(failure, _FATAL):
            raise failure
        return not over

    def _tell(self, begun: Begun, value: Any, failure: BaseException | None) -> None:
        """Tell the outcome, outside of the task: another coroutine may begin."""
        _leave_task(self._loop, self.task)
        try:
            begun.tell(value, _told(failure))
        finally:
            _enter_task(self._loop, self.task)

    def _drive(
        self, error: BaseException | None
    ) -> Generator[Any, Any, tuple[Any, BaseException | None]]:
        """Go on with the coroutine to its end, as a task does; return the outcome."""
        coroutine, run, waits_for = self._coroutine, self._context.run, self._waits_for
        del self._coroutine, self._context, self._waits_for
        # It has waited for a turn of the loop already, but not for a future.
        waits, value = waits_for is not None, None
        if error is not None and asyncio.isfuture(waits_for) and waits_for.cancel():
            error = None  # it comes from the future, as after `Task.cancel`
        try:
            while True:
                if waits and error is None:
                    try:
                        value = yield waits_for
                    except GeneratorExit:
                        coroutine.close()
                        raise
                    except BaseException as caught:
                        error = caught
                if error is None:
                    waits_for = run(coroutine.send, value)
                else:
                    given, error = error, None
                    waits_for = run(partial(coroutine.throw, given))
                waits = True
        except StopIteration as end:
            return end.value, None
        except GeneratorExit:
            raise
        except BaseException as caught:
            return None, caught


class _Awaitable:
    """Makes a generator awaitable."""

    __slots__ = ("_generator",)

    def __init__(self, generator: Generator[Any, Any, bool]) -> None:
        self._generator = generator

    def __await__(self) -> Generator[Any, Any, bool]:
        return self._generator


def _told(error: BaseException | None) -> BaseException | None:
    """An error, as those are told of it who wait for a deferred result."""
    if error is None or isinstance(error, Exception):
        return error
    if isinstance(error, asyncio.CancelledError):
        return DeferredCancelled("cancelled")
    return DeferredCancelled(repr(error))
