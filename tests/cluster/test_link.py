"""The link: an engine's connection, driven by the server's reactor."""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import tls_harness
from cluster_harness import Linked
from harness import DEADLINE, Wrapped

from simple_ws.cluster.engine import Accepted, Delivered, Ready, Subscribed
from simple_ws.cluster.link import LinkState
from simple_ws.cluster.stream import Stream, TLSStream
from simple_ws.loop.reactor import READ, WRITE


@pytest.fixture
def linked() -> Iterator[Linked]:
    with Linked() as linked:
        yield linked


def pauses(linked: Linked) -> float:
    """Seconds until the next attempt."""
    assert linked.link.state is LinkState.WAITING
    assert linked.link._timer is not None
    return linked.link._timer.when - linked.clock.now


def read_all(sock: socket.socket) -> bytes:
    sock.setblocking(False)
    data = b""
    with suppress(BlockingIOError):
        while part := sock.recv(2**20):
            data += part
    return data


class TestConnecting:
    def test_it_is_up_when_the_engine_says_that_it_is_ready(
        self, linked: Linked
    ) -> None:
        far = linked.peer()
        linked.link.start()
        assert linked.link.state is LinkState.CONNECTING
        linked.turn()
        assert linked.link.state is LinkState.GREETING
        assert linked.states == []
        far.sendall(b"ready\n")
        linked.turn()
        assert linked.link.state is LinkState.UP
        assert linked.states == [(True, "lines 1.0")]
        assert linked.events == [Ready("lines 1.0")]

    def test_start_of_a_started_one_does_nothing(self, linked: Linked) -> None:
        linked.up()
        linked.link.start()
        assert linked.link.up
        assert not linked.threads

    def test_failures_are_told_once_and_attempts_go_on(
        self, linked: Linked, caplog: pytest.LogCaptureFixture
    ) -> None:
        refused = [OSError(errno.ECONNREFUSED, "refused") for _ in range(5)]
        linked.results.extend(refused)
        linked.link.start()
        linked.turn()
        for _ in range(4):
            linked.advance(2)
        assert not linked.results
        assert linked.states == [(False, "refused")]
        assert caplog.messages == ["engine: down: refused"]
        assert linked.link.connects == {"start": 1, "refused": 4}
        assert not linked.link.permanent

    def test_another_reason_is_told(self, linked: Linked) -> None:
        linked.results.extend([OSError("no such host"), OSError("refused")])
        linked.link.start()
        linked.turn()
        linked.advance(2)
        assert linked.states == [(False, "no such host"), (False, "refused")]

    def test_pauses_double_with_full_jitter(self) -> None:
        class Longest:
            asked: list[float]

            def uniform(self, low: float, high: float) -> float:
                assert low == 0
                self.asked.append(high)
                return high

        Longest.asked = []
        with Linked(rng=Longest()) as linked:
            linked.link.start()
            for _ in range(8):
                linked.results.append(OSError("refused"))
                linked.turn()
                linked.clock.now += pauses(linked)
                linked.turn(1)
        assert Longest.asked == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]

    def test_pauses_are_short_again_after_it_was_up_for_a_while(
        self, linked: Linked
    ) -> None:
        linked.results.extend([OSError("refused")] * 6)
        linked.link.start()
        linked.turn()
        for _ in range(5):
            linked.advance(2)
        far = linked.peer()
        linked.advance(2)
        far.sendall(b"ready\n")
        linked.turn()
        linked.clock.now += 2.1
        far.close()
        linked.turn(1)
        assert pauses(linked) <= 0.05

    def test_pauses_grow_while_it_is_up_for_moments_only(self, linked: Linked) -> None:
        for number in range(8):
            far = linked.peer()
            linked.link.start() if not number else linked.advance(2)
            linked.turn()
            far.sendall(b"ready\n")
            linked.turn()
            far.close()
            linked.turn()
        assert linked.link._failures == 8

    def test_permanent_failure_is_tried_again_every_30_seconds(
        self, linked: Linked, caplog: pytest.LogCaptureFixture
    ) -> None:
        far = linked.peer()
        linked.link.start()
        linked.turn()
        far.sendall(b"never wrong password\n")
        linked.turn()
        assert linked.states == [(False, "wrong password")]
        assert linked.link.permanent
        assert pauses(linked) == 30
        far = linked.peer()
        linked.advance(29)
        assert linked.results
        linked.advance(1)
        far.sendall(b"never wrong password\n")
        linked.turn()
        assert len(linked.states) == len(caplog.messages) == 1
        far = linked.peer()
        linked.advance(30)
        far.sendall(b"ready\n")
        linked.turn()
        assert linked.link.up
        assert not linked.link.permanent

    def test_engine_that_is_never_ready_is_given_up(self, linked: Linked) -> None:
        far = linked.peer()
        linked.link.start()
        linked.turn()
        for _ in range(10):
            far.sendall(b"channel body\n")
            linked.advance(1)
        assert linked.states == [(False, "the engine was not ready in 10 s")]

    def test_no_thread_to_be_had_is_a_failure(self) -> None:
        def refuse(function: object) -> None:
            raise RuntimeError("can't start new thread")

        with Linked(run_in_thread=refuse) as linked:
            linked.link.start()
            assert linked.states == [(False, "can't start new thread")]
            assert pauses(linked) <= 0.05

    def test_real_thread_connects(self) -> None:
        near, far = socket.socketpair()
        where: list[threading.Thread] = []

        def connect(cancelled: object) -> socket.socket:
            where.append(threading.current_thread())
            return near

        with Linked() as given, far:
            options = {"on_event": print, "on_state": lambda *args: None}
            link = type(given.link)(given.reactor, given.engine, connect, **options)
            link.start()
            while link.state is LinkState.CONNECTING:
                given.reactor.run_once(DEADLINE)
            assert where[0] is not threading.current_thread()
            assert where[0].daemon
            where[0].join(DEADLINE)
            link.stop()


