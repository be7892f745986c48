"""`lease`: one process of all nodes makes the calls of `every(once=True)`."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE, Clock
from nodes import Nodes, Room
from programs import Program
from redis_server import RedisServer

from simple_ws.cluster import lease
from simple_ws.cluster.lease import Lease
from simple_ws.cluster.resp import ErrorReply

pytestmark = pytest.mark.one_backend


class Host:
    """A node of one process, whose Redis answers as the test says."""

    def __init__(self, owner: str, redis: dict[bytes, tuple[bytes, float]]) -> None:
        self.time = Clock()
        self.redis = redis
        self.wanted = True
        self.reachable = True
        self.refusal: str | None = None
        self.asked = 0
        self._calls: list[tuple[float, Callable[[], object]]] = []
        self.lease = Lease(self, "app", owner)

    def clock(self) -> float:
        return self.time()

    def call_later(self, delay: float, callback: Callable[[], object]) -> None:
        self._calls.append((self.time() + delay, callback))

    def wants_lease(self) -> bool:
        return self.wanted

    def ask_engine(
        self, answer: Callable[[Any], object], command: tuple[bytes, ...]
    ) -> bool:
        self.asked += 1
        if self.refusal is not None:
            answer(ErrorReply(self.refusal))
        elif self.reachable:
            _, _, _, key, owner, ttl = command
            holder, until = self.redis.get(key, (b"", 0.0))
            mine = holder in (b"", owner) or until <= self.time()
            if mine:
                self.redis[key] = owner, self.time() + int(ttl) / 1000
            answer(int(mine))
        return self.reachable

    def advance(self, seconds: float) -> None:
        self.time.now += seconds
        due = [call for call in self._calls if call[0] <= self.time()]
        self._calls = [call for call in self._calls if call[0] > self.time()]
        for _, callback in due:
            callback()


@pytest.fixture
def hosts() -> tuple[Host, Host]:
    redis: dict[bytes, tuple[bytes, float]] = {}
    return Host("one", redis), Host("two", redis)


def advance(hosts: tuple[Host, Host], seconds: int) -> None:
    for _ in range(2 * seconds):
        for host in hosts:
            host.advance(0.5)
        assert not all(host.lease.is_held for host in hosts)


def test_one_holds_it_as_long_as_it_renews(hosts: tuple[Host, Host]) -> None:
    for host in hosts:
        host.lease.begin()
    for _ in range(20):
        advance(hosts, 5)
        assert [host.lease.is_held for host in hosts] == [True, False]
    assert hosts[0].asked < 25  # every 5 s


def test_holder_that_hears_nothing_stops_before_another_begins(
    hosts: tuple[Host, Host],
) -> None:
    one, two = hosts
    one.lease.begin()
    two.lease.begin()
    advance(hosts, 7)
    one.reachable = False
    advance(hosts, 30)
    assert [host.lease.is_held for host in hosts] == [False, True]
    one.reachable = True
    advance(hosts, 30)
    assert [host.lease.is_held for host in hosts] == [False, True]


def test_nobody_asks_for_what_is_not_needed(hosts: tuple[Host, Host]) -> None:
    one, two = hosts
    one.wanted = False
    one.lease.begin()
    two.lease.begin()
    advance(hosts, 10)
    assert (one.asked, two.lease.is_held) == (0, True)
    two.wanted = False
    one.wanted = True
    advance(hosts, 20)
    assert one.lease.is_held
    one.lease.end()
    asked = one.asked
    advance(hosts, 20)
    assert one.asked == asked
    assert not one.lease.is_held


def test_workers_of_a_machine_share_the_lease() -> None:
    redis: dict[bytes, tuple[bytes, float]] = {}
    one, other = Host("machine", redis), Host("machine", redis)
    one.lease.begin()
    other.wanted = False  # the supervisor's word
    other.lease.begin()
    one.advance(1)
    one.wanted, other.wanted = False, True
    other.advance(1)
    assert other.lease.is_held


@pytest.mark.parametrize(
    ("error", "held"),
    [
        ("NOPERM User node has no permissions to run the 'eval' command", True),
        ("ERR unknown command 'EVAL'", True),
        ("LOADING Redis is loading the dataset in memory", False),
        ("READONLY You can't write against a read only replica.", False),
    ],
)
def test_what_redis_may_say_instead(
    hosts: tuple[Host, Host], error: str, held: bool, caplog: pytest.LogCaptureFixture
) -> None:
    hosts[0].refusal = error
    with caplog.at_level(logging.WARNING, "simple_ws"):
        hosts[0].lease.begin()
        hosts[0].advance(20)
    assert hosts[0].lease.is_held is held
    assert len(caplog.records) == held


# --- Real ones -----------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_RENEW", 0.1)
    monkeypatch.setattr(lease, "_LOOK", 0.05)


class Calls:
    """What the servers have called, in order."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self._changed = threading.Condition()

    def note(self, number: int) -> None:
        with self._changed:
            self.made.append(number)
            self._changed.notify_all()

    def wait(self, condition: Callable[[list[int]], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.made), DEADLINE)


