"""Faults of an engine under traffic, counted to the message.

Two servers publish, each as fast as its own client receives, while an engine's server
is killed, stopped, cuts connections, or is behind a proxy that misbehaves. The promises
of docs/cluster.md are checked for each message, see `traffic.Traffic.check`; and here,
that what is missing elsewhere is what its publisher has counted. Nothing sleeps.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE, Peer, open_peer
from nats_server import nats_server
from nodes import KEEPING_ENGINES, Nodes, Room, engine_server
from programs import Program, until
from proxy import Proxy
from redis_server import PROGRAMS, Commands, RedisServer, redis_server
from traffic import WINDOW, Traffic

from simple_ws import Server
from simple_ws.cluster import link, silence
from simple_ws.cluster.engine import Accepted, Refused

pytestmark = [pytest.mark.one_backend, pytest.mark.slow]

REDIS = PROGRAMS[0]


@pytest.fixture(params=KEEPING_ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    with engine_server(request.param) as made:
        yield made


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that are lost again and again are made again soon."""
    monkeypatch.setattr(link, "_LONGEST_PAUSE", 0.2)


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed after 0.5 s, rather than 3."""
    monkeypatch.setattr(silence, "_UNASKED", 0.2)
    monkeypatch.setattr(silence, "_ASKED", 0.3)


class Telling(Room):
    """Clients see gaps between the messages."""

    def on_gap(self, topic: str | None, missing: int | None) -> None:
        super().on_gap(topic, missing)
        if topic == "hall":
            self.server.publish("hall", f"gap {missing}", local=True)


class Account:
    """What the node of a server says of its messages.

    Attributes:
        deaf: accepted messages that the engine had nobody else for.
        unsure: the texts of messages that were given to the engine, and not confirmed.
    """

    def __init__(self, server: Server) -> None:
        self.deaf = 0
        self.unsure: set[str] = set()
        assert server.engine is not None
        self.counts = server.engine.counts
        self._node = node = server.engine._node
        engine: Any = node._engine
        self._receive, self._deliver = engine.receive, node._deliver_unsure
        engine.receive = self._note_accepted
        node._deliver_unsure = self._note_unsure  # type: ignore[method-assign]

    def _note_accepted(self, data: bytes, now: float) -> Any:
        # Answered in the order of sending; what nodes say to each other is no message.
        sent = iter(list(self._node._sent))
        events = self._receive(data, now)
        for event in events:
            if isinstance(event, Accepted | Refused) and not next(sent).internal:
                self.deaf += type(event) is Accepted and event.receivers < 2
        return events

    def _note_unsure(self) -> None:
        self.unsure |= {
            sent.message.body.decode() for sent in self._node._sent if not sent.internal
        }
        self._deliver()


class Site:
    """Two servers on one engine, with traffic."""

    def __init__(self, stack: ExitStack, engine: Any) -> None:
        self.nodes = nodes = Nodes(stack, engine, room=Telling)
        self.accounts = [Account(server) for server in nodes.servers]
        peers = [nodes.peer(0), nodes.peer(1)]
        self.traffic = Traffic(
            peers, lambda number, text: nodes.servers[number].publish("hall", text)
        )

    def changes(self) -> list[int]:
        """How often the state of each server's engine has changed."""
        return [len(states) for states in self.nodes.states]

    def fail(self, begin: Callable[[], object], end: Callable[[], object]) -> None:
        """A fault that both nodes notice, with traffic before, meanwhile and after.

        It may be over, for one node or both, before it is ended.
        """
        self.traffic.more(random.randrange(50, 150))
        before = self.changes()
        begin()
        for number in (0, 1):
            self.nodes.until(number, up=False, after=before[number])
        self.traffic.more(100)
        end()
        for number in (0, 1):
            self.nodes.until(number, up=True, after=before[number] + 1)
        self.traffic.more(100)

    def check(self, number: int) -> int:
        """What a client did not get of the other node, apart from what the publisher
        has counted as lost or unsure, or the engine had no receiver for."""
        missing, told = self.traffic.check(number)
        account = self.accounts[1 - number]
        counts = account.counts
        assert counts.unsure == len(account.unsure)
        never = {f"{1 - number} {count}" for count in missing}
        rest = len(missing) - counts.lost - len(account.unsure & never) - account.deaf
        assert rest >= 0, (len(missing), counts, account.deaf)
        if all(state.up for state in self.nodes.states[number]):
            assert told == len(missing)  # it was never cut: every number is known
            assert rest == 0
        assert counts.refused == counts.invalid == 0
        return rest


