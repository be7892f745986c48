"""`Form`: how lines become messages, and how messages are printed."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ...text import excerpt, for_terminal
from ..values import Failure

__all__ = ["Form"]


class Form(NamedTuple):
    """What `--binary` and `--json` say.

    Attributes:
        binary: lines are sent as binary messages.
        json: what is sent and printed is JSON.
    """

    binary: bool
    json: bool

    def encode(self, line: str) -> str | bytes:
        """The message for a line of text.

        Raises:
            Failure: It should be JSON, and is not.
            UnicodeError: It is not UTF-8.
        """
        data = line.encode(errors="surrogateescape")
        return data if self.binary and not self.json else self._text(data, line)

    def encode_bytes(self, line: bytes) -> str | bytes:
        """The message for a line of a pipe; errors as above, and Failure for UTF-8."""
        if self.binary and not self.json:
            return line
        try:
            text = line.removesuffix(b"\r").decode()
        except UnicodeDecodeError:
            raise Failure(f"{line[:20]!r} is not UTF-8; try --binary") from None
        return self._text(line, text)

    def _text(self, data: bytes, text: str) -> str | bytes:
        if self.json:
            try:
                json.loads(text)
            except ValueError as error:
                raise Failure(f"not JSON: {excerpt(text)}: {error}") from None
        else:
            text.encode()  # escaped bytes are no text
        return data if self.binary else text

    def shown(self, message: str | bytes) -> str:
        """A message for people, harmless to their terminal."""
        if self.json:
            try:
                value = json.loads(message)
                text = json.dumps(value, indent=2, ensure_ascii=False)
                return for_terminal(text)
            except ValueError:
                pass  # shown as it is
        if isinstance(message, bytes):
            return f"({message.hex(' ')})"
        return for_terminal(message)

    def write(self, message: str | bytes, out: Any) -> None:
        """Write a message to a stream, one line; for people if that is a terminal.

        Raises:
            Failure: It should be JSON, and is not.
        """
        if out.isatty():
            out.write(self.shown(message) + "\n")
            out.flush()
            return
        if self.json:
            message = _compact(message)
        if isinstance(message, str):
            message = message.encode(out.encoding, "backslashreplace")
        out.buffer.write(message + b"\n")
        out.flush()


def _compact(message: str | bytes) -> str:
    try:
        return json.dumps(json.loads(message), ensure_ascii=False)
    except ValueError:
        shown = excerpt(message) if isinstance(message, str) else repr(message[:20])
        raise Failure(f"a message that arrived is not JSON: {shown}") from None
