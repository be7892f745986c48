"""`Handshake`: the opening of one client, from its request to `on_open`.

It finds the handler, agrees on the terms, asks `on_request`, which may take its time,
and makes the client. The rules are in `protocol.server_handshake`. Reading the request,
and telling a client that it is refused, is left to `upgrade`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..connection.client import Client
from ..connection.interfaces import ConnectionHost, Handler
from ..errors import FAILED, AuthenticationError, HandshakeError
from ..handlers.pending import PendingCall
from ..handlers.return_values import (
    Accepted,
    WrongReturnValue,
    session_of,
    subprotocol_of,
)
from ..http.responses import response_of, unauthorized
from ..loop.deferred import is_deferred
from ..protocol.request import Request
from ..protocol.response import Response
from ..protocol.server_handshake import OriginRule, check_origin
from .forwarded import TrustedProxies, client_hosts
from .terms import Offer, StreamTerms, Terms, agree, read_offer

__all__ = [
    "Handshake",
    "HandshakeConnection",
    "HandshakeHandler",
    "HandshakeHost",
]


class HandshakeHandler(Handler, Protocol):
    """What a handshake needs of a handler (`server.websocket.WebSocket`)."""

    @property
    def client_class(self) -> Any:
        """The class of its connections, or a function that creates them."""

    def on_request(self, request: Request) -> object:
        """Decide about a client: None, a `Response`, or its session."""

    def select_subprotocol(self, offered: list[str]) -> str | None:
        """Choose among the subprotocols that a client offers."""


class HandshakeHost(ConnectionHost, Protocol):
    """What a handshake needs of its server."""

    proxies: TrustedProxies | None

    def _find_handler(self, request: Request) -> HandshakeHandler:
        """The handler of a path; sets `request.params`; HandshakeError if not."""

    def _admit(self, handler: Any, request: Request) -> HandshakeHandler:
        """A handler with all that stands before it; HandshakeError if it is full."""

    def _check_again(self, handler: HandshakeHandler, request: Request) -> None:
        """HandshakeError if there is no room any more, after some time."""

    def _begin_deferred(self, deferred: Any) -> Any:
        """Run a deferred result as far as it does not wait."""

    def _run_limited(
        self, deferred: Any, done: Callable[[Any, BaseException | None], object]
    ) -> Any:
        """Run a deferred result; call `done(value, error)` when it has ended."""


class HandshakeConnection(Protocol):
    """What a handshake needs of its connection (`upgrade.UpgradeConnection`)."""

    sock: socket.socket
    address: Any
    #: By which the client has come, if that is known.
    scheme: str | None

    @property
    def server(self) -> HandshakeHost:
        """The server."""

    @property
    def over(self) -> bool:
        """Whether it is closed, or handed over."""

    @property
    def early_input(self) -> bytes:
        """Bytes received while `on_request` takes its time."""

    def start(self, client: Client, response: bytes, rest: bytes) -> None:
        """Hand the socket over to a client, which sends the response.

        Args:
            client: new.
            response: that opens the connection.
            rest: the bytes after the request.
        """

    def end(self, response: Response, why: str, request: Request | None) -> None:
        """Send a response that ends the connection."""

    def refuse(self, error: HandshakeError, request: Request | None) -> None:
        """Tell the client that it is refused."""

    def fail(self, error: Exception, request: Request | None) -> None:
        """Tell the client that the server failed, and log why."""

    def note_failure(
        self, text: str, *args: object, error: Exception | None = None
    ) -> None:
        """Log that a handshake failed."""


class Handshake:
    """The opening of one client.

    Args:
        connection: on which it has come.
        request: complete.
        rest: the bytes after it.
    """

    __slots__ = (
        "_connection",
        "_handler",
        "_pending",
        "_request",
        "_rest",
        "_terms",
    )

    _handler: HandshakeHandler
    _terms: Terms | StreamTerms

    def __init__(
        self, connection: HandshakeConnection, request: Request, rest: bytes
    ) -> None:
        self._connection = connection
        self._request = request
        self._rest = rest
        self._pending: PendingCall | None = None  # a deferred `on_request`

    @property
    def is_pending(self) -> bool:
        """Whether `on_request` takes its time."""
        return self._pending is not None

    def upgrade(self, offer: Offer | None) -> None:
        """Apply the rules in order; open the client if all agree, now or later.

        Args:
            offer: what the client offers, if it was parsed and checked already.

        Raises:
            HandshakeError: It is refused.
        """
        request = self._request
        self._handler = self._connection.server._find_handler(request)
        if offer is None:
            offer = read_offer(request)
        options = self._handler.options
        if options.origins is not None:
            self._check_origin(options.origins)
        self._terms = agree(request, offer, options)
        self._ask_handler()

    def open_stream(self, handler: Any, terms: StreamTerms) -> None:
        """Open a client of a handler, as a handshake does, on these terms.

        Raises:
            HandshakeError: It is refused.
        """
        self._handler = self._connection.server._admit(handler, self._request)
        origins = self._handler.options.origins
        if not terms.any_origin and origins is not None:
            self._check_origin(origins)
        self._terms = terms
        self._ask_handler()

    def cancel(self) -> None:
        """The client has gone, or is refused; `on_request` is of no use any more."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()

    def _check_origin(self, allowed: tuple[OriginRule, ...]) -> None:
        connection, request = self._connection, self._request
        proxies, hosts = connection.server.proxies, list[str]()
        if proxies is not None:
            hosts = client_hosts(connection.address, request.headers, proxies)
        check_origin(request, allowed, connection.scheme, hosts)

    def _ask_handler(self) -> None:
        server = self._connection.server
        session = self._call_handler(self._handler.on_request, self._request)
        if session is not None and is_deferred(session):
            session = self._call(server._begin_deferred, session)
        if session is not None and is_deferred(session):
            self._pending = self._call(
                server._run_limited, session, self._on_request_done
            )
        else:
            self._open(session)

    def _on_request_done(self, session: object, error: BaseException | None) -> None:
        """A deferred `on_request` is done."""
        if self._pending is None:
            return  # the client has disconnected, or was cut
        self._pending = None
        connection, request = self._connection, self._request
        self._rest += connection.early_input
        try:
            session = self._call(_outcome, session, error)
            connection.server._check_again(self._handler, request)
            self._open(session)
        except HandshakeError as refused:
            connection.refuse(refused, request)
        except Exception as failure:
            connection.fail(failure, request)

    def _open(self, session: object) -> None:
        """Let a client in, if `on_request` has."""
        connection, request = self._connection, self._request
        if session is not None:
            what = f"on_request of {self._handler._log_name}"
            session = self._call(session_of, what, session)
        if isinstance(session, Response):
            # A status below 200 is no refusal, and 101 would announce frames.
            response = self._call(response_of, session)
            why = f"on_request answered {response.status}"
            connection.end(response, why, request)
            return
        fields: Sequence[tuple[str, str]] = ()
        if isinstance(session, Accepted):
            subprotocol, fields = session.subprotocol, session.headers
            session = session.session
        else:
            offered = self._terms.offered
            subprotocol = self._select_subprotocol(offered) if offered else None
        client = self._make_client(subprotocol)
        if session is not None:
            client.session = session
        if connection.over:
            return  # one of the user functions has stopped the server
        answer = self._terms.answer(subprotocol, fields)
        connection.start(client, answer, self._rest)

    def _select_subprotocol(self, offered: Sequence[str]) -> str | None:
        what = f"select_subprotocol of {self._handler._log_name}"
        answer = self._call_handler(self._handler.select_subprotocol, offered)
        chosen: str | None = self._call(subprotocol_of, what, answer, offered)
        return chosen

    def _make_client(self, subprotocol: str | None) -> Client:
        """Make the connection, of the user's class if there is one."""
        connection, handler, terms = self._connection, self._handler, self._terms
        made = handler.client_class
        if isinstance(terms, StreamTerms):
            made = terms.client_class
        parts = (
            connection.sock,
            connection.server,
            handler,
            self._request,
            handler.options,
            terms.agreement,
            subprotocol,
        )
        if made is Client:  # the default class needs no check
            return Client(*parts)
        client: Client = self._call_handler(_create, made, *parts)
        return client

    def _call(self, function: Callable[..., Any], *args: object) -> Any:
        """Call user code; its exceptions are our fault, not the peer's."""
        try:
            return function(*args)
        except AuthenticationError as error:
            raise unauthorized() from error
        except HandshakeError:
            raise  # a refusal, in the user's own words
        except WrongReturnValue as error:
            self._connection.note_failure("%s", error)
            raise HandshakeError(500, FAILED) from None
        except Exception as error:
            text = "the handshake of %s failed"
            self._connection.note_failure(text, self._connection.address, error=error)
            raise HandshakeError(500, FAILED) from None

    def _call_handler(self, function: Callable[..., Any], *args: object) -> Any:
        """As `_call`, and log it when it is slow."""
        log = self._connection.server._log
        name = self._handler._log_name
        return self._call(log.call, self._request, name, function, *args)


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
