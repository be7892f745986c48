"""One message for many (ADR 10): compressed once, and right for every receiver."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from harness import TEXT, Driven, Peer, small_buffers

from simple_ws import Client, Deflate, SendStatus, WebSocket
from simple_ws.speedups import fan_out
from simple_ws.testing import TestServer

OFFER = "Sec-WebSocket-Extensions: permessage-deflate"
FIN, RSV1 = 0x80, 0x40


def words(seed: int, size: int) -> str:
    """Text that deflate finds something in, and the same for a seed."""
    some = random.Random(seed)
    return "".join(some.choice("abcdefgh ") for _ in range(size))


class Inflating:
    """A peer with one inflater for the whole connection, of the agreed window.

    Args:
        peer: open.
        window_bits: largest window that the server may look back into.
        takeover: False begins each message anew.
    """

    def __init__(
        self, peer: Peer, window_bits: int = 12, takeover: bool = True
    ) -> None:
        self.peer = peer
        self._window_bits = window_bits
        self._takeover = takeover
        self._stream = zlib.decompressobj(-window_bits)

    def read(self) -> str:
        return self.read_both()[0]

    def read_both(self) -> tuple[str, bytes]:
        """The next message, and its payload as it came."""
        first, payload = self.peer.read_frame()
        if not first & RSV1:
            assert first == FIN | TEXT
            return payload.decode(), payload
        assert first == FIN | RSV1 | TEXT
        if not self._takeover:
            self._stream = zlib.decompressobj(-self._window_bits)
        return self._inflate(payload + b"\x00\x00\xff\xff").decode(), payload

    def _inflate(self, packed: bytes) -> bytes:
        # Byte by byte into room for one: nothing to look back at but the window.
        plain = bytearray()
        for byte in packed:
            piece = self._stream.decompress(bytes((byte,)), 1)
            while piece or self._stream.unconsumed_tail:
                plain += piece
                piece = self._stream.decompress(self._stream.unconsumed_tail, 1)
        return bytes(plain)


@contextmanager
def served(*offers: str, **options: Any) -> Iterator[tuple[Driven, list[Peer]]]:
    """A server, and a peer for each offer; an empty one is of no compression."""
    with Driven(**options) as driven:
        yield driven, [driven.open("/", *filter(None, [offer])) for offer in offers]


@pytest.mark.parametrize("topic", [False, True])
def test_own_messages_and_those_for_all_follow_each_other(topic: bool) -> None:
    fresh = f"{OFFER}; server_no_context_takeover"
    with served(OFFER, OFFER, fresh, "") as (driven, peers):
        server, clients = driven.server, list(driven.handler.clients)
        for client in clients:
            client.subscribe("all")
        ends = [Inflating(peer) for peer in peers]
        ends[2] = Inflating(peers[2], takeover=False)
        for step in range(6):
            own = [words(9, 300) + f" {step} {number}" for number in range(4)]
            for client, text in zip(clients, own, strict=True):
                client.write_message(text)
            shared = words(9, 400) + f" {step}"
            sent = server.publish("all", shared) if topic else server.broadcast(shared)
            assert sent == 4
            if step % 2:
                driven.turn()  # the next ones are of another turn
            for end, text in zip(ends, own, strict=True):
                assert [end.read(), end.read()] == [text, shared]


def test_message_for_all_is_the_same_bytes_for_all_of_one_agreement() -> None:
    with served(OFFER, OFFER, OFFER) as (driven, peers):
        ends = [Inflating(peer) for peer in peers]
        driven.handler.client(0).write_message(words(1, 500))
        assert ends[0].read() == words(1, 500)
        # The first one, too: what it was sent before may not be referred to.
        driven.server.broadcast(words(1, 500))
        came = [end.read_both() for end in ends]
        assert came[0] == came[1] == came[2]
        assert came[0][0] == words(1, 500)


def test_each_agreement_has_a_form_of_its_own() -> None:
    """RFC 7692 §7.1.2.1: no peer is sent more than its window."""
    small = f"{OFFER}; server_max_window_bits=9"
    text = words(3, 3000) * 2  # that is found again with the large window only
    options = {"compression": Deflate(server_max_window_bits=15)}
    for offers in ((OFFER, small), (small, OFFER)):
        with served(*offers, **options) as (driven, peers):
            bits = [15 if offer == OFFER else 9 for offer in offers]
            ends = list(map(Inflating, peers, bits))
            for _ in range(3):
                assert driven.server.broadcast(text) == 2
                assert [end.read() for end in ends] == [text, text]


def test_what_is_sent_again_to_one_later_refers_to_the_first_time() -> None:
    with served(OFFER) as (driven, (peer,)):
        text, end = words(4, 600), Inflating(peer)
        sizes = []
        for _ in range(2):
            driven.handler.client().write_message(text)
            message, payload = end.read_both()
            assert message == text
            sizes.append(len(payload))
        assert sizes[1] < sizes[0] / 4  # the window holds it: no message for all


def test_reading_resumes_when_a_quarter_of_write_limit_waits() -> None:
    limit, step = 64 * 1024, 4096

    def on_message(msg: Any, client: Any) -> Any:
        return msg

    with Driven(write_limit=limit, buffer_size=4096) as driven:
        driven.handler.on_message = on_message
        peer = driven.open(wrap=small_buffers)
        client = driven.handler.client()
        heard = -1
        while client.messages_received != heard:
            heard = client.messages_received
            for _ in range(64):
                try:
                    peer.sock.send(b"\x81\xfe\x03\xe8" + b"\0\0\0\0" + b"x" * 1000)
                except BlockingIOError:
                    break
            driven.turn(4)
        before = client.buffered_amount
        assert before > limit / 2
        while client.messages_received == heard:
            before = client.buffered_amount
            peer.read(step)
            driven.turn()
        assert before - 2 * step <= limit / 4


class Wrapping(Client):
    """What it is given is sent in another form."""

    def write_message(self, msg: object, binary: bool | None = None) -> SendStatus:
        return super().write_message(f"<{msg}>", binary)


def test_raw_message_passes_by_the_own_write_message_of_members() -> None:
    handler = WebSocket()
    handler.client_class = Wrapping
    with TestServer(handler) as kit:
        peer = kit.connect()
        assert fan_out([peer.client], "own", ()) == 1
        assert fan_out([peer.client], "raw", (), raw=True) == 1
        assert fan_out([peer.client], "excluded", (peer.client,), raw=True) == 0
        assert peer.messages == ["<own>", "raw"]
