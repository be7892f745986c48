"""WSGI applications (PEP 3333): a real Flask, wsgiref.validate, and bad ones."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.validate import validator

import pytest
from harness import (
    DEADLINE,
    Driven,
    Echo,
    Peer,
    Wrapped,
    connect,
    open_peer,
    running,
    small_buffers,
    wait_for_end,
)
from http_peer import HttpPeer, ask, browse, chunked, get

from simple_ws import Request, Server
from simple_ws.http import worker_pipe, wsgi

Environ = dict[str, Any]
Start = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Workers end with their server."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("simple_ws wsgi"):
            thread.join(DEADLINE)
            assert not thread.is_alive(), thread


def told(environ: Environ) -> bytes:
    """What can be told of an environ."""
    plain = {k: v for k, v in environ.items() if isinstance(v, str | bool | tuple)}
    return json.dumps(plain).encode()


def plain_app(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Answers with its environ."""
    start_response("200 OK", [("Content-Type", "application/json")])
    return [told(environ)]


def echo_app(environ: Environ, start_response: Start) -> Iterable[bytes]:
    """Answers with the body."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return [body]


class Pieces:
    """An iterable of which one knows how far it was taken, and that it was closed."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self.taken = 0
        self.closed = threading.Event()
        self.closes = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = next(self._pieces)
        self.taken += 1
        return piece

    def close(self) -> None:
        self.closes += 1
        self.closed.set()


def app_of(pieces: Iterable[bytes], *headers: tuple[str, str]) -> Any:
    """An application that answers with these."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), *headers])
        return pieces

    return app


def pool_of(driven: Driven) -> Any:
    """The threads behind /app."""
    entry = driven.server._find_route(Request("GET", "/app/", (1, 1), b""))
    assert entry is not None
    return entry.select("GET").__self__._pool  # type: ignore[attr-defined]


def join_tcp(driven: Driven) -> Peer:
    """A connection that can be reset, which socket pairs cannot."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname(), timeout=DEADLINE)
        ours, address = listener.accept()
    ours.setblocking(False)
    driven.server._on_accept(ours, address)
    return Peer(theirs, driven.turn)


# --- What an application is told ------------------------------------------------------


def environ_of(prefix: str, head: bytes, **options: Any) -> Any:
    with Driven(Echo(), **options) as driven:
        driven.server.host, driven.server.port = "192.0.2.7", 8080
        driven.server.wsgi(prefix, plain_app)
        peer = browse(driven)
        peer.peer.write(head)
        answered = peer.read()
        assert answered.status == 200
        return json.loads(answered.text)


def test_environ_is_that_of_pep_3333() -> None:
    lines = ["Content-Type: a/b", "X-Two: 1", "x-two: 2", "Cookie: a=b", "Cookie: c=d"]
    lines += ["X_Two: spoofed", "Proxy: evil", "Content-Length: 5"]
    head = ask("POST", "/app/a%20b?c=%20d", *lines) + b"hello"
    assert environ_of("/app", head) == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "/app",
        "PATH_INFO": "/a b",
        "QUERY_STRING": "c=%20d",
        "CONTENT_TYPE": "a/b",
        "CONTENT_LENGTH": "5",
        "SERVER_NAME": "192.0.2.7",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.1",
        "REMOTE_PORT": "12345",
        "HTTP_HOST": "example.com",
        "HTTP_X_TWO": "1, 2",
        "HTTP_COOKIE": "a=b; c=d",
        "wsgi.version": [1, 0],
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }


@pytest.mark.parametrize(
    ("prefix", "path", "script", "info"),
    [
        ("/", "/", "", "/"),
        ("/", "/a/b", "", "/a/b"),
        ("/", "//a", "", "//a"),
        ("/app", "/app", "/app", ""),
        ("/app", "/app/", "/app", "/"),
        ("/app/", "/app/x", "/app", "/x"),
        ("/app", "/%61pp/x", "/app", "/x"),
        ("/app", "/app/%2e%2e/x", "/app", "/../x"),
        ("/app", "/app/%C3%A9", "/app", "/Ã©"),  # UTF-8 as characters of latin-1
        ("/app", "/app/%ff", "/app", "/ÿ"),
        ("/é", "/%C3%A9/x", "/Ã©", "/x"),
        ("/app", "http://x/app/y", "/app", "/y"),
    ],
)
def test_path_is_split_where_the_prefix_ends(
    prefix: str, path: str, script: str, info: str
) -> None:
    environ = environ_of(prefix, ask("GET", path))
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script, info)


