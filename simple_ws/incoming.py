"""A connection before its upgrade: reads the request, refuses it or opens a `Client`.

The rules of the handshake are in `handshake`; this module asks them in order, asks the
server and the handler, and owns the socket until a `Client` takes it over.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Protocol

from .connection import Client, Handler, Home
from .deflate import Agreement, Deflate, negotiate, parse_extensions
from .errors import AuthenticationError, HandshakeError
from .handshake import (
    check_origin,
    check_upgrade,
    offered_subprotocols,
    refusal,
    upgrade_response,
)
from .http11 import Request, RequestReader, Response
from .options import Options
from .reactor import READ, WRITE
from .speedups import read_upgrade

__all__ = ["Door", "Incoming", "Mount"]

logger = logging.getLogger("simple_ws")

#: Bytes of one read; a browser's request takes 500 to 1,500.
_READ_SIZE = 4096
#: Reads that are thrown away after a refusal before the socket is closed regardless.
_MAX_LINGER_READS = 64


class Mount(Handler, Protocol):
    """What a handshake needs of a handler (`websocket.WebSocket` has it)."""

    options: Options
    client_class: type[Client]

    def on_request(self, request: Request) -> object:
        """Decide about a client: None, a `Response`, or its session."""

    def select_subprotocol(self, offered: list[str]) -> str | None:
        """Choose among the subprotocols that a client offers."""


class Door(Home, Protocol):
    """What a handshake needs of its server."""

    options: Options

    def find(self, request: Request) -> Mount:
        """The handler of a path; sets `request.params`; HandshakeError 404, 503."""

    def left(self, incoming: Incoming) -> None:
        """The handshake is over, whatever became of it."""


class Incoming:
    """One accepted connection until it is upgraded or refused."""

    def __init__(self, sock: socket.socket, address: Any, door: Door) -> None:
        self._sock = sock
        self._address = address
        self._door = door
        self._reader: RequestReader | None = None  # once it is no ordinary handshake
        self._over = False  # closed, or handed over to a client
        self._refused = False
        self._head_only = False
        self._unsent = memoryview(b"")  # of the refusal
        self._reads_left = _MAX_LINGER_READS
        self.bucket: set[Any] | None = None
        self._registered = False

    def begin(self) -> None:
        """Read at once what has come with the connection; wait for the rest.

        Most clients send their request before we accept, and need no waiting.
        """
        self._read()
        if not self._over and not self._registered:
            reactor = self._door.reactor
            self._watch(READ)
            reactor.wheel.put(self, reactor.now + self._door.options.open_timeout)

    def sweep(self, now: float) -> float | None:
        """The time for the handshake, or for the peer to close, is over."""
        if self._refused or self._reader is None or self._reader.empty:
            self.close()
            return None
        self._refuse(HandshakeError(408, "The opening handshake took too long."))
        return None if self._over else now + self._door.options.close_timeout

    def close(self) -> None:
        """Close the socket; nothing more will happen."""
        if not self._over:
            self._leave()
            if self._registered:
                self._door.reactor.unregister(self._sock)
            self._sock.close()

    _abandon = close

    def _leave(self) -> None:
        self._over = True
        self._door.reactor.wheel.discard(self)
        self._door.left(self)

    def _watch(self, events: int) -> None:
        reactor = self._door.reactor
        if self._registered:
            reactor.modify(self._sock, events, self._on_ready)
        else:
            self._registered = True
            reactor.register(self._sock, events, self._on_ready)

    def _on_ready(self, events: int) -> None:
        if events & WRITE and not self._over:
            self._write()
        # Not for a socket that a callback of this turn closed.
        if events & READ and not self._over:
            self._read()

    def _read(self) -> None:
        try:
            data = self._sock.recv(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._on_end()
        elif self._refused:
            self._linger()
        else:
            self._receive(data)

    def _on_end(self) -> None:
        if self._unsent:
            # The peer ceased to send, not to read: finish the answer.
            self._watch(WRITE)
        else:
            self.close()

    def _linger(self) -> None:
        self._reads_left -= 1
        if not self._reads_left:
            self.close()

    def _receive(self, data: bytes) -> None:
        # What nearly every client sends is read in one step; all else is read again,
        # slowly, by those who can say what is wrong with it.
        ordinary = read_upgrade(data) if self._reader is None else None
        try:
            if ordinary is not None:
                request = Request("GET", ordinary[1], (1, 1), ordinary[2])
                self._answer(request, ordinary, data[ordinary[0] :])
                return
            if self._reader is None:
                self._reader = RequestReader()
            found = self._reader.feed(data)
            if found is not None:
                self._answer(found, None, self._reader.rest)
        except HandshakeError as error:
            self._refuse(error)

    def _answer(
        self, request: Request, ordinary: tuple[Any, ...] | None, rest: bytes
    ) -> None:
        request.address = self._address
        self._head_only = request.method == "HEAD"
        mount = self._door.find(request)
        options = mount.options
        if ordinary is None:
            key = check_upgrade(request)
            protocols = request.headers.get("Sec-WebSocket-Protocol")
            lines = tuple(request.headers.get_all("Sec-WebSocket-Extensions"))
        else:
            key, protocols = ordinary[3:5]
            lines = () if ordinary[5] is None else (ordinary[5],)
        if options.origins is not None:
            check_origin(request, options.origins)
        offered = [] if protocols is None else offered_subprotocols(request.headers)
        extension = agreement = None
        if lines and options.compression is not None:
            extension, agreement = _negotiate(
                lines, options.compression, options.slow_consumer == "drop_old"
            )
        session = self._ask(mount.on_request, request)
        if isinstance(session, Response):
            self._respond(session, f"on_request answered {session.status}")
            return
        subprotocol = self._ask(mount.select_subprotocol, offered) if offered else None
        if subprotocol is not None and subprotocol not in offered:
            logger.error("select_subprotocol chose %r, not offered", subprotocol)
            raise HandshakeError(500, "The server failed.")
        create = partial(_create, mount.client_class, self._sock, self._door, mount)
        client = self._ask(create, request, options, agreement, subprotocol)
        if session is not None:
            client.session = session
        if self._over:
            return  # one of the user's functions stopped the server
        self._leave()
        response = upgrade_response(key, subprotocol, extension)
        client._start(response, rest, self._registered)

    def _ask(self, question: Callable[..., Any], *args: object) -> Any:
        """Call the user's code; what it raises is our fault, not the peer's."""
        try:
            return question(*args)
        except AuthenticationError as error:
            logger.info("%s refused: %s", self._address, error)
            raise HandshakeError(
                401, "Who are you?", [("WWW-Authenticate", "Bearer")]
            ) from None
        except HandshakeError:
            raise  # a refusal, in the user's own words
        except Exception:
            logger.exception("the handshake of %s failed", self._address)
            raise HandshakeError(500, "The server failed.") from None

    def _refuse(self, error: HandshakeError) -> None:
        self._respond(refusal(error), str(error))

    def _respond(self, response: Response, why: str) -> None:
        """Send an HTTP answer that ends the connection, and let the peer read it."""
        if self._over:
            return
        logger.info("handshake of %s refused: %s", self._address, why)
        self._refused = True
        response = copy(response)  # the user may give the same one every time
        response.headers = [*response.headers, ("Connection", "close")]
        self._unsent = memoryview(response.encode(head_only=self._head_only))
        self._write()

    def _write(self) -> None:
        """Send what is left of the answer; then the peer has `close_timeout`."""
        reactor = self._door.reactor
        try:
            while self._unsent:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
            self._sock.shutdown(socket.SHUT_WR)
            events = READ
        except (BlockingIOError, InterruptedError):
            events = READ | WRITE
        except OSError:
            self.close()
            return
        self._watch(events)
        reactor.wheel.put(self, reactor.now + self._door.options.close_timeout)


def _create(client_class: Callable[..., Any], *args: object) -> Client:
    """Make a connection of the user's class."""
    client = client_class(*args)
    if not isinstance(client, Client):
        raise TypeError(f"client_class must be a subclass of Client, not {client!r}")
    if not hasattr(client, "_request"):
        name = type(client).__name__
        raise TypeError(f"{name}.__init__ must call super().__init__(*args)")
    return client


@lru_cache(maxsize=256)  # browsers of one kind all send the same
def _negotiate(
    lines: tuple[str, ...], config: Deflate, drop_old: bool
) -> tuple[str, Agreement] | tuple[None, None]:
    """Agree on compression: the element of the response, and what it means."""
    if drop_old:
        # A message that is dropped after compression must not be missed by later ones.
        config = replace(config, server_no_context_takeover=True)
    return negotiate(parse_extensions(lines), config) or (None, None)
