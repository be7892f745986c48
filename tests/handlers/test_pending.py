"""Async callbacks, in an asyncio loop that the test drives: see `attached`."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from attached import Attached, Awaiting, Make, NewLoop
from harness import (
    DEADLINE,
    PING,
    PONG,
    TEXT,
    Driven,
    Echo,
    Peer,
    Recorder,
    close_frame,
    connect,
    frame,
    open_files,
    open_peer,
    queues_of,
    request,
    running,
    small_buffers,
)

from simple_ws import (
    AuthenticationError,
    FirstMessageAuth,
    HandshakeError,
    InvalidData,
    InvalidState,
    JSONMessages,
    Middleware,
    Radio,
    Response,
    Server,
    WebSocket,
)
from simple_ws.loop.asyncio_bridge import _Watcher
from simple_ws.server.state import ServerState


def sent_away(peer: Peer) -> tuple[int | None, str]:
    """Answer the close frame that comes; what was in it."""
    end = peer.read_close()
    peer.write(close_frame(1000))
    assert peer.read_rest() == b""
    peer.close()
    return end


# Order


def test_callbacks_of_a_client_come_one_after_the_other(attached: Make) -> None:
    handler = Awaiting("open", "a", "b")
    server = attached(handler)
    peer = server.open(then=frame(TEXT, "a") + frame(TEXT, "b") + frame(TEXT, "c"))
    server.turn(5)
    assert handler.names == ["open"]
    handler.release("open")
    server.turn(5)
    assert handler.of("message") == ["a"]
    handler.release("a")
    assert peer.read_message() == "a"
    server.turn(5)
    assert handler.of("message") == ["a", "b"]
    handler.release("b")
    assert [peer.read_message(), peer.read_message()] == ["b", "c"]
    assert handler.names[1:] == ["message", "done"] * 3


def test_what_write_message_returned_is_no_answer(attached: Make) -> None:
    class Writing(Awaiting):
        async def on_message(self, msg: Any, client: Any) -> Any:
            return client.write_message(msg)

    server = attached(Writing())
    peer = server.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
    assert [peer.read_message(), peer.read_message()] == ["a", "b"]
    server.turn(3)
    assert peer.nothing_waits()


def test_clients_do_not_wait_for_each_other(attached: Make) -> None:
    handler = Awaiting("a")
    server = attached(handler)
    first, second = server.open(), server.open()
    first.text("a")
    server.until(lambda: handler.of("message"))
    second.text("b")
    assert second.read_message() == "b"
    handler.release("a")
    assert first.read_message() == "a"


def test_what_is_done_at_once_waits_for_what_is_awaited(attached: Make) -> None:
    class Mixed(Recorder):
        def on_message(self, msg: Any, client: Any) -> Any:
            self.note("message", client, msg)
            return self.later(msg) if int(msg) % 3 == 0 else msg

        async def later(self, msg: str) -> str:
            for _ in range(int(msg) % 4):
                await asyncio.sleep(0)
            return msg

    handler = Mixed()
    server = attached(handler)
    numbers = [str(number) for number in range(300)]
    peer = server.open(then=b"".join(frame(TEXT, number) for number in numbers))
    assert [peer.read_message() for _ in numbers] == numbers
    assert handler.of("message") == numbers
    assert not queues_of(server.server)


def test_callback_that_is_done_at_once_makes_no_task(attached: Make) -> None:
    server = attached(Echo())
    peer = server.open(then=frame(TEXT, "a"))
    assert peer.read_message() == "a"
    assert not server.server._run.pending.busy


def test_answer_of_a_coroutine_may_be_nothing(attached: Make) -> None:
    class Quiet(WebSocket):
        async def on_message(self, msg: Any, client: Any) -> Any:
            return None if msg == "quiet" else {"heard": msg}

    server = attached(Quiet())
    peer = server.open(then=frame(TEXT, "quiet") + frame(TEXT, "loud"))
    assert peer.read_message() == '{"heard":"loud"}'


def test_any_callable_may_be_async(attached: Make) -> None:
    class Called:
        async def __call__(self, msg: Any, client: Any) -> Any:
            return msg * 2

    handler = WebSocket()
    handler.on_message = Called()  # type: ignore[method-assign]
    peer = attached(handler).open(then=frame(TEXT, "ab"))
    assert peer.read_message() == "abab"


def test_callback_may_be_replaced_while_clients_are_in(attached: Make) -> None:
    handler = Echo()
    peer = (server := attached(handler)).open()

    async def twice(msg: Any, client: Any) -> Any:
        return msg * 2

    handler.on_message = twice  # type: ignore[method-assign]
    peer.text("ab")
    assert peer.read_message() == "abab"
    assert server.server._running


def test_pings_and_pongs_wait_with_their_payloads(attached: Make) -> None:
    class Waiting(Awaiting):
        async def on_ping(self, client: Any) -> None:
            super().on_ping(client)

        async def on_pong(self, client: Any) -> None:
            super().on_pong(client)

    handler = Waiting("a")
    server = attached(handler, ping=False)
    peer = server.open(then=frame(TEXT, "a"))
    for payload in (b"1", b"2"):
        peer.send(PING, payload)
        peer.send(PONG, payload * 2)
    # They are answered at once: only the callbacks wait.
    assert [peer.read_frame(), peer.read_frame()] == [(0x8A, b"1"), (0x8A, b"2")]
    server.until(lambda: handler.of("message"))
    assert handler.names == ["open", "message"]
    handler.release("a")
    server.until(lambda: len(handler.events) == 7)
    assert handler.names[3:] == ["ping", "pong", "ping", "pong"]
    assert (handler.of("ping"), handler.of("pong")) == ([b"1", b"2"], [b"11", b"22"])


def test_drain_is_awaited(attached: Make) -> None:
    class Draining(Awaiting):
        async def on_drain(self, client: Any) -> None:
            await self.pass_gate("drain")
            self.note("drain", client)

    handler = Draining("drain")
    server = attached(handler)
    peer = server.open()
    client = server.client()
    small_buffers(client._sock)
    client.write_message(b"x" * 500_000)
    server.until(lambda: client._write_blocked)
    client.write_message(b"y")
    assert len(peer.read_message()) == 500_000
    peer.text("after")
    assert peer.read_message() == b"y"
    server.turn(5)
    assert "drain" not in handler.names
    handler.release("drain")
    assert peer.read_message() == "after"
    assert handler.names.index("drain") < handler.names.index("message")


def test_each_callback_has_a_context_of_its_own(attached: Make) -> None:
    name = contextvars.ContextVar("name", default="nobody")

    class Remembering(WebSocket):
        async def on_message(self, msg: Any, client: Any) -> Any:
            before = name.get()
            name.set(msg)
            await asyncio.sleep(0)
            return f"{before} {name.get()}"

    peer = attached(Remembering()).open(then=frame(TEXT, "a") + frame(TEXT, "b"))
    assert [peer.read_message(), peer.read_message()] == ["nobody a", "nobody b"]


# Bounds


def send_until_full(server: Attached, peer: Peer, data: bytes) -> int:
    """Send until nobody takes more; the number of bytes taken."""
    sent = idle = 0
    view = memoryview(data)
    while idle < 20:
        try:
            sent += peer.sock.send(view[sent:])
            idle = 0
        except BlockingIOError:
            idle += 1
        server.turn()
        assert sent < len(data), "everything was taken"
    return sent


def test_nothing_more_is_read_while_many_wait(attached: Make) -> None:
    class Silent(Awaiting):
        async def on_message(self, msg: Any, client: Any) -> Any:
            await super().on_message(msg, client)

    handler = Silent("0")
    server = attached(handler, ping=False)
    peer = server.open(then=frame(TEXT, "0"))
    server.until(lambda: handler.of("message"))
    texts = [str(number) + "x" * 3000 for number in range(1, 1000)]
    data = b"".join(frame(TEXT, text) for text in texts)
    sent = send_until_full(server, peer, data)
    client = server.client()
    server.until(lambda: client._paused_by_callbacks)
    line = queues_of(server.server)[client]
    assert 0 < len(line.waiting) <= 16
    assert handler.of("message") == ["0"]
    handler.release("0")
    peer.write(data[sent:])
    server.until(lambda: len(handler.of("done")) == 1000)
    assert handler.of("done") == ["0", *texts]
    server.until(lambda: not queues_of(server.server))
    assert not client._paused_by_callbacks


def test_few_wait_though_one_read_brings_very_many(attached: Make) -> None:
    handler = Awaiting("0")
    server = attached(handler)
    texts = [str(number) for number in range(500)]
    peer = server.open(then=b"".join(frame(TEXT, text) for text in texts))
    server.turn(5)
    assert len(queues_of(server.server)[server.client()].waiting) <= 16
    handler.release("0")
    assert [peer.read_message() for _ in texts] == texts


def test_few_wait_if_they_are_large(attached: Make) -> None:
    handler = Awaiting("a")
    server = attached(handler)
    peer = server.open(then=frame(TEXT, "a"))
    large = b"x" * 70_000
    peer.send(2, large)
    server.until(lambda: server.client()._paused_by_callbacks)
    assert len(queues_of(server.server)[server.client()].waiting) == 1
    handler.release("a")
    assert [peer.read_message(), peer.read_message()] == ["a", large]
    server.turn()
    assert not server.client()._paused_by_callbacks


def test_who_is_not_read_is_not_taken_for_dead(attached: Make) -> None:
    handler = Awaiting("0")
    server = attached(handler, ping_interval=5, ping_timeout=20, idle_timeout=60)
    texts = [str(number) for number in range(50)]
    peer = server.open(then=b"".join(frame(TEXT, text) for text in texts))
    server.until(lambda: server.client()._paused_by_callbacks)
    for _ in range(10):
        server.advance(15)
    assert server.client().is_open()
    handler.release("0")
    server.until(lambda: len(handler.of("done")) == 50)
    peer.close()


def test_held_client_hears_the_answer_to_our_close(attached: Make) -> None:
    handler = Awaiting("0")
    server = attached(handler, ping=False)
    peer = server.open(then=b"".join(frame(TEXT, str(n)) for n in range(50)))
    server.until(lambda: server.client()._paused_by_callbacks and handler.of("message"))
    server.client().close(4000, "enough")
    assert sent_away(peer) == (4000, "enough")
    handler.release("0")
    server.until(lambda: "closed" in handler.names)
    assert handler.of("message") == ["0"]
    assert handler.of("close") == [(4000, "enough", "local")]


# Ends


def test_messages_before_the_peers_close_are_heard(attached: Make) -> None:
    handler = Awaiting("a")
    server = attached(handler)
    data = frame(TEXT, "a") + frame(TEXT, "b") + close_frame(1000, "bye")
    peer = server.open(then=data)
    server.until(lambda: handler.of("message"))
    assert peer.read_close()[0] == 1000
    assert handler.names == ["open", "message"]
    handler.release("a")
    server.until(lambda: "closed" in handler.names)
    assert handler.names == [
        *("open", "message", "done", "message", "done", "close", "closed")
    ]
    assert handler.of("close") == [(1000, "bye", "peer")]


@pytest.mark.parametrize("way", ["eof", "reset"])
def test_peer_that_leaves_without_a_word_is_noticed(attached: Make, way: str) -> None:
    handler = Awaiting("a")
    server = attached(handler)
    peer = server.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
    server.until(lambda: handler.of("message"))
    if way == "eof":
        peer.end()
    else:
        peer.close()
    server.until(lambda: not server.client().is_open())
    assert "close" not in handler.names
    handler.release("a")
    server.until(lambda: "closed" in handler.names)
    assert handler.names[-2:] == ["close", "closed"]
    assert handler.names.count("close") == 1


@pytest.mark.parametrize("way", ["close", "terminate"])
def test_callback_that_ends_the_connection_hears_nothing_more(
    attached: Make, way: str
) -> None:
    class Ending(Awaiting):
        async def on_message(self, msg: Any, client: Any) -> Any:
            await super().on_message(msg, client)
            getattr(client, way)()

    handler = Ending("a")
    server = attached(handler)
    peer = server.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
    server.until(lambda: queues_of(server.server)[server.client()].waiting)
    handler.release("a")
    if way == "close":
        assert sent_away(peer)[0] == 1000
    else:
        assert peer.read_rest() == b""
    server.until(lambda: "closed" in handler.names)
    assert handler.of("message") == ["a"]
    assert handler.of("close")[0][2] == "local"


def test_peer_that_is_silent_while_a_callback_is_awaited(attached: Make) -> None:
    handler = Awaiting("a")
    server = attached(handler, ping_interval=5, ping_timeout=20)
    peer = server.open(then=frame(TEXT, "a"))
    server.until(lambda: handler.of("message"))
    server.advance(6)
    server.advance(25)
    client = server.client()
    assert client.close_cause == "ping_timeout"
    assert peer.read_frame()[0] == 0x80 | PING
    assert peer.read_close()[0] == 1011
    server.advance(5)
    handler.release("a")
    server.until(lambda: "closed" in handler.names)
    assert handler.names == ["open", "message", "ping", "done", "close", "closed"] or (
        handler.names == ["open", "message", "done", "ping", "close", "closed"]
    )


# What goes wrong


def test_callback_that_raises_ends_its_client(
    attached: Make, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Awaiting):
        on_error = WebSocket.on_error

        async def on_message(self, msg: Any, client: Any) -> Any:
            await super().on_message(msg, client)
            raise ZeroDivisionError("one over none")

    handler = Failing("a")
    server = attached(handler)
    peer = server.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
    server.until(lambda: queues_of(server.server)[server.client()].waiting)
    handler.release("a")
    assert sent_away(peer)[0] == 1011
    server.until(lambda: "closed" in handler.names)
    assert handler.of("message") == ["a"]
    assert handler.of("close")[0][2] == "handler_error"
    assert caplog.text.count("ZeroDivisionError: one over none") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [(AuthenticationError("no"), 1008), (InvalidData("not mine"), 1007)],
)
def test_exceptions_with_a_meaning_keep_it(
    attached: Make, error: Exception, code: int
) -> None:
    class Strict(WebSocket):
        async def on_message(self, msg: Any, client: Any) -> Any:
            await asyncio.sleep(0)
            raise error

    peer = attached(Strict()).open(then=frame(TEXT, "a"))
    assert peer.read_close()[0] == code


@pytest.mark.parametrize("way", ["from outside", "from inside"])
def test_callback_that_is_cancelled_ends_its_client(
    attached: Make, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Cancelled(Awaiting):
        task: Any

        async def on_message(self, msg: Any, client: Any) -> Any:
            self.task = asyncio.current_task()
            if way == "from inside":
                raise asyncio.CancelledError
            await super().on_message(msg, client)

    handler = Cancelled("a")
    server = attached(handler)
    peer = server.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
    if way == "from outside":
        server.until(lambda: handler.of("message"))
        handler.task.cancel()
    assert sent_away(peer)[0] == 1011
    server.until(lambda: "closed" in handler.names)
    assert "was cancelled" in caplog.text
    server.until(lambda: not queues_of(server.server))


def test_answer_that_cannot_be_sent_is_an_error(attached: Make) -> None:
    class Wrong(Recorder):
        async def on_message(self, msg: Any, client: Any) -> Any:
            return object()

    handler = Wrong()
    peer = attached(handler).open(then=frame(TEXT, "a"))
    assert peer.read_close()[0] == 1011
    assert isinstance(handler.of("error")[0], TypeError)


def test_error_is_awaited_before_anything_else(attached: Make) -> None:
    class Forgiving(Awaiting):
        async def on_message(self, msg: Any, client: Any) -> Any:
            await super().on_message(msg, client)
            if msg == "a":
                raise ZeroDivisionError
            return msg

        async def on_error(self, error: Exception, client: Any) -> None:
            self.note("error", client)
            await self.pass_gate("error")
            self.note("forgiven", client)

    handler = Forgiving("error")
    server = attached(handler)
    peer = server.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
    server.until(lambda: "error" in handler.names)
    server.turn(5)
    assert handler.of("message") == ["a"]
    handler.release("error")
    assert peer.read_message() == "b"
    assert handler.names == [
        *("open", "message", "done", "error", "forgiven", "message", "done")
    ]


def test_error_of_a_callback_that_is_done_at_once_is_awaited(attached: Make) -> None:
    class Forgiving(Awaiting):
        def on_message(self, msg: Any, client: Any) -> Any:
            self.note("message", client, msg)
            if msg == "a":
                raise ZeroDivisionError
            return msg

        async def on_error(self, error: Exception, client: Any) -> None:
            await self.pass_gate("error")

    handler = Forgiving("error")
    server = attached(handler)
    peer = server.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
    server.turn(5)
    assert handler.of("message") == ["a"]
    handler.release("error")
    assert peer.read_message() == "b"


def test_error_of_an_error_ends_the_client(
    attached: Make, caplog: pytest.LogCaptureFixture
) -> None:
    class Hopeless(WebSocket):
        async def on_message(self, msg: Any, client: Any) -> Any:
            raise ZeroDivisionError

        async def on_error(self, error: Exception, client: Any) -> None:
            await asyncio.sleep(0)
            raise ZeroDivisionError

    peer = attached(Hopeless()).open(then=frame(TEXT, "a"))
    assert sent_away(peer)[0] == 1011
    assert caplog.text.count("on_error failed") == 1


# Writing from elsewhere


def test_what_a_task_writes_leaves_at_once(attached: Make) -> None:
    handler = Recorder()
    server = attached(handler)
    peer = server.open()

    async def write() -> None:
        server.client().write_message("from a task")

    task = server.loop.create_task(write())
    server.turn(3)
    assert task.done()
    assert peer.read_now() == b"\x81\x0bfrom a task"


def test_what_a_task_publishes_reaches_all(attached: Make) -> None:
    class News(Recorder):
        def on_open(self, client: Any) -> None:
            client.subscribe("news")

    server = attached(News())
    peers = [server.open() for _ in range(5)]

    async def publish() -> int:
        return server.server.publish("news", "hot")

    task = server.loop.create_task(publish())
    assert [peer.read_message() for peer in peers] == ["hot"] * 5
    assert task.result() == 5


def test_what_a_thread_writes_wakes_the_loop(attached: Make) -> None:
    handler = Recorder()
    server = attached(handler)
    peer, client = server.open(), server.client()
    server.turn(3)

    async def hear() -> None:
        # Nothing else would wake this loop.
        thread = threading.Thread(target=client.write_message, args=("hi",))
        thread.start()
        while peer.nothing_waits():
            await asyncio.sleep(0)
        thread.join()

    server.loop.run_until_complete(asyncio.wait_for(hear(), DEADLINE))
    assert peer.read_message() == "hi"


def test_idle_server_does_not_turn(attached: Make) -> None:
    server = attached(Awaiting())
    peer = server.open(then=frame(TEXT, "a"))
    assert peer.read_message() == "a"
    assert server.turns_while_idle() <= server.allowed


def test_awaiting_does_not_turn(attached: Make) -> None:
    handler = Awaiting("0")
    server = attached(handler)
    peer = server.open(then=b"".join(frame(TEXT, str(n)) for n in range(100)))
    assert server.turns_while_idle() <= server.allowed
    handler.release("0")
    assert peer.read_message() == "0"


def test_loop_that_was_blocked_for_long_cuts_nobody(attached: Make) -> None:
    handler = Recorder()
    server = attached(handler, ping_interval=5, ping_timeout=20)
    peers = [server.open() for _ in range(3)]
    server.advance(6)
    for peer in peers:
        first, payload = peer.read_frame()
        assert first == 0x80 | PING
        peer.send(PONG, payload)
    server.advance(300)  # nothing else was done for so long
    assert all(client.is_open() for client in server.server.clients)
    assert len(server.server.clients) == 3


# Middlewares


class Noting(Middleware):
    """Notes what passes, in the handler's list; takes its time over it."""

    def __init__(self, name: str, handler: Recorder) -> None:
        self.name = name
        self.note = handler.note

    async def on_open(self, client: Any) -> None:
        await asyncio.sleep(0)
        self.note(f"{self.name} open", client)

    async def on_first_message(self, msg: Any, client: Any) -> Any:
        await asyncio.sleep(0)
        self.note(f"{self.name} first", client, msg)
        return msg

    async def on_message(self, msg: Any, client: Any) -> Any:
        await asyncio.sleep(0)
        return self.STOP if msg.startswith(f"stop at {self.name}") else msg + self.name

    async def on_close(self, client: Any) -> None:
        await asyncio.sleep(0)
        self.note(f"{self.name} close", client)


