"""Start and stop the programs of a conformance run.

Each runs in a separate session, so that stopping it stops its children too (pip starts
compilers) and nothing else. Every wait has a deadline, a ``time.monotonic()`` value.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# Seconds between two looks at a process: small beside any run, cheap on a shared core.
POLL_INTERVAL = 0.1

# Seconds a program may take to leave after SIGTERM before it is killed.
STOP_GRACE = 10.0

Process = subprocess.Popen[bytes]


class OutOfTime(Exception):
    """The time allowed for the whole run is over."""


def start(
    command: Sequence[str | Path], log: Path, env: Mapping[str, str], cwd: Path
) -> Process:
    """Start a program whose output, both streams, is appended to ``log``."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )


def run(
    command: Sequence[str | Path],
    log: Path,
    env: Mapping[str, str],
    cwd: Path,
    deadline: float,
) -> int:
    """Run a program to its end and return its exit status.

    Raises:
        OutOfTime: The deadline passed; the program has been killed.
    """
    process = start(command, log, env, cwd)
    try:
        while process.poll() is None:
            pause(deadline)
    finally:
        kill(process)
    return process.returncode


def pause(deadline: float) -> None:
    """Sleep for one poll interval.

    Raises:
        OutOfTime: The deadline has passed.
    """
    if time.monotonic() >= deadline:
        raise OutOfTime
    time.sleep(POLL_INTERVAL)


def terminate(process: Process) -> int | None:
    """Ask a program to leave; return its status, None if it had to be killed."""
    process.terminate()
    try:
        return process.wait(STOP_GRACE)
    except subprocess.TimeoutExpired:
        return None
    finally:
        kill(process)


def kill(process: Process) -> None:
    """End a program, with its children, that has not ended yet."""
    if process.poll() is None:
        # Not waited for yet, so the number is still ours and nobody else's.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
