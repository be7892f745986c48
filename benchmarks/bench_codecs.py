"""Micro-benchmarks of the codecs, both backends: ``pytest benchmarks/bench_codecs.py``.

Each benchmarked function loops 100 times, because a call of 40 ns takes much less time
than measuring it: divide by 100.
"""

from __future__ import annotations

import importlib
import json
import os
from types import ModuleType

import pytest

LOOPS = 100
KEY = bytes((0x37, 0xFA, 0x21, 0x3D))
JSON_TEXT = json.dumps(
    {
        "type": "position",
        "id": 4711,
        "name": "sensor-17",
        "values": [round(n * 1.618, 3) for n in range(40)],
        "ok": True,
    }
).encode()[:512]
TEXTS = {
    "ascii": b"The quick brown fox jumps over the lazy dog. " * 23,
    "german": "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich. ".encode()
    * 17,
    "japanese": "いろはにほへと ちりぬるを わかよたれそ つねならむ ".encode() * 14,
}


@pytest.fixture(params=["fallback", "extension"])
def codecs(request: pytest.FixtureRequest) -> ModuleType:
    name = {"fallback": "_fallback", "extension": "_speedups"}[request.param]
    try:
        return importlib.import_module(f"simple_ws.{name}")
    except ImportError:
        pytest.skip(f"the {request.param} is not there")


@pytest.mark.parametrize("size", [16, 1024, 65536])
def test_mask(benchmark, codecs, size):
    data, mask = os.urandom(size), codecs.apply_mask

    @benchmark
    def loop():
        for _ in range(LOOPS):
            mask(data, KEY)


@pytest.mark.parametrize("size", [16, 1024, 65536])
def test_parse_header(benchmark, codecs, size):
    frame, parse = codecs.build_frame(0x82, bytes(size), KEY), codecs.parse_header

    @benchmark
    def loop():
        for _ in range(LOOPS):
            parse(frame, 0, len(frame))


@pytest.mark.parametrize("size", [16, 1024, 65536])
def test_build_frame(benchmark, codecs, size):
    data, build = os.urandom(size), codecs.build_frame

    @benchmark
    def loop():
        for _ in range(LOOPS):
            build(0x82, data)


@pytest.mark.parametrize("script", list(TEXTS))
def test_utf8(benchmark, codecs, script):
    text, validator = TEXTS[script][:1023], codecs.Utf8Validator()

    @benchmark
    def loop():
        for _ in range(LOOPS):
            validator.feed(text)
            validator.finish()


@pytest.mark.parametrize("takeover", [True, False])
def test_deflate_json(benchmark, codecs, takeover):
    deflater = codecs.Deflater(6, 5, 12, takeover)

    @benchmark
    def loop():
        for _ in range(LOOPS):
            deflater.compress(JSON_TEXT)


def test_inflate_json(benchmark, codecs):
    packed = codecs.Deflater(6, 5, 12, False).compress(JSON_TEXT)
    inflater = codecs.Inflater(12, False)

    @benchmark
    def loop():
        for _ in range(LOOPS):
            inflater.feed(packed, 2**20)
            inflater.finish()
