"""`handover`: SIGUSR2 starts the next version of a program on the same sockets."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from harness import DEADLINE, Peer, request
from programs import WORKERS, Program, until

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.skipif(not hasattr(os, "posix_spawn"), reason="not on Windows"),
]


class Versions(Program):
    """A program whose next versions are ended by the test, too.

    Args:
        path: of a file with a part of it, which the test may replace.
    """

    def __init__(
        self,
        path: Path,
        version: str = "",
        options: str = '"127.0.0.1", 0, workers=2',
        **environment: str,
    ) -> None:
        self._path = path
        self.becomes(version)
        body = f"version = {str(path)!r}\nexec(open(version).read())\n"
        body += '@server.http("/version")\ndef tell(request): return NAME\n'
        source = WORKERS.format(options=options, body=body)
        source = source.replace("listen()", "listen(globals().get('GIVEN', ()))")
        super().__init__(source, **environment)

    def becomes(self, version: str) -> None:
        """What the program will be, when it is started once more."""
        text = version if "NAME" in version else f"NAME = 'nameless'\n{version}"
        self._path.write_text(text)

    def __exit__(self, *error: object) -> None:
        self.process.kill()  # its workers end with it
        for match in self.found(r"is started once more \(process (\d+)\)"):
            with suppress(ProcessLookupError):
                os.kill(int(match[1]), signal.SIGKILL)
        super().__exit__(*error)

    def hand_over(self, old: int = 0, count: int = 1) -> int:
        """Have another version take over; its process."""
        os.kill(old or self.process.pid, signal.SIGUSR2)
        match = self.wait_for(r"process (\d+) serves in place of this one", count)
        return int(match[1])

    def end_of(self, pid: int) -> None:
        """Stop the last version, which is no child of this process."""
        os.kill(pid, signal.SIGTERM)
        self._reader.join(DEADLINE)  # all that write to the pipe have ended
        assert not self._reader.is_alive()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "version.py"


def test_next_version_takes_over_under_load_and_nobody_is_refused(path: Path) -> None:
    with Versions(path, "NAME = 'one'") as program:
        program.wait_for_workers()
        assert program.get("/version") == "one"
        with program.visited() as counts:
            program.becomes("NAME = 'two'")
            second = program.hand_over()
            assert program.process.wait(DEADLINE) == 0
            program.becomes("NAME = 'three'")
            third = program.hand_over(second, 2)
            program.wait_for("^returned", 2)
            before = counts["served"]
            until(lambda: counts["served"] > before + 20)
        assert program.get("/version") == "three"
        assert not program.found("ended: |Traceback")
        program.end_of(third)


def test_clients_stay_until_the_next_version_serves(path: Path) -> None:
    with Versions(path) as program:
        program.wait_for_workers()
        with program.peer() as peer:
            peer.text("hello")
            assert peer.read_message() == "hello"
            pid = program.hand_over()
            assert peer.read_close() == (1001, "the server stops")
        assert program.wait_for_workers(4)
        program.process.wait(DEADLINE)
        program.end_of(pid)


def test_version_that_does_not_begin_changes_nothing(path: Path) -> None:
    with Versions(path) as program:
        workers = program.wait_for_workers()
        program.becomes("raise SystemExit(7)")
        program.send(signal.SIGUSR2)
        program.wait_for(r"process \d+ does not replace this one: exit code 7")
        program.becomes(set_workers(1))
        program.send(signal.SIGUSR2)
        program.wait_for("cannot take over from one that has them")
        program.wait_for(r"process \d+ does not replace this one: exit code 1")
        failing = "@server.on_worker_start\ndef start(worker):\n    raise OSError('x')"
        program.becomes(failing)
        program.send(signal.SIGUSR2)
        program.wait_for(r"process \d+ does not replace this one: exit code 3")
        assert int(program.get("/pid")) in workers
        program.becomes("NAME = 'good'")
        pid = program.hand_over()
        program.process.wait(DEADLINE)
        assert program.get("/version") == "good"
        program.end_of(pid)


def set_workers(count: int) -> str:
    return f"server.options = server.options.merged({{'workers': {count}}})"


def test_what_waits_is_served_by_fewer_workers_and_by_more(path: Path) -> None:
    with Versions(path, set_workers(3)) as program:
        for pid in program.wait_for_workers(3):
            os.kill(pid, signal.SIGSTOP)
        waiting = [program.connect() for _ in range(30)]  # nobody accepts them
        for sock in waiting:
            sock.sendall(request("/"))
        program.becomes(set_workers(2))
        second = program.hand_over()
        for sock in waiting:
            peer = Peer(sock)
            assert peer.read_head().startswith(b"HTTP/1.1 101 ")
            peer.close()
        program.process.kill()  # it waits for the stopped ones
        program.process.wait(DEADLINE)
        program.becomes(set_workers(3))
        third = program.hand_over(second, 2)
        program.wait_for("^returned")
        served: set[str] = set()
        assert until(lambda: served.add(program.get("/pid")) or len(served) == 3)
        program.end_of(third)


def test_file_of_a_unix_socket_is_that_of_the_last_version(
    path: Path, tmp_path: Path
) -> None:
    file = tmp_path / "socket"

    def answers() -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE)
            sock.connect(str(file))
            sock.sendall(b"GET /pid HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return sock.recv(12) == b"HTTP/1.1 200"

    options = f'unix="{file}", workers=2'
    with Versions(path, options=options) as program:
        program.wait_for_workers()
        program.becomes("raise SystemExit(7)")
        program.send(signal.SIGUSR2)
        program.wait_for("does not replace this one")
        assert answers()
        program.becomes("")
        pid = program.hand_over()
        assert program.process.wait(DEADLINE) == 0
        assert answers()
        program.end_of(pid)
        assert not file.exists()


def test_sockets_of_systemd_are_handed_on(path: Path) -> None:
    """Its variables are for the first process alone."""
    given = "import socket\nGIVEN = [socket.create_server(('127.0.0.1', 0))]"
    with Versions(path, given) as program:
        program.wait_for_workers()
        program.becomes("NAME = 'second'")
        pid = program.hand_over()
        assert program.process.wait(DEADLINE) == 0
        assert program.get("/version") == "second"
        program.end_of(pid)


def test_next_version_may_listen_elsewhere(path: Path) -> None:
    with Versions(path) as program:
        program.wait_for_workers()
        program.becomes("server._asked_port = server.port = 0\nserver.host = '0.0.0.0'")
        pid = program.hand_over()
        assert program.process.wait(DEADLINE) == 0
        with pytest.raises(ConnectionRefusedError):
            program.connect()
        port = int(program.wait_for(r"^port (\d+)", 2)[1])
        with Peer(socket.create_connection(("127.0.0.1", port))) as peer:
            peer.shake()
        program.end_of(pid)


def test_stop_also_ends_a_version_that_has_not_begun(path: Path) -> None:
    with Versions(path) as program:
        program.wait_for_workers()
        program.becomes("say('hangs')\ntime.sleep(3600)")
        program.send(signal.SIGUSR2)
        program.wait_for("^hangs")
        program.send(signal.SIGUSR2)
        program.wait_for(r"process \d+ still has to begin")
        assert program.end() == 0
        program._reader.join(DEADLINE)
        assert not program._reader.is_alive()


def test_handler_of_the_program_stays(path: Path) -> None:
    own = "signal.signal(signal.SIGUSR2, lambda *_: say('mine'))"
    with Versions(path, own) as program:
        program.wait_for_workers()
        program.send(signal.SIGUSR2)
        program.wait_for("^mine")
        assert program.end() == 0
        assert not program.found("once more")


def test_workers_ignore_the_signal(path: Path) -> None:
    with Versions(path) as program:
        workers = program.wait_for_workers()
        for pid in workers:
            os.kill(pid, signal.SIGUSR2)
        assert int(program.get("/pid")) in workers
        assert program.end() == 0
        assert not program.found("ended: ")


def test_systemd_is_told_which_process_the_service_is(
    path: Path, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(DEADLINE)
        notify = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with Versions(path, **notify) as program:
            program.wait_for_workers()
            pid = program.hand_over()
            assert systemd.recv(100) == b"MAINPID=%d" % pid
            program.process.wait(DEADLINE)
            program.end_of(pid)
