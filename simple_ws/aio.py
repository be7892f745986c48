"""The asyncio client: `connect(url)`, and the `Connection` it returns; `Publisher`.

    async with connect("ws://localhost:8080/") as ws:
        await ws.send("hello")
        async for message in ws:
            print(message)

    async for ws in connect("ws://localhost:8080/"):  # reconnects automatically
        try:
            async for message in ws:
                print(message)
        except ConnectionClosed:
            continue

It uses asyncio's transports, so it works on uvloop as well. Opening and automatic
reconnect are here; the connection itself is in `aio_connection`, the handshake in
`client_handshake`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import AsyncIterator, Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from .client.address import AsyncAddress, ask_async, read_address
from .client.aio_connection import Connection
from .client.aio_dial import HandshakeProtocol, attach, dial, dial_unix
from .client.backoff import Backoff, may_heal, retry_after
from .client.connect_errors import explain, unreachable
from .client.default_tls import default_context
from .client.options import (
    ClientOptions,
    ConnectOptions,
    check_client_options,
    check_tls_options,
)
from .cluster.aio_publishing import Publisher
from .errors import (
    ConnectError,
    ConnectTimeout,
)
from .protocol.client_handshake import Opening, Outcome
from .protocol.proxy_tunnel import ASKS_SYSTEM, Proxy, Socks, Tunnel
from .protocol.uri import URI
from .text import redacted

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Unpack

__all__ = ["Backoff", "Connection", "Publisher", "connect"]

logger = logging.getLogger("simple_ws")

_clock = time.monotonic
_sleep = asyncio.sleep


class AsyncConnectOptions(ConnectOptions, total=False):
    """The keyword arguments of `connect`, for type checkers."""

    backoff: Backoff
    should_retry: Callable[[ConnectError], bool]


def connect(url: AsyncAddress, **options: Unpack[AsyncConnectOptions]) -> Connecting:
    """Open a connection to a WebSocket server (RFC 6455 §4.1).

    `ws = await connect(url)` connects once; so does `async with connect(url) as ws`,
    which also closes the connection. `async for ws in connect(url)` reconnects
    automatically whenever the body of the loop ends or continues.

    Args:
        url: such as "wss://example.com/chat?room=1"; a user and password in it are sent
            as Basic credentials. Or a function that returns the address, `def` or
            `async def`; it is called before each attempt to connect, so that the
            address can hold a fresh token or what to continue from. It has
            `open_timeout`, too.
        options: see `client.options.ClientOptions`; in addition `backoff`, a `Backoff`,
            for the delay before an iteration reconnects; and `should_retry`, a function
            that is called with the `ConnectError` of a failed attempt of an iteration
            and returns whether to try again. What it raises is passed on. Without it,
            attempts end where trying again would not help, see `Connecting`.

    Raises:
        TypeError, ValueError: An option is wrong; `InvalidURI`: the address is wrong.
            These are raised at once, the others when awaited:
        HandshakeRefused: The server answered with a status other than 101.
        ConnectError: The connection failed, see `errors` for the kinds; or the function
            for the address raised an `OSError`, which counts as a failed attempt. Its
            other exceptions are passed on, by an iteration as well.
    """
    uri = read_address(url)
    given: dict[str, Any] = dict(options)
    backoff = given.pop("backoff", Backoff())
    if not isinstance(backoff, Backoff):
        raise TypeError(f"backoff must be a Backoff(...), not {backoff!r}")
    should_retry = given.pop("should_retry", may_heal)
    if not callable(should_retry):
        raise TypeError(f"should_retry must be a function, not {should_retry!r}")
    source = cast("Callable[[], Any]", url) if uri is None else uri
    checked = check_client_options(uri, given)
    return Connecting(source, given, checked, backoff, should_retry)


class Connecting:
    """A connection to be opened, once or repeatedly; `connect` creates it."""

    def __init__(
        self,
        source: URI | Callable[[], Any],
        given: dict[str, Any],
        options: ClientOptions,
        backoff: Backoff,
        should_retry: Callable[[ConnectError], bool],
    ) -> None:
        self._source = source
        self._given = given
        self._options = options
        self._backoff = backoff
        self._should_retry = should_retry
        self._connection: Connection | None = None

    def __await__(self) -> Generator[Any, None, Connection]:
        return self._open().__await__()

    async def _open(self) -> Connection:
        uri = self._source
        if not isinstance(uri, URI):
            uri = await ask_async(uri, self._options.open_timeout)
            check_tls_options(uri, self._given)
        return await _Opener(uri, self._options).open()

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
        """Iterate over connections; each follows when the previous one has ended.

        Raises:
            ConnectError: `should_retry` says no; by default, where trying again would
                not help: a refusal such as 401, 403 or 404, a server that does not
                speak WebSocket, a certificate that is not accepted.
        """
        attempt = 0
        while True:
            try:
                connection = await self
            except ConnectError as error:
                if not self._should_retry(error):
                    raise
                delay = max(self._backoff.delay(attempt), retry_after(error))
                logger.info("%s; retrying in %.1f s", error, delay)
            else:
                opened_at = _clock()
                try:
                    yield connection
                finally:
                    await connection.close()
                if _clock() - opened_at >= self._backoff.stable:
                    attempt = 0
                delay = self._backoff.delay(attempt)
                logger.info(
                    "%s has ended; retrying in %.1f s", redacted(connection.url), delay
                )
            attempt += 1
            await _sleep(delay)


class _Opener:
    """Opens one connection.

    Args:
        uri: the address given by the user.
        options: of the client.
    """

    def __init__(self, uri: URI, options: ClientOptions) -> None:
        self._given_uri = uri
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
            url = self._opening.uri.shown
            raise ConnectTimeout(url, f"not open within {limit:g} s") from None

    async def _try(self, uri: URI) -> Connection | None:
        """Connect and do the handshake; None after a redirect."""
        handshake = HandshakeProtocol()
        connection = None
        try:
            await self._reach(uri, handshake)
            make = partial(self._make, uri, handshake)
            connection = await handshake.ask(self._opening, make)
        except OSError as error:
            if isinstance(error, ConnectError):
                raise
            raise explain(uri, error) from error
        finally:
            if connection is None:
                handshake.abort()
        return cast("Connection | None", connection)

    def _make(self, uri: URI, handshake: HandshakeProtocol, outcome: Outcome) -> Any:
        if outcome is Outcome.REDIRECT:
            return None
        assert handshake.transport is not None
        assert handshake.socket_transport is not None
        return Connection(
            handshake.transport,
            handshake.socket_transport,
            uri,
            self._opening.accepted,
            self._options,
        )

    async def _reach(self, uri: URI, handshake: HandshakeProtocol) -> None:
        """A transport to the server, with TLS if the address requires it."""
        if uri.secure and self._options.ssl is None:
            await asyncio.to_thread(default_context)  # cached from now on
        tls = self._options.tls_to(uri, self._given_uri)
        loop = asyncio.get_running_loop()
        proxy = await self._find_proxy(uri)
        if self._options.unix is not None:
            await attach(await dial_unix(self._options.unix), handshake)
        elif proxy is None:
            await self._dial(uri, handshake)
        elif isinstance(proxy, Socks):
            from .client.socks import dial_by_socks_async

            source = self._options.source_address
            await attach(await dial_by_socks_async(proxy, uri, source), handshake)
        else:
            await self._dial_by(proxy, uri, handshake)
        if tls is not None:
            context, name = tls
            assert handshake.transport is not None
            transport = await loop.start_tls(
                handshake.transport, handshake, context, server_hostname=name
            )
            if transport is None:  # possible according to typeshed
                raise ConnectionResetError(errno.ECONNRESET, "connection lost")
            handshake.transport = transport

    async def _find_proxy(self, uri: URI) -> Proxy | None:
        if ASKS_SYSTEM and self._options.proxy is True:
            return await asyncio.to_thread(self._options.proxy_to, uri)
        return self._options.proxy_to(uri)

    async def _dial(self, uri: URI, handshake: HandshakeProtocol) -> None:
        source = self._options.source_address
        await attach(await dial(uri.host, uri.port, source), handshake)

    async def _dial_by(
        self, proxy: URI, uri: URI, handshake: HandshakeProtocol
    ) -> None:
        tunnel = Tunnel(proxy, uri, self._options.user_agent)
        try:
            await self._dial(proxy, handshake)
            await handshake.ask(tunnel, lambda outcome: outcome)
        except OSError as error:
            if isinstance(error, ConnectError):
                raise
            raise unreachable(proxy, uri, error) from error
