"""Sending to many: broadcast, topics, deliver, identities, and their errors."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from harness import (
    Driven,
    Echo,
    Peer,
    Recorder,
    close_frame,
    open_peer,
    running,
    small_buffers,
)

from simple_ws import Client, JSONMessages, Middleware, SendStatus, Server, WebSocket


def opened(driven: Driven, count: int) -> tuple[list[Peer], list[Any]]:
    """So many peers, and their clients."""
    peers = [driven.open() for _ in range(count)]
    return peers, list(driven.handler.clients)[-count:]


def in_thread(work: Callable[[], Any]) -> Any:
    """Do it in another thread; return what it returned, raise what it raised."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(15)
    assert not thread.is_alive()
    if errors:
        raise errors[0]
    return results[0]


@contextmanager
def served(count: int, *middlewares: Middleware) -> Iterator[tuple[Any, Any, Any]]:
    """A server in a thread of its own with so many clients."""
    handler = Recorder()
    with running(handler) as server:
        for middleware in middlewares:
            server.use(middleware)
        peers = [open_peer(server) for _ in range(count)]
        clients = [handler.client(index) for index in range(count)]
        yield server, peers, clients
        for peer in peers:
            peer.close()


# --- Broadcast and publish -----------------------------------------------------------


def test_broadcast_counts_those_who_took_it() -> None:
    with Driven() as driven:
        peers, clients = opened(driven, 3)
        assert driven.server.broadcast({"a": 1}) == 3
        assert [peer.read_message() for peer in peers] == ['{"a":1}'] * 3
        clients[0].close()
        assert driven.server.broadcast("b") == 2
        assert driven.server.broadcast("c", exclude=[clients[1]]) == 1


@pytest.mark.parametrize("kind", [tuple, list, set, frozenset, iter, dict.fromkeys])
def test_exclude_takes_any_collection_of_clients(kind: Any) -> None:
    with Driven() as driven:
        peers, clients = opened(driven, 3)
        for client in clients:
            client.subscribe("t")
        assert driven.server.broadcast("b", exclude=kind(clients[:2])) == 1
        assert driven.server.publish("t", "p", exclude=kind(clients[1:])) == 1
        driven.turn()
        assert [peer.read_now() for peer in peers] == [b"\x81\x01p", b"", b"\x81\x01b"]


def test_exclude_may_be_none_empty_everybody_and_a_group() -> None:
    with Driven() as driven:
        opened(driven, 2)
        server = driven.server
        assert server.broadcast("x", exclude=None) == 2  # type: ignore[arg-type]
        assert server.broadcast("x", exclude=[]) == 2
        assert server.broadcast("x", exclude=server.clients) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["abc", 5, [None], ["abc"], [5], {"id": 1}, [[]]])
def test_exclude_that_is_no_collection_of_clients_is_refused(wrong: Any) -> None:
    server = Server()
    for call in (
        lambda: server.broadcast("x", exclude=wrong),
        lambda: server.publish("t", "x", exclude=wrong),
    ):
        with pytest.raises(TypeError, match="exclude must be a collection of clients"):
            call()


def test_single_client_as_exclude_is_refused_and_not_taken_for_nobody() -> None:
    with Driven() as driven:
        _, (client,) = opened(driven, 1)
        with pytest.raises(TypeError, match="exclude must be a collection of clients"):
            driven.server.broadcast("x", exclude=client)


def test_exclude_is_taken_as_it_was_when_another_thread_called() -> None:
    with served(2) as (server, peers, clients):
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            assert go.wait(15)

        server.call_later(0, hold)
        assert held.wait(15)
        exclude = [clients[0]]
        assert server.broadcast("x", exclude=exclude) == 0
        exclude[:] = [clients[1]]
        server.broadcast("y")
        go.set()
        assert peers[1].read_message() == "x"
        assert [peer.read_message() for peer in peers] == ["y", "y"]


def test_publish_reaches_all_handlers_and_client_publish_all_but_itself() -> None:
    with Driven() as driven:
        other = driven.server.mount("/other", Recorder())
        peers = [driven.open("/"), driven.open("/other"), driven.open("/")]
        first, third = driven.handler.clients
        (second,) = other.clients
        for client in (first, second):
            client.subscribe("news")
        assert driven.server.publish("news", "all") == 2
        assert first.publish("news", "mine") == 1
        assert third.publish("news", "stranger") == 2
        driven.turn()
        said = [peer.read_now() for peer in peers]
        assert said[0] == b"\x81\x03all\x81\x08stranger"
        assert said[1] == b"\x81\x03all\x81\x04mine\x81\x08stranger"
        assert said[2] == b""


