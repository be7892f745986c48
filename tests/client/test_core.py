"""The common core of both clients: parsing messages, limits, pings, the end."""

from __future__ import annotations

import itertools
import logging
import random
from typing import Any

import pytest
from client_harness import server_close, server_frame
from harness import BINARY, CLOSE, PING, PONG, TEXT, Clock
from hypothesis import given
from hypothesis import strategies as st

from simple_ws.client.core import ClientCore, encode
from simple_ws.client.options import ClientOptions
from simple_ws.constants import CloseCause
from simple_ws.deflate import Agreement
from simple_ws.protocol.client_handshake import Accepted
from simple_ws.protocol.fields import Headers
from simple_ws.protocol.uri import parse_uri
from simple_ws.protocol.websocket import Protocol


class Core(ClientCore):
    """Notes what it is asked for."""

    def __init__(self, agreement: Agreement | None = None, **options: Any) -> None:
        self.clock = Clock()
        accepted = Accepted(Headers(), None, agreement, b"")
        uri = parse_uri("ws://me:secret@h/path")
        super().__init__(uri, accepted, ClientOptions(**options), self.clock)
        self.sent: list[bytes] = []
        self.pongs: list[bytes] = []
        self.answered: list[tuple[bytes, float]] = []

    def _put(self, frame: bytes) -> None:
        self.sent.append(frame)

    def _put_pong(self, frame: bytes) -> None:
        self.pongs.append(frame)

    def _on_pong(self, payload: bytes, latency: float) -> None:
        self.answered.append((payload, latency))

    def take_all(self) -> list[str | bytes]:
        messages = []
        while self._inbox:
            messages.append(self._take())
        return messages

    def feed(self, data: bytes) -> list[str | bytes]:
        self._feed(data)
        return self.take_all()


def unmask(frame: bytes) -> tuple[int, bytes]:
    """First byte and payload of a short frame of ours."""
    size = frame[1] & 0x7F
    assert frame[1] & 0x80, "a client must mask"
    assert len(frame) == size + 6
    key, data = frame[2:6], frame[6:]
    return frame[0], bytes(a ^ b for a, b in zip(data, itertools.cycle(key)))


STREAM = b"".join(
    (
        server_frame(TEXT, "plain"),
        server_frame(TEXT, "\u00e9\U0001f600"),
        server_frame(BINARY, b"\xff\x00"),
        server_frame(TEXT, ""),
        server_frame(PING, "are you there"),
        server_frame(BINARY, b"x" * 126),
        server_frame(TEXT, "y" * 65535),
        server_frame(BINARY, b"z" * 65536),
        server_frame(TEXT, "frag", first=0),
        server_frame(PONG, "by the way"),
        server_frame(0, "ment"),
        server_frame(BINARY, b""),
    )
)
MESSAGES = [
    "plain",
    "\u00e9\U0001f600",
    b"\xff\x00",
    "",
    b"x" * 126,
    "y" * 65535,
    b"z" * 65536,
    "fragment",
    b"",
]


def test_messages_are_read_from_a_stream() -> None:
    core = Core()
    assert core.feed(STREAM) == MESSAGES
    assert [unmask(pong) for pong in core.pongs] == [(0x8A, b"are you there")]
    assert core.is_open()


def test_stream_may_come_byte_by_byte() -> None:
    core = Core()
    messages = [m for byte in STREAM for m in core.feed(bytes((byte,)))]
    assert messages == MESSAGES


@given(st.lists(st.integers(0, len(STREAM)), max_size=12), st.integers(1, 200_000))
def test_neither_cuts_nor_limits_change_what_is_read(
    cuts: list[int], limit: int
) -> None:
    core = Core(read_limit=limit)
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in itertools.pairwise(edges):
        core._feed(STREAM[start:end])
    assert core.take_all() == MESSAGES
    assert core._inbox_size == 0
    assert core._rest == b""


