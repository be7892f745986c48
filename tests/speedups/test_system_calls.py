"""The n-th system call is short, blocked, interrupted or reset, for n = 1, 2, ...

A session that uses everything is repeated until a run passes without a fault. Whichever
call fails: nothing is lost or duplicated, `on_close` is called once, and neither a
descriptor nor a byte is left behind.

Calls fail in two ways. `Scripted` is a socket whose methods fail; the extension uses
such a socket by its methods. For the extension's own system calls, and those of the
loop, `faults.c` is loaded between the process and the C library; then this file is a
program that runs in a process with that library.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from harness import (
    BINARY,
    PING,
    TEXT,
    Clock,
    Driven,
    Peer,
    Recorder,
    Wrapped,
    close_frame,
    frame,
    request,
    small_buffers,
)
from tls_harness import secured, server_side

from simple_ws import Client, Server

HERE = Path(__file__).parents[1]
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"

#: Order as in faults.c.
FAULTS = [
    "nothing",
    "short",
    "blocked",
    "interrupted",
    "reset",
    "aborted",
    "exhausted",
]
#: Those that must change nothing.
MILD = ["short", "blocked", "interrupted"]
#: They do not compress.
PUSH = random.Random(1).randbytes(80_000)
LARGE = random.Random(2).randbytes(30_000)


class Scripted(Wrapped):
    """A socket of which one call, counted over all of them, goes wrong."""

    def __init__(self, sock: socket.socket, fault: str, number: int) -> None:
        super().__init__(sock)
        self.touched = False
        self._fault = fault
        self._number = number

    def _goes_wrong(self) -> bool:
        self._number -= 1
        if self._number:
            return False
        self.touched = True
        if self._fault == "blocked":
            raise BlockingIOError(errno.EAGAIN, "would block")
        if self._fault == "interrupted":
            raise InterruptedError(errno.EINTR, "interrupted")
        if self._fault == "reset":
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        return True

    def recv(self, size: int) -> bytes:
        return self._sock.recv(1 if self._goes_wrong() else size)

    def send(self, data: Any) -> int:
        return self._sock.send(memoryview(data)[:1] if self._goes_wrong() else data)

    def sendmsg(self, buffers: Any) -> int:
        if self._goes_wrong():
            return self._sock.send(memoryview(buffers[0])[:1])
        return self._sock.sendmsg(buffers)

    def shutdown(self, how: int) -> None:
        if self._fault in ("reset", "blocked", "interrupted"):
            self._goes_wrong()
        self._sock.shutdown(how)


class Talk(Recorder):
    """Echoes; "push" is answered with more than the system takes at once."""

    def on_message(self, msg: Any, client: Client) -> Any:
        super().on_message(msg, client)
        return PUSH if msg == "push" else msg


def pack(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]


#: What the peer sends, and what must be heard of it.
SAID: list[tuple[bytes, Any]] = [
    (frame(TEXT, "one"), "one"),
    (frame(BINARY, LARGE), LARGE),
    (frame(TEXT, "a", fin=False) + frame(PING, b"?") + frame(0, "b"), "ab"),
    (frame(BINARY, pack(b"y" * 3000), rsv=0x40), b"y" * 3000),
    (frame(TEXT, "push"), "push"),
    (frame(TEXT, "z") * 3, "z"),
    (frame(TEXT, "\u00e9" * 9000), "\u00e9" * 9000),
]
HEARD = [heard for _, heard in SAID for _ in range(3 if heard == "z" else 1)]


def session(
    wrap: Callable[[socket.socket], Any],
    touched: Callable[[], bool],
    encrypted: bool = False,
) -> dict[str, Any]:
    """All of it once; what came of it."""
    before = open_descriptors()
    received = b""
    context = server_side() if encrypted else None
    with Driven(Talk(), write_limit=2**18, ssl=context) as driven:
        peer = driven.join(wrap)
        try:
            if encrypted:
                shake_hands(driven, peer)
            peer.write(request("/", DEFLATE))
            for data, _ in SAID:
                for at in range(0, len(data), 4000):
                    peer.write(data[at : at + 4000])
                    driven.turn()
                received += peer.read_now()
            peer.write(close_frame(1000))
        except OSError:
            pass  # that is what a reset is like
        received += read_all(driven, peer)
        peer.close()
        driven.turn(3)
        driven.advance(60.0)
        handler = driven.handler
        result = {
            "touched": touched(),
            "received": received,
            "heard": handler.of("message"),
            "opened": handler.names.count("open"),
            "ends": [list(map(str, end)) for end in handler.of("close")],
        }
        assert not driven.closing
        assert not driven.handshaking
        assert driven.reactor.buffered == 0
        assert "error" not in handler.names
    assert open_descriptors() == before
    return result


def shake_hands(driven: Driven, peer: Peer) -> None:
    """The handshake of TLS. What the system does not take of it is offered again after
    a while."""
    secured(peer)
    while True:
        try:
            peer.sock.shake()  # type: ignore[attr-defined]
        except BlockingIOError:
            driven.advance(0.1)
        else:
            return


def read_all(driven: Driven, peer: Peer) -> bytes:
    """Up to the end of the connection, however it ends."""
    received, idle = b"", 0
    while idle < 50:
        driven.turn()
        try:
            data = peer.sock.recv(2**16)
        except BlockingIOError:
            idle += 1
            continue
        except OSError:
            break
        if not data:
            break
        received += data
    return received


def open_descriptors() -> int:
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    return len(os.listdir(folder))


def check(fault: str, number: int, result: dict[str, Any], whole: bytes) -> None:
    """Judge a session in which the number-th call went wrong."""
    where = f"{fault}, call {number}"
    assert len(result["ends"]) == result["opened"], where
    if fault in MILD:
        assert result["received"] == whole, where
        assert result["heard"] == HEARD, where
        assert result["ends"] == [["1000", "", "peer"]], where
        return
    # Nothing twice, nothing out of order: what came before the reset, and no more.
    heard = result["heard"]
    assert heard == HEARD[: len(heard)], where
    received = result["received"]
    assert whole.startswith(received) or received.startswith(b"HTTP/1.1 "), where
    assert whole[: len(received)] == received, where
    for _, _, cause in result["ends"]:
        assert cause in ("reset", "peer"), where


def repeat(fault: str, run: Callable[[str, int], dict[str, Any]]) -> int:
    """Sessions until one passes untouched; how many calls there were."""
    gc.collect()  # what other tests have left would be closed in the middle of this
    untouched = run("nothing", 1)
    assert untouched["heard"] == HEARD
    assert untouched["ends"] == [["1000", "", "peer"]]
    whole = untouched["received"]
    assert len(whole) > len(PUSH) + len(LARGE)
    for number in count(1):
        result = run(fault, number)
        check(fault, number, result, whole)
        if not result["touched"]:
            return number - 1
    raise AssertionError


# --- By the methods of a socket ------------------------------------------------------


def scripted_session(fault: str, number: int) -> dict[str, Any]:
    sockets: list[Scripted] = []

    def wrap(sock: socket.socket) -> Scripted:
        sockets.append(Scripted(small_buffers(sock), fault, number))
        return sockets[0]

    result = session(wrap, lambda: sockets[0].touched)
    assert sockets[0].fileno() == -1
    return result


@pytest.mark.parametrize("fault", [*MILD, "reset"])
def test_call_of_a_method_goes_wrong(fault: str) -> None:
    assert repeat(fault, scripted_session) > 30


# --- By the calls themselves ---------------------------------------------------------


@pytest.fixture(scope="module")
def library(tmp_path_factory: Any) -> Path:
    """`faults.c`, built."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    path: Path = tmp_path_factory.mktemp("faults") / "faults.so"
    source = str(HERE / "faults.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(path), source, "-ldl"],
        check=True,
        timeout=60,
    )
    return path


