"""Middlewares: their order, dropped and changed messages, errors; ready-made ones."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from abc import ABCMeta
from collections.abc import Callable
from typing import Any

import pytest
from harness import (
    DEADLINE,
    TEXT,
    Driven,
    Echo,
    Peer,
    Recorder,
    frame,
    open_peer,
    request,
    running,
)
from hypothesis import given
from hypothesis import strategies as st
from programs import until

from simple_ws import (
    AuthenticationError,
    Client,
    FirstMessageAuth,
    HandshakeError,
    InvalidData,
    InvalidState,
    JSONMessages,
    Middleware,
    Radio,
    Response,
    SendStatus,
    Server,
    WebSocket,
    in_thread,
)
from simple_ws.testing import TestServer

METHODS = {
    "on_use": "server",
    "on_request": "request",
    "on_open": "client",
    "on_first_message": "msg, client",
    "on_message": "msg, client",
    "on_send": "msg, client",
    "on_close": "client",
}


class Noting(Middleware):
    """Notes what it sees, with its name, in a list that several share."""

    def __init__(self, name: str, heard: list[str]) -> None:
        self.name = name
        self.heard = heard

    def note(self, what: str) -> None:
        self.heard.append(f"{self.name} {what}")

    def on_request(self, request: Any) -> Any:
        self.note("request")

    def on_open(self, client: Any) -> Any:
        self.note("open")

    def on_first_message(self, msg: Any, client: Any) -> Any:
        self.note(f"first {msg}")
        return msg

    def on_message(self, msg: Any, client: Any) -> Any:
        self.note(f"message {msg}")
        return f"{msg}{self.name}"

    def on_send(self, msg: Any, client: Any) -> Any:
        self.note(f"send {msg}")
        return f"{msg}{self.name}"

    def on_close(self, client: Any) -> Any:
        self.note("close")


class Noted(WebSocket):
    """A handler that notes in the same list, and echoes."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__()
        self.heard = heard

    def on_request(self, request: Any) -> Any:
        self.heard.append("H request")

    def on_open(self, client: Any) -> None:
        self.heard.append("H open")

    def on_message(self, msg: Any, client: Any) -> Any:
        self.heard.append(f"H message {msg}")
        return msg

    def on_close(self, client: Any) -> None:
        self.heard.append("H close")


def answered(driven: Driven, path: str = "/") -> tuple[int, str]:
    """Status and text of a refusal."""
    peer = driven.join()
    peer.write(request(path))
    text = peer.read_rest().decode()
    return int(text.split()[1]), text


def using(driven: Driven, *middlewares: Middleware) -> Driven:
    for middleware in middlewares:
        driven.server.use(middleware)
    return driven


# --- What is a middleware ------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [None, Middleware, JSONMessages, WebSocket(), lambda msg, client: msg, "m"]
)
def test_only_instances_of_middleware_are_used(wrong: Any) -> None:
    with pytest.raises(TypeError, match="must be an instance of Middleware, not"):
        Server().use(wrong)


@pytest.mark.parametrize("name", METHODS)
def test_method_of_a_wrong_signature_is_refused_when_it_is_used(name: str) -> None:
    server = Server()
    for method in (lambda self: None, lambda self, a, b, c: None, 5):
        wrong = type("Wrong", (Middleware,), {name: method})()
        with pytest.raises(TypeError, match=rf"Wrong\.{name} must be a function of"):
            server.use(wrong)
    assert not server._middlewares


@pytest.mark.parametrize("name", ["on_use", "on_send"])
def test_what_cannot_be_waited_for_must_not_be_async(name: str) -> None:
    async def method(self: Any, *args: Any) -> None: ...

    with pytest.raises(TypeError, match=rf"Late\.{name} must not be async"):
        Server().use(type("Late", (Middleware,), {name: method})())


def test_use_returns_the_middleware_and_takes_it_once() -> None:
    server, middleware = Server(), JSONMessages()
    assert server.use(middleware) is middleware
    with pytest.raises(InvalidState, match="JSONMessages is in use already"):
        server.use(middleware)
    server.use(JSONMessages())  # another one is another one
    Server().use(middleware)


def test_on_use_that_raises_keeps_it_out() -> None:
    class Picky(Middleware):
        def on_use(self, server: Any) -> None:
            raise InvalidState("not here")

    server = Server()
    with pytest.raises(InvalidState, match="not here"):
        server.use(Picky())
    assert not server._middlewares


def test_on_use_is_told_the_server() -> None:
    told: list[Any] = []

    class Curious(Middleware):
        def on_use(self, server: Any) -> None:
            told.append(server)

    server = Server()
    server.use(Curious())
    assert told == [server]


def test_plain_functions_may_be_put_in_place_of_methods_before_it_is_used() -> None:
    middleware = Middleware()
    middleware.on_message = lambda msg, client: f"in {msg}"  # type: ignore[method-assign]
    middleware.on_send = lambda msg, client: f"out {msg}"  # type: ignore[method-assign]
    with using(Driven(Echo()), middleware) as driven:
        peer = driven.open()
        peer.text("x")
        assert peer.read_message() == "out in x"
        middleware.on_message = lambda msg, client: f"new {msg}"  # type: ignore[method-assign]
        middleware.on_send = lambda msg, client: f"now {msg}"  # type: ignore[method-assign]
        peer.text("x")
        assert peer.read_message() == "now new x"


# --- Order ---------------------------------------------------------------------------


def test_in_order_in_and_in_reverse_order_out() -> None:
    heard: list[str] = []
    with Driven() as driven:
        driven.server.mount("/noted", Noted(heard))
        using(driven, Noting("A", heard), Noting("B", heard))
        peer = driven.open("/noted")
        assert heard == ["A request", "B request", "H request"] + [
            f"{name} open" for name in "ABH"
        ]
        heard.clear()
        peer.text("1")
        assert peer.read_message() == "1ABBA"
        assert heard == [
            "A first 1",
            "A message 1",
            "B first 1A",
            "B message 1A",
            "H message 1AB",
            "B send 1AB",
            "A send 1ABB",
        ]
        heard.clear()
        peer.text("2")
        assert peer.read_message() == "2ABBA"
        assert heard == [
            "A message 2",
            "B message 2A",
            "H message 2AB",
            "B send 2AB",
            "A send 2ABB",
        ]
        heard.clear()
        peer.leave()
        assert heard == ["H close", "B close", "A close"]


