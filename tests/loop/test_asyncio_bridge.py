"""Running inside other event loops: `poll` and `fileno`, and their examples."""

from __future__ import annotations

import asyncio
import json
import os
import select
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness import (
    PING,
    TEXT,
    Clock,
    Echo,
    Peer,
    Recorder,
    close_frame,
    connect,
    frame,
    open_peer,
)
from whole import test_drawing_board
from whole.test_drawing_board import DEADLINE, Program

import simple_ws
from simple_ws import InvalidState, Server, WebSocket

ROOT = Path(__file__).resolve().parents[2]
LOOPS = ROOT / "examples" / "loops"

programs = test_drawing_board.programs


def polled(handler: Any, **options: Any) -> Server:
    server = Server("127.0.0.1", 0, **options)
    server.mount("*", handler)
    return server


def readable(server: Server) -> bool:
    return bool(select.select([server.fileno()], [], [], 0)[0])


def become_readable(server: Server) -> None:
    assert select.select([server.fileno()], [], [], DEADLINE)[0], "nobody told"


# poll and fileno


def test_descriptor_tells_of_everything_that_poll_would_do() -> None:
    handler = Recorder()
    server = polled(handler)
    server.poll()
    with connect(server) as peer:
        become_readable(server)
        peer._pump = server.poll
        peer.shake()
        server.poll()
        assert not readable(server)
        peer.text("a")
        become_readable(server)
        server.poll()
        assert handler.of("message") == ["a"]
        assert not readable(server)
        writer = threading.Thread(target=handler.client().write_message, args=("b",))
        writer.start()
        become_readable(server)
        server.poll()
        assert peer.read_message() == "b"
        writer.join()
        server.stop(drain=0)


def test_descriptor_tells_of_what_was_written_between_two_calls() -> None:
    handler = Recorder()
    server = polled(handler)
    server.poll()
    with connect(server) as peer:
        peer._pump = server.poll
        peer.shake()
        server.poll()
        assert not readable(server)
        assert server.broadcast("from a button") == 1
        become_readable(server)
        server.poll()
        assert peer.read_now() == b"\x81\x0dfrom a button"
        server.poll()
        assert not readable(server)
        server.stop(drain=0)


def test_one_call_does_everything_that_is_there() -> None:
    handler = Echo()
    server = polled(handler)
    server.poll()
    peers = [connect(server) for _ in range(10)]
    for peer in peers:
        peer._pump = server.poll
        peer.shake()
    for peer in peers:
        peer.text("a")
    server.poll()
    assert [peer.read_now() for peer in peers] == [b"\x81\x01a"] * 10
    server.stop(drain=0)
    for peer in peers:
        peer.close()


def test_timers_come_due_though_nobody_connects() -> None:
    clock = Clock()
    server_class = type("PolledServer", (Server,), {"_clock": clock})
    server = server_class("127.0.0.1", 0)
    fired: list[int] = []
    server.every(10, lambda: fired.append(1))
    server.poll()
    for _ in range(3):
        clock.now += 10
        server.poll()
    assert len(fired) == 3
    server.stop()


def test_stop_between_two_calls_ends_everything() -> None:
    handler = Recorder()
    server = polled(handler)
    server.poll()
    driver: list[Any] = []

    def drive() -> None:
        with open_peer(server) as peer:
            driver.append(peer.leave())

    thread = threading.Thread(target=drive)
    thread.start()
    while not handler.of("open"):
        server.poll(1)
    server.stop()
    thread.join()
    assert not server.poll()
    assert handler.names[-1] == "close"
    assert driver


def test_server_polls_again_after_its_end() -> None:
    server = polled(Echo())
    for _ in range(3):
        server.listen()
        assert server.poll()
        with connect(server) as peer:
            peer._pump = server.poll
            peer.shake(then=frame(TEXT, "a"))
            assert peer.read_message() == "a"
        server.stop(drain=0)
        assert not server.poll()


def test_platform_without_a_descriptor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    select_selector = selectors.SelectSelector
    monkeypatch.setattr("simple_ws.loop.reactor.best_selector", select_selector)
    server = polled(Echo())
    with pytest.raises(InvalidState, match="call `poll` on a timer"):
        server.fileno()
    assert server.poll()
    with connect(server) as peer:
        peer._pump = server.poll
        peer.shake(then=frame(TEXT, "a"))
        assert peer.read_message() == "a"
        server.stop(drain=0)


# The examples

pytest_examples = pytest.mark.skipif(
    not LOOPS.exists(), reason="no checkout: the examples are not here"
)


