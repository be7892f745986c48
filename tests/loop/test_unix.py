"""Servers on Unix sockets: binding, the socket's file, and its peers."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

if not hasattr(socket, "AF_UNIX"):
    pytest.skip("no Unix sockets here", allow_module_level=True)

from harness import DEADLINE, Driven, Echo, Peer, Recorder
from loop.test_tls import secured, server_side

from simple_ws import Server, WebSocket
from simple_ws.loop import listener as listener_module
from simple_ws.loop.listener import bind_unix


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ws.sock")


@contextmanager
def serving(
    path: str, handler: WebSocket | None = None, **options: Any
) -> Iterator[Server]:
    server = Server(unix=path, **options)
    server.mount("*", handler or Echo())
    server.start()
    try:
        yield server
    finally:
        server.stop(drain=0)


def reach(path: str) -> Peer:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(DEADLINE)
    sock.connect(path)
    return Peer(sock)


def leave_stale(path: str) -> int:
    """The file of a server that was killed; returns its inode."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
    return os.stat(path).st_ino


# --- Serving -------------------------------------------------------------------------


def test_messages_pass_through_a_unix_socket(path: str) -> None:
    with serving(path, max_size=2**21), reach(path).shake() as peer:
        for message in ("hello", "x" * 2**20):
            peer.text(message)
            assert peer.read_message() == message
        assert peer.leave() == (1000, "")


def test_client_of_a_unix_socket_has_no_address_nor_tls(path: str) -> None:
    handler = Recorder()
    with serving(path, handler), reach(path).shake():
        client = handler.client()
        assert (client.address, client.secure) == ("", False)


def test_peer_with_a_path_of_its_own_has_that_for_an_address(
    path: str, tmp_path: Path
) -> None:
    handler = Recorder()
    with serving(path, handler), socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "client.sock"))
        sock.connect(path)
        Peer(sock).shake()
        assert handler.client().address == str(tmp_path / "client.sock")


def test_tls_works_on_a_unix_socket(path: str) -> None:
    handler = Echo()
    with serving(path, handler, ssl=server_side()), secured(reach(path)) as peer:
        peer.shake()
        peer.text("hello")
        assert peer.read_message() == "hello"
        assert handler.client().secure is True
        assert peer.leave() == (1000, "")


def test_package_websockets_talks_to_a_unix_socket(path: str) -> None:
    client = pytest.importorskip("websockets.sync.client")
    with (
        serving(path),
        client.unix_connect(path, "ws://localhost/", open_timeout=DEADLINE) as ws,
    ):
        ws.send("hello")
        assert ws.recv(DEADLINE) == "hello"


def test_port_is_0_and_the_log_names_the_path(path: str, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "simple_ws")
    with serving(path) as server:
        assert (server.host, server.port) == ("", 0)
    assert f"listening on unix:{path} (backend: " in caplog.text


def test_nagle_is_not_asked_for_on_a_unix_socket(path: str, monkeypatch: Any) -> None:
    asked = []

    class Noting(socket.socket):
        def setsockopt(self, *args: Any) -> None:
            asked.append(args)
            super().setsockopt(*args)

    monkeypatch.setattr(listener_module.socket, "socket", Noting)
    # As on systems where accepted sockets do not inherit what is set.
    monkeypatch.setattr(listener_module.sys, "platform", "elsewhere")
    with serving(path), reach(path).shake() as peer:
        peer.text("hello")
        assert peer.read_message() == "hello"
    assert not [args for args in asked if args[0] == socket.IPPROTO_TCP]


