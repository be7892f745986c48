"""Conflation: while a client does not take its output, the newest message of each slot
waits for it in the place of the older one (design: ADR 34)."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from harness import PING, Driven, Peer, Wrapped, calls_until, interrupt, small_buffers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from speedups.test_fan_out import OFFER, Inflating, words

from simple_ws import Client, Middleware, SendStatus, WebSocket
from simple_ws.speedups import fan_out, fan_out_latest

FIN, TEXT = 0x80, 1


class Gate(Wrapped):
    """A socket that takes `budget` bytes of output, and no more."""

    budget = 2**30

    def send(self, data: Any) -> int:
        size = min(self.budget, len(data))
        if not size:
            raise BlockingIOError
        self.budget -= size
        sent: int = self._sock.send(bytes(data[:size]))
        assert sent == size
        return sent

    def sendmsg(self, parts: Any) -> int:
        return self.send(b"".join(parts))


class Slow:
    """One client whose socket takes what the test lets it take."""

    def __init__(self, driven: Driven, *headers: str) -> None:
        self.driven = driven
        self.gates: list[Gate] = []
        self.peer: Peer = driven.open("/", *headers, wrap=self._gate)
        self.client: Client = driven.handler.client()
        self.slots: dict[Any, object] = {}
        self._before = 0

    def _gate(self, sock: Any) -> Any:
        self.gates.append(Gate(sock))
        return self.gates[-1]

    def block(self) -> None:
        """Have the system take no more: a message waits that `read` leaves out."""
        self.gates[-1].budget = 0
        self.client.write_message(".")
        self.driven.turn(2)
        self._before = 1

    def take(self, size: int) -> None:
        """Let the system take so many bytes, and the server write."""
        self.gates[-1].budget = size
        self.driven.turn(2)

    def publish(self, key: Any, msg: Any) -> int:
        slot = self.slots.setdefault(key, object())
        return fan_out_latest([self.client], msg, (), slot)

    def read(self, count: int) -> list[Any]:
        while self._before:
            self._before -= 1
            assert self.peer.read_message() in (".", "<.>")
        return [self.peer.read_message() for _ in range(count)]

    def read_all(self) -> list[Any]:
        """Everything up to a last message, without it."""
        self.client.write_message("the end")
        self.take(2**30)
        found: list[Any] = []
        while not found or found[-1] != "the end":
            found += self.read(1)
        return found[:-1]


@contextmanager
def slow(*headers: str, handler: Any = None, **options: Any) -> Iterator[Slow]:
    with Driven(handler, **options) as driven:
        yield Slow(driven, *headers)


# --- What waits -----------------------------------------------------------------------


def test_client_that_takes_its_output_sees_every_message() -> None:
    with slow() as client:
        for number in range(300):
            assert client.publish(number % 3, str(number)) == 1
            if number % 7 == 0:
                client.driven.turn()
        assert client.read_all() == [str(number) for number in range(300)]
        assert client.client._counters.conflated == 0


def test_newest_message_of_each_key_waits_in_the_place_of_the_older_one() -> None:
    with slow() as client:
        client.take(0)
        for msg in ("a0", "b0", "a1", "c0", "b1", "a2"):
            assert client.publish(msg[0], msg) == 1
            client.driven.turn()
        assert client.client.buffered_amount == 3 * 4
        assert client.driven.reactor.buffered == 3 * 4
        assert client.read_all() == ["a2", "b1", "c0"]
        assert client.client._counters.conflated == 3
        assert client.client.messages_sent == 7


def test_what_waits_when_the_system_takes_no_more_is_conflated_too() -> None:
    """All of one turn: nobody knew yet that the client is slow."""
    with slow() as client:
        client.gates[-1].budget = 6
        for msg in ("a0", "b0", "a1", "plain", "b1", "a2", "b2"):
            if msg == "plain":
                client.client.write_message(msg)
            else:
                client.publish(msg[0], msg)
        client.driven.turn()
        # a0 has left, b0 in part: it is finished.
        assert client.client.buffered_amount == 2 + 4 + 7 + 4
        assert client.read_all() == ["a0", "b0", "a2", "plain", "b2"]
        assert client.client._counters.conflated == 2


@pytest.mark.parametrize("taken", range(7))
def test_message_that_was_sent_in_part_is_finished(taken: int) -> None:
    with slow() as client:
        client.take(0)
        client.publish("a", "first")
        client.take(taken)
        client.publish("a", "second")
        client.publish("a", "third")
        expected = ["third"] if not taken else ["first", "third"]
        assert client.read_all() == expected


def test_after_it_has_left_the_next_one_takes_its_turn_at_the_end() -> None:
    with slow() as client:
        client.take(0)
        client.publish("a", "a0")
        client.publish("b", "b0")
        client.take(4)
        client.publish("a", "a1")
        client.publish("b", "b1")
        client.publish("a", "a2")
        assert client.read_all() == ["a0", "b1", "a2"]


def test_other_messages_keep_their_places() -> None:
    with slow() as client:
        client.block()
        for number in range(5):
            client.publish("a", f"a{number}")
            client.client.write_message(f"own {number}")
            client.client.ping(str(number))
            fan_out([client.client], f"all {number}", ())
        client.take(2**20)
        assert client.read(1) == ["a4"]
        for number in range(5):
            assert client.peer.read_frame() == (FIN | TEXT, b"own %d" % number)
            assert client.peer.read_frame() == (FIN | PING, b"%d" % number)
            assert client.peer.read_frame() == (FIN | TEXT, b"all %d" % number)


@pytest.mark.parametrize("size", [0, 10, 200, 70_000])
@pytest.mark.parametrize("kind", [str, bytes])
def test_messages_of_every_size_and_kind(size: int, kind: Any) -> None:
    messages = [kind("x" * size + c) if kind is str else b"y" * size + c.encode()
                for c in "abc"]  # fmt: skip
    with slow() as client:
        client.block()
        for msg in messages:
            client.publish("a", msg)
        assert client.read_all() == [messages[-1]]
        assert client.driven.reactor.buffered == 0


def test_dict_is_encoded_once_and_replaced() -> None:
    with slow() as client:
        client.block()
        client.publish("a", {"n": 1})
        client.publish("a", {"n": 2})
        assert client.read_all() == ['{"n":2}']


def test_plain_socket() -> None:
    """As users have them: the system takes a few kilobytes."""
    with Driven() as driven:
        peer = driven.open(wrap=small_buffers)
        client, slots = driven.handler.client(), [object() for _ in range(5)]
        for number in range(1000):
            for index, slot in enumerate(slots):
                msg = f"{index} {number} " + "x" * 200
                assert fan_out_latest(driven.handler.clients, msg, (), slot) == 1
            driven.turn()
        assert client.buffered_amount < 6 * 300
        client.write_message("the end")
        seen: list[tuple[int, int]] = []
        while (msg := peer.read_message()) != "the end":
            index, number, _ = str(msg).split()
            seen.append((int(index), int(number)))
        for index in range(5):
            numbers = [number for which, number in seen if which == index]
            assert numbers == sorted(set(numbers))
            assert numbers[-1] == 999
        assert len(seen) + client._counters.conflated == 5000
        assert driven.reactor.buffered == 0


# --- Beside the rest ------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["close", "drop_new", "drop_old"])
def test_message_that_replaces_another_needs_no_room(policy: str) -> None:
    with slow(write_limit=1000, slow_consumer=policy) as client:
        client.block()
        for number in range(10):
            for key in "abc":
                assert client.publish(key, f"{key}{number}".ljust(300)) == 1
        assert client.client._counters.dropped == 0
        assert client.client.is_open()
        seen = [msg.rstrip() for msg in client.read_all()]
        assert seen == ["a9", "b9", "c9"]


def test_message_that_grows_beyond_the_limit_is_for_the_policy() -> None:
    ends = ("drop_new", ["a0", "b0"], 1), ("drop_old", ["a1"], 3)
    for policy, end, dropped in ends:
        with slow(write_limit=1000, slow_consumer=policy) as client:
            client.block()
            client.publish("a", "a0".ljust(400))
            client.publish("b", "b0".ljust(400))
            client.publish("a", "a1".ljust(900))
            assert client.client._counters.dropped == dropped
            client.take(2**20)
            client._before *= policy == "drop_new"  # what blocked it was dropped, too
            assert [str(msg).rstrip() for msg in client.read(len(end))] == end


def test_memory_of_all_is_no_reason_to_refuse_what_needs_none() -> None:
    with slow(max_buffered=1000, slow_consumer="drop_new") as client:
        client.block()
        client.publish("a", "a0".ljust(900))
        client.publish("b", "b0".ljust(200))
        assert client.publish("b", "b1".ljust(200)) == 1
        assert client.publish("c", "c0") == 0
        client.take(2**20)
        assert [str(msg).rstrip() for msg in client.read(2)] == ["a0", "b1"]


def test_dropped_messages_leave_the_others_right() -> None:
    with slow(write_limit=1000, slow_consumer="drop_old") as client:
        client.take(0)
        client.publish("a", "a0".ljust(240))
        client.driven.turn()
        for key in "bcd":
            client.publish(key, f"{key}0".ljust(240))
        client.publish("e", "e0".ljust(240))  # drops a0
        client.publish("c", "c1".ljust(240))
        client.publish("a", "a1".ljust(240))  # drops b0
        client.publish("d", "d1".ljust(240))
        client.take(2**20)
        seen = [str(msg).rstrip() for msg in client.read(4)]
        assert seen == ["c1", "d1", "e0", "a1"]
        assert client.client._counters.dropped == 2


def test_backpressure_and_drain_are_told_as_ever() -> None:
    with slow() as client:
        client.take(0)
        client.publish("a", "a0")
        client.driven.turn()
        client.publish("a", "a1")
        client.driven.turn()
        assert client.driven.handler.of("drain") == []
        client.take(2**20)
        assert client.driven.handler.of("drain") == [None]
        assert client.client.write_message("x") is SendStatus.SENT


def test_close_sends_what_waits_and_says_good_bye() -> None:
    with slow() as client:
        client.take(0)
        client.publish("a", "a0")
        client.driven.turn()
        client.publish("a", "a1")
        client.client.close(4000, "enough")
        assert client.publish("a", "a2") == 0
        client.take(2**20)
        assert client.read(1) == ["a1"]
        assert client.peer.read_close() == (4000, "enough")


def test_cut_connection_leaves_nothing() -> None:
    with slow() as client:
        client.take(0)
        client.publish("a", "a0")
        client.driven.turn()
        client.publish("a", "a1")
        client.client.terminate()
        assert client.driven.reactor.buffered == 0
        assert client.publish("a", "a2") == 0


def test_stop_waits_until_the_newest_is_sent() -> None:
    with slow() as client:
        client.take(0)
        client.publish("a", "a0")
        client.driven.turn()
        client.publish("a", "a1")
        client.driven.stop_begins(5)
        client.take(2**20)
        assert client.read(1) == ["a1"]
        assert client.peer.read_close()[0] == 1001


# --- Compression ----------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True], ids=["core", "own write_message"])
def test_replaced_messages_leave_the_peers_window_right(own: bool) -> None:
    class Upper(Middleware):
        def on_send(self, msg: Any, client: Client) -> Any:
            return msg.upper()

    with Driven(compression=True) as driven:
        if own:
            driven.server.use(Upper())
        client = Slow(driven, OFFER)
        end = Inflating(client.peer)
        client.client.write_message(words(1, 400))
        assert end.read().lower() == words(1, 400)
        client.publish("a", words(5, 300))
        assert end.read().lower() == words(5, 300)
        client.take(0)
        client.publish("a", words(5, 300))
        driven.turn(2)
        expected = []
        for number in range(4):
            client.publish("a", words(2, 300) + f" a{number}")
            client.client.write_message(words(1, 400) + f" own {number}")
            client.publish("b", words(1, 300) + f" b{number}")
            expected.append(words(1, 400) + f" own {number}")
        expected[0:0] = [words(2, 300) + " a3"]
        expected[2:2] = [words(1, 300) + " b3"]
        client.take(2**20)
        assert [end.read().lower() for _ in expected] == expected
        client.client.write_message(words(2, 400))
        assert end.read().lower() == words(2, 400)


# --- Clients that have a write_message of their own -----------------------------------


def test_middlewares_see_every_message_and_the_newest_waits() -> None:
    seen: list[Any] = []

    class Note(Middleware):
        def on_send(self, msg: Any, client: Client) -> Any:
            seen.append(msg)
            return Middleware.STOP if msg == "stop" else f"<{msg}>"

    with Driven() as driven:
        driven.server.use(Note())
        client = Slow(driven)
        client.block()
        for msg in ("a0", "b0", "a1", "stop", "b1"):
            client.publish(msg[0], msg)
            driven.turn()
        assert seen == [".", "a0", "b0", "a1", "stop", "b1"]
        client.take(2**20)
        assert client.read(2) == ["<a1>", "<b1>"]


def test_message_that_is_sent_as_several_ends_the_conflation_of_those_before() -> None:
    """Nothing old may come after something newer."""

    class Twice(Client):
        def write_message(self, msg: Any, binary: bool | None = None) -> SendStatus:
            if msg.endswith("!"):
                super().write_message(msg)
            return super().write_message(msg)

    class Handler(WebSocket):
        client_class = Twice

    with Driven(Handler()) as driven:
        peer_holder: list[Gate] = []

        def gate(sock: Any) -> Any:
            peer_holder.append(Gate(sock))
            return peer_holder[-1]

        peer = driven.open(wrap=gate)
        (client,) = driven.handler.clients
        slot = object()
        for blocked in (False, True):
            peer_holder[-1].budget = 0
            if blocked:
                fan_out([client], "!", ())
                driven.turn(2)
            for msg in ("a", "b", "c!", "d", "e"):
                fan_out_latest([client], msg, (), slot)
            driven.turn(2)
            peer_holder[-1].budget = 2**20
            driven.turn(2)
            waited = ["b", "c!", "c!", "e"]
            waited[0:0] = ["!", "!"] if blocked else ["a"]
            assert [peer.read_message() for _ in waited] == waited


def test_error_of_one_message_leaves_the_others_right() -> None:
    class Failing(Middleware):
        def on_send(self, msg: Any, client: Client) -> Any:
            if msg == "a1":
                client._send(TEXT, b"something else")
                raise ValueError("no")
            return msg

    with Driven() as driven:
        driven.server.use(Failing())
        client = Slow(driven)
        client.block()
        client.publish("a", "a0")
        with pytest.raises(ValueError, match="no"):
            client.publish("a", "a1")
        client.publish("a", "a2")
        client.publish("a", "a3")
        client.take(2**20)
        assert client.read(3) == ["a0", "something else", "a3"]


def test_excluded_clients_and_wrong_messages() -> None:
    with slow() as client:
        assert fan_out_latest([client.client], "x", (client.client,), object()) == 0
        with pytest.raises(TypeError):
            fan_out_latest([client.client], object(), (), object())


# --- What is kept ---------------------------------------------------------------------


class Slot:
    """A slot whose end can be seen."""


@pytest.mark.parametrize("end", ["taken", "cut", "dropped", "closed", "forgotten"])
@pytest.mark.parametrize("blocked", [False, True], ids=["", "blocked"])
def test_slots_are_given_up(end: str, blocked: bool) -> None:
    with slow(slow_consumer="drop_old", write_limit=4000) as client:
        client.block() if blocked else client.take(0)
        slots = [Slot() for _ in range(20)]
        for number in range(60):
            fan_out_latest([client.client], f"{number}", (), slots[number % 20])
        waiting = list(map(weakref.ref, slots))
        del slots
        assert all(slot() for slot in waiting)
        if end == "taken":
            client.take(2**20)
        elif end == "cut":
            client.client.terminate()
        elif end == "dropped":
            client.driven.turn(2)
            for _ in range(2):
                client.client.write_message("x" * 3900)
        elif end == "closed":
            client.client._discard_output()
        else:
            client.client._drop_oldest(10**6)
            client.take(0)
        gc.collect()
        assert not any(slot() for slot in waiting)


def test_connection_that_is_forgotten_gives_up_its_slots() -> None:
    with slow() as client:
        slot = Slot()
        seen, core = weakref.ref(slot), client.client
        client.block()
        fan_out_latest([core], "x", (), slot)
        fan_out_latest([core], "y", (), slot)
    del slot, core, client
    gc.collect()
    assert seen() is None


# --- Code that runs in the middle -----------------------------------------------------

ACTIONS: dict[str, Any] = {
    "own message": lambda client: client.client.write_message("x0"),
    "same key": lambda client: client.publish("a", "a8"),
    "other key": lambda client: client.publish("b", "b8"),
    "ping": lambda client: client.client.ping(),
    "exception": lambda client: interrupt(),
    "end": lambda client: client.client.terminate(),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("when", ["publish", "block"])
def test_signal_handler_may_do_anything_in_between(action: str, when: str) -> None:
    """After any call; what is sent stays whole, counted, and in order."""
    stop, seen = 1, 0
    while stop <= seen + 1:
        with slow() as client:
            client.block() if when == "publish" else client.take(0)
            for msg in ("a0", "b0", "c0", "b1"):
                client.publish(msg[0], msg)
            step = partial(client.publish, "a", "a1")
            if when == "block":
                client.publish("a", "a1")
                step = partial(client.client._flush)
            seen, _ = calls_until(stop, step, partial(ACTIONS[action], client))
            if client.client.is_open():
                client.publish("a", "a9")
                client.publish("b", "b9")
                _check_all_arrive(client)
                assert client.client.buffered_amount == 0
                assert client.driven.reactor.buffered == 0
        stop += 1


def _check_all_arrive(client: Slow) -> None:
    client.client.write_message("the end")
    client.take(2**20)
    came: list[str] = []
    while not came or came[-1] != "the end":
        first, payload = client.peer.read_frame()
        came += [payload.decode()] * (first == FIN | TEXT)
    for key, last in (("a", "a9"), ("b", "b9"), ("c", "c0")):
        numbers = [msg for msg in came if msg[0] == key]
        assert numbers[-1] == last
        # The one of the handler is older or newer than the one that it interrupts.
        others = [number for number in numbers if number[1] != "8"]
        assert others == sorted(set(others))


# --- Any order of things --------------------------------------------------------------


class Model:
    """What waits for a client, and what it has got, in a few lines of Python."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Any, bytes]] = []  # slot and frame
        self.sent = 0  # bytes of the first
        self.blocked = False
        self.got: list[bytes] = []

    def put(self, slot: Any, frame: bytes) -> None:
        self.waiting.append((slot, frame))
        if self.blocked:
            self.conflate()

    def conflate(self) -> None:
        begun = 1 if self.sent else 0
        kept: list[tuple[Any, bytes]] = self.waiting[:begun]
        for slot, frame in self.waiting[begun:]:
            places = [i for i in range(begun, len(kept)) if kept[i][0] == slot]
            if slot is not None and places:
                kept[places[0]] = slot, frame
            else:
                kept.append((slot, frame))
        self.waiting = kept

    def take(self, size: int) -> None:
        while self.waiting and size:
            step = min(size, len(self.waiting[0][1]) - self.sent)
            size -= step
            self.sent += step
            if self.sent == len(self.waiting[0][1]):
                self.got.append(self.waiting.pop(0)[1])
                self.sent = 0
        self.blocked = bool(self.waiting)
        if self.blocked:
            self.conflate()


