"""SIGTERM and Ctrl-C under `run` and `serve_async`, and where there are no signals."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE, Echo, Peer, close_frame, connect, open_peer

import simple_ws
from simple_ws import Server
from simple_ws.loop.signals import StopSignals

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")

#: What the programs have in common; each defines `main`, a coroutine function.
PRELUDE = """
import asyncio, ctypes, os, signal, sys, threading, logging
from simple_ws import Server, WebSocket
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="log: %(message)s")
logging.getLogger("asyncio").setLevel(logging.WARNING)

class Handler(WebSocket):
    def on_message(self, msg, client):
        for _ in range(100):
            client.write_message("x" * 1000)       # more than leaves at once
        return "done"

    def on_close(self, client):
        print("closed", client.close_code, flush=True)

def make():
    server = Server("127.0.0.1", 0, ping=False)
    server.mount("*", Handler())
    server.call_later(0, lambda: print("port", server.port, flush=True))
    return server
"""
PLAIN = """
async def main():
    await make().serve_async()
    print("returned", flush=True)
"""
RUN = {
    "asyncio": "asyncio.run(main())",
    # Closed: one that is not complains now and then, when it is collected.
    "bare loop": "loop = asyncio.new_event_loop()\n"
    "loop.run_until_complete(main())\nloop.close()",
    "uvloop": "import uvloop; uvloop.run(main())",
    "run": "make().run(); print('returned', flush=True)",
}


class Program:
    """A server in a process of its own."""

    def __init__(self, source: str, *options: str) -> None:
        package = Path(simple_ws.__file__).parent.parent
        self.popen = subprocess.Popen(
            [sys.executable, *options, "-c", source],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(package)},
        )
        self.said: list[str] = []
        while not self.said or not self.said[-1].startswith("port "):
            assert self.popen.stdout is not None
            line = self.popen.stdout.readline()
            assert line, self.popen.communicate(timeout=DEADLINE)
            self.said.append(line.rstrip())
        self.server = Server("127.0.0.1", int(self.said[-1].split()[1]))

    def visit(self) -> Peer:
        """A client, open."""
        return open_peer(self.server)

    def end(self) -> tuple[int, list[str], str]:
        """Exit code, lines and errors, once it has ended."""
        out, err = self.popen.communicate(timeout=DEADLINE)
        return self.popen.returncode, out.splitlines(), err


@contextmanager
def program(source: str, start: str) -> Iterator[Program]:
    if "uvloop" in start and importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    running = Program(f"{PRELUDE}\n{source}\n{start}")
    try:
        yield running
    finally:
        running.popen.kill()
        running.popen.communicate()


@pytest.mark.parametrize("start", RUN)
def test_sigterm_closes_with_1001_and_writes_what_was_accepted(start: str) -> None:
    with program(PLAIN, RUN[start]) as server, server.visit() as peer:
        peer.text("go")
        assert peer.read_message() == "x" * 1000
        server.popen.send_signal(signal.SIGTERM)
        for _ in range(99):
            assert peer.read_message() == "x" * 1000
        assert peer.read_message() == "done"
        assert peer.read_close() == (1001, "the server stops")
        peer.write(close_frame(1001))
        assert peer.read_rest() == b""
        code, lines, err = server.end()
        assert (code, err) == (0, "")
        assert [line for line in lines if "log:" not in line] == [
            "closed 1001",
            "returned",
        ]


#: Nothing wakes it for 10 s: a signal that is missed is missed for that long.
ECHO = """
server = Server("127.0.0.1", 0, ping_interval=3600, ping_timeout=3600)
server.route("/")(lambda msg, client: msg)
server.call_later(0, lambda: print("port", server.port, flush=True))
server.run()
"""


@pytest.mark.parametrize("attempt", range(5))
def test_signal_that_comes_while_an_answer_leaves_is_not_missed(attempt: int) -> None:
    with program(ECHO, "") as server, server.visit() as peer:
        peer.text("x")
        assert peer.read_message() == "x"  # the loop is about to sleep
        peer.sock.settimeout(5)
        server.popen.send_signal(signal.SIGTERM)
        assert peer.read_close() == (1001, "the server stops")


@pytest.mark.parametrize("start", RUN)
def test_ctrl_c_closes_with_1001(start: str) -> None:
    with program(PLAIN, RUN[start]) as server, server.visit() as peer:
        server.popen.send_signal(signal.SIGINT)
        assert peer.read_close() == (1001, "the server stops")
        peer.write(close_frame(1001))
        assert peer.read_rest() == b""
        code, lines, _ = server.end()
        assert "closed 1001" in lines
        # `asyncio.run` has a handler of its own: it cancels, and raises in the end.
        assert code in ((0,) if start in ("run", "bare loop") else (1, -signal.SIGINT))


@pytest.mark.parametrize("start", RUN)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_at_once(start: str, number: int) -> None:
    with program(PLAIN, RUN[start]) as server, server.visit() as peer:
        server.popen.send_signal(number)
        assert peer.read_close()[0] == 1001
        server.popen.send_signal(number)
        assert peer.read_rest() == b""  # and nobody has answered the close frame
        code, lines, _ = server.end()
        if start in ("run", "bare loop") or number == signal.SIGTERM:
            assert (code, "closed 1001" in lines) == (0, True)
        # By `asyncio.run` a second Ctrl-C is raised wherever the loop is.


OWN = {
    "loop.add_signal_handler": """
