"""`Around`: middlewares that stand around all that is done for one event.

`Middleware.around` is called with a `Call` that does the rest: the `around` of the
next middleware, or what `chain` calls in order. A coroutine awaits that in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Union

from ..connection.client import Client
from ..loop.deferred import (
    Begun,
    InThread,
    Suspended,
    Then,
    discard,
    is_async,
    is_deferred,
)
from ..protocol.request import Request
from .middleware import Call, Middleware, overrides
from .wrapper import Wrapper

if TYPE_CHECKING:
    from .handler import BaseHandler
    from .pending import PendingCalls

__all__ = ["Around", "surrounded"]


class _AwaitedCall(Call):
    """The same for a coroutine: what it returns is awaited."""

    __slots__ = ("_pending",)

    def __init__(self, pending: PendingCalls, *args: Any) -> None:
        super().__init__(*args)
        self._pending = pending

    def __call__(self) -> Any:
        return _Awaiting(self, self._run)


class _Awaiting:
    """Awaits a result that may be deferred in any way, or be there already."""

    __slots__ = ("_call", "_run")

    def __init__(self, call: _AwaitedCall, run: Callable[[], Any]) -> None:
        self._call, self._run = call, run

    def __await__(self) -> Generator[Any, Any, Any]:
        result = yield from _settled(self._run(), self._call._pending)
        self._call._returned = result
        return result


def _settled(result: Any, pending: PendingCalls) -> Generator[Any, Any, Any]:
    """Await a result as it is deferred, in the task and context of the caller."""
    while isinstance(result, Suspended):
        suspended, value, error = result, None, None
        try:
            value = yield from _settled(suspended.waits_for, pending)
        except Exception as raised:
            error = raised
        except BaseException:
            suspended.close()
            raise
        result = suspended.resume(value, error)
    if isinstance(result, InThread | Begun):
        result = pending.future_of(result)
    if is_deferred(result):
        result = yield from result.__await__()
    return result


class Around(Wrapper):
    """Calls the `around` of middlewares, the one that was added first outermost.

    Args:
        inner: does what they stand around.
        middlewares: those that have an `around`.
        pending: of the server.
    """

    def __init__(
        self,
        inner: Union[BaseHandler, Wrapper],  # noqa: UP007
        middlewares: Sequence[Middleware],
        pending: PendingCalls,
    ) -> None:
        super().__init__(inner)
        self._pending = pending
        self._layers = [
            (middleware, is_async(middleware.around))
            for middleware in reversed(middlewares)
        ]

    def on_request(self, request: Request) -> Any:
        """See `WebSocket.on_request`; likewise below."""
        return self._surround("on_request", super().on_request, request)

    def on_open(self, client: Client) -> Any:
        """A connection opened."""
        return self._surround("on_open", super().on_open, client)

    def on_message(self, msg: Any, client: Client) -> Any:
        """A message was received."""
        return self._surround("on_message", super().on_message, msg, client)

    def on_close(self, client: Client) -> Any:
        """A connection ended."""
        return self._surround("on_close", super().on_close, client)

    def _surround(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        run: Callable[[], Any] = partial(function, *args)
        for middleware, awaits in self._layers:
            given = name, self._log_name, args, run
            call = _AwaitedCall(self._pending, *given) if awaits else Call(*given)
            run = partial(_call_around, middleware, call)
        return run()


def _call_around(middleware: Middleware, call: Call) -> Any:
    result = middleware.around(call)
    if is_deferred(result) and result is not call._returned:
        return Then(result, partial(_checked, middleware, call))
    return _checked(middleware, call, result)


def _checked(middleware: Middleware, call: Call, result: Any) -> Any:
    """The result; refused where a reply was lost by a forgotten `return`."""
    if result is None and call._returned is not None:
        discard(call._returned)
        raise TypeError(
            f"{type(middleware).__name__}.around returned None; it must return what "
            f"call() returned for {call.name}, or something else in its place"
        )
    return result


def surrounded(
    inner: Union[BaseHandler, Wrapper],  # noqa: UP007
    middlewares: Sequence[Middleware],
    pending: PendingCalls,
) -> Union[BaseHandler, Wrapper]:  # noqa: UP007
    """The same handler, with those middlewares around it that have an `around`."""
    layers = [one for one in middlewares if overrides(one, "around")]
    return Around(inner, layers, pending) if layers else inner
