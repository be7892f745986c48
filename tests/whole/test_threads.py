"""Every public method from any thread: nothing lost, and each thread's order kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
from harness import (
    DEADLINE,
    PING,
    Echo,
    Peer,
    Recorder,
    close_frame,
    open_peer,
    running,
)

from simple_ws import SendStatus

THREADS = 8


class Workers:
    """Threads that begin together; what they raise is raised by `join`."""

    def __init__(self, *works: Callable[[], object]) -> None:
        self._errors: list[BaseException] = []
        self._barrier = threading.Barrier(len(works))
        self._threads = [
            threading.Thread(target=self._run, args=(work,)) for work in works
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, work: Callable[[], object]) -> None:
        self._barrier.wait(DEADLINE)
        try:
            work()
        except BaseException as error:
            self._errors.append(error)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        for error in self._errors:
            raise error


def in_thread(work: Callable[[], Any]) -> Any:
    """Do it in another thread; return what it returned."""
    results: list[Any] = []
    Workers(lambda: results.append(work())).join()
    return results[0]


def expect_orders(received: list[str], count: int) -> None:
    """Each thread's numbers must be there, all of them and in their order."""
    for thread in range(THREADS):
        numbers = [
            int(text.split()[1]) for text in received if text.split()[0] == str(thread)
        ]
        assert numbers == list(range(count)), thread


def test_eight_threads_write_while_clients_come_and_go() -> None:
    count, handler = 300, Recorder(write_limit=2**28)
    with running(handler) as server:
        stable = [open_peer(server) for _ in range(3)]
        targets = [handler.client(index) for index in range(3)]
        done = threading.Event()

        def write(thread: int) -> None:
            for number in range(count):
                for client in handler.clients:
                    status = client.write_message(f"{thread} {number}")
                    assert status or client not in targets

        def come_and_go() -> None:
            # Leaves in every way there is, while others write to it.
            ways: list[Callable[[Peer], object]] = [
                lambda peer: peer.close(),
                lambda peer: peer.reset(),
                lambda peer: peer.write(close_frame(1000)),
                lambda peer: peer.write(b"garbage"),
            ]
            visits = 0
            while not done.is_set() or visits < len(ways):
                with open_peer(server) as peer:
                    ways[visits % len(ways)](peer)
                visits += 1

        writers = Workers(
            *(lambda thread=thread: write(thread) for thread in range(THREADS))  # type: ignore[misc]
        )
        visitors = Workers(come_and_go, come_and_go)
        writers.join()
        done.set()
        visitors.join()
        for peer in stable:
            received = [str(peer.read_message()) for _ in range(count * THREADS)]
            expect_orders(received, count)
            peer.close()
        handler.wait_for("close", handler.names.count("open"))
        assert len(handler.clients) == 0


def test_eight_threads_publish_and_broadcast() -> None:
    count, handler = 200, Recorder(write_limit=2**28)
    with running(handler) as server:
        peers = [open_peer(server) for _ in range(2)]
        for index in range(2):
            handler.client(index).subscribe("news")

        def send(thread: int) -> None:
            for number in range(count):
                if number % 2:
                    assert server.publish("news", f"{thread} {number}") == 0
                else:
                    assert server.broadcast(f"{thread} {number}") == 0

        Workers(
            *(lambda thread=thread: send(thread) for thread in range(THREADS))  # type: ignore[misc]
        ).join()
        for peer in peers:
            received = [str(peer.read_message()) for _ in range(count * THREADS)]
            expect_orders(received, count)
            peer.close()


def test_write_then_close_of_one_thread_keeps_its_order() -> None:
    handler = Recorder(write_limit=2**28)
    with running(handler) as server:
        for round_ in range(20):
            with open_peer(server) as peer:
                client = handler.client(round_)

                def work(client: Any = client) -> None:
                    for number in range(50):
                        assert client.write_message(str(number))
                    client.ping(b"p")
                    client.write_message("last")
                    assert client.close(4000, "done")

                Workers(work).join()
                assert [peer.read_message() for _ in range(50)] == [
                    str(number) for number in range(50)
                ]
                assert peer.read_frame() == (0x80 | PING, b"p")
                assert peer.read_message() == "last"
                assert peer.read_close() == (4000, "done")


def test_threads_and_callbacks_write_at_once() -> None:
    handler = Echo(write_limit=2**28)
    with running(handler) as server, open_peer(server) as peer:
        client = handler.client()

        def write() -> None:
            for number in range(500):
                client.write_message(f"0 {number}")

        worker = Workers(write)
        for number in range(500):
            peer.text(f"1 {number}")
        received = [str(peer.read_message()) for _ in range(1000)]
        worker.join()
        for thread in "01":
            ours = [text for text in received if text.startswith(thread)]
            assert ours == [f"{thread} {number}" for number in range(500)]


def test_many_threads_end_the_same_clients() -> None:
    handler = Recorder()
    with running(handler) as server:
        peers = [open_peer(server) for _ in range(20)]
        clients = [handler.client(index) for index in range(20)]

        def end(thread: int) -> None:
            for client in clients:
                if thread % 2:
                    client.close(4000 + thread)
                else:
                    client.terminate()

        Workers(
            *(lambda thread=thread: end(thread) for thread in range(THREADS))  # type: ignore[misc]
        ).join()
        handler.wait_for("close", 20)
        for peer in peers:
            peer.close()
    assert handler.names.count("close") == 20


