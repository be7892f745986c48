"""Topics with history in one process: what is missed comes first, once, in order."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from harness import DEADLINE

from simple_ws import FirstMessageAuth, InvalidState, Middleware, Server, WebSocket
from simple_ws.server.engine import EngineHost
from simple_ws.testing import TestServer


class Room(WebSocket):
    """Each client subscribes with what its query says; and notes how it joined."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.joins: list[Any] = []
        self.entered: list[bool] = []

    def on_open(self, client: Any) -> None:
        since = client.query.get("since")
        topic = client.query.get("topic", "room")
        if since is not None and since.startswith("int:"):
            since = int(since[4:])
        self.entered.append(client.subscribe(topic, since=since))

    def on_join(self, client: Any, topic: str, join: Any) -> None:
        self.joins.append(join)
        client.write_message({"topic": topic, "position": join.position})


def make(options: dict[str, Any] | None = None, **rule: Any) -> tuple[Server, Room]:
    server, room = Server("", 0, **(options or {})), Room()
    rule.setdefault("history", 5)
    server.topic("room*", **rule)
    server.mount("/", room)
    return server, room


def texts(client: Any) -> list[str]:
    """What has come, without what `on_join` wrote."""
    messages = [client.recv() for _ in client.messages]
    return [text for text in messages if "position" not in text]


def test_what_was_missed_comes_first_and_once() -> None:
    server, room = make()
    with TestServer(server) as test:
        ann = test.connect("/")
        server.publish("room", "1")
        server.publish("room", "2")
        position = room.joins[0].position
        ann.close()
        server.publish("room", "3")
        ben = test.connect(f"/?since={position}")
        server.publish("room", "4")
        assert texts(ben) == ["1", "2", "3", "4"]
    first, second = room.joins
    assert (first.recovered, first.gap) == (0, 0)
    assert (second.recovered, second.gap) == (3, 0)
    epoch, offset, tag = second.position.split(":")
    assert first.position.startswith(f"{epoch}:0:")
    assert offset == "3"
    assert len(tag) == 4


def test_join_is_told_between_missed_and_live_messages() -> None:
    server, _ = make()
    with TestServer(server) as test:
        server.publish("room", "1")
        ann = test.connect("/?since=all")
        server.publish("room", "2")
        first, joined, second = [ann.recv() for _ in ann.messages]
        assert (first, second) == ("1", "2")
        assert "position" in joined


@pytest.mark.parametrize(
    ("since", "expected", "gap"),
    [
        ("", [], 0),
        ("all", ["4", "5", "6", "7", "8"], 0),
        ("int:2", ["7", "8"], 0),
        ("int:0", [], 0),
        ("int:99999999999999999999", ["4", "5", "6", "7", "8"], 0),
        ("int:-1", ["4", "5", "6", "7", "8"], None),
        ("EPOCH:5", ["6", "7", "8"], 0),
        ("EPOCH:8", [], 0),
        ("EPOCH:3", ["4", "5", "6", "7", "8"], 0),
        ("EPOCH:1", ["4", "5", "6", "7", "8"], 2),
        ("EPOCH:9", ["4", "5", "6", "7", "8"], None),
        ("EPOCH:99999999999999999999", ["4", "5", "6", "7", "8"], None),
        ("EPOCH:6:ffff", ["4", "5", "6", "7", "8"], None),
        ("00000000:6:", ["4", "5", "6", "7", "8"], None),
        ("%F0%9F%98%80", ["4", "5", "6", "7", "8"], None),
        ("nonsense" * 100, ["4", "5", "6", "7", "8"], None),
        ("EPOCH:%D9%A3", ["4", "5", "6", "7", "8"], None),
    ],
)
def test_since(since: str, expected: list[str], gap: int | None) -> None:
    server, room = make()
    with TestServer(server) as test:
        for number in range(1, 9):
            server.publish("room", str(number))
        test.connect("/?since=int:0")
        epoch = room.joins[0].position.partition(":")[0]
        query = f"?since={since.replace('EPOCH', epoch)}" if since else ""
        ann = test.connect(f"/{query}")
        assert texts(ann) == expected
        ann.assert_open()
        assert room.joins[1].gap == gap
        assert room.joins[1].recovered == len(expected)


