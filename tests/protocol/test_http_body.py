"""Where bodies end: RFC 9112 §6 and §7, and h11 as an oracle."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rfc_cases import bytewise, cut

from simple_ws.constants import MAX_HEAD_SIZE, MAX_HEADER_COUNT
from simple_ws.errors import HandshakeError
from simple_ws.protocol.http_body import (
    ChunkedBody,
    IncompleteResponse,
    LengthBody,
    ResponseEncoder,
    Stream,
    body_reader,
)
from simple_ws.protocol.request import Request
from simple_ws.protocol.response import Response

pytestmark = pytest.mark.one_backend

LIMIT = 1000


def request(*lines: str, version: tuple[int, int] = (1, 1)) -> Request:
    fields = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
    return Request("POST", "/", version, fields)


def collect(
    chunks: Iterable[bytes], max_size: int = LIMIT
) -> tuple[bytes, bytes] | None:
    """Body and what came behind it; None when it is not whole."""
    reader = ChunkedBody(max_size)
    rest = b""
    complete = False
    for chunk in chunks:
        if complete:
            rest += chunk
        elif reader.feed(chunk):
            complete, rest = True, reader.rest
    return (reader.body, rest) if complete else None


def refused(chunks: Iterable[bytes], max_size: int = LIMIT) -> tuple[int, str]:
    with pytest.raises(HandshakeError) as caught:
        collect(chunks, max_size)
    return caught.value.status, str(caught.value)


# --- Bodies in chunks ----------------------------------------------------------------

#: (id, bytes, body). RFC 9112 §7.1.
CHUNKED = [
    ("empty", b"0\r\n\r\n", b""),
    ("one", b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    ("two", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"),
    ("hex", b"1A\r\n" + b"x" * 26 + b"\r\n0\r\n\r\n", b"x" * 26),
    ("lower-case", b"1a\r\n" + b"x" * 26 + b"\r\n0\r\n\r\n", b"x" * 26),
    ("leading-zeros", b"0005\r\nhello\r\n0000\r\n\r\n", b"hello"),
    ("breaks-inside", b"6\r\n\r\n0\r\n\r\r\n0\r\n\r\n", b"\r\n0\r\n\r"),
    ("extension", b"5;a=b\r\nhello\r\n0;c\r\n\r\n", b"hello"),
    ("quoted-extension", b'5 ; a="b;c"\r\nhello\r\n0\r\n\r\n', b"hello"),
    ("trailer", b"5\r\nhello\r\n0\r\nX: y\r\nZ:\r\n\r\n", b"hello"),
]


@pytest.mark.parametrize(
    ("data", "body"), [row[1:] for row in CHUNKED], ids=[row[0] for row in CHUNKED]
)
def test_chunks_are_collected_at_any_byte_boundary(data: bytes, body: bytes) -> None:
    for rest in (b"", b"GET / HTTP/1.1\r\n", b"\r\n", b"0\r\n\r\n"):
        assert collect([data + rest]) == (body, rest)
        assert collect(bytewise(data + rest)) == (body, rest)
        for place in range(1, len(data)):
            assert collect([data[:place], data[place:] + rest]) == (body, rest)
    for size in range(len(data)):
        assert collect([data[:size]]) is None


#: (id, bytes, a word of the reason). All are refused with 400.
MALFORMED = [
    ("no-size", b"\r\nhello\r\n0\r\n\r\n", "size"),
    ("no-hex", b"g\r\n", "size"),
    ("sign", b"+5\r\nhello\r\n", "size"),
    ("prefix", b"0x5\r\nhello\r\n", "size"),
    ("underscore", b"1_0\r\n", "size"),
    ("blank-before", b" 5\r\nhello\r\n", "size"),
    ("blank-behind", b"5 \r\nhello\r\n", "size"),
    ("bare-lf", b"5\nhello\r\n", "size"),
    ("bare-cr-in-extension", b"5;a\rb\r\nhello\r\n", "size"),
    ("nul-in-extension", b"5;\0\r\nhello\r\n", "size"),
    ("17-digits", b"0" * 17 + b"\r\n\r\n", "size"),
    ("comma", b"5,5\r\nhello\r\n", "size"),
    ("too-long", b"4\r\nhello\r\n", "longer"),
    ("end-is-lf", b"5\r\nhello\n0\r\n\r\n", "longer"),
    ("end-is-cr-cr", b"5\r\nhello\r\r\n", "longer"),
    ("trailer-no-colon", b"0\r\nXY\r\n\r\n", "trailer"),
    ("trailer-folded", b"0\r\nX: y\r\n z\r\n\r\n", "trailer"),
    ("trailer-lf", b"0\r\nX: y\n\r\n", "trailer"),
    ("end-lf", b"0\r\n\n", "trailer"),
    ("request-for-trailer", b"0\r\nGET / HTTP/1.1\r\n\r\n", "trailer"),
]


@pytest.mark.parametrize(
    ("data", "word"), [row[1:] for row in MALFORMED], ids=[row[0] for row in MALFORMED]
)
def test_malformed_chunks_are_refused(data: bytes, word: str) -> None:
    status, reason = refused([data])
    assert status == 400
    assert word in reason
    assert refused(bytewise(data)) == (status, reason)
    assert refused([data + b"behind"]) == (status, reason)


def test_body_in_chunks_has_a_limit() -> None:
    exact = b"a\r\n" + b"x" * 10 + b"\r\n"
    assert collect([exact + b"0\r\n\r\n"], 10) == (b"x" * 10, b"")
    reason = (413, "The body of the request exceeds 10 bytes.")
    # It is felt when the size is told, before the bytes come.
    assert refused([b"b\r\n"], 10) == reason
    assert refused([exact + b"1\r\n"], 10) == reason
    assert refused([b"f" * 16 + b"\r\n"], 10) == reason


def test_line_before_a_chunk_has_a_limit() -> None:
    def line(size: int) -> bytes:
        return b"0;" + b"x" * (size - 4) + b"\r\n"

    assert collect([line(256) + b"\r\n"]) == (b"", b"")
    assert refused([line(257)])[0] == 431
    assert refused(bytewise(line(257)))[0] == 431
    assert refused([b"0" * 256])[0] == 431


def test_extensions_of_all_chunks_together_have_a_limit() -> None:
    chunk = b"1;" + b"x" * 199 + b"\r\ny\r\n"
    count = MAX_HEAD_SIZE // 200
    assert collect([chunk * count + b"0\r\n\r\n"]) == (b"y" * count, b"")
    assert refused([chunk * (count + 1)])[0] == 431


def test_trailers_have_a_limit() -> None:
    lines = b"X: y\r\n" * MAX_HEADER_COUNT
    assert collect([b"0\r\n" + lines + b"\r\n"]) == (b"", b"")
    assert refused([b"0\r\n" + lines + b"X: y\r\n\r\n"])[0] == 431
    long = b"X: " + b"y" * (MAX_HEAD_SIZE - 7) + b"\r\n"
    assert collect([b"0\r\n" + long + b"\r\n"]) == (b"", b"")
    assert refused([b"0\r\nX" + long + b"\r\n"])[0] == 431
    assert refused([b"0\r\n" + b"X" * MAX_HEAD_SIZE])[0] == 431


def test_many_small_chunks_take_no_time() -> None:
    data = b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n"
    began = time.process_time()
    assert collect(cut(data, range(0, len(data), 16384)), 2**20) == (
        b"x" * 100_000,
        b"",
    )
    assert time.process_time() - began < 2


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    places=st.lists(st.integers(0, 400), max_size=6),
    rest=st.binary(max_size=5),
)
def test_any_body_in_any_cut_is_read(
    pieces: list[bytes], places: list[int], rest: bytes
) -> None:
    data = b"".join(b"%X\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    data += b"0\r\n\r\n" + rest
    assert collect(cut(data, places)) == (b"".join(pieces), rest)


def h11_reads(data: bytes) -> bytes | None:
    """h11's body; None when it refuses or waits for more."""
    connection = h11.Connection(h11.SERVER)
    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b""
    try:
        connection.receive_data(head + data)
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                body += event.data
            if isinstance(event, h11.EndOfMessage):
                return body
            if event is h11.NEED_DATA:
                return None
    except h11.RemoteProtocolError:
        return None


