"""Engines whose master is known by Sentinels: asking them, and a real promotion."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE
from programs import until as wait_until
from publisher_harness import KINDS
from redis_server import Session, free_port, redis_server, session

from simple_ws import EngineError, Server, WebSocket
from simple_ws import connect as connect_client
from simple_ws.cluster.engine import (
    Delivered,
    Failed,
    Origin,
    Page,
    Ready,
    Stored,
    Subscribed,
)
from simple_ws.cluster.engine_address import parse
from simple_ws.cluster.history import Retention
from simple_ws.cluster.redis_engine import RedisEngine
from simple_ws.cluster.resp import PythonReader
from simple_ws.cluster.sentinel import connect, find_master

pytestmark = pytest.mark.one_backend

CHANNEL = "{sws.k.room}e"
KEPT = Retention(100, None)
#: Waits for what other processes and threads do.
until = partial(wait_until, pause=0.02, within=2 * DEADLINE)


class FakeSentinel:
    """Answers each connection with the same bytes, once it has got something."""

    def __init__(self, answer: bytes | None) -> None:
        self.commands: list[list[bytes]] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._open.append(sock)
                self.commands += PythonReader().receive(sock.recv(65536))
                if self._answer is None:
                    continue  # it hangs
                sock.sendall(self._answer)
                if not self._answer:
                    sock.close()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._open:
            sock.close()


@contextmanager
def sentinels(*answers: bytes | None) -> Iterator[tuple[str, list[FakeSentinel]]]:
    """A URL without the scheme and what is before the hosts, and who is there."""
    made = [FakeSentinel(answer) for answer in answers]
    try:
        yield ",".join(f"127.0.0.1:{each.port}" for each in made), made
    finally:
        for each in made:
            each.close()


def master(host: str = "10.0.0.1", port: str = "7000") -> bytes:
    return b"*2\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
        len(host),
        host.encode(),
        len(port),
        port.encode(),
    )


# Asking


def test_first_answer_is_taken() -> None:
    with sentinels(b"*-1\r\n", b"", master(), master("10.0.0.2")) as (hosts, made):
        address = parse(f"redis+sentinel://u:p@{hosts}/main/2?prefix=app")
        found = find_master(address, DEADLINE)
    assert (found.host, found.port, found.sentinels) == ("10.0.0.1", 7000, ())
    assert (found.username, found.password, found.db) == ("u", "p", 2)
    assert found.prefix == "app"
    ask = [b"SENTINEL", b"get-master-addr-by-name", b"main"]
    assert [each.commands for each in made] == [[ask], [ask], [ask], []]


def test_sentinels_have_credentials_of_their_own() -> None:
    with sentinels(b"+OK\r\n" + master("::1")) as (hosts, (made,)):
        url = f"redis+sentinel://u:p@{hosts}/main?sentinel_password=s%20p"
        assert find_master(parse(url), DEADLINE).host == "::1"
        assert made.commands[0] == [b"AUTH", b"s p"]
    with sentinels(b"+OK\r\n" + master()) as (hosts, (made,)):
        url = f"redis+sentinel://{hosts}/main?sentinel_username=a&sentinel_password=b"
        find_master(parse(url), DEADLINE)
        assert made.commands[0] == [b"AUTH", b"a", b"b"]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"*-1\r\n", "it knows no master 'main'"),
        (b"", "it closed the connection"),
        (b"-NOAUTH Authentication required.\r\n", "NOAUTH"),
        (b"-ERR about s3cret\x1b\r\n", r"about \*\*\*\\x1b"),
        (b"nonsense\r\n", "not RESP"),
        (b":1\r\n", "its answer is no address"),
        (b"*2\r\n:1\r\n:2\r\n", "its answer is no address"),
        (b"*2\r\n*0\r\n*0\r\n", "its answer is no address"),
        (master("a b"), "its answer is no address"),
        (master("h\r\n"), "its answer is no address"),
        (master("", "1"), "its answer is no address"),
        (master("h", "x"), "its answer is no address"),
        (master("h", "70000"), "its answer is no address"),
        (master("h", "0"), "its answer is no address"),
    ],
)
def test_answers_that_are_none(answer: bytes, text: str) -> None:
    with sentinels(answer) as (hosts, _):
        url = f"redis+sentinel://:pw@{hosts}/main"
        if b"s3cret" in answer:
            url += "?sentinel_password=s3cret"
            answer += b"+OK\r\n"
        if b"s3cret" in answer:
            with sentinels(answer) as (other, _):
                url = url.replace(hosts, other)
                check_problem(url, text)
        else:
            check_problem(url, text)


def check_problem(url: str, text: str) -> None:
    with pytest.raises(OSError, match=text) as caught:
        connect(parse(url), DEADLINE)
    line = str(caught.value.strerror)
    shown = re.escape(str(parse(url)))
    assert re.match(f"cannot connect to {shown}: no Sentinel tells the master: ", line)
    assert len(line.splitlines()) == 1
    assert "s3cret" not in line
    assert "pw" not in line


def test_one_that_hangs_leaves_time_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("simple_ws.cluster.sentinel._EACH", 0.05)
    with sentinels(None, master()) as (hosts, _):
        url = f"redis+sentinel://{hosts}/main"
        assert find_master(parse(url), DEADLINE).host == "10.0.0.1"
    with sentinels(None) as (hosts, _), pytest.raises(OSError, match="in time"):
        find_master(parse(f"redis+sentinel://{hosts}/main"), 0.1)


def test_nobody_listens() -> None:
    port = free_port()
    with pytest.raises(OSError, match=f"127.0.0.1:{port}: .*refused"):
        find_master(parse(f"redis+sentinel://127.0.0.1:{port}/main"), DEADLINE)


def test_it_can_be_given_up() -> None:
    with sentinels(None, None) as (hosts, made), pytest.raises(OSError, match="Sent"):
        find_master(parse(f"redis+sentinel://{hosts}/main"), DEADLINE, lambda: True)
    assert not any(each.commands for each in made)


def test_any_other_address_is_its_own_master() -> None:
    address = parse("redis://localhost")
    assert find_master(address, DEADLINE) is address


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_publisher_tells_what_the_sentinels_said(kind: Any) -> None:
    with sentinels(b"*-1\r\n") as (hosts, _):
        url = f"redis+sentinel://:pw@{hosts}/main"
        with kind(url) as publisher, pytest.raises(EngineError) as caught:
            publisher.publish("a", "x")
    problem = caught.value.problem
    assert problem.startswith("cannot connect: no Sentinel tells the master: 127")
    assert "pw" not in str(caught.value)
    assert not caught.value.unsure


# A real promotion


class Replicated:
    """A master, its replica, and a Sentinel."""

    def __init__(self, stack: ExitStack) -> None:
        self.master = stack.enter_context(
            redis_server("--repl-diskless-sync-delay", "0")
        )
        own = ("--replicaof", "127.0.0.1", str(self.master.port))
        self.replica = stack.enter_context(redis_server(*own))
        self._await_replica()
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.port = free_port()
        config = directory / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor main 127.0.0.1 {self.master.port} 1\n"
            "sentinel down-after-milliseconds main 300\n"
            "sentinel failover-timeout main 3000\n"
        )
        self._process = subprocess.Popen(
            ["redis-server", str(config), "--sentinel"], stdout=subprocess.DEVNULL
        )
        stack.callback(self._process.wait, DEADLINE)
        stack.callback(self._process.terminate)
        self._await_sentinel()

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.port}/main"

    def _await_replica(self) -> None:
        with self.replica.commands() as ask:
            until(lambda: b"master_link_status:up" in ask("INFO", "replication"))

    def _await_sentinel(self) -> None:
        address = parse(self.url)

        def ready() -> bool:
            with suppress(OSError):
                sock = connect(parse(f"redis://127.0.0.1:{self.port}"), DEADLINE)
                with sock:
                    sock.settimeout(DEADLINE)
                    sock.sendall(b"*2\r\n$4\r\nINFO\r\n$8\r\nsentinel\r\n")
                    told = sock.recv(65536)
                    return b"slaves=1" in told and find_master(address, 1.0).port > 0
            return False

        until(ready)

    def lose_the_end(self) -> None:
        """From now on, the replica gets nothing."""
        with self.master.commands() as ask:
            ask("SET", "last", "1")  # WAIT is for what this connection has written
            assert ask("WAIT", "1", str(int(DEADLINE * 1000))) == 1
            self.replica.stop()
            ask("CLIENT", "KILL", "TYPE", "replica")

    def promote(self) -> None:
        """The master ends; wait until the replica is one."""
        self.master.kill()
        self.replica.go_on()
        until(self._is_promoted)
        until(lambda: find_master(parse(self.url), 1.0).port == self.replica.port)

    def _is_promoted(self) -> bool:
        # A Sentinel ends the connections of those it gives another role.
        with suppress(OSError), self.replica.commands() as ask:
            return b"role:master" in ask("INFO", "replication")
        return False


@pytest.fixture
def replicated() -> Iterator[Replicated]:
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on this system")
    with ExitStack() as stack:
        yield Replicated(stack)


@contextmanager
def node(url: str, engine: RedisEngine | None = None) -> Iterator[Session]:
    engine = RedisEngine() if engine is None else engine
    engine.subscribe([CHANNEL])
    with session(url, engine) as made:
        made.until_event(Subscribed)
        yield made


def append(made: Session, seq: int, publisher: bytes = b"somebody") -> Stored:
    count = len(made.of(Stored))
    origin = Origin(publisher, seq, None)
    made.engine.append(CHANNEL, b"%b %d" % (publisher, seq), origin, KEPT)
    stored = made.until_event(Stored, count + 1)
    assert isinstance(stored, Stored)
    return stored


def read(made: Session, known: Any) -> Page:
    count = len(made.of(Page))
    made.engine.read(CHANNEL, known, known.offset, 100)
    page = made.until_event(Page, count + 1)
    assert isinstance(page, Page)
    return page


@pytest.mark.parametrize("others", [0, 2])
def test_promotion_with_a_lost_end_is_a_new_epoch(
    replicated: Replicated, others: int
) -> None:
    """Also if others were given the offsets of the messages that are lost."""
    one, two = RedisEngine(), RedisEngine()
    with node(replicated.url, one) as first, node(replicated.url, two) as second:
        safe = [append(first, seq) for seq in (1, 2, 3)][-1]
        replicated.lose_the_end()
        lost = [append(first, seq) for seq in (4, 5)][-1]
        second.until_event(Delivered, 5)
    one.disconnected()
    two.disconnected()
    replicated.promote()
    with node(replicated.url, one) as first, node(replicated.url, two) as second:
        for seq in range(1, others + 1):
            append(second, seq, b"another")
        page = read(first, lost.position)
        assert page.reset
        assert page.top == 3 + others
        assert page.epoch != safe.position.epoch
        assert [entry.offset for entry in page.entries] == list(range(1, 4 + others))
        assert read(second, safe.position).reset  # it notices as well
        again = append(first, 4)  # what was lost is sent again by its publisher
        assert not again.again
        assert again.position[:2] == (page.epoch, 4 + others)


def test_promotion_that_loses_nothing_is_the_same_history(
    replicated: Replicated,
) -> None:
    engine = RedisEngine()
    with node(replicated.url, engine) as made:
        last = [append(made, seq) for seq in (1, 2, 3)][-1]
        replicated.lose_the_end()
    engine.disconnected()
    replicated.promote()
    with node(replicated.url, engine) as made:
        page = read(made, last.position)
        assert (page.reset, page.top, page.entries) == (False, 3, [])
        assert append(made, 3).again
        assert append(made, 4).position.offset == 4


class Room(WebSocket):
    def __init__(self) -> None:
        self.gaps: list[Any] = []

    def on_open(self, client: Any) -> None:
        client.subscribe("kept", since="all")
        client.subscribe("plain")

    def on_gap(self, topic: Any, missing: Any) -> None:
        self.gaps.append((topic, missing))


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_server_and_publishers_follow_the_master(
    replicated: Replicated, kind: Any
) -> None:
    room = Room()
    server = Server("127.0.0.1", 0, engine=replicated.url)
    server.topic("kept", history=10)
    server.mount("*", room)
    server.start()
    try:
        with (
            connect_client(f"ws://127.0.0.1:{server.port}/") as client,
            kind(replicated.url, timeout=DEADLINE) as publisher,
        ):
            until(lambda: server.engine.state.up)
            publisher.publish("kept", {"n": 1})
            assert json.loads(client.recv(DEADLINE)) == {"n": 1}
            replicated.lose_the_end()
            publisher.publish("kept", {"n": 2})
            assert json.loads(client.recv(DEADLINE)) == {"n": 2}
            replicated.promote()
            until(lambda: ("kept", None) in room.gaps and ("plain", None) in room.gaps)
            with suppress(EngineError):  # asyncio may not have seen the end yet
                publisher.publish("plain", "x")
            publisher.publish("kept", {"n": 3})
            until(lambda: client.recv(DEADLINE) == '{"n":3}')
    finally:
        server.stop(drain=0)


def test_replica_is_refused_and_asked_about_again(replicated: Replicated) -> None:
    """A Sentinel may not know yet that its master is one no more."""
    with session(replicated.replica.url) as made:
        failed = made.until_event(Failed)
    assert "no master" in failed.reason
    assert not failed.permanent
    assert not made.of(Ready)