class TestLimits:
    def test_reading_stops_where_enough_waits(self) -> None:
        core = Core(read_limit=1000)
        core._feed(server_frame(TEXT, "x" * 100) * 100)
        assert core._full
        assert core._inbox_size < 1000 + 200
        assert len(core._inbox) < 10
        assert core.take_all() == ["x" * 100] * 100
        assert not core._full

    def test_empty_messages_count_too(self) -> None:
        core = Core(read_limit=1000)
        core._feed(server_frame(TEXT) * 10_000)
        assert core._full
        assert len(core._inbox) < 20

    def test_messages_of_one_byte_over_are_read_one_by_one(self) -> None:
        core = Core(read_limit=1)
        core._feed(server_frame(TEXT, "a") + server_frame(TEXT, "b"))
        assert len(core._inbox) == 1
        assert core._take() == "a"
        assert len(core._inbox) == 1

    def test_message_larger_than_the_limit_is_read_all_the_same(self) -> None:
        core = Core(read_limit=10)
        assert core.feed(server_frame(TEXT, "x" * 1000)) == ["x" * 1000]

    def test_compressed_messages_are_not_inflated_ahead_of_need(self) -> None:
        agreement = Agreement(True, True, 15, 15, 9, 9, 0)
        server = Protocol(server=True, agreement=agreement)
        bomb = b"".join(server.send_message(TEXT, b"\0" * 2**19) for _ in range(50))
        core = Core(agreement, read_limit=2**19)
        core._feed(bomb)
        assert len(core._inbox) == 1
        assert len(core.take_all()) == 50

    def test_control_frames_behind_a_full_inbox_wait(self) -> None:
        core = Core(read_limit=1)
        core._feed(server_frame(TEXT, "a") + server_frame(PING) + server_close(1000))
        assert core.pongs == []
        assert core.close_code is None
        assert core._take() == "a"
        assert len(core.pongs) == 1
        assert core.close_code == 1000

    @pytest.mark.parametrize("size", [10, 11])
    def test_largest_message_is_that_of_max_size(self, size: int) -> None:
        core = Core(max_size=10)
        taken = core.feed(server_frame(TEXT, "x" * size))
        assert taken == (["x" * 10] if size == 10 else [])
        assert core.close_code == (None if size == 10 else 1009)
        assert core.close_cause == (None if size == 10 else CloseCause.TOO_BIG)


class TestFaults:
    @pytest.mark.parametrize(
        ("data", "code"),
        [
            (b"\x81\x81\x00\x00\x00\x00x", 1002),  # masked
            (b"\x83\x00", 1002),
            (b"\xc1\x00", 1002),
            (b"\x80\x00", 1002),
            (b"\x81\x7e\x00\x05hello", 1002),  # length not minimal
            (b"\x81\x01\xff", 1007),
            (b"\x81\x7e\x00\x80" + b"x" * 127 + b"\xff", 1007),
        ],
    )
    def test_fault_of_the_server_fails_the_connection(
        self, data: bytes, code: int
    ) -> None:
        core = Core()
        assert core.feed(server_frame(TEXT, "good") + data) == ["good"]
        assert core.close_code == code
        assert not core.is_open()
        first, payload = unmask(core.sent[-1])
        assert (first, payload[:2]) == (0x88, code.to_bytes(2, "big"))
        error = core._closed()
        assert (error.code, error.cause) == (code, core.close_cause)
        assert core.feed(server_frame(TEXT, "more")) == []

    @given(st.binary(max_size=300), st.integers(0, 2**32))
    def test_any_bytes_are_read_or_fail_the_connection(
        self, data: bytes, seed: int
    ) -> None:
        chosen = random.Random(seed)
        core, pos = Core(max_size=100), 0
        while pos < len(data):
            step = chosen.randint(1, 40)
            core._feed(data[pos : pos + step])
            pos += step
        whole = Core(max_size=100)
        assert core.take_all() == whole.feed(data)
        assert core.close_code == whole.close_code