parts = st.one_of(
    st.sampled_from([b"5\r\nhello\r\n", b"0\r\n", b"\r\n", b"5;a=b\r\nhello"]),
    st.sampled_from([b"1\r\nx", b"X: y\r\n", b"a\r\n0123456789\r\n"]),
    st.sampled_from([b"0", b"\n", b"\r", b" ", b"g", b";"]),
)


@settings(max_examples=400)
@given(data=st.lists(parts, max_size=6).map(b"".join))
def test_never_takes_chunks_that_h11_refuses(data: bytes) -> None:
    try:
        found = collect([data])
    except HandshakeError:
        return
    if found is not None:
        assert h11_reads(data) == found[0]


# --- Which body a request has ---------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5, LIMIT])
def test_body_of_known_length_is_collected(size: int) -> None:
    data = bytes(range(256)) * 4
    for chunks in ([data], bytewise(data), cut(data, [1, size - 1, size])):
        reader = body_reader(request(f"Content-Length: {size}"), LIMIT)
        assert isinstance(reader, LengthBody)
        rest = b""
        complete = False
        for chunk in chunks:
            if complete:
                rest += chunk
            elif reader.feed(chunk):
                complete, rest = True, reader.rest
        assert (reader.body, rest) == (data[:size], data[size:])


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Content-Length: 0"],
        ["Content-Length: 000"],
        ["Content-Length: 0", "Content-Length: 0"],
    ],
)
def test_request_without_a_body_has_no_reader(lines: list[str]) -> None:
    assert body_reader(request(*lines), LIMIT) is None


