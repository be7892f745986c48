"""Each limit on both sides: just within it is accepted, beyond it is refused.

Limits of unsent output are tested in test_backpressure, those of new connections in
test_admission, those of TLS in test_tls. Nothing here waits: the test moves the time.
"""

from __future__ import annotations

import random
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
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
    open_peer,
    request,
    running,
    small_buffers,
)

from simple_ws import Client
from simple_ws.constants import (
    MAX_DEFLATE_STREAMS,
    MAX_EMPTY_FRAGMENTS,
    MAX_HEAD_SIZE,
    MAX_HEADER_COUNT,
)

DEFLATE = (
    "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; "
    "client_no_context_takeover"
)

both_kinds = pytest.mark.parametrize("wrap", [None, Wrapped], ids=["plain", "wrapped"])


def pack(data: bytes) -> bytes:
    stream = zlib.compressobj(9, wbits=-15)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)] or [b""]


def fragments(opcode: int, parts: list[bytes], rsv: int = 0) -> bytes:
    last = len(parts) - 1
    return b"".join(
        frame(
            0 if number else opcode,
            part,
            fin=number == last,
            rsv=0 if number else rsv,
        )
        for number, part in enumerate(parts)
    )


def refused(driven: Driven, peer: Peer) -> tuple[int | None, str, str]:
    """Code and reason that the peer saw, and the cause that the handler saw."""
    while (first := peer.read_frame())[0] != 0x88:
        pass
    driven.turn(2)
    ((told, reason, cause),) = driven.handler.of("close")
    (code,) = struct.unpack(">H", first[1][:2])
    assert (told, reason) == (code, first[1][2:].decode())
    return code, reason, cause


# --- The request head ----------------------------------------------------------------


def head_of(size: int) -> bytes:
    filler = size - len(request("/", "X-Filler: "))
    return request("/", "X-Filler: " + "x" * filler)


def test_head_of_a_request_has_a_size_limit() -> None:
    with Driven() as driven:
        head = head_of(MAX_HEAD_SIZE)
        assert len(head) == MAX_HEAD_SIZE
        peer = driven.join()
        peer.write(head)
        assert peer.read_head().startswith(b"HTTP/1.1 101 ")
        peer = driven.join()
        peer.write(head_of(MAX_HEAD_SIZE + 1))
        assert peer.read_head().startswith(b"HTTP/1.1 431 ")


def test_head_without_an_end_is_refused_when_it_is_too_long() -> None:
    with Driven() as driven:
        peer = driven.join()
        peer.write(b"GET /" + b"x" * MAX_HEAD_SIZE)
        assert peer.read_head().split()[1] == b"414"


def test_request_has_a_limit_of_header_lines() -> None:
    own = request().count(b"\r\n") - 2
    with Driven() as driven:
        lines = [f"X-{number}: y" for number in range(MAX_HEADER_COUNT - own)]
        peer = driven.join()
        peer.write(request("/", *lines))
        assert peer.read_head().startswith(b"HTTP/1.1 101 ")
        peer = driven.join()
        peer.write(request("/", *lines, "X-More: y"))
        assert peer.read_head().startswith(b"HTTP/1.1 431 ")


# --- Time ----------------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"", request()[:60]], ids=["silent", "slow"])
def test_opening_handshake_has_open_timeout(start: bytes) -> None:
    with Driven(open_timeout=8.0) as driven:
        peer = driven.join()
        peer.write(start)
        driven.turn()
        driven.advance(7.9)
        assert peer.nothing_waits()
        driven.advance(1.2)  # the wheel is a second coarse
        if start:
            assert peer.read_head().startswith(b"HTTP/1.1 408 ")
        assert not peer.nothing_waits()
        driven.advance(3.0)
        assert not driven.handshaking


def test_slow_handshake_within_open_timeout_is_served() -> None:
    with Driven(open_timeout=8.0) as driven:
        peer = driven.join()
        for piece in pieces(request(), 40):
            peer.write(piece)
            driven.advance(1.0)
        assert peer.read_head().startswith(b"HTTP/1.1 101 ")


