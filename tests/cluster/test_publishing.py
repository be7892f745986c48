"""Both kinds of `Publisher` at a server that answers what it is told to."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from harness import DEADLINE
from publisher_harness import (
    HELLO,
    AsyncPublisher,
    PublisherServer,
    hurry,
    publisher_server,
)

import simple_ws.aio
from simple_ws import EngineError, InvalidState, Publisher
from simple_ws.cluster import aio_link, publishing
from simple_ws.cluster.content import Kind
from simple_ws.cluster.envelope import EnvelopeError, open_

pytestmark = pytest.mark.one_backend

SHORT = 0.3  # seconds, where time must be over for the test to go on


@pytest.fixture
def server() -> Iterator[PublisherServer]:
    with publisher_server() as made:
        yield made


@pytest.fixture
def publisher(kind: Any, server: PublisherServer) -> Iterator[Any]:
    with kind(server.url, timeout=DEADLINE) as made:
        yield made


def on_loop(test: Callable[..., Any]) -> Callable[..., None]:
    """Run a test that is a coroutine."""

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        asyncio.run(test(**arguments))

    return run


def problem_of(publisher: Any, msg: object = "x") -> EngineError:
    with pytest.raises(EngineError) as caught:
        publisher.publish("a", msg)
    assert "sesame" not in f"{caught.value}{caught.value!r}{caught.value.args}"
    return caught.value


# What is sent


@pytest.mark.parametrize(
    ("msg", "kind_of_body", "body"),
    [
        ("grüß", Kind.TEXT, "grüß".encode()),
        (b"\xff", Kind.BINARY, b"\xff"),
        (memoryview(b"ab"), Kind.BINARY, b"ab"),
        ({"a": 1}, Kind.JSON, b'{"a":1}'),
        ([], Kind.JSON, b"[]"),
    ],
)
def test_message(
    publisher: Any, server: PublisherServer, msg: Any, kind_of_body: Kind, body: bytes
) -> None:
    assert publisher.publish("room:7", msg) == 1
    (published,) = server.published
    assert published.channel == "sws.t.room:7"
    assert (published.envelope.kind, published.envelope.body) == (kind_of_body, body)


def test_channels(publisher: Any, server: PublisherServer) -> None:
    number = uuid.uuid4()
    publisher.broadcast("x")
    for identity in ("ann", 7, b"\x01", number):
        publisher.send_to(identity, "x")
    assert [published.channel for published in server.published] == [
        "sws.all",
        "sws.i.s:ann",
        "sws.i.i:7",
        "sws.i.b:01",
        f"sws.i.u:{number.hex}",
    ]


def test_messages_are_numbered_by_channel(
    publisher: Any, server: PublisherServer
) -> None:
    for topic in "aab":
        publisher.publish(topic, "x")
    envelopes = [published.envelope for published in server.published]
    assert [envelope.seq for envelope in envelopes] == [1, 2, 1]
    assert {envelope.session for envelope in envelopes} == {1}
    assert len({envelope.publisher for envelope in envelopes}) == 1


def test_publishers_differ(kind: Any, server: PublisherServer) -> None:
    for _ in range(2):
        with kind(server.url) as publisher:
            publisher.publish("a", "x")
    assert len({published.envelope.publisher for published in server.published}) == 2


@pytest.mark.parametrize("secret", ["key", b"key"])
def test_messages_are_signed(kind: Any, server: PublisherServer, secret: Any) -> None:
    with kind(server.url, secret=secret) as publisher:
        publisher.publish("a", "x")
    (published,) = server.published
    assert open_(published.data, published.channel, b"key").body == b"x"
    with pytest.raises(EnvelopeError):
        open_(published.data, published.channel, b"other")


@pytest.mark.parametrize(
    ("url_prefix", "options", "channel"),
    [("?prefix=u", {}, "u.all"), ("?prefix=u", {"prefix": "p"}, "p.all")],
)
def test_prefix(
    kind: Any, server: PublisherServer, url_prefix: str, options: Any, channel: str
) -> None:
    with kind(server.url + url_prefix, **options) as publisher:
        publisher.broadcast("x")
    assert server.published[0].channel == channel


def test_receivers_are_returned(publisher: Any, server: PublisherServer) -> None:
    server.answer = b":12\r\n"
    assert publisher.publish("a", "x") == 12
    server.answer = b":0\r\n"
    assert publisher.send_to(1, "x") == 0


# Wrong arguments


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (("publish", "a", 7), TypeError),
        (("publish", "a", None), TypeError),
        (("publish", "a", "\ud800"), ValueError),
        (("publish", "a", {"x": float("nan")}), ValueError),
        (("publish", 7, "x"), TypeError),
        (("send_to", True, "x"), TypeError),
        (("send_to", ("a",), "x"), TypeError),
        (("broadcast", {1, 2}), TypeError),
    ],
)
def test_wrong_messages_are_refused_before_a_connection(
    publisher: Any, server: PublisherServer, call: Any, error: type[Exception]
) -> None:
    name, *arguments = call
    with pytest.raises(error):
        getattr(publisher, name)(*arguments)
    assert server.connections == 0


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("memory://", {}, "inside a server's processes"),
        ("local", {}, "inside a server's processes"),
        ("http://u:sesame@h", {}, "redis://"),
        ("redis://u:ses#ame@h", {}, "percent-encoded"),
        ("redis://h", {"prefix": "a.b"}, "prefix must be"),
        ("redis://h", {"prefix": 7}, "prefix must be"),
        ("redis://h", {"secret": ""}, "secret must not be empty"),
        ("redis://h", {"timeout": 0}, "timeout must be more than 0"),
    ],
)
def test_wrong_options(kind: Any, url: str, options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        kind(url, **options)
    assert "ame@" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "options"),
    [(7, {}), ("redis://h", {"secret": 7}), ("redis://h", {"timeout": "5"})],
)
def test_options_of_other_types(kind: Any, url: Any, options: Any) -> None:
    with pytest.raises(TypeError):
        kind(url, **options)


def test_repr_shows_no_password(publisher: Any, server: PublisherServer) -> None:
    assert repr(publisher) == f"<Publisher redis://127.0.0.1:{server.port}>"


# An engine that is not well


def test_nothing_listens(kind: Any, server: PublisherServer) -> None:
    server.close()
    with kind(server.url) as publisher:
        error = problem_of(publisher)
    assert error.url == f"redis://127.0.0.1:{server.port}"
    assert error.problem.startswith("cannot connect: ")
    assert not error.unsure


def test_name_that_is_none(kind: Any) -> None:
    with kind(f"redis://{'a' * 64}.example") as publisher:
        error = problem_of(publisher)
    assert (error.problem, error.unsure) == ("cannot connect: not a host name", False)


@pytest.mark.parametrize(
    ("hello", "text"),
    [
        (b"-WRONGPASS sesame is wrong\r\n", "WRONGPASS *** is wrong"),
        (b"-LOADING wait\r\n", "LOADING wait"),
        (HELLO.replace(b"+master", b"+replica"), "it is no master"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not RESP3"),
        (None, "it has closed the connection"),
    ],
)
def test_server_that_lets_us_not_in(
    publisher: Any, server: PublisherServer, hello: bytes | None, text: str
) -> None:
    server.hello = hello
    error = problem_of(publisher)
    assert text in error.problem
    assert not error.unsure
    server.hello = HELLO
    assert publisher.publish("a", "x") == 1


def test_server_that_does_not_answer_hello(kind: Any, server: PublisherServer) -> None:
    server.hello = b""
    with kind(server.url, timeout=SHORT) as publisher:
        error = problem_of(publisher)
    assert (error.problem, error.unsure) == ("no answer in 0.3 s", False)


def test_server_that_does_not_answer_a_message(
    publisher: Any, server: PublisherServer
) -> None:
    publisher.publish("a", "x")
    server.answer = b""
    hurry(publisher, SHORT)
    error = problem_of(publisher)
    assert "no answer in" in error.problem
    assert str(error).endswith("; the message may have been published")
    # The late answer must not be taken for that of another message.
    server.wait_for(lambda: not server.open)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (None, "it has closed the connection"),
        (b"+OK\r\n", "to PUBLISH"),
        (b"?\r\n", "not RESP3"),
    ],
)
def test_connection_that_ends_without_an_answer(
    publisher: Any, server: PublisherServer, answer: bytes | None, text: str
) -> None:
    server.answer = answer
    error = problem_of(publisher)
    assert text in error.problem
    assert error.unsure
    server.answer = b":1\r\n"
    assert publisher.publish("a", "y") == 1
    first, second = (published.envelope for published in server.published)
    assert (first.session, first.seq) == (1, 1)
    assert (second.session, second.seq) == (2, 2)
    assert first.publisher == second.publisher


def test_message_that_is_refused(publisher: Any, server: PublisherServer) -> None:
    server.answer = b"-NOPERM no channel\r\n"
    error = problem_of(publisher)
    assert error.problem == "it refused the message: NOPERM no channel"
    assert not error.unsure
    server.answer = b":1\r\n"
    assert publisher.publish("a", "x") == 1
    assert server.connections == 1


def test_master_that_became_a_replica(publisher: Any, server: PublisherServer) -> None:
    server.answer = b"-READONLY it is a replica\r\n"
    error = problem_of(publisher)
    assert not error.unsure
    server.answer = b":1\r\n"
    assert publisher.publish("a", "x") == 1
    assert server.connections == 2


def test_connection_that_was_closed_meanwhile(
    publisher: Any, server: PublisherServer
) -> None:
    publisher.publish("a", "x")
    server.close_all()
    if not isinstance(publisher, Publisher):
        publisher._runner.run(_until(lambda: publisher.publisher._connection._problem))
    assert publisher.publish("a", "x") == 1
    assert server.connections == 2


async def _until(condition: Any) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.001)


def test_connection_that_was_not_used_for_long_is_replaced(
    publisher: Any, server: PublisherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.publish("a", "x")
    publisher.publish("a", "x")
    assert server.connections == 1
    for module in (publishing, aio_link):
        monkeypatch.setattr(module, "MAX_IDLE", -1.0)
    assert publisher.publish("a", "x") == 1
    assert server.connections == 2


def test_message_that_was_sent_in_part_is_not_unsure(server: PublisherServer) -> None:
    with Publisher(server.url, timeout=DEADLINE) as publisher:
        publisher.publish("a", "x")
        server.reads = False
        hurry(publisher, SHORT)
        error = problem_of(publisher, bytes(2**26))
        assert "no answer in" in error.problem
        assert not error.unsure
        server.reads = True
        hurry(publisher, DEADLINE)
        assert publisher.publish("a", "y") == 1
    assert [published.envelope.body for published in server.published] == [b"x", b"y"]


def test_closed(publisher: Any, server: PublisherServer) -> None:
    publisher.publish("a", "x")
    publisher.close()
    publisher.close()
    with pytest.raises(InvalidState, match="closed"):
        publisher.publish("a", "x")
    server.wait_for(lambda: not server.open)


# Threads and processes


def test_threads_share_one_connection(server: PublisherServer) -> None:
    with Publisher(server.url) as publisher, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: publisher.publish("a", str(n)), range(200)))
    assert results == [1] * 200
    assert server.connections == 1
    numbers = [published.envelope.seq for published in server.published]
    assert numbers == list(range(1, 201))
    bodies = {published.envelope.body for published in server.published}
    assert len(bodies) == 200


def test_time_passes_while_another_thread_is_served(server: PublisherServer) -> None:
    with Publisher(server.url, timeout=DEADLINE) as publisher:
        hurry(publisher, SHORT)
        with publisher._line()._lock:
            error = problem_of(publisher)
        assert (error.problem, error.unsure) == ("no answer in 0.3 s", False)
        hurry(publisher, DEADLINE)
        assert publisher.publish("a", "x") == 1


# Python 3.12 warns of a fork beside threads, as those of the test's server.
def forks(test: Any) -> Any:
    """Mark a test that forks."""
    missing = not hasattr(os, "fork")
    test = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")(test)
    return pytest.mark.skipif(missing, reason="no fork here")(test)


def in_a_child(function: Any) -> int:
    """Call it in a forked process; the exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@forks
