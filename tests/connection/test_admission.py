"""Refusals before the upgrade: connections by address, handshakes by time."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from harness import (
    TEXT,
    Clock,
    Driven,
    Peer,
    Recorder,
    close_frame,
    connect,
    open_peer,
    request,
    running,
)

from simple_ws import Client, Middleware, Response
from simple_ws.connection.admission import Admission, retry_after
from simple_ws.connection.options import Options
from simple_ws.connection.topics import Group
from simple_ws.errors import HandshakeError

V4 = ("192.0.2.1", 12345)


def gate(clock: Clock | None = None, **options: Any) -> Admission:
    return Admission(Options(**options), clock or Clock())


def verdict(gate: Admission, address: Any = V4) -> int | None:
    """Status of a refusal that says when to come again, or None."""
    try:
        gate.check(address)
    except HandshakeError as refusal:
        return refusal.status if "Retry-After" in dict(refusal.headers) else 0
    return None


def come(driven: Driven, address: Any = V4, path: str = "/") -> Peer:
    """A handshake from an address, answered or not."""
    theirs, ours = socket.socketpair()
    ours.setblocking(False)
    driven.server._on_accept(ours, address)
    peer = Peer(theirs, driven.turn)
    driven._peers.append(peer)
    peer.write(request(path))
    driven.turn(2)
    peer.head = peer.read_head()
    return peer


def status_of(peer: Peer) -> int:
    return int(peer.head.split()[1])


# --- By address ----------------------------------------------------------------------


def test_as_many_connections_of_an_address_as_allowed_and_not_one_more() -> None:
    door = gate(max_connections_per_ip=3)
    for _ in range(3):
        assert verdict(door) is None
        door.enter(V4)
    assert verdict(door) == 429
    assert verdict(door, ("192.0.2.2", 12345)) is None
    door.leave(V4)
    assert verdict(door) is None


def test_without_the_option_nobody_is_counted() -> None:
    door = gate()
    for _ in range(1000):
        assert verdict(door) is None
        door.enter(V4)
    assert door._hosts == {}
    door.leave(V4)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("not:an:address", "not:another", False),
    ],
)
def test_address_of_ipv6_counts_by_its_network(
    one: str, other: str, same: bool
) -> None:
    """A single customer has 2**64 addresses."""
    door = gate(max_connections_per_ip=1)
    door.enter((one, 1))
    assert verdict(door, (other, 2)) == (429 if same else None)
    door.leave((one, 1))
    assert door._hosts == {}


@pytest.mark.parametrize("address", ["", "/run/peer.sock", b"\0abstract", None])
def test_peers_of_a_unix_socket_have_no_address_and_are_not_counted(
    address: Any,
) -> None:
    door = gate(max_connections_per_ip=1)
    for _ in range(5):
        assert verdict(door, address) is None
        door.enter(address)
    assert door._hosts == {}
    door.leave(address)


# --- Every kind of end gives the place back ------------------------------------------


def by_peer(driven: Driven, peer: Peer, client: Client) -> None:
    peer.write(close_frame(1000))


def by_us(driven: Driven, peer: Peer, client: Client) -> None:
    client.close()
    driven.turn()
    peer.write(close_frame(1000))


def by_us_without_an_answer(driven: Driven, peer: Peer, client: Client) -> None:
    client.close()
    driven.advance(1.0)


def by_termination(driven: Driven, peer: Peer, client: Client) -> None:
    client.terminate()


def by_end(driven: Driven, peer: Peer, client: Client) -> None:
    peer.close()


def by_fault(driven: Driven, peer: Peer, client: Client) -> None:
    peer.write(b"\x81\x02hi")


def by_silence(driven: Driven, peer: Peer, client: Client) -> None:
    driven.advance(6.0)
    driven.advance(25.0)
    driven.advance(2.0)


def by_rate(driven: Driven, peer: Peer, client: Client) -> None:
    peer.write(b"\x81\x80mask" * 10)


def by_stop(driven: Driven, peer: Peer, client: Client) -> None:
    driven.stop_begins(0.5)
    driven.advance(1.0)
    driven.tear_down()


ENDS = [
    by_peer,
    by_us,
    by_us_without_an_answer,
    by_termination,
    by_end,
    by_fault,
    by_silence,
    by_rate,
    by_stop,
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_place_is_free_again_after_every_kind_of_end(
    end: Callable[[Driven, Peer, Client], None],
) -> None:
    with Driven(max_connections_per_ip=1, message_rate=(1, 5)) as driven:
        peer = come(driven)
        assert status_of(peer) == 101
        assert status_of(come(driven)) == 429
        end(driven, peer, driven.handler.client())
        if end is not by_stop:
            driven.turn(3)
        assert driven.handler.names.count("close") == 1
        assert driven.server._admission._hosts == {}
        if end is not by_stop:
            assert status_of(come(driven)) == 101


@pytest.mark.parametrize("act", ["close", "terminate", "raise", "close and terminate"])
def test_place_of_a_client_that_ends_in_on_open_is_free_again(act: str) -> None:
    class Bouncer(Recorder):
        def on_open(self, client: Client) -> None:
            super().on_open(client)
            if "close" in act:
                client.close()
            if "terminate" in act:
                client.terminate()
            if act == "raise":
                raise RuntimeError

    with Driven(Bouncer(), max_connections_per_ip=2) as driven:
        for number in range(5):
            if act in ("close", "raise"):
                assert status_of(come(driven)) == 101
            else:
                theirs, ours = socket.socketpair()
                ours.setblocking(False)
                driven.server._on_accept(ours, V4)
                theirs.send(request())
                driven.turn(2)
                theirs.close()
            driven.advance(2.0)
            assert driven.server._admission._hosts == {}
            assert driven.handler.names.count("close") == number + 1


def test_handshakes_that_come_to_nothing_take_no_place() -> None:
    class Picky(Recorder):
        def on_request(self, request: Any) -> Any:
            path = request.path
            if path == "/raise":
                raise RuntimeError
            return Response(403) if path == "/no" else None

    starts: list[tuple[bytes, bool]] = [
        (b"", True),  # connected, and gone
        (request()[:50], True),  # gone half-way
        (request("/no"), False),
        (request("/raise"), False),
        (b"GET / HTTP/1.1\r\n\r\n", False),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", True),
    ]
    with Driven(Picky(), max_connections_per_ip=1) as driven:
        for data, leaves in starts:
            peer = driven.join()
            peer.write(data)
            driven.turn(3)
            if leaves:
                peer.close()
            driven.turn(3)
            assert driven.server._admission._hosts == {}
        assert status_of(come(driven)) == 101
        assert driven.server._admission._hosts == {"192.0.2.1": 1}


def test_peer_that_leaves_while_its_handshake_is_answered_leaves_no_trace() -> None:
    with Driven(max_connections_per_ip=1) as driven:
        peer = driven.join()
        peer.write(request())
        peer.close()
        driven.turn(5)
        assert driven.handler.names == ["open", "close"]
        assert driven.server._admission._hosts == {}


def test_over_tcp_the_place_of_a_reset_connection_is_free_again() -> None:
    handler = Recorder()
    with running(handler, max_connections_per_ip=1) as server:
        for number in range(3):
            peer = open_peer(server)
            with connect(server) as second:
                second.write(request())
                assert second.read_head().startswith(b"HTTP/1.1 429 ")
            peer.reset()
            handler.wait_for("close", number + 1)


# --- By time -------------------------------------------------------------------------


def test_handshakes_beyond_the_rate_are_refused_until_time_has_passed() -> None:
    clock = Clock()
    door = gate(clock, handshake_rate=(2.0, 5.0))
    assert [verdict(door) for _ in range(6)] == [None] * 5 + [503]
    clock.now += 0.49
    assert verdict(door) == 503
    clock.now += 0.02
    assert verdict(door) is None
    assert verdict(door) == 503
    clock.now += 1000.0  # no more than the burst is saved
    assert [verdict(door) for _ in range(6)] == [None] * 5 + [503]


def test_address_that_is_full_does_not_use_up_the_rate_of_all() -> None:
    door = gate(max_connections_per_ip=1, handshake_rate=(1.0, 2.0))
    assert verdict(door) is None
    door.enter(V4)
    assert [verdict(door) for _ in range(100)] == [429] * 100
    assert verdict(door, ("192.0.2.2", 1)) is None


def test_handshake_rate_of_a_server() -> None:
    with Driven(handshake_rate=(1.0, 2.0)) as driven:
        assert [status_of(come(driven)) for _ in range(3)] == [101, 101, 503]
        driven.advance(1.0)
        assert status_of(come(driven)) == 101


# --- By number -----------------------------------------------------------------------


@pytest.mark.parametrize("where", ["server", "handler"])
def test_max_connections_is_kept_and_a_place_that_is_left_is_given_again(
    where: str,
) -> None:
    limit = {"max_connections": 2}
    handler = Recorder(**(limit if where == "handler" else {}))
    with Driven(handler, **(limit if where == "server" else {})) as driven:
        first = come(driven)
        assert [status_of(come(driven)) for _ in range(2)] == [101, 503]
        first.close()
        driven.turn(2)
        assert [status_of(come(driven)) for _ in range(2)] == [101, 503]


class Other(Recorder):
    pass


def test_handler_has_limits_by_address_of_its_own() -> None:
    handler = Recorder(max_connections_per_ip=1)
    with Driven(handler, max_connections_per_ip=3) as driven:
        driven.server.mount("/other", Other())
        first = come(driven)
        assert [status_of(first), status_of(come(driven))] == [101, 429]
        assert [status_of(come(driven, path="/other")) for _ in range(3)] == [
            101,
            101,
            429,
        ]
        assert status_of(come(driven, ("192.0.2.7", 1))) == 101
        first.close()
        driven.turn(2)
        assert status_of(come(driven)) == 101
        # Who is in is counted by a limit that comes later.
        handler.max_connections_per_ip = 2
        assert status_of(come(driven)) == 429  # the server's
        assert [status_of(come(driven, ("192.0.2.7", 1))) for _ in range(2)] == [
            101,
            429,
        ]
    assert handler._admission is not None
    assert handler._admission._hosts == {}


def test_limit_that_another_thread_sets_counts_from_the_next_turn_on() -> None:
    """Counted in the loop's thread, where nobody leaves in the middle of it."""
    handler = Recorder()
    with Driven(handler) as driven:
        first = come(driven)
        assert status_of(first) == 101

        def limit() -> None:
            handler.max_connections_per_ip = 1

        setter = threading.Thread(target=limit)
        setter.start()
        setter.join()
        assert handler._admission is None
        first.close()
        driven.turn(2)
        assert handler.names == ["open", "close"]
        assert [status_of(come(driven)) for _ in range(2)] == [101, 429]


