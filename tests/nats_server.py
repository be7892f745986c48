"""nats-server for tests: started on a free port, and ended by its id."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import DEADLINE
from redis_server import free_port

__all__ = ["NatsServer", "nats_server"]


class NatsServer:
    """A server, and where it is reached.

    Attributes:
        port: of TCP on 127.0.0.1.
        process: `kill`, `send_signal`.
    """

    def __init__(self, options: tuple[str, ...]) -> None:
        self.options = options
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, again on the same port, or on one that is free."""
        for _ in range(5):
            self.port = self.port or free_port()
            if self._begin():
                return
            self.port = 0  # somebody else has taken it
        raise AssertionError("nats-server does not start")

    def _begin(self) -> bool:
        command = ["nats-server", "-a", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(
            [*command, *self.options],
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "Server is ready" in line:
                return True
        self.end()
        return False

    def stop(self) -> None:
        """Let it neither read nor write, until `go_on`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)  # all its threads stand still

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self.end()

    def end(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait(DEADLINE)
        assert process.stderr is not None
        process.stderr.close()


@contextmanager
def nats_server(*options: str, config: str = "") -> Iterator[NatsServer]:
    """A server that runs; the test is skipped where the program is not installed."""
    if shutil.which("nats-server") is None:
        pytest.skip("no nats-server on this system")
    with tempfile.TemporaryDirectory(prefix="sws-") as directory:
        if config:
            file = Path(directory) / "nats.conf"
            file.write_text(config)
            options = ("-c", str(file), *options)
        server = NatsServer(options)
        try:
            server.start()
            yield server
        finally:
            server.end()
