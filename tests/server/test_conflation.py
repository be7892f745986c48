"""Topics with `latest`: a slow client sees the newest of each key, never a queue."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest
from harness import DEADLINE, Driven, Peer, Recorder, connect
from nodes import broker_server
from speedups.test_latest import Gate

from simple_ws import Client, JSONMessages, Middleware, Server, WebSocket
from simple_ws.cluster.node import EngineState
from simple_ws.cluster.topic_rules import TopicRule
from simple_ws.server.conflation import Slots


def symbol(msg: Any) -> Any:
    return msg["symbol"]


class Board(Recorder):
    """Subscribes everybody to prices."""

    def on_open(self, client: Client) -> None:
        super().on_open(client)
        client.subscribe("prices")
        client.subscribe("plain")


class Reader:
    """A client whose system takes nothing until it is let, after one message."""

    def __init__(self, driven: Driven) -> None:
        self._driven, self._gates = driven, []  # type: ignore[var-annotated]
        self.peer: Peer = driven.open(wrap=self._gate)
        self.client: Client = driven.handler.client()
        self._gates[-1].budget = 0
        self.client._send(1, b'"first"')
        driven.turn(2)

    def _gate(self, sock: Any) -> Gate:
        self._gates.append(Gate(sock))
        return self._gates[-1]

    def read(self) -> list[Any]:
        """All that has waited, but for the first."""
        self.client._send(1, b'"last"')
        self._gates[-1].budget = 2**20
        self._driven.turn(2)
        found = []
        while not found or found[-1] != "last":
            found.append(json.loads(self.peer.read_message()))
        assert found[0] == "first"
        return found[1:-1]


@contextmanager
def served(*middlewares: Middleware, **rule: Any) -> Iterator[tuple[Any, Reader]]:
    """A server whose topic "prices" has a rule, and a client that does not read."""
    server_options = {"ping": False}
    with Driven(Board(), **server_options) as driven:
        driven.tear_down()
        driven.server.topic("prices", **rule)
        driven.restart()
        for middleware in middlewares:
            driven.server.use(middleware)
        yield driven.server, Reader(driven)


def test_without_a_function_only_the_newest_message_of_the_topic_waits() -> None:
    with served(latest=True) as (server, reader):
        for number in range(5):
            assert server.publish("prices", str(number)) == 1
            server.publish("plain", str(10 + number))
        assert reader.read() == [4, 10, 11, 12, 13, 14]
        assert server.stats()["total"]["conflated"] == 4


def test_with_a_function_the_newest_message_of_each_key_waits() -> None:
    with served(latest=symbol) as (server, reader):
        for number in range(5):
            for name in ("A", "B"):
                server.publish("prices", {"symbol": name, "price": number})
        assert reader.read() == [
            {"symbol": "A", "price": 4},
            {"symbol": "B", "price": 4},
        ]


@pytest.mark.parametrize("key", [0, "x", b"x", (1, "a"), None, frozenset("ab"), 1.5])
def test_any_hashable_key(key: Any) -> None:
    other = object()
    keys = iter([key, other, key, other])
    with served(latest=lambda msg: next(keys)) as (server, reader):
        for number in range(4):
            server.publish("prices", str(number))
        assert reader.read() == [2, 3]


def test_topics_of_one_pattern_do_not_replace_each_other() -> None:
    with Driven(Board()) as driven:
        driven.tear_down()
        driven.server.topic("p*", latest=True)
        driven.restart()
        reader = Reader(driven)
        for number in range(3):
            driven.server.publish("prices", str(number))
            driven.server.publish("plain", str(10 + number))
        assert reader.read() == [2, 12]


def test_most_specific_rule_decides() -> None:
    with served(latest=False) as (server, reader):
        server._topic_rules.add(TopicRule("*", latest=True))
        for number in range(3):
            server.publish("prices", str(number))
            server.publish("plain", str(10 + number))
        assert reader.read() == [0, 12, 1, 2]


def test_everybody_and_identities_are_no_topics() -> None:
    with Driven(Board()) as driven:
        driven.tear_down()
        driven.server.topic("*", latest=True)
        driven.restart()
        reader = Reader(driven)
        reader.client.bind("prices")
        for number in range(2):
            driven.server.broadcast(str(number))
            driven.server.send_to("prices", str(10 + number))
            driven.server.deliver("prices", str(20 + number))
        assert reader.read() == [0, 10, 20, 1, 11, 21]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["", "another thread"])
def test_function_that_fails_is_an_error_of_publish(elsewhere: bool) -> None:
    handler = Recorder()
    server = Server("127.0.0.1", 0)
    server.mount("*", handler)
    server.topic("a", latest=lambda msg: 1 / 0)
    server.topic("b", latest=lambda msg: [])
    if elsewhere:
        server.start()
    try:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                server.publish("a", "x")
            text = r"latest of 'b' must return a hashable key, not \[\]"
            with pytest.raises(TypeError, match=text):
                server.publish("b", "x")
    finally:
        server.stop(drain=0)


def test_nothing_is_sent_if_the_function_fails() -> None:
    with served(latest=symbol) as (server, reader):
        with pytest.raises(KeyError):
            server.publish("prices", {"no": "symbol"})
        assert reader.read() == []


def test_function_gets_what_was_published_not_what_middlewares_make_of_it() -> None:
    with served(JSONMessages(), latest=symbol) as (server, reader):
        for number in range(3):
            server.publish("prices", {"symbol": "A", "n": number})
        assert reader.read() == [{"symbol": "A", "n": 2}]


def test_middlewares_may_turn_anything_into_a_message() -> None:
    class Numbers(Middleware):
        def on_send(self, msg: Any, client: Client) -> Any:
            return str(msg) if isinstance(msg, int) else msg

    with served(Numbers(), latest=lambda msg: msg % 2) as (server, reader):
        for number in range(10):
            assert server.publish("prices", number) == 1
        assert reader.read() == [8, 9]


def test_client_that_is_left_out_keeps_what_waits() -> None:
    with served(latest=True) as (server, reader):
        server.publish("prices", "1")
        server.publish("prices", "2", exclude=(reader.client,))
        assert reader.read() == [1]


def test_slots_are_forgotten_when_nothing_waits() -> None:
    slots = Slots()
    held = [slots.get(("t", number)) for number in range(100)]
    for number in range(1000):
        assert slots.get(("t", number % 100)) is held[number % 100]
        slots.get(("gone", number))
    assert len(slots) <= 2 * 100 + 1
    del held
    for number in range(1000):
        slots.get(("gone", number))
    assert len(slots) <= 2 * 100 + 1


@pytest.mark.parametrize("latest", [True, symbol])
def test_topic_with_history(latest: Any) -> None:
    with served(latest=latest, history=10) as (server, reader):
        for number in range(5):
            server.publish("prices", {"symbol": "A", "n": number})
        assert reader.read() == [{"symbol": "A", "n": 4}]


# --- Through real sockets -------------------------------------------------------------

KEYS, ROUNDS = 10, 2000


class Feed(WebSocket):
    """Publishes on demand, far more than a socket takes."""

    def __init__(self) -> None:
        super().__init__()
        self.joined = threading.Semaphore(0)

    def on_open(self, client: Client) -> None:
        client.subscribe("prices")

    def on_join(self, client: Client, topic: str, join: Any) -> None:
        self.joined.release()

    def on_message(self, msg: Any, client: Client) -> None:
        for number in range(ROUNDS):
            for key in range(KEYS):
                price = {"symbol": key, "price": number, "more": "x" * 200}
                self.server.publish("prices", price)
        self.server.broadcast("done")


def slow_peer(server: Server) -> Peer:
    """A client whose system keeps only a few kilobytes."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(DEADLINE)
    sock.connect(("127.0.0.1", server.port))
    return Peer(sock).shake()


