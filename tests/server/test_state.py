"""The states of a server: `state.STEPS`, and the effect of each public method."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from simple_ws import Server
from simple_ws.errors import InvalidState
from simple_ws.server import state as states
from simple_ws.server.state import STEPS, ServerState, step

#: What brings a server into a state, from NEW on.
WAYS: dict[ServerState, Callable[[Server], object]] = {
    ServerState.NEW: lambda server: None,
    ServerState.LISTENING: lambda server: server.listen(),
    ServerState.RUNNING: lambda server: server.poll(),
    ServerState.STOPPING: lambda server: (server.poll(), server._begin_stop(10)),
    ServerState.ABORTING: lambda server: (server.poll(), server._abort()),
    ServerState.STOPPED: lambda server: (server.listen(), server.stop()),
}


@pytest.mark.parametrize(
    ("now", "to"), list(itertools.product(ServerState, ServerState))
)
def test_only_steps_of_the_table_are_taken(now: ServerState, to: ServerState) -> None:
    if to in STEPS[now]:
        assert step(now, to) is to
    else:
        with pytest.raises(AssertionError, match=f"{now.name} cannot be {to.name}"):
            step(now, to)


def test_head_comment_names_every_state() -> None:
    assert {state.name for state in ServerState} <= set(
        (inspect.getdoc(states) or "").replace("(", " ").split()
    )
    assert set(STEPS) == set(ServerState)


@pytest.fixture(params=WAYS, ids=lambda state: state.name)
def server(request: Any) -> Any:
    server = Server("127.0.0.1", 0)
    WAYS[request.param](server)
    assert server._state is request.param
    yield server
    if server._run is not None:
        server._tear_down()
    assert server._state in (ServerState.NEW, ServerState.STOPPED)


def is_refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except InvalidState:
        return True
    return False


def test_listen_begins_a_run_where_there_is_none(server: Server) -> None:
    refused = server._state not in (ServerState.NEW, ServerState.STOPPED)
    assert is_refused(server.listen) is refused
    assert server._run is not None


def test_start_is_refused_while_it_runs(server: Server) -> None:
    refused = server._state not in (
        ServerState.NEW,
        ServerState.LISTENING,
        ServerState.STOPPED,
    )
    assert is_refused(server.start) is refused
    if not refused:
        assert server._state is ServerState.RUNNING
        server.stop()
        assert server._state is ServerState.STOPPED


def test_poll_tells_that_it_has_stopped(server: Server) -> None:
    goes_on = server._state in (
        ServerState.NEW,
        ServerState.LISTENING,
        ServerState.RUNNING,
    )
    assert server.poll() is goes_on


def test_stop_ends_a_run(server: Server) -> None:
    never_ran = server._state is ServerState.NEW
    server.stop()
    assert server._run is None
    assert server._state is (ServerState.NEW if never_ran else ServerState.STOPPED)


def test_calls_in_threads_are_taken_while_it_runs(server: Server) -> None:
    refused = server._state in (
        ServerState.NEW,
        ServerState.LISTENING,
        ServerState.STOPPED,
    )
    assert is_refused(lambda: server.run_in_thread(int)) is refused


def test_reactor_is_that_of_the_run(server: Server) -> None:
    run = server._run
    if run is None:
        assert server.reactor.buffered == 0
    else:
        assert server.reactor is run.reactor


def test_each_run_has_its_own_objects() -> None:
    server = Server("127.0.0.1", 0)
    runs = []
    for _ in range(2):
        server.listen()
        runs.append(server._run)
        server.stop()
    first, second = runs
    assert first is not second
    assert first is not None
    assert second is not None
    for name in ("reactor", "log", "pending", "upgrades", "closing"):
        assert getattr(first, name) is not getattr(second, name)
    assert first.log.counts is second.log.counts


def test_asyncio_loop_that_was_closed_under_it_ends_the_run() -> None:
    server = Server("127.0.0.1", 0)
    loop = asyncio.new_event_loop()
    server.attach(loop)
    loop.close()
    assert server._state is ServerState.RUNNING
    server.stop()
    assert server._state is ServerState.STOPPED


def test_failed_beginning_leaves_nothing(monkeypatch: Any) -> None:
    server = Server("127.0.0.1", 0)

    def fail(*args: object, **options: object) -> None:
        raise OSError("too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("simple_ws.server.life.Run", fail)
        with pytest.raises(OSError, match="too many"):
            server.listen()
    assert server._state is ServerState.NEW
    server.listen()
    server.stop()
