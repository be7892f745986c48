"""The client for asyncio: `connect(url)`, and the `Connection` it gives.

    async with connect("ws://localhost:8080/") as ws:
        await ws.send("hello")
        async for message in ws:
            print(message)

    async for ws in connect("ws://localhost:8080/"):  # again, whenever it is lost
        try:
            async for message in ws:
                print(message)
        except ConnectionClosed:
            continue

It works on asyncio's transports, so on uvloop as well. What is read and framed is
`client_core`, how the connection comes to be `client_handshake`; here are waiting,
time-outs, back-pressure and reconnection.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from .aio_dial import Exchange, attach, dial, dial_unix
from .client_core import (
    LINGER,
    ClientCore,
    explain,
    may_end_quietly,
    unreachable,
)
from .client_handshake import Accepted, Opening, Outcome
from .client_options import ClientOptions, ConnectOptions, check_client_options
from .client_proxy import Tunnel
from .constants import CloseCause, CloseCode
from .errors import (
    ConnectError,
    ConnectionClosed,
    ConnectTimeout,
    HandshakeRefused,
    InvalidHandshake,
    InvalidState,
    InvalidURI,
    ProxyError,
    TLSError,
)
from .messages import check_close, check_ping
from .uri import URI, parse_uri

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self, Unpack

__all__ = ["Backoff", "Connection", "connect"]

logger = logging.getLogger("simple_ws")

_clock = time.monotonic
_sleep = asyncio.sleep

_NO_CLOSE_FRAME = "connection closed without a close frame"

#: Bytes that wait for the server beyond which `send` waits; asyncio's own default.
_HIGH_WATER = 64 * 1024
#: Messages after which `send` lets others have their turn: a transport that takes
#: everything would never make it wait.
_BREATH = 64
#: Statuses of a refusal that may be another one soon: asked too early or too often, or
#: the server is in trouble (RFC 9110 §15.5, §15.6, RFC 6585).
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
#: Seconds of Retry-After that are respected; who says more is asked before.
_LONGEST_RETRY_AFTER = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait before connecting again: "full jitter".

    The n-th wait in a row is a random time of up to `first` * 2 ** n seconds, so that
    the clients of a server that was away do not all come back in the same moment.

    Args:
        first: seconds of the first wait at most.
        longest: seconds of any wait at most.
        stable: seconds that a connection must have been open for the count to begin
            anew: a server that ends each at once must not be asked without pause.
        random: gives numbers from 0 to 1.

    Raises:
        ValueError: A time is not positive, or `longest` is less than `first`.
    """

    first: float = 1.0
    longest: float = 60.0
    stable: float = 10.0
    random: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        for name in ("first", "longest", "stable"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"Backoff: {name} must be more than 0 seconds, "
                    f"not {getattr(self, name)!r}"
                )
        if self.longest < self.first:
            raise ValueError(
                f"Backoff: longest must be at least first={self.first:g}, "
                f"not {self.longest!r}"
            )

    def delay(self, attempt: int) -> float:
        """Seconds to wait before an attempt, counted from 0."""
        # No larger exponent: it would overflow after weeks without a network.
        return self.random() * min(self.longest, self.first * 2.0 ** min(attempt, 64))


class AsyncConnectOptions(ConnectOptions, total=False):
    """The keyword arguments of `connect`, for type checkers."""

    backoff: Backoff


def connect(url: str, **options: Unpack[AsyncConnectOptions]) -> Connecting:
    """Open a connection to a WebSocket server (RFC 6455 §4.1).

    `ws = await connect(url)` connects once; so does `async with connect(url) as ws`,
    which closes it too. `async for ws in connect(url)` connects again whenever the
    body of the loop has come to its end, or to a `continue`.

    Args:
        url: such as "wss://example.com/chat?room=1"; user and password in it are sent
            as Basic credentials.
        options: see `client_options.ClientOptions`; and `backoff`, a `Backoff`, for the
            time between two connections of an iteration.

    Raises:
        TypeError, ValueError: An option is wrong; `InvalidURI`: the address is.
            These at once; when awaited:
        HandshakeRefused: The server answered with another status than 101.
        ConnectError: It could not be connected to, see `errors` for the kinds.
    """
    uri = parse_uri(url)
    given: dict[str, Any] = dict(options)
    backoff = given.pop("backoff", Backoff())
    if not isinstance(backoff, Backoff):
        raise TypeError(f"backoff must be a Backoff(...), not {backoff!r}")
    return Connecting(uri, check_client_options(uri, given), backoff)