def test_body_in_chunks_has_a_length_for_the_application() -> None:
    head = ask("POST", "/app/", "Transfer-Encoding: chunked")
    environ = environ_of("/app", head + chunked([b"he", b"llo"]))
    assert environ["CONTENT_LENGTH"] == "5"
    assert "HTTP_TRANSFER_ENCODING" not in environ


def test_request_without_a_body_has_no_length() -> None:
    assert environ_of("/app", ask("GET", "/app/"))["CONTENT_LENGTH"] == ""


def test_http_1_0_is_told() -> None:
    environ = environ_of("/app", ask("GET", "/app/", version="1.0"))
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert "HTTP_HOST" not in environ


class Secure(Wrapped):
    secure = True


def test_scheme_is_https_behind_tls() -> None:
    with Driven() as driven:
        driven.server.wsgi("/app", plain_app)
        peer = HttpPeer(driven.join(Secure))
        assert json.loads(peer.get("/app/").text)["wsgi.url_scheme"] == "https"


# --- What an application answers ------------------------------------------------------


def test_head_of_the_answer_is_the_applications() -> None:
    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        headers = [("X-A", "é"), ("Set-Cookie", "a=b"), ("Set-Cookie", "c=d")]
        start_response("404 Nothing Here", [*headers, ("Server", "mine")])
        return [b"gone"]

    with Driven() as driven:
        driven.server.wsgi("/app", app)
        peer = driven.join()
        peer.write(ask("GET", "/app/"))
        lines = peer.read_head().decode("latin-1").split("\r\n")
        assert lines[0] == "HTTP/1.1 404 Nothing Here"
        for line in ("X-A: é", "Set-Cookie: a=b", "Set-Cookie: c=d", "Server: mine"):
            assert line in lines
        assert "Content-Length: 4" in lines


@pytest.mark.parametrize(
    ("pieces", "headers", "framing"),
    [
        ([], [], ("content-length", "0")),
        ([b""], [], ("content-length", "0")),
        ([b"hello"], [], ("content-length", "5")),
        ([b"he", b"llo"], [], ("transfer-encoding", "chunked")),
        ([b"he", b"llo"], [("Content-Length", "5")], ("content-length", "5")),
        ([b"", b"he", b"", b"llo"], [], ("transfer-encoding", "chunked")),
    ],
)
def test_body_is_framed_by_what_is_known_of_it(
    pieces: list[bytes], headers: list[tuple[str, str]], framing: tuple[str, str]
) -> None:
    with Driven() as driven:
        driven.server.wsgi("/app", app_of(pieces, *headers))
        peer = browse(driven)
        for _ in range(3):  # and the connection stays
            answered = peer.get("/app/")
            assert answered.body == b"".join(pieces)
            assert answered.headers[framing[0]] == framing[1]


def test_unknown_length_ends_with_the_connection_in_http_1_0() -> None:
    with Driven() as driven:
        driven.server.wsgi("/app", app_of([b"he", b"llo"]))
        peer = browse(driven)
        peer.peer.write(ask("GET", "/app/", "Connection: keep-alive", version="1.0"))
        assert peer.read().body == b"hello"
        assert peer.is_closed()


def test_head_gets_no_body_and_the_iterable_is_closed() -> None:
    pieces = Pieces([b"x"] * 1000)
    with Driven() as driven:
        driven.server.wsgi("/app", app_of(pieces, ("Content-Length", "1000")))
        peer = browse(driven)
        answered = peer.fetch("HEAD", "/app/")
        assert (answered.body, answered.headers["content-length"]) == (b"", "1000")
        driven.until(pieces.closed.is_set)
        assert peer.fetch("HEAD", "/app/").status == 200


@pytest.mark.parametrize("pieces", [[], [b""]])
def test_head_without_a_body_is_told_no_length(pieces: list[bytes]) -> None:
    with Driven() as driven:
        driven.server.wsgi("/app", app_of(pieces))
        peer = browse(driven)
        assert "content-length" not in peer.fetch("HEAD", "/app/").headers
        assert peer.get("/app/").headers["content-length"] == "0"


