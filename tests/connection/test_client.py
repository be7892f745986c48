"""`Client`: how it ends, its keepalive, its callbacks, and re-entrancy."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from harness import (
    ADDRESS,
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Driven,
    Peer,
    Recorder,
    close_frame,
    frame,
    small_buffers,
)

from simple_ws import Client, CloseCause, SendStatus, WebSocket

FIN = 0x80


# --- Every way of ending -------------------------------------------------------------


def by_peer(driven: Driven, peer: Peer, client: Client) -> None:
    peer.write(close_frame(4000, "enough"))


def by_peer_without_code(driven: Driven, peer: Peer, client: Client) -> None:
    peer.send(CLOSE)


def by_us(driven: Driven, peer: Peer, client: Client) -> None:
    client.close(4001, "bye")
    driven.turn()
    peer.write(close_frame(4001))


def by_us_crossing_theirs(driven: Driven, peer: Peer, client: Client) -> None:
    client.close(4001, "bye")
    peer.write(close_frame(4002, "me first"))


def by_us_without_an_answer(driven: Driven, peer: Peer, client: Client) -> None:
    client.close(4001, "bye")
    driven.turn()
    driven.advance(1.0)


def by_us_answered_by_the_end(driven: Driven, peer: Peer, client: Client) -> None:
    client.close(4001, "bye")
    driven.turn()
    peer.end()


def by_termination(driven: Driven, peer: Peer, client: Client) -> None:
    client.terminate()


def by_end(driven: Driven, peer: Peer, client: Client) -> None:
    peer.close()


def by_half_close(driven: Driven, peer: Peer, client: Client) -> None:
    peer.end()


def by_end_inside_a_frame(driven: Driven, peer: Peer, client: Client) -> None:
    peer.write(frame(TEXT, "whole")[:4])
    peer.end()


def by_unmasked_frame(driven: Driven, peer: Peer, client: Client) -> None:
    peer.write(b"\x81\x02hi")


def by_reserved_bit(driven: Driven, peer: Peer, client: Client) -> None:
    peer.send(TEXT, "hi", rsv=0x20)


def by_fault_inside_a_message(driven: Driven, peer: Peer, client: Client) -> None:
    peer.send(TEXT, "one", fin=False)
    peer.send(TEXT, "two")


def by_size(driven: Driven, peer: Peer, client: Client) -> None:
    peer.send(BINARY, b"x" * 1001)


def by_size_in_fragments(driven: Driven, peer: Peer, client: Client) -> None:
    peer.send(BINARY, b"x" * 600, fin=False)
    peer.send(0, b"x" * 401)


def by_bad_text(driven: Driven, peer: Peer, client: Client) -> None:
    peer.send(TEXT, b"\xc3\x28")


def by_bad_fragment(driven: Driven, peer: Peer, client: Client) -> None:
    peer.send(TEXT, b"\xc3\x28", fin=False)


def by_bad_close_code(driven: Driven, peer: Peer, client: Client) -> None:
    peer.write(close_frame(1005))


def by_silence(driven: Driven, peer: Peer, client: Client) -> None:
    driven.advance(6.0)
    assert peer.read_frame()[0] == FIN | PING
    driven.advance(21.0)
    peer.write(close_frame(1011))


def by_idleness(driven: Driven, peer: Peer, client: Client) -> None:
    for _ in range(7):
        driven.advance(5.0)
        peer.send(PONG)
        driven.turn()
    while peer.read_frame()[0] == FIN | PING:
        pass
    peer.write(close_frame(1001))


def by_stop(driven: Driven, peer: Peer, client: Client) -> None:
    driven.stop_begins(1.0)
    driven.turn()
    peer.write(close_frame(1001))


def by_stop_without_an_answer(driven: Driven, peer: Peer, client: Client) -> None:
    driven.stop_begins(1.0)
    driven.turn()
    driven.advance(1.0)


def by_tear_down(driven: Driven, peer: Peer, client: Client) -> None:
    driven.tear_down()


#: (how it ends, close code, close reason, cause)
ENDS: list[tuple[Callable[..., None], int, str, str]] = [
    (by_peer, 4000, "enough", "peer"),
    (by_peer_without_code, 1005, "", "peer"),
    (by_us, 4001, "bye", "local"),
    (by_us_crossing_theirs, 4001, "bye", "local"),
    (by_us_without_an_answer, 4001, "bye", "local"),
    (by_us_answered_by_the_end, 4001, "bye", "local"),
    (by_termination, 1006, "terminated", "local"),
    (by_end, 1006, "connection closed without a close frame", "eof"),
    (by_half_close, 1006, "connection closed without a close frame", "eof"),
    (by_end_inside_a_frame, 1006, "connection closed without a close frame", "eof"),
    (by_unmasked_frame, 1002, "unmasked frame", "protocol_error"),
    (by_reserved_bit, 1002, "reserved bits are set", "protocol_error"),
    (
        by_fault_inside_a_message,
        1002,
        "new message inside a fragmented one",
        "protocol_error",
    ),
    (by_size, 1009, "message of 1,001 bytes exceeds max_size 1,000", "too_big"),
    (
        by_size_in_fragments,
        1009,
        "message of 1,001 bytes exceeds max_size 1,000",
        "too_big",
    ),
    (by_bad_text, 1007, "text is not valid UTF-8", "bad_data"),
    (by_bad_fragment, 1007, "text is not valid UTF-8", "bad_data"),
    (by_bad_close_code, 1002, "close code 1005 may not be sent", "protocol_error"),
    (by_silence, 1011, "no answer to a ping within ping_timeout 20 s", "ping_timeout"),
    (by_idleness, 1001, "no message within idle_timeout 33 s", "idle_timeout"),
    (by_stop, 1001, "the server stops", "shutdown"),
    (by_stop_without_an_answer, 1001, "the server stops", "shutdown"),
    (by_tear_down, 1006, "the server stopped", "shutdown"),
]


@pytest.mark.parametrize(
    ("end", "code", "reason", "cause"), ENDS, ids=[row[0].__name__ for row in ENDS]
)
def test_on_close_comes_once_and_says_why(
    end: Callable[..., None], code: int, reason: str, cause: str
) -> None:
    with Driven(max_size=1000, idle_timeout=33) as driven:
        peer = driven.open()
        client = driven.handler.client()
        client.subscribe("news")
        client.bind("me")
        end(driven, peer, client)
        driven.turn(3)
        peer.close()
        driven.until(lambda: not driven.closing)
        driven.advance(60.0)
        assert driven.handler.of("close") == [(code, reason, cause)]
        assert driven.handler.names.count("open") == 1
        assert not client.is_open()
        assert client.close_cause is CloseCause(cause)
        assert (len(driven.server.clients), len(driven.handler.clients)) == (0, 0)
        assert not driven.server.count("news")
        assert not driven.server.is_online("me")
        assert len(driven.reactor.wheel) == 0
        assert client.write_message("too late") is SendStatus.DROPPED
        assert not client.close()
        assert not client.ping()
        client.terminate()


#: (how it ends, what the peer is told; None: nothing)
TOLD: list[tuple[Callable[..., None], int | None, str]] = [
    (by_peer, 4000, ""),
    (by_peer_without_code, None, ""),
    (by_unmasked_frame, 1002, "unmasked frame"),
    (by_size, 1009, "message of 1,001 bytes exceeds max_size 1,000"),
    (by_bad_text, 1007, "text is not valid UTF-8"),
    (by_bad_fragment, 1007, "text is not valid UTF-8"),
    (by_bad_close_code, 1002, "close code 1005 may not be sent"),
    (by_us_without_an_answer, 4001, "bye"),
    (by_stop_without_an_answer, 1001, "the server stops"),
]


@pytest.mark.parametrize(
    ("end", "code", "reason"), TOLD, ids=[row[0].__name__ for row in TOLD]
)
def test_peer_is_told_why_and_then_the_end(
    end: Callable[..., None], code: int | None, reason: str
) -> None:
    with Driven(max_size=1000) as driven:
        peer = driven.open()
        end(driven, peer, driven.handler.client())
        assert peer.read_close() == (code, reason)
        assert peer.read_rest() == b""


def test_reset_by_the_peer_ends_with_cause_reset() -> None:
    with Driven() as driven:
        peer = driven.open()
        driven.handler.client().write_message("never read")
        driven.turn()
        peer.close()  # with unread input, which a socket pair reports as a reset
        driven.until(lambda: driven.handler.of("close"))
        code, _, cause = driven.handler.of("close")[0]
        assert (code, cause) == (1006, "reset")


@pytest.mark.parametrize("callback", ["on_open", "on_message", "on_ping", "on_pong"])
def test_callback_that_raises_closes_with_1011(callback: str, caplog: Any) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError("my fault")

    handler = Recorder()
    handler.on_error = partial(WebSocket.on_error, handler)  # type: ignore[method-assign]
    setattr(handler, callback, fail)
    with Driven(handler) as driven:
        peer = driven.open()
        if callback != "on_open":
            peer.send({"on_message": TEXT, "on_ping": PING, "on_pong": PONG}[callback])
        if callback == "on_ping":
            assert peer.read_frame() == (FIN | PONG, b"")
        assert peer.read_close() == (1011, "the handler failed")
        peer.write(close_frame(1011))
        assert peer.read_rest() == b""
        end = (1011, "the handler failed", CloseCause.HANDLER_ERROR)
        assert handler.of("close") == [end]
    assert "my fault" in caplog.text
    assert "Traceback" in caplog.text


def test_on_close_that_raises_is_reported_once_and_frees_everything(
    caplog: Any,
) -> None:
    def fail(client: Client) -> None:
        raise ZeroDivisionError("my fault")

    handler = Recorder()
    handler.on_close = fail  # type: ignore[method-assign]
    with Driven(handler) as driven:
        assert driven.open().leave() == (1000, "")
        driven.turn()
        assert [type(error) for error in handler.of("error")] == [ZeroDivisionError]
        assert not driven.closing


def test_on_error_that_raises_closes_with_1011_and_is_logged(caplog: Any) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError("twice")

    handler = Recorder()
    handler.on_message = handler.on_error = fail  # type: ignore[method-assign]
    with Driven(handler) as driven:
        peer = driven.open()
        peer.text("x")
        assert peer.read_close() == (1011, "the handler failed")
    assert "on_error failed" in caplog.text


def test_on_error_that_forgives_keeps_the_connection_open() -> None:
    def moody(msg: str, client: Client) -> str:
        if msg == "bad":
            raise ValueError(msg)
        return msg

    errors = []
    handler = Recorder()
    handler.on_message = moody  # type: ignore[method-assign]
    handler.on_error = lambda error, client: errors.append((str(error), client))  # type: ignore[method-assign]
    with Driven(handler) as driven:
        peer = driven.open(then=frame(TEXT, "bad") + frame(TEXT, "good"))
        assert peer.read_message() == "good"
        assert errors == [("bad", handler.client())]


@pytest.mark.parametrize("answer", [5, 1.5, object(), ("tuple",), "\ud800"])
def test_answer_of_a_wrong_type_is_an_error_of_the_handler(answer: object) -> None:
    handler = Recorder()
    handler.on_message = lambda msg, client: answer  # type: ignore[method-assign]
    with Driven(handler) as driven:
        peer = driven.open()
        peer.text("x")
        assert peer.read_close()[0] == 1011
        (error,) = handler.of("error")
        assert isinstance(error, TypeError | ValueError)


def test_what_the_peer_still_sends_after_the_end_is_discarded() -> None:
    with Driven() as driven:
        peer = driven.open()
        peer.write(close_frame(1000) + frame(TEXT, "late") + b"garbage" * 1000)
        assert peer.read_close() == (1000, "")
        peer.text("later")
        driven.turn(3)
        assert driven.handler.of("message") == []
        assert driven.handler.names.count("close") == 1


def test_messages_that_arrive_after_our_close_frame_are_skipped() -> None:
    with Driven() as driven:
        peer = driven.open()
        driven.handler.client().close()
        peer.write(frame(TEXT, "a") + frame(TEXT, "b", fin=False) + frame(PING, "c"))
        assert peer.read_close() == (1000, "")
        peer.write(frame(0, "d") + close_frame(1000))
        # RFC 6455 §5.5.2: a ping is answered until the peer's close frame comes.
        assert peer.read_frame() == (FIN | PONG, b"c")
        assert peer.read_rest() == b""
        assert driven.handler.names == ["open", "close"]


def test_output_before_the_close_frame_arrives_whole_and_in_order() -> None:
    handler = Recorder()
    with Driven(handler, write_limit=2**24, max_frame_size=None) as driven:
        peer = driven.open(wrap=small_buffers)
        client = handler.client()
        messages = [str(n) * 50_000 for n in range(8)]
        for message in messages:
            assert client.write_message(message)
        client.close(1000, "done")
        assert [peer.read_message() for _ in messages] == messages
        assert peer.read_close() == (1000, "done")


def test_output_is_finished_after_the_close_frame_of_the_peer() -> None:
    with Driven(max_frame_size=None) as driven:
        peer = driven.open(wrap=small_buffers)
        client = driven.handler.client()
        client.write_message("x" * 500_000)
        driven.turn()
        peer.write(close_frame(1000))
        driven.until(lambda: driven.handler.of("close"))
        assert peer.read_message() == "x" * 500_000
        assert peer.read_close() == (1000, "")
        assert peer.read_rest() == b""


def test_socket_is_released_after_close_timeout_when_the_peer_stays() -> None:
    with Driven(close_timeout=2) as driven:
        peer = driven.open()
        peer.write(close_frame(1000))
        assert peer.read_close() == (1000, "")
        driven.advance(1.9)
        assert driven.closing
        driven.advance(0.2)
        assert not driven.closing


def test_late_answer_to_our_close_frame_gets_its_own_time_to_end() -> None:
    with Driven(close_timeout=2) as driven:
        peer = driven.open()
        driven.handler.client().close()
        driven.advance(1.9)
        peer.write(close_frame(1000))
        driven.turn()
        driven.advance(1.9)
        assert driven.closing
        driven.advance(0.2)
        assert not driven.closing


def test_closing_forgets_a_client_at_once() -> None:
    with Driven() as driven:
        peer = driven.open()
        peer.write(close_frame(1000))
        driven.until(lambda: driven.handler.of("close"))
        assert list(driven.handler.clients) == []


def test_ended_client_leaves_no_reference_behind() -> None:
    handler = Recorder()
    with Driven(handler, compression=True) as driven:
        driven.open().leave()
        driven.turn()
        ghost = weakref.ref(handler.client())
        handler.events.clear()
        driven.advance(60.0)
        gc.collect()
        assert ghost() is None


def test_ends_are_one_line_in_the_log_and_never_a_traceback(caplog: Any) -> None:
    caplog.set_level(logging.INFO, "simple_ws")
    with Driven(max_size=1000) as driven:
        for end in (by_unmasked_frame, by_bad_text, by_size):
            end(driven, driven.open(), driven.handler.client())
            driven.turn()
    assert len(caplog.records) == 3
    assert all(record.levelname == "INFO" for record in caplog.records)
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_path_cannot_forge_lines_of_the_log(caplog: Any) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError

    handler = Recorder()
    handler.on_error = partial(WebSocket.on_error, handler)  # type: ignore[method-assign]
    handler.on_open = fail  # type: ignore[method-assign]
    with Driven(handler) as driven:
        driven.open("/%0aCRITICAL:root:forged")
    assert "\nCRITICAL" not in caplog.records[0].getMessage()


def test_reason_of_the_peer_cannot_forge_lines_of_the_log(caplog: Any) -> None:
    caplog.set_level(logging.DEBUG, "simple_ws")
    with Driven() as driven:
        driven.open().leave(1000, "x\nCRITICAL:root:forged")
    assert any("forged" in record.getMessage() for record in caplog.records)
    assert not any("\n" in record.getMessage() for record in caplog.records)


# --- Closing by hand -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "error", "text"),
    [
        ((1005,), ValueError, "not 1005"),
        ((1006,), ValueError, "not 1006"),
        ((1015,), ValueError, "not 1015"),
        ((999,), ValueError, "not 999"),
        ((5000,), ValueError, "not 5000"),
        ((1000, "x" * 124), ValueError, "at most 123 bytes of UTF-8, not 124"),
        ((1000, "é" * 62), ValueError, "not 124"),
        (("1000",), TypeError, "must be an int, not '1000'"),
        ((True,), TypeError, "must be an int, not True"),
        ((1000, b"bytes"), TypeError, "must be a str, not b'bytes'"),
    ],
)
def test_close_refuses_what_may_not_travel(
    args: tuple[Any, ...], error: type[Exception], text: str
) -> None:
    with Driven() as driven:
        driven.open()
        client = driven.handler.client()
        with pytest.raises(error, match=text):
            client.close(*args)
        assert client.is_open()


def test_close_accepts_the_longest_reason_and_the_name_status() -> None:
    with Driven() as driven:
        peer = driven.open()
        client = driven.handler.client()
        assert client.close(status=3000, reason="é" * 61) is True
        assert client.close() is False
        assert peer.read_close() == (3000, "é" * 61)


def test_terminate_ends_without_a_close_frame_and_after_the_callback() -> None:
    class Cutter(Recorder):
        def on_message(self, msg: str, client: Client) -> None:
            client.terminate()
            self.note("returned", client)

    with Driven(Cutter()) as driven:
        peer = driven.open()
        peer.text("x")
        driven.turn(2)
        assert driven.handler.names == ["open", "returned", "close"]
        with suppress(ConnectionError):  # cut, with or without a reset
            assert peer.read_rest() == b""


# --- Pings ---------------------------------------------------------------------------


def test_ping_of_the_peer_is_answered_and_reported() -> None:
    with Driven() as driven:
        peer = driven.open()
        peer.send(PING, b"\x00\xff are you there")
        assert peer.read_frame() == (FIN | PONG, b"\x00\xff are you there")
        assert driven.handler.of("ping") == [b"\x00\xff are you there"]


def test_pong_is_reported_with_payload_and_latency() -> None:
    with Driven(ping=False) as driven:
        peer = driven.open()
        client = driven.handler.client()
        assert client.latency is None
        assert client.ping(b"one")
        assert client.ping("two")
        assert peer.read_frame() == (FIN | PING, b"one")
        assert peer.read_frame() == (FIN | PING, b"two")
        driven.clock.now += 0.25
        peer.send(PONG, "two")
        driven.turn()
        assert driven.handler.of("pong") == [b"two"]
        assert (client.pong_payload, client.latency) == (b"two", 0.25)
        driven.clock.now += 1.0
        peer.send(PONG, "one")  # answered by the later one already
        peer.send(PONG, "never asked")
        driven.turn()
        assert driven.handler.of("pong") == [b"two", b"one", b"never asked"]
        assert client.latency == 0.25


@pytest.mark.parametrize(
    ("payload", "error"), [(b"x" * 126, ValueError), (5, TypeError), (None, TypeError)]
)
def test_ping_refuses_a_wrong_payload(payload: Any, error: type[Exception]) -> None:
    with Driven() as driven:
        driven.open()
        with pytest.raises(error, match="ping payload must"):
            driven.handler.client().ping(payload)


def test_ping_takes_125_bytes_of_any_kind() -> None:
    with Driven() as driven:
        peer = driven.open()
        for payload in (b"x" * 125, bytearray(b"x" * 125), memoryview(b"x" * 125)):
            assert driven.handler.client().ping(payload)
            assert peer.read_frame() == (FIN | PING, b"x" * 125)


def test_unanswered_pings_of_the_user_are_forgotten_beyond_a_bound() -> None:
    with Driven(ping=False) as driven:
        driven.open()
        client = driven.handler.client()
        for number in range(1000):
            client.ping(str(number))
            driven.turn()
        assert len(client._pings) <= 64


def test_pings_that_nobody_reads_the_answers_of_take_no_memory() -> None:
    with Driven() as driven:
        peer = driven.open(wrap=small_buffers)
        client = driven.handler.client()
        client.write_message(b"x" * 2**19)  # more than the socket takes
        driven.turn()
        waiting = client.buffered_amount
        assert waiting
        for _ in range(300):
            peer.send(PING, b"p" * 125)
            driven.turn()
        assert client.buffered_amount <= waiting + 2 * 127
        assert peer.read_message() == b"x" * 2**19
        assert peer.read_frame() == (FIN | PONG, b"p" * 125)


# --- Heartbeat and idleness, by the clock --------------------------------------------


def test_silent_client_is_pinged_after_ping_interval() -> None:
    with Driven(ping_interval=5, ping_timeout=20) as driven:
        peer = driven.open()
        driven.advance(4.9)
        assert peer.nothing_waits()
        driven.advance(1.1)
        first, payload = peer.read_frame()
        assert first == FIN | PING
        assert driven.handler.of("ping") == [payload]
        peer.send(PONG, payload)
        driven.turn()
        assert driven.handler.of("pong") == [payload]
        driven.advance(6.0)
        assert peer.read_frame()[0] == FIN | PING


@pytest.mark.parametrize(
    "sign",
    [frame(TEXT, "x"), frame(PONG, "x"), frame(TEXT, "long message")[:3]],
    ids=["message", "pong", "part of a frame"],
)
def test_any_data_counts_as_life(sign: bytes) -> None:
    with Driven(ping_interval=5, ping_timeout=20) as driven:
        peer = driven.open()
        driven.advance(3.0)
        peer.write(sign)
        driven.turn()
        driven.advance(3.0)
        assert peer.nothing_waits()
        driven.advance(3.0)
        assert peer.read_frame()[0] == FIN | PING


def test_any_data_after_a_ping_saves_from_ping_timeout() -> None:
    with Driven(ping_interval=5, ping_timeout=20) as driven:
        peer = driven.open()
        driven.advance(6.0)
        assert peer.read_frame()[0] == FIN | PING
        driven.advance(15.0)
        peer.text("no pong, but alive")
        driven.turn()
        driven.advance(15.0)
        assert driven.handler.client().is_open()
        assert peer.read_frame()[0] == FIN | PING


def test_only_one_ping_is_sent_to_a_client_that_does_not_answer() -> None:
    with Driven(ping_interval=5, ping_timeout=20) as driven:
        peer = driven.open()
        for _ in range(25):
            driven.advance(1.0)
        assert driven.handler.names.count("ping") == 1
        assert peer.read_frame()[0] == FIN | PING
        driven.advance(2.0)
        assert peer.read_close() == (
            1011,
            "no answer to a ping within ping_timeout 20 s",
        )


def test_ping_timeout_shorter_than_ping_interval_is_kept() -> None:
    with Driven(ping_interval=30, ping_timeout=2) as driven:
        peer = driven.open()
        driven.advance(30.5)
        assert peer.read_frame()[0] == FIN | PING
        driven.advance(2.5)
        assert peer.read_close()[0] == 1011


def test_no_heartbeat_without_the_option() -> None:
    with Driven(ping=False) as driven:
        peer = driven.open()
        driven.advance(3600.0)
        assert peer.nothing_waits()
        assert len(driven.reactor.wheel) == 0


def test_idle_timeout_counts_messages_and_not_pongs() -> None:
    with Driven(ping=False, idle_timeout=10) as driven:
        peer = driven.open()
        driven.advance(9.0)
        peer.text("x")
        driven.turn()
        driven.advance(9.0)
        peer.send(PONG)
        driven.turn()
        assert driven.handler.client().is_open()
        driven.advance(2.0)
        assert peer.read_close() == (1001, "no message within idle_timeout 10 s")


def test_closing_client_is_not_pinged() -> None:
    with Driven(close_timeout=60) as driven:
        peer = driven.open()
        driven.handler.client().close()
        assert peer.read_close() == (1000, "")
        driven.advance(30.0)
        assert peer.nothing_waits()


@pytest.mark.parametrize("act", ["close", "terminate"])
def test_heartbeat_callback_may_end_its_client(act: str) -> None:
    handler = Recorder()
    handler.on_ping = lambda client: getattr(client, act)()  # type: ignore[method-assign]
    with Driven(handler) as driven:
        peer = driven.open()
        driven.advance(6.0)
        peer.close()
        driven.advance(2.0)
        assert handler.names == ["open", "close"]
        assert len(driven.reactor.wheel) == 0


def test_heartbeat_callback_may_stop_the_server_while_handshakes_wait() -> None:
    handler = Recorder()
    with Driven(handler, ping_interval=2, open_timeout=2) as driven:
        handler.on_ping = lambda client: driven.server.stop()  # type: ignore[method-assign]
        joined = [driven.join() for _ in range(20)]
        for peer in joined[::2]:
            peer.write(b"GET ")
        driven.open()
        driven.advance(3.0)
        driven.advance(3.0)
        assert all(peer.sock for peer in joined)
        assert not driven.handshaking


# --- Re-entrancy ---------------------------------------------------------------------

THREE = frame(TEXT, "1") + frame(TEXT, "2") + frame(TEXT, "3")
MIXED = frame(TEXT, "1") + frame(PING, "p") + frame(TEXT, "2", fin=False) + frame(0)


def on_first(action: Callable[[Client], object]) -> Recorder:
    """A handler that acts when the first message has come."""

    class Acting(Recorder):
        def on_message(self, msg: Any, client: Client) -> None:
            self.note("message", client, msg)
            if msg == "1":
                action(client)

    return Acting()


@pytest.mark.parametrize("rest", [THREE, MIXED], ids=["plain", "mixed"])
def test_close_in_a_callback_skips_the_rest_of_the_read(rest: bytes) -> None:
    handler = on_first(lambda client: client.close(4000))
    with Driven(handler) as driven:
        peer = driven.open()
        peer.write(rest)
        assert peer.read_close() == (4000, "")
        peer.write(close_frame(4000))
        pong = b"\x8a\x01p" if rest is MIXED else b""  # §5.5.2
        assert peer.read_rest() == pong
        assert handler.names == ["open", "message", "close"]


@pytest.mark.parametrize("rest", [THREE, MIXED], ids=["plain", "mixed"])
def test_terminate_in_a_callback_skips_the_rest_of_the_read(rest: bytes) -> None:
    handler = on_first(lambda client: client.terminate())
    with Driven(handler) as driven:
        driven.open().write(rest)
        driven.turn(2)
        assert handler.names == ["open", "message", "close"]
        assert handler.of("close") == [(1006, "terminated", "local")]


@pytest.mark.parametrize("rest", [THREE, MIXED], ids=["plain", "mixed"])
def test_raising_in_a_callback_skips_the_rest_of_the_read(rest: bytes) -> None:
    def fail(client: Client) -> None:
        raise ZeroDivisionError

    handler = on_first(fail)
    with Driven(handler) as driven:
        peer = driven.open()
        peer.write(rest)
        assert peer.read_close()[0] == 1011
        assert handler.names == ["open", "message", "error"]


def test_stop_in_a_callback_closes_everybody_and_skips_the_rest() -> None:
    handler = Recorder()
    with Driven(handler) as driven:
        handler_stops = on_first(lambda client: driven.stop_begins(1.0))
        handler.on_message = handler_stops.on_message  # type: ignore[method-assign]
        first, second = driven.open(), driven.open()
        first.write(THREE)
        second.text("2")
        assert first.read_close() == (1001, "the server stops")
        assert second.read_close() == (1001, "the server stops")
        assert handler_stops.of("message") in (["1"], ["2", "1"])


@pytest.mark.parametrize("act", ["close", "terminate"])
def test_callback_ends_another_client_that_is_ready_in_the_same_turn(act: str) -> None:
    def end_others(client: Client) -> None:
        for other in handler.clients:
            if other is not client:
                getattr(other, act)()

    handler = on_first(end_others)
    with Driven(handler) as driven:
        peers = [driven.open() for _ in range(4)]
        for peer in peers:
            peer.write(THREE)
        driven.turn(3)
        # Whoever was called first ended the others before they were called.
        (survivor,) = {event.client for event in handler.events if event.value == "3"}
        assert handler.of("message") == ["1", "2", "3"]
        assert [client for client in handler.clients if client.is_open()] == [survivor]
        if act == "terminate":
            assert handler.names.count("close") == 3


@pytest.mark.parametrize("act", ["close", "terminate"])
def test_answer_after_the_end_is_dropped_silently(act: str) -> None:
    class Leaver(Recorder):
        def on_message(self, msg: Any, client: Client) -> Any:
            getattr(client, act)()
            return "too late"

    with Driven(Leaver()) as driven:
        peer = driven.open()
        peer.text("x")
        driven.turn(2)
        with suppress(ConnectionError):
            assert b"too late" not in peer.read_now()
        assert "error" not in driven.handler.names


def test_descriptor_of_a_client_cut_in_this_turn_may_be_used_again_at_once() -> None:
    fresh: list[Peer] = []

    def replace_others(client: Client) -> None:
        for other in handler.clients:
            if other is not client:
                other.terminate()
                fresh.append(driven.join())
                fresh[-1].write(b"GET / HTTP/1.1\r\n")

    handler = on_first(replace_others)
    with Driven(handler) as driven:
        for peer in [driven.open() for _ in range(4)]:
            peer.write(THREE)
        driven.turn(3)
        assert handler.of("message") == ["1", "2", "3"]
        for peer in fresh:
            peer.write(b"Connection: close\r\n\r\n")
            assert b"426 " in peer.read_head()


def test_callback_writes_to_everybody_while_some_leave() -> None:
    class Chat(Recorder):
        def on_message(self, msg: str, client: Client) -> None:
            for other in self.clients:
                other.write_message(msg)

        def on_close(self, client: Client) -> None:
            super().on_close(client)
            for other in self.clients:
                other.write_message("somebody left")

    with Driven(Chat()) as driven:
        peers = [driven.open() for _ in range(5)]
        peers[0].text("hi")
        peers[1].write(close_frame(1000))
        peers[2].close()
        for peer in (peers[0], peers[3], peers[4]):
            heard = sorted(str(peer.read_message()) for _ in range(3))
            assert heard == ["hi", "somebody left", "somebody left"]


def test_on_open_may_write_close_and_terminate() -> None:
    class Greeter(Recorder):
        def on_open(self, client: Client) -> None:
            super().on_open(client)
            assert client.write_message("hello") is SendStatus.SENT
            if client.path == "/close":
                client.close(4000)
            elif client.path == "/terminate":
                client.terminate()

    with Driven(Greeter()) as driven:
        assert driven.open("/stay").read_message() == "hello"
        closed = driven.open("/close", then=THREE)
        assert closed.read_message() == "hello"
        assert closed.read_close() == (4000, "")
        cut = driven.join()
        cut.write(b"")
        with pytest.raises((AssertionError, ConnectionError)):
            cut.shake("/terminate", then=THREE)
        driven.turn(2)
        assert driven.handler.of("message") == []
        assert driven.handler.names.count("open") == 3
        assert driven.handler.of("close") == [(1006, "terminated", "local")]


def test_on_close_comes_after_on_open_has_returned() -> None:
    class Cutter(Recorder):
        def on_open(self, client: Client) -> None:
            client.terminate()
            self.note("open", client)

    with Driven(Cutter()) as driven:
        driven.join().write(b"")
        with pytest.raises((AssertionError, ConnectionError)):
            driven.open()
        driven.turn()
        assert driven.handler.names == ["open", "close"]


# --- Who receives --------------------------------------------------------------------


def test_client_publish_is_to_everyone_but_me() -> None:
    with Driven() as driven:
        peers = [driven.open() for _ in range(3)]
        clients = list(driven.handler.clients)
        for client in clients:
            client.subscribe("news")
        assert clients[0].publish("news", "x") == 2
        assert [peer.read_message() for peer in peers[1:]] == ["x", "x"]
        assert peers[0].nothing_waits()
        assert clients[0].topics == {"news"}
        clients[1].unsubscribe("news")
        assert clients[0].publish("news", "y") == 1


def test_attributes_come_from_the_request() -> None:
    with Driven() as driven:
        driven.open(
            "/room%201?a=1&a=2&b=",
            "Cookie: session=abc",
            "Origin: https://example.com",
            "X-Extra: one",
        )
        client = driven.handler.client()
        assert client.path == "/room 1"
        assert client.query.get_all("a") == ["1", "2"]
        assert client.query["b"] == ""
        assert client.cookies == {"session": "abc"}
        assert client.origin == "https://example.com"
        assert client.headers["x-extra"] == "one"
        assert client.address == ("192.0.2.1", 12345)
        assert client.session == {}
        assert (client.client_id, client.subprotocol) == (None, None)
        assert client.compressed is False
        assert client.close_code is client.close_cause is None
        client.anything = "mine"
        assert client.anything == "mine"


def test_every_client_has_an_id_of_its_own() -> None:
    with Driven() as driven:
        for _ in range(3):
            driven.open()
        ids = [client.id for client in driven.handler.clients]
        assert len(set(ids)) == 3


def test_peer_that_ceased_to_send_gets_what_was_written_to_it() -> None:
    handler = Recorder(write_limit=2**24)
    message = bytes(2**22)
    with Driven(handler) as driven, driven.open() as peer:
        handler.client().write_message(message)
        driven.turn()
        assert handler.client()._write_blocked
        peer.end()
        assert peer.read_message() == message
        assert peer.read_rest() == b""
        driven.until(lambda: handler.names.count("close") == 1)
        assert handler.client().close_cause == "eof"
        driven.until(lambda: not driven.closing)


def test_open_connection_keeps_nothing_parsed_of_its_request() -> None:
    # 50,000 connections keep 50,000 requests: what can be parsed again is not kept.
    with Driven(ping_interval=1) as driven:
        peer = driven.open("/some/path?query=1")
        peer.text("hello")
        driven.until(lambda: "message" in driven.handler.names)
        driven.advance(2.1)
        client = driven.handler.client()
        assert "ping" in driven.handler.names
        assert isinstance(client._request_kept, bytes)
        assert (client.address, client.secure) == (ADDRESS, False)
        assert isinstance(client._request_kept, bytes)
        assert client.path == "/some/path"
        assert client.query["query"] == "1"
        assert client.headers["Host"] == "example.com"
        assert client.address == ADDRESS


# --- Where it stands -----------------------------------------------------------------


def test_status_follows_the_connection() -> None:
    seen = []
    with Driven() as driven:
        driven.handler.on_close = lambda client: seen.append(client.status)
        peer = driven.open()
        client = driven.handler.client()
        assert client.status == Client.OPEN
        client.close(4001, "bye")
        assert client.status == Client.CLOSING
        driven.turn()
        peer.write(close_frame(4001))
        driven.turn()
        assert client.status == Client.CLOSED
        assert seen == [Client.CLOSED]


def test_status_of_a_client_that_was_cut_is_closed() -> None:
    with Driven() as driven:
        driven.open()
        client = driven.handler.client()
        client.terminate()
        assert client.status == Client.CLOSED


def test_status_has_the_numbers_of_a_browser() -> None:
    numbers = Client.CONNECTING, Client.OPEN, Client.CLOSING, Client.CLOSED
    assert numbers == (0, 1, 2, 3)


def test_status_is_read_only() -> None:
    with Driven() as driven:
        driven.open()
        client: Any = driven.handler.client()
        with pytest.raises(AttributeError):
            client.status = Client.CLOSED
        assert client.is_open()


def test_a_connection_gets_a_protocol_when_it_needs_one() -> None:
    with Driven() as driven:
        peer = driven.open()
        client = driven.handler.client()
        peer.send(TEXT, b"plain")
        driven.turn()
        assert client.messages_received == 1
        assert client._own_protocol is None
        assert (client.status, client.close_code) == (Client.OPEN, None)
        assert (client.close_reason, client.close_cause) == ("", None)
        peer.send(PING, b"?")
        driven.turn()
        assert client._own_protocol is not None
