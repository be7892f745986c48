"""Code of the user's in the middle of the clients' own lines, and what it raises.

Signal handlers, `__del__` and callbacks of the garbage collector run between any two
lines. They are brought in here at each line and call in turn, and raise (Ctrl-C), send
or close: no byte is read or sent twice, none is lost in the middle, and no lock is held
for ever.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from client_harness import Server, elsewhere, server_close, server_frame
from harness import (
    BINARY,
    DEADLINE,
    PING,
    PONG,
    TEXT,
    calls_until,
    frame,
    lines_until,
)

from simple_ws.client import aio_connection
from simple_ws.client.blocking import Connection, connect
from simple_ws.client.dial import wait_for
from simple_ws.client.options import ClientOptions
from simple_ws.constants import CloseCause
from simple_ws.deflate import Agreement
from simple_ws.errors import ConnectionClosed, InvalidState
from simple_ws.protocol.client_handshake import Accepted
from simple_ws.protocol.fields import Headers
from simple_ws.protocol.uri import parse_uri
from simple_ws.protocol.websocket import Protocol

both_ways = pytest.mark.parametrize("until", [lines_until, calls_until])

#: Everything is compressed, in one context.
AGREEMENT = Agreement(True, True, 15, 15, 6, 8, threshold=0)
#: A payload that is frames, for who would read it as such.
FORGED = server_frame(TEXT, "forged") * 50
MESSAGES = ["one", FORGED, "two", "in pieces", "three"]
STREAM = (
    server_frame(TEXT, "one")
    + server_frame(PING, "?")
    + server_frame(BINARY, FORGED)
    + server_frame(TEXT, "two")
    + server_frame(TEXT, "in ", first=0)
    + server_frame(0, "pieces")
    + server_frame(PONG, "p")
    + server_frame(TEXT, "three")
)


class Short:
    """A socket that takes few bytes at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, data: Any) -> int:
        return self._sock.send(data[:40])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


@pytest.fixture
def open_pair() -> Iterator[Callable[..., tuple[Connection, Server]]]:
    """Make connections, each with the server's end of it."""
    made: list[tuple[Connection, Server]] = []

    def make(
        agreement: Agreement | None = None, wrap: Any = None, **options: Any
    ) -> tuple[Connection, Server]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        accepted = Accepted(Headers(), None, agreement, b"")
        ws = Connection(
            wrap(ours) if wrap else ours,
            parse_uri("ws://h/"),
            accepted,
            ClientOptions(**options),
        )
        made.append((ws, Server(theirs)))
        return made[-1]

    yield make
    for ws, server in made:
        server.sock.close()
        ws._sock.close()


def each(
    run: Callable[[int], tuple[int, BaseException | None]], step: int = 1
) -> Iterator[BaseException | None]:
    """Run with 1, 2, 3… until there are not so many lines; give what was raised."""
    stop, error = 1, None
    while stop == 1 or error is not None:
        _, error = run(stop)
        yield error
        stop += step


def innermost(error: BaseException) -> str:
    """The function of ours where it was raised."""
    name, traceback = "", error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if f"{os.sep}tests{os.sep}" not in code.co_filename:
            name = code.co_name
        traceback = traceback.tb_next
    return name


def take_all(ws: Connection) -> list[str | bytes]:
    """Every message up to the end of the connection."""
    messages: list[str | bytes] = []
    with suppress(ConnectionClosed):
        while True:
            messages.append(ws.recv(DEADLINE))
    assert not ws.is_open()
    return messages


def check_messages(
    messages: list[Any], *, may_lack_first: bool, complete: bool
) -> None:
    """They are those that were sent, from the first on, in order, none twice."""
    expected = MESSAGES
    if may_lack_first and messages[:1] != MESSAGES[:1]:
        expected = MESSAGES[1:]
    assert messages == expected[: len(messages)]
    if complete:
        assert len(messages) == len(expected)