def test_byte_now_and_then_does_not_prolong_open_timeout() -> None:
    with Driven(open_timeout=8.0) as driven:
        peer = driven.join()
        head = request()
        for at in range(10):
            peer.write(head[at : at + 1])
            driven.advance(1.0)
        assert peer.read_head().startswith(b"HTTP/1.1 408 ")
        assert driven.handler.events == []


#: option: (value, how the peer keeps alive, cause, code)
TIMEOUT: dict[str, tuple[float, str, int]] = {
    "idle_timeout": (30.0, "idle_timeout", 1001),
    "ping_timeout": (10.0, "ping_timeout", 1011),
    "auth_timeout": (12.0, "auth_timeout", 1008),
}


@pytest.mark.parametrize("option", TIMEOUT)
def test_waits_of_an_open_connection_have_their_limits(option: str) -> None:
    seconds, cause, code = TIMEOUT[option]
    handler = Recorder(**{option: seconds, "ping": option == "ping_timeout"})
    handler.authenticates = option == "auth_timeout"
    with Driven(handler) as driven:
        peer = driven.open()
        client = driven.handler.client()
        if option == "ping_timeout":
            driven.advance(5.0)
            driven.advance(1.0)
            assert peer.read_frame()[0] == 0x80 | PING
            seconds -= 1.0  # it may have been sent a second ago
        driven.advance(seconds - 0.1)
        assert client.is_open()
        driven.advance(2.1)
        assert refused_code(peer) == code
        peer.write(close_frame(code))
        driven.turn(2)
        assert [end[2] for end in driven.handler.of("close")] == [cause]


def refused_code(peer: Peer) -> int | None:
    return peer.read_close()[0]


def test_answer_to_our_close_frame_has_close_timeout() -> None:
    with Driven(close_timeout=3.0) as driven:
        peer = driven.open()
        driven.handler.client().close(4000)
        driven.turn()
        driven.advance(2.9)
        assert driven.handler.of("close") == []
        driven.advance(0.2)
        assert driven.handler.of("close") == [(4000, "", "local")]
        assert peer.read_close() == (4000, "")
        assert peer.read_rest() == b""


# --- Messages ------------------------------------------------------------------------

LIMIT = 10_000


def plain(size: int) -> bytes:
    return frame(BINARY, b"x" * size)


def in_fragments(size: int) -> bytes:
    return fragments(BINARY, pieces(b"x" * size, 300))


def compressed(size: int) -> bytes:
    return frame(BINARY, pack(b"x" * size), rsv=0x40)


def compressed_in_fragments(size: int) -> bytes:
    return fragments(BINARY, pieces(pack(b"x" * size), 5), rsv=0x40)


def compressed_noise(size: int) -> bytes:
    """Longer compressed than inflated."""
    return frame(BINARY, pack(random.Random(1).randbytes(size)), rsv=0x40)


SHAPES = [plain, in_fragments, compressed, compressed_in_fragments, compressed_noise]


@both_kinds
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_message_has_max_size_after_inflation(
    shape: Callable[[int], bytes], wrap: Any
) -> None:
    with Driven(max_size=LIMIT) as driven:
        peer = driven.open("/", DEFLATE, wrap=wrap)
        peer.write(shape(LIMIT))
        driven.turn(2)
        assert [len(message) for message in driven.handler.of("message")] == [LIMIT]
        peer.write(shape(LIMIT + 1))
        code, reason, cause = refused(driven, peer)
        assert (code, cause) == (1009, "too_big")
        assert "max_size 10,000" in reason
        assert len(driven.handler.of("message")) == 1


def test_default_of_max_size_is_a_mebibyte() -> None:
    with Driven() as driven:
        peer = driven.open()
        peer.send(BINARY, b"x" * 2**20)
        driven.until(lambda: driven.handler.of("message"))
        # Its header is enough.
        peer.write(frame(BINARY, b"x" * (2**20 + 1))[:14])
        assert refused(driven, peer) == (
            1009,
            "message of 1,048,577 bytes exceeds max_size 1,048,576",
            "too_big",
        )


