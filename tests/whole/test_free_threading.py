"""On a Python without the GIL (`make freethreaded`): that it stays off, and that what
several threads may use holds. Elsewhere the same with the GIL, where it is easier.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from simple_ws.connection.topics import Group
from simple_ws.errors import InvalidData
from simple_ws.loop.reactor import Reactor
from simple_ws.loop.schedule import Schedule
from simple_ws.speedups import BACKEND, Deflater, Inflater, Utf8Validator

THREADS = 4
#: Seconds of hammering; and that a thread may take to notice the end.
SHORT, DEADLINE = 0.2, 30.0


def hammer(*works: Callable[[], object]) -> None:
    """Call each again and again in threads of their own, at the same time."""
    barrier, until = threading.Barrier(len(works)), time.monotonic() + SHORT
    failures: list[BaseException] = []

    def repeat(work: Callable[[], object]) -> None:
        barrier.wait(DEADLINE)
        try:
            while time.monotonic() < until and not failures:
                work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL"
)
def test_the_gil_stays_off_when_the_package_is_imported() -> None:
    program = "import sys, simple_ws; print(sys._is_gil_enabled())"
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_calls_of_four_threads_are_made_in_the_order_of_each() -> None:
    """None is lost between a loop that falls asleep and the thread that wakes it."""
    reactor, seen = Reactor(), [[] for _ in range(THREADS)]  # type: ignore[var-annotated]
    reactor.open()
    counts = [0] * THREADS

    def call(number: int) -> None:
        count = counts[number]
        called = threading.Event()

        def note() -> None:
            seen[number].append(count)
            called.set()

        reactor.call_threadsafe(note)
        counts[number] += 1
        assert called.wait(DEADLINE)

    over = threading.Event()

    def turn() -> None:
        while not over.is_set():
            reactor.run_turns()

    loop = threading.Thread(target=turn)
    loop.start()
    hammer(*(lambda number=number: call(number) for number in range(THREADS)))  # type: ignore[misc]
    over.set()
    reactor.call_threadsafe(lambda: None)
    loop.join(DEADLINE)
    reactor.close()
    assert [list(range(count)) for count in counts] == seen


@pytest.mark.skipif(
    BACKEND != "extension", reason="zlib of Python locks each call, not a message"
)
def test_one_compressor_may_be_used_by_four_threads() -> None:
    deflater = Deflater(6, 8, 15, False)
    message = b"the same message each time, of any length " * 40

    def pack() -> None:
        packed = deflater.compress(message) + b"\x00\x00\xff\xff"
        assert zlib.decompressobj(-15).decompress(packed) == message

    hammer(*[pack] * THREADS)


def test_four_threads_that_misuse_a_decoder_get_errors_at_worst() -> None:
    """Pieces of one stream come in any order then, but nothing crashes."""
    inflater, validator = Inflater(15, True), Utf8Validator()

    def use() -> None:
        validator.feed(b"\xf0\x9f")
        try:
            inflater.feed(b"\x00\x01\x02", 1000)
            inflater.finish()
        except InvalidData:
            pass

    hammer(*[use] * THREADS)


def test_clients_are_listed_while_a_thread_adds_and_removes_them() -> None:
    group: Group[Any] = Group()
    members = [object() for _ in range(100)]

    def come_and_go() -> None:
        for member in members:
            group.add(member)
        for member in members:
            group.discard(member)

    hammer(come_and_go, *[lambda: list(group)] * (THREADS - 1))


def test_timers_are_looked_at_while_threads_set_and_cancel_them() -> None:
    schedule = Schedule(lambda *args: None, lambda callback: None, lambda call: call())

    def set_and_cancel() -> None:
        for job in [schedule.every(60, int) for _ in range(20)]:
            job.cancel()

    looks = [lambda: schedule.has_once] * 2
    hammer(set_and_cancel, set_and_cancel, *looks)
    assert not schedule.jobs
