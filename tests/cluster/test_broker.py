"""The broker of `workers=N`: messages between the processes of a machine."""

from __future__ import annotations

import errno
import os
import random
import select
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cluster_harness import Linked
from harness import DEADLINE, Clock

from simple_ws.cluster import broker as module
from simple_ws.cluster import broker_connection
from simple_ws.cluster.broker import Broker, BrokerSocket, run_broker
from simple_ws.cluster.connect import connect
from simple_ws.cluster.engine import Accepted, Delivered, Ready, Subscribed
from simple_ws.cluster.engine_address import EngineAddress
from simple_ws.cluster.redis_engine import RedisEngine
from simple_ws.cluster.resp import PythonReader, encode_command
from simple_ws.loop.reactor import Reactor

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "AF_UNIX") or not hasattr(os, "fork"),
    reason="no Unix sockets or no fork here",
)


class Remote:
    """A client of the broker, byte by byte."""

    def __init__(self, served: Served, sock: socket.socket) -> None:
        self.served, self.sock = served, sock
        sock.setblocking(False)
        self.reader = PythonReader()
        self.items: list[Any] = []
        self.ended = False

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            with suppress(BlockingIOError):
                view = view[self.sock.send(view) :]
            self.served.turn()

    def read(self, size: int = 2**20) -> None:
        with suppress(BlockingIOError):
            while data := self.sock.recv(size):
                self.items += self.reader.receive(data)
            self.ended = True

    def ask(self, *words: bytes) -> Any:
        """Send a command; the one reply to it."""
        self.write(encode_command(*words))
        [reply] = self.take()
        return reply

    def take(self) -> list[Any]:
        """What has come."""
        for _ in range(4):
            self.served.turn()
            with suppress(ConnectionResetError):
                self.read()
        items, self.items = self.items, []
        assert self.reader.problem is None
        return items

    def expect_end(self) -> None:
        for _ in range(100):
            self.take()
            if self.ended:
                return
        raise AssertionError("the connection is open")


