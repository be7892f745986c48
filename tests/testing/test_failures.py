"""What the user's code raises fails the test, and shows the user's lines alone."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

import pytest

from simple_ws import Client, Request, Server, WebSocket, in_thread
from simple_ws.testing import ServerFactory, TestServer


class Fragile(WebSocket):
    """Divides by what it is sent."""

    def on_message(self, msg: Any, client: Client) -> str:
        return str(1 / int(msg))


class FragileLater(WebSocket):
    async def on_message(self, msg: Any, client: Client) -> str:
        await asyncio.sleep(10)
        return str(1 / int(msg))


class FragileInThread(WebSocket):
    @in_thread
    def on_message(self, msg: Any, client: Client) -> str:
        return str(1 / int(msg))


def test_exception_of_a_callback_fails_the_step(ws_server: ServerFactory) -> None:
    peer = ws_server(Fragile()).connect()
    with pytest.raises(ZeroDivisionError):
        peer.send("0")
    peer.assert_closed(1011, cause="handler_error")


def test_it_is_raised_once(ws_server: ServerFactory) -> None:
    server = ws_server(Fragile())
    with pytest.raises(ZeroDivisionError):
        server.connect().send("0")
    server.settle()


def test_exception_of_a_coroutine_comes_when_it_is_due(
    ws_server: ServerFactory,
) -> None:
    server = ws_server(FragileLater())
    server.connect().send("0")
    with pytest.raises(ZeroDivisionError):
        server.advance(10)


def test_exception_of_a_worker_thread_is_waited_for(ws_server: ServerFactory) -> None:
    peer = ws_server(FragileInThread()).connect()
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        peer.send("0")  # perhaps the thread is not done yet
        peer.recv()


def test_several_come_as_a_group(ws_server: ServerFactory) -> None:
    class Room(Fragile):
        def on_close(self, client: Client) -> None:
            raise LookupError("nobody")

    with pytest.raises(ExceptionGroup) as raised:
        ws_server(Room()).connect().send("0")
    kinds = {type(error) for error in raised.value.exceptions}
    assert kinds == {ZeroDivisionError, LookupError}


def test_exceptions_before_the_upgrade_are_raised(ws_server: ServerFactory) -> None:
    class Closed(WebSocket):
        def on_request(self, request: Request) -> None:
            raise LookupError("no table of users")

    with pytest.raises(LookupError, match="no table"):
        ws_server(Closed()).connect()


def test_exceptions_of_pages_and_timers_are_raised(ws_server: ServerFactory) -> None:
    served = Server()

    @served.http("/page")
    def page(request: Request) -> None:
        raise LookupError("no page")

    def tick() -> None:
        raise ZeroDivisionError

    served.every(10, tick)
    server = ws_server(served)
    with pytest.raises(LookupError, match="no page"):
        server.request(path="/page")
    server.advance(9)
    with pytest.raises(ZeroDivisionError):
        server.advance(1)


def test_a_reply_that_is_no_message_is_raised(ws_server: ServerFactory) -> None:
    class Odd(WebSocket):
        def on_request(self, request: Request) -> Any:
            return 7

    with pytest.raises(RuntimeError, match="7"):
        ws_server(Odd()).connect()


def test_exceptions_at_the_end_are_raised() -> None:
    class Last(WebSocket):
        def on_close(self, client: Client) -> None:
            raise LookupError("too late")

    with pytest.raises(LookupError, match="too late"), TestServer(Last()) as server:
        server.connect()


def test_the_first_exception_of_a_test_is_the_one_it_fails_by() -> None:
    class Last(WebSocket):
        def on_close(self, client: Client) -> None:
            raise LookupError("too late")

    server = TestServer(Last())
    with pytest.raises(AssertionError, match="mine"), server:
        assert not server.connect().is_open(), "mine"


def test_what_on_error_handles_is_not_raised(ws_server: ServerFactory) -> None:
    class Careful(Fragile):
        def on_error(self, error: Exception, client: Client) -> None:
            client.write_message("no")

    peer = ws_server(Careful()).connect()
    peer.send("0")
    assert peer.recv() == "no"


def test_it_can_be_left_to_the_log(
    ws_server: ServerFactory, caplog: pytest.LogCaptureFixture
) -> None:
    peer = ws_server(Fragile(), raise_server_exceptions=False).connect()
    peer.send("0")
    peer.assert_closed(1011)
    assert "ZeroDivisionError" in caplog.text


def names(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def test_traceback_goes_from_the_test_to_the_callback(
    ws_server: ServerFactory,
) -> None:
    peer = ws_server(Fragile()).connect()
    with pytest.raises(ZeroDivisionError) as raised:
        peer.send("0")
    here = "test_traceback_goes_from_the_test_to_the_callback"
    shown = [entry.name for entry in raised.traceback.filter(raised)]
    assert shown == [here, "on_message"]


def test_traceback_of_an_assertion_ends_in_the_test(ws_server: ServerFactory) -> None:
    peer = ws_server(Fragile()).connect()
    with pytest.raises(AssertionError) as raised:
        peer.assert_closed(1000)
    shown = [entry.name for entry in raised.traceback.filter(raised)]
    assert shown == ["test_traceback_of_an_assertion_ends_in_the_test"]
