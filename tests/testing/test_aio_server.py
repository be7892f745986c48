"""The test kit inside a running asyncio loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from simple_ws import AsyncClient, Client, Request, Server, WebSocket
from simple_ws.errors import HandshakeRefused, InvalidState
from simple_ws.testing import TestServer


class Slow(WebSocket):
    """Answers when the loop has done something else; remembers the loop."""

    loop: asyncio.AbstractEventLoop | None = None

    async def on_message(self, msg: Any, client: Client) -> Any:
        type(self).loop = asyncio.get_running_loop()
        for _ in range(3):
            await asyncio.sleep(0)
        return msg


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_coroutines_run_in_the_loop_of_the_test() -> None:
    async def test() -> None:
        async with TestServer(Slow()) as server:
            ann, ben = await server.connect("/a"), await server.connect("/b")
            await ann.send("hello")
            assert await ann.recv() == "hello"
            await ben.send_json({"n": 1})
            assert await ben.recv_json() == {"n": 1}
            assert await ben.messages() == []
            assert Slow.loop is asyncio.get_running_loop()
            await ann.close(4000)
            await ann.assert_closed(4000)
            await ben.assert_open()
            assert ben.client.is_open()

    run(test)


def test_futures_of_the_test_are_waited_for() -> None:
    async def test() -> None:
        ready = asyncio.get_running_loop().create_future()

        class Waits(WebSocket):
            async def on_message(self, msg: Any, client: Client) -> Any:
                return await ready

        async with TestServer(Waits()) as server:
            peer = await server.connect()
            await peer.send("?")
            asyncio.get_running_loop().call_later(0.01, ready.set_result, "now")
            assert await peer.recv() == "now"

    run(test)


def test_the_clock_of_the_server_is_that_of_the_test() -> None:
    async def test() -> None:
        async with TestServer(Slow(idle_timeout=60)) as server:
            peer = await server.connect()
            with pytest.raises(AssertionError, match="a message did not come"):
                await peer.recv()
            with pytest.raises(TimeoutError):
                await peer.recv(timeout=30)
            await server.advance(31)
            await peer.assert_closed(1001, cause="idle_timeout")

    run(test)


def test_failures_and_refusals_are_raised() -> None:
    class Fragile(WebSocket):
        async def on_request(self, request: Request) -> bool:
            await asyncio.sleep(0)
            return request.path == "/in"

        async def on_message(self, msg: Any, client: Client) -> None:
            await asyncio.sleep(0)
            raise LookupError(msg)

    async def test() -> None:
        async with TestServer(Fragile()) as server:
            with pytest.raises(HandshakeRefused) as refused:
                await server.connect("/out")
            assert refused.value.status == 403
            peer = await server.connect("/in")
            with pytest.raises(LookupError, match="what"):
                await peer.send("what")
            await peer.assert_closed(1011)

    run(test)


def test_pages_may_be_coroutines() -> None:
    served = Server()

    @served.http("/page")
    async def page(request: Request) -> dict[str, int]:
        await asyncio.sleep(0)
        return {"a": 1}

    async def test() -> None:
        async with TestServer(served) as server:
            answer = await server.request(path="/page")
            assert answer.json() == {"a": 1}

    run(test)


def test_the_kit_without_await_works_in_a_running_loop() -> None:
    class Hour(WebSocket):
        async def on_message(self, msg: Any, client: Client) -> Any:
            await asyncio.sleep(3600)
            return msg

    async def test() -> None:
        task = asyncio.current_task()
        with TestServer(Hour()) as server:
            peer = server.connect()
            peer.send("hello")
            assert peer.recv(timeout=3600) == "hello"
        assert asyncio.current_task() is task
        await asyncio.sleep(0)

    run(test)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application with a lifespan, whose answers are its loop."""
    if scope["type"] == "lifespan":
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})
        return
    text = type(asyncio.get_running_loop()).__name__.encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text})


def make_server() -> Server:
    server = Server()
    server.asgi("/", application)
    return server


def test_applications_run_in_the_loop_of_the_test_or_of_the_kit() -> None:
    async def test() -> None:
        own = type(asyncio.get_running_loop()).__name__
        async with TestServer(make_server()) as server:
            assert (await server.request()).text == own
        kit = TestServer(make_server())  # without `with`
        assert kit.request().text == "ClockLoop"
        kit.close()

    run(test)


def test_server_of_another_loop_is_refused() -> None:
    kit = TestServer(Slow())

    async def test() -> None:
        with pytest.raises(InvalidState, match="make the TestServer in the loop"):
            async with kit:
                """Its coroutines would be of another loop."""

    run(test)
    kit.close()


def test_coroutines_end_with_the_server() -> None:
    ended: list[str] = []

    class Endless(WebSocket):
        async def on_message(self, msg: Any, client: Client) -> None:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append(msg)

    async def test() -> None:
        async with TestServer(Endless()) as server:
            await (await server.connect()).send("a")
        assert ended == ["a"]

    run(test)


class Owner(WebSocket[AsyncClient]):
    """A coroutine owns each connection."""

    async def on_connect(self, client: AsyncClient) -> None:
        name = await client.recv()
        async for msg in client:
            if msg == "later":
                await asyncio.sleep(60)
            await client.send(f"{name}: {msg}")


def test_coroutines_that_own_a_connection_go_by_the_clock_of_the_test() -> None:
    with TestServer(Owner()) as server:
        peer = server.connect()
        peer.send("ann")
        peer.send("now")
        assert peer.recv() == "ann: now"
        peer.send("later")
        assert peer.recv(timeout=60) == "ann: later"
        peer.close()
        peer.assert_closed(1000)


def test_coroutines_that_own_a_connection_run_in_the_loop_of_the_test() -> None:
    async def test() -> None:
        async with TestServer(Owner()) as server:
            peer = await server.connect()
            for text in ("ann", "hello"):
                await peer.send(text)
            assert await peer.recv() == "ann: hello"
            await peer.close()
            await peer.assert_closed(1000)

    run(test)


def test_coroutine_that_owns_a_connection_fails_the_test() -> None:
    class Fragile(WebSocket[AsyncClient]):
        async def on_connect(self, client: AsyncClient) -> None:
            raise LookupError(await client.recv())

    with TestServer(Fragile()) as server:
        peer = server.connect()
        with pytest.raises(LookupError, match="what"):
            peer.send("what")
        peer.assert_closed(1011)