@pytest.mark.parametrize("message", [5, None, object(), {"x": object()}, "\ud800"])
def test_wrong_message_raises_also_where_nobody_is(message: Any) -> None:
    server = Server()
    for call in (
        lambda: server.broadcast(message),
        lambda: server.publish("t", message),
        lambda: server.deliver("t", message),
        lambda: server.send_to("me", message),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()


TOPIC_CALLS: list[Callable[[Server, Any, Any], object]] = [
    lambda server, client, topic: server.publish(topic, "x"),
    lambda server, client, topic: server.deliver(topic, "x"),
    lambda server, client, topic: server.subscribe(topic, client),
    lambda server, client, topic: server.unsubscribe(topic, client),
    lambda server, client, topic: server.count(topic),
    lambda server, client, topic: server.members(topic),
    lambda server, client, topic: client.subscribe(topic),
    lambda server, client, topic: client.unsubscribe(topic),
    lambda server, client, topic: client.publish(topic, "x"),
]


@pytest.mark.parametrize("topic", [None, 5, b"news", ["news"], ("a", "b")])
def test_topic_is_a_str(topic: Any) -> None:
    with Driven() as driven:
        _, (client,) = opened(driven, 1)
        for call in TOPIC_CALLS:
            with pytest.raises(TypeError, match="topic must be a str, not"):
                call(driven.server, client, topic)
            with pytest.raises(TypeError, match="topic must be a str, not"):
                in_thread(lambda call=call: call(driven.server, client, topic))


def test_any_string_is_a_topic() -> None:
    with Driven() as driven:
        _, (client,) = opened(driven, 1)
        for topic in ("", " ", "a/b", "é", "\ud800", "x" * 10_000):
            client.subscribe(topic)
            assert driven.server.count(topic) == 1
        assert len(client.topics) == 6


# --- Subscriptions -------------------------------------------------------------------


def test_topics_of_a_client_are_what_it_subscribed_to() -> None:
    with Driven() as driven:
        (peer,), (client,) = opened(driven, 1)
        assert client.topics == frozenset()
        client.subscribe("a")
        driven.server.subscribe("b", client, priority=2)
        client.subscribe("a")
        assert client.topics == {"a", "b"}
        client.unsubscribe("a")
        driven.server.unsubscribe("b", client)
        driven.server.unsubscribe("never", client)
        assert client.topics == frozenset()
        client.subscribe("c")
        peer.leave()
        assert client.topics == frozenset()
        assert driven.server.members("c") == []


def test_topics_of_a_client_cannot_be_changed_behind_the_back_of_the_server() -> None:
    with Driven() as driven:
        (peer,), (client,) = opened(driven, 1)
        client.subscribe("a")
        with pytest.raises(AttributeError):
            client.topics.add("b")
        with pytest.raises(AttributeError):
            client.topics = set()
        peer.leave()
        assert driven.server.count("a") == 0


def test_members_are_a_list_of_ones_own_in_the_order_they_came() -> None:
    with Driven() as driven:
        _, clients = opened(driven, 3)
        for client in (clients[1], clients[0], clients[2]):
            client.subscribe("t")
        members = driven.server.members("t")
        assert members == [clients[1], clients[0], clients[2]]
        members.clear()
        assert driven.server.count("t") == 3
        assert driven.server.members("nothing") == []


@pytest.mark.parametrize("wrong", [None, "client", 5, WebSocket()])
def test_only_clients_subscribe_and_are_bound(wrong: Any) -> None:
    server = Server()
    for call in (
        lambda: server.subscribe("t", wrong),
        lambda: server.unsubscribe("t", wrong),
        lambda: server.bind(wrong, "me"),
    ):
        with pytest.raises(TypeError, match="client must be a Client, not"):
            call()


def test_client_of_another_server_is_refused() -> None:
    with Driven() as driven:
        _, (client,) = opened(driven, 1)
        other = Server()
        for call in (
            lambda: other.subscribe("t", client),
            lambda: other.unsubscribe("t", client),
            lambda: other.bind(client, "me"),
        ):
            with pytest.raises(ValueError, match="belongs to another server"):
                call()
        assert other.count("t") == 0


@pytest.mark.parametrize("wrong", [None, "1", True, [1]])
def test_priority_is_a_number(wrong: Any) -> None:
    with Driven() as driven:
        _, (client,) = opened(driven, 1)
        with pytest.raises(TypeError, match="priority must be a number, not"):
            client.subscribe("t", priority=wrong)
        with pytest.raises(TypeError, match="priority must be a number, not"):
            driven.server.subscribe("t", client, wrong)
        with pytest.raises(ValueError, match="priority must be a number, not nan"):
            client.subscribe("t", priority=float("nan"))
        assert client.topics == frozenset()


def test_who_has_left_is_not_subscribed_nor_bound_any_more() -> None:
    with Driven() as driven:
        (peer,), (client,) = opened(driven, 1)
        peer.leave()
        client.subscribe("t")
        client.bind("me")
        assert driven.server.count("t") == 0
        assert not driven.server.is_online("me")
        assert (client.topics, client.client_id) == (frozenset(), None)


def test_closing_client_receives_nothing_and_is_forgotten_at_its_end() -> None:
    with Driven() as driven:
        (peer,), (client,) = opened(driven, 1)
        client.subscribe("t")
        client.bind("me")
        client.close()
        assert driven.server.publish("t", "x") == 0
        assert driven.server.send_to("me", "x") == 0
        assert driven.server.deliver("t", "x") is None
        assert peer.read_close() == (1000, "")
        peer.write(close_frame(1000))
        assert peer.read_rest() == b""
        assert driven.server.count("t") == 0
        assert driven.server.online() == []


def test_nobody_who_left_is_kept_alive() -> None:
    with Driven(WebSocket()) as driven:
        server = driven.server
        peer = driven.open()
        (client,) = server.clients
        client.subscribe("t", priority=1)
        client.bind("me")
        assert server.deliver("t", "x") is client
        server.broadcast("x")
        server.publish("t", "x", exclude=[client])
        watch = weakref.ref(client)
        del client
        peer.read_message(), peer.read_message()
        peer.leave()
        driven.advance(60)
        gc.collect()
        assert watch() is None
        assert not server._topics._groups
        assert not server._topics._ranked
        assert not server._topics._priorities
        assert not server._identities._groups


# --- deliver -------------------------------------------------------------------------


def test_deliver_is_to_the_highest_priority_and_the_latest_among_equals() -> None:
    with Driven() as driven:
        _, clients = opened(driven, 4)
        for client, priority in zip(clients, (1, 5, 5, 0.5), strict=True):
            client.subscribe("work", priority)
        order = []
        while client := driven.server.deliver("work", "x"):
            order.append(clients.index(client))
            client.unsubscribe("work")
        assert order == [2, 1, 0, 3]


def test_deliver_is_told_by_who_took_it_and_reaches_nobody_else() -> None:
    with Driven() as driven:
        peers, clients = opened(driven, 3)
        for client in clients:
            client.subscribe("work")
        assert driven.server.deliver("work", {"job": 1}) is clients[2]
        driven.turn()
        assert [peer.read_now() for peer in peers] == [b"", b"", b'\x81\x09{"job":1}']
        assert driven.server.deliver("nothing", "x") is None


def test_subscribing_again_changes_the_priority_and_the_place() -> None:
    with Driven() as driven:
        _, (first, second) = opened(driven, 2)
        first.subscribe("work")
        second.subscribe("work")
        deliver = driven.server.deliver
        assert deliver("work", "x") is second
        first.subscribe("work")  # the latest among equals now
        assert deliver("work", "x") is first
        second.subscribe("work", priority=1)
        assert deliver("work", "x") is second
        second.subscribe("work", priority=-1)
        assert deliver("work", "x") is first
        assert driven.server.count("work") == 2


@pytest.mark.parametrize("way", ["close", "terminate", "leave", "unsubscribe"])
def test_next_one_serves_when_the_best_is_going(way: str) -> None:
    with Driven() as driven:
        peers, (second, best) = opened(driven, 2)
        second.subscribe("work", 1)
        best.subscribe("work", 2)
        assert driven.server.deliver("work", "x") is best
        if way == "leave":
            peers[1].read_message()
            peers[1].leave()
        elif way == "unsubscribe":
            best.unsubscribe("work")
        else:
            getattr(best, way)()
        assert driven.server.deliver("work", "y") is second
        assert peers[0].read_message() == "y"


@pytest.mark.parametrize(
    ("policy", "taken_by"), [("close", 0), ("drop_new", 0), ("drop_old", 1)]
)
def test_next_one_serves_when_the_best_takes_no_more(
    policy: str, taken_by: int
) -> None:
    handler = Recorder(slow_consumer=policy, write_limit=100_000, max_frame_size=None)
    with Driven(handler) as driven:
        driven.open()
        driven.open(wrap=small_buffers)
        clients = list(handler.clients)
        clients[0].subscribe("work", 1)
        clients[1].subscribe("work", 2)
        while clients[1].buffered_amount < 60_000:
            assert clients[1].write_message(b"x" * 1000)
            driven.turn()
        assert driven.server.deliver("work", b"y" * 50_000) is clients[taken_by]
        assert clients[1].is_open() is (policy != "close")


def test_deliver_from_a_callback_of_the_one_it_goes_to() -> None:
    class Worker(WebSocket):
        def on_message(self, msg: Any, client: Any) -> None:
            client.subscribe("work", priority=int(msg))
            assert self.server is not None
            taker = self.server.deliver("work", f"for {msg}")
            assert taker is client

    with Driven(Worker()) as driven:
        peers = [driven.open() for _ in range(2)]
        for number, peer in enumerate(peers):
            peer.text(str(number))
            assert peer.read_message() == f"for {number}"


def test_deliver_from_another_thread_is_queued_in_order() -> None:
    with served(2) as (server, peers, clients):
        clients[0].subscribe("work")
        clients[1].subscribe("work", priority=1)

        def work() -> None:
            for number in range(20):
                assert server.deliver("work", str(number)) is None

        in_thread(work)
        assert [peers[1].read_message() for _ in range(20)] == [
            str(number) for number in range(20)
        ]
        assert peers[0].nothing_waits()


def test_messages_that_find_no_room_in_the_queue_are_one_line(caplog: Any) -> None:
    handler = Recorder()
    with running(handler, max_buffered=1000) as server, open_peer(server) as peer:
        handler.client().subscribe("t")
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            assert go.wait(15)

        server.call_later(0, hold)
        assert held.wait(15)
        for _ in range(50):
            assert server.broadcast("x" * 100) == 0
            assert server.deliver("t", "x" * 100) is None
        go.set()
        assert peer.read_message() == "x" * 100
    (line,) = [r for r in caplog.records if "the loop is behind" in r.getMessage()]
    assert line.getMessage().startswith("1 messages from other threads were dropped")


# --- Identities ----------------------------------------------------------------------


def test_identity_has_several_connections_until_the_last_one_ends() -> None:
    with Driven() as driven:
        peers, clients = opened(driven, 3)
        server = driven.server
        for client in clients[:2]:
            client.bind("ann")
        server.bind(clients[2], ("bob", 7))
        assert server.online() == ["ann", ("bob", 7)]
        assert server.send_to("ann", "x") == 2
        assert server.send_to(("bob", 7), "y") == 1
        assert server.send_to("cid", "z") == 0
        assert server.is_online("ann")
        assert not server.is_online("cid")
        peers[0].read_message()
        peers[0].leave()
        assert server.is_online("ann")
        peers[1].read_message()
        peers[1].leave()
        assert not server.is_online("ann")
        assert server.online() == [("bob", 7)]
        assert clients[0].client_id == "ann"  # it is known in on_close, and afterwards


def test_binding_again_moves_a_connection() -> None:
    with Driven() as driven:
        _, (first, second) = opened(driven, 2)
        server = driven.server
        first.bind("ann")
        second.bind("ann")
        first.bind("bob")
        assert (first.client_id, second.client_id) == ("bob", "ann")
        assert server.send_to("ann", "x") == 1
        assert server.online() == ["ann", "bob"]
        second.bind("bob")
        assert server.online() == ["bob"]
        assert server.send_to("bob", "x") == 2
        second.bind(None)
        first.bind(None)
        assert server.online() == []
        assert (first.client_id, second.client_id) == (None, None)


def test_binding_to_the_same_identity_changes_nothing() -> None:
    with Driven() as driven:
        _, (first, second) = opened(driven, 2)
        first.bind("ann")
        second.bind("bob")
        first.bind("ann")
        assert driven.server.online() == ["ann", "bob"]
        assert driven.server.send_to("ann", "x") == 1


def test_identity_is_given_by_bind_alone() -> None:
    with Driven() as driven:
        (peer,), (client,) = opened(driven, 1)
        client.bind("ann")
        with pytest.raises(
            AttributeError, match=r"client_id is given by bind\('bob'\)"
        ):
            client.client_id = "bob"
        assert client.client_id == "ann"
        peer.leave()
        assert driven.server.online() == []


@pytest.mark.parametrize("wrong", [[1], {"a": 1}, {1}, ([],)])
def test_identity_is_hashable(wrong: Any) -> None:
    with served(1) as (server, _, (client,)):
        calls: list[Callable[[], object]] = [
            lambda: client.bind(wrong),
            lambda: server.bind(client, wrong),
            lambda: server.is_online(wrong),
            lambda: server.send_to(wrong, "x"),
        ]
        for call in calls:
            with pytest.raises(TypeError, match="client_id must be hashable, not"):
                call()
        assert client.client_id is None


def test_zero_and_other_false_identities_are_identities() -> None:
    with Driven() as driven:
        peers, clients = opened(driven, 2)
        for client, identity in zip(clients, (0, ""), strict=True):
            client.bind(identity)
            assert driven.server.is_online(identity)
            assert driven.server.send_to(identity, "x") == 1
        assert driven.server.online() == [0, ""]
        for peer in peers:
            peer.read_message()
            peer.leave()
        assert driven.server.online() == []


# --- Before it listens, and after ----------------------------------------------------


def test_server_that_does_not_listen_reaches_nobody_and_queues_nothing() -> None:
    server = Server("127.0.0.1", 0)
    for _ in range(2):
        assert server.broadcast("x") == 0
        assert server.publish("t", "x") == 0
        assert server.deliver("t", "x") is None
        assert server.send_to("me", "x") == 0
        assert (server.count("t"), server.members("t")) == (0, [])
        assert (server.is_online("me"), server.online()) == (False, [])
        assert in_thread(lambda: server.broadcast("x")) == 0
        assert in_thread(lambda: server.deliver("t", "x")) is None
        assert not server.reactor._calls
        server.start()
        server.stop()


def test_client_of_a_stopped_server_does_nothing_from_any_thread() -> None:
    with served(1) as (server, _, (client,)):
        server.stop(drain=0)

        def use() -> None:
            assert client.write_message("x") is SendStatus.DROPPED
            assert client.close() is False
            assert client.ping() is False
            client.terminate()
            client.subscribe("t")
            client.unsubscribe("t")
            client.bind("me")
            assert client.publish("t", "x") == 0
            assert not client.is_open()

        use()
        in_thread(use)
        assert server.count("t") == 0
        assert server.online() == []
        assert len(server.reactor._calls) == 0


# --- write_message of the user's own -------------------------------------------------


class Shouting(Client):
    def write_message(self, msg: Any, binary: bool | None = None) -> SendStatus:
        return super().write_message(msg.upper(), binary)


class Shouts(Echo):
    client_class = Shouting


def test_write_message_of_a_client_class_holds_for_all_that_is_sent() -> None:
    with Driven(Shouts()) as driven:
        peer = driven.open()
        client = driven.handler.client()
        client.subscribe("t")
        client.bind("me")
        client.write_message("a")
        client.send("b")
        peer.text("c")
        driven.server.broadcast("d")
        driven.server.publish("t", "e")
        driven.server.deliver("t", "f")
        driven.server.send_to("me", "g")
        assert sorted(str(peer.read_message()) for _ in range(7)) == list("ABCDEFG")


def test_write_message_on_one_client_is_not_asked_by_what_is_sent_to_many() -> None:
    """The same in both backends; `Client` says so."""
    with Driven(Echo()) as driven:
        peer = driven.open()
        client = driven.handler.client()
        client.subscribe("t")
        client.bind("me")
        original = client.write_message
        client.write_message = lambda msg, binary=None: original(msg.upper(), binary)
        client.write_message("a")
        client.send("b")
        peer.text("c")
        assert driven.server.deliver("t", "d") is client
        assert [peer.read_message() for _ in range(4)] == ["A", "B", "D", "C"]
        driven.server.broadcast("e")
        driven.server.publish("t", "f")
        driven.server.send_to("me", "g")
        assert [peer.read_message() for _ in range(3)] == ["e", "f", "g"]


# --- With middlewares that look at what is sent --------------------------------------


class Failing(Middleware):
    """Fails for the clients in it."""

    def __init__(self) -> None:
        self.bad: set[Any] = set()

    def on_send(self, msg: Any, client: Any) -> Any:
        if client in self.bad:
            raise ZeroDivisionError(f"not for {client.id}")
        return msg


def test_middleware_that_fails_for_one_keeps_a_broadcast_from_nobody_else() -> None:
    failing = Failing()
    with Driven() as driven:
        driven.server.use(failing)
        peers, clients = opened(driven, 4)
        failing.bad = set(clients[1:3])
        for client in clients:
            client.subscribe("t")
            client.bind("me")
        server = driven.server
        for call in (
            lambda: server.broadcast("x"),
            lambda: server.publish("t", "x"),
            lambda: server.send_to("me", "x"),
        ):
            with pytest.raises(ZeroDivisionError, match=f"not for {clients[1].id}"):
                call()
        driven.turn()
        assert [len(peer.read_now()) for peer in peers] == [9, 0, 0, 9]
        assert all(client.is_open() for client in clients)


def test_any_object_may_be_sent_where_a_middleware_makes_a_message_of_it() -> None:
    with Driven() as driven:
        driven.server.use(JSONMessages())
        (peer,), (client,) = opened(driven, 1)
        client.subscribe("t")
        client.bind("me")
        assert driven.server.broadcast(5) == 1
        assert driven.server.publish("t", None) == 1
        assert driven.server.deliver("t", True) is client
        assert driven.server.send_to("me", (1, 2)) == 1
        assert [peer.read_message() for _ in range(4)] == ["5", "null", "true", "[1,2]"]
        with pytest.raises(TypeError, match="not JSON serializable"):
            driven.server.broadcast(object())
        assert client.is_open()


def test_any_object_may_be_sent_so_by_another_thread_too() -> None:
    with served(1, JSONMessages()) as (server, (peer,), (client,)):
        client.subscribe("t")
        client.bind("me")

        def send() -> None:
            assert server.broadcast(5) == 0
            assert server.publish("t", None) == 0
            assert server.deliver("t", [True]) is None
            assert server.send_to("me", (1, 2)) == 0
            assert server.broadcast("\ud800") == 0

        in_thread(send)
        said = [peer.read_message() for _ in range(5)]
        assert said == ["5", "null", "[true]", "[1,2]", r'"\ud800"']


def test_exclude_holds_with_middlewares_too() -> None:
    with Driven() as driven:
        driven.server.use(JSONMessages())
        peers, clients = opened(driven, 3)
        assert driven.server.broadcast("x", exclude=clients[:1]) == 2
        driven.turn()
        assert [peer.read_now() for peer in peers] == [
            b"",
            b'\x81\x03"x"',
            b'\x81\x03"x"',
        ]


def test_deliver_goes_on_where_a_middleware_stops_the_message() -> None:
    class NotFirst(Middleware):
        def on_send(self, msg: Any, client: Any) -> Any:
            return self.STOP if client.session.get("busy") else msg

    with Driven() as driven:
        driven.server.use(NotFirst())
        _, (second, best) = opened(driven, 2)
        second.subscribe("work")
        best.subscribe("work", priority=1)
        assert driven.server.deliver("work", "x") is best
        best.session["busy"] = True
        assert driven.server.deliver("work", "x") is second
        second.session["busy"] = True
        assert driven.server.deliver("work", "x") is None


def test_client_that_is_closing_subscribes_to_nothing() -> None:
    with Driven() as driven:
        peer = driven.open()
        client = driven.handler.client()
        client.close()
        client.subscribe("news")
        assert driven.server.members("news") == []
        assert client.topics == frozenset()
        assert driven.server.publish("news", "x") == 0
        assert peer.read_close() == (1000, "")
