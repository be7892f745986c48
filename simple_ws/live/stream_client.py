"""`StreamClient`: a client of `live` that is sent an HTTP response without an end.

It is a connection like any other, with the same limits, and the same end: only what
goes over its socket is not WebSocket. What it says comes by requests of its own, see
`emulation`.
"""

from __future__ import annotations

import secrets
from collections import deque
from typing import Any, ClassVar

from ..connection.keepalive import KeepAlive
from ..connection.options import Options
from ..constants import CloseCause, SendStatus
from ..deflate import Agreement
from ..protocol.websocket import Buffer
from ..protocol.websocket import Protocol as WebSocketProtocol
from .client import LiveClient
from .commands import encode_push
from .forms import Form

__all__ = ["StreamClient"]

#: Frames that wait for the commands before them.
_MAX_HELD = 100
#: Close codes below have no meaning for clients: the connection was closed.
_FIRST_CODE = 3000


class StreamProtocol(WebSocketProtocol):
    """The rules of a response without an end: the peer sends nothing more.

    Args:
        form: in which frames are sent.
    """

    __slots__ = ("_form",)

    def __init__(self, form: Form) -> None:
        super().__init__()
        self._form = form
        self.between_messages = False

    def receive(self, data: Buffer, start: int, end: int) -> int:
        """Pass over what follows the request."""
        return end

    def _close_frame(self, code: int, reason: str) -> bytes:
        """Say why it ends, where that means something to the client."""
        if code < _FIRST_CODE:
            return self._form.nothing
        value = {"code": int(code), "reason": reason}
        return self._form.block(encode_push("disconnect", value))


class _StreamKeepAlive(KeepAlive):
    """There are no pings of WebSocket; those of `live` are enough."""

    def start(self, client: Any) -> None:
        """The connection is open."""

    def ping(self, client: Any, payload: bytes) -> bool:
        """It cannot be sent."""
        return False


class StreamClient(LiveClient):
    """A client without WebSockets, as hooks and methods get it.

    Args:
        form: in which frames are sent.
        connect: the first frame of the client.
        args: as for `Client`.
    """

    _keepalive: ClassVar = _StreamKeepAlive()
    _form: Form

    __slots__ = ("_connect", "_form", "_held", "_held_size", "_key")

    def __init__(self, form: Form, connect: str, *args: Any) -> None:
        self._form = form
        self._connect = connect
        #: Who has it speaks for this client.
        self._key = secrets.token_urlsafe(24)
        #: Frames that wait; None while they need not.
        self._held: deque[str] | None = None
        self._held_size = 0
        super().__init__(*args)

    def _make_protocol(
        self, options: Options, agreement: Agreement | None
    ) -> WebSocketProtocol:
        return StreamProtocol(self._form)

    def _open_with(self, response: bytes, rest: bytes, registered: bool) -> None:
        self._request.body = b""  # it may be as large as a message
        super()._open_with(response, rest, registered)
        if self._form.opening:
            self._enqueue(self._form.opening)
        connect, self._connect = self._connect, ""
        self.take_frame(connect)

    def _emulated(self) -> dict[str, str]:
        assert self._live is not None
        return {"session": self._key, "node": self._live.live.server.cluster.id}

    # Input

    def take_frame(self, frame: str) -> bool:
        """A frame has come by a request.

        Returns:
            False if too many wait already.
        """
        if not self._open:
            return True
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

    @property
    def _input_held(self) -> bool:
        return self._held is not None

    def _hold_input(self, held: bool) -> None:
        # The socket is read all the same: so it is noticed when the client leaves.
        if held:
            self._held = self._held or deque()
        elif self._held is not None:
            # Not from here: this may be called by the end of a command.
            self._loop.call_soon(self._take_held)

    def _take_held(self) -> None:
        held, self._held, self._held_size = self._held, None, 0
        for frame in held or ():
            self.take_frame(frame)

    # Output

    def _write_frame(self, text: str) -> SendStatus:
        if self._elsewhere():
            return self._write_elsewhere(text, None)
        return self._write_block(self._form.block(text))

    def _send(self, opcode: int, payload: bytes) -> SendStatus:
        return self._write_block(self._form.block(payload.decode()))

    def _write_block(self, block: bytes) -> SendStatus:
        """Send bytes of the form."""
        return self._send_framed(block)

    def _write_published(self, block: bytes, topic: str, offset: int) -> SendStatus:
        """Send a message of a topic in the form; see `Feeds.send`."""
        return self._send_framed(block)

    def _write_ping(self) -> None:
        self._write_block(self._form.ping)

    # The end

    def _close(
        self,
        code: int,
        reason: str,
        cause: CloseCause = CloseCause.LOCAL,
        timeout: float | None = None,
    ) -> bool:
        """Say why, and end the response: a client need not answer."""
        if not super()._close(code, reason, cause, timeout):
            return False
        self._protocol.conclude(code, reason, cause)
        self._sync()
        self._loop.call_soon(self._end)  # not from here, as in `Closing.cut`
        return True
