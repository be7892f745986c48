"""The event loop: readiness, timers, calls from other threads, one flush per turn.

It has never heard of WebSocket. A turn (`run_once`) waits for readiness, calls what is
ready, then the timers that are due, then what other threads queued, then connections
that had more than their share to do, and at the end writes every outbox that was filled
meanwhile, once. Each of these is bounded by time (`constants.TURN`); what is left comes
first in the next turn.
"""

from __future__ import annotations

import logging
import math
import os
import select
import selectors
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from ..constants import LEAST_SHARE, MAX_READY, TURN
from ..errors import InvalidState
from ..speedups import LoopState
from .repeats import Repeats
from .selector import EpollSelector, best_selector
from .shedding import shed_input
from .timers import Timer, Timers, Wheel

if sys.platform == "linux":
    from fcntl import ioctl
    from termios import TIOCOUTQ

__all__ = ["Outbox", "Reactor", "unsent_by_system"]

logger = logging.getLogger("simple_ws")

#: Bytes that a queued call takes in addition to its message, roughly.
_CALL_SIZE = 256
#: Queued calls per turn: some milliseconds, then clients are read again.
_MANY_CALLS = 1024
#: Rounds of queued calls before closing, after those queued already: threads that never
#: stop queueing must not block the end.
_LAST_ROUNDS = 100
#: Ticks of the wheel in a grain, so that what is due a little later is done later.
_TICKS = 32
#: Pauses that are remembered; each lasted half a second or more.
_MANY_PAUSES = 100

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


class Outbox(Protocol):
    """What can be flushed at the end of a turn."""

    #: It is among those that will be.
    _dirty: bool

    def _flush(self) -> object:
        """Write output; it may be called without any."""


def unsent_by_system(sock: Any) -> int:
    """Bytes in the system's send queue that the peer has not acknowledged.

    0 where the system does not tell (Linux does). For a Unix socket it is the memory
    that they take: compare such numbers, do not add them up.
    """
    if sys.platform != "linux":
        return 0
    try:
        answer = ioctl(sock.fileno(), TIOCOUTQ, b"\0" * 4)
    except (OSError, ValueError):  # closed
        return 0
    return int(struct.unpack("i", answer)[0])


def _wait(select: Callable[[], object]) -> None:
    with suppress(OSError, ValueError, KeyError):  # something was closed meanwhile
        select()


