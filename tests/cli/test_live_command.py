"""`simple-ws live`, as its users run it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from simple_ws.cli.main import main

pytestmark = pytest.mark.one_backend

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "simple_ws", "live"]
CONFIG = {
    "client": {"insecure": True},
    "channel": {"without_namespace": {"history_size": 5, "history_ttl": "60s"}},
    "health": {"enabled": True},
    "prometheus": {"enabled": True},
    "websocket": {"compression": True},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    return path


def read_line(process: Any) -> str:
    assert select.select([process.stdout], [], [], DEADLINE)[0], "it says nothing"
    line = str(process.stdout.readline().strip())
    assert line, process.stderr.read()
    return line


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[tuple[Any, str]]:
    """The server, and its address."""
    with subprocess.Popen(
        [*COMMAND, "--host", "127.0.0.1", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    ) as process:
        try:
            yield process, read_line(process)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=DEADLINE)


def ask(peer: Any, number: int, method: str, **params: Any) -> Any:
    peer.send(json.dumps({"id": number, method: params}))
    while (reply := json.loads(peer.recv(DEADLINE))).get("id") != number:
        pass
    return reply.get(method, reply)


def talk(address: str) -> dict[str, Any]:
    """Publish something; return the history."""
    with connect(f"{address}connection/websocket") as peer:
        assert ask(peer, 1, "connect")["ping"] == 25
        assert ask(peer, 2, "publish", channel="x", data={"a": 1}) == {}
        found = ask(peer, 3, "history", channel="x", limit=10)
        assert isinstance(found, dict)
        return found


def get(address: str, path: str) -> str:
    url = address.replace("ws://", "http://") + path
    with urllib.request.urlopen(url, timeout=DEADLINE) as response:
        text: str = response.read().decode()
    return text


@pytest.mark.parametrize("workers", ["1", "2"])
def test_file_is_served(config: Path, workers: str) -> None:
    with serving("-c", str(config), "--workers", workers) as (process, address):
        found = talk(address)
        assert [each["data"] for each in found["publications"]] == [{"a": 1}]
        assert json.loads(get(address, "health")) == {}
        assert "simple_ws_" in get(address, "metrics")
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=DEADLINE)
    warning = "websocket.compression is not supported and was ignored"
    assert log.count(warning) == 1
    assert process.returncode == 0


def test_environment_without_a_file() -> None:
    environment = {
        "CENTRIFUGO_CLIENT_INSECURE": "true",
        "CENTRIFUGO_CHANNEL_WITHOUT_NAMESPACE_HISTORY_SIZE": "1",
        "CENTRIFUGO_CHANNEL_WITHOUT_NAMESPACE_HISTORY_TTL": "60s",
    }
    with serving(**environment) as (_, address):
        assert len(talk(address)["publications"]) == 1


def test_nobody_may_connect_by_default() -> None:
    with serving() as (_, address), connect(f"{address}connection/websocket") as peer:
        peer.send('{"id": 1, "connect": {}}')
        with pytest.raises(ConnectionClosed) as caught:
            peer.recv(DEADLINE)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 3501


def test_check_reads_and_ends(config: Path, capsys: Any) -> None:
    assert main(["live", "--config", str(config), "--check"]) == 0
    config.write_text('{"client": {"insecure": 5}}')
    assert main(["live", "--config", str(config), "--check"]) == 2
    said = capsys.readouterr().err
    assert f"{config}: client.insecure must be true or false, not 5" in said


def test_file_that_is_not_there(tmp_path: Path, capsys: Any) -> None:
    assert main(["live", "-c", str(tmp_path / "no.json")]) == 2
    assert "no.json: No such file" in capsys.readouterr().err


def test_log_goes_to_its_file(config: Path, tmp_path: Path) -> None:
    path = tmp_path / "live.log"
    environment = {"CENTRIFUGO_LOG_FILE": str(path), "CENTRIFUGO_LOG_LEVEL": "warn"}
    with serving("-c", str(config), **environment) as (process, address):
        talk(address)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=DEADLINE)
    assert log == ""
    lines = path.read_text().splitlines()
    assert [line.split("WARNING ")[1] for line in lines] == [
        "websocket.compression is not supported and was ignored",
        "client.insecure is on: all clients may do everything",
    ]
