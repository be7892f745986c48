"""The command line: serve a handler, echo, connect to a server, publish, measure.

Here are the arguments, the short commands and the exit codes; `connect`, `bench`,
`publish`, `token` and `reload` do the rest. Results go to standard output, messages to
standard error.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import logging
import platform
import sys
import traceback
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import BACKEND, Server, WebSocket, __version__
from ..connection.options import check_options
from ..errors import ConnectError, EngineError, WebSocketError
from ..handlers.handler import BaseHandler
from ..text import for_terminal
from .bench import add_bench
from .connect import add_connect
from .live.command import add_live
from .publish import add_publish, add_topics
from .reload import keep_running
from .running import leave_quietly, run_server
from .token import add_token
from .values import Failure, UsageError, count, port

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
    except _FaultOfUser as error:
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


class _FaultOfUser(Exception):
    """Importing the user's module raised; the cause is shown with its traceback."""


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
    _add_serve(commands)
    _add_echo(commands)
    add_live(commands)
    add_connect(commands)
    add_bench(commands)
    add_publish(commands)
    add_topics(commands)
    add_token(commands)
    info = commands.add_parser("info", help="print version and environment")
    info.set_defaults(run=_info)
    return parser


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1"
    )
    parser.add_argument(
        "--port", type=port, default=8080, help="default: 8080; 0 picks a free one"
    )


# serve


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser(
        "serve",
        help="serve a handler or server from a Python module",
        description="Serve a handler or server from a Python module "
        "in the current folder.",
        epilog="example: simple-ws serve chat:Room --static public --reload",
        allow_abbrev=False,  # the child of --reload must not see it
    )
    serve.add_argument(
        "what",
        metavar="MODULE:NAME",
        help="a handler class, a handler, a Server, or a function of (msg, client)",
    )
    _add_address(serve)
    serve.add_argument(
        "--path", default="*", help="path to mount the handler on; default: *"
    )
    serve.add_argument(
        "--static", type=Path, metavar="DIR", help="also serve the files of this folder"
    )
    serve.add_argument(
        "--workers",
        type=count,
        metavar="N",
        help="serve in N processes; default: 1, or what the Server was given",
    )
    serve.add_argument(
        "--reload", action="store_true", help="restart when a source file changes"
    )
    serve.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    if options.reload:
        watched = [Path.cwd(), *([options.static] if options.static else [])]
        return keep_running(watched)
    server = _build(_find(options.what), options)
    if options.static is not None:
        server.static("/", options.static)
    if options.workers is not None:
        chosen = check_options({"workers": options.workers})
        server.options = server.options.merged(chosen)
    return run_server(server)


def _find(what: str) -> Any:
    """The object named by MODULE:NAME, from the current folder first."""
    module_name, _, name = what.partition(":")
    parts = [*module_name.split("."), *name.split(".")]
    if not all(part.isidentifier() for part in parts):
        raise UsageError(f"expected MODULE:NAME such as chat:Room, not {what!r}")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        missing = getattr(error, "name", None)
        if isinstance(error, ModuleNotFoundError) and _is_within(missing, module_name):
            raise UsageError(f"there is no module {module_name!r} here") from None
        raise _FaultOfUser from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise UsageError(f"{module_name!r} has no {name!r}") from None
    return found


def _is_within(missing: str | None, module_name: str) -> bool:
    """Whether the module itself is missing, or a package that contains it."""
    return f"{module_name}.".startswith(f"{missing}.")


def _build(found: Any, options: argparse.Namespace) -> Server:
    if isinstance(found, Server):
        return found
    if isinstance(found, type) and issubclass(found, BaseHandler):
        found = _make_handler(found, options.what)
    server = Server(options.host, options.port)
    try:
        if isinstance(found, BaseHandler):
            server.mount(options.path, found)
        elif callable(found):
            server.route(options.path)(found)
        else:
            raise UsageError(
                f"{options.what} must be a handler, a Server or a function, "
                f"not {found!r}"
            )
    except TypeError as error:  # a callback with another signature
        raise Failure(error) from None
    return server


def _make_handler(kind: type[BaseHandler], what: str) -> BaseHandler:
    try:
        inspect.signature(kind).bind()
    except TypeError as error:
        raise Failure(f"{what}() cannot be created: {error}") from None
    try:
        return kind()
    except Exception as error:
        raise _FaultOfUser from error


# echo and info


def _add_echo(commands: Any) -> None:
    echo = commands.add_parser("echo", help="serve an echo, for trying out clients")
    _add_address(echo)
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
