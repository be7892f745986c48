"""The engine for Redis: on a fake transport, with either reader of replies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from simple_ws.cluster import resp
from simple_ws.cluster.engine import (
    Accepted,
    Delivered,
    EngineEvent,
    Failed,
    Ready,
    Refused,
    Subscribed,
)
from simple_ws.cluster.redis_engine import RedisEngine

pytestmark = pytest.mark.one_backend

READERS = [resp.PythonReader]
if resp._hiredis is not None:
    READERS.append(resp.HiredisReader)  # type: ignore[arg-type]


@pytest.fixture(params=READERS, ids=lambda reader: reader.__name__)
def reader(request: pytest.FixtureRequest) -> Callable[[], resp.ReplyReader]:
    """The class of a reader."""
    return request.param


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


def hello(role: bytes = b"master", mode: bytes = b"standalone") -> bytes:
    fields = {b"server": b"redis", b"version": b"7.0.15", b"mode": mode, b"role": role}
    pairs = b"".join(bulk(key) + bulk(value) for key, value in fields.items())
    return b"%%6\r\n%b$5\r\nproto\r\n:3\r\n$7\r\nmodules\r\n*0\r\n" % pairs


def message(channel: bytes, body: bytes) -> bytes:
    return b">3\r\n" + bulk(b"message") + bulk(channel) + bulk(body)


class FakeRedis:
    """Answers commands as Redis does, to one engine, with a clock that is set."""

    def __init__(self, engine: RedisEngine) -> None:
        self.engine = engine
        self.now = 100.0
        self.commands: list[list[bytes]] = []
        self.channels: set[bytes] = set()
        self.events: list[EngineEvent] = []
        #: Answers instead of the usual ones, by command.
        self.instead: dict[bytes, bytes] = {}
        self._requests = resp.PythonReader()
        engine.connected(self.now)

    def take(self) -> list[list[bytes]]:
        """The commands that the engine has sent since."""
        commands = self._requests.receive(self.engine.take_output())
        self.commands += commands
        return commands

    def feed(self, data: bytes) -> list[EngineEvent]:
        events = self.engine.receive(data, self.now)
        self.events += events
        return events

    def answer(self, command: list[bytes]) -> bytes:
        name, *arguments = command
        if name in self.instead:
            return self.instead[name]
        if name == b"HELLO":
            return hello()
        if name == b"PING":
            return b"+PONG\r\n"
        if name == b"PUBLISH":
            return self.publish(*arguments)
        if name in (b"SUBSCRIBE", b"UNSUBSCRIBE"):
            return b"".join(self.change(name, channel) for channel in arguments)
        return b"+OK\r\n"

    def publish(self, channel: bytes, body: bytes) -> bytes:
        here = channel in self.channels
        return (message(channel, body) if here else b"") + b":%d\r\n" % here

    def change(self, name: bytes, channel: bytes) -> bytes:
        getattr(self.channels, "add" if name == b"SUBSCRIBE" else "discard")(channel)
        head = b">3\r\n" + bulk(name.lower()) + bulk(channel)
        return head + b":%d\r\n" % len(self.channels)

    def run(self) -> list[EngineEvent]:
        """Answer until the engine sends nothing more."""
        events: list[EngineEvent] = []
        while commands := self.take():
            events += self.feed(b"".join(map(self.answer, commands)))
        return events

    def tick(self, seconds: float) -> list[EngineEvent]:
        """Let time pass, in the steps that the engine asks for."""
        end = self.now + seconds
        events: list[EngineEvent] = []
        while (due := self.engine.deadline()) is not None and due <= end:
            self.now = max(due, self.now)
            events += self.engine.tick(self.now)
            if self.engine.size:
                break
        else:
            self.now = end
        self.events += events
        return events


@pytest.fixture
def redis(reader: Any) -> FakeRedis:
    return FakeRedis(RedisEngine(reader=reader))


def test_it_is_ready_and_subscribed(redis: FakeRedis) -> None:
    redis.engine.subscribe(["sws.t.a", "sws.t.b"])
    assert redis.run() == [Ready("Redis 7.0.15"), Subscribed()]
    assert {b"sws.t.a", b"sws.t.b"} < redis.channels
    assert redis.commands[0] == [b"HELLO", b"3"]


def test_a_message_comes_back_and_is_accepted(redis: FakeRedis) -> None:
    redis.engine.subscribe(["sws.t.a"])
    redis.run()
    redis.engine.publish("sws.t.a", b"one")
    redis.engine.publish("sws.t.b", b"two")
    assert redis.run() == [Delivered("sws.t.a", b"one"), Accepted(1), Accepted(0)]


def test_one_message_may_be_refused(redis: FakeRedis) -> None:
    redis.run()
    redis.instead[b"PUBLISH"] = b"-NOPERM no channel\r\n"
    redis.engine.publish("sws.t.a", b"one")
    assert redis.run() == [Refused("NOPERM no channel")]


def test_malformed_replies_fail_and_never_raise(redis: FakeRedis) -> None:
    (event,) = redis.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert isinstance(event, Failed)
    assert "RESP3" in event.reason
