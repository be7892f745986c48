"""The event loop: readiness, timers, calls from other threads, one flush per turn."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from harness import DEADLINE, Clock, Wrapped, open_files

from simple_ws import InvalidState
from simple_ws.loop.reactor import READ, WRITE, Reactor
from simple_ws.loop.selector import EpollSelector
from simple_ws.protocol.websocket import Protocol
from simple_ws.speedups import ConnectionCore


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reactor(clock: Clock) -> Any:
    reactor = Reactor(grain=1.0, clock=clock)
    reactor.open()
    yield reactor
    reactor.close()


@pytest.fixture
def pair() -> Any:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    yield near, far
    near.close()
    far.close()


class CountingSocket(Wrapped):
    sends = 0

    def send(self, data: Any) -> int:
        self.sends += 1
        return self._sock.send(data)


class Outbox(ConnectionCore):
    """A connection's output; `next` is written to when it has left."""

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        self.sock: Any = CountingSocket(sock)
        self.next: Outbox | None = None
        super().__init__(self.sock, reactor, Protocol(), 4096, 2**20)

    def fill(self) -> None:
        self._enqueue(b"\x81\x01x")
        self._await_drain = self.next is not None

    def _on_drained(self) -> None:
        assert self.next is not None
        self.next.fill()

    @property
    def flushes(self) -> int:
        return int(self.sock.sends)


def test_ready_socket_is_called_with_its_events(reactor: Reactor, pair: Any) -> None:
    near, far = pair
    seen: list[int] = []
    reactor.register(near, READ, seen.append)
    reactor.run_once(0)
    assert seen == []
    far.send(b"x")
    reactor.run_once(0)
    assert seen == [READ]
    reactor.modify(near, READ | WRITE, seen.append)
    reactor.run_once(0)
    assert seen[1:] == [READ | WRITE]
    reactor.unregister(near)
    reactor.run_once(0)
    assert len(seen) == 2


def test_any_selector_serves(clock: Clock, pair: Any) -> None:
    near, far = pair
    reactor = Reactor(clock=clock, selector=selectors.SelectSelector())
    reactor.open()
    seen: list[int] = []
    reactor.register(near, READ, seen.append)
    far.send(b"x")
    reactor.run_once(0)
    assert seen == [READ]
    reactor.close()


def test_reactor_that_was_never_opened_holds_no_descriptor(clock: Clock) -> None:
    before = open_files()
    reactors = [Reactor(clock=clock) for _ in range(10)]
    for reactor in reactors:
        reactor.call_threadsafe(lambda: None)
    assert open_files() == before
    for reactor in reactors:
        reactor.close()
    assert open_files() == before


def test_calls_made_before_it_opens_are_kept(clock: Clock) -> None:
    reactor, seen = Reactor(clock=clock), []
    reactor.call_threadsafe(lambda: seen.append(1))
    reactor.open()
    reactor.run_once()
    assert seen == [1]
    reactor.close()


def test_timers_run_when_they_are_due_and_in_their_order(
    reactor: Reactor, clock: Clock
) -> None:
    seen: list[str] = []
    reactor.call_later(2, lambda: seen.append("late"))
    reactor.call_later(1, lambda: seen.append("first"))
    reactor.call_later(1, lambda: seen.append("second"))
    cancelled = reactor.call_later(1, lambda: seen.append("never"))
    cancelled.cancel()
    clock.now += 0.99
    reactor.run_once(0)
    assert seen == []
    clock.now += 0.01
    reactor.run_once(0)
    assert seen == ["first", "second"]
    clock.now += 5
    reactor.run_once(0)
    assert seen == ["first", "second", "late"]


def test_timer_may_cancel_another_that_is_due_in_the_same_turn(
    reactor: Reactor, clock: Clock
) -> None:
    seen: list[str] = []
    reactor.call_later(1, lambda: other.cancel())
    other = reactor.call_later(1, lambda: seen.append("never"))
    clock.now += 1
    reactor.run_once(0)
    assert seen == []


