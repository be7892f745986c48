"""The opening handshake over sockets: accepted and refused requests."""

from __future__ import annotations

import gc
import logging
import re
import socket
import weakref
from contextlib import suppress
from typing import Any

import pytest
from harness import (
    TEXT,
    Driven,
    Echo,
    Recorder,
    Wrapped,
    connect,
    frame,
    open_peer,
    request,
    running,
    small_buffers,
)

from simple_ws import Client, Request, Response, Server

#: Begin of a TLS 1.3 ClientHello.
TLS_HELLO = bytes.fromhex(
    "16030100f8010000f40303" + "5a" * 32 + "20" + "a5" * 32 + "0006130113021303"
)


def answer(driven: Driven, data: bytes) -> tuple[int, str, str]:
    """Status, head and body of the answer to some bytes."""
    peer = driven.join()
    peer.write(data)
    head, _, body = peer.read_rest().partition(b"\r\n\r\n")
    peer.close()
    driven.turn()
    return int(head.split()[1]), head.decode(), body.decode()


# --- Let in --------------------------------------------------------------------------


def test_handshake_of_the_rfc_is_answered_to_the_letter() -> None:
    with Driven(compression=False) as driven:
        peer = driven.open()
        assert peer.head.split(b"\r\n") == [
            b"HTTP/1.1 101 Switching Protocols",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        ]


@pytest.mark.parametrize("session", [None, "session"], ids=["opened", "asked"])
def test_nothing_of_the_handshake_is_left_when_the_client_is_open(
    session: object,
) -> None:
    class Asked(Echo):
        def on_request(self, request: Request) -> object:
            return session

    with Driven(Asked()) as driven:
        peer = driven.join()
        driven.turn()
        (handshaking,) = driven.handshaking
        left = weakref.ref(handshaking)
        del handshaking
        gc.collect()
        gc.disable()  # a cycle would stay until the collector has time
        try:
            peer.shake("/")
            assert left() is None
        finally:
            gc.enable()


def test_request_may_be_split_at_every_byte() -> None:
    whole = request("/here") + frame(TEXT, "first")
    with Driven(Echo()) as driven:
        for cut in range(1, len(whole)):
            peer = driven.join()
            peer.write(whole[:cut])
            driven.turn()
            peer.write(whole[cut:])
            assert peer.read_head().startswith(b"HTTP/1.1 101 ")
            assert peer.read_message() == "first"
            peer.close()


def test_request_may_come_byte_by_byte() -> None:
    with Driven() as driven:
        peer = driven.join()
        for byte in request():
            peer.write(bytes((byte,)))
            driven.turn()
        assert peer.read_head().startswith(b"HTTP/1.1 101 ")


def test_first_frames_may_come_in_the_segment_of_the_request() -> None:
    with Driven(Echo()) as driven:
        peer = driven.open(then=frame(TEXT, "a") + frame(TEXT, "b") + b"\x81")
        assert (peer.read_message(), peer.read_message()) == ("a", "b")
        peer.write(frame(TEXT, "c")[1:])
        assert peer.read_message() == "c"
        assert driven.handler.names == ["open", "message", "message", "message"]


def test_fault_in_the_segment_of_the_request_comes_after_on_open() -> None:
    with Driven() as driven:
        peer = driven.open(then=b"\x81\x01x")
        assert peer.read_close() == (1002, "unmasked frame")
        driven.turn()
        assert driven.handler.names == ["open", "close"]


def test_on_request_none_accepts_and_sees_the_request() -> None:
    seen: list[Request] = []
    handler = Recorder()
    handler.on_request = seen.append  # type: ignore[method-assign]
    with Driven(handler) as driven:
        driven.open("/a%20b?x=1", "Cookie: c=d", "Authorization: Basic eA==")
        (got,) = seen
        assert (got.method, got.path, got.query["x"]) == ("GET", "/a b", "1")
        assert got.cookies == {"c": "d"}
        assert got.authorization == "Basic eA=="
        assert got.address == ("192.0.2.1", 12345)
        assert handler.client().session == {}


@pytest.mark.parametrize("session", [{"user": 7}, "user-7", "", object()])
def test_on_request_any_other_object_becomes_the_session(session: object) -> None:
    handler = Recorder()
    handler.on_request = lambda request: session  # type: ignore[method-assign]
    with Driven(handler) as driven:
        driven.open()
        assert handler.client().session is session