def test_write_callable_goes_before_the_iterable() -> None:
    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        write(b"one ")
        write(b"")
        write(b"two ")
        return [b"three"]

    with Driven() as driven:
        driven.server.wsgi("/app", app)
        assert get(driven, "/app/").text == "one two three"


def test_large_piece_is_sent_whole() -> None:
    data = bytes(range(256)) * 10_000
    with Driven() as driven:
        driven.server.wsgi("/app", app_of([data]))
        peer = HttpPeer(driven.join(small_buffers))
        answered = peer.get("/app/")
        assert answered.body == data
        assert answered.headers["content-length"] == str(len(data))


def test_more_than_was_promised_is_not_sent() -> None:
    pieces = Pieces([b"hello", b"world"] * 100_000)
    with Driven() as driven:
        driven.server.wsgi("/app", app_of(pieces, ("Content-Length", "7")))
        peer = browse(driven)
        assert peer.get("/app/").body == b"hellowo"
        driven.until(pieces.closed.is_set)


def test_less_than_was_promised_cuts_the_connection() -> None:
    with Driven() as driven:
        driven.server.wsgi("/app", app_of([b"he"], ("Content-Length", "5")))
        peer = driven.join()
        peer.write(ask("GET", "/app/"))
        assert peer.read_rest().endswith(b"\r\n\r\nhe")
        driven.until(lambda: not driven.handshaking)


