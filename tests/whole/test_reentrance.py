"""User code that runs unexpectedly: between internal lines, and inside types.

Signal handlers, `__del__`, the garbage collector and the methods of a socket run Python
in the middle of reads and writes; subclasses of str and bytes have methods that run
when they are accessed. Whatever that code does, each message is sent once and whole,
and memory stays intact (`make sanitize` runs this file).
"""

from __future__ import annotations

import gc
import itertools
import random
import signal
import socket
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from harness import BINARY, PING, TEXT, Driven, Echo, Recorder, Wrapped, frame
from tls_harness import open_encrypted

from simple_ws import Client, Deflate
from simple_ws.protocol.websocket import Protocol
from simple_ws.speedups import ConnectionCore, Counters, fan_out, read_upgrade

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


# --- Types ---------------------------------------------------------------------------


class Text(str):
    """A str with an `encode` of its own."""

    result: object = b""

    def encode(self, *args: Any) -> Any:
        return self.result


class Data(bytes):
    """Bytes that answer `bytes()` with what they like."""

    result: object = None

    def __bytes__(self) -> Any:
        return self if self.result is None else self.result

    def __len__(self) -> int:
        return 1 << 40


class Upper(bytes):
    """Bytes of somebody's, as an `encode` may return them."""


#: How a message can be sent.
WAYS: dict[str, Callable[[Driven, Client, object], object]] = {
    "write_message": lambda driven, client, msg: client.write_message(msg),
    "binary": lambda driven, client, msg: client.write_message(msg, True),
    "broadcast": lambda driven, client, msg: driven.server.broadcast(msg),
    "fan_out": lambda driven, client, msg: fan_out([client], msg, ()),
}
each_way = pytest.mark.parametrize("send", WAYS.values(), ids=WAYS)


@each_way
@pytest.mark.parametrize("result", [42, "xxx", None, bytearray(b"x"), object()])
def test_text_whose_encode_returns_no_bytes_is_refused(
    send: Any, result: object
) -> None:
    with Driven() as driven:
        peer = driven.open()
        client = driven.handler.client()
        text = Text("hello")
        text.result = result
        with pytest.raises(TypeError, match=r"Text\.encode must return bytes, not "):
            send(driven, client, text)
        client.write_message("still fine")
        assert peer.read_message() == "still fine"


@each_way
def test_text_whose_encode_is_no_utf_8_is_refused(send: Any) -> None:
    with Driven() as driven:
        peer = driven.open()
        text = Text("hello")
        text.result = b"\xff"
        with pytest.raises(ValueError, match="utf-8"):
            send(driven, driven.handler.client(), text)
        driven.server.broadcast("still fine")
        assert peer.read_message() == "still fine"


@each_way
@pytest.mark.parametrize("result", [b"HELLO", Upper(b"HELLO")])
def test_text_is_sent_as_its_encode_says(send: Any, result: bytes) -> None:
    with Driven() as driven:
        peer = driven.open()
        text = Text("hello")
        text.result = result
        send(driven, driven.handler.client(), text)
        assert peer.read_frame()[1] == b"HELLO"


@each_way
@pytest.mark.parametrize("result", [42, "xxx", bytearray(b"x")])
def test_bytes_that_become_no_bytes_are_refused(send: Any, result: object) -> None:
    with Driven() as driven:
        driven.open()
        data = Data(b"hello")
        data.result = result
        with pytest.raises(TypeError, match=r"non-bytes|must return a bytes"):
            send(driven, driven.handler.client(), data)


@each_way
@pytest.mark.parametrize("size", [5, 20_000, 100_000])
def test_bytes_that_lie_about_their_length_are_sent_whole(send: Any, size: int) -> None:
    with Driven(compression=False) as driven:
        peer = driven.open()
        send(driven, driven.handler.client(), Data(b"x" * size))
        assert peer.read_message() == b"x" * size


def test_pings_and_close_reasons_of_subclasses_are_looked_at_as_they_are() -> None:
    class Code(int):
        def __int__(self) -> int:
            return 2**70

    with Driven() as driven:
        peer = driven.open()
        client = driven.handler.client()
        text = Text("x")
        text.result = 42
        with pytest.raises(TypeError):
            client.ping(text)
        assert client.ping(Data(b"p"))
        assert peer.read_frame() == (0x80 | PING, b"p")
        assert client.close(Code(4000), Text("the reason"))
        assert peer.read_close() == (4000, "the reason")


