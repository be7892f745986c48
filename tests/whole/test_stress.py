"""Eight threads use every method while clients come and go over real sockets.

Every message reported as sent to a client that stays arrives there: whole, once, and in
the order in which each thread sent it. In the end nothing is left behind.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from harness import (
    DEADLINE,
    PING,
    Peer,
    Recorder,
    close_frame,
    connect,
    open_files,
    open_peer,
    poll_until,
    running,
)

from simple_ws import Client, Middleware, SendStatus, Server

THREADS = 8
#: What each thread does; a few seconds in pure Python on one busy core.
STEPS = 250
STAYING = 3


class Unchanged(Middleware):
    """Sees everything, which takes the way through Python."""

    def on_message(self, msg: Any, client: Any) -> Any:
        return msg

    def on_send(self, msg: Any, client: Any) -> Any:
        return msg


class Echoing(Recorder):
    def on_message(self, msg: Any, client: Any) -> Any:
        return msg

    def on_ping(self, client: Any) -> None:
        """Not noted: there are very many."""

    on_pong = on_drain = on_ping


def made(thread: int, number: int) -> str:
    """A message that shows who sent it and whether it is whole."""
    body = f"{thread} {number} {'x' * (number * 37 % 3000)}"
    return f"{zlib.crc32(body.encode())} {body}"


def read(payload: bytes) -> tuple[int, int]:
    """Thread and number of a message that must be whole."""
    text = payload.decode()
    if text.startswith("{"):
        text = json.loads(text)["message"]
    check, _, body = text.partition(" ")
    assert zlib.crc32(body.encode()) == int(check), text[:100]
    thread, number, _ = body.split(" ")
    return int(thread), int(number)


class Worker:
    """One of the threads; knows what it sent to whom among those who stay."""

    def __init__(self, number: int, server: Server, staying: list[Any]) -> None:
        self.number = number
        self.server = server
        self.staying = staying
        self.sent: list[list[int]] = [[] for _ in staying]
        self.timers_set = 0
        self.timers_called = 0
        self.jobs: list[Any] = []
        self._random = random.Random(number)
        self._numbers = itertools.count()

    def run(self) -> None:
        sends: list[Callable[[str, int], None]] = [
            self.write,
            self.write_binary,
            self.write_json,
            self.broadcast,
            self.publish,
            self.deliver,
            self.send_to,
        ]
        others: list[Callable[[Any], object]] = [
            lambda client: client.close(4000, "away"),
            lambda client: client.terminate(),
            lambda client: client.bind(self._random.randrange(5)),
            lambda client: client.bind(None),
            lambda client: client.subscribe("all", self._random.random()),
            lambda client: client.subscribe("work", -1),
            lambda client: client.unsubscribe("all"),
            lambda client: client.ping("p"),
            lambda client: client.write_message("not counted"),
            lambda client: client.publish("nobody", "not counted"),
        ]
        for _ in range(STEPS):
            number = next(self._numbers)
            self._random.choice(sends)(made(self.number, number), number)
            for client in self.server.clients:
                if client not in self.staying:
                    self._random.choice(others)(client)
            self.set_timers()
            self.look()

    def note(self, number: int, *indices: int) -> None:
        for index in indices:
            self.sent[index].append(number)

    def write(self, msg: Any, number: int) -> None:
        for index, client in enumerate(self.staying):
            # Nothing of theirs waits for so long that it would be refused.
            assert client.write_message(msg) is not SendStatus.DROPPED
            self.note(number, index)

    def write_binary(self, msg: str, number: int) -> None:
        self.write(msg.encode(), number)

    def write_json(self, msg: str, number: int) -> None:
        self.write({"message": msg}, number)

    def broadcast(self, msg: str, number: int) -> None:
        left_out = self._random.randrange(STAYING)
        self.server.broadcast(msg, exclude=[self.staying[left_out]])
        self.note(number, *set(range(STAYING)) - {left_out})

    def publish(self, msg: str, number: int) -> None:
        if self._random.random() < 0.5:
            self.server.publish("all", msg)
            self.note(number, *range(STAYING))
        else:
            self.staying[0].publish("all", msg)
            self.note(number, *range(1, STAYING))

    def deliver(self, msg: str, number: int) -> None:
        self.server.deliver("work", msg)
        self.note(number, 1)  # by far the highest priority

    def send_to(self, msg: str, number: int) -> None:
        self.server.send_to("pair", msg)
        self.note(number, 0, 2)

    def set_timers(self) -> None:
        self.server.call_later(0, self.count)
        self.timers_set += 1
        self.jobs.append(self.server.every(0.001, lambda: None))
        if len(self.jobs) > 5:
            self.jobs.pop(0).cancel()

    def count(self) -> None:
        self.timers_called += 1  # in the loop's thread alone

    def look(self) -> None:
        server = self.server
        server.count("all")
        server.online()
        server.is_online("pair")
        for client in server.members("work"):
            repr(client), client.topics, client.client_id, client.buffered_amount


def come_and_go(server: Server, done: threading.Event, ways: list[Any]) -> None:
    """Visit, talk a little, and leave in every way there is."""
    for way in itertools.cycle(ways):
        if done.is_set():
            return
        with connect(server) as peer, suppress(AssertionError, OSError):
            # It may be sent away at any moment.
            peer.shake()
            peer.text("hello")
            way(peer)


WAYS: list[Callable[[Peer], object]] = [
    lambda peer: peer.close(),
    lambda peer: peer.reset(),
    lambda peer: peer.end(),
    lambda peer: peer.write(close_frame(1000)),
    lambda peer: peer.write(b"garbage"),
    lambda peer: peer.read(2),
]


def started(*works: Callable[[], object]) -> tuple[list[Any], list[BaseException]]:
    """Threads, and what they raise."""
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    return threads, errors


def joined(threads: list[Any]) -> None:
    for thread in threads:
        thread.join(2 * DEADLINE)
        assert not thread.is_alive()


def expect(peer: Peer, workers: list[Worker], index: int) -> None:
    """Everything that the workers sent to one who stays, and nothing else of theirs."""
    got: list[list[int]] = [[] for _ in workers]
    for _ in range(sum(len(worker.sent[index]) for worker in workers)):
        first, payload = peer.read_frame()
        while first == 0x80 | PING:
            first, payload = peer.read_frame()
        thread, number = read(payload)
        got[thread].append(number)
    for worker in workers:
        assert got[worker.number] == worker.sent[index]


def prepare(server: Server, handler: Echoing) -> tuple[list[Peer], list[Client]]:
    """Those who stay, subscribed and bound."""
    peers = [open_peer(server) for _ in range(STAYING)]
    clients = [handler.client(index) for index in range(STAYING)]
    for client in clients:
        client.subscribe("all")
    clients[1].subscribe("work", priority=100)
    for index in (0, 2):
        clients[index].bind("pair")
    return peers, clients


def expect_clean_end(server: Server, handler: Echoing, caplog: Any) -> None:
    assert not server.clients
    assert not server._incoming
    assert server._run is None
    assert not server._topics._groups
    assert not server._topics._priorities
    assert not server._identities._groups
    assert not server._schedule.jobs
    opened = [event.client for event in handler.events if event.name == "open"]
    closed = [event.client for event in handler.events if event.name == "close"]
    assert len(opened) == len(set(opened))
    assert sorted(client.id for client in opened) == sorted(c.id for c in closed)
    assert not handler.of("error")
    assert "Traceback" not in caplog.text
    assert "internal error" not in caplog.text


@pytest.mark.parametrize("with_middleware", [False, True])
def test_nothing_is_lost_out_of_order_or_corrupt(
    with_middleware: bool, caplog: Any
) -> None:
    files = open_files()
    handler = Echoing(write_limit=2**28, ping_interval=0.2, close_timeout=0.2)
    with running(handler) as server:
        if with_middleware:
            server.use(Unchanged())
        peers, staying = prepare(server, handler)
        workers = [Worker(number, server, staying) for number in range(THREADS)]
        done = threading.Event()
        visitors, faults = started(*[lambda: come_and_go(server, done, WAYS)] * 2)
        threads, errors = started(*(worker.run for worker in workers))
        joined(threads)
        done.set()
        joined(visitors)
        assert errors == faults == []
        for index, peer in enumerate(peers):
            expect(peer, workers, index)
            assert staying[index].is_open()
        last = threading.Event()
        server.call_later(0, last.set)
        assert last.wait(DEADLINE)
        for worker in workers:
            for job in worker.jobs:
                job.cancel()
            assert worker.timers_called == worker.timers_set == STEPS
        for peer in peers:
            peer.close()
    expect_clean_end(server, handler, caplog)
    assert open_files() == files


def test_nothing_is_lost_where_the_server_is_polled(caplog: Any) -> None:
    files = open_files()
    handler = Echoing(write_limit=2**28, close_timeout=0.2)
    server = Server("127.0.0.1", 0)
    server.mount("*", handler)
    assert server.poll()
    holder: list[Any] = []
    opener, _ = started(lambda: holder.append(prepare(server, handler)))
    while opener[0].is_alive():
        server.poll(0.01)
    ((peers, staying),) = holder
    workers = [Worker(number, server, staying) for number in range(THREADS)]
    done = threading.Event()
    visitors, faults = started(lambda: come_and_go(server, done, WAYS))
    threads, errors = started(*(worker.run for worker in workers))
    while any(thread.is_alive() for thread in threads):
        server.poll(0.01)
    done.set()
    while visitors[0].is_alive():
        server.poll(0.01)
    poll_until(server, lambda: all(w.timers_called == STEPS for w in workers))
    assert errors == faults == []
    for index, peer in enumerate(peers):
        peer._pump = lambda: server.poll(0.01)
        expect(peer, workers, index)
    for worker in workers:
        for job in worker.jobs:
            job.cancel()
    for peer in peers:
        peer.close()
    server.stop(drain=0)
    assert not server.poll()
    expect_clean_end(server, handler, caplog)
    assert open_files() == files


def test_server_is_stopped_and_started_while_everybody_goes_on(caplog: Any) -> None:
    """What is asked of it in between does nothing, and breaks nothing."""
    handler = Echoing(close_timeout=0.05)
    server = Server("127.0.0.1", 0)
    server.mount("*", handler)
    server.listen()
    port = server.port
    server.stop()
    server = Server("127.0.0.1", port)
    handler = server.mount("*", Echoing(close_timeout=0.05))
    done = threading.Event()

    def visit() -> None:
        while not done.is_set():
            # It may be down, or go down meanwhile.
            with suppress(AssertionError, OSError), connect(server) as peer:
                peer.shake()
                peer.text("x")
                peer.read_message()

    def use() -> None:
        while not done.is_set():
            server.broadcast("y")
            server.call_later(0, lambda: None)
            server.every(0.001, lambda: None).cancel()
            for client in server.clients:
                client.write_message("z")
                client.subscribe("t", priority=1)
                client.bind("me")
            server.publish("t", "u")
            server.deliver("t", "v")
            server.send_to("me", "w")
            if len(server.reactor._calls) > 1000:
                done.wait(0.001)  # as fast as it goes, and no faster

    threads, errors = started(*[use] * (THREADS - 2), *[visit] * 2)
    for round_ in range(6):
        server.start()
        handler.wait_for("open", handler.names.count("open") + 1)
        server.stop(drain=0 if round_ % 2 else 0.05)
        assert not server.clients
    done.set()
    joined(threads)
    assert errors == []
    server.start()
    with open_peer(server) as peer:
        peer.text("still well")
        while peer.read_message() != "still well":
            pass
    for job in list(server._schedule.jobs):
        job.cancel()
    server.stop(drain=0)
    expect_clean_end(server, handler, caplog)
