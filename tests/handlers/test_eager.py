"""Coroutines of callbacks begin at once, within a task that may be spare again."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from attached import Attached, Awaiting, Make
from harness import TEXT, Peer, frame, request

from simple_ws import Middleware, Response, WebSocket

Function = Callable[[Any, Any], Coroutine[Any, Any, Any]]


class Noting(WebSocket):
    """Replies with what a coroutine function returns; notes the tasks it ran in."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.tasks: list[int] = []
        self.closed: list[Any] = []

    async def on_message(self, msg: Any, client: Any) -> Any:
        self.tasks.append(id(asyncio.current_task()))
        return await self.function(msg, client)

    def on_close(self, client: Any) -> None:
        self.closed.append(client.close_cause)


def opened(attached: Make, function: Function) -> tuple[Attached, Noting, Peer]:
    """A server, its handler and a client whose first message has been answered."""
    handler = Noting(function)
    server = attached(handler)
    peer = server.open(then=frame(TEXT, "first"))
    peer.read_message()
    server.turn(5)
    return server, handler, peer


async def echo(msg: Any, client: Any) -> Any:
    return msg


async def wait(msg: Any, client: Any) -> Any:
    await asyncio.sleep(0)
    return msg


def test_what_waits_for_nothing_needs_no_turn(attached: Make) -> None:
    server, handler, peer = opened(attached, echo)
    for _ in range(3):
        peer.write(b"".join(frame(TEXT, str(number)) for number in range(20)))
        before = server.turns
        replies = [peer.read_message() for _ in range(20)]
        assert replies == [str(number) for number in range(20)]
        assert server.turns - before <= 3
    assert len(set(handler.tasks[1:])) == 1
    assert not asyncio.all_tasks(server.loop)


def test_what_waits_goes_on_in_the_task_in_which_it_began(attached: Make) -> None:
    seen: list[bool] = []

    async def compare(msg: Any, client: Any) -> Any:
        before = asyncio.current_task()
        assert before is not None
        for _ in range(3):
            await asyncio.sleep(0)
            seen.append(asyncio.current_task() is before)
            seen.append(before in asyncio.all_tasks())
        return msg

    _, handler, peer = opened(attached, compare)
    for number in range(5):
        peer.write(frame(TEXT, str(number)))
        assert peer.read_message() == str(number)
    assert seen == [True] * 36
    assert len(set(handler.tasks[1:])) <= 2, "tasks are not used again"


