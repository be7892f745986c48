"""Worker threads: the pool, calls with a future, and callbacks that may block."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any

import pytest
from harness import (
    DEADLINE,
    TEXT,
    Driven,
    Echo,
    Recorder,
    close_frame,
    frame,
    open_peer,
    queues_of,
    request,
    running,
    wait_for_end,
)

import simple_ws
from simple_ws import (
    AuthenticationError,
    FirstMessageAuth,
    InvalidState,
    Middleware,
    Radio,
    Server,
    WebSocket,
    in_thread,
)
from simple_ws.loop.workers import Call, Pool


class Gate:
    """Holds threads back until the test lets them pass."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._lock = threading.Lock()
        self.arrived = 0

    def wait(self) -> None:
        with self._lock:
            self.arrived += 1
        assert self._open.wait(DEADLINE), "nobody opened the gate"

    def open(self) -> None:
        self._open.set()


class Task:
    """A job that waits for a gate."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.thread = ""

    def run(self) -> None:
        self.thread = threading.current_thread().name
        self.gate.wait()


def wait_for(condition: Callable[[], object]) -> None:
    """Wait for what threads bring about."""
    end = time.monotonic() + DEADLINE
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        pause.wait(0.001)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open()


# The pool


def test_pool_makes_threads_when_they_are_needed(gate: Gate) -> None:
    pool = Pool("worker", 2, 10)
    assert not pool.busy
    tasks = [Task(gate) for _ in range(5)]
    assert pool.submit(tasks[0])
    wait_for(lambda: gate.arrived == 1)
    assert tasks[0].thread == "worker 1"
    for task in tasks[1:]:
        assert pool.submit(task)
    wait_for(lambda: gate.arrived == 2)
    assert [task.thread for task in tasks] == ["worker 1", "worker 2", "", "", ""]
    gate.open()
    wait_for(lambda: not pool.busy)
    assert gate.arrived == 5
    pool.end()


def test_pool_has_a_limit(gate: Gate) -> None:
    pool = Pool("worker", 1, 2)
    pool.submit(Task(gate))
    wait_for(lambda: gate.arrived == 1)
    assert [pool.submit(Task(gate)) for _ in range(3)] == [True, True, False]
    assert pool.submit(Task(gate), limited=False)
    pool.end()


def test_pool_that_has_ended_does_what_is_in_and_no_more(gate: Gate) -> None:
    idle = threading.Event()
    pool = Pool("worker", 1, 10, idle.set)
    first, second = Task(gate), Task(gate)
    pool.submit(first)
    wait_for(lambda: gate.arrived == 1)
    pool.submit(second)
    assert pool.end() == [first]
    assert not pool.submit(Task(gate))
    gate.open()
    assert idle.wait(DEADLINE)
    assert gate.arrived == 2
    wait_for(lambda: not [t for t in threading.enumerate() if t.name == "worker 1"])


def test_pool_gives_back_what_has_not_begun(gate: Gate) -> None:
    pool = Pool("worker", 1, 10)
    pool.submit(Task(gate))
    wait_for(lambda: gate.arrived == 1)
    waiting = [Task(gate), Task(gate)]
    for task in waiting:
        pool.submit(task)
    assert pool.withdraw() == waiting
    gate.open()
    pool.end()
    wait_for(lambda: not pool.busy)
    assert gate.arrived == 1


def test_pool_knows_its_threads() -> None:
    pool = Pool("worker", 1, 10)
    answers: list[bool] = []

    class Ask:
        def run(self) -> None:
            answers.append(pool.is_worker())

    pool.submit(Ask())
    wait_for(lambda: answers)
    assert answers == [True]
    assert not pool.is_worker()
    pool.end()


def fail() -> None:
    raise ZeroDivisionError("one over none")


def test_call_that_fails_is_logged_when_nobody_asks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gc.disable()
    try:
        call: Call[None] = Call(fail)
        call.run()
        assert caplog.records == []
        del call
        assert "failed in a thread; the error was never retrieved" in caplog.text
        assert "ZeroDivisionError: one over none" in caplog.text
    finally:
        gc.enable()


@pytest.mark.parametrize("ask", ["result", "exception", "wrap"])
def test_call_that_fails_is_not_logged_when_somebody_asks(
    ask: str, caplog: pytest.LogCaptureFixture
) -> None:
    call: Call[None] = Call(fail)
    call.run()

    async def wait(call: Call[None]) -> None:
        await asyncio.wrap_future(call)

    with suppress(ZeroDivisionError):
        if ask == "wrap":
            asyncio.run(wait(call))
        else:
            getattr(call, ask)()
    del call
    gc.collect()
    assert caplog.records == []


def test_call_that_was_cancelled_does_not_happen(
    caplog: pytest.LogCaptureFixture,
) -> None:
    call: Call[None] = Call(fail)
    assert call.cancel()
    call.run()
    assert call.cancelled()
    del call
    assert caplog.records == []


# Calls of users


def add(a: int, b: int) -> tuple[int, threading.Thread]:
    return a + b, threading.current_thread()


def test_function_runs_in_a_thread_and_its_result_is_to_be_had() -> None:
    with running(Echo()) as server:
        future = server.run_in_thread(
            lambda a, b: (a + b, threading.current_thread()), 1, 2
        )
        assert isinstance(future, Future)
        result, thread = future.result(DEADLINE)
        assert result == 3
        assert thread.daemon
        assert thread.name == "simple_ws worker 1"
        with pytest.raises(ZeroDivisionError):
            server.run_in_thread(fail).result(DEADLINE)


def test_number_of_threads_is_an_option(gate: Gate) -> None:
    with running(Echo(), worker_threads=2) as server:
        futures = [server.run_in_thread(gate.wait) for _ in range(5)]
        wait_for(lambda: gate.arrived == 2)
        assert [future.running() for future in futures].count(True) == 2
        gate.open()
        for future in futures:
            future.result(DEADLINE)


@pytest.mark.parametrize("value", [0, -1, 1001])
def test_number_of_threads_is_checked(value: int) -> None:
    with pytest.raises(ValueError, match=f"worker_threads must be at .*not {value}"):
        Server(worker_threads=value)
    with pytest.raises(TypeError, match="worker_threads must be a whole number"):
        Server(worker_threads="8")


def test_too_many_calls_are_refused(gate: Gate) -> None:
    with running(Echo(), worker_threads=1) as server:
        server.run_in_thread(gate.wait)
        wait_for(lambda: gate.arrived == 1)
        futures = [server.run_in_thread(int) for _ in range(1000)]
        with pytest.raises(InvalidState, match="1,000 calls are waiting for a thread"):
            server.run_in_thread(int)
        gate.open()
        assert [future.result(DEADLINE) for future in futures] == [0] * 1000


def test_calls_need_a_server_that_runs() -> None:
    server = Server("127.0.0.1", 0)
    with pytest.raises(InvalidState, match="does not run"):
        server.run_in_thread(int)
    server.start()
    server.stop()
    with pytest.raises(InvalidState, match="does not run"):
        server.run_in_thread(int)


def test_what_is_no_blocking_function_is_refused() -> None:
    async def later() -> None:
        """Never called."""

    with running(Echo()) as server:
        for wrong in (5, later, functools.partial(later)):
            with pytest.raises(TypeError, match="must be one that blocks"):
                server.run_in_thread(wrong)  # type: ignore[arg-type]


def test_stop_waits_for_calls_as_long_as_it_drains(gate: Gate) -> None:
    with Driven(Echo(), worker_threads=1) as driven:
        server = driven.server
        first, second = server.run_in_thread(gate.wait), server.run_in_thread(int)
        wait_for(lambda: gate.arrived == 1)
        driven.stop_begins(10)
        driven.turn(5)
        assert driven.running
        gate.open()
        driven.until(lambda: not driven.running)
        assert first.done()
        assert second.result() == 0
        assert driven.clock.now == 1000


def test_stop_cancels_calls_that_wait_when_the_drain_is_over(gate: Gate) -> None:
    with Driven(Echo(), worker_threads=1) as driven:
        server = driven.server
        first, second = server.run_in_thread(gate.wait), server.run_in_thread(int)
        wait_for(lambda: gate.arrived == 1)
        driven.stop_begins(10)
        driven.turn()
        driven.advance(10)
        assert not driven.running
        assert first.running()
        with pytest.raises(CancelledError):
            second.result(0)


def test_threads_end_with_the_server() -> None:
    def workers() -> list[str]:
        names = (thread.name for thread in threading.enumerate())
        return [name for name in names if name.startswith("simple_ws worker")]

    with running(Echo()) as server:
        server.run_in_thread(int).result(DEADLINE)
        assert workers()
    wait_for(lambda: not workers())


# Callbacks in threads


class Working(Recorder):
    """Every callback in a thread; a message with a gate waits for it."""

    def __init__(self, *gates: str, **options: Any) -> None:
        super().__init__(**options)
        self.gates = {name: Gate() for name in gates}
        self.loop_thread = threading.get_ident()

    def pass_gate(self, name: str) -> None:
        assert threading.get_ident() != self.loop_thread
        if name in self.gates:
            self.gates[name].wait()

    @in_thread
    def on_open(self, client: Any) -> None:
        self.note("open", client)
        self.pass_gate("open")

    @in_thread
    def on_message(self, msg: Any, client: Any) -> Any:
        self.note("message", client, msg)
        self.pass_gate(msg)
        self.note("done", client, msg)
        return msg

    @in_thread
    def on_close(self, client: Any) -> None:
        super().on_close(client)
        self.pass_gate("close")
        self.note("closed", client)


@pytest.fixture
def make() -> Iterator[Callable[..., Driven]]:
    made: list[Driven] = []

    def make_driven(handler: Any, **options: Any) -> Driven:
        driven = Driven(handler, **options)
        made.append(driven)
        return driven

    yield make_driven
    for driven in made:
        for gate in getattr(driven.handler, "gates", {}).values():
            gate.open()
        driven.__exit__()


Make = Callable[..., Driven]


def test_callbacks_of_a_client_run_one_after_the_other(make: Make) -> None:
    handler = Working("open", "a")
    driven = make(handler)
    peer = driven.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
    driven.until(lambda: handler.gates["open"].arrived)
    driven.turn(5)
    assert handler.names == ["open"]
    handler.gates["open"].open()
    driven.until(lambda: handler.of("message"))
    driven.turn(5)
    assert handler.of("message") == ["a"]
    handler.gates["a"].open()
    assert [peer.read_message(), peer.read_message()] == ["a", "b"]
    peer.leave()
    driven.until(lambda: "closed" in handler.names)
    assert handler.names == [
        *("open", "message", "done", "message", "done", "close", "closed")
    ]


def test_callbacks_of_the_loop_keep_their_order_among_those_of_threads(
    make: Make,
) -> None:
    class Mixed(Recorder):
        @in_thread
        def on_message(self, msg: Any, client: Any) -> Any:
            gate.wait()
            self.note("message", client, msg)

    gate = Gate()
    handler = Mixed()
    driven = make(handler)
    peer = driven.open(then=frame(TEXT, "a") + frame(9, b"1") + close_frame(1000))
    assert peer.read_frame() == (0x8A, b"1")
    driven.turn(5)
    assert handler.names == ["open"]
    gate.open()
    driven.until(lambda: "close" in handler.names)
    assert handler.names == ["open", "message", "ping", "close"]


def test_nobody_else_waits_for_a_callback_that_blocks(make: Make) -> None:
    handler = Working("a")
    driven = make(handler)
    first, second = driven.open(then=frame(TEXT, "a")), driven.open()
    driven.until(lambda: handler.gates["a"].arrived)
    second.text("b")
    assert second.read_message() == "b"
    assert handler.of("done") == ["b"]
    first.close()


def test_clients_never_wait_for_a_limit_of_calls(make: Make) -> None:
    handler = Working("a")
    driven = make(handler, worker_threads=1)
    peers = [driven.open(then=frame(TEXT, "a")) for _ in range(20)]
    driven.pending._pool._limit = 3
    driven.until(lambda: handler.gates["a"].arrived)
    for peer in peers:
        peer.text("b")
    handler.gates["a"].open()
    for peer in peers:
        assert [peer.read_message(), peer.read_message()] == ["a", "b"]


def test_nothing_more_is_read_while_many_wait(make: Make) -> None:
    handler = Working("0")
    driven = make(handler)
    texts = [str(number) for number in range(300)]
    peer = driven.open(then=b"".join(frame(TEXT, text) for text in texts))
    driven.until(lambda: handler.gates["0"].arrived)
    driven.turn(5)
    client = handler.client()
    assert client._paused_by_callbacks
    assert len(queues_of(driven.server)[client].waiting) <= 16
    handler.gates["0"].open()
    assert [peer.read_message() for _ in texts] == texts
    assert handler.of("message") == texts


def test_callback_that_raises_ends_its_client(make: Make) -> None:
    class Failing(Recorder):
        @in_thread
        def on_message(self, msg: Any, client: Any) -> Any:
            raise AuthenticationError("no") if msg == "auth" else ZeroDivisionError

    handler = Failing()
    driven = make(handler)
    failed = driven.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
    assert failed.read_close()[0] == 1011
    refused = driven.open(then=frame(TEXT, "auth"))
    assert refused.read_close()[0] == 1008
    assert len(handler.of("error")) == 1


def test_callback_that_ends_its_thread_ends_its_client(make: Make) -> None:
    class Leaving(Echo):
        @in_thread
        def on_message(self, msg: Any, client: Any) -> Any:
            raise SystemExit

    driven = make(Leaving(), worker_threads=1)
    assert driven.open(then=frame(TEXT, "a")).read_close()[0] == 1011
    assert driven.open(then=frame(TEXT, "a")).read_close()[0] == 1011


def test_error_may_be_handled_in_a_thread(make: Make) -> None:
    class Forgiving(Recorder):
        def on_message(self, msg: Any, client: Any) -> Any:
            if msg == "a":
                raise ZeroDivisionError
            return msg

        @in_thread
        def on_error(self, error: Exception, client: Any) -> None:
            gate.wait()
            self.note("error", client)

    gate = Gate()
    handler = Forgiving()
    driven = make(handler)
    peer = driven.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
    wait_for(lambda: gate.arrived)
    gate.open()
    assert peer.read_message() == "b"
    assert handler.names == ["open", "error"]


def test_what_a_callback_writes_comes_before_its_answer(make: Make) -> None:
    class Talking(WebSocket):
        @in_thread
        def on_message(self, msg: Any, client: Any) -> Any:
            client.write_message("one moment")
            self.server.publish("nothing", "to nobody")
            return "done"

    peer = make(Talking()).open(then=frame(TEXT, "a"))
    assert [peer.read_message(), peer.read_message()] == ["one moment", "done"]


def test_client_that_leaves_meanwhile_is_told_of_last(make: Make) -> None:
    handler = Working("a")
    driven = make(handler)
    peer = driven.open(then=frame(TEXT, "a"))
    driven.until(lambda: handler.gates["a"].arrived)
    peer.close()
    driven.until(lambda: not handler.client().is_open())
    handler.gates["a"].open()
    driven.until(lambda: "closed" in handler.names)
    assert handler.names == ["open", "message", "done", "close", "closed"]


def test_handshake_may_wait_for_a_thread(make: Make) -> None:
    class Asking(Recorder):
        @in_thread
        def on_request(self, request: Any) -> Any:
            gate.wait()
            if "secret" not in request.headers.get("Cookie", ""):
                raise AuthenticationError("who?")
            return "user-7"

    gate = Gate()
    handler = Asking()
    driven = make(handler)
    good, bad = driven.join(), driven.join()
    good.write(request("/", "Cookie: secret=1"))
    bad.write(request("/"))
    driven.until(lambda: gate.arrived == 2)
    assert not driven.server.clients
    gate.open()
    assert good.read_head().startswith(b"HTTP/1.1 101 ")
    assert bad.read_head().startswith(b"HTTP/1.1 401 ")
    assert handler.client().session == "user-7"


def test_too_many_handshakes_for_the_threads_are_refused(make: Make) -> None:
    class Asking(Recorder):
        @in_thread
        def on_request(self, request: Any) -> Any:
            gate.wait()

    gate = Gate()
    driven = make(Asking(), worker_threads=1)
    driven.pending._pool._limit = 1
    peers = [driven.join()]
    peers[0].write(request())
    driven.until(lambda: gate.arrived)
    peers += [driven.join(), driven.join()]
    for peer in peers[1:]:
        peer.write(request())
    head = peers[2].read_head()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: " in head
    gate.open()
    for peer in peers[:2]:
        assert peer.read_head().startswith(b"HTTP/1.1 101 ")


def test_function_of_a_route_may_block(make: Make) -> None:
    driven = make(Echo())

    @driven.server.route("/slow")
    @in_thread
    def slow(msg: Any, client: Any) -> Any:
        return f"{msg} {threading.current_thread().name}"

    assert slow.__name__ == "slow"
    peer = driven.open("/slow", then=frame(TEXT, "a"))
    assert peer.read_message() == "a simple_ws worker 1"


def test_middlewares_may_block(make: Make) -> None:
    class Slow(Middleware):
        @in_thread
        def on_message(self, msg: Any, client: Any) -> Any:
            return f"{msg} {threading.get_ident() != loop_thread}"

    loop_thread = threading.get_ident()
    handler = Recorder()
    driven = make(handler)
    driven.server.use(Slow())
    driven.open(then=frame(TEXT, "a"))
    driven.until(lambda: handler.of("message"))
    assert handler.of("message") == ["a True"]


def test_check_of_a_first_message_may_block(make: Make) -> None:
    @in_thread
    def check(msg: Any) -> str:
        gate.wait()
        if msg != "secret":
            raise AuthenticationError("wrong")
        return "user-7"

    gate = Gate()
    handler = Echo()
    driven = make(handler)
    driven.server.use(FirstMessageAuth(check))
    good = driven.open(then=frame(TEXT, "secret") + frame(TEXT, "hello"))
    bad = driven.open(then=frame(TEXT, "guess") + frame(TEXT, "hello"))
    wait_for(lambda: gate.arrived == 2)
    assert handler.of("message") == []
    gate.open()
    assert good.read_message() == "hello"
    assert bad.read_close()[0] == 1008
    assert handler.of("message") == ["hello"]
    assert driven.server.is_online("user-7")


def test_radio_may_produce_in_a_thread(make: Make) -> None:
    driven = make(Recorder(ping=False))
    driven.server.use(Radio(10, in_thread(lambda: threading.current_thread().name)))
    peer = driven.open()
    for _ in range(3):
        driven.advance(10)
        assert str(peer.read_message()).startswith("simple_ws worker ")


def test_timer_in_a_thread_does_not_overlap(make: Make) -> None:
    gate = Gate()
    driven = make(Recorder())
    driven.server.every(10, in_thread(gate.wait))
    driven.advance(10)
    wait_for(lambda: gate.arrived == 1)
    driven.advance(30)
    assert not driven.pending._pool._queue
    gate.open()
    driven.until(lambda: not driven.pending.busy)
    driven.advance(10)
    wait_for(lambda: gate.arrived == 2)


def test_stop_waits_for_callbacks_in_threads(make: Make) -> None:
    handler = Working("a", "close")
    driven = make(handler)
    peer = driven.open(then=frame(TEXT, "a"))
    driven.until(lambda: handler.gates["a"].arrived)
    driven.stop_begins(10)
    assert peer.leave()[0] == 1001
    driven.turn(5)
    assert driven.running
    handler.gates["a"].open()
    driven.until(lambda: handler.gates["close"].arrived)
    assert driven.running
    handler.gates["close"].open()
    driven.until(lambda: not driven.running)
    assert handler.names[-1] == "closed"


def test_stop_ends_with_the_last_callback() -> None:
    handler = Working("a")
    handler.loop_thread = 0
    with running(handler) as server:
        peer = open_peer(server)
        peer.text("a")
        handler.wait_for("message")
        stopper = threading.Thread(target=server.stop, args=(1000,))
        stopper.start()
        assert peer.leave()[0] == 1001
        assert not server._run.finished.is_set()
        handler.gates["a"].open()
        stopper.join(DEADLINE)
        assert not stopper.is_alive()
    assert handler.names[-1] == "closed"


def test_last_callback_runs_though_another_one_hangs(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Working("a")
    driven = make(handler, close_timeout=2)
    driven.open(then=frame(TEXT, "a") + frame(TEXT, "b"))
    driven.until(lambda: handler.gates["a"].arrived)
    driven.stop_begins(10)
    driven.advance(10)
    assert driven.running
    driven.advance(2)
    assert not driven.running
    assert "1 callbacks did not finish in time" in caplog.text
    wait_for(lambda: "closed" in handler.names)
    assert handler.of("message") == ["a"]
    assert handler.names.count("close") == 1


def test_callback_may_stop_the_server() -> None:
    class Stopping(Recorder):
        @in_thread
        def on_message(self, msg: Any, client: Any) -> Any:
            self.server.stop()
            self.note("stopped", client)

    # So long, it would wait for itself.
    handler = Stopping(close_timeout=1000)
    with (
        running(handler, close_timeout=1000) as server,
        open_peer(server) as peer,
    ):
        peer.text("a")
        assert peer.read_close()[0] == 1001
        peer.write(close_frame(1000))
        handler.wait_for("stopped")
        handler.wait_for("close")


# Every way of running


def drive(server: Server) -> Any:
    with open_peer(server) as peer:
        peer.text("a")
        answer = peer.read_message()
        peer.leave()
    server.stop()
    return answer


def watch(way: str, server: Server) -> None:
    """Have a server run in this way until it ends."""
    if way == "run":
        server.run()
    elif way == "start":
        server.start()
        wait_for_end(server)
    elif way == "poll":
        while server.poll(0.1):
            pass
    else:
        asyncio.run(server.serve_async())


@pytest.mark.parametrize("way", ["run", "start", "poll", "serve_async"])
def test_callbacks_run_in_threads_however_the_server_runs(way: str) -> None:
    handler = Working()
    handler.loop_thread = 0
    server = Server("127.0.0.1", 0)
    server.mount("*", handler)
    server.listen()
    answers: list[Any] = []
    driver = threading.Thread(target=lambda: answers.append(drive(server)))
    driver.start()
    watch(way, server)
    driver.join()
    assert answers == ["a"]
    assert handler.names == ["open", "message", "done", "close", "closed"]


# Misuse


def test_only_functions_that_block_are_for_threads() -> None:
    async def later() -> None:
        """Never called."""

    with pytest.raises(TypeError, match="in_thread is for functions, not 5"):
        in_thread(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not for async functions"):
        in_thread(later)


def test_function_in_a_thread_keeps_its_signature() -> None:
    class Wrong(WebSocket):
        @in_thread
        def on_message(self, msg: Any) -> Any:  # type: ignore[override]
            """Takes too few arguments."""

    with pytest.raises(TypeError, match=r"Wrong\.on_message must be a function of"):
        Server().mount("*", Wrong())


def test_subprotocol_cannot_be_chosen_in_a_thread() -> None:
    class Late(WebSocket):
        @in_thread
        def select_subprotocol(self, offered: Any) -> Any:
            """Never called."""

    with pytest.raises(TypeError, match="select_subprotocol must not be async"):
        Server().mount("*", Late())


def test_callback_that_comes_while_clients_are_in_is_refused(make: Make) -> None:
    handler = Echo()
    driven = make(handler)
    peer = driven.open(then=frame(TEXT, "a"))
    assert peer.read_message() == "a"
    blocking = in_thread(lambda msg, client: msg * 2)
    with pytest.raises(
        InvalidState, match=r"Echo\.on_message must be in_thread before"
    ):
        handler.on_message = blocking  # type: ignore[method-assign]
    peer.leave()
    driven.turn(3)
    handler.on_message = blocking  # type: ignore[method-assign]
    assert driven.open(then=frame(TEXT, "ab")).read_message() == "abab"


def test_in_thread_is_public() -> None:
    assert "in_thread" in simple_ws.__all__


def test_result_that_nobody_runs_says_what_it_is() -> None:
    @in_thread
    def work() -> None:
        """Never called."""

    assert repr(work()).startswith("<InThread functools.partial(<function")


# --- Jobs that wait for somebody else -------------------------------------------------


class Waiter:
    """A job that steps aside until it is told to come back."""

    def __init__(self, pool: Pool, counts: list[int], lock: Any) -> None:
        self.pool, self.counts, self.lock = pool, counts, lock
        self.away, self.back, self.done = (threading.Event() for _ in range(3))

    def _enter(self, change: int) -> None:
        with self.lock:
            self.counts.append(self.counts[-1] + change)

    def run(self) -> None:
        self._enter(1)
        self._enter(-1)
        with self.pool.aside():
            self.away.set()
            assert self.back.wait(DEADLINE)
        self._enter(1)
        self._enter(-1)
        self.done.set()


def test_job_that_steps_aside_leaves_its_place_to_others() -> None:
    pool = Pool("aside", 2, 100)
    counts, lock = [0], threading.Lock()
    jobs = [Waiter(pool, counts, lock) for _ in range(20)]
    for job in jobs:
        assert pool.submit(job)
    for job in jobs:  # all have begun, though there are two places
        assert job.away.wait(DEADLINE)
    assert pool.busy
    for job in jobs:
        job.back.set()
    for job in jobs:
        assert job.done.wait(DEADLINE)
    assert max(counts) <= 2
    wait_until(lambda: pool._alive == 2)
    assert not pool._aside
    last = Waiter(pool, counts, lock)
    last.back.set()
    assert pool.submit(last)
    assert last.done.wait(DEADLINE)
    pool.end()
    wait_until(lambda: pool._alive == 0)


def test_pool_that_ends_lets_those_aside_come_back() -> None:
    pool = Pool("aside", 1, 100)
    jobs = [Waiter(pool, [0], threading.Lock()) for _ in range(3)]
    for job in jobs:
        pool.submit(job)
        assert job.away.wait(DEADLINE)
    assert set(pool.end()) == set(jobs)
    for job in jobs:
        job.back.set()
        assert job.done.wait(DEADLINE)
    wait_until(lambda: pool._alive == 0)


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.001)
