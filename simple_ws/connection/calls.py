"""Calling the user's code: how long it takes, and where its exceptions end.

The message callback is called by the byte path itself, which hands on what it raises.
What becomes of the connection then is left to `closing`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..constants import CloseCause, CloseCode, Delivered, SendStatus, State
from ..errors import AuthenticationError, ProtocolError
from ..loop.deferred import name_of
from ..speedups import ConnectionCore
from ..text import excerpt
from .interfaces import Connection

__all__ = ["UserCalls"]

#: What functions of ours return, as in `return server.broadcast(msg)`, and that is no
#: answer; `deliver` returns a connection.
_NO_ANSWER = (SendStatus, Delivered, ConnectionCore)
_MESSAGES = (str, bytes, bytearray, memoryview, dict, list)


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

    def answer(self, client: Any, value: object) -> None:
        """Send what a message callback returned, unless that is no answer.

        Args:
            client: who gets it.
            value: not None.

        Raises:
            TypeError: It is no message; and as `Client.write_message`, which may be
                the user's, or of middlewares that take other objects.
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
