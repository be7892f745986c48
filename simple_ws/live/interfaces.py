"""What the parts of `live` need of each other (`handler.Live` has it)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from .methods import Hooks, Methods

__all__ = ["LiveHost"]


class LiveHost(Protocol):
    """The handler of the clients.

    Attributes:
        server: that it is mounted on.
        malformed: commands that were malformed, of all clients so far.
        hooks, methods: the functions of the user's.
        command_rate: commands a second, and at once; None: no limit.
        max_topics: of a client.
        force_recovery: all subscriptions of topics with history are recoverable.
        heartbeat: seconds between two pings of a client.
    """

    server: Any
    malformed: int
    hooks: Hooks
    methods: Methods
    command_rate: tuple[float, float] | None
    max_topics: int
    force_recovery: bool
    heartbeat: float

    def find_action(self, method: str) -> Callable[..., Any]:
        """What a command does; see `actions`."""

    def join_topic(self, session: Any, topic: str, since: Any) -> bool:
        """The server subscribes a client; see `topics`."""

    def leave_topic(self, session: Any, topic: str) -> None:
        """The server ends a subscription; see `topics`."""
