"""Topics with history of several nodes, on an engine that does what the test says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simple_ws.cluster.content import Content, Kind
from simple_ws.cluster.engine import (
    Delivered,
    EngineEvent,
    Origin,
    Page,
    Ready,
    Refused,
    Stored,
    Subscribed,
)
from simple_ws.cluster.history import Entry, History, Retention, new_epoch
from simple_ws.cluster.kept import Kept
from simple_ws.cluster.node import EngineState, Message, Node
from simple_ws.cluster.position import Position, tag_of
from simple_ws.cluster.resending import MAX_BYTES, MAX_MESSAGES, MAX_SECONDS
from simple_ws.cluster.since import ALL, parse_since, start

pytestmark = pytest.mark.one_backend

TOPIC = "{sws.k.room}e"
SIZE = 8


class Store:
    """What a Redis keeps, for one topic."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.engines: list[StoreEngine] = []
        self.clear()

    def clear(self) -> None:
        """It was killed, and is empty."""
        self.history = History(SIZE)
        self.origins: list[Origin] = []  # of all messages
        self.last: dict[bytes, int] = {}

    def lose_tail(self, count: int) -> None:
        """A replica was promoted that lacks the last messages."""
        old = self.history
        kept = max(0, old.top - count)
        first = max(0, kept - SIZE)
        copy = History(SIZE, None, old.epoch, first, None if first else 0)
        for entry in old.after(first):
            if entry.offset <= kept:
                copy.append(entry.tag, entry.body, entry.time)
        self.history = copy
        del self.origins[kept:]
        self.last = {each.publisher: each.seq for each in self.origins}

    def append(self, envelope: bytes, origin: Origin) -> Stored:
        history = self.history
        if self.last.get(origin.publisher, 0) >= origin.seq:
            return Stored(history.position, True)
        self.last[origin.publisher] = origin.seq
        self.origins.append(origin)
        tag = tag_of(origin.publisher + b"%d" % origin.seq)
        history.append(tag, envelope, self.now)
        for engine in self.engines:
            if engine.subscribed:
                push = b"%b %b" % (str(history.position).encode(), envelope)
                engine.events.append(Delivered(TOPIC, push))
        return Stored(history.position, False)

    def read(self, known: Position | None, after: int, limit: int) -> Page:
        history = self.history
        reset = known is not None and not history.knows(known)
        if reset and known is not None and known.epoch == history.epoch:
            history.epoch = new_epoch()
        entries = [
            Entry(entry.offset, entry.tag, self.now - entry.time, entry.body)
            for entry in history.after(0 if reset else after, limit)
        ]
        return Page(TOPIC, history.epoch, history.top, reset, entries)


class StoreEngine:
    """A connection to it: commands are processed, and events delivered, when the test
    says so."""

    keeps_history = True
    size = 0

    def __init__(self, store: Store) -> None:
        self.store = store
        self.commands: deque[Callable[[], EngineEvent | None]] = deque()
        self.events: deque[EngineEvent] = deque()
        self.subscribed = self.wanted = self.connected = False
        store.engines.append(self)

    def work(self, count: int = 10**9) -> None:
        """The server processes some commands."""
        while self.commands and count > 0:
            count -= 1
            event = self.commands.popleft()()
            if event is not None:
                self.events.append(event)

    def cut(self) -> None:
        self.commands.clear()
        self.events.clear()
        self.subscribed = self.connected = False

    def connect(self) -> None:
        self.connected = True
        if self.wanted:
            self._subscribe()
        self.commands.append(Subscribed)

    def _subscribe(self) -> None:
        def run() -> None:
            self.subscribed = True

        self.commands.append(run)

    def subscribe(self, channels: Iterable[str]) -> None:
        if TOPIC in channels:
            self.wanted = True
            if self.connected:
                self._subscribe()

    def unsubscribe(self, channels: Iterable[str]) -> None: ...

    def receives(self, channel: str) -> bool:
        return False

    def append(
        self, channel: str, envelope: bytes, origin: Origin, retention: Retention
    ) -> None:
        assert self.connected
        self.commands.append(lambda: self.store.append(envelope, origin))

    def read(
        self, channel: str, known: Position | None, after: int, limit: int
    ) -> None:
        assert self.connected
        self.commands.append(lambda: self.store.read(known, after, min(limit, 3)))


