"""Peers that do not read, read slowly, or send more than their share.

The promise: output is limited for each client and for all; the server does not read
from a peer that does not read, and delivers everything in order once it does; no other
client is affected.
"""

from __future__ import annotations

import random
import socket
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from harness import (
    BINARY,
    DEADLINE,
    PING,
    PONG,
    TEXT,
    Clock,
    Driven,
    Echo,
    Peer,
    Recorder,
    Wrapped,
    close_frame,
    frame,
    open_peer,
    running,
    small_buffers,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from simple_ws import Client, SendStatus
from simple_ws.loop.reactor import unsent_by_system

FIN = 0x80
MIB = 2**20
DROPPED, SENT, BACKPRESSURE = SendStatus


def wrapped(sock: socket.socket) -> Any:
    """Not a plain socket: the extension asks it by its methods."""
    return Wrapped(small_buffers(sock))


both_kinds = pytest.mark.parametrize(
    "wrap", [small_buffers, wrapped], ids=["plain", "wrapped"]
)


def pattern(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


def push(driven: Driven, peer: Peer, data: bytes) -> bytes:
    """Have the peer send until the server reads no more; return what is left."""
    view, idle = memoryview(data), 0
    while view and idle < 20:
        try:
            view = view[peer.sock.send(view) :]
            idle = 0
        except BlockingIOError:
            idle += 1
        driven.turn()
    return bytes(view)


def exchange(
    driven: Driven, peer: Peer, data: bytes, count: int, reader: Deframer | None = None
) -> list[Any]:
    """Have the peer send and read at the same time; the messages that it reads."""
    received: list[Any] = []
    reader = reader or Deframer()
    view = memoryview(data)

    def step() -> bool:
        nonlocal view
        with suppress(BlockingIOError):
            view = view[peer.sock.send(view[:65536]) :] if view else view
        reader.feed(peer.read_now())
        received.extend(reader.messages())
        return len(received) >= count

    driven.until(step)
    assert not view
    return received


class Deframer:
    """Frames of a server, as they come in pieces."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, bytes]] = []
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 2:
            size, start = buffer[1], 2
            if size > 125:
                start = 4 if size == 126 else 10
                if len(buffer) < start:
                    return
                size = int.from_bytes(buffer[2:start], "big")
            if len(buffer) < start + size:
                return
            self.frames.append((buffer[0], bytes(buffer[start : start + size])))
            del buffer[: start + size]

    @property
    def rest(self) -> int:
        return len(self._buffer)

    def messages(self) -> list[bytes]:
        """Whole messages that have come since the last call, control frames left out.

        Control frames stand between messages here, never inside of one.
        """
        found, parts, used = [], [], 0
        for index, (first, payload) in enumerate(self.frames):
            if first & 0x08:
                used = index + 1 if not parts else used
                continue
            parts.append(payload)
            if first & FIN:
                found.append(b"".join(parts))
                parts, used = [], index + 1
        del self.frames[:used]
        return found


def fill(driven: Driven, client: Client, size: int = 2**18) -> bytes:
    """Write so much that the socket takes no more; return what was written."""
    data = pattern(1, size)
    assert client.write_message(data)
    driven.turn()
    assert 0 < client.buffered_amount < size + 500
    return data


# --- Who does not read is not heard --------------------------------------------------


@both_kinds
@pytest.mark.parametrize("limit", [0, 1000, 2**16, MIB])
def test_echo_to_a_peer_that_never_reads_takes_no_more_than_the_limit(
    wrap: Any, limit: int
) -> None:
    message = pattern(1, 900)
    stream = frame(BINARY, message) * (4 * MIB // len(message))
    with Driven(Echo(), write_limit=limit) as driven:
        peer = driven.open(wrap=wrap)
        client = driven.handler.client()
        left = push(driven, peer, stream)
        assert left, "the server reads for ever"
        assert client.buffered_amount <= max(limit, len(message) + 4)
        assert client.is_open()
        heard = len(driven.handler.of("message"))
        driven.turn(50)
        assert len(driven.handler.of("message")) == heard

        count = len(stream) // len(frame(BINARY, message))
        assert exchange(driven, peer, left, count) == [message] * count
        driven.turn(2)
        assert client.buffered_amount == driven.reactor.buffered == 0


@both_kinds
@pytest.mark.parametrize("compressed", [False, True], ids=["", "deflate"])
def test_answers_as_long_as_the_limit_are_never_held_against_a_quick_peer(
    wrap: Any, compressed: bool
) -> None:
    """Whoever sends the next message before it has read the last answer is no slow
    consumer, as long as an answer fits."""
    limit = 100_000
    rng = random.Random(5)
    sizes = [limit, 0, limit - 5, 3, limit, 70_000, 60_000, 65_536, 126, limit]
    messages = [rng.randbytes(size) for size in [*sizes, *sizes]]
    stream = b"".join(
        frame(BINARY, message[: len(message) // 3], fin=False)
        + frame(PING, b"between")
        + frame(0, message[len(message) // 3 :])
        if number % 3 == 0
        else frame(BINARY, message)
        for number, message in enumerate(messages)
    )
    offer = ["Sec-WebSocket-Extensions: permessage-deflate"] * compressed
    with Driven(Echo(), write_limit=limit, compression=compressed) as driven:
        peer = driven.open("/", *offer, wrap=wrap)
        client = driven.handler.client()
        left = push(driven, peer, stream)
        assert client.is_open(), driven.handler.of("close")
        echoes = exchange(driven, peer, left, len(messages))
        assert driven.handler.of("message") == messages
        assert compressed or echoes == messages
        assert client.is_open()


def test_short_questions_with_long_answers_are_answered_one_by_one() -> None:
    class Library(Recorder):
        def on_message(self, msg: Any, client: Client) -> Any:
            self.note("message", client, client.buffered_amount)
            return pattern(int(msg), 40_000)

    with Driven(Library(), write_limit=2**17) as driven:
        peer = driven.open(wrap=small_buffers)
        peer.write(b"".join(frame(TEXT, str(number)) for number in range(100)))
        driven.turn(20)
        assert driven.handler.client().buffered_amount <= 2**17
        assert len(driven.handler.of("message")) < 10
        for number in range(100):
            assert peer.read_message() == pattern(number, 40_000)
        assert driven.handler.names.count("close") == 0
        assert max(driven.handler.of("message")) <= 2**16


@both_kinds
def test_broadcasts_do_not_close_the_ear_for_a_peer_that_is_a_little_behind(
    wrap: Any,
) -> None:
    """Less than half of the limit waits: what it has to say is heard."""
    with Driven(write_limit=MIB) as driven:
        peer = driven.open(wrap=wrap)
        fill(driven, driven.handler.client(), 400_000)
        peer.text("slow down")
        driven.turn(2)
        assert driven.handler.of("message") == ["slow down"]


@both_kinds
def test_peer_that_is_not_heard_is_heard_again_when_it_has_read_enough(
    wrap: Any,
) -> None:
    with Driven(write_limit=2**18) as driven:
        peer = driven.open(wrap=wrap)
        fill(driven, driven.handler.client())
        peer.text("hello?")
        driven.turn(5)
        assert driven.handler.of("message") == []
        peer.read(2**18 - 2**15)
        driven.turn(5)
        assert driven.handler.of("message") == ["hello?"]


# --- Not heard, and not forgotten ----------------------------------------------------


def deafened(driven: Driven, wrap: Any) -> tuple[Peer, Client]:
    """A peer whose echoes are backed up, with more of its messages waiting."""
    peer = driven.open(wrap=wrap)
    left = push(driven, peer, frame(BINARY, b"x" * 1000) * 2000)
    assert left
    return peer, driven.handler.client()


def echo_driven(**options: Any) -> Driven:
    return Driven(Echo(), write_limit=2**17, **options)


@both_kinds
@pytest.mark.parametrize("how", ["reset", "close"])
def test_end_of_a_peer_that_is_not_heard_is_noticed(wrap: Any, how: str) -> None:
    with echo_driven() as driven:
        peer, client = deafened(driven, wrap)
        peer.close() if how == "close" else peer.reset()
        driven.turn(5)
        assert [cause for _, _, cause in driven.handler.of("close")] == ["reset"]
        assert client.buffered_amount == driven.reactor.buffered == 0
        assert not driven.closing


@both_kinds
def test_peer_that_is_not_heard_is_closed_when_it_does_not_answer(wrap: Any) -> None:
    with echo_driven() as driven:
        _, client = deafened(driven, wrap)
        client.close(4000, "enough")
        driven.turn(2)
        assert driven.handler.of("close") == []
        driven.advance(1.0)
        assert driven.handler.of("close") == [(4000, "enough", "local")]
        assert driven.reactor.buffered == 0
        assert not driven.closing


@both_kinds
def test_closing_handshake_works_with_a_peer_that_was_not_heard(wrap: Any) -> None:
    with echo_driven() as driven:
        peer, client = deafened(driven, wrap)
        client.close(4000, "enough")
        reader = Deframer()
        while not reader.frames or reader.frames[-1][0] != FIN | 8:
            driven.turn()
            reader.feed(peer.read_now())
        heard = len(driven.handler.of("message"))
        assert reader.frames[-1][1] == b"\x0f\xa0enough"
        # It sent more before it knew; that is skipped. Then comes its answer.
        peer.write(frame(BINARY, b"y" * 1000) * 10 + close_frame(4000))
        assert peer.read_rest() == b""
        driven.turn(3)
        assert driven.handler.of("close") == [(4000, "enough", "local")]
        assert len(driven.handler.of("message")) == heard
        assert reader.messages() == [b"x" * 1000] * heard


@both_kinds
def test_peer_that_sends_and_never_reads_is_given_up_by_ping_timeout(wrap: Any) -> None:
    with echo_driven() as driven:
        _, client = deafened(driven, wrap)
        for _ in range(5):
            driven.advance(4.0)
        assert client.is_open()
        for _ in range(3):
            driven.advance(4.0)
        driven.advance(1.0)
        (end,) = driven.handler.of("close")
        assert end[2] == "ping_timeout"
        assert driven.reactor.buffered == 0


@both_kinds
def test_peer_that_reads_slowly_is_alive_and_gets_everything(wrap: Any) -> None:
    with echo_driven(ping_timeout=10.0) as driven:
        peer = driven.open(wrap=wrap)
        stream = frame(BINARY, pattern(7, 1000)) * 400
        left = push(driven, peer, stream)
        assert left
        reader = Deframer()
        for _ in range(60):  # 240 s: 24 times ping_timeout
            driven.advance(4.0)
            reader.feed(peer.read(2000))
            driven.turn(2)
        assert driven.handler.of("close") == []
        got = reader.messages()
        assert 100 < len(got) < 130
        got += exchange(driven, peer, left, 400 - len(got), reader)
        assert got == [pattern(7, 1000)] * 400


def in_order(sock: socket.socket) -> socket.socket:
    """Room for everything in the system: nothing waits with us."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MIB)
    return sock


def can_tell_what_the_system_holds() -> bool:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(b"x")
        return unsent_by_system(ours) > 0


needs_queue_size = pytest.mark.skipif(
    not can_tell_what_the_system_holds(), reason="the system does not tell"
)


@needs_queue_size
def test_peer_that_takes_what_the_system_holds_for_it_is_alive() -> None:
    """The ping stands behind all of that; it cannot be answered yet."""
    with Driven(ping_timeout=10.0) as driven:
        peer = driven.open(wrap=in_order)
        client = driven.handler.client()
        for number in range(40):
            client.write_message(pattern(number, 1000))
            driven.turn()
        assert client.buffered_amount == 0
        for number in range(40):  # 200 s
            driven.advance(5.0)
            assert peer.sock.recv(1004) == b"\x82\x7e\x03\xe8" + pattern(number, 1000)
        assert driven.handler.of("close") == []
        # From here on only pings stand before the next one: it does not answer them.
        for _ in range(10):
            driven.advance(5.0)
        assert [cause for _, _, cause in driven.handler.of("close")] == ["ping_timeout"]


@needs_queue_size
def test_peer_that_takes_nothing_is_dead_whatever_the_system_holds_for_it() -> None:
    with Driven(ping_timeout=10.0) as driven:
        driven.open(wrap=in_order)
        client = driven.handler.client()
        for _ in range(14):
            driven.advance(1.0)
            # What is written meanwhile and taken by the system is no sign of life.
            assert client.write_message(b"news")
        driven.advance(3.0)
        driven.advance(1.0)
        assert [cause for _, _, cause in driven.handler.of("close")] == ["ping_timeout"]


def test_peer_that_is_not_heard_is_not_idle() -> None:
    with echo_driven(idle_timeout=15.0) as driven:
        peer, client = deafened(driven, small_buffers)
        for _ in range(10):
            driven.advance(4.0)
            peer.read(5000)
        assert client.is_open()


def test_unsent_bytes_of_a_closed_socket_are_none() -> None:
    sock = socket.socket()
    sock.close()
    assert unsent_by_system(sock) == 0


# --- Time to take what was written ---------------------------------------------------


@both_kinds
def test_closing_waits_for_a_peer_that_still_takes_what_was_written(wrap: Any) -> None:
    with Driven(write_limit=MIB) as driven:
        peer = driven.open(wrap=wrap)
        client = driven.handler.client()
        data = fill(driven, client)
        client.close(1001, "bye")
        taken = b""
        for _ in range(8):
            taken += peer.read(30_000)
            driven.advance(1.0)
        assert driven.handler.of("close") == []
        reader = Deframer()
        reader.feed(taken)
        while not reader.frames or reader.frames[-1][0] != FIN | 8:
            driven.turn()
            reader.feed(peer.read_now())
        assert reader.messages() == [data]


@both_kinds
def test_closing_does_not_wait_for_ever(wrap: Any) -> None:
    with Driven(write_limit=MIB, ping_timeout=6.0) as driven:
        peer = driven.open(wrap=wrap)
        client = driven.handler.client()
        fill(driven, client)
        client.close(1001, "bye")
        seconds = 0
        while not driven.handler.of("close"):
            peer.read(30_000)
            driven.advance(1.0)
            seconds += 1
            assert seconds < 10
        assert seconds == 6


@both_kinds
def test_output_behind_the_close_frame_of_the_peer_has_time_to_be_taken(
    wrap: Any,
) -> None:
    with Driven(write_limit=MIB) as driven:
        peer = driven.open(wrap=wrap)
        client = driven.handler.client()
        data = fill(driven, client)
        peer.write(close_frame(1000))
        reader = Deframer()
        for _ in range(9):
            driven.turn()
            reader.feed(peer.read(25_000))
            driven.advance(1.0)
        reader.feed(peer.read_rest())
        assert reader.frames.pop() == (FIN | 8, b"\x03\xe8")
        assert reader.messages() == [data]


def test_a_stop_keeps_to_its_time_also_with_a_peer_that_takes_output() -> None:
    with Driven(write_limit=MIB) as driven:
        peer = driven.open(wrap=small_buffers)
        fill(driven, driven.handler.client())
        driven.stop_begins(3.0)
        for _ in range(3):
            peer.read(5000)
            driven.advance(1.0)
        driven.turn()
        assert driven.handler.names.count("close") == 1


@both_kinds
def test_nothing_that_was_accepted_is_lost_in_a_stop_to_a_peer_that_reads(
    wrap: Any,
) -> None:
    with Driven(write_limit=MIB) as driven:
        peer = driven.open(wrap=wrap)
        client = driven.handler.client()
        data = fill(driven, client, 500_000)
        assert client.write_message(b"the last")
        driven.stop_begins(30.0)
        reader = Deframer()
        for _ in range(25):
            reader.feed(peer.read(20_000))
            driven.advance(1.0)
        while not reader.frames or reader.frames[-1][0] != FIN | 8:
            driven.turn()
            reader.feed(peer.read_now())
        assert reader.frames.pop()[1] == b"\x03\xe9the server stops"
        assert reader.messages() == [data, b"the last"]
        peer.write(close_frame(1001))
        driven.until(lambda: driven.handler.of("close"))
        assert driven.handler.of("close") == [(1001, "the server stops", "shutdown")]


@both_kinds
def test_nor_in_a_stop_that_was_given_no_time_such_as_by_a_signal(wrap: Any) -> None:
    with Driven(write_limit=MIB) as driven:
        peer = driven.open(wrap=wrap)
        stalled = driven.open(wrap=small_buffers)
        client = driven.handler.client()
        data = fill(driven, client, 200_000)
        fill(driven, driven.handler.client(1), 200_000)
        driven.server._on_signal(15, None)
        driven.turn(2)
        reader = Deframer()
        for _ in range(9):
            reader.feed(peer.read(20_000))
            driven.advance(1.0)
        # Who takes nothing is not waited for.
        assert driven.handler.of("close") == [(1001, "the server stops", "shutdown")]
        while not reader.frames or reader.frames[-1][0] != FIN | 8:
            driven.turn()
            reader.feed(peer.read_now())
        assert reader.frames.pop()[1] == b"\x03\xe9the server stops"
        assert reader.messages() == [data]
        peer.write(close_frame(1001))
        driven.until(lambda: len(driven.handler.of("close")) == 2)
        stalled.close()


def test_stop_that_was_given_no_time_does_not_wait_for_ever() -> None:
    with Driven(write_limit=MIB, ping_timeout=5) as driven:
        peer = driven.open(wrap=small_buffers)
        fill(driven, driven.handler.client())
        driven.stop_begins(None)
        for _ in range(5):
            assert driven.running
            peer.read(20_000)
            driven.advance(1.0)
        driven.advance(1.0)
        driven.turn()
        assert driven.handler.of("close") == [(1001, "the server stops", "shutdown")]
        assert not driven.running


# --- Slow consumers ------------------------------------------------------------------


def test_stalled_receiver_of_a_broadcast_costs_the_others_nothing() -> None:
    with Driven(write_limit=2**16) as driven:
        stalled = driven.open(wrap=small_buffers)
        others = [driven.open() for _ in range(1000)]
        message, rounds = pattern(3, 5000), 30
        for number in range(rounds):
            taken = driven.server.broadcast(message)
            driven.turn()
            # Every one has it in the very turn in which it was sent.
            for peer in others:
                assert peer.read_now() == b"\x82\x7e\x13\x88" + message
            assert driven.reactor.buffered <= 2**16 + 200
            assert taken == 1001 or number > 10
        assert driven.handler.of("close") == []  # its time to close is not over
        driven.advance(1.0)
        assert [cause for _, _, cause in driven.handler.of("close")] == [
            "slow_consumer"
        ]
        assert stalled.read_frame()[1] == message
        assert len(driven.server.clients) == 1000
        assert driven.reactor.buffered == 0


@both_kinds
@pytest.mark.parametrize("policy", ["close", "drop_new", "drop_old"])
def test_control_frames_are_never_dropped(wrap: Any, policy: str) -> None:
    with Driven(write_limit=2**17, slow_consumer=policy) as driven:
        peer = driven.open(wrap=wrap)
        client = driven.handler.client()
        fill(driven, client, 2**17)
        for number in range(10):
            client.ping(b"%d" % number)
            client.write_message(b"x" * 2**15)
        if policy != "close":
            client.close(4000)
        reader = Deframer()
        while not reader.frames or reader.frames[-1][0] != FIN | 8:
            driven.turn()
            reader.feed(peer.read_now())
        pings = [payload for first, payload in reader.frames if first == FIN | PING]
        expected = [b"%d" % number for number in range(10)]
        if policy == "close":  # no ping is sent behind a close frame
            expected = expected[: len(pings)]
            assert expected
        assert pings == expected


@both_kinds
def test_drop_old_gives_up_old_messages_only_if_the_new_one_fits_then(
    wrap: Any,
) -> None:
    limit = 2**17
    with Driven(write_limit=limit, slow_consumer="drop_old") as driven:
        peer = driven.open(wrap=wrap)
        client = driven.handler.client()
        data = fill(driven, client, limit)
        under_way = client.buffered_amount
        assert client.write_message(b"old") is BACKPRESSURE
        assert client.write_message(b"x" * (limit - under_way + 1)) is DROPPED
        assert client.write_message(b"y" * (limit - under_way)) is BACKPRESSURE
        assert driven.handler._counters.dropped == 2
        assert peer.read_message() == data
        assert peer.read_message() == b"y" * (limit - under_way)


@both_kinds
def test_drop_old_drops_what_was_written_in_the_turn_that_blocked(wrap: Any) -> None:
    """Also what stands in the buffer of the turn, behind a message under way."""
    with Driven(write_limit=2**17, slow_consumer="drop_old") as driven:
        peer = driven.open(wrap=wrap)
        client = driven.handler.client()
        for number in range(65):  # together half of the limit, and no more
            assert client.write_message(pattern(number, 1000)) is SENT
        client.ping(b"kept")
        driven.turn()
        for number in range(65, 400):
            assert client.write_message(pattern(number, 1000)) is BACKPRESSURE
            assert client.buffered_amount <= 2**17
        reader = Deframer()
        driven.until(
            lambda: reader.feed(peer.read_now()) or not client.buffered_amount  # type: ignore[func-returns-value]
        )
        driven.turn()
        reader.feed(peer.read_now())
        assert (FIN | PING, b"kept") in reader.frames
        received = reader.messages()
        begun = next(n for n, data in enumerate(received) if data != pattern(n, 1000))
        latest = len(received) - begun
        assert received[begun:] == [
            pattern(400 - latest + n, 1000) for n in range(latest)
        ]
        assert len(received) == 400 - driven.handler._counters.dropped
        assert latest > 120


@both_kinds
@pytest.mark.parametrize(
    ("limit", "size"),
    [
        *((200_000, size) for size in (10, 1000, 2**16, 190_000, MIB)),
        (MIB, 1),  # their number is limited before their bytes are
    ],
)
def test_whoever_stops_at_backpressure_is_never_cut_off(
    wrap: Any, limit: int, size: int
) -> None:
    """Though all is written in one callback, before the turn's output leaves."""
    with Driven(write_limit=limit) as driven:
        peer = driven.open(wrap=wrap)
        client = driven.handler.client()
        count, status = 0, SENT
        while status is SENT:
            status = client.write_message(pattern(count, size))
            count += 1
        assert status is BACKPRESSURE
        for number in range(count):
            assert peer.read_message() == pattern(number, size)
        driven.turn()
        assert client.buffered_amount == 0
        assert len(driven.handler.of("drain")) == 1
        assert client.is_open()


@both_kinds
@pytest.mark.parametrize("policy", ["close", "drop_new", "drop_old"])
def test_messages_that_wait_count_64_bytes_at_least(wrap: Any, policy: str) -> None:
    """A million of them for a byte each would take a hundred times their bytes."""
    limit = 2**16
    with Driven(write_limit=limit, slow_consumer=policy) as driven:
        driven.open(wrap=wrap)
        client = driven.handler.client()
        fill(driven, client, 20_000)
        waiting = client.buffered_amount
        taken = 0
        while (
            client.is_open() and taken < 5000 and not driven.handler._counters.dropped
        ):
            taken += bool(client.write_message(b"x"))
        assert limit // 64 - 50 < taken < limit // 64 + 70
        assert client.is_open() is (policy != "close")
        if policy == "close":
            assert client.close_reason == "unsent output exceeds write_limit 65,536"
            return
        for _ in range(100):
            assert bool(client.write_message(b"x")) is (policy == "drop_old")
        assert client.buffered_amount <= waiting + 3 * taken


def test_many_short_messages_of_one_turn_are_all_sent() -> None:
    """They do not wait for the peer."""
    with Driven(write_limit=2**16) as driven:
        peer = driven.open()
        client = driven.handler.client()
        assert [client.write_message(b"x") for _ in range(15_000)] == [SENT] * 15_000
        driven.turn()
        assert peer.read(45_000) == b"\x82\x01x" * 15_000


def test_limit_of_all_makes_slow_consumers_of_those_who_have_output_waiting() -> None:
    with Driven(
        write_limit=MIB, max_buffered=2**19, slow_consumer="drop_new"
    ) as driven:
        stalled = [driven.open(wrap=small_buffers) for _ in range(3)]
        clients = [driven.handler.client(number) for number in range(3)]
        healthy = driven.open()
        for client in clients:
            fill(driven, client, 200_000)
        assert driven.reactor.buffered > 2**19
        assert [client.write_message(b"x") for client in clients] == [DROPPED] * 3
        assert driven.handler.client(3).write_message(b"x" * 1000) is SENT
        assert healthy.read_message() == b"x" * 1000
        stalled[0].close()
        driven.turn(2)
        assert driven.reactor.buffered < 2**19
        assert clients[1].write_message(b"x") is BACKPRESSURE


def test_limit_of_all_closes_with_its_name() -> None:
    with Driven(write_limit=MIB, max_buffered=1000) as driven:
        driven.open(wrap=small_buffers)
        client = driven.handler.client()
        fill(driven, client)
        assert client.write_message(b"x") is DROPPED
        assert client.close_code == 1013
        assert client.close_reason == (
            "unsent output of all clients exceeds max_buffered 1,000"
        )
        assert client.close_cause == "slow_consumer"


def test_limit_of_all_drops_old_messages_for_as_many_bytes() -> None:
    with Driven(
        write_limit=MIB, max_buffered=2**17, slow_consumer="drop_old"
    ) as driven:
        driven.open(wrap=small_buffers)
        client = driven.handler.client()
        fill(driven, client, 100_000)
        for number in range(40):
            client.write_message(pattern(number, 1000))
        kept = driven.reactor.buffered
        assert kept > 2**17
        for number in range(5):
            assert client.write_message(pattern(number, 5000)) is BACKPRESSURE
            assert driven.reactor.buffered <= kept + 50
        assert driven.handler._counters.dropped >= 24


# --- on_drain ------------------------------------------------------------------------


@both_kinds
def test_on_drain_follows_a_refusal_too(wrap: Any) -> None:
    """Whoever was told DROPPED may wait for it as well."""
    with Driven(write_limit=2**17, slow_consumer="drop_new") as driven:
        peer = driven.open(wrap=wrap)
        client = driven.handler.client()
        data = fill(driven, client, 2**17)
        assert client.write_message(b"x" * 2**17) is DROPPED
        driven.turn(3)
        assert "drain" not in driven.handler.names
        assert peer.read_message() == data
        driven.turn(2)
        assert driven.handler.names.count("drain") == 1
        assert client.write_message(b"x") is SENT


def test_on_drain_follows_what_another_thread_was_told() -> None:
    """Also when all has left before its message had its turn."""
    with Driven() as driven:
        peer = driven.open(wrap=small_buffers)
        client = driven.handler.client()
        data = fill(driven, client)
        told: list[SendStatus] = []
        writer = threading.Thread(target=lambda: told.append(client.send("late")))
        writer.start()
        writer.join()
        assert told == [BACKPRESSURE]
        # In the next turn there is room for all, and only then comes the queued call.
        client._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MIB)
        start = peer.read(1000)
        driven.turn(2)
        assert driven.handler.names.count("drain") == 1
        peer._buffer = start + peer._buffer
        assert peer.read_message() == data
        assert peer.read_message() == "late"
        driven.turn(3)
        assert driven.handler.names.count("drain") == 1


def test_on_drain_is_not_called_for_a_connection_that_is_closing() -> None:
    with Driven() as driven:
        peer = driven.open(wrap=small_buffers)
        client = driven.handler.client()
        fill(driven, client)
        assert client.write_message("more") is BACKPRESSURE
        client.close()
        driven.until(lambda: peer.read_now() is None or not client.buffered_amount)
        driven.turn(2)
        assert "drain" not in driven.handler.names


# --- Threads that write faster than the loop -----------------------------------------


class Stopped(Recorder):
    """Holds the loop as long as the test likes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.go_on = threading.Event()

    def on_message(self, msg: Any, client: Client) -> None:
        self.note("message", client, msg)
        assert self.go_on.wait(15)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"


@pytest.mark.parametrize("what", ["write", "ping", "broadcast"])
def test_what_threads_queue_for_a_loop_that_does_not_come_to_it_is_bounded(
    what: str,
) -> None:
    handler = Stopped(write_limit=2**30, slow_callback=60.0)
    with (
        running(handler, max_buffered=2**20, slow_callback=60.0) as server,
        open_peer(server) as peer,
    ):
        client = handler.client()
        acts: dict[str, Callable[[], object]] = {
            "write": lambda: client.write_message(b"x" * 1000),
            "ping": lambda: client.ping(b"x" * 100),
            "broadcast": lambda: server.broadcast(b"x" * 1000),
        }
        peer.text("hold")
        handler.wait_for("message")
        queued = [acts[what]() for _ in range(5000)]
        if what != "broadcast":
            accepted = sum(map(bool, queued))
            assert 500 < accepted < 5000
            # What is refused is the end of it: nothing is missing in between.
            assert not any(queued[accepted:])
        assert server.reactor._reserved <= 2**20 + 2000
        handler.go_on.set()
        if what == "write":
            for _ in range(accepted):
                assert peer.read_message() == b"x" * 1000
        wait_until(lambda: not server.reactor._reserved)
        server.broadcast("end")
        while peer.read_frame() != (FIN | TEXT, b"end"):
            pass


def test_many_queued_calls_do_not_keep_clients_waiting() -> None:
    with Driven(Echo()) as driven:
        peer = driven.open()
        done: list[int] = []
        for number in range(5000):
            driven.reactor.call_soon(lambda number=number: done.append(number))
        peer.text("me too")
        driven.turn(2)
        assert peer.read_now() == b"\x81\x06me too"
        assert len(done) < 5000
        driven.until(lambda: len(done) == 5000)
        assert done == list(range(5000))


def test_threads_that_never_cease_do_not_keep_a_server_from_stopping() -> None:
    done = threading.Event()
    with running(Recorder()) as server, open_peer(server):

        def flood() -> None:
            while not done.is_set():
                server.broadcast("x")

        threads = [threading.Thread(target=flood) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            server.stop(drain=0)
        finally:
            done.set()
            for thread in threads:
                thread.join(15)


# --- One client, one turn ------------------------------------------------------------

SMALL = frame(TEXT, "x")
BEGUN = frame(TEXT, "x", fin=False)
MORE = frame(0, "x", fin=False)
FLOODS: dict[str, Callable[[int], bytes]] = {
    "messages": lambda count: SMALL * count,
    "pings": lambda count: frame(PING, "x") * count,
    "pongs": lambda count: frame(PONG, "x") * count,
    "fragments": lambda count: BEGUN + MORE * 20 * count,
    "pings inside a message": lambda count: BEGUN + (MORE + frame(PING)) * count,
}


class Ticking(Clock):
    """A clock by which every look takes a millisecond."""

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def roomy(sock: socket.socket) -> socket.socket:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MIB)
    return sock


def roomy_and_wrapped(sock: socket.socket) -> Any:
    return Wrapped(roomy(sock))


both_roomy = pytest.mark.parametrize(
    "wrap", [roomy, roomy_and_wrapped], ids=["plain", "wrapped"]
)


def flooded(wrap: Any, flood: bytes) -> tuple[list[int], int]:
    """Events of the flooding client in each turn, while another one is served; and
    how many turns it took to handle all that was sent."""
    counts: list[int] = []
    # Much of it is read at once, as of those who have sent much.
    with Driven(Echo(), write_limit=2**24, buffer_size=2**18) as driven:
        peer = driven.open(wrap=wrap)
        roomy(peer.sock)
        other = driven.open()
        left, idle = memoryview(flood), 0
        while left or idle < 10:
            with suppress(BlockingIOError):
                left = left[peer.sock.send(left) :] if left else left
            other.text("me too")
            before = len(driven.handler.events)
            driven.turn()
            counts.append(len(driven.handler.events) - before - 1)
            idle = 0 if counts[-1] or driven.reactor.run_queue else idle + 1
            # The other has its turn in each of ours, and is answered in it.
            assert other.read_now() == b"\x81\x06me too"
            peer.read_now()
    return counts, len(counts) - idle


@both_roomy
@pytest.mark.parametrize("flood", ["messages", "pings", "pongs"])
def test_flood_of_one_client_is_handled_in_many_turns(wrap: Any, flood: str) -> None:
    counts, turns = flooded(wrap, FLOODS[flood](20_000))
    assert sum(counts) == 20_000
    # What is left may go on once in the same turn.
    assert max(counts) <= 2 * 1024 + 16
    assert turns >= 18


@both_roomy
@pytest.mark.parametrize("flood", FLOODS)
def test_turn_of_a_flooding_client_takes_some_milliseconds(
    wrap: Any, flood: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("simple_ws.testing.server.Clock", Ticking)
    counts, turns = flooded(wrap, FLOODS[flood](1000))
    assert max(counts) <= 100
    assert turns >= 1


@both_kinds
def test_slow_callbacks_of_one_client_end_its_turn_early(wrap: Any) -> None:
    """A turn is a few milliseconds, and not a thousand messages at any price."""
    clocks: list[Clock] = []

    class Slow(Recorder):
        def on_message(self, msg: Any, client: Client) -> None:
            super().on_message(msg, client)
            clocks[0].now += 0.004

    with Driven(Slow(), slow_callback=60.0) as driven:
        clocks.append(driven.clock)
        peer = driven.open(wrap=wrap)
        other = driven.open()
        peer.write(SMALL * 200)
        for turn in range(100):
            before = len(driven.handler.events)
            if turn == 1:
                other.text("me too")
            driven.turn()
            assert len(driven.handler.events) - before <= 2 * 8 + 1
        assert driven.handler.of("message").index("me too") < 30
        assert driven.handler.of("message").count("x") == 200


def test_compressed_flood_is_handled_in_many_turns() -> None:
    """A kilobyte of it is a megabyte: what counts is time, not bytes."""
    deflate = zlib.compressobj(9, wbits=-15)
    packed = deflate.compress(b"x" * 100_000) + deflate.flush(zlib.Z_SYNC_FLUSH)
    stream = frame(BINARY, packed[:-4], rsv=0x40) * 500
    clocks: list[Clock] = []

    class Slow(Recorder):
        def on_message(self, msg: Any, client: Client) -> None:
            assert len(msg) == 100_000
            self.note("message", client)
            clocks[0].now += 0.001

    with Driven(Slow()) as driven:
        clocks.append(driven.clock)
        peer = driven.open(
            "/",
            "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover",
            then=stream[:3000],
        )
        peer.write(stream[3000:])
        while len(driven.handler.of("message")) < 500:
            before = len(driven.handler.events)
            driven.turn()
            assert len(driven.handler.events) - before <= 30


@both_kinds
def test_rest_of_a_read_is_handled_before_what_comes_behind_it(wrap: Any) -> None:
    with Driven() as driven:
        peer = driven.open(wrap=wrap)
        texts = [str(number) for number in range(6000)]
        peer.write(b"".join(frame(TEXT, text) for text in texts[:5000]))
        driven.turn()
        peer.write(b"".join(frame(TEXT, text) for text in texts[5000:]))
        driven.until(lambda: len(driven.handler.of("message")) == 6000)
        assert driven.handler.of("message") == texts


@both_roomy
@pytest.mark.parametrize("act", ["close", "terminate", "reset", "end"])
def test_connection_may_end_while_a_rest_of_it_waits(wrap: Any, act: str) -> None:
    with Driven(buffer_size=2**17) as driven:
        peer = driven.open(wrap=wrap)
        client = driven.handler.client()
        sent = roomy(peer.sock).send(SMALL * 9000) // len(SMALL)
        driven.turn()
        heard = len(driven.handler.of("message"))
        assert 0 < heard < sent
        if act == "close":
            client.close(4000)
            peer.write(close_frame(4000))
        elif act == "terminate":
            client.terminate()
        elif act == "reset":
            peer.reset()
        else:
            peer.end()
        driven.turn(30)
        driven.advance(2.0)
        assert driven.handler.names.count("close") == 1
        assert not driven.closing
        after = len(driven.handler.of("message"))
        # A peer that ceased to send said all of it; when we closed, we hear no more.
        if act == "end":
            assert after == sent
        elif act != "reset":
            assert after == heard


def test_peer_whose_messages_wait_for_us_is_not_taken_for_dead() -> None:
    """What was read long ago is handled slowly; meanwhile nothing is read of it."""
    clocks: list[Clock] = []

    class Slow(Recorder):
        def on_message(self, msg: Any, client: Client) -> None:
            super().on_message(msg, client)
            clocks[0].now += 0.1

    with Driven(Slow(), slow_callback=60.0) as driven:
        clocks.append(driven.clock)
        peer = driven.open()
        peer.write(SMALL * 500)
        driven.until(lambda: len(driven.handler.of("message")) == 500)
        driven.turn(5)
        assert driven.handler.of("close") == []


def test_held_connection_is_fed_no_more_of_what_was_read() -> None:
    """`_pause_reading` is how slow coroutines say that they have enough."""

    class Holding(Recorder):
        def on_message(self, msg: Any, client: Client) -> None:
            super().on_message(msg, client)
            if len(self.of("message")) == 10:
                client._pause_reading(True)

    with Driven(Holding()) as driven:
        peer = driven.open()
        peer.write(SMALL * 100 + frame(PING) * 10)
        driven.turn(5)
        assert len(driven.handler.of("message")) < 20
        peer.text("more")
        driven.turn(5)
        assert len(driven.handler.of("message")) < 20
        driven.handler.client()._pause_reading(False)
        driven.turn(5)
        assert driven.handler.of("message") == ["x"] * 100 + ["more"]
        assert driven.handler.names.count("ping") == 10


# --- A machine that does all of it in any order --------------------------------------

LIMIT = 20_000
PIECE = 1000  # max_frame_size


def on_the_wire(size: int) -> int:
    """What a message takes, header and all."""
    whole, last = divmod(size, PIECE)
    if whole and not last:
        whole, last = whole - 1, PIECE
    return whole * (PIECE + 4) + last + (2 if last < 126 else 4)


class Piece:
    """Output that has not left, as the model sees it."""

    def __init__(self, kind: str, tag: bytes, wire: int) -> None:
        self.kind = kind
        self.tag = tag
        self.wire = wire
        self.left = wire

    @property
    def begun(self) -> bool:
        return self.left < self.wire


class BackPressure(RuleBasedStateMachine):
    """One client, written to, asking, and read from in any order.

    The model is a queue of what was accepted, shortened by as many bytes as the client
    says were sent. It knows the policies by their description alone.
    """

    begun = False

    @initialize(
        policy=st.sampled_from(["drop_new", "drop_old", "close"]),
        plain=st.booleans(),
    )
    def begin(self, policy: str, plain: bool) -> None:
        self.policy = policy
        self.driven = Driven(
            Answering(self),
            write_limit=LIMIT,
            max_frame_size=PIECE,
            slow_consumer=policy,
            ping=False,
        )
        self.peer = self.driven.open(wrap=small_buffers if plain else wrapped)
        self.driven.turn()
        self.client = self.driven.handler.client()
        self.base = self.client.bytes_sent
        self.queue: deque[Piece] = deque()
        self.sent_before = 0
        self.expected: list[tuple[str, bytes]] = []  # what must have arrived
        self.dropped = 0
        self.promised = False  # on_drain is owed
        self.reader = Deframer()
        self.number = 0
        self.to_send = bytearray()
        self.closed = False
        self.begun = True

    # What the model does

    def catch_up(self, message: Piece | None = None) -> None:
        """Take off the queue what the client says was sent.

        Args:
            message: accepted just now; it stands behind what was sent before it.
        """
        sent = self.client.bytes_sent - self.base - self.sent_before
        self.sent_before += sent
        while sent:
            if not self.queue and message is not None:
                self.queue.append(message)
            first = self.queue[0]
            step = min(sent, first.left)
            first.left -= step
            sent -= step
            if not first.left:
                self.queue.popleft()
                self.expected.append((first.kind, first.tag))

    def waiting(self) -> int:
        return sum(piece.left for piece in self.queue)

    def judge(self, size: int) -> bool:
        """Whether a message must be accepted; drops what must be dropped for it."""
        waiting = self.waiting()
        if not waiting or waiting + size <= LIMIT:
            return True
        if self.policy != "drop_old":
            return False
        stays = sum(piece.left for piece in self.queue if piece.begun)
        if stays and stays + size > LIMIT:
            return False
        for piece in list(self.queue):
            if not self.waiting() or self.waiting() + size <= LIMIT:
                break
            if piece.kind == "message" and not piece.begun:
                self.queue.remove(piece)
                self.dropped += 1
        return not self.waiting() or self.waiting() + size <= LIMIT

    def note_write(self, data: bytes, status: SendStatus) -> None:
        """Compare what became of a message with what had to."""
        if self.closed:
            self.catch_up()
            assert status is DROPPED
            return
        message = Piece("message", data, on_the_wire(len(data)))
        self.catch_up(message if status else None)
        if message.begun or not message.left:
            # Sent at once: all before it has left, so there was room for any size.
            assert status
            accepted = True
        else:
            accepted = self.judge(len(data))
            if accepted:
                self.queue.append(message)
        assert bool(status) is accepted, (status, self.waiting(), len(data))
        if accepted:
            assert (status is BACKPRESSURE) is self.client._write_blocked
            # Whoever heeds it hears of it while there is room.
            assert status is BACKPRESSURE or self.waiting() <= LIMIT // 2
            self.promised |= status is BACKPRESSURE
            return
        self.dropped += 1
        if self.policy == "close":
            self.close_as_slow()
        else:
            self.promised = True

    def close_as_slow(self) -> None:
        for piece in list(self.queue):
            if piece.kind == "message" and not piece.begun:
                self.queue.remove(piece)
                self.dropped += 1
        reason = f"unsent output exceeds write_limit {LIMIT:,}".encode()
        self.queue.append(Piece("close", b"\x03\xf5" + reason, 4 + len(reason)))
        self.closed = True
        self.promised = False

    # What happens

    @rule(size=st.sampled_from([0, 1, 125, 126, 999, 1000, 1001, 4000, 19_000, 20_001]))
    def write(self, size: int) -> None:
        self.number += 1
        data = b"%06d" % self.number + b"w" * size
        self.note_write(data, self.client.write_message(data))

    @rule(size=st.sampled_from([0, 100, 3000, LIMIT - 6]), count=st.integers(1, 4))
    def ask(self, size: int, count: int) -> None:
        """The peer sends messages, which are echoed when they are heard."""
        for _ in range(count):
            self.number += 1
            self.to_send += frame(BINARY, b"%06d" % self.number + b"a" * size)

    def send_on(self) -> None:
        with suppress(BlockingIOError):
            while self.to_send:
                del self.to_send[: self.peer.sock.send(self.to_send)]

    @rule()
    def ping(self) -> None:
        self.number += 1
        payload = b"%06d" % self.number
        taken = self.client.ping(payload)
        self.catch_up()
        assert not (taken and self.closed)
        if taken:
            self.queue.append(Piece("ping", payload, 8))

    @rule()
    def turn(self) -> None:
        self.send_on()
        self.driven.turn(2)

    @rule(size=st.sampled_from([1, 100, 5000, 60_000]))
    def read(self, size: int) -> None:
        try:
            data = self.peer.sock.recv(size)
        except BlockingIOError:
            return
        self.reader.feed(data)

    # What must always be so

    @invariant()
    def nothing_is_kept_beyond_the_limit(self) -> None:
        if not self.begun:
            return
        self.catch_up()
        assert self.client.buffered_amount == self.waiting()
        assert self.driven.reactor.buffered == self.client.buffered_amount
        waits = [piece for piece in self.queue if piece.kind == "message"]
        if len(waits) > 1:
            assert sum(piece.left for piece in waits) <= LIMIT + 100

    def note_drain(self) -> None:
        self.catch_up()
        assert self.promised, "nobody was promised anything"
        assert not self.closed
        assert not self.queue
        self.promised = False

    @invariant()
    def on_drain_comes_when_promised(self) -> None:
        if self.begun and self.promised:
            assert self.queue, "all has left, and on_drain has not come"

    def teardown(self) -> None:
        if not self.begun:
            return
        try:
            for _ in range(2000):
                self.turn()
                data = self.peer.read_now()
                self.reader.feed(data)
                self.catch_up()
                if not data and not self.queue and not self.to_send:
                    break
            assert not self.queue
            assert not self.to_send
            self.on_drain_comes_when_promised()
            assert self.driven.handler._counters.dropped == self.dropped
            assert arrived(self.reader) == self.expected
            assert not self.reader.rest
        finally:
            self.driven.__exit__()


class Answering(Recorder):
    """Echoes, and tells the machine of it."""

    def __init__(self, machine: BackPressure) -> None:
        super().__init__()
        self._machine = machine

    def on_message(self, msg: Any, client: Client) -> None:
        machine = self._machine
        machine.catch_up()
        # The promise of flow control: an answer of the same length has room.
        waiting = machine.waiting()
        status = client.write_message(msg)
        machine.note_write(msg, status)
        assert status or machine.closed, (waiting, len(msg))

    def on_drain(self, client: Client) -> None:
        super().on_drain(client)
        self._machine.note_drain()


def arrived(reader: Deframer) -> list[tuple[str, bytes]]:
    """What came, as the model notes it."""
    found: list[tuple[str, bytes]] = []
    parts: list[bytes] = []
    for first, payload in reader.frames:
        if first & 0x0F == PING:
            found.append(("ping", payload))
        elif first & 0x0F == 8:
            found.append(("close", payload))
        else:
            parts.append(payload)
            if first & FIN:
                found.append(("message", b"".join(parts)))
                parts = []
    assert not parts
    return found


def test_output_of_a_client_is_what_the_model_says() -> None:
    run_state_machine_as_test(
        BackPressure,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
