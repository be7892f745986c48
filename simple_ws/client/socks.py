"""SOCKS proxies (RFC 1928), by the package python-socks (extra `socks`)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from ..errors import ConnectError, ConnectTimeout, ProxyError
from ..protocol.proxy_tunnel import Socks
from ..protocol.uri import URI

__all__ = ["dial_by_socks", "dial_by_socks_async"]


def dial_by_socks(
    proxy: Socks,
    uri: URI,
    source_address: tuple[str, int] | None,
    left: Callable[[], float],
) -> socket.socket:
    """Connect to a server through a proxy.

    Args:
        proxy: its address.
        uri: of the server.
        source_address: local address to connect from.
        left: seconds until the deadline.

    Raises:
        ProxyError: The proxy cannot be reached, or refuses.
        ConnectTimeout: It takes too long.
    """
    from python_socks.sync import Proxy

    made = Proxy(*_arguments(proxy), rdns=proxy.resolves)
    try:
        sock: socket.socket = made.connect(
            uri.host, uri.port, timeout=left(), local_addr=source_address
        )
    except Exception as error:
        raise _explained(proxy, uri, error) from error
    return _ready(sock)


async def dial_by_socks_async(
    proxy: Socks, uri: URI, source_address: tuple[str, int] | None
) -> socket.socket:
    """The same in an asyncio loop; the caller limits the time."""
    from python_socks.async_.asyncio import Proxy

    made = Proxy(*_arguments(proxy), rdns=proxy.resolves)
    try:
        sock: socket.socket = await made.connect(
            uri.host, uri.port, timeout=_NO_LIMIT, local_addr=source_address
        )
    except Exception as error:
        raise _explained(proxy, uri, error) from error
    return _ready(sock)


#: Seconds; python-socks has no word for "none".
_NO_LIMIT = 1e6


def _arguments(proxy: Socks) -> tuple[Any, str, int, str | None, str | None]:
    from python_socks import ProxyType

    kind = ProxyType.SOCKS5 if proxy.version == 5 else ProxyType.SOCKS4
    uri = proxy.uri
    return kind, uri.host, uri.port, uri.user, uri.password


def _explained(proxy: Socks, uri: URI, error: Exception) -> Exception:
    """The error to raise for one of python-socks, of the system, or of ours."""
    if isinstance(error, ConnectError):
        return error
    if isinstance(error, TimeoutError):
        return ConnectTimeout(uri.shown, f"the proxy {proxy.host_and_port} is too slow")
    return ProxyError(uri.shown, f"the proxy {proxy.host_and_port}: {error}")


def _ready(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    # Messages are written whole: Nagle's algorithm would only delay them.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
