"""`Ending`: what becomes of a connection when something ends it.

A fault, a loss, a close frame, a callback that raised, a deadline: whatever it is, the
handler is told exactly once. What is said on the connection until then is left to
`connection.client`.

How it ends: the protocol becomes CLOSED (closing handshake, fault, loss or cut); the
server forgets the client; `on_close` is called; what is in the outbox is written; our
side of the connection is shut; the socket is closed when the peer has closed too, or
after `close_timeout`. RFC 6455 §7.1.1: the server closes first, and a socket closed
with unread input would be reset, and our last frames lost with it.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from ..constants import CloseCause, CloseCode, State
from ..errors import AuthenticationError, ProtocolError
from ..loop.reactor import WRITE, Reactor, unsent_by_system
from ..loop.timers import Timer
from ..protocol.http11 import Request
from ..protocol.websocket import Protocol as WebSocketProtocol
from ..speedups import ConnectionCore, Tally
from .admission import Admission
from .log import Log
from .options import Options
from .topics import Group

__all__ = ["Ending", "Handler", "Home"]

logger = logging.getLogger("simple_ws")

_NO_CLOSE_FRAME = "connection closed without a close frame"


class Handler(Protocol):
    """The callbacks of a connection (`websocket.WebSocket` has them)."""

    clients: Group[Any]
    options: Options
    #: `on_message`, bound once for all connections.
    message_callback: Callable[[Any, Any], object]
    #: Clients must be bound to an identity within `auth_timeout`.
    authenticates: bool
    name: str
    tally: Tally
    #: Limits at the door of its own, where it was given some.
    _admission: Admission | None

    def on_open(self, client: Any) -> object:
        """After the handshake."""

    def on_message(self, msg: Any, client: Any) -> object:
        """A message came; what is returned is the answer."""

    def on_close(self, client: Any) -> object:
        """Once for each `on_open`."""

    def on_ping(self, client: Any) -> object:
        """A ping was sent, or came."""

    def on_pong(self, client: Any) -> object:
        """A pong came."""

    def on_drain(self, client: Any) -> object:
        """The outbox is empty again."""

    def on_error(self, error: Exception, client: Any) -> object:
        """A callback raised."""


class Home(Protocol):
    """What a connection needs of its server."""

    reactor: Reactor
    _log: Log

    def _add_client(self, client: Any) -> None:
        """The connection is open: it counts and receives from now on."""

    def _remove_client(self, client: Any) -> None:
        """The connection has ended: it counts and receives no more."""

    def _release_client(self, client: Any) -> None:
        """Its socket is closed."""

    def subscribe(self, topic: str, client: Any, priority: float) -> None:
        """Add a subscription."""

    def unsubscribe(self, topic: str, client: Any) -> None:
        """End a subscription."""

    def publish(self, topic: str, msg: object, exclude: Any = ()) -> int:
        """Send to all subscribers but those excluded."""

    def bind(self, client: Any, client_id: Any) -> None:
        """Give the connection an identity."""


class Ending(ConnectionCore):
    """A connection that ends once; `client.Client` is what users see of it."""

    _loop: Reactor
    _protocol: WebSocketProtocol

    __slots__ = (
        "_handler",
        "_home",
        "_request",
        "_timer",
    )

    def __init__(
        self,
        sock: socket.socket,
        home: Home,
        handler: Handler,
        request: Request,
        options: Options,
        protocol: WebSocketProtocol,
    ) -> None:
        super().__init__(
            sock, home.reactor, protocol, options.buffer_size, options.write_limit
        )
        self._home = home
        self._handler = handler
        self._request = request
        self._tally = handler.tally
        self._timer: Timer | None = None

    @property
    def _options(self) -> Options:
        return self._handler.options

    def is_open(self) -> bool:
        """Whether messages can be written: opened, and not closing or closed."""
        return self._open

    def _follow(self) -> None:
        """Do what the protocol has come to: send its answers, tell of its event."""
        raise AssertionError("to be provided")

    # Callbacks

    def _call(
        self,
        callback: Callable[..., object],
        *args: object,
        owner: str | None = None,
    ) -> None:
        """Call the user's code.

        Args:
            callback: what to call.
            args: with what.
            owner: whose it is, for the log; the handler's by default.
        """
        began = self._loop.clock()
        try:
            callback(*args)
        except Exception as error:
            self._on_callback_error(error)
        spent = self._loop.clock() - began
        if spent > self._loop.slow:
            name = getattr(callback, "__name__", repr(callback))
            what = f"{owner or self._handler.name}.{name}"
            self._home._log.note_slow(what, self._request.path, spent)

    def _on_callback_error(self, error: Exception) -> None:
        """The one place where exceptions of user code arrive."""
        if isinstance(error, AuthenticationError):
            self._home._log.note_refusal(self._request.address, str(error))
            self._close(CloseCode.POLICY_VIOLATION, "authentication failed")
            return
        closed = self._protocol.state is State.CLOSED
        if isinstance(error, ProtocolError) and not closed:
            # What the peer sent broke a rule of the user's; it is told in their words,
            # which may hold what cannot be sent.
            error.args = (str(error).encode(errors="replace").decode(),)
            self._protocol.fail(error)
            self._protocol.take_event()
            self._follow()
            # Not from here: others may still have to be told that it opened.
            self._loop.call_soon(self._end)
            return
        try:
            self._handler.on_error(error, self)
        except Exception:
            logger.exception("on_error failed for %r", self)
            self._fail_handler()

    def _fail_handler(self) -> None:
        """Close because a callback raised; what the default `on_error` does."""
        reason = "the handler failed"
        self._close(CloseCode.INTERNAL_ERROR, reason, CloseCause.HANDLER_ERROR)

    def _on_drained(self) -> None:
        if self._protocol.state is State.CLOSED:
            self._half_close()
        elif self.is_open():
            self._call(self._handler.on_drain, self)

    # Ending

    def _close(
        self,
        code: int,
        reason: str,
        cause: CloseCause = CloseCause.LOCAL,
        patience: float | None = None,
    ) -> bool:
        if not self.is_open():
            return False
        self._wait_for_peer(self._on_close_timeout, patience)
        self._enqueue(self._protocol.send_close(code, reason, cause))
        self._sync()
        if self._held:
            self._hold(False)  # nothing is delivered any more: hear the answer
        return True

    def _on_close_timeout(self) -> None:
        self._cut("no answer to our close frame", CloseCause.LOCAL)

    def _on_lost(self, error: OSError | None) -> None:
        if not self._registered:
            return  # an event of this turn, for a socket that a callback closed
        if error is not None:
            self._cut(error.strerror or str(error), CloseCause.RESET)
        elif self.buffered_amount:
            self._finish_output()
        else:
            if self._request.secure:
                self._half_close()  # RFC 8446 §6.1: not without our close_notify
            self._cut(_NO_CLOSE_FRAME, CloseCause.EOF)

    def _finish_output(self) -> None:
        """The peer ceased to send, perhaps not to read: give it what is there.

        When that is done the loop watches for reading again, and finds the end again.
        """
        self._protocol.conclude(CloseCode.ABNORMAL, _NO_CLOSE_FRAME, CloseCause.EOF)
        self._sync()
        self._blocked = True
        self._watch(WRITE)
        if not self._ended:
            self._loop.call_soon(self._end)

    def _abandon(self) -> None:
        """Cut it because something of ours went wrong; for the loop."""
        self._cut("internal error", CloseCause.HANDLER_ERROR)

    def _cut(self, reason: str, cause: CloseCause) -> None:
        """Close the socket now, whatever the protocol had in mind."""
        self._protocol.conclude(CloseCode.ABNORMAL, reason, cause)
        self._sync()
        self._release()
        if not self._ended:
            # Not from here: this may run inside a callback of the user's.
            self._loop.call_soon(self._end)

    def _end(self) -> None:
        """The protocol has come to its end: tell everybody, once."""
        if self._ended:
            return
        self._ended = True
        client: Any = self  # a `Client`, with all that those below ask of it
        self._loop.wheel.discard(client)
        self._home._remove_client(client)
        self._home._log.note_end(client)
        self._call(self._handler.on_close, self)
        if self._registered:
            self._wait_for_peer(self._release)
            if self.buffered_amount:
                self._await_drain = True
            else:
                self._half_close()

    def _wait_for_peer(
        self, give_up: Callable[[], object], patience: float | None = None
    ) -> None:
        """Give up after `patience` seconds, or after `close_timeout`: then, whoever
        still takes what was written before has `ping_timeout` in all."""
        latest = 0.0
        if patience is None:
            patience = self._options.close_timeout
            latest = self._loop.clock() + self._options.ping_timeout
        # What the system has, it will deliver without us.
        left = self._untaken() if self.buffered_amount else 0
        self._arm(partial(self._look_at_peer, give_up, left, latest), patience)

    def _look_at_peer(
        self, give_up: Callable[[], object], left_before: int, latest: float
    ) -> None:
        left, rest = self._untaken(), latest - self._loop.clock()
        if rest > 0 and self.buffered_amount and left < left_before:
            look = partial(self._look_at_peer, give_up, left, latest)
            self._arm(look, min(rest, self._options.close_timeout))
        else:
            give_up()

    def _untaken(self) -> int:
        """Bytes of output that the peer has not taken, as far as this system knows."""
        return self.buffered_amount + unsent_by_system(self._sock)

    def _arm(self, callback: Callable[[], object], delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay, callback)

    def _half_close(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def _watch(self, events: int) -> None:
        if not self._registered:
            return
        reactor = self._loop
        if not events:
            # Selectors tell of a hang-up even to those who want nothing.
            if not self._parked:
                self._parked = True
                reactor.unregister(self._sock)
        elif self._parked:
            self._parked = False
            reactor.register(self._sock, events, self)
        else:
            reactor.modify(self._sock, events, self)

    def _release(self) -> None:
        """Give the socket back."""
        if not self._registered:
            return
        self._registered = False
        if self._timer is not None:
            self._timer.cancel()
        self._discard_output()
        if not self._parked:
            self._loop.unregister(self._sock)
        self._sock.close()
        self._detach()
        self._home._release_client(self)
