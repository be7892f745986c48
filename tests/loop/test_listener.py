"""Listening sockets: binding, accepting, and a system that is out of resources."""

from __future__ import annotations

import errno
import logging
import os
import socket
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE, Clock, Echo, Peer, Recorder, connect, open_peer, running

from simple_ws import Server
from simple_ws.loop import listener as listener_module
from simple_ws.loop.listener import Listener, bind, limit_unsent
from simple_ws.loop.reactor import Reactor


def ipv6_works() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not ipv6_works(), reason="no IPv6 on this machine")


def close_all(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


# --- What is taken -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "host"),
    [
        (socket.AF_INET, "127.0.0.1"),
        pytest.param(socket.AF_INET6, "::1", marks=needs_ipv6),
    ],
)
def test_accepted_socket_does_not_block_and_has_the_address_of_its_peer(
    family: int, host: str, codecs: Any
) -> None:
    with (
        socket.create_server((host, 0), family=socket.AddressFamily(family)) as server,
        socket.create_connection(server.getsockname()[:2], timeout=10) as peer,
    ):
        taken, address = codecs.accept_from(server)
        with taken:
            assert address == peer.getsockname()[:2]
            assert taken.getpeername() == peer.getsockname()
            assert not taken.get_inheritable()
            with pytest.raises(BlockingIOError):
                taken.recv(1)


@needs_ipv6
def test_ipv4_peer_of_a_socket_for_both_families_is_ipv4(codecs: Any) -> None:
    (server,) = bind("", 0, 10, False)
    with (
        server,
        socket.create_connection(("127.0.0.1", server.getsockname()[1])) as peer,
    ):
        taken, address = codecs.accept_from(server)
        taken.close()
        assert address == peer.getsockname()


def test_nobody_there_is_an_error_of_the_system(codecs: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        with pytest.raises(BlockingIOError, match="temporarily unavailable"):
            codecs.accept_from(server)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_peer_of_a_unix_socket_has_no_address(codecs: Any, tmp_path: Any) -> None:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as peer:
        server.bind(str(tmp_path / "s"))
        server.listen()
        peer.connect(str(tmp_path / "s"))
        taken, address = codecs.accept_from(server)
        with taken:
            assert address == ""
            assert taken.family == socket.AF_UNIX


# --- Sockets that somebody else has bound --------------------------------------------


def test_server_listens_on_the_sockets_it_is_given(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    first, second = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    ports = [sock.getsockname()[1] for sock in (first, second)]
    server = Server("127.0.0.1", 0)
    server.mount("*", Echo())
    server.listen([first, second])
    assert server.port == ports[0]
    names = ", ".join(f"127.0.0.1:{port}" for port in ports)
    assert f"listening on {names} (backend" in caplog.text
    server.start()
    try:
        for port in ports:
            sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
            with Peer(sock).shake() as peer:
                peer.text("hello")
                assert peer.read_message() == "hello"
    finally:
        server.stop(drain=0)
    assert (first.fileno(), second.fileno()) == (-1, -1)
    # From now on it binds its own.
    server.listen()
    assert server.port
    server.stop(drain=0)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_file_of_a_unix_socket_it_is_given_stays(tmp_path: Path) -> None:
    path = tmp_path / "ws.sock"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    server = Server("127.0.0.1", 0, backlog=2**40)
    server.listen([sock])
    assert server.port == 0
    server.stop(drain=0)
    assert path.exists()


def test_what_is_no_socket_of_streams_is_not_taken_over() -> None:
    server = Server("127.0.0.1", 0)
    with pytest.raises(TypeError, match="sockets must hold sockets, not 3"):
        server.listen([3])  # type: ignore[list-item]
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError, match="must hold stream sockets, not <"):
            server.listen([sock])
        assert sock.fileno() != -1
    server.listen()
    server.stop(drain=0)


# --- Where ---------------------------------------------------------------------------


def test_port_0_picks_a_free_one() -> None:
    (sock,) = bind("127.0.0.1", 0, 10, False)
    assert sock.getsockname()[1] > 0
    sock.close()


@needs_ipv6
def test_empty_host_is_one_socket_for_both_families() -> None:
    (sock,) = bind("", 0, 10, False)
    port = sock.getsockname()[1]
    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, port), timeout=10).close()
    sock.close()


def test_empty_host_without_ipv6_is_ipv4(monkeypatch: Any) -> None:
    monkeypatch.setattr(listener_module, "_ipv6_works", lambda: False)
    (sock,) = bind("", 0, 10, False)
    assert sock.family == socket.AF_INET
    assert sock.getsockname()[0] == "0.0.0.0"
    sock.close()