@both_kinds
def test_message_of_65536_fragments_is_a_message(wrap: Any) -> None:
    """What conformance asks for: they join one buffer."""
    with Driven() as driven:
        peer = driven.open(wrap=wrap)
        data = random.Random(2).randbytes(2**20)
        peer.write(fragments(BINARY, pieces(data, 16)))
        driven.until(lambda: driven.handler.of("message"))
        assert driven.handler.of("message") == [data]


@both_kinds
def test_empty_fragments_have_a_limit(wrap: Any) -> None:
    # The last one may be empty as well: it counts.
    parts = [b"a", *[b""] * (MAX_EMPTY_FRAGMENTS - 1), b"b", b""]
    with Driven() as driven:
        peer = driven.open(wrap=wrap)
        for _ in range(2):  # each message has its own count
            peer.write(fragments(TEXT, parts))
        driven.turn(4)
        assert driven.handler.of("message") == ["ab", "ab"]
        peer.write(fragments(TEXT, [*parts, b""]))
        code, reason, cause = refused(driven, peer)
        assert (code, cause) == (1008, "rate")
        assert reason == "message with more than 1,000 empty fragments"


def test_streams_within_a_compressed_message_have_a_limit() -> None:
    def ended(count: int) -> bytes:
        stream = zlib.compressobj(wbits=-15)
        one = stream.compress(b"x") + stream.flush(zlib.Z_FINISH)
        return frame(TEXT, one * count, rsv=0x40)

    with Driven() as driven:
        peer = driven.open("/", DEFLATE)
        peer.write(ended(MAX_DEFLATE_STREAMS))
        driven.turn()
        assert driven.handler.of("message") == ["x" * MAX_DEFLATE_STREAMS]
        peer.write(ended(MAX_DEFLATE_STREAMS + 10))
        code, _, cause = refused(driven, peer)
        assert (code, cause) == (1007, "bad_data")


def test_payload_of_a_control_frame_has_a_limit() -> None:
    with Driven() as driven:
        peer = driven.open()
        peer.send(PING, b"x" * 125)
        assert peer.read_frame() == (0x80 | PONG, b"x" * 125)
        peer.send(PING, b"x" * 126)
        assert refused(driven, peer)[0] == 1002


def test_pongs_are_coalesced_beyond_128_a_turn() -> None:
    """RFC 6455 §5.5.3: only the most recent ping needs an answer."""
    with Driven(buffer_size=2**16) as driven:
        peer = driven.open()
        for count in (128, 1000):
            peer.write(b"".join(frame(PING, str(n)) for n in range(count)))
            driven.turn()
            came = []
            while not peer.nothing_waits():
                first, payload = peer.read_frame()
                assert first == 0x80 | PONG
                came.append(payload)
            last = b"%d" % (count - 1)
            assert came == [*(b"%d" % n for n in range(127)), last]
        assert driven.handler.names.count("ping") == 1128


# --- message_rate --------------------------------------------------------------------

KINDS: dict[str, Callable[[], bytes]] = {
    "text": lambda: frame(TEXT, "x"),
    "empty": lambda: frame(BINARY),
    "large": lambda: frame(BINARY, b"x" * 70_000),
    "compressed": lambda: frame(TEXT, pack(b"x" * 200), rsv=0x40),
    "fragments": lambda: fragments(TEXT, [b"a", b"b", b"c"]),
}


@both_kinds
@pytest.mark.parametrize("kind", KINDS)
def test_messages_beyond_burst_and_rate_end_the_connection(
    kind: str, wrap: Any
) -> None:
    message = KINDS[kind]()
    with Driven(message_rate=(2.0, 5)) as driven:
        peer = driven.open("/", DEFLATE, wrap=wrap)
        peer.write(message * 5)
        driven.until(lambda: len(driven.handler.of("message")) == 5)
        driven.clock.now += 0.5  # one more may come
        peer.write(message)
        driven.until(lambda: len(driven.handler.of("message")) == 6)
        driven.clock.now += 0.4
        peer.write(message)
        assert refused(driven, peer) == (
            1008,
            "more messages than message_rate allows: 2 a second, 5 at once",
            "rate",
        )
        assert len(driven.handler.of("message")) == 6