def in_a_process(library: Path, *arguments: str) -> Any:
    result = subprocess.run(
        [sys.executable, __file__, *arguments],
        capture_output=True,
        text=True,
        timeout=55,
        env={
            **os.environ,
            # Behind what is there already: the runtime of a sanitizer must be first.
            "LD_PRELOAD": f"{os.environ.get('LD_PRELOAD', '')} {library}".strip(),
            "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
        },
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("fault", [*MILD, "reset"])
def test_system_call_goes_wrong(library: Path, fault: str) -> None:
    assert in_a_process(library, "session", fault)["calls"] > 30


@pytest.mark.parametrize("fault", ["blocked", "reset"])
def test_system_call_of_tls_goes_wrong(library: Path, fault: str) -> None:
    assert in_a_process(library, "encrypted", fault)["calls"] > 30


@pytest.mark.parametrize("fault", ["blocked", "interrupted", "aborted", "exhausted"])
def test_accepting_goes_wrong(library: Path, fault: str) -> None:
    found = in_a_process(library, "accept", fault)
    assert found["touched"] == [True, True, True, False]
    assert found["served"] == [3] * 4
    assert found["paused"] is (fault == "exhausted")


def test_waiting_is_interrupted(library: Path) -> None:
    assert in_a_process(library, "wait", "interrupted")["calls"] > 10


def test_no_memory_for_ciphertext_ends_that_connection_only(library: Path) -> None:
    found = in_a_process(library, "memory", "nothing")
    if not found["touched"]:
        pytest.skip("another realloc stands before ours")
    assert found == {
        "touched": True,
        "open": 1,
        "close": ["1006"],
        "heard": "the other lives",
        "buffered": 0,
    }


# --- The program ---------------------------------------------------------------------


def armed_session(fault: str, number: int, encrypted: bool = False) -> dict[str, Any]:
    faults = ctypes.CDLL(None)

    def wrap(sock: socket.socket) -> socket.socket:
        small_buffers(sock)
        faults.fault_arm(sock.fileno(), ctypes.c_long(number), FAULTS.index(fault))
        return sock

    try:
        return session(wrap, lambda: bool(faults.fault_touched()), encrypted)
    finally:
        faults.fault_arm(-1, ctypes.c_long(0), 0)


def encrypted_session(fault: str, number: int) -> dict[str, Any]:
    return armed_session(fault, number, encrypted=True)


def waiting_session(fault: str, number: int) -> dict[str, Any]:
    """The same with the calls of the selector."""
    faults = ctypes.CDLL(None)
    turn = Driven.turn

    def armed_turn(self: Driven, times: int = 1) -> None:
        if not getattr(self, "armed", False):
            self.armed = True  # type: ignore[attr-defined]
            fd = self.reactor.fileno()
            faults.fault_arm(fd, ctypes.c_long(number), FAULTS.index(fault))
        turn(self, times)

    Driven.turn = armed_turn  # type: ignore[method-assign]
    try:
        return session(small_buffers, lambda: bool(faults.fault_touched()))
    finally:
        Driven.turn = turn  # type: ignore[method-assign]
        faults.fault_arm(-1, ctypes.c_long(0), 0)


def accepting(fault: str) -> dict[str, Any]:
    """Three connections to a listening socket; one of its calls goes wrong."""
    import logging

    faults = ctypes.CDLL(None)
    notes: list[str] = []
    logging.getLogger("simple_ws").addHandler(_Noting(notes))
    found: dict[str, Any] = {"touched": [], "served": []}
    for number in (1, 2, 3, 100):
        clock = Clock()
        handler = Recorder()
        server_class = type("TimedServer", (Server,), {"_clock": clock})
        server: Server = server_class("127.0.0.1", 0)
        server.mount("*", handler)
        server.listen()
        (listener,) = server._run.listeners
        fd = listener._sock.fileno()
        faults.fault_arm(fd, ctypes.c_long(number), FAULTS.index(fault))
        peers = [
            Peer(
                socket.create_connection(("127.0.0.1", server.port)),
                lambda server=server: server.poll(0.01),  # type: ignore[misc]
            )
            for _ in range(3)
        ]
        for peer in peers:
            peer.write(request())
        for _ in range(20):
            server.poll(0.01)
            clock.now += 0.1
        for peer in peers:
            assert peer.read_head().startswith(b"HTTP/1.1 101 ")
            peer.close()
        found["touched"].append(bool(faults.fault_touched()))
        found["served"].append(handler.names.count("open"))
        faults.fault_arm(-1, ctypes.c_long(0), 0)
        server.stop(drain=0)
    found["paused"] = any("accepting is paused" in note for note in notes)
    return found


def _Noting(notes: list[str]) -> Any:  # noqa: N802
    import logging

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            notes.append(record.getMessage())

    return Handler()


def without_memory() -> dict[str, Any]:
    """What OpenSSL writes finds no place, in one of two connections."""
    faults = ctypes.CDLL(None)
    size = 50_000
    with Driven(Recorder(), ssl=server_side(), compression=False) as driven:
        peers = [secured(driven.join()).shake() for _ in range(2)]
        poor, other = sorted(driven.server.clients, key=lambda client: client.id)
        faults.fault_no_memory(ctypes.c_size_t(size), ctypes.c_size_t(size + 2000))
        poor.write_message(bytes(size))
        driven.turn()
        found = {"touched": bool(faults.fault_touched())}
        if found["touched"]:
            driven.until(lambda: not poor.is_open())
        other.write_message("the other lives")
        return {
            **found,
            "open": len(driven.server.clients),
            "close": [str(end[0]) for end in driven.handler.of("close")],
            "heard": peers[1].read_message(),
            "buffered": driven.reactor.buffered,
        }


def main(what: str, fault: str) -> dict[str, Any]:
    if what == "accept":
        return accepting(fault)
    if what == "memory":
        return without_memory()
    runs = {
        "session": armed_session,
        "encrypted": encrypted_session,
        "wait": waiting_session,
    }
    return {"calls": repeat(fault, runs[what])}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
