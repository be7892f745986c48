"""`simple-ws connect`: ways to connect, forms of messages, and waiting for clients."""

from __future__ import annotations

import os
import select
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, DEADLINE, ENVIRONMENT, read_line, run
from harness import Echo, running
from terminals import at_terminal, needs_terminal, press, read_terminal
from websockets.sync.client import connect

from simple_ws import Response, Server
from simple_ws.cli.main import main

pytestmark = pytest.mark.one_backend


class Greeter(Echo):
    """Says hello, and echoes."""

    def on_open(self, client: Any) -> None:
        super().on_open(client)
        client.write_message('{"a": [1,\n2]}')


def address(server: Any) -> str:
    return f"ws://127.0.0.1:{server.port}/"


@contextmanager
def started(server: Server, handler: Echo | None = None) -> Iterator[None]:
    """A server in a thread, which may have any address."""
    server.mount("*", handler or Echo())
    server.start()
    try:
        yield
    finally:
        server.stop(drain=0)


@contextmanager
def command(*arguments: str) -> Iterator[Any]:
    """The command with pipes; ended at the end."""
    with subprocess.Popen(
        [*COMMAND, "connect", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def told(process: Any, wanted: str) -> str:
    """The next line of standard error that has a text."""
    while True:
        assert select.select([process.stderr], [], [], DEADLINE)[0], "it says nothing"
        line = os.read(process.stderr.fileno(), 4096).decode()
        assert line, "it has ended"
        if wanted in line:
            return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a URL, or --listen PORT, is needed"),
        (["ws://h/", "--listen", "0"], "either --listen or a URL"),
        (["--listen", "0", "--ping-interval", "1"], "--listen or --ping-interval"),
        (["--listen", "0", "--reconnect"], "either --listen or --reconnect"),
        (["--listen", "0", "--key", "k"], "--key needs --cert"),
        (["ws://h/", "--insecure"], "--insecure needs an address that begins with wss"),
        (["ws://h/", "--ca", "x"], "--ca needs an address that begins with wss"),
        (["wss://h/", "--insecure", "--ca", "x"], "either --insecure or --ca"),
        (["wss://h/", "--key", "x"], "--key needs --cert"),
        (["wss://h/", "--ca", "no/such"], "--ca no/such: No such file"),
        (["wss://h/", "--cert", "no/such"], "--cert no/such: No such file"),
        (["ws://h/", "--proxy", "ftp://p"], "ftp"),
        (["ws://h/", "--unix", "s", "--proxy", "http://p"], "unix"),
    ],
)
def test_arguments_that_do_not_go_together(
    arguments: list[str], message: str, capsys: Any
) -> None:
    assert main(["connect", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("certificates")
    trustme = pytest.importorskip("trustme", reason="cryptography has no wheel here")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("127.0.0.1", "device@example.com"):
        issued = ca.issue_cert(name)
        issued.private_key_and_cert_chain_pem.write_to_path(folder / f"{name[:6]}.pem")
        issued.private_key_pem.write_to_path(folder / f"{name[:6]}.key")
        issued.cert_chain_pems[0].write_to_path(folder / f"{name[:6]}.cert")
    return folder


def test_certificates(certificates: Path) -> None:
    authority = str(certificates / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority)
    context.load_cert_chain(certificates / "127.0..pem")
    context.verify_mode = ssl.CERT_REQUIRED
    pair = ["--cert", str(certificates / "device.cert")]
    pair += ["--key", str(certificates / "device.key")]
    with running(Echo(), ssl=context) as server:
        url = f"wss://127.0.0.1:{server.port}/"
        refused = run("connect", url, *pair)
        assert refused.returncode == 3
        assert "is not accepted" in refused.stderr
        assert "; --ca or --insecure may help\n" in refused.stderr
        for trust in (["--insecure"], ["--ca", authority]):
            done = run("connect", url, "--once", "-x", "a", *trust, *pair)
            assert (done.returncode, done.stdout) == (0, "a\n")
        assert run("connect", url, "--insecure").returncode != 0


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "give credentials: --header 'Authorization: ...' or user:password@host"),
        (403, "the server may ask for another --origin or other credentials"),
    ],
)
def test_advice_is_for_the_command_line(status: int, advice: str) -> None:
    class Refusing(Echo):
        def on_request(self, request: Any) -> Any:
            return Response(status)

    with running(Refusing()) as server:
        done = run("connect", address(server))
        assert done.returncode == 3
        assert done.stderr.endswith(f"; {advice}\n")


