"""Two servers on one engine, as users run them: a real Redis, and the broker.

Every wait is for a message or an event, with a deadline.
"""

from __future__ import annotations

import json
import threading
from contextlib import ExitStack
from itertools import product
from typing import Any

import pytest
from harness import DEADLINE, open_peer
from nats_server import NatsServer
from nodes import IDENTITIES, Nodes, Room
from redis_server import PROGRAMS, redis_server

from simple_ws import Middleware, Server
from simple_ws.cluster.engine_address import parse


def test_messages_reach_the_clients_of_all_nodes(engine: Any, stack: ExitStack) -> None:
    nodes = Nodes(stack, engine)
    here, there = nodes.peer(0), nodes.peer(1)
    assert nodes.servers[0].publish("hall", "text") == 0
    nodes.servers[1].publish("hall", b"\0binary")
    nodes.servers[0].publish("hall", {"a": [1, None]})
    nodes.servers[1].broadcast("all")
    nodes.servers[0].publish("nobody", "x")
    for peer in (here, there):
        messages = sorted(map(repr, (peer.read_message() for _ in range(4))))
        assert messages == sorted(
            map(repr, ["text", b"\0binary", '{"a":[1,null]}', "all"])
        )
        assert peer.nothing_waits()


def test_who_publishes_is_left_out_and_local_stays_here(
    engine: Any, stack: ExitStack
) -> None:
    nodes = Nodes(stack, engine)
    one, two, other = nodes.peer(0), nodes.peer(0), nodes.peer(1)
    one.text("not to me")
    assert two.read_message() == other.read_message() == "not to me"
    nodes.servers[0].publish("hall", "here", local=True)
    assert one.read_message() == two.read_message() == "here"
    nodes.servers[0].publish("hall", "end")
    assert one.read_message() == two.read_message() == other.read_message() == "end"


@pytest.mark.parametrize("name", range(len(IDENTITIES)))
def test_identity_is_reached_on_any_node(
    engine: Any, stack: ExitStack, name: int
) -> None:
    nodes = Nodes(stack, engine)
    mine = [nodes.peer(number, f"?id={name}") for number in (0, 1)]
    other = nodes.peer(1, f"?id={(name + 1) % len(IDENTITIES)}")
    nodes.servers[0].send_to(IDENTITIES[name], "you")
    nodes.servers[0].broadcast("end")
    for peer in mine:
        assert [peer.read_message(), peer.read_message()] == ["you", "end"]
    assert other.read_message() == "end"


def test_all_nodes_see_one_order(engine: Any, stack: ExitStack) -> None:
    one_order = not isinstance(engine, NatsServer)  # that of each publisher
    nodes = Nodes(stack, engine, 3)
    peers = [nodes.peer(number) for number in range(3)]

    def publish(number: int) -> None:
        for count in range(300):
            nodes.servers[number].publish("hall", f"{number} {count}")

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    heard = [[peer.read_message() for _ in range(900)] for peer in peers]
    for thread in threads:
        thread.join()
    assert not one_order or heard[0] == heard[1] == heard[2]
    for number, all_ in product(range(3), heard):
        own = [each for each in all_ if each.startswith(f"{number} ")]
        assert own == [f"{number} {count}" for count in range(300)]


def test_engine_that_is_killed_costs_local_clients_nothing_and_is_told(
    engine: Any, stack: ExitStack
) -> None:
    nodes = Nodes(stack, engine)
    here, there = nodes.peer(0), nodes.peer(1)
    nodes.servers[0].publish("hall", "before")
    assert here.read_message() == there.read_message() == "before"
    engine.kill()
    for number in (0, 1):
        nodes.until(number, up=False)
    for count in range(50):
        nodes.servers[0].publish("hall", f"alone {count}")
    assert [here.read_message() for _ in range(50)] == [
        f"alone {count}" for count in range(50)
    ]
    counts = nodes.servers[0].engine.counts
    assert counts.lost + counts.unsure == 50
    seen = [len(states) for states in nodes.states]
    engine.start()
    for number in (0, 1):
        nodes.until(number, up=True, after=seen[number])
        room = nodes.rooms[number]
        while ("hall", None) not in room.of("gap"):
            room.wait_for("gap", len(room.of("gap")) + 1)
    nodes.servers[0].publish("hall", "after")
    assert here.read_message() == there.read_message() == "after"


class Shouting(Middleware):
    """Sees what each client gets."""

    def on_send(self, msg: Any, client: Any) -> Any:
        return {**msg, "to": client.path} if isinstance(msg, dict) else msg


def test_middlewares_of_each_node_see_json_as_what_it_stands_for(
    engine: Any, stack: ExitStack
) -> None:
    nodes = Nodes(stack, engine)
    for server in nodes.servers:
        server.use(Shouting())
    here, there = nodes.peer(0), nodes.peer(1)
    nodes.servers[0].publish("hall", {"a": 1})
    for peer in (here, there):
        assert json.loads(peer.read_message()) == {"a": 1, "to": "/"}
    with pytest.raises(TypeError, match="a message must be"):
        nodes.servers[0].publish("hall", object())


