"""A WebSocket server to subclass: no asyncio, no thread per client, no dependencies.

from simple_ws import WebSocket

class Echo(WebSocket):
    def on_message(self, msg, client):
        client.write_message(msg)

Echo("", 8080)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .cluster.worker import Worker
from .connection.client import Client
from .constants import RELEASE, CloseCause, CloseCode, SendStatus
from .deflate import Deflate
from .errors import (
    AuthenticationError,
    BadRequest,
    ConnectError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    ConnectTimeout,
    EngineError,
    HandshakeError,
    HandshakeRefused,
    InvalidData,
    InvalidHandshake,
    InvalidState,
    InvalidURI,
    KeysUnavailable,
    MessageTooBig,
    MissingField,
    ProtocolError,
    ProxyError,
    RateExceeded,
    ServerOverloaded,
    StartupFailed,
    TLSError,
    TokenError,
    TokenExpired,
    WebSocketError,
)
from .handlers.middleware import Call, Middleware
from .handlers.ready_made import FirstMessageAuth, JSONMessages, Radio
from .http.cors import Cors
from .loop.deferred import in_thread
from .older_package import warn_of_older
from .protocol.request import Request
from .protocol.response import Response
from .server.app import App
from .server.server import Server
from .server.websocket import WebSocket
from .server.workers import Workers
from .speedups import BACKEND

if TYPE_CHECKING:
    from .client.blocking import connect
    from .connection.async_client import AsyncClient
    from .ops.histograms import Histograms
    from .publisher import Publisher
else:
    #: Imported when they are first used: most programs are servers.
    _LATER = {
        "AsyncClient": ".connection.async_client",
        "Histograms": ".ops.histograms",
        "Publisher": ".publisher",
        "connect": ".client.blocking",
    }

    def __getattr__(name: str) -> Any:
        """What is imported when it is first used."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_LATER[name], __name__), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """All names, those that are not imported yet included."""
        return sorted({*globals(), *_LATER})


__version__ = RELEASE

warn_of_older(__path__[0])


def _serve_live(server: App, path: str, **settings: Any) -> Any:
    """What `Server.live` does; return the handler."""
    from .live.endpoints import Endpoints, serve  # only when needed

    return serve(server, Endpoints.below(path), **settings)


def _make_thread_workers(server: Server) -> Workers:
    """The workers of a server with `worker_class="thread"`."""
    from .server.thread_workers import ThreadWorkers, check_threads  # only when needed

    check_threads()
    return ThreadWorkers(server)


App._serve_live = staticmethod(_serve_live)
Server._make_thread_workers = _make_thread_workers

__all__ = [
    "BACKEND",
    "AsyncClient",
    "AuthenticationError",
    "BadRequest",
    "Call",
    "Client",
    "CloseCause",
    "CloseCode",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "Cors",
    "Deflate",
    "EngineError",
    "FirstMessageAuth",
    "HandshakeError",
    "HandshakeRefused",
    "Histograms",
    "InvalidData",
    "InvalidHandshake",
    "InvalidState",
    "InvalidURI",
    "JSONMessages",
    "KeysUnavailable",
    "MessageTooBig",
    "Middleware",
    "MissingField",
    "ProtocolError",
    "ProxyError",
    "Publisher",
    "Radio",
    "RateExceeded",
    "Request",
    "Response",
    "SendStatus",
    "Server",
    "ServerOverloaded",
    "StartupFailed",
    "TLSError",
    "TokenError",
    "TokenExpired",
    "WebSocket",
    "WebSocketError",
    "Worker",
    "connect",
    "in_thread",
]
