"""The compared servers: starting, pinning, measuring and stopping them.

Installing them is left to `environment`, driving them to `run`.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import environment
from environment import BENCH, PEERS, ROOT

#: Seconds a server may take until it says where it listens.
START_LIMIT = 20.0

#: Seconds between the request to stop and the order to.
STOP_LIMIT = 3.0


class ServerFailed(Exception):
    """A server did not start or died; the message says what it said last."""


#: Modes of servers with topics, and from another thread, see `peers/common.py`.
TOPICS = ("echo", "broadcast", "publish", "topics")
THREADS = (*TOPICS, "thread")


@dataclass(frozen=True)
class Spec:
    """One row of the comparison.

    `command` is what runs without the common options; `works` limits a variant to the
    works where it differs from its parent (``None``: all).
    """

    name: str
    label: str
    command: Callable[[], list[str]]
    extra: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    works: tuple[str, ...] | None = None
    deflate: bool = True
    tls: bool = False
    needs: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("echo", "broadcast")

    def runs(
        self, work: str, deflate: bool, tls: bool = False, mode: str = "echo"
    ) -> bool:
        """Whether this server takes part in a work."""
        if (deflate and not self.deflate) or (tls and not self.tls):
            return False
        if mode not in self.modes:
            return False
        return self.works is None or work in self.works


def _python(script: str, environment_name: str = "venv") -> Callable[[], list[str]]:
    return lambda: [environment.python(environment_name), str(PEERS / script)]


def _ours(name: str, label: str, *extra: str, backend: str = "1", works=None) -> Spec:
    env = {"SIMPLE_WS_EXTENSION": backend, "PYTHONPATH": str(ROOT)}
    # Not in the environment of the peers: ours needs nothing but the interpreter.
    command = lambda: [sys.executable, str(PEERS / "ours.py")]  # noqa: E731
    return Spec(name, label, command, extra, env, works, tls=True, modes=THREADS)


#: Ways to reply, see `peers/ours.py`, by the work in which they are measured.
FORMS = {
    "pipelined": (
        *("function", "lambda", "route", "binary", "positional"),
        *("send", "send-binary", "return", "return-bytearray"),
        *("bytearray", "memoryview", "bytes-subclass"),
        *("publish", "client-publish", "send-to"),
    ),
    "text": ("text", "text-positional", "str-subclass", "dict", "return-dict"),
}

#: What the loops are compared with: many clients, fifty messages and one in flight.
ON_LOOPS = ("echo32", "pipelined", "single")


def _on_asyncio(name: str) -> Spec:
    """A peer in asyncio's own loop."""
    extra = ("--loop", "asyncio")
    return Spec(
        f"{name}-asyncio",
        f"{name}, asyncio",
        _python(f"{name}_peer.py"),
        extra,
        works=ON_LOOPS,
        deflate=False,
        needs=(name,),
    )


_SPECS = [
    Spec(
        "c",
        "C, epoll",
        lambda: [str(environment.program("echo_server"))],
        modes=TOPICS,
    ),
    _ours("ours", "simple_ws"),
    _ours(
        "ours-whole",
        "simple_ws, whole frames",
        "--max-frame-size",
        "none",
        works=("echo64k", "echo1m"),
    ),
    _ours(
        "ours-busy", "simple_ws, busy_poll", "--busy-poll", "0.001", works=("single",)
    ),
    _ours(
        "ours-loop",
        "simple_ws, Python loop",
        "--broadcast-form",
        "loop",
        works=("broadcast",),
    ),
    _ours(
        "ours-default",
        "simple_ws, own defaults",
        "--deflate-parameters",
        "default",
        works=("deflate",),
    ),
    _ours("ours-fallback", "simple_ws, pure Python", backend="0"),
    *(
        _ours(
            f"ours-{name}{loop}",
            f"simple_ws, {callback} on {loop}",
            "--loop",
            loop,
            "--callback",
            callback,
            works=ON_LOOPS,
        )
        for name, callback in (
            ("plain-", "plain"),
            ("", "async"),
            ("wait-", "wait"),
            ("owned-", "owned"),
        )
        for loop in ("asyncio", "uvloop")
    ),
    *(
        _ours(f"ours-{form}", f"simple_ws, {form}", "--form", form, works=(work,))
        for work, forms in FORMS.items()
        for form in forms
    ),
    Spec(
        "picows",
        "picows, uvloop",
        _python("picows_peer.py"),
        deflate=False,
        tls=True,
        needs=("picows", "uvloop"),
        modes=THREADS,
    ),
    Spec(
        "websockets",
        "websockets, uvloop",
        _python("websockets_peer.py"),
        tls=True,
        needs=("websockets", "uvloop"),
    ),
    Spec(
        "websockets-pure",
        "websockets, pure Python, uvloop",
        _python("websockets_peer.py"),
        extra=("--pure",),
        works=("echo32", "echo64k", "echo1m"),
        deflate=False,
        needs=("websockets", "uvloop"),
    ),
    Spec(
        "aiohttp",
        "aiohttp, uvloop",
        _python("aiohttp_peer.py"),
        tls=True,
        needs=("aiohttp", "uvloop"),
    ),
    *(_on_asyncio(name) for name in ("picows", "websockets", "aiohttp")),
    Spec("tornado", "tornado", _python("tornado_peer.py"), needs=("tornado",)),
    Spec(
        "socketify",
        "socketify",
        _python("socketify_peer.py"),
        needs=("socketify",),
        modes=TOPICS,
    ),
    Spec(
        "bun",
        "Bun",
        lambda: [environment.bun(), str(PEERS / "bun_peer.js")],
        needs=("bun",),
        modes=TOPICS,
    ),
    Spec(
        "node-ws",
        "ws, Node.js",
        lambda: [environment.node(), str(PEERS / "node_ws_peer.js")],
        env={"NODE_PATH": str(BENCH / "node" / "node_modules")},
        needs=("ws",),
    ),
    Spec(
        "old",
        "simple_ws 0.3.1",
        _python("old_simple_ws_peer.py", "venv-old"),
        needs=("old",),
    ),
]

