"""Clients without WebSockets whose requests reach another node, or another worker."""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import pytest
from harness import DEADLINE
from live_peer import allow
from nodes import KEEPING_ENGINES, Nodes, broker_server, engine_server
from programs import Program, until

from simple_ws import Server
from simple_ws.live.streams import emulation

pytestmark = pytest.mark.one_backend

PROGRAM = """
import os, sys
from simple_ws import Server

server = Server("127.0.0.1", 0, workers=2)
live = server.live("/live", authorize=lambda client, action, topic: True)

@server.http("/node")
def node(request):
    return server.cluster.id

@server.http("/nodes")
def nodes(request):
    return str(len(server.cluster.nodes()))

@server.on_worker_start
def started(worker):
    sys.stdout.write(f"port {server.port}\\n")
    sys.stdout.flush()

server.run()
"""


class Stream:
    """A client by HTTP, on a server in another thread or process."""

    def __init__(self, stack: ExitStack, port: int, form: str) -> None:
        self.form = form
        self.sock = socket.create_connection(("127.0.0.1", port), DEADLINE)
        stack.callback(self.sock.close)
        self._file = self.sock.makefile("rb")
        stack.callback(self._file.close)
        frame = '{"id":1,"connect":{}}'
        if form == "sse":
            head = (
                f"GET /live/sse?cf_connect={quote(frame)} HTTP/1.1\r\nHost: h\r\n\r\n"
            )
            body = ""
        else:
            head = "POST /live/http_stream HTTP/1.1\r\nHost: h\r\n"
            head, body = f"{head}Content-Length: {len(frame)}\r\n\r\n", frame
        self.sock.sendall((head + body).encode())
        assert b" 200 " in self._file.readline()
        while self._file.readline() != b"\r\n":
            pass
        result = self.read()["connect"]
        self.session, self.node = result["session"], result["node"]
        self._number = 1

    def read(self) -> dict[str, Any]:
        """The next reply or push."""
        while True:
            line = self._file.readline().decode()
            assert line, "the stream has ended"
            text = line.removeprefix("data: ").strip()
            if text and not text.startswith(":"):
                read = json.loads(text)
                assert isinstance(read, dict)
                return read

    def is_over(self) -> bool:
        return self._file.read() == b""

    def command(self, method: str, **params: Any) -> str:
        self._number += 1
        return json.dumps({"id": self._number, method: params})

    def post(self, port: int, frame: str, **other: str) -> int:
        body = {"session": self.session, "node": self.node, "data": frame, **other}
        return ask(port, "POST", "/live/emulation", json.dumps(body))[0]


def ask(port: int, method: str, path: str, body: str = "") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request(method, path, body or None)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.fixture(params=KEEPING_ENGINES)
def nodes(request: pytest.FixtureRequest, stack: ExitStack) -> Any:
    engine = stack.enter_context(engine_server(request.param))

    def prepare(server: Server) -> None:
        server.live("/live", authorize=allow)

    made = Nodes(stack, engine, prepare=prepare)
    until(lambda: all(len(each.cluster.nodes()) == 2 for each in made.servers))
    return made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other nodes have little time to answer."""
    monkeypatch.setattr(emulation, "_TIMEOUT", 0.2)


def ports(nodes: Nodes) -> list[int]:
    return [server.port or 0 for server in nodes.servers]


@pytest.mark.parametrize("form", ["sse", "http_stream"])
def test_request_finds_its_session_on_another_node(
    nodes: Any, stack: ExitStack, form: str
) -> None:
    here, other = ports(nodes)
    stream = Stream(stack, here, form)
    assert stream.node == nodes.servers[0].cluster.id
    assert stream.post(other, stream.command("subscribe", channel="é")) == 204
    assert stream.read() == {"id": 2, "subscribe": {}}
    for number in range(20):  # they keep their order
        port = other if number % 2 else here
        frame = stream.command("publish", channel="é", data=number)
        assert stream.post(port, frame) == 204
    read = [stream.read() for _ in range(40)]
    told = [each["push"]["pub"]["data"] for each in read if "push" in each]
    assert told == list(range(20))


def test_sessions_and_nodes_that_are_not_there(
    nodes: Any, stack: ExitStack, impatient: None
) -> None:
    here, other = ports(nodes)
    stream = Stream(stack, here, "sse")
    ids = [server.cluster.id for server in nodes.servers]
    assert stream.post(other, "{}", session="x") == 404
    assert stream.post(other, "{}", node=ids[1]) == 404
    assert stream.post(other, "{}", node="") == 404
    assert stream.post(other, "{}", node="../x") == 404
    until(lambda: stream.post(other, "{}") == 204)
    until(lambda: stream.post(other, "{}", node="0" * 16) == 404)
    stream.sock.shutdown(socket.SHUT_RDWR)
    until(lambda: stream.post(other, "{}") == 404)


def test_large_frames_pass(nodes: Any, stack: ExitStack) -> None:
    here, other = ports(nodes)
    stream = Stream(stack, here, "http_stream")
    data = "é" * 100_000
    assert stream.post(other, stream.command("subscribe", channel="a")) == 204
    stream.read()
    assert stream.post(other, stream.command("publish", channel="a", data=data)) == 204
    read = [stream.read(), stream.read()]
    assert data in [each.get("push", {}).get("pub", {}).get("data") for each in read]


def test_node_that_does_not_answer(stack: ExitStack, impatient: None) -> None:
    engine = stack.enter_context(broker_server())

    def prepare(server: Server) -> None:
        server.live("/live", authorize=allow)

    nodes = Nodes(stack, engine, prepare=prepare)
    until(lambda: all(len(each.cluster.nodes()) == 2 for each in nodes.servers))
    here, other = ports(nodes)
    stream = Stream(stack, here, "sse")
    engine.stop()
    try:
        assert stream.post(other, "{}") == 503
    finally:
        engine.go_on()
    assert stream.post(here, "{}") == 204


@pytest.mark.parametrize("form", ["sse", "http_stream"])
def test_request_finds_its_session_in_another_worker(
    stack: ExitStack, form: str
) -> None:
    program = stack.enter_context(Program(PROGRAM))
    port = int(program.wait_for(r"port (\d+)", 2)[1])
    until(lambda: ask(port, "GET", "/nodes")[1] == "2")
    stream = Stream(stack, port, form)
    assert stream.post(port, stream.command("subscribe", channel="a")) == 204
    assert stream.read()["subscribe"] == {}
    # Connections go to either worker: ask until both have passed it on.
    for number in range(30):
        frame = stream.command("publish", channel="a", data=number)
        assert stream.post(port, frame) == 204
    read = [stream.read() for _ in range(60)]
    told = [each["push"]["pub"]["data"] for each in read if "push" in each]
    assert told == list(range(30))
