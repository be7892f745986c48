"""The codecs of both backends: masking, frame headers, UTF-8, deflate."""

from __future__ import annotations

import os
import random
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from itertools import pairwise, product
from types import ModuleType
from typing import Any

import pytest
from deflate_reference import is_whole_message
from hypothesis import given
from hypothesis import strategies as st
from rfc_cases import bytewise

from simple_ws.constants import MAX_DEFLATE_STREAMS
from simple_ws.errors import InvalidData, ProtocolError

pytestmark = pytest.mark.one_backend

Outcome = tuple[str, object]

MIB = 1024 * 1024
HELLO_KEY = bytes.fromhex("37fa213d")

keys = st.binary(min_size=4, max_size=4)
cut_points = st.lists(st.floats(0, 1), max_size=6)
bufferlike = st.sampled_from([bytes, bytearray, memoryview])


def pieces(data: bytes, cuts: list[float]) -> list[bytes]:
    """Cut at the given fractions; no cut gives one piece."""
    places = sorted(int(cut * len(data)) for cut in cuts)
    return [data[a:b] for a, b in pairwise([0, *places, len(data)])]


def outcome(function: Callable[..., object], *args: Any) -> Outcome:
    """What a call returned or raised, with the text, to be compared."""
    try:
        return "returned", function(*args)
    except (ProtocolError, ValueError) as error:
        return type(error).__name__, str(error)


# --- Masking -------------------------------------------------------------------------


def test_mask_of_rfc_example(codecs: ModuleType) -> None:
    masked = bytes.fromhex("7f9f4d5158")  # RFC 6455 §5.7
    assert codecs.apply_mask(b"Hello", HELLO_KEY) == masked
    assert codecs.apply_mask(masked, HELLO_KEY) == b"Hello"


@pytest.mark.parametrize("size", [*range(40), 2047, 2048, 2049, 65536, 100_003])
def test_mask_is_the_formula_of_the_rfc(codecs: ModuleType, size: int) -> None:
    data = random.Random(size).randbytes(size)
    key = b"\x01\x80\xff\x37"
    # RFC 6455 §5.3: transformed-octet-i = original-octet-i XOR
    # masking-key-octet-(i MOD 4)
    expected = bytes(byte ^ key[i % 4] for i, byte in enumerate(data))
    assert codecs.apply_mask(data, key) == expected


@given(data=st.binary(max_size=300), key=keys, kind=bufferlike)
def test_masking_twice_gives_the_payload_back(
    codecs: ModuleType, data: bytes, key: bytes, kind: type
) -> None:
    masked = codecs.apply_mask(kind(data), key)
    assert type(masked) is bytes
    assert codecs.apply_mask(masked, key) == data


@given(data=st.binary(max_size=300), key=keys, cuts=cut_points)
def test_masking_in_pieces_is_masking_whole(
    codecs: ModuleType, data: bytes, key: bytes, cuts: list[float]
) -> None:
    masked, offset = b"", 0
    for piece in pieces(data, cuts):
        masked += codecs.apply_mask(piece, key, offset)
        offset += len(piece)
    assert masked == codecs.apply_mask(data, key)


def test_mask_leaves_its_input_as_it_was(codecs: ModuleType) -> None:
    data = bytearray(b"untouched" * 9)
    codecs.apply_mask(data, b"keys")
    assert data == b"untouched" * 9


def test_mask_reads_inside_a_larger_buffer(codecs: ModuleType) -> None:
    view = memoryview(b"...Hello...")[3:8]
    assert codecs.apply_mask(view, HELLO_KEY).hex() == "7f9f4d5158"


@pytest.mark.parametrize("key", [b"", b"abc", b"abcde"])
def test_mask_refuses_a_key_of_wrong_size(codecs: ModuleType, key: bytes) -> None:
    text = f"masking key must be 4 bytes, got {len(key)}"
    with pytest.raises(ValueError, match=text):
        codecs.apply_mask(b"data", key)
    with pytest.raises(ValueError, match=text):
        codecs.build_frame(0x81, b"data", key)


# --- Frame headers -------------------------------------------------------------------

