"""The command line: serve a handler, echo, connect to a server, publish, measure.

Here are the arguments, the short commands and the exit codes; `connect`, `bench`,
`publish`, `token` and `reload` do the rest. Results go to standard output, messages to
standard error.
"""

from __future__ import annotations

import argparse
import logging
import platform
import sys
import traceback
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import BACKEND, Server, WebSocket, __version__
from ..errors import ConnectError, EngineError, WebSocketError
from ..text import for_terminal
from .address import add_bare_address
from .asgi import add_asgi
from .bench import add_bench
from .completion import add_completion
from .connect.command import add_connect
from .live.command import add_live
from .publish import add_publish, add_topics
from .running import leave_quietly, run_server
from .serve import add_serve
from .target import FaultOfUser
from .token import add_token
from .values import Failure, UsageError

__all__ = ["main"]

#: Exit codes, see `_EPILOG`; argparse defines the one for wrong arguments.
FAILED, USAGE, UNREACHABLE = 1, 2, 3

_EPILOG = """\
exit codes:
  0  success
  1  failure: a connection was lost, a message was not sent, a port is in use
  2  wrong arguments
  3  the server or engine could not be reached, or refused what was asked for;
     or a worker could not begin (serve --workers)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(message)s" if not options.verbose else "%(levelname)s %(message)s",
        stream=sys.stderr,
    )
    try:
        code = int(options.run(options) or 0)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a reader that has exited is no error
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return leave_quietly()
    except FaultOfUser as error:
        traceback.print_exception(error.__cause__)
        return FAILED
    except ConnectError as error:
        return _complain(error, UNREACHABLE)
    except EngineError as error:
        return _complain(error, FAILED if error.unsure else UNREACHABLE)
    except (UsageError, ValueError) as error:
        return _complain(error, USAGE)
    except (OSError, WebSocketError, Failure) as error:
        return _complain(error, FAILED)


def _complain(error: Exception, code: int) -> int:
    print(f"simple-ws: {for_terminal(str(error))}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="simple-ws",
        description="Serve WebSockets, connect to a server, publish, or measure.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="log debug messages as well"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_serve(commands)
    add_asgi(commands)
    _add_echo(commands)
    add_live(commands)
    add_connect(commands)
    add_bench(commands)
    add_publish(commands)
    add_topics(commands)
    add_token(commands)
    add_completion(commands, parser)
    info = commands.add_parser("info", help="print version and environment")
    info.set_defaults(run=_info)
    return parser


# echo and info


def _add_echo(commands: Any) -> None:
    echo = commands.add_parser("echo", help="serve an echo, for trying out clients")
    add_bare_address(echo)
    echo.set_defaults(run=_echo)


class _Echo(WebSocket):
    def on_message(self, msg: Any, client: Any) -> Any:
        return msg


def _echo(options: argparse.Namespace) -> int:
    server = Server(options.host, options.port)
    server.mount("*", _Echo(max_size=2**24, write_limit=2**25))
    return run_server(server)


def _info(options: argparse.Namespace) -> int:
    rows = {
        "simple_ws": __version__,
        "backend": BACKEND,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "platform": platform.platform(),
        "package": str(Path(__file__).parent),
    }
    for name, value in rows.items():
        print(f"{name:<10} {value}")
    return 0
