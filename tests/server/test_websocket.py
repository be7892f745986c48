"""`WebSocket`: subclassing, options, replacing callbacks, and running by its name."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
from harness import DEADLINE, TEXT, Driven, Peer, Recorder, connect, frame, running

from simple_ws import BACKEND, Client, Deflate, Server, WebSocket

# --- The class of the README ---------------------------------------------------------


class WSHandler(WebSocket):
    def on_open(self, client: Any) -> None:
        client.greeted = True

    def on_message(self, msg: Any, target_client: Any) -> None:
        for client in self.clients:
            if client.is_open():
                client.write_message(msg)


def test_class_of_the_readme_draws_to_everybody() -> None:
    with Driven(WSHandler()) as driven:
        peers = [driven.open() for _ in range(3)]
        peers[1].text("line")
        assert [peer.read_message() for peer in peers] == ["line"] * 3
        assert all(client.greeted for client in driven.handler.clients)


def test_handler_without_any_callback_takes_everything() -> None:
    with Driven(WebSocket()) as driven:
        peer = driven.open()
        peer.text("x")
        peer.send(9, "ping")
        assert peer.read_frame() == (0x8A, b"ping")
        driven.advance(6.0)
        assert peer.read_frame()[0] == 0x89
        assert peer.leave() == (1000, "")


def test_callbacks_may_return_anything_where_no_answer_is_meant() -> None:
    handler = Recorder()
    for name in ("on_open", "on_close", "on_ping", "on_pong"):
        setattr(handler, name, lambda client: object())
    with Driven(handler) as driven:
        peer = driven.open()
        peer.send(9)
        peer.send(10)
        assert peer.read_frame() == (0x8A, b"")
        assert peer.leave() == (1000, "")
        assert handler.events == []


# --- By its name: Handler(host, port) ------------------------------------------------


class PortSeen(logging.Handler):
    """Learns the port from the line that tells where the server listens."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.port: int | None = None
        self.line = ""
        self._seen = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg.startswith("listening on"):
            self.line = record.getMessage()
            self.port = int(self.line.partition(" (")[0].rpartition(":")[2])
            self._seen.set()

    def wait(self) -> int:
        assert self._seen.wait(DEADLINE)
        assert self.port is not None
        return self.port


@pytest.fixture
def port_seen() -> Any:
    seen, log = PortSeen(), logging.getLogger("simple_ws")
    level = log.level
    log.addHandler(seen)
    log.setLevel(logging.INFO)
    yield seen
    log.removeHandler(seen)
    log.setLevel(level)


def test_handler_with_an_address_serves_until_it_is_stopped(
    port_seen: PortSeen,
) -> None:
    class Once(WebSocket):
        def on_message(self, msg: Any, client: Any) -> None:
            client.write_message(f"{msg} on {client.path}")
            assert self.server is not None
            self.server.stop(drain=DEADLINE)

    made: list[Once] = []
    thread = threading.Thread(
        target=lambda: made.append(Once("127.0.0.1", 0, max_size=10, ping=False))
    )
    thread.start()
    server = Server()
    server.port = port_seen.wait()
    with connect(server).shake("/any/path") as peer:
        peer.text("hi")
        assert peer.read_message() == "hi on /any/path"
        assert peer.read_close() == (1001, "the server stops")
        peer.close()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    (handler,) = made
    assert (handler.max_size, handler.ping, len(handler.clients)) == (10, False, 0)
    assert BACKEND in port_seen.line
    assert f"127.0.0.1:{server.port}" in port_seen.line


def test_options_of_a_handler_with_an_address_hold_for_its_server(
    monkeypatch: Any,
) -> None:
    served: list[Server] = []
    monkeypatch.setattr(Server, "run", lambda self: served.append(self))

    class Handler(WebSocket):
        ping_interval = 0.2
        backlog = 7

    Handler("", 0, max_connections=3, compression=False, origins="https://a.example")
    (server,) = served
    options = server.options
    assert (options.ping_interval, options.backlog) == (0.2, 7)
    assert options.max_connections == 3
    assert options.compression is None
    server._begin_in_memory(None)
    assert server.reactor.wheel.grain <= 0.05
    server._tear_down()


