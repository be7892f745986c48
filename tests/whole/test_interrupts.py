"""Exceptions that end programs, raised anywhere: KeyboardInterrupt, SystemExit ….

From a callback, or from a signal handler between two internal lines: either the pending
input, output and timers are kept, or that one connection is cut; the loop can continue.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from harness import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Clock,
    Driven,
    Echo,
    Recorder,
    Wrapped,
    connect,
    frame,
    lines_until,
    request,
)
from tls_harness import open_encrypted

from simple_ws import SendStatus, Server, WebSocket
from simple_ws.loop import reactor as reactor_module
from simple_ws.loop.reactor import Reactor
from simple_ws.loop.timers import Timers, Wheel
from simple_ws.speedups import accept_from

KINDS = [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit]
each_kind = pytest.mark.parametrize("kind", KINDS)


class Stop(BaseException):
    """Another one, of a user's."""


class Interrupted(Recorder):
    """Raises once in the callback of a name, when it has noted the event."""

    def __init__(self, where: str, kind: type[BaseException], **options: Any) -> None:
        super().__init__(**options)
        self.where, self.kind = where, kind

    def note(self, name: str, client: Any, value: Any = None) -> None:
        super().note(name, client, value)
        if name == self.where and self.names.count(name) == 1:
            raise self.kind


def turn_all(driven: Driven, turns: int = 6) -> list[BaseException]:
    """Turn, and go on when that is interrupted."""
    raised: list[BaseException] = []
    for _ in range(turns):
        try:
            driven.turn()
        except BaseException as error:
            raised.append(error)
    return raised


# --- Out of callbacks ----------------------------------------------------------------

#: What comes in one read: each is heard in the end, and nothing else.
TAIL = frame(TEXT, "behind") + frame(BINARY, frame(TEXT, "forged") * 50)


@each_kind
@pytest.mark.parametrize(
    ("where", "first"),
    [
        ("message", frame(TEXT, "x")),
        ("message", frame(BINARY, b"x" * 20_000)),
        ("message", frame(TEXT, "in", fin=False) + frame(0, "two")),
        ("ping", frame(PING, b"x")),
        ("pong", frame(PONG, b"x")),
    ],
)
@pytest.mark.parametrize("cut", [0, 5, 300])
@pytest.mark.parametrize("wrap", [None, Wrapped], ids=["plain", "wrapped"])
def test_rest_of_a_read_is_kept_when_a_callback_is_interrupted(
    kind: type[BaseException], where: str, first: bytes, cut: int, wrap: Any
) -> None:
    with Driven(Interrupted(where, kind)) as driven:
        peer = driven.open(wrap=wrap)
        stream = first + TAIL
        peer.write(stream[: len(stream) - cut])
        raised = turn_all(driven)
        assert [type(error) for error in raised] == [kind]
        peer.write(stream[len(stream) - cut :] + frame(TEXT, "last"))
        turn_all(driven)
        assert driven.handler.of("message")[-3:] == [
            "behind",
            frame(TEXT, "forged") * 50,
            "last",
        ]
        assert driven.handler.client().is_open()


@each_kind
def test_frames_behind_the_request_are_heard_when_on_open_is_interrupted(
    kind: type[BaseException],
) -> None:
    with Driven(Interrupted("open", kind)) as driven:
        peer = driven.join()
        peer.write(request() + TAIL)
        assert [type(error) for error in turn_all(driven)] == [kind]
        assert peer.read_head().startswith(b"HTTP/1.1 101 ")
        assert driven.handler.of("message")[0] == "behind"
        assert len(driven.handler.of("message")) == 2


@each_kind
def test_connection_ends_properly_when_on_close_is_interrupted(
    kind: type[BaseException],
) -> None:
    with Driven(Interrupted("close", kind)) as driven:
        peers = [driven.open() for _ in range(2)]
        for peer in peers:
            peer.write(frame(CLOSE, (1000).to_bytes(2, "big")))
        raised = turn_all(driven)
        assert [type(error) for error in raised] == [kind]
        assert driven.handler.names.count("close") == 2
        for peer in peers:
            assert peer.read_close()[0] == 1000
            assert peer.read_rest() == b""
        assert len(driven.server.clients) == 0


