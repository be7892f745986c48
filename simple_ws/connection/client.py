"""`Client`: one open connection, as users see it.

It answers all that `ConnectionCore` asks of its owner (`speedups.ConnectionHooks`). Its
four parts hold no state per connection and are shared by all of them: `calls` of user
code, `keepalive`, `closing` and `backpressure` (peers that do not read). Choosing the
receivers of a message is left to `topics`, everything before the upgrade to
`server.upgrade`.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from functools import lru_cache, partial
from threading import get_ident
from typing import Any, ClassVar

from ..constants import CloseCause, CloseCode, Opcode, SendStatus, State
from ..deflate import Agreement
from ..errors import InvalidState, ProtocolError, RateExceeded, ServerOverloaded
from ..loop.reactor import READ, Reactor
from ..loop.timers import Timer
from ..messages import check_close, check_ping, encode_message
from ..protocol.fields import Fields, Headers
from ..protocol.request import Request
from ..protocol.websocket import Protocol as WebSocketProtocol
from ..protocol.websocket import Rules, concluded
from ..speedups import ConnectionCore
from .backpressure import SlowConsumers
from .calls import UserCalls
from .closing import Closing
from .interfaces import ConnectionHost, Handler
from .keepalive import KeepAlive
from .options import Options

__all__ = ["Client", "rules_of"]

logger = logging.getLogger("simple_ws")

_PONG = 0x80 | Opcode.PONG


class Client(ConnectionCore):
    """One open connection. The server creates it; users write to it and close it.

    Every method can be called from any thread: in the loop's thread it acts directly;
    from another thread the call is queued and wakes the loop, and calls keep their
    order.

    A subclass (`client_class` of a handler) can override any method; an overridden
    `write_message` is used for everything that is sent. A function that replaces
    `write_message` on a single client is not called by `broadcast`, `publish` and
    `send_to`, which send one frame to many clients.

    Attributes:
        CONNECTING, OPEN, CLOSING, CLOSED: what `status` is compared with, 0 to 3;
            CONNECTING never occurs, as callbacks get no client before it is open.
        id: unique in the process.
        subprotocol: the subprotocol agreed on (RFC 6455 §1.9), or None.
        latency: seconds from the last answered ping to its pong, or None.
        ping_payload, pong_payload: bytes of the last ping and pong.
        opened_at: seconds since the epoch.
        buffered_amount: bytes of output that the system has not taken yet.
        messages_received, messages_sent: data messages so far.
        bytes_received, bytes_sent: bytes so far, including frame headers.
    """

    # As `readyState` of a browser's WebSocket; all but the first are a `State`.
    CONNECTING: ClassVar[int] = 0
    OPEN: ClassVar[int] = State.OPEN
    CLOSING: ClassVar[int] = State.CLOSING
    CLOSED: ClassVar[int] = State.CLOSED

    _calls: ClassVar = UserCalls()
    _keepalive: ClassVar = KeepAlive()
    _closing: ClassVar = Closing()
    _slow_consumers: ClassVar = SlowConsumers()
    #: What the layer `live/` has of a client of its own; it enters topics by it.
    _live: Any = None
    #: How it is sent the messages of a feed, if not in frames (`server.feeds.Form`).
    _form: Any = None

    _loop: Reactor
    _protocol: WebSocketProtocol
    _request_kept: Request | bytes  # see `Request._packed`

    #: Set by `ConnectionCore`, which stores them without objects where it can.
    _host: ConnectionHost
    _handler: Handler
    subprotocol: str | None
    #: One deadline, for the identity or for the end.
    _timer: Timer | None
    _client_id: Any
    # Created on first use.
    _session: Any
    _topics: set[str] | None

    # User attributes live in a dict that is created on first use: a server holds 50,000
    # of these objects.
    __slots__ = ()

    def __init__(
        self,
        sock: socket.socket,
        host: ConnectionHost,
        handler: Handler,
        request: Request | bytes,
        options: Options,
        agreement: Agreement | None,
        subprotocol: str | None,
    ) -> None:
        rules = self._make_rules(options, agreement)
        super().__init__(
            sock, host.reactor, rules, options.buffer_size, options.write_limit
        )
        self._host = host
        self._handler = handler
        self._request_kept = request
        self._counters = handler._counters
        self.subprotocol = subprotocol
        if options.message_rate is not None:
            self._limit_rate(*options.message_rate)

    def _make_rules(self, options: Options, agreement: Agreement | None) -> Rules:
        """The rules of the connection."""
        return rules_of(options.max_size, options.max_frame_size, agreement)

    @property
    def _request(self) -> Request:
        """The request that has opened it; made anew of its bytes if need be."""
        request = self._request_kept
        if isinstance(request, bytes):
            request = self._request_kept = Request._unpacked(request)
        return request

    @_request.setter
    def _request(self, request: Request) -> None:
        self._request_kept = request

    # What users may read

    @property
    def session(self) -> Any:
        """The return value of `on_request`; if None, a dict for your own use."""
        if self._session is None:
            self._session = {}
        return self._session

    @session.setter
    def session(self, session: Any) -> None:
        self._session = session

    @property
    def topics(self) -> frozenset[str]:
        """The names of the topics that the client is subscribed to now."""
        return frozenset(self._topics or ())

    @property
    def client_id(self) -> Any:
        """The identity given by `bind`, or None; it stays after the connection ends."""
        return self._client_id

    @client_id.setter
    def client_id(self, client_id: Any) -> None:
        raise AttributeError(f"client_id is given by bind({client_id!r})")

    @property
    def present_as(self) -> dict[str, Any] | None:
        """What this client says of itself in topics with presence: a dict, or None.

        It can be set at any time, to a dict of at most 4 KiB of JSON, and is what
        `Server.present` has for the member on all nodes; of several connections of an
        identity the one that was set last counts.

        Raises:
            TypeError, ValueError: It is set to something else.
        """
        return self._host._payload_of(self)

    @present_as.setter
    def present_as(self, payload: dict[str, Any] | None) -> None:
        self._host._say_payload(self, payload)

    @property
    def compressed(self) -> bool:
        """Whether permessage-deflate was agreed (RFC 7692)."""
        return self._rules.agreement is not None

    @property
    def address(self) -> Any:
        """(host, port) of the client; see the option `trusted_proxies`.

        For a Unix socket the path of the peer, usually "".
        """
        request = self._request_kept
        if isinstance(request, bytes):
            return Request._packed_address(request)
        return request.address

    @property
    def secure(self) -> bool:
        """Whether the connection uses TLS."""
        request = self._request_kept
        return not isinstance(request, bytes) and request.secure

    @property
    def path(self) -> str:
        """The path of the request, percent-decoded, without the query."""
        return self._request.path

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the path, as named by the route."""
        return self._request.params

    @property
    def query(self) -> Fields:
        """The names and values of the query string."""
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
        """The origin of the page, as sent by a browser, or None."""
        return self._request.origin

    @property
    def close_code(self) -> int | None:
        """The close code that ended the connection, from either side; None while open.

        1005: the peer's close frame had no code; 1006: there was no close frame
        (RFC 6455 §7.1.5).
        """
        begun = self._own_protocol
        return None if begun is None else begun.close_code

    @property
    def close_reason(self) -> str:
        """The reason sent with the close code."""
        begun = self._own_protocol
        return "" if begun is None else begun.close_reason

    @property
    def close_cause(self) -> CloseCause | None:
        """Why the connection ended, see `CloseCause`; None while open."""
        begun = self._own_protocol
        return None if begun is None else begun.close_cause

    @property
    def status(self) -> int:
        """`OPEN`, `CLOSING` (a close frame was sent) or `CLOSED`; for any thread."""
        begun = self._own_protocol
        return State.OPEN if begun is None else begun.state

    def is_open(self) -> bool:
        """Whether messages can be written: opened, and not closing or closed."""
        return self._open

    @property
    def _options(self) -> Options:
        return self._handler.options

    def __repr__(self) -> str:
        state = State(self.status).name.lower()
        # With quotes: a path may hold line breaks, and this goes to logs.
        return f"<{type(self).__name__} {self.id} {self.path!r} {state}>"

    # What users may do

    def close(
        self, code: int = 1000, reason: str = "", *, status: int | None = None
    ) -> bool:
        """Start the closing handshake (RFC 6455 §7.1.2).

        Args:
            code: the close code to send; one that may be sent on the wire (§7.4).
            reason: text for people, at most 123 bytes of UTF-8.
            status: another name for `code`.

        Returns:
            False when the connection is already closing or closed.

        Raises:
            TypeError: `code` is not an int, or `reason` not a str.
            ValueError: The code must not be sent, or the reason is too long.
        """
        code = check_close(code if status is None else status, reason)
        if self._elsewhere():
            was_open = self.is_open()
            if was_open:
                self._loop.call_threadsafe(partial(self._close, code, reason))
            return was_open
        return self._close(code, reason)

    def terminate(self) -> None:
        """Cut the connection now, without a closing handshake."""
        if self._elsewhere():
            self._loop.call_threadsafe(self.terminate)
        elif not self._ended:
            self._cut("terminated", CloseCause.LOCAL)

    def ping(self, payload: bytes | str = b"") -> bool:
        """Send a ping (RFC 6455 §5.5.2); `on_pong` is called for the answer.

        Args:
            payload: at most 125 bytes; the pong contains them too.

        Returns:
            False when the connection is not open, or when the peer does not read and
            many pings are waiting already.

        Raises:
            TypeError: The payload is neither bytes nor str.
            ValueError: The payload is too long.
        """
        payload = check_ping(payload)
        if self._elsewhere():
            size = len(payload)
            if not self.is_open() or not self._loop.reserve(size):
                return False
            self._loop.call_threadsafe(partial(self._ping_queued, payload))
            return True
        return self._keepalive.ping(self, payload)

    async def drain(self) -> None:
        """Wait until the client has taken all output, so that more can be written.

        In an `async def` callback, before much is written: "taken" means that it is in
        the buffers of the system. Returns at once if nothing waits, and when the
        connection has ended: `is_open` tells.

        Raises:
            InvalidState: This is another thread than the loop's.
        """
        if self._elsewhere():
            raise InvalidState("drain() is for the asyncio loop that the server is in")
        await self._host._wait_for_drain(self)

    def subscribe(self, topic: str, priority: float = 0, since: Any = None) -> bool:
        """Subscribe to a topic until the connection ends.

        With `since`, and for each topic with history (`Server.topic`), `on_join`
        follows: after the messages that were missed, before the next ones.

        Args:
            topic: any name.
            priority: `Server.deliver` chooses the subscriber with the highest.
            since: for a topic with history: the position that `on_join` told, which
                sends what was missed since; a number of last messages; or "all". It may
                be what a stranger sent: what means nothing is a gap, and never an
                error.

        Returns:
            False if the topic has as many subscribers as it may (`max_subscribers`), or
            the connection has ended.

        Raises:
            TypeError: The topic is not a str, or the priority not a number.
            ValueError: The priority is NaN.
        """
        return self._host.subscribe(topic, self, priority, since)

    def unsubscribe(self, topic: str) -> None:
        """Unsubscribe from a topic; does nothing if not subscribed.

        Raises:
            TypeError: The topic is not a str.
        """
        self._host.unsubscribe(topic, self)

    def bind(self, client_id: Any) -> None:
        """Bind this connection to an identity, which can have several connections.

        Args:
            client_id: anything hashable; None removes the identity.

        Raises:
            TypeError: `client_id` is not hashable.
        """
        self._host.bind(self, client_id)

    # Opening

    def _start(self, response: bytes, rest: bytes, registered: bool) -> None:
        """Answer the handshake, open, and process the bytes after the request.

        Args:
            response: the server's opening handshake; b"" if that comes later.
            rest: bytes received after the client's opening handshake.
            registered: whether the loop knows the socket already.
        """
        try:
            self._open_with(response, rest, registered)
        except BaseException as error:
            # The caller handles errors of a handshake, and the handshake is over.
            self._loop.on_failure(self, error)

    def _open_with(self, response: bytes, rest: bytes, registered: bool) -> None:
        self._attached = True
        if registered:
            self._watch(READ)
        else:
            self._loop.register(self._sock, READ, self)
        if response:
            self._enqueue(response)
        self._host._add_client(self)
        # After that: from now on the handler announces a new `on_message`.
        self._take_callback()
        self._keepalive.start(self)
        timeout = self._options.auth_timeout
        if timeout is not None and self._handler.authenticates is True:
            self._timer = self._loop.call_later(timeout, self._check_identity)
        self._calls.call(self, self._handler.on_open, self)
        self._pack_request()
        if rest:
            self._feed(rest)

    def _pack_request(self) -> None:
        """Keep the request in its small form; after `on_open`, which may look at it."""
        request = self._request_kept
        if not isinstance(request, bytes):
            self._request_kept = request._packed()

    # Called by the handler and the server

    def _take_callback(self) -> None:
        """The handler's `on_message` has been replaced."""
        self._on_message = self._handler._message_callback

    def _note_topic(self, topic: str, subscribed: bool) -> None:
        """The server has added or ended a subscription."""
        if subscribed:
            self._topics = self._topics or set()
            self._topics.add(topic)
        elif self._topics is not None:
            self._topics.discard(topic)

    def _note_identity(self, client_id: Any) -> None:
        """The server has set or removed (None) the identity."""
        self._client_id = client_id

    def _check_identity(self) -> None:
        if self._client_id is None:
            reason = f"no identity within auth_timeout {self._options.auth_timeout:g} s"
            self._close(CloseCode.POLICY_VIOLATION, reason, CloseCause.AUTH_TIMEOUT)

    def _sweep(self, now: float) -> float | None:
        """See `speedups.Wheel`."""
        return self._keepalive.look(self, now)

    def _call(
        self,
        callback: Callable[..., object],
        *args: object,
        owner: str | None = None,
    ) -> None:
        """See `UserCalls.call`."""
        self._calls.call(self, callback, *args, owner=owner)

    def _fail_handler(self) -> None:
        """See `UserCalls.fail`."""
        self._calls.fail(self)

    def _close(
        self,
        code: int,
        reason: str,
        cause: CloseCause = CloseCause.LOCAL,
        timeout: float | None = None,
    ) -> bool:
        """See `Closing.close`."""
        return self._closing.close(self, code, reason, cause, timeout)

    def _conclude(self, reason: str, cause: CloseCause) -> None:
        """The connection ends without a close frame (1006); an earlier end stays."""
        if self._own_protocol is None:
            self._protocol = concluded(CloseCode.ABNORMAL, reason, cause)
        else:
            self._protocol.conclude(CloseCode.ABNORMAL, reason, cause)
        self._sync()

    def _cut(self, reason: str, cause: CloseCause) -> None:
        """See `Closing.cut`."""
        self._closing.cut(self, reason, cause)

    def _forget(self) -> None:
        """See `Closing.forget`."""
        self._closing.forget(self)

    def _end(self) -> None:
        """See `Closing.end`."""
        self._closing.end(self)

    def _abandon(self) -> None:
        """Cut the connection after an internal error; for the loop."""
        self._cut("internal error", CloseCause.HANDLER_ERROR)

    def _shed_input(self) -> None:
        """See `shedding.InputHolder`."""
        limit = self._loop.buffered_input_limit
        self._on_fault(
            ServerOverloaded(
                f"unfinished input of all clients exceeds max_buffered_input {limit:,}"
            )
        )

    # Called by the byte path (`speedups.ConnectionHooks`)

    def _receive_slow_path(self, data: bytes, start: int, end: int) -> int:
        protocol = self._protocol
        if protocol.agreement is None:
            pos = protocol.receive(data, start, end)
        else:
            began = self._loop.clock()
            pos = protocol.receive(data, start, end)
            if protocol.inflated is not None:
                self._count_inflated(*protocol.inflated)
                protocol.inflated = None
            self._loop._note_own_work(began)
        self._follow()
        return pos

    def _on_fault(self, error: ProtocolError) -> None:
        self._protocol.fail(error)
        self._follow()

    def _on_lost(self, error: OSError | None, reading: bool = False) -> None:
        self._closing.on_lost(self, error, reading)

    def _answer(self, value: object) -> None:
        self._calls.answer(self, value)

    def _on_callback_error(self, error: Exception) -> None:
        self._calls.on_error(self, error)

    def _on_rate(self) -> None:
        rate, burst = self._options.message_rate or (0.0, 0.0)
        self._on_fault(
            RateExceeded(
                f"more messages than message_rate allows: {rate:g} a second, "
                f"{burst:g} at once"
            )
        )

    def _make_room(self, size: int) -> bool:
        return self._slow_consumers.make_room(self, size)

    def _watch(self, events: int) -> None:
        if not self._attached:
            return
        reactor = self._loop
        if not events:
            # Selectors report a hang-up even when no event was asked for.
            if not self._unregistered:
                self._unregistered = True
                reactor.unregister(self._sock)
        elif self._unregistered:
            self._unregistered = False
            reactor.register(self._sock, events, self)
        else:
            reactor.modify(self._sock, events, self)

    def _on_drained(self) -> None:
        self._closing.on_drained(self)

    def _write_elsewhere(self, msg: object, binary: bool | None) -> SendStatus:
        opcode, payload = encode_message(msg, binary)
        if not self.is_open() or not self._loop.reserve(len(payload)):
            return SendStatus.DROPPED
        blocked = self._write_blocked
        self._loop.call_threadsafe(partial(self._send_queued, opcode, payload, blocked))
        return SendStatus.BACKPRESSURE if blocked else SendStatus.SENT

    # Acting on what the protocol reports

    def _follow(self) -> None:
        """Act on what the protocol found: send its answers, pass on its event."""
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
            self._keepalive.on_ping(self, payload)
        elif opcode == Opcode.PONG:
            self._keepalive.on_pong(self, payload)
        elif opcode == Opcode.CLOSE:
            self._end()
        else:
            self._deliver(payload)

    def _count_inflated(self, packed: int, plain: int) -> None:
        self._counters.packed_received += packed
        self._counters.plain_received += plain

    def _send_queued(self, opcode: int, payload: bytes, blocked: bool) -> None:
        self._loop.release(len(payload))
        self._send(opcode, payload)
        if blocked:
            self._await_drain = True  # as announced, even if it has drained by now

    def _ping_queued(self, payload: bytes) -> None:
        self._loop.release(len(payload))
        self._keepalive.ping(self, payload)

    def _elsewhere(self) -> bool:
        return get_ident() != self._loop.owner


@lru_cache(maxsize=256)
def rules_of(
    max_size: int | None, max_frame_size: int | None, agreement: Agreement | None
) -> Rules:
    """The rules of connections, one object for all that have the same."""
    return Rules(max_size, max_frame_size, agreement)
