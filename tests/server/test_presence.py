"""Presence as users see it: in one process, on several nodes, and between workers."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from harness import DEADLINE, Peer, open_peer
from programs import Program
from redis_server import PROGRAMS, redis_server

from simple_ws import FirstMessageAuth, Middleware, Server, WebSocket, in_thread
from simple_ws.server.presence import Present
from simple_ws.testing import TestServer


class Hall(WebSocket):
    """Everybody is in the hall, with a name or without, and sees who comes and goes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.told: list[tuple[Any, bool]] = []
        self.changed = threading.Condition()

    def on_open(self, client: Any) -> None:
        if "id" in client.query:
            client.bind(client.query["id"])
        if "as" in client.query:
            client.present_as = {"name": client.query["as"]}
        client.subscribe("hall")

    def on_presence(self, topic: str, member: Any, joined: bool) -> None:
        assert topic == "hall"
        with self.changed:
            self.told.append((member, joined))
            self.changed.notify_all()

    def wait_for(self, *told: tuple[Any, bool]) -> None:
        """Wait until these were told, in any order, and nothing else."""
        with self.changed:
            came = self.changed.wait_for(lambda: len(self.told) >= len(told), DEADLINE)
            assert came, (self.told, told)
            assert sorted(self.told, key=repr) == sorted(told, key=repr)
            self.told.clear()

    def take(self) -> list[tuple[Any, bool]]:
        told, self.told = self.told, []
        return told


def make_server(handler: WebSocket, **options: Any) -> Server:
    server = Server("127.0.0.1", 0, ping=False, **options)
    server.topic("hall", presence=True)
    server.mount("/", handler)
    return server


@pytest.fixture
def hall() -> Hall:
    return Hall()


@pytest.fixture
def kit(hall: Hall) -> Iterator[TestServer]:
    with TestServer(make_server(hall)) as kit:
        yield kit


# --- Members -------------------------------------------------------------------------


def test_members_are_people_and_not_tabs(kit: TestServer, hall: Hall) -> None:
    tabs = [kit.connect("/?id=ann&as=Ann") for _ in range(2)]
    present = kit.server.present("hall")
    assert present == {"ann": {"name": "Ann"}}
    assert (type(present), present.stale) == (Present, False)
    assert hall.take() == [("ann", True)]
    tabs[0].close()
    kit.advance(60)
    assert kit.server.present("hall") == {"ann": {"name": "Ann"}}
    tabs[1].close()
    kit.advance(4)
    assert hall.take() == []
    assert "ann" in kit.server.present("hall")
    kit.advance(2)
    assert hall.take() == [("ann", False)]
    assert kit.server.present("hall") == {}


def test_client_without_an_identity_is_a_member_by_itself(
    kit: TestServer, hall: Hall
) -> None:
    peers = [kit.connect("/") for _ in range(2)]
    names = [f"{peer.client.id}@{kit.server.cluster.id}" for peer in peers]
    assert list(kit.server.present("hall")) == names
    assert hall.take() == [(name, True) for name in names]


def test_who_comes_back_in_time_has_neither_left_nor_joined(
    kit: TestServer, hall: Hall
) -> None:
    for _ in range(5):
        kit.connect("/?id=ann").cut()
        kit.advance(4)
    assert hall.take() == [("ann", True)]
    kit.advance(6)
    assert hall.take() == [("ann", False)]


def test_grace_of_zero_tells_each_change() -> None:
    hall = Hall()
    with TestServer(make_server(hall, presence_grace=0)) as kit:
        for _ in range(2):
            kit.connect("/?id=ann").close()
            kit.advance(0)
        assert hall.take() == [("ann", True), ("ann", False)] * 2


def test_identity_that_is_bound_later_takes_the_place_of_the_client(
    kit: TestServer, hall: Hall
) -> None:
    peer = kit.connect("/")
    (nameless,) = kit.server.present("hall")
    peer.client.bind(uuid.UUID(int=5))
    kit.advance(6)
    assert list(kit.server.present("hall")) == [uuid.UUID(int=5)]
    assert hall.take() == [
        (nameless, True),
        (uuid.UUID(int=5), True),
        (nameless, False),
    ]
    peer.client.bind(uuid.UUID(int=5))
    peer.client.bind(None)
    kit.advance(6)
    assert hall.take() == [(nameless, True), (uuid.UUID(int=5), False)]


