"""Behaviour of both clients: opening, messages, closing, TLS, proxies, real servers.

Each test runs on the blocking client and on the asyncio one, on asyncio's loop and on
uvloop. Behaviour of only one of them is tested in `test_blocking` and `test_aio`.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from client_harness import (
    Server,
    answer_to,
    elsewhere,
    fields_of,
    scripted,
    server_close,
    server_frame,
)
from harness import BINARY, DEADLINE, PING, PONG, TEXT, Echo, running

from simple_ws import Deflate
from simple_ws.constants import CloseCause
from simple_ws.errors import (
    ConnectError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    ConnectTimeout,
    HandshakeRefused,
    InvalidHandshake,
    InvalidState,
    ProxyError,
    TLSError,
)

pytestmark = pytest.mark.usefixtures("no_proxy")

MIB = 2**20


def echo(server: Server) -> None:
    """Accept, send one message back, and wait to be left."""
    server.accept()
    server.send(TEXT, server.read_message())
    leave_taking(server)


def leave_taking(server: Server) -> None:
    """Answer the close frame that must come next."""
    code, reason = server.read_close()
    assert code is not None
    server.write(server_close(code, reason))
    server.sock.shutdown(socket.SHUT_WR)
    assert server.read_rest() == b""


# --- Opening -------------------------------------------------------------------------


class TestOpening:
    def test_connection_opens_and_closes(self, face: Any) -> None:
        with scripted(echo) as server, face.connect(server.url) as ws:
            ws.send("hello")
            assert ws.recv() == "hello"
            assert ws.is_open()
            assert ws.url == server.url
            assert ws.address == ("127.0.0.1", server.port)
            assert ws.headers["upgrade"] == "websocket"
            assert ws.subprotocol is None
            assert not ws.compressed
            assert ws.close_code is None
        assert not ws.is_open()
        assert (ws.close_code, ws.close_reason) == (1000, "")
        assert ws.close_cause is CloseCause.LOCAL

    def test_options_reach_the_request(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept("Sec-WebSocket-Protocol: v2", "X-Server: mine")
            leave_taking(server)

        with (
            scripted(script) as server,
            face.connect(
                f"ws://me:secret@127.0.0.1:{server.port}/p%20q?x=\u00e4",
                subprotocols=["v1", "v2"],
                headers={"X-Mine": "1"},
                cookies={"session": "42"},
                origin="https://page.example",
                user_agent="tester/1",
                compression=Deflate(server_no_context_takeover=True),
            ) as ws,
        ):
            assert ws.subprotocol == "v2"
            assert ws.headers["x-server"] == "mine"
            assert "secret" not in ws.url
        (head,) = server.heads
        assert head.startswith("GET /p%20q?x=%C3%A4 HTTP/1.1\r\n")
        fields = fields_of(head)
        assert fields["host"] == f"127.0.0.1:{server.port}"
        assert fields["x-mine"] == "1"
        assert fields["cookie"] == "session=42"
        assert fields["origin"] == "https://page.example"
        assert fields["user-agent"] == "tester/1"
        assert fields["authorization"] == "Basic bWU6c2VjcmV0"
        assert "server_no_context_takeover" in fields["sec-websocket-extensions"]

    def test_answer_may_come_byte_by_byte(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answer = answer_to(server.read_head()) + server_frame(TEXT, "early")
            for byte in answer:
                server.write(bytes((byte,)))
            leave_taking(server)

        with scripted(script) as server, face.connect(server.url) as ws:
            assert ws.recv() == "early"

    def test_frames_right_behind_the_answer_are_received(self, face: Any) -> None:
        frames = server_frame(TEXT, "one") + server_frame(PING, "p")
        frames += server_frame(BINARY, b"two") + server_frame(TEXT, "half")[:3]

        def script(server: Server) -> None:
            server.accept(then=frames)
            assert server.read_frame() == (0x80 | PONG, b"p")
            server.write(server_frame(TEXT, "half")[3:])
            leave_taking(server)

        with scripted(script) as server, face.connect(server.url) as ws:
            assert [ws.recv(), ws.recv(), ws.recv()] == ["one", b"two", "half"]

    def test_close_right_behind_the_answer_is_seen(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept(then=server_frame(TEXT, "no") + server_close(1008, "policy"))
            assert server.read_close() == (1008, "")

        with scripted(script) as server:
            ws = face.connect(server.url)
            assert ws.recv() == "no"
            with pytest.raises(ConnectionClosed) as caught:
                ws.recv()
            assert (caught.value.code, caught.value.reason) == (1008, "policy")
            with pytest.raises(ConnectionClosed):
                ws.send("x")
            ws.close()

    @pytest.mark.parametrize(
        ("lines", "said"),
        [
            (["Sec-WebSocket-Extensions: x-other"], "extension 'x-other'"),
            (["Sec-WebSocket-Protocol: chat"], "subprotocol 'chat'"),
            (["Sec-WebSocket-Accept: AAAA"], "Sec-WebSocket-Accept"),
        ],
    )
    def test_wrong_answer_fails_and_closes(
        self, face: Any, lines: list[str], said: str
    ) -> None:
        def script(server: Server) -> None:
            server.accept(*lines)
            assert server.read_rest() == b""

        with (
            scripted(script) as server,
            pytest.raises(InvalidHandshake, match=said),
        ):
            face.connect(server.url)

    def test_refusal_is_raised_with_its_facts(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.read_head()
            body = b"Who are you?\n"
            head = f"HTTP/1.1 401 x\r\nContent-Length: {len(body)}\r\nX: y\r\n\r\n"
            server.write(head.encode() + body)
            assert server.read_rest() == b""

        with (
            scripted(script) as server,
            pytest.raises(HandshakeRefused) as caught,
        ):
            face.connect(server.url)
        error = caught.value
        assert (error.status, error.body) == (401, b"Who are you?\n")
        assert error.headers["x"] == "y"
        assert "401 Unauthorized (Who are you?)" in str(error)

    @pytest.mark.parametrize("reset", [False, True])
    def test_body_of_a_refusal_ends_with_the_connection(
        self, face: Any, reset: bool
    ) -> None:
        def script(server: Server) -> None:
            server.read_head()
            server.write(b"HTTP/1.1 500 x\r\nContent-Length: 99\r\n\r\nsorry")
            if reset:
                linger = b"\1\0\0\0\0\0\0\0"
                server.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            server.sock.close()

        with (
            scripted(script) as server,
            pytest.raises(HandshakeRefused) as caught,
        ):
            face.connect(server.url)
        assert caught.value.status == 500
        assert reset or caught.value.body == b"sorry"

    @pytest.mark.parametrize("said", [b"", b"HTTP/1.1 1"])
    def test_server_that_closes_without_an_answer(self, face: Any, said: bytes) -> None:
        def script(server: Server) -> None:
            server.read_head()
            server.write(said)
            server.sock.close()

        with (
            scripted(script) as server,
            pytest.raises(ConnectError, match="closed the connection"),
        ):
            face.connect(server.url)

    def test_server_that_says_nothing_is_given_up(self, face: Any) -> None:
        with (
            scripted(Server.read_rest) as server,
            pytest.raises(ConnectTimeout, match=r"not open within 0.1 s") as got,
        ):
            face.connect(server.url, open_timeout=0.1)
        assert isinstance(got.value, TimeoutError)

    def test_nobody_listens(self, face: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        with pytest.raises(ConnectError, match="is the server running there"):
            face.connect(f"ws://127.0.0.1:{port}/")

    def test_unknown_host_is_named(self, face: Any) -> None:
        with pytest.raises(ConnectError, match=r"ws://nobody.invalid/: the name of"):
            face.connect("ws://nobody.invalid/")

    def test_what_is_no_web_server_is_named(self, face: Any) -> None:
        with (
            scripted(lambda server: server.write(b"220 mail ready\r\n")) as server,
            pytest.raises(InvalidHandshake, match="does not speak HTTP"),
        ):
            face.connect(server.url)

    def test_address_to_connect_from_is_chosen(self, face: Any) -> None:
        seen = []

        def script(server: Server) -> None:
            seen.append(server.sock.getpeername()[0])
            server.accept()
            leave_taking(server)

        with (
            scripted(script) as server,
            face.connect(server.url, source_address=("127.0.0.2", 0)),
        ):
            pass
        assert seen == ["127.0.0.2"]


NONSENSE = {
    "nothing": b"",
    "zeros": bytes(100),
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "an alert of TLS": b"\x15\x03\x01\x00\x02\x02\x46",
    "HTTP/0.9": b"<html>\r\n\r\n",
    "half a status": b"HTTP/1.1 10",
    "a long status": b"HTTP/1.1 1010 x\r\n\r\n",
    "an unknown status": b"HTTP/1.1 599 x\r\n\r\n",
    "bare 101": b"HTTP/1.1 101\r\n\r\n",
    "control characters": b"HTTP/1.1 401 \x1b[2J\r\n\r\n",
    "C1": b"HTTP/1.1 401 x\r\nSec-WebSocket-Version: \x9b2J\r\n\r\n",
    "long length": b"HTTP/1.1 200 x\r\nContent-Length: 9" + b"9" * 5000 + b"\r\n\r\n",
    "negative length": b"HTTP/1.1 200 x\r\nContent-Length: -1\r\n\r\n",
    "large chunk": b"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"F" * 16
    + b"\r\n",
    "bad chunk": b"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    "interim only": b"HTTP/1.1 100 x\r\n\r\n" * 2000,
    "many fields": b"HTTP/1.1 101 x\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    **{
        f"Location {location!r}": b"HTTP/1.1 302 x\r\nLocation: %b\r\n\r\n" % location
        for location in (
            b"",
            b"ws://[x]/",
            b"//[",
            b"http://]/",
            "//a\u2100b/".encode(),
            b"ws://h:99999/",
            b"ws://[fe80::1%25\xe4]/",
            b"\x9b\x1b",
            b"javascript:alert(1)",
        )
    },
}


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=list(NONSENSE))
def test_whatever_a_server_answers_is_one_of_our_errors(
    face: Any, answer: bytes
) -> None:
    def script(server: Server) -> None:
        server.read_head()
        with contextlib.suppress(OSError):  # the client may have had enough
            server.write(answer)

    with scripted(*[script] * (6 if b"Location: \r" in answer else 1)) as server:
        with pytest.raises(ConnectError) as caught:
            face.connect(server.url)
        assert str(caught.value).isprintable()


class TestRedirects:
    @staticmethod
    def to(target: str, status: int = 302) -> Callable[[Server], None]:
        def script(server: Server) -> None:
            server.read_head()
            server.write(f"HTTP/1.1 {status} x\r\nLocation: {target}\r\n\r\n".encode())
            assert server.read_rest() == b""

        return script

    def test_redirect_is_followed(self, face: Any) -> None:
        with (
            scripted(self.to("/next?x=1", 307), self.to("last"), echo) as server,
            face.connect(server.url + "first") as ws,
        ):
            ws.send("hello")
            assert ws.recv() == "hello"
            assert ws.url == server.url + "last"
        targets = [head.split(" ")[1] for head in server.heads]
        assert targets == ["/first", "/next?x=1", "/last"]
        keys = {fields_of(head)["sec-websocket-key"] for head in server.heads}
        assert len(keys) == 3

    def test_credentials_do_not_go_to_another_server(self, face: Any) -> None:
        with scripted(echo) as other, scripted(self.to(other.url)) as server:
            url = f"ws://me:secret@127.0.0.1:{server.port}/"
            with face.connect(url, cookies={"a": "b"}) as ws:
                ws.send("hello")
                assert ws.recv() == "hello"
        assert "authorization" in fields_of(server.heads[0])
        assert "cookie" in fields_of(server.heads[0])
        assert "authorization" not in fields_of(other.heads[0])
        assert "cookie" not in fields_of(other.heads[0])

    def test_circle_of_redirects_ends(self, face: Any) -> None:
        scripts = [self.to("/again")] * 6
        with (
            scripted(*scripts) as server,
            pytest.raises(HandshakeRefused, match="more than 5 redirects"),
        ):
            face.connect(server.url)


class TestUnix:
    def test_unix_socket_takes_the_place_of_host_and_port(
        self, face: Any, tmp_path: Path
    ) -> None:
        path = tmp_path / "socket"
        with (
            scripted(echo, unix=path) as server,
            face.connect("ws://any.example/chat", unix=path) as ws,
        ):
            ws.send("hello")
            assert ws.recv() == "hello"
            assert ws.url == "ws://any.example/chat"
        assert fields_of(server.heads[0])["host"] == "any.example"

    def test_redirect_elsewhere_is_not_followed(
        self, face: Any, tmp_path: Path
    ) -> None:
        path = tmp_path / "socket"
        scripts = [TestRedirects.to("/here"), TestRedirects.to("ws://other.example/")]
        with (
            scripted(*scripts, unix=path),
            pytest.raises(HandshakeRefused, match="which is another server"),
        ):
            face.connect("ws://any.example/", unix=path)

    def test_missing_socket_is_an_error(self, face: Any, tmp_path: Path) -> None:
        with pytest.raises(ConnectError, match="No such file or directory"):
            face.connect("ws://h/", unix=tmp_path / "none")


# --- Messages ------------------------------------------------------------------------


MESSAGES: list[str | bytes] = [
    "text",
    "",
    "\u00e9 \U0001f600",
    b"\x00\x01\xff",
    b"",
    "x" * 125,
    "x" * 126,
    b"x" * 65535,
    b"x" * 65536,
    bytes(range(256)) * 4096,
    "prose " * 100_000,
]


class TestMessages:
    @pytest.mark.parametrize(
        "compression",
        [
            False,
            True,
            Deflate(),
            Deflate(server_no_context_takeover=True, client_no_context_takeover=True),
            Deflate(server_max_window_bits=8, client_max_window_bits=9, threshold=0),
        ],
        ids=["plain", "default", "narrow", "fresh", "tiny"],
    )
    def test_our_server_echoes(self, face: Any, compression: Deflate | bool) -> None:
        handler = Echo(max_size=2**21, write_limit=2**23)
        with running(handler) as server:
            url = f"ws://127.0.0.1:{server.port}/"
            with face.connect(url, compression=compression, max_size=2**21) as ws:
                assert ws.compressed is (compression is not False)
                for message in MESSAGES:
                    ws.send(message)
                    assert ws.recv() == message
            assert handler.wait_for("close")[0] == 1000
            assert handler.of("message") == MESSAGES

    def test_long_messages_are_split_where_asked(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept()
            assert server.read_frame() == (0x01, b"abc")
            assert server.read_frame() == (0x80, b"de")
            leave_taking(server)

        with (
            scripted(script) as server,
            face.connect(server.url, max_frame_size=3) as ws,
        ):
            ws.send("abcde")

    def test_fragments_with_a_ping_between_are_joined(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept()
            server.write(b"\x01\x02on")
            server.send(PING, "now")
            assert server.read_frame() == (0x80 | PONG, b"now")
            server.write(b"\x80\x01e")
            leave_taking(server)

        with scripted(script) as server, face.connect(server.url) as ws:
            assert ws.recv() == "one"

    @pytest.mark.parametrize("size", [100, 101])
    def test_message_beyond_max_size_fails_the_connection(
        self, face: Any, size: int
    ) -> None:
        def script(server: Server) -> None:
            server.accept(then=server_frame(TEXT, "x" * size))
            assert server.read_close()[0] == (1009 if size > 100 else 1000)
            server.sock.close()

        with scripted(script) as server, face.connect(server.url, max_size=100) as ws:
            if size == 100:
                assert ws.recv() == "x" * 100
            else:
                with pytest.raises(ConnectionClosed, match="exceeds max_size") as got:
                    ws.recv()
                assert got.value.code == 1009
                assert got.value.cause is CloseCause.TOO_BIG

    def test_both_sides_may_send_large_messages_at_once(self, face: Any) -> None:
        big = b"\xa5" * (10 * MIB)

        def script(server: Server) -> None:
            server.accept()
            # Not a byte is read before all is written.
            server.send(BINARY, big)
            assert server.read_message() == big
            leave_taking(server)

        with (
            scripted(script) as server,
            face.connect(server.url, max_size=16 * MIB, read_limit=1) as ws,
        ):
            ws.send(big)
            assert ws.recv() == big

    def test_large_messages_are_echoed_while_more_are_sent(self, face: Any) -> None:
        big = b"\xa5" * (10 * MIB)
        handler = Echo(max_size=16 * MIB, write_limit=64 * MIB)
        with running(handler) as server:
            url = f"ws://127.0.0.1:{server.port}/"
            with (
                face.connect(url, max_size=16 * MIB, compression=False) as ws,
                elsewhere() as start,
            ):
                sent = start(lambda: [ws.send(big) for _ in range(4)])
                for _ in range(4):
                    assert ws.recv(DEADLINE) == big
                sent.result(DEADLINE)

    def test_iteration_ends_quietly_with_an_ordinary_close(self, face: Any) -> None:
        for code in (1000, 1001):

            def script(server: Server, code: int = code) -> None:
                server.accept()
                server.send(TEXT, "one")
                server.send(BINARY, b"two")
                server.leave(code)

            with scripted(script) as server, face.connect(server.url) as ws:
                assert list(ws) == ["one", b"two"]
                assert ws.close_code == code
                with pytest.raises(ConnectionClosedOK):
                    ws.recv(DEADLINE)

    def test_iteration_raises_for_any_other_end(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept()
            server.send(TEXT, "one")
            server.leave(1011, "trouble")

        got = []
        with scripted(script) as server, face.connect(server.url) as ws:
            with pytest.raises(ConnectionClosedError) as caught:
                got.extend(ws)
            assert (caught.value.code, caught.value.reason) == (1011, "trouble")
            assert caught.value.cause is CloseCause.PEER

    def test_wrong_types_are_refused_and_nothing_is_sent(self, face: Any) -> None:
        with scripted(echo) as server, face.connect(server.url) as ws:
            for message in (None, 1, object()):
                with pytest.raises(TypeError, match="a message must be"):
                    ws.send(message)
            with pytest.raises(TypeError, match="binary must be"):
                ws.send("x", binary=1)
            ws.send({"a": 1})
            assert ws.recv() == '{"a":1}'


# --- Waiting -------------------------------------------------------------------------


class TestWaiting:
    def test_timeout_loses_nothing(self, face: Any) -> None:
        go = threading.Event()
        half = server_frame(TEXT, "whole")

        def script(server: Server) -> None:
            server.accept(then=half[:4])
            assert go.wait(DEADLINE)
            server.write(half[4:])
            leave_taking(server)

        with scripted(script) as server, face.connect(server.url) as ws:
            for _ in range(3):
                with pytest.raises(TimeoutError, match=r"no message within 0.01 s"):
                    ws.recv(timeout=0.01)
            with pytest.raises(TimeoutError, match="no message within 0 s"):
                ws.recv(0)
            go.set()
            assert ws.recv(DEADLINE) == "whole"

    @pytest.mark.parametrize(
        ("timeout", "error"),
        [
            ("1", TypeError),
            (True, TypeError),
            (-1, ValueError),
            (math.nan, ValueError),
            (10**400, ValueError),
        ],
    )
    def test_wrong_timeout_is_refused(
        self, face: Any, timeout: Any, error: type[Exception]
    ) -> None:
        def script(server: Server) -> None:
            server.accept()
            leave_taking(server)

        with scripted(script) as server, face.connect(server.url) as ws:
            with pytest.raises(error, match=r"timeout must be .*, not "):
                ws.recv(timeout=timeout)
            with pytest.raises(error, match=r"timeout must be .*, not "):
                ws.ping(timeout=timeout)

    def test_pings_are_answered_while_waiting(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept()
            for n in range(10):
                server.send(PING, str(n))
            for n in range(10):
                assert server.read_frame() == (0x80 | PONG, str(n).encode())
            server.send(TEXT, "done")
            leave_taking(server)

        with scripted(script) as server, face.connect(server.url) as ws:
            assert ws.recv() == "done"

    def test_ping_returns_the_latency(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept()
            server.send(TEXT, "before")
            first, payload = server.read_frame()
            assert first == 0x80 | PING
            assert payload
            server.send(TEXT, "between")
            server.send(PONG, payload)
            assert server.read_frame() == (0x80 | PING, b"mine")
            server.send(PONG, "mine")
            leave_taking(server)

        with scripted(script) as server, face.connect(server.url) as ws:
            assert ws.latency is None
            latency = ws.ping()
            assert 0 <= latency < DEADLINE
            assert ws.latency == latency
            assert ws.ping(b"mine") == ws.latency
            assert [ws.recv(), ws.recv()] == ["before", "between"]

    def test_ping_without_a_pong_times_out(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept()
            assert server.read_frame()[0] == 0x80 | PING
            _, payload = server.read_frame()
            server.send(PONG, "another")
            server.send(PONG, payload)
            leave_taking(server)

        with scripted(script) as server, face.connect(server.url) as ws:
            with pytest.raises(TimeoutError, match=r"no pong within 0.01 s"):
                ws.ping(timeout=0.01)
            assert ws.ping("again", timeout=DEADLINE) >= 0

    def test_connection_that_ends_ends_the_wait_for_a_pong(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept()
            server.read_frame()
            server.leave(4000, "no pongs here")

        with scripted(script) as server, face.connect(server.url) as ws:
            with pytest.raises(ConnectionClosed, match="no pongs here"):
                ws.ping()
            with pytest.raises(ConnectionClosed, match="no pongs here"):
                ws.ping()

    @pytest.mark.parametrize(
        ("payload", "error"), [(b"x" * 126, ValueError), (1, TypeError)]
    )
    def test_wrong_ping_is_refused(
        self, face: Any, payload: Any, error: type[Exception]
    ) -> None:
        def script(server: Server) -> None:
            leave_taking(server.accept())

        with (
            scripted(script) as server,
            face.connect(server.url) as ws,
            pytest.raises(error, match="ping payload must"),
        ):
            ws.ping(payload)

    def test_same_ping_twice_at_once_is_refused(self, face: Any) -> None:
        asked = threading.Event()

        def script(server: Server) -> None:
            server.accept()
            server.read_frame()
            asked.set()
            assert server.read_frame() == (0x81, b"go on")
            server.send(PONG, "same")
            leave_taking(server)

        with (
            scripted(script) as server,
            face.connect(server.url) as ws,
            elsewhere() as start,
        ):
            first = start(ws.ping, b"same")
            assert asked.wait(DEADLINE)
            with pytest.raises(InvalidState, match="waiting for the pong to"):
                ws.ping(b"same")
            ws.send("go on")
            assert first.result(DEADLINE) >= 0


# --- Ending --------------------------------------------------------------------------


class TestEnding:
    def test_close_sends_code_and_reason(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept()
            assert server.read_close() == (4001, "enough")
            server.write(server_close(4001))
            server.sock.shutdown(socket.SHUT_WR)
            assert server.read_rest() == b""

        with scripted(script) as server:
            ws = face.connect(server.url)
            ws.close(4001, "enough")
            assert (ws.close_code, ws.close_reason) == (4001, "enough")
            assert ws.close_cause is CloseCause.LOCAL
            ws.close()
            ws.close(1001)
            for call in (ws.recv, lambda: ws.send("x"), ws.ping):
                with pytest.raises(ConnectionClosed) as caught:
                    call()
                assert caught.value.code == 4001

    @pytest.mark.parametrize(
        ("code", "reason", "error"),
        [(999, "", ValueError), (1006, "", ValueError), (1000, "x" * 124, ValueError)],
    )
    def test_wrong_close_is_refused(
        self, face: Any, code: int, reason: str, error: type[Exception]
    ) -> None:
        def script(server: Server) -> None:
            leave_taking(server.accept())

        with scripted(script) as server, face.connect(server.url) as ws:
            with pytest.raises(error, match="close"):
                ws.close(code, reason)
            assert ws.is_open()

    def test_messages_before_a_close_can_still_be_received(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept()
            for n in range(5):
                server.send(TEXT, str(n))
            server.leave(1000)

        with scripted(script) as server, face.connect(server.url, read_limit=1) as ws:
            assert list(ws) == list("01234")

    def test_close_by_the_server_can_be_waited_for(self, face: Any) -> None:
        def last_words(server: Server) -> None:
            server.accept()
            server.send(TEXT, "last")
            server.leave(4000, "over")

        with scripted(last_words) as server, face.connect(server.url) as ws:
            ws.wait_closed(DEADLINE)
            assert (ws.close_code, ws.close_reason) == (4000, "over")
            assert ws.recv() == "last"
            ws.wait_closed()  # it is

    def test_wait_for_the_close_has_a_limit(self, face: Any) -> None:
        with scripted(echo) as server, face.connect(server.url) as ws:
            with pytest.raises(TimeoutError, match="not closed within 0 s"):
                ws.wait_closed(0)
            with pytest.raises(ValueError, match="timeout"):
                ws.wait_closed(-1)
            ws.send("still open")
            assert ws.recv(DEADLINE) == "still open"

    def test_messages_that_cross_our_close_are_skipped(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept()
            server.read_close()
            server.send(TEXT, "too late")
            server.write(server_close(1000))
            server.sock.close()

        with scripted(script) as server:
            ws = face.connect(server.url)
            ws.close()
            assert (ws.close_code, ws.close_cause) == (1000, CloseCause.LOCAL)
            with pytest.raises(ConnectionClosed):
                ws.recv()

    def test_both_may_close_at_once(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept()
            server.write(server_close(4002))
            code, _ = server.read_close()
            assert code in (4001, 4002)
            server.sock.close()

        with scripted(script) as server:
            ws = face.connect(server.url)
            ws.close(4001)
            assert ws.close_code in (4001, 4002)

    def test_server_that_does_not_answer_a_close_is_left(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept()
            server.read_close()
            assert server.read_rest() == b""

        with scripted(script) as server:
            ws = face.connect(server.url, close_timeout=0.05)
            ws.close()
            assert (ws.close_code, ws.close_cause) == (1000, CloseCause.LOCAL)

    def test_server_that_does_not_close_is_left(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept()
            server.read_close()
            server.write(server_close(1000))
            assert server.read_rest() == b""

        with scripted(script) as server:
            face.connect(server.url, close_timeout=0.05).close()

    def test_lost_connection_is_1006(self, face: Any) -> None:
        with scripted(lambda server: server.accept()) as server:
            ws = face.connect(server.url)
            with pytest.raises(ConnectionClosed) as caught:
                ws.recv()
            assert caught.value.code == 1006
            assert caught.value.cause is CloseCause.EOF
            assert "without a close frame" in str(caught.value)
            assert not ws.is_open()
            ws.close()

    def test_reset_connection_is_1006(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept()
            linger = b"\1\0\0\0\0\0\0\0"
            server.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            server.sock.close()

        with scripted(script) as server:
            ws = face.connect(server.url)
            with pytest.raises(ConnectionClosed) as caught:
                ws.recv()
            assert caught.value.code == 1006
            assert caught.value.cause is CloseCause.RESET
            ws.close()

    def test_fault_of_the_server_is_answered_and_raised(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept(then=server_frame(TEXT, "good") + b"\x81\x01\xff")
            code, reason = server.read_close()
            assert (code, reason) == (1007, "text is not valid UTF-8")
            assert server.read_rest() == b""

        with scripted(script) as server:
            ws = face.connect(server.url, close_timeout=0.05)
            assert ws.recv() == "good"
            with pytest.raises(ConnectionClosed) as caught:
                ws.recv()
            assert caught.value.code == 1007
            assert caught.value.cause is CloseCause.BAD_DATA
            ws.close()

    @pytest.mark.parametrize(
        ("error", "code"), [(ValueError, 1011), (KeyboardInterrupt, 1001)]
    )
    def test_error_in_the_block_closes_with_its_code(
        self, face: Any, error: type[BaseException], code: int
    ) -> None:
        codes = []

        def script(server: Server) -> None:
            server.accept()
            codes.append(server.read_close()[0])
            server.sock.close()

        with (
            scripted(script) as server,
            pytest.raises(error),
            face.connect(server.url),
        ):
            raise error
        assert codes == [code]


# --- TLS -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def authority() -> Any:
    return pytest.importorskip("trustme").CA()


def server_context(authority: Any, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.fixture
def trusting(authority: Any) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def over_tls(
    context: ssl.SSLContext, script: Callable[[Server], object]
) -> Callable[[Server], None]:
    """Play a script behind a TLS handshake."""

    def play(server: Server) -> None:
        with context.wrap_socket(server.sock, server_side=True) as sock:
            inner = Server(sock)
            try:
                script(inner)
            finally:
                server.head = inner.head

    return play


def secure_echo(server: Server) -> None:
    server.accept()
    message = server.read_message()
    server.send(BINARY if isinstance(message, bytes) else TEXT, message)
    assert server.read_close()[0] == 1000
    server.write(server_close(1000))


class TestTLS:
    @pytest.mark.parametrize("size", [5, 3 * MIB])
    def test_messages_pass(
        self, face: Any, authority: Any, trusting: ssl.SSLContext, size: int
    ) -> None:
        script = over_tls(server_context(authority, "localhost"), secure_echo)
        with scripted(script) as server:
            url = f"wss://localhost:{server.port}/"
            with face.connect(url, ssl=trusting, max_size=4 * MIB) as ws:
                ws.send(b"x" * size)
                assert ws.recv(DEADLINE) == b"x" * size
                assert ws.url == url
        assert fields_of(server.heads[0])["host"] == f"localhost:{server.port}"

    def test_certificate_for_another_name_is_refused(
        self, face: Any, authority: Any, trusting: ssl.SSLContext
    ) -> None:
        context = server_context(authority, "other.example")
        with (
            scripted(refusing_tls(context)) as server,
            pytest.raises(TLSError, match="its certificate is not accepted") as got,
        ):
            face.connect(f"wss://localhost:{server.port}/", ssl=trusting)
        assert isinstance(got.value.__cause__, ssl.SSLCertVerificationError)
        assert "ostname mismatch" in str(got.value)
        assert "server_hostname" in str(got.value)

    def test_unknown_authority_is_refused(self, face: Any, authority: Any) -> None:
        context = server_context(authority, "localhost")
        with (
            scripted(refusing_tls(context)) as server,
            pytest.raises(TLSError, match="its certificate is not accepted"),
        ):
            face.connect(f"wss://localhost:{server.port}/")

    def test_name_of_the_certificate_can_be_given(
        self, face: Any, authority: Any, trusting: ssl.SSLContext
    ) -> None:
        script = over_tls(server_context(authority, "other.example"), secure_echo)
        with scripted(script) as server:
            url = f"wss://127.0.0.1:{server.port}/"
            with face.connect(url, ssl=trusting, server_hostname="other.example") as ws:
                ws.send("hello")
                assert ws.recv() == "hello"

    def test_address_of_the_certificate_is_accepted(
        self, face: Any, authority: Any, trusting: ssl.SSLContext
    ) -> None:
        script = over_tls(server_context(authority, "127.0.0.1"), secure_echo)
        with (
            scripted(script) as server,
            face.connect(f"wss://127.0.0.1:{server.port}/", ssl=trusting) as ws,
        ):
            ws.send("hello")
            assert ws.recv() == "hello"

    def test_server_without_tls_is_named(
        self, face: Any, trusting: ssl.SSLContext
    ) -> None:
        def script(server: Server) -> None:
            server.sock.recv(2**16)
            server.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        with (
            scripted(script) as server,
            pytest.raises(TLSError, match="try ws://"),
        ):
            face.connect(f"wss://localhost:{server.port}/", ssl=trusting)

    def test_server_that_leaves_in_the_tls_handshake(
        self, face: Any, trusting: ssl.SSLContext
    ) -> None:
        with (
            scripted(lambda server: server.sock.recv(1)) as server,
            pytest.raises(ConnectError),
        ):
            face.connect(f"wss://localhost:{server.port}/", ssl=trusting)

    def test_server_with_tls_is_named_to_who_comes_without(
        self, face: Any, authority: Any
    ) -> None:
        context = server_context(authority, "localhost")
        with (
            scripted(refusing_tls(context)) as server,
            pytest.raises(ConnectError),
        ):
            face.connect(f"ws://localhost:{server.port}/")

    def test_end_without_a_goodbye_is_1006(
        self, face: Any, authority: Any, trusting: ssl.SSLContext
    ) -> None:
        context = server_context(authority, "localhost")

        def script(server: Server) -> None:
            server.accept()
            socket.socket.shutdown(server.sock, socket.SHUT_RDWR)

        with scripted(over_tls(context, script)) as server:
            ws = face.connect(f"wss://localhost:{server.port}/", ssl=trusting)
            with pytest.raises(ConnectionClosed) as caught:
                ws.recv()
            assert caught.value.code == 1006
            ws.close()

    def test_redirect_to_tls_is_followed(
        self,
        face: Any,
        authority: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        secure = over_tls(server_context(authority, "localhost"), secure_echo)
        with scripted(secure) as target:
            to = f"wss://localhost:{target.port}/"
            with (
                scripted(TestRedirects.to(to)) as server,
                face.connect(server.url) as ws,
            ):
                ws.send("hello")
                assert ws.recv() == "hello"
                assert ws.url == to


def refusing_tls(context: ssl.SSLContext) -> Callable[[Server], None]:
    """A TLS server whose client will not go on."""

    def play(server: Server) -> None:
        with (
            contextlib.suppress(OSError),
            context.wrap_socket(server.sock, server_side=True) as sock,
        ):
            sock.recv(1)

    return play


# --- Proxies -------------------------------------------------------------------------


def relay(server: Server, answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
    """A proxy that does what it is asked for."""
    head = server.read_head()
    target = head.split(" ")[1]
    host, _, port = target.rpartition(":")
    host = host.replace("server.test", "127.0.0.1")  # a name that only we know
    with socket.create_connection((host.strip("[]"), int(port)), DEADLINE) as sock:
        server.write(answer)
        back = threading.Thread(target=pump, args=(sock, server.sock))
        back.start()
        pump(server.sock, sock)
        back.join(DEADLINE)


def pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(2**16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class TestProxies:
    def test_connection_goes_through_the_proxy(self, face: Any) -> None:
        with scripted(echo) as server, scripted(relay) as proxy:
            through = f"http://me:secret@127.0.0.1:{proxy.port}"
            with face.connect(server.url, proxy=through) as ws:
                ws.send("hello")
                assert ws.recv() == "hello"
        (head,) = proxy.heads
        assert head.startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n")
        assert fields_of(head)["proxy-authorization"] == "Basic bWU6c2VjcmV0"
        assert "proxy-authorization" not in fields_of(server.heads[0])

    def test_proxy_of_the_environment_is_used(
        self, face: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with scripted(echo) as server, scripted(relay) as proxy:
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv("no_proxy", "")
            with face.connect(f"ws://server.test:{server.port}/") as ws:
                ws.send("hello")
                assert ws.recv() == "hello"
        assert len(proxy.heads) == 1

    def test_proxy_of_the_environment_is_not_asked_for_this_machine(
        self, face: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "")
        with scripted(echo) as server, face.connect(server.url) as ws:
            ws.send("hello")
            assert ws.recv() == "hello"

    def test_proxy_of_the_environment_can_be_refused(
        self, face: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "")
        with scripted(echo) as server, face.connect(server.url, proxy=None) as ws:
            ws.send("hello")
            assert ws.recv() == "hello"

    def test_tls_goes_through_the_proxy(
        self, face: Any, authority: Any, trusting: ssl.SSLContext
    ) -> None:
        script = over_tls(server_context(authority, "localhost"), secure_echo)
        with (
            scripted(script) as server,
            scripted(relay) as proxy,
            face.connect(
                f"wss://localhost:{server.port}/",
                ssl=trusting,
                proxy=f"127.0.0.1:{proxy.port}",
            ) as ws,
        ):
            ws.send(b"x" * MIB)
            assert ws.recv() == b"x" * MIB

    def test_refusal_of_the_proxy_is_raised(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.read_head()
            server.write(b"HTTP/1.1 407 x\r\nContent-Length: 2\r\n\r\nno")
            assert server.read_rest() == b""

        with (
            scripted(script) as proxy,
            pytest.raises(ProxyError, match="answered 407 Proxy Auth") as caught,
        ):
            face.connect("ws://h/", proxy=f"127.0.0.1:{proxy.port}")
        assert (caught.value.status, caught.value.body) == (407, b"no")

    def test_proxy_that_is_not_there_is_named(self, face: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        said = f"the proxy 127.0.0.1:{port}: connection refused"
        with pytest.raises(ProxyError, match=said):
            face.connect("ws://h/", proxy=f"127.0.0.1:{port}")

    def test_proxy_that_leaves_is_named(self, face: Any) -> None:
        with (
            scripted(lambda server: server.read_head()) as proxy,
            pytest.raises(ProxyError, match="without an answer"),
        ):
            face.connect("ws://h/", proxy=f"127.0.0.1:{proxy.port}")

    def test_proxy_that_resets_is_named(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.read_head()
            linger = b"\1\0\0\0\0\0\0\0"
            server.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        with scripted(script) as proxy:
            said = f"the proxy 127.0.0.1:{proxy.port}: Connection reset by peer"
            with pytest.raises(ProxyError, match=said):
                face.connect("ws://h/", proxy=f"127.0.0.1:{proxy.port}")

    def test_proxy_that_says_nothing_is_given_up(self, face: Any) -> None:
        with scripted(Server.read_rest) as proxy, pytest.raises(ConnectTimeout):
            face.connect("ws://h/", proxy=f"127.0.0.1:{proxy.port}", open_timeout=0.1)


# --- Real servers --------------------------------------------------------------------


@contextlib.contextmanager
def websockets_server(handler: Any, **options: Any) -> Iterator[str]:
    sync = pytest.importorskip("websockets.sync.server")
    with sync.serve(handler, "127.0.0.1", 0, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
        finally:
            server.shutdown()
            thread.join(DEADLINE)


def websockets_echo(ws: Any) -> None:
    for message in ws:
        if message == "ping me":
            assert ws.ping(b"from them").wait(DEADLINE)
            ws.send("pinged")
        elif message == "close me":
            ws.close(4002, "from them")
        else:
            ws.send(message)


class TestWebsockets:
    """Servers of the package `websockets`."""

    @pytest.mark.parametrize(
        "compression",
        [
            False,
            True,
            Deflate(),
            Deflate(server_no_context_takeover=True),
            Deflate(client_no_context_takeover=True, level=9, mem_level=9),
            Deflate(server_max_window_bits=9, client_max_window_bits=9, threshold=0),
            Deflate(client_max_window_bits=8, threshold=0),
        ],
    )
    def test_messages_are_echoed(self, face: Any, compression: Deflate | bool) -> None:
        with (
            websockets_server(websockets_echo, max_size=2**21) as url,
            face.connect(url, compression=compression, max_size=2**21) as ws,
        ):
            assert ws.compressed is (compression is not False)
            for message in MESSAGES:
                ws.send(message)
                assert ws.recv(DEADLINE) == message

    def test_pings_pass_both_ways(self, face: Any) -> None:
        with websockets_server(websockets_echo) as url, face.connect(url) as ws:
            assert ws.ping() == ws.latency
            ws.send("ping me")
            assert ws.recv(DEADLINE) == "pinged"

    def test_their_close_comes_to_us(self, face: Any) -> None:
        with websockets_server(websockets_echo) as url, face.connect(url) as ws:
            ws.send("close me")
            with pytest.raises(ConnectionClosed) as caught:
                ws.recv(DEADLINE)
            assert (caught.value.code, caught.value.reason) == (4002, "from them")

    def test_our_close_comes_to_them(self, face: Any) -> None:
        ends: list[Any] = []
        ended = threading.Event()

        def handler(ws: Any) -> None:
            with contextlib.suppress(Exception):
                ws.recv()
            ends.append((ws.protocol.close_rcvd.code, ws.protocol.close_rcvd.reason))
            ended.set()

        with websockets_server(handler) as url:
            face.connect(url).close(4003, "from us")
            assert ended.wait(DEADLINE)
        assert ends == [(4003, "from us")]

    def test_subprotocol_is_agreed(self, face: Any) -> None:
        with (
            websockets_server(websockets_echo, subprotocols=["b", "c"]) as url,
            face.connect(url, subprotocols=["a", "b", "c"]) as ws,
        ):
            assert ws.subprotocol == "b"

    def test_refusal_is_understood(self, face: Any) -> None:
        def refuse(connection: Any, request: Any) -> Any:
            return connection.respond(403, "not you\n")

        with (
            websockets_server(websockets_echo, process_request=refuse) as url,
            pytest.raises(HandshakeRefused) as caught,
        ):
            face.connect(url)
        assert (caught.value.status, caught.value.body) == (403, b"not you\n")