def test_limit_of_a_handler_may_be_an_attribute_of_its_class() -> None:
    class Narrow(Recorder):
        max_connections_per_ip = 1

    with Driven(Narrow()) as driven:
        driven.server.use(Middleware())
        assert [status_of(come(driven)) for _ in range(2)] == [101, 429]


def test_handler_has_a_rate_of_its_own_and_leaves_that_of_all_alone() -> None:
    with Driven(Recorder(handshake_rate=(1, 1)), handshake_rate=(0.1, 3)) as driven:
        driven.server.mount("/other", Other())
        assert [status_of(come(driven)) for _ in range(5)] == [101, 503, 503, 503, 503]
        assert [status_of(come(driven, path="/other")) for _ in range(3)] == [
            101,
            101,
            503,
        ]


def test_no_room_is_said_for_a_group_that_is_full() -> None:
    door = gate()
    clients: Group[Any] = Group()
    door.check_room(clients, 1)
    door.check_room(clients, None)
    clients.add(object())
    with pytest.raises(HandshakeError, match="full") as refusal:
        door.check_room(clients, 1)
    assert refusal.value.status == 503


# --- What the refused are told -------------------------------------------------------


def test_refused_are_told_to_come_again_at_different_times() -> None:
    told = [retry_after() for _ in range(300)]
    assert {name for name, _ in told} == {"Retry-After"}
    assert {int(value) for _, value in told} == set(range(1, 11))


@pytest.mark.parametrize(
    "options",
    [{"max_connections": 0}, {"handshake_rate": (1, 1)}, {"max_connections_per_ip": 1}],
)
def test_every_refusal_says_when_to_come_again(options: dict[str, Any]) -> None:
    with Driven(**options) as driven:
        come(driven)
        peer = come(driven)
        assert status_of(peer) in (429, 503)
        match = re.search(rb"\r\nRetry-After: (\d+)\r\n", peer.head)
        assert match
        assert 1 <= int(match[1]) <= 10


def test_refused_client_does_not_disturb_one_that_is_in() -> None:
    with Driven(max_connections_per_ip=1) as driven:
        peer = come(driven)
        for _ in range(20):
            come(driven)
        peer.send(TEXT, "still here")
        driven.turn()
        assert driven.handler.of("message") == ["still here"]