@pytest.mark.parametrize(
    "lines",
    [["Content-Length: 5"] * 2, ["Content-Length: 0005"], ["content-length:\t5 "]],
)
def test_length_may_be_told_in_unusual_ways(lines: list[str]) -> None:
    reader = body_reader(request(*lines), LIMIT)
    assert reader is not None
    assert reader.feed(b"hello!")
    assert (reader.body, reader.rest) == (b"hello", b"!")


#: (id, header lines, status). RFC 9112 §6.3 and §11.2: where readers could disagree.
REFUSED = [
    ("both", ["Content-Length: 5", "Transfer-Encoding: chunked"], 400),
    ("both-zero", ["Content-Length: 0", "Transfer-Encoding: chunked"], 400),
    ("different", ["Content-Length: 5", "Content-Length: 6"], 400),
    ("same-but-for-zeros", ["Content-Length: 5", "Content-Length: 05"], 400),
    ("list", ["Content-Length: 5, 5"], 400),
    ("empty", ["Content-Length:"], 400),
    ("negative", ["Content-Length: -5"], 400),
    ("plus", ["Content-Length: +5"], 400),
    ("float", ["Content-Length: 5.0"], 400),
    ("hex", ["Content-Length: 0x5"], 400),
    ("underscore", ["Content-Length: 1_0"], 400),
    ("no-ascii-digits", ["Content-Length: \xb2"], 400),
    ("blank-inside", ["Content-Length: 5 5"], 400),
    ("large", [f"Content-Length: {LIMIT + 1}"], 413),
    ("huge", ["Content-Length: " + "9" * 10_000], 413),
    ("gzip", ["Transfer-Encoding: gzip"], 400),
    ("identity", ["Transfer-Encoding: identity"], 400),
    ("gzip-chunked", ["Transfer-Encoding: gzip, chunked"], 501),
    ("two-lines", ["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"], 501),
    ("chunked-twice", ["Transfer-Encoding: chunked, chunked"], 400),
    ("chunked-gzip", ["Transfer-Encoding: chunked, gzip"], 400),
    ("no-coding", ["Transfer-Encoding:"], 400),
    ("quoted", ['Transfer-Encoding: "chunked"'], 400),
    ("parameter", ["Transfer-Encoding: chunked;a=b"], 400),
    ("latin-blank", ["Transfer-Encoding: \xa0chunked"], 400),
]


