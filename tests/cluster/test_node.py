"""A node by its promises, on an engine that does what the test says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from simple_ws.cluster.content import Kind
from simple_ws.cluster.engine import (
    Accepted,
    Delivered,
    Failed,
    Page,
    ReadRefused,
    Ready,
    Refused,
    Subscribed,
)
from simple_ws.cluster.envelope import Envelope, open_, seal
from simple_ws.cluster.history import Retention
from simple_ws.cluster.interest import LINGER
from simple_ws.cluster.node import EngineState, Message, Node
from simple_ws.constants import TURN

pytestmark = pytest.mark.one_backend

TOPIC = "sws.t.room"
OTHER = b"another "


class FakeEngine:
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.subscribed: list[str] = []
        self.published: list[tuple[str, bytes]] = []
        self.reads: list[str] = []
        self.size = 0
        self.ready = False

    def subscribe(self, channels: Iterable[str]) -> None:
        self.subscribed += channels

    def unsubscribe(self, channels: Iterable[str]) -> None:
        self.subscribed = [c for c in self.subscribed if c not in channels]

    def receives(self, channel: str) -> bool:
        return self.ready and channel in self.subscribed

    def publish(self, channel: str, envelope: bytes) -> None:
        self.published.append((channel, envelope))

    def read(self, channel: str, known: object, after: int, limit: int) -> None:
        self.reads.append(channel)


class FakeHost:
    """The server of a node: notes everything, and lets time pass."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], object]] = []
        self.later: list[tuple[float, Callable[[], object]]] = []
        self.delivered: list[tuple[str, bytes]] = []
        self.excluded: list[Any] = []
        self.gaps: list[tuple[str, int | None]] = []
        self.states: list[EngineState] = []
        self.invalid: list[str] = []
        self.given_up: list[str] = []
        self.now = 0.0
        self.flushes = 0

    def call_soon(self, callback: Callable[[], object]) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        self.later.append((self.now + delay, callback))

    def flush_engine(self) -> None:
        self.flushes += 1

    def clock(self) -> float:
        return self.now

    def give_up_engine(self, reason: str) -> None:
        self.given_up.append(reason)
        self.node.on_link(False, reason)

    def deliver(self, message: Message) -> None:
        self.delivered.append((message.channel, message.body))
        self.excluded.append(message.exclude)

    def note_gap(self, channel: str, missing: int | None) -> bool:
        self.gaps.append((channel, missing))
        return True

    def note_engine(self, state: EngineState) -> None:
        self.states.append(state)

    def note_invalid(self, channel: str, why: str) -> None:
        self.invalid.append(why)

    def turn(self, seconds: float = 0.0) -> None:
        self.now += seconds
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()
        due = [callback for when, callback in self.later if when <= self.now]
        self.later = [each for each in self.later if each[0] > self.now]
        for callback in due:
            callback()

    node: Node


class Cluster:
    """A node, connected, with one listener of TOPIC."""

    def __init__(self, listens: bool = True, **options: Any) -> None:
        self.engine, self.host = FakeEngine(), FakeHost()
        self.node = self.host.node = Node(self.engine, self.host, **options)  # type: ignore[arg-type]
        self.connect()
        if listens:
            self.node.interest.add(TOPIC)
            self.host.turn()

    def connect(self) -> None:
        self.engine.ready = True
        self.node.on_link(True, "")
        self.node.on_event(Ready("fake 1.0"))
        self.node.on_event(Subscribed())

    def cut(self, reason: str = "cut") -> None:
        self.engine.ready = False
        self.node.on_link(False, reason)

    def publish(self, *bodies: bytes, channel: str = TOPIC) -> None:
        for body in bodies:
            self.node.publish(channel, Kind.TEXT, body)

    def echo(self, index: int = -1) -> None:
        self.node.on_event(Delivered(*self.engine.published[index]))

    def accept(self, count: int = 1) -> None:
        for _ in range(count):
            self.node.on_event(Accepted(1))

    def hear(
        self, *numbers: int, publisher: bytes = OTHER, channel: str = TOPIC
    ) -> None:
        """Messages of another node, each with its number as the text."""
        for seq in numbers:
            envelope = Envelope(publisher, 1, seq, Kind.TEXT, b"%d" % seq)
            self.node.on_event(Delivered(channel, seal(envelope, channel, None)))

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, body in self.host.delivered]


