"""A message to many is framed once; each outbox goes on as with a copy of its own."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from harness import BINARY, PING, TEXT, Driven, Peer, Recorder, small_buffers

from simple_ws.testing import TestServer

MANY = 6


@contextmanager
def many(**options: Any) -> Iterator[tuple[Driven, list[Peer], list[Any]]]:
    """A server with some peers, subscribed to "t"."""
    with Driven(**options) as driven:
        peers = [driven.open() for _ in range(MANY)]
        clients = list(driven.handler.clients)
        for client in clients:
            client.subscribe("t")
        driven.server.publish("t", "first")  # from now on by the byte path
        for peer in peers:
            assert peer.read_message() == "first"
        yield driven, peers, clients


@pytest.mark.parametrize("size", [0, 1, 125, 126, 8192, 8193, 16384, 16385, 70_000])
@pytest.mark.parametrize("kind", [str, bytes])
def test_all_get_it(size: int, kind: type) -> None:
    msg = "x" * size if kind is str else b"x" * size
    with many() as (driven, peers, _):
        assert driven.server.publish("t", msg) == MANY
        assert [peer.read_message() for peer in peers] == [msg] * MANY


def test_others_messages_of_the_turn_come_behind() -> None:
    with many() as (driven, peers, clients):
        assert driven.server.publish("t", "a") == MANY
        assert driven.server.publish("t", b"b" * 300) == MANY
        for index, client in enumerate(clients):
            client.write_message(f"own {index}")
        assert driven.server.publish("t", "c") == MANY
        for index, peer in enumerate(peers):
            got = [peer.read_message() for _ in range(4)]
            assert got == ["a", b"b" * 300, f"own {index}", "c"]


def test_what_waits_already_comes_first() -> None:
    with many() as (driven, peers, clients):
        clients[2].write_message("own")
        assert driven.server.publish("t", "all") == MANY
        assert [peers[2].read_message() for _ in range(2)] == ["own", "all"]
        assert peers[3].read_message() == "all"


def test_control_frames_come_behind() -> None:
    with many() as (driven, peers, clients):
        driven.server.publish("t", "all")
        clients[0].ping("p")
        clients[1].close(4000, "enough")
        assert peers[0].read_message() == "all"
        assert peers[0].read_frame() == (0x80 | PING, b"p")
        assert peers[1].read_message() == "all"
        assert peers[1].read_frame()[1] == b"\x0f\xa0enough"


def test_counts_are_those_of_a_message() -> None:
    with many() as (driven, _, clients):
        before = [(c.messages_sent, c.bytes_sent) for c in clients]
        driven.server.publish("t", "x" * 200)
        assert {client.buffered_amount for client in clients} == {204}
        assert driven.reactor.buffered == 204 * MANY
        driven.turn()
        assert {client.buffered_amount for client in clients} == {0}
        assert driven.reactor.buffered == 0
        after = [(c.messages_sent, c.bytes_sent) for c in clients]
        assert after == [(count + 1, size + 204) for count, size in before]


def test_frames_have_the_size_of_the_handler_of_each() -> None:
    small, large = Recorder(max_frame_size=100), Recorder(max_frame_size=1000)
    with TestServer(small) as kit:
        kit.server.mount("/large", large)
        peers = [kit.connect("/") for _ in range(3)]
        peers += [kit.connect("/large") for _ in range(3)]
        for client in kit.server.clients:
            client.subscribe("t")
        for text in ("a" * 250, "b" * 250):
            assert kit.server.publish("t", text) == 6
            assert [peer.recv() for peer in peers] == [text] * 6
        sent = {client.bytes_sent for client in small.clients}
        assert sent.isdisjoint(client.bytes_sent for client in large.clients)


def test_receivers_that_end_before_it_leaves() -> None:
    with many() as (driven, peers, clients):
        driven.server.publish("t", "x" * 100)
        clients[0]._abandon()
        peers[1].close()
        driven.turn(3)
        assert peers[2].read_message() == "x" * 100
        assert driven.reactor.buffered == 0
        del clients[:]
        gc.collect()


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_slow_receivers_get_all_in_order(opcode: int) -> None:
    count, size = 60, 4000
    with many(write_limit=1 << 20) as (driven, peers, clients):
        for client in clients:
            small_buffers(client._sock)
        messages = [f"{number:06}" + "x" * size for number in range(count)]
        for number, text in enumerate(messages):
            msg = text if opcode == TEXT else text.encode()
            assert driven.server.publish("t", msg) == MANY
            if number % 3 == 0:
                driven.turn()
        for peer in peers:
            got = [peer.read_message() for _ in range(count)]
            assert got == [m if opcode == TEXT else m.encode() for m in messages]


def test_oldest_of_a_slow_receiver_are_dropped_whole() -> None:
    options = {"write_limit": 20_000, "slow_consumer": "drop_old"}
    with many(**options) as (driven, peers, clients):
        for client in clients:
            small_buffers(client._sock)
        messages = [f"{number:06}" + "x" * 3000 for number in range(80)]
        for text in messages:
            driven.server.publish("t", text)
            driven.turn()
        for peer in peers:
            got = [peer.read_message()]
            while got[-1] != messages[-1]:
                got.append(peer.read_message())
            assert got == sorted(got)
            assert set(got) <= set(messages)