def test_advice_about_a_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ws_proxy", "ftp://proxy")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert main(["connect", "ws://example.com/"]) == 3
    told = capsys.readouterr().err
    assert "; give --proxy http://host:port to use another one, or --proxy none" in told


@pytest.mark.skipif(os.name == "nt", reason="no Unix sockets")
def test_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "ws.sock")
    with started(Server(unix=path)):
        done = run("connect", "ws://localhost/", "--unix", path, "--once", given="a\n")
        assert (done.returncode, done.stdout) == (0, "a\n")


def test_proxy_and_none() -> None:
    with running(Echo()) as server:
        url = address(server)
        # A proxy that only echoes answers our CONNECT with a refusal.
        refused = run("connect", url, "--proxy", f"http://127.0.0.1:{server.port}")
        assert refused.returncode == 3
        assert "proxy" in refused.stderr
        done = run("connect", url, "--proxy", "none", "--once", "-x", "a")
        assert (done.returncode, done.stdout) == (0, "a\n")


def test_first_messages_and_once() -> None:
    arguments = ("-x", "one", "--send", "two", "--once")
    with running(Echo()) as server, command(address(server), *arguments) as process:
        # Its input stays open.
        assert process.wait(DEADLINE) == 0
        assert process.stdout.read() == "one\n"


def test_once_without_a_message_failed() -> None:
    class Closer(Echo):
        def on_open(self, client: Any) -> None:
            client.close()

    with running(Closer()) as server:
        done = run("connect", address(server), "--once")
        assert (done.returncode, done.stdout) == (1, "")
        assert "no message has arrived" in done.stderr


def test_pings_are_sent_at_the_interval() -> None:
    pinged = threading.Event()

    class Pinged(Echo):
        def on_ping(self, client: Any) -> None:
            pinged.set()

    arguments = ("--ping-interval", "0.05")
    with running(Pinged()) as server, command(address(server), *arguments):
        assert pinged.wait(DEADLINE)


def test_messages_as_json_are_one_line_each() -> None:
    with running(Greeter()) as server:
        done = run("connect", address(server), "--json", "--wait", "0.3", given='"x"\n')
        assert (done.returncode, done.stdout) == (0, '{"a": [1, 2]}\n"x"\n')
        wrong = run("connect", address(server), "--json", given="{a}\n")
        assert wrong.returncode == 1
        assert "not JSON: {a}" in wrong.stderr


def test_message_that_is_not_json_is_told() -> None:
    class Plain(Echo):
        def on_open(self, client: Any) -> None:
            client.write_message("plain\x1b")

    with running(Plain()) as server:
        done = run("connect", address(server), "--json")
        assert (done.returncode, done.stdout) == (1, "")
        assert "a message that arrived is not JSON: plain\\x1b" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX")
def test_program_reads_and_writes_messages() -> None:
    class Asks(Echo):
        def on_open(self, client: Any) -> None:
            client.write_message("2 + 3")

        def on_message(self, msg: Any, client: Any) -> None:
            client.write_message("thanks for " + msg)
            client.close()

    program = 'read line; echo "$(($line))"; read line; echo "$line" >&2'
    with running(Asks()) as server:
        done = run("connect", address(server), "--exec", program, "--wait", "20")
        assert (done.returncode, done.stderr) == (0, "thanks for 5\n")
        assert run("connect", address(server), "--exec", "exit 3").returncode == 1


