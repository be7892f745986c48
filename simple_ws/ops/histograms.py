"""`Histograms`: a middleware that measures callbacks and received messages.

It counts into fixed buckets; `metrics` shows them. Without it nothing is measured.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate
from threading import Lock
from typing import Any, Final

from ..errors import InvalidState
from ..handlers.middleware import Call, Middleware
from ..loop.deferred import Suspended, is_deferred

__all__ = ["Histograms"]

#: Upper limits of buckets, in seconds; a last bucket has all above.
_SECONDS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
#: Likewise in bytes: powers of four, from 16 bytes to 16 MiB.
_BYTES: Final = tuple(float(4**power) for power in range(2, 13))


class _Histogram:
    """Values, counted in buckets. The caller has the lock."""

    __slots__ = ("_counts", "_limits", "_sum")

    def __init__(self, limits: tuple[float, ...]) -> None:
        self._limits = limits
        self._counts = [0] * (len(limits) + 1)
        self._sum: float = 0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._limits, value)] += 1
        self._sum += value

    def gather(self) -> dict[str, Any]:
        """The sum, and how many values are not above each limit."""
        limits = [*map(str, self._limits), "+Inf"]
        numbers = accumulate(self._counts)
        return {"sum": self._sum, "le": dict(zip(limits, numbers, strict=True))}


class _Timed(Suspended):
    """A deferred result, whose end is noted."""

    __slots__ = ("_ended",)

    def __init__(self, waits_for: Any, ended: Callable[[], object]) -> None:
        super().__init__(waits_for)
        self._ended = ended

    def resume(self, value: Any, error: BaseException | None) -> Any:
        """See `Suspended`."""
        self._ended()
        if error is not None:
            raise error
        return value


class Histograms(Middleware):
    """Counts how long callbacks take and how big received messages are, in buckets.

        server.use(Histograms())      # the first one, to measure the others, too
        server.metrics()

    The metrics `simple_ws_callback_seconds` and `simple_ws_message_bytes` and the entry
    `histograms` of `Server.stats` show them. Measured are `on_request`, `on_open`,
    `on_message` and `on_close` of all handlers, with the middlewares that were added
    after this one. What is async or `in_thread` lasts until its end, waiting included;
    exceptions count, too. A message is as long as its payload, after inflation, text in
    UTF-8.

    An object is for one server. Its methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._server: Any = None
        self._callbacks_by: dict[tuple[str, str], _Histogram] = {}
        self._messages_by: dict[str, _Histogram] = {}

    def on_use(self, server: Any) -> None:
        """Show the counts in the stats of this server.

        Raises:
            InvalidState: Another server uses it.
        """
        if self._server is not None:
            raise InvalidState("these Histograms are of another server")
        self._server = server
        server._stats.add_source("histograms", self._gather)

    def around(self, call: Call) -> Any:
        """Measure it; see `Middleware.around`."""
        clock = self._server.time
        began = clock()

        def ended() -> None:
            self._count(call, clock() - began)

        try:
            result = call()
        except BaseException:
            ended()
            raise
        if is_deferred(result):
            return _Timed(result, ended)
        ended()
        return result

    def _count(self, call: Call, seconds: float) -> None:
        size = _size(call.args[0]) if call.name == "on_message" else None
        with self._lock:
            key = call.name, call.handler
            if (callbacks := self._callbacks_by.get(key)) is None:
                callbacks = self._callbacks_by[key] = _Histogram(_SECONDS)
            callbacks.observe(seconds)
            if size is None:
                return
            if (messages := self._messages_by.get(call.handler)) is None:
                messages = self._messages_by[call.handler] = _Histogram(_BYTES)
            messages.observe(size)

    def _gather(self) -> dict[str, Any]:
        """The entry of the stats.

        Its keys have a space, so that `totals` never takes the name of a handler for
        that of an entry which it does not add up.
        """
        with self._lock:
            return {
                "callback_seconds": {
                    f"{callback} {handler}": histogram.gather()
                    for (callback, handler), histogram in self._callbacks_by.items()
                },
                "message_bytes": {
                    f"on_message {handler}": histogram.gather()
                    for handler, histogram in self._messages_by.items()
                },
            }


def _size(msg: Any) -> int:
    """Bytes of the payload of a message."""
    if isinstance(msg, str) and not msg.isascii():
        return len(msg.encode())
    return len(msg)
