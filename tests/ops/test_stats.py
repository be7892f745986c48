"""`stats`: counts are right after known traffic, and never decrease."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from harness import (
    DEADLINE,
    PING,
    Clock,
    Driven,
    Echo,
    Peer,
    Recorder,
    close_frame,
    connect,
    frame,
    open_peer,
    request,
    running,
    small_buffers,
)

from simple_ws import BACKEND, CloseCause, Deflate, Server, WebSocket
from simple_ws.speedups import fan_out_latest

DEFLATE = (
    "Sec-WebSocket-Extensions: permessage-deflate; "
    "client_no_context_takeover; server_no_context_takeover"
)


class Busy(Recorder):
    """Takes as long over a message as the message says, by the clock of the test."""

    clock: Clock

    def on_message(self, msg: Any, client: Any) -> Any:
        self.clock.now += float(msg)


def busy(**options: Any) -> Driven:
    driven = Driven(Busy(), **options)
    driven.handler.clock = driven.clock
    return driven


def size_of_answer(peer: Peer) -> int:
    """Bytes of the answer to the handshake."""
    return len(peer.head) + len(b"\r\n\r\n")


def counts_of(stats: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Whatever may only grow, by name."""
    yield "opened", stats["connections"]["opened"]
    yield "slow_callbacks", stats["slow_callbacks"]
    for name in ("total", "closed", "refused"):
        yield from ((f"{name} {key}", value) for key, value in stats[name].items())
    for index, handler in enumerate(stats["handlers"]):
        for key, value in handler.items():
            if key not in ("name", "paths", "clients"):
                yield f"handler {index} {key}", value


