"""`connect`: lines of standard input to a server, its messages to standard output."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ..client.blocking import Connection, connect
from ..client.core import may_end_quietly
from ..client.options import check_client_options
from ..constants import CloseCause, CloseCode
from ..errors import ConnectionClosed
from ..protocol.uri import parse_uri, redacted
from ..text import for_terminal
from .values import Failure, UsageError, seconds, some_seconds, url

__all__ = ["add_connect"]

_PROMPT = "> "
#: Seconds between two checks for more input.
_MOMENT = 0.2


def add_connect(commands: Any) -> None:
    """Add the command to a parser."""
    parser = commands.add_parser(
        "connect",
        help="connect to a server",
        description="Send lines of standard input as messages and print the messages "
        "that arrive. On a terminal, lines can be edited; Ctrl-D closes the "
        "connection.",
        epilog="example: echo hello | simple-ws connect ws://localhost:8080/",
    )
    parser.add_argument("url", metavar="URL", type=url)
    parser.add_argument(
        "--binary", action="store_true", help="send lines as binary messages"
    )
    parser.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", type=_header
    )
    parser.add_argument("--origin", help="value of the Origin header")
    parser.add_argument("--subprotocol", action="append", default=[], metavar="NAME")
    parser.add_argument(
        "--wait",
        type=some_seconds,
        default=1.0,
        metavar="SECONDS",
        help="after input ends, wait for messages until none has arrived for this "
        "many seconds; default: 1",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="time to connect; default: 10",
    )
    parser.set_defaults(run=_run)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"expected 'NAME: VALUE', not {text!r}")
    return name.strip(), value.strip()


def _run(options: argparse.Namespace) -> int:
    given: Any = {
        "headers": options.header,
        "origin": options.origin,
        "subprotocols": options.subprotocol,
        "open_timeout": options.timeout,
        "max_size": None,
    }
    try:
        check_client_options(parse_uri(options.url), given)
    except ValueError as error:
        raise UsageError(error) from None
    with connect(options.url, **given) as connection:
        if _is_terminal(sys.stdin) and _is_terminal(sys.stdout):
            return _talk(connection, options)
        return _pipe(connection, options)


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()  # None: closed by the parent


def _pipe(connection: Connection, options: argparse.Namespace) -> int:
    """Write only messages to standard output, one per line."""
    sender = _Sender(connection, options.binary)
    sender.start()
    try:
        _print_all(connection, sender, options.wait)
    except BrokenPipeError:
        connection.close(CloseCode.GOING_AWAY)
        raise
    sender.join(_MOMENT)  # it may be about to fail to send a line
    if sender.problem is not None:
        raise sender.problem
    return 0


def _print_all(connection: Connection, sender: _Sender, wait: float) -> None:
    """Until the server closes, or `wait` seconds after the last line or message."""
    while True:
        # Checked before waiting: the time starts when everything has been sent.
        over = not sender.is_alive()
        try:
            _print(connection.recv(wait if over else _MOMENT))
        except TimeoutError:
            if over:
                return
        except ConnectionClosed as error:
            if may_end_quietly(error):
                return
            raise


class _Sender(threading.Thread):
    """Sends the lines of standard input, while another thread waits for messages.

    Attributes:
        problem: why not everything was sent, or None.
    """

    def __init__(self, connection: Connection, binary: bool) -> None:
        super().__init__(daemon=True)  # it may wait for a line that never comes
        self.problem: Exception | None = None
        self._connection = connection
        self._binary = binary

    def run(self) -> None:
        """Send them all."""
        try:
            for line in _lines():
                self._connection.send(line if self._binary else _text(line))
        except (ConnectionClosed, Failure, OSError) as error:
            self.problem = error


def _lines() -> Iterator[bytes]:
    """Lines of standard input, without their ends.

    Not from `sys.stdin`: Python cannot exit while a thread waits there.
    """
    if sys.stdin is None:
        return
    with open(sys.stdin.fileno(), "rb", closefd=False) as source:
        for line in source:
            yield line.removesuffix(b"\n")


def _text(line: bytes) -> str:
    try:
        return line.removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise Failure(f"{line[:20]!r} is not UTF-8; try --binary") from None


def _print(message: str | bytes) -> None:
    out = sys.stdout
    if out is None:
        return
    if out.isatty():
        out.write(_shown(message) + "\n")
    elif isinstance(message, bytes):
        out.buffer.write(message + b"\n")
    else:
        out.buffer.write(message.encode(out.encoding, "backslashreplace") + b"\n")
    out.flush()


def _shown(message: str | bytes) -> str:
    """A message for people."""
    return (
        f"({message.hex(' ')})" if isinstance(message, bytes) else for_terminal(message)
    )


def _talk(connection: Connection, options: argparse.Namespace) -> int:
    """At a terminal: lines can be edited while messages arrive."""
    editor = _editor()
    print(f"connected to {redacted(connection.url)}; Ctrl-D closes", file=sys.stderr)
    receiver = threading.Thread(
        target=_show_all, args=[connection, editor], daemon=True
    )
    receiver.start()
    while receiver.is_alive():
        try:
            connection.send(_typed(options.binary))
        except UnicodeError:
            print("not sent: it is not UTF-8", file=sys.stderr)
        except EOFError:
            print()
            break
        except KeyboardInterrupt:
            print()  # further output starts on a new line
            raise
        except ConnectionClosed:
            break
    connection.close()
    receiver.join(2)
    code, reason = connection.close_code, connection.close_reason
    print(f"closed: {code} {for_terminal(reason)}".rstrip(), file=sys.stderr)
    return 0 if code in (1000, 1001, 1005) else 1


def _typed(binary: bool) -> str | bytes:
    line = input(_PROMPT)
    return line.encode(errors="surrogateescape") if binary else line


def _editor() -> Any:
    try:
        import readline
    except ImportError:
        return None
    return readline


def _show_all(connection: Connection, editor: Any) -> None:
    with suppress(ConnectionClosed):
        for message in connection:
            _show("< " + _shown(message), editor)
    if connection.close_cause is not CloseCause.LOCAL:
        _show("the connection has ended; press Enter to leave", editor)


def _show(text: str, editor: Any) -> None:
    """Print above the line that is being edited."""
    typed = editor.get_line_buffer() if editor is not None else ""
    sys.stdout.write(f"\r\x1b[K{text}\n{_PROMPT}{typed}")
    sys.stdout.flush()
