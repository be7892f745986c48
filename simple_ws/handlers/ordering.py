"""`Awaited`: keeps the events of each client in order while callbacks are deferred.

Running deferred results is left to `pending`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from typing import Any, Union

from ..connection.client import Client
from ..constants import CloseCause
from ..loop.deferred import DeferredCancelled, discard, is_deferred
from ..loop.shedding import hold_input
from .handler import BaseHandler
from .pending import PendingCall, PendingCalls, report_failure
from .wrapper import Wrapper

__all__ = ["Awaited"]

#: Events of one client that may wait for a callback; then the server stops reading from
#: it. Input read already may add up to 7 more (`_fallback.connection`).
_MAX_WAITING = 8
#: The same in bytes of messages; besides those 7, at most one message exceeds it.
_MAX_WAITING_BYTES = 64 * 1024
#: Close causes that drop waiting messages: we have ended it.
_ENDED_HERE = (CloseCause.LOCAL, CloseCause.HANDLER_ERROR, CloseCause.OVERLOADED)


class Kind(Enum):
    """The kind of a queued event."""

    MESSAGE = auto()
    CLOSE = auto()
    #: The deferred result of `on_error`.
    ERROR = auto()
    OTHER = auto()


class EventQueue:
    """The callback that runs for a client, and the events that wait for it.

    Attributes:
        kind, call: of the callback that runs.
        waiting: later events: kind, bytes of the message, callback and arguments.
    """

    __slots__ = ("_buffered_input", "call", "client", "kind", "waiting")

    waiting: deque[tuple[Kind, int, Callable[..., Any], tuple[Any, ...]]]

    def __init__(self, client: Client) -> None:
        self.client = client
        self.kind = Kind.OTHER
        self.call: PendingCall | None = None
        self._buffered_input = 0  # bytes of the waiting messages
        self.waiting = deque()

    def add(self, kind: Kind, function: Callable[..., Any], args: Any) -> None:
        """Append an event; pause reading when enough events wait."""
        size = len(args[0]) if kind is Kind.MESSAGE else 0
        self.waiting.append((kind, size, function, args))
        self._add_size(size)
        full = len(self.waiting) >= _MAX_WAITING
        full = full or self._buffered_input > _MAX_WAITING_BYTES
        # From a closing client reading continues: its input is discarded.
        if full and self.client.is_open() and not self.client._paused_by_callbacks:
            self.client._pause_reading(True)

    def add_next(self, kind: Kind, deferred: Any) -> None:
        """Insert a deferred result before the waiting events."""
        self.waiting.appendleft((kind, 0, _identity, (deferred,)))

    def take(self) -> tuple[Kind, Callable[..., Any], tuple[Any, ...]]:
        """The next event; resume reading when few are left."""
        kind, size, function, args = self.waiting.popleft()
        self._add_size(-size)
        few_events = len(self.waiting) <= _MAX_WAITING // 2
        if (
            few_events
            and self._buffered_input <= _MAX_WAITING_BYTES // 2
            and self.client._paused_by_callbacks
        ):
            self.client._pause_reading(False)
        return kind, function, args

    def _add_size(self, size: int) -> None:
        hold_input(self.client._loop, self, self._buffered_input + size)

    def drop_messages(self) -> None:
        """Drop the messages that wait: they are not delivered any more."""
        kept = [event for event in self.waiting if event[0] is not Kind.MESSAGE]
        self.waiting = deque(kept)
        self._add_size(-self._buffered_input)

    def _shed_input(self) -> None:
        """See `loop.shedding.InputHolder`."""
        self.client._shed_input()
        self.drop_messages()


class Awaited(Wrapper):
    """A handler, or a chain around one, whose callbacks may be deferred.

    For each client they run one after the other, in the order of the events. While one
    runs, later events of this client wait; when more than a few do, the server stops
    reading from it. A waiting message is dropped when a callback ends the connection,
    just as later messages are dropped without deferred callbacks.

    Args:
        inner: the handler or chain to wrap.
        pending: of the server.
    """

    def __init__(
        self,
        inner: Union[BaseHandler, Wrapper],  # noqa: UP007
        pending: PendingCalls,
    ) -> None:
        super().__init__(inner)
        self._pass_message = super().on_message  # bound once
        self._pending = pending
        self._queues: dict[Client, EventQueue] = {}
        self._beginning: Client | None = None  # whose coroutine begins just now
        pending.on_close.append(self._end_queues)

    def on_open(self, client: Client) -> None:
        """See `WebSocket.on_open`; likewise below."""
        self._do(client, Kind.OTHER, super().on_open, client)

    def on_message(self, msg: Any, client: Client) -> Any:
        """A message was received; returns the reply if it is not deferred."""
        return self._do(client, Kind.MESSAGE, self._pass_message, msg, client)

    def on_ping(self, client: Client) -> None:
        """A ping was sent or received."""
        self._do(client, Kind.OTHER, self._on_ping, client.ping_payload, client)

    def on_pong(self, client: Client) -> None:
        """A pong was received."""
        self._do(client, Kind.OTHER, self._on_pong, client.pong_payload, client)

    def on_drain(self, client: Client) -> None:
        """All output has been written."""
        self._do(client, Kind.OTHER, super().on_drain, client)

    def on_join(self, client: Client, topic: str, join: Any) -> None:
        """A client has entered a topic with history."""
        self._do(client, Kind.OTHER, super().on_join, client, topic, join)

    def on_close(self, client: Client) -> None:
        """A connection ended."""
        self._do(client, Kind.CLOSE, super().on_close, client)

    def on_error(self, error: Exception, client: Client) -> None:
        """A callback raised; other events of this client wait until this is done."""
        result = super().on_error(error, client)
        if not is_deferred(result):
            return
        queue = self._queue_of(client)
        if queue is None:
            self._run(EventQueue(client), Kind.ERROR, result)
        else:
            queue.add_next(Kind.ERROR, result)

    def _on_ping(self, payload: bytes, client: Client) -> Any:
        client.ping_payload = payload  # other pings may have been received meanwhile
        return self._inner.on_ping(client)

    def _on_pong(self, payload: bytes, client: Client) -> Any:
        client.pong_payload = payload
        return self._inner.on_pong(client)

    def _do(
        self, client: Client, kind: Kind, function: Callable[..., Any], *args: Any
    ) -> Any:
        """Call a callback, or queue it."""
        queue = self._queue_of(client)
        if queue is not None:
            queue.add(kind, function, args)
            return None
        result = function(*args)
        if not is_deferred(result):
            return result
        queue = self._queues.get(client)
        if queue is None:
            return self._begin(client, kind, result)
        # A part of it has failed: first the deferred result of `on_error`.
        queue.add_next(kind, result)
        return None

    def _queue_of(self, client: Client) -> EventQueue | None:
        """The queue of a client for which a callback runs, or just begins."""
        queue = self._queues.get(client)
        if queue is None and client is self._beginning:
            queue = self._queues[client] = EventQueue(client)
        return queue

    def _begin(self, client: Client, kind: Kind, deferred: Any) -> Any:
        """Begin a deferred result; return its own if it does not wait.

        Other events of this client wait until it has ended.
        """
        before, self._beginning = self._beginning, client
        try:
            result = self._pending.begin(deferred)
            if not is_deferred(result):
                return result
            self._run(self._queues.get(client) or EventQueue(client), kind, result)
        except DeferredCancelled as error:
            _report(client, kind, error)
        finally:
            self._beginning = before
            held = self._queues.get(client)
            if held is not None and held.call is None:
                self._run_soon(held)
        return None

    def _run(self, queue: EventQueue, kind: Kind, deferred: Any) -> None:
        done = partial(self._on_done, queue)
        essential = kind is Kind.CLOSE
        queue.call = self._pending.run(deferred, done, essential=essential)
        queue.kind = kind
        self._queues[queue.client] = queue

    def _on_done(
        self, queue: EventQueue, value: Any, error: BaseException | None
    ) -> None:
        client = queue.client
        try:
            if error is not None:
                _report(client, queue.kind, error)
            elif queue.kind is Kind.MESSAGE:
                _answer(client, value)
        except BaseException:
            self._run_soon(queue)
            raise
        self._run_waiting(queue)

    def _run_soon(self, queue: EventQueue) -> None:
        """A callback raised an exception that ends programs: the waiting ones are
        called if this program continues."""
        queue.client._loop.call_soon(partial(self._run_waiting, queue))

    def _run_waiting(self, queue: EventQueue) -> None:
        """Call the waiting callbacks, up to the next deferred one."""
        queue.kind, queue.call = Kind.OTHER, None
        try:
            while queue.waiting:
                if self._run_next(queue):
                    return
        except BaseException:
            self._run_soon(queue)
            raise
        self._queues.pop(queue.client, None)

    def _run_next(self, queue: EventQueue) -> bool:
        """Call the next one; return whether it is deferred."""
        client = queue.client
        kind, function, args = queue.take()
        if kind is not Kind.CLOSE and self._is_over(client):
            discard(args[0])
            return False
        try:
            result = function(*args)
            if is_deferred(result):
                result = self._pending.begin(result)
            if is_deferred(result):
                self._run(queue, kind, result)
                return True
        except (Exception, DeferredCancelled) as error:
            _report(client, kind, error)
        else:
            if kind is Kind.MESSAGE:
                _answer(client, result)
        return False

    def _is_over(self, client: Client) -> bool:
        """Whether we have ended the connection, or the server is ending."""
        return self._pending.closing or client.close_cause in _ENDED_HERE

    def _end_queues(self) -> None:
        """The server has ended: of the waiting callbacks, only `on_close` is called."""
        queues, self._queues = self._queues, {}
        for queue in queues.values():
            queue.drop_messages()
            for kind, _, function, args in queue.waiting:
                if kind is Kind.CLOSE:
                    self._end(queue.client, partial(function, *args))

    def _end(self, client: Client, on_close: Callable[[], Any]) -> None:
        try:
            result = on_close()
            if is_deferred(result):
                self._pending.run(result, _nothing)
        except Exception as error:
            client._on_callback_error(error)


def _answer(client: Client, value: Any) -> None:
    if value is None:
        return
    try:
        client._answer(value)
    except Exception as error:
        client._on_callback_error(error)


def _report(client: Client, kind: Kind, error: BaseException) -> None:
    if kind is Kind.ERROR and isinstance(error, Exception):
        client._calls.on_error_failed(client, error)
    else:
        report_failure(client, error)


def _identity(value: Any) -> Any:
    return value


def _nothing(*args: Any) -> None:
    """Do nothing."""
