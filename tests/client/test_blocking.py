"""The blocking client: time, threads, a server that does not read, released resources.

Behaviour shared with the asyncio client is tested in `test_clients`.
"""

from __future__ import annotations

import gc
import itertools
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from client_harness import (
    Patient,
    Server,
    elsewhere,
    scripted,
    server_close,
    server_frame,
)
from harness import BINARY, DEADLINE, PING, PONG, TEXT

import simple_ws
from simple_ws.client import driving
from simple_ws.client.blocking import Connection, connect
from simple_ws.client.dial import READ, WRITE, wait_for
from simple_ws.constants import CloseCause
from simple_ws.errors import ConnectionClosed, HandshakeRefused

BIG = b"\xa5" * (4 * 2**20)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Patient:
    """The client's time passes when nothing else happens."""
    patient = Patient()
    monkeypatch.setattr(driving, "_clock", patient.clock)
    monkeypatch.setattr(driving, "_wait_for", patient)
    return patient


def test_connect_is_exported() -> None:
    assert simple_ws.connect is connect
    assert simple_ws.ConnectionClosed is ConnectionClosed


# --- Time ----------------------------------------------------------------------------


def tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each look at the client's clock take a millisecond."""
    now = itertools.count(1000.0, 0.001)
    monkeypatch.setattr(driving, "_clock", lambda: next(now))


PONGS = server_frame(PONG) * 2**10


