"""How a connection ends; every cause leads to the same steps, taken once.

The causes are a fault, a loss, a close frame, a callback that raised, a deadline. The
steps: the protocol becomes CLOSED; the server forgets the client; `on_close` is called;
the outbox is written; our side of the connection is shut down; the socket is closed
when the peer has closed too, or after `close_timeout`. RFC 6455 §7.1.1: the server
closes first. A socket closed with unread input would be reset, and our last frames
would be lost.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from ..constants import CloseCause, State
from ..errors import NO_ANSWER, NO_CLOSE_FRAME
from ..loop.forks import close_copy, close_socket
from ..loop.reactor import WRITE
from .backpressure import untaken
from .interfaces import Connection

__all__ = ["Closing"]


class Closing:
    """Ends connections, each exactly once; shared by all connections."""

    def close(
        self,
        client: Connection,
        code: int,
        reason: str,
        cause: CloseCause = CloseCause.LOCAL,
        timeout: float | None = None,
    ) -> bool:
        """Start the closing handshake; return False when it has started already.

        Args:
            client: the connection.
            code: close code of our close frame.
            reason: close reason of our close frame.
            cause: for logs and statistics.
            timeout: seconds to wait for the peer's answer, see `_wait_for_peer`.
        """
        if not client.is_open():
            return False
        give_up = partial(self.cut, client, NO_ANSWER, CloseCause.LOCAL)
        self._wait_for_peer(client, give_up, timeout)
        client._enqueue(client._protocol.send_close(code, reason, cause))
        client._sync()
        if client._paused_by_callbacks:
            # Nothing is delivered any more: read the answer.
            client._pause_reading(False)
        return True

    def cut(
        self,
        client: Connection,
        reason: str,
        cause: CloseCause,
        at_once: bool = False,
    ) -> None:
        """Close the socket now, whatever state the protocol is in.

        Args:
            client: the connection.
            reason: for the log and for `close_reason`.
            cause: for logs and statistics.
            at_once: the end is told now; the caller is no callback of the user's.
        """
        client._conclude(reason, cause)
        # A peer that has gone need not be told.
        self._release(client, _close if cause is CloseCause.RESET else close_socket)
        if at_once:
            client._end()
        elif not client._ended:
            # Not from here: this may run inside a user callback.
            client._loop.call_soon(client._end)

    def on_lost(self, client: Connection, error: OSError | None, reading: bool) -> None:
        """The connection is gone: by an error, or closed by the peer (None).

        Args:
            client: the connection.
            error: the error.
            reading: the loop has found it; no callback is running.
        """
        if not client._attached:
            return  # an event of this turn for a socket that a callback has closed
        if error is not None:
            reason = error.strerror or str(error)
            self.cut(client, reason, CloseCause.RESET, reading)
        elif client.buffered_amount:
            self._finish_output(client)
        else:
            if client.secure:
                self._half_close(client)  # RFC 8446 §6.1: send our close_notify first
            self.cut(client, NO_CLOSE_FRAME, CloseCause.EOF, reading)

    def on_drained(self, client: Connection) -> None:
        """All output has been written."""
        if client.status is State.CLOSED:
            self._half_close(client)
        elif client.is_open():
            client._host._note_drained(client)
            client._call(client._handler.on_drain, client)

    def end(self, client: Connection) -> None:
        """The protocol is CLOSED: notify the server and the user, once."""
        if client._ended:
            return
        client._ended = True
        client._loop.wheel.discard(client)
        client._host._remove_client(client)
        client._host._log.note_end(client)
        client._call(client._handler.on_close, client)
        if client._attached:
            self._wait_for_peer(client, partial(self._release, client))
            if client.buffered_amount:
                client._await_drain = True
            else:
                self._half_close(client)

    def forget(self, client: Connection) -> None:
        """Close a forked process's copy of the socket; the parent has the connection.

        No callback is called: nothing has ended.
        """
        client._ended = True
        client._conclude("in a forked process", CloseCause.SHUTDOWN)
        client._unregistered = True  # the parent's loop waits for it
        client._host._remove_client(client)
        self._release(client, close_copy)

    def _finish_output(self, client: Connection) -> None:
        """The peer has stopped sending, but may still read: write the pending output.

        After that the loop watches for reading again, and finds the end again.
        """
        client._conclude(NO_CLOSE_FRAME, CloseCause.EOF)
        client._write_blocked = True
        client._watch(WRITE)
        if not client._ended:
            client._loop.call_soon(client._end)

    def _wait_for_peer(
        self,
        client: Connection,
        give_up: Callable[[], object],
        timeout: float | None = None,
    ) -> None:
        """Give up after `timeout` seconds, by default `close_timeout`; from then on, a
        peer that still takes earlier output has `ping_timeout` in all."""
        latest = 0.0
        if timeout is None:
            timeout = client._options.close_timeout
            latest = client._loop.clock() + client._options.ping_timeout
        # The system delivers without us what it has accepted.
        left = untaken(client) if client.buffered_amount else 0
        look = partial(self._look_at_peer, client, give_up, left, latest)
        _arm(client, look, timeout)

    def _look_at_peer(
        self,
        client: Connection,
        give_up: Callable[[], object],
        left_before: int,
        latest: float,
    ) -> None:
        left, rest = untaken(client), latest - client._loop.clock()
        if rest > 0 and client.buffered_amount and left < left_before:
            look = partial(self._look_at_peer, client, give_up, left, latest)
            _arm(client, look, min(rest, client._options.close_timeout))
        else:
            give_up()

    def _half_close(self, client: Connection) -> None:
        with suppress(OSError):
            client._sock.shutdown(socket.SHUT_WR)

    def _release(
        self, client: Connection, close: Callable[[Any], object] = close_socket
    ) -> None:
        """Give the socket back."""
        if not client._attached:
            return
        client._attached = False
        if client._timer is not None:
            client._timer.cancel()
        client._discard_output()
        if not client._unregistered:
            client._loop.unregister(client._sock)
        close(client._sock)
        client._detach()
        client._host._release_client(client)


def _close(sock: Any) -> None:
    sock.close()


def _arm(client: Connection, callback: Callable[[], object], delay: float) -> None:
    """Set the connection's only timer."""
    if client._timer is not None:
        client._timer.cancel()
    client._timer = client._loop.call_later(delay, callback)
