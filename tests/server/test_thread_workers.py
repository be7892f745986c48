"""`worker_class="thread"`: several loops in threads of one process.

On a Python with a GIL the refusal is switched off, so that the same is tested there.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE, Echo, Peer, Recorder, connect, open_peer, request

from simple_ws import Histograms, InvalidState, Middleware, Server, WebSocket
from simple_ws.server import thread_workers

THREADS = 3
#: Connections among which the system leaves no thread without one.
MANY = 200


@pytest.fixture(autouse=True)
def _gil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_workers, "gil_is_enabled", lambda: False)


def make(handler: WebSocket | None = None, **options: Any) -> Server:
    options = {"workers": THREADS, "worker_class": "thread", **options}
    server = Server("127.0.0.1", 0, **options)
    if handler is not None:
        server.mount("*", handler)
    return server


@contextmanager
def running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.stop(drain=0)


@contextmanager
def spread(server: Server, handler: Recorder) -> Iterator[list[Peer]]:
    """A peer of each thread, in the order of the threads."""
    found: dict[int, Peer] = {}
    with ExitStack() as stack:
        for number in range(MANY):
            peer = stack.enter_context(open_peer(server))
            found.setdefault(loop_of(handler.client(number)), peer)
            if len(found) == THREADS:
                break
        yield [found[number] for number in sorted(found)]


def loop_of(client: Any) -> int:
    """The number of the thread that serves a client."""
    return int(client._host._workers.worker.number)


def clients_of(server: Server) -> list[Any]:
    """The first client of each thread, in the order of the threads."""
    found: dict[int, Any] = {}
    for client in server.clients:
        found.setdefault(loop_of(client), client)
    return [found[number] for number in sorted(found)]


def until(holds: Callable[[], object]) -> None:
    """Wait for what no callback tells."""
    deadline, look = time.monotonic() + DEADLINE, threading.Event()
    while not holds():
        assert time.monotonic() < deadline
        look.wait(0.005)


def refused(server: Server) -> str:
    with connect(server) as peer:
        peer.write(request())
        return peer.read_head().decode()


# The option


def test_python_with_a_gil_refuses_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_workers, "gil_is_enabled", lambda: True)
    text = (
        r'worker_class="thread" needs a free-threaded Python.*PYTHON_GIL=0.*"process"'
    )
    with pytest.raises(ValueError, match=text):
        make()


def test_another_class_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        ValueError, match="must be one of 'process', 'thread', not 'fiber'"
    ):
        make(worker_class="fiber")


def test_it_is_an_option_of_the_server() -> None:
    with pytest.raises(ValueError, match="worker_class is an option of the server"):
        Server().mount("/", WebSocket(worker_class="thread"))


def test_one_worker_is_the_thread_that_serves() -> None:
    handler = Echo()
    with running(make(handler, workers=1)) as server, open_peer(server) as peer:
        assert "workers" not in server.stats()
        handler.client().subscribe("news")
        server.publish("news", "hello")
        assert peer.read_message() == "hello"
        assert server.count("news") == len(server.clients) == 1


def test_other_ways_to_serve_are_refused() -> None:
    server = make()
    text = r"^{}\(\) serves in one thread: call run\(\) or start\(\) for workers=3"
    for name in ("poll", "fileno"):
        with pytest.raises(InvalidState, match=text.format(name)):
            getattr(server, name)()

    async def attach() -> None:
        with pytest.raises(InvalidState, match=text.format("attach")):
            server.attach()

    asyncio.run(attach())


def test_what_no_thread_could_serve_is_refused() -> None:
    class Slow(WebSocket):
        async def on_message(self, msg: Any, client: Any) -> None: ...

    with pytest.raises(InvalidState, match="on_message is async"):
        make(Slow()).start()
    server = make()
    server.live("/live")
    with pytest.raises(InvalidState, match=r'^live\(\) is not for worker_class="thr'):
        server.listen()
    server = make()
    server.asgi("/", _application)
    with pytest.raises(InvalidState, match=r'^asgi\(\) is not for worker_class="thr'):
        server.start()
    with pytest.raises(ValueError, match="memory:// is an engine for one process"):
        make(engine="memory://")


async def _application(scope: Any, receive: Any, send: Any) -> None: ...


# Beginning and ending


def test_callbacks_run_in_the_thread_of_their_client() -> None:
    class Names(Recorder):
        def on_message(self, msg: Any, client: Any) -> str:
            return threading.current_thread().name

    handler = Names()
    with running(make(handler)) as server, spread(server, handler) as peers:
        for number, peer in enumerate(peers, 1):
            peer.text("who?")
            assert peer.read_message() == f"simple_ws worker {number}"


def test_each_thread_begins_and_ends_with_its_hooks() -> None:
    told: list[tuple[str, int, int, str]] = []
    server = make(Echo())

    def note(what: str, worker: Any) -> None:
        name = threading.current_thread().name
        told.append((what, worker.number, worker.count, name))

    server.on_worker_start(lambda worker: note("start", worker))
    server.on_worker_stop(lambda worker: note("stop", worker))
    with running(server):
        wanted = [
            ("start", number, THREADS, f"simple_ws worker {number}")
            for number in range(1, THREADS + 1)
        ]
        assert sorted(told) == wanted
        told.clear()
    assert sorted(told) == [("stop", *each[1:]) for each in wanted]


def test_thread_that_cannot_begin_ends_all_and_is_raised() -> None:
    server = make(Echo())

    @server.on_worker_start
    def begin(worker: Any) -> None:
        if worker.number == 2:
            raise RuntimeError("no database")

    for serve in (server.start, server.run):
        with pytest.raises(RuntimeError, match="no database"):
            serve()
    with socket.create_server(("127.0.0.1", server.port)):
        pass  # nobody listens any more


def test_stop_tells_the_clients_of_all_threads() -> None:
    handler = Recorder()
    server = make(handler)
    with running(server), spread(server, handler) as peers:
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        for peer in peers:
            assert peer.read_close() == (1001, "the server stops")
            peer.close()
        stopper.join(DEADLINE)
        assert not stopper.is_alive()
        assert len(server.clients) == 0


def test_callback_stops_all_threads_and_run_returns() -> None:
    class Stops(Recorder):
        def on_message(self, msg: Any, client: Any) -> None:
            self.server.stop(drain=0)

    handler = Stops()
    server = make(handler)
    server.listen()
    with pytest.raises(InvalidState, match="listens already"):
        server.listen()
    running = threading.Thread(target=server.run)
    running.start()
    with open_peer(server) as peer:
        peer.text("stop")
        running.join(DEADLINE)
        assert not running.is_alive()


def test_server_that_only_listens_can_be_stopped() -> None:
    server = make()
    server.listen()
    server.stop()
    with socket.create_server(("127.0.0.1", server.port)):
        pass


def test_it_serves_again_and_counts_on() -> None:
    handler = Echo()
    server = make(handler)
    for number in range(1, 3):
        with running(server), open_peer(server) as peer:
            peer.text("hello")
            assert peer.read_message() == "hello"
        stats = server.stats()
        assert stats["connections"] == {"open": 0, "opened": number, "dashboards": 0}
        assert stats["total"]["messages_received"] == number


def test_unix_socket_is_shared(tmp_path: Path) -> None:
    handler, path = Echo(), str(tmp_path / "socket")
    server = Server(unix=path, workers=THREADS, worker_class="thread")
    server.mount("*", handler)
    with running(server), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        peer = Peer(sock).shake()
        peer.text("hello")
        assert peer.read_message() == "hello"
    assert not os.path.exists(path)


_PROGRAM = """
import sys, threading
from simple_ws import Server, WebSocket
from simple_ws.server import thread_workers
thread_workers.gil_is_enabled = lambda: False