class Served:
    """A broker in the test's own thread."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.reactor = Reactor(clock=self.clock)
        self.reactor.open()
        self.listening = BrokerSocket()
        self.broker = Broker(self.reactor, self.listening.sock, self.listening.secret)
        self.remotes: list[Remote] = []

    def turn(self) -> None:
        self.reactor.run_once(0)

    def join(self) -> Remote:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.listening.path)
        self.remotes.append(Remote(self, sock))
        self.turn()
        return self.remotes[-1]

    def enter(self, *channels: bytes) -> Remote:
        remote = self.join()
        secret = self.listening.secret.encode()
        hello = remote.ask(b"HELLO", b"3", b"AUTH", b"default", secret)
        assert hello[b"proto"] == 3
        if channels:
            remote.write(encode_command(b"SUBSCRIBE", *channels))
            assert len(remote.take()) == len(channels)
        return remote

    def close(self) -> None:
        for remote in self.remotes:
            remote.sock.close()
        self.broker.close()
        self.listening.close()
        self.reactor.close()


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.close()


class TestHistories:
    APPEND = (b"HISTORY.APPEND", b"c", b"p", b"1", b"00ff", b"3", b"", b"ab", b"x")
    READ = (b"HISTORY.READ", b"c", b"", b"0", b"", b"0", b"10", b"cd")

    def test_message_is_passed_on_with_its_position(self, served: Served) -> None:
        one, other = served.enter(b"c"), served.enter(b"c")
        one.write(encode_command(*self.APPEND))
        push = (b"message", b"c", b"ab:1:00ff x")
        assert one.take() == [push, [b"ab:1:00ff", 0, 2]]
        assert other.take() == [push]
        assert other.ask(*self.APPEND) == [b"ab:1:00ff", 1, 0]
        assert other.ask(*self.READ) == [b"ab", 1, 0, 1, b"00ff", 0, b"x"]

    def test_arguments_that_are_malformed(self, served: Served) -> None:
        remote = served.enter()
        choose = random.Random(7)
        for command in (self.APPEND, self.READ):
            for place in range(2, len(command)):
                words = list(command)
                for word in (
                    b"",
                    b"-1",
                    b"x",
                    b"\xff",
                    b"9" * 400,
                    choose.randbytes(9),
                ):
                    words[place] = word
                    assert remote.ask(*words) is not None
        assert remote.ask(*self.READ)[0] is not None

    @pytest.mark.parametrize("place", [3, 4, 5, 6, 7])
    def test_number_that_is_none(self, served: Served, place: int) -> None:
        words = list(self.APPEND)
        words[place] = b"\xff"
        remote = served.enter()
        assert str(remote.ask(*words)) == "ERR an argument is malformed"
        assert remote.ask(*self.READ) == [b"cd", 0, 0]

    def test_what_has_expired_is_removed_in_time(self, served: Served) -> None:
        remote = served.enter()
        words = list(self.APPEND)
        words[6] = b"5000"
        remote.ask(*words)
        served.clock.now += 6.0
        remote.take()
        history = served.broker.histories._topics[b"c"].history
        assert history.first == 2
        served.clock.now += 86_400.0
        remote.take()
        assert len(served.broker.histories) == 0

    def test_strangers_have_none(self, served: Served) -> None:
        assert "NOAUTH" in str(served.join().ask(*self.READ))


class TestEntering:
    def test_socket_is_private(self) -> None:
        listening = BrokerSocket()
        directory = os.path.dirname(listening.path)
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
        assert len(listening.secret) == 64
        listening.close()
        assert not os.path.exists(directory)

    def test_forked_process_leaves_the_file(self) -> None:
        listening = BrokerSocket()
        child = os.fork()
        if child == 0:
            listening.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert os.path.exists(listening.path)
        listening.close()

    def test_what_killed_supervisors_have_left_is_removed(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
        dead, new, alive = BrokerSocket(), BrokerSocket(), BrokerSocket()
        dead.sock.close()
        new.sock.close()
        for old in (dead, alive):
            os.utime(os.path.dirname(old.path), (0, 0))
        other = tmp_path / "simple_ws-other"
        other.mkdir()
        (other / "broker").write_text("no socket")
        os.utime(other, (0, 0))
        last = BrokerSocket()
        left = {path.parent.name for path in tmp_path.glob("*/broker")}
        expected = {Path(each.path).parent.name for each in (new, alive, last)}
        assert left == {*expected, other.name}
        assert not os.path.exists(os.path.dirname(dead.path))
        for each in (new, alive, last):
            each.close()

    def test_directory_is_removed_if_binding_fails(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def fail(path: str, backlog: int) -> None:
            raise OSError(errno.EMFILE, "too many")

        monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr(module, "bind_unix", fail)
        with pytest.raises(OSError, match="too many"):
            BrokerSocket()
        assert list(tmp_path.iterdir()) == []

    def test_hello_tells_what_it_is(self, served: Served) -> None:
        remote = served.join()
        secret = served.listening.secret.encode()
        hello = remote.ask(
            b"hello", b"3", b"auth", b"", secret, b"SETNAME", b"worker 1"
        )
        assert hello == {
            b"server": b"broker",
            b"version": b"1",
            b"proto": 3,
            b"id": 1,
            b"mode": b"standalone",
            b"role": b"master",
        }

    def test_without_the_password_nothing_is_done(self, served: Served) -> None:
        remote = served.join()
        for command in (
            (b"PING",),
            (b"SUBSCRIBE", b"a"),
            (b"PUBLISH", b"a", b"b"),
            (b"HELLO", b"3"),
            (b"NOTHING",),
        ):
            assert remote.ask(*command).code == "NOAUTH"
        assert not served.broker.channels

    @pytest.mark.parametrize(
        "command",
        [
            (b"HELLO", b"3", b"AUTH", b"default", b"wrong"),
            (b"AUTH", b"wrong"),
            (b"AUTH", b"default", b""),
        ],
    )
    def test_wrong_password_has_one_attempt(
        self, served: Served, command: tuple[bytes, ...]
    ) -> None:
        remote = served.join()
        secret = served.listening.secret.encode()
        remote.write(encode_command(*command) + encode_command(b"AUTH", secret))
        [error] = remote.take()
        assert error.code == "WRONGPASS"
        remote.expect_end()
        assert not served.broker.connections

    def test_password_alone_will_do(self, served: Served) -> None:
        remote = served.join()
        assert remote.ask(b"AUTH", served.listening.secret.encode()) == b"OK"
        assert remote.ask(b"PING") == b"PONG"

    def test_another_user_is_refused(
        self, served: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_user_of", lambda sock: os.geteuid() + 1)
        served.join().expect_end()

    @pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="Linux only")
    def test_user_of_a_connection(self) -> None:
        near, far = socket.socketpair()
        with near, far:
            assert module._user_of(near) == os.geteuid()

    def test_stranger_has_little_time_and_room(self, served: Served) -> None:
        late, big = served.join(), served.join()
        big.write(b"*2\r\n$4\r\nAUTH\r\n$20000\r\n")
        assert big.take()[0].code == "ERR"
        big.expect_end()
        served.clock.now += 9
        assert late.ask(b"PING").code == "NOAUTH"
        served.clock.now += 1
        late.expect_end()

    def test_one_that_has_entered_stays(self, served: Served) -> None:
        remote = served.enter()
        served.clock.now += 60
        assert remote.ask(b"PING") == b"PONG"


class TestCommands:
    @pytest.mark.parametrize(
        ("command", "reply"),
        [
            ([b"PING"], b"PONG"),
            ([b"ping", b"x"], b"x"),
            ([b"ECHO", b"x\r\n"], b"x\r\n"),
            ([b"ROLE"], [b"master", 0, []]),
            ([b"CLIENT", b"SETNAME", b"x"], b"OK"),
            ([b"CLIENT", b"ID"], 1),
            ([b"PUBLISH", b"nobody", b"x"], 0),
            ([b"PUBSUB", b"NUMSUB", b"a", b"b"], [b"a", 0, b"b", 0]),
            ([b"PUBSUB", b"CHANNELS"], []),
            ([b"UNSUBSCRIBE"], (b"unsubscribe", None, 0)),
            ([b"UNSUBSCRIBE", b"a"], (b"unsubscribe", b"a", 0)),
        ],
    )
    def test_reply(self, served: Served, command: list[bytes], reply: Any) -> None:
        assert served.enter().ask(*command) == reply

    @pytest.mark.parametrize(
        ("command", "text"),
        [
            ([b"GET", b"x"], "ERR unknown command 'GET'"),
            ([b"x\r\n\xff"], r"ERR unknown command 'X\r\n\xff'"),
            ([b"PUBLISH", b"x"], "ERR wrong number of arguments for 'publish' command"),
            ([b"SUBSCRIBE"], "ERR wrong number of arguments for 'subscribe' command"),
            ([b"PUBSUB", b"X"], "ERR unknown subcommand 'X'"),
            ([b"HELLO", b"2"], "NOPROTO this broker speaks version 3"),
        ],
    )
    def test_error(self, served: Served, command: list[bytes], text: str) -> None:
        remote = served.enter()
        assert remote.ask(*command).text == text
        assert remote.ask(b"PING") == b"PONG"

    def test_quit(self, served: Served) -> None:
        remote = served.enter()
        assert remote.ask(b"QUIT") == b"OK"
        remote.expect_end()

    def test_garbage_ends_the_connection(self, served: Served) -> None:
        remote, other = served.enter(), served.enter()
        text = "ERR Protocol error: expected '*', got b'G'"
        remote.write(encode_command(b"PING") + b"GET / HTTP/1.1\r\n\r\n")
        pong, error = remote.take()
        assert (pong, error.text) == (b"PONG", text)
        remote.expect_end()
        assert other.ask(b"PING") == b"PONG"

    def test_fuzzed_clients_do_no_harm(self, served: Served) -> None:
        rng = random.Random(12)
        good = served.enter(b"a")
        words = [*broker_connection._COMMANDS, b"a", b"3", b"", b"AUTH", b"\xff\r\n"]
        for number in range(300):
            remote = served.enter() if number % 2 else served.join()
            command = encode_command(*rng.choices(words, k=rng.randint(1, 6)))
            broken = bytearray(command * 2)
            if number % 3:
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            with suppress(BrokenPipeError, ConnectionResetError):
                remote.write(bytes(broken))
                remote.take()
            remote.sock.close()
            served.turn()
        served.turn()
        good.take()
        assert good.ask(b"PUBSUB", b"NUMSUB", b"a") == [b"a", 1]
        assert len(served.broker.connections) == 1


class TestMessages:
    def test_receivers_get_it_and_are_counted(self, served: Served) -> None:
        one, both = served.enter(b"a"), served.enter(b"a", b"b")
        sender = served.enter()
        assert sender.ask(b"PUBLISH", b"a", b"1") == 2
        assert sender.ask(b"PUBLISH", b"b", b"2") == 1
        assert one.take() == [(b"message", b"a", b"1")]
        assert both.take() == [(b"message", b"a", b"1"), (b"message", b"b", b"2")]

    def test_own_push_comes_before_the_reply(self, served: Served) -> None:
        remote = served.enter(b"a")
        remote.write(encode_command(b"PUBLISH", b"a", b"1"))
        assert remote.take() == [(b"message", b"a", b"1"), 1]

    def test_all_receive_one_order(self, served: Served) -> None:
        receivers = [served.enter(b"a") for _ in range(3)]
        senders = [served.enter() for _ in range(3)]
        for number in range(50):
            for index, sender in enumerate(senders):
                body = b"%d of %d" % (number, index)
                sender.sock.send(encode_command(b"PUBLISH", b"a", body))
        seen = [receiver.take() for receiver in receivers]
        assert len(seen[0]) == 150
        assert seen[0] == seen[1] == seen[2]

    def test_subscriptions_can_be_given_up(self, served: Served) -> None:
        remote, sender = served.enter(b"a", b"b"), served.enter()
        assert remote.ask(b"UNSUBSCRIBE", b"a") == (b"unsubscribe", b"a", 1)
        assert sender.ask(b"PUBLISH", b"a", b"1") == 0
        assert sender.ask(b"PUBSUB", b"CHANNELS") == [b"b"]
        assert remote.ask(b"SUBSCRIBE", b"b") == (b"subscribe", b"b", 1)
        assert remote.ask(b"UNSUBSCRIBE") == (b"unsubscribe", b"b", 0)
        assert not served.broker.channels

    def test_channels_by_pattern(self, served: Served) -> None:
        remote = served.enter(b"x.t.a", b"x.t.b", b"y.t.a")
        found = remote.ask(b"PUBSUB", b"CHANNELS", b"x.t.*")
        assert sorted(found) == [b"x.t.a", b"x.t.b"]

    def test_channels_of_one_that_has_left_are_forgotten(self, served: Served) -> None:
        served.enter(b"a", b"b").sock.close()
        sender = served.enter()
        assert sender.ask(b"PUBLISH", b"a", b"1") == 0
        assert not served.broker.channels

    def test_bodies_of_any_size_and_content(self, served: Served) -> None:
        remote, sender = served.enter(b"a"), served.enter()
        for body in (b"", b"\r\n$5\r\n", os.urandom(3 * 2**20)):
            sender.write(encode_command(b"PUBLISH", b"a", body))
            got: list[Any] = []
            while not got:
                got = remote.take()
            assert got == [(b"message", b"a", body)]
            assert sender.take() == [1]

    def test_a_turn_does_so_much_for_one_and_then_serves_others(
        self, served: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(broker_connection, "_WORK", 10)
        busy, other = served.enter(), served.enter()
        busy.sock.send(encode_command(b"PING") * 200)
        other.sock.send(encode_command(b"PING"))
        for _ in range(5):
            served.turn()
        busy.read()
        other.read()
        assert other.items == [b"PONG"]
        assert 0 < len(busy.items) < 100
        while len(busy.items) < 200:
            served.turn()
            busy.read()
        busy.items.clear()
        assert busy.ask(b"PING") == b"PONG"

    def test_one_that_does_not_read_is_cut_and_no_other(
        self,
        served: Served,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(broker_connection, "OUTPUT_LIMIT", 2**20)
        stuck, reading = served.enter(b"a"), served.enter(b"a")
        sender = served.enter()
        body, seen = b"x" * 2**16, 0
        for _ in range(40):
            assert sender.ask(b"PUBLISH", b"a", body) in (1, 2)
            seen += len(reading.take())
        assert seen == 40
        assert len(served.broker.connections) == 2
        assert "cuts a client that does not read" in caplog.text
        while not stuck.ended:
            stuck.read()

    def test_limit_is_not_reached_by_one_that_is_slow(
        self, served: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(broker_connection, "OUTPUT_LIMIT", 2**20)
        slow, sender = served.enter(b"a"), served.enter()
        body = b"x" * 2**16
        for number in range(64):
            assert sender.ask(b"PUBLISH", b"a", body) == 1
            if number % 8 == 7:
                slow.take()
        while any(each.waiting for each in served.broker.connections):
            slow.take()

    def test_message_waits_once_for_all(self, served: Served) -> None:
        remotes = [served.enter(b"a") for _ in range(3)]
        sender = served.enter()
        for _ in range(6):
            sender.ask(b"PUBLISH", b"a", b"x" * 2**19)
        waiting = [
            each._output[-1] for each in served.broker.channels[b"a"] if each._output
        ]
        assert len(waiting) == len(remotes)
        assert all(each is waiting[0] for each in waiting)


# --- With the real engine and link, and a process of its own --------------------------


def address_of(listening: BrokerSocket) -> EngineAddress:
    return EngineAddress("unix", path=listening.path, password=listening.secret)


class Process:
    """A broker in a process of its own."""

    def __init__(self, listening: BrokerSocket) -> None:
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            theirs.close()
            with suppress(BaseException):
                run_broker(listening.sock, listening.secret, ours)
                os._exit(0)
            os._exit(1)
        ours.close()
        self.parent = theirs

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.parent.close()

    def end(self) -> int:
        """End it as its parent's end does; its exit code."""
        self.parent.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def listening() -> Iterator[BrokerSocket]:
    listening = BrokerSocket()
    yield listening
    listening.close()


