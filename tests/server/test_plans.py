"""Ordinary handshakes are opened by plans, with the same answers as all others."""

from __future__ import annotations

import base64
import gc
import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from harness import Driven, Recorder, frame
from hypothesis import given, settings
from hypothesis import strategies as st

from simple_ws import Client, Middleware, Server, WebSocket
from simple_ws.server.upgrade import UpgradeConnection
from simple_ws.speedups import Opener

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
BASE = {
    "Host": "example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
DEFLATE = "permessage-deflate; client_max_window_bits"


def request(target: str = "/", **fields: str | None) -> bytes:
    lines = dict(BASE) | {name.replace("_", "-"): v for name, v in fields.items()}
    head = "".join(f"{n}: {v}\r\n" for n, v in lines.items() if v is not None)
    return f"GET {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1")


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The targets of handshakes that were decided by the readable way."""
    seen: list[str] = []
    upgrade = UpgradeConnection._upgrade

    def note(self: Any, request: Any, *args: Any) -> None:
        seen.append(request.target)
        upgrade(self, request, *args)

    monkeypatch.setattr(UpgradeConnection, "_upgrade", note)
    yield seen


def shown(driven: Driven, data: bytes, pieces: int = 1) -> dict[str, Any]:
    """What a request leads to: the answer, and the state of the client."""
    before = list(driven.server.clients)
    peer = driven.join()
    size = -(-len(data) // pieces)
    for start in range(0, len(data), size):
        peer.write(data[start : start + size])
        driven.turn(2)
    answer = peer.read_now()
    clients = [client for client in driven.server.clients if client not in before]
    state = [state_of(client) for client in clients]
    timed = len(driven.reactor.wheel)
    peer.close()
    driven.turn(3)
    return {"answer": without_retry(answer), "clients": state, "timed": timed}


def state_of(client: Client) -> dict[str, Any]:
    return {
        "handler": client._handler._log_name,
        "request": (client._request.method, client._request.target),
        "version": client._request.version,
        "address": client.address[0],
        "path": client.path,
        "params": client.params,
        "query": client.query.pairs(),
        "headers": client.headers.pairs(),
        "cookies": client.cookies,
        "origin": client.origin,
        "secure": client.secure,
        "subprotocol": client.subprotocol,
        "compressed": client.compressed,
        "agreement": client._rules.agreement,
        "status": client.status,
        "messages": client.messages_received,
        "bytes": (client.bytes_received, client.bytes_sent),
        "session": client.session,
        "callback": client._on_message == client._handler._message_callback,
        "packed": type(client._request_kept).__name__,
    }


def without_retry(answer: bytes) -> bytes:
    lines = answer.split(b"\r\n")
    return b"\r\n".join(
        line for line in lines if not line.startswith((b"Retry-After", b"Date"))
    )


class Talker(Recorder):
    def on_open(self, client: Any) -> None:
        super().on_open(client)
        client.write_message(f"welcome to {client.path}")


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Driven, Driven]]:
    """Two servers with the same handlers; the second has no plans."""
    with built() as fast, built() as slow:
        run = slow.server._current
        run.opener = Opener(run.reactor, lambda: None)
        yield fast, slow


def built() -> Driven:
    server = Server(subprotocols=("chat",), max_header=2000)
    server.mount("/", Recorder())
    server.mount("/talk", Talker())
    server.mount("/plain", Recorder(compression=False))
    server.mount("/page", Recorder(origins=("same", "https://good.example", None)))
    server.mount("/only", Recorder(origins=("https://good.example",)))
    server.mount("/room/{room}", Talker())
    server.mount("/room/{room}/log", Recorder())
    server.mount("/user/{id:int}", Recorder())
    server.mount("/files/*", Recorder())
    return Driven(server)


TARGETS = st.sampled_from(
    [
        *("/", "/talk", "/talk?", "/talk?a=1&b=%20&a=2", "/plain", "/page", "/only"),
        *("/room/one", "/room/", "/room/a%2Fb", "/room/%C3%A4", "/room//log"),
        *("/room/one/log", "/room/one/two", "/room/log/log", "/user/7", "/user/x"),
        *("/files", "/files/", "/files/a", "/files/../x", "/none", "//", "*"),
        *("/talk#", "http://example.com/talk"),
    ]
)
WORDS = st.sampled_from
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "Host": WORDS(["example.com", "example.com:8080", "[::1]", "a b", "", None]),
        "Upgrade": WORDS(["WebSocket", "h2c, websocket", "h2c", None]),
        "Connection": WORDS(["keep-alive, Upgrade", "upgrade", "close", None]),
        "Origin": WORDS(
            [
                *("https://good.example", "HTTPS://GOOD.EXAMPLE:443"),
                *("http://example.com", "https://bad.example", "null", ""),
            ]
        ),
        "Sec_WebSocket_Key": WORDS(
            [KEY, "short", base64.b64encode(bytes(16)).decode()]
        ),
        "Sec_WebSocket_Version": WORDS(["13", "8", None]),
        "Sec_WebSocket_Protocol": WORDS(["chat", "other", "chat, other", "", "a b"]),
        "Sec_WebSocket_Extensions": WORDS(
            [DEFLATE, "permessage-deflate", f"x-other, {DEFLATE}", "", ";", "=,"]
        ),
        "Cookie": WORDS(["a=1; b=2", "a=\xe4"]),
        "Content_Length": WORDS(["0", "5"]),
        "X_Other": WORDS(["v", "", "x" * 1900]),
    },
)
REST = st.sampled_from([b"", frame(1, b"at once"), frame(1, b"in part")[:4], b"\x00"])


@settings(max_examples=150, deadline=None)
@given(target=TARGETS, fields=FIELDS, rest=REST, pieces=st.sampled_from([1, 1, 1, 2]))
def test_both_ways_give_the_same(
    both: tuple[Driven, Driven],
    target: str,
    fields: dict[str, str | None],
    rest: bytes,
    pieces: int,
) -> None:
    fast, slow = both
    data = request(target, **fields) + rest
    assert shown(fast, data, pieces) == shown(slow, data, pieces)


#: Handshakes that need nobody's opinion.
ORDINARY: list[tuple[str, dict[str, str | None]]] = [
    ("/", {}),
    ("/talk?a=1", {}),
    ("/", {"Sec_WebSocket_Extensions": DEFLATE}),
    ("/", {"Origin": "https://anywhere.example", "Cookie": "a=1"}),
    ("/page", {"Origin": "http://example.com"}),
    ("/only", {"Origin": "https://good.example"}),
    ("/room/one", {}),
    ("/room/one/log", {}),
]


@pytest.mark.parametrize(("target", "fields"), ORDINARY)
def test_ordinary_handshakes_are_opened_by_plans(
    monkeypatch: pytest.MonkeyPatch, target: str, fields: dict[str, str | None]
) -> None:
    with counted(monkeypatch) as readable, built() as driven:
        peer = driven.join()
        peer.write(request(target, **fields))
        driven.turn(2)
        assert ACCEPT in peer.read_now()
        assert len(driven.server.clients) == 1
        assert not readable
        assert not driven.handshaking


class Picky(Recorder):
    def on_request(self, request: Any) -> Any:
        return {"seen": request.path}


class OwnClient(Client):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.own = True


class MoreMethods(Client):
    def shout(self) -> None:
        self.write_message("!")


def replaced_on_request(driven: Driven) -> None:
    driven.handler.on_request = lambda request: None


def a_middleware(driven: Driven) -> None:
    driven.server.use(Middleware())


def denied(driven: Driven) -> None:
    driven.server.deny_new_connections(503)


def a_class_with_a_constructor(driven: Driven) -> None:
    driven.handler.client_class = OwnClient


def authentication(driven: Driven) -> None:
    driven.handler.authenticates = True


def an_own_limit(driven: Driven) -> None:
    driven.handler.max_connections_per_ip = 5


@pytest.mark.parametrize(
    "change",
    [
        replaced_on_request,
        a_middleware,
        denied,
        a_class_with_a_constructor,
        authentication,
        an_own_limit,
    ],
)
def test_a_change_is_noticed(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Driven], None]
) -> None:
    with counted(monkeypatch) as readable, Driven() as driven:
        driven.join().write(request())
        driven.turn(2)
        assert not readable
        change(driven)
        driven.join().write(request())
        driven.turn(2)
        assert readable == ["/"]


def test_a_session_needs_the_readable_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch) as readable, Driven(Picky()) as driven:
        driven.join().write(request("/x"))
        driven.turn(2)
        assert readable == ["/x"]
        assert driven.handler.client().session == {"seen": "/x"}


def test_a_class_with_more_methods_is_ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch) as readable, Driven() as driven:
        driven.handler.client_class = MoreMethods
        driven.join().write(request())
        driven.turn(2)
        assert type(driven.handler.client()) is MoreMethods
        assert not readable


def test_options_that_are_changed_hold_for_the_next_client() -> None:
    with Driven() as driven:
        driven.join().write(request())
        driven.turn(2)
        driven.handler.max_size = 5
        driven.join().write(request())
        driven.turn(2)
        first, second = driven.server.clients
        assert (first._rules.max_size, second._rules.max_size) == (2**20, 5)


def test_limits_hold_and_give_room_again() -> None:
    with Driven(max_connections_per_ip=2) as driven:
        peers = [driven.join() for _ in range(3)]
        for peer in peers:
            peer.write(request())
        driven.turn(2)
        assert [b" 101 " in p.read_now()[:20] for p in peers[:2]] == [True, True]
        assert peers[2].read_now().startswith(b"HTTP/1.1 429 ")
        peers[0].close()
        driven.turn(3)
        again = driven.join()
        again.write(request())
        driven.turn(2)
        assert b" 101 " in again.read_now()[:20]


def test_handshake_rate_counts_each_client_once() -> None:
    with Driven(handshake_rate=(1, 3)) as driven:
        answers = []
        for _ in range(4):
            peer = driven.join()
            peer.write(request())
            driven.turn(2)
            answers.append(peer.read_now()[9:12])
        assert answers == [b"101", b"101", b"101", b"503"]


def test_the_stop_of_the_server_ends_the_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch) as readable, Driven() as driven:
        late = driven.join()
        driven.stop_begins(5.0)
        late.write(request())
        driven.turn(3)
        assert readable == ["/"]
        assert driven.handler.client().close_code == 1001


def test_an_error_in_on_open_closes_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Failing(WebSocket):
        def on_open(self, client: Any) -> None:
            raise ValueError("no")

    with Driven(Failing()) as driven, caplog.at_level(logging.ERROR):
        peer = driven.join()
        peer.write(request())
        driven.turn(3)
        assert peer.read_now().endswith(b"the handler failed")
        assert "a callback failed" in caplog.text


def test_a_slow_on_open_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Slow(Recorder):
        def on_open(self, client: Any) -> None:
            driven.clock.now += 3

    with Driven(Slow()) as driven, caplog.at_level(logging.WARNING):
        driven.join().write(request("/slow"))
        driven.turn(2)
        assert "Slow.on_open at '/slow' blocked the loop for 3.00 s" in caplog.text


class Hello(WebSocket):
    def on_open(self, client: Any) -> None:
        client.write_message("hello")


def test_accepted_connections_are_opened_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a port: what has come with the connection is read when it is accepted."""
    server = Server("127.0.0.1", 0)
    server.mount("/{name}", Hello())
    with counted(monkeypatch) as readable:
        server.listen()
        peers = [socket.create_connection(("127.0.0.1", server.port)) for _ in "abc"]
        for name, peer in zip("abc", peers, strict=True):
            peer.sendall(request(f"/{name}"))
        while len(server.clients) < 3:
            server.poll(1)
        assert [client.params["name"] for client in server.clients] == ["a", "b", "c"]
        assert [client.address for client in server.clients] == [
            peer.getsockname() for peer in peers
        ]
        for peer in peers:
            peer.settimeout(10)
            answer = b""
            while not answer.endswith(b"hello"):
                answer += peer.recv(1000)
            peer.close()
        while server.clients:
            server.poll(1)
        assert not readable
    server.stop()


