"""Forking a process that serves, and what it does before and after that.

The child leaves the parent's signal handlers, descriptors and clean-up behind: it ends
by `os._exit`, so neither `finally` blocks of the program that called `run` nor its
`atexit` functions run a second time.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

__all__ = [
    "CANNOT_START",
    "fork",
    "ignore",
    "leave_signals",
    "reap",
    "serve_and_exit",
    "show_hangs",
]

logger = logging.getLogger("simple_ws")

#: Exit code of a worker that could not begin to serve.
CANNOT_START = 3
#: `prctl`: the signal that the system sends when the parent ends (linux/prctl.h).
_PR_SET_PDEATHSIG = 1

#: Signals that the supervisor handles, and a worker does not.
SUPERVISED = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD")
    if hasattr(signal, name)
)


def fork(child: Callable[[], int]) -> int:
    """Run a function in a new process, which ends with the code that it returns.

    Signals wait until the child has handlers of its own.

    Args:
        child: called in the new process.

    Returns:
        The new process, in this one.

    Raises:
        OSError: The system has no room for another process.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # None, or closed
            stream.flush()  # or both processes would write what it holds
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SUPERVISED)
    try:
        pid = os.fork()
        if pid:
            return pid
    finally:
        if os.getpid() == parent:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    code = 1
    try:
        leave_signals()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _end_with(parent)
        code = child()
    except BaseException:
        traceback.print_exc()
    finally:
        _exit(code)


def reap(pid: int) -> int | None:
    """The exit code of a child that has ended, negative for a signal; else None."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # the program has waited for all its children
        return 0
    return os.waitstatus_to_exitcode(status) if ended else None


def leave_signals() -> None:
    """Forget the supervisor's handlers.

    A terminal sends SIGINT and SIGHUP to all processes: they are the supervisor's. So
    is SIGTERM, but until the loop turns nothing would be lost by it.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Not SIG_IGN, which programs that a worker starts would inherit.
    signal.signal(signal.SIGINT, ignore)
    signal.signal(signal.SIGHUP, ignore)


def ignore(number: int, frame: object) -> None:
    """Leave a signal to the supervisor."""


def _end_with(parent: int) -> None:
    """Have the system end this process when its parent ends, where it can."""
    if sys.platform == "linux":
        import ctypes  # takes 10 ms, and only workers need it

        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before that
        _exit(1)


def show_hangs() -> None:
    """Have SIGABRT show where the loop hangs."""
    with suppress(Exception):  # standard error is closed, or not a file
        faulthandler.enable()


def serve_and_exit(
    serve: Callable[[], object],
    is_up: Callable[[], bool],
    fail: Callable[[str], object],
) -> int:
    """Serve until the end.

    Args:
        serve: returns when the worker has stopped.
        is_up: whether it has begun to serve.
        fail: told in one line why it could not.

    Returns:
        The exit code.
    """
    show_hangs()
    try:
        serve()
    except BaseException as error:
        if is_up():
            logger.critical("a worker failed", exc_info=error)
            return 1
        logger.debug("a worker cannot start", exc_info=error)
        fail(_in_one_line(error))
        return CANNOT_START
    return 0


def _in_one_line(error: BaseException) -> str:
    """An exception, and where it was raised."""
    said = " ".join(f"{type(error).__name__}: {error}".split())
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return said
    return f"{said} ({frames[-1].filename}, line {frames[-1].lineno})"


def _exit(code: int) -> NoReturn:
    with suppress(Exception):
        logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code)
