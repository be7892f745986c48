"""`StreamClient`: a client of `live` that is sent an HTTP response without an end.

It is a connection like any other, with the same limits, and the same end: only what
goes over its socket is not WebSocket. Those that say something, by requests of their
own, are in `emulated_client`; the others in `one_way_client`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar

from ...connection.backpressure import untaken
from ...connection.interfaces import Connection
from ...connection.keepalive import KeepAlive
from ...connection.options import Options
from ...constants import CloseCause, SendStatus
from ...deflate import Agreement
from ...protocol.websocket import Buffer, Rules
from ...protocol.websocket import Protocol as WebSocketProtocol
from ..client import LiveClient
from ..commands import encode_push
from .forms import Form

__all__ = ["StreamClient", "combined"]

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


class StreamRules(Rules):
    """The same, as what makes it.

    Args:
        form: see `StreamProtocol`.
    """

    __slots__ = ("_form",)

    def __init__(self, form: Form) -> None:
        super().__init__()
        self._form = form

    def begin(self) -> WebSocketProtocol:
        """See `Rules`."""
        return StreamProtocol(self._form)


class _StreamKeepAlive(KeepAlive):
    """There are no pings of WebSocket; those of `live` are enough."""

    def start(self, client: Connection) -> None:
        """The connection is open: it may be idle for too long."""
        if client._options.idle_timeout is not None:
            super().start(client)

    def ping(self, client: Connection, payload: bytes) -> bool:
        """It cannot be sent."""
        return False

    def _look_for_life(self, client: Connection, now: float) -> bool:
        return True

    def _next_look(self, client: Connection, now: float) -> float:
        return client._last_message + (client._options.idle_timeout or 0.0)


@lru_cache
def combined(kind: type[StreamClient], client_class: Any) -> type[StreamClient]:
    """A kind of client that has what the `client_class` of a handler has, too."""
    if not isinstance(client_class, type) or issubclass(kind, client_class):
        return kind
    return type(client_class.__name__, (kind, client_class), {"__slots__": ()})


class StreamClient(LiveClient):
    """A client without WebSockets, as hooks and methods get it.

    Args:
        form: in which frames are sent.
        args: as for `Client`.
    """

    _keepalive: ClassVar[KeepAlive] = _StreamKeepAlive()
    _form: Form

    # Nothing in slots: the class can be combined with one of the user's.
    __slots__ = ()

    def __init__(self, form: Form, *args: Any) -> None:
        self._form = form
        #: Bytes that it had taken at the last ping, if it lacked some.
        self._taken: int | None = None
        super().__init__(*args)

    def _make_rules(self, options: Options, agreement: Agreement | None) -> Rules:
        return StreamRules(self._form)

    def _open_with(self, response: bytes, rest: bytes, registered: bool) -> None:
        self._request.body = b""  # it may be as large as a message
        super()._open_with(response, rest, registered)

    def _begin(self) -> None:
        """Take what came with the request; the handler knows of the client."""

    # The socket is always read, so that it is noticed when the client leaves.

    @property
    def _input_held(self) -> bool:
        return False

    def _hold_input(self, held: bool) -> None:
        """Nothing comes over the socket."""

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

    def _write_publication(self, text: str, topic: str, offset: int) -> SendStatus:
        return self._write_published(self._form.block(text), topic, offset)

    def _write_published(self, block: bytes, topic: str, offset: int) -> SendStatus:
        """Send a message of a topic in the form; see `Feeds.send`."""
        return self._write_block(block)

    def _write_ping(self) -> None:
        """Send a ping; cut a client that has taken nothing since the last one."""
        left = untaken(self)
        taken = self.bytes_sent + self.buffered_amount - left
        if left and taken == self._taken:
            self._cut("it takes no output", CloseCause.PING_TIMEOUT)
            return
        self._taken = taken if left else None
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
