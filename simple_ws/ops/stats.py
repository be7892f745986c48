"""The stats of a server: the counts of its parts, collected in one dict.

Connections count their messages by themselves (`Counters`), the log counts ends,
admission refusals. `Stats` keeps what nobody else does, and puts all of it together.
Showing it is left to `metrics` and `dashboard`; `AccessRule` decides who may see it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from ..connection.admission import Admission
from ..connection.client import Client
from ..connection.log import LogCounts
from ..connection.topics import Group, Identities, Topics
from ..constants import CloseCause
from ..errors import HandshakeError
from ..handlers.handler import BaseHandler
from ..handlers.return_values import yes_or_no
from ..loop.deferred import check_callback, check_not_deferred
from ..loop.reactor import Reactor
from ..protocol.request import Request
from ..speedups import BACKEND, Counters
from .totals import retired, total

__all__ = ["AccessRule", "Stats", "StatsSource"]

#: Returns what the engine of a run counts.
EngineStats = Callable[[], dict[str, Any]]

#: Seconds of a window for the longest turn, which is reported for one to two of them.
_LAG_WINDOW = 10.0

#: Attributes of `Counters`, reported for each handler and for all together.
_COUNTS = (
    "messages_received",
    "messages_sent",
    "bytes_received",
    "bytes_sent",
    "plain_sent",
    "packed_sent",
    "packed_received",
    "plain_received",
    "dropped",
    "conflated",
    "busy",
)


class StatsSource(Protocol):
    """What the stats need of a server (`server.Server` has it)."""

    _log_counts: LogCounts
    _admission: Admission
    clients: Group[Client]
    _topics: Topics[Client]
    _identities: Identities[Client]

    @property
    def _members_here(self) -> int:
        """Members of topics with presence."""


class Stats:
    """The counts that a server keeps besides those of its connections.

    It belongs to the server, not to a run: stopping and starting resets no count.

    Attributes:
        opened: connections opened so far.
        viewers: open connections of dashboards, which are counted nowhere else.
    """

    def __init__(self) -> None:
        self.opened = 0
        self.viewers: Group[Client] = Group()
        self._paths: dict[BaseHandler, list[str]] = {}
        self._reactor: Reactor | None = None  # while it runs
        self._began = 0.0  # by the loop's clock
        self._started: float | None = None  # by the system's clock
        self._lag_before = 0.0  # the longest turn of the previous window
        # What the engine of this run says, and what those of earlier runs have said:
        # replaced together, since other threads read them.
        self._engine: tuple[EngineStats | None, dict[str, Any]] = None, {}
        self._sources: dict[str, list[Callable[[], dict[str, Any]]]] = {}

    def note_mount(self, path: str, handler: BaseHandler) -> None:
        """A handler is served on one more path."""
        self._paths.setdefault(handler, []).append(path)

    def add_source(self, name: str, gather: Callable[[], dict[str, Any]]) -> None:
        """Something else counts, too.

        Args:
            name: of the entry, which has the sum of all sources of this name.
            gather: returns counters that never decrease; called from any thread.
        """
        self._sources.setdefault(name, []).append(gather)

    def begin(self, reactor: Reactor, engine: EngineStats | None = None) -> None:
        """The server is about to run.

        Args:
            reactor: of this run.
            engine: returns the entry `engine`, counted from the beginning of this run.
        """
        self._reactor = reactor
        self._engine = engine, self._engine[1]
        self._began, self._started = reactor.time(), time.time()
        self._lag_before = 0.0
        reactor.call_later(_LAG_WINDOW, self._next_window)

    def end(self) -> None:
        """The server has stopped."""
        self._reactor = self._started = None
        engine, before = self._engine
        if engine is not None:
            self._engine = None, total([before, retired(engine())])

    def _next_window(self) -> None:
        if self._reactor is not None:
            self._lag_before = self._reactor.longest_turn
            self._reactor.longest_turn = 0.0
            self._reactor.call_later(_LAG_WINDOW, self._next_window)

    def gather(self, server: StatsSource) -> dict[str, Any]:
        """All stats of a server; see `Server.stats`. From any thread.

        Nothing is locked: each count is right, but an event that happens meanwhile may
        be in one count and not yet in the next.
        """
        # `list` and `dict` copy in one step of the interpreter, while the loop runs.
        paths = list(self._paths.items())
        of_handlers = [_counts_of(handler._counters) for handler, _ in paths]
        viewers = list(self.viewers)
        refused = dict(server._admission.refused)
        # In this order no connection is counted as closed but not as opened.
        closed = dict.fromkeys(map(str, CloseCause), 0) | server._log_counts.ends
        connections = {
            "open": len(server.clients),
            "opened": self.opened,
            "dashboards": len(viewers),
        }
        return {
            "time": time.time(),
            "started": self._started,
            "uptime": self._uptime(),
            "backend": BACKEND,
            "connections": connections,
            "total": {
                name: sum(counts[name] for counts in of_handlers) for name in _COUNTS
            },
            "handlers": [
                {
                    "name": handler._log_name,
                    "paths": list(mounted),
                    "clients": len(handler.clients),
                    **counts,
                }
                for (handler, mounted), counts in zip(paths, of_handlers, strict=True)
            ],
            "closed": closed,
            "refused": {str(status): refused[status] for status in sorted(refused)},
            "buffered": self._buffered(viewers),
            "topics": len(server._topics._groups),
            "identities": len(server._identities._groups),
            "members": server._members_here,
            "slow_callbacks": server._log_counts.slow_calls,
            "longest_turn": self._longest_turn(),
            "engine": self._engine_stats(),
            **{
                name: total(gather() for gather in sources)
                for name, sources in self._sources.items()
            },
        }

    def _engine_stats(self) -> dict[str, Any] | None:
        """Of this run and those before; None if there was never an engine."""
        engine, before = self._engine
        if engine is not None:
            return total([before, engine()])
        return {**before, "reason": "the server is stopped"} if before else None

    def _buffered(self, viewers: list[Client]) -> int:
        """Bytes of unsent output, without that of dashboards."""
        reactor = self._reactor
        if reactor is None:
            return 0
        unsent = sum(viewer.buffered_amount for viewer in viewers)
        return max(0, reactor.buffered - unsent)

    def _uptime(self) -> float:
        reactor = self._reactor
        return 0.0 if reactor is None else reactor.time() - self._began

    def _longest_turn(self) -> float:
        reactor = self._reactor
        return 0.0 if reactor is None else max(self._lag_before, reactor.longest_turn)


class AccessRule:
    """The rule that says who may read stats.

    Args:
        allow: a function of a request that returns whether it is allowed.

    Raises:
        TypeError: `allow` is not a function of a request, or is async or `in_thread`.
    """

    def __init__(self, allow: Callable[[Request], object]) -> None:
        check_callback("allow", allow, ("request",))
        check_not_deferred("allow", allow)
        self._allow = allow

    def check(self, request: Request) -> None:
        """Refuse a request that may not read them.

        Raises:
            HandshakeError: 403, or what `allow` raises itself.
            WrongReturnValue: `allow` returned neither True nor False; a value that is
                merely truthy, such as a coroutine, must not allow everyone.
        """
        if not yes_or_no("allow", self._allow(request)):
            raise HandshakeError(403, "You may not see this from where you are.")


def _counts_of(counters: Counters) -> dict[str, Any]:
    return {name: getattr(counters, name) for name in _COUNTS}
