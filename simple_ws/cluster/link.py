"""The link: an engine's connection, driven by the server's reactor.

It connects, connects again when the connection is lost, and moves bytes and time
between the socket and the `Engine`, which decides what they mean. Only connecting
blocks, and has a thread; no other thread stands on the path of a message. What events
mean to the clients is left to their listener.

    STOPPED     --start-->  CONNECTING
    CONNECTING  --socket--> GREETING      an `attempt.Attempt` runs
    GREETING    --Ready-->  UP
    any of them --failure-> WAITING       a timer runs
    WAITING     --timer-->  CONNECTING
    all         --stop-->   STOPPED
"""

from __future__ import annotations

import enum
import logging
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from ..constants import TURN
from ..loop import forks
from ..loop.reactor import READ, WRITE, Reactor
from ..loop.timers import Timer
from .attempt import Attempt, Connect, start_thread
from .engine import Delivered, Engine, EngineEvent, Failed, Ready
from .stream import Stream, open_stream

__all__ = ["CONNECT_REASONS", "Link", "LinkState"]

logger = logging.getLogger("simple_ws")

#: What makes an attempt to connect necessary, see `Link.connects`.
CONNECT_REASONS = ("start", "refused", "closed", "error", "failed")

#: Bytes of one read: small, so that the clock is read between the messages of two.
_READ_SIZE = 16384
#: Bytes read in one turn; then clients are served first.
_MAX_READ = 262144
#: Seconds before connecting again: up to the first one, then up to twice as long after
#: each failure, and never longer than the second.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
#: Seconds before trying again what fails until somebody changes something.
_PERMANENT_PAUSE = 30.0
#: Seconds that a new connection has until the engine is ready.
_GREETING = 10.0


class LinkState(enum.Enum):
    """What a link does; the table stands at the head of the module."""

    STOPPED = enum.auto()
    CONNECTING = enum.auto()
    GREETING = enum.auto()
    UP = enum.auto()
    WAITING = enum.auto()


