"""Forked processes: they keep nothing of the server, and several may share a port."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE, Echo, Peer, close_frame, open_peer, request, running

import simple_ws
from simple_ws import Client, Server

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

PROGRAM = """
import asyncio, multiprocessing, os, signal, subprocess, sys, threading
import simple_ws
from simple_ws import Response, Server, WebSocket

def wait():
    os.read(end, 1)                              # until the test lets it go

end, kept = os.pipe()

class Handler(WebSocket):
    def on_message(self, msg, client):
        if msg == "fork":
            child = multiprocessing.get_context("fork").Process(target=wait,
                                                                  daemon=True)
            child.start()
            return str(child.pid)
        if msg == "os.fork":
            pid = os.fork()
            if not pid:
                wait()
                os._exit(0)
            return str(pid)
        if msg == "come back":
            pid = os.fork()
            return str(pid) if pid else "nobody reads this"
        if msg == "preexec":
            sleeper = [sys.executable, "-c", "import sys; sys.stdin.read()"]
            child = subprocess.Popen(sleeper, stdin=subprocess.PIPE, close_fds=False,
                                     preexec_fn=lambda: None)
            self.kept = child
            return str(child.pid)
        if msg == "state":
            pid = os.fork()
            if not pid:
                same = [client.write_message("x"), server.broadcast("x"),
                        len(server.clients), client.is_open(), server.stop()]
                os.write(out, repr(same).encode())
                os._exit(0)
            os.waitpid(pid, 0)
            return os.read(inside, 1000).decode()
        if msg == "close":
            client.close(4000)
        if msg == "terminate":
            client.terminate()
        return msg

    def on_close(self, client):
        print("closed", client.close_code, os.getpid() == parent, flush=True)

inside, out = os.pipe()
parent = os.getpid()
how, pem = sys.argv[1:3]
options = {"certfile": pem} if pem else {}
server = Server("127.0.0.1", 0, open_timeout=0.5, close_timeout=0.5, ping=False,
                **options)
server.mount("/ws", Handler())
server.mount("/no", Handler(origins=["https://else.example"]))
server.http("/page")(lambda request: "page")
server.listen()
print(server.port, flush=True)
if how == "run":
    server.run()
elif how == "start":
    server.start()
    signal.sigwait([signal.SIGUSR1])
    server.stop()
elif how == "poll":
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    while server.poll(0.05):
        pass
else:
    if how == "uvloop":
        import uvloop
        uvloop.run(server.serve_async())
    else:
        asyncio.run(server.serve_async())
print("returned", flush=True)
"""


class Program:
    """A server in a process of its own, and the processes that it forks."""

    def __init__(self, how: str = "run", pem: str = "") -> None:
        self.pem = pem
        self.children: list[int] = []
        self.popen = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, how, pem],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(simple_ws.__file__).parent.parent),
            },
        )
        assert self.popen.stdout is not None
        self.port = int(self.popen.stdout.readline())

    def connect(self) -> Peer:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)
        if self.pem:
            context = ssl.create_default_context(cafile=self.pem)
            context.check_hostname = False
            return TLSPeer(context.wrap_socket(sock))
        return Peer(sock)

    def visit(self) -> Peer:
        return self.connect().shake("/ws")

    def fork(self, how: str = "fork") -> int:
        """Have a callback fork a process, which lives until the test ends."""
        with self.visit() as peer:
            peer.text(how)
            pid = int(peer.read_message())
            self.children.append(pid)
            peer.leave()
        return pid

    def end(self) -> tuple[int, list[str], str]:
        out, err = self.popen.communicate(timeout=DEADLINE)
        return self.popen.returncode, out.splitlines(), err


class TLSPeer(Peer):
    """A peer that also waits for what TLS needs."""

    def _receive(self) -> bytes:
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                return self.sock.recv(2**20)
            except (ssl.SSLWantReadError, BlockingIOError):
                self._wait(deadline, writing=False)


@contextmanager
def program(how: str = "run", pem: str = "") -> Iterator[Program]:
    if how == "uvloop":
        pytest.importorskip("uvloop")
    running = Program(how, pem)
    try:
        yield running
    finally:
        for pid in running.children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        running.popen.kill()
        running.popen.communicate()


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> str:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    parts = [issued.private_key_pem, *issued.cert_chain_pems, authority.cert_pem]
    file.write_bytes(b"".join(part.bytes() for part in parts))
    return str(file)


def ends(pid: int) -> None:
    """Wait for a process that is not our child."""
    deadline = time.monotonic() + DEADLINE
    while Path(f"/proc/{pid}/stat").exists():
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if state == "Z":  # its parent has not asked yet
            return
        assert time.monotonic() < deadline, f"process {pid} does not end"
        os.sched_yield()


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
@pytest.mark.parametrize("how", ["run", "start", "asyncio", "uvloop"])
@pytest.mark.parametrize("fork", ["fork", "os.fork", "preexec"])
def test_forked_process_dies_of_sigterm_and_the_server_does_not(
    how: str, fork: str
) -> None:
    with program(how) as server:
        pid = server.fork(fork)
        os.kill(pid, signal.SIGTERM)
        ends(pid)
        with server.visit() as peer:
            peer.text("still here")
            assert peer.read_message() == "still here"
            peer.leave()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("how", ["run", "asyncio", "uvloop"])
def test_peers_see_every_end_while_a_forked_process_lives(
    how: str, tls: bool, pem: str
) -> None:
    with program(how, pem if tls else "") as server, server.visit() as first:
        peers = [server.visit() for _ in range(3)]
        silent, half, page = (server.connect() for _ in range(3))
        half.write(b"GET /ws HTTP/1.1\r\n")
        page.write(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n")
        assert page.read_head().startswith(b"HTTP/1.1 200")
        assert page.read(4) == b"page"
        first.text("fork")
        server.children.append(int(first.read_message()))

        peers[0].text("close")
        assert peers[0].read_close()[0] == 4000
        peers[0].write(close_frame(4000))
        peers[1].text("close")  # and does not answer
        peers[2].text("terminate")
        refused = server.connect()
        refused.write(request("/no", "Origin: https://example.com"))
        assert refused.read_head().startswith(b"HTTP/1.1 403")
        for peer in (*peers, silent, half, refused):
            with suppress(ConnectionResetError):
                peer.read_rest()
            peer.close()

        server.popen.send_signal(signal.SIGTERM)
        assert first.read_close()[0] == 1001
        first.write(close_frame(1001))
        for peer in (first, page):
            assert peer.read_rest() == b""
            peer.close()
        code, lines, err = server.end()
        assert (code, err, lines[-1]) == (0, "", "returned")
        assert all(line.endswith("True") for line in lines[:-1])
        socket.create_server(("127.0.0.1", server.port)).close()  # nobody listens


@pytest.mark.parametrize("how", ["run", "poll", "asyncio"])
def test_server_is_stopped_and_empty_in_a_forked_process(how: str) -> None:
    with program(how) as server, server.visit() as peer:
        peer.text("state")
        said = "[<SendStatus.DROPPED: 0>, 0, 0, False, None]"
        assert peer.read_message() == said
        peer.text("after")
        assert peer.read_message() == "after"
        peer.leave()


@linux
@pytest.mark.parametrize("how", ["run", "asyncio"])
def test_forked_process_that_comes_back_does_not_serve(how: str) -> None:
    with program(how) as server, server.visit() as peer:
        pid = server.fork("come back")
        if how == "run":
            ends(pid)  # by InvalidState; in asyncio its loop is the program's
        for _ in range(3):
            peer.text("x")
            assert peer.read_message() == "x"
        peer.leave()
        os.kill(pid, signal.SIGKILL)
        server.popen.send_signal(signal.SIGTERM)
        code, lines, err = server.end()
        assert (code, lines[-1]) == (0, "returned")
        assert how == "asyncio" or "forked in a callback" in err


CUTS: dict[str, Callable[[Client], object]] = {
    "terminate": lambda client: client.terminate(),
    "failed": lambda client: client._fail_handler(),
    "closed": lambda client: client.close(),
}


@pytest.mark.parametrize("cut", CUTS)
def test_peer_sees_the_end_though_somebody_has_a_copy_of_the_socket(cut: str) -> None:
    """What C code forks closes no copies; one of our own is as good."""
    handler = Echo(close_timeout=0.05)
    with running(handler) as server, open_peer(server) as peer:
        (client,) = server.clients
        copy = os.dup(client._sock.fileno())
        try:
            server.call_later(0, lambda: CUTS[cut](client))
            peer.read_rest()
        finally:
            os.close(copy)


# --- listen, then fork, then run -----------------------------------------------------

WORKERS = """
import os, signal, sys
from simple_ws import Server, WebSocket

