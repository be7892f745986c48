"""`--reload`: run the same command as a child, anew whenever a source file changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["keep_running"]

#: Seconds between two looks at the files.
_INTERVAL = 0.3
_SUFFIXES = frozenset({".py", ".html", ".css", ".js"})
#: Folders with very many files that are nobody's sources.
_SKIPPED = frozenset({"__pycache__", "node_modules", "build", "dist", "site-packages"})


def keep_running(folders: Iterable[Path]) -> int:
    """Supervise until the command ends by itself or we are told to stop.

    Args:
        folders: whose source files are watched.

    Returns:
        The exit code of the last run; 0 if we are told to stop, as without --reload.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--reload"]
    command = [sys.executable, "-m", "simple_ws", *arguments]
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run_anew(command, list(folders))
    except KeyboardInterrupt:
        return 0


def _run_anew(command: list[str], folders: list[Path]) -> int:
    """Run a command until it ends by itself; its exit code."""
    seen = _stamps(folders)
    while True:
        child = subprocess.Popen(command)
        try:
            code = _watch(child, folders, seen)
        finally:
            _end(child)
        if code is not None and code != 1:
            return code
        if code == 1:  # an error in the code: wait until somebody mends it
            while _stamps(folders) == seen:
                time.sleep(_INTERVAL)
        seen = _stamps(folders)
        print("a source file has changed: starting anew", file=sys.stderr)


def _watch(
    child: subprocess.Popen[bytes], folders: list[Path], seen: dict[str, int]
) -> int | None:
    """Wait for the end of a run (its code) or a change (None)."""
    while child.poll() is None:
        if _stamps(folders) != seen:
            return None
        time.sleep(_INTERVAL)
    return child.returncode


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _stamps(folders: Iterable[Path]) -> dict[str, int]:
    """When each source file was changed."""
    return {path: stamp for folder in folders for path, stamp in _walk(str(folder))}


def _walk(folder: str) -> Iterator[tuple[str, int]]:
    for place, names, files in os.walk(folder):
        names[:] = [n for n in names if n not in _SKIPPED and not n.startswith(".")]
        for file in files:
            if os.path.splitext(file)[1] in _SUFFIXES:
                path = os.path.join(place, file)
                try:
                    yield path, os.stat(path).st_mtime_ns
                except OSError:
                    continue  # it has just been removed
