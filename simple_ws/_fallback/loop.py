"""State and statistics that connections share with the loop that drives them, in pure
Python; the twin of `_c/loop.pxi`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from threading import get_ident
from typing import Any

from ..deflate import Agreement
from .codecs import Deflater

__all__ = ["LoopState", "Tally"]


class Tally:
    """Counts of all connections of one handler, since it was created.

    Attributes:
        messages_received, messages_sent: data messages.
        bytes_received, bytes_sent: on the wire, after the handshake, without TLS.
        plain_sent, packed_sent: bytes of compressed messages before and after.
        packed_received, plain_received: the same for received messages.
        dropped: messages refused or dropped by the slow-consumer policy.
        busy: seconds spent on input, callbacks included.
    """

    def __init__(self) -> None:
        self.messages_received = self.messages_sent = 0
        self.bytes_received = self.bytes_sent = 0
        self.plain_sent = self.packed_sent = 0
        self.packed_received = self.plain_received = 0
        self.dropped = 0
        self.busy = 0.0


class LoopState:
    """State that connections share with the loop that drives them.

    Args:
        clock: seconds that never run backwards.

    Attributes:
        now: the clock at the beginning of this turn, in seconds.
        owner: ident of the thread that runs the loop.
        dirty: connections to be flushed at the end of the turn.
        attention: something other than readiness needs the loop: a call, a deadline.
        eager: call `on_dirty` for output that is written outside of a turn.
        buffered: bytes of unsent output of all connections.
        buffered_limit: beyond it, `_make_room` is called if output is waiting.
        slow: seconds that one connection may block the loop before `on_slow` is called.
        pause: seconds after which a turn counts as a pause, in which no socket was
            read; `on_pause` is called then.
        longest_turn: seconds of the longest turn since this was set to 0.
        interrupted: an exception that ends programs was raised; it is raised again at
            the end of the turn, and nothing more is called in it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.now = clock()
        self.owner = get_ident()
        self.dirty: list[Any] = []
        self.attention = self.eager = self.interrupted = False
        self.buffered = 0
        self.buffered_limit = 2**63 - 1
        self.slow = self.pause = math.inf
        self.longest_turn = 0.0
        self._mark = self.now  # time is accounted for up to here

        # The last message given to a compressing connection in this turn, and its
        # shared compressed forms, by agreement.
        self._source: object = None
        self._packed: dict[int, tuple[Agreement, bytes]] = {}

    def tick(self) -> None:
        """Read the clock; called at the beginning of a turn."""
        self.now = self._mark = self.clock()

    def on_dirty(self) -> None:
        """Output was written outside of a turn, so nothing will flush it yet."""

    def on_slow(self, target: object, seconds: float) -> None:
        """A target called for readiness has blocked the loop for longer than `slow`."""

    def on_pause(self, began: float, ended: float) -> None:
        """No socket was read between these two times."""

    def _account(self, target: object) -> None:
        """Account for the time since the clock was last read."""
        now = self.clock()
        spent, self._mark = now - self._mark, now
        tally = getattr(target, "_counts", None)
        if tally is not None:
            tally.busy += spent
        if spent > self.slow:
            self.on_slow(target, spent)

    def _end_turn(self) -> None:
        """Note how long no socket was read, and report it if it was too long."""
        self.longest_turn = max(self.longest_turn, self._mark - self.now)
        if self._mark - self.now > self.pause:
            self.on_pause(self.now, self._mark)

    def on_failure(self, target: object, error: BaseException) -> None:
        """A target called for readiness raised; the loop must continue."""
        raise error

    def on_interrupt(self, error: BaseException) -> None:
        """A callback raised a BaseException; the loop must raise it again."""
        raise error

    def flush(self) -> None:
        """Write waiting output, once per connection; callbacks may refill outboxes."""
        self._note_source(None)
        while self.dirty and not self.interrupted:
            dirty, self.dirty = self.dirty, []
            rest = iter(dirty)
            try:
                for connection in rest:
                    try:
                        connection._dirty = False
                        connection._flush()
                    except BaseException as error:
                        self.on_failure(connection, error)
                    if self.interrupted:
                        # Since then, which mypy does not know.
                        break  # type: ignore[unreachable]
            finally:
                # Empty unless something interfered: the rest is flushed next turn.
                self.dirty[:0] = rest

    def _note_source(self, source: object) -> None:
        self._source = source
        self._packed = {}

    def _pack_for_all(self, agreement: Agreement, payload: bytes) -> bytes:
        """A message compressed without reference to any other, once for all receivers
        with the same agreement."""
        # Held here: code that runs meanwhile may send another message. The agreement is
        # stored with the entry it identifies; otherwise another could get its id.
        forms = self._packed
        form = forms.get(id(agreement))
        if form is None:
            deflater = Deflater(
                agreement.level, agreement.mem_level, agreement.send_window_bits, False
            )
            form = forms[id(agreement)] = agreement, deflater.compress(payload)
        return form[1]
