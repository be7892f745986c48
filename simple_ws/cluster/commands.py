"""Commands out of bytes: the broker's side of RESP, sans-I/O.

Only what clients send is read: arrays of bulk strings. `resp` reads the other
direction. (https://redis.io/docs/latest/develop/reference/protocol-spec/)
"""

from __future__ import annotations

import re

from .partial import PartialInput

__all__ = ["MAX_COMMAND", "Command", "CommandReader", "Publication"]

#: A published message: its channel, and channel and body as they were encoded.
Publication = tuple[bytes, bytes]
#: Any other command: its name in upper case, and its arguments.
Command = list[bytes]

#: Bytes of one command.
MAX_COMMAND = 64 * 1024 * 1024
#: Strings of one command; ours have 513 at most.
_MAX_STRINGS = 4096
#: Bytes of a line with a length.
_MAX_LINE = 16

#: Nearly everything that is received, up to the name of the channel; and what is
#: between that and the body. Lengths in canonical form only, since they are sent on.
_PUBLISH = re.compile(rb"\*3\r\n\$7\r\nPUBLISH\r\n\$(0|[1-9][0-9]{0,7})\r\n")
_BODY = re.compile(rb"\r\n\$(0|[1-9][0-9]{0,7})\r\n")


class _Problem(Exception):
    """The bytes are no commands."""


class CommandReader(PartialInput):
    """Reads the commands of one client.

    Attributes:
        limit: bytes of one command.
        problem: why the bytes are no commands; nothing is read after that.
    """

    def __init__(self, limit: int = MAX_COMMAND) -> None:
        super().__init__()
        self.limit = limit
        self.problem: str | None = None

    def receive(self, data: bytes) -> list[Publication | Command]:
        """Return the commands that are complete, for bytes that are cut anywhere.

        Never raises for what the bytes are: it sets `problem`.
        """
        if self.problem is not None:
            return []
        whole = self._join(data)
        if whole is None:
            return []
        items: list[Publication | Command] = []
        position = 0
        try:
            while (position := _read_publications(whole, position, items)) < len(whole):
                after = self._read_command(whole, position, items)
                if after < 0:
                    self._waiting.append(whole[position:])
                    break
                position = after
        except _Problem as problem:
            self.problem = str(problem)
        return items

    def _read_command(
        self, data: bytes, start: int, items: list[Publication | Command]
    ) -> int:
        """Return where it ends; -1: it is not complete, and `_needed` is set."""
        count, position = self._read_length(b"*", data, start, _MAX_STRINGS)
        strings: Command = []
        while position >= 0 and len(strings) < count:
            size, begin = self._read_length(b"$", data, position, self.limit)
            if begin < 0:
                return -1
            end = begin + size
            if end - start > self.limit:
                raise _Problem(f"a command of more than {self.limit:,} bytes")
            if len(data) < end + 2:
                self._needed = end + 2 - len(data)
                return -1
            if data[end : end + 2] != b"\r\n":
                raise _Problem("a string does not end where it should")
            strings.append(data[begin:end])
            position = end + 2
        if position >= 0:
            items.append(_named(strings))
        return position

    def _read_length(
        self, kind: bytes, data: bytes, position: int, limit: int
    ) -> tuple[int, int]:
        """Return a length, and where its line ends; -1: the line is not complete."""
        end = data.find(b"\r\n", position, position + _MAX_LINE)
        line = data[position : end if end >= 0 else position + _MAX_LINE]
        first = data[position : position + 1]
        if first not in (kind, b""):
            raise _Problem(f"expected '{kind.decode()}', got {first!r}")
        if end < 0:
            if len(line) == _MAX_LINE:
                raise _Problem("a length is too long")
            self._needed = 1
            return 0, -1
        if not line[1:].isdigit():
            raise _Problem("a length is no number")
        length = int(line[1:])
        if length > limit or (kind == b"*" and not length):
            raise _Problem(f"a length of {length:,}, where 1 to {limit:,} are allowed")
        return length, end + 2


def _named(strings: Command) -> Publication | Command:
    name = strings[0].upper()
    if name == b"PUBLISH" and len(strings) == 3:
        channel, body = strings[1:]
        encoded = b"$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
            len(channel),
            channel,
            len(body),
            body,
        )
        return channel, encoded
    strings[0] = name
    return strings


def _read_publications(
    data: bytes, position: int, items: list[Publication | Command]
) -> int:
    """Read the publications that are complete and come next; return where they end.

    What it leaves, for whatever reason, is read string by string, or refused there.
    """
    publish, body = _PUBLISH.match, _BODY.match
    while head := publish(data, position):
        start = head.end()
        end = start + int(head[1])
        middle = body(data, end)
        if middle is None:
            break
        last = middle.end() + int(middle[1])
        if data[last : last + 2] != b"\r\n":
            break
        # The string of the channel begins at its length.
        items.append((data[start:end], data[head.start(1) - 1 : last + 2]))
        position = last + 2
    return position
