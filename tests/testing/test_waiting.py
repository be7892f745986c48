"""Waiting in the test kit: for threads in real time, for the clock not at all."""

from __future__ import annotations

import time
from typing import Any

import pytest

from simple_ws import Client, Server, WebSocket, in_thread
from simple_ws.testing import ServerFactory, TestServer


class Late(WebSocket):
    """Answers after a minute."""

    def on_message(self, msg: str, client: Client) -> None:
        self.server.call_later(60, lambda: client.write_message(msg))


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(self: TestServer, *sockets: Any) -> None:
        pytest.fail("it waits in real time")

    monkeypatch.setattr(TestServer, "_wait_for_others", wait)


@pytest.mark.usefixtures("no_waiting")
def test_nothing_can_come_so_nothing_is_waited_for(ws_server: ServerFactory) -> None:
    peer = ws_server(Late()).connect()
    peer.send("hello")
    with pytest.raises(AssertionError, match="a message did not come"):
        peer.recv()


@pytest.mark.usefixtures("no_waiting")
def test_timeout_moves_the_clock_to_the_message(ws_server: ServerFactory) -> None:
    server = ws_server(Late())
    peer = server.connect()
    began = server.clock.now
    peer.send("hello")
    with pytest.raises(TimeoutError, match="no message came in 59 s"):
        peer.recv(timeout=59)
    assert server.clock.now == began + 59
    assert peer.recv(timeout=3600) == "hello"
    assert server.clock.now == began + 60


def test_worker_threads_are_waited_for(ws_server: ServerFactory) -> None:
    class Blocking(WebSocket):
        @in_thread
        def on_message(self, msg: str, client: Client) -> str:
            return msg

    peer = ws_server(Blocking()).connect()
    peer.send("hello")
    assert peer.recv() == "hello"


def test_threads_of_coroutines_are_waited_for(ws_server: ServerFactory) -> None:
    import asyncio

    class Blocking(WebSocket):
        async def on_message(self, msg: str, client: Client) -> str:
            return await asyncio.to_thread(str.upper, msg)

    peer = ws_server(Blocking()).connect()
    peer.send("hello")
    assert peer.recv() == "HELLO"
    with pytest.raises(AssertionError):  # its thread is idle now, and nothing comes
        peer.recv()


def test_json_goes_both_ways(ws_server: ServerFactory) -> None:
    class Echo(WebSocket):
        def on_message(self, msg: str, client: Client) -> str:
            return msg

    peer = ws_server(Echo()).connect()
    for value in ({"a": [1, None]}, [1], "text", 7, None):
        peer.send_json(value)
        assert peer.recv_json() == value
    peer.send("no JSON")
    with pytest.raises(ValueError, match="Expecting value"):
        peer.recv_json()


def test_limits_of_ones_own_go_by_the_clock_of_the_test(
    ws_server: ServerFactory,
) -> None:
    class Limited(WebSocket):
        def on_open(self, client: Client) -> None:
            client.session["next"] = 0.0

        def on_message(self, msg: str, client: Client) -> str:
            now = self.server.time()
            if now < client.session["next"]:
                return "too fast"
            client.session["next"] = now + 10
            return msg

    server = ws_server(Limited())
    peer = server.connect()
    peer.send("a")
    peer.send("b")
    server.advance(10)
    peer.send("c")
    assert peer.messages == ["a", "too fast", "c"]


def test_time_outside_of_tests_is_monotonic() -> None:
    before = time.monotonic()
    assert before <= Server().time() <= time.monotonic()