class Listening(logging.Handler):
    """Notices when a server says that it listens."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("listening"):
            self.heard.set()


def test_handler_serves_on_a_unix_socket_by_itself(path: str, caplog: Any) -> None:
    class Stopping(WebSocket):
        def on_message(self, msg: Any, client: Any) -> Any:
            return msg

        def on_close(self, client: Any) -> None:
            self.server.stop()

    caplog.set_level(logging.INFO, "simple_ws")
    listening, logger = Listening(), logging.getLogger("simple_ws")
    logger.addHandler(listening)
    try:
        thread = threading.Thread(target=Stopping, kwargs={"unix": path}, daemon=True)
        thread.start()
        assert listening.heard.wait(DEADLINE)
    finally:
        logger.removeHandler(listening)
    with reach(path).shake() as peer:
        peer.text("hello")
        assert peer.read_message() == "hello"
        peer.leave()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert not os.path.exists(path)


# --- The file ------------------------------------------------------------------------


def test_file_is_removed_at_the_end_and_made_anew(path: str) -> None:
    server = Server(unix=path)
    server.mount("*", Echo())
    for _ in range(3):
        server.start()
        with reach(path).shake() as peer:
            peer.text("again")
            assert peer.read_message() == "again"
        server.stop(drain=0)
        assert not os.path.exists(path)


def test_file_is_removed_when_the_stop_begins(path: str) -> None:
    """Whoever comes meanwhile is not kept waiting by one who does not serve."""
    with Driven(Echo()) as driven:
        sock, file = bind_unix(path, 10)
        listener = listener_module.Listener(
            driven.reactor, sock, lambda *args: None, file
        )
        driven.server._run.listeners = [listener]
        assert os.path.exists(path)
        driven.stop_begins(5)
        assert not os.path.exists(path)


def test_stale_file_is_replaced(path: str) -> None:
    leave_stale(path)
    with serving(path), reach(path).shake() as peer:
        peer.text("hello")
        assert peer.read_message() == "hello"
    assert not os.path.exists(path)


def test_socket_of_a_live_server_is_left_alone(path: str) -> None:
    with serving(path):
        with pytest.raises(OSError, match=r"unix:.*ws\.sock: .*in use") as caught:
            Server(unix=path).listen()
        assert caught.value.errno == errno.EADDRINUSE
        with reach(path).shake() as peer:
            peer.text("still here")
            assert peer.read_message() == "still here"


def test_live_socket_whose_backlog_is_full_is_left_alone(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(path)
        busy.listen(0)
        waiting = []
        while True:
            sock = socket.socket(socket.AF_UNIX)
            sock.setblocking(False)
            waiting.append(sock)
            try:
                sock.connect(path)
            except BlockingIOError:
                break
        with pytest.raises(OSError, match="in use"):
            bind_unix(path, 10)
        assert os.path.exists(path)
        for sock in waiting:
            sock.close()


def test_socket_of_another_kind_is_left_alone(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        with pytest.raises(OSError, match=r"cannot listen on unix:.*ws\.sock: "):
            bind_unix(path, 10)
        assert os.path.exists(path)


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(path: str, tmp_path: Path, what: str) -> None:
    if what == "file":
        Path(path).write_text("precious")
    elif what == "folder":
        os.mkdir(path)
    else:
        leave_stale(str(tmp_path / "other"))
        os.symlink(str(tmp_path / "other"), path)
    with pytest.raises(OSError, match=r"unix:.*ws\.sock: the file is not a socket"):
        Server(unix=path).listen()
    assert os.path.lexists(path)
    if what == "file":
        assert Path(path).read_text() == "precious"


def test_file_of_a_successor_is_not_removed(path: str) -> None:
    first = Server(unix=path)
    first.listen()
    os.unlink(path)
    with serving(path):
        first.stop()
        reach(path).shake().close()
    assert not os.path.exists(path)


def test_file_that_somebody_removed_is_not_missed(path: str) -> None:
    with serving(path):
        os.unlink(path)


def test_relative_path_outlives_a_change_of_the_folder(
    tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with serving("ws.sock"):
        assert (tmp_path / "ws.sock").exists()
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert not (tmp_path / "ws.sock").exists()


def test_file_of_a_failed_listen_is_removed(path: str, monkeypatch: Any) -> None:
    class Failing(socket.socket):
        def listen(self, *args: Any) -> None:
            raise OSError(errno.ENOBUFS, "No buffer space available")

    monkeypatch.setattr(listener_module.socket, "socket", Failing)
    with pytest.raises(OSError, match="No buffer space"):
        bind_unix(path, 10)
    assert not os.path.exists(path)


def test_signal_removes_the_file(path: str) -> None:
    program = (
        "import logging, sys; logging.basicConfig(level=20, stream=sys.stdout)\n"
        "from simple_ws import WebSocket\n"
        "WebSocket(unix=sys.argv[1])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", program, path],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert process.stdout
        while "listening" not in process.stdout.readline():
            pass
        with reach(path).shake() as peer:  # it minds signals once it serves
            process.send_signal(signal.SIGTERM)
            assert peer.read_close()[0] == 1001
        process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert not os.path.exists(path)


# --- Wrong paths and options ---------------------------------------------------------


def test_path_that_is_too_long_is_a_clear_error(tmp_path: Path) -> None:
    path = str(tmp_path / ("x" * 120))
    size = len(path)
    with pytest.raises(OSError, match=f"path too long, it has {size} bytes") as caught:
        Server(unix=path).listen()
    assert caught.value.errno == errno.ENAMETOOLONG
    assert path in str(caught.value)


def test_path_in_a_folder_that_is_missing_is_a_clear_error(tmp_path: Path) -> None:
    path = str(tmp_path / "no" / "ws.sock")
    with pytest.raises(OSError, match=r"unix:.*/no/ws\.sock: No such file"):
        Server(unix=path).listen()


def test_system_without_unix_sockets_is_a_clear_error(
    path: str, monkeypatch: Any
) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(OSError, match="this system has no Unix sockets"):
        bind_unix(path, 10)


@pytest.mark.parametrize("where", [("127.0.0.1", 0), ("", 8080), ("localhost", 80)])
def test_path_and_address_exclude_each_other(where: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match=r"either unix .* or host and port"):
        Server(*where, unix="ws.sock")
    with pytest.raises(ValueError, match=r"either unix .* or host and port"):
        AtPath(*where)


class AtPath(WebSocket):
    unix = "ws.sock"


def test_handler_has_no_socket_of_its_own() -> None:
    with pytest.raises(ValueError, match="unix is an option of the server"):
        Server().mount("/", Unix())


class Unix(Echo):
    """Of a class the option counts as given; it serves by itself unless mounted."""

    def __init__(self) -> None:
        self._given["unix"] = "ws.sock"
