"""`Cycle`: one plain request to an application, and its response.

An `Exchange` whose body is handed over while it arrives, and whose response is sent
while the application makes it. Neither is kept beyond a limit: the server reads no
further until the application has received, and `send` waits until the client has read.
"""

from __future__ import annotations

from asyncio import sleep
from collections import deque
from typing import TYPE_CHECKING, Any

from ..errors import HandshakeError
from ..http.exchange import PROGRESS, Exchange, HttpConnection, Phase
from ..loop.deferred import DeferredCancelled, is_deferred
from ..loop.shedding import hold_input
from ..protocol.http_body import CONTINUE
from ..protocol.request import Request
from ..protocol.response import Response
from .encoder import FEW_WAITING, MAX_WAITING, ResponseBytes
from .events import Message, released, unexpected
from .interfaces import Mounted
from .scope import http_scope

if TYPE_CHECKING:
    import asyncio

__all__ = ["Cycle"]

#: Bytes of a request body that may wait for the application before the server stops
#: reading; one read more is added.
_MAX_HELD = 64 * 1024
#: A limit that no body reaches.
_UNLIMITED = 2**62


class Cycle(Exchange):
    """One call of the application for a request.

    Args:
        mount: the application.
        connection, request: see `Exchange`.
    """

    # Most requests need few of these: as attributes of the class they take no time.
    _held = 0  # bytes of the body that the application has not received
    _told = False  # it has received the whole body
    _gone = False  # the client has disconnected
    _answered = False  # the application has given its whole response
    _invites = False  # the client waits for 100 Continue
    _head: tuple[int, Any] | None = None  # status and headers, until the body begins
    _response: ResponseBytes | None = None
    _receiving: asyncio.Future[None] | None = None
    _sending: asyncio.Future[None] | None = None
    _patience: float | None = None  # seconds for the next part of the body
    _asked_at = 0.0
    _pieces: Any = ()

    def __init__(
        self, mount: Mounted, connection: HttpConnection, request: Request
    ) -> None:
        super().__init__(connection, request)
        self._mount = mount

    # The application's side

    async def receive(self) -> Message:
        """The next event: a part of the body, or the end of the connection."""
        while True:
            if not self._told and (self._pieces or self._is_complete):
                return self._take_body()
            if self._gone or self._answered:
                return {"type": "http.disconnect"}
            self._ask_for_body()
            self._receiving = self._mount.loop.create_future()
            await self._receiving

    async def send(self, message: Message) -> None:
        """Take a part of the response; wait while the client reads too slowly.

        Raises:
            RuntimeError, TypeError, ValueError, KeyError: The event is malformed, or
                may not come now.
        """
        kind = message["type"]
        if kind == "http.response.body":
            self._take_response(message)
        elif kind == "http.response.start":
            self._start_response(message)
        else:
            raise unexpected(message, "http.response.start or http.response.body")
        if self._gone:
            await sleep(0)  # a loop that only sends must not hold up the others
        response = self._response
        if response is None:
            return
        while response.waiting >= MAX_WAITING and self._phase is not Phase.DONE:
            self._sending = self._mount.loop.create_future()
            await self._sending

    @property
    def _is_complete(self) -> bool:
        """Whether the body has arrived to its end."""
        return self._body is None

    def _take_body(self) -> Message:
        body = b"".join(self._pieces)
        self._told = self._is_complete
        was_full = self._held >= _MAX_HELD
        self._note_held(0)
        if body:
            self._pieces.clear()
        if was_full and self._phase is not Phase.DONE:
            self._watch()
        return {"type": "http.request", "body": body, "more_body": not self._told}

    def _ask_for_body(self) -> None:
        """The application waits for a part of the body, or only for the end."""
        if self._told:
            return
        if self._invites:
            self._invites = False
            self._unsent = memoryview(CONTINUE)
            self._write()
        self._asked_at = self._reactor.now
        self._wait(self._patience or self.server.options.open_timeout)

    def _start_response(self, message: Message) -> None:
        if self._head is not None or self._response is not None or self._answered:
            raise unexpected(message, "http.response.body")
        status = message["status"]
        if not isinstance(status, int) or not 200 <= status <= 999:
            raise ValueError(f"status must be from 200 to 999, not {status!r}")
        self._head = status, message.get("headers", ())

    def _take_response(self, message: Message) -> None:
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._answered:
            raise unexpected(message, "nothing after the end of the response")
        if self._head is not None:
            self._begin_body_of_response(body, more)
        elif self._response is not None:
            if self._phase is not Phase.DONE:
                self._response.put(body, more)
                self.resume_writing()
        elif not self._gone:
            raise unexpected(message, "http.response.start")
        if not more:
            self._answered = self._told = True
            released(self._receiving)

    def _begin_body_of_response(self, body: bytes, more: bool) -> None:
        assert self._head is not None
        (status, headers), self._head = self._head, None
        if not self.waiting:  # the client has gone, or was refused
            return
        request, self._status = self.request, status
        response = ResponseBytes(
            status,
            headers,
            body,
            more,
            version=request.version,
            head_only=request.method == "HEAD",
            stays=self._stays and (more or self._is_complete),
        )
        self._invites = False
        if not more and self._send_whole(response):
            return
        self._response = response if more else None
        self._begin_response(response)

    def _send_whole(self, response: ResponseBytes) -> bool:
        """Send a response that the system takes at once, as it nearly always does."""
        if self._unsent or self._ahead or not (self._stays and response.stays):
            return False
        if self._ended or self._body is not None or (data := response.whole) is None:
            return False
        try:
            sent = self._connection.sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return False  # it fails there once more, and is logged
        self._sent += sent
        if sent == len(data):
            self._encoder = response
            self._finish()
            return True
        response.skip(sent)
        return False

    # The exchange

    @property
    def _max_body(self) -> int:
        limit = self._mount.max_body
        return _UNLIMITED if limit is None else limit

    def _begin_body(self, rest: bytes, waits: bool) -> None:
        self._invites = waits and not rest
        self._pieces = deque()
        if rest:
            self._receive_body(rest)
        self._call_responder()

    def _receive_body(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        complete = body.feed(data)
        piece = body.body if complete else body.take()
        if complete:
            self._ahead = body.rest
            self._body = None
        if piece:
            self._pieces.append(piece)
        self._note_held(self._held + len(piece))
        self._note_progress(len(data))
        if piece or complete:
            released(self._receiving)

    def _note_progress(self, size: int) -> None:
        """A part of the body has arrived: the client has its time again, if that is
        much; otherwise what is left of it."""
        open_timeout = self.server.options.open_timeout
        self._unpaid += size
        if self._unpaid >= PROGRESS:
            self._unpaid = 0
            self._patience = open_timeout
        elif self._wheel_slot is not None:
            waited = self._reactor.now - self._asked_at
            self._patience = max(0.001, (self._patience or open_timeout) - waited)
        if self._phase is Phase.SERVING:
            self._reactor.wheel.discard(self)

    def _note_held(self, size: int) -> None:
        self._held = size
        left = 0 if self._body is None else self._body.buffered_input
        hold_input(self._reactor, self, size + left)

    def _receive(self, data: bytes) -> None:
        if self._body is not None and self._phase is not Phase.LINGERING:
            self._receive_body(data)
            self._watch()
        else:
            super()._receive(data)

    def _reads_ahead(self) -> bool:
        if self._body is not None:
            return self._held < _MAX_HELD and not self._ended
        return super()._reads_ahead()

    def call_application(self) -> None:
        """Call it; it may answer at once, or later."""
        mount = self._mount
        scope = http_scope(mount, self.request, self.server)
        call = mount.lifespan.guard(mount.app, scope, self.receive, self.send)
        try:
            result = mount.pending.begin(call)
        except Exception as error:
            self._fail_call(error)
        except DeferredCancelled:
            self._cut_response()
        else:
            if is_deferred(result):
                mount.pending.run(result, self._on_done)
            else:
                self._end_call()

    def _on_done(self, value: Any, error: BaseException | None) -> None:
        """The application has returned, or raised."""
        if error is None:
            self._end_call()
        elif isinstance(error, Exception):
            self._fail_call(error)
        else:  # cancelled
            self._cut_response()

    def _end_call(self) -> None:
        if self._answered:
            return
        if self._gone:
            self._cut_response()
        else:
            self._fail_call(RuntimeError("the application returned without a response"))

    def _fail_call(self, error: Exception) -> None:
        if self.waiting:
            self._stays = self._stays and self._is_complete
            self._answered = True
            self.fail(error)
        else:
            self.note_failure(error)
            self._cut_response()

    def _cut_response(self) -> None:
        """The application gives no more of the response."""
        if self._response is not None and not self._answered:
            self._response.fail()
            self.resume_writing()
        elif self.waiting:
            self._connection.close()

    def _wait_for_responder(self) -> None:
        # The application knows how long it takes, and may cancel itself.
        waits = self._receiving is not None and not self._receiving.done()
        if self._told or not waits:
            self._reactor.wheel.discard(self)

    def _sweep(self, now: float) -> float | None:
        slow = HandshakeError(408, "The body of the request took too long.")
        if self._phase is Phase.SERVING:
            self.refuse(slow)
        elif self._phase is Phase.RESPONDING and self._starved:
            self.cut(str(slow))
        else:
            return super()._sweep(now)
        return None

    def _take_piece(self) -> bool:
        taken = super()._take_piece()
        response = self._response
        if response is not None and response.waiting <= FEW_WAITING:
            released(self._sending)
        return taken

    def _finish(self) -> None:
        if self._body is not None:  # the application has not waited for it
            self._stays = False
            self._body = None
        super()._finish()

    def end(self, response: Response, why: str) -> None:
        """See `Exchange.end`."""
        if self._phase is Phase.RESPONDING:  # a fault of the body that still arrives
            self.cut(why)
        else:
            super().end(response, why)
        self._note_gone(lost=True)

    def _on_end(self) -> None:
        if self._body is not None:
            self._connection.close()
        else:
            # It may still read: the application decides whether to go on.
            super()._on_end()
            self._note_gone()

    def drop(self) -> None:
        """See `Exchange.drop`."""
        super().drop()
        self._note_gone(lost=True)

    def _note_gone(self, *, lost: bool = False) -> None:
        """The client sends no more; `lost`: nor does it read."""
        self._gone = True
        self._told = self._told or lost
        released(self._receiving)
        released(self._sending)