#: (id, frame as hex without the payload, first byte, payload length, key)
HEADERS = [
    ("5.7-text", "8105", 0x81, 5, None),
    ("5.7-text-masked", "818537fa213d", 0x81, 5, HELLO_KEY),
    ("5.7-fragment", "0103", 0x01, 3, None),
    ("5.7-last-fragment", "8002", 0x80, 2, None),
    ("5.7-ping", "8905", 0x89, 5, None),
    ("5.7-pong-masked", "8a8537fa213d", 0x8A, 5, HELLO_KEY),
    ("5.7-256-bytes", "827e0100", 0x82, 256, None),
    ("5.7-64-KiB", "827f0000000000010000", 0x82, 65536, None),
    ("5.2-empty", "8200", 0x82, 0, None),
    ("5.2-125", "827d", 0x82, 125, None),
    ("5.2-126", "827e007e", 0x82, 126, None),
    ("5.2-126-masked", "82fe007e00000000", 0x82, 126, b"\0\0\0\0"),
    ("5.2-65535", "827effff", 0x82, 65535, None),
    ("5.2-65536-masked", "82ff000000000001000001020304", 0x82, 65536, b"\1\2\3\4"),
    ("5.2-largest", "827f7fffffffffffffff", 0x82, (1 << 63) - 1, None),
    ("5.2-all-first-bits", "ff80ffffffff", 0xFF, 0, b"\xff\xff\xff\xff"),
]

TOP_BIT = "the most significant bit of a frame length is set"

#: (id, header as hex, length at which it is refused, text)
BAD_HEADERS = [
    ("0-in-2", "827e0000", 4, "frame length 0 is not encoded minimally"),
    ("125-in-2", "827e007d", 4, "frame length 125 is not encoded minimally"),
    ("125-in-2-masked", "82fe007d", 4, "frame length 125 is not encoded minimally"),
    ("0-in-8", "827f" + "00" * 8, 10, "frame length 0 is not encoded minimally"),
    (
        "65535-in-8",
        "82ff000000000000ffff",
        10,
        "frame length 65,535 is not encoded minimally",
    ),
    ("top-bit", "827f8000000000000000", 10, TOP_BIT),
    ("all-bits", "82ffffffffffffffffff", 10, TOP_BIT),
]


def rows(table: list[Any]) -> list[Any]:
    return [pytest.param(*row[1:], id=row[0]) for row in table]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize(("head", "first", "length", "key"), rows(HEADERS))
def test_header_is_read(
    codecs: ModuleType, kind: type, head: str, first: int, length: int, key: bytes
) -> None:
    data = bytes.fromhex(head)
    expected = (len(data), first, length, key)
    assert codecs.parse_header(kind(data), 0, len(data)) == expected
    around = kind(b"\xff\xff\xff" + data + b"\x81\x05Hello")
    assert codecs.parse_header(around, 3, len(around)) == expected
    assert codecs.parse_header(around, 3, 3 + len(data)) == expected


@pytest.mark.parametrize(("head", "first", "length", "key"), rows(HEADERS))
def test_header_is_incomplete_at_every_truncation(
    codecs: ModuleType, head: str, first: int, length: int, key: bytes
) -> None:
    data = bytes.fromhex(head)
    for end in range(len(data)):
        assert codecs.parse_header(data[:end], 0, end) is None
        # What lies behind `end` is there, but must not be looked at.
        assert codecs.parse_header(data, 0, end) is None
        assert codecs.parse_header(b"\xff" + data, 1, 1 + end) is None


@pytest.mark.parametrize(("head", "refused_at", "text"), rows(BAD_HEADERS))
def test_header_is_refused_as_soon_as_its_length_is_there(
    codecs: ModuleType, head: str, refused_at: int, text: str
) -> None:
    data = bytes.fromhex(head) + b"\1\2\3\4"
    for end in range(len(data) + 1):
        if end < refused_at:
            assert codecs.parse_header(data, 0, end) is None
        else:
            with pytest.raises(ProtocolError) as caught:
                codecs.parse_header(data, 0, end)
            assert str(caught.value) == text
            assert caught.value.code == 1002


@given(data=st.binary(max_size=20), start=st.integers(0, 3))
def test_backends_agree_on_any_header(
    extension: ModuleType, fallback: ModuleType, data: bytes, start: int
) -> None:
    args = (data, min(start, len(data)), len(data))
    assert outcome(extension.parse_header, *args) == outcome(
        fallback.parse_header, *args
    )


@given(
    second=st.sampled_from([126, 127, 254, 255]),
    rest=st.lists(st.sampled_from([0, 1, 125, 126, 127, 128, 255]), max_size=12).map(
        bytes
    ),
)
def test_backends_agree_on_long_headers(
    extension: ModuleType, fallback: ModuleType, second: int, rest: bytes
) -> None:
    data = bytes((0x82, second)) + rest
    args = (data, 0, len(data))
    assert outcome(extension.parse_header, *args) == outcome(
        fallback.parse_header, *args
    )


