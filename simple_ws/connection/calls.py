"""Calls of user code: they are timed, and their exceptions are handled here.

The byte path calls the message callback itself and passes its exceptions to this
module. Closing the connection is left to `closing`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..constants import CloseCause, CloseCode, Delivered, SendStatus, State
from ..errors import AuthenticationError, ProtocolError
from ..speedups import ConnectionCore
from ..text import excerpt
from .interfaces import Connection

__all__ = ["UserCalls"]

#: Return values of our own functions, as in `return server.broadcast(msg)`, which are
#: no reply; `deliver` returns a connection.
_NO_ANSWER = (SendStatus, Delivered, ConnectionCore)
_MESSAGES = (str, bytes, bytearray, memoryview, dict, list)


class UserCalls:
    """Calls the callbacks of a connection; shared by all connections."""

    def call(
        self,
        client: Connection,
        callback: Callable[..., object],
        *args: object,
        owner: str | None = None,
    ) -> None:
        """Call a callback for a connection; it may raise anything.

        Args:
            client: the connection.
            callback: the function to call.
            args: its arguments.
            owner: name of its owner for the log; the handler's by default.
        """
        owner = owner or client._handler._log_name
        try:
            client._host._log.call(client, owner, callback, *args)
        except Exception as error:
            self.on_error(client, error)
        except BaseException as error:
            client._interrupt(error)

    def answer(self, client: Any, value: object) -> None:
        """Send the return value of a message callback, unless it is no reply.

        Args:
            client: the receiver.
            value: not None.

        Raises:
            TypeError: It is not a message; also the errors of `Client.write_message`,
                which users and middlewares may replace to accept other objects.
        """
        if isinstance(value, _NO_ANSWER):
            return
        plain = type(client).write_message is ConnectionCore.write_message
        if plain and not isinstance(value, _MESSAGES):
            shown = excerpt(repr(value))
            raise TypeError(
                f"on_message of {client._handler._log_name} returned {shown} "
                f"({type(value).__name__}): return None or a message"
            )
        client.write_message(value)

    def on_error(self, client: Connection, error: Exception) -> None:
        """Handle an exception of user code; all of them arrive here."""
        if isinstance(error, AuthenticationError):
            client._host._log.note_refusal(client.address, str(error))
            client._close(CloseCode.POLICY_VIOLATION, "authentication failed")
        elif isinstance(error, ProtocolError) and client.status is not State.CLOSED:
            self._fail_peer(client, error)
        else:
            try:
                client._handler.on_error(error, client)
            except Exception as failure:
                self.on_error_failed(client, failure)

    def on_error_failed(self, client: Connection, error: Exception) -> None:
        """Nothing is left to be asked: log it, and close."""
        name = client._handler._log_name
        client._host._log.note_failure(
            f"on_error of {name} failed",
            "on_error failed for %r",
            client,
            error=error,
            client=client,
        )
        self.fail(client)

    def fail(self, client: Connection) -> None:
        """Close because a callback raised; the default `on_error` does this."""
        reason = "the handler failed"
        client._close(CloseCode.INTERNAL_ERROR, reason, CloseCause.HANDLER_ERROR)

    def _fail_peer(self, client: Connection, error: ProtocolError) -> None:
        """User code raised a ProtocolError: the peer broke an application rule."""
        # The error's text becomes the close reason; not every text can be sent.
        error.args = (str(error).encode(errors="replace").decode(),)
        client._protocol.fail(error)
        client._protocol.take_event()
        client._follow()
        # Not from here: some parts may still need to learn that it opened.
        client._loop.call_soon(client._end)
