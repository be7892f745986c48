"""Every exception of the package: its attributes, also after copying and pickling."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from simple_ws import errors
from simple_ws.constants import CloseCause
from simple_ws.live import LiveError
from simple_ws.protocol.fields import Headers

pytestmark = pytest.mark.one_backend

HEADERS = Headers([("Retry-After", "5"), ("Set-Cookie", "id=SECRET")])


class Denied(errors.HandshakeError):
    """As users write them: its arguments are its own."""

    def __init__(self, room: str) -> None:
        super().__init__(403, f"no entry to {room}")
        self.room = room


MADE: list[errors.WebSocketError] = [
    errors.WebSocketError("x"),
    errors.ProtocolError("x"),
    errors.InvalidData("x"),
    errors.MessageTooBig("x"),
    errors.RateExceeded("x"),
    errors.ServerOverloaded("x"),
    errors.HandshakeError(403, "no", [("X-A", "b")]),
    errors.BadRequest("no"),
    errors.MissingField("cookie", "sid"),
    errors.AuthenticationError("no"),
    errors.TokenError("no"),
    errors.TokenExpired("no"),
    errors.KeysUnavailable("no"),
    errors.EngineError("redis://a:6379", "x", True),
    errors.InvalidState("x"),
    errors.StartupFailed("x"),
    errors.ConnectError("ws://a/", "x"),
    errors.InvalidURI("ws://a/", "x"),
    errors.ConnectTimeout("ws://a/", "x"),
    errors.TLSError("ws://a/", "x"),
    errors.ProxyError("ws://a/", "x", 407, HEADERS, b"body"),
    errors.InvalidHandshake("ws://a/", "x"),
    errors.HandshakeRefused("ws://a/", "x", 403, HEADERS, b"body"),
    errors.ConnectionClosed(1006, "gone", CloseCause.EOF),
    errors.ConnectionClosedOK(1000, "", CloseCause.PEER),
    errors.ConnectionClosedError(1011, "failed", CloseCause.PEER),
    LiveError(400, "no", temporary=True),
    LiveError._received(2500, "insufficient state", False),
    Denied("the attic"),
]


def through_pickle(protocol: int) -> Callable[[Any], Any]:
    return lambda error: pickle.loads(pickle.dumps(error, protocol))


WAYS: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "oldest pickle": through_pickle(0),
    "newest pickle": through_pickle(pickle.HIGHEST_PROTOCOL),
}


def test_none_is_missing_here() -> None:
    assert {type(error).__name__ for error in MADE} >= set(errors.__all__)


@pytest.mark.parametrize("how", WAYS.values(), ids=list(WAYS))
@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_exception_survives(error: errors.WebSocketError, how: Any) -> None:
    error.add_note("seen on a Monday")
    other: Any = how(error)
    assert type(other) is type(error)
    assert other.args == error.args
    assert vars(other) == vars(error)
    assert (str(other), repr(other)) == (str(error), repr(error))
    if isinstance(error, OSError):
        assert other.errno is None


#: As text: the other process cannot import this module where only the tests are.
REFUSE = """
from simple_ws.errors import HandshakeError
raise HandshakeError(401, "who are you?", [("WWW-Authenticate", "Basic")])
"""


def test_exception_comes_back_from_a_process() -> None:
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(errors.HandshakeError, match="who are you") as caught,
    ):
        pool.submit(exec, REFUSE).result()
    assert caught.value.status == 401
    assert caught.value.headers == (("WWW-Authenticate", "Basic"),)


def test_header_fields_of_an_answer_are_not_shown() -> None:
    error = errors.HandshakeRefused("ws://a/", "x", 403, HEADERS, b"SECRET")
    assert repr(error) == "HandshakeRefused('ws://a/: x')"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1000, errors.ConnectionClosedOK),
        (1001, errors.ConnectionClosedOK),
        (1005, errors.ConnectionClosedOK),
        (1006, errors.ConnectionClosedError),
        (1011, errors.ConnectionClosedError),
        (4000, errors.ConnectionClosedError),
    ],
)
def test_the_code_says_which_end_it_was(code: int, kind: type[Any]) -> None:
    error = errors.connection_closed(code, "so", CloseCause.PEER)
    assert type(error) is kind
    assert isinstance(error, errors.ConnectionClosed)
    assert (error.code, error.reason, error.cause) == (code, "so", CloseCause.PEER)
