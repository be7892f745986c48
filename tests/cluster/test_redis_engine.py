"""The engine for Redis: on a fake transport, with either reader of replies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from simple_ws.cluster.engine_address import parse
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
        if name == b"SCRIPT":
            return bulk(hashlib.sha1(arguments[-1]).hexdigest().encode())
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


@pytest.fixture
def ready(redis: FakeRedis) -> FakeRedis:
    """One that is ready and has listened to `sws.t.a`; its first probe is answered."""
    redis.engine.subscribe(["sws.t.a"])
    redis.run()
    redis.take()
    redis.commands.clear()
    redis.events.clear()
    return redis


def failure(events: list[EngineEvent]) -> Failed:
    (event,) = events
    assert isinstance(event, Failed)
    return event


# Entering


def test_it_is_ready_and_subscribed(redis: FakeRedis) -> None:
    redis.engine.subscribe(["sws.t.a", "sws.t.b"])
    assert redis.run() == [Ready("Redis 7.0.15"), Subscribed()]
    assert {b"sws.t.a", b"sws.t.b"} < redis.channels
    assert redis.commands[0] == [b"HELLO", b"3"]


@pytest.mark.parametrize(
    ("options", "commands"),
    [
        ({"password": "p w"}, [[b"HELLO", b"3", b"AUTH", b"default", b"p w"]]),
        ({"username": "u"}, [[b"HELLO", b"3", b"AUTH", b"u", b""]]),
        (
            {"username": "u", "password": "p", "client_name": "web-1", "db": 2},
            [
                [b"HELLO", b"3", b"AUTH", b"u", b"p", b"SETNAME", b"web-1"],
                [b"SELECT", b"2"],
            ],
        ),
    ],
)
def test_credentials_name_and_db(options: Any, commands: list[list[bytes]]) -> None:
    redis = FakeRedis(RedisEngine(**options))
    redis.run()
    assert redis.commands[: len(commands)] == commands
    assert redis.events == [Ready("Redis 7.0.15"), Subscribed()]


def test_an_address_has_all_options() -> None:
    address = parse("redis://u:p@h/1?client_name=n&prefix=app")
    redis = FakeRedis(RedisEngine.from_address(address))
    redis.run()
    assert redis.commands[0][3:] == [b"u", b"p", b"SETNAME", b"n"]
    assert redis.commands[1] == [b"SELECT", b"1"]
    (probe,) = redis.channels
    assert probe.startswith(b"app.probe.")


@pytest.mark.parametrize(
    "options", [{"client_name": "a b"}, {"prefix": "a.b"}, {"db": -1}]
)
def test_options_that_cannot_be_used(options: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        RedisEngine(**options)


ENTRY_ERRORS = [
    (b"-WRONGPASS invalid username-password pair\r\n", True, "WRONGPASS"),
    (b"-NOAUTH HELLO must be called with the client authenticated\r\n", True, "NOAUTH"),
    (b"-NOPERM this user has no permissions\r\n", True, "NOPERM"),
    (b"-DENIED Redis is running in protected mode\r\n", True, "protected mode"),
    (b"-NOPROTO unsupported protocol version\r\n", True, "RESP3"),
    (b"-ERR unknown command 'HELLO', with args: '3' 'pw123'\r\n", True, "RESP3"),
    (b"-ERR unknown command `HELLO`, with args beginning with: \r\n", True, "RESP3"),
    (b"-ERR unsupported command `hello`\r\n", True, "no HELLO 3"),
    (b"-unsupported command 'hello'\r\n", True, "no HELLO 3"),
    (b"-invalid request\r\n", True, "no proxy"),
    (b"-ERR something about pw123\r\n", True, "about ***"),
    (b"-ERR max number of clients reached\r\n", False, "max number"),
    (b"-LOADING Redis is loading the dataset in memory\r\n", False, "LOADING"),
    (hello(role=b"replica"), False, "no master but a replica"),
    (hello(role=b"slave"), False, "no master but a slave"),
    (hello(mode=b"sentinel"), True, "Sentinel"),
    (b"+OK\r\n", False, "to HELLO"),
    (b"-ERR x\x1b[31m\r\n", True, "x\\x1b[31m"),
]


@pytest.mark.parametrize(
    ("answer", "permanent", "text"), ENTRY_ERRORS, ids=[e[2] for e in ENTRY_ERRORS]
)
def test_what_does_not_let_us_in(
    reader: Any, answer: bytes, permanent: bool, text: str
) -> None:
    redis = FakeRedis(RedisEngine(password="pw123", reader=reader))
    redis.instead[b"HELLO"] = answer
    event = failure(redis.run())
    assert event.permanent is permanent
    assert text in event.reason
    assert "pw123" not in event.reason
    assert redis.engine.deadline() is None
    assert redis.tick(100) == []
    assert redis.feed(hello()) == []


def test_a_db_that_is_not_there(reader: Any) -> None:
    redis = FakeRedis(RedisEngine(db=99, reader=reader))
    redis.instead[b"SELECT"] = b"-ERR DB index is out of range\r\n"
    assert failure(redis.run()) == Failed("ERR DB index is out of range", True)


def test_channels_that_are_forbidden(redis: FakeRedis) -> None:
    redis.instead[b"SUBSCRIBE"] = b"-NOPERM No permissions to access a channel\r\n"
    event = failure(redis.run())
    assert event.permanent
    assert "subscribe" in event.reason


def test_publishing_that_is_forbidden_altogether(redis: FakeRedis) -> None:
    redis.instead[b"PUBLISH"] = b"-NOPERM No permissions\r\n"
    event = failure(redis.run())
    assert event.permanent
    assert "publish" in event.reason


def test_publish_only(reader: Any) -> None:
    redis = FakeRedis(RedisEngine(publish_only=True, reader=reader))
    assert redis.run() == [Ready("Redis 7.0.15"), Subscribed()]
    redis.engine.publish("sws.t.a", b"one")
    assert redis.run() == [Accepted(0)]
    redis.now += 0.5
    redis.feed(b"")
    assert {command[0] for command in redis.commands} == {b"HELLO", b"PUBLISH"}


# Messages


def test_a_message_comes_back_and_is_accepted(ready: FakeRedis) -> None:
    ready.engine.publish("sws.t.a", b"one")
    ready.engine.publish("sws.t.b", b"two")
    assert ready.run() == [Delivered("sws.t.a", b"one"), Accepted(1), Accepted(0)]


def test_events_are_of_their_class(ready: FakeRedis) -> None:
    ready.engine.publish("sws.t.a", b"one")
    delivered, accepted = ready.run()
    assert type(delivered) is Delivered
    assert (delivered.channel, delivered.envelope) == ("sws.t.a", b"one")
    assert type(accepted) is Accepted


def test_every_name_of_a_channel_survives(ready: FakeRedis) -> None:
    names = ["sws.t.", "sws.t.\u00e9\U0001f600", "sws.t.\ud800", "sws.t.\r\n"]
    ready.engine.subscribe(names)
    ready.run()
    for name in names:
        ready.engine.publish(name, b"x")
    delivered = [event for event in ready.run() if isinstance(event, Delivered)]
    assert [event.channel for event in delivered] == names


def test_one_message_may_be_refused(ready: FakeRedis) -> None:
    ready.instead[b"PUBLISH"] = b"-NOPERM no channel\r\n"
    ready.engine.publish("sws.t.a", b"one")
    assert ready.run() == [Refused("NOPERM no channel")]
    del ready.instead[b"PUBLISH"]
    ready.engine.publish("sws.t.a", b"two")
    assert ready.run() == [Delivered("sws.t.a", b"two"), Accepted(1)]


@pytest.mark.parametrize("code", ["READONLY", "MASTERDOWN", "LOADING", "NOAUTH"])
def test_a_server_that_may_not_be_written_to(ready: FakeRedis, code: str) -> None:
    ready.instead[b"PUBLISH"] = f"-{code} text\r\n".encode()
    ready.engine.publish("sws.t.a", b"one")
    refused, failed = ready.run()  # it is sure that the message was not published
    assert (refused, failed.reason) == (Refused(f"{code} text"), f"{code} text")


def test_messages_of_other_channels_are_dropped(ready: FakeRedis) -> None:
    ready.engine.unsubscribe(["sws.t.a"])
    assert ready.run() == []
    assert ready.feed(message(b"sws.t.a", b"x") + message(b"sws.t.z", b"x")) == []


def test_a_message_before_the_end_of_its_subscription_is_delivered(
    ready: FakeRedis,
) -> None:
    ready.engine.publish("sws.t.a", b"one")
    ready.engine.unsubscribe(["sws.t.a"])
    assert not ready.engine.receives("sws.t.a")
    assert ready.run() == [Delivered("sws.t.a", b"one"), Accepted(1)]


def test_pushes_inside_aggregates_disturb_no_reply(ready: FakeRedis) -> None:
    for body in (b"one", b"two"):
        ready.engine.publish("sws.t.b", body)
    ready.take()
    # A server would not answer PUBLISH with an array: it is the array that fails.
    data = b":1\r\n" + message(b"sws.t.a", b"x")
    assert ready.feed(data) == [Accepted(1), Delivered("sws.t.a", b"x")]
    events = ready.feed(b"*2\r\n:1\r\n" + message(b"sws.t.a", b"y") + b":2\r\n")
    assert events[0] == Delivered("sws.t.a", b"y")
    assert "a list to PUBLISH" in failure(events[1:]).reason


def test_pushes_of_other_kinds_are_ignored(ready: FakeRedis) -> None:
    data = b">2\r\n+invalidate\r\n*1\r\n+k\r\n>0\r\n>3\r\n+message\r\n:1\r\n_\r\n"
    data += b">3\r\n+subscribe\r\n+other\r\n:1\r\n>3\r\n+x\r\n*0\r\n+y\r\n"
    data += b">3\r\n*0\r\n+x\r\n+y\r\n>3\r\n+message\r\n+sws.t.a\r\n:1\r\n"
    assert ready.feed(data) == []
    ready.engine.publish("sws.t.b", b"x")
    assert ready.run() == [Accepted(0)]


def test_a_reply_without_a_command(ready: FakeRedis) -> None:
    assert "without a command" in failure(ready.feed(b":1\r\n")).reason


def test_what_came_before_garbage_is_delivered(ready: FakeRedis) -> None:
    events = ready.feed(message(b"sws.t.a", b"x") + b"garbage\r\n")
    assert events[0] == Delivered("sws.t.a", b"x")
    assert "not RESP3" in failure(events[1:]).reason


def test_nothing_comes_after_a_failure(ready: FakeRedis) -> None:
    data = b":1\r\n" + message(b"sws.t.a", b"x")
    failure(ready.feed(data))
    assert ready.feed(message(b"sws.t.a", b"x")) == []
    ready.engine.publish("sws.t.a", b"x")
    ready.engine.subscribe(["sws.t.b"])


# Subscriptions


def test_subscribing_and_publishing_at_once(ready: FakeRedis) -> None:
    ready.engine.subscribe(["sws.t.b"])
    assert ready.engine.receives("sws.t.b")
    ready.engine.publish("sws.t.b", b"x")
    events = ready.run()
    assert events == [Subscribed(), Delivered("sws.t.b", b"x"), Accepted(1)]


def test_changes_of_one_call_are_one_command(ready: FakeRedis) -> None:
    names = [f"sws.t.{i}" for i in range(512)]
    ready.engine.subscribe(names)
    assert ready.take() == [[b"SUBSCRIBE", *(name.encode() for name in names)]]
    assert ready.engine.channels == 513


def test_ten_thousand_channels_are_subscribed_to_in_windows(reader: Any) -> None:
    engine = RedisEngine(reader=reader)
    names = [f"sws.t.{i}" for i in range(10_000)]
    engine.subscribe(names)
    for _ in range(2):  # the second time it is a resubscription
        redis = FakeRedis(engine)
        batches, confirmed = [], 0
        while commands := redis.take():
            for command in commands:
                if command[0] == b"SUBSCRIBE":
                    batches.append(command[1:])
                    assert sum(map(len, batches)) - confirmed <= 512
                answer = redis.answer(command)
                redis.feed(answer[:700])
                redis.feed(answer[700:])
                confirmed = len(redis.channels)
        assert redis.events == [Ready("Redis 7.0.15"), Subscribed()]
        assert len(batches) <= 21
        assert {name.encode() for name in names} < redis.channels
        assert all(map(engine.receives, names))
        engine.disconnected()
        assert not engine.receives(names[0])


def test_what_waits_for_the_window_is_not_received(ready: FakeRedis) -> None:
    ready.engine.subscribe([f"sws.t.{i}" for i in range(600)])
    assert ready.engine.receives("sws.t.511")
    assert not ready.engine.receives("sws.t.512")
    assert ready.run() == [Subscribed()]
    assert ready.engine.receives("sws.t.512")


def test_many_changes_of_one_channel(ready: FakeRedis) -> None:
    ready.engine.subscribe([f"sws.t.{i}" for i in range(512)])
    ready.take()  # the window is full
    for _ in range(1000):
        ready.engine.subscribe(["sws.t.x"])
        ready.engine.unsubscribe(["sws.t.x", "sws.t.a"])
        ready.engine.subscribe(["sws.t.a"])
    assert ready.take() == []
    ready.feed(
        b"".join(ready.change(b"SUBSCRIBE", b"sws.t.%d" % i) for i in range(512))
    )
    assert ready.take() == []
    ready.engine.publish("sws.t.a", b"x")
    assert ready.run() == [Delivered("sws.t.a", b"x"), Accepted(1)]


def test_subscribed_again_before_the_end_is_confirmed(ready: FakeRedis) -> None:
    ready.engine.unsubscribe(["sws.t.a"])
    ready.engine.subscribe(["sws.t.a"])
    assert [command[0] for command in ready.take()] == [b"UNSUBSCRIBE", b"SUBSCRIBE"]
    ready.feed(ready.change(b"UNSUBSCRIBE", b"sws.t.a"))
    ready.feed(ready.change(b"SUBSCRIBE", b"sws.t.a"))
    ready.engine.publish("sws.t.a", b"x")
    assert ready.run() == [Delivered("sws.t.a", b"x"), Accepted(1)]


def test_a_message_between_two_ends_of_a_subscription_comes_back(
    ready: FakeRedis,
) -> None:
    ready.engine.unsubscribe(["sws.t.a"])
    ready.engine.subscribe(["sws.t.a"])
    ready.engine.publish("sws.t.a", b"x")
    ready.engine.unsubscribe(["sws.t.a"])
    assert Delivered("sws.t.a", b"x") in ready.run()
    assert ready.feed(message(b"sws.t.a", b"y")) == []


def test_the_same_while_the_second_end_waits_for_the_window(ready: FakeRedis) -> None:
    ready.engine.unsubscribe(["sws.t.a"])
    ready.engine.subscribe(["sws.t.a"])
    ready.engine.publish("sws.t.a", b"x")
    ready.engine.subscribe([f"sws.t.{i}" for i in range(600)])
    ready.engine.unsubscribe(["sws.t.a"])
    assert Delivered("sws.t.a", b"x") in ready.run()
    assert ready.feed(message(b"sws.t.a", b"y")) == []


def test_wanted_for_a_moment_while_the_end_is_not_confirmed(ready: FakeRedis) -> None:
    ready.engine.publish("sws.t.a", b"x")
    ready.engine.unsubscribe(["sws.t.a"])
    ready.engine.subscribe([f"sws.t.{i}" for i in range(600)])  # the window is full
    ready.engine.subscribe(["sws.t.a"])
    ready.engine.unsubscribe(["sws.t.a"])
    assert Delivered("sws.t.a", b"x") in ready.run()
    assert ready.feed(message(b"sws.t.a", b"y")) == []


names = st.lists(st.integers(0, 700).map(lambda i: f"sws.t.{i}"), max_size=3)
changes = st.one_of(
    st.tuples(st.sampled_from(["subscribe", "unsubscribe", "publish"]), names),
    st.just(("subscribe", [f"sws.t.{i}" for i in range(600)])),
    st.just(("unsubscribe", [f"sws.t.{i}" for i in range(3, 590)])),
    st.tuples(st.just("answer"), st.integers(1, 3)),
)


@given(st.lists(changes, max_size=20))
def test_any_changes_end_with_what_is_wanted(steps: list[tuple[str, Any]]) -> None:
    redis = FakeRedis(RedisEngine())
    redis.run()
    wanted: set[str] = set()
    back = 0
    waiting: list[list[bytes]] = []
    for step, value in steps:
        if step == "answer":
            waiting += redis.take()
            redis.feed(b"".join(map(redis.answer, waiting[:value])))
            del waiting[:value]
            continue
        for name in value if step == "publish" else ():
            back += redis.engine.receives(name)
            redis.engine.publish(name, b"x")
        if step != "publish":
            getattr(redis.engine, step)(value)
            wanted = wanted | set(value) if step == "subscribe" else wanted - {*value}
    redis.feed(b"".join(map(redis.answer, waiting)))
    redis.run()
    channels = {name.decode() for name in redis.channels}
    assert {name for name in channels if not name.startswith("sws.probe")} == wanted
    assert all(map(redis.engine.receives, wanted))
    delivered = [event for event in redis.events if isinstance(event, Delivered)]
    assert len(delivered) >= back  # what was to come back has come back
    assert len(redis.engine._names) == len(wanted)


def test_known_and_unknown_channels_change_nothing(ready: FakeRedis) -> None:
    ready.engine.subscribe(["sws.t.a"])
    ready.engine.unsubscribe(["sws.t.z"])
    assert ready.take() == []
    assert ready.engine.channels == 1


def test_a_subscription_that_the_server_ends_is_begun_again(ready: FakeRedis) -> None:
    ready.feed(ready.change(b"UNSUBSCRIBE", b"sws.t.a"))
    assert ready.take() == [[b"SUBSCRIBE", b"sws.t.a"]]


def test_a_probe_channel_that_the_server_ends_is_a_failure(ready: FakeRedis) -> None:
    (probe,) = ready.channels - {b"sws.t.a"}
    failure(ready.feed(ready.change(b"UNSUBSCRIBE", probe)))


def test_a_reply_to_a_subscription(ready: FakeRedis) -> None:
    ready.engine.subscribe(["sws.t.b"])
    assert "to SUBSCRIBE" in failure(ready.feed(b"+OK\r\n")).reason


def test_new_channels_do_not_delay_the_first_subscribed(redis: FakeRedis) -> None:
    redis.engine.subscribe(["sws.t.a"])
    number = 0
    while Subscribed() not in redis.events:
        for command in redis.take():
            redis.feed(redis.answer(command))
            number += 1
            redis.engine.subscribe([f"sws.t.{number}"])
        assert number < 10


def test_a_channel_left_before_it_was_subscribed_to(redis: FakeRedis) -> None:
    redis.engine.subscribe(["sws.t.a", "sws.t.b"])
    redis.engine.unsubscribe(["sws.t.b"])
    assert redis.run() == [Ready("Redis 7.0.15"), Subscribed()]
    assert b"sws.t.b" not in redis.channels


def test_the_next_connection_knows_nothing_of_the_last(ready: FakeRedis) -> None:
    ready.engine.publish("sws.t.a", b"one")
    ready.feed(b">3\r\n$7\r\nmess")
    ready.engine.disconnected()
    assert ready.engine.size == 0
    assert ready.engine.deadline() is None
    assert ready.engine.receive(b":1\r\n", 0.0) == []
    again = FakeRedis(ready.engine)
    assert again.run() == [Ready("Redis 7.0.15"), Subscribed()]
    assert b"sws.t.a" in again.channels


def test_size_is_what_is_taken(ready: FakeRedis) -> None:
    ready.engine.publish("sws.t.a", b"one")
    ready.engine.publish("sws.t.a", b"two")
    size = ready.engine.size
    assert size == len(ready.engine.take_output()) > 0
    assert ready.engine.size == 0
    assert ready.engine.take_output() == b""


# Liveness


def test_silence_is_asked_and_then_the_end(ready: FakeRedis) -> None:
    assert ready.tick(0.9) == []
    assert ready.tick(0.2) == []
    assert ready.take() == [[b"PING"]]
    assert ready.tick(1.8) == []
    event = failure(ready.tick(0.3))
    assert event == Failed("there was no sign of life for 3 s")


def test_any_byte_is_a_sign_of_life(ready: FakeRedis) -> None:
    for _ in range(4):
        ready.tick(1.0)
        assert ready.take() == [[b"PING"]]
        ready.tick(1.5)
        assert ready.feed(b"+") == []
        ready.feed(b"PONG\r\n")


def test_a_server_that_never_says_hello(redis: FakeRedis) -> None:
    assert redis.tick(2.9) == []
    assert "no sign of life" in failure(redis.tick(0.2)).reason


def test_a_late_loop_is_not_a_silent_server(ready: FakeRedis) -> None:
    ready.tick(1.0)
    ready.take()
    ready.now += 5.0
    assert ready.engine.tick(ready.now) == []
    assert ready.feed(b"+PONG\r\n") == []
    assert ready.tick(1.0) == []


def test_a_late_loop_is_not_a_deaf_server(ready: FakeRedis) -> None:
    ready.channels.clear()
    assert live(ready, 10.5) == []  # the probe is accepted, and does not come
    ready.now += 5.0
    ready.feed(b"+")
    assert ready.engine.tick(ready.now) == []


def test_wrong_answers_to_a_probe(ready: FakeRedis) -> None:
    ready.instead[b"PUBLISH"] = b"+OK\r\n"
    assert "to PUBLISH" in failure(live(ready, 20)).reason


def test_an_error_to_the_question_for_the_role(ready: FakeRedis) -> None:
    ready.instead[b"HELLO"] = b"-LOADING x\r\n"
    assert failure(live(ready, 20)) == Failed("LOADING x")


def test_an_error_to_ping(ready: FakeRedis) -> None:
    ready.instead[b"PING"] = b"-NOPERM no ping\r\n"
    ready.tick(1.0)
    assert failure(ready.run()).permanent


def live(redis: FakeRedis, seconds: float) -> list[EngineEvent]:
    """Let time pass while the server answers; end at a failure."""
    end = redis.now + seconds
    events: list[EngineEvent] = []
    while redis.now < end and not any(isinstance(e, Failed) for e in events):
        events += redis.tick(end - redis.now)
        events += redis.run()
    return events


def test_probes_go_through_the_publish_path(ready: FakeRedis) -> None:
    before = ready.engine.round_trip
    assert before is not None
    assert live(ready, 35) == []
    probes = [command for command in ready.commands if command[0] == b"PUBLISH"]
    assert len(probes) == 3
    assert len({body for _, _, body in probes}) == 3
    assert all(channel.startswith(b"sws.probe.") for _, channel, _ in probes)


def test_the_round_trip_is_measured(ready: FakeRedis) -> None:
    while not any(command[0] == b"PUBLISH" for command in ready.commands):
        ready.tick(20)
        commands = ready.take()
        ready.now += 0.25
        ready.feed(b"".join(map(ready.answer, commands)))
    assert ready.engine.round_trip == pytest.approx(0.25)


def test_a_deaf_subscription_is_noticed(ready: FakeRedis) -> None:
    ready.channels.clear()
    start = ready.now
    assert "deaf" in failure(live(ready, 60)).reason
    assert ready.now - start <= 13.1


@pytest.mark.parametrize("push_first", [True, False])
def test_a_probe_may_come_before_its_reply_or_after(
    ready: FakeRedis, push_first: bool
) -> None:
    """Redis 7.2 pushes it after the reply, the versions before it otherwise."""

    def publish(channel: bytes, body: bytes) -> bytes:
        parts = [message(channel, body), b":1\r\n"]
        return b"".join(parts if push_first else parts[::-1])

    ready.publish = publish  # type: ignore[method-assign]
    assert live(ready, 30) == []


def test_a_server_that_pushes_but_takes_no_commands(ready: FakeRedis) -> None:
    start = ready.now
    events: list[EngineEvent] = []
    while not any(isinstance(event, Failed) for event in events):
        ready.now += 0.5
        events = ready.engine.tick(ready.now)
        ready.feed(message(b"sws.t.a", b"x"))
        assert ready.now - start < 30
    assert "did not answer" in failure(events).reason
    assert ready.now - start <= 20.5


def test_a_lag_is_not_deafness(ready: FakeRedis) -> None:
    """A probe behind much that was published before comes late."""
    ready.now += 9.9
    ready.feed(message(b"sws.t.a", b"x"))
    ready.now += 0.2
    assert ready.engine.tick(ready.now) == []
    commands = ready.take()
    for _ in range(14):
        ready.now += 0.5
        ready.feed(message(b"sws.t.a", b"x"))
        assert ready.engine.tick(ready.now) == []
    assert ready.feed(b"".join(map(ready.answer, commands))) == []
    assert ready.engine.round_trip == pytest.approx(7.0)


def test_a_master_that_becomes_a_replica_is_noticed(ready: FakeRedis) -> None:
    ready.instead[b"HELLO"] = hello(role=b"replica")
    start = ready.now
    assert "replica" in failure(live(ready, 60)).reason
    assert ready.now - start <= 11


# Anything


cuts = st.lists(st.integers(0, 4000), max_size=8)


@pytest.mark.parametrize("reader_class", READERS)
@given(cuts=cuts)
def test_cuts_change_nothing(reader_class: Any, cuts: list[int]) -> None:
    whole = FakeRedis(RedisEngine(reader=reader_class))
    parts = FakeRedis(RedisEngine(reader=reader_class))
    for redis in (whole, parts):
        redis.engine.subscribe(["sws.t.a", "sws.t.b"])
        redis.run()
        for i in range(9):
            redis.engine.publish(f"sws.t.{'abc'[i % 3]}", b"%d\r\n" % i)
    data = b"".join(map(whole.answer, whole.take()))
    ends = sorted({cut % (len(data) + 1) for cut in cuts})
    whole.feed(data)
    for start, end in zip([0, *ends], [*ends, len(data)], strict=True):
        parts.feed(data[start:end])
    assert parts.events == whole.events


def test_byte_by_byte(redis: FakeRedis) -> None:
    redis.engine.subscribe(["sws.t.a"])
    while commands := redis.take():
        for byte in b"".join(map(redis.answer, commands)):
            redis.feed(bytes([byte]))
    assert redis.events == [Ready("Redis 7.0.15"), Subscribed()]


_LINES = (
    b"$ \r\n \xff >3\r\n *3\r\n %1\r\n :1\r\n _\r\n *0\r\n #t\r\n +OK\r\n +PONG\r\n "
    b"-NOPERM\r\n -READONLY\r\n $7\r\nmessage\r\n $7\r\nsws.t.a\r\n "
    b"$9\r\nsubscribe\r\n $11\r\nunsubscribe\r\n"
)
pieces = st.sampled_from(
    [*_LINES.split(b" "), hello(), message(b"sws.t.a", b"x")],
)
steps = st.one_of(
    st.binary(),
    st.lists(pieces, max_size=8).map(b"".join),
    st.sampled_from(["tick", "take", "publish", "subscribe", "unsubscribe", "again"]),
    st.just("answer"),
)


@pytest.mark.parametrize("reader_class", READERS)
@given(steps=st.lists(steps, max_size=12))
def test_nothing_raises_and_a_failure_is_the_last_event(
    reader_class: Any, steps: list[bytes | str]
) -> None:
    redis = FakeRedis(RedisEngine(reader=reader_class))
    engine = redis.engine
    do: dict[str, Callable[[], object]] = {
        "tick": lambda: redis.tick(3),
        "take": redis.take,
        "publish": lambda: engine.publish("sws.t.a", b"x"),
        "subscribe": lambda: engine.subscribe(["sws.t.a", "sws.t.b"]),
        "unsubscribe": lambda: engine.unsubscribe(["sws.t.a"]),
        "again": lambda: (engine.disconnected(), engine.connected(redis.now)),
        "answer": redis.run,
    }
    for step in steps:
        if step == "again":
            redis.events.clear()
            redis._requests = resp.PythonReader()
        if isinstance(step, bytes):
            redis.feed(step)
        else:
            do[step]()
        failures = [event for event in redis.events if isinstance(event, Failed)]
        assert failures == redis.events[len(redis.events) - len(failures) :]
        assert len(failures) <= 1
    assert isinstance(repr(engine), str)
