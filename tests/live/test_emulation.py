"""Clients of `live` without WebSockets: what they are sent, and what they say."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_peer import LivePeer, StreamPeer, allow
from tls_harness import client_side, server_side

from simple_ws import CloseCause, HandshakeError, Middleware, Server, WebSocket
from simple_ws.live import Connected, LiveClient
from simple_ws.live.streams.emulation import _read
from simple_ws.testing import TestServer

FORMS = ("sse", "http_stream")


class Site:
    """A server with `live`, and what the tests do with it."""

    def __init__(self, form: str) -> None:
        self.form = form
        self.kit: TestServer | None = None
        self.peers: list[StreamPeer] = []

    def __call__(
        self,
        *,
        rules: dict[str, dict[str, Any]] = {},  # noqa: B006
        server: dict[str, Any] = {},  # noqa: B006
        **options: Any,
    ) -> Site:
        self.server = Server("127.0.0.1", 0, ping=False, presence_grace=0, **server)
        for pattern, rule in rules.items():
            self.server.topic(pattern, **rule)
        options.setdefault("authorize", allow)
        self.live = self.server.live("/live", **options)
        return self

    def start(self) -> TestServer:
        if self.kit is None:
            self.kit = TestServer(self.server)
        return self.kit

    def peer(self, *lines: str, version: str = "1.1") -> StreamPeer:
        peer = StreamPeer(self.start(), self.form, lines=lines, version=version)
        self.peers.append(peer)
        return peer

    def connected(self, **params: Any) -> StreamPeer:
        peer = self.peer()
        peer.connect(**params)
        return peer


@pytest.fixture(params=FORMS)
def site(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = Site(request.param)
    yield made
    for peer in made.peers:
        peer.sock.close()
    if made.kit is not None:
        made.kit.close()


class TestStream:
    def test_connect_result_has_session_and_node(self, site: Any) -> None:
        peer = site().peer()
        result = peer.connect()
        assert len(result["session"]) >= 32
        assert result["node"] == site.server.cluster.id
        assert (result["ping"], result["pong"]) == (25, True)
        assert "session" not in LivePeer(site.kit).connect()

    def test_response_is_not_held_back_by_proxies(self, site: Any) -> None:
        peer = site().connected()
        head = peer.head.lower()
        assert peer.status == 200
        assert "x-accel-buffering: no" in head
        assert "cache-control: no-cache" in head
        assert "content-encoding" not in head
        assert "content-length" not in head
        kind = "text/event-stream" if site.form == "sse" else "application/json"
        assert f"content-type: {kind}" in head

    def test_clients_of_http_1_0_understand_it(self, site: Any) -> None:
        peer = site().peer(version="1.0")
        assert peer.connect()["session"]
        assert "transfer-encoding" not in peer.head.lower()
        assert "connection: close" in peer.head.lower()

    def test_tls(self, site: Any) -> None:
        site(server={"ssl": server_side()}).server.start()
        try:
            with ExitStack() as stack:
                plain = socket.create_connection(("127.0.0.1", site.server.port), 10)
                stack.enter_context(plain)
                sock = client_side().wrap_socket(plain, server_hostname="localhost")
                stack.enter_context(sock)
                frame = '{"id":1,"connect":{}}'
                if site.form == "sse":
                    head, body = f"GET /live/sse?cf_connect={quote(frame)}", ""
                else:
                    head, body = "POST /live/http_stream", frame
                size = f"Content-Length: {len(body)}\r\n" if body else ""
                head = f"{head} HTTP/1.1\r\nHost: localhost\r\n{size}\r\n"
                sock.sendall((head + body).encode())
                read = b""
                while b'"session"' not in read:
                    read += sock.recv(4096)
                site.server.broadcast("x" * 100_000)
                while len(read) < 100_000:
                    piece = sock.recv(65536)
                    assert piece
                    read += piece
        finally:
            site.server.stop(drain=0)

    def test_body_that_waits_for_permission(self, site: Any) -> None:
        peer = site().peer()
        if site.form == "http_stream":
            lines = "Host: h\r\nContent-Length: 21\r\nExpect: 100-continue\r\n\r\n"
            head = f"POST /live/http_stream HTTP/1.1\r\n{lines}"
            site.kit._exchange(peer.sock, head.encode())
            assert peer.read() == b""
            assert peer.status == 100
            peer.head = ""
            site.kit._exchange(peer.sock, b'{"id":1,"connect":{}}')
            assert peer.take()[0]["connect"]["session"]

    def test_commands_are_answered_on_the_stream(self, site: Any) -> None:
        peer = site().connected()
        assert peer.ask("subscribe", channel="a") == {}
        assert peer.ask("publish", channel="a", data={"x": 1}) == {}
        assert peer.publications() == [({"x": 1}, 0)]
        assert peer.ask("unsubscribe", channel="a") == {}
        assert site.server.publish("a", "gone") == 0

    def test_several_commands_in_one_request(self, site: Any) -> None:
        peer = site().connected()
        names = "abc"
        peer.send(
            *({"id": 5 + i, "subscribe": {"channel": c}} for i, c in enumerate(names))
        )
        assert [each["id"] for each in peer.take()] == [5, 6, 7]

    def test_all_clients_meet_in_one_topic_and_it_is_encoded_once_a_form(
        self, site: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        raw = WebSocket()
        site().server.mount("/raw", raw)
        peers = [site.connected() for _ in range(3)]
        socket = LivePeer(site.kit)
        socket.connect()
        for peer in (*peers, socket):
            peer.ask("subscribe", channel="a")
        plain = site.kit.connect("/raw")
        plain.client.subscribe("a")
        form = peers[0].client._form
        made: list[str] = []
        block = type(form).block

        def counted(self: Any, frame: str) -> bytes:
            made.append(frame)
            return block(self, frame)

        monkeypatch.setattr(type(form), "block", counted)
        assert site.server.publish("a", {"x": "é\n"}) == 5
        assert len(made) == 1
        for peer in (*peers, socket):
            assert peer.publications() == [({"x": "é\n"}, 0)]
        assert json.loads(plain.recv()) == {"x": "é\n"}

    def test_recovery_after_the_stream_was_lost(self, site: Any) -> None:
        site(rules={"room:*": {"history": 5}})
        peer = site.connected()
        begun = peer.ask("subscribe", channel="room:1", recoverable=True)
        site.server.publish("room:1", "1")
        assert peer.publications() == [("1", 1)]
        peer.leave()
        site.server.publish("room:1", "2")
        again = site.connected()
        result = again.ask(
            "subscribe", channel="room:1", recover=True, epoch=begun["epoch"], offset=1
        )
        assert result["recovered"] is True
        assert result["publications"] == [{"data": "2", "offset": 2}]

    def test_messages_to_one_and_to_all(self, site: Any) -> None:
        site(on_connect=lambda client, request: Connected(user="ann", topics=["news"]))
        peer = site.connected()
        assert site.server.broadcast({"x": 1}) == 1
        assert site.server.send_to("ann", "é") == 1
        peer.client.write_message("own")
        site.server.publish("news", "3")
        assert peer.pushes() == [
            {"message": {"data": {"x": 1}}},
            {"message": {"data": "é"}},
            {"message": {"data": "own"}},
            {"channel": "news", "pub": {"data": "3"}},
        ]

    def test_carriage_returns_end_no_line(self, site: Any) -> None:
        peer = site().connected()
        peer.ask("subscribe", channel="a")
        site.server.publish("a", {"x": "\r\n\r"})
        assert peer.publications() == [({"x": "\r\n\r"}, 0)]

    def test_presence_is_told(self, site: Any) -> None:
        site(
            rules={"room:*": {"presence": True}},
            on_connect=lambda client, request: Connected(user=request.token),
        )
        ann = site.connected(token="ann")
        ann.ask("subscribe", channel="room:1", join_leave=True)
        ann.take()
        bob = site.connected(token="bob")
        bob.ask("subscribe", channel="room:1")
        assert [push["join"]["info"]["user"] for push in ann.pushes()] == ["bob"]
        bob.leave()
        assert [push["leave"]["info"]["user"] for push in ann.pushes()] == ["bob"]

    def test_thread_may_write(self, site: Any) -> None:
        peer = site().connected()
        with_thread = asyncio.run(
            asyncio.to_thread(peer.client.write_message, {"x": 1})
        )
        assert with_thread
        assert peer.pushes() == [{"message": {"data": {"x": 1}}}]

    def test_middlewares_and_on_request_are_asked(self, site: Any) -> None:
        class Guard(Middleware):
            def on_request(self, request: Any) -> Any:
                return None if request.query.get("ok") or request.body else False

        site().server.use(Guard())
        peer = site.peer()
        peer.open('{"id":1,"connect":{}}')
        if site.form == "sse":
            peer.read()
            assert peer.status == 403
            assert peer.ended
        else:
            assert peer.take()[0]["connect"]["session"]

    def test_deferred_on_request(self, site: Any) -> None:
        class Guard(Middleware):
            async def on_request(self, request: Any) -> Any:
                await asyncio.sleep(1)

        site().server.use(Guard())
        peer = site.peer()
        peer.open('{"id":1,"connect":{}}')
        site.kit.advance(1)
        assert peer.take()[0]["connect"]["session"]

    def test_middleware_that_takes_its_time_comes_first(self, site: Any) -> None:
        class Slow(Middleware):
            async def on_open(self, client: Any) -> None:
                await asyncio.sleep(1)

        site().server.use(Slow())
        peer = site.peer()
        peer.open('{"id":1,"connect":{}}')
        assert peer.take() == []
        site.kit.advance(1)
        assert peer.take()[0]["connect"]["session"]

    def test_class_of_the_users_is_theirs_too(self, site: Any) -> None:
        class Player(LiveClient):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args)
                self.score = 5

            def double(self) -> int:
                return 2 * self.score

        site().live.client_class = Player

        @site.live.method
        def score(client: Any, data: Any) -> int:
            assert isinstance(client, Player)
            return client.double()

        peer = site.connected()
        assert peer.ask("rpc", method="score") == {"data": 10}
        assert repr(peer.client).startswith("<Player ")
        assert type(site.connected().client) is type(peer.client)

    def test_limits_of_connections_hold(self, site: Any) -> None:
        site(server={"max_connections": 1}).connected()
        peer = site.peer()
        peer.open('{"id":1,"connect":{}}')
        peer.read()
        assert peer.status == 503

    @pytest.mark.parametrize("status", [503, 1013, 4001])
    def test_new_clients_may_be_denied(self, site: Any, status: int) -> None:
        site().server.deny_new_connections(status, "not now")
        peer = site.peer()
        peer.open('{"id":1,"connect":{}}')
        told = peer.take() if status > 1000 else peer.read()
        assert peer.ended
        if status == 503:
            assert peer.status == 503
        elif status == 4001:
            push = {"disconnect": {"code": 4001, "reason": "not now"}}
            assert told == [{"push": push}]
        else:
            assert told == []
        assert not site.server._inputs

    def test_browsers_may_ask_first(self, site: Any) -> None:
        kit = site(cors="https://good.example").start()
        asked = {
            "Origin": "https://good.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        }
        answer = kit.request("OPTIONS", "/live/emulation", headers=asked)
        assert answer.status == 204
        for name, value in (
            ("Allow-Origin", "https://good.example"),
            ("Allow-Methods", "POST"),
            ("Allow-Headers", "content-type"),
        ):
            assert answer.headers[f"Access-Control-{name}"] == value

    def test_origins_hold(self, site: Any) -> None:
        site(origins=["https://good.example"])
        for origin, status in (("evil", 403), ("good", 200)):
            peer = site.peer(f"Origin: https://{origin}.example")
            peer.open('{"id":1,"connect":{}}')
            peer.read()
            assert peer.status == status

    def test_pages_that_cors_allows_may_come(self, site: Any) -> None:
        site(origins=["same"], cors="https://good.example")
        for origin, status in (("evil", 403), ("good", 200)):
            peer = site.peer(f"Origin: https://{origin}.example")
            peer.open('{"id":1,"connect":{}}')
            peer.read()
            assert peer.status == status
            allowed = "Access-Control-Allow-Origin: https://good.example" in peer.head
            assert allowed is (origin == "good")

    @pytest.mark.parametrize(
        "frame",
        [
            "",
            "{}",
            "null",
            "[" * 5000,
            '{"id":1,"subscribe":{"channel":"a"}}',
            '{"connect":{}}',
            '{"id":1,"connect":[]}',
        ],
    )
    def test_stream_must_begin_with_connect(self, site: Any, frame: str) -> None:
        peer = site().peer()
        peer.open(frame)
        peer.read()
        assert peer.status == 400
        assert not site.server.clients

    def test_head_and_options(self, site: Any) -> None:
        site()
        path = f"/live/{site.form}"
        answer = site.start().request("OPTIONS", path)
        assert answer.status == 204
        allowed = answer.headers["Allow"]
        if site.form == "sse":
            assert allowed == "GET, OPTIONS, HEAD"
            head = site.kit.request("HEAD", path)
            assert head.headers["Content-Type"] == "text/event-stream"
            assert site.kit.request("POST", path).status == 405
        else:
            assert allowed == "POST, OPTIONS"
            assert site.kit.request("GET", path).status == 405
        assert not site.server.clients


class TestEnd:
    def test_leaving_is_noticed_at_once(self, site: Any) -> None:
        gone: list[Any] = []
        peer = site(on_disconnect=gone.append).connected()
        client = peer.client
        peer.leave()
        assert gone == [client]
        assert client.close_cause is CloseCause.EOF
        assert peer.post("{}") == 404
        assert not site.server.clients

    def test_leaving_is_noticed_while_commands_wait(self, site: Any) -> None:
        gone: list[Any] = []

        async def on_publish(client: Any, topic: str, data: Any) -> None:
            await asyncio.sleep(60)

        site(on_publish=on_publish, on_disconnect=gone.append)
        peer = site.connected()
        for number in range(3):
            peer.send({"id": 10 + number, "publish": {"channel": "a", "data": 1}})
        peer.leave()
        assert len(gone) == 1

    @pytest.mark.parametrize("how", ["user", "stop", "hook"])
    def test_disconnect_is_pushed_before_the_end(self, site: Any, how: str) -> None:
        peer = site(
            on_send=lambda client, data: client.close(4001, "enough")
        ).connected()
        if how == "user":
            peer.client.close(3503, "go away")
            told = {"code": 3503, "reason": "go away"}
        elif how == "hook":
            peer.send({"send": {"data": 1}})
            told = {"code": 4001, "reason": "enough"}
        else:
            site.server.stop()
            told = {"code": 3001, "reason": "shutdown"}
        site.kit.settle()
        assert peer.pushes() == [{"disconnect": told}]
        assert peer.ended
        peer.leave()
        assert not site.server.clients

    def test_code_without_meaning_only_ends_the_stream(self, site: Any) -> None:
        peer = site().connected()
        peer.client.close()
        assert peer.pushes() == []
        assert peer.ended

    def test_refused_client_is_told(self, site: Any) -> None:
        peer = site(on_connect=lambda client, request: False).peer()
        peer.open('{"id":1,"connect":{}}')
        error, push = peer.take()
        assert error["error"]["code"] == 101
        assert push["push"]["disconnect"]["code"] == 3500
        assert peer.ended

    def test_slow_consumer_is_closed_with_3008_and_counted(self, site: Any) -> None:
        site(write_limit=20_000)
        peer = site.connected()
        client = peer.client
        peer.ask("subscribe", channel="a")
        for _ in range(1000):
            site.server.publish("a", "x" * 500)
            site.kit.settle()
        assert client.close_cause is CloseCause.SLOW_CONSUMER
        assert client.close_code == 3008
        assert client.buffered_amount <= 40_000
        (handler,) = site.server.stats()["handlers"]
        assert handler["dropped"] > 0

    def test_silent_client_is_disconnected(self, site: Any) -> None:
        peer = site().connected()
        site.kit.advance(25)
        assert peer.take() == [{}]
        peer.send({})
        site.kit.advance(25)
        assert peer.take() == [{}]
        site.kit.advance(10)
        assert peer.pushes() == [{"disconnect": {"code": 3012, "reason": "no pong"}}]
        assert peer.ended

    def test_client_that_takes_nothing_is_cut(self, site: Any) -> None:
        peer = site().connected()
        client = peer.client
        peer.ask("subscribe", channel="a")
        while not client.buffered_amount:
            site.server.publish("a", "x" * 1000)
            site.kit.settle()
        site.kit.advance(30)
        assert client.is_open()
        site.kit.advance(25)
        assert client.close_cause is CloseCause.PING_TIMEOUT
        assert not site.server.clients

    def test_client_that_says_nothing_may_be_idle_for_too_long(self, site: Any) -> None:
        peer = site(idle_timeout=10).connected()
        client = peer.client
        site.kit.advance(8)
        peer.send({})
        site.kit.advance(8)
        assert client.is_open()
        site.kit.advance(8)
        assert client.close_cause is CloseCause.IDLE_TIMEOUT
        assert peer.pushes() == []
        assert peer.ended

    def test_what_follows_the_request_is_passed_over(self, site: Any) -> None:
        peer = site().connected()
        peer.kit._exchange(peer.sock, b"GET / HTTP/1.1\r\n\r\n" * 100)
        assert peer.ask("subscribe", channel="a") == {}

    def test_message_rate_holds(self, site: Any) -> None:
        peer = site(message_rate=(1, 3)).connected()
        for _ in range(3):
            peer.post("{}")
        peer.read()
        assert peer.ended


class TestRequests:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"\xff",
            b"[]",
            b"[" * 5000,
            b'{"session":1,"node":"","data":"{}"}',
            b'{"session":"","node":"","data":{}}',
            b'{"session":"","node":"","data":""}',
            b'{"session":"","node":"%s","data":"{}"}' % (b"x" * 101),
        ],
    )
    def test_wrong_bodies(self, site: Any, body: bytes) -> None:
        assert (
            site().start().request("POST", "/live/emulation", body=body).status == 400
        )

    @settings(max_examples=50)
    @given(value=st.none() | st.text() | st.integers() | st.lists(st.text()))
    def test_no_body_raises(self, value: Any) -> None:
        keys = ("session", "node", "data")
        for given_ in (
            value,
            *({key: value} for key in keys),
            dict.fromkeys(keys, value),
        ):
            with suppress(HandshakeError):
                assert _read(json.dumps(given_).encode()).frame

    def test_requests_of_a_client_that_does_not_read_wait(self, site: Any) -> None:
        site(write_limit=100_000)

        @site.live.method
        def large(client: Any, data: Any) -> str:
            return "x" * 10_000

        peer = site.connected()
        statuses = [
            peer.post(json.dumps({"id": 10 + n, "rpc": {"method": "large"}}))
            for n in range(300)
        ]
        taken = statuses.count(204)
        assert statuses == [204] * taken + [429] * (300 - taken)
        assert 100 < taken < 300
        assert peer.client.is_open()
        assert peer.client.buffered_amount < 70_000
        replies: list[int] = []
        while len(replies) < taken:
            replies += [each["id"] for each in peer.take()]
        assert replies == [10 + n for n in range(taken)]
        assert peer.post("{}") == 204

    def test_unknown_session(self, site: Any) -> None:
        peer = site().connected()
        assert peer.post("{}", session="x") == 404
        assert peer.post("{}", node="0" * 16) == 404
        assert peer.post("{}", node="") == 204

    def test_other_methods(self, site: Any) -> None:
        kit = site().start()
        assert kit.request("GET", "/live/emulation").status == 405
        assert (
            kit.request("OPTIONS", "/live/emulation").headers["Allow"]
            == "POST, OPTIONS"
        )

    def test_frame_is_as_large_as_a_message_may_be(self, site: Any) -> None:
        peer = site(max_size=1000).connected()
        assert peer.post(" " * 1000) == 204
        assert peer.post(" " * 1001) == 413

    def test_malformed_commands_count(self, site: Any) -> None:
        peer = site().connected()
        for _ in range(10):
            assert peer.post("x") == 204
        *errors, push = peer.take()
        assert len(errors) == 10
        assert push == {"push": {"disconnect": {"code": 3501, "reason": "bad request"}}}
        assert site.live.malformed == 10

    def test_requests_keep_their_order_and_wait_in_a_bounded_queue(
        self, site: Any
    ) -> None:
        seen: list[Any] = []

        async def on_publish(client: Any, topic: str, data: Any) -> None:
            await asyncio.sleep(1)
            seen.append(data)

        site(on_publish=on_publish, heartbeat=1000)
        peer = site.connected()
        statuses = [
            peer.post(
                json.dumps({"id": 10 + n, "publish": {"channel": "a", "data": n}})
            )
            for n in range(110)
        ]
        taken = statuses.count(204)
        assert statuses == [204] * taken + [429] * (110 - taken)
        assert 100 < taken < 110
        for _ in range(taken):
            site.kit.advance(1)
        assert seen == list(range(taken))
        replies = [each["id"] for each in peer.take() if each]  # without pings
        assert replies == [10 + n for n in range(taken)]