@pytest.mark.parametrize(
    ("start", "end"),
    [(-3, 2), (0, 13), (0, sys.maxsize), (-sys.maxsize - 1, sys.maxsize), (5, 13)],
)
def test_extension_never_reads_outside_its_input(
    extension: ModuleType, start: int, end: int
) -> None:
    with pytest.raises(IndexError, match="index out of range"):
        extension.parse_header(b"\x81\x05Hello12345", start, end)
    assert extension.parse_header(b"", 9, -9) is None


@pytest.mark.parametrize(("head", "first", "length", "key"), rows(HEADERS))
def test_frame_is_built_as_it_is_read(
    codecs: ModuleType, head: str, first: int, length: int, key: bytes | None
) -> None:
    if length > 65536:
        pytest.skip("too long to build")
    payload = bytes(range(256)) * (length // 256) + bytes(range(length % 256))
    body = payload if key is None else codecs.apply_mask(payload, key)
    expected = bytes.fromhex(head) + body
    for kind in (bytes, bytearray, memoryview):
        frame = codecs.build_frame(first, kind(payload), key)
        assert type(frame) is bytes
        assert frame == expected


@given(
    first=st.integers(0, 255),
    payload=st.binary(max_size=300),
    key=st.none() | keys,
)
def test_frame_round_trip(
    codecs: ModuleType, first: int, payload: bytes, key: bytes | None
) -> None:
    frame = codecs.build_frame(first, payload, key)
    size, read_first, length, read_key = codecs.parse_header(frame, 0, len(frame))
    assert (read_first, length, read_key) == (first, len(payload), key)
    body = frame[size:]
    assert (body if key is None else codecs.apply_mask(body, key)) == payload


@pytest.mark.parametrize("first", [-1, 256])
def test_frame_refuses_a_first_byte_that_is_none(
    codecs: ModuleType, first: int
) -> None:
    with pytest.raises(ValueError, match=r"bytes must be in range\(0, 256\)"):
        codecs.build_frame(first, b"")


@pytest.mark.parametrize("payload", ["text", None, 5])
def test_frame_refuses_what_is_not_bytes(codecs: ModuleType, payload: object) -> None:
    with pytest.raises(TypeError):
        codecs.build_frame(0x81, payload)


def test_no_buffer_stays_locked(codecs: ModuleType) -> None:
    data = bytearray(b"\x82\x7e\x00\x00" * 8)
    with pytest.raises(ProtocolError):
        codecs.parse_header(data, 0, len(data))
    with pytest.raises(ValueError, match="masking key"):
        codecs.apply_mask(data, b"")
    with pytest.raises(ValueError, match="masking key"):
        codecs.build_frame(0x82, data, b"")
    with pytest.raises(InvalidData):
        codecs.Inflater(15, True).feed(bytearray(b"\xff"), 9)
    codecs.Utf8Validator().feed(data)
    codecs.Deflater(6, 8, 15, True).compress(data)
    data.append(1)  # BufferError if one of them still held it


# --- UTF-8 ---------------------------------------------------------------------------

VALID_TEXTS = [
    "",
    "plain ASCII, long enough for a few words of eight bytes, and then some more.",
    "κόσμε",
    "Grüße, 世界, 😀",
    "\x00\x7f\x80\u07ff\u0800\ud7ff\ue000\ufffd\uffff\U00010000\U0010ffff",
    "a" * 31 + "é" + "b" * 33 + "世" + "c" * 7 + "😀",
]

#: (id, bytes as hex, how many of them pass before one cannot be)
INVALID_TEXTS = [
    ("lone-continuation", "80", 0),
    ("lone-continuation-high", "bf", 0),
    ("overlong-2-c0", "c080", 0),
    ("overlong-2-c1", "c1bf", 0),
    ("overlong-3", "e08080", 1),
    ("overlong-3-last", "e09fbf", 1),
    ("overlong-4", "f0808080", 1),
    ("overlong-4-last", "f08fbfbf", 1),
    ("surrogate-first", "eda080", 1),
    ("surrogate-last", "edbfbf", 1),
    ("above-10ffff", "f4908080", 1),
    ("f5", "f5808080", 0),
    ("fe", "fe", 0),
    ("ff", "ff", 0),
    ("2-cut-short", "c341", 1),
    ("3-cut-short", "e28241", 2),
    ("4-cut-short", "f09f9841", 3),
    ("2-doubled-lead", "c3c3a9", 1),
    ("autobahn-6.4", "cebae1bdb9cf83cebcceb5f4908080656469746564", 12),
    ("after-words", "61" * 40 + "ff", 40),
    ("in-second-word", "61" * 11 + "c3" + "61" * 20, 12),
]


def refusal(codecs: ModuleType, parts: list[bytes]) -> int | bool:
    """The index of the refused piece, or whether the text was complete."""
    validator = codecs.Utf8Validator()
    for index, part in enumerate(parts):
        if not validator.feed(part):
            return index
    complete = validator.finish()
    assert validator.finish()  # begun anew
    return complete


@pytest.mark.parametrize("text", VALID_TEXTS)
def test_utf8_is_accepted(codecs: ModuleType, text: str) -> None:
    data = text.encode()
    assert refusal(codecs, [data]) is True
    assert refusal(codecs, [bytearray(data)]) is True
    assert refusal(codecs, bytewise(data)) is True
    for cut in range(len(data)):
        assert refusal(codecs, [data[:cut], data[cut:]]) is True
        assert refusal(codecs, [data[:cut]]) is (data[cut] & 0xC0 != 0x80)


@pytest.mark.parametrize(("text", "passes"), rows(INVALID_TEXTS))
def test_utf8_is_refused_at_the_first_byte_that_cannot_be(
    codecs: ModuleType, text: str, passes: int
) -> None:
    data = bytes.fromhex(text)
    assert refusal(codecs, bytewise(data)) == passes
    for cut in range(len(data)):
        # Whole or in two pieces: refused with the piece that holds the byte.
        expected = 0 if passes < cut else 1
        assert refusal(codecs, [data[:cut], data[cut:]]) == expected
    for more in (b"", b"a", b"\x80", b"a" * 50):
        assert refusal(codecs, [data + more]) == 0
        assert refusal(codecs, [data[: passes + 1] + more]) == 0


def test_utf8_of_every_kind_of_sequence_is_judged_alike(
    extension: ModuleType, fallback: ModuleType
) -> None:
    bounds = bytes.fromhex("417f808f909fa0bfc0c1c2dfe0e1ecedeeeff0f1f3f4f5ff")
    for size in (1, 2, 3):
        for choice in product(bounds, repeat=size):
            data = bytes(choice)
            for parts in ([data], bytewise(data)):
                assert refusal(extension, parts) == refusal(fallback, parts), data


texts = st.one_of(
    # Characters at the bounds of each length; all of Unicode takes 10 s to set up
    # under a sanitizer.
    st.text(alphabet=VALID_TEXTS[4] + "aé世😀", max_size=80).map(str.encode),
    st.binary(max_size=40),
    st.lists(st.sampled_from(["a" * 9, "é", "世界", "😀", "\udfff"]), max_size=12).map(
        lambda parts: "".join(parts).encode("utf-8", "surrogatepass")
    ),
)


@given(data=texts, cuts=cut_points)
def test_utf8_verdict_does_not_depend_on_the_pieces(
    codecs: ModuleType, data: bytes, cuts: list[float]
) -> None:
    at = refusal(codecs, bytewise(data))
    parts = pieces(data, cuts)
    found = refusal(codecs, parts)
    if at is True or at is False:
        try:
            data.decode()
        except UnicodeDecodeError:
            assert at is False
        else:
            assert at is True
        assert found is at
    else:
        ends = [sum(map(len, parts[: i + 1])) for i in range(len(parts))]
        assert found == next(i for i, end in enumerate(ends) if end > at)


@given(data=texts, cuts=cut_points)
def test_backends_refuse_utf8_at_the_same_piece(
    extension: ModuleType, fallback: ModuleType, data: bytes, cuts: list[float]
) -> None:
    parts = pieces(data, cuts)
    assert refusal(extension, parts) == refusal(fallback, parts)


# --- Deflate -------------------------------------------------------------------------

#: RFC 7692 §7.2.3, as messages that follow each other on one connection.
RFC_MESSAGES = [
    ("7.2.3.1-one-block", ["f248cdc9c90700"], [b"Hello"]),
    ("7.2.3.2-shared-window", ["f248cdc9c90700", "f200110000"], [b"Hello", b"Hello"]),
    ("7.2.3.3-stored-block", ["000500faff48656c6c6f00"], [b"Hello"]),
    ("7.2.3.4-final-block", ["f348cdc9c9070000"], [b"Hello"]),
    (
        "7.2.3.4-window-kept-over-final-block",
        ["f348cdc9c9070000", "f200110000"],
        [b"Hello", b"Hello"],
    ),
    (
        "final-block-without-an-empty-one-behind",
        ["f348cdc9c90700", "f200110000"],
        [b"Hello", b"Hello"],
    ),
    ("7.2.3.5-two-blocks", ["f248050000" + "00ffffcac9c90700"], [b"Hello"]),
    ("7.2.3.6-empty", ["00", "00"], [b"", b""]),
]


def inflate(inflater: Any, parts: list[bytes], limit: int = MIB) -> bytes:
    """Inflate one message; stops, as the protocol does, when it is too big."""
    plain = b""
    for part in parts:
        plain += inflater.feed(part, limit - len(plain))
        if len(plain) > limit:
            return plain
    inflater.finish()
    return plain


def deflated(data: bytes, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    stream = zlib.compressobj(6, zlib.DEFLATED, -15)
    return stream.compress(data) + stream.flush(flush)


def words(seed: int, size: int) -> bytes:
    """Text that compresses about as well as JSON does."""
    rng = random.Random(seed)
    some = [rng.randbytes(rng.randrange(2, 9)).hex() for _ in range(40)]
    return " ".join(rng.choice(some) for _ in range(size // 4)).encode()[:size]


@pytest.mark.parametrize(("messages", "texts"), rows(RFC_MESSAGES))
def test_messages_of_the_rfc_are_inflated(
    codecs: ModuleType, messages: list[str], texts: list[bytes]
) -> None:
    for cut in (lambda data: [data], bytewise):
        inflater = codecs.Inflater(15, True)
        found = [inflate(inflater, cut(bytes.fromhex(each))) for each in messages]
        assert found == texts


def test_messages_of_the_rfc_are_deflated(codecs: ModuleType) -> None:
    deflater = codecs.Deflater(6, 8, 15, True)
    assert deflater.compress(b"Hello").hex() == "f248cdc9c90700"
    assert deflater.compress(b"Hello").hex() == "f200110000"
    assert deflater.compress(b"").hex() == "00"
    assert deflater.compress(b"").hex() == "00"
    assert deflater.compress(b"Hello").hex() == "02130000"


def test_window_is_forgotten_without_takeover(codecs: ModuleType) -> None:
    deflater = codecs.Deflater(6, 8, 15, False)
    for _ in range(3):
        assert deflater.compress(b"Hello").hex() == "f248cdc9c90700"
    inflater = codecs.Inflater(15, False)
    assert inflate(inflater, [bytes.fromhex("f248cdc9c90700")]) == b"Hello"
    with pytest.raises(InvalidData, match=r"^invalid deflate data$"):
        inflate(inflater, [bytes.fromhex("f200110000")])


def test_window_is_forgotten_without_takeover_after_a_final_block(
    codecs: ModuleType,
) -> None:
    inflater = codecs.Inflater(15, False)
    for _ in range(2):
        final = [bytes.fromhex("f348cdc9c9070000")]
        assert inflate(inflater, final) == b"Hello"
    with pytest.raises(InvalidData):
        inflate(inflater, [bytes.fromhex("f200110000")])


@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.parametrize("window_bits", range(8, 16))
def test_deflate_round_trip_with_every_window(
    codecs: ModuleType, window_bits: int, takeover: bool
) -> None:
    deflater = codecs.Deflater(6, 8, window_bits, takeover)
    inflater = codecs.Inflater(window_bits, takeover)
    for size in (0, 1, 500, 8191, 8192, 8193, 0, 70_000, 300_000, 3):
        message = words(size, size)
        packed = deflater.compress(message)
        assert inflate(inflater, [packed]) == message


def strictly(stream: Any, packed: bytes) -> bytes:
    """Inflate byte by byte into room for one byte, which leaves a stream nothing to
    look back at but its window."""
    plain = bytearray()
    for byte in bytewise(packed):
        piece = stream.decompress(byte, 1)
        while piece or stream.unconsumed_tail:
            plain += piece
            piece = stream.decompress(stream.unconsumed_tail, 1)
    return bytes(plain)


@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.parametrize("level", [1, 6, 9])
@pytest.mark.parametrize("window_bits", [8, 9, 10, 12])
def test_deflater_never_looks_back_beyond_its_window(
    codecs: ModuleType, window_bits: int, level: int, takeover: bool
) -> None:
    window = 1 << window_bits
    deflater = codecs.Deflater(level, 9, window_bits, takeover)
    stream = zlib.decompressobj(-window_bits)
    for size in (window - 20, window, window + 20, window // 3):
        message = words(size, size) * 4
        packed = deflater.compress(message) + b"\x00\x00\xff\xff"
        if not takeover:
            stream = zlib.decompressobj(-window_bits)
        assert strictly(stream, packed) == message


def test_strict_inflation_would_notice_a_larger_window() -> None:
    message = random.Random(1).randbytes(300) * 2
    packed = zlib.compressobj(6, zlib.DEFLATED, -15)
    data = packed.compress(message) + packed.flush(zlib.Z_SYNC_FLUSH)
    with pytest.raises(zlib.error, match="too far back"):
        strictly(zlib.decompressobj(-8), data)


messages = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.builds(
            lambda part, times: part * times,
            st.binary(max_size=20),
            st.integers(0, 2000),
        ),
    ),
    min_size=1,
    max_size=5,
)


@given(
    messages=messages,
    level=st.integers(-1, 9),
    mem_level=st.integers(1, 9),
    window_bits=st.integers(8, 15),
    takeover=st.booleans(),
    cuts=cut_points,
)
def test_deflate_round_trip_across_backends(
    extension: ModuleType,
    fallback: ModuleType,
    messages: list[bytes],
    level: int,
    mem_level: int,
    window_bits: int,
    takeover: bool,
    cuts: list[float],
) -> None:
    for sender, receiver in ((extension, fallback), (fallback, extension)):
        deflater = sender.Deflater(level, mem_level, window_bits, takeover)
        inflater = receiver.Inflater(window_bits, takeover)
        for message in messages:
            parts = pieces(deflater.compress(message), cuts)
            assert inflate(inflater, parts, len(message)) == message


@given(messages=messages, takeover=st.booleans(), kind=bufferlike, cuts=cut_points)
def test_inflation_does_not_depend_on_the_pieces(
    codecs: ModuleType,
    messages: list[bytes],
    takeover: bool,
    kind: type,
    cuts: list[float],
) -> None:
    deflater = codecs.Deflater(6, 8, 15, takeover)
    whole = codecs.Inflater(15, takeover)
    pieced = codecs.Inflater(15, takeover)
    for message in messages:
        packed = deflater.compress(kind(message))
        assert inflate(whole, [packed]) == message
        assert inflate(pieced, [kind(part) for part in pieces(packed, cuts)]) == message


@given(
    texts=st.lists(st.binary(max_size=30), min_size=1, max_size=6),
    seam=st.sampled_from([b"", b"\x00"]),
    takeover=st.booleans(),
    cuts=cut_points,
)
def test_message_of_several_ended_streams_is_inflated(
    codecs: ModuleType,
    texts: list[bytes],
    seam: bytes,
    takeover: bool,
    cuts: list[float],
) -> None:
    packed = b"".join(deflated(text, zlib.Z_FINISH) for text in texts)
    inflater = codecs.Inflater(15, takeover)
    for last in (seam, b"\x00", deflated(b"the end")[:-4]):
        expected = b"".join(texts) + (b"the end" if len(last) > 1 else b"")
        assert inflate(inflater, pieces(packed + last, cuts)) == expected


NOISE = random.Random(3).randbytes(30)
TO_CUT = [
    (f"level-{level}-strategy-{strategy}-end-{end}", level, strategy, end)
    for level, strategy in [
        (0, zlib.Z_DEFAULT_STRATEGY),
        (6, zlib.Z_DEFAULT_STRATEGY),
        (6, zlib.Z_FIXED),
        (6, zlib.Z_HUFFMAN_ONLY),
    ]
    for end in (zlib.Z_SYNC_FLUSH, zlib.Z_FINISH)
]


@pytest.mark.parametrize("takeover", [True, False], ids=["takeover", "fresh"])
@pytest.mark.parametrize(("level", "strategy", "end"), rows(TO_CUT))
def test_message_cut_off_in_a_block_is_refused(
    codecs: ModuleType, level: int, strategy: int, end: int, takeover: bool
) -> None:
    # In two blocks, and so that the second refers to the first.
    stream = zlib.compressobj(level, zlib.DEFLATED, -15, 9, strategy)
    text = NOISE.hex().encode() * 3
    packed = stream.compress(text) + stream.flush(zlib.Z_FULL_FLUSH)
    packed += stream.compress(text + NOISE) + stream.flush(end)
    if end == zlib.Z_SYNC_FLUSH:
        packed = packed[:-4]
    refused = 0
    for size in range(len(packed) + 1):
        whole = is_whole_message(packed[:size])
        for cut in (lambda data: [data], bytewise):
            inflater = codecs.Inflater(15, takeover)
            if whole:
                assert (text + text + NOISE).startswith(
                    inflate(inflater, cut(packed[:size]))
                )
                if takeover:  # and goes on
                    assert inflate(inflater, [deflated(b"Hello")[:-4]]) == b"Hello"
                continue
            refused += 1
            with pytest.raises(InvalidData) as caught:
                inflate(inflater, cut(packed[:size]))
            assert caught.value.code == 1007
    assert is_whole_message(packed)
    assert refused > 100


@given(packed=st.binary(max_size=40))
def test_any_bytes_are_cut_off_or_not_as_the_reference_says(
    codecs: ModuleType, packed: bytes
) -> None:
    try:
        inflate(codecs.Inflater(15, True), [packed])
    except InvalidData:
        return
    assert is_whole_message(packed)


def test_ended_stream_keeps_a_full_window(codecs: ModuleType) -> None:
    inflater = codecs.Inflater(15, True)
    old = random.Random(7).randbytes(40_000)
    assert inflate(inflater, [deflated(old, zlib.Z_FINISH)]) == old
    # Points back to all that a window can hold, over the end of a stream.
    known = zlib.compressobj(6, zlib.DEFLATED, -15, 9, zdict=old[-32768:])
    again = old[-32768 + 300 : -3000]
    packed = known.compress(again) + known.flush(zlib.Z_SYNC_FLUSH)
    assert len(packed) < 2000
    assert inflate(inflater, [packed[:-4]]) == again


#: An empty final block with fixed codes (RFC 1951 §3.2.6).
EMPTY_STREAM = b"\x03\x00"


@pytest.mark.parametrize("cut", [lambda data: [data], bytewise])
def test_ended_streams_are_counted_in_each_message(
    codecs: ModuleType, cut: Callable[[bytes], list[bytes]]
) -> None:
    inflater = codecs.Inflater(15, True)
    for _ in range(2):
        packed = EMPTY_STREAM * MAX_DEFLATE_STREAMS
        assert inflate(inflater, cut(packed)) == b""
    text = f"^more than {MAX_DEFLATE_STREAMS} deflate streams$"
    with pytest.raises(InvalidData, match=text):
        inflate(inflater, cut(EMPTY_STREAM * (MAX_DEFLATE_STREAMS + 1)))


@pytest.mark.parametrize("size", [0, 1, 5, 8190, 8191, 8192, 8193, 16384, 100_000])
def test_limit_on_both_sides(codecs: ModuleType, size: int) -> None:
    packed = deflated(b"x" * size)[:-4]
    exact = codecs.Inflater(15, True)
    assert len(inflate(exact, [packed], size)) == size
    if size:
        assert len(codecs.Inflater(15, True).feed(packed, size - 1)) == size
        assert len(inflate(codecs.Inflater(15, True), bytewise(packed), size)) == size
        short = inflate(codecs.Inflater(15, True), bytewise(packed), size - 1)
        assert len(short) == size


@pytest.mark.parametrize("limit", [0, 1, 100, 8191, 8192, 20_000, MIB])
def test_bomb_costs_no_more_than_the_limit(codecs: ModuleType, limit: int) -> None:
    packed = deflated(bytes(16 * MIB))
    inflater = codecs.Inflater(15, True)
    tracemalloc.start()
    try:
        plain = inflater.feed(packed, limit)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(plain) == limit + 1
    assert peak < 4 * limit + 200_000


@pytest.mark.parametrize("limit", [5, 9, 10, 14, 15])
def test_limit_holds_over_ended_streams(codecs: ModuleType, limit: int) -> None:
    packed = deflated(b"Hello", zlib.Z_FINISH) * 3
    plain = inflate(codecs.Inflater(15, True), [packed], limit)
    assert plain == (b"Hello" * 3)[: limit + 1]


def test_limit_may_be_as_large_as_a_number_gets(codecs: ModuleType) -> None:
    inflater = codecs.Inflater(15, True)
    assert inflate(inflater, [deflated(b"Hello")[:-4]], sys.maxsize - 1) == b"Hello"


@pytest.mark.parametrize(
    "packed",
    [
        "ff",  # a block type that there is not
        "07",
        "0105000000",  # a stored block whose lengths contradict each other
        "f200110000",  # looks back beyond the beginning
        "f248cdc9c907ffff",
        "ecc0810c0000000000905fdb1000000000000000",
    ],
)
def test_corrupt_data_is_refused(codecs: ModuleType, packed: str) -> None:
    for cut in (lambda data: [data], bytewise):
        inflater = codecs.Inflater(15, True)
        with pytest.raises(InvalidData, match=r"^invalid deflate data$") as caught:
            inflate(inflater, cut(bytes.fromhex(packed)))
        assert caught.value.code == 1007
        with pytest.raises(InvalidData):  # and stays so
            inflate(inflater, [deflated(b"Hello")])


def judge(inflater: Any, parts: list[bytes], limit: int) -> list[object]:
    """What each step of a message returned, to the first exception."""
    steps: list[object] = []
    for part in parts:
        steps.append(outcome(inflater.feed, part, limit))
        found = steps[-1][1]  # type: ignore[index]
        if not isinstance(found, bytes) or len(found) > limit:
            return steps
        limit -= len(found)
    return [*steps, outcome(inflater.finish)]


broken = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda data, at, byte, last: (
            (
                (packed := bytearray(deflated(data * 9, last)))
                and packed.__setitem__(int(at * (len(packed) - 1)), byte)
            )
            or bytes(packed)
        ),
        st.binary(max_size=60),
        st.floats(0, 1),
        st.integers(0, 255),
        st.sampled_from([zlib.Z_SYNC_FLUSH, zlib.Z_FINISH]),
    ),
)


@given(
    messages=st.lists(broken, min_size=1, max_size=3),
    takeover=st.booleans(),
    limit=st.sampled_from([0, 1, 10, 100, 600, 8191, 8192, MIB]),
    cuts=cut_points,
)
def test_backends_agree_on_broken_messages(
    extension: ModuleType,
    fallback: ModuleType,
    messages: list[bytes],
    takeover: bool,
    limit: int,
    cuts: list[float],
) -> None:
    twins = [each.Inflater(15, takeover) for each in (extension, fallback)]
    for message in messages:
        found, expected = (judge(twin, pieces(message, cuts), limit) for twin in twins)
        assert found == expected
        if any(step[0] != "returned" for step in expected):  # type: ignore[index]
            break
        # Beyond the limit the object is "of no more use", and the twins may differ.
        if sum(len(step[1] or b"") for step in expected) > limit:  # type: ignore[index]
            break


@pytest.mark.parametrize(
    "arguments",
    [
        (10, 8, 15, True),
        (-2, 8, 15, True),
        (6, 0, 15, True),
        (6, 10, 15, True),
        (6, 8, 16, True),
    ],
)
def test_deflater_refuses_parameters_that_are_none(
    codecs: ModuleType, arguments: tuple[object, ...]
) -> None:
    with pytest.raises(ValueError, match=r"^Invalid initialization option$"):
        codecs.Deflater(*arguments)


@pytest.mark.parametrize("window_bits", [7, 16])
def test_inflater_refuses_a_window_that_is_none(
    codecs: ModuleType, window_bits: int
) -> None:
    with pytest.raises(ValueError, match=r"^Invalid initialization option$"):
        codecs.Inflater(window_bits, True)


def resident() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="ASAN hoards")
def test_contexts_are_given_back(codecs: ModuleType) -> None:
    def use() -> None:
        packed = codecs.Deflater(6, 8, 15, True).compress(b"Hello" * 9)
        inflate(codecs.Inflater(15, True), [packed])
        with pytest.raises(InvalidData):
            codecs.Inflater(15, True).feed(b"\xff", 9)

    use()
    before = resident()
    for _ in range(200):
        use()
    # One deflate context takes 268 KB: 200 of them would be 54 MB.
    assert resident() - before < 16 * MIB


def test_message_beyond_the_limit_is_judged_alike_however_it_goes_on(
    extension: ModuleType, fallback: ModuleType
) -> None:
    # Found by test_backends_agree_on_broken_messages; the second message is undefined.
    message = bytes.fromhex("1308080808080808080808000000")
    found = [
        judge(each.Inflater(15, False), [message], 10) for each in (extension, fallback)
    ]
    assert found[0] == found[1]