class TestEnd:
    def test_close_of_the_server_is_echoed(self) -> None:
        core = Core()
        assert core.feed(server_frame(TEXT, "bye") + server_close(4001, "why")) == [
            "bye"
        ]
        assert unmask(core.sent[-1]) == (0x88, b"\x0f\xa1")
        assert (core.close_code, core.close_reason) == (4001, "why")
        assert core.close_cause is CloseCause.PEER
        assert str(core._closed()) == "closed with 4001 'why' (peer)"

    def test_close_without_a_code_is_1005(self) -> None:
        core = Core()
        core._feed(server_frame(CLOSE))
        assert core.close_code == 1005

    def test_loss_is_1006(self) -> None:
        core = Core()
        core._lose("gone", CloseCause.RESET)
        assert not core.is_open()
        assert (core.close_code, core.close_reason) == (1006, "gone")
        assert core.close_cause is CloseCause.RESET

    def test_what_came_before_a_loss_is_read_first(self) -> None:
        core = Core(read_limit=1)
        core._feed(
            server_frame(TEXT, "a") + server_frame(TEXT, "b") + server_close(1001)
        )
        core._lose("gone", CloseCause.EOF)
        core._lose("gone twice", CloseCause.RESET)
        assert not core.is_open()
        assert core.close_code is None
        assert core._closed().code == 1006
        assert core.take_all() == ["a", "b"]
        assert core.close_code == 1001

    def test_loss_in_the_middle_of_a_message(self) -> None:
        core = Core()
        core._feed(server_frame(TEXT, "cut off")[:-2])
        core._lose("gone", CloseCause.EOF)
        assert core.close_code == 1006

    def test_own_close_skips_what_comes(self) -> None:
        core = Core(read_limit=1)
        core._feed(server_frame(TEXT, "a") + server_frame(TEXT, "b"))
        core._start_close(1000, "enough")
        assert not core.is_open()
        assert unmask(core.sent[-1]) == (0x88, b"\x03\xe8enough")
        core._feed(server_frame(TEXT, "c") + server_close(1000))
        assert core.take_all() == ["a"]
        assert (core.close_code, core.close_cause) == (1000, CloseCause.LOCAL)


class TestSending:
    @pytest.mark.parametrize(
        ("message", "binary", "first", "payload"),
        [
            ("h\u00e9", None, 0x81, b"h\xc3\xa9"),
            (b"\xff", None, 0x82, b"\xff"),
            (bytearray(b"ab"), None, 0x82, b"ab"),
            (memoryview(b"ab"), None, 0x82, b"ab"),
            ({"a": [1]}, None, 0x81, b'{"a":[1]}'),
            ("text", True, 0x82, b"text"),
            (b"text", False, 0x81, b"text"),
        ],
    )
    def test_type_decides_how_a_message_travels(
        self, message: object, binary: bool | None, first: int, payload: bytes
    ) -> None:
        assert unmask(Core()._frame(*encode(message, binary))) == (first, payload)

    def test_each_frame_has_a_key_of_its_own(self) -> None:
        core = Core()
        keys = {core._frame(*encode("x", None))[2:6] for _ in range(200)}
        core._start_close(1000, "")
        keys |= {core._protocol.send_ping(b"")[2:6] for _ in range(200)}
        assert len(keys) == 400

    def test_long_messages_are_split_where_asked(self) -> None:
        frame = Core(max_frame_size=4)._frame(*encode("0123456789", None))
        parts = [frame[start : start + 10] for start in (0, 10)] + [frame[20:]]
        assert [unmask(part) for part in parts] == [
            (0x01, b"0123"),
            (0x00, b"4567"),
            (0x80, b"89"),
        ]

    def test_messages_are_compressed_from_the_threshold(self) -> None:
        core = Core(Agreement(True, True, 15, 15, 9, 9, 10))
        assert core.compressed
        assert core._frame(*encode("x" * 9, None))[0] == 0x81
        assert core._frame(*encode("x" * 10, None))[0] == 0xC1

    @pytest.mark.parametrize("message", [1, None, object(), ("a",)])
    def test_other_types_are_refused(self, message: object) -> None:
        with pytest.raises(TypeError, match="a message must be"):
            encode(message, None)

    def test_bytes_that_are_no_text_are_refused_as_text(self) -> None:
        with pytest.raises(ValueError, match="utf-8"):
            encode(b"\xff", False)