def said_nothing(client: Client) -> None:
    pass


def subscribed(client: Client) -> None:
    client.subscribe("news")


def bound(client: Client) -> None:
    client.bind("me")


def closed_by_us(client: Client) -> None:
    client.close(4000, "enough")


def written(client: Client) -> None:
    client.write_message("x" * 5_000_000)


def paused(client: Client) -> None:
    client._pause_reading(True)


class Failing(Recorder):
    def on_close(self, client: Any) -> None:
        super().on_close(client)
        raise ValueError("no")


def end_of(plans: bool, before: Callable[[Client], None], leave: str) -> dict[str, Any]:
    """How a client ends that leaves without a close frame, with plans or without."""
    handler = Failing()
    with Driven(handler, ping_interval=5) as driven:
        server, run = driven.server, driven.server._current
        if not plans:
            run.opener = Opener(run.reactor, lambda: None)
        peer = driven.join()
        peer.write(request())
        driven.turn(2)
        peer.read_now()
        client = handler.client()
        before(client)
        driven.turn()
        getattr(peer, leave)()
        driven.turn(3)
        driven.advance(60)
        shown = {
            "events": [(handler.names, handler.of("close"))],
            "closed": (client.close_code, client.close_reason, client.close_cause),
            "status": (client.status, client.is_open(), client.topics),
            "released": client._sock.fileno() == -1,
            "left": (len(server.clients), len(handler.clients), len(run.closing)),
            "watched": len(driven.reactor.wheel),
            "ends": server._log.counts.ends,
            "writes": client.write_message("late"),
            "subscribers": server.publish("news", "late"),
        }
        peer.close()
        return shown


