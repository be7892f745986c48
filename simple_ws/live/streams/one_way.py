"""One-way Server-Sent Events, for pages without an SDK.

    {path}/events?topic=a&topic=b&token=…   the messages of these topics
    {path}/uni_sse?cf_connect={…}           those of topics that the server chooses

Source: HTML Standard, "Server-sent events"; centrifugal.dev, "Unidirectional SSE".
"""

from __future__ import annotations

import json
from typing import Any

from ...errors import HandshakeError
from ...http.exchange import Exchange
from ...protocol.response import Response
from ..commands import Command, read_commands
from ..interfaces import LiveHost
from .emulation import begin_stream, stream_headers
from .forms import PUSHES
from .one_way_client import Asked, OneWayClient
from .places import parse_places

__all__ = ["OneWay"]

#: Topics of one request: the position of each stands in every id.
_MAX_TOPICS = 32


class OneWay:
    """See the head of the module.

    Args:
        live: the handler.
    """

    def __init__(self, live: LiveHost) -> None:
        self._live = live

    def open_topics(self, exchange: Exchange) -> None:
        """GET {path}/events."""
        request = exchange.request
        topics = list(dict.fromkeys(request.query.get_all("topic")))
        if len(topics) > min(_MAX_TOPICS, self._live.max_topics) or "" in topics:
            raise HandshakeError(400, "There are too many topics, or one has no name.")
        last = request.headers.get("Last-Event-ID", "")
        claims = parse_places(last, len(topics))
        params = {"token": request.query.get("token", "")}
        self._open(exchange, Asked(params, dict(zip(topics, claims, strict=True))))

    def open_connect(self, exchange: Exchange) -> None:
        """GET {path}/uni_sse."""
        text = exchange.request.query.get("cf_connect", "{}")
        self._open(exchange, Asked(_checked(text), {}))

    def _open(self, exchange: Exchange, asked: Asked) -> None:
        headers = stream_headers(PUSHES)
        if exchange.request.method == "HEAD":
            exchange.respond(Response(200, headers=headers))
            return
        head = exchange.stream_head(headers)
        args = asked, head, exchange.encode_last
        begin_stream(self._live, exchange, OneWayClient, args, b"")


def _checked(text: str) -> dict[str, Any]:
    """What `connect` is asked with; HandshakeError 400 if that is no good."""
    try:
        command = json.dumps({"id": 1, "connect": json.loads(text)})
    except (ValueError, RecursionError):
        raise HandshakeError(400, "cf_connect must be JSON.") from None
    read = next(read_commands(command))
    if not isinstance(read, Command):
        raise HandshakeError(400, "cf_connect must be what connect is asked with.")
    return read.params
