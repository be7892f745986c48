"""`simple_ws.live.connect` against real servers: scripts that lose their connection."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE
from live_peer import allow
from programs import Program
from proxy import Proxy
from redis_server import redis_server
from tls_harness import client_side, server_side

from simple_ws import (
    AuthenticationError,
    ConnectionClosed,
    HandshakeRefused,
    InvalidState,
    InvalidURI,
    Server,
)
from simple_ws.client.backoff import Backoff
from simple_ws.errors import ConnectTimeout
from simple_ws.live import (
    Connected,
    LiveConnection,
    LiveError,
    Message,
    Publication,
    connect,
)

#: Short waits: the tests are about what comes after them.
FAST = Backoff(first=0.02, longest=0.2)


class World:
    """A server, and clients of it."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.port = 0

    def start(self, engine: str | None = None, **options: Any) -> Server:
        """Serve, on the same port each time."""
        given = {} if engine is None else {"engine": engine}
        server = Server("127.0.0.1", self.port, presence_grace=0, **given)
        server.topic("room:*", history=100, presence=True)
        options.setdefault("authorize", allow)
        self.live = server.live("/live", **options)
        self.server = server
        server.start()
        self.stack.callback(server.stop, drain=0)
        self.port = server.port
        return server

    def url(self, port: int | None = None) -> str:
        return f"ws://127.0.0.1:{port or self.port}/live/websocket"

    def client(self, port: int | None = None, **options: Any) -> LiveConnection:
        options = {"backoff": FAST, "timeout": DEADLINE} | options
        return self.stack.enter_context(connect(self.url(port), **options))


@pytest.fixture
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


def data_of(room: Any, count: int) -> list[Any]:
    return [room.recv(DEADLINE).data for _ in range(count)]


