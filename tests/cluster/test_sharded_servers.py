"""Servers on several engines that do not know of each other, each for its topics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from harness import DEADLINE
from programs import until as wait_until
from publisher_harness import KINDS
from redis_server import RedisServer, redis_server

from simple_ws import Server, WebSocket, connect
from simple_ws.cluster.shards import shard_of

pytestmark = pytest.mark.one_backend

TOPICS = [f"room:{number}" for number in range(8)]
KEPT = [f"kept:{number}" for number in range(8)]
#: Waits for what other processes and threads do.
until = partial(wait_until, pause=0.005)


class Room(WebSocket):
    def __init__(self) -> None:
        self.gaps: list[Any] = []

    def on_open(self, client: Any) -> None:
        for topic in TOPICS + KEPT:
            client.subscribe(topic, since="all" if topic in KEPT else None)
        client.bind(client.query.get("id"))

    def on_message(self, msg: Any, client: Any) -> None:
        topic, _, text = msg.partition(" ")
        self.server.publish(topic, text)

    def on_gap(self, topic: Any, missing: Any) -> None:
        self.gaps.append((topic, missing))


class Sites:
    """Two servers on two engines, and a client of each."""

    def __init__(self, stack: ExitStack) -> None:
        self.redis = [stack.enter_context(redis_server()) for _ in range(2)]
        self.rooms, self.clients = [Room(), Room()], []
        self.servers, self.states = [], []
        for room in self.rooms:
            server = Server("127.0.0.1", 0, engine=self.urls)
            server.topic("kept:*", history=10)
            server.mount("*", room)
            server.on_engine(self.states.append)
            server.start()
            stack.callback(server.stop, drain=0)
            self.servers.append(server)
        until(self.is_up)
        for number, server in enumerate(self.servers):
            url = f"ws://127.0.0.1:{server.port}/?id={number}"
            self.clients.append(stack.enter_context(connect(url)))
        # All is subscribed to, in the engines as well.
        for redis, size in zip(self.redis, self.sizes(), strict=True):
            until(lambda redis=redis, size=size: self._channels(redis) == size)

    @property
    def urls(self) -> list[str]:
        return [redis.url for redis in self.redis]

    def is_up(self) -> bool:
        return all(server.engine.state.up for server in self.servers)

    def topics(self, number: int, names: list[str] = TOPICS) -> list[str]:
        """Those of one engine."""
        return [name for name in names if shard_of(name, 2) == number]

    def sizes(self) -> list[int]:
        return [len(self.topics(number, TOPICS + KEPT)) for number in range(2)]

    def _channels(self, redis: RedisServer) -> int:
        with redis.commands() as ask:
            channels = ask("PUBSUB", "CHANNELS", "*room:*")
            channels += ask("PUBSUB", "CHANNELS", "*kept:*")
            counts = ask("PUBSUB", "NUMSUB", *channels)[1::2]
            return sum(count == 2 for count in counts)

    def expect(self, *messages: str) -> None:
        for client in self.clients:
            assert sorted(client.recv(DEADLINE) for _ in messages) == sorted(messages)


@pytest.fixture
def sites() -> Iterator[Sites]:
    with ExitStack() as stack:
        yield Sites(stack)


def test_topics_are_shared_among_the_engines(sites: Sites) -> None:
    for topic in TOPICS + KEPT:
        sites.clients[0].send(f"{topic} {topic}")
    sites.expect(*TOPICS, *KEPT)
    assert min(sites.sizes()) >= 4
    stats = sites.servers[1].stats()["engine"]
    assert stats["up"] == 1
    assert stats["received"] == 16
    assert stats["connects"]["start"] == 2
    sites.servers[0].broadcast("all")
    sites.expect("all")
    sites.servers[0].send_to("1", "you")
    assert sites.clients[1].recv(DEADLINE) == "you"
    until(lambda: len(sites.servers[0].cluster.nodes()) == 2)


@pytest.mark.parametrize("lost", [0, 1])
def test_loss_of_one_concerns_its_topics_alone(sites: Sites, lost: int) -> None:
    sites.redis[lost].kill()
    until(lambda: not any(server.engine.state.up for server in sites.servers))
    for server in sites.servers:
        assert sites.urls[lost] in server.engine.state.reason
        assert sites.urls[1 - lost] not in server.engine.state.reason
    others = sites.topics(1 - lost, TOPICS + KEPT)
    for topic in others:
        sites.clients[0].send(f"{topic} {topic}")
    sites.expect(*others)
    here = sites.topics(lost)[0]
    sites.clients[0].send(f"{here} here")  # to clients of this node alone
    assert sites.clients[0].recv(DEADLINE) == "here"
    sites.redis[lost].start()
    until(sites.is_up)
    own = set(sites.topics(lost))
    until(lambda: {topic for topic, _ in sites.rooms[1].gaps} >= own)
    told = {topic for topic, _ in sites.rooms[1].gaps}
    assert not told & set(others)
    assert [state.up for state in sites.states[-2:]] == [True, True]


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_publisher_finds_them(sites: Sites, kind: Any) -> None:
    with kind(sites.urls) as publisher:
        for topic in TOPICS + KEPT:
            assert publisher.publish(topic, topic) == 2
        sites.expect(*TOPICS, *KEPT)
        assert publisher.broadcast("all") == 2
        sites.expect("all")
        assert publisher.send_to("0", "you") == 1
        assert sites.clients[0].recv(DEADLINE) == "you"


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_wrong_lists_are_refused(kind: Any) -> None:
    for make in (kind, lambda urls: Server("", 0, engine=urls)):
        with pytest.raises(ValueError, match="one at least"):
            make([])
        with pytest.raises(ValueError, match="twice"):
            make(["redis://a", "redis://a"])
        with pytest.raises(TypeError, match="URL"):
            make([1])
