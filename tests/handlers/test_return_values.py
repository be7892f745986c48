"""Return values of callbacks that decide about a client."""

from __future__ import annotations

import functools
import logging
import types
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from http import HTTPStatus
from typing import Any, NamedTuple

import pytest

from simple_ws import (
    Middleware,
    Response,
    Server,
    WebSocket,
    in_thread,
)
from simple_ws.errors import ConnectError, HandshakeRefused
from simple_ws.handlers.return_values import (
    WrongReturnValue,
    identity_of,
    session_of,
    subprotocol_of,
    yes_or_no,
)
from simple_ws.testing import TestServer


class Bool:
    """As numpy has them, without numpy."""

    def __init__(self, value: bool) -> None:
        self.value = value

    def __bool__(self) -> bool:
        return self.value


Bool.__module__, Bool.__name__ = "numpy", "bool_"


class User(NamedTuple):
    name: str


def generator() -> Iterator[None]:
    yield


async def coroutine() -> None: ...


#: Of each kind that says nothing, made when it is needed.
WRONG: list[tuple[str, Callable[[], Any]]] = [
    ("zero", lambda: 0),
    ("status", lambda: 401),
    ("float", lambda: 1.0),
    ("decimal", lambda: Decimal(1)),
    ("fraction", lambda: Fraction(1, 2)),
    ("complex", lambda: 1j),
    ("http-status", lambda: HTTPStatus.FORBIDDEN),
    ("tuple", lambda: ("no", 401)),
    ("empty-tuple", lambda: ()),
    ("exception", lambda: PermissionError("no")),
    ("exception-class", lambda: PermissionError),
    ("class", lambda: Response),
    ("function", lambda: generator),
    ("built-in", lambda: len),
    ("method", lambda: Bool(True).__bool__),
    ("partial", lambda: functools.partial(print)),
    ("generator", generator),
    ("coroutine", coroutine),
    ("not-implemented", lambda: NotImplemented),
    ("ellipsis", lambda: ...),
    ("stop", lambda: Middleware.STOP),
]
NAMES = [name for name, _ in WRONG]
ACCEPTED = [None, True, Bool(True)]
REFUSED = [False, Bool(False)]
SESSIONS: list[Any] = [
    "",
    "ann",
    b"",
    {},
    [],
    {"a": 1},
    User("ann"),
    types.SimpleNamespace(),
]


@pytest.mark.parametrize("make", [make for _, make in WRONG], ids=NAMES)
def test_what_says_nothing_is_no_session(make: Callable[[], Any]) -> None:
    answer = make()
    with pytest.raises(WrongReturnValue) as caught:
        session_of("on_request of Guarded", answer)
    assert str(caught.value).startswith("on_request of Guarded returned ")
    assert str(caught.value).endswith(
        f"({type(answer).__name__}): return None or True to accept, False or a "
        "Response to refuse, or an object for client.session"
    )


def test_wrong_answer_is_quoted_in_one_line_of_bounded_length() -> None:
    with pytest.raises(WrongReturnValue) as caught:
        session_of("on_request of Guarded", ("\x9b", "x" * 10**6))
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


def test_yes_no_and_sessions_are_told_apart() -> None:
    for answer in ACCEPTED:
        assert session_of("f", answer) is None
    for answer in REFUSED:
        assert session_of("f", answer).status == 403
    for answer in [*SESSIONS, Response(401)]:
        assert session_of("f", answer) is answer


def test_yes_or_no_is_not_guessed() -> None:
    assert yes_or_no("allow", True) is yes_or_no("allow", Bool(True)) is True
    assert yes_or_no("allow", False) is yes_or_no("allow", Bool(False)) is False
    for answer in [None, 1, 0, "", "yes", object(), *(make() for _, make in WRONG)]:
        with pytest.raises(WrongReturnValue, match="allow returned"):
            yes_or_no("allow", answer)