class Connecting:
    """A connection to be opened, once or again and again; `connect` makes it."""

    def __init__(self, uri: URI, options: ClientOptions, backoff: Backoff) -> None:
        self._uri = uri
        self._options = options
        self._backoff = backoff
        self._connection: Connection | None = None

    def __await__(self) -> Generator[Any, None, Connection]:
        return _Opener(self._uri, self._options).open().__await__()

    async def __aenter__(self) -> Connection:
        self._connection = await self
        return self._connection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._connection is not None
        await self._connection.__aexit__(kind, error, traceback)

    async def __aiter__(self) -> AsyncIterator[Connection]:
        """Connections, each when the one before has ended.

        Raises:
            ConnectError: One that trying again does not heal: a refusal such as 401,
                403 or 404, a server that does not speak WebSocket, a certificate that
                is not accepted.
        """
        attempt = 0
        while True:
            try:
                connection = await self
            except ConnectError as error:
                if not _may_heal(error):
                    raise
                delay = max(self._backoff.delay(attempt), _retry_after(error))
                logger.info("%s; again in %.1f s", error, delay)
            else:
                opened_at = _clock()
                try:
                    yield connection
                finally:
                    await connection.close()
                if _clock() - opened_at >= self._backoff.stable:
                    attempt = 0
                delay = self._backoff.delay(attempt)
                logger.info("%s has ended; again in %.1f s", connection.url, delay)
            attempt += 1
            await _sleep(delay)


def _may_heal(error: ConnectError) -> bool:
    """Whether trying again later may help."""
    if isinstance(error, HandshakeRefused):
        return error.status in _PASSING
    if isinstance(error, ProxyError):
        return error.status in _PASSING or error.status == 0
    if isinstance(error, TLSError):
        import ssl

        return not isinstance(error.__cause__, ssl.SSLCertVerificationError)
    return not isinstance(error, InvalidURI | InvalidHandshake)


def _retry_after(error: ConnectError) -> float:
    """Seconds the server asked to be left alone (RFC 9110 §10.2.3), or 0."""
    headers = getattr(error, "headers", {})
    text = headers.get("Retry-After", "")
    if not text.isascii() or not text.isdecimal():
        return 0.0  # a date is for people; clocks differ
    return min(float(text[:9]), _LONGEST_RETRY_AFTER)


