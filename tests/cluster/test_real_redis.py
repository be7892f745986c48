"""The engine on servers that are real: Redis, and Valkey where it is installed."""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE
from redis_server import PROGRAMS, RedisServer, Session, redis_server, session

from simple_ws.cluster import resp
from simple_ws.cluster.connect import connect
from simple_ws.cluster.engine import (
    Accepted,
    Delivered,
    EngineEvent,
    Failed,
    Ready,
    Refused,
    Subscribed,
)
from simple_ws.cluster.engine_address import parse
from simple_ws.cluster.link import Link
from simple_ws.cluster.redis_engine import RedisEngine
from simple_ws.loop.reactor import Reactor

pytestmark = pytest.mark.one_backend

#: What `RedisEngine` documents: all that a node needs.
NODE = (
    "on >secret resetchannels &sws.* -@all "
    "+hello +subscribe +unsubscribe +publish +ping"
)


@pytest.fixture(scope="module", params=PROGRAMS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server(program=request.param) as made:
        yield made


@pytest.fixture(autouse=True, params=["python", "hiredis"])
def _reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "hiredis":
        pytest.importorskip("hiredis")
    else:
        monkeypatch.setattr(resp, "_hiredis", None)


def subscribed(made: Session, *channels: str) -> Session:
    made.engine.subscribe(channels)
    made.until_event(Subscribed)
    return made


def answered(made: Session) -> Session:
    """Its first probe is there and back."""
    return made.until(lambda _: made.engine.round_trip is not None)


def test_it_is_ready(server: RedisServer) -> None:
    with (
        session(f"{server.url}/3?client_name=node-1") as made,
        server.commands() as ask,
    ):
        event = made.until_event(Ready)
        assert event.server.split()[0] in ("Redis", "Valkey")
        assert event.server.split()[1][0].isdigit()
        made.until_event(Subscribed)
        assert b"name=node-1" in ask("CLIENT", "LIST", "TYPE", "pubsub")


def test_nodes_see_one_order(server: RedisServer) -> None:
    topics = [f"sws.t.{name}" for name in ("a", "\u00e9", "c c")]
    with (
        session(server.url) as one,
        session(server.unix_url) as two,
        session(server.url) as three,
    ):
        nodes = [subscribed(made, *topics) for made in (one, two, three)]
        choose = random.Random(7)
        for i in range(3000):
            body = b"%d \r\n" % i * choose.randrange(1, 50)
            node = choose.choice(nodes)
            node.engine.publish(choose.choice(topics), body)
            if not i % 20:
                node.send()
        for node in nodes:
            node.send()
        for node in nodes:
            node.until_event(Delivered, 3000)
            assert set(node.of(Accepted)) <= {Accepted(3)}
        assert one.of(Delivered) == two.of(Delivered) == three.of(Delivered)
        bodies = {event.envelope.split()[0] for event in one.of(Delivered)}
        assert len(bodies) == 3000


def test_large_and_binary_messages(server: RedisServer) -> None:
    body = random.Random(7).randbytes(2**20)
    with session(server.url) as made:
        subscribed(made, "sws.t.a")
        made.engine.publish("sws.t.a", body)
        made.engine.publish("sws.t.a", b"")
        made.until_event(Delivered, 2)
        assert made.of(Delivered) == [Delivered("sws.t.a", x) for x in (body, b"")]


def test_ten_thousand_channels_come_back_after_client_kill(
    server: RedisServer,
) -> None:
    channels = [f"sws.t.{i}" for i in range(10_000)]
    with session(server.url) as made, server.commands() as ask:
        subscribed(made, *channels)
        assert ask("PUBSUB", "NUMSUB", "sws.t.9999") == [b"sws.t.9999", 1]
        ask("CLIENT", "KILL", "TYPE", "pubsub")
        with pytest.raises((EOFError, OSError)):
            made.until_event(Failed)
        made.engine.disconnected()
        with session(server.url, made.engine) as again:
            again.until_event(Subscribed)
            again.engine.publish("sws.t.9999", b"x")
            again.until_event(Delivered)
            assert ask("PUBSUB", "NUMSUB", "sws.t.0") == [b"sws.t.0", 1]


def test_what_is_unsubscribed_from_does_not_come(server: RedisServer) -> None:
    with session(server.url) as made, server.commands() as ask:
        subscribed(made, "sws.t.a", "sws.t.b")
        made.engine.unsubscribe(["sws.t.a"])
        made.engine.publish("sws.t.a", b"x")
        made.engine.publish("sws.t.b", b"x")
        made.until_event(Accepted, 2)
        assert made.of(Accepted) == [Accepted(0), Accepted(1)]
        assert made.of(Delivered) == [Delivered("sws.t.b", b"x")]
        assert ask("PUBSUB", "CHANNELS", "sws.t.a") == []


def test_pushes_inside_exec(server: RedisServer) -> None:
    with server.commands() as ask:
        assert ask("HELLO", "3")[b"proto"] == 3
        assert ask("PING") == b"PONG"
        ask._socket.sendall(resp.encode_command(b"SUBSCRIBE", b"c"))
        assert ask("MULTI") == b"OK"
        for body in ("x", "y"):
            assert ask("PUBLISH", "c", body) == b"QUEUED"
        assert ask("EXEC") == [1, 1]
        while len(ask.pushes) < 3:
            assert ask("PING") == b"PONG"
        assert ask.pushes[1:] == [(b"message", b"c", b"x"), (b"message", b"c", b"y")]


def failure(url: str) -> Any:
    with session(url) as made:
        return made.until_event(Failed)


def test_passwords_and_users(server: RedisServer) -> None:
    with server.commands() as ask:
        assert ask("ACL", "SETUSER", "node", *NODE.split()) == b"OK"
        place = f"127.0.0.1:{server.port}"
        wrong = failure(f"redis://node:wrongpw@{place}")
        assert wrong.permanent
        assert wrong.reason.startswith("WRONGPASS")
        assert "wrongpw" not in wrong.reason
        ask("CONFIG", "SET", "requirepass", "top")
        try:
            nobody = failure(f"redis://{place}")
            assert nobody.permanent
            assert nobody.reason.startswith("NOAUTH")
            with session(f"redis://:top@{place}") as made:
                made.until_event(Subscribed)
        finally:
            ask("CONFIG", "SET", "requirepass", "")


def test_a_node_needs_no_more_rights_than_documented(server: RedisServer) -> None:
    with server.commands() as ask:
        ask("ACL", "SETUSER", "node", *NODE.split())
    url = f"redis://node:secret@127.0.0.1:{server.port}"
    with session(url) as made:
        answered(subscribed(made, "sws.t.a"))
        made.advance(1.0)
        made.advance(9.5)
        answered(made)
        made.engine.publish("other.t.a", b"x")
        made.engine.publish("sws.t.a", b"x")
        made.until_event(Accepted)
        assert made.of(Refused)[0].reason.startswith("NOPERM")
        assert made.of(Failed) == []


@pytest.mark.parametrize("missing", ["channels", "subscribe", "publish"])
def test_rights_that_are_missing(server: RedisServer, missing: str) -> None:
    rules = NODE.replace("&sws.*", "") if missing == "channels" else NODE
    with server.commands() as ask:
        ask("ACL", "DELUSER", "node")
        ask("ACL", "SETUSER", "node", *rules.replace(f"+{missing}", "").split())
    event = failure(f"redis://node:secret@127.0.0.1:{server.port}")
    assert event.permanent
    assert "NOPERM" in event.reason
    assert "secret" not in event.reason


def test_a_publisher_needs_only_publish(server: RedisServer) -> None:
    rules = "on >secret resetchannels &sws.* -@all +hello +publish"
    with server.commands() as ask:
        ask("ACL", "SETUSER", "sender", *rules.split())
    address = parse(f"redis://sender:secret@127.0.0.1:{server.port}")
    engine = RedisEngine.from_address(address, publish_only=True)
    with session(server.url) as node, session(server.url, engine) as made:
        subscribed(node, "sws.t.a")
        made.until_event(Ready)
        engine.publish("sws.t.a", b"x")
        assert made.until_event(Accepted) == Accepted(1)
        assert node.until_event(Delivered) == Delivered("sws.t.a", b"x")


def test_a_db_that_is_not_there(server: RedisServer) -> None:
    event = failure(f"{server.url}/999")
    assert event.permanent
    assert "DB index" in event.reason


def test_a_replica_is_refused_and_a_demoted_master_noticed(server: RedisServer) -> None:
    with session(server.url) as made, server.commands() as ask:
        answered(subscribed(made, "sws.t.a"))
        ask("REPLICAOF", "127.0.0.1", "1")
        try:
            while not made.of(Failed):
                made.advance(0.9)
                if made.engine.size:
                    made.turn()
            assert "no master" in made.of(Failed)[0].reason
            assert made.ahead < 14
            assert "no master" in failure(server.url).reason
            assert not failure(server.url).permanent
        finally:
            ask("REPLICAOF", "NO", "ONE")


def test_a_stopped_server_is_noticed(server: RedisServer) -> None:
    with session(server.url) as made:
        answered(subscribed(made, "sws.t.a"))
        server.stop()
        try:
            assert made.advance(1.0) == []
            made.send()
            assert made.advance(1.0) == []
            (event,) = made.advance(1.1)
            assert "no sign of life" in event.reason
        finally:
            server.go_on()


@pytest.mark.parametrize("program", PROGRAMS)
def test_killed_and_restarted_empty(program: str) -> None:
    with redis_server(program=program) as server, session(server.url) as made:
        subscribed(made, "sws.t.a")
        server.kill()
        with pytest.raises((EOFError, OSError)):
            made.until_event(Failed)
        made.engine.disconnected()
        server.start()
        with session(server.url, made.engine) as again:
            again.until_event(Subscribed)
            again.engine.publish("sws.t.a", b"x")
            again.until_event(Delivered)


@pytest.mark.parametrize("program", PROGRAMS)
def test_tls(program: str, tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme", reason="cryptography has no wheel here")
    authority, other = trustme.CA(), trustme.CA()
    files = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "other", "server")}
    authority.cert_pem.write_to_path(files["ca"])
    other.cert_pem.write_to_path(files["other"])
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(files["server"])
    with redis_server(program=program, certificate=files["server"]) as server:
        url = f"rediss://localhost:{server.tls_port}?ssl_ca_certs="
        with session(url + files["ca"]) as made:
            answered(subscribed(made, "sws.t.a"))
        with pytest.raises(ssl.SSLError, match="cannot connect to rediss://localhost"):
            connect(parse(url + files["other"]), DEADLINE)