class TestPings:
    def test_latency_is_the_time_between_ping_and_pong(self) -> None:
        core = Core()
        payload = core._ping(b"mine")
        assert unmask(core.sent[-1]) == (0x89, b"mine")
        core.clock.now += 0.25
        core._feed(server_frame(PONG, payload))
        assert core.answered == [(b"mine", 0.25)]
        assert core.latency == 0.25

    def test_ping_without_a_payload_gets_one_of_its_own(self) -> None:
        core = Core()
        assert len({core._ping(b"") for _ in range(10)} - {b""}) == 10

    def test_pong_answers_earlier_pings_as_well(self) -> None:
        core = Core()
        for name in (b"a", b"b", b"c"):
            core._ping(name)
            core.clock.now += 1
        core._feed(server_frame(PONG, "b"))
        assert core.answered == [(b"a", 3.0), (b"b", 2.0)]
        core._feed(server_frame(PONG, "c"))
        assert core.answered[2:] == [(b"c", 1.0)]

    def test_unsolicited_pongs_mean_nothing(self) -> None:
        core = Core()
        core._ping(b"a")
        core._feed(server_frame(PONG, "x") + server_frame(PONG))
        assert core.answered == []
        assert core.latency is None

    def test_silent_server_is_pinged_and_given_up(self) -> None:
        core = Core(ping_interval=20, ping_timeout=5)
        assert core._next_beat() == core.clock.now + 20
        core.clock.now += 19
        assert core._keep_alive(core.clock.now)
        assert core.sent == []
        core.clock.now += 1
        assert core._keep_alive(core.clock.now)
        assert core.sent[-1][0] == 0x89
        assert core._next_beat() == core.clock.now + 5
        core.clock.now += 4
        assert core._keep_alive(core.clock.now)
        core.clock.now += 1
        assert not core._keep_alive(core.clock.now)
        core._give_up_silent()
        assert core.close_code == 1011
        assert core.close_cause is CloseCause.PING_TIMEOUT
        assert core.close_reason == "no answer to a ping within ping_timeout 5 s"
        assert core.sent[-1][0] == 0x88

    def test_any_byte_is_a_sign_of_life(self) -> None:
        core = Core(ping_interval=20, ping_timeout=5)
        core.clock.now += 20
        core._keep_alive(core.clock.now)
        core.clock.now += 1
        core._feed(server_frame(TEXT, "hello")[:1])
        assert core._next_beat() == core.clock.now + 20
        core.clock.now += 19
        assert core._keep_alive(core.clock.now)
        assert len(core.sent) == 1

    def test_server_may_be_left_in_peace(self) -> None:
        core = Core(ping_interval=None, ping_timeout=None)
        assert core._next_beat() is None
        core.clock.now += 1e6
        assert core._keep_alive(core.clock.now)
        assert core.sent == []

    def test_server_may_be_pinged_without_consequences(self) -> None:
        core = Core(ping_interval=20, ping_timeout=None)
        core.clock.now += 20
        assert core._keep_alive(core.clock.now)
        assert core._next_beat() is None
        core.clock.now += 1e6
        assert core._keep_alive(core.clock.now)
        assert len(core.sent) == 1


def test_repr_shows_no_secret() -> None:
    assert repr(Core()) == "<Core ws://h/path open>"


# --- Turns ---------------------------------------------------------------------------


