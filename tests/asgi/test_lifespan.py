"""Lifespans of ASGI applications (ASGI 3.0, Lifespan Protocol)."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from typing import Any

import pytest
from asgi_harness import App, Event, Served, answering, body, start
from harness import DEADLINE
from http_peer import ask, browse, get

from simple_ws import InvalidState, Server, StartupFailed


class Lived:
    """Notes what happens, and answers requests with its state."""

    def __init__(self, *, gate: asyncio.Event | None = None, slow: float = 0) -> None:
        self.events: list[str] = []
        self.gate = gate
        self.slow = slow

    async def __call__(self, scope: Event, receive: App, send: App) -> None:
        if scope["type"] == "lifespan":
            assert await receive() == {"type": "lifespan.startup"}
            self.events.append("startup")
            if self.gate is not None:
                await self.gate.wait()
            scope["state"]["name"] = "ours"
            await send({"type": "lifespan.startup.complete"})
            assert await receive() == {"type": "lifespan.shutdown"}
            await asyncio.sleep(self.slow)
            self.events.append("shutdown")
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.events.append("request")
        scope["state"]["more"] = 1
        await send(start())
        await send(body(repr(scope["state"]).encode()))


def test_application_begins_before_requests_and_ends_after_them() -> None:
    app = Lived()
    with Served(app) as served:
        assert get(served, "/").text == "{'name': 'ours', 'more': 1}"
        served.stop_begins()
        served.advance(2)
        served.until(lambda: not served.running)
    assert app.events == ["startup", "request", "shutdown"]


def test_requests_wait_until_the_application_has_started() -> None:
    gate = asyncio.Event()
    app = Lived(gate=gate)
    with Served(app) as served:
        peer = browse(served)
        peer.peer.write(ask("GET", "/"))
        served.turn(5)
        assert app.events == ["startup"]
        gate.set()
        assert peer.read().text == "{'name': 'ours', 'more': 1}"


def test_state_is_copied_for_each_request() -> None:
    with Served(Lived()) as served:
        peer = browse(served)
        assert peer.get("/").text == peer.get("/").text


@pytest.mark.parametrize(("takes", "events"), [(8, 2), (1000, 1)])
def test_shutdown_has_its_time_and_no_more(takes: float, events: int) -> None:
    app = Lived(slow=takes)
    with Served(app) as served:
        served.turn(3)
        served.stop_begins()
        for seconds in range(1, 15):
            assert served.running or seconds > 8
            served.advance(1)
        served.until(lambda: not served.running)
    assert len(app.events) == events


async def without(scope: Event, receive: App, send: App) -> None:
    """Knows no lifespan, as Django."""
    if scope["type"] != "http":
        raise ValueError("only HTTP")
    assert "state" not in scope
    await send(start())
    await send(body(b"hello"))


async def returning(scope: Event, receive: App, send: App) -> None:
    if scope["type"] == "http":
        await without(scope, receive, send)


@pytest.mark.parametrize("app", [without, returning])
def test_application_may_have_no_lifespan(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    with Served(app) as served:
        assert get(served, "/").text == "hello"
    assert "lifespan" not in caplog.text


async def refusing(scope: Event, receive: App, send: App) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
    raise RuntimeError("no database")


def test_run_raises_what_the_application_says() -> None:
    server = Server("127.0.0.1", 0)
    server.asgi("/", refusing)
    with pytest.raises(StartupFailed, match="refusing failed to start: no database"):
        server.run()
    with pytest.raises(StartupFailed, match="no database"):
        server.start()
    with pytest.raises(StartupFailed, match="no database"):
        asyncio.run(server.serve_async())


def test_attached_server_stops_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        server = Server("127.0.0.1", 0)
        server.asgi("/", refusing)
        server.attach()
        async with asyncio.timeout(DEADLINE):
            while server._running:
                await asyncio.sleep(0.01)

    asyncio.run(main())
    assert "failed to start: no database" in caplog.text


def read(server: Server) -> str:
    url = f"http://127.0.0.1:{server.port}/"
    with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
        return str(answer.read().decode())


def test_start_makes_a_loop_in_its_thread() -> None:
    app = Lived()
    server = Server("127.0.0.1", 0)
    server.asgi("/", app)
    for _ in range(2):
        server.start()
        assert read(server) == "{'name': 'ours', 'more': 1}"
        server.stop()
    assert app.events == ["startup", "request", "shutdown"] * 2


def test_run_makes_a_loop() -> None:
    app = Lived()
    server = Server("127.0.0.1", 0)
    server.asgi("/", app)
    ready = threading.Event()
    server.call_later(0, ready.set)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(DEADLINE)
    assert read(server) == "{'name': 'ours', 'more': 1}"
    server.stop()
    thread.join(DEADLINE)
    assert app.events == ["startup", "request", "shutdown"]


def test_callbacks_may_be_async_beside_an_application() -> None:
    server = Server("127.0.0.1", 0)
    server.asgi("/app", answering())

    @server.http("/")
    async def page(request: Any) -> str:
        await asyncio.sleep(0)
        return "page"

    server.start()
    assert read(server) == "page"
    server.stop()


def test_loop_of_another_kind_cannot_await_them() -> None:
    server = Server("127.0.0.1", 0)
    server.asgi("/", answering())
    with pytest.raises(InvalidState, match=r"await server\.serve_async\(\)"):
        server.poll()
    server.stop()
    plain = Server("127.0.0.1", 0)
    plain.start()
    with pytest.raises(InvalidState, match="is async"):
        plain.asgi("/", answering())
    plain.stop()


def test_application_may_be_added_while_the_server_runs() -> None:
    app = Lived()
    with Served(answering(), "/old") as served:
        served.turn(2)
        served.server.asgi("/new", app)
        assert get(served, "/new").text == "{'name': 'ours', 'more': 1}"
