"""Opening for the blocking client: a socket, a request and its response.

Requests and the meaning of responses are in `protocol.client_handshake` and
`protocol.proxy_tunnel`, sockets in `client.dial`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import ConnectError, ConnectTimeout
from ..protocol.client_handshake import BODY_TIMEOUT, Accepted, Opening, Outcome
from ..protocol.proxy_tunnel import Socks, Tunnel
from ..protocol.uri import URI
from .connect_errors import explain, unreachable
from .dial import READ, WRITE, Socket, dial, dial_unix, start_tls, wait_for
from .options import ClientOptions

__all__ = ["Opener"]

#: Bytes of a response read at once.
_READ_SIZE = 64 * 1024

_T = TypeVar("_T")

_clock = time.monotonic
_wait_for = wait_for


class Opener:
    """Opens one connection.

    Args:
        uri: the address given by the user.
        options: of the client.
    """

    def __init__(self, uri: URI, options: ClientOptions) -> None:
        self._given_uri = uri
        self._options = options
        self._opening = Opening(uri, options, stay=options.unix is not None)
        self._deadline = _clock() + options.open_timeout
        self._refused = False

    def open(self, connected: Callable[[Socket, URI, Accepted], _T]) -> _T:
        """Connect, and do the opening handshake (RFC 6455 §4.1).

        Args:
            connected: makes the connection of a socket, the address it leads to, and
                what was agreed; the socket is closed when it raises.

        Raises:
            ConnectError: It failed, see `errors` for the kinds.
        """
        while True:
            uri = self._opening.uri
            try:
                sock = self._reach(uri)
                try:
                    outcome = self._exchange(sock, self._opening)
                    if outcome is Outcome.OPEN:
                        return connected(sock, uri, self._opening.accepted)
                except BaseException:
                    sock.close()
                    raise
                sock.close()
            except OSError as error:
                if isinstance(error, ConnectError):
                    raise
                raise explain(uri, error) from error

    def _left(self) -> float:
        """Seconds until the deadline.

        Raises:
            ConnectTimeout: It has passed.
        """
        left = self._deadline - _clock()
        if left <= 0:
            limit = f"{self._options.open_timeout:g} s"
            raise ConnectTimeout(self._opening.uri.shown, f"not open within {limit}")
        return left

    def _reach(self, uri: URI) -> Socket:
        """A socket to the server, with TLS if the address requires it."""
        tls = self._options.tls_to(uri, self._given_uri)
        sock = self._connect(uri)
        if tls is None:
            return sock
        return start_tls(sock, *tls, self._left)

    def _connect(self, uri: URI) -> socket.socket:
        options = self._options
        if options.unix is not None:
            return dial_unix(options.unix, self._left)
        proxy = options.proxy_to(uri)
        if proxy is None:
            return dial(uri.host, uri.port, options.source_address, self._left)
        if isinstance(proxy, Socks):
            from .socks import dial_by_socks

            return dial_by_socks(proxy, uri, options.source_address, self._left)
        return self._connect_by(proxy, uri)

    def _connect_by(self, proxy: URI, uri: URI) -> socket.socket:
        source, sock = self._options.source_address, None
        try:
            sock = dial(proxy.host, proxy.port, source, self._left)
            self._exchange(sock, Tunnel(proxy, uri, self._options.user_agent))
            return sock
        except BaseException as error:
            if sock is not None:
                sock.close()
            if isinstance(error, ConnectError) or not isinstance(error, OSError):
                raise
            raise unreachable(proxy, uri, error) from error

    def _exchange(self, sock: Socket, asking: Any) -> Any:
        """Send a request and return its outcome (`Opening` or `Tunnel`)."""
        request = memoryview(asking.begin())
        while request:
            try:
                request = request[sock.send(request) :]
            except BlockingIOError:
                _wait_for(sock, WRITE, self._left())
        outcome = None
        while not outcome:
            data = self._receive(sock, asking)
            outcome = asking.receive(data) if data else asking.receive_eof()
        return outcome

    def _receive(self, sock: Socket, asking: Any) -> bytes:
        while True:
            try:
                return sock.recv(_READ_SIZE)
            except BlockingIOError:
                self._wait_for_answer(sock, asking)
            except OSError:
                if not asking.refused:
                    raise
                return b""

    def _wait_for_answer(self, sock: Socket, asking: Any) -> None:
        if not asking.refused:
            _wait_for(sock, READ, self._left())
            return
        # The outcome is known; only an explanation may follow.
        if not self._refused:
            self._refused = True
            self._deadline = min(self._deadline, _clock() + BODY_TIMEOUT)
        timeout = self._deadline - _clock()
        if timeout <= 0 or not _wait_for(sock, READ, timeout):
            asking.refuse()
