"""The command line, as its users run it: in processes, with pipes and a terminal."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, DEADLINE, ENVIRONMENT, read_line, run, serving
from harness import Echo, running
from terminals import at_terminal, needs_terminal, press, read_terminal
from websockets.sync.client import connect

from simple_ws import BACKEND, __version__
from simple_ws.cli.bench import histogram, percentile
from simple_ws.cli.main import main
from simple_ws.text import for_terminal

pytestmark = pytest.mark.one_backend


def url_of(server: Any) -> str:
    return f"ws://127.0.0.1:{server.port}/"


def test_info_says_what_runs_here() -> None:
    done = run("info")
    assert done.returncode == 0
    assert __version__ in done.stdout
    assert BACKEND in done.stdout
    assert done.stderr == ""


@pytest.mark.one_backend
def test_help_teaches_and_version_is_told() -> None:
    done = run("--help")
    assert done.returncode == 0
    for word in ("serve", "echo", "connect", "bench", "info", "exit codes"):
        assert word in done.stdout
    assert run("--version").stdout.strip() == __version__


@pytest.mark.one_backend
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
        (["serve", "../app:f"], "MODULE:NAME"),
        (["serve", "json:loads", "--rel"], "--rel"),
        (["serve", "operator:add", "--static", "no/such"], "folder"),
        (["serve", "operator:add", "--path", "no path"], "no path"),
        (["echo", "--port", "http"], "0 to 65535, not 'http'"),
        (["bench", "ws://localhost", "--size", "big"], "at least 1, not 'big'"),
        (["bench", "ws://localhost", "--seconds", "nan"], "more than 0 seconds"),
        (["connect", "ws://localhost", "--timeout", "-1"], "more than 0 seconds"),
        (["connect", "ws://localhost", "--wait", "nan"], "seconds"),
        (["connect", "ws://localhost", "--header", "Host: a"], "the handshake itself"),
        (["connect", "ws://localhost", "--subprotocol", "a b"], "is not a token"),
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


def test_any_bytes_pass_as_binary_lines() -> None:
    with running(Echo()) as server:
        url = f"ws://127.0.0.1:{server.port}/"
        lines = b"\xff\xfe\0\r\n\n"
        command = [*COMMAND, "connect", url, "--wait", "0.5", "--binary"]
        done = subprocess.run(
            command, input=lines, capture_output=True, timeout=DEADLINE, env=ENVIRONMENT
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, lines, b"")
        done = subprocess.run(
            command[:-1],
            input=lines,
            capture_output=True,
            timeout=DEADLINE,
            env=ENVIRONMENT,
        )
        assert done.returncode == 1
        assert b"is not UTF-8; try --binary" in done.stderr


def test_server_that_closes_ends_the_wait_for_more_lines() -> None:
    class Closer(Echo):
        code = 1000

        def on_open(self, client: Any) -> None:
            client.write_message("bye")
            client.close(self.code)

    handler = Closer()
    with running(handler) as server:
        url = f"ws://127.0.0.1:{server.port}/"
        for code, status in ((1000, 0), (1011, 1)):
            handler.code = code
            with subprocess.Popen(
                [*COMMAND, "connect", url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=ENVIRONMENT,
            ) as process:
                # Nothing is written to its input, and that stays open.
                assert process.wait(DEADLINE) == status
                assert process.stdout is not None
                assert process.stderr is not None
                assert process.stdout.read() == "bye\n"
                assert ("1011" in process.stderr.read()) is (status == 1)


def test_reader_that_leaves_ends_it_quietly() -> None:
    with running(Echo()) as server:
        url = f"ws://127.0.0.1:{server.port}/"
        with subprocess.Popen(
            [*COMMAND, "connect", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdin.write(b"one\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"one\n"
            process.stdout.close()
            process.stdin.write(b"two\n")
            process.stdin.flush()
            assert process.wait(DEADLINE) == 0
            assert process.stderr.read() == b""


def test_input_and_output_may_be_closed() -> None:
    with running(Echo()) as server:
        url = f"ws://127.0.0.1:{server.port}/"
        command = shlex.join([*COMMAND, "connect", url, "--wait", "0.1"])
        done = subprocess.run(
            ["sh", "-c", f"{command} <&- >&-"],
            capture_output=True,
            timeout=DEADLINE,
            env=ENVIRONMENT,
        )
        assert (done.returncode, done.stderr) == (0, b"")


@needs_terminal
def test_output_on_a_terminal_is_harmless_though_the_input_is_a_pipe() -> None:
    class Rude(Echo):
        def on_open(self, client: Any) -> None:
            client.write_message("\x1b[2Jgone\x07")
            client.write_message(b"\x1b\xff")
            client.close()

    with running(Rude()) as server:
        ours, theirs = pty.openpty()
        done = subprocess.run(
            [*COMMAND, "connect", f"ws://127.0.0.1:{server.port}/"],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.PIPE,
            timeout=DEADLINE,
            env=ENVIRONMENT,
        )
        os.close(theirs)
        assert (done.returncode, done.stderr) == (0, b"")
        shown = read_terminal(ours, b"ff)")
        assert shown.split() == [b"\\x1b[2Jgone\\x07", b"(1b", b"ff)"]
        os.close(ours)


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


@needs_terminal
def test_terminal_shows_messages_harmless_above_the_line() -> None:
    """What a server sends must not move the cursor, and typing goes on."""

    class Rude(Echo):
        def on_open(self, client: Any) -> None:
            super().on_open(client)
            client.write_message("\x1b[2Jgone \x07")

    with running(Rude()) as server, at_terminal(url_of(server)) as (pid, terminal):
        shown = read_terminal(terminal, b"gone")
        assert b"\\x1b[2Jgone \\x07" in shown
        os.write(terminal, b"typed\n")
        assert b"< typed" in read_terminal(terminal, b"< typed")
        os.write(terminal, b"\xff\n")
        assert b"not sent" in read_terminal(terminal, b"not sent: it is not UTF-8")
        shown = press(terminal, b"\x04")
        assert b"closed: 1000" in shown
        assert b"has ended" not in shown
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@needs_terminal
def test_interrupt_leaves_the_terminal() -> None:
    with running(Echo()) as server, at_terminal(url_of(server)) as (pid, terminal):
        os.write(terminal, b"one\n")
        read_terminal(terminal, b"< one")
        shown = press(terminal, b"\x03")
        assert b"Traceback" not in shown
        assert b"has ended" not in shown
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130


@needs_terminal
def test_any_bytes_may_be_typed_as_binary() -> None:
    binary = "--binary"
    with (
        running(Echo()) as server,
        at_terminal(url_of(server), binary) as (pid, terminal),
    ):
        read_terminal(terminal, b"> ")
        os.write(terminal, b"\xffa\n")
        read_terminal(terminal, b"< (ff 61)")
        press(terminal, b"\x04")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


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


def test_bench_does_not_wait_for_ever(monkeypatch: Any, capsys: Any) -> None:
    class Silent(Echo):
        def on_message(self, msg: Any, client: Any) -> Any:
            return None

    monkeypatch.setattr("simple_ws.cli.bench._TIMEOUT", 0.1)
    with running(Silent()) as server:
        url = f"ws://127.0.0.1:{server.port}/"
        assert main(["bench", url, "-c", "2", "--seconds", "0.1"]) == 1
    shown = capsys.readouterr()
    assert "no echo for 2 connections" in shown.err
    assert "2 lost" in shown.out


def test_server_may_be_stopped_as_soon_as_its_address_is_printed() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with serving("echo", "--port", "0") as (process, _):
            process.send_signal(number)
            assert process.wait(DEADLINE) == 0


def test_asynchronous_handlers_are_served(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import asyncio\n"
        "from simple_ws import WebSocket\n"
        "class Slow(WebSocket):\n"
        "    async def on_message(self, msg, client):\n"
        "        await asyncio.sleep(0)\n"
        "        return msg.upper()\n"
    )
    options = ["serve", "app:Slow", "--port", "0"]
    with serving(*options, cwd=tmp_path) as (process, url):
        with connect(url) as client:
            client.send("abc")
            assert client.recv(DEADLINE) == "ABC"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0


def test_address_of_a_server_with_tls_says_so(tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
        tmp_path / "pair.pem"
    )
    (tmp_path / "app.py").write_text(
        "from simple_ws import Server\n"
        "server = Server('localhost', 0, certfile='pair.pem')\n"
    )
    with serving("serve", "app:server", cwd=tmp_path) as (_, url):
        assert url.startswith("wss://localhost:")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f = int('no number')", "line 1, in <module>"),
        ("open('no such file')", "line 1, in <module>"),
        ("import no_such_module", "line 1, in <module>"),
        ("def f(msg): ...", "f must be a function of (msg, client)"),
        (
            "from simple_ws import WebSocket\n"
            "class f(WebSocket):\n"
            "    def __init__(self, name): ...",
            "'name'",
        ),
        (
            "from simple_ws import WebSocket\n"
            "class f(WebSocket):\n"
            "    def __init__(self): int('no number')",
            "line 3, in __init__",
        ),
    ],
)
def test_faults_of_what_is_served_are_shown(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(text)
    done = run("serve", "app:f", "--port", "0", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    # A traceback is for code of the user.
    assert ("Traceback" in done.stderr) is ("line" in message)


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers need os.fork")
def test_serve_with_workers(tmp_path: Path) -> None:
    text = "import os\ndef f(msg, client):\n    return str(os.getpid())\n"
    (tmp_path / "app.py").write_text(text)
    options = ["serve", "app:f", "--port", "0", "--workers", "2"]
    with serving(*options, cwd=tmp_path) as (process, url):
        with connect(url) as client:
            client.send("x")
            worker = int(client.recv(DEADLINE))
        assert worker != process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers need os.fork")
def test_workers_start_anew_when_a_file_changes(tmp_path: Path) -> None:
    module = tmp_path / "app.py"
    text = "def f(msg, client):\n    return 'one'\n"
    module.write_text(text)
    options = ["serve", "app:f", "--port", "0", "--workers", "2", "--reload"]
    with serving(*options, cwd=tmp_path) as (process, _):
        module.write_text(text.replace("one", "two!"))
        with connect(read_line(process)) as client:
            client.send("x")
            assert client.recv(DEADLINE) == "two!"


def test_wrong_number_of_workers_is_refused(capsys: Any) -> None:
    for value in ("0", "-1", "x"):
        with pytest.raises(SystemExit) as ended:
            main(["serve", "app:f", "--workers", value])
        assert ended.value.code == 2
        assert "at least 1" in capsys.readouterr().err


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


def test_reload_in_the_background_leaves_nobody_behind(tmp_path: Path) -> None:
    """A shell has what it starts with `&` ignore SIGINT."""
    (tmp_path / "app.py").write_text("def f(msg, client):\n    return msg\n")
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        options = ["serve", "app:f", "--port", "0", "--reload"]
        with serving(*options, cwd=tmp_path) as (process, url):
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE) == 0
    finally:
        signal.signal(signal.SIGINT, old)
    with pytest.raises(ConnectionRefusedError):
        connect(url)


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


@pytest.mark.one_backend
def test_control_characters_are_spelled_out() -> None:
    assert for_terminal("a\tb\nc") == "a\tb\nc"
    assert for_terminal("\x1b[31mred\x9b\u202e") == "\\x1b[31mred\\x9b\\u202e"


@pytest.mark.one_backend
def test_percentiles_and_bars() -> None:
    ordered = [0.001 * number for number in range(1, 101)]
    assert percentile(ordered, 0.5) == pytest.approx(0.051)
    assert percentile(ordered, 1.0) == pytest.approx(0.1)
    lines = histogram(ordered)
    assert sum(int(line.split()[-1].replace(",", "")) for line in lines) == 100
    assert histogram([5.0]) == histogram([5.0])