def test_position_of_another_topic_is_a_gap() -> None:
    server, room = make()
    with TestServer(server) as test:
        server.publish("room", "1")
        server.publish("room2", "2")
        test.connect("/?topic=room2&since=all")
        ann = test.connect(f"/?since={room.joins[0].position}")
        assert texts(ann) == ["1"]
        assert room.joins[1].gap is None


def test_topic_without_history() -> None:
    server, room = make()
    with TestServer(server) as test:
        ann = test.connect("/?topic=other&since=all")
        server.publish("other", "1")
        assert texts(ann) == ["1"]
        assert room.joins == [("", 0, None)]
        test.connect("/?topic=other")
        assert len(room.joins) == 1


def test_messages_expire() -> None:
    server, room = make(keep=60)
    with TestServer(server) as test:
        server.publish("room", "1")
        test.advance(30)
        server.publish("room", "2")
        test.advance(31)
        ann = test.connect("/?since=all")
        assert texts(ann) == ["2"]
        epoch = room.joins[0].position.partition(":")[0]
        test.advance(31)
        ben = test.connect(f"/?since={epoch}:0")
        assert texts(ben) == []
        assert room.joins[1] == (room.joins[0].position, 0, 2)


def test_empty_topic_that_nobody_used_for_long_is_forgotten() -> None:
    server, room = make(keep=60)
    with TestServer(server) as test:
        ann = test.connect("/")
        test.advance(4000)
        assert len(server._histories._local) == 1
        ann.close()
        test.advance(4000)
        assert len(server._histories._local) == 0
        ben = test.connect(f"/?since={room.joins[0].position}")
        ben.assert_open()
        assert room.joins[1].gap is None


def test_topics_that_strangers_name_are_forgotten_if_there_are_many() -> None:
    server, _ = make()
    with TestServer(server) as test:
        server.publish("room0", "kept")
        ann = test.connect("/?topic=room1")
        ben = test.connect("/?topic=room2")
        (_, client) = server.clients
        for number in range(2_000):
            client.subscribe(f"room:{number}", since="all")
            client.unsubscribe(f"room:{number}")
        test.advance(31)
        local = server._histories._local
        assert len(local) == 1_000 + 3
        assert "room:1999" in local._topics
        assert "room:0" not in local._topics
        ann.assert_open()
        ben.assert_open()


def test_slow_client_is_sent_no_more_than_it_takes_and_misses_nothing() -> None:
    server, room = make(history=400)
    room.write_limit = 20_000
    with TestServer(server) as test:
        body = "x" * 1000
        for number in range(300):
            server.publish("room", f"{number} {body}")
        ann = test.connect("/")
        client = ann.client
        ann.stall()
        ben = server.clients
        server.subscribe("room", client, since="all")
        test.settle()
        assert client in ben
        assert client.buffered_amount < 20_000
        assert len(room.joins) == 1
        for number in range(300, 350):
            server.publish("room", f"{number} {body}")
        ann.resume()
        test.settle()
        numbers = [int(text.split()[0]) for text in texts(ann)]
        assert numbers == list(range(350))
        assert room.joins[1].recovered == 350
        assert room.joins[1].gap == 0
        server.publish("room", "live")
        assert texts(ann) == ["live"]


def test_slow_client_that_is_overtaken_is_told_the_gap() -> None:
    server, room = make(history=100)
    room.write_limit = 50_000
    with TestServer(server) as test:
        body = "x" * 10_000
        for number in range(100):
            server.publish("room", f"{number} {body}")
        ann = test.connect("/")
        ann.stall()
        server.subscribe("room", ann.client, since="all")
        test.settle()
        for number in range(100, 400):
            server.publish("room", f"{number} {body}")
        ann.resume()
        test.settle()
        numbers = [int(text.split()[0]) for text in texts(ann)]
        begun = next(i for i, number in enumerate(numbers) if number != i)
        assert numbers[begun:] == list(range(300, 400))
        assert room.joins[1].gap == 300 - begun
        assert room.joins[1].recovered == len(numbers)


def test_unsubscribed_while_it_joins() -> None:
    server, room = make(history=400)
    room.write_limit = 50_000
    with TestServer(server) as test:
        for number in range(300):
            server.publish("room", f"{number}" + "x" * 10_000)
        ann = test.connect("/?topic=other")
        client = ann.client
        ann.stall()
        server.subscribe("room", client, since="all")
        test.settle()
        assert client.topics == {"room", "other"}
        assert server.count("room") == 0
        client.unsubscribe("room")
        assert client.topics == {"other"}
        ann.resume()
        test.settle()
        assert room.joins == []
        assert len(texts(ann)) < 100
        assert server._histories.joins.count("room") == 0


