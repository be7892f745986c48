"""The bodies of envelopes: what goes in comes out, and nothing else."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_ws.cluster.content import (
    ContentError,
    JsonText,
    Kind,
    WithHeaders,
    decode_body,
    encode_body,
)

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize("msg", ["hé", b"\x00\xff", JsonText('{"a": 1}')])
def test_headers_come_back_with_their_message(msg: object) -> None:
    kind, body = encode_body(WithHeaders(msg, '{"info":{"user":"ann"}}'))
    assert kind is Kind.HEADERS
    decoded = decode_body(kind, body)
    assert decoded == WithHeaders(msg, '{"info":{"user":"ann"}}')
    assert isinstance(decoded, WithHeaders)
    assert type(decoded.msg) is type(msg)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x00\x05{}",
        b"\x03\x00\x00\x00\x02{}",
        b"\x00\x00\x00\x00\x02[]",
        b"\x00\x00\x00\x00\x00",
        b'\x00\x00\x00\x00\x08{"a":\n1}',
    ],
)
def test_malformed_headers_are_refused(body: bytes) -> None:
    with pytest.raises(ContentError, match="headers"):
        decode_body(Kind.HEADERS, body)


@given(st.binary())
def test_any_headers_are_read_or_refused(body: bytes) -> None:
    with suppress(ContentError):
        decode_body(Kind.HEADERS, body)
