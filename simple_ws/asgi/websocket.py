"""WebSockets of an application: a handler, and a `Conversation` for each client.

The application is called when the request has been read, and says whether the client
may come in. What the client sends waits for the application within a limit, beyond
which the server stops reading; `send` waits while the client reads too slowly.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from ..connection.client import Client
from ..constants import CloseCode, SendStatus
from ..handlers.handler import BaseHandler
from ..handlers.return_values import Accepted
from ..loop.deferred import DeferredCancelled, is_deferred
from ..loop.shedding import hold_input
from ..messages import check_close
from ..protocol.request import Request
from ..protocol.response import Response
from ..protocol.server_handshake import offered_subprotocols
from .events import Message, released, unexpected
from .interfaces import Mounted
from .scope import websocket_scope

if TYPE_CHECKING:
    import asyncio

__all__ = ["Conversation", "WebSocketHandler"]

#: Messages of one client that may wait for the application; then the server stops
#: reading from it. Input read already may add some (`_fallback.connection`).
_MAX_WAITING = 8
#: The same in bytes.
_MAX_WAITING_BYTES = 64 * 1024
_CONNECT = {"type": "websocket.connect"}


class ClientGone(OSError):
    """The application sends to a client that has disconnected (ASGI 2.4)."""


class WebSocketHandler(BaseHandler):
    """The handler of all WebSockets below the prefix of an application.

    Args:
        mount: the application.
    """

    _never_defers = True
    _mount: Mounted

    def __init__(self, mount: Mounted) -> None:
        self._set(_mount=mount, _log_name=mount.name)

    def on_request(self, request: Request) -> Any:
        """See `WebSocket.on_request`; likewise below."""
        return Conversation(self, self._mount, request).begin()

    def on_open(self, client: Client) -> None:
        """The handshake is done."""
        client._session.open(client)

    def on_message(self, msg: str | bytes, client: Client) -> None:
        """A message was received."""
        client._session.put(msg)

    def on_close(self, client: Client) -> None:
        """The connection has ended."""
        client._session.close()


class Conversation:
    """One call of the application for a WebSocket.

    Args:
        handler: whose client it is.
        mount: the application.
        request: of the opening handshake.
    """

    _client: Client | None = None
    #: What `on_request` answers, once the application has decided.
    _decision: Accepted | Response | None = None
    _deciding: asyncio.Future[Any] | None = None  # what `on_request` waits for
    _opening: asyncio.Future[None] | None = None  # what accepting waits for
    _receiving: asyncio.Future[None] | None = None
    _told = False  # of the connection, by `websocket.connect`
    _closed = False  # the application has sent `websocket.close`
    _ended = False  # there is no connection any more
    _buffered_input = 0  # bytes of the messages that wait
    _denial: tuple[int, list[tuple[str, str]]] | None = None
    _denial_body = b""

    def __init__(
        self, handler: WebSocketHandler, mount: Mounted, request: Request
    ) -> None:
        self._handler = handler
        self._mount = mount
        self._request = request
        self._waiting: deque[str | bytes] = deque()

    # The server's side

    def begin(self) -> Any:
        """Call the application; return its decision, or what waits for it."""
        mount, request = self._mount, self._request
        offered = offered_subprotocols(request.headers)
        self._offered = offered
        scope = websocket_scope(mount, request, self._handler.server, offered)
        call = mount.lifespan.guard(mount.app, scope, self.receive, self.send)
        try:
            result = mount.pending.begin(call)
        except Exception as error:
            self._on_done(None, error)
        except DeferredCancelled as error:
            self._on_done(None, error)
        else:
            if is_deferred(result):
                mount.pending.run(result, self._on_done)
            else:
                self._on_done(None, None)
        if self._decision is not None:
            return self._decision
        self._deciding = mount.loop.create_future()
        self._deciding.add_done_callback(self._on_decided)
        return self._deciding

    def _on_decided(self, deciding: asyncio.Future[Any]) -> None:
        if deciding.cancelled():  # the client has gone, or the server stops
            self.close()

    def open(self, client: Client) -> None:
        """The connection is open."""
        self._client = client
        released(self._opening)

    def put(self, msg: str | bytes) -> None:
        """A message was received."""
        waiting = self._waiting
        waiting.append(msg)
        client = self._client
        assert client is not None
        hold_input(client._loop, self, self._buffered_input + len(msg))
        released(self._receiving)
        full = len(waiting) >= _MAX_WAITING
        full = full or self._buffered_input > _MAX_WAITING_BYTES
        if full and client.is_open() and not client._paused_by_callbacks:
            client._pause_reading(True)

    def _shed_input(self) -> None:
        """See `loop.shedding.InputHolder`."""
        client = self._client
        assert client is not None
        self._waiting.clear()
        hold_input(client._loop, self, 0)
        client._shed_input()

    def close(self) -> None:
        """The connection has ended, or was never opened."""
        self._ended = True
        released(self._opening)
        released(self._receiving)

    # The application's side

    async def receive(self) -> Message:
        """The next event of the client."""
        if not self._told:
            self._told = True
            return _CONNECT.copy()
        waiting = self._waiting
        while not waiting:
            if self._ended:
                return self._disconnected()
            self._receiving = self._mount.loop.create_future()
            await self._receiving
        msg = waiting.popleft()
        self._let_go(msg)
        if type(msg) is str:
            return {"type": "websocket.receive", "text": msg}
        return {"type": "websocket.receive", "bytes": msg}

    def _let_go(self, msg: str | bytes) -> None:
        """A message waits no longer."""
        client = self._client
        assert client is not None
        hold_input(client._loop, self, self._buffered_input - len(msg))
        if (
            client._paused_by_callbacks
            and len(self._waiting) <= _MAX_WAITING // 2
            and self._buffered_input <= _MAX_WAITING_BYTES // 2
        ):
            client._pause_reading(False)

    def _disconnected(self) -> Message:
        client = self._client
        code, reason = (1006, "")
        if client is not None and client.close_code is not None:
            code, reason = client.close_code, client.close_reason
        return {"type": "websocket.disconnect", "code": code, "reason": reason}

    async def send(self, message: Message) -> None:
        """Send to the client; wait while it reads too slowly.

        Raises:
            ClientGone: The client has disconnected.
            RuntimeError, TypeError, ValueError, KeyError: The event is malformed, or
                may not come now.
        """
        kind = message["type"]
        client = self._client
        if kind == "websocket.send" and client is not None and not self._closed:
            while client._write_blocked and client.is_open():  # by another task
                await client.drain()
            text = message.get("text")
            status = client.write_message(message["bytes"] if text is None else text)
            if status is SendStatus.BACKPRESSURE:
                await client.drain()
            if status is not SendStatus.SENT and not client.is_open():
                raise ClientGone("the client has disconnected")
        elif kind == "websocket.close" and not self._closed:
            self._take_close(message)
        elif self._closed:
            raise unexpected(message, "nothing after websocket.close")
        elif client is not None:
            raise unexpected(message, "websocket.send or websocket.close")
        elif kind == "websocket.accept":
            await self._accept(message)
        elif kind in ("websocket.http.response.start", "websocket.http.response.body"):
            self._deny(message)
        else:
            raise unexpected(message, "websocket.accept, websocket.close or a response")

    async def _accept(self, message: Message) -> None:
        self._check_undecided(message)
        subprotocol = message.get("subprotocol")
        if subprotocol is not None and subprotocol not in self._offered:
            raise RuntimeError(f"the client does not offer {subprotocol!r}")
        headers = _decoded(message.get("headers", ()))
        for name, _ in headers:
            if name.lower().startswith("sec-websocket-"):
                raise RuntimeError(f"{name} is set by the server")
        self._opening = self._mount.loop.create_future()
        self._decide(Accepted(self, subprotocol, headers))
        await self._opening
        if self._client is None:
            raise ClientGone("the client has disconnected")

    def _take_close(self, message: Message) -> None:
        client = self._client
        if client is None:
            if not self._ended:
                self._check_undecided(message)
                self._decide(Response(403))
            self._closed = True
            return
        code, reason = message.get("code", 1000), message.get("reason") or ""
        client._close(check_close(code, reason), reason)
        self._closed = True

    def _deny(self, message: Message) -> None:
        if message["type"].endswith("start") and self._denial is None:
            self._check_undecided(message)
            self._denial = message["status"], _decoded(message.get("headers", ()))
            return
        if self._denial is None or self._decision is not None:
            raise unexpected(message, "websocket.http.response.start")
        self._denial_body += message.get("body", b"")
        if not message.get("more_body", False):
            status, headers = self._denial
            fields = [pair for pair in headers if pair[0].lower() != "content-length"]
            self._decide(Response(status, self._denial_body, fields))

    def _check_undecided(self, message: Message) -> None:
        if self._decision is not None or self._denial is not None:
            raise unexpected(message, "nothing after the handshake was decided")
        if self._ended:
            raise ClientGone("the client has disconnected")

    def _decide(self, decision: Accepted | Response) -> None:
        self._decision = decision
        if self._deciding is not None and not self._deciding.done():
            self._deciding.set_result(decision)

    # The end of the application

    def _on_done(self, value: Any, error: BaseException | None) -> None:
        """The application has returned, or raised."""
        client = self._client
        gone = self._ended and isinstance(error, ClientGone)
        if error is not None and isinstance(error, Exception) and not gone:
            self._report(error)
        if client is not None:
            if error is None:
                client._close(CloseCode.NORMAL, "")
            else:
                client._fail_handler()
        elif self._decision is None:
            if error is None and not self._ended:
                self._report(RuntimeError("the application neither accepts nor closes"))
            self._decide(Response(500, "The server failed.\n"))

    def _report(self, error: Exception) -> None:
        self._handler.server._log.note_failure(
            f"calls of {self._handler._log_name} failed",
            "%s failed for %r",
            self._handler._log_name,
            self._client or self._request,
            error=error,
            request=self._request,
        )


def _decoded(headers: Any) -> list[tuple[str, str]]:
    """Header fields of an application as text."""
    return [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in headers
    ]