def test_middlewares_may_be_async(attached: Make) -> None:
    handler = Awaiting()
    server = attached(handler)
    server.server.use(Noting("A", handler))
    server.server.use(Noting("B", handler))
    peer = server.open(then=frame(TEXT, "stop at B") + frame(TEXT, "a"))
    peer.text("b")
    assert [peer.read_message(), peer.read_message()] == ["aAB", "bAB"]
    peer.leave()
    server.until(lambda: "A close" in handler.names)
    assert handler.names == [
        *("A open", "B open", "open", "A first", "B first"),
        *("message", "done", "message", "done"),
        *("close", "closed", "B close", "A close"),
    ]


def test_middlewares_that_are_done_at_once_work_as_ever(attached: Make) -> None:
    server = attached(Awaiting())
    server.server.use(JSONMessages())
    peer = server.open(then=frame(TEXT, '{"a": 1}') + frame(TEXT, "no JSON"))
    assert peer.read_message() == '{"a":1}'
    assert peer.read_close()[0] == 1007


def test_failure_of_one_middleware_keeps_nothing_from_the_others(
    attached: Make,
) -> None:
    class Failing(Middleware):
        async def on_open(self, client: Any) -> None:
            raise ZeroDivisionError

        async def on_close(self, client: Any) -> None:
            raise ZeroDivisionError

    handler = Awaiting()
    server = attached(handler)
    server.server.use(Failing())
    peer = server.open()
    assert sent_away(peer)[0] == 1011
    server.until(lambda: handler.names.count("error") == 2)
    assert handler.names == ["error", "open", "close", "closed", "error"]


