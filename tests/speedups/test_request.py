"""The head of a plain request in one step, in C and in Python."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_ws import _fallback
from simple_ws.constants import MAX_HEAD_SIZE, MAX_HEADER_COUNT
from simple_ws.errors import HandshakeError
from simple_ws.protocol.http11 import RequestReader

try:
    from simple_ws import _speedups
except ImportError:
    _speedups = None  # type: ignore[assignment]

GOOD = b"POST /a%20b?c=d HTTP/1.1\r\nHost: x\r\nX-Empty:\r\nX: \t a b \t\r\n\r\n"


def test_head_is_taken_apart(codecs: ModuleType) -> None:
    fields = b"Host: x\r\nX-Empty:\r\nX: \t a b \t\r\n"
    found = codecs.read_request(GOOD + b"body")
    assert found == (len(GOOD), "POST", "/a%20b?c=d", 1, fields)
    assert codecs.raw_fields(fields) == [
        (b"host", b"x"),
        (b"x-empty", b""),
        (b"x", b"a b"),
    ]
    assert codecs.raw_fields(b"") == []


@pytest.mark.parametrize(
    "head",
    [
        b"",
        GOOD[:-1],
        GOOD[:-2],
        b"GET / HTTP/1.1\r\n\r\n",  # nothing but the first line: the slow path refuses
        b"\r\n" + GOOD,
        b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /#a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"G(T / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\n: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\ny: z\r\n\r\n",
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_HEADER_COUNT + 1) + b"\r\n",
        b"GET / HTTP/1.1\r\na: " + b"b" * MAX_HEAD_SIZE + b"\r\n\r\n",
    ],
)
def test_what_is_unusual_is_left_to_the_slow_path(
    codecs: ModuleType, head: bytes
) -> None:
    assert codecs.read_request(head) is None


def test_as_many_lines_as_are_allowed(codecs: ModuleType) -> None:
    head = b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * MAX_HEADER_COUNT + b"\r\n"
    assert codecs.read_request(head) is not None


@pytest.mark.one_backend
@given(
    st.one_of(
        st.binary(max_size=80),
        st.lists(
            st.sampled_from(
                b"GET |/|/a#| HTTP/1.|1|0|\r\n|a: b|Host:|\t| |\n|\xff|\0|:".split(b"|")
            ),
            max_size=16,
        ).map(b"".join),
    )
)
def test_both_agree_with_each_other_and_with_the_slow_path(data: bytes) -> None:
    found = _fallback.read_request(data)
    if _speedups is not None:
        assert _speedups.read_request(data) == found
    if found is None:
        return
    size, method, target, minor, fields = found
    if _speedups is not None:
        assert _speedups.raw_fields(fields) == _fallback.raw_fields(fields)
    try:
        request = RequestReader().feed(data)
    except HandshakeError as error:
        pytest.fail(f"the slow path refuses {data!r}: {error}")
    assert request is not None
    assert (request.method, request.target) == (method, target)
    assert (request.version, request._fields) == ((1, minor), fields)
    assert data[size - 4 : size] == b"\r\n\r\n"
