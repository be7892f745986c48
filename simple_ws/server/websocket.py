"""`WebSocket`: the class users subclass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..connection.option_checks import check_options
from ..connection.options import Options
from ..handlers.handler import BaseHandler
from ..handlers.of_clients import C
from .server import Server

if TYPE_CHECKING:
    from typing import Unpack

    from ..connection.option_types import ServerOptions

__all__ = ["WebSocket"]


class WebSocket(BaseHandler[C]):
    """Handles the connections of one path; subclass it and write the callbacks.

    `Handler(host, port, **options)` serves on every path until it is stopped (also by
    Ctrl-C and SIGTERM), and so does `Handler(unix=path)`. `Handler(**options)` creates
    a handler for `Server.mount`.

    `WebSocket[Player]` has connections of the class `Player`, as with `client_class =
    Player`, and type checkers know it of `clients` and the callbacks.

    Args:
        host: name or address to listen on; "" means every interface.
        port: port to listen on; without a port nothing is served yet.
        options: see `options.Options`; options can also be class attributes, which
            these arguments override.

    Raises:
        TypeError, ValueError: An option is unknown or wrong.
        OSError: The address is in use or not local; the message names it.

    Attributes:
        clients: the open connections, the earliest first; iterating is safe while
            clients come and go.
        server: the `Server` that the handler is mounted on; None before that, which
            type checkers are not told: callbacks run on a server.
        options: the options in force, an `Options`.

    Every option is an attribute under its own name. All callbacks run in the thread of
    the loop and must not block.
    """

    server: Server

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        **options: Unpack[ServerOptions],
    ) -> None:
        self._given.update(check_options(options))
        self._take_options(Options())
        if host is None and port is None and self._given.get("unix") is None:
            return
        if port is None and self._given.get("unix") is None:
            raise TypeError(f"port is missing: {type(self).__name__}({host!r}, port)")
        server = Server("" if host is None else host, port or 0, **self._given)
        server.mount("*", self)
        server.run()

    @property
    def host(self) -> str | None:
        """The address its server listens on, or None."""
        server: Any = self.server
        return None if server is None else server.host

    @property
    def port(self) -> int | None:
        """The port its server listens on (the actual one once it does), or None."""
        server: Any = self.server
        return None if server is None else server.port