def test_middleware_that_does_nothing_changes_nothing() -> None:
    with using(Driven(Echo()), Middleware(), Middleware()) as driven:
        peer = driven.open()
        peer.text("x")
        peer.send(2, b"y")
        peer.send(9, "z")
        assert [peer.read_message(), peer.read_message()] == ["x", b"y"]
        assert peer.read_frame() == (0x8A, b"z")
        assert driven.server.broadcast("all") == 1
        assert peer.read_message() == "all"
        assert peer.leave(4000, "bye") == (4000, "")
        assert driven.handler.names == ["open", "message", "message", "ping", "close"]
        assert type(driven.handler.client()) is Client


def test_middleware_holds_for_all_paths_and_function_handlers() -> None:
    heard: list[str] = []
    with using(Driven(Echo()), Noting("A", heard)) as driven:
        driven.server.route("/f")(lambda msg, client: f"f {msg}")
        for path, answer in (("/", "xAA"), ("/f", "f xAA"), ("/g", "xAA")):
            peer = driven.open(path)
            peer.text("x")
            assert peer.read_message() == answer


def test_first_message_is_of_each_client() -> None:
    heard: list[str] = []
    with using(Driven(Echo()), Noting("A", heard)) as driven:
        for name in ("x", "y"):
            peer = driven.open()
            for _ in range(2):
                peer.text(name)
                peer.read_message()
        assert [line for line in heard if "first" in line] == ["A first x", "A first y"]


def test_options_and_other_callbacks_of_the_handler_stay() -> None:
    handler = Recorder(max_size=5, subprotocols=["chat"])
    handler.select_subprotocol = lambda offered: offered[-1]  # type: ignore[method-assign]
    with using(Driven(handler), Noting("A", [])) as driven:
        peer = driven.open("/", "Sec-WebSocket-Protocol: a, b")
        client = handler.client()
        assert client.subprotocol == "b"
        peer.send(9, "p")
        assert peer.read_frame() == (0x8A, b"p")
        client.ping("q")
        assert peer.read_frame() == (0x89, b"q")
        peer.send(10, "q")
        peer.text("123456")
        assert peer.read_close()[0] == 1009
        assert handler.names == ["open", "ping", "pong", "close"]


# --- on_request ----------------------------------------------------------------------


class Answering(Noting):
    """Answers a request with what it is given, or raises it."""

    def __init__(self, name: str, heard: list[str], answer: Any) -> None:
        super().__init__(name, heard)
        self.answer = answer

    def on_request(self, request: Any) -> Any:
        super().on_request(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_first_response_refuses_and_nobody_else_is_asked() -> None:
    heard: list[str] = []
    with Driven(Noted(heard)) as driven:
        using(
            driven,
            Noting("A", heard),
            Answering("B", heard, Response(403, "not you")),
            Noting("C", heard),
        )
        status, text = answered(driven)
        assert (status, text.endswith("not you")) == (403, True)
        assert heard == ["A request", "B request"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (AuthenticationError("no such user"), 401),
        (HandshakeError(418, "tea only"), 418),
        (ZeroDivisionError("oops"), 500),
    ],
)
def test_on_request_of_a_middleware_may_raise_like_that_of_a_handler(
    error: Exception, status: int
) -> None:
    heard: list[str] = []
    with using(Driven(Noted(heard)), Answering("A", heard, error)) as driven:
        assert answered(driven)[0] == status
        assert heard == ["A request"]


@pytest.mark.parametrize(
    ("answers", "handlers", "session"),
    [
        ([{"a": 1}, None], None, {"a": 1}),
        ([{"a": 1}, {"b": 2}], None, {"b": 2}),
        ([{"a": 1}, None], {"h": 3}, {"h": 3}),
        ([None, None], None, {}),
        (["", None], None, ""),
    ],
)
def test_last_session_that_was_given_counts(
    answers: list[Any], handlers: Any, session: Any
) -> None:
    handler = Recorder()
    handler.on_request = lambda request: handlers  # type: ignore[method-assign]
    with Driven(handler) as driven:
        using(driven, *(Answering("M", [], answer) for answer in answers))
        driven.open()
        assert handler.client().session == session


# --- STOP ----------------------------------------------------------------------------


class Stopping(Noting):
    """Stops at one place what it is told to."""

    def __init__(self, name: str, heard: list[str], place: str) -> None:
        super().__init__(name, heard)
        setattr(self, place, self.stop)

    def stop(self, msg: Any, client: Any) -> Any:
        self.note(f"stop {msg}")
        return self.STOP if "stop" in msg else msg


