"""`Peer`: whom lines are sent to; `Connected`: a server, by one connection."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ...client.blocking import Connection
from ...constants import CloseCause
from ...text import for_terminal, redacted

__all__ = ["Connected", "Peer", "Received", "closing_of"]

#: They say that all is well: 1005 is a close frame without a code.
_WELL = (1000, 1001, 1005)


class Received(NamedTuple):
    """A message."""

    message: str | bytes
    #: Who has sent it, if that is to be said.
    sender: str = ""


class Peer(Protocol):
    """Whom lines are sent to. One thread receives, another may send and end it."""

    @property
    def greeting(self) -> str:
        """What a person is told when it is there."""

    def send(self, message: str | bytes) -> None:
        """Send a message; ConnectionClosed if that is not possible any more."""

    def recv(self, timeout: float | None) -> Received:
        """The next message; TimeoutError, or ConnectionClosed after the last."""

    def ping(self, payload: str) -> float | None:
        """Seconds until the pong; None if pongs are told when they arrive."""

    def close(self, code: int, reason: str) -> None:
        """Close the connections as they are now; ValueError if the code is wrong."""

    def end(self) -> None:
        """End it for good."""

    def ended_by_us(self) -> bool:
        """Whether that was asked for here."""

    def farewell(self) -> tuple[str, int]:
        """What a person is told at the end, and the exit code."""


class Connected:
    """A server, by one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.greeting = f"connected to {redacted(connection.url)}"

    def send(self, message: str | bytes) -> None:
        """Send a message."""
        self._connection.send(message)

    def recv(self, timeout: float | None) -> Received:
        """The next message."""
        return Received(self._connection.recv(timeout))

    def ping(self, payload: str) -> float | None:
        """Seconds until the pong."""
        return self._connection.ping(payload)

    def close(self, code: int, reason: str) -> None:
        """Close the connection."""
        self._connection.close(code, reason)

    def end(self) -> None:
        """Close the connection with 1000."""
        self._connection.close()

    def ended_by_us(self) -> bool:
        """Whether we closed it."""
        return self._connection.close_cause is CloseCause.LOCAL

    def farewell(self) -> tuple[str, int]:
        """The code and reason of the close."""
        return closing_of(self._connection)


def closing_of(connection: Connection) -> tuple[str, int]:
    """How a connection was closed, and the exit code for that."""
    code, reason = connection.close_code, connection.close_reason
    text = f"closed: {code} {for_terminal(reason)}".rstrip()
    # A code that was typed here is no failure.
    well = code in _WELL or connection.close_cause is CloseCause.LOCAL
    return text, 0 if well else 1
