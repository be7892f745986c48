"""`--reload`: run the same command as a child, again whenever a source file changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

__all__ = ["keep_running"]

#: Seconds between two checks of the files.
_INTERVAL = 0.3
_SUFFIXES = frozenset({".py", ".html", ".css", ".js"})
#: Folders with very many files that are not the user's sources.
_SKIPPED = frozenset({"__pycache__", "node_modules", "build", "dist", "site-packages"})


def keep_running(folders: Iterable[Path], descriptors: Sequence[int] = ()) -> int:
    """Supervise until the command ends by itself or a signal says to stop.

    Args:
        folders: their source files are watched.
        descriptors: which the command inherits.

    Returns:
        The exit code of the last run; 0 after a signal, as without --reload.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--reload"]
    command = [sys.executable, "-m", "simple_ws", *arguments]
    told: list[int] = []  # signals received
    for number in (signal.SIGINT, signal.SIGTERM):
        # No exception: while a child is being started it would be left behind. And
        # SIGINT is ignored if this process was started in the background.
        signal.signal(number, lambda number, _: told.append(number))
    folders = list(folders)
    seen = _stamps(folders)
    while not told:
        child = subprocess.Popen(command, pass_fds=descriptors)
        try:
            code = _watch(child, folders, seen, told)
        finally:
            _end(child)
        if code is not None and code != 1:
            return code
        if code == 1:  # an error in the code: wait until it is fixed
            while _stamps(folders) == seen and not told:
                time.sleep(_INTERVAL)
        seen = _stamps(folders)
        if not told:
            print("a source file has changed: restarting", file=sys.stderr)
    return 0


def _watch(
    child: subprocess.Popen[bytes],
    folders: list[Path],
    seen: dict[str, int],
    told: list[int],
) -> int | None:
    """Wait for the end of a run (its code), a change or a signal (None)."""
    while child.poll() is None:
        if told or _stamps(folders) != seen:
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


def _stamps(folders: Iterable[Path]) -> dict[str, int]:
    """The modification time of each source file."""
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
                    continue  # it was removed just now
