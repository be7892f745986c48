"""The servers that `broker.py` and `engines.py` measure, each in its own process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from simple_ws.cluster.broker import BrokerSocket, run_broker  # noqa: E402


class Served(NamedTuple):
    """A server that runs."""

    pid: int
    #: Of its Unix socket.
    path: str
    #: The password; "" where there is none.
    secret: str


@contextmanager
def broker() -> Iterator[Served]:
    """The broker of `workers=N`."""
    listening = BrokerSocket()
    theirs, ours = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        run_broker(listening.sock, listening.secret, theirs)
        os._exit(0)
    try:
        yield Served(pid, listening.path, listening.secret)
    finally:
        ours.close()
        os.waitpid(pid, 0)
        listening.close()


@contextmanager
def redis() -> Iterator[Served]:
    """A Redis without persistence."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "redis")
        options = ["--port", "0", "--unixsocket", path, "--save", ""]
        command = ["redis-server", *options, "--dir", directory]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            while not os.path.exists(path):
                time.sleep(0.01)
            try:
                yield Served(server.pid, path, "")
            finally:
                server.terminate()
