"""Real frameworks on a real port, with real clients."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from command_line import serving
from harness import DEADLINE

import simple_ws
from simple_ws import HandshakeRefused, Server

# Here, because it reads the annotations of its functions when they are added.
try:
    import fastapi
except ModuleNotFoundError:
    fastapi = None  # type: ignore[assignment]

needs_fastapi = pytest.mark.skipif(fastapi is None, reason="FastAPI is not installed")


@contextmanager
def served(app: Any, prefix: str = "/") -> Iterator[Server]:
    server = Server("127.0.0.1", 0)
    server.asgi(prefix, app)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def fetch(
    server: Server | Address, path: str, data: bytes | None = None
) -> tuple[int, bytes]:
    url = f"http://127.0.0.1:{server.port}{path}"
    request = urllib.request.Request(url, data)
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def dial(server: Server | Address, path: str, **options: Any) -> Any:
    return simple_ws.connect(f"ws://127.0.0.1:{server.port}{path}", **options)


# --- FastAPI, Starlette ---------------------------------------------------------------


def fastapi_app(folder: Path) -> Any:
    from fastapi.staticfiles import StaticFiles
    from starlette.responses import StreamingResponse

    done: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
        yield {"name": "ours"}
        done.append("end")

    app = fastapi.FastAPI(lifespan=lifespan)
    app.state.done = done

    async def token(x: int = 0) -> int:
        return x + 1

    async def items(request: fastapi.Request, y: int = fastapi.Depends(token)) -> Any:
        return {"y": y, "name": request.state.name}

    def blocking() -> dict[str, str]:
        return {"in": "a thread"}

    async def sum_of(request: fastapi.Request) -> Any:
        return sum(await request.json())

    async def later(tasks: fastapi.BackgroundTasks) -> str:
        tasks.add_task(done.append, "background")
        return "sent"

    async def stream() -> Any:
        async def pieces() -> AsyncIterator[str]:
            for number in range(3):
                yield f"data: {number}\n\n"

        return StreamingResponse(pieces(), media_type="text/event-stream")

    async def broken() -> None:
        raise ValueError("what went wrong")

    async def chat(websocket: fastapi.WebSocket, room: str) -> None:
        if room == "closed":
            await websocket.close(4000)
            return
        await websocket.accept(subprotocol="chat", headers=[(b"x-room", b"1")])
        try:
            while True:
                text = await websocket.receive_text()
                await websocket.send_json({"room": room, "text": text})
        except fastapi.WebSocketDisconnect as end:
            done.append(f"left {end.code}")

    async def denied(websocket: fastapi.WebSocket) -> None:
        raise fastapi.HTTPException(402, "pay first")

    for path, function in (("/items", items), ("/blocking", blocking)):
        app.get(path)(function)
    for path, function in (("/stream", stream), ("/later", later), ("/broken", broken)):
        app.get(path)(function)
    app.post("/sum")(sum_of)
    app.websocket("/chat/{room}")(chat)
    app.websocket("/denied")(denied)
    folder.joinpath("a.txt").write_text("a" * 200_000)
    app.mount("/files", StaticFiles(directory=folder))
    return app


@needs_fastapi
def test_fastapi_answers_requests(tmp_path: Path) -> None:
    app = fastapi_app(tmp_path)
    with served(app, "/api") as server:
        status, data = fetch(server, "/api/items?x=1")
        assert (status, json.loads(data)) == (200, {"y": 2, "name": "ours"})
        assert fetch(server, "/api/items?x=a")[0] == 422
        assert json.loads(fetch(server, "/api/blocking")[1]) == {"in": "a thread"}
        assert (
            fetch(server, "/api/sum", json.dumps([1] * 50_000).encode())[1] == b"50000"
        )
        assert fetch(server, "/api/stream")[1] == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
        assert fetch(server, "/api/files/a.txt")[1] == b"a" * 200_000
        assert fetch(server, "/api/later")[1] == b'"sent"'
        assert fetch(server, "/api/broken")[0] == 500
        assert fetch(server, "/api/nothing")[0] == 404
    assert app.state.done == ["background", "end"]


@needs_fastapi
def test_fastapi_has_our_websockets(tmp_path: Path) -> None:
    app = fastapi_app(tmp_path)
    with served(app) as server:
        with dial(server, "/chat/blue", subprotocols=["chat"]) as client:
            assert client.subprotocol == "chat"
            for text in ("one", "two"):
                client.send(text)
                assert json.loads(client.recv()) == {"room": "blue", "text": text}
        for path, status in (("/chat/closed", 403), ("/denied", 402), ("/no", 403)):
            with pytest.raises(HandshakeRefused) as refused:
                dial(server, path)
            assert refused.value.status == status
    assert app.state.done[0] == "left 1000"


@needs_fastapi
def test_client_of_websockets_talks_to_fastapi(tmp_path: Path) -> None:
    sync = pytest.importorskip("websockets.sync.client")
    with served(fastapi_app(tmp_path)) as server:
        url = f"ws://127.0.0.1:{server.port}/chat/red"
        with sync.connect(url, subprotocols=["chat"]) as client:
            client.send("a" * 100_000)
            assert len(json.loads(client.recv())["text"]) == 100_000
            assert client.response.headers["x-room"] == "1"


# --- Quart ----------------------------------------------------------------------------


def test_quart() -> None:
    quart = pytest.importorskip("quart")
    app = quart.Quart(__name__)
    events = []

    @app.before_serving
    async def begin() -> None:
        events.append("begin")

    @app.after_serving
    async def end() -> None:
        events.append("end")

    @app.post("/echo")
    async def echo() -> Any:
        return await quart.request.get_data()

    @app.websocket("/ws")
    async def ws() -> None:
        while True:
            await quart.websocket.send(await quart.websocket.receive())

    with served(app) as server:
        assert fetch(server, "/echo", b"x" * 100_000) == (200, b"x" * 100_000)
        with dial(server, "/ws") as client:
            client.send("hello")
            assert client.recv() == "hello"
        with pytest.raises(HandshakeRefused):
            dial(server, "/nothing")
    assert events == ["begin", "end"]


# --- Django and Channels --------------------------------------------------------------


class Address(NamedTuple):
    """Where a server of another process is."""

    port: int


def test_django_and_channels() -> None:
    """In a process of its own: settings of Django are for ever."""
    pytest.importorskip("django")
    pytest.importorskip("channels")
    program = ("asgi", "django_site:application", "--port", "0")
    with serving(*program, cwd=Path(__file__).parent) as (_, url):
        port = urlsplit(url).port
        assert port is not None
        server = Address(port)
        assert fetch(server, "/page") == (200, b"GET /page 0")
        assert fetch(server, "/page", b"x" * 70_000) == (200, b"POST /page 70000")
        assert fetch(server, "/nothing")[0] == 404
        with dial(server, "/chat") as one, dial(server, "/chat") as other:
            one.send("hello")
            assert one.recv() == other.recv() == "hello"
