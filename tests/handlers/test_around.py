"""Middlewares that stand around all that is done for one event, and see its errors."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from simple_ws import (
    AuthenticationError,
    HandshakeRefused,
    Middleware,
    Response,
    Server,
    WebSocket,
    in_thread,
)
from simple_ws.testing import TestServer


class Replying(WebSocket):
    """Replies; the text "raise" raises."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__()
        self.heard = heard

    def note(self, what: str) -> None:
        self.heard.append(what)

    def on_request(self, request: Any) -> None:
        self.note("request")

    def on_open(self, client: Any) -> None:
        self.note("open")

    def on_message(self, msg: Any, client: Any) -> Any:
        self.note(f"message {msg}")
        if msg == "raise":
            raise ValueError("of the test")
        return None if msg == "quiet" else f"reply to {msg}"

    def on_close(self, client: Any) -> None:
        self.note("close")

    def on_error(self, error: Exception, client: Any) -> None:
        self.note(f"error {error}")


class Later(Replying):
    """The same in coroutines that wait."""

    async def on_message(self, msg: Any, client: Any) -> Any:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().on_message(msg, client)


class InThread(Replying):
    on_message = in_thread(Replying.on_message)  # type: ignore[assignment]


class Around(Middleware):
    def __init__(self, name: str, heard: list[str]) -> None:
        self.name, self.heard = name, heard

    def around(self, call: Any) -> Any:
        self.heard.append(f"{self.name} before {call.name} of {call.handler}")
        try:
            return call()
        finally:
            self.heard.append(f"{self.name} after {call.name}")


class AsyncAround(Around):
    async def around(self, call: Any) -> Any:
        self.heard.append(f"{self.name} before {call.name} of {call.handler}")
        try:
            return await call()
        finally:
            self.heard.append(f"{self.name} after {call.name}")


def serving(handler: WebSocket, *middlewares: Middleware) -> TestServer:
    server = Server("127.0.0.1", 0)
    server.mount("*", handler)
    for middleware in middlewares:
        server.use(middleware)
    return TestServer(server)


def events(name: str, inside: str) -> list[str]:
    """What two middlewares and a handler note of one event."""
    return [
        f"a before {name} of Replying",
        f"b before {name} of Replying",
        inside,
        f"b after {name}",
        f"a after {name}",
    ]


def test_it_stands_around_each_event_the_first_outermost() -> None:
    heard: list[str] = []
    with serving(Replying(heard), Around("a", heard), Around("b", heard)) as server:
        client = server.connect()
        client.send("x")
        assert client.recv() == "reply to x"
        client.close()
    assert heard == [
        *events("on_request", "request"),
        *events("on_open", "open"),
        *events("on_message", "message x"),
        *events("on_close", "close"),
    ]


@pytest.mark.parametrize("kind", [Replying, Later, InThread])
def test_coroutine_awaits_whatever_is_inside(kind: type[Replying]) -> None:
    heard: list[str] = []
    around, inner = AsyncAround("a", heard), AsyncAround("b", heard)
    with serving(kind(heard), around, inner) as server:
        client = server.connect()
        heard.clear()
        client.send("x")
        assert client.recv() == "reply to x"
        expected = events("on_message", "message x")
        assert heard == [line.replace("Replying", kind.__name__) for line in expected]


@pytest.mark.parametrize("kind", [Around, AsyncAround])
@pytest.mark.parametrize("handler", [Replying, Later])
def test_exceptions_pass_and_reach_the_handler(
    kind: type[Around], handler: type[Replying]
) -> None:
    heard: list[str] = []
    seen: list[Exception] = []

    class Catching(kind):  # type: ignore[misc, valid-type]
        def on_error(self, error: Exception, client: Any) -> None:
            seen.append(error)
            self.heard.append("told")

    with serving(handler(heard), Catching("a", heard)) as server:
        client = server.connect()
        heard.clear()
        client.send("raise")
        client.send("quiet")
        client.assert_open()
    assert [str(error) for error in seen] == ["of the test"]
    told = heard.index("told")
    assert heard[told + 1] == "error of the test"
    # As a plain function it is over when a coroutine of the handler begins to wait.
    if handler is Replying or kind is AsyncAround:
        assert heard[1:told] == ["message raise", "a after on_message"]


def test_reply_may_be_replaced_and_the_event_left_out() -> None:
    class Censoring(Middleware):
        def around(self, call: Any) -> Any:
            if call.name == "on_message" and call.args[0] == "forbidden":
                return "not here"
            reply = call()
            return reply.upper() if call.name == "on_message" else reply

    heard: list[str] = []
    with serving(Replying(heard), Censoring()) as server:
        client = server.connect()
        client.send("forbidden")
        client.send("x")
        assert client.recv() == "not here"
        assert client.recv() == "REPLY TO X"
        assert "message forbidden" not in heard


