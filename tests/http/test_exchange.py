"""Plain HTTP on the port of WebSocket: pages, bodies, keep-alive, and rude clients."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import socket
import ssl
import sys
import threading
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from harness import (
    DEADLINE,
    TEXT,
    Driven,
    Echo,
    Recorder,
    Wrapped,
    connect,
    frame,
    open_files,
    open_peer,
    request,
    running,
    small_buffers,
    wait_for_end,
)
from http_peer import HttpPeer, ask, browse, chunked, get
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rfc_cases import cut

from simple_ws import (
    AuthenticationError,
    HandshakeError,
    InvalidState,
    Request,
    Response,
    Server,
)
from simple_ws.connection.options import Options
from simple_ws.http import exchange as pages
from simple_ws.http.exchange import Exchange
from simple_ws.loop.deferred import in_thread
from simple_ws.protocol.http_body import Stream

# --- What a function may answer -------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "status", "content_type", "body"),
    [
        ({"online": 0}, 200, "application/json", b'{"online": 0}'),
        ([1, "é"], 200, "application/json", b'[1, "\\u00e9"]'),
        ({}, 200, "application/json", b"{}"),
        ("é", 200, "text/plain; charset=utf-8", "é".encode()),
        ("", 200, None, b""),
        (b"\0\xff", 200, "application/octet-stream", b"\0\xff"),
        (None, 204, None, b""),
        (Response(201, "made"), 201, "text/plain; charset=utf-8", b"made"),
        (Response(404, b"", {"X": "y"}), 404, None, b""),
    ],
)
def test_what_a_function_returns_is_the_answer(
    value: object, status: int, content_type: str | None, body: bytes
) -> None:
    with Driven() as driven:
        driven.server.http("/page")(lambda request: value)
        answered = get(driven, "/page")
        assert (answered.status, answered.body) == (status, body)
        assert answered.headers.get("content-type") == content_type
        assert "date" in answered.headers
        assert answered.headers.get("content-length") == (
            None if status == 204 else str(len(body))
        )


def test_decorated_function_stays_what_it_was() -> None:
    server = Server("127.0.0.1", 0)

    @server.http("/status")
    def status(request: Request) -> dict[str, int]:
        return {"online": 0}

    assert status(None) == {"online": 0}  # type: ignore[arg-type]


def test_function_sees_the_request() -> None:
    seen: list[Request] = []
    with Driven() as driven:
        driven.server.http("/user/{id:int}", ["PUT"])(seen.append)
        peer = browse(driven)
        peer.fetch("PUT", "/user/7?a=b%20c", "Cookie: d=e", "X: y", body=b'{"k": 1}')
        peer.fetch("PUT", "/user/8")
        first, second = seen
        assert (first.method, first.path, first.params) == ("PUT", "/user/7", {"id": 7})
        assert dict(first.query) == {"a": "b c"}
        assert (first.cookies, first.headers["x"]) == ({"d": "e"}, "y")
        assert first.address == ("192.0.2.1", 12345)
        assert (first.body, first.json(), first.secure) == (
            b'{"k": 1}',
            {"k": 1},
            False,
        )
        assert (second.params, second.body) == ({"id": 8}, b"")


class Secure(Wrapped):
    secure = True


def test_socket_with_tls_says_so() -> None:
    seen: list[bool] = []
    handler = Recorder()
    handler.on_request = lambda request: seen.append(request.secure)  # type: ignore[method-assign]
    with Driven(handler) as driven:
        driven.server.http("/page")(lambda request: seen.append(request.secure))
        HttpPeer(driven.join(Secure)).get("/page")
        driven.open(wrap=Secure)
        driven.open()
    assert seen == [True, True, False]


def test_several_functions_share_a_path() -> None:
    with Driven() as driven:
        http = driven.server.http
        http("/{x}", ["GET"])(lambda request: "got")
        http("/{x}", ["POST", "PUT"])(lambda request: "put")
        peer = browse(driven)
        assert peer.get("/a").text == "got"
        assert peer.fetch("POST", "/a").text == "put"
        assert peer.fetch("PUT", "/a", body=b"x").text == "put"
        refused = peer.fetch("DELETE", "/a")
        assert refused.status == 405
        assert refused.headers["allow"] == "GET, POST, PUT, OPTIONS, HEAD"


def test_head_is_answered_by_the_function_of_get() -> None:
    with Driven() as driven:
        driven.server.http("/page")(lambda request: request.method)
        answered = browse(driven).fetch("HEAD", "/page")
        assert (answered.status, answered.body) == (200, b"")
        assert answered.headers["content-length"] == "4"


def test_function_may_answer_head_itself() -> None:
    with Driven() as driven:
        driven.server.http("/page", ["HEAD"])(
            lambda request: Response(200, headers={"Content-Length": "9"})
        )
        driven.server.http("/page")(lambda request: "nine byte")
        peer = browse(driven)
        assert peer.fetch("HEAD", "/page").headers["content-length"] == "9"
        assert peer.get("/page").text == "nine byte"


def test_options_tells_the_methods() -> None:
    with Driven() as driven:
        driven.server.http("/page", ["POST"])(lambda request: "x")
        driven.server.http("/own", ["OPTIONS"])(lambda request: "mine")
        peer = browse(driven)
        answered = peer.fetch("OPTIONS", "/page")
        assert (answered.status, answered.body) == (204, b"")
        assert answered.headers["allow"] == "POST, OPTIONS"
        assert peer.fetch("OPTIONS", "/own").text == "mine"


def test_options_of_the_whole_server() -> None:
    with Driven() as driven:
        driven.server.http("*")(lambda request: "x")
        peer = browse(driven)
        for _ in range(2):
            answered = peer.fetch("OPTIONS", "*")
            assert (answered.status, answered.body) == (204, b"")
            assert "allow" not in answered.headers


def test_refused_method_with_a_body_closes_the_connection() -> None:
    # It was not read, and is not to be taken for a request.
    with Driven() as driven:
        driven.server.http("/page")(lambda request: "x")
        peer = browse(driven)
        inner = ask("GET", "/page")
        answered = peer.fetch("POST", "/page", body=inner)
        assert (answered.status, answered.headers["connection"]) == (405, "close")
        assert peer.is_closed()


def test_health_check_takes_three_lines() -> None:
    with running(Echo()) as server:

        @server.http("/healthz")
        def healthz(request: Request) -> str:
            return "ok"

        with connect(server) as peer:
            peer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
            data = peer.read_rest()
            assert data.startswith(b"HTTP/1.1 200 OK\r\n")
            assert data.endswith(b"\r\n\r\nok")


def test_function_may_take_its_time_in_a_thread() -> None:
    entered, free = threading.Event(), threading.Event()
    with running(Echo()) as server:

        @server.http("/slow", ["GET", "POST"])
        @in_thread
        def slow(request: Request) -> dict[str, str]:
            entered.set()
            assert free.wait(DEADLINE)
            return {"thread": threading.current_thread().name}

        with connect(server) as waiting, open_peer(server) as peer:
            client = HttpPeer(waiting)
            waiting.write(ask("GET", "/slow"))
            assert entered.wait(DEADLINE)
            peer.text("hi")
            assert peer.read_message() == "hi"
            free.set()
            assert "worker" in client.read().text
            assert client.fetch("POST", "/slow", body=b"x").status == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, 204),
        (HandshakeError(409, "Not now."), 409),
        (ZeroDivisionError("secret"), 500),
        (SystemExit(), 500),
    ],
)
def test_what_comes_of_a_thread_is_the_answer(
    error: BaseException | None, status: int, caplog: Any
) -> None:
    def work(request: Request) -> None:
        if error is not None:
            raise error

    with Driven() as driven:
        driven.server.http("/page")(in_thread(work))
        driven.server.http("/odd")(in_thread(lambda request: object()))
        peer = browse(driven)
        assert peer.get("/page").status == status
        assert peer.get("/odd").status == 500


def test_client_that_left_is_not_answered_from_a_thread() -> None:
    entered, free, done = (threading.Event() for _ in range(3))

    def work(request: Request) -> str:
        entered.set()
        assert free.wait(DEADLINE)
        done.set()
        return "x"

    with Driven(Echo()) as driven:
        driven.server.http("/page")(in_thread(work))
        driven.join().write(ask("GET", "/page"))
        driven.until(entered.is_set)
        (incoming,) = driven.handshaking
        incoming.close()
        free.set()
        driven.until(done.is_set)
        driven.until(lambda: not driven.pending.busy)
        driven.open()


def test_function_may_be_async_in_an_asyncio_loop() -> None:
    async def serve_one() -> bytes:
        server = Server("127.0.0.1", 0)
        server.http("/page")(later)
        server.attach()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(ask("GET", "/page", "Connection: close"))
        data = await reader.read()
        writer.close()
        await writer.wait_closed()
        server.stop(drain=0)
        return data

    assert asyncio.run(serve_one()).endswith(b"later /page")


# --- What a function may raise --------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (AuthenticationError("no such user"), 401, "Who are you?\n"),
        (HandshakeError(409, "Not now.", [("X", "y")]), 409, "Not now.\n"),
        (ZeroDivisionError("secret"), 500, "The server failed.\n"),
    ],
)
def test_what_a_function_raises_is_answered(
    error: Exception, status: int, body: str, caplog: Any
) -> None:
    caplog.set_level(logging.INFO, "simple_ws")

    def fail(request: Request) -> None:
        raise error

    with Driven() as driven:
        driven.server.http("/page", ["POST"])(fail)
        peer = browse(driven)
        for _ in range(2):  # the connection stays: the request was read
            answered = peer.fetch("POST", "/page", body=b"body")
            assert (answered.status, answered.text) == (status, body)
            assert ("x" in answered.headers) is (status == 409)
            assert ("www-authenticate" in answered.headers) is (status == 401)
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert len(tracebacks) == (2 if status == 500 else 0)


@pytest.mark.parametrize(
    "value", [5, True, object(), ("text", 200), {"a": object()}, Response(101)]
)
def test_answer_of_no_use_is_500(value: object, caplog: Any) -> None:
    with Driven() as driven:
        driven.server.http("/page")(lambda request: value)
        assert get(driven, "/page").status == 500
    assert caplog.records[0].exc_info


def test_body_that_is_not_json_is_400() -> None:
    with Driven() as driven:
        driven.server.http("/page", ["POST"])(lambda request: request.json())
        peer = browse(driven)
        assert peer.fetch("POST", "/page", body=b"{").status == 400
        assert peer.fetch("POST", "/page", body=b"{}").text == "{}"


# --- What is refused when it is given -------------------------------------------------


@pytest.mark.parametrize(
    ("path", "methods", "error", "words"),
    [
        (5, ["GET"], TypeError, "path must be a str, not 5"),
        ("page", ["GET"], ValueError, "path must begin with '/'"),
        ("/{a", ["GET"], ValueError, "a brace is not closed"),
        ("/page", "GET", TypeError, "methods must be a list"),
        ("/page", None, TypeError, "methods must be a list"),
        ("/page", [5], TypeError, "methods must hold strings, not 5"),
        ("/page", ["get"], ValueError, "not 'get'"),
        ("/page", ["G T"], ValueError, "not 'G T'"),
        ("/page", [""], ValueError, "not ''"),
        ("/page", [], ValueError, "at least one"),
        ("/taken", ["PUT", "GET"], ValueError, "GET of path '/taken' has a function"),
    ],
)
def test_wrong_paths_and_methods_are_refused(
    path: Any, methods: Any, error: type[Exception], words: str
) -> None:
    server = Server("127.0.0.1", 0)
    server.http("/taken")(lambda request: None)
    with pytest.raises(error, match=words):
        server.http(path, methods)(lambda request: None)
    # Nothing of it was taken.
    server.http("/taken", ["PUT"])(lambda request: None)


def test_http_without_parentheses_is_refused_at_once() -> None:
    server = Server("127.0.0.1", 0)
    with pytest.raises(TypeError, match="path must be a str, not <function"):

        @server.http  # type: ignore[arg-type]
        def page(request: Any) -> str:
            return "x"


@pytest.mark.parametrize("function", [lambda: None, lambda a, b: None, None, "x"])
def test_wrong_functions_are_refused(function: Any) -> None:
    server = Server("127.0.0.1", 0)
    with pytest.raises(TypeError, match="what answers HTTP must"):
        server.http("/page")(function)


async def later(request: Request) -> str:
    return f"later {request.path}"


def test_async_functions_are_refused_where_nobody_awaits_them() -> None:
    server = Server("127.0.0.1", 0)
    server.http("/page")(later)
    with pytest.raises(InvalidState, match="later is async"):
        server.start()
    with running() as other, pytest.raises(InvalidState, match="later is async"):
        other.http("/page")(later)


def test_static_and_wsgi_do_not_share_a_path_with_functions() -> None:
    server = Server("127.0.0.1", 0)
    server.wsgi("/app", lambda environ, start_response: [])
    with pytest.raises(ValueError, match="has a function already"):
        server.http("/app/*", ["PUT"])(lambda request: None)


# --- Pages and WebSocket --------------------------------------------------------------


def test_path_that_nobody_knows_is_404() -> None:
    with Driven() as driven:
        driven.server._router._rest = None
        driven.server.http("/page")(lambda request: "x")
        answered = get(driven, "/other")
        assert (answered.status, answered.text) == (
            404,
            "There is nothing at this path.\n",
        )


@pytest.mark.parametrize(("method", "status"), [("GET", 426), ("POST", 405)])
def test_websocket_path_asked_for_a_page_says_so(method: str, status: int) -> None:
    with Driven() as driven:
        driven.server.http("/page")(lambda request: "x")
        peer = browse(driven)
        answered = peer.fetch(method, "/")
        assert answered.status == status
        assert answered.headers.get("upgrade") == (
            "websocket" if status == 426 else None
        )
        assert peer.is_closed()


def test_path_of_pages_only_does_not_upgrade() -> None:
    with Driven() as driven:
        driven.server._router._rest = None
        driven.server.http("/page")(lambda request: "x")
        for data in (request("/page"), request("/page").replace(b": 13", b": 8")):
            peer = driven.join()
            peer.write(data)
            data = peer.read_rest()
            assert data.startswith(b"HTTP/1.1 405 ")
            assert b"\r\nAllow: GET, OPTIONS, HEAD\r\n" in data


def test_path_may_be_of_both() -> None:
    with Driven(Echo()) as driven:
        driven.server.http("/")(lambda request: "page")
        assert get(driven, "/").text == "page"
        peer = driven.open("/")
        peer.text("hi")
        assert peer.read_message() == "hi"


def test_other_upgrade_is_no_hindrance_for_a_page() -> None:
    # What curl --http2 sends.
    lines = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: A"]
    with Driven() as driven:
        driven.server.http("/page")(lambda request: "page")
        assert get(driven, "/page", *lines).text == "page"


def test_patterns_are_tried_as_for_websocket() -> None:
    with Driven() as driven:
        http = driven.server.http
        http("*")(lambda request: "rest")
        http("/a/*")(lambda request: "below")
        http("/a/{x}")(lambda request: request.params)
        http("/a/b")(lambda request: "exact")
        peer = browse(driven)
        told = [peer.get(path).text for path in ("/a/b", "/a/c", "/a/b/c", "/x")]
        assert told == ["exact", '{"x": "c"}', "below", "rest"]


def test_pages_are_there_when_no_new_clients_are_wanted() -> None:
    with Driven(max_connections=1) as driven:
        driven.server.http("/page")(lambda request: "x")
        driven.open()
        assert get(driven, "/page").status == 200
        driven.server.deny_new_connections()
        assert get(driven, "/page").status == 200


# --- One connection, many requests ----------------------------------------------------


def test_connection_is_used_again() -> None:
    with Driven() as driven:
        driven.server.http("/{n}", ["GET", "POST"])(lambda request: request.params["n"])
        peer = browse(driven)
        for number in range(20):
            answered = peer.get(f"/{number}")
            assert answered.text == str(number)
            assert "connection" not in answered.headers
            body = b"x" * number
            assert peer.fetch("POST", f"/{number}", body=body).text == str(number)
        assert len(driven.handshaking) == 1
        assert len(driven.reactor.wheel) == 1


@pytest.mark.parametrize(
    ("version", "line", "stays"),
    [
        ("1.1", "X: y", True),
        ("1.1", "Connection: close", False),
        ("1.0", "X: y", False),
        ("1.0", "Connection: keep-alive", True),
    ],
)
def test_connection_stays_as_long_as_both_want_it(
    version: str, line: str, stays: bool
) -> None:
    with Driven() as driven:
        driven.server.http("/page")(lambda request: "x")
        peer = browse(driven)
        for _ in range(2 if stays else 1):
            peer.peer.write(ask("GET", "/page", line, version=version))
            assert peer.read().text == "x"
        assert peer.peer.nothing_waits() is stays
        if not stays:
            assert peer.is_closed()


def test_function_may_close_the_connection() -> None:
    with Driven() as driven:
        driven.server.http("/page")(
            lambda request: Response(200, "x", {"Connection": "close"})
        )
        peer = browse(driven)
        assert peer.get("/page").text == "x"
        assert peer.is_closed()


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["X: y"], 400),
        (["Host: a", "Host: b"], 400),
        (["Host: a", "Content-Length: 1", "Transfer-Encoding: chunked"], 400),
        (["Host: a", "Transfer-Encoding: gzip, chunked"], 501),
        (["Host: a", "Expect: more"], 417),
    ],
)
def test_request_against_the_rules_ends_the_connection(
    lines: list[str], status: int, caplog: Any
) -> None:
    caplog.set_level(logging.DEBUG, "simple_ws")
    head = "\r\n".join(["GET /page HTTP/1.1", *lines]).encode() + b"\r\n\r\n"
    with Driven() as driven:
        driven.server.http("/page")(lambda request: "x")
        peer = driven.join()
        peer.write(head + ask("GET", "/page"))
        data = peer.read_rest()
        assert data.startswith(f"HTTP/1.1 {status} ".encode())
        assert data.count(b"HTTP/1.1") == 1
        assert b"\r\nConnection: close\r\n" in data
        peer.close()
        driven.until(lambda: not driven.handshaking)
    (record,) = caplog.records
    assert record.levelno == logging.INFO


def test_requests_may_come_all_at_once() -> None:
    with Driven() as driven:
        driven.server.http("/{n}", ["GET", "POST"])(
            lambda request: request.params["n"] + request.body.decode()
        )
        data = b""
        for number in range(50):
            data += ask("GET", f"/{number}")
            data += ask("POST", f"/{number}", "Content-Length: 2") + b"ab"
            data += ask("POST", f"/{number}", "Transfer-Encoding: chunked")
            data += chunked([b"c", b"de"]) + b"\r\n"
        peer = browse(driven)
        peer.peer.write(data)
        for number in range(50):
            told = [peer.read().text for _ in range(3)]
            assert told == [f"{number}", f"{number}ab", f"{number}cde"]


def test_requests_may_be_cut_anywhere() -> None:
    data = ask("POST", "/a", "Content-Length: 2") + b"xy"
    data += ask("POST", "/b", "Transfer-Encoding: chunked")
    data += chunked([b"he", b"llo"]) + ask("POST", "/c")
    with Driven() as driven:
        driven.server.http("/{n}", ["POST"])(lambda request: request.body)
        for place in range(1, len(data)):
            peer = browse(driven)
            peer.peer.write(data[:place])
            driven.turn(2)
            peer.peer.write(data[place:])
            assert [peer.read().body for _ in range(3)] == [b"xy", b"hello", b""]
            peer.peer.close()
        peer = browse(driven)
        for byte in data:
            peer.peer.write(bytes((byte,)))
            driven.turn()
        assert [peer.read().body for _ in range(3)] == [b"xy", b"hello", b""]


def test_one_request_of_a_connection_is_answered_in_a_turn() -> None:
    order: list[str] = []
    with Driven() as driven:
        driven.server.http("/{n}")(lambda request: order.append(request.params["n"]))
        first, second = driven.join(), driven.join()
        first.write(b"".join(ask("GET", f"/a{number}") for number in range(30)))
        second.write(b"".join(ask("GET", f"/b{number}") for number in range(30)))
        driven.until(lambda: len(order) == 60)
        gaps = [index for index, name in enumerate(order) if name.startswith("b")]
        assert gaps[0] <= 2
        assert all(after - before <= 3 for before, after in pairwise(gaps))


def test_later_request_may_be_an_upgrade() -> None:
    with Driven(Echo()) as driven:
        driven.server.http("/page")(lambda request: "x")
        peer = browse(driven)
        assert peer.get("/page").text == "x"
        assert peer.get("/page").text == "x"
        peer.peer.shake("/", then=frame(TEXT, "first"))
        assert peer.peer.read_message() == "first"
        peer.peer.text("second")
        assert peer.peer.read_message() == "second"
        assert not driven.handshaking
        assert peer.peer.leave() == (1000, "")


@pytest.mark.parametrize("ordinary", [True, False])
def test_upgrade_may_come_right_behind_a_request(ordinary: bool) -> None:
    upgrade = request("/")
    if not ordinary:
        upgrade = upgrade.replace(b"Upgrade: websocket", b"Upgrade: foo, websocket")
    data = ask("GET", "/page") + upgrade + frame(TEXT, "first")
    with Driven(Echo()) as driven:
        driven.server.http("/page")(lambda request: "x")
        for place in range(1, len(data), 7):
            peer = driven.join()
            peer.write(data[:place])
            driven.turn(3)
            peer.write(data[place:])
            assert peer.read_head().startswith(b"HTTP/1.1 200 ")
            assert peer.read(1) == b"x"
            assert peer.read_head().startswith(b"HTTP/1.1 101 ")
            assert peer.read_message() == "first"
            peer.close()


# --- Bodies ---------------------------------------------------------------------------


def test_body_has_a_limit() -> None:
    with Driven(max_body=100) as driven:
        driven.server.http("/page", ["POST"])(lambda request: request.body)
        peer = browse(driven)
        assert peer.fetch("POST", "/page", body=b"x" * 100).body == b"x" * 100
        lines = ["Transfer-Encoding: chunked"]
        peer.peer.write(ask("POST", "/page", *lines) + chunked([b"x" * 60, b"y" * 40]))
        assert peer.read().body == b"x" * 60 + b"y" * 40
        peer.peer.write(ask("POST", "/page", *lines) + chunked([b"x" * 60, b"y" * 41]))
        refused = peer.read()
        assert (refused.status, refused.headers["connection"]) == (413, "close")
        assert peer.is_closed()
        other = browse(driven)
        assert other.fetch("POST", "/page", body=b"x" * 101).status == 413
        assert other.is_closed()


def test_default_limit_of_a_body_is_a_mebibyte() -> None:
    with Driven() as driven:
        driven.server.http("/page", ["POST"])(lambda request: len(request.body))
        driven.server.http("/size", ["POST"])(lambda request: str(len(request.body)))
        body = b"x" * 2**20
        assert browse(driven).fetch("POST", "/size", body=body).text == "1048576"
        assert browse(driven).fetch("POST", "/size", body=body + b"x").status == 413


def test_client_that_waits_is_told_to_go_on() -> None:
    with Driven() as driven:
        driven.server.http("/page", ["POST"])(lambda request: request.body)
        peer = browse(driven)
        for _ in range(2):
            expects = ["Expect: 100-continue", "Content-Length: 5"]
            peer.peer.write(ask("POST", "/page", *expects))
            assert peer.peer.read_head() == b"HTTP/1.1 100 Continue"
            driven.turn(2)
            assert peer.peer.nothing_waits()
            peer.peer.write(b"hello")
            assert peer.read().body == b"hello"


def test_client_that_does_not_wait_is_told_nothing() -> None:
    with Driven() as driven:
        driven.server.http("/page", ["POST"])(lambda request: request.body)
        peer = browse(driven)
        expects = ["Expect: 100-continue", "Content-Length: 5"]
        peer.peer.write(ask("POST", "/page", *expects) + b"h")
        driven.turn(2)
        assert peer.peer.nothing_waits()
        peer.peer.write(b"ello")
        assert peer.peer.read_head().startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("target", "line", "status"),
    [("/page", "Content-Length: 9999999", 413), ("/get", "Content-Length: 5", 405)],
)
def test_client_that_waits_is_refused_at_once(
    target: str, line: str, status: int
) -> None:
    with Driven() as driven:
        driven.server.http("/page", ["POST"])(lambda request: request.body)
        driven.server.http("/get")(lambda request: "x")
        peer = browse(driven)
        peer.peer.write(ask("POST", target, "Expect: 100-continue", line))
        assert peer.read().status == status
        assert peer.is_closed()


class Blocked(Wrapped):
    """Takes no byte until it may."""

    free = False

    def send(self, data: Any) -> int:
        if not self.free:
            raise BlockingIOError
        return self._sock.send(data)


def test_word_to_go_on_waits_for_the_socket_too() -> None:
    made: list[Blocked] = []

    def wrap(sock: socket.socket) -> Blocked:
        made.append(Blocked(sock))
        return made[0]

    with Driven() as driven:
        driven.server.http("/page", ["POST"])(lambda request: request.body)
        peer = HttpPeer(driven.join(wrap))
        expects = ["Expect: 100-continue", "Content-Length: 5"]
        peer.peer.write(ask("POST", "/page", *expects))
        driven.turn(3)
        assert peer.peer.nothing_waits()
        made[0].free = True
        assert peer.peer.read_head() == b"HTTP/1.1 100 Continue"
        peer.peer.write(b"hello")
        assert peer.read().body == b"hello"


# --- Streams --------------------------------------------------------------------------


class Faucet:
    """A source that counts what is taken from it."""

    def __init__(self, count: int, piece: bytes = b"x" * 65536) -> None:
        self.left = count
        self.piece = piece
        self.taken = 0
        self.closed = 0
        self.dry = False

    def read(self) -> bytes | None:
        if self.dry:
            return None
        if not self.left:
            return b""
        self.left -= 1
        self.taken += 1
        return self.piece

    def close(self) -> None:
        self.closed += 1


def stream(driven: Driven, faucet: Faucet, path: str = "/stream") -> list[Exchange]:
    """Serve a stream; return the exchanges, as they come."""
    exchanges: list[Exchange] = []

    def serve(exchange: Exchange) -> None:
        exchanges.append(exchange)
        exchange.respond(Stream(200, [], faucet))

    driven.server._routes.add(path, ["GET"], serve)
    return exchanges


def test_stream_is_taken_no_faster_than_the_peer_reads() -> None:
    faucet = Faucet(30)
    with Driven() as driven:
        stream(driven, faucet)
        peer = HttpPeer(driven.join(small_buffers))
        peer.peer.write(ask("GET", "/stream"))
        driven.turn(20)
        assert faucet.taken <= 2
        assert len(peer.read().body) == 30 * 65536
        assert faucet.closed == 1
        assert len(driven.handshaking) == 1


def test_fast_reader_does_not_keep_the_loop() -> None:
    class Endless(Wrapped):
        """Takes everything at once."""

        def send(self, data: Any) -> int:
            return len(data)

    faucet = Faucet(10**9)
    with Driven(Echo()) as driven:
        stream(driven, faucet)
        driven.join(Endless).write(ask("GET", "/stream"))
        driven.turn()
        before = faucet.taken
        driven.turn()
        assert 0 < faucet.taken - before <= 8
        peer = driven.open()
        peer.text("hi")
        assert peer.read_message() == "hi"


def test_large_page_leaves_in_bounded_parts() -> None:
    class Counting(Wrapped):
        """Takes everything at once, and notes how much."""

        def send(self, data: Any) -> int:
            taken.append(len(data))
            return len(data)

    taken: list[int] = []
    with Driven() as driven:
        driven.server.http("/page")(lambda request: bytes(2**22))
        driven.join(Counting).write(ask("GET", "/page"))
        for _ in range(3):
            taken.clear()
            driven.turn()
            assert 0 < sum(taken) <= 2**18


def test_stream_goes_on_when_its_source_has_more() -> None:
    faucet = Faucet(3, b"abc")
    with Driven() as driven:
        exchanges = stream(driven, faucet)
        peer = driven.join()
        faucet.dry = True
        peer.write(ask("GET", "/stream"))
        assert peer.read_head()
        driven.turn(2)
        assert peer.nothing_waits()
        faucet.dry = False
        exchanges[0].call(exchanges[0].resume_writing)
        assert peer.read(29) == b"3\r\nabc\r\n" * 3 + b"0\r\n\r\n"


def test_peer_that_leaves_closes_the_source() -> None:
    faucet = Faucet(1000)
    with Driven() as driven:
        stream(driven, faucet)
        peer = driven.join(small_buffers)
        peer.write(ask("GET", "/stream"))
        driven.turn(3)
        peer.close()
        driven.until(lambda: not driven.handshaking)
        assert faucet.closed == 1
        assert len(driven.reactor.wheel) == 0


def test_peer_that_only_ceased_to_send_gets_its_answer() -> None:
    with Driven() as driven:
        stream(driven, Faucet(10))
        peer = HttpPeer(driven.join(small_buffers))
        peer.peer.write(ask("GET", "/stream"))
        peer.peer.end()
        assert len(peer.read().body) == 655360
        assert peer.is_closed()
        driven.until(lambda: not driven.handshaking)


@pytest.mark.parametrize("dry", [True, False])
def test_waiting_answer_costs_no_turns(dry: bool) -> None:
    """Neither an end that was seen nor input that is not taken is looked at again."""
    faucet = Faucet(1000)
    faucet.dry = dry
    with Driven() as driven:
        stream(driven, faucet)
        peer = driven.join(small_buffers)
        peer.write(ask("GET", "/stream") + b"x" * 100_000)
        driven.turn(20)
        (incoming,) = driven.handshaking
        called: list[int] = []
        ready = Exchange._on_ready

        def count(self: Exchange, events: int) -> None:
            called.append(events)
            ready(self, events)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Exchange, "_on_ready", count)
            assert incoming._exchange is not None
            incoming._exchange._watch()
            driven.turn(20)
        assert called == []


def test_source_that_fails_cuts_the_connection(caplog: Any) -> None:
    class Broken(Faucet):
        def read(self) -> bytes | None:
            if self.taken:
                raise OSError(5, "the disk is broken")
            return super().read()

    faucet = Broken(5, b"abc")
    with Driven() as driven:
        stream(driven, faucet)
        peer = driven.join()
        peer.write(ask("GET", "/stream"))
        assert peer.read_rest().endswith(b"\r\n\r\n3\r\nabc\r\n")
        assert not driven.handshaking
    assert faucet.closed == 1
    assert caplog.records == []


def test_second_answer_is_thrown_away() -> None:
    faucet = Faucet(1)

    def serve(exchange: Exchange) -> None:
        exchange.respond(Response(200, "first"))
        exchange.respond(Stream(200, [], faucet))
        raise ZeroDivisionError

    with Driven() as driven:
        driven.server._routes.add("/page", ["GET"], serve)
        peer = browse(driven)
        assert peer.get("/page").text == "first"
        assert peer.get("/page").text == "first"
    assert (faucet.taken, faucet.closed) == (0, 2)


# --- Time -----------------------------------------------------------------------------


def test_idle_connection_is_closed_without_a_word(caplog: Any) -> None:
    caplog.set_level(logging.INFO, "simple_ws")
    with Driven(open_timeout=2) as driven:
        driven.server.http("/page")(lambda request: "x")
        peer = browse(driven)
        peer.get("/page")
        driven.advance(Options().keep_alive - 1)
        assert peer.get("/page").text == "x"  # and the time begins anew
        driven.advance(Options().keep_alive - 1)
        assert peer.peer.nothing_waits()
        driven.advance(2)
        assert peer.is_closed()
        assert not driven.handshaking
    assert caplog.records == []


def test_later_head_has_open_timeout_from_its_first_byte() -> None:
    with Driven(open_timeout=10) as driven:
        driven.server.http("/page")(lambda request: "x")
        peer = browse(driven)
        peer.get("/page")
        driven.advance(Options().keep_alive - 1)
        for byte in b"GET / HTTP":
            peer.peer.write(bytes((byte,)))
            driven.advance(0.95)
        assert peer.peer.nothing_waits()
        driven.advance(2)
        answered = peer.read()
        assert (answered.status, answered.headers["connection"]) == (408, "close")
        assert peer.is_closed()


@pytest.mark.parametrize("later", [False, True])
def test_body_that_stalls_is_408(later: bool, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "simple_ws")
    with Driven(open_timeout=10) as driven:
        driven.server.http("/page", ["GET", "POST"])(lambda request: "x")
        peer = browse(driven)
        if later:
            peer.get("/page")
        peer.peer.write(ask("POST", "/page", "Content-Length: 5") + b"h")
        driven.turn(2)
        driven.advance(9.5)
        assert peer.peer.nothing_waits()
        driven.advance(2)
        answered = peer.read()
        assert (answered.status, answered.headers["connection"]) == (408, "close")
        assert answered.text == "The body of the request took too long.\n"
        assert peer.is_closed()
    assert len(caplog.records) == 1


def test_body_that_trickles_is_408_and_one_that_flows_is_not() -> None:
    with Driven(open_timeout=10) as driven:
        driven.server.http("/page", ["POST"])(lambda request: str(len(request.body)))
        slow, fast = browse(driven), browse(driven)
        for peer in (slow, fast):
            peer.peer.write(ask("POST", "/page", "Content-Length: 20480"))
        for number in range(19):
            if number < 4:
                slow.peer.write(b"x" * 10)
            if number == 4:
                assert slow.read().status == 408
            fast.peer.write(b"x" * 1024)
            driven.advance(5)
        fast.peer.write(b"x" * 1024)
        assert fast.read().text == "20480"


def test_answer_that_nobody_reads_is_given_up() -> None:
    faucet = Faucet(1000)
    with Driven() as driven:
        stream(driven, faucet)
        peer = driven.join(small_buffers)
        peer.write(ask("GET", "/stream"))
        driven.turn(3)
        for _ in range(5):  # a peer that reads now and then keeps it
            driven.advance(pages.WRITE_TIMEOUT - 2)
            peer.read(65536)
            driven.turn(3)
        assert driven.handshaking
        driven.advance(pages.WRITE_TIMEOUT + 2)
        assert not driven.handshaking
        assert faucet.closed == 1
        assert len(driven.reactor.wheel) == 0


def join_tcp(driven: Driven, sndbuf: int) -> socket.socket:
    """A connection whose output waits in the system, as between two machines."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.socket()
        peer.settimeout(DEADLINE)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        peer.connect(listener.getsockname())
        ours, address = listener.accept()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)
    ours.setblocking(False)
    driven.server._on_accept(ours, address)
    return peer