def test_client_that_leaves_while_it_joins_leaves_nothing() -> None:
    server, room = make(history=400)
    room.write_limit = 50_000
    with TestServer(server) as test:
        for number in range(300):
            server.publish("room", f"{number}" + "x" * 10_000)
        ann = test.connect("/?topic=other")
        ann.stall()
        server.subscribe("room", ann.client, since="all")
        ann.cut()
        test.settle()
        assert room.joins == []
        assert not server._histories.joins._joining
        assert not server._histories.joins._counts


def test_message_with_a_key_is_published_once() -> None:
    server, _ = make()
    with TestServer(server) as test:
        ann = test.connect("/")
        assert server.publish("room", "1", key="a") == 1
        assert server.publish("room", "1 again", key="a") == 0
        assert ann.client.publish("room", "2", key="b") == 0
        assert ann.client.publish("room", "2 again", key="b") == 0
        assert texts(ann) == ["1"]
        ben = test.connect("/?since=all")
        assert texts(ben) == ["1", "2"]
        for number in range(3, 7):
            server.publish("room", str(number))
        assert server.publish("room", "new", key="a") == 2  # it has left the history
        assert server.publish("room", "no", key="b") == 2


@pytest.mark.parametrize(
    ("key", "error", "text"),
    [
        (7, TypeError, "key must be a str or None, not 7"),
        ("", ValueError, "key must have 1 to 256 characters, not 0"),
        ("x" * 257, ValueError, "key must have 1 to 256 characters, not 257"),
    ],
)
def test_wrong_key(key: Any, error: Any, text: str) -> None:
    server, _ = make()
    with pytest.raises(error, match=text):
        server.publish("room", "1", key=key)


def test_key_for_a_topic_without_history() -> None:
    server, _ = make()
    with pytest.raises(ValueError, match="'other' has none"):
        server.publish("other", "1", key="a")


@pytest.mark.parametrize("msg", [None, 5, {1, 2}, {"a": {1}}, "\ud800", [float("nan")]])
def test_what_cannot_be_kept_is_an_error_at_publish(msg: Any) -> None:
    server, _ = make()
    with TestServer(server) as test:
        ann = test.connect("/")
        with pytest.raises((TypeError, ValueError)):
            server.publish("room", msg)
        ben = test.connect("/?since=all")
        assert texts(ann) == texts(ben) == []


def test_all_kinds_of_messages_survive() -> None:
    server, _ = make()
    messages = ["a\u00e9\U0001f600", b"\0\xff", bytearray(b"x"), {"a": 1}, []]
    with TestServer(server) as test:
        for message in messages:
            server.publish("room", message)
        ann = test.connect("/?since=all")
        got = [ann.recv() for _ in ann.messages]
    assert got[:5] == ["a\u00e9\U0001f600", b"\0\xff", b"x", '{"a":1}', "[]"]


def test_excluded_and_local_messages() -> None:
    server, _ = make()
    with TestServer(server) as test:
        ann, ben = test.connect("/"), test.connect("/")
        server.publish("room", "1", exclude=[ann.client])
        server.publish("room", "2", local=True)
        assert texts(ann) == ["2"]
        assert texts(ben) == ["1", "2"]
        cat = test.connect("/?since=all")
        assert texts(cat) == ["1"]  # what is local is not kept


def test_full_topic() -> None:
    server, room = make(max_subscribers=2)
    with TestServer(server) as test:
        ann, ben, cat = [test.connect("/") for _ in range(3)]
        assert room.entered == [True, True, False]
        assert server.count("room") == 2
        assert cat.client.topics == frozenset()
        assert ann.client.subscribe("room")  # it is in already
        ben.close()
        assert cat.client.subscribe("room")


def test_full_topic_without_history() -> None:
    server, room = make(history=0, max_subscribers=1)
    with TestServer(server) as test:
        test.connect("/"), test.connect("/")
        assert room.entered == [True, False]


def test_subscribing_again_begins_anew() -> None:
    server, room = make()
    with TestServer(server) as test:
        ann = test.connect("/")
        server.publish("room", "1")
        ann.client.subscribe("room", since="all")
        server.publish("room", "2")
        assert texts(ann) == ["1", "1", "2"]
        assert [join.recovered for join in room.joins] == [0, 1]