class Here:
    """A node with one subscriber who notes what it gets."""

    def __init__(self, store: Store) -> None:
        self.engine = StoreEngine(store)
        self.now = 5.0
        self.later: list[tuple[float, Callable[[], object]]] = []
        self.soon: list[Callable[[], object]] = []
        self.log: list[Any] = []
        self.invalid: list[str] = []
        self.node = Node(self.engine, self)  # type: ignore[arg-type]
        self.listening = False
        self.joined = False

    # What a node needs of its server

    def clock(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        self.later.append((self.now + delay, callback))

    def flush_engine(self) -> None: ...

    def give_up_engine(self, reason: str) -> None:
        raise AssertionError(reason)

    def deliver(self, message: Message) -> None:
        raise AssertionError(message)

    def deliver_kept(
        self, channel: str, content: Content, exclude: Collection[Any]
    ) -> None:
        if self.joined and "me" not in exclude:
            self.log.append(content)

    def note_gap(self, channel: str, missing: int | None) -> bool:
        if self.joined:
            self.log.append(("gap", missing))
        return self.joined

    def note_engine(self, state: EngineState) -> None: ...

    def note_invalid(self, channel: str, why: str) -> None:
        self.invalid.append(why)

    # What the test does

    @property
    def kept(self) -> Kept:
        return self.node.kept

    def join(self, since: Any = None) -> None:
        """Subscribe: what was missed, then what comes."""
        self.node.interest.add(TOPIC)
        replica = self.kept.open(TOPIC, Retention(SIZE, None))

        def enter() -> None:
            history = replica.history
            assert history is not None
            begin = start(history, parse_since(since), self.now)
            if begin.gap != 0:
                self.log.append(("gap", begin.gap))
            self.log += [entry.body for entry in history.after(begin.after)]
            self.joined = True

        replica.when_in_step(enter)
        for callback in self.soon:
            callback()
        self.soon.clear()

    def publish(self, *texts: str, **options: Any) -> list[bool]:
        options.setdefault("exclude", ())
        options.setdefault("key", None)
        return [
            self.kept.append(
                TOPIC,
                Kind.TEXT,
                text.encode(),
                retention=Retention(SIZE, None),
                **options,
            )
            for text in texts
        ]

    def up(self) -> None:
        self.node.on_link(True, "")
        self.node.on_event(Ready("store 1"))
        self.engine.connect()

    def cut(self) -> None:
        self.engine.cut()
        self.node.on_link(False, "cut")

    def take(self, count: int = 10**9) -> None:
        """Some events arrive."""
        events = self.engine.events
        while events and count > 0:
            count -= 1
            self.node.on_event(events.popleft())

    def settle(self) -> None:
        while self.engine.commands or self.engine.events:
            self.engine.work()
            self.take()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [callback for when, callback in self.later if when <= self.now]
        self.later = [each for each in self.later if each[0] > self.now]
        for callback in due:
            callback()


@pytest.fixture
def store() -> Store:
    return Store()


def begin(store: Store, count: int = 2) -> list[Here]:
    nodes = [Here(store) for _ in range(count)]
    for node in nodes:
        node.up()
        node.join()
        node.settle()
    return nodes


def settle(nodes: list[Here]) -> None:
    while any(node.engine.commands or node.engine.events for node in nodes):
        for node in nodes:
            node.settle()


def test_messages_come_when_they_are_stored_in_one_order(store: Store) -> None:
    one, two = nodes = begin(store)
    one.publish("a", "b")
    two.publish("c")
    assert one.log == two.log == []
    two.engine.work()
    settle(nodes)
    assert one.log == two.log == ["c", "a", "b"]
    assert one.node.counts.published == 2
    assert one.kept.waiting == 0


def test_publisher_is_told_when_a_message_is_stored(store: Store) -> None:
    one, two = nodes = begin(store)
    told: list[Position | None] = []
    one.publish("a", done=told.append)
    assert told == []
    settle(nodes)
    assert told == [store.history.position]
    # What was not confirmed is sent again: told once.
    one.publish("b", done=told.append)
    one.engine.work()
    one.cut()
    one.up()
    settle(nodes)
    assert told[1:] == [store.history.position]
    assert two.log == ["a", "b"]


def test_publisher_is_told_when_a_message_is_not_stored(store: Store) -> None:
    (one,) = begin(store, 1)
    told: list[Position | None] = []
    one.cut()
    one.publish("a", done=told.append)
    one.advance(40)
    one.advance(40)
    assert told == [None]
    one.publish("b", done=told.append)
    one.node.end()
    assert told == [None, None]
    full = "x" * (MAX_BYTES // 2)
    one.publish(full, full, done=told.append)
    assert told == [None, None, None]


def test_what_is_missed_while_away_is_read(store: Store) -> None:
    one, two = nodes = begin(store)
    one.publish("a")
    settle(nodes)
    two.cut()
    one.publish("b", "c", "d", "e")
    settle(nodes)
    two.up()
    one.publish("f")
    settle(nodes)
    assert two.log == ["a", "b", "c", "d", "e", "f"]
    assert two.node.counts.gaps == 0


def test_what_is_beyond_the_history_is_one_gap(store: Store) -> None:
    one, two = nodes = begin(store)
    two.cut()
    one.publish(*map(str, range(20)))
    settle(nodes)
    two.up()
    settle(nodes)
    assert two.log == [("gap", 12), *map(str, range(12, 20))]
    assert two.node.counts.missing == 12


def test_history_that_begins_anew_is_an_unknown_gap_first(store: Store) -> None:
    one, two = nodes = begin(store)
    one.publish("a", "b")
    settle(nodes)
    two.cut()
    one.cut()
    store.clear()
    one.up()
    one.publish("c")
    settle(nodes)
    two.up()
    settle(nodes)
    assert one.log == two.log == ["a", "b", ("gap", None), "c"]


def test_lost_tail_is_told_even_if_there_are_as_many_messages_again(
    store: Store,
) -> None:
    one, two = nodes = begin(store)
    one.publish("a", "b", "c")
    settle(nodes)
    for node in nodes:
        node.cut()
    store.lose_tail(2)
    one.up()
    settle(nodes)
    one.publish("d", "e", "f")
    settle(nodes)
    two.up()
    settle(nodes)
    assert one.log == two.log == ["a", "b", "c", ("gap", None), "d", "e", "f"]


def test_what_is_not_confirmed_is_sent_again_and_stored_once(store: Store) -> None:
    one, two = nodes = begin(store)
    one.publish("a", "b", "c")
    one.engine.work(2)  # "a" and "b" are stored, and nothing of it comes back
    one.cut()
    one.publish("d")
    assert one.log == []
    one.up()
    settle(nodes)
    assert one.log == two.log == ["a", "b", "c", "d"]
    assert (one.node.counts.resent, one.node.counts.again) == (3, 2)
    assert (one.node.counts.lost, one.node.counts.unsure) == (0, 0)


def test_what_waits_for_too_long_is_counted(store: Store) -> None:
    one, two = nodes = begin(store)
    one.publish("sent")
    one.cut()
    one.publish("never sent")
    one.advance(MAX_SECONDS - 1)
    one.publish("young")
    one.advance(2)
    assert (one.node.counts.unsure, one.node.counts.lost) == (1, 1)
    one.up()
    settle(nodes)
    assert one.log == two.log == ["young"]
    assert len(one.later) <= 1


def test_queue_is_bounded_in_messages_and_bytes(store: Store) -> None:
    [one] = begin(store, 1)
    one.cut()
    assert all(one.publish(*["x"] * MAX_MESSAGES))
    assert one.publish("y") == [False]
    assert one.node.counts.refused == 1
    assert one.invalid == ["too many messages wait for the engine"]
    one.advance(MAX_SECONDS + 1)
    assert one.node.counts.lost == MAX_MESSAGES
    half = "x" * (MAX_BYTES // 2 - 100)
    assert one.publish(half, half, half) == [True, True, False]
    with pytest.raises(ValueError, match=r"at most 8,388,590 bytes, not 8,388,608"):
        one.publish("x" * MAX_BYTES)


def test_long_queue_is_sent_in_windows(store: Store) -> None:
    [one] = begin(store, 1)
    one.cut()
    one.publish(*map(str, range(5000)))
    one.up()
    one.engine.work()
    one.take()
    assert len(one.engine.commands) < 1100
    settle([one])
    assert one.kept.waiting == 0
    assert store.history.top == 5000
    assert one.node.counts.published == 5000


def test_refused_message_is_counted_and_the_next_one_goes(store: Store) -> None:
    one, two = nodes = begin(store)
    one.publish("a", "b")
    one.engine.commands[0] = lambda: Refused("out of memory")
    settle(nodes)
    assert one.log == two.log == ["b"]
    assert one.node.counts.refused == 1
    assert one.invalid == ["the engine refused a message: out of memory"]


def test_who_is_left_out_is_so_even_if_the_message_is_read(store: Store) -> None:
    one, two = nodes = begin(store)
    one.publish("a", exclude=["me"])
    one.engine.work()
    one.cut()
    one.up()
    settle(nodes)
    one.publish("b")
    settle(nodes)
    assert one.log == ["b"]
    assert two.log == ["a", "b"]
    assert not one.kept._excluded


def test_first_join_reads_the_history_and_later_ones_do_not(store: Store) -> None:
    [one] = begin(store, 1)
    one.publish("a", "b", "c", "d")
    settle([one])
    two = Here(store)
    two.up()
    two.join("all")
    settle([one, two])
    assert two.log == ["a", "b", "c", "d"]
    replica = two.kept.open(TOPIC, Retention(SIZE, None))
    assert replica.in_step
    assert replica.history is not None
    assert start(replica.history, ALL, 0.0).after == 0
    assert not two.engine.commands


def test_who_waits_for_an_offset_is_called_once_when_it_comes(store: Store) -> None:
    one, two = begin(store)
    replica = two.kept.open(TOPIC, Retention(SIZE, None))
    woken: list[int] = []
    callbacks = {offset: partial(woken.append, offset) for offset in (2, 1, 3, 4, 9)}
    for offset, callback in callbacks.items():
        replica.when_at(offset, callback)
    replica.forget_waiting(callbacks[3])
    one.publish("a", "b")
    one.settle()
    two.settle()
    assert woken == [1, 2]
    one.publish("c", "d")
    one.engine.work()
    two.cut()
    two.up()
    two.settle()
    assert woken == [1, 2, 4]
    for number in range(2_000):
        replica.when_at(99, partial(woken.append, number))
    assert len(replica._ahead) == 1_000


def test_join_before_the_engine_is_there_waits_for_it(store: Store) -> None:
    [one] = begin(store, 1)
    one.publish("a")
    settle([one])
    two = Here(store)
    two.join("all")
    two.settle()
    assert two.log == []
    two.up()
    two.settle()
    assert two.log == ["a"]


def test_message_of_a_topic_that_was_left_is_dropped(store: Store) -> None:
    one, two = begin(store)
    two.joined = False
    two.node.interest.remove(TOPIC)
    two.advance(1)
    two.advance(1)
    assert not two.kept.replicas
    one.publish("a")
    one.settle()
    two.take()
    assert two.invalid == []
    assert two.node.counts.invalid == 0


def test_push_without_a_position_is_invalid(store: Store) -> None:
    [one] = begin(store, 1)
    for data in (b"", b"x y", b"zz:1:0000 body", b"\xff\xfe"):
        one.node.on_event(Delivered(TOPIC, data))
    assert one.node.counts.invalid == 4
    one.publish("a")
    one.settle()
    assert one.log == ["a"]


def test_entry_that_is_not_ours_keeps_its_place(store: Store) -> None:
    one, two = nodes = begin(store)
    store.append(b"no envelope", Origin(b"x", 1, None))
    settle(nodes)
    one.publish("a")
    settle(nodes)
    assert one.log == two.log == ["a"]
    assert one.node.counts.invalid == 1
    assert one.node.counts.gaps == 0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["publish", "publish", "work", "work", "take", "take", "cut", "up", "lose"]
        ),
        st.integers(0, 2),
        st.integers(1, 4),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_nobody_misses_or_repeats_anything_that_is_not_told(
    steps: list[tuple[str, int, int]],
) -> None:
    """Whatever is cut whenever: nothing comes twice, and what is missing is told."""
    store = Store()
    nodes = begin(store, 3)
    count = 0
    lost = False
    for step, index, amount in steps:
        node = nodes[index]
        if step == "publish":
            for _ in range(amount):
                count += 1
                node.publish(str(count))
        elif step == "work":
            node.engine.work(amount)
        elif step == "take":
            node.take(amount)
        elif step == "cut":
            if node.engine.connected:
                node.cut()
        elif step == "up":
            if not node.engine.connected:
                node.up()
        elif step == "lose":
            lost = True
            for each in nodes:
                if each.engine.connected:
                    each.cut()
            store.lose_tail(amount)
    for node in nodes:
        if not node.engine.connected:
            node.up()
    settle(nodes)
    nodes[0].publish("end")
    settle(nodes)
    for node in nodes:
        texts = [entry for entry in node.log if isinstance(entry, str)]
        gaps = [entry[1] for entry in node.log if isinstance(entry, tuple)]
        assert node.kept.waiting == 0
        assert len(set(texts)) == len(texts), f"repeated: {node.log}"
        assert texts[-1] == "end"
        if not lost:
            assert len(texts) + sum(gaps) == count + 1


def test_topic_that_was_left_at_once_while_away_is_no_copy(store: Store) -> None:
    [one] = begin(store, 1)
    two = Here(store)
    channel, retention = TOPIC, Retention(SIZE, None)
    two.node.interest.add(channel)
    two.kept.open(channel, retention)
    two.node.interest.remove(channel)
    assert not two.kept.replicas
    two.up()
    settle([one, two])
    one.publish("a")
    settle([one, two])
    two.join("all")
    settle([one, two])
    assert two.log == ["a"]


def test_engine_that_cuts_us_for_large_pages_is_read_in_small_ones(
    store: Store,
) -> None:
    """Such as Redis with a small client-output-buffer-limit."""
    [one] = begin(store, 1)
    one.publish(*"abcd")
    settle([one])
    two = Here(store)
    asked: list[int] = []
    read = two.engine.read

    def watched(channel: str, known: Any, after: int, limit: int) -> None:
        asked.append(limit)
        read(channel, known, after, limit)

    two.engine.read = watched  # type: ignore[method-assign]

    def come_up() -> None:
        two.up()
        two.engine.work()
        two.take()

    two.join("all")
    come_up()
    while asked[-1] > 2:
        two.cut()
        come_up()
    two.settle()
    assert two.log == list("abcd")
    assert len(asked) < 15
    two.cut()
    come_up()
    assert asked[-1] == asked[0]