class TestLoss:
    @pytest.mark.parametrize(
        ("how", "reason", "why"),
        [
            ("closed", "the connection was closed by the engine", "closed"),
            ("failed", "demoted", "failed"),
            ("silent", "no sign of life in 3 s", "failed"),
            ("given up", "too much waits", "failed"),
        ],
    )
    def test_it_is_told_and_the_next_connection_is_made(
        self, linked: Linked, how: str, reason: str, why: str
    ) -> None:
        far = linked.up()
        if how == "closed":
            far.close()
        elif how == "failed":
            far.sendall(b"fail demoted\n")
        elif how == "given up":
            linked.link.give_up("too much waits")
        else:
            linked.advance(1)
            linked.advance(2)
        linked.turn()
        assert linked.states[-1] == (False, reason)
        assert linked.engine.log == ["connected", "disconnected"]
        far = linked.peer()
        linked.advance(2)
        assert linked.link.connects == {"start": 1, why: 1}
        far.sendall(b"ready\n")
        linked.turn()
        assert linked.states[-1] == (True, "lines 1.0")

    def test_engine_is_told_before_the_listener(self) -> None:
        log: list[str] = []
        with Linked(on_state=lambda up, reason: log.append(reason)) as linked:
            linked.engine.log = log
            linked.up().close()
            linked.turn()
        at = log.index("the connection was closed by the engine")
        assert log[at - 1] == "disconnected"

    def test_nothing_of_a_lost_connection_is_handed_on(self, linked: Linked) -> None:
        far = linked.up()
        del linked.events[:]
        far.sendall(b"a 1\nfail demoted\nb 2\n")
        linked.turn()
        assert linked.events == [Delivered("a", b"1")]

    def test_listener_may_stop_it_in_the_middle(self) -> None:
        events = []

        def on_event(event: object) -> None:
            events.append(event)
            if isinstance(event, Delivered):
                linked.link.stop()

        with Linked(on_event=on_event) as linked:
            far = linked.up()
            far.sendall(b"a 1\nb 2\n")
            linked.turn()
            assert events[2:] == [Delivered("a", b"1")]
            assert linked.link.state is LinkState.STOPPED

    def test_listener_may_stop_it_when_it_comes_up(self) -> None:
        with Linked(on_state=lambda up, reason: linked.link.stop()) as linked:
            far = linked.peer()
            linked.link.start()
            linked.turn()
            far.sendall(b"ready\na 1\n")
            linked.turn()
            assert linked.events == []
            assert linked.link.state is LinkState.STOPPED

    def test_errors_of_listeners_are_logged_and_it_goes_on(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*args: object) -> None:
            raise ValueError("a fault of ours")

        with Linked(on_state=fail, on_event=fail) as linked:
            far = linked.up()
            far.sendall(b"a 1\n")
            linked.turn()
            assert linked.link.up
        errors = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert len(errors) == 4

    def test_interrupt_loses_the_connection_and_not_a_message_in_silence(self) -> None:
        def on_event(event: object) -> None:
            if isinstance(event, Delivered):
                raise KeyboardInterrupt

        with Linked(on_event=on_event) as linked:
            far = linked.up()
            far.sendall(b"a 1\nb 2\n")
            with pytest.raises(KeyboardInterrupt):
                linked.turn()
            assert linked.states[-1] == (False, "an internal error, or an interrupt")

    @pytest.mark.skipif(not hasattr(socket, "SO_LINGER"), reason="no SO_LINGER here")
    def test_what_is_given_up_is_reset(self, linked: Linked) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = socket.create_connection(listener.getsockname())
            far, _ = listener.accept()
        with far:
            linked.results.append(near)
            linked.link.start()
            linked.turn()
            assert far.recv(100) == b"hello\n"
            linked.link.give_up("silent")
            with pytest.raises(ConnectionResetError):
                far.recv(100)


