"""A server under attack: it refuses the attacker, and serves other clients meanwhile.

In each test a polite client talks before, during and after. No attack may leave a
traceback in the log, an open connection, or memory in use. Attackers that are many, or
are killed in the middle, run in separate processes: this file is a program as well.
"""

from __future__ import annotations

import logging
import os
import random
import resource
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from harness import (
    BINARY,
    CLOSE,
    DEADLINE,
    PING,
    PONG,
    TEXT,
    Driven,
    Echo,
    Peer,
    connect,
    frame,
    open_files,
    open_peer,
    request,
    running,
    small_buffers,
)

from simple_ws import Server

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"
MIB = 2**20


@pytest.fixture(autouse=True)
def calm_log(caplog: Any) -> Iterator[Any]:
    """Nothing that peers do is a traceback, or an error of ours."""
    caplog.set_level(logging.DEBUG, "simple_ws")
    yield caplog
    loud = [
        record.getMessage()
        for record in caplog.records
        if record.exc_info or record.levelno >= logging.ERROR
    ]
    assert loud == []


class Polite(threading.Thread):
    """A client that talks all the time, and is answered all the time."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.answered = 0
        self.error: BaseException | None = None
        self._peer = open_peer(server)
        self._done = threading.Event()
        self._changed = threading.Condition()

    def run(self) -> None:
        try:
            while not self._done.is_set():
                text = f"polite {self.answered}"
                self._peer.text(text)
                assert self._peer.read_message() == text
                with self._changed:
                    self.answered += 1
                    self._changed.notify_all()
        except BaseException as error:
            self.error = error
        finally:
            self._peer.close()

    def is_served(self, times: int = 20) -> None:
        """Wait for so many more answers."""
        with self._changed:
            wanted = self.answered + times
            assert self._changed.wait_for(
                lambda: self.answered >= wanted or self.error, DEADLINE
            ), "the polite client is not served"
        assert self.error is None, self.error

    def leave(self) -> None:
        self._done.set()
        self.join(DEADLINE)
        assert self.error is None, self.error


@contextmanager
def attacked(**options: Any) -> Iterator[tuple[Server, Echo, Polite]]:
    handler = Echo()
    with running(handler, **options) as server:
        polite = Polite(server)
        polite.start()
        polite.is_served()
        yield server, handler, polite
        polite.is_served()
        polite.leave()
        wait_until(lambda: len(server.clients) == 0 and not server._incoming)
        wait_until(lambda: server.reactor.buffered == 0)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        select.select([], [], [], 0.002)


def resident() -> int:
    """Bytes of memory that this process has."""
    pages = Path("/proc/self/statm")
    if not pages.exists():
        pytest.skip("needs /proc")
    return int(pages.read_text().split()[1]) * resource.getpagesize()


def after_close(peer: Peer) -> int | None:
    """The close code, whatever came before it."""
    while True:
        first, payload = peer.read_frame()
        if first == 0x80 | CLOSE:
            return int.from_bytes(payload[:2], "big")


# --- Little that becomes much --------------------------------------------------------


def bomb(size: int) -> bytes:
    """A thousandth of `size`, and when it is inflated `size`."""
    deflate = zlib.compressobj(9, wbits=-15)
    piece = bytes(MIB)
    parts = [deflate.compress(piece) for _ in range(size // MIB)]
    return b"".join(parts) + deflate.flush(zlib.Z_SYNC_FLUSH)[:-4]


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "fragments"])
def test_compression_bomb_takes_no_more_memory_than_a_message(whole: bool) -> None:
    data = bomb(64 * MIB)
    pieces = (
        [data] if whole else [data[at : at + 500] for at in range(0, len(data), 500)]
    )
    stream = frame(BINARY, pieces[0], fin=whole, rsv=0x40)
    stream += b"".join(frame(0, piece, fin=False) for piece in pieces[1:])
    with attacked() as (server, handler, polite):
        before = resident()
        for number in range(12):
            peer = open_peer(server, "/", DEFLATE)
            with suppress(OSError):
                peer.write(stream)
            assert after_close(peer) == 1009
            peer.close()
            assert handler.wait_for("close", number + 1)[2] == "too_big"
        polite.is_served()
        assert resident() - before < 48 * MIB


def test_header_that_promises_much_reserves_little() -> None:
    """256 KiB of address space each, of which nothing is touched."""
    with attacked() as (server, handler, polite):
        before = resident()
        peers = [open_peer(server) for _ in range(100)]
        for peer in peers:
            peer.write(b"\x82\xff" + (MIB).to_bytes(8, "big") + b"mask" + b"few")
        polite.is_served()
        assert resident() - before < 16 * MIB
        for peer in peers:
            peer.close()
        handler.wait_for("close", 100)


# --- Slowly --------------------------------------------------------------------------


def test_slow_handshakes_are_given_up_and_cost_the_others_nothing() -> None:
    """Slowloris: a byte now and then, on many connections."""
    with Driven(Echo(), open_timeout=10.0) as driven:
        polite = driven.open()
        slow = [driven.join() for _ in range(200)]
        head = request()
        for second in range(12):
            for peer in slow:
                with suppress(OSError):
                    peer.sock.send(head[second : second + 1])
            driven.advance(1.0)
            polite.text("polite")
            assert polite.read_message() == "polite"
        driven.advance(2.0)
        assert not driven.handshaking
        for peer in slow:
            assert peer.read_rest().startswith(b"HTTP/1.1 408 ")


def test_slow_frames_keep_only_what_has_come() -> None:
    with attacked() as (server, handler, polite):
        before = resident()
        peers = [open_peer(server) for _ in range(60)]
        data = frame(BINARY, bytes(60_000))
        for at in range(30):
            for peer in peers:
                peer.write(data[at : at + 1])
        polite.is_served()
        assert resident() - before < 16 * MIB
        # And it is a message in the end.
        for peer in peers:
            peer.write(data[30:])
            assert peer.read_message() == bytes(60_000)
            peer.close()
        handler.wait_for("close", 60)


def test_half_open_peers_are_found_and_those_who_answer_stay() -> None:
    """They are gone, and nobody told us: what is sent to them is lost."""
    with Driven(Echo()) as driven:
        polite = driven.open()
        gone = [driven.open() for _ in range(100)]
        for _ in range(10):
            driven.advance(3.0)
            while not polite.nothing_waits():
                first, payload = polite.read_frame()
                if first == 0x80 | PING:
                    polite.send(PONG, payload)
            driven.turn()
        assert len(driven.server.clients) == 1
        assert driven.handler.of("close")[0][2] == "ping_timeout"
        assert len(gone) == 100
        polite.text("still here")
        assert polite.read_message() == "still here"


# --- Suddenly ------------------------------------------------------------------------

STAGES: dict[str, bytes] = {
    "connected": b"",
    "in the request": request()[:70],
    "request sent": request(),
    "in a frame": request() + frame(TEXT, "x" * 200)[:50],
    "message sent": request() + frame(TEXT, "x" * 200),
    "large message": request() + frame(BINARY, bytes(2**17))[:-1],
    "garbage": random.Random(2).randbytes(200),
}


def test_storm_of_resets_at_every_stage(calm_log: Any) -> None:
    rng = random.Random(4)
    with attacked() as (server, handler, polite):
        for _ in range(400):
            peer = connect(server)
            with suppress(OSError):
                peer.write(STAGES[rng.choice(list(STAGES))])
            peer.reset()
        polite.is_served()
        wait_until(lambda: len(server.clients) == 1)
        opened = handler.names.count("open")
        assert handler.names.count("close") == opened - 1
    # One kind of end is not four hundred lines.
    assert len(calm_log.records) < 200


def test_storm_of_connections_that_say_nothing() -> None:
    with attacked() as (server, _, polite):
        for _ in range(300):
            connect(server).close()
        polite.is_served()


# --- What is no WebSocket ------------------------------------------------------------

#: The beginning of a ClientHello of TLS 1.3.
TLS_HELLO = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(32)) + b"\x20" * 33
)
NONSENSE: dict[str, bytes] = {
    "TLS": TLS_HELLO,
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "zeros": bytes(5000),
    "noise": random.Random(1).randbytes(5000),
    "newlines": b"\r\n" * 3000,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "proxy": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + request(),
    "endless header": b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000,
    "many headers": b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2000 + b"\r\n",
    "a bad length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "two lengths": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
    ),
    "chunks": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "other characters": "GET /\u00e9\u0000 HTTP/1.1\r\n\r\n".encode(),
    "frames at once": frame(TEXT, "hello"),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_what_is_no_handshake_is_refused_with_words_or_silence(what: str) -> None:
    with attacked() as (server, handler, polite):
        for _ in range(5):
            peer = connect(server)
            with suppress(OSError):
                peer.write(NONSENSE[what])
                peer.end()
            with suppress(OSError):
                answer = peer.read_rest()
                assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer[:80]
            peer.close()
        polite.is_served()
        assert handler.names.count("open") == 1


def test_noise_behind_a_handshake_ends_that_connection() -> None:
    rng = random.Random(9)
    with attacked() as (server, handler, polite):
        for number in range(60):
            peer = open_peer(server)
            with suppress(OSError):
                peer.write(rng.randbytes(rng.randrange(1, 3000)))
                peer.end()
                peer.read_rest()
            peer.close()
            handler.wait_for("close", number + 1)
        polite.is_served()


# --- Much of it ----------------------------------------------------------------------


def pushed(peer: Peer, data: bytes, polite: Polite, times: int) -> None:
    """Send `data` again and again, reading nothing, while the polite is served."""
    for _ in range(times):
        view = memoryview(data)
        while view:
            try:
                view = view[peer.sock.send(view) :]
            except BlockingIOError:
                polite.is_served(3)
                return
            except OSError:
                return
        polite.is_served(3)


FLOODS: dict[str, tuple[bytes, int | None]] = {
    "pings": (frame(PING, "x" * 20) * 5000, None),
    "pongs": (frame(PONG) * 10_000, None),
    "messages": (frame(TEXT, "x") * 10_000, None),
    "large messages": (frame(BINARY, bytes(2**18)) * 4, None),
    "fragments of a byte": (
        frame(TEXT, "x", fin=False) + frame(0, "x", fin=False) * 20_000,
        None,
    ),
    "empty fragments": (
        frame(TEXT, "x", fin=False) + frame(0, fin=False) * 5000,
        1008,
    ),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_flood_of_a_client_that_never_reads(flood: str) -> None:
    data, code = FLOODS[flood]
    with attacked(write_limit=2**18) as (server, handler, polite):
        before = resident()
        peer = open_peer(server)
        pushed(peer, data, polite, 20 if code is None else 1)
        assert server.reactor.buffered <= 2**18 + 2**12
        assert resident() - before < 32 * MIB
        if code is not None:
            assert after_close(peer) == code
        peer.reset()
        handler.wait_for("close")


def test_firehose_gets_all_its_echoes_and_the_polite_are_served() -> None:
    message = random.Random(3).randbytes(100)
    with attacked() as (server, _, polite):
        peer = open_peer(server)
        data = memoryview(frame(BINARY, message) * 30_000)
        echo, got = b"\x82\x64" + message, bytearray()
        while len(got) < len(echo) * 30_000:
            with suppress(BlockingIOError):
                data = data[peer.sock.send(data) :] if data else data
            select.select([peer.sock], [peer.sock] if data else [], [], 1)
            with suppress(BlockingIOError):
                got += peer.sock.recv(MIB)
        assert got == echo * 30_000
        polite.is_served()
        peer.close()


def test_message_of_65536_fragments_of_a_byte_is_served() -> None:
    with attacked() as (server, _, polite):
        peer = open_peer(server)
        peer.write(
            frame(TEXT, "x", fin=False)
            + frame(0, "x", fin=False) * 65_534
            + frame(0, "x")
        )
        polite.is_served()
        assert peer.read_message() == "x" * 65_536
        peer.close()


# --- Peers that are stopped ----------------------------------------------------------


@contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
        },
    )
    try:
        yield child
    finally:
        child.kill()
        with child:
            pass


def says(child: subprocess.Popen[str], word: str) -> str:
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line.startswith(word), line
    return line


def tell(child: subprocess.Popen[str], word: str) -> None:
    assert child.stdin is not None
    child.stdin.write(word + "\n")
    child.stdin.flush()


class Small(Echo):
    """The system takes a few kilobytes for a client, so that it is behind at once."""

    def on_open(self, client: Any) -> None:
        small_buffers(client._sock)
        super().on_open(client)


def test_paused_process_is_a_slow_consumer_and_nobody_else_notices() -> None:
    handler = Small(write_limit=2**16, close_timeout=DEADLINE, ping_timeout=DEADLINE)
    with running(handler) as server, process("listen", server.port) as child:
        says(child, "open")
        others = [open_peer(server) for _ in range(10)]
        handler.client(10)
        child.send_signal(signal.SIGSTOP)
        try:
            slow, count = handler.client(0), 0
            while slow.is_open():
                count += 1
                assert count < 3000
                server.broadcast(b"%06d" % count + bytes(20_000))
                for peer in others:
                    assert peer.read_message() == b"%06d" % count + bytes(20_000)
            assert slow.close_cause == "slow_consumer"
            assert server.reactor.buffered <= 2**16 + 2**12
        finally:
            child.send_signal(signal.SIGCONT)
        # What it gets is whole and in order, and the reason at the end of it.
        received, code = says(child, "closed").split()[1:]
        assert int(code) == 1013
        assert 0 < int(received) < count
        assert handler.wait_for("close")[0] == 1013
        for peer in others:
            peer.close()


def test_paused_process_that_goes_on_in_time_has_missed_nothing() -> None:
    handler = Small(write_limit=2**26, ping=False)
    with running(handler) as server, process("listen", server.port) as child:
        says(child, "open")
        child.send_signal(signal.SIGSTOP)
        try:
            for number in range(1, 301):
                server.broadcast(b"%06d" % number + bytes(20_000))
            wait_until(lambda: server.reactor.buffered > 2**20)
        finally:
            child.send_signal(signal.SIGCONT)
        wait_until(lambda: server.reactor.buffered == 0)
        handler.client(0).close(4000)
        assert says(child, "closed").split()[1:] == ["300", "4000"]


# --- Crowds --------------------------------------------------------------------------

CROWD = 5000


def may_open(count: int) -> bool:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count and (hard == resource.RLIM_INFINITY or hard >= count):
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
        return True
    return soft >= count


@pytest.mark.skipif(not may_open(CROWD + 500), reason="too few descriptors (ulimit -n)")
def test_five_thousand_connect_at_once_talk_and_are_gone_at_once() -> None:
    before = open_files()
    with attacked(backlog=4096, max_connections_per_ip=CROWD + 1) as (
        server,
        handler,
        polite,
    ):
        with process("crowd", server.port, CROWD) as crowd:
            says(crowd, "open")
            wait_until(lambda: len(server.clients) == CROWD + 1)
            polite.is_served()
            tell(crowd, "talk")
            says(crowd, "talked")
            polite.is_served()
            tell(crowd, "reset")
            says(crowd, "gone")
        wait_until(lambda: len(server.clients) == 1)
        polite.is_served()
        assert handler.names.count("close") == CROWD
        assert list(server._admission._hosts.values()) == [1]
    assert open_files() <= before


def test_process_that_is_killed_with_its_connections_leaves_none() -> None:
    with attacked() as (server, handler, polite):
        with process("crowd", server.port, 200) as crowd:
            says(crowd, "open")
            wait_until(lambda: len(server.clients) == 201)
            tell(crowd, "talk")
            crowd.kill()
        wait_until(lambda: len(server.clients) == 1)
        assert handler.names.count("close") == 200
        polite.is_served()


def test_server_out_of_descriptors_serves_on_and_recovers() -> None:
    with process("short", 80) as server:
        port = int(says(server, "listens").split()[1])
        first = Peer(socket.create_connection(("127.0.0.1", port))).shake()
        others = [
            Peer(socket.create_connection(("127.0.0.1", port))) for _ in range(100)
        ]
        for peer in others:
            peer.write(request())
        # Those who are in are served, though nobody more can come in.
        for number in range(50):
            first.text(str(number))
            assert first.read_message() == str(number)
        admitted = others[:40]
        for peer in admitted:
            assert peer.read_head().startswith(b"HTTP/1.1 101 ")
        assert any(peer.nothing_waits() for peer in others)
        for peer in admitted:
            peer.close()
        for peer in others[40:]:  # as they leave, the others are taken in
            assert peer.read_head().startswith(b"HTTP/1.1 101 ")
            peer.close()
        tell(server, "stop")
        words = says(server, "stopped").split()
        assert (int(words[1]), int(words[2])) == (101, 0)  # opened, tracebacks
        assert 1 <= int(words[3]) <= 20  # lines about it
        first.close()


# --- The programs --------------------------------------------------------------------


def listen(port: int) -> None:
    """A client that reads, and tells in the end what it got."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    peer = Peer(sock).shake()
    print("open", flush=True)
    count = 0
    while True:
        first, payload = peer.read_frame()
        if first == 0x80 | CLOSE:
            print("closed", count, int.from_bytes(payload[:2], "big"), flush=True)
            peer.send(CLOSE, payload[:2])
            return
        while not first & 0x80:
            first, more = peer.read_frame()
            payload += more
        count += 1
        assert payload == b"%06d" % count + bytes(20_000), count


