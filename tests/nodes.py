"""Servers of one process on one engine, for tests: a real Redis, or the broker in a
process of its own."""

from __future__ import annotations

import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from harness import DEADLINE, Peer, Recorder, open_peer
from nats_server import NatsServer, nats_server
from redis_server import PROGRAMS, RedisServer, redis_server

from simple_ws import Server
from simple_ws.cluster.broker import BrokerSocket, run_broker
from simple_ws.cluster.engine_address import EngineAddress
from simple_ws.cluster.node import EngineState

__all__ = [
    "ENGINES",
    "IDENTITIES",
    "KEEPING_ENGINES",
    "BrokerServer",
    "Nodes",
    "Room",
    "broker_server",
    "engine_server",
]

IDENTITIES = ["alice", 7, b"\xff\0", uuid.UUID(int=5)]


class BrokerServer:
    """The broker in a process of its own, in the place of a Redis."""

    def __init__(self) -> None:
        self.listening = BrokerSocket()
        self.address = EngineAddress(
            "local", path=self.listening.path, password=self.listening.secret
        )

    def start(self) -> None:
        ours, self._parent = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            self._parent.close()
            with suppress(BaseException):
                run_broker(self.listening.sock, self.listening.secret, ours)
            os._exit(0)
        ours.close()

    def stop(self) -> None:
        """Let it neither read nor write, until `go_on`."""
        os.kill(self._pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._parent.close()


@contextmanager
def broker_server() -> Iterator[BrokerServer]:
    made = BrokerServer()
    made.start()
    try:
        yield made
    finally:
        made.kill()
        made.listening.close()


#: The engines that a test may run on, see `engine_server`.
#: Engines that keep histories, and all.
KEEPING_ENGINES = ["broker", *PROGRAMS]
ENGINES = [*KEEPING_ENGINES, "nats-server"]


@contextmanager
def engine_server(name: str) -> Iterator[Any]:
    """One of `ENGINES`."""
    if name == "broker":
        with broker_server() as broker:
            yield broker
    elif name == "nats-server":
        with nats_server() as nats:
            yield nats
    else:
        with redis_server(program=name) as redis:
            yield redis


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each of `ENGINES`."""
    with engine_server(request.param) as made:
        yield made


class Room(Recorder):
    """Everybody is in a room, and says who he is by a message."""

    def on_open(self, client: Any) -> None:
        super().on_open(client)
        client.subscribe(client.query.get("room", "hall"))
        name = client.query.get("id")
        if name is not None:
            client.bind(IDENTITIES[int(name)])

    def on_message(self, msg: Any, client: Any) -> None:
        client.publish("hall", msg)

    def on_gap(self, topic: str | None, missing: int | None) -> None:
        self.note("gap", None, (topic, missing))


class Nodes:
    """Servers on one engine.

    Args:
        stack: ends them.
        engine: a `RedisServer`, `NatsServer` or `BrokerServer`; or the URL for each
            server.
        count: of servers.
        room: makes the handler of each.
        prepare: is called with each server before it starts.
        options: of each server.
    """

    def __init__(
        self,
        stack: ExitStack,
        engine: RedisServer | NatsServer | BrokerServer | Sequence[str],
        count: int = 2,
        room: Callable[[], Room] = Room,
        prepare: Callable[[Server], object] = lambda server: None,
        **options: Any,
    ) -> None:
        self._prepare = prepare
        self.engine, self._stack = engine, stack
        self.rooms = [room() for _ in range(count)]
        self.states: list[list[EngineState]] = [[] for _ in range(count)]
        self._changed = threading.Condition()
        self.servers = [self._start(stack, number, options) for number in range(count)]
        for number in range(count):
            self.until(number, up=True)

    def _start(self, stack: ExitStack, number: int, options: Any) -> Server:
        if isinstance(self.engine, RedisServer | NatsServer):
            rest = {key: options[key] for key in options if key != "query"}
            options = {"engine": self.engine.url + options.get("query", ""), **rest}
        elif not isinstance(self.engine, BrokerServer):
            options = {"engine": self.engine[number], **options}
        server = Server("127.0.0.1", 0, ping=False, **options)
        if isinstance(self.engine, BrokerServer):
            server._engine_addresses = [self.engine.address]
        server.mount("*", self.rooms[number])
        self._prepare(server)

        @server.on_engine
        def changed(state: EngineState) -> None:
            with self._changed:
                self.states[number].append(state)
                self._changed.notify_all()

        server.start()
        stack.callback(server.stop, 0)
        return server

    def until(self, number: int, up: bool, after: int = 0) -> None:
        """Wait until the engine of a server has come or has gone, since it has changed
        so often; it may have changed again."""

        def reached() -> bool:
            return any(state.up is up for state in self.states[number][after:])

        with self._changed:
            assert self._changed.wait_for(reached, DEADLINE), self.states

    def peer(self, number: int, query: str = "") -> Peer:
        """A client that the engine knows of."""
        peer = self._stack.enter_context(open_peer(self.servers[number], f"/{query}"))
        server = self.servers[number]
        heard = threading.Event()
        # The engine has confirmed its channels: whatever is published comes here.
        server.reactor.call_threadsafe(
            lambda: _when_heard(server, heard.set, query.partition("room=")[2])
        )
        assert heard.wait(DEADLINE)
        return peer


def _when_heard(server: Any, done: Callable[[], object], room: str) -> None:
    host = server.engine
    host._node.interest.apply()
    channel = host.channels.topic(room or "hall")
    engine = host._node._engine
    if engine.receives(channel) and not engine._pending:
        done()
    else:
        host.call_later(0.001, lambda: _when_heard(server, done, room))
