"""`Server.cluster` in one process, on several nodes, and between workers."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import threading
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from harness import DEADLINE, Peer, Recorder, running
from nodes import Nodes
from programs import Program
from redis_server import PROGRAMS, redis_server

from simple_ws import InvalidState, Server, in_thread
from simple_ws.server.cluster import Answers
from simple_ws.testing import TestServer


class Room(Recorder):
    def on_open(self, client: Any) -> None:
        super().on_open(client)
        client.subscribe("hall")
        client.bind(client.query.get("id"))


# --- One process ---------------------------------------------------------------------


def test_one_process_is_a_cluster_of_one_node() -> None:
    with TestServer(Room()) as kit:
        kit.connect("/?id=ann")
        (node,) = kit.server.cluster.nodes()
        assert (node.own, node.clients, node.id) == (True, 1, kit.server.cluster.id)
        assert f"/{os.getpid()}/" in node.name
        assert kit.server.cluster.count("hall").result() == Answers(
            1, {node.name: 1}, {}, []
        )
        assert kit.server.cluster.count("nowhere").result().value == 0
        assert kit.server.cluster.online("ann").result().value is True
        assert kit.server.cluster.online("bob").result().value is False
        assert kit.server.cluster.online(("any", 1)).result().value is False


def test_disconnect_closes_all_connections_of_an_identity() -> None:
    with TestServer(Room()) as kit:
        here = [kit.connect("/?id=ann") for _ in range(2)]
        other = kit.connect("/?id=bob")
        assert kit.server.cluster.disconnect("ann", 4001, "bye").result().value == 2
        for peer in here:
            peer.assert_closed(4001)
        other.assert_open()
        assert kit.server.cluster.disconnect("ann").result().value == 0


@pytest.mark.parametrize(
    "identity", [7, 1.5, b"\xff\0", uuid.UUID(int=5), ("team", 1), "\ud800"]
)
def test_without_an_engine_all_identities_can_be_asked_for(identity: Any) -> None:
    class Own(Room):
        def on_open(self, client: Any) -> None:
            client.bind(identity)

    with TestServer(Own()) as kit:
        peer = kit.connect("/")
        assert kit.server.cluster.online(identity).result().value is True
        assert kit.server.cluster.disconnect(identity).result().value == 1
        peer.assert_closed(1000)


def test_own_questions_are_answered_as_they_would_be_elsewhere() -> None:
    with TestServer(Room()) as kit:
        server = kit.server
        server.cluster.answer("add")(lambda data: {"sum": data[0] + data[1]})
        server.cluster.answer("tuple")(lambda data: (1, data))
        assert server.cluster.ask("add", (1, 2)).result().value == [{"sum": 3}]
        assert server.cluster.ask("tuple").result().value == [[1, None]]
        (node,) = server.cluster.nodes()
        answers = server.cluster.ask("nobody").result()
        error = "nothing answers 'nobody' here"
        assert answers == Answers([], {}, {node.name: error}, [])


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda data: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda data: object(), "TypeError: Object of type object"),
        (lambda data: "x" * 300_000, "ValueError: an answer of 300,002 bytes exceeds"),
        (lambda data: float("nan"), "ValueError: Out of range float"),
    ],
)
def test_answer_that_fails_is_an_error_and_logged(
    answer: Callable[[Any], Any], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "simple_ws")
    with TestServer(Room(), raise_server_exceptions=False) as kit:
        kit.server.cluster.answer("q")(answer)
        answers = kit.server.cluster.ask("q").result()
        assert answers.value == []
        (error,) = answers.errors.values()
        assert error.startswith(text)
        assert len(caplog.records) == 1


def test_answers_may_be_in_thread() -> None:
    with running(Room()) as server:

        @server.cluster.answer("thread")
        @in_thread
        def thread(data: Any) -> str:
            return threading.current_thread().name

        (name,) = server.cluster.ask("thread").result(DEADLINE).value
        assert name.startswith("simple_ws worker")


def test_answers_may_be_async_where_callbacks_may_be() -> None:
    async def main() -> None:
        server = Server("127.0.0.1", 0)

        @server.cluster.answer("later")
        async def later(data: Any) -> Any:
            await asyncio.sleep(0)
            return data

        serving = asyncio.ensure_future(server.serve_async())
        while not server._running:
            await asyncio.sleep(0)
        assert (await server.cluster.ask("later", 7)).value == [7]
        with pytest.raises(InvalidState, match="use add_done_callback, await"):
            server.cluster.ask("later").result()
        server.stop(0)
        await serving

    asyncio.run(asyncio.wait_for(main(), DEADLINE))


async def slow(data: Any) -> None: ...


def test_async_answer_that_nothing_awaits_is_refused() -> None:
    server = Server("127.0.0.1", 0)
    server.cluster.answer("slow")(slow)
    with pytest.raises(InvalidState, match="the answer to 'slow' is async"):
        server.start()
    with (
        TestServer(Room()) as kit,
        pytest.raises(InvalidState, match="'slow' is async"),
    ):
        kit.server.cluster.answer("slow")(slow)


def test_wrong_arguments_are_refused() -> None:
    with TestServer(Room()) as kit:
        cluster = kit.server.cluster
        cluster.answer("known")(lambda data: 1)
        with pytest.raises(ValueError, match="'known' is answered already"):
            cluster.answer("known")(lambda data: 1)
        with pytest.raises(TypeError, match="name must be a str, not 5"):
            cluster.answer(5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="from 1 to 200 characters, not 0"):
            cluster.answer("")
        with pytest.raises(ValueError, match="from 1 to 200 characters, not 201"):
            cluster.ask("x" * 201)
        with pytest.raises(TypeError, match=r"must be a function of \(data\), not of"):
            cluster.answer("q")(lambda: 1)
        with pytest.raises(TypeError, match="not JSON serializable"):
            cluster.ask("q", object())
        with pytest.raises(ValueError, match="data of 300,002 bytes exceeds 262,144"):
            cluster.ask("q", "x" * 300_000)
        with pytest.raises(ValueError, match="timeout must be more than 0 seconds"):
            cluster.ask("q", timeout=0)
        with pytest.raises(TypeError, match="topic must be a str"):
            cluster.count(5)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="client_id must be hashable"):
            cluster.online([])
        with pytest.raises(ValueError, match="1006"):
            cluster.disconnect("ann", 1006)
        with pytest.raises(TypeError, match="reason must be a str"):
            cluster.disconnect("ann", 1000, 5)  # type: ignore[arg-type]


def test_server_that_does_not_run_has_no_nodes_and_is_not_asked() -> None:
    server = Server("127.0.0.1", 0)
    assert (server.cluster.nodes(), server.cluster.id) == ([], "")
    with pytest.raises(InvalidState, match="the server does not run"):
        server.cluster.count("hall")


def test_question_of_a_thread_ends_with_the_server() -> None:
    """Even if the loop never comes to ask it."""
    asked, over = threading.Event(), threading.Event()
    results: list[Answers] = []

    def ask(server: Server, future: Any) -> None:
        results.append(future.result(DEADLINE))
        over.set()

    server = Server("127.0.0.1", 0)
    server.cluster.answer("never")(in_thread(lambda data: asked.wait(DEADLINE)))
    server.start()
    run = server.cluster._run
    assert run is not None
    future = server.cluster.ask("never", timeout=60)
    thread = threading.Thread(target=ask, args=(server, future))
    thread.start()
    server.reactor.call_threadsafe(server.stop)
    asked.set()
    assert over.wait(DEADLINE)
    thread.join()
    server.stop(0)  # waits for the end
    late = run.ask("count", "hall", 60, sum)  # it had the run before it ended
    assert late.result(DEADLINE).missing
    assert late.result().value == 0
    with pytest.raises(InvalidState):
        server.cluster.count("hall")


# --- Several nodes -------------------------------------------------------------------


def test_nodes_of_an_engine_know_each_other(engine: Any, stack: ExitStack) -> None:
    nodes = Nodes(stack, engine, 3, Room)
    until_known(nodes.servers, 3)
    for server in nodes.servers:
        own, *others = server.cluster.nodes()
        assert own.own
        assert not any(node.own for node in others)
    ids = {node.id for node in nodes.servers[0].cluster.nodes()}
    assert ids == {server.cluster.id for server in nodes.servers}
    assert nodes.servers[0].stats()["engine"]["nodes"] == 3
    nodes.servers[2].stop(0)  # says good-bye
    until_known(nodes.servers[:2], 2)


def test_nodes_whose_rules_differ_say_so(
    engine: Any, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    """As the messages of a topic that one of them keeps do not reach the others."""
    rules: list[dict[str, Any]] = [{"presence": True}, {"presence": True}, {}]

    def prepare(server: Server) -> None:
        server.topic("hall", **rules.pop())

    nodes = Nodes(stack, engine, 3, Room, prepare)
    until_known(nodes.servers, 3)
    for server in nodes.servers:
        server.cluster.count("hall").result(DEADLINE)  # its turn of the loop is over
    named = {node.id: node.name for node in nodes.servers[0].cluster.nodes()}
    told = [record.getMessage() for record in caplog.records]
    told = [text for text in told if "has other rules of topics" in text]
    other = named[nodes.servers[0].cluster.id]
    assert sum(other in text for text in told) == 2
    assert len(told) == 4


def test_all_nodes_are_asked(engine: Any, stack: ExitStack) -> None:
    nodes = Nodes(stack, engine, 3, Room)
    peers = [nodes.peer(number % 3, "?id=ann") for number in range(4)]
    server = nodes.servers[1]
    for number, each in enumerate(nodes.servers):
        each.cluster.answer("double")(lambda data, number=number: data * 2 + number)
    assert server.cluster.count("hall").result(DEADLINE).value == 4
    assert server.cluster.online("ann").result(DEADLINE).value is True
    assert server.cluster.online(uuid.UUID(int=1)).result(DEADLINE).value is False
    answers = server.cluster.ask("double", 10).result(DEADLINE)
    assert sorted(answers.value) == [20, 21, 22]
    assert set(answers.answers) == {node.name for node in server.cluster.nodes()}
    assert (answers.errors, answers.missing) == ({}, [])
    called = threading.Event()
    future = server.cluster.disconnect("ann", 4000, "elsewhere")
    future.add_done_callback(lambda done: called.set())
    assert called.wait(DEADLINE)
    assert future.result().value == 4
    for peer in peers:
        assert peer.read_close() == (4000, "elsewhere")
    with pytest.raises(TypeError, match="with an engine an identity must be"):
        server.cluster.online(1.5)


def until_known(servers: list[Server], count: int) -> None:
    """Wait until each knows so many nodes."""
    for server in servers:
        known = threading.Event()

        def look(server: Server = server, known: threading.Event = known) -> None:
            if len(server.cluster.nodes()) == count:
                known.set()
            else:
                server.reactor.call_later(0.01, look)

        server.reactor.call_threadsafe(look)
        assert known.wait(DEADLINE), server.cluster.nodes()


def test_nodes_of_another_secret_are_no_nodes(stack: ExitStack) -> None:
    with redis_server(program=PROGRAMS[0]) as engine:
        nodes = Nodes(stack, engine, 2, Room, engine_secret="ours")
        strange = Nodes(stack, engine, 1, Room, engine_secret="theirs")
        until_known(nodes.servers, 2)
        assert len(strange.servers[0].cluster.nodes()) == 1
        assert nodes.servers[0].cluster.count("hall").result(DEADLINE).missing == []


# --- Processes -----------------------------------------------------------------------

#: Signs of life are frequent, so that nobody waits.
ASKING = """
from simple_ws.cluster import roster
roster.BEAT, roster.GONE = 0.3, 3.0