class TestOutput:
    def test_a_turn_is_one_write(self, linked: Linked) -> None:
        far = linked.up()
        for number in range(3):
            linked.engine.publish("c", b"%d" % number)
            linked.link.flush_soon()
        assert linked.link.waiting == 12
        linked.turn()
        assert linked.link.waiting == 0
        assert far.recv(100) == b"c 0\nc 1\nc 2\n"
        assert linked.link.bytes_sent == len("hello\n") + 12

    def test_what_is_published_in_a_callback_leaves_in_the_same_turn(self) -> None:
        def on_event(event: object) -> None:
            if isinstance(event, Delivered):
                linked.engine.publish("c", b"x")
                linked.link.flush_soon()

        with Linked(on_event=on_event) as linked:
            far = linked.up()
            far.sendall(b"a 1\n")
            linked.reactor.run_once(0)
            assert far.recv(100) == b"c x\n"

    def test_flush_without_a_connection_does_nothing(self, linked: Linked) -> None:
        linked.engine.subscribe(["a"])
        linked.link.flush_soon()
        linked.link.flush()
        linked.turn()
        assert linked.link.state is LinkState.STOPPED

    def test_output_waits_for_a_slow_engine(self, linked: Linked) -> None:
        far = linked.up()
        body = b"x" * 2**20
        for _ in range(3):
            linked.engine.publish("c", body)
            linked.link.flush_soon()
            linked.turn()
        assert linked.link.waiting > 2**20
        before = linked.link.bytes_sent
        linked.link.flush()  # no attempt while the system has no room
        assert linked.link.bytes_sent == before
        got = b""
        while linked.link.waiting:
            got += read_all(far)
            linked.turn(1)
        got += read_all(far)
        assert got == (b"c " + body + b"\n") * 3
        assert linked.link._events == READ

    def test_loss_drops_what_waits(self, linked: Linked) -> None:
        far = linked.up()
        linked.engine.publish("c", b"x" * 2**20)
        linked.link.flush_soon()
        linked.turn()
        assert linked.link.waiting
        linked.link.give_up("enough")
        assert linked.link.waiting == 0
        far = linked.peer()
        linked.advance(2)
        assert far.recv(100) == b"hello\n"

    def test_lost_at_a_write(self, linked: Linked) -> None:
        far = linked.up()
        far.close()
        linked.engine.publish("c", b"x")
        linked.link.flush()
        assert linked.states[-1][0] is False
        assert linked.link.state is LinkState.WAITING


