"""One call at a time: what is raised, and what is asked for in the middle of a call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from harness import DEADLINE

from simple_ws.client.exclusive import ExclusiveCalls

pytestmark = pytest.mark.one_backend


class Host:
    """In place of a connection: notes what the lock asks it for."""

    def __init__(self) -> None:
        self.calls = ExclusiveCalls()
        self.notes: list[str] = []

    def run(self, job: Callable[[Any, Any], Any]) -> Any:
        return self.calls.run(self, job, "first", "second")

    def _within(self, job: Callable[..., Any], first: Any, second: Any) -> Any:
        self.calls.queue(self.notes.append, f"{first} {second}")
        self.calls.do_queued(self)
        return "queued"

    def _do_queued(self) -> None:
        self.calls.do_queued(self)

    def _cut(self) -> None:
        self.notes.append("cut")


class Interrupt(BaseException):
    """What a signal handler raises."""


def interrupt(*_: Any) -> Any:
    raise Interrupt


def test_call_in_the_middle_of_a_call_is_done_after_it() -> None:
    host = Host()

    def outer(first: str, second: str) -> str:
        assert host.run(lambda *_: "never") == "queued"
        host.notes.append("outer")
        return second

    assert host.run(outer) == "second"
    assert host.notes == ["outer", "first second"]


def test_call_in_the_middle_of_a_wait_is_done_at_once() -> None:
    host = Host()

    def wait_for(sock: str, events: int, timeout: float | None) -> int:
        assert host.calls.is_waiting()
        assert host.run(lambda *_: "never") == "queued"
        host.notes.append(f"{sock} {timeout}")
        return events

    assert host.run(lambda *_: host.calls.wait(wait_for, "socket", 3, 5.0)) == 3
    assert host.notes == ["first second", "socket 5.0"]
    assert not host.calls.waiting


def test_what_is_queued_ends_a_wait_before_it_begins() -> None:
    host = Host()

    def outer(*_: Any) -> int:
        host.run(lambda *_: "never")
        return host.calls.wait(interrupt, None, 3, None)

    assert host.run(outer) == 0
    assert host.notes == ["first second"]


@pytest.mark.parametrize("at_the_socket", [True, False])
def test_exception_while_waiting_leaves_nothing_half_done(
    at_the_socket: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host()
    monkeypatch.setattr(threading.Condition, "wait", interrupt)
    events = 1 if at_the_socket else 0
    with pytest.raises(Interrupt):
        host.run(lambda *_: host.calls.wait(interrupt, None, events, None))
    assert host.notes == []
    assert host.run(lambda *_: "next") == "next"


def test_exception_in_the_middle_of_a_call_ends_the_connection() -> None:
    host = Host()
    with pytest.raises(Interrupt):
        host.run(interrupt)
    assert host.notes == ["cut"]
    host.calls.queue(interrupt)
    with pytest.raises(Interrupt):
        host._do_queued()
    assert host.notes == ["cut", "cut"]


def test_waiting_lets_other_threads_come_in() -> None:
    host = Host()

    def wait_for(*_: Any) -> int:
        other = threading.Thread(target=host.run, args=[lambda *_: done.set()])
        other.start()
        assert done.wait(DEADLINE)
        other.join(DEADLINE)
        return 1

    done = threading.Event()
    assert host.run(lambda *_: host.calls.wait(wait_for, None, 1, None)) == 1


def test_news_wake_threads_that_do_not_wait_at_the_socket() -> None:
    host = Host()
    woken = threading.Event()
    inside = threading.Event()

    def sleep(*_: Any) -> None:
        inside.set()
        host.calls.wait(interrupt, None, 0, DEADLINE)
        woken.set()

    sleeper = threading.Thread(target=host.run, args=[sleep])
    sleeper.start()
    assert inside.wait(DEADLINE)
    host.run(lambda *_: host.calls.notify())
    assert woken.wait(DEADLINE)
    sleeper.join(DEADLINE)
    host.calls.leave()
    assert not host.calls.waiting