def test_error_within_a_chain_is_awaited_before_the_rest_of_it(attached: Make) -> None:
    class Failing(Middleware):
        def on_open(self, client: Any) -> None:
            raise ZeroDivisionError

    class Forgiving(Awaiting):
        async def on_error(self, error: Exception, client: Any) -> None:
            self.note("error", client)
            await self.pass_gate("error")
            self.note("forgiven", client)

    handler = Forgiving("error")
    server = attached(handler)
    server.server.use(Failing())
    peer = server.open(then=frame(TEXT, "a"))
    server.until(lambda: "error" in handler.names)
    server.turn(5)
    assert handler.names == ["error"]
    handler.release("error")
    assert peer.read_message() == "a"
    assert handler.names == ["error", "forgiven", "open", "message", "done"]


def test_callback_that_ends_the_program_leaves_a_server_that_works(
    attached: Make,
) -> None:
    class Leaving(Awaiting):
        async def on_message(self, msg: Any, client: Any) -> Any:
            if msg == "exit":
                raise SystemExit
            return msg

    handler = Leaving()
    server = attached(handler)
    server.server.use(Noting("A", handler))
    server.server._middlewares[0].on_message = lambda msg, client: msg  # type: ignore[method-assign]
    leaving, staying = server.open(), server.open()
    leaving.text("exit")
    with pytest.raises(SystemExit):
        server.until(lambda: False)
    assert sent_away(leaving)[0] == 1011
    server.until(lambda: "A close" in handler.names)
    staying.text("a")
    assert staying.read_message() == "a"


