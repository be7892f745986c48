"""The asyncio client: cancellation, backpressure, time, reconnecting.

Behaviour shared with the blocking client is tested in `test_clients`. Peers are the
other ends of socket pairs, so that sent bytes have arrived; the test moves the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import itertools
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from typing import Any

import pytest
from client_harness import (
    FakeTimeLoop,
    Server,
    answer_to,
    new_uvloop,
    server_close,
    server_frame,
    turns,
)
from harness import BINARY, CLOSE, DEADLINE, PING, PONG, TEXT, Echo, running

from simple_ws import aio
from simple_ws.aio import Backoff, Connection, _Opener, connect
from simple_ws.client import aio_driving
from simple_ws.client.aio_dial import HandshakeProtocol
from simple_ws.client.backoff import may_heal
from simple_ws.client.options import ClientOptions
from simple_ws.constants import CloseCause
from simple_ws.errors import (
    ConnectError,
    ConnectionClosed,
    ConnectTimeout,
    HandshakeRefused,
    InvalidHandshake,
    InvalidState,
    InvalidURI,
    ProxyError,
    TLSError,
)
from simple_ws.protocol.client_handshake import Accepted
from simple_ws.protocol.fields import Headers
from simple_ws.protocol.uri import parse_uri

BIG = b"\xa5" * (4 * 2**20)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTimeLoop]:
    """A loop whose time the test moves; nothing may be left behind in it."""
    with asyncio.Runner(loop_factory=FakeTimeLoop, debug=True) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, FakeTimeLoop)
        complaints: list[Any] = []
        loop.set_exception_handler(lambda _, said: complaints.append(said))
        for module in (aio, aio_driving):
            monkeypatch.setattr(module, "_clock", loop.clock)
        loop.slow_callback_duration = DEADLINE
        yield loop
        loop.run_until_complete(turns())
        assert not asyncio.all_tasks(loop)
        gc.collect()
        assert complaints == []


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on the loop of that fixture."""

    @wraps(test)
    def run(*args: Any, loop: FakeTimeLoop, **named: Any) -> None:
        loop.run_until_complete(test(*args, loop=loop, **named))

    return run


@contextlib.asynccontextmanager
async def open_pair(
    rest: bytes = b"", **options: Any
) -> AsyncIterator[tuple[Connection, Server]]:
    """A connection that is open, and the server's end of it."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    exchange = HandshakeProtocol()
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: exchange, sock=ours)
    transport = exchange.transport
    assert transport is not None
    accepted = Accepted(Headers(), None, None, rest)
    options.setdefault("max_size", None)
    uri = parse_uri("ws://h/")
    ws = Connection(transport, transport, uri, accepted, ClientOptions(**options))
    try:
        yield ws, Server(theirs)
    finally:
        theirs.close()
        transport.abort()
        await turns()


async def leave(ws: Connection, server: Server) -> None:
    """Close from our side, with everything as it should be."""
    closing = asyncio.create_task(ws.close())
    await turns()
    code, reason = server.read_close()
    server.write(server_close(code or 1000, reason))
    server.sock.close()
    await closing


async def fill(ws: Connection) -> bytes:
    """Send until the transport takes no more; return what was sent."""
    await ws.send(BIG)
    assert ws._writing_paused
    return BIG


def read_message(server: Server) -> Coroutine[Any, Any, Any]:
    """Read a message in a thread, so that the loop goes on."""
    return asyncio.to_thread(server.read_message)


# --- Floods --------------------------------------------------------------------------


def tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each look at the client's clock take a millisecond."""
    now = itertools.count(1000.0, 0.001)
    monkeypatch.setattr(aio_driving, "_clock", lambda: next(now))


PONGS = server_frame(PONG) * 2**10