class Ticking(Clock):
    """A clock by which a look at it takes a millisecond; nothing else takes time."""

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def flood(kind: str) -> bytes:
    """As much of a kind as one read brings, with a message behind it."""
    frame = {
        "pings": server_frame(PING),
        "pongs": server_frame(PONG),
        "small messages": server_frame(BINARY, b"x"),
        "fragments": server_frame(0, b"x", first=0),
    }[kind]
    start = server_frame(BINARY, first=0) if kind == "fragments" else b""
    end = server_frame(0) if kind == "fragments" else b""
    count = (2**14 if kind in ("pings", "pongs") else 2**18) // len(frame)
    return start + frame * count + end + server_frame(TEXT, "at last")


@pytest.mark.parametrize("kind", ["pings", "pongs", "small messages", "fragments"])
def test_turn_is_bounded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    core = Core(max_size=None, read_limit=2**30)
    core._clock = Ticking()
    taken: list[int] = []
    receive = Protocol.receive

    def counted(self: Protocol, data: bytes, start: int, end: int) -> int:
        taken.append(end - start)
        return receive(self, data, start, end)

    monkeypatch.setattr(Protocol, "receive", counted)
    core._feed(flood(kind))
    turns, before = 1, 0
    while core._unread:
        assert len(taken) <= 4
        assert max(taken) <= 4096
        assert len(core._inbox) - before <= 4 * (2**16 / 64 + 1)
        taken.clear()
        before = len(core._inbox)
        core._read_on()
        turns += 1
    assert turns > 10
    assert core.take_all()[-1] == "at last"
    assert core.is_open()


def test_turn_is_bounded_by_what_is_inflated() -> None:
    agreement = Agreement(True, True, 15, 15, 9, 8, 0)
    zeros = Protocol(server=True, agreement=agreement)
    bomb = zeros.send_message(BINARY, bytes(2**25))
    assert len(bomb) > 2**14
    core = Core(agreement, max_size=None)
    core._clock = Ticking()
    core._feed(bomb)
    grown = [0]
    while core._unread:
        core._read_on()
        grown.append(len(core._protocol._message))
    assert len(grown) > 2
    # Deflate shrinks by 1,030 at most, so that these are slices of input.
    assert max(b - a for a, b in itertools.pairwise(grown)) <= 3 * 4096 * 1030 * 2
    assert core.take_all() == [bytes(2**25)]


def test_whole_frame_is_read_in_one_go_where_it_costs_little() -> None:
    core = Core(max_size=None)
    core._clock = Ticking()
    data = server_frame(BINARY, bytes(2**20))
    core._feed(data[: 2**19])
    assert not core._unread
    core._feed(data[2**19 :])
    assert core.take_all() == [bytes(2**20)]


@pytest.mark.parametrize("how", ["lost", "closing"])
def test_what_waits_for_a_turn_is_read_before_the_end(how: str) -> None:
    core = Core()
    core._clock = Ticking()
    core._feed(flood("pings") + server_close(1001, "bye"))
    assert core._unread
    if how == "lost":
        core._lose("gone", CloseCause.EOF)
    else:
        core._start_close(1000, "")
    assert not core.is_open()
    while core._unread:
        core._read_on()
    assert core.take_all() == (["at last"] if how == "lost" else [])
    code = 1001 if how == "lost" else 1000
    assert core.close_code == code


@pytest.mark.parametrize(
    ("data", "level"),
    [
        (server_frame(TEXT, first=0) + server_frame(0, first=0) * 1000, logging.INFO),
        (server_frame(TEXT, b"\xff"), logging.INFO),
        (server_close(1000), logging.DEBUG),
    ],
    ids=["empty fragments", "bad data", "close"],
)
def test_only_a_fault_of_the_server_is_worth_a_line(
    data: bytes, level: int, caplog: Any
) -> None:
    core = Core()
    core._feed(data)
    with caplog.at_level(logging.DEBUG, "simple_ws"):
        core._log_end()
    assert [record.levelno for record in caplog.records] == [level]
