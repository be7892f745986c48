"""Subscriptions by the server, as a client follows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .codec import (
    MalformedError,
    Position,
    Publication,
    field,
    publication_of,
    publications_of,
)

__all__ = ["ByServer"]

#: A server that begins more has gone mad.
_MOST = 10_000


class ByServer:
    """All of them.

    Args:
        tell: called with each publication, once and in order.
        tell_gap: called with a topic where publications were missed for ever.
    """

    def __init__(
        self,
        tell: Callable[[Publication], object],
        tell_gap: Callable[[str], object],
    ) -> None:
        self._tell, self._tell_gap = tell, tell_gap
        self._positions: dict[str, Position | None] = {}

    def __contains__(self, topic: object) -> bool:
        return topic in self._positions

    def claims(self) -> dict[str, Any] | None:
        """What `connect` says of them."""
        return {
            topic: {"recover": True, **position._asdict()}
            for topic, position in self._positions.items()
            if position is not None
        } or None

    def begin_all(self, subs: dict[str, Any]) -> None:
        """The client is connected: these are all."""
        self._positions = {
            topic: position
            for topic, position in self._positions.items()
            if topic in subs
        }
        for topic, result in subs.items():
            self.begin(topic, result)

    def begin(self, topic: str, result: Any) -> None:
        """One has begun, or has begun again."""
        if not isinstance(result, dict):
            raise MalformedError("a subscription is not an object")
        if len(self._positions) >= _MOST and topic not in self._positions:
            raise MalformedError(f"it has more than {_MOST:,} subscriptions")
        epoch = field(result, "epoch", str, "")
        position = Position(epoch, field(result, "offset", int, 0))
        counts = field(result, "recoverable", bool, False)
        missed = publications_of(topic, epoch, result)
        if not field(result, "recovered", bool, False):
            self._positions.pop(topic, None)
            if field(result, "was_recovering", bool, False):
                self._tell_gap(topic)
        self._positions.setdefault(topic, None)
        for publication in missed:
            self._publish(publication)
        self._positions[topic] = position if counts else None

    def end(self, topic: str) -> None:
        """The server has ended one, if there was one."""
        self._positions.pop(topic, None)

    def publish(self, topic: str, value: Any) -> None:
        """A publication has come."""
        position = self._positions[topic]
        epoch = position.epoch if position else ""
        self._publish(publication_of(topic, epoch, value))

    def _publish(self, publication: Publication) -> None:
        topic, position = publication.topic, publication.position
        last = self._positions[topic]
        if position is not None and last is not None:
            if position.offset <= last.offset:
                return
            self._positions[topic] = position
        self._tell(publication)
