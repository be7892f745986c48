"""What callbacks return that is not done yet: coroutines, and calls for a thread.

Here is how such a thing is recognised. Who brings it about, and in which order, is left
to `handlers.pending`; the threads are in `workers`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Sequence
from typing import Any, ParamSpec

__all__ = [
    "InThread",
    "Steps",
    "check_callback",
    "check_not_late",
    "discard",
    "ends_later",
    "go_through",
    "in_thread",
    "is_async",
    "is_late",
    "name_of",
]

P = ParamSpec("P")

#: What callbacks return nearly always: looked up, where `isawaitable` takes 1 µs.
_PLAIN = frozenset({type(None), str, bytes, dict, list, bool, int, float})
_MARK = "_simple_ws_in_thread"


class InThread:
    """A call that is to happen in a worker thread; what `in_thread` functions return.

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
                return database.store(msg)    # nobody else waits meanwhile

    Use it for callbacks of handlers and middleware (except `on_send` and
    `select_subprotocol`), functions of `Server.route` and `Server.http`, and timers.
    The return value means the same as in any callback. The callbacks of one client run
    one after the other, in the order of the events, even if only some of them run in
    threads; while one runs, at most 16 more events wait, then the server stops reading
    from this client.

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
    def later(*args: P.args, **kwargs: P.kwargs) -> Any:
        return InThread(functools.partial(function, *args, **kwargs))

    setattr(later, _MARK, True)
    return later


def is_async(function: Any) -> bool:
    """Whether calling it makes a coroutine, as far as can be told beforehand."""
    while isinstance(function, functools.partial):
        function = function.func
    # Of an object that is called like a function, what its class says.
    called = getattr(type(function), "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def ends_later(function: Any) -> bool:
    """Whether what it returns is not done yet, as far as can be told beforehand."""
    while isinstance(function, functools.partial):
        function = function.func
    return is_async(function) or getattr(function, _MARK, False) is True


def is_late(result: object) -> bool:
    """Whether this is not a result, but will have one."""
    return type(result) not in _PLAIN and (
        isinstance(result, InThread | Steps) or inspect.isawaitable(result)
    )


def name_of(function: object) -> str:
    """What logs call a function."""
    return getattr(function, "__name__", None) or repr(function)


def check_callback(what: str, function: object, handed: Sequence[str]) -> None:
    """Refuse what cannot be called with so many arguments.

    Raises:
        TypeError: It is no function, or has another signature.
    """
    wanted = f"{what} must be a function of ({', '.join(handed)})"
    if not callable(function):
        raise TypeError(f"{wanted}, not {function!r}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # of some functions in C nothing is known
        return
    try:
        signature.bind(*handed)
    except TypeError:
        raise TypeError(f"{wanted}, not of {signature}") from None


def check_not_late(what: str, function: object) -> None:
    """Refuse what is not done when it returns.

    Raises:
        TypeError: It is async, or `in_thread`.
    """
    if ends_later(function):
        raise TypeError(f"{what} must not be async nor in_thread: nobody waits for it")


def discard(late: object) -> None:
    """Give up what was not begun; otherwise Python warns that it was forgotten."""
    if isinstance(late, Steps) or inspect.iscoroutine(late):
        late.close()


class Steps:
    """A generator that goes on when what it yielded is done; see `go_through`.

    Attributes:
        waits_for: that, which `is_late`.
    """

    __slots__ = ("_generator", "waits_for")

    def __init__(self, generator: Generator[Any, Any, Any], waits_for: Any) -> None:
        self.waits_for = waits_for
        self._generator = generator

    def go_on(self, value: object, error: BaseException | None) -> Any:
        """Hand in what it waits for; what it comes to, perhaps late again."""
        if error is not None:
            return _go_through(self._generator, self._generator.throw, error)
        return _go_through(self._generator, self._generator.send, value)

    def close(self) -> None:
        """It will not go on."""
        discard(self.waits_for)
        self._generator.close()


def go_through(generator: Generator[Any, Any, Any]) -> Any:
    """Run a generator that yields what callbacks return and is sent what it comes to.

    Returns:
        What it returns; if something that it yields is late, `Steps`.
    """
    return _go_through(generator, generator.send, None)


def _go_through(
    generator: Generator[Any, Any, Any], resume: Callable[[Any], Any], value: object
) -> Any:
    try:
        while True:
            value = resume(value)
            if is_late(value):
                return Steps(generator, value)
            resume = generator.send
    except StopIteration as end:
        return end.value