class TestInput:
    def test_bytes_may_be_cut_anywhere(self, linked: Linked) -> None:
        far = linked.up()
        del linked.events[:]
        for byte in b"a 1\naccepted\nb 2\n":
            far.sendall(bytes([byte]))
            linked.turn(1)
        assert linked.events == [
            Delivered("a", b"1"),
            Accepted(1),
            Delivered("b", b"2"),
        ]

    def test_a_turn_reads_so_many_bytes_at_most(self, linked: Linked) -> None:
        far = linked.up()
        line = b"c " + b"x" * 997 + b"\n"
        far.setblocking(False)
        for sock in (far, linked.link._stream._sock):  # type: ignore[union-attr]
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                sock.setsockopt(socket.SOL_SOCKET, option, 2**20)
        sent = 0
        with suppress(BlockingIOError):
            while sent < 2**20:
                sent += far.send(line)
        before = linked.link.bytes_received
        assert sent > 262144
        linked.reactor.run_once(0)
        assert 0 < linked.link.bytes_received - before <= 262144 + 16384
        linked.until(lambda: linked.link.bytes_received - before == sent)

    def test_a_turn_reads_for_so_long_at_most(self, linked: Linked) -> None:
        far = linked.up()

        def work(event: object) -> None:
            linked.clock.now += 0.004

        linked.link._on_event = work
        far.sendall(b"c x\n" * 8192)
        before = linked.link.bytes_received
        linked.reactor.run_once(0)
        assert linked.link.bytes_received - before == 16384

    def test_deadlines_follow_what_comes(self, linked: Linked) -> None:
        far = linked.up()
        for _ in range(10):
            linked.advance(0.9)
            far.sendall(b"accepted\n")
            linked.turn()
        assert read_all(far) == b""
        linked.advance(1)
        assert read_all(far) == b"alive?\n"
        linked.advance(1.9)
        far.sendall(b"accepted\n")
        linked.turn()
        linked.advance(0.5)
        assert linked.link.up

    def test_what_came_in_a_pause_of_ours_counts(self, linked: Linked) -> None:
        far = linked.up()
        linked.advance(1)
        assert read_all(far) == b"alive?\n"
        far.sendall(b"accepted\n")
        linked.clock.now += 60
        linked.turn()
        assert linked.link.up