@each_kind
def test_others_are_flushed_when_on_drain_is_interrupted(
    kind: type[BaseException],
) -> None:
    with Driven(Interrupted("drain", kind), write_limit=2**22) as driven:
        peers = [driven.open() for _ in range(3)]
        for client in driven.handler.clients:
            while client.write_message(b"x" * 2**18) is not SendStatus.BACKPRESSURE:
                pass
            client.write_message("last")
        driven.turn()
        raised: list[BaseException] = []
        heard = dict.fromkeys(peers, b"")
        while not all(b"\x81\x04last" in data[-6:] for data in heard.values()):
            for peer in peers:
                heard[peer] += peer.read_now()
            raised += turn_all(driven, 1)
        turn_all(driven)
        assert [type(error) for error in raised] == [kind]
        assert driven.handler.names.count("drain") == 3


@each_kind
def test_other_connections_are_heard_when_a_callback_is_interrupted(
    kind: type[BaseException],
) -> None:
    with Driven(Interrupted("message", kind)) as driven:
        peers = [driven.open() for _ in range(5)]
        for number, peer in enumerate(peers):
            peer.text(str(number))
        raised = turn_all(driven)
        assert [type(error) for error in raised] == [kind]
        assert sorted(driven.handler.of("message")) == list("01234")


def test_nothing_more_is_called_in_a_turn_that_is_interrupted() -> None:
    """The third Ctrl-C ends a callback that hangs, not the first of a hundred."""
    with Driven(Interrupted("message", Stop)) as driven:
        peers = [driven.open() for _ in range(2)]
        for peer in peers:
            peer.write(frame(TEXT, "x") * 20)
        with pytest.raises(Stop):
            driven.turn()
        assert len(driven.handler.of("message")) == 1
        driven.until(lambda: len(driven.handler.of("message")) == 40)


@each_kind
def test_handshake_that_is_interrupted_is_closed_and_others_go_on(
    kind: type[BaseException],
) -> None:
    class Door(Recorder):
        refused = 0

        def on_request(self, asked: Any) -> None:
            if asked.path == "/interrupt":
                raise kind

    with Driven(Door()) as driven:
        peers = [driven.join() for _ in range(3)]
        for peer, path in zip(peers, ("/a", "/interrupt", "/b"), strict=True):
            peer.write(request(path))
        assert [type(error) for error in turn_all(driven)] == [kind]
        assert peers[1].read_rest() == b""
        for peer in (peers[0], peers[2]):
            assert peer.read_head().startswith(b"HTTP/1.1 101 ")
        assert not driven.handshaking


