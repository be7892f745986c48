"""User timers: without drift, cancelled from any thread, and alive after exceptions."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from harness import DEADLINE, Driven, Recorder, open_peer, running
from hypothesis import given
from hypothesis import strategies as st

from simple_ws import Server
from simple_ws.loop.schedule import Job
from simple_ws.loop.timers import Timers


class Counter:
    """Notes when it was called by the clock of a driven server."""

    def __init__(self, driven: Driven, takes: float = 0.0) -> None:
        self.times: list[float] = []
        self.action: Callable[[], object] = lambda: None
        self._clock = driven.clock
        self._takes = takes

    def __call__(self) -> None:
        self.times.append(round(self._clock.now - 1000.0, 6))
        self._clock.now += self._takes
        self.action()


def step(driven: Driven, seconds: float, steps: int) -> None:
    """Let time pass in steps, with a turn of the loop after each."""
    for _ in range(steps):
        driven.clock.now = round(driven.clock.now + seconds, 9)
        driven.turn()


# --- When they are called ------------------------------------------------------------


def test_every_calls_at_multiples_of_its_interval() -> None:
    with Driven() as driven:
        counter = Counter(driven)
        driven.server.every(2, counter)
        step(driven, 0.5, 17)
        assert counter.times == [2, 4, 6, 8]


def test_every_does_not_drift_over_many_intervals() -> None:
    with Driven(ping=False) as driven:
        counter = Counter(driven)
        job = driven.server.every(0.1, counter)
        for number in range(1, 5001):
            # Now and then the loop is late, by up to four fifths of the interval.
            driven.clock.now = 1000 + number * 0.1 + number % 5 * 0.02 + 1e-6
            driven.turn()
        assert len(counter.times) == 5000
        assert job._due == pytest.approx(1000 + 5001 * 0.1, abs=1e-6)


def test_slow_callback_does_not_delay_the_calls_that_follow() -> None:
    with Driven() as driven:
        counter = Counter(driven, takes=0.3)
        driven.server.every(1, counter)
        step(driven, 0.1, 40)
        assert counter.times[:4] == [1, 2, 3, 4]


def test_calls_that_were_missed_are_left_out() -> None:
    with Driven() as driven:
        counter = Counter(driven)
        driven.server.every(1, counter)
        driven.advance(4.5)
        assert counter.times == [4.5]  # one call for four of them
        step(driven, 0.25, 8)
        assert counter.times == [4.5, 5, 6]


def test_callback_that_takes_longer_than_its_interval_is_called_when_it_can() -> None:
    with Driven() as driven:
        counter = Counter(driven, takes=2.5)
        driven.server.every(1, counter)
        step(driven, 0.25, 80)
        gaps = [b - a for a, b in zip(counter.times, counter.times[1:], strict=False)]
        assert gaps
        assert set(gaps) == {3}  # the next multiple after it has ended


@given(
    st.floats(0.01, 100),
    st.lists(st.floats(0, 50), min_size=1, max_size=40),
)
def test_every_is_never_called_more_often_than_multiples_have_passed(
    interval: float, waits: list[float]
) -> None:
    with Driven(ping=False) as driven:
        counter = Counter(driven)
        driven.server.every(interval, counter)
        for wait in waits:
            driven.clock.now += wait
            driven.turn()
        for count, when in enumerate(counter.times, 1):
            assert count * interval <= when + 1e-5


def test_call_later_calls_once() -> None:
    with Driven() as driven:
        counter = Counter(driven)
        job = driven.server.call_later(1.5, counter)
        assert (job.active, job.interval) == (True, None)
        driven.advance(1.4)
        assert counter.times == []
        driven.advance(0.2)
        assert counter.times == [1.6]
        assert not job.active
        driven.advance(10)
        assert len(counter.times) == 1
        assert not driven.server._schedule.jobs


def test_call_later_without_delay_is_called_in_the_next_turn() -> None:
    with Driven() as driven:
        counter = Counter(driven)
        counter.action = lambda: driven.server.call_later(0, counter)
        driven.server.call_later(0, counter)
        driven.turn()
        assert len(counter.times) == 1  # one a turn: the loop goes on
        driven.turn()
        assert len(counter.times) == 2


def test_timers_of_one_moment_are_called_in_the_order_they_were_set() -> None:
    with Driven() as driven:
        called: list[int] = []
        for number in range(20):
            driven.server.call_later(1, lambda number=number: called.append(number))  # type: ignore[misc]
        driven.advance(1)
        assert called == list(range(20))


@pytest.mark.parametrize(
    "moment",
    [
        lambda seconds: time.time() + seconds,
        lambda seconds: int(time.time() + seconds) + 1,
        lambda seconds: datetime.now() + timedelta(seconds=seconds),
        lambda seconds: datetime.now(UTC) + timedelta(seconds=seconds),
        lambda seconds: (
            datetime.now(timezone(timedelta(hours=-9))) + timedelta(seconds=seconds)
        ),
    ],
)
def test_call_at_takes_moments_of_every_kind(moment: Callable[[float], Any]) -> None:
    with Driven() as driven:
        counter = Counter(driven)
        driven.server.call_at(moment(600), counter)
        driven.advance(500)
        assert counter.times == []
        driven.advance(102)
        assert len(counter.times) == 1


@pytest.mark.parametrize(
    "moment", [0, -1e9, 1.5, datetime(1960, 1, 1), datetime(1960, 1, 1, tzinfo=UTC)]
)
def test_call_at_a_moment_that_is_past_is_at_once(moment: Any) -> None:
    with Driven() as driven:
        counter = Counter(driven)
        driven.server.call_at(moment, counter)
        driven.turn()
        assert len(counter.times) == 1


def test_call_at_follows_the_calendar_when_that_is_set(monkeypatch: Any) -> None:
    calendar = [5000.0]
    monkeypatch.setattr("simple_ws.loop.schedule.time.time", lambda: calendar[0])
    with Driven(ping=False) as driven:
        counter = Counter(driven)
        driven.server.call_at(5000 + 10 * 3600, counter)

        def let_pass(seconds: float) -> None:
            calendar[0] += seconds
            driven.advance(seconds)

        for _ in range(2):
            let_pass(3600)
        calendar[0] += 6 * 3600  # somebody set the clock, or the machine was asleep
        let_pass(3600)
        assert counter.times == []
        let_pass(3600)
        assert counter.times == [4 * 3600]


@pytest.mark.parametrize("delay", [1e10, 1e300, 1.7e308])
def test_call_that_is_centuries_away_does_not_hurt_the_loop(delay: float) -> None:
    with running(Recorder()) as server:
        jobs = [server.call_later(delay, print), server.every(delay, print)]
        with open_peer(server) as peer:
            assert peer.leave() == (1000, "")
        assert all(job.active for job in jobs)


# --- cancel --------------------------------------------------------------------------


def test_cancelled_timer_is_not_called() -> None:
    with Driven() as driven:
        counter = Counter(driven)
        jobs = [
            driven.server.every(1, counter),
            driven.server.call_later(1, counter),
            driven.server.call_at(time.time() + 1, counter),
        ]
        for job in jobs:
            assert job.active
            job.cancel()
            job.cancel()
            assert not job.active
        driven.advance(10)
        assert counter.times == []
        assert not driven.server._schedule.jobs


def test_timer_may_cancel_itself_and_others() -> None:
    with Driven() as driven:
        counter, other = Counter(driven), Counter(driven)
        job = driven.server.every(1, counter)
        others = [driven.server.every(1, other), driven.server.call_later(1, other)]

        def cancel_all() -> None:
            for each in (job, *others):
                each.cancel()

        counter.action = cancel_all
        step(driven, 1, 5)
        assert counter.times == [1]
        assert other.times == []


def test_timer_may_be_cancelled_by_a_callback_of_a_handler() -> None:
    handler = Recorder()
    with Driven(handler) as driven:
        counter = Counter(driven)
        job = driven.server.every(1, counter)
        handler.on_message = lambda msg, client: job.cancel()  # type: ignore[method-assign]
        peer = driven.open()
        peer.text("x")
        driven.turn(2)
        driven.advance(5)
        assert counter.times == []


def test_timer_may_set_timers() -> None:
    with Driven() as driven:
        counter, later = Counter(driven), Counter(driven)
        counter.action = lambda: driven.server.call_later(0.5, later)
        driven.server.every(1, counter)
        step(driven, 0.5, 6)
        assert later.times == [1.5, 2.5]


def test_threads_may_set_and_cancel_timers() -> None:
    with running(Recorder()) as server:
        called = threading.Event()
        never: list[int] = []
        for _ in range(50):
            job = server.every(0.001, called.set)
            cancelled = server.call_later(3600, lambda: never.append(1))
            cancelled.cancel()
            assert called.wait(DEADLINE)
            job.cancel()
            called.clear()
        assert never == []
        assert not server._schedule.jobs


def test_timer_runs_in_the_thread_of_the_loop() -> None:
    with running(Recorder()) as server:
        idents: list[int] = []
        done = threading.Event()

        def note() -> None:
            idents.append(threading.get_ident())
            server.broadcast("x")
            done.set()

        server.call_later(0, note)
        assert done.wait(DEADLINE)
        assert idents == [server.reactor.owner]
        assert idents[0] != threading.get_ident()


def test_cancelled_timers_take_no_memory() -> None:
    """A time-out of a day for each visit, taken back when it leaves."""
    with Driven() as driven:

        class Big:
            def __call__(self) -> None: ...

        watch: list[Any] = []
        for _ in range(10_000):
            callback = Big()
            watch.append(weakref.ref(callback))
            driven.server.call_later(86_400, callback).cancel()
        kept = driven.server.call_later(86_400, Counter(driven))
        assert len(driven.reactor.timers._heap) < 500
        del callback
        gc.collect()
        assert not any(reference() for reference in watch)
        assert kept.active


# --- What they raise -----------------------------------------------------------------


def test_timer_that_raises_is_logged_and_lives_on(caplog: Any) -> None:
    with Driven() as driven:
        counter, other = Counter(driven), Counter(driven)
        counter.action = lambda: 1 / 0
        driven.server.every(1, counter)
        driven.server.every(1, other)
        driven.server.call_later(1, lambda: 1 / 0)
        step(driven, 1, 3)
        assert counter.times == other.times == [1, 2, 3]
        assert caplog.text.count("a timer failed") == 4
        assert "ZeroDivisionError" in caplog.text


def test_engine_timer_that_raises_takes_nothing_from_the_others(caplog: Any) -> None:
    timers = Timers()
    ran: list[str] = []
    timers.call_at(1, lambda: ran.append("a"))
    timers.call_at(1, lambda: 1 / 0)
    timers.call_at(1, lambda: ran.append("b"))
    timers.run_due(2)
    assert ran == ["a", "b"]
    assert "internal error in a timer" in caplog.text
    assert timers.next_deadline() is None


def test_exit_in_an_engine_timer_leaves_the_others_for_whoever_goes_on() -> None:
    timers = Timers()
    ran: list[str] = []

    def leave() -> None:
        raise SystemExit

    timers.call_at(1, lambda: ran.append("a"))
    timers.call_at(1, leave)
    timers.call_at(1, lambda: ran.append("b"))
    timers.call_at(1, lambda: ran.append("c"))
    with pytest.raises(SystemExit):
        timers.run_due(2)
    assert ran == ["a"]
    timers.run_due(2)
    assert ran == ["a", "b", "c"]


def test_heap_is_cleared_of_cancelled_timers_and_keeps_its_order() -> None:
    timers = Timers()
    ran: list[int] = []
    for number in range(1000):
        timer = timers.call_at(number % 7, lambda number=number: ran.append(number))  # type: ignore[misc]
        if number % 10:
            timer.cancel()
    assert len(timers._heap) < 300
    timers.run_due(10)
    assert ran == sorted(range(0, 1000, 10), key=lambda number: (number % 7, number))


# --- Wrong arguments -----------------------------------------------------------------


@pytest.mark.parametrize("method", ["every", "call_later"])
@pytest.mark.parametrize(
    ("seconds", "error"),
    [
        (None, TypeError),
        ("1", TypeError),
        (True, TypeError),
        (timedelta(1), TypeError),
        (-1, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (10**400, ValueError),
    ],
)
def test_seconds_that_are_none_are_refused(
    method: str, seconds: Any, error: type[Exception]
) -> None:
    server = Server()
    with pytest.raises(error, match=r"(interval|delay) must be a"):
        getattr(server, method)(seconds, print)
    assert not server._schedule.jobs


def test_interval_has_a_least_value() -> None:
    server = Server()
    for interval in (0, 0.0009):
        with pytest.raises(ValueError, match=r"interval must be .* 0\.001 or more"):
            server.every(interval, print)
    server.every(0.001, print)
    server.call_later(0, print)


@pytest.mark.parametrize(
    ("when", "error"),
    [
        (None, TypeError),
        ("12:00", TypeError),
        (True, TypeError),
        (date(2030, 1, 1), TypeError),
        (timedelta(1), TypeError),
        (float("nan"), ValueError),
        (float("-inf"), ValueError),
        (10**400, ValueError),
        (datetime.min, ValueError),
    ],
)
def test_moment_that_is_none_is_refused(when: Any, error: type[Exception]) -> None:
    server = Server()
    with pytest.raises(error, match="when must be a datetime, or seconds since the"):
        server.call_at(when, print)
    assert not server._schedule.jobs


@pytest.mark.parametrize("method", ["every", "call_later", "call_at"])
@pytest.mark.parametrize("callback", [None, "tick", lambda client: None])
def test_callback_takes_no_arguments(method: str, callback: Any) -> None:
    server = Server()
    with pytest.raises(TypeError, match=r"callback must be a function of \(\), not"):
        getattr(server, method)(1, callback)
    assert not server._schedule.jobs


def test_interval_of_a_timer_is_not_to_be_set() -> None:
    job = Server().every(5, print)
    assert job.interval == 5
    with pytest.raises(AttributeError):
        job.interval = 6  # type: ignore[misc]


# --- Before start, after stop --------------------------------------------------------


def test_timers_set_before_the_server_listens_count_from_then_on() -> None:
    server = Server("127.0.0.1", 0)
    called = threading.Event()
    cancelled: list[int] = []
    server.call_later(0.001, called.set)
    server.every(0.001, lambda: cancelled.append(1)).cancel()
    server.start()
    try:
        assert called.wait(DEADLINE)
        assert cancelled == []
    finally:
        server.stop(drain=0)


def test_timers_survive_stop_and_start_and_none_is_called_in_between() -> None:
    server = Server("127.0.0.1", 0)
    calls: list[int] = []
    called = threading.Event()

    def note() -> None:
        calls.append(1)
        called.set()

    server.every(0.001, note)
    far = server.call_later(3600, note)
    for _ in range(3):
        called.clear()
        server.start()
        assert called.wait(DEADLINE)
        server.stop(drain=0)
        count = len(calls)
        assert not server.reactor.timers._heap
        assert len(calls) == count
    assert far.active


def test_stopped_server_takes_timers_for_its_next_run() -> None:
    server = Server("127.0.0.1", 0)
    called = threading.Event()
    server.start()
    server.stop(drain=0)
    job = server.call_later(0, called.set)
    assert not called.is_set()
    assert job.active
    server.start()
    try:
        assert called.wait(DEADLINE)
    finally:
        server.stop(drain=0)


def test_timer_that_stops_the_server_is_the_last() -> None:
    server = Server("127.0.0.1", 0)
    calls: list[str] = []

    def stop() -> None:
        calls.append("stop")
        server.stop(drain=0)

    server.call_later(0.001, stop)
    server.call_later(3600, lambda: calls.append("never"))
    server.run()
    assert calls == ["stop"]


def test_timer_is_armed_once_however_often_the_loop_hears_of_it() -> None:
    """It may be set by a thread at the very moment when the server begins."""
    with Driven() as driven:
        counter = Counter(driven)
        schedule = driven.server._schedule
        job: Job = driven.server.every(1, counter)
        waiting = len(driven.reactor.timers._heap)
        schedule._start(job)
        schedule.begin(driven.reactor)
        assert len(driven.reactor.timers._heap) == waiting
        step(driven, 1, 3)
        assert counter.times == [1, 2, 3]


def test_timers_set_while_the_server_starts_are_all_called_once() -> None:
    for _ in range(20):
        server = Server("127.0.0.1", 0)
        calls: list[int] = []
        everybody = threading.Event()

        def note(number: int, calls: Any = calls, everybody: Any = everybody) -> None:
            calls.append(number)
            if len(calls) == 200:
                everybody.set()

        def set_timers(server: Server = server, note: Any = note) -> None:
            for number in range(200):
                server.call_later(0, lambda number=number: note(number))  # type: ignore[misc]

        thread = threading.Thread(target=set_timers)
        thread.start()
        server.start()
        thread.join(DEADLINE)
        assert everybody.wait(DEADLINE)
        server.stop(drain=0)
        assert sorted(calls) == list(range(200))