@pytest.mark.parametrize("size", [10, 20_000])
def test_bytes_may_end_the_connection_when_they_are_let_go(size: int) -> None:
    """What is queued is owned by exact bytes, whose end runs no code."""
    ended = []

    class Bomb(Data):
        def __del__(self) -> None:
            ended.append(size)
            client.terminate()

    with Driven(compression=False) as driven:
        peer = driven.open()
        client = driven.handler.client()
        for _ in range(3):
            client.write_message(b"first" * 1000)
            client.write_message(Bomb(b"z" * size))
        peer.read_now()
        driven.until(lambda: driven.handler.of("close"))
        assert ended
        assert client.buffered_amount == driven.reactor.buffered == 0


@pytest.mark.parametrize("wrong", [None, {}, 5, object()])
def test_connection_takes_counters_and_nothing_else(wrong: Any) -> None:
    with Driven(Echo()) as driven:
        peer = driven.open()
        client = driven.handler.client()
        with pytest.raises(TypeError, match="counters must be Counters, not "):
            client._counters = wrong
        with pytest.raises((AttributeError, NotImplementedError)):
            del client._counters
        peer.text("x")
        assert peer.read_message() == "x"
        client._counters = Counters()
        peer.text("y")
        assert peer.read_message() == "y"
        assert client._counters.messages_sent == 1


def test_what_is_no_loop_and_no_connection_is_refused() -> None:
    with pytest.raises(TypeError, match="loop must be a LoopState, not None"):
        ConnectionCore(None, None, None, 1, 1)  # type: ignore[arg-type]
    for member in (None, object()):
        with pytest.raises((TypeError, AttributeError)):
            fan_out([member], "x", ())  # type: ignore[list-item]
    with pytest.raises(TypeError):
        read_upgrade("GET / HTTP/1.1\r\n")  # type: ignore[arg-type]
    assert read_upgrade(bytearray(b"GET / HTTP/1.1\r\n")) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [-1, 10**9, None, "x"])
def test_socket_that_counts_wrongly_ends_the_connection(given: Any) -> None:
    class Liar(Wrapped):
        lies = False

        def send(self, data: Any) -> Any:
            return given if self.lies else self._sock.send(data)

    liars: list[Liar] = []
    with Driven(Echo()) as driven:
        peer = driven.open(wrap=lambda sock: liars.append(Liar(sock)) or liars[0])
        liars[0].lies = True
        peer.text("x")
        driven.until(lambda: driven.handler.of("close"))
        assert driven.reactor.buffered == 0


# --- A socket's methods --------------------------------------------------------------


class Meddling(Wrapped):
    """A socket whose methods do something else before, and take only a part."""

    meddle: Callable[[], object] | None = None
    most = 1 << 30

    def send(self, data: Any) -> int:
        self._do()
        return self._sock.send(memoryview(data)[: self.most])

    def sendmsg(self, buffers: Any) -> int:
        return self.send(b"".join(buffers))

    def recv(self, size: int) -> bytes:
        data = self._sock.recv(size)
        self._do()
        return data

    def _do(self) -> None:
        meddle, self.meddle = self.meddle, None
        if meddle is not None:
            meddle()
            self.meddle = meddle


def meddling(sockets: list[Meddling]) -> Callable[[socket.socket], Meddling]:
    def wrap(sock: socket.socket) -> Meddling:
        sockets.append(Meddling(sock))
        return sockets[-1]

    return wrap


