"""Runs a server until a signal stops it, and prints its address."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from functools import partial

from .. import Server
from ..loop.deferred import is_async

__all__ = ["leave_quietly", "run_server"]


def run_server(server: Server, sockets: Sequence[socket.socket] = ()) -> int:
    """Run a server until a signal stops it; return the exit code.

    Args:
        server: not running yet.
        sockets: to accept from instead of its own address.
    """
    if sockets:
        server.listen(sockets)
    # Printed once it runs: a reader of this line may send a signal at once.
    announce = partial(_announce, server)
    if server.options.workers > 1:
        server._workers.on_ready = announce
        server.run()
        return 0
    if server._asgi is not None:  # it makes a loop by itself, and they start first
        server._asgi.on_start = announce
        server.run()
        return 0
    server.call_later(0, announce)
    if any(is_async(function) for _, function in server._all_callbacks()):
        import asyncio

        asyncio.run(_serve_async(server))
    else:
        server.run()
    return 0


async def _serve_async(server: Server) -> None:
    with server._signals():
        await server.serve_async()


def _announce(server: Server) -> None:
    options = server.options
    scheme = "ws" if server._asgi is None else "http"
    if options.ssl is not None or options.certfile is not None:
        scheme += "s"
    host = server.host or "localhost"
    host = f"[{host}]" if ":" in host else host
    where = f"{scheme}://{host}:{server.port}/"
    try:
        print(where if options.unix is None else f"unix:{options.unix}", flush=True)
    except BrokenPipeError:
        leave_quietly()


def leave_quietly() -> int:
    """The reader of our output has exited, as `head` does."""
    sys.stdout = None  # otherwise Python complains at exit
    return 0