def test_payload_can_change_and_is_no_event(kit: TestServer, hall: Hall) -> None:
    one, two = (kit.connect("/?id=ann&as=Ann") for _ in range(2))
    hall.take()
    said = {"name": "A", "typing": [True]}
    one.client.present_as = said
    said["name"] = "changed by its owner later"
    assert one.client.present_as == {"name": "A", "typing": [True]}
    assert kit.server.present("hall")["ann"] == {"name": "A", "typing": [True]}
    two.client.present_as = {"name": "B"}
    assert kit.server.present("hall")["ann"] == {"name": "B"}
    two.client.present_as = None
    assert kit.server.present("hall")["ann"] == {"name": "A", "typing": [True]}
    one.close()
    kit.advance(0)
    assert kit.server.present("hall")["ann"] is None
    assert hall.take() == []


@pytest.mark.parametrize(
    ("payload", "error", "text"),
    [
        ("Ann", TypeError, "present_as must be a dict or None, not 'Ann'"),
        ({"x": object()}, TypeError, "not JSON serializable"),
        ({"x": float("inf")}, ValueError, "Out of range float"),
        ({"x": "y" * 4088}, ValueError, "at most 4,096 bytes of JSON, not 4,097"),
    ],
)
def test_wrong_payload_is_refused(
    kit: TestServer, payload: Any, error: type[Exception], text: str
) -> None:
    client = kit.connect("/").client
    client.present_as = {"x": "y" * 4087}
    with pytest.raises(error, match=re.escape(text)):
        client.present_as = payload
    assert client.present_as == {"x": "y" * 4087}


def test_who_unsubscribes_leaves(kit: TestServer, hall: Hall) -> None:
    peer = kit.connect("/?id=ann")
    peer.client.unsubscribe("hall")
    peer.client.unsubscribe("hall")
    kit.advance(6)
    assert hall.take() == [("ann", True), ("ann", False)]
    peer.client.subscribe("hall", priority=5)
    peer.client.subscribe("hall")
    kit.advance(0)
    assert hall.take() == [("ann", True)]


def test_strangers_are_not_present() -> None:
    hall = Hall()
    server = make_server(hall)
    server.use(FirstMessageAuth(lambda msg: msg))
    with TestServer(server) as kit:
        peer = kit.connect("/")
        assert server.present("hall") == {}
        peer.send("ann")
        assert server.present("hall") == {"ann": None}
        assert hall.take() == [("ann", True)]


def test_topics_without_presence_have_none(kit: TestServer) -> None:
    with pytest.raises(ValueError, match="the topic 'other' has no presence: it needs"):
        kit.server.present("other")
    with pytest.raises(TypeError, match="topic must be a str"):
        kit.server.present(5)  # type: ignore[arg-type]
    client = kit.connect("/").client
    client.subscribe("other")
    assert list(kit.server._presence._here) == ["hall"]  # type: ignore[union-attr]


def test_server_that_does_not_run_knows_nobody() -> None:
    server = make_server(Hall())
    assert (server.present("hall"), server.present("hall").stale) == ({}, True)
    with TestServer(server) as kit:
        kit.connect("/?id=ann")
    assert (server.present("hall"), server.present("hall").stale) == ({}, True)
    assert server._payloads == {}


def test_topic_with_history_has_presence_too() -> None:
    hall = Hall()
    server = Server("127.0.0.1", 0)
    server.topic("h*", presence=True, history=5)
    server.mount("/", hall)
    with TestServer(server) as kit:
        peer = kit.connect("/?id=ann")
        kit.advance(0)
        assert server.present("hall") == {"ann": None}
        peer.close()
        kit.advance(6)
        assert hall.take() == [("ann", True), ("ann", False)]


# --- Who is told ---------------------------------------------------------------------


def test_each_handler_with_subscribers_is_told() -> None:
    here, there, elsewhere = Hall(), Hall(), Hall()
    server = make_server(here)
    server.mount("/there", there)
    server.mount("/elsewhere", elsewhere)
    with TestServer(server) as kit:
        kit.connect("/?id=ann")
        kit.connect("/there?id=bob")
        assert here.take() == [("ann", True), ("bob", True)]
        assert there.take() == [("bob", True)]
        assert elsewhere.take() == []


