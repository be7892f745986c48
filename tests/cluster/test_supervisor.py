"""`supervisor`: workers that end, hang, crash, are replaced, and stop."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any
from urllib.request import urlopen

import pytest
from harness import DEADLINE, Peer, request
from programs import WORKERS, Program, until

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="workers need os.fork"),
]

#: Signs of life come often, and are missed soon.
HASTY = """
worker.HEARTBEAT = 0.05
Supervisor.STUCK_AFTER = 1.0
Supervisor.KILL_AFTER = 0.2
Supervisor.SUM_EVERY = 0.01
"""

#: Likewise those of the broker.
HASTY_BROKER = """
from simple_ws.cluster import broker
from simple_ws.cluster.broker_process import BrokerProcess
broker.HEARTBEAT = 0.05
BrokerProcess.STUCK_AFTER = 1.0
BrokerProcess.KILL_AFTER = 0.2
"""


def is_gone(pid: int) -> bool:
    """Whether a process that is not our child has ended, or is only waited for."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


# --- Serving -------------------------------------------------------------------------


def test_each_worker_serves() -> None:
    with Program.with_workers() as program:
        workers = set(program.wait_for_workers())
        served: set[str] = set()
        assert until(lambda: served.add(program.get("/pid")) or len(served) == 2)
        assert {int(pid) for pid in served} == workers
        assert program.process.pid not in workers


def test_workers_share_one_socket_where_the_system_does_not_spread() -> None:
    body = "from simple_ws.cluster import sockets\n"
    body += "sockets.spreads_connections = lambda: False\n"
    with Program.with_workers(body) as program:
        one, other = program.wait_for_workers()
        os.kill(one, signal.SIGSTOP)
        assert program.get("/pid") == str(other)
        os.kill(one, signal.SIGCONT)
        os.kill(other, signal.SIGSTOP)
        assert program.get("/pid") == str(one)
        os.kill(other, signal.SIGCONT)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_all_gracefully(stop: int) -> None:
    with Program.with_workers() as program:
        program.wait_for_workers()
        peers = [program.peer() for _ in range(20)]
        program.send(stop)
        for peer in peers:
            assert peer.read_close() == (1001, "the server stops")
            peer.close()
        assert program.wait() == 0
        assert program.lines[-1] == "returned"


def test_signal_to_the_whole_group_is_one_signal() -> None:
    """As systemd and terminals send it; a second one would cut."""
    with Program.with_workers() as program:
        workers = program.wait_for_workers()
        peers = [program.peer() for _ in range(20)]
        for pid in (*workers, program.process.pid):
            os.kill(pid, signal.SIGTERM)
        for peer in peers:
            assert peer.read_close()[0] == 1001
            peer.close()
        assert program.wait() == 0


def test_clients_that_wait_to_be_accepted_are_still_served_at_the_end() -> None:
    with Program.with_workers() as program:
        workers = program.wait_for_workers()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        waiting = [program.connect() for _ in range(20)]
        for sock in waiting:
            sock.sendall(request("/"))
        program.send(signal.SIGTERM)
        program.wait_for("stopping 2 workers")
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        for sock in waiting:
            peer = Peer(sock)
            assert peer.read_head().startswith(b"HTTP/1.1 101 ")
            assert peer.read_close()[0] == 1001
            peer.close()
        assert program.wait() == 0


def test_more_workers_than_cores_are_warned_of() -> None:
    body = "os.sched_getaffinity = lambda pid: {0}"
    with Program.with_workers(body) as program:
        program.wait_for(r"^2 workers share 1 core$")
        program.wait_for_workers()
        assert program.end() == 0


def test_tls_and_wsgi_and_files(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("a page")
    trustme = pytest.importorskip("trustme", reason="cryptography has no wheel here")
    authority = trustme.CA()
    certificate = tmp_path / "cert.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
        str(certificate)
    )
    body = f"""
def application(environ, start_response):
    start_response("200 OK", [])
    return [str(environ["wsgi.multiprocess"]).encode()]
server.wsgi("/app", application)
server.static("/files", {str(tmp_path)!r})
"""
    options = f'"127.0.0.1", 0, workers=2, certfile={str(certificate)!r}'
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with Program.with_workers(body, options) as program:
        program.wait_for_workers()
        for path, answer in (("/app", "True"), ("/files/page.html", "a page")):
            url = f"https://localhost:{program.port}{path}"
            for _ in range(4):
                with urlopen(url, timeout=DEADLINE, context=context) as page:
                    assert page.read().decode() == answer
        assert program.end() == 0


