"""`Server`: running and stopping, routes, topics, identities, signals."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import (
    DEADLINE,
    TEXT,
    Clock,
    Driven,
    Echo,
    Peer,
    Recorder,
    close_frame,
    connect,
    frame,
    open_files,
    open_peer,
    running,
    small_buffers,
)

import simple_ws
from simple_ws import Client, InvalidState, Server, WebSocket

# --- Running and stopping ------------------------------------------------------------


def test_server_runs_stops_and_runs_again() -> None:
    server = Server("127.0.0.1", 0)
    handler = server.mount("*", Echo())
    for round_ in range(1, 4):
        server.start()
        with open_peer(server) as peer:
            peer.text("hi")
            assert peer.read_message() == "hi"
            server.stop(drain=0)
        assert len(handler.of("close")) == round_
        assert len(server.clients) == 0


def test_port_can_be_listened_on_again_at_once() -> None:
    with running(Echo()) as server, open_peer(server) as peer:
        port = server.port
        server.stop(drain=0)  # we close first, and are left in TIME_WAIT
        assert peer.read_close()[0] == 1001
        again = Server("127.0.0.1", port)
        again.listen()
        again.stop()


def test_server_that_runs_cannot_be_started_again() -> None:
    with running() as server:
        with pytest.raises(InvalidState, match="runs already"):
            server.start()
        with pytest.raises(InvalidState, match="runs already"):
            server.run()
        with pytest.raises(InvalidState, match="listens already"):
            server.listen()


def test_stop_of_a_server_that_does_not_run_does_nothing() -> None:
    server = Server("127.0.0.1", 0)
    server.stop()
    server.listen()
    port = server.port
    server.stop()
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)


def test_server_that_never_ran_holds_no_descriptor() -> None:
    before = open_files()
    servers = [Server("127.0.0.1", 0) for _ in range(10)]
    assert open_files() == before
    assert servers


def test_stopped_server_holds_no_descriptor() -> None:
    before = open_files()
    with running(Echo()) as server:
        for _ in range(5):
            open_peer(server).leave()
        with open_peer(server):
            server.stop(drain=0)
    assert open_files() == before


def test_port_in_use_is_told_by_start_and_run_and_they_can_be_tried_again() -> None:
    with running() as taken:
        server = Server("127.0.0.1", taken.port)
        for method in (server.start, server.run, server.listen):
            with pytest.raises(OSError, match=f"127.0.0.1:{taken.port}"):
                method()
    server.start()
    server.stop()


def test_several_servers_run_in_one_process() -> None:
    with running(Echo()) as first, running(Echo()) as second:
        for server in (first, second):
            with open_peer(server) as peer:
                peer.text(str(server.port))
                assert peer.read_message() == str(server.port)
        assert first.port != second.port


@pytest.mark.parametrize("place", ["on_open", "on_message", "on_close"])
def test_stop_from_a_callback_returns_at_once_and_ends_the_server(place: str) -> None:
    server = Server("127.0.0.1", 0)
    handler = server.mount("*", Recorder())
    returned = threading.Event()

    def stop(*args: object) -> None:
        server.stop(drain=0.05)
        returned.set()

    setattr(handler, place, stop)
    thread = threading.Thread(target=server.run)
    server.listen()
    thread.start()
    with open_peer(server) as peer:
        peer.text("x")
        if place == "on_close":
            peer.write(close_frame(1000))
        thread.join(DEADLINE)
        assert not thread.is_alive()
        assert returned.is_set()


def test_stop_from_several_threads_at_once_returns_in_each() -> None:
    for _ in range(20):
        with running(Echo()) as server, open_peer(server):
            threads = [
                threading.Thread(target=server.stop, kwargs={"drain": 0})
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE)
                assert not thread.is_alive()
        # No word of the old end may reach the new beginning.
        server.start()
        open_peer(server).leave()
        server.stop(drain=0)


def test_stop_tells_everybody_and_waits_for_their_answers() -> None:
    handler = Recorder()
    server = Server("127.0.0.1", 0)
    server.mount("*", handler)
    server.start()
    peers = [open_peer(server) for _ in range(5)]
    stopper = threading.Thread(target=server.stop, kwargs={"drain": DEADLINE})
    stopper.start()
    for peer in peers:
        assert peer.read_close() == (1001, "the server stops")
    assert stopper.is_alive()
    for peer in peers:
        peer.write(close_frame(1001))
        assert peer.read_rest() == b""
        peer.close()
    stopper.join(DEADLINE)
    assert not stopper.is_alive()
    assert handler.of("close") == [(1001, "the server stops", "shutdown")] * 5


def test_stop_flushes_what_was_accepted() -> None:
    handler = Recorder(max_frame_size=None, write_limit=2**24)
    with running(handler) as server, open_peer(server) as peer:
        client = handler.client()
        client.write_message("x" * 5_000_000)
        stopper = threading.Thread(target=server.stop, kwargs={"drain": DEADLINE})
        stopper.start()
        assert peer.read_message() == "x" * 5_000_000
        assert peer.leave(1001) == (1001, "the server stops")
        stopper.join(DEADLINE)
        assert not stopper.is_alive()


def test_stop_cuts_those_who_do_not_answer_after_drain() -> None:
    with Driven() as driven:
        peer = driven.open(wrap=small_buffers)
        driven.handler.client().write_message(b"x" * 2**19)
        driven.stop_begins(3.0)
        driven.advance(2.9)
        assert driven.running
        driven.advance(0.2)
        assert not driven.running
        driven.tear_down()
        assert driven.handler.of("close") == [(1001, "the server stops", "shutdown")]
        with pytest.raises(AssertionError, match="ended"):
            peer.read_message()


def test_log_says_how_it_stopped(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "simple_ws")
    with Driven() as driven:
        peers = [driven.open() for _ in range(3)]
        driven.stop_begins(3.0)
        driven.turn()
        peers[0].write(close_frame(1001))
        driven.advance(1.0)
        driven.advance(2.5)
        driven.tear_down()
    lines = [line for line in caplog.messages if line.startswith("stopped")]
    assert lines == ["stopped in 3.5 s: 3 clients were told (1001), 2 of them cut"]


def test_drain_zero_still_tells_everybody() -> None:
    with running(Recorder()) as server, open_peer(server) as peer:
        server.stop(drain=0)
        assert peer.read_close() == (1001, "the server stops")


class Ticking(Clock):
    """A clock that moves by a millisecond whenever it is read."""

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.mark.parametrize("drain", [0.0, 60.0])
def test_stop_with_many_clients_leaves_turns_to_others(drain: float) -> None:
    with Driven(ping=False, close_timeout=60) as driven:
        peers = [driven.open() for _ in range(60)]
        driven.clock.__class__ = Ticking  # a turn has no time for more than a few now
        driven.reactor.call_soon(lambda: driven.stop_begins(drain))
        left = [60]
        while left[-1]:
            driven.turn()
            left.append(sum(client.is_open() for client in driven.server.clients))
        assert max(before - after for before, after in itertools.pairwise(left)) <= 4
        driven.clock.__class__ = Clock
        for peer in peers:
            assert peer.read_close() == (1001, "the server stops")


def farewells(count: int, drain: float) -> dict[float, int]:
    """When how many were sent away, in seconds since a stop began."""
    sent: dict[float, int] = {}
    with Driven(ping=False) as driven:
        peers = [driven.open() for _ in range(count)]
        began, left = driven.clock.now, count
        driven.stop_begins(drain)
        while left:
            driven.turn()
            now = sum(client.is_open() for client in driven.server.clients)
            if now < left:
                sent[driven.clock.now - began] = left - now
            left = now
            driven.clock.now += 0.01
        for peer in peers:
            assert peer.read_close() == (1001, "the server stops")
            peer.close()
    return sent


def test_few_are_sent_away_at_once() -> None:
    assert farewells(150, drain=30.0) == {0.0: 150}


def test_crowd_is_sent_away_in_parts_at_random_times() -> None:
    sent = farewells(400, drain=30.0)
    assert list(sent.values()) == [100] * 4
    times = list(sent)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len({round(pause, 2) for pause in pauses}) > 1
    # Two fifths of what a thousand would be given, which is half of the time.
    assert max(times) < 0.75 * 0.4 * 30.0


def test_nobody_is_accepted_while_the_server_stops() -> None:
    handler = Recorder()
    with running(handler) as server, open_peer(server) as peer:
        with connect(server) as late:
            stopper = threading.Thread(target=server.stop, kwargs={"drain": DEADLINE})
            stopper.start()
            assert peer.read_close()[0] == 1001
            late.shake()  # it had connected before, and is told to go
            assert late.read_close()[0] == 1001
            late.write(close_frame(1001))
            with pytest.raises(ConnectionRefusedError):
                connect(server)
        peer.write(close_frame(1001))
        peer.close()
        stopper.join(DEADLINE)
    assert sorted(handler.names) == ["close", "close", "open", "open"]


@pytest.mark.parametrize(
    ("drain", "error"),
    [
        ("5", TypeError),
        (True, TypeError),
        (-1, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (10**400, ValueError),
    ],
)
def test_wrong_drain_is_refused_at_once(drain: Any, error: type[Exception]) -> None:
    with running() as server, pytest.raises(error, match="drain must be"):
        server.stop(drain)


def test_what_is_asked_of_a_stopped_server_does_not_pile_up() -> None:
    with running(Echo()) as server:
        pass
    for _ in range(100):
        assert server.broadcast("nobody") == 0
        assert server.publish("topic", "nobody") == 0
    assert len(server.reactor._calls) == 0


def test_exit_from_a_callback_ends_the_server_and_tells_on_close() -> None:
    class Quitter(Recorder):
        def on_message(self, msg: Any, client: Client) -> None:
            raise SystemExit(3)

    server = Server("127.0.0.1", 0)
    handler = server.mount("*", Quitter())
    server.listen()
    codes: list[object] = []

    def run() -> None:
        try:
            server.run()
        except SystemExit as error:
            codes.append(error.code)

    thread = threading.Thread(target=run)
    thread.start()
    with open_peer(server) as peer:
        peer.text("x")
        thread.join(DEADLINE)
    assert codes == [3]
    assert handler.of("close") == [(1006, "the server stopped", "shutdown")]


# --- Construction --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "options", "error", "words"),
    [
        ((8080,), {}, TypeError, "host must be a str, not 8080"),
        (("", "8080"), {}, TypeError, "port must be an int, not '8080'"),
        (("", True), {}, TypeError, "port must be an int, not True"),
        (("", -1), {}, ValueError, "port must be from 0 to 65535, not -1"),
        (("", 65536), {}, ValueError, "not 65536"),
        ((), {"max_sise": 1}, TypeError, "unknown option 'max_sise'"),
        ((), {"max_size": -1}, ValueError, "max_size must be at least 0 bytes"),
        ((), {"slow_consumer": "wait"}, ValueError, "'wait'"),
    ],
)
def test_wrong_arguments_are_refused_with_their_name(
    args: tuple[Any, ...], options: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Server(*args, **options)


def test_mount_takes_an_instance_and_returns_it() -> None:
    server = Server()
    handler = WebSocket()
    assert server.mount("/x", handler) is handler
    assert handler.server is server
    for wrong in (WebSocket, object(), None, lambda msg, client: msg):
        with pytest.raises(TypeError, match="instance of WebSocket"):
            server.mount("/y", wrong)  # type: ignore[type-var]


def test_handler_belongs_to_one_server() -> None:
    handler = Server().mount("*", WebSocket())
    other = Server()
    with pytest.raises(InvalidState, match="another server"):
        other.mount("/", handler)
    assert other._router.find("/") is None


def test_handler_may_stand_behind_several_paths() -> None:
    with Driven() as driven:
        driven.server.mount("/also", driven.handler)
        driven.open("/")
        driven.open("/also")
        assert [client.path for client in driven.handler.clients] == ["/", "/also"]


def test_exact_paths_come_before_parameters_and_those_before_the_rest() -> None:
    with Driven() as driven:
        exact, room = Recorder(), Recorder()
        driven.server.mount("/chat/{room}", room)
        driven.server.mount("/chat/lobby", exact)
        driven.open("/chat/lobby?x=1")
        driven.open("/chat/caf%C3%A9")
        driven.open("/chat/a/b")
        assert exact.client().params == {}
        assert room.client().params == {"room": "caf\u00e9"}
        assert driven.handler.client().path == "/chat/a/b"
        assert len(driven.server.clients) == 3


def test_options_of_the_server_stand_behind_those_of_the_handler() -> None:
    handler = Recorder(max_size=10)
    with Driven(handler, max_size=20, max_frame_size=30) as driven:
        other = driven.server.mount("/other", Recorder())
        assert (handler.max_size, handler.max_frame_size) == (10, 30)
        assert other.max_size == 20
        for path, size in (("/", 10), ("/other", 20)):
            driven.open(path).send(TEXT, "x" * size)
            peer = driven.open(path)
            peer.send(TEXT, "x" * (size + 1))
            assert peer.read_close()[0] == 1009


def test_short_deadlines_of_a_handler_are_kept_as_well() -> None:
    with Driven(Recorder(ping_interval=0.1)) as driven:
        peer = driven.open()
        driven.advance(0.15)
        assert peer.read_frame()[0] == 0x89


# --- Topics, identities, broadcast ---------------------------------------------------


def test_publish_reaches_subscribers_only_and_counts_them() -> None:
    with Driven() as driven:
        server = driven.server
        peers = [driven.open() for _ in range(4)]
        clients = list(server.clients)
        for client in clients[:3]:
            server.subscribe("news", client)
        clients[3].subscribe("other")
        assert server.count("news") == 3
        assert server.members("news") == clients[:3]
        assert server.publish("news", "a") == 3
        assert server.publish("news", "b", exclude=[clients[0]]) == 2
        server.unsubscribe("news", clients[1])
        assert server.publish("news", {"c": 1}) == 2
        assert server.publish("unknown", "d") == 0
        assert peers[0].read_message() == "a"
        assert peers[0].read_message() == '{"c":1}'
        assert [peers[1].read_message() for _ in range(2)] == ["a", "b"]
        assert [peers[2].read_message() for _ in range(3)] == ["a", "b", '{"c":1}']
        assert peers[3].nothing_waits()


def test_subscription_ends_with_the_connection() -> None:
    with Driven() as driven:
        peer = driven.open()
        client = driven.handler.client()
        client.subscribe("news")
        client.subscribe("more")
        peer.leave()
        driven.turn()
        assert driven.server.count("news") == driven.server.count("more") == 0
        client.subscribe("news")  # too late
        assert driven.server.count("news") == 0
        assert driven.server.publish("news", "x") == 0


def test_subscribing_twice_receives_once() -> None:
    with Driven() as driven:
        peer = driven.open()
        client = driven.handler.client()
        client.subscribe("news")
        client.subscribe("news", priority=3)
        assert driven.server.publish("news", "x") == 1
        assert peer.read_message() == "x"
        client.unsubscribe("news")
        client.unsubscribe("news")
        assert peer.nothing_waits()


@pytest.mark.parametrize("topic", [5, None, b"bytes"])
def test_topic_must_be_a_str(topic: Any) -> None:
    with Driven() as driven:
        driven.open()
        client = driven.handler.client()
        for call in (
            lambda: client.subscribe(topic),
            lambda: client.unsubscribe(topic),
            lambda: client.publish(topic, "x"),
            lambda: driven.server.publish(topic, "x"),
        ):
            with pytest.raises(TypeError, match="topic must be a str"):
                call()


def test_identity_may_have_several_connections() -> None:
    with Driven() as driven:
        server = driven.server
        peers = [driven.open() for _ in range(3)]
        first, second, third = server.clients
        first.bind("user-7")
        second.bind("user-7")
        third.bind("user-8")
        assert first.client_id == "user-7"
        assert sorted(server.online()) == ["user-7", "user-8"]
        assert server.send_to("user-7", "hi") == 2
        assert server.send_to("nobody", "hi") == 0
        assert (peers[0].read_message(), peers[1].read_message()) == ("hi", "hi")
        assert peers[2].nothing_waits()
        peers[0].leave()
        driven.turn()
        assert server.is_online("user-7")
        peers[1].leave()
        driven.turn()
        assert not server.is_online("user-7")
        assert server.online() == ["user-8"]


def test_binding_again_ends_the_earlier_identity() -> None:
    with Driven() as driven:
        driven.open()
        client = driven.handler.client()
        client.bind("old")
        client.bind("new")
        assert driven.server.online() == ["new"]
        client.bind(None)
        assert driven.server.online() == []
        with pytest.raises(TypeError):
            client.bind(["unhashable"])


def test_broadcast_reaches_the_clients_of_all_handlers() -> None:
    with Driven() as driven:
        driven.server.mount("/other", Recorder())
        peers = [driven.open("/"), driven.open("/other")]
        assert driven.server.broadcast(b"x") == 2
        assert [peer.read_message() for peer in peers] == [b"x", b"x"]
        (first, _) = driven.server.clients
        assert driven.server.broadcast("y", exclude={first}) == 1


def test_broadcast_does_not_count_those_who_did_not_take_it() -> None:
    with Driven(slow_consumer="drop_new", write_limit=2**16) as driven:
        driven.open(wrap=small_buffers)
        driven.open()
        slow = driven.handler.client()
        slow.write_message(b"x" * 2**18)
        driven.turn()
        assert driven.server.broadcast(b"y" * 2**15) == 1


# --- Processes and signals -----------------------------------------------------------

PROGRAM = """
import sys, time
from simple_ws import Server, WebSocket