async def main():
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    server = make()
    task = asyncio.create_task(server.serve_async())
    await told.wait()
    print("mine", flush=True)
    server.stop()
    await task
""",
    "signal.signal": """
def mine(number, frame):
    print("mine", flush=True)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

async def main():
    signal.signal(signal.SIGTERM, mine)
    server = make()
    task = asyncio.create_task(server.serve_async())
    while signal.getsignal(signal.SIGTERM) is mine:
        await asyncio.sleep(0.01)
    server.stop()
    await task
""",
    "set while it serves": """
def mine(number, frame):
    print("mine", flush=True)
    server.stop()

async def main():
    global server
    server = make()
    server.call_later(0, lambda: signal.signal(signal.SIGTERM, mine))
    server.call_later(0.01, lambda: None)
    await server.serve_async()
    assert signal.getsignal(signal.SIGTERM) is mine
""",
    "attach": """
async def main():
    told = asyncio.Event()
    server = make()
    server.attach()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()
    print("mine", flush=True)
    await asyncio.to_thread(server.stop)
""",
}


@pytest.mark.parametrize("start", ["asyncio", "uvloop"])
@pytest.mark.parametrize("own", OWN)
def test_handlers_of_the_program_are_left_alone(own: str, start: str) -> None:
    with program(OWN[own], RUN[start]) as server, server.visit() as peer:
        peer.text("go")  # its answer comes after the timers of the program
        while peer.read_message() != "done":
            pass
        server.popen.send_signal(signal.SIGTERM)
        assert peer.read_close() == (1001, "the server stops")
        peer.write(close_frame(1001))
        code, lines, err = server.end()
        assert (code, err) == (0, "")
        assert lines.count("mine") == lines.count("closed 1001") == 1


GIVES_BACK = """
async def main():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    server = make()
    server.call_later(0, server.stop)
    await server.serve_async()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    task = asyncio.create_task(make().serve_async())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
"""


@pytest.mark.parametrize("start", ["asyncio", "bare loop", "uvloop"])
def test_serve_async_gives_the_handlers_back(start: str) -> None:
    with program(GIVES_BACK, RUN[start]) as server:
        code, _, err = server.end()
        assert (code, err) == (0, "")


# --- Where signals cannot be set, or not be given back -------------------------------

SERVE_AND_STOP = """
server = make()
server.call_later(0.01, server.stop)
server.run()
print("served", flush=True)
"""
ELSEWHERE = {
    # `threading` takes the thread that imports it first for the main one.
    "another main thread": (
        """
import _thread, sys
done = _thread.allocate_lock()
done.acquire()
def work():
    try:
        exec(SOURCE, {})
    finally:
        done.release()
_thread.start_new_thread(work, ())
done.acquire()
""",
        "main thread",
    ),
    "a thread": (
        """
import threading
thread = threading.Thread(target=exec, args=(SOURCE, {}))
thread.start()
thread.join()
""",
        "main thread",
    ),
    "handler in C": (
        """
import ctypes, signal
libc = ctypes.CDLL(None)
handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: None)
libc.signal(signal.SIGTERM, handler)
exec(SOURCE.replace("server.run()", '''
import unittest.mock
get = signal.getsignal                  # Python has seen what was set before it began
with unittest.mock.patch("signal.getsignal",
                         lambda n: None if n == signal.SIGTERM else get(n)):
    server.run()
'''))
""",
        "SIGTERM was not set from Python",
    ),
    "a sub-interpreter": (
        """
import sys
if sys.version_info < (3, 13):
    import _xxsubinterpreters as interpreters
    interpreters.run_string(interpreters.create(isolated=False), SOURCE)
else:
    import _interpreters as interpreters
    made = interpreters.create("legacy")
    error = interpreters.exec(made, SOURCE)
    assert error is None, error
    interpreters.destroy(made)
""",
        "main thread",
    ),
}


@pytest.mark.parametrize("place", ELSEWHERE)
def test_run_serves_without_signals_where_there_are_none(place: str) -> None:
    source, reason = ELSEWHERE[place]
    served = repr(f"{PRELUDE}\n{SERVE_AND_STOP}")
    if place == "a sub-interpreter":  # the extension is for the main one alone
        served = repr(
            f"import os; os.environ['SIMPLE_WS_EXTENSION'] = '0'\n{PRELUDE}\n"
            f"{SERVE_AND_STOP}"
        )
    ended = subprocess.run(
        [sys.executable, "-c", f"SOURCE = {served}\n{source}"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env={**os.environ, "PYTHONPATH": str(Path(simple_ws.__file__).parent.parent)},
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert lines[-1] == "served"
    (said,) = [line for line in lines if "signals do not stop" in line]
    assert reason in said


def test_background_thread_says_nothing_about_signals(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "simple_ws"):
        server = Server("127.0.0.1", 0)
        server.mount("*", Echo())
        server.start()
        connect(server).close()
        server.stop(drain=0)
    assert not [record for record in caplog.messages if "signals" in record]


def test_what_was_set_is_given_back_when_the_second_one_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_handler, before = signal.signal, signal.getsignal(signal.SIGINT)

    def refuse(number: int, handler: Any) -> Any:
        if number == signal.SIGTERM:
            raise ValueError("not here")
        return set_handler(number, handler)

    monkeypatch.setattr(signal, "signal", refuse)
    assert threading.current_thread() is threading.main_thread()
    with StopSignals(lambda number, frame: None):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