def take(peer: socket.socket, size: int) -> None:
    """Read exactly so many bytes."""
    while size:
        data = peer.recv(size)
        assert data
        size -= len(data)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what it has sent")
def test_peer_that_takes_bytes_of_the_system_keeps_its_answer(caplog: Any) -> None:
    caplog.set_level(logging.INFO, "simple_ws")
    with Driven() as driven:
        driven.server.http("/big")(lambda request: bytes(8 * 2**20))
        with join_tcp(driven, 2**20) as peer:
            peer.sendall(ask("GET", "/big"))
            driven.turn(20)
            # The system takes nothing of us for most of the time.
            for _ in range(20):
                take(peer, 16 * 1024)
                driven.advance(pages.WRITE_TIMEOUT - 2)
            assert driven.handshaking
            assert caplog.records == []
            # A few bytes now and then are too little.
            for _ in range(4):
                take(peer, 100)
                driven.advance(pages.WRITE_TIMEOUT - 2)
            assert not driven.handshaking
    assert "the client read too slowly" in caplog.text


@pytest.mark.parametrize(("rate", "stays"), [(1.5, True), (0.7, False)])
def test_answer_has_a_least_rate(rate: float, stays: bool) -> None:
    faucet = Faucet(1000)
    piece = int(pages.MIN_RATE * pages.WRITE_TIMEOUT / 3 * rate)
    with Driven() as driven:
        stream(driven, faucet)
        peer = driven.join(small_buffers)
        peer.write(ask("GET", "/stream"))
        driven.turn(3)
        peer.read_now()
        for _ in range(30):
            driven.advance(pages.WRITE_TIMEOUT / 3)
            driven.turn(2)
            if not driven.handshaking:
                break
            received = 0
            while received < piece:
                received += len(peer.sock.recv(piece - received))
                driven.turn()
        assert bool(driven.handshaking) is stays


