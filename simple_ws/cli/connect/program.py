"""`Program`: a shell command that reads messages and writes some (`--exec`)."""

from __future__ import annotations

import io
import subprocess
from contextlib import suppress
from types import TracebackType
from typing import Any

__all__ = ["Program"]

#: Seconds for it to end, once it has nothing more to read.
_PATIENCE = 5.0


class Program:
    """A running shell command; ended on leaving its `with`.

    Attributes:
        output: what it writes, as bytes.
        input: a text stream to it.
    """

    def __init__(self, command: str) -> None:
        self._process = subprocess.Popen(
            command, shell=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None
        self.output = self._process.stdout
        self.input: Any = io.TextIOWrapper(self._process.stdin, encoding="utf-8")

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(BrokenPipeError):  # it has exited
            self.input.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def exit_code(self) -> int:
        """0 if it went well, 1 if not."""
        return 0 if self._process.returncode == 0 else 1
