"""A connection before its upgrade: reads requests, and decides how to answer each.

A handshake opens a `Client`, which takes the socket over; a page is answered by an
`http.exchange.Exchange`, which borrows it; anything else is refused. The rules of the
handshake are in `protocol.server_handshake`; this module applies them in order, and
asks the server and the handler.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

from ..connection.admission import Admission, overloaded
from ..connection.client import Client
from ..connection.interfaces import ConnectionHost, Handler
from ..connection.options import Options
from ..deflate import Agreement, Deflate, negotiate, parse_extensions
from ..errors import FAILED, AuthenticationError, HandshakeError
from ..handlers.pending import PendingCall
from ..handlers.return_values import (
    Accepted,
    WrongReturnValue,
    session_of,
    subprotocol_of,
)
from ..http.exchange import (
    Exchange,
    HttpHost,
    refused_by,
    response_of,
    server_error,
    unauthorized,
)
from ..http.routes import Route
from ..loop.deferred import is_deferred
from ..loop.forks import close_copy, close_socket
from ..loop.reactor import READ
from ..loop.shedding import hold_input
from ..protocol.host import check_allowed_host
from ..protocol.http11 import RequestReader, check_version, wants_upgrade
from ..protocol.request import Request
from ..protocol.response import Response
from ..protocol.server_handshake import (
    OriginRule,
    check_origin,
    check_upgrade,
    offered_subprotocols,
    upgrade_response,
)
from ..speedups import Opener, read_request, read_upgrade
from .forwarded import (
    TrustedProxies,
    client_address,
    client_hosts,
    client_scheme,
)

__all__ = [
    "StreamTerms",
    "UpgradeConnection",
    "UpgradeHandler",
    "UpgradeHost",
    "negotiated",
]

#: Seconds for the first bytes of a client, once the server stops.
_SILENCE = 1.0
#: Bytes of one read; a browser's request takes 500 to 1,500.
_READ_SIZE = 4096


class UpgradeHandler(Handler, Protocol):
    """What a handshake needs of a handler (`server.websocket.WebSocket`)."""

    @property
    def client_class(self) -> Any:
        """The class of its connections, or a function that creates them."""

    def on_request(self, request: Request) -> object:
        """Decide about a client: None, a `Response`, or its session."""

    def select_subprotocol(self, offered: list[str]) -> str | None:
        """Choose among the subprotocols that a client offers."""


class _Offer(NamedTuple):
    """What a client offers in its handshake."""

    key: str
    #: Whether there is a `Sec-WebSocket-Protocol`.
    protocols: bool
    #: Lines of `Sec-WebSocket-Extensions`.
    extensions: tuple[str, ...]


class _Terms(NamedTuple):
    """The agreed terms of a handshake, before the handler is asked."""

    key: str
    #: Subprotocols offered by the client.
    offered: list[str]
    #: The agreed extension, as in the response, and its parameters.
    extension: str | None
    agreement: Agreement | None

    def answer(
        self, subprotocol: str | None, fields: Sequence[tuple[str, str]] = ()
    ) -> bytes:
        """The response that opens the connection."""
        return upgrade_response(self.key, subprotocol, self.extension, fields)


class StreamTerms(NamedTuple):
    """The terms of a client that is sent a response without an end.

    Attributes:
        client_class: creates the connection.
        head: of the response; b"" if the client sends it by itself.
        any_origin: the option `origins` does not hold.
    """

    client_class: Callable[..., Client]
    head: bytes
    any_origin: bool = False
    offered: Sequence[str] = ()
    agreement: Agreement | None = None

    def answer(
        self, subprotocol: str | None, fields: Sequence[tuple[str, str]] = ()
    ) -> bytes:
        """The response that opens the connection, as far as that is known."""
        return self.head


class UpgradeHost(ConnectionHost, HttpHost, Protocol):
    """What a handshake needs of its server."""

    proxies: TrustedProxies | None
    _admission: Admission

    @property
    def _is_stopping(self) -> bool:
        """Whether nothing new is begun."""

    @property
    def _opener(self) -> Opener:
        """Opens connections whose handshake is ordinary."""

    def _find_handler(self, request: Request) -> UpgradeHandler:
        """The handler of a path; sets `request.params`; HandshakeError if not."""

    def _admit(self, handler: Any, request: Request) -> UpgradeHandler:
        """A handler with all that stands before it; HandshakeError if it is full."""

    def _check_again(self, handler: UpgradeHandler, request: Request) -> None:
        """HandshakeError if there is no room any more, after some time."""

    def _find_route(self, request: Request) -> Route | None:
        """The HTTP route of a path; sets `request.params`."""

    def _forget_upgrade(self, connection: UpgradeConnection) -> None:
        """The connection was upgraded, or is closed."""


class UpgradeConnection:
    """One accepted connection until it is upgraded or closed.

    Attributes:
        client: what it was upgraded to, or None.
    """

    client: Client | None = None
    _events = 0  # that are watched for
    _watcher: Callable[[int], object] | None = None  # who is told of them
    _kept = False  # a request was answered on it before
    _buffered_input = 0  # bytes of an incomplete head, as told to the loop
    _head_size = 0  # bytes of a head that was parsed in one step
    _over = False  # closed, or handed over to a client
    _pending_request: PendingCall | None = None  # a deferred `on_request`
    _early_input = b""  # bytes received meanwhile
    _request: Request | None = None  # for an upgrade
    _scheme: str | None = None  # by which the client has come, if that is known

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
        if not self._over and not self._events and self._exchange is None:
            self.watch(READ, self._on_ready)
            self._wait(self.server.options.open_timeout)

    def _sweep(self, now: float) -> float | None:
        """The timeout for a request has passed (`speedups.Wheel`)."""
        if self._pending_request is not None:
            self._refuse(HandshakeError(503, "The server took too long."))
        elif self._reader is None or self._reader.empty:
            self.close()
        else:
            self._refuse(HandshakeError(408, "The opening handshake took too long."))
        return None

    def stop(self) -> None:
        """The server stops: finish what has begun, and nothing else.

        A client that has connected and sent nothing may be about to.
        """
        if self._exchange is not None:
            self._exchange.stop()
        elif self._pending_request is not None:
            self.close()  # nobody knows how long it takes
        elif self._kept and (self._reader is None or self._reader.empty):
            self.close()
        elif self._reader is None:
            self._wait(min(_SILENCE, self.server.options.open_timeout))

    def close(self) -> None:
        """Close the socket; nothing else happens after that."""
        if not self._over:
            self._leave()
            self._cancel_pending_request()
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
        self._over = True
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
        if self._over:
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
        self._over = True
        self._watcher = None  # it may be ours: no cycle remains
        if self._buffered_input:
            hold_input(self.server.reactor, self, 0)
        self.server.reactor.wheel.discard(self)
        self.server._forget_upgrade(self)

    def _wait(self, seconds: float) -> None:
        reactor = self.server.reactor
        reactor.wheel.put(self, reactor.now + seconds)

    def _on_ready(self, events: int) -> None:
        # Not for a socket that a callback of this turn has closed.
        if not self._over and self._exchange is None:
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
        if self._pending_request is not None:
            self._early_input += data
            if len(self._early_input) >= _READ_SIZE:
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
                offer = _Offer(key, protocols is not None, lines)
                self._upgrade(request, offer, data[size:])
                return
            request = self._read_head(data)
            if request is not None:
                rest = data[self._head_size :]
                self._decide(
                    request, rest if self._reader is None else self._reader.rest
                )
        except HandshakeError as error:
            self._refuse(error, request)
        except Exception as error:
            self._fail(error, request)
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
        self._refuse(overloaded())

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

    def _upgrade(self, request: Request, offer: _Offer | None, rest: bytes) -> None:
        """Apply the rules in order, then ask the handler; open the client if all agree.

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
        handler = self.server._find_handler(request)
        if offer is None:
            offer = _read_offer(request)
        terms = self._negotiate_terms(request, offer, handler.options)
        self._ask_handler(handler, request, terms, rest)

    def open_stream(self, handler: Any, terms: StreamTerms) -> None:
        """The request of the exchange opens a client, as a handshake does.

        Args:
            handler: a handler of this server.
            terms: how it is opened.
        """
        assert self._exchange is not None
        request = self._request = self._exchange.request
        try:
            admitted = self.server._admit(handler, request)
            if not terms.any_origin and admitted.options.origins is not None:
                self._check_origin(request, admitted.options.origins)
            self._ask_handler(admitted, request, terms, b"")
        except HandshakeError as error:
            self._refuse(error, request)
        except Exception as error:
            self._fail(error, request)

    def _ask_handler(
        self,
        handler: UpgradeHandler,
        request: Request,
        terms: _Terms | StreamTerms,
        rest: bytes,
    ) -> None:
        session = self._call_handler(handler, request, handler.on_request, request)
        if session is not None and is_deferred(session):
            session = self._call_user(self.server._begin_deferred, session)
        if session is not None and is_deferred(session):
            done = partial(self._on_request_done, handler, request, terms, rest)
            self._pending_request = self._call_user(
                self.server._run_limited, session, done
            )
        else:
            self._open(handler, request, terms, rest, session)

    def _negotiate_terms(
        self, request: Request, offer: _Offer, options: Options
    ) -> _Terms:
        """Check the request against a handler's options; HandshakeError if refused."""
        if options.origins is not None:
            self._check_origin(request, options.origins)
        offered = offered_subprotocols(request.headers) if offer.protocols else []
        extension, agreement = negotiated(offer.extensions, options)
        return _Terms(offer.key, offered, extension, agreement)

    def _check_origin(self, request: Request, allowed: tuple[OriginRule, ...]) -> None:
        proxies, scheme = self.server.proxies, self._scheme
        hosts: list[str] = []
        if proxies is not None:
            hosts = client_hosts(self.address, request.headers, proxies)
        check_origin(request, allowed, scheme, hosts)

    def _check_host(self, request: Request) -> None:
        allowed = self.server.options.allowed_hosts
        if allowed is not None:
            check_allowed_host(request, allowed)

    def _on_request_done(
        self,
        handler: UpgradeHandler,
        request: Request,
        terms: _Terms | StreamTerms,
        rest: bytes,
        session: object,
        error: BaseException | None,
    ) -> None:
        """A deferred `on_request` is done."""
        if self._pending_request is None:
            return  # the client has disconnected, or was cut
        self._pending_request = None
        try:
            session = self._call_user(_outcome, session, error)
            self.server._check_again(handler, request)
            self._open(handler, request, terms, rest + self._early_input, session)
        except HandshakeError as refused:
            self._refuse(refused, request)
        except Exception as failure:
            self._fail(failure, request)

    def _cancel_pending_request(self) -> None:
        pending, self._pending_request = self._pending_request, None
        if pending is not None:
            pending.cancel()

    def _open(
        self,
        handler: UpgradeHandler,
        request: Request,
        terms: _Terms | StreamTerms,
        rest: bytes,
        session: object,
    ) -> None:
        """Let a client in, if `on_request` has."""
        if session is not None:
            what = f"on_request of {handler._log_name}"
            session = self._call_user(session_of, what, session)
        if isinstance(session, Response):
            # A status below 200 is no refusal, and 101 would announce frames.
            response = self._call_user(response_of, session)
            self._end(response, f"on_request answered {response.status}", request)
            return
        fields: Sequence[tuple[str, str]] = ()
        if isinstance(session, Accepted):
            subprotocol, fields = session.subprotocol, session.headers
            session = session.session
        else:
            subprotocol = self._select_subprotocol(handler, request, terms.offered)
        made = handler.client_class
        if isinstance(terms, StreamTerms):
            made = terms.client_class
        client = self._make(
            made, handler, request, handler.options, terms.agreement, subprotocol
        )
        if session is not None:
            client.session = session
        if self._over:
            return  # one of the user functions has stopped the server
        response = terms.answer(subprotocol, fields)
        self._leave()
        if self._exchange is not None:
            self._exchange.hand_over()
        self.client = client
        try:
            client._start(response, rest, self._events != 0)
        except Exception as error:  # the client owns the socket by now
            self.server.reactor.on_failure(client, error)

    def _select_subprotocol(
        self, handler: UpgradeHandler, request: Request, offered: Sequence[str]
    ) -> str | None:
        if not offered:
            return None
        select = handler.select_subprotocol
        what = f"select_subprotocol of {handler._log_name}"
        answer = self._call_handler(handler, request, select, offered)
        chosen: str | None = self._call_user(subprotocol_of, what, answer, offered)
        return chosen

    def _make(
        self, made: Any, handler: UpgradeHandler, request: Request, *terms: Any
    ) -> Client:
        """Make the connection, of the user's class if there is one."""
        parts = self.sock, self.server, handler, request, *terms
        if made is Client:  # the default class needs no check
            return Client(*parts)
        client: Client = self._call_handler(handler, request, _create, made, *parts)
        return client

    def _introduce(self, request: Request) -> None:
        """Set the client's address and scheme, from trusted proxies."""
        request.address = self.address
        proxies = self.server.proxies
        if proxies is not None:
            headers = request.headers
            request.address = client_address(self.address, headers, proxies)
            self._scheme = client_scheme(self.address, headers, proxies)
        if self._scheme is None and self._is_tls():
            self._scheme = "https"
        if self._scheme == "https":
            request.secure = True

    def _call_user(self, function: Callable[..., Any], *args: object) -> Any:
        """Call user code; its exceptions are our fault, not the peer's."""
        try:
            return function(*args)
        except AuthenticationError as error:
            raise unauthorized() from error
        except HandshakeError:
            raise  # a refusal, in the user's own words
        except WrongReturnValue as error:
            self._note_failure("%s", error)
            raise HandshakeError(500, FAILED) from None
        except Exception as error:
            text = "the handshake of %s failed"
            self._note_failure(text, self.address, error=error)
            raise HandshakeError(500, FAILED) from None

    def _call_handler(
        self,
        handler: UpgradeHandler,
        request: Request,
        function: Callable[..., Any],
        *args: object,
    ) -> Any:
        """As `_call_user`, and log it when it is slow."""
        return self._call_user(
            self.server._log.call, request, handler._log_name, function, *args
        )

    def _refuse(self, error: HandshakeError, request: Request | None = None) -> None:
        # Details for the operator, which the client is not told.
        secret = isinstance(error.__cause__, AuthenticationError)
        response = refused_by(error, self.server._log)
        why = str(error.__cause__ if secret else error)
        notes = getattr(error, "__notes__", ())
        self._end(response, "; ".join([why, *notes]), request)

    def _note_failure(
        self, text: str, *args: object, error: Exception | None = None
    ) -> None:
        self.server._log.note_failure(
            "handshakes failed", text, *args, error=error, request=self._request
        )

    def _fail(self, error: Exception, request: Request | None) -> None:
        """An unexpected error: respond with 500 if still possible, and close."""
        text = "the handshake of %s failed"
        self._note_failure(text, self.address, error=error)
        if self._exchange is not None and not self._exchange.waiting:
            self.close()  # a response was being sent
        else:
            self._end(server_error(), FAILED, request)

    def _end(self, response: Response, why: str, request: Request | None) -> None:
        """Send an HTTP response that ends the connection, and let the peer read it."""
        if self._over:
            return
        self._cancel_pending_request()
        self.server._admission.note_refusal(response.status)
        if self._exchange is None:
            self.server.reactor.wheel.discard(self)
            hold_input(self.server.reactor, self, 0)
            self._exchange = Exchange(self, request)
        self._exchange.end(response, why)


