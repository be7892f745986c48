"""WebSockets of ASGI applications (ASGI 3.0, HTTP & WebSocket, spec 2.4)."""

from __future__ import annotations

import asyncio
import logging

import pytest
from asgi_harness import (
    App,
    Calls,
    Event,
    Served,
    failing,
    failing_later,
    forever,
    silent,
)
from harness import BINARY, close_frame, request, small_buffers
from http_peer import HttpPeer

from simple_ws import Client, Middleware

CONNECT = {"type": "websocket.connect"}
ACCEPT = {"type": "websocket.accept"}


def gone(code: int, reason: str = "") -> Event:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def text(data: str) -> Event:
    return {"type": "websocket.send", "text": data}


async def echo(scope: Event, receive: App, send: App) -> None:
    assert await receive() == CONNECT
    await send(ACCEPT)
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})


def test_messages_go_both_ways() -> None:
    app = Calls(echo)
    with Served(app) as served:
        peer = served.open()
        peer.text("hello")
        assert peer.read_message() == "hello"
        peer.send(BINARY, b"\0\1")
        assert peer.read_message() == b"\0\1"
        assert peer.leave(4000, "bye") == (4000, "")
        served.until(lambda: app.ended)
    assert app.received == [
        CONNECT,
        {"type": "websocket.receive", "text": "hello"},
        {"type": "websocket.receive", "bytes": b"\0\1"},
        gone(4000, "bye"),
    ]


def test_scope_says_all_about_the_handshake() -> None:
    app = Calls(echo)
    with Served(app, "/ws", mounted={"root_path": "/v1"}) as served:
        served.open("/ws/a%20b?x=1", "Sec-WebSocket-Protocol: a, b")
    scope = app.scopes[0]
    headers = scope.pop("headers")
    assert (b"sec-websocket-version", b"13") in headers
    assert scope == {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/v1/ws/a b",
        "raw_path": b"/v1/ws/a%20b",
        "query_string": b"x=1",
        "root_path": "/v1/ws",
        "client": ("192.0.2.1", 12345),
        "server": ("127.0.0.1", 0),
        "subprotocols": ["a", "b"],
        "state": {},
        "extensions": {"websocket.http.response": {}},
    }


def test_application_chooses_subprotocol_and_headers() -> None:
    async def act(scope: Event, receive: App, send: App) -> None:
        accept = {"subprotocol": "b", "headers": [(b"x-a", b"1"), (b"X-B", b"2")]}
        await send({**ACCEPT, **accept})
        await receive()

    with Served(Calls(act)) as served:
        head = served.open("/", "Sec-WebSocket-Protocol: a, b").head
    assert b"\r\nSec-WebSocket-Protocol: b\r\n" in head
    assert head.endswith(b"\r\nx-a: 1\r\nX-B: 2")


@pytest.mark.parametrize("wait", [False, True])
def test_close_before_accepting_is_403(wait: bool) -> None:
    async def act(scope: Event, receive: App, send: App) -> None:
        if wait:
            await asyncio.sleep(0)
        await send({"type": "websocket.close", "code": 4000})

    app = Calls(act)
    with Served(app) as served:
        peer = served.join()
        peer.write(request())
        assert HttpPeer(peer).read().status == 403
        served.until(lambda: app.ended)
    assert not app.errors


def test_application_answers_with_a_response_of_its_own() -> None:
    async def act(scope: Event, receive: App, send: App) -> None:
        assert "websocket.http.response" in scope["extensions"]
        kind = "websocket.http.response"
        headers = [(b"x-a", b"1"), (b"content-length", b"4")]
        await send({"type": f"{kind}.start", "status": 418, "headers": headers})
        await send({"type": f"{kind}.body", "body": b"te", "more_body": True})
        await send({"type": f"{kind}.body", "body": b"a!"})

    app = Calls(act)
    with Served(app) as served:
        peer = served.join()
        peer.write(request())
        answer = HttpPeer(peer).read()
    assert (answer.status, answer.body) == (418, b"tea!")
    assert answer.headers["x-a"] == "1"
    assert not app.errors


def test_application_closes_with_code_and_reason() -> None:
    async def act(scope: Event, receive: App, send: App) -> None:
        await receive()
        await send(ACCEPT)
        await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
        await receive()

    app = Calls(act)
    with Served(app) as served:
        peer = served.open()
        assert peer.read_close() == (4001, "enough")
        peer.write(close_frame(4001))
        served.until(lambda: app.ended)
    assert app.received[-1]["type"] == "websocket.disconnect"


