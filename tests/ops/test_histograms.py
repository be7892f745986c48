"""`Histograms`: callbacks and messages are counted into the right buckets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness import Driven
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from simple_ws import Histograms, InvalidState, Server, WebSocket, in_thread
from simple_ws.ops.prometheus import render
from simple_ws.ops.totals import retired, total
from simple_ws.testing import TestServer

SECONDS, BYTES = "simple_ws_callback_seconds", "simple_ws_message_bytes"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow(WebSocket):
    """Its callbacks take as long as the message says, by a clock that it moves."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def on_open(self, client: Any) -> None:
        self.clock.now += 0.25

    def on_message(self, msg: Any, client: Any) -> Any:
        if msg == "raise":
            self.clock.now += 7
            raise ValueError("of the test")
        self.clock.now += float(msg) if isinstance(msg, str) else 0
        return "done"

    def on_error(self, error: Exception, client: Any) -> None:
        """Expected."""


class Time(Slow):
    """Its name is an entry of the stats that is not added up, in lower case."""


def stats_of(*messages: str | bytes, kind: type[Slow] = Slow) -> dict[str, Any]:
    """The stats after a client has sent these messages, the last one answered."""
    clock = Clock()
    driven = Driven(kind(clock))
    driven.server.use(Histograms())
    driven.server._clock = clock
    with driven, driven.open() as peer:
        for message in messages:
            peer.send(1 if isinstance(message, str) else 2, message)
        driven.turn(3)
        return driven.server.stats()


def samples(stats: dict[str, Any]) -> dict[str, dict[Any, float]]:
    """Of the two metrics: by the labels but `handler`, as Prometheus' parser has it."""
    found: dict[str, dict[Any, float]] = {}
    for family in text_string_to_metric_families(render(stats).decode()):
        if family.name in (SECONDS, BYTES):
            assert family.type == "histogram"
            for sample in family.samples:
                labels = {k: v for k, v in sample.labels.items() if k != "handler"}
                found.setdefault(sample.name, {})[tuple(labels.values())] = sample.value
    return found


def test_callbacks_are_counted_in_cumulative_buckets() -> None:
    found = samples(stats_of("2.5", "3", "20", "0.002"))
    buckets = found[f"{SECONDS}_bucket"]
    limits = ["0.001", "0.0025", "1.0", "2.5", "5.0", "+Inf"]
    assert [buckets["on_message", le] for le in limits] == [0, 1, 1, 2, 3, 4]
    assert buckets["on_open", "0.1"] == 0
    assert buckets["on_open", "0.25"] == 1
    assert found[f"{SECONDS}_count"]["on_message",] == 4
    assert found[f"{SECONDS}_sum"]["on_message",] == pytest.approx(25.502)


def test_callback_that_raises_is_counted() -> None:
    found = samples(stats_of("raise"))
    assert found[f"{SECONDS}_sum"]["on_message",] == 7


def test_messages_are_as_big_as_their_payload_in_utf8() -> None:
    found = samples(stats_of(bytes(16), bytes(17), bytes(1000)))
    buckets = found[f"{BYTES}_bucket"]
    assert [buckets[le,] for le in ("16.0", "64.0", "1024.0", "+Inf")] == [1, 2, 3, 3]
    assert found[f"{BYTES}_sum"][()] == 1033
    # Digits of three bytes each: a number to `float`, too.
    assert samples(stats_of("\uff10"))[f"{BYTES}_sum"][()] == 3


@pytest.mark.parametrize("kind", ["async", "in_thread"])
def test_deferred_callback_lasts_until_its_end(kind: str) -> None:
    clock = Clock()

    class Waiting(WebSocket):
        async def on_message(self, msg: Any, client: Any) -> Any:
            await asyncio.sleep(0)
            clock.now += 3
            if msg == "raise":
                raise ValueError("of the test")
            return "done"

        def on_error(self, error: Exception, client: Any) -> None:
            client.write_message("failed")

    def blocking(msg: Any, client: Any) -> Any:
        clock.now += 3
        if msg == "raise":
            raise ValueError("of the test")
        return "done"

    handler = Waiting()
    if kind == "in_thread":
        handler.on_message = in_thread(blocking)  # type: ignore[method-assign]
    server = Server("127.0.0.1", 0)
    server.mount("*", handler)
    server.use(Histograms())
    with TestServer(server) as running:
        server.time = clock  # type: ignore[method-assign]
        client = running.connect()
        client.send("x")
        assert client.recv() == "done"
        client.send("raise")
        assert client.recv() == "failed"
        found = samples(server.stats())
    assert found[f"{SECONDS}_sum"]["on_message",] == 6
    assert found[f"{SECONDS}_count"]["on_message",] == 2


def test_processes_are_added_up_and_never_go_back() -> None:
    one, two = stats_of("3"), stats_of("20", "0")
    sums = samples(total([one, retired(two)]))
    assert sums[f"{SECONDS}_sum"]["on_message",] == 23
    assert sums[f"{SECONDS}_bucket"]["on_message", "5.0"] == 2
    assert sums[f"{SECONDS}_count"]["on_message",] == 3


def test_names_of_handlers_are_not_taken_for_entries() -> None:
    Time.__name__ = "time"
    stats = stats_of("3", kind=Time)
    sums = samples(total([stats, retired(stats)]))
    assert sums[f"{SECONDS}_sum"]["on_message",] == 6


def test_workers_are_told_apart() -> None:
    stats = stats_of("3")
    text = render({**stats, "workers": [{**stats, "worker": 1}]}).decode()
    line = f'{BYTES}_count{{worker="1",handler="Slow"}} 1'
    assert line in text.splitlines()


def test_registry_shows_the_same_histograms() -> None:
    clock = Clock()
    driven = Driven(Slow(clock))
    driven.server.use(Histograms())
    with driven, driven.open():
        registry = CollectorRegistry()
        registry.register(driven.server.collector())
        ours, theirs = render(driven.server.stats()), generate_latest(registry)
    wanted = [x for x in ours.decode().splitlines() if x.startswith(f"{SECONDS}_buck")]
    assert len(wanted) == 2 * 17
    found = theirs.decode()
    assert all(line.split("{")[0] in found for line in wanted)
    assert found.count(f"{SECONDS}_bucket{{") == len(wanted)


def test_without_it_there_is_nothing() -> None:
    server = Server()
    assert "histograms" not in server.stats()
    assert samples(server.stats()) == {}


def test_it_is_for_one_server() -> None:
    histograms = Server().use(Histograms())
    with pytest.raises(InvalidState, match="of another server"):
        Server().use(histograms)
