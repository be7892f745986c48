"""An installation over or under another project's simple_ws 0.3 is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_backend

PACKAGE = Path(__file__).resolve().parents[1] / "simple_ws"

HINT = "pip uninstall simple_ws simple-ws-server"


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A folder in which both are installed, the older one first."""
    folder = tmp_path / "simple_ws"
    shutil.copytree(PACKAGE, folder, ignore=shutil.ignore_patterns("*.so", "*.c"))
    (folder / "WebSocket.py").write_text("class WebSocket: pass\n")
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder), "SIMPLE_WS_EXTENSION": "0"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_import_over_the_older_package_warns_once_and_works(beside: Path) -> None:
    program = beside / "chat.py"
    program.write_text("from simple_ws import Server\nimport simple_ws.aio\nServer()\n")
    done = run(beside, str(program))
    assert done.returncode == 0
    assert done.stderr.count(HINT) == 1
    assert "chat.py:1: RuntimeWarning" in done.stderr


def test_command_under_the_older_package_says_what_to_do(beside: Path) -> None:
    (beside / "simple_ws" / "__init__.py").write_text("from .WebSocket import *\n")
    done = run(beside, "-m", "simple_ws", "--help")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert HINT in done.stderr


def test_installation_alone_says_nothing(beside: Path) -> None:
    (beside / "simple_ws" / "WebSocket.py").unlink()
    assert run(beside, "-W", "error", "-c", "import simple_ws").stderr == ""