def test_application_that_returns_closes_the_connection() -> None:
    async def act(scope: Event, receive: App, send: App) -> None:
        await send(ACCEPT)

    with Served(Calls(act)) as served:
        assert served.open().read_close() == (1000, "")


def test_message_behind_the_request_is_not_lost() -> None:
    with Served(Calls(echo)) as served:
        peer = served.open(then=b"\x81\x82\0\0\0\0hi")
        assert peer.read_message() == "hi"


def test_lost_connection_is_1006() -> None:
    app = Calls(echo)
    with Served(app) as served:
        peer = served.open()
        peer.close()
        served.until(lambda: app.ended)
    assert app.received[-1]["code"] == 1006


def test_close_without_a_code_is_1005() -> None:
    app = Calls(echo)
    with Served(app) as served:
        peer = served.open()
        peer.send(8)
        served.until(lambda: app.ended)
    assert app.received[-1] == gone(1005)


def test_client_may_go_before_it_is_accepted() -> None:
    async def act(scope: Event, receive: App, send: App) -> None:
        await receive()
        await receive()

    app = Calls(act)
    with Served(app) as served:
        peer = served.join()
        peer.write(request())
        served.until(lambda: app.received)
        peer.close()
        served.until(lambda: app.ended)
    assert app.received == [CONNECT, gone(1006)]
    assert not app.errors


def test_handshake_has_its_deadline() -> None:
    async def act(scope: Event, receive: App, send: App) -> None:
        await receive()
        await receive()

    app = Calls(act)
    with Served(app, open_timeout=5.0) as served:
        peer = served.join()
        peer.write(request())
        served.until(lambda: app.received)
        served.advance(6)
        assert HttpPeer(peer).read().status == 503
        served.until(lambda: app.ended)
    assert app.received[-1] == gone(1006)


def test_sending_to_a_client_that_has_gone_is_an_oserror() -> None:
    async def act(scope: Event, receive: App, send: App) -> None:
        await send(ACCEPT)
        await receive()
        await receive()
        with pytest.raises(OSError, match="disconnected"):
            await send(text("nobody"))

    app = Calls(act)
    with Served(app) as served:
        served.open().leave()
        served.until(lambda: app.ended)
    assert not app.errors


# --- Back-pressure --------------------------------------------------------------------


def test_sending_waits_and_a_healthy_reader_is_not_closed() -> None:
    """Without waiting it would be 1013: the output is more than `write_limit`."""
    sent = []

    async def act(scope: Event, receive: App, send: App) -> None:
        await send(ACCEPT)
        for number in range(100):
            await send(text("a" * 65536))
            sent.append(number)

    with Served(Calls(act), write_limit=100_000) as served:
        peer = served.open()
        small_buffers(peer.sock)
        served.turn(50)
        assert len(sent) < 50
        for _ in range(100):
            assert len(peer.read_message()) == 65536
        assert peer.read_close() == (1000, "")


def test_several_senders_wait_together() -> None:
    async def act(scope: Event, receive: App, send: App) -> None:
        await send(ACCEPT)

        async def some() -> None:
            for _ in range(20):
                await send(text("a" * 65536))

        await asyncio.gather(*(some() for _ in range(5)))

    with Served(Calls(act), write_limit=100_000) as served:
        peer = served.open()
        small_buffers(peer.sock)
        served.turn(50)
        for _ in range(100):
            assert len(peer.read_message()) == 65536


def test_server_reads_no_further_than_the_application() -> None:
    go = asyncio.Event()

    async def late(scope: Event, receive: App, send: App) -> None:
        await receive()
        await send(ACCEPT)
        await go.wait()
        while (event := await receive())["type"] == "websocket.receive":
            await send({**event, "type": "websocket.send"})

    with Served(Calls(late)) as served:
        peer = served.open()
        for number in range(100):
            peer.text(f"{number}")
        served.turn(50)
        client = next(iter(served.server.clients))
        assert client.messages_received < 30
        go.set()
        for number in range(100):
            assert peer.read_message() == f"{number}"


# --- Mistakes -------------------------------------------------------------------------


async def send_first(scope: Event, receive: App, send: App) -> None:
    await send(text("a"))


async def nonsense(scope: Event, receive: App, send: App) -> None:
    await send({"type": "http.response.start", "status": 200})


