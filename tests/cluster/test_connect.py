"""Connecting to an engine: within a deadline, and with one clear line if it fails."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tls_harness
from harness import DEADLINE

from simple_ws.cluster import connect as module
from simple_ws.cluster.connect import connect

pytestmark = pytest.mark.one_backend


@dataclass
class Address:
    host: str = "127.0.0.1"
    port: int = 1
    path: str = ""
    tls: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    verify: bool = True
    check_hostname: bool = True

    def __str__(self) -> str:
        return "redis://there"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE)
        yield listener


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def test_result_is_connected_and_does_not_block(listener: socket.socket) -> None:
    with connect(Address(port=port_of(listener)), DEADLINE) as sock:
        assert sock.gettimeout() == 0
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        far, _ = listener.accept()
        far.close()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        with connect(Address(path=path), DEADLINE) as sock:
            assert sock.gettimeout() == 0


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_unix_socket_with_a_full_backlog(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        waiting = []

        def fill() -> None:
            while True:
                waiting.append(connect(Address(path=path), 0.05))

        with pytest.raises(OSError, match="redis://there: ") as caught:
            fill()
        assert caught.value.errno == errno.ETIMEDOUT
        for sock in waiting:
            sock.close()


def test_nobody_listens_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = port_of(gone)
    with pytest.raises(ConnectionRefusedError) as caught:
        connect(Address(port=port), DEADLINE)
    text = "cannot connect to redis://there: Connection refused"
    assert caught.value.strerror == text


def test_no_such_socket(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="redis://there: No such file") as caught:
        connect(Address(path=str(tmp_path / "none")), DEADLINE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example"])
def test_no_host_name(host: str) -> None:
    with pytest.raises(OSError, match="redis://there: not a host name"):
        connect(Address(host=host), DEADLINE)


def test_name_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(OSError, match="there: Name or service not known") as caught:
        connect(Address(host="no.such.host"), DEADLINE)
    assert "\n" not in str(caught.value)


def test_deadline_holds_for_a_silent_tls_server(listener: socket.socket) -> None:
    with pytest.raises(TimeoutError, match=r"no answer in 0\.05 s"):
        connect(Address(port=port_of(listener), tls=True), 0.05)


def test_it_can_be_cancelled(listener: socket.socket) -> None:
    cancelled = threading.Event()
    errors: list[OSError] = []

    def run() -> None:
        address = Address(port=port_of(listener), tls=True)
        try:
            connect(address, 1000, cancelled.is_set)
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    far, _ = listener.accept()
    with far:
        far.settimeout(DEADLINE)
        assert far.recv(1) == b"\x16"  # it waits for our answer in the TLS handshake
        cancelled.set()
        thread.join(DEADLINE)
    assert errors[0].errno == errno.ECANCELED


@pytest.fixture
def tls_port(listener: socket.socket) -> Iterator[int]:
    context = tls_harness.server_side()

    def serve() -> None:
        far, _ = listener.accept()
        with far:
            far.settimeout(DEADLINE)
            try:
                with context.wrap_socket(far, server_side=True) as sock:
                    sock.sendall(b"hello")
                    sock.recv(1)
            except OSError:
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    yield port_of(listener)
    thread.join(DEADLINE)


@pytest.fixture
def ca_file(tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    tls_harness.authority().cert_pem.write_to_path(str(path))
    return str(path)


class TestTLS:
    def test_certificate_is_checked_with_the_file(
        self, tls_port: int, ca_file: str
    ) -> None:
        address = Address("localhost", tls_port, tls=True, ca_file=ca_file)
        with connect(address, DEADLINE) as sock:
            assert isinstance(sock, ssl.SSLSocket)
            assert sock.gettimeout() == 0
            sock.settimeout(DEADLINE)
            assert sock.recv(5) == b"hello"

    def test_authority_that_is_not_known(self, tls_port: int) -> None:
        address = Address("localhost", tls_port, tls=True)
        with pytest.raises(ssl.SSLError) as caught:
            connect(address, DEADLINE)
        text = "cannot connect to redis://there: TLS: unable to get local issuer"
        assert str(caught.value).startswith(text)

    @pytest.mark.parametrize("checked", [True, False])
    def test_name_is_checked(self, tls_port: int, ca_file: str, checked: bool) -> None:
        address = Address(
            "127.0.0.1", tls_port, tls=True, ca_file=ca_file, check_hostname=checked
        )
        original = module.shake_tls

        def other_name(sock: Any, context: Any, host: str, left: Any) -> Any:
            return original(sock, context, "other.example", left)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "shake_tls", other_name)
            if checked:
                with pytest.raises(ssl.SSLError, match="hostname mismatch"):
                    connect(address, DEADLINE)
            else:
                connect(address, DEADLINE).close()

    def test_nothing_is_checked_if_that_is_wanted(self, tls_port: int) -> None:
        connect(Address(port=tls_port, tls=True, verify=False), DEADLINE).close()

    @pytest.mark.parametrize("option", ["ca_file", "cert_file"])
    def test_file_that_is_missing_is_named(
        self, listener: socket.socket, tmp_path: Path, option: str
    ) -> None:
        path = str(tmp_path / "none.pem")
        address = Address(port=port_of(listener), tls=True, **{option: path})
        with pytest.raises(OSError, match=r"No such file or directory: .*none\.pem"):
            connect(address, DEADLINE)

    def test_file_that_is_no_certificate(
        self, listener: socket.socket, tmp_path: Path
    ) -> None:
        path = tmp_path / "bad.pem"
        path.write_text("no certificate")
        address = Address(port=port_of(listener), tls=True, ca_file=str(path))
        with pytest.raises(ssl.SSLError, match="redis://there: TLS: "):
            connect(address, DEADLINE)

    def test_own_certificate(self, tls_port: int, ca_file: str, tmp_path: Path) -> None:
        ours = tls_harness.authority().issue_cert("client@example.com")
        path = tmp_path / "client.pem"
        ours.private_key_and_cert_chain_pem.write_to_path(str(path))
        address = Address(
            "localhost", tls_port, tls=True, ca_file=ca_file, cert_file=str(path)
        )
        connect(address, DEADLINE).close()
