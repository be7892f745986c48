"""What a NATS server sends, and the names of channels there; sans-I/O.

(https://docs.nats.io/reference/reference-protocols/nats-protocol)
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from hashlib import sha256

from .partial import PartialInput

__all__ = ["Line", "NatsMessage", "NatsReader", "subject_of"]

#: A message: the number of its subscription, and what was published.
NatsMessage = tuple[int, bytes]
#: Anything else, without its end, such as `PONG` or `INFO {…}`.
Line = bytes

#: Bytes of a message: servers allow 64 MiB at most. Bytes of a line: INFO names all
#: servers of a cluster.
_MAX_SIZE, _MAX_LINE = 2**26, 2**18
#: Bytes of a subject above which its end is a digest: a whole line may have 4,096.
_MAX_SUBJECT = 1024

_MSG = re.compile(rb"MSG [^\s]+ ([0-9]{1,18}) (?:[^\s]+ )?([0-9]{1,9})\r\n")
_PLAIN = re.compile(r"([A-Za-z0-9_:-]+\.[A-Za-z0-9_:-]+)(?:\.(.*))?", re.DOTALL)


class NatsReader(PartialInput):
    """Reads what one connection sends.

    Attributes:
        problem: why the bytes are not of this protocol; nothing is read after that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.problem: str | None = None

    def receive(self, data: bytes) -> list[NatsMessage | Line]:
        """Return what is complete, for bytes that are cut anywhere.

        Never raises for what the bytes are: it sets `problem`.
        """
        items: list[NatsMessage | Line] = []
        whole = None if self.problem is not None else self._join(data)
        if whole is None:
            return items
        position, match = 0, _MSG.match
        while position < len(whole):
            head = match(whole, position)
            if head is None:
                after = self._read_line(whole, position, items)
            else:
                after = self._read_body(whole, head, items)
            if after < 0:
                if self.problem is None:
                    self._waiting.append(whole[position:])
                break
            position = after
        return items

    def _read_body(
        self, data: bytes, head: re.Match[bytes], items: list[NatsMessage | Line]
    ) -> int:
        """Return where the message ends; -1: not here, and `_needed` is set."""
        start, size = head.end(), int(head[2])
        end = start + size
        if size > _MAX_SIZE:
            self.problem = f"a message of {size:,} bytes"
        elif len(data) < end + 2:
            self._needed = end + 2 - len(data)
        elif data[end : end + 2] != b"\r\n":
            self.problem = "a message does not end where it should"
        else:
            items.append((int(head[1]), data[start:end]))
            return end + 2
        return -1

    def _read_line(
        self, data: bytes, position: int, items: list[NatsMessage | Line]
    ) -> int:
        end = data.find(b"\r\n", position, position + _MAX_LINE)
        if end >= 0:
            line = data[position:end]
            if line.startswith((b"MSG", b"HMSG")):
                self.problem = "a message begins as none does"
                return -1
            items.append(line)
            return end + 2
        if len(data) - position >= _MAX_LINE:
            self.problem = f"a line of more than {_MAX_LINE:,} bytes"
        self._needed = 1
        return -1


def subject_of(channel: str) -> bytes:
    """The subject of a channel: no two have the same.

    Prefix and kind stay as they are, for the permissions of users; the rest may have
    any characters, and is encoded (base64url), after an underscore. Of a long one there
    is a digest, after a hyphen.
    """
    match = _PLAIN.fullmatch(channel)
    beginning, rest = (match[1], match[2]) if match else ("", channel)
    if rest is None:
        return beginning.encode()
    data = rest.encode("utf-8", "surrogatepass")
    token = b"_" + urlsafe_b64encode(data).rstrip(b"=")
    if len(token) > _MAX_SUBJECT:
        token = b"-" + urlsafe_b64encode(sha256(data).digest()).rstrip(b"=")
    return beginning.encode() + b"." + token if beginning else token