def test_sessions_are_not_shared() -> None:
    with Driven() as driven:
        driven.open()
        driven.open()
        first, second = driven.handler.clients
        first.session["x"] = 1
        assert second.session == {}


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [("b, a", "a"), ("b", "b"), ("c", None), (None, None), ("A", None)],
)
def test_subprotocol_is_chosen_by_our_preference(
    offered: str | None, chosen: str | None
) -> None:
    with Driven(Recorder(subprotocols=["a", "b"])) as driven:
        lines = [] if offered is None else [f"Sec-WebSocket-Protocol: {offered}"]
        peer = driven.open("/", *lines)
        assert driven.handler.client().subprotocol == chosen
        line = f"Sec-WebSocket-Protocol: {chosen}".encode()
        assert (line in peer.head) is (chosen is not None)


def test_select_subprotocol_may_be_overridden() -> None:
    handler = Recorder()
    handler.select_subprotocol = lambda offered: offered[-1]  # type: ignore[method-assign]
    with Driven(handler) as driven:
        driven.open("/", "Sec-WebSocket-Protocol: x, y", "Sec-WebSocket-Protocol: z")
        assert handler.client().subprotocol == "z"


# --- Refused -------------------------------------------------------------------------

KEY_LINE = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
GOOD = request().decode()

#: (id, request, status, words of the body)
REFUSALS = [
    ("plain", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 426, "serves WebSocket"),
    ("post", GOOD.replace("GET", "POST"), 405, "must be a GET request, not POST"),
    ("http-1.0", GOOD.replace("HTTP/1.1", "HTTP/1.0"), 400, "needs HTTP/1.1"),
    ("no-host", GOOD.replace("Host: example.com\r\n", ""), 400, "Host header"),
    ("host", GOOD.replace("example.com", "a b"), 400, "Host header is malformed"),
    ("fragment", GOOD.replace("GET /", "GET /#a"), 400, "has a fragment"),
    ("no-key", GOOD.replace(KEY_LINE, ""), 400, "Sec-WebSocket-Key header"),
    ("two-keys", GOOD.replace(KEY_LINE, KEY_LINE * 2), 400, "exactly one"),
    ("short-key", GOOD.replace("dGhlIHNhbXBsZSBub25jZQ==", "eA=="), 400, "16 bytes"),
    ("version-8", GOOD.replace(": 13", ": 8"), 426, "version 13"),
    ("no-version", GOOD.replace("Sec-WebSocket-Version: 13\r\n", ""), 400, "Version"),
    ("upgrade-h2c", GOOD.replace(": websocket", ": h2c"), 400, "name websocket"),
    ("connection", GOOD.replace(": Upgrade", ": close"), 400, "must name Upgrade"),
    ("garbage", "\x00\x01\x02\x03\r\n\r\n", 400, "not an HTTP request"),
    ("one-word", "HELLO\r\n\r\n", 400, "request line is malformed"),
    ("bare-lf", "GET / HTTP/1.1\nHost: x\n\n", 400, "without CR LF"),
    ("field", GOOD.replace("Host:", "Host :"), 400, "Header line 1 is malformed"),
    ("protocol", GOOD[:-2] + "Sec-WebSocket-Protocol: a b\r\n\r\n", 400, "Protocol"),
    ("many", GOOD[:-2] + "X: y\r\n" * 100 + "\r\n", 431, "more than 100 header lines"),
    ("large", GOOD[:-2] + f"X: {'y' * 17000}\r\n\r\n", 431, "exceeds 16,384 bytes"),
    ("endless", "GET /" + "x" * 17000, 414, "line exceeds 16,384 bytes"),
]


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [row[1:] for row in REFUSALS],
    ids=[row[0] for row in REFUSALS],
)
def test_refusal_says_in_one_sentence_what_was_wrong(
    data: str, status: int, words: str, caplog: Any
) -> None:
    caplog.set_level(logging.DEBUG, "simple_ws")
    with Driven() as driven:
        got, head, body = answer(driven, data.encode("latin-1"))
        assert got == status
        assert words in body
        assert body.endswith(".\n")
        assert body.count("\n") == 1
        assert f"Content-Length: {len(body)}" in head
        assert "Connection: close" in head
        assert driven.handler.events == []
        assert not driven.handshaking
    (record,) = caplog.records
    assert record.levelno <= logging.INFO
    assert record.exc_info is None
    assert "\n" not in record.getMessage()


