"""Handlers: checked callbacks, options as attributes, functions, classes per path."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pytest
from harness import TEXT, Driven, Echo, Recorder, frame, open_peer, request, running

from simple_ws import (
    AuthenticationError,
    Client,
    HandshakeError,
    InvalidData,
    InvalidState,
    JSONMessages,
    Middleware,
    Response,
    Server,
    WebSocket,
    in_thread,
)
from simple_ws.handlers.handler import CALLBACKS, FunctionHandler
from simple_ws.loop.deferred import check_callback
from simple_ws.testing import TestServer

# --- Signatures ----------------------------------------------------------------------


def two(msg: Any, client: Any) -> None: ...
def with_default(msg: Any, client: Any, more: int = 0) -> None: ...
def any_number(*args: Any) -> None: ...
def one(msg: Any) -> None: ...
def three(msg: Any, client: Any, more: Any) -> None: ...
def keyword(msg: Any, client: Any, *, more: Any) -> None: ...


class Callable2:
    def __call__(self, msg: Any, client: Any) -> None: ...
    def method(self, msg: Any, client: Any) -> None: ...
    def short(self, msg: Any) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        two,
        with_default,
        any_number,
        Callable2(),
        Callable2().method,
        functools.partial(three, 1),
        max,  # a built-in that nothing is known of
    ],
)
def test_what_takes_the_arguments_is_a_callback(function: Any) -> None:
    check_callback("it", function, ("msg", "client"))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (one, r"it must be a function of \(msg, client\), not of \(msg: "),
        (three, r"not of \(msg: .*more"),
        (keyword, r"not of \(msg: .*more"),
        (Callable2().short, r"not of \(msg: "),
        (len, r"not of \(obj, /\)"),
        (None, r"it must be a function of \(msg, client\), not None"),
        ("print", r"not 'print'"),
        (5, r"not 5"),
    ],
)
def test_what_does_not_take_them_is_refused(function: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        check_callback("it", function, ("msg", "client"))


@pytest.mark.parametrize("name", CALLBACKS)
def test_function_of_a_wrong_signature_is_refused_when_it_is_set(name: str) -> None:
    handler = WebSocket()
    before = getattr(handler, name)
    for wrong in (lambda: None, lambda a, b, c, d: None, None, "on_message"):
        with pytest.raises(TypeError, match=f"{name} must be a function of"):
            setattr(handler, name, wrong)
    assert getattr(handler, name) == before


@pytest.mark.parametrize("name", CALLBACKS)
def test_method_of_a_wrong_signature_is_refused_when_it_is_mounted(name: str) -> None:
    wrong = type("Wrong", (WebSocket,), {name: lambda self: None})
    with pytest.raises(TypeError, match=rf"Wrong\.{name} must be a function of"):
        Server().mount("/", wrong())

    async def owns(self: Any, client: Any) -> None:
        """The only one that must be async."""

    good = {name: owns if name == "on_connect" else lambda self, *args: None}
    Server().mount("/", type("Good", (WebSocket,), good)())


def test_method_that_is_no_function_is_refused_when_it_is_mounted() -> None:
    class Wrong(WebSocket):
        on_open = "hello"  # type: ignore[assignment]

    with pytest.raises(TypeError, match=r"Wrong\.on_open must be a function.*'hello'"):
        Server().mount("/", Wrong())


def test_static_methods_and_class_methods_are_callbacks() -> None:
    heard: list[Any] = []

    class Handler(WebSocket):
        @staticmethod
        def on_open(client: Any) -> None:  # type: ignore[override]
            heard.append(client)

        @classmethod
        def on_message(cls, msg: Any, client: Any) -> Any:  # type: ignore[override]
            return f"{cls.__name__} {msg}"

    with Driven(Handler()) as driven:
        peer = driven.open()
        peer.text("hi")
        assert peer.read_message() == "Handler hi"
        assert len(heard) == 1


# --- Functions in place of methods ---------------------------------------------------


class Pass(Middleware):
    def on_message(self, msg: Any, client: Any) -> Any:
        return f"({msg})"


@pytest.mark.parametrize("with_middleware", [False, True])
def test_on_message_is_replaced_for_those_who_are_connected(
    with_middleware: bool,
) -> None:
    handler = WebSocket()
    with Driven(handler) as driven:
        if with_middleware:
            driven.server.use(Pass())
        peers = [driven.open(), driven.open()]
        for name in ("one", "two"):
            handler.on_message = lambda msg, client, name=name: f"{name} {msg}"  # type: ignore[method-assign,misc]
            for peer in (*peers, driven.open()):
                peer.text("x")
                said = "(x)" if with_middleware else "x"
                assert peer.read_message() == f"{name} {said}"


@pytest.mark.parametrize("with_middleware", [False, True])
def test_method_comes_back_when_the_function_is_deleted(with_middleware: bool) -> None:
    handler = Echo()
    with Driven(handler) as driven:
        if with_middleware:
            driven.server.use(Middleware())
        peer = driven.open()
        handler.on_message = lambda msg, client: "replaced"  # type: ignore[method-assign]
        del handler.on_message
        peer.text("x")
        assert peer.read_message() == "x"
        handler.on_close = lambda client: None  # type: ignore[method-assign]
        del handler.on_close
        peer.leave()
        assert handler.names == ["open", "message", "close"]
    with pytest.raises(AttributeError):
        del handler.on_close


@pytest.mark.parametrize("with_middleware", [False, True])
def test_other_callbacks_are_replaced_for_those_who_are_connected(
    with_middleware: bool,
) -> None:
    heard: list[str] = []
    handler = Recorder()
    with Driven(handler) as driven:
        if with_middleware:
            driven.server.use(Pass())
        peer = driven.open()
        handler.on_ping = lambda client: heard.append("ping")  # type: ignore[method-assign]
        handler.on_pong = lambda client: heard.append("pong")  # type: ignore[method-assign]
        handler.on_close = lambda client: heard.append("close")  # type: ignore[method-assign]
        peer.send(9)
        peer.send(10)
        assert peer.read_frame() == (0x8A, b"")
        peer.leave()
        assert heard == ["ping", "pong", "close"]
        assert handler.names == ["open"]


def test_function_that_raises_is_told_to_on_error(caplog: Any) -> None:
    handler = WebSocket()
    handler.on_message = lambda msg, client: 1 / 0  # type: ignore[method-assign]
    with Driven(handler) as driven:
        peer = driven.open()
        peer.text("x")
        assert peer.read_close() == (1011, "the handler failed")
    assert "ZeroDivisionError" in caplog.text


# --- Options as attributes -----------------------------------------------------------


def test_option_that_is_set_as_an_attribute_counts_as_given() -> None:
    class Small(WebSocket):
        def __init__(self) -> None:
            self.max_size = 3  # before and without super().__init__

    handler = Small()
    handler.ping_interval = 2
    assert (handler.options.max_size, handler.options.ping_interval) == (3, 2.0)
    assert handler.ping_intervall == 2.0  # type: ignore[attr-defined]
    with Driven(handler, max_size=100, ping_interval=50) as driven:
        peer = driven.open()
        peer.text("four")
        assert peer.read_close()[0] == 1009
        handler.max_size = 4
        peer = driven.open()
        peer.text("four")
        assert handler.options.max_size == 4
        driven.turn(2)
        assert peer.nothing_waits()


def test_options_given_later_win_and_the_others_stay() -> None:
    class Handler(WebSocket):
        max_size = 5
        ping = False

        def __init__(self) -> None:
            self.write_limit = 7
            super().__init__(max_size=6)

    options = Handler().options
    assert (options.max_size, options.ping, options.write_limit) == (6, False, 7)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("max_size", -1, ValueError),
        ("max_size", "3", TypeError),
        ("ping", "yes", TypeError),
        ("ping_intervall", 0, ValueError),
        ("slow_consumer", "wait", ValueError),
    ],
)
def test_wrong_option_is_refused_when_it_is_set(
    name: str, value: Any, error: type[Exception]
) -> None:
    handler = WebSocket()
    before = handler.options
    with pytest.raises(error, match="ping_interval|" + name) as caught:
        setattr(handler, name, value)
    assert repr(value) in str(caught.value)
    assert handler.options == before


def test_dataclass_may_be_a_handler() -> None:
    @dataclass(eq=False)
    class Room(WebSocket):
        topic: str
        max_size: int = 4

        def on_message(self, msg: Any, client: Any) -> str:
            return f"{self.topic}: {msg}"

    with Driven(Room("tea")) as driven:
        driven.server.use(Pass())
        peer = driven.open()
        peer.text("hi")
        assert peer.read_message() == "tea: (hi)"
        peer.text("hello")
        assert peer.read_close()[0] == 1009


def test_handler_that_is_not_hashable_is_refused_with_what_to_do() -> None:
    @dataclass
    class Room(WebSocket):
        topic: str

    with pytest.raises(TypeError, match="Room must be hashable; @dataclass needs eq"):
        Server().mount("/", Room("tea"))


# --- client_class --------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [dict, None, "Client", WebSocket, Client.__init__])
def test_client_class_that_cannot_be_one_is_refused_at_once(wrong: Any) -> None:
    class Handler(WebSocket):
        client_class = wrong

    if callable(wrong) and not isinstance(wrong, type):
        Server().mount("/", Handler())  # a function may make clients
        return
    with pytest.raises(TypeError, match=r"Handler\.client_class must be a subclass"):
        Server().mount("/", Handler())


class Player(Client):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.moves: list[str] = []


def test_client_class_gives_each_connection_state_of_its_own() -> None:
    class Game(WebSocket):
        client_class = Player

        def on_message(self, msg: Any, client: Any) -> Any:
            client.moves.append(msg)
            return client.moves

    with Driven(Game()) as driven:
        first, second = driven.open(), driven.open()
        first.text("a")
        second.text("b")
        first.text("c")
        assert [first.read_message() for _ in range(2)] == ['["a"]', '["a","c"]']
        assert second.read_message() == '["b"]'


def test_handlers_of_one_server_may_have_different_client_classes() -> None:
    class Game(Recorder):
        client_class = Player

    with Driven() as driven:
        game = driven.server.mount("/game", Game())
        driven.open("/")
        driven.open("/game")
        assert type(driven.handler.client()) is Client
        assert type(game.client()) is Player


# --- Function handlers ---------------------------------------------------------------


def test_decorated_function_answers_with_what_it_returns() -> None:
    with Driven() as driven:

        @driven.server.route("/reverse")
        def reverse(msg: Any, client: Any) -> Any:
            return msg[::-1]

        @driven.server.route("/quiet")
        def quiet(msg: Any, client: Any) -> None:
            client.session["heard"] = msg

        assert reverse("abc", None) == "cba"  # it is still a function
        peer = driven.open("/reverse")
        peer.text("abc")
        peer.send(2, b"\x01\x02")
        assert [peer.read_message() for _ in range(2)] == ["cba", b"\x02\x01"]
        silent = driven.open("/quiet")
        silent.text("abc")
        driven.turn(2)
        assert silent.nothing_waits()
        assert [client.session for client in driven.server.clients][1] == {
            "heard": "abc"
        }


@pytest.mark.parametrize("answer", ["text", b"bytes", {"a": 1}, [1], bytearray(b"x")])
def test_function_may_return_whatever_can_be_written(answer: Any) -> None:
    with Driven() as driven:
        driven.server.route("/x")(lambda msg, client: answer)
        peer = driven.open("/x")
        peer.text("?")
        expected = {dict: '{"a":1}', list: "[1]", bytearray: b"x"}
        assert peer.read_message() == expected.get(type(answer), answer)


@pytest.mark.parametrize("answer", [5, 1.5, True, object()])
def test_answer_that_cannot_be_written_is_a_fault_of_the_handler(
    answer: Any, caplog: Any
) -> None:
    with Driven() as driven:
        driven.server.route("/x")(lambda msg, client: answer)
        peer = driven.open("/x")
        peer.text("?")
        assert peer.read_close() == (1011, "the handler failed")
    name = type(answer).__name__
    assert f"on_message of <lambda> returned {answer!r} ({name})" in caplog.text
    assert "return None or a message" in caplog.text


def counts(server: Any, kind: str, msg: Any, client: Any) -> Any:
    client.subscribe("all")
    client.bind("ann")
    return {
        "broadcast": lambda: server.broadcast("hi"),
        "publish": lambda: server.publish("all", "hi"),
        "client.publish": lambda: client.publish("all", "hi"),
        "send_to": lambda: server.send_to("ann", "hi"),
        "deliver": lambda: server.deliver("all", "hi"),
        "write_message": lambda: client.write_message("hi"),
    }[kind]()


KINDS_OF_COUNTS = [
    "broadcast", "publish", "client.publish", "send_to", "deliver", "write_message"
]  # fmt: skip


@pytest.mark.parametrize("json", [False, True], ids=["plain", "json"])
@pytest.mark.parametrize("deferred", [False, True], ids=["at-once", "in-thread"])
@pytest.mark.parametrize("kind", KINDS_OF_COUNTS)
def test_count_that_is_returned_is_no_answer(
    kind: str, deferred: bool, json: bool
) -> None:
    server = Server("", 0)
    returned = []

    def callback(msg: Any, client: Any) -> Any:
        returned.append(counts(server, kind, msg, client))
        return returned[-1]

    server.route("/x")(in_thread(callback) if deferred else callback)
    if json:
        server.use(JSONMessages())
    with TestServer(server) as tested:
        client = tested.connect("/x")
        client.send('"?"')
        expected = [] if kind == "client.publish" else ['"hi"' if json else "hi"]
        tested.wait_until(lambda: returned and len(client.messages) == len(expected))
        client.send('"?"')
        expected *= 2
        tested.wait_until(
            lambda: returned[1:] and len(client.messages) == len(expected)
        )
        assert list(client.messages) == expected
        assert client.is_open()


def test_count_that_a_function_of_http_returns_is_no_body() -> None:
    server = Server("", 0)
    server.http("/send")(lambda request: server.broadcast("hi"))
    with TestServer(server) as tested:
        assert tested.request("GET", "/send").status == 204


def test_count_is_a_number() -> None:
    with Driven() as driven:
        driven.open()
        count = driven.server.broadcast("hi")
        assert (count, count + 1, f"{count}", repr(count)) == (1, 2, "1", "1")


def test_route_takes_parameters_options_methods_and_callable_objects() -> None:
    class Greeter:
        def greet(self, msg: Any, client: Any) -> str:
            return f"{msg} {client.params['who']}"

        def __call__(self, msg: Any, client: Any) -> str:
            return f"{client.params['number'] + 1}"

    with Driven() as driven:
        greeter = Greeter()
        assert driven.server.route("/a/{who}", max_size=2)(greeter.greet)
        driven.server.route("/b/{number:int}")(greeter)
        peer = driven.open("/a/Ann")
        peer.text("Hi")
        assert peer.read_message() == "Hi Ann"
        peer.text("Hello")
        assert peer.read_close()[0] == 1009
        peer = driven.open("/b/41")
        peer.text("")
        assert peer.read_message() == "42"


def test_route_of_a_class_makes_one_handler_of_it() -> None:
    made: list[Any] = []

    with Driven() as driven:

        @driven.server.route("/counter/{name}", max_size=4)
        class Counter(WebSocket):
            def __init__(self, **options: Any) -> None:
                super().__init__(**options)
                self.count = 0
                made.append(self)

            def on_message(self, msg: Any, client: Any) -> str:
                self.count += 1
                return f"{client.params['name']} {self.count}"

        assert isinstance(Counter, type)
        first, second = driven.open("/counter/a"), driven.open("/counter/b")
        first.text("")
        assert first.read_message() == "a 1"
        second.text("")
        assert second.read_message() == "b 2"
        assert len(made) == 1
        assert made[0].max_size == 4


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (lambda msg: msg, "<lambda> must be a function of"),
        (one, r"one must be a function of \(msg, client\), not of \(msg"),
        (None, "must be a function"),
        (WebSocket(), "must be a function"),
        (dict, "must be an instance of WebSocket, not {}"),
    ],
)
def test_route_refuses_what_is_no_handler_with_its_name(
    target: Any, words: str
) -> None:
    server = Server()
    with pytest.raises(TypeError, match=words):
        server.route("/x")(target)
    assert server._router.find("/x") is None
    server.route("/x")(two)  # the path is not taken


def test_route_without_parentheses_is_refused_at_once() -> None:
    server = Server()
    with pytest.raises(TypeError, match="path must be a str, not <function"):

        @server.route  # type: ignore[arg-type]
        def reverse(msg: Any, client: Any) -> Any:
            return msg


@pytest.mark.parametrize("path", ["chat", "/{", "/a/*/b", ""])
def test_route_refuses_a_malformed_path_at_once(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        Server().route(path)


def test_route_refuses_unknown_options() -> None:
    with pytest.raises(TypeError, match="unknown option 'max_sise'"):
        Server().route("/x", max_sise=3)(two)
    with pytest.raises(ValueError, match="max_size"):
        FunctionHandler(two, max_size=-3)


def test_path_is_routed_once() -> None:
    server = Server()
    server.route("/x")(two)
    with pytest.raises(ValueError, match="'/x' is mounted already"):
        server.route("/x")(with_default)
    with pytest.raises(ValueError, match="'/x' is mounted already"):
        server.mount("/x", WebSocket())


# --- Paths ---------------------------------------------------------------------------


def test_same_handler_stands_behind_several_paths_with_its_parameters() -> None:
    handler = Recorder()
    with Driven(handler) as driven:
        driven.server.mount("/room/{name}", handler)
        driven.server.mount("/user/{id:int}/{rest:path}", handler)
        driven.server.mount("/files/*", handler)
        paths = ["/", "/room/tea", "/user/7/a/b", "/files/x", "/user/x"]
        for path in paths:
            driven.open(path)
        clients = list(handler.clients)
        assert [client.path for client in clients] == paths
        assert [client.params for client in clients] == [
            {},
            {"name": "tea"},
            {"id": 7, "rest": "a/b"},
            {},
            {},
        ]


def test_same_handler_behind_several_paths_is_told_of_each_client_once() -> None:
    handler = Recorder()
    with Driven(handler) as driven:
        driven.server.use(Pass())
        driven.server.mount("/a", handler)
        peers = [driven.open("/a"), driven.open("/b")]
        for peer in peers:
            peer.text("x")
            peer.leave()
        assert sorted(handler.names) == ["close"] * 2 + ["message"] * 2 + ["open"] * 2


def test_path_that_is_refused_leaves_the_handler_free() -> None:
    handler = WebSocket()
    server = Server(max_size=5)
    for path, error in (("nowhere", ValueError), (None, TypeError)):
        with pytest.raises(error, match="path"):
            server.mount(path, handler)  # type: ignore[arg-type]
    assert handler.server is None
    assert handler.max_size == 2**20
    other = Server()
    assert other.mount("/", handler).server is other
    # Not from where it stands already.
    with pytest.raises(ValueError, match="mounted already"):
        other.mount("/", handler)
    assert handler.server is other


def test_handler_is_not_mounted_on_two_servers() -> None:
    handler = Server().mount("/", WebSocket())
    with pytest.raises(InvalidState, match="another server"):
        Server().mount("/", handler)


def test_handler_may_be_mounted_while_the_server_runs() -> None:
    with running(Recorder()) as server:
        late = server.mount("/late/{x}", Echo())
        with open_peer(server, "/late/1") as peer:
            peer.text("here")
            assert peer.read_message() == "here"
            assert late.client().params == {"x": "1"}


# --- on_request ----------------------------------------------------------------------


def answered(driven: Driven, path: str = "/", *headers: str) -> tuple[int, str, str]:
    """Status, head and body of a refusal."""
    peer = driven.join()
    peer.write(request(path, *headers))
    data = peer.read_rest().decode()
    head, _, body = data.partition("\r\n\r\n")
    return int(head.split()[1]), head, body


def on_request(function: Any) -> Recorder:
    handler = Recorder()
    handler.on_request = function  # type: ignore[method-assign]
    return handler


def test_session_is_what_on_request_returns() -> None:
    session = {"user": "Ann"}
    with Driven(on_request(lambda request: session)) as driven:
        driven.open()
        assert driven.handler.client().session is session


def test_request_shows_whatever_is_known_before_the_upgrade() -> None:
    seen: list[Any] = []

    def look(request: Any) -> None:
        seen.extend(
            (
                request.method,
                request.path,
                dict(request.params),
                request.query["q"],
                request.headers["x-token"],
                request.cookies,
                request.authorization,
                request.origin,
                request.address,
            )
        )

    handler = on_request(look)
    with Driven() as driven:
        driven.server.mount("/room/{id:int}", handler)
        driven.open(
            "/room/7?q=1",
            "X-Token: abc",
            "Cookie: a=b",
            "Authorization: Bearer t",
            "Origin: https://a.example",
        )
    assert seen == [
        "GET",
        "/room/7",
        {"id": 7},
        "1",
        "abc",
        {"a": "b"},
        "Bearer t",
        "https://a.example",
        ("192.0.2.1", 12345),
    ]


def test_response_refuses_before_the_upgrade() -> None:
    refusal = Response(404, {"error": "no such room"}, {"X-Why": "gone"})
    with Driven(on_request(lambda request: refusal)) as driven:
        for _ in range(2):  # the same object every time
            status, head, body = answered(driven)
            assert (status, body) == (404, '{"error": "no such room"}')
            assert "X-Why: gone" in head
        assert driven.handler.events == []
        assert not driven.server.clients


def test_authentication_error_is_401_without_a_hint() -> None:
    def refuse(request: Any) -> None:
        raise AuthenticationError("user Ann has another password")

    with Driven(on_request(refuse)) as driven:
        status, head, body = answered(driven)
        assert status == 401
        assert "\r\nWWW-Authenticate: " in head
        assert "Ann" not in head + body
        assert driven.handler.events == []


def test_handshake_error_is_a_refusal_in_the_words_of_the_user() -> None:
    def refuse(request: Any) -> None:
        raise HandshakeError(409, "You are here already.", [("X-Why", "twice")])

    with Driven(on_request(refuse)) as driven:
        status, head, body = answered(driven)
        assert (status, body) == (409, "You are here already.\n")
        assert "X-Why: twice" in head


def test_on_request_that_raises_is_500_and_a_traceback_in_the_log(caplog: Any) -> None:
    with Driven(on_request(lambda request: 1 / 0)) as driven:
        status, head, body = answered(driven)
        assert status == 500
        assert "division" not in head + body
        assert driven.handler.events == []
    assert "ZeroDivisionError" in caplog.text


# --- What callbacks raise ------------------------------------------------------------


@pytest.mark.parametrize("place", ["on_open", "on_message", "on_ping", "on_pong"])
def test_authentication_error_of_a_callback_closes_with_1008_and_no_hint(
    place: str, caplog: Any
) -> None:
    handler = Recorder()

    def refuse(*args: Any) -> None:
        raise AuthenticationError("user Ann is banned")

    setattr(handler, place, refuse)
    with Driven(handler) as driven:
        peer = driven.open()
        peer.write(frame(TEXT, "x") + frame(9) + frame(10))
        first, payload = peer.read_frame()
        while first == 0x8A:
            first, payload = peer.read_frame()
        assert (first, payload) == (0x88, b"\x03\xf0authentication failed")
        assert "error" not in handler.names
    assert "Traceback" not in caplog.text


def test_authentication_error_of_on_close_changes_nothing() -> None:
    handler = Recorder()

    def refuse(client: Any) -> None:
        handler.note("close", client)
        raise AuthenticationError("too late")

    handler.on_close = refuse  # type: ignore[method-assign]
    with Driven(handler) as driven:
        assert driven.open().leave(4000) == (4000, "")
        assert handler.names == ["open", "close"]
        assert not driven.server.clients


@pytest.mark.parametrize("place", ["on_open", "on_message", "on_ping", "on_pong"])
def test_protocol_error_of_a_callback_is_the_fault_of_the_peer(
    place: str, caplog: Any
) -> None:
    handler = Recorder()

    def refuse(*args: Any) -> None:
        raise InvalidData("not what we talk about")

    setattr(handler, place, refuse)
    with Driven(handler) as driven:
        peer = driven.open()
        peer.write(frame(TEXT, "x") + frame(9) + frame(10) + frame(TEXT, "y"))
        first, payload = peer.read_frame()
        while first == 0x8A:
            first, payload = peer.read_frame()
        assert (first, payload) == (0x88, b"\x03\xefnot what we talk about")
        assert peer.read_rest() == b""
        assert handler.of("close") == [(1007, "not what we talk about", "bad_data")]
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("text", ["x" * 1000, "é" * 100, "\ud800", "a\nb"])
def test_protocol_error_may_say_anything(text: str) -> None:
    handler = Recorder()

    def refuse(msg: Any, client: Any) -> None:
        raise InvalidData(text)

    handler.on_message = refuse  # type: ignore[method-assign]
    with Driven(handler) as driven:
        peer = driven.open()
        peer.text("x")
        first, payload = peer.read_frame()
        assert (first, payload[:2]) == (0x88, b"\x03\xef")
        payload[2:].decode()
        assert len(payload) <= 125
        assert peer.read_rest() == b""
        assert handler.names == ["open", "close"]


def test_protocol_error_of_on_close_is_told_to_on_error() -> None:
    handler = Recorder()

    def refuse(client: Any) -> None:
        handler.note("close", client, client.close_code)
        raise InvalidData("too late")

    handler.on_close = refuse  # type: ignore[method-assign]
    with Driven(handler) as driven:
        assert driven.open().leave(4000) == (4000, "")
        assert handler.of("close") == [4000]
        assert [str(error) for error in handler.of("error")] == ["too late"]
        assert not driven.server.clients


def test_protocol_error_after_a_close_of_ours_does_not_change_its_code() -> None:
    handler = Recorder()

    def close_and_refuse(msg: Any, client: Any) -> None:
        client.close(4001, "enough")
        raise InvalidData("too late")

    handler.on_message = close_and_refuse  # type: ignore[method-assign]
    with Driven(handler) as driven:
        peer = driven.open()
        peer.text("x")
        assert peer.read_close() == (4001, "enough")
        assert peer.read_rest() == b""
        assert handler.of("close") == [(4001, "enough", "local")]