class Waiting:
    """A function that a test has called, and waits for."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._changed = threading.Condition()

    def __call__(self, *args: Any) -> None:
        with self._changed:
            self.calls.append(args)
            self._changed.notify_all()

    def until(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE), self.calls


def test_what_a_script_does(world: World) -> None:
    def on_connect(client: Any, request: Any) -> Connected:
        return Connected(user=request.token, data=request.data, topics=["news"])

    heard = Waiting()
    world.start(on_connect=on_connect, on_send=lambda client, data: heard(data))

    @world.live.method
    def add(client: Any, data: Any) -> Any:
        return sum(data)

    live = world.client(token="ann", data={"x": 1})
    assert live.state == "connected"
    assert live.data == {"x": 1}
    assert live.client_id
    room = live.subscribe("room:7", recover=True)
    assert room.state == "subscribed"
    room.publish({"text": "hello"})
    live.publish("room:7", [2])
    first, second = room.recv(DEADLINE), room.recv(DEADLINE)
    assert (first.topic, first.data) == ("room:7", {"text": "hello"})
    assert second.data == [2]
    assert live.rpc("add", [1, 2]) == 3
    page = room.history()
    assert [each.data for each in page.publications] == [{"text": "hello"}, [2]]
    assert page.position.offset == 2
    assert [each.data for each in room.history(1, reverse=True).publications] == [[2]]
    assert len(room.history(since=first.position).publications) == 1
    (member,) = room.presence().values()
    assert member.user == "ann"
    assert live.presence_stats("room:7") == (1, 1)
    live.send({"to": "the server"})
    heard.until(lambda: heard.calls == [({"to": "the server"},)])
    world.server.publish("news", "by the server")
    assert live.recv(DEADLINE) == Publication("news", "by the server")
    world.server.send_to("ann", {"to": "you"})
    assert live.recv(DEADLINE) == Message({"to": "you"})


def test_errors(world: World) -> None:
    world.start(authorize=lambda client, action, topic: topic != "secret")

    @world.live.method
    def fail(client: Any, data: Any) -> Any:
        raise LiveError(400, "it does not work")

    live = world.client()
    with pytest.raises(LiveError, match="permission denied") as caught:
        live.subscribe("secret")
    assert caught.value.code == 103
    for call in (
        lambda: live.publish("secret", 1),
        lambda: live.history("secret"),
        lambda: live.presence("secret"),
    ):
        with pytest.raises(LiveError) as caught:
            call()
        assert caught.value.code == 103
    with pytest.raises(LiveError, match="does not work") as caught:
        live.rpc("fail")
    assert caught.value.code == 400
    assert live.enqueue("secret", 1).exception(DEADLINE) is not None
    with pytest.raises(TypeError):
        live.publish("room:1", object())
    with pytest.raises(TypeError):
        live.publish(5, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty"):
        live.subscribe("")
    with pytest.raises(ValueError, match="since"):
        live.subscribe("room:1", since=("e", -1))
    room = live.subscribe("room:1")
    with pytest.raises(InvalidState, match="already"):
        live.subscribe("room:1")
    room.unsubscribe()
    with pytest.raises(InvalidState, match="ended"):
        room.recv()
    assert list(room) == []
    assert live.subscribe("room:1").state == "subscribed"
    with pytest.raises(TimeoutError):
        live.recv(0)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": 0}, ValueError),
        ({"backoff": 5}, TypeError),
        ({"token": 5}, TypeError),
        ({"get_token": "x"}, TypeError),
        ({"max_queue": 0}, ValueError),
        ({"max_outbox": "x"}, TypeError),
        ({"ping_delay": -1}, ValueError),
        ({"no_such_option": 1}, TypeError),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception]) -> None:
    before = threading.active_count()
    with pytest.raises(error):
        connect("ws://127.0.0.1:9/", **options)
    with pytest.raises(InvalidURI):
        connect("ftp://127.0.0.1:9/")
    assert threading.active_count() <= before


class TestConnect:
    def test_server_that_refuses(self, world: World) -> None:
        world.start(on_connect=lambda client, request: False)
        with pytest.raises(LiveError) as caught:
            world.client(token="wrong")
        assert caught.value.code == 101

    def test_nothing_at_that_path(self, world: World) -> None:
        world.start()
        with pytest.raises(HandshakeRefused) as caught:
            connect(f"ws://127.0.0.1:{world.port}/other", timeout=DEADLINE)
        assert caught.value.status == 404

    def test_nobody_is_there(self, world: World) -> None:
        world.start()
        world.server.stop()
        with pytest.raises(
            ConnectTimeout, match=r"not connected within 0\.2 s; .* refused"
        ):
            world.client(timeout=0.2)

    def test_it_waits_for_a_server(self, world: World) -> None:
        world.start()
        world.server.stop()
        with ThreadPoolExecutor(1) as pool:
            client = pool.submit(world.client)
            world.start()
            assert client.result(DEADLINE).state == "connected"

    def test_token_function(self, world: World) -> None:
        world.start(on_connect=lambda client, request: request.token == "right")
        tokens = iter([OSError("no network"), "right"])

        def get_token() -> str:
            token = next(tokens)
            if isinstance(token, Exception):
                raise token
            return token

        assert world.client(get_token=get_token).state == "connected"

    def test_token_function_that_refuses(self, world: World) -> None:
        world.start()

        def get_token() -> str:
            raise AuthenticationError("not for you")

        with pytest.raises(AuthenticationError, match="not for you"):
            world.client(get_token=get_token)


class TestLosses:
    def test_what_is_missed_is_recovered_in_order(self, world: World) -> None:
        world.start()
        with Proxy(world.port) as proxy:
            live = world.client(port_of(proxy))
            room = live.subscribe("room:1", recover=True)
            sent, got = [], []
            for number in range(50):
                world.server.publish("room:1", {"n": number})
                sent.append({"n": number})
                if number % 10 == 9:
                    proxy.cut()
                    got += data_of(room, len(sent) - len(got))
            got += data_of(room, len(sent) - len(got))
            assert got == sent
            assert room.gaps == 0

    def test_proxy_that_cuts_frames_in_the_middle(self, world: World) -> None:
        world.start()
        with Proxy(world.port) as proxy:
            live = world.client(port_of(proxy))
            room = live.subscribe("room:1", recover=True)
            got = []
            for number in range(30):
                proxy.cut_after(7 * number + 30)
                world.server.publish("room:1", {"n": number, "x": 100 * "x"})
                got += data_of(room, 1)
            assert [each["n"] for each in got] == list(range(30))
            assert room.gaps == 0

    def test_more_than_is_kept_is_told(self, world: World) -> None:
        told = Waiting()
        world.start()
        with Proxy(world.port) as proxy:
            live = world.client(port_of(proxy))
            room = live.subscribe("room:1", recover=True, on_gap=told)
            world.server.publish("room:1", "first")
            assert data_of(room, 1) == ["first"]
            proxy.hold()
            proxy.cut()
            for number in range(300):
                world.server.publish("room:1", str(number))
            proxy.release()
            told.until(lambda: bool(told.calls))
            assert room.gaps == 1
            live.publish("room:1", "next")
            publication = room.recv(DEADLINE)
            assert (publication.data, publication.gap) == ("next", True)
            live.publish("room:1", "one more")
            assert room.recv(DEADLINE).gap is False

    def test_server_that_restarts_has_lost_its_history(self, world: World) -> None:
        states, told = Waiting(), Waiting()
        world.start()
        live = world.client(on_state=lambda state, error: states(state))
        room = live.subscribe("room:1", recover=True, on_gap=told)
        world.server.publish("room:1", "before")
        world.server.stop()
        states.until(lambda: ("connecting",) in states.calls)
        waiting = live.enqueue("room:1", "from the outbox")
        world.start()
        told.until(lambda: bool(told.calls))
        assert waiting.result(DEADLINE) is None
        assert data_of(room, 2) == ["before", "from the outbox"]
        assert [each for (each,) in states.calls] == [
            "connected",
            "connecting",
            "connected",
        ]

    def test_engine_that_stays_has_it(self, world: World) -> None:
        engine = world.stack.enter_context(redis_server())
        world.start(f"redis://127.0.0.1:{engine.port}")
        live = world.client()
        room = live.subscribe("room:1", recover=True)
        room.publish("before")
        world.server.stop()
        waiting = room.enqueue("while it is away")
        world.start(f"redis://127.0.0.1:{engine.port}")
        waiting.result(DEADLINE)
        room.publish("after")
        assert data_of(room, 3) == ["before", "while it is away", "after"]
        assert room.gaps == 0

    def test_a_program_that_goes_on_where_it_ended(self, world: World) -> None:
        world.start()
        with world.client() as first:
            room = first.subscribe("room:1", recover=True)
            room.publish("read")
            position = room.recv(DEADLINE).position
            room.publish("not read")
        world.server.publish("room:1", "missed")
        room = world.client().subscribe("room:1", since=position)
        assert data_of(room, 2) == ["not read", "missed"]
        assert room.gaps == 0

    def test_publication_without_an_answer_is_stored_once(self, world: World) -> None:
        """The connection is lost after the server has got it, before the answer."""
        world.start()
        with Proxy(world.port) as proxy:
            live = world.client(port_of(proxy))
            reader = world.client().subscribe("room:1")
            for number in range(10):
                proxy.cut_after(0)
                live.publish("room:1", {"n": number})
            world.server.publish("room:1", "end")
            got = data_of(reader, 11)
            assert got == [*({"n": number} for number in range(10)), "end"]

    def test_call_without_an_answer_is_not_called_again(self, world: World) -> None:
        world.start()
        called = Waiting()
        world.live.method("call")(lambda client, data: called())
        with Proxy(world.port) as proxy:
            live = world.client(port_of(proxy))
            proxy.cut_after(0)
            with pytest.raises(ConnectionClosed):
                live.rpc("call")
            live.rpc("call")
            assert len(called.calls) == 2

    def test_silent_network(self, world: World) -> None:
        states = Waiting()
        world.start(heartbeat=1, heartbeat_timeout=0.5)
        with Proxy(world.port) as proxy:
            live = world.client(
                port_of(proxy),
                ping_delay=0.1,
                on_state=lambda state, error: states(state),
            )
            room = live.subscribe("room:1", recover=True)
            proxy.detain()
            states.until(lambda: states.calls[-1] == ("connecting",))
            world.server.publish("room:1", "missed")
            assert data_of(room, 1) == ["missed"]


SERVER = """
import sys
from simple_ws import Server
server = Server("127.0.0.1", {port}, engine={engine!r})
server.topic("room:*", history=1000)
server.live("/live", authorize=lambda client, action, topic: True)
server.listen()
print("port", server.port, flush=True)
server.run()
"""


@pytest.mark.one_backend
def test_server_that_is_killed_and_started_again(world: World) -> None:
    """What was published and acknowledged is shown once and in order."""
    engine = world.stack.enter_context(redis_server())
    port, sent, got = 0, [], []
    live = room = None
    for round_ in range(2):
        source = SERVER.format(port=port, engine=f"redis://127.0.0.1:{engine.port}")
        with Program(source) as program:
            port = program.port
            if live is None or room is None:
                live = world.client(port)
                room = live.subscribe("room:1", recover=True)
            for number in range(20):
                room.publish([round_, number])
                sent.append([round_, number])
            got += data_of(room, 10)
            program.process.kill()
            futures = [room.enqueue([round_, "away", each]) for each in range(5)]
            sent += [[round_, "away", each] for each in range(5)]
        assert not all(each.done() for each in futures)
    assert room is not None
    source = SERVER.format(port=port, engine=f"redis://127.0.0.1:{engine.port}")
    with Program(source):
        for future in futures:
            future.result(DEADLINE)
        got += data_of(room, len(sent) - len(got))
    assert got == sent
    assert room.gaps == 0


@pytest.mark.one_backend
def test_it_goes_on_at_another_node(world: World) -> None:
    engine = world.stack.enter_context(redis_server())
    servers = []
    for _ in range(2):
        world.port = 0
        servers.append(world.start(f"redis://127.0.0.1:{engine.port}"))
    urls = cycle([world.url(server.port) for server in servers])
    options = {"backoff": FAST, "timeout": DEADLINE}
    live = world.stack.enter_context(connect(lambda: next(urls), **options))
    room = live.subscribe("room:1", recover=True)
    sent, got = [], []
    for number in range(40):
        sent.append(number)
        if number % 3:
            servers[number % 2].publish("room:1", str(number))
        else:
            room.publish(str(number))
        if number % 10 == 9:
            for server in servers:
                for connection in server.clients:
                    connection.terminate()
    got = data_of(room, 40)
    assert sorted(got, key=int) == [str(number) for number in sent]
    assert got == [each.data for each in room.history().publications]
    assert room.gaps == 0


def port_of(proxy: Proxy) -> int:
    return int(proxy.url.rpartition(":")[2])


@pytest.mark.parametrize("kind", ["tls", "unix"])
def test_it_takes_the_options_of_connect(
    kind: str, tmp_path: Path, stack: ExitStack
) -> None:
    given: dict[str, Any]
    if kind == "tls":
        server = Server("127.0.0.1", 0, ssl=server_side())
        given = {"ssl": client_side()}
    else:
        given = {"unix": str(tmp_path / "s")}
        server = Server(**given)
    server.topic("room:*", history=2000)
    server.live("/live", authorize=allow)
    server.start()
    stack.callback(server.stop, drain=0)
    secure = f"wss://localhost:{server.port}" if kind == "tls" else "ws://localhost"
    url = f"{secure}/live/websocket"
    live = stack.enter_context(connect(url, backoff=FAST, timeout=DEADLINE, **given))
    room = live.subscribe("room:1", recover=True)
    texts = [str(number) + 500 * "x" for number in range(1000)]
    for text in texts:
        server.publish("room:1", text)
    for connection in server.clients:
        connection.terminate()
    server.publish("room:1", "end")
    assert data_of(room, 1001) == [*texts, "end"]


class TestBuffers:
    def test_who_does_not_read_gets_it_later(self, world: World) -> None:
        world.start()
        live = world.client(max_queue=10)
        room = live.subscribe("room:1", recover=True)
        for number in range(90):
            live.publish("room:1", number)
        assert len(room.publications) < 30
        assert data_of(room, 90) == list(range(90))
        assert (room.gaps, room.lost) == (0, 0)
        live.publish("room:1", "next")
        assert data_of(room, 1) == ["next"]

    def test_without_history_the_oldest_are_dropped(self, world: World) -> None:
        world.start()
        live = world.client()
        for recover in False, True:
            room = live.subscribe("hall", max_queue=10, recover=recover)
            for number in range(50):
                live.publish("hall", number)
            first = room.recv(DEADLINE)
            assert (first.data, first.gap) == (40, True)
            assert data_of(room, 9) == list(range(41, 50))
            assert room.lost == 40
            room.unsubscribe()

    def test_events_that_nobody_reads(self, world: World) -> None:
        world.start(on_connect=lambda client, request: Connected(topics=["news"]))
        live = world.client(max_queue=3)
        for number in range(10):
            live.publish("news", number)
        event = live.recv(DEADLINE)
        assert isinstance(event, Publication)
        assert (event.data, event.gap) == (7, True)
        assert live.lost == 7

    def test_outbox_is_bounded(self, world: World) -> None:
        states = Waiting()
        world.start()
        live = world.client(max_outbox=5, on_state=lambda state, error: states(state))
        world.server.stop()
        states.until(lambda: states.calls[-1] == ("connecting",))
        futures = [live.enqueue("room:1", number) for number in range(7)]
        for future in futures[5:]:
            with pytest.raises(InvalidState, match="max_outbox"):
                future.result(DEADLINE)
        world.start()
        for future in futures[:5]:
            future.result(DEADLINE)
        found = live.history("room:1").publications
        assert [each.data for each in found] == list(range(5))

    def test_more_than_the_server_takes_at_once(self, world: World) -> None:
        world.start(command_rate=(200, 20))
        live = world.client()
        futures = [live.enqueue("room:1", number) for number in range(60)]
        live.flush()
        for future in futures:
            future.result(0)
        found = live.history("room:1").publications
        assert [each.data for each in found] == list(range(60))


class TestThreads:
    def test_close_wakes_all_who_wait(self, world: World) -> None:
        world.start()
        live = world.client()
        room = live.subscribe("room:1")
        with ThreadPoolExecutor(4) as pool:
            iterating = pool.submit(lambda: list(room))
            events = pool.submit(lambda: list(live))
            receiving = pool.submit(room.recv)
            world.server.publish("room:1", "x")
            live.close()
            assert len(iterating.result(DEADLINE)) <= 1
            assert events.result(DEADLINE) == []
            if receiving.exception(DEADLINE) is not None:
                with pytest.raises(ConnectionClosed):
                    receiving.result()
        for call in (
            lambda: live.publish("room:1", 1),
            lambda: live.rpc("x"),
            lambda: live.subscribe("room:2"),
            lambda: live.recv(),
            lambda: room.history(),
        ):
            with pytest.raises(ConnectionClosed):
                call()
        assert isinstance(live.enqueue("x", 1).exception(0), ConnectionClosed)
        live.close()

    def test_many_threads_call(self, world: World) -> None:
        world.start()
        world.live.method("echo")(lambda client, data: data)
        live = world.client()

        def work(number: int) -> list[Any]:
            return [live.rpc("echo", [number, each]) for each in range(20)]

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(work, range(8)))
        assert results == [
            [[number, each] for each in range(20)] for number in range(8)
        ]

    def test_callback_must_not_wait(self, world: World) -> None:
        errors = Waiting()
        world.start()

        def on_state(state: str, error: Exception | None) -> None:
            if live is not None:
                try:
                    live.rpc("x")
                except InvalidState as refusal:
                    errors(refusal)
                live.enqueue("room:1", "from the callback")

        live: LiveConnection | None = None
        live = world.client(on_state=on_state)
        room = live.subscribe("room:1", recover=True)
        for connection in world.server.clients:
            connection.terminate()
        assert data_of(room, 1) == ["from the callback"]
        errors.until(lambda: bool(errors.calls))

    def test_callback_may_close(self, world: World) -> None:
        world.start()
        holder: list[LiveConnection] = []
        live = world.client(
            on_state=lambda state, error: [each.close() for each in holder]
        )
        holder.append(live)
        room = live.subscribe("room:1")
        for connection in world.server.clients:
            connection.terminate()
        assert list(room) == []
        assert live.state == "closed"

    def test_disconnected_for_good(self, world: World) -> None:
        world.start()
        live = world.client()
        room = live.subscribe("room:1")
        for connection in world.server.clients:
            connection.close(3501, "bad request")
        with pytest.raises(ConnectionClosed) as caught:
            list(room)
        assert (caught.value.code, caught.value.reason) == (3501, "bad request")
        with pytest.raises(ConnectionClosed):
            live.rpc("x")

    def test_leaving_with_waits_for_the_outbox(self, world: World) -> None:
        world.start()
        with world.client() as live:
            futures = [live.enqueue("room:1", number) for number in range(50)]
        for future in futures:
            assert future.result(0) is None

    def test_nothing_is_left_of_it(self, world: World) -> None:
        world.start()
        world.client().close()
        live = world.client()
        assert live._driver._thread.is_alive()  # type: ignore[attr-defined]
        live.close()
        assert not live._driver._thread.is_alive()  # type: ignore[attr-defined]


SCRIPT = """
import os, signal, sys, threading
from simple_ws.live import connect
from simple_ws import InvalidState
with connect({url!r}) as live:
    room = live.subscribe("room:1")
{body}
"""


def run_script(world: World, body: str) -> Program:
    text = "\n".join(f"    {line}" for line in body.splitlines())
    source = SCRIPT.format(url=world.url(), body=text)
    return world.stack.enter_context(Program(source))


@pytest.mark.one_backend
def test_keyboard_interrupt(world: World) -> None:
    world.start()
    body = """
