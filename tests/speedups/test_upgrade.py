"""The fast parser of handshakes accepts only what the full parser accepts, with the
same result, in both backends."""

from __future__ import annotations

import base64
import hashlib
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_ws import _fallback, speedups
from simple_ws.constants import GUID, MAX_HEAD_SIZE, MAX_HEADER_COUNT
from simple_ws.protocol.http11 import RequestReader
from simple_ws.protocol.server_handshake import check_upgrade

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
LINES = (
    "Host: server.example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    f"Sec-WebSocket-Key: {KEY}",
    "Sec-WebSocket-Version: 13",
)


def head(*lines: str, first: str = "GET /chat?a=1 HTTP/1.1") -> bytes:
    return "\r\n".join([first, *lines, "", ""]).encode("latin-1")


def replaced(old: str, new: str) -> bytes:
    return head(*LINES).replace(old.encode(), new.encode("latin-1"))


def test_ordinary_request_is_read(codecs: ModuleType) -> None:
    extra = ("Sec-WebSocket-Protocol:  chat, superchat ", "Cookie: a=b")
    data = head(*LINES, *extra)
    fields = "".join(f"{line}\r\n" for line in (*LINES, *extra)).encode()
    assert codecs.read_upgrade(data + b"\x81\x80") == (
        len(data),
        "/chat?a=1",
        fields,
        KEY,
        "chat, superchat",
        None,
    )


@pytest.mark.parametrize(
    "data",
    [
        replaced("Connection: Upgrade", "Connection: keep-alive, Upgrade"),
        replaced("Connection: Upgrade", "Connection: a,uPGRADE ,b"),
        replaced("Upgrade: websocket", "uPGRADE:\tWebSocket\t"),
        replaced("Host: server.example.com", "host:x"),
        replaced("Host: server.example.com", "Host: 127.0.0.1:8080"),
        replaced("Host: server.example.com", "Host: my_server-1:"),
        head(*LINES, first="GET / HTTP/1.1"),
        head(*LINES, "Sec-WebSocket-Extensions: permessage-deflate"),
        head(*LINES, "X-Odd: \xe9\t~"),
        head(*LINES, *["X: y"] * (MAX_HEADER_COUNT - len(LINES))),
        head(*LINES, "Content-Lengthy: 5", "Hosts: b"),
    ],
)
def test_variants_are_read(codecs: ModuleType, data: bytes) -> None:
    assert codecs.read_upgrade(data) is not None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        head(*LINES)[:-1],
        b"\r\n" + head(*LINES),
        head(*LINES, first="POST / HTTP/1.1"),
        head(*LINES, first="GET / HTTP/1.0"),
        head(*LINES, first="GET  / HTTP/1.1"),
        head(*LINES, first="GET http://a/ HTTP/1.1"),
        head(*LINES, first="GET /\xe9 HTTP/1.1"),
        head(*LINES, first="GET / HTTP/1.1 "),
        head(*LINES[1:]),
        head(*LINES, LINES[0]),
        head(*LINES, "sec-websocket-key: x"),
        head(*LINES, "Content-Length: 0"),
        head(*LINES, "Transfer-Encoding: chunked"),
        head(*LINES, "No colon"),
        head(*LINES, ": empty"),
        head(*LINES, "Space : before"),
        head(*LINES, " folded: line"),
        head(*LINES, "Nul: \0"),
        head(*LINES, "Del: \x7f"),
        head(*LINES, "Bare: a\rb"),
        head(*LINES).replace(b"\r\n", b"\n"),
        replaced("13", "8"),
        replaced("13", "13, 8"),
        replaced("Connection: Upgrade", "Connection: close"),
        replaced("Connection: Upgrade", "Connection: xUpgrade"),
        replaced("Upgrade: websocket", "Upgrade: websockets"),
        replaced("Upgrade: websocket", "Upgrade: h2c, websocket"),
        replaced("Host: server.example.com", "Host: "),
        replaced("Host: server.example.com", "Host: a b"),
        replaced("Host: server.example.com", "Host: a/"),
        replaced("Host: server.example.com", "Host: u@a"),
        replaced("Host: server.example.com", "Host: :80"),
        replaced("Host: server.example.com", "Host: a:b"),
        replaced("Host: server.example.com", "Host: a:80:80"),
        replaced("Host: server.example.com", "Host: [::1]:80"),
        head(*LINES, first="GET /a#b HTTP/1.1"),
        head(*LINES, first="GET /# HTTP/1.1"),
        replaced(KEY, KEY[:-1]),
        replaced(KEY, KEY + "="),
        replaced(KEY, "*" + KEY[1:]),
        replaced(KEY, KEY[:20] + "===="),
        head(*LINES, *["X: y"] * (MAX_HEADER_COUNT - len(LINES) + 1)),
        head(*LINES, "X: " + "y" * MAX_HEAD_SIZE),
    ],
)
def test_everything_else_is_left_to_others(codecs: ModuleType, data: bytes) -> None:
    assert codecs.read_upgrade(data) is None


@given(
    st.lists(
        st.sampled_from(
            [
                *LINES,
                "Connection: keep-alive,Upgrade",
                "Upgrade: WEBSOCKET",
                "Origin: http://a",
                "Sec-WebSocket-Protocol: x",
                "Content-Length: 0",
                "bad",
                "X:\t\x01",
            ]
        ),
        max_size=9,
    ),
    st.integers(0, 400),
    st.sampled_from([b"", b"\r", b"\n", b"\x00", b":", b",", b"=", b" "]),
)
def test_what_it_takes_the_readable_path_takes_too(
    lines: list[str], at: int, noise: bytes
) -> None:
    data = head(*LINES[: len(lines) % 6], *lines)
    data = data[:at] + noise + data[at:]
    results = [_fallback.read_upgrade(data)]
    try:
        from simple_ws import _speedups
    except ImportError:
        pass
    else:
        results.append(_speedups.read_upgrade(data))
    assert all(result == results[0] for result in results)
    if results[0] is None:
        return
    size, target, fields, key, protocols, extensions = results[0]
    reader = RequestReader()
    request = reader.feed(data)
    assert request is not None
    assert (request.target, request._fields) == (target, fields)
    assert reader.rest == data[size:]
    assert check_upgrade(request) == key
    assert request.headers.get("Sec-WebSocket-Protocol") == protocols
    assert request.headers.get("Sec-WebSocket-Extensions") == extensions


def test_second_origin_is_for_others_to_judge(codecs: ModuleType) -> None:
    one = head(*LINES, "Origin: https://a.example")
    assert codecs.read_upgrade(one) is not None
    assert codecs.read_upgrade(head(*LINES, "Origin: a", "oRIGIN:")) is None


def test_example_of_the_rfc_is_accepted(codecs: ModuleType) -> None:
    assert codecs.accept_key(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@given(st.binary(min_size=16, max_size=16))
def test_all_keys_are_accepted_alike(nonce: bytes) -> None:
    key = base64.b64encode(nonce).decode()
    digest = hashlib.sha1(key.encode() + GUID).digest()
    for codecs in (_fallback, speedups):
        assert codecs.accept_key(key) == base64.b64encode(digest).decode()


@pytest.mark.parametrize("key", ["", KEY[1:], KEY + "=", "é" * 24, "é" * 12])
def test_what_is_no_key_is_refused(codecs: ModuleType, key: str) -> None:
    with pytest.raises(ValueError, match=r"24 characters|'ascii' codec"):
        codecs.accept_key(key)
