"""`Reconnecting`: a server, by one connection after another (`--reconnect`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ...client.backoff import Backoff, may_heal, retry_after
from ...client.blocking import Connection
from ...constants import CloseCause
from ...errors import ConnectError, ConnectionClosed, connection_closed
from ...text import redacted
from .peer import Received, closing_of

__all__ = ["Reconnecting"]


class Reconnecting:
    """A server that is connected to again when the connection has ended.

    What was sent just before that may not have arrived, and is not sent again.

    Args:
        dial: connects.
        tell: tells a person something.
        backoff: how long to wait before an attempt.
    """

    def __init__(
        self,
        dial: Callable[[], Connection],
        tell: Callable[[str], None],
        backoff: Backoff | None = None,
    ) -> None:
        self._dial, self._tell = dial, tell
        self._backoff = backoff or Backoff()
        self._attempt = 0
        self._opened_at = 0.0
        self._over = threading.Event()
        self._changed = threading.Condition()  # guards the connection
        self._connection: Connection | None = None
        self._reopened = False
        self._last = self._connect()
        self.greeting = f"connected to {redacted(self._last.url)}"

    def send(self, message: str | bytes) -> None:
        """Send a message, as soon as there is a connection."""
        lost = None
        while True:
            connection = self._other_than(lost)
            try:
                return connection.send(message)
            except ConnectionClosed:
                if self._over.is_set():
                    raise
                lost = connection

    def recv(self, timeout: float | None) -> Received:
        """The next message; connects if need be, however long that takes.

        Raises:
            ConnectError: It is of no use to try again.
        """
        while True:
            connection = self._connection or self._connect()
            try:
                return Received(connection.recv(timeout))
            except ConnectionClosed as error:
                if self._over.is_set():
                    raise
                self._lose(error)

    def ping(self, payload: str) -> float | None:
        """Seconds until the pong."""
        return self._other_than(None).ping(payload)

    def close(self, code: int, reason: str) -> None:
        """Close the connection; another one follows."""
        self._other_than(None).close(code, reason)

    def end(self) -> None:
        """Close the connection with 1000; none follows."""
        self._let_go()
        self._last.close()

    def ended_by_us(self) -> bool:
        """Whether it was ended here."""
        return self._over.is_set()

    def farewell(self) -> tuple[str, int]:
        """The code and reason of the last close."""
        return closing_of(self._last)

    def _other_than(self, lost: Connection | None) -> Connection:
        """The connection, once there is one, and another one."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._over.is_set() or self._connection not in (None, lost)
            )
            if self._connection is None:
                raise _ended()
            return self._connection

    def _lose(self, error: ConnectionClosed) -> None:
        with self._changed:
            self._connection = None
        if time.monotonic() - self._opened_at >= self._backoff.stable:
            self._attempt = 0
        self._pause(str(error), self._backoff.delay(self._attempt))

    def _connect(self) -> Connection:
        while not self._over.is_set():
            try:
                connection = self._dial()
            except ConnectError as error:
                if not may_heal(error):
                    self._let_go()
                    raise
                delay = self._backoff.delay(self._attempt)
                self._pause(str(error), max(delay, retry_after(error)))
            else:
                return self._take(connection)
        raise _ended()

    def _take(self, connection: Connection) -> Connection:
        self._opened_at = time.monotonic()
        with self._changed:
            self._connection = self._last = connection
            self._changed.notify_all()
            over = self._over.is_set()
        if over:
            connection.close()
        elif self._reopened:
            self._tell("connected again")
        self._reopened = True
        return connection

    def _pause(self, why: str, delay: float) -> None:
        self._attempt += 1
        if not self._over.is_set():
            self._tell(f"{why}; connecting again in {delay:.1f} s")
            self._over.wait(delay)

    def _let_go(self) -> None:
        """No connection will follow; nobody waits for one any more."""
        with self._changed:
            self._over.set()
            self._changed.notify_all()


def _ended() -> ConnectionClosed:
    return connection_closed(1000, "", CloseCause.LOCAL)