def test_forked_process_has_its_own_connection(
    publisher: Any, kind: Any, server: PublisherServer
) -> None:
    publisher.publish("a", "x")

    def publish() -> None:
        if isinstance(publisher, Publisher):
            publisher.publish("a", "child")
        else:
            asyncio.run(publisher.publisher.publish("a", "child"))

    assert in_a_child(publish) == 0
    assert publisher.publish("a", "y") == 1
    first, child, last = server.published
    assert [p.connection for p in (first, child, last)] == [1, 2, 1]
    assert first.envelope.publisher == last.envelope.publisher
    assert first.envelope.publisher != child.envelope.publisher
    assert (child.envelope.seq, last.envelope.seq) == (1, 2)


@forks
def test_fork_while_a_thread_publishes(server: PublisherServer) -> None:
    with Publisher(server.url) as publisher:
        publisher.publish("a", "x")
        with publisher._line()._lock:  # as that thread holds it
            assert in_a_child(lambda: publisher.publish("a", "child")) == 0


# asyncio


def test_on_uvloop(server: PublisherServer) -> None:
    uvloop = pytest.importorskip("uvloop")
    with AsyncPublisher(server.url, loop_factory=uvloop.new_event_loop) as publisher:
        assert publisher.publish("a", "x") == 1


@on_loop
async def test_tasks_do_not_wait_for_each_other(server: PublisherServer) -> None:
    async with simple_ws.aio.Publisher(server.url) as publisher:
        calls = [publisher.publish("a", str(n)) for n in range(100)]
        assert await asyncio.gather(*calls) == [1] * 100
    assert server.connections == 1
    numbers = [published.envelope.seq for published in server.published]
    assert numbers == list(range(1, 101))


