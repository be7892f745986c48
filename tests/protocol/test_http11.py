"""HTTP/1.1 heads: RFC 9112 §2 to §5, and h11 as an oracle."""

from __future__ import annotations

import time
from collections.abc import Iterable
from operator import itemgetter

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rfc_cases import bytewise, cut

from simple_ws.constants import MAX_HEAD_SIZE, MAX_HEADER_COUNT
from simple_ws.errors import HandshakeError
from simple_ws.protocol.http11 import (
    Fields,
    Headers,
    Request,
    RequestReader,
    check_request,
    expects_continue,
    stays_open,
    wants_upgrade,
)
from simple_ws.protocol.response import Response, http_date

pytestmark = pytest.mark.one_backend

HEAD = (
    b"GET /chat?room=1 HTTP/1.1\r\n"
    b"Host: example.com\r\n"
    b"Upgrade: websocket\r\n"
    b"X-Two: a\r\n"
    b"x-two:b \t\r\n"
    b"X-Empty:\r\n"
    b"X-Latin: \xe9\r\n"
    b"\r\n"
)


def read(chunks: Iterable[bytes], **limits: int) -> tuple[Request | None, bytes]:
    """The request and what came behind its head; bytes after it are not fed."""
    reader = RequestReader(**limits)
    for chunk in chunks:
        request = reader.feed(chunk)
        if request is not None:
            return request, reader.rest
    return None, b""


def refused(chunks: Iterable[bytes], **limits: int) -> tuple[int, str]:
    with pytest.raises(HandshakeError) as caught:
        read(chunks, **limits)
    assert caught.value.status in (400, 414, 431)
    return caught.value.status, str(caught.value)


def upgrade_of(address: object) -> Request:
    request, _ = read([HEAD])
    assert request is not None
    request.address = address
    return request


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "fe80::1%eth0", ""])
def test_packed_request_is_the_same_again(host: str) -> None:
    request = upgrade_of((host, 12345))
    packed = request._packed()
    assert isinstance(packed, bytes)
    assert len(packed) < len(HEAD) + 40
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


def get(target: str = "/", *lines: str) -> bytes:
    head = [f"GET {target} HTTP/1.1", "Host: h", *lines]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n"


def check_head(request: Request | None) -> None:
    assert request is not None
    assert (request.method, request.target) == ("GET", "/chat?room=1")
    assert request.version == (1, 1)
    assert request.headers.get_all("X-Two") == ["a", "b"]
    assert request.headers["x-empty"] == ""
    assert request.headers["X-Latin"] == "é"


# --- Reading -------------------------------------------------------------------------


def test_head_is_read_whole_and_byte_by_byte() -> None:
    check_head(read([HEAD])[0])
    check_head(read(bytewise(HEAD))[0])


@pytest.mark.parametrize("place", range(1, len(HEAD)))
def test_head_may_be_split_anywhere(place: int) -> None:
    reader = RequestReader()
    assert reader.feed(HEAD[:place]) is None
    check_head(reader.feed(HEAD[place:] + b"\x81\x80"))
    assert reader.rest == b"\x81\x80"


@pytest.mark.parametrize("rest", [b"", b"\x81\x80abcd", b"\r\n\r\n", b"\n", b"\0" * 99])
def test_first_frame_may_come_in_the_same_segment(rest: bytes) -> None:
    request, behind = read([HEAD + rest])
    check_head(request)
    assert behind == rest


@pytest.mark.parametrize("lead", [b"\r\n", b"\r\n\r\n", b"\r\n" * 50])
def test_empty_lines_before_the_request_are_ignored(lead: bytes) -> None:
    # RFC 9112 §2.2: a server "SHOULD ignore at least one empty line (CRLF) received
    # prior to the request-line".
    check_head(read([lead + HEAD])[0])
    check_head(read(bytewise(lead + HEAD))[0])


