"""A WebSocket server to subclass: no asyncio, no thread per client, no dependencies.

from simple_ws import WebSocket

class Echo(WebSocket):
    def on_message(self, msg, client):
        client.write_message(msg)

Echo("", 8080)
"""

from .connection import Client
from .constants import CloseCause, CloseCode, SendStatus
from .deflate import Deflate
from .errors import (
    HandshakeError,
    InvalidData,
    InvalidState,
    MessageTooBig,
    ProtocolError,
    WebSocketError,
)
from .http11 import Request, Response
from .server import Server
from .speedups import BACKEND
from .websocket import WebSocket

__version__ = "0.1.0"

__all__ = [
    "BACKEND",
    "Client",
    "CloseCause",
    "CloseCode",
    "Deflate",
    "HandshakeError",
    "InvalidData",
    "InvalidState",
    "MessageTooBig",
    "ProtocolError",
    "Request",
    "Response",
    "SendStatus",
    "Server",
    "WebSocket",
    "WebSocketError",
]