class Handler(WebSocket):
    def on_message(self, msg, client):
        if msg == "hang":
            client.write_message("hanging")
            client._flush()
            while True:
                time.sleep(60)
        return msg

    def on_close(self, client):
        print("closed", client.close_code, client.close_cause, flush=True)

server = Server("127.0.0.1", int(sys.argv[1]), close_timeout=float(sys.argv[2]))
server.mount("*", Handler())
server.listen()
print(server.port, flush=True)
server.run()
print("returned", flush=True)
"""


class Process:
    """A server in a process of its own."""

    def __init__(self, port: int, close_timeout: float) -> None:
        package = Path(simple_ws.__file__).parent.parent
        self.popen = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(port), str(close_timeout)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(package)},
        )
        assert self.popen.stdout is not None
        self.port = int(self.popen.stdout.readline())

    def end(self) -> tuple[int, str, str]:
        """Exit code, output and errors, once it has ended."""
        out, err = self.popen.communicate(timeout=DEADLINE)
        return self.popen.returncode, out, err


@contextmanager
def process(port: int = 0, close_timeout: float = DEADLINE) -> Iterator[Process]:
    process = Process(port, close_timeout)
    try:
        yield process
    finally:
        process.popen.kill()
        process.popen.communicate()


def visit(process: Process) -> Peer:
    sock = socket.create_connection(("127.0.0.1", process.port), timeout=DEADLINE)
    return Peer(sock).shake()


posix = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_closes_with_1001_and_returns(number: int) -> None:
    with process() as server, visit(server) as first, visit(server) as second:
        server.popen.send_signal(number)
        for peer in (first, second):
            assert peer.read_close() == (1001, "the server stops")
            peer.write(close_frame(1001))
            assert peer.read_rest() == b""
            peer.close()
        code, out, err = server.end()
        assert code == 0
        assert out.split("\n")[:3] == ["closed 1001 shutdown"] * 2 + ["returned"]
        assert err == ""


@posix
def test_second_signal_ends_at_once() -> None:
    with process() as server, visit(server) as peer:
        server.popen.send_signal(signal.SIGTERM)
        assert peer.read_close()[0] == 1001
        server.popen.send_signal(signal.SIGTERM)
        code, out, err = server.end()
        assert (code, err) == (0, "")
        assert "returned" in out


@posix
def test_signal_ends_a_server_without_clients_at_once() -> None:
    with process() as server:
        visit(server).leave()
        server.popen.send_signal(signal.SIGTERM)
        code, out, err = server.end()
        assert (code, err) == (0, "")
        assert out == "closed 1000 peer\nreturned\n"


@posix
def test_third_signal_ends_a_callback_that_hangs() -> None:
    with process() as server, visit(server) as peer:
        peer.text("hang")
        assert peer.read_message() == "hanging"
        assert server.popen.stderr is not None
        # Each signal must be taken before the next one, or they are one.
        while server.popen.poll() is None:
            server.popen.send_signal(signal.SIGINT)
            try:
                server.popen.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        code, _, err = server.end()
        assert code != 0
        assert "KeyboardInterrupt" in err


@posix
def test_killed_server_can_be_started_again_on_its_port_at_once() -> None:
    with process() as server, visit(server) as peer:
        peer.text("x")
        assert peer.read_message() == "x"
        server.popen.kill()
        server.popen.wait(DEADLINE)
        with process(server.port) as again, visit(again) as other:
            other.text("y")
            assert other.read_message() == "y"


@posix
def test_run_gives_the_signal_handlers_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    during: list[Any] = []
    server = Server("127.0.0.1", 0)
    handler = server.mount("*", Recorder())
    handler.on_open = lambda client: (  # type: ignore[method-assign]
        during.append(signal.getsignal(signal.SIGTERM)),
        server.stop(drain=0),
    )
    server.listen()

    def visit_once() -> None:
        with open_peer(server) as peer:
            peer.read_close()

    visitor = threading.Thread(target=visit_once)
    visitor.start()
    server.run()
    visitor.join(DEADLINE)
    assert during != [before[0]]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_reset_over_tcp_ends_with_cause_reset_and_nobody_else_notices() -> None:
    handler = Echo()
    with running(handler) as server, open_peer(server) as bystander:
        for number in range(1, 6):
            open_peer(server).reset()
            code, reason, cause = handler.wait_for("close", number)
            assert (code, cause) == (1006, "reset")
            assert reason == os.strerror(errno.ECONNRESET)
        bystander.text("still here")
        assert bystander.read_message() == "still here"


def test_first_frame_is_served_right_after_start() -> None:
    with running(Echo()) as server, connect(server) as peer:
        peer.shake(then=frame(TEXT, "at once"))
        assert peer.read_message() == "at once"


def test_fault_of_ours_ends_one_connection_and_not_the_server(
    monkeypatch: Any, caplog: Any
) -> None:
    with Driven(Echo()) as driven:
        victim, other = driven.open(), driven.open()

        def fault(*args: Any) -> int:
            raise RuntimeError("a bug of ours")

        monkeypatch.setattr(Client, "_receive_slow_path", fault)
        victim.send(0x9)  # a ping takes the readable path
        driven.turn(2)
        monkeypatch.undo()
        assert "internal error" in caplog.text
        other.text("still here")
        assert other.read_message() == "still here"
        assert len(driven.server.clients) == 1


def test_stop_returns_as_soon_as_the_last_peer_has_answered() -> None:
    """Not after `close_timeout`, here longer than any test takes."""
    with running(Recorder(), close_timeout=300, ping=False) as server:
        with open_peer(server) as peer:
            stopping = threading.Thread(target=server.stop)
            stopping.start()
            assert peer.read_close() == (1001, "the server stops")
            peer.write(close_frame(1001))
            assert peer.read_rest() == b""
        stopping.join(5)  # the loop looks around after 6 s at the earliest
        assert not stopping.is_alive()
