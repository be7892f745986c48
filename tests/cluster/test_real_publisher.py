"""Both kinds of `Publisher` at servers that are real, through faults of these."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE, running
from publisher_harness import hurry
from redis_server import PROGRAMS, RedisServer, Session, redis_server, session

from simple_ws import EngineError, Publisher, WebSocket, connect
from simple_ws.cluster.engine import Delivered, Subscribed
from simple_ws.cluster.envelope import open_

pytestmark = pytest.mark.one_backend

SHORT = 0.5  # seconds, where time must be over for the test to go on


@pytest.fixture(scope="module", params=PROGRAMS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server(program=request.param) as made:
        yield made


def listen(made: Session, *channels: str) -> None:
    made.engine.subscribe(channels)
    made.until_event(Subscribed)


def body(made: Session, count: int = 1) -> bytes:
    delivered = made.until_event(Delivered, count)
    return open_(delivered.envelope, delivered.channel, None).body


def test_messages_arrive(server: RedisServer, kind: Any) -> None:
    with session(server.url) as made, kind(server.url) as publisher:
        listen(made, "sws.t.a", "sws.all", "sws.i.s:ann")
        assert publisher.publish("a", "x") == 1
        assert body(made) == b"x"
        assert publisher.publish("nobody", "y") == 0
        assert publisher.broadcast(b"z") == 1
        assert publisher.send_to("ann", {"a": 1}) == 1
        assert body(made, 3) == b'{"a":1}'


def test_large_message(server: RedisServer, kind: Any) -> None:
    with session(server.url) as made, kind(server.url) as publisher:
        listen(made, "sws.all")
        large = os.urandom(2**22)
        assert publisher.broadcast(large) == 1
        assert body(made) == large


def test_unix_socket(server: RedisServer, kind: Any) -> None:
    with kind(server.unix_url) as publisher:
        assert publisher.publish("nobody", "x") == 0


def test_tls(kind: Any, tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme", reason="cryptography has no wheel here")
    authority, other = trustme.CA(), trustme.CA()
    path = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(path)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    with redis_server(certificate=str(path)) as server:
        url = f"rediss://localhost:{server.tls_port}?ssl_ca_certs={tmp_path}"
        with kind(f"{url}/ca.pem") as publisher:
            assert publisher.publish("nobody", "x") == 0
            assert publisher.publish("nobody", bytes(2**20)) == 0
        with (
            kind(f"{url}/other.pem") as publisher,
            pytest.raises(EngineError, match="cannot connect: TLS") as caught,
        ):
            publisher.publish("nobody", "x")
        assert not caught.value.unsure


def test_user_without_the_right_to_subscribe(server: RedisServer, kind: Any) -> None:
    rules = ["on", ">sesame", "resetchannels", "&sws.*", "-@all", "+hello", "+publish"]
    with server.commands() as command:
        command("ACL", "SETUSER", "cron", *rules)
    url = server.url.replace("//", "//cron:sesame@")
    with kind(url) as publisher:
        assert publisher.publish("nobody", "x") == 0
    with (
        kind(url, prefix="other") as publisher,
        pytest.raises(EngineError, match="NOPERM") as caught,
    ):
        publisher.publish("nobody", "x")
    assert not caught.value.unsure
    wrong = url.replace("sesame", "mellon")
    with kind(wrong) as publisher, pytest.raises(EngineError, match="WRONGPASS") as why:
        publisher.publish("nobody", "x")
    assert "mellon" not in str(why.value)


def test_stopped_server(kind: Any) -> None:
    with redis_server() as server, kind(server.url, timeout=DEADLINE) as publisher:
        publisher.publish("a", "x")
        server.stop()
        hurry(publisher, SHORT)
        with pytest.raises(EngineError, match="no answer in") as caught:
            publisher.publish("a", "x")
        assert caught.value.unsure
        with pytest.raises(EngineError, match="no answer in") as caught:
            publisher.publish("a", "x")  # it accepts nobody, or does not answer HELLO
        assert not caught.value.unsure
        server.go_on()
        hurry(publisher, DEADLINE)
        assert publisher.publish("a", "x") == 0


def test_killed_server_and_its_empty_successor(kind: Any) -> None:
    with redis_server() as server, kind(server.url) as publisher:
        publisher.publish("a", "x")
        server.kill()
        with pytest.raises(EngineError):
            publisher.publish("a", "x")
        with pytest.raises(EngineError, match="cannot connect") as caught:
            publisher.publish("a", "x")
        assert not caught.value.unsure
        server.start()
        with session(server.url) as made:
            listen(made, "sws.t.a")
            assert publisher.publish("a", "y") == 1
            assert body(made) == b"y"


def test_client_that_is_killed(server: RedisServer, kind: Any) -> None:
    with server.commands() as command, kind(server.url) as publisher:
        publisher.publish("a", "x")
        command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with suppress(EngineError):  # asyncio may not have seen the end yet
            publisher.publish("a", "x")
        assert publisher.publish("a", "x") == 0


def test_threads_and_restarts(kind: Any) -> None:
    """What is sure not to be published is not, and what is sure to be is."""
    if kind is not Publisher:
        pytest.skip("threads are for the one that blocks")
    with redis_server() as server, Publisher(server.url) as publisher:
        stop = threading.Event()

        def publish(thread: int) -> int:
            published = 0
            while not stop.is_set():
                try:
                    publisher.publish("a", f"{thread}")
                    published += 1
                except EngineError:
                    stop.wait(0.01)
            return published

        with ThreadPoolExecutor(4) as pool:
            threads = [pool.submit(publish, number) for number in range(4)]
            for _ in range(3):
                server.kill()
                server.start()
                with session(server.url) as made:
                    listen(made, "sws.t.a")
                    made.until_event(Delivered, 20)
            stop.set()
            assert sum(thread.result(DEADLINE) for thread in threads) >= 3 * 20


class Listener(WebSocket):
    def on_open(self, client: Any) -> None:
        client.subscribe("news")
        client.bind("ann")


def delivered(publish: Callable[[], int]) -> bool:
    """Whether it comes to be published to somebody, whose subscription is coming."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if publish():
            return True
    return False


def test_clients_of_a_server_get_it(server: RedisServer, kind: Any) -> None:
    options: Any = {"engine": server.url, "engine_secret": "key"}
    with (
        running(Listener(), **options) as here,
        kind(server.url, secret="key") as publisher,
        connect(f"ws://127.0.0.1:{here.port}/") as client,
    ):
        assert delivered(lambda: publisher.publish("news", {"n": 1}))
        assert client.recv(DEADLINE) == '{"n":1}'
        assert publisher.broadcast("all") == 1
        assert client.recv(DEADLINE) == "all"
        assert delivered(lambda: publisher.send_to("ann", b"you"))
        assert client.recv(DEADLINE) == b"you"
