"""`nats_engine` and `nats_protocol`: what a server is told, and what its words mean."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simple_ws.cluster.engine import (
    Accepted,
    Delivered,
    EngineEvent,
    Failed,
    Origin,
    ReadRefused,
    Ready,
    Refused,
    Subscribed,
)
from simple_ws.cluster.engine_address import parse
from simple_ws.cluster.history import Retention
from simple_ws.cluster.nats_engine import NatsEngine
from simple_ws.cluster.nats_protocol import NatsReader, subject_of

pytestmark = pytest.mark.one_backend


class FakeNats:
    """A server that answers as NATS does, unless the test says otherwise.

    Attributes:
        log: the lines that it was sent, without those of probes.
        deaf: it passes nothing on.
        silent: it answers nothing.
    """

    def __init__(self, engine: NatsEngine, **info: Any) -> None:
        self.engine = engine
        self.log: list[str] = []
        self.deaf = self.silent = False
        self.forbidden: set[str] = set()
        self.now = 100.0
        self._sids: dict[str, str] = {}
        self._info = {"version": "2.9.10", "max_payload": 1000, **info}
        engine.connected(self.now)

    def run(self) -> list[EngineEvent]:
        """Begin, and answer until nothing more is said."""
        return self.feed(b"INFO %b\r\n" % json.dumps(self._info).encode())

    def feed(self, data: bytes) -> list[EngineEvent]:
        events = self.engine.receive(data, self.now)
        return events + self.answer()

    def answer(self) -> list[EngineEvent]:
        events: list[EngineEvent] = []
        while self.engine.size or self.engine._unfenced:
            reply = self._reply(self.engine.take_output())
            if self.silent or not reply:
                break
            events += self.engine.receive(reply, self.now)
        return events

    def _reply(self, data: bytes) -> bytes:
        reply, lines = b"", data.decode().split("\r\n")[:-1]
        while lines:
            line = lines.pop(0)
            word, _, rest = line.partition(" ")
            if ".probe." not in line and word not in ("PING", "PONG"):
                self.log.append(line)
            if word == "PING":
                reply += b"PONG\r\n"
            elif word == "SUB":
                subject, sid = rest.split()
                self._sids[subject] = sid
                if subject in self.forbidden:
                    reply += violation("Subscription", subject)
            elif word == "PUB":
                reply += self._published(rest.split()[0], lines.pop(0))
        return reply

    def _published(self, subject: str, body: str) -> bytes:
        if subject in self.forbidden or any(
            subject.startswith(each[:-1]) for each in self.forbidden if each[-1] == ">"
        ):
            return violation("Publish", subject)
        if self.deaf or subject not in self._sids:
            return b""
        head = f"MSG {subject} {self._sids[subject]} {len(body)}\r\n"
        return f"{head}{body}\r\n".encode()

    def tick(self, seconds: float) -> list[EngineEvent]:
        self.now += seconds
        return self.engine.tick(self.now) + self.answer()


def violation(what: str, subject: str) -> bytes:
    return f"-ERR 'Permissions Violation for {what} to \"{subject}\"'\r\n".encode()


@pytest.fixture
def ready() -> FakeNats:
    made = FakeNats(NatsEngine())
    assert made.run() == [Ready("NATS 2.9.10"), Subscribed()]
    made.log.clear()
    return made


def failure(events: list[EngineEvent]) -> Failed:
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert events[-1] is failed
    return failed


# --- Entering ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("nats://h", {}),
        ("nats://u:p%40ss@h?client_name=n", {"user": "u", "pass": "p@ss", "name": "n"}),
        ("nats://to.ken@h", {"auth_token": "to.ken"}),
    ],
)
def test_credentials(url: str, entry: dict[str, str]) -> None:
    nats = FakeNats(NatsEngine.from_address(parse(url)))
    assert not nats.engine.size  # it speaks first
    nats.run()
    word, _, text = nats.log[0].partition(" ")
    said = json.loads(text)
    assert word == "CONNECT"
    assert {key: said[key] for key in entry} == entry
    assert not {"user", "pass", "auth_token"} - set(entry) & set(said)
    assert (said["verbose"], said["pedantic"], said["echo"]) == (False, False, True)


def test_server_that_wants_tls_is_told_no_password() -> None:
    nats = FakeNats(NatsEngine("u", "p"), tls_required=True)
    event = failure(nats.run())
    assert event.permanent
    assert "tls://" in event.reason
    assert nats.log == []


def test_after_tls_it_does_not_wait_for_what_was_said_before() -> None:
    engine = NatsEngine(tls=True)
    engine.note_info(b'INFO {"version": "2.10.1", "tls_required": true}')
    nats = FakeNats(engine)
    assert nats.answer() == [Ready("NATS 2.10.1"), Subscribed()]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"INFO {}", "it has no TLS"),
        (b"INFO []", "malformed"),
        (b"INFO " + b"[" * 100_000, "malformed"),
        (b"HTTP/1.1 400 Bad Request", "malformed"),
    ],
)
def test_server_without_tls(line: bytes, text: str) -> None:
    with pytest.raises(OSError, match=text):
        NatsEngine(tls=True).note_info(line)


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        ("Authorization Violation", True),
        ("User Authentication Revoked", True),
        ("Secure Connection - TLS Required", True),
        ("maximum connections exceeded", False),
        ("Server Shutdown", False),
        ("something about hidden \x1b[31m", False),
    ],
)
def test_what_does_not_let_us_in(error: str, permanent: bool) -> None:
    nats = FakeNats(NatsEngine("u", "hidden"))
    nats.silent = True
    nats.run()
    event = failure(nats.feed(f"-ERR '{error}'\r\n".encode()))
    assert event.permanent is permanent
    assert "hidden" not in event.reason
    assert event.reason.isprintable()
    assert nats.tick(100) == []


def test_rights_are_tried_at_once() -> None:
    nats = FakeNats(NatsEngine(prefix="app"))
    nats.forbidden.add("app.>")
    event = failure(nats.run())
    assert event.permanent
    assert "lets us not publish" in event.reason


def test_channels_that_are_forbidden() -> None:
    nats = FakeNats(NatsEngine())
    nats.engine.subscribe(["sws.t.a"])
    nats.forbidden.add(subject_of("sws.t.a").decode())
    event = failure(nats.run())
    assert "lets us not subscribe" in event.reason


def test_publish_only() -> None:
    nats = FakeNats(NatsEngine(publish_only=True))
    assert nats.run() == [Ready("NATS 2.9.10"), Subscribed()]
    nats.engine.publish("sws.t.a", b"x")
    assert nats.answer() == [Accepted(-1)]
    assert not [line for line in nats.log if line.startswith("SUB")]


# --- Messages ------------------------------------------------------------------------


def test_a_message_comes_back_and_is_accepted(ready: FakeNats) -> None:
    ready.engine.subscribe(["sws.t.hall"])
    ready.engine.publish("sws.t.hall", b"hello")
    assert ready.answer() == [Delivered("sws.t.hall", b"hello"), Accepted(-1)]
    assert ready.log == ["SUB sws.t._aGFsbA 1", "PUB sws.t._aGFsbA 5"]


def test_one_ping_for_each_output(ready: FakeNats) -> None:
    for _ in range(100):
        ready.engine.publish("sws.t.a", b"x")
    assert ready.engine.take_output().count(b"PING") == 1
    assert ready.feed(b"PONG\r\n") == [Accepted(-1)] * 100


def test_one_message_may_be_refused(ready: FakeNats) -> None:
    forbidden = subject_of("sws.t.b")
    ready.forbidden.add(forbidden.decode())
    for name in "abac":
        ready.engine.publish(f"sws.t.{name}", b"x")
    events = ready.answer()
    assert [type(event) for event in events] == [Accepted, Refused, Accepted, Accepted]
    assert "Permissions Violation" in events[1].reason  # type: ignore[union-attr]


def test_what_is_too_large_is_refused_here_and_in_order(ready: FakeNats) -> None:
    for size in (1000, 1001, 1):
        ready.engine.publish("sws.t.a", bytes(size))
    events = ready.answer()
    assert [type(event) for event in events] == [Accepted, Refused, Accepted]
    assert events[1] == Refused("1,001 bytes exceed max_payload 1,000")
    ready.feed(b'INFO {"max_payload": 2000}\r\n')
    ready.engine.publish("sws.t.a", bytes(1001))
    assert ready.answer() == [Accepted(-1)]


def test_histories_are_refused(ready: FakeNats) -> None:
    assert not ready.engine.keeps_history
    ready.engine.publish("sws.t.a", b"x")
    ready.engine.append("{sws.k.a}e", b"x", Origin(b"p", 1, None), Retention(9, None))
    ready.engine.read("{sws.k.a}e", None, 0, 9)
    events = ready.answer()
    assert [type(event) for event in events] == [Accepted, Refused, ReadRefused]


def test_refusal_of_what_was_not_published(ready: FakeNats) -> None:
    failed = failure(ready.feed(violation("Publish", "other")))
    assert "not published" in failed.reason


def test_many_channels_are_subscribed_to_in_windows(ready: FakeNats) -> None:
    names = [f"sws.t.{number}" for number in range(10_000)]
    ready.engine.subscribe(names)
    first = ready.engine.take_output()
    assert first.count(b"SUB ") == 4096
    assert not ready.engine.receives(names[5000])
    ready.engine.unsubscribe(names[6000:])
    events = ready.feed(b"PONG\r\n")
    assert events == []
    assert len(ready.log) == 6000 - 4096
    assert all(map(ready.engine.receives, names[:6000]))


def test_messages_of_an_ended_subscription_are_dropped(ready: FakeNats) -> None:
    ready.engine.subscribe(["sws.t.a"])
    ready.answer()
    ready.engine.unsubscribe(["sws.t.a"])
    ready.engine.subscribe(["sws.t.a"])
    ready.answer()
    assert ready.feed(b"MSG x 1 3\r\nold\r\n") == []
    assert ready.feed(b"MSG x 2 3\r\nnew\r\n") == [Delivered("sws.t.a", b"new")]
    reply = b"MSG x 2 inbox.1 3\r\nnew\r\n"
    assert ready.feed(reply) == [Delivered("sws.t.a", b"new")]


# --- Liveness ------------------------------------------------------------------------


def test_its_pings_are_answered(ready: FakeNats) -> None:
    ready.engine.receive(b"PING\r\n", ready.now)
    assert ready.engine.take_output() == b"PONG\r\n"


def test_deaf_subscription_is_noticed(ready: FakeNats) -> None:
    ready.deaf = True
    for _ in range(9):
        assert ready.tick(1) == []
    event = failure(ready.tick(1))
    assert "deaf" in event.reason
    assert not event.permanent


def test_round_trip_is_measured(ready: FakeNats) -> None:
    assert ready.engine.round_trip == 0.0


def test_server_that_talks_but_does_not_answer_is_noticed(ready: FakeNats) -> None:
    ready.silent = True
    events: list[EngineEvent] = []
    for _ in range(25):
        events += ready.feed(b"PING\r\n")
        events += ready.tick(1)
    assert "did not answer" in failure(events).reason


def test_late_tick_is_no_silence(ready: FakeNats) -> None:
    ready.tick(1)  # a PING
    ready.silent = True
    assert ready.tick(60) == []
    assert ready.tick(1) == []
    assert "no sign of life for 3 s" in failure(ready.tick(2)).reason


# --- The protocol --------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"MSG a 1 5\r\nhello12",
        b"MSG a 1 99999999999\r\n",
        b"MSG a x 5\r\n",
        b"HMSG a 1 12 17\r\nNATS/1.0\r\n\r\nhello\r\n",
        b"MSG a 1 999999999\r\n",
        b"x" * 2**18,
    ],
)
def test_what_is_no_message(data: bytes) -> None:
    reader = NatsReader()
    reader.receive(data)
    assert reader.problem is not None
    assert reader.receive(b"PONG\r\n") == []


@pytest.mark.parametrize(
    "line",
    [
        b"WHAT",
        b"PONG",
        b"INFO x",
        b"INFO []",
        b"INFO " + b"[" * 100_000,
        b"INFO \xff",
        b"\xff\xfe",
        b"GET / HTTP/1.1",
    ],
)
def test_lines_that_nobody_sends(ready: FakeNats, line: bytes) -> None:
    event = failure(ready.feed(line + b"\r\n")) if line[:4] != b"INFO" else None
    if event is None:
        fresh = FakeNats(NatsEngine())
        event = failure(fresh.feed(line + b"\r\n"))
    assert event.reason.isprintable()


@given(st.text(), st.text())
def test_subjects_are_legal_and_different(one: str, other: str) -> None:
    for beginning in ("sws.t.", "sws.i.s:", ""):
        subject = subject_of(beginning + one)
        assert re.fullmatch(rb"[A-Za-z0-9_:-]+(\.[A-Za-z0-9_:-]+)*", subject)
        same = subject == subject_of(beginning + other)
        assert same is (one == other)


def test_subjects_of_channels_that_look_alike() -> None:
    names = [
        "sws.all",
        "sws.all.",
        "sws.t",
        "sws.t.",
        "sws.t.a",
        "sws.t._YQ",
        "sws",
        "",
    ]
    names += ["sws.t.a.b", "sws.t.>", "sws.t.*", "{sws.k.a}e", "x" * 5000, "x" * 5001]
    names += ["sws.t." + "x" * 5000, "sws.t.-" + "x" * 5000]
    subjects = list(map(subject_of, names))
    assert len(set(subjects)) == len(names)
    assert max(map(len, subjects)) < 2000
    assert subjects[0] == b"sws.all"
