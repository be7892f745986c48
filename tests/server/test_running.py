"""Driving a server: poll and fileno, stop from anywhere, several, denying, restarts."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from harness import (
    DEADLINE,
    Driven,
    Echo,
    Peer,
    Recorder,
    close_frame,
    connect,
    open_peer,
    poll_until,
    request,
    running,
)

from simple_ws import InvalidState, Server, WebSocket, in_thread


def polled_peer(server: Server, *others: Server) -> Peer:
    """A connection to a server that is polled, open; with others polled in turn."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE)

    def pump() -> None:
        for each in (server, *others):
            each.poll(0.001)

    return Peer(sock, pump).shake()


@contextmanager
def polling(handler: WebSocket | None = None, **options: Any) -> Iterator[Server]:
    """A server that this thread polls."""
    server = Server("127.0.0.1", 0, **options)
    if handler is not None:
        server.mount("*", handler)
    assert server.poll() is True
    try:
        yield server
    finally:
        server.stop(drain=0)


def ends(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()


# --- poll ----------------------------------------------------------------------------


def test_polled_server_serves_in_the_thread_that_polls() -> None:
    idents: list[int] = []
    handler = Echo()
    handler.on_open = lambda client: idents.append(threading.get_ident())  # type: ignore[method-assign]
    with polling(handler) as server, polled_peer(server) as peer:
        peer.text("hi")
        assert peer.read_message() == "hi"
        assert server.broadcast("at once") == 1
        assert peer.read_message() == "at once"
        assert peer.leave() == (1000, "")
        assert idents == [threading.get_ident()]


def test_poll_waits_no_longer_than_it_is_told() -> None:
    with polling(Recorder(), ping=False) as server:
        for timeout in (0, 0.0, 0.01):
            began = time.monotonic()
            assert server.poll(timeout) is True
            assert time.monotonic() - began >= timeout - 0.005


def test_poll_ends_its_wait_for_a_call_of_another_thread() -> None:
    with polling(Echo()) as server, polled_peer(server) as peer:
        thread = threading.Thread(target=lambda: server.broadcast("from a thread"))
        thread.start()
        assert peer.read_message() == "from a thread"
        ends(thread)
        # Were it not woken, this poll would take until the deadline of the test.
        thread = threading.Thread(target=lambda: server.call_later(0, peer.sock.fileno))
        thread.start()
        poll_until(server, lambda: not server._schedule.jobs)
        ends(thread)


def test_timers_work_where_a_server_is_polled() -> None:
    with polling(Recorder()) as server:
        calls: list[int] = []
        server.call_later(0, lambda: calls.append(2))
        server.every(0.002, lambda: calls.append(1))
        poll_until(server, lambda: len(calls) >= 4)
        assert calls[0] == 2


@pytest.mark.parametrize(
    ("timeout", "error"),
    [
        (None, TypeError),
        ("1", TypeError),
        (True, TypeError),
        (-1, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
    ],
)
def test_timeout_of_poll_is_a_number_of_seconds(
    timeout: Any, error: type[Exception]
) -> None:
    server = Server("127.0.0.1", 0)
    with pytest.raises(error, match="timeout must be"):
        server.poll(timeout)
    assert not server._running


def test_poll_inside_a_callback_is_refused_and_hurts_nobody() -> None:
    errors: list[BaseException] = []

    class Nested(Echo):
        def on_message(self, msg: Any, client: Any) -> Any:
            assert self.server is not None
            try:
                self.server.poll()
            except InvalidState as error:
                errors.append(error)
            return msg

    with polling(Nested()) as server, polled_peer(server) as peer:
        peer.text("x")
        assert peer.read_message() == "x"
        assert "callback" in str(errors[0])
        peer.text("y")
        assert peer.read_message() == "y"


def test_poll_of_a_server_that_runs_in_a_thread_is_refused() -> None:
    with running(Echo()) as server:
        for call in (server.poll, server.run, server.start):
            with pytest.raises(InvalidState, match="runs already"):
                call()
        with open_peer(server) as peer:
            peer.text("x")
            assert peer.read_message() == "x"


def test_polled_server_cannot_be_started_nor_run() -> None:
    with polling(Echo()) as server:
        for call in (server.start, server.run):
            with pytest.raises(InvalidState, match="runs already"):
                call()
        with pytest.raises(InvalidState, match="listens already"):
            server.listen()
        assert server.poll() is True


def test_exit_from_a_callback_passes_through_poll_which_may_go_on() -> None:
    class Quitter(Echo):
        def on_message(self, msg: Any, client: Any) -> Any:
            if msg == "quit":
                raise SystemExit(3)
            return msg

    with polling(Quitter()) as server, polled_peer(server) as peer:
        peer.text("quit")
        with pytest.raises(SystemExit):
            poll_until(server, lambda: False)
        peer.text("on")
        assert peer.read_message() == "on"


# --- Stopping a server that is polled ------------------------------------------------


def test_poll_after_stop_returns_false_until_it_listens_again() -> None:
    handler = Recorder()
    with polling(handler) as server, polled_peer(server) as peer:
        server.stop(drain=0)
        assert handler.of("close") == [(1001, "the server stops", "shutdown")]
        assert [server.poll(), server.poll(5)] == [False, False]
        assert peer.read_close() == (1001, "the server stops")
        with pytest.raises(ConnectionRefusedError):
            connect(server)
        server.listen()
        assert server.poll() is True
        with polled_peer(server) as again:
            assert again.leave() == (1000, "")
        server.stop()
        assert server.poll() is False
        server.start()
        with open_peer(server) as third:
            assert third.leave() == (1000, "")


def test_stop_outside_of_a_callback_waits_for_the_answers() -> None:
    handler = Recorder()
    with polling(handler) as server, polled_peer(server) as peer:
        peer.write(close_frame(1001))  # as if it knew
        peer.end()
        server.stop(drain=DEADLINE)
        assert handler.names == ["open", "close"]
        assert server.poll() is False


@pytest.mark.parametrize("place", ["on_open", "on_message", "on_close", "timer"])
def test_stop_inside_a_callback_ends_with_the_polls_that_follow(place: str) -> None:
    handler = Recorder()
    returned: list[bool] = []

    def stop(*args: Any) -> None:
        server.stop(drain=0.01)
        returned.append(server._run is None)

    with polling(handler) as server:
        if place == "timer":
            server.call_later(0.001, stop)
        else:
            setattr(handler, place, stop)
        peer = polled_peer(server)
        if place == "on_message":
            peer.text("x")
        if place == "on_close":
            peer.write(close_frame(1000))
        deadline = time.monotonic() + DEADLINE
        while server.poll(0.01):
            assert time.monotonic() < deadline
        assert returned == [False]
        assert not server.clients
        assert server.poll() is False
        peer.close()


def test_stop_of_another_thread_returns_when_the_polls_have_ended_it() -> None:
    with polling(Recorder()) as server, polled_peer(server) as peer:
        stopper = threading.Thread(target=server.stop, kwargs={"drain": 0.01})
        stopper.start()
        deadline = time.monotonic() + DEADLINE
        while server.poll(0.01):
            assert time.monotonic() < deadline
        ends(stopper)
        assert peer.read_close() == (1001, "the server stops")


def test_stop_of_another_thread_does_not_wait_for_ever_for_a_poll(
    monkeypatch: Any,
) -> None:
    """The thread that polls may itself be waiting for the one that stops."""
    monkeypatch.setattr("simple_ws.server.server._STOP_GRACE", 0.01)
    with (
        polling(Recorder(), close_timeout=0.01) as server,
        polled_peer(server) as peer,
    ):
        stopper = threading.Thread(target=server.stop, kwargs={"drain": 0})
        stopper.start()
        ends(stopper)  # and nobody polls meanwhile
        while server.poll(0.01):
            pass
        assert peer.read_close() == (1001, "the server stops")
        assert server.poll() is False


def test_two_threads_stop_a_polled_server() -> None:
    with polling(Recorder()) as server:
        stoppers = [
            threading.Thread(target=server.stop, kwargs={"drain": 0}) for _ in range(2)
        ]
        for stopper in stoppers:
            stopper.start()
        server.stop(drain=0)
        ends(*stoppers)
        assert server.poll() is False


# --- fileno --------------------------------------------------------------------------


def test_descriptor_is_readable_when_there_is_something_to_do() -> None:
    server = Server("127.0.0.1", 0)
    handler = server.mount("*", Echo())
    descriptor = server.fileno()
    try:
        assert server.port  # it listens: the first to ask binds
        assert server.poll() is True
        assert server.fileno() == descriptor

        def readable(timeout: float = DEADLINE) -> bool:
            return bool(select.select([descriptor], [], [], timeout)[0])

        while readable(0):
            server.poll()
        sock = socket.create_connection(("127.0.0.1", server.port))
        peer = Peer(sock, lambda: server.poll(0.01))
        assert readable()
        peer.shake()
        while readable(0):
            server.poll()
        peer.text("x")
        assert readable()
        assert peer.read_message() == "x"
        while readable(0):
            server.poll()
        thread = threading.Thread(target=lambda: server.broadcast("y"))
        thread.start()
        assert readable()
        ends(thread)
        assert peer.read_message() == "y"
        peer.leave()
        assert handler.names[-1] == "close"
    finally:
        server.stop(drain=0)


def test_server_can_be_driven_by_its_descriptor_alone() -> None:
    server = Server("127.0.0.1", 0)
    server.mount("*", Echo())
    watched = select.poll() if hasattr(select, "poll") else None
    if watched is None:
        pytest.skip("no poll() here")
    watched.register(server.fileno(), select.POLLIN)

    def pump() -> None:
        if watched.poll(1000):
            server.poll()

    server.poll()
    try:
        sock = socket.create_connection(("127.0.0.1", server.port))
        with Peer(sock, pump) as peer:
            peer.shake()
            for number in range(20):
                peer.text(str(number))
                assert peer.read_message() == str(number)
    finally:
        server.stop(drain=0)


def test_stopped_server_is_not_bound_again_for_its_descriptor() -> None:
    with polling(Recorder()) as server:
        server.stop(drain=0)
        with pytest.raises(InvalidState, match="the server has stopped"):
            server.fileno()
        with pytest.raises(ConnectionRefusedError):
            connect(server)
        server.listen()
        assert server.fileno() >= 0


# --- Several servers -----------------------------------------------------------------


def test_two_servers_are_polled_in_turn_by_one_thread() -> None:
    with (
        polling(Echo()) as first,
        polling(Echo()) as second,
        polled_peer(first, second) as one,
        polled_peer(second, first) as two,
    ):
        for number in range(10):
            one.text(f"one {number}")
            two.text(f"two {number}")
            assert two.read_message() == f"two {number}"
            assert one.read_message() == f"one {number}"
        # Both act at once, as it is the thread of both.
        assert (first.broadcast("a"), second.broadcast("b")) == (1, 1)
        assert (one.read_message(), two.read_message()) == ("a", "b")
        first.stop(drain=0)
        assert first.poll() is False
        two.text("still here")
        assert two.read_message() == "still here"


def test_callback_may_use_poll_and_stop_another_server() -> None:
    other = Server("127.0.0.1", 0)
    heard = other.mount("*", Recorder())

    class Boss(Recorder):
        def on_message(self, msg: Any, client: Any) -> Any:
            if msg == "poll":
                return str(other.poll())
            if msg == "broadcast":
                return str(other.broadcast("x"))
            other.stop(drain=0)
            return str(other.poll())

    with polling(Boss()) as server, polled_peer(server) as peer:
        for text in ("poll", "broadcast", "stop"):
            peer.text(text)
        answers = [peer.read_message() for _ in range(3)]
        assert answers == ["True", "0", "False"]
        assert heard.events == []


def test_servers_in_threads_relay_to_each_other() -> None:
    class Relay(Recorder):
        to: Any = None

        def on_message(self, msg: Any, client: Any) -> None:
            self.to.broadcast(msg)

    first, second = Relay(), Relay()
    with running(first) as one, running(second) as two:
        first.to, second.to = two, one
        with open_peer(one) as ann, open_peer(two) as bob:
            second.client()
            for number in range(50):
                ann.text(f"a{number}")
                bob.text(f"b{number}")
            assert [ann.read_message() for _ in range(50)] == [
                f"b{number}" for number in range(50)
            ]
            assert [bob.read_message() for _ in range(50)] == [
                f"a{number}" for number in range(50)
            ]


# --- Denying new connections ---------------------------------------------------------


def refusal(driven: Driven, path: str = "/") -> tuple[int, str, str]:
    peer = driven.join()
    peer.write(request(path))
    head, _, body = peer.read_rest().decode().partition("\r\n\r\n")
    return int(head.split()[1]), head, body


def test_new_connections_are_denied_and_those_who_are_in_stay() -> None:
    with Driven(Echo()) as driven:
        peer = driven.open()
        driven.server.deny_new_connections()
        status, head, body = refusal(driven)
        assert (status, body) == (503, "No new connections at the moment.\n")
        seconds = int(head.split("Retry-After: ")[1].split()[0])
        assert 1 <= seconds <= 60
        assert driven.handler.names == ["open"]
        peer.text("still here")
        assert peer.read_message() == "still here"
        driven.server.allow_new_connections()
        driven.server.allow_new_connections()
        driven.open()
        assert driven.handler.names == ["open", "message", "open"]


@pytest.mark.parametrize(
    ("status", "later"), [(503, True), (429, True), (403, False), (400, False)]
)
def test_status_and_reason_of_the_denial_are_what_was_given(
    status: int, later: bool
) -> None:
    with Driven() as driven:
        driven.server.deny_new_connections(status, "Café closed")
        got, head, body = refusal(driven)
        assert (got, body) == (status, "Café closed\n")
        assert ("Retry-After" in head) is later
        driven.server.deny_new_connections(reason="Again")
        assert refusal(driven)[::2] == (503, "Again\n")


def test_path_that_is_unknown_stays_unknown_while_new_connections_are_denied() -> None:
    with Driven() as driven:
        driven.server._router._rest = None
        driven.server.mount("/known", Recorder())
        driven.server.deny_new_connections()
        assert refusal(driven, "/known")[0] == 503
        assert refusal(driven, "/unknown")[0] == 404


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("503",), TypeError, "status must be an int, not '503'"),
        ((True,), TypeError, "status must be an int, not True"),
        ((503.0,), TypeError, "status must be an int"),
        ((200,), ValueError, "status must be from 400 to 599, not 200"),
        ((399,), ValueError, "not 399"),
        ((600,), ValueError, "not 600"),
        ((503, None), TypeError, "reason must be a str, not None"),
        ((503, b"no"), TypeError, "reason must be a str, not b'no'"),
    ],
)
def test_denial_refuses_wrong_arguments(
    arguments: tuple[Any, ...], error: type[Exception], words: str
) -> None:
    server = Server()
    with pytest.raises(error, match=words):
        server.deny_new_connections(*arguments)
    assert server._denied is None


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1013, 3000, 4999])
@pytest.mark.parametrize("late", [False, True])
def test_new_connections_may_be_denied_with_a_close_code(code: int, late: bool) -> None:
    handler = Echo()
    if late:
        handler.on_open = in_thread(handler.on_open)  # type: ignore[method-assign]
    with Driven(handler) as driven:
        inside = driven.open()
        driven.server.deny_new_connections(code, "Café closed")
        peer = driven.open("/", "Sec-WebSocket-Protocol: chat, other")
        assert b"Sec-WebSocket-Protocol: chat" in peer.head.splitlines()
        assert peer.read_close() == (code, "Café closed")
        peer.write(close_frame(code))
        assert peer.read_rest() == b""
        driven.until(lambda: len(driven.server.clients) == 1)
        driven.until(lambda: handler.names == ["open"])  # of those who are in
        inside.text("still here")
        assert inside.read_message() == "still here"
        driven.server.deny_new_connections(403)
        assert refusal(driven)[0] == 403
        driven.server.allow_new_connections()
        driven.open()


