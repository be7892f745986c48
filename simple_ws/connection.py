"""`Client`: one open connection, as users see it.

It drives `protocol` for whatever `ConnectionCore` does not carry by itself, keeps the
heartbeat, ends exactly once, and tells the handler. Whom a message goes to is left to
`topics`, everything before the upgrade to `incoming`.

How it ends: the protocol becomes CLOSED (closing handshake, fault, loss or cut); the
server forgets the client; `on_close` is called; what is in the outbox is written; our
side of the connection is shut; the socket is closed when the peer has closed too, or
after `close_timeout`. RFC 6455 §7.1.1: the server closes first, and a socket closed
with unread input would be reset, and our last frames lost with it.
"""

from __future__ import annotations

import itertools
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import get_ident
from typing import Any, Protocol

from .constants import (
    CloseCause,
    CloseCode,
    Opcode,
    SendStatus,
    State,
)
from .deflate import Agreement
from .errors import AuthenticationError, ProtocolError, RateExceeded
from .http11 import Fields, Headers, Request
from .journal import Journal
from .messages import check_close, check_ping, encode_message
from .options import Options
from .protocol import Protocol as WebSocketProtocol
from .reactor import READ, WRITE, Reactor, unsent_by_system
from .speedups import ConnectionCore, Tally
from .timers import Timer
from .topics import Group

__all__ = ["Client", "Handler", "Home"]

logger = logging.getLogger("simple_ws")

_ids = itertools.count(1)

_PONG = 0x80 | Opcode.PONG
#: Pings whose answer is waited for; more than a handful only a user sends.
_MAX_PINGS = 64
#: Pings of these that a peer that does not read is sent: control frames are never
#: dropped, and nothing may grow without bound.
_MAX_QUEUED = 16


class Handler(Protocol):
    """The callbacks of a connection (`websocket.WebSocket` has them)."""

    clients: Group[Client]
    options: Options
    #: `on_message`, bound once for all connections.
    message_callback: Callable[[Any, Any], object]
    #: Clients must be bound to an identity within `auth_timeout`.
    authenticates: bool
    name: str
    tally: Tally

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
    journal: Journal

    def welcome(self, client: Client) -> None:
        """The connection is open: it counts and receives from now on."""

    def forget(self, client: Client) -> None:
        """The connection has ended: it counts and receives no more."""

    def release(self, client: Client) -> None:
        """Its socket is closed."""

    def subscribe(self, topic: str, client: Client, priority: float) -> None:
        """Add a subscription."""

    def unsubscribe(self, topic: str, client: Client) -> None:
        """End a subscription."""

    def publish(self, topic: str, msg: object, exclude: Any = ()) -> int:
        """Send to all subscribers but those excluded."""

    def bind(self, client: Client, client_id: Any) -> None:
        """Give the connection an identity."""


