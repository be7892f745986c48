"""`Operations`: what a server has for those who run it: statistics, timers, workers,
the state of its engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ..checks import flag
from ..cluster.worker import Worker
from ..loop.deferred import check_callback
from ..loop.schedule import Job
from ..ops.stats import AccessRule, Stats
from ..protocol.request import Request
from .app import App

if TYPE_CHECKING:
    from datetime import datetime

    from ..ops.collector import Collector
    from .sharded_engine import AnyEngine

__all__ = ["Operations"]

F = TypeVar("F", bound=Callable[..., Any])
StartOrStop = TypeVar("StartOrStop", bound=Callable[[Worker], object])


class Operations(App):
    """An `App` with what operators and timers need."""

    # Stats for operators

    @property
    def figures(self) -> Stats:
        """What `stats()` gathers from; for measurements and tools."""
        return self._stats

    def stats(self) -> dict[str, Any]:
        """Statistics of the server, as a dict that can be encoded as JSON.

        Counts never decrease, not even when the server is stopped and started again.
        Connections of dashboards are only counted in `dashboards`. Times are in
        seconds.

        Returns:
            time, started: seconds since the epoch; `started` is None while the server
                is stopped.
            uptime: seconds since the server started to listen.
            backend: see `simple_ws.BACKEND`.
            connections: `open` now, `opened` so far, and `dashboards`.
            total: counts of all handlers together: messages_received, messages_sent,
                bytes_received, bytes_sent (on the wire without TLS, including frame
                headers and the response to the handshake); plain_sent, packed_sent,
                packed_received, plain_received (bytes of compressed messages, before
                and after compression); dropped (messages that slow consumers did not
                get); conflated (messages of topics with `latest` that newer ones
                replaced before they were sent); busy (time spent reading, including
                callbacks).
            handlers: for each handler its name, its paths, its number of clients, and
                the same counts.
            closed: the number of closed connections, by `CloseCause`.
            refused: the number of clients refused before the upgrade, by HTTP status.
            buffered: bytes of unsent output.
            topics, identities: the number of topics with subscribers, and of identities
                with a connection.
            members: of topics with presence, as far as they are here.
            slow_callbacks: the number of callbacks that took longer than the option
                `slow_callback`.
            longest_turn: the longest turn of the loop in the last 10 to 20 seconds;
                other clients waited this long.
            live, api: only with `live`, or with its server API; `commands` or calls by
                name, `errors` by code, and what was `malformed`.
            histograms: only with the middleware `Histograms`; `callback_seconds` by
                callback and handler and `message_bytes` by handler: the `sum`, and as
                `le` how many values are not above each limit.
            engine: None without an engine; else `up`, 1 if it takes messages and 0 if
                not; `reason`, why not; `server`, its name and version; `rtt`, how long
                the last probe took to the engine and back (every 10 seconds; None if
                it is not up); `published` and `received` messages; not given to it or
                not taken by it (`lost`, `refused`), or not confirmed (`unsure`);
                `resent` and `again` of topics with history; `repeats`, `missing`,
                `gaps`, `invalid` (see the page on several nodes);
                `connects`, attempts to connect by what made them necessary: start (of
                the server), refused (the attempt before failed), closed (by the
                engine), error (of the network), failed (no sign of life, too much
                unsent output, or a wrong answer); bytes_received, bytes_sent without
                TLS, `buffered` bytes of unsent output, and the number of `channels`;
                `nodes` that are there, see `cluster`, and messages of theirs that are
                `unknown` to this version. With workers, `up` is the number of them
                whose engine is up, `rtt` the longest.
            workers: with the option `workers`, for each worker the same values, its
                number as `worker`, its process as `pid` (None while it is replaced),
                and `endings`: how often its process ended by itself, by the name of
                the signal or exit code. All other values are then sums over all
                workers, about a second old; the same in each of them.
        """
        return self._workers.totals(self._stats.gather(self))

    def metrics(
        self, path: str = "/metrics", allow: Callable[[Request], bool] | None = None
    ) -> None:
        """Serve the statistics to Prometheus over HTTP, in its text format 0.0.4.

        Args:
            path: see `mount`.
            allow: a function of the request that returns True to allow it, False for
                403; None allows every client, so that Prometheus can run on another
                machine. It may raise `HandshakeError` to refuse in another way.

        Raises:
            TypeError: `allow` is not a function of a request, or is async.
            ValueError: The path is malformed or already in use.
        """
        from ..ops.prometheus import Metrics  # only when needed

        rule = None if allow is None else AccessRule(allow)
        self.http(path)(Metrics(self.stats, rule).respond)

    def collector(self) -> Collector:
        """The statistics as a collector for a registry of `prometheus_client`.

            from prometheus_client import REGISTRY
            REGISTRY.register(server.collector())

        For programs that have metrics of their own, and show them all in one place. The
        samples are those of `metrics`. `prometheus_client` must be installed when the
        registry collects; it does so in any thread.
        """
        from ..ops.collector import Collector  # only when needed

        return Collector(self.stats)

    def dashboard(
        self,
        path: str = "/_simple_ws",
        allow: Callable[[Request], bool] | None = None,
    ) -> str:
        """Show the statistics on a live page.

        Without `allow` only browsers on this machine can see it that know its secret
        key (others get 403): they connect from a loopback address and request
        "localhost" or such an address, with the path that this method returns. To
        allow others, and behind any proxy, pass `allow`.

        Args:
            path: see `mount`; the WebSocket of the page is on the same path.
            allow: see `metrics`; None is the rule above.

        Returns:
            The path to open in a browser. Without `allow` it ends with the key, which
            differs each time the program starts.

        Raises:
            TypeError: `allow` is not a function of a request, or is async.
            ValueError: The path is malformed or already in use.
        """
        from ..ops.dashboard import Dashboard, LocalKey  # only when needed

        shown = path
        if allow is None:
            local = LocalKey()
            allow, shown = local.allow, f"{path}?key={local.key}"
        rule = AccessRule(allow)
        page = Dashboard(self, rule)
        page._adopt(self)
        self._router.add(path, page)  # not with `mount`: it is not counted
        self.http(path)(page.page)
        return shown

    # Timers

    def time(self) -> float:
        """Seconds of the clock of its timers, which never runs backwards.

        For limits and times of your own: differences count, as with `time.monotonic`,
        which it is. In tests it is the clock that `testing.TestServer.advance` moves.
        """
        return self._clock()

    def every(
        self, interval: float, callback: Callable[[], object], *, once: bool = False
    ) -> Job:
        """Call `callback()` every `interval` seconds while the server runs.

        Calls do not drift: they happen at multiples of the interval, and calls that a
        busy loop has missed are skipped. Exceptions of the callback are logged. It can
        be `in_thread`, or async where callbacks of handlers can be; a call does not
        start before the previous one has ended.

        Args:
            interval: seconds.
            callback: the function to call.
            once: call it in one process only, of all workers and all nodes of a Redis
                engine. If that one ends, another goes on: one of its workers at once,
                another node in 15 seconds. While the engine is down nobody does.

        Returns:
            The timer; call `cancel()` to end it, from any thread.

        Raises:
            TypeError, ValueError: `interval` is not 0.001 seconds or more, or `once`
                not True or False.
        """
        return self._schedule.every(interval, callback, flag("once", once))

    def call_later(self, delay: float, callback: Callable[[], object]) -> Job:
        """Call `callback()` once, after `delay` seconds; see `every`.

        Before the server listens, the delay starts when it does.

        Raises:
            TypeError, ValueError: `delay` is not 0 seconds or more.
        """
        return self._schedule.call_later(delay, callback)

    def call_at(self, when: float | datetime, callback: Callable[[], object]) -> Job:
        """Call `callback()` once at a given time, at once if past; see `every`.

        Args:
            when: a `datetime` (local time if it has no time zone), or seconds since the
                epoch as returned by `time.time()`.
            callback: the function to call.

        Raises:
            TypeError, ValueError: `when` is not such a time.
        """
        return self._schedule.call_at(when, callback)

    # Workers

    def on_worker_start(self, callback: StartOrStop) -> StartOrStop:
        """Call `callback(worker)` in each process that serves, before it serves.

        With the option `workers` that is in each worker after the fork, otherwise in
        this process: the place to open what must not be shared, such as connections to
        a database. If it raises, the worker does not serve: at the start the whole
        server ends with the exit code 3; one that replaces another is tried again.

        Works as a decorator. Callbacks are called in the order they were added, in the
        thread that calls `run`, `start`, `poll` or `attach`.

        Args:
            callback: called with a `Worker`, which has `number` (from 1), `count` and
                `pid`.

        Returns:
            The callback.

        Raises:
            TypeError: The callback takes other arguments, or is async or `in_thread`.
        """
        self._worker_hooks.add("start", callback)
        return callback

    def on_worker_stop(self, callback: StartOrStop) -> StartOrStop:
        """Call `callback(worker)` in each process that served, when all is closed.

        Not when it is killed. Exceptions are logged. See `on_worker_start`.
        """
        self._worker_hooks.add("stop", callback)
        return callback

    # The engine

    def on_engine(self, listener: F) -> F:
        """Call a function whenever the engine has come or has gone; as a decorator.

        Args:
            listener: called in the loop's thread with an `EngineState`: `up`, `reason`
                (why not) and `server` (name and version of the engine).

        Returns:
            The function.

        Raises:
            TypeError: It takes other arguments.
        """
        check_callback("on_engine", listener, ("state",))
        if self._running:
            self._check_awaited([("on_engine", listener)], self._asyncio_loop)
        self._engine_listeners.append(listener)
        return listener

    @property
    def engine(self) -> AnyEngine | None:
        """The engine of this run, or None: `state` (an `EngineState`) and `counts`."""
        return self._engine