def test_callback_that_fails_is_logged_and_the_others_are_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(Hall):
        def on_presence(self, topic: str, member: Any, joined: bool) -> None:
            raise RuntimeError("on purpose")

    caplog.set_level(logging.ERROR, "simple_ws")
    other = Hall()
    server = make_server(Failing())
    server.mount("/other", other)
    with TestServer(server, raise_server_exceptions=False) as kit:
        peer = kit.connect("/?id=ann")
        kit.connect("/other?id=bob")
        peer.assert_open()
        assert other.take() == [("bob", True)]
    assert "Failing.on_presence failed" in caplog.text


def test_callback_may_be_in_thread_and_go_through_middlewares() -> None:
    came = threading.Event()

    class Slow(Hall):
        @in_thread
        def on_presence(self, topic: str, member: Any, joined: bool) -> None:
            assert threading.current_thread().name.startswith("simple_ws worker")
            came.set()

    server = make_server(Slow())
    server.use(Middleware())
    server.start()
    try:
        with open_peer(server, "/?id=ann"):
            assert came.wait(DEADLINE)
    finally:
        server.stop(0)


def test_callback_may_publish_and_close(kit: TestServer, hall: Hall) -> None:
    def tell(topic: str, member: Any, joined: bool) -> None:
        kit.server.publish(topic, f"{member} {joined}", local=True)
        if member == "cid":
            for client in hall.clients:
                client.close()

    hall.on_presence = tell  # type: ignore[method-assign]
    first = kit.connect("/?id=ann")
    assert first.recv() == "ann True"
    kit.connect("/?id=cid")
    assert first.recv() == "cid True"
    kit.advance(6)
    assert not hall.clients


def test_wrong_callback_is_refused() -> None:
    class Wrong(WebSocket):
        def on_presence(self, topic: str) -> None:  # type: ignore[override]
            ...

    with pytest.raises(TypeError, match=r"must be a function of \(topic, member, joi"):
        make_server(Wrong())


def test_many_changes_are_told_little_by_little(kit: TestServer, hall: Hall) -> None:
    client = kit.connect("/?id=ann").client
    presence = kit.server._presence
    assert presence is not None
    for number in range(1000):
        presence.tell("hall", number, True, None)
    del client
    turns = 0
    while len(hall.told) < 1001:
        kit.server.reactor.run_once(0)
        turns += 1
    assert turns >= 10


def test_other_threads_may_ask_and_say(hall: Hall) -> None:
    server = make_server(hall)
    server.start()
    try:
        with open_peer(server, "/?id=ann"):
            hall.wait_for(("ann", True))
            (client,) = hall.clients
            assert server.present("hall") == {"ann": None}
            client.present_as = {"from": "a thread"}
            settled = threading.Event()
            server.reactor.call_threadsafe(settled.set)
            assert settled.wait(DEADLINE)
            assert server.present("hall") == {"ann": {"from": "a thread"}}
    finally:
        server.stop(0)


# --- Several nodes -------------------------------------------------------------------


class Site:
    """Servers on one engine."""

    def __init__(self, stack: ExitStack, engine: Any, count: int) -> None:
        self.halls = [Hall() for _ in range(count)]
        self.servers = [self._start(stack, engine, hall) for hall in self.halls]
        self._stack = stack

    @staticmethod
    def _start(stack: ExitStack, engine: Any, hall: Hall) -> Server:
        is_redis = hasattr(engine, "url")
        options = {"engine": engine.url} if is_redis else {}
        server = make_server(hall, presence_grace=0.5, **options)
        if not is_redis:
            server._engine_addresses = [engine.address]
        up = threading.Event()
        server.on_engine(lambda state: up.set() if state.up else None)
        server.start()
        stack.callback(server.stop, 0)
        assert up.wait(DEADLINE)
        return server

    def enter(self, number: int, query: str) -> Peer:
        return self._stack.enter_context(open_peer(self.servers[number], f"/?{query}"))


def test_people_of_all_nodes_are_present_on_all(engine: Any, stack: ExitStack) -> None:
    site = Site(stack, engine, 3)
    ann = site.enter(0, "id=ann&as=Ann")
    bob = site.enter(1, "id=bob")
    site.halls[0].wait_for(("ann", True), ("bob", True))
    site.halls[1].wait_for(("ann", True), ("bob", True))
    again = site.enter(1, "id=ann")
    site.enter(2, "id=cid")  # and only now is told of the others
    site.halls[2].wait_for(("ann", True), ("bob", True), ("cid", True))
    site.halls[0].wait_for(("cid", True))
    site.halls[1].wait_for(("cid", True))
    assert site.servers[2].present("hall") == {
        "ann": {"name": "Ann"},
        "bob": None,
        "cid": None,
    }
    ann.close()  # is still on another node
    bob.close()
    for hall in site.halls:
        hall.wait_for(("bob", False))
    assert set(site.servers[2].present("hall")) == {"ann", "cid"}
    again.close()
    site.halls[2].wait_for(("ann", False))
    site.servers[2].stop(0)


