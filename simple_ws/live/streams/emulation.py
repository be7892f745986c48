"""Emulation: what clients without WebSockets say, by requests of their own.

    {path}/sse, {path}/http_stream   open a response without an end (`emulated_client`)
    {path}/emulation                 {"session", "node", "data"}: a frame of a client

The connect result has told the client its session, a secret, and the node that has it.
A request that reaches another node, or another worker, is passed on by the engine.

Source: centrifugal.dev, "Bidirectional emulation"; npm `centrifuge`.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any, NamedTuple

from ...errors import HandshakeError
from ...http.exchange import Exchange
from ...protocol.response import Response
from ...server.terms import StreamTerms
from ..commands import Command, read_commands
from ..interfaces import LiveHost
from .client import StreamClient, combined
from .emulated_client import EmulatedClient
from .forms import EVENTS, LINES, Form

__all__ = ["Emulation", "begin_stream", "stream_headers"]

#: Seconds that another node has to take a frame: SDKs wait 5 for the reply to it.
_TIMEOUT = 3.0
#: Characters of a session, and of a node, at most.
_MAX_NAME = 100


class _Input(NamedTuple):
    """A frame of a client, as it has come."""

    session: str
    node: str
    frame: str


class Emulation:
    """See the head of the module.

    Args:
        live: the handler.
    """

    def __init__(self, live: LiveHost) -> None:
        self._live = live

    def open_events(self, exchange: Exchange) -> None:
        """GET {path}/sse."""
        frame = exchange.request.query.get("cf_connect")
        self._open(exchange, EVENTS, "" if frame is None else frame)

    def open_lines(self, exchange: Exchange) -> None:
        """POST {path}/http_stream."""
        try:
            frame = exchange.request.body.decode()
        except UnicodeDecodeError:
            frame = ""
        self._open(exchange, LINES, frame)

    def _open(self, exchange: Exchange, form: Form, frame: str) -> None:
        if exchange.request.method == "HEAD":
            exchange.respond(Response(200, headers=stream_headers(form)))
            return
        first = next(read_commands(frame), None)
        if not isinstance(first, Command) or first.method != "connect":
            raise HandshakeError(400, "The request must begin with a connect command.")
        self._check_size(frame)
        head = exchange.stream_head(stream_headers(form))
        begin_stream(self._live, exchange, EmulatedClient, (form, frame), head)

    def take(self, exchange: Exchange) -> None:
        """POST {path}/emulation."""
        server, given = self._live.server, _read(exchange.request.body)
        self._check_size(given.frame)
        if given.node in ("", server.cluster.id):
            take = server._inputs.get(given.session)
            _answer(exchange, None if take is None else take(given.frame), None)
            return
        data = [given.session, given.frame]
        done = partial(_answer, exchange)
        # It becomes a part of a channel's name, which strangers must not choose freely.
        asked = given.node.isalnum() and server.cluster._call(
            given.node, "input", data, _TIMEOUT, done
        )
        if not asked:
            _answer(exchange, None, None)

    def _check_size(self, frame: str) -> None:
        limit = self._live.options.max_size
        if limit is not None and len(frame) > limit:
            raise HandshakeError(413, f"The frame exceeds {limit:,} bytes.")


def stream_headers(form: Form) -> list[tuple[str, str]]:
    """The header fields of a response without an end; proxies must not hold it back."""
    return [
        ("Content-Type", form.content_type),
        ("Cache-Control", "no-cache, no-transform"),
        ("X-Accel-Buffering", "no"),
    ]


def begin_stream(
    live: LiveHost,
    exchange: Exchange,
    kind: type[StreamClient],
    args: tuple[Any, ...],
    head: bytes,
) -> None:
    """Open a client, unless it is refused.

    Args:
        live: its handler.
        exchange: of its request.
        kind: of the client.
        args: its own, before those of any client.
        head: of the response; b"" if the client sends it by itself.
    """
    origin, cors = exchange.request.origin, live.cors
    any_origin = cors is not None and origin is not None and cors._allows(origin)
    made = partial(combined(kind, live.client_class), *args)
    exchange.open_stream(live, StreamTerms(made, head, any_origin))


def _read(body: bytes) -> _Input:
    """Read the body of a request.

    Raises:
        HandshakeError: 400.
    """
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise HandshakeError(400, "The body must be JSON.") from None
    if not isinstance(given, dict):
        raise HandshakeError(400, "The body must be a JSON object.")
    session, node, frame = map(given.get, ("session", "node", "data"), ("", "", ""))
    for value in (session, node, frame):
        if not isinstance(value, str):
            raise HandshakeError(400, "session, node and data must be strings.")
    if not frame or len(session) > _MAX_NAME or len(node) > _MAX_NAME:
        raise HandshakeError(400, "data must not be empty, nor names be so long.")
    return _Input(session, node, frame)


def _answer(exchange: Exchange, taken: Any, error: str | None) -> None:
    """Say whether the frame was taken; None: there is no such client."""
    if not exchange.waiting:
        return  # the client has disconnected
    if error is not None:
        exchange.respond(Response(503, "The node of this session does not answer.\n"))
    elif taken is None:
        exchange.respond(Response(404, "There is no such session.\n"))
    elif not taken:
        retry = {"Retry-After": "1"}
        exchange.respond(Response(429, "Too many commands wait.\n", retry))
    else:
        exchange.respond(Response(204))