def test_head_waits_for_the_first_piece() -> None:
    """An application may change its mind until then (PEP 3333)."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield b""
        try:
            raise KeyError("found out late")
        except KeyError as error:
            info = (type(error), error, error.__traceback__)
            start_response("409 Conflict", [("X", "y")], info)
        yield b"sorry"

    with Driven() as driven:
        driven.server.wsgi("/app", app)
        answered = get(driven, "/app/")
        assert (answered.status, answered.text) == (409, "sorry")
        assert answered.headers["x"] == "y"


# --- What goes wrong in an application ------------------------------------------------


def raises(environ: Environ, start_response: Start) -> Iterable[bytes]:
    raise ZeroDivisionError("my fault")


def exits(environ: Environ, start_response: Start) -> Iterable[bytes]:
    raise SystemExit("my fault")


def raises_in_iterable(environ: Environ, start_response: Start) -> Iterable[bytes]:
    start_response("200 OK", [])
    yield b""
    raise ZeroDivisionError("my fault")


def never_starts(environ: Environ, start_response: Start) -> Iterable[bytes]:
    return [b"my fault"]


def starts_twice(environ: Environ, start_response: Start) -> Iterable[bytes]:
    start_response("200 OK", [])
    start_response("200 OK", [])
    return [b"my fault"]


def gives_text(environ: Environ, start_response: Start) -> Any:
    start_response("200 OK", [])
    return ["my fault"]


def gives_nothing(environ: Environ, start_response: Start) -> Any:
    start_response("200 OK", [])


@pytest.mark.parametrize(
    "app",
    [
        raises,
        exits,
        raises_in_iterable,
        never_starts,
        starts_twice,
        gives_text,
        gives_nothing,
    ],
)
def test_application_that_fails_is_500_with_a_traceback(app: Any, caplog: Any) -> None:
    with Driven() as driven:
        driven.server.wsgi("/app", app, threads=1)
        peer = browse(driven)
        for _ in range(2):
            answered = peer.get("/app/")
            assert (answered.status, answered.text) == (500, "The server failed.\n")
    assert len(caplog.records) == 2
    for record in caplog.records:
        assert record.levelno == logging.ERROR
        assert record.exc_info
        assert "/app/" in record.getMessage()


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200", []),
        ("OK", []),
        (200, []),
        (b"200 OK", []),
        ("100 Continue", []),
        ("600 More", []),
        ("200 OK\r\nX: y", []),
        ("200 OK", ()),
        ("200 OK", [("X", 5)]),
        ("200 OK", [(b"X", "y")]),
        ("200 OK", [("X", "y\r\nZ: a")]),
        ("200 OK", [("X\nZ", "y")]),
        ("200 OK", [("X Z", "y")]),
        ("200 OK", [("", "y")]),
        ("200 OK", [("Connection", "close")]),
        ("200 OK", [("Transfer-Encoding", "chunked")]),
        ("200 OK", [("Content-Length", "-5")]),
        ("200 OK", [("Content-Length", "many")]),
    ],
)
def test_wrong_head_is_500(status: Any, headers: Any, caplog: Any) -> None:
    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response(status, headers)
        return [b"x"]

    with Driven() as driven:
        driven.server.wsgi("/app", app)
        assert get(driven, "/app/").status == 500
    (record,) = caplog.records
    assert record.exc_info[0] in (TypeError, ValueError)


def test_failure_behind_the_head_cuts_the_connection(caplog: Any) -> None:
    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield b"begin"
        raise ZeroDivisionError("my fault")

    with Driven() as driven:
        driven.server.wsgi("/app", app)
        peer = driven.join()
        peer.write(ask("GET", "/app/"))
        data = peer.read_rest()
        assert b"begin" in data
        assert not data.endswith(b"0\r\n\r\n")
        driven.until(lambda: not driven.handshaking)
    assert "my fault" in caplog.text


def test_mind_changed_too_late_raises_in_the_application(caplog: Any) -> None:
    seen: list[BaseException] = []

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield b"begin"
        error = KeyError("found out late")
        try:
            start_response("500 Oh", [], (KeyError, error, None))
        except KeyError as raised:
            seen.append(raised)
            raise

    with Driven() as driven:
        driven.server.wsgi("/app", app)
        peer = driven.join()
        peer.write(ask("GET", "/app/"))
        peer.read_rest()
    assert len(seen) == 1


@pytest.mark.parametrize("fails", [False, True])
def test_iterable_is_closed_once_whatever_happens(fails: bool, caplog: Any) -> None:
    def give() -> Iterator[bytes]:
        yield b"x"
        if fails:
            raise ZeroDivisionError

    pieces = Pieces(give())
    with Driven() as driven:
        driven.server.wsgi("/app", app_of(pieces))
        peer = driven.join()
        peer.write(ask("GET", "/app/", "Connection: close"))
        peer.read_rest()
        driven.until(pieces.closed.is_set)
    assert pieces.closes == 1


def test_close_that_raises_is_logged(caplog: Any) -> None:
    class Bad(Pieces):
        def close(self) -> None:
            super().close()
            raise ZeroDivisionError("in close")

    bad = Bad([b"hello"])
    with Driven() as driven:
        driven.server.wsgi("/app", app_of(bad), threads=1)
        assert get(driven, "/app/").body == b"hello"
        driven.until(lambda: "in close" in caplog.text)
        assert get(driven, "/app/").status == 200  # the worker is still there


# --- Peers that leave or do not read --------------------------------------------------


def test_peer_that_leaves_ends_the_iteration(caplog: Any) -> None:
    caplog.set_level(logging.INFO, "simple_ws")
    pieces = Pieces(iter(lambda: b"x" * 10_000, b""))  # without an end
    with Driven() as driven:
        driven.server.wsgi("/app", app_of(pieces), threads=1)
        peer = driven.join(small_buffers)
        peer.write(ask("GET", "/app/"))
        peer.read(100_000)
        peer.close()
        driven.until(pieces.closed.is_set)
        driven.until(lambda: not driven.handshaking)
    assert pieces.closes == 1
    assert caplog.records == []


def test_worker_waits_while_the_peer_does_not_read() -> None:
    pieces = Pieces(b"x" * 10_000 for _ in range(1000))
    with Driven() as driven:
        driven.server.wsgi("/app", app_of(pieces))
        peer = HttpPeer(driven.join(small_buffers))
        peer.peer.write(ask("GET", "/app/"))
        driven.until(lambda: pieces.taken >= 26)
        driven.turn(50)
        # Its bound, what the loop took, and the piece that waits.
        limit = worker_pipe._MAX_WAITING + 2 * worker_pipe._PIECE + 2 * 10_000
        assert pieces.taken * 10_000 <= limit
        assert len(peer.read().body) == 10_000_000
        assert pieces.closed.wait(DEADLINE)


class Closing:
    """An iterable without a length, as frameworks make them around a list."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def close(self) -> None:
        self.closed.set()


BODY = bytes(range(256)) * 4_000
FINISHED: dict[str, Callable[[], Any]] = {
    "a piece": lambda: [BODY],
    "a tuple": lambda: (BODY[:600_000], BODY[600_000:]),
    "many pieces": lambda: [BODY[n : n + 5000] for n in range(0, len(BODY), 5000)],
    "a piece of unknown number": lambda: Closing([BODY]),
    "a piece that fills it, and a small one": lambda: Closing([BODY[:200_000], b"."]),
}