def read_messages(data: bytes, agreement: Agreement | None = None) -> list[Any]:
    """What a server makes of the bytes of a client: whole frames, and at most a part
    of one behind them."""
    protocol = Protocol(server=True, agreement=agreement)
    pos, messages = 0, []
    while pos < len(data):
        pos = protocol.receive(data, pos, len(data))
        event = protocol.take_event()
        if event is not None and event[0] in (TEXT, BINARY):
            messages.append(event[1])
    assert protocol.close_cause in (None, CloseCause.PEER), protocol.close_reason
    return messages


# --- What is raised, in the blocking client ------------------------------------------


@both_ways
@pytest.mark.parametrize("compressed", [False, True])
def test_no_message_is_lost_or_forged_when_recv_is_interrupted(
    until: Any, compressed: bool, open_pair: Any
) -> None:
    def run(stop: int) -> tuple[int, BaseException | None]:
        ws, server = open_pair(AGREEMENT if compressed else None)
        server.write(STREAM)
        messages: list[Any] = []
        seen, error = until(stop, lambda: messages.append(ws.recv()))
        survived = ws.is_open()
        if survived:
            server.write(server_close(1000))
        server.sock.shutdown(socket.SHUT_WR)
        messages += take_all(ws)
        # It had been taken, and was about to be returned.
        lack = error is not None and innermost(error) in ("recv", "run", "_recv")
        check_messages(messages, may_lack_first=lack, complete=survived)
        assert ws.fileno() == -1
        return seen, error

    errors = [error for error in each(run) if error is not None]
    assert len(errors) > 20
    assert {type(error) for error in errors} == {KeyboardInterrupt}


@both_ways
@pytest.mark.parametrize("agreement", [None, AGREEMENT])
def test_no_frame_follows_half_a_frame_when_send_is_interrupted(
    until: Any, agreement: Agreement | None, open_pair: Any
) -> None:
    def run(stop: int) -> tuple[int, BaseException | None]:
        ws, server = open_pair(agreement, Short)
        ws.send("first " * 20)
        seen, error = until(stop, lambda: ws.send("second " * 20))
        survived = ws.is_open()
        with suppress(ConnectionClosed):
            ws.send("third " * 20)
        ws._sock.close()
        messages = read_messages(server.read_rest(), agreement)
        sent = ["first " * 20, "second " * 20, "third " * 20]
        if survived:
            assert messages[-1] == sent[2]
            messages.pop()
        assert messages == sent[: len(messages)]
        return seen, error

    errors = [error for error in each(run) if error is not None]
    assert len(errors) > 10


@both_ways
def test_nothing_is_left_behind_when_close_is_interrupted(
    until: Any, open_pair: Any
) -> None:
    def run(stop: int) -> tuple[int, BaseException | None]:
        ws, server = open_pair()
        server.write(server_close(1000))
        server.sock.shutdown(socket.SHUT_WR)
        seen, error = until(stop, ws.close)
        ws.close()
        assert ws.fileno() == -1
        assert ws.close_code in (1000, 1006)
        with suppress(ConnectionResetError):  # where we had not read all
            assert read_messages(server.read_rest()) == []
        return seen, error

    assert len(list(each(run))) > 10


@both_ways
def test_ping_can_be_sent_again_when_it_is_interrupted(
    until: Any, open_pair: Any
) -> None:
    def run(stop: int) -> tuple[int, BaseException | None]:
        ws, server = open_pair()
        server.write(server_frame(PONG, "p"))
        seen, error = until(stop, lambda: ws.ping("p"))
        if ws.is_open():
            server.write(server_frame(PONG, "p"))
            assert ws.ping("p") >= 0
        else:
            with pytest.raises(ConnectionClosed, match="interrupted"):
                ws.ping("p")
        return seen, error

    assert len(list(each(run))) > 10


