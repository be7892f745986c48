"""`asgi`: an ASGI application, with the arguments that users of uvicorn know."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import Server
from ..errors import StartupFailed
from .address import add_address, given_address, inherited
from .process import add_process, set_up_process
from .reload import keep_running
from .running import run_server
from .target import FaultOfUser, find
from .values import Failure, UsageError, count, seconds, whole

__all__ = ["add_asgi"]

#: Seconds that requests have to end when the server stops.
_GRACE = 30.0


def add_asgi(commands: Any) -> None:
    """Add the command to a parser."""
    asgi = commands.add_parser(
        "asgi",
        help="serve an ASGI application: FastAPI, Starlette, Django, Quart",
        description="Serve an ASGI application from a Python module in the current "
        "folder.",
        epilog="example: simple-ws asgi main:app --port 8000 --reload",
        allow_abbrev=False,  # the child of --reload must not see it
    )
    asgi.add_argument(
        "what",
        metavar="MODULE:NAME",
        help="the application, or with --factory a function that returns it",
    )
    asgi.add_argument(
        "--factory", action="store_true", help="NAME is called without arguments"
    )
    add_address(asgi)
    _add_serving(asgi)
    _add_limits(asgi)
    asgi.set_defaults(run=_asgi)


def _add_serving(asgi: argparse.ArgumentParser) -> None:
    asgi.add_argument(
        "--workers",
        type=count,
        default=1,
        metavar="N",
        help="serve in N processes; default: 1",
    )
    asgi.add_argument(
        "--loop",
        choices=("auto", "asyncio", "uvloop"),
        default="auto",
        help="event loop; default: auto, uvloop if it is installed",
    )
    asgi.add_argument(
        "--root-path",
        default="",
        metavar="PATH",
        help="path that a proxy in front removes from all requests",
    )
    asgi.add_argument(
        "--trusted-proxies",
        metavar="NETWORKS",
        help="addresses and networks, separated by commas, that are believed what "
        "X-Forwarded-For and X-Forwarded-Proto say",
    )
    add_process(asgi)
    asgi.add_argument(
        "--access-log", action="store_true", help="log each plain HTTP request"
    )


def _add_limits(asgi: argparse.ArgumentParser) -> None:
    asgi.add_argument(
        "--max-body",
        type=whole,
        default=100 * 2**20,
        metavar="BYTES",
        help="largest body of a request; default: 104857600",
    )
    asgi.add_argument(
        "--ws-max-size",
        type=count,
        default=16 * 2**20,
        metavar="BYTES",
        help="largest WebSocket message; default: 16777216",
    )
    asgi.add_argument(
        "--timeout-keep-alive",
        type=seconds,
        metavar="SECONDS",
        help="close a connection that asks for nothing; default: the server's own",
    )
    asgi.add_argument(
        "--timeout-graceful-shutdown",
        type=seconds,
        default=_GRACE,
        metavar="SECONDS",
        help=f"that requests have to end when the server stops; default: {_GRACE:g}",
    )


def _asgi(options: argparse.Namespace) -> int:
    set_up_process(options)
    if options.reload:
        return keep_running([Path.cwd()], [] if options.fd is None else [options.fd])
    server = Server(**given_address(options), **_server_options(options))
    app = _application(options)
    try:
        server.asgi("/", app, root_path=options.root_path, max_body=options.max_body)
    except TypeError as error:
        raise Failure(f"{options.what}: {error}") from None
    assert server._asgi is not None
    server._asgi.new_loop = _new_loop(options.loop)
    server._drain = options.timeout_graceful_shutdown
    try:
        return run_server(server, inherited(options))
    except StartupFailed as error:
        raise Failure(str(error)) from None


def _server_options(options: argparse.Namespace) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "workers": options.workers,
        "max_size": options.ws_max_size,
        "access_log": options.access_log,
    }
    if options.timeout_keep_alive is not None:
        chosen["keep_alive"] = options.timeout_keep_alive
    if options.trusted_proxies is not None:
        networks = options.trusted_proxies.split(",")
        chosen["trusted_proxies"] = [network.strip() for network in networks]
    return chosen


def _application(options: argparse.Namespace) -> Any:
    found = find(options.what)
    if not options.factory:
        return found
    if not callable(found):
        raise UsageError(f"{options.what} cannot be called: omit --factory")
    try:
        return found()
    except Exception as error:
        raise FaultOfUser from error


def _new_loop(name: str) -> Callable[[], Any] | None:
    """What makes the event loop; None: asyncio itself.

    Raises:
        UsageError: uvloop is asked for, and not installed.
    """
    if name == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        if name == "uvloop":
            raise UsageError("uvloop is not installed: omit --loop") from None
        return None
    new_loop: Callable[[], Any] = uvloop.new_event_loop
    return new_loop