def test_version_refusal_names_the_version_spoken() -> None:
    with Driven() as driven:
        _, head, _ = answer(driven, request().replace(b": 13", b": 8"))
        assert "Sec-WebSocket-Version: 13" in head


def test_tls_hello_is_one_line_in_the_log(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, "simple_ws")
    with Driven() as driven:
        status, _, body = answer(driven, TLS_HELLO)
        assert (status, body) == (400, "This is not an HTTP request.\n")
    (record,) = caplog.records
    assert record.levelno <= logging.INFO
    assert record.exc_info is None


def test_unknown_path_is_404_before_the_upgrade() -> None:
    with Driven() as driven:
        driven.server._router._rest = None
        driven.server.mount("/known", Recorder())
        status, _, body = answer(driven, request("/other"))
        assert (status, body) == (404, "There is nothing at this path.\n")
        driven.open("/known")


def test_full_server_is_503_with_retry_after() -> None:
    with Driven(max_connections=2) as driven:
        first = driven.open()
        driven.open()
        status, head, body = answer(driven, request())
        assert (status, body) == (503, "The server is full.\n")
        assert "Retry-After: " in head
        first.leave()
        driven.turn()
        driven.open()


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://good.example", 101),
        ("https://GOOD.example", 101),
        ("https://a.sub.example", 101),
        ("http://example.com", 101),  # the host of the request
        ("https://evil.example", 403),
        ("https://good.example.evil.example", 403),
        ("null", 403),
        (None, 403),
    ],
)
def test_origin_is_checked_before_the_upgrade(origin: str | None, status: int) -> None:
    origins = ["https://good.example", "https://*.sub.example", "same"]
    with Driven(Recorder(origins=origins)) as driven:
        peer = driven.join()
        peer.write(request("/", *([] if origin is None else [f"Origin: {origin}"])))
        assert int(peer.read_head().split()[1]) == status


def test_on_request_response_refuses() -> None:
    refusal = Response(401, {"error": "who?"}, {"WWW-Authenticate": "Basic"})
    handler = Recorder()
    handler.on_request = lambda request: refusal  # type: ignore[method-assign]
    with Driven(handler) as driven:
        heads = set()
        for _ in range(3):
            status, head, body = answer(driven, request())
            assert (status, body) == (401, '{"error": "who?"}')
            heads.add(re.sub(r"Date: .*\r\n", "", head))
        (head,) = heads  # a response that is given again is not changed
        assert "WWW-Authenticate: Basic" in head
        assert head.count("Connection: close") == 1
        assert handler.events == []