def test_engine_that_is_killed(engine: Any, stack: ExitStack) -> None:
    site = Site(stack, engine)
    with site.traffic:
        for _ in range(5):
            site.fail(engine.kill, engine.start)
    for number in (0, 1):
        assert site.accounts[number].counts.lost > 0
        # What was in the engine's buffers for one node, and had reached the other.
        assert site.check(number) <= 5 * WINDOW


@pytest.mark.usefixtures("_hasty")
def test_engine_that_stands_still(engine: Any, stack: ExitStack) -> None:
    """It reads what it was sent before when it goes on, and that is too late."""
    site = Site(stack, engine)
    stack.callback(engine.go_on)
    with site.traffic:
        for _ in range(2):
            site.fail(engine.stop, engine.go_on)
    for number in (0, 1):
        site.check(number)
        reasons = [s.reason for s in site.nodes.states[number] if not s.up]
        assert any("no sign of life" in reason for reason in reasons), reasons


@pytest.mark.usefixtures("_hasty")
@pytest.mark.parametrize(("begin", "end"), [("kill", "start"), ("stop", "go_on")])
def test_nats_that_is_killed_or_stands_still(
    begin: str, end: str, stack: ExitStack
) -> None:
    """It does not tell how many get a message, so receivers keep the account: nothing
    twice or too late, and each hole told (see `Traffic.check`)."""
    nats = stack.enter_context(nats_server())
    site = Site(stack, nats)
    stack.callback(nats.go_on)
    with site.traffic:
        for _ in range(3):
            site.fail(getattr(nats, begin), getattr(nats, end))
    for number in (0, 1):
        site.traffic.check(number)
        account = site.accounts[number]
        assert account.counts.lost > 0
        assert account.counts.unsure == len(account.unsure)
        assert account.counts.refused == account.counts.invalid == 0


def test_connections_that_the_engine_kills(
    redis: RedisServer, stack: ExitStack
) -> None:
    site = Site(stack, redis)
    ask = stack.enter_context(redis.commands())
    with site.traffic:
        for _ in range(5):
            site.fail(
                lambda: ask("CLIENT", "KILL", "TYPE", "pubsub"), lambda: ask("PING")
            )
    for number in (0, 1):
        assert site.check(number) <= 5 * WINDOW


def cut(site: Site, fault: Callable[[], object]) -> None:
    """A fault that only the first node notices, once or more often."""
    site.traffic.more(100)
    before = site.changes()[0]
    fault()
    site.nodes.until(0, up=False, after=before)
    site.nodes.until(0, up=True, after=before + 1)
    site.traffic.more(100)


@pytest.fixture
def proxy(redis: RedisServer, stack: ExitStack) -> Proxy:
    return stack.enter_context(Proxy(redis.port))


def test_proxy_that_cuts(redis: RedisServer, proxy: Proxy, stack: ExitStack) -> None:
    site = Site(stack, [proxy.url, redis.url])
    choose = random.Random(7)
    with site.traffic:
        for _ in range(3):
            cut(site, proxy.cut)
        for _ in range(5):  # in the midst of a message
            cut(site, lambda: proxy.cut_after(choose.randrange(1, 5000)))
    site.check(0)
    assert site.check(1) == 0


