"""`Wrapper`: takes the place of a handler, and has everything that a handler has.

Its subclasses change some of it: `chain.Chain` puts middlewares around a handler,
`ordering.Awaited` keeps the events of a client in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union

from ..connection.client import Client
from ..protocol.request import Request
from .handler import BaseHandler

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..connection.admission import Admission
    from ..connection.options import Options
    from ..connection.topics import Group
    from ..speedups import Counters

__all__ = ["Wrapper"]


class Wrapper:
    """Passes everything on to the current state of a handler.

    Args:
        inner: the handler, or a wrapper around it.
    """

    def __init__(self, inner: Union[BaseHandler, Wrapper]) -> None:  # noqa: UP007
        self._inner = inner
        self._message_callback: Callable[[Any, Any], Any] = self.on_message

    # Attributes

    @property
    def options(self) -> Options:
        """The handler's options, which may be replaced."""
        return self._inner.options

    @property
    def clients(self) -> Group[Client]:
        """The open connections of the handler."""
        return self._inner.clients

    @property
    def client_class(self) -> Any:
        """The class of new connections."""
        return self._inner.client_class

    @property
    def authenticates(self) -> bool:
        """Whether clients must have an identity."""
        return self._inner.authenticates is True

    @property
    def _closed_to_strangers(self) -> bool:
        return self._inner._closed_to_strangers

    @property
    def _own_format(self) -> bool:
        return self._inner._own_format

    @property
    def _present_alone(self) -> bool:
        return self._inner._present_alone

    @property
    def _log_name(self) -> str:
        return self._inner._log_name

    @property
    def _counters(self) -> Counters:
        return self._inner._counters

    @property
    def _admission(self) -> Admission | None:
        return self._inner._admission

    # Callbacks

    def on_request(self, request: Request) -> Any:
        """See `WebSocket.on_request`; likewise below."""
        return self._inner.on_request(request)

    def on_open(self, client: Client) -> Any:
        """A connection opened."""
        return self._inner.on_open(client)

    def on_message(self, msg: Any, client: Client) -> Any:
        """A message was received."""
        # Looked up each time: it may be replaced while the server runs.
        return self._inner._message_callback(msg, client)

    def on_close(self, client: Client) -> Any:
        """A connection ended."""
        return self._inner.on_close(client)

    def on_ping(self, client: Client) -> Any:
        """A ping was sent or received."""
        return self._inner.on_ping(client)

    def on_pong(self, client: Client) -> Any:
        """A pong was received."""
        return self._inner.on_pong(client)

    def on_drain(self, client: Client) -> Any:
        """All output has been written."""
        return self._inner.on_drain(client)

    def on_error(self, error: Exception, client: Client) -> Any:
        """A callback raised."""
        return self._inner.on_error(error, client)

    def on_join(self, client: Client, topic: str, join: Any) -> Any:
        """A client has entered a topic with history."""
        return self._inner.on_join(client, topic, join)

    def on_gap(self, topic: str | None, missing: int | None) -> Any:
        """Messages of other nodes did not arrive here."""
        return self._inner.on_gap(topic, missing)

    def on_presence(self, topic: str, member: Any, joined: bool) -> Any:
        """A member has joined a topic or left it."""
        return self._inner.on_presence(topic, member, joined)

    def _on_member(self, payload: Any, topic: str, member: Any, joined: bool) -> Any:
        inner: Any = self._inner
        return inner._on_member(payload, topic, member, joined)

    def select_subprotocol(self, offered: list[str]) -> str | None:
        """Choose among the subprotocols that a client offers."""
        return self._inner.select_subprotocol(offered)