def test_message_is_delivered_when_it_comes_back_and_once() -> None:
    cluster = Cluster()
    cluster.node.publish(TOPIC, Kind.TEXT, b"hello", exclude=("me",))
    assert cluster.bodies == []
    cluster.echo()
    cluster.accept()
    cluster.echo()
    assert cluster.bodies == [b"hello"]
    assert cluster.host.excluded == [("me",)]
    assert (cluster.node.counts.published, cluster.node.counts.repeats) == (1, 1)


def test_reply_may_come_before_the_message() -> None:
    cluster = Cluster()
    cluster.node.publish(TOPIC, Kind.TEXT, b"hello", exclude=("me",))
    cluster.accept()
    assert cluster.bodies == []
    cluster.echo()
    assert cluster.host.excluded == [("me",)]


def test_order_is_that_of_the_engine() -> None:
    cluster = Cluster()
    cluster.publish(b"ours")
    cluster.hear(1)
    cluster.echo()
    cluster.hear(2)
    assert cluster.bodies == [b"1", b"ours", b"2"]


def test_without_a_listener_nothing_is_delivered() -> None:
    cluster = Cluster(listens=False)
    cluster.publish(b"x")
    cluster.hear(1)
    cluster.cut()
    assert cluster.bodies == []
    assert cluster.node.counts.unsure == 1


def test_lost_connection_delivers_what_has_not_come_back_in_order() -> None:
    cluster = Cluster()
    cluster.publish(b"a", b"b", b"c", b"d")
    for index in (0, 1):
        cluster.echo(index)
    cluster.accept(1)
    cluster.cut()
    assert cluster.bodies == [b"a", b"b", b"c", b"d"]
    assert cluster.node.counts.unsure == 3
    cluster.publish(b"e")
    assert cluster.bodies[-1] == b"e"
    assert cluster.node.counts.lost == 1
    # What reached the engine all the same comes late: never twice.
    cluster.connect()
    for index in range(2, 4):
        cluster.echo(index)
    assert cluster.bodies == [b"a", b"b", b"c", b"d", b"e"]
    cluster.publish(b"f")
    cluster.echo()
    assert cluster.bodies[-1] == b"f"


def test_accepted_message_that_did_not_come_back_is_delivered_and_sure() -> None:
    cluster = Cluster()
    cluster.publish(b"a")
    cluster.accept()
    cluster.cut()
    assert cluster.bodies == [b"a"]
    assert cluster.node.counts.unsure == 0


def test_missing_numbers_are_told_and_old_ones_dropped() -> None:
    cluster = Cluster()
    cluster.hear(5, 6, 9, 8, 6, 10)
    cluster.hear(3, publisher=b"a third!")
    assert cluster.bodies == [b"5", b"6", b"9", b"10", b"3"]
    assert cluster.host.gaps == [(TOPIC, 2)]
    assert (cluster.node.counts.missing, cluster.node.counts.repeats) == (2, 2)


def test_after_a_cut_an_unknown_gap_is_told_once_and_no_number_twice() -> None:
    cluster = Cluster()
    cluster.hear(1, 2)
    cluster.cut()
    cluster.connect()
    assert cluster.host.gaps == [(TOPIC, None)]
    cluster.hear(2, 7, 9)
    assert cluster.bodies == [b"1", b"2", b"7", b"9"]
    assert cluster.host.gaps == [(TOPIC, None), (TOPIC, 1)]


def test_many_channels_are_told_of_a_cut_in_several_turns() -> None:
    """None of them takes longer than a turn may, and nothing comes before its gap."""
    cluster = Cluster(listens=False)
    channels = [f"sws.t.{number}" for number in range(100)]
    for channel in channels:
        cluster.node.interest.add(channel)
    cluster.host.turn()
    cluster.hear(1, channel=channels[90])
    cluster.cut()
    tell = cluster.host.note_gap

    def note_gap(channel: str, missing: int | None) -> bool:
        cluster.host.now += TURN / 10
        return tell(channel, missing)

    cluster.host.note_gap = note_gap  # type: ignore[method-assign]
    cluster.connect()
    first = len(cluster.host.gaps)
    assert 10 <= first <= 11
    assert cluster.host.gaps == [(channel, None) for channel in channels[:first]]
    cluster.hear(4, channel=channels[90])
    assert cluster.host.gaps[first:] == [(channels[90], None)]
    assert cluster.bodies == [b"1", b"4"]
    turns = 1
    while cluster.host.soon:
        before = len(cluster.host.gaps)
        cluster.host.turn()
        turns += 1
        assert len(cluster.host.gaps) - before <= 11
    assert turns >= 9
    told = [channel for channel, _ in cluster.host.gaps]
    assert sorted(told) == sorted(channels)
    cluster.hear(5, 7, channel=channels[90])
    assert cluster.host.gaps[100:] == [(channels[90], 1)]