def test_page_that_never_answers_is_503() -> None:
    kept: list[Exchange] = []
    with Driven() as driven:
        driven.server._routes.add("/page", ["GET"], kept.append)
        peer = browse(driven)
        peer.peer.write(ask("GET", "/page"))
        driven.turn(2)
        assert kept[0].waiting
        driven.advance(pages.RESPONSE_TIMEOUT + 2)
        answered = peer.read()
        assert (answered.status, answered.headers["connection"]) == (503, "close")
        assert not kept[0].waiting
        kept[0].respond(Response(200, "late"))
        assert peer.is_closed()


def test_source_that_is_silent_for_too_long_is_given_up() -> None:
    faucet = Faucet(10, b"abc")
    with Driven() as driven:
        exchanges = stream(driven, faucet)
        peer = driven.join()
        faucet.dry = True
        peer.write(ask("GET", "/stream"))
        driven.turn(2)
        driven.advance(pages.RESPONSE_TIMEOUT - 2)
        assert driven.handshaking
        exchanges[0].resume_writing()  # nothing has come of it
        driven.advance(4)
        assert peer.read_rest().endswith(b"\r\n\r\n")
        assert not driven.handshaking
        assert faucet.closed == 1


def test_peer_that_stays_after_a_last_answer_is_closed() -> None:
    with Driven(close_timeout=1) as driven:
        driven.server.http("/page")(lambda request: "x")
        peer = browse(driven)
        assert peer.get("/page", "Connection: close").text == "x"
        driven.advance(0.5)
        assert driven.handshaking
        driven.advance(1.5)
        assert not driven.handshaking


