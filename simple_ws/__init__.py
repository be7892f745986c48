"""A WebSocket server to subclass: no asyncio, no thread per client, no dependencies.

from simple_ws import WebSocket

class Echo(WebSocket):
    def on_message(self, msg, client):
        client.write_message(msg)

Echo("", 8080)
"""

from typing import Any

from .client.blocking import connect
from .cluster.worker import Worker
from .connection.client import Client
from .constants import RELEASE, CloseCause, CloseCode, SendStatus
from .deflate import Deflate
from .errors import (
    AuthenticationError,
    BadRequest,
    ConnectError,
    ConnectionClosed,
    ConnectTimeout,
    EngineError,
    HandshakeError,
    HandshakeRefused,
    InvalidData,
    InvalidHandshake,
    InvalidState,
    InvalidURI,
    MessageTooBig,
    ProtocolError,
    ProxyError,
    TLSError,
    WebSocketError,
)
from .handlers.middleware import Middleware
from .handlers.ready_made import FirstMessageAuth, JSONMessages, Radio
from .http.cors import Cors
from .loop.deferred import in_thread
from .protocol.http11 import Request
from .protocol.response import Response
from .publisher import Publisher
from .server.app import App
from .server.server import Server
from .server.websocket import WebSocket
from .speedups import BACKEND

__version__ = RELEASE


def _serve_live(server: App, path: str, **settings: Any) -> Any:
    """What `Server.live` does; return the handler."""
    from .live.endpoints import Endpoints, serve  # only when needed

    return serve(server, Endpoints.below(path), **settings)


App._serve_live = staticmethod(_serve_live)

__all__ = [
    "BACKEND",
    "AuthenticationError",
    "BadRequest",
    "Client",
    "CloseCause",
    "CloseCode",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionClosed",
    "Cors",
    "Deflate",
    "EngineError",
    "FirstMessageAuth",
    "HandshakeError",
    "HandshakeRefused",
    "InvalidData",
    "InvalidHandshake",
    "InvalidState",
    "InvalidURI",
    "JSONMessages",
    "MessageTooBig",
    "Middleware",
    "ProtocolError",
    "ProxyError",
    "Publisher",
    "Radio",
    "Request",
    "Response",
    "SendStatus",
    "Server",
    "TLSError",
    "WebSocket",
    "WebSocketError",
    "Worker",
    "connect",
    "in_thread",
]