def test_nobody_passes_before_an_async_check_is_done(attached: Make) -> None:
    gate = asyncio.Event()

    async def check(msg: Any) -> str:
        await gate.wait()
        if msg != "secret":
            raise AuthenticationError("wrong")
        return "user-7"

    handler = Awaiting()
    server = attached(handler)
    server.server.use(FirstMessageAuth(check))
    good = server.open(then=frame(TEXT, "secret") + frame(TEXT, "hello"))
    bad = server.open(then=frame(TEXT, "guess") + frame(TEXT, "hello"))
    server.turn(10)
    assert handler.of("message") == []
    gate.set()
    assert good.read_message() == "hello"
    assert sent_away(bad)[0] == 1008
    server.turn(10)
    assert handler.of("message") == ["hello"]
    assert server.server.is_online("user-7")


def test_check_that_fails_lets_nobody_pass_though_the_client_stays() -> None:
    class Patient(Echo):
        def on_error(self, error: Exception, client: Any) -> None:
            self.note("error", client)

    def check(msg: Any) -> str:
        if msg != "secret":
            raise ValueError("the database is away")
        return "user-7"

    with Driven(Patient()) as driven:
        driven.server.use(FirstMessageAuth(check))
        peer = driven.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
        driven.turn(3)
        assert driven.handler.of("message") == []
        assert driven.handler.names.count("error") == 2
        peer.send(TEXT, "secret")
        peer.text("c")
        assert peer.read_message() == "c"