class Handler(WebSocket):
    def on_message(self, msg, client):
        return str(os.getpid())

unix, asked = sys.argv[1], sys.argv[2] == "fileno"
server = Server(unix=unix, ping=False) if unix else Server("127.0.0.1", 0, ping=False)
server.mount("*", Handler())
server.listen()
if asked:
    server.fileno()
for _ in range(3):
    pid = os.fork()
    if not pid:
        server.call_later(0, lambda: os.write(1, f"{os.getpid()}\\n".encode()))
        server.run()
        os._exit(0)
os.write(1, f"{server.port}\\n".encode())  # whole, whatever the children write
sys.stdin.read()
"""


def ask_for_pid(address: Any) -> int:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    sock = socket.socket(family)
    sock.settimeout(DEADLINE)
    sock.connect(address)
    with Peer(sock).shake() as peer:
        peer.text("who")
        pid = int(peer.read_message())
        peer.leave()
    return pid


@linux
@pytest.mark.parametrize("asked", ["", "fileno"])
@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
def test_processes_forked_after_listen_share_the_port(
    unix: bool, asked: str, tmp_path: Path
) -> None:
    path = str(tmp_path / "s") if unix else ""
    workers = subprocess.Popen(
        [sys.executable, "-c", WORKERS, path, asked],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(simple_ws.__file__).parent.parent)},
    )
    pids: list[int] = []
    try:
        assert workers.stdout is not None
        numbers = [int(workers.stdout.readline()) for _ in range(4)]
        port = next((n for n in numbers if n == 0 or not _is_child(n, workers.pid)), 0)
        pids = [number for number in numbers if number != port]
        address: Any = path or ("127.0.0.1", port)
        assert {ask_for_pid(address) for _ in range(20)} <= set(pids)
        while pids:  # each that ends leaves the port to the others
            os.kill(last := pids.pop(), signal.SIGTERM)
            ends(last)
            served = {ask_for_pid(address) for _ in range(5 if pids else 0)}
            assert served <= set(pids)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        workers.kill()
        workers.communicate()


def _is_child(pid: int, parent: int) -> bool:
    with suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat.rsplit(")", 1)[1].split()[1]) == parent
    return False


def test_server_that_only_listens_runs_in_the_parent_after_a_fork() -> None:
    server = Server("127.0.0.1", 0)
    server.mount("*", Echo())
    server.listen()
    reactor = server.reactor
    server._on_fork()  # as in a child: it may be one of several that will run
    assert server.reactor is reactor
    server.start()
    with open_peer(server) as peer:
        peer.text("x")
        assert peer.read_message() == "x"
    server.stop(drain=0)
