"""Connections whose records of TLS are cut, stuck, lost or many: plain sockets, so that
the extension takes its own way from the system call to the message and back.

What `TLSSocket` promises by itself is in loop/test_tls, and where it may be stopped.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import ssl
from typing import Any

import pytest
from harness import Driven, Echo, Peer, Recorder, frame, request, small_buffers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tls_harness import TLSEnd, authority, client_side, secured, server_side

from simple_ws import SendStatus

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
each_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v.name)
QUIET = {"compression": False, "ping": False}


def opened(driven: Driven, wrap: Any = None, **how: Any) -> tuple[Peer, TLSEnd]:
    peer = secured(driven.join(wrap), **how).shake()
    assert isinstance(peer.sock, TLSEnd)
    return peer, peer.sock


def encrypted(end: TLSEnd, plain: bytes) -> bytes:
    """One record of it, or several when it is long."""
    while plain:
        plain = plain[end.object.write(plain) :]
    return end._out.read()


SIZES = st.sampled_from([0, 1, 125, 126, 4000, 16383, 16384, 40_000, 300_000])
#: Sizes of messages, how much of the stream each record has, and each packet.
STREAMS = st.tuples(
    st.lists(SIZES, min_size=1, max_size=6),
    st.lists(st.sampled_from([1, 2, 7, 300, 5000, 16384, 10**6]), max_size=20),
    st.lists(st.sampled_from([1, 3, 30, 1000, 17_000, 100_000]), max_size=20),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(STREAMS, st.sampled_from(VERSIONS))
def test_messages_come_whatever_records_and_packets_they_are_in(
    stream: Any, version: ssl.TLSVersion
) -> None:
    sizes, records, packets = stream
    messages = [random.Random(size).randbytes(size) for size in sizes]
    plain = b"".join(frame(2, message) for message in messages)
    # The peer reads nothing before it has sent everything, and must not be made to.
    how = {**QUIET, "write_limit": 2**24}
    with Driven(Echo(), ssl=server_side(), **how) as driven:
        peer, end = opened(driven, version=version)
        wire = b""
        for size in [*records, len(plain)]:
            wire += encrypted(end, plain[:size])
            plain = plain[size:]
        for size in [*packets, len(wire)]:
            send_all(driven, end.raw, wire[:size])
            wire = wire[size:]
            driven.turn()
        assert [peer.read_message() for _ in messages] == messages


def send_all(driven: Driven, sock: socket.socket, data: bytes) -> None:
    while data:
        try:
            data = data[sock.send(data) :]
        except BlockingIOError:
            driven.turn()


@each_version
def test_many_messages_of_one_record_are_all_delivered(version: ssl.TLSVersion) -> None:
    with Driven(Recorder(), ssl=server_side(), **QUIET) as driven:
        _, end = opened(driven, version=version)
        plain = b"".join(frame(1, f"{number}") for number in range(1500))
        assert len(plain) < 16384
        end.raw.sendall(encrypted(end, plain))
        driven.until(lambda: len(driven.handler.of("message")) == 1500)
        assert driven.handler.of("message") == [f"{n}" for n in range(1500)]


@each_version
def test_many_records_of_one_packet_are_all_delivered(version: ssl.TLSVersion) -> None:
    with Driven(Recorder(), ssl=server_side(), **QUIET) as driven:
        _, end = opened(driven, version=version)
        wire = b"".join(encrypted(end, frame(1, f"{n}")) for n in range(1500))
        end.raw.sendall(wire)
        driven.until(lambda: len(driven.handler.of("message")) == 1500)
        assert driven.handler.of("message") == [f"{n}" for n in range(1500)]


@each_version
@pytest.mark.parametrize("step", [1, 5000])
def test_output_comes_whole_through_a_narrow_socket(
    version: ssl.TLSVersion, step: int
) -> None:
    """The system takes some kilobytes at once, and the peer reads slowly."""
    messages = [random.Random(n).randbytes(n * 700) for n in range(40)]
    how = {**QUIET, "write_limit": 2**24}
    with Driven(Recorder(), ssl=server_side(), **how) as driven:
        peer, _ = opened(driven, small_buffers, version=version)
        (client,) = driven.server.clients
        for message in messages[:20]:
            client.write_message(message)
        driven.turn()
        assert client.buffered_amount
        assert client.write_message(messages[20]) is SendStatus.BACKPRESSURE
        for message in messages[21:]:
            client.write_message(message)
        for message in messages:
            assert peer.read_message() == message
            driven.turn(1 if step == 1 else 3)
        driven.until(lambda: not client.buffered_amount)
        assert "drain" in driven.handler.names


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.sampled_from(["drop_old", "drop_new"]),
    st.lists(st.lists(st.integers(0, 30_000), min_size=1, max_size=8), max_size=6),
)
def test_narrow_socket_gets_whole_messages_whatever_the_policy(
    policy: str, bursts: list[list[int]]
) -> None:
    how = {**QUIET, "write_limit": 50_000, "slow_consumer": policy}
    with Driven(Recorder(), ssl=server_side(), **how) as driven:
        peer, _ = opened(driven, small_buffers)
        (client,) = driven.server.clients
        accepted, heard = [], []
        for number, sizes in enumerate(bursts):
            for place, size in enumerate(sizes):
                text = f"{number}.{place} ".ljust(size, "x")
                if client.write_message(text) is not SendStatus.DROPPED:
                    accepted.append(text)
            driven.turn()
            if number % 2:
                heard.append(peer.read_message())
        client.close()
        with contextlib.suppress(AssertionError):  # the close frame
            while True:
                heard.append(peer.read_message())
        places = [accepted.index(message) for message in heard]
        assert places == sorted(places)
        if policy == "drop_new":
            assert heard == accepted


@each_version
@pytest.mark.parametrize("how", ["close_notify", "end of TCP", "in a record"])
def test_end_in_the_middle_of_a_message_is_an_end(
    version: ssl.TLSVersion, how: str
) -> None:
    with Driven(Recorder(), ssl=server_side(), **QUIET) as driven:
        peer, end = opened(driven, version=version)
        wire = encrypted(end, frame(2, bytes(300_000))[:200_000])
        if how == "in a record":
            wire = wire[:-100]
        send_all(driven, end.raw, wire)
        if how == "close_notify":
            end.notify()
        else:
            peer.end()
        driven.until(lambda: "close" in driven.handler.names)
        code, _, cause = driven.handler.wait_for("close")
        assert (code, cause) == (1006, "eof")
        assert not driven.handler.of("message")
        assert driven.reactor.buffered_input == 0


@each_version
def test_record_that_was_changed_ends_a_large_message(version: ssl.TLSVersion) -> None:
    with Driven(Recorder(), ssl=server_side(), **QUIET) as driven:
        _, end = opened(driven, version=version)
        send_all(driven, end.raw, encrypted(end, frame(2, bytes(300_000))[:100_000]))
        driven.turn()
        wire = bytearray(encrypted(end, bytes(30_000)))
        wire[-1] ^= 1
        send_all(driven, end.raw, bytes(wire))
        driven.until(lambda: "close" in driven.handler.names)
        code, reason, cause = driven.handler.wait_for("close")
        assert (code, cause) == (1006, "reset")
        # As older versions of OpenSSL say it, and newer ones.
        assert re.search(r"TLS: .*(bad record mac|record layer failure)", reason)


@each_version
def test_session_is_resumed(version: ssl.TLSVersion) -> None:
    context = client_side(version)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("localhost").configure_cert(server)
    session = None
    with Driven(Echo(), ssl=server, **QUIET) as driven:
        for again in (False, True):
            peer = secured(driven.join(), context=context)
            end = peer.sock
            assert isinstance(end, TLSEnd)
            if session is not None:
                end.object = context.wrap_bio(
                    end._in, end._out, server_hostname="localhost", session=session
                )
            peer.shake()
            peer.text("hello")
            assert peer.read_message() == "hello"
            assert end.object.session_reused is again
            session = end.object.session


def test_context_may_have_a_message_callback() -> None:
    """It is private, for debugging; in C it is called in the handshake only."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("localhost").configure_cert(server)
    seen: list[Any] = []
    server._msg_callback = lambda *args: seen.append(args)  # type: ignore[attr-defined]
    with Driven(Echo(), ssl=server, **QUIET) as driven:
        peer, _ = opened(driven)
        assert seen
        peer.text("hello")
        assert peer.read_message() == "hello"


