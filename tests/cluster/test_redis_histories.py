"""Histories in Redis: keys, what is refused, and what becomes of a server that changes.

The promises of any engine are in `simple_ws.testing.histories`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from redis_server import PROGRAMS, RedisServer, Session, redis_server, session

from simple_ws.cluster import redis_scripts
from simple_ws.cluster.engine import (
    Accepted,
    Delivered,
    Failed,
    Notice,
    Origin,
    Page,
    ReadRefused,
    Ready,
    Refused,
    Stored,
    Subscribed,
)
from simple_ws.cluster.engine_address import parse
from simple_ws.cluster.history import Retention
from simple_ws.cluster.redis_engine import RedisEngine
from simple_ws.cluster.redis_history import page_of, stored_of

pytestmark = pytest.mark.one_backend

CHANNEL = "{sws.k.room}e"
TEN = Retention(10, None)
META, STREAM, NAMES = "{sws.k.room}m", "{sws.k.room}s", "{sws.k.room}k"

#: As in docs/cluster.md: what a node needs for plain topics, and for histories.
PLAIN = (
    "on >secret resetchannels &sws.* -@all "
    "+hello +subscribe +unsubscribe +publish +ping"
)
HISTORIES = (
    "&{sws.k.* ~{sws.k.* ~sws.rules +set +evalsha +script|load +time +hmget +hset "
    "+hdel +hgetall +hlen +xadd +xrange +xtrim +zadd +zscore +zremrangebyscore "
    "+exists +del +persist +pexpire +pexpireat"
)


@pytest.fixture(scope="module", params=PROGRAMS)
def shared(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server(program=request.param) as made:
        yield made


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    with shared.commands() as ask:
        ask("FLUSHALL")
    return shared


@pytest.fixture
def node(server: RedisServer) -> Iterator[Session]:
    with session(server.url) as made:
        made.engine.subscribe([CHANNEL])
        made.until_event(Subscribed)
        yield made


def append(
    made: Session,
    seq: int,
    key: str | None = None,
    retention: Retention = TEN,
    publisher: bytes = b"somebody",
) -> None:
    made.engine.append(CHANNEL, b"%d" % seq, Origin(publisher, seq, key), retention)


# Keys


def test_keys_expire_and_positions_later(node: Session, server: RedisServer) -> None:
    for seq in range(1, 4):
        append(node, seq, "a key", Retention(10, 600.0))
    node.until_event(Stored, 3)
    with server.commands() as ask:
        assert 600_000 < ask("PTTL", STREAM) <= 660_000
        assert 600_000 < ask("PTTL", NAMES) <= 660_000
        assert 86_400_000 + 600_000 < ask("PTTL", META) <= 86_400_000 + 660_000
        append(node, 4, None, Retention(10, None))
        node.until_event(Stored, 4)
        assert {ask("PTTL", key) for key in (META, STREAM, NAMES)} == {-1}
        append(node, 5, None, Retention(10, 1.0))
        node.until_event(Stored, 5)
        assert 1000 < ask("PTTL", STREAM) <= 2000


def test_expiry_is_moved_seldom_and_in_time(node: Session, server: RedisServer) -> None:
    kept = Retention(10, 600.0)
    append(node, 1, None, kept)
    node.until_event(Stored)
    with server.commands() as ask:
        first = int(ask("HGET", META, "x"))
        append(node, 2, None, kept)
        node.until_event(Stored, 2)
        assert int(ask("HGET", META, "x")) == first
        ask("HSET", META, "x", str(first - 61_000))  # a minute later
        append(node, 3, None, kept)
        node.until_event(Stored, 3)
        assert int(ask("HGET", META, "x")) >= first
        assert ask("PTTL", STREAM) > 600_000


def test_topic_without_messages_is_forgotten(
    node: Session, server: RedisServer
) -> None:
    node.engine.read(CHANNEL, None, 0, 10)
    epoch = node.until_event(Page).epoch
    with server.commands() as ask:
        assert 0 < ask("PTTL", META) <= 86_400_000
        append(node, 1)
        assert node.until_event(Stored).position.epoch == epoch
        assert ask("PTTL", META) == -1


def test_expired_messages_are_removed_by_who_reads(
    node: Session, server: RedisServer
) -> None:
    kept = Retention(500, 60.0)
    with server.commands() as ask:
        for seq in range(1, 301):
            append(node, seq, None, kept)
        node.until_event(Stored, 300)
        # All but the last ten are of long ago.
        entries = ask("XRANGE", STREAM, "-", "+")
        ask("DEL", STREAM)
        for number, (identity, fields) in enumerate(entries):
            if number < 290:
                fields[3] = b"1000"
            ask("XADD", STREAM, identity, *fields)
        node.engine.read(CHANNEL, None, 0, 5)
        page = node.until_event(Page)
        assert [entry.offset for entry in page.entries] == [291, 292, 293, 294, 295]
        assert ask("XLEN", STREAM) == 11


def test_one_more_is_stored_than_can_be_read(
    node: Session, server: RedisServer
) -> None:
    for seq in range(1, 31):
        append(node, seq, str(seq))
    node.until_event(Stored, 30)
    with server.commands() as ask:
        assert ask("XLEN", STREAM) == 11
        assert ask("ZCARD", NAMES) == 10
    oldest = node.of(Stored)[19].position
    node.engine.read(CHANNEL, oldest, oldest.offset, 100)
    assert not node.until_event(Page).reset
    node.engine.read(CHANNEL, oldest._replace(tag=oldest.tag ^ 1), 20, 100)
    assert node.until_event(Page, 2).reset


def test_publishers_are_bounded(node: Session, server: RedisServer) -> None:
    for number in range(2_500):
        append(node, 1, None, publisher=b"%d" % number)
        if number % 100 == 0:
            append(node, number + 1, None, publisher=b"faithful")
    node.until_event(Stored, 2_525)
    with server.commands() as ask:
        assert ask("HLEN", META) <= 1001
    append(node, 2_401, None, publisher=b"faithful")
    append(node, 1, None, publisher=b"2499")
    assert node.until_event(Stored, 2_527).again
    assert [event.again for event in node.of(Stored)[-2:]] == [True, True]


def test_what_was_left_of_another_history_is_removed(
    node: Session, server: RedisServer
) -> None:
    for seq in range(1, 4):
        append(node, seq, "k")
    old = node.until_event(Stored, 3).position
    with server.commands() as ask:
        ask("DEL", META)
        append(node, 1, "k")
        stored = node.until_event(Stored, 4)
        assert stored.again is False
        assert stored.position.offset == 1
        assert stored.position.epoch != old.epoch
        ask("DEL", META)
        node.engine.read(CHANNEL, stored.position, 1, 10)
        page = node.until_event(Page)
        assert (page.top, page.reset, page.entries) == (0, True, [])
        assert ask("EXISTS", STREAM, NAMES) == 0
        ask("HSET", META, "s", "nonsense")
        append(node, 2, "k")
        assert node.until_event(Stored, 5).position.offset == 1


def test_topics_of_any_name(server: RedisServer) -> None:
    names = ["a}b", "{", "}", "\ud800", "a b\r\n", "e", "*", ""]
    channels = [f"{{sws.k.{name}}}e" for name in names]
    with session(server.url) as made:
        made.engine.subscribe(channels)
        made.until_event(Subscribed)
        for number, channel in enumerate(channels, 1):
            origin = Origin(b"somebody", number, None)
            made.engine.append(channel, b"x", origin, Retention(1, None))
            made.engine.read(channel, None, 0, 10)
        made.until_event(Page, len(names))
        assert [page.channel for page in made.of(Page)] == channels
        assert [len(page.entries) for page in made.of(Page)] == [1] * len(names)
        assert [event.channel for event in made.of(Delivered)] == channels
    with server.commands() as ask:
        assert ask("DBSIZE") == 2 * len(names)


def test_databases_have_histories_of_their_own(server: RedisServer) -> None:
    with session(f"{server.url}/1") as one, session(f"{server.url}/2") as two:
        for made in (one, two):
            made.until_event(Ready)
        append(one, 1)
        one.until_event(Stored)
        two.engine.read(CHANNEL, None, 0, 10)
        assert two.until_event(Page).top == 0


# What is refused


@pytest.mark.parametrize("key", [META, STREAM, NAMES])
def test_keys_of_another_type(node: Session, server: RedisServer, key: str) -> None:
    append(node, 1)
    node.until_event(Stored)
    with server.commands() as ask:
        ask("DEL", key)
        ask("SET", key, "something else")
    append(node, 2, "k")
    node.engine.publish("sws.t.a", b"x")
    refused = node.until_event(Refused)
    assert "WRONGTYPE" in refused.reason
    node.until_event(Accepted)
    node.engine.read(CHANNEL, None, 0, 10)
    if key != NAMES:
        event = node.until_event(ReadRefused)
        assert event.channel == CHANNEL
        assert "WRONGTYPE" in event.reason
    node.engine.publish("sws.t.a", b"x")
    node.until_event(Accepted, 2)
    assert len(node.of(Stored)) == 1


def test_server_without_memory(node: Session, server: RedisServer) -> None:
    append(node, 1)
    node.until_event(Stored)
    with server.commands() as ask:
        ask("CONFIG", "SET", "maxmemory", "1")
        try:
            append(node, 2)
            assert "OOM" in node.until_event(Refused).reason
            node.engine.read(CHANNEL, None, 0, 10)
            assert [entry.offset for entry in node.until_event(Page).entries] == [1]
            node.engine.publish("sws.t.a", b"x")
            node.until_event(Accepted)
        finally:
            ask("CONFIG", "SET", "maxmemory", "0")
    append(node, 2)
    assert node.until_event(Stored, 2).position.offset == 2
    assert len(node.of(Delivered)) == 2


@pytest.mark.parametrize("keep", [1e-9, 2.0**40, 9e18])
def test_any_time_may_be_kept(node: Session, keep: float) -> None:
    """Redis counts it in milliseconds, whose number is limited."""
    append(node, 1, "a", Retention(5, keep))
    append(node, 2, "a", Retention(5, keep))
    assert node.until_event(Stored, 1).position.offset == 1
    node.until_event(Delivered)
    assert not node.of(Refused)


def test_documented_rights_are_enough(server: RedisServer) -> None:
    url = allowed(server, f"{PLAIN} {HISTORIES}")
    with session(url) as made:
        made.engine.subscribe([CHANNEL])
        made.until_event(Subscribed)
        assert made.engine.keeps_history
        made.engine.read(CHANNEL, None, 0, 10)
        for seq, keep in ((1, None), (2, 60.0), (3, None)):
            append(made, seq, str(seq), Retention(2, keep))
        for number in range(1001):
            append(made, 1, publisher=b"%d" % number)
        made.until_event(Stored, 1004)
        made.engine.read(CHANNEL, made.of(Stored)[-1].position._replace(tag=1), 1, 10)
        assert made.until_event(Page, 2).reset
        assert len(made.of(Delivered)) == 1004
        with server.commands() as ask:
            ask("DEL", META)
        append(made, 1)
        made.until_event(Stored, 1005)
        assert not made.of(Refused)


@pytest.mark.parametrize("missing", ["script|load", "evalsha", "xadd", "xrange"])
def test_without_rights_plain_topics_work(server: RedisServer, missing: str) -> None:
    rules = f"{PLAIN} {HISTORIES}".replace(f"+{missing} ", "")
    with session(allowed(server, rules)) as made:
        made.engine.subscribe([CHANNEL, "sws.t.a"])
        made.until_event(Subscribed)
        assert made.engine.keeps_history is (missing != "script|load")
        made.engine.publish("sws.t.a", b"1")
        append(made, 1)
        made.engine.read(CHANNEL, None, 0, 10)
        made.engine.publish("sws.t.a", b"2")
        made.until_event(Accepted, 2)
        answers = [e for e in made.events if isinstance(e, Accepted | Refused | Stored)]
        kind = Stored if missing == "xrange" else Refused
        assert [type(event) for event in answers] == [Accepted, kind, Accepted]
        for event in made.of(Refused) + made.of(ReadRefused):
            # As 6, 7 and 8 say it.
            texts = "NOPERM", "can't run this command", "ACL failure in script"
            assert any(text in event.reason for text in texts)
            assert ("SCRIPT LOAD" in event.reason) is (missing == "script|load")
        assert len(made.of(Refused) + made.of(ReadRefused)) >= 1


def test_rules_that_may_not_be_left_are_told(server: RedisServer) -> None:
    """Publishers would take topics with history for others, without a word."""
    rules = f"{PLAIN} {HISTORIES}".replace("~sws.rules ", "")
    engine = RedisEngine("node", "secret")
    engine.announce(b"{}")
    with session(allowed(server, rules), engine) as made:
        notice = made.until_event(Notice)
        append(made, 1)
        made.until_event(Stored)
    assert notice.name == "sws.rules"
    assert notice.reason.startswith("publishers cannot know which topics have a hist")
    assert "NOPERM" in notice.reason


def allowed(server: RedisServer, rules: str) -> str:
    with server.commands() as ask:
        ask("ACL", "DELUSER", "node")
        assert ask("ACL", "SETUSER", "node", *rules.split()) == b"OK"
        ask("SCRIPT", "FLUSH")
    return f"redis://node:secret@127.0.0.1:{server.port}"


def test_publisher_loads_its_script_with_its_first_message(
    server: RedisServer,
) -> None:
    url = allowed(
        server,
        "on >secret resetchannels &sws.* &{sws.k.* ~{sws.k.* -@all +hello +publish "
        "+evalsha +script|load +time +hmget +hset +hdel +hgetall +hlen +xadd +xrange "
        "+zadd +zscore +zremrangebyscore +exists +del +persist +pexpireat",
    )
    engine = RedisEngine.from_address(parse(url), publish_only=True)
    with session(url, engine) as made, server.commands() as ask:
        made.until_event(Ready)
        digest = redis_scripts.APPEND.digest
        assert ask("SCRIPT", "EXISTS", digest) == [0]
        append(made, 1, "k")
        append(made, 2)
        made.until_event(Stored, 2)
        assert ask("SCRIPT", "EXISTS", digest) == [1]


# A server that changes


@pytest.mark.parametrize("reads", [False, True])
def test_flushed_scripts_are_loaded_with_the_next_connection(
    node: Session, server: RedisServer, reads: bool
) -> None:
    with server.commands() as ask:
        ask("SCRIPT", "FLUSH")
    if reads:
        node.engine.read(CHANNEL, None, 0, 10)
    else:
        append(node, 1)
    failed = node.until_event(Failed)
    assert failed == Failed("its scripts were flushed")
    assert not node.of(Refused)
    node.engine.disconnected()
    with session(server.url, node.engine) as again:
        again.until_event(Subscribed)
        append(again, 1)
        assert again.until_event(Stored).again is False


def test_master_that_became_a_replica(server: RedisServer) -> None:
    with session(server.url) as made, server.commands() as ask:
        made.until_event(Ready)
        ask("REPLICAOF", "127.0.0.1", "1")
        try:
            append(made, 1)
            failed = made.until_event(Failed)
            assert "READONLY" in failed.reason
            assert not failed.permanent
            assert not made.of(Refused)
        finally:
            ask("REPLICAOF", "NO", "ONE")


# On a fake transport


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


HELLO = b"%%3\r\n%b%b%b" % tuple(
    bulk(key) + bulk(value)
    for key, value in (
        (b"server", b"redis"),
        (b"version", b"6.0"),
        (b"role", b"master"),
    )
)


def loaded(*scripts: redis_scripts.Script) -> bytes:
    return b"".join(
        bulk(hashlib.sha1(script.source).hexdigest().encode()) for script in scripts
    )


def ready() -> RedisEngine:
    engine = RedisEngine()
    engine.connected(0.0)
    events = engine.receive(HELLO, 0.0)
    scripts = redis_scripts.APPEND, redis_scripts.READ, redis_scripts.REMOVE
    events += engine.receive(loaded(*scripts), 0.0)
    probe = engine._probe_channel
    push = b">3\r\n" + bulk(b"subscribe") + bulk(probe) + b":1\r\n"
    events += engine.receive(push + b":1\r\n", 0.0)
    assert [type(event) for event in events] == [Ready, Subscribed]
    engine.take_output()
    return engine


@pytest.mark.parametrize(
    "answer",
    [
        b"-ERR Error running script (call to f_0): @user_script: 1: -READONLY You",
        b"-LOADING Redis is loading the dataset in memory",
        b"-ERR Error running script: @user_script: 2: MASTERDOWN Link with MASTER",
    ],
)
def test_state_of_the_server_in_the_answer_of_a_script(answer: bytes) -> None:
    for reads in (False, True):
        engine = ready()
        if reads:
            engine.read(CHANNEL, None, 0, 10)
        else:
            origin = Origin(b"somebody", 1, None)
            engine.append(CHANNEL, b"x", origin, Retention(1, None))
        (event,) = engine.receive(answer + b"\r\n", 0.0)
        assert isinstance(event, Failed)
        assert not event.permanent
        assert engine.receive(b":1\r\n", 0.0) == []


def test_server_that_loads_while_we_enter() -> None:
    engine = RedisEngine()
    engine.connected(0.0)
    engine.receive(HELLO, 0.0)
    (event,) = engine.receive(b"-LOADING Redis is loading\r\n", 0.0)
    assert event == Failed("LOADING Redis is loading", permanent=False)


@pytest.mark.parametrize(
    "reply",
    [
        1,
        b"1:2:3",
        [],
        [b"ab:1:", 0],
        [b"ab:x:", 0, 1],
        [b"\xff:1:", 0, 1],
        [b"ab:1:", 2, 1],
        [b"ab:1:", 0, b"1"],
        [b"ab:1:", [], 1],
        [None, 0, 1],
    ],
)
def test_answers_that_are_no_positions(reply: Any) -> None:
    assert stored_of(reply) is None
    assert page_of(CHANNEL, reply) is None


@pytest.mark.parametrize(
    "reply",
    [
        [b"ab", 1],
        [b"AB", 1, 0],
        ["ab", 1, 0],
        [b"ab", b"1", 0],
        [b"ab", -1, 0],
        [b"ab", 2**60, 0],
        [b"ab", 1, 2],
        [b"ab", 1, 0, 1],
        [b"ab", 1, 0, 2, b"abcd", 0, b""],
        [b"ab", 1, 0, 1, b"abcde", 0, b""],
        [b"ab", 1, 0, 1, b"abcd", -1, b""],
        [b"ab", 1, 0, 1, b"abcd", 0, None],
        [b"ab", 9, 0, 1, b"abcd", 0, b"", 3, b"abcd", 0, b""],
        [b"ab", 9, 0, 1, 7, 0, b""],
        [b"ab", 9, 0, None, b"abcd", 0, b""],
    ],
)
def test_answers_that_are_no_pages(reply: Any) -> None:
    assert page_of(CHANNEL, reply) is None


@pytest.mark.parametrize("may", [True, False])
def test_rules_are_left_for_publishers(server: RedisServer, may: bool) -> None:
    rules = PLAIN if not may else f"{PLAIN} {HISTORIES}"
    engine = RedisEngine.from_address(parse(allowed(server, rules)))
    engine.announce(b"{}")
    with session(allowed(server, rules), engine) as made, server.commands() as ask:
        made.until_event(Subscribed)
        made.engine.publish("sws.t.a", b"x")
        made.until_event(Accepted)
        assert ask("GET", "sws.rules") == (b"{}" if may else None)