@pytest.mark.parametrize("status", [100, 101, 199])
def test_on_request_response_that_is_no_answer_is_500(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Recorder()
    handler.on_request = lambda request: Response(status)  # type: ignore[method-assign]
    with Driven(handler) as driven:
        assert answer(driven, request())[0] == 500
    assert "an answer must have a status of 200 or more" in caplog.text


def test_large_response_reaches_a_peer_that_reads_slowly() -> None:
    page = "x" * 500_000
    handler = Recorder()
    handler.on_request = lambda request: Response(403, page)  # type: ignore[method-assign]
    with Driven(handler) as driven:
        peer = driven.join(small_buffers)
        peer.write(request())
        peer.end()
        driven.turn(3)
        assert peer.read_rest().endswith(b"\r\n\r\n" + page.encode())
        driven.turn()
        assert not driven.handshaking


def test_response_that_nobody_reads_is_given_up() -> None:
    handler = Recorder()
    handler.on_request = lambda request: Response(403, "x" * 500_000)  # type: ignore[method-assign]
    with Driven(handler, close_timeout=1) as driven:
        driven.join(small_buffers).write(request())
        driven.turn(3)
        assert driven.handshaking
        driven.advance(1.5)
        assert not driven.handshaking


def test_head_request_is_answered_without_a_body() -> None:
    with Driven() as driven:
        status, head, body = answer(driven, b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status, body) == (405, "")
        assert "Content-Length: " in head


@pytest.mark.parametrize("place", ["on_request", "select_subprotocol", "client_class"])
def test_user_code_that_raises_is_500_with_a_traceback(place: str, caplog: Any) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("my fault")

    handler = Recorder()
    setattr(handler, place, fail)
    with Driven(handler) as driven:
        line = "Sec-WebSocket-Protocol: x"
        status, _, body = answer(driven, request("/", line))
        assert (status, body) == (500, "The server failed.\n")
        assert handler.events == []
    assert "my fault" in caplog.text


class Forgetful(Client):
    def __init__(self, *args: Any) -> None:
        self.name = "me"


@pytest.mark.parametrize(
    ("client_class", "words"),
    [
        (Forgetful, "Forgetful.__init__ must call super"),
        (lambda *args: None, "must be a subclass of Client, not None"),
    ],
)
def test_client_class_that_is_no_client_is_500(
    client_class: Any, words: str, caplog: Any
) -> None:
    handler = Recorder()
    handler.client_class = client_class
    with Driven(handler) as driven:
        status, _, _ = answer(driven, request())
        assert status == 500
        assert not driven.server.clients
    assert words in caplog.text


def test_select_subprotocol_must_choose_what_was_offered(caplog: Any) -> None:
    handler = Recorder()
    handler.select_subprotocol = lambda offered: "other"  # type: ignore[method-assign]
    with Driven(handler) as driven:
        status, _, _ = answer(driven, request("/", "Sec-WebSocket-Protocol: x"))
        assert status == 500


@pytest.mark.parametrize("place", ["on_request", "select_subprotocol", "client_class"])
def test_user_code_may_stop_the_server_during_a_handshake(place: str) -> None:
    handler = Recorder()
    with Driven(handler) as driven:

        def stop(*args: Any, **kwargs: Any) -> Any:
            driven.stop_begins(1.0)
            if place == "client_class":
                return Client(*args, **kwargs)
            return None

        setattr(handler, place, stop)
        peer, other = driven.join(), driven.join()
        for one in (peer, other):
            one.write(request("/", "Sec-WebSocket-Protocol: x"))
        driven.turn(3)
        driven.advance(5.0)
        assert not driven.handshaking
        assert not driven.running
        assert {code for code, *_ in handler.of("close")} <= {1001, 1006}


# --- Time ----------------------------------------------------------------------------


def test_slow_handshake_is_408() -> None:
    with Driven(open_timeout=10) as driven:
        peer = driven.join()
        for byte in b"GET / HTTP":
            peer.write(bytes((byte,)))
            driven.advance(0.95)
        assert peer.nothing_waits()
        driven.advance(1.0)
        head, _, body = peer.read_rest().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert body == b"The opening handshake took too long.\n"


def test_connection_that_says_nothing_is_closed_without_a_word(caplog: Any) -> None:
    caplog.set_level(logging.INFO, "simple_ws")
    with Driven(open_timeout=10) as driven:
        peer = driven.join()
        driven.advance(9.5)
        assert peer.nothing_waits()
        driven.advance(1.0)
        assert peer.read_rest() == b""
        assert not driven.handshaking
    assert caplog.records == []


def test_refused_peer_that_stays_is_closed_after_close_timeout() -> None:
    with Driven(close_timeout=1) as driven:
        peer = driven.join()
        peer.write(b"nonsense\r\n\r\n")
        assert peer.read_head()
        driven.advance(0.5)
        assert driven.handshaking
        driven.advance(1.0)
        assert not driven.handshaking


def test_refused_peer_that_floods_is_cut() -> None:
    with Driven() as driven:
        peer = driven.join()
        peer.write(b"nonsense\r\n\r\n")
        driven.turn()
        written = 0
        with suppress(ConnectionError):
            while written < 1000:
                peer.write(b"x" * 4096)
                driven.turn()
                written += 1
        assert written < 1000
        assert not driven.handshaking


class Dead(Wrapped):
    def send(self, data: object) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("slow", [False, True])
def test_peer_that_is_gone_before_its_refusal_is_forgotten(slow: bool) -> None:
    with Driven() as driven:
        peer = driven.join(Dead)
        peer.write(b"GET /" if slow else b"GET / HTTP/1.1\r\n\r\n")
        driven.turn()
        driven.advance(11.0)
        driven.advance(11.0)
        assert not driven.handshaking
        assert len(driven.reactor.wheel) == 0
        driven.open()


@pytest.mark.parametrize("sent", [b"", b"GET / HT", request()[:-1]])
def test_peer_that_leaves_during_the_handshake_is_forgotten(sent: bytes) -> None:
    with Driven() as driven:
        peer = driven.join()
        peer.write(sent)
        driven.turn()
        peer.close()
        driven.turn(2)
        assert not driven.handshaking
        assert driven.handler.events == []
        assert len(driven.reactor.wheel) == 0


def test_wheel_holds_a_connection_once_through_its_life() -> None:
    with Driven(ping=False) as driven:
        driven.join()
        assert len(driven.reactor.wheel) == 1
        driven.open()
        assert len(driven.reactor.wheel) == 1


# --- Over TCP ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        TLS_HELLO + bytes(200_000),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"y" * 200_000,
        b"G" * 100_000,
    ],
    ids=["tls", "body", "endless"],
)
def test_refusal_arrives_even_when_more_was_sent_than_read(data: bytes) -> None:
    """A socket closed with unread input is reset, and what it sent is lost."""
    with running(Recorder()) as server, connect(server) as peer:
        peer.write(data)
        assert peer.read_rest().startswith(b"HTTP/1.1 4")


