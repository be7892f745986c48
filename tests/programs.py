"""Servers in processes of their own, for tests of what only whole programs do.

`Program` runs source text and reads what it prints, line by line. Nothing sleeps: every
wait is for a line, a connection or an end, with a deadline.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from harness import CLOSE, DEADLINE, Peer

__all__ = ["WORKERS", "Program", "until"]

ROOT = Path(__file__).parent.parent

#: A server with two workers; `{options}` and `{body}` are filled in.
WORKERS = """
import json, logging, os, signal, sys, time
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from simple_ws import Server, WebSocket
from simple_ws.cluster import worker
from simple_ws.cluster.supervisor import Supervisor

def say(*words):  # in one piece: others write there, too
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()

class Echo(WebSocket):
    def on_message(self, msg, client):
        return str(os.getpid()) if msg == "pid" else msg

server = Server({options})
server.mount("/", Echo())
server.metrics()

@server.http("/stats")
def stats(request):
    return server.stats()

@server.http("/pid")
def pid(request):
    return str(os.getpid())

{body}

server.listen()
say("port", server.port)
server.run()
say("returned")
"""


def until(
    condition: Callable[[], Any], *, pause: float = 0.0, within: float = DEADLINE
) -> Any:
    """Ask again and again: what is waited for is in another process or thread.

    Args:
        condition: what it returns is returned, once it is true.
        pause: seconds between two questions, where the question itself takes no time.
        within: seconds; then it fails.
    """
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(pause)
    return found


class Program:
    """A Python program that a test has started; killed at the end.

    Args:
        source: its text.
        environment: variables in addition to those of the test.
    """

    def __init__(self, source: str, **environment: str) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-c", source],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, **environment},
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @classmethod
    def with_workers(
        cls, body: str = "", options: str = '"127.0.0.1", 0, workers=2'
    ) -> Program:
        """A server with workers, see `WORKERS`."""
        return cls(WORKERS.format(body=body, options=options))

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def found(self, pattern: str) -> list[re.Match[str]]:
        """All lines so far in which a pattern is found."""
        found = (re.search(pattern, line) for line in tuple(self.lines))
        return [match for match in found if match]

    def wait_for(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Wait for the count-th line in which a pattern is found."""
        with self._changed:
            came = self._changed.wait_for(
                lambda: len(self.found(pattern)) >= count, DEADLINE
            )
        assert came, f"no {pattern!r} number {count} in\n" + "\n".join(self.lines)
        return self.found(pattern)[count - 1]

    def wait_for_workers(self, count: int = 2) -> list[int]:
        """Wait until so many have begun to serve; return all their processes."""
        self.wait_for(r"worker \d+ serves", count)
        return [int(match[1]) for match in self.found(r"serves \(process (\d+)\)")]

    @property
    def port(self) -> int:
        return int(self.wait_for(r"^port (\d+)")[1])

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and wait for the exit code."""
        self.send(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the exit code, and for all output."""
        code = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return code

    # As a client

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE)

    @contextmanager
    def visited(self) -> Iterator[Counter[str]]:
        """Four visitors come, again and again, and none is refused or reset.

        Yields:
            How often they were "served", and "told to come back" (1001).
        """
        over, counts = Event(), Counter[str]()

        def visit() -> None:
            while not over.is_set():
                with self.peer() as peer:  # neither refused nor reset
                    peer.text("hello")
                    first, payload = peer.read_frame()
                    if first & 15 == CLOSE:
                        assert payload[:2] == (1001).to_bytes(2, "big")
                        counts["told to come back"] += 1
                    else:
                        assert payload == b"hello"
                        counts["served"] += 1

        with ThreadPoolExecutor(4) as pool:
            visits = [pool.submit(visit) for _ in range(4)]
            try:
                yield counts
            finally:
                over.set()
            for each in visits:
                each.result(DEADLINE)

    def peer(self) -> Peer:
        """An open WebSocket."""
        return Peer(self.connect()).shake()

    def get(self, path: str) -> str:
        """The body of a plain request, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, DEADLINE)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def stats(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.get("/stats"))
        return answer