class Link:
    """Connects an engine. All methods are for the loop's thread.

    Args:
        reactor: drives it; it may be started before the reactor opens.
        engine: decides what is sent and what has come; for this link alone.
        connect: called in a thread, see `attempt.Connect`.
        on_event: called with each event but `Failed`.
        on_state: called with whether the engine takes messages, and why or why not,
            when that changes; when it goes down, after `engine.disconnected`.
        name: of the engine in the log, without a password.
        run_in_thread: calls a function in a thread, and does not wait.
        rng: for the pauses between attempts.

    Attributes:
        state: of `LinkState`.
        reason: why it is down, or the name of the engine's server.
        permanent: it is down until somebody changes something.
        connects: attempts to connect, by what made them necessary (one of
            `CONNECT_REASONS`, if there was one): "start", or how the
            connection before has ended: "refused" (it was not possible), "closed" (by
            the peer), "error" (of the network), "failed" (the engine gave it up).
        bytes_received, bytes_sent: without TLS.
    """

    def __init__(
        self,
        reactor: Reactor,
        engine: Engine,
        connect: Connect,
        *,
        on_event: Callable[[EngineEvent], object],
        on_state: Callable[[bool, str], object],
        name: str = "engine",
        run_in_thread: Callable[[Callable[[], object]], object] = start_thread,
        rng: random.Random | None = None,
    ) -> None:
        self._reactor, self._engine, self._connect = reactor, engine, connect
        self._on_event, self._on_state = on_event, on_state
        self._name = name
        self._run_in_thread = run_in_thread
        self._rng = rng or random.Random()
        self.state = LinkState.STOPPED
        self.reason, self.permanent = "not started", False
        self._attempt: Attempt | None = None
        self._stream: Stream | None = None
        self._events = READ  # that the stream is registered for
        self._rest = memoryview(b"")  # of the engine's output, offered to the system
        self._dirty = False  # it will be flushed at the end of the turn
        self._failures = 0  # one after the other
        self._up_since = 0.0
        self._timer: Timer | None = None  # of the state
        self._tick: Timer | None = None  # of the engine
        self.connects: Counter[str] = Counter()
        self.bytes_received = self.bytes_sent = 0
        forks.note(self)

    @property
    def up(self) -> bool:
        """Whether the engine takes messages."""
        return self.state is LinkState.UP

    @property
    def waiting(self) -> int:
        """Bytes of output that the system has not taken."""
        return len(self._rest) + self._engine.size

    def start(self) -> None:
        """Connect, and stay connected, until `stop`."""
        if self.state is LinkState.STOPPED:
            self._failures = 0
            self._begin_attempt("start")

    def stop(self) -> None:
        """Close the connection, or give up connecting; nothing is called any more.

        What was published last may be lost: await its `Accepted` before.
        """
        if self.state is LinkState.STOPPED:
            return
        if self._stream is not None:
            with suppress(OSError):
                self._write(self._stream)
        self._leave(abort=False)
        self.state, self.reason = LinkState.STOPPED, "stopped"

    def forget(self) -> None:
        """Close a forked process's copies; the connection is the parent's."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
        if self._attempt is not None:
            self._attempt.forget()
        self._attempt = self._timer = self._tick = None
        self._dirty = False
        self.state, self.reason = LinkState.STOPPED, "forked"

    _on_fork = forget

    def give_up(self, reason: str) -> None:
        """Close the connection, without what waits for it, and connect again later."""
        if self._stream is not None:
            self._give_up("failed", reason)

    def flush_soon(self) -> None:
        """The engine has output: write it, once, at the end of this turn."""
        if self._stream is not None:
            self._reactor.flush_soon(self)

    def flush(self) -> None:
        """Write the engine's output now, as far as the system takes it."""
        stream = self._stream
        if stream is None:
            return
        try:
            self._write(stream)
        except OSError as error:
            self._give_up("error", _text(error))
            return
        events = stream.events
        if events != self._events:
            self._events = events
            self._reactor.modify(stream, events, self._on_ready)

    def _flush(self) -> None:
        self.flush()
        self._set_tick()

    def _write(self, stream: Stream) -> None:
        """Offer output to the system, until it takes no more."""
        while not stream.blocked and (self._rest or self._engine.size):
            if not self._rest:
                self._rest = memoryview(self._engine.take_output())
            sent = stream.send(self._rest)
            self.bytes_sent += sent
            self._rest = self._rest[sent:]

    # Input

    def _on_ready(self, events: int) -> None:
        stream = self._stream
        if stream is None:
            return
        if events & READ or stream.entangled:
            self._read(stream)
        if stream is self._stream:
            if events & WRITE or stream.entangled:
                stream.blocked = False
            self.flush()
            self._set_tick()

    def _read(self, stream: Stream) -> None:
        """Read at most `_MAX_READ` bytes, and for as long as a turn may take."""
        begun, left = self._reactor.clock(), _MAX_READ
        while left > 0:
            try:
                data = stream.recv(_READ_SIZE)
            except OSError as error:
                self._give_up("error", _text(error))
                return
            if data is None:
                return
            if not data:
                self._give_up("closed", "the connection was closed by the engine")
                return
            left -= len(data)
            self.bytes_received += len(data)
            self._handle(self._engine.receive(data, self._reactor.clock()))
            if stream is not self._stream:
                return  # it was given up, or stopped
            if len(data) < _READ_SIZE and not stream.pending:
                return  # another read would find nothing
            if self._reactor.clock() - begun > TURN:
                break
        if stream.pending:
            self._reactor.call_soon(partial(self._on_pending, stream))

    def _on_pending(self, stream: Stream) -> None:
        """Go on with input that no selector can see."""
        if stream is self._stream:
            self._on_ready(READ)

    def _handle(self, events: list[EngineEvent]) -> None:
        """Hand events on, unless the connection was given up meanwhile."""
        stream = self._stream
        for event in events:
            # The most frequent one first.
            if not isinstance(event, Delivered):
                if isinstance(event, Failed):
                    self._give_up("failed", event.reason, event.permanent)
                    return
                if isinstance(event, Ready):
                    self._enter_up(event)
                    if self._stream is not stream:
                        return
            try:
                self._on_event(event)
            except Exception as error:
                self._log_failure(error)
            if self._stream is not stream:
                return

    def _log_failure(self, error: Exception) -> None:
        if self._reactor.repeats.may_say("internal errors", logging.ERROR):
            logger.error("%s: internal error", self._name, exc_info=error)

    def _abandon(self) -> None:
        """It was interrupted: what was not handed on must count as lost."""
        if self.state is not LinkState.STOPPED:
            self._give_up("failed", "an internal error, or an interrupt")

    # Time

    def _set_tick(self) -> None:
        """Have the engine look at the time when it wants to.

        Its deadline moves with each byte that comes: a timer that is too early is left,
        and set again when it is due.
        """
        if self._stream is None:
            return
        due, timer = self._engine.deadline(), self._tick
        if timer is not None and timer.active:
            if due is not None and due >= timer.when:
                return
            timer.cancel()
        if due is not None:
            self._tick = self._reactor.call_at(due, self._on_tick)

    def _on_tick(self) -> None:
        stream, now, due = self._stream, self._reactor.clock(), self._engine.deadline()
        if stream is None:
            return
        if due is not None and now >= due:
            self._handle(self._engine.tick(now))
            if stream is not self._stream:
                return
            self.flush()
        self._set_tick()

    # States

    def _begin_attempt(self, why: str) -> None:
        self.state = LinkState.CONNECTING
        self.connects[why] += 1
        self._attempt = attempt = Attempt(self._connect, self._on_done)
        try:
            self._run_in_thread(attempt.run)
        except RuntimeError as error:  # no more threads
            self._give_up("refused", str(error))

    def _on_done(self, attempt: Attempt) -> None:
        # In the attempt's thread.
        self._reactor.call_threadsafe(partial(self._end_attempt, attempt))

    def _end_attempt(self, attempt: Attempt) -> None:
        if attempt is not self._attempt:
            return  # given up meanwhile
        self._attempt = None
        if attempt.error is not None:
            self._give_up("refused", _text(attempt.error))
            return
        self._stream = stream = open_stream(attempt.take())
        self.state = LinkState.GREETING
        self._timer = self._reactor.call_later(_GREETING, self._on_no_greeting)
        self._events = stream.events
        self._reactor.register(stream, self._events, self._on_ready)
        self._engine.connected(self._reactor.clock())
        self.flush()
        self._set_tick()

    def _on_no_greeting(self) -> None:
        self._give_up("failed", f"the engine was not ready in {_GREETING:g} s")

    def _enter_up(self, event: Ready) -> None:
        self._cancel_timer()
        self.state, self.reason = LinkState.UP, event.server
        self.permanent = False
        self._up_since = self._reactor.clock()
        self._tell(logging.INFO, f"connected to {event.server}")

    def _give_up(self, why: str, reason: str, permanent: bool = False) -> None:
        """The connection is lost, or there was none: try again later.

        Args:
            why: a key of `connects`.
            reason: for people.
            permanent: it will fail again, until somebody changes something.
        """
        changed = self.up or reason != self.reason
        if self.up and self._reactor.clock() - self._up_since > _LONGEST_PAUSE:
            self._failures = 0
        self._leave(abort=True)
        self.state, self.reason = LinkState.WAITING, reason
        self.permanent = permanent
        self._timer = self._reactor.call_later(
            _PERMANENT_PAUSE if permanent else self._pause(),
            partial(self._begin_attempt, why),
        )
        self._failures += 1
        if changed:
            self._tell(logging.WARNING, f"down: {reason}")

    def _pause(self) -> float:
        """Seconds until the next attempt: all nodes try again, but not at once."""
        doubled = _FIRST_PAUSE * 2.0 ** min(self._failures, 16)
        return self._rng.uniform(0.0, min(_LONGEST_PAUSE, doubled))

    def _tell(self, level: int, text: str) -> None:
        """The state has changed."""
        if self._reactor.repeats.may_say("changes of an engine's state", level):
            logger.log(level, "%s: %s", self._name, text)
        try:
            self._on_state(self.up, self.reason)
        except Exception as error:
            self._log_failure(error)

    def _leave(self, abort: bool) -> None:
        """Leave a state: nothing of it remains."""
        self._cancel_timer()
        if self._tick is not None:
            self._tick.cancel()
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()
        stream, self._stream = self._stream, None
        if stream is not None:
            self._reactor.unregister(stream)
            stream.abort() if abort else stream.close()
            self._rest = memoryview(b"")
            self._engine.disconnected()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _text(error: Exception) -> str:
    """What an error says, in one line."""
    reason = getattr(error, "reason", None)  # of OpenSSL
    if isinstance(reason, str):
        return f"TLS: {reason.replace('_', ' ').lower()}"
    text = error.strerror if isinstance(error, OSError) else None
    return text or str(error) or type(error).__name__