def test_tcp_client_sees_its_own_address() -> None:
    handler = Recorder()
    with running(handler) as server, open_peer(server) as peer:
        assert handler.client().address == peer.sock.getsockname()


def test_many_handshakes_at_once() -> None:
    handler = Echo()
    with running(handler) as server:
        peers = [connect(server) for _ in range(200)]
        for number, peer in enumerate(peers):
            peer.write(request() + frame(TEXT, str(number)))
        for number, peer in enumerate(peers):
            peer.read_head()
            assert peer.read_message() == str(number)
            peer.close()
        handler.wait_for("close", 200)


def test_answers_are_not_held_back_by_nagle() -> None:
    sockets: list[Any] = []
    handler = Recorder()
    handler.on_open = lambda client: sockets.append(client._sock)  # type: ignore[method-assign]
    with running(handler) as server, open_peer(server):
        option = sockets[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert option


def test_handler_has_a_limit_of_its_own() -> None:
    small = Recorder(max_connections=1)
    with Driven(Recorder()) as driven:
        driven.server.mount("/small", small)
        with driven.open("/small"):
            status, _, body = answer(driven, request("/small"))
            assert (status, body) == (503, "The server is full.\n")
            assert driven.open("/")
        driven.until(lambda: not small.clients)
        assert driven.open("/small")


# --- Versions, hosts, origins, heads --------------------------------------------------


def status_of(driven: Driven, data: bytes) -> int:
    """Of the answer to what is sent on a connection of its own."""
    peer = driven.join()
    peer.write(data)
    return int(peer.read_head().split()[1])


@pytest.mark.parametrize("path", ["/", "/page", "/unknown"])
@pytest.mark.parametrize("version", [b"2.0", b"3.0", b"0.9"])
def test_other_major_versions_of_http_are_refused(path: str, version: bytes) -> None:
    with Driven() as driven:
        driven.server._router._rest = None
        driven.server.mount("/", Recorder())
        driven.server.http("/page")(lambda request: "page")
        old = b"HTTP/" + version
        upgrade = request(path).replace(b"HTTP/1.1", old)
        assert status_of(driven, upgrade) == 505
        plain = b"GET %b %b\r\nHost: a\r\n\r\n" % (path.encode(), old)
        assert status_of(driven, plain) == 505
        assert status_of(driven, request().replace(b"HTTP/1.1", b"HTTP/1.2")) == 101


@pytest.mark.parametrize("origins", [None, "same", ["http://example.com", None]])
def test_two_origins_are_refused(origins: Any) -> None:
    good, bad = "Origin: http://example.com", "Origin: http://evil.example"
    with Driven(origins=origins) as driven:
        driven.server.http("/page")(lambda request: "page")
        assert status_of(driven, request("/", good)) == 101
        for pair in ((good, bad), (bad, good), (good, good), (good, "origin:")):
            assert status_of(driven, request("/", *pair)) == 400
            lines = "".join(f"{line}\r\n" for line in pair)
            page = f"GET /page HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode()
            assert status_of(driven, page) == 400


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("chat.example.com", 101),
        ("CHAT.example.com:8080", 101),
        ("chat.example.com.", 101),
        ("a.b.example.org", 101),
        ("[::1]:80", 101),
        ("127.0.0.1:5", 101),
        ("example.org", 421),
        ("evil-example.org", 421),
        ("evil.example", 421),
        ("chat.example.com.evil.example", 421),
        ("[::2]", 421),
        ("127.0.0.2", 421),
        ("", 421),
        (":80", 421),
    ],
)
def test_host_that_is_not_allowed_is_refused_for_pages_and_handlers(
    host: str, status: int
) -> None:
    allowed = ["chat.example.com", "*.example.org", "[::1]", "127.0.0.1"]
    with Driven(allowed_hosts=allowed) as driven:
        driven.server.http("/page")(lambda request: "page")
        upgrade = request().replace(b"Host: example.com", b"Host: " + host.encode())
        assert status_of(driven, upgrade) == status
        page = b"GET /page HTTP/1.1\r\nHost: %b\r\n\r\n" % host.encode()
        assert status_of(driven, page) == (200 if status == 101 else status)
        assert driven.server._admission.refused == ({} if status == 101 else {421: 2})