# --- Stopping -------------------------------------------------------------------------


def test_idle_connections_do_not_delay_a_stop() -> None:
    with Driven() as driven:
        driven.server.http("/page")(lambda request: "x")
        idle, fresh, half = browse(driven), browse(driven), browse(driven)
        idle.get("/page")
        half.peer.write(ask("POST", "/page", "Content-Length: 5"))
        driven.turn(2)
        driven.stop_begins(60)
        driven.turn()
        assert idle.is_closed()
        driven.advance(2.5)  # no longer than this for what has sent nothing
        assert not driven.running
        assert fresh.is_closed()


def test_running_answers_finish_within_the_drain() -> None:
    with Driven() as driven:
        stream(driven, Faucet(10))
        peer = HttpPeer(driven.join(small_buffers))
        peer.peer.write(ask("GET", "/stream") + ask("GET", "/stream"))
        driven.turn(3)
        driven.stop_begins(60)
        assert driven.running
        assert len(peer.read().body) == 655360
        assert peer.is_closed()  # without the second answer
        peer.peer.close()
        driven.until(lambda: not driven.running)


def test_answer_made_during_a_stop_says_that_the_connection_ends() -> None:
    kept: list[Exchange] = []
    with Driven() as driven:
        driven.server._routes.add("/page", ["GET"], kept.append)
        peer = browse(driven)
        peer.peer.write(ask("GET", "/page"))
        driven.turn(2)
        driven.stop_begins(60)
        kept[0].respond(Response(200, "x"))
        answered = peer.read()
        assert (answered.text, answered.headers["connection"]) == ("x", "close")
        assert peer.is_closed()


