"""One plain HTTP request and its response, on a socket.

`Exchange` borrows a connection from the complete head of a request to the end of the
response. Finding the responder of a path is left to `routes`, reading heads to
`server.upgrade`, producing responses to user functions, `static` and `wsgi`.
"""

from __future__ import annotations

import enum
import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..connection.admission import overloaded
from ..connection.log import Log
from ..connection.options import Options
from ..errors import AuthenticationError, HandshakeError
from ..handlers.return_values import WrongReturnValue
from ..loop.reactor import READ, WRITE, Reactor, unsent_by_system
from ..loop.shedding import hold_input
from ..protocol.http11 import check_request, expects_continue, stays_open
from ..protocol.http_body import (
    CONTINUE,
    ChunkedBody,
    IncompleteResponse,
    LengthBody,
    ResponseEncoder,
    Stream,
    body_reader,
)
from ..protocol.request import Request
from ..protocol.response import Response, encode_head, http_date
from .responses import refused_by, server_error, unauthorized

__all__ = [
    "Exchange",
    "HttpConnection",
    "HttpHost",
    "Responder",
]

#: Bytes per read of a body: one turn's work, even if each byte is a chunk.
_READ_SIZE = 16 * 1024
#: Bytes of later requests that are read before this one is answered.
_MAX_AHEAD = 16 * 1024
#: Bytes written per turn: a fast reader of a large file must not block the loop.
_MAX_BURST = 256 * 1024
#: Bytes of a body that a peer must send within each `open_timeout`.
PROGRESS = 1024
#: Seconds in which a peer must read some of the response, again and again.
WRITE_TIMEOUT = 30.0
#: Bytes it must read in each of these periods. A peer that reads less is disconnected;
#: otherwise it could keep its connection open for ever. Kestrel requires the same rate
#: (MinResponseDataRate); GPRS had ten times that.
MIN_RATE = 240
#: Seconds without a sign from the responder; 100 to 300 in usual proxies.
RESPONSE_TIMEOUT = 300.0
#: Reads that are discarded after the last response before the socket is closed.
_MAX_LINGER_READS = 64

#: Produces the response to a request: calls `Exchange.respond`, at once or later.
Responder = Callable[["Exchange"], object]


class HttpHost(Protocol):
    """What an exchange needs of its server."""

    options: Options
    host: str
    port: int

    @property
    def reactor(self) -> Reactor:
        """The event loop."""

    @property
    def _log(self) -> Log:
        """The log of this run."""

    def _begin_deferred(self, deferred: Any) -> Any:
        """Run a deferred result as far as it does not wait."""

    def _run_limited(
        self, deferred: Any, done: Callable[[Any, BaseException | None], object]
    ) -> object:
        """Run a deferred result; call `done(value, error)` when it has ended."""


class HttpConnection(Protocol):
    """What an exchange needs from its connection (`server.upgrade`)."""

    @property
    def sock(self) -> socket.socket:
        """Non-blocking; only recv, send and shutdown are used."""

    @property
    def server(self) -> HttpHost:
        """The server."""

    @property
    def address(self) -> Any:
        """The peer's address."""

    def watch(self, events: int, callback: Callable[[int], object]) -> None:
        """Call `callback(events)` when ready; 0 events for not at all."""

    def open_stream(self, handler: Any, terms: Any) -> None:
        """The request opens a client of a handler."""

    def resume(self, rest: bytes) -> None:
        """The response is sent: continue with the bytes after the request."""

    def close(self) -> None:
        """Close the socket; calls `Exchange.drop`."""


class Encoder(Protocol):
    """The bytes of a response (`http_body.ResponseEncoder`)."""

    #: Whether the connection may stay open after it.
    stays: bool

    def read(self) -> bytes | None:
        """The next bytes; b"" at the end, None when there are none yet."""

    def close(self) -> None:
        """No more is read."""


class Phase(enum.Enum):
    """The state of an exchange; it moves down this list, and may skip states."""

    #: The body of the request is read.
    BODY = enum.auto()
    #: The responder was called, and has not answered.
    SERVING = enum.auto()
    #: The response is written.
    RESPONDING = enum.auto()
    #: Our side is shut down; input is discarded until the peer closes.
    LINGERING = enum.auto()
    #: The connection is closed, or was given back.
    DONE = enum.auto()


