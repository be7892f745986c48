"""Plans: what is the same for all ordinary handshakes of a handler, decided once.

`speedups.Opener` opens connections by them, without asking anybody. The rules stand in
`upgrade`, `lookup` and `protocol.server_handshake`; a plan holds what these would say.
Where they depend on more than a plan can hold, there is none, and `upgrade` is asked.

The server makes them when the first client comes, and again after a change: a handler
mounted or changed, a middleware, a limit (`Lookup._forget_plans`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from ..connection.client import Client, rules_of
from ..connection.options import Options
from ..constants import CloseCause, CloseCode
from ..deflate import Agreement
from ..errors import NO_CLOSE_FRAME, HandshakeError
from ..handlers.handler import BaseHandler
from ..protocol.host import check_allowed_host
from ..protocol.request import Request
from ..protocol.server_handshake import check_origin
from ..protocol.websocket import Protocol as WebSocketProtocol
from ..protocol.websocket import Rules, concluded
from ..speedups import Plan, Plans
from .state import ServerState
from .terms import negotiated

if TYPE_CHECKING:
    from .lookup import Lookup

__all__ = ["make_plans"]

#: What decides about a client before or while it opens, where it is not our own.
_DECISIVE = (
    "__getattribute__",
    "__init__",
    "__new__",
    "__setattr__",
    "_calls",
    "_closing",
    "_conclude",
    "_end",
    "_keepalive",
    "_make_rules",
    "_on_lost",
    "_open_with",
    "_start",
    "_take_callback",
    "_watch",
)
#: Origins and hosts that are remembered; a page's scripts all send the same.
_REMEMBERED = 1024


def make_plans(server: Lookup) -> Plans | None:
    """The plans of a server that runs; None if no handshake of it is ordinary."""
    everybody = (
        server._denied is None
        and server.proxies is None
        and server._encrypted is None
        and server._state is not ServerState.STOPPING
        and not server._middlewares
        and server._asyncio_loop is None
    )
    if not everybody:
        return None
    plan = partial(_plan, server)
    exact, patterns, prefixes, rest = server._router.simplified(lru_cache(None)(plan))
    return Plans(exact, patterns, prefixes, rest, server.options.max_header)


def _plan(server: Lookup, handler: BaseHandler) -> Plan | None:
    """The plan of a handler; None if there is none."""
    options = handler.options
    if (
        handler._always_admitted
        or "on_request" in vars(handler)
        or type(handler).on_request is not BaseHandler.on_request
        or not _is_plain(handler.client_class)
        or handler._has_deferred
        or handler._admission is not None
        or (options.auth_timeout is not None and handler.authenticates is True)
    ):
        return None
    handler = server._of(handler)
    options = handler.options
    client_class = handler.client_class
    return Plan(
        _with_params,
        (client_class, server, _rules_of(options), options),
        _ended,
        server._add_client,
        partial(_leave, server),
        handler,
        _admits(server, handler),
        _allows(server.options.allowed_hosts, options),
        partial(_agree, options),
    )


def _is_plain(client_class: Any) -> bool:
    """Whether clients are created and opened without code of the user's."""
    return isinstance(client_class, type) and all(
        getattr(client_class, name) == getattr(Client, name) for name in _DECISIVE
    )


def _with_params(packed: bytes, params: dict[str, Any]) -> Request:
    request = Request._unpacked(packed)
    request.params = params
    return request


def _rules_of(options: Options) -> Callable[[Agreement | None], Rules]:
    """The rules of connections, by agreement; see `Client._make_rules`."""
    return lru_cache(maxsize=_REMEMBERED)(
        partial(rules_of, options.max_size, options.max_frame_size)
    )


def _ended(reason: str | None) -> WebSocketProtocol:
    """The protocol of a connection that was reset, or simply closed (None)."""
    if reason is None:
        return concluded(CloseCode.ABNORMAL, NO_CLOSE_FRAME, CloseCause.EOF)
    return concluded(CloseCode.ABNORMAL, reason, CloseCause.RESET)


def _leave(server: Lookup, client: Client) -> None:
    """A connection has ended; in the same order as in `connection.closing`."""
    server._release_client(client)
    server._remove_client(client)
    server._log.note_end(client)


def _admits(server: Lookup, handler: BaseHandler) -> Callable[[Any], bool] | None:
    """What says whether there is room; None: there always is."""
    options = server.options
    limits = (
        options.max_connections,
        options.max_connections_per_ip,
        options.handshake_rate,
        handler.options.max_connections,
    )
    return None if limits == (None,) * 4 else partial(_admit, server, handler)


def _admit(server: Lookup, handler: BaseHandler, address: Any) -> bool:
    try:
        server._check_limits(handler, address)
    except HandshakeError:
        return False  # `upgrade` asks again, and tells the client
    return True


def _allows(hosts: Any, options: Options) -> Callable[[str | None, str], bool] | None:
    """What says whether a page may connect; None: all may."""
    if hosts is None and options.origins is None:
        return None

    @lru_cache(maxsize=_REMEMBERED)
    def allows(origin: str | None, host: str) -> bool:
        lines = f"Host: {host}\r\n"
        if origin is not None:
            lines += f"Origin: {origin}\r\n"
        request = Request("GET", "/", (1, 1), lines.encode("latin-1"))
        try:
            if hosts is not None:
                check_allowed_host(request, hosts)
            check_origin(request, options.origins)
        except HandshakeError:
            return False
        return True

    return allows


def _agree(options: Options, line: str) -> tuple[Any, Any] | None:
    try:
        return negotiated((line,), options)
    except HandshakeError:
        return None  # `upgrade` asks again, and tells the client
