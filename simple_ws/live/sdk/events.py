"""What the session of a client tells it, besides publications of its subscriptions."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .codec import Message, Publication
from .inbox import Inbox
from .interfaces import State

__all__ = ["Events", "call_user"]

logger = logging.getLogger("simple_ws")


def call_user(function: Callable[..., object] | None, *args: object) -> None:
    """Call a function of the user's; what it raises is logged."""
    if function is not None:
        try:
            function(*args)
        except Exception:
            logger.exception("live: a callback failed")


class Events:
    """Gives them to the user; see `interfaces.Listener`.

    Args:
        inbox: where they wait.
        most: that wait.
        on_state: is told of the connection.
    """

    def __init__(
        self,
        inbox: Inbox[Publication | Message],
        most: int,
        on_state: Callable[[str, Exception | None], object] | None,
    ) -> None:
        self._inbox, self._most, self._on_state = inbox, most, on_state

    def on_state(self, state: State, error: Exception | None) -> None:
        """The connection has another state."""
        call_user(self._on_state, state.value, error)

    def on_event(self, event: Publication | Message) -> None:
        """Something came without a subscription of the user's."""
        self._inbox.put(event)
        if len(self._inbox) > self._most:
            self._inbox.drop_oldest()

    def on_server_gap(self, topic: str) -> None:
        """Publications were missed for ever, before the next one."""
        self._inbox.note_gap(topic)