class TestFloods:
    def test_time_is_up_in_a_flood(
        self, open_pair: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tick(monkeypatch)
        ws, _server = open_pair(rest=PONGS + server_frame(TEXT, "at last"))
        with pytest.raises(TimeoutError, match=r"no message within 0\.02 s"):
            ws.recv(0.02)
        assert ws._unread
        with pytest.raises(TimeoutError, match=r"no pong within 0\.02 s"):
            ws.ping(timeout=0.02)
        assert ws._unread
        assert ws.recv() == "at last"
        assert ws.is_open()

    def test_looking_sees_what_was_read_to_its_end(
        self, open_pair: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tick(monkeypatch)
        ws, _ = open_pair(rest=PONGS + server_frame(TEXT, "at last"))
        # `select` would not tell of a message that is not in the system's hands.
        assert ws.recv(0) == "at last"

    def test_close_is_bounded_in_a_flood(
        self, open_pair: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tick(monkeypatch)
        ws, _server = open_pair(rest=PONGS * 128, close_timeout=0.02)
        ws.close()
        assert ws.close_code == 1000
        assert ws._rest

    def test_server_that_floods_and_does_not_read_is_given_up(
        self, open_pair: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ws, _ = open_pair(rest=PONGS, write_timeout=0.2)
        tick(monkeypatch)
        ws._clock = driving._clock
        with pytest.raises(ConnectionClosed) as caught:
            ws.send(BIG)
        assert caught.value.cause == CloseCause.SLOW_CONSUMER

    def test_another_thread_has_its_turn_in_a_flood(
        self, open_pair: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tick(monkeypatch)
        ws, _server = open_pair(rest=PONGS)
        entered = threading.Event()

        def look(sock: Any, events: int, timeout: float | None) -> int:
            # Between two turns the lock is free.
            if timeout == 0.0 and ws._calls._lock.acquire(blocking=False):
                entered.set()
                ws._calls._lock.release()
            return wait_for(sock, events, timeout)

        monkeypatch.setattr(driving, "_wait_for", look)
        with pytest.raises(TimeoutError):
            ws.recv(0.05)
        assert entered.is_set()

    def test_end_behind_a_flood_is_seen(
        self, open_pair: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tick(monkeypatch)
        last = server_frame(TEXT, "at last") + server_close(1001, "bye")
        ws, server = open_pair(rest=PONGS + last)
        server.sock.close()
        assert list(ws) == ["at last"]
        assert (ws.close_code, ws.close_reason) == (1001, "bye")


class TestTime:
    def test_receiving_gives_up_in_time(self, patient: Any, open_pair: Any) -> None:
        ws, server = open_pair()
        began = patient.clock.now
        with pytest.raises(TimeoutError, match="no message within 3 s"):
            ws.recv(timeout=3)
        assert patient.clock.now == began + 3
        server.send(TEXT, "later")
        assert ws.recv(timeout=3) == "later"

    def test_looking_does_not_wait(self, patient: Any, open_pair: Any) -> None:
        ws, server = open_pair()
        began = patient.clock.now
        with pytest.raises(TimeoutError, match="no message within 0 s"):
            ws.recv(0)
        server.send(TEXT, "there")
        assert ws.recv(0) == "there"
        assert patient.clock.now == began

    def test_silent_server_is_pinged_while_waiting(
        self, patient: Any, open_pair: Any
    ) -> None:
        ws, server = open_pair(ping_interval=20, ping_timeout=5)
        began = patient.clock.now
        pings = []

        def answer() -> None:
            first, payload = server.read_frame()
            assert first == 0x80 | PING
            pings.append(patient.clock.now - began)
            server.send(PONG, payload)

        patient.steps += [None, answer, None, answer, lambda: server.send(TEXT, "now")]
        assert ws.recv() == "now"
        assert pings == [20, 40]
        assert ws.latency == 0

    def test_pings_go_on_over_many_short_waits(
        self, patient: Any, open_pair: Any
    ) -> None:
        ws, server = open_pair(ping_interval=20, ping_timeout=5)
        for _ in range(20):
            with pytest.raises(TimeoutError):
                ws.recv(timeout=1)
        with pytest.raises(TimeoutError):
            ws.recv(timeout=1)
        assert server.read_frame()[0] == 0x80 | PING

    def test_what_came_while_nobody_waited_is_read_before_judging(
        self, patient: Any, open_pair: Any
    ) -> None:
        ws, server = open_pair(ping_interval=20, ping_timeout=5)
        patient.clock.now += 20
        with pytest.raises(TimeoutError):
            ws.recv(timeout=1)
        _, payload = server.read_frame()
        server.send(PONG, payload)
        patient.clock.now += 1000
        server.send(TEXT, "still here")
        assert ws.recv() == "still here"

    def test_silence_is_not_judged_while_the_inbox_is_full(
        self, patient: Any, open_pair: Any
    ) -> None:
        ws, server = open_pair(ping_interval=20, ping_timeout=5, read_limit=1)
        server.send(TEXT, "unread")
        with pytest.raises(TimeoutError, match="no pong within 7 s"):
            # Not by the socket: there is nothing to wait for there.
            self.with_time_in_the_lock(ws, patient).ping(timeout=7)
        assert ws.is_open()
        assert ws.recv() == "unread"

    @staticmethod
    def with_time_in_the_lock(ws: Connection, patient: Patient) -> Connection:
        def wait(timeout: float | None) -> bool:
            assert timeout is not None
            patient.clock.now += timeout
            return False

        ws._calls._lock.wait = wait  # type: ignore[method-assign, assignment]
        return ws

    def test_server_without_a_sign_of_life_is_given_up(
        self, patient: Any, open_pair: Any
    ) -> None:
        ws, server = open_pair(ping_interval=20, ping_timeout=5)
        began = patient.clock.now
        with pytest.raises(ConnectionClosed) as caught:
            ws.recv()
        assert patient.clock.now == began + 25
        assert caught.value.code == 1011
        assert caught.value.cause is CloseCause.PING_TIMEOUT
        assert server.read_frame()[0] == 0x80 | PING
        assert server.read_close() == (
            1011,
            "no answer to a ping within ping_timeout 5 s",
        )
        assert server.read_rest() == b""

    def test_server_that_reads_nothing_is_given_up(
        self, patient: Any, open_pair: Any
    ) -> None:
        ws, server = open_pair(write_timeout=7)
        began = patient.clock.now
        with pytest.raises(ConnectionClosed) as caught:
            ws.send(BIG)
        assert patient.clock.now == began + 7
        assert caught.value.code == 1006
        assert caught.value.cause is CloseCause.SLOW_CONSUMER
        assert "has read nothing for 7 s" in str(caught.value)
        assert len(server.read_rest()) < len(BIG)
        with pytest.raises(ConnectionClosed):
            ws.send("x")

    def test_server_that_reads_slowly_is_not(
        self, patient: Any, open_pair: Any
    ) -> None:
        ws, server = open_pair(write_timeout=7, ping_interval=1, ping_timeout=1)
        slow: list[bytes] = []

        def read_some() -> None:
            patient.clock.now += 4
            slow.append(server.sock.recv(2**18))

        # Between two reads it is silent for longer than a ping would be waited for.
        patient.steps.extend([read_some, None, None] * 1000)
        began = patient.clock.now
        ws.send(BIG)
        assert patient.clock.now > began + 7
        patient.steps.clear()
        received = b"".join(slow)
        server._buffer = received
        assert server.read_message() == BIG

    def test_messages_are_received_while_sending_as_many_as_are_wanted(
        self, patient: Any, open_pair: Any
    ) -> None:
        ws, server = open_pair(read_limit=1000)
        server.sock.setblocking(False)
        sent = 0

        def flood() -> None:
            nonlocal sent
            try:
                while True:
                    sent += server.sock.send(server_frame(TEXT, "x" * 93)) // 95
            except BlockingIOError:
                server.sock.setblocking(True)

        patient.steps.append(flood)
        with pytest.raises(ConnectionClosed, match="has read nothing"):
            ws.send(BIG)
        assert sent > 100
        assert 0 < len(ws._inbox) < 10

    def test_sender_reads_again_when_another_thread_has_made_room(
        self, patient: Any, open_pair: Any
    ) -> None:
        def in_another_thread(function: Callable[[], Any]) -> Any:
            with elsewhere() as start:
                return start(function).result(DEADLINE)

        ws, server = open_pair(read_limit=1)
        taken: list[Any] = []
        patient.steps += [
            lambda: server.send(TEXT, "one"),  # then the inbox is full
            lambda: taken.append(in_another_thread(ws.recv)),
            None,
            lambda: server.send(TEXT, "two"),
        ]
        with pytest.raises(ConnectionClosed, match="has read nothing"):
            ws.send(BIG)
        assert taken == ["one"]
        assert ws.recv() == "two"
        assert patient.asked[:4] == [READ | WRITE, WRITE, READ | WRITE, WRITE]

    @pytest.mark.parametrize("answers", [False, True])
    def test_close_waits_for_an_answer_and_an_end(
        self, patient: Any, open_pair: Any, answers: bool
    ) -> None:
        ws, server = open_pair(close_timeout=5)
        if answers:
            patient.steps.append(lambda: server.write(server_close(1000)))
        began = patient.clock.now
        ws.close()
        assert patient.clock.now == began + (1 if answers else 5)
        assert ws.fileno() == -1


# --- A server that does not read -----------------------------------------------------


class TestSlowServer:
    def test_answers_to_a_flood_of_pings_are_bounded(
        self, patient: Any, open_pair: Any
    ) -> None:
        ws, server = open_pair()
        server.sock.setblocking(False)

        unsent, count = bytearray(), 0

        def flood() -> None:
            nonlocal count
            try:
                while True:
                    if not unsent:
                        unsent.extend(server_frame(PING, "x" * 125) * 100)
                        count += 100
                    del unsent[: server.sock.send(unsent)]
            except BlockingIOError:
                pass

        for _ in range(100):
            patient.steps.append(flood)
            with pytest.raises(TimeoutError):
                ws.recv(0)
        assert count > 1000
        assert sum(map(len, ws._outbox)) < 50_000

    def test_pongs_wait_behind_a_message_that_is_being_sent(
        self, patient: Any, open_pair: Any
    ) -> None:
        ws, server = open_pair()
        got = bytearray()
        patient.steps.append(lambda: server.send(PING, "between"))
        patient.steps.extend([lambda: got.extend(server.sock.recv(2**20))] * 1000)
        ws.send(BIG)
        patient.steps.clear()
        server._buffer = bytes(got)
        assert server.read_message() == BIG
        assert server.read_frame() == (0x80 | PONG, b"between")


# --- Threads -------------------------------------------------------------------------


class TestThreads:
    def test_one_sends_while_another_receives(self) -> None:
        count = 300

        def script(server: Server) -> None:
            server.accept()
            for _ in range(count):
                server.send(TEXT, server.read_message())
            assert server.read_close()[0] == 1000
            server.write(server_close(1000))

        with scripted(script) as server, connect(server.url) as ws, elsewhere() as go:
            sending = go(lambda: [ws.send(str(n)) for n in range(count)])
            assert [ws.recv() for _ in range(count)] == [str(n) for n in range(count)]
            sending.result(DEADLINE)

    def test_large_messages_both_ways_from_two_threads(self) -> None:
        rounds = 5

        def script(server: Server) -> None:
            server.accept()
            for _ in range(rounds):
                server.send(BINARY, BIG)  # before anything is read
                assert server.read_message() == BIG
            assert server.read_close()[0] == 1000
            server.write(server_close(1000))

        with (
            scripted(script) as server,
            connect(server.url, max_size=None, read_limit=1) as ws,
            elsewhere() as go,
        ):
            sending = go(lambda: [ws.send(BIG) for _ in range(rounds)])
            for _ in range(rounds):
                assert ws.recv(DEADLINE) == BIG
            sending.result(DEADLINE)

    def test_sender_reads_on_when_the_receiver_has_left(
        self, open_pair: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ws, server = open_pair(max_size=None, read_limit=2**30)
        waits = threading.Event()

        def wait(*how: Any) -> int:
            waits.set()
            return wait_for(*how)

        monkeypatch.setattr(driving, "_wait_for", wait)
        with elsewhere() as go:
            receiving = go(ws.recv)
            assert waits.wait(DEADLINE)
            sending = go(ws.send, BIG)
            server.send(TEXT, "for the receiver")
            assert receiving.result(DEADLINE) == "for the receiver"
            # Nobody receives now, and neither side reads before it has written.
            server.send(BINARY, BIG)
            assert server.read_message() == BIG
            sending.result(DEADLINE)
        assert ws.recv() == BIG

    def test_receiver_that_makes_room_wakes_who_waits_for_a_pong(
        self, open_pair: Any
    ) -> None:
        ws, server = open_pair(read_limit=1)
        wait, waits = ws._calls._lock.wait, threading.Event()

        def noted(timeout: float | None) -> bool:
            waits.set()
            return wait(timeout)

        ws._calls._lock.wait = noted
        with elsewhere() as go:
            pinging = go(ws.ping, b"", DEADLINE)
            first, payload = server.read_frame()
            assert first == 0x80 | PING
            server.send(TEXT, "fills the inbox")
            server.send(PONG, payload)
            assert waits.wait(DEADLINE)
            assert ws.recv() == "fills the inbox"
            assert pinging.result(DEADLINE / 3) >= 0

    def test_messages_go_to_one_receiver_each(self) -> None:
        count = 200

        def script(server: Server) -> None:
            server.accept()
            for n in range(count):
                server.send(TEXT, str(n))
            server.leave(1000)

        with scripted(script) as server, connect(server.url) as ws, elsewhere() as go:
            parts = [part.result(DEADLINE) for part in [go(list, ws) for _ in range(3)]]
        assert sorted(int(n) for part in parts for n in part) == list(range(count))

    def test_close_wakes_a_receiver(self) -> None:
        def script(server: Server) -> None:
            server.accept()
            assert server.read_close() == (1001, "going")
            server.write(server_close(1001))

        with scripted(script) as server, elsewhere() as go:
            ws = connect(server.url)
            receiving = go(list, ws)
            another = go(ws.recv, DEADLINE)
            ws.close(1001, "going")
            assert receiving.result(DEADLINE) == []
            with pytest.raises(ConnectionClosed):
                another.result(DEADLINE)
            assert ws.fileno() == -1

    def test_close_wakes_a_receiver_though_the_server_is_silent(self) -> None:
        def script(server: Server) -> None:
            server.accept()
            server.read_rest()

        with scripted(script) as server, elsewhere() as go:
            ws = connect(server.url, close_timeout=0.05)
            receiving = go(list, ws)
            ws.close()
            assert receiving.result(DEADLINE) == []
            assert ws.fileno() == -1

    def test_ping_is_answered_while_another_receives(self) -> None:
        def script(server: Server) -> None:
            server.accept()
            for _ in range(20):
                first, payload = server.read_frame()
                assert first == 0x80 | PING
                server.send(PONG, payload)
            server.leave(1000)

        with scripted(script) as server, connect(server.url) as ws, elsewhere() as go:
            receiving = go(list, ws)
            for _ in range(20):
                assert ws.ping(timeout=DEADLINE) >= 0
            assert receiving.result(DEADLINE) == []


# --- The socket ----------------------------------------------------------------------


class Failing:
    """A socket whose n-th call of a kind fails."""

    def __init__(self, sock: socket.socket, name: str, error: OSError) -> None:
        self._sock = sock
        self._name = name
        self._error = error

    def __getattr__(self, name: str) -> Any:
        if name != self._name:
            return getattr(self._sock, name)

        def fail(*_: Any) -> Any:
            raise self._error

        return fail


class TestSocket:
    def test_failed_send_tells_what_the_server_said_before(
        self, open_pair: Any
    ) -> None:
        ws, server = open_pair(
            sock=lambda sock: Failing(sock, "send", BrokenPipeError(32, "Broken pipe"))
        )
        server.send(TEXT, "last words")
        server.write(server_close(1008, "too many"))
        with pytest.raises(ConnectionClosed) as caught:
            ws.send("x")
        assert (caught.value.code, caught.value.reason) == (1008, "too many")
        assert ws.recv() == "last words"
        with pytest.raises(ConnectionClosed):
            ws.recv()

    def test_failed_send_is_a_reset_where_it_said_nothing(self, open_pair: Any) -> None:
        ws, _ = open_pair(
            sock=lambda sock: Failing(sock, "send", BrokenPipeError(32, "Broken pipe"))
        )
        with pytest.raises(ConnectionClosed) as caught:
            ws.send("x")
        assert (caught.value.code, caught.value.cause) == (1006, CloseCause.RESET)
        assert caught.value.reason == "Broken pipe"

    def test_failed_receive_is_a_reset(self, open_pair: Any) -> None:
        error = ConnectionResetError(104, "Connection reset by peer")
        ws, _ = open_pair(sock=lambda sock: Failing(sock, "recv", error))
        with pytest.raises(ConnectionClosed, match="Connection reset by peer"):
            ws.recv()

    def test_lost_connection_leaves_what_was_read(self, open_pair: Any) -> None:
        ws, server = open_pair(read_limit=1)
        for word in ("one", "two", "three"):
            server.send(TEXT, word)
        server.sock.close()
        assert ws.recv() == "one"
        with pytest.raises(ConnectionClosed) as caught:
            ws.send(BIG)
        assert caught.value.code == 1006
        assert [ws.recv(), ws.recv()] == ["two", "three"]
        with pytest.raises(ConnectionClosed):
            ws.recv()
        assert ws.close_code == 1006

    def test_close_of_a_lost_connection_forgets_what_was_not_read(
        self, open_pair: Any
    ) -> None:
        ws, server = open_pair(read_limit=1)
        server.write(server_frame(TEXT, "one") + server_frame(TEXT, "two"))
        server.sock.close()
        with pytest.raises(ConnectionClosed):
            ws.send(BIG)
        assert ws.close_code is None
        ws.close()
        assert ws.close_code == 1006
        assert ws.recv() == "one"
        with pytest.raises(ConnectionClosed):
            ws.recv()

    def test_descriptor_becomes_readable_with_a_message(self, open_pair: Any) -> None:
        ws, server = open_pair()
        server.send(TEXT, "one")
        server.send(TEXT, "two")
        readable, _, _ = select.select([ws], [], [], DEADLINE)
        assert readable == [ws]
        assert [ws.recv(0), ws.recv(0)] == ["one", "two"]
        with pytest.raises(TimeoutError):
            ws.recv(0)
        assert select.select([ws], [], [], 0) == ([], [], [])

    def test_pings_right_behind_the_handshake_are_answered_at_once(
        self, open_pair: Any
    ) -> None:
        _, server = open_pair(rest=server_frame(PING, "early"))
        assert server.read_frame() == (0x80 | PONG, b"early")

    def test_failed_handshakes_leave_nothing_open(self) -> None:
        def refuse(server: Server) -> None:
            server.read_head()
            server.write(b"HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n")
            assert server.read_rest() == b""  # that is: it was closed

        with scripted(refuse, refuse) as server:
            for _ in range(2):
                with pytest.raises(HandshakeRefused):
                    connect(server.url, proxy=None)
        gc.collect()  # an open socket would be complained about
