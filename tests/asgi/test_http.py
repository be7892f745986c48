"""Plain requests to ASGI applications (ASGI 3.0, HTTP & WebSocket, spec 2.3)."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from contextlib import suppress
from typing import Any

import pytest
from asgi_harness import (
    App,
    Calls,
    Event,
    Served,
    answering,
    body,
    failing,
    failing_later,
    forever,
    silent,
    start,
)
from harness import small_buffers
from http_peer import ask, browse, chunked, get

from simple_ws import Server

DISCONNECT = {"type": "http.disconnect"}


def scope_of(head: bytes, prefix: str = "/", **mounted: Any) -> Event:
    app = answering()
    with Served(app, prefix, mounted=mounted) as served:
        peer = browse(served)
        peer.peer.write(head)
        peer.read()
    return app.scopes[0]


# --- The scope ------------------------------------------------------------------------


def test_scope_says_all_about_the_request() -> None:
    scope = scope_of(ask("POST", "/a%20b/%C3%A9?x=%20&y", "X-Two: 1", "x-two:  2 "))
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/a b/é",
        "raw_path": b"/a%20b/%C3%A9",
        "query_string": b"x=%20&y",
        "root_path": "",
        "headers": [(b"host", b"example.com"), (b"x-two", b"1"), (b"x-two", b"2")],
        "client": ("192.0.2.1", 12345),
        "server": ("127.0.0.1", 0),
        "state": {},
        "extensions": {},
    }


def test_path_begins_with_the_prefix_and_with_what_a_proxy_removed() -> None:
    scope = scope_of(ask("GET", "/api/x%2F"), "/api/", root_path="/v1/")
    assert scope["root_path"] == "/v1/api"
    assert scope["path"] == "/v1/api/x/"
    assert scope["raw_path"] == b"/v1/api/x%2F"


def test_old_versions_and_absolute_targets_are_told_as_they_are() -> None:
    scope = scope_of(ask("GET", "/", version="1.0"))
    assert scope["http_version"] == "1.0"
    assert scope_of(ask("GET", "http://example.com/a?b"))["path"] == "/a"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"app": lambda scope: None}, TypeError),
        ({"prefix": "api"}, ValueError),
        ({"root_path": "v1"}, ValueError),
        ({"root_path": None}, TypeError),
        ({"max_body": -1}, ValueError),
        ({"max_body": "1"}, TypeError),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    given = {"prefix": "/", "app": answering(), **arguments}
    with pytest.raises(error):
        Server().asgi(given.pop("prefix"), given.pop("app"), **given)


# --- The request ----------------------------------------------------------------------


async def echo(scope: Event, receive: App, send: App) -> None:
    data = b""
    while True:
        event = await receive()
        data += event["body"]
        if not event["more_body"]:
            break
    await send(start())
    await send(body(data))


@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_body_arrives_whatever_its_size(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    with Served(Calls(echo)) as served:
        assert browse(served).fetch("POST", "/", body=data).body == data


def test_chunked_body_arrives_without_its_chunks() -> None:
    with Served(Calls(echo)) as served:
        peer = browse(served)
        head = ask("POST", "/", "Transfer-Encoding: chunked")
        peer.peer.write(head + chunked([b"abc", b"de"]))
        assert peer.read().body == b"abcde"
        assert peer.get("/").status == 200  # the connection goes on


def test_body_is_handed_over_while_it_arrives() -> None:
    app = Calls(echo)
    with Served(app) as served:
        peer = browse(served)
        peer.peer.write(ask("POST", "/", "Content-Length: 6") + b"abc")
        served.until(lambda: app.received)
        assert app.received == [
            {"type": "http.request", "body": b"abc", "more_body": True}
        ]
        peer.peer.write(b"def")
        assert peer.read().body == b"abcdef"
        assert app.received[-1]["more_body"] is False


def test_server_reads_no_further_than_the_application() -> None:
    """Otherwise memory would hold what the application has no time for."""
    go = asyncio.Event()

    async def act(scope: Event, receive: App, send: App) -> None:
        await go.wait()
        await echo(scope, receive, send)

    with Served(Calls(act)) as served:
        peer = browse(served)
        size = 2**20
        peer.peer.write(ask("POST", "/", f"Content-Length: {size}"))
        sent = 0
        for _ in range(200):
            with suppress(BlockingIOError):
                sent += peer.peer.sock.send(bytes(16384))
            served.turn()
        assert served.reactor.buffered_input < 128 * 1024
        assert sent < size
        go.set()
        peer.peer.write(bytes(size - sent))
        assert len(peer.read().body) == size


def test_interim_response_comes_when_the_application_receives() -> None:
    go = asyncio.Event()

    async def act(scope: Event, receive: App, send: App) -> None:
        await go.wait()
        await echo(scope, receive, send)

    with Served(Calls(act)) as served:
        peer = browse(served)
        expects = "Expect: 100-continue"
        peer.peer.write(ask("POST", "/", "Content-Length: 3", expects))
        served.turn(5)
        assert peer.peer.nothing_waits()
        go.set()
        assert peer.peer.read_head() == b"HTTP/1.1 100 Continue"
        peer.peer.write(b"abc")
        assert peer.read().body == b"abc"


def test_refusal_without_receiving_invites_no_body() -> None:
    with Served(answering(b"no")) as served:
        peer = browse(served)
        expects = "Expect: 100-continue"
        peer.peer.write(ask("POST", "/", "Content-Length: 3", expects))
        answer = peer.read()
        assert answer.body == b"no"
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("size", [10, 11])
def test_body_has_a_limit(size: int) -> None:
    with Served(Calls(echo), mounted={"max_body": 10}) as served:
        answer = browse(served).fetch("POST", "/", body=bytes(size))
        assert answer.status == (200 if size == 10 else 413)


def test_chunked_body_has_a_limit_while_it_arrives() -> None:
    app = Calls(echo)
    with Served(app, mounted={"max_body": 10}) as served:
        peer = browse(served)
        peer.peer.write(ask("POST", "/", "Transfer-Encoding: chunked"))
        for _ in range(3):
            peer.peer.write(b"4\r\nabcd\r\n")
            served.turn(3)
        assert peer.read().status == 413
        served.until(lambda: app.ended)
        assert app.received[-1] == DISCONNECT


def test_slow_body_is_refused_and_the_application_told() -> None:
    app = Calls(echo)
    with Served(app, open_timeout=5.0) as served:
        peer = browse(served)
        peer.peer.write(ask("POST", "/", "Content-Length: 3000"))
        for _ in range(2):  # a byte now and then is no progress
            peer.peer.write(b"a")
            served.turn(3)
            served.advance(3)
        assert peer.read().status == 408
        served.until(lambda: app.ended)
        assert app.received[-1] == DISCONNECT


def test_application_may_take_its_time() -> None:
    async def act(scope: Event, receive: App, send: App) -> None:
        await receive()
        await asyncio.sleep(3600)
        await send(start())
        await send(body(b"at last"))

    with Served(Calls(act)) as served:
        peer = browse(served)
        peer.peer.write(ask("POST", "/", "Content-Length: 1") + b"a")
        served.turn(3)
        served.advance(3601)
        assert peer.read().body == b"at last"


# --- The response ---------------------------------------------------------------------


def test_length_and_date_are_added_and_lines_kept() -> None:
    app = answering(b"hello", (b"X-Case", b"1"), (b"set-cookie", b"a"))
    with Served(app) as served:
        peer = browse(served)
        peer.peer.write(ask("GET", "/"))
        head = peer.peer.read_head()
    assert head.startswith(b"HTTP/1.1 200 OK\r\nX-Case: 1\r\nset-cookie: a\r\ndate: ")
    assert head.endswith(b"\r\ncontent-length: 5")


def streaming(pieces: list[bytes], *headers: tuple[bytes, bytes]) -> Calls:
    async def act(scope: Event, receive: App, send: App) -> None:
        await send(start(200, *headers))
        for piece in pieces:
            await send(body(piece, more=True))
            await asyncio.sleep(0)
        await send(body())

    return Calls(act)


def test_streamed_response_is_chunked() -> None:
    with Served(streaming([b"ab", b"", b"c"])) as served:
        peer = browse(served)
        answer = peer.get("/")
        assert answer.body == b"abc"
        assert answer.headers["transfer-encoding"] == "chunked"
        assert peer.get("/").body == b"abc"  # the connection goes on


def test_streamed_response_of_known_length_is_not_chunked() -> None:
    with Served(streaming([b"ab", b"c"], (b"content-length", b"3"))) as served:
        answer = get(served, "/")
        assert (answer.body, "transfer-encoding" in answer.headers) == (b"abc", False)


def test_streamed_response_ends_with_the_connection_in_version_1_0() -> None:
    with Served(streaming([b"ab", b"c"])) as served:
        peer = browse(served)
        peer.peer.write(ask("GET", "/", version="1.0"))
        assert peer.peer.read_rest().endswith(b"\r\n\r\nabc")


@pytest.mark.parametrize("app", [answering(b"hello"), streaming([b"he", b"llo"])])
def test_head_has_no_body(app: Calls) -> None:
    with Served(app) as served:
        peer = browse(served)
        assert peer.fetch("HEAD", "/").body == b""
        assert peer.get("/").body == b"hello"


@pytest.mark.parametrize("status", [204, 304])
def test_some_statuses_have_no_body(status: int) -> None:
    async def act(scope: Event, receive: App, send: App) -> None:
        await send(start(status))
        await send(body(b"ignored"))

    with Served(Calls(act)) as served:
        peer = browse(served)
        answer = peer.get("/")
        assert (answer.status, answer.body) == (status, b"")
        assert "content-length" not in answer.headers
        assert peer.get("/").status == status


def test_connection_is_the_servers() -> None:
    headers = (b"connection", b"upgrade"), (b"transfer-encoding", b"chunked")
    with Served(answering(b"hello", *headers)) as served:
        peer = browse(served)
        answer = peer.get("/")
        assert answer.body == b"hello"
        assert "connection" not in answer.headers
    with Served(answering(b"hello", (b"Connection", b"close"))) as served:
        peer = browse(served)
        assert peer.get("/").headers["connection"] == "close"
        assert peer.is_closed()


def test_sending_waits_while_the_client_does_not_read() -> None:
    sent = []

    async def act(scope: Event, receive: App, send: App) -> None:
        await send(start())
        for number in range(100):
            await send(body(bytes(65536), more=True))
            sent.append(number)
        await send(body())

    with Served(Calls(act)) as served:
        peer = browse(served)
        small_buffers(peer.peer.sock)
        peer.peer.write(ask("GET", "/"))
        served.turn(50)
        assert len(sent) < 20
        assert len(peer.read().body) == 100 * 65536


def test_background_work_goes_on_after_the_response() -> None:
    go = asyncio.Event()
    done = []

    async def act(scope: Event, receive: App, send: App) -> None:
        await send(start())
        await send(body(b"early"))
        await go.wait()
        done.append(await receive())

    with Served(Calls(act)) as served:
        peer = browse(served)
        assert peer.get("/").body == b"early"
        assert peer.get("/").body == b"early"
        go.set()
        served.until(lambda: len(done) == 2)
        assert done == [DISCONNECT] * 2


# --- Mistakes -------------------------------------------------------------------------


async def body_first(scope: Event, receive: App, send: App) -> None:
    await send(body())


async def two_starts(scope: Event, receive: App, send: App) -> None:
    await send(start())
    await send(start())


async def nonsense(scope: Event, receive: App, send: App) -> None:
    await send({"type": "http.response.nonsense"})


async def line_break(scope: Event, receive: App, send: App) -> None:
    await send(start(200, (b"x", b"a\r\nevil: 1")))
    await send(body())


async def bad_name(scope: Event, receive: App, send: App) -> None:
    await send(start(200, (b"x y", b"a")))
    await send(body())


async def text_header(scope: Event, receive: App, send: App) -> None:
    await send(start(200, ("x", "a")))  # type: ignore[arg-type]
    await send(body())


async def bad_status(scope: Event, receive: App, send: App) -> None:
    await send(start(101))


async def too_long(scope: Event, receive: App, send: App) -> None:
    await send(start(200, (b"content-length", b"1")))
    await send(body(b"ab"))


async def too_short(scope: Event, receive: App, send: App) -> None:
    await send(start(200, (b"content-length", b"3")))
    await send(body(b"ab"))


@pytest.mark.parametrize(
    "act",
    [
        *(silent, failing, failing_later, body_first, two_starts, nonsense),
        *(line_break, bad_name, text_header, bad_status, too_long, too_short),
    ],
)
def test_mistake_is_answered_500_with_one_line(
    act: App, caplog: pytest.LogCaptureFixture
) -> None:
    with Served(Calls(act)) as served:
        peer = browse(served)
        answer = peer.get("/")
        assert answer.status == 500
        assert "wrong" not in answer.text
        assert peer.get("/").status == 500  # the connection goes on
    lines = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert [r.getMessage() for r in lines] == ["<Request GET /> failed"] * 2


@pytest.mark.parametrize("length", [(), ((b"content-length", b"9"),)])
def test_failure_within_the_response_cuts_it(
    length: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def act(scope: Event, receive: App, send: App) -> None:
        await send(start(200, *length))
        await send(body(b"abc", more=True))
        raise ValueError("what went wrong")

    with Served(Calls(act)) as served:
        peer = browse(served)
        peer.peer.write(ask("GET", "/"))
        rest = peer.peer.read_rest()
        assert rest.endswith((b"abc", b"abc\r\n"))
    assert len([r for r in caplog.records if r.levelno >= logging.ERROR]) == 1


def test_nothing_may_follow_the_response() -> None:
    async def act(scope: Event, receive: App, send: App) -> None:
        await send(start())
        await send(body(b"done"))
        with pytest.raises(RuntimeError, match="nothing after the end"):
            await send(body(b"more"))

    app = Calls(act)
    with Served(app) as served:
        assert get(served, "/").body == b"done"
    assert not app.errors


# --- Clients that leave, and the end --------------------------------------------------


def test_application_is_told_that_the_client_has_gone() -> None:
    async def act(scope: Event, receive: App, send: App) -> None:
        await receive()
        await receive()
        await send(start())  # as if it did not know
        await send(body(b"nobody", more=True))
        await send(body())

    app = Calls(act)
    with Served(app) as served:
        peer = browse(served)
        peer.peer.write(ask("GET", "/"))
        served.until(lambda: app.received)
        peer.peer.close()
        served.until(lambda: app.ended)
        assert app.received[-1] == DISCONNECT
        assert not app.errors
        assert not served.handshaking


def test_client_that_only_ends_its_side_gets_the_response() -> None:
    async def act(scope: Event, receive: App, send: App) -> None:
        await receive()
        assert await receive() == DISCONNECT
        await send(start())
        await send(body(b"all the same"))

    app = Calls(act)
    with Served(app) as served:
        peer = browse(served)
        peer.peer.write(ask("GET", "/"))
        peer.peer.end()
        assert peer.read().body == b"all the same"


def test_sender_is_not_left_waiting_when_the_client_goes() -> None:
    async def act(scope: Event, receive: App, send: App) -> None:
        await send(start())
        while not disconnected:
            await send(body(bytes(65536), more=True))

    disconnected: list[bool] = []
    app = Calls(act)
    with Served(app) as served:
        peer = browse(served)
        peer.peer.write(ask("GET", "/"))
        served.turn(20)
        peer.peer.close()
        served.turn(20)  # it goes on to send, and nobody is held up by that
        assert not app.ended
        disconnected.append(True)
        served.until(lambda: app.ended)


def test_requests_have_contexts_of_their_own() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    seen = []

    async def act(scope: Event, receive: App, send: App) -> None:
        seen.append(variable.get("none"))
        variable.set(scope["path"])
        await asyncio.sleep(0)
        seen.append(variable.get())
        await send(start())
        await send(body())

    with Served(Calls(act)) as served:
        peer = browse(served)
        peer.get("/a")
        peer.get("/b")
    assert seen == ["none", "/a", "none", "/b"]


def test_request_in_flight_ends_within_the_drain() -> None:
    async def act(scope: Event, receive: App, send: App) -> None:
        await asyncio.sleep(5)
        await send(start())
        await send(body(b"in time"))

    with Served(Calls(act)) as served:
        peer = browse(served)
        peer.peer.write(ask("GET", "/"))
        served.turn(3)
        served.stop_begins(drain=10)
        served.advance(6)
        assert peer.read().body == b"in time"
        served.advance(2)  # the client does not close its side
        served.until(lambda: not served.running)


def test_request_that_takes_too_long_is_cancelled_at_the_end() -> None:
    app = Calls(lambda scope, receive, send: forever())
    with Served(app) as served:
        peer = browse(served)
        peer.peer.write(ask("GET", "/"))
        served.turn(3)
        served.stop_begins(drain=10)
        served.advance(11)
        assert peer.is_closed()
        served.until(lambda: not served.running)
    assert isinstance(app.errors[0], asyncio.CancelledError)


def test_other_paths_are_the_servers_own() -> None:
    with Served(answering(b"app"), "/app") as served:
        served.server.http("/page")(lambda request: "page")
        assert get(served, "/page").body == b"page"
        assert get(served, "/app").body == b"app"
        assert get(served, "/app/x").body == b"app"
        assert get(served, "/apple").status == 404


def test_access_log_has_requests_to_applications(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    app = Calls(echo)
    with Served(app, access_log=True) as served:
        browse(served).get("/one")
        browse(served).fetch("POST", "/two", body=b"abc")
    with Served(streaming([b"a", b"b"]), access_log=True) as served:
        get(served, "/three")
    lines = [line for r in caplog.records if "/" in (line := r.getMessage())]
    for path in ("/one", "/two", "/three"):
        assert [" 200" in line for line in lines if path in line] == [True], lines
