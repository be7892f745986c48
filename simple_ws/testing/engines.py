"""The promises of an engine as tests: for those who write one.

    from simple_ws.testing.engines import EngineConformance

    class TestMyEngine(EngineConformance):
        @pytest.fixture(autouse=True)
        def _server(self):
            with my_server() as self.server:
                yield

        def make_engine(self):
            return MyEngine()

        def connect(self):
            return socket.create_connection(("127.0.0.1", self.server.port))

pytest runs what it inherits: messages and their order, subscriptions, and a transport
that cuts bytes anywhere, is late, is silent, ends, brings garbage, or is refused. The
peer is a real server, or one in the test's thread (`pump`); the clock is the test's.
What messages mean, and what happens to them when an engine is lost, is not the engine's
part, but that of `cluster.node`.
"""

from __future__ import annotations

import random
import select
import socket
import time
import unittest
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from ..cluster.engine import (
    Accepted,
    Delivered,
    Engine,
    EngineEvent,
    Failed,
    Ready,
    Subscribed,
)

__all__ = ["EngineConformance", "Transport"]

_Event = TypeVar("_Event", bound=EngineEvent)

#: Seconds in which any engine must notice a peer that is silent.
_SILENCE = 60.0


class Transport:
    """An engine on a connection: fake in how bytes and time come to it.

    Args:
        engine: is told that it is connected.
        sock: connected to the engine's server.
        turn: lets all transports and the server work, and waits a little.
        timeout: seconds that `until` waits.

    Attributes:
        events: all that the engine has returned.
        now: the engine's time, in seconds; only `advance` moves it.
        piece: the engine gets so many bytes at once; 0: as they come.
        held: while true, nothing is read.
        received: all that has come from the server.
        ended: the server has closed the connection.
    """

    def __init__(
        self,
        engine: Engine,
        sock: socket.socket,
        turn: Callable[[], object],
        timeout: float,
    ) -> None:
        sock.setblocking(False)
        self.engine, self.sock = engine, sock
        self.events: list[EngineEvent] = []
        self.now = 1000.0
        self.piece = 0
        self.held = False
        self.received = b""
        self.ended = False
        self._turn, self._timeout = turn, timeout
        self._output = b""
        engine.connected(self.now)

    def send(self) -> None:
        """Send the engine's output, as far as the system takes it."""
        self._output += self.engine.take_output()
        with suppress(BlockingIOError, ConnectionError):  # the end is seen by `read`
            while self._output:
                self._output = self._output[self.sock.send(self._output) :]

    def read(self) -> None:
        """Hand the engine what has come."""
        while not self.held and not self.ended:
            try:
                data = self.sock.recv(65536)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self.ended = True
                return
            self.received += data
            self.feed(data)

    def feed(self, data: bytes) -> None:
        """Hand bytes to the engine, in pieces."""
        size = self.piece or len(data) or 1
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            self.events += self.engine.receive(piece, self.now)

    def of(self, kind: type[_Event]) -> list[_Event]:
        """The events of a class, in order."""
        return [event for event in self.events if isinstance(event, kind)]

    def until(self, condition: Callable[[], object]) -> None:
        """Let all work until a condition holds.

        Raises:
            AssertionError: It does not in time, or the server closes the connection.
        """
        end = time.monotonic() + self._timeout
        while not condition():
            assert not self.ended, f"closed by the server; events: {self.events[-20:]}"
            assert time.monotonic() < end, f"not in time; events: {self.events[-20:]}"
            self._turn()

    def until_event(self, kind: type[_Event], count: int = 1) -> _Event:
        """Let all work until so many events of a class have come; return the last."""

        def there() -> bool:
            assert kind is Failed or not self.of(Failed), self.of(Failed)
            return len(self.of(kind)) >= count

        self.until(there)
        return self.of(kind)[count - 1]

    def advance(self, seconds: float, *, answered: bool) -> None:
        """Let the engine's time pass, in the steps that it asks for.

        Args:
            seconds: how long.
            answered: the server answers at each step; else it is silent.
        """
        end = self.now + seconds
        while (due := self.engine.deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.events += self.engine.tick(self.now)
            if not answered:
                self.engine.take_output()
            elif self.engine.size:
                self._await_answer()
        self.now = end

    def _await_answer(self) -> None:
        before = len(self.received)
        self.until(lambda: len(self.received) > before)

    def close(self) -> None:
        """Close the connection, and tell the engine, which can be connected again."""
        self.sock.close()
        self.engine.disconnected()


class EngineConformance:
    """Tests of an `Engine`; to be inherited by a class that pytest collects.

    To be overridden: `make_engine` and `connect`, and where they apply
    `make_refused_engine` and `pump`.

    Attributes:
        prefix: begins the names of the channels that are used.
        timeout: seconds that a test waits for the server; a failing one only.
        counts_receivers: `Accepted` tells how many get a message; else it has -1.
        one_order: all nodes see one order of all messages; else of each publisher's.
    """

    prefix = "sws.t."
    timeout = 15.0
    counts_receivers = True
    one_order = True

    # To be overridden

    def make_engine(self) -> Engine:
        """Return a new engine of one server; all of a test share its messages."""
        raise NotImplementedError

    def connect(self) -> socket.socket:
        """Return a connection to the server: a plain socket, that may block."""
        raise NotImplementedError

    def make_refused_engine(self) -> Engine:
        """Return an engine that the server does not let in, with the password "hidden";
        by default that test is skipped."""
        raise unittest.SkipTest("this engine is let in by anybody")

    def pump(self) -> None:
        """Let a server in this thread work; the default does nothing."""

    # Tools for tests of one's own

    def setup_method(self) -> None:
        """Called by pytest before each test."""
        self._transports: list[Transport] = []

    def teardown_method(self) -> None:
        """Called by pytest after each test."""
        for transport in self._transports:
            transport.sock.close()

    def channel(self, name: str) -> str:
        """The whole name of a channel."""
        return self.prefix + name

    def channels(self, *names: str) -> list[str]:
        """The whole names of channels."""
        return list(map(self.channel, names))

    def open(self, engine: Engine) -> Transport:
        """Connect an engine."""
        transport = Transport(engine, self.connect(), self._turn, self.timeout)
        self._transports.append(transport)
        return transport

    def enter(self, *channels: str) -> Transport:
        """A new engine that is ready and subscribed."""
        engine = self.make_engine()
        engine.subscribe(channels)
        transport = self.open(engine)
        transport.until_event(Subscribed)
        return transport

    def again(self, transport: Transport) -> Transport:
        """Close the connection of an engine, and connect it anew."""
        transport.close()
        self._transports.remove(transport)
        return self.open(transport.engine)

    def _turn(self) -> None:
        for transport in self._transports:
            transport.send()
        self.pump()
        socks = [t.sock for t in self._transports if not t.held and not t.ended]
        select.select(socks, [], [], 0.01)
        for transport in self._transports:
            transport.read()

    def _publish(
        self, transport: Transport, channel: str, bodies: Iterable[bytes]
    ) -> None:
        for body in bodies:
            transport.engine.publish(channel, body)

    def _check_receivers(self, transport: Transport, expected: list[int]) -> None:
        if not self.counts_receivers:
            expected = [-1] * len(expected)
        assert [event.receivers for event in transport.of(Accepted)] == expected

    # Entering

    def test_it_is_ready_and_then_subscribed_once(self) -> None:
        """`Ready` names the server, and comes before `Subscribed`, each once."""
        here = self.enter(*self.channels("a", "b"))
        assert [type(event) for event in here.events] == [Ready, Subscribed]
        assert here.of(Ready)[0].server
        assert here.engine.channels == 2

    def test_it_is_subscribed_without_channels(self) -> None:
        """A node that asks for nothing is told so, too."""
        assert len(self.enter().of(Subscribed)) == 1

    def test_what_is_refused_is_permanent_and_one_line(self) -> None:
        """Wrong credentials: `Failed` with `permanent`, and without the password."""
        here = self.open(self.make_refused_engine())
        failed = here.until_event(Failed)
        assert here.events == [failed]
        assert failed.permanent
        assert failed.reason
        assert len(failed.reason.splitlines()) == 1
        assert "hidden" not in failed.reason
        assert "hidden" not in repr(here.engine)

    # Messages

    def test_all_receive_all_in_one_order(self) -> None:
        """Nodes that publish at once see the same order, that of each is kept."""
        nodes = [self.enter(*self.channels("a", "b")) for _ in range(3)]
        choose = random.Random(7)
        for number in range(900):
            channel = self.channel(choose.choice("ab"))
            nodes[number % 3].engine.publish(channel, b"%d %d" % (number % 3, number))
            if not choose.randrange(20):
                self._turn()
        for node in nodes:
            node.until_event(Delivered, 900)
        first, *others = [node.of(Delivered) for node in nodes]
        if self.one_order:
            assert others == [first, first]
        for events in (first, *others):
            for number in range(3):
                own = [e.envelope for e in events if e.envelope[:2] == b"%d " % number]
                assert own == [b"%d %d" % (number, i) for i in range(number, 900, 3)]

    def test_each_message_is_accepted_in_order(self) -> None:
        """`Accepted` comes once for each message, with the number of receivers."""
        one, two = self.enter(*self.channels("a")), self.enter(*self.channels("a", "b"))
        for name in "abcab":
            one.engine.publish(self.channel(name), b"x")
        one.until_event(Accepted, 5)
        self._check_receivers(one, [2, 1, 0, 2, 1])
        two.until_event(Delivered, 4)
        assert not two.of(Accepted)

    def test_any_bytes_and_names_survive(self) -> None:
        """Empty, binary and large messages; channels with any characters."""
        channels = self.channels("a", "b c", "\u00e9\U0001f600", "\ud800", "\r\n", "*")
        here = self.enter(*channels)
        bodies = [b"", b"\r\n$3\r\n\0\xff", bytes(range(256)) * 4096]
        for channel in channels:
            self._publish(here, channel, bodies)
        here.until_event(Delivered, len(channels) * len(bodies))
        expected = [Delivered(c, body) for c in channels for body in bodies]
        assert here.of(Delivered) == expected

    def test_a_subscription_is_before_the_next_message(self) -> None:
        """What is published right after `subscribe` comes back, if `receives` says so;
        after `unsubscribe` it does not."""
        channel = self.channel("a")
        here = self.enter()
        engine = here.engine
        assert not engine.receives(channel)
        engine.subscribe([channel])
        assert engine.receives(channel)
        engine.publish(channel, b"1")
        engine.unsubscribe([channel])
        assert not engine.receives(channel)
        engine.publish(channel, b"2")
        engine.subscribe([channel, channel])
        assert engine.receives(channel)
        engine.publish(channel, b"3")
        here.until_event(Accepted, 3)
        here.until(lambda: Delivered(channel, b"3") in here.events)
        bodies = [event.envelope for event in here.of(Delivered)]
        assert bodies.count(b"3") == 1
        assert set(bodies) <= {b"1", b"2", b"3"}
        assert engine.channels == 1

    def test_many_channels(self) -> None:
        """Ten thousand are subscribed to, and `Subscribed` says when."""
        channels = self.channels(*map(str, range(10_000)))
        here, other = self.enter(*channels), self.enter()
        assert len(here.of(Subscribed)) == 1
        for channel in channels[::100]:
            other.engine.publish(channel, b"x")
        here.until_event(Delivered, 100)
        assert [event.channel for event in here.of(Delivered)] == channels[::100]
        here.engine.unsubscribe(channels)
        here.engine.unsubscribe(self.channels("unknown"))
        assert here.engine.channels == 0

    # The transport

    def test_bytes_may_be_cut_anywhere(self) -> None:
        """The events are the same, however small the pieces are."""
        whole = self.enter(*self.channels("a"))
        for piece in (1, 2, 3, 7):
            engine = self.make_engine()
            engine.subscribe(self.channels("a"))
            cut = self.open(engine)
            cut.piece = piece
            cut.until_event(Subscribed)
            bodies = [b"%d\r\n%d" % (piece, number) for number in range(100)]
            self._publish(cut, self.channel("a"), bodies)
            for transport in (cut, whole):
                transport.until_event(Delivered, 100)
            cut.until_event(Accepted, 100)
            assert cut.of(Delivered) == whole.of(Delivered)
            assert [type(e) for e in cut.events[:2]] == [Ready, Subscribed]
            whole.events.clear()
            self._transports.remove(cut)
            cut.close()

    def test_what_is_late_comes_whole(self) -> None:
        """Nothing is lost or moved when bytes wait on their way."""
        late, other = self.enter(*self.channels("a")), self.enter(*self.channels("a"))
        late.held = True
        bodies = [b"%d" % number for number in range(1000)]
        self._publish(other, self.channel("a"), bodies)
        other.until_event(Delivered, 1000)
        assert not late.of(Delivered)
        late.held = False
        late.until_event(Delivered, 1000)
        assert late.of(Delivered) == other.of(Delivered)

    def test_silence_is_noticed(self) -> None:
        """A peer that sends nothing has failed within a minute, but may come back."""
        here = self.enter(*self.channels("a"))
        here.advance(_SILENCE, answered=False)
        (failed,) = here.of(Failed)
        assert here.events[-1] is failed
        assert not failed.permanent
        assert failed.reason
        assert here.engine.deadline() is None
        here.events.clear()
        here.feed(here.received)
        assert here.events == []

    def test_silence_at_the_beginning_is_noticed(self) -> None:
        """Likewise where it never says a word."""
        here = self.open(self.make_engine())
        here.advance(_SILENCE, answered=False)
        assert [type(event) for event in here.events] == [Failed]

    def test_a_peer_that_answers_has_not_failed(self) -> None:
        """However long nothing is published."""
        here = self.enter(*self.channels("a"))
        here.advance(2 * _SILENCE, answered=True)
        here.engine.publish(self.channel("a"), b"x")
        assert here.until_event(Delivered).envelope == b"x"

    def test_a_connection_may_end_within_any_byte(self) -> None:
        """The next one begins anew: with all channels, and without what was before."""
        here = self.enter(*self.channels("a", "b"))
        here.engine.publish(self.channel("a"), b"whole")
        start = len(here.received)
        here.until_event(Delivered)
        here.until_event(Accepted)
        data = here.received[start:]
        for end in range(len(data)):
            here.feed(data[:end])
            here.engine.publish(self.channel("a"), b"never sent")
            here = self.again(here)
            assert not here.engine.receives(self.channel("a"))
            here.until_event(Subscribed)
            assert [type(event) for event in here.events] == [Ready, Subscribed]
            here.engine.publish(self.channel("b"), b"again")
            assert here.until_event(Delivered).envelope == b"again"
            here.until_event(Accepted)
            self._check_receivers(here, [1])

    def test_without_a_connection_it_only_remembers_channels(self) -> None:
        """Nothing is sent, and nothing is due."""
        here = self.enter(*self.channels("a"))
        here.engine.publish(self.channel("a"), b"x")
        assert here.engine.size > 0
        here.close()
        self._transports.remove(here)
        engine = here.engine
        engine.subscribe(self.channels("b"))
        engine.unsubscribe(self.channels("a"))
        assert (engine.size, engine.take_output()) == (0, b"")
        assert engine.deadline() is None
        assert engine.channels == 1
        new = self.open(engine)
        new.until_event(Subscribed)
        for name in "ab":
            engine.publish(self.channel(name), b"x")
        new.until_event(Accepted, 2)
        self._check_receivers(new, [0, 1])

    def test_garbage_is_a_failure_and_never_an_exception(self) -> None:
        """Whatever bytes come; after `Failed` comes nothing more."""
        choose = random.Random(7)
        here = self.enter(*self.channels("a"))
        genuine = here.received
        for _ in range(100):
            here = self.again(here)
            data = bytearray(genuine)
            for _ in range(choose.randrange(1, 9)):
                data[choose.randrange(len(data))] = choose.randrange(256)
            here.piece = choose.choice((0, 1, 5))
            here.feed(bytes(data) + choose.randbytes(100))
            failed = here.of(Failed)
            assert failed in ([], here.events[-1:])
