"""The engine of loops in threads of one process: messages are handed over, not sent.

`SharedEngine` has the channels and histories, under one lock, so that all loops get the
messages in one order. `ThreadEngine` is the end of one loop: engine and link in one,
since no bytes lie between. What is for another loop is put into its inbox, and
`Reactor.call_threadsafe` has that loop look into it. Histories are those of the broker
(`broker_history`), and end with the process.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from ..constants import TURN
from ..loop.reactor import Reactor
from .broker_history import Appending, Histories
from .engine import (
    Accepted,
    Delivered,
    EngineEvent,
    Origin,
    Page,
    Ready,
    Stored,
    Subscribed,
)
from .history import Retention, new_epoch
from .position import Position, tag_of

__all__ = ["SharedEngine", "ThreadEngine"]

logger = logging.getLogger("simple_ws")

#: Of the engine, in `EngineState`.
_NAME = "threads"
#: Bytes that may wait for a loop that does not turn, as in the broker: above it, it
#: gets none of them, and is told of a gap.
_INBOX_LIMIT = 32 * 2**20
#: Bytes that an event takes besides its message, roughly.
_EVENT_SIZE = 200
#: Seconds between two looks for messages that have expired, and topics of one look.
_SWEEP, _SWEPT = 1.0, 2000

OnEvent = Callable[[EngineEvent], object]
OnState = Callable[[bool, str], object]


class SharedEngine:
    """What the loops share.

    Attributes:
        lock: held by whoever uses the rest.
        channels: the loops that listen to each channel.
        histories: of the topics that have one.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self.channels: dict[str, dict[ThreadEngine, None]] = {}
        self.histories = Histories()


