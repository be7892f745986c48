"""Tables and helpers of several test modules: frames in hex, and their results.

A stream is written as frames without masking, `8105|48656c6c6f`: the header, a bar, the
payload. `stream(text, masked=True)` gives the same frames as sent by a client, so that
one row serves both sides. The length in a header may exceed the payload: then the row
ends inside the frame. A row that fails ends with the first wrong byte (with the second
one, if one of the first two bytes of a header is wrong).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from simple_ws.constants import Opcode, State
from simple_ws.deflate import Agreement
from simple_ws.protocol.websocket import Protocol

Event = tuple[int, Any]

TEXT = int(Opcode.TEXT)
BINARY = int(Opcode.BINARY)
CLOSE = int(Opcode.CLOSE)
PING = int(Opcode.PING)
PONG = int(Opcode.PONG)

#: The masking key of RFC 6455 §5.7.
KEY = bytes.fromhex("37fa213d")

AGREEMENT = Agreement(
    send_takeover=True,
    receive_takeover=True,
    send_window_bits=15,
    receive_window_bits=15,
    level=6,
    mem_level=8,
    threshold=0,
)


def xor(payload: bytes, key: bytes) -> bytes:
    """RFC 6455 §5.3, as it stands there."""
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def header(first: int, length: int, *, wide: int | None = None) -> bytes:
    """A frame's header without masking; `wide` forces the size of the length field."""
    if wide is None:
        wide = 0 if length < 126 else 2 if length < 65536 else 8
    if wide == 0:
        return bytes((first, length))
    return bytes((first, 126 if wide == 2 else 127)) + length.to_bytes(wide, "big")


def mask(head: bytes, payload: bytes, key: bytes = KEY) -> bytes:
    """A frame as a client sends it."""
    if len(head) < 2:
        return head
    return bytes((head[0], head[1] | 0x80)) + head[2:] + key + xor(payload, key)


def frame(first: int, payload: bytes = b"", *, key: bytes | None = KEY) -> bytes:
    """A well-formed frame; as a server sends it when there is no key."""
    head = header(first, len(payload))
    return head + payload if key is None else mask(head, payload, key)


def stream(text: str, *, masked: bool) -> bytes:
    """The bytes of a row; a word without a bar is a header that breaks off."""
    data = b""
    for word in text.split():
        head, bar, payload = word.partition("|")
        if masked and bar:
            data += mask(bytes.fromhex(head), bytes.fromhex(payload))
        elif masked:
            first, *rest = bytes.fromhex(head)
            data += bytes((first, *(byte | 0x80 for byte in rest[:1]), *rest[1:]))
        else:
            data += bytes.fromhex(head + payload)
    return data


def bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Pieces between the given places."""
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@dataclass
class Outcome:
    """Everything a stream led to."""

    events: list[Event] = field(default_factory=list)
    output: bytes = b""
    state: State = State.OPEN
    code: int | None = None
    reason: str = ""
    cause: str | None = None


def drive(protocol: Protocol, chunks: Iterable[bytes]) -> Outcome:
    """Feed as a connection does: look again after each event."""
    outcome = Outcome()
    for chunk in chunks:
        pos = 0
        while pos < len(chunk):
            stopped = protocol.receive(chunk, pos, len(chunk))
            assert stopped > pos
            pos = stopped
            outcome.output += b"".join(protocol.take_output())
            event = protocol.take_event()
            if event is None:
                assert pos == len(chunk) or protocol.inflating
            else:
                outcome.events.append(event)
    outcome.state = protocol.state
    outcome.code = protocol.close_code
    outcome.reason = protocol.close_reason
    outcome.cause = protocol.close_cause
    return outcome


def read_frames(data: bytes, *, masked: bool = False) -> list[tuple[int, bytes]]:
    """First byte and payload of each frame, read in the plainest way there is."""
    frames = []
    pos = 0
    while pos < len(data):
        first, second = data[pos], data[pos + 1]
        pos += 2
        assert bool(second & 0x80) is masked
        length = second & 0x7F
        if length > 125:
            wide = 2 if length == 126 else 8
            length = int.from_bytes(data[pos : pos + wide], "big")
            pos += wide
        key = bytes(4)
        if masked:
            key = data[pos : pos + 4]
            pos += 4
        assert pos + length <= len(data)
        frames.append((first, xor(data[pos : pos + length], key)))
        pos += length
    return frames


def close_frame(code: int, reason: str = "") -> tuple[int, bytes]:
    """As `read_frames` gives it."""
    return 0x88, code.to_bytes(2, "big") + reason.encode()


class Case(NamedTuple):
    """One row: a stream, the events it makes, and how it ends.

    Attributes:
        section: of the RFC.
        name: for the test's id.
        stream: see the head of the module.
        events: without the last one, (CLOSE, None), where the connection ends.
        code: the close code, None while it stays open.
        output: hex of the unmasked frames that answer it, without the close frame of a
            failure.
    """

    section: str
    name: str
    stream: str
    events: list[Event] = []  # noqa: RUF012
    code: int | None = None
    output: str = ""

    @property
    def id(self) -> str:
        return f"{self.section}-{self.name}"


HELLO = [(TEXT, "Hello")]

#: RFC 6455: what is taken.
GOOD = [
    Case("5.7", "text", "8105|48656c6c6f", HELLO),
    Case("5.7", "fragmented-text", "0103|48656c 8002|6c6f", HELLO),
    Case("5.7", "ping", "8905|48656c6c6f", [(PING, b"Hello")], None, "8a0548656c6c6f"),
    Case("5.7", "unsolicited-pong", "8a05|48656c6c6f", [(PONG, b"Hello")]),
    Case("5.7", "256-bytes", "827e0100|" + "ab" * 256, [(BINARY, b"\xab" * 256)]),
    Case(
        "5.7",
        "64-KiB",
        "827f0000000000010000|" + "cd" * 65536,
        [(BINARY, b"\xcd" * 65536)],
    ),
    Case("5.2", "empty-text", "8100|", [(TEXT, "")]),
    Case("5.2", "empty-binary", "8200|", [(BINARY, b"")]),
    Case("5.2", "125-bytes", "827d|" + "00" * 125, [(BINARY, bytes(125))]),
    Case("5.2", "126-bytes", "827e007e|" + "00" * 126, [(BINARY, bytes(126))]),
    Case("5.2", "65535-bytes", "827effff|" + "01" * 65535, [(BINARY, b"\1" * 65535)]),
    Case("5.4", "three-fragments", "0201|61 0001|62 8001|63", [(BINARY, b"abc")]),
    Case("5.4", "empty-fragments", "0100| 0000| 0000| 8000|", [(TEXT, "")]),
    Case("5.4", "empty-last-fragment", "0105|48656c6c6f 8000|", HELLO),
    Case("5.4", "waits-for-the-rest", "0105|48656c6c6f"),
    Case(
        "5.4",
        "control-frames-between-fragments",
        "0103|48656c 8901|31 8a01|32 0000| 8900| 8002|6c6f",
        [(PING, b"1"), (PONG, b"2"), (PING, b""), *HELLO],
        None,
        "8a0131 8a00",
    ),
    Case(
        "5.4",
        "messages-in-a-row",
        "8101|61 8201|62 0101|63 8001|64 8101|65",
        [(TEXT, "a"), (BINARY, b"b"), (TEXT, "cd"), (TEXT, "e")],
    ),
    Case(
        "5.5",
        "ping-of-125-bytes",
        "897d|" + "ff" * 125,
        [(PING, b"\xff" * 125)],
        None,
        "8a7d" + "ff" * 125,
    ),
    Case("5.5.3", "pong-of-125-bytes", "8a7d|" + "ff" * 125, [(PONG, b"\xff" * 125)]),
    Case("5.6", "text-of-U+0000", "8101|00", [(TEXT, "\0")]),
    Case("5.6", "text-of-U+FFFF", "8103|efbfbf", [(TEXT, "\uffff")]),
    Case("5.6", "text-of-U+10FFFF", "8104|f48fbfbf", [(TEXT, "\U0010ffff")]),
    Case("5.6", "text-of-BOM", "8103|efbbbf", [(TEXT, "\ufeff")]),
    Case(
        "5.6",
        "character-across-fragments",
        "0102|f09f 0001|98 8001|80",
        [(TEXT, "\U0001f600")],
    ),
    Case(
        "5.6",
        "ping-inside-a-character",
        "0102|f09f 8902|f09f 8002|9880",
        [(PING, b"\xf0\x9f"), (TEXT, "\U0001f600")],
        None,
        "8a02f09f",
    ),
    Case("5.6", "binary-is-not-UTF-8", "8202|c328", [(BINARY, b"\xc3\x28")]),
]

#: RFC 6455: the peer's close frame, and what follows it.
CLOSING = [
    Case("5.5.1", "no-code", "8800|", [], 1005, "8800"),
    Case("5.5.1", "1000", "8802|03e8", [], 1000, "880203e8"),
    Case("5.5.1", "reason-cut-inside-a-character", "8806|03e9627965c2", [], 1007),
    Case("5.5.1", "with-reason", "8807|03e9627965c3a9", [], 1001, "880203e9"),
    Case(
        "5.5.1", "reason-of-123-bytes", "887d|03e8" + "61" * 123, [], 1000, "880203e8"
    ),
    Case("5.5.1", "payload-of-one-byte", "8801|03", [], 1002),
    Case("5.5.1", "reason-with-surrogate", "8805|03e8eda080", [], 1007),
    Case("5.5.1", "inside-a-message", "0101|61 8802|03e8", [], 1000, "880203e8"),
    Case("1.4", "ping-behind-it", "8802|03e8 8900|", [], 1000, "880203e8"),
    Case("1.4", "message-behind-it", "8802|03e8 8101|61", [], 1000, "880203e8"),
    Case("1.4", "close-behind-it", "8802|03e8 8802|03e9", [], 1000, "880203e8"),
    Case("1.4", "garbage-behind-it", "8802|03e8 ffffffff", [], 1000, "880203e8"),
    Case("1.4", "message-before-it", "8101|61 8800|", [(TEXT, "a")], 1005, "8800"),
]

#: RFC 6455 §7.4 and the registry: what may stand in a close frame.
CLOSE_CODES = [
    *range(1000, 1004),
    *range(1007, 1015),
    3000,
    3999,
    4000,
    4999,
]
FORBIDDEN_CLOSE_CODES = [
    *(0, 1, 125, 999),  # §7.4.2: "not used"
    *(1004, 1005, 1006, 1015),  # §7.4.1: "reserved", "MUST NOT be set"
    *(1016, 1100, 2000, 2999),  # §7.4.2: for later versions and extensions
    *(5000, 32768, 65535),
]

#: RFC 6455: what fails the connection.
BAD = [
    *(
        Case("5.2", f"rsv-{bits:x}-on-{first:02x}", f"{first | bits:02x}00", [], 1002)
        for bits in (0x40, 0x20, 0x10, 0x70)
        for first in (0x81, 0x82, 0x01, 0x88, 0x89, 0x8A)
    ),
    *(
        Case("5.2", f"rsv-{bits:x}-on-continuation", f"0101|61 {bits:02x}00", [], 1002)
        for bits in (0x40, 0x20, 0x10, 0xC0)
    ),
    *(
        Case("5.2", f"opcode-{opcode:x}", f"{0x80 | opcode:02x}00", [], 1002)
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    ),
    Case("5.2", "opcode-3-unfinished", "0300", [], 1002),
    Case("5.2", "16-bit-length-0", "827e0000", [], 1002),
    Case("5.2", "16-bit-length-125", "827e007d", [], 1002),
    Case("5.2", "64-bit-length-0", "827f0000000000000000", [], 1002),
    Case("5.2", "64-bit-length-125", "827f000000000000007d", [], 1002),
    Case("5.2", "64-bit-length-65535", "827f000000000000ffff", [], 1002),
    Case("5.2", "64-bit-length-top-bit", "827f8000000000000000", [], 1002),
    Case("5.2", "64-bit-length-all-bits", "827fffffffffffffffff", [], 1002),
    *(
        Case("5.5", f"{name}-of-{length}-bytes", f"{first}{code}", [], 1002)
        for name, first in (("close", "88"), ("ping", "89"), ("pong", "8a"))
        for length, code in ((126, "7e"), (65536, "7f"))
    ),
    *(
        Case("5.5", f"fragmented-{name}", f"{first}00", [], 1002)
        for name, first in (("close", "08"), ("ping", "09"), ("pong", "0a"))
    ),
    Case("5.4", "continuation-of-nothing", "8000", [], 1002),
    Case("5.4", "continuation-of-nothing-unfinished", "0000", [], 1002),
    Case("5.4", "continuation-after-the-end", "0101|61 8001|62 8000", [(TEXT, "ab")],
         1002),
    Case("5.4", "text-inside-text", "0101|61 8101", [], 1002),
    Case("5.4", "binary-inside-text", "0101|61 0201", [], 1002),
    Case("5.4", "fragmented-ping-inside-a-message", "0101|61 0900", [], 1002),
    Case("5.4", "messages-before", "8101|61 8901|62 8300", [(TEXT, "a"), (PING, b"b")],
         1002, "8a0162"),
    *(
        Case("7.4", f"close-code-{code}", f"8802|{code:04x}", [], 1002)
        for code in FORBIDDEN_CLOSE_CODES
    ),
]  # fmt: skip

#: UTF-8 (RFC 3629), each up to and with the first byte that cannot be right.
WRONG_UTF8 = [
    ("lone-continuation", "80"),
    ("lone-continuation-bf", "61bf"),
    ("c0-overlong", "c0"),
    ("c1-overlong", "61c1"),
    ("c3-then-ascii", "c328"),
    ("c3-then-lead", "c3c3"),
    ("e0-overlong", "e080"),
    ("e0-9f-overlong", "e09f"),
    ("ed-surrogate", "eda0"),
    ("ed-last-surrogate", "edbf"),
    ("e2-then-ascii", "e22e"),
    ("e2-82-then-ascii", "e2822e"),
    ("f0-overlong", "f080"),
    ("f0-8f-overlong", "f08f"),
    ("f4-beyond-unicode", "f490"),
    ("f4-bf", "f4bf"),
    ("f1-then-ascii", "f141"),
    ("f1-80-then-ascii", "f18041"),
    ("f1-80-80-then-ascii", "f1808041"),
    ("f5", "f5"),
    ("f8", "f8"),
    ("fe", "fe"),
    ("ff", "ff"),
    ("autobahn-6.3", "cebae1bdb9cf83cebcceb5eda0"),
    ("autobahn-6.4", "cebae1bdb9cf83cebcceb5f490"),
]

#: Texts that end too early: wrong only when the message ends.
CUT_UTF8 = ["c3", "e2", "e282", "f0", "f09f", "f09f98", "61c3", "f48f", "ed9f"]


#: RFC 6455 §8.1: text that is no UTF-8, at the first byte that is wrong. The header
#: promises 100 bytes that never come.
BAD_UTF8 = [
    *(Case("8.1", f"frame-{n}", f"8164|{x}", [], 1007) for n, x in WRONG_UTF8),
    *(Case("8.1", f"fragment-{n}", f"0164|{x}", [], 1007) for n, x in WRONG_UTF8),
    *(
        Case("8.1", f"across-{n}", f"01{len(x) // 2 - 1:02x}|{x[:-2]} 0064|{x[-2:]}",
             [], 1007)
        for n, x in WRONG_UTF8
    ),
    *(Case("8.1", f"cut-{x}", f"81{len(x) // 2:02x}|{x}", [], 1007) for x in CUT_UTF8),
    *(
        Case("8.1", f"cut-fragment-{x}", f"01{len(x) // 2:02x}|{x} 8000|", [], 1007)
        for x in CUT_UTF8
    ),
]  # fmt: skip

#: RFC 7692 §7.2.3: what a peer that compresses may send.
DEFLATED = [
    Case("7.2.3.1", "text", "c107|f248cdc9c90700", HELLO),
    Case("7.2.3.1", "fragments", "4103|f248cd 8004|c9c90700", HELLO),
    Case(
        "7.2.3.2", "shared-window", "c107|f248cdc9c90700 c105|f200110000", HELLO * 2
    ),
    Case("7.2.3.3", "stored-block", "c10b|000500faff48656c6c6f00", HELLO),
    Case("7.2.3.4", "bfinal", "c108|f348cdc9c9070000", HELLO),
    Case(
        "7.2.3.4",
        "bfinal-and-again",
        "c108|f348cdc9c9070000 c107|f248cdc9c90700 c108|f348cdc9c9070000",
        HELLO * 3,
    ),
    Case("7.2.3.5", "two-blocks", "c10d|f248050000 00ffffcac9c90700".replace(" ", ""),
         HELLO),
    Case("7.2.3.6", "empty-message", "c101|00", [(TEXT, "")]),
    Case("6", "empty-fragments", "4100| 0000| 8007|f248cdc9c90700", HELLO),
    Case("6", "plain-message-between", "c107|f248cdc9c90700 8101|61 c105|f200110000",
         [*HELLO, (TEXT, "a"), *HELLO]),
    Case("6", "binary", "c207|f248cdc9c90700", [(BINARY, b"Hello")]),
    Case("6.1", "control-frame-between", "4103|f248cd 8901|31 8004|c9c90700",
         [(PING, b"1"), *HELLO], None, "8a0131"),
]  # fmt: skip

#: RFC 7692: what fails the connection. RSV1 on what begins no message; data that are no
#: deflate; text that is no UTF-8 (in stored blocks, where each byte shows at once).
BAD_DEFLATED = [
    # Cut off in the middle of a block: "Hello" is inflated, and must not be delivered.
    *(
        Case("7.2.2", f"cut-{x}", f"c2{len(x) // 2:02x}|{x}", [], 1007)
        for x in ("f248cdc9c9", "f248cdc9c907", "f348cdc9c9", "000900f6ff48656c6c6f")
    ),
    Case("7.2.2", "no-block-at-all", "c200|", [], 1007),
    Case("7.2.2", "cut-fragment", "4203|f248cd 8002|c9c9", [], 1007),
    *(
        Case("6", f"rsv1-on-{first:02x}", f"{first:02x}00", [], 1002)
        for first in (0xC8, 0xC9, 0xCA)
    ),
    Case("6.1", "rsv1-on-continuation", "4103|f248cd c004", [], 1002),
    Case("6.1", "rsv1-on-continuation-of-plain", "0103|48656c c002", [], 1002),
    *(
        Case("6", f"rsv-{bits:x}", f"{0x81 | bits:02x}00", [], 1002)
        for bits in (0x20, 0x10, 0x60, 0x70)
    ),
    Case("7.2.2", "block-type-3", "c110|07", [], 1007),
    Case("7.2.2", "stored-length-mismatch", "c110|0005000000", [], 1007),
    Case("7.2.2", "distance-too-far", "c110|f20011", [], 1007),
    Case("7.2.2", "text-before", "8101|61 c110|07", [(TEXT, "a")], 1007),
    *(
        Case("8.1", f"stored-{n}", f"c164|004000bfff{x}", [], 1007)
        for n, x in WRONG_UTF8
    ),
    *(
        Case("8.1", f"stored-fragment-{n}", f"4105|004000bfff 0064|{x}", [], 1007)
        for n, x in WRONG_UTF8
    ),
    *(
        Case("8.1", f"stored-cut-{x}",
             f"c1{6 + n:02x}|00{n:02x}00{255 - n:02x}ff{x}00", [], 1007)
        for x, n in ((x, len(x) // 2) for x in CUT_UTF8)
    ),
]  # fmt: skip