@on_loop
async def test_a_call_that_is_cancelled_disturbs_no_other(
    server: PublisherServer,
) -> None:
    async with simple_ws.aio.Publisher(server.url) as publisher:
        await publisher.publish("a", "x")
        server.answer = b""
        cancelled = asyncio.create_task(publisher.publish("a", "cancelled"))
        await asyncio.to_thread(server.wait_for, lambda: len(server.published) == 2)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        server.answer = b":1\r\n:2\r\n"  # that of the first one as well
        assert await publisher.publish("a", "x") == 2
    assert server.connections == 1


@on_loop
async def test_one_that_is_cancelled_leaves_the_connection_to_the_others(
    server: PublisherServer,
) -> None:
    async with simple_ws.aio.Publisher(server.url) as publisher:
        first, second = (
            asyncio.create_task(publisher.publish("a", msg)) for msg in "xy"
        )
        await asyncio.sleep(0)
        first.cancel()
        assert await second == 1
    assert [published.envelope.body for published in server.published] == [b"y"]


@on_loop
async def test_call_that_joins_an_attempt_has_its_whole_time(
    server: PublisherServer,
) -> None:
    server.hello = b""
    async with simple_ws.aio.Publisher(server.url, timeout=SHORT) as publisher:
        first = asyncio.create_task(publisher.publish("a", "x"))
        await asyncio.to_thread(server.wait_for, lambda: server.connections)
        server.hello = HELLO
        hurry(publisher, DEADLINE)
        assert await publisher.publish("a", "y") == 1
        with pytest.raises(EngineError, match="no answer"):
            await first