def test_port_without_a_host_is_every_interface(monkeypatch: Any) -> None:
    served: list[Server] = []
    monkeypatch.setattr(Server, "run", lambda self: served.append(self))
    WebSocket(port=0)
    WebSocket("", 0)
    assert [server.host for server in served] == ["", ""]


def test_host_without_a_port_is_refused() -> None:
    with pytest.raises(TypeError, match=r"port is missing: WSHandler\('localhost'"):
        WSHandler("localhost")


# --- Options -------------------------------------------------------------------------


def test_every_option_is_an_attribute() -> None:
    handler = WebSocket(max_size=5)
    assert handler.max_size == 5
    assert handler.ping is True
    assert handler.ping_interval == handler.ping_intervall == 5.0  # type: ignore[attr-defined]
    assert isinstance(handler.compression, Deflate)
    assert handler.slow_consumer == "close"


def test_attributes_of_the_class_are_options() -> None:
    class Quiet(WebSocket):
        ping = False
        max_size = 7
        compression = Deflate(level=1)  # type: ignore[assignment]

    class Louder(Quiet):
        max_size = 8

    assert Quiet().options.max_size == 7
    assert Quiet().options.ping is False
    assert Quiet().options.compression == Deflate(level=1)
    assert Louder().options.max_size == 8
    assert Louder(max_size=9).options.max_size == 9


def test_attribute_of_the_class_that_is_wrong_is_refused() -> None:
    class Wrong(WebSocket):
        max_size = "big"  # type: ignore[assignment]

    with pytest.raises(TypeError, match="max_size must be a whole number of bytes"):
        Wrong()


def test_old_spelling_of_ping_interval_is_taken() -> None:
    class Old(WebSocket):
        ping_intervall = 3

    assert WebSocket(ping_intervall=2).ping_interval == 2.0
    assert Old().options.ping_interval == 3.0
    assert Old(ping_interval=4).options.ping_interval == 4.0
    with pytest.raises(TypeError, match="are the same option"):
        WebSocket(ping_interval=1, ping_intervall=2)


def test_subclass_that_does_not_call_super_init_works() -> None:
    class Forgetful(WebSocket):
        max_size = 10

        def __init__(self, name: str) -> None:
            self.name = name

        def on_message(self, msg: Any, client: Any) -> str:
            return f"{self.name}: {msg}"

    with Driven(Forgetful("me")) as driven:
        peer = driven.open()
        peer.text("hi")
        assert peer.read_message() == "me: hi"
        assert len(driven.handler.clients) == 1
        peer.text("x" * 11)
        assert peer.read_close()[0] == 1009


def test_subclass_may_take_arguments_of_its_own_before_super_init() -> None:
    class Named(WebSocket):
        def __init__(self, name: str, **options: Any) -> None:
            self.name = name
            super().__init__(**options)

    handler = Named("x", max_size=3)
    assert (handler.name, handler.max_size) == ("x", 3)


def test_handlers_share_nothing() -> None:
    first, second = WebSocket(), WebSocket()
    assert first.clients is not second.clients
    with Driven(first) as driven:
        driven.server.mount("/second", second)
        driven.open("/")
        assert (len(first.clients), len(second.clients)) == (1, 0)


# --- Functions in place of methods ---------------------------------------------------


def test_plain_functions_may_be_put_in_place_of_every_method() -> None:
    heard: list[tuple[str, object]] = []
    handler = WebSocket()
    handler.on_request = lambda request: "session"  # type: ignore[method-assign]
    handler.on_open = lambda client: heard.append(("open", client.session))  # type: ignore[method-assign]
    handler.on_message = lambda msg, client: msg.upper()  # type: ignore[method-assign]
    handler.on_close = lambda client: heard.append(("close", client.close_code))  # type: ignore[method-assign]
    handler.on_ping = lambda client: heard.append(("ping", client.ping_payload))  # type: ignore[method-assign]
    handler.on_pong = lambda client: heard.append(("pong", client.pong_payload))  # type: ignore[method-assign]
    with Driven(handler) as driven:
        peer = driven.open()
        peer.text("shout")
        assert peer.read_message() == "SHOUT"
        peer.send(9, "a")
        peer.send(10, "b")
        assert peer.read_frame() == (0x8A, b"a")
        assert peer.leave(4000) == (4000, "")
        expected = [("open", "session"), ("ping", b"a"), ("pong", b"b")]
        assert heard == [*expected, ("close", 4000)]


