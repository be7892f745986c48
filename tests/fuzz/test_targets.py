"""The fuzz targets hold for their seeds, in a separate process, which has the package
twice, once with each backend."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("run.py")

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.skipif(
        importlib.util.find_spec("simple_ws._speedups") is None,
        reason="both backends are compared: the extension is not built",
    ),
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=55, check=False
    )


def test_every_invariant_holds_for_the_seeds() -> None:
    done = run("--seeds")
    assert done.returncode == 0, done.stderr
    assert "every invariant holds" in done.stdout


def test_input_that_was_found_runs_again(tmp_path: Path) -> None:
    found = tmp_path / "crash"
    found.write_bytes(b"\0\0\x81\x85\0\0\0\0Hello")
    done = run("--target", "server", "--input", str(found))
    assert done.returncode == 0, done.stderr
