"""Calling the user's code: how long it takes, and where its exceptions end.

The message callback is called by the byte path itself, which hands on what it raises.
What becomes of the connection then is left to `closing`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..constants import CloseCause, CloseCode, State
from ..errors import AuthenticationError, ProtocolError
from ..loop.deferred import name_of
from .interfaces import Connection

__all__ = ["UserCalls"]

logger = logging.getLogger("simple_ws")


class UserCalls:
    """Calls callbacks of a connection; shared by all connections."""

    def call(
        self,
        client: Connection,
        callback: Callable[..., object],
        *args: object,
        owner: str | None = None,
    ) -> None:
        """Call a callback for a connection; it may raise what it likes.

        Args:
            client: whose connection it is.
            callback: what to call.
            args: with what.
            owner: whose it is, for the log; the handler's by default.
        """
        what = f"{owner or client._handler._log_name}.{name_of(callback)}"
        with client._host._log.timed(what, client._request):
            try:
                callback(*args)
            except Exception as error:
                self.on_error(client, error)
            except BaseException as error:
                client._interrupt(error)

    def on_error(self, client: Connection, error: Exception) -> None:
        """The one place where exceptions of user code arrive."""
        if isinstance(error, AuthenticationError):
            client._host._log.note_refusal(client._request.address, str(error))
            client._close(CloseCode.POLICY_VIOLATION, "authentication failed")
        elif (
            isinstance(error, ProtocolError)
            and client._protocol.state is not State.CLOSED
        ):
            self._fail_peer(client, error)
        else:
            try:
                client._handler.on_error(error, client)
            except Exception:
                logger.exception("on_error failed for %r", client)
                self.fail(client)

    def fail(self, client: Connection) -> None:
        """Close because a callback raised; what the default `on_error` does."""
        reason = "the handler failed"
        client._close(CloseCode.INTERNAL_ERROR, reason, CloseCause.HANDLER_ERROR)

    def _fail_peer(self, client: Connection, error: ProtocolError) -> None:
        """The user's code raised a ProtocolError: the peer broke a rule of theirs."""
        # Its text is the close reason, and may hold what cannot be sent.
        error.args = (str(error).encode(errors="replace").decode(),)
        client._protocol.fail(error)
        client._protocol.take_event()
        client._follow()
        # Not from here: others may still have to be told that it opened.
        client._loop.call_soon(client._end)
