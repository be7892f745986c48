"""The log: one line for each end, the names of slow callbacks, and no flood.

Also the counts of `Counters`, and that peers are not blamed for a pause of the server.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from harness import (
    BINARY,
    PING,
    PONG,
    TEXT,
    Driven,
    Echo,
    Peer,
    Recorder,
    close_frame,
    frame,
    request,
    small_buffers,
)
from http_peer import ask

from simple_ws import (
    Client,
    Deflate,
    Middleware,
    SendStatus,
    Server,
    WebSocket,
    in_thread,
)
from simple_ws.constants import CloseCause
from simple_ws.errors import AuthenticationError, ConnectError, ConnectionClosed
from simple_ws.testing import TestServer

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


@pytest.fixture
def log(caplog: Any) -> Any:
    caplog.set_level(logging.DEBUG, "simple_ws")
    return caplog


def lines(log: Any, event: str) -> list[logging.LogRecord]:
    return [each for each in log.records if getattr(each, "ws_event", None) == event]


# --- One line for each end -----------------------------------------------------------


def test_end_is_one_line_with_all_its_facts_as_fields(log: Any) -> None:
    with Driven(Echo()) as driven:
        peer = driven.open("/room?x=1")
        client = driven.handler.client()
        driven.server.bind(client, "user-7")
        for text in ("one", "two"):
            peer.text(text)
            assert peer.read_message() == text
        client.ping(b"?")
        driven.turn()
        driven.clock.now += 0.25
        peer.send(PONG, b"?")
        driven.turn()
        peer.write(close_frame(4000, "enough"))
        driven.turn(2)
        (record,) = lines(log, "close")
        fields = {
            name: value
            for name, value in vars(record).items()
            if name.startswith("ws_")
        }
        assert fields.pop("ws_age") >= 0
        received = 2 * len(frame(TEXT, "one")) + len(frame(PONG, "?"))
        received += len(close_frame(4000, "enough"))
        # The handshake went through the client's outbox as well.
        sent = len(peer.head) + 4 + 2 * 5 + 3
        assert fields == {
            "ws_event": "close",
            "ws_client": client.id,
            "ws_client_id": "user-7",
            "ws_address": ("192.0.2.1", 12345),
            "ws_path": "/room",
            "ws_cause": "peer",
            "ws_code": 4000,
            "ws_reason": "enough",
            "ws_began": "peer",
            "ws_messages_received": 2,
            "ws_messages_sent": 2,
            "ws_bytes_received": received,
            "ws_bytes_sent": sent,
            "ws_latency": 0.25,
            "ws_blame": "",
        }
        assert record.getMessage() == (
            f"client {client.id} of ('192.0.2.1', 12345) ended by peer (peer began): "
            "4000 'enough' after 0.0 s, 2 messages in, 2 out, latency 0.250 s"
        )
        assert record.exc_info is None
        assert driven.server._log_counts.ends == {"peer": 1}


def reset(driven: Driven, peer: Peer, client: Client) -> None:
    client.write_message("unread")
    driven.turn()
    peer.close()  # with something unread: that is a reset


def stall(driven: Driven, peer: Peer, client: Client) -> None:
    small_buffers(client._sock)
    while client.write_message(b"x" * 2**18):
        driven.turn()
    driven.advance(1.0)


def overload(driven: Driven, peer: Peer, client: Client) -> None:
    driven.reactor.buffered_input_limit = 1000
    peer.write(frame(TEXT, "x" * 2000)[:1500])


def fall_silent(driven: Driven, peer: Peer, client: Client) -> None:
    for _ in range(3):
        driven.advance(9.0)
    driven.advance(9.0)
    driven.advance(1.0)


def idle(driven: Driven, peer: Peer, client: Client) -> None:
    for _ in range(8):
        driven.advance(4.0)
        peer.send(PONG)
        driven.turn()
    driven.advance(2.0)


def stop(driven: Driven, peer: Peer, client: Client) -> None:
    driven.stop_begins(1.0)
    driven.turn()
    peer.write(close_frame(1001))


def hand_over(data: bytes) -> Callable[[Driven, Peer, Client], None]:
    return lambda driven, peer, client: peer.write(data)


#: cause: (how it comes about, who began, code, level of its line)
ENDS: dict[str, tuple[Callable[[Driven, Peer, Client], Any], str, int, int]] = {
    "peer": (hand_over(close_frame(1000)), "peer", 1000, logging.DEBUG),
    "local": (lambda driven, peer, client: client.terminate(), "us", 1006, 10),
    "eof": (lambda driven, peer, client: peer.close(), "peer", 1006, 10),
    "reset": (reset, "peer", 1006, logging.DEBUG),
    "ping_timeout": (fall_silent, "us", 1011, logging.INFO),
    "idle_timeout": (idle, "us", 1001, logging.DEBUG),
    "slow_consumer": (stall, "us", 1013, logging.INFO),
    "overloaded": (overload, "us", 1013, logging.INFO),
    "too_big": (hand_over(frame(TEXT, "x" * 5001)), "us", 1009, logging.INFO),
    "protocol_error": (hand_over(b"\x81\x01x"), "us", 1002, logging.INFO),
    "bad_data": (hand_over(frame(TEXT, b"\xff")), "us", 1007, logging.INFO),
    "handler_error": (hand_over(frame(TEXT, "raise")), "us", 1011, logging.DEBUG),
    "rate": (hand_over(frame(TEXT, "x") * 30), "us", 1008, logging.INFO),
    "auth_timeout": (
        lambda driven, peer, client: [driven.advance(4.0) for _ in range(5)],
        "us",
        1008,
        logging.INFO,
    ),
    "shutdown": (stop, "us", 1001, logging.DEBUG),
}


def test_every_cause_there_is_has_its_case_here() -> None:
    assert set(ENDS) == set(CloseCause)


class Fragile(Recorder):
    def on_message(self, msg: Any, client: Client) -> Any:
        if msg == "raise":
            raise RuntimeError("a fault of the user's")

    def on_error(self, error: Exception, client: Any) -> None:
        WebSocket.on_error(self, error, client)


@pytest.mark.parametrize("cause", ENDS)
def test_every_kind_of_end_is_explained_once(cause: str, log: Any) -> None:
    act, began, code, level = ENDS[cause]
    handler = Fragile(
        max_size=5000,
        message_rate=(10, 20),
        idle_timeout=30 if cause == "idle_timeout" else None,
    )
    handler.authenticates = cause == "auth_timeout"
    with Driven(handler) as driven:
        peer = driven.open()
        client = driven.handler.client()
        act(driven, peer, client)
        driven.turn(3)
        driven.advance(1.5)
        (record,) = lines(log, "close")
        assert (record.ws_cause, record.ws_began) == (cause, began)
        assert (record.ws_code, record.levelno) == (code, level)
        assert driven.server._log_counts.ends == {cause: 1}
        ((told, _, told_cause),) = driven.handler.of("close")
        assert (told, told_cause) == (code, cause)
        tracebacks = [each for each in log.records if each.exc_info]
        assert len(tracebacks) == (cause == "handler_error")


# --- Storms --------------------------------------------------------------------------


def storm(driven: Driven, count: int, data: bytes = b"\x81\x01x") -> None:
    for _ in range(count):
        peer = driven.open()
        peer.write(data)
        driven.turn(2)
        peer.close()
        driven.turn()


def test_storm_of_one_kind_is_twenty_lines_and_one_that_sums_up(log: Any) -> None:
    with Driven() as driven:
        storm(driven, 100)
        assert len(lines(log, "close")) == 20
        assert driven.server._log_counts.ends == {"protocol_error": 100}
        log.clear()
        driven.advance(10.0)
        assert [each.getMessage() for each in log.records] == [
            "ended by protocol_error: 80 more in 10 s"
        ]
        log.clear()
        storm(driven, 20)
        assert len(lines(log, "close")) == 20
        driven.advance(10.0)
        assert "more in" not in log.text


def test_storm_of_one_kind_does_not_hide_another(log: Any) -> None:
    with Driven() as driven:
        storm(driven, 50)
        storm(driven, 5, frame(TEXT, b"\xff"))
        assert [each.ws_cause for each in lines(log, "close")] == [
            "protocol_error"
        ] * 20 + ["bad_data"] * 5


def boom(*args: Any) -> Any:
    raise ValueError("boom")


def fails_in(name: str) -> Callable[[Any], object]:
    """Prepares a server whose callback `name` fails."""

    def prepare(server: Any) -> None:
        handler = type("Bad", (WebSocket,), {})()
        if name == "client_class":
            handler.client_class = boom
        else:
            setattr(handler, name, boom)
        server.mount("/ws", handler)

    return prepare


def fails_twice(server: Any) -> None:
    """The callback, and `on_error` after it."""
    handler = WebSocket()
    handler.on_message = handler.on_error = boom  # type: ignore[method-assign]
    server.mount("/ws", handler)


def fails_in_middleware(server: Any) -> None:
    middleware = Middleware()
    middleware.on_message = boom  # type: ignore[method-assign]
    server.use(middleware)
    server.mount("/ws", WebSocket())


def fails_in_thread(server: Any) -> None:
    server.route("/ws")(in_thread(lambda msg, client: boom()))


FAILING: list[tuple[str, Callable[[Any], object]]] = [
    *(
        (name, fails_in(name))
        for name in (
            "on_request", "on_open", "on_message", "on_close", "select_subprotocol",
            "client_class",
        )
    ),
    ("on_error", fails_twice),
    ("middleware", fails_in_middleware),
    ("in_thread", fails_in_thread),
]  # fmt: skip


@pytest.mark.parametrize(
    "prepare", [prepare for _, prepare in FAILING], ids=[name for name, _ in FAILING]
)
def test_tracebacks_of_many_failed_callbacks_are_few(
    prepare: Callable[[Any], object], log: Any
) -> None:
    server = Server("", 0)
    prepare(server)
    with TestServer(server, raise_server_exceptions=False) as tested:
        for _ in range(50):
            with suppress(ConnectError):
                client = tested.connect("/ws", subprotocols=["a"])
                with suppress(ConnectionClosed):
                    client.send("?")
                    if prepare is not fails_in_thread:  # which ends it in its time
                        client.close()
        tested.wait_until(lambda: not server.clients)
        failed = [each for each in log.records if each.exc_info]
        assert len(failed) == 20
        for record in failed:
            assert record.ws_event == "failure"
            assert record.ws_path == "/ws"
            assert record.ws_error == "ValueError"
        log.clear()
        tested.advance(10)
        summed_up = [
            each for each in log.records if " failed: 30 more" in each.msg % each.args
        ]
        assert [each.levelno for each in summed_up] == [logging.ERROR]


@pytest.mark.parametrize("kind", ["http", "wsgi"])
def test_tracebacks_of_many_failed_requests_are_few(kind: str, log: Any) -> None:
    server = Server("", 0)
    if kind == "http":
        server.http("/page")(boom)
    else:
        server.wsgi("/", boom)
    with TestServer(server, raise_server_exceptions=False) as tested:
        for _ in range(50):
            assert tested.request("GET", "/page").status == 500
        tested.settle()
        failed = [each for each in log.records if each.exc_info]
        assert len(failed) == 20
        assert {(each.ws_event, each.ws_path) for each in failed} == {
            ("failure", "/page")
        }


def test_tracebacks_of_a_failing_timer_are_few(log: Any) -> None:
    with Driven() as driven:
        driven.server.every(0.1, boom)
        for _ in range(95):
            driven.advance(0.1)
        assert len([each for each in log.records if each.exc_info]) == 20
        for _ in range(10):
            driven.advance(0.1)
        assert "timers failed:" in log.text


def test_lines_that_nobody_reads_are_not_counted_as_written(caplog: Any) -> None:
    caplog.set_level(logging.WARNING, "simple_ws")
    with Driven() as driven:
        storm(driven, 50)
        driven.advance(10.0)
        assert caplog.records == []
        assert driven.server._log_counts.ends == {"protocol_error": 50}


def test_server_that_begins_anew_has_its_lines_again(log: Any) -> None:
    """The timer that would have summed up went with the old loop."""
    with Driven() as driven:
        storm(driven, 30)
        driven.tear_down()
        assert "ended by protocol_error: 10 more in 10 s" in log.text
        log.clear()
        driven.restart()
        storm(driven, 30)
        assert len(lines(log, "close")) == 20


def test_refused_are_twenty_lines_too(log: Any) -> None:
    with Driven() as driven:
        for _ in range(100):
            driven.server._log.note_refusal(("192.0.2.1", 1), "wrong password")
        assert len(lines(log, "refused")) == 20
        assert lines(log, "refused")[0].ws_reason == "wrong password"
        log.clear()
        driven.advance(10.0)
        assert [each.getMessage() for each in log.records] == [
            "refused: 80 more in 10 s"
        ]


def knock(driven: Driven, count: int, data: bytes) -> None:
    for _ in range(count):
        peer = driven.join()
        peer.write(data)
        peer.read_rest()
        peer.close()
        driven.turn()


def test_horde_of_scanners_is_twenty_lines_and_one_that_sums_up(log: Any) -> None:
    with Driven() as driven:
        knock(driven, 50, b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n")
        assert len(log.records) == len(lines(log, "refused")) == 20
        log.clear()
        driven.advance(10.0)
        assert [each.getMessage() for each in log.records] == [
            "refused with 400: 30 more in 10 s"
        ]


def test_refusal_before_the_upgrade_is_one_line_with_its_facts(log: Any) -> None:
    class Guarded(Recorder):
        def on_request(self, request: Any) -> Any:
            raise AuthenticationError("user 7 is\nlocked out")

    with Driven(Guarded()) as driven:
        knock(driven, 1, request())
        (record,) = log.records
        assert (record.ws_event, record.ws_status) == ("refused", 401)
        assert record.ws_address == ("192.0.2.1", 12345)
        assert record.ws_reason == "user 7 is\nlocked out"
        assert record.getMessage() == (
            "client at ('192.0.2.1', 12345) refused with 401: user 7 is\\nlocked out"
        )


def test_refusal_of_a_page_is_told_in_the_same_way(log: Any) -> None:
    with Driven() as driven:

        @driven.server.http("/page")
        def page(request: Any) -> Any:
            raise AuthenticationError("who is that")

        knock(driven, 30, b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        refused = lines(log, "refused")
        assert len(log.records) == len(refused) == 20
        assert {each.ws_reason for each in refused} == {"who is that"}


def test_answers_that_are_not_taken_are_twenty_lines_too(log: Any) -> None:
    with Driven() as driven:

        @driven.server.http("/page")
        def page(request: Any) -> bytes:
            return bytes(2**22)

        for _ in range(30):
            peer = driven.join()
            peer.write(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
            driven.turn(2)
            peer.close()
            driven.turn(2)
        assert len(log.records) == len(lines(log, "answer_cut")) == 20


# --- Who holds the loop --------------------------------------------------------------


class Slow(Recorder):
    """Lets time pass in one of its callbacks."""

    name = ""

    def __init__(self, which: str, seconds: float, **options: Any) -> None:
        super().__init__(**options)
        self.clock: Any = None
        self._which = which
        self._seconds = seconds

    def _work(self, which: str) -> None:
        if which == self._which:
            self.clock.now += self._seconds

    def on_open(self, client: Any) -> None:
        super().on_open(client)
        self._work("on_open")

    def on_message(self, msg: Any, client: Any) -> None:
        super().on_message(msg, client)
        self._work("on_message")

    def on_close(self, client: Any) -> None:
        super().on_close(client)
        self._work("on_close")

    def on_ping(self, client: Any) -> None:
        super().on_ping(client)
        self._work("on_ping")

    def on_pong(self, client: Any) -> None:
        super().on_pong(client)
        self._work("on_pong")

    def on_drain(self, client: Any) -> None:
        super().on_drain(client)
        self._work("on_drain")


def slow_driven(which: str, seconds: float, **options: Any) -> Driven:
    handler = Slow(which, seconds)
    driven = Driven(handler, **options)
    handler.clock = driven.clock
    return driven


CALLBACKS = ["on_open", "on_message", "on_close", "on_ping", "on_pong", "on_drain"]


def everything(driven: Driven) -> None:
    """Have every callback called once."""
    peer = driven.open("/slow", wrap=small_buffers)
    peer.text("x")
    peer.send(PING)
    peer.send(PONG)
    driven.turn(3)
    client = driven.handler.client()
    client.write_message(b"x" * 100_000)
    driven.turn()
    assert client.write_message("waits") is SendStatus.BACKPRESSURE
    assert peer.read_frame()[0] == 0x80 | PONG
    peer.read_message()
    driven.until(lambda: "drain" in driven.handler.names)
    peer.write(close_frame(1000))
    driven.turn(3)


@pytest.mark.parametrize("which", CALLBACKS)
def test_slow_callback_is_named_with_its_path_and_its_time(
    which: str, log: Any
) -> None:
    with slow_driven(which, 0.3) as driven:
        everything(driven)
        (record,) = lines(log, "slow_callback")
        assert record.levelno == logging.WARNING
        assert (record.ws_callback, record.ws_path) == (f"Slow.{which}", "/slow")
        assert record.ws_seconds == pytest.approx(0.3)
        assert record.getMessage() == (
            f"Slow.{which} at '/slow' blocked the loop for 0.30 s: "
            "no other client was served"
        )
        assert driven.server._log_counts.slow_calls == 1


@pytest.mark.parametrize("which", CALLBACKS)
def test_callback_that_is_quick_enough_is_not_named(which: str, log: Any) -> None:
    with slow_driven(which, 0.19) as driven:
        everything(driven)
        assert lines(log, "slow_callback") == []
        assert driven.server._log_counts.slow_calls == 0


@pytest.mark.parametrize("which", ["on_request", "select_subprotocol", "client_class"])
def test_slow_handshake_is_named(which: str, log: Any) -> None:
    def work(name: str) -> None:
        if name == which:
            driven.clock.now += 0.3

    class Slowly(Client):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            work("client_class")

    class Asking(Recorder):
        client_class = Slowly

        def on_request(self, request: Any) -> None:
            work("on_request")

        def select_subprotocol(self, offered: Any) -> None:
            work("select_subprotocol")

    with Driven(Asking()) as driven:
        driven.open("/slow", "Sec-WebSocket-Protocol: a")
        (record,) = lines(log, "slow_callback")
        assert (record.ws_callback, record.ws_path) == (f"Asking.{which}", "/slow")
        assert record.ws_seconds == pytest.approx(0.3)


@pytest.mark.parametrize("which", ["on_open", "on_close"])
def test_slow_middleware_is_named_once_and_by_its_own_name(
    which: str, log: Any
) -> None:
    def work(client: Any) -> None:
        driven.clock.now += 0.3

    class Slowly(Middleware):
        pass

    slowly = Slowly()
    setattr(slowly, which, work)
    with Driven() as driven:
        driven.server.use(slowly)
        peer = driven.open("/slow")
        peer.write(close_frame(1000))
        driven.turn(3)
        (record,) = lines(log, "slow_callback")
        assert (record.ws_callback, record.ws_path) == ("Slowly.work", "/slow")
        assert driven.server._log_counts.slow_calls == 1


def test_slow_function_of_http_is_named(log: Any) -> None:
    with Driven() as driven:

        @driven.server.http("/page/{number}")
        def page(request: Any) -> str:
            driven.clock.now += 0.3
            raise ValueError

        @driven.server.http("/quick")
        def quick(request: Any) -> str:
            return "x"

        driven.join().write(ask("GET", "/page/7"))
        driven.join().write(ask("GET", "/quick"))
        driven.turn(3)
        (record,) = lines(log, "slow_callback")
        assert (record.ws_callback, record.ws_path) == ("page", "/page/7")
        assert record.ws_seconds == pytest.approx(0.3)


def test_slow_timer_is_named(log: Any) -> None:
    def tick() -> None:
        driven.clock.now += 0.3

    with Driven() as driven:
        driven.server.every(10, tick)
        driven.server.every(10, lambda: None)
        driven.advance(10)
        (record,) = lines(log, "slow_callback")
        assert (record.ws_callback, record.ws_path) == ("the timer tick", None)
        assert record.getMessage() == (
            "the timer tick blocked the loop for 0.30 s: no other client was served"
        )


def test_limit_of_slow_callbacks_is_an_option(log: Any) -> None:
    with slow_driven("on_message", 0.3, slow_callback=0.5) as driven:
        everything(driven)
        assert lines(log, "slow_callback") == []
    with slow_driven("on_message", 0.02, slow_callback=0.01) as driven:
        everything(driven)
        assert len(lines(log, "slow_callback")) == 1


def test_many_callbacks_that_are_quick_enough_are_no_slow_one(log: Any) -> None:
    """They are in one read, and together longer."""
    with slow_driven("on_message", 0.02) as driven:
        peer = driven.open()
        peer.write(frame(TEXT, "x") * 100)
        driven.until(lambda: len(driven.handler.of("message")) == 100)
        assert lines(log, "slow_callback") == []


def test_slow_callback_of_a_rest_is_named_too(log: Any) -> None:
    handler = Recorder()
    with Driven(handler) as driven:

        def on_message(msg: Any, client: Any) -> None:
            handler.note("message", client, msg)
            if msg == "slow":
                driven.clock.now += 0.4

        handler.on_message = on_message  # type: ignore[method-assign]
        peer = driven.open("/rest")
        stream = frame(TEXT, "x") * 5000 + frame(TEXT, "slow")
        peer.write(stream)
        driven.until(lambda: "slow" in handler.of("message"))
        driven.turn()
        (record,) = lines(log, "slow_callback")
        assert record.ws_path == "/rest"
        assert record.ws_seconds == pytest.approx(0.4)


def test_slow_callbacks_again_and_again_are_no_flood(log: Any) -> None:
    with slow_driven("on_message", 0.3) as driven:
        peer = driven.open()
        for _ in range(30):
            peer.text("x")
            driven.turn(2)
        # 30 of 0.3 s are 9 s: within one window.
        assert len(lines(log, "slow_callback")) == 20
        assert driven.server._log_counts.slow_calls == 30


# --- A pause of ours is not the peers' -----------------------------------------------


class Pausing(Recorder):
    """ "N" as a message lets N seconds pass."""

    clock: Any = None

    def on_message(self, msg: Any, client: Any) -> None:
        super().on_message(msg, client)
        self.clock.now += float(msg)


def pausing(**options: Any) -> Driven:
    handler = Pausing()
    driven = Driven(handler, **options)
    handler.clock = driven.clock
    return driven


def test_heartbeat_closes_nobody_for_a_pause_of_the_server() -> None:
    with pausing() as driven:
        peers = [driven.open() for _ in range(20)]
        driven.advance(6.0)  # everybody was pinged
        peers[0].text("300")
        driven.turn(2)
        assert driven.handler.of("close") == []
        for peer in peers:
            while not peer.nothing_waits():
                assert peer.read_frame()[0] == 0x80 | PING
            peer.send(PONG)
        driven.turn(2)
        driven.advance(4.0)
        assert driven.handler.of("close") == []


def test_idle_timeout_closes_nobody_for_a_pause_of_the_server() -> None:
    with pausing(idle_timeout=60, ping=False) as driven:
        driven.open()
        peer = driven.open()
        driven.advance(50.0)
        peer.text("300")
        driven.turn(3)
        assert driven.handler.of("close") == []
        driven.advance(11.0)
        driven.turn(3)
        # One of them has spoken; for the other 61 s of listening have passed.
        assert len(driven.handler.of("close")) == 0
        driven.advance(1.5)
        assert len(driven.server.clients) == 1


def test_peer_that_is_dead_is_found_in_spite_of_pauses() -> None:
    """Who pauses every few seconds would wait for ever, did a pause begin anew."""
    with pausing() as driven:
        driven.open()
        busy = driven.open()
        seconds = 0
        while len(driven.server.clients) == 2:
            busy.text("0.7")
            driven.turn()
            driven.advance(2.3)
            seconds += 3
            assert seconds < 90
        assert driven.handler.clients
        assert seconds < 45


def test_client_that_timed_out_because_of_a_callback_is_attributed_to_it(
    log: Any,
) -> None:
    with pausing() as driven:
        driven.open()
        busy = driven.open("/busy")
        driven.advance(6.0)
        busy.text("30")
        driven.turn(2)
        for _ in range(4):
            busy.send(PONG)
            driven.advance(6.0)
        driven.advance(2.0)
        (record,) = lines(log, "close")
        assert record.ws_cause == "ping_timeout"
        assert record.ws_blame == (
            "; meanwhile Pausing.on_message at '/busy' (30.00 s) blocked the loop"
        )
        assert record.getMessage().endswith(record.ws_blame)


def test_client_that_timed_out_by_itself_is_attributed_to_nobody(log: Any) -> None:
    with pausing() as driven:
        busy = driven.open("/busy")
        busy.text("30")
        driven.turn(2)
        driven.open()
        for _ in range(7):
            busy.send(PONG)
            driven.advance(5.0)
        (record,) = lines(log, "close")
        assert (record.ws_cause, record.ws_blame) == ("ping_timeout", "")


# --- Faults of ours -------------------------------------------------------------------


class Faulty:
    """Something that the wheel carries and that fails."""

    _wheel_slot: Any = None

    def _sweep(self, now: float) -> float | None:
        raise RuntimeError("a fault of ours")


def test_fault_in_what_is_due_is_logged_and_everything_else_is_done(log: Any) -> None:
    def fail() -> None:
        raise RuntimeError("another fault of ours")

    with Driven(Echo()) as driven:
        peer = driven.open()
        done: list[str] = []
        driven.reactor.call_later(1.0, fail)
        driven.reactor.call_later(1.0, lambda: done.append("timer"))
        for _ in range(3):
            driven.reactor.wheel.put(Faulty(), driven.clock.now)
        for _ in range(5):
            driven.advance(1.5)
        assert done == ["timer"]
        assert len([each for each in log.records if each.exc_info]) == 4
        assert len(driven.reactor.wheel) == 1  # the client
        peer.text("still here")
        peer.read_frame()  # a heartbeat
        assert peer.read_message() == "still here"


# --- Counts --------------------------------------------------------------------------


def packed(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


def test_messages_and_bytes_are_counted_both_ways() -> None:
    with Driven(Echo()) as driven:
        peer = driven.open()
        driven.turn()
        counters = driven.handler._counters
        before = counters.bytes_sent
        stream = (
            frame(TEXT, "one")
            + frame(BINARY, b"x" * 70_000)
            + frame(TEXT, "a", fin=False)
            + frame(0, "b")
            + frame(PING, b"?")
        )
        peer.write(stream)
        driven.until(lambda: "ping" in driven.handler.names)
        assert peer.read_message() == "one"
        assert peer.read_message() == b"x" * 70_000
        assert peer.read_message() == "ab"
        peer.read_frame()
        assert (counters.messages_received, counters.messages_sent) == (3, 3)
        assert counters.bytes_received == len(stream)
        # 70,000 bytes are nine frames of 8 KiB at most, with four bytes of header each.
        assert counters.bytes_sent - before == 5 + (70_000 + 9 * 4) + 4 + 3
        client = driven.handler.client()
        assert client.bytes_received == counters.bytes_received
        assert client.bytes_sent == counters.bytes_sent
        assert (client.messages_received, client.messages_sent) == (3, 3)


@pytest.mark.parametrize("fragments", [1, 3])
def test_compression_is_counted_both_ways(fragments: int) -> None:
    plain = b"all work and no play " * 100
    data = packed(plain)
    with Driven(Echo()) as driven:
        peer = driven.open("/", DEFLATE)
        step = -(-len(data) // fragments)
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        for number, piece in enumerate(pieces):
            first = number == 0
            peer.send(
                BINARY if first else 0,
                piece,
                fin=number == len(pieces) - 1,
                rsv=0x40 if first else 0,
            )
        first_byte, answer = peer.read_frame()
        assert first_byte == 0xC2
        counters = driven.handler._counters
        assert (counters.packed_received, counters.plain_received) == (
            len(data),
            len(plain),
        )
        assert (counters.plain_sent, counters.packed_sent) == (len(plain), len(answer))


def test_what_was_not_compressed_is_not_counted_as_such() -> None:
    with Driven(Echo(), compression=Deflate(threshold=1000)) as driven:
        peer = driven.open("/", DEFLATE)
        peer.text("short")
        assert peer.read_message() == "short"
        counters = driven.handler._counters
        assert counters.plain_sent == counters.packed_sent == 0
        assert counters.plain_received == counters.packed_received == 0


def test_dropped_messages_are_counted() -> None:
    with Driven(write_limit=2**17, slow_consumer="drop_new") as driven:
        driven.open(wrap=small_buffers)
        client = driven.handler.client()
        client.write_message(b"x" * 2**17)
        driven.turn()
        results = [client.write_message(b"x" * 30_000) for _ in range(10)]
        assert driven.handler._counters.dropped == results.count(SendStatus.DROPPED) > 0
        assert (
            driven.handler._counters.messages_sent
            == 11 - driven.handler._counters.dropped
        )


def test_time_of_callbacks_is_counted() -> None:
    with slow_driven("on_message", 0.125) as driven:
        peer = driven.open()
        for _ in range(4):
            peer.text("x")
            driven.turn()
        assert driven.handler._counters.busy == pytest.approx(0.5)


def test_counts_of_a_handler_stay_when_its_clients_leave() -> None:
    with Driven() as driven:
        for _ in range(3):
            peer = driven.open()
            peer.text("x")
            driven.turn()
            peer.close()
            driven.turn(2)
        assert driven.handler._counters.messages_received == 3
        assert driven.reactor.buffered == 0