@both_ways
def test_other_threads_go_on_when_one_is_interrupted(
    until: Any, open_pair: Any
) -> None:
    def run(stop: int) -> tuple[int, BaseException | None]:
        ws, server = open_pair()
        server.write(STREAM)
        result = until(stop, ws.recv)
        with elsewhere() as start:
            if ws.is_open():
                start(ws.send, "x").result(DEADLINE)
            server.sock.shutdown(socket.SHUT_WR)
            start(take_all, ws).result(DEADLINE)
        return result

    assert len(list(each(run, 3))) > 7


def test_exception_of_a_signal_handler_while_waiting_ends_nothing(
    open_pair: Any, on_signal: Any, monkeypatch: Any
) -> None:
    class Alarm(TimeoutError):
        """As handlers of SIGALRM raise; an OSError, but none of the socket's."""

    def ring() -> None:
        raise Alarm

    on_signal(ring)
    ws, server = open_pair()

    def waiting(*args: Any) -> int:
        signal.raise_signal(signal.SIGUSR1)
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr("simple_ws.client.driving._wait_for", waiting)
        for call in (ws.recv, ws.ping):
            with pytest.raises(Alarm):
                call()
    server.write(STREAM)
    assert ws.is_open()
    assert [ws.recv() for _ in MESSAGES] == MESSAGES


@pytest.mark.parametrize("method", ["recv", "send"])
def test_exception_of_a_signal_handler_is_no_error_of_the_socket(
    method: str, open_pair: Any, on_signal: Any
) -> None:
    class Alarm(TimeoutError):
        pass

    def ring() -> None:
        raise Alarm

    class Interrupted(Short):
        def recv(self, size: int) -> bytes:
            if method == "recv":
                signal.raise_signal(signal.SIGUSR1)
            return self._sock.recv(size)

        def send(self, data: Any) -> int:
            if method == "send":
                signal.raise_signal(signal.SIGUSR1)
            return self._sock.send(data)

    on_signal(ring)
    ws, server = open_pair(wrap=Interrupted)
    server.write(STREAM)
    with pytest.raises(Alarm):
        ws.send("x") if method == "send" else ws.recv()
    with pytest.raises(ConnectionClosed, match="interrupted"):
        ws.send("y")
    assert ws.fileno() == -1


# --- Calls from within ---------------------------------------------------------------


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Have a function called by a signal's handler."""
    before = signal.getsignal(signal.SIGUSR1)

    def have(function: Callable[[], object]) -> None:
        signal.signal(signal.SIGUSR1, lambda *args: function())

    yield have
    signal.signal(signal.SIGUSR1, before)


@both_ways
@pytest.mark.parametrize("agreement", [None, AGREEMENT])
@pytest.mark.parametrize("outer", ["recv", "send", "ping"])
def test_send_from_within_is_sent_when_the_outer_call_goes_on(
    until: Any, agreement: Agreement | None, outer: str, open_pair: Any
) -> None:
    def run(stop: int) -> tuple[int, BaseException | None]:
        ws, server = open_pair(agreement, Short)
        server.write(STREAM)
        calls = {
            "recv": ws.recv,
            "send": lambda: ws.send("outer " * 20),
            "ping": lambda: ws.ping("p"),
        }
        sent: list[str] = []

        def meddle() -> None:
            ws.send("inner " * 20)
            sent.append("inner " * 20)

        seen, error = until(stop, calls[outer], action=meddle)
        assert error is None
        if outer == "send":
            sent.append("outer " * 20)
        server.write(server_close(1000))
        server.sock.shutdown(socket.SHUT_WR)
        received = take_all(ws)
        assert received == MESSAGES[-len(received) :]
        assert sorted(read_messages(server.read_rest(), agreement)) == sorted(sent)
        return seen, None if stop > seen else KeyboardInterrupt()

    assert len(list(each(run))) > 10


