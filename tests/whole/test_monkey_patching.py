"""Programs that gevent or eventlet have patched: their threads are greenlets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import DEADLINE

import simple_ws

PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
}
IMPORT = "from simple_ws import Server, WebSocket, connect, in_thread"
PROGRAM = """
import threading, time

class Echo(WebSocket):
    def on_message(self, msg, client):
        if msg == "others":
            return {"clients": self.server.broadcast("to all")}
        client.write_message("before")
        return msg

class Slow(WebSocket):
    @in_thread
    def on_message(self, msg, client):
        time.sleep(0.01)
        return msg

server = Server("127.0.0.1", 0)
server.mount("/echo", Echo())
server.mount("/slow", Slow())

def visit():
    with connect(f"ws://127.0.0.1:{server.port}/echo", proxy=None) as ws:
        ws.send("hi")
        print(ws.recv(timeout=5), ws.recv(timeout=5), flush=True)
        server.broadcast("from outside")
        print(ws.recv(timeout=5), flush=True)
    with connect(f"ws://127.0.0.1:{server.port}/slow", proxy=None) as ws:
        ws.send("slow")
        print(ws.recv(timeout=5), flush=True)

server.start()
visit()
server.stop()

def visit_and_stop():
    visit()
    server.stop()

server.listen()
threading.Thread(target=visit_and_stop).start()
server.run()
print("stopped", flush=True)
"""


@pytest.mark.parametrize("late", [False, True], ids=["patched first", "patched late"])
@pytest.mark.parametrize("library", PATCHES)
def test_server_runs_among_greenlets(library: str, late: bool) -> None:
    pytest.importorskip(library)
    lines = [PATCHES[library], IMPORT]
    if late:
        lines = ["import simple_ws", *lines]
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "\n".join([*lines, PROGRAM])],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env={**os.environ, "PYTHONPATH": str(Path(simple_ws.__file__).parent.parent)},
    )
    round_ = ["before hi", "from outside", "slow"]
    assert ended.stdout.splitlines() == [*round_, *round_, "stopped"], ended.stderr
