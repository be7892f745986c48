"""A coroutine per connection: `on_connect`, and the methods of `AsyncClient`."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import Callable, Coroutine
from contextlib import closing, suppress
from typing import Any

import pytest
from attached import Attached, Make, NewLoop
from harness import BINARY, CLOSE, PING, PONG, TEXT, Peer, close_frame, frame

from simple_ws import (
    AsyncClient,
    Client,
    ConnectionClosed,
    InvalidState,
    Middleware,
    Server,
    WebSocket,
)
from simple_ws.handlers.ready_made import FirstMessageAuth, JSONMessages

Function = Callable[[Any], Coroutine[Any, Any, Any]]


class Owning(WebSocket):
    """Each connection belongs to a coroutine; notes what becomes of it."""

    def __init__(self, function: Function, **options: Any) -> None:
        super().__init__(**options)
        self.function = function
        self.notes: list[Any] = []

    async def on_connect(self, client: Any) -> None:
        try:
            await self.function(client)
            self.notes.append("returned")
        except BaseException as error:
            self.notes.append(type(error).__name__)
            raise

    def on_close(self, client: Any) -> None:
        self.notes.append(("close", client.close_code))

    def on_error(self, error: Exception, client: Any) -> None:
        self.notes.append(error)
        super().on_error(error, client)


async def echo(client: Any) -> None:
    async for msg in client:
        await client.send(msg)


def owned(
    attached: Make, function: Function, **options: Any
) -> tuple[Attached, Owning, Peer]:
    handler = Owning(function)
    server = attached(handler, **options)
    return server, handler, server.open()


def leave(server: Attached, peer: Peer, code: int = 1000) -> None:
    peer.write(close_frame(code))
    peer.read_close()
    peer.close()
    server.turn(5)


# Receiving


def test_messages_are_received_in_order_and_answered(attached: Make) -> None:
    server, handler, peer = owned(attached, echo)
    texts = [str(number) for number in range(500)]
    peer.write(b"".join(frame(TEXT, text) for text in texts))
    assert [peer.read_message() for _ in texts] == texts
    peer.send(BINARY, b"data")
    assert peer.read_message() == b"data"
    leave(server, peer)
    assert handler.notes == ["returned", ("close", 1000)]


def test_function_of_a_route_owns_connections(attached: Make) -> None:
    server = attached()

    @server.server.route("/rooms/{name}", max_size=9)
    async def serve(client: Any) -> None:
        await client.send(client.params["name"])
        await client.send(await client.recv())

    peer = server.open("/rooms/den")
    assert peer.read_message() == "den"
    peer.text("a")
    assert peer.read_message() == "a"
    assert peer.read_close() == (1000, "")
    peer = server.open("/rooms/den", then=frame(TEXT, "more than nine"))
    assert peer.read_close()[0] == 1009


def test_all_that_arrived_is_received_before_the_end_is_told(attached: Make) -> None:
    gate = asyncio.Event()
    received: list[Any] = []

    async def receive(client: Any) -> None:
        received.append(await client.recv())
        await gate.wait()
        try:
            while True:
                received.append(await client.recv())
        except ConnectionClosed as error:
            received.append((error.code, error.reason, error.cause))
            with pytest.raises(ConnectionClosed):
                await client.send("more")
            with pytest.raises(ConnectionClosed):
                await client.ping()
            raise

    server, handler, peer = owned(attached, receive)
    for text in ("a", "b", "c"):
        peer.text(text)
    leave(server, peer, 1000)
    assert received == ["a"]
    assert handler.notes == [], "on_close follows the coroutine"
    gate.set()
    server.until(lambda: len(handler.notes) > 1)
    assert received == ["a", "b", "c", (1000, "", "peer")]
    assert handler.notes == ["ConnectionClosedOK", ("close", 1000)], "it is no error"


@pytest.mark.parametrize("code", [1000, 1001, 1005, 4000, 1006])
def test_iteration_ends_quietly_or_says_why(attached: Make, code: int) -> None:
    server, handler, peer = owned(attached, echo)
    peer.text("a")
    assert peer.read_message() == "a"
    if code == 1006:
        peer.close()
    else:
        peer.write(frame(CLOSE) if code == 1005 else close_frame(code))
    server.until(lambda: len(handler.notes) > 1)
    how = "ConnectionClosedError" if code in (4000, 1006) else "returned"
    assert handler.notes == [how, ("close", code)]


def test_wait_for_a_message_may_be_limited(attached: Make) -> None:
    async def receive(client: Any) -> None:
        with pytest.raises(TimeoutError, match=r"no message within 0\.001 s"):
            await client.recv(timeout=0.001)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await client.recv()
        with pytest.raises(ValueError, match="timeout"):
            await client.recv(timeout=-1)
        await client.send("now")
        await client.send(await client.recv(timeout=60))
        await client.send(await client.recv())

    _, _, peer = owned(attached, receive)
    assert peer.read_message() == "now"
    peer.text("a")
    assert peer.read_message() == "a"
    peer.text("b")
    assert peer.read_message() == "b"
    assert peer.read_close()[0] == 1000


def test_cancelled_receiver_loses_no_message(attached: Make) -> None:
    async def receive(client: Any) -> None:
        receiving = asyncio.create_task(client.recv())
        await asyncio.sleep(0)
        with pytest.raises(InvalidState, match="another task is receiving"):
            await client.recv()
        client._inbox.put("a")  # it arrives in the turn in which the task is cancelled
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        await client.send(await client.recv())

    _, _, peer = owned(attached, receive)
    assert peer.read_message() == "a"


def test_input_is_bounded_and_none_is_lost(attached: Make) -> None:
    gate = asyncio.Event()
    inboxes: list[Any] = []

    async def receive(client: Any) -> None:
        inboxes.append(client._inbox)
        await gate.wait()
        await echo(client)

    server, _, peer = owned(attached, receive)
    server.until(lambda: inboxes)
    (inbox,) = inboxes
    texts = [f"{number:04}" * 25 for number in range(3000)]
    data = memoryview(b"".join(frame(TEXT, text) for text in texts))
    while True:
        try:
            data = data[peer.sock.send(data) :]
        except BlockingIOError:
            if len(inbox.messages) >= 128:
                break
        server.turn()
    server.turn(20)
    assert 128 <= len(inbox.messages) < 256
    assert server.server.reactor.buffered_input >= inbox._buffered_input > 0
    gate.set()
    for text in texts:
        with suppress(BlockingIOError):
            data = data[peer.sock.send(data) :]
        assert peer.read_message() == text
    server.turn(5)
    assert not inbox._buffered_input


def test_waiting_input_counts_for_the_limit_of_all(attached: Make) -> None:
    async def wait(client: Any) -> None:
        await client.wait_closed()

    server, _, peer = owned(attached, wait, max_buffered_input=20_000)
    for _ in range(5):
        peer.text("a" * 5000)
        server.turn(2)
    assert peer.read_close()[0] == 1013
    assert server.server.reactor.buffered_input < 20_000


# Sending


def test_reader_is_never_disconnected_however_much_is_sent(attached: Make) -> None:
    sent: list[int] = []

    async def send(client: Any) -> None:
        for number in range(100):
            await client.send(b"x" * 60_000)
            sent.append(number)
        await client.send(b"y" * 300_000)

    server, _, peer = owned(attached, send, write_limit=100_000, max_buffered=200_000)
    server.turn(20)
    assert 0 < len(sent) < 100, "it does not wait"
    for _ in range(100):
        assert len(peer.read_message()) == 60_000
    assert len(peer.read_message()) == 300_000
    assert peer.read_close()[0] == 1000


def test_many_may_send_at_once(attached: Make) -> None:
    async def send(client: Any) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(client.send(bytes([number]) * 50_000))

    _, _, peer = owned(attached, send, write_limit=100_000)
    messages = [peer.read_message() for _ in range(50)]
    assert sorted(message[0] for message in messages) == list(range(50))
    assert peer.read_close()[0] == 1000


def test_sender_learns_that_the_client_has_left(attached: Make) -> None:
    async def send(client: Any) -> None:
        while True:
            await client.send(b"x" * 60_000)

    server, handler, peer = owned(attached, send)
    server.turn(20)
    assert handler.notes == []
    peer.close()
    server.until(lambda: len(handler.notes) > 1)
    assert handler.notes == ["ConnectionClosedError", ("close", 1006)]


def test_sending_lets_others_run(attached: Make) -> None:
    async def send(client: Any) -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(tick())
        for _ in range(1000):
            await client.send("a")
        task.cancel()
        await client.send(f"{ticks > 10}")

    _, _, peer = owned(attached, send)
    assert [peer.read_message() for _ in range(1001)][-1] == "True"


def test_wrong_messages_are_refused_where_they_are_sent(attached: Make) -> None:
    async def send(client: Any) -> None:
        with pytest.raises(TypeError):
            await client.send(5)
        with pytest.raises(ValueError, match="utf-8"):
            await client.send(b"\xff", binary=False)
        await client.send({"a": 1})
        await client.send("b", binary=True)

    _, _, peer = owned(attached, send)
    assert peer.read_message() == '{"a":1}'
    assert peer.read_message() == b"b"


def test_callbacks_may_wait_until_output_was_taken(attached: Make) -> None:
    done: list[Any] = []

    class Sending(WebSocket):
        async def on_message(self, msg: Any, client: Any) -> None:
            for _ in range(20):
                client.write_message(b"x" * 100_000)
                await client.drain()
            done.append(client.buffered_amount)

    server = attached(Sending(), write_limit=150_000)
    peer = server.open(then=frame(TEXT, "a"))
    server.turn(20)
    assert not done
    for _ in range(20):
        assert len(peer.read_message()) == 100_000
    server.until(lambda: done)
    assert done == [0]
    peer = server.open(then=frame(TEXT, "a"))
    server.turn(20)
    peer.close()
    server.until(lambda: len(done) == 2)
    assert not server.server._drains._waiting


def test_drain_belongs_to_the_loop(attached: Make) -> None:
    async def drain(client: Any) -> None:
        await client.drain()  # nothing waits
        with pytest.raises(InvalidState, match="asyncio loop"):
            await asyncio.to_thread(lambda: client.drain().send(None))

    server, handler, peer = owned(attached, drain)
    server.until(lambda: handler.notes)
    assert peer.read_close()[0] == 1000


# Pings, and the end


def test_ping_returns_how_long_its_pong_took(attached: Make) -> None:
    latencies: list[float] = []

    async def ping(client: Any) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.ping(name)) for name in ("a", "b", "c")]
        latencies.extend(task.result() for task in tasks)
        with pytest.raises(TimeoutError, match=r"no pong within 0\.001 s"):
            await client.ping(timeout=0.001)
        with pytest.raises(ValueError, match="125"):
            await client.ping(b"x" * 126)
        twice = asyncio.create_task(client.ping("same"))
        await asyncio.sleep(0)
        with pytest.raises(InvalidState, match="same"):
            await client.ping("same")
        with pytest.raises(ConnectionClosed):
            await twice

    server, handler, peer = owned(attached, ping, ping=False)
    assert [peer.read_frame()[1] for _ in range(3)] == [b"a", b"b", b"c"]
    server.clock.now += 2
    peer.send(PONG, b"b")  # it answers the first as well (RFC 6455 §5.5.3)
    (client,) = handler.clients
    server.until(lambda: len(client._inbox.answers) == 1)
    server.clock.now += 1
    peer.send(PONG, b"c")
    first, payload = peer.read_frame()
    assert first & 0x0F == PING
    assert payload
    assert latencies == [2, 2, 3]
    assert peer.read_frame()[1] == b"same"
    leave(server, peer)
    assert handler.notes == ["returned", ("close", 1000)]


def test_pongs_reach_it_beside_those_of_the_heartbeat(attached: Make) -> None:
    async def ping(client: Any) -> None:
        for number in range(3):
            await client.send(f"{number} {await client.ping()}")

    server, _, peer = owned(attached, ping, ping_interval=5)
    (client,) = server.server.clients
    for number in range(3):
        asked = peer.read_frame()[1]
        server.clock.now += 6
        server.advance(0)
        first, beat = peer.read_frame()
        assert first & 0x0F == PING, "the heartbeat asks as well"
        if number < 2:  # a peer may answer the last one only (RFC 6455 §5.5.3)
            peer.send(PONG, asked)
            assert peer.read_message() == f"{number} {6.0}"
        # Read before time goes on: later it would be a later sign of life.
        wanted = client.bytes_received + len(frame(PONG, beat))
        peer.send(PONG, beat)
        server.until(lambda wanted=wanted: client.bytes_received >= wanted)
    assert peer.read_message() == "2 6.0"
    assert peer.read_close()[0] == 1000


def test_end_may_be_waited_for(attached: Make) -> None:
    async def wait(client: Any) -> None:
        assert client.close(4000, "bye")
        assert not client.close()
        await client.close()
        await client.wait_closed()
        assert not client.is_open()

    server, handler, peer = owned(attached, wait)
    assert peer.read_close() == (4000, "bye")
    assert handler.notes == []
    peer.write(close_frame(4000))
    server.until(lambda: len(handler.notes) > 1)
    assert handler.notes == ["returned", ("close", 4000)]


def test_exception_is_told_and_closes_the_connection(
    attached: Make, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(client: Any) -> None:
        await client.recv()
        raise ZeroDivisionError("one over none")

    server, handler, peer = owned(attached, fail)
    peer.text("a")
    assert peer.read_close()[0] == 1011
    peer.write(close_frame(1011))
    server.until(lambda: len(handler.notes) > 2)
    assert handler.notes[0] == "ZeroDivisionError"
    assert isinstance(handler.notes[1], ZeroDivisionError)
    assert handler.notes[2] == ("close", 1011)
    assert caplog.text.count("ZeroDivisionError: one over none") == 1


@pytest.mark.parametrize("kind", ["left", "other", "both"])
def test_groups_of_exceptions_are_errors_unless_the_client_has_left(
    attached: Make, kind: str
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def receive(client: Any) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(client.recv())
            group.create_task(client.wait_closed())
            if kind != "left":
                group.create_task(fail())

    server, handler, peer = owned(attached, receive)
    if kind == "other":
        assert peer.read_close()[0] == 1011
    else:
        server.turn(5) if kind == "left" else None
        peer.close()
    server.until(lambda: len(handler.notes) > 1)
    errors = [note for note in handler.notes if isinstance(note, ExceptionGroup)]
    assert len(errors) == (kind != "left")


def test_closed_connection_of_another_is_an_error(attached: Make) -> None:
    async def fail(client: Any) -> None:
        raise ConnectionClosed(1000, "of another connection", "peer")  # type: ignore[arg-type]

    _, handler, peer = owned(attached, fail)
    assert peer.read_close()[0] == 1011
    assert any(isinstance(note, ConnectionClosed) for note in handler.notes)


# Leaving


def test_coroutine_that_receives_nothing_is_cancelled(attached: Make) -> None:
    async def push(client: Any) -> None:
        await asyncio.Event().wait()

    server, handler, peer = owned(attached, push)
    server.turn(3)
    leave(server, peer)
    assert handler.notes == ["CancelledError", ("close", 1000)]


def test_coroutine_at_work_has_time_to_end(attached: Make) -> None:
    gates: list[asyncio.Event] = []

    async def work(client: Any) -> None:
        async for _ in client:
            gates.append(asyncio.Event())
            await gates[-1].wait()

    server, handler, peer = owned(attached, work, close_timeout=10)
    peer.text("a")
    server.until(lambda: gates)
    leave(server, peer)
    server.advance(9)
    assert handler.notes == []
    gates[0].set()
    server.turn(5)
    assert handler.notes == ["returned", ("close", 1000)]
    del handler.notes[:]
    peer = server.open(then=frame(TEXT, "a"))
    server.until(lambda: len(gates) == 2)
    leave(server, peer)
    server.advance(11)
    server.turn(5)
    assert handler.notes == ["CancelledError", ("close", 1000)]


def test_cancelled_coroutine_may_clean_up(attached: Make) -> None:
    async def push(client: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            handler.notes.append("cleaned")

    server, handler, peer = owned(attached, push)
    server.turn(3)
    leave(server, peer)
    assert handler.notes == ["cleaned", "CancelledError", ("close", 1000)]


def test_server_that_stops_ends_all_coroutines(attached: Make) -> None:
    gate = asyncio.Event()

    async def either(client: Any) -> None:
        if client.path == "/receives":
            await echo(client)
        elif client.path == "/ignores":
            try:
                await asyncio.Event().wait()
            finally:
                while not gate.is_set():
                    with suppress(asyncio.CancelledError):
                        await gate.wait()
        else:
            await asyncio.Event().wait()

    server, handler, first = owned(attached, either, close_timeout=5)
    paths = ("/receives", "/receives", "/ignores")
    peers = [first, *(server.open(path) for path in paths)]
    server.turn(5)
    server.server._begin_stop(10)
    try:
        for peer in peers[:2]:
            assert peer.read_close()[0] == 1001
            peer.write(close_frame(1001))
            peer.close()
        server.until(lambda: len(handler.notes) > 3)
        assert sorted(map(str, handler.notes)) == [
            *("('close', 1001)", "('close', 1001)", "CancelledError", "returned")
        ]
        assert server.server._running
        server.advance(10)  # the others do not answer: they are cut
        server.until(lambda: len(handler.notes) > 5)
        assert handler.notes[4:] == ["CancelledError", ("close", 1001)]
        assert server.server._running
        server.advance(5)
        server.until(lambda: not server.server._running)
        server.until(lambda: len(handler.notes) > 6)
        assert handler.notes[6] == ("close", 1001), "on_close waits for nobody for ever"
    finally:
        gate.set()
        server.turn(5)


def count_clients() -> int:
    return sum(type(each) is AsyncClient for each in gc.get_objects())


def test_nothing_is_left_of_a_coroutine(attached: Make) -> None:
    server, _, _ = owned(attached, echo)
    gc.collect()
    before = count_clients()
    gc.disable()
    try:
        peer = server.open(then=frame(TEXT, "a"))
        assert peer.read_message() == "a"
        assert count_clients() == before + 1
        leave(server, peer)
        server.until(lambda: count_clients() == before)  # or it is in a cycle
    finally:
        gc.enable()
    assert len(asyncio.all_tasks(server.loop)) == 1


def test_coroutine_has_a_named_task_and_a_context_of_its_own(attached: Make) -> None:
    name = contextvars.ContextVar("name", default="nobody")

    async def tell(client: Any) -> None:
        before = name.get()
        name.set(client.path)
        task = asyncio.current_task()
        assert task is not None
        assert task in asyncio.all_tasks()
        await client.send(f"{before} {task.get_name()}".replace(str(client.id), "ID"))
        await client.recv()
        await client.send(name.get())

    server, _, peer = owned(attached, tell)
    other = server.open("/other")
    for each in (peer, other):
        assert each.read_message() == "nobody Owning ID"
        each.text("a")
    assert [peer.read_message(), other.read_message()] == ["/", "/other"]


# With everything else


def test_middlewares_see_its_messages(attached: Make) -> None:
    class Shouting(Middleware):
        async def on_message(self, msg: Any, client: Any) -> Any:
            return Middleware.STOP if msg == "quiet" else msg.upper()

        def on_send(self, msg: Any, client: Any) -> Any:
            return f"{msg}!"

    handler = Owning(echo)
    server = attached(handler)
    server.server.use(Shouting())
    peer = server.open()
    for text in ("a", "quiet", "b"):
        peer.text(text)
    assert [peer.read_message(), peer.read_message()] == ["A!", "B!"]
    leave(server, peer)
    assert handler.notes[-1] == ("close", 1000)


def test_ready_made_middlewares_work_with_it(attached: Make) -> None:
    async def tell(client: Any) -> None:
        async for msg in client:
            await client.send({"id": client.client_id, "got": msg})

    handler = Owning(tell)
    server = attached(handler)
    server.server.use(FirstMessageAuth(lambda msg, client: msg))
    server.server.use(JSONMessages())
    peer = server.open(then=frame(TEXT, "ann") + frame(TEXT, '{"a": 1}'))
    assert peer.read_message() == '{"id":"ann","got":{"a":1}}'


def test_topics_reach_it(new_loop: NewLoop) -> None:
    async def join(client: Any) -> None:
        client.bind(client.path)
        client.subscribe("room", since="all")
        async for msg in client:
            client.publish("room", msg)
            await client.send(f"{sorted(server.server.present('room'))}")

    server = Attached(new_loop, Owning(join))
    server.server.topic("room", history=5, presence=True)
    server.attach()
    with closing(server):
        server.server.publish("room", "before")
        ann, bob = server.open("/ann"), server.open("/bob")
        assert [ann.read_message(), bob.read_message()] == ["before", "before"]
        ann.text("hello")
        assert bob.read_message() == "hello"
        assert ann.read_message() == "['/ann', '/bob']"
        server.server.broadcast("all")
        assert [ann.read_message(), bob.read_message()] == ["all", "all"]


def test_connections_may_have_a_class_of_their_own(attached: Make) -> None:
    class Player(AsyncClient):
        points = 0

    class Game(WebSocket[Player]):
        async def on_connect(self, client: Player) -> None:
            async for _ in client:
                client.points += 1
                await client.send(f"{client.points} of {len(self.clients)}")

    peer = attached(Game()).open(then=frame(TEXT, "a") + frame(TEXT, "b"))
    assert [peer.read_message(), peer.read_message()] == ["1 of 1", "2 of 1"]


def test_on_open_comes_before_it(attached: Make) -> None:
    class Both(Owning):
        async def on_open(self, client: Any) -> None:
            await asyncio.sleep(0)
            self.notes.append("open")

    async def note(client: Any) -> None:
        handler.notes.append(await client.recv())

    handler = Both(note)
    peer = attached(handler).open(then=frame(TEXT, "a"))
    assert peer.read_close()[0] == 1000
    assert handler.notes[:2] == ["open", "a"]


# What is refused


def test_it_needs_an_asyncio_loop() -> None:
    server = Server("127.0.0.1", 0)
    server.mount("/", Owning(echo))
    with pytest.raises(InvalidState, match=r"on_connect is async: use `await server\."):
        server.run()

    @server.route("/function")
    async def serve(client: Any) -> None:
        await echo(client)

    with pytest.raises(InvalidState, match="is async: use"):
        server.start()


def test_mistakes_are_told_when_it_is_mounted() -> None:
    class Plain(WebSocket):
        def on_connect(self, client: Any) -> None:
            """Not async."""

    class Both(Owning):
        def on_message(self, msg: Any, client: Any) -> None:
            """Never called."""

    class Wrong(Owning):
        client_class = type("Mine", (Client,), {})

    server = Server("127.0.0.1", 0)
    with pytest.raises(TypeError, match=r"Plain\.on_connect must be `async def`"):
        server.mount("/", Plain())
    with pytest.raises(TypeError, match="on_connect and on_message"):
        server.mount("/", Both(echo))
    with pytest.raises(TypeError, match="must be a subclass of AsyncClient"):
        server.mount("/", Wrong(echo))
    handler = server.mount("/", WebSocket())
    with pytest.raises(InvalidState, match="set on_connect before"):
        handler.on_connect = echo  # type: ignore[method-assign]
    with pytest.raises(TypeError, match=r"must be a function of \(msg, client\)"):
        server.route("/sync")(lambda client: None)


def test_class_that_a_function_makes_is_checked_when_it_opens(
    attached: Make, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong(Owning):
        client_class = staticmethod(lambda *parts: Client(*parts))

    peer = attached(Wrong(echo)).open()
    assert peer.read_close()[0] == 1011
    assert "must make an AsyncClient" in caplog.text