class Example(Program):
    """An example on a free port."""

    def __init__(self, script: str, *options: str) -> None:
        super().__init__(f"examples/loops/{script}", "0", *options)
        self.port = 0

    def wait(self) -> Example:
        self.port = int(self.expect(r"ws://127\.0\.0\.1:(\d+)/")[1])
        return self

    def open(self) -> Peer:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)
        return Peer(sock).shake()

    def end(self, number: int, peer: Peer) -> None:
        """End it by a signal: it says good-bye, and nothing is wrong."""
        self.process.send_signal(number)
        assert last_close(peer) == 1001
        peer.write(close_frame(1000))
        assert not [line for line in self.rest() if "Traceback" in line], self.seen
        assert self.process.returncode == 0


Start = Callable[..., Example]


@pytest.fixture
def start(programs: ExitStack, monkeypatch: pytest.MonkeyPatch) -> Start:
    monkeypatch.setenv("PYTHONPATH", str(Path(simple_ws.__file__).parents[1]))

    def start(script: str, *options: str) -> Example:
        example = Example(script, *options)
        programs.callback(example.stop)
        return example.wait()

    return start


@pytest_examples
def test_every_example_is_tested() -> None:
    tested = {"asyncio_app", "game_loop", "qt_window", "thread", "tk_window"}
    assert {path.stem for path in LOOPS.glob("*.py")} == tested


@pytest_examples
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asyncio_example(start: Start, number: int) -> None:
    example = start("asyncio_app.py", "--seconds=0.01")
    with example.open() as sleeper, example.open() as wrong:
        sleeper.text("0.01")
        heard = [sleeper.read_message()]
        while not heard[-1].startswith("slept"):  # type: ignore[arg-type]
            heard.append(sleeper.read_message())
        assert heard[-1] == "slept 0.01 s"
        while not sleeper.read_message().startswith("it is "):  # type: ignore[arg-type]
            pass
        wrong.text("long")
        assert last_close(wrong) == 1007
        wrong.write(close_frame(1000))
        example.end(number, sleeper)


def last_close(peer: Peer) -> int:
    """The code of the close frame that comes behind whatever comes."""
    while True:
        first, payload = peer.read_frame()
        if first == 0x88:
            return int.from_bytes(payload[:2], "big")


@pytest_examples
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_game_example(start: Start, number: int) -> None:
    example = start("game_loop.py")
    with example.open() as player, example.open() as cheat:
        player.text('{"throw": 12}')
        views = [json.loads(player.read_message())]
        while not views[-1]["heights"]:
            views.append(json.loads(player.read_message()))
        views += [json.loads(player.read_message()) for _ in range(5)]
        steps = [view["step"] for view in views]
        assert steps == list(range(steps[0], steps[0] + 3 * len(steps), 3))
        heights = [view["heights"][0] for view in views if view["heights"]]
        assert heights == sorted(heights)  # it still rises
        cheat.text('{"throw": 1000}')
        assert last_close(cheat) == 1008
        cheat.write(close_frame(1000))
        example.end(number, player)


