"""The blocking client while the program does other things: it answers, and pings."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from client_harness import server_close, server_frame
from harness import DEADLINE, PING, PONG, TEXT, Echo, running

from simple_ws.client import background
from simple_ws.client.background import KeepaliveThread
from simple_ws.client.blocking import Connection, connect
from simple_ws.constants import CloseCause

NAME = "simple_ws keep-alive"


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


@contextmanager
def connected(handler: Echo, **options: Any) -> Iterator[Connection]:
    with (
        running(handler) as server,
        connect(f"ws://127.0.0.1:{server.port}/", **options) as ws,
    ):
        yield ws


class TestThread:
    @pytest.fixture(autouse=True)
    def unattended(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Here connections are attended to, and all the time."""
        monkeypatch.setattr(background, "_PERIOD", 0.01)

    def test_pings_of_the_server_are_answered_meanwhile(self) -> None:
        answered = threading.Semaphore(0)

        class Pinging(Echo):
            def on_pong(self, client: Any) -> None:
                answered.release()

        with connected(Pinging(ping_interval=0.05)) as ws:
            for _ in range(2):  # nobody calls anything of `ws`
                assert answered.acquire(timeout=DEADLINE)
            ws.send("a")
            assert ws.recv(DEADLINE) == "a"

    def test_silent_server_is_pinged_meanwhile(self) -> None:
        pinged = threading.Event()

        class Pinged(Echo):
            def on_ping(self, client: Any) -> None:
                pinged.set()

        with connected(Pinged(), ping_interval=0.05):
            assert pinged.wait(DEADLINE)

    def test_it_ends_with_the_last_connection_and_comes_again(self) -> None:
        for _ in range(2):
            with connected(Echo()), connected(Echo()):
                (thread,) = (t for t in threading.enumerate() if t.name == NAME)
            thread.join(DEADLINE)
            assert not thread.is_alive()

    def test_without_it_there_is_no_thread(self) -> None:
        with connected(Echo(), background=False):
            assert NAME not in names()

    @pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
    def test_connection_that_nobody_holds_is_freed(self) -> None:
        with running(Echo()) as server:
            ws: Any = connect(f"ws://127.0.0.1:{server.port}/")
            number = ws.fileno()
            freed = threading.Event()
            weakref.finalize(ws, freed.set)
            del ws  # the thread may just be looking at it
            assert freed.wait(DEADLINE)
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(number)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_child_leaves_the_connections_of_its_parent_alone(self) -> None:
        with connected(Echo()):
            pid = os.fork()
            if pid == 0:  # pragma: no cover
                alone = (
                    not background.keepalive_thread._connections and NAME not in names()
                )
                os._exit(0 if alone else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    def test_one_that_fails_is_told_and_does_not_stop_the_others(
        self, caplog: Any
    ) -> None:
        attendant = KeepaliveThread()
        failing = [Failing(), Failing()]
        for one in failing:
            attendant.add(one)
        for one in failing:
            assert one.looked.wait(DEADLINE)
            one.looked.clear()
            assert one.looked.wait(DEADLINE)  # again
        for one in failing:
            attendant.remove(one)
        assert "cannot be kept alive" in caplog.text


class Failing:
    def __init__(self) -> None:
        self.looked = threading.Event()

    def _do_what_is_due(self) -> None:
        self.looked.set()
        raise ValueError("of the test")


class TestLook:
    def test_ping_is_answered_and_messages_wait(self, open_pair: Any) -> None:
        ws, server = open_pair()
        server.write(server_frame(TEXT, "early") + server_frame(PING, b"a"))
        ws._do_what_is_due()
        assert server.read_frame() == (0x80 | PONG, b"a")
        assert ws.recv(0) == "early"

    def test_no_more_is_read_than_there_is_room_for(self, open_pair: Any) -> None:
        ws, server = open_pair(read_limit=100)
        server.write(server_frame(TEXT, "x" * 100) + server_frame(TEXT, "next"))
        ws._do_what_is_due()
        ws._do_what_is_due()
        assert len(ws._inbox) == 1
        assert ws.recv(0) == "x" * 100
        assert ws.recv(0) == "next"

    def test_close_is_answered_and_the_connection_released(
        self, open_pair: Any
    ) -> None:
        ws, server = open_pair()
        server.write(server_frame(TEXT, "last") + server_close(4000, "over"))
        ws._do_what_is_due()
        assert server.read_close()[0] == 4000
        server.sock.close()
        ws._do_what_is_due()
        assert (ws.close_code, ws.close_reason, ws.fileno()) == (4000, "over", -1)
        assert ws.recv() == "last"

    def test_thread_that_waits_is_left_alone(self, open_pair: Any) -> None:
        ws, server = open_pair()
        server.send(PING, b"a")
        ws._calls.waiting.add(-1)
        ws._do_what_is_due()
        ws._calls.waiting.clear()
        ws._do_what_is_due()
        assert server.read_frame() == (0x80 | PONG, b"a")

    def test_server_that_answers_no_ping_is_given_up(self, open_pair: Any) -> None:
        ws, _ = open_pair(ping_interval=10, ping_timeout=20)
        now = ws._clock()
        for seconds in (11, 32):
            ws._clock = lambda now=now + seconds: now
            ws._do_what_is_due()
        assert ws.close_cause is CloseCause.PING_TIMEOUT