class Connection(ClientCore, asyncio.Protocol):
    """An open connection to a server; `connect` makes it.

    Belongs to one event loop. Several tasks may send; one at a time may receive.
    Whatever is cancelled does nothing by halves: a cancelled `recv` loses no message, a
    cancelled `send` has not sent.

    Attributes:
        url: the server's address, after redirects, without user and password.
        headers: the header fields of the server's opening handshake.
        subprotocol: what was agreed (RFC 6455 §1.9), or None.
        latency: seconds from the last answered ping to its pong, or None.
        address: (host, port) of the server, or of the proxy to it.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        socket_transport: asyncio.Transport,
        uri: URI,
        accepted: Accepted,
        options: ClientOptions,
    ) -> None:
        # Not the loop's: uvloop counts whole milliseconds.
        super().__init__(uri, accepted, options, _clock)
        loop = self._loop = asyncio.get_running_loop()
        self.address: Any = transport.get_extra_info("peername")
        self._transport = transport
        self._socket_transport = socket_transport  # the same, or that below TLS
        self._receiver: asyncio.Future[None] | None = None
        self._senders: deque[asyncio.Future[None]] = deque()
        self._answers: dict[bytes, asyncio.Future[float]] = {}
        self._gone: asyncio.Future[None] = loop.create_future()
        self._sends = 0
        self._blocked = False  # the transport takes no more
        self._deaf = False  # the transport does not read, because the inbox is full
        self._last_pong: bytes | None = None  # waits until the transport takes more
        self._unsent = 0  # bytes in the transport when it was last looked at
        self._beat: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._leaving = False  # that timer is the last one
        transport.set_write_buffer_limits(_HIGH_WATER)
        transport.set_protocol(self)
        self._arm_beat()
        if accepted.rest:
            self.data_received(accepted.rest)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close: 1000, 1011 after an error, 1001 where the task is cancelled."""
        if kind is None:
            await self.close()
        elif issubclass(kind, Exception):
            await self.close(CloseCode.INTERNAL_ERROR)
        else:
            await self.close(CloseCode.GOING_AWAY)

    def __aiter__(self) -> Self:
        """Messages, until the connection ends.

        Raises:
            ConnectionClosed: It ended with another code than 1000 or 1001, or 1005,
                which says that there was none.
        """
        return self

    async def __anext__(self) -> str | bytes:
        try:
            return await self.recv()
        except ConnectionClosed as error:
            if may_end_quietly(error):
                raise StopAsyncIteration from None
            raise

    # What a user may do

    async def recv(self, timeout: float | None = None) -> str | bytes:
        """Wait for a message.

        Args:
            timeout: seconds; None waits until one comes or the connection ends.

        Returns:
            str for a text message, bytes for a binary one.

        Raises:
            TimeoutError: None came in time; the connection is as good as before.
            ConnectionClosed: The connection has ended, and every message was taken.
            InvalidState: Another task is receiving.
        """
        if not self._inbox:
            if timeout is None:
                await self._wait_for_news()
            else:
                await self._wait_for_news_within(timeout)
        if not self._inbox:
            raise self._closed()
        message = self._take()
        if self._deaf:
            self._settle()
        return message

    async def send(self, msg: object, binary: bool | None = None) -> None:
        """Send a message (RFC 6455 §6.1).

        Waits while too much of what was sent before waits for the server; the message
        itself is then taken whole.

        Args:
            msg: str is sent as text; bytes, bytearray and memoryview as binary; dict
                and list as JSON text.
            binary: True sends either as binary, False either as text.

        Raises:
            TypeError: A message of another type.
            ValueError: Bytes sent as text that are not valid UTF-8.
            ConnectionClosed: The connection has ended, or ends now, because the server
                has read nothing for `write_timeout` (cause `slow_consumer`).
        """
        self._sends += 1
        if not self._sends % _BREATH:
            await asyncio.sleep(0)
        if self._blocked:
            await self._wait_for_room()
        if not self.is_open():
            raise self._closed()
        self._transport.write(self._frame(msg, binary))

    async def ping(
        self, payload: bytes | str = b"", timeout: float | None = None
    ) -> float:
        """Send a ping and wait for its pong (RFC 6455 §5.5.2).

        Messages that come meanwhile wait for `recv`; beyond `read_limit` nothing more
        is read, the pong neither.

        Args:
            payload: at most 125 bytes; when empty, some that no other ping has.
            timeout: seconds; None takes `ping_timeout`.

        Returns:
            Seconds between the two.

        Raises:
            TypeError, ValueError: The payload is wrong.
            InvalidState: Another task waits for the pong to this payload.
            TimeoutError: No pong came in time; the connection is as good as before.
            ConnectionClosed: The connection has ended.
        """
        payload = check_ping(payload)
        timeout = self._options.ping_timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(timeout):
                return await self._ping_and_wait(payload)
        except TimeoutError:
            raise TimeoutError(f"no pong within {timeout:g} s") from None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection (RFC 6455 §7.1.2), and wait until it is closed.

        The server has `close_timeout` to answer. Messages that came before can still
        be received, those that come now are skipped. Does nothing on a connection that
        has ended.

        Args:
            code: close code to send; one that may travel on the wire (§7.4).
            reason: text for people, at most 123 bytes of UTF-8.

        Raises:
            TypeError: `code` is not an int, or `reason` not a str.
            ValueError: The code may not travel, or the reason is too long.
        """
        code = check_close(code, reason)
        if self.is_open():
            self._start_close(code, reason)
        elif self._loss is not None:
            self._protocol.conclude(CloseCode.ABNORMAL, *self._loss)
        self._settle()
        # Shielded: others wait for it as well.
        await asyncio.shield(self._gone)

    # Waiting

    async def _wait_for_news(self) -> None:
        while not self._inbox and not self._ended:
            # One that is done belongs to a task that has not run since.
            if self._receiver is not None and not self._receiver.done():
                raise InvalidState("another task is receiving from this connection")
            self._receiver = self._loop.create_future()
            await self._receiver

    async def _wait_for_news_within(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._wait_for_news()
        except TimeoutError:
            if not self._inbox and not self._ended:
                raise TimeoutError(f"no message within {timeout:g} s") from None

    async def _wait_for_room(self) -> None:
        while self._blocked and self.is_open():
            sender = self._loop.create_future()
            self._senders.append(sender)
            try:
                await sender
            finally:
                with suppress(ValueError):
                    self._senders.remove(sender)

    async def _ping_and_wait(self, payload: bytes) -> float:
        await self._wait_for_room()
        if not self.is_open():
            raise self._closed()
        if payload in self._answers:
            raise InvalidState(f"ping {payload!r} is already waited for")
        payload = self._ping(payload)
        answer: asyncio.Future[float] = self._loop.create_future()
        self._answers[payload] = answer
        try:
            return await answer
        finally:
            self._answers.pop(payload, None)
            self._pings.pop(payload, None)

    # What `ClientCore` asks for

    def _put(self, frame: bytes) -> None:
        if self._loss is None:
            self._transport.write(frame)

    def _put_pong(self, frame: bytes) -> None:
        if self._blocked:
            self._last_pong = frame
        else:
            self._put(frame)

    def _on_pong(self, payload: bytes, latency: float) -> None:
        answer = self._answers.get(payload)
        if answer is not None:
            _resolve(answer, latency)

    # What the transport tells (asyncio.Protocol)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self._feed(data)
        self._settle()

    def eof_received(self) -> bool:
        """The server sends no more; asyncio closes the transport for that."""
        self._lose(_NO_CLOSE_FRAME, CloseCause.EOF)
        self._settle()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        if isinstance(error, OSError):
            self._lose(error.strerror or str(error), CloseCause.RESET)
        else:
            self._lose(_NO_CLOSE_FRAME, CloseCause.EOF)
        for timer in (self._beat, self._stall, self._ending):
            if timer is not None:
                timer.cancel()
        self._log_end()
        _resolve(self._gone, None)
        self._settle()

    def pause_writing(self) -> None:
        """The transport holds enough."""
        self._blocked = True
        self._watch_output()

    def resume_writing(self) -> None:
        """The transport takes more."""
        self._blocked = False
        if self._stall is not None:
            self._stall.cancel()
        pong, self._last_pong = self._last_pong, None
        if pong is not None and self.is_open():
            self._put(pong)
        self._settle()

    # Following what has come to be

    def _settle(self) -> None:
        """Wake those whose wait is over, and tell the transport what to do."""
        if self._inbox or self._ended:
            _resolve(self._receiver, None)
        if self.is_open():
            if not self._blocked:
                self._wake_senders()
            if self._full is not self._deaf:
                self._set_deaf(self._full)
            return
        self._wake_senders()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._closed())
        if self._deaf:
            self._set_deaf(False)
        self._wait_for_end()

    def _wake_senders(self) -> None:
        for sender in self._senders:
            _resolve(sender, None)

    def _set_deaf(self, deaf: bool) -> None:
        """Read no more, or again."""
        self._deaf = deaf
        if not self._transport.is_closing():
            if deaf:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _wait_for_end(self) -> None:
        """Have the transport closed: by the server, or after `close_timeout` by us.

        RFC 6455 §7.1.1: the client "SHOULD wait for the server to close the connection
        but MAY close the connection at any time subject to the definitions". The time
        begins when our last frame has left.
        """
        if self._gone.done() or self._leaving:
            return
        # Not 0: with TLS an empty buffer would count as full then.
        self._transport.set_write_buffer_limits(1, 0)
        if self._blocked and self._loss is None:
            return  # `resume_writing` comes back here
        delay = self._options.close_timeout
        if self._ended or self._loss is not None:
            self._leaving = True
            delay = min(delay, LINGER)
        elif self._ending is not None:
            return
        if self._ending is not None:
            self._ending.cancel()
        self._ending = self._loop.call_later(delay, self._on_close_timeout)

    def _on_close_timeout(self) -> None:
        reason = "no answer to our close frame"
        self._protocol.conclude(CloseCode.ABNORMAL, reason, CloseCause.LOCAL)
        self._transport.abort()

    # Time

    def _arm_beat(self) -> None:
        due = self._next_beat()
        if due is not None:
            delay = max(0.0, due - self._clock())
            self._beat = self._loop.call_later(delay, self._on_beat)

    def _on_beat(self) -> None:
        """Ping a silent server, or give it up."""
        if not self.is_open():
            return
        if self._deaf or self._blocked:
            # Silence is ours while we do not read; a ping would wait behind the rest.
            self._last_received = self._clock()
        elif not self._keep_alive(self._clock()):
            self._give_up_silent()
            self._transport.abort()
            self._settle()
            return
        self._arm_beat()

    def _watch_output(self) -> None:
        self._unsent = self._count_unsent()
        delay = self._options.write_timeout
        self._stall = self._loop.call_later(delay, self._on_stall)

    def _on_stall(self) -> None:
        """Look whether the server has read at least something."""
        if self._count_unsent() < self._unsent:
            self._watch_output()
            return
        self._give_up_slow()
        self._transport.abort()
        self._settle()

    def _count_unsent(self) -> int:
        """Bytes that wait in the transport, and in the one below TLS."""
        layers = {self._transport, self._socket_transport}
        return sum(layer.get_write_buffer_size() for layer in layers)


def _resolve(future: asyncio.Future[Any] | None, value: Any) -> None:
    """Set a result, unless whoever waited was cancelled."""
    if future is not None and not future.done():
        future.set_result(value)


class _Opener:
    """Opens one connection.

    Args:
        uri: where the user wants to go.
        options: of the client.
    """

    def __init__(self, uri: URI, options: ClientOptions) -> None:
        self._home = uri
        self._options = options
        self._opening = Opening(uri, options, stay=options.unix is not None)

    async def open(self) -> Connection:
        limit = self._options.open_timeout
        try:
            async with asyncio.timeout(limit):
                while True:
                    connection = await self._try(self._opening.uri)
                    if connection is not None:
                        return connection
        except TimeoutError as error:
            if isinstance(error, ConnectTimeout):
                raise
            if self._opening.refused:
                self._opening.refuse()
            url = str(self._opening.uri)
            raise ConnectTimeout(url, f"not open within {limit:g} s") from None

    async def _try(self, uri: URI) -> Connection | None:
        """Connect and ask; None where we are sent elsewhere."""
        exchange = Exchange()
        connection = None
        try:
            await self._reach(uri, exchange)
            make = partial(self._make, uri, exchange)
            connection = await exchange.ask(self._opening, make)
        except OSError as error:
            if isinstance(error, ConnectError):
                raise
            raise explain(uri, error) from error
        finally:
            if connection is None:
                exchange.abort()
        return cast("Connection | None", connection)

    def _make(self, uri: URI, exchange: Exchange, outcome: Outcome) -> Any:
        if outcome is Outcome.REDIRECT:
            return None
        assert exchange.transport is not None
        assert exchange.socket_transport is not None
        return Connection(
            exchange.transport,
            exchange.socket_transport,
            uri,
            self._opening.accepted,
            self._options,
        )

    async def _reach(self, uri: URI, exchange: Exchange) -> None:
        """A transport to the server, with TLS if it must be."""
        tls = self._options.tls_to(uri, self._home)
        loop = asyncio.get_running_loop()
        proxy = self._options.proxy_to(uri)
        if self._options.unix is not None:
            await attach(await dial_unix(self._options.unix), exchange)
        elif proxy is None:
            await self._dial(uri, exchange)
        else:
            await self._dial_by(proxy, uri, exchange)
        if tls is not None:
            context, name = tls
            assert exchange.transport is not None
            transport = await loop.start_tls(
                exchange.transport, exchange, context, server_hostname=name
            )
            if transport is None:  # as typeshed has it
                raise ConnectionResetError(errno.ECONNRESET, "connection lost")
            exchange.transport = transport

    async def _dial(self, uri: URI, exchange: Exchange) -> None:
        source = self._options.source_address
        await attach(await dial(uri.host, uri.port, source), exchange)

    async def _dial_by(self, proxy: URI, uri: URI, exchange: Exchange) -> None:
        tunnel = Tunnel(proxy, uri, self._options.user_agent)
        try:
            await self._dial(proxy, exchange)
            await exchange.ask(tunnel, lambda outcome: outcome)
        except OSError as error:
            if isinstance(error, ConnectError):
                raise
            raise unreachable(proxy, uri, error) from error