class Reactor(LoopState):
    """A `selectors` loop for one thread.

    It owns descriptors only between `open` and `close`.

    Args:
        grain: seconds by which coarse deadlines (`speedups.Wheel`) may be exceeded.
        clock: seconds that never run backwards.
        selector: any `selectors.BaseSelector`; the best of the platform by default.
        busy_poll: seconds to poll before sleeping, which saves the wake-up (some
            10 µs) at the cost of a core.
        buffered_limit, buffered_input_limit, slow, pause: see `LoopState`.
        slow_listener: called with the target that has blocked the loop for longer than
            `slow` seconds, and with its duration.

    Attributes:
        timers, wheel: exact deadlines, and coarse ones for very many owners.
        turning: whether a turn is running; if so, the caller runs inside it.
        work_listener: called when `eager` is set and there is work while no turn is
            running; for event loops that drive this one.
        failure_listener: called with each exception of the program that is logged; for
            tests, which fail by it.

    Only `call_threadsafe` and `wake` may be called from other threads.
    """

    def __init__(
        self,
        grain: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        selector: selectors.BaseSelector | None = None,
        *,
        busy_poll: float = 0.0,
        buffered_limit: int | None = None,
        buffered_input_limit: int | None = None,
        slow: float = math.inf,
        pause: float = math.inf,
        slow_listener: Callable[[object, float], object] | None = None,
    ) -> None:
        super().__init__(clock)
        self.slow, self.pause = slow, pause
        if buffered_limit is not None:
            self.buffered_limit = buffered_limit
        if buffered_input_limit is not None:
            self.buffered_input_limit = buffered_input_limit
        self._shedding = False  # it is queued
        self._given_selector = selector
        self._selector: selectors.BaseSelector
        self.timers = Timers(clock)
        #: What may be written to the log, of lines that repeat.
        self.repeats = Repeats(self.call_later)
        self.wheel = Wheel(grain / _TICKS, self.want_attention, clock)
        self._calls: deque[Callable[[], object]] = deque()
        self._waker: socket.socket | None = None
        self._woken = False
        #: Held while `_woken` is looked at: what was queued before is seen, even if no
        #: GIL keeps the order. A signal handler may come while its thread holds it.
        self._waking = threading.RLock()
        self._pid = 0
        self._reserved = 0
        self._reserving = threading.Lock()
        self.turning = False
        self._interrupt: BaseException | None = None  # to be raised after this turn
        #: What is ready and was not heard, where the selector does not keep it itself.
        self._undispatched: list[Any] = []
        self._pauses: deque[tuple[float, float]] = deque(maxlen=_MANY_PAUSES)
        self._busy_poll = busy_poll
        self.work_listener: Callable[[], object] = lambda: None
        self.failure_listener: Callable[[BaseException], object] = lambda error: None
        self._slow_listener = slow_listener

    def open(self) -> None:
        """Create the descriptors; call it before the first turn."""
        self._selector = selector = self._given_selector or best_selector()
        self._register: Callable[[Any, int, Any], object] = selector.register
        self._modify: Callable[[Any, int, Any], object] = selector.modify
        self._unregister: Callable[[Any], object] = selector.unregister
        self._poller = None
        if isinstance(selector, EpollSelector):
            self._poller = selector._poller
            selector.busy_poll = self._busy_poll
            # Without the `SelectorKey` results: creating three of them takes a
            # twentieth of the time of a handshake.
            self._register, self._modify = selector.add, selector.change
            self._unregister = selector.remove
        self._pid = os.getpid()
        self._waker, self._wakee = socket.socketpair()
        self._waker.setblocking(False)
        self._wakee.setblocking(False)
        self._selector.register(self._wakee, READ, self._on_woken)

    def register(
        self, sock: Any, events: int, callback: Callable[[int], object]
    ) -> None:
        """Call `callback(ready events)` whenever `sock` is ready."""
        self._register(sock, events, callback)
        if self.eager:
            self.on_dirty()

    def modify(self, sock: Any, events: int, callback: Callable[[int], object]) -> None:
        """Change the events of a registered socket."""
        self._modify(sock, events, callback)
        if self.eager:
            self.on_dirty()

    def unregister(self, sock: Any) -> None:
        """Forget a socket; call it before closing the socket."""
        self._unregister(sock)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Call `callback()` in `delay` seconds."""
        return self.call_at(self.clock() + delay, callback)

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call `callback()` once the loop's clock reaches `when`."""
        self.want_attention()
        return self.timers.call_at(when, partial(self._guarded, callback))

    def time(self) -> float:
        """The current time of the clock, in seconds."""
        return self.clock()

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Call `callback()` at the top of the loop, in this turn or the next."""
        self._calls.append(callback)
        self.want_attention()

    def call_threadsafe(self, callback: Callable[[], object]) -> None:
        """Call `callback()` in the loop's thread; from any thread, in order."""
        self._calls.append(callback)
        self.attention = True
        self.wake()

    def reserve(self, size: int) -> bool:
        """Reserve memory for a call that another thread will queue; from any thread.

        On success the caller must call `release` when the call runs.
        """
        with self._reserving:
            if self._reserved and self._reserved + size > self.buffered_limit:
                return False
            self._reserved += size + _CALL_SIZE
        return True

    def release(self, size: int) -> None:
        """Return what `reserve` has granted."""
        with self._reserving:
            self._reserved -= size + _CALL_SIZE

    def wake(self) -> None:
        """Wake the loop; from any thread and from signal handlers."""
        waker = self._waker
        if waker is None:
            return
        with self._waking:
            if self._woken:
                return
            self._woken = True
        with suppress(OSError):  # closed meanwhile: the loop sleeps no more
            waker.send(b"\0")

    def run_once(self, timeout: float | None = None) -> None:
        """One turn: wait at most `timeout` seconds (None: without limit)."""
        self._turn(lambda: self._dispatch(self.time_to_sleep(timeout)), self._end_all)

    def run_turns(self) -> None:
        """Turn until something other than readiness needs attention.

        One turn like `run_once`, unless the selector can do more; then as many as
        needed, without a Python frame except for callbacks.
        """
        selector = self._selector
        # Reset first, then look at the calls: none queued in between is missed.
        self.attention = False
        if self._has_work() or not isinstance(selector, EpollSelector):
            self.run_once()
        else:
            due = self.timers.next_deadline()
            self._turn(lambda: self._run(selector, due), self._end_all)

    def run_ready(self) -> bool:
        """Call what is ready, and write all output, without waiting; in C if possible.

        It is the part of a turn that most turns need, for event loops that drive this
        one: a whole turn takes as long as an echo.

        Returns:
            Whether more is to be done: then call `run_once`.
        """
        selector = self._selector
        # Reset first, as in `run_turns`.
        attention, self.attention = self.attention, False
        if not isinstance(selector, EpollSelector) or attention or self._has_calls():
            return True
        self._turn(lambda: self._run(selector, self.now), self._note_end)
        return self.attention or self._has_work() or self._is_due()

    def want_attention(self) -> None:
        """Make `run_turns` return after this turn."""
        self.attention = True
        if self.eager:
            self.on_dirty()

    def flush_soon(self, outbox: Outbox) -> None:
        """Call `outbox._flush()` once at the end of this turn, or of the next.

        It is the cheapest way to be called there: the loop need not leave C for it.
        """
        if not outbox._dirty:
            outbox._dirty = True
            self.dirty.append(outbox)
            if self.eager:
                self.on_dirty()

    def on_dirty(self) -> None:
        """There is work to do outside of a turn."""
        self.work_listener()

    def _turn(self, poll: Callable[[], object], end: Callable[[], object]) -> None:
        """Call what is ready, by `poll`, and whatever else there is, by `end`."""
        if self.turning:
            raise InvalidState("the loop is running already: called from a callback")
        eager = self.eager
        try:
            # A signal handler may raise between any two lines.
            self.turning, self.eager = True, False
            self.owner = threading.get_ident()
            poll()
            end()
        finally:
            self.turning, self.eager = False, eager
            error, self._interrupt = self._interrupt, None
            self.interrupted = False
        if error is not None:
            raise error

    def _end_all(self) -> None:
        self._do_due()
        self._note_end()

    def _do_due(self) -> None:
        """Call what is due and what was queued, and write the resulting output.

        After an interrupt nothing more is called: it is called if the program goes on.
        """
        if self.interrupted:
            return
        try:
            self.timers.run_due(self.now)
            # After a failure the next turn continues with the remaining ones.
            self._guarded(partial(self.wheel.run_due, self.now))
            if self._calls:
                self._run_calls(max(self.now + TURN, self.clock() + LEAST_SHARE))
            if self.run_queue:
                self.serve_run_queue()
            self.flush()
        except BaseException as error:
            self.on_interrupt(error)

    def _note_end(self) -> None:
        ended = self.clock()
        self.longest_turn = max(self.longest_turn, ended - self.now)
        if ended - self.now > self.pause:
            self.on_pause(self.now, ended)

    def _guarded(self, callback: Callable[[], object]) -> None:
        """Call a callback that is due; an internal error must not end the loop."""
        try:
            callback()
        except Exception as error:
            self._log_failure("internal error in %r", callback, error)

    def _run(self, selector: EpollSelector, due: float | None) -> None:
        self._poll_rest(selector, selector.run(self, due, self.wheel))

    def _deadlines(self) -> list[float]:
        deadlines = (self.timers.next_deadline(), self.wheel.next_deadline)
        return [when for when in deadlines if when is not None]

    def _is_due(self) -> bool:
        return any(when <= self.now for when in self._deadlines())

    def _dispatch(self, timeout: float | None) -> None:
        """Wait, set the clock, and call what is ready."""
        selector = self._selector
        if not isinstance(selector, EpollSelector):
            if self._undispatched:
                ready = self._with_undispatched(selector)
            else:
                ready = self._spin(selector, timeout) or selector.select(timeout)
            self.tick()
            self._call_ready(ready)
            self._end_turn()
            return
        self._poll_rest(selector, selector.dispatch(self, timeout))

    def _with_undispatched(self, selector: selectors.BaseSelector) -> list[Any]:
        """What is ready, behind what is left of the last turn."""
        left, self._undispatched = self._undispatched, []
        known = selector.get_map()
        by_number: dict[int, Any] = {}
        for key, events in left + selector.select(0):
            # What was registered may have been closed, and its number be another's.
            now = known.get(key.fd)
            if now is not None and now.data is key.data:
                by_number.setdefault(key.fd, (key, events))
        return list(by_number.values())

    def _call_ready(self, ready: list[Any]) -> None:
        """Call what is ready until the turn is used up; the others are the first of
        the next."""
        self._allot(len(ready))
        rest = iter(ready)
        try:
            for key, events in rest:
                try:
                    key.data(events)
                except BaseException as error:
                    self.on_failure(key.data, error)
                self._account(key.data)
                if self.interrupted or self._is_spent():
                    break
        finally:
            self._undispatched.extend(rest)

    def _poll_rest(self, selector: EpollSelector, more: bool) -> None:
        """Read from every ready socket before a timeout is judged, also after a pause
        of our own. A descriptor is ready once at most in each round."""
        rounds = len(selector) // MAX_READY
        while more and rounds and self.wheel.is_due(self.now):
            more = selector.dispatch(self, 0)
            rounds -= 1

    def on_failure(self, target: object, error: BaseException) -> None:
        """A callback raised: abandon its connection, and continue.

        It is an internal error, or a signal handler's exception between two internal
        lines: the state of the connection is unknown. Exceptions of user code are
        handled before they get here.
        """
        while isinstance(target, partial):
            target = target.func
        owner = getattr(target, "__self__", target)
        if isinstance(error, Exception):
            self._log_failure("internal error in %r", owner, error)
        abandon = getattr(owner, "_abandon", None)
        if abandon is not None:
            abandon()
        if not isinstance(error, Exception):
            self.on_interrupt(error)

    def _log_failure(self, text: str, what: object, error: Exception) -> None:
        if self.repeats.may_say("internal errors", logging.ERROR):
            logger.error(text, what, exc_info=error)

    def on_interrupt(self, error: BaseException) -> None:
        """An exception that ends programs was raised: KeyboardInterrupt, SystemExit,
        CancelledError.

        In a turn nothing more is called, and it is raised once the state is consistent:
        no connection is left in the middle of its input.
        """
        if not self.turning:
            raise error
        if self._interrupt is None:
            self._interrupt = error
        self.interrupted = self.attention = True

    def on_slow(self, target: object, seconds: float) -> None:
        """A target called for readiness has blocked the loop for longer than `slow`."""
        if self._slow_listener is not None:
            self._slow_listener(target, seconds)

    def on_too_much_input(self) -> None:
        """More input is kept than `buffered_input_limit`: end some, soon.

        Not here: it may be noticed in the middle of somebody's input.
        """
        if not self._shedding:
            self._shedding = True
            self.call_soon(self._shed_input)

    def _shed_input(self) -> None:
        self._shedding = False
        shed_input(self)

    def on_pause(self, began: float, ended: float) -> None:
        """Nothing was read in this time; a turn may report it in parts."""
        if self._pauses:
            began = max(began, self._pauses[-1][1])
        self._pauses.append((began, ended))

    def paused_since(self, when: float) -> float:
        """Seconds since `when` in which nothing was read: no peer is to blame for them.

        A sum, not the moment of the last pause: a server that pauses again and again
        would never find out that a peer is dead.
        """
        total = 0.0
        for began, ended in reversed(self._pauses):
            if ended <= when:
                break
            total += ended - max(began, when)
        return total

    def _spin(
        self, selector: selectors.BaseSelector, timeout: float | None
    ) -> list[Any]:
        """Poll without sleeping, for at most `busy_poll` seconds."""
        spin = self._busy_poll if timeout is None else min(self._busy_poll, timeout)
        end = time.monotonic() + spin if spin else 0.0
        while time.monotonic() < end:
            if ready := selector.select(0):
                return ready
        return []

    def waiting(self) -> Callable[[], object]:
        """A function that waits until something is ready of what is registered now, and
        handles nothing; for another thread, while this one may go on."""
        selector = self._selector
        if not isinstance(selector, selectors.SelectSelector):
            return partial(_wait, selector.select)  # the system has the set
        keys = list(selector.get_map().values())
        readers = [key.fd for key in keys if key.events & READ]
        writers = [key.fd for key in keys if key.events & WRITE]
        # On Windows a connection that fails is an exceptional condition.
        return partial(_wait, partial(select.select, readers, writers, writers))

    def finish_calls(self) -> None:
        """Run queued calls, and those they queue, and flush; call it before `close`."""
        error: BaseException | None = None
        for _ in range(_LAST_ROUNDS + 3 * (len(self._calls) // _MANY_CALLS)):
            if not self._calls and not self.dirty:
                break
            try:
                self._run_calls(math.inf)
                self.flush()
            except BaseException as raised:
                error = error or raised  # raised after all calls
        if error is not None:
            raise error

    def fileno(self) -> int:
        """A descriptor that is readable when a turn has work, if the platform has one.

        Raises:
            AttributeError: This platform's selector has none.
        """
        return self._selector.fileno()  # type: ignore[attr-defined, no-any-return]

    def belongs_here(self) -> bool:
        """Whether this process has opened it, not the one that forked this one."""
        return self._pid == os.getpid()

    def forget(self) -> None:
        """Do nothing more, in a forked process; a turn that is under way ends so.

        The error for whoever has forked in a callback and came back is raised then.
        """
        self.close()
        self._calls.clear()
        self.dirty.clear()
        self.timers = Timers()
        self.wheel = Wheel(1.0, self.want_attention)
        self.work_listener = lambda: None
        self.eager, self.attention = False, True
        if self.turning:
            self.interrupted = True
            self._interrupt = InvalidState(
                "this process was forked in a callback of a server, which runs in its "
                "parent: end it with os._exit"
            )

    def close(self) -> None:
        """Close the descriptors; the reactor cannot be used afterwards."""
        if self._waker is not None:
            self._selector.close()
            self._waker.close()
            self._wakee.close()

    def _has_calls(self) -> bool:
        return bool(self._calls or self.run_queue or self._undispatched)

    def _has_work(self) -> bool:
        return self._has_calls() or bool(self.dirty)

    def time_to_sleep(self, timeout: float | None) -> float | None:
        """How long this turn may sleep."""
        if self._has_work():
            return 0
        for deadline in self._deadlines():
            rest = max(0.0, deadline - self.clock())
            timeout = rest if timeout is None else min(timeout, rest)
        return timeout

    def _on_woken(self, events: int) -> None:
        with suppress(BlockingIOError, InterruptedError):
            self._wakee.recv(4096)
        # Before looking at the calls: one queued from here on wakes the loop again.
        with self._waking:
            self._woken = False
        self.attention = True

    def _run_calls(self, until: float) -> None:
        # Only as many as there are now: callbacks that queue more get the next turn.
        for _ in range(min(len(self._calls), _MANY_CALLS)):
            if self.interrupted:
                return
            call = self._calls[0]
            try:
                self._calls.popleft()
                call()
            except Exception as error:
                text = "a call queued from another thread failed: %r"
                self._log_failure(text, call, error)
            except BaseException as error:
                self.on_failure(call, error)
            if self.clock() > until:
                return
