"""The arguments of `connect`, and which of its parts they ask for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from ..values import Failure, UsageError, port, seconds, some_seconds, url
from .dialing import dialer
from .forms import Form
from .listening import Listening
from .peer import Connected, Peer
from .pipe import copy, lines_of, standard_input
from .program import Program
from .prompt import talk
from .reconnecting import Reconnecting
from .screen import Screen

__all__ = ["add_connect"]

#: Seconds without a message after which a pipe ends, once its input has ended.
_WAIT = 1.0
#: They are of no use to a server.
_OF_CLIENTS = (
    "ca exec header insecure origin ping_interval proxy reconnect timeout unix url"
)


def add_connect(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "connect",
        help="connect to a server, or wait for clients",
        description="Send lines of standard input as messages and print the messages "
        "that arrive. On a terminal, lines can be edited; /help lists what else can be "
        "typed, and Ctrl-D closes the connection.",
        epilog="example: echo hello | simple-ws connect ws://localhost:8080/",
    )
    parser.add_argument("url", metavar="URL", type=url, nargs="?")
    parser.add_argument(
        "--listen",
        type=port,
        metavar="PORT",
        help="instead of a URL: wait for clients on this port of 127.0.0.1, 0 for a "
        "free one; what is typed goes to all of them",
    )
    _add_handshake(parser)
    _add_way(parser)
    _add_messages(parser)
    parser.set_defaults(run=_run)


def _add_handshake(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", type=_header
    )
    parser.add_argument("--origin", help="value of the Origin header")
    parser.add_argument("--subprotocol", action="append", default=[], metavar="NAME")
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="SECONDS",
        help="time to connect; default: 10",
    )


def _add_way(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--insecure", action="store_true", help="do not verify the certificate"
    )
    parser.add_argument(
        "--ca", metavar="FILE", help="trust these authorities (PEM), no others"
    )
    parser.add_argument(
        "--cert", metavar="FILE", help="our certificate (PEM); with --listen, for wss"
    )
    parser.add_argument(
        "--key", metavar="FILE", help="its key, if that is in a file of its own"
    )
    parser.add_argument("--unix", metavar="PATH", help="connect to a Unix socket")
    parser.add_argument(
        "--proxy", metavar="URL", help="default: that of the environment; or: none"
    )
    parser.add_argument(
        "--ping-interval",
        type=some_seconds,
        metavar="SECONDS",
        help="ping a server that was silent for this long; default: 20; 0: never",
    )
    parser.add_argument(
        "--reconnect",
        action="store_true",
        help="connect again when the connection has ended, until Ctrl-C or Ctrl-D",
    )


def _add_messages(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--binary", action="store_true", help="send lines as binary messages"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="send only lines that are JSON; print messages as JSON, one per line or, "
        "on a terminal, indented",
    )
    parser.add_argument(
        "-x",
        "--send",
        action="append",
        default=[],
        metavar="MESSAGE",
        help="send this first, each time a connection opens; may be repeated",
    )
    parser.add_argument(
        "--exec",
        metavar="COMMAND",
        help="a shell command instead of standard input and output: messages are lines "
        "of its input, its lines of output are sent",
    )
    parser.add_argument(
        "--once", action="store_true", help="end after the first message that arrives"
    )
    parser.add_argument(
        "--wait",
        type=some_seconds,
        metavar="SECONDS",
        help="after input ends, wait for messages until none has arrived for this "
        f"many seconds; default: {_WAIT:g}; with --exec 0, with --listen or --once for "
        "ever",
    )


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"expected 'NAME: VALUE', not {text!r}")
    return name.strip(), value.strip()


def _run(options: argparse.Namespace) -> int:
    form, screen = Form(options.binary, options.json), Screen()
    peer = _open(options, form, screen.tell)
    try:
        if options.exec is not None:
            return _run_program(peer, options, form)
        # With --once nobody would have time to edit a line.
        if _is_terminal(sys.stdin) and _is_terminal(sys.stdout) and not options.once:
            return talk(peer, form, screen)
        _pipe(peer, options, form, standard_input(), sys.stdout)
        return 0
    finally:
        peer.end()


def _run_program(peer: Peer, options: argparse.Namespace, form: Form) -> int:
    # A pipe that breaks: the program has ended, which may have gone well.
    with Program(options.exec) as program, suppress(BrokenPipeError):
        _pipe(peer, options, form, program.output, program.input)
    return program.exit_code()


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()  # None: closed by the parent


def _open(options: argparse.Namespace, form: Form, tell: Callable[[str], None]) -> Peer:
    first = [form.encode(text) for text in options.send]
    if options.listen is not None:
        _refuse_of_clients(options)
        return Listening(options, first, tell)
    if options.url is None:
        raise UsageError("a URL, or --listen PORT, is needed")
    dial = partial(_dial_and_send, dialer(options), first)
    return Reconnecting(dial, tell) if options.reconnect else Connected(dial())


def _refuse_of_clients(options: argparse.Namespace) -> None:
    for name in _OF_CLIENTS.split():
        if getattr(options, name) not in (None, False, []):
            shown = "a URL" if name == "url" else f"--{name.replace('_', '-')}"
            raise UsageError(f"either --listen or {shown}")


def _dial_and_send(dial: Any, messages: list[str | bytes]) -> Any:
    connection = dial()
    for message in messages:
        connection.send(message)
    return connection


def _pipe(
    peer: Peer, options: argparse.Namespace, form: Form, source: Any, out: Any
) -> None:
    wait = options.wait
    if wait is None and options.exec is not None:
        wait = 0.0
    elif wait is None and not options.once and options.listen is None:
        wait = _WAIT
    arrived = copy(peer, form, lines_of(source), out, wait=wait, once=options.once)
    if options.once and not arrived:
        raise Failure("no message has arrived")
