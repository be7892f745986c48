"""The simulation of large sites: where the result can be calculated, it is that."""

from __future__ import annotations

import importlib
import random
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PAGE = BENCHMARKS.parent / "docs" / "at-scale.md"
MODULES = ("costs", "lines", "queueing", "simulate", "steady", "storms")

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.skipif(not BENCHMARKS.exists(), reason="no checkout"),
]


@pytest.fixture(scope="module")
def programs() -> Iterator[Any]:
    """Its modules, which import each other as programs of one folder do."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        found = {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(BENCHMARKS))
    yield SimpleNamespace(**found)
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture(scope="module")
def costs(programs: Any) -> Any:
    return programs.costs.Costs()


# --- The queue ------------------------------------------------------------------------


def test_core_without_load_works_at_once_and_waits_never(programs: Any) -> None:
    clock = programs.queueing.Clock()
    core, ended = programs.queueing.Core(clock), []
    for second in range(3):
        clock.call_at(second, lambda: core.add(0.25, lambda: ended.append(clock.now)))
    clock.run()
    assert ended == [0.25, 1.25, 2.25]
    assert (core.busy, core.longest) == (0.75, 0.0)


def test_core_works_in_order_and_slower_with_a_share(programs: Any) -> None:
    clock = programs.queueing.Clock()
    core, ended = programs.queueing.Core(clock, share=0.5), []
    for number in range(3):
        core.add(1.0, lambda n=number: ended.append((n, clock.now)))
    clock.run()
    assert ended == [(0, 2.0), (1, 4.0), (2, 6.0)]
    assert (core.busy, core.longest) == (3.0, 4.0)


def test_cancelled_job_costs_nothing(programs: Any) -> None:
    clock = programs.queueing.Clock()
    core, ended = programs.queueing.Core(clock), []
    core.add(1.0)
    core.add(1.0, lambda: ended.append("cancelled")).cancelled = True
    core.add(1.0, lambda: ended.append(clock.now))
    clock.run()
    assert ended == [2.0]
    assert core.busy == 2.0


@pytest.mark.parametrize("load", [0.3, 0.6, 0.9])
def test_random_arrivals_wait_as_long_as_an_m_d_1_queue(
    programs: Any, load: float
) -> None:
    """Pollaczek and Khinchin: load / (2 (1 - load)) services."""
    clock, rng, waited = programs.queueing.Clock(), random.Random(7), []
    core, arrivals, when = programs.queueing.Core(clock), 40_000, 0.0

    def arrive() -> None:
        arrived = clock.now
        core.add(1.0, lambda: waited.append(clock.now - arrived - 1.0))

    for _ in range(arrivals):
        when += rng.expovariate(load)
        clock.call_at(when, arrive)
    clock.run()
    expected = load / (2 * (1 - load))
    assert sum(waited) / arrivals == pytest.approx(expected, rel=0.15)


# --- Clients that come back -----------------------------------------------------------


def reconnect(programs: Any, costs: Any, **storm: Any) -> Any:
    return programs.storms.reconnect(programs.storms.Reconnects(**storm), costs)


def test_one_client_takes_the_sum_of_its_costs(programs: Any, costs: Any) -> None:
    result = reconnect(
        programs, costs, clients=1, notice=0, topics=1, missed=10, history=100, live=0
    )
    handshake_and_join = costs.handshake + costs.join + 10 * costs.replay
    at_redis = costs.subscribe + costs.read + 100 * costs.read_message
    at_node = costs.page + 100 * costs.page_message
    expected = (handshake_and_join + at_redis + at_node) * 1e-6 + 0.0005
    assert result.times == [pytest.approx(expected)]
    assert result.engine == pytest.approx(at_redis * 1e-6)
    assert (result.reads, result.refused, result.behind) == (1, 0, 0.0)


def test_crowd_takes_as_long_as_its_work(programs: Any, costs: Any) -> None:
    result = reconnect(
        programs, costs, clients=2_000, nodes=2, notice=0, known=1, live=0.5,
        backlog=2_000,
    )  # fmt: skip
    each = costs.handshake + costs.join + 10 * costs.replay
    assert result.seconds == pytest.approx(1_000 * each * 1e-6 / 0.5)
    assert (result.reads, result.engine) == (0, 0.0)


@pytest.mark.parametrize(
    "storm",
    [
        {"backlog": 8},
        {"backlog": 8, "jitter": 1.0},
        {"known": 1.0},
        {"history": 600, "topics": 3},
    ],
)
def test_all_clients_come_back_exactly_once(
    programs: Any, costs: Any, storm: dict[str, Any]
) -> None:
    result = reconnect(programs, costs, clients=3_000, **storm)
    assert len(result.times) == 3_000
    assert all(earlier <= later for earlier, later in pairwise(result.times))


def test_each_node_reads_each_topic_once(programs: Any, costs: Any) -> None:
    result = reconnect(programs, costs, clients=3_000, topics=20, nodes=3)
    assert result.reads == 3 * 20
    paged = reconnect(programs, costs, clients=3_000, topics=20, nodes=3, history=600)
    assert paged.reads == 3 * 20 * 3  # 256, 256 and 88 messages


def test_queue_of_the_system_bounds_how_far_a_loop_is_behind(
    programs: Any, costs: Any
) -> None:
    storm = {"clients": 3_000, "known": 1.0, "notice": 0.02}
    few = reconnect(programs, costs, backlog=10, **storm)
    many = reconnect(programs, costs, backlog=3_000, **storm)
    assert few.refused
    assert not many.refused
    assert few.behind < many.behind
    assert few.seconds > many.seconds + 1  # TCP tries again after a second


# --- Nodes that subscribe again -------------------------------------------------------


def restart(programs: Any, costs: Any, **storm: Any) -> Any:
    return programs.storms.restart(programs.storms.Restart(**storm), costs)


def test_one_node_takes_the_sum_of_its_batches(programs: Any, costs: Any) -> None:
    result = restart(programs, costs, nodes=1, topics=1_000, away=0)
    each = costs.subscribe + costs.subscribed
    expected = (costs.greeting + 1_000 * each) * 1e-6 + 3 * 0.0005
    begun = result.seconds - expected
    assert 0 <= begun <= 0.05  # the first pause
    assert result.engine == pytest.approx((costs.greeting + 2_500) * 1e-6)


@pytest.mark.parametrize("shards", [1, 3])
def test_all_nodes_come_back_once_and_the_engine_works_once(
    programs: Any, costs: Any, shards: int
) -> None:
    result = restart(programs, costs, nodes=50, topics=3_001, shards=shards)
    assert len(result.times) == 50 * shards
    assert result.refused == 0
    of_a_node = -(-3_001 // shards) * costs.subscribe + costs.greeting
    assert result.engine == pytest.approx(50 * of_a_node * 1e-6)
    assert result.seconds >= result.engine


def test_histories_are_read_after_the_subscriptions(programs: Any, costs: Any) -> None:
    result = restart(programs, costs, nodes=5, topics=1_000, kept=0.5, missed=4)
    assert result.reads == 5 * 500
    reads = 500 * (costs.read + 4 * costs.read_message)
    of_a_node = costs.greeting + 1_000 * costs.subscribe + reads
    assert result.engine == pytest.approx(5 * of_a_node * 1e-6)


def test_engine_that_answers_too_late_is_given_up_and_works_more(
    programs: Any, costs: Any
) -> None:
    """Each node waits for a batch of all others: 2 s, or 4 s, of which it waits 3."""
    slow = programs.costs.Costs(subscribe=80)  # 41 ms a batch
    assert restart(programs, slow, nodes=50, topics=2_048).refused == 0
    result = restart(programs, slow, nodes=100, topics=2_048)
    assert result.refused
    assert result.engine > 1.2 * 100 * 2_048 * 80e-6
    assert len(result.times) == 100


def test_nodes_that_never_get_an_answer_end_at_the_limit(programs: Any) -> None:
    slow = programs.costs.Costs(subscribe=10_000)
    result = restart(programs, slow, nodes=3, topics=600, limit=20)
    assert (result.times, result.seconds) == ([], 20)


# --- Shares of a core -----------------------------------------------------------------


def test_share_of_a_core_is_that_of_the_formula(programs: Any, costs: Any) -> None:
    load = programs.steady.load(programs.steady.presence, 1_000, 10_000, costs)
    assert load.heard == pytest.approx(200)
    deliveries = 200 * 1_000 * costs.delivery + 200 * costs.publish
    assert load.batched == pytest.approx(deliveries * 1e-6)
    assert load.node == pytest.approx(200 * costs.receive * 1e-6)


def test_limit_is_where_the_core_is_full(programs: Any) -> None:
    steady = programs.steady
    assert steady.limit(lambda n: n / 1_000) == pytest.approx(700, abs=1)
    assert steady.limit(lambda n: 0.0, most=50) == 50
    assert steady.limit(lambda n: 1.0) == 1


def test_limits_of_the_page_are_those_of_today(programs: Any, costs: Any) -> None:
    text = PAGE.read_text(encoding="utf-8")
    pairs = re.findall(r"\| ([\d,]+) – ([\d,]+)(?: nodes)? \|$", text, re.MULTILINE)
    found = [tuple(float(n.replace(",", "")) for n in pair) for pair in pairs]
    calculated = [
        (alone, batched)
        for _, _, batched, alone in programs.steady.loads((1,), 10_000, costs)
    ]
    assert len(found) == len(calculated)
    for pair, expected in zip(found, calculated, strict=True):
        assert pair == pytest.approx(expected, rel=0.05)  # two digits


# --- The program ----------------------------------------------------------------------


def test_program_prints_the_same_tables_and_a_chart(
    programs: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    small = ["--clients", "300", "--nodes", "5", "--topics", "600", "--seed", "3"]
    pictures, outputs = [tmp_path / "a.svg", tmp_path / "b.svg"], []
    for picture in pictures:
        monkeypatch.setattr(sys, "argv", ["simulate.py", *small, "--svg", str(picture)])
        assert programs.simulate.main() == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert "| 300 | 5 s | 1,024 |" in outputs[0]
    texts = [picture.read_text(encoding="utf-8") for picture in pictures]
    assert texts[0] == texts[1]
    assert ElementTree.fromstring(texts[0]).tag.endswith("svg")


def test_costs_are_options(
    programs: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--clients", "300", "--nodes", "5", "--topics", "600"]
    monkeypatch.setattr(sys, "argv", ["simulate.py", *small, "--subscribe", "1000"])
    programs.simulate.main()
    # 5 x 600 x 1 ms, and five connections.
    assert "| 3.0 s | 0 |" in capsys.readouterr().out
