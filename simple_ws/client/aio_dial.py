"""Connecting for asyncio: addresses, sockets, transports, a request and its response.

Cancelling leaves no socket open. Requests and the meaning of responses are in
`protocol.client_handshake` and `protocol.proxy_tunnel`, the order of steps in `aio`.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, cast

from ..protocol.client_handshake import BODY_TIMEOUT
from .dial import NEXT_ATTEMPT, interleaved

__all__ = ["AbortableProtocol", "HandshakeProtocol", "attach", "dial", "dial_unix"]

# Sockets are connected here and not by `loop.create_connection`: if cancelled, it may
# leave a socket open with its `happy_eyeballs_delay` (seen on Python 3.11.7 and
# 3.13.0), and uvloop has no such delay.


async def dial(
    host: str, port: int, source_address: tuple[str, int] | None
) -> socket.socket:
    """Connect to the first address of a host that answers (RFC 8305)."""
    stream = socket.SOCK_STREAM
    try:
        numeric = socket.AI_NUMERICHOST  # needs no look-up
        found = socket.getaddrinfo(host, port, type=stream, flags=numeric)
    except socket.gaierror:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=stream)
    attempts = [
        partial(_connect, family, protocol, address, source_address)
        for family, _, protocol, _, address in interleaved(found)
    ]
    if len(attempts) == 1:
        sock = await attempts[0]()
    else:
        sock = await _first_of(attempts)
    # Messages are written whole: Nagle's algorithm would only delay them.
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def dial_unix(path: str) -> socket.socket:
    """Connect to a Unix socket."""
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise OSError("this system has no Unix sockets")
    return await _connect(family, 0, path, None)


async def _connect(
    family: int, protocol: int, address: Any, source_address: tuple[str, int] | None
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        sock.setblocking(False)
        if source_address is not None:
            sock.bind(source_address)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _first_of(
    attempts: Sequence[Callable[[], Coroutine[Any, Any, socket.socket]]],
) -> socket.socket:
    """The first socket to connect; attempts start one after the other (RFC 8305)."""
    waiting = deque(attempts)
    tasks: set[asyncio.Task[socket.socket]] = set()
    error: BaseException | None = None
    try:
        while waiting or tasks:
            if waiting:
                tasks.add(asyncio.ensure_future(waiting.popleft()()))
            done, _ = await asyncio.wait(
                tasks,
                timeout=NEXT_ATTEMPT if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                tasks.discard(task)
                error = task.exception()
                if error is None:
                    return task.result()
    finally:
        for task in tasks:
            task.add_done_callback(_close_socket)
            task.cancel()
    assert error is not None
    raise error


def _close_socket(task: asyncio.Task[socket.socket]) -> None:
    """Close the socket of an attempt that is not needed."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def attach(sock: socket.socket, handshake: AbortableProtocol) -> None:
    """Attach a connected socket to a transport."""
    loop = asyncio.get_running_loop()
    create = loop.create_connection(lambda: handshake, sock=sock)
    # Never cancelled half-way: it would be undefined who owns the socket then.
    attaching = asyncio.ensure_future(create)
    try:
        await asyncio.shield(attaching)
    except asyncio.CancelledError:
        attaching.add_done_callback(partial(_abandon, handshake))
        raise


def _abandon(handshake: AbortableProtocol, attaching: asyncio.Future[Any]) -> None:
    if not attaching.cancelled() and attaching.exception() is None:
        handshake.abort()


class AbortableProtocol(asyncio.Protocol):
    """What `attach` needs of a protocol."""

    def abort(self) -> None:
        """Close the connection at once."""
        raise NotImplementedError


class HandshakeProtocol(AbortableProtocol):
    """Sends a request to a server or a proxy, and passes on the response.

    Attributes:
        transport: the one we write to; with TLS, on top of the socket's.
        socket_transport: the socket's.
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.socket_transport: asyncio.Transport | None = None
        self._asking: Any = None
        self._then: Callable[[Any], Any] = lambda outcome: outcome
        self._answer: asyncio.Future[Any] | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self._early = b""
        self._lost = False
        self._error: Exception | None = None

    async def ask(self, asking: Any, then: Callable[[Any], Any]) -> Any:
        """Send a request and wait for the outcome of the response.

        Args:
            asking: an `Opening` or a `Tunnel`.
            then: called with the outcome, before more is read; its result is returned.
        """
        assert self.transport is not None
        self._asking, self._then = asking, then
        self._answer = asyncio.get_running_loop().create_future()
        request = asking.begin()
        if not self._lost:
            self.transport.write(request)
        if self._early:
            self.data_received(self._early)
        if self._lost:
            self._end(self._error)
        try:
            return await self._answer
        finally:
            self._asking = None
            if self._close_timer is not None:
                self._close_timer.cancel()
                self._close_timer = None

    def abort(self) -> None:
        """Close the connection at once."""
        for transport in (self.transport, self.socket_transport):
            if transport is not None:
                transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected."""
        self.transport = self.socket_transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """A part of the response was received."""
        if self._asking is None:
            self._early += data  # the peer sends before the request
            return
        self._try(lambda: self._asking.receive(data))
        if self._asking.refused and not self._close_timer:
            # The outcome is known; only an explanation may follow.
            loop = asyncio.get_running_loop()
            self._close_timer = loop.call_later(BODY_TIMEOUT, self._on_time)

    def eof_received(self) -> bool:
        """The response has ended."""
        self._try(lambda: self._asking.receive_eof())
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is lost or closed."""
        self._lost, self._error = True, error
        if self._asking is not None:
            self._end(error)

    def _on_time(self) -> None:
        self._try(lambda: self._asking.refuse())

    def _end(self, error: Exception | None) -> None:
        """The response is not continued."""
        if error is None or self._asking.refused:
            self._try(lambda: self._asking.receive_eof())
        elif self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def _try(self, step: Callable[[], Any]) -> None:
        """Run a step; its result or exception is the outcome."""
        answer = self._answer
        if self._asking is None or answer is None or answer.done():
            return
        try:
            outcome = step()
            if outcome:
                answer.set_result(self._then(outcome))
        except Exception as error:
            answer.set_exception(error)
        except BaseException:
            # A signal handler: nobody knows what had been read of the answer.
            self.abort()
            raise