@both_ways
@pytest.mark.parametrize("outer", ["recv", "send"])
def test_close_from_within_begins_the_handshake_once(
    until: Any, outer: str, open_pair: Any
) -> None:
    def run(stop: int) -> tuple[int, BaseException | None]:
        ws, server = open_pair(close_timeout=0.0)
        server.write(server_frame(TEXT, "one") * 3)
        call = ws.recv if outer == "recv" else lambda: ws.send("outer")
        seen, error = until(stop, call, action=lambda: ws.close(4000, "enough"))
        assert error is None or isinstance(error, ConnectionClosed)
        if stop > seen:
            return seen, None
        with suppress(ConnectionResetError):
            frames = [server.read_frame()]
            while frames[-1][0] != 0x88:
                assert frames[-1] == (0x81, b"outer")
                frames.append(server.read_frame())
            assert frames[-1][1] == (4000).to_bytes(2, "big") + b"enough"
            assert server.read_rest() == b""
        ws.close()
        assert ws.close_code == 4000
        return seen, KeyboardInterrupt()

    assert len(list(each(run, 3))) > 5


def test_recv_and_ping_from_within_are_refused(open_pair: Any) -> None:
    refused: list[str] = []

    class Meddling(Short):
        def recv(self, size: int) -> bytes:
            for call in (ws.recv, ws.ping):
                try:
                    call()
                except InvalidState as error:
                    refused.append(str(error))
            return self._sock.recv(size)

    ws, server = open_pair(wrap=Meddling)
    server.write(STREAM)
    assert ws.recv() == "one"
    assert len(refused) == 2
    assert "signal handler or __del__" in refused[0]
    assert ws.is_open()


def test_calls_in_a_wait_of_the_same_thread_do_not_wait_for_it(
    open_pair: Any, monkeypatch: Any
) -> None:
    ws, server = open_pair(close_timeout=DEADLINE)
    main = threading.get_ident()

    def send() -> None:
        ws.send("a")
        assert server.read_message() == "a"
        with pytest.raises(InvalidState):
            ws.recv()

    def close() -> None:
        ws.close(4000, "b")
        assert server.read_close() == (4000, "b")
        server.write(server_close(4000))
        server.sock.close()

    steps = iter([send, close])

    def waiting(sock: Any, events: int, timeout: float | None) -> Any:
        if threading.get_ident() == main:
            next(steps, lambda: None)()
            timeout = 0.0 if timeout is None else min(timeout, 0.01)
        return wait_for(sock, events, timeout)

    monkeypatch.setattr("simple_ws.client.driving._wait_for", waiting)
    with pytest.raises(ConnectionClosed) as raised:
        ws.recv()
    assert raised.value.code == 4000


def test_encode_of_a_message_may_send(open_pair: Any) -> None:
    class Text(str):
        def encode(self, *args: Any) -> bytes:
            ws.send("inner")
            return b"as it says"

    ws, server = open_pair()
    ws.send(Text("x"))
    assert [server.read_message() for _ in range(2)] == ["inner", "as it says"]


def test_log_handler_may_send_what_it_is_told(open_pair: Any, caplog: Any) -> None:
    import logging

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with suppress(ConnectionClosed):
                ws.send(record.getMessage())

    ws, server = open_pair()
    logger = logging.getLogger("simple_ws")
    handler = Handler()
    logger.addHandler(handler)
    caplog.set_level(logging.DEBUG, "simple_ws")
    try:
        server.write(server_close(1000))
        server.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionClosed):
            ws.recv()
    finally:
        logger.removeHandler(handler)
    assert ws.fileno() == -1


# --- Connecting ----------------------------------------------------------------------


def count_descriptors() -> int:
    return len(os.listdir("/dev/fd"))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("step", range(4))
def test_no_socket_is_left_open_when_connect_is_interrupted(step: int) -> None:
    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock, suppress(OSError, AssertionError):
                Server(sock).accept().read_rest()

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve)
    thread.start()
    url = f"ws://localhost:{listener.getsockname()[1]}/"
    connect(url, proxy=None, close_timeout=0.001).close()

    def attempt() -> None:
        connect(url, proxy=None, close_timeout=0.001).close()

    try:
        stop = 1 + step
        while True:
            # Not at each line: what a trace function raises in `with suppress` is kept
            # by CPython, with all that it holds.
            _, error = calls_until(stop, attempt)
            if error is None:
                break
            assert type(error) is KeyboardInterrupt
            del error
            stop += 4
        gc.collect()
        sockets = [item for item in gc.get_objects() if type(item) is socket.socket]
        port = listener.getsockname()[1]
        ours = [s for s in sockets if s.fileno() >= 0 and to_port(s) == port]
        assert ours == []
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(DEADLINE)


