"""The promises of an engine, kept by that for Redis: with Redis, Valkey and the broker.

The broker is in the test's thread, the others are servers of their own.
"""

from __future__ import annotations

import os
import socket
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from harness import DEADLINE, Clock
from nats_server import nats_server
from redis_server import PROGRAMS, redis_server

from simple_ws.cluster import resp
from simple_ws.cluster.broker import Broker, BrokerSocket
from simple_ws.cluster.connect import connect
from simple_ws.cluster.engine import Delivered, EngineEvent, Failed, Origin
from simple_ws.cluster.engine_address import parse
from simple_ws.cluster.history import Retention
from simple_ws.cluster.nats_engine import NatsEngine
from simple_ws.cluster.position import Position
from simple_ws.cluster.redis_channels import RedisChannels
from simple_ws.cluster.redis_engine import RedisEngine
from simple_ws.loop.reactor import Reactor
from simple_ws.testing.engines import EngineConformance
from simple_ws.testing.histories import HistoryConformance

pytestmark = pytest.mark.one_backend


READERS: list[Any] = [resp.PythonReader]
if resp._hiredis is not None:
    READERS.append(resp.HiredisReader)


@pytest.mark.parametrize("program", PROGRAMS)
class TestRedis(HistoryConformance):
    @pytest.fixture(autouse=True, params=READERS)
    def _served(self, request: pytest.FixtureRequest, program: str) -> Iterator[None]:
        self.reader = request.param
        with redis_server("--requirepass", "right", program=program) as server:
            self.url = server.url
            yield

    def make_engine(self) -> RedisEngine:
        return RedisEngine(password="right", reader=self.reader)

    def make_refused_engine(self) -> RedisEngine:
        return RedisEngine(password="hidden", reader=self.reader)

    def connect(self) -> socket.socket:
        made = connect(parse(self.url), DEADLINE)
        assert isinstance(made, socket.socket)
        return made


class BrokerConformance(HistoryConformance):
    reader: type[resp.ReplyReader] = resp.PythonReader
    engine: type[RedisEngine] = RedisEngine

    @contextmanager
    def serve(self) -> Iterator[None]:
        self.clock = Clock()
        self.reactor = Reactor(clock=self.clock)
        self.reactor.open()
        self.listening = BrokerSocket()
        broker = Broker(self.reactor, self.listening.sock, self.listening.secret)
        yield
        broker.close()
        self.listening.close()
        self.reactor.close()

    def make_engine(self) -> RedisEngine:
        return self.engine(password=self.listening.secret, reader=self.reader)

    def make_refused_engine(self) -> RedisEngine:
        return self.engine(password="hidden", reader=self.reader)

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.listening.path)
        return sock

    def pump(self) -> None:
        self.reactor.run_once(0)

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers need os.fork")
class TestBroker(BrokerConformance):
    @pytest.fixture(autouse=True, params=READERS)
    def _served(self, request: pytest.FixtureRequest) -> Iterator[None]:
        self.reader = request.param
        with self.serve():
            yield


@pytest.mark.parametrize("reader", READERS)
class TestMemory(HistoryConformance):
    """`memory://`: the broker without a socket of its own."""

    @pytest.fixture(autouse=True)
    def _served(self, reader: type[resp.ReplyReader]) -> Iterator[None]:
        self.reader = reader
        self.clock = Clock()
        self.reactor = Reactor(clock=self.clock)
        self.reactor.open()
        self.broker = Broker(self.reactor, None, "right")
        yield
        self.broker.close()
        self.reactor.close()

    def make_engine(self) -> RedisEngine:
        return RedisEngine(password="right", reader=self.reader)

    def make_refused_engine(self) -> RedisEngine:
        return RedisEngine(password="hidden", reader=self.reader)

    def connect(self) -> socket.socket:
        return self.broker.connect()

    def pump(self) -> None:
        self.reactor.run_once(0)

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds


class TestNats(EngineConformance):
    counts_receivers = False
    one_order = False

    @pytest.fixture(autouse=True)
    def _served(self) -> Iterator[None]:
        with nats_server("--user", "node", "--pass", "right") as server:
            self.port = server.port
            yield

    def make_engine(self) -> NatsEngine:
        return NatsEngine("node", "right")

    def make_refused_engine(self) -> NatsEngine:
        return NatsEngine("node", "hidden")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port))


