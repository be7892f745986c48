"""The byte path of a connection: reads, writes, limits, and failing system calls."""

from __future__ import annotations

import json
import random
import socket
import zlib
from collections.abc import Callable
from itertools import count, pairwise
from typing import Any

import pytest
from harness import (
    BINARY,
    PING,
    PONG,
    TEXT,
    Driven,
    Echo,
    Peer,
    Recorder,
    Wrapped,
    close_frame,
    frame,
    small_buffers,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from simple_ws import Client, Deflate, SendStatus
from simple_ws.deflate import Agreement
from simple_ws.protocol.websocket import Protocol

both_kinds = pytest.mark.parametrize("wrap", [None, Wrapped], ids=["plain", "wrapped"])

FIN = 0x80
TAIL = b"\0\0\xff\xff"
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


# --- What may be written -------------------------------------------------------------


class Text(str):
    """A str of a user's."""


class Shouting(str):
    def encode(self, *args: Any) -> bytes:
        return self.upper().encode()


class Data(bytes):
    """Bytes of a user's."""


class Hidden(bytes):
    def __bytes__(self) -> bytes:
        return b"***"


#: (message, binary, first byte, payload)
KINDS: list[tuple[object, bool | None, int, bytes]] = [
    ("text", None, FIN | TEXT, b"text"),
    ("", None, FIN | TEXT, b""),
    ("h\u00e9 \U0001f600", None, FIN | TEXT, "h\u00e9 \U0001f600".encode()),
    ("nul \0", None, FIN | TEXT, b"nul \0"),
    ("text", True, FIN | BINARY, b"text"),
    ("text", False, FIN | TEXT, b"text"),
    (b"bytes\xff", None, FIN | BINARY, b"bytes\xff"),
    (b"", None, FIN | BINARY, b""),
    (b"bytes", True, FIN | BINARY, b"bytes"),
    (b"h\xc3\xa9", False, FIN | TEXT, b"h\xc3\xa9"),
    (bytearray(b"array"), None, FIN | BINARY, b"array"),
    (bytearray(b"array"), False, FIN | TEXT, b"array"),
    (memoryview(b"a view")[2:], None, FIN | BINARY, b"view"),
    (memoryview(b"s-t-e-p")[::2], None, FIN | BINARY, b"step"),
    ({"a": [1, None]}, None, FIN | TEXT, b'{"a":[1,null]}'),
    ({"\u00e9": 1}, True, FIN | BINARY, '{"\u00e9":1}'.encode()),
    ([], None, FIN | TEXT, b"[]"),
    (Text("h\u00e9"), None, FIN | TEXT, "h\u00e9".encode()),
    (Text("text"), True, FIN | BINARY, b"text"),
    (Shouting("text"), None, FIN | TEXT, b"TEXT"),
    (Data(b"bytes"), None, FIN | BINARY, b"bytes"),
    (Data(b"bytes"), False, FIN | TEXT, b"bytes"),
    (Hidden(b"bytes"), None, FIN | BINARY, b"***"),
    ({}, False, FIN | TEXT, b"{}"),
]


@pytest.mark.parametrize(("message", "binary", "first", "payload"), KINDS)
def test_kind_of_message_decides_its_frame(
    message: object, binary: bool | None, first: int, payload: bytes
) -> None:
    with Driven() as driven:
        peer = driven.open()
        client = driven.handler.client()
        assert client.write_message(message, binary) is SendStatus.SENT
        assert peer.read_frame() == (first, payload)
        assert client.send(message, binary=binary) is SendStatus.SENT
        assert peer.read_frame() == (first, payload)
        client.write_message("before")
        assert client.write_message(message, binary) is SendStatus.SENT
        client.write_message("after")
        assert peer.read_message() == "before"
        assert peer.read_frame() == (first, payload)
        assert peer.read_message() == "after"


@pytest.mark.parametrize(
    ("message", "binary", "error"),
    [
        (5, None, TypeError),
        (None, None, TypeError),
        (("a",), None, TypeError),
        ({"a"}, None, TypeError),
        (object(), True, TypeError),
        ("text", 1, TypeError),
        ("text", "yes", TypeError),
        ({"key": object()}, None, TypeError),
        (b"\xff", False, ValueError),
        (bytearray(b"\xc3("), False, ValueError),
        (memoryview(b"\xed\xa0\x80"), False, ValueError),
        ("\ud800", None, ValueError),
        ("\ud800", True, ValueError),
        ({"x": float("nan")}, None, ValueError),
        ([float("-inf")], None, ValueError),
    ],
)
def test_what_is_no_message_is_refused_at_once(
    message: object, binary: Any, error: type[Exception]
) -> None:
    with Driven() as driven:
        peer = driven.open()
        client = driven.handler.client()
        with pytest.raises(error):
            client.write_message(message, binary)
        client.write_message("still fine")
        assert peer.read_message() == "still fine"


def test_what_on_message_gets_can_be_sent_back_as_it_is() -> None:
    with Driven(Echo()) as driven:
        peer = driven.open()
        peer.send(TEXT, "\u00e9")
        peer.send(BINARY, b"\xff")
        assert peer.read_frame() == (FIN | TEXT, "\u00e9".encode())
        assert peer.read_frame() == (FIN | BINARY, b"\xff")
        assert driven.handler.of("message") == ["\u00e9", b"\xff"]


@pytest.mark.parametrize("size", [6, 300, 70_000, 2**20])
@pytest.mark.parametrize("kind", [lambda data: data, memoryview])
@pytest.mark.parametrize("compressed", [False, True])
def test_message_is_taken_as_it_was_when_it_was_written(
    size: int, kind: Any, compressed: bool
) -> None:
    deflate = Deflate(threshold=2**30)
    with Driven(compression=deflate, write_limit=2**22) as driven:
        peer = driven.open("/", *([DEFLATE] if compressed else []))
        data = bytearray(b"b" * size)
        client = driven.handler.client()
        client.write_message(kind(data))
        client.write_message(kind(data))
        data[:] = b"a" * size
        assert peer.read_message() == b"b" * size
        assert peer.read_message() == b"b" * size


def test_view_that_was_released_is_refused_behind_others_too() -> None:
    with Driven() as driven:
        peer = driven.open()
        client = driven.handler.client()
        released = memoryview(b"gone")
        released.release()
        client.write_message("before")
        with pytest.raises(ValueError, match="released memoryview"):
            client.write_message(released)
        assert peer.read_message() == "before"


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_messages_that_are_kept_stay_as_they_came(opcode: int) -> None:
    """Buffers are used again; never one that somebody still holds."""
    kept: list[Any] = []
    handler = Recorder()

    def keep(msg: Any, client: Client) -> Any:
        # A part, a view and an owner; what is only echoed may be used again.
        if len(kept) % 2:
            kept.append((memoryview(msg) if opcode == BINARY else msg, hash(msg)))
            return None
        kept.append((msg[:100], hash(msg)))
        return msg

    handler.on_message = keep  # type: ignore[method-assign]
    with Driven(handler, write_limit=2**24, max_frame_size=None) as driven:
        peer = driven.open()
        sent = [bytes((97 + number,)) * 400_000 for number in range(12)]
        for number, data in enumerate(sent):
            peer.send(opcode, data)
            if number % 2 == 0:
                assert peer.read_frame() == (FIN | opcode, data)
        driven.until(lambda: len(kept) == 12)
        for number, (part, hashed) in enumerate(kept):
            whole = sent[number] if opcode == BINARY else sent[number].decode()
            assert part == (whole if number % 2 else whole[:100])
            assert hashed == hash(whole)


@pytest.mark.parametrize("falsy", ["", b"", {}, []])
def test_empty_answer_is_an_answer(falsy: object) -> None:
    handler = Recorder()
    handler.on_message = lambda msg, client: falsy  # type: ignore[method-assign]
    with Driven(handler) as driven:
        peer = driven.open()
        peer.text("x")
        expected = falsy if isinstance(falsy, str | bytes) else json.dumps(falsy)
        assert peer.read_message() == expected


def test_callback_that_returns_what_write_message_did_has_answered() -> None:
    handler = Recorder()
    handler.on_message = lambda msg, client: client.write_message(msg)  # type: ignore[method-assign]
    with Driven(handler) as driven:
        peer = driven.open()
        for message in ("one", "two"):
            peer.text(message)
            assert peer.read_message() == message
        assert driven.handler.client().is_open()


@pytest.mark.parametrize("size", [0, 1, 124, 125, 126, 127, 65535, 65536, 2**18 + 1])
@pytest.mark.parametrize("compressed", [False, True])
def test_every_size_goes_both_ways(size: int, compressed: bool) -> None:
    payload = random.Random(size).randbytes(size)
    with Driven(Echo(), max_frame_size=None) as driven:
        peer = driven.open("/", *([DEFLATE] if compressed else []))
        peer.send(BINARY, payload)
        driven.until(lambda: driven.handler.of("message"))
        assert driven.handler.of("message") == [payload]
        first, sent = peer.read_frame()
        assert first == FIN | BINARY | (0x40 if compressed and size >= 64 else 0)
        if first & 0x40 == 0:
            assert sent == payload


@pytest.mark.parametrize(
    ("size", "sizes"),
    [(10, [10]), (11, [10, 1]), (20, [10, 10]), (25, [10, 10, 5]), (0, [0])],
)
def test_long_messages_are_split_at_max_frame_size(size: int, sizes: list[int]) -> None:
    with Driven(max_frame_size=10) as driven:
        peer = driven.open()
        driven.handler.client().write_message("x" * size)
        frames = [peer.read_frame() for _ in sizes]
        assert [len(payload) for _, payload in frames] == sizes
        firsts = [first for first, _ in frames]
        assert firsts[0] & 0x0F == TEXT
        assert all(first & 0x0F == 0 for first in firsts[1:])
        assert [first >> 7 for first in firsts] == [0] * (len(sizes) - 1) + [1]


@pytest.mark.parametrize("how", ["write_message", "broadcast", "blocked"])
@pytest.mark.parametrize("given", [False, True], ids=["default", "given"])
@pytest.mark.parametrize("size", [9_000, 20_000, 300_000])
def test_compressed_messages_are_whole_unless_max_frame_size_is_given(
    size: int, given: bool, how: str
) -> None:
    """Safari and iOS 15.0 to 15.3 close at a fragment of a compressed message."""
    options: dict[str, Any] = {"max_frame_size": 8192} if given else {}
    noise = random.Random(size).randbytes(size)
    wrap = small_buffers if how == "blocked" else None
    with Driven(write_limit=2**24, **options) as driven:
        peers = [
            driven.open("/", *extra, **({"wrap": wrap} if wrap else {}))
            for extra in ([], [DEFLATE], [DEFLATE])
        ]
        if how == "broadcast":
            driven.server.broadcast(noise)
        else:
            for client in driven.handler.clients:
                client.write_message(noise)
        for peer, packed in zip(peers, [False, True, True], strict=True):
            first, payload = peer.read_frame()
            parts = [payload]
            whole = packed and not given
            assert bool(first & FIN) is whole
            while not first & FIN:
                first, payload = peer.read_frame()
                parts.append(payload)
            assert [len(part) <= 8192 for part in parts] == [not whole] * len(parts)
            data = b"".join(parts)
            if packed:
                data = zlib.decompressobj(-15).decompress(data + b"\0\0\xff\xff")
            assert data == noise


# --- When it is written --------------------------------------------------------------


class Counting(Wrapped):
    """Counts the calls that cost a system call."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.sends = 0
        self.reads: list[int] = []

    def send(self, data: Any) -> int:
        self.sends += 1
        return self._sock.send(data)

    def sendmsg(self, buffers: Any) -> int:
        self.sends += 1
        return self._sock.sendmsg(buffers)

    def recv(self, size: int) -> bytes:
        self.reads.append(size)
        return self._sock.recv(size)

    def recv_into(self, buffer: Any, *args: Any) -> int:
        self.reads.append(len(buffer))
        return self._sock.recv_into(buffer, *args)


def counting() -> tuple[list[Counting], Callable[[socket.socket], Counting]]:
    sockets: list[Counting] = []

    def wrap(sock: socket.socket) -> Counting:
        sockets.append(Counting(sock))
        return sockets[-1]

    return sockets, wrap


def test_all_output_of_a_turn_is_one_send() -> None:
    sockets, wrap = counting()
    with Driven(Echo()) as driven:
        peer = driven.open(wrap=wrap)
        sockets[0].sends = 0
        peer.write(b"".join(frame(TEXT, str(n)) for n in range(50)) + frame(PING))
        driven.turn()
        assert sockets[0].sends == 1
        assert [peer.read_message() for _ in range(50)] == [str(n) for n in range(50)]
        assert peer.read_frame() == (FIN | PONG, b"")


def test_handshake_and_greeting_are_one_send() -> None:
    class Greeter(Recorder):
        def on_open(self, client: Client) -> None:
            client.write_message("hello")

    sockets, wrap = counting()
    with Driven(Greeter()) as driven:
        peer = driven.open(wrap=wrap)
        assert peer.read_message() == "hello"
        assert sockets[0].sends == 1


def test_nothing_is_sent_before_the_end_of_the_turn_and_nothing_twice() -> None:
    sockets, wrap = counting()
    with Driven() as driven:
        driven.open(wrap=wrap)
        sockets[0].sends = 0
        client = driven.handler.client()
        client.write_message("one")
        client.write_message("two")
        assert sockets[0].sends == 0
        assert client.buffered_amount == 10
        driven.turn(3)
        assert sockets[0].sends == 1
        assert client.buffered_amount == 0


def test_idle_turns_read_and_write_nothing() -> None:
    sockets, wrap = counting()
    with Driven() as driven:
        driven.open(wrap=wrap)
        before = sockets[0].sends, len(sockets[0].reads)
        driven.turn(10)
        assert (sockets[0].sends, len(sockets[0].reads)) == before


def test_reads_grow_while_they_come_back_full_and_shrink_again() -> None:
    sockets, wrap = counting()
    with Driven(buffer_size=1024, max_size=None) as driven:
        peer = driven.open(wrap=wrap)
        sockets[0].reads.clear()
        peer.send(BINARY, b"x" * 2**20)
        driven.until(lambda: driven.handler.of("message"))
        reads = sockets[0].reads
        assert reads[0] == 1024
        assert max(reads) >= 64 * 1024
        assert len(reads) < 200
        for _ in range(40):
            peer.text("x")
            driven.turn()
        assert reads[-1] < max(reads)


def test_one_client_does_not_keep_a_turn_to_itself() -> None:
    with Driven(buffer_size=1024) as driven:
        flood, other = driven.open(), driven.open()
        flood.write(frame(TEXT, "x" * 100) * 500)
        other.text("me too")
        driven.turn()
        messages = driven.handler.of("message")
        assert "me too" in messages
        assert len(messages) < 500


# --- A peer that reads slowly --------------------------------------------------------


def fill(driven: Driven, client: Client, size: int = 2**18) -> bytes:
    """Write so much that the socket takes no more; return what was written."""
    data = random.Random(1).randbytes(size)
    assert client.write_message(data)
    driven.turn()
    assert 0 < client.buffered_amount < size + 14
    return data


def test_partial_writes_keep_order_and_lose_nothing() -> None:
    with Driven(write_limit=2**26) as driven:
        peer = driven.open(wrap=small_buffers)
        client = driven.handler.client()
        rng = random.Random(3)
        messages = [rng.randbytes(rng.choice([0, 5, 300, 70_000])) for _ in range(80)]
        for message in messages:
            assert client.write_message(message)
            if rng.random() < 0.3:
                driven.turn()
        assert [peer.read_message() for _ in messages] == messages
        driven.turn()
        assert client.buffered_amount == 0


def test_backpressure_is_told_and_on_drain_follows_once() -> None:
    with Driven() as driven:
        peer = driven.open(wrap=small_buffers)
        client = driven.handler.client()
        data = fill(driven, client)
        assert client.write_message("second") is SendStatus.BACKPRESSURE
        assert client.write_message("third") is SendStatus.BACKPRESSURE
        driven.turn(3)
        assert driven.handler.of("drain") == []
        assert peer.read_message() == data
        assert peer.read_message() == "second"
        assert peer.read_message() == "third"
        driven.turn(2)
        assert driven.handler.names.count("drain") == 1
        assert client.write_message("fourth") is SendStatus.SENT
        driven.turn(2)
        assert driven.handler.names.count("drain") == 1


def test_on_drain_is_not_called_without_reported_backpressure() -> None:
    with Driven() as driven:
        peer = driven.open(wrap=small_buffers)
        data = fill(driven, driven.handler.client())
        assert peer.read_message() == data
        driven.turn(2)
        assert "drain" not in driven.handler.names


def test_on_drain_may_write_more() -> None:
    class Producer(Recorder):
        left = 5

        def on_drain(self, client: Client) -> None:
            super().on_drain(client)
            while self.left:
                self.left -= 1
                if client.write_message(b"x" * 2**18) is SendStatus.BACKPRESSURE:
                    break

    with Driven(Producer(), write_limit=2**20) as driven:
        peer = driven.open(wrap=small_buffers)
        client = driven.handler.client()
        fill(driven, client)
        client.write_message("waiting")
        for _ in range(7):
            peer.read_message()
        assert driven.handler.left == 0


def test_client_with_nothing_waiting_accepts_a_message_of_any_size() -> None:
    with Driven(write_limit=100) as driven:
        peer = driven.open(wrap=small_buffers)
        client = driven.handler.client()
        assert client.write_message("x" * 200_000) is SendStatus.BACKPRESSURE
        assert peer.read_message() == "x" * 200_000
        assert client.is_open()


def test_write_limit_zero_sends_one_message_after_the_other() -> None:
    with Driven(Echo(), write_limit=0) as driven:
        peer = driven.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
        peer.text("c")
        assert [peer.read_message() for _ in range(3)] == ["a", "b", "c"]


@pytest.mark.parametrize("policy", ["close", "drop_new", "drop_old"])
def test_output_up_to_write_limit_is_kept(policy: str) -> None:
    with Driven(write_limit=2**19, slow_consumer=policy) as driven:
        peer = driven.open(wrap=small_buffers)
        client = driven.handler.client()
        data = fill(driven, client)
        room = 2**19 - client.buffered_amount
        assert client.write_message(b"y" * room) is SendStatus.BACKPRESSURE
        assert peer.read_message() == data
        assert peer.read_message() == b"y" * room
        assert client.is_open()


def test_slow_consumer_is_closed_with_1013_after_the_message_under_way() -> None:
    with Driven(write_limit=2**19) as driven:
        peer = driven.open(wrap=small_buffers)
        client = driven.handler.client()
        data = fill(driven, client)
        assert client.write_message("dropped with the others")
        client.ping(b"kept")
        assert client.write_message(b"y" * 2**19) is SendStatus.DROPPED
        assert not client.is_open()
        assert peer.read_message() == data
        assert peer.read_frame() == (FIN | PING, b"kept")
        assert peer.read_close() == (1013, "unsent output exceeds write_limit 524,288")
        peer.write(close_frame(1013))
        assert peer.read_rest() == b""
        code, _, cause = driven.handler.of("close")[0]
        assert (code, cause) == (1013, "slow_consumer")


@pytest.mark.parametrize("size", [1, 125, 126, 70_000])
def test_message_that_is_framed_already_is_sent_as_it_is(size: int) -> None:
    with Driven() as driven:
        peer = driven.open()
        client = driven.handler.client()
        before, data = client.messages_sent, b"x" * size
        assert client._send_framed(data) is SendStatus.SENT
        assert client.messages_sent == before + 1
        assert peer.read(size) == data
        client.close()
        assert client._send_framed(data) is SendStatus.DROPPED


def test_limit_holds_for_messages_that_are_framed_already() -> None:
    with Driven(write_limit=10_000) as driven:
        driven.open(wrap=small_buffers)
        client = driven.handler.client()
        taken = 0
        while client._send_framed(b"x" * 1000):
            taken += 1
            assert taken < 10_000
        assert not client.is_open()
        assert client.close_code == 1013
        assert client._counters.dropped > 0


def test_drop_new_refuses_and_keeps_what_waits() -> None:
    with Driven(write_limit=2**19, slow_consumer="drop_new") as driven:
        peer = driven.open(wrap=small_buffers)
        client = driven.handler.client()
        data = fill(driven, client)
        assert client.write_message("kept")
        assert client.write_message(b"y" * 2**19) is SendStatus.DROPPED
        assert client.ping(b"kept too")
        assert client.write_message("small enough")
        assert peer.read_message() == data
        assert peer.read_message() == "kept"
        assert peer.read_frame() == (FIN | PING, b"kept too")
        assert peer.read_message() == "small enough"
        assert client.is_open()


def test_drop_old_drops_the_oldest_whole_messages_and_no_control_frame() -> None:
    with Driven(write_limit=2**19, slow_consumer="drop_old") as driven:
        peer = driven.open(wrap=small_buffers)
        client = driven.handler.client()
        data = fill(driven, client)
        room = 2**19 - client.buffered_amount
        half = room // 2 - 100
        assert client.write_message(b"1" * half)
        assert client.ping(b"kept")
        assert client.write_message(b"2" * half)
        assert client.write_message(b"3" * half) is SendStatus.BACKPRESSURE
        assert client.buffered_amount <= 2**19
        assert peer.read_message() == data
        assert peer.read_frame() == (FIN | PING, b"kept")
        assert peer.read_message() == b"2" * half
        assert peer.read_message() == b"3" * half
        assert client.is_open()


def test_drop_old_leaves_compressed_messages_readable() -> None:
    """RFC 7692 §7.1.1: a window that refers to what was dropped is no use."""
    handler = Recorder(
        compression=Deflate(threshold=0, level=1),
        write_limit=2**19,
        slow_consumer="drop_old",
    )
    with Driven(handler) as driven:
        peer = driven.open("/", DEFLATE, wrap=small_buffers)
        assert b"server_no_context_takeover" in peer.head
        client = handler.client()
        fill(driven, client)
        rng = random.Random(5)
        pieces = [rng.randbytes(2**14).hex() for _ in range(30)]
        for piece in pieces:
            client.write_message(piece + pieces[0])
        client.close()
        received = []
        while True:
            first, payload = peer.read_frame()
            while not first & FIN:
                more, rest = peer.read_frame()
                first |= more & FIN
                payload += rest
            if first & 0x0F == 8:
                break
            received.append(zlib.decompressobj(-15).decompress(payload + TAIL))
        texts = [plain.decode() for plain in received[1:]]
        assert 0 < len(texts) < len(pieces)
        assert texts == [piece + pieces[0] for piece in pieces[-len(texts) :]]


def test_slow_consumer_does_not_slow_the_others_down() -> None:
    class Chat(Recorder):
        def on_message(self, msg: Any, client: Client) -> None:
            for other in self.clients:
                other.write_message(msg)

    with Driven(Chat(), write_limit=2**18) as driven:
        slow = driven.open(wrap=small_buffers)
        quick = driven.open()
        for _ in range(20):
            quick.send(BINARY, b"x" * 2**16)
            assert quick.read_message() == b"x" * 2**16
        assert driven.handler.client(0).close_cause == "slow_consumer"
        assert slow.read_frame()


# --- A system that is unkind ---------------------------------------------------------


class Scripted(Wrapped):
    """Makes one call, counted over all of them, go wrong."""

    def __init__(self, sock: socket.socket, fault: str, number: int) -> None:
        super().__init__(sock)
        self.touched = False
        self._fault = fault
        self._number = number

    def _goes_wrong(self) -> bool:
        self._number -= 1
        if self._number:
            return False
        self.touched = True
        if self._fault == "blocked":
            raise BlockingIOError
        if self._fault == "interrupted":
            raise InterruptedError
        if self._fault == "reset":
            raise ConnectionResetError(104, "Connection reset by peer")
        if self._fault == "timed out":
            raise TimeoutError(110, "Connection timed out")
        return True

    def recv(self, size: int) -> bytes:
        return self._sock.recv(1 if self._goes_wrong() else size)

    def recv_into(self, buffer: Any, *args: Any) -> int:
        if self._goes_wrong():
            return self._sock.recv_into(buffer, 1)
        return self._sock.recv_into(buffer, *args)

    def send(self, data: Any) -> int:
        return self._sock.send(memoryview(data)[:1] if self._goes_wrong() else data)

    def sendall(self, data: Any) -> None:
        if self._goes_wrong():
            self._sock.send(memoryview(data)[:1])
            raise BlockingIOError
        self._sock.sendall(data)

    def sendmsg(self, buffers: Any) -> int:
        if self._goes_wrong():
            return self._sock.send(memoryview(buffers[0])[:1])
        return self._sock.sendmsg(buffers)


MESSAGES = ["one", "two" * 50, "three" * 2000, "\u00e9" * 3000]


def converse(fault: str, number: int) -> tuple[bool, list[Any], Recorder]:
    """Talk to a server whose `number`-th call goes wrong; what was received."""
    scripted: list[Scripted] = []

    def wrap(sock: socket.socket) -> Scripted:
        scripted.append(Scripted(sock, fault, number))
        return scripted[0]

    received: list[Any] = []
    with Driven(Echo()) as driven:
        peer = driven.join(wrap)
        try:
            peer.shake()
            for message in MESSAGES:
                peer.text(message)
                if message == "one":
                    driven.turn()
            peer.send(PING, "?")
            received += [peer.read_message() for _ in MESSAGES]
            received.append(peer.read_frame())
            peer.write(close_frame(1000))
            received.append(peer.read_close())
            received.append(peer.read_rest())
        except (ConnectionError, AssertionError) as error:
            received.append(type(error))
        peer.close()
        driven.turn(3)
        driven.advance(60.0)
        assert not driven.closing
        assert not driven.handshaking
        assert scripted[0].fileno() == -1
        return scripted[0].touched, received, driven.handler


@pytest.mark.parametrize("fault", ["short", "blocked", "interrupted"])
def test_call_that_does_less_changes_nothing(fault: str) -> None:
    for number in count(1):
        touched, received, handler = converse(fault, number)
        assert received == [*MESSAGES, (FIN | PONG, b"?"), (1000, ""), b""], number
        assert handler.of("message") == MESSAGES, number
        assert handler.of("close") == [(1000, "", "peer")], number
        if not touched:
            break
    assert number > 5


ENDED = (AssertionError, ConnectionError)


@pytest.mark.parametrize("fault", ["reset", "timed out"])
def test_call_that_fails_ends_the_connection_and_nothing_else(fault: str) -> None:
    for number in count(1):
        touched, received, handler = converse(fault, number)
        opened = handler.names.count("open")
        assert handler.names.count("close") == opened, number
        assert received[-1] == b"" or issubclass(received[-1], ENDED), number
        if not touched:
            break
        for _, reason, cause in handler.of("close"):
            assert (reason, cause) in {
                ("Connection reset by peer", "reset"),
                ("Connection timed out", "reset"),
                ("", "peer"),
            }, number
    assert number > 5


def test_peer_that_has_gone_never_raises_into_the_callback() -> None:
    class Chat(Recorder):
        def on_message(self, msg: Any, client: Client) -> None:
            for other in self.clients:
                for _ in range(3):
                    other.write_message(b"x" * 2**16)

    with Driven(Chat(), write_limit=1000) as driven:
        peers = [driven.open() for _ in range(5)]
        for peer in peers[1:]:
            peer.close()
        peers[0].text("x")
        driven.turn(5)
        assert driven.handler.names.count("close") == 4
        assert "error" not in driven.handler.names


# --- Bytes in any pieces -------------------------------------------------------------

STREAM = (
    frame(TEXT, "whole")
    + frame(BINARY, bytes(range(200)))
    + frame(TEXT, "a", fin=False)
    + frame(PING, "between")
    + frame(0, "b")
    + frame(TEXT, "")
    + frame(BINARY, b"x" * 70_000)
    + frame(PONG, "unasked")
    + frame(TEXT, "\u00e9\U0001f600")
)
HEARD = [
    ("message", "whole"),
    ("message", bytes(range(200))),
    ("ping", b"between"),
    ("message", "ab"),
    ("message", ""),
    ("message", b"x" * 70_000),
    ("pong", b"unasked"),
    ("message", "\u00e9\U0001f600"),
]


def hear(pieces: list[bytes], buffer_size: int = 4096) -> list[tuple[str, Any]]:
    with Driven(buffer_size=buffer_size) as driven:
        peer = driven.open()
        for piece in pieces:
            peer.write(piece)
            driven.turn()
        driven.until(lambda: len(driven.handler.events) > len(HEARD))
        return [(event.name, event.value) for event in driven.handler.events[1:]]


@pytest.mark.parametrize("buffer_size", [1, 2, 7, 4096, 2**20])
def test_buffer_size_does_not_matter_to_what_is_heard(buffer_size: int) -> None:
    assert hear([STREAM], buffer_size) == HEARD


def test_stream_byte_by_byte_around_every_header_is_heard_the_same() -> None:
    short = len(STREAM) - 70_000
    pieces = [STREAM[i : i + 1] for i in range(short - 60)]
    assert hear([*pieces, STREAM[short - 60 :]]) == HEARD


@settings(max_examples=40)
@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_stream_cut_anywhere_is_heard_the_same(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in pairwise(places)]
    assert hear([piece for piece in pieces if piece]) == HEARD


FAULTY = [
    frame(TEXT, "good") + b"\x81\x03bad",
    frame(TEXT, "good") + frame(3, "?"),
    frame(TEXT, "good") + frame(TEXT, b"\xff"),
    frame(TEXT, "good") + frame(0, "what"),
    frame(TEXT, "good") + frame(BINARY, b"x" * 2000),
    frame(TEXT, "good") + b"\x82\xfe\x00\x05" + b"\0" * 9,
    frame(TEXT, "good") + frame(PING, "x" * 126),
    frame(TEXT, "good") + frame(PING, fin=False),
    frame(TEXT, "good") + frame(8, b"x"),
    frame(TEXT, "good") + frame(TEXT, "zip", rsv=0x40),
]


@pytest.mark.parametrize("stream", FAULTY, ids=[row[10:26].hex() for row in FAULTY])
def test_fault_is_judged_the_same_in_any_pieces(stream: bytes) -> None:
    ends = set()
    for step in (1, 2, 3, 5, 4096):
        with Driven(max_size=1000) as driven:
            peer = driven.open()
            client = driven.handler.client()
            for start in range(0, len(stream), step):
                if client.is_open():
                    peer.write(stream[start : start + step])
                    driven.turn()
            told = peer.read_close()
            driven.until(lambda: driven.handler.of("close"))
            assert driven.handler.of("message") == ["good"]
            ends.add((told, driven.handler.of("close")[0]))
    ((told, end),) = ends
    assert told == end[:2]


@settings(max_examples=60)
@given(data=st.binary(max_size=400))
def test_garbage_closes_one_connection_and_never_the_server(data: bytes) -> None:
    with Driven() as driven:
        peer, bystander = driven.open(), driven.open()
        peer.write(data)
        driven.turn(2)
        driven.advance(1.0)
        bystander.text("still here")
        driven.turn()
        assert "still here" in driven.handler.of("message")
        peer.close()
        driven.turn(2)
        assert driven.handler.names.count("close") == 1


def heard_by_protocol(stream: bytes, agreement: Agreement | None) -> list[Any]:
    """What the rules make of a stream: events, what is answered, and how it ends."""
    protocol = Protocol(max_size=SIZE, agreement=agreement)
    events: list[Any] = []
    answers = b""
    pos = 0
    while pos < len(stream):
        pos = protocol.receive(stream, pos, len(stream))
        answers += b"".join(protocol.take_output())
        event = protocol.take_event()
        if event is not None:
            events.append((NAMES[event[0]], event[1]))
    if protocol.close_cause is not None:
        end = (protocol.close_code, protocol.close_reason, protocol.close_cause)
        events[-1] = ("close", end)
    return [*events, answers]


def heard_by_client(pieces: list[bytes], agreement: Agreement | None) -> list[Any]:
    with Driven(max_size=SIZE, max_frame_size=None, buffer_size=64) as driven:
        if agreement is None:
            peer = driven.open()
        else:
            offer = f"{DEFLATE}; client_max_window_bits; server_max_window_bits=15"
            peer = driven.open("/", offer)
        for piece in pieces:
            peer.write(piece)
            driven.turn()
        seen = -1
        # Reads are small: turn until nothing new is heard.
        while len(driven.handler.events) != seen:
            seen = len(driven.handler.events)
            driven.turn(3)
        answers = b"" if peer.nothing_waits() else peer.read_now()
        events = [(event.name, event.value) for event in driven.handler.events[1:]]
        return [*events, answers]


SIZE = 300
NAMES = {TEXT: "message", BINARY: "message", PING: "ping", PONG: "pong", 8: "close"}
AGREED = Agreement(
    send_takeover=True,
    receive_takeover=True,
    send_window_bits=12,
    receive_window_bits=12,
    level=6,
    mem_level=5,
    threshold=64,
)

payloads = st.one_of(
    st.text(max_size=60).map(str.encode),
    st.binary(max_size=60),
    st.sampled_from([b"x" * SIZE, b"x" * (SIZE + 1), b"\xc3", b"\xa9", b""]),
)
plain_frames = st.builds(
    frame,
    st.sampled_from([TEXT, TEXT, TEXT, BINARY, BINARY, 0, PING, PONG]),
    payloads,
    st.sampled_from([True, True, True, False]),
    st.sampled_from([0] * 30 + [0x40, 0x10]),
)
odd_frames = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.builds(close_frame, st.sampled_from([1000, 4999, 1005, 0]), st.text(max_size=9)),
    st.builds(frame, st.sampled_from([3, 8, 11, PING]), st.binary(max_size=130)),
)
streams = st.lists(
    st.one_of(*[plain_frames] * 8, odd_frames), min_size=1, max_size=12
).map(b"".join)


def packed(messages: list[tuple[int, bytes, int]]) -> bytes:
    """Compressed messages of one window, some ending their stream, some in pieces."""
    stream, out = zlib.compressobj(wbits=-12), b""
    for opcode, payload, how in messages:
        if how == 3:  # BFINAL, RFC 7692 §7.2.3.4
            once = zlib.compressobj(wbits=-12)
            data = once.compress(payload) + once.flush(zlib.Z_FINISH) + b"\0"
        else:
            data = stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH)
            data = data[:-4]
        if how == 1:
            out += frame(opcode, data[:5], False, 0x40) + frame(PING, "p")
            out += frame(0, data[5:])
        elif how == 2:
            out += frame(opcode, payload)  # plain, between the others
            stream = zlib.compressobj(wbits=-12)
        else:
            out += frame(opcode, data, True, 0x40)
    return out


packed_streams = st.builds(
    lambda messages, end: packed(messages) + end,
    st.lists(
        st.tuples(
            st.sampled_from([TEXT, BINARY]),
            st.one_of(payloads, st.text(max_size=30).map(lambda s: s.encode() * 3)),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=8,
    ),
    st.one_of(st.just(b""), streams),
)


def cut_up(stream: bytes, cuts: list[float]) -> list[bytes]:
    places = [0, *sorted(int(cut * len(stream)) for cut in cuts), len(stream)]
    return [stream[a:b] for a, b in pairwise(places) if a < b]


cuts = st.lists(st.floats(0, 1), max_size=8)


@settings(max_examples=80)
@given(stream=streams, cuts=cuts)
def test_client_hears_and_answers_what_the_rules_say(
    stream: bytes, cuts: list[float]
) -> None:
    assert heard_by_client(cut_up(stream, cuts), None) == heard_by_protocol(
        stream, None
    )


@settings(max_examples=80)
@given(stream=packed_streams, cuts=cuts)
def test_client_hears_of_compressed_messages_what_the_rules_say(
    stream: bytes, cuts: list[float]
) -> None:
    assert heard_by_client(cut_up(stream, cuts), AGREED) == heard_by_protocol(
        stream, AGREED
    )


def compressible(peer: Peer) -> bool:
    return b"permessage-deflate" in peer.head


def test_compression_is_per_client_and_only_when_offered() -> None:
    with Driven() as driven:
        plain, packed = driven.open(), driven.open("/", DEFLATE)
        assert (compressible(plain), compressible(packed)) == (False, True)
        first, second = driven.handler.clients
        assert (first.compressed, second.compressed) == (False, True)


# --- Lost in the middle of what was read ---------------------------------------------


@both_kinds
@pytest.mark.parametrize("compressed", [False, True])
def test_nothing_is_delivered_once_a_flush_found_the_peer_gone(
    wrap: Any, compressed: bool
) -> None:
    """Making room for an answer may find that the peer has left; more waits, read."""
    handler = Recorder(compression=Deflate(threshold=2**20) if compressed else False)
    heard: list[bool] = []

    def echo(msg: Any, client: Client) -> None:
        heard.append(client.is_open())
        if len(heard) == 3:
            peer.close()
        client.write_message(msg)

    handler.on_message = echo  # type: ignore[method-assign]
    with Driven(handler, write_limit=32_768, buffer_size=2**17) as driven:
        peer = driven.open("/", *([DEFLATE] if compressed else []), wrap=wrap)
        pack = zlib.compressobj(wbits=-15)
        stream = b""
        for number, size in enumerate((4000, 4000, 4000, 26_000)):
            data = random.Random(number).randbytes(size)
            if compressed:
                data = (pack.compress(data) + pack.flush(zlib.Z_SYNC_FLUSH))[:-4]
            stream += frame(BINARY, data, rsv=0x40 if compressed else 0)
        driven.handler.client()._feed(stream)
        driven.until(lambda: handler.of("close"))
        assert heard == [True, True, True]
        assert handler.names.count("close") == 1


@both_kinds
def test_client_is_to_be_flushed_once_a_turn_however_often_it_was(wrap: Any) -> None:
    with Driven(write_limit=32) as driven:
        peer = driven.open(wrap=wrap)
        client = driven.handler.client()
        for _ in range(100):
            assert client.write_message("0123456789abcdef")
        assert driven.reactor.dirty.count(client) == 1
        assert [peer.read_message() for _ in range(100)] == ["0123456789abcdef"] * 100


@pytest.mark.parametrize("compressed", [False, True])
def test_largest_max_size_is_no_limit(compressed: bool) -> None:
    with Driven(Echo(), max_size=2**63 - 1) as driven:
        peer = driven.open("/", *([DEFLATE] if compressed else []))
        data = b"x" * 500
        if compressed:
            pack = zlib.compressobj(wbits=-15)
            data = (pack.compress(data) + pack.flush(zlib.Z_SYNC_FLUSH))[:-4]
        peer.write(frame(BINARY, data, rsv=0x40 if compressed else 0))
        first, _ = peer.read_frame()
        assert first & 0x0F == BINARY