def test_host_must_be_allowed_however_it_is_told() -> None:
    with Driven(allowed_hosts=["a.example"]) as driven:
        driven.server.http("/page")(lambda request: "page")
        for target, host, status in [
            ("http://a.example/page", "a.example", 200),
            ("http://evil.example/page", "a.example", 421),
            ("http://a.example/page", "evil.example", 421),
        ]:
            data = f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"
            assert status_of(driven, data.encode()) == status
        assert status_of(driven, b"GET /page HTTP/1.0\r\n\r\n") == 421


def test_allowed_hosts_are_of_the_server() -> None:
    server = Server(allowed_hosts=["a"])
    with pytest.raises(ValueError, match="allowed_hosts is an option of the server"):
        server.mount("/", Recorder(allowed_hosts=["b"]))


@pytest.mark.parametrize("size", [300, 1000, 4096, 16 * 1024, 16 * 1024 + 1, 40_000])
def test_head_may_be_as_large_as_max_header(size: int) -> None:
    def head(size: int) -> bytes:
        room = size - len(request("/", "Cookie: "))
        return request("/", "Cookie: " + "x" * room)

    with Driven(max_header=size) as driven:
        assert len(head(size)) == size
        assert status_of(driven, head(size)) == 101
        assert status_of(driven, head(size + 1)) == 431
        assert status_of(driven, b"GET /%b" % (b"x" * size)) == 414


def test_idle_connection_is_kept_as_long_as_keep_alive_says() -> None:
    with Driven(keep_alive=5) as driven:
        driven.server.http("/page")(lambda request: "page")
        peer = driven.join()
        for _ in range(2):
            peer.write(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n")
            assert peer.read_head().startswith(b"HTTP/1.1 200 ")
            assert peer.read(4) == b"page"
            driven.advance(4.5)
        driven.advance(2)
        assert peer.read_rest() == b""


@pytest.mark.parametrize("again", [False, True], ids=["common", "odd"])
@pytest.mark.parametrize("value", ["", " ", "\t"])
@pytest.mark.parametrize("name", ["Extensions", "Protocol"])
def test_field_with_nothing_in_it_is_as_if_absent(
    name: str, value: str, again: bool
) -> None:
    """RFC 9110 §5.6.1: "a recipient MUST parse and ignore a reasonable number of empty
    list elements"; ktor's client sent such a line for years."""
    handler = Recorder(subprotocols=["a"])
    with Driven(handler) as driven:
        # A second line of `Connection` is nothing for the fast reader.
        lines = ["Connection: keep-alive"] if again else []
        head = driven.open("/", f"Sec-WebSocket-{name}:{value}", *lines).head
        assert f"sec-websocket-{name}".lower().encode() not in head.lower()
        assert handler.client().subprotocol is None
