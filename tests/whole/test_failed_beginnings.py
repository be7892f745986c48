"""Failures while a connection is being opened: 500 if still possible, one line in the
log, and no descriptor left open."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from harness import Driven, Recorder, connect, request, running
from http_peer import ask

from simple_ws import (
    BadRequest,
    Client,
    HandshakeError,
    Middleware,
    Request,
    Response,
)
from simple_ws.errors import MissingField
from simple_ws.loop.deferred import in_thread

SPLIT = [("Location", "/login?next=a\r\nSet-Cookie: b=c")]
HALF = "half a pair: \ud800"


def broken_refusals() -> dict[str, Callable[[Any], Any]]:
    """Functions of a request that raise what cannot be sent."""

    def raising(error: Exception) -> Callable[[Any], Any]:
        def function(request: Any) -> Any:
            raise error

        return function

    mutable = HandshakeError(403, "no")
    mutable.headers = None  # type: ignore[assignment]
    return {
        "line break in a header": raising(HandshakeError(302, "Log in.", SPLIT)),
        "NUL in a header": raising(HandshakeError(400, "no", [("X", "\0")])),
        "no name of a header": raising(HandshakeError(400, "no", [("a b", "c")])),
        "half a pair in the text": raising(HandshakeError(404, HALF)),
        "no status": raising(HandshakeError(99, "no")),
        "no status at all": raising(HandshakeError("404", "no")),  # type: ignore[arg-type]
        "no headers": raising(mutable),
        "headers of three": raising(
            HandshakeError(400, "no", [("a", "b", "c")])  # type: ignore[list-item]
        ),
        "an error of the program": raising(ZeroDivisionError()),
    }


def bad_response(**changes: Any) -> Response:
    response = Response(200, "fine")
    for name, value in changes.items():
        setattr(response, name, value)
    return response


def broken_answers() -> dict[str, Any]:
    """What functions may return that cannot be sent."""
    return {
        "header added later": bad_response(headers=[("X", "a\r\nb: c")]),
        "body of another type": bad_response(body=7),
        "status below 200": Response(102),
        "status that is none": bad_response(status=None),
        "half a pair": HALF,
        "a set": {1, 2},
        "no JSON": {"a": object()},
        "NaN": [float("nan")],
    }


class Failing(Middleware):
    def on_request(self, request: Any) -> Any:
        raise HandshakeError(302, "Log in.", SPLIT)


class FailingClient(Client):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        raise OSError("no more of these")


class RefusingClient(Client):
    def __init__(self, *args: Any) -> None:
        raise HandshakeError(404, HALF)


def answer(driven: Driven, data: bytes) -> bytes:
    """All that comes until the end of the connection, after which nothing is left."""
    peer = driven.join()
    peer.write(data)
    rest = peer.read_rest()
    peer.close()
    driven.turn()
    assert not driven.handshaking
    assert not driven.server.clients
    return rest


def assert_failed(driven: Driven, data: bytes, caplog: Any) -> None:
    caplog.clear()
    got = answer(driven, data)
    assert got.startswith(b"HTTP/1.1 500 "), got
    assert b"Set-Cookie" not in got
    assert got.endswith(b"\r\n\r\nThe server failed.\n")
    errors = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(errors) == 1, errors
    assert "internal error" not in caplog.text


@pytest.mark.parametrize("what", broken_refusals())
def test_on_request_whose_refusal_cannot_be_sent_is_500(what: str, caplog: Any) -> None:
    handler = Recorder()
    handler.on_request = broken_refusals()[what]  # type: ignore[method-assign]
    with Driven(handler) as driven:
        assert_failed(driven, request(), caplog)


@pytest.mark.parametrize("what", broken_refusals())
def test_page_whose_refusal_cannot_be_sent_is_500(what: str, caplog: Any) -> None:
    with Driven() as driven:
        driven.server.http("/page")(broken_refusals()[what])
        driven.server.http("/late")(in_thread(broken_refusals()[what]))
        assert_failed(driven, ask("GET", "/page", "Connection: close"), caplog)
        assert_failed(driven, ask("GET", "/late", "Connection: close"), caplog)


@pytest.mark.parametrize("what", broken_answers())
def test_page_whose_answer_cannot_be_sent_is_500(what: str, caplog: Any) -> None:
    with Driven() as driven:
        driven.server.http("/page")(lambda request: broken_answers()[what])
        late = in_thread(lambda request: broken_answers()[what])
        driven.server.http("/late")(late)
        assert_failed(driven, ask("GET", "/page", "Connection: close"), caplog)
        assert_failed(driven, ask("GET", "/late", "Connection: close"), caplog)


def test_answer_that_cannot_be_sent_keeps_the_connection() -> None:
    with Driven() as driven:
        driven.server.http("/page")(lambda request: bad_response(body=7))
        peer = driven.join()
        for _ in range(3):
            peer.write(ask("GET", "/page"))
            assert peer.read_head().startswith(b"HTTP/1.1 500 ")
            assert peer.read(19) == b"The server failed.\n"


def test_response_of_on_request_that_cannot_be_sent_is_500(caplog: Any) -> None:
    handler = Recorder()
    with Driven(handler) as driven:
        for wrong in (bad_response(headers=[("X", "\n")]), bad_response(body=7)):
            handler.on_request = lambda request, got=wrong: got  # type: ignore
            assert_failed(driven, request(), caplog)


def test_late_on_request_whose_refusal_cannot_be_sent_is_500(caplog: Any) -> None:
    for function in broken_refusals().values():
        handler = Recorder()
        handler.on_request = in_thread(function)  # type: ignore[method-assign]
        with Driven(handler) as driven:
            assert_failed(driven, request(), caplog)


@pytest.mark.parametrize("client_class", [FailingClient, RefusingClient])
def test_client_class_that_fails_is_500(client_class: Any, caplog: Any) -> None:
    handler = Recorder()
    handler.client_class = client_class
    with Driven(handler) as driven:
        assert_failed(driven, request(), caplog)
        assert handler.events == []


def test_middleware_that_fails_is_500(caplog: Any) -> None:
    with Driven() as driven:
        driven.server.use(Failing())
        assert_failed(driven, request(), caplog)


@pytest.mark.parametrize("chosen", ["b", 7, b"a", ["a"], HALF])
def test_subprotocol_that_was_not_offered_is_500(chosen: Any, caplog: Any) -> None:
    handler = Recorder()
    handler.select_subprotocol = lambda offered: chosen  # type: ignore[method-assign]
    with Driven(handler) as driven:
        assert_failed(driven, request("/", "Sec-WebSocket-Protocol: a"), caplog)


def test_fault_of_ours_is_500_and_the_end(caplog: Any, monkeypatch: Any) -> None:
    def fail(*args: Any) -> Any:
        raise RuntimeError("oops")

    with Driven() as driven:
        driven.server.http("/page")(lambda request: "page")
        monkeypatch.setattr(driven.server, "_find_handler", fail)
        monkeypatch.setattr(driven.server, "_find_route", fail)
        # An ordinary handshake has a plan, and asks for nothing of that.
        asked = request("/", "Sec-WebSocket-Protocol: a")
        assert_failed(driven, asked, caplog)
        assert_failed(driven, asked[:-2] + b"X: \xe9\r\n\r\n", caplog)
        assert_failed(driven, ask("GET", "/page"), caplog)


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_program_leaves_no_connection(end: type[BaseException]) -> None:
    def leave(request: Any) -> Any:
        raise end

    handler = Recorder()
    handler.on_request = leave  # type: ignore[method-assign]
    with Driven(handler) as driven:
        driven.server.http("/page")(leave)
        for data in (request(), ask("GET", "/page")):
            peer = driven.join()
            peer.sock.sendall(data)
            with pytest.raises(end):
                driven.turn()
            assert not driven.handshaking
            assert peer.read_rest() == b""


def test_connection_that_cannot_be_taken_is_closed() -> None:
    made: list[Any] = []

    def encrypt(sock: Any, *rest: Any) -> Any:
        made.append(sock)
        raise ValueError("a context that is none")

    with running(Recorder()) as server:
        server._encrypted = encrypt
        for _ in range(3):
            with connect(server) as peer:
                assert peer.read_rest() == b""
        assert [sock.fileno() for sock in made] == [-1] * 3


# --- A fault of the client is 400 -----------------------------------------------------


FORM = "Content-Type: application/x-www-form-urlencoded"

CLIENTS_FAULTS: dict[str, tuple[Callable[[Request], Any], tuple[str, ...], bytes]] = {
    "no JSON": (lambda r: r.json()["id"], (), b"{"),
    "JSON that is not UTF-8": (lambda r: r.json(), (), b'"\xff"'),
    "JSON that is too deep": (lambda r: r.json(), (), b"[" * 100_000),
    "a number that is too long": (lambda r: r.json(), (), b"1" * 5000),
    "no query": (lambda r: r.query["id"], (), b""),
    "no header": (lambda r: r.headers["X-Key"], (), b""),
    "no cookie": (lambda r: r.cookies["sid"], ("Cookie: a=b",), b""),
    "no text": (lambda r: r.text(), (), b"\xff"),
    "no form": (lambda r: r.form(), (), b"a=b"),
    "form that is not UTF-8": (lambda r: r.form(), (FORM,), b"a=\xff"),
    "form of other escapes": (lambda r: r.form(), (FORM,), b"a=%ff"),
    "form of many fields": (lambda r: r.form(), (FORM,), b"a&" * 1001),
    "no field": (lambda r: r.form()["b"], (FORM,), b"a=b"),
}


@pytest.mark.parametrize("what", CLIENTS_FAULTS)
def test_fault_of_the_client_is_400_without_a_traceback(what: str, caplog: Any) -> None:
    function, lines, body = CLIENTS_FAULTS[what]
    with Driven() as driven:
        driven.server.http("/page", ["POST"])(function)
        driven.server.http("/late", ["POST"])(in_thread(function))
        for path in ("/page", "/late"):
            length = f"Content-Length: {len(body)}"
            head = ask("POST", path, length, "Connection: close", *lines)
            assert answer(driven, head + body).startswith(b"HTTP/1.1 400 ")
    assert caplog.records == []


def test_missing_values_say_what_is_missing() -> None:
    asked = Request("GET", "/?a=1", (1, 1), b"X: y\r\n")
    with pytest.raises(KeyError) as caught:
        asked.query["id"]
    assert isinstance(caught.value, MissingField)
    assert isinstance(caught.value, BadRequest)
    assert str(caught.value) == "The query parameter 'id' is missing."
    assert (caught.value.status, caught.value.name) == (400, "id")
    with pytest.raises(MissingField, match="The header field 'Host' is missing"):
        asked.headers["Host"]
    assert asked.query.get("id") is None
    assert asked.headers.get("Host", "b") == "b"
    assert asked.cookies.get("sid") is None
    assert "id" not in asked.query
    assert "a" in asked.query
    assert "x" in asked.headers


def test_error_of_the_program_stays_500(caplog: Any) -> None:
    def lookup(request: Request) -> Any:
        return {}[request.query["id"]]

    with Driven() as driven:
        driven.server.http("/page")(lookup)
        driven.server.http("/number")(lambda request: int(request.query["id"]))
        for path in ("/page?id=1", "/number?id=x"):
            assert_failed(driven, ask("GET", path, "Connection: close"), caplog)


def test_missing_query_in_on_request_is_400(caplog: Any) -> None:
    handler = Recorder()
    handler.on_request = lambda request: request.query["token"]  # type: ignore[method-assign]
    with Driven(handler) as driven:
        assert answer(driven, request()).startswith(b"HTTP/1.1 400 ")
    # The line about the refusal is INFO, a level that other tests may have set.
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_form_has_names_and_values() -> None:
    asked = Request("POST", "/", (1, 1), FORM.encode() + b"; charset=utf-8\r\n")
    asked.body = b"a=1&b=%C3%BC+x&a=2&c"
    form = asked.form()
    assert form.get_all("a") == ["1", "2"]
    assert (form["b"], form["c"]) == ("ü x", "")
    assert asked.text() == "a=1&b=%C3%BC+x&a=2&c"
