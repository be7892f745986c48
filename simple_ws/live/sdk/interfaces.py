"""What the parts of the client need of each other, and what they say to each other."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ...client.backoff import Backoff

__all__ = [
    "Action",
    "Ask",
    "Driver",
    "Drop",
    "Listener",
    "Open",
    "SessionOptions",
    "State",
]


class State(enum.Enum):
    """Of the connection, see `session`."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    CLOSED = "closed"


class Open(NamedTuple):
    """Open a connection; then call `on_open` or `on_lost`."""


class Drop(NamedTuple):
    """Close the connection; what comes from it is not wanted any more."""

    code: int


class Ask(NamedTuple):
    """Ask the user for a token; then call `on_token`.

    Attributes:
        topic: of the subscription; None: the token of the connection.
    """

    topic: str | None


Action = Open | Drop | Ask


class Listener(Protocol):
    """What is told of the connection."""

    def on_state(self, state: State, error: Exception | None) -> None:
        """It has another state; the error is why it is not connected any more."""

    def on_event(self, event: Any) -> None:
        """A publication of a subscription by the server, or a message to this client
        alone."""

    def on_server_gap(self, topic: str) -> None:
        """Publications of a subscription by the server were missed for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """What it is given; times in seconds.

    Attributes:
        backoff: waits before it connects again.
        token: "" without one.
        asks: there is a function for tokens.
        data: for the server, when it connects; None: nothing.
        name, version: of the program.
        timeout: for the reply to `connect`.
        ping_delay: that a ping of the server may be late.
        max_outbox: commands that wait at once.
    """

    backoff: Backoff
    token: str = ""
    asks: bool = False
    data: Any = None
    name: str = ""
    version: str = ""
    timeout: float = 10.0
    ping_delay: float = 10.0
    max_outbox: int = 1000


class Driver(Protocol):
    """Who drives a session: a thread with a socket, or the test kit."""

    def clock(self) -> float:
        """Seconds that never run backwards."""

    def begin(self, session: Any) -> None:
        """Drive a session from now on."""

    def run(self, job: Callable[[], object]) -> None:
        """Have something done with the session, in order; from any thread."""

    @property
    def backlog(self) -> int:
        """What is to be done, and has not been begun."""

    def wait(self, condition: Callable[[], object], timeout: float | None) -> bool:
        """Wait until a condition is true that the session brings about.

        Returns:
            Whether it is; False: the timeout, in seconds, has passed.
        """

    def check_may_wait(self) -> None:
        """Refuse a caller that must not wait, or not use it at all.

        Raises:
            InvalidState: It is called by a callback, or in a forked process.
        """

    def end(self) -> None:
        """The session is closed: wait until the connection is."""
