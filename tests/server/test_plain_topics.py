"""Topics that the byte path publishes to by itself, and what ends that.

Each test publishes once, so that the receivers are remembered, then changes something.
"""

from __future__ import annotations

from typing import Any

import pytest
from harness import Driven, Recorder, open_peer, running
from live_peer import LivePeer, allow

from simple_ws import Client, Middleware, Server
from simple_ws.constants import Delivered
from simple_ws.testing import TestServer


def opened(driven: Driven, count: int) -> tuple[list[Any], list[Any]]:
    """So many peers, and their clients."""
    peers = [driven.open() for _ in range(count)]
    return peers, list(driven.handler.clients)[-count:]


def subscribed(driven: Driven, count: int) -> tuple[list[Any], list[Any]]:
    """So many peers and their clients; the topic "t" is remembered, and nothing else
    is read."""
    peers, clients = opened(driven, count)
    for client in clients:
        client.subscribe("t")
    assert driven.server.publish("t", "first") == count
    assert [peer.read_message() for peer in peers] == ["first"] * count
    assert "t" in driven.server._plain
    return peers, clients


def test_publish_counts_and_may_be_returned() -> None:
    class Repeating(Recorder):
        def on_message(self, msg: Any, client: Any) -> Any:
            return client._host.publish("t", msg)

    with Driven(Repeating()) as driven:
        peers, clients = subscribed(driven, 2)
        taken = driven.server.publish("t", b"second")
        assert (taken, type(taken)) == (2, Delivered)
        assert [peer.read_message() for peer in peers] == [b"second"] * 2
        peers[0].text("third")
        assert [peer.read_message() for peer in peers] == ["third"] * 2
        clients[0].close()
        assert driven.server.publish("t", "fourth") == 1


def test_subscribers_that_come_and_go_are_seen() -> None:
    with Driven() as driven:
        peers, clients = subscribed(driven, 2)
        (late,), (client,) = opened(driven, 1)
        client.subscribe("t")
        assert driven.server.publish("t", "a") == 3
        clients[0].unsubscribe("t")
        assert driven.server.publish("t", "b") == 2
        peers[1].close()
        driven.turn(2)
        assert driven.server.publish("t", "c") == 1
        assert [late.read_message() for _ in range(3)] == ["a", "b", "c"]
        client.unsubscribe("t")
        assert driven.server.publish("t", "d") == 0
        assert not driven.server._plain


@pytest.mark.parametrize("identity", ["me", 7, b"me", ("a", 1)])
def test_send_to_sees_connections_that_come_and_go(identity: Any) -> None:
    with Driven() as driven:
        peers, clients = opened(driven, 3)
        send = driven.server.send_to
        for client in clients[:2]:
            client.bind(identity)
        assert [send(identity, "a"), send(identity, b"b")] == [2, 2]
        assert type(send(identity, "c")) is Delivered
        assert [peers[0].read_message() for _ in "abc"] == ["a", b"b", "c"]
        clients[2].bind(identity)
        assert send(identity, "d") == 3
        clients[0].bind("other")
        assert send(identity, "e") == 2
        peers[1].close()
        driven.turn(2)
        assert send(identity, "f") == 1
        clients[2].bind(None)
        assert send(identity, "g") == 0
        assert [peers[2].read_message() for _ in "def"] == ["d", "e", "f"]
        assert not driven.server._plain_identities


def test_send_to_notices_a_middleware() -> None:
    class Shouting(Middleware):
        def on_send(self, msg: Any, client: Client) -> Any:
            return msg.upper()

    with Driven() as driven:
        (peer,), (client,) = opened(driven, 1)
        client.bind("me")
        assert driven.server.send_to("me", "a") == 1
        assert driven.server._plain_identities
        driven.server.use(Shouting())
        assert not driven.server._plain_identities
        driven.server.send_to("me", "b")
        assert peer.read_message() == "a"


def test_broadcast_sees_clients_that_come_and_go() -> None:
    with Driven() as driven:
        peers, _ = opened(driven, 2)
        assert [driven.server.broadcast("a") for _ in range(2)] == [2, 2]
        assert type(driven.server.broadcast("b")) is Delivered
        opened(driven, 1)
        assert driven.server.broadcast("c") == 3
        peers[0].close()
        driven.turn(2)
        assert driven.server.broadcast("d") == 2


def test_clients_publish_to_all_but_themselves() -> None:
    with Driven() as driven:
        peers, clients = subscribed(driven, 3)
        assert clients[1].publish("t", {"a": 1}) == 2
        assert clients[1].publish("t", "b") == 2
        assert peers[0].read_message() == peers[2].read_message() == '{"a":1}'
        assert clients[0].publish("t", "c") == 2
        assert peers[1].read_message() == "c"
        assert type(clients[0].publish("t", "d")) is Delivered


def test_some_are_left_out() -> None:
    with Driven() as driven:
        peers, clients = subscribed(driven, 2)
        assert driven.server.publish("t", "a", exclude=[clients[0]]) == 1
        assert driven.server.publish("t", "b", exclude=[]) == 2
        assert driven.server.publish("t", "c", exclude=None) == 2  # type: ignore[arg-type]
        assert peers[1].read_message() == "a"
        assert peers[0].read_message() == "b"