# --- The kit notices what it is for ---------------------------------------------------


class Twice(RedisEngine):
    def receive(self, data: bytes, now: float) -> list[EngineEvent]:
        events = super().receive(data, now)
        return events + [event for event in events if isinstance(event, Delivered)]


class Hasty(RedisEngine):
    """It trusts that nothing is cut."""

    def receive(self, data: bytes, now: float) -> list[EngineEvent]:
        self._reader = self._new_reader()
        return super().receive(data, now)


class Forgetful(RedisEngine):
    def disconnected(self) -> None:
        self._wanted.clear()
        super().disconnected()


class Patient(RedisEngine):
    def deadline(self) -> float | None:
        return None


class Raising(RedisEngine):
    def receive(self, data: bytes, now: float) -> list[EngineEvent]:
        events = super().receive(data, now)
        if any(isinstance(event, Failed) for event in events):
            raise ValueError("what is this?")
        return events


class Trusting(RedisEngine):
    def receives(self, channel: str) -> bool:
        return True


class Talkative(RedisEngine):
    def _clean(self, text: str) -> str:
        return f"{text} ({self._password})"


class Hoarding(RedisEngine):
    def disconnected(self) -> None:
        output = self._output
        super().disconnected()
        self._output = output


class Repeating(RedisEngine):
    """It gives a message that is sent again another number."""

    def append(
        self, channel: str, envelope: bytes, origin: Origin, retention: Retention
    ) -> None:
        self.number = getattr(self, "number", 0) + 1
        origin = origin._replace(seq=self.number)
        super().append(channel, envelope, origin, retention)


class Keyless(RedisEngine):
    def append(
        self, channel: str, envelope: bytes, origin: Origin, retention: Retention
    ) -> None:
        super().append(channel, envelope, origin._replace(key=None), retention)


class Credulous(RedisEngine):
    """It does not compare tags."""

    def read(
        self, channel: str, known: Position | None, after: int, limit: int
    ) -> None:
        known = None if known is None else known._replace(tag=None)
        super().read(channel, known, after, limit)


class Early(RedisEngine):
    """It reads before it has subscribed."""

    def _send_reads(self) -> None:
        channels, self._channels = self._channels, RedisChannels({}, self._send)
        super()._send_reads()
        self._channels = channels


class Tenacious(RedisEngine):
    def disconnected(self) -> None:
        reads = self._to_read
        super().disconnected()
        self._kept = reads

    def connected(self, now: float) -> None:
        super().connected(now)
        self._to_read = getattr(self, "_kept", self._to_read)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers need os.fork")
@pytest.mark.parametrize(
    ("engine", "name"),
    [
        (Twice, "all_receive_all_in_one_order"),
        (Hasty, "bytes_may_be_cut_anywhere"),
        (Forgetful, "a_connection_may_end_within_any_byte"),
        (Patient, "silence_is_noticed"),
        (Patient, "silence_at_the_beginning_is_noticed"),
        (Raising, "garbage_is_a_failure_and_never_an_exception"),
        (Trusting, "a_subscription_is_before_the_next_message"),
        (Talkative, "what_is_refused_is_permanent_and_one_line"),
        (Hoarding, "without_a_connection_it_only_remembers_channels"),
        (Repeating, "a_number_is_appended_once"),
        (Keyless, "a_key_is_appended_once"),
        (Credulous, "a_position_that_is_not_there_changes_the_epoch"),
        (Early, "page_and_messages_join_without_a_hole"),
        (Tenacious, "without_a_connection_no_reading_is_remembered"),
    ],
)
def test_a_faulty_engine_is_noticed(engine: type[RedisEngine], name: str) -> None:
    kit = BrokerConformance()
    kit.engine, kit.timeout = engine, 0.2
    with kit.serve():
        kit.setup_method()
        try:
            with pytest.raises((AssertionError, ValueError)):
                getattr(kit, f"test_{name}")()
        finally:
            kit.teardown_method()


def test_those_who_let_in_anybody_skip_what_is_refused() -> None:
    with pytest.raises(unittest.SkipTest):
        EngineConformance().make_refused_engine()