@pytest.mark.parametrize("what", FINISHED)
def test_finished_answer_holds_no_thread(what: str) -> None:
    body = FINISHED[what]()
    with Driven() as driven:
        driven.server.wsgi("/app", app_of(body), threads=1)
        peers = [HttpPeer(driven.join(small_buffers)) for _ in range(5)]
        for peer in peers:
            peer.peer.write(ask("GET", "/app/"))
        driven.until(lambda: len(driven.handshaking) == 5)
        # All are answered by the one thread, though nobody has read a byte.
        driven.until(lambda: is_idle(driven))
        assert all(peer.read().body == b"".join(body) for peer in peers)
        assert not isinstance(body, Closing) or body.closed.is_set()


def is_idle(driven: Driven) -> bool:
    """Whether the threads have been called, and have nothing to do."""
    pool = pool_of(driven)
    return pool is not None and pool._made > 0 and not pool.busy


def parked(driven: Driven) -> int:
    """How many calls wait for their peers."""
    pool = pool_of(driven)
    return 0 if pool is None else pool._aside


def slow_app(pieces: int, size: int = 100_000) -> Any:
    """An application whose path "/slow" gives very much, any other one a word."""

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] != "/slow":
            return [b"small"]
        return (b"x" * size for _ in range(pieces))

    return app


def test_slow_readers_keep_nobody_waiting() -> None:
    with Driven() as driven:
        driven.server.wsgi("/app", slow_app(10), threads=2)
        slow = [HttpPeer(driven.join(small_buffers)) for _ in range(10)]
        for peer in slow:
            peer.peer.write(ask("GET", "/app/slow"))
        driven.until(lambda: parked(driven) == 10)
        assert get(driven, "/app/").text == "small"
        assert all(len(peer.read().body) == 1_000_000 for peer in slow)
        driven.until(lambda: not pool_of(driven).busy)
        # Those that were made for that have left.
        driven.until(lambda: pool_of(driven)._alive == 2)
        assert get(driven, "/app/").text == "small"


def test_of_too_many_slow_readers_the_oldest_is_cut(
    monkeypatch: Any, caplog: Any
) -> None:
    caplog.set_level(logging.INFO, "simple_ws")
    monkeypatch.setattr(wsgi, "_MAX_PARKED", 3)
    with Driven() as driven:
        driven.server.wsgi("/app", slow_app(10), threads=1)
        slow = []
        for number in range(5):
            slow.append(driven.join(small_buffers))
            slow[-1].write(ask("GET", "/app/slow"))
            count = min(number + 1, 3)
            driven.until(lambda: len(driven.handshaking) == count)  # noqa: B023
            driven.until(lambda: parked(driven) == count)  # noqa: B023
        assert get(driven, "/app/").text == "small"
        for peer in slow[:2]:
            assert len(peer.read_rest()) < 1_000_000
        assert len(HttpPeer(slow[4]).read().body) == 1_000_000
    assert caplog.text.count("too many peers read slowly") == 2


def test_reader_that_takes_little_keeps_its_download() -> None:
    pieces = Pieces(b"x" * 10_000 for _ in range(300))
    with Driven() as driven:
        driven.server.wsgi("/app", app_of(pieces), threads=1)
        peer = driven.join(small_buffers)
        peer.write(ask("GET", "/app/", "Connection: close"))
        driven.until(lambda: pieces.taken >= 26)
        for _ in range(20):  # for ten minutes
            driven.advance(29)
            peer.read(16 * 1024)
            driven.turn(2)
        assert len(peer.read_rest()) > 2_500_000
        assert pieces.closed.wait(DEADLINE)


def test_answer_that_nobody_reads_frees_its_worker() -> None:
    pieces = Pieces(b"x" * 10_000 for _ in range(1000))
    with Driven() as driven:
        driven.server.wsgi("/app", app_of(pieces), threads=1)
        driven.server.wsgi("/echo", echo_app, threads=1)
        peer = driven.join(small_buffers)
        peer.write(ask("GET", "/app/"))
        driven.until(lambda: pieces.taken >= 26)
        driven.turn(5)  # the loop has begun to write
        driven.advance(40)
        driven.until(pieces.closed.is_set)
        assert not driven.handshaking