def test_awaited_check_that_fails_lets_nobody_pass(attached: Make) -> None:
    class Patient(Echo):
        def on_error(self, error: Exception, client: Any) -> None:
            self.note("error", client)

    async def check(msg: Any) -> str:
        raise ValueError("the database is away")

    handler = Patient()
    server = attached(handler)
    server.server.use(FirstMessageAuth(check))
    server.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
    server.until(lambda: handler.names.count("error") == 2)
    assert handler.of("message") == []


def test_middleware_that_comes_later_leaves_nothing_behind(attached: Make) -> None:
    handler = Awaiting("a")
    server = attached(handler)
    server.open(then=frame(TEXT, "a"))
    server.until(lambda: handler.of("message"))
    server.server.use(JSONMessages())
    server.stop()  # asserts that no task is left
    assert handler.names[-2:] == ["close", "closed"]


def test_radio_may_produce_in_its_own_time(attached: Make) -> None:
    async def produce() -> str:
        await asyncio.sleep(0)
        return "tick"

    server = attached(Recorder(), ping=False)
    server.server.use(Radio(10, produce))
    peer = server.open()
    for _ in range(3):
        server.advance(10)
        assert peer.read_message() == "tick"


@pytest.mark.parametrize("name", ["on_send", "on_use"])
def test_middleware_that_cannot_be_awaited_is_refused(name: str) -> None:
    async def late(*args: Any) -> None:
        """Never called."""

    def on_send(self: Any, msg: Any, client: Any) -> Any:
        return late()

    async def async_send(self: Any, msg: Any, client: Any) -> Any: ...
    async def async_use(self: Any, server: Any) -> Any: ...

    function = async_send if name == "on_send" else async_use
    middleware = type("Late", (Middleware,), {name: function})()
    with pytest.raises(TypeError, match=rf"Late\.{name} must not be async"):
        Server().use(middleware)


# The handshake


class Asking(Awaiting):
    """Takes its time over who may come in."""

    answer: Any = None
    cancelled = False

    async def on_request(self, request: Any) -> Any:
        try:
            await self.pass_gate("request")
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


def knock(server: Attached, then: bytes = b"") -> Peer:
    """Send a handshake, and wait until it is being thought about."""
    peer = server.join()
    peer.write(request() + then)
    server.until(lambda: server.server._run.pending.busy)
    server.turn(3)
    return peer


def test_handshake_waits_for_the_answer(attached: Make) -> None:
    handler = Asking("request")
    handler.answer = {"name": "Alice"}
    server = attached(handler)
    peer = knock(server, then=frame(TEXT, "a"))
    peer.text("b")
    server.turn(5)
    assert peer.nothing_waits()
    assert not server.server.clients
    handler.release("request")
    assert peer.read_head().startswith(b"HTTP/1.1 101 ")
    assert [peer.read_message(), peer.read_message()] == ["a", "b"]
    assert server.client().session == {"name": "Alice"}


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Response(403), 403),
        (AuthenticationError("no"), 401),
        (HandshakeError(429, "later"), 429),
        (ZeroDivisionError(), 500),
        (asyncio.CancelledError(), 500),
    ],
)
def test_handshake_may_be_refused_late(
    attached: Make, answer: Any, status: int
) -> None:
    handler = Asking()
    handler.answer = answer
    server = attached(handler)
    peer = server.join()
    peer.write(request())
    assert peer.read_head().startswith(b"HTTP/1.1 %d " % status)
    assert handler.events == []


def test_handshake_does_not_wait_for_ever(attached: Make) -> None:
    handler = Asking("request")
    server = attached(handler, open_timeout=10)
    peer = knock(server)
    server.advance(9)
    assert peer.nothing_waits()
    server.advance(5)
    assert peer.read_head().startswith(b"HTTP/1.1 503 ")
    server.until(lambda: handler.cancelled)
    server.until(lambda: not server.server._run.pending.busy)


def test_client_that_leaves_during_its_handshake_is_forgotten(attached: Make) -> None:
    handler = Asking("request")
    server = attached(handler)
    knock(server).close()
    server.until(lambda: handler.cancelled)
    server.until(lambda: not server.server._incoming)
    assert handler.events == []


def test_stop_does_not_wait_for_handshakes(attached: Make) -> None:
    handler = Asking("request")
    server = attached(handler)
    peer = knock(server)
    server.server._begin_stop(10)
    server.until(lambda: not server.server._running)
    assert peer.read_rest() == b""
    assert handler.cancelled


def test_little_is_read_before_a_client_is_in(attached: Make) -> None:
    handler = Asking("request")
    server = attached(handler)
    peer = knock(server)
    small_buffers(peer.sock)
    texts = [str(number) * 100 for number in range(1000)]
    data = b"".join(frame(TEXT, text) for text in texts)
    sent = send_until_full(server, peer, data)
    (incoming,) = server.server._incoming
    assert len(incoming.early_input) < 3 * 4096
    handler.release("request")
    assert peer.read_head().startswith(b"HTTP/1.1 101 ")
    view = memoryview(data)[sent:]
    for text in texts:
        with suppress(BlockingIOError):
            view = view[peer.sock.send(view) :]
        assert peer.read_message() == text


def test_limits_hold_after_the_handshake_has_waited(attached: Make) -> None:
    handler = Asking("request")
    server = attached(handler, max_connections=2)
    peers = [server.join() for _ in range(4)]
    for peer in peers:
        peer.write(request())
    server.turn(5)
    handler.release("request")
    heads = [peer.read_head()[9:12] for peer in peers]
    assert sorted(heads) == [b"101", b"101", b"503", b"503"]
    assert len(server.server.clients) == 2


def test_middlewares_and_handler_are_asked_in_order(attached: Make) -> None:
    asked = []

    class Asked(Middleware):
        def __init__(self, name: str, answer: Any) -> None:
            self.name, self.answer = name, answer

        async def on_request(self, request: Any) -> Any:
            await asyncio.sleep(0)
            asked.append(self.name)
            return self.answer

    server = attached(Awaiting())
    server.server.use(Asked("A", "first"))
    server.server.use(Asked("B", "second"))
    server.open()
    assert server.client().session == "second"
    server.server.use(Asked("C", Response(403)))
    server.server.use(Asked("D", None))
    peer = server.join()
    peer.write(request())
    assert peer.read_head().startswith(b"HTTP/1.1 403 ")
    assert asked == ["A", "B", "A", "B", "C"]