class Linked:
    """A link in a reactor of its own, which turns while something is waited for."""

    def __init__(self, url: str) -> None:
        self.reactor = Reactor()
        self.reactor.open()
        self.events: list[EngineEvent] = []
        self.states: list[tuple[bool, str]] = []
        address = parse(url)
        self.engine = RedisEngine.from_address(address)
        self.link = Link(
            self.reactor,
            self.engine,
            lambda cancelled: connect(address, DEADLINE, cancelled),
            on_event=self.events.append,
            on_state=lambda up, reason: self.states.append((up, reason)),
        )

    def __enter__(self) -> Linked:
        self.link.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.link.stop()
        self.reactor.close()

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, (self.states, self.events)
            self.reactor.run_once(0.1)


def test_a_link_survives_a_crash_of_the_server() -> None:
    with redis_server() as server, Linked(server.url) as node:
        engine, events = node.engine, node.events
        engine.subscribe(["sws.t.a"])
        node.until(lambda: Subscribed() in events)
        server.kill()
        node.until(lambda: not node.link.up)
        events.clear()
        server.start()
        node.until(lambda: Subscribed() in events)
        engine.publish("sws.t.a", b"x")
        node.link.flush_soon()
        node.until(lambda: Delivered("sws.t.a", b"x") in events)
        assert [up for up, _ in node.states if up] == [True, True]


@pytest.mark.parametrize("missing", ["password", "channels", "publish"])
def test_what_forbids_a_link_is_told_once(server: RedisServer, missing: str) -> None:
    rules = NODE.replace("&sws.*", "") if missing == "channels" else NODE
    rules = rules.replace(f"+{missing}", "").replace("secret", "s3cret")
    with server.commands() as ask:
        ask("ACL", "DELUSER", "node")
        ask("ACL", "SETUSER", "node", *rules.split())
    password = "wrongpw" if missing == "password" else "s3cret"
    url = f"redis://node:{password}@127.0.0.1:{server.port}"
    with Linked(url) as node:
        node.until(lambda: node.states)
        ((up, reason),) = node.states
        assert not up
        assert node.link.permanent
        assert reason.partition(" ")[0] == "WRONGPASS" or "NOPERM" in reason
        assert password not in reason
