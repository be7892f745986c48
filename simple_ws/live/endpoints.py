"""`Endpoints`: which paths `live` serves, and what answers at each of them.

This is the only place that knows them. Whoever adds a path gives it a field, its place
below the path of `Server.live` and among those of Centrifugo, and a line in `serve`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..http.exchange import Responder
from ..http.routing import check_pattern
from ..server.feeds import Feeds
from .api import Api, check_keys
from .api.nodes import QUESTION, carry_out
from .commands import encode_publication
from .handler import Live
from .script import client_js, client_types
from .streams.one_way import OneWay

__all__ = ["CENTRIFUGO", "Endpoints", "serve"]


class Endpoints(NamedTuple):
    """The path of each; None: it is not served.

    Attributes:
        websocket: the protocol over WebSockets.
        sse: over Server-Sent Events, with what clients send to `emulation`.
        http_stream: over a response without an end, likewise.
        emulation: where clients without WebSockets send their commands.
        events: Server-Sent Events for pages without an SDK, in one direction.
        uni_sse: the same, as clients of Centrifugo ask for it.
        api: for servers, with the methods below it.
        client_js, client_d_ts: our client for browsers, and its types.
    """

    websocket: str
    sse: str | None = None
    http_stream: str | None = None
    emulation: str | None = None
    events: str | None = None
    uni_sse: str | None = None
    api: str | None = None
    client_js: str | None = None
    client_d_ts: str | None = None

    @classmethod
    def below(cls, path: str) -> Endpoints:
        """All of them, below the path of `Server.live`.

        Raises:
            TypeError, ValueError: It is no path.
        """
        check_pattern(path)
        path = path.rstrip("/")
        return cls(
            websocket=f"{path}/websocket",
            sse=f"{path}/sse",
            http_stream=f"{path}/http_stream",
            emulation=f"{path}/emulation",
            events=f"{path}/events",
            uni_sse=f"{path}/uni_sse",
            api=f"{path}/api",
            client_js=f"{path}/client.js",
            client_d_ts=f"{path}/client.d.ts",
        )


#: Where Centrifugo has them (centrifugal.dev, "Configure Centrifugo").
CENTRIFUGO = Endpoints(
    websocket="/connection/websocket",
    sse="/connection/sse",
    http_stream="/connection/http_stream",
    emulation="/emulation",
    uni_sse="/connection/uni_sse",
    api="/api",
)


def serve(
    server: Any,
    endpoints: Endpoints,
    *,
    hooks: dict[str, Callable[..., Any] | None],
    options: dict[str, Any],
    api_key: Any = None,
    **settings: Any,
) -> Live:
    """Serve the protocol at these paths; the rest is as for `Live`.

    Raises:
        TypeError, ValueError: A path is malformed or already in use; or as from `Live`.
        InvalidState: See `Server.live`.
    """
    keys = check_keys(api_key)
    live = Live(hooks=hooks, options=options, **settings)
    server.mount(endpoints.websocket, live)
    emulation, one_way = live._emulation, OneWay(live)
    routes: tuple[tuple[str | None, str, Responder], ...] = (
        (endpoints.sse, "GET", emulation.open_events),
        (endpoints.http_stream, "POST", emulation.open_lines),
        (endpoints.emulation, "POST", emulation.take),
        (endpoints.events, "GET", one_way.open_topics),
        (endpoints.uni_sse, "GET", one_way.open_connect),
    )
    for path, method, responder in routes:
        if path is not None:
            server._routes.add(path, [method], responder, live.cors)
    scripts = (endpoints.client_js, client_js), (endpoints.client_d_ts, client_types)
    for path, script in scripts:
        if path is not None:
            server.http(path)(script())
    server._stats.add_source("live", live.counts.gather)
    server.cluster._kinds[QUESTION] = carry_out
    if keys and endpoints.api is not None:
        Api(server, keys).serve(endpoints.api)
    if server._feeds is None:
        server._feeds = Feeds(encode_publication)
    return live
