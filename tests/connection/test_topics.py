"""Groups, topics and identities: the receivers of messages."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from simple_ws.connection.topics import Group, Identities, Topics

pytestmark = pytest.mark.one_backend


class Member:
    """What may be referred to weakly."""


def test_group_keeps_the_order_and_each_once() -> None:
    group: Group[str] = Group()
    for name in ("b", "a", "c", "a"):
        group.add(name)
    assert list(group) == ["b", "a", "c"]
    assert len(group) == 3
    assert "a" in group
    group.discard("a")
    group.discard("a")
    assert list(group) == ["b", "c"]
    assert "a" not in group
    assert repr(group) == "<2 clients>"
    assert not Group()


def test_walk_is_over_those_who_were_in_when_it_began() -> None:
    group: Group[int] = Group()
    for number in range(5):
        group.add(number)
    seen = []
    for number in group:
        seen.append(number)
        group.discard(number + 1)
        group.add(number + 100)
    assert seen == [0, 1, 2, 3, 4]
    assert list(group) == [0, 100, 101, 102, 103, 104]


def test_two_walks_at_once_do_not_disturb_each_other() -> None:
    group: Group[int] = Group()
    group.add(1)
    first = iter(group)
    group.add(2)
    assert list(group) == [1, 2]
    assert list(first) == [1]


def test_group_keeps_nobody_alive_who_has_left() -> None:
    group: Group[Member] = Group()
    member = Member()
    watch = weakref.ref(member)
    group.add(member)
    assert list(group) == [member]
    group.discard(member)
    del member
    gc.collect()
    assert watch() is None


def test_group_may_be_walked_while_another_thread_changes_it() -> None:
    group: Group[int] = Group()
    for number in range(1000):
        group.add(number)
    stop = threading.Event()
    walked = []

    def walk() -> None:
        while not stop.is_set():
            walked.append(len(list(group)))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=walk)
    thread.start()
    try:
        for number in range(1000, 3000):
            group.add(number)
            # A copy that the other thread made before must not be taken for this one.
            assert list(group)[-1] == number
            group.discard(number - 1000)
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert set(walked) <= {1000, 1001}


def test_copy_made_before_a_change_is_not_kept() -> None:
    class Slow(dict[int, None]):
        """Changes the group after it was copied, as another thread might."""

    group: Group[int] = Group()
    group.add(1)

    class Meddler(Slow):
        def __iter__(self):  # type: ignore[no-untyped-def]
            copied = list(super().__iter__())
            group._members = dict.fromkeys(copied)
            group.add(2)
            return iter(copied)

    group._members = Meddler.fromkeys([1])
    assert list(group) == [1]
    assert list(group) == [1, 2]


def test_topic_has_its_subscribers_in_order() -> None:
    topics: Topics[str] = Topics()
    topics.subscribe("news", "a")
    topics.subscribe("news", "b")
    topics.subscribe("sport", "b")
    assert list(topics.members("news")) == ["a", "b"]
    assert list(topics.members("sport")) == ["b"]
    assert list(topics.members("nothing")) == []


def test_unsubscribing_leaves_nothing_behind() -> None:
    topics: Topics[str] = Topics()
    topics.subscribe("news", "a", priority=0)
    topics.unsubscribe("news", "b")
    topics.unsubscribe("other", "a")
    assert list(topics.members("news")) == ["a"]
    topics.unsubscribe("news", "a")
    topics.unsubscribe("news", "a")
    assert topics._groups == {}
    assert topics._priorities == {}


def test_highest_priority_first_and_the_latest_among_equals() -> None:
    topics: Topics[str] = Topics()
    for name, priority in (("a", 0), ("b", 5), ("c", 5), ("d", -1), ("e", 0)):
        topics.subscribe("t", name, priority)
    assert topics.by_priority("t") == ["c", "b", "e", "a", "d"]
    topics.unsubscribe("t", "c")
    assert topics.by_priority("t") == ["b", "e", "a", "d"]
    assert topics.by_priority("nothing") == []


def test_subscribing_again_is_the_latest_with_the_new_priority() -> None:
    topics: Topics[str] = Topics()
    for name in ("a", "b", "a"):
        topics.subscribe("t", name)
    assert topics.by_priority("t") == ["a", "b"]
    topics.subscribe("t", "b", priority=1)
    topics.subscribe("t", "a", priority=-1)
    assert topics.by_priority("t") == ["b", "a"]


def test_identity_has_several_connections() -> None:
    identities: Identities[str] = Identities()
    identities.bind("user-7", "a")
    identities.bind("user-7", "b")
    identities.bind(8, "c")
    assert list(identities.members("user-7")) == ["a", "b"]
    assert identities.online() == ["user-7", 8]
    identities.unbind("user-7", "a")
    identities.unbind("user-7", "c")
    identities.unbind("nobody", "a")
    assert list(identities.members("user-7")) == ["b"]
    identities.unbind("user-7", "b")
    assert identities.online() == [8]
    assert list(identities.members("user-7")) == []


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(-2, 2)),
        unique_by=lambda entry: entry[0],
    )
)
def test_priorities_sort_like_the_sentence_says(entries: list[tuple[int, int]]) -> None:
    topics: Topics[int] = Topics()
    for member, priority in entries:
        topics.subscribe("t", member, priority)
    expected = sorted(enumerate(entries), key=lambda e: (e[1][1], e[0]), reverse=True)
    assert topics.by_priority("t") == [member for _, (member, _) in expected]


class GroupMachine(RuleBasedStateMachine):
    """Any order of coming and going gives what a plain list gives."""

    def __init__(self) -> None:
        super().__init__()
        self.group: Group[int] = Group()
        self.model: list[int] = []

    @rule(member=st.integers(0, 5))
    def add(self, member: int) -> None:
        self.group.add(member)
        if member not in self.model:
            self.model.append(member)

    @rule(member=st.integers(0, 5))
    def discard(self, member: int) -> None:
        self.group.discard(member)
        if member in self.model:
            self.model.remove(member)

    @invariant()
    def same(self) -> None:
        assert list(self.group) == self.model
        assert len(self.group) == len(self.model)


TestGroupMachine = GroupMachine.TestCase
