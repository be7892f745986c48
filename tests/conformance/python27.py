"""Find a CPython 2.7 and keep an environment for the Autobahn test suite in it.

The suite has no release for Python 3; the last virtualenv that can make an environment
for 2.7 is 20.21. The environment is made once, takes about a minute, and is reused.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import processes

_VIRTUALENV = "virtualenv==20.21.1"
# Without wsaccel the fuzzer masks and checks UTF-8 in Python and takes hours.
_SUITE = ("autobahntestsuite==25.10.1", "wsaccel==0.6.6")

_WHICH = (
    "import platform, sys; "
    "print('%s %d.%d' % ((platform.python_implementation(),) + sys.version_info[:2]))"
)
_WANTED = "CPython 2.7"


class SetupError(Exception):
    """The suite cannot be run here; the message says why in one sentence."""


class NoPython27(SetupError):
    """This machine has no Python 2.7."""


def clean_environ() -> dict[str, str]:
    """Return the environment for other Pythons than ours.

    PYTHONPATH, PYTHONWARNINGS and the like are meant for the Python that runs the
    tests; 2.7 would stumble over them.
    """
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environ["PYTHONUNBUFFERED"] = "1"  # progress is read from the log
    return environ


def environment(home: Path, deadline: float) -> Path:
    """Return the ``bin`` folder of an environment with the suite, made if need be.

    Args:
        home: folder that holds the environment and ``install.log``.
        deadline: ``time.monotonic()`` value; see ``processes``.

    Raises:
        NoPython27: There is no environment yet and no Python 2.7 to make it with.
        SetupError: PYTHON27 does not name a Python 2.7, or the installation failed.
        OutOfTime: The deadline passed.
    """
    folder = home / "python27"
    if not _is_ready(folder):
        _make(home, folder, find(), deadline)
    return folder / "bin"


def find() -> str:
    """Return a CPython 2.7 that runs: PYTHON27, one on PATH, or one kept by pyenv.

    Raises:
        NoPython27: None of these is there.
        SetupError: PYTHON27 is set to something else; an explicit wish that cannot be
            met is not passed over.
    """
    wish = os.environ.get("PYTHON27")
    if wish:
        if not _is_python27(wish):
            raise SetupError(f"PYTHON27={wish} does not run as {_WANTED}")
        return wish
    for candidate in _candidates():
        # A shim of pyenv is found on PATH even where it has nothing to run.
        if _is_python27(candidate):
            return candidate
    raise NoPython27("no Python 2.7 was found (PYTHON27, PATH, pyenv)")


def _candidates() -> Iterator[str]:
    yield "python2.7"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for python in sorted(pyenv.glob("versions/2.7*/bin/python2.7"), reverse=True):
        yield str(python)


def _is_python27(python: str | Path) -> bool:
    return _output(python, _WHICH) == _WANTED


def _output(python: str | Path, code: str) -> str | None:
    """Return what a line of Python prints, None where it does not run."""
    try:
        done = subprocess.run(
            [str(python), "-c", code],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env=clean_environ(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _stamp(folder: Path) -> Path:
    return folder / "complete"


def _is_ready(folder: Path) -> bool:
    """Whether a complete environment with these versions is there and still runs."""
    try:
        complete = _stamp(folder).read_text() == "\n".join(_SUITE)
    except OSError:
        return False
    code = "import autobahntestsuite, wsaccel; print('ready')"
    return complete and _output(folder / "bin" / "python", code) == "ready"


def _make(home: Path, folder: Path, python: str, deadline: float) -> None:
    print(f"conformance: installing {_SUITE[0]} with {python}", flush=True)
    log = home / "install.log"
    log.unlink(missing_ok=True)
    tool = home / "virtualenv"
    for leftover in (tool, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    steps: list[list[str | Path]] = [
        [sys.executable, "-m", "venv", tool],
        [tool / "bin" / "python", "-m", "pip", "install", _VIRTUALENV],
        [tool / "bin" / "virtualenv", "--python", python, folder],
        [folder / "bin" / "python", "-m", "pip", "install", *_SUITE],
    ]
    for step in steps:
        if processes.run(step, log, clean_environ(), home, deadline) != 0:
            last = " ".join(Path(part).name for part in step[:4])
            raise SetupError(f"installing the suite failed at '{last}', see {log}")
    # Written last: an environment that was interrupted has no stamp and is made anew.
    _stamp(folder).write_text("\n".join(_SUITE))
