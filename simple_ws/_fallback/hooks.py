"""The methods that the byte path of a connection requires, in both backends."""

from __future__ import annotations

from typing import Any, Protocol

from ..constants import SendStatus
from ..errors import ProtocolError

__all__ = ["ConnectionHooks"]


class ConnectionHooks(Protocol):
    """The methods that `ConnectionCore` calls and does not have.

    One class implements all of them (`connection.client.Client`), as a subclass of the
    core: calling own methods is faster than calling another object's.
    """

    __slots__ = ()

    #: Has `publish`, as `PublishCore` has.
    _host: Any

    def _receive_slow_path(self, data: bytes, start: int, end: int) -> int:
        """Let `protocol` read from data[start:end]; return where it stopped."""

    def _on_fault(self, error: ProtocolError) -> None:
        """The peer broke a rule: fail the connection."""

    def _on_lost(self, error: OSError | None, reading: bool = False) -> None:
        """The connection is gone: by an error, or closed by the peer (None).

        Args:
            error: the error.
            reading: the loop has found it; no callback is running.
        """

    def _on_callback_error(self, error: Exception) -> None:
        """The message callback raised."""

    def _answer(self, value: object) -> None:
        """The message callback returned something that is neither str nor bytes."""

    def _abandon(self) -> None:
        """Cut the connection: it is unknown what was read or written."""

    def _on_rate(self) -> None:
        """The peer has sent more messages than `_limit_rate` allows."""

    def _make_room(self, size: int) -> bool:
        """The outbox is over its limit; return whether a message may still enter."""

    def _watch(self, events: int) -> None:
        """Watch for these events from now on."""

    def _on_drained(self) -> None:
        """All output has been written."""

    def _write_elsewhere(self, msg: object, binary: bool | None) -> SendStatus:
        """`write_message` was called from a thread other than the loop's."""