def calling(stack: ExitStack, redis: RedisServer, calls: Calls) -> Nodes:
    nodes = Nodes(stack, redis, room=Room)
    for number, server in enumerate(nodes.servers):
        server.every(0.01, lambda n=number: calls.note(n), once=True)
    return nodes


def test_other_node_goes_on_when_the_holder_has_ended(
    redis: RedisServer, hasty: None
) -> None:
    calls = Calls()
    with ExitStack() as stack:
        nodes = calling(stack, redis, calls)
        calls.wait(lambda made: len(made) > 20)
        (holder,) = set(calls.made)
        nodes.servers[holder].stop(0)
        with redis.commands() as command:
            assert 0 < command("PTTL", "sws.once") <= lease.TTL * 1000
            command("PEXPIRE", "sws.once", "1")  # the test does not wait for its end
        made = len(calls.made)
        calls.wait(lambda all_: len(all_) > made + 20)
        assert set(calls.made[made:]) == {1 - holder}


def acl(redis: RedisServer) -> str:
    """The user of docs/cluster.md, whose last words are the rights to the lease."""
    text = Path(__file__).parents[2].joinpath("docs/cluster.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("ACL SETUSER site")]
    (plain,) = [line for line in lines if "resetchannels" in line]
    (rights,) = [line for line in lines if "sws.once" in line]
    with redis.commands() as command:
        assert command(*plain.replace(">PASSWORD", ">right").split()) == b"OK"
    return rights


def test_documented_rights_are_enough(redis: RedisServer, hasty: None) -> None:
    rights = acl(redis)
    with redis.commands() as command:
        assert command(*rights.split()) == b"OK"
    calls = Calls()
    with ExitStack() as stack:
        url = redis.url.replace("://", "://site:right@")
        server = Nodes(stack, [url], count=1).servers[0]
        server.every(0.01, lambda: calls.note(0), once=True)
        calls.wait(lambda made: len(made) > 3)
        with redis.commands() as command:
            assert command("GET", "sws.once")


def test_without_the_rights_each_machine_does_it(
    redis: RedisServer, hasty: None, caplog: pytest.LogCaptureFixture
) -> None:
    acl(redis)
    calls = Calls()
    url = redis.url.replace("://", "://site:right@")
    with caplog.at_level(logging.WARNING, "simple_ws"), ExitStack() as stack:
        nodes = Nodes(stack, [url, url])
        for number, server in enumerate(nodes.servers):
            server.every(0.01, lambda n=number: calls.note(n), once=True)
        calls.wait(lambda made: set(made) == {0, 1})
    lines = [r.getMessage() for r in caplog.records if "grants no lease" in r.message]
    assert len(lines) == 2


def test_leader_of_the_workers_holds_it(redis: RedisServer) -> None:
    body = """
from simple_ws.cluster import lease
lease.TTL, lease._RENEW, lease._LOOK = 600.0, 0.1, 0.05
server.every(0.01, lambda: say("once", os.getpid()), once=True)
"""
    options = f'"127.0.0.1", 0, workers=2, engine={redis.url!r}'
    with Program.with_workers(body, options) as program:
        program.wait_for_workers()
        first = int(program.wait_for(r"^once (\d+)", 3)[1])
        os.kill(first, signal.SIGKILL)
        program.wait_for(rf"^once (?!{first}\b)", 3)  # long before the lease ends
        assert program.end() == 0
