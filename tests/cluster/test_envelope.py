"""The envelope of messages between nodes: what goes in comes out, and nothing else."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_ws.cluster.content import Kind
from simple_ws.cluster.envelope import (
    HEADER_SIZE,
    MAX_SEQ,
    Envelope,
    EnvelopeError,
    open_,
    seal,
)

pytestmark = pytest.mark.one_backend

ENVELOPE = Envelope(b"publishr", 3, 2**40 + 7, Kind.JSON, b'{"a": 1}')

envelopes = st.builds(
    Envelope,
    st.binary(min_size=8, max_size=8),
    st.integers(0, 2**16 - 1),
    st.integers(0, MAX_SEQ),
    st.sampled_from(Kind),
    st.binary(),
)
secrets = st.none() | st.binary(min_size=1)


@given(envelopes, st.text(), secrets)
def test_what_is_sealed_can_be_opened(
    envelope: Envelope, channel: str, secret: bytes | None
) -> None:
    assert open_(seal(envelope, channel, secret), channel, secret) == envelope


def test_bytes_are_those_of_the_documentation() -> None:
    assert seal(ENVELOPE, "t", None) == (
        b"\x01\x02publishr\x00\x03\x01\x00\x00\x00\x00\x07" + ENVELOPE.body
    )


def test_signed_one_is_read_by_those_who_have_no_secret() -> None:
    assert open_(seal(ENVELOPE, "t", b"secret"), "t", None) == ENVELOPE


@pytest.mark.parametrize(
    ("data", "channel"),
    [
        (seal(ENVELOPE, "t", None), "t"),
        (seal(ENVELOPE, "t", b"other"), "t"),
        (seal(ENVELOPE, "t", b"secret"), "another topic"),
        (seal(ENVELOPE, "t", b"secret")[:-1] + b"!", "t"),
        (seal(ENVELOPE, "t", b"secret")[:HEADER_SIZE], "t"),
        (seal(ENVELOPE, "t", b"secret")[: HEADER_SIZE + 15], "t"),
        (
            b"\x01\x06" + seal(ENVELOPE._replace(kind=Kind.TEXT), "t", b"secret")[2:],
            "t",
        ),
    ],
    ids=["unsigned", "another's", "moved", "changed", "cut", "cut short", "kind"],
)
def test_what_is_not_signed_by_our_secret_is_refused(data: bytes, channel: str) -> None:
    with pytest.raises(EnvelopeError, match="not signed with our secret"):
        open_(data, channel, b"secret")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "18 bytes at least"),
        (seal(ENVELOPE, "t", None)[:17], "18 bytes at least"),
        (b"\x02" + seal(ENVELOPE, "t", None)[1:], "version 2 of the envelope"),
        (b"\x01\x0a" + seal(ENVELOPE, "t", None)[2:], "flags 0x0a"),
        (b"\x01\x80" + seal(ENVELOPE, "t", None)[2:], "flags 0x80"),
    ],
)
def test_what_is_no_envelope_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(EnvelopeError, match=why):
        open_(data, "t", None)


@given(st.binary(max_size=64), secrets)
def test_no_bytes_raise_anything_else(data: bytes, secret: bytes | None) -> None:
    with suppress(EnvelopeError):
        open_(data, "t", secret)
