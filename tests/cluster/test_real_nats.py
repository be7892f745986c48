"""NATS as an engine: a real server, with TLS, rights and faults. Messages between nodes
are in test_servers.py, the promises of an engine in test_engine_conformance.py."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE
from nats_server import NatsServer, nats_server
from nodes import Nodes, Room

from simple_ws import EngineError, Server
from simple_ws.cluster.engine_address import parse
from simple_ws.cluster.node import EngineState

pytestmark = pytest.mark.one_backend


@pytest.fixture(scope="module")
def nats() -> Iterator[NatsServer]:
    with nats_server() as server:
        yield server


def reason(stack: ExitStack, url: str) -> str:
    """Why a server cannot reach its engine, after which it serves all the same."""
    told = threading.Event()
    server = Server("127.0.0.1", 0, engine=url)
    server.mount("*", Room())

    @server.on_engine
    def changed(state: EngineState) -> None:
        told.set()

    server.start()
    stack.callback(server.stop, 0)
    assert told.wait(DEADLINE)
    assert server.engine is not None
    assert not server.engine.state.up
    return server.engine.state.reason


# --- TLS and credentials -------------------------------------------------------------


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[tuple[NatsServer, str, str]]:
    trustme = pytest.importorskip("trustme", reason="cryptography has no wheel here")
    authority, other = trustme.CA(), trustme.CA()
    files = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "other", "server")}
    authority.cert_pem.write_to_path(files["ca"])
    other.cert_pem.write_to_path(files["other"])
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(files["server"])
    options = ("--tls", "--tlscert", files["server"], "--tlskey", files["server"])
    with nats_server(*options) as server:
        yield server, files["ca"], files["other"]


def test_tls_begins_after_the_first_line(secured: Any, stack: ExitStack) -> None:
    server, ca, other = secured
    url = f"tls://localhost:{server.port}?ssl_ca_certs="
    nodes = Nodes(stack, [url + ca, url.replace("tls:", "nats+tls:") + ca])
    here, there = nodes.peer(0), nodes.peer(1)
    nodes.servers[0].publish("hall", "x" * 100_000)
    assert here.read_message() == there.read_message() == "x" * 100_000
    assert "TLS" in reason(stack, url + other)


def test_tls_on_one_side(secured: Any, nats: NatsServer, stack: ExitStack) -> None:
    server, _, _ = secured
    assert "it wants TLS" in reason(stack, f"nats://u:hidden@localhost:{server.port}")
    assert "it has no TLS" in reason(stack, f"tls://localhost:{nats.port}")


def test_publisher_with_tls(secured: Any, kind: Any) -> None:
    server, ca, _ = secured
    with kind(f"tls://localhost:{server.port}?ssl_ca_certs={ca}") as publisher:
        if "Async" in kind.__name__:
            with pytest.raises(EngineError, match="tls_first"):
                publisher.publish("a", "x")
        else:
            assert publisher.publish("a", "x") == -1


def test_token(stack: ExitStack) -> None:
    with nats_server("--auth", "to.ken") as server:
        right = server.url.replace("://", "://to.ken@")
        Nodes(stack, [right], count=1)
        wrong = reason(stack, server.url.replace("://", "://hidden@"))
        assert wrong == "Authorization Violation"


RIGHTS = """
authorization { users = [
  { user: site, password: right
    permissions: { publish: "sws.>", subscribe: "sws.>" } }
  { user: other, password: right
    permissions: { publish: "other.>", subscribe: "other.>" } }
] }
"""


def test_documented_rights_are_enough(stack: ExitStack) -> None:
    document = Path(__file__).parents[2].joinpath("docs/cluster.md").read_text()
    assert RIGHTS.split("\n")[3].strip().rstrip("}").strip() in document
    with nats_server(config=RIGHTS) as server:
        url = server.url.replace("://", "://site:right@")
        nodes = Nodes(stack, [url, url])
        here, there = nodes.peer(0), nodes.peer(1, "?id=0")
        nodes.servers[0].publish("hall", "x")
        nodes.servers[0].send_to("alice", "y")
        nodes.servers[0].broadcast("z")
        assert [here.read_message() for _ in range(2)] == ["x", "z"]
        assert [there.read_message() for _ in range(3)] == ["x", "y", "z"]
        text = reason(stack, server.url.replace("://", "://other:right@"))
        assert "lets us not" in text


def test_topics_with_history_are_refused_at_once() -> None:
    server = Server("127.0.0.1", 0, engine="nats://localhost")
    server.topic("room:*", presence=True, latest=True)
    with pytest.raises(
        ValueError, match=r"^NATS keeps no history of topics: use redis"
    ):
        server.topic("*", history=10)


# --- Faults --------------------------------------------------------------------------


def test_server_that_stands_still_is_noticed(stack: ExitStack) -> None:
    with nats_server() as server:
        nodes = Nodes(stack, server)
        here, there = nodes.peer(0), nodes.peer(1)
        seen = [len(states) for states in nodes.states]
        server.stop()
        nodes.servers[0].publish("hall", "unsure")
        for number in (0, 1):
            nodes.until(number, up=False, after=seen[number])
        assert here.read_message() == "unsure"
        assert nodes.servers[0].engine.counts.unsure == 1
        server.go_on()
        for number in (0, 1):
            nodes.until(number, up=True, after=seen[number])
        nodes.servers[1].publish("hall", "after")
        assert here.read_message() == "after"
        assert there.read_message() in ("after", "unsure")


def test_messages_that_are_too_large_are_refused_and_nothing_else(
    nats: NatsServer, stack: ExitStack
) -> None:
    nodes = Nodes(stack, nats, max_size=2**22, write_limit=2**23)
    here, there = nodes.peer(0), nodes.peer(1)
    nodes.servers[0].publish("hall", "x" * 2**21)
    nodes.servers[0].publish("hall", "small")
    assert len(here.read_message()) == 2**21  # it stays here
    assert here.read_message() == there.read_message() == "small"
    assert nodes.servers[0].engine.counts.refused == 1


def test_publisher(nats: NatsServer, stack: ExitStack, kind: Any) -> None:
    nodes = Nodes(stack, nats, count=1)
    peer = nodes.peer(0, "?id=0")
    with kind(nats.url) as publisher:
        assert publisher.publish("hall", "x") == -1  # nobody knows
        publisher.broadcast({"a": 1})
        publisher.send_to("alice", b"z")
        with pytest.raises(EngineError, match="max_payload"):
            publisher.publish("hall", bytes(2**21))
        publisher.publish("hall", "end")
    messages = [peer.read_message() for _ in range(4)]
    assert messages == ["x", '{"a":1}', b"z", "end"]


def test_publisher_whose_server_is_gone(kind: Any) -> None:
    with nats_server() as server, kind(server.url, timeout=5) as publisher:
        publisher.publish("a", "x")
        server.kill()
        with pytest.raises(EngineError) as caught:
            publisher.publish("a", "y")
        assert "nats://127.0.0.1" in str(caught.value)
        server.start()
        publisher.publish("a", "z")


# --- The URL -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nats://h/1", "no databases"),
        ("nats://h?db=1", "no databases"),
        ("nats://h?ssl_ca_certs=/x", "is for"),
        ("nats://h?tls_first=true", "is for"),
        ("rediss://h?tls_first=true", "for NATS"),
        ("tls://h?tls_first=perhaps", "true or false"),
    ],
)
def test_what_the_url_must_not_have(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(url)


def test_urls() -> None:
    plain = parse("nats://u:p@h")
    assert (plain.port, plain.tls, plain.is_nats) == (4222, False, True)
    encrypted = parse("tls://token@h:7?tls_first=true&prefix=app")
    assert (encrypted.port, encrypted.tls, encrypted.tls_first) == (7, True, True)
    assert str(encrypted) == "tls://h:7"
    assert not parse("redis://h").is_nats
