"""Listening sockets: where they are bound, how connections are taken from them.

What becomes of an accepted connection is left to the callback.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from .reactor import READ, Reactor
from .speedups import accept_from

__all__ = ["Listener", "bind"]

logger = logging.getLogger("simple_ws")

#: Connections taken in one turn, so that those who are in are served meanwhile.
_BATCH = 64
#: Seconds before accepting is tried again when descriptors or memory ran out.
_PAUSE = 0.25
#: Free ports to try where a host has several addresses.
_ATTEMPTS = 10
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


def bind(host: str, port: int, backlog: int, reuse_port: bool) -> list[socket.socket]:
    """Open listening sockets for every address of a host.

    Args:
        host: a name or an address; "" is every interface, IPv4 and IPv6.
        port: 0 picks a free one, the same for all addresses.
        backlog: connections the system keeps waiting.
        reuse_port: other processes may listen there too (SO_REUSEPORT).

    Raises:
        OSError: An address is not to be had; the message names it.
    """
    addresses = list(_addresses(host, port))
    attempts = _ATTEMPTS if port == 0 else 1
    while True:
        attempts -= 1
        try:
            return _open_all(addresses, port, backlog, reuse_port, both=not host)
        except OSError as error:
            # What is free on one address may be taken on the next: ask for another.
            if error.errno != errno.EADDRINUSE or not attempts:
                raise


def _open_all(
    addresses: list[tuple[int, Any]],
    port: int,
    backlog: int,
    reuse_port: bool,
    both: bool,
) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for family, address in addresses:
            if port == 0 and sockets:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            sockets.append(_open(family, address, backlog, reuse_port, both))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _addresses(host: str, port: int) -> Iterator[tuple[int, Any]]:
    if not host:
        # One socket for both families; where IPv6 is switched off, IPv4 alone.
        if socket.has_dualstack_ipv6() and _ipv6_works():
            yield socket.AF_INET6, ("::", port)
        else:
            yield socket.AF_INET, ("0.0.0.0", port)
        return
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise OSError(
            error.errno, f"cannot listen on {host!r}: {error.strerror}"
        ) from None
    except UnicodeError:  # an empty label, or one of more than 63 characters
        raise OSError(
            errno.EINVAL, f"cannot listen on {host!r}: not a host name"
        ) from None
    seen = dict.fromkeys((family, address) for family, _, _, _, address in found)
    for family, address in seen:
        if family != socket.AF_INET6 or len(seen) == 1 or _ipv6_works():
            yield family, address


def _ipv6_works() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _open(
    family: int, address: Any, backlog: int, reuse_port: bool, both: bool
) -> socket.socket:
    try:
        return socket.create_server(
            address,
            family=family,
            backlog=backlog,
            reuse_port=reuse_port,
            dualstack_ipv6=both and family == socket.AF_INET6,
        )
    except OSError as error:
        where = f"{address[0] if not both else '*'}:{address[1]}"
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"cannot listen on {where}: {reason}") from None


def _send_at_once(sock: socket.socket) -> None:
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Listener:
    """Takes connections from one listening socket, in batches.

    Args:
        sock: bound and listening; the listener owns it from now on.
        on_accept: called with each connection, non-blocking, and its peer's address.
    """

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        on_accept: Callable[[socket.socket, Any], object],
    ) -> None:
        self._reactor = reactor
        self._sock = sock
        self._on_accept = on_accept
        self._paused = False
        self._closed = False
        sock.setblocking(False)
        # Answers are written whole, once a turn: nothing is won by waiting (Nagle). On
        # Linux accepted sockets inherit it, which saves a call for each.
        self._inherits = sys.platform == "linux"
        _send_at_once(sock)
        reactor.register(sock, READ, self._on_ready)

    def close(self) -> None:
        """Stop listening."""
        if not self._closed:
            self._closed = True
            if not self._paused:
                self._reactor.unregister(self._sock)
            self._sock.close()

    def _on_ready(self, events: int) -> None:
        for _ in range(_BATCH):
            if self._closed:
                return
            try:
                sock, address = accept_from(self._sock)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                    return
                # ECONNABORTED and kin: that one peer has gone already.
                continue
            if not self._inherits:
                _send_at_once(sock)
            self._on_accept(sock, address)

    def _pause(self, error: OSError) -> None:
        """Without this the loop would spin: the socket stays readable."""
        logger.warning("accepting pauses: %s", error.strerror)
        self._paused = True
        self._reactor.unregister(self._sock)
        self._reactor.call_later(_PAUSE, self._resume)

    def _resume(self) -> None:
        if not self._closed:
            self._paused = False
            self._reactor.register(self._sock, READ, self._on_ready)
            self._on_ready(READ)