@pytest.mark.parametrize("leave", ["close", "reset", "end"])
@pytest.mark.parametrize(
    "before", [said_nothing, subscribed, bound, closed_by_us, written, paused]
)
def test_clients_that_simply_leave_end_as_all_others(
    before: Callable[[Client], None], leave: str
) -> None:
    assert end_of(True, before, leave) == end_of(False, before, leave)


def test_the_socket_of_a_client_is_there_when_asked_for() -> None:
    with Driven() as driven:
        peers = [driven.join() for _ in range(2)]
        for peer in peers:
            peer.write(request())
        driven.turn(2)
        asked, other = driven.server.clients
        assert asked._sock.getpeername() is not None
        assert asked._sock is asked._sock
        for peer in peers:
            peer.read_now()
            peer.close()
        driven.turn(3)
        assert (asked._sock.fileno(), other._sock.fileno()) == (-1, -1)


def test_descriptors_of_connections_are_closed() -> None:
    """Of those whose socket was asked for, of the others, and of those refused."""
    server = Server("127.0.0.1", 0)
    server.mount("/", Recorder())
    server.listen()
    before = open_descriptors()
    for number in range(6):
        with socket.create_connection(("127.0.0.1", server.port)) as peer:
            peer.sendall(request("/none" if number == 5 else "/"))
            while number < 5 and not server.clients:
                server.poll(1)
            for client in server.clients if number % 2 else ():
                assert client._sock.fileno() > 0
            if number == 4:
                peer.sendall(frame(8, b"\x03\xe8"))
                server.poll(1)
        for _ in range(4):
            server.poll(0)
        while server.clients:
            server.poll(1)
    for _ in range(4):
        server.poll(0)
    assert open_descriptors() == before
    server.stop()


def turn_until_it_ends(server: Server) -> None:
    for _ in range(10):
        server.poll(1)


class Exiting(WebSocket):
    def on_open(self, client: Any) -> None:
        raise SystemExit(3)


def test_a_program_that_exits_in_on_open_closes_each_descriptor_once() -> None:
    server = Server("127.0.0.1", 0)
    server.mount("/", Exiting())
    before = open_descriptors()
    server.listen()
    with socket.create_connection(("127.0.0.1", server.port)) as peer:
        peer.sendall(request())
        with pytest.raises(SystemExit):
            turn_until_it_ends(server)
        (client,) = server.clients
        assert os.fstat(client._sock.fileno())
        client.terminate()
        for _ in range(3):
            server.poll(0)
        server.stop()
        while server.clients:
            server.poll(1)
    gc.collect()
    assert open_descriptors() == before


def open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))