class Client(ConnectionCore):
    """One open connection. The server makes it; users write to it and close it.

    Every method may be called from any thread: on the loop's own it acts directly,
    from another it is queued and wakes the loop, in the order of the calls.

    A subclass (`client_class` of a handler) may override what it likes; what it makes
    of `write_message` holds for all that is sent. A function that is put in place of
    `write_message` on one client only is not asked by `broadcast`, `publish` and
    `send_to`, which send one frame to many.

    Attributes:
        id: unique in the process.
        subprotocol: what was agreed (RFC 6455 §1.9), or None.
        latency: seconds from the last answered ping to its pong, or None.
        ping_payload, pong_payload: bytes of the last ping and pong.
        opened_at: seconds since the epoch.
        buffered_amount: bytes of output that the system has not taken yet.
        messages_received, messages_sent: data messages so far.
        bytes_received, bytes_sent: bytes so far, frames included.
    """

    _protocol: WebSocketProtocol

    # Attributes of the user's own live in a dict that is made when first used: a
    # server holds 50,000 of these.
    __slots__ = (
        "_ahead",
        "_client_id",
        "_ended",
        "_handler",
        "_home",
        "_parked",
        "_pinged_at",
        "_pings",
        "_registered",
        "_request",
        "_session",
        "_timer",
        "_topics",
        "bucket",
        "latency",
        "ping_payload",
        "pong_payload",
        "subprotocol",
    )

    def __init__(
        self,
        sock: socket.socket,
        home: Home,
        handler: Handler,
        request: Request,
        options: Options,
        agreement: Agreement | None,
        subprotocol: str | None,
    ) -> None:
        protocol = WebSocketProtocol(
            max_size=options.max_size,
            max_frame_size=options.max_frame_size,
            agreement=agreement,
        )
        super().__init__(
            sock, home.reactor, protocol, options.buffer_size, options.write_limit
        )
        self.id = next(_ids)
        self._client_id: Any = None
        self.opened_at = time.time()
        self.subprotocol = subprotocol
        self.latency: float | None = None
        self.ping_payload = self.pong_payload = b""
        #: Where the wheel keeps this connection (`timers.Sweepable`).
        self.bucket: set[Any] | None = None
        self._home = home
        self._handler = handler
        self._tally = handler.tally
        if options.message_rate is not None:
            self._limit_rate(*options.message_rate)
        self._registered = self._ended = self._parked = False
        self._timer: Timer | None = None
        self._pinged_at: float | None = None
        #: Where the ping stands in our output, and how much before it the peer has not
        #: taken; None for nothing.
        self._ahead: tuple[int, int] | None = None
        # Made when first used.
        self._pings: dict[bytes, float] | None = None
        self._session: Any = None
        self._topics: set[str] | None = None
        self._request = request

    @property
    def _reactor(self) -> Reactor:
        return self._loop  # type: ignore[return-value]  # it was given one

    @property
    def _options(self) -> Options:
        return self._handler.options

    # What a user may ask

    @property
    def session(self) -> Any:
        """What `on_request` returned, otherwise a dict of the connection's own."""
        if self._session is None:
            self._session = {}
        return self._session

    @session.setter
    def session(self, session: Any) -> None:
        self._session = session

    @property
    def topics(self) -> frozenset[str]:
        """Names of the topics subscribed to, as they are now."""
        return frozenset(self._topics or ())

    @property
    def client_id(self) -> Any:
        """The identity given by `bind`, or None; it stays when the connection ends."""
        return self._client_id

    @client_id.setter
    def client_id(self, client_id: Any) -> None:
        raise AttributeError(f"client_id is given by bind({client_id!r})")

    @property
    def compressed(self) -> bool:
        """Whether permessage-deflate was agreed (RFC 7692)."""
        return self._protocol.agreement is not None

    @property
    def address(self) -> Any:
        """(host, port) of the client, see the option `trusted_proxies`.

        Of a Unix socket's peer its path, "" as a rule.
        """
        return self._request.address

    @property
    def secure(self) -> bool:
        """Whether it came through TLS."""
        return self._request.secure

    @property
    def path(self) -> str:
        """The path of the request, percent-decoded, without the query."""
        return self._request.path

    @property
    def params(self) -> dict[str, Any]:
        """Parts of the path, named by the route."""
        return self._request.params

    @property
    def query(self) -> Fields:
        """Names and values behind the question mark."""
        return self._request.query

    @property
    def headers(self) -> Headers:
        """Header fields of the opening handshake."""
        return self._request.headers

    @property
    def cookies(self) -> dict[str, str]:
        """Cookies of the opening handshake, by name."""
        return self._request.cookies

    @property
    def origin(self) -> str | None:
        """The page a browser's script came from, or None."""
        return self._request.origin

    @property
    def close_code(self) -> int | None:
        """The close code that ended it, from whichever side began; None while open.

        1005: the peer's close frame had no code; 1006: there was no close frame
        (RFC 6455 §7.1.5).
        """
        return self._protocol.close_code

    @property
    def close_reason(self) -> str:
        """The reason that went with the close code."""
        return self._protocol.close_reason

    @property
    def close_cause(self) -> CloseCause | None:
        """Who or what ended it, see `CloseCause`; None while open."""
        return self._protocol.close_cause

    def is_open(self) -> bool:
        """Whether messages can be written: the handshake is done, no close began."""
        return self._open

    def __repr__(self) -> str:
        state = self._protocol.state.name.lower()
        # With quotes: a path may hold line breaks, and this goes to logs.
        return f"<{type(self).__name__} {self.id} {self.path!r} {state}>"

    # What a user may do

    def close(
        self, code: int = 1000, reason: str = "", *, status: int | None = None
    ) -> bool:
        """Start the closing handshake (RFC 6455 §7.1.2).

        Args:
            code: close code to send; one that may travel on the wire (§7.4).
            reason: text for people, at most 123 bytes of UTF-8.
            status: another name for `code`.

        Returns:
            False when the connection is already closing or closed.

        Raises:
            TypeError: `code` is not an int, or `reason` not a str.
            ValueError: The code may not travel, or the reason is too long.
        """
        code = check_close(code if status is None else status, reason)
        if self._elsewhere():
            was_open = self.is_open()
            if was_open:
                self._reactor.call_threadsafe(partial(self._close, code, reason))
            return was_open
        return self._close(code, reason)

    def terminate(self) -> None:
        """Cut the connection now, without a closing handshake."""
        if self._elsewhere():
            self._reactor.call_threadsafe(self.terminate)
        elif not self._ended:
            self._cut("terminated", CloseCause.LOCAL)

    def ping(self, payload: bytes | str = b"") -> bool:
        """Send a ping (RFC 6455 §5.5.2); `on_pong` tells of the answer.

        Args:
            payload: at most 125 bytes; they come back in the pong.

        Returns:
            False when the connection is not open, or when the peer does not read and
            many pings wait for it already.

        Raises:
            TypeError: The payload is neither bytes nor str.
            ValueError: It is too long.
        """
        payload = check_ping(payload)
        if self._elsewhere():
            size = len(payload)
            if not self.is_open() or not self._reactor.reserve(size):
                return False
            self._reactor.call_threadsafe(partial(self._ping_queued, payload))
            return True
        return self._ping(payload)

    def subscribe(self, topic: str, priority: float = 0) -> None:
        """Receive what is published to a topic, until the connection ends.

        Args:
            topic: any name.
            priority: who of several is chosen by `Server.deliver`; the highest.
        """
        self._home.subscribe(topic, self, priority)

    def unsubscribe(self, topic: str) -> None:
        """Receive no more of a topic."""
        self._home.unsubscribe(topic, self)

    def publish(self, topic: str, msg: object) -> int:
        """Send a message to everyone subscribed to a topic but this client.

        Returns:
            How many took it; 0 from a thread that is not the loop's.
        """
        return self._home.publish(topic, msg, exclude=(self,))

    def bind(self, client_id: Any) -> None:
        """Give this connection an identity; one identity may have several.

        Args:
            client_id: anything hashable; None takes the one it has away.

        Raises:
            TypeError: It is not hashable.
        """
        self._home.bind(self, client_id)

    # Beginning

    def _start(self, response: bytes, rest: bytes, registered: bool) -> None:
        """Answer the handshake, open, and read what came behind the request.

        Args:
            response: the server's opening handshake.
            rest: what came behind the client's.
            registered: the loop knows the socket already.
        """
        self._registered = True
        if registered:
            self._watch(READ)
        else:
            self._reactor.register(self._sock, READ, self)
        self._request.compact()
        self._enqueue(response)
        self._home.welcome(self)
        # After that: from now on the handler tells us when it is replaced.
        self._on_message = self._handler.message_callback
        if self._options.ping or self._options.idle_timeout is not None:
            self._reactor.wheel.put(self, self._next_deadline())
        if self._handler.authenticates and self._options.auth_timeout is not None:
            self._arm(self._check_identity, self._options.auth_timeout)
        self._call(self._handler.on_open, self)
        if rest:
            self._feed(rest)

    # Receiving

    def _receive_odd(self, data: bytes, start: int, end: int) -> int:
        pos = self._protocol.receive(data, start, end)
        self._follow()
        return pos

    def _on_rate(self) -> None:
        rate, burst = self._options.message_rate or (0.0, 0.0)
        self._on_fault(
            RateExceeded(
                f"more messages than message_rate allows: {rate:g} a second, "
                f"{burst:g} at once"
            )
        )

    def _on_fault(self, error: ProtocolError) -> None:
        self._protocol.fail(error)
        self._follow()

    def _follow(self) -> None:
        """Do what the protocol has come to: send its answers, tell of its event."""
        protocol = self._protocol
        self._sync()
        for frame in protocol.take_output():
            if frame[0] == _PONG:
                self._enqueue_pong(frame)
            else:
                self._enqueue(frame)
        event = protocol.take_event()
        if event is None:
            return
        opcode, payload = event
        if opcode == Opcode.PING:
            self._on_ping(payload)
        elif opcode == Opcode.PONG:
            self._on_pong(payload)
        elif opcode == Opcode.CLOSE:
            self._end()
        else:
            if protocol.inflated is not None:
                self._count_inflated(*protocol.inflated)
                protocol.inflated = None
            self._deliver(payload)

    def _count_inflated(self, packed: int, plain: int) -> None:
        self._tally.packed_received += packed
        self._tally.plain_received += plain

    def _on_ping(self, payload: bytes) -> None:
        self.ping_payload = payload
        self._call(self._handler.on_ping, self)

    def _on_pong(self, payload: bytes) -> None:
        self.pong_payload = payload
        pings = self._pings or {}
        sent_at = pings.get(payload)
        if sent_at is not None:
            self.latency = self._reactor.time() - sent_at
            # A pong answers the pings before it as well (§5.5.3).
            for earlier in list(pings):
                del pings[earlier]
                if earlier == payload:
                    break
            self._pings = pings or None
        self._call(self._handler.on_pong, self)

    # Sending

    def _ping(self, payload: bytes) -> bool:
        if not self.is_open() or (
            self._blocked and len(self._pings or ()) > _MAX_QUEUED
        ):
            return False
        pings = self._pings = self._pings or {}
        pings.pop(payload, None)
        if len(pings) == _MAX_PINGS:
            del pings[next(iter(pings))]
        pings[payload] = self._reactor.time()
        self._enqueue(self._protocol.send_ping(payload))
        return True

    def _ping_queued(self, payload: bytes) -> None:
        self._reactor.release(len(payload))
        self._ping(payload)

    def _write_elsewhere(self, msg: object, binary: bool | None) -> SendStatus:
        opcode, payload = encode_message(msg, binary)
        if not self.is_open() or not self._reactor.reserve(len(payload)):
            return SendStatus.DROPPED
        blocked = self._blocked
        self._reactor.call_threadsafe(
            partial(self._send_queued, opcode, payload, blocked)
        )
        return SendStatus.BACKPRESSURE if blocked else SendStatus.SENT

    def _send_queued(self, opcode: int, payload: bytes, blocked: bool) -> None:
        self._reactor.release(len(payload))
        self._send(opcode, payload)
        if blocked:
            self._await_drain = True  # as was promised, though it may be over by now

    def _make_room(self, size: int) -> bool:
        if not self._blocked:
            self._flush()  # it may only be that this turn has not been flushed yet
        if not self.is_open():
            return False
        waiting, reactor = self.buffered_amount, self._reactor
        too_long = waiting + size > self._write_limit or self._has_too_many()
        too_much = reactor.buffered > reactor.buffered_limit
        if not waiting or not (too_long or too_much):
            return True
        policy = self._options.slow_consumer
        if policy == "close":
            reason = f"unsent output exceeds write_limit {self._write_limit:,}"
            if not too_long:
                limit = reactor.buffered_limit
                reason = f"unsent output of all exceeds max_buffered {limit:,}"
            self._tally.dropped += self._drop_oldest(waiting)
            self._close(CloseCode.TRY_AGAIN_LATER, reason, CloseCause.SLOW_CONSUMER)
            return False
        self._await_drain = True
        return policy == "drop_old" and self._drop_for(size)

    def _drop_for(self, size: int) -> bool:
        """Drop the oldest messages for a new one; none if that does not help."""
        waiting, reactor = self.buffered_amount, self._reactor
        excess = max(1, waiting + size - self._write_limit)
        if reactor.buffered > reactor.buffered_limit:
            excess = max(excess, size)  # in exchange: all together do not grow
        excess = min(excess, waiting)
        if excess > waiting - self._unfinished():
            return False
        self._tally.dropped += self._drop_oldest(excess)
        return self.buffered_amount <= waiting - excess

    # Heartbeat

    def sweep(self, now: float) -> float | None:
        """Ping a silent peer, give up a dead or idle one (`timers.Sweepable`)."""
        if not self.is_open():
            return None
        options = self._options
        if self._held or self._deaf:
            self._last_message = now  # it is we who do not listen
        if options.idle_timeout and self._waited(
            self._last_message, now, options.idle_timeout
        ):
            reason = f"no message for {options.idle_timeout:g} s"
            self._close(CloseCode.GOING_AWAY, reason, CloseCause.IDLE_TIMEOUT)
            return None
        if options.ping and not self._keep_alive(now):
            return None
        return self._next_deadline()

    def _keep_alive(self, now: float) -> bool:
        options, pinged_at = self._options, self._pinged_at
        if self._held:
            self._last_received = now  # it is we who do not listen
        if pinged_at is not None and self._last_received >= pinged_at:
            pinged_at = self._pinged_at = None  # any byte is a sign of life
        if pinged_at is None:
            if now - self._last_received >= options.ping_interval:
                self._pinged_at = now
                self._heartbeat()
        elif self._waited(pinged_at, now, options.ping_timeout):
            if self._is_taking():
                self._pinged_at = now  # the ping has not come to it yet
                return True
            reason = f"no answer to a ping for {options.ping_timeout:g} s"
            self._close(CloseCode.INTERNAL_ERROR, reason, CloseCause.PING_TIMEOUT)
            return False
        return True

    def _waited(self, since: float, now: float, seconds: float) -> bool:
        """Whether we have listened for so long."""
        if now - since < seconds:
            return False
        # What a peer did not do while we heard nobody is not held against it.
        return now - since - self._reactor.paused_since(since) >= seconds

    def _untaken(self) -> int:
        """Bytes of output that the peer has not taken, as far as this system knows."""
        return self.buffered_amount + unsent_by_system(self._sock)

    def _is_taking(self) -> bool:
        """Whether the peer has gone on taking what stands before the ping: such a one
        is slow, and not dead."""
        if self._ahead is None:
            return False
        place, left_before = self._ahead
        left = place - self.bytes_sent + unsent_by_system(self._sock)
        self._ahead = (place, left) if left > 0 else None
        return left < left_before

    def _heartbeat(self) -> None:
        payload = b"%x" % next(_beats)
        left = self._untaken()
        place = self.bytes_sent + self.buffered_amount
        self._ahead = (place, left) if left else None
        self._ping(payload)
        self.ping_payload = payload
        self._call(self._handler.on_ping, self)

    def _next_deadline(self) -> float:
        options, deadlines = self._options, []
        if options.ping:
            if self._pinged_at is not None:
                deadlines.append(self._pinged_at + options.ping_timeout)
            deadlines.append(
                max(self._last_received, self._pinged_at or 0) + options.ping_interval
            )
        if options.idle_timeout is not None:
            deadlines.append(self._last_message + options.idle_timeout)
        return min(deadlines)

    def _check_identity(self) -> None:
        if self._client_id is None:
            reason = f"no identity for {self._options.auth_timeout:g} s"
            self._close(CloseCode.POLICY_VIOLATION, reason, CloseCause.AUTH_TIMEOUT)

    # Callbacks

    def _call(self, callback: Callable[..., object], *args: object) -> None:
        began = self._reactor.time()
        try:
            callback(*args)
        except Exception as error:
            self._on_callback_error(error)
        spent = self._reactor.time() - began
        if spent > self._reactor.slow:
            name = getattr(callback, "__name__", repr(callback))
            what = f"{self._handler.name}.{name}"
            self._home.journal.note_slow(what, self.path, spent)

    def _on_callback_error(self, error: Exception) -> None:
        """The one place where exceptions of user code arrive."""
        if isinstance(error, AuthenticationError):
            self._home.journal.note_refusal(self.address, str(error))
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
            self._reactor.call_soon(self._end)
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

    def _on_rest(self) -> None:
        self._reactor.call_soon(self._go_on)

    def _elsewhere(self) -> bool:
        return get_ident() != self._reactor.owner

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
            self._reactor.call_soon(self._end)

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
            self._reactor.call_soon(self._end)

    def _end(self) -> None:
        """The protocol has come to its end: tell everybody, once."""
        if self._ended:
            return
        self._ended = True
        self._reactor.wheel.discard(self)
        self._home.forget(self)
        self._home.journal.note_end(self)
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
            latest = self._reactor.time() + self._options.ping_timeout
        # What the system has, it will deliver without us.
        left = self._untaken() if self.buffered_amount else 0
        self._arm(partial(self._look_at_peer, give_up, left, latest), patience)

    def _look_at_peer(
        self, give_up: Callable[[], object], left_before: int, latest: float
    ) -> None:
        left, rest = self._untaken(), latest - self._reactor.time()
        if rest > 0 and self.buffered_amount and left < left_before:
            look = partial(self._look_at_peer, give_up, left, latest)
            self._arm(look, min(rest, self._options.close_timeout))
        else:
            give_up()

    def _arm(self, callback: Callable[[], object], delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._reactor.call_later(delay, callback)

    def _half_close(self) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def _watch(self, events: int) -> None:
        if not self._registered:
            return
        reactor = self._reactor
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
            self._reactor.unregister(self._sock)
        self._sock.close()
        self._home.release(self)


_beats = itertools.count(1)
_NO_CLOSE_FRAME = "connection closed without a close frame"
