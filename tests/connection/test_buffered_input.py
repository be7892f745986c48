"""Input that is kept: of incomplete messages and requests, and what waits for a turn.

The loop counts it for all connections; above `max_buffered_input` those that keep most
are ended.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from typing import Any

import pytest
from harness import BINARY, CLOSE, TEXT, Driven, Echo, Peer, Recorder, frame, request

from simple_ws import CloseCause, Response

KIB = 2**10
MIB = 2**20
REASON = "unfinished input of all clients exceeds max_buffered_input 1,048,576"


def kept(driven: Driven) -> int:
    """Bytes that the loop believes to be kept; nobody who keeps none is listed."""
    reactor = driven.reactor
    holders = reactor.input_holders
    assert sum(h._buffered_input for h in holders.values()) == reactor.buffered_input
    assert all(h._buffered_input > 0 for h in holders.values())
    assert all(id(h) == number for number, h in holders.items())
    return int(reactor.buffered_input)


def begin(payload: bytes, packed: bool = False) -> bytes:
    """The first frame of a message that goes on."""
    return frame(BINARY, payload, fin=False, rsv=0x40 if packed else 0)


def deflated(size: int) -> bytes:
    """So many zeroes, as a compressed message begins with them."""
    deflate = zlib.compressobj(9, wbits=-15)
    return deflate.compress(bytes(size)) + deflate.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize(
    "data",
    [
        frame(BINARY, bytes(3000))[:2000],
        frame(BINARY, bytes(300_000))[:200_000],
        frame(TEXT, "é" * 150_000)[:200_001],
        begin(bytes(200_000)),
        begin(bytes(200_000))[:100_000],
        frame(BINARY, bytes(200_000), fin=False, rsv=0)[:199_000],
    ],
    ids=["small", "large", "text", "fragment", "part of one", "nearly all of one"],
)
def test_incomplete_messages_count(data: bytes) -> None:
    with Driven() as driven:
        peer = driven.open()
        assert kept(driven) == 0
        peer.write(data)
        driven.until(lambda: driven.handler.client().bytes_received == len(data))
        # The header is not kept everywhere, and space is reserved in steps.
        assert len(data) - 14 <= kept(driven) <= 2 * len(data)
        peer.close()
        driven.until(lambda: driven.handler.of("close"))
        assert kept(driven) == 0


def test_complete_messages_do_not() -> None:
    with Driven(Echo()) as driven:
        peer = driven.open()
        for data in (frame(BINARY, bytes(300_000)), begin(b"x") + frame(0, b"y")):
            for cut in (1, 5, 70_000, len(data)):
                peer.write(data[:cut])
                driven.turn(3)
                peer.write(data[cut:])
                peer.read_message()
        driven.turn()
        assert kept(driven) == 0


def test_inflated_bytes_count() -> None:
    with Driven() as driven:
        peer = driven.open("/", "Sec-WebSocket-Extensions: permessage-deflate")
        peer.write(begin(deflated(500 * KIB), packed=True))
        driven.until(lambda: kept(driven) >= 500 * KIB)
        peer.write(frame(0, b"\0"))
        driven.until(lambda: driven.handler.of("message"))
        assert kept(driven) == 0


def test_input_that_waits_because_reading_is_paused_counts() -> None:
    class Busy(Recorder):
        def on_message(self, msg: Any, client: Any) -> None:
            super().on_message(msg, client)
            client._pause_reading(True)

    with Driven(Busy(buffer_size=64 * KIB)) as driven:
        peer = driven.open()
        # Whether reading is paused is looked at after eight small ones.
        left = frame(BINARY, bytes(20_000)) * 2
        peer.write(frame(BINARY, b"x") * 8 + left)
        driven.until(lambda: driven.handler.of("message"))
        assert kept(driven) == len(left)
        driven.handler.client()._pause_reading(False)
        driven.until(lambda: len(driven.handler.of("message")) == 10)
        assert kept(driven) == 0


def test_messages_that_wait_for_a_coroutine_count() -> None:
    class Slow(Recorder):
        async def on_message(self, msg: Any, client: Any) -> None:
            self.note("message", client, len(msg))
            await self.gate.wait()

        gate: asyncio.Event

    handler = Slow()
    with Driven(handler) as driven:
        handler.gate = asyncio.Event()
        peer = driven.open()
        peer.write(frame(BINARY, bytes(10_000)) * 3)
        driven.until(lambda: handler.of("message"))
        driven.until(lambda: kept(driven) == 20_000)
        driven.reactor.buffered_input_limit = 10_000
        driven.until(lambda: handler.of("message"))
        peer.write(frame(BINARY, bytes(5000)))
        assert peer.read_close()[0] == 1013
        assert kept(driven) == 0
        assert handler.of("message") == [10_000]


def fill(driven: Driven, sizes: list[int]) -> list[Peer]:
    """Peers whose messages are incomplete; the last one reaches the limit."""
    peers = [driven.open() for _ in sizes]
    for peer, size in zip(peers, sizes, strict=True):
        peer.write(begin(bytes(size)))
        driven.settle()
    return peers


def test_above_the_limit_those_who_keep_most_are_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sizes = [100 * KIB, 400 * KIB, 200 * KIB, 300 * KIB, 50 * KIB]
    with Driven(max_buffered_input=MIB) as driven:
        with caplog.at_level(logging.INFO, "simple_ws"):
            peers = fill(driven, sizes)
            assert peers[1].read_close() == (1013, REASON)
        lines = [r.getMessage() for r in caplog.records if REASON in r.getMessage()]
        assert len(lines) == 1
        assert kept(driven) == 650 * KIB
        end = (1013, REASON, CloseCause.OVERLOADED)
        assert driven.handler.of("close") == [end]
        assert driven.server.stats()["closed"]["overloaded"] == 1
        # All others go on: with what was free again, and with what they had sent.
        for peer, size in zip(peers, sizes, strict=True):
            if size != 400 * KIB:
                peer.write(frame(0, b"end"))
        driven.until(lambda: len(driven.handler.of("message")) == 4)
        assert kept(driven) == 0


def test_what_a_closed_one_had_sent_is_not_kept_while_it_lingers() -> None:
    with Driven(max_buffered_input=MIB) as driven:
        peer = driven.open()
        peer.write(frame(BINARY, bytes(2 * MIB))[: MIB + 5])
        first, _ = peer.read_frame()
        assert first == 0x80 | CLOSE
        assert driven.closing
        assert kept(driven) == 0


def test_no_message_is_larger_than_the_limit() -> None:
    """It says so, whatever `max_size` allows."""
    with Driven(max_buffered_input=MIB, max_size=None) as driven:
        peer = driven.open()
        peer.write(begin(bytes(MIB + 1)))
        assert peer.read_close() == (1013, REASON)


def post(driven: Driven, body: int) -> Peer:
    peer = driven.join()
    head = f"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: {body + 1}\r\n\r\n"
    peer.write(head.encode() + bytes(body))
    driven.settle()
    return peer


def test_bodies_count_and_the_largest_is_answered_503() -> None:
    with Driven(max_buffered_input=MIB) as driven:
        driven.server.http("/up", ["POST"])(lambda request: Response(200, "k"))
        peers = [post(driven, size * KIB) for size in (200, 500, 300)]
        assert kept(driven) == 1000 * KIB
        peers[0].write(b"x")
        assert peers[0].read_head().startswith(b"HTTP/1.1 200 ")
        assert kept(driven) == 800 * KIB
        peers += [post(driven, 300 * KIB)]
        head = peers[1].read_head()
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: " in head
        assert kept(driven) == 600 * KIB
        for peer in peers:
            peer.close()
        driven.until(lambda: not driven.handshaking)
        assert kept(driven) == 0


def test_heads_count() -> None:
    with Driven(max_buffered_input=20 * KIB) as driven:
        peers = []
        for number in range(1, 5):
            peers.append(driven.join())
            peers[-1].write(request()[:-2] + b"X: " + b"x" * number * KIB)
            driven.turn(5)
        assert kept(driven) > 10 * KIB
        peers.append(driven.join())
        peers[-1].write(request()[:-2] + b"X: " + b"x" * 12 * KIB)
        assert peers[-1].read_head().startswith(b"HTTP/1.1 503 ")
        peers[0].write(b"\r\n\r\n")
        assert peers[0].read_head().startswith(b"HTTP/1.1 101 ")
        for peer in peers:
            peer.close()
        driven.until(lambda: not driven.handshaking)
        assert kept(driven) == 0
