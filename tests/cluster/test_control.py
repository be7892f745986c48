"""Nodes know of each other and answer questions, on an engine in memory."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from internal_network import FakeNode, Network

from simple_ws.cluster.answers import Answers, AnswersFuture
from simple_ws.cluster.internal import encode
from simple_ws.cluster.roster import BEAT, GONE, SETTLE
from simple_ws.errors import InvalidState

pytestmark = pytest.mark.one_backend


def cluster(count: int = 3) -> tuple[Network, list[FakeNode]]:
    """A cluster whose nodes know each other."""
    network = Network()
    nodes = [network.add(name) for name in "abcdefgh"[:count]]
    network.advance(SETTLE)
    return network, nodes


def ask(node: FakeNode, timeout: float = 2.0, data: Any = None) -> AnswersFuture:
    future = AnswersFuture(lambda: False)
    node.control.asking.ask("q", data, timeout, future, list)
    return future


# --- Which nodes there are -----------------------------------------------------------


def test_new_node_and_the_others_know_each_other_within_a_second() -> None:
    network, (a, b, c) = cluster()
    assert (a.others, b.others, c.others) == (["b", "c"], ["a", "c"], ["a", "b"])
    d = network.add("d")
    network.advance(SETTLE)
    assert d.others == ["a", "b", "c"]
    assert a.others == ["b", "c", "d"]
    info = d.control.nodes()[1]
    assert (info.name, info.clients, info.started) == (f"name of {info.id}", 3, 5.0)
    assert (info.version, info.own) == ("1.2", False)
    assert a.forgotten == b.forgotten == c.forgotten == 0


def test_nodes_with_other_rules_of_topics_are_told_once() -> None:
    class Other(FakeNode):
        rules = "1234abcd"

    network, (a, b) = cluster(2)
    other = network.add("c", Other)
    network.advance(4 * GONE)
    assert (a.other_rules, b.other_rules) == (["c"], ["c"])
    assert sorted(other.other_rules) == ["a", "b"]
    network.add("d", Other)
    network.advance(GONE)
    assert sorted(other.other_rules) == ["a", "b"]


def test_node_that_is_silent_for_15_seconds_is_gone_and_told_once() -> None:
    network, (a, b, c) = cluster()
    network.kill(c)
    killed = network.now
    network.advance(GONE - BEAT - SETTLE)
    assert a.others == ["b", "c"]
    network.advance(BEAT + SETTLE + 0.01)
    for node in (a, b):
        (gone,) = node.gone
        assert gone[0] == "c"
        assert killed - BEAT - SETTLE <= gone[1] <= killed
    network.advance(60)
    assert (a.others, b.others) == (["b"], ["a"])
    assert len(a.gone) == 1


def test_lost_signs_of_life_are_forgiven() -> None:
    network, (a, _) = cluster(2)
    losses = iter([True, True])
    network.drops = lambda node, message: (
        node is a and message["k"] == "here" and next(losses, False)
    )
    network.advance(60)
    assert a.gone == []


def test_node_that_stops_says_so() -> None:
    network, (a, b) = cluster(2)
    b.control.end()
    network.kill(b)
    network.settle()
    assert a.others == []
    assert a.gone == [("b", network.now)]


def test_silence_while_the_engine_is_down_does_not_count() -> None:
    network, (a, b) = cluster(2)
    a.cut()
    network.advance(60)
    assert a.others == ["b"]
    a.connect()
    network.advance(GONE - 1)
    assert a.others == ["b"]
    assert a.gone == []
    # Seen from the other one it was away.
    assert [node for node, _ in b.gone] == ["a"]
    assert b.others == ["a"]


def test_node_that_has_gone_meanwhile_is_gone_15_seconds_after_the_engine_came() -> (
    None
):
    network, (a, b) = cluster(2)
    a.cut()
    network.kill(b)
    network.advance(60)
    a.connect()
    network.advance(GONE - 0.1)
    assert a.others == ["b"]
    network.advance(0.2)
    assert a.others == []


def test_process_that_stood_still_counts_no_silence_and_learns_that_it_was_gone() -> (
    None
):
    network, (a, b) = cluster(2)
    b.stop()
    network.advance(20)
    assert [node for node, _ in a.gone] == ["b"]
    b.waiting.clear()  # Redis has cut it, and nothing waits
    b.go_on()
    network.advance(BEAT + 1)
    assert b.gone == []
    assert b.forgotten
    assert a.others == ["b"]


def test_node_that_was_forgotten_without_its_fault_is_told_so() -> None:
    network, (a, b) = cluster(2)
    network.drops = lambda node, message: node is a
    network.advance(20)
    assert [node for node, _ in a.gone] == ["b"]
    network.drops = lambda node, message: False
    network.advance(BEAT + SETTLE)
    assert a.others == ["b"]
    assert b.forgotten == 1
    assert a.forgotten == 0


def test_cost_of_a_period_is_one_message_a_node() -> None:
    network, nodes = cluster(5)
    network.advance(30)
    network.sent.clear()
    network.advance(BEAT)
    assert len(network.sent) == len(nodes)
    for _, channel, message in network.sent:
        assert channel == "sws.ctl"
        assert len(json.dumps(message)) < 200


def test_many_nodes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simple_ws.cluster.roster._MAX_NODES", 3)
    _, (a,) = cluster(1)
    here = encode("here", name="x", clients=0, started=0, version="")
    for number in range(10):
        a.receive(f"{number}", "sws.ctl", here)
    assert len(a.others) == 3


# --- Questions -----------------------------------------------------------------------


def test_all_nodes_are_asked_and_the_last_answer_is_the_end() -> None:
    network, nodes = cluster()
    for number, node in enumerate(nodes):
        node.answers["q"] = number
    future = ask(nodes[1], data={"x": 1})
    assert not future.done()
    network.settle()
    assert future.result() == Answers(
        value=[[1, {"x": 1}], [0, {"x": 1}], [2, {"x": 1}]],
        answers={f"name of {n.id}": [n.answers["q"], {"x": 1}] for n in nodes},
        errors={},
        missing=[],
    )


def test_error_of_a_node_stands_beside_the_answers_of_the_others() -> None:
    network, (a, b) = cluster(2)
    b.answers["q"] = ValueError("no luck")
    future = ask(a)
    network.settle()
    assert future.result().errors == {"name of b": "no luck"}
    assert future.result().missing == []
    assert future.result().value == [[None, None]]


def test_node_that_does_not_answer_in_time_is_named() -> None:
    network, (a, _, c) = cluster()
    c.stop()
    future = ask(a)
    network.advance(1.9)
    assert not future.done()
    network.advance(0.2)
    assert future.result().missing == ["name of c"]
    assert set(future.result().answers) == {"name of a", "name of b"}
    c.go_on()  # its answer comes too late, and is passed over
    network.settle()
    assert len(future.result().answers) == 2


def test_node_that_goes_meanwhile_is_not_waited_for() -> None:
    network, (a, b) = cluster(2)
    b.silent = True
    future = ask(a, timeout=100)
    network.advance(5)
    b.control.end()
    network.settle()
    assert future.result().missing == ["name of b"]


def test_lost_engine_ends_questions_with_what_has_come() -> None:
    _, (a, b) = cluster(2)
    b.silent = True
    future = ask(a, timeout=100)
    a.cut()
    assert future.result().missing == ["name of b"]
    assert set(future.result().answers) == {"name of a"}
    again = ask(a, timeout=100)  # while it is down
    assert again.result().missing == ["name of b"]
    assert set(again.result().answers) == {"name of a"}


def test_question_of_the_first_second_waits_until_the_nodes_are_known() -> None:
    network, (_, b) = cluster(2)
    c = network.nodes["c"] = FakeNode(network, "c")
    future = ask(c)  # even before the engine is there
    network.advance(0.5)
    b.silent = True
    c.connect()
    network.settle()
    network.advance(SETTLE + 0.1)
    assert not future.done()
    network.advance(1)
    assert future.result().missing == ["name of b"]
    assert set(future.result().answers) == {"name of a", "name of c"}


def test_question_of_one_that_is_alone_ends_at_once_and_at_the_latest_in_time() -> None:
    network = Network()
    lonely = network.add("a")
    future = ask(lonely)
    network.advance(SETTLE + 0.1)
    assert set(future.result().answers) == {"name of a"}
    never = FakeNode(network, "b")
    future = ask(never)
    network.advance(2.1)
    assert set(future.result().answers) == {"name of b"}


def test_end_of_the_server_ends_its_questions() -> None:
    _, (a, b) = cluster(2)
    b.silent = True
    future = ask(a, timeout=100)
    a.control.end()
    assert future.result().missing == ["name of b"]


# --- The future ----------------------------------------------------------------------


def test_future_can_be_waited_for_in_a_thread_and_awaited() -> None:
    future = AnswersFuture(lambda: False)
    answers = Answers(1, {"a": 1}, {}, [])

    async def wait() -> Any:
        return await future

    threading.Timer(0, lambda: future.set_result(answers)).start()
    assert asyncio.run(wait()) is answers
    assert future.result() is answers
    heard: list[Any] = []
    future.add_done_callback(lambda done: heard.append(done.result()))
    assert heard == [answers]
    assert not future.cancel()


def test_loop_does_not_wait_for_itself() -> None:
    future = AnswersFuture(lambda: True)
    for wait in (future.result, future.exception):
        with pytest.raises(InvalidState, match="use add_done_callback, await, or"):
            wait()
    future.set_result(Answers(1, {}, {}, []))
    assert future.result().value == 1
    assert future.exception() is None


def test_await_that_is_cancelled_leaves_the_answers_to_others() -> None:
    future = AnswersFuture(lambda: False)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_awaited(future), 0.001)

    asyncio.run(give_up())
    future.set_result(Answers(1, {}, {}, []))
    assert future.result().value == 1


async def _awaited(future: AnswersFuture) -> Any:
    return await future


# --- Questions to one node -----------------------------------------------------------


def call(node: FakeNode, to: str) -> tuple[bool, list[Any]]:
    """Whether the node is there, and what comes of the question."""
    came: list[Any] = []
    there = node.control.calls.call(
        to, "q", {"x": 1}, 2.0, lambda value, error: came.append((value, error))
    )
    return there, came


def test_one_node_is_asked_and_no_other() -> None:
    network, (a, b, c) = cluster()
    b.answers["q"] = 5
    c.answers["q"] = ValueError("no luck")
    there, came = call(a, "b")
    _, failed = call(a, "c")
    assert (there, came) == (True, [])
    network.settle()
    assert came == [([5, {"x": 1}], None)]
    assert failed == [(None, "no luck")]
    assert len(network.said("call")) == len(network.said("result")) == 2
    network.advance(5)
    assert len(came) == 1


def test_node_that_is_not_there_is_told_at_once() -> None:
    network, (a, b) = cluster(2)
    assert call(a, "x") == (False, [])
    assert network.said("call") == []
    c = network.add("c")  # in its first second it does not know them
    b.answers["q"] = 1
    there, came = call(c, "b")
    network.settle()
    assert (there, came) == (True, [([1, {"x": 1}], None)])


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("late", "no answer in time"),
        ("gone", "the node has gone"),
        ("cut", "the engine is away"),
        ("down", "the engine is away"),
        ("end", "the server stops"),
    ],
)
def test_every_call_ends_once(what: str, why: str) -> None:
    network, (a, b) = cluster(2)
    b.silent = True
    if what == "down":
        a.cut()
    _, came = call(a, "b")
    if what == "late":
        network.advance(2.1)
    elif what == "gone":
        network.settle()
        b.control.end()
        network.settle()
    elif what == "cut":
        a.cut()
    elif what == "end":
        a.control.end()
    assert came == [(None, why)]
    a.receive("b", "sws.n.a", encode("result", id=1, value=1))
    network.advance(5)
    assert len(came) == 1


def test_answer_of_another_node_is_passed_over() -> None:
    _, (a, b, _) = cluster()
    b.silent = True
    _, came = call(a, "b")
    a.receive("c", "sws.n.a", encode("result", id=1, value=1))
    assert came == []
    a.receive("b", "sws.n.a", encode("result", id=1, value=2))
    assert came == [(2, None)]


# --- What strangers say --------------------------------------------------------------


def test_kinds_and_versions_that_are_not_known_are_counted_and_passed_over() -> None:
    _, (a,) = cluster(1)
    a.receive("x", "sws.ctl", encode("dance"))
    a.receive("x", "sws.ctl", json.dumps({"v": 2, "k": "here"}).encode())
    a.receive("x", "sws.ctl", b'{"v": 1}')
    assert a.control.inbox.unknown == 3
    assert a.invalid == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        encode("here"),
        encode("here", name=1, clients=1, started=1, version="1"),
        encode("here", name="x", clients=True, started=1, version="1"),
        encode("ask", id=1),
        encode("ask", id="1", question="q"),
        encode("answer"),
        encode("answer", id=1, error=5),
        encode("call", id=1),
        encode("call", id="1", question="q"),
        encode("result"),
        encode("result", id=1, error=5),
    ],
)
def test_malformed_message_is_told_and_passed_over(body: bytes) -> None:
    _, (a,) = cluster(1)
    a.receive("x", "sws.ctl", body)
    assert len(a.invalid) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
KEYS = st.sampled_from(
    [
        *("id", "question", "data", "value", "error"),
        *("name", "clients", "started", "version", "new", "reply"),
    ]
)


@given(
    kind=st.sampled_from(["here", "bye", "ask", "answer", "call", "result"]),
    values=st.dictionaries(KEYS, JSON),
)
def test_nothing_that_is_said_raises(kind: str, values: dict[str, Any]) -> None:
    _, (a,) = cluster(1)
    a.receive("x", "sws.ctl", encode(kind, **values))
