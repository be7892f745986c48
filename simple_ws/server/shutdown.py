"""`Shutdown`: closes the connections of a server that stops, and keeps its deadlines.

drain begins ──> clients are closed in batches ──> deadline ───────> last deadline
(close frame 1001)                connections       the loop ends
are cut
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from functools import partial

from ..connection.client import Client
from ..connection.options import Options
from ..constants import SWEEP_TIME, CloseCause, CloseCode
from .run import Run

__all__ = ["Shutdown"]

logger = logging.getLogger("simple_ws")

#: Clients closed at once when stopping; more are closed in at most `_MAX_BATCHES`.
_BATCH = 100
_MAX_BATCHES = 20
#: With this many clients the batches are spread over half the drain time, with fewer
#: over less.
_SPREAD_FULLY = 1000
#: Seconds at least between two looks at clients that still take their output.
_LOOK_AGAIN = 0.1


class Shutdown:
    """One graceful shutdown.

    Args:
        run: the run to end.
        options: of the server.
        everybody: returns all remaining clients, including closing ones.
        abort: called when the last deadline has passed.
    """

    def __init__(
        self,
        run: Run,
        options: Options,
        everybody: Callable[[], list[Client]],
        abort: Callable[[], object],
    ) -> None:
        self._run = run
        self._reactor = run.reactor
        self._options = options
        self._everybody = everybody
        self._abort = abort
        self._batches = 0  # that are being closed
        self._began = self._reactor.time()
        self._told = self._cut = 0  # clients

    def begin(self, clients: list[Client], drain: float | None) -> None:
        """Close the clients; cut the remaining ones at the deadline.

        Args:
            clients: the open ones, in any order.
            drain: seconds; None is `close_timeout`, and `ping_timeout` for clients
                that still read earlier output.
        """
        now = self._began
        self._told = len(clients)
        timeout = self._options.close_timeout if drain is None else drain
        deadline = None if drain is None else now + drain
        latest = now + self._options.ping_timeout if drain is None else now + drain
        random.shuffle(clients)
        batches = max(1, min(_MAX_BATCHES, len(clients) // _BATCH)) if timeout else 1
        pause = timeout / 2 / batches * min(1.0, len(clients) / _SPREAD_FULLY)
        self._close_batch(clients, -(-len(clients) // batches), pause, deadline)
        self._reactor.call_later(timeout, partial(self._pass_deadline, latest))

    def log_end(self) -> None:
        """Say that the server has stopped, and how."""
        seconds = self._reactor.time() - self._began
        logger.info(
            "stopped in %.3g s: %d clients were told (%d), %d of them cut",
            *(seconds, self._told, CloseCode.GOING_AWAY, self._cut),
        )

    def _close_batch(
        self, clients: list[Client], size: int, pause: float, deadline: float | None
    ) -> None:
        """Close some clients now, and the others batch by batch.

        Thousands of clients closed at once would reconnect at once.
        """
        # By default as in `Client.close`: more for clients that still read output.
        timeout = None
        if deadline is not None:
            timeout = max(0.0, deadline - self._reactor.time())
        closing = (
            partial(
                client._close,
                CloseCode.GOING_AWAY,
                "the server stops",
                CloseCause.SHUTDOWN,
                timeout,
            )
            for client in clients[:size]
        )
        self._batches += 1
        self._call_in_slices(closing, self._end_batch)
        rest = clients[size:]
        if rest:
            self._reactor.call_later(
                pause * random.uniform(0.5, 1.5),
                partial(self._close_batch, rest, size, pause, deadline),
            )

    def _end_batch(self) -> None:
        self._batches -= 1

    def _pass_deadline(self, latest: float) -> None:
        """Cut the remaining clients; async `on_close` callbacks still have time to end.

        Until `latest`, wait for clients that have not read all their output: one that
        reads nothing is cut by its own timeout.
        """
        if self._batches:
            # Who is cut was told before, and that was written: timers come first in a
            # turn.
            self._reactor.call_later(0, partial(self._pass_deadline, latest))
            return
        rest = latest - self._reactor.time()
        clients = self._everybody()
        if rest > 0 and any(client.buffered_amount for client in clients):
            timeout = min(rest, max(_LOOK_AGAIN, self._options.close_timeout))
            self._reactor.call_later(timeout, partial(self._pass_deadline, latest))
            return
        self._cut = len(clients)
        self._call_in_slices(self._run.cuts(clients), self._end_callbacks)

    def _end_callbacks(self) -> None:
        self._run.pending.cancel_all()
        self._reactor.call_later(self._options.close_timeout, self._abort)

    def _call_in_slices(
        self,
        calls: Iterator[Callable[[], object]],
        then: Callable[[], object],
    ) -> None:
        """Make calls, as many in each turn as deadlines may take of it; and one more
        at the end: very many clients must not hold up what the others are told."""
        clock = self._reactor.clock
        until = clock() + SWEEP_TIME
        for call in calls:
            call()
            if clock() > until:
                self._reactor.call_soon(partial(self._call_in_slices, calls, then))
                return
        then()
