"""The program of docs/howto/socketio.md: old clients and new ones hear each other."""

from __future__ import annotations

import json
import re
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pages import HOWTO
from websockets.sync.client import ClientConnection, connect
from whole import test_drawing_board
from whole.test_drawing_board import DEADLINE, Program
from whole.test_examples import end_of

import simple_ws

PAGE = HOWTO / "socketio.md"
pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.skipif(not PAGE.exists(), reason="no checkout: no documentation"),
]

programs = test_drawing_board.programs

#: Says on which port.
ATTACH = """
def attach():
    server.attach()
    print("port", server.port, flush=True)
"""


@pytest.fixture
def program(
    programs: ExitStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Program:
    for module in ("socketio", "uvicorn"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    found = re.search(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    code = found[1].replace("8080", "0").replace("5000", "0")
    code = code.replace("on_startup=server.attach", "on_startup=attach")
    (tmp_path / "both.py").write_text(ATTACH + code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(Path(simple_ws.__file__).parents[1]))
    started = Program(str(tmp_path / "both.py"))
    programs.callback(started.stop)
    return started


def hear(client: ClientConnection) -> Any:
    """What comes next, besides pings of Engine.IO ("2")."""
    text = client.recv(DEADLINE)
    while text == "2":
        text = client.recv(DEADLINE)
    return text


def ask(client: ClientConnection, command: dict[str, Any]) -> list[Any]:
    """Send a command; return what comes until its reply, and that."""
    client.send(json.dumps(command))
    answers: list[Any] = []
    while not answers or answers[-1].get("id") != command["id"]:
        answers += [json.loads(line) for line in str(hear(client)).split("\n")]
    return answers


def test_old_clients_and_new_ones_hear_each_other(program: Program) -> None:
    port = program.expect(r"^port (\d+)$")[1]
    old_port = program.expect(r"running on http://127\.0\.0\.1:(\d+)")[1]
    engine = f"ws://127.0.0.1:{old_port}/socket.io/?EIO=4&transport=websocket"
    with (
        connect(engine) as old,
        connect(f"ws://127.0.0.1:{port}/live/websocket") as new,
    ):
        assert str(hear(old)).startswith("0{")
        old.send("40")
        assert str(hear(old)).startswith("40{")
        ask(new, {"id": 1, "connect": {}})
        ask(new, {"id": 2, "subscribe": {"channel": "chat"}})
        old.send('42["chat",{"text":"from old"}]')
        assert hear(old) == '42["chat",{"text":"from old"}]'
        pub = json.loads(str(hear(new)))["push"]["pub"]
        assert pub == {"data": {"text": "from old"}, "offset": 1}
        said = {"channel": "chat", "data": {"text": "from new"}}
        push, reply = ask(new, {"id": 3, "publish": said})
        assert push["push"]["pub"]["data"] == {"text": "from new"}
        assert reply["publish"] == {}
        assert hear(old) == '42["chat",{"text":"from new"}]'
        if sys.platform != "win32":
            program.process.send_signal(signal.SIGTERM)
            assert end_of(new)[0] == 3001  # come back
