"""TLS: the contract with the owner of a socket, what peers see, what is refused."""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from harness import (
    DEADLINE,
    Clock,
    Driven,
    Echo,
    Peer,
    Recorder,
    Wrapped,
    close_frame,
    connect,
    frame,
    request,
    running,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from node_js import needs_node
from tls_harness import TLSEnd, authority, client_side, secured, server_side
from whole.test_peers import MESSAGES, expect_good, serve, talk

from simple_ws import Deflate, SendStatus, Server, WebSocket
from simple_ws.loop import tls
from simple_ws.loop.timers import Timers
from simple_ws.loop.tls import TLSSocket, server_context

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
each_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.name)


@pytest.fixture(scope="module")
def files(tmp_path_factory: Any) -> Path:
    """A folder with cert.pem, key.pem, both.pem and ca.pem."""
    folder = tmp_path_factory.mktemp("tls")
    cert = authority().issue_cert("localhost", "127.0.0.1")
    cert.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    cert.private_key_pem.write_to_path(folder / "key.pem")
    cert.private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
    authority().cert_pem.write_to_path(folder / "ca.pem")
    return Path(folder)


def end_of(peer: Peer) -> TLSEnd:
    assert isinstance(peer.sock, TLSEnd)
    return peer.sock


# --- The wrapper by itself -----------------------------------------------------------


class Wire:
    """A socket in memory that takes what its script says, then everything."""

    def __init__(self) -> None:
        self.inbox = bytearray()
        self.sent = bytearray()
        self.script: list[Any] = []
        self.over = False
        self.shut: list[int] = []
        self.closed = False

    def recv(self, size: int) -> bytes:
        if not self.inbox:
            if self.over:
                return b""
            raise BlockingIOError
        data = bytes(self.inbox[:size])
        del self.inbox[:size]
        return data

    def send(self, data: memoryview) -> int:
        if self.closed:
            raise OSError(errno.EBADF, "Bad file descriptor")
        step = self.script.pop(0) if self.script else len(data)
        if isinstance(step, BaseException):
            raise step
        if step == 0:
            raise BlockingIOError
        taken = bytes(data[: max(step, 0)])  # -1: a system that takes nothing says 0
        self.sent += taken
        return len(taken)

    def shutdown(self, how: int) -> None:
        self.shut.append(how)

    def close(self) -> None:
        self.closed = True

    def fileno(self) -> int:
        return -1 if self.closed else 7


