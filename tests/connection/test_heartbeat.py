"""The heartbeat of connections whose handler does not want to be told of it.

The extension does it without Python code then; what it does, and what it leaves behind,
is the same in both backends. Handlers with an `on_ping` are in `test_client.py`.
"""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from typing import Any

import pytest
from harness import PING, PONG, TEXT, Driven, Peer, Recorder, frame, small_buffers

from simple_ws import Client, WebSocket
from simple_ws.constants import MOST_SWEPT
from simple_ws.testing import TestServer

FIN = 0x80
INTERVAL, TIMEOUT = 5.0, 20.0
#: Seconds by which a ping may be later than its interval.
LATE = 1.0


class Quiet(WebSocket):
    """Notes messages and ends, and nothing of pings."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.messages: list[Any] = []
        self.ends: list[Any] = []

    def on_message(self, msg: Any, client: Client) -> None:
        self.messages.append(msg)

    def on_close(self, client: Client) -> None:
        self.ends.append((client.close_code, client.close_reason))


def driven(**options: Any) -> Driven:
    options = {"ping_interval": INTERVAL, "ping_timeout": TIMEOUT, **options}
    return Driven(Quiet(), **options)


def only(server: Driven) -> Client:
    (client,) = server.handler.clients
    return client  # type: ignore[no-any-return]


def pass_time(server: Driven, seconds: float) -> None:
    """Let everything happen when it is due."""
    TestServer.advance(server, seconds)


def pinged(server: Driven, peer: Peer) -> bytes:
    """Let a ping become due; its payload."""
    server.advance(INTERVAL + LATE)
    first, payload = peer.read_frame()
    assert first == FIN | PING
    return payload


def test_silent_client_is_pinged_and_its_pong_tells_the_latency() -> None:
    with driven() as server:
        peer = server.open()
        client = only(server)
        assert (client.latency, client.ping_payload, client.pong_payload) == (
            None,
            b"",
            b"",
        )
        server.advance(INTERVAL - 0.1)
        assert peer.nothing_waits()
        payload = pinged(server, peer)
        assert payload
        assert (client.ping_payload, client.pong_payload) == (payload, b"")
        server.clock.now += 0.25
        peer.send(PONG, payload)
        server.turn()
        assert (client.latency, client.pong_payload) == (0.25, payload)
        assert client.ping_payload == payload
        assert not client._pings


def test_each_ping_has_a_payload_of_its_own() -> None:
    with driven() as server:
        peer = server.open()
        payloads = []
        for _ in range(5):
            payloads.append(pinged(server, peer))
            peer.send(PONG, payloads[-1])
            server.turn()
        assert len(set(payloads)) == 5
        assert only(server).pong_payload == payloads[-1]


def test_silent_client_is_closed_within_the_documented_time() -> None:
    with driven() as server:
        peers = [server.open() for _ in range(40)]
        pass_time(server, INTERVAL + LATE)
        assert all(peer.read_frame()[0] == FIN | PING for peer in peers)
        pass_time(server, TIMEOUT - LATE - 0.1)
        assert len(server.handler.clients) == 40
        pass_time(server, LATE + 0.1)
        for peer in peers:
            code, reason = peer.read_close()
            assert (code, reason) == (
                1011,
                "no answer to a ping within ping_timeout 20 s",
            )


def test_message_is_a_sign_of_life_and_a_late_pong_still_counts() -> None:
    with driven() as server:
        peer = server.open()
        payload = pinged(server, peer)
        server.advance(4.0)
        peer.text("alive")
        server.turn()
        server.advance(2.0)  # it is looked at: no pong, but alive
        server.advance(INTERVAL + LATE)
        second = peer.read_frame()
        assert second[0] == FIN | PING
        assert server.handler.messages == ["alive"]
        peer.send(PONG, payload)
        server.turn()
        assert only(server).pong_payload == payload
        assert only(server).latency is not None
        assert only(server).latency > 10.0  # type: ignore[operator]
        assert list(only(server)._pings) == [second[1]]
        peer.send(PONG, second[1])
        server.turn()
        assert only(server).latency < 1.0  # type: ignore[operator]
        assert not only(server)._pings


def test_pings_of_the_user_and_of_the_heartbeat_are_answered_in_order() -> None:
    with driven() as server:
        peer = server.open()
        client = only(server)
        beat = pinged(server, peer)
        assert client.ping(b"mine")
        assert peer.read_frame() == (FIN | PING, b"mine")
        server.clock.now += 0.5
        peer.send(PONG, b"mine")  # answers the earlier one, too
        server.turn()
        assert (client.latency, client.pong_payload) == (0.5, b"mine")
        peer.send(PONG, beat)
        server.turn()
        assert (client.latency, client.pong_payload) == (0.5, beat)
        assert not client._pings


@pytest.mark.parametrize("payload", [b"", b"00000000", b"never asked", b"x" * 125])
def test_pong_that_nobody_asked_for_answers_nothing(payload: bytes) -> None:
    with driven() as server:
        peer = server.open()
        beat = pinged(server, peer)
        peer.send(PONG, payload)
        server.turn()
        client = only(server)
        assert (client.latency, client.pong_payload) == (None, payload)
        peer.send(PONG, beat)
        server.turn()
        assert (client.latency, client.pong_payload) == (0.0, beat)


@pytest.mark.parametrize("payload", [b"", b"x", b"\x00\xff" * 62])
@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "bytewise"])
def test_ping_of_the_peer_is_answered(payload: bytes, pieces: bool) -> None:
    with driven() as server:
        peer = server.open()
        data = frame(TEXT, "a") + frame(PING, payload) + frame(TEXT, "b")
        for size in [1] * len(data) if pieces else [len(data)]:
            peer.write(data[:size])
            server.turn()
            data = data[size:]
        assert peer.read_frame() == (FIN | PONG, payload)
        assert server.handler.messages == ["a", "b"]
        assert only(server).ping_payload == payload


def test_ping_within_a_fragmented_message_is_answered() -> None:
    with driven() as server:
        peer = server.open()
        peer.write(frame(TEXT, "a", fin=False) + frame(PING, b"p") + frame(0, "b"))
        assert peer.read_frame() == (FIN | PONG, b"p")
        server.turn()
        assert server.handler.messages == ["ab"]


@pytest.mark.parametrize(
    "data",
    [
        frame(PING, b"x" * 126),
        frame(PING, b"x", fin=False),
        frame(PONG, b"x", rsv=4),
        bytes((FIN | PING, 1)) + b"x",
    ],
    ids=["too long", "fragmented", "reserved bit", "unmasked"],
)
def test_faulty_control_frame_fails_the_connection(data: bytes) -> None:
    with driven() as server:
        peer = server.open()
        peer.write(data)
        assert peer.read_close()[0] == 1002


def test_flood_of_pings_does_not_hold_up_others() -> None:
    with driven() as server:
        flood, other = server.open(), server.open()
        flood.write(frame(PING, b"") * 5000 + frame(PING, b"last"))
        other.text("me too")
        server.turn(2)
        assert server.handler.messages == ["me too"]
        # Of very many at once the last ones are answered (§5.5.3).
        frames = [(FIN | PONG, b"")]
        while frames[-1] == (FIN | PONG, b""):
            frames.append(flood.read_frame())
        assert frames[-1] == (FIN | PONG, b"last")
        assert len(frames) > 100


def test_pings_of_a_client_that_does_not_read_take_no_memory() -> None:
    with driven() as server:
        peer = server.open(wrap=small_buffers)
        client = only(server)
        client.write_message(b"x" * 2**19)
        server.turn()
        waiting = client.buffered_amount
        for _ in range(300):
            peer.send(PING, b"p" * 125)
            server.turn()
        assert waiting <= client.buffered_amount <= waiting + 2 * 127


def test_callback_that_is_set_later_is_told() -> None:
    told: list[str] = []
    with driven() as server:
        peer = server.open()
        peer.send(PONG, pinged(server, peer))
        server.turn()
        server.handler.on_ping = lambda client: told.append("ping")
        payload = pinged(server, peer)
        assert told == ["ping"]
        del server.handler.on_ping
        server.handler.on_pong = lambda client: told.append("pong")
        peer.send(PONG, payload)
        server.turn()
        assert told == ["ping", "pong"]
        assert only(server).pong_payload == payload


def test_ping_waits_behind_output_and_a_slow_peer_is_not_dead() -> None:
    with driven() as server:
        peer = server.open(wrap=small_buffers)
        client = only(server)
        client.write_message(b"x" * 2**19)
        server.turn()
        assert client.buffered_amount
        server.advance(INTERVAL + LATE)
        assert peer.read_message() == b"x" * 2**19
        assert peer.read_frame()[0] == FIN | PING
        assert client.is_open()


def test_options_that_are_changed_hold_from_the_next_look() -> None:
    with driven() as server:
        peer = server.open()
        server.handler.ping_interval = 60.0
        server.advance(INTERVAL + LATE)
        assert peer.nothing_waits()
        server.handler.ping = False
        server.advance(120.0)
        assert peer.nothing_waits()


def test_idle_timeout_holds_without_a_heartbeat() -> None:
    with driven(ping=False, idle_timeout=10) as server:
        peer = server.open()
        server.advance(9.0)
        peer.send(PONG, b"no message")
        server.turn()
        server.advance(1.0 + LATE)
        assert peer.read_close() == (1001, "no message within idle_timeout 10 s")


# --- Very many -----------------------------------------------------------------------


def pings_by_moment(
    server: Driven, peers: list[Peer], seconds: float
) -> Counter[float]:
    """When how many are pinged; all of them answer."""
    seen: Counter[float] = Counter()
    end = server.clock.now + seconds
    while server.clock.now < end:
        server.advance(1 / 32)
        for peer in peers:
            if not peer.nothing_waits():
                peer.send(PONG, peer.read_frame()[1])
                seen[server.clock.now] += 1
    return seen


def test_clients_that_came_together_are_pinged_apart() -> None:
    with driven() as server:
        peers = [server.open() for _ in range(64)]
        came = server.clock.now
        first = pings_by_moment(server, peers, INTERVAL + LATE)
        assert sum(first.values()) == 64
        assert max(first.values()) <= 4
        assert min(first) >= came + INTERVAL
        assert max(first) <= came + INTERVAL + LATE
        pings_by_moment(server, peers, 8 * (INTERVAL + LATE))
        later = pings_by_moment(server, peers, INTERVAL)
        # They drift apart, until their pings fill the whole interval.
        assert max(later) - min(later) > 0.8 * INTERVAL


def test_one_turn_pings_a_bounded_number() -> None:
    with driven() as server:
        peers = [server.open() for _ in range(3 * MOST_SWEPT)]
        server.clock.now += INTERVAL + LATE
        counts = []
        for _ in range(4):
            before = sum(peer.nothing_waits() for peer in peers)
            server.turn()
            counts.append(before - sum(peer.nothing_waits() for peer in peers))
        assert sum(counts) == len(peers)
        assert max(counts) <= MOST_SWEPT


def test_clients_that_leave_are_out_of_the_wheel() -> None:
    with driven() as server:
        peers = [server.open() for _ in range(10)]
        wheel = server.reactor.wheel
        assert len(wheel) == 10
        ghosts = [weakref.ref(client) for client in server.handler.clients]
        for peer in peers[::2]:
            peer.leave()
        server.turn(2)
        assert len(wheel) == 5
        pass_time(server, 60.0)  # the others are dead, and their sockets closed
        assert len(wheel) == 0
        gc.collect()
        assert not any(ghost() for ghost in ghosts)


def test_handler_that_wants_to_be_told_is() -> None:
    with Driven(Recorder(), ping_interval=INTERVAL) as server:
        peer = server.open()
        payload = pinged(server, peer)
        peer.send(PONG, payload)
        server.turn()
        assert server.handler.of("ping") == server.handler.of("pong") == [payload]