def test_function_may_stop_the_server() -> None:
    with running(Echo()) as server:

        @server.http("/stop")
        def stop(request: Request) -> str:
            server.stop(drain=5)
            return "bye"

        with connect(server) as peer:
            peer.write(ask("GET", "/stop"))
            assert peer.read_rest().endswith(b"bye")
        wait_for_end(server)


def test_pages_are_there_again_after_a_restart() -> None:
    server = Server("127.0.0.1", 0)
    server.http("/page")(lambda request: "x")
    for _ in range(2):
        server.start()
        with connect(server) as peer:
            assert HttpPeer(peer).get("/page").text == "x"
        server.stop(drain=0)


# --- Rude clients ---------------------------------------------------------------------


def slow_head(driven: Driven) -> None:
    driven.join().write(b"GET / HTTP/1.1\r\nX: ")


def slow_second_head(driven: Driven) -> None:
    peer = browse(driven)
    peer.get("/page")
    peer.peer.write(b"GET / HT")


def stalled_body(driven: Driven) -> None:
    driven.join().write(ask("POST", "/page", "Content-Length: 99") + b"x")


def stalled_chunk(driven: Driven) -> None:
    head = ask("POST", "/page", "Transfer-Encoding: chunked")
    driven.join().write(head + b"ff\r\nx")