class Bench:
    """A `TLSSocket` on a wire, and the client at its other end."""

    def __init__(
        self,
        version: ssl.TLSVersion | None = None,
        *,
        shake: bool = True,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.clock, self.timers = Clock(), Timers()
        self.wire = Wire()
        self.ours = TLSSocket(
            context or server_side(),
            self.wire,  # type: ignore[arg-type]
            ("192.0.2.1", 1),
            lambda delay, call: self.timers.call_at(self.clock.now + delay, call),
        )
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.theirs = client_side(version).wrap_bio(
            self._in, self._out, server_hostname="localhost"
        )
        self.heard = b""  # what the client has decrypted
        if shake:
            self.shake()

    def shake(self) -> None:
        for _ in range(10):
            with contextlib.suppress(ssl.SSLWantReadError):
                self.theirs.do_handshake()
            self.wire.inbox += self._out.read()
            with contextlib.suppress(BlockingIOError):
                self.ours.recv(1)
            self.carry()
        assert self.theirs.version() is not None

    def say(self, data: bytes) -> bytes:
        """Ciphertext of the client's, put on the wire; returned as well."""
        self.theirs.write(data)
        return self.carry_out()

    def carry_out(self) -> bytes:
        data = self._out.read()
        self.wire.inbox += data
        return data

    def carry(self) -> None:
        """Bring what we sent to the client."""
        self._in.write(bytes(self.wire.sent))
        self.wire.sent.clear()

    def listen(self) -> bytes:
        """All that the client can decrypt so far."""
        self.carry()
        with contextlib.suppress(ssl.SSLWantReadError):
            while data := self.theirs.read(65536):
                self.heard += data
        return self.heard

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.timers.run_due(self.clock.now)


@each_version
def test_recv_gives_all_plaintext_of_one_read(version: ssl.TLSVersion) -> None:
    bench = Bench(version)
    for number in range(50):
        bench.say(b"message %d;" % number)
    assert bench.ours.recv(1) == b"".join(b"message %d;" % n for n in range(50))
    with pytest.raises(BlockingIOError):
        bench.ours.recv(1)


@each_version
@pytest.mark.parametrize("step", [1, 3, 100])
def test_recv_takes_the_network_in_any_pieces(
    version: ssl.TLSVersion, step: int
) -> None:
    bench = Bench(version, shake=False)
    got = b""
    for turn in range(4):
        with contextlib.suppress(ssl.SSLWantReadError):
            bench.theirs.do_handshake()
            if turn == 3:
                bench.theirs.write(b"hello")
        data = bench._out.read()
        for at in range(0, len(data), step):
            bench.wire.inbox += data[at : at + step]
            with contextlib.suppress(BlockingIOError):
                got += bench.ours.recv(4096)
        bench.carry()
    assert got == b"hello"


def test_request_behind_the_handshake_is_not_left_behind() -> None:
    bench = Bench(ssl.TLSVersion.TLSv1_3, shake=False)
    with pytest.raises(ssl.SSLWantReadError):
        bench.theirs.do_handshake()
    bench.carry_out()
    with pytest.raises(BlockingIOError):
        bench.ours.recv(4096)
    bench.carry()
    bench.theirs.do_handshake()
    bench.say(b"GET")  # in one packet with the end of the handshake
    assert bench.ours.recv(4096) == b"GET"


@each_version
def test_large_input_comes_whole(version: ssl.TLSVersion) -> None:
    bench = Bench(version)
    data = random.Random(3).randbytes(300_000)
    bench.say(data)
    got = b""
    while bench.wire.inbox:
        with contextlib.suppress(BlockingIOError):
            got += bench.ours.recv(4096)
    assert got == data


@each_version
def test_close_notify_is_the_end_and_stays_it(version: ssl.TLSVersion) -> None:
    bench = Bench(version)
    bench.say(b"last")
    with contextlib.suppress(ssl.SSLError):
        bench.theirs.unwrap()
    bench.carry_out()
    assert bench.ours.recv(4096) == b"last"
    # The selector must say that there is more: the socket's own end is made of it.
    assert socket.SHUT_RD in bench.wire.shut
    for _ in range(3):
        assert bench.ours.recv(4096) == b""
    assert bench.ours.send(b"they may still read") == 19
    assert bench.listen() == b"they may still read"


def test_end_without_close_notify_is_the_end() -> None:
    bench = Bench()
    bench.say(b"last")
    bench.wire.over = True
    assert bench.ours.recv(4096) == b"last"
    assert bench.ours.recv(4096) == b""


#: What OpenSSL calls a fault differs from one version to the next, so its words are not
#: looked at, but where they go.
SOME_FAULT = r"(?:\[Errno \d+\] )?TLS: \w[^\n]+"
FAILED_HANDSHAKE = r"TLS handshake of \('192\.0\.2\.1', 12345\) failed: \w[^\n]+"


@contextlib.contextmanager
def is_told() -> Iterator[None]:
    """The peer reads an alert: neither does it want more, nor is this an end."""
    with pytest.raises(ssl.SSLError) as caught:
        yield
    assert caught.type is ssl.SSLError


@each_version
def test_fault_behind_a_message_is_told_after_it(version: ssl.TLSVersion) -> None:
    bench = Bench(version)
    bench.say(b"good")
    bench.wire.inbox += b"this is no record of TLS"
    assert bench.ours.recv(4096) == b"good"
    assert socket.SHUT_RD in bench.wire.shut
    for _ in range(2):
        with pytest.raises(ConnectionAbortedError, match=SOME_FAULT):
            bench.ours.recv(4096)
    with pytest.raises(ConnectionAbortedError, match=SOME_FAULT):
        bench.ours.send(b"x")
    with is_told():
        bench.listen()


def test_changed_record_is_a_fault() -> None:
    bench = Bench()
    bench.theirs.write(b"message")
    data = bytearray(bench._out.read())
    data[-1] ^= 1
    bench.wire.inbox += data
    with pytest.raises(ConnectionAbortedError, match=SOME_FAULT):
        bench.ours.recv(4096)


def test_nothing_is_sent_before_the_handshake() -> None:
    bench = Bench(shake=False)
    with pytest.raises(ConnectionAbortedError, match="no handshake"):
        bench.ours.send(b"x")
    bench.ours.shutdown(socket.SHUT_WR)
    assert bench.wire.shut == [socket.SHUT_WR]
    assert not bench.wire.sent


@each_version
def test_shutdown_is_a_close_notify_and_the_socket_s_own(
    version: ssl.TLSVersion,
) -> None:
    bench = Bench(version)
    bench.ours.shutdown(socket.SHUT_WR)
    assert bench.wire.shut == [socket.SHUT_WR]
    assert bench.listen() == b""
    assert bench.theirs.read(1) == b""
    bench.theirs.write(b"more")  # the other direction is open still
    bench.carry_out()
    assert bench.ours.recv(4096) == b"more"


def test_shutdown_waits_for_the_close_notify_to_leave() -> None:
    bench = Bench()
    bench.wire.script = [1, 0, 2, 0]
    bench.ours.shutdown(socket.SHUT_WR)
    assert bench.wire.shut == []
    bench.wait(1)
    assert bench.wire.shut == []
    bench.wait(1)
    assert bench.wire.shut == [socket.SHUT_WR]
    assert bench.listen() == b""
    assert bench.theirs.read(1) == b""


def test_shutdown_waits_for_what_was_sent() -> None:
    bench = Bench()
    bench.wire.script = [0, 0]
    assert bench.ours.send(b"message") == 6
    bench.ours.shutdown(socket.SHUT_WR)
    assert bench.wire.shut == []
    bench.wait(1)
    assert bench.wire.shut == [socket.SHUT_WR]
    assert bench.listen() == b"message"


@each_version
@pytest.mark.parametrize("cut", [1, 7])
def test_handshake_goes_on_when_the_system_takes_little(
    version: ssl.TLSVersion, cut: int
) -> None:
    bench = Bench(version, shake=False)
    bench.wire.script = [cut, 0] * 400
    for _ in range(2000):
        with contextlib.suppress(ssl.SSLWantReadError):
            bench.theirs.do_handshake()
        bench.carry_out()
        with contextlib.suppress(BlockingIOError):
            bench.ours.recv(1)
        bench.wait(1)
        bench.carry()
    bench.say(b"in the end")
    assert bench.ours.recv(4096) == b"in the end"


def test_closing_ends_the_timer() -> None:
    bench = Bench()
    bench.wire.script = [0] * 3
    bench.ours.shutdown(socket.SHUT_WR)
    bench.ours.close()
    assert bench.ours.fileno() == -1
    bench.wait(10)
    assert not bench.wire.sent


def test_peer_that_asks_for_answers_and_reads_none_is_given_up() -> None:
    bench = Bench(shake=False)
    bench.wire.script = [0] * 10_000
    with mock.patch.object(tls, "_MAX_OWED", 100):
        with pytest.raises(ssl.SSLWantReadError):
            bench.theirs.do_handshake()
        bench.carry_out()
        with pytest.raises(ConnectionAbortedError, match="does not read"):
            bench.ours.recv(1)


def test_lost_connection_is_told_by_reading_not_by_answers() -> None:
    bench = Bench(shake=False)
    bench.wire.script = [BrokenPipeError(errno.EPIPE, "Broken pipe")]
    with pytest.raises(ssl.SSLWantReadError):
        bench.theirs.do_handshake()
    bench.carry_out()
    with pytest.raises(BlockingIOError):
        bench.ours.recv(1)
    bench.wire.over = True
    assert bench.ours.recv(1) == b""


def test_lost_connection_is_told_by_sending() -> None:
    bench = Bench()
    bench.wire.script = [1, ConnectionResetError(errno.ECONNRESET, "reset")]
    with pytest.raises(ConnectionResetError):
        bench.ours.send(b"message")


# --- What counts as sent -------------------------------------------------------------


def test_last_byte_is_held_back_while_ciphertext_waits() -> None:
    bench = Bench()
    bench.wire.script = [5, 0]
    assert bench.ours.send(b"message") == 6
    bench.wire.script = [0]
    with pytest.raises(BlockingIOError):
        bench.ours.send(b"e")
    assert bench.ours.send(b"e") == 1
    assert bench.listen() == b"message"


def test_what_comes_behind_the_held_byte_is_sent() -> None:
    bench = Bench()
    bench.wire.script = [0]
    assert bench.ours.send(b"one") == 2
    assert bench.ours.send(b"etwo") == 4
    assert bench.listen() == b"onetwo"


def test_single_byte_that_is_stuck_was_not_sent() -> None:
    bench = Bench()
    bench.wire.script = [0]
    with pytest.raises(BlockingIOError):
        bench.ours.send(b"x")
    assert bench.ours.send(b"xyz") == 3
    assert bench.listen() == b"xyz"


def test_nothing_to_send_is_nothing_sent() -> None:
    bench = Bench()
    bench.wire.script = [0]
    assert bench.ours.send(b"one") == 2
    assert bench.ours.send(b"") == 0
    assert bench.ours.send(b"e") == 1
    assert bench.listen() == b"one"


def test_no_byte_is_held_back_of_what_is_not_all_encrypted() -> None:
    """Held back it would be the first of a message, which may be dropped."""
    bench = Bench()
    bench.wire.script = [0]
    bench.ours._piece = 4
    assert bench.ours.send(b"ABC" + b"DEF") == 4
    assert bench.ours.send(b"EF") == 2
    assert bench.listen() == b"ABCDEF"


def test_large_output_waits_in_bounded_pieces() -> None:
    bench = Bench()
    bench.wire.script = [0]
    data = random.Random(4).randbytes(1_000_000)
    done = bench.ours.send(data)
    assert done <= 65536
    assert bench.ours._owed < 70_000
    assert bench.ours.send(data[done:]) == len(data) - done
    assert bench.listen() == data


#: What the system takes of each call: nothing (an error, or 0), a byte, some, much.
TAKES = st.one_of(
    st.sampled_from([0, 0, -1, 1, 2, 5, 20, 21, 22, 23, 30]),
    st.integers(1, 200),
    st.just(10**6),
)


class Owner:
    """What connections do with their output, in short: the contract of `send`."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.outbox: list[bytes] = []
        self.begun = False  # the first has been sent in part
        self.due = b""  # what the peer must get, once all is out

    def write(self, message: bytes) -> None:
        self.outbox.append(message)

    def drop(self, count: int, instead: bytes) -> None:
        """Drop the oldest messages that were not begun, as slow-consumer policies do;
        it is for the sake of another one that they do."""
        first = int(self.begun)
        del self.outbox[first : first + count]
        self.write(instead)

    def flush(self) -> None:
        while self.outbox:
            offer = b"".join(self.outbox)
            try:
                sent = self.bench.ours.send(offer)
            except BlockingIOError:
                sent = 0
            self.consume(sent)
            if sent < len(offer):
                return
        assert not self.bench.ours._owed, "nobody would ask for it"

    def consume(self, sent: int) -> None:
        self.begun = self.begun and not sent
        while sent:
            self.begun = sent < len(self.outbox[0])
            part = self.outbox[0][:sent]
            self.due += part
            sent -= len(part)
            self.outbox[0] = self.outbox[0][len(part) :]
            if not self.outbox[0]:
                del self.outbox[0]

    def finish(self) -> None:
        self.bench.wire.script = []
        self.flush()
        assert not self.outbox


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.binary(min_size=2, max_size=60)),
        st.tuples(st.just("write"), st.binary(min_size=2, max_size=3)),
        st.tuples(st.just("drop"), st.tuples(st.integers(0, 4), st.binary(min_size=2))),
        st.tuples(st.just("flush"), st.lists(TAKES, max_size=8)),
    ),
    max_size=30,
)


@given(STEPS, st.sampled_from([1, 2, 3, 7, 30, 65536]), st.sampled_from(VERSIONS))
def test_peer_decrypts_exactly_what_was_not_dropped(
    steps: list[Any], piece: int, version: ssl.TLSVersion
) -> None:
    bench = Bench(version)
    owner = Owner(bench)
    bench.ours._piece = piece
    for what, value in steps:
        if what == "write":
            owner.write(value)
        elif what == "drop":
            owner.drop(*value)
        else:
            # Whatever is left of the script is taken then.
            bench.wire.script = [*value, 0]
            owner.flush()
    owner.finish()
    assert bench.listen() == owner.due


@each_version
def test_peer_decrypts_all_wherever_the_system_stops(version: ssl.TLSVersion) -> None:
    """Stops after every single byte of the ciphertext, once each."""
    total = 80
    bench = Bench(version)
    for stop in range(1, total):
        owner = Owner(bench)
        bench.wire.script = [stop, 0]
        for message in (b"first message", b"second", b"3.", b"the fourth one"):
            owner.write(message)
        owner.flush()
        owner.write(b"later")
        owner.finish()
        assert bench.listen() == b"first messagesecond3.the fourth onelater"
        bench.heard = b""


# --- Slow consumers ------------------------------------------------------------------


class Narrow(Wrapped):
    """A socket that takes what its script says, and nothing at all while `stuck`."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.script: list[int] = []
        self.stuck = False

    def send(self, data: memoryview) -> int:
        free = 0 if self.stuck else len(data)
        step = self.script.pop(0) if self.script else free
        if step <= 0:
            raise BlockingIOError
        return int(self._sock.send(data[:step]))


def stalled(policy: str, version: ssl.TLSVersion) -> tuple[Driven, Peer, Narrow]:
    """A TLS client on a narrow socket."""
    driven = Driven(
        Recorder(),
        ssl=server_side(),
        slow_consumer=policy,
        write_limit=300,
        compression=False,
        ping=False,
    )
    wires: list[Narrow] = []

    def wrap(sock: socket.socket) -> Narrow:
        wires.append(Narrow(sock))
        return wires[0]

    peer = secured(driven.join(wrap), version).shake()
    return driven, peer, wires[0]


BURSTS = st.lists(
    st.tuples(st.lists(st.integers(0, 120), min_size=1, max_size=6), st.lists(TAKES)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.sampled_from(["drop_old", "drop_new", "close"]),
    BURSTS,
    st.sampled_from([1, 2, 3, 16, 65536]),
    st.sampled_from(VERSIONS),
)
def test_stalled_client_gets_whole_messages_whatever_the_policy(
    policy: str, bursts: list[Any], piece: int, version: ssl.TLSVersion
) -> None:
    driven, peer, wire = stalled(policy, version)
    with driven:
        (client,) = driven.server.clients
        client._sock._piece = piece
        accepted, number = [], 0
        wire.stuck = True
        for sizes, takes in bursts:
            wire.script = list(takes)
            for size in sizes:
                text = f"{number} " + "x" * size
                number += 1
                if client.write_message(text) is not SendStatus.DROPPED:
                    accepted.append(text)
            driven.turn()
        closed = not client.is_open()
        wire.script, wire.stuck = [], False
        got = []
        if not closed:
            while client.buffered_amount or not peer.nothing_waits():
                got.append(peer.read_message())
        else:
            assert policy == "close"
            while True:
                first, payload = peer.read_frame()
                if first == 0x88:
                    break
                assert first == 0x81
                got.append(payload.decode())
            assert payload[:2] == (1013).to_bytes(2, "big")
    if policy == "drop_new" or (policy == "close" and not closed):
        assert got == accepted
    else:
        places = [accepted.index(message) for message in got]
        assert places == sorted(places)
        if policy == "drop_old":
            assert got[-1] == accepted[-1]


@pytest.mark.parametrize("policy", ["drop_old", "drop_new", "close"])
@pytest.mark.parametrize("piece", [1, 3, 8])
def test_stream_stays_whole_wherever_it_stalled(policy: str, piece: int) -> None:
    """Stalls after every piece of three messages; then there is too much output."""
    for taken in range(1, 36 // piece):
        driven, peer, wire = stalled(policy, ssl.TLSVersion.TLSv1_3)
        with driven:
            (client,) = driven.server.clients
            client._sock._piece = piece
            wire.script, wire.stuck = [2**20] * taken, True
            for number in range(3):
                client.write_message(f"{number} is short")
            driven.turn()
            for number in range(3, 10):
                client.write_message(f"{number} is of 60 bytes".ljust(60))
            wire.stuck = False
            got = []
            while (parts := peer.read_frame())[0] == 0x81:
                got.append(int(parts[1][:1]))
                if policy != "close" and not client.buffered_amount:
                    client.close()
            assert got == sorted(got)
            assert got[0] == 0
            assert got[-1] == {"drop_old": 9, "drop_new": 6}.get(policy, got[-1])


@pytest.mark.parametrize("policy", ["drop_old", "drop_new", "close"])
@each_version
def test_message_that_is_encrypted_is_never_dropped(
    policy: str, version: ssl.TLSVersion
) -> None:
    driven, peer, wire = stalled(policy, version)
    with driven:
        (client,) = driven.server.clients
        wire.stuck = True
        assert client.write_message("encrypted") is SendStatus.SENT
        driven.turn()
        assert client.buffered_amount == 1
        for _ in range(10):
            client.write_message("x" * 100)
        wire.stuck = False
        assert peer.read_message() == "encrypted"


def test_drain_is_told_when_the_ciphertext_has_left() -> None:
    driven, peer, wire = stalled("close", ssl.TLSVersion.TLSv1_3)
    with driven:
        (client,) = driven.server.clients
        wire.stuck = True
        client.write_message("one")
        driven.turn()
        assert client.write_message("two") is SendStatus.BACKPRESSURE
        driven.turn(5)
        assert "drain" not in driven.handler.names
        wire.stuck = False
        driven.until(lambda: "drain" in driven.handler.names)
        assert (peer.read_message(), peer.read_message()) == ("one", "two")


# --- Connections ---------------------------------------------------------------------


def driven_tls(handler: WebSocket | None = None, **options: Any) -> Driven:
    return Driven(handler or Echo(), ssl=server_side(), **options)


@each_version
def test_client_of_tls_is_secure(version: ssl.TLSVersion) -> None:
    with driven_tls() as driven:
        peer = secured(driven.join(), version).shake()
        (client,) = driven.server.clients
        assert client.secure is True
        peer.text("hello")
        assert peer.read_message() == "hello"
        assert peer.leave() == (1000, "")
        driven.until(lambda: not driven.closing)
        assert driven.handler.wait_for("close") == (1000, "", "peer")


def test_client_without_tls_is_not_secure() -> None:
    with Driven(Echo()) as driven:
        driven.open()
        (client,) = driven.server.clients
        assert client.secure is False


def test_request_says_whether_it_is_secure() -> None:
    seen = []

    class Asking(Echo):
        def on_request(self, request: Any) -> None:
            seen.append(request.secure)

    with driven_tls(Asking()) as driven:
        secured(driven.join()).shake()
    with Driven(Asking()) as driven:
        driven.open()
    assert seen == [True, False]


@each_version
def test_messages_of_every_size_pass_both_ways(version: ssl.TLSVersion) -> None:
    with driven_tls(Echo(max_size=2**21, compression=False)) as driven:
        peer = secured(driven.join(), version).shake()
        for size in (0, 1, 125, 126, 16383, 16384, 16385, 65535, 65536, 2**20):
            data = random.Random(size).randbytes(size)
            peer.send(2, data)
            assert peer.read_message() == data


@each_version
def test_pipelined_messages_come_back_in_order(version: ssl.TLSVersion) -> None:
    with driven_tls() as driven:
        peer = secured(driven.join(), version).shake()
        peer.write(b"".join(frame(1, f"{number}") for number in range(1000)))
        assert [peer.read_message() for _ in range(1000)] == [
            f"{number}" for number in range(1000)
        ]


@each_version
@pytest.mark.parametrize("how", ["close_notify", "end of TCP"])
def test_peer_that_ends_in_half_gets_what_is_waiting(
    version: ssl.TLSVersion, how: str
) -> None:
    with driven_tls(Recorder(write_limit=2**24)) as driven:
        peer = secured(driven.join(), version).shake()
        (client,) = driven.server.clients
        data = random.Random(5).randbytes(2**22)
        client.write_message(data)
        driven.turn()
        assert client.buffered_amount
        if how == "close_notify":
            end_of(peer).notify()
        else:
            peer.end()
        assert peer.read_message() == data
        assert peer.read_rest() == b""
        assert driven.handler.wait_for("close")[2] == "eof"
        peer.close()
        driven.until(lambda: not driven.closing)


@pytest.mark.parametrize("how", ["close_notify", "end of TCP", "reset"])
def test_peer_that_just_leaves_is_closed(how: str) -> None:
    with driven_tls() as driven:
        peer = secured(driven.join()).shake()
        if how == "close_notify":
            end_of(peer).notify()
        else:
            peer.close()
        driven.until(lambda: "close" in driven.handler.names)
        assert driven.handler.wait_for("close")[2] == "eof"
        driven.until(lambda: not driven.closing)


def test_peer_that_says_goodbye_is_told_the_same() -> None:
    with driven_tls() as driven:
        peer = secured(driven.join()).shake()
        end_of(peer).notify()
        assert peer.read_rest() == b""
        assert end_of(peer).notified


@pytest.mark.parametrize("began", [False, True])
@pytest.mark.parametrize("how", ["it says goodbye", "it is silent", "stop"])
def test_connection_without_an_answer_to_come_ends_with_close_notify(
    began: bool, how: str
) -> None:
    with driven_tls() as driven:
        driven.server.http("/page")(lambda request: "x")
        peer = secured(driven.join())
        driven.until(lambda: shaken(peer))
        driven.turn()  # the server's end of it
        if began:
            peer.write(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
            peer.read_head()
            peer.read(1)
        if how == "it says goodbye":
            end_of(peer).notify()
        elif how == "it is silent":
            driven.advance(80)  # more than keep_alive
        else:
            driven.stop_begins(0)
        assert peer.read_rest() == b""
        assert end_of(peer).notified


def test_message_and_goodbye_in_one_packet_are_both_heard() -> None:
    with driven_tls() as driven:
        peer = secured(driven.join()).shake()
        end = end_of(peer)
        end.object.write(frame(1, "last words"))
        end.notify()
        assert peer.read_message() == "last words"
        driven.until(lambda: "close" in driven.handler.names)
        assert driven.handler.of("message") == ["last words"]


def test_refused_handshake_is_read_by_the_peer() -> None:
    with driven_tls() as driven:
        peer = secured(driven.join())
        peer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert peer.read_head().startswith(b"HTTP/1.1 426 ")
        peer.read_rest()  # ends with close_notify, not by a timeout
        assert end_of(peer).notified


@each_version
def test_pages_are_served_through_tls(version: ssl.TLSVersion) -> None:
    seen = []
    body = random.Random(6).randbytes(2**20)
    with driven_tls() as driven:

        @driven.server.http("/page")
        def page(request: Any) -> bytes:
            seen.append(request.secure)
            return body

        peer = secured(driven.join(), version)
        for _ in range(2):
            peer.write(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
            assert peer.read_head().startswith(b"HTTP/1.1 200 ")
            assert peer.read(len(body)) == body
    assert seen == [True, True]


# --- Slow and wrong peers ------------------------------------------------------------


def first_flight() -> bytes:
    """A ClientHello."""
    bench = Bench(shake=False)
    with pytest.raises(ssl.SSLWantReadError):
        bench.theirs.do_handshake()
    return bench.carry_out()


@pytest.mark.parametrize("part", [0, 1, 100, None])
def test_handshake_that_takes_too_long_is_cut(part: int | None, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, "simple_ws")
    with driven_tls(open_timeout=3) as driven:
        peer = driven.join()
        peer.write(first_flight()[:part])
        driven.advance(1)
        assert len(driven.handshaking) == 1
        driven.advance(3)
        assert not driven.handshaking
        peer.read_rest()  # it ends
    assert not [record for record in caplog.records if record.exc_info]


def test_request_that_does_not_come_after_the_handshake_is_cut() -> None:
    with driven_tls(open_timeout=3) as driven:
        peer = secured(driven.join())
        driven.until(lambda: shaken(peer))
        driven.advance(4)
        assert not driven.handshaking
        assert peer.read_rest() == b""


def shaken(peer: Peer) -> bool:
    try:
        end_of(peer).shake()
    except BlockingIOError:
        return False
    return True


def one_line(caplog: Any) -> str:
    """The only thing that was logged about a peer."""
    (record,) = [r for r in caplog.records if "192.0.2.1" in r.getMessage()]
    assert record.levelno <= logging.INFO
    assert record.exc_info is None
    assert not [r for r in caplog.records if r.levelno > logging.INFO]
    return str(record.getMessage())


def test_plain_http_on_a_port_with_tls_is_one_line(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, "simple_ws")
    with driven_tls() as driven:
        peer = driven.join()
        peer.write(request())
        peer.read_rest()
        assert not driven.handshaking
    line = one_line(caplog)
    assert re.fullmatch(FAILED_HANDSHAKE, line)


def test_tls_on_a_port_without_is_one_line(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, "simple_ws")
    with Driven(Echo()) as driven:
        peer = driven.join()
        peer.write(first_flight())
        assert peer.read_head().startswith(b"HTTP/1.1 400 ")
        peer.close()
        driven.until(lambda: not driven.handshaking)
    assert "refused" in one_line(caplog)


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"", "left before TLS"), (b"?" * 99, "TLS failed")],
    ids=["none", "garbage"],
)
def test_horde_of_scanners_is_twenty_lines(data: bytes, kind: str, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, "simple_ws")
    with driven_tls() as driven:
        for _ in range(30):
            peer = driven.join()
            peer.write(data)
            peer.close()
            driven.until(lambda: not driven.handshaking)
        assert len(caplog.records) == 20
        caplog.clear()
        driven.advance(10.0)
    assert caplog.records[0].getMessage() == f"{kind}: 10 more in 10 s"


@given(st.binary(min_size=1, max_size=300), st.booleans())
@settings(max_examples=50)
def test_garbage_ends_the_connection_and_nothing_else(data: bytes, hello: bool) -> None:
    """Before the handshake, or behind the first message of one."""
    bench = Bench(shake=False)
    bench.wire.inbox += (first_flight() if hello else b"") + data
    bench.wire.over = True
    with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
        while bench.ours.recv(4096):
            pass
    with pytest.raises(ConnectionAbortedError):
        bench.ours.send(b"x")


def test_garbage_behind_the_handshake_is_a_reset(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, "simple_ws")
    with driven_tls() as driven:
        peer = secured(driven.join()).shake()
        end_of(peer).raw.sendall(b"garbage" * 100)
        driven.until(lambda: "close" in driven.handler.names)
        code, reason, cause = driven.handler.wait_for("close")
    assert (code, cause) == (1006, "reset")
    assert re.fullmatch(SOME_FAULT, reason)
    assert reason in one_line(caplog)


def test_probe_that_connects_and_leaves_is_a_debug_line(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, "simple_ws")
    with driven_tls() as driven:
        driven.join().close()
        driven.until(lambda: not driven.handshaking)
    assert "left before its TLS handshake was done" in one_line(caplog)
    assert all(record.levelno == logging.DEBUG for record in caplog.records)


def test_old_version_is_refused_in_one_line(files: Path, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, "simple_ws")
    context = client_side()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with Driven(Echo(), certfile=files / "both.pem") as driven:
        peer = secured(driven.join(), context=context)
        with pytest.raises(ssl.SSLError):
            peer.read_rest()
    assert re.fullmatch(FAILED_HANDSHAKE, one_line(caplog))


def test_server_that_stops_ends_handshakes_too() -> None:
    with running(Echo(), ssl=server_side()) as server, connect(server) as peer:
        peer.write(first_flight()[:50])
        with secured(connect(server)) as other:
            other.shake()
            stopping = threading.Thread(target=server.stop)
            stopping.start()
            assert other.read_close()[0] == 1001
            other.write(close_frame(1001))
            assert other.read_rest() == b""
        stopping.join(DEADLINE)
        assert not stopping.is_alive()
        peer.read_rest()


# --- Options -------------------------------------------------------------------------


@each_version
def test_certificate_and_key_from_files(files: Path, version: ssl.TLSVersion) -> None:
    options = {"certfile": files / "cert.pem", "keyfile": str(files / "key.pem")}
    with running(Echo(), **options) as server:
        peer = secured(connect(server), version)
        with peer.shake():
            assert end_of(peer).object.version() == version.name.replace("_", ".")
            peer.text("hello")
            assert peer.read_message() == "hello"


def test_key_may_stand_in_the_certificate_s_file(files: Path) -> None:
    with (
        running(Echo(), certfile=files / "both.pem") as server,
        secured(connect(server)) as peer,
    ):
        peer.shake()


def test_context_of_files_is_of_this_time(files: Path) -> None:
    context = server_context(None, str(files / "both.pem"), None)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.verify_mode == ssl.CERT_NONE


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["http/1.1"], "http/1.1"), (["h2", "http/1.1"], "http/1.1"), (["h2"], None)],
)
def test_http_1_1_is_what_is_agreed_on(
    files: Path, offered: list[str], chosen: str | None
) -> None:
    context = client_side()
    context.set_alpn_protocols(offered)
    with Driven(Echo(), certfile=files / "both.pem") as driven:
        peer = secured(driven.join(), context=context).shake()
        assert end_of(peer).object.selected_alpn_protocol() == chosen


