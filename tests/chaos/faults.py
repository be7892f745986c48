"""The faults of a chaos run. Each happens, and is over, when its function returns."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from places import LocalSite, RedisSite, Served, Site, wait_until

__all__ = ["Faults"]

#: Seconds that something stands still: shorter and longer than the 3 s after which a
#: silent engine is given up.
_SHORT, _LONG = 0.5, 5.0
#: Bytes of noise a step; and the most that is needed for the broker to cut a worker.
_STEP, _MOST = 20, 120 * 2**20


class Faults:
    """What can happen at a site.

    Args:
        site: where it happens.
        crowd: makes noise.
        rng: chooses.

    Attributes:
        named: the functions, by name; each returns what it has done.
        frozen: seconds that a server stands still.
    """

    frozen = 60.0

    def __init__(self, site: Site, crowd: Any, rng: random.Random) -> None:
        self._site, self._crowd, self._rng = site, crowd, rng
        self.named: dict[str, Callable[[], str]] = {
            "worker-kill": self._kill_worker,
            "roll": self._roll,
            "supervisor-kill": self._kill_supervisor,
            "worker-stop": self._stop_worker,
            "worker-cut": self._cut_worker,
        }
        if site.clients is not None:
            self._clients = site.clients
            self.named["restart"] = self._restart
            self.named["freeze"] = self._freeze
            self.named["clients-cut"] = self._cut_clients
            self.named["clients-stall"] = self._stall_clients
        if isinstance(site, LocalSite):
            self._local = site
            self.named["broker-kill"] = self._kill_broker
            self.named["broker-stop"] = self._stop_broker
        elif isinstance(site, RedisSite):
            self._redis = site
            self.named["redis-kill"] = self._kill_redis
            self.named["redis-stop"] = self._stop_redis
            self.named["client-kill"] = self._kill_client
            if len(site.servers) > 1:
                self.named["proxy-cut"] = self._cut_proxy
                self.named["proxy-stall"] = self._stall_proxy
                self.named["proxy-slow"] = self._slow_proxy
                self.named["proxy-late"] = self._late_proxy
                self.named["lag"] = self._lag
            if site.namespace is not None:
                self.named["partition"] = self._part

    # Workers and their supervisors

    def _server(self) -> Served:
        return self._rng.choice(self._site.servers)

    def _worker(self) -> tuple[Served, int]:
        server = self._server()
        nodes = self._site.workers(server)
        return server, self._rng.choice(nodes).pid

    def _kill_worker(self) -> str:
        server, pid = self._worker()
        server.kill_process(pid)
        return f"a worker of server {server.number} is killed"

    def _roll(self) -> str:
        server = self._server()
        before = {node.pid for node in self._site.workers(server)}
        os.kill(server.pid, signal.SIGHUP)
        replaced = wait_until(lambda: not before & set(server.children()), 60)
        assert replaced, f"the workers {before} were not replaced"
        return f"SIGHUP to server {server.number}: all workers are replaced"

    def _kill_supervisor(self) -> str:
        server = self._server()
        if self._site.engine == "local":  # its broker ends with it
            self._site.ledger.wipes += 1
        server.kill()
        server.start()
        return f"the supervisor of server {server.number} is killed, and started again"

    def _restart(self) -> str:
        server = self._server()
        if self._site.engine == "local":
            self._site.ledger.wipes += 1
        code = server.end()
        assert code == 0, f"server {server.number} ended with {code}"
        server.start()
        return f"SIGTERM to server {server.number}, and it is started again"

    def _freeze(self) -> str:
        """The supervisor and all workers stand still."""
        server = self._server()
        with ExitStack() as stack:
            for pid in (server.pid, *server.children()):
                stack.enter_context(_stopped(pid))
                server.excused.add(pid)  # the supervisor may take it for stuck
            time.sleep(self.frozen)
        return f"server {server.number} stands still for {self.frozen:g} s"

    # Between clients and a server

    def _cut_clients(self) -> str:
        self._clients.cut()
        return "the proxy cuts the clients of server 0"

    def _stall_clients(self) -> str:
        seconds = self._pause()
        self._clients.hold()
        time.sleep(seconds)
        self._clients.release()
        return f"the proxy passes nothing to clients of server 0 for {seconds:.1f} s"

    def _stop_worker(self) -> str:
        server, pid = self._worker()
        seconds = self._pause()
        with _stopped(pid):
            time.sleep(seconds)
        return f"a worker of server {server.number} stands still for {seconds:.1f} s"

    def _cut_worker(self) -> str:
        """It reads nothing, until the engine has no more room for it."""
        server, pid = self._worker()
        sent, cut = 0, self._cutting(server, pid)
        self._note_ends()
        with _stopped(pid):
            while sent < _MOST and not cut():
                self._crowd.noise(server.number, pid, _STEP)
                sent += _STEP * 2**16
                time.sleep(0.1)
        if done := cut():
            self._wait_for_ends(server, pid)
        how = "and the engine cuts it" if done else f"with {sent >> 20} MiB unread"
        return f"a worker of server {server.number} reads nothing, {how}"

    def _cutting(self, server: Served, pid: int) -> Callable[[], bool]:
        """Whether the engine has cut a worker since now."""
        if self._site.engine == "redis":
            ask, name = self._redis.redis.commands, f"name=simple_ws-{pid} ".encode()

            def cut() -> bool:
                with ask() as commands:
                    return name not in commands("CLIENT", "LIST")

            return cut
        before = _cuts(server)
        return lambda: _cuts(server) > before

    def _note_ends(self) -> None:
        """Remember how often each node has lost its engine."""
        self._site.ledger.read()
        self._ends = {node.pid: node.ends for node in self._site.ledger.nodes.values()}

    def _wait_for_ends(self, server: Served, pid: int = 0) -> None:
        """Wait until the workers of a server, or one of them, have noticed that their
        engine is gone."""
        nodes = [n for n in self._site.workers(server) if pid in (0, n.pid)]

        def noticed() -> bool:
            self._site.ledger.read()
            return all(node.ends > self._ends[node.pid] for node in nodes)

        assert wait_until(noticed, 10), "a node has not noticed that its engine is gone"

    # The broker

    def _kill_broker(self) -> str:
        (server,) = self._site.servers
        broker = self._broker()
        self._note_ends()
        self._site.ledger.wipes += 1
        server.kill_process(broker)
        self._wait_for_ends(server)
        return "the broker is killed"

    def _stop_broker(self) -> str:
        seconds = self._pause()
        with _stopped(self._broker()):
            time.sleep(seconds)
        return f"the broker stands still for {seconds:.1f} s"

    def _broker(self) -> int:
        assert wait_until(self._local.broker, 10), "there is no broker"
        return self._local.broker()

    # Redis

    def _kill_redis(self) -> str:
        self._site.ledger.wipes += 1
        self._redis.redis.kill()
        time.sleep(2)
        self._redis.redis.start()
        return "Redis is killed, and another one started after 2 s"

    def _stop_redis(self) -> str:
        seconds = self._pause()
        self._redis.redis.stop()
        time.sleep(seconds)
        self._redis.redis.go_on()
        return f"Redis stands still for {seconds:.1f} s"

    def _kill_client(self) -> str:
        server, pid = self._worker()
        self._note_ends()
        with self._redis.redis.commands() as ask:
            clients = ask("CLIENT", "LIST").decode().splitlines()
            for line in clients:
                if f" name=simple_ws-{pid} " in line:
                    number = line.split()[0].removeprefix("id=")
                    ask("CLIENT", "KILL", "ID", number)
        self._wait_for_ends(server, pid)
        return f"Redis kills the connection of a worker of server {server.number}"

    # Between them

    def _cut_proxy(self) -> str:
        if self._rng.random() < 0.3:
            self._redis.proxy.cut()
            return "the proxy cuts the connections of server 1"
        size = self._rng.randrange(1, 20_000)
        self._redis.proxy.cut_after(size)
        time.sleep(1)
        return f"the proxy cuts a connection of server 1 after {size} bytes"

    def _stall_proxy(self) -> str:
        seconds = self._pause()
        self._redis.proxy.hold()
        time.sleep(seconds)
        self._redis.proxy.release()
        return f"the proxy of server 1 passes nothing on for {seconds:.1f} s"

    def _slow_proxy(self) -> str:
        for _ in range(20):
            self._redis.proxy.hold()
            time.sleep(self._rng.uniform(0.1, 0.3))
            self._redis.proxy.release()
            time.sleep(0.002)
        return "the proxy of server 1 is slow for 4 s"

    def _lag(self) -> str:
        """Clients whose worker is killed come to a server that lags behind."""
        seconds = self._pause()
        self._redis.proxy.hold()
        try:
            time.sleep(0.3)
            server = self._site.servers[0]
            server.kill_process(self._site.workers(server)[0].pid)
            time.sleep(seconds)
        finally:
            self._redis.proxy.release()
        return (
            f"server 1 lags {seconds:.1f} s behind, and a worker of server 0 is killed"
        )

    def _late_proxy(self) -> str:
        """The node gives its connection up, and makes another one: what it had sent by
        the first comes after that."""
        server = self._site.servers[1]
        self._note_ends()
        self._redis.proxy.detain()
        try:
            self._wait_for_ends(server)
            assert wait_until(self._site.ready, 10), "the nodes do not connect again"
            time.sleep(self._rng.uniform(0, 1))
        finally:
            self._redis.proxy.release()
        return "the proxy of server 1 passes old connections on when there are new ones"

    def _part(self) -> str:
        seconds = self._pause()
        namespace = self._redis.namespace
        assert namespace is not None
        namespace.cut()
        try:
            time.sleep(seconds)
        finally:
            namespace.join()
        return f"server 2 and Redis are parted for {seconds:.1f} s"

    def _pause(self) -> float:
        return self._rng.uniform(_SHORT, _LONG)


def _cuts(server: Served) -> int:
    return server.log.read_text().count("the broker cuts a client")


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
