"""What the parts of `live` need of each other (`handler.Live` has it)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..connection.options import Options
from ..http.cors import Cors
from .codes import Code
from .counts import Counts
from .expiry import Expiries
from .flags import Flags
from .methods import Hooks, Methods, Subscribed

__all__ = ["LiveHost"]


class LiveHost(Protocol):
    """The handler of the clients.

    Attributes:
        server: that it is mounted on.
        counts: commands of all clients so far.
        hooks, methods: the functions of the user's.
        command_rate: commands a second, and at once; None: no limit.
        max_topics: of a client.
        asks_for_joins: who is told who comes and goes must be allowed "presence".
        heartbeat: seconds between two pings of a client.
        expiries: connections and subscriptions that expire.
        options: of the connections.
        client_class: of those by WebSocket; a class or a function.
        cors: which pages of other origins may use its paths by HTTP.
    """

    server: Any
    counts: Counts
    hooks: Hooks
    methods: Methods
    command_rate: tuple[float, float] | None
    max_topics: int
    asks_for_joins: bool
    heartbeat: float
    expiries: Expiries
    options: Options
    client_class: Any
    cors: Cors | None

    def find_action(self, method: str) -> Callable[..., Any]:
        """What a command does; see `actions`."""

    def flags(self, client: Any, topic: str, by_server: bool) -> Flags:
        """What a subscription has besides the publications of its topic."""

    def join_topic(
        self, session: Any, topic: str, since: Any, *granted: Subscribed
    ) -> bool:
        """The server subscribes a client; see `topics`."""

    def expire_subscription(
        self, session: Any, topic: str, expires_at: float
    ) -> dict[str, Any]:
        """A subscription ends then; return what the client is told of it."""

    def expire_client(self, session: Any, expires_at: float | None) -> None:
        """The server says until when a client may stay; see `lifetimes`."""

    def leave_topic(self, session: Any, topic: str, code: Code) -> None:
        """The server ends a subscription; see `topics`."""