def test_lost_messages_are_missing_for_the_others() -> None:
    """Their numbers are used up."""
    cluster = Cluster()
    cluster.publish(b"a")
    cluster.accept()
    cluster.cut()
    cluster.publish(b"b", b"c")
    cluster.connect()
    cluster.publish(b"d")
    numbers = [open_(data, TOPIC, None).seq for _, data in cluster.engine.published]
    assert numbers == [1, 4]
    sessions = [open_(d, TOPIC, None).session for _, d in cluster.engine.published]
    assert sessions == [1, 2]


def test_channel_that_was_left_has_no_gap_when_it_is_entered_again() -> None:
    cluster = Cluster()
    cluster.hear(1)
    cluster.node.interest.remove(TOPIC)
    cluster.hear(2)
    for _ in range(3):
        cluster.host.turn(LINGER)
    assert cluster.engine.subscribed == []
    cluster.node.interest.add(TOPIC)
    cluster.host.turn()
    cluster.hear(9)
    assert cluster.bodies == [b"1", b"9"]
    assert cluster.host.gaps == []


def test_subscription_of_this_turn_is_before_the_message() -> None:
    cluster = Cluster(listens=False)
    cluster.node.interest.add(TOPIC)
    assert cluster.engine.subscribed == []
    cluster.publish(b"x")
    assert cluster.engine.subscribed == [TOPIC]
    assert cluster.bodies == []
    cluster.echo()
    assert cluster.bodies == [b"x"]


def test_message_that_will_not_come_back_is_delivered_at_once() -> None:
    """Its subscription waits for a window of the engine."""
    cluster = Cluster()
    cluster.engine.subscribed.clear()
    cluster.publish(b"x")
    assert cluster.bodies == [b"x"]
    cluster.accept()
    cluster.cut()
    assert cluster.bodies == [b"x"]


def test_refused_message_is_delivered_here_alone_and_told() -> None:
    cluster = Cluster()
    cluster.publish(b"x", b"y")
    cluster.node.on_event(Refused("NOPERM"))
    assert cluster.bodies == [b"x"]
    assert cluster.node.counts.refused == 1
    assert cluster.host.invalid == ["the engine refused a message: NOPERM"]
    cluster.echo()
    cluster.accept()
    assert cluster.bodies == [b"x", b"y"]


def test_engine_that_takes_too_little_is_given_up_and_nothing_is_lost_here() -> None:
    cluster = Cluster(output_limit=1000)
    cluster.publish(b"a", b"b")
    cluster.engine.size = 1001
    cluster.publish(b"c")
    assert cluster.host.given_up == ["more than 1,000 bytes wait for it"]
    assert cluster.bodies == [b"a", b"b", b"c"]
    assert (cluster.node.counts.unsure, cluster.node.counts.lost) == (2, 1)


def test_failure_of_the_engine_is_its_end() -> None:
    cluster = Cluster()
    cluster.publish(b"a")
    cluster.node.on_event(Failed("no sign of life"))
    assert cluster.bodies == [b"a"]
    assert cluster.host.states[-1] == EngineState(False, "no sign of life", "fake 1.0")


def test_it_is_up_when_it_has_subscribed_and_every_change_is_told_once() -> None:
    cluster = Cluster()
    cluster.cut("one")
    cluster.cut("one")
    cluster.node.on_link(True, "")
    assert not cluster.node.state.up
    cluster.node.on_event(Ready("fake 1.1"))
    assert not cluster.node.state.up
    cluster.node.on_event(Subscribed())
    cluster.node.on_event(Subscribed())
    assert cluster.host.states == [
        EngineState(True, "", "fake 1.0"),
        EngineState(False, "one", "fake 1.0"),
        EngineState(True, "", "fake 1.1"),
    ]


def test_what_is_not_signed_or_no_envelope_is_counted_and_dropped() -> None:
    cluster = Cluster(secret=b"secret")
    cluster.hear(1)
    cluster.node.on_event(Delivered(TOPIC, b"\x80pickle"))
    assert cluster.bodies == []
    assert cluster.node.counts.invalid == 2
    assert len(cluster.host.invalid) == 2
    cluster.publish(b"x")
    cluster.echo()
    assert cluster.bodies == [b"x"]


