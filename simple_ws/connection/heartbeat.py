"""`Heartbeat`: pings, pongs, and silent, idle or dead peers (RFC 6455 §5.5.2)."""

from __future__ import annotations

import itertools
from typing import Any

from ..constants import CloseCause, CloseCode
from ..loop.reactor import unsent_by_system
from .closing import Ending

__all__ = ["Heartbeat"]

#: Pings whose answer is waited for; more than a handful only a user sends.
_MAX_PINGS = 64
#: Pings of these that a peer that does not read is sent: control frames are never
#: dropped, and nothing may grow without bound.
_MAX_QUEUED = 16

_beats = itertools.count(1)


class Heartbeat(Ending):
    """A connection whose peer is asked for a sign of life (`timers.Sweepable`).

    Attributes:
        latency: seconds from the last answered ping to its pong, or None.
        ping_payload, pong_payload: bytes of the last ping and pong.
    """

    __slots__ = (
        "_ahead",
        "_pinged_at",
        "_pings",
        "_wheel_slot",
        "latency",
        "ping_payload",
        "pong_payload",
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.latency: float | None = None
        self.ping_payload = self.pong_payload = b""
        self._wheel_slot: dict[Any, None] | None = None
        self._pinged_at: float | None = None
        #: Where the ping stands in our output, and how much before it the peer has not
        #: taken; None for nothing.
        self._ahead: tuple[int, int] | None = None
        self._pings: dict[bytes, float] | None = None  # made when first used

    def _on_ping(self, payload: bytes) -> None:
        self.ping_payload = payload
        self._call(self._handler.on_ping, self)

    def _on_pong(self, payload: bytes) -> None:
        self.pong_payload = payload
        pings = self._pings or {}
        sent_at = pings.get(payload)
        if sent_at is not None:
            self.latency = self._loop.clock() - sent_at
            # A pong answers the pings before it as well (§5.5.3).
            for earlier in list(pings):
                del pings[earlier]
                if earlier == payload:
                    break
            self._pings = pings or None
        self._call(self._handler.on_pong, self)

    def _ping(self, payload: bytes) -> bool:
        if not self.is_open() or (
            self._blocked and len(self._pings or ()) > _MAX_QUEUED
        ):
            return False
        pings = self._pings = self._pings or {}
        pings.pop(payload, None)
        if len(pings) == _MAX_PINGS:
            del pings[next(iter(pings))]
        pings[payload] = self._loop.clock()
        self._enqueue(self._protocol.send_ping(payload))
        return True

    def _sweep(self, now: float) -> float | None:
        """Ping a silent peer, give up a dead or idle one (`timers.Sweepable`)."""
        if not self.is_open():
            return None
        options = self._options
        if self._held or self._deaf:
            self._last_message = now  # it is we who do not listen
        if options.idle_timeout and self._waited(
            self._last_message, now, options.idle_timeout
        ):
            reason = f"no message within idle_timeout {options.idle_timeout:g} s"
            self._close(CloseCode.GOING_AWAY, reason, CloseCause.IDLE_TIMEOUT)
            return None
        if options.ping and not self._keep_alive(now):
            return None
        return self._next_deadline()

    def _keep_alive(self, now: float) -> bool:
        options, pinged_at = self._options, self._pinged_at
        if self._held:
            self._last_received = now  # it is we who do not listen
        if pinged_at is not None and self._last_received >= pinged_at:
            pinged_at = self._pinged_at = None  # any byte is a sign of life
        if pinged_at is None:
            if now - self._last_received >= options.ping_interval:
                self._pinged_at = now
                self._heartbeat()
        elif self._waited(pinged_at, now, options.ping_timeout):
            if self._is_taking():
                self._pinged_at = now  # the ping has not come to it yet
                return True
            reason = (
                f"no answer to a ping within ping_timeout {options.ping_timeout:g} s"
            )
            self._close(CloseCode.INTERNAL_ERROR, reason, CloseCause.PING_TIMEOUT)
            return False
        return True

    def _waited(self, since: float, now: float, seconds: float) -> bool:
        """Whether we have listened for so long."""
        if now - since < seconds:
            return False
        # What a peer did not do while we heard nobody is not held against it.
        return now - since - self._loop.paused_since(since) >= seconds

    def _is_taking(self) -> bool:
        """Whether the peer has gone on taking what stands before the ping: such a one
        is slow, and not dead."""
        if self._ahead is None:
            return False
        place, left_before = self._ahead
        left = place - self.bytes_sent + unsent_by_system(self._sock)
        self._ahead = (place, left) if left > 0 else None
        return left < left_before

    def _heartbeat(self) -> None:
        payload = b"%x" % next(_beats)
        left = self._untaken()
        place = self.bytes_sent + self.buffered_amount
        self._ahead = (place, left) if left else None
        self._ping(payload)
        self.ping_payload = payload
        self._call(self._handler.on_ping, self)

    def _next_deadline(self) -> float:
        options, deadlines = self._options, []
        if options.ping:
            if self._pinged_at is not None:
                deadlines.append(self._pinged_at + options.ping_timeout)
            deadlines.append(
                max(self._last_received, self._pinged_at or 0) + options.ping_interval
            )
        if options.idle_timeout is not None:
            deadlines.append(self._last_message + options.idle_timeout)
        return min(deadlines)
