"""Who is present: nodes tell each other, on an engine in memory."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from internal_network import FakeNode, Network

from simple_ws.cluster.internal import encode
from simple_ws.cluster.presence import Presence
from simple_ws.cluster.roster import BEAT, GONE, SETTLE

pytestmark = pytest.mark.one_backend

GRACE = 5.0
ROOM = "room"


class Host(FakeNode):
    """A node with presence; notes what is told."""

    def __init__(
        self, network: Network, node: str, grace: float = GRACE, alone: bool = False
    ) -> None:
        self.told: list[tuple[str, Any, bool]] = []
        self.forgotten_topics: list[str] = []
        self.grace, self.alone = grace, alone
        super().__init__(network, node)
        self.presence = Presence(self, node, grace, alone=alone)
        self.control.add_presence(self.presence)

    def watch(self, topic: str) -> None:
        self.listens.add(self.channels.presence(topic))

    def unwatch(self, topic: str) -> None:
        self.listens.discard(self.channels.presence(topic))

    def tell(self, topic: str, member: Any, joined: bool, payload: Any) -> None:
        self.told.append((topic, member, joined))

    def forget(self, topic: str) -> None:
        self.forgotten_topics.append(topic)

    # Clients

    def enter(self, member: Any, payload: Any = None, topic: str = ROOM) -> None:
        self.presence.subscribe(topic)
        self.presence.enter(topic, member, payload)

    def leave(self, member: Any, topic: str = ROOM) -> None:
        self.presence.leave(topic, member)
        self.presence.unsubscribe(topic)

    def present(self, topic: str = ROOM) -> set[Any]:
        return set(self.presence.present(topic)[0])

    def events(self) -> list[tuple[Any, bool]]:
        """What was told since the last time."""
        told, self.told = self.told, []
        return [(member, joined) for _, member, joined in told]


def cluster(count: int = 2, **options: Any) -> tuple[Network, list[Any]]:
    network = Network()
    nodes = [
        network.add(name, lambda network, name: Host(network, name, **options))
        for name in "abcdefgh"[:count]
    ]
    network.advance(SETTLE)
    return network, nodes


def joined(*members: Any) -> list[tuple[Any, bool]]:
    return [(member, True) for member in members]


def left(*members: Any) -> list[tuple[Any, bool]]:
    return [(member, False) for member in members]


def test_members_of_all_nodes_are_known_to_all_that_watch() -> None:
    network, (a, b) = cluster()
    a.enter("ann", {"name": "Ann"})
    b.enter(7)
    network.advance(1)
    for node in (a, b):
        members, stale = node.presence.present(ROOM)
        assert members == {"ann": {"name": "Ann"}, 7: None}
        assert not stale
        assert sorted(map(repr, node.events())) == sorted(map(repr, joined("ann", 7)))
    a.leave("ann")
    network.advance(GRACE - 0.1)
    assert b.present() == {"ann", 7}
    network.advance(0.2)
    assert b.present() == {7}
    assert a.events() == b.events() == left("ann")


def test_node_that_begins_to_watch_gets_the_members_of_all() -> None:
    network, (a, b, c) = cluster(3)
    a.enter("ann", {"x": 1})
    b.enter("bob")
    network.advance(10)
    c.enter("cid")
    network.advance(SETTLE)
    members = {"ann": {"x": 1}, "bob": None, "cid": None}
    assert c.presence.present(ROOM) == (members, False)
    assert c.events()[0] == ("cid", True)
    network.advance(BEAT)
    network.sent.clear()
    network.advance(3 * BEAT)
    assert {message["k"] for _, _, message in network.sent} == {"here"}


def test_nodes_that_do_not_watch_hear_nothing() -> None:
    network, (a, b) = cluster()
    for number in range(10):
        a.enter(number)
    network.advance(1)
    assert b.present() == set()
    assert all(channel != "sws.n.b" for _, channel, _ in network.sent[4:])


def test_person_is_one_member_on_several_nodes() -> None:
    network, (a, b) = cluster()
    a.enter("ann")
    b.enter("ann")
    network.advance(1)
    a.leave("ann")
    network.advance(60)
    assert a.present() == b.present() == {"ann"} or b.present() == {"ann"}
    assert b.events() == joined("ann")


def test_who_comes_back_in_time_on_any_node_has_neither_left_nor_joined() -> None:
    network, (a, b, c) = cluster(3)
    c.enter("watcher")
    a.enter("ann")
    network.advance(10)
    for node in (a, b, c):
        node.events()
    a.leave("ann")
    network.advance(GRACE - 0.5)
    b.enter("ann")
    network.advance(60)
    assert c.present() == {"ann", "watcher"}
    assert c.events() == []
    assert a.events() == []


def test_without_grace_each_change_is_told() -> None:
    network, (a, b) = cluster(grace=0.0)
    b.enter("bob")
    a.enter("ann")
    network.advance(1)
    b.events()
    a.leave("ann")
    network.advance(1)
    a.enter("ann")
    network.advance(1)
    assert b.events() == [("ann", False), ("ann", True)]


def test_changes_of_a_moment_are_one_message_and_only_differences() -> None:
    network, (a, b) = cluster()
    b.enter("bob")
    network.advance(10)
    network.sent.clear()
    for number in range(100):
        a.enter(number)
    network.advance(1)
    (first,) = network.said("diff")
    assert len(first["come"]) == 100
    a.leave(5)
    network.advance(1)
    assert network.said("diff")[1]["left"] == ["i:5"]
    assert network.said("diff")[1]["come"] == []


def test_payload_that_changes_reaches_the_others_and_is_no_event() -> None:
    network, (a, b) = cluster()
    b.enter("bob")
    a.enter("ann", {"typing": False})
    network.advance(1)
    b.events()
    a.presence.enter(ROOM, "ann", {"typing": True})
    network.advance(1)
    assert b.presence.present(ROOM)[0]["ann"] == {"typing": True}
    assert b.events() == []


def test_of_several_nodes_all_see_the_same_payload() -> None:
    network, (a, b, c) = cluster(3)
    c.enter("cid")
    a.enter("ann", {"on": "a"})
    b.enter("ann", {"on": "b"})
    network.advance(1)
    shown = [node.presence.present(ROOM)[0]["ann"] for node in (a, b, c)]
    assert shown == [{"on": "b"}] * 3
    b.leave("ann")
    network.advance(1)
    assert c.presence.present(ROOM)[0]["ann"] == {"on": "a"}


# --- Faults --------------------------------------------------------------------------


def test_members_of_a_killed_node_leave_once_within_20_seconds() -> None:
    network, nodes = cluster(3)
    a, b, c = nodes
    for number in range(10_000):
        c.enter(number)
    a.enter("ann")
    b.enter("bob")
    network.advance(10)
    assert len(a.present()) == len(b.present()) == 10_002
    for node in (a, b):
        node.events()
    network.kill(c)
    network.advance(9.9)
    assert a.events() == b.events() == []
    network.advance(10.1)
    for node in (a, b):
        assert sorted(node.events()) == left(*range(10_000))
        assert node.present() == {"ann", "bob"}
    network.advance(60)
    assert a.events() == b.events() == []


def test_member_of_a_killed_node_who_is_elsewhere_has_not_left() -> None:
    network, (a, b, c) = cluster(3)
    for node in (b, c):
        node.enter("ann")
    a.enter("bob")
    network.advance(1)
    a.events()
    network.kill(c)
    network.advance(60)
    assert a.present() == {"ann", "bob"}
    assert a.events() == []


def test_members_of_a_node_that_stops_have_the_time_of_grace_to_come_back() -> None:
    network, (a, b) = cluster()
    a.enter("ann")
    b.enter("bob")
    b.enter("cid")
    network.advance(1)
    a.events()
    b.control.end()
    network.kill(b)
    network.advance(GRACE - 1)
    assert a.events() == []
    a.enter("bob")
    network.advance(2)
    assert a.events() == left("cid")


def test_members_of_a_process_that_stood_still_leave_and_join_again() -> None:
    network, (a, b) = cluster()
    a.enter("ann")
    b.enter("bob")
    network.advance(1)
    a.events()
    b.events()
    b.stop()
    network.advance(20)
    assert a.events() == left("bob")
    b.go_on()
    network.advance(BEAT + 1)
    assert a.events() == joined("bob")
    assert a.present() == b.present() == {"ann", "bob"}
    assert b.events() == []


def test_during_an_outage_the_last_members_stay_and_are_called_stale() -> None:
    network, (a, b) = cluster()
    a.enter("ann")
    b.enter("bob")
    network.advance(SETTLE + 1)
    assert a.presence.present(ROOM) == ({"ann": None, "bob": None}, False)
    a.cut()
    assert a.presence.present(ROOM) == ({"ann": None, "bob": None}, True)
    a.enter("cid")  # is told here all the same
    network.advance(60)
    assert a.present() == {"ann", "bob", "cid"}
    assert a.events() == joined("ann", "bob", "cid")
    b.leave("bob")
    b.enter("dan")
    a.connect()
    network.advance(GRACE + SETTLE)
    assert a.events() == [("dan", True), ("bob", False)]
    assert a.presence.present(ROOM) == ({"ann": None, "cid": None, "dan": None}, False)
    assert b.present() == {"ann", "cid", "dan"}


def test_node_that_never_comes_back_after_an_outage_takes_its_members_with_it() -> None:
    network, (a, b) = cluster()
    a.enter("ann")
    b.enter("bob")
    network.advance(1)
    a.events()
    a.cut()
    network.kill(b)
    network.advance(60)
    assert a.events() == []
    a.connect()
    network.advance(GONE + 0.1)
    assert a.events() == left("bob")


def lose(network: Network, *kinds: str) -> None:
    network.drops = lambda node, message: message["k"] in kinds


def lose_at(network: Network, node: Host, kind: str) -> None:
    """Lose diffs, and the messages of a kind to a node."""
    network.drops = lambda at, message: (
        message["k"] == "diff" or (at is node and message["k"] == kind)
    )


def test_lost_diff_is_asked_for_when_the_next_one_comes() -> None:
    network, (a, b) = cluster()
    b.enter("bob")
    a.enter("ann")
    network.advance(10)
    lose(network, "diff")
    a.enter("cid")
    network.advance(1)
    lose(network)
    assert b.present() == {"ann", "bob"}
    a.leave("ann")
    network.advance(0.1)
    assert "cid" in b.present()
    network.advance(GRACE)
    assert b.present() == {"bob", "cid"}


def test_last_diff_that_was_lost_is_asked_for_some_seconds_later() -> None:
    network, (a, b) = cluster()
    b.enter("bob")
    a.enter("ann")
    network.advance(10)
    lose(network, "diff")
    a.enter("cid")
    network.advance(1)
    lose(network)
    network.advance(BEAT)
    assert b.present() == {"ann", "bob", "cid"}


def test_lost_question_and_lost_answer_are_repeated() -> None:
    network, (a, b) = cluster()
    b.enter("bob")
    a.enter("ann")
    network.advance(10)
    for kind, at in (("who", a), ("state", b)):
        lose_at(network, at, kind)
        a.enter(f"lost {kind}")
        network.advance(BEAT + 1)
        lose(network)
        network.advance(2 * BEAT)
        assert f"lost {kind}" in b.present()


def test_topic_that_was_left_and_is_watched_again_starts_anew() -> None:
    network, (a, b) = cluster()
    b.enter("bob")
    a.enter("ann")
    network.advance(10)
    lose(network, "diff", "who")
    a.leave("ann")
    network.advance(GRACE + BEAT + 1)
    assert a.forgotten_topics == [ROOM]
    lose(network)
    assert b.present() == {"ann", "bob"}  # nobody could know
    a.enter("cid")
    network.advance(GRACE + 1)
    assert b.present() == {"bob", "cid"}
    assert a.present() == {"bob", "cid"}


def test_ghosts_of_a_topic_that_a_node_has_given_up_are_laid() -> None:
    network, (a, b) = cluster()
    b.enter("bob")
    a.enter("ann")
    network.advance(10)
    lose_at(network, a, "who")
    a.leave("ann")
    network.advance(GRACE + 2 * BEAT)
    assert a.forgotten_topics == [ROOM]
    lose(network)
    network.advance(GRACE + BEAT)
    assert b.present() == {"bob"}


def test_large_state_comes_in_bounded_pieces() -> None:
    network, (a, b) = cluster()
    payload = {"about": "x" * 1000}
    for number in range(500):
        a.enter(number, payload)
    network.advance(1)
    b.enter("bob")
    network.advance(1)
    assert len(b.present()) == 501
    sizes = [len(json.dumps(message)) for _, _, message in network.sent]
    assert 64_000 < max(sizes) < 70_000
    assert len(network.said("state")) > 5


def test_state_that_lost_its_beginning_is_not_taken() -> None:
    network, (a, b) = cluster()
    for number in range(500):
        a.enter(number, {"about": "x" * 1000})
    network.advance(1)
    network.drops = lambda node, message: message.get("piece") == 2
    b.enter("bob")
    network.advance(1)
    lose(network)
    network.advance(3 * BEAT)
    assert len(b.present()) == 501


# --- What is watched -----------------------------------------------------------------


def test_topic_that_was_asked_for_is_watched_for_a_minute() -> None:
    network, (a, b) = cluster()
    a.enter("ann")
    network.advance(1)
    assert b.presence.present(ROOM) == ({}, True)
    b.presence.ask_for(ROOM)
    network.advance(2)
    assert b.presence.present(ROOM) == ({"ann": None}, False)
    network.advance(30)
    b.presence.ask_for(ROOM)
    network.advance(45)
    assert b.present() == {"ann"}
    network.advance(25)
    assert b.presence.present(ROOM) == ({}, True)
    assert b.forgotten_topics == [ROOM]
    assert b.listens == {"sws.ctl", "sws.n.b"}


def test_topics_that_were_asked_for_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("simple_ws.cluster.presence._MAX_ASKED", 3)
    network, (a,) = cluster(1)
    for number in range(10):
        a.presence.ask_for(f"topic {number}")
    network.advance(BEAT + 1)
    assert len(a.listens) == 2 + 3


def test_process_that_is_alone_sends_nothing_and_is_never_stale() -> None:
    network = Network()
    alone = Host(network, "a", alone=True)
    alone.enter(("any", "identity"), {"x": 1})
    assert alone.presence.present(ROOM) == ({("any", "identity"): {"x": 1}}, False)
    alone.leave(("any", "identity"))
    network.advance(GRACE + 2 * BEAT)
    assert alone.events() == [*joined(("any", "identity")), *left(("any", "identity"))]
    assert network.sent == []
    assert alone.forgotten_topics == [ROOM]
    alone.presence.end()
    network.advance(2 * BEAT)
    assert network._timers == []


def test_topics_are_asked_for_little_by_little_after_an_outage() -> None:
    network, (a,) = cluster(1)
    for number in range(250):
        a.enter("ann", topic=f"topic {number}")
    network.advance(10)
    a.cut()
    network.sent.clear()
    a.connect()
    network.settle()
    assert len(network.said("who")) == 100
    network.advance(0.3)
    assert len(network.said("who")) == 250
    network.advance(3 * BEAT)  # and once more, in case that one was lost
    assert len(network.said("who")) == 500


# --- What strangers say --------------------------------------------------------------


GOOD = {"topic": ROOM, "s": 5, "p": 0, "have": {}, "piece": 1, "pieces": 1}
BAD: list[dict[str, Any]] = [
    {"topic": 5},
    {"s": "5"},
    {"s": True},
    {"p": None},
    {"have": []},
    {"piece": "1"},
    {"come": [5]},
    {"come": [["s:x"]]},
    {"come": [["x", None]]},
    {"come": [["i:x", None]]},
    {"come": [["s:x", 5]]},
    {"left": [5]},
    {"left": ["x"]},
]


@pytest.mark.parametrize("kind", ["diff", "who", "state"])
@pytest.mark.parametrize("bad", BAD)
def test_malformed_message_changes_nothing(kind: str, bad: dict[str, Any]) -> None:
    network, (a,) = cluster(1)
    a.enter("ann")
    network.advance(1)
    needed = {"diff": "topic s p come left", "who": "topic s have"}
    names = needed.get(kind, "topic s piece pieces come").split()
    if not set(bad) & set(names):
        pytest.skip("not in such a message")
    message = {"come": [], "left": [], **GOOD, **bad}
    a.receive("x", "sws.p.room", encode(kind, **{n: message[n] for n in names}))
    assert a.present() == {"ann"}
    assert len(a.invalid) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(
    kind=st.sampled_from(["diff", "who", "state"]),
    values=st.dictionaries(st.sampled_from([*GOOD, "come", "left"]), JSON),
)
def test_nothing_that_is_said_raises(kind: str, values: dict[str, Any]) -> None:
    _, (a,) = cluster(1)
    a.enter("ann")
    a.receive("x", "sws.p.room", encode(kind, **{**GOOD, **values}))


# --- Anything may happen -------------------------------------------------------------

MEMBERS = ["ann", "bob", 3]

#: What is lost on the way while something happens.
LOST = st.sampled_from(
    [(), (), ("diff",), ("who",), ("state",), ("diff", "who", "state")]
)
NODE = st.integers(0, 2)
FAULTS = ["kill", "bye", "cut", "cut", "connect", "connect", "stop", "go_on"]
STEP = st.one_of(
    st.tuples(st.just("toggle"), NODE, st.sampled_from(MEMBERS), LOST),
    st.tuples(st.sampled_from(FAULTS), NODE, st.none(), LOST),
    st.tuples(st.just("wait"), st.sampled_from([0.02, 0.3, 3.0, 6.0, 20.0])),
)


class Story:
    """What happens to three nodes, and what must be true at the end."""

    def __init__(self) -> None:
        self.network, self.nodes = cluster(3)
        self.has: dict[str, set[Any]] = defaultdict(set)
        self.lost_at = 0.0
        for node in self.nodes:
            node.presence.subscribe(ROOM)  # somebody without a name is always there
        self.logs = {node.id: node.told for node in self.nodes}

    def run(
        self, what: str, which: Any, member: Any = None, lost: tuple[str, ...] = ()
    ) -> None:
        # Not the repetition as well, which comes after some seconds.
        if lost and self.network.now > self.lost_at + 2 * BEAT + 1:
            self.lost_at = self.network.now
            lose(self.network, *lost)
        if what == "wait":
            self.network.advance(which)
        elif self.nodes[which].alive:
            getattr(self, f"_{what}")(self.nodes[which], member)
            self.network.advance(0.06)  # what is gathered is sent
        lose(self.network)

    def _toggle(self, node: Host, member: Any) -> None:
        if node.stopped:
            return
        if member in self.has[node.id]:
            self.has[node.id].discard(member)
            node.leave(member)
        else:
            self.has[node.id].add(member)
            node.enter(member)

    def _kill(self, node: Host, _: Any) -> None:
        if sum(each.alive for each in self.nodes) > 1:
            self.network.kill(node)
            self.has[node.id].clear()

    def _bye(self, node: Host, _: Any) -> None:
        if sum(each.alive for each in self.nodes) > 1 and not node.stopped:
            node.control.end()
            self._kill(node, None)

    def _cut(self, node: Host, _: Any) -> None:
        if node.up and not node.stopped:
            node.cut()

    def _connect(self, node: Host, _: Any) -> None:
        if not node.up and not node.stopped:
            node.connect()

    def _stop(self, node: Host, _: Any) -> None:
        node.stop()

    def _go_on(self, node: Host, _: Any) -> None:
        if node.stopped:
            node.go_on()

    def check(self) -> None:
        """All calm down: each node knows the truth, and has told every change once."""
        lose(self.network)
        for node in self.nodes:
            if node.alive:
                self._go_on(node, None)
                self._connect(node, None)
        self.network.advance(60)
        truth = set().union(*self.has.values())
        for node in self.nodes:
            check_alternating(node)
            if node.alive:
                assert node.present() == truth, node.id
                assert not node.presence.present(ROOM)[1]
                alive = {each.id for each in self.nodes if each.alive}
                assert set(node.others) == alive - {node.id}


def check_alternating(node: Host) -> None:
    """Each member joins, leaves, joins …, and what was told is what is shown."""
    shown: dict[Any, bool] = {}
    for _, member, is_joined in node.told:
        assert shown.get(member, False) is not is_joined, (node.id, member, node.told)
        shown[member] = is_joined
    assert {member for member, there in shown.items() if there} == node.present()


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, min_size=3, max_size=40))
def test_whatever_happens_all_nodes_know_the_truth_at_the_end(
    steps: list[tuple[Any, ...]],
) -> None:
    story = Story()
    for step in steps:
        story.run(*step)
        for node in story.nodes:
            check_alternating(node)
    story.check()
