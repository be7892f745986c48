"""The engine `memory://`: the promises of several nodes in one process."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from simple_ws import Server, WebSocket
from simple_ws.cluster.engine_url import parse
from simple_ws.testing import TestServer


class Room(WebSocket):
    def __init__(self) -> None:
        self.returned: list[int] = []

    def on_open(self, client: Any) -> None:
        client.subscribe("room")
        client.bind(client.query.get("id", "nobody"))

    def on_message(self, msg: Any, client: Any) -> None:
        if msg == "to the others":
            client.publish("room", msg)
        else:
            self.returned.append(self.server.publish("room", msg))


def served(room: WebSocket | None = None, **options: Any) -> TestServer:
    return TestServer(room or Room(), engine="memory://?prefix=test", **options)


def test_lines_about_a_topic_are_short_however_long_its_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server("127.0.0.1", 0, engine="memory://")
    server.topic("room*", history=5)
    server.mount("*", Room())
    with TestServer(server):
        while server.publish("room" + "x" * 10_000, "y" * 1_000_000) is not False:
            pass
    (line,) = [text for text in caplog.messages if "too many messages" in text]
    assert "channel '{sws.k.roomxxx" in line
    assert len(line) < 500


def test_what_is_published_comes_back_from_the_engine_in_order() -> None:
    room = Room()
    with served(room) as server:
        one, other = server.connect("/?id=one"), server.connect("/?id=other")
        assert server.server.engine is not None
        assert server.server.engine.state.up
        one.send("first")
        other.send("second")
        one.send("to the others")
        server.server.send_to("one", "to one")
        server.settle()
        assert one.messages == ["first", "second", "to one"]
        assert other.messages == ["first", "second", "to the others"]
        assert room.returned == [0, 0]  # as with any engine
        counts = server.server.engine.counts
        assert (counts.published, counts.received) == (4, 4)
        stats = server.server.stats()["engine"]
        assert (stats["up"], stats["connects"]["start"]) == (1, 1)


def test_engine_comes_back_and_gaps_are_told() -> None:
    told: list[Any] = []

    class Listening(Room):
        def on_gap(self, topic: str | None, missing: int | None) -> None:
            told.append((topic, missing))

    with served(Listening(), engine_secret="s" * 32) as server:
        client = server.connect()
        assert server.server.engine is not None
        server.server.engine.give_up_engine("a test says so")
        client.send("alone")
        assert client.messages == ["alone"]
        assert server.server.engine.counts.lost == 1
        server.advance(3)
        assert server.server.engine.state.up
        assert ("room", None) in told
        client.send("together")
        assert client.messages == ["alone", "together"]


def test_long_silence_is_no_failure() -> None:
    with served() as server:
        client = server.connect()
        server.advance(600)
        stats = server.server.stats()["engine"]
        assert stats["up"] == 1
        assert sum(stats["connects"].values()) == 1
        client.assert_open()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_nothing_is_left_at_the_end() -> None:
    def opened() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    with served() as server:
        server.connect()
    before = opened()
    for _ in range(3):
        with served() as server:
            server.connect()
    assert opened() == before


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_forked_process_leaves_the_engine_to_its_parent() -> None:
    with served() as server:
        client = server.connect()
        sockets = len([x for x in map(read_link, descriptors()) if "socket" in x])
        pid = os.fork()
        if pid == 0:
            left = [x for x in map(read_link, descriptors()) if "socket" in x]
            os._exit(min(sockets - len(left), 100))
        closed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert closed >= 3  # both ends of the engine's connection, and the client's
        client.send("still here")
        assert client.messages == ["still here"]


def descriptors() -> list[Path]:
    return list(Path("/proc/self/fd").iterdir())


def read_link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:  # of the listing itself
        return ""


def test_workers_refuse_it_in_one_sentence() -> None:
    refused = r"^memory:// is an engine for one process: .* workers=2 are connected"
    with pytest.raises(ValueError, match=refused):
        Server("127.0.0.1", 0, engine="memory://", workers=2)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://host", "has no host"),
        ("memory:///path", "has no host"),
        ("memory://?db=1", "no option but prefix"),
        ("memory://?password=x", "no option but prefix"),
        ("memory://?prefix=a.b", "prefix must be"),
        ("memory:", "the scheme is not known"),
    ],
)
def test_what_the_url_must_not_have(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(url)


def test_url_for_people() -> None:
    address = parse("Memory://?prefix=app")
    assert (str(address), address.prefix) == ("memory://", "app")
