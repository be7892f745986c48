"""`LiveClient`: a connection that speaks the protocol of `live`.

What users write to it becomes a push; the frames of the protocol go out as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..connection.client import Client
from ..constants import CloseCause, SendStatus
from ..speedups import ConnectionCore, fan_out
from .codes import Disconnect
from .commands import encode_message
from .interfaces import LiveHost
from .methods import checked_time
from .session import Session
from .streams.forms import Form

__all__ = ["LiveClient", "write_to_all"]

#: Why we end a connection, as clients of the protocol understand it.
_CODES = {
    CloseCause.SHUTDOWN: Disconnect.SHUTDOWN,
    CloseCause.SLOW_CONSUMER: Disconnect.SLOW,
    CloseCause.PING_TIMEOUT: Disconnect.NO_PONG,
    CloseCause.HANDLER_ERROR: Disconnect.SERVER_ERROR,
}


class LiveClient(Client):
    """A client of `Server.live`, as hooks and methods get it.

    It is a `Client`, with these differences: `write_message`, `broadcast` and `send_to`
    reach it as a `message` of the protocol, as JSON (bytes in base64), and not before
    it is connected; `subscribe` and `unsubscribe` are subscriptions by the server, and
    its program is told of them. A client that has connected without WebSockets cannot
    be sent such pings: `ping` returns False, and `latency` is None.
    """

    #: See `forms`: what it is sent is not in frames of WebSocket.
    _form: Form | None = None

    __slots__ = ("_live",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._live: Session | None = None

    def write_message(self, msg: object, binary: bool | None = None) -> SendStatus:
        """Send a `message` of the protocol; see `Client.write_message`.

        Args:
            msg: what JSON can represent; bytes are sent in base64.
            binary: without meaning here.

        Raises:
            TypeError, ValueError: JSON cannot represent it.
        """
        session, text = self._live, encode_message(msg)
        if session is None or not session.is_connected:
            return SendStatus.DROPPED
        if not self._elsewhere():
            session.flush()
        return self._write_frame(text)

    def send(self, msg: object, binary: bool | None = None) -> SendStatus:
        """The same as `write_message`."""
        return self.write_message(msg, binary)

    def refresh(self, expires_at: float | None) -> None:
        """Say until when the connection may stay; its program is told (`refresh`).

        Nothing happens before it is connected, and after it has ended. It may be
        called from any thread.

        Args:
            expires_at: seconds since 1970; a time that has passed ends the connection
                (3005). None: it may stay for ever.

        Raises:
            TypeError, ValueError: It is something else.
        """
        expires_at = checked_time(expires_at)
        session = self._live
        if session is not None:
            session.live.server._on_loop(self._refresh, session, expires_at)

    def _refresh(self, session: Session, expires_at: float | None) -> None:
        if session.is_connected:
            session.live.expire_client(session, expires_at)

    def _write_frame(self, text: str) -> SendStatus:
        """Send text of the protocol."""
        return ConnectionCore.write_message(self, text)

    def _make_session(self, live: LiveHost) -> Session:
        """What it has of the handler."""
        return Session(live, self)

    def _emulated(self) -> dict[str, str]:
        """What else stands in the connect result; see `emulation`."""
        return {}

    def _write_publication(self, text: str, topic: str, offset: int) -> SendStatus:
        """Send a message of a topic, as `commands.encode_publication` has made it."""
        return self._write_frame(text)

    @property
    def _input_held(self) -> bool:
        """Whether its next commands wait for those before them."""
        return self._paused_by_callbacks

    def _hold_input(self, held: bool) -> None:
        self._pause_reading(held)

    def _close(
        self,
        code: int,
        reason: str,
        cause: CloseCause = CloseCause.LOCAL,
        timeout: float | None = None,
    ) -> bool:
        """See `Closing.close`; the code says whether to come back."""
        known = _CODES.get(cause)
        if known is not None:
            code, reason = known
        return super()._close(code, reason, cause, timeout)


def write_to_all(clients: Iterable[Any], text: str) -> None:
    """Send text of the protocol to many clients, encoded once for each form."""
    framed: list[LiveClient] = []
    blocks: dict[Form, bytes] = {}
    for client in clients:
        form = client._form
        if form is None:
            framed.append(client)
            continue
        if form not in blocks:
            blocks[form] = form.block(text)
        client._write_block(blocks[form])
    fan_out(framed, text, (), raw=True)