def test_engine_that_is_away_makes_what_is_known_stale(
    engine: Any, stack: ExitStack
) -> None:
    site = Site(stack, engine, 2)
    ann = site.enter(0, "id=ann")
    site.enter(1, "id=bob")
    for hall in site.halls:
        hall.wait_for(("ann", True), ("bob", True))
    until(site.servers[0], lambda: not site.servers[0].present("hall").stale)
    engine.kill()
    until(site.servers[0], lambda: site.servers[0].present("hall").stale)
    ann.close()
    site.enter(0, "id=cid")
    site.halls[0].wait_for(("cid", True), ("ann", False))
    assert set(site.servers[0].present("hall")) == {"bob", "cid"}
    assert site.halls[1].take() == []
    engine.start()
    until(site.servers[0], lambda: not site.servers[0].present("hall").stale)
    site.halls[1].wait_for(("cid", True), ("ann", False))
    assert site.halls[0].take() == []


def until(server: Server, condition: Callable[[], object]) -> None:
    """Wait for something that changes in the loop."""
    came = threading.Event()

    def look() -> None:
        if condition():
            came.set()
        else:
            server.reactor.call_later(0.01, look)

    server.reactor.call_threadsafe(look)
    assert came.wait(DEADLINE)


# --- Processes -----------------------------------------------------------------------

#: Signs of life are frequent, so that nobody waits.
HALL = """
from simple_ws.cluster import roster
roster.BEAT, roster.GONE = 0.3, 3.0
server.topic("hall", presence=True)

class Hall(WebSocket):
    def on_open(self, client):
        client.send(str(os.getpid()))
    def on_message(self, msg, client):
        client.bind(msg)
        client.subscribe("hall")
    def on_presence(self, topic, member, joined):
        server.publish(topic, [member, joined], local=True)

server.mount("/hall", Hall())
"""


@pytest.fixture(params=["local", PROGRAMS[0]])
def workers(request: pytest.FixtureRequest, stack: ExitStack) -> Program:
    options = '"127.0.0.1", 0, workers=3, ping=False, presence_grace=0.5'
    if request.param != "local":
        redis = stack.enter_context(redis_server(program=request.param))
        options += f", engine={redis.url!r}"
    return stack.enter_context(Program.with_workers(HALL, options))


def come(program: Program, stack: ExitStack, worker: int, name: str) -> Peer:
    """A person on a worker."""
    while True:
        peer = Peer(program.connect()).shake("/hall")
        if peer.read_message() == str(worker):
            peer.text(name)
            return stack.enter_context(peer)
        peer.close()


def changes(peer: Peer, count: int) -> list[tuple[str, bool]]:
    heard = [json.loads(peer.read_message()) for _ in range(count)]
    return sorted((member, joined) for member, joined in heard)


@pytest.mark.one_backend
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_members_of_a_worker_that_is_killed_or_hangs_leave_once(
    workers: Program, stack: ExitStack, end: signal.Signals
) -> None:
    one, two, three = workers.wait_for_workers(3)
    ann, bob = come(workers, stack, one, "ann"), come(workers, stack, two, "bob")
    names = ["ann", "bob", *(f"number {number}" for number in range(20))]
    for name in names[2:]:
        come(workers, stack, three, name)
    everybody = sorted((name, True) for name in names)
    assert changes(ann, len(names)) == changes(bob, len(names)) == everybody
    os.kill(three, end)
    leaves = sorted((name, False) for name in names[2:])
    assert changes(ann, 20) == changes(bob, 20) == leaves
    if end == signal.SIGSTOP:
        os.kill(three, signal.SIGCONT)
        joins = sorted((name, True) for name in names[2:])
        assert changes(ann, 20) == changes(bob, 20) == joins
    come(workers, stack, one, "last")
    for peer in (ann, bob):
        assert changes(peer, 1) == [("last", True)]
