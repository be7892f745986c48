"""One of our clients under the fuzzer: the fuzzing server, the client, and their logs.

The opposite direction of ``fuzzing.py``, which has the rest of a run.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import processes
import python27
from fuzzing import BACKENDS, START_TIMEOUT, BackendRun, find_all
from judging import CLIENT_NON_STRICT_REASONS

FACES = ("blocking", "asyncio")

_CLIENT = Path(__file__).with_name("client.py")


class ClientRun(BackendRun):
    """The suite's cases against one client on one backend.

    To be used as a ``BackendRun``.
    """

    role = "client"
    reasons = CLIENT_NON_STRICT_REASONS

    def __init__(self, face: str, backend: str, home: Path, root: Path) -> None:
        """Take the places; nothing is started yet.

        Args:
            face: a name in ``FACES``.
            backend: a name in ``BACKENDS``.
            home: folder for all that is written.
            root: folder the client imports the library from.
        """
        super().__init__(backend, home, _CLIENT, root)
        self.name = f"{face}-{backend}"
        self._face = face
        self._reports = home / "reports" / self.name
        self._server_log = self._reports / "client.log"
        self._fuzzer_log = self._reports / "fuzzer.log"

    def start(self, suite: Path, cases: Sequence[str], deadline: float) -> None:
        """Start the fuzzer and, once it listens, the client."""
        shutil.rmtree(self._reports, ignore_errors=True)
        self._reports.mkdir(parents=True)
        url = f"ws://127.0.0.1:{_free_port()}"
        self._start_fuzzing_server(suite, url, cases)
        if not self._wait_for_fuzzer(deadline):
            self._problems.append("the fuzzer did not start")
            return
        self._started_at = time.monotonic()
        environ = {
            "SIMPLE_WS_EXTENSION": BACKENDS[self.backend],
            "PYTHONPATH": str(self._root),
            "PYTHONFAULTHANDLER": "1",
        }
        self._server = processes.start(
            [sys.executable, self._script, self._face, url, self.name],
            self._server_log,
            {**os.environ, **environ},
            self._root,
        )

    def finished(self) -> bool:
        """Whether the client has ended, well or badly, or never started."""
        if self._server is None:
            return True
        if self._server.poll() is None and not self._is_stuck():
            return False
        self.seconds = time.monotonic() - self._started_at
        return True

    def stop(self) -> None:
        """End what was started and note what ended in a wrong way."""
        if self._server:
            processes.kill(self._server)
            if self._server.returncode != 0:
                status = self._server.returncode
                self._problems.append(f"the client ended with status {status}")
            self._check_backend()
        if self._fuzzer:
            processes.terminate(self._fuzzer)
        self._fuzzer = self._server = None

    def _start_fuzzing_server(
        self, suite: Path, url: str, cases: Sequence[str]
    ) -> None:
        spec = {
            "url": url,
            "outdir": str(self._reports),
            "cases": list(cases),
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        path = self._reports / "spec.json"
        path.write_text(json.dumps(spec, indent=2))
        wstest = [suite / "python", suite / "wstest"]
        self._fuzzer = processes.start(
            [*wstest, "-m", "fuzzingserver", "-s", path, "-u", "0"],
            self._fuzzer_log,
            python27.clean_environ(),
            self._home,
        )

    def _wait_for_fuzzer(self, deadline: float) -> bool:
        assert self._fuzzer is not None
        start_deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < start_deadline and self._fuzzer.poll() is None:
            # Said before it listens, so that is tried as well.
            if find_all(r"^Cases = ", self._fuzzer_log) and self._listens():
                return True
            processes.pause(deadline)
        return False

    def _listens(self) -> bool:
        (port,) = find_all(r"Fuzzing Server \(Port (\d+)", self._fuzzer_log)
        try:
            socket.create_connection(("127.0.0.1", int(port)), timeout=1).close()
        except OSError:
            return False
        return True


def _free_port() -> int:
    """A port that was free a moment ago: the suite wants to be told one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
