"""The examples, each driven as its users would; docs/seeds.md and docs/migrating.md.

The tests marked ``browser`` open the pages in a real Chromium; see test_drawing_board.
"""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import CLOSE, PING, TEXT, Peer, Recorder, frame, open_peer, running
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from whole import test_drawing_board
from whole.test_drawing_board import DEADLINE, Program, fetch

import simple_ws
import simple_ws.aio
from simple_ws.testing import TestServer

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
pytestmark = [
    pytest.mark.one_backend,  # programs like those of users: what they show is tested
    pytest.mark.skipif(
        not EXAMPLES.exists(), reason="no checkout: the examples are not here"
    ),
]

browser, programs = test_drawing_board.browser, test_drawing_board.programs


class Example(Program):
    """An example on a free port, with the address that it prints."""

    def __init__(self, script: str, *options: str, port: int = 0) -> None:
        super().__init__(f"examples/{script}", str(port), *options)
        self.port = 0

    def wait(self) -> Example:
        self.port = int(self.expect(r"(?:ws|http)://127\.0\.0\.1:(\d+)/")[1])
        return self

    def open(self, path: str = "/", **how: Any) -> ClientConnection:
        return connect(f"ws://127.0.0.1:{self.port}{path}", **how)

    def fetch(self, path: str) -> tuple[int, bytes]:
        return fetch(f"http://127.0.0.1:{self.port}{path}")


Start = Callable[..., Example]


