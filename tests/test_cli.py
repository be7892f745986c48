"""The command line, as its users run it: in processes, with pipes and a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import Echo, running
from websockets.sync.client import connect

from simple_ws import BACKEND, __version__
from simple_ws.cli import main
from simple_ws.cli_bench import histogram, percentile
from simple_ws.cli_connect import harmless

#: Seconds after which a test gives up; only a failing test waits so long.
DEADLINE = 30.0
ROOT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-m", "simple_ws"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def run(*arguments: str, given: str = "", **how: Any) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*COMMAND, *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=ENVIRONMENT,
        **how,
    )


@contextmanager
def serving(*arguments: str, cwd: Path = ROOT) -> Iterator[tuple[Any, str]]:
    """A command that prints its address and serves until it is told to stop."""
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        cwd=cwd,
    ) as process:
        try:
            yield process, read_line(process)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.communicate(timeout=DEADLINE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise


def read_line(process: Any) -> str:
    ready = select.select([process.stdout], [], [], DEADLINE)[0]
    assert ready, "it says nothing"
    line = process.stdout.readline().strip()
    assert line, process.stderr.read()
    return str(line)


def test_info_says_what_runs_here() -> None:
    done = run("info")
    assert done.returncode == 0
    assert __version__ in done.stdout
    assert BACKEND in done.stdout
    assert done.stderr == ""


def test_help_teaches_and_version_is_told() -> None:
    done = run("--help")
    assert done.returncode == 0
    for word in ("serve", "echo", "connect", "bench", "info", "exit codes"):
        assert word in done.stdout
    assert run("--version").stdout.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required"),
        (["connect", "localhost"], "localhost"),
        (["bench", "ws://localhost", "-c", "0"], "at least 1"),
        (["echo", "--port", "70000"], "0 to 65535"),
        (["serve", "nothing"], "MODULE:NAME"),
        (["serve", "no_such_module:X"], "no module 'no_such_module'"),
        (["serve", "json:Nothing"], "no 'Nothing'"),
        (["serve", "json:__name__"], "must be a handler"),
    ],
)
def test_wrong_arguments_end_with_2(
    arguments: list[str], message: str, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = exit_.code  # type: ignore[assignment]
    assert code == 2
    assert message in capsys.readouterr().err


def test_port_that_is_taken_ends_with_1(capsys: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["echo", "--port", str(taken.getsockname()[1])]) == 1
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err


def test_server_that_is_not_there_ends_with_3(capsys: Any, monkeypatch: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert main(["connect", f"ws://127.0.0.1:{port}/"]) == 3
    assert "refused" in capsys.readouterr().err


def test_echo_echoes_until_it_is_told_to_stop() -> None:
    with serving("echo", "--port", "0") as (process, url):
        with connect(url) as client:
            client.send("hello")
            assert client.recv(DEADLINE) == "hello"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0


def test_piped_lines_are_sent_and_only_answers_are_printed() -> None:
    with running(Echo()) as server:
        url = f"ws://127.0.0.1:{server.port}/"
        done = run("connect", url, "--wait", "0.5", given="one\ntwo\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, "one\ntwo\n", "")
        done = run("connect", url, "--wait", "0.5", "--binary", given="three\n")
        assert (done.returncode, done.stdout) == (0, "three\n")


def test_connect_sends_what_it_is_told() -> None:
    handler = Echo(subprotocols=["v1"])
    with running(handler) as server:
        done = run(
            *("connect", f"ws://127.0.0.1:{server.port}/", "--wait", "0.2"),
            *("--header", "X-Token: abc", "--origin", "https://a.b"),
            *("--subprotocol", "v1"),
            given="",
        )
        assert done.returncode == 0
        client = handler.client()
        assert client.headers["x-token"] == "abc"
        assert (client.origin, client.subprotocol) == ("https://a.b", "v1")


def test_terminal_shows_messages_harmless_above_the_line() -> None:
    """What a server sends must not move the cursor, and typing goes on."""

    class Rude(Echo):
        def on_open(self, client: Any) -> None:
            super().on_open(client)
            client.write_message("\x1b[2Jgone \x07")

    with running(Rude()) as server:
        pid, terminal = pty.fork()
        if pid == 0:  # pragma: no cover
            url = f"ws://127.0.0.1:{server.port}/"
            os.execve(sys.executable, [*COMMAND, "connect", url], ENVIRONMENT)
        try:
            shown = read_terminal(terminal, b"gone")
            assert b"\\x1b[2Jgone \\x07" in shown
            os.write(terminal, b"typed\n")
            assert b"< typed" in read_terminal(terminal, b"< typed")
            os.write(terminal, b"\x04")
            assert b"closed: 1000" in read_terminal(terminal, b"closed: 1000")
        finally:
            os.close(terminal)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (
                0,
                -signal.SIGHUP,
            )


def read_terminal(terminal: int, wanted: bytes) -> bytes:
    shown, deadline = b"", time.monotonic() + DEADLINE
    while wanted not in shown:
        left = deadline - time.monotonic()
        assert left > 0, shown
        if select.select([terminal], [], [], left)[0]:
            shown += os.read(terminal, 4096)
    return shown


def test_bench_prints_a_summary_and_no_progress_to_a_pipe() -> None:
    with running(Echo()) as server:
        url = f"ws://127.0.0.1:{server.port}/"
        done = run("bench", url, "-c", "3", "--seconds", "0.3", "--size", "100")
        assert (done.returncode, done.stderr) == (0, "")
        for word in ("rate", "handshake", "p50", "p99", "max", "█"):
            assert word in done.stdout
        assert "\r" not in done.stdout


def test_bench_of_a_server_that_does_not_echo_ends_with_1() -> None:
    class Liar(Echo):
        def on_message(self, msg: Any, client: Any) -> Any:
            return b"something else"

    with running(Liar()) as server:
        url = f"ws://127.0.0.1:{server.port}/"
        done = run("bench", url, "-c", "1", "--seconds", "0.2")
        assert done.returncode == 1
        assert "wrong" in done.stdout


def test_handler_of_a_module_is_served_with_files(tmp_path: Path) -> None:
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "index.html").write_text("<p>hello</p>")
    (tmp_path / "chat.py").write_text(
        "from simple_ws import WebSocket\n"
        "class Room(WebSocket):\n"
        "    def on_message(self, msg, client):\n"
        "        return msg.upper()\n"
    )
    options = ["serve", "chat:Room", "--port", "0", "--static", "public"]
    with serving(*options, cwd=tmp_path) as (_, url):
        with connect(url) as client:
            client.send("abc")
            assert client.recv(DEADLINE) == "ABC"
        from urllib.request import urlopen

        with urlopen(url.replace("ws://", "http://"), timeout=DEADLINE) as answer:
            assert answer.read() == b"<p>hello</p>"


@pytest.mark.parametrize("what", ["server", "answer", "handler"])
def test_other_things_can_be_served(what: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "from simple_ws import Server, WebSocket\n"
        "def answer(msg, client):\n    return 'answer ' + msg\n"
        "class H(WebSocket):\n"
        "    def on_message(self, msg, client):\n        return 'answer ' + msg\n"
        "handler = H()\n"
        "server = Server('127.0.0.1', 0)\n"
        "server.route('*')(answer)\n"
    )
    with (
        serving("serve", f"app:{what}", "--port", "0", cwd=tmp_path) as (_, url),
        connect(url) as client,
    ):
        client.send("x")
        assert client.recv(DEADLINE) == "answer x"


def test_reload_starts_anew_when_a_file_changes(tmp_path: Path) -> None:
    module = tmp_path / "app.py"
    text = "def f(msg, client):\n    return 'one'\n"
    module.write_text(text)
    options = ["serve", "app:f", "--port", "0", "--reload"]
    with serving(*options, cwd=tmp_path) as (process, url):
        with connect(url) as client:
            client.send("x")
            assert client.recv(DEADLINE) == "one"
        module.write_text(text.replace("one", "two!"))
        with connect(read_line(process)) as client:
            client.send("x")
            assert client.recv(DEADLINE) == "two!"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("options", [[], ["--reload"]])
def test_serving_that_is_told_to_stop_went_well(
    tmp_path: Path, options: list[str], number: int
) -> None:
    (tmp_path / "app.py").write_text("def f(msg, client): pass\n")
    command = ["serve", "app:f", "--port", "0", *options]
    with serving(*command, cwd=tmp_path) as (process, url):
        with connect(url):
            pass  # it serves: the address is printed a moment before
        process.send_signal(number)
        _, told = process.communicate(timeout=DEADLINE)
        assert (process.returncode, "Traceback" in told) == (0, False)


def test_reload_waits_for_a_broken_file_to_be_mended(tmp_path: Path) -> None:
    module = tmp_path / "app.py"
    good = "def f(msg, client):\n    return 'mended'\n"
    module.write_text(good)
    options = ["serve", "app:f", "--port", "0", "--reload"]
    with serving(*options, cwd=tmp_path) as (process, _):
        module.write_text("def f(:\n")
        deadline = time.monotonic() + DEADLINE
        while "SyntaxError" not in process.stderr.readline():
            assert time.monotonic() < deadline
        module.write_text(good + "\n")
        with connect(read_line(process)) as client:
            client.send("x")
            assert client.recv(DEADLINE) == "mended"


def test_control_characters_are_spelled_out() -> None:
    assert harmless("a\tb\nc") == "a\tb\nc"
    assert harmless("\x1b[31mred\x9b\u202e") == "\\x1b[31mred\\x9b\\x202e"


def test_percentiles_and_bars() -> None:
    ordered = [0.001 * number for number in range(1, 101)]
    assert percentile(ordered, 0.5) == pytest.approx(0.051)
    assert percentile(ordered, 1.0) == pytest.approx(0.1)
    lines = histogram(ordered)
    assert sum(int(line.split()[-1].replace(",", "")) for line in lines) == 100
    assert histogram([5.0]) == histogram([5.0])
