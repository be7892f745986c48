"""Redis and Valkey for tests: each started on a free port, without persistence, and
ended by its id; and an engine on a blocking socket to one."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE

from simple_ws.cluster import resp
from simple_ws.cluster.engine import EngineEvent, Failed
from simple_ws.cluster.engine_address import parse
from simple_ws.cluster.redis_engine import RedisEngine
from simple_ws.cluster.sentinel import connect

__all__ = ["PROGRAMS", "Commands", "RedisServer", "Session", "redis_server", "session"]

#: Valkey only where it is installed: not every system has it, and a line for each test
#: left out would hide the others.
PROGRAMS = ["redis-server", *filter(shutil.which, ["valkey-server"])]


class RedisServer:
    """A server, and where it is reached.

    Attributes:
        port, path: of TCP on 127.0.0.1, and of its Unix socket.
        tls_port: where `certificate` is given, a file that has its key as well.
        process: `kill`, `send_signal`.
    """

    def __init__(
        self, program: str, directory: Path, *options: str, certificate: str = ""
    ) -> None:
        self.program = program
        self.options = options
        self.certificate = certificate
        self.tls_port = 0
        self.directory = directory
        self.path = str(directory / "redis.sock")
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.path}"

    def start(self) -> None:
        """Start it, again on the same port, or on one that is free."""
        for _ in range(5):
            self.port = self.port or free_port()
            if self._begin():
                return
            self.port = 0  # somebody else has taken it
        raise AssertionError(f"{self.program} does not start")

    def _begin(self) -> bool:
        command = [self.program, "--port", str(self.port), "--unixsocket", self.path]
        command += ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command += ["--dir", str(self.directory), *self._tls(), *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "eady to accept connections" in line:
                return True
        self.end()
        return False

    def _tls(self) -> list[str]:
        if not self.certificate:
            return []
        self.tls_port = free_port()
        options = ["--tls-port", str(self.tls_port), "--tls-auth-clients", "no"]
        for name in ("cert", "key", "ca-cert"):
            options += [f"--tls-{name}-file", self.certificate]
        return options

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self.end(signal.SIGKILL)

    def stop(self) -> None:
        """Let it neither read nor write, until `go_on`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def end(self, number: int = signal.SIGTERM) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        process.wait(DEADLINE)
        assert process.stdout is not None
        process.stdout.close()

    def commands(self) -> Commands:
        """A connection for commands, as the default user."""
        return Commands(self.path)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def redis_server(
    *options: str, program: str = "redis-server", certificate: str = ""
) -> Iterator[RedisServer]:
    """A server that runs; the test is skipped where the program is not installed."""
    if shutil.which(program) is None:
        pytest.skip(f"no {program} on this system")
    # Not pytest's: the path of a Unix socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="sws-") as directory:
        server = RedisServer(
            program, Path(directory), *options, certificate=certificate
        )
        try:
            server.start()
            yield server
        finally:
            server.end()


class Commands:
    """Sends commands to a server and returns the replies."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(DEADLINE)
        self._socket.connect(path)
        self._reader = resp.PythonReader()
        self.pushes: list[Any] = []

    def __call__(self, *arguments: str | bytes) -> Any:
        encoded = [a.encode() if isinstance(a, str) else a for a in arguments]
        self._socket.sendall(resp.encode_command(*encoded))
        return self.reply()

    def reply(self) -> Any:
        while True:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError("the server has ended the connection")
            items = self._reader.receive(data)
            assert self._reader.problem is None
            replies = [item for item in items if type(item) is not tuple]
            self.pushes += [item for item in items if type(item) is tuple]
            if replies:
                (reply,) = replies
                return reply

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *args: object) -> None:
        self._socket.close()


class Session:
    """An engine on a socket that blocks.

    Attributes:
        events: all that have come.
        ahead: seconds by which the engine's clock is ahead of the real one.
    """

    def __init__(self, engine: RedisEngine, sock: Any) -> None:
        sock.settimeout(DEADLINE)
        self.engine = engine
        self.sock = sock
        self.events: list[EngineEvent] = []
        self.ahead = 0.0
        engine.connected(self.now())

    def now(self) -> float:
        return time.monotonic() + self.ahead

    def turn(self) -> list[EngineEvent]:
        """Send what waits, and wait for something."""
        self.send()
        data = self.sock.recv(65536)
        if not data:
            raise EOFError("the server has closed the connection")
        events = self.engine.receive(data, self.now())
        self.events += events
        return events

    def send(self) -> None:
        self.sock.sendall(self.engine.take_output())

    def until(self, condition: Callable[[list[EngineEvent]], object]) -> Session:
        """Go on until a condition holds for the events."""
        while not condition(self.events):
            self.turn()
        return self

    def until_event(self, kind: type, count: int = 1) -> Any:
        """Go on until so many events of a class have come; return the last."""
        found: list[EngineEvent] = []

        def there(events: list[EngineEvent]) -> bool:
            found[:] = [event for event in events if isinstance(event, kind)]
            failed = any(isinstance(event, Failed) for event in events)
            assert kind is Failed or not failed, events
            return len(found) >= count

        self.until(there)
        return found[count - 1]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def advance(self, seconds: float) -> list[EngineEvent]:
        """Let the engine's time pass."""
        self.ahead += seconds
        events = self.engine.tick(self.now())
        self.events += events
        return events

    def close(self) -> None:
        with suppress(OSError):
            self.sock.close()


@contextmanager
def session(url: str, engine: RedisEngine | None = None) -> Iterator[Session]:
    """An engine that enters a server, at a URL."""
    address = parse(url)
    if engine is None:
        engine = RedisEngine.from_address(address)
    made = Session(engine, connect(address, DEADLINE))
    try:
        yield made
    finally:
        made.close()
