"""One backend under the fuzzer: its server, the fuzzing client, and their logs.

Judging the report is left to ``judging.py``, timeouts to ``run.py``. The opposite
direction, our clients and the fuzzing server, is in ``clients.py``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import processes
import python27
from judging import NON_STRICT_REASONS, Verdict, judge

# Backend -> what SIMPLE_WS_EXTENSION must be to get it.
BACKENDS = {"extension": "1", "fallback": "0"}

# Seconds until the server has to say its port; importing takes well under one.
START_TIMEOUT = 20.0

# Seconds without a new line from a fuzzer that has printed a traceback. The slowest
# case took 25 s on a busy core.
_STUCK_TIMEOUT = 60.0

# How many lines of a log are shown where something went wrong.
_SHOWN_LINES = 40

_TRACEBACK = "Traceback (most recent call last)"


class BackendRun:
    """The suite's cases against one backend.

    ``start``, then ``finished`` until it is first true, then ``stop``, then
    ``verdict``. ``stop`` may come at any time, and must.

    Attributes:
        backend: a name in ``BACKENDS``.
        name: what it is reported under.
        seconds: how long the fuzzer worked, once it has finished.
    """

    #: Whom the fuzzer talks to.
    role = "server"
    #: Cases that may be NON-STRICT.
    reasons: Mapping[str, str] = NON_STRICT_REASONS

    def __init__(self, backend: str, home: Path, server: Path, root: Path) -> None:
        """Take the places; nothing is started yet.

        Args:
            backend: a name in ``BACKENDS``.
            home: folder for all that is written.
            server: script that serves and prints a line ``port=<number>``, with
                ``backend=<name>`` behind it if it has any.
            root: folder the server imports the library from.
        """
        self.backend = self.name = backend
        self.seconds = 0.0
        self._home = home
        self._script = server
        self._root = root
        self._reports = home / "reports" / backend
        self._server_log = self._reports / "server.log"
        self._fuzzer_log = self._reports / "fuzzer.log"
        self._server: processes.Process | None = None
        self._fuzzer: processes.Process | None = None
        self._started_at = 0.0
        self._problems: list[str] = []

    def start(self, suite: Path, cases: Sequence[str], deadline: float) -> None:
        """Start the server and, once it listens, the fuzzer.

        Args:
            suite: ``bin`` folder of the environment with the suite.
            cases: patterns of cases as the suite understands them.
            deadline: ``time.monotonic()`` value for the whole run.
        """
        # A report of an earlier run must never be taken for this one's.
        shutil.rmtree(self._reports, ignore_errors=True)
        self._reports.mkdir(parents=True)
        port = self._start_server(deadline)
        if port:
            self._start_fuzzer(suite, self._write_spec(port, cases))

    def finished(self) -> bool:
        """Whether the fuzzer has ended, well or badly, or never started."""
        if self._fuzzer is None:
            return True
        if self._fuzzer.poll() is None and not self._is_stuck():
            return False
        self.seconds = time.monotonic() - self._started_at
        return True

    def stop(self) -> None:
        """End what was started and note what ended in a wrong way."""
        if self._fuzzer:
            self._stop_fuzzer(self._fuzzer)
        if self._server:
            self._stop_server(self._server)
        self._fuzzer = self._server = None

    def verdict(self, expected: int) -> Verdict:
        """Judge the report and what was noted on the way.

        Args:
            expected: how many cases must be there, beside those the fuzzer announced.
        """
        expected = max(expected, self._announced())
        verdict = judge(self._index(), self.name, expected, self.reasons)
        verdict.problems[:0] = self._problems
        if _TRACEBACK in _text(self._server_log):
            verdict.problems.append(f"the {self.role} printed a traceback")
        if verdict.problems:
            verdict.details += _telling_lines(self._server_log)
        if not verdict.cases:
            verdict.details += _telling_lines(self._fuzzer_log)
        return verdict

    def progress(self) -> str:
        """Say how far the fuzzer is."""
        ids = find_all(r"^Running test case ID (\S+)", self._fuzzer_log)
        now = f", now {ids[-1]}" if ids else ""
        return f"{self.name}: {len(ids)} of {self._announced()} cases{now}"

    def _start_server(self, deadline: float) -> int | None:
        """Start the server; return its port, or None with the problem noted."""
        setting = BACKENDS[self.backend]
        environ = {
            "SIMPLE_WS_EXTENSION": setting,
            "PYTHONPATH": str(self._root),
            # A crash of the extension then says in server.log where it was.
            "PYTHONFAULTHANDLER": "1",
        }
        self._server = processes.start(
            [sys.executable, self._script],
            self._server_log,
            {**os.environ, **environ},
            self._root,
        )
        start_deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < start_deadline and self._server.poll() is None:
            if ports := find_all(r"^port=(\d+)\b.*\n", self._server_log):
                self._check_backend()
                return int(ports[0])
            processes.pause(deadline)
        self._problems.append("the server did not say its port")
        return None

    def _check_backend(self) -> None:
        """Note it where the server runs on another backend than was asked for."""
        for name in find_all(r"\bbackend=(\S+)", self._server_log):
            if name != self.backend:
                self._problems.append(f"the {self.role} runs on backend {name}")

    def _is_stuck(self) -> bool:
        """Whether the fuzzer has stumbled and waits for nothing, as after a KeyError.

        It then never ends by itself. A traceback alone does not say so, and a case may
        take long, so both are asked for.
        """
        quiet = time.time() - self._fuzzer_log.stat().st_mtime
        return quiet > _STUCK_TIMEOUT and _TRACEBACK in _text(self._fuzzer_log)

    def _write_spec(self, port: int, cases: Sequence[str]) -> Path:
        server = {"agent": self.backend, "url": f"ws://127.0.0.1:{port}"}
        spec = {
            "outdir": str(self._reports),
            "servers": [server],
            "cases": list(cases),
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        path = self._reports / "spec.json"
        path.write_text(json.dumps(spec, indent=2))
        return path

    def _start_fuzzer(self, suite: Path, spec: Path) -> None:
        self._started_at = time.monotonic()
        # Through Python, as the path in the script's own first line may be too long
        # for the kernel.
        self._fuzzer = processes.start(
            [suite / "python", suite / "wstest", "-m", "fuzzingclient", "-s", spec],
            self._fuzzer_log,
            python27.clean_environ(),
            self._home,
        )

    def _stop_fuzzer(self, fuzzer: processes.Process) -> None:
        processes.kill(fuzzer)
        if fuzzer.returncode != 0:
            self._problems.append(f"the fuzzer ended with status {fuzzer.returncode}")

    def _stop_server(self, server: processes.Process) -> None:
        if server.poll() is not None:
            self._problems.append(f"the server died with status {server.returncode}")
            return
        status = processes.terminate(server)
        if status is None:
            self._problems.append("the server did not stop on SIGTERM and was killed")
        elif status not in (0, -signal.SIGTERM):
            self._problems.append(f"the server stopped with status {status}")

    def _announced(self) -> int:
        """Return how many cases the fuzzer set out to run, 0 if it never said."""
        counts = find_all(r"^Ok, will run (\d+) test cases", self._fuzzer_log)
        return int(counts[0]) if counts else 0

    def _index(self) -> dict[str, Any]:
        """Return the report; an empty one where the fuzzer did not get to write it."""
        try:
            report = json.loads((self._reports / "index.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return dict(report)


def _text(path: Path) -> str:
    """Return a log's text so far; the fuzzer may write any bytes."""
    return path.read_text(errors="replace") if path.exists() else ""


def find_all(pattern: str, log: Path) -> list[str]:
    return re.findall(pattern, _text(log), re.MULTILINE)


def _telling_lines(log: Path) -> list[str]:
    """Return the first traceback of a log, or its end where there is none."""
    lines = _text(log).splitlines()
    first = next((i for i, line in enumerate(lines) if _TRACEBACK in line), None)
    shown = lines[-_SHOWN_LINES:] if first is None else lines[first:][:_SHOWN_LINES]
    # Cut, as the suite prints the numbers of all cases in one line.
    return [f"{log.name}: {line[:200]}" for line in shown]
