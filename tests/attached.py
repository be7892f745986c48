"""A server in an asyncio loop that the test drives.

The loop is one of asyncio or uvloop, or one that cannot watch descriptors, as on
Windows. Time is the fake clock of the harness. The fixtures are known everywhere, see
`conftest`.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from harness import (
    DEADLINE,
    Clock,
    Peer,
    Recorder,
)

from simple_ws import (
    Server,
)
from simple_ws.loop import reactor

NewLoop = Callable[[], asyncio.AbstractEventLoop]
Make = Callable[..., "Attached"]


class Blind(asyncio.SelectorEventLoop):
    """Does not watch descriptors, as the default loop of Windows."""

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> Any:
        raise NotImplementedError


def loop_makers() -> dict[str, NewLoop]:
    makers: dict[str, NewLoop] = {"asyncio": asyncio.SelectorEventLoop, "blind": Blind}
    with suppress(ModuleNotFoundError):
        import uvloop

        makers["uvloop"] = uvloop.new_event_loop
    return makers


@pytest.fixture(params=["asyncio", "uvloop", "blind"])
def new_loop(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> NewLoop:
    makers = loop_makers()
    if request.param not in makers:
        pytest.skip("uvloop is not installed")
    if request.param == "blind":
        # Nor has our selector a descriptor there.
        monkeypatch.setattr(reactor, "best_selector", selectors.SelectSelector)
    return makers[request.param]


class Attached:
    """A server in an asyncio loop that runs when the test turns it."""

    def __init__(self, new_loop: NewLoop, handler: Any = None, **options: Any) -> None:
        self.clock = Clock()
        self.loop = new_loop()
        server_class = type("AttachedServer", (Server,), {"_clock": self.clock})
        self.server: Server = server_class("127.0.0.1", 0, **options)
        self.handler: Any = Awaiting() if handler is None else handler
        self.server.mount("*", self.handler)
        self.turns = 0
        #: Turns without need; a thread may find what has been done meanwhile.
        self.allowed = 10 if isinstance(self.loop, Blind) else 0
        self._peers: list[Peer] = []

    def attach(self) -> Attached:
        self.server.attach(self.loop)
        reactor = self.server.reactor
        run_ready = reactor.run_ready

        def count() -> bool:
            self.turns += 1
            return run_ready()

        reactor.run_ready = count  # type: ignore[method-assign]
        return self

    def turn(self, count: int = 1) -> None:
        """Let the loop do what is due, without waiting."""
        for _ in range(count):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def turns_while_idle(self) -> int:
        """Turns of the server in 100 of the loop, when everything has been done."""
        self.turn(20)
        before = self.turns
        self.turn(100)
        return self.turns - before

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, "it never came to be"
            self.turn()

    def advance(self, seconds: float) -> None:
        """Let time pass, and the server notice it."""
        self.clock.now += seconds
        assert self.server._run.attachment is not None
        self.server._run.attachment._turn_soon()
        self.turn(3)

    def join(self) -> Peer:
        theirs, ours = socket.socketpair()
        ours.setblocking(False)
        self.server._on_accept(ours, ("192.0.2.1", 12345))
        peer = Peer(theirs, self.turn)
        self._peers.append(peer)
        return peer

    def open(self, path: str = "/", *headers: str, then: bytes = b"") -> Peer:
        return self.join().shake(path, *headers, then=then)

    def client(self) -> Any:
        """The client that opened first."""
        self.until(lambda: self.handler.of("open"))
        return self.handler.client()

    def stop(self) -> None:
        """As from outside, once and for all."""
        if self.server._running:
            self.server.stop(drain=0)
        for _ in range(100):
            self.turn()
        assert not asyncio.all_tasks(self.loop)

    def close(self) -> None:
        for peer in self._peers:
            peer.close()
        if not self.loop.is_closed():
            self.stop()
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
        if self.server._run is not None:
            self.server.stop()


@pytest.fixture
def attached(new_loop: NewLoop) -> Iterator[Make]:
    """Makes servers in loops of each kind."""
    made = []

    def make(handler: Any = None, **options: Any) -> Attached:
        made.append(Attached(new_loop, handler, **options))
        return made[-1].attach()

    yield make
    for server in made:
        server.close()


class Awaiting(Recorder):
    """Notes when callbacks begin; `gates` says how long they take.

    A message or event with a name in `gates` is awaited until that is set.
    """

    def __init__(self, *gates: str, **options: Any) -> None:
        super().__init__(**options)
        self.gates = {name: asyncio.Event() for name in gates}

    async def pass_gate(self, name: str) -> None:
        if name in self.gates:
            await self.gates[name].wait()

    def release(self, name: str) -> None:
        self.gates[name].set()

    async def on_open(self, client: Any) -> None:
        self.note("open", client)
        await self.pass_gate("open")

    async def on_message(self, msg: Any, client: Any) -> Any:
        self.note("message", client, msg)
        await self.pass_gate(msg if isinstance(msg, str) else "bytes")
        self.note("done", client, msg)
        return msg

    async def on_close(self, client: Any) -> None:
        super().on_close(client)
        await self.pass_gate("close")
        self.note("closed", client)