@pytest.mark.parametrize(
    ("lines", "status"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_doubtful_length_is_refused(lines: list[str], status: int) -> None:
    with pytest.raises(HandshakeError) as caught:
        body_reader(request(*lines), LIMIT)
    assert caught.value.status == status


@pytest.mark.parametrize("value", ["chunked", "CHUNKED", " chunked ", "chunked,", ","])
def test_chunked_is_understood(value: str) -> None:
    asked = request(f"Transfer-Encoding: {value}")
    if value == ",":
        with pytest.raises(HandshakeError):
            body_reader(asked, LIMIT)
    else:
        assert isinstance(body_reader(asked, LIMIT), ChunkedBody)


def test_http_1_0_has_no_chunks() -> None:
    old = request("Transfer-Encoding: chunked", version=(1, 0))
    with pytest.raises(HandshakeError) as caught:
        body_reader(old, LIMIT)
    assert caught.value.status == 400


# --- Answers -------------------------------------------------------------------------


class Pieces:
    """A source that gives what it was given; None for nothing yet, or raises."""

    def __init__(self, *pieces: bytes | Exception | None) -> None:
        self._pieces = list(pieces)
        self.closed = 0

    def read(self) -> bytes | None:
        assert not self.closed
        piece = self._pieces.pop(0) if self._pieces else b""
        if isinstance(piece, Exception):
            raise piece
        return piece

    def close(self) -> None:
        self.closed += 1


def sent(answer: ResponseEncoder) -> tuple[list[str], bytes]:
    """Head lines without the date, and the body, of a whole answer."""
    data = b""
    while (piece := answer.read()) != b"":
        data += piece or b""
    head, end, body = data.partition(b"\r\n\r\n")
    assert end
    lines = head.decode("latin-1").split("\r\n")
    dates = [line for line in lines if line.startswith("Date: ")]
    assert len(dates) == 1
    assert re.fullmatch(r"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", dates[0])
    lines.remove(dates[0])
    return lines, body


def test_large_body_is_not_copied() -> None:
    body = bytes(2**20)
    answer = ResponseEncoder(Response(200, body))
    head = answer.read()
    assert head is not None
    assert head.endswith(b"\r\n\r\n")
    assert answer.read() is body
    assert answer.read() == b""


def test_response_is_sent_in_one_piece() -> None:
    answer = ResponseEncoder(Response(200, "hi"), stays=True)
    first = answer.read()
    assert first is not None
    assert first.endswith(b"\r\n\r\nhi")
    assert answer.read() == b""
    assert answer.stays


@pytest.mark.parametrize(
    ("version", "stays", "line"),
    [
        ((1, 1), True, None),
        ((1, 1), False, "Connection: close"),
        ((1, 0), True, "Connection: keep-alive"),
        ((1, 0), False, "Connection: close"),
    ],
)
def test_answer_says_what_becomes_of_the_connection(
    version: tuple[int, int], stays: bool, line: str | None
) -> None:
    answer = ResponseEncoder(Response(200, "hi"), version=version, stays=stays)
    lines, body = sent(answer)
    assert body == b"hi"
    assert "Content-Length: 2" in lines
    assert [one for one in lines if one.startswith("Conn")] == ([line] if line else [])
    assert answer.stays is stays


def test_answer_may_close_the_connection() -> None:
    answer = ResponseEncoder(Response(200, "hi", {"connection": "Close"}), stays=True)
    lines, _ = sent(answer)
    assert not answer.stays
    assert lines.count("Connection: close") == 1
    assert "connection: Close" not in lines


def test_users_cannot_break_the_framing() -> None:
    wrong = {"Content-Length": "99", "Transfer-Encoding": "chunked", "Keep-Alive": "1"}
    lines, body = sent(
        ResponseEncoder(Response(200, "hi", {**wrong, "X": "y"}), stays=True)
    )
    assert body == b"hi"
    kept = ["Content-Type: text/plain; charset=utf-8", "Content-Length: 2", "X: y"]
    assert sorted(lines[1:]) == sorted(kept)


def test_upgrade_stands_beside_close() -> None:
    offer = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
    lines, _ = sent(ResponseEncoder(Response(426, "no", offer)))
    assert {"Connection: Upgrade", "Connection: close"} <= set(lines)


def test_date_of_the_user_is_kept() -> None:
    date = "Sun, 06 Nov 1994 08:49:37 GMT"
    data = ResponseEncoder(Response(200, "hi", {"date": date})).read()
    assert data is not None
    assert data.lower().count(b"\r\ndate: ") == 1
    assert f"date: {date}\r\n".encode() in data


@pytest.mark.parametrize("status", [200, 206, 404, 500])
@pytest.mark.parametrize("length", [None, 5])
def test_head_is_answered_without_a_body(status: int, length: int | None) -> None:
    source = Pieces(b"hello")
    stream = Stream(status, [("X", "y")], source, length)
    answer = ResponseEncoder(stream, head_only=True, stays=True)
    lines, body = sent(answer)
    assert body == b""
    assert source.closed == 1
    assert answer.stays
    assert ("Content-Length: 5" in lines) is (length == 5)


def test_head_may_be_told_a_length_without_a_body() -> None:
    response = Response(200, headers={"Content-Length": "1234"})
    assert "Content-Length: 1234" in sent(ResponseEncoder(response, head_only=True))[0]
    assert "Content-Length: 0" in sent(ResponseEncoder(response))[0]


@pytest.mark.parametrize("status", [204, 304])
def test_answer_without_a_body_has_none(status: int) -> None:
    source = Pieces(b"hello")
    for told in (Response(status, "hi"), Stream(status, [], source, 5)):
        lines, body = sent(ResponseEncoder(told, stays=True))
        assert body == b""
        assert not [line for line in lines if "ength" in line or "Transfer" in line]
    assert source.closed == 1


def test_stream_of_known_length_is_sent_as_it_is() -> None:
    source = Pieces(b"he", None, b"llo")
    answer = ResponseEncoder(Stream(200, [], source, 5), stays=True)
    lines, body = sent(answer)
    assert body == b"hello"
    assert "Content-Length: 5" in lines
    assert answer.stays
    assert source.closed == 1


def test_stream_of_unknown_length_is_sent_in_chunks() -> None:
    answer = ResponseEncoder(Stream(200, [], Pieces(b"he", None, b"llo")), stays=True)
    lines, body = sent(answer)
    assert "Transfer-Encoding: chunked" in lines
    assert not [line for line in lines if "Length" in line]
    assert body == b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    assert answer.stays


def test_stream_of_unknown_length_ends_with_the_connection_in_http_1_0() -> None:
    stream = Stream(200, [], Pieces(b"he", b"llo"))
    answer = ResponseEncoder(stream, version=(1, 0), stays=True)
    lines, body = sent(answer)
    assert body == b"hello"
    assert "Connection: close" in lines
    assert not [line for line in lines if "ength" in line or "Transfer" in line]
    assert not answer.stays


def test_head_does_not_wait_for_the_body() -> None:
    answer = ResponseEncoder(Stream(200, [], Pieces(None, b"x"), 1))
    first = answer.read()
    assert first is not None
    assert first.endswith(b"\r\n\r\n")
    assert answer.read() == b"x"


def test_source_that_gives_nothing_yet_is_told_as_none() -> None:
    answer = ResponseEncoder(Stream(200, [], Pieces(b"x", None), 2))
    answer.read()
    assert answer.read() is None


def test_stream_never_sends_more_than_it_promised() -> None:
    source = Pieces(b"hello", b"more")
    _, body = sent(ResponseEncoder(Stream(200, [], source, 3), stays=True))
    assert body == b"hel"
    assert source.closed == 1


def test_stream_that_gives_less_than_it_promised_is_cut() -> None:
    source = Pieces(b"he")
    answer = ResponseEncoder(Stream(200, [], source, 5), stays=True)
    answer.read()
    with pytest.raises(IncompleteResponse, match="3 bytes are missing"):
        answer.read()
    assert source.closed == 1


@pytest.mark.parametrize("error", [IncompleteResponse("x"), OSError(5, "disk")])
def test_failure_of_a_source_is_handed_on(error: Exception) -> None:
    answer = ResponseEncoder(Stream(200, [], Pieces(b"x", error)))
    answer.read()
    with pytest.raises(type(error)):
        answer.read()


def test_closed_answer_closes_its_source_once() -> None:
    source = Pieces(b"x")
    answer = ResponseEncoder(Stream(200, [], source))
    answer.close()
    answer.close()
    assert source.closed == 1
    ResponseEncoder(Response(200, "x")).close()


def test_reason_of_a_stream_is_its_own() -> None:
    lines, _ = sent(ResponseEncoder(Stream(404, [], Pieces(), reason="Nothing Here")))
    assert lines[0] == "HTTP/1.1 404 Nothing Here"


def make_response(body: bytes) -> Response | Stream:
    return Response(200, body)


def make_stream(body: bytes) -> Response | Stream:
    return Stream(200, [], Pieces(*bytewise(body)), len(body))


def make_chunks(body: bytes) -> Response | Stream:
    return Stream(200, [], Pieces(*bytewise(body)))


@pytest.mark.parametrize("make", [make_response, make_stream, make_chunks])
@pytest.mark.parametrize("body", [b"", b"x", b"\r\n0\r\n\r\n"])
def test_answer_is_understood_by_h11(
    make: Callable[[bytes], Response | Stream], body: bytes
) -> None:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    connection.send(h11.EndOfMessage())
    answer = ResponseEncoder(make(body), stays=True)
    while data := answer.read():
        connection.receive_data(data)
    got = b""
    assert isinstance(connection.next_event(), h11.Response)
    while isinstance(event := connection.next_event(), h11.Data):
        got += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert got == body