def test_reader_says_whether_anything_came() -> None:
    reader = RequestReader()
    assert reader.empty
    reader.feed(b"\r\n")
    assert reader.empty
    reader.feed(b"G")
    assert not reader.empty


#: (id, head, a word of the reason). All are refused with 400.
MALFORMED = [
    ("tls-hello", b"\x16\x03\x01\x02\x00", "not an HTTP request"),
    ("tls-hello-first-byte", b"\x16", "not an HTTP request"),
    ("ssh-is-no-request-line", b"SSH-2.0-OpenSSH_9\r\n\r\n", "request line"),
    ("websocket-frame", b"\x81\x85", "not an HTTP request"),
    ("nul-first", b"\0GET / HTTP/1.1\r\n\r\n", "not an HTTP request"),
    ("blank-first", b" GET / HTTP/1.1\r\n\r\n", "not an HTTP request"),
    ("http-0.9", b"GET /\r\n\r\n", "request line"),
    ("two-blanks", b"GET  / HTTP/1.1\r\n\r\n", "request line"),
    ("tab-for-a-blank", b"GET\t/\tHTTP/1.1\r\n\r\n", "request line"),
    ("blank-in-target", b"GET /a b HTTP/1.1\r\n\r\n", "request line"),
    ("blank-at-the-end", b"GET / HTTP/1.1 \r\n\r\n", "request line"),
    ("no-target", b"GET HTTP/1.1\r\n\r\n", "request line"),
    ("non-ascii-target", b"GET /\xe9 HTTP/1.1\r\n\r\n", "request line"),
    ("nul-in-target", b"GET /\0 HTTP/1.1\r\n\r\n", "request line"),
    ("version-1", b"GET / HTTP/1\r\n\r\n", "request line"),
    ("version-1.10", b"GET / HTTP/1.10\r\n\r\n", "request line"),
    ("version-lower-case", b"GET / http/1.1\r\n\r\n", "request line"),
    ("version-of-another", b"GET / ICAP/1.0\r\n\r\n", "request line"),
    ("method-no-token", b"G(T / HTTP/1.1\r\n\r\n", "request line"),
    ("no-colon", b"GET / HTTP/1.1\r\nHost\r\n\r\n", "line 1 is malformed"),
    ("no-name", b"GET / HTTP/1.1\r\n: h\r\n\r\n", "line 1 is malformed"),
    ("blank-before-colon", b"GET / HTTP/1.1\r\nA : b\r\n\r\n", "line 1 is malformed"),
    ("blank-in-name", b"GET / HTTP/1.1\r\nA: b\r\nA B: c\r\n\r\n", "line 2 is malf"),
    ("non-ascii-name", b"GET / HTTP/1.1\r\n\xe9: b\r\n\r\n", "line 1 is malformed"),
    ("folded", b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", "line 2 is folded"),
    ("folded-by-tab", b"GET / HTTP/1.1\r\nA: b\r\n\tc: d\r\n\r\n", "line 2 is folded"),
    ("folded-first", b"GET / HTTP/1.1\r\n A: b\r\n\r\n", "line 1 is folded"),
    ("nul-in-value", b"GET / HTTP/1.1\r\nA: b\0c\r\n\r\n", "line 1 is malformed"),
    ("bell-in-value", b"GET / HTTP/1.1\r\nA: \a\r\n\r\n", "line 1 is malformed"),
    ("del-in-value", b"GET / HTTP/1.1\r\nA: \x7f\r\n\r\n", "line 1 is malformed"),
    ("bare-cr-in-value", b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", "line 1 is malformed"),
    ("cr-cr-lf", b"GET / HTTP/1.1\r\nA: b\r\r\n\r\n", "line 1 is malformed"),
    ("bare-lf", b"GET / HTTP/1.1\nHost: h\n\n", "without CR LF"),
    ("bare-lf-in-header", b"GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n", "without CR LF"),
    ("bare-lf-at-the-end", b"GET / HTTP/1.1\r\nA: b\r\n\n", "without CR LF"),
    ("target-no-path", b"GET chat HTTP/1.1\r\n\r\n", "neither a path"),
    ("target-asterisk", b"GET * HTTP/1.1\r\n\r\n", "neither a path"),
    ("target-authority", b"CONNECT h:80 HTTP/1.1\r\n\r\n", "neither a path"),
    ("target-other-scheme", b"GET ftp://h/ HTTP/1.1\r\n\r\n", "neither a path"),
    ("target-no-host", b"GET http:///a HTTP/1.1\r\n\r\n", "neither a path"),
    ("target-user", b"GET ws://u:p@h/ HTTP/1.1\r\n\r\n", "neither a path"),
    ("target-fragment", b"GET /a#b HTTP/1.1\r\n\r\n", "has a fragment"),
    ("target-query-fragment", b"GET /a?b#c HTTP/1.1\r\n\r\n", "has a fragment"),
    ("target-uri-fragment", b"GET ws://h#c HTTP/1.1\r\n\r\n", "has a fragment"),
    ("target-query-only", b"GET ?a HTTP/1.1\r\n\r\n", "neither a path"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("head", "word"), [row[1:] for row in MALFORMED], ids=[row[0] for row in MALFORMED]
)
def test_malformed_head_is_refused(head: bytes, word: str) -> None:
    status, reason = refused([head])
    assert status == 400
    assert word in reason
    assert reason[0].isupper()
    assert reason.endswith(".")
    assert refused(bytewise(head)) == (status, reason)
    assert refused([b"\r\n" + head + b"behind"]) == (status, reason)


@pytest.mark.parametrize("first", set(range(256)) - set(b"\r\n"))
def test_first_byte_decides_whether_this_can_be_http(first: int) -> None:
    token = b"!#$%&'*+-.^_`|~" + bytes(range(48, 58)) + bytes(range(65, 91))
    token += bytes(range(97, 123))
    reader = RequestReader()
    if first in token:
        assert reader.feed(bytes((first,))) is None
    else:
        with pytest.raises(HandshakeError):
            reader.feed(bytes((first,)))


def test_bare_line_feed_is_refused_as_it_comes() -> None:
    # Not only when the head is whole: a client may wait for an answer there.
    assert "CR LF" in refused([b"GET / HTTP/1.1\n"])[1]
    assert "CR LF" in refused([b"GET / HTTP/1.1\r", b"\nA: b", b"\n"])[1]


# --- Limits --------------------------------------------------------------------------


def padded(size: int) -> bytes:
    """A head of exactly so many bytes."""
    start, end = b"GET / HTTP/1.1\r\nA: ", b"\r\n\r\n"
    return start + b"a" * (size - len(start) - len(end)) + end


@pytest.mark.parametrize("limit", [64, 1000, MAX_HEAD_SIZE])
def test_head_of_exactly_the_limit_is_read(limit: int) -> None:
    for chunks in ([padded(limit)], bytewise(padded(limit)), [padded(limit) + b"rest"]):
        assert read(chunks, max_size=limit)[0] is not None


@pytest.mark.parametrize("limit", [64, 1000, MAX_HEAD_SIZE])
def test_head_of_one_byte_more_is_refused(limit: int) -> None:
    data = padded(limit + 1)
    reason = f"The request head exceeds {limit:,} bytes."
    for chunks in ([data], bytewise(data), [data + b"rest"], cut(data, [limit])):
        assert refused(chunks, max_size=limit) == (431, reason)


def test_limit_is_felt_before_the_head_is_whole() -> None:
    assert read([padded(2000)[:1000]], max_size=1000)[0] is None
    assert refused([padded(2000)[:1001]], max_size=1000)[0] == 431
    assert refused([b"G" * 1001], max_size=1000)[0] == 431


def test_target_that_fills_the_head_is_414() -> None:
    reason = "The request line exceeds 1,000 bytes."
    for data in (get("/" + "x" * 2000), b"GET /" + b"x" * 996):
        for chunks in ([data], bytewise(data), cut(data, [1000])):
            assert refused(chunks, max_size=1000) == (414, reason)


def test_wrong_byte_beyond_the_limit_does_not_count() -> None:
    data = padded(2000)[:1500] + b"\n\r\n\r\n"
    assert refused([data], max_size=1000) == refused(bytewise(data), max_size=1000)


def test_header_lines_are_counted() -> None:
    def lines(count: int) -> bytes:
        return b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * count + b"\r\n"

    for limit in (0, 1, 5, MAX_HEADER_COUNT):
        request, _ = read([lines(limit)], max_count=limit)
        assert request is not None
        assert len(request.headers.get_all("A")) == limit
        reason = f"The request has more than {limit} header lines."
        assert refused([lines(limit + 1)], max_count=limit) == (431, reason)


@pytest.mark.parametrize(
    "line",
    [
        "A: x" + " " * 16_000 + "y",
        "A:" + " \t" * 8_000 + "y",
        "Cookie: " + "; " * 8_000 + "a=b",
        "Cookie: " + '"' * 16_000,
        "Connection: " + ", " * 8_000,
        "A" * 16_000 + ":",
    ],
    ids=["blanks-inside", "blanks-before", "cookies", "quotes", "commas", "name"],
)
def test_hostile_head_takes_no_time(line: str) -> None:
    # Patterns that try again at every blank took 0.6 s here.
    began = time.process_time()
    request, _ = read([get("/", line)])
    assert request is not None
    request.headers.tokens("Connection")
    assert request.cookies is not None
    assert time.process_time() - began < 0.2


# --- The request ---------------------------------------------------------------------


def request_for(target: str, *lines: str) -> Request:
    request, _ = read([get(target, *lines)])
    assert request is not None
    return request


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


def test_asterisk_is_for_options() -> None:
    request, _ = read([b"OPTIONS * HTTP/1.1\r\n\r\n"])
    assert request is not None
    assert request.path == "*"


def test_query_keeps_several_values() -> None:
    assert request_for("/?a=1&b=2&a=3").query.get_all("a") == ["1", "3"]


@pytest.mark.parametrize("version", ["0.9", "1.0", "1.1", "2.0"])
def test_version_is_told(version: str) -> None:
    request, _ = read([f"GET / HTTP/{version}\r\n\r\n".encode()])
    assert request is not None
    assert request.version == tuple(map(int, version.split(".")))


def test_headers_are_case_insensitive_and_keep_their_order() -> None:
    headers = Headers([("Accept", "a"), ("HOST", "h"), ("accept", "b")])
    assert headers["ACCEPT"] == "a"
    assert headers.get_all("Accept") == ["a", "b"]
    assert "hOsT" in headers
    assert headers.get("Nothing") is None
    assert headers.get_all("Nothing") == []
    assert list(headers) == ["accept", "host"]
    assert len(headers) == 2
    with pytest.raises(KeyError, match="Nothing"):
        headers["Nothing"]


def test_fields_are_case_sensitive() -> None:
    fields = Fields([("a", "1"), ("A", "2")])
    assert (fields["a"], fields["A"], len(fields)) == ("1", "2", 2)
    assert repr(fields) == "Fields([('a', '1'), ('A', '2')])"


def test_tokens_of_several_lines() -> None:
    request = request_for("/", "Connection: Keep-Alive, , Upgrade", "connection: X\t,")
    assert request.headers.tokens("Connection") == ["keep-alive", "upgrade", "x"]


def test_only_blanks_and_tabs_are_white_space() -> None:
    # RFC 9110 §5.6.3; 0xA0 and 0x85 are white space to Python's str.
    request = request_for("/", "A: \xa0x\x85", "B: \t x \t")
    assert request.headers["A"] == "\xa0x\x85"
    assert request.headers.tokens("A") == ["\xa0x\x85"]
    assert request.headers["B"] == "x"


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


def plain(*lines: str, version: tuple[int, int] = (1, 1)) -> Request:
    """A request with just these header lines."""
    fields = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
    return Request("GET", "/", version, fields)


@pytest.mark.parametrize(
    ("lines", "version"),
    [
        (["Host: h"], (1, 1)),
        (["Host: h:80"], (1, 1)),
        (["Host: [::1]:80"], (1, 1)),
        (["Host:"], (1, 1)),  # RFC 9112 §3.2: where the target has no authority
        ([], (1, 0)),
        (["Host: h"], (1, 0)),
        (["Host: h"], (1, 2)),
    ],
)
def test_request_of_http_1_is_good(lines: list[str], version: tuple[int, int]) -> None:
    check_request(plain(*lines, version=version))


@pytest.mark.parametrize(
    ("lines", "version", "status"),
    [
        ([], (1, 1), 400),
        (["Host: h", "Host: h"], (1, 1), 400),
        (["Host: h", "Host: h"], (1, 0), 400),
        (["Host: a b"], (1, 1), 400),
        (["Host: a/b"], (1, 1), 400),
        (["Host: a@b"], (1, 1), 400),
        (['Host: a"b'], (1, 1), 400),
        (["Host: \xe9"], (1, 1), 400),
        (["Host: h"], (2, 0), 505),
        ([], (0, 9), 505),
    ],
)
def test_request_that_http_forbids_is_refused(
    lines: list[str], version: tuple[int, int], status: int
) -> None:
    with pytest.raises(HandshakeError) as caught:
        check_request(plain(*lines, version=version))
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("lines", "version", "stays"),
    [
        ([], (1, 1), True),
        (["Connection: close"], (1, 1), False),
        (["Connection: Foo, Close"], (1, 1), False),
        (["Connection: foo", "Connection: close"], (1, 1), False),
        (["Connection: keep-alive"], (1, 1), True),
        ([], (1, 0), False),
        (["Connection: Keep-Alive"], (1, 0), True),
        (["Connection: keep-alive, close"], (1, 0), False),
    ],
)
def test_client_says_whether_it_wants_to_stay(
    lines: list[str], version: tuple[int, int], stays: bool
) -> None:
    assert stays_open(plain(*lines, version=version)) is stays


def test_client_may_wait_before_it_sends_a_body() -> None:
    line = "Expect: 100-Continue"
    assert expects_continue(plain(line))
    assert not expects_continue(plain())
    # RFC 9110 §10.1.1: a server "MUST ignore" it in HTTP/1.0.
    assert not expects_continue(plain(line, version=(1, 0)))
    with pytest.raises(HandshakeError) as caught:
        expects_continue(plain("Expect: a-miracle"))
    assert caught.value.status == 417


@pytest.mark.parametrize(
    ("lines", "wants"),
    [
        (["Upgrade: websocket"], True),
        (["Upgrade: h2c, WebSocket"], True),
        (["Sec-WebSocket-Key: x"], True),
        (["Upgrade: h2c"], False),
        ([], False),
    ],
)
def test_upgrade_is_meant_however_badly_it_is_said(
    lines: list[str], wants: bool
) -> None:
    assert wants_upgrade(plain(*lines)) is wants


def test_date_is_the_one_of_the_rfc() -> None:
    # RFC 9110 §5.6.7
    assert http_date(784111777.9) == "Sun, 06 Nov 1994 08:49:37 GMT"


# --- The response --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "content_type", "sent"),
    [
        ("é", "text/plain; charset=utf-8", b"\xc3\xa9"),
        (b"raw", "application/octet-stream", b"raw"),
        ({"a": [1]}, "application/json", b'{"a": [1]}'),
        ([1, None], "application/json", b"[1, null]"),
    ],
)
def test_response_body_decides_the_type(
    body: str | bytes, content_type: str, sent: bytes
) -> None:
    head, _, rest = Response(200, body)._encode().partition(b"\r\n\r\n")
    assert rest == sent
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"Content-Type: " + content_type.encode(),
        b"Content-Length: %d" % len(sent),
    ]