def test_localhost_is_every_address_of_it_with_one_port() -> None:
    sockets = bind("localhost", 0, 10, False)
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    expected = {
        entry[4][0]
        for entry in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)
        if entry[0] == socket.AF_INET or ipv6_works()
    }
    assert {sock.getsockname()[0] for sock in sockets} == expected
    close_all(sockets)


def two_addresses(monkeypatch: Any) -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: found)


def test_port_0_that_is_taken_on_the_second_address_is_tried_again(
    monkeypatch: Any,
) -> None:
    two_addresses(monkeypatch)
    real, calls = socket.create_server, count(1)

    def create(address: Any, **options: Any) -> socket.socket:
        if next(calls) == 2:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return real(address, **options)

    monkeypatch.setattr(socket, "create_server", create)
    sockets = bind("two.example", 0, 10, False)
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    assert len(sockets) == 2
    close_all(sockets)


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_port_in_use_names_the_address(host: str) -> None:
    (taken,) = bind(host, 0, 10, False)
    port = taken.getsockname()[1]
    with pytest.raises(OSError, match=rf"cannot listen on .*:{port}: .+") as caught:
        bind(host, port, 10, False)
    assert caught.value.errno == errno.EADDRINUSE
    taken.close()


@pytest.mark.parametrize("host", ["203.0.113.1", "no such host.invalid", "a..b"])
def test_address_that_is_not_to_be_had_is_named(host: str) -> None:
    with pytest.raises(OSError, match="cannot listen on") as caught:
        bind(host, 0, 10, False)
    assert host in str(caught.value)


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT")
def test_reuse_port_lets_two_listen() -> None:
    (first,) = bind("127.0.0.1", 0, 10, True)
    (second,) = bind("127.0.0.1", first.getsockname()[1], 10, True)
    close_all([first, second])


def test_failed_bind_leaves_no_socket_open(monkeypatch: Any) -> None:
    two_addresses(monkeypatch)
    real, made = socket.create_server, []

    def create(address: Any, **options: Any) -> socket.socket:
        if made:
            raise OSError(errno.EACCES, "Permission denied")
        made.append(real(address, **options))
        return made[0]

    monkeypatch.setattr(socket, "create_server", create)
    with pytest.raises(OSError, match=r"127\.0\.0\.2:.*Permission denied"):
        bind("two.example", 0, 10, False)
    assert made[0].fileno() == -1


def test_server_on_every_interface_serves_both_families() -> None:
    server = Server("", 0)
    server.mount("*", Echo())
    server.start()
    try:
        for host in ("127.0.0.1", *(["::1"] if ipv6_works() else [])):
            with connect(server, host).shake() as peer:
                peer.text(host)
                assert peer.read_message() == host
    finally:
        server.stop(drain=0)


# --- Accepting -----------------------------------------------------------------------


class FakeListening:
    """A listening socket whose `accept` follows a script."""

    def __init__(self, script: list[Any]) -> None:
        self._real = socket.create_server(("127.0.0.1", 0))
        self.script = script
        self.accepts = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def accept(self) -> tuple[socket.socket, Any]:
        self.accepts += 1
        step = self.script.pop(0) if self.script else BlockingIOError()
        if isinstance(step, BaseException):
            raise step
        near, far = socket.socketpair()
        far.close()
        return near, step


class Bench:
    """A listener on a reactor with a clock of the test's."""

    def __init__(self, *script: Any) -> None:
        self.clock = Clock()
        self.reactor = Reactor(clock=self.clock)
        self.reactor.open()
        self.sock = FakeListening(list(script))
        self.accepted: list[Any] = []
        self.listener = Listener(self.reactor, self.sock, self._on_accept)  # type: ignore[arg-type]

    def _on_accept(self, sock: socket.socket, address: Any) -> None:
        assert not sock.getblocking()
        sock.close()
        self.accepted.append(address)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *args: object) -> None:
        self.listener.close()
        self.reactor.close()

    def ready(self) -> None:
        self.listener._on_ready(1)


def test_connections_are_taken_in_batches() -> None:
    with Bench(*range(100)) as bench:
        bench.ready()
        assert 1 < len(bench.accepted) < 100
        for _ in range(10):
            bench.ready()
        assert bench.accepted == list(range(100))


def test_batch_ends_early_when_handshakes_take_their_time() -> None:
    class Slow(Bench):
        def _on_accept(self, sock: socket.socket, address: Any) -> None:
            super()._on_accept(sock, address)
            self.clock.now += 0.002

    with Slow(*range(20)) as bench:
        bench.ready()
        assert bench.accepted == [0, 1, 2]
        bench.ready()
        assert bench.accepted == list(range(6))