def test_context_and_files_exclude_each_other(files: Path) -> None:
    both = files / "both.pem"
    for more in ({"certfile": both}, {"keyfile": both}):
        with pytest.raises(ValueError, match="ssl or certfile and keyfile, not both"):
            Server(ssl=server_side(), **more)


def test_key_without_certificate_is_refused(files: Path) -> None:
    with pytest.raises(ValueError, match=r"keyfile '.*key\.pem' needs a certfile"):
        Server(keyfile=files / "key.pem")


FOR_SERVERS = (
    "ssl must be a context for servers, such as "
    "ssl.create_default_context(ssl.Purpose.CLIENT_AUTH); this one is for clients "
)


def test_context_of_a_client_is_refused() -> None:
    with pytest.raises(ValueError, match="ssl must be") as caught:
        Server(ssl=client_side())
    assert str(caught.value) == FOR_SERVERS + "(PROTOCOL_TLS_CLIENT)"


def test_context_that_checks_the_name_of_its_peer_is_refused() -> None:
    """Some versions of Python refuse it too, but not before a client connects."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.check_hostname = True
    with pytest.raises(ValueError, match="ssl must be") as caught:
        Server(ssl=context)
    assert str(caught.value) == FOR_SERVERS + "(check_hostname is on)"


def test_context_for_both_sides_is_taken() -> None:
    with pytest.warns(DeprecationWarning, match="PROTOCOL_TLS"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS)
    authority().issue_cert("localhost").configure_cert(context)
    with Driven(Echo(), ssl=context) as driven:
        peer = secured(driven.join()).shake()
        peer.text("hello")
        assert peer.read_message() == "hello"


@pytest.mark.parametrize("option", ["certfile", "keyfile"])
def test_missing_file_is_named_when_the_server_is_made(
    files: Path, option: str
) -> None:
    given = {"certfile": files / "both.pem", option: files / "missing.pem"}
    with pytest.raises(FileNotFoundError, match=rf"{option}: .*missing\.pem") as caught:
        Server(**given)
    assert caught.value.filename == str(files / "missing.pem")


def test_folder_is_no_certificate(files: Path) -> None:
    with pytest.raises(OSError, match="certfile: "):
        Server(certfile=files)


def test_files_that_do_not_fit_are_named(files: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    authority().issue_cert("example.com").private_key_pem.write_to_path(other)
    with pytest.raises(
        ValueError,
        match=r"certfile '.*cert\.pem' and keyfile '.*other\.pem' cannot be used: \w",
    ):
        Server(certfile=files / "cert.pem", keyfile=other)


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff\x00"])
def test_file_without_a_certificate_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "junk.pem"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"certfile '.*junk\.pem' cannot be used: "):
        Server(certfile=file)


def test_encrypted_key_is_refused_and_no_password_asked_for(
    files: Path, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((files / "key.pem").read_bytes(), None)
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ValueError, match=r"encrypted\.pem': the key is encrypted"):
        Server(certfile=files / "cert.pem", keyfile=encrypted)


def test_handler_is_not_believed_to_have_tls_of_its_own(files: Path) -> None:
    server = Server()
    for option in ({"certfile": files / "both.pem"}, {"ssl": server_side()}):
        with pytest.raises(ValueError, match="is an option of the server"):
            server.mount("/", Echo(**option))
    with pytest.raises(ValueError, match="certfile is an option of the server"):
        server.route("/", certfile=files / "both.pem")(lambda msg, client: msg)


def test_certificate_of_the_client_can_be_required() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("localhost").configure_cert(context)
    authority().configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    known = client_side()
    authority().issue_cert("client@example.com").configure_cert(known)
    with Driven(Echo(), ssl=context) as driven:
        peer = secured(driven.join(), context=known).shake()
        peer.text("it is me")
        assert peer.read_message() == "it is me"


@each_version
def test_client_without_a_required_certificate_is_refused(
    version: ssl.TLSVersion, caplog: Any
) -> None:
    caplog.set_level(logging.DEBUG, "simple_ws")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("localhost").configure_cert(context)
    authority().configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with Driven(Echo(), ssl=context) as driven:
        peer = secured(driven.join(), version)
        with is_told():
            peer.shake()
        assert not driven.server.clients
    assert re.fullmatch(FAILED_HANDSHAKE, one_line(caplog))


def test_certificate_may_be_chosen_by_name() -> None:
    asked = []

    def choose(sock: Any, name: str, context: ssl.SSLContext) -> None:
        asked.append(name)
        sock.context = contexts[name]

    contexts = {}
    for name in ("one.example", "two.example"):
        contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority().issue_cert(name).configure_cert(contexts[name])
    front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    front.sni_callback = choose  # type: ignore[assignment]
    with Driven(Echo(), ssl=front) as driven:
        for name in contexts:
            peer = secured(driven.join(), name=name).shake()
            peer.text(name)
            assert peer.read_message() == name
    assert asked == ["one.example", "two.example"]


# --- Real peers ----------------------------------------------------------------------


def wss(server: Server) -> str:
    return f"wss://localhost:{server.port}/peer"


def serve_tls(**options: Any) -> Any:
    handler, _ = serve(**options)
    return handler, running(handler, ssl=server_side())


@each_version
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_package_websockets_talks_tls(
    version: ssl.TLSVersion, compression: str | None
) -> None:
    client = pytest.importorskip("websockets.sync.client")
    handler, served = serve_tls()
    with (
        served as server,
        client.connect(
            wss(server),
            ssl=client_side(version),
            compression=compression,
            max_size=2**21,
            proxy=None,
            open_timeout=DEADLINE,
        ) as ws,
    ):
        for message in MESSAGES:
            ws.send(message)
            assert ws.recv(DEADLINE) == message
        (ours,) = server.clients
        assert ours.compressed is bool(compression)
        ws.close(4001, "from them")
        assert handler.wait_for("close") == (4001, "from them", "peer")
        assert ws.close_code == 4001


def test_package_websockets_talks_tls_in_asyncio() -> None:
    import asyncio

    client = pytest.importorskip("websockets.asyncio.client")
    handler, served = serve_tls()

    async def converse(server: Server) -> None:
        async with client.connect(
            wss(server), ssl=client_side(), max_size=2**21, proxy=None
        ) as ws:
            for message in MESSAGES:
                await ws.send(message)
                assert await asyncio.wait_for(ws.recv(), DEADLINE) == message
            for number in range(500):
                await ws.send(f"{number}")
            for number in range(500):
                assert await asyncio.wait_for(ws.recv(), DEADLINE) == f"{number}"

    with served as server:
        asyncio.run(converse(server))
        assert handler.wait_for("close")[2] == "peer"


def test_package_websocket_client_talks_tls(files: Path) -> None:
    module = pytest.importorskip("websocket")
    handler, served = serve_tls()
    with served as server:
        ws = module.create_connection(
            wss(server),
            timeout=DEADLINE,
            sslopt={"ca_certs": str(files / "ca.pem")},
            # Otherwise it asks the environment for a proxy.
            http_no_proxy=["localhost"],
        )
        for message in MESSAGES:
            if isinstance(message, str):
                ws.send(message)
            else:
                ws.send_binary(message)
            _, data = ws.recv_data()
            assert data == (message.encode() if isinstance(message, str) else message)
        ws.close(4001, b"from them")
        assert handler.wait_for("close") == (4001, "from them", "peer")


@each_version
def test_python_s_ssl_talks_tls(version: ssl.TLSVersion) -> None:
    with (
        running(Echo(), ssl=server_side()) as server,
        socket.create_connection(("127.0.0.1", server.port), DEADLINE) as raw,
        client_side(version).wrap_socket(raw, server_hostname="localhost") as sock,
    ):
        sock.sendall(request() + frame(1, "hello"))
        got = b""
        while not got.endswith(b"\x81\x05hello"):
            got += sock.recv(4096)
        sock.sendall(frame(8, b"\x03\xe8"))
        assert sock.recv(4096) == b"\x88\x02\x03\xe8"
        assert sock.recv(4096) == b""  # close_notify, not an EOF in violation


def test_many_clients_at_once() -> None:
    with running(Echo(), ssl=server_side()) as server:
        peers = [secured(connect(server)) for _ in range(50)]
        for peer in peers:
            peer.shake()
        for number, peer in enumerate(peers):
            peer.text(f"{number}")
        server.broadcast("to all")
        for number, peer in enumerate(peers):
            assert {peer.read_message(), peer.read_message()} == {
                f"{number}",
                "to all",
            }
        for peer in peers:
            peer.close()


@needs_node
def test_node_ws_talks_tls(files: Path) -> None:
    handler, served = serve_tls(compression=Deflate(threshold=0))
    with served as server:
        results = talk(wss(server), [False, True], NODE_EXTRA_CA_CERTS=files / "ca.pem")
        expect_good(results, handler)


class OpenSSL:
    """`openssl s_client`, told by its letters what Python cannot do."""

    def __init__(self, server: Server, *options: str) -> None:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}"]
        self.process = subprocess.Popen(
            [*command, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )
        self.seen = b""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> OpenSSL:
        return self

    def __exit__(self, *args: object) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout
        while data := self.process.stdout.read(65536):
            with self._changed:
                self.seen += data
                self._changed.notify_all()

    def write(self, data: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(data)

    def expect(self, what: bytes) -> None:
        with self._changed:
            came = self._changed.wait_for(lambda: what in self.seen, DEADLINE)
        assert came, f"no {what!r} in {self.seen!r}"
        self.seen = self.seen.split(what, 1)[1]


needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not installed"
)


@needs_openssl
@pytest.mark.parametrize("letter", [b"k", b"K"], ids=["its own", "and ours"])
def test_keys_may_be_renewed(letter: bytes) -> None:
    with (
        running(Echo(), ssl=server_side()) as server,
        OpenSSL(server, "-tls1_3") as peer,
    ):
        peer.expect(b"Verify return code")
        peer.write(request())
        peer.expect(b"101 Switching Protocols")
        for number in range(3):
            peer.write(letter + b"\n")
            peer.expect(b"KEYUPDATE")
            peer.write(frame(1, f"message {number}"))
            peer.expect(b"message %d" % number)


@needs_openssl
def test_renegotiation_is_refused_and_the_connection_lives(files: Path) -> None:
    with (
        running(Echo(), certfile=files / "both.pem") as server,
        OpenSSL(server, "-tls1_2") as peer,
    ):
        peer.expect(b"Verify return code")
        peer.write(request())
        peer.expect(b"101 Switching Protocols")
        peer.write(b"R\n")
        peer.expect(b"RENEGOTIATING")
        peer.expect(b"no renegotiation")
    # The one who asked gives up in OpenSSL; the server has not.
    with running(Echo(), certfile=files / "both.pem") as server:
        open_secure(server).close()


def open_secure(server: Server) -> Peer:
    return secured(connect(server)).shake()


# --- A browser -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no chromium on the PATH")
    with playwright.sync_playwright() as starter:
        chromium = starter.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--ignore-certificate-errors"],
        )
        yield chromium
        chromium.close()


CONVERSE = """(url) => new Promise((resolve, reject) => {
  const socket = new WebSocket(url);
  const sizes = [0, 1, 125, 126, 65536, 1048576];
  const seen = [];
  socket.binaryType = "arraybuffer";
  socket.onerror = () => reject(new Error("error"));
  socket.onopen = () => {
    for (const size of sizes) {
      socket.send("x".repeat(size));
      socket.send(new Uint8Array(size).fill(7));
    }
  };
  socket.onmessage = (event) => {
    seen.push(event.data.length ?? event.data.byteLength);
    if (seen.length === 2 * sizes.length) socket.close(4001, "from Chromium");
  };
  socket.onclose = (event) => resolve([seen, event.code, event.wasClean]);
})"""


@pytest.mark.browser
def test_chromium_talks_tls(browser: Any) -> None:
    handler, served = serve_tls()
    with served as server:
        page = browser.new_page(ignore_https_errors=True)
        seen, code, clean = page.evaluate(CONVERSE, wss(server))
        page.close()
        sizes = [0, 1, 125, 126, 65536, 1048576]
        assert seen == [size for size in sizes for _ in range(2)]
        assert (code, clean) == (4001, True)
        assert handler.wait_for("close") == (4001, "from Chromium", "peer")
        assert handler.client().secure is True