def test_response_headers_win_over_ours() -> None:
    response = Response(200, "{}", {"content-type": "x/y", "Content-Length": "2"})
    assert response._encode() == (
        b"HTTP/1.1 200 OK\r\ncontent-type: x/y\r\nContent-Length: 2\r\n\r\n{}"
    )


def test_response_to_head_has_the_length_and_no_body() -> None:
    assert Response(404, "gone")._encode(head_only=True) == (
        b"HTTP/1.1 404 Not Found\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 4\r\n\r\n"
    )


@pytest.mark.parametrize("status", [100, 101, 204, 304])
def test_response_without_a_body_has_none(status: int) -> None:
    # RFC 9110 §6.4.1; a body behind it would be read as the next response.
    head, end, rest = Response(status, "body")._encode().partition(b"\r\n\r\n")
    assert (end, rest) == (b"\r\n\r\n", b"")
    assert b"Content-Length" not in head


def test_response_with_an_unknown_status() -> None:
    assert (
        Response(599)._encode() == b"HTTP/1.1 599 Unknown\r\nContent-Length: 0\r\n\r\n"
    )
    assert repr(Response(599)) == "<Response 599>"


@pytest.mark.parametrize("status", [99, 600, -1, "200", None, 200.0])
def test_response_refuses_a_wrong_status(status: object) -> None:
    with pytest.raises(ValueError, match="status must be from 100 to 599, not"):
        Response(status)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["a\rb", "a\nb", "a\0b", "a\r\nSet-Cookie: x"])
