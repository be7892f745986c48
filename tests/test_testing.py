"""The test kit, as used by its users: handlers and a clock that the test moves."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from simple_ws import Middleware, Response, Server, WebSocket
from simple_ws.errors import ConnectionClosed, HandshakeRefused
from simple_ws.testing import TestClient, TestServer

Make = Callable[..., TestServer]


class Chat(WebSocket):
    """Everybody hears everybody."""

    def on_message(self, msg: Any, client: Any) -> None:
        for other in self.clients:
            other.write_message(msg)


class Echo(WebSocket):
    def on_message(self, msg: Any, client: Any) -> Any:
        return msg


def test_messages_go_to_and_fro(ws_server: Make) -> None:
    server = ws_server(Chat())
    alice, bob = server.connect("/room?name=alice"), server.connect("/room")
    alice.send("hello")
    assert (alice.recv(), bob.recv()) == ("hello", "hello")
    bob.send(b"\0\1")
    assert alice.messages == [b"\0\1"]
    assert alice.recv() == b"\0\1"
    assert alice.messages == []
    assert alice.client.query["name"] == "alice"


def test_peers_have_addresses_and_options(ws_server: Make) -> None:
    server = ws_server(Echo(subprotocols=["v2", "v1"]))
    client = server.connect(
        address=("198.51.100.7", 5), subprotocols=["v1"], cookies={"a": "b"}
    )
    assert client.client.address == ("198.51.100.7", 5)
    assert client.client.cookies == {"a": "b"}
    assert (client.subprotocol, client.compressed) == ("v1", False)
    packed = server.connect(compression=True)
    packed.send("x" * 5000)
    assert (packed.recv(), packed.compressed) == ("x" * 5000, True)


def test_refusal_has_its_facts(ws_server: Make) -> None:
    class Members(WebSocket):
        def on_request(self, request: Any) -> Any:
            return Response(401, "Who are you?", {"WWW-Authenticate": "Basic"})

    with pytest.raises(HandshakeRefused) as caught:
        ws_server(Members()).connect()
    assert (caught.value.status, caught.value.body) == (401, b"Who are you?")
    assert caught.value.headers["www-authenticate"] == "Basic"


def test_test_goes_on_after_a_refusal(ws_server: Make) -> None:
    server = ws_server(Echo(), max_connections=1)
    client = server.connect()
    for _ in range(2):
        with pytest.raises(HandshakeRefused) as caught:
            server.connect()
        assert caught.value.status == 503
    client.send("as before")
    assert client.recv() == "as before"
    client.close()
    assert server.connect().ping() == 0.0


def test_wrong_options_are_refused(ws_server: Make) -> None:
    with pytest.raises(TypeError, match="handler or a Server"):
        TestServer("no handler")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="colour"):
        ws_server(Echo()).connect(colour="red")


def test_time_passes_when_the_test_says_so(ws_server: Make) -> None:
    server = ws_server(Echo(ping_interval=5, ping_timeout=20))
    client = server.connect()
    server.advance(4)
    assert client.pings == []
    server.advance(100)
    client.assert_open()
    assert len(client.pings) >= 15


PAYLOADS = [b"", b"h", b"hello", bytes(range(125)), "grüße".encode()]


@pytest.mark.parametrize("answer", [True, False])
@pytest.mark.parametrize("payload", PAYLOADS, ids=len)
def test_pings_are_their_payloads(
    ws_server: Make, payload: bytes, answer: bool
) -> None:
    client = ws_server(Echo(ping=False)).connect()
    client.answer_pings = answer
    client.client.ping(payload)
    client.client.ping(payload[:2])
    client.assert_open()
    assert client.pings == [payload, payload[:2]]
    pongs = [client.client.pong_payload] if answer else [b""]
    assert pongs == [payload[:2] if answer else b""]


def test_public_names_of_the_kit_are_documented(ws_server: Make) -> None:
    server = ws_server(Echo())
    answer = server.request("GET", "/")
    for thing in (server, server.connect(), server.clock, answer):
        shown: set[str] = set()
        for base in type(thing).__mro__[:-1]:
            text = (base.__doc__ or "").partition("Attributes:")[2]
            listed = re.findall(r"^ +(\w[\w, ]*):", text, re.MULTILINE)
            shown |= {name for names in listed for name in names.split(", ")}
            shown |= {
                name
                for name, member in vars(base).items()
                if (callable(member) or isinstance(member, property)) and member.__doc__
            }
        names = {*dir(type(thing)), *vars(thing)}
        public = {name for name in names if not name.startswith("_")}
        assert public - shown == set()


def test_peer_that_vanished_times_out(ws_server: Make) -> None:
    server = ws_server(Echo(ping_interval=5, ping_timeout=20))
    client = server.connect()
    client.vanish()
    server.advance(24)
    client.assert_open()
    server.advance(4)
    client.assert_closed(1011, cause="ping_timeout", reason="20 s")


def test_timers_fire_in_order_while_time_passes(ws_server: Make) -> None:
    server = ws_server(Echo())
    fired: list[str] = []
    server.server.call_later(3, lambda: fired.append("later"))
    server.server.every(1, lambda: fired.append("tick"))
    server.advance(3.5)
    assert fired == ["tick", "tick", "later", "tick"]


def test_slow_consumer_is_closed(ws_server: Make) -> None:
    server = ws_server(Echo(write_limit=100_000))
    client = server.connect()
    client.stall()
    for _ in range(100):
        client.client.write_message(b"x" * 10_000)
        server.settle()
    client.assert_closed(1013, cause="slow_consumer")


def test_stalled_peer_that_resumes_gets_everything(ws_server: Make) -> None:
    server = ws_server(Echo(write_limit=10**7))
    client = server.connect()
    client.stall()
    sent = [str(number).encode() * 1000 for number in range(500)]
    for msg in sent:
        client.client.write_message(msg)
    server.settle()
    assert client.client.buffered_amount > 0
    client.resume()
    assert client.messages == sent
    client.assert_open()


def test_frames_may_come_in_any_cut(ws_server: Make) -> None:
    client = ws_server(Echo()).connect()
    client.drip(b"\x81\x83\0\0\0\0abc")
    assert client.recv() == "abc"
    client.send_fragments(["d", "e", "f"])
    assert client.recv() == "def"
    client.send_fragments([b"g", b"h"])
    assert client.recv() == b"gh"


def test_broken_frame_ends_the_connection(ws_server: Make) -> None:
    client = ws_server(Echo()).connect()
    client.send_raw(b"\x83\x80\0\0\0\0")
    client.assert_closed(1002, cause="protocol_error", reason="unknown opcode")
    with pytest.raises(ConnectionClosed, match="1002"):
        client.recv()
    with pytest.raises(ConnectionClosed):
        client.send("too late")


def test_ends_are_told_apart(ws_server: Make) -> None:
    server = ws_server(Echo())
    closed, cut, sent_away = (server.connect() for _ in range(3))
    closed.close(4000, "bye")
    closed.assert_closed(4000, cause="peer", reason="bye")
    cut.cut()
    cut.assert_closed(1006, cause="eof")
    sent_away.client.close(4001, "go")
    sent_away.assert_closed(4001, cause="local")
    assert (sent_away.close_code, sent_away.close_reason) == (4001, "go")


def test_wrong_assertion_says_what_is_so(ws_server: Make) -> None:
    client = ws_server(Echo()).connect()
    with pytest.raises(AssertionError, match="is open"):
        client.assert_closed()
    client.close(1000)
    with pytest.raises(AssertionError, match="cause peer"):
        client.assert_closed(1000, cause="slow_consumer")
    with pytest.raises(AssertionError, match="ended with 1000"):
        client.assert_open()


def test_time_goes_on_and_never_back(ws_server: Make) -> None:
    server = ws_server(WebSocket())
    with pytest.raises(ValueError, match="seconds must be 0 seconds or more, not -1"):
        server.advance(-1)


def test_ping_that_is_too_long_is_refused(ws_server: Make) -> None:
    client = ws_server(WebSocket()).connect()
    with pytest.raises(ValueError, match="125"):
        client.ping(b"x" * 126)


def test_ping_is_answered(ws_server: Make) -> None:
    client = ws_server(Echo()).connect()
    assert client.ping(b"hello") == 0.0
    client.close()
    with pytest.raises(ConnectionClosed):
        client.ping()


def test_whole_server_with_pages_and_middleware(ws_server: Make) -> None:
    class Upper(Middleware):
        def on_message(self, msg: Any, client: Any) -> Any:
            return msg.upper()

    server = Server(ping_interval=5)
    server.use(Upper())
    server.route("/echo")(lambda msg, client: msg)

    @server.http("/status")
    def status(request: Any) -> Any:
        return {"clients": len(server.clients)}

    bench = ws_server(server)
    client = bench.connect("/echo")
    client.send("abc")
    assert client.recv() == "ABC"
    answer = bench.request("GET", "/status")
    assert (answer.status, answer.json()) == (200, {"clients": 1})
    assert answer.headers["content-type"] == "application/json"
    assert bench.request("GET", "/nothing").status == 404
    head = bench.request("HEAD", "/status")
    assert (head.status, head.body) == (200, b"")


def test_stop_is_seen_by_clients(ws_server: Make) -> None:
    server = ws_server(Echo())
    client = server.connect()
    server.server.stop()
    server.advance(2)
    client.assert_closed(1001, cause="shutdown")
    assert not server.server.clients


def test_asynchronous_handlers_keep_the_time_of_the_test(ws_server: Make) -> None:
    class Slow(WebSocket):
        async def on_open(self, client: Any) -> None:
            await asyncio.sleep(60)
            client.write_message("welcome")

        async def on_message(self, msg: Any, client: Any) -> Any:
            await asyncio.sleep(60)
            return msg * 2

    server = ws_server(Slow())
    client = server.connect()
    client.send("x")
    server.advance(59)
    assert client.messages == []
    server.advance(2)
    assert client.messages == ["welcome"]
    server.advance(60)
    assert client.messages == ["welcome", "xx"]


def test_messages_of_other_threads_are_waited_for(ws_server: Make) -> None:
    server = ws_server(Echo())
    client = server.connect()
    thread = threading.Thread(target=client.client.write_message, args=["from afar"])
    thread.start()
    assert client.recv() == "from afar"
    thread.join()


def test_error_of_a_callback_closes_that_client_only(ws_server: Make) -> None:
    class Fragile(WebSocket):
        def on_message(self, msg: Any, client: Any) -> Any:
            return 1 / int(msg)

    server = ws_server(Fragile())
    one, other = server.connect(), server.connect()
    with pytest.raises(ZeroDivisionError):
        one.send("0")
    one.assert_closed(1011, cause="handler_error")
    other.assert_open()


def test_servers_are_closed_with_their_clients() -> None:
    with TestServer(Echo()) as server:
        client = server.connect()
    assert not server.server.clients
    assert client.client.close_cause == "shutdown"
    server.close()


def test_server_that_has_stopped_can_be_waited_for(ws_server: Make) -> None:
    kit = ws_server(Echo())
    kit.server.stop()
    ended = threading.Event()
    thread = threading.Timer(0, ended.set)

    def begun() -> bool:
        if not thread.ident:
            thread.start()
            return False
        return ended.is_set()

    kit.wait_until(begun)
    assert not kit.server._running
    thread.join()


def test_client_has_its_state_before_it_opens(ws_server: Make) -> None:
    client = TestClient(ws_server(Echo()), "/", {})
    assert not client.is_open()
    assert (client.close_code, client.subprotocol, client.compressed) == (
        None,
        None,
        False,
    )
    assert "testserver" in repr(client)
    with pytest.raises(AssertionError, match="the connection has not opened"):
        client.client.is_open()
    client._sock.close()


def test_kit_leaves_the_methods_of_the_server_alone(ws_server: Make) -> None:
    server = Server()
    before = {name for name in vars(server) if callable(vars(server)[name])}
    kit = ws_server(server)
    kit.request("GET", "/")
    after = {name for name in vars(server) if callable(vars(server)[name])}
    assert after == before


def test_client_that_is_closed_when_it_opens_is_known(ws_server: Make) -> None:
    class Shut(WebSocket):
        def on_open(self, client: Any) -> None:
            client.close(4000, "full")

    client = ws_server(Shut()).connect()
    client.assert_closed(4000, cause="local")