def test_request_that_looked_harmless_lets_nobody_in() -> None:
    async def decide() -> None:
        """Never called."""

    class Hidden(Recorder):
        def on_request(self, request: Any) -> Any:
            return decide()

    with Driven(Hidden()) as driven:
        peer = driven.join()
        peer.write(request())
        assert peer.read_head().startswith(b"HTTP/1.1 500 ")
        assert driven.handler.events == []


# Timers


def test_async_timer_is_awaited_and_does_not_overlap(attached: Make) -> None:
    server = attached()
    gate = asyncio.Event()
    began: list[float] = []

    async def tick() -> None:
        began.append(server.clock.now)
        await gate.wait()

    server.server.every(10, tick)
    start = server.clock.now
    server.advance(10)
    server.advance(35)
    assert began == [start + 10]
    gate.set()
    server.turn(5)
    server.advance(4)
    assert began == [start + 10]
    server.advance(1)  # at a multiple of the interval, as ever
    assert began == [start + 10, start + 50]


def test_async_timer_that_fails_goes_on(
    attached: Make, caplog: pytest.LogCaptureFixture
) -> None:
    server = attached()
    calls = []

    async def tick() -> None:
        calls.append(1)
        raise ZeroDivisionError("one over none")

    server.server.every(10, tick)
    server.advance(10)
    server.advance(10)
    assert len(calls) == 2
    assert caplog.text.count("ZeroDivisionError: one over none") == 2


def test_timer_may_be_cancelled_while_it_is_awaited(attached: Make) -> None:
    server = attached()
    calls = []

    async def once() -> None:
        job.cancel()
        await asyncio.sleep(0)
        calls.append(1)

    job = server.server.every(10, once)
    for _ in range(3):
        server.advance(10)
    assert calls == [1]


# Running


def test_server_may_be_attached_before_the_loop_runs(new_loop: NewLoop) -> None:
    loop, handler = new_loop(), Awaiting()
    server = Server("127.0.0.1", 0)
    server.mount("*", handler)
    server.attach(loop)
    assert server.port
    with connect(server) as peer:
        peer._pump = lambda: (loop.call_soon(loop.stop), loop.run_forever())
        peer.shake(then=frame(TEXT, "a"))
        assert peer.read_message() == "a"
        server.stop(drain=0)  # the loop does not run: it is run until the end
        assert not server._running
        assert "closed" in handler.names
    assert not asyncio.all_tasks(loop)
    loop.close()


def test_two_servers_live_in_one_loop(attached: Make, new_loop: NewLoop) -> None:
    first = attached()
    second = Attached(new_loop, Awaiting())
    second.loop.close()
    second.loop = first.loop
    second.attach()
    peers = [first.open(then=frame(TEXT, "a")), second.open(then=frame(TEXT, "b"))]
    assert [peer.read_message() for peer in peers] == ["a", "b"]
    second.stop()
    peers[1].close()
    peers[0].text("c")
    assert peers[0].read_message() == "c"


def test_nothing_is_left_behind(new_loop: NewLoop) -> None:
    loop = new_loop()
    loop.run_until_complete(asyncio.sleep(0))
    before = open_files()
    threads = threading.active_count()
    for _ in range(3):
        handler = Awaiting("a")
        server = Server("127.0.0.1", 0)
        server.mount("*", handler)
        server.attach(loop)
        assert server._run.attachment is not None
        fd = server._run.attachment._fd
        with connect(server) as peer:
            peer._pump = lambda: (loop.call_soon(loop.stop), loop.run_forever())
            peer.shake(then=frame(TEXT, "a"))
            server.stop(drain=0)
        assert fd < 0 or not loop.remove_reader(fd)
        assert not asyncio.all_tasks(loop)
        assert handler.names.count("close") == 1
    assert open_files() == before
    assert threading.active_count() == threads
    loop.close()


def test_stop_within_a_callback_ends_it(attached: Make) -> None:
    class Stopping(Awaiting):
        async def on_message(self, msg: Any, client: Any) -> Any:
            self.note("message", client, msg)
            self.server.stop()
            await asyncio.sleep(0)
            return "too late"

    handler = Stopping()
    server = attached(handler)
    peer = server.open(then=frame(TEXT, "a"))
    assert sent_away(peer) == (1001, "the server stops")
    server.until(lambda: not server.server._running)
    assert handler.names[-2:] == ["close", "closed"]


def test_stop_waits_for_callbacks(attached: Make) -> None:
    handler = Awaiting("a", "close")
    server = attached(handler)
    peer = server.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
    server.until(lambda: queues_of(server.server)[server.client()].waiting)
    server.server._begin_stop(1000)
    assert sent_away(peer)[0] == 1001
    server.turn(10)
    assert server.server._running
    handler.release("a")
    server.until(lambda: "close" in handler.names)
    assert handler.of("done") == ["a", "b"]
    server.turn(10)
    assert server.server._running
    handler.release("close")
    server.until(lambda: not server.server._running)
    assert handler.names[-1] == "closed"


