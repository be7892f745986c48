"""Helpers for the tests of the cluster: an engine that speaks in lines, and a link to
it, in a reactor that turns when the test says so."""

from __future__ import annotations

import random
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from harness import DEADLINE, Clock

from simple_ws.cluster.engine import (
    Accepted,
    Delivered,
    EngineEvent,
    Failed,
    Ready,
    Subscribed,
)
from simple_ws.cluster.link import Link
from simple_ws.loop.reactor import Reactor

__all__ = ["LineEngine", "Linked"]


class LineEngine:
    """An engine whose peer says `ready`, `subscribed`, `accepted`, `fail REASON`,
    `never REASON` and `CHANNEL BODY`, a line each; asks for a sign of life after 1 s of
    silence, and gives up 2 s later."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self._output = self._input = b""
        self._deadline: float | None = None
        self._asked = False
        self.channels = 0

    @property
    def size(self) -> int:
        return len(self._output)

    def connected(self, now: float) -> None:
        self.log.append("connected")
        self._output, self._input = b"hello\n", b""
        self._deadline, self._asked = now + 1, False

    def disconnected(self) -> None:
        self.log.append("disconnected")
        self._output, self._deadline = b"", None

    def receive(self, data: bytes, now: float) -> list[EngineEvent]:
        self._deadline, self._asked = now + 1, False
        *lines, self._input = (self._input + data).split(b"\n")
        return [self._event(line.decode()) for line in lines]

    def _event(self, line: str) -> EngineEvent:
        word, _, rest = line.partition(" ")
        known: dict[str, Callable[[], EngineEvent]] = {
            "ready": lambda: Ready("lines 1.0"),
            "subscribed": Subscribed,
            "accepted": lambda: Accepted(1),
            "fail": lambda: Failed(rest),
            "never": lambda: Failed(rest, permanent=True),
        }
        return known.get(word, lambda: Delivered(word, rest.encode()))()

    def take_output(self) -> bytes:
        output, self._output = self._output, b""
        return output

    def deadline(self) -> float | None:
        return self._deadline

    def tick(self, now: float) -> list[EngineEvent]:
        if self._asked:
            return [Failed("no sign of life in 3 s")]
        self._asked, self._deadline = True, now + 2
        self._output += b"alive?\n"
        return []

    def subscribe(self, channels: Iterable[str]) -> None:
        self._output += b"".join(b"+%b\n" % name.encode() for name in channels)

    def unsubscribe(self, channels: Iterable[str]) -> None:
        self._output += b"".join(b"-%b\n" % name.encode() for name in channels)

    def receives(self, channel: str) -> bool:
        return True

    def publish(self, channel: str, envelope: bytes) -> None:
        self._output += b"%b %b\n" % (channel.encode(), envelope)


class Linked:
    """A link with a `LineEngine`, whose attempts to connect run in `turn`.

    Attributes:
        results: what attempts come to: a socket, or an error.
        events, states: what the link has told.
        threads: attempts that were begun and do not run yet.
    """

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.reactor = Reactor(clock=self.clock)
        self.reactor.open()
        self.results: deque[Any] = deque()
        self.events: list[EngineEvent] = []
        self.states: list[tuple[bool, str]] = []
        self.threads: deque[Callable[[], object]] = deque()
        self.engine = LineEngine()
        given: dict[str, Any] = {
            "on_event": self.events.append,
            "on_state": lambda up, reason: self.states.append((up, reason)),
            "run_in_thread": self.threads.append,
            "rng": random.Random(7),
        }
        self.link = Link(
            self.reactor, self.engine, self._connect, **{**given, **options}
        )
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Linked:
        return self

    def __exit__(self, *args: object) -> None:
        self.link.stop()
        self.reactor.close()
        for sock in self._sockets:
            sock.close()

    def _connect(self, cancelled: Callable[[], bool]) -> Any:
        result = self.results.popleft()
        if isinstance(result, BaseException):
            raise result
        return result

    def peer(self) -> socket.socket:
        """The far end of the socket that the next attempt gets."""
        near, far = socket.socketpair()
        far.settimeout(DEADLINE)
        self._sockets.append(far)
        self.results.append(near)
        return far

    def turn(self, count: int = 3) -> None:
        """Run attempts that were begun, and turn the loop."""
        for _ in range(count):
            while self.threads:
                self.threads.popleft()()
            self.reactor.run_once(0)

    def advance(self, seconds: float) -> None:
        self.clock.now += seconds
        self.turn()

    def until(self, condition: Callable[[], object]) -> None:
        for _ in range(1000):
            if condition():
                return
            self.turn(1)
        raise AssertionError("it did not happen")

    def up(self) -> socket.socket:
        """Start it; the far end of its connection, once it is up."""
        far = self.peer()
        self.link.start()
        self.turn()
        assert far.recv(100) == b"hello\n"
        far.sendall(b"ready\nsubscribed\n")
        self.turn()
        assert self.link.up
        return far