def test_keys_may_be_logged(tmp_path: Any) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("localhost").configure_cert(server)
    server.keylog_filename = os.fspath(tmp_path / "keys")
    with Driven(Echo(), ssl=server, **QUIET) as driven:
        peer, _ = opened(driven)
        peer.text("hello")
        assert peer.read_message() == "hello"
    assert b"TRAFFIC_SECRET" in (tmp_path / "keys").read_bytes()


class Twice(ssl.SSLObject):
    """An `SSLObject` that makes others beside itself, so many times."""

    left = 0

    @classmethod
    def _create(cls, *args: Any, **kwargs: Any) -> Any:
        if cls.left:
            cls.left -= 1
            client_side().wrap_bio(
                ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="other"
            )
        return super()._create(*args, **kwargs)  # type: ignore[misc]


@pytest.mark.parametrize("times", [1, 2])
def test_other_objects_made_meanwhile_are_not_taken_for_ours(times: int) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("localhost").configure_cert(server)
    server.sslobject_class = Twice
    with Driven(Echo(), ssl=server, **QUIET) as driven:
        Twice.left = times
        peer, _ = opened(driven)
        peer.text("hello")
        assert peer.read_message() == "hello"


def test_request_and_first_messages_may_come_with_the_handshake() -> None:
    with Driven(Echo(), ssl=server_side(), **QUIET) as driven:
        peer = secured(driven.join(), ssl.TLSVersion.TLSv1_3)
        peer.write(request() + frame(1, "one") + frame(2, bytes(100_000)))
        peer.read_head()
        assert peer.read_message() == "one"
        assert peer.read_message() == bytes(100_000)
