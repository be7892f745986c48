"""Lines of a pipe to a peer, its messages to another; for scripts."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from ...constants import CloseCode
from ...errors import ConnectionClosed, ConnectionClosedOK
from ..values import Failure
from .forms import Form
from .peer import Peer

__all__ = ["copy", "lines_of", "standard_input"]

#: Seconds between two checks for more input.
_MOMENT = 0.2


def standard_input() -> Any:
    """Standard input, as bytes; None if the parent has closed it.

    Not `sys.stdin`: Python cannot exit while a thread waits there.
    """
    return None if sys.stdin is None else open(sys.stdin.fileno(), "rb", closefd=False)


def lines_of(source: Any) -> Iterator[bytes]:
    """Lines of a stream, without their ends."""
    for line in source or ():
        yield line.removesuffix(b"\n")


def copy(
    peer: Peer,
    form: Form,
    lines: Iterable[bytes],
    out: Any,
    *,
    wait: float | None,
    once: bool,
) -> bool:
    """Send lines, and write the messages that arrive.

    Args:
        peer: whom they are sent to.
        form: how they are sent and written.
        lines: read in a thread of their own.
        out: a text stream, or None.
        wait: seconds without a message after which this ends, once all lines are sent;
            None is no limit.
        once: end after the first message.

    Returns:
        Whether a message has arrived.

    Raises:
        ConnectionClosed: The connection has ended by an error.
        Failure: A line or message has the wrong form.
        BrokenPipeError: The reader of `out` has exited.
    """
    sender = _Sender(peer, form, lines)
    sender.start()
    try:
        arrived = _write_all(peer, form, sender, out, wait, once)
    except BrokenPipeError:
        peer.close(CloseCode.GOING_AWAY, "")
        raise
    if not once:
        sender.join(_MOMENT)  # it may be about to fail to send a line
    if sender.problem is not None:
        raise sender.problem
    return arrived


def _write_all(
    peer: Peer, form: Form, sender: _Sender, out: Any, wait: float | None, once: bool
) -> bool:
    arrived = False
    while True:
        # Checked before waiting: the time starts when everything has been sent.
        over = not sender.is_alive()
        if sender.problem is not None:
            return arrived
        limit = over and wait is not None
        try:
            message = peer.recv(wait if limit else _MOMENT).message
        except TimeoutError:
            if limit:
                return arrived
            continue
        except ConnectionClosedOK:
            return arrived
        arrived = True
        if out is not None:
            form.write(message, out)
        if once:
            return True


class _Sender(threading.Thread):
    """Sends lines, while another thread waits for messages.

    Attributes:
        problem: why not everything was sent, or None.
    """

    def __init__(self, peer: Peer, form: Form, lines: Iterable[bytes]) -> None:
        super().__init__(daemon=True)  # it may wait for a line that never comes
        self.problem: Exception | None = None
        self._peer, self._form, self._lines = peer, form, lines

    def run(self) -> None:
        """Send them all."""
        try:
            for line in self._lines:
                self._peer.send(self._form.encode_bytes(line))
        except (ConnectionClosed, Failure, OSError) as error:
            self.problem = error
