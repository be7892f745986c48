"""State and statistics that connections share with the loop that drives them, in pure
Python; the twin of `_c/loop.pxi`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any

from ..constants import LEAST_SHARE, LONGEST_SHARE, TURN
from ..deflate import Agreement
from .codecs import Deflater

__all__ = ["Counters", "LoopState"]


class Counters:
    """Counts of all connections of one handler, since it was created, and the rules of
    their heartbeat.

    Attributes:
        messages_received, messages_sent: data messages.
        bytes_received, bytes_sent: on the wire, after the handshake, without TLS.
        plain_sent, packed_sent: bytes of compressed messages before and after.
        packed_received, plain_received: the same for received messages.
        dropped: messages refused or dropped by the slow-consumer policy.
        conflated: messages replaced by newer ones before they were sent.
        busy: seconds spent on input, callbacks included.
        ping_interval, ping_timeout, idle_timeout: the options in force, in seconds;
            infinite ones never pass.
        quiet: nobody is to be told of pings and pongs.
    """

    def __init__(self) -> None:
        self.messages_received = self.messages_sent = 0
        self.bytes_received = self.bytes_sent = 0
        self.plain_sent = self.packed_sent = 0
        self.packed_received = self.plain_received = 0
        self.dropped = self.conflated = 0
        self.busy = 0.0
        self.ping_interval = self.ping_timeout = self.idle_timeout = math.inf
        self.quiet = False


class LoopState:
    """State that connections share with the loop that drives them.

    Args:
        clock: seconds that never run backwards.

    Attributes:
        now: the clock at the beginning of this turn, in seconds.
        owner: ident of the thread that runs the loop.
        dirty: connections to be flushed at the end of the turn.
        run_queue: connections that continue after the others were served, in order.
        share: seconds that one connection may take at once, checked before each message
            and event.
        attention: something other than readiness needs the loop: a call, a deadline.
        eager: call `on_dirty` for output that is written outside of a turn.
        buffered: bytes of unsent output of all connections.
        buffered_limit: beyond it, `_make_room` is called if output is waiting.
        buffered_input: bytes of input kept by `input_holders`, by their `id`: what is
            incomplete, or waits for a callback.
        buffered_input_limit: beyond it, `on_too_much_input` is called.
        slow: seconds that the callbacks of one connection may block the loop before
            `on_slow` is called; inflating and compressing do not count.
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
        self.run_queue: list[Any] = []
        self._carried_over = 0  # of them, who waited when this turn began
        self.share = self._fair_share = LONGEST_SHARE
        self.attention = self.eager = self.interrupted = False
        self.buffered = 0
        self.buffered_limit = 2**63 - 1
        self.buffered_input = 0
        self.buffered_input_limit = 2**63 - 1
        self.input_holders: dict[int, Any] = {}
        self.slow = self.pause = math.inf
        self.longest_turn = 0.0
        self._poller: Any = None  # the extension has one
        self._mark = self.now  # until when time has been accounted for
        self._own_work = 0.0  # seconds since then that are not the callbacks'
        self._phase = 0  # of the next connection

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
        """Callbacks of what was heard have held the loop for longer than `slow`."""

    def note_input(self, holder: Any, before: int, size: int) -> None:
        """A holder of input has so many bytes now; it says how many it had before."""
        if not size:
            self.input_holders.pop(id(holder), None)
        elif not before:
            self.input_holders[id(holder)] = holder
        self.buffered_input += size - before
        if self.buffered_input > self.buffered_input_limit:
            self.on_too_much_input()

    def on_too_much_input(self) -> None:
        """More than `buffered_input_limit` is kept."""

    def on_pause(self, began: float, ended: float) -> None:
        """No socket was read between these two times."""

    def _account(self, target: Any) -> None:
        """Book the time since the last look at the clock."""
        now = self.clock()
        spent, self._mark = now - self._mark, now
        counters = getattr(target, "_checked_counters", None)
        if counters is not None:
            counters.busy += spent
            if spent > self._fair_share:
                target._yield_turn()
        if spent - self._own_work > self.slow:
            self.on_slow(target, spent - self._own_work)
        self._own_work = 0.0

    def _allot(self, ready: int) -> None:
        """Divide this turn among so many."""
        share = LONGEST_SHARE
        if ready * LONGEST_SHARE > TURN:
            share = max(LEAST_SHARE, TURN / ready)
        self.share = self._fair_share = share
        self._own_work = 0.0
        self._carried_over = len(self.run_queue)

    def _is_spent(self) -> bool:
        """Whether those who were heard have used this turn up."""
        return self._mark - self.now > TURN

    def serve_run_queue(self) -> None:
        """Let those go on who waited for that when this turn began, until it is used
        up; the others are the first of the next."""
        if not self._carried_over:
            return
        waiting, late = deque(self.run_queue), self._carried_over
        self.run_queue, self._carried_over = [], 0
        self.share = LONGEST_SHARE
        end = max(self.now + TURN, self.clock() + LEAST_SHARE)
        try:
            while late and not self.interrupted:
                late -= 1
                waiting.popleft()._receive_more()
                if self._mark > end:
                    break
        finally:
            self.run_queue[:0] = waiting

    def _note_own_work(self, began: float) -> None:
        """What was done since then is no callback's."""
        self._own_work += self.clock() - began

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
            form = forms[id(agreement)] = agreement, self._compress(deflater, payload)
        return form[1]

    def _compress(self, deflater: Deflater, payload: bytes) -> bytes:
        began = self.clock()
        packed = deflater.compress(payload)
        self._note_own_work(began)
        return packed