@pytest.mark.parametrize("place", ["on_first_message", "on_message"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_message_that_is_stopped_goes_no_further_in(place: str, index: int) -> None:
    heard: list[str] = []
    middlewares: list[Middleware] = [Noting(name, heard) for name in "ABC"]
    middlewares[index] = Stopping("ABC"[index], heard, place)
    with using(Driven(Noted(heard)), *middlewares) as driven:
        peer = driven.open()
        heard.clear()
        peer.text("stop")
        driven.turn(2)
        assert peer.nothing_waits()
        names = [line.split()[0] for line in heard]
        assert set(names) == set("ABC"[: index + 1])
        assert heard[-1].startswith(f"{'ABC'[index]} stop stop")
        heard.clear()
        peer.text("go")
        peer.read_message()
        assert any(line.startswith("H message go") for line in heard)
        # It is the first that came as far as those behind.
        firsts = {line.split()[0] for line in heard if line.split()[1] == "first"}
        assert firsts == set("ABC"[index + 1 :])


@pytest.mark.parametrize("index", [0, 1, 2])
def test_message_that_is_stopped_on_the_way_out_is_not_sent(index: int) -> None:
    heard: list[str] = []
    middlewares: list[Middleware] = [Noting(name, heard) for name in "ABC"]
    middlewares[index] = Stopping("ABC"[index], heard, "on_send")
    with using(Driven(), *middlewares) as driven:
        peer = driven.open()
        client = driven.handler.client()
        heard.clear()
        assert client.write_message("stop") is SendStatus.DROPPED
        assert not client.send("stop")
        assert driven.server.broadcast("stop") == 0
        assert {line.split()[0] for line in heard} == set("ABC"[index:])
        assert driven.server.broadcast("go") == 1
        assert str(peer.read_message()).startswith("go")
        assert client.is_open()


def test_stop_is_one_object_and_every_middleware_has_it() -> None:
    assert Middleware.STOP is JSONMessages.STOP is Noting("A", []).STOP
    assert Middleware.STOP is not None
    assert bool(Middleware.STOP)


# --- Forgotten returns ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["on_message", "on_first_message"])
def test_method_that_forgets_to_return_the_message_is_named(
    name: str, caplog: Any
) -> None:
    forgetful = type("Forgetful", (Middleware,), {name: lambda self, msg, client: None})
    with using(Driven(Recorder()), forgetful()) as driven:
        peer = driven.open()
        peer.text("x")
        assert peer.read_close() == (1011, "the handler failed")
        assert "message" not in driven.handler.names
        (error,) = driven.handler.of("error")
        assert isinstance(error, TypeError)
        assert str(error) == (
            f"Forgetful.{name} returned None; it must return the message, another one, "
            "or Middleware.STOP"
        )


def test_on_send_that_forgets_to_return_the_message_is_named_to_who_sends() -> None:
    class Forgetful(Middleware):
        def on_send(self, msg: Any, client: Any) -> Any:
            pass

    with using(Driven(), Forgetful()) as driven:
        driven.open()
        client = driven.handler.client()
        for call in (client.write_message, driven.server.broadcast):
            with pytest.raises(TypeError, match=r"Forgetful\.on_send returned None"):
                call("x")
        assert client.is_open()


def test_none_that_json_made_goes_through_those_behind() -> None:
    class Looking(Middleware):
        def on_message(self, msg: Any, client: Any) -> Any:
            return msg

    heard: list[Any] = []
    handler = WebSocket()
    handler.on_message = lambda msg, client: heard.append(msg)  # type: ignore[method-assign]
    with using(Driven(handler), JSONMessages(), Looking()) as driven:
        driven.open().text("null")
        driven.until(lambda: heard)
        assert heard == [None]


# --- on_send -------------------------------------------------------------------------


class Wrapping(Middleware):
    """Puts what is sent into brackets; notes the threads that sent."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def on_send(self, msg: Any, client: Any) -> Any:
        self.threads.append(threading.get_ident())
        return f"[{msg}]"


def test_on_send_sees_whatever_is_sent_to_a_client_once() -> None:
    with using(Driven(Echo()), Wrapping()) as driven:
        peer = driven.open()
        client = driven.handler.client()
        client.subscribe("t")
        client.bind("me")
        assert client.write_message("a") is SendStatus.SENT
        assert client.send("b") is SendStatus.SENT
        assert driven.server.broadcast("c") == 1
        assert driven.server.publish("t", "d") == 1
        assert driven.server.deliver("t", "e") is client
        assert driven.server.send_to("me", "f") == 1
        peer.text("g")
        assert [peer.read_message() for _ in range(7)] == [
            f"[{letter}]" for letter in "abcdefg"
        ]


def test_on_send_does_not_see_pings_pongs_and_close_frames() -> None:
    wrapping = Wrapping()
    with using(Driven(), wrapping) as driven:
        peer = driven.open()
        client = driven.handler.client()
        client.ping("p")
        peer.send(9, "q")
        assert peer.read_frame() == (0x89, b"p")
        assert peer.read_frame() == (0x8A, b"q")
        client.close(4000, "r")
        assert peer.read_close() == (4000, "r")
        assert wrapping.threads == []


def test_on_send_is_not_asked_for_a_client_that_is_not_open() -> None:
    wrapping = Wrapping()
    with using(Driven(), wrapping) as driven:
        driven.open()
        client = driven.handler.client()
        client.close()
        assert client.write_message("x") is SendStatus.DROPPED
        assert driven.server.broadcast("x") == 0
        assert wrapping.threads == []


def test_binary_is_kept_for_what_on_send_makes() -> None:
    with using(Driven(), Wrapping()) as driven:
        peer = driven.open()
        client = driven.handler.client()
        client.write_message("a", binary=True)
        client.send("b", True)
        assert [peer.read_message(), peer.read_message()] == [b"[a]", b"[b]"]


def test_what_on_send_raises_reaches_who_sends_and_the_client_stays() -> None:
    class Failing(Middleware):
        def on_send(self, msg: Any, client: Any) -> Any:
            raise ZeroDivisionError

    with using(Driven(), Failing()) as driven:
        driven.open()
        client = driven.handler.client()
        for call in (client.write_message, client.send, driven.server.broadcast):
            with pytest.raises(ZeroDivisionError):
                call("x")
        assert client.is_open()


def test_what_on_send_raises_for_an_answer_is_told_to_on_error() -> None:
    class Failing(Middleware):
        def on_send(self, msg: Any, client: Any) -> Any:
            raise ZeroDivisionError

    with using(Driven(Echo()), Failing()) as driven:
        peer = driven.open()
        peer.text("x")
        assert peer.read_close() == (1011, "the handler failed")
        assert isinstance(driven.handler.of("error")[0], ZeroDivisionError)


def test_on_send_may_write_close_and_terminate() -> None:
    class Meddling(Middleware):
        def on_send(self, msg: Any, client: Any) -> Any:
            if msg == "twice":
                client.write_message("once")
            elif msg in ("close", "terminate"):
                getattr(client, msg)()
            return msg

    with using(Driven(), Meddling()) as driven:
        peers = [driven.open() for _ in range(3)]
        clients = list(driven.handler.clients)
        assert clients[0].write_message("twice")
        assert [peers[0].read_message() for _ in range(2)] == ["once", "twice"]
        assert clients[1].write_message("close") is SendStatus.DROPPED
        assert clients[2].write_message("terminate") is SendStatus.DROPPED
        assert peers[1].read_close() == (1000, "")
        assert peers[2].read_rest() == b""
        assert driven.handler.of("close") == [(1006, "terminated", "local")]


def test_on_send_runs_in_the_thread_that_writes() -> None:
    wrapping, handler = Wrapping(), Recorder()
    with running(handler) as server:
        server.use(wrapping)
        with open_peer(server) as peer:
            client = handler.client()
            assert client.write_message("a") is SendStatus.SENT
            server.broadcast("b")
            assert [peer.read_message(), peer.read_message()] == ["[a]", "[b]"]
        assert wrapping.threads[0] == threading.get_ident()
        assert wrapping.threads[1] != threading.get_ident()


def test_order_of_a_thread_is_kept_through_on_send() -> None:
    handler = Recorder(write_limit=2**26)
    with running(handler) as server:
        server.use(Wrapping())
        with open_peer(server) as peer:
            client = handler.client()
            for number in range(100):
                if number % 2:
                    assert client.write_message(str(number))
                else:
                    server.broadcast(str(number))
            assert [peer.read_message() for _ in range(100)] == [
                f"[{number}]" for number in range(100)
            ]


# --- Opening and closing -------------------------------------------------------------


@pytest.mark.parametrize("what", ["raise", "refuse", "fault", "close", "terminate"])
@pytest.mark.parametrize("index", [0, 1])
def test_on_close_comes_once_for_each_on_open_whatever_on_open_does(
    what: str, index: int
) -> None:
    class Bad(Noting):
        def on_open(self, client: Any) -> None:
            super().on_open(client)
            if what == "raise":
                raise ZeroDivisionError
            if what == "refuse":
                raise AuthenticationError("you")
            if what == "fault":
                raise InvalidData("me")
            getattr(client, what)()

    heard: list[str] = []
    middlewares: list[Middleware] = [Noting("A", heard), Noting("B", heard)]
    middlewares[index] = Bad("AB"[index], heard)
    with using(Driven(Noted(heard)), *middlewares) as driven:
        peer = driven.join()
        peer.write(request() + frame(TEXT, "x"))
        peer.end()
        peer.read_rest()
        driven.turn(3)
        heard[:] = heard[3:]
        assert heard == [f"{name} open" for name in "ABH"] + [
            f"{name} close" for name in "HBA"
        ]
        assert not driven.server.clients


@pytest.mark.parametrize("name", ["A", "B", "H"])
def test_on_close_that_raises_keeps_it_from_nobody_else(name: str, caplog: Any) -> None:
    heard: list[str] = []

    def fail(client: Any) -> None:
        heard.append(f"{name} close")
        raise ZeroDivisionError

    handler = Noted(heard)
    middlewares = {key: Noting(key, heard) for key in "AB"}
    bad: Any = middlewares.get(name, handler)
    bad.on_close = fail
    with using(Driven(handler), *middlewares.values()) as driven:
        assert driven.open().leave() == (1000, "")
        assert heard[-3:] == ["H close", "B close", "A close"]
        assert not driven.server.clients
    assert caplog.text.count("a callback failed") == 1


@pytest.mark.parametrize("name", ["on_message", "on_first_message"])
def test_message_method_that_raises_is_told_to_on_error_and_ends_the_client(
    name: str,
) -> None:
    middleware = Noting("A", [])
    setattr(middleware, name, lambda msg, client: 1 / 0)
    with using(Driven(), middleware) as driven:
        peer = driven.open()
        peer.text("x")
        assert peer.read_close() == (1011, "the handler failed")
        peer.end()
        driven.turn(3)
        assert driven.handler.names == ["open", "error", "close"]


def test_middleware_is_used_by_those_who_connect_from_then_on() -> None:
    heard: list[str] = []
    with Driven(Echo()) as driven:
        before = driven.open()
        driven.server.use(Noting("A", heard))
        middle = driven.open()
        driven.server.use(Noting("B", heard))
        after = driven.open()
        for peer, answer in ((before, "x"), (middle, "xAA"), (after, "xABBA")):
            peer.text("x")
            assert peer.read_message() == answer
        assert driven.server.broadcast("y") == 3
        assert [peer.read_message() for peer in (before, middle, after)] == [
            "y",
            "yA",
            "yBA",
        ]
        heard.clear()
        for peer in (before, middle, after):
            peer.leave()
        assert heard == ["A close", "B close", "A close"]


def test_use_by_another_thread_holds_for_whoever_connects_afterwards() -> None:
    class Adding(Middleware):
        def on_message(self, msg: Any, client: Any) -> Any:
            return f"{msg}+"

    with running(Echo()) as server:
        done = threading.Event()

        def visit() -> None:
            while not done.is_set():
                with open_peer(server) as peer:
                    peer.text("")
                    peer.read_message()

        visitor = threading.Thread(target=visit)
        visitor.start()
        try:
            for count in range(1, 16):
                server.use(Adding())
                with open_peer(server) as peer:
                    peer.text("")
                    assert peer.read_message() == "+" * count
        finally:
            done.set()
            visitor.join(DEADLINE)


def test_clients_that_never_speak_are_remembered_no_longer_than_they_are_there() -> (
    None
):
    with using(Driven(WebSocket()), Noting("A", []), JSONMessages()) as driven:
        peers = [driven.open() for _ in range(3)]
        (chain,) = driven.server._run.chains.values()
        reached: dict[Any, int] = chain._reached  # type: ignore[attr-defined]
        assert len(reached) == 3
        peers[0].text("1")
        driven.turn(2)
        assert len(reached) == 2
        watch = weakref.ref(list(driven.handler.clients)[1])
        for peer in peers[1:]:
            peer.leave()
        assert not reached
        driven.advance(60)
        gc.collect()
        assert watch() is None


def test_nobody_is_remembered_once_those_who_ask_for_it_had_a_first_message() -> None:
    with using(Driven(Echo()), Noting("A", []), JSONMessages()) as driven:
        first = driven.server._middlewares[0]
        first.on_message = lambda msg, client: Middleware.STOP  # type: ignore[method-assign]
        driven.open().text("1")
        driven.turn(2)
        (chain,) = driven.server._run.chains.values()
        assert not chain._reached  # type: ignore[attr-defined]


def test_nobody_is_remembered_where_no_first_message_is_asked_for() -> None:
    with using(Driven(Echo()), JSONMessages(), Wrapping()) as driven:
        driven.open()
        (chain,) = driven.server._run.chains.values()
        assert not chain._reached  # type: ignore[attr-defined]


# --- Client classes ------------------------------------------------------------------


class Player(Client):
    """A player."""

    __slots__ = ("score",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.score = 0

    def win(self) -> SendStatus:
        self.score += 1
        return self.write_message(f"score {self.score}")


def test_client_class_stays_what_it_was_for_its_users() -> None:
    handler = Recorder()
    handler.client_class = Player
    with using(Driven(handler), Wrapping()) as driven:
        peer = driven.open()
        client = handler.client()
        assert isinstance(client, Player)
        made = type(client)
        assert (made.__name__, made.__qualname__) == ("Player", Player.__qualname__)
        assert (made.__module__, made.__doc__) == (Player.__module__, "A player.")
        assert repr(client).startswith("<Player ")
        assert client.win() is SendStatus.SENT
        assert peer.read_message() == "[score 1]"
        client.anything = "of the user's own"
        assert client.anything == "of the user's own"


def test_connections_of_one_handler_have_one_class() -> None:
    handler = Recorder()
    with using(Driven(handler), Wrapping()) as driven:
        driven.server.mount("/other", handler)
        for path in ("/", "/", "/other"):
            driven.open(path)
        assert len({type(client) for client in handler.clients}) == 1


@pytest.mark.parametrize("method", ["write_message", "send"])
def test_methods_of_a_client_class_are_asked_as_well(method: str) -> None:
    def shout(self: Any, msg: Any, binary: bool | None = None) -> Any:
        return getattr(super(Shouting, self), method)(msg.upper() + "!", binary)

    Shouting = type("Shouting", (Client,), {method: shout})  # noqa: N806
    handler = Echo()
    handler.client_class = Shouting
    with using(Driven(handler), Wrapping()) as driven:
        peer = driven.open()
        client = handler.client()
        client.write_message("a")
        client.send("b")
        # Middlewares come before `write_message`, and behind `send`, which calls it.
        expected = {"write_message": ["[A]!", "[B]!"], "send": ["[a]", "[B!]"]}[method]
        assert [peer.read_message(), peer.read_message()] == expected


def test_client_class_may_have_a_metaclass() -> None:
    class Meta(ABCMeta):
        def __new__(cls, name: str, bases: Any, space: Any, **kwargs: Any) -> Any:
            assert set(kwargs) <= {"game"}
            return super().__new__(cls, name, bases, space)

        def __init__(cls, name: str, bases: Any, space: Any, **kwargs: Any) -> None:
            super().__init__(name, bases, space)

    class Abstract(Client, metaclass=Meta, game="go"):
        def __init_subclass__(cls, **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)

    handler = Recorder()
    handler.client_class = Abstract
    with using(Driven(handler), Wrapping()) as driven:
        peer = driven.open()
        assert isinstance(handler.client(), Abstract)
        assert isinstance(type(handler.client()), Meta)
        driven.server.broadcast("x")
        assert peer.read_message() == "[x]"


class Final(Client):
    def __init_subclass__(cls, **kwargs: Any) -> None:
        raise TypeError("final")


@pytest.mark.parametrize("client_class", [Final, lambda *args: Client(*args)])
def test_client_class_that_cannot_be_subclassed_is_500_with_a_reason(
    client_class: Any, caplog: Any
) -> None:
    """Never a client that is written to past the middlewares."""
    handler = Recorder()
    handler.client_class = client_class
    with Driven(handler) as driven:
        driven.server.use(Noting("A", []))
        status, text = answered(driven)
        assert (status, "subclassed" in text) == (500, False)
    assert "cannot be subclassed, which middlewares with on_send require" in caplog.text


# --- FirstMessageAuth ----------------------------------------------------------------


def check_token(msg: Any) -> str:
    users = {"t1": "ann", "t2": "bob"}
    if msg not in users:
        raise AuthenticationError(f"no token {msg!r}")
    return users[msg]


def test_first_message_is_for_the_check_and_the_rest_for_the_handler() -> None:
    with using(Driven(Echo()), FirstMessageAuth(check_token)) as driven:
        peers = [driven.open() for _ in range(3)]
        for peer, token in zip(peers, ("t1", "t2", "t1"), strict=True):
            peer.text(token)
            peer.text("t1")  # nothing but a message now
            assert peer.read_message() == "t1"
        clients = list(driven.handler.clients)
        assert [client.client_id for client in clients] == ["ann", "bob", "ann"]
        assert driven.server.send_to("ann", "x") == 2
        assert driven.handler.of("message") == ["t1"] * 3


def test_wrong_credentials_close_with_1008_without_a_hint(caplog: Any) -> None:
    with using(Driven(Echo()), FirstMessageAuth(check_token)) as driven:
        peer = driven.open(then=frame(TEXT, "secret") + frame(TEXT, "t1"))
        assert peer.read_close() == (1008, "authentication failed")
        peer.end()
        driven.turn(3)
        assert driven.handler.names == ["open", "close"]
        assert driven.server.online() == []
    assert "Traceback" not in caplog.text


def test_check_may_want_the_client_and_bytes() -> None:
    def check(msg: Any, client: Any) -> Any:
        client.session["came"] = msg
        client.subscribe("admitted")
        return client.path, bytes(msg)

    with using(Driven(Echo()), FirstMessageAuth(check)) as driven:
        peer = driven.open("/door")
        peer.send(2, b"\x01")
        driven.until(lambda: driven.server.online())
        client = driven.handler.client()
        assert client.client_id == ("/door", b"\x01")
        assert client.session == {"came": b"\x01"}
        assert driven.server.members("admitted") == [client]


def test_check_with_an_argument_to_spare_is_called_with_the_message() -> None:
    users = {"t1": "ann"}

    def check(msg: Any, strict: bool = True) -> Any:
        assert strict is True
        return users[msg]

    for function in (check, users.get, lambda *args: users.get(*args)):
        with using(Driven(Echo()), FirstMessageAuth(function)) as driven:
            driven.open().text("t1")
            driven.until(lambda driven=driven: driven.server.is_online("ann"))


@pytest.mark.parametrize("identity", [None, False, True])
def test_check_that_returns_no_identity_lets_nobody_pass(
    identity: Any, caplog: Any
) -> None:
    with using(Driven(Echo()), FirstMessageAuth(lambda msg: identity)) as driven:
        peer = driven.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
        assert peer.read_close() == (1008, "authentication failed")
        assert driven.server.online() == []
        assert "message" not in driven.handler.names
    assert f"check of FirstMessageAuth returned {identity!r} (" in caplog.text


@pytest.mark.parametrize("identity", [0, "", 7, ("a", 1), frozenset()])
def test_identity_may_be_anything_hashable(identity: Any) -> None:
    with using(Driven(Echo()), FirstMessageAuth(lambda msg: identity)) as driven:
        peer = driven.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
        assert peer.read_message() == "b"
        assert driven.server.online() == [identity]


@pytest.mark.parametrize(
    "check", [lambda msg: 1 / 0, lambda msg: [1], lambda msg: json.loads(msg)["name"]]
)
def test_check_that_fails_is_a_fault_of_the_handler_and_lets_nobody_pass(
    check: Any,
) -> None:
    with using(Driven(Recorder()), FirstMessageAuth(check)) as driven:
        peer = driven.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
        assert peer.read_close() == (1011, "the handler failed")
        assert driven.server.online() == []
        assert driven.handler.names[:2] == ["open", "error"]


def test_on_error_that_forgives_a_failed_check_lets_nobody_pass() -> None:
    def check(msg: Any) -> Any:
        return {"t1": "ann"}[msg]

    handler = Echo()
    handler.on_error = lambda error, client: None  # type: ignore[method-assign]
    with using(Driven(handler), FirstMessageAuth(check)) as driven:
        peer = driven.open(then=frame(TEXT, "x") * 3)
        driven.turn(3)
        assert peer.nothing_waits()
        assert handler.names == ["open"]
        peer.text("t1")
        peer.text("hello")
        assert peer.read_message() == "hello"
        assert driven.server.online() == ["ann"]


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (None, r"check must be a function of \(msg, client\), not None"),
        (lambda: None, r"check must be a function of \(msg, client\), not of \(\)"),
        (lambda a, b, c: None, r"not of \(a, b, c\)"),
        ("secret", "not 'secret'"),
    ],
)
def test_check_is_a_function_of_one_or_two(check: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        FirstMessageAuth(check)


def silent(**options: Any) -> Driven:
    return using(Driven(**options), FirstMessageAuth(check_token))


def test_silence_is_1008_after_auth_timeout() -> None:
    with silent(auth_timeout=5, ping=False) as driven:
        peer = driven.open()
        driven.advance(4.9)
        assert peer.nothing_waits()
        driven.advance(0.2)
        assert peer.read_close() == (1008, "no identity within auth_timeout 5 s")
        peer.end()
        driven.turn(3)
        assert driven.handler.of("close")[0][2] == "auth_timeout"


def test_stopped_messages_are_silence_too() -> None:
    """Only an identity counts, whoever keeps talking."""

    class Deaf(Middleware):
        def on_message(self, msg: Any, client: Any) -> Any:
            return self.STOP

    with Driven(auth_timeout=5, ping=False) as driven:
        using(driven, Deaf(), FirstMessageAuth(check_token))
        peer = driven.open()
        for _ in range(5):
            peer.text("t1")
            driven.advance(1.1)
        assert peer.read_close() == (1008, "no identity within auth_timeout 5 s")


def test_who_has_an_identity_may_be_silent() -> None:
    with silent(auth_timeout=5, ping=False) as driven:
        peer = driven.open(then=frame(TEXT, "t1"))
        driven.advance(100)
        assert peer.nothing_waits()
        # Also by other means than the first message.
        other = driven.open()
        list(driven.handler.clients)[1].bind("bob")
        driven.advance(100)
        assert other.nothing_waits()


def test_nobody_is_hurried_without_an_authenticator_or_with_none() -> None:
    with Driven(auth_timeout=5, ping=False) as driven:
        peer = driven.open()
        driven.advance(100)
        assert peer.nothing_waits()
    with silent(auth_timeout=None, ping=False) as driven:
        peer = driven.open()
        driven.advance(100)
        assert peer.nothing_waits()


def test_handler_may_authenticate_by_itself() -> None:
    class Door(Recorder):
        authenticates = True

        def on_message(self, msg: Any, client: Any) -> None:
            client.bind(msg)

    with Driven(Door(auth_timeout=3, ping=False)) as driven:
        first, second = driven.open(), driven.open()
        first.text("ann")
        driven.advance(4)
        assert first.nothing_waits()
        assert second.read_close() == (1008, "no identity within auth_timeout 3 s")


def test_close_of_our_own_is_not_disturbed_by_auth_timeout() -> None:
    with silent(auth_timeout=1, close_timeout=10, ping=False) as driven:
        peer = driven.open()
        driven.handler.client().close(4000, "x")
        driven.advance(5)
        assert peer.read_close() == (4000, "x")
        assert not driven.handler.of("close")
        driven.advance(6)
        assert driven.handler.of("close") == [(4000, "x", "local")]


def test_authenticator_behind_json_gets_what_json_made() -> None:
    def check(msg: Any) -> Any:
        return msg["name"]

    with using(Driven(Echo()), JSONMessages(), FirstMessageAuth(check)) as driven:
        peer = driven.open(then=frame(TEXT, '{"name": "ann"}') + frame(TEXT, "[1]"))
        assert peer.read_message() == "[1]"
        assert driven.server.online() == ["ann"]


def test_what_precedes_the_authenticator_may_stop_strangers() -> None:
    heard: list[str] = []
    with Driven(Echo()) as driven:
        using(
            driven,
            Stopping("A", heard, "on_message"),
            FirstMessageAuth(check_token),
            Noting("C", heard),
        )
        peer = driven.open()
        for text in ("stop", "t1", "hello"):
            peer.text(text)
        assert peer.read_message() == "helloCCA"
        # The first that came as far as here was not the first of the connection.
        assert "C first hello" in heard


# --- JSONMessages --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2.5, null, true]}', {"a": [1, 2.5, None, True]}),
        ('"text"', "text"),
        ("5", 5),
        ("-0.5e3", -500.0),
        ("null", None),
        ("[]", []),
        (' {"é": "\\u00e9"} ', {"é": "é"}),
        ('"\\ud83d\\ude00"', "😀"),
        ("9" * 400, int("9" * 400)),
    ],
)
def test_text_comes_as_what_json_says(text: str, value: Any) -> None:
    with using(Driven(Recorder()), JSONMessages()) as driven:
        driven.open().text(text)
        assert driven.until(lambda: driven.handler.of("message")) is None
        assert driven.handler.of("message") == [value]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "{'a': 1}",
        "[1,]",
        "nul",
        "NaN",
        "Infinity",
        "-Infinity",
        "[1e999]",
        '{"a": NaN}',
        "1 2",
        "\ufeff1",
        '"\n"',
        "[" * 100_000,
        "9" * 5_000,
    ],
)
def test_text_that_is_not_json_is_1007_bad_data_without_a_traceback(
    text: str, caplog: Any
) -> None:
    with using(Driven(Recorder()), JSONMessages()) as driven:
        peer = driven.open()
        peer.text(text)
        assert peer.read_close() == (1007, "the message is not JSON")
        peer.end()
        driven.turn(3)
        assert driven.handler.names == ["open", "close"]
        assert driven.handler.of("close")[0][2] == "bad_data"
    assert "Traceback" not in caplog.text


def test_binary_messages_pass_json_both_ways() -> None:
    with using(Driven(Echo()), JSONMessages()) as driven:
        peer = driven.open()
        peer.send(2, b"\xff{")
        assert peer.read_message() == b"\xff{"
        client = driven.handler.client()
        for msg in (b"a", bytearray(b"a"), memoryview(b"a")):
            client.write_message(msg)
            assert peer.read_message() == b"a"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, None]}, '{"a":[1,null]}'),
        ("text", '"text"'),
        (5, "5"),
        (True, "true"),
        (None, "null"),
        ((1, 2), "[1,2]"),
        ({1: 2}, '{"1":2}'),
        ("é😀", '"é😀"'),
        ("half \ud800", r'"half \ud800"'),
        ({"\ud800": "é"}, r'{"\ud800":"\u00e9"}'),
    ],
)
def test_whatever_json_can_say_is_sent_as_text(value: Any, text: str) -> None:
    with using(Driven(Recorder()), JSONMessages()) as driven:
        peer = driven.open()
        assert driven.handler.client().write_message(value) is SendStatus.SENT
        assert peer.read_message() == text


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (object(), TypeError),
        ({1, 2}, TypeError),
        ({(1, 2): 3}, TypeError),
        (float("nan"), ValueError),
        ([float("inf")], ValueError),
    ],
)
def test_what_json_cannot_say_raises_where_it_is_sent(
    value: Any, error: type[Exception]
) -> None:
    with using(Driven(Recorder()), JSONMessages()) as driven:
        driven.open()
        client = driven.handler.client()
        with pytest.raises(error):
            client.write_message(value)
        assert client.is_open()


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=())),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_is_sent_comes_back_the_same(value: Any) -> None:
    middleware = JSONMessages()
    text = middleware.on_send(value, None)
    text.encode()
    assert middleware.on_message(text, None) == value


def test_handler_answers_what_json_can_say() -> None:
    with using(Driven(), JSONMessages()) as driven:
        driven.server.route("/add")(lambda msg, client: msg["a"] + msg["b"])
        peer = driven.open("/add")
        peer.text('{"a": 1, "b": 2}')
        assert peer.read_message() == "3"


# --- Radio ---------------------------------------------------------------------------


class Producer:
    def __init__(self) -> None:
        self.count = 0
        self.result: Callable[[], Any] = lambda: str(self.count)

    def __call__(self) -> Any:
        self.count += 1
        return self.result()


def heard_by(peer: Peer) -> list[bytes]:
    data = peer.read_now()
    return data.split(b"\x81\x01")[1:] if data else []


def test_radio_broadcasts_while_somebody_is_connected() -> None:
    producer = Producer()
    with using(Driven(ping=False), Radio(10, producer)) as driven:
        driven.advance(100)
        assert producer.count == 0
        first = driven.open()
        driven.advance(9.9)
        assert producer.count == 0
        driven.advance(0.2)
        assert heard_by(first) == [b"1"]
        second = driven.open()  # does not disturb the rhythm
        driven.advance(9.9)
        assert heard_by(first) == heard_by(second) == [b"2"]
        first.leave()
        driven.advance(10)
        assert heard_by(second) == [b"3"]
        second.leave()
        driven.advance(100)
        assert producer.count == 3
        assert not driven.server._schedule.jobs
        third = driven.open()
        driven.advance(10.1)
        assert heard_by(third) == [b"4"]


def test_radio_begins_for_those_who_are_connected_and_ceases_without_them() -> None:
    producer = Producer()
    with Driven(ping=False) as driven:
        peer = driven.open()
        driven.server.use(Radio(10, producer))
        driven.turn(2)
        driven.advance(10.1)
        assert heard_by(peer) == [b"1"]
        peer.leave()  # of a connection that the middleware does not notice
        driven.advance(50)
        assert producer.count == 1
        assert not driven.server._schedule.jobs
        other = driven.open()
        driven.advance(10.1)
        assert heard_by(other) == [b"2"]


def test_radio_sends_nothing_for_none_and_lives_on_when_producing_fails(
    caplog: Any,
) -> None:
    producer = Producer()
    results: list[Any] = [None, ZeroDivisionError(), object(), "x"]

    def produce() -> Any:
        result = results[producer.count - 1]
        if isinstance(result, Exception):
            raise result
        return result

    producer.result = produce
    with using(Driven(ping=False), Radio(1, producer)) as driven:
        peer = driven.open()
        for _ in range(4):
            driven.advance(1.01)
        assert peer.read_now() == b"\x81\x01x"
        assert producer.count == 4
    assert caplog.text.count("a timer failed") == 2


def test_radio_is_of_one_server() -> None:
    radio = Radio(1, str)
    Server().use(radio)
    with pytest.raises(InvalidState, match="a Radio broadcasts on one server"):
        Server().use(radio)


@pytest.mark.parametrize(
    ("interval", "produce", "error", "words"),
    [
        ("10", str, TypeError, "interval must be a number of seconds, not '10'"),
        (0, str, ValueError, "interval must be a finite number of seconds, 0.001 or"),
        (float("nan"), str, ValueError, "not nan"),
        (1, None, TypeError, r"produce must be a function of \(\), not None"),
        (1, lambda client: "x", TypeError, r"not of \(client\)"),
    ],
)
def test_radio_refuses_wrong_arguments_at_once(
    interval: Any, produce: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Radio(interval, produce)


def test_radio_goes_on_after_a_restart() -> None:
    producer = Producer()
    server = Server("127.0.0.1", 0)
    server.mount("*", Recorder())
    server.use(Radio(0.01, producer))
    for _ in range(2):
        server.start()
        with open_peer(server) as peer:
            peer.read_message()
            server.stop(drain=0)
        assert not server._schedule.jobs


# ---- What a handler changes while the server runs ------------------------------------


class Late(Client):
    """A class of connections that is set late."""


class Passing(Middleware):
    """Looks at input, or at output as well."""

    def on_message(self, msg: Any, client: Any) -> Any:
        return msg


class Looking(Passing):
    """Looks at output as well."""

    def on_send(self, msg: Any, client: Any) -> Any:
        return msg


@in_thread
def threaded_open(client: Any) -> None:
    """Makes all callbacks wait."""


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("middleware", [Passing, Looking])
def test_client_class_may_change_after_the_first_handshake(
    middleware: type[Middleware], deferred: bool
) -> None:
    handler = WebSocket()
    if deferred:
        handler.on_open = threaded_open  # type: ignore[method-assign]
    server = Server("127.0.0.1", 0)
    server.mount("/", handler)
    server.use(middleware())
    with TestServer(server) as kit:
        first = kit.connect("/").client
        assert not isinstance(first, Late)
        handler.client_class = Late
        assert isinstance(kit.connect("/").client, Late)
        again = kit.connect("/").client
        assert type(again) is type(kit.connect("/").client)
        handler.client_class = Client
        assert not isinstance(kit.connect("/").client, Late)


@pytest.mark.parametrize("wrong", [5, "Client", WebSocket, None])
def test_wrong_client_class_is_refused_when_it_is_set(wrong: Any) -> None:
    with pytest.raises(TypeError, match="must be a subclass of Client"):
        WebSocket().client_class = wrong


@pytest.mark.parametrize("whose", ["handler", "middleware"])
@pytest.mark.parametrize("deferred", [False, True])
def test_authenticates_may_change_after_the_first_handshake(
    whose: str, deferred: bool
) -> None:
    handler, middleware = WebSocket(auth_timeout=3), Passing()
    if deferred:
        handler.on_open = threaded_open  # type: ignore[method-assign]
    server = Server("127.0.0.1", 0)
    server.mount("/", handler)
    server.use(middleware)
    with TestServer(server) as kit:
        first = kit.connect("/")
        changed: Any = handler if whose == "handler" else middleware
        changed.authenticates = True
        second = kit.connect("/")
        kit.advance(4)
        first.assert_open()
        second.assert_closed(1008, cause="auth_timeout")
        changed.authenticates = False
        third = kit.connect("/")
        kit.advance(4)
        third.assert_open()


@pytest.mark.parametrize("deferred", [False, True])
def test_none_of_a_middleware_is_refused_also_where_callbacks_wait(
    deferred: bool,
) -> None:
    class Forgetful(Middleware):
        def on_message(self, msg: Any, client: Any) -> Any:
            return None

    handler = WebSocket()
    if deferred:
        handler.on_open = threaded_open  # type: ignore[method-assign]
    errors: list[str] = []
    handler.on_error = lambda error, client: errors.append(  # type: ignore[method-assign]
        str(error)
    )
    server = Server("127.0.0.1", 0)
    server.mount("/", handler)
    server.use(Forgetful())
    with TestServer(server) as kit:
        peer = kit.connect("/")
        peer.send("hello")
        kit.wait_until(lambda: errors)
        assert "Forgetful.on_message returned None" in errors[0]


def test_deferred_result_that_nothing_awaits_is_an_error() -> None:
    class Sly(Middleware):
        """Nothing says that its methods are deferred."""

        def on_open(self, client: Any) -> Any:
            return threaded_open(client)

        def on_message(self, msg: Any, client: Any) -> Any:
            return threaded_open(client)

    told: list[str] = []
    handler = WebSocket()
    handler.on_open = lambda client: told.append("open")  # type: ignore[method-assign]
    handler.on_error = lambda error, client: told.append(  # type: ignore[method-assign]
        str(error)
    )
    server = Server("127.0.0.1", 0)
    server.mount("/", handler)
    server.use(Sly())
    with TestServer(server) as kit:
        peer = kit.connect("/")
        peer.send("hello")
        peer.assert_open()
    assert told == [
        "Sly.on_open is deferred, and nothing awaits it",
        "open",
        "Sly.on_message is deferred, and nothing awaits it",
    ]


# --- Clients that have not authenticated yet -----------------------------------------


def check_room_token(msg: Any) -> str:
    if not msg.startswith("token "):
        raise AuthenticationError("no token")
    return str(msg.removeprefix("token "))


class Room(Recorder):
    """Joins everybody at once, as a careless program does."""

    def on_open(self, client: Any) -> None:
        super().on_open(client)
        client.subscribe("room")


def send_everywhere(server: Server, msg: str) -> list[object]:
    return [
        server.broadcast(msg),
        server.publish("room", msg),
        server.send_to("ann", msg),
        server.deliver("room", msg),
    ]


@pytest.mark.parametrize("filtered", [False, True])
def test_nothing_for_many_reaches_clients_that_have_not_authenticated(
    filtered: bool,
) -> None:
    with Driven(Room()) as driven:
        driven.server.use(FirstMessageAuth(check_room_token))
        if filtered:
            driven.server.use(JSONMessages())
        stranger = driven.open()
        assert send_everywhere(driven.server, "secret") == [0, 0, 0, None]
        driven.turn()
        assert stranger.nothing_waits()
        # What is written to this one client is meant for it.
        driven.handler.client().write_message("who are you?")
        assert "who are you?" in str(stranger.read_message())

        stranger.text("token ann")
        driven.turn()
        *counts, taker = send_everywhere(driven.server, "secret")
        assert counts == [1, 1, 1]
        assert taker is driven.handler.client()
        for _ in range(4):
            assert "secret" in str(stranger.read_message())

        driven.handler.client().bind(None)  # logged out
        assert send_everywhere(driven.server, "secret") == [0, 0, 0, None]
        driven.turn()
        assert stranger.nothing_waits()


def test_threads_do_not_reach_clients_that_have_not_authenticated() -> None:
    with running(Room()) as server:
        server.use(FirstMessageAuth(check_room_token))
        with open_peer(server) as stranger, open_peer(server) as friend:
            friend.text("token ann")
            until(lambda: server.is_online("ann"))
            for _ in range(3):
                server.publish("room", "secret")
            server.broadcast("last")
            while friend.read_message() != "last":
                pass
            assert stranger.nothing_waits()


def test_handler_that_authenticates_by_itself_decides_about_strangers() -> None:
    class Own(Room):
        authenticates = True

        def on_message(self, msg: Any, client: Any) -> Any:
            client.bind(msg)

    with Driven(Own()) as driven:
        peers = [driven.open(), driven.open()]
        peers[1].text("bob")
        driven.turn()
        assert driven.server.broadcast("x") == 2
        assert [peer.read_message() for peer in peers] == ["x", "x"]
