"""Where a command listens: its arguments, and a server that follows them."""

from __future__ import annotations

import argparse
import os
import socket
from typing import Any

from .. import Server
from ..connection.option_checks import check_options
from .values import UsageError, port, whole

__all__ = ["add_address", "add_bare_address", "given_address", "inherited", "readdress"]

_HOST, _PORT = "127.0.0.1", 8080


def add_bare_address(parser: argparse.ArgumentParser) -> None:
    """Add `--host` and `--port` with their defaults."""
    parser.add_argument(
        "--host", default=_HOST, help=f"address to listen on; default: {_HOST}"
    )
    parser.add_argument(
        "--port", type=port, default=_PORT, help=f"default: {_PORT}; 0 picks a free one"
    )


def add_address(parser: argparse.ArgumentParser) -> None:
    """Add all ways to say where to listen, by TCP, Unix socket, descriptor, with TLS.

    Nothing is the default, so that `readdress` knows what was given.
    """
    parser.add_argument("--host", help=f"address to listen on; default: {_HOST}")
    parser.add_argument(
        "--port", type=port, help=f"default: {_PORT}; 0 picks a free one"
    )
    parser.add_argument(
        "--unix", metavar="PATH", help="listen on a Unix socket instead"
    )
    parser.add_argument(
        "--fd",
        type=whole,
        metavar="N",
        help="accept from this descriptor, a listening socket that the program which "
        "starts this one has opened",
    )
    parser.add_argument(
        "--certfile", metavar="FILE", help="serve by TLS with this certificate (PEM)"
    )
    parser.add_argument(
        "--keyfile", metavar="FILE", help="its key, if that is in a file of its own"
    )


def given_address(options: argparse.Namespace) -> dict[str, Any]:
    """Host, port and options for a new `Server`.

    Raises:
        UsageError: Two arguments contradict each other.
    """
    _check(options)
    elsewhere = options.unix is not None or options.fd is not None
    host, chosen = ("", 0) if elsewhere else (_HOST, _PORT)
    return {
        "host": host if options.host is None else options.host,
        "port": chosen if options.port is None else options.port,
        **_options(options),
    }


def readdress(server: Server, options: argparse.Namespace) -> None:
    """Have a server of the user listen where the arguments say, if they say so."""
    _check(options)
    chosen = server.options.merged(check_options(_options(options)))
    host, asked = server.host, server._asked_port
    if options.unix is not None:
        host, asked = "", 0
    elif options.host is not None or options.port is not None:
        chosen = chosen.merged({"unix": None})
        host = host if options.host is None else options.host
        asked = asked if options.port is None else options.port
    server._configure(host, asked, chosen)
    server.options = chosen


def inherited(options: argparse.Namespace) -> list[socket.socket]:
    """The socket of `--fd`, if there is one.

    Raises:
        UsageError: It is no socket.
    """
    if options.fd is None:
        return []
    try:
        return [socket.socket(fileno=os.dup(options.fd))]
    except OSError as error:
        raise UsageError(f"--fd {options.fd}: {error.strerror}") from None


def _options(options: argparse.Namespace) -> dict[str, Any]:
    names = ("unix", "certfile", "keyfile")
    return {
        name: getattr(options, name)
        for name in names
        if getattr(options, name) is not None
    }


def _check(options: argparse.Namespace) -> None:
    if options.keyfile is not None and options.certfile is None:
        raise UsageError("--keyfile needs --certfile")
    tcp = [f"--{name}" for name in ("host", "port") if _given(options, name)]
    for name in ("unix", "fd"):
        others = [*tcp, *(["--fd"] if name == "unix" and _given(options, "fd") else [])]
        if _given(options, name) and others:
            raise UsageError(f"either --{name} or {' and '.join(others)}")


def _given(options: argparse.Namespace, name: str) -> bool:
    return getattr(options, name) is not None