def test_callbacks_that_take_too_long_are_cancelled(
    attached: Make, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Awaiting("a")
    server = attached(handler, close_timeout=1)
    peer = server.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
    server.until(lambda: queues_of(server.server)[server.client()].waiting)
    server.server._begin_stop(10)
    assert sent_away(peer)[0] == 1001
    server.advance(10)
    server.until(lambda: not server.server._running)
    assert handler.names[-3:] == ["message", "close", "closed"]
    assert handler.of("message") == ["a"]
    assert "was cancelled" in caplog.text


def test_end_waits_for_nobody_for_ever(
    attached: Make, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(Awaiting):
        async def on_message(self, msg: Any, client: Any) -> Any:
            self.note("message", client, msg)
            while not self.gates["a"].is_set():
                with suppress(asyncio.CancelledError):
                    await self.gates["a"].wait()

    handler = Stubborn("a")
    server = attached(handler, close_timeout=2)
    server.open(then=frame(TEXT, "a"))
    server.until(lambda: handler.of("message"))
    server.server._begin_stop(10)
    server.advance(10)
    server.turn(10)
    assert server.server._running
    server.advance(2)
    server.until(lambda: not server.server._running)
    assert "1 callbacks did not finish in time" in caplog.text
    # Whoever hangs keeps nobody from being told of the end.
    server.until(lambda: "closed" in handler.names)
    handler.release("a")
    server.turn(5)


def test_last_callback_has_time_when_the_others_have_none(attached: Make) -> None:
    handler = Awaiting("close")
    server = attached(handler, close_timeout=5)
    server.open().leave()
    server.until(lambda: "close" in handler.names)
    server.server._begin_stop(10)
    server.advance(10)
    server.turn(5)
    assert server.server._running
    handler.release("close")
    server.until(lambda: not server.server._running)
    assert handler.names[-1] == "closed"


def test_last_callback_that_hangs_is_cancelled(attached: Make) -> None:
    handler = Awaiting("close")
    server = attached(handler, close_timeout=2)
    server.open()
    server.server._begin_stop(10)
    server.advance(10)
    server.until(lambda: "close" in handler.names)
    server.turn(10)
    assert server.server._running
    server.advance(2)
    server.until(lambda: not server.server._running)
    server.stop()
    assert handler.names.count("close") == 1
    assert "closed" not in handler.names


def run(new_loop: NewLoop, main: Any) -> Any:
    """As `asyncio.run`, in a loop of this kind."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(asyncio.wait_for(main, DEADLINE))


def make_server(handler: Any, **options: Any) -> Server:
    server = Server("127.0.0.1", 0, **options)
    server.mount("*", handler)
    server.listen()
    return server


def in_a_thread(function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
    return asyncio.get_running_loop().run_in_executor(None, function, *args)


def test_serve_async_ends_when_it_is_stopped_from_a_thread(new_loop: NewLoop) -> None:
    handler = Awaiting()
    server = make_server(handler)

    def drive() -> Any:
        with open_peer(server) as peer:
            peer.text("a")
            answer = peer.read_message()
            stopper = threading.Thread(target=server.stop)
            stopper.start()
            end = sent_away(peer)
            stopper.join()
            return answer, end[0], server._running

    async def main() -> Any:
        driving = in_a_thread(drive)
        await server.serve_async()
        assert handler.names[-1] == "closed"
        return await driving

    assert run(new_loop, main()) == ("a", 1001, False)


def test_serve_async_that_is_cancelled_stops(new_loop: NewLoop) -> None:
    handler = Awaiting()
    server = make_server(handler)

    async def main() -> Any:
        serving = asyncio.create_task(server.serve_async())
        peer = await in_a_thread(open_peer, server)
        serving.cancel()
        end = await in_a_thread(sent_away, peer)
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert not server._running
        assert handler.names[-1] == "closed"
        return end[0]

    assert run(new_loop, main()) == 1001


def test_serve_async_that_is_cancelled_twice_ends_at_once(new_loop: NewLoop) -> None:
    handler = Awaiting("a")
    server = make_server(handler, close_timeout=1000)

    async def main() -> Any:
        serving = asyncio.create_task(server.serve_async())
        peer = await in_a_thread(open_peer, server)
        peer.text("a")
        while not handler.of("message"):
            await asyncio.sleep(0)
        serving.cancel()
        while server._state is ServerState.RUNNING:
            await asyncio.sleep(0)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        while server._running:
            await asyncio.sleep(0)
        while "closed" not in handler.names:
            await asyncio.sleep(0)
        peer.close()

    run(new_loop, main())


def test_ctrl_c_stops_serve_async(new_loop: NewLoop) -> None:
    handler = Awaiting()
    server = make_server(handler)
    ends = []

    def drive() -> None:
        with open_peer(server) as peer:
            os.kill(os.getpid(), signal.SIGINT)
            ends.append(sent_away(peer)[0])

    driving = threading.Thread(target=drive)

    async def main() -> None:
        driving.start()
        await server.serve_async()

    with (
        asyncio.Runner(loop_factory=new_loop) as runner,
        pytest.raises(KeyboardInterrupt),
    ):
        runner.run(main())
    driving.join(DEADLINE)
    assert ends == [1001]
    assert not server._running
    assert handler.names[-1] == "closed"


def test_server_serves_again_in_another_loop(new_loop: NewLoop) -> None:
    handler = Awaiting()
    server = make_server(handler)

    def drive() -> Any:
        with open_peer(server) as peer:
            peer.text("a")
            answer = peer.read_message()
        server.stop()
        return answer

    async def main() -> Any:
        driving = in_a_thread(drive)
        await server.serve_async()
        return await driving

    for _ in range(3):
        assert run(new_loop, main()) == "a"
        server.listen()
    server.stop()


def test_loop_that_was_closed_under_a_server(
    new_loop: NewLoop, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Recorder()
    server = make_server(handler)

    async def main(count: int) -> None:
        server.attach()
        peer = await in_a_thread(open_peer, server)
        while len(handler.of("open")) < count:
            await asyncio.sleep(0)
        peer.close()

    run(new_loop, main(1))  # nobody stops it
    run(new_loop, main(2))
    server.stop()
    assert not server._running
    assert handler.names.count("close") == 2


def test_async_callback_is_not_awaited_in_a_closed_loop(
    new_loop: NewLoop, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Awaiting()
    server = make_server(handler)

    async def main() -> None:
        server.attach()
        peer = await in_a_thread(open_peer, server)
        while not handler.of("open"):
            await asyncio.sleep(0)
        peers.append(peer)

    peers: list[Peer] = []
    run(new_loop, main())
    server.stop()
    peers[0].close()
    assert "nothing awaits" in str(handler.of("error")[0])


def test_loop_that_was_closed_over_a_callback(new_loop: NewLoop) -> None:
    handler = Awaiting("a")
    server = make_server(handler)
    loop = new_loop()
    server.attach(loop)
    peer = connect(server)
    peer._pump = lambda: (loop.call_soon(loop.stop), loop.run_forever())
    peer.shake(then=frame(TEXT, "a"))
    while not handler.of("message"):
        peer._pump()
    (task,) = asyncio.all_tasks(loop)
    # Python complains of tasks that are lost in this way.
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    server.stop()
    assert not server._running
    peer.close()


def test_attaching_that_fails_leaves_nothing() -> None:
    class Broken(asyncio.SelectorEventLoop):
        def call_soon(self, *args: Any, **how: Any) -> Any:
            raise RuntimeError("from another thread")

    loop = Broken()
    server = make_server(Echo())
    with pytest.raises(RuntimeError, match="another thread"):
        server.attach(loop)
    assert not server._running
    loop.close()


def test_serve_async_waits_for_a_server_that_was_attached(new_loop: NewLoop) -> None:
    server = make_server(Awaiting())

    async def main() -> None:
        server.attach()
        asyncio.get_running_loop().call_later(0, server.stop)
        await server.serve_async()
        assert not server._running

    run(new_loop, main())


class FakeReactor:
    """Is ready as often as the test says."""

    def __init__(self) -> None:
        self._ready = threading.Semaphore(0)
        self.waits = self.wakes = 0

    def waiting(self) -> Callable[[], object]:
        return self.wait

    def wait(self) -> None:
        self.waits += 1
        assert self._ready.acquire(timeout=DEADLINE)

    def be_ready(self) -> None:
        self._ready.release()

    def wake(self) -> None:
        self.wakes += 1
        self.be_ready()


class FakeLoop:
    def __init__(self) -> None:
        self.called = threading.Semaphore(0)

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
        self.callback = callback
        self.called.release()


def test_thread_looks_once_and_is_woken_only_while_it_looks() -> None:
    loop, fake, told = FakeLoop(), FakeReactor(), []
    watcher = _Watcher(loop, fake, lambda: told.append(1))  # type: ignore[arg-type]
    watcher.look()
    fake.be_ready()
    assert loop.called.acquire(timeout=DEADLINE)
    watcher.look()  # it has found something, and says so in a moment
    assert (fake.waits, fake.wakes, told) == (1, 0, [])
    loop.callback()
    assert told == [1]
    watcher.look()
    watcher.look()  # what it looks for may be another now
    assert fake.wakes == 1
    assert loop.called.acquire(timeout=DEADLINE)
    assert fake.waits == 2
    watcher.end()
    assert not watcher._thread.is_alive()


# Misuse


def test_running_server_is_not_attached(new_loop: NewLoop) -> None:
    handler = Echo()

    async def main() -> None:
        with running(handler) as server:
            with pytest.raises(InvalidState, match="runs already"):
                server.attach()
            with pytest.raises(InvalidState, match="runs already"):
                await server.serve_async()
            with await in_a_thread(open_peer, server) as peer:
                await in_a_thread(peer.text, "a")
                assert await in_a_thread(peer.read_message) == "a"

    run(new_loop, main())


def test_attached_server_runs_nowhere_else(attached: Make) -> None:
    server = attached()
    for begin in (server.server.run, server.server.start, server.server.poll):
        with pytest.raises(InvalidState, match="runs already"):
            begin()

    async def main() -> None:
        await server.server.serve_async()

    with pytest.raises(InvalidState, match="another asyncio loop"):
        asyncio.run(main())


def test_port_that_is_taken_changes_nothing(new_loop: NewLoop) -> None:
    with running(Echo()) as other:
        server = Server("127.0.0.1", other.port)
        server.mount("*", Awaiting())
        loop = new_loop()
        with pytest.raises(OSError, match="cannot listen"):
            server.attach(loop)
        loop.close()
    assert not server._running
    with pytest.raises(InvalidState, match="is async"):
        server.run()


@pytest.mark.parametrize("loop", [5, "loop", object()])
def test_what_is_no_loop_is_refused(loop: Any) -> None:
    with pytest.raises(TypeError, match="must be an asyncio event loop"):
        Server().attach(loop)


def test_closed_loop_is_refused(new_loop: NewLoop) -> None:
    loop = new_loop()
    loop.close()
    with pytest.raises(InvalidState, match="loop is closed"):
        Server().attach(loop)


def test_attach_needs_a_running_loop_or_one_that_is_given() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        Server().attach()


@pytest.mark.parametrize("begin", ["run", "start", "poll"])
def test_async_callbacks_need_a_loop(begin: str) -> None:
    server = Server("127.0.0.1", 0)
    server.mount("*", Awaiting())
    with pytest.raises(InvalidState, match=r"Awaiting\.on_open is async: use `await"):
        getattr(server, begin)()
    assert server._run is None


def test_async_functions_middlewares_and_timers_need_a_loop() -> None:
    async def later(*args: Any) -> None:
        """Never called."""

    async def echo(msg: Any, client: Any) -> Any:
        """Never called."""

    def server() -> Server:
        return Server("127.0.0.1", 0)

    by_route, by_timer, by_check, by_hook = (server() for _ in range(4))
    by_route.route("/")(echo)
    by_timer.every(10, later)
    by_check.use(FirstMessageAuth(echo))
    by_hook.use(Noting("A", Recorder()))
    for made, what in [
        (by_route, "echo"),
        (by_timer, "the timer later"),
        (by_check, "check of FirstMessageAuth"),
        (by_hook, r"Noting\.on_open"),
    ]:
        with pytest.raises(InvalidState, match=f"^{what} is async"):
            made.start()


def test_async_callbacks_that_come_later_need_a_loop() -> None:
    async def later(*args: Any) -> None:
        """Never called."""

    async def on_message(msg: Any, client: Any) -> Any:
        """Never called."""

    handler = Echo()
    with running(handler) as server:
        with pytest.raises(InvalidState, match="is async"):
            server.mount("/other", Awaiting())
        with pytest.raises(InvalidState, match="is async"):
            server.use(Noting("A", handler))
        with pytest.raises(InvalidState, match="is async"):
            server.call_later(1, later)
        with pytest.raises(InvalidState, match=r"Echo\.on_message is async"):
            handler.on_message = on_message  # type: ignore[method-assign]
        with open_peer(server) as peer:
            peer.text("a")
            assert peer.read_message() == "a"


def test_coroutine_of_a_callback_that_looked_harmless_is_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def answer() -> str:
        return "late"

    class Hidden(WebSocket):
        def on_message(self, msg: Any, client: Any) -> Any:
            coroutine = answer()
            self.made = coroutine
            return coroutine

    with Driven(Hidden()) as driven:
        peer = driven.open(then=frame(TEXT, "a"))
        assert peer.read_close()[0] == 1011
        driven.handler.made.close()


def test_check_that_looked_harmless_lets_nobody_pass() -> None:
    async def identify() -> str:
        return "anybody"

    with Driven(Echo()) as driven:
        driven.server.use(FirstMessageAuth(lambda msg: identify()))
        peer = driven.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
        assert peer.read_close()[0] == 1011
        assert driven.handler.of("message") == []


def test_subprotocol_cannot_be_awaited() -> None:
    class Late(WebSocket):
        async def select_subprotocol(self, offered: Any) -> Any: ...

    with pytest.raises(TypeError, match="select_subprotocol must not be async"):
        Server().mount("*", Late())
    with pytest.raises(TypeError, match="select_subprotocol must not be async"):
        WebSocket().select_subprotocol = Late().select_subprotocol  # type: ignore[method-assign]
