"""What WSGI applications are told of a request (PEP 3333)."""

from __future__ import annotations

import io
import sys
from typing import Any

from ..protocol.request import Request
from .exchange import Exchange

__all__ = ["Environ", "environ_of"]

Environ = dict[str, Any]


def environ_of(exchange: Exchange, prefix: str) -> Environ:
    """Build the environ of a request (PEP 3333, environ Variables).

    Bytes of the request are decoded as latin-1.
    """
    request, server = exchange.request, exchange.server
    root = prefix.encode()
    environ = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": root.decode("latin-1"),
        "PATH_INFO": request._decoded_path.removeprefix(root).decode("latin-1"),
        "QUERY_STRING": request.query_string,
        "CONTENT_TYPE": request.headers.get("Content-Type", ""),
        "CONTENT_LENGTH": str(len(request.body)) if request.body else "",
        "SERVER_NAME": server.host or "localhost",
        "SERVER_PORT": str(server.port),
        "SERVER_PROTOCOL": "HTTP/{}.{}".format(*request.version),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https" if request.secure else "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": server.options.workers > 1,
        "wsgi.run_once": False,
    }
    if isinstance(request.address, tuple):
        environ["REMOTE_ADDR"] = str(request.address[0])
        environ["REMOTE_PORT"] = str(request.address[1])
    environ.update(_header_variables(request))
    return environ


#: Fields without an HTTP_ variable: they have one of another name, they were decoded by
#: us, or would be taken for something else (programs read HTTP_PROXY).
_NOT_HEADERS = frozenset(
    {"content-type", "content-length", "transfer-encoding", "proxy"}
)


def _header_variables(request: Request) -> Environ:
    headers = request.headers
    return {
        "HTTP_" + name.upper().replace("-", "_"): _joined(name, headers.get_all(name))
        for name in headers
        # X_Name would be read as X-Name, which a proxy may have checked.
        if name not in _NOT_HEADERS and "_" not in name
    }


def _joined(name: str, values: list[str]) -> str:
    return ("; " if name == "cookie" else ", ").join(values)