def _read_offer(request: Request) -> _Offer:
    """Parse an upgrade request; HandshakeError if it is invalid."""
    key = check_upgrade(request)
    protocols = request.headers.get("Sec-WebSocket-Protocol") is not None
    lines = tuple(request.headers.get_all("Sec-WebSocket-Extensions"))
    return _Offer(key, protocols, lines)


def _outcome(value: object, error: BaseException | None) -> object:
    if isinstance(error, Exception):
        raise error
    if error is not None:
        raise RuntimeError("on_request was cancelled") from error
    return value


def _create(client_class: Callable[..., Any], *args: object) -> Client:
    """Create a connection of the user's class."""
    client = client_class(*args)
    if not isinstance(client, Client):
        raise TypeError(f"client_class must be a subclass of Client, not {client!r}")
    if getattr(client, "_request_kept", None) is None:
        name = type(client).__name__
        raise TypeError(f"{name}.__init__ must call super().__init__(*args)")
    return client


_create.__name__ = "client_class"  # in the log, where it is slow


def negotiated(
    lines: tuple[str, ...], options: Options
) -> tuple[str, Agreement] | tuple[None, None]:
    """Agree on compression, as far as a handler allows that; see `_negotiate`."""
    if not lines or options.compression is None:
        return None, None
    drop_old = options.slow_consumer == "drop_old"
    return _negotiate(lines, options.compression, drop_old, options.splits_packed)


@lru_cache(maxsize=256)  # all browsers of one kind send the same
def _negotiate(
    lines: tuple[str, ...], config: Deflate, drop_old: bool, splits: bool
) -> tuple[str, Agreement] | tuple[None, None]:
    """Agree on compression: the element of the response, and the agreement."""
    if drop_old:
        # With takeover, messages dropped after compression would break later ones.
        config = replace(config, server_no_context_takeover=True)
    agreed = negotiate(parse_extensions(lines), config)
    if agreed is None:
        return None, None
    extension, agreement = agreed
    return extension, replace(agreement, splits=splits)