def test_peer_that_leaves_before_its_turn_is_not_answered() -> None:
    """Nobody computes for those who have left the queue."""
    free, entered, calls = threading.Event(), threading.Event(), []

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        calls.append(environ["PATH_INFO"])
        entered.set()
        assert free.wait(DEADLINE)
        start_response("200 OK", [])
        return [b"x"]

    with Driven() as driven:
        driven.server.wsgi("/app", app, threads=1)
        first, third = browse(driven), browse(driven)
        first.peer.write(ask("GET", "/app/first"))
        driven.until(entered.is_set)
        second = join_tcp(driven)
        second.write(ask("GET", "/app/second"))
        driven.until(lambda: len(pool_of(driven)._queue) == 1)
        third.peer.write(ask("GET", "/app/third"))
        driven.until(lambda: len(pool_of(driven)._queue) == 2)
        second.reset()
        driven.until(lambda: len(driven.handshaking) == 2)
        free.set()
        assert first.read().text == "x"
        assert third.read().text == "x"
    assert calls == ["/first", "/third"]


# --- The pool -------------------------------------------------------------------------


def test_threads_are_made_when_needed_and_bounded() -> None:
    inside, most, lock = 0, 0, threading.Lock()
    gate = threading.Barrier(3)

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        gate.wait(DEADLINE)  # three are in at the same time
        with lock:
            inside -= 1
        start_response("200 OK", [])
        return [threading.current_thread().name.encode()]

    def count() -> int:
        return sum(t.name.startswith("simple_ws wsgi") for t in threading.enumerate())

    with Driven() as driven:
        driven.server.wsgi("/app", app, threads=3)
        assert count() == 0
        peers = [browse(driven) for _ in range(9)]
        for peer in peers:
            peer.peer.write(ask("GET", "/app/"))
        names = {peer.read().text for peer in peers}
        assert names <= {f"simple_ws wsgi {number}" for number in (1, 2, 3)}
        assert most == 3
        assert count() == 3


def test_idle_worker_is_used_again() -> None:
    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [threading.current_thread().name.encode()]

    with Driven() as driven:
        driven.server.wsgi("/app", app)
        peer = browse(driven)
        first = peer.get("/app/").text
        driven.until(lambda: pool_of(driven)._idle == 1)
        assert peer.get("/app/").text == first


def test_queue_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(wsgi, "_MAX_QUEUED", 3)
    free, entered = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        entered.set()
        assert free.wait(DEADLINE)
        start_response("200 OK", [])
        return [b"x"]

    with Driven() as driven:
        driven.server.wsgi("/app", app, threads=1)
        peers = [browse(driven)]
        peers[0].peer.write(ask("GET", "/app/"))
        driven.until(entered.is_set)
        for _ in range(3):
            peers.append(browse(driven))
            peers[-1].peer.write(ask("GET", "/app/"))
        driven.turn(3)
        refused = browse(driven)
        answered = refused.get("/app/")
        assert answered.status == 503
        assert "retry-after" in answered.headers
        free.set()
        assert [peer.read().text for peer in peers] == ["x"] * 4
        assert refused.get("/app/").text == "x"


def test_stop_ends_the_threads_also_those_that_wait_for_a_peer() -> None:
    pieces = Pieces(b"x" * 10_000 for _ in range(10**6))
    server = Server("127.0.0.1", 0)
    server.wsgi("/app", app_of(pieces))
    for _ in range(2):  # and they are there again after a restart
        pieces.closed.clear()
        server.start()
        with connect(server) as peer:
            peer.write(ask("GET", "/app/"))
            peer.read(1000)
            server.stop(drain=0)
            assert pieces.closed.wait(DEADLINE)


def test_end_of_the_pool_ends_those_that_wait_for_a_peer() -> None:
    """Also one whose answer the loop has not taken, and will not any more."""
    pieces = Pieces(b"x" * 10_000 for _ in range(10**6))
    with Driven() as driven:
        driven.server.wsgi("/app", app_of(pieces))
        driven.join(small_buffers).write(ask("GET", "/app/"))
        driven.until(lambda: pieces.taken >= 26)
        driven.server._routes.end()
        assert pieces.closed.wait(DEADLINE)