def test_reconnect() -> None:
    """A server that is gone, and comes back, at the same port."""
    opened = threading.Semaphore(0)

    class Counting(Echo):
        def on_open(self, client: Any) -> None:
            super().on_open(client)
            opened.release()

    with running(Counting()) as server:
        port = server.port
        process = subprocess.Popen(
            [*COMMAND, "connect", address(server), "--reconnect", "-x", "first"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        assert opened.acquire(timeout=DEADLINE)
        assert read_line(process) == "first"
    with process:
        assert "connecting again in" in told(process, "closed with 1001")
        with started(Server("127.0.0.1", port), Counting()):
            assert opened.acquire(timeout=DEADLINE)
            assert read_line(process) == "first"  # sent again, each time it opens
            process.stdin.write("more\n")
            process.stdin.flush()
            assert read_line(process) == "more"
            process.send_signal(signal.SIGINT)
            assert process.wait(DEADLINE) == 130


def test_reconnect_gives_up_where_it_is_of_no_use() -> None:
    class Closed(Echo):
        def on_request(self, request: Any) -> bool:
            return False

    with running(Closed()) as server:
        done = run("connect", address(server), "--reconnect")
        assert done.returncode == 3
        assert "403" in done.stderr


def test_listen() -> None:
    with command("--listen", "0", "--subprotocol", "v1", "-x", "welcome") as process:
        url = told(process, "listening on").split()[2]
        process.stdin.write("to all\n")  # waits for somebody
        process.stdin.flush()
        with connect(url, subprotocols=["v1"]) as client:  # type: ignore[list-item]
            assert client.subprotocol == "v1"
            assert client.recv(DEADLINE) == "welcome"
            assert client.recv(DEADLINE) == "to all"
            client.send("hello")
            assert read_line(process) == "hello"
        assert "client 1 has left: 1000" in told(process, "has left")
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE) == 130


def test_listen_with_a_certificate(certificates: Path) -> None:
    pair = ["--cert", str(certificates / "127.0..pem")]
    with command("--listen", "0", *pair, "--once") as process:
        url = told(process, "listening on").split()[2]
        assert url.startswith("wss://")
        done = run("connect", url, "--insecure", "-x", "hello", "--wait", "0")
        assert done.returncode == 0
        assert process.wait(DEADLINE) == 0
        assert process.stdout.read() == "hello\n"


@needs_terminal
def test_commands_at_the_prompt() -> None:
    closed: list[Any] = []

    class Closing(Greeter):
        def on_close(self, client: Any) -> None:
            closed.append((client.close_code, client.close_reason))

    with (
        running(Closing()) as server,
        at_terminal(address(server), "--json") as (
            pid,
            terminal,
        ),
    ):
        # JSON is indented for people.
        assert b'< {\r\n  "a": [' in read_terminal(terminal, b"]\r\n}")
        for typed, shown in (
            (b"/help", b"//ping"),
            (b"/ping x", b"pong after"),
            (b"/binary 00 ff", b"< (00 ff)"),
            (b"/binary xyz", b"expected bytes such as 00 ff, not 'xyz'"),
            (b"/close 1005", b"not sent: "),
            (b"/close now", b"a close code is a number, not 'now'"),
            (b"no json", b"not sent: not JSON: no json"),
            (b'"/nick"', b'< "/nick"'),
        ):
            os.write(terminal, typed + b"\n")
            assert shown in read_terminal(terminal, shown)
        os.write(terminal, b"/close 4001 good bye\n")
        assert b"closed: 4001" in press(terminal, b"\x04")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert closed == [(4001, "good bye")]


@needs_terminal
def test_other_lines_that_begin_with_a_slash_are_sent() -> None:
    with running(Echo()) as server, at_terminal(address(server)) as (pid, terminal):
        os.write(terminal, b"/nick ann\n//ping\n")
        shown = read_terminal(terminal, b"< /ping")
        assert b"< /nick ann" in shown
        press(terminal, b"\x04")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@needs_terminal
def test_listening_at_a_terminal_says_who_says_what() -> None:
    with at_terminal("--listen", "0") as (pid, terminal):
        shown = read_terminal(terminal, b"Ctrl-D")
        url = shown.split(b"listening on ")[1].split()[0].rstrip(b";").decode()
        with connect(url) as client:
            read_terminal(terminal, b"client 1 has connected")
            client.send("hello")
            read_terminal(terminal, b"1 < hello")
            os.write(terminal, b"/ping\n")
            read_terminal(terminal, b"pong of client 1")
            os.write(terminal, b"bye\n")
        read_terminal(terminal, b"client 1 has left")
        press(terminal, b"\x04")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