def to_port(sock: socket.socket) -> int | None:
    try:
        peer = sock.getpeername()
    except OSError:
        return None
    return peer[1] if isinstance(peer, tuple) else None


# --- The asyncio client --------------------------------------------------------------


class Transport(asyncio.Transport):
    """One that keeps what is written; the server reads nothing of it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = self.paused = False
        self.events: Any = None

    def write(self, data: Any) -> None:
        assert not self.aborted
        self.written += bytes(data)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.events = protocol

    def set_write_buffer_limits(
        self, high: int | None = None, low: int | None = None
    ) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = True
            asyncio.get_running_loop().call_soon(self.events.connection_lost, None)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


def open_async(
    agreement: Agreement | None = None, **options: Any
) -> tuple[aio_connection.Connection, Transport]:
    transport = Transport()
    accepted = Accepted(Headers(), None, agreement, b"")
    uri, checked = parse_uri("ws://h/"), ClientOptions(**options)
    ws = aio_connection.Connection(transport, transport, uri, accepted, checked)
    return ws, transport


def finish(coroutine: Any) -> Any:
    """Run a coroutine that waits for nothing, but may let others have a turn."""
    try:
        for _ in range(5):
            assert coroutine.send(None) is None
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


async def take_all_async(ws: Any) -> list[Any]:
    messages = []
    with suppress(ConnectionClosed):
        while True:
            messages.append(await ws.recv(DEADLINE))
    return messages


@both_ways
@pytest.mark.parametrize("read_limit", [1, 2**20])
def test_asyncio_client_ends_where_reading_is_interrupted(
    until: Any, read_limit: int
) -> None:
    async def attempt(stop: int) -> tuple[int, BaseException | None]:
        ws, transport = open_async(read_limit=read_limit)
        seen, error = until(stop, lambda: transport.events.data_received(STREAM))
        if error is not None and innermost(error) == "data_received":
            ws._cut()  # at its very beginning: as if still in asyncio's own lines
        assert ws.is_open() is (error is None)
        if error is None:
            transport.events.data_received(server_close(1000))
        else:
            assert transport.aborted
        messages = await take_all_async(ws)
        check_messages(messages, may_lack_first=False, complete=error is None)
        transport.abort()
        await asyncio.wait_for(ws.close(), DEADLINE)
        return seen, error

    errors = list(each(lambda stop: asyncio.run(attempt(stop))))
    assert len(errors) > 20


@both_ways
@pytest.mark.parametrize("read_limit", [1, 2**20])
def test_asyncio_client_loses_no_message_when_recv_is_interrupted(
    until: Any, read_limit: int
) -> None:
    async def attempt(stop: int) -> tuple[int, BaseException | None]:
        ws, transport = open_async(read_limit=read_limit)
        transport.events.data_received(STREAM)
        messages: list[Any] = []
        seen, error = until(stop, lambda: messages.append(finish(ws.recv())))
        assert error is None or type(error) is KeyboardInterrupt, error
        survived = ws.is_open()
        if survived:
            while transport.paused:
                messages.append(await ws.recv(DEADLINE))
            transport.events.data_received(server_close(1000))
        messages += await take_all_async(ws)
        lack = error is not None and innermost(error) == "recv"
        check_messages(messages, may_lack_first=lack, complete=survived)
        transport.abort()
        await asyncio.wait_for(ws.close(), DEADLINE)
        return seen, error

    assert len(list(each(lambda stop: asyncio.run(attempt(stop))))) > 3


@both_ways
@pytest.mark.parametrize("call", ["send", "ping", "close"])
@pytest.mark.parametrize("agreement", [None, AGREEMENT])
def test_asyncio_client_sends_nothing_behind_what_was_interrupted(
    until: Any, call: str, agreement: Agreement | None
) -> None:
    async def attempt(stop: int) -> tuple[int, BaseException | None]:
        ws, transport = open_async(agreement)
        await ws.send("first")
        calls = {
            "send": lambda: finish(ws.send("second")),
            "ping": lambda: begin(ws.ping("p")),
            "close": lambda: begin(ws.close(4000, "enough")),
        }
        begun: list[Any] = []

        def begin(coroutine: Any) -> None:
            begun.append(coroutine)
            coroutine.send(None)

        seen, error = until(stop, calls[call])
        for coroutine in begun:
            coroutine.close()
        if ws.is_open():
            await ws.send("third")
        messages = read_messages(transport.written, agreement)
        assert messages[:1] == ["first"]
        assert messages[1:] in ([], ["second"], ["third"], ["second", "third"])
        transport.abort()
        await asyncio.wait_for(ws.close(), DEADLINE)
        return seen, error

    assert len(list(each(lambda stop: asyncio.run(attempt(stop))))) > 3


@both_ways
def test_waiting_tasks_wake_up_when_reading_is_interrupted(until: Any) -> None:
    async def attempt(stop: int) -> tuple[int, BaseException | None]:
        ws, transport = open_async()
        waiting = [
            asyncio.ensure_future(ws.ping("q")),
            asyncio.ensure_future(take_all_async(ws)),
        ]
        await asyncio.sleep(0)
        seen, error = until(stop, lambda: transport.events.data_received(STREAM))
        transport.abort()
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*waiting, return_exceptions=True)
            await ws.close()
        return seen, error

    assert len(list(each(lambda stop: asyncio.run(attempt(stop)), 3))) > 5


@both_ways
def test_close_does_not_hang_when_the_end_is_interrupted(until: Any) -> None:
    async def attempt(stop: int) -> tuple[int, BaseException | None]:
        ws, transport = open_async()
        transport.aborted = True
        seen, error = until(stop, lambda: transport.events.connection_lost(None))
        async with asyncio.timeout(DEADLINE):
            if error is not None:
                transport.events.connection_lost(None)
            await ws.close()
        return seen, error

    assert len(list(each(lambda stop: asyncio.run(attempt(stop))))) > 3


def test_asyncio_recv_lets_others_have_their_turn() -> None:
    async def main() -> None:
        ws, transport = open_async()
        transport.events.data_received(server_frame(TEXT, "x") * 1000)
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        for _ in range(1000):
            assert await ws.recv() == "x"
        assert turns >= 10
        task.cancel()
        transport.abort()
        await ws.close()

    asyncio.run(main())


def test_asyncio_recv_that_is_cancelled_loses_nothing() -> None:
    async def main() -> None:
        ws, transport = open_async()
        transport.events.data_received(server_frame(TEXT, "x") * 1000)
        received = 0
        while received < 1000:
            task = asyncio.ensure_future(ws.recv())
            await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
                received += 1
        transport.abort()
        await ws.close()

    asyncio.run(main())


def test_asyncio_send_of_a_text_that_sends() -> None:
    class Text(str):
        def encode(self, *args: Any) -> bytes:
            finish(ws.send("inner"))
            return b"as it says"

    async def main() -> None:
        nonlocal ws
        ws, transport = open_async(AGREEMENT)
        await ws.send(Text("x"))
        messages = read_messages(transport.written, AGREEMENT)
        assert messages == ["inner", "as it says"]
        transport.abort()
        await ws.close()

    ws: Any = None
    asyncio.run(main())


def test_frames_of_clients_are_what_the_tests_take_them_for() -> None:
    assert read_messages(frame(TEXT, "a") + frame(PING) + frame(BINARY, b"b")) == [
        "a",
        b"b",
    ]
