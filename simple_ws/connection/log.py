"""The log: a line for each connection that ends, and for each callback that blocks.

Every line has its facts as fields too (`extra=`), under names that begin with `ws_`.
Repeats are counted and summed up, so that many ends at once do not flood the log.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from ..constants import FAULTS, CloseCause
from ..loop.deferred import name_of
from ..loop.reactor import Reactor
from ..protocol.request import Request
from ..text import one_line

__all__ = ["Ended", "Log", "LogCounts"]

logger = logging.getLogger("simple_ws")
access = logging.getLogger("simple_ws.access")

R = TypeVar("R")

#: Slow callbacks that are remembered, so that each is named once.
_NAMED = 16

_BY_PEER = frozenset({CloseCause.PEER, CloseCause.EOF, CloseCause.RESET})


class HasPath(Protocol):
    """A client or a request."""

    @property
    def path(self) -> str:
        """The path of the request."""


class Ended(HasPath, Protocol):
    """What the log needs of a connection (`connection.client.Client` has it)."""

    id: int
    client_id: Any
    latency: float | None
    opened_at: float
    _handler: Any
    _pinged_at: float | None

    @property
    def address(self) -> Any:
        """(host, port) of the client."""

    @property
    def close_cause(self) -> CloseCause | None:
        """Why it ended."""

    @property
    def close_code(self) -> int | None:
        """The close code that ended it."""

    @property
    def close_reason(self) -> str:
        """The reason sent with the close code."""

    @property
    def messages_received(self) -> int:
        """Data messages received."""

    @property
    def messages_sent(self) -> int:
        """Data messages sent."""

    @property
    def bytes_received(self) -> int:
        """Bytes received, including frame headers."""

    @property
    def bytes_sent(self) -> int:
        """Bytes sent, including frame headers."""


class LogCounts:
    """What a server's log has counted; kept across its runs.

    Attributes:
        ends: number of ended connections, by cause.
        slow_calls: number of callbacks that took longer than `slow_callback`.
    """

    def __init__(self) -> None:
        self.ends: dict[str, int] = {}
        self.slow_calls = 0


class Log:
    """The log of one run of a server.

    Args:
        reactor: provides the clock, and the timer for the summaries.
        counts: the server's counts; new ones by default.
    """

    def __init__(self, reactor: Reactor, counts: LogCounts | None = None) -> None:
        self.counts = LogCounts() if counts is None else counts
        self._blame: tuple[float, str] | None = None  # last slow callback, and when
        self._named: deque[tuple[float, float]] = deque(maxlen=_NAMED)
        self._reactor = reactor
        self.may_say = reactor.repeats.may_say

    def end(self) -> None:
        """Write the summary now: its timer ends with the loop."""
        self._reactor.repeats.sum_up()

    def note_end(self, client: Ended) -> None:
        """A connection has ended."""
        ended = client.close_cause
        cause = str(ended)
        ends = self.counts.ends
        ends[cause] = ends.get(cause, 0) + 1
        level = logging.INFO if ended in FAULTS else logging.DEBUG
        if logger.isEnabledFor(level) and self.may_say(f"ended by {cause}"):
            self._say_end(client, cause, level)

    def note_refusal(self, address: Any, why: str, status: int | None = None) -> None:
        """A client was refused, or disconnected because of its identity.

        Args:
            address: of the client, if known.
            why: for the operator; may say more than the client was told.
            status: HTTP status; None after the handshake.
        """
        kind = "refused" if status is None else f"refused with {status}"
        if logger.isEnabledFor(logging.INFO) and self.may_say(kind):
            logger.info(
                "client at %s %s: %s",
                address,
                kind,
                # It may quote the client, which must not inject log lines.
                one_line(why),
                extra={
                    "ws_event": "refused",
                    "ws_address": address,
                    "ws_status": status,
                    "ws_reason": why,
                },
            )

    def note_failure(
        self,
        kind: str,
        text: str,
        *args: object,
        error: BaseException | None = None,
        client: Ended | None = None,
        request: Request | None = None,
    ) -> None:
        """The program failed; the first failures of a kind get tracebacks.

        Args:
            kind: a few words for the summary; from a small set.
            text: format of the line.
            *args: its arguments.
            error: the exception; None if the line says everything.
            client: the client affected.
            request: the same, before there is a client.
        """
        self._reactor.failure_listener(error or RuntimeError(text % args))
        if not self.may_say(kind, logging.ERROR):
            return
        source = client or request
        logger.error(
            text,
            *args,
            exc_info=error,
            extra={
                "ws_event": "failure",
                "ws_client": None if client is None else client.id,
                "ws_client_id": None if client is None else client.client_id,
                "ws_address": None if source is None else source.address,
                "ws_path": None if source is None else source.path,
                "ws_error": None if error is None else type(error).__name__,
            },
        )

    def note_cut(self, request: object, why: str, level: int = logging.DEBUG) -> None:
        """A client has not read the whole response to a plain request."""
        kind = "answer cut"
        if logger.isEnabledFor(level) and self.may_say(kind):
            logger.log(
                level,
                "the answer to %r was cut: %s",
                request,
                why,
                extra={"ws_event": kind.replace(" ", "_"), "ws_reason": why},
            )

    def note_answered(
        self, request: Request, address: Any, status: int, sent: int, seconds: float
    ) -> None:
        """A plain request was answered; for servers with `access_log`.

        Its query is left out: it may hold a token.

        Args:
            request: what was asked for.
            address: of the client.
            status: of the response.
            sent: bytes of the response, head included.
            seconds: from the head of the request to the last byte of the response.
        """
        path = one_line(request.path)
        access.info(
            '%s "%s %s" %d %d %.3f',
            address[0] if isinstance(address, tuple) else address or "-",
            request.method,
            path,
            status,
            sent,
            seconds,
            extra={
                "ws_event": "request",
                "ws_address": address,
                "ws_method": request.method,
                "ws_path": request.path,
                "ws_status": status,
                "ws_bytes_sent": sent,
                "ws_seconds": seconds,
            },
        )

    def call(
        self,
        source: HasPath | None,
        owner: str,
        function: Callable[..., R],
        *args: object,
    ) -> R:
        """Call a function of the user's, and log its name if it blocks the loop.

        Args:
            source: the client or request it is called for; None for timers. Its path
                is read only when needed: a parsed request takes memory.
            owner: the name of its owner, or words before its name, with a space.
            function: raises what it likes.
            args: its arguments.
        """
        reactor = self._reactor
        began = reactor.clock()
        try:
            return function(*args)
        finally:
            spent = reactor.clock() - began
            if spent > reactor.slow:
                self.note_slow_call(source, owner, function, spent)

    def note_slow_call(
        self,
        source: HasPath | None,
        owner: str,
        function: Callable[..., object],
        seconds: float,
    ) -> None:
        """Log a call that has blocked the loop for so long, until now; see `call`."""
        point = "" if owner[-1:] in ("", " ", ".") else "."
        path = None if source is None else source.path
        self.note_slow(f"{owner}{point}{name_of(function)}", path, seconds)

    def note_slow(self, what: str, path: str | None, seconds: float) -> None:
        """Log a callback that has blocked the loop for too long, until now.

        Slow calls inside it were logged already; their time does not count.

        Args:
            what: its name.
            path: path of the request it was called for; None for timers.
            seconds: its duration.
        """
        now = self._reactor.time()
        began = now - seconds
        for start, end in self._named:
            seconds -= max(0.0, end - max(start, began))
        if seconds <= self._reactor.slow:
            return
        self.counts.slow_calls += 1
        self._named.append((now - seconds, now))
        where = what if path is None else f"{what} at {path!r}"
        self._blame = now, f"{where} ({seconds:.2f} s)"
        if self.may_say(f"slow: {what}"):
            logger.warning(
                "%s blocked the loop for %.2f s: no other client was served",
                where,
                seconds,
                extra={
                    "ws_event": "slow_callback",
                    "ws_callback": what,
                    "ws_path": path,
                    "ws_seconds": seconds,
                },
            )

    def note_slow_client(self, client: Ended, seconds: float) -> None:
        """Processing the input of a connection has blocked the loop for too long."""
        self.note_slow(f"{client._handler._log_name}.on_message", client.path, seconds)

    def _say_end(self, client: Ended, cause: str, level: int) -> None:
        began = "peer" if client.close_cause in _BY_PEER else "us"
        age = max(0.0, time.time() - client.opened_at)
        latency = "" if client.latency is None else f", latency {client.latency:.3f} s"
        blame = self._blamed_for(client)
        logger.log(
            level,
            "client %d of %s ended by %s (%s began): %s %r after %.1f s, "
            "%d messages in, %d out%s%s",
            client.id,
            client.address,
            cause,
            began,
            client.close_code,
            client.close_reason,
            age,
            client.messages_received,
            client.messages_sent,
            latency,
            blame,
            extra=_fields(client, cause, began, age, blame),
        )

    def _blamed_for(self, client: Ended) -> str:
        """The callback that held the loop while we waited for a peer that timed out."""
        if client.close_cause is not CloseCause.PING_TIMEOUT or self._blame is None:
            return ""
        when, who = self._blame
        since = client._pinged_at
        return f"; meanwhile {who} blocked the loop" if since and when >= since else ""


def _fields(
    client: Ended, cause: str, began: str, age: float, blame: str
) -> Mapping[str, Any]:
    return {
        "ws_event": "close",
        "ws_client": client.id,
        "ws_client_id": client.client_id,
        "ws_address": client.address,
        "ws_path": client.path,
        "ws_cause": cause,
        "ws_code": client.close_code,
        "ws_reason": client.close_reason,
        "ws_began": began,
        "ws_age": age,
        "ws_messages_received": client.messages_received,
        "ws_messages_sent": client.messages_sent,
        "ws_bytes_received": client.bytes_received,
        "ws_bytes_sent": client.bytes_sent,
        "ws_latency": client.latency,
        "ws_blame": blame,
    }