@on_loop
async def test_attempt_that_nobody_waits_for_is_given_up(
    server: PublisherServer,
) -> None:
    server.hello = b""
    async with simple_ws.aio.Publisher(server.url) as publisher:
        call = asyncio.create_task(publisher.publish("a", "x"))
        await asyncio.to_thread(server.wait_for, lambda: server.connections)
        call.cancel()
        await asyncio.to_thread(server.wait_for, lambda: not server.open)


@on_loop
async def test_close_ends_calls_that_wait(server: PublisherServer) -> None:
    server.answer = b""
    publisher = simple_ws.aio.Publisher(server.url)
    waiting = asyncio.create_task(publisher.publish("a", "x"))
    await asyncio.to_thread(server.wait_for, lambda: server.published)
    await publisher.close()
    with pytest.raises(EngineError) as caught:
        await waiting
    assert caught.value.unsure


@on_loop
async def test_close_ends_calls_that_connect(server: PublisherServer) -> None:
    server.hello = b""
    publisher = simple_ws.aio.Publisher(server.url)
    waiting = asyncio.create_task(publisher.publish("a", "x"))
    await asyncio.sleep(0)
    await publisher.close()
    with pytest.raises(InvalidState, match="closed"):
        await waiting


def test_another_loop_connects_anew(server: PublisherServer) -> None:
    with warnings.catch_warnings(action="ignore"):  # asyncio: a loop left it open
        publisher = simple_ws.aio.Publisher(server.url)
        for _ in range(2):
            assert asyncio.run(publisher.publish("a", "x")) == 1
        asyncio.run(publisher.close())
        del publisher
        gc.collect()
    first, second = (published.envelope for published in server.published)
    assert first.publisher == second.publisher
    assert (second.session, second.seq) == (2, 2)


@on_loop
async def test_two_loops_at_once_are_refused(server: PublisherServer) -> None:
    async with simple_ws.aio.Publisher(server.url) as publisher:
        await publisher.publish("a", "x")
        with pytest.raises(InvalidState, match="another event loop"):
            await asyncio.to_thread(asyncio.run, publisher.publish("a", "x"))


@on_loop
async def test_output_is_bounded(
    server: PublisherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio_link, "_OUTPUT_LIMIT", 1000)
    async with simple_ws.aio.Publisher(server.url) as publisher:
        await publisher.publish("a", "x")
        large = asyncio.create_task(publisher.publish("a", bytes(2**24)))
        await asyncio.sleep(0)
        with pytest.raises(EngineError, match="1,000 bytes wait") as caught:
            await publisher.publish("a", "x")
        assert not caught.value.unsure
        large.cancel()
