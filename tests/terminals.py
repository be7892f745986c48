"""`simple-ws connect` at a pseudo-terminal, for tests."""

from __future__ import annotations

import os
import pty
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from command_line import COMMAND, DEADLINE, ENVIRONMENT


def why_no_terminal() -> str:
    """What the system says when asked for a pseudo-terminal; nothing if it has one."""
    try:
        ends = pty.openpty()
    except OSError as error:  # a container without /dev/ptmx, or all are taken
        return str(error)
    for end in ends:
        os.close(end)
    return ""


NO_TERMINAL = why_no_terminal()
needs_terminal = pytest.mark.skipif(
    NO_TERMINAL != "", reason=f"no pseudo-terminal can be opened: {NO_TERMINAL}"
)


@contextmanager
def at_terminal(*arguments: str) -> Iterator[tuple[int, int]]:
    """`connect` with a terminal of its own: the process and our end of that."""
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover
        command = [*COMMAND, "connect", *arguments]
        # Without a locale Python takes UTF-8, and lets bytes that are none pass.
        locale = {name: "" for name in ENVIRONMENT if name.startswith("LC_")}
        os.execve(sys.executable, command, {**ENVIRONMENT, **locale, "LANG": "C"})
    try:
        yield pid, terminal
    finally:
        os.close(terminal)  # that ends it, if it has not ended


def press(terminal: int, key: bytes) -> bytes:
    """Press a key that ends the program, until it does; return what is shown.

    More than once: the terminal loses a key that comes between two lines.
    """
    shown, deadline = b"", time.monotonic() + DEADLINE
    while True:
        assert time.monotonic() < deadline, shown
        try:
            os.write(terminal, key)
            while select.select([terminal], [], [], 2)[0]:
                piece = os.read(terminal, 4096)
                shown += piece
                if not piece:
                    return shown
        except OSError:  # as Linux says that nobody is there
            return shown


def read_terminal(terminal: int, wanted: bytes) -> bytes:
    shown, deadline = b"", time.monotonic() + DEADLINE
    while wanted not in shown:
        left = deadline - time.monotonic()
        assert left > 0, shown
        if select.select([terminal], [], [], left)[0]:
            shown += os.read(terminal, 4096)
    return shown
