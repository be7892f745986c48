"""Deferred results: what callbacks return when their work is not done yet.

A deferred result is a coroutine or another awaitable, a call for a worker thread
(`in_thread`), or internal code that waits for one of these (`Suspended`). This module
recognises them and resumes the code that waits. Running them is left to
`handlers.pending`, the order for each client to `handlers.ordering`; the threads are in
`workers`.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator, Sequence
from types import CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeAlias

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "PLAIN",
    "Begun",
    "DeferredCancelled",
    "InThread",
    "Steps",
    "Suspended",
    "Then",
    "Trampoline",
    "check_callback",
    "check_not_deferred",
    "discard",
    "in_thread",
    "is_async",
    "is_deferred",
    "name_of",
    "returns_deferred",
    "run_steps",
    "takes",
]

P = ParamSpec("P")

#: A generator that `run_steps` drives.
Steps: TypeAlias = Generator[Any, Any, Any]

#: Types that callbacks nearly always return, none of them deferred. A set look-up is
#: fast; `isawaitable` takes 1 µs.
PLAIN: Final = frozenset({type(None), str, bytes, dict, list, bool, int, float})
_MARK = "_simple_ws_in_thread"


class DeferredCancelled(BaseException):
    """A deferred result was cancelled, or raised an exception that ends programs."""


class InThread:
    """A call to run in a worker thread; `in_thread` functions return it.

    Args:
        call: the function, with its arguments.
    """

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call

    def __repr__(self) -> str:
        return f"<InThread {self.call!r}>"


def in_thread(function: Callable[P, Any]) -> Callable[P, Any]:
    """Decorator: run a callback in a worker thread, so that it may block.

        class Archive(WebSocket):
            @in_thread
            def on_message(self, msg, client):
                return database.store(msg)    # the loop serves others meanwhile

    Use it for callbacks of handlers and middleware (except `on_send` and
    `select_subprotocol`), functions of `Server.route` and `Server.http`, and timers.
    The return value means the same as in any callback. The callbacks of one client run
    one after the other, in the order of the events, even if only some of them run in
    threads. Once 8 events or 64 KiB of messages wait for the one that runs, the server
    stops reading from this client; up to 7 events that it has read already are added.

    Calling the decorated function does not run it: it returns an object that the server
    runs when a callback returns it.

    Raises:
        TypeError: Not a function, or an `async def`, which needs no thread.
    """
    if not callable(function):
        raise TypeError(f"in_thread is for functions, not {function!r}")
    if is_async(function):
        raise TypeError(f"in_thread is not for async functions such as {function!r}")

    @functools.wraps(function)
    def deferred(*args: P.args, **kwargs: P.kwargs) -> Any:
        return InThread(functools.partial(function, *args, **kwargs))

    setattr(deferred, _MARK, True)
    return deferred


def is_async(function: Any) -> bool:
    """Whether calling it returns a coroutine, as far as can be seen without a call."""
    import inspect  # only when needed: it takes 5 ms

    while isinstance(function, functools.partial):
        function = function.func
    # For a callable object, its class decides.
    called = getattr(type(function), "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def returns_deferred(function: Any) -> bool:
    """Whether it returns deferred results, as far as can be seen without a call."""
    while isinstance(function, functools.partial):
        function = function.func
    return is_async(function) or getattr(function, _MARK, False) is True


def is_deferred(result: object) -> bool:
    """Whether a result is deferred: it must be run, and its own result comes later."""
    return type(result) not in PLAIN and (
        type(result) is CoroutineType
        or isinstance(result, InThread | Suspended | Begun | Awaitable)
        or (type(result) is GeneratorType and _is_awaitable(result))
    )


def _is_awaitable(generator: object) -> bool:
    """Whether a generator is a coroutine of the older form (`types.coroutine`)."""
    import inspect  # only when needed

    return inspect.isawaitable(generator)


def name_of(function: object) -> str:
    """The name of a function in logs."""
    return getattr(function, "__name__", None) or repr(function)


def takes(function: object, handed: Sequence[str]) -> bool:
    """Whether a function can be called with these arguments, as far as can be seen."""
    import inspect  # only when needed

    try:
        inspect.signature(function).bind(*handed)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def check_callback(what: str, function: object, handed: Sequence[str]) -> None:
    """Refuse an object that cannot be called with these arguments.

    Raises:
        TypeError: Not a function, or one with another signature.
    """
    wanted = f"{what} must be a function of ({', '.join(handed)})"
    if not callable(function):
        raise TypeError(f"{wanted}, not {function!r}")
    import inspect  # only when needed

    try:
        signature = inspect.signature(function)
    except ValueError:  # the signature of some C functions is unknown
        return
    try:
        signature.bind(*handed)
    except TypeError:
        raise TypeError(f"{wanted}, not of {signature}") from None


def check_not_deferred(what: str, function: object) -> None:
    """Refuse async and in-thread functions.

    Raises:
        TypeError: It is async or `in_thread`.
    """
    if returns_deferred(function):
        raise TypeError(f"{what} must not be async or in_thread: nothing awaits it")


def discard(deferred: object) -> None:
    """Drop a deferred result that was not run; otherwise Python warns about it."""
    if isinstance(deferred, Suspended | CoroutineType):
        deferred.close()


class Begun:
    """A coroutine that has begun, and waits for something.

    Attributes:
        task: in which it goes on; None once it has ended, or if it cannot be cancelled.
        then: called with its value or its error, outside of the task.
    """

    __slots__ = ("task", "then")

    def __init__(self, task: asyncio.Task[Any] | None = None) -> None:
        self.task = task
        self.then: Callable[[Any, BaseException | None], object] = _nothing

    def tell(self, value: Any, error: BaseException | None) -> None:
        """It has ended: tell the outcome, and let go of who waits."""
        then, self.then = self.then, _nothing
        then(value, error)

    def cancel(self) -> None:
        """Cancel it, unless it has ended."""
        task = self.task
        if task is not None and not task.get_loop().is_closed():
            task.cancel()


class Suspended(ABC):
    """Internal code that stopped at a deferred result and continues with its outcome.

    Attributes:
        waits_for: the deferred result.
    """

    __slots__ = ("waits_for",)

    def __init__(self, waits_for: Any) -> None:
        self.waits_for = waits_for

    @abstractmethod
    def resume(self, value: Any, error: BaseException | None) -> Any:
        """Continue with the outcome of `waits_for`; the result may be deferred again.

        Raises:
            BaseException: What the code raises; `error` if it does not handle it.
        """

    def close(self) -> None:
        """Clean up: it will not be resumed."""
        discard(self.waits_for)


class Then(Suspended):
    """A function that is called with the outcome of a deferred result.

    Args:
        waits_for: the deferred result.
        function: called with its outcome; not if that is an error.
    """

    __slots__ = ("_function",)

    def __init__(self, waits_for: Any, function: Callable[[Any], Any]) -> None:
        super().__init__(waits_for)
        self._function = function

    def resume(self, value: Any, error: BaseException | None) -> Any:
        """See `Suspended`."""
        if error is not None:
            raise error
        return self._function(value)


class Trampoline(Suspended):
    """A generator that stopped because it yielded a deferred value."""

    __slots__ = ("_generator",)

    def __init__(self, waits_for: Any, generator: Steps) -> None:
        super().__init__(waits_for)
        self._generator = generator

    def resume(self, value: Any, error: BaseException | None) -> Any:
        """See `Suspended`."""
        if error is not None:
            return _run_steps(self._generator, self._generator.throw, error)
        return _run_steps(self._generator, self._generator.send, value)

    def close(self) -> None:
        """See `Suspended`."""
        super().close()
        self._generator.close()


def run_steps(generator: Steps) -> Any:
    """Drive a generator: each value it yields is resolved and sent back.

    Returns:
        The generator's return value, or a `Trampoline` if it yielded a deferred value.
    """
    return _run_steps(generator, generator.send, None)


def _run_steps(generator: Steps, resume: Callable[[Any], Any], value: object) -> Any:
    try:
        while True:
            value = resume(value)
            if is_deferred(value):
                return Trampoline(value, generator)
            resume = generator.send
    except StopIteration as end:
        return end.value


def _nothing(*args: Any) -> None:
    """Do nothing."""