def test_response_refuses_line_breaks_in_headers(text: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        Response(200, "", {"X": text})
    with pytest.raises(ValueError, match="line break"):
        Response(200, "", [(text, "x")])


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\tb", "é", " a", "(a)"])
def test_response_refuses_what_is_no_name_of_a_header(name: str) -> None:
    with pytest.raises(ValueError, match="must have a name such as 'X-Name'"):
        Response(200, "", {name: "x"})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_response_refuses_what_json_cannot_say(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Response(200, {"a": number})


@pytest.mark.parametrize("body", [None, 5, object()])
def test_response_refuses_other_bodies(body: object) -> None:
    with pytest.raises(TypeError, match="body must be str, bytes, dict or list, not"):
        Response(200, body)  # type: ignore[arg-type]


def test_response_is_understood_by_h11() -> None:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(Response(403, "no", [("X-A", "é")])._encode())
    response = connection.next_event()
    assert isinstance(response, h11.Response)
    assert (response.status_code, response.reason) == (403, b"Forbidden")
    body = connection.next_event()
    assert isinstance(body, h11.Data)
    assert body.data == b"no"


# --- h11 as an oracle ----------------------------------------------------------------

#: What h11 takes and we refuse, on purpose: each is a way to make two readers of one
#: request disagree (RFC 9112 §11), or no HTTP at all.
STRICTER = [
    ("obs-fold", b"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n"),
    ("bare-lf", b"GET / HTTP/1.1\nHost: h\n\n"),
    ("bare-lf-once", b"GET / HTTP/1.1\r\nHost: h\nA: b\r\n\r\n"),
    ("control-character", b"GET / HTTP/1.1\r\nHost: h\r\nA: \x01\r\n\r\n"),
    ("delete", b"GET / HTTP/1.1\r\nHost: h\r\nA: \x7f\r\n\r\n"),
    ("target-no-path", b"GET chat HTTP/1.1\r\nHost: h\r\n\r\n"),
]


def h11_reads(data: bytes) -> h11.Request | None:
    """h11's request; None when it refuses or waits for more."""
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(data)
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request) else None


@pytest.mark.parametrize(
    "head", [row[1] for row in STRICTER], ids=[row[0] for row in STRICTER]
)
def test_we_are_stricter_than_h11(head: bytes) -> None:
    assert h11_reads(head) is not None
    assert refused([head])[0] == 400


def judged_elsewhere(request: Request) -> bool:
    """What h11 refuses with the head, and `check_upgrade` by its rules.

    Host must be there once; Content-Length and Transfer-Encoding, of which h11 takes
    well-formed ones, mean a body, and no handshake has one.
    """
    headers = request.headers
    return (
        len(headers.get_all("Host")) != 1
        or "Content-Length" in headers
        or "Transfer-Encoding" in headers
    )


token_bytes = st.sampled_from([b"GET", b"POST", b"A", b"x-y", b"!", b"Host", b"Cookie"])
values = st.one_of(
    st.sampled_from([b"h", b"", b"a b", b"5", b"chunked", b"\xe9", b" a\t", b"a,b"]),
    st.binary(max_size=5),
)
names = st.one_of(
    st.sampled_from([b"Host", b"Upgrade", b"Content-Length", b"Transfer-Encoding"]),
    token_bytes,
    st.binary(max_size=3),
)
ends = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b"\r\n ", b""])
colons = st.sampled_from([b": "] * 8 + [b":", b" :", b"::", b""])
header_lines = st.tuples(names, colons, values, ends).map(b"".join)
request_lines = st.tuples(
    token_bytes,
    st.sampled_from([b" "] * 9 + [b"  ", b"\t"]),
    st.sampled_from([b"/", b"/a?b", b"*", b"http://h/x", b"a", b"/\xe9", b""]),
    st.sampled_from([b" HTTP/1.1"] * 9 + [b" HTTP/1.0", b" HTTP/2.0", b" HTTP/1", b""]),
    ends,
).map(b"".join)
heads = st.tuples(
    st.sampled_from([b""] * 9 + [b"\r\n", b"\n", b" "]),
    request_lines,
    st.sampled_from([b"Host: h\r\n"] * 5 + [b""]),
    st.lists(header_lines, max_size=4).map(b"".join),
    st.sampled_from([b"\r\n"] * 9 + [b"\n", b"\n\r\n"]),
).map(b"".join)