@pytest.mark.usefixtures("_hasty")
def test_proxy_that_stops_reading(
    redis: RedisServer, proxy: Proxy, stack: ExitStack
) -> None:
    site = Site(stack, [proxy.url, redis.url])

    def hold() -> None:
        before = site.changes()[0]
        proxy.hold()
        site.nodes.until(0, up=False, after=before)
        site.traffic.more(100)
        proxy.release()

    with site.traffic:
        for _ in range(2):
            cut(site, hold)
    site.check(0)
    assert site.check(1) == 0
    assert "no sign of life" in site.nodes.states[0][1].reason


def test_output_that_nobody_reads_is_bounded(
    redis: RedisServer, proxy: Proxy, stack: ExitStack
) -> None:
    nodes = Nodes(stack, [proxy.url, redis.url])
    here = nodes.peer(0)
    proxy.hold()
    for _ in range(40):
        nodes.servers[0].publish("large", b"x" * 2**20)
    nodes.until(0, up=False, after=1)
    assert "more than 8,388,608 bytes wait" in nodes.states[0][1].reason
    nodes.servers[0].publish("hall", "served")
    assert here.read_message() == "served"
    counts = nodes.servers[0].engine.counts
    assert counts.lost + counts.unsure == 41
    proxy.release()
    nodes.until(0, up=True, after=2)


def test_proxy_that_delays_costs_nothing(
    redis: RedisServer, proxy: Proxy, stack: ExitStack
) -> None:
    nodes = Nodes(stack, [proxy.url, redis.url])
    here, there = nodes.peer(0), nodes.peer(1)
    for part in range(5):
        proxy.hold()
        for count in range(100):
            nodes.servers[0].publish("hall", f"{part} {count}")
        nodes.servers[1].publish("hall", f"{part} end")
        assert there.read_message() == f"{part} end"
        assert there.nothing_waits()
        proxy.release()
        every = [f"{part} {count}" for count in range(100)]
        heard = [here.read_message() for _ in range(101)]
        assert [text for text in heard if not str(text).endswith("end")] == every
        assert [there.read_message() for _ in range(100)] == every
    for number in (0, 1):
        assert [state.up for state in nodes.states[number]] == [True]
        assert nodes.rooms[number].of("gap") == [("hall", None)] * 0
        counts = nodes.servers[number].engine.counts
        assert counts.lost == counts.unsure == counts.missing == counts.repeats == 0


# --- What lets us not in --------------------------------------------------------------


def with_password(stack: ExitStack, _: Path) -> str:
    redis = stack.enter_context(redis_server("--requirepass", "right"))
    return f"redis://:hidden@127.0.0.1:{redis.port}"


def with_channels(stack: ExitStack, _: Path) -> str:
    redis = stack.enter_context(redis_server())
    rules = "on >hidden resetchannels &others.* -@all +hello +subscribe +unsubscribe "
    with redis.commands() as ask:
        ask("ACL", "SETUSER", "node", *rules.split(), "+publish", "+ping")
    return f"redis://node:hidden@127.0.0.1:{redis.port}"


def with_a_master(stack: ExitStack, _: Path) -> str:
    master = stack.enter_context(redis_server())
    options = ("--replicaof", "127.0.0.1", str(master.port))
    return stack.enter_context(redis_server(*options)).url


def with_another_authority(stack: ExitStack, path: Path) -> str:
    trustme = pytest.importorskip("trustme", reason="cryptography has no wheel here")
    certificate = trustme.CA().issue_cert("localhost")
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(str(path / "server.pem"), append=True)
    certificate.private_key_pem.write_to_path(str(path / "server.pem"), append=True)
    trustme.CA().cert_pem.write_to_path(str(path / "other.pem"))
    redis = redis_server(certificate=str(path / "server.pem"))
    port = stack.enter_context(redis).tls_port
    return f"rediss://localhost:{port}?ssl_ca_certs={path / 'other.pem'}"


def with_a_name(stack: ExitStack, path: Path) -> str:
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    real = socket.getaddrinfo

    def look_up(host: Any, *args: Any, **options: Any) -> Any:
        if host == "engine.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *args, **options)

    patch.setattr(socket, "getaddrinfo", look_up)
    return "redis://engine.invalid"