class Exchange:
    """One request and its response; it owns the socket until the response is sent.

    Args:
        connection: the connection of the request.
        request: None when its head was invalid; then it can only be refused.

    All methods except `call` must be called in the loop's thread.
    """

    def __init__(self, connection: HttpConnection, request: Request | None) -> None:
        self._wheel_slot: dict[Any, None] | None = None
        self._connection = connection
        self._request = request
        self._reactor = connection.server.reactor
        self._phase = Phase.BODY
        self._stays = request is not None and stays_open(request)
        self._timeout = WRITE_TIMEOUT
        self._serve: Responder | None = None
        self._body: LengthBody | ChunkedBody | None = None
        self._buffered_input = 0  # bytes of the incomplete body, as told to the loop
        self._unpaid = 0  # bytes of the body since its deadline was set
        self._encoder: Encoder | None = None
        self._unsent = memoryview(b"")
        self._sent = 0  # bytes, to detect progress
        self._taken = 0  # those the peer had read when its current period began
        self._starved = False  # the response has no bytes yet
        self._more: Sequence[tuple[str, str]] = ()  # header fields of the answer
        self._ahead = b""  # bytes after the request
        self._ended = False  # the peer sends nothing more
        self._reads_left = _MAX_LINGER_READS
        self._status = 0
        self._began = self._reactor.now

    # For the responder

    @property
    def request(self) -> Request:
        """The request that is to be answered."""
        assert self._request is not None
        return self._request

    @property
    def server(self) -> HttpHost:
        """The server."""
        return self._connection.server

    @property
    def waiting(self) -> bool:
        """Whether an answer is still wanted."""
        return self._phase in (Phase.BODY, Phase.SERVING)

    def respond(self, given: Response | Stream) -> None:
        """Send the response; later calls for the same request are ignored."""
        if not self.waiting:
            if isinstance(given, Stream):
                given.source.close()
            return
        self._body = None
        hold_input(self._reactor, self, 0)
        self._begin_response(self._encoded(given))

    def _begin_response(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._phase = Phase.RESPONDING
        self._reactor.wheel.discard(self)
        self._write()

    def _encoded(self, given: Response | Stream) -> ResponseEncoder:
        """The encoded response; 500 if it cannot be sent."""
        try:
            return self._encoder_of(given)
        except Exception as error:
            self.note_failure(error, "%r has an answer that cannot be sent")
            if isinstance(given, Stream):
                given.source.close()
            return self._encoder_of(server_error())

    def _encoder_of(self, given: Response | Stream) -> ResponseEncoder:
        request, self._status = self._request, given.status
        return ResponseEncoder(
            given,
            version=(1, 1) if request is None else request.version,
            head_only=request is not None and request.method == "HEAD",
            stays=self._stays,
            more=self._more,
        )

    def fail(self, error: BaseException) -> None:
        """Respond with an error, because user code raised."""
        if isinstance(error, HandshakeError):
            self.respond(refused_by(error, self.server._log))
        elif isinstance(error, AuthenticationError):
            self.server._log.note_refusal(self._peer(), str(error), 401)
            self.respond(refused_by(unauthorized(), self.server._log))
        else:
            self.note_failure(error)
            self.respond(server_error())

    def note_failure(self, error: BaseException, text: str = "%r failed") -> None:
        """Log what the user's code raised, or made that cannot be sent."""
        wrong = isinstance(error, WrongReturnValue)
        self.server._log.note_failure(
            "HTTP requests failed",
            "%s" if wrong else text,
            error if wrong else self._request,
            error=None if wrong else error,
            request=self._request,
        )

    def call(self, function: Callable[[], object]) -> None:
        """Call a function in the loop's thread; from any thread."""
        self._reactor.call_threadsafe(function)

    def open_stream(self, handler: Any, terms: Any) -> None:
        """Open a client of a handler, which sends the response; or refuse it.

        Args:
            handler: of the same server.
            terms: see `server.terms.StreamTerms`.
        """
        self._connection.open_stream(handler, terms)

    def stream_head(self, headers: list[tuple[str, str]]) -> bytes:
        """The head of a response without an end, with what belongs to its path.

        It ends with the connection: so it needs no chunks, its pieces are the same for
        all clients, and those of HTTP/1.0 understand it.
        """
        ends = [("Connection", "close"), ("Date", http_date(time.time()))]
        return encode_head(200, [*headers, *self._more, *ends])

    def encode_last(self, response: Response) -> bytes:
        """The bytes of a response that ends the connection."""
        self._stays = False
        return self._encoder_of(response).read() or b""

    def resume_writing(self) -> None:
        """The source of the response has bytes again."""
        if self._phase is Phase.RESPONDING and self._starved:
            self._write()

    # For the connection

    def begin(
        self,
        select: Callable[[str], Responder],
        rest: bytes,
        more: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Read the body, if there is one, and call the responder.

        Args:
            select: returns the responder of a method, or raises `HandshakeError`.
            rest: the bytes after the head.
            more: header fields of any answer; see `ResponseEncoder`.

        Raises:
            HandshakeError: To be answered with `refuse`.
        """
        self._more = more
        request = self.request
        check_request(request)
        self._body = body_reader(request, self._max_body)
        waits = expects_continue(request)
        try:
            self._serve = select(request.method)
        except HandshakeError as error:
            self._ahead = rest
            self._stays = self._stays and self._body is None
            self.respond(refused_by(error, self.server._log))
            return
        if self._body is None:
            self._ahead = rest
            self._call_responder()
        else:
            self._begin_body(rest, waits)

    def refuse(self, error: HandshakeError) -> None:
        """Say what was wrong, and end the connection."""
        self.end(refused_by(error, self.server._log), str(error))

    def end(self, response: Response, why: str) -> None:
        """Send a last response, for which the peer has `close_timeout`."""
        self.server._log.note_refusal(self._peer(), why, response.status)
        self._stays = False
        self._timeout = self.server.options.close_timeout
        self.respond(response)

    def _peer(self) -> Any:
        """The client's address, from a trusted proxy if there is one."""
        request = self._request
        address = None if request is None else request.address
        return self._connection.address if address is None else address

    def stop(self) -> None:
        """The server stops: finish the answer, and nothing else."""
        self.take_no_other()
        if self._phase not in (Phase.SERVING, Phase.RESPONDING):
            self._connection.close()

    def take_no_other(self) -> None:
        """End the connection after this request."""
        self._stays = False

    def hand_over(self) -> None:
        """Somebody else owns the socket, and sends the response."""
        self._leave()

    def drop(self) -> None:
        """The socket is closed; stop the responder."""
        self._leave()
        self._unsent = memoryview(b"")
        if self._encoder is not None:
            self._encoder.close()

    def _sweep(self, now: float) -> float | None:
        """A deadline has passed (`speedups.Wheel`)."""
        if self._phase is Phase.BODY:
            self.refuse(HandshakeError(408, "The body of the request took too long."))
        elif self._phase is Phase.SERVING:
            why = "The server took too long."
            self.end(Response(503, f"{why}\n"), why)
        else:
            if self._phase is Phase.RESPONDING:
                if not self._starved and self._is_taking():
                    return now + self._timeout
                self.cut("the client read too slowly")
            self._connection.close()
        return None

    def cut(self, why: str) -> None:
        """Leave the response incomplete, and end the connection.

        Args:
            why: reason for the log.
        """
        if self._phase is Phase.RESPONDING:
            self.server._log.note_cut(self._request, why, logging.INFO)
            self._connection.close()

    def _is_taking(self) -> bool:
        """Whether the peer has read enough of the response in this period.

        The system accepts output in large steps, up to megabytes; in between the peer
        still reads what the system has accepted.
        """
        taken = self._sent - unsent_by_system(self._connection.sock)
        if taken - self._taken < MIN_RATE * self._timeout:
            return False
        self._taken = taken
        return True

    def __repr__(self) -> str:
        return f"<Exchange {self._phase.name} {self._request!r}>"

    def _abandon(self) -> None:
        """Give up after an internal error (`reactor.on_failure`)."""
        self._connection.close()

    def _leave(self) -> None:
        self._phase = Phase.DONE
        hold_input(self._reactor, self, 0)
        self._reactor.wheel.discard(self)

    # The body, and the responder

    def _begin_body(self, rest: bytes, waits: bool) -> None:
        if waits and not rest:
            self._unsent = memoryview(CONTINUE)
            self._write()
        if self._phase is Phase.BODY:
            self._wait(self.server.options.open_timeout)
            self._receive_body(rest)
        if self._phase is Phase.BODY:
            self._watch()

    def _receive_body(self, data: bytes) -> None:
        assert self._body is not None
        if self._body.feed(data):
            self.request.body = self._body.body
            self._ahead = self._body.rest
            hold_input(self._reactor, self, 0)
            self._call_responder()
            return
        hold_input(self._reactor, self, self._body.buffered_input)
        self._unpaid += len(data)
        if self._unpaid >= PROGRESS:
            self._unpaid = 0
            self._wait(self.server.options.open_timeout)

    def _shed_input(self) -> None:
        """See `loop.shedding.InputHolder`."""
        self.refuse(overloaded())

    def _call_responder(self) -> None:
        self._phase = Phase.SERVING
        assert self._serve is not None
        try:
            self._serve(self)
        except Exception as error:
            self.fail(error)
        except BaseException:  # such as SystemExit: the loop may still continue
            self._connection.close()
            raise
        # The response may come later, and the socket may be closed by now.
        if self._phase is Phase.SERVING:
            self._wait_for_responder()
            self._watch()

    @property
    def _max_body(self) -> int:
        return self.server.options.max_body

    def _wait_for_responder(self) -> None:
        self._wait(RESPONSE_TIMEOUT)

    # The socket

    def _wait(self, seconds: float) -> None:
        self._reactor.wheel.put(self, self._reactor.now + seconds)

    def _watch(self) -> None:
        """Watch for the events that are needed now."""
        events = 0
        if self._phase in (Phase.BODY, Phase.LINGERING) or self._reads_ahead():
            events |= READ
        if self._unsent or (self._phase is Phase.RESPONDING and not self._starved):
            events |= WRITE
        self._connection.watch(events, self._on_ready)

    def _reads_ahead(self) -> bool:
        """Whether more input is taken before the response is sent."""
        return not self._ended and len(self._ahead) < _MAX_AHEAD

    def _on_ready(self, events: int) -> None:
        # Another callback of this turn may have closed the connection, and writing may
        # have closed it or given it back.
        if events & WRITE and (self._unsent or self._phase is Phase.RESPONDING):
            self._write()
        if events & READ and self._phase is not Phase.DONE:
            self._read()

    def _read(self) -> None:
        try:
            data = self._connection.sock.recv(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._connection.close()
            return
        try:
            if data:
                self._receive(data)
            else:
                self._on_end()
        except HandshakeError as error:
            self.refuse(error)

    def _receive(self, data: bytes) -> None:
        if self._phase is Phase.BODY:
            self._receive_body(data)
        elif self._phase is Phase.LINGERING:
            self._reads_left -= 1
            if not self._reads_left:
                self._connection.close()
        else:
            self._ahead += data
            self._watch()

    def _on_end(self) -> None:
        if self._phase in (Phase.SERVING, Phase.RESPONDING):
            # The peer has stopped sending, but may still read: finish the response.
            self._ended = True
            self._watch()
        else:
            self._connection.close()

    def _write(self) -> None:
        """Write what the socket takes, up to the limit for a turn."""
        before, starved = self._sent, self._starved
        try:
            finished = self._write_burst()
        except (BlockingIOError, InterruptedError):
            finished = False
        except (OSError, IncompleteResponse) as error:
            self.server._log.note_cut(self._request, str(error))
            self._connection.close()
            return
        except Exception as error:
            # Here, because not every caller is a connection the loop can abandon.
            self._reactor.on_failure(self, error)
            return
        if self._phase is Phase.RESPONDING and finished:
            self._finish()
            return
        if self._phase is Phase.RESPONDING:
            self._prolong(self._sent > before, starved)
        self._watch()

    def _prolong(self, progress: bool, starved: bool) -> None:
        """Set a new deadline after progress.

        Args:
            progress: the system has accepted bytes.
            starved: there was nothing to write before.
        """
        if self._starved:
            if progress or self._wheel_slot is None:
                self._wait_for_responder()
        elif starved or self._wheel_slot is None or (progress and self._is_taking()):
            self._wait(self._timeout)

    def _write_burst(self) -> bool:
        """Write; return whether the response is complete. Raises socket errors."""
        budget = _MAX_BURST
        while budget > 0:
            if not self._unsent and not self._take_piece():
                return not self._starved
            sent = self._connection.sock.send(self._unsent[:budget])
            self._unsent = self._unsent[sent:]
            self._sent += sent
            budget -= sent
        return False

    def _take_piece(self) -> bool:
        """Put the next bytes into `_unsent`; False when there are none."""
        if self._encoder is None:
            return False
        piece = self._encoder.read()
        self._starved = piece is None
        self._unsent = memoryview(piece or b"")
        return bool(piece)

    def _finish(self) -> None:
        """The response is sent."""
        assert self._encoder is not None
        if self._request is not None and self.server.options.access_log:
            self._note_answered(self._request)
        if self._stays and self._encoder.stays and not self._ended:
            self._leave()
            if self._ahead:
                # One request per turn, so that the stack does not grow.
                self._reactor.call_soon(self._give_back)
            else:
                self._give_back()
        else:
            self._linger()

    def _note_answered(self, request: Request) -> None:
        seconds = max(0.0, self._reactor.clock() - self._began)
        log = self.server._log
        log.note_answered(request, self._peer(), self._status, self._sent, seconds)

    def _give_back(self) -> None:
        self._connection.resume(self._ahead)

    def _linger(self) -> None:
        """Wait: a socket closed with unread input is reset, and the response lost."""
        try:
            self._connection.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._connection.close()
            return
        self._phase = Phase.LINGERING
        self._wait(self.server.options.close_timeout)
        self._watch()
