"""A connection before its upgrade: reads requests, and decides how to answer each.

A `handshake` opens a client, which takes the socket over; a page is answered by an
`http.exchange.Exchange`, which borrows it; anything else is refused.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from ..connection.admission import Admission, overloaded
from ..connection.client import Client
from ..errors import FAILED, AuthenticationError, HandshakeError
from ..http.exchange import Exchange, HttpHost
from ..http.responses import refused_by, server_error
from ..http.routes import Route
from ..loop.forks import close_copy, close_socket
from ..loop.reactor import READ
from ..loop.shedding import hold_input
from ..protocol.host import check_allowed_host
from ..protocol.http11 import RequestReader, check_version, wants_upgrade
from ..protocol.request import Request
from ..protocol.response import Response
from ..speedups import Opener, read_request, read_upgrade
from .forwarded import client_address, client_scheme
from .handshake import Handshake, HandshakeHost
from .terms import Offer, StreamTerms

__all__ = ["UpgradeConnection", "UpgradeHost"]

#: Seconds for the first bytes of a client, once the server stops.
_SILENCE = 1.0
#: Bytes of one read; a browser's request takes 500 to 1,500.
_READ_SIZE = 4096


class UpgradeHost(HandshakeHost, HttpHost, Protocol):
    """What a connection needs of its server until it is upgraded."""

    _admission: Admission

    @property
    def _is_stopping(self) -> bool:
        """Whether nothing new is begun."""

    @property
    def _opener(self) -> Opener:
        """Opens connections whose handshake is ordinary."""

    def _find_route(self, request: Request) -> Route | None:
        """The HTTP route of a path; sets `request.params`."""

    def _forget_upgrade(self, connection: UpgradeConnection) -> None:
        """The connection was upgraded, or is closed."""


class UpgradeConnection:
    """One accepted connection until it is upgraded or closed.

    Attributes:
        client: what it was upgraded to, or None.
        early_input: bytes received while `on_request` takes its time.
        over: it is closed, or handed over to the client.
        scheme: by which the client has come, if that is known.
    """

    client: Client | None = None
    _events = 0  # that are watched for
    _watcher: Callable[[int], object] | None = None  # who is told of them
    _kept = False  # a request was answered on it before
    _buffered_input = 0  # bytes of an incomplete head, as told to the loop
    _head_size = 0  # bytes of a head that was parsed in one step
    early_input = b""
    over = False
    _handshake: Handshake | None = None
    _request: Request | None = None  # for an upgrade
    scheme: str | None = None

    def __init__(self, sock: socket.socket, address: Any, server: UpgradeHost) -> None:
        self.sock = sock
        self.address = address
        self.server = server
        self._wheel_slot: dict[Any, None] | None = None
        self._reader: RequestReader | None = None  # unless it is a plain handshake
        self._exchange: Exchange | None = None  # owns the socket, while there is one

    def begin(self, data: bytes | None = None) -> None:
        """Read what arrived with the connection; wait for the rest.

        Most clients send their request before it is accepted, and need no waiting.

        Args:
            data: what was read already; b"" for the end.
        """
        if data is None:
            self._read()
        else:
            self._take(data)
        if not self.over and not self._events and self._exchange is None:
            self.watch(READ, self._on_ready)
            self._wait(self.server.options.open_timeout)

    def _sweep(self, now: float) -> float | None:
        """The timeout for a request has passed (`speedups.Wheel`)."""
        if self._awaits_handler:
            self.refuse(HandshakeError(503, "The server took too long."))
        elif self._reader is None or self._reader.empty:
            self.close()
        else:
            self.refuse(HandshakeError(408, "The opening handshake took too long."))
        return None

    def stop(self) -> None:
        """The server stops: finish what has begun, and nothing else.

        A client that has connected and sent nothing may be about to.
        """
        if self._exchange is not None:
            self._exchange.stop()
        elif self._awaits_handler:
            self.close()  # nobody knows how long it takes
        elif self._kept and (self._reader is None or self._reader.empty):
            self.close()
        elif self._reader is None:
            self._wait(min(_SILENCE, self.server.options.open_timeout))

    def close(self) -> None:
        """Close the socket; nothing else happens after that."""
        if not self.over:
            handshake = self._handshake
            self._leave()
            if handshake is not None:
                handshake.cancel()
            if self._exchange is not None:
                self._exchange.drop()
            elif self._is_tls():
                # RFC 9112 §9.8: "Servers MUST attempt to initiate an exchange of
                # closure alerts with the client before closing the connection". Not
                # during a response: a truncated one must not seem complete.
                with suppress(OSError):
                    self.sock.shutdown(socket.SHUT_WR)
            self.watch(0, self._on_ready)
            close_socket(self.sock)

    _abandon = close

    def forget(self) -> None:
        """Close a forked process's copy of the socket."""
        self.over = True
        close_copy(self.sock)

    def watch(self, events: int, callback: Callable[[int], object]) -> None:
        """Call `callback(events)` when the socket is ready; 0: not at all."""
        reactor = self.server.reactor
        if not self._events and events:
            reactor.register(self.sock, events, callback)
        elif events:
            if events == self._events and callback == self._watcher:
                return
            reactor.modify(self.sock, events, callback)
        elif self._events:
            reactor.unregister(self.sock)
        self._events, self._watcher = events, callback if events else None

    def resume(self, rest: bytes) -> None:
        """A response is sent: continue with the bytes after its request."""
        if self.over:
            return
        self._exchange = self._reader = None
        self._kept = True
        self.watch(READ, self._on_ready)
        if rest:
            self._receive(rest)
        else:
            self._wait(self.server.options.keep_alive)

    def _is_tls(self) -> bool:
        """Whether the socket uses TLS."""
        return getattr(self.sock, "secure", False) is True

    def _leave(self) -> None:
        self.over = True
        self._watcher = self._handshake = None  # they refer to this one
        if self._buffered_input:
            hold_input(self.server.reactor, self, 0)
        self.server.reactor.wheel.discard(self)
        self.server._forget_upgrade(self)

    def _wait(self, seconds: float) -> None:
        reactor = self.server.reactor
        reactor.wheel.put(self, reactor.now + seconds)

    def _on_ready(self, events: int) -> None:
        # Not for a socket that a callback of this turn has closed.
        if not self.over and self._exchange is None:
            self._read()

    def _read(self) -> None:
        try:
            data = self.sock.recv(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        self._take(data)

    def _take(self, data: bytes) -> None:
        if data:
            self._receive(data)
        else:
            self.close()

    def _receive(self, data: bytes) -> None:
        if self._awaits_handler:
            self.early_input += data
            if len(self.early_input) >= _READ_SIZE:
                self.watch(0, self._on_ready)  # the limit before acceptance
            return
        # The request that nearly every client sends is parsed in one step. Others are
        # parsed again by the slow path, which can say what is wrong.
        request = None
        try:
            if self._reader is None and self._is_ordinary(data):
                return
            common = read_upgrade(data) if self._reader is None else None
            if common is not None and common[0] <= self.server.options.max_header:
                size, target, fields, key, protocols, extensions = common
                lines = () if extensions is None else (extensions,)
                request = Request("GET", target, (1, 1), fields)
                offer = Offer(key, protocols is not None, lines)
                self._upgrade(request, offer, data[size:])
                return
            request = self._read_head(data)
            if request is not None:
                rest = data[self._head_size :]
                self._decide(
                    request, rest if self._reader is None else self._reader.rest
                )
        except HandshakeError as error:
            self.refuse(error, request)
        except Exception as error:
            self.fail(error, request)
        except BaseException:  # such as SystemExit: the loop may still continue
            self.close()
            raise

    def _is_ordinary(self, data: bytes) -> bool:
        """Open the client, if all that can be asked about the request has been."""
        if type(self.sock) is not socket.socket:
            return False
        opener = self.server._opener
        return opener.open(self.sock, self.address, data, self) is not None

    def _hand_over(self, client: Client) -> bool:
        """The client has the socket; return whether the loop knows it (`Opener`)."""
        self.client = client
        self._leave()
        return self._events != 0

    def _read_head(self, data: bytes) -> Request | None:
        if self._reader is None:
            head = read_request(data)
            if head is not None and head[0] <= self.server.options.max_header:
                self._head_size, method, target, minor, fields = head
                return Request(method, target, (1, minor), fields)
            self._reader = RequestReader(self.server.options.max_header)
            if self._kept:
                self._wait(self.server.options.open_timeout)
        request = self._reader.feed(data)
        hold_input(
            self.server.reactor, self, 0 if request else self._reader.buffered_input
        )
        return request

    def _shed_input(self) -> None:
        """See `loop.shedding.InputHolder`."""
        self.refuse(overloaded())

    def _decide(self, request: Request, rest: bytes) -> None:
        """Upgrade, or answer plain HTTP; without a route, point to WebSocket."""
        check_version(request)
        route = None if wants_upgrade(request) else self.server._find_route(request)
        if route is None:
            self._upgrade(request, None, rest)
            return
        self._check_host(request)
        self._introduce(request)
        self.server.reactor.wheel.discard(self)
        self._exchange = route.exchange(self, request)
        if self.server._is_stopping:
            self._exchange.take_no_other()
        self._exchange.begin(route.select, rest, route.cors_fields(request))

    def _upgrade(self, request: Request, offer: Offer | None, rest: bytes) -> None:
        """Open a client as the request asks for it, or refuse it.

        Args:
            request: complete.
            offer: what the client offers, if it was parsed and checked already.
            rest: the bytes after the request.
        """
        self._request = request
        request.address = self.address
        if self.server.proxies is not None or type(self.sock) is not socket.socket:
            self._introduce(request)
        self._check_host(request)
        self._handshake = Handshake(self, request, rest)
        self._handshake.upgrade(offer)

    def open_stream(self, handler: Any, terms: StreamTerms) -> None:
        """The request of the exchange opens a client, as a handshake does.

        Args:
            handler: a handler of this server.
            terms: how it is opened.
        """
        assert self._exchange is not None
        request = self._request = self._exchange.request
        try:
            self._handshake = Handshake(self, request, b"")
            self._handshake.open_stream(handler, terms)
        except HandshakeError as error:
            self.refuse(error, request)
        except Exception as error:
            self.fail(error, request)

    def start(self, client: Client, response: bytes, rest: bytes) -> None:
        """See `HandshakeConnection.start`."""
        self._leave()
        if self._exchange is not None:
            self._exchange.hand_over()
        self.client = client
        try:
            client._start(response, rest, self._events != 0)
        except Exception as error:  # the client owns the socket by now
            self.server.reactor.on_failure(client, error)

    @property
    def _awaits_handler(self) -> bool:
        """Whether `on_request` takes its time."""
        return self._handshake is not None and self._handshake.is_pending

    def _check_host(self, request: Request) -> None:
        allowed = self.server.options.allowed_hosts
        if allowed is not None:
            check_allowed_host(request, allowed)

    def _introduce(self, request: Request) -> None:
        """Set the client's address and scheme, from trusted proxies."""
        request.address = self.address
        proxies = self.server.proxies
        if proxies is not None:
            headers = request.headers
            request.address = client_address(self.address, headers, proxies)
            self.scheme = client_scheme(self.address, headers, proxies)
        if self.scheme is None and self._is_tls():
            self.scheme = "https"
        if self.scheme == "https":
            request.secure = True

    def refuse(self, error: HandshakeError, request: Request | None = None) -> None:
        """Tell the client that it is refused."""
        # Details for the operator, which the client is not told.
        secret = isinstance(error.__cause__, AuthenticationError)
        response = refused_by(error, self.server._log)
        why = str(error.__cause__ if secret else error)
        notes = getattr(error, "__notes__", ())
        self.end(response, "; ".join([why, *notes]), request)

    def note_failure(
        self, text: str, *args: object, error: Exception | None = None
    ) -> None:
        """Log that a handshake failed."""
        self.server._log.note_failure(
            "handshakes failed", text, *args, error=error, request=self._request
        )

    def fail(self, error: Exception, request: Request | None) -> None:
        """An unexpected error: respond with 500 if still possible, and close."""
        text = "the handshake of %s failed"
        self.note_failure(text, self.address, error=error)
        if self._exchange is not None and not self._exchange.waiting:
            self.close()  # a response was being sent
        else:
            self.end(server_error(), FAILED, request)

    def end(self, response: Response, why: str, request: Request | None) -> None:
        """Send an HTTP response that ends the connection, and let the peer read it."""
        if self.over:
            return
        if self._handshake is not None:
            self._handshake.cancel()
        self.server._admission.note_refusal(response.status)
        if self._exchange is None:
            self.server.reactor.wheel.discard(self)
            hold_input(self.server.reactor, self, 0)
            self._exchange = Exchange(self, request)
        self._exchange.end(response, why)
