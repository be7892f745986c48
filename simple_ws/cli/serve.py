"""`serve`: a handler or server of the user, where and how the arguments say."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import Server
from ..connection.option_checks import check_options
from .address import add_address, given_address, inherited, readdress
from .process import add_process, set_up_process
from .reload import keep_running
from .running import run_server
from .target import find, made, mounted
from .values import UsageError, count

__all__ = ["add_serve"]


def add_serve(commands: Any) -> None:
    """Add the command to a parser."""
    serve = commands.add_parser(
        "serve",
        help="serve a handler or server from a Python module",
        description="Serve a handler or server from a Python module "
        "in the current folder. Arguments override what a Server was given.",
        epilog="example: simple-ws serve chat:Room --static public --reload",
        allow_abbrev=False,  # the child of --reload must not see it
    )
    serve.add_argument(
        "what",
        metavar="MODULE:NAME",
        help="a handler class, a handler, a Server, a function of (msg, client), or a "
        "function without arguments that returns one of these",
    )
    add_address(serve)
    serve.add_argument("--path", help="path to mount the handler on; default: *")
    serve.add_argument(
        "--static", type=Path, metavar="DIR", help="also serve the files of this folder"
    )
    serve.add_argument(
        "--workers",
        type=count,
        metavar="N",
        help="serve in N processes; default: 1, or what the Server was given",
    )
    add_process(serve)
    serve.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    set_up_process(options)
    if options.reload:
        watched = [Path.cwd(), *([options.static] if options.static else [])]
        return keep_running(watched, [] if options.fd is None else [options.fd])
    server = _server(options)
    if options.static is not None:
        server.static("/", options.static)
    if options.workers is not None:
        chosen = check_options({"workers": options.workers})
        server.options = server.options.merged(chosen)
    return run_server(server, inherited(options))


def _server(options: argparse.Namespace) -> Server:
    served = made(find(options.what), options.what)
    if not isinstance(served, Server):
        path = "*" if options.path is None else options.path
        return mounted(served, path, given_address(options))
    if options.path is not None:
        raise UsageError(f"{options.what} is a Server, which has paths: omit --path")
    readdress(served, options)
    return served