@on_loop
async def test_others_have_their_turn_in_a_flood(
    loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick(monkeypatch)
    last = server_frame(TEXT, "at last") + server_frame(TEXT, "and more")
    async with open_pair(PONGS + last, ping_interval=None) as (ws, _):
        receiving = asyncio.create_task(ws.recv())
        others = 0
        while not receiving.done():
            await asyncio.sleep(0)
            others += 1
            assert ws._transport.is_reading() is not ws._unread
        assert others > 10
        assert await receiving == "at last"
        assert await ws.recv() == "and more"
        await turns()
        assert ws._transport.is_reading()


@on_loop
async def test_receiving_lets_others_have_their_turn_in_a_flood(
    loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick(monkeypatch)
    rest = (server_frame(TEXT, "x") + server_frame(PING) * 16) * 16
    async with open_pair(rest, ping_interval=None) as (ws, _):
        others = 0

        async def count() -> None:
            nonlocal others
            while True:
                await asyncio.sleep(0)
                others += 1

        counting = asyncio.create_task(count())
        for _ in range(16):
            assert await ws.recv() == "x"
        counting.cancel()
        assert others > 10


@on_loop
async def test_cancelled_receive_loses_nothing_in_a_flood(
    loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick(monkeypatch)
    rest = server_frame(TEXT, "x") + PONGS + server_frame(TEXT, "y")
    async with open_pair(rest, ping_interval=None) as (ws, _):
        receiving = asyncio.create_task(ws.recv())
        await asyncio.sleep(0)
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        first = "x" if receiving.cancelled() else receiving.result()
        assert first == "x"
        if receiving.cancelled():
            assert await ws.recv() == "x"
        assert await ws.recv() == "y"


@on_loop
async def test_end_behind_a_flood_is_seen(
    loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick(monkeypatch)
    last = server_frame(TEXT, "at last") + server_close(1001, "bye")
    async with open_pair(PONGS + last, ping_interval=None) as (ws, server):
        server.sock.close()
        assert [message async for message in ws] == ["at last"]
        assert (ws.close_code, ws.close_reason) == (1001, "bye")


@on_loop
async def test_closing_is_bounded_in_a_flood(
    loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    tick(monkeypatch)
    async with open_pair(PONGS * 64, ping_interval=None, close_timeout=5) as (ws, _):
        closing = asyncio.create_task(ws.close())
        await asyncio.sleep(0)
        assert ws._unread
        await loop.advance(5)
        await closing
        assert ws.close_code == 1000


@on_loop
async def test_nothing_is_written_to_an_aborted_transport(
    loop: FakeTimeLoop, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_pair(ping_interval=None) as (ws, _):
        ws._transport.abort()
        ws._data_received(server_frame(PING) * 100)
        await turns()
        assert not ws.is_open()
    assert "socket.send" not in caplog.text


# --- Cancellation --------------------------------------------------------------------


class TestCancellation:
    @on_loop
    async def test_cancelled_receive_loses_nothing(self, loop: FakeTimeLoop) -> None:
        async with open_pair() as (ws, server):
            receiving = asyncio.create_task(ws.recv())
            await turns()
            # The message wakes the task, which is cancelled before it runs.
            ws._data_received(server_frame(TEXT, "precious"))
            receiving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await receiving
            assert await ws.recv() == "precious"
            await leave(ws, server)

    @on_loop
    async def test_receive_may_be_cancelled_at_any_byte(
        self, loop: FakeTimeLoop
    ) -> None:
        async with open_pair() as (ws, server):
            for byte in server_frame(TEXT, "whole"):
                receiving = asyncio.create_task(ws.recv())
                await turns()
                server.write(bytes((byte,)))
                receiving.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await receiving
            assert await ws.recv() == "whole"
            await leave(ws, server)

    @on_loop
    async def test_receive_goes_on_while_a_cancelled_one_is_still_there(
        self, loop: FakeTimeLoop
    ) -> None:
        async with open_pair() as (ws, server):
            receiving = asyncio.create_task(ws.recv())
            await turns()
            receiving.cancel()
            server.send(TEXT, "for the next")
            assert await ws.recv() == "for the next"
            assert receiving.cancelled()
            await leave(ws, server)

    @on_loop
    async def test_only_one_task_may_receive(self, loop: FakeTimeLoop) -> None:
        async with open_pair() as (ws, server):
            receiving = asyncio.create_task(ws.recv())
            await turns()
            with pytest.raises(InvalidState, match="another task is receiving"):
                await ws.recv()
            server.send(TEXT, "for the first")
            assert await receiving == "for the first"
            await leave(ws, server)

    @on_loop
    async def test_message_taken_by_another_leaves_the_first_waiting(
        self, loop: FakeTimeLoop
    ) -> None:
        async with open_pair() as (ws, server):
            receiving = asyncio.create_task(ws.recv())
            await turns()
            ws._data_received(server_frame(TEXT, "one"))
            assert await ws.recv() == "one"
            await turns()
            assert not receiving.done()
            server.send(TEXT, "two")
            assert await receiving == "two"
            await leave(ws, server)

    @on_loop
    async def test_timeout_loses_nothing(self, loop: FakeTimeLoop) -> None:
        async with open_pair() as (ws, server):
            receiving = asyncio.create_task(ws.recv(timeout=3))
            await turns()
            await loop.advance(3)
            with pytest.raises(TimeoutError, match="no message within 3 s"):
                await receiving
            server.send(TEXT, "later")
            assert await ws.recv(timeout=3) == "later"
            await leave(ws, server)

    @on_loop
    async def test_message_that_comes_with_the_timeout_is_returned(
        self, loop: FakeTimeLoop
    ) -> None:
        async with open_pair() as (ws, server):
            receiving = asyncio.create_task(ws.recv(timeout=3))
            await turns()
            loop.clock.now += 3
            ws._data_received(server_frame(TEXT, "just"))
            assert await receiving == "just"
            await leave(ws, server)

    @on_loop
    async def test_cancelled_send_has_not_sent(self, loop: FakeTimeLoop) -> None:
        async with open_pair() as (ws, server):
            await fill(ws)
            cancelled = asyncio.create_task(ws.send("cancelled"))
            kept = asyncio.create_task(ws.send("kept"))
            await turns()
            assert not cancelled.done()
            cancelled.cancel()
            await turns()
            assert cancelled.cancelled()
            assert await read_message(server) == BIG
            assert await read_message(server) == "kept"
            await kept
            await leave(ws, server)

    @on_loop
    async def test_cancelled_ping_is_forgotten(self, loop: FakeTimeLoop) -> None:
        async with open_pair() as (ws, server):
            for _ in range(3):
                pinging = asyncio.create_task(ws.ping(b"same"))
                await turns()
                pinging.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await pinging
            assert not ws._pings
            assert not ws._answers
            for _ in range(3):
                assert server.read_frame() == (0x80 | PING, b"same")
            server.send(PONG, "same")
            await leave(ws, server)

    @on_loop
    async def test_cancelled_close_goes_on_by_itself(self, loop: FakeTimeLoop) -> None:
        async with open_pair() as (ws, server):
            closing = asyncio.create_task(ws.close(4001))
            await turns()
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            again = asyncio.create_task(ws.close())
            await turns()
            assert server.read_close() == (4001, "")
            server.write(server_close(4001))
            server.sock.close()
            await again
            assert ws.close_code == 4001

    @pytest.mark.parametrize("name", ["asyncio", "uvloop"])
    @pytest.mark.parametrize("tls", [False, True])
    def test_connect_cancelled_at_any_step_leaves_no_socket(
        self, name: str, tls: bool
    ) -> None:
        if name == "uvloop" and not importlib.util.find_spec("uvloop"):
            pytest.skip("no uvloop")
        make = new_uvloop if name == "uvloop" else None
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(cancel_at_every_step(tls))
        gc.collect()  # an open socket would be complained about


async def cancel_at_every_step(tls: bool) -> None:
    """Cancel `connect` after 0, 1, 2, ... turns of the loop until it comes through."""
    came, gone, changed = 0, 0, asyncio.Event()
    contexts: tuple[Any, Any] = (None, None)
    if tls:
        authority = pytest.importorskip("trustme").CA()
        contexts = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
        authority.issue_cert("localhost").configure_cert(contexts[0])
        authority.configure_trust(contexts[1])

    async def serve(reader: Any, writer: Any) -> None:
        nonlocal came, gone
        came += 1
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(answer_to(head.decode()[:-4]))
            await reader.readexactly(1)
        with contextlib.suppress(OSError):
            while await reader.read(2**16):
                pass
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        gone += 1
        changed.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=contexts[0])
    port = server.sockets[0].getsockname()[1]
    url = f"wss://localhost:{port}/" if tls else f"ws://localhost:{port}/"
    ws = None
    for steps in range(1000):
        connecting = asyncio.ensure_future(open_one(url, contexts[1]))
        await turns(steps)
        if connecting.done():
            ws = await connecting
            break
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
    assert ws is not None
    assert steps > 2
    await ws.send("x")  # so that the server goes on to read until the end
    ws._transport.abort()
    async with asyncio.timeout(DEADLINE):
        while gone < came:
            changed.clear()
            await changed.wait()
    server.close()
    await server.wait_closed()


async def open_one(url: str, context: Any) -> Connection:
    return await connect(url, ssl=context, proxy=None)


# --- Back-pressure -------------------------------------------------------------------


class TestBackPressure:
    @on_loop
    async def test_full_inbox_stops_the_server(self, loop: FakeTimeLoop) -> None:
        async with open_pair(read_limit=10_000) as (ws, server):
            server.sock.setblocking(False)
            sent, unsent = 0, bytearray()
            with contextlib.suppress(BlockingIOError):
                while True:
                    if not unsent:
                        unsent += server_frame(TEXT, "x" * 1000)
                        sent += 1
                    del unsent[: server.sock.send(unsent)]
                    await asyncio.sleep(0)
            assert len(ws._inbox) < 20
            assert sent > len(ws._inbox)
            for _ in range(sent - 1):
                assert await ws.recv() == "x" * 1000
            server.sock.setblocking(True)
            server.write(unsent)
            assert await ws.recv() == "x" * 1000
            await leave(ws, server)

    @on_loop
    async def test_send_waits_while_the_server_does_not_read(
        self, loop: FakeTimeLoop
    ) -> None:
        async with open_pair() as (ws, server):
            await fill(ws)
            size = ws._transport.get_write_buffer_size()
            sending = [asyncio.create_task(ws.send(BIG)) for _ in range(5)]
            await turns()
            assert not any(task.done() for task in sending)
            assert ws._transport.get_write_buffer_size() == size
            for _ in range(6):
                assert await read_message(server) == BIG
                assert ws._transport.get_write_buffer_size() < 2 * len(BIG)
            await asyncio.gather(*sending)
            await leave(ws, server)

    @on_loop
    async def test_messages_of_one_task_keep_their_order(
        self, loop: FakeTimeLoop
    ) -> None:
        async with open_pair() as (ws, server):

            async def send_all() -> None:
                for n in range(300):
                    await ws.send(str(n) * 1000)

            sending = asyncio.create_task(send_all())
            for n in range(300):
                assert await read_message(server) == str(n) * 1000
            await sending
            await leave(ws, server)

    @on_loop
    async def test_sending_lets_others_have_their_turn(
        self, loop: FakeTimeLoop
    ) -> None:
        async with open_pair() as (ws, server):
            turn = asyncio.create_task(asyncio.sleep(0))
            for _ in range(200):
                await ws.send("")
            assert turn.done()
            for _ in range(200):
                assert await read_message(server) == ""
            await leave(ws, server)

    @on_loop
    async def test_server_that_reads_nothing_is_given_up(
        self, loop: FakeTimeLoop
    ) -> None:
        async with open_pair(write_timeout=7, ping_interval=None) as (ws, _):
            await fill(ws)
            sending = asyncio.create_task(ws.send("x"))
            await turns()
            await loop.advance(7)
            with pytest.raises(ConnectionClosed, match="has read nothing for 7 s") as e:
                await sending
            assert (e.value.code, e.value.cause) == (1006, CloseCause.SLOW_CONSUMER)
            with pytest.raises(ConnectionClosed):
                await ws.recv()
            await ws.close()

    @on_loop
    async def test_server_that_reads_slowly_is_not(self, loop: FakeTimeLoop) -> None:
        async with open_pair(write_timeout=7, ping_interval=1, ping_timeout=1) as pair:
            ws, server = pair
            await fill(ws)
            got = bytearray()
            while ws._writing_paused and ws.is_open():
                await loop.advance(6)
                got += server.sock.recv(2**17)
                await turns()
            assert ws.is_open()
            server._buffer = bytes(got)
            assert await read_message(server) == BIG
            ws._transport.abort()

    @on_loop
    async def test_of_the_pongs_that_wait_the_last_is_sent(
        self, loop: FakeTimeLoop
    ) -> None:
        async with open_pair() as (ws, server):
            await fill(ws)
            size = ws._transport.get_write_buffer_size()
            for n in range(1000):
                ws._data_received(server_frame(PING, str(n)))
            assert ws._transport.get_write_buffer_size() == size
            assert await read_message(server) == BIG
            await turns()
            assert server.read_frame() == (0x80 | PONG, b"999")
            await leave(ws, server)

    @on_loop
    async def test_close_lets_the_output_leave_first(self, loop: FakeTimeLoop) -> None:
        async with open_pair(close_timeout=2, write_timeout=7) as (ws, server):
            await fill(ws)
            closing = asyncio.create_task(ws.close())
            await turns()
            got = bytearray()
            while (left := ws._transport.get_write_buffer_size()) > 16 * 1024:
                got += server.sock.recv(2**17 if left > 2**19 else 2**12)
                await loop.advance(0.01)
            assert left
            await loop.advance(3)  # longer than a server has to answer
            server._buffer = bytes(got)
            assert await read_message(server) == BIG
            assert server.read_close()[0] == 1000
            await loop.advance(2)
            await closing
            assert ws.close_code == 1000

    @on_loop
    async def test_close_is_not_held_up_by_a_full_inbox(
        self, loop: FakeTimeLoop
    ) -> None:
        async with open_pair(read_limit=1) as (ws, server):
            for n in range(3):
                server.send(TEXT, str(n))
            await turns()
            assert ws._reading_paused
            await leave(ws, server)
            assert await ws.recv() == "0"
            with pytest.raises(ConnectionClosed):
                await ws.recv()

    @on_loop
    async def test_end_behind_unread_messages_is_seen_after_them(
        self, loop: FakeTimeLoop
    ) -> None:
        async with open_pair(read_limit=1) as (ws, server):
            for n in range(3):
                server.send(TEXT, str(n))
            server.write(server_close(4000, "done"))
            await turns()
            assert ws.is_open()
            assert [await ws.recv() for _ in range(3)] == ["0", "1", "2"]
            with pytest.raises(ConnectionClosed, match="done"):
                await ws.recv()


async def collect(things: Any) -> list[Any]:
    return [thing async for thing in things]


# --- Time ----------------------------------------------------------------------------


class TestTime:
    @on_loop
    async def test_silent_server_is_pinged(self, loop: FakeTimeLoop) -> None:
        async with open_pair(ping_interval=20, ping_timeout=5) as (ws, server):
            for _ in range(3):
                await loop.advance(20)
                first, payload = server.read_frame()
                assert first == 0x80 | PING
                server.send(PONG, payload)
                await turns()
            assert ws.latency == 0
            await leave(ws, server)

    @on_loop
    async def test_server_without_a_sign_of_life_is_given_up(
        self, loop: FakeTimeLoop
    ) -> None:
        async with open_pair(ping_interval=20, ping_timeout=5) as (ws, server):
            receiving = asyncio.create_task(ws.recv())
            await loop.advance(20)
            assert server.read_frame()[0] == 0x80 | PING
            await loop.advance(4)
            assert not receiving.done()
            await loop.advance(1)
            with pytest.raises(ConnectionClosed) as caught:
                await receiving
            assert caught.value.code == 1011
            assert caught.value.cause is CloseCause.PING_TIMEOUT
            assert server.read_close() == (
                1011,
                "no answer to a ping within ping_timeout 5 s",
            )
            assert server.read_rest() == b""

    @on_loop
    async def test_any_byte_is_a_sign_of_life(self, loop: FakeTimeLoop) -> None:
        async with open_pair(ping_interval=20, ping_timeout=5) as (ws, server):
            await loop.advance(20)
            server.read_frame()
            await loop.advance(4)
            server.send(TEXT, "alive")
            await turns()
            await loop.advance(4)
            assert ws.is_open()
            assert await ws.recv() == "alive"
            await leave(ws, server)

    @on_loop
    async def test_silence_is_not_judged_while_we_do_not_read(
        self, loop: FakeTimeLoop
    ) -> None:
        options = {"ping_interval": 20, "ping_timeout": 5, "read_limit": 1}
        async with open_pair(**options) as (ws, server):
            server.send(TEXT, "unread")
            await turns()
            for _ in range(10):
                await loop.advance(20)
            assert ws.is_open()
            assert await ws.recv() == "unread"
            await leave(ws, server)

    @on_loop
    async def test_ping_times_out(self, loop: FakeTimeLoop) -> None:
        async with open_pair(ping_interval=None, ping_timeout=4) as (ws, server):
            pinging = asyncio.create_task(ws.ping())
            await turns()
            await loop.advance(4)
            with pytest.raises(TimeoutError, match="no pong within 4 s"):
                await pinging
            assert not ws._pings
            server.read_frame()
            await leave(ws, server)

    @on_loop
    async def test_latency_is_the_time_between_ping_and_pong(
        self, loop: FakeTimeLoop
    ) -> None:
        async with open_pair() as (ws, server):
            pinging = asyncio.create_task(ws.ping("mine"))
            await turns()
            assert server.read_frame() == (0x80 | PING, b"mine")
            await loop.advance(0.25)
            server.send(PONG, "mine")
            assert await pinging == 0.25
            await leave(ws, server)

    @on_loop
    async def test_server_that_does_not_answer_a_close_is_left(
        self, loop: FakeTimeLoop
    ) -> None:
        async with open_pair(close_timeout=5) as (ws, server):
            closing = asyncio.create_task(ws.close())
            await turns()
            await loop.advance(4)
            assert not closing.done()
            await loop.advance(1)
            await closing
            assert (ws.close_code, ws.close_cause) == (1000, CloseCause.LOCAL)
            assert server.read_close()[0] == 1000
            assert server.read_rest() == b""

    @on_loop
    async def test_server_that_does_not_close_is_left(self, loop: FakeTimeLoop) -> None:
        async with open_pair(close_timeout=5) as (ws, server):
            server.write(server_close(1001))
            await turns()
            assert ws.close_code == 1001
            assert server.read_close()[0] == 1001
            closing = asyncio.create_task(ws.close())
            await turns()
            await loop.advance(0.5)
            assert not closing.done()
            await loop.advance(0.5)
            await closing
            assert server.read_rest() == b""

    @on_loop
    async def test_timers_end_with_the_connection(self, loop: FakeTimeLoop) -> None:
        async with open_pair() as (ws, server):
            await leave(ws, server)
            await turns()
        pending = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        assert pending == []

    @on_loop
    async def test_handshake_has_a_deadline(self, loop: FakeTimeLoop) -> None:
        asked = asyncio.Event()

        async def silent(reader: Any, writer: Any) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            await reader.read()
            writer.close()

        async with serving(silent) as url:
            connecting = asyncio.ensure_future(open_one(url, None))
            await asked.wait()
            await loop.advance(10)
            with pytest.raises(ConnectTimeout, match="not open within 10 s"):
                await connecting

    @on_loop
    async def test_body_of_a_refusal_is_waited_for_a_moment_only(
        self, loop: FakeTimeLoop
    ) -> None:
        asked = asyncio.Event()

        async def stingy(reader: Any, writer: Any) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 503 x\r\nContent-Length: 100\r\n\r\nwait")
            asked.set()
            await reader.read()
            writer.close()

        async with serving(stingy) as url:
            connecting = asyncio.ensure_future(open_one(url, None))
            await asked.wait()
            began = loop.clock.now
            while not connecting.done():
                await loop.advance(0.1)
            with pytest.raises(HandshakeRefused) as caught:
                await connecting
            assert caught.value.body == b"wait"
            assert loop.clock.now - began < 2


@contextlib.asynccontextmanager
async def serving(handler: Any) -> AsyncIterator[str]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


# --- Ends ----------------------------------------------------------------------------


class TestEnds:
    @on_loop
    async def test_everybody_who_waits_is_told(self, loop: FakeTimeLoop) -> None:
        async with open_pair() as (ws, server):
            await fill(ws)
            waiting: list[asyncio.Task[Any]] = [
                asyncio.create_task(ws.recv()),
                asyncio.create_task(ws.send("x")),
                asyncio.create_task(ws.ping()),
            ]
            await turns()
            server.write(server_close(1012, "restart"))
            for task in waiting:
                with pytest.raises(ConnectionClosed, match="restart"):
                    await task
            ws._transport.abort()

    @on_loop
    async def test_ping_that_waits_for_its_pong_is_told(
        self, loop: FakeTimeLoop
    ) -> None:
        async with open_pair() as (ws, server):
            pinging = asyncio.create_task(ws.ping())
            await turns()
            server.read_frame()
            server.sock.close()
            with pytest.raises(ConnectionClosed) as caught:
                await pinging
            assert caught.value.code == 1006

    @on_loop
    async def test_what_was_read_before_a_loss_can_be_received(
        self, loop: FakeTimeLoop
    ) -> None:
        async with open_pair(read_limit=1) as (ws, _server):
            ws._data_received(server_frame(TEXT, "a") + server_frame(TEXT, "b"))
            ws._connection_lost(ConnectionResetError(104, "Connection reset by peer"))
            with pytest.raises(ConnectionClosed, match="Connection reset by peer"):
                await ws.send("x")
            assert [await ws.recv(), await ws.recv()] == ["a", "b"]
            with pytest.raises(ConnectionClosed) as caught:
                await ws.recv()
            assert (caught.value.code, caught.value.cause) == (1006, CloseCause.RESET)

    @on_loop
    async def test_close_of_a_lost_connection_forgets_what_was_not_read(
        self, loop: FakeTimeLoop
    ) -> None:
        async with open_pair(read_limit=1) as (ws, server):
            ws._data_received(server_frame(TEXT, "a") + server_frame(TEXT, "b"))
            ws._eof_received()
            closing = asyncio.create_task(ws.close())
            await turns()
            assert ws.close_code == 1006
            server.sock.close()
            await loop.advance(10)
            await closing
            assert await ws.recv() == "a"
            with pytest.raises(ConnectionClosed):
                await ws.recv()

    @on_loop
    async def test_fault_of_the_server_is_answered(self, loop: FakeTimeLoop) -> None:
        async with open_pair() as (ws, server):
            server.write(b"\x81\x81\x00\x00\x00\x00x")
            with pytest.raises(ConnectionClosed, match="masked frame") as caught:
                await ws.recv()
            assert caught.value.code == 1002
            assert server.read_close() == (1002, "masked frame")
            server.sock.close()
            await ws.close()

    @on_loop
    async def test_one_line_is_logged_for_a_fault(
        self, loop: FakeTimeLoop, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO, "simple_ws"):
            async with open_pair() as (ws, server):
                server.write(b"\x83\x00")
                await turns()
                server.sock.close()
                await ws.close()
        (record,) = caplog.records
        assert record.getMessage() == (
            "ws://h/: closed with 1002 'unknown opcode 0x3' (protocol_error)"
        )

    @on_loop
    async def test_connection_is_a_context_too(self, loop: FakeTimeLoop) -> None:
        async with open_pair() as (ws, server):
            server.write(server_close(1000))
            server.sock.shutdown(socket.SHUT_WR)
            async with ws as same:
                assert same is ws
            assert not ws.is_open()
            with pytest.raises(ConnectionClosed):
                await ws.send("x")


# --- Reconnection --------------------------------------------------------------------


class Attempts:
    """In place of `_Opener.open`: what each attempt comes to, and the waits between.

    A number is a connection that is open for so many seconds.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, clock: Any, *outcomes: Any):
        self._outcomes = iter(outcomes)
        self._clock = clock
        self.delays: list[float] = []
        self.closed = 0
        monkeypatch.setattr(_Opener, "open", lambda opener: self._open())
        monkeypatch.setattr(aio, "_sleep", self._sleep)

    async def _open(self) -> Any:
        outcome = next(self._outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return Lived(self, outcome)

    async def _sleep(self, seconds: float) -> None:
        self.delays.append(seconds)


class Lived:
    """A connection, as far as an iteration needs one."""

    url = "ws://h/"

    def __init__(self, attempts: Attempts, seconds: float) -> None:
        self._attempts = attempts
        self.seconds = seconds

    def live(self) -> None:
        self._attempts._clock.now += self.seconds

    async def close(self) -> None:
        self._attempts.closed += 1


def refusal(status: int, headers: dict[str, str] | None = None) -> HandshakeRefused:
    return HandshakeRefused(
        "ws://h/", "no", status, Headers((headers or {}).items()), b""
    )


def tls_error(cause: Exception) -> TLSError:
    error = TLSError("wss://h/", "no")
    error.__cause__ = cause
    return error


ALWAYS_LONGEST = Backoff(first=1, longest=10, stable=5, random=lambda: 1.0)


class TestReconnection:
    @on_loop
    async def test_attempts_go_on_with_longer_and_longer_waits(
        self, loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lost = ConnectError("ws://h/", "refused")
        attempts = Attempts(monkeypatch, loop.clock, *[lost] * 6, 0)
        async for _ in connect("ws://h/", backoff=ALWAYS_LONGEST):
            break
        assert attempts.delays == [1, 2, 4, 8, 10, 10]

    @on_loop
    async def test_waits_are_a_random_part_of_that(
        self, loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        numbers = iter([0.0, 0.5, 0.25])
        backoff = Backoff(first=1, longest=10, random=lambda: next(numbers))
        lost = ConnectError("ws://h/", "refused")
        attempts = Attempts(monkeypatch, loop.clock, *[lost] * 3, 0)
        async for _ in connect("ws://h/", backoff=backoff):
            break
        assert attempts.delays == [0, 1, 1]

    def test_waits_never_overflow(self) -> None:
        assert ALWAYS_LONGEST.delay(10**6) == 10
        assert 0 <= Backoff().delay(3) <= 8

    @on_loop
    async def test_count_begins_anew_after_a_stable_connection(
        self, loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        attempts = Attempts(monkeypatch, loop.clock, 0, 0, 4.9, 5, 0, 0)
        seen = 0
        async for ws in connect("ws://h/", backoff=ALWAYS_LONGEST):
            ws.live()  # type: ignore[attr-defined]
            seen += 1
            if seen == 6:
                break
        assert attempts.delays == [1, 2, 4, 1, 2]
        await turns()
        assert attempts.closed == 6

    @pytest.mark.parametrize(
        "error",
        [
            ConnectError("ws://h/", "refused"),
            ConnectTimeout("ws://h/", "late"),
            *(refusal(status) for status in (408, 425, 429, 500, 502, 503, 504)),
            ProxyError("ws://h/", "not there"),
            ProxyError("ws://h/", "bad gateway", 502),
            tls_error(ssl.SSLEOFError()),
        ],
        ids=repr,
    )
    def test_what_may_heal_is_tried_again(self, error: ConnectError) -> None:
        assert may_heal(error)

    @pytest.mark.parametrize(
        "error",
        [
            InvalidURI("ws://h/", "wrong"),
            InvalidHandshake("ws://h/", "wrong"),
            *(refusal(status) for status in (200, 302, 400, 401, 403, 404, 426, 501)),
            ProxyError("ws://h/", "who are you", 407),
            tls_error(ssl.SSLCertVerificationError()),
        ],
        ids=repr,
    )
    @on_loop
    async def test_what_cannot_heal_ends_the_iteration(
        self,
        error: ConnectError,
        loop: FakeTimeLoop,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        attempts = Attempts(monkeypatch, loop.clock, 0, error)
        with pytest.raises(type(error)) as caught:
            await collect(connect("ws://h/", backoff=ALWAYS_LONGEST))
        assert caught.value is error
        assert attempts.delays == [1]

    @on_loop
    async def test_user_may_decide_what_is_tried_again(
        self, loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A server that is being deployed answers 404 for a while.
        errors = [refusal(404), refusal(503), refusal(401)]
        attempts = Attempts(monkeypatch, loop.clock, *errors)
        asked: list[ConnectError] = []

        def should_retry(error: ConnectError) -> bool:
            asked.append(error)
            return isinstance(error, HandshakeRefused) and error.status != 401

        found = connect("ws://h/", backoff=ALWAYS_LONGEST, should_retry=should_retry)
        with pytest.raises(HandshakeRefused) as caught:
            await collect(found)
        assert caught.value.status == 401
        assert asked == errors
        assert attempts.delays == [1, 2]

    @on_loop
    async def test_wrong_decision_is_refused(self, loop: FakeTimeLoop) -> None:
        with pytest.raises(TypeError, match="should_retry must be a function, not 3"):
            connect("ws://h/", should_retry=3)  # type: ignore[typeddict-item]

    @pytest.mark.parametrize(
        ("value", "delay"),
        [("7", 7), ("0", 1), ("999999", 300), ("9" * 30, 300), ("soon", 1), ("", 1)],
    )
    @on_loop
    async def test_server_may_say_when_to_come_back(
        self,
        value: str,
        delay: float,
        loop: FakeTimeLoop,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        refused = refusal(503, {"Retry-After": value})
        attempts = Attempts(monkeypatch, loop.clock, refused, 0)
        async for _ in connect("ws://h/", backoff=ALWAYS_LONGEST):
            break
        assert attempts.delays == [delay]

    @on_loop
    async def test_error_in_the_body_closes_the_connection(
        self, loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        attempts = Attempts(monkeypatch, loop.clock, 0)
        with pytest.raises(RuntimeError, match="mine"):
            await self.fail_in_the_body()
        await turns()
        assert attempts.closed == 1

    @staticmethod
    async def fail_in_the_body() -> None:
        async for _ in connect("ws://h/"):
            raise RuntimeError("mine")

    @on_loop
    async def test_each_wait_is_one_line_in_the_log(
        self,
        loop: FakeTimeLoop,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        lost = ConnectError("ws://h/", "refused")
        Attempts(monkeypatch, loop.clock, lost, 0, 0)
        seen = 0
        with caplog.at_level(logging.INFO, "simple_ws"):
            async for _ in connect("ws://h/", backoff=ALWAYS_LONGEST):
                seen += 1
                if seen == 2:
                    break
        assert [record.getMessage() for record in caplog.records] == [
            "ws://h/: refused; retrying in 1.0 s",
            "ws://h/ has ended; retrying in 2.0 s",
        ]

    @pytest.mark.parametrize("name", ["asyncio", "uvloop"])
    def test_lost_connections_come_back(self, name: str) -> None:
        if name == "uvloop" and not importlib.util.find_spec("uvloop"):
            pytest.skip("no uvloop")
        handler = Cutting()
        with (
            running(handler) as server,
            asyncio.Runner(
                loop_factory=new_uvloop if name == "uvloop" else None
            ) as runner,
        ):
            url = f"ws://127.0.0.1:{server.port}/"
            assert runner.run(say_until_heard(url)) == 4


class Cutting(Echo):
    """Cuts the first connections off."""

    def on_message(self, msg: Any, client: Any) -> Any:
        if len(self.of("open")) < 4:
            client.terminate()
            return None
        return msg


async def say_until_heard(url: str) -> int:
    """How many connections it took to get an echo."""
    tries = 0
    backoff = Backoff(first=0.001, longest=0.001)
    async for ws in connect(url, backoff=backoff, proxy=None):
        tries += 1
        try:
            await ws.send("hello")
            assert await ws.recv() == "hello"
        except ConnectionClosed:
            continue
        await ws.close()
        return tries
    raise AssertionError("the iteration ended")


@on_loop
async def test_pings_right_behind_the_handshake_are_answered(
    loop: FakeTimeLoop,
) -> None:
    early = server_frame(PING, "early") + server_frame(BINARY, b"x")
    async with open_pair(rest=early) as (ws, server):
        assert server.read_frame() == (0x80 | PONG, b"early")
        assert await ws.recv() == b"x"
        server.send(CLOSE)
        await turns()
        assert server.read_close() == (None, "")
        assert ws.close_code == 1005
        assert [message async for message in ws] == []