def unread_answer(driven: Driven) -> None:
    driven.join(small_buffers).write(ask("GET", "/stream"))


def unread_answers(driven: Driven) -> None:
    driven.join(small_buffers).write(ask("GET", "/page") * 300)


def garbage_behind(driven: Driven) -> None:
    driven.join().write(ask("GET", "/page") + b"\0\1\2\3\r\n\r\n" * 1000)


def only_empty_lines(driven: Driven) -> None:
    driven.join().write(ask("GET", "/page") + b"\r\n" * 2000)


def flood_behind_an_answer(driven: Driven) -> None:
    peer = driven.join(small_buffers)
    peer.write(ask("GET", "/stream"))
    with suppress(BlockingIOError):
        for _ in range(1000):
            peer.sock.send(b"x" * 4096)
            driven.turn()


def flood_behind_a_refusal(driven: Driven) -> None:
    driven.join().write(ask("POST", "/page", "Content-Length: x") + b"x" * 100_000)


def half_closed(driven: Driven) -> None:
    peer = driven.join(small_buffers)
    peer.write(ask("GET", "/stream"))
    peer.end()


def waits_to_go_on(driven: Driven) -> None:
    driven.join().write(
        ask("POST", "/page", "Expect: 100-continue", "Content-Length: 9")
    )


