"""Run the Autobahn test suite against our server or our clients on each backend.

``python tests/conformance/run.py [--clients] [--subset]``; README.md in this folder
explains the numbers. Everything installed and reported is in ``.conformance/`` in the
root of the checkout. This module has the command line and the sequence of steps; see
``fuzzing.py`` and ``clients.py`` for a backend's run, ``judging.py`` for the verdict,
``python27.py`` for the suite.
"""

from __future__ import annotations

import argparse
import fcntl
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import processes
import python27
from clients import FACES, ClientRun
from fuzzing import BACKENDS, BackendRun
from judging import ALL_CASES, Verdict

_ROOT = Path(__file__).resolve().parents[2]
_HOME = _ROOT / ".conformance"
_SERVER = Path(__file__).with_name("server.py")

# All that is quick, and of the slow chapters a case or two of each kind: large and
# fragmented messages (9), compression by size (12) and by parameters (13).
SUBSET = [
    *("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"),
    *("9.1.1", "9.2.1", "9.3.1", "9.4.1", "9.5.1", "9.6.1", "9.7.1", "9.8.1"),
    *("12.1.1", "12.1.5", "12.2.3", "12.3.1", "12.4.1", "12.5.1"),
    *("13.1.1", "13.2.1", "13.3.2", "13.4.1", "13.5.1", "13.6.1", "13.7.1"),
]

# Seconds between two lines of progress, so that a CI log shows that it lives.
_PROGRESS_INTERVAL = 30.0


def main() -> int:
    """Run what the command line asks for and return the exit status."""
    options = _options()
    # `timeout` and CI end us by SIGTERM; as an exception it ends our children too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("conformance: terminated"))
    try:
        verdicts = _run_all(options, time.monotonic() + options.timeout)
    except python27.NoPython27 as error:
        return _no_python27(error, options.if_available)
    except python27.SetupError as error:
        return _failure(str(error))
    except processes.OutOfTime:
        return _failure(f"not done after {options.timeout:g} s, all stopped")
    except KeyboardInterrupt:
        return _failure("interrupted")
    _print_summary(verdicts)
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the Autobahn test suite.")
    parser.add_argument("--backend", choices=[*BACKENDS, "both"], default="both")
    parser.add_argument(
        "--clients", action="store_true", help="test the clients, not the server"
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--subset", action="store_true", help="what is quick")
    choice.add_argument("--cases", help="patterns with commas, e.g. '1.*,9.3.1'")
    parser.add_argument(
        "--jobs", type=int, choices=(1, 2), default=2, help="runs at a time"
    )
    parser.add_argument(
        "--timeout", type=float, default=3600, help="seconds for everything"
    )
    parser.add_argument(
        "--if-available",
        action="store_true",
        help="succeed, and say so, where there is no Python 2.7",
    )
    parser.add_argument(
        "--server", type=Path, default=_SERVER, help="script to test instead"
    )
    return parser.parse_args()


def _run_all(options: argparse.Namespace, deadline: float) -> list[Verdict]:
    backends = list(BACKENDS) if options.backend == "both" else [options.backend]
    runs = _runs(options, backends)
    cases = _cases(options)
    with _only_one():
        suite = python27.environment(_HOME, deadline)
        for first in range(0, len(runs), options.jobs):
            _run_together(runs[first : first + options.jobs], suite, cases, deadline)
    return [_report(run, expected=ALL_CASES if cases == ["*"] else 1) for run in runs]


def _runs(options: argparse.Namespace, backends: Sequence[str]) -> list[BackendRun]:
    if options.clients:
        return [
            ClientRun(face, backend, _HOME, _ROOT)
            for face in FACES
            for backend in backends
        ]
    server = options.server.resolve()
    return [BackendRun(backend, _HOME, server, _ROOT) for backend in backends]


def _cases(options: argparse.Namespace) -> list[str]:
    if options.subset:
        return SUBSET
    if options.cases:
        return [case.strip() for case in options.cases.split(",")]
    return ["*"]


@contextmanager
def _only_one() -> Iterator[None]:
    """Keep two runs in one checkout from writing each other's reports.

    Raises:
        SetupError: Another run is under way.
    """
    _HOME.mkdir(exist_ok=True)
    with (_HOME / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise python27.SetupError(
                "another conformance run is under way in this checkout"
            ) from error
        yield


def _run_together(
    runs: Sequence[BackendRun], suite: Path, cases: Sequence[str], deadline: float
) -> None:
    try:
        for run in runs:
            run.start(suite, cases, deadline)
        _wait(runs, deadline)
    finally:
        for run in runs:
            run.stop()


def _wait(runs: Sequence[BackendRun], deadline: float) -> None:
    next_line = time.monotonic() + _PROGRESS_INTERVAL
    working = list(runs)
    while working := [run for run in working if not run.finished()]:
        if time.monotonic() >= next_line:
            next_line += _PROGRESS_INTERVAL
            print("; ".join(run.progress() for run in runs), flush=True)
        try:
            processes.pause(deadline)
        except processes.OutOfTime:
            print("; ".join(run.progress() for run in runs), flush=True)
            raise


def _report(run: BackendRun, expected: int) -> Verdict:
    verdict = run.verdict(expected)
    print(f"{run.name}: {verdict.cases} cases in {run.seconds:.0f} s")
    print(f"  behavior       {_counts(verdict.behavior)}")
    print(f"  behaviorClose  {_counts(verdict.behavior_close)}")
    for line in verdict.remarks + verdict.problems + verdict.details:
        print(f"  {line}")
    return verdict


def _counts(words: Counter[str]) -> str:
    return ", ".join(f"{n} {word}" for word, n in words.most_common()) or "nothing"


def _print_summary(verdicts: Sequence[Verdict]) -> None:
    cases = sum(verdict.cases for verdict in verdicts)
    failed = sum(verdict.failed for verdict in verdicts)
    problems = sum(len(verdict.problems) for verdict in verdicts)
    line = f"{_plural(len(verdicts), 'run')}, {cases} cases, {failed} failed"
    # "0 failed" alone would look well where a server died before its first case.
    line += f", {_plural(problems, 'other problem')}" if problems else ""
    print(f"conformance: {line}")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _no_python27(error: python27.NoPython27, if_available: bool) -> int:
    if not if_available:
        return _failure(str(error))
    print(f"conformance: LEFT OUT, {error}")
    return 0


def _failure(sentence: str) -> int:
    print(f"conformance: {sentence}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
