"""`EmulatedClient`: a client without WebSockets that speaks the protocol.

What it says comes by requests of its own, see `emulation`.
"""

from __future__ import annotations

import secrets
from collections import deque
from typing import Any

from .client import StreamClient
from .forms import Form

__all__ = ["EmulatedClient"]

#: Frames that wait for the commands before them.
_MAX_HELD = 100


class EmulatedClient(StreamClient):
    """A client that is sent one response, and says something by others.

    Args:
        form: in which frames are sent.
        connect: the first frame of the client.
        args: as for `Client`.
    """

    __slots__ = ()

    def __init__(self, form: Form, connect: str, *args: Any) -> None:
        self._connect = connect
        #: Who has it speaks for this client.
        self._key = secrets.token_urlsafe(24)
        #: Frames that wait; None while they need not.
        self._held: deque[str] | None = None
        self._held_size = 0
        super().__init__(form, *args)

    def _begin(self) -> None:
        assert self._live is not None
        self._live.live.server._inputs[self._key] = self._take_frame
        connect, self._connect = self._connect, ""
        self._take_frame(connect)

    def _end(self) -> None:
        if self._live is not None:
            self._live.live.server._inputs.pop(self._key, None)
        super()._end()

    def _emulated(self) -> dict[str, str]:
        assert self._live is not None
        return {"session": self._key, "node": self._live.live.server.cluster.id}

    def _take_frame(self, frame: str) -> bool:
        """A frame has come by a request.

        Returns:
            False if too many wait already.
        """
        if not self._open:
            return True
        if self._held is None and self._is_behind():
            # As for others, who are not read then: there must be room for replies.
            self._held = deque()
            self._await_drain = True
        if self._held is None:
            self._deliver(frame)
            return True
        size = self._held_size + len(frame)
        # A single frame always fits.
        if self._held and (len(self._held) >= _MAX_HELD or size > self._write_limit):
            return False
        self._held.append(frame)
        self._held_size = size
        return True

    def _is_behind(self) -> bool:
        """Whether the client does not take its output."""
        return self._write_blocked and self.buffered_amount > self._write_limit >> 1

    def _on_drained(self) -> None:
        super()._on_drained()
        self._hold_input(False)

    @property
    def _input_held(self) -> bool:
        return self._held is not None

    def _hold_input(self, held: bool) -> None:
        if held:
            self._held = self._held or deque()
        elif self._held is not None:
            # Not from here: this may be called by the end of a command.
            self._loop.call_soon(self._take_held)

    def _take_held(self) -> None:
        held, self._held, self._held_size = self._held, None, 0
        for frame in held or ():
            self._take_frame(frame)