async def not_offered(scope: Event, receive: App, send: App) -> None:
    await send({**ACCEPT, "subprotocol": "x"})


async def ours(scope: Event, receive: App, send: App) -> None:
    await send({**ACCEPT, "headers": [(b"sec-websocket-accept", b"x")]})


async def line_break(scope: Event, receive: App, send: App) -> None:
    await send({**ACCEPT, "headers": [(b"x", b"a\r\nb: c")]})


@pytest.mark.parametrize(
    "act",
    [
        *(silent, failing, failing_later, send_first),
        *(nonsense, not_offered, ours, line_break),
    ],
)
def test_mistake_before_accepting_is_500_with_one_line(
    act: App, caplog: pytest.LogCaptureFixture
) -> None:
    with Served(Calls(act)) as served:
        peer = served.join()
        peer.write(request())
        answer = HttpPeer(peer).read()
    assert answer.status == 500
    assert "wrong" not in answer.text
    assert len([r for r in caplog.records if r.levelno >= logging.ERROR]) == 1


async def fail_open(scope: Event, receive: App, send: App) -> None:
    await send(ACCEPT)
    raise ValueError("what went wrong")


async def accept_twice(scope: Event, receive: App, send: App) -> None:
    await send(ACCEPT)
    await send(ACCEPT)


async def number(scope: Event, receive: App, send: App) -> None:
    await send(ACCEPT)
    await send({"type": "websocket.send", "text": 1})


async def nothing(scope: Event, receive: App, send: App) -> None:
    await send(ACCEPT)
    await send({"type": "websocket.send"})


async def bad_code(scope: Event, receive: App, send: App) -> None:
    await send(ACCEPT)
    await send({"type": "websocket.close", "code": 1006})


@pytest.mark.parametrize("act", [fail_open, accept_twice, number, nothing, bad_code])
def test_mistake_after_accepting_is_1011_with_one_line(
    act: App, caplog: pytest.LogCaptureFixture
) -> None:
    with Served(Calls(act)) as served:
        assert served.open().read_close() == (1011, "the handler failed")
        served.turn(3)
    assert len([r for r in caplog.records if r.levelno >= logging.ERROR]) == 1


def test_nothing_may_follow_the_close() -> None:
    async def act(scope: Event, receive: App, send: App) -> None:
        await send(ACCEPT)
        await send({"type": "websocket.close"})
        for event in (text("a"), {"type": "websocket.close"}):
            with pytest.raises(RuntimeError, match=r"nothing after websocket\.close"):
                await send(event)

    app = Calls(act)
    with Served(app) as served:
        served.open().read_close()
        served.until(lambda: app.ended)
    assert not app.errors


# --- Together with the server ---------------------------------------------------------


def test_server_that_stops_says_1001() -> None:
    app = Calls(echo)
    with Served(app) as served:
        peer = served.open()
        served.stop_begins()
        assert peer.read_close()[0] == 1001
        peer.write(close_frame(1001))
        served.until(lambda: app.ended)
        assert app.received[-1]["code"] == 1001
        peer.close()
        served.until(lambda: not served.running)


def test_application_that_does_not_end_is_cancelled() -> None:
    async def act(scope: Event, receive: App, send: App) -> None:
        await send(ACCEPT)
        await forever()

    app = Calls(act)
    with Served(app) as served:
        served.open()
        served.stop_begins(drain=5)
        served.advance(6)
        served.until(lambda: not served.running)
    assert isinstance(app.errors[0], asyncio.CancelledError)


def test_options_of_the_server_hold() -> None:
    with Served(Calls(echo), max_size=10) as served:
        peer = served.open()
        peer.text("a" * 11)
        assert peer.read_close()[0] == 1009


def test_server_sees_the_clients_of_applications() -> None:
    app = Calls(echo)
    with Served(app) as served:
        peer = served.open()
        client = next(iter(served.server.clients))
        client.subscribe("news")
        served.server.publish("news", "to all")
        assert peer.read_message() == "to all"


class Shouting(Middleware):
    """Changes what comes in."""

    async def on_message(self, msg: str, client: Client) -> str:  # type: ignore[override]
        return msg.upper()


@pytest.mark.parametrize("middleware", [Middleware, Shouting])
def test_middlewares_stand_around_applications(middleware: type[Middleware]) -> None:
    with Served(Calls(echo)) as served:
        served.server.use(middleware())
        peer = served.open()
        peer.text("hello")
        assert peer.read_message() in ("hello", "HELLO")