@pytest.mark.parametrize(
    ("asking", "why", "attempts"),
    [
        (with_password, "WRONGPASS", 1),
        (with_channels, "NOPERM", 1),
        (with_a_master, "it is no master but a replica", 3),
        (with_another_authority, "unable to get local issuer certificate", 3),
        (with_a_name, "Name or service not known", 3),
    ],
)
def test_engine_that_lets_us_not_in_is_one_clear_line(
    stack: ExitStack,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    asking: Callable[[ExitStack, Path], str],
    why: str,
    attempts: int,
) -> None:
    room, told = Room(), threading.Event()
    server = Server("127.0.0.1", 0, engine=asking(stack, tmp_path))
    server.mount("*", room)
    server.on_engine(lambda state: told.set())
    with caplog.at_level(logging.INFO, "simple_ws"):
        server.start()
        stack.callback(server.stop, 0)
        assert told.wait(DEADLINE)
        host = server.engine
        assert host is not None
        wait_for(server, lambda: host._link.connects.total() >= attempts)
    assert not host.state.up
    assert why in host.state.reason
    lines = [r.getMessage() for r in caplog.records if "engine" in r.getMessage()]
    (line,) = [line for line in lines if why in line]
    assert "\n" not in line
    assert "hidden" not in "".join(lines)
    peer = stack.enter_context(open_peer(server))
    room.wait_for("open")
    server.publish("hall", "served")
    assert peer.read_message() == "served"


def wait_for(server: Server, condition: Callable[[], bool]) -> None:
    """Wait until something holds in the loop of a server."""
    there = threading.Event()

    def look() -> None:
        if condition():
            there.set()
        else:
            server.reactor.call_later(0.001, look)

    server.reactor.call_threadsafe(look)
    assert there.wait(DEADLINE)


# --- Workers --------------------------------------------------------------------------

HALL = """
class Hall(WebSocket):
    def on_open(self, client):
        client.subscribe("hall")
        client.send(str(os.getpid()))
    def on_message(self, msg, client):
        server.publish("hall", msg)
    def on_gap(self, topic, missing):
        server.publish("hall", f"gap {missing}", local=True)

server.mount("/hall", Hall())

@server.on_engine
def changed(state):
    say("engine", os.getpid(), "up" if state.up else "down")
"""

OPTIONS = '"127.0.0.1", 0, workers=2, ping=False'


def enter_hall(
    program: Program, stack: ExitStack, worker: int, path: str = "/hall"
) -> Peer:
    """A client of a worker."""
    while True:
        peer = Peer(program.connect()).shake(path)
        if peer.read_message() == str(worker):
            return stack.enter_context(peer)
        peer.close()


def hears(listener: Peer, speaker: Peer) -> bool:
    """Whether what one publishes has reached the other, by another worker, by now.

    What a client is not subscribed to yet is no gap for it.
    """
    speaker.text("hello")
    while speaker.read_message() != "hello":
        pass
    listener.text("now")
    heard = False
    while (text := listener.read_message()) != "now":
        heard |= text == "hello"
    return heard


def acquaint(one: Peer, two: Peer) -> None:
    """Wait until two clients in the hall hear each other."""
    until(lambda: hears(one, two))
    until(lambda: hears(two, one))


def numbers(log: list[str], who: str) -> list[int]:
    found = [text.split() for text in log]
    return [int(words[1]) for words in found if words[0] == who and words[1] != "end"]


@pytest.fixture
def program(stack: ExitStack) -> Program:
    program = stack.enter_context(Program.with_workers(HALL, OPTIONS))
    for pid in program.wait_for_workers():
        program.wait_for(f"engine {pid} up")
    return program