@pytest.fixture
def start(programs: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts examples, with the package that is being tested."""
    package = str(Path(simple_ws.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", package)

    def start(script: str, *options: str, port: int = 0) -> Example:
        example = Example(script, *options, port=port)
        programs.callback(example.stop)
        return example.wait()

    return start


def say(client: ClientConnection, data: object) -> None:
    client.send(json.dumps(data))


def hear(client: ClientConnection) -> Any:
    return json.loads(client.recv(DEADLINE))


def end_of(client: ClientConnection) -> tuple[int, str]:
    """Wait for the end; return the code and the reason that the server gave."""
    ended = False
    while not ended:
        try:
            client.recv(DEADLINE)
        except ConnectionClosed:
            ended = True
    close = client.protocol.close_rcvd
    assert close, "no close frame came"
    return close.code, close.reason


# ---- All of them ---------------------------------------------------------------------

#: The scripts, each with a path that speaks WebSocket.
SERVERS = {
    "pywss/example1.py": "/test/example/1",
    "pywss/example2.py": "/test/example/2",
    "pywss/example3.py": "/test/example/3",
    "pywss/example4.py": "/test/example/4",
    "pywss/example5.py": "/test/example/5",
    "websocket_server/server.py": "/",
    "websocket_server/headers.py": "/headers",
    "websocket_server/reverse.py": "/reverse",
    "websocket_server/notify.py": "/notify",
    "gmwebsockets/server.py": "/",
    "websockets_tutorial/server.py": "/nowtime",
}

CLIENTS = ["websockets_tutorial/client_sync.py", "websockets_tutorial/client_async.py"]


def test_every_example_is_tested() -> None:
    found = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.py")}
    # Those are in loop/test_asyncio_bridge.py and test_board.py.
    others = {path for path in found if path.startswith(("loops/", "board/"))}
    assert found - others == {*SERVERS, *CLIENTS}


@pytest.mark.parametrize("script", SERVERS)
def test_example_stops_cleanly_at_ctrl_c(start: Start, script: str) -> None:
    if sys.platform == "win32":
        pytest.skip("Ctrl-C cannot be sent to one process alone")
    example = start(script)
    with example.open(SERVERS[script]) as client:
        example.process.send_signal(signal.SIGINT)
        assert end_of(client)[0] == 1001
    rest = example.rest()
    assert example.process.returncode == 0
    assert not [line for line in rest if "Traceback" in line or "Error" in line]


def test_every_example_is_in_the_table() -> None:
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for script in {*SERVERS, *CLIENTS, "board/board.py"}:
        assert f"]({script})" in table


# ---- Pywss ---------------------------------------------------------------------------


def test_function_on_a_path_answers_with_a_suffix(start: Start) -> None:
    example = start("pywss/example1.py")
    with example.open("/test/example/1") as client:
        client.send("hello, pywss!")
        assert hear(client) == "hello, pywss! - data from pywss"
    with pytest.raises(InvalidStatus) as refused:
        example.open("/test/example/2")
    assert refused.value.response.status_code == 404


def test_radio_reaches_everybody_again_and_again(start: Start) -> None:
    example = start("pywss/example2.py", "--seconds", "0.05")
    first, second = example.open("/test/example/2"), example.open("/test/example/2")
    with first, second:
        for client in (first, second, first, second):
            assert hear(client) == "Hello, Welcome To Pywss-Radio"


def test_first_message_with_a_name_lets_in(start: Start) -> None:
    example = start("pywss/example3.py")
    with example.open("/test/example/3") as client:
        say(client, {"name": "Ann"})
        say(client, "Is anybody there?")
        assert hear(client) == "Ann said: Is anybody there?"


@pytest.mark.parametrize("message", ['{"user": "Ann"}', '["name"]', "null", b"name"])
def test_first_message_without_a_name_ends_it(start: Start, message: Any) -> None:
    example = start("pywss/example3.py")
    with example.open("/test/example/3") as client:
        client.send(message)
        assert end_of(client) == (1008, "authentication failed")


def test_silence_ends_it_when_the_time_for_a_name_is_over(start: Start) -> None:
    example = start("pywss/example3.py", "--auth-timeout", "0.2")
    with example.open("/test/example/3") as client:
        assert end_of(client) == (1008, "no identity within auth_timeout 0.2 s")


def test_first_message_that_is_not_json_ends_it(start: Start) -> None:
    example = start("pywss/example3.py")
    with example.open("/test/example/3") as client:
        client.send("name=Ann")
        assert end_of(client)[0] == 1007


def test_handler_gets_what_middleware_has_prepared(start: Start) -> None:
    example = start("pywss/example4.py")
    with example.open("/test/example/4") as client:
        say(client, ["no", "object"])
        assert hear(client) == {"error": "an object is needed"}
        say(client, {"name": "  example4 ", "age": 4})
        data = {"name": "example4", "age": 4}
        assert hear(client) == {"type": "dict", "data": data}
    example.expect(r"^<class 'dict'>$")
    assert not [line for line in example.seen if "list" in line]


@contextmanager
def chatting(example: Example, *names: str) -> Iterator[list[ClientConnection]]:
    """People in the chat of example 5, who have heard that all of them are online."""
    with ExitStack() as stack:
        people = []
        for name in names:
            people.append(stack.enter_context(example.open("/test/example/5")))
            say(people[-1], {"name": name})
            for person in people:
                assert name in hear(person)["online"]
        yield people


def test_named_people_write_to_each_other_and_to_nobody_else(start: Start) -> None:
    example = start("pywss/example5.py")
    with chatting(example, "Ann", "Bob", "Cid") as (ann, bob, cid):
        say(ann, {"to": "Bob", "text": "Hello!"})
        for person in (ann, bob):
            assert hear(person) == {"from": "Ann", "to": "Bob", "text": "Hello!"}
        say(bob, {"to": "Cid", "text": "Psst"})
        # The first that Cid hears: what Ann wrote to Bob did not come here.
        assert hear(cid) == {"from": "Bob", "to": "Cid", "text": "Psst"}


def test_all_connections_of_a_person_get_the_message(start: Start) -> None:
    example = start("pywss/example5.py")
    with chatting(example, "Ann", "Bob", "Bob") as (ann, *bobs):
        say(ann, {"to": "Bob", "text": "To both of you"})
        for person in (ann, *bobs):
            assert hear(person)["text"] == "To both of you"


def test_everybody_is_told_who_comes_and_goes(start: Start) -> None:
    example = start("pywss/example5.py")
    with chatting(example, "Ann") as (ann,):
        with chatting(example, "Bob"):
            assert hear(ann) == {"online": ["Ann", "Bob"]}
        assert hear(ann) == {"online": ["Ann"]}


def test_sender_is_told_what_was_wrong(start: Start) -> None:
    malformed = "a message needs a 'to' and a 'text'"
    with chatting(start("pywss/example5.py"), "Ann") as (ann,):
        for message, error in (
            ({"to": "Cid", "text": "Hi"}, "Cid is not online"),
            ({"to": "Ann"}, malformed),
            ({"to": ["Ann"], "text": "Hi"}, malformed),
            ("Hi", malformed),
        ):
            say(ann, message)
            assert hear(ann) == {"error": error}
        say(ann, {"to": "Ann", "text": "note to myself"})
        assert hear(ann)["text"] == "note to myself"


def test_name_that_is_none_does_not_let_into_the_chat(start: Start) -> None:
    example = start("pywss/example5.py")
    with chatting(example, "Ann") as (ann,):
        for name in ("", "   ", "x" * 41, 7, None):
            with example.open("/test/example/5") as other:
                say(other, {"name": name})
                assert end_of(other)[0] == 1008
            assert hear(ann) == {"online": ["Ann"]}


# ---- python-websocket-server ---------------------------------------------------------


def test_callbacks_tell_of_clients_that_come_speak_and_leave(start: Start) -> None:
    example = start("websocket_server/server.py")
    with example.open(origin="http://example.com") as first:
        number = example.expect(r"^New client connected and was given id (\d+)$")[1]
        assert first.recv(DEADLINE) == f"You are client {number}"
        assert first.recv(DEADLINE) == "Hey all, a new client has joined us"
        first.send("good morning")
        said = rf"^Client\({number}\) from http://example.com said: 'good morning'$"
        example.expect(said)
        assert first.recv(DEADLINE) == f"Client {number}: good morning"
    example.expect(rf"^Client\({number}\) disconnected: peer$")


def test_message_goes_to_all_and_a_new_client_is_announced(start: Start) -> None:
    example = start("websocket_server/server.py")
    with example.open("/any/path") as first:
        mine = first.recv(DEADLINE).removeprefix("You are client ")
        first.recv(DEADLINE)
        with example.open() as second:
            other = second.recv(DEADLINE).removeprefix("You are client ")
            for client in (first, second):
                joined = client.recv(DEADLINE)
                assert joined == "Hey all, a new client has joined us"
            second.send("hello all")
            for client in (first, second):
                assert client.recv(DEADLINE) == f"Client {other}: hello all"
        assert first.recv(DEADLINE) == f"Client {other} has left us"
        first.send(b"bytes")
        assert first.recv(DEADLINE) == f"Client {mine}: b'bytes'"


def test_message_goes_to_one_client_alone(start: Start) -> None:
    example = start("websocket_server/server.py")
    with ExitStack() as stack:
        clients = [stack.enter_context(example.open()) for _ in range(3)]
        first, second, third = clients
        numbers = [c.recv(DEADLINE).removeprefix("You are client ") for c in clients]
        first.send(f"@{numbers[1]} for you")
        first.send("@12345678 for nobody")
        first.send("that is all")
        unwanted = "Hey all, a new client has joined us"

        def heard(client: ClientConnection) -> list[str]:
            lines = iter(
                lambda: client.recv(DEADLINE), f"Client {numbers[0]}: that is all"
            )
            return [line for line in lines if line != unwanted]

        assert heard(first) == [
            f"To client {numbers[1]} alone: for you",
            "There is no client 12345678",
        ]
        assert heard(second) == [f"Client {numbers[0]}, to you alone: for you"]
        assert heard(third) == []


def test_message_names_a_header_and_its_value_comes_back(start: Start) -> None:
    example = start("websocket_server/headers.py")
    more = [("X-Colour", "red"), ("X-Colour", "blue")]
    with example.open("/headers", additional_headers=more) as client:
        for name, value in (
            ("Host", f"127.0.0.1:{example.port}"),
            ("sec-websocket-version", "13"),
            ("x-colour", "red, blue"),
            ("X-Size", "There is no header 'X-Size'"),
        ):
            client.send(name)
            assert client.recv(DEADLINE) == value
        client.send(b"Host")
        assert "There is no header" in str(client.recv(DEADLINE))


@pytest.mark.parametrize("path", ["/reverse", "/reverse/asked"])
def test_text_comes_back_reversed_with_dots(start: Start, path: str) -> None:
    example = start("websocket_server/reverse.py")
    with example.open(path) as client:
        for text, answer in (("abc", "c.b.a"), ("é☺", "☺.é"), ("x", "x"), ("", "")):
            client.send(text)
            assert client.recv(DEADLINE) == answer


def test_each_connection_has_a_state_of_its_own(start: Start) -> None:
    example = start("websocket_server/reverse.py")
    with example.open("/reverse") as first:
        first.send("a")
        first.recv(DEADLINE)
        first.send("b")
        first.recv(DEADLINE)
        with example.open("/reverse") as second:
            second.send(b"bytes")
            assert end_of(second) == (1003, "only text can be reversed here")
        example.expect(r"^Connection \(\d+\) closed after 0 texts$")
    example.expect(r"^Connection \(\d+\) closed after 2 texts$")


def status_for(example: Example, path: str, origin: str | None) -> int:
    """HTTP status of an opening handshake."""
    try:
        with example.open(path, origin=origin):
            return 101
    except InvalidStatus as error:
        return int(error.response.status_code)


def test_origin_is_validated_by_a_list(start: Start) -> None:
    example = start("websocket_server/reverse.py")
    own = f"http://127.0.0.1:{example.port}"
    assert status_for(example, "/reverse", None) == 101
    assert status_for(example, "/reverse", own) == 101
    for other in ("http://127.0.0.1:1", "https://example.com", "null"):
        assert status_for(example, "/reverse", other) == 403


def test_origin_is_validated_by_a_function(start: Start) -> None:
    example = start("websocket_server/reverse.py")
    assert status_for(example, "/reverse/asked", "http://127.0.0.1:1") == 101
    example.expect(r"^The origin is: 'http://127.0.0.1:1'$")
    assert status_for(example, "/reverse/asked", "https://example.com") == 403
    example.expect(r"^The origin is: 'https://example.com'$")
    assert status_for(example, "/reverse/asked", None) == 101
    example.expect(r"^The origin is: None$")


@pytest.fixture
def events(start: Start) -> Iterator[EventSources]:
    with ExitStack() as stack:
        yield EventSources(start("websocket_server/notify.py"), stack)


class EventSources:
    """Sources and listeners of notify.py."""

    def __init__(self, example: Example, stack: ExitStack) -> None:
        self._example = example
        self._stack = stack

    def source(self) -> tuple[ClientConnection, int]:
        client = self._stack.enter_context(self._example.open("/notify"))
        welcome = re.fullmatch(r"this is the event source (\d+)", client.recv(DEADLINE))
        assert welcome
        return client, int(welcome[1])

    def listener(self, source: int, priority: int) -> ClientConnection:
        client = self._stack.enter_context(self._example.open("/listen"))
        client.send(f"{source} {priority}")
        assert client.recv(DEADLINE) == (
            f"listening to events from {source} with priority {priority}"
        )
        return client


def test_event_goes_to_the_listener_of_highest_priority_alone(
    events: EventSources,
) -> None:
    source, number = events.source()
    low, high, middle = (events.listener(number, p) for p in (-1, 20, 3))
    for text in ("one", "two"):
        source.send(text)
        assert high.recv(DEADLINE) == f"Source {number}: {text}"
        assert re.fullmatch(r"listener \d+ has it", source.recv(DEADLINE))
    for client in (high, middle, low):  # the next in turn, each time one leaves
        source.send(f"before {client.id}")
        assert client.recv(DEADLINE) == f"Source {number}: before {client.id}"
        client.close()
        source.recv(DEADLINE)
    source.send("anybody?")
    assert source.recv(DEADLINE) == "nobody listens"


def test_listener_that_is_killed_is_followed_by_the_next(events: EventSources) -> None:
    source, number = events.source()
    low, high = events.listener(number, 1), events.listener(number, 2)

    def notify(text: str) -> str:
        source.send(text)
        return str(source.recv(DEADLINE))

    first = notify("to the first")
    assert high.recv(DEADLINE) == f"Source {number}: to the first"
    high.socket.shutdown(socket.SHUT_RDWR)  # without a word
    while notify("to the next") == first:
        pass  # until the server has noticed
    assert low.recv(DEADLINE) == f"Source {number}: to the next"


def test_latest_of_equal_listeners_gets_the_event(events: EventSources) -> None:
    source, number = events.source()
    events.listener(number, 5)
    latest = events.listener(number, 5)
    source.send("hello")
    assert latest.recv(DEADLINE) == f"Source {number}: hello"


def test_listener_hears_the_sources_it_asked_for_and_when_they_leave(
    events: EventSources,
) -> None:
    (first, one), (second, two) = events.source(), events.source()
    listener, other = events.listener(one, 1), events.listener(two, 1)
    second.send("for the other")
    assert other.recv(DEADLINE) == f"Source {two}: for the other"
    listener.send(f"{two} 2")
    listener.recv(DEADLINE)
    second.send("for the first")
    assert listener.recv(DEADLINE) == f"Source {two}: for the first"
    first.close()
    assert listener.recv(DEADLINE) == f"event source {one} has left"
    listener.send(f"{one} 1")
    assert listener.recv(DEADLINE) == f"{one} not available"


@pytest.mark.parametrize("text", ["", "1", "one two", "c.b.a", "1.5 2", b"\xff"])
def test_listener_that_sends_no_two_numbers_is_told_so(
    events: EventSources, text: Any
) -> None:
    _, number = events.source()
    listener = events.listener(number, 1)
    listener.send(text)
    wanted = "send two numbers: an event source and a priority"
    assert listener.recv(DEADLINE) == wanted


# ---- GMWebSockets --------------------------------------------------------------------


@pytest.fixture
def gm(start: Start) -> Example:
    """The server without its timer, whose messages would come in between."""
    return start("gmwebsockets/server.py", "--every", "3600")


def ask(client: ClientConnection, kind: str, /, **data: Any) -> None:
    say(client, {"type": kind, "data": data})


@contextmanager
def bound(example: Example, *names: Any) -> Iterator[list[ClientConnection]]:
    """Clients of the GMWebSockets example, each with an identity."""
    with ExitStack() as stack:
        clients = []
        for name in names:
            client = stack.enter_context(example.open())
            ask(client, "bind", client_id=name)
            answer = hear(client)
            assert (answer["type"], answer["data"]["client_id"]) == ("bind", name)
            client.socket_id = answer["data"]["socket_id"]
            clients.append(client)
        yield clients


def test_json_ping_is_answered_with_pong(gm: Example) -> None:
    with gm.open() as client:
        say(client, {"type": "pong"})  # nothing comes of it
        say(client, {"type": "ping"})
        assert hear(client) == {"type": "pong"}


def raw(example: Example, then: object = None) -> Peer:
    """A peer that answers no pings.

    Args:
        example: the server.
        then: a message that comes along with the handshake, before any time-out.
    """
    sock = socket.create_connection(("127.0.0.1", example.port), timeout=DEADLINE)
    return Peer(sock).shake("/", then=frame(TEXT, json.dumps(then)) if then else b"")


def test_bound_client_stays_and_a_silent_one_is_cut_off(start: Start) -> None:
    example = start("gmwebsockets/server.py", "--auth-timeout", "0.2")
    with raw(example, {"type": "bind", "data": {"client_id": 1}}) as client:
        assert json.loads(client.read_message())["data"]["client_id"] == 1
        with example.open() as silent:
            assert end_of(silent) == (1008, "no identity within auth_timeout 0.2 s")
        client.text('{"type": "ping"}')
        assert json.loads(client.read_message()) == {"type": "pong"}


def test_ping_of_json_is_no_identity(start: Start) -> None:
    example = start("gmwebsockets/server.py", "--auth-timeout", "0.2")
    with raw(example, {"type": "ping"}) as client:
        assert json.loads(client.read_message()) == {"type": "pong"}
        assert client.read_close() == (1008, "no identity within auth_timeout 0.2 s")


def test_send_to_all_reaches_bound_and_unbound(gm: Example) -> None:
    with bound(gm, 1) as (first,), gm.open() as unbound:
        ask(unbound, "send_to_all", message="hello all")
        for client in (first, unbound):
            message = hear(client)
            assert message["type"] == "message"
            assert message["data"]["message"] == "hello all"
            assert message["data"]["client_id"] is None
        ask(first, "send_to_all", message={"any": ["thing"]})
        assert hear(unbound)["data"] == {
            "socket_id": first.socket_id,
            "client_id": 1,
            "message": {"any": ["thing"]},
        }


def test_send_to_all_clients_reaches_the_bound_alone(gm: Example) -> None:
    with bound(gm, 1, 2) as clients, gm.open() as unbound:
        ask(unbound, "send_to_all_clients", message="members only")
        for client in clients:
            assert hear(client)["data"]["message"] == "members only"
        say(unbound, {"type": "ping"})
        assert hear(unbound) == {"type": "pong"}  # and nothing before it


def test_send_to_client_reaches_all_sockets_of_an_identity(gm: Example) -> None:
    with bound(gm, "ann", "bob", "bob") as (ann, *bobs):
        ask(ann, "send_to_client", client_id="bob", message="hi")
        for bob in bobs:
            assert hear(bob)["data"]["message"] == "hi"
        ask(ann, "send_to_client", client_id="cid", message="hi")
        assert hear(ann)["data"]["message"] == "client cid is not online"


def test_send_to_socket_reaches_one_connection(gm: Example) -> None:
    with bound(gm, "ann", "bob", "bob") as (ann, first, second):
        ask(ann, "send_to_socket", socket_id=second.socket_id, message="you")
        assert hear(second)["data"]["message"] == "you"
        say(first, {"type": "ping"})
        assert hear(first) == {"type": "pong"}
        ask(ann, "send_to_socket", socket_id=0, message="you")
        assert hear(ann)["data"]["message"] == "socket 0 is not online"


def test_group_gets_what_is_sent_to_it_and_counts_its_clients(gm: Example) -> None:
    with bound(gm, "ann", "bob", "bob", "cid") as (ann, bob, again, cid):
        for client, count in ((ann, 1), (bob, 2)):
            ask(client, "join", group_id="red")
            answer = {"type": "count", "data": {"group_id": "red", "count": count}}
            assert hear(client) == answer
        ask(cid, "send_to_group", group_id="red", message="reds!")
        for client in (ann, bob, again):  # a client joins with all its sockets
            assert hear(client)["data"]["message"] == "reds!"

        ask(bob, "leave", group_id="red")
        assert hear(bob)["data"]["count"] == 1
        ask(cid, "send_to_group", group_id="red", message="only ann")
        assert hear(ann)["data"]["message"] == "only ann"
        for client in (bob, cid):
            ask(client, "count", group_id="red")
            assert hear(client)["data"]["count"] == 1
        ann.close()
        ask(cid, "is_client_id_online", client_id="ann")
        while hear(cid)["data"]["online"]:  # until the server has noticed
            ask(cid, "is_client_id_online", client_id="ann")
        ask(cid, "count", group_id="red")
        assert hear(cid)["data"]["count"] == 0


def test_online_is_told_of_sockets_and_clients(gm: Example) -> None:
    with bound(gm, 7) as (client,):
        for kind, data, online in (
            ("is_client_id_online", {"client_id": 7}, True),
            ("is_client_id_online", {"client_id": "7"}, False),
            ("is_socket_id_online", {"socket_id": client.socket_id}, True),
            ("is_socket_id_online", {"socket_id": 0}, False),
        ):
            ask(client, kind, **data)
            assert hear(client) == {
                "type": "online",
                "data": {**data, "online": online},
            }


def test_session_is_kept_per_socket(gm: Example) -> None:
    with bound(gm, 1, 2) as (first, second):
        ask(first, "set_session", level=3)
        assert hear(first) == {"type": "session", "data": {"level": 3}}
        ask(first, "update_session", colour="red")
        assert hear(first)["data"] == {"level": 3, "colour": "red"}
        ask(second, "get_session")
        assert hear(second)["data"] == {}
        ask(first, "set_session", kind="other")
        assert hear(first)["data"] == {"kind": "other"}
        ask(first, "update_session", **{str(number): 0 for number in range(20)})
        assert hear(first)["data"]["message"] == "a session holds 20 values"


def test_status_is_told_over_plain_http(gm: Example) -> None:
    status, body = gm.fetch("/status")
    assert (status, json.loads(body)) == (200, {"online_num": 0})
    with bound(gm, 1), gm.open() as unbound:
        say(unbound, {"type": "ping"})
        hear(unbound)
        assert json.loads(gm.fetch("/status")[1]) == {"online_num": 2}


def test_timer_tells_everybody_the_count(start: Start) -> None:
    example = start("gmwebsockets/server.py", "--every", "0.05")
    with example.open() as client:
        for _ in range(2):
            assert hear(client) == {"type": "status", "data": {"online_num": 1}}


def test_client_that_answers_no_ping_is_cut_off(start: Start) -> None:
    example = start("gmwebsockets/server.py", "--heartbeat", "0.1", "--every", "3600")
    with raw(example) as peer:
        first, _ = peer.read_frame()
        assert first == 0x80 | PING
        first, payload = peer.read_frame()
        assert first == 0x80 | CLOSE
        assert (
            payload
            == (1011).to_bytes(2, "big")
            + b"no answer to a ping within ping_timeout 0.2 s"
        )


def test_heartbeat_is_15_seconds_times_three(start: Start) -> None:
    example = start("gmwebsockets/server.py")
    line = "Pings after 15 s of silence, cuts off after 45 s\n"
    assert example.seen[0] == line


def test_message_outside_the_convention_is_answered_with_an_error(
    gm: Example,
) -> None:
    no_name = "data needs client_id, a text or a whole number"
    with gm.open() as client:
        for message in ({"type": "dance", "data": {}}, {}, {"type": ["ping"]}, "ping"):
            say(client, message)
            assert hear(client) == {"type": "not match"}
        for kind, data, error in (
            ("bind", None, no_name),
            ("bind", {"client_id": [1]}, no_name),
            ("join", {"group_id": 1}, "bind first"),
            ("send_to_all", [], "data needs a message"),
        ):
            say(client, {"type": kind, "data": data})
            answer = {"type": kind, "message": error}
            assert hear(client) == {"type": "error", "data": answer}


def test_text_that_is_not_json_ends_it(gm: Example) -> None:
    with gm.open() as client:
        client.send("hello")
        assert end_of(client)[0] == 1007


# ---- websockets tutorial -------------------------------------------------------------


@contextmanager
def in_nowtime(example: Example) -> Iterator[ClientConnection]:
    """A client that has been welcomed in the room."""
    with example.open("/nowtime") as client:
        welcome = {"status": 200, "event": "notification", "data": "Welcom"}
        assert hear(client) == welcome
        yield client


def test_room_is_told_the_time_again_and_again(start: Start) -> None:
    example = start("websockets_tutorial/server.py", "--seconds", "0.05")
    with in_nowtime(example) as first, in_nowtime(example) as second:
        for client in (first, second):
            times = [hear(client) for _ in range(3)]
            assert all(t["status"] == 200 and t["event"] == "nowtime" for t in times)
            pattern = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"
            assert all(re.fullmatch(pattern, t["data"]) for t in times)
            assert times[0]["data"] < times[1]["data"] < times[2]["data"]


def test_clock_runs_only_while_somebody_is_in_the_room(start: Start) -> None:
    example = start("websockets_tutorial/server.py")
    for _ in range(2):
        with in_nowtime(example):
            example.expect(r"^/nowtime: somebody is here, the clock runs$")
            with in_nowtime(example) as second:
                say(second, {"event": "close"})
                end_of(second)
            example.expect(r"^Leave Room /nowtime: local$")
        example.expect(r"^Leave Room /nowtime: peer$")  # the clock still ran
        example.expect(r"^/nowtime: nobody is here, the clock stands$")
    assert len([line for line in example.seen if "clock" in line]) == 4


def test_client_leaves_with_a_close_event(start: Start) -> None:
    example = start("websockets_tutorial/server.py")
    with in_nowtime(example) as client:
        assert hear(client)["event"] == "nowtime"
        say(client, {"event": "something else"})
        say(client, "close")
        say(client, {"event": "close"})
        assert hear(client) == {"message": "bye"}
        assert end_of(client) == (1000, "")


def test_unknown_path_is_told_so_and_closed(start: Start) -> None:
    example = start("websockets_tutorial/server.py")
    for path in ("/", "/other", "/nowtime/x"):
        with example.open(path) as client:
            notice = {"status": 200, "event": "notification", "data": "Unknown url"}
            assert hear(client) == notice
            assert end_of(client) == (1000, "")


@pytest.mark.parametrize("script", CLIENTS)
def test_client_hears_ten_times_and_leaves(
    start: Start, programs: ExitStack, script: str
) -> None:
    server = start("websockets_tutorial/server.py", "--seconds", "0.02")
    client = Program(f"examples/{script}", f"ws://127.0.0.1:{server.port}/nowtime")
    programs.callback(client.stop)
    lines = client.rest()
    assert client.process.returncode == 0, lines
    welcome, *times = map(json.loads, lines[:10])
    assert welcome["data"] == "Welcom"
    assert {time["event"] for time in times} == {"nowtime"}
    assert lines[10] == "send close\n"
    assert json.loads(lines[-1]) == {"message": "bye"}
    server.expect(r"^/nowtime: nobody is here, the clock stands$")


# ---- Pages ---------------------------------------------------------------------------

#: Each page, with the script that serves it and its file.
PAGES = {
    "/chat.html": ("pywss/example5.py", "pywss/pages/chat.html"),
    "/client.html": (
        "websocket_server/server.py",
        "websocket_server/pages/client.html",
    ),
    "/headers.html": (
        "websocket_server/headers.py",
        "websocket_server/pages/headers.html",
    ),
    "/reverse.html": (
        "websocket_server/reverse.py",
        "websocket_server/pages/reverse.html",
    ),
    "/notify.html": (
        "websocket_server/notify.py",
        "websocket_server/pages/notify.html",
    ),
    "/listen.html": (
        "websocket_server/notify.py",
        "websocket_server/pages/listen.html",
    ),
    "/": ("gmwebsockets/server.py", "gmwebsockets/pages/index.html"),
}


def test_every_page_is_tested() -> None:
    found = {p.relative_to(EXAMPLES).as_posix() for p in EXAMPLES.rglob("*.html")}
    others = {file for file in found if file.startswith("board/")}  # in test_board.py
    assert found - others == {file for _, file in PAGES.values()}


@pytest.mark.parametrize("path", PAGES)
def test_page_is_served_with_all_that_it_names(start: Start, path: str) -> None:
    script, file = PAGES[path]
    example = start(script)
    page = (EXAMPLES / file).read_bytes()
    assert example.fetch(path) == (200, page)
    named = re.findall(r'(?:src|href)="([^"]+)"', page.decode())
    for name in named:
        if not name.startswith("data:"):
            folder = path.rpartition("/")[0]
            address = name if name.startswith("/") else f"{folder}/{name}"
            assert example.fetch(address)[0] == 200, name


@pytest.mark.parametrize("path", PAGES)
def test_page_takes_nothing_from_elsewhere(path: str) -> None:
    text = (EXAMPLES / PAGES[path][1]).read_text(encoding="utf-8")
    text += (EXAMPLES / "common/connection.js").read_text(encoding="utf-8")
    text += (EXAMPLES / "common/page.css").read_text(encoding="utf-8")
    assert not re.search(r"(?:https?:)?//[a-z0-9]+\.", text)


@pytest.mark.parametrize("script", sorted({script for script, _ in PAGES.values()}))
def test_nothing_but_pages_is_served(start: Start, script: str) -> None:
    example = start(script)
    name = script.rpartition("/")[2]
    for path in (name, f"../{name}", f"%2e%2e/{name}", "common/../../README.md"):
        assert example.fetch(f"/{path}")[0] == 404, path


# ---- In a browser --------------------------------------------------------------------


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Page]]:
    """Opens pages of different people; none of them may have complained in the end."""
    errors: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(message.text)

    with ExitStack() as stack:

        def open_page(example: Example, path: str) -> Page:
            context = browser.new_context()
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(DEADLINE * 1000)
            page.on("console", note)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.clock.install()  # it goes on by itself, but can be put forward
            page.goto(f"http://127.0.0.1:{example.port}{path}")
            return page

        yield open_page
    assert errors == []


def wait_until_connected(page: Page) -> None:
    page.wait_for_selector("#status[data-state=connected]")


def wait_for_line(page: Page, text: str) -> str:
    """Wait for a line of the log that has this text in it; return the line."""
    return page.locator("#log li", has_text=text).last.inner_text()


@pytest.mark.browser
def test_page_of_the_chat_passes_messages_between_two(
    start: Start, open_page: Callable[..., Page]
) -> None:
    example = start("pywss/example5.py")
    ann, bob = (open_page(example, "/chat.html") for _ in range(2))
    for page, name in ((ann, "Ann"), (bob, "Bob")):
        page.get_by_label("Your name").fill(name)
        page.get_by_role("button", name="Enter").click()
        wait_until_connected(page)
    ann.get_by_label("To").select_option("Bob")
    ann.get_by_label("Message", exact=True).fill("Hello <b>Bob</b>!")
    ann.get_by_role("button", name="Send").click()
    assert wait_for_line(bob, "Ann:") == "Ann: Hello <b>Bob</b>!"
    assert wait_for_line(ann, "to Bob:") == "to Bob: Hello <b>Bob</b>!"
    ann.context.close()
    bob.wait_for_function("() => document.getElementById('to').options.length === 0")


def send_text(page: Page, label: str, text: str, button: str) -> None:
    wait_until_connected(page)
    page.get_by_label(label, exact=True).fill(text)
    page.get_by_role("button", name=button).click()


@pytest.mark.browser
def test_page_of_the_callbacks_sends_to_all(
    start: Start, open_page: Callable[..., Page]
) -> None:
    example = start("websocket_server/server.py")
    first, second = (open_page(example, "/client.html") for _ in range(2))
    wait_until_connected(second)
    send_text(first, "Message", "hello all", "Send")
    for page in (first, second):
        assert wait_for_line(page, ": hello all").startswith("Client ")


@pytest.mark.browser
def test_page_gives_up_a_connection_on_which_nothing_comes(
    start: Start, open_page: Callable[..., Page]
) -> None:
    example = start("websocket_server/server.py")
    page = open_page(example, "/client.html")
    wait_until_connected(page)
    os.kill(example.process.pid, signal.SIGSTOP)  # as if the network were gone
    try:
        page.clock.fast_forward("00:41")
        page.wait_for_selector("#status[data-state=offline]")
        assert "no sign of life" in page.locator("#why").inner_text()
    finally:
        os.kill(example.process.pid, signal.SIGCONT)
    wait_until_connected(page)


@pytest.mark.parametrize("script", sorted({script for script, _ in PAGES.values()}))
def test_pages_are_told_that_the_network_is_alive(script: str) -> None:
    assert 'server.every(15, lambda: server.broadcast(""))' in (
        EXAMPLES / script
    ).read_text("utf-8")


@pytest.mark.browser
def test_page_of_the_headers_shows_the_one_asked_for(
    start: Start, open_page: Callable[..., Page]
) -> None:
    example = start("websocket_server/headers.py")
    page = open_page(example, "/headers.html")
    send_text(page, "Name of a header", "Origin", "Ask")
    wait_for_line(page, f"http://127.0.0.1:{example.port}")
    send_text(page, "Name of a header", "user-agent", "Ask")
    wait_for_line(page, "Chrome")


@pytest.mark.browser
def test_page_of_the_reverse_shows_text_reversed(
    start: Start, open_page: Callable[..., Page]
) -> None:
    page = open_page(start("websocket_server/reverse.py"), "/reverse.html")
    send_text(page, "Text", "drawer", "Send")
    assert wait_for_line(page, "r.e") == "r.e.w.a.r.d"


@pytest.mark.browser
def test_pages_of_the_events_notify_and_listen(
    start: Start, open_page: Callable[..., Page]
) -> None:
    example = start("websocket_server/notify.py")
    source = open_page(example, "/notify.html")
    number = wait_for_line(source, "this is the event source").split()[-1]
    listeners = []
    for priority in ("1", "2"):
        page = open_page(example, "/listen.html")
        page.get_by_label("Event source").fill(number)
        send_text(page, "Priority", priority, "Listen")
        wait_for_line(page, f"listening to events from {number}")
        listeners.append(page)
    low, high = listeners
    send_text(source, "Event", "first", "Notify")
    assert wait_for_line(high, "first") == f"Source {number}: first"
    high.context.close()
    send_text(source, "Event", "second", "Notify")
    assert wait_for_line(low, "second") == f"Source {number}: second"
    assert low.locator("#log li", has_text="first").count() == 0


@pytest.mark.browser
def test_page_of_the_groups_binds_joins_and_sends(
    start: Start, open_page: Callable[..., Page]
) -> None:
    example = start("gmwebsockets/server.py")
    first, second = (open_page(example, "/") for _ in range(2))
    for page, name in ((first, "ann"), (second, "bob")):
        send_text(page, "Client id", name, "Bind")
        wait_for_line(page, f"You are client {name}")
    second.get_by_label("Group id").fill("red")
    second.get_by_role("button", name="Join").click()
    wait_for_line(second, "Clients in group red: 1")
    first.get_by_label("To").select_option("group")
    first.get_by_label("Which").fill("red")
    send_text(first, "Message", "hello reds", "Send")
    assert wait_for_line(second, "hello reds").startswith("ann (socket ")
    first.get_by_label("To").select_option("client")
    first.get_by_label("Which").fill("nobody")
    send_text(first, "Message", "hello?", "Send")
    first.get_by_text("client nobody is not online").wait_for()
    second.get_by_text("2 online").wait_for()


@pytest.mark.browser
def test_page_connects_again_when_the_server_is_back(
    start: Start, browser: Any
) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(DEADLINE * 1000)
    example = start("websocket_server/reverse.py")
    page.goto(f"http://127.0.0.1:{example.port}/reverse.html")
    wait_until_connected(page)
    example.stop()
    page.wait_for_selector("#status[data-state=offline]")
    assert "the server stops" in page.locator("#why").inner_text()
    assert page.get_by_role("button", name="Send").is_disabled()
    start("websocket_server/reverse.py", port=example.port)
    send_text(page, "Text", "ab", "Send")
    assert wait_for_line(page, "b.a") == "b.a"
    context.close()


# ---- docs/seeds.md and docs/migrating.md ---------------------------------------------

needs_docs = pytest.mark.skipif(
    not (ROOT / "docs").exists(), reason="no checkout: the documentation is not here"
)

SEEDS = [
    "simple_ws 0.3",
    "Pywss",
    "python-websocket-server",
    "GMWebSockets",
    "websockets tutorial",
]
PEERS = ["websockets", "Tornado", "Socket.IO", "socketify"]


def sections(name: str) -> dict[str, str]:
    """The parts of a document, by their headings."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    _, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    return dict(part.split("\n", 1) for part in parts)


def rows(section: str) -> list[list[str]]:
    """The rows of all its tables, without their heads."""
    found: list[list[str]] = []
    for line in re.findall(r"^\|(.*)\|$", section, re.MULTILINE):
        if re.fullmatch(r"[ |-]+", line):
            del found[-1]  # that was the head
        else:
            found.append([cell.strip() for cell in line.split("|")])
    return found


@cache
def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}