def test_wrong_identities_and_urls_are_refused(engine: Any, stack: ExitStack) -> None:
    nodes = Nodes(stack, engine, 1)
    nodes.peer(0)
    client = nodes.rooms[0].client()
    for wrong in (True, 1.5, ("a",)):
        with pytest.raises(TypeError, match="with an engine an identity must be"):
            nodes.servers[0].bind(client, wrong)
        with pytest.raises(TypeError, match="with an engine an identity must be"):
            nodes.servers[0].send_to(wrong, "x")


@pytest.mark.parametrize(
    ("engine_option", "error", "text"),
    [
        (7, TypeError, "engine must be a URL or None, not int"),
        ("http://x", ValueError, "redis://"),
        ("redis://:secret@/x y", ValueError, "redis://"),
    ],
)
def test_wrong_engine_is_refused_at_construction(
    engine_option: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text) as raised:
        Server(engine=engine_option)
    assert "secret" not in str(raised.value)


def test_password_and_secret_are_not_shown() -> None:
    server = Server(engine="redis://me:hidden@localhost", engine_secret="buried")
    for text in (repr(server.options), str(server.options), repr(server)):
        assert "hidden" not in text
        assert "buried" not in text
    assert server._engine_addresses == [parse("redis://me:hidden@localhost")]


def test_engine_that_is_not_there_is_no_reason_not_to_serve(stack: ExitStack) -> None:
    """It is down, and everybody here gets what is published."""
    room = Room()
    server = Server("127.0.0.1", 0, engine="redis://127.0.0.1:1")
    server.mount("*", room)
    told = threading.Event()
    server.on_engine(lambda state: told.set())
    server.start()
    stack.callback(server.stop, 0)
    assert told.wait(DEADLINE)
    assert not server.engine.state.up
    assert "Connection refused" in server.engine.state.reason
    peer = stack.enter_context(open_peer(server))
    room.wait_for("open")
    server.publish("hall", "alone")
    assert peer.read_message() == "alone"
    assert server.engine.counts.lost == 1


def test_secret_keeps_strangers_out(stack: ExitStack) -> None:
    with redis_server(program=PROGRAMS[0]) as engine:
        nodes = Nodes(stack, engine, 1, engine_secret="ours")
        strange = Nodes(stack, engine, 1, engine_secret=b"theirs")
        here, stranger = nodes.peer(0), strange.peer(0)
        strange.servers[0].publish("hall", "spam")
        assert stranger.read_message() == "spam"
        nodes.servers[0].publish("hall", "ham")
        assert here.read_message() == "ham"
        # The message, and that there is such a node.
        assert nodes.servers[0].engine.counts.invalid >= 2


def test_prefix_keeps_applications_apart(stack: ExitStack) -> None:
    with redis_server(program=PROGRAMS[0]) as engine:
        nodes = Nodes(stack, engine, 1)
        other = Nodes(stack, engine, 1, query="?prefix=other")
        here, stranger = nodes.peer(0), other.peer(0)
        other.servers[0].publish("hall", "theirs")
        assert stranger.read_message() == "theirs"
        nodes.servers[0].publish("hall", "ours")
        assert here.read_message() == "ours"


# --- Stats ---------------------------------------------------------------------------


def test_stats_tell_of_the_engine_and_never_go_back(
    engine: Any, stack: ExitStack
) -> None:
    nodes = Nodes(stack, engine)
    server, here, there = nodes.servers[0], nodes.peer(0), nodes.peer(1)
    for number in (0, 1):
        nodes.servers[number].publish("hall", "hello")
    for _ in range(2):
        assert here.read_message() == there.read_message() == "hello"
    stats = server.stats()["engine"]
    assert json.loads(json.dumps(stats)) == stats
    assert (stats["up"], stats["reason"]) == (1, "")
    assert stats["server"] == nodes.states[0][-1].server
    assert stats["rtt"] > 0
    assert (stats["published"], stats["received"]) == (1, 2)
    assert stats["connects"]["start"] == sum(stats["connects"].values()) == 1
    assert stats["channels"] == 4  # the hall, all, all nodes, and this one
    assert stats["bytes_received"] > 0
    assert stats["bytes_sent"] > 0
    doc = Server.stats.__doc__ or ""
    for key in [*stats, *stats["connects"]]:
        assert key in doc, f"{key} is not explained"
    engine.kill()
    nodes.until(0, up=False)
    server.publish("hall", "alone")
    assert here.read_message() == "alone"
    stats = server.stats()["engine"]
    assert (stats["up"], stats["rtt"]) == (0, None)
    assert stats["reason"]
    assert stats["lost"] + stats["unsure"] == 1
    server.stop(0)
    stopped = server.stats()["engine"]
    assert stopped["reason"] == "the server is stopped"
    assert (stopped["up"], stopped["channels"], stopped["buffered"]) == (0, 0, 0)
    seen = len(nodes.states[0])
    engine.start()
    server.start()
    nodes.until(0, up=True, after=seen)
    again = server.stats()["engine"]
    assert (again["up"], again["reason"]) == (1, "")
    assert again["connects"]["start"] == 2
    for name in ("published", "received", "lost", "bytes_received", "bytes_sent"):
        assert again[name] >= stopped[name] >= stats[name], name