def test_numbers_of_many_channels_are_bounded_and_only_grow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("simple_ws.cluster.numbers._MAX_NUMBERED", 3)
    cluster = Cluster(listens=False)
    for _ in range(5):
        cluster.publish(b"x", channel="a")
    for name in "bcd":
        cluster.publish(b"x", channel=name)
    cluster.publish(b"x", channel="a")
    seqs = [(c, open_(d, c, None).seq) for c, d in cluster.engine.published]
    assert seqs[-1] == ("a", 6)


def test_publishers_of_a_channel_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simple_ws.cluster.node._MAX_PUBLISHERS", 3)
    cluster = Cluster()
    for number in range(10):
        cluster.hear(1, publisher=b"%08d" % number)
    assert len(cluster.bodies) == 10
    assert len(cluster.node._last[TOPIC]) == 3


# --- Interest ------------------------------------------------------------------------


def test_thousand_changes_in_a_turn_are_one_command_at_most() -> None:
    cluster = Cluster(listens=False)
    commands: list[list[str]] = []
    cluster.engine.subscribe = lambda channels: commands.append(list(channels))  # type: ignore[method-assign]
    for _ in range(1000):
        cluster.node.interest.add(TOPIC)
        cluster.node.interest.remove(TOPIC)
    cluster.node.interest.add(TOPIC)
    cluster.node.interest.add("sws.t.b")
    cluster.host.turn()
    assert commands == [[TOPIC, "sws.t.b"]]


def test_every_command_is_flushed() -> None:
    """Also where nothing is published."""
    cluster = Cluster(listens=False)
    cluster.node.interest.add(TOPIC)
    cluster.host.turn()
    assert cluster.host.flushes == 1
    cluster.node.interest.remove(TOPIC)
    for _ in range(2):
        cluster.host.turn(LINGER)
    assert cluster.host.flushes == 2


def test_listener_that_comes_back_soon_costs_nothing() -> None:
    cluster = Cluster()
    gone: list[str] = []
    cluster.engine.unsubscribe = gone.extend  # type: ignore[method-assign]
    cluster.node.interest.remove(TOPIC)
    cluster.host.turn(LINGER)
    cluster.node.interest.add(TOPIC)
    for _ in range(3):
        cluster.host.turn(LINGER)
    assert gone == []
    assert cluster.engine.subscribed == [TOPIC]
    cluster.node.interest.remove(TOPIC)
    for _ in range(2):
        cluster.host.turn(LINGER)
    assert gone == [TOPIC]
    cluster.host.turn(10 * LINGER)
    assert cluster.host.later == []


def test_what_was_not_confirmed_at_the_end_is_counted() -> None:
    cluster = Cluster()
    cluster.publish(b"sure", b"unsure", b"too")
    cluster.echo(0)
    cluster.accept()
    cluster.node.end()
    assert cluster.node.counts.unsure == 2
    assert cluster.bodies == [b"sure", b"unsure", b"too"]
    cluster.publish(b"late")
    assert cluster.node.counts.lost == 1
    assert cluster.node.state == EngineState(False, "stopped", "fake 1.0")
    assert cluster.host.states == [EngineState(True, "", "fake 1.0")]


def test_topic_that_cannot_be_read_is_read_again_and_others_go_on() -> None:
    cluster = Cluster()
    channels = [f"{{sws.k.{name}}}e" for name in "ab"]
    kept = cluster.node.kept
    bad, good = [kept.open(channel, Retention(9, None)) for channel in channels]
    cluster.node.on_event(ReadRefused(channels[0], "WRONGTYPE"))
    cluster.node.on_event(Page(channels[1], "ab", 0, False, []))
    assert (bad.in_step, good.in_step) == (False, True)
    assert cluster.engine.reads == channels
    assert "WRONGTYPE" in cluster.host.invalid[0]
    assert not cluster.host.given_up
    cluster.host.turn(4.9)
    assert cluster.engine.reads == channels
    cluster.host.turn(0.2)
    assert cluster.engine.reads == [*channels, channels[0]]
    cluster.node.on_event(Page(channels[0], "ab", 0, False, []))
    assert bad.in_step
    cluster.host.turn(100.0)
    assert len(cluster.engine.reads) == 3
