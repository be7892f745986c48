"""Streams of nearly right bytes: a server and wsproto must come to the same verdict.

Each seed makes a stream of frames, most of them right, then breaks it in one place or
another and cuts it anywhere. What the server hears, answers and closes with is held
against wsproto, which has never seen our code: once as a server that reads the same
bytes, once as a client that reads our answers.

    PYTHONPATH=tests python tests/whole/test_fuzz.py --seconds 600   more, of new seeds
    PYTHONPATH=tests python tests/whole/test_fuzz.py --seed 12345    this one again

FUZZ_SECONDS=60 does the first in a normal run of the tests.
"""

from __future__ import annotations

import argparse
import os
import random
import time
import zlib
from itertools import pairwise
from typing import Any

import pytest
from harness import BINARY, CLOSE, PING, PONG, TEXT, Driven, Echo, Wrapped, frame

import simple_ws

wsproto = pytest.importorskip("wsproto")

from protocol.test_websocket import Peer as ServerOracle  # noqa: E402  # needs wsproto
from wsproto import events as ws_events  # noqa: E402
from wsproto.connection import Connection, ConnectionType  # noqa: E402
from wsproto.extensions import PerMessageDeflate  # noqa: E402

STREAMS = 1500
SECONDS = float(os.environ.get("FUZZ_SECONDS", 0))
OFFER = "Sec-WebSocket-Extensions: permessage-deflate"

TEXTS = [
    b"",
    b"a",
    b"plain text",
    "Zwölf Boxkämpfer jagen Viktor €𝄞".encode() * 4,
    b"x" * 125,
    b"y" * 126,
    b"z" * 4100,
    b"w" * 66_000,
    b"\xff",
    b"overlong \xc0\xaf",
    b"surrogate \xed\xa0\x80",
    b"cut \xf0\x9d\x84",
]


# --- Streams -------------------------------------------------------------------------