RUDE = [
    slow_head,
    slow_second_head,
    stalled_body,
    stalled_chunk,
    unread_answer,
    unread_answers,
    garbage_behind,
    flood_behind_an_answer,
    only_empty_lines,
    flood_behind_a_refusal,
    half_closed,
    waits_to_go_on,
]


@pytest.mark.parametrize("behave", RUDE)
def test_rude_client_delays_nobody_and_leaves_no_socket_behind(
    behave: Callable[[Driven], None], caplog: Any
) -> None:
    caplog.set_level(logging.WARNING, "simple_ws")
    with Driven(Echo(), ping=False) as driven:
        driven.server.http("/page", ["GET", "POST"])(lambda request: "x" * 1000)
        stream(driven, Faucet(10**6))
        peer = driven.open()
        for _ in range(3):
            behave(driven)
            driven.turn(2)
        peer.text("hi")
        driven.turn(2)
        assert peer.read_message() == "hi"
        held = [incoming._exchange for incoming in driven.handshaking]
        assert all(len(one._ahead) < 64 * 1024 for one in held if one is not None)
        for _ in range(10):
            driven.advance(10)
        assert not driven.handshaking
        assert len(driven.reactor.wheel) == 0
        peer.text("still here")
        assert peer.read_message() == "still here"
        assert len(driven.server.clients) == 1
    assert caplog.records == []


def test_huge_pipeline_is_answered_and_never_in_memory() -> None:
    count = 3000
    with Driven() as driven:
        driven.server.http("/page")(lambda request: "x")
        peer = driven.join()
        sent, most = memoryview(ask("GET", "/page") * count), 0
        got = b""
        while len(got) < count * 100 or got.count(b"\r\n\r\nx") < count:
            if sent:
                with suppress(BlockingIOError):
                    sent = sent[peer.sock.send(sent) :]
            driven.turn()
            got += peer.read_now()
            for incoming in driven.handshaking:
                reader, exchange = incoming._reader, incoming._exchange
                waiting = 0 if exchange is None else len(exchange._ahead)
                waiting += 0 if reader is None else len(reader.rest)
                most = max(most, waiting)
        assert most < 64 * 1024