@needs_docs
@pytest.mark.parametrize("seed", SEEDS)
def test_every_feature_of_the_seeds_has_a_test(seed: str) -> None:
    table = rows(sections("seeds.md")[seed])
    assert table
    for feature, how, _example, test in table:
        assert feature
        assert how
        match = re.fullmatch(r"`((?:\w+/)?test_\w+\.py)::(test_\w+)`", test)
        assert match, f"{feature}: no test"
        assert match[2] in functions_of(match[1]), f"{feature}: {test} is not there"


@needs_docs
def test_every_feature_is_shown_by_an_example_or_was_only_planned() -> None:
    for section in sections("seeds.md").values():
        for feature, _, example, _ in rows(section):
            assert example or feature.startswith("planned:") or feature == "log level"


@needs_docs
@pytest.mark.parametrize(
    "name", ["docs/seeds.md", "docs/migrating.md", "examples/README.md"]
)
def test_every_link_leads_to_a_file(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    for link in links:
        file, _, _anchor = link.partition("#")  # which Sphinx looks for
        assert not file or ((ROOT / name).parent / file).is_file(), link


@pytest.fixture(scope="module")
def places() -> Iterator[dict[str, Any]]:
    """What the words before a dot stand for in docs/migrating.md."""
    handler = Recorder()
    with running(handler) as server, open_peer(server):
        yield {
            "server": server,
            "handler": handler,
            "client": handler.client(),
            "request": simple_ws.Request,
            "Middleware": simple_ws.Middleware,
            "SendStatus": simple_ws.SendStatus,
            "simple_ws": simple_ws,
        }


@needs_docs
@pytest.mark.parametrize("seed", [*SEEDS, *PEERS])
def test_every_name_to_be_written_now_exists(seed: str, places: dict[str, Any]) -> None:
    table = rows(sections("migrating.md")[seed])
    assert table
    for row in table:
        assert len(row) in (2, 3), row
        spans = re.findall(r"`([^`]+)`", " ".join(row[1:]))
        for place, names in re.findall(
            rf"\b({'|'.join(places)})\.([\w.]+)", " ".join(spans)
        ):
            found = places[place]
            for name in names.split("."):
                assert hasattr(found, name), f"{place}.{names} in {row}"
                found = getattr(found, name)
        if match := re.fullmatch(r"`(\w+)`", row[1]):
            name = match[1]
            assert any(hasattr(place, name) for place in places.values()), row


@needs_docs
@pytest.mark.parametrize(
    "page", ["centrifugo", "socketio", "pusher", "phoenix", "channels"]
)
def test_every_name_of_a_page_about_migrating_exists(
    page: str, places: dict[str, Any]
) -> None:
    text = (ROOT / "docs" / "migrating" / f"{page}.md").read_text(encoding="utf-8")
    names = re.findall(r"\b(server|client)\.(?!js\b|md\b)(\w+)", text)
    assert len(names) > 10
    for place, name in names:
        assert hasattr(places[place], name), f"{place}.{name}"


#: Under each *Now*: a path, how it is opened, what is said, and what is heard.
NOW: dict[str, tuple[str, dict[str, Any], list[str], object]] = {
    "Pywss": ("/test/example/1", {}, ['{"name": "Ann"}', '"hi"'], "hi"),
    "python-websocket-server": (
        "/reverse",
        {"origin": "https://example.com"},
        ["abc"],
        "c.b.a",
    ),
    "GMWebSockets": ("/", {}, ['{"type": "ping", "data": {}}'], {"type": "pong"}),
    "websockets tutorial": (
        "/nowtime",
        {},
        [],
        {"event": "notification", "data": "Welcom"},
    ),
    "websockets": ("/", {}, ['"hello"'], "hello"),
    "Tornado": ("/chat/garden", {}, ['"hello"'], "hello"),
    "Socket.IO": (
        "/",
        {},
        ['{"event": "ping", "data": 7}'],
        {"event": "pong", "data": 7},
    ),
    "socketify": ("/", {}, ["hello"], None),  # others hear it
}


@needs_docs
@pytest.mark.parametrize("seed", NOW)
def test_what_is_to_be_written_now_runs(
    seed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = sections("migrating.md")[seed]
    (code,) = re.findall(r"^Now.*?:\n\n```python\n(.*?)```", section, re.M | re.S)
    code, changed = re.subn(r'Server\("[\w.]+", \d+', 'Server("127.0.0.1", 0', code)
    assert changed == 1
    logger = logging.getLogger("simple_ws")
    monkeypatch.setattr(logger, "level", logger.level)  # the code may set another
    started: list[simple_ws.Server] = []

    def run(server: simple_ws.Server) -> None:
        server.start()
        started.append(server)

    monkeypatch.setattr(simple_ws.Server, "run", run)
    exec(code, {"__name__": seed})
    (server,) = started
    path, how, sent, heard = NOW[seed]
    try:
        with connect(f"ws://127.0.0.1:{server.port}{path}", **how) as client:
            for message in sent:
                client.send(message)
            if heard is None:
                return
            answer = client.recv(DEADLINE)
            assert (
                answer if seed == "python-websocket-server" else json.loads(answer)
            ) == heard
    finally:
        server.stop(drain=0)


@needs_docs
def test_conversation_in_phases_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    part = sections("migrating.md")["websockets"].partition("### A conversation")[2]
    (code,) = re.findall(r"^```python\n(.*?)```", part, re.M | re.S)
    monkeypatch.setattr(simple_ws.Server, "run", lambda server: None)
    names: dict[str, Any] = {}
    exec(code, names)
    with TestServer(names["server"]) as server:
        ann, bob = server.connect("/"), server.connect("/")
        for client, name in ((ann, "Ann"), (bob, "Bob")):
            client.send(name)
        ann.send("hi")
        assert ann.messages == ["Your name?", "Hello, Ann!", "Ann said: hi"]
        assert bob.messages == ["Your name?", "Hello, Bob!"]
        ann.send("bye")
        ann.assert_closed(1000, cause="local")
        bob.close()
        assert not server.server.clients