@pytest_examples
def test_thread_example(programs: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(simple_ws.__file__).parents[1]))
    process = subprocess.Popen(
        [sys.executable, "-u", "examples/loops/thread.py", "0"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    programs.callback(process.kill)
    assert process.stdin
    assert process.stdout
    port = int(process.stdout.readline().rpartition(":")[2].rstrip("/\n"))
    peer = Peer(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)).shake()
    peer.text("hello, terminal")
    assert process.stdout.readline() == "127.0.0.1: 'hello, terminal'\n"
    process.stdin.write("hello, browser\n")
    process.stdin.flush()
    assert peer.read_message() == "hello, browser"
    process.stdin.close()
    assert last_close(peer) == 1001
    peer.write(close_frame(1000))
    peer.close()
    assert process.wait(DEADLINE) == 0
    assert process.stdout.read() == ""
    process.stdout.close()


# Windows

#: X servers take a moment to begin.
_TIMEOUT = 30


@pytest.fixture
def display(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A display for windows, though there may be none."""
    pytest.importorskip("tkinter", reason="this Python has no Tk")
    if "DISPLAY" in os.environ or sys.platform in ("win32", "darwin"):
        yield
        return
    if shutil.which("Xvfb") is None:
        pytest.skip("no display, and no Xvfb to make one")
    read, write = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "640x480x24"],
        pass_fds=[write],
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    try:
        assert select.select([read], [], [], _TIMEOUT)[0], "Xvfb does not begin"
        monkeypatch.setenv("DISPLAY", f":{os.read(read, 100).decode().strip()}")
        yield
    finally:
        os.close(read)
        server.terminate()
        server.wait(DEADLINE)


@pytest.fixture
def offscreen(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        import PySide6.QtWidgets  # noqa: F401
    except ImportError as error:
        pytest.skip(f"PySide6 is not installed, or lacks a library: {error}")
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")


@pytest_examples
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_tk_example(display: None, start: Start, number: int) -> None:
    talk_to_window(start("tk_window.py"), number)


@pytest_examples
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_qt_example(offscreen: None, start: Start, number: int) -> None:
    talk_to_window(start("qt_window.py"), number)


def talk_to_window(example: Example, number: int) -> None:
    with example.open() as peer:
        peer.text("hello, window")
        peer.send(PING, b"still there?")
        assert peer.read_frame() == (0x8A, b"still there?")
        example.end(number, peer)


@pytest_examples
def test_what_clients_send_is_seen_in_the_tk_window(
    display: None, programs: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_into_window("tk", programs, monkeypatch)


@pytest_examples
def test_what_clients_send_is_seen_in_the_qt_window(
    offscreen: None, programs: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_into_window("qt", programs, monkeypatch)


def look_into_window(
    kind: str, programs: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run this file with the example in it; see `look_into_tk`."""
    monkeypatch.setenv("PYTHONPATH", str(Path(simple_ws.__file__).parents[1]))
    looking = Program(__file__, kind)
    programs.callback(looking.stop)
    looking.expect("^seen$")
    looking.rest()
    assert looking.process.returncode == 0


def look_into_tk() -> None:
    """In place of the main loop: be a client, and look what the window shows."""
    import tkinter

    def mainloop(root: tkinter.Tk) -> None:
        window = names["window"]
        assert window.root is root
        with connect(names["server"]) as peer:
            peer._pump = root.update
            peer.shake(then=frame(TEXT, "hello, window"))
            until(root.update, lambda: window.lines.size() == 1)
            assert window.lines.get(0) == "127.0.0.1: hello, window"
            assert window.count["text"] == "1 here"
            window.entry.insert(0, "hello, browser")
            window.entry.focus_force()
            window.entry.event_generate("<Return>")
            assert peer.read_message() == "hello, browser"
            assert window.entry.get() == ""
            peer.leave()
            until(root.update, lambda: window.count["text"] == "0 here")

    tkinter.Tk.mainloop = mainloop  # type: ignore[assignment, method-assign]
    run_example("tk_window.py")


def look_into_qt() -> None:
    """The same for Qt."""
    from PySide6.QtWidgets import QApplication

    def execute(app: QApplication) -> None:
        window = names["window"]

        def pump() -> None:
            app.processEvents()

        with connect(names["server"]) as peer:
            peer._pump = pump
            peer.shake(then=frame(TEXT, "hello, window"))
            until(pump, lambda: window.lines.count() == 1)
            assert window.lines.item(0).text() == "127.0.0.1: hello, window"
            assert window.count.text() == "1 here"
            window.entry.setText("hello, browser")
            window.entry.returnPressed.emit()
            assert peer.read_message() == "hello, browser"
            assert window.entry.text() == ""
            peer.leave()
            until(pump, lambda: window.count.text() == "0 here")

    QApplication.exec = execute  # type: ignore[method-assign]
    run_example("qt_window.py")


def until(pump: Callable[[], object], condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        pump()


names: dict[str, Any] = {}


def run_example(script: str) -> None:
    """Run an example in this program; its names are in `names` meanwhile."""
    sys.argv = [script, "0"]
    names["__name__"] = "__main__"
    exec(compile((LOOPS / script).read_text(), script, "exec"), names)
    print("seen")


@pytest.mark.parametrize("order", ["cancelled", "due"])
def test_deadline_behind_a_turn_in_vain_is_kept(order: str) -> None:
    """A timer of the event loop that was for an earlier one is not its only one."""

    async def serve() -> None:
        server = Server("127.0.0.1", 0, ping=False)
        server.mount("*", WebSocket())
        server.attach()
        called = asyncio.Event()
        early = server.call_later(0.02, lambda: None)
        for _ in range(5):
            await asyncio.sleep(0)  # it turns, and waits for `early`
        if order == "cancelled":
            early.cancel()
        server.call_later(0.04, called.set)
        await asyncio.wait_for(called.wait(), DEADLINE)
        await asyncio.to_thread(server.stop)

    asyncio.run(serve())


if __name__ == "__main__":
    look_into_tk() if sys.argv[1] == "tk" else look_into_qt()