class ThreadEngine:
    """The end of one loop; see `engine.Messages` and `link.Link`.

    Its methods are for the loop's thread.

    Args:
        shared: the engine.
        reactor: of the loop.
        inbox_limit: bytes that may wait for the loop.

    Attributes:
        connects, bytes_received, bytes_sent: as of `link.Link`; nothing is connected.
    """

    keeps_history = True
    #: Nothing waits to be sent.
    size = 0
    #: It is in this process.
    round_trip: float | None = 0.0
    bytes_received = bytes_sent = 0

    def __init__(
        self, shared: SharedEngine, reactor: Reactor, inbox_limit: int = _INBOX_LIMIT
    ) -> None:
        self.connects: Counter[str] = Counter()
        self._shared, self._reactor = shared, reactor
        self._limit = inbox_limit
        self._on_event: OnEvent
        self._on_state: OnState
        self._exclude: Collection[Any] = ()
        self._asked: dict[str, None] = {}
        self._joined = self._over = False
        # Under the lock: what has come, its size, and whether something was dropped.
        self._inbox: deque[EngineEvent] = deque()
        self._waiting = 0
        self._lost = False
        #: Taken out of the inbox, and still to be handed on.
        self._taken: deque[EngineEvent] = deque()

    # As a link

    def connect(self, on_event: OnEvent, on_state: OnState) -> ThreadEngine:
        """Say who hears of it; see `link.Link`."""
        self._on_event, self._on_state = on_event, on_state
        return self

    @property
    def waiting(self) -> int:
        """Bytes that wait for this loop."""
        return self._waiting

    def start(self) -> None:
        """Take part from the next turn on."""
        self._reactor.call_soon(self._join)
        self._reactor.call_later(_SWEEP, self._sweep)

    def stop(self) -> None:
        """Take part no more; nothing is called any more."""
        self._over = True
        self._leave()

    def forget(self) -> None:
        """This is a forked process: the other threads are the parent's.

        Without the lock, which one of them may have held.
        """
        self._over = True
        self._joined = False

    def give_up(self, reason: str) -> None:
        """Drop what waits, and begin anew."""
        self._leave()
        self._on_state(False, reason)
        self._reactor.call_soon(self._join)

    def flush_soon(self) -> None:
        """Nothing waits to be sent."""

    def _join(self) -> None:
        if self._over or self._joined:
            return
        self._joined = True
        self.subscribe(list(self._asked))
        self._on_state(True, _NAME)
        self._on_event(Ready(_NAME))
        self._on_event(Subscribed())

    def _leave(self) -> None:
        self._joined = False
        with self._shared.lock:
            self._forget_channels(self._asked)
            self._inbox.clear()
            self._waiting, self._lost = 0, False
        self._taken.clear()

    def _sweep(self) -> None:
        if not self._over:
            with self._shared.lock:
                self._shared.histories.sweep(self._reactor.time(), _SWEPT)
            self._reactor.call_later(_SWEEP, self._sweep)

    # As an engine

    @property
    def channels(self) -> int:
        """The channels that are asked for."""
        return len(self._asked)

    def announce(self, rules: bytes) -> None:
        """All who publish here are in this process."""

    def subscribe(self, channels: Iterable[str]) -> None:
        """See `engine.Messages`; likewise below."""
        channels = list(channels)
        self._asked |= dict.fromkeys(channels)
        if not self._joined:
            return
        with self._shared.lock:
            for channel in channels:
                self._shared.channels.setdefault(channel, {})[self] = None

    def unsubscribe(self, channels: Iterable[str]) -> None:
        """Receive it no more."""
        channels = list(channels)
        for channel in channels:
            self._asked.pop(channel, None)
        with self._shared.lock:
            self._forget_channels(channels)

    def receives(self, channel: str) -> bool:
        """Whether a message that is published now comes here as well."""
        return self._joined and channel in self._asked

    @contextmanager
    def excluding(self, exclude: Collection[Any]) -> Iterator[None]:
        """What is published in this block is not for these connections, of any loop."""
        self._exclude = exclude
        try:
            yield
        finally:
            self._exclude = ()

    def publish(self, channel: str, envelope: bytes) -> None:
        """Publish a message."""
        with self._shared.lock:
            count = self._deliver(Delivered(channel, envelope, self._exclude))
            self._put(Accepted(count), 0)

    def append(
        self, channel: str, envelope: bytes, origin: Origin, retention: Retention
    ) -> None:
        """Append a message to the history of a topic, and publish it."""
        publisher, seq, key = origin
        message = Appending(
            _name(channel),
            publisher,
            seq,
            tag_of(publisher + seq.to_bytes(8, "big")),
            *retention,
            new_epoch(),
            envelope,
            None if key is None else _name(key),
        )
        with self._shared.lock:
            stored = self._shared.histories.append(message, self._reactor.time())
            count = 0
            if not stored.again:
                body = b"%b %b" % (str(stored.position).encode(), envelope)
                count = self._deliver(Delivered(channel, body))
            self._put(Stored(stored.position, stored.again, count), 0)

    def read(
        self, channel: str, known: Position | None, after: int, limit: int
    ) -> None:
        """Read the history of a topic."""
        with self._shared.lock:
            page = self._shared.histories.read(
                _name(channel), known, after, limit, new_epoch(), self._reactor.time()
            )
            size = sum(len(entry.body) for entry in page.entries)
            self._put(Page(channel, *page), size)

    def remove(self, channel: str, done: Callable[[int | None], object]) -> None:
        """Remove the messages in the history of a topic; positions stay valid."""
        with self._shared.lock:
            offset = self._shared.histories.remove(_name(channel))
        done(offset)

    # Under the lock

    def _forget_channels(self, channels: Iterable[str]) -> None:
        known = self._shared.channels
        for channel in channels:
            receivers = known.get(channel)
            if receivers is not None:
                receivers.pop(self, None)
                if not receivers:
                    del known[channel]

    def _deliver(self, event: Delivered) -> int:
        receivers = self._shared.channels.get(event.channel, {})
        for receiver in receivers:
            receiver._put(event, len(event.envelope))
        return len(receivers)

    def _put(self, event: EngineEvent, size: int) -> None:
        """Put something into the inbox, which the loop empties."""
        waiting = self._waiting + size + _EVENT_SIZE
        if self._lost or waiting > self._limit:
            self._lost = True
        else:
            self._inbox.append(event)
            self._waiting = waiting
        if len(self._inbox) <= 1:
            self._reactor.call_threadsafe(self._take)

    # In the loop

    def _take(self) -> None:
        """Take out what has come, and hand it on."""
        if self._taken or not self._joined:
            return  # `_hand_on` is queued, and looks into the inbox at its end
        with self._shared.lock:
            self._taken, self._inbox = self._inbox, deque()
            self._waiting = 0
            lost = self._lost
        if lost:
            self.give_up(f"more than {self._limit:,} bytes waited for this thread")
        else:
            self._hand_on()

    def _hand_on(self) -> None:
        """Hand events on, for as long as a turn may take."""
        taken, clock = self._taken, self._reactor.clock
        until = clock() + TURN
        while taken and self._joined:
            try:
                self._on_event(taken.popleft())
            except Exception:
                logger.exception("internal error in the engine of threads")
            if clock() > until:
                break
        if not self._joined:
            return
        if taken:
            self._reactor.call_soon(self._hand_on)
        elif self._inbox:  # it was left there, since `_taken` was not empty
            self._reactor.call_soon(self._take)


def _name(channel: str) -> bytes:
    return channel.encode("utf-8", "surrogatepass")