@pytest.mark.parametrize(("most", "size"), [(3, 5), (1000, 3000), (7000, 40_000)])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("policy", ["close", "drop_new", "drop_old"])
def test_what_is_written_while_output_is_written_leaves_once(
    most: int, size: int, whole: bool, policy: str
) -> None:
    sockets: list[Meddling] = []
    numbers = itertools.count()
    taken: list[bytes] = []
    with Driven(compression=False, write_limit=2**17, slow_consumer=policy) as driven:
        peer = driven.open(wrap=meddling(sockets))
        client = driven.handler.client()

        def write() -> None:
            data = b"%06d" % next(numbers) + b"x" * size
            if client.write_message(data):
                taken.append(data)

        def write_in_between() -> None:
            if len(taken) < 30:
                write()
                client.ping(b"p")
                client._flush()

        sockets[0].most, sockets[0].meddle = (
            1 << 30 if whole else most,
            write_in_between,
        )
        heard: list[bytes] = []
        for _ in range(5):
            write()
            driven.turn()
            heard.append(peer.read_now())
        driven.until(lambda: take(peer, heard) and not client.buffered_amount)
        take(peer, heard)
        messages = messages_of(b"".join(heard))
        assert messages == sorted(set(messages))
        assert set(messages) <= set(taken)
        if policy != "drop_old" and client.is_open():
            assert messages == taken


def take(peer: Any, heard: list[bytes]) -> bool:
    heard.append(peer.read_now())
    return True


def messages_of(stream: bytes) -> list[bytes]:
    """The binary messages of a stream of frames, which must be whole."""
    messages, message, pos = [], b"", 0
    while pos < len(stream):
        first, size = stream[pos], stream[pos + 1]
        pos += 2
        if size == 126:
            size = int.from_bytes(stream[pos : pos + 2], "big")
            pos += 2
        elif size == 127:
            size = int.from_bytes(stream[pos : pos + 8], "big")
            pos += 8
        assert pos + size <= len(stream), "the last frame is cut off"
        payload, pos = stream[pos : pos + size], pos + size
        assert first & 0x70 == 0, hex(first)
        if first & 0x0F in (0, BINARY):
            message += payload
            if first & 0x80:
                messages.append(message)
                message = b""
        else:
            assert first in (0x89, 0x88), hex(first)
    return messages


@pytest.mark.parametrize("size", [5, 40_000])
@pytest.mark.parametrize("how", ["terminate", "close", "drop", "loop"])
def test_connection_may_end_while_its_output_is_written(size: int, how: str) -> None:
    sockets: list[Meddling] = []
    with Driven(compression=False) as driven:
        peer = driven.open(wrap=meddling(sockets))
        client = driven.handler.client()
        ends: dict[str, Callable[[], object]] = {
            "terminate": client.terminate,
            "close": client.close,
            "drop": lambda: client._drop_oldest(10**6),
            "loop": lambda: driven.reactor.flush(),
        }
        sockets[0].meddle = ends[how]
        sockets[0].most = 7
        for _ in range(3):
            client.write_message(b"x" * size)
        for _ in range(size):
            driven.turn()
            peer.read_now()
            if not client.buffered_amount:
                break
        assert client.buffered_amount == driven.reactor.buffered == 0


def test_nothing_is_read_while_what_was_read_is_handled() -> None:
    sockets: list[Meddling] = []

    class Impatient(Recorder):
        def on_message(self, msg: Any, client: Any) -> None:
            super().on_message(msg, client)
            client(1)  # as if the selector had called it
            client._receive_more()

    for wrap in (None, meddling(sockets)):
        with Driven(Impatient(), buffer_size=1024) as driven:
            peer = driven.open(wrap=wrap)
            client = driven.handler.client()
            if wrap is not None:
                sockets[0].meddle = lambda client=client: client(1)
            sent = [str(number) * 100 for number in range(1000)]
            sent[500] *= 1000
            for text in sent:
                peer.text(text)
            driven.until(
                lambda handler=driven.handler: len(handler.of("message")) == 1000
            )
            assert driven.handler.of("message") == sent


# --- The garbage collector -----------------------------------------------------------


@pytest.fixture
def collections() -> Iterator[Callable[[Callable[[], object], int], None]]:
    """Have a function called in the n-th collection from now; one comes at nearly every
    object that the collector knows, in CPython 3.11 right where it is made."""
    before = gc.get_threshold()
    added: list[Any] = []

    def arm(function: Callable[[], object], number: int) -> None:
        counts = itertools.count(1)

        def on_collection(phase: str, info: object) -> None:
            if phase == "start" and next(counts) == number:
                function()

        added.append(on_collection)
        gc.callbacks.append(on_collection)
        gc.set_threshold(1, 1000, 1000)

    yield arm
    gc.set_threshold(*before)
    for callback in added:
        gc.callbacks.remove(callback)


