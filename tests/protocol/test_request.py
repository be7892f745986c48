"""`request`: what is parsed of a head when it is asked for, and bodies."""

from __future__ import annotations

import pytest

from simple_ws.errors import HandshakeError
from simple_ws.protocol.request import Request

pytestmark = pytest.mark.one_backend


def request_for(target: str, *lines: str) -> Request:
    fields = "".join(f"{line}\r\n" for line in ("Host: h", *lines))
    return Request("GET", target, (1, 1), fields.encode("latin-1"))


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", {}),
        ("/chat", "/chat", {}),
        ("/a%20b/%C3%A9", "/a b/é", {}),
        ("/a?b=1&c=%20x+y&b=2", "/a", {"b": "1", "c": " x y"}),
        ("/a?b=&c", "/a", {"b": "", "c": ""}),
        ("/a?b=1?c", "/a", {"b": "1?c"}),
        ("//double", "//double", {}),
        ("/%ff", "/\ufffd", {}),
        # RFC 9112 §3.2.2: "a server MUST accept the absolute-form in requests".
        ("http://example.com/chat?a=b", "/chat", {"a": "b"}),
        ("HTTPS://example.com:443/chat", "/chat", {}),
        ("ws://example.com/chat", "/chat", {}),
        ("wss://example.com", "/", {}),
        ("http://example.com?a=b", "/", {"a": "b"}),
        # An address inside is none.
        ("/go?to=http://example.com/x", "/go", {"to": "http://example.com/x"}),
        ("/go/http://example.com/x", "/go/http://example.com/x", {}),
    ],
)
def test_target_gives_path_and_query(
    target: str, path: str, query: dict[str, str]
) -> None:
    request = request_for(target)
    assert request.path == path
    assert dict(request.query) == query


def test_query_keeps_several_values() -> None:
    assert request_for("/?a=1&b=2&a=3").query.get_all("a") == ["1", "3"]


@pytest.mark.parametrize(
    ("lines", "cookies"),
    [
        ([], {}),
        (["Cookie: a=1; b=2"], {"a": "1", "b": "2"}),
        (["Cookie: a=1;b=2;a=3"], {"a": "1", "b": "2"}),
        (["Cookie: a=1", "Cookie: b=2"], {"a": "1", "b": "2"}),
        (['Cookie: a="quoted"'], {"a": "quoted"}),
        (["Cookie: a=b=c; =x; y; ; d="], {"a": "b=c", "d": ""}),
    ],
)
def test_cookies(lines: list[str], cookies: dict[str, str]) -> None:
    assert request_for("/", *lines).cookies == cookies


def test_origin_and_authorization() -> None:
    request = request_for("/", "Origin: https://a.example", "Authorization: Bearer t")
    assert request.origin == "https://a.example"
    assert request.authorization == "Bearer t"
    assert request_for("/").origin is None
    assert request_for("/").authorization is None
    assert repr(request) == "<Request GET />"


def test_request_has_no_body_and_no_tls_unless_told() -> None:
    request = request_for("/")
    assert (request.body, request.secure) == (b"", False)
    request.body, request.secure = b"x", True
    assert (request.body, request.secure) == (b"x", True)


@pytest.mark.parametrize(
    ("target", "raw", "query"),
    [
        ("/a%20b/%C3%A9?x=%20", b"/a b/\xc3\xa9", "x=%20"),
        ("/%ff%00", b"/\xff\0", ""),
        ("http://h/a?b?c", b"/a", "b?c"),
    ],
)
def test_path_and_query_may_be_had_as_they_came(
    target: str, raw: bytes, query: str
) -> None:
    request = request_for(target)
    assert (request._decoded_path, request.query_string) == (raw, query)


@pytest.mark.parametrize(
    ("body", "value"), [(b"{}", {}), (b"[1]", [1]), ('"é"'.encode(), "é")]
)
def test_body_may_be_json(body: bytes, value: object) -> None:
    request = request_for("/")
    request.body = body
    assert request.json() == value


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b"'x'"])
def test_body_that_is_not_json_is_400(body: bytes) -> None:
    request = request_for("/")
    request.body = body
    with pytest.raises(HandshakeError, match="not JSON") as caught:
        request.json()
    assert caught.value.status == 400


def test_tokens_of_several_lines() -> None:
    request = request_for("/", "Connection: Keep-Alive, , Upgrade", "connection: X\t,")
    assert request.headers.tokens("Connection") == ["keep-alive", "upgrade", "x"]


def test_only_blanks_and_tabs_are_white_space() -> None:
    # RFC 9110 §5.6.3; 0xA0 and 0x85 are white space to Python's str.
    request = request_for("/", "A: \xa0x\x85", "B: \t x \t")
    assert request.headers["A"] == "\xa0x\x85"
    assert request.headers.tokens("A") == ["\xa0x\x85"]
    assert request.headers["B"] == "x"


# --- As it is kept of an open connection ---------------------------------------------


def upgrade_of(address: object) -> Request:
    request = request_for(
        "/chat?room=1", "Upgrade: websocket", "X-Two: a", "x-two:b \t"
    )
    request.address = address
    return request


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "fe80::1%eth0", ""])
def test_packed_request_is_the_same_again(host: str) -> None:
    request = upgrade_of((host, 12345))
    packed = request._packed()
    assert isinstance(packed, bytes)
    assert len(packed) < len(request._fields) + 60
    again = Request._unpacked(packed)
    assert (again.method, again.version) == ("GET", (1, 1))
    assert again.address == request.address == Request._packed_address(packed)
    assert again.target == request.target == "/chat?room=1"
    assert again.headers.pairs() == request.headers.pairs()
    assert (again.params, again.secure, again.body) == ({}, False, b"")


def test_request_that_has_more_is_kept_as_it_is() -> None:
    for address in (None, "", "/run/peer", ("a b", 1), ("::1", 1, 0, 0), ("::1", "1")):
        request = upgrade_of(address)
        assert request._packed() is request
    for name, value in (("secure", True), ("body", b"x"), ("params", {"room": 1})):
        request = upgrade_of(("192.0.2.1", 1))
        setattr(request, name, value)
        assert request.headers
        assert request._packed() is request
        assert request._headers is None  # it can be parsed again