def test_it_ends_with_its_parent_and_not_by_signals(listening: BrokerSocket) -> None:
    process = Process(listening)
    sock = connect(address_of(listening), DEADLINE)
    sock.settimeout(DEADLINE)
    sock.sendall(encode_command(b"PING"))
    assert sock.recv(1000).startswith(b"-NOAUTH")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(process.pid, number)
    sock.sendall(encode_command(b"PING"))
    assert sock.recv(1000).startswith(b"-NOAUTH")
    assert process.end() == 0
    assert sock.recv(1000) == b""
    sock.close()


class Node(Linked):
    """A link to a broker by the real engine, which is driven by real time."""

    def __init__(self, listening: BrokerSocket) -> None:
        address = address_of(listening)
        super().__init__()
        self.engine = RedisEngine.from_address(address)  # type: ignore[assignment]
        self.link._engine = self.engine
        self.results = None  # type: ignore[assignment]
        self._address = address
        self.link.start()

    def _connect(self, cancelled: Any) -> Any:
        return connect(self._address, DEADLINE, cancelled)


def turn_until(nodes: list[Node], condition: Any) -> None:
    for _ in range(2000):
        if condition():
            return
        for node in nodes:
            node.turn(1)
            if node.link.state.name == "WAITING":
                node.clock.now += 0.1
        readers = [node.reactor for node in nodes if hasattr(node.reactor, "fileno")]
        with suppress(AttributeError):
            select.select(readers, [], [], 0.01)
    raise AssertionError([node.events for node in nodes])