print("ready", flush=True)
try:
    for publication in room:
        print(publication.data, flush=True)
except KeyboardInterrupt:
    print("interrupted", live.state, flush=True)
    raise SystemExit(7)
"""
    program = run_script(world, body)
    program.wait_for("ready")
    world.server.publish("room:1", "first")
    program.wait_for("first")
    assert program.end(signal.SIGINT) == 7
    program.wait_for("interrupted connected")


@pytest.mark.one_backend
def test_signal_handler_may_call(world: World) -> None:
    world.start()
    world.live.method("echo")(lambda client, data: data)
    body = """
signal.signal(signal.SIGUSR1, lambda *_: print(live.rpc("echo", "hi"), flush=True))
print("ready", flush=True)
print(room.recv().data, flush=True)
"""
    program = run_script(world, body)
    program.wait_for("ready")
    program.send(signal.SIGUSR1)
    program.wait_for("hi")
    world.server.publish("room:1", "end")
    program.wait_for("end")
    assert program.wait() == 0


@pytest.mark.one_backend
def test_forked_process_is_refused(world: World) -> None:
    world.start()
    body = """
sys.stdout.flush()
if os.fork() == 0:
    for call in (live.close, room.unsubscribe, lambda: live.rpc("x"), room.recv):
        try:
            call()
        except InvalidState as error:
            print("refused", flush=True)
    os._exit(0)
os.wait()
room.publish("still there")
print(room.recv(10).data, flush=True)
"""
    program = run_script(world, body)
    program.wait_for("still there")
    assert len(program.found("refused")) == 4
    assert program.wait() == 0
