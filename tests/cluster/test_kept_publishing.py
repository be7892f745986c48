"""Publishers and topics with history: rules, keys, and messages that are sent again."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest
from harness import DEADLINE
from publisher_harness import (
    STORED,
    PublisherServer,
    hurry,
    publisher_server,
)
from redis_server import RedisServer, redis_server, session

import simple_ws.aio
from simple_ws import EngineError, Publisher, Server, WebSocket, connect
from simple_ws.cluster import announced_rules
from simple_ws.cluster.announced_rules import AnnouncedRules, encode_rules
from simple_ws.cluster.engine import Page, Ready
from simple_ws.cluster.envelope import open_
from simple_ws.cluster.history import Retention
from simple_ws.cluster.publishing import check_publishing_options, count_topics
from simple_ws.cluster.resp import ErrorReply
from simple_ws.cluster.topic_rules import TopicRule

pytestmark = pytest.mark.one_backend

RULES = json.dumps({"room:*": [100, 60.0], "room:tmp": [0, None], "news": [9, None]})


def bulk(text: str) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text.encode())


@pytest.fixture
def server() -> Iterator[PublisherServer]:
    with publisher_server() as server:
        server.rules = bulk(RULES)
        yield server


@pytest.fixture
def publisher(kind: Any, server: PublisherServer) -> Iterator[Any]:
    with kind(server.url, timeout=DEADLINE) as publisher:
        yield publisher


def on_loop(
    test: Callable[[PublisherServer], Coroutine[Any, Any, None]],
) -> Callable[[PublisherServer], None]:
    @wraps(test)
    def run(server: PublisherServer) -> None:
        asyncio.run(asyncio.wait_for(test(server), DEADLINE))

    return run


# Which topics


def test_topics_with_history_are_appended_to(
    publisher: Any, server: PublisherServer
) -> None:
    assert publisher.publish("room:1", "a") == 7
    assert publisher.publish("room:tmp", "b") == 1
    assert publisher.publish("rooms", "c") == 1
    assert publisher.publish("news", "d", key="k") == 7
    assert publisher.broadcast("e") == 1
    assert server.read == ["sws.rules"]
    channels = [published.channel for published in server.published]
    assert channels == ["sws.t.room:tmp", "sws.t.rooms", "sws.all"]
    first, second = (each.arguments for each in server.appended)
    assert first[:3] == [b"{sws.k.room:1}" + kind for kind in (b"m", b"s", b"k")]
    assert first[4:8] == [b"1", first[5], b"100", b"60000"]
    assert second[0] == b"{sws.k.news}m"
    assert second[6:8] == [b"9", b""]
    assert second[10:] == [b"k"]
    envelope = open_(first[9], "{sws.k.room:1}e", None)
    assert (envelope.seq, envelope.body) == (1, b"a")
    assert envelope.publisher == first[3]


def test_prefix_and_secret(kind: Any, server: PublisherServer) -> None:
    with kind(server.url, prefix="shop", secret="key") as publisher:
        publisher.publish("news", "x")
    assert server.read == ["shop.rules"]
    (appended,) = server.appended
    assert appended.arguments[0] == b"{shop.k.news}m"
    assert open_(appended.arguments[9], "{shop.k.news}e", b"key").body == b"x"


@pytest.mark.parametrize(
    ("topic", "key", "error"),
    [
        ("news", 1, TypeError),
        ("news", "", ValueError),
        ("news", "x" * 257, ValueError),
        ("plain", "k", ValueError),
    ],
)
def test_keys_that_are_refused(
    publisher: Any, server: PublisherServer, topic: str, key: Any, error: Any
) -> None:
    with pytest.raises(error, match="key"):
        publisher.publish(topic, "x", key=key)
    assert not server.published
    assert not server.appended
    assert publisher.publish("plain", "x") == 1


def test_rules_are_read_again_after_some_time(
    publisher: Any, server: PublisherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.publish("news", "x")
    server.rules = bulk('{"other":[1,null]}')
    publisher.publish("other", "x")
    assert len(server.published) == 1
    monkeypatch.setattr(announced_rules, "_FRESH", 0.0)
    publisher.publish("other", "x")
    publisher.publish("news", "x")
    assert (len(server.published), len(server.appended)) == (2, 2)
    server.rules = b"$-1\r\n"  # the engine has lost its memory
    publisher.publish("other", "x")
    assert len(server.appended) == 3


def test_connection_that_is_lost_while_rules_are_read(
    publisher: Any, server: PublisherServer
) -> None:
    server.rules = None
    with pytest.raises(EngineError) as caught:
        publisher.publish("news", "x")
    assert not caught.value.unsure
    server.rules = bulk(RULES)
    assert publisher.publish("news", "x") == 7


MALFORMED = [
    b"",
    b"[]",
    b"{",
    b"null",
    b"\xff",
    b'{"a":1}',
    b'{"a":[1]}',
    b'{"a":["1",null]}',
    b'{"a":[-1,null]}',
    b'{"a":[true,null]}',
    b'{"a":[1,"x"]}',
    b'{"a*b":[1,null]}',
    b'{"":[1,null]}',
    b"[" * 100_000,
    1,
    [],
    ErrorReply("NOPERM no right"),
]


@pytest.mark.parametrize("reply", MALFORMED, ids=range(len(MALFORMED)))
def test_rules_that_are_malformed_are_told_once(
    reply: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rules = AnnouncedRules()
    rules.take(b'{"news":[1,null]}', 0.0)
    with caplog.at_level(logging.WARNING, "simple_ws"):
        rules.take(reply, 40.0)
        rules.take(reply, 80.0)
    assert len(caplog.records) <= 1
    assert rules.find("news") == Retention(1, None) or reply == b"{}"
    assert rules.is_fresh(100.0)
    assert not rules.is_fresh(111.0)


def test_rules_are_written_as_they_are_read() -> None:
    assert encode_rules([]) == b""
    assert encode_rules([TopicRule("a*", presence=True)]) == b""
    rules = AnnouncedRules()
    assert rules.find("ab") is None
    rules.take(None, 0.0)
    assert rules.is_fresh(0.9)
    assert not rules.is_fresh(1.1)
    data = encode_rules([TopicRule("a*", 5, 1.5), TopicRule("ab", presence=True)])
    rules.take(data, 0.0)
    assert rules.find("abc") == Retention(5, 1.5)
    assert rules.find("ab") is None
    assert rules.find("b") is None


# Messages that are sent again


def test_lost_connection_is_made_up_for(
    publisher: Any, server: PublisherServer
) -> None:
    server.stored = [None, None, STORED]
    assert publisher.publish("news", "x") == 7
    assert len({each.connection for each in server.appended}) == 3
    assert len({each.arguments[3] for each in server.appended}) == 1
    assert [each.seq for each in server.appended] == [1, 1, 1]
    assert len({each.arguments[9] for each in server.appended}) == 1
    assert publisher.publish("news", "y") == 7
    assert server.appended[-1].seq == 2


def test_message_that_is_refused_is_not_sent_again(
    publisher: Any, server: PublisherServer
) -> None:
    for before in ([], [None]):
        server.stored = [*before, b"-OOM no memory\r\n"]
        with pytest.raises(EngineError, match="OOM") as caught:
            publisher.publish("news", "x")
        assert not caught.value.unsure
    assert len(server.appended) == 3


def test_server_that_stays_away(kind: Any) -> None:
    with publisher_server() as server, kind(server.url, timeout=DEADLINE) as publisher:
        server.rules = bulk(RULES)
        publisher.publish("news", "x")
        server.stored = [b""]
        hurry(publisher, 0.3)
        with pytest.raises(EngineError) as caught:
            publisher.publish("news", "y")
        assert caught.value.unsure
        server.close()
        with pytest.raises(EngineError):
            publisher.publish("news", "z")


def test_flushed_scripts(publisher: Any, server: PublisherServer) -> None:
    server.stored = [b"-NOSCRIPT No matching script.\r\n"]
    assert publisher.publish("news", "x") == 7
    assert [each.connection for each in server.appended] == [1, 2]


def test_threads_keep_their_order_when_it_is_sent_again(
    server: PublisherServer,
) -> None:
    server.stored = [None, None]
    with Publisher(server.url, timeout=DEADLINE) as publisher:
        threads = [
            threading.Thread(target=publisher.publish, args=("news", "x"))
            for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
    numbers = [each.seq for each in server.appended]
    assert numbers == [1, 1, 1, 2, 3, 4, 5]


@on_loop
async def test_tasks_keep_their_order_when_it_is_sent_again(
    server: PublisherServer,
) -> None:
    async with simple_ws.aio.Publisher(server.url, timeout=DEADLINE) as publisher:
        await publisher.publish("news", "0")
        server.stored = [STORED, b"", b"", b""]
        calls = [
            asyncio.create_task(publisher.publish("news", str(number)))
            for number in range(1, 5)
        ]
        await asyncio.to_thread(server.wait_for, lambda: len(server.appended) == 5)
        server.stored = []
        await asyncio.to_thread(server.close_all)
        late = []
        for _ in range(10):
            late.append(asyncio.create_task(publisher.publish("news", "late")))
            await asyncio.sleep(0)
        assert await asyncio.gather(*calls, *late) == [7] * 14
    again = [each for each in server.appended if each.connection > 1]
    numbers = [each.seq for each in again]
    assert numbers == sorted(numbers)
    assert [each.body for each in again[:3]] == [b"2", b"3", b"4"]


@on_loop
async def test_close_ends_calls_that_wait(server: PublisherServer) -> None:
    publisher = simple_ws.aio.Publisher(server.url, timeout=DEADLINE)
    await publisher.publish("news", "x")
    server.stored = [b""]
    waiting = asyncio.create_task(publisher.publish("news", "x"))
    await asyncio.to_thread(server.wait_for, lambda: len(server.appended) == 2)
    await publisher.close()
    with pytest.raises(EngineError) as caught:
        await waiting
    assert caught.value.unsure


@on_loop
async def test_call_that_is_cancelled_is_not_sent_again(
    server: PublisherServer,
) -> None:
    async with simple_ws.aio.Publisher(server.url, timeout=DEADLINE) as publisher:
        await publisher.publish("news", "x")
        server.stored = [b""]
        waiting = asyncio.create_task(publisher.publish("news", "cancelled"))
        await asyncio.to_thread(server.wait_for, lambda: len(server.appended) == 2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.to_thread(server.close_all)
        while publisher._usable() is not None:
            await asyncio.sleep(0)
        assert await publisher.publish("news", "y") == 7
    bodies = [each.body for each in server.appended]
    assert bodies == [b"x", b"cancelled", b"y"]


# With a real server


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as made:
        yield made


class Room(WebSocket):
    def on_open(self, client: Any) -> None:
        client.subscribe("news", since="all")


@contextmanager
def serving(url: str, topics: dict[str, Any], **options: Any) -> Iterator[Server]:
    server = Server("127.0.0.1", 0, engine=url, **options)
    for pattern, rule in topics.items():
        server.topic(pattern, **rule)
    server.mount("*", Room())
    up = threading.Event()
    server.on_engine(lambda state: state.up and up.set())
    server.start()
    try:
        assert up.wait(DEADLINE)  # its rules are there
        yield server
    finally:
        server.stop(drain=0)


def test_clients_of_a_server_get_it_and_history_has_it(
    redis: RedisServer, kind: Any
) -> None:
    url = f"{redis.url}?prefix={kind.__name__}"
    with (
        serving(url, {"news": {"history": 10}}, engine_secret="key") as here,
        connect(f"ws://127.0.0.1:{here.port}/") as client,
        kind(url, secret="key") as publisher,
    ):
        publisher.publish("news", {"n": 1}, key="one")
        publisher.publish("news", {"n": 1}, key="one")
        publisher.publish("news", {"n": 2})
        assert [client.recv(DEADLINE) for _ in range(2)] == ['{"n":1}', '{"n":2}']
        with connect(f"ws://127.0.0.1:{here.port}/") as late:
            assert [late.recv(DEADLINE) for _ in range(2)] == ['{"n":1}', '{"n":2}']
        options = check_publishing_options(url, None, None, DEADLINE)
        assert count_topics(options) == {"news": 1}


def test_documented_rights_of_a_publisher_are_enough(
    redis: RedisServer, kind: Any
) -> None:
    rules = (
        "on >sesame resetchannels &sws.* &{sws.k.* ~sws.rules ~{sws.k.* -@all +hello "
        "+publish +get +evalsha +script|load +time +hmget +hset +hdel +hgetall +hlen "
        "+xadd +xrange +zadd +zscore +zremrangebyscore +exists +del +persist "
        "+pexpireat"
    )
    with redis.commands() as command:
        command("ACL", "SETUSER", "shop", *rules.split())
        command("SET", "sws.rules", RULES)
    url = redis.url.replace("//", "//shop:sesame@")
    with kind(url) as publisher, session(redis.url) as reader:
        assert publisher.publish("room:1", "x", key="k") == 0
        assert publisher.publish("room:1", "x", key="k") == 0
        assert publisher.publish("plain", "x") == 0
        reader.until_event(Ready)
        reader.engine.read("{sws.k.room:1}e", None, 0, 10)
        page = reader.until_event(Page)
        envelopes = [open_(e.body, page.channel, None) for e in page.entries]
        assert [envelope.body for envelope in envelopes][-1] == b"x"
        assert len(envelopes) <= 2  # one for each kind of publisher


def test_killed_server_and_its_empty_successor(kind: Any) -> None:
    with redis_server() as redis, kind(redis.url, timeout=DEADLINE) as publisher:
        with redis.commands() as command:
            command("SET", "sws.rules", RULES)
        publisher.publish("news", "x")
        redis.kill()
        redis.start()
        assert publisher.publish("news", "z") == 0
        with session(redis.url) as reader:
            reader.until_event(Ready)
            reader.engine.read("{sws.k.news}e", None, 0, 10)
            page = reader.until_event(Page)
            bodies = [open_(e.body, page.channel, None).body for e in page.entries]
            assert bodies == [b"z"]


def test_server_tells_its_rules_whenever_it_connects() -> None:
    with redis_server() as redis:
        rules = {"news": {"history": 5, "keep": 60}, "tmp": {"presence": True}}
        with serving(redis.url, rules), redis.commands() as command:
            for _ in range(2):
                end = time.monotonic() + DEADLINE
                while (found := command("GET", "sws.rules")) is None:
                    assert time.monotonic() < end
                assert json.loads(found) == {"news": [5, 60.0], "tmp": [0, None]}
                command("DEL", "sws.rules")
                command("CLIENT", "KILL", "TYPE", "pubsub")


def test_server_without_histories_tells_nothing(redis: RedisServer) -> None:
    url = f"{redis.url}?prefix=silent"
    with serving(url, {"a": {"presence": True}}), redis.commands() as command:
        assert command("GET", "silent.rules") is None