def test_request_may_be_refused() -> None:
    class Closed(Middleware):
        async def around(self, call: Any) -> Any:
            if call.name == "on_request":
                assert call.client is None
                return Response(503, "later " + call.request.path)
            return await call()

    with serving(Replying([]), Closed()) as server:
        with pytest.raises(HandshakeRefused) as refused:
            server.connect("/a")
        assert (refused.value.status, refused.value.body) == (503, b"later /a")


@pytest.mark.parametrize("awaits", [False, True])
def test_forgotten_return_is_an_error(awaits: bool, caplog: Any) -> None:
    class Forgetful(Middleware):
        def around(self, call: Any) -> Any:
            call()

    class AsyncForgetful(Middleware):
        async def around(self, call: Any) -> Any:
            await call()

    middleware = AsyncForgetful() if awaits else Forgetful()
    heard: list[str] = []
    with serving(Replying(heard), middleware) as server:
        client = server.connect()
        client.send("quiet")  # nothing is lost
        client.send("x")
        client.assert_open()
    (error,) = (line for line in heard if line.startswith("error"))
    assert f"{type(middleware).__name__}.around returned None" in error
    assert "for on_message" in error


def test_context_variables_reach_the_callback() -> None:
    current = contextvars.ContextVar("current", default="nothing")

    class Span(Middleware):
        async def around(self, call: Any) -> Any:
            current.set(call.name)
            return await call()

    class Reading(WebSocket):
        async def on_message(self, msg: Any, client: Any) -> Any:
            await asyncio.sleep(0)
            return current.get()

    with serving(Reading(), Span()) as server:
        client = server.connect()
        client.send("x")
        assert client.recv() == "on_message"
    assert current.get() == "nothing"


def test_coroutine_needs_a_loop_that_awaits_it() -> None:
    server = Server("127.0.0.1", 0)
    server.mount("/", WebSocket())
    server.use(AsyncAround("a", []))
    with pytest.raises(Exception, match=r"AsyncAround\.around is async"):
        server.start()


class TestErrors:
    class Telling(Middleware):
        def __init__(self) -> None:
            self.told: list[tuple[str, Any]] = []

        def on_error(self, error: Exception, client: Any) -> Any:
            self.told.append((str(error), client))

    @pytest.mark.parametrize("name", ["on_open", "on_message", "on_close", "on_ping"])
    def test_each_callback_is_told_of(self, name: str) -> None:
        def fail(*args: Any) -> None:
            raise ValueError(name)

        handler, telling = Replying([]), self.Telling()
        setattr(handler, name, fail)
        with serving(handler, telling) as server:
            client = server.connect()
            client.send("quiet")
            client.ping()
            client.close()
        assert [error for error, _ in telling.told] == [name]

    def test_refusals_on_purpose_are_not_told(self) -> None:
        class Strict(WebSocket):
            def on_message(self, msg: Any, client: Any) -> None:
                raise AuthenticationError("who are you?")

        telling = self.Telling()
        with serving(Strict(), telling) as server:
            client = server.connect()
            client.send("x")
            client.assert_closed(1008)
        assert telling.told == []

    def test_one_that_fails_is_logged_and_the_rest_is_done(self, caplog: Any) -> None:
        class Failing(Middleware):
            def on_error(self, error: Exception, client: Any) -> None:
                raise KeyError("in on_error")

        heard: list[str] = []
        telling = self.Telling()
        tested = serving(Replying(heard), Failing(), telling)
        tested._raises = False
        with tested as server:
            client = server.connect()
            client.send("raise")
            client.assert_open()
        assert "on_error of Failing failed" in caplog.text
        assert [error for error, _ in telling.told] == ["of the test"]
        assert "error of the test" in heard

    def test_it_may_be_a_coroutine(self) -> None:
        class Later(Middleware):
            def __init__(self) -> None:
                self.told: list[str] = []

            async def on_error(self, error: Exception, client: Any) -> None:
                await asyncio.sleep(0)
                self.told.append(str(error))

        heard: list[str] = []
        later = Later()
        with serving(Replying(heard), later) as server:
            client = server.connect()
            client.send("raise")
            client.send("x")
            assert client.recv() == "reply to x"
        assert later.told == ["of the test"]
        assert heard.index("error of the test") < heard.index("message x")