server = Server("127.0.0.1", 0, workers=2, worker_class="thread", close_timeout=5)

class Echo(WebSocket):
    def on_message(self, msg, client):
        return msg

server.mount("/", Echo())
server.listen()
print(server.port, flush=True)
server.run()
print("over", flush=True)
"""


@contextmanager
def program() -> Iterator[tuple[Any, Peer]]:
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            sock = socket.create_connection(("127.0.0.1", port), DEADLINE)
            with Peer(sock).shake() as peer:
                yield process, peer
        finally:
            process.kill()


def test_signal_stops_gracefully_and_a_second_one_at_once() -> None:
    with program() as (process, peer):
        process.send_signal(signal.SIGTERM)
        assert peer.read_close() == (1001, "the server stops")
        process.send_signal(signal.SIGINT)  # the peer does not answer
        assert process.stdout.readline() == "over\n"
        assert process.wait(DEADLINE) == 0


# Messages for many


@pytest.mark.parametrize("where", ["callback", "elsewhere"])
def test_messages_for_many_reach_the_clients_of_all_threads(where: str) -> None:
    class Sends(Recorder):
        def on_open(self, client: Any) -> None:
            client.subscribe("news")
            client.bind("me")
            super().on_open(client)

        def on_message(self, msg: Any, client: Any) -> None:
            send(msg)

    handler = Sends()
    server = make(handler)
    texts = ("publish", "broadcast", "send_to")

    def send(name: Any) -> None:
        sends: dict[str, Callable[[], object]] = {
            "publish": lambda: server.publish("news", "publish"),
            "broadcast": lambda: server.broadcast("broadcast"),
            "send_to": lambda: server.send_to("me", "send_to"),
        }
        assert sends[name]() == 0

    with running(server), spread(server, handler) as peers:
        until(lambda: server.count("news") == len(server.clients))
        for text in texts:
            if where == "elsewhere":
                send(text)
            else:
                peers[0].text(text)
            for peer in peers:
                assert peer.read_message() == text


def test_all_clients_get_the_messages_of_all_threads_in_one_order() -> None:
    class Relay(Recorder):
        def on_open(self, client: Any) -> None:
            client.subscribe("news")
            super().on_open(client)

        def on_message(self, msg: Any, client: Any) -> None:
            self.server.publish("news", msg)

    handler, count = Relay(), 100
    with running(make(handler)) as server, spread(server, handler) as peers:
        until(lambda: server.count("news") == len(server.clients))
        for number in range(count):
            for index, peer in enumerate(peers):
                peer.text(f"{index} {number}")
        orders = [
            [str(peer.read_message()) for _ in range(count * THREADS)] for peer in peers
        ]
        assert orders[0] == orders[1] == orders[2]
        for index in range(THREADS):
            own = [text for text in orders[0] if text.startswith(f"{index} ")]
            assert own == [f"{index} {number}" for number in range(count)]


def test_excluded_clients_of_any_thread_get_nothing() -> None:
    handler = Recorder()
    with running(make(handler)) as server, spread(server, handler) as peers:
        clients = clients_of(server)
        for client in server.clients:
            client.subscribe("news")
        until(lambda: server.count("news") == len(server.clients))
        server.publish("news", "not for one", exclude=[clients[1]])
        server.publish("news", "for all")
        told = [["not for one", "for all"], ["for all"], ["not for one", "for all"]]
        for peer, texts in zip(peers, told, strict=True):
            assert [peer.read_message() for _ in texts] == texts
        clients[2].publish("news", "of the third")
        for peer in peers[:2]:
            assert peer.read_message() == "of the third"
        server.broadcast("end")
        for peer in peers:
            assert peer.read_message() == "end"


def test_history_is_one_for_all_threads() -> None:
    joins: list[Any] = []

    class Follows(Recorder):
        def on_message(self, msg: Any, client: Any) -> None:
            client.subscribe("log", since=msg)

        def on_join(self, client: Any, topic: str, join: Any) -> None:
            joins.append(join)
            client.write_message("joined")

    handler = Follows()
    server = make(handler)
    server.topic("log", history=10)
    with running(server), spread(server, handler) as peers:
        for number in range(3):
            server.publish("log", str(number), key=f"key {number}")
        server.publish("log", "0", key="key 0")  # it is there already
        texts = ["0", "1", "2"]
        until(lambda: len(server.history("log").result(DEADLINE)) == 3)
        assert [each.msg for each in server.history("log").result(DEADLINE)] == texts
        for peer in peers:
            peer.text("all")
            assert [peer.read_message() for _ in range(4)] == [*texts, "joined"]
        server.publish("log", "3")
        for peer in peers:
            assert peer.read_message() == "3"
        assert len({join.position for join in joins}) == 1


def test_presence_is_that_of_all_threads() -> None:
    class Room(Recorder):
        def on_message(self, msg: Any, client: Any) -> None:
            client.bind(msg)
            client.subscribe("room")

        def on_presence(self, topic: str, member: Any, joined: bool) -> None:
            self.note("presence", None, (member, joined))

    handler = Room()
    server = make(handler, presence_grace=0)
    server.topic("room", presence=True)
    with running(server), spread(server, handler) as peers:
        names = {f"user {number}" for number in range(THREADS)}
        for number, peer in enumerate(peers):
            peer.text(f"user {number}")
        until(lambda: set(server.present("room")) == names)
        assert server.is_online("user 1")
        assert not server.is_online("user 9")
        assert set(server.online()) == names
        peers[0].reset()
        until(lambda: set(server.present("room")) == names - {"user 0"})


def test_middlewares_see_what_is_sent_by_every_thread() -> None:
    class Louder(Middleware):
        def on_send(self, msg: Any, client: Any) -> Any:
            return msg.upper()

    handler = Recorder()
    server = make(handler)
    server.use(Louder())
    with running(server), spread(server, handler) as peers:
        server.broadcast("hello")
        for peer in peers:
            assert peer.read_message() == "HELLO"


# What one sees of the others


def test_clients_and_counts_are_those_of_all_threads() -> None:
    handler = Echo()
    server = make(handler)
    with running(server), spread(server, handler) as peers:
        count = len(server.clients)
        assert len(handler.clients) == count >= THREADS
        for client in handler.clients:
            server.subscribe("news", client)
        until(lambda: server.count("news") == count)
        assert set(server.members("news")) == set(handler.clients)
        server.unsubscribe("news", next(iter(server.clients)))
        until(lambda: server.count("news") == count - 1)
        assert server.cluster.count("news").result(DEADLINE).value == count - 1
        assert len(server.cluster.nodes()) == THREADS
        for peer in peers:
            peer.text("hello")
            assert peer.read_message() == "hello"
        stats = server.stats()
        assert stats["connections"]["open"] == count
        assert stats["handlers"][0]["messages_received"] == THREADS
        each = [worker["connections"]["open"] for worker in stats["workers"]]
        assert sum(each) == count
        assert [worker["worker"] for worker in stats["workers"]] == [1, 2, 3]
    assert len(handler.clients) == 0


def test_histograms_count_for_all_threads_and_once() -> None:
    handler = Recorder()
    server = make(handler)
    server.use(Histograms())
    with running(server), spread(server, handler) as peers:
        for peer in peers:
            peer.text("four")
        handler.wait_for("message", THREADS)
        until(lambda: "on_message Recorder" in sizes_of(server))
        until(lambda: sizes_of(server)["on_message Recorder"]["sum"] == 4 * THREADS)


def sizes_of(server: Server) -> dict[str, Any]:
    return dict(server.stats()["histograms"]["message_bytes"])


def test_client_of_one_thread_is_used_by_another() -> None:
    class Passes(Recorder):
        def on_message(self, msg: Any, client: Any) -> None:
            other = clients_of(self.server)[-1]
            self.server.bind(other, "last")
            self.server.subscribe("news", other)
            other.write_message(msg)
            other.close(4000, "done")

    handler = Passes()
    with running(make(handler)) as server, spread(server, handler) as peers:
        peers[0].text("hello")
        assert peers[-1].read_message() == "hello"
        assert peers[-1].read_close() == (4000, "done")
        with pytest.raises(ValueError, match="belongs to another server"):
            make().subscribe("news", handler.client())
        with pytest.raises(TypeError, match="client must be a Client"):
            server.subscribe("news", None)  # type: ignore[arg-type]


def test_dashboards_and_metrics_show_all_threads() -> None:
    handler = Echo()
    server = make(handler)
    server.dashboard("/_stats", allow=lambda request: True)
    server.metrics()
    with running(server), spread(server, handler), ExitStack() as stack:
        viewers = [stack.enter_context(open_peer(server, "/_stats")) for _ in range(10)]
        count = len(server.clients)
        for _ in range(2):
            for viewer in viewers:
                stats = json.loads(viewer.read_message())
                assert stats["connections"]["open"] == count
                assert len(stats["workers"]) == THREADS
        url = f"http://127.0.0.1:{server.port}/metrics"
        with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
            text = answer.read().decode()
        assert 'worker="3"' in text


def test_new_connections_are_denied_by_all_threads() -> None:
    with running(make(Echo())) as server:
        server.deny_new_connections(503, "later")
        for _ in range(20):
            assert refused(server).startswith("HTTP/1.1 503")
        server.allow_new_connections()
        open_peer(server).close()
        server.deny_new_connections(4000, "never")
        for _ in range(20):
            with open_peer(server) as peer:
                assert peer.read_close() == (4000, "never")


def test_limits_are_divided_among_the_threads() -> None:
    handler = Recorder(max_connections=2 * THREADS)
    server = make(handler, max_connections=2 * THREADS)
    with running(server), ExitStack() as stack:
        for _ in range(MANY):
            peer = stack.enter_context(connect(server))
            peer.write(request())
            peer.read_head()
        assert len(server.clients) == 2 * THREADS
        each = [worker["connections"]["open"] for worker in server.stats()["workers"]]
        assert each == [2] * THREADS


def test_callback_that_is_replaced_is_so_for_all_threads() -> None:
    handler = Recorder()
    with running(make(handler)) as server, spread(server, handler) as peers:
        handler.on_message = lambda msg, client: "new"  # type: ignore[method-assign]
        for peer in peers:
            peer.text("hello")
            assert peer.read_message() == "new"


def test_handlers_are_mounted_while_the_threads_serve() -> None:
    handler = Echo()
    with running(make()) as server:
        server.mount("/later", handler)
        for _ in range(10):
            with open_peer(server, "/later") as peer:
                peer.text("hello")
                assert peer.read_message() == "hello"


# Timers and other threads


def test_timers_are_called_in_each_thread_or_once() -> None:
    names: dict[str, set[str]] = {"each": set(), "once": set(), "late": set()}

    def note(what: str) -> None:
        names[what].add(threading.current_thread().name)

    server = make(Echo())
    each = server.every(0.01, lambda: note("each"))
    server.every(0.01, lambda: note("once"), once=True)
    with running(server):
        until(lambda: len(names["each"]) == THREADS and names["once"])
        each.cancel()
        server.call_later(0.01, lambda: note("late"))
        until(lambda: names["late"])
    assert names["once"] == names["late"] == {"simple_ws worker 1"}


def test_calls_for_threads_of_their_own_come_back_to_the_loop() -> None:
    handler = Recorder()
    with running(make(handler)) as server, spread(server, handler):
        assert server.run_in_thread(lambda: 5).result(DEADLINE) == 5


def test_four_threads_publish_while_clients_come_and_go() -> None:
    """Nothing is lost, nothing comes twice, and nobody waits for ever."""
    count, over = 100, threading.Event()

    class Room(Recorder):
        def on_open(self, client: Any) -> None:
            client.subscribe("news")
            super().on_open(client)

    handler = Room(write_limit=2**28)
    server = make(handler)
    with running(server), spread(server, handler) as peers:
        until(lambda: server.count("news") == len(server.clients))

        def send(number: int) -> None:
            for each in range(count):
                server.publish("news", f"{number} {each}")

        def visit() -> None:
            while not over.is_set():
                with suppress(OSError), open_peer(server) as peer:
                    peer.text("hello")

        senders = [threading.Thread(target=send, args=(each,)) for each in range(4)]
        visitors = [threading.Thread(target=visit) for _ in range(2)]
        for thread in (*senders, *visitors):
            thread.start()
        try:
            for peer in peers:
                texts = [str(peer.read_message()) for _ in range(count * 4)]
                for number in range(4):
                    own = [text for text in texts if text.startswith(f"{number} ")]
                    assert own == [f"{number} {each}" for each in range(count)]
        finally:
            over.set()
            for thread in (*senders, *visitors):
                thread.join(DEADLINE)
