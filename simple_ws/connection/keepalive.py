"""Keepalive of server connections: pings, and peers that are silent, idle or dead.

The rules are in `protocol.keepalive`. This module adds what a server needs: slow peers
that are not dead, pauses in which the server did not read, and calls from
`speedups.Wheel`.
"""

from __future__ import annotations

from ..constants import CloseCause, CloseCode, Opcode
from ..loop.reactor import unsent_by_system
from ..protocol.keepalive import (
    Action,
    Pings,
    beat_payload,
    next_action,
    next_look,
    no_answer,
)
from ..speedups import build_frame
from .backpressure import untaken
from .interfaces import Connection

__all__ = ["KeepAlive"]

_PING = 0x80 | Opcode.PING

#: Pings remembered until their pong comes; only user code sends more than a handful.
_MAX_PINGS = 64
#: How many of these may wait in the outbox of a peer that does not read: control frames
#: are never dropped, so their number needs a limit.
_MAX_QUEUED = 16


class KeepAlive:
    """Pings peers and judges their silence (RFC 6455 §5.5.2); shared by all.

    The extension does the same for ordinary connections (`_c/heartbeat.pxi`), and asks
    here where anything is out of the ordinary.
    """

    def start(self, client: Connection) -> None:
        """The connection is open: check it from time to time."""
        client._pings_itself = type(self) is KeepAlive
        if client._options.ping or client._options.idle_timeout is not None:
            client._loop.wheel.put(client, self._next_look(client, client._loop.now))

    def look(self, client: Connection, now: float) -> float | None:
        """Ping a silent peer; close a dead or idle one.

        Returns:
            When to check again, or None for never.
        """
        if not client.is_open():
            return None
        _take_beat(client)
        options = client._options
        if client._paused_by_callbacks or client._paused_by_backpressure:
            client._last_message = now  # reading is paused, by us
        if options.idle_timeout and _waited(
            client, client._last_message, now, options.idle_timeout
        ):
            reason = f"no message within idle_timeout {options.idle_timeout:g} s"
            client._close(CloseCode.GOING_AWAY, reason, CloseCause.IDLE_TIMEOUT)
            return None
        if options.ping and not self._look_for_life(client, now):
            return None
        return self._next_look(client, now)

    def ping(self, client: Connection, payload: bytes) -> bool:
        """Send a ping and expect its pong; return False when that is not possible."""
        _take_beat(client)
        pings = client._pings
        if not client.is_open() or (
            client._write_blocked and len(pings or ()) > _MAX_QUEUED
        ):
            return False
        if pings is None:
            pings = client._pings = Pings()
        pings.note(payload, client._loop.clock(), _MAX_PINGS)
        client._enqueue(build_frame(_PING, payload))
        return True

    def on_ping(self, client: Connection, payload: bytes) -> None:
        """A ping was received; the protocol has answered it."""
        client.ping_payload = payload
        client._call(client._handler.on_ping, client)

    def on_pong(self, client: Connection, payload: bytes) -> None:
        """A pong was received."""
        _take_beat(client)
        client.pong_payload = payload
        pings = client._pings or Pings()
        answered = pings.answer(payload, client._loop.clock())
        if answered:
            client.latency = answered[-1][1]
            client._pings = pings or None
        client._call(client._handler.on_pong, client)

    def _look_for_life(self, client: Connection, now: float) -> bool:
        options = client._options
        if client._paused_by_callbacks:
            client._last_received = now  # reading is paused, by us
        action, client._pinged_at = next_action(
            now,
            client._last_received,
            client._pinged_at,
            options.ping_interval,
            options.ping_timeout,
        )
        if action is Action.PING:
            self._beat(client)
        elif action is Action.GIVE_UP and client._pinged_at is not None:
            return self._may_wait(client, client._pinged_at, now)
        return True

    def _may_wait(self, client: Connection, pinged_at: float, now: float) -> bool:
        """A peer has not answered in time: close, unless that is not its fault."""
        timeout = client._options.ping_timeout
        if not _waited(client, pinged_at, now, timeout):
            return True
        if _is_taking(client):
            client._pinged_at = now  # the ping has not reached it yet
            return True
        reason = no_answer(timeout)
        client._close(CloseCode.INTERNAL_ERROR, reason, CloseCause.PING_TIMEOUT)
        return False

    def _beat(self, client: Connection) -> None:
        payload = beat_payload()
        left = untaken(client)
        place = client.bytes_sent + client.buffered_amount
        client._ahead = (place, left) if left else None
        self.ping(client, payload)
        self.on_ping(client, payload)

    def _next_look(self, client: Connection, now: float) -> float:
        options, deadlines = client._options, []
        if options.ping:
            received, pinged_at = client._last_received, client._pinged_at
            interval, delay = options.ping_interval, client._ping_delay
            due = next_look(received, pinged_at, interval, options.ping_timeout)
            assert due is not None
            if pinged_at is None or received >= pinged_at:
                due += delay
            else:
                # Usually it has answered by then, but nothing tells the wheel.
                due = min(due, max(pinged_at + delay, now) + interval)
            deadlines.append(due)
        if options.idle_timeout is not None:
            deadlines.append(client._last_message + options.idle_timeout)
        return min(deadlines)


def _take_beat(client: Connection) -> None:
    """Note the ping that the byte path has sent, and that is not answered yet."""
    beat = client._take_beat()
    if beat is not None:
        pings = client._pings = client._pings or Pings()
        pings.note(*beat)


def _waited(client: Connection, since: float, now: float, seconds: float) -> bool:
    """Whether the server has been reading for this long."""
    if now - since < seconds:
        return False
    # Time in which we read from nobody does not count against a peer.
    return now - since - client._loop.paused_since(since) >= seconds


def _is_taking(client: Connection) -> bool:
    """Whether the peer has read more of what was sent before the ping: then it is slow,
    not dead."""
    if client._ahead is None:
        return False
    place, left_before = client._ahead
    left = place - client.bytes_sent + unsent_by_system(client._sock)
    client._ahead = (place, left) if left > 0 else None
    return left < left_before