@each_kind
def test_page_that_is_interrupted_is_closed_and_others_go_on(
    kind: type[BaseException],
) -> None:
    def page(asked: Any) -> str:
        if asked.query.get("x"):
            raise kind
        return "here"

    with Driven() as driven:
        driven.server.http("/page")(page)
        peers = [driven.join() for _ in range(2)]
        for peer, query in zip(peers, ("?x=1", ""), strict=True):
            peer.write(f"GET /page{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert [type(error) for error in turn_all(driven)] == [kind]
        assert peers[0].read_rest() == b""
        assert peers[1].read_head().startswith(b"HTTP/1.1 200 ")


@each_kind
def test_accepting_goes_on_when_a_handshake_is_interrupted(
    kind: type[BaseException],
) -> None:
    class Door(WebSocket):
        def on_request(self, asked: Any) -> None:
            if asked.path == "/interrupt":
                raise kind

    server = Server("127.0.0.1", 0)
    server.mount("*", Door())
    server.poll(0)
    peers = []
    for path in ("/interrupt", "/a", "/interrupt", "/b"):
        peers.append(connect(server))
        peers[-1].write(request(path))
    raised = []
    while len(raised) < 2 or len(server.clients) < 2:
        try:
            server.poll(0.1)
        except BaseException as error:
            raised.append(type(error))
    assert raised == [kind, kind]
    assert not server._incoming
    server.stop(0)
    for peer in peers:
        peer.close()


def test_asyncio_task_that_is_interrupted_does_not_stop_its_client() -> None:
    """Its other events are not left waiting for a callback that has ended."""

    class Late(Recorder):
        async def on_ping(self, client: Any) -> None:  # type: ignore[override]
            await asyncio.sleep(0)

        def on_message(self, msg: Any, client: Any) -> None:
            super().on_message(msg, client)
            if msg == "interrupt":
                raise KeyboardInterrupt

    loop = asyncio.new_event_loop()
    server = Server("127.0.0.1", 0)
    handler = Late()
    server.mount("*", handler)
    server.attach(loop)
    peer = connect(server)
    peer.write(
        request() + frame(PING) + frame(TEXT, "interrupt") + frame(TEXT, "behind")
    )
    interrupts = 0
    while handler.of("message") != ["interrupt", "behind"]:
        try:
            loop.run_until_complete(asyncio.sleep(0.01))
        except KeyboardInterrupt:
            interrupts += 1
    assert interrupts == 1
    server.stop(0)
    peer.close()
    loop.close()


# --- In the loop ---------------------------------------------------------------------


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor(clock=Clock())
    reactor.open()
    yield reactor
    reactor.close()


@each_kind
def test_rest_of_the_queue_is_kept_when_a_call_is_interrupted(
    kind: type[BaseException], reactor: Reactor
) -> None:
    called: list[int] = []

    def call(number: int) -> None:
        called.append(number)
        if number in (1, 3):
            raise kind

    for number in range(5):
        reactor.call_soon(lambda number=number: call(number))
    for _ in range(2):
        with pytest.raises(kind):
            reactor.run_once(0)
    reactor.run_once(0)
    assert called == [0, 1, 2, 3, 4]


@each_kind
def test_other_timers_are_kept_when_one_is_interrupted(
    kind: type[BaseException], reactor: Reactor
) -> None:
    called: list[int] = []

    def call(number: int) -> None:
        called.append(number)
        if number == 1:
            raise kind

    for number in range(4):
        reactor.call_later(0, lambda number=number: call(number))
    with pytest.raises(kind):
        reactor.run_once(0)
    reactor.run_once(0)
    assert called == [0, 1, 2, 3]


def test_job_goes_on_when_one_of_its_calls_is_interrupted() -> None:
    with Driven() as driven:
        called: list[float] = []

        def tick() -> None:
            called.append(driven.clock.now)
            if len(called) == 1:
                raise KeyboardInterrupt

        driven.server._schedule.begin(driven.reactor)
        driven.server.every(1, tick)
        for _ in range(3):
            driven.clock.now += 1
            with suppress(KeyboardInterrupt):
                driven.turn()
        assert len(called) == 3


def test_owner_stays_in_the_wheel_when_its_sweep_is_interrupted() -> None:
    wheel, swept = Wheel(1.0), []

    class Owner:
        _wheel_slot: Any = None

        def _sweep(self, now: float) -> None:
            swept.append(now)
            if len(swept) == 1:
                raise KeyboardInterrupt

    owners = [Owner() for _ in range(3)]
    for owner in owners:
        wheel.put(owner, 5.0)
    with pytest.raises(KeyboardInterrupt):
        wheel.run_due(7.0)
    wheel.run_due(7.0)
    wheel.run_due(9.0)
    assert len(swept) == 4
    assert len(wheel) == 0


@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_loop_goes_on_after_an_interrupt_between_its_lines(
    kind: type[BaseException], reactor: Reactor, monkeypatch: Any
) -> None:
    """Otherwise the loop would be taken for one that is still turning."""
    real = threading.get_ident

    def get_ident() -> int:
        monkeypatch.setattr(reactor_module.threading, "get_ident", real)
        raise kind

    monkeypatch.setattr(reactor_module.threading, "get_ident", get_ident)
    with pytest.raises(kind):
        reactor.run_once(0)
    assert not reactor.turning
    reactor.run_once(0)


# --- Out of signal handlers, anywhere ------------------------------------------------


@pytest.fixture
def interrupts() -> Iterator[Callable[[], None]]:
    """Have SIGUSR1 raise KeyboardInterrupt from now on, or not."""
    before = signal.getsignal(signal.SIGUSR1)

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGUSR1, interrupt)
    yield lambda: signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