def assert_grew(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    later = dict(counts_of(new))
    for name, value in counts_of(old):
        assert later[name] >= value, f"{name} fell from {value} to {later[name]}"


# --- What is in it -------------------------------------------------------------------


def test_server_that_has_seen_nobody_has_zeros() -> None:
    server = Server()
    stats = server.stats()
    assert json.loads(json.dumps(stats)) == stats
    assert set(stats) == {
        "time",
        "started",
        "uptime",
        "backend",
        "connections",
        "total",
        "handlers",
        "closed",
        "refused",
        "buffered",
        "topics",
        "identities",
        "members",
        "slow_callbacks",
        "longest_turn",
        "engine",
    }
    assert stats["engine"] is None
    assert stats["backend"] == BACKEND
    assert stats["started"] is None
    assert stats["uptime"] == 0
    assert stats["connections"] == {"open": 0, "opened": 0, "dashboards": 0}
    assert stats["closed"] == {str(cause): 0 for cause in CloseCause}
    assert stats["refused"] == {}
    assert stats["handlers"] == []
    assert not any(value for _, value in counts_of(stats))


def test_docstring_of_stats_names_every_key() -> None:
    server = Server()
    server.mount("*", WebSocket())
    stats = server.stats()
    doc = Server.stats.__doc__ or ""
    for key in [*stats, *stats["connections"], *stats["total"]]:
        assert key in doc, f"{key} is not explained"


def test_messages_and_bytes_are_counted_both_ways() -> None:
    with Driven(Echo()) as driven, driven.open() as peer:
        for text in ("one", "two", "three"):
            peer.text(text)
            assert peer.read_message() == text
        stats = driven.server.stats()
        payload = len("onetwothree")
        expected = {
            "messages_received": 3,
            "messages_sent": 3,
            "bytes_received": payload + 3 * 6,  # a masked head each
            "bytes_sent": size_of_answer(peer) + payload + 3 * 2,
        }
        assert {name: stats["total"][name] for name in expected} == expected
        assert {name: stats["handlers"][0][name] for name in expected} == expected


def test_handlers_are_counted_apart_and_in_total() -> None:
    with Driven(Echo()) as driven:
        driven.server.mount("/a", Recorder())
        for path in ("/a", "/a", "/b"):
            with driven.open(path) as peer:
                peer.text("hello")
                peer.write(close_frame(1000))
                peer.read_rest()
        first, second = driven.server.stats()["handlers"]
        assert (first["messages_received"], first["messages_sent"]) == (1, 1)
        assert (second["messages_received"], second["messages_sent"]) == (2, 0)
        total = driven.server.stats()["total"]
        assert (total["messages_received"], total["messages_sent"]) == (3, 1)
        for name, value in total.items():
            assert value == first[name] + second[name]


def test_handler_is_there_once_with_its_name_and_all_its_paths() -> None:
    server = Server()

    @server.route("/reverse")
    def reverse(msg: Any, client: Any) -> Any:
        return msg[::-1]

    echo = Echo()
    for path in ("/echo", "/echo/{name}", "*"):
        server.mount(path, echo)
    found = [(entry["name"], entry["paths"]) for entry in server.stats()["handlers"]]
    assert found == [
        ("reverse", ["/reverse"]),
        ("Echo", ["/echo", "/echo/{name}", "*"]),
    ]


def test_handler_that_could_not_be_mounted_is_not_there() -> None:
    server = Server()
    server.mount("/", Echo())
    with pytest.raises(ValueError, match="mounted already"):
        server.mount("/", Recorder())
    assert [entry["name"] for entry in server.stats()["handlers"]] == ["Echo"]


def test_figures_can_be_changed_without_changing_the_server() -> None:
    with Driven() as driven, driven.open():
        stats = driven.server.stats()
        stats["handlers"][0]["paths"].append("/x")
        for part in ("closed", "refused", "total", "connections"):
            stats[part].clear()
        again = driven.server.stats()
        assert again["handlers"][0]["paths"] == ["*"]
        assert again["connections"]["opened"] == 1
        assert again["closed"]


def test_control_frames_are_bytes_but_no_messages() -> None:
    with Driven() as driven, driven.open() as peer:
        peer.send(PING, b"1234")
        peer.read_frame()
        total = driven.server.stats()["total"]
        assert total["messages_received"] == total["messages_sent"] == 0
        assert total["bytes_received"] == 6 + 4
        assert total["bytes_sent"] == size_of_answer(peer) + 2 + 4


def test_compression_is_counted_both_ways_before_and_after() -> None:
    text = "to be or not to be, " * 40
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(text.encode()) + packer.flush(zlib.Z_SYNC_FLUSH)
    packed = packed.removesuffix(b"\0\0\xff\xff")
    options = {"compression": Deflate(threshold=100)}
    with Driven(Echo(), **options) as driven, driven.open("/", DEFLATE) as peer:
        peer.write(frame(1, packed, rsv=0x40))
        first, payload = peer.read_frame()
        assert first & 0x40
        peer.text("short")  # comes plain, and goes plain
        assert peer.read_message() == "short"
        total = driven.server.stats()["total"]
        assert (total["packed_received"], total["plain_received"]) == (
            len(packed),
            len(text),
        )
        assert (total["plain_sent"], total["packed_sent"]) == (len(text), len(payload))


def test_connections_are_counted_now_and_in_total() -> None:
    with Driven() as driven:
        first, second = driven.open(), driven.open()
        driven.join()  # has not asked for anything
        expected = {"open": 2, "opened": 2, "dashboards": 0}
        assert driven.server.stats()["connections"] == expected
        assert driven.server.stats()["handlers"][0]["clients"] == 2
        first.leave()
        second.reset()
        driven.until(lambda: not driven.server.clients)
        expected = {"open": 0, "opened": 2, "dashboards": 0}
        assert driven.server.stats()["connections"] == expected
        assert driven.server.stats()["handlers"][0]["clients"] == 0


def test_ends_are_counted_by_cause() -> None:
    with Driven() as driven:
        driven.open().leave()
        driven.open().leave(4000)
        with driven.open() as peer:
            peer.write(b"\xff\xff")  # reserved bits, opcode 15
            assert peer.read_close()[0] == 1002
        with driven.open() as peer:
            driven.handler.client(3).terminate()
            driven.turn(2)
        ended = {c: n for c, n in driven.server.stats()["closed"].items() if n}
        assert ended == {"peer": 2, "protocol_error": 1, "local": 1}


def test_refused_handshakes_are_counted_by_status() -> None:
    with Driven(max_connections=1) as driven:
        driven.server.mount("/hall", Recorder(origins="https://example.org"))
        for path, header, status in (
            ("/hall", "Origin: https://example.com", 403),
            ("/", "X: y", 101),
            ("/", "X: y", 503),
            ("/", "X: y", 503),
            ("/", "no colon", 400),
        ):
            peer = driven.join()
            peer.write(request(path, header))
            assert peer.read_head().startswith(b"HTTP/1.1 %d " % status)
        refused = driven.server.stats()["refused"]
        assert refused == {"400": 1, "403": 1, "503": 2}
        assert list(refused) == sorted(refused)


def test_dropped_messages_are_counted() -> None:
    options = {"slow_consumer": "drop_new", "write_limit": 1000}
    with Driven(**options) as driven, driven.open(wrap=small_buffers):
        client = driven.handler.client()
        client.write_message(b"x" * 2**22)  # more than the system takes
        driven.turn()
        for _ in range(3):
            assert not client.write_message("too much")
        assert driven.server.stats()["total"]["dropped"] == 3


def test_conflated_messages_are_counted() -> None:
    with Driven(write_limit=2**23) as driven, driven.open(wrap=small_buffers):
        client, slot = driven.handler.client(), object()
        client.write_message(b"x" * 2**22)  # more than the system takes
        driven.turn()
        for number in range(4):
            assert fan_out_latest([client], f"{number}", (), slot)
        total = driven.server.stats()["total"]
        assert (total["conflated"], total["dropped"]) == (3, 0)


def test_buffered_is_what_waits_for_peers_that_do_not_read() -> None:
    with Driven(write_limit=2**23) as driven, driven.open(wrap=small_buffers) as peer:
        client = driven.handler.client()
        client.write_message(b"x" * 2**22)
        driven.turn()
        waiting = driven.server.stats()["buffered"]
        assert waiting == client.buffered_amount > 0
        peer.read_message()
        assert driven.server.stats()["buffered"] == 0


def test_topics_and_identities_with_somebody_are_counted() -> None:
    with Driven() as driven, driven.open() as peer, driven.open():
        one, other = driven.handler.client(0), driven.handler.client(1)
        for topic in ("a", "b"):
            one.subscribe(topic)
            other.subscribe(topic)
        one.bind("user-1")
        other.bind("user-1")
        one.unsubscribe("b")
        stats = driven.server.stats()
        assert (stats["topics"], stats["identities"]) == (2, 1)
        other.unsubscribe("b")
        assert driven.server.stats()["topics"] == 1
        peer.leave()
        other.unsubscribe("a")
        other.bind(None)
        stats = driven.server.stats()
        assert (stats["topics"], stats["identities"]) == (0, 0)


# --- Time ----------------------------------------------------------------------------


def test_time_in_callbacks_is_counted_for_the_handler() -> None:
    with busy(slow_callback=10) as driven, driven.open() as peer:
        idle = driven.server.mount("/idle", Recorder())
        for seconds in ("0.25", "0.5"):
            peer.text(seconds)
            driven.turn()
        first, second = driven.server.stats()["handlers"]
        assert first["busy"] == pytest.approx(0.75)
        assert second["busy"] == 0
        assert second["name"] == type(idle).__name__
        assert driven.server.stats()["total"]["busy"] == pytest.approx(0.75)


def test_callbacks_beyond_slow_callback_are_counted() -> None:
    with busy(slow_callback=0.2) as driven, driven.open() as peer:
        for seconds in ("0.1", "0.3", "0.1", "5"):
            peer.text(seconds)
            driven.turn()
        assert driven.server.stats()["slow_callbacks"] == 2


def test_longest_turn_is_that_of_the_last_ten_to_twenty_seconds() -> None:
    def hold(*seconds: str) -> float:
        """Have turns of so many seconds; return the longest that is remembered."""
        for text in seconds:
            peer.text(text)
            driven.turn()
        longest: float = driven.server.stats()["longest_turn"]
        return longest

    with busy() as driven, driven.open() as peer:
        driven.advance(8)
        assert hold("0.125", "0.25", "0.0625") == pytest.approx(0.25)
        driven.advance(2)  # the window is over: this one is remembered
        driven.advance(8)
        assert hold("0.125") == pytest.approx(0.25)
        driven.advance(2)
        assert hold() == pytest.approx(0.125)
        driven.advance(9)
        assert hold() == pytest.approx(0.125)
        driven.advance(1)
        assert hold() == 0


def test_turn_is_as_long_as_all_its_callbacks_together() -> None:
    with busy() as driven, driven.open() as first, driven.open() as second:
        first.text("0.001")
        second.text("0.002")
        driven.turn()
        assert driven.server.stats()["longest_turn"] == pytest.approx(0.003)


def test_long_callback_leaves_the_other_clients_to_the_next_turn() -> None:
    with busy() as driven, driven.open() as first, driven.open() as second:
        first.text("0.25")
        second.text("0.5")
        driven.turn(2)
        assert driven.server.stats()["longest_turn"] == pytest.approx(0.5)
        assert driven.handler.clients  # both were served


def test_timers_make_a_turn_long_as_well() -> None:
    with Driven() as driven:

        def work() -> None:
            driven.clock.now += 0.5

        driven.server.call_later(1, work)
        driven.advance(1)
        assert driven.server.stats()["longest_turn"] == pytest.approx(0.5)


def test_turns_that_follow_without_pause_are_each_looked_at() -> None:
    handler, clock = Busy(), Clock()
    handler.clock = clock
    server = type("ClockServer", (Server,), {"_clock": clock})("127.0.0.1", 0)
    server.mount("*", handler)
    server.start()
    try:
        with open_peer(server) as peer:
            # The answer to each ping shows that the turn before it is over.
            for seconds in ("0.125", "0"):
                peer.text(seconds)
                peer.send(PING)
                peer.read_frame()
                peer.send(PING)
                peer.read_frame()
            assert server.stats()["longest_turn"] == pytest.approx(0.125)
    finally:
        server.stop(drain=0)


def test_uptime_counts_from_listening_and_anew_after_a_restart() -> None:
    clock = Clock()
    server = type("ClockServer", (Server,), {"_clock": clock})("127.0.0.1", 0)
    server.listen()
    clock.now += 30
    stats = server.stats()
    assert stats["uptime"] == 30
    assert abs(stats["time"] - stats["started"]) < DEADLINE
    server.stop()
    assert server.stats()["uptime"] == 0
    assert server.stats()["started"] is None
    server.listen()
    clock.now += 5
    assert server.stats()["uptime"] == 5
    server.stop()


# --- Counters only grow --------------------------------------------------------------


def test_counts_survive_a_restart() -> None:
    server = Server("127.0.0.1", 0)
    server.mount("*", Echo())
    before = server.stats()
    for round_ in range(1, 4):
        server.start()
        with open_peer(server) as peer:
            peer.text("hi")
            assert peer.read_message() == "hi"
            server.stop(drain=0)
        stats = server.stats()
        assert_grew(before, stats)
        before = stats
        assert stats["connections"] == {"open": 0, "opened": round_, "dashboards": 0}
        assert stats["total"]["messages_received"] == round_
        assert stats["closed"]["shutdown"] == round_
        assert stats["buffered"] == 0


def test_longest_turn_of_a_run_is_not_that_of_the_next() -> None:
    with busy() as driven:
        with driven.open() as peer:
            peer.text("0.5")
            driven.turn()
        assert driven.server.stats()["longest_turn"] == pytest.approx(0.5)
        driven.tear_down()
        assert driven.server.stats()["longest_turn"] == 0
        driven.restart()
        assert driven.server.stats()["longest_turn"] == 0


def test_two_servers_do_not_share_figures() -> None:
    with Driven(Echo()) as one, Driven(Echo()) as other:
        with one.open() as peer:
            peer.text("hello")
            peer.read_message()
            with one.join() as stranger:
                stranger.write(b"nonsense\r\n\r\n")
                stranger.read_head()
            peer.leave()
        assert any(value for _, value in counts_of(one.server.stats()))
        assert not any(value for _, value in counts_of(other.server.stats()))
        assert other.server.stats()["connections"]["opened"] == 0


def test_callback_may_ask_for_figures() -> None:
    seen: list[Any] = []

    class Curious(Recorder):
        def on_message(self, msg: Any, client: Any) -> Any:
            seen.append(self.server.stats())  # type: ignore[union-attr]

    with Driven(Curious()) as driven, driven.open() as peer:
        peer.text("how many?")
        driven.until(lambda: seen)
        assert seen[0]["connections"]["open"] == 1
        assert seen[0]["total"]["messages_received"] == 1


def test_figures_taken_from_another_thread_never_go_back() -> None:
    with running(Echo()) as server:
        done = threading.Event()

        def visit() -> None:
            try:
                for number in range(60):
                    with open_peer(server) as peer:
                        peer.text("hi")
                        peer.read_message()
                        if number % 3:
                            peer.leave()
                    with connect(server) as stranger:
                        stranger.write(request(f"/{number}", "Origin: x"))
                        stranger.read_head()
                    server.mount(f"/{number}", Recorder())
            finally:
                done.set()

        visitor = threading.Thread(target=visit)
        visitor.start()
        before = server.stats()
        while not done.is_set():
            stats = server.stats()
            assert_grew(before, stats)
            assert stats["connections"]["opened"] >= sum(stats["closed"].values())
            before = stats
        visitor.join(DEADLINE)
        assert before["connections"]["opened"] >= 1
        assert len(server.stats()["handlers"]) == 61


def test_figures_are_taken_while_nobody_answers() -> None:
    asked, answered = threading.Event(), threading.Event()

    class Stuck(Recorder):
        def on_message(self, msg: Any, client: Any) -> Any:
            asked.set()
            answered.wait(DEADLINE)

    with running(Stuck()) as server, open_peer(server) as peer:
        peer.text("wait")
        try:
            assert asked.wait(DEADLINE)
            assert server.stats()["connections"]["open"] == 1
        finally:
            answered.set()
