"""Public import paths still work after the modules were moved into folders."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import simple_ws

pytestmark = pytest.mark.one_backend

ROOT = Path(__file__).resolve().parents[1]

#: Names of version 0.1 that the reference named, by the module they were imported from.
NAMES = {
    "simple_ws": (
        "BACKEND AuthenticationError Client CloseCause CloseCode ConnectError "
        "ConnectTimeout ConnectionClosed Deflate FirstMessageAuth HandshakeError "
        "HandshakeRefused InvalidData InvalidHandshake InvalidState InvalidURI "
        "JSONMessages MessageTooBig Middleware ProtocolError ProxyError Radio Request "
        "Response SendStatus Server TLSError WebSocket WebSocketError connect "
        "in_thread __version__"
    ),
    "simple_ws.aio": "Backoff Connection connect",
    "simple_ws.client": "Connection connect",
    "simple_ws.constants": "CloseCause CloseCode Opcode SendStatus State",
    "simple_ws.deflate": "Agreement Deflate negotiate parse_extensions",
    "simple_ws.errors": (
        "AuthenticationError ConnectError ConnectTimeout ConnectionClosed "
        "HandshakeError HandshakeRefused InvalidData InvalidHandshake InvalidState "
        "InvalidURI MessageTooBig ProtocolError ProxyError RateExceeded TLSError "
        "WebSocketError"
    ),
    "simple_ws.http": "Fields Headers Request Response",
    "simple_ws.http11": "Fields Headers Request Response",
    "simple_ws.pytest_plugin": "ws_server",
    "simple_ws.schedule": "Job",
    "simple_ws.server": "Server",
    "simple_ws.speedups": (
        "BACKEND ConnectionCore Deflater Inflater Utf8Validator apply_mask build_frame "
        "parse_header"
    ),
    "simple_ws.testing": "Clock HTTPAnswer TestClient TestServer",
    "simple_ws.cli": "main",
}


@pytest.mark.parametrize("module", NAMES)
def test_names_are_imported_from_where_they_were(module: str) -> None:
    found = importlib.import_module(module)
    missing = [name for name in NAMES[module].split() if not hasattr(found, name)]
    assert not missing


#: What a plain server does not need, and what takes long to import: `dataclasses` with
#: what it makes of our classes 15 ms, `uuid` 2, `hashlib` 3 (in C we have SHA-1).
_NOT_NEEDED = (
    "asyncio dataclasses datetime difflib email inspect ssl subprocess tempfile uuid "
    "hiredis redis simple_ws.aio simple_ws.asgi simple_ws.cli simple_ws.client "
    "simple_ws.live simple_ws.publisher simple_ws.pytest_plugin simple_ws.testing "
    "simple_ws.tokens simple_ws.cluster.broker simple_ws.cluster.broker_process "
    "simple_ws.cluster.engine simple_ws.cluster.engines simple_ws.cluster.envelope "
    "simple_ws.cluster.node simple_ws.cluster.process simple_ws.cluster.redis_engine "
    "simple_ws.cluster.slot simple_ws.cluster.supervisor simple_ws.http.static "
    "simple_ws.http.wsgi simple_ws.ops.collector simple_ws.ops.dashboard "
    "simple_ws.ops.histograms simple_ws.ops.metrics simple_ws.ops.prometheus "
    "simple_ws.protocol.client_handshake simple_ws.protocol.uri"
)
_NOT_NEEDED_BESIDE_C = "hashlib simple_ws._fallback"


@pytest.mark.parametrize("extension", ["0", "1"])
def test_a_server_imports_what_it_needs(extension: str) -> None:
    if extension == "1" and importlib.util.find_spec("simple_ws._speedups") is None:
        pytest.skip("the extension is not built")
    # Without `site`: an editable installation would import some of it.
    code = "import sys, simple_ws; simple_ws.Server(); print(*sys.modules)"
    command = [sys.executable, "-S", "-c", code]
    package = Path(simple_ws.__file__).resolve().parents[1]
    environment = {
        **os.environ,
        "PYTHONPATH": str(package),
        "SIMPLE_WS_EXTENSION": extension,
    }
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    )
    loaded = set(done.stdout.split())
    assert "simple_ws.server.server" in loaded
    assert not set(_NOT_NEEDED.split()) & loaded
    if extension == "1":
        assert not set(_NOT_NEEDED_BESIDE_C.split()) & loaded


def test_a_name_that_is_imported_when_used_is_listed_and_kept() -> None:
    code = (
        "import simple_ws; names = dir(simple_ws); found = simple_ws.connect; "
        "print('connect' in names, vars(simple_ws)['connect'] is found)"
    )
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["True", "True"]
    with pytest.raises(AttributeError, match="no attribute 'Sever'"):
        _ = simple_ws.Sever  # type: ignore[attr-defined]


def test_one_object_has_one_identity() -> None:
    assert simple_ws.connect is importlib.import_module("simple_ws.client").connect
    assert simple_ws.Server is importlib.import_module("simple_ws.server").Server
    assert simple_ws.Request is importlib.import_module("simple_ws.http11").Request


@pytest.mark.parametrize("module", ["simple_ws", "simple_ws.cli"])
def test_command_line_is_started_as_it_was(module: str) -> None:
    if module == "simple_ws":
        command = [sys.executable, "-m", module, "info"]
    else:
        code = "import sys; from simple_ws.cli import main; sys.exit(main(['info']))"
        command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert simple_ws.__version__ in done.stdout


@pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="no checkout")
def test_entry_points_are_those_of_before() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"] == {"simple-ws": "simple_ws.cli:main"}
    assert project["entry-points"]["pytest11"] == {
        "simple_ws.pytest_plugin": "simple_ws.pytest_plugin"
    }