#: Every server by name, in the order of the tables.
SPECS = {spec.name: spec for spec in _SPECS}


def before(checkout: Path) -> list[Spec]:
    """Both backends of another checkout of this library, with its extension built."""
    env = {"PYTHONPATH": str(checkout.resolve())}
    both = [SPECS["ours"], SPECS["ours-fallback"]]
    return [
        replace(
            spec,
            name=spec.name.replace("ours", "before"),
            label=spec.label + ", before",
            env=spec.env | env,
        )
        for spec in both
    ]


def arguments(spec: Spec, mode: str, deflate: bool, tls: bool = False) -> list[str]:
    """The command line of a server in one mode, see `peers/common.py`."""
    if spec.name == "c":
        options = {"echo": [], "topics": ["--topics"]}.get(mode, ["--broadcast"])
        options += ["--deflate"] if deflate else []
    else:
        options = ["--mode", mode, "--deflate", str(int(deflate))]
    if tls:
        options += ["--tls", str(environment.certificate())]
    return [*spec.command(), "--port", "0", *options, *spec.extra]


class Running:
    """A server process, alive between `with` and its end."""

    def __init__(
        self, spec: Spec, mode: str, deflate: bool, cpu: int, tls: bool = False
    ) -> None:
        self._log = BENCH / "logs" / f"{spec.name}.txt"
        self._log.parent.mkdir(exist_ok=True)
        env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                arguments(spec, mode, deflate, tls),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=BENCH,
                env={**env, **spec.env},
                preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
            )
        self.pid = self.process.pid
        self.port = 0

    def __enter__(self) -> Running:
        try:
            self.port = self._wait_for_port()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def _wait_for_port(self) -> int:
        deadline = time.monotonic() + START_LIMIT
        said = b""
        while time.monotonic() < deadline:
            if select.select([self.process.stdout], [], [], 0.1)[0]:
                piece = os.read(self.process.stdout.fileno(), 4096)
                if not piece:
                    break
                said += piece
            for line in said.split(b"\n")[:-1]:
                if line.startswith(b"PORT "):
                    return int(line.split()[1])
        raise ServerFailed(self.last_words() or "it did not say where it listens")

    def check_alive(self) -> None:
        """Raise ServerFailed if the process has ended."""
        code = self.process.poll()
        if code is not None:
            raise ServerFailed(f"server died (exit code {code}): {self.last_words()}")

    def last_words(self) -> str:
        """The last line of its standard error, without paths of this machine."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return environment.scrub(lines[-1].strip()) if lines else ""

    def pss(self) -> int:
        """Bytes of proportional set size of the process and all it started."""
        return sum(_pss(pid) for pid in _family(self.pid))


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _family(pid: int) -> list[int]:
    family = [pid]
    for parent in family:
        for task in Path(f"/proc/{parent}/task").iterdir():
            children = task / "children"
            if children.exists():
                family += [int(child) for child in children.read_text().split()]
    return family