def test_strangers_get_it_when_they_are_known() -> None:
    server, room = make()
    server.use(FirstMessageAuth(lambda msg: msg))
    with TestServer(server) as test:
        server.publish("room", "1")
        ann = test.connect("/?since=all")
        assert texts(ann) == []
        assert room.joins == []
        server.publish("room", "2")
        ann.send("ann")
        test.settle()
        server.publish("room", "3")
        assert texts(ann) == ["1", "2", "3"]
        assert room.joins[0].recovered == 2


def test_middlewares_see_what_is_sent_again() -> None:
    seen: list[Any] = []

    class Look(Middleware):
        def on_send(self, msg: Any, client: Any) -> Any:
            if msg == "bad":
                raise ValueError("bad")
            seen.append(msg)
            return msg

    server, _ = make()
    server.use(Look())
    with TestServer(server, raise_server_exceptions=False) as test:
        server.publish("room", {"a": 1})
        server.publish("room", "bad")
        server.publish("room", "text")
        ann = test.connect("/?since=all")
        assert seen[0] == {"a": 1}
        ann.assert_closed(1011)


def test_on_join_that_raises_is_a_failed_callback() -> None:
    class Broken(Room):
        def on_join(self, client: Any, topic: str, join: Any) -> None:
            raise RuntimeError("broken")

    server = Server("", 0)
    server.topic("room", history=5)
    server.mount("/", Broken())
    with TestServer(server, raise_server_exceptions=False) as test:
        test.connect("/").assert_closed(1011)


def test_on_join_may_publish_and_unsubscribe() -> None:
    class Hello(Room):
        def on_join(self, client: Any, topic: str, join: Any) -> None:
            self.server.publish(topic, "hello")
            client.unsubscribe(topic)
            self.server.publish(topic, "bye")

    server = Server("", 0)
    server.topic("room", history=5)
    server.mount("/", Hello())
    with TestServer(server) as test:
        ann = test.connect("/")
        assert texts(ann) == ["hello"]
        assert server.count("room") == 0


def test_history_is_read_at_once_without_an_engine() -> None:
    server, _ = make()
    for number in range(7):
        server.publish("room", {"n": number})
    future = server.history("room")
    assert future.done()
    assert [each.msg for each in future] == [{"n": n} for n in range(2, 7)]
    assert len(future) == 5
    assert future[0].msg == {"n": 2}
    assert future.result()[-1:] == future[-1:]
    positions = [each.position for each in future]
    since = positions[1]
    assert [m.msg["n"] for m in server.history("room", since=since)] == [4, 5, 6]
    assert [m.msg["n"] for m in server.history("room", since=since, limit=2)] == [4, 5]
    assert [m.msg["n"] for m in server.history("room", since=3)] == [4, 5, 6]
    assert [m.msg["n"] for m in server.history("room", limit=2)] == [5, 6]
    assert [m.msg["n"] for m in server.history("room", since="all", limit=1)] == [6]
    assert list(server.history("room5")) == []


def test_history_is_awaited_and_waited_for_in_a_thread() -> None:
    server, _ = make()
    server.publish("room", "1")
    server.start()
    try:
        future = server.history("room")
        assert [each.msg for each in future.result(10)] == ["1"]

        async def wait() -> Any:
            return await server.history("room")

        assert [each.msg for each in asyncio.run(wait())] == ["1"]
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"topic": 7}, TypeError, "topic must be a str, not 7"),
        ({"topic": "other"}, ValueError, "the topic 'other' has no history"),
        ({"limit": 0}, ValueError, "limit must be at least 1 messages or None, not 0"),
        ({"limit": "9"}, TypeError, "limit must be a whole number of messages or None"),
        ({"timeout": 0}, ValueError, "timeout must be more than 0 seconds, not 0"),
    ],
)
def test_wrong_arguments_of_history(given: Any, error: Any, text: str) -> None:
    server, _ = make()
    with pytest.raises(error, match=text):
        server.history(**{"topic": "room"} | given)


