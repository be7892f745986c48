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
    RequestReader,
    check_request,
    expects_continue,
    stays_open,
    wants_upgrade,
)
from simple_ws.protocol.request import Request

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


def test_asterisk_is_for_options() -> None:
    request, _ = read([b"OPTIONS * HTTP/1.1\r\n\r\n"])
    assert request is not None
    assert request.path == "*"


@pytest.mark.parametrize("version", ["0.9", "1.0", "1.1", "2.0"])
def test_version_is_told(version: str) -> None:
    request, _ = read([f"GET / HTTP/{version}\r\n\r\n".encode()])
    assert request is not None
    assert request.version == tuple(map(int, version.split(".")))


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


# --- The rules of every request ----------------------------------------------------


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
