"""`workers`: how the option is given, and who refuses it; the rest is in `cluster`."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from typing import Any

import pytest
from harness import Driven, Echo, running

from simple_ws import InvalidState, Server, WebSocket

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0, ValueError, "workers must be at least 1 processes, not 0"),
        (-1, ValueError, "workers must be at least 1 processes, not -1"),
        (1025, ValueError, "workers must be at most 1,024, not 1025"),
        ("4", TypeError, "workers must be a whole number of processes, not '4'"),
        (True, TypeError, "workers must be a whole number of processes, not True"),
        (2.0, TypeError, "workers must be a whole number of processes, not 2.0"),
        (None, TypeError, "workers must be a whole number of processes, not None"),
    ],
)
def test_wrong_number_is_refused(value: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^{text}$"):
        Server("127.0.0.1", 0, workers=value)


def test_option_is_one_of_the_server() -> None:
    with pytest.raises(ValueError, match="workers is an option of the server"):
        Server().mount("/", WebSocket(workers=2))


def test_one_worker_is_this_process() -> None:
    handler = Echo()
    with running(handler, workers=1) as server:
        assert server.stats()["connections"]["open"] == 0
        assert "workers" not in server.stats()


def test_other_ways_to_serve_refuse_workers() -> None:
    server = Server("127.0.0.1", 0, workers=2)
    text = r"^{}\(\) serves in one process: call run\(\) for workers=2, or leave the "
    for name in ("start", "poll", "fileno"):
        with pytest.raises(InvalidState, match=text.format(name)):
            getattr(server, name)()

    async def attach() -> None:
        with pytest.raises(InvalidState, match=text.format("attach")):
            server.attach()
        with pytest.raises(InvalidState, match=text.format("serve_async")):
            await server.serve_async()

    asyncio.run(attach())


def test_threads_are_refused_by_name() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait, name="of a pool", daemon=True)
    thread.start()
    try:
        with pytest.raises(InvalidState, match=r"'of a pool'.*: start these in on"):
            Server("127.0.0.1", 0, workers=2).run()
    finally:
        over.set()
        thread.join()


def test_system_without_fork_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork", raising=False)
    with pytest.raises(InvalidState, match=r"workers need os\.fork"):
        Server("127.0.0.1", 0, workers=2).run()


def test_async_callback_is_refused() -> None:
    class Slow(WebSocket):
        async def on_message(self, msg: Any, client: Any) -> None: ...

    server = Server("127.0.0.1", 0, workers=2)
    server.mount("/", Slow())
    with pytest.raises(InvalidState, match="on_message is async"):
        server.run()


def test_server_that_only_listens_can_be_stopped() -> None:
    server = Server("127.0.0.1", 0, workers=2)
    server.listen()
    with pytest.raises(InvalidState, match="listens already"):
        server.listen()
    port = server.port
    server.stop()
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_callbacks_are_called_without_workers_too() -> None:
    told: list[Any] = []
    server = Server("127.0.0.1", 0)
    server.on_worker_start(lambda worker: told.append(("start", worker)))

    @server.on_worker_stop
    def stop(worker: Any) -> None:
        told.append(("stop", worker))
        raise RuntimeError("is logged")

    server.start()
    ((_, worker),) = told
    assert (worker.number, worker.count, worker.pid) == (1, 1, os.getpid())
    server.stop()
    assert told == [("start", worker), ("stop", worker)]


def test_start_that_fails_fails_the_server() -> None:
    server = Server("127.0.0.1", 0)

    @server.on_worker_start
    def begin(worker: Any) -> None:
        raise RuntimeError("no database")

    with pytest.raises(RuntimeError, match="no database"):
        server.start()
    with pytest.raises(RuntimeError, match="no database"):
        server.run()


def test_wrong_callbacks_are_refused() -> None:
    server = Server()

    async def later(worker: Any) -> None: ...

    with pytest.raises(TypeError, match=r"on_worker_start must be a function of \(wor"):
        server.on_worker_start(lambda: None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="on_worker_stop must not be async"):
        server.on_worker_stop(later)


@pytest.mark.parametrize("once", [None, 1, "yes"])
def test_once_is_true_or_false(once: Any) -> None:
    with pytest.raises(TypeError, match="once must be True or False"):
        Server().every(1, print, once=once)


def test_once_changes_nothing_without_workers() -> None:
    with Driven(Echo()) as driven:
        calls: list[int] = []
        driven.server.every(1, lambda: calls.append(1), once=True)
        driven.advance(1)
        assert calls == [1]
