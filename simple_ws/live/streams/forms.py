"""Forms in which HTTP carries frames of the protocol to a client: lines, or events.

A frame is put into a form once for all clients that have it (`feeds.Feeds`). What
browsers make of events is said by the HTML Standard, "Server-sent events".
"""

from __future__ import annotations

import random
from typing import Final

from ..commands import PING

__all__ = ["EVENTS", "LINES", "PUSHES", "Form"]

#: What surrounds a push in a frame.
_BEFORE, _AFTER = '{"push":', "}"
#: Milliseconds until a browser comes back; it is 3 seconds in most, if nothing is said.
_RETRY = 2000, 5000


class Form:
    """Frames as they are, one object a line; the responses of `http_stream`.

    Attributes:
        content_type: of the response.
        nothing: bytes without meaning.
        ping: what shows that the connection is there.
    """

    content_type = "application/json"
    nothing = b"\n"
    ping = PING.encode() + b"\n"

    def block(self, frame: str) -> bytes:
        """A frame of the protocol in this form."""
        return f"{frame}\n".encode()


class _Events(Form):
    """Each frame is an event."""

    content_type = "text/event-stream"
    nothing = b":\n\n"
    ping = f"data: {PING}\n\n".encode()

    def block(self, frame: str) -> bytes:
        """A frame of the protocol in this form."""
        # Either would end a line; in JSON they stand only where blanks may.
        lines = frame.replace("\r", " ").replace("\n", "\ndata: ")
        return f"data: {lines}\n\n".encode()


class _Pushes(_Events):
    """Each push is an event, without what surrounds it: clients in one direction."""

    ping = _Events.nothing

    def block(self, frame: str) -> bytes:
        """A push in this form; other frames are an answer to nobody."""
        if not frame.startswith(_BEFORE):
            return self.nothing
        return super().block(frame[len(_BEFORE) : -len(_AFTER)])

    def opening(self) -> bytes:
        """When a browser comes back; not all at once."""
        return f"retry: {random.randint(*_RETRY)}\n\n".encode()


LINES: Final = Form()
EVENTS: Final = _Events()
PUSHES: Final = _Pushes()