@pytest.mark.parametrize("number", range(1, 26))
@pytest.mark.parametrize("how", ["terminate", "write"])
def test_collection_may_run_code_while_output_is_listed(
    number: int, how: str, collections: Any
) -> None:
    """A walk over the raw queue must not continue after such code has run."""
    sockets: list[Meddling] = []
    options = {"compression": False, "write_limit": 2**16, "slow_consumer": "drop_old"}
    with Driven(**options) as driven:
        peer = driven.open(wrap=meddling(sockets))
        client = driven.handler.client()
        sockets[0].most = 1000
        for size in (10, 10, 20_000, 10, 20_000):
            client.write_message(b"w" * size)
        client._flush()
        write = partial(client.send, b"m" * 30)
        code = client.terminate if how == "terminate" else write
        collections(code, number)
        client.write_message(b"x" * 30_000)
        client.ping(b"p")
        driven.turn()
        gc.set_threshold(700)
        sockets[0].most = 1 << 30
        heard = [peer.read_now()]
        driven.until(lambda: take(peer, heard) and not client.buffered_amount)
        take(peer, heard)
        if client.is_open():
            messages_of(b"".join(heard))
        assert driven.reactor.buffered == 0


@pytest.mark.parametrize("number", range(1, 16))
def test_collection_may_run_code_while_a_message_is_compressed_for_many(
    number: int, collections: Any
) -> None:
    """What another message left behind must not be sent in place of this one."""
    with Driven(compression=Deflate(threshold=64)) as driven:
        peers = [driven.open("/", DEFLATE) for _ in range(2)]
        first, second = driven.handler.clients
        one, other = "one " * 100, "other " * 100
        inflaters = [zlib.decompressobj(wbits=-15) for _ in peers]

        def broadcast_other() -> None:
            first.write_message(other)
            second.write_message(other)

        collections(broadcast_other, number)
        driven.server.broadcast(one)
        gc.set_threshold(700)
        driven.turn()
        driven.server.broadcast("last " * 100)
        for peer, inflater in zip(peers, inflaters, strict=True):
            heard = []
            while "last " * 100 not in heard:
                first_byte, packed = peer.read_frame()
                if first_byte & 0x40:
                    packed = inflater.decompress(packed + b"\0\0\xff\xff")
                heard.append(packed.decode())
            assert one in heard
            assert set(heard) <= {one, other, "last " * 100}


# --- Signals -------------------------------------------------------------------------


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Have a function called by a signal's handler."""
    before = signal.getsignal(signal.SIGUSR1)

    def call(function: Callable[[], object]) -> None:
        signal.signal(signal.SIGUSR1, lambda *args: function())

    yield call
    signal.signal(signal.SIGUSR1, before)


class Signalling(Wrapped):
    """A socket at each of whose calls a signal comes in, before and behind."""

    armed = False

    def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        if self.armed:
            signal.raise_signal(signal.SIGUSR1)
        try:
            return method(*args)
        finally:
            if self.armed:
                signal.raise_signal(signal.SIGUSR1)

    def send(self, data: Any) -> int:
        return self._call(self._sock.send, data)

    def recv(self, size: int) -> bytes:
        return self._call(self._sock.recv, size)


def signalling(
    sockets: list[Signalling], room: int = 20_000
) -> Callable[[socket.socket], Signalling]:
    """What makes such a socket, of which the system takes little at once."""

    def wrap(sock: socket.socket) -> Signalling:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        sockets.append(Signalling(sock))
        return sockets[-1]

    return wrap


@pytest.mark.parametrize("size", [1, 20_000, 200_000])
def test_signal_handler_may_broadcast_in_the_middle_of_tls(
    size: int, on_signal: Any
) -> None:
    """What it writes waits until the write that it interrupted is done."""
    sockets: list[Signalling] = []
    sent = 0
    with Driven(Echo(), compression=False, write_limit=2**24) as driven:
        peer = open_encrypted(driven, signalling(sockets))

        def broadcast() -> None:
            nonlocal sent
            if sent < 40:
                sent += 1
                driven.server.broadcast(b"b" * size)

        on_signal(broadcast)
        sockets[0].armed = True
        for _ in range(4):
            peer.send(BINARY, b"a" * size)
        heard = []
        while heard.count(b"a" * size) < 4 or sent < 40:
            heard.append(peer.read_message())
        assert set(heard) <= {b"a" * size, b"b" * size}
        sockets[0].armed = False
        driven.handler.client().write_message("last")
        while (message := peer.read_message()) != "last":
            assert message == b"b" * size