def test_running_application_may_finish_while_the_server_stops() -> None:
    entered, free = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        entered.set()
        assert free.wait(DEADLINE)
        start_response("200 OK", [])
        return [b"finished"]

    server = Server("127.0.0.1", 0)
    server.wsgi("/app", app)
    server.start()
    with connect(server) as peer:
        client = HttpPeer(peer)
        peer.write(ask("GET", "/app/"))
        assert entered.wait(DEADLINE)
        begin = server._begin_stop

        def begin_and_go_on(drain: float) -> None:
            begin(drain)
            free.set()

        server._begin_stop = begin_and_go_on  # type: ignore[method-assign]
        stopping = threading.Thread(target=server.stop, kwargs={"drain": DEADLINE})
        stopping.start()
        answered = client.read()
        assert (answered.text, answered.headers["connection"]) == ("finished", "close")
        assert client.is_closed()
    stopping.join(DEADLINE)
    assert not stopping.is_alive()


def test_application_may_stop_the_server() -> None:
    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        server.stop(drain=10 * DEADLINE)  # longer than anybody here waits
        start_response("200 OK", [])
        return [b"bye"]

    server = Server("127.0.0.1", 0)
    server.wsgi("/app", app)
    server.start()
    with connect(server) as peer:
        assert HttpPeer(peer).get("/app/").text == "bye"
    wait_for_end(server)


def test_slow_application_does_not_delay_websocket() -> None:
    free, entered = threading.Event(), threading.Event()

    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        entered.set()
        assert free.wait(DEADLINE)
        start_response("200 OK", [])
        return [b"x"]

    with running(Echo()) as server:
        server.wsgi("/app", app)
        with connect(server) as slow, open_peer(server) as peer:
            slow.write(ask("GET", "/app/"))
            assert entered.wait(DEADLINE)
            peer.text("hi")
            assert peer.read_message() == "hi"
            free.set()
            assert HttpPeer(slow).read().text == "x"