def test_timer_made_by_a_timer_waits_for_the_next_turn(
    reactor: Reactor, clock: Clock
) -> None:
    seen: list[float] = []

    def again() -> None:
        seen.append(clock.now)
        reactor.call_later(0, again)

    reactor.call_later(0, again)
    for _ in range(3):
        reactor.run_once(0)
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("timer", "wheel", "asked", "sleep"),
    [
        (None, None, None, None),
        (None, None, 3.0, 3.0),
        (5.0, None, None, 5.0),
        (5.0, None, 3.0, 3.0),
        (2.0, None, 3.0, 2.0),
        (None, 4.5, None, 4.53125),  # a wheel looks late, never early
        (7.0, 4.5, None, 4.53125),
        (-1.0, None, None, 0.0),
    ],
)
def test_turn_waits_until_the_next_deadline(
    reactor: Reactor,
    timer: float | None,
    wheel: float | None,
    asked: float | None,
    sleep: float | None,
) -> None:
    class Owner:
        _wheel_slot: dict[Any, None] | None = None

        def _sweep(self, now: float) -> None:
            return None

    if timer is not None:
        reactor.call_later(timer, lambda: None)
    if wheel is not None:
        reactor.wheel.put(Owner(), reactor.now + wheel)
    assert reactor.time_to_sleep(asked) == sleep


def test_turn_does_not_wait_while_something_is_queued(reactor: Reactor) -> None:
    reactor.call_soon(lambda: None)
    assert reactor.time_to_sleep(None) == 0


def test_dirty_owners_are_flushed_once_at_the_end_of_the_turn(
    reactor: Reactor, pair: Any
) -> None:
    near, far = pair
    outbox = Outbox(reactor, near)

    def on_ready(events: int) -> None:
        near.recv(100)
        outbox.fill()
        outbox.fill()
        assert outbox.flushes == 0

    reactor.register(near, READ, on_ready)
    far.send(b"x")
    reactor.run_once(0)
    assert outbox.flushes == 1
    reactor.run_once(0)
    assert outbox.flushes == 1


def test_flush_that_fills_another_outbox_flushes_that_too(
    reactor: Reactor, pair: Any
) -> None:
    near, _ = pair
    first, second = Outbox(reactor, near), Outbox(reactor, near)
    first.next = second
    reactor.call_soon(first.fill)
    reactor.run_once(0)
    assert (first.flushes, second.flushes) == (1, 1)


def test_timers_see_what_the_sockets_of_this_turn_said(
    reactor: Reactor, clock: Clock, pair: Any
) -> None:
    """A peer that answers at the last moment is not given up."""
    near, far = pair
    seen: list[str] = []
    reactor.register(near, READ, lambda events: seen.append("data"))
    reactor.call_later(1, lambda: seen.append("deadline"))
    far.send(b"x")
    clock.now += 1
    reactor.run_once(0)
    assert seen == ["data", "deadline"]


def test_calls_from_a_thread_wake_the_loop_and_keep_their_order() -> None:
    reactor = Reactor()
    reactor.open()
    seen: list[int] = []

    def call() -> None:
        for number in range(1000):
            reactor.call_threadsafe(lambda number=number: seen.append(number))  # type: ignore[misc]

    thread = threading.Thread(target=call)
    thread.start()
    deadline = time.monotonic() + DEADLINE
    while len(seen) < 1000:
        assert time.monotonic() < deadline
        reactor.run_once(DEADLINE)
    thread.join()
    assert seen == list(range(1000))
    reactor.close()


def test_call_that_queues_itself_gets_a_turn_each(reactor: Reactor) -> None:
    seen: list[int] = []

    def again() -> None:
        seen.append(1)
        reactor.call_soon(again)

    reactor.call_soon(again)
    for turns in range(1, 4):
        reactor.run_once(0)
        assert len(seen) == turns


def test_call_that_raises_is_logged_and_the_next_one_runs(
    reactor: Reactor, caplog: Any
) -> None:
    seen: list[int] = []
    reactor.call_soon(lambda: 1 / 0)
    reactor.call_soon(lambda: seen.append(1))
    reactor.run_once(0)
    assert seen == [1]
    assert "ZeroDivisionError" in caplog.text