@pytest.mark.parametrize("wrong", [object(), 1, "\ud800", {"a": object()}])
def test_wrong_messages_raise_the_same(wrong: object) -> None:
    with Driven() as driven:
        _, clients = opened(driven, 1)
        clients[0].subscribe("t")
        errors = []
        for publish in (driven.server.publish, driven.server.publish):
            with pytest.raises((TypeError, ValueError)) as caught:
                publish("t", wrong)
            errors.append((type(caught.value), str(caught.value)))
            assert driven.server.publish("t", "good") == 1
        assert errors[0] == errors[1]


@pytest.mark.parametrize("topic", [None, 1, b"t"])
def test_topic_must_be_a_str_however_many_subscribers(topic: Any) -> None:
    with Driven() as driven:
        _, clients = subscribed(driven, 1)
        driven.server.broadcast("all")
        with pytest.raises(TypeError, match="topic must be a str"):
            driven.server.publish(topic, "a")
        with pytest.raises(TypeError, match="topic must be a str"):
            clients[0].publish(topic, "a")


def test_key_is_refused() -> None:
    with Driven() as driven:
        _, clients = subscribed(driven, 1)
        for publish in (driven.server.publish, clients[0].publish):
            with pytest.raises(ValueError, match="has none"):
                publish("t", "a", key="k")


def test_middleware_sees_what_is_published_from_now_on() -> None:
    class Shouting(Middleware):
        def on_send(self, msg: Any, client: Any) -> Any:
            return msg.upper()

    with Driven() as driven:
        subscribed(driven, 1)
        driven.server.broadcast("all")
        driven.server.use(Shouting())
        peers, clients = opened(driven, 1)
        clients[0].subscribe("t")
        driven.server.publish("t", "quiet")
        driven.server.broadcast("low")
        assert [peers[0].read_message() for _ in range(2)] == ["QUIET", "LOW"]
        assert not driven.server._plain


def test_strangers_get_nothing() -> None:
    with Driven() as driven:
        _, clients = subscribed(driven, 2)
        driven.server.broadcast("all")
        driven.server._add_stranger(clients[0])
        assert driven.server.publish("t", "a") == 1
        assert driven.server.broadcast("b") == 1
        assert not driven.server._plain


def test_clients_with_a_write_message_of_their_own_use_it() -> None:
    class Shouting(Client):
        def write_message(self, msg: Any, binary: bool | None = None) -> Any:
            return super().write_message(msg.upper(), binary)

    class Handler(Recorder):
        client_class = Shouting

    with Driven(Handler()) as driven:
        peers, clients = opened(driven, 1)
        clients[0].subscribe("t")
        for _ in range(2):
            assert driven.server.publish("t", "a") == 1
            assert peers[0].read_message() == "A"


def test_server_with_a_publish_of_its_own_is_asked() -> None:
    class Noting(Server):
        def publish(self, topic: str, msg: object, *args: Any, **options: Any) -> int:
            noted.append((topic, msg))
            return super().publish(topic, msg, *args, **options)

    noted: list[Any] = []
    server, handler = Noting("127.0.0.1", 0), Recorder()
    server.mount("/", handler)
    with TestServer(server) as kit:
        peers = [kit.connect("/") for _ in range(2)]
        for index in range(2):
            handler.client(index).subscribe("t")
        for msg in ("a", "b"):
            assert handler.client(0).publish("t", msg) == 1
            assert peers[1].recv() == msg
    assert noted == [("t", "a"), ("t", "b")]


def test_other_threads_are_queued() -> None:
    handler = Recorder()
    with running(handler) as server:
        peers = [open_peer(server) for _ in range(2)]
        clients = [handler.client(index) for index in range(2)]
        for client in clients:
            server.subscribe("t", client)
        server.reactor.call_threadsafe(lambda: server.publish("t", "first"))
        assert [peer.read_message() for peer in peers] == ["first"] * 2
        assert "t" in server._plain
        assert server.publish("t", "second") == 0
        assert clients[0].publish("t", "third") == 0
        assert [peers[1].read_message() for _ in range(2)] == ["second", "third"]
        for peer in peers:
            peer.close()


def test_live_clients_get_it_from_now_on() -> None:
    server, handler = Server("127.0.0.1", 0, ping=False), Recorder()
    server.mount("/", handler)
    server.live("/live", authorize=allow)
    with TestServer(server) as kit:
        peer = kit.connect("/")
        handler.client().subscribe("t")
        assert server.publish("t", "a") == 1
        assert "t" in server._plain
        live = LivePeer(kit)
        live.connect()
        live.ask("subscribe", channel="t")
        assert server.publish("t", "b") == 2
        assert live.publications() == [("b", 0)]
        assert [peer.recv() for _ in range(2)] == ["a", "b"]


def test_what_is_remembered_keeps_no_client_alive() -> None:
    with Driven() as driven:
        peers, _ = subscribed(driven, 2)
        driven.server.broadcast("all")
        for peer in peers:
            peer.close()
        driven.turn(3)
        assert not driven.server._plain
