"""The live page of a server: `dashboard.html`, and the stats that it shows.

The page and its WebSocket have the same path. Every second, each viewer is sent what
`Server.stats` returns, as JSON. Viewers are not clients: broadcasts, limits, middleware
and stats leave them out.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Callable
from importlib.resources import files
from ipaddress import ip_address
from threading import Lock
from typing import Any, Protocol

from ..connection.admission import retry_after
from ..connection.client import Client
from ..connection.log import Log
from ..connection.option_checks import check_options
from ..errors import HandshakeError
from ..handlers.handler import BaseHandler
from ..loop.reactor import Reactor
from ..loop.schedule import Job
from ..protocol.request import Request
from ..protocol.response import Response
from .stats import AccessRule, Stats

__all__ = ["Dashboard", "LocalKey", "from_this_machine"]

#: Seconds between two updates.
_INTERVAL = 1.0
#: Viewers at the same time: each costs one message per second.
_MAX_VIEWERS = 32

#: Header fields in which proxies name their client.
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")

#: An address in brackets or a name, optionally with a port.
_HOST = re.compile(r"(?:\[([^]]+)\]|([^:]+))(?::[0-9]*)?")


class DashboardHost(Protocol):
    """What a dashboard needs of its server."""

    _stats: Stats

    @property
    def reactor(self) -> Reactor:
        """The event loop."""

    def stats(self) -> dict[str, Any]:
        """The stats to show."""

    def _note_closing(self, client: Client) -> None:
        """A connection has ended; its socket may still be open."""

    def _release_client(self, client: Client) -> None:
        """The socket of a connection is closed."""

    def every(self, interval: float, callback: Callable[[], object]) -> Job:
        """Call a function repeatedly."""


class Dashboard(BaseHandler):
    """The connections of the viewers.

    Args:
        server: the server whose stats are shown.
        rule: decides who may view them.
    """

    _always_admitted = True

    def __init__(self, server: DashboardHost, rule: AccessRule) -> None:
        self._server = server
        self._rule = rule
        self._job: Job | None = None
        self._changing = Lock()  # viewers come and go in several threads, if there are
        self._page = _Page()
        self.client_class = _Viewer
        # A page sends nothing, so it is exempt from the idle timeout; updates that it
        # is too slow for are dropped.
        self._given.update(
            check_options(
                {
                    "compression": False,
                    "idle_timeout": None,
                    "max_size": 1024,
                    "message_rate": (1, 10),
                    "slow_consumer": "drop_new",
                    "write_limit": 64 * 1024,
                    "origins": ("same", None),
                }
            )
        )

    def page(self, request: Request) -> Response:
        """Answer a request for the page; HandshakeError if that is not allowed."""
        self._rule.check(request)
        return self._page.response()

    def on_request(self, request: Request) -> Any:
        """Accept allowed viewers, up to the limit."""
        self._rule.check(request)
        if len(self.clients) >= _MAX_VIEWERS:
            raise HandshakeError(503, "Too many viewers already.", [retry_after()])

    def on_open(self, client: Any) -> Any:
        """Send the stats at once; the first viewer starts the timer."""
        client.write_message(self._stats_text())
        with self._changing:
            if self._job is None:
                self._job = self._server.every(_INTERVAL, self._tell)

    def on_close(self, client: Any) -> Any:
        """The last viewer stops the timer."""
        with self._changing:
            if not self.clients and self._job is not None:
                self._job.cancel()
                self._job = None

    def _tell(self) -> None:
        text = self._stats_text()
        for viewer in self.clients:
            viewer.write_message(text)  # from any thread

    def _stats_text(self) -> str:
        return json.dumps(self._server.stats(), separators=(",", ":"))


class _Viewer(Client):
    """The connection of a viewer."""

    __slots__ = ()

    def __init__(self, sock: Any, server: Any, *rest: Any) -> None:
        host: Any = _ViewerHost(server)  # a page has no subscriptions
        super().__init__(sock, host, *rest)


class _ViewerHost:
    """The server as seen by dashboard connections, which are not counted."""

    def __init__(self, server: DashboardHost) -> None:
        self._server = server
        self.reactor = server.reactor
        self._log = Log(self.reactor)

    def _add_client(self, client: Client) -> None:
        self._server._stats.viewers.add(client)
        client._handler.clients.add(client)

    def _remove_client(self, client: Client) -> None:
        self._server._stats.viewers.discard(client)
        client._handler.clients.discard(client)
        self._server._note_closing(client)

    def _release_client(self, client: Client) -> None:
        self._server._release_client(client)


class _Page:
    """The page, with a policy that only runs its own scripts and styles."""

    def __init__(self) -> None:
        # Read as text, which gives every line the ending that browsers hash.
        html = files(__package__).joinpath("dashboard.html").read_text("utf-8")
        policy = (
            "default-src 'none'",
            f"script-src {_hashes('script', html)}",
            f"style-src {_hashes('style', html)}",
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
        self._html = html.encode()
        self._headers = [
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Security-Policy", "; ".join(policy)),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
        ]

    def response(self) -> Response:
        return Response(200, self._html, self._headers)


def _hashes(tag: str, html: str) -> str:
    """Hashes of all elements of a kind, for a policy (CSP Level 3 §2.3.1)."""
    inside = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (hashlib.sha256(text.encode()).digest() for text in inside)
    return " ".join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)


class LocalKey:
    """The default rule: a browser on this machine may look, if it was given the key.

    The request alone does not show that it was made on this machine. A proxy on this
    machine has a loopback address too, and by default (nginx) neither keeps the name
    that was requested nor says that it is a proxy; nor do tunnels. So the proof is a
    secret, known only to those whom the program tells.

    Attributes:
        key: the secret, a new one each time the program starts.
    """

    def __init__(self) -> None:
        self.key = secrets.token_urlsafe(16)

    def allow(self, request: Request) -> bool:
        """Whether a request has the key and is local; HandshakeError if not."""
        given = request.query.get("key", "").encode("utf-8", "replace")
        if hmac.compare_digest(given, self.key.encode()) and from_this_machine(request):
            return True
        raise HandshakeError(
            403,
            "This page is for browsers on the machine of the server that were given "
            "its address with the key, which Server.dashboard() returns.",
        )


def from_this_machine(request: Request) -> bool:
    """Whether a request seems to have been made on this machine, for this machine.

    The address of the peer is not enough. A proxy on this machine has a loopback
    address too; most proxies add header fields, or keep the name that was requested
    (not all: see `LocalKey`). So has the operator's browser while it shows somebody
    else's page whose name was made to lead here (DNS rebinding); that name is in `Host`
    then.
    """
    if any(request.headers.get(name) is not None for name in _FORWARDED):
        return False
    address = request.address
    host = address[0] if isinstance(address, tuple) else ""
    return _is_loopback(host) and _is_local_name(request.headers.get("Host", ""))


def _is_local_name(field: str) -> bool:
    """Whether the name in a `Host` field always means this machine."""
    match = _HOST.fullmatch(field)
    if match is None:
        return False
    name = (match[1] or match[2]).lower().removesuffix(".")
    return name == "localhost" or name.endswith(".localhost") or _is_loopback(name)


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    # A socket for both families reports IPv4 as ::ffff:127.0.0.1.
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