def test_second_signal_cuts() -> None:
    options = '"127.0.0.1", 0, workers=2, close_timeout=3600'
    with Program.with_workers(options=options) as program:
        program.wait_for_workers()
        peer = program.peer()
        program.send(signal.SIGTERM)
        assert peer.read_close()[0] == 1001
        program.send(signal.SIGTERM)
        assert peer.read_rest() == b""
        assert program.wait() == 0
        peer.close()


def test_third_signal_kills() -> None:
    body = """
@server.http("/hang")
def hang(request):
    say("hangs")
    while True:
        time.sleep(3600)
"""
    with Program.with_workers(body) as program:
        program.wait_for_workers()
        peer = Peer(program.connect())
        peer.write(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
        program.wait_for("hangs")
        program.send(signal.SIGTERM)
        program.wait_for("stopping")
        program.send(signal.SIGINT)
        program.wait_for("cutting")
        assert program.end() == 0
        peer.close()


def test_stop_in_a_callback_stops_all_workers() -> None:
    body = """
@server.http("/stop")
def stop(request):
    server.stop()
"""
    with Program.with_workers(body) as program:
        program.wait_for_workers()
        program.get("/stop")
        assert program.wait() == 0
        assert program.lines[-1] == "returned"


def test_stop_in_a_signal_handler_of_the_program() -> None:
    body = "signal.signal(signal.SIGUSR1, lambda *_: server.stop(drain=0))"
    with Program.with_workers(body) as program:
        program.wait_for_workers()
        assert program.end(signal.SIGUSR1) == 0


def test_server_can_be_run_again() -> None:
    source = WORKERS.format(options='"127.0.0.1", 0, workers=2', body="")
    again = "server.run()\nsay('again')\nserver.run()\n"
    with Program(source.replace("server.run()\n", again)) as program:
        program.wait_for_workers()
        program.send(signal.SIGTERM)
        program.wait_for("^again")
        program.wait_for_workers(4)
        port = int(program.wait_for(r"listening on .*:(\d+) with", 2)[1])
        with Peer(socket.create_connection(("127.0.0.1", port))) as peer:
            peer.shake()
        assert program.end() == 0


def test_programs_that_a_worker_starts_can_be_interrupted() -> None:
    body = """
import subprocess
@server.http("/child")
def child(request):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('ignored')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    return done.stdout
"""
    with Program.with_workers(body) as program:
        program.wait_for_workers()
        assert program.get("/child") == ""
        assert program.end() == 0


def test_workers_leave_the_program_to_the_supervisor() -> None:
    """Neither `atexit` nor `finally` of the program run in a worker."""
    source = WORKERS.format(
        options='"127.0.0.1", 0, workers=2',
        body="import atexit\natexit.register(say, 'at exit')\n",
    )
    source = source.replace(
        "server.run()\n",
        "try:\n    server.run()\nfinally:\n    say('finally')\n",
    )
    with Program(source) as program:
        program.wait_for_workers()
        assert program.end() == 0
        assert len(program.found("at exit")) == 1
        assert len(program.found("finally")) == 1


# --- Workers that end ----------------------------------------------------------------


def test_killed_worker_is_replaced_at_once_and_its_queue_is_served() -> None:
    with Program.with_workers(options='"127.0.0.1", 0, workers=1+1') as program:
        workers = program.wait_for_workers()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        waiting = [program.connect() for _ in range(20)]  # nobody accepts them
        for sock in waiting:
            sock.sendall(request("/"))
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        for sock in waiting:
            peer = Peer(sock)
            assert peer.read_head().startswith(b"HTTP/1.1 101 ")
            peer.close()
        assert len(program.found("SIGKILL; it is replaced now")) == 2
        assert program.end() == 0


def test_only_clients_of_a_killed_worker_notice() -> None:
    """Under a stream of handshakes, those it had in its hands are lost, nobody else."""
    with Program.with_workers(HASTY) as program:
        workers = program.wait_for_workers()
        staying: dict[int, list[Peer]] = {}
        for _ in range(20):
            peer = program.peer()
            peer.text("pid")
            staying.setdefault(int(peer.read_message()), []).append(peer)
        over, lost, served = Event(), [0], [0]

        def visit() -> None:
            while not over.is_set():
                sock = program.connect()  # never refused
                try:
                    with Peer(sock) as peer:
                        peer.shake().text("hello")
                        assert peer.read_message() == "hello"
                    served[0] += 1
                except (OSError, AssertionError):
                    lost[0] += 1

        with ThreadPoolExecutor(4) as pool:
            visits = [pool.submit(visit) for _ in range(4)]
            try:
                for count in range(3, 6):
                    killed = workers[-1]
                    os.kill(killed, signal.SIGKILL)
                    workers = program.wait_for_workers(count)
                    for peer in staying.pop(killed, []):
                        peer.close()
                    until(lambda before=served[0]: served[0] > before + 20)
            finally:
                over.set()
            for each in visits:
                each.result(DEADLINE)
        assert lost[0] <= 4 * 3  # one for each visitor and kill
        for peer in [peer for peers in staying.values() for peer in peers]:
            peer.text("still here")
            assert peer.read_message() == "still here"
            peer.close()
        assert program.end() == 0


def test_worker_that_keeps_ending_is_replaced_later_and_later() -> None:
    body = """
@server.on_worker_start
def begin(worker):
    if worker.number == 2:
        server.call_later(0, lambda: os._exit(7))
"""
    with Program.with_workers(body) as program:
        program.wait_for(r"worker 2 .* ended: exit code 7; it is replaced now")
        program.wait_for(r"worker 2 .* ended: exit code 7; it is replaced in 1 s")
        assert program.get("/pid")  # the other one serves meanwhile
        assert program.end() == 0


def test_worker_told_to_end_by_somebody_else_is_replaced() -> None:
    with Program.with_workers() as program:
        workers = program.wait_for_workers()
        os.kill(workers[0], signal.SIGTERM)
        assert len(set(program.wait_for_workers(3))) == 3
        assert program.end() == 0


def test_stuck_loop_is_ended_shown_and_replaced() -> None:
    body = f"""
{HASTY}
@server.http("/hang")
def hang_for_ever(request):
    while True:
        pass
"""
    with Program.with_workers(body) as program:
        program.wait_for_workers()
        peer = Peer(program.connect())
        peer.write(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
        program.wait_for("has not turned for")
        program.wait_for("in hang_for_ever")  # where it hung
        program.wait_for("SIGABRT; it is replaced")
        program.wait_for_workers(3)
        assert program.end() == 0
        peer.close()


def test_stuck_loop_that_does_not_hear_sigabrt_is_killed() -> None:
    body = f"""
{HASTY}
@server.http("/hang")
def hang_for_ever(request):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGABRT])
    while True:
        pass
"""
    with Program.with_workers(body) as program:
        program.wait_for_workers()
        peer = Peer(program.connect())
        peer.write(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
        program.wait_for("SIGKILL; it is replaced")
        program.wait_for_workers(3)
        assert program.end() == 0
        peer.close()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_pause_of_the_supervisor_is_no_fault_of_the_others() -> None:
    """The machine was suspended, or the whole container frozen."""
    with Program.with_workers(HASTY + HASTY_BROKER) as program:
        workers = program.wait_for_workers()
        children = (broker_of(program, workers), *workers)
        for pid in (*children, program.process.pid):
            os.kill(pid, signal.SIGSTOP)
        select.select([], [], [], 1.5)  # longer than STUCK_AFTER: what is tested
        for pid in (program.process.pid, *children):
            os.kill(pid, signal.SIGCONT)
        assert {int(program.get("/pid")) for _ in range(10)} <= set(workers)
        assert program.end() == 0
        assert not program.found("has not turned")


@pytest.mark.parametrize("number", [1, 2])
def test_worker_that_cannot_begin_ends_all_with_code_3_and_one_line(
    number: int,
) -> None:
    body = f"""
@server.on_worker_start
def connect_to_database(worker):
    if worker.number == {number}:
        raise RuntimeError("no database at db:5432")
"""
    with Program.with_workers(body) as program:
        assert program.wait() == 3
        (line,) = program.found("no database")
        assert re.match(
            rf"worker {number} cannot begin: RuntimeError: no database at db:5432 "
            r"\(<string>, line \d+\)$",
            line.string,
        )
        assert not program.found("Traceback")
        assert not program.found("returned")


def fails_to_begin(attempts: str) -> str:
    """Code of workers that cannot begin at each attempt that is a minus."""
    return f"""
tried = os.pipe()
os.write(tried[1], {attempts.encode()!r})
@server.on_worker_start
def connect_to_database(worker):
    if os.read(tried[0], 1) == b"-":
        raise RuntimeError("no database")
"""


def test_worker_that_cannot_begin_again_is_tried_again() -> None:
    """A database that is down for a while does not end the whole site."""
    with Program.with_workers(fails_to_begin("++-+++")) as program:
        workers = program.wait_for_workers()
        os.kill(workers[0], signal.SIGKILL)
        program.wait_for("ended: RuntimeError: no database .* it is replaced in 1 s")
        program.wait_for_workers(3)
        assert program.end() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_end_with_the_supervisor_and_free_the_port() -> None:
    body = """
@server.http("/hang")
def hang(request):
    say("hangs")
    while True:
        pass
"""
    with Program.with_workers(body) as program:
        workers = program.wait_for_workers()
        port = program.port
        peer = Peer(program.connect())
        peer.write(b"GET /hang HTTP/1.1\r\nHost: x\r\n\r\n")
        program.wait_for("hangs")
        program.process.kill()
        program.wait()
        until(lambda: all(map(is_gone, workers)))
        with socket.create_server(("127.0.0.1", port)):
            pass
        peer.close()


def test_workers_end_with_the_supervisor_where_the_system_does_not_help() -> None:
    body = "from simple_ws.cluster import process\nprocess._end_with = lambda pid: None"
    with Program.with_workers(body) as program:
        workers = program.wait_for_workers()
        peer = program.peer()
        program.process.kill()
        peer.read_rest()  # the workers have the pipe's end, and close it
        program.wait()  # so do the pipes that the workers write to
        assert sys.platform != "linux" or until(lambda: all(map(is_gone, workers)))
        peer.close()


# --- Waiting for the engine ----------------------------------------------------------

#: Each worker says when its engine is up, and the supervisor's line may come after it.
TELLS_OF_ENGINE = """
worker.ENGINE_WAIT = 3600
@server.on_engine
def changed(state):
    if state.up:
        say("engine of", os.getpid())
"""


def broker_of(program: Program, workers: list[int]) -> int:
    """The process of the broker."""
    children = Path(f"/proc/{program.process.pid}/task/{program.process.pid}")
    every = (children / "children").read_text().split()
    (broker,) = set(map(int, every)) - set(workers)
    return broker


def check_engine_came_first(program: Program, worker: int) -> None:
    lines = "\n".join(program.lines)
    engine = lines.index(f"engine of {worker}\n")
    assert engine < lines.index(f"serves (process {worker})")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_worker_is_up_once_its_engine_is_and_sighup_waits_for_that() -> None:
    body = f"""
{HASTY}
{TELLS_OF_ENGINE}
@server.on_worker_start
def begin(worker):
    server.call_later(0, lambda: say("turns", os.getpid()))
@server.on_worker_stop
def end(worker):
    say("ends", os.getpid())
"""
    with Program.with_workers(body) as program:
        old = program.wait_for_workers()
        for pid in old:
            check_engine_came_first(program, pid)
        broker = broker_of(program, old)
        os.kill(broker, signal.SIGSTOP)  # it lets nobody in
        program.send(signal.SIGHUP)
        successor = int(program.wait_for(r"^turns (\d+)", 3)[1])
        assert program.get("/pid")
        os.kill(broker, signal.SIGCONT)
        workers = program.wait_for_workers(4)
        for pid in workers:
            check_engine_came_first(program, pid)
        program.wait_for(f"^ends {old[0]}|^ends {old[1]}", 2)
        lines = program.lines
        first_end = next(at for at, line in enumerate(lines) if line[:4] == "ends")
        assert lines.index(f"engine of {successor}") < first_end
        assert program.end() == 0


def without_engine(wait: float) -> Program:
    """Workers whose engine nobody listens for."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    body = f"{HASTY}\nworker.ENGINE_WAIT = {wait}\n"
    options = f'"127.0.0.1", 0, workers=2, engine="redis://127.0.0.1:{port}"'
    return Program.with_workers(body, options)


def test_worker_is_up_without_its_engine_after_a_while() -> None:
    with without_engine(0.01) as program:
        workers = program.wait_for_workers()
        assert int(program.get("/pid")) in workers
        assert program.end() == 0


def test_worker_that_waits_for_its_engine_serves_and_stops_gracefully() -> None:
    with without_engine(3600) as program:
        with program.peer() as peer:
            peer.text("hello")
            assert peer.read_message() == "hello"
            program.send(signal.SIGTERM)
            assert peer.read_close() == (1001, "the server stops")
        assert program.wait() == 0
        assert not program.found("serves")
        assert not program.found("has not turned")


# --- Replacing all -------------------------------------------------------------------


def test_sighup_replaces_all_without_refusing_or_resetting_anybody() -> None:
    with Program.with_workers() as program:
        old = set(program.wait_for_workers())
        with program.visited() as counts:
            for round_ in range(1, 4):
                program.send(signal.SIGHUP)
                workers = program.wait_for_workers(2 + 2 * round_)
        assert counts["served"] > 0
        until(lambda: set(map(int, [program.get("/pid")])) <= set(workers[-2:]))
        assert not old & set(workers[-2:])
        assert program.end() == 0
        assert not program.found("ended: ")


def test_sighup_keeps_the_old_workers_if_a_successor_cannot_begin() -> None:
    with Program.with_workers(fails_to_begin("++-")) as program:
        workers = program.wait_for_workers()
        peer = program.peer()
        program.send(signal.SIGHUP)
        program.wait_for("worker 1 is not replaced, .*: RuntimeError: no database")
        assert int(program.get("/pid")) in workers
        peer.text("still here")
        assert peer.read_message() == "still here"
        peer.close()
        assert program.end() == 0


# --- What all workers have together --------------------------------------------------


class Watcher:
    """Scrapes whatever worker answers; fails when a counter has gone back."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.seen: dict[str, float] = {}
        self.sent = 0

    def look(self) -> dict[str, float]:
        text = self.program.get("/metrics")
        pairs = (x.rsplit(" ", 1) for x in text.splitlines() if not x.startswith("#"))
        now = {name: float(value) for name, value in pairs}
        for name, value in self.seen.items():
            if "_total" in name:
                assert now[name] >= value, name
        self.seen = now
        return now

    def received(self) -> float:
        name = "simple_ws_messages_received_total"
        return sum(value for key, value in self.look().items() if key.startswith(name))

    def visit(self) -> None:
        """Send a message, which then is in the sums: so it outlives its worker."""
        with self.program.peer() as peer:
            peer.text("hello")
            peer.read_message()
        self.sent += 1
        until(lambda: self.received() == self.sent)

    def processes(self) -> set[int | None]:
        self.look()
        return {each["pid"] for each in self.program.stats()["workers"]}


def test_every_worker_tells_the_sums_and_they_never_go_back() -> None:
    with Program.with_workers(HASTY) as program:
        first = set(program.wait_for_workers())
        watcher = Watcher(program)
        for _ in range(10):
            watcher.visit()
        killed = program.stats()["workers"][0]["pid"]
        os.kill(killed, signal.SIGKILL)
        program.wait_for_workers(3)
        until(lambda: killed not in watcher.processes())
        for _ in range(10):
            watcher.visit()
        program.send(signal.SIGHUP)
        program.wait_for_workers(5)
        until(lambda: not first & watcher.processes())
        for _ in range(10):
            watcher.visit()
        stats = program.stats()
        assert stats["total"]["messages_received"] == 30
        assert stats["connections"]["opened"] == 30
        assert [each["worker"] for each in stats["workers"]] == [1, 2]
        assert stats["workers"][0]["endings"] == {"SIGKILL": 1}
        endings = 'simple_ws_worker_endings_total{worker="1",reason="SIGKILL"}'
        assert watcher.look()[endings] == 1
        assert program.end() == 0


PUBLISHING = """
@server.http("/publish")
def publish(request):
    server.publish("somewhere", "hello")
    return "done"
"""


def test_engines_of_all_workers_are_added_up_and_ended_ones_stay_counted() -> None:
    with Program.with_workers(HASTY + PUBLISHING) as program:
        first = set(program.wait_for_workers())
        watcher = Watcher(program)

        def engine() -> Any:
            watcher.look()
            return program.stats()["engine"] or {"up": 0, "published": 0}

        until(lambda: engine()["up"] == 2)
        for number in range(1, 6):
            program.get("/publish")
            until(lambda count=number: engine()["published"] == count)
        program.send(signal.SIGHUP)
        program.wait_for_workers(4)
        until(lambda: not first & watcher.processes() and engine()["up"] == 2)
        program.get("/publish")
        until(lambda: engine()["published"] == 6)
        stats = program.stats()
        assert stats["engine"]["connects"]["start"] == 4
        assert stats["engine"]["reason"] == ""
        assert [each["engine"]["up"] for each in stats["workers"]] == [1, 1]
        series = watcher.look()
        assert series['simple_ws_engine_up{worker="2"}'] == 1
        published = 'simple_ws_engine_published_total{worker="%d"}'
        assert series[published % 1] + series[published % 2] == 6
        assert program.end() == 0


def test_limits_are_divided() -> None:
    body = """
@server.on_worker_start
def begin(worker):
    echo = next(iter(server._router.targets()))
    names = ("max_connections", "handshake_rate", "max_buffered", "message_rate")
    say("limits", json.dumps([getattr(server.options, name) for name in names]))
    say("handler", json.dumps([echo.options.max_connections, echo.max_buffered]))
"""
    options = (
        '"127.0.0.1", 0, workers=2, max_connections=5, handshake_rate=(10, 4), '
        "max_buffered=2000, message_rate=(7, 8)"
    )
    with Program.with_workers(body, options) as program:
        program.wait_for_workers()
        assert json.loads(program.wait_for("^limits (.*)", 2)[1]) == [
            3, [5.0, 2.0], 1000, [7.0, 8.0],
        ]  # fmt: skip
        assert json.loads(program.wait_for("^handler (.*)", 2)[1]) == [3, 1000]
        assert program.end() == 0


def test_timer_with_once_runs_in_one_worker_and_moves_on() -> None:
    body = """
server.every(0.01, lambda: say("once", os.getpid()), once=True)
server.every(0.01, lambda: say("each", os.getpid()))
"""
    with Program.with_workers(body) as program:
        one, other = program.wait_for_workers()
        number = int(program.wait_for(r"worker 1 serves \(process (\d+)\)")[1])
        program.wait_for(f"^once {number}", 3)
        for pid in (one, other):
            program.wait_for(f"^each {pid}", 20)
        before = [int(match[1]) for match in program.found(r"^once (\d+)")]
        assert before[-1] == number
        os.kill(number, signal.SIGKILL)
        program.wait_for(rf"^once (?!{number}\b)", 3)
        assert program.end() == 0


def test_lines_of_the_log_name_the_worker() -> None:
    body = """
logging.getLogger().handlers[0].setFormatter(
    logging.Formatter("%(message)s [%(ws_worker)s]", defaults={"ws_worker": "-"})
)
log = logging.getLogger("simple_ws")
server.call_later(0, lambda: log.info("here"))
"""
    with Program.with_workers(body) as program:
        program.wait_for(r"^here \[1\]")
        program.wait_for(r"^here \[2\]")
        program.wait_for(r"serves .* \[-\]")
        assert program.end() == 0


def test_callbacks_around_a_worker_are_told_which_it_is() -> None:
    body = """
@server.on_worker_start
def begin(worker):
    say("begin", worker.number, worker.count, worker.pid == os.getpid())
@server.on_worker_stop
def end(worker):
    say("end", worker.number, worker.count, worker.pid == os.getpid())
"""
    with Program.with_workers(body) as program:
        program.wait_for_workers()
        assert program.end() == 0
        for when in ("begin", "end"):
            said = sorted(match[1] for match in program.found(f"^{when} (.*)"))
            assert said == ["1 2 True", "2 2 True"]


BROKER = """
import socket

@server.on_worker_start
def begin(worker):
    broker = server._workers.link.broker
    @server.http("/ask")
    def ask(request):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        sock.connect(broker.path)
        words = ["HELLO", "3", "AUTH", "default", broker.secret]
        sock.sendall(b"*5\\r\\n" + b"".join(
            b"$%d\\r\\n%s\\r\\n" % (len(w), w.encode()) for w in words))
        answer = sock.recv(100)
        return {"hello": answer[:1].decode(), "path": broker.path}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_broker_is_kept_alive_and_workers_can_reach_it() -> None:
    with Program.with_workers(BROKER) as program:
        workers = program.wait_for_workers()
        first = json.loads(program.get("/ask"))
        assert first["hello"] == "%"
        assert Path(first["path"]).exists()
        broker = broker_of(program, workers)
        os.kill(broker, signal.SIGKILL)
        program.wait_for("the broker ended: SIGKILL; it is started again in 0 s")
        assert json.loads(program.get("/ask")) == first
        assert program.end() == 0
        until(lambda: is_gone(broker))
        assert not Path(first["path"]).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_messages_reach_all_workers_again_after_the_broker_was_killed() -> None:
    body = """
@server.route("/all")
def tell(msg, client):
    if msg == "who":
        return str(os.getpid())
    server.broadcast(msg)
"""
    with Program.with_workers(body) as program:
        workers = program.wait_for_workers()
        peers: dict[int, Peer] = {}
        while len(peers) < 2:
            peer = Peer(program.connect()).shake("/all")
            peer.text("who")
            worker = int(peer.read_message())
            if peers.setdefault(worker, peer) is not peer:
                peer.close()
        one, other = peers.values()

        def reaches(text: str) -> bool:
            """Tell everybody through one worker, and look at the client of another."""
            one.text(text)
            assert one.read_message() == text
            return text.encode() in other.read_now()

        until(lambda: reaches("before"))
        broker = broker_of(program, workers)
        os.kill(broker, signal.SIGKILL)
        program.wait_for("the broker ended: SIGKILL; it is started again in 0 s")
        until(lambda: reaches("after"))
        one.close()
        other.close()
        assert program.end() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_broker_that_hangs_is_ended_and_replaced() -> None:
    with Program.with_workers(HASTY + HASTY_BROKER) as program:
        workers = program.wait_for_workers()
        hangs = broker_of(program, workers)
        os.kill(hangs, signal.SIGSTOP)
        program.wait_for(rf"the broker \(process {hangs}\) has not turned for 1 s")
        program.wait_for("the broker ended: SIGKILL; it is started again in")
        program.wait_for("engine local.*: connected to", 4)
        assert broker_of(program, workers) != hangs
        assert program.end() == 0


# --- Other ways to listen ------------------------------------------------------------


def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    options = f'unix="{path}", workers=2'
    with Program.with_workers(options=options) as program:
        workers = program.wait_for_workers()

        def ask() -> int:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path))
            with Peer(sock) as peer:
                peer.write(b"GET /pid HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                return int(peer.read_rest().split(b"\r\n\r\n")[1])

        assert ask() in workers
        os.kill(workers[0], signal.SIGKILL)
        program.wait_for_workers(3)
        assert path.exists()
        assert ask() != workers[0]
        assert program.end() == 0
        assert not path.exists()


def test_sockets_that_were_handed_over() -> None:
    body = """
import socket
given = socket.create_server(("127.0.0.1", 0))
"""
    source = WORKERS.format(body=body, options='"127.0.0.1", 1, workers=2')
    with Program(source.replace("listen()", "listen([given])")) as program:
        workers = program.wait_for_workers()
        assert int(program.get("/pid")) in workers
        assert program.end() == 0


def test_handler_that_serves_by_itself() -> None:
    source = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from simple_ws import WebSocket
class Echo(WebSocket):
    def on_message(self, msg, client):
        return msg
Echo("127.0.0.1", 0, workers=2)
"""
    with Program(source) as program:
        program.wait_for_workers()
        port = int(program.wait_for(r"listening on .*:(\d+) with 2 workers")[1])
        with Peer(socket.create_connection(("127.0.0.1", port))) as peer:
            peer.shake().text("hello")
            assert peer.read_message() == "hello"
        assert program.end() == 0


def test_port_in_use_is_refused_although_workers_could_share_it() -> None:
    with Program.with_workers() as program:
        program.wait_for_workers()
        options = f'"127.0.0.1", {program.port}, workers=2'
        with Program.with_workers(options=options) as second:
            assert second.wait() == 1
            second.wait_for("cannot listen on 127.0.0.1")
        assert program.end() == 0
