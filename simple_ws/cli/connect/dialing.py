"""How `connect` reaches a server, by its arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from ...client.blocking import Connection, connect
from ...client.options import check_client_options
from ...errors import ConnectError
from ...protocol.uri import parse_uri
from ..values import UsageError

__all__ = ["dialer"]

#: What errors advise to a program, and what that is in a shell.
_ADVICE = {
    "server_hostname=... or ssl=... with the server's authority": "--ca or --insecure",
    "headers={'Authorization': ...}": "--header 'Authorization: ...'",
    "another origin=...": "another --origin",
    "pass proxy='http://host:port'": "give --proxy http://host:port",
    "proxy=None": "--proxy none",
}


def dialer(options: argparse.Namespace) -> Callable[[], Connection]:
    """A function that connects.

    Raises:
        UsageError: An argument is wrong, or does not go with the address.
    """
    given: dict[str, Any] = {
        "headers": options.header,
        "origin": options.origin,
        "subprotocols": options.subprotocol,
        "max_size": None,
        "unix": options.unix,
        "ssl": _context(options),
    }
    if options.timeout is not None:
        given["open_timeout"] = options.timeout
    if options.ping_interval is not None:
        given["ping_interval"] = options.ping_interval or None
    if options.proxy is not None:
        given["proxy"] = False if options.proxy == "none" else options.proxy
    try:
        check_client_options(parse_uri(options.url), given)
    except ValueError as error:
        raise UsageError(error) from None
    return partial(_dial, options.url, given)


def _dial(url: str, given: dict[str, Any]) -> Connection:
    try:
        return connect(url, **given)
    except ConnectError as error:
        for advice, here in _ADVICE.items():
            error.problem = error.problem.replace(advice, here)
        raise


def _context(options: argparse.Namespace) -> Any:
    """The TLS context, or None for the default one."""
    names = ("insecure", "ca", "cert", "key")
    given = [name for name in names if getattr(options, name) not in (None, False)]
    if not given:
        return None
    if not parse_uri(options.url).secure:
        raise UsageError(f"--{given[0]} needs an address that begins with wss:")
    if options.insecure and options.ca is not None:
        raise UsageError("either --insecure or --ca")
    if options.key is not None and options.cert is None:
        raise UsageError("--key needs --cert")
    return _made(options)


def _made(options: argparse.Namespace) -> Any:
    import ssl  # some builds of Python lack it

    try:
        context = ssl.create_default_context(cafile=options.ca)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"--ca {options.ca}: {_why(error)}") from None
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.cert is not None:
        try:
            context.load_cert_chain(options.cert, options.key)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"--cert {options.cert}: {_why(error)}") from None
    return context


def _why(error: OSError) -> str:
    return error.strerror or str(error)