def test_wake_is_one_byte_however_often_it_is_called(reactor: Reactor) -> None:
    for _ in range(10_000):
        reactor.wake()
    assert len(reactor._wakee.recv(100_000)) == 1


def test_wake_works_again_after_the_loop_woke_up(reactor: Reactor) -> None:
    for _ in range(3):
        reactor.wake()
        assert reactor._selector.select(0)
        reactor.run_once(0)
        assert not reactor._selector.select(0)


def test_wake_after_close_is_harmless(clock: Clock) -> None:
    reactor = Reactor(clock=clock)
    reactor.open()
    reactor.close()
    reactor.call_threadsafe(lambda: None)


def test_finish_calls_runs_what_calls_queue_and_flushes(
    reactor: Reactor, pair: Any
) -> None:
    outbox = Outbox(reactor, pair[0])
    reactor.call_soon(lambda: reactor.call_soon(outbox.fill))
    reactor.finish_calls()
    assert outbox.flushes == 1


def test_descriptor_is_readable_when_a_turn_has_work(reactor: Reactor) -> None:
    with selectors.DefaultSelector() as outer:
        outer.register(reactor.fileno(), READ)
        assert not outer.select(0)
        reactor.call_threadsafe(lambda: None)
        assert outer.select(0)
        reactor.run_once(0)
        assert not outer.select(0)


def test_turn_inside_a_turn_is_refused(reactor: Reactor, caplog: Any) -> None:
    errors: list[str] = []

    def turn() -> None:
        with pytest.raises(InvalidState, match="called from a callback") as caught:
            reactor.run_once(0)
        errors.append(str(caught.value))

    reactor.call_soon(turn)
    reactor.run_once(0)
    assert len(errors) == 1
    reactor.run_once(0)


def test_owner_is_the_thread_that_turns(reactor: Reactor) -> None:
    def turn() -> None:
        reactor.run_once(0)

    thread = threading.Thread(target=turn)
    thread.start()
    thread.join()
    assert reactor.owner == thread.ident
    reactor.run_once(0)
    assert reactor.owner == threading.get_ident()


@pytest.mark.parametrize("selector", [None, selectors.SelectSelector])
def test_busy_poll_finds_work_without_sleeping(selector: Any) -> None:
    reactor = Reactor(selector=selector and selector())
    reactor.busy_poll = 30.0  # far beyond the test: a sleep would be seen
    reactor.open()
    a, b = socket.socketpair()
    found: list[int] = []
    try:
        reactor.register(a, READ, found.append)
        timer = threading.Timer(0.01, b.send, [b"x"])
        timer.start()
        reactor.run_once()
        timer.join()
    finally:
        reactor.close()
        a.close()
        b.close()
    assert found == [READ]


def test_busy_poll_keeps_deadlines() -> None:
    reactor = Reactor()
    reactor.busy_poll = 30.0
    reactor.open()
    called: list[bool] = []
    try:
        reactor.call_later(0.005, lambda: called.append(True))
        while not called:
            reactor.run_once()
    finally:
        reactor.close()


class Flushed:
    """What is flushed like a connection, and is none."""

    def __init__(self) -> None:
        self._dirty = False
        self.flushes = 0
        self.error: BaseException | None = None

    def _flush(self) -> None:
        self.flushes += 1
        if self.error is not None:
            raise self.error

    def _abandon(self) -> None:
        self.error = None


def test_anything_can_be_flushed_once_at_the_end_of_a_turn(
    reactor: Reactor, pair: Any
) -> None:
    near, far = pair
    outbox, connection = Flushed(), Outbox(reactor, near)
    reactor.register(far, WRITE, lambda events: fill())

    def fill() -> None:
        reactor.flush_soon(outbox)
        connection.fill()
        reactor.flush_soon(outbox)
        assert outbox.flushes == 0

    reactor.run_once(0)
    assert (outbox.flushes, connection.flushes) == (1, 1)
    reactor.unregister(far)
    reactor.flush_soon(outbox)
    reactor.run_once()  # does not sleep
    assert outbox.flushes == 2
    assert not outbox._dirty


