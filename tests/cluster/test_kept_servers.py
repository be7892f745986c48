"""Topics with history of two servers on a real engine, with faults: nothing is missed
or repeated that nobody is told of."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from harness import DEADLINE, open_peer
from nodes import KEEPING_ENGINES, Nodes, Room, engine_server
from proxy import Proxy
from redis_server import redis_server

from simple_ws import InvalidState
from simple_ws.cluster import link, silence
from simple_ws.server import joins

pytestmark = pytest.mark.one_backend


@pytest.fixture(params=KEEPING_ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    with engine_server(request.param) as made:
        yield made


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that are lost again and again are made again soon, and silence is
    noticed after 0.5 s, rather than 3."""
    monkeypatch.setattr(link, "_LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(silence, "_UNASKED", 0.2)
    monkeypatch.setattr(silence, "_ASKED", 0.3)


class Kept(Room):
    """Clients say where they begin, and are told how they joined, and of gaps."""

    def on_open(self, client: Any) -> None:
        since = client.query.get("since")
        client.subscribe("kept", since=since)

    def on_join(self, client: Any, topic: str, join: Any) -> None:
        text = f"join {join.position} {join.recovered} {join.gap}"
        client.write_message(text)

    def on_gap(self, topic: str | None, missing: int | None) -> None:
        super().on_gap(topic, missing)
        if topic == "kept":
            self.server.publish("kept", f"gap {missing}", local=True)


def make(stack: ExitStack, engine: Any, history: int = 10_000, count: int = 2) -> Nodes:
    return Nodes(
        stack,
        engine,
        count,
        room=Kept,
        prepare=lambda server: server.topic("kept", history=history, keep=600),
    )


class Reader:
    """A client that reads in a thread of its own."""

    def __init__(self, stack: ExitStack, nodes: Nodes, number: int, query: str = ""):
        self.peer = stack.enter_context(open_peer(nodes.servers[number], f"/{query}"))
        self.log: list[str] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while True:
                text = self.peer.read_message()
                with self._changed:
                    self.log.append(text)
                    self._changed.notify_all()
        except Exception:
            return

    def until(self, condition: Callable[[], object]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE), self.log[-20:]

    def until_text(self, text: str) -> None:
        self.until(lambda: text in self.log)

    @property
    def join(self) -> list[str]:
        """The position, and what was recovered and lost."""
        self.until(lambda: any(text.startswith("join ") for text in self.log))
        return next(t for t in self.log if t.startswith("join ")).split()[1:]

    @property
    def texts(self) -> list[str]:
        """Without what the server says itself."""
        return [text for text in self.log if not text.startswith(("join", "gap"))]

    @property
    def gaps(self) -> list[str]:
        return [text for text in self.log if text.startswith("gap")]


def test_history_is_that_of_all_nodes(engine: Any, stack: ExitStack) -> None:
    nodes = make(stack, engine)
    for number in range(10):
        nodes.servers[number % 2].publish("kept", str(number))
    first = Reader(stack, nodes, 0, "?since=all")
    first.until(lambda: len(first.texts) == 10)
    here, there = [Reader(stack, nodes, number, "?since=all") for number in (0, 1)]
    assert here.join[1:] == there.join[1:] == ["10", "0"]
    nodes.servers[0].publish("kept", "end")
    here.until_text("end")
    there.until_text("end")
    assert here.texts == there.texts
    assert sorted(here.texts) == [*map(str, range(10)), "end"]
    assert here.join == there.join
    back = Reader(stack, nodes, 1, f"?since={here.join[0]}")
    back.until_text("end")
    assert back.texts == ["end"]
    assert back.join[1:] == ["1", "0"]


def test_client_that_comes_to_a_node_that_lags_gets_the_rest_once(
    stack: ExitStack,
) -> None:
    """On another node it has got what has not come here yet: that is no gap."""
    redis = stack.enter_context(redis_server())
    proxy = stack.enter_context(Proxy(redis.port))
    nodes = make(stack, [proxy.url, redis.url])
    for number in (0, 1):
        assert Reader(stack, nodes, number).join[1:] == ["0", "0"]
    there = Reader(stack, nodes, 1)
    epoch, offset, _ = there.join[0].split(":")
    proxy.hold()
    for text in ("a", "b", "c"):
        nodes.servers[1].publish("kept", text)
    there.until_text("c")
    back = Reader(stack, nodes, 0, f"?since={epoch}:{int(offset) + 2}")
    stranger = Reader(stack, nodes, 0, f"?since={epoch}:{int(offset) + 9}")
    opened = threading.Event()
    nodes.servers[0].reactor.call_threadsafe(opened.set)
    assert opened.wait(DEADLINE)
    proxy.release()
    assert back.join == [f"{epoch}:{int(offset) + 3}:{back.join[0][-4:]}", "1", "0"]
    assert stranger.join[1:] == ["3", "None"]
    nodes.servers[1].publish("kept", "d")
    back.until_text("d")
    assert back.texts == ["c", "d"]


def test_message_with_a_key_is_stored_once(engine: Any, stack: ExitStack) -> None:
    nodes = make(stack, engine)
    here = Reader(stack, nodes, 0)
    assert here.join
    for server in nodes.servers * 2:
        server.publish("kept", "once", key="a")
    nodes.servers[0].publish("kept", "end")
    nodes.servers[1].publish("kept", "end of the other")
    here.until_text("end")
    here.until_text("end of the other")
    assert here.texts.count("once") == 1


class Site:
    """Two servers, a client of each, and a publisher at each."""

    def __init__(self, stack: ExitStack, engine: Any, history: int = 10_000) -> None:
        self.nodes = nodes = make(stack, engine, history)
        self.engine = engine
        self.readers = [Reader(stack, nodes, number) for number in (0, 1)]
        for reader in self.readers:
            assert reader.join
        self.sent = [0, 0]
        self._ending = threading.Event()
        self._pause = threading.Event()
        self._threads = [
            threading.Thread(target=self._publish, args=(number,)) for number in (0, 1)
        ]
        for thread in self._threads:
            thread.start()

    def _publish(self, number: int) -> None:
        """Some hundred a second."""
        while not self._ending.is_set():
            for _ in range(5):
                self.sent[number] += 1
                text = f"{number} {self.sent[number]}"
                self.nodes.servers[number].publish("kept", text)
            self._ending.wait(0.01)

    def more(self, count: int) -> None:
        for reader in self.readers:
            wanted = len(reader.log) + count
            reader.until(lambda reader=reader, wanted=wanted: len(reader.log) >= wanted)

    def end(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(DEADLINE)
        for number, server in enumerate(self.nodes.servers):
            server.publish("kept", f"end {number}")
        for reader in self.readers:
            reader.until_text("end 0")
            reader.until_text("end 1")

    def check_all(self) -> None:
        """Both clients got each message once, in one order."""
        one, two = [reader.texts for reader in self.readers]
        assert one == two
        assert len(one) == sum(self.sent) + 2
        self.check_order()

    def check_order(self) -> None:
        for reader in self.readers:
            for number in (0, 1):
                begin = f"{number} "
                own = [int(t.split()[1]) for t in reader.texts if t.startswith(begin)]
                assert own == sorted(set(own))

    def fail(self, begin: Callable[[], object], end: Callable[[], object]) -> None:
        self.more(random.randrange(50, 150))
        before = [len(states) for states in self.nodes.states]
        begin()
        for number in (0, 1):
            self.nodes.until(number, up=False, after=before[number])
        end()
        for number in (0, 1):
            self.nodes.until(number, up=True, after=before[number])
        self.more(100)


def test_nothing_is_missed_when_connections_are_killed(stack: ExitStack) -> None:
    engine = stack.enter_context(redis_server())
    site = Site(stack, engine)

    def kill() -> None:
        with engine.commands() as command:
            command("CLIENT", "KILL", "TYPE", "pubsub")

    for _ in range(3):
        site.fail(kill, lambda: None)
    site.end()
    site.check_all()
    assert [reader.gaps for reader in site.readers] == [[], []]


def test_nothing_is_missed_when_the_engine_stands_still(
    engine: Any, stack: ExitStack
) -> None:
    site = Site(stack, engine)
    site.fail(engine.stop, engine.go_on)
    site.end()
    site.check_all()
    assert sum(server.engine.counts.resent for server in site.nodes.servers)
    assert [reader.gaps for reader in site.readers] == [[], []]


def test_engine_that_is_killed_and_empty_is_one_gap_before_what_is_new(
    engine: Any, stack: ExitStack
) -> None:
    site = Site(stack, engine)

    def kill() -> None:
        engine.kill()

    site.fail(kill, engine.start)
    site.end()
    site.check_order()
    for reader in site.readers:
        assert reader.gaps == ["gap None"]
    one, two = [reader.texts for reader in site.readers]
    gap = [reader.log.index("gap None") for reader in site.readers]
    # What one of them had before the end is no news to it, though not confirmed.
    before = set(site.readers[0].log[: gap[0]] + site.readers[1].log[: gap[1]])
    after = [
        [t for t in reader.log[at:] if t[0] in "01e" and t not in before]
        for reader, at in zip(site.readers, gap, strict=True)
    ]
    assert after[0] == after[1]
    # What was published and confirmed before is with those who were there; what was
    # not is in the new history.
    for number in (0, 1):
        own = {t for t in one + two if t.startswith(f"{number} ")}
        counts = site.nodes.servers[number].engine.counts
        assert len(own) + counts.lost + counts.unsure >= site.sent[number]


def test_history_that_is_too_small_is_one_gap_of_the_right_size(
    stack: ExitStack,
) -> None:
    engine = stack.enter_context(redis_server())
    nodes = make(stack, engine, history=100)
    reader = Reader(stack, nodes, 1)
    assert reader.join
    nodes.servers[0].publish("kept", "first")
    reader.until_text("first")
    before = len(nodes.states[1])
    held = nodes.servers[1].engine._link
    nodes.servers[1].reactor.call_threadsafe(lambda: held._give_up("failed", "a test"))
    nodes.until(1, up=False, after=before)
    for number in range(1000):
        nodes.servers[0].publish("kept", str(number))
    nodes.until(1, up=True, after=before)
    reader.until_text("999")
    texts, gaps = reader.texts, reader.gaps
    missing = sum(int(gap.split()[1]) for gap in gaps)
    assert len(texts) + missing == 1001
    assert texts == ["first", *map(str, range(1000))][:1] + [
        str(number) for number in range(1000) if str(number) in set(texts)
    ]


def test_joins_under_load_are_contiguous(engine: Any, stack: ExitStack) -> None:
    """Clients come with any position while both nodes publish; nobody misses one."""
    site = Site(stack, engine, history=20_000)
    chosen = random.Random(5)
    late: list[tuple[int, Reader]] = []
    epoch = site.readers[0].join[0].partition(":")[0]
    for _ in range(30):
        site.more(20)
        top = len(site.readers[0].texts)
        offset = chosen.randrange(top)
        number = chosen.randrange(2)
        query = f"?since={epoch}:{offset}"
        late.append((offset, Reader(stack, site.nodes, number, query)))
    site.end()
    whole = site.readers[0].texts
    for offset, reader in late:
        reader.until_text("end 0")
        reader.until_text("end 1")
        assert reader.texts == whole[offset:]
        assert reader.join[2] == "0"


def test_storm_of_clients_costs_the_engine_one_read(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joins, "LONGEST_PAUSE", 0.05)
    engine = stack.enter_context(redis_server())
    nodes = make(stack, engine)
    for number in range(100):
        nodes.servers[0].publish("kept", str(number))
    first = Reader(stack, nodes, 1, "?since=all")
    first.until_text("99")
    reads: list[str] = []
    inner: Any = nodes.servers[1].engine._engine
    read = inner.read
    inner.read = lambda channel, *rest: (reads.append(channel), read(channel, *rest))
    epoch = first.join[0].partition(":")[0]
    crowd = [
        Reader(stack, nodes, 1, f"?since={epoch}:{number}") for number in range(100)
    ]
    for number, reader in enumerate(crowd):
        assert reader.join[1:] == [str(100 - number), "0"]
    assert reads == []
    for future in ("9999", "99999999999"):  # nobody has got this anywhere
        stranger = Reader(stack, nodes, 1, f"?since={epoch}:{future}")
        assert stranger.join[1:] == ["100", "None"]
    assert reads == []


def test_history_is_asked_of_the_engine(engine: Any, stack: ExitStack) -> None:
    nodes = make(stack, engine)
    server, other = nodes.servers
    for number in range(5):
        server.publish("kept", {"n": number})
    found: list[Any] = []
    while len(found) < 5:  # each asks again
        found = server.history("kept").result(DEADLINE)
    assert [each.msg["n"] for each in found] == list(range(5))
    later = other.history("kept", since=found[2].position).result(DEADLINE)
    assert later == found[3:]
    assert other.history("kept", limit=1).result(DEADLINE) == found[4:]


def test_history_in_the_loop_is_not_waited_for(stack: ExitStack) -> None:
    engine = stack.enter_context(redis_server())
    nodes = make(stack, engine)
    server = nodes.servers[0]
    seen: list[Any] = []
    done = threading.Event()

    def ask() -> None:
        future = server.history("kept")
        for wait in (future.result, lambda: list(future), future.exception):
            with pytest.raises(InvalidState):
                wait()
            seen.append(1)
        future.add_done_callback(lambda future: seen.append(future.result()))
        future.add_done_callback(lambda future: done.set())

    server.reactor.call_threadsafe(ask)
    assert done.wait(DEADLINE)
    assert seen == [1, 1, 1, []]


def test_history_that_does_not_come(stack: ExitStack) -> None:
    engine = stack.enter_context(redis_server())
    nodes = make(stack, engine)
    before = len(nodes.states[0])
    engine.kill()
    nodes.until(0, up=False, after=before)
    with pytest.raises(TimeoutError, match=r"'kept' did not come in 0\.1 s"):
        nodes.servers[0].history("kept", timeout=0.1).result(DEADLINE)
    waiting = nodes.servers[0].history("kept", timeout=1000)
    nodes.servers[0].stop(0)
    with pytest.raises(InvalidState, match="the server has stopped"):
        waiting.result(DEADLINE)