def frame_of(payload: bytes) -> bytes:
    if len(payload) < 126:
        return bytes((0x81, len(payload))) + payload
    return b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(0, 3), st.integers(0, 200)),
        st.tuples(st.just("own"), st.just(0), st.integers(0, 200)),
        st.tuples(st.just("ping"), st.just(0), st.just(0)),
        st.tuples(st.just("take"), st.just(0), st.integers(0, 500)),
    ),
    max_size=60,
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(STEPS)
def test_any_order_of_publishing_and_taking(steps: Any) -> None:
    with slow() as client:
        model, published = Model(), {key: [] for key in range(4)}  # type: ignore[var-annotated]
        client.gates[-1].budget = 0
        for number, (what, key, size) in enumerate(steps):
            payload = f"{key} {number} ".encode() + b"x" * size
            if what == "take":
                client.take(size)
                model.take(size)
            elif what == "ping":
                client.client.ping(str(number))
                model.put(None, b"\x89" + bytes((len(str(number)),)) + b"%d" % number)
            elif what == "own":
                client.client.write_message(payload.decode())
                model.put(None, frame_of(payload))
            else:
                published[key].append(frame_of(payload))
                client.publish(key, payload.decode())
                model.put(key, frame_of(payload))
            waiting = sum(len(frame) for _, frame in model.waiting) - model.sent
            assert client.client.buffered_amount == waiting
        client.take(2**20)
        model.take(2**20)
        assert client.client.buffered_amount == client.driven.reactor.buffered == 0
        came = client.peer.read(sum(map(len, model.got)))
        assert came == b"".join(model.got)
        for frames in published.values():
            seen = [frame for frame in model.got if frame in frames]
            assert seen == sorted(seen, key=frames.index)
            assert seen[-1:] == frames[-1:]