def delivered(node: Node) -> list[bytes]:
    return [each.envelope for each in node.events if isinstance(each, Delivered)]


def test_killed_broker_is_replaced_on_the_same_socket(listening: BrokerSocket) -> None:
    process = Process(listening)
    with Node(listening) as one, Node(listening) as two:
        nodes = [one, two]
        for node in nodes:
            node.engine.subscribe(["a"])
        turn_until(nodes, lambda: all(Subscribed() in node.events for node in nodes))
        one.engine.publish("a", b"before")
        one.link.flush_soon()
        turn_until(nodes, lambda: delivered(two) == [b"before"])
        process.kill()
        turn_until(nodes, lambda: not (one.link.up or two.link.up))
        for node in nodes:
            node.events.remove(Subscribed())
        process = Process(listening)
        turn_until(nodes, lambda: all(Subscribed() in node.events for node in nodes))
        assert one.link.up
        assert Ready("Broker 1") in two.events
        two.engine.publish("a", b"after")
        two.link.flush_soon()
        turn_until(nodes, lambda: delivered(one) == [b"before", b"after"])
        assert Accepted(2) in one.events
    assert process.end() == 0


def test_stopped_broker_is_noticed_and_comes_back(listening: BrokerSocket) -> None:
    process = Process(listening)
    with Node(listening) as node:
        node.engine.subscribe(["a"])
        turn_until([node], lambda: Subscribed() in node.events)
        os.kill(process.pid, signal.SIGSTOP)
        for _ in range(4):
            node.advance(1)
        assert node.states[-1][0] is False
        assert not node.link.permanent
        os.kill(process.pid, signal.SIGCONT)
        turn_until([node], lambda: node.link.up)
    assert process.end() == 0


def test_wrong_password_is_permanent(listening: BrokerSocket) -> None:
    process = Process(listening)
    secret, listening.secret = listening.secret, "wrong"
    with Node(listening) as node:
        turn_until([node], lambda: node.states)
        assert node.link.permanent
        assert secret not in node.link.reason
    process.end()
