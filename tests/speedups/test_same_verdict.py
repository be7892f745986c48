"""Both backends get the same bytes, split at the same places, and must produce the
same events, close codes, reasons and output.

A process has one backend, so this file is a program as well: it reads streams from
standard input and prints the result of each.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from harness import Driven, Echo, frame

MAX_SIZE = 20_000
STREAMS = 600
TEXTS = [
    b"plain",
    b"",
    "Zwölf Boxkämpfer €𝄞".encode() * 9,
    b"x" * 125,
    b"y" * 126,
    b"z" * 5000,
    b"\xff wrong from the beginning",
    b"ends inside \xe2\x82",
    b"a surrogate \xed\xa0\x80",
    b"late " * 1500 + b"\xc0\xaf",
    b"m" * MAX_SIZE,
    b"n" * (MAX_SIZE + 1),
]


def packed(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-12)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


def some_frames(rng: random.Random) -> bytes:
    """One message or control frame; one in four of them breaks a rule."""
    text = rng.choice(TEXTS)
    binary = rng.randbytes(rng.choice([0, 1, 125, 126, 4000, 9000, 19_000]))
    middle = rng.randrange(len(text) + 1)
    good = [
        lambda: frame(1, text),
        lambda: frame(2, binary),
        lambda: frame(1, packed(text), rsv=0x40),
        lambda: frame(2, packed(binary), rsv=0x40),
        lambda: frame(9, text[:125]),
        lambda: frame(10, binary[:125]),
        lambda: frame(1, text[:middle], fin=False) + frame(0, text[middle:]),
        lambda: (
            frame(2, binary[:9], fin=False) + frame(9, b"between") + frame(0, binary)
        ),
    ]
    odd = [
        lambda: frame(8, rng.choice([b"", b"\x03\xe8", b"\x03", b"\x03\xe8\xff"])),
        lambda: frame(8, rng.choice([999, 1005, 1016, 3000, 5000]).to_bytes(2, "big")),
        lambda: frame(rng.choice([3, 7, 11, 15]), b"opcode"),
        lambda: frame(1, b"reserved", rsv=rng.choice([0x20, 0x10])),
        lambda: frame(0, b"nothing to continue"),
        lambda: frame(9, b"fragmented", fin=False),
        lambda: frame(9, b"p" * 126),
        lambda: b"\x81\x05plain",
        lambda: b"\x82\xfe\x00\x05" + bytes(9),
        lambda: b"\x82\xff\x80" + bytes(11),
        lambda: frame(1, b"\xff\xff broken deflate", rsv=0x40),
        lambda: frame(1, packed(b"b" * (MAX_SIZE + 1)), rsv=0x40),
    ]
    return bytes(rng.choice(good if rng.random() < 0.75 else odd)())


def some_stream(seed: int) -> dict[str, Any]:
    rng = random.Random(seed)
    data = b"".join(some_frames(rng) for _ in range(rng.randrange(1, 8)))
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(6)))
    places = [0, *cuts, len(data)]
    pieces = [data[a:b] for a, b in pairwise(places)]
    return {
        "pieces": [piece.hex() for piece in pieces if piece],
        "deflate": rng.random() < 0.6,
    }


def verdict(stream: dict[str, Any]) -> list[str]:
    """What a server makes of a stream: its events, and what it sent."""
    handler = Echo(max_size=MAX_SIZE, write_limit=2**20)
    offer = ["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=12"]
    output = b""
    with Driven(handler) as driven:
        peer = driven.open("/", *(offer if stream["deflate"] else []))
        for piece in stream["pieces"]:
            try:
                peer.write(bytes.fromhex(piece))
            except OSError:
                break  # the server has closed
            driven.turn(12)
            output += peer.read_now()
        peer.end()
        driven.turn(12)
        output += peer.read_now()
    events = [f"{event.name} {event.value!r}" for event in handler.events]
    return [*events, output.hex()]


def verdicts(backend: str, streams: list[dict[str, Any]]) -> Any:
    tests = Path(__file__).parents[1]
    result = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(streams),
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **os.environ,
            "SIMPLE_WS_EXTENSION": backend,
            "PYTHONPATH": os.pathsep.join([str(tests), *sys.path]),
        },
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.one_backend
def test_both_backends_come_to_the_same() -> None:
    if os.environ.get("SIMPLE_WS_EXTENSION") == "0":
        pytest.skip("SIMPLE_WS_EXTENSION=0")
    pytest.importorskip("simple_ws._speedups", reason="the extension is not built")
    streams = [some_stream(seed) for seed in range(STREAMS)]
    ours, theirs = verdicts("1", streams), verdicts("0", streams)
    for seed, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert one == other, f"stream {seed}"
    # The streams are worth their time only if they end in many ways.
    ends = {line.split("'")[1] for each in ours for line in each if "close (" in line}
    assert len(ends) > 8, ends


if __name__ == "__main__":
    print(json.dumps([verdict(stream) for stream in json.load(sys.stdin)]))