def outcome(chunks: list[bytes]) -> object:
    try:
        request, rest = read(chunks)
    except HandshakeError as error:
        return error.status, str(error)
    if request is None:
        return None
    return request.method, request.target, list(request.headers.pairs()), rest


@settings(max_examples=400)
@given(head=heads | st.binary(max_size=60))
def test_never_takes_what_h11_refuses(head: bytes) -> None:
    try:
        request, _ = read([head])
    except HandshakeError:
        return
    if request is None or judged_elsewhere(request):
        return
    # RFC 9112 §2.2 wants at least one empty line before a request to be ignored; h11
    # refuses it.
    theirs = h11_reads(head.lstrip(b"\r\n"))
    assert theirs is not None
    assert request.method.encode() == theirs.method
    assert request.target.encode() == theirs.target
    assert request.version == tuple(map(int, theirs.http_version.split(b".")))
    # The values of one name stand together in ours, in their order.
    ours = [(name.encode("latin-1"), value) for name, value in request.headers.pairs()]
    assert sorted(ours, key=itemgetter(0)) == [
        (name, value.decode("latin-1"))
        for name, value in sorted(theirs.headers, key=itemgetter(0))
    ]


@given(head=heads, places=st.lists(st.integers(0, 120), max_size=5))
def test_any_chunking_reads_the_same(head: bytes, places: list[int]) -> None:
    whole = outcome([head])
    pieces = outcome([piece for piece in cut(head, places) if piece])
    if isinstance(whole, tuple) and len(whole) == 4:
        # What is behind the head may not have been fed.
        assert isinstance(pieces, tuple)
        assert pieces[:3] == whole[:3]
    else:
        assert pieces == whole