def test_one_that_fails_to_flush_is_abandoned_and_no_other(
    reactor: Reactor, pair: Any, caplog: pytest.LogCaptureFixture
) -> None:
    failing, other = Flushed(), Flushed()
    failing.error = ValueError("a fault of ours")
    reactor.flush_soon(failing)
    reactor.flush_soon(other)
    reactor.run_once(0)
    assert failing.error is None
    assert other.flushes == 1
    assert len(caplog.records) == 1


def test_flush_outside_of_a_turn_is_told_to_the_loop_that_drives_it(
    reactor: Reactor,
) -> None:
    told: list[int] = []
    reactor.eager, reactor.work_listener = True, lambda: told.append(1)
    outbox = Flushed()
    reactor.flush_soon(outbox)
    reactor.flush_soon(outbox)
    assert told == [1]
    reactor.eager = False


def test_ready_sockets_may_be_all_that_is_served(
    reactor: Reactor, pair: Any, clock: Clock
) -> None:
    near, far = pair
    if not isinstance(reactor._selector, EpollSelector):
        assert reactor.run_ready(), "a whole turn must follow"
        return
    seen: list[int] = []
    reactor.register(near, READ, seen.append)
    reactor.run_ready()
    assert not reactor.run_ready()
    far.send(b"x")
    assert not reactor.run_ready()
    assert seen == [READ]
    assert reactor.longest_turn < DEADLINE


@pytest.mark.parametrize("work", ["call", "thread", "deadline", "soon"])
def test_whole_turn_is_asked_for(
    reactor: Reactor, pair: Any, clock: Clock, work: str
) -> None:
    near, far = pair
    done: list[str] = []

    def note() -> None:
        done.append(work)

    def on_ready(events: int) -> None:
        near.recv(9)
        if work == "soon":
            reactor.call_soon(note)

    reactor.register(near, READ, on_ready)
    reactor.run_once(0)
    reactor.run_ready()
    if work == "call":
        reactor.call_soon(note)
    elif work == "thread":
        reactor.call_threadsafe(note)
    elif work == "deadline":
        reactor.call_at(clock.now + 5, note)
        assert reactor.run_ready(), "the event loop needs another timer"
        reactor.run_once(0)
        assert not done
        clock.now += 5
    far.send(b"x")
    assert reactor.run_ready()
    reactor.run_once(0)
    assert done == [work]


# --- Coarse deadlines ----------------------------------------------------------------


class Swept:
    """What is in the wheel; `then` is called when it is due."""

    def __init__(self, then: Callable[[], object]) -> None:
        self._wheel_slot = None
        self.then = then
        self.times = 0

    def _sweep(self, now: float) -> None:
        self.times += 1
        self.then()


def test_sweep_that_raises_ends_neither_the_turns_nor_the_other_sweeps(
    reactor: Reactor, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = Swept(lambda: 1 / 0)
    last = Swept(reactor.want_attention)
    reactor.wheel.put(wrong, 1.0)
    reactor.wheel.put(last, 2.0)
    clock.now += 10
    while not last.times:
        reactor.run_turns()
    assert (wrong.times, last.times, len(reactor.wheel)) == (1, 1, 0)
    assert "internal error" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_interrupt_in_a_sweep_is_raised_at_the_end_of_the_turn(
    reactor: Reactor, clock: Clock
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    reactor.wheel.put(Swept(interrupt), 1.0)
    clock.now += 10
    with pytest.raises(KeyboardInterrupt):
        reactor.run_turns()
    assert not reactor.turning


def test_timer_and_wheel_are_both_served_when_they_are_due(
    reactor: Reactor, clock: Clock
) -> None:
    called: list[str] = []
    coarse = Swept(lambda: called.append("coarse"))
    reactor.call_later(1.0, lambda: called.append("fine"))
    reactor.wheel.put(coarse, 1.0)
    clock.now += 10
    while len(called) < 2:
        reactor.run_turns()
    assert sorted(called) == ["coarse", "fine"]