@contextmanager
def one_client() -> Any:
    handler = Recorder()
    with running(handler) as server, open_peer(server) as peer:
        yield server, handler.client(), peer, handler


def test_every_method_of_a_client_works_from_another_thread() -> None:
    with one_client() as (server, client, peer, handler):
        assert client.write_message("a") is SendStatus.SENT
        assert client.send(b"b", binary=False) is SendStatus.SENT
        assert client.ping("c") is True
        assert client.is_open() is True
        client.subscribe("news")
        client.bind("me")
        assert client.publish("news", "not to me") == 0
        server.publish("news", "d")
        server.send_to("me", {"e": 1})
        assert peer.read_message() == "a"
        assert peer.read_message() == "b"
        assert peer.read_frame() == (0x80 | PING, b"c")
        assert peer.read_message() == "d"
        assert peer.read_message() == '{"e":1}'
        assert server.count("news") == 1
        assert server.members("news") == [client]
        assert server.is_online("me")
        assert server.online() == ["me"]
        client.unsubscribe("news")
        server.publish("news", "nobody hears")
        assert client.close(4000, "f") is True
        assert peer.read_close() == (4000, "f")
        peer.write(close_frame(4000))
        assert handler.wait_for("close") == (4000, "f", "local")
        assert client.write_message("late") is SendStatus.DROPPED
        assert client.close() is False
        assert client.ping() is False
        client.terminate()


def test_terminate_from_another_thread_cuts() -> None:
    with one_client() as (_, client, _, handler):
        client.terminate()
        assert handler.wait_for("close") == (1006, "terminated", "local")


@pytest.mark.parametrize("message", [5, None, object(), {"x": object()}, "\ud800"])
def test_wrong_messages_raise_at_once_in_the_thread_that_wrote(message: Any) -> None:
    with one_client() as (server, client, peer, _):
        for call in (
            client.write_message,
            server.broadcast,
            lambda msg: server.publish("news", msg),
            lambda msg: server.send_to("me", msg),
            lambda msg: client.publish("news", msg),
        ):
            with pytest.raises((TypeError, ValueError)):
                call(message)
        client.write_message("fine")
        assert peer.read_message() == "fine"


def test_message_is_taken_as_it_was_when_another_thread_wrote_it() -> None:
    handler = Recorder()
    entered, leave = threading.Event(), threading.Event()

    def hold(msg: Any, client: Any) -> None:
        entered.set()
        assert leave.wait(DEADLINE)

    handler.on_message = hold  # type: ignore[method-assign]
    with running(handler) as server, open_peer(server) as peer:
        client = handler.client()
        peer.text("hold the loop")
        assert entered.wait(DEADLINE)
        data, record = bytearray(b"before"), {"when": "before"}
        client.write_message(data)
        client.write_message(record)
        server.broadcast(data)
        server.broadcast(record)
        data[:] = b"after!"
        record["when"] = "after!"
        leave.set()
        for _ in range(2):
            assert peer.read_message() == b"before"
            assert peer.read_message() == '{"when":"before"}'


def test_attributes_can_be_read_while_the_server_works() -> None:
    handler = Echo()
    with running(handler) as server, open_peer(server) as peer:
        done = threading.Event()

        def look() -> None:
            while not done.is_set():
                for client in server.clients:
                    repr(client)
                    assert client.buffered_amount >= 0
                    # May have ended since the walk began.
                    assert client.close_code in (None, 1006)
                assert len(handler.clients) <= 2
                server.count("news")
                server.online()

        lookers = Workers(look, look)
        for number in range(30):
            peer.text(str(number))
            assert peer.read_message() == str(number)
            if number % 10 == 0:
                open_peer(server).close()
        done.set()
        lookers.join()


def test_on_message_can_be_replaced_from_another_thread_while_clients_come() -> None:
    """Whoever is connected afterwards must have the new function."""
    handler = Recorder()
    with running(handler) as server:
        for number in range(30):
            name = str(number)
            peers: list[Peer] = []
            visitor = Workers(
                lambda peers=peers: peers.extend(open_peer(server) for _ in range(3)),  # type: ignore[misc]
                lambda name=name: setattr(  # type: ignore[misc]
                    handler, "on_message", lambda msg, client: name
                ),
            )
            visitor.join()
            for peer in peers:
                peer.text("x")
                assert peer.read_message() == name
                peer.close()


def test_server_may_be_used_by_a_callback_of_another_server() -> None:
    with running(Recorder()) as first, open_peer(first) as heard:

        class Relay(Recorder):
            def on_message(self, msg: Any, client: Any) -> None:
                first.broadcast(msg)

        with running(Relay()) as second, open_peer(second) as speaker:
            for number in range(50):
                speaker.text(str(number))
            assert [heard.read_message() for _ in range(50)] == [
                str(number) for number in range(50)
            ]
        assert in_thread(lambda: first.broadcast("end")) == 0
        assert heard.read_message() == "end"