def test_worker_that_is_killed_costs_the_others_nothing(
    program: Program, stack: ExitStack
) -> None:
    one, two = program.wait_for_workers()
    staying = enter_hall(program, stack, two)
    for kill in range(3):
        leaving = enter_hall(program, stack, one)
        leaving.text("1 0")  # so that both hear each other
        while leaving.read_message() != "1 0":
            pass
        log: list[str] = []
        for count in range(200):
            leaving.text(f"1 {count + 1}")
            staying.text(f"0 {count}")
        while f"0 {50 * kill}" not in log:
            log.append(str(staying.read_message()))
        os.kill(one, signal.SIGKILL)
        while "0 199" not in log:
            log.append(str(staying.read_message()))
        one = program.wait_for_workers(3 + kill)[-1]
        program.wait_for(f"engine {one} up")
        new = enter_hall(program, stack, one)
        new.text("1 end")
        while log[-1] != "1 end":
            log.append(str(staying.read_message()))
        assert numbers(log, "0") == list(range(200))
        got = numbers(log, "1")
        assert got == list(range(got[0], got[0] + len(got))) if got else True
        assert not any(text.startswith("gap") for text in log)
    assert len(program.found(f"engine {two} ")) == 1  # it has never noticed anything


def broker_of(program: Program) -> int:
    pid = program.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    workers = [int(match[1]) for match in program.found(r"serves \(process (\d+)\)")]
    (broker,) = set(map(int, children)) - set(workers)
    return broker


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")
def test_broker_of_workers_that_is_killed(program: Program, stack: ExitStack) -> None:
    workers = program.wait_for_workers()
    peers = [enter_hall(program, stack, pid) for pid in workers]
    acquaint(*peers)
    traffic = Traffic(peers, lambda number, text: peers[number].text(text))
    with traffic:
        traffic.more(200)
        os.kill(broker_of(program), signal.SIGKILL)
        for pid in workers:
            program.wait_for(f"engine {pid} up", 2)
        traffic.more(100)
    for number in (0, 1):
        traffic.check(number)
    assert program.end() == 0


NOISE = """
class Noise(Hall):
    def on_open(self, client):
        client.send(str(os.getpid()))
    def on_message(self, msg, client):
        client.subscribe("noise")
        return "listening"

server.mount("/noise", Noise())
"""


def fill(ask: Commands, pid: int) -> None:
    """Publish to a worker that reads nothing, until its connection is cut."""
    for _ in range(1000):
        for _ in range(20):
            ask("PUBLISH", "sws.t.noise", "x" * 2**16)
        if f"name=simple_ws-{pid} ".encode() not in ask("CLIENT", "LIST"):
            return
    raise AssertionError("Redis has kept it all")


def test_worker_that_stands_still_until_redis_cuts_it(stack: ExitStack) -> None:
    """It goes on with what the system has kept, then with a gap that is told."""
    # Redis 8 counts each message that a publisher gets itself as 22 KB until it is
    # sent: a lower limit would cut workers that do read.
    redis = stack.enter_context(
        redis_server("--client-output-buffer-limit", "pubsub 8mb 0 0")
    )
    options = f'{OPTIONS}, engine="{redis.url}"'
    program = stack.enter_context(Program.with_workers(HALL + NOISE, options))
    workers = program.wait_for_workers()
    for pid in workers:
        program.wait_for(f"engine {pid} up")
    peers = [enter_hall(program, stack, pid) for pid in workers]
    listener = enter_hall(program, stack, workers[0], "/noise")
    listener.text("listen")
    assert listener.read_message() == "listening"
    ask = stack.enter_context(redis.commands())
    acquaint(*peers)
    with Traffic(peers, lambda number, text: peers[number].text(text)) as traffic:
        traffic.more(100)
        os.kill(workers[0], signal.SIGSTOP)
        try:
            fill(ask, workers[0])
        finally:
            os.kill(workers[0], signal.SIGCONT)
        program.wait_for(f"engine {workers[0]} up", 2)
        traffic.more(100)
    assert traffic.check(0).missing
    missing, told = traffic.check(1)  # while the first was cut off
    assert told == len(missing)
    assert len(program.found(f"engine {workers[1]} ")) == 1
    assert program.end() == 0