@pytest.mark.parametrize(
    "error",
    [
        ConnectionAbortedError(errno.ECONNABORTED, "gone"),
        OSError(errno.EPROTO, "gone"),
        OSError(errno.EPERM, "the firewall"),
    ],
)
def test_connection_that_is_gone_does_not_keep_others_waiting(error: OSError) -> None:
    with Bench("a", error, "b") as bench:
        bench.ready()
        assert bench.accepted == ["a", "b"]


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]
)
def test_accepting_pauses_when_the_system_has_no_more(number: int, caplog: Any) -> None:
    caplog.set_level(logging.WARNING, "simple_ws")
    with (
        Bench("a", OSError(number, os.strerror(number)), "b") as bench,
        # Somebody waits, so that the loop would spin if it still asked.
        socket.create_connection(bench.sock.getsockname(), timeout=10),
    ):
        bench.ready()
        assert bench.accepted == ["a"]
        tries = bench.sock.accepts
        for _ in range(5):
            bench.reactor.run_once(0)
        assert bench.sock.accepts == tries
        bench.clock.now += 0.3
        bench.reactor.run_once(0)
        assert bench.accepted == ["a", "b"]
    assert len(caplog.records) == 1
    assert "accepting is paused" in caplog.text


def test_pauses_one_after_the_other_are_one_line_in_ten_seconds(caplog: Any) -> None:
    caplog.set_level(logging.WARNING, "simple_ws")
    with Bench(*[OSError(errno.EMFILE, "too many")] * 60) as bench:
        bench.ready()
        for _ in range(41):
            bench.clock.now += 0.3
            bench.reactor.run_once(0)
    assert len(caplog.records) == 2


def test_listener_that_was_closed_while_it_paused_does_not_come_back() -> None:
    with Bench(OSError(errno.EMFILE, "too many"), "b") as bench:
        bench.ready()
        bench.listener.close()
        bench.clock.now += 1
        bench.reactor.run_once(0)
        assert bench.accepted == []


def test_callback_may_close_the_listener() -> None:
    with Bench("a", "b", "c") as bench:
        bench._on_accept = lambda sock, address: (sock.close(), bench.listener.close())  # type: ignore[method-assign]
        bench.listener._on_accept = bench._on_accept
        bench.ready()
        assert bench.sock.accepts == 1
        bench.listener.close()


def test_server_survives_running_out_of_descriptors(monkeypatch: Any) -> None:
    monkeypatch.setattr(listener_module, "_PAUSE", 0.01)
    real, calls = socket.socket.accept, count(1)

    def accept(self: socket.socket) -> Any:
        if next(calls) < 4:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(self)

    monkeypatch.setattr(socket.socket, "accept", accept)
    with running(Echo()) as server, open_peer(server) as peer:
        peer.text("in the end")
        assert peer.read_message() == "in the end"


# --- What the system holds unsent -----------------------------------------------------

LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", None)
needs_lowat = pytest.mark.skipif(LOWAT is None, reason="no TCP_NOTSENT_LOWAT here")


def lowat_of(sock: socket.socket) -> int:
    assert LOWAT is not None
    return sock.getsockopt(socket.IPPROTO_TCP, LOWAT)


@needs_lowat
@pytest.mark.parametrize(("size", "expected"), [(1, 1), (16384, 16384), (2**40, None)])
def test_connections_inherit_the_bound_of_unsent_output(
    size: int, expected: int | None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        limit_unsent(server, size)
        with socket.create_connection(server.getsockname()) as peer:
            accepted, _ = server.accept()
            with accepted:
                assert lowat_of(accepted) == (expected or 2**31 - 1)
            assert peer


@needs_lowat
def test_bound_of_unsent_output_may_be_left_to_the_system() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        before = lowat_of(server)
        limit_unsent(server, None)
        assert lowat_of(server) == before


def test_unix_socket_has_no_bound_of_unsent_output() -> None:
    first, second = socket.socketpair()
    with first, second:
        limit_unsent(first, 1)  # and it does not raise


class Flooding(Recorder):
    def on_message(self, msg: Any, client: Any) -> None:
        taken = 0
        while taken < 2**22 and client.write_message(b"x" * 4096):
            taken += 4096
        self.note("taken", client, taken)


@needs_lowat
@pytest.mark.parametrize("given", [False, True])
def test_slow_client_fills_our_buffer_and_not_that_of_the_system(given: bool) -> None:
    handler, limit = Flooding(), 256 * 1024
    server = Server("127.0.0.1", 0, write_limit=limit, slow_consumer="drop_new")
    server.mount("*", handler)
    if given:
        server.listen([socket.create_server(("127.0.0.1", 0))])
    server.start()
    try:
        with open_peer(server) as peer:
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            peer.text("go")
            assert limit / 2 < handler.wait_for("taken") < 2**20
    finally:
        server.stop(drain=0)