def seen_until_done(peer: Peer) -> dict[int, list[int]]:
    """The prices that a client sees, by symbol."""
    seen: dict[int, list[int]] = {key: [] for key in range(KEYS)}
    while (text := peer.read_message()) != "done":
        msg = json.loads(text)
        seen[msg["symbol"]].append(msg["price"])
    return seen


def check_newest(seen: dict[int, list[int]], rounds: int = ROUNDS) -> None:
    for prices in seen.values():
        assert prices == sorted(set(prices))
        assert prices[-1] == rounds - 1
    # What the sockets of both sides hold, and not a queue of megabytes.
    assert sum(map(len, seen.values())) < KEYS * rounds / 4


def test_client_that_does_not_read_sees_the_newest_and_never_a_queue() -> None:
    server = Server("127.0.0.1", 0)
    server.topic("prices", latest=symbol)
    feed = Feed()
    server.mount("*", feed)
    server.start()
    try:
        with slow_peer(server) as slow, connect(server).shake() as quick:
            quick.text("go")
            seen_until_done(quick)
            check_newest(seen_until_done(slow))  # which has read nothing until now
            assert server.stats()["total"]["conflated"] > 0
            assert server.stats()["total"]["dropped"] == 0
    finally:
        server.stop(drain=0)


# --- With an engine -------------------------------------------------------------------


def _set_if_up(up: threading.Event, state: EngineState) -> None:
    if state.up:
        up.set()


@pytest.mark.parametrize("history", [0, 10])
def test_each_node_conflates_by_the_keys_of_what_comes_from_the_engine(
    history: int,
) -> None:
    with ExitStack() as stack:
        engine = stack.enter_context(broker_server())
        servers, feeds = [], [Feed(), Feed()]
        for number in range(2):
            server = Server("127.0.0.1", 0, ping=False)
            server._engine_addresses = [engine.address]
            server.topic("prices", history=history, latest=symbol if number else False)
            server.mount("*", feeds[number])
            up = threading.Event()
            server.on_engine(partial(_set_if_up, up))
            server.start()
            stack.callback(server.stop, 0)
            assert up.wait(DEADLINE)
            servers.append(server)
        peer = stack.enter_context(slow_peer(servers[1]))
        quick = stack.enter_context(connect(servers[1]).shake())
        for _ in range(2 if history else 0):  # it has read the history
            assert feeds[1].joined.acquire(timeout=DEADLINE)
        servers[1].publish("prices", {"symbol": 0})  # the engine knows that they listen
        assert quick.read_message() == peer.read_message() == '{"symbol":0}'
        with pytest.raises(KeyError):
            servers[1].publish("prices", {"no": "symbol"})
        servers[0].publish("prices", {"no": "symbol"})  # which has no rule
        assert quick.read_message() == peer.read_message() == '{"no":"symbol"}'
        for number in range(500):
            for key in range(KEYS):
                price = {"symbol": key, "price": number, "more": "x" * 500}
                servers[0].publish("prices", price)
            while json.loads(quick.read_message()) != price:
                pass
        servers[0].broadcast("done")
        assert quick.read_message() == "done"
        check_newest(seen_until_done(peer), rounds=500)
        assert servers[1].stats()["total"]["conflated"] > 0
