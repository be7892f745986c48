"""Backpressure: what becomes of output for a peer that reads too slowly.

Asked when a message would take the unsent output over `write_limit` or `max_buffered`;
the limits and the counts are kept by the byte path (`ConnectionCore`).
"""

from __future__ import annotations

from ..constants import CloseCause, CloseCode
from ..loop.reactor import unsent_by_system
from .interfaces import Connection

__all__ = ["SlowConsumers", "untaken"]


class SlowConsumers:
    """Applies the option `slow_consumer`; shared by all connections."""

    def make_room(self, client: Connection, size: int) -> bool:
        """Return whether a message of `size` bytes may still enter the outbox."""
        if not client._write_blocked:
            client._flush()  # this turn's output may simply not be flushed yet
        if not client.is_open():
            return False
        waiting, reactor = client.buffered_amount, client._loop
        too_long = waiting + size > client._write_limit or client._has_too_many()
        too_much = reactor.buffered > reactor.buffered_limit
        if not waiting or not (too_long or too_much):
            return True
        policy = client._options.slow_consumer
        if policy == "close":
            self._close(client, too_long)
            return False
        client._await_drain = True
        return policy == "drop_old" and self._drop_for(client, size)

    def _close(self, client: Connection, too_long: bool) -> None:
        reason = f"unsent output exceeds write_limit {client._write_limit:,}"
        if not too_long:
            limit = client._loop.buffered_limit
            reason = f"unsent output of all clients exceeds max_buffered {limit:,}"
        client._counters.dropped += client._drop_oldest(client.buffered_amount)
        client._close(CloseCode.TRY_AGAIN_LATER, reason, CloseCause.SLOW_CONSUMER)

    def _drop_for(self, client: Connection, size: int) -> bool:
        """Drop the oldest messages for a new one; drop none if that is not enough."""
        waiting, reactor = client.buffered_amount, client._loop
        excess = max(1, waiting + size - client._write_limit)
        if reactor.buffered > reactor.buffered_limit:
            excess = max(excess, size)  # so that the total does not grow
        excess = min(excess, waiting)
        if excess > waiting - client._unfinished():
            return False
        client._counters.dropped += client._drop_oldest(excess)
        return client.buffered_amount <= waiting - excess


def untaken(client: Connection) -> int:
    """Bytes of output that the peer has not acknowledged, if the system can say."""
    return client.buffered_amount + unsent_by_system(client._sock)