def test_limits_hold_for_those_who_are_denied_with_a_close_code() -> None:
    with Driven(max_connections=1) as driven:
        driven.server.deny_new_connections(4000)
        first = driven.open()
        assert refusal(driven)[0] == 503
        assert first.read_close() == (4000, "No new connections at the moment.")


@pytest.mark.parametrize("code", [600, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_denial_has_no_code_that_must_not_be_sent(code: int) -> None:
    server = Server()
    with pytest.raises(ValueError, match=str(code)):
        server.deny_new_connections(code)
    with pytest.raises(ValueError, match="123 bytes"):
        server.deny_new_connections(4000, "x" * 124)
    assert server._denied is None


def test_denial_may_be_set_before_the_server_runs_and_by_any_thread() -> None:
    server = Server("127.0.0.1", 0)
    server.mount("*", Recorder())
    server.deny_new_connections(429)
    server.start()
    try:
        with connect(server) as peer:
            peer.write(request())
            assert peer.read_rest().startswith(b"HTTP/1.1 429 ")
        server.allow_new_connections()
        open_peer(server).leave()
    finally:
        server.stop(drain=0)


# --- Restarting ----------------------------------------------------------------------


def test_server_runs_again_on_its_port_with_what_it_was_given() -> None:
    with running() as free:
        port = free.port
    server = Server("127.0.0.1", port)
    handler = server.mount("/chat/{room}", Echo())
    ticks = threading.Event()
    server.every(0.001, ticks.set)
    for round_ in range(1, 4):
        server.start()
        assert server.port == port
        with open_peer(server, "/chat/tea") as peer:
            client = handler.client(round_ - 1)
            client.subscribe("t")
            client.bind("me")
            peer.text("x")
            assert peer.read_message() == "x"
            ticks.clear()
            assert ticks.wait(DEADLINE)
            server.stop(drain=0)
        assert (server.count("t"), server.online()) == (0, [])
        assert len(handler.of("close")) == round_


def test_ways_of_running_may_alternate() -> None:
    server = Server("127.0.0.1", 0)
    server.mount("*", Echo())
    for _ in range(2):
        server.start()
        open_peer(server).leave()
        server.stop(drain=0)
        server.listen()
        assert server.poll() is True
        with polled_peer(server) as peer:
            peer.leave()
        server.stop(drain=0)
        assert server.poll() is False
        server.call_later(0.001, lambda: server.stop(drain=0))
        server.run()


def test_stop_before_and_after_everything_does_nothing() -> None:
    server = Server("127.0.0.1", 0)
    for _ in range(2):
        server.stop()
        server.stop(drain=0)
        server.listen()
        server.stop()
        server.start()
        server.stop(drain=0)


def test_server_that_listens_takes_calls_of_any_thread_before_it_runs() -> None:
    server = Server("127.0.0.1", 0)
    server.mount("*", Recorder())
    server.start()
    server.stop(drain=0)
    server.listen()
    called = threading.Event()
    threads = [
        threading.Thread(target=call)
        for call in (
            lambda: server.broadcast("x"),
            lambda: server.call_later(0, called.set),
            lambda: server.deliver("t", "x"),
        )
    ]
    for thread in threads:
        thread.start()
    ends(*threads)
    assert not called.is_set()
    server.start()
    try:
        assert called.wait(DEADLINE)
        open_peer(server).leave()
    finally:
        server.stop(drain=0)


def test_stop_ends_although_threads_never_cease_to_send() -> None:
    server = Server("127.0.0.1", 0)
    handler = server.mount("*", Recorder())
    done = threading.Event()

    def send() -> None:
        while not done.is_set():
            server.broadcast("x")
            server.publish("t", "y")
            if len(server.reactor._calls) > 1000:
                done.wait(0.001)  # nearly as fast as it can be done

    for _ in range(3):
        server.start()
        done.clear()
        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        peers = [open_peer(server) for _ in range(3)]
        server.stop(drain=0)
        done.set()
        ends(*threads)
        for peer in peers:
            peer.close()
        assert not server.clients
    assert len(handler.of("close")) == len(handler.of("open")) == 9


def test_exit_in_on_close_does_not_keep_a_server_from_ending() -> None:
    class Quitter(Recorder):
        def on_close(self, client: Any) -> None:
            super().on_close(client)
            raise SystemExit(3)

    server = Server("127.0.0.1", 0)
    handler = server.mount("*", Quitter())
    codes: list[object] = []

    def run() -> None:
        try:
            server.run()
        except SystemExit as error:
            codes.append(error.code)

    server.listen()
    thread = threading.Thread(target=run)
    thread.start()
    with open_peer(server):
        server.stop(drain=0)
    ends(thread)
    assert codes == [3]
    assert handler.names == ["open", "close"]
    server.start()
    server.stop(drain=0)


def test_server_that_is_stopping_is_not_told_to_listen() -> None:
    errors: list[BaseException] = []

    class Quitter(Recorder):
        def on_message(self, msg: Any, client: Any) -> None:
            raise SystemExit  # nothing is left to do but to tell of the ends

        def on_close(self, client: Any) -> None:
            for call in (server.listen, server.start, server.run):
                try:
                    call()
                except InvalidState as error:
                    errors.append(error)

    with polling(Quitter()) as server, polled_peer(server) as peer:
        peer.text("x")
        with pytest.raises(SystemExit):
            poll_until(server, lambda: False)
        server._tear_down()
    assert len(errors) == 3


# --- A hand-over: what has begun is finished -----------------------------------------


def test_stop_answers_the_backlog_and_handshakes_that_were_half_read() -> None:
    server = Server("127.0.0.1", 0)
    handler = server.mount("*", Echo())
    server.listen()
    half = connect(server)
    half.write(request()[:20])
    server.poll()
    poll_until(server, lambda: len(server._incoming) == 1)
    # Nobody turns meanwhile: these wait in the backlog, the last one in silence.
    waiting = [connect(server) for _ in range(5)]
    for peer in waiting[:4]:
        peer.write(request())
    server.call_later(0, server.stop)
    server.poll()
    peers = [half, *waiting]
    half.write(request()[20:])
    waiting[4].write(request())
    for peer in peers:
        peer._pump = lambda: server.poll(0.01)
        assert peer.read_head().startswith(b"HTTP/1.1 101 ")
        assert peer.read_close() == (1001, "the server stops")
        peer.write(close_frame(1001))
        assert peer.read_rest() == b""
        peer.close()
    poll_until(server, lambda: not server.poll())
    assert len(handler.of("close")) == 6


def test_stop_answers_pages_of_the_backlog_and_keeps_no_connection() -> None:
    server = Server("127.0.0.1", 0)
    server.http("/page")(lambda request: "page")
    server.listen()
    server.poll()
    peer = connect(server)
    peer.write(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n")
    server.call_later(0, server.stop)
    server.poll()
    peer._pump = lambda: server.poll(0.01)
    assert peer.read_head().startswith(b"HTTP/1.1 200 ")
    assert peer.read_rest() == b"page"
    peer.close()
    poll_until(server, lambda: not server.poll())


def test_stop_leaves_the_backlog_of_a_shared_socket_to_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as shared:
        server = Server()
        server.mount("*", Echo())
        server.listen([shared.dup()])
        server.poll()
        with socket.create_connection(shared.getsockname()):
            server.stop()
            shared.settimeout(DEADLINE)
            shared.accept()[0].close()
