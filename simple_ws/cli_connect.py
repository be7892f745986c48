"""`connect`: lines of standard input to a server, its messages to standard output."""

from __future__ import annotations

import argparse
import re
import sys
import threading
from contextlib import suppress
from typing import Any

from .client import Connection, connect
from .errors import ConnectionClosed
from .uri import parse_uri

__all__ = ["add_connect", "harmless"]

_PROMPT = "> "
#: Control characters but tab and line feed, and those that turn the direction of text.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


def add_connect(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "connect",
        help="talk to a server",
        description="Send lines of standard input as messages, print what comes. On a "
        "terminal lines can be edited; Ctrl-D closes the connection.",
        epilog="example: echo hello | simple-ws connect ws://localhost:8080/",
    )
    parser.add_argument("url", metavar="URL", type=_url)
    parser.add_argument("--binary", action="store_true", help="send lines as binary")
    parser.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", type=_header
    )
    parser.add_argument("--origin", help="act for a page of this origin")
    parser.add_argument("--subprotocol", action="append", default=[], metavar="NAME")
    parser.add_argument(
        "--wait",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="after the end of the input, until so long nothing has come; default: 1",
    )
    parser.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS")
    parser.set_defaults(run=_run)


def _url(text: str) -> str:
    try:
        parse_uri(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"'NAME: VALUE' is wanted, not {text!r}")
    return name.strip(), value.strip()


def harmless(text: str) -> str:
    """Text for a terminal: what would move its cursor or its colours is spelled out."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _run(options: argparse.Namespace) -> int:
    with connect(
        options.url,
        headers=options.header,
        origin=options.origin,
        subprotocols=options.subprotocol,
        open_timeout=options.timeout,
        max_size=None,
    ) as connection:
        if sys.stdin.isatty() and sys.stdout.isatty():
            return _talk(connection, options)
        return _pipe(connection, options)


def _send(connection: Connection, line: str, options: argparse.Namespace) -> None:
    connection.send(line.encode() if options.binary else line)


def _pipe(connection: Connection, options: argparse.Namespace) -> int:
    """Nothing but messages goes to standard output, each on a line."""
    receiver = threading.Thread(target=_print_all, args=[connection], daemon=True)
    receiver.start()
    try:
        for line in sys.stdin:
            _send(connection, line.rstrip("\n"), options)
    except ConnectionClosed as error:
        print(f"simple-ws: {error}", file=sys.stderr)
        return 1
    _wait_for_quiet(connection, receiver, options.wait)
    return 0


def _wait_for_quiet(
    connection: Connection, receiver: threading.Thread, seconds: float
) -> None:
    while receiver.is_alive():
        before = connection._last_received
        receiver.join(seconds)
        if connection._last_received == before:
            return


def _print_all(connection: Connection) -> None:
    with suppress(ConnectionClosed, BrokenPipeError):
        for message in connection:
            if isinstance(message, bytes):
                sys.stdout.buffer.write(message + b"\n")
                sys.stdout.buffer.flush()
            else:
                print(message, flush=True)


def _talk(connection: Connection, options: argparse.Namespace) -> int:
    """At a terminal: lines can be edited while messages come in."""
    editor = _editor()
    print(f"connected to {connection.url}; Ctrl-D closes", file=sys.stderr)
    receiver = threading.Thread(
        target=_show_all, args=[connection, editor], daemon=True
    )
    receiver.start()
    while receiver.is_alive():
        try:
            line = input(_PROMPT)
        except EOFError:
            print()
            break
        try:
            _send(connection, line, options)
        except ConnectionClosed:
            break
    connection.close()
    receiver.join(2)
    code, reason = connection.close_code, connection.close_reason
    print(f"closed: {code} {harmless(reason)}".rstrip(), file=sys.stderr)
    return 0 if code in (1000, 1001, 1005) else 1


def _editor() -> Any:
    try:
        import readline
    except ImportError:
        return None
    return readline


def _show_all(connection: Connection, editor: Any) -> None:
    with suppress(ConnectionClosed):
        for message in connection:
            text = f"({message.hex(' ')})" if isinstance(message, bytes) else message
            _show("< " + harmless(text), editor)
    _show("the connection has ended; Enter leaves", editor)


def _show(text: str, editor: Any) -> None:
    """Print above the line that is being edited."""
    typed = editor.get_line_buffer() if editor is not None else ""
    sys.stdout.write(f"\r\x1b[K{text}\n{_PROMPT}{typed}")
    sys.stdout.flush()
