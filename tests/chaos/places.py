"""The processes of a chaos run: servers with workers, the engine, and what is between.

With Redis: three servers of two workers each. The second reaches Redis by a proxy, the
third is in a network namespace of its own, where this user may make one. Without: one
server of four workers, and the broker that its supervisor keeps.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from ledger import Ledger, Node
from measuring import is_running
from namespace import Namespace
from proxy import Proxy
from redis_server import RedisServer, free_port

__all__ = ["NOT_READ", "LocalSite", "RedisSite", "Served", "Site", "wait_until"]

HERE = Path(__file__).parent
#: Bytes that wait for a worker that reads nothing, until Redis cuts it. The broker
#: has a limit of its own.
NOT_READ = 2_000_000


class Served:
    """A server: its supervisor, and the workers.

    Attributes:
        address: for clients.
        history: messages that the topic keeps.
        live: it serves SDKs as well.
        killed: all processes that were killed.
        excused: others that may have been, by their supervisor.
    """

    def __init__(
        self, directory: Path, number: int, workers: int, engine: str, host: str
    ) -> None:
        self.number, self.workers = number, workers
        self.address = (host, free_port())
        self.killed: set[int] = set()
        self.excused: set[int] = set()
        self.prefix: list[str] = []  # of the command
        self.history, self.live = 0, False
        self.log = directory / f"server-{number}.log"
        self._journals, self._engine = directory / "journals", engine
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        host, port = self.address
        arguments = [host, port, self.workers, self._engine, self._journals]
        arguments += [self.history, int(self.live)]
        command = [*self.prefix, sys.executable, HERE / "node.py", *arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def children(self) -> list[int]:
        """The processes of the supervisor."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        with suppress(FileNotFoundError, ProcessLookupError):
            return list(map(int, path.read_text().split()))
        return []

    def kill(self) -> None:
        """Kill the supervisor; the workers end with it."""
        processes = {self.pid, *self.children()}
        self.killed |= processes
        self.end(signal.SIGKILL)
        # Their sockets are in the way of the next ones.
        assert wait_until(lambda: not any(map(is_running, processes)), 10)

    def kill_process(self, pid: int) -> None:
        """Kill a worker, or the broker."""
        self.killed.add(pid)
        os.kill(pid, signal.SIGKILL)

    def end(self, number: int = signal.SIGTERM) -> int | None:
        """Send a signal, and wait; the exit code, or None if it had to be killed."""
        process = self.process
        if process is None:
            return 0
        self.process = None
        process.send_signal(number)
        try:
            return process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None


class Site:
    """What both sites have in common.

    Args:
        directory: for logs and journals.
        servers: that serve.
        history: messages that the topic keeps.

    Attributes:
        ledger: reads the journals of all workers.
        notes: what is left out here, and why.
    """

    engine = ""

    def __init__(self, directory: Path, servers: list[Served], history: int) -> None:
        self.ledger = Ledger(directory / "journals", history > 0)
        self.history = history
        #: Between the SDKs of the first server and that server; None without SDKs.
        self.clients: Proxy | None = None
        self.servers = servers
        self.notes: list[str] = []

    def start(self, stack: ExitStack) -> None:
        """Start all servers; the stack ends them."""
        for server in self.servers:
            server.history = self.history
            stack.callback(server.end, signal.SIGKILL)
            server.start()

    def serve_sdks(self, stack: ExitStack) -> None:
        """Before `start`: serve SDKs, those of the first server by a proxy."""
        for server in self.servers:
            server.live = True
        self.clients = stack.enter_context(Proxy(self.servers[0].address[1]))

    def workers(self, server: Served) -> list[Node]:
        """The living workers of a server."""
        children = set(server.children())
        nodes = self.ledger.nodes.values()
        return [node for node in nodes if node.pid in children and node.alive()]

    def ready(self) -> bool:
        """Each server has its workers, and all of them the engine."""
        self.ledger.read()
        for server in self.servers:
            nodes = self.workers(server)
            if len(nodes) != server.workers or not all(node.up for node in nodes):
                return False
        return True

    def processes(self) -> Iterable[int]:
        """All processes of all servers."""
        for server in self.servers:
            yield server.pid
            yield from server.children()

    def killed(self) -> set[int]:
        """All processes that were killed."""
        return set().union(*(server.killed for server in self.servers))

    def excused(self) -> set[int]:
        """All processes that need not have ended by themselves."""
        return self.killed().union(*(server.excused for server in self.servers))


class LocalSite(Site):
    """One server with workers, and its own broker."""

    engine = "local"

    def __init__(self, directory: Path, workers: int, history: int) -> None:
        server = Served(directory, 0, workers, "", "127.0.0.1")
        super().__init__(directory, [server], history)

    def broker(self) -> int:
        """The process of the broker, when all workers serve."""
        (server,) = self.servers
        workers = {node.pid for node in self.workers(server)}
        others = [pid for pid in server.children() if pid not in workers]
        return others[0] if len(others) == 1 else 0


class RedisSite(Site):
    """Servers with workers on one Redis.

    Attributes:
        proxy: between the second server and Redis.
        namespace: in which the third server is; None where there is none.
    """

    engine = "redis"

    def __init__(
        self,
        stack: ExitStack,
        directory: Path,
        servers: int,
        workers: int,
        history: int,
    ) -> None:
        self.namespace = Namespace.make(stack) if servers > 2 else None
        options = ["--client-output-buffer-limit", f"pubsub {NOT_READ} 0 0"]
        if self.namespace is not None:
            options += ["--bind", "127.0.0.1", self.namespace.engine_host]
            options += ["--protected-mode", "no"]
        # A short path: that of a Unix socket has 107 bytes at most.
        short = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sws-")))
        self.redis = RedisServer("redis-server", short, *options)
        stack.callback(self.redis.end, signal.SIGKILL)
        self.redis.start()
        self.proxy = stack.enter_context(Proxy(self.redis.port))
        made = [self._server(directory, number, workers) for number in range(servers)]
        super().__init__(directory, made, history)
        if servers > 2 and self.namespace is None:
            self.notes.append("no partitions: a network namespace cannot be made here")

    def _server(self, directory: Path, number: int, workers: int) -> Served:
        url, host = self.redis.url, "127.0.0.1"
        if number == 1:
            url = self.proxy.url
        namespace = self.namespace if number == 2 else None
        if namespace is not None:
            url = f"redis://{namespace.engine_host}:{self.redis.port}"
            host = namespace.server_host
        server = Served(directory, number, workers, url, host)
        if namespace is not None:
            server.prefix = namespace.command
        return server


def wait_until(
    condition: Callable[[], object], seconds: float, pause: float = 0.05
) -> bool:
    """Look again and again, until something holds or time is over."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True
