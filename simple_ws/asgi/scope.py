"""Scopes: what an application is told of a request (ASGI 3.0, HTTP & WebSocket)."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from ..protocol.request import Request
from .events import Scope
from .interfaces import Mounted

__all__ = ["http_scope", "websocket_scope"]

_HTTP = {"version": "3.0", "spec_version": "2.3"}
#: In 2.4 `send` raises an OSError when the client has gone.
_WEBSOCKET = {"version": "3.0", "spec_version": "2.4"}


def http_scope(mount: Mounted, request: Request, server: Any) -> Scope:
    """The scope of a plain request."""
    scope = _scope(mount, request, server)
    scope["type"] = "http"
    scope["asgi"] = _HTTP.copy()
    scope["method"] = request.method
    scope["scheme"] = "https" if request.secure else "http"
    scope["extensions"] = {}
    return scope


def websocket_scope(
    mount: Mounted, request: Request, server: Any, subprotocols: list[str]
) -> Scope:
    """The scope of an opening handshake."""
    scope = _scope(mount, request, server)
    scope["type"] = "websocket"
    scope["asgi"] = _WEBSOCKET.copy()
    scope["scheme"] = "wss" if request.secure else "ws"
    scope["subprotocols"] = subprotocols
    scope["extensions"] = {"websocket.http.response": {}}
    return scope


def _scope(mount: Mounted, request: Request, server: Any) -> Scope:
    """What both have.

    The path begins with `root_path`, as that of CGI does with SCRIPT_NAME; so what a
    proxy has removed is put before it again.
    """
    encoded = request.encoded_path
    path = unquote(encoded) if "%" in encoded else encoded
    address = request.address
    scope: Scope = {
        "http_version": "1.1" if request.version == (1, 1) else "1.0",
        "server": (server.host or "localhost", server.port),
        "client": address[:2] if isinstance(address, tuple) else None,
        "root_path": mount.root_path,
        "path": mount.removed + path,
        "raw_path": (mount.removed + encoded).encode("latin-1"),
        "query_string": request.query_string.encode("latin-1"),
        "headers": request._raw_fields(),
    }
    state = mount.lifespan.state
    if state is not None:
        scope["state"] = state.copy()
    return scope
