"""`simple-ws completion`: the shells themselves are asked what they would offer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from simple_ws.cli.completion import SHELLS, commands_of, script
from simple_ws.cli.main import _parser, main

pytestmark = pytest.mark.one_backend

#: Asks bash as it asks itself: the function for the line, with the cursor at the end.
ASK_BASH = """
eval "$1"; shift
compopt() { OPTIONS="$*"; }
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_simple_ws
printf '%s\\n' "${COMPREPLY[@]}" "$OPTIONS"
"""


def bash(*words: str) -> set[str]:
    text = script("bash", commands_of(_parser()))
    command = ["bash", "-c", ASK_BASH, "bash", text, "simple-ws", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    return set(done.stdout.split("\n")) - {""}


needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@needs_bash
def test_bash_completes_commands_options_and_values() -> None:
    assert {"serve", "connect", "bench", "completion", "--version"} <= bash("")
    assert bash("conn") == {"connect"}
    assert bash("connect", "--re") == {"--reconnect"}
    assert bash("--verbose", "connect", "--re") == {"--reconnect"}
    assert bash("serve", "--log-level", "w") == {"warning"}
    assert bash("completion", "") == set(SHELLS)
    # Names of files, by bash itself.
    assert bash("serve", "--static", "") == {"-o default"}
    assert bash("serve", "chat") == {"-o default"}


@pytest.mark.parametrize("shell", SHELLS)
def test_every_option_is_in_the_script(shell: str) -> None:
    text = script(shell, commands_of(_parser()))
    for command in commands_of(_parser()):
        assert command.name in text
        for option in command.options:
            for name in option.names:
                assert (name if shell != "fish" else name.lstrip("-")) in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_takes_its_script(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    file = tmp_path / "script"
    file.write_text(script(shell, commands_of(_parser())))
    done = subprocess.run(
        [shell, "-n", str(file)], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes(tmp_path: Path) -> None:
    file = tmp_path / "script"
    file.write_text(script("fish", commands_of(_parser())))
    ask = f"source {file}; complete -C 'simple-ws connect --rec'"
    done = subprocess.run(
        ["fish", "-c", ask], capture_output=True, text=True, timeout=30
    )
    assert done.stdout.startswith("--reconnect\t")


def test_command_prints_the_script(capsys: Any) -> None:
    assert main(["completion", "bash"]) == 0
    assert "complete -F _simple_ws simple-ws" in capsys.readouterr().out
