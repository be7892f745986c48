"""What one turn of the loop costs: bounded for each connection and for all together.

Work is counted, never timed: the clock of these tests goes on by what was done (bytes
inflated, callbacks called).
"""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from harness import BINARY, PING, TEXT, Clock, Driven, Echo, Peer, Recorder, frame

from simple_ws.constants import LEAST_SHARE, LONGEST_SHARE, TURN

OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover"
#: Bytes of a message before it is compressed, and seconds of the clock for each byte.
PLAIN, SECONDS_PER_BYTE = 100_000, 1e-8


def bomb(plain: int = PLAIN) -> bytes:
    """A frame of a thousandth of the size of its message."""
    deflate = zlib.compressobj(9, wbits=-15)
    data = deflate.compress(bytes(plain)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return frame(BINARY, data[:-4], rsv=0x40)


class Counting(Recorder):
    """Counts bytes and calls; echoes text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.calls: dict[Any, int] = {}

    def on_message(self, msg: Any, client: Any) -> Any:
        self.calls[client] = self.calls.get(client, 0) + 1
        return msg if isinstance(msg, str) else None


def by_work(driven: Driven, per_byte: float, per_call: float = 0.0) -> None:
    """Have the server's clock go on by what it does, from now on."""
    counters, clock = driven.handler._counters, driven.clock
    start = clock.now

    def read(self: Clock) -> float:
        calls = counters.messages_received * per_call
        return start + counters.plain_received * per_byte + calls

    driven.clock.__class__ = type("WorkClock", (Clock,), {"__call__": read})


def attackers(driven: Driven, count: int, data: bytes) -> list[Peer]:
    peers = [driven.open("/", OFFER) for _ in range(count)]
    for peer in peers:
        peer.write(data)
    return peers


@pytest.mark.parametrize("count", [1, 30])
def test_bytes_inflated_in_a_turn_are_bounded_over_all_connections(count: int) -> None:
    """Whatever the number of connections: a turn, its run queue, and a message each."""
    with Driven(Counting()) as driven:
        attackers(driven, count, bomb() * 20)
        polite = driven.open()
        by_work(driven, SECONDS_PER_BYTE)
        counters = driven.handler._counters
        most = (TURN + LONGEST_SHARE) / SECONDS_PER_BYTE + 2 * PLAIN
        while counters.plain_received < 20 * count * PLAIN:
            before = counters.plain_received
            polite.text("me too")
            driven.turn(2)
            assert polite.read_now() == b"\x81\x06me too"
            assert 0 < counters.plain_received - before <= 2 * most


def test_first_burst_of_large_messages_keeps_nobody_waiting() -> None:
    """They are inflated in pieces: thirty at once are no line of thirty messages."""
    with Driven(Counting()) as driven:
        peers = attackers(driven, 30, b"")
        polite = driven.open()
        clients = list(driven.handler.clients)
        counters, clock = driven.handler._counters, driven.clock
        began = clock.now

        def read(self: Clock) -> float:
            unfinished = sum(client._protocol.buffered_input for client in clients)
            return began + (counters.plain_received + unfinished) * 5e-9

        clock.__class__ = type("WorkClock", (Clock,), {"__call__": read})
        for peer in peers:
            peer.write(bomb(2**20))
        polite.text("me too")
        while not (reply := polite.read_now()):
            driven.turn()
        assert reply == b"\x81\x06me too"
        assert clock() - began < 4 * TURN
        assert not counters.plain_received
        driven.until(lambda: counters.plain_received == 30 * 2**20)


def test_one_connection_has_two_milliseconds_and_the_message_that_ends_them() -> None:
    with Driven(Counting()) as driven:
        attackers(driven, 1, bomb() * 50)
        by_work(driven, SECONDS_PER_BYTE)
        counters = driven.handler._counters
        most = LONGEST_SHARE / SECONDS_PER_BYTE + PLAIN
        while counters.plain_received < 50 * PLAIN:
            before = counters.plain_received
            driven.turn()
            # Once when it is heard, and once from the run queue.
            assert counters.plain_received - before <= 2 * most


def test_nobody_starves_and_all_have_their_turn_in_order() -> None:
    """A hundred with two messages at a time that take longer than their share."""
    with Driven(Counting()) as driven:
        peers = [driven.open() for _ in range(100)]
        by_work(driven, 0.0, per_call=2 * LEAST_SHARE)
        for _ in range(3):
            for peer in peers:
                peer.write(frame(BINARY, b"x") * 9)
        calls = driven.handler.calls
        turns = 0
        while sum(calls.values()) < 2700:
            driven.turn()
            turns += 1
            assert turns < 300
            if len(calls) == 100:
                # What one is ahead of another: a share from each of two queues.
                assert max(calls.values()) - min(calls.values()) <= 27
        assert set(calls.values()) == {27}
        assert turns > 2700 * 2 * LEAST_SHARE / (2 * TURN) / 2


def test_turn_ends_when_it_is_used_up_and_goes_on_behind_timers_and_writes() -> None:
    """Callbacks of a millisecond for each of forty: a few are called in a turn."""
    with Driven(Counting()) as driven:
        peers = [driven.open() for _ in range(40)]
        driven.turn(2)  # epoll forgets who was ready
        by_work(driven, 0.0, per_call=0.001)
        due: list[float] = []
        driven.reactor.call_later(0.002, lambda: due.append(driven.clock()))
        for peer in peers:
            peer.text("x")
        order: list[int] = []
        for _ in range(40):
            driven.turn()
            answered = [n for n, peer in enumerate(peers) if peer.read_now()]
            assert len(answered) <= 8
            order += answered
        assert sorted(order) == list(range(40))
        assert order == sorted(order)
        assert len(due) == 1


def test_what_is_closed_while_it_waits_is_not_called() -> None:
    with Driven(Counting()) as driven:
        peers = [driven.open() for _ in range(40)]
        driven.turn(2)
        by_work(driven, 0.0, per_call=0.001)
        for peer in peers:
            peer.text("x")
        driven.turn()
        clients = list(driven.server.clients)
        for client in clients[20:]:
            client.terminate()
        others = [driven.open() for _ in range(20)]
        for other in others:
            other.text("y")
        driven.turn(40)
        assert driven.handler._counters.messages_received == 20 + 20
        assert all(client not in driven.handler.calls for client in clients[20:])
        assert all(other.read_now() == b"\x81\x01y" for other in others)


def test_client_that_ends_in_the_run_queue_is_left_alone() -> None:
    with Driven(Counting()) as driven:
        (peer,) = attackers(driven, 1, bomb() * 50)
        by_work(driven, SECONDS_PER_BYTE)
        driven.turn()
        (client,) = driven.reactor.run_queue
        client.terminate()
        driven.turn(3)
        assert not driven.reactor.run_queue
        assert driven.handler.names[-1] == "close"
        assert peer is not None


def test_inflating_is_not_blamed_on_the_callback(caplog: Any) -> None:
    with Driven(Counting()) as driven:
        attackers(driven, 1, bomb())
        by_work(driven, 1.0 / PLAIN)  # a second for a message
        driven.turn(2)
        assert driven.handler._counters.busy >= 1.0
        assert not caplog.records
        assert driven.server.stats()["slow_callbacks"] == 0


def test_inflating_of_fragments_is_not_blamed_on_it_either(caplog: Any) -> None:
    packed = bomb()
    with Driven(Counting()) as driven:
        attackers(driven, 1, bytes((packed[0] & 0x7F,)) + packed[1:] + frame(0, b""))
        by_work(driven, 1.0 / PLAIN)
        driven.turn(2)
        assert driven.handler.calls
        assert not caplog.records


def test_callback_that_is_slow_is_blamed_beside_inflating(caplog: Any) -> None:
    with Driven(Counting()) as driven:
        attackers(driven, 1, bomb())
        by_work(driven, 1.0 / PLAIN, per_call=0.5)
        driven.turn(2)
        (record,) = caplog.records
        assert "on_message" in record.getMessage()
        assert "0.50 s" in record.getMessage()


@pytest.mark.parametrize("kind", ["messages", "pings"])
def test_light_connections_stay_in_the_fast_lane(kind: str) -> None:
    """Who stays within its share is heard when it is ready, and queues nowhere."""
    opcode = TEXT if kind == "messages" else PING
    with Driven(Echo()) as driven:
        peer = driven.open()
        for _ in range(20):
            peer.write(frame(opcode, "x") * 5)
            driven.turn()
            assert not driven.reactor.run_queue
            assert len(peer.read_now()) == 15
