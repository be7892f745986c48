"""`Terms`: what a client and a handler agree on in the opening handshake.

The key is answered, and permessage-deflate negotiated; the subprotocol is chosen later,
when the handler was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from ..connection.client import Client
from ..connection.options import Options
from ..deflate import Agreement, Deflate, negotiate, parse_extensions
from ..protocol.request import Request
from ..protocol.server_handshake import (
    check_upgrade,
    offered_subprotocols,
    upgrade_response,
)

__all__ = ["Offer", "StreamTerms", "Terms", "agree", "negotiated", "read_offer"]


class Offer(NamedTuple):
    """What a client offers in its handshake."""

    key: str
    #: Whether there is a `Sec-WebSocket-Protocol`.
    protocols: bool
    #: Lines of `Sec-WebSocket-Extensions`.
    extensions: tuple[str, ...]


class Terms(NamedTuple):
    """The agreed terms of a handshake, before the handler is asked."""

    key: str
    #: Subprotocols offered by the client.
    offered: list[str]
    #: The agreed extension, as in the response, and its parameters.
    extension: str | None
    agreement: Agreement | None

    def answer(
        self, subprotocol: str | None, fields: Sequence[tuple[str, str]] = ()
    ) -> bytes:
        """The response that opens the connection."""
        return upgrade_response(self.key, subprotocol, self.extension, fields)


class StreamTerms(NamedTuple):
    """The terms of a client that is sent a response without an end.

    Attributes:
        client_class: creates the connection.
        head: of the response; b"" if the client sends it by itself.
        any_origin: the option `origins` does not hold.
    """

    client_class: Callable[..., Client]
    head: bytes
    any_origin: bool = False
    offered: Sequence[str] = ()
    agreement: Agreement | None = None

    def answer(
        self, subprotocol: str | None, fields: Sequence[tuple[str, str]] = ()
    ) -> bytes:
        """The response that opens the connection, as far as that is known."""
        return self.head


def read_offer(request: Request) -> Offer:
    """Parse an upgrade request; HandshakeError if it is invalid."""
    key = check_upgrade(request)
    protocols = request.headers.get("Sec-WebSocket-Protocol") is not None
    lines = tuple(request.headers.get_all("Sec-WebSocket-Extensions"))
    return Offer(key, protocols, lines)


def agree(request: Request, offer: Offer, options: Options) -> Terms:
    """The terms of a client; HandshakeError if its offer is malformed.

    Args:
        request: what it has sent.
        offer: what was read of it.
        options: of the handler.
    """
    offered = offered_subprotocols(request.headers) if offer.protocols else []
    extension, agreement = negotiated(offer.extensions, options)
    return Terms(offer.key, offered, extension, agreement)


def negotiated(
    lines: tuple[str, ...], options: Options
) -> tuple[str, Agreement] | tuple[None, None]:
    """Agree on compression, as far as a handler allows that; see `_negotiate`."""
    if not lines or options.compression is None:
        return None, None
    drop_old = options.slow_consumer == "drop_old"
    return _negotiate(lines, options.compression, drop_old, options.splits_packed)


@lru_cache(maxsize=256)  # all browsers of one kind send the same
def _negotiate(
    lines: tuple[str, ...], config: Deflate, drop_old: bool, splits: bool
) -> tuple[str, Agreement] | tuple[None, None]:
    """Agree on compression: the element of the response, and the agreement."""
    if drop_old:
        # With takeover, messages dropped after compression would break later ones.
        config = config.__replace__(server_no_context_takeover=True)
    agreed = negotiate(parse_extensions(lines), config)
    if agreed is None:
        return None, None
    extension, agreement = agreed
    return extension, agreement._replace(splits=splits)