def test_identity_may_be_a_number_but_nothing_that_says_nothing() -> None:
    for identity in [0, "", 7, ("a", 1), 1.5]:
        assert identity_of("check", identity) is identity
    numbers = ("zero", "status", "float", "decimal", "fraction", "complex")
    wrong = [make() for name, make in WRONG if name not in (*numbers, "tuple")]
    for identity in [None, True, False, Bool(True), Response(401), *wrong]:
        if identity != ():
            with pytest.raises(WrongReturnValue, match="check returned"):
                identity_of("check", identity)


def test_subprotocol_must_be_one_of_the_offered() -> None:
    assert subprotocol_of("f", None, ["a"]) is None
    assert subprotocol_of("f", "a", ["a"]) == "a"
    for answer in [False, True, "", "b", 0, ["a"], NotImplemented]:
        with pytest.raises(WrongReturnValue, match="offered"):
            subprotocol_of("f", answer, ["a"])


# --- In a server ---------------------------------------------------------------------


class Plain(WebSocket):
    answer: Any = None

    def on_request(self, request: Any) -> Any:
        return type(self).answer


class Threaded(WebSocket):
    answer: Any = None

    @in_thread
    def on_request(self, request: Any) -> Any:
        return type(self).answer


class Async(WebSocket):
    answer: Any = None

    async def on_request(self, request: Any) -> Any:
        return type(self).answer


class Asks(Middleware):
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def on_request(self, request: Any) -> Any:
        return self.answer


class AsksAsync(Asks):
    async def on_request(self, request: Any) -> Any:
        return self.answer


def with_handler(kind: type[Any], answer: Any) -> Server:
    server = Server("", 0)
    server.mount("*", type("Guarded", (kind,), {"answer": answer})())
    return server


def with_middleware(kind: type[Asks], answer: Any) -> Server:
    server = Server("", 0)
    server.mount("*", Plain())
    server.use(type("Guarded", (kind,), {})(answer))
    server.use(Asks(None))  # asked later
    return server


KINDS = [
    functools.partial(with_handler, Plain),
    functools.partial(with_handler, Threaded),
    functools.partial(with_handler, Async),
    functools.partial(with_middleware, Asks),
    functools.partial(with_middleware, AsksAsync),
]
KIND_NAMES = ["plain", "in-thread", "async", "middleware", "async-middleware"]


def status_of(server: Server) -> int:
    """101, or the status of the refusal."""
    with TestServer(server, raise_server_exceptions=False) as tested:
        try:
            tested.connect("/")
        except HandshakeRefused as refused:
            return refused.status
        except ConnectError:
            return 0
        return 101


@pytest.mark.parametrize("make_server", KINDS, ids=KIND_NAMES)
def test_false_refuses_and_nonsense_lets_nobody_in(
    make_server: Callable[[Any], Server], caplog: pytest.LogCaptureFixture
) -> None:
    for answer in ACCEPTED:
        assert status_of(make_server(answer)) == 101
    for answer in REFUSED:
        assert status_of(make_server(answer)) == 403
    assert status_of(make_server(Response(401))) == 401
    for answer in (401, HTTPStatus.UNAUTHORIZED, ("no", 401), PermissionError, len):
        caplog.clear()
        assert status_of(make_server(answer)) == 500
        (line,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
        assert line.getMessage().startswith("on_request of Guarded returned ")
        assert line.exc_info in (None, (None, None, None))


@pytest.mark.parametrize("chosen", [False, True, "", "b", 401, NotImplemented])
def test_wrong_subprotocol_is_a_mistake_of_the_program(
    chosen: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Chooses(WebSocket):
        def select_subprotocol(self, offered: Any) -> Any:
            return chosen

    with TestServer(Chooses(), raise_server_exceptions=False) as tested:
        with pytest.raises(HandshakeRefused) as caught:
            tested.connect("/", subprotocols=["a"])
        assert caught.value.status == 500
    assert "select_subprotocol of Chooses returned" in caplog.text