class Maker:
    """Makes one stream of a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.deflate = self.rng.random() < 0.5
        self.wrapped = self.rng.random() < 0.3
        self._context = zlib.compressobj(wbits=-15)

    def stream(self) -> list[bytes]:
        """The pieces in which it is sent."""
        rng = self.rng
        data = b"".join(self._part() for _ in range(rng.randrange(1, 9)))
        for _ in range(rng.choice([0, 0, 0, 1, 1, 2, 3])):
            data = self._broken(data)
        count = rng.choice([0, 1, 3, 10])
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(count))
        if rng.random() < 0.1 and len(data) < 400:
            cuts = list(range(len(data)))  # byte by byte
        return [data[a:b] for a, b in pairwise([0, *cuts, len(data)]) if a < b]

    def _part(self) -> bytes:
        kind = self.rng.random()
        if kind < 0.62:
            return self._message()
        if kind < 0.82:
            return self._control()
        if kind < 0.88:
            return self._close()
        return self._odd()

    def _payload(self, opcode: int) -> bytes:
        rng = self.rng
        if opcode == TEXT and rng.random() < 0.9:
            return rng.choice(TEXTS[:8] if rng.random() < 0.9 else TEXTS)
        size = rng.choice([0, 1, 2, 124, 125, 126, 127, 1000, 4095, 9000, 65_535])
        return rng.randbytes(size)

    def _message(self) -> bytes:
        rng = self.rng
        opcode = rng.choice([TEXT, BINARY])
        payload = self._payload(opcode)
        rsv = 0
        if self.deflate and rng.random() < 0.6:
            payload, rsv = self._packed(payload), 0x40
        count = rng.choice([1, 1, 1, 2, 3, 7])
        if count == 1:
            return frame(opcode, payload, rsv=rsv)
        places = sorted(rng.randrange(len(payload) + 1) for _ in range(count - 1))
        parts = []
        for number, (a, b) in enumerate(pairwise([0, *places, len(payload)])):
            parts.append(
                frame(
                    0 if number else opcode,
                    payload[a:b],
                    fin=number == count - 1,
                    rsv=0 if number else rsv,
                )
            )
            if rng.random() < 0.2:
                parts.append(self._control())
        return b"".join(parts)

    def _packed(self, payload: bytes) -> bytes:
        rng = self.rng
        flush = rng.choice([zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH])
        data = self._context.compress(payload) + self._context.flush(flush)
        return data[:-4]

    def _control(self) -> bytes:
        payload = self.rng.randbytes(self.rng.choice([0, 1, 4, 124, 125]))
        return frame(self.rng.choice([PING, PONG]), payload)

    def _close(self) -> bytes:
        rng = self.rng
        code = rng.choice([1000, 1001, 1005, 1006, 1015, 999, 2999, 3000, 4999, 5000])
        reason = rng.choice([b"", b"bye", "\u00e9".encode() * 10, b"\xff", b"\xc3"])
        payload = rng.choice([b"", b"\x03", code.to_bytes(2, "big") + reason])
        return frame(CLOSE, payload)

    def _odd(self) -> bytes:
        rng = self.rng
        opcode = rng.randrange(16)
        size = rng.choice([0, 1, 125, 126, 300])
        data = frame(
            opcode,
            rng.randbytes(size),
            fin=rng.random() < 0.5,
            rsv=rng.randrange(8) << 4,
        )
        if rng.random() < 0.2:  # not masked
            return bytes((data[0], data[1] & 0x7F)) + data[2:]
        if rng.random() < 0.2:  # a length that is longer than it need be
            length = rng.choice([b"\xfe\x00\x05", b"\xff" + bytes(7) + b"\x05"])
            return data[:1] + length + rng.randbytes(9)
        if rng.random() < 0.1:  # a length with its highest bit set
            return data[:1] + b"\xff\x80" + bytes(7) + rng.randbytes(9)
        return data

    def _broken(self, data: bytes) -> bytes:
        """The same with a fault of the kind that networks and programs make."""
        rng = self.rng
        at = rng.randrange(len(data))
        match rng.randrange(6):
            case 0:  # a bit
                flipped = data[at] ^ 1 << rng.randrange(8)
                return data[:at] + bytes((flipped,)) + data[at + 1 :]
            case 1:  # a byte too few
                return data[:at] + data[at + 1 :] or b"\0"
            case 2:  # one too many
                return data[:at] + rng.randbytes(1) + data[at:]
            case 3:  # some of it twice
                size = rng.randrange(1, 40)
                return data[: at + size] + data[at:]
            case 4:  # cut off
                return data[: at + 1]
            case _:  # noise
                return data[:at] + rng.randbytes(rng.randrange(1, 30)) + data[at:]


# --- Verdicts ------------------------------------------------------------------------

Heard = list[tuple[int, Any]]


def serve(maker: Maker, pieces: list[bytes]) -> tuple[Heard, Any, bytes]:
    """What a server of ours hears, how it ends ("open": not), and its answers."""
    handler = Echo(max_size=2**20, write_limit=2**24)
    output = b""
    with Driven(handler, ping=False) as driven:
        peer = driven.open(
            "/",
            *([OFFER] if maker.deflate else []),
            wrap=Wrapped if maker.wrapped else None,
        )
        for piece in pieces:
            left = memoryview(piece)
            while left:
                try:
                    left = left[peer.sock.send(left) :]
                except BlockingIOError:
                    pass
                except OSError:
                    left = left[:0]  # it has closed
                driven.turn(2)
                output += peer.read_now()
        for _ in range(4):
            driven.turn(3)
            output += peer.read_now()
        (client,) = {event.client for event in handler.events}
        cause = str(client.close_cause or "open")
        end = client.close_code, cause, client.close_reason
        assert handler.names.count("error") == 0
        # Both ways of counting must agree.
        assert client.messages_received == len(handler.of("message"))
    names = {"ping": PING, "pong": PONG}
    heard: Heard = [
        (
            names.get(event.name) or (TEXT if isinstance(event.value, str) else BINARY),
            event.value,
        )
        for event in handler.events
        if event.name in ("message", "ping", "pong")
    ]
    return heard, end, output


class ClientOracle:
    """wsproto on the side of the client: reads what the server answers."""

    def __init__(self, deflate: bool) -> None:
        extension = PerMessageDeflate()
        extension._enabled = True
        extensions = [extension] if deflate else []
        self._connection = Connection(ConnectionType.CLIENT, extensions=extensions)
        self.heard: Heard = []
        self.code: int | None = None
        self._parts: list[Any] = []

    def receive(self, data: bytes) -> None:
        self._connection.receive_data(data)
        for event in self._connection.events():
            match event:
                case ws_events.Message():
                    self._parts.append(event.data)
                    if event.message_finished:
                        whole = event.data[:0].join(self._parts)
                        opcode = TEXT if isinstance(whole, str) else BINARY
                        self.heard.append((opcode, whole))
                        self._parts = []
                case ws_events.Pong():
                    self.heard.append((PONG, bytes(event.payload)))
                case ws_events.CloseConnection():
                    self.code = int(event.code)
                case _:
                    raise AssertionError(f"a server does not send {event}")


def compare(heard: Heard, end: Any, theirs: ServerOracle, where: str) -> None:
    """Hold what a server heard, and how it ended, against wsproto."""
    code, cause, reason = end
    ours = len(heard)
    assert heard == theirs.events[:ours], where
    if reason == "text is not valid UTF-8":
        # Python's decoder, which wsproto uses, lets the first half of a surrogate pass
        # when it comes in pieces. The message is never heard, but what is between.
        assert all(each[0] in (PING, PONG) for each in theirs.events[ours:]), where
        return
    assert ours == len(theirs.events), where
    if reason == "new message inside a fragmented one":
        # §5.4, by its header; wsproto inflates its payload first, which may fail.
        assert theirs.code in {1002, 1007}, where
    elif cause == "too_big":
        # A header made so by a broken bit; wsproto waits for what does not come, and
        # inflates what has come.
        assert theirs.code in {None, 1007}, where
    else:
        assert code == theirs.code, where


def judge(seed: int) -> str:
    """Compare verdicts on the stream of a seed; how it ended."""
    maker = Maker(seed)
    pieces = maker.stream()
    heard, (code, cause, reason), output = serve(maker, pieces)

    theirs = ServerOracle(deflated=maker.deflate)
    theirs.receive(b"".join(pieces))
    by_us = cause in ("protocol_error", "bad_data")
    if by_us and theirs.code is None:
        # wsproto waits for the whole header, and for a byte of the payload, before it
        # says what is wrong with the first two bytes.
        theirs.receive(bytes(15))
    if not theirs.extension.ended:
        compare(heard, (code, cause, reason), theirs, f"seed {seed}: {reason}")

    reader = ClientOracle(maker.deflate)
    reader.receive(output)
    messages = [each for each in heard if each[0] in (TEXT, BINARY)]
    pings = [payload for opcode, payload in heard if opcode == PING]
    echoes = [each for each in reader.heard if each[0] != PONG]
    pongs = [payload for opcode, payload in reader.heard if opcode == PONG]
    assert echoes == messages, f"seed {seed}"
    assert pongs == pings, f"seed {seed}"
    # §5.5.1: what the peer said is said back; a fault of its own it is told.
    assert reader.code == code, f"seed {seed}"
    return cause


def test_verdicts_on_nearly_right_streams_are_those_of_wsproto() -> None:
    ends = {judge(seed) for seed in range(STREAMS)}
    # The streams are worth their time only if they end in many ways.
    assert ends == {"open", "peer", "protocol_error", "bad_data"}


@pytest.mark.skipif(not SECONDS, reason="FUZZ_SECONDS is not set")
@pytest.mark.timeout(SECONDS + 60)
def test_verdicts_on_more_streams() -> None:
    fuzz(SECONDS)


def fuzz(seconds: float) -> int:
    """Judge streams of new seeds for so long; how many there were."""
    end = time.monotonic() + seconds
    seed = first = time.time_ns()
    while time.monotonic() < end:
        judge(seed)
        seed += 1
    return seed - first


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="only the stream of this seed")
    options = parser.parse_args()
    if options.seed is not None:
        maker = Maker(options.seed)
        for piece in maker.stream():
            print(piece.hex())
        print(judge(options.seed))
    else:
        count = fuzz(options.seconds)
        print(f"{count:,} streams, backend {simple_ws.BACKEND}: all as wsproto has it")


if __name__ == "__main__":
    main()