def test_what_is_published_while_it_joins_is_not_missed() -> None:
    """A middleware publishes for each message that it sees."""

    class Noisy(Middleware):
        left = 3

        def on_send(self, msg: Any, client: Any) -> Any:
            if self.left:
                self.left -= 1
                server.publish("room", f"seen {msg}")
            return msg

    server, room = make()
    for number in range(5):
        server.publish("room", str(number))
    server.use(Noisy())
    with TestServer(server) as test:
        ann = test.connect("/?since=all")
        got = texts(ann)
    assert got == ["0", "1", "2", "3", "4", "seen 0", "seen 1", "seen 2"]
    assert room.joins[0].recovered + room.joins[0].gap == 8


def test_unsubscribed_by_a_middleware_while_it_joins() -> None:
    class Strict(Middleware):
        def on_send(self, msg: Any, client: Any) -> Any:
            client.unsubscribe("room")
            return msg

    server, room = make()
    server.publish("room", "1")
    server.use(Strict())
    with TestServer(server) as test:
        ann = test.connect("/?since=all")
        assert texts(ann) == ["1"]
        assert room.joins == []
        assert server.count("room") == 0


class Picky(Middleware):
    """Keeps a message from clients, by both ways."""

    def on_send(self, msg: Any, client: Any) -> Any:
        if msg == "stop":
            return Middleware.STOP
        if msg == "raise":
            raise LookupError(msg)
        return msg


class Lenient(Room):
    """Errors close nobody."""

    def on_error(self, error: Exception, client: Any) -> None:
        self.entered.append(False)


def test_message_that_a_middleware_does_not_let_through_stops_no_join() -> None:
    server, room = Server("", 0), Lenient()
    server.topic("room", history=5)
    server.mount("/", room)
    server.use(Picky())
    with TestServer(server) as test:
        for text in ("1", "stop", "2", "raise", "3"):
            server.publish("room", text)
        ann = test.connect("/?since=all")
        server.publish("room", "4")
        assert texts(ann) == ["1", "2", "3", "4"]
        assert [(join.recovered, join.gap) for join in room.joins] == [(3, 0)]
        assert room.entered.count(False) == 1


def test_long_history_is_sent_in_several_turns() -> None:
    server, room = make(history=1_000)
    turns: list[int] = []

    class Slow(Middleware):
        def on_send(self, msg: Any, client: Any) -> Any:
            test.clock.now += 0.0001
            return msg

    def count() -> None:
        turns.append(len(room.joins))
        if not room.joins:
            server.reactor.call_soon(count)

    server.use(Slow())
    with TestServer(server) as test:
        for number in range(1_000):
            server.publish("room", str(number))
        server.reactor.call_soon(count)
        ann = test.connect("/?since=all")
        assert len(turns) > 5
        assert texts(ann) == [str(number) for number in range(1_000)]
        assert [(join.recovered, join.gap) for join in room.joins] == [(1_000, 0)]


#: Nobody listens there.
AWAY = "unix:///nonexistent/redis.sock"


def test_joins_that_were_given_up_while_the_engine_is_away_leave_nothing() -> None:
    server, _ = make({"engine": AWAY})
    with TestServer(server) as test:
        ann = test.connect("/?since=all")
        ben = test.connect("/?since=all")
        (client, other) = server.clients
        for _ in range(100):
            client.subscribe("room", since="all")
            server.unsubscribe("room", other)
            server.subscribe("room", other)
            server.history("room", timeout=0.001)
        test.advance(1)
        assert isinstance(server.engine, EngineHost)
        (replica,) = server.engine._node.kept.replicas.values()
        assert len(replica._waiting) == 2
        for number in range(100):
            client.subscribe(f"room{number}")
            client.unsubscribe(f"room{number}")
        ann.close()
        ben.close()
        test.advance(3)
        assert not replica._waiting
        assert not server.engine._node.kept.replicas


def test_engine_that_does_not_run_is_no_place_for_a_history() -> None:
    for options in ({"engine": AWAY}, {"workers": 2}):
        server = Server("127.0.0.1", 0, **options)
        server.topic("room", history=5)
        assert server.publish("room", "1") is False
        with pytest.raises(InvalidState, match="the server does not run"):
            server.history("room").result()


def test_thread_that_asks_while_the_server_stops_is_told_so() -> None:
    server, _ = make({"engine": AWAY})
    with TestServer(server):
        futures = []
        thread = threading.Thread(target=lambda: futures.append(server.history("room")))
        thread.start()
        thread.join()
    with pytest.raises(InvalidState, match="the server has stopped"):
        futures[0].result(DEADLINE)