def test_task_that_somebody_holds_ends_with_its_callback(attached: Make) -> None:
    held: list[asyncio.Task[Any]] = []

    async def hold(msg: Any, client: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        held.append(task)
        if msg == "wait":
            await asyncio.sleep(0)
        return msg

    server, _, peer = opened(attached, hold)
    for msg in ("a", "wait", "b", "wait"):
        peer.write(frame(TEXT, msg))
        assert peer.read_message() == msg
        server.turn(5)
    assert len({id(task) for task in held}) == 5
    assert all(task.done() for task in held)


def test_task_that_is_known_weakly_is_not_used_again(attached: Make) -> None:
    known: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
    found: list[str | None] = []

    async def remember(msg: Any, client: Any) -> Any:
        task = asyncio.current_task()
        found.append(known.get(task))
        known[task] = msg
        return msg

    _, _, peer = opened(attached, remember)
    for msg in ("a", "b", "c"):
        peer.write(frame(TEXT, msg))
        assert peer.read_message() == msg
    assert found == [None] * 4


def test_timeouts_work_in_the_first_step_and_later(attached: Make) -> None:
    async def expire(msg: Any, client: Any) -> Any:
        try:
            async with asyncio.timeout(0 if msg == "0" else 0.001):
                await asyncio.Event().wait()
        except TimeoutError:
            task = asyncio.current_task()
            assert task is not None
            return f"{msg} {task.cancelling()}"

    _, _, peer = opened(attached, expire)
    for msg in ("0", "1", "0", "1"):
        peer.write(frame(TEXT, msg))
        assert peer.read_message() == f"{msg} 0"


def test_task_groups_work(attached: Make) -> None:
    async def gather(msg: Any, client: Any) -> Any:
        async with asyncio.TaskGroup() as group:
            parts = [group.create_task(wait(part, client)) for part in msg]
        return "".join(part.result() for part in parts)

    _, _, peer = opened(attached, gather)
    for msg in ("abc", "de"):
        peer.write(frame(TEXT, msg))
        assert peer.read_message() == msg


@pytest.mark.parametrize("waits_for", ["nothing", "a turn", "a future", "an event"])
def test_callback_may_cancel_itself(attached: Make, waits_for: str) -> None:
    async def cancel(msg: Any, client: Any) -> Any:
        if msg != "cancel":
            return msg
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if waits_for == "a turn":
            await asyncio.sleep(0)
        elif waits_for == "a future":
            await asyncio.get_running_loop().create_future()
        elif waits_for == "an event":
            await asyncio.Event().wait()
        return "not cancelled"

    server, handler, peer = opened(attached, cancel)
    peer.write(frame(TEXT, "cancel"))
    if waits_for == "nothing":  # as in a task, which ends before it can be cancelled
        assert peer.read_message() == "not cancelled"
    else:
        assert peer.read_close()[0] == 1011
    server.turn(5)
    other = server.open(then=frame(TEXT, "other"))
    assert other.read_message() == "other"
    assert len(set(handler.tasks)) >= 2, "a task that was cancelled was used again"


def test_cancellation_may_be_handled(attached: Make) -> None:
    async def survive(msg: Any, client: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task.uncancel()
            await asyncio.sleep(0)
            return msg

    _, _, peer = opened(attached, survive)
    for msg in ("a", "b"):
        peer.write(frame(TEXT, msg))
        assert peer.read_message() == msg


def test_what_is_no_future_is_an_error_of_the_callback(attached: Make) -> None:
    class Wrong:
        def __await__(self) -> Any:
            yield 5

    async def misuse(msg: Any, client: Any) -> Any:
        try:
            await Wrong()
        except RuntimeError as error:
            return "yield" in str(error) and "yes"

    _, _, peer = opened(attached, misuse)
    peer.write(frame(TEXT, "a"))
    assert peer.read_message() == "yes"


def test_events_that_a_callback_causes_wait_until_it_has_ended(attached: Make) -> None:
    class Closing(Awaiting):
        async def on_message(self, msg: Any, client: Any) -> None:
            self.note("message", client, msg)
            if msg == "close":
                client.terminate()
            self.note("done", client, msg)

    handler = Closing()
    server = attached(handler)
    peer = server.open(then=frame(TEXT, "a"))
    server.turn(5)
    peer.write(frame(TEXT, "close"))
    server.until(lambda: "closed" in handler.names)
    last = handler.names.index("close")
    assert handler.names[last - 2 :] == ["message", "done", "close", "closed"]


def test_nothing_is_left_of_spare_tasks(attached: Make) -> None:
    server, _, peer = opened(attached, wait)
    peer.write(frame(TEXT, "a"))
    assert peer.read_message() == "a"
    server.stop()
    server.turn(3)
    gc.collect()
    assert not [
        each
        for each in gc.get_objects()
        if isinstance(each, asyncio.Task) and each.get_loop() is server.loop
    ]


# Middlewares, requests, the loop


def test_async_middlewares_that_wait_for_nothing_need_no_turn(attached: Make) -> None:
    class Marked(Middleware):
        async def on_message(self, msg: Any, client: Any) -> Any:
            return f"{msg}!"

    server = attached(Noting(echo))
    server.server.use(Marked())
    server.server.use(Marked())
    peer = server.open(then=frame(TEXT, "first"))
    assert peer.read_message() == "first!!"
    server.turn(5)
    peer.write(b"".join(frame(TEXT, str(number)) for number in range(20)))
    before = server.turns
    assert [peer.read_message() for _ in range(20)] == [f"{n}!!" for n in range(20)]
    assert server.turns - before <= 3
    assert not asyncio.all_tasks(server.loop)


def test_middleware_and_handler_may_each_wait_or_not(attached: Make) -> None:
    class Sometimes(Middleware):
        def __init__(self, name: str) -> None:
            self.name = name

        async def on_message(self, msg: Any, client: Any) -> Any:
            if self.name in msg:
                await asyncio.sleep(0)
            if msg == "fail":
                raise ZeroDivisionError
            return f"{msg}."

    handler = Noting(wait)
    server = attached(handler)
    server.server.use(Sometimes("a"))
    server.server.use(Sometimes("b"))
    peer = server.open(then=frame(TEXT, "first"))
    assert peer.read_message() == "first.."
    messages = ["", "a", "b", "ab", "", "ab", "b", "a"]
    peer.write(b"".join(frame(TEXT, msg) for msg in messages))
    assert [peer.read_message() for _ in messages] == [f"{msg}.." for msg in messages]
    peer.text("fail")
    assert peer.read_close()[0] == 1011


def test_error_within_a_chain_that_begins_at_once_waits_its_turn(
    attached: Make,
) -> None:
    class Failing(Middleware):
        async def on_open(self, client: Any) -> None:
            if client.path == "/fail":
                raise ZeroDivisionError

    class Forgiving(Awaiting):
        async def on_error(self, error: Exception, client: Any) -> None:
            self.note("error", client)
            await self.pass_gate("error")
            self.note("forgiven", client)

    handler = Forgiving("error")
    server = attached(handler)
    server.server.use(Failing())
    server.open(then=frame(TEXT, "first")).read_message()
    server.turn(5)
    handler.events.clear()
    peer = server.open("/fail", then=frame(TEXT, "a"))
    server.until(lambda: "error" in handler.names)
    server.turn(5)
    assert handler.names == ["open", "error"]
    handler.release("error")
    assert peer.read_message() == "a"
    assert handler.names == ["open", "error", "forgiven", "message", "done"]


def get(server: Attached, path: str) -> bytes:
    peer = server.join()
    peer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return peer.read_head()


def test_requests_that_wait_for_nothing_need_no_turn(attached: Make) -> None:
    tasks: list[int] = []

    async def answer(request: Any) -> Any:
        tasks.append(id(asyncio.current_task()))
        if request.path == "/cancel":
            raise asyncio.CancelledError
        if request.path == "/wait":
            await asyncio.sleep(0)
        return "yes"

    server = attached()
    server.server.http("/*")(answer)
    for path in ("/", "/", "/", "/wait", "/wait", "/"):
        assert get(server, path).startswith(b"HTTP/1.1 200 ")
    assert get(server, "/cancel").startswith(b"HTTP/1.1 500 ")
    assert len(set(tasks)) < len(tasks), "each has a task of its own"
    assert not asyncio.all_tasks(server.loop)


def test_on_request_that_waits_for_nothing_lets_in_at_once(attached: Make) -> None:
    class Asking(Awaiting):
        async def on_request(self, request: Any) -> Any:
            if request.path == "/cancel":
                raise asyncio.CancelledError
            return Response(403) if request.path == "/no" else {"path": request.path}

    handler = Asking()
    server = attached(handler)
    for _ in range(3):
        server.open("/yes")
        assert handler.events[-1].client.session == {"path": "/yes"}
    for path, status in {"/no": b"403", "/cancel": b"500"}.items():
        peer = server.join()
        peer.write(request(path))
        assert peer.read_head()[9:12] == status


def test_context_of_a_callback_goes_on_with_it(attached: Make) -> None:
    name = contextvars.ContextVar("name", default="nobody")

    async def remember(msg: Any, client: Any) -> Any:
        before = name.get()
        name.set(msg)
        if msg != "at once":
            await asyncio.sleep(0)
        return f"{before} {name.get()}"

    _, _, peer = opened(attached, remember)
    for msg in ("at once", "later", "at once", "later"):
        peer.text(msg)
        assert peer.read_message() == f"nobody {msg}"


def test_timer_of_the_loop_is_not_renewed_by_each_turn(attached: Make) -> None:
    server, _, peer = opened(attached, echo)
    timers: list[float] = []
    call_later = server.loop.call_later

    def count(delay: float, *args: Any, **kwargs: Any) -> Any:
        timers.append(delay)
        return call_later(delay, *args, **kwargs)

    server.loop.call_later = count  # type: ignore[method-assign]
    for number in range(20):
        peer.text(str(number))
        assert peer.read_message() == str(number)
    assert len(timers) <= 2
    called: list[bool] = []
    server.server.call_later(0.001, lambda: called.append(True))
    server.until(lambda: timers and min(timers) <= 0.001)
    server.clock.now += 0.001
    server.until(lambda: called)