def test_on_message_may_be_replaced_while_clients_are_connected() -> None:
    handler = WebSocket()
    with Driven(handler) as driven:
        peer = driven.open()
        for answer in ("one", "two"):
            handler.on_message = lambda msg, client, answer=answer: answer  # type: ignore[method-assign,misc]
            peer.text("x")
            assert peer.read_message() == answer
            assert driven.open(then=frame(TEXT, "y")).read_message() == answer


def test_on_message_may_replace_itself_between_two_messages_of_one_read() -> None:
    handler = WebSocket()

    def first(msg: str, client: Client) -> str:
        handler.on_message = lambda msg, client: f"second {msg}"  # type: ignore[method-assign]
        return f"first {msg}"

    handler.on_message = first  # type: ignore[method-assign,assignment]
    with Driven(handler) as driven:
        peer = driven.open()
        peer.write(frame(TEXT, "a") + frame(TEXT, "b"))
        assert peer.read_message() == "first a"
        assert peer.read_message() == "second b"


def test_on_message_may_be_replaced_in_on_open() -> None:
    class Handler(WebSocket):
        def on_open(self, client: Any) -> None:
            self.on_message = lambda msg, client: "replaced"  # type: ignore[method-assign]

    with Driven(Handler()) as driven:
        assert driven.open(then=frame(TEXT, "x")).read_message() == "replaced"


# --- client_class --------------------------------------------------------------------


class Player(Client):
    score = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.moves: list[str] = []

    def move(self, where: str) -> None:
        self.moves.append(where)
        self.score += 1
        self.write_message({"score": self.score})


class Game(Recorder):
    client_class = Player

    def on_message(self, msg: Any, client: Any) -> None:
        client.move(msg)


def test_client_class_gives_connections_state_and_methods() -> None:
    with Driven(Game()) as driven:
        first, second = driven.open(), driven.open()
        first.text("up")
        first.text("left")
        second.text("down")
        assert [first.read_message() for _ in range(2)] == [
            '{"score":1}',
            '{"score":2}',
        ]
        assert second.read_message() == '{"score":1}'
        moves = [client.moves for client in driven.handler.clients]
        assert moves == [["up", "left"], ["down"]]
        assert repr(driven.handler.client()).startswith("<Player ")


def test_client_class_may_override_write_message() -> None:
    class Shouting(Client):
        def write_message(self, msg: Any, binary: bool | None = None) -> Any:
            return super().write_message(msg.upper(), binary)

    class Handler(WebSocket):
        client_class = Shouting

        def on_message(self, msg: Any, client: Any) -> None:
            client.write_message(msg)

    with Driven(Handler()) as driven:
        peer: Peer = driven.open()
        peer.text("hi")
        assert peer.read_message() == "HI"
        assert driven.server.broadcast("all") == 1
        assert peer.read_message() == "ALL"


def test_answers_go_through_an_overridden_write_message() -> None:
    class Shouting(Client):
        def write_message(self, msg: Any, binary: bool | None = None) -> Any:
            return super().write_message(msg.upper(), binary)

    class Handler(WebSocket):
        client_class = Shouting

        def on_message(self, msg: Any, client: Any) -> Any:
            return msg

    with Driven(Handler()) as driven:
        peer = driven.open()
        peer.text("hi")
        assert peer.read_message() == "HI"


# --- clients -------------------------------------------------------------------------


def test_clients_may_be_walked_while_they_come_and_go() -> None:
    with Driven() as driven:
        peers = [driven.open() for _ in range(4)]
        walked = 0
        for client in driven.handler.clients:
            walked += 1
            if walked == 1:
                peers[3].leave()
                driven.turn()
                driven.open()
            client.write_message("x")
        assert walked == 4
        assert len(driven.handler.clients) == 4
        assert len(list(driven.handler.clients)) == 4


def test_host_and_port_are_those_of_the_server() -> None:
    handler = Recorder()
    assert (handler.host, handler.port) == (None, None)
    with running(handler) as server:
        assert (handler.host, handler.port) == (server.host, server.port)
        assert handler.port