def crowd(port: int, count: int) -> None:
    """Many clients at once; what they do is told on standard input."""
    may_open(count + 100)
    selector = selectors.DefaultSelector()
    sockets = []
    for _ in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", port))
        selector.register(sock, selectors.EVENT_WRITE)
        sockets.append(sock)

    def until_all(expected: bytes, data: bytes) -> None:
        """Everybody sends, and reads what begins with `expected`."""
        left = dict.fromkeys(sockets, b"")
        while left:
            for key, events in selector.select(DEADLINE):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if events & selectors.EVENT_WRITE:
                    sock.send(data)
                    selector.modify(sock, selectors.EVENT_READ)
                    continue
                left[sock] += sock.recv(1000)
                if left[sock].endswith(expected):
                    selector.modify(sock, selectors.EVENT_WRITE)
                    selector.unregister(sock)
                    del left[sock]

    until_all(b"\r\n\r\n", request())
    print("open", flush=True)
    assert sys.stdin.readline() == "talk\n"
    for sock in sockets:
        selector.register(sock, selectors.EVENT_WRITE)
    until_all(b"\x81\x05hello", frame(TEXT, "hello"))
    print("talked", flush=True)
    assert sys.stdin.readline() == "reset\n"
    for sock in sockets:
        linger = struct.pack("ii", 1, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        sock.close()
    print("gone", flush=True)


def short(descriptors: int) -> None:
    """A server that may open only so many descriptors."""
    errors: list[str] = []
    pauses: list[str] = []

    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info or record.levelno >= logging.ERROR:
                errors.append(record.getMessage())
            if "paused" in record.getMessage():
                pauses.append(record.getMessage())

    logging.getLogger("simple_ws").addHandler(Noting())
    handler = Echo()
    with running(handler) as server:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))
        print("listens", server.port, flush=True)
        assert sys.stdin.readline() == "stop\n"
        opened = handler.names.count("open")
        print("stopped", opened, len(errors), len(pauses), flush=True)


if __name__ == "__main__":
    {"listen": listen, "crowd": crowd, "short": short}[sys.argv[1]](
        *map(int, sys.argv[2:])
    )
