"""`Chain`: middlewares around a handler.

They run in order on the way in (`on_request`, `on_open`, messages), in reverse order on
the way out (`on_send`, `on_close`). Any of them may return a deferred result if an
`ordering.Awaited` wraps the chain.
"""

from __future__ import annotations

import logging
import types
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

from ..connection.client import Client
from ..constants import SendStatus
from ..errors import InvalidState
from ..loop.deferred import (
    PLAIN,
    DeferredCancelled,
    Steps,
    Then,
    discard,
    is_deferred,
    run_steps,
)
from ..protocol.request import Request
from ..protocol.response import Response
from .handler import BaseHandler
from .middleware import Middleware, changes_output, check_returned, overrides
from .pending import report_failure
from .return_values import session_of
from .wrapper import Wrapper

__all__ = ["Chain"]

logger = logging.getLogger("simple_ws")

#: One call in the processing of a message: the middleware, the name of its method, and
#: for `on_first_message`, how many middlewares have seen the client afterwards.
_Call: TypeAlias = tuple[Middleware, str, int]


class Chain(Wrapper):
    """A handler with middlewares around it; it takes the place of the handler.

    Args:
        handler: the innermost handler.
        middlewares: in the order in which they were added.
        awaited: whether its deferred results are run.
    """

    def __init__(
        self,
        handler: BaseHandler | Wrapper,
        middlewares: Sequence[Middleware],
        *,
        awaited: bool = False,
    ) -> None:
        super().__init__(handler)
        self._handler = handler
        self._middlewares = tuple(middlewares)
        self._awaited = awaited
        inward = [
            middleware
            for middleware in middlewares
            if not handler._own_format
            and (
                overrides(middleware, "on_message")
                or overrides(middleware, "on_first_message")
            )
        ]
        self._calls: tuple[_Call, ...] = tuple(
            (middleware, "on_message", 0) for middleware in inward
        )
        # The calls for a client that only so many middlewares have seen yet.
        self._first_calls = _first_calls(inward)
        self._reached: dict[Client, int] = {}
        self._observers = [one for one in middlewares if overrides(one, "on_error")]
        outward = () if handler._own_format else reversed(middlewares)
        self._outward = tuple(filter(changes_output, outward))
        self._sending: tuple[Any, Any] = None, None  # a client class, and its subclass

    @property
    def sees_messages(self) -> bool:
        """Whether messages pass through any of the middlewares."""
        return bool(self._calls)

    @property
    def authenticates(self) -> bool:
        """Whether the handler or a middleware requires an identity."""
        return super().authenticates or self._closed_to_strangers

    @property
    def _closed_to_strangers(self) -> bool:
        return any(middleware.authenticates is True for middleware in self._middlewares)

    @property
    def client_class(self) -> Any:
        """The handler's class, or a subclass that calls `on_send` if any uses it.

        The handler's class may be replaced while the server runs.
        """
        wanted = self._handler.client_class
        if not self._outward:
            return wanted
        if self._sending[0] is not wanted:
            self._sending = wanted, _sending_through(wanted, self._outward)
        return self._sending[1]

    def on_request(self, request: Request) -> Any:
        """Call all; the first `Response` refuses, the last session given counts."""
        return run_steps(self._ask_all(request))

    def on_open(self, client: Client) -> Any:
        """Call all, even if one fails or closes the client: `on_close` follows."""
        if self._first_calls:
            self._reached[client] = 0
        targets = [*self._middlewares, self._handler]
        return run_steps(self._call_all("on_open", client, targets))

    def on_close(self, client: Client) -> Any:
        """Call all, the handler first."""
        self._reached.pop(client, None)
        return run_steps(
            self._call_all(
                "on_close", client, [self._handler, *self._middlewares[::-1]]
            )
        )

    def on_error(self, error: Exception, client: Client) -> Any:
        """Tell all middlewares, then ask the handler."""
        return run_steps(self._tell_error(error, client))

    def on_message(self, msg: Any, client: Client) -> Any:
        """Pass a message through; the handler's return value is the reply."""
        reached = self._reached.get(client)
        calls = self._calls if reached is None else self._first_calls[reached]
        return self._hand_through(msg, client, iter(calls))

    def _ask_all(self, request: Request) -> Steps:
        session = None
        asked: list[Middleware | BaseHandler | Wrapper] = [
            *self._middlewares,
            self._handler,
        ]
        for target in asked:
            answer = yield target.on_request(request)
            if answer is not None:
                what = f"on_request of {self._name_of(target)}"
                answer = session_of(what, answer)
            if isinstance(answer, Response):
                return answer
            session = session if answer is None else answer
        return session

    def _call_all(self, name: str, client: Client, targets: Sequence[Any]) -> Steps:
        for target in targets:
            try:
                owner = self._name_of(target)
                callback = getattr(target, name)
                result = client._host._log.call(client, owner, callback, client)
                yield self._may_wait(result, owner, name)
            except (Exception, DeferredCancelled) as error:
                report_failure(client, error)

    def _tell_error(self, error: Exception, client: Client) -> Steps:
        for middleware in self._observers:
            owner = type(middleware).__name__
            try:
                told = middleware.on_error(error, client)
                yield self._may_wait(told, owner, "on_error")
            except (Exception, DeferredCancelled) as failure:
                client._host._log.note_failure(
                    f"on_error of {owner} failed",
                    "on_error of %s failed for %r",
                    owner,
                    client,
                    error=failure,
                    client=client,
                )
        return (yield self._handler.on_error(error, client))

    def _hand_through(self, msg: Any, client: Client, calls: Iterator[_Call]) -> Any:
        """Pass a message to the remaining middlewares, then to the handler."""
        for call in calls:
            middleware, name, reached = call
            given, msg = msg, getattr(middleware, name)(msg, client)
            if type(msg) in PLAIN and msg is not None and not reached:
                continue
            if is_deferred(msg):
                self._may_wait(msg, self._name_of(middleware), name)
                resume = partial(self._hand_on, client, calls, call, given)
                return Then(msg, resume)
            if not self._passes(msg, client, call, given):
                return None
        return self._handler._message_callback(msg, client)

    def _hand_on(
        self, client: Client, calls: Iterator[_Call], call: _Call, given: Any, msg: Any
    ) -> Any:
        """Continue with the outcome of a middleware's deferred result."""
        if not self._passes(msg, client, call, given):
            return None
        return self._hand_through(msg, client, calls)

    def _passes(self, msg: Any, client: Client, call: _Call, given: Any) -> bool:
        """Whether the message continues after this call."""
        middleware, name, reached = call
        if msg is None and given is not None:
            check_returned(middleware, name)
        # Not before: if it fails, and the client stays, `on_first_message` is repeated.
        if reached:
            self._note_reached(client, reached)
        return msg is not Middleware.STOP

    def _note_reached(self, client: Client, reached: int) -> None:
        if client not in self._reached:
            return  # it has disconnected meanwhile
        if reached < len(self._first_calls):
            self._reached[client] = reached
        else:
            del self._reached[client]

    def _may_wait(self, result: Any, owner: str, name: str) -> Any:
        """The result; refused if it is deferred and nothing runs it."""
        if not self._awaited and is_deferred(result):
            discard(result)
            raise InvalidState(f"{owner}.{name} is deferred, and nothing awaits it")
        return result

    def _name_of(self, target: Any) -> str:
        handler = self._handler
        return handler._log_name if target is handler else type(target).__name__