@pytest.mark.parametrize(
    ("prefix", "app", "threads", "error", "words"),
    [
        ("/", None, 8, TypeError, "app must be a function of"),
        ("/", lambda environ: [], 8, TypeError, "app must be a function of"),
        ("/", plain_app, "8", TypeError, "threads must be a whole number, not '8'"),
        ("/", plain_app, True, TypeError, "threads must be a whole number"),
        ("/", plain_app, 0, ValueError, "threads must be from 1 to 1000, not 0"),
        ("/", plain_app, 1001, ValueError, "threads must be from 1 to 1000"),
        ("app", plain_app, 8, ValueError, "prefix must be a path"),
    ],
)
def test_wrong_arguments_are_refused(
    prefix: str, app: Any, threads: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Server("127.0.0.1", 0).wsgi(prefix, app, threads)


# --- Judged by others -----------------------------------------------------------------


@pytest.mark.parametrize("pieces", [[], [b"hello"], [b"he", b"", b"llo"]])
@pytest.mark.parametrize(
    ("method", "body"), [("GET", b""), ("HEAD", b""), ("POST", b"x\ny\nz")]
)
def test_wsgiref_has_nothing_to_complain_of(
    method: str, body: bytes, pieces: list[bytes], caplog: Any
) -> None:
    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        source = environ["wsgi.input"]
        assert b"".join([source.read(1), source.readline(), *source]) == body
        environ["wsgi.errors"].write("")
        environ["wsgi.errors"].flush()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return iter(pieces)

    with Driven() as driven:
        driven.server.wsgi("/app", validator(app))
        peer = browse(driven)
        for path in ("/app", "/app/", "/app/x?y"):
            answered = peer.fetch(method, path, body=body)
            assert answered.status == 200
            assert answered.body == (b"" if method == "HEAD" else b"".join(pieces))
    assert caplog.records == []


def flask_app() -> Any:
    flask = pytest.importorskip("flask")
    app = flask.Flask("tests", root_path=os.path.dirname(__file__))
    request = flask.request

    @app.route("/")
    def root() -> str:
        return "root"

    @app.route("/url")
    def url() -> Any:
        return {"url": flask.url_for("user", name="a b", _external=True)}

    @app.route("/user/<name>", methods=["GET", "DELETE"])
    def user(name: str) -> Any:
        return {"name": name, "method": request.method, "from": request.remote_addr}

    @app.route("/form", methods=["POST"])
    def form() -> Any:
        upload = request.files["file"]
        return {"field": request.form["field"], "file": len(upload.read())}

    @app.route("/json", methods=["POST"])
    def take_json() -> Any:
        return flask.jsonify(request.get_json())

    @app.route("/stream")
    def stream() -> Any:
        @flask.stream_with_context
        def give() -> Iterator[str]:
            for number in range(int(request.args["count"])):
                yield f"{number}\n"

        return flask.Response(give(), mimetype="text/plain")

    @app.route("/file")
    def file() -> Any:
        return flask.send_file(io.BytesIO(b"x" * 300_000), mimetype="image/png")

    @app.route("/session", methods=["GET", "POST"])
    def session() -> Any:
        if request.method == "POST":
            flask.session["name"] = request.form["name"]
            return flask.redirect(flask.url_for("session"))
        return flask.session.get("name", "nobody")

    app.secret_key = "only for tests"
    return app


def test_flask_is_served() -> None:
    app = flask_app()
    with Driven(Echo()) as driven:
        driven.server.wsgi("/admin", validator(app))
        peer = browse(driven)
        assert peer.get("/admin/").text == "root"
        url = json.loads(peer.get("/admin/url").text)["url"]
        assert url == "http://example.com/admin/user/a%20b"
        told = json.loads(peer.fetch("DELETE", "/admin/user/a%20b%C3%A9").text)
        assert told == {"name": "a bé", "method": "DELETE", "from": "192.0.2.1"}
        assert peer.get("/admin/missing").status == 404
        assert peer.fetch("POST", "/admin/").status == 405
        assert peer.fetch("OPTIONS", "/admin/").headers["allow"]
        line = "Content-Type: application/json"
        assert peer.fetch("POST", "/admin/json", line, body=b'{"a":[1]}').status == 200
        assert peer.fetch("POST", "/admin/json", line, body=b"{").status == 400
        streamed = peer.get("/admin/stream?count=20000")
        assert streamed.headers["transfer-encoding"] == "chunked"
        assert streamed.text == "".join(f"{number}\n" for number in range(20000))
        assert peer.get("/admin/file").body == b"x" * 300_000
        head = peer.fetch("HEAD", "/admin/file")
        assert (head.status, head.body) == (200, b"")
        client = driven.open()
        client.text("hi")
        assert client.read_message() == "hi"


def test_flask_takes_forms_and_files() -> None:
    app = flask_app()
    parts = b"".join(
        b"--xx\r\nContent-Disposition: form-data; " + part + b"\r\n"
        for part in (
            b'name="field"\r\n\r\nvalue',
            b'name="file"; filename="f"\r\n\r\n' + b"x" * 100_000,
        )
    )
    line = "Content-Type: multipart/form-data; boundary=xx"
    with Driven(Echo()) as driven:
        driven.server.wsgi("/admin", app)
        answered = browse(driven).fetch(
            "POST", "/admin/form", line, body=parts + b"--xx--\r\n"
        )
        assert json.loads(answered.text) == {"field": "value", "file": 100_000}


def test_flask_keeps_sessions_over_tcp() -> None:
    app = flask_app()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with running(Echo()) as server:
        server.wsgi("/", app)
        url = f"http://127.0.0.1:{server.port}/session"
        with opener.open(url, b"name=Ada", timeout=DEADLINE) as page:
            assert page.read() == b"Ada"
            assert page.url == url


def test_many_requests_at_once_are_each_answered() -> None:
    def app(environ: Environ, start_response: Start) -> Iterable[bytes]:
        name = environ["PATH_INFO"].encode()
        start_response("200 OK", [])
        for _ in range(20):
            time.sleep(0)  # let others run
            yield name

    errors: list[BaseException] = []
    with running(Echo()) as server:
        server.wsgi("/app", app, threads=4)

        def work(name: int) -> None:
            try:
                with connect(server) as peer:
                    client = HttpPeer(peer)
                    for number in range(20):
                        told = client.get(f"/app/{name}-{number}").text
                        assert told == f"/{name}-{number}" * 20
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        with open_peer(server) as peer:
            for number in range(50):
                peer.text(str(number))
                assert peer.read_message() == str(number)
        for thread in threads:
            thread.join(DEADLINE)
    assert errors == []