class TestStop:
    def test_everything_is_sent_and_closed(self, linked: Linked) -> None:
        far = linked.up()
        linked.engine.publish("c", b"last")
        linked.link.stop()
        assert far.recv(100) == b"c last\n"
        assert far.recv(100) == b""
        assert linked.states == [(True, "lines 1.0")]

    def test_it_may_be_started_again(self, linked: Linked) -> None:
        linked.up()
        linked.link.stop()
        linked.link.stop()
        linked.up()

    @pytest.mark.parametrize("moment", ["before", "while", "after"])
    def test_an_attempt_is_given_up_with_its_socket(
        self, linked: Linked, moment: str
    ) -> None:
        far = linked.peer()
        linked.link.start()
        attempt = linked.threads.popleft()
        if moment == "before":
            linked.link.stop()
            attempt()
        elif moment == "while":
            near = linked.results.popleft()

            class Late(Wrapped):
                pass

            connect = linked.link._attempt._connect  # type: ignore[union-attr]
            assert connect is not None

            def stop_and_connect(cancelled: Any) -> Any:
                assert not cancelled()
                linked.link.stop()
                assert cancelled()
                return Late(near)

            linked.link._attempt._connect = stop_and_connect  # type: ignore[union-attr]
            attempt()
        else:
            attempt()  # it is done, and the loop does not know yet
            linked.link.stop()
        assert far.recv(100) == b""
        linked.turn()
        assert linked.link.state is LinkState.STOPPED
        assert linked.engine.log == []

    def test_attempt_of_before_is_not_taken_for_the_new_one(
        self, linked: Linked
    ) -> None:
        old, new = linked.peer(), linked.peer()
        linked.link.start()
        first = linked.threads.popleft()
        first()
        linked.link.stop()
        linked.link.start()
        linked.turn()
        assert old.recv(100) == b""
        assert new.recv(100) == b"hello\n"

    def test_while_it_waits(self, linked: Linked) -> None:
        linked.results.append(OSError("refused"))
        linked.link.start()
        linked.turn()
        linked.link.stop()
        linked.advance(60)
        assert not linked.threads

    def test_no_descriptor_is_left(self, linked: Linked) -> None:
        if not os.path.isdir("/proc/self/fd"):
            pytest.skip("no /proc here")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            far = linked.up()
            linked.link.stop()
            far.close()
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
class TestFork:
    def test_child_closes_its_copy_and_leaves_the_connection(
        self, linked: Linked
    ) -> None:
        far = linked.up()
        stream = linked.link._stream
        assert stream is not None
        child = os.fork()
        if child == 0:
            good = linked.link.state is LinkState.STOPPED and stream.fileno() == -1
            os._exit(0 if good else 1)
        assert os.waitpid(child, 0)[1] == 0
        far.sendall(b"a 1\n")
        linked.turn()
        assert linked.events[-1] == Delivered("a", b"1")

    def test_child_of_one_that_connects(self, linked: Linked) -> None:
        far = linked.peer()
        linked.link.start()
        linked.threads.popleft()()
        child = os.fork()
        if child == 0:
            linked.turn()
            os._exit(0 if linked.link.state is LinkState.STOPPED else 1)
        assert os.waitpid(child, 0)[1] == 0
        linked.turn()
        assert far.recv(100) == b"hello\n"


def tls_pair() -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    near, far = socket.socketpair()
    for sock in (near, far):
        sock.settimeout(DEADLINE)
    ours, theirs = tls_harness.client_side(), tls_harness.server_side()
    server: list[ssl.SSLSocket] = []

    def shake() -> None:
        server.append(theirs.wrap_socket(far, server_side=True))

    thread = threading.Thread(target=shake)
    thread.start()
    client = ours.wrap_socket(near, server_hostname="localhost")
    thread.join(DEADLINE)
    return client, server[0]