def _first_calls(inward: Sequence[Middleware]) -> list[tuple[_Call, ...]]:
    """The calls for a client of which 0, 1, … middlewares have seen a message."""
    last = max(
        (
            number
            for number, middleware in enumerate(inward, 1)
            if overrides(middleware, "on_first_message")
        ),
        default=0,
    )
    calls: list[tuple[_Call, ...]] = []
    for reached in range(last):
        row: list[_Call] = []
        for number, middleware in enumerate(inward, 1):
            if number > reached:
                row.append((middleware, "on_first_message", number))
            row.append((middleware, "on_message", 0))
        calls.append(tuple(row))
    return calls


def _sending_through(
    client_class: type[Client], filters: Sequence[Middleware]
) -> Callable[..., Client]:
    """A connection class whose messages pass through middlewares.

    A separate class, so that handlers without such middlewares do not pay for it.
    """

    def write_message(
        self: Client, msg: object, binary: bool | None = None
    ) -> SendStatus:
        if not self.is_open():
            return SendStatus.DROPPED
        for middleware in filters:
            given, msg = msg, middleware.on_send(msg, self)
            if msg is Middleware.STOP:
                return SendStatus.DROPPED
            if msg is None and given is not None:
                check_returned(middleware, "on_send")
        return client_class.write_message(self, msg, binary)

    def refuse(*args: object) -> Client:
        raise TypeError(
            f"{client_class!r} cannot be subclassed, which middlewares with on_send "
            "require of a client_class"
        )

    members = {
        "__slots__": (),
        "__doc__": client_class.__doc__,
        "__module__": client_class.__module__,
        "write_message": write_message,
    }
    try:
        name = client_class.__name__
        made: type[Client] = types.new_class(
            name, (client_class,), exec_body=lambda space: space.update(members)
        )
        made.__qualname__ = client_class.__qualname__
    except Exception:  # a function, or a metaclass with other requirements
        logger.debug("no subclass of %r", client_class, exc_info=True)
        return refuse  # the next handshake reports it
    return made
