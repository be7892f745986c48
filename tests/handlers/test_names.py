"""The names on handlers and middlewares: documented, or private, or the user's own."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simple_ws import Middleware, Server, WebSocket
from simple_ws.connection.option_checks import check_options
from simple_ws.connection.option_types import (
    HandlerOptions,
    OptionAttributes,
    ServerOptions,
)
from simple_ws.connection.options import Options
from simple_ws.handlers.handler import CALLBACKS, BaseHandler
from simple_ws.testing import TestServer

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"

RESERVED = ["options", "server", "clients", "host", "port"]
OPTIONS = sorted(Options._fields)
#: What programs keep on a handler, and what the library has kept there once.
FAVOURITES = """
    tally name message_callback given gate late rooms users state data handler loop
    timer tasks queue lock logger limits rate stats counts db pool config settings app
    history lobby players votes adopt call callbacks take_options open_gate counters
    admission
"""


def public(cls: type) -> set[str]:
    """Names without underscore that a class has, or that its instances have."""
    instance = vars(cls()).keys()
    return {name for name in {*dir(cls), *instance} if not name.startswith("_")}


def free(cls: type) -> list[str]:
    ours = {name.strip("_") for name in dir(cls) if name.startswith("_")}
    ours = {name for name in ours if name.isidentifier() and name != "class"}
    return sorted({*FAVOURITES.split(), *ours} - public(cls) - {"in", "or"})


def documented(cls: type) -> set[str]:
    """Members with a docstring or a comment, and the attributes in the docstrings."""
    shown = set()
    for base in cls.__mro__[:-1]:
        text = (base.__doc__ or "").partition("Attributes:")[2]
        listed = re.findall(r"^ +(\w[\w, ]*):", text, re.MULTILINE)
        shown |= {name for names in listed for name in names.split(", ")}
        shown |= {
            name
            for name, member in vars(base).items()
            if (callable(member) or isinstance(member, property)) and member.__doc__
        }
    return {name for name in shown if not name.startswith("_")}


def test_public_names_of_a_handler_are_documented() -> None:
    options = (REFERENCE / "options.md").read_text(encoding="utf-8")
    listed = {name for name in OPTIONS if f"`{name}`" in options}
    assert listed == set(OPTIONS)
    commented = {"client_class", "authenticates"}
    old = {"ping_intervall"}  # the spelling of simple_ws 0.3
    known = documented(WebSocket) | listed | commented | old
    assert public(WebSocket) - known == set()


def test_public_names_of_a_middleware_are_documented() -> None:
    assert public(Middleware) - documented(Middleware) == set()


def test_reference_hides_nothing_but_options() -> None:
    text = (REFERENCE / "websocket.md").read_text(encoding="utf-8")
    hidden = re.findall(r":exclude-members: (.*)", text)
    names = {name.strip() for line in hidden for name in line.split(",")}
    assert names <= set(OPTIONS)


def test_arguments_and_attributes_are_the_options() -> None:
    given = inspect.get_annotations(HandlerOptions) | inspect.get_annotations(
        ServerOptions
    )
    accepted = {name: type_.__forward_arg__ for name, type_ in given.items()}
    assert accepted == OptionAttributes.__annotations__
    assert accepted.keys() == set(Options._fields)


#: Options that may be given in more forms than the one in which they are kept.
CONVERTED = {
    "compression",
    "slow_consumer",
    "worker_class",
    "origins",
    "subprotocols",
    "unix",
    "certfile",
    "keyfile",
    "trusted_proxies",
    "allowed_hosts",
    "engine_secret",
}


def test_options_are_accepted_as_they_are_kept() -> None:
    for name, kept in Options.__annotations__.items():
        if name not in CONVERTED:
            assert OptionAttributes.__annotations__[name] == kept.__forward_arg__


def test_options_of_handlers_are_those_of_the_first_table() -> None:
    text = (REFERENCE / "options.md").read_text(encoding="utf-8")
    first, second = text.split("These belong to the server")
    listed = [
        set(re.findall(r"^\| `(\w+)` \|", table, re.M)) for table in (first, second)
    ]
    assert listed == [
        HandlerOptions.__annotations__.keys(),
        ServerOptions.__annotations__.keys() - HandlerOptions.__annotations__.keys(),
    ]


def test_defaults_may_be_given() -> None:
    for name in OPTIONS:
        default = getattr(Options(), name)
        assert check_options({name: default}) == {name: default}


class Keeper(WebSocket):
    """Keeps something under many names."""

    def __init__(self, names: list[str], value: Any) -> None:
        super().__init__()
        self.told: list[str] = []
        for name in names:
            setattr(self, name, value)

    def on_open(self, client: Any) -> None:
        self.told.append("open")

    def on_message(self, msg: Any, client: Any) -> Any:
        return msg

    def on_close(self, client: Any) -> None:
        self.told.append("close")


class Filter(Middleware):
    """Likewise, a middleware."""

    def __init__(self, names: list[str], value: Any) -> None:
        for name in names:
            setattr(self, name, value)

    def on_send(self, msg: Any, client: Any) -> Any:
        return msg


VALUES = pytest.mark.parametrize(
    "value", [None, {}, "text"], ids=["none", "dict", "text"]
)


@VALUES
@pytest.mark.parametrize("filtered", [False, True])
def test_other_names_are_the_users(value: Any, filtered: bool) -> None:
    handler = Keeper(free(WebSocket), value)
    server = Server("127.0.0.1", 0)
    server.mount("/", handler)
    if filtered:
        server.use(Filter(free(Middleware), value))
    with TestServer(server) as kit:
        peer = kit.connect("/")
        peer.send("hello")
        assert peer.recv() == "hello"
        assert kit.server.stats()["handlers"][0]["name"] == "Keeper"
        peer.close()
        kit.advance(1)
        assert handler.told == ["open", "close"]
        for name in free(WebSocket):
            assert getattr(handler, name) == value


@VALUES
def test_class_attributes_are_the_users_too(value: Any) -> None:
    space = dict.fromkeys(free(WebSocket), value)
    handler = type("Page", (WebSocket,), {**space, "on_message": lambda s, m, c: m})()
    with TestServer(handler) as kit:
        peer = kit.connect("/")
        peer.send("hello")
        assert peer.recv() == "hello"


@pytest.mark.parametrize("value", [{}, {"a": 1}, 1, "yes"])
def test_only_true_wants_an_identity(value: Any) -> None:
    handler = WebSocket(auth_timeout=1)
    handler.authenticates = value
    with TestServer(handler) as kit:
        peer = kit.connect("/")
        kit.advance(3)
        peer.assert_open()


PRIVATE = ["_counters", "_given", "_log_name", "_callbacks", "_give", "_set"]


@pytest.mark.parametrize("name", RESERVED + PRIVATE)
def test_reserved_name_is_refused_with_the_name(name: str) -> None:
    refused = pytest.raises(TypeError, match=rf"Page\.{name} is reserved")
    page = type("Page", (WebSocket,), {})()
    with refused:
        setattr(page, name, {})
    with refused:
        type("Page", (WebSocket,), {name: {}})()
    mixin = type("Page", (), {name: property(lambda self: 1)})
    with refused:
        type("Handler", (mixin, WebSocket), {})()


def test_error_says_what_the_name_is_for() -> None:
    with pytest.raises(TypeError, match="keeps the open connections there"):
        WebSocket().clients = []  # type: ignore[assignment]


@pytest.mark.parametrize("name", ["STOP", "_callbacks", "_makes_none"])
def test_reserved_name_of_a_middleware_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=rf"Page\.{name} is reserved"):
        setattr(type("Page", (Middleware,), {})(), name, 1)
    with pytest.raises(TypeError, match=rf"Page\.{name} is reserved"):
        type("Page", (Middleware,), {name: 1})()


MEANT = {
    "on_mesage": "on_message",
    "on_messages": "on_message",
    "on_message_received": "on_message",
    "onMessage": "on_message",
    "onmessage": "on_message",
    "on_text": "on_message",
    "on_binary": "on_message",
    "on_data": "on_message",
    "on_receive": "on_message",
    "on_connected": "on_open",
    "on_opened": "on_open",
    "on_opne": "on_open",
    "on_disconnect": "on_close",
    "on_disconnected": "on_close",
    "on_closed": "on_close",
    "on_clsoe": "on_close",
    "onClose": "on_close",
    "on_errors": "on_error",
    "on_exception": "on_error",
    "on_requst": "on_request",
    "on_pnig": "on_ping",
    "on_pongs": "on_pong",
    "on_drian": "on_drain",
}


def method(self: Any, *args: Any) -> None:
    """Some method."""


@pytest.mark.parametrize(("name", "meant"), MEANT.items())
def test_misspelt_callback_is_refused_with_a_hint(name: str, meant: str) -> None:
    refused = pytest.raises(TypeError, match=rf"Page\.{name} .* did you mean {meant}\?")
    with refused:
        type("Page", (WebSocket,), {name: method})()
    page = type("Page", (WebSocket,), {})()
    with refused:
        setattr(page, name, print)


@pytest.mark.parametrize(
    "name",
    [
        "on_tick",
        "on_leave",
        "on_timer",
        "on_move",
        "on_score",
        "on_ring",
        "on_win",
        "on_login",
        "on_command",
        "open",
        "closed",
        "received",
        "once",
        "only",
        "ontology",
    ],
)
def test_helpers_of_other_names_are_the_users(name: str) -> None:
    handler = type("Page", (WebSocket,), {name: method})()
    setattr(handler, name, print)
    type("Page", (Middleware,), {name: method})()


def test_only_functions_are_taken_for_callbacks() -> None:
    page = WebSocket()
    page.on_text = "yes"  # type: ignore[attr-defined]
    assert page.on_text == "yes"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("on_mesage", r"did you mean on_message\?"),
        ("on_first_mesage", r"did you mean on_first_message\?"),
        ("on_disconnect", r"did you mean on_close\?"),
        ("on_drain", "it is a callback of handlers"),
        ("on_ping", "it is a callback of handlers"),
        ("select_subprotocol", "it is a callback of handlers"),
    ],
)
def test_callback_that_a_middleware_has_not_is_refused(name: str, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        type("Page", (Middleware,), {name: method})()
    page = type("Page", (Middleware,), {})()
    with pytest.raises(TypeError, match=why):
        setattr(page, name, print)


def test_decorated_class_is_refused_where_it_is_served() -> None:
    server = Server("127.0.0.1", 0)
    route: Callable[[Any], Any] = server.route("/")
    with pytest.raises(TypeError, match="did you mean on_close"):
        route(type("Page", (WebSocket,), {"on_disconnect": method}))


def test_every_callback_is_known() -> None:
    for name in CALLBACKS:
        assert callable(getattr(BaseHandler, name))