class TestTLS:
    def test_messages_go_both_ways(self, linked: Linked) -> None:
        near, far = tls_pair()
        with far:
            linked.results.append(near)
            linked.link.start()
            linked.turn()
            assert far.recv(100) == b"hello\n"
            far.sendall(b"ready\n" + b"c 0123456789\n" * 3_000)
            linked.until(lambda: len(linked.events) == 3_001)
            assert linked.link.up

    def test_more_than_the_system_takes(self, linked: Linked) -> None:
        near, far = tls_pair()
        with far:
            linked.results.append(near)
            linked.link.start()
            linked.turn()
            assert far.recv(100) == b"hello\n"
            body = os.urandom(2**20).hex().encode()
            linked.engine.publish("c", body)
            linked.link.flush()
            assert linked.link.waiting
            assert linked.link._events == READ | WRITE
            far.setblocking(False)
            got = b""
            while len(got) < len(body) + 3:
                with suppress(ssl.SSLWantReadError):
                    got += far.recv(2**20)
                linked.turn(1)
            assert got == b"c " + body + b"\n"
            assert linked.link._events == READ

    def test_input_that_no_selector_sees_is_read(self, linked: Linked) -> None:
        near, far = tls_pair()
        with far:
            linked.results.append(near)
            linked.link.start()
            linked.turn()
            far.sendall(b"ready\n")
            linked.turn()

            def work(event: object) -> None:
                linked.clock.now += 1e-5
                linked.events.append(event)  # type: ignore[arg-type]

            linked.link._on_event = work
            far.sendall(b"c x\n" * 4096)  # one record, read in several parts
            linked.until(lambda: len(linked.events) == 4097)

    def test_end_of_the_peer_is_seen(self, linked: Linked) -> None:
        near, far = tls_pair()
        linked.results.append(near)
        linked.link.start()
        linked.turn()
        far.close()
        linked.turn()
        assert linked.states[-1][0] is False

    def test_directions_that_wait_for_each_other(self) -> None:
        class Scripted(Wrapped):
            script: list[Exception | bytes | int]

            def recv(self, size: int) -> bytes:
                return self._next()  # type: ignore[no-any-return]

            def send(self, data: object) -> int:
                return self._next()  # type: ignore[no-any-return]

            def _next(self) -> Any:
                result = self.script.pop(0)
                if isinstance(result, Exception):
                    raise result
                return result

        near, far = socket.socketpair()
        with near, far:
            sock = Scripted(near)
            stream = TLSStream(sock)  # type: ignore[arg-type]
            sock.script = [ssl.SSLWantWriteError(), ssl.SSLWantReadError(), b"x", 3]
            assert stream.recv(9) is None
            assert stream.events == WRITE
            assert stream.send(memoryview(b"abc")) == 0
            assert stream.blocked
            assert stream.recv(9) == b"x"
            assert stream.events == READ
            assert stream.send(memoryview(b"abc")) == 3
            assert not stream.blocked
            assert stream.events == READ


class Faulty(Wrapped):
    """A socket whose n-th call fails, or does nothing."""

    def __init__(self, sock: socket.socket, number: int, error: OSError) -> None:
        super().__init__(sock)
        self.left, self.error = number, error

    def _call(self, function: Any, argument: Any) -> Any:
        self.left -= 1
        if not self.left:
            raise self.error
        return function(argument)

    def recv(self, size: int) -> Any:
        return self._call(self._sock.recv, size)

    def send(self, data: Any) -> Any:
        return self._call(self._sock.send, data)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(errno.ECONNRESET, "reset"),
        OSError(errno.EHOSTUNREACH, "no route"),
        BlockingIOError(errno.EAGAIN, "not now"),
        InterruptedError(errno.EINTR, "interrupted"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_call_of_the_socket_may_fail(error: OSError) -> None:
    passing = isinstance(error, BlockingIOError | InterruptedError)
    for number in range(1, 50):
        with Linked() as linked:
            far = linked.peer()
            near = Faulty(linked.results.pop(), number, error)
            linked.results.append(near)
            linked.link.start()
            linked.turn()
            with suppress(BrokenPipeError):
                far.sendall(b"ready\n")
                linked.turn()
                linked.engine.publish("c", b"1")
                linked.link.flush_soon()
                linked.turn()
                far.sendall(b"a 1\n")
                linked.turn()
            if near.left > 0:
                assert number > 4
                return
            if passing:
                assert linked.events == [Ready("lines 1.0"), Delivered("a", b"1")]
                assert read_all(far) == b"hello\nc 1\n"
            else:
                assert linked.states[-1] == (False, error.strerror)
                assert near.fileno() == -1
                assert linked.link.state is LinkState.WAITING
    raise AssertionError("no run without a failure")


def test_stream_of_a_closed_socket_can_be_closed_again() -> None:
    near, far = socket.socketpair()
    far.close()
    stream = Stream(near)
    stream.abort()
    stream.abort()
    assert stream.fileno() == -1


def test_subscribed_is_handed_on(linked: Linked) -> None:
    linked.up()
    assert linked.events == [Ready("lines 1.0"), Subscribed()]