fragments = st.sampled_from(
    [
        ask("GET", "/page"),
        ask("HEAD", "/page"),
        ask("POST", "/page", "Content-Length: 3") + b"abc",
        ask("POST", "/page", "Transfer-Encoding: chunked") + chunked([b"ab", b"c"]),
        ask("POST", "/page", "Content-Length: 3", "Expect: 100-continue"),
        ask("GET", "/stream"),
        ask("GET", "/fails"),
        ask("GET", "/page", "Connection: close"),
        ask("GET", "/page", version="1.0"),
        request("/"),
        frame(TEXT, "hi"),
        b"abc",
        b"\r\n",
        b"GET /pa",
        b"ge HTTP/1.1\r\n",
        b"Content-Length: 5\r\n\r\n",
        b"\0",
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(fragments, max_size=8), cuts=st.lists(st.integers(0, 500)))
def test_whatever_comes_ends_well(
    parts: list[bytes], cuts: list[int], caplog: Any
) -> None:
    """Nothing but documented answers, one line of the log for each fault, no leak."""
    caplog.clear()
    with Driven(Echo(), ping=False) as driven:
        driven.server.http("/page", ["GET", "POST"])(lambda request: request.body)
        driven.server.http("/fails")(lambda request: Response(500, "as it should"))
        stream(driven, Faucet(3))
        with suppress(ConnectionError):
            peer = driven.join(small_buffers)
            for piece in cut(b"".join(parts), cuts):
                peer.write(piece)
                driven.turn()
            peer.end()
            peer.read_rest()
        driven.advance(60)
        assert not driven.handshaking
        assert not driven.server.clients
        assert len(driven.reactor.wheel) == 0
    assert not [record for record in caplog.records if record.exc_info]


def test_exchange_that_fails_is_closed(caplog: Any) -> None:
    """A fault of ours ends that connection and nothing else."""

    class Odd(Wrapped):
        def recv(self, size: int) -> bytes:
            if size > 4096:
                raise RuntimeError("our fault")
            return self._sock.recv(size)

    with Driven(Echo()) as driven:
        driven.server.http("/page", ["POST"])(lambda request: "x")
        peer = driven.join(Odd)
        peer.write(ask("POST", "/page", "Content-Length: 5"))
        driven.turn(2)
        peer.write(b"hello")
        driven.until(lambda: not driven.handshaking)
        driven.open()
    assert "our fault" in caplog.text


# --- Over TCP, with clients of others -------------------------------------------------


def test_http_client_and_urllib_are_served_beside_websocket() -> None:
    with running(Echo()) as server, open_peer(server) as peer:

        @server.http("/echo", ["POST"])
        def echo(request: Request) -> Any:
            return request.json()

        @server.http("/big")
        def big(request: Request) -> bytes:
            return b"x" * 3_000_000

        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)
        for number in range(5):
            client.request("POST", "/echo", json.dumps([number]))
            assert json.load(client.getresponse()) == [number]
            pieces = iter([b"[1", b",2]"])
            client.request(
                "POST",
                "/echo",
                pieces,
                encode_chunked=True,
                headers={"Transfer-Encoding": "chunked"},
            )
            assert json.load(client.getresponse()) == [1, 2]
            peer.text(str(number))
            assert peer.read_message() == str(number)
        client.request("HEAD", "/big")
        answered = client.getresponse()
        assert (answered.read(), answered.headers["Content-Length"]) == (b"", "3000000")
        client.close()
        url = f"http://127.0.0.1:{server.port}/big"
        with urllib.request.urlopen(url, timeout=DEADLINE) as page:
            assert len(page.read()) == 3_000_000


def test_everything_is_served_through_tls_too(tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(trust)
    (tmp_path / "large.bin").write_bytes(os.urandom(5_000_000))

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["wsgi.url_scheme"].encode(), environ["wsgi.input"].read()]

    with running(Echo(), ssl=context) as server:
        server.static("/", tmp_path)
        server.wsgi("/app", app)
        server.http("/secure")(lambda request: {"secure": request.secure})
        client = http.client.HTTPSConnection(
            "localhost", server.port, timeout=DEADLINE, context=trust
        )
        for _ in range(3):
            client.request("GET", "/secure")
            assert json.load(client.getresponse()) == {"secure": True}
            client.request("POST", "/app/", b"x" * 200_000)
            assert client.getresponse().read() == b"https" + b"x" * 200_000
            client.request("GET", "/large.bin")
            large = client.getresponse().read()
            assert large == (tmp_path / "large.bin").read_bytes()
        client.close()


def test_refusal_arrives_even_when_a_body_is_on_its_way() -> None:
    with running(Echo()) as server, connect(server) as peer:
        server.http("/page", ["POST"])(lambda request: "x")
        head = ask("POST", "/page", f"Content-Length: {2**20 + 1}")
        peer.write(head + b"x" * 500_000)
        assert peer.read_rest().startswith(b"HTTP/1.1 413 ")


def test_many_http_clients_at_once_leave_no_descriptor() -> None:
    before = open_files()
    errors: list[BaseException] = []
    with running(Echo()) as server:
        server.http("/{n}", ["POST"])(lambda request: request.params["n"].encode())

        def work(name: str) -> None:
            try:
                for number in range(20):
                    with connect(server) as peer:
                        client = HttpPeer(peer)
                        for turn in range(3):
                            asked = f"{name}-{number}-{turn}"
                            told = client.fetch("POST", f"/{asked}", body=b"x" * turn)
                            assert told.text == asked
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(6)]
        for thread in threads:
            thread.start()
        with open_peer(server) as peer:
            for number in range(50):
                peer.text(str(number))
                assert peer.read_message() == str(number)
        for thread in threads:
            thread.join(DEADLINE)
        assert errors == []
    assert open_files() == before


def test_room_with_a_slash_is_one_parameter() -> None:
    with Driven() as driven:

        @driven.server.http("/page/{room}")
        def page(request: Request) -> str:
            assert request.encoded_path == "/page/a%2Fb"
            return str(request.params["room"])

        assert get(driven, "/page/a%2Fb?x=1").text == "a/b"


@pytest.mark.parametrize("prefix", ["/<room>", "/files/:room"])
def test_prefix_is_no_pattern_of_another_framework(prefix: str) -> None:
    with pytest.raises(ValueError, match=r"write \{room\} instead of"):
        Server().static(prefix, ".")
