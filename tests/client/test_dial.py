"""Connected sockets for the blocking client: addresses in turn, waiting, TLS."""

from __future__ import annotations

import select
import socket
from pathlib import Path
from typing import Any

import pytest
from client_harness import elsewhere
from harness import DEADLINE

from simple_ws.client import dial as client_dial
from simple_ws.client.dial import (
    READ,
    WRITE,
    _Race,
    dial,
    dial_unix,
    interleaved,
    wait_for,
)


def left() -> float:
    return DEADLINE


def over() -> float:
    raise TimeoutError("over")


@pytest.fixture
def pair() -> Any:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("has_poll", [True, False])
class TestWaiting:
    @pytest.fixture(autouse=True)
    def with_or_without_poll(
        self, has_poll: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if not has_poll:  # as on Windows
            monkeypatch.delattr(select, "poll")

    def test_says_what_a_socket_is_ready_for(self, pair: Any) -> None:
        ours, theirs = pair
        assert wait_for(ours, READ, 0) == 0
        assert wait_for(ours, WRITE, 0) == WRITE
        assert wait_for(ours, READ | WRITE, None) == WRITE
        theirs.send(b"x")
        assert wait_for(ours, READ, None) == READ
        assert wait_for(ours, READ | WRITE, 5) == READ | WRITE

    def test_end_is_something_to_read(self, pair: Any) -> None:
        ours, theirs = pair
        theirs.close()
        assert wait_for(ours, READ, None) == READ

    def test_waits_no_longer_than_told(self, pair: Any) -> None:
        ours, _ = pair
        assert wait_for(ours, READ, 0.01) == 0
        assert wait_for(ours, READ, -1) == 0

    def test_wakes_for_what_comes_meanwhile(self, pair: Any) -> None:
        ours, theirs = pair
        with elsewhere() as start:
            waiting = start(wait_for, ours, READ, None)
            theirs.send(b"x")
            assert waiting.result(DEADLINE) == READ


class TestDialling:
    def test_connects_to_the_first_address_that_answers(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with dial("127.0.0.1", port, None, left) as sock:
                assert sock.getpeername()[1] == port
                assert not sock.getblocking()
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    def test_next_address_is_tried_at_once_after_a_refusal(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            found = [self.address("127.0.0.3", port), self.address("127.0.0.1", port)]
            with _Race(found, None).run(left) as sock:
                assert sock.getpeername() == ("127.0.0.1", port)

    def test_next_address_is_tried_while_one_is_silent(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(client_dial, "NEXT_ATTEMPT", 0.001)
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            # Nobody answers there (RFC 5737); or the network says so at once.
            found = [self.address("192.0.2.1", port), self.address("127.0.0.1", port)]
            with _Race(found, None).run(left) as sock:
                assert sock.getpeername() == ("127.0.0.1", port)

    def test_error_is_raised_when_all_have_failed(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        found = [self.address(f"127.0.0.{n}", port) for n in (1, 2, 3)]
        with pytest.raises(ConnectionRefusedError):
            _Race(found, None).run(left)

    def test_impossible_addresses_fail_at_once(self) -> None:
        found = [(9999, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))] * 3

        def wait() -> float:
            raise AssertionError("there is nothing to wait for")

        with pytest.raises(OSError, match="not supported"):
            _Race(found, None).run(wait)

    def test_deadline_ends_the_attempts(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            with pytest.raises(TimeoutError, match="over"):
                _Race([self.address(*server.getsockname())], None).run(over)
            with pytest.raises(TimeoutError, match="over"):
                dial(*server.getsockname(), None, over)

    def test_own_address_is_chosen(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            host, port = server.getsockname()
            with dial(host, port, ("127.0.0.2", 0), left) as sock:
                assert sock.getsockname()[0] == "127.0.0.2"
            with pytest.raises(OSError, match="assign requested address"):
                dial(host, port, ("192.0.2.1", 0), left)

    def test_families_are_tried_in_turn(self) -> None:
        six, four = socket.AF_INET6, socket.AF_INET
        found = [(six, 1), (six, 2), (six, 3), (four, 4)]
        assert interleaved(found) == [(six, 1), (four, 4), (six, 2), (six, 3)]

    @staticmethod
    def address(host: str, port: int) -> Any:
        return (socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port))


class TestUnix:
    def test_connects_to_a_path(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "s"))
            server.listen()
            with dial_unix(str(tmp_path / "s"), left) as sock:
                assert not sock.getblocking()
            with pytest.raises(TimeoutError):
                dial_unix(str(tmp_path / "s"), over)

    def test_error_is_raised_where_there_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            dial_unix(str(tmp_path / "s"), left)

    def test_system_without_unix_sockets_is_an_error(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(socket, "AF_UNIX")
        with pytest.raises(OSError, match="no Unix sockets"):
            dial_unix("/x", left)