class Interrupting(Wrapped):
    """A socket that is interrupted behind its n-th call."""

    left = 0

    def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        result = method(*args)
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return result

    def send(self, data: Any) -> int:
        return self._call(self._sock.send, data)

    def recv(self, size: int) -> bytes:
        return self._call(self._sock.recv, size)

    def sendmsg(self, buffers: Any) -> int:
        return self._call(self._sock.sendmsg, buffers)


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("encrypted", [False, True])
def test_connection_is_cut_where_nobody_knows_what_was_read_or_sent(
    number: int, encrypted: bool
) -> None:
    sockets: list[Interrupting] = []

    def wrap(sock: socket.socket) -> Interrupting:
        sockets.append(Interrupting(sock))
        return sockets[-1]

    with Driven(Echo()) as driven:
        other = driven.open()
        peer = open_encrypted(driven, wrap) if encrypted else driven.open(wrap=wrap)
        client = driven.handler.client(1)
        sockets[0].left = number
        raised: list[BaseException] = []
        for _ in range(5):
            if client.is_open():
                peer.text("x")
            raised += turn_all(driven, 3)
        assert [type(error) for error in raised] == [KeyboardInterrupt]
        assert not client.is_open()
        assert driven.reactor.buffered == 0
        other.text("still here")
        assert other.read_message() == "still here"


@pytest.mark.parametrize("step", range(7))
def test_interrupt_at_any_line_costs_one_connection_at_most(step: int) -> None:
    """At every seventh line of a turn, beginning at each of seven."""
    stop, seen = 1 + step, 10**9
    while stop <= seen:
        with Driven(Echo()) as driven:
            peers = [driven.open() for _ in range(2)]
            clients = list(driven.handler.clients)
            for peer in peers:
                peer.write(frame(TEXT, "one") + frame(PING) + frame(TEXT, "two"))
            seen, error = lines_until(stop, driven.turn)
            assert error is None or type(error) is KeyboardInterrupt, error
            driven.turn(4)
            assert not driven.reactor.turning
            open_ones = [client for client in clients if client.is_open()]
            assert len(open_ones) >= 1
            for client, peer in zip(clients, peers, strict=True):
                if client in open_ones:
                    assert peer.read_message() == "one"
                    assert peer.read_frame() == (0x8A, b"")
                    assert peer.read_message() == "two"
            driven.turn(2)
            assert driven.reactor.buffered == 0
        stop += 7
        if error is None:
            break


# --- Time-outs that the program set for everybody ------------------------------------


@pytest.fixture
def default_timeout() -> Iterator[None]:
    socket.setdefaulttimeout(30)
    yield
    socket.setdefaulttimeout(None)


@pytest.mark.usefixtures("default_timeout")
@pytest.mark.parametrize("family", ["inet", "unix"])
def test_accepted_socket_does_not_wait_whatever_the_program_set(
    family: str, codecs: Any, tmp_path: Any
) -> None:
    if family == "unix":
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(tmp_path / "s"))
        server.listen()
    else:
        server = socket.create_server(("127.0.0.1", 0))
    with server, socket.socket(server.family) as peer:
        peer.connect(server.getsockname())
        taken, _ = codecs.accept_from(server)
        with taken:
            assert taken.gettimeout() == 0
            with pytest.raises(BlockingIOError):
                taken.recv(1)


@pytest.mark.usefixtures("default_timeout")
def test_nothing_of_a_server_waits_whatever_the_program_set() -> None:
    server = Server("127.0.0.1", 0)
    server.mount("*", Recorder())
    server.listen()
    reactor = server.reactor
    with connect(server):
        assert reactor._waker is not None
        ours = [reactor._waker, reactor._wakee]
        ours += [listener._sock for listener in server._run.listeners]
        ours.append(accept_from(server._run.listeners[0]._sock)[0])
        assert [sock.gettimeout() for sock in ours] == [0] * len(ours)
        ours[-1].close()
    server.stop()


def test_timers_that_are_taken_out_are_in_one_list_at_every_moment() -> None:
    """A signal handler that raises behind `heappop` loses no timer."""
    for stop in range(1, 60):
        timers, called = Timers(), []
        for number in range(3):
            timers.call_at(1.0, partial(called.append, number))
        lines_until(stop, partial(timers.run_due, 2.0), only="run_due")
        timers.run_due(2.0)
        assert called == [0, 1, 2]