@pytest.mark.parametrize("seed", range(4))
def test_many_clients_of_different_speed(seed: int) -> None:
    rng = random.Random(seed)
    with Driven() as driven:
        peers = [driven.open(wrap=small_buffers) for _ in range(5)]
        slots = [object() for _ in range(8)]
        buffers = [b"" for _ in peers]
        for number in range(400):
            for _ in range(rng.randrange(6)):
                key = rng.randrange(8)
                msg = f"{key} {number} ".ljust(rng.randrange(20, 900))
                assert fan_out_latest(driven.handler.clients, msg, (), slots[key]) == 5
            driven.turn()
            for index, peer in enumerate(peers):
                if rng.random() < index / 4:  # the first never reads
                    buffers[index] += peer.read_now()
        for key, slot in enumerate(slots):
            fan_out_latest(driven.handler.clients, f"{key} {400} ", (), slot)
        for client in driven.handler.clients:
            client.write_message("end")
        for peer, buffer in zip(peers, buffers, strict=True):
            peer._buffer = buffer + peer._buffer
            last: dict[str, int] = {}
            while (msg := str(peer.read_message())) != "end":
                key_seen, at = msg.split()
                assert int(at) >= last.get(key_seen, 0)
                last[key_seen] = int(at)
            assert last == dict.fromkeys(map(str, range(8)), 400)