@server.cluster.answer("pid")
def answer_pid(data):
    return os.getpid()

class Asker(WebSocket):
    def on_message(self, msg, client):
        if msg == "nodes":
            return [node.name for node in server.cluster.nodes()]
        def answer(done):
            found = done.result()
            client.write_message({"pids": found.value, "missing": found.missing})
        server.cluster.ask("pid", timeout=float(msg)).add_done_callback(answer)

server.mount("/ask", Asker())
"""


@pytest.fixture(params=["local", PROGRAMS[0]])
def workers(request: pytest.FixtureRequest, stack: ExitStack) -> Program:
    options = '"127.0.0.1", 0, workers=3, ping=False'
    if request.param != "local":
        redis = stack.enter_context(redis_server(program=request.param))
        options += f", engine={redis.url!r}"
    return stack.enter_context(Program.with_workers(ASKING, options))


def asked(peer: Peer, what: str) -> Any:
    peer.text(what)
    return json.loads(peer.read_message())


def pid_in(name: str) -> int:
    return int(name.split("/")[-2])


@pytest.mark.one_backend
def test_stopped_worker_is_named_in_time(workers: Program, stack: ExitStack) -> None:
    pids = workers.wait_for_workers(3)
    peer = stack.enter_context(Peer(workers.connect()).shake("/ask"))
    while len(asked(peer, "nodes")) != 3:
        pass
    answers = asked(peer, "10")
    assert sorted(answers["pids"]) == sorted(pids)
    assert answers["missing"] == []
    here = answers["pids"][0]
    stopped = next(pid for pid in pids if pid != here)
    os.kill(stopped, signal.SIGSTOP)
    try:
        answers = asked(peer, "2")
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert sorted(answers["pids"]) == sorted(pid for pid in pids if pid != stopped)
    assert [pid_in(name) for name in answers["missing"]] == [stopped]


@pytest.mark.one_backend
def test_killed_worker_is_no_node_after_its_silence(
    workers: Program, stack: ExitStack
) -> None:
    pids = workers.wait_for_workers(3)
    peer = stack.enter_context(Peer(workers.connect()).shake("/ask"))
    here = asked(peer, "10")["pids"][0]
    killed = next(pid for pid in pids if pid != here)
    os.kill(killed, signal.SIGKILL)
    (successor,) = set(workers.wait_for_workers(4)) - set(pids)
    alive = {*pids, successor} - {killed}
    while {pid_in(name) for name in asked(peer, "nodes")} != alive:
        pass
    assert set(asked(peer, "10")["pids"]) == alive
