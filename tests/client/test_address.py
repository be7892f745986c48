"""The address of a client's server, as a string or from a function."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from client_harness import scripted, server_close, server_frame
from harness import DEADLINE, TEXT

import simple_ws
from simple_ws import aio
from simple_ws.errors import ConnectError, ConnectTimeout, InvalidURI


def greet(server: Any) -> None:
    server.accept(then=server_frame(TEXT, "hello"))
    server.read_close()
    server.write(server_close(1000))


def test_function_is_asked_for_the_address(face: Any) -> None:
    with scripted(greet) as server, face.connect(lambda: f"{server.url}?t=1") as ws:
        assert ws.recv() == "hello"
        assert ws.url.endswith("/?t=1")


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (None, TypeError, r"answer\(\) must return the url as a str, not NoneType"),
        (b"ws://h/?SECRET", TypeError, "not bytes"),
        ("ftp://h/?SECRET", InvalidURI, "the scheme must be ws or wss"),
    ],
)
def test_wrong_answer_is_named(face: Any, answer: Any, error: Any, said: str) -> None:
    def give() -> Any:
        return answer

    give.__qualname__ = "answer"
    with pytest.raises(error, match=said) as caught:
        face.connect(give)
    assert "SECRET" not in str(caught.value)


def test_failure_of_the_network_is_a_failed_attempt(face: Any) -> None:
    def fetch() -> str:
        raise ConnectionRefusedError("https://tokens/?SECRET")

    with pytest.raises(ConnectError, match="no address: ConnectionRefused") as it:
        face.connect(fetch)
    assert isinstance(it.value.__cause__, ConnectionRefusedError)
    assert "SECRET" not in str(it.value)


def test_other_failures_come_out(face: Any) -> None:
    def fetch() -> str:
        raise KeyError("token")

    with pytest.raises(KeyError, match="token"):
        face.connect(fetch)


@pytest.mark.parametrize("options", [{"ssl": True}, {"server_hostname": "h"}])
def test_options_of_tls_are_for_wss(face: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"for wss addresses, not for ws://h/\?t=\*"):
        face.connect(lambda: "ws://h/?t=1", **options)


@pytest.mark.parametrize("connect", [simple_ws.connect, aio.connect])
def test_what_is_neither_is_refused(connect: Any) -> None:
    with pytest.raises(TypeError, match="url must be a str"):
        connect(None)
    with pytest.raises(TypeError, match="unknown option 'x'"):
        connect(lambda: "ws://h/", x=1)


def test_async_function_is_for_asyncio() -> None:
    async def fetch() -> str:
        return "ws://h/"

    with pytest.raises(TypeError, match=r"is for `simple_ws\.aio\.connect`"):
        simple_ws.connect(fetch)  # type: ignore[arg-type]  # on purpose


def run(main: Callable[[], Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main(), DEADLINE))


def test_each_attempt_asks_anew() -> None:
    asked: list[int] = []

    async def fetch() -> str:
        asked.append(len(asked))
        await asyncio.sleep(0)
        if len(asked) == 2:
            raise TimeoutError
        return f"{server.url}?after={len(asked)}"

    async def main() -> None:
        backoff = aio.Backoff(random=lambda: 0.0)
        async for ws in aio.connect(fetch, backoff=backoff):
            assert await ws.recv() == "hello"
            # Not left to the end of the iteration, which the end of the loop cancels.
            await ws.close()
            if len(asked) == 3:
                break

    with scripted(greet, greet) as server:
        run(main)
    targets = [head.split(" ")[1] for head in server.heads]
    assert targets == ["/?after=1", "/?after=3"]


def test_function_that_does_not_answer_is_a_time_out() -> None:
    async def fetch() -> str:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def main() -> None:
        await aio.connect(fetch, open_timeout=0.001)

    with pytest.raises(ConnectTimeout, match=r"returned no address within 0\.001 s"):
        run(main)


def test_default_context_is_made_once_and_in_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from simple_ws.client import default_tls

    default_tls._make.cache_clear()
    made_on: list[bool] = []
    make = ssl.create_default_context

    def watched() -> ssl.SSLContext:
        try:
            asyncio.get_running_loop()
            made_on.append(True)
        except RuntimeError:
            made_on.append(False)
        return make()

    monkeypatch.setattr(ssl, "create_default_context", watched)

    async def main() -> None:
        for _ in range(3):
            with pytest.raises(ConnectError):
                await aio.connect("wss://127.0.0.1:1/", proxy=None)

    run(main)
    with pytest.raises(ConnectError):
        simple_ws.connect("wss://127.0.0.1:1/", proxy=None)
    assert made_on == [False]
    context = default_tls.default_context()
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    monkeypatch.setenv("SSL_CERT_FILE", "/another")
    assert default_tls.default_context() is not context
    default_tls._make.cache_clear()
