"""The command line in processes of its own, for tests."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
def serving(*arguments: str, cwd: Path = ROOT, **how: Any) -> Iterator[tuple[Any, str]]:
    """A command that prints its address and serves until it is told to stop."""
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        cwd=cwd,
        **how,
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