def test_signal_handler_may_end_the_connection_in_the_middle_of_tls(
    on_signal: Any,
) -> None:
    for end in (Client.terminate, Client.close):
        sockets: list[Signalling] = []
        with Driven(Echo()) as driven:
            peer = open_encrypted(driven, signalling(sockets))
            client = driven.handler.client()
            on_signal(lambda end=end, client=client: end(client))
            sockets[0].armed = True
            peer.text("x")
            driven.until(lambda driven=driven: not driven.handler.client().is_open())
            sockets[0].armed = False
            assert driven.reactor.buffered == client.buffered_amount


def test_signal_handler_that_writes_is_not_left_waiting(on_signal: Any) -> None:
    """Between the last flush of a turn and its sleep, too."""
    with Driven() as driven:
        peer = driven.open()
        client = driven.handler.client()
        on_signal(lambda: client.write_message("from a signal"))
        driven.reactor.call_soon(lambda: signal.raise_signal(signal.SIGUSR1))
        driven.turn()
        assert peer.read_message() == "from a signal"


def test_message_in_the_middle_of_another_one_s_compression_is_sent_plain(
    monkeypatch: Any, on_signal: Any
) -> None:
    """What is compressed first must leave first: they share a context."""
    with Driven(compression=Deflate(threshold=64)) as driven:
        peer = driven.open("/", DEFLATE)
        client = driven.handler.client()
        count = [0]

        def write() -> None:
            count[0] += 1
            if count[0] == 1:
                client.write_message("nested " * 100)

        on_signal(write)
        make = Protocol.deflater

        def deflater(protocol: Protocol) -> Any:
            signal.raise_signal(signal.SIGUSR1)
            return make(protocol)

        monkeypatch.setattr(Protocol, "deflater", deflater)
        for number in range(3):
            client.write_message(f"{number} " * 100)
        inflater = zlib.decompressobj(wbits=-15)
        heard = []
        for _ in range(4):
            first, payload = peer.read_frame()
            if first & 0x40:
                payload = inflater.decompress(payload + b"\0\0\xff\xff")
            heard.append(payload.decode())
        wanted = [f"{word} " * 100 for word in (0, 1, 2, "nested")]
        assert sorted(heard) == wanted


def test_random_meddling_keeps_every_stream_whole(on_signal: Any) -> None:
    """Everything at once, at random places, with and without TLS."""
    rng = random.Random(11)
    for encrypted in (False, True):
        sockets: list[Signalling] = []

        wrap = signalling(sockets, 5000)
        limits: dict[str, Any] = {"slow_consumer": "drop_old", "write_limit": 2**16}
        with Driven(Echo(), compression=False, **limits) as driven:
            peer = open_encrypted(driven, wrap) if encrypted else driven.open(wrap=wrap)
            client = driven.handler.client()
            left = [300]

            def meddle(client: Any = client, left: Any = left) -> None:
                left[0] -= 1
                if left[0] > 0 and rng.random() < 0.5:
                    client.write_message(b"m" * rng.choice([1, 200, 30_000]))
                elif left[0] > 0:
                    client.ping(b"p")

            on_signal(meddle)
            sockets[0].armed = True
            heard = []
            for number in range(60):
                peer.write(frame(BINARY, b"e" * rng.choice([3, 300, 3000])))
                if number % 3 == 0:
                    peer.write(frame(PING, b"q"))
                for _ in range(10):
                    driven.turn()
                    heard.append(peer.read_now())
            peer._buffer = b"".join(heard)
            sockets[0].armed = False
            client.write_message("last")
            while True:
                first, payload = peer.read_frame()
                if first & 0x0F == TEXT:
                    break
                assert first & 0x70 == 0, hex(first)
                assert len(set(payload)) <= 1
            assert payload == b"last"
