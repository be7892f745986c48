"""`cluster.thread_engine`: messages between loops in threads, without any thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from simple_ws.cluster.engine import (
    Accepted,
    Delivered,
    Origin,
    Page,
    Ready,
    Stored,
    Subscribed,
)
from simple_ws.cluster.history import Retention
from simple_ws.cluster.position import Position
from simple_ws.cluster.thread_engine import SharedEngine, ThreadEngine

pytestmark = pytest.mark.one_backend

KEPT = Retention(10, None)


class FakeReactor:
    """Calls what was queued when the test says so; its time stands still."""

    def __init__(self) -> None:
        self.calls: deque[Callable[[], object]] = deque()
        self.now = 1000.0
        self.step = 0.0  # that each look at the clock takes
        self.later: list[Callable[[], object]] = []

    def clock(self) -> float:
        self.now += self.step
        return self.now

    time = clock

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.calls.append(callback)

    call_threadsafe = call_soon

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        self.later.append(callback)

    def turn(self) -> None:
        for _ in range(len(self.calls)):
            self.calls.popleft()()


class Loop:
    """A loop, and what it hears."""

    def __init__(self, shared: SharedEngine, **options: Any) -> None:
        self.reactor = FakeReactor()
        self.engine = ThreadEngine(shared, self.reactor, **options)  # type: ignore[arg-type]
        self.events: list[Any] = []
        self.states: list[tuple[bool, str]] = []
        self.engine.connect(
            self.events.append, lambda up, why: self.states.append((up, why))
        )
        self.engine.start()

    def heard(self) -> list[Any]:
        """What has come since the last time."""
        while self.reactor.calls:
            self.reactor.turn()
        events, self.events[:] = list(self.events), []
        return events


@pytest.fixture
def shared() -> SharedEngine:
    return SharedEngine()


@pytest.fixture
def loops(shared: SharedEngine) -> list[Loop]:
    made = [Loop(shared) for _ in range(3)]
    for loop in made:
        assert loop.heard() == [Ready("threads"), Subscribed()]
        assert loop.states == [(True, "threads")]
    return made


def append(loop: Loop, seq: int, text: bytes, key: str | None = None) -> None:
    loop.engine.append("log", text, Origin(b"me", seq, key), KEPT)


def test_message_reaches_those_who_listen_and_its_publisher_is_told(
    loops: list[Loop],
) -> None:
    one, two, three = loops
    for loop in (one, two):
        loop.engine.subscribe(["news"])
        assert loop.engine.receives("news")
    one.engine.publish("news", b"hello")
    assert one.heard() == [Delivered("news", b"hello"), Accepted(2)]
    assert two.heard() == [Delivered("news", b"hello")]
    assert three.heard() == []
    two.engine.unsubscribe(["news"])
    one.engine.publish("news", b"again")
    assert one.heard() == [Delivered("news", b"again"), Accepted(1)]
    assert two.heard() == []
    assert (one.engine.channels, two.engine.channels) == (1, 0)


def test_all_loops_get_messages_in_one_order(loops: list[Loop]) -> None:
    for loop in loops:
        loop.engine.subscribe(["news"])
    for number in range(30):
        loops[number % 3].engine.publish("news", b"%d" % number)
    for loop in loops:
        texts = [each.envelope for each in loop.heard() if type(each) is Delivered]
        assert texts == [b"%d" % number for number in range(30)]


def test_those_who_get_nothing_are_told_with_the_message(loops: list[Loop]) -> None:
    client = object()
    loops[1].engine.subscribe(["news"])
    with loops[0].engine.excluding([client]):
        loops[0].engine.publish("news", b"not for one")
    loops[0].engine.publish("news", b"for all")
    first, second = loops[1].heard()
    assert (list(first.exclude), list(second.exclude)) == ([client], [])


def test_what_was_asked_for_before_the_start_is_listened_to(
    shared: SharedEngine,
) -> None:
    loop = Loop(shared)
    loop.engine.subscribe(["news"])
    assert not loop.engine.receives("news")
    loop.heard()
    assert loop.engine.receives("news")
    loop.engine.publish("news", b"hello")
    assert loop.heard() == [Delivered("news", b"hello"), Accepted(1)]


def test_history_is_appended_to_read_and_removed(loops: list[Loop]) -> None:
    one, two, _ = loops
    two.engine.subscribe(["log"])
    append(one, 1, b"first", key="a")
    append(one, 2, b"second")
    append(one, 2, b"second")  # sent again
    append(one, 3, b"third", key="a")
    stored = one.heard()
    assert [(type(each), each.again) for each in stored] == [
        (Stored, False),
        (Stored, False),
        (Stored, True),
        (Stored, True),
    ]
    pushed = [each.envelope.partition(b" ") for each in two.heard()]
    assert [text for _, _, text in pushed] == [b"first", b"second"]
    assert pushed[1][0].decode() == str(stored[1].position)
    two.engine.read("log", None, 0, 10)
    (page,) = two.heard()
    assert isinstance(page, Page)
    assert (page.channel, page.top, page.reset) == ("log", 2, False)
    assert [entry.body for entry in page.entries] == [b"first", b"second"]
    two.engine.read("log", Position(page.epoch, 1, None), 1, 10)
    assert [entry.body for entry in two.heard()[0].entries] == [b"second"]
    removed: list[int | None] = []
    one.engine.remove("log", removed.append)
    assert removed == [2]
    two.engine.read("log", None, 0, 10)
    assert two.heard()[0].entries == []


def test_loop_that_does_not_turn_begins_anew_and_the_others_go_on(
    shared: SharedEngine,
) -> None:
    busy, other = Loop(shared, inbox_limit=10_000), Loop(shared)
    for loop in (busy, other):
        loop.engine.subscribe(["news"])
        loop.heard()
    for _ in range(100):
        other.engine.publish("news", bytes(100))
        assert other.heard() == [Delivered("news", bytes(100)), Accepted(2)]
    assert 0 < busy.engine.waiting <= 10_000
    assert busy.heard() == [Ready("threads"), Subscribed()]
    assert [up for up, _ in busy.states] == [True, False, True]
    assert busy.states[1][1] == "more than 10,000 bytes waited for this thread"
    other.engine.publish("news", b"hello")
    assert busy.heard() == [Delivered("news", b"hello")]


def test_inbox_is_emptied_over_several_turns(loops: list[Loop]) -> None:
    one, two, _ = loops
    two.engine.subscribe(["news"])
    for number in range(20):
        one.engine.publish("news", b"%d" % number)
    two.reactor.step = 0.002
    two.reactor.turn()
    assert 0 < len(two.events) < 20
    for number in range(20, 25):
        one.engine.publish("news", b"%d" % number)  # come behind those that are left
    texts = [each.envelope for each in two.heard()]
    assert texts == [b"%d" % number for number in range(25)]


def test_error_of_one_message_does_not_stop_the_others(
    loops: list[Loop], caplog: pytest.LogCaptureFixture
) -> None:
    one, two, _ = loops
    heard: list[bytes] = []

    def on_event(event: Any) -> None:
        heard.append(event.envelope)
        if len(heard) == 1:
            raise RuntimeError

    two.engine.connect(on_event, lambda up, why: None)
    two.engine.subscribe(["news"])
    for text in (b"1", b"2"):
        one.engine.publish("news", text)
    two.heard()
    assert heard == [b"1", b"2"]
    assert "internal error in the engine of threads" in caplog.text


def test_loop_that_has_stopped_gets_nothing(
    shared: SharedEngine, loops: list[Loop]
) -> None:
    one, two, three = loops
    for loop in loops:
        loop.engine.subscribe(["news"])
    one.engine.publish("news", b"hello")
    two.engine.stop()
    three.engine.forget()
    assert two.heard() == three.heard() == []
    one.engine.publish("news", b"again")
    assert [type(each) for each in one.heard()].count(Delivered) == 2
    assert two.heard() == []
    one.engine.stop()
    assert list(shared.channels.get("news", ())) == [three.engine]


def test_expired_messages_are_looked_for(loops: list[Loop]) -> None:
    one = loops[0]
    one.engine.append("log", b"text", Origin(b"me", 1, None), Retention(10, 5.0))
    one.reactor.now += 200_000.0
    for sweep in list(one.reactor.later):
        sweep()
    one.engine.read("log", None, 0, 10)
    page = one.heard()[-1]
    assert (page.top, page.entries) == (0, [])