def test_control_frames_do_not_count_for_message_rate() -> None:
    with Driven(message_rate=(1.0, 1)) as driven:
        peer = driven.open()
        peer.write((frame(PING) + frame(PONG)) * 50 + frame(TEXT, "x"))
        driven.turn(3)
        assert driven.handler.of("message") == ["x"]
        assert driven.handler.of("close") == []


def test_steady_sender_within_the_rate_is_served_for_ever() -> None:
    with Driven(message_rate=(2.0, 2)) as driven:
        peer = driven.open()
        for _ in range(200):
            peer.text("x")
            driven.advance(0.5)
        assert len(driven.handler.of("message")) == 200


def test_rest_of_the_burst_is_not_saved_beyond_it() -> None:
    with Driven(message_rate=(10.0, 3)) as driven:
        peer = driven.open()
        driven.advance(4.0)
        peer.write(frame(TEXT, "x") * 4)
        assert refused(driven, peer)[2] == "rate"
        assert len(driven.handler.of("message")) == 3


def test_rates_of_clients_are_their_own() -> None:
    with Driven(message_rate=(1.0, 3)) as driven:
        peers = [driven.open() for _ in range(5)]
        for peer in peers:
            peer.write(frame(TEXT, "x") * 3)
        driven.turn()
        assert len(driven.handler.of("message")) == 15
        peers[0].text("one too many")
        assert refused(driven, peers[0])[0] == 1008
        driven.advance(1.0)
        for peer in peers[1:]:
            peer.text("x")
        driven.turn()
        assert len(driven.handler.of("message")) == 19


def test_rate_of_a_handler_stands_before_that_of_its_server() -> None:
    with Driven(Recorder(message_rate=(1.0, 2)), message_rate=(1.0, 50)) as driven:
        peer = driven.open()
        peer.write(frame(TEXT, "x") * 3)
        assert refused(driven, peer)[0] == 1008


# --- Pings of ours -------------------------------------------------------------------


def test_pings_that_wait_for_a_peer_that_does_not_read_have_a_limit() -> None:
    with Driven() as driven:
        driven.open(wrap=small_buffers)
        client: Client = driven.handler.client()
        client.write_message(b"x" * 2**18)
        driven.turn()
        taken = [client.ping(b"%d" % number) for number in range(100)]
        assert taken[:16] == [True] * 16
        assert not any(taken[20:])
        assert client.is_open()


# --- What docs/security.md says ------------------------------------------------------

DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"


@pytest.mark.parametrize(
    "option",
    ["max_size", "max_frame_size", "write_limit", "buffer_size", "max_buffered",
     "backlog", "max_connections", "ping_interval", "close_timeout", "message_rate"],
)  # fmt: skip
def test_largest_value_of_an_option_is_no_limit(option: str) -> None:
    most = 2**63 - 1
    value = (most, most) if option == "message_rate" else most
    with running(Echo(), **{option: value}) as server, open_peer(server) as peer:
        for message in ("short", "long" * 5000):
            peer.text(message)
            assert peer.read_message() == message
        assert peer.leave() == (1000, "")


@pytest.mark.skipif(not DOCUMENT.exists(), reason="no checkout: the docs are not here")
def test_every_test_that_the_document_names_is_there() -> None:
    text = DOCUMENT.read_text("utf-8")
    named = re.findall(r"`((?:\w+/)?test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > 50
    for file, name in named:
        text = (Path(__file__).parents[1] / file).read_text("utf-8")
        assert re.search(rf"^ *def {name}\(", text, re.MULTILINE), f"{file}::{name}"
