"""Messages in pieces: `send(iterable)` and `recv_streaming`, of both clients.

Both against scripted servers, real ones of ours, and those of websockets.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import pytest
import websockets.asyncio.server
from client_harness import (
    Asyncio,
    Server,
    elsewhere,
    scripted,
    server_close,
    server_frame,
    turns,
)
from harness import BINARY, DEADLINE, PING, TEXT, Clock, Echo, running
from hypothesis import given
from hypothesis import strategies as st

import simple_ws.aio
from simple_ws import Deflate
from simple_ws.client.core import ClientCore
from simple_ws.client.incoming import Stream
from simple_ws.client.options import ClientOptions
from simple_ws.deflate import Agreement
from simple_ws.errors import ConnectionClosedError, ConnectionClosedOK, InvalidState
from simple_ws.protocol.client_handshake import Accepted
from simple_ws.protocol.fields import Headers
from simple_ws.protocol.fragments import Fragments
from simple_ws.protocol.uri import parse_uri
from simple_ws.protocol.websocket import Protocol

pytestmark = pytest.mark.usefixtures("no_proxy")

CONTINUATION, FIN = 0, 0x80


class Reading:
    """`recv_streaming` of either client, piece by piece."""

    def __init__(self, ws: Any) -> None:
        self._face = getattr(ws, "_face", None)
        self._pieces = ws.recv_streaming()

    def __iter__(self) -> Reading:
        return self

    def __next__(self) -> Any:
        if self._face is None:
            return next(self._pieces)
        try:
            return self._face.do(self._pieces.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None


def hold(server: Server) -> None:
    """Wait to be left."""
    assert server.read_close()[0] == 1000
    server.write(server_close(1000))


class TestSending:
    @pytest.mark.parametrize(
        ("pieces", "binary", "frames"),
        [
            (["a", "é"], None, [(TEXT, b"a"), (0, "é".encode()), (FIN, b"")]),
            ([b"a", bytearray(b"b")], None, [(BINARY, b"a"), (0, b"b"), (FIN, b"")]),
            (["a"], True, [(BINARY, b"a"), (FIN, b"")]),
            ([b"\xc3", b"\xa9"], False, [(TEXT, b"\xc3"), (0, b"\xa9"), (FIN, b"")]),
            (["", "a", ""], None, [(TEXT, b"a"), (FIN, b"")]),
            ([""], None, [(FIN | TEXT, b"")]),
            ([], None, []),
            (["abcde"], None, [(TEXT, b"abc"), (0, b"de"), (FIN, b"")]),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_pieces_are_the_frames_of_one_message(
        self, face: Any, pieces: list[Any], binary: bool | None, frames: list[Any]
    ) -> None:
        def script(server: Server) -> None:
            server.accept()
            assert [server.read_frame() for _ in frames] == frames
            assert server.read_message() == "end"
            hold(server)

        with (
            scripted(script) as server,
            face.connect(server.url, max_frame_size=3) as ws,
        ):
            ws.send(iter(pieces), binary)
            with pytest.raises(TypeError):
                ws.send({1, 2})
            ws.send("end")

    def test_frames_leave_as_the_pieces_come(self, face: Any) -> None:
        seen = threading.Event()

        def script(server: Server) -> None:
            server.accept()
            assert server.read_frame() == (TEXT, b"a")
            if isinstance(face, Asyncio):
                server.send(PING, "now")
                assert server.read_frame() == (0x8A, b"now"), "between the frames"
            seen.set()
            assert server.read_frame() == (CONTINUATION, b"b")
            assert server.read_frame() == (FIN, b"")
            hold(server)

        with scripted(script) as server, face.connect(server.url) as ws:
            ws.send(waiting(face, seen))

    @pytest.mark.parametrize(
        ("pieces", "kind"),
        [
            (["a", b"b"], TypeError),
            (["a", 5], TypeError),
            (["a", "\ud800"], ValueError),
            (["a", ZeroDivisionError()], ZeroDivisionError),
        ],
        ids=["mixed", "number", "surrogate", "raises"],
    )
    def test_message_that_breaks_off_ends_the_connection(
        self, face: Any, pieces: list[Any], kind: Any
    ) -> None:
        def script(server: Server) -> None:
            server.accept()
            assert server.read_frame() == (TEXT, b"a")
            assert server.read_close() == (1011, "a message broke off")
            server.write(server_close(1011))

        with scripted(script) as server, face.connect(server.url) as ws:
            with pytest.raises(kind):
                ws.send(raising(pieces))
            with pytest.raises(ConnectionClosedError):
                ws.send("more")

    @pytest.mark.parametrize(
        ("pieces", "binary", "kind"),
        [
            ([5], None, TypeError),
            (["\ud800"], None, ValueError),
            ([b"\xff"], False, ValueError),
            ([ZeroDivisionError()], None, ZeroDivisionError),
            (["", 5], None, TypeError),
            (["a"], "yes", TypeError),
        ],
    )
    def test_nothing_is_lost_before_the_first_frame(
        self, face: Any, pieces: list[Any], binary: Any, kind: Any
    ) -> None:
        with running(Echo()) as server:
            url = f"ws://127.0.0.1:{server.port}/"
            with face.connect(url) as ws:
                with pytest.raises(kind):
                    ws.send(raising(pieces), binary)
                ws.send(iter(["still ", "open"]))
                assert ws.recv(DEADLINE) == "still open"

    def test_text_of_bytes_must_end_with_a_character(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept()
            assert server.read_frame() == (TEXT, b"\xc3")
            assert server.read_close()[0] == 1011
            server.write(server_close(1011))

        with (
            scripted(script) as server,
            face.connect(server.url) as ws,
            pytest.raises(ValueError, match="inside a UTF-8 sequence"),
        ):
            ws.send(iter([b"\xc3"]), binary=False)

    def test_another_message_waits_for_its_turn(self, face: Any) -> None:
        begun, go_on = threading.Event(), threading.Event()

        def script(server: Server) -> None:
            server.accept()
            assert server.read_frame() == (TEXT, b"a")
            begun.set()
            assert server.read_frame() == (CONTINUATION, b"b")
            assert server.read_frame() == (FIN, b"")
            assert server.read_frame()[1] == b"whole"
            hold(server)

        with (
            scripted(script) as server,
            face.connect(server.url) as ws,
            elsewhere() as start,
        ):
            sent = start(ws.send, waiting(face, go_on))
            assert begun.wait(DEADLINE)
            other = start(ws.send, "whole")
            go_on.set()
            sent.result(DEADLINE)
            other.result(DEADLINE)

    def test_iterable_cannot_send_into_its_own_message(self, face: Any) -> None:
        def pieces() -> Iterator[str]:
            yield "a"
            ws.send("b")

        async def apieces() -> AsyncIterator[str]:
            yield "a"
            await ws._ws.send("b")

        def script(server: Server) -> None:
            server.accept()
            assert server.read_frame() == (TEXT, b"a")
            assert server.read_close()[0] == 1011
            server.write(server_close(1011))

        with scripted(script) as server, face.connect(server.url) as ws:
            own = apieces() if isinstance(face, Asyncio) else pieces()
            with pytest.raises(InvalidState, match="in the middle of it"):
                ws.send(own)

    def test_pieces_may_be_answers(self, face: Any) -> None:
        """The iterable may receive from the connection it is sent on."""
        with running(Echo()) as server:
            url = f"ws://127.0.0.1:{server.port}/"
            with face.connect(url) as ws:
                ws.send("first")
                if isinstance(face, Asyncio):

                    async def relay() -> AsyncIterator[str]:
                        yield await ws._ws.recv()
                        yield "!"

                    ws.send(relay())
                else:
                    ws.send(ws.recv(DEADLINE) + end for end in "!")
                assert ws.recv(DEADLINE) == "first!"


def raising(pieces: Iterable[Any]) -> Iterator[Any]:
    for piece in pieces:
        if isinstance(piece, Exception):
            raise piece
        yield piece


def waiting(face: Any, go_on: threading.Event) -> Any:
    """The pieces a and b, with a wait between them."""

    def pieces() -> Iterator[str]:
        yield "a"
        go_on.wait(DEADLINE)
        yield "b"

    async def apieces() -> AsyncIterator[str]:
        yield "a"
        await asyncio.to_thread(go_on.wait, DEADLINE)
        yield "b"

    return apieces() if isinstance(face, Asyncio) else pieces()


def test_cancelled_send_ends_the_connection() -> None:
    face = Asyncio("asyncio", asyncio.new_event_loop)

    def script(server: Server) -> None:
        server.accept()
        assert server.read_frame() == (TEXT, b"a")
        face.loop.call_soon_threadsafe(lambda: tasks[0].cancel())
        assert server.read_close()[0] == 1011
        server.write(server_close(1011))

    async def endless() -> AsyncIterator[str]:
        yield "a"
        await asyncio.get_running_loop().create_future()

    tasks: list[asyncio.Task[Any]] = []

    async def send(ws: Any) -> None:
        tasks.append(asyncio.create_task(ws.send(endless())))
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]

    with scripted(script) as server, face.connect(server.url) as ws:
        face.do(send(ws._ws))
    face.close()


class TestReceiving:
    def test_pieces_come_before_the_message_has_ended(self, face: Any) -> None:
        taken = threading.Event()

        def script(server: Server) -> None:
            server.accept()
            server.write(server_frame(TEXT, "one \u00e9".encode()[:-1], 0))
            assert taken.wait(DEADLINE)
            server.write(server_frame(PING, "now"))
            server.write(server_frame(CONTINUATION, b"\xa9 two"))
            server.send(TEXT, "next")
            assert server.read_frame() == (0x8A, b"now")
            hold(server)

        with scripted(script) as server, face.connect(server.url) as ws:
            pieces = Reading(ws)
            got = next(pieces)
            assert got == "one "
            taken.set()
            assert "".join(pieces) == "\u00e9 two"
            assert ws.recv(DEADLINE) == "next"

    @pytest.mark.parametrize("message", ["", b"", "short", b"bytes"])
    def test_whole_message_is_one_piece(self, face: Any, message: Any) -> None:
        with running(Echo()) as server:
            url = f"ws://127.0.0.1:{server.port}/"
            with face.connect(url) as ws:
                ws.send(message)
                assert list(Reading(ws)) == [message]

    def test_one_frame_comes_in_pieces_as_well(self, face: Any) -> None:
        data = random.Random(7).randbytes(100_000)
        taken = threading.Event()

        def script(server: Server) -> None:
            server.accept()
            frame = server_frame(BINARY, data)
            server.write(frame[:50_000])
            assert taken.wait(DEADLINE)
            server.write(frame[50_000:])
            hold(server)

        with scripted(script) as server, face.connect(server.url) as ws:
            pieces = Reading(ws)
            first = next(pieces)
            taken.set()
            assert first + b"".join(pieces) == data

    def test_rest_is_skipped_when_another_message_is_received(self, face: Any) -> None:
        taken = threading.Event()

        def script(server: Server) -> None:
            server.accept()
            server.write(server_frame(BINARY, b"one", 0))
            assert taken.wait(DEADLINE)
            server.write(server_frame(CONTINUATION, b"two", 0))
            server.write(server_frame(CONTINUATION, b"three"))
            server.send(TEXT, "next")
            server.write(server_frame(TEXT, "last", 0))
            server.write(server_frame(CONTINUATION, " one"))
            hold(server)

        with scripted(script) as server, face.connect(server.url) as ws:
            pieces = Reading(ws)
            assert next(pieces) == b"one"
            taken.set()
            assert ws.recv(DEADLINE) == "next"
            assert "".join(Reading(ws)) == "last one"
            with pytest.raises(InvalidState, match="was skipped"):
                next(pieces)

    def test_end_in_the_middle_is_told(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept()
            server.write(server_frame(BINARY, b"one", 0))
            assert taken.wait(DEADLINE)
            server.leave(1000)

        taken = threading.Event()
        with scripted(script) as server, face.connect(server.url) as ws:
            pieces = Reading(ws)
            assert next(pieces) == b"one"
            taken.set()
            with pytest.raises(ConnectionClosedOK):
                next(pieces)

    def test_limit_holds_for_the_whole_message(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept()
            server.write(server_frame(BINARY, b"x" * 60, 0))
            assert taken.wait(DEADLINE)
            server.write(server_frame(CONTINUATION, b"x" * 41, 0))
            assert server.read_close()[0] == 1009
            server.write(server_close(1009))

        taken = threading.Event()
        with (
            scripted(script) as server,
            face.connect(server.url, max_size=100) as ws,
        ):
            pieces = Reading(ws)
            assert len(next(pieces)) == 60
            taken.set()
            with pytest.raises(ConnectionClosedError) as caught:
                next(pieces)
            assert caught.value.code == 1009

    def test_text_that_is_no_utf_8_is_found_in_the_middle(self, face: Any) -> None:
        def script(server: Server) -> None:
            server.accept()
            server.write(server_frame(TEXT, b"ok\xff", 0))
            assert server.read_close()[0] == 1007
            server.write(server_close(1007))

        with (
            scripted(script) as server,
            face.connect(server.url) as ws,
            pytest.raises(ConnectionClosedError, match="1007"),
        ):
            list(Reading(ws))

    def test_server_waits_while_pieces_are_not_taken(self, face: Any) -> None:
        """Much more than what is kept here and by the system in between."""
        size, chunk = 64 * 2**20, b"\xa5" * 2**16
        count = size // len(chunk)
        written = []

        def script(server: Server) -> None:
            server.accept()
            server.write(server_frame(BINARY, b"", 0))
            frame = server_frame(CONTINUATION, chunk, 0)
            for number in range(count):
                server.write(frame)
                written.append(number)
            server.write(server_frame(CONTINUATION, b""))
            hold(server)

        with (
            scripted(script) as server,
            face.connect(server.url, max_size=None, read_limit=2**17) as ws,
        ):
            pieces = Reading(ws)
            total = largest = 0
            for piece in pieces:
                total += len(piece)
                largest = max(largest, ws._inbox_size)
            assert total == size
            assert largest < 2**20, "bytes kept here"

    def test_message_is_whole_where_no_piece_came_in_time(self) -> None:
        def script(server: Server) -> None:
            server.accept()
            assert go_on.wait(DEADLINE)
            server.write(server_frame(TEXT, "one ", 0))
            server.write(server_frame(CONTINUATION, "two"))
            hold(server)

        go_on = threading.Event()
        with scripted(script) as server, simple_ws.connect(server.url) as ws:
            with pytest.raises(TimeoutError):
                next(ws.recv_streaming(timeout=0))
            go_on.set()
            assert ws.recv(DEADLINE) == "one two"


def test_cancelled_wait_loses_no_piece() -> None:
    async def receive(ws: Any) -> None:
        task = asyncio.ensure_future(anext(ws.recv_streaming()))
        await turns()
        ws._data_received(server_frame(TEXT, "one \u00e9", 0))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ws._data_received(server_frame(CONTINUATION, " two"))
        assert await ws.recv() == "one \u00e9 two"

    def script(server: Server) -> None:
        hold(server.accept())

    face = Asyncio("asyncio", asyncio.new_event_loop)
    with scripted(script) as server, face.connect(server.url) as ws:
        face.do(receive(ws._ws))
    face.close()


def test_two_tasks_cannot_receive_at_once() -> None:
    async def receive(ws: Any) -> None:
        task = asyncio.ensure_future(anext(ws.recv_streaming()))
        await turns()
        with pytest.raises(InvalidState, match="another task"):
            await ws.recv()
        with pytest.raises(InvalidState, match="another task"):
            await anext(ws.recv_streaming())
        ws._data_received(server_frame(TEXT, "one"))
        assert await task == "one"

    def script(server: Server) -> None:
        hold(server.accept())

    face = Asyncio("asyncio", asyncio.new_event_loop)
    with scripted(script) as server, face.connect(server.url) as ws:
        face.do(receive(ws._ws))
    face.close()


@pytest.mark.parametrize(
    "compression", [False, True, Deflate(client_no_context_takeover=True)]
)
def test_pieces_both_ways_through_our_server(face: Any, compression: Any) -> None:
    chance = random.Random(5)
    with running(Echo(compression=True)) as server:
        url = f"ws://127.0.0.1:{server.port}/"
        with face.connect(url, compression=compression, max_frame_size=1000) as ws:
            for _ in range(5):
                pieces = [chance.choice("aé😀") * chance.randrange(3000) for _ in "123"]
                ws.send(iter(pieces))
                assert "".join(Reading(ws)) == "".join(pieces)
                ws.send("between")
                assert ws.recv(DEADLINE) == "between"


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_pieces_both_ways_with_websockets(compression: Any) -> None:
    async def serve(peer: Any) -> None:
        async for message in peer:
            await peer.send([message[:1000], message[1000:2000], message[2000:]])

    async def main() -> None:
        async with websockets.asyncio.server.serve(
            serve, "127.0.0.1", 0, compression=compression
        ) as server:
            port = server.sockets[0].getsockname()[1]
            url = f"ws://127.0.0.1:{port}/"
            async with simple_ws.aio.connect(url) as ws:
                for text in ("é" * 1500 + "b" * 1000, "c" * 3000, "d"):
                    await ws.send(text[i : i + 700] for i in range(0, len(text), 700))
                    got = [piece async for piece in ws.recv_streaming()]
                    assert "".join(got) == text  # type: ignore[arg-type]

    asyncio.run(asyncio.wait_for(main(), DEADLINE))


# Without sockets: any cuts


AGREEMENT = Agreement(True, True, 15, 15, 1, 8, 0)
NO_TAKEOVER = Agreement(False, False, 15, 15, 1, 8, 0)

PIECES = st.one_of(
    st.lists(st.text(max_size=300), min_size=1, max_size=5),
    st.lists(st.binary(max_size=300), min_size=1, max_size=5),
)


@pytest.mark.parametrize("agreement", [None, AGREEMENT, NO_TAKEOVER])
@given(pieces=PIECES, limit=st.sampled_from([None, 1, 100]), cuts=st.randoms())
def test_any_pieces_arrive_cut_anywhere(
    agreement: Any, pieces: list[Any], limit: int | None, cuts: random.Random
) -> None:
    """What `Fragments` makes, `Protocol` reads; taken out in pieces, it is the same."""
    sender = Protocol(server=False, max_frame_size=limit, agreement=agreement)
    reader = Protocol(server=True, agreement=agreement)
    for _ in "12":  # with the window of the first message
        fragments = Fragments(sender, None)
        data = b"".join(fragments.frame(fragments.encode(each)) for each in pieces)
        data += fragments.frame_end()
        got, pos = [], 0
        while reader.event is None:
            stop = min(len(data), pos + cuts.randrange(1, 50))
            pos = reader.receive(data, pos, stop)
            if reader.event is None and cuts.random() < 0.5:
                got.append(reader.take_piece())
        event = reader.take_event()
        assert event is not None
        assert pos == len(data)
        empty = event[1][:0]
        assert empty.join([each or empty for each in got] + [event[1]]) == empty.join(
            pieces
        )


class Core(ClientCore):
    """A connection without a socket."""

    def __init__(self, **options: Any) -> None:
        accepted = Accepted(Headers(), None, None, b"")
        uri = parse_uri("ws://h/")
        super().__init__(uri, accepted, ClientOptions(**options), Clock())

    def _put_pong(self, frame: bytes) -> None:
        """Sent nowhere."""


@given(
    messages=st.lists(PIECES, min_size=1, max_size=6),
    limit=st.sampled_from([1, 200, 2**20]),
    chance=st.randoms(use_true_random=False),
)
def test_any_way_to_receive_gives_the_same_messages(
    messages: list[list[Any]], limit: int, chance: random.Random
) -> None:
    """Whole, in pieces, left in the middle or before the first piece; cut anywhere."""
    data = b"".join(map(frames_of, messages))
    core = Core(read_limit=limit)
    wanted = iter([pieces[0][:0].join(pieces) for pieces in messages])
    stream, got = None, []
    while data or core._inbox or core._rest:
        cut = chance.randrange(1, 300)
        core._feed(data[:cut])
        data = data[cut:]
        if stream is None and chance.random() < 0.5:
            stream, got = Stream(), []
        if stream is None:
            core._leave_stream()
            if core._inbox:
                assert core._take() == next(wanted)
            continue
        core._stream(stream)
        if core._inbox:
            got.append(core._take_piece(stream))
        if stream.over:
            empty = got[0][:0]
            assert empty.join(each or empty for each in got) == next(wanted)
            stream = None
        elif chance.random() < 0.2:
            if stream.begun:
                assert next(wanted).startswith(got[0][:0].join(got))
            core._leave_stream()
            stream = None
    left = list(wanted)
    assert len(left) <= (stream is not None), left


def frames_of(pieces: list[Any]) -> bytes:
    """One message; pieces of text are cut anywhere in their UTF-8."""
    opcode = TEXT if isinstance(pieces[0], str) else BINARY
    whole = pieces[0][:0].join(pieces)
    data = whole.encode() if isinstance(whole, str) else whole
    size = max(1, len(data) // len(pieces))
    cut = [data[pos : pos + size] for pos in range(0, len(data), size)] or [b""]
    frames = [server_frame(CONTINUATION, each, 0) for each in cut]
    frames[0] = bytes((opcode,)) + frames[0][1:]
    frames[-1] = bytes((frames[-1][0] | FIN,)) + frames[-1][1:]
    return server_frame(PING).join(frames)
