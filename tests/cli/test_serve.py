"""`simple-ws serve`: what can be served, and where and how."""

from __future__ import annotations

import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import DEADLINE, run, serving
from websockets.sync.client import connect, unix_connect

from simple_ws.cli.env_file import parse
from simple_ws.cli.main import main
from simple_ws.cli.values import UsageError

pytestmark = pytest.mark.one_backend

PROGRAM = """\
import os
from simple_ws import Server, WebSocket

class Room(WebSocket):
    def on_message(self, msg, client):
        return os.environ.get("GREETING", "hello") + " " + msg

def make_server():
    server = Server("127.0.0.1", 0)
    server.mount("*", Room())
    return server

def make_room():
    return Room

class Site(Server):
    def __init__(self):
        super().__init__("127.0.0.1", 0)
        self.mount("*", Room())

def either(*arguments):
    return "either " + arguments[0]

def nothing():
    return None

async def later():
    return Room()

def broken():
    return int("no number")

server = make_server()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(PROGRAM)
    return tmp_path


@pytest.fixture
def here(folder: Path, monkeypatch: Any) -> Iterator[Path]:
    """The same for a command in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    level = logging.getLogger().level
    yield folder
    sys.modules.pop("app", None)
    logging.getLogger().setLevel(level)


def reply_of(client: Any) -> str:
    client.send("x")
    return str(client.recv(DEADLINE))


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("make_server", "hello x"),
        ("make_room", "hello x"),
        ("Site", "hello x"),
        ("either", "either x"),
    ],
)
def test_factories_are_called_and_callbacks_are_not(
    name: str, reply: str, folder: Path
) -> None:
    with (
        serving("serve", f"app:{name}", "--port", "0", cwd=folder) as (_, url),
        connect(url) as client,
    ):
        assert reply_of(client) == reply


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["app:nothing"], "app:nothing() must return a handler, a Server"),
        (["app:later"], "app:later() is async"),
        (["app:server", "--path", "/a"], "app:server is a Server, which has paths"),
        (["app:Room", "--keyfile", "key.pem"], "--keyfile needs --certfile"),
        (["app:Room", "--unix", "s", "--port", "1"], "either --unix or --port"),
        (["app:Room", "--unix", "s", "--fd", "3"], "either --unix or --fd"),
        (["app:Room", "--fd", "3", "--host", "h"], "either --fd or --host"),
        (["app:Room", "--fd", "99999"], "--fd 99999: Bad file descriptor"),
        (["app:Room", "--env-file", "none.env"], "--env-file none.env: No such file"),
        (["app:Room", "--certfile", "none.pem"], "none.pem"),
    ],
)
def test_what_does_not_go_is_said(
    arguments: list[str], message: str, here: Path, capsys: Any
) -> None:
    assert main(["serve", *arguments]) in (1, 2)
    assert message in capsys.readouterr().err


def test_factory_that_raises_shows_its_traceback(folder: Path) -> None:
    done = run("serve", "app:broken", cwd=folder)
    assert done.returncode == 1
    assert "in broken" in done.stderr


def test_verbose_and_a_level_contradict_each_other(here: Path, capsys: Any) -> None:
    arguments = ["--verbose", "serve", "app:Room", "--log-level", "error"]
    assert main(arguments) == 2
    assert "either --verbose or --log-level" in capsys.readouterr().err


def test_arguments_override_the_address_of_a_server(folder: Path) -> None:
    arguments = ["serve", "app:server", "--host", "localhost", "--port", "0"]
    with serving(*arguments, cwd=folder) as (_, url):
        assert url.startswith("ws://localhost:")
        with connect(url) as client:
            assert reply_of(client) == "hello x"


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")
@pytest.mark.parametrize("name", ["Room", "server"])
def test_unix_socket(name: str, folder: Path) -> None:
    arguments = ["serve", f"app:{name}", "--unix", "ws.sock"]
    with serving(*arguments, cwd=folder) as (process, where):
        assert where == "unix:ws.sock"
        with unix_connect(str(folder / "ws.sock")) as client:
            assert reply_of(client) == "hello x"
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 0
    assert not (folder / "ws.sock").exists()


@pytest.mark.skipif(os.name == "nt", reason="no descriptors are inherited")
@pytest.mark.parametrize("more", [[], ["--workers", "2"], ["--reload"]])
def test_inherited_descriptor(more: list[str], folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.fileno()
        arguments = ["serve", "app:make_server", "--fd", str(number), *more]
        with serving(*arguments, cwd=folder, pass_fds=[number]) as (_, url):
            assert url.endswith(f":{listening.getsockname()[1]}/")
            with connect(url) as client:
                assert reply_of(client) == "hello x"


@pytest.mark.parametrize("name", ["Room", "server"])
def test_certificate(name: str, folder: Path) -> None:
    trustme = pytest.importorskip("trustme")
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    context = ssl.create_default_context()
    ca.configure_trust(context)
    pair = ("--certfile", "cert.pem", "--keyfile", "key.pem", "--port", "0")
    with serving("serve", f"app:{name}", *pair, cwd=folder) as (_, url):
        assert url.startswith("wss://")
        with connect(url, ssl=context) as client:
            assert reply_of(client) == "hello x"


def test_variables_of_a_file_are_set_before_the_module_is_imported(
    folder: Path,
) -> None:
    (folder / ".env").write_text("# for tests\nGREETING='good day'\n")
    arguments = ["serve", "app:Room", "--port", "0", "--env-file", ".env"]
    with serving(*arguments, cwd=folder) as (_, url), connect(url) as client:
        assert reply_of(client) == "good day x"


def test_variables_that_are_set_are_kept(here: Path, monkeypatch: Any) -> None:
    (here / ".env").write_text("GREETING=other\nNEW_ONE=new\n")
    monkeypatch.setenv("GREETING", "mine")
    monkeypatch.delenv("NEW_ONE", raising=False)
    main(["serve", "app:nothing", "--env-file", ".env"])
    assert (os.environ["GREETING"], os.environ.pop("NEW_ONE")) == ("mine", "new")


def test_lines_of_an_environment_file() -> None:
    text = '\n# a\n A = 1 \nexport B="two words"\nC=\'x="y"\'\nD=\nA=3 # kept\n'
    expected = {"A": "3 # kept", "B": "two words", "C": 'x="y"', "D": ""}
    assert parse(text, ".env") == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("secret", ".env:1: expected NAME=value"),
        ("1A=secret", ".env:1: expected NAME=value"),
        ("A='secret", ".env:1: A: the quotes do not match"),
        ("A='sec'ret'", ".env:1: A: the quotes do not match"),
    ],
)
def test_malformed_line_is_told_without_its_value(line: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(line, ".env")
    assert str(refused.value) == message


def test_log_level(folder: Path) -> None:
    with serving("serve", "app:Room", "--port", "0", cwd=folder) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert "listening on" in process.communicate(timeout=DEADLINE)[1]
    arguments = ["serve", "app:Room", "--port", "0", "--log-level", "error"]
    with serving(*arguments, cwd=folder) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=DEADLINE)[1] == ""
