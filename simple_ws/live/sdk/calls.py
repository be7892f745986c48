"""Commands that wait for the connection, or for their reply: the outbox of a client.

What was sent when the connection was lost is sent again, before what came later, if
that does no harm; otherwise it has failed. What the server has refused because there
were too many is sent again after a pause.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from ...errors import InvalidState
from ..codes import TOO_MANY_REQUESTS
from .codec import Reply, encode_command, field

__all__ = ["Call", "Calls", "Done"]

#: Called with the result of a command, or with why there is none.
Done = Callable[["dict[str, Any] | Exception"], object]
#: Commands that are under way at once. A server that gets too many refuses them, and
#: ends the connection of a client that does not hear.
_WINDOW = 64
#: By how much the window grows with each that is accepted, after a refusal.
_GROWTH = 0.125


class Call:
    """One command.

    Args:
        method: such as "publish".
        params: what it asks for.
        done: called once.
        again: it may be sent again.

    Attributes:
        number: its id; the same when it is sent again. They grow.
        text: as it is sent.

    Raises:
        TypeError, ValueError: JSON cannot represent it.
    """

    __slots__ = ("_done", "again", "method", "number", "text")

    def __init__(
        self,
        number: int,
        method: str,
        params: dict[str, Any],
        done: Done,
        again: bool = False,
    ) -> None:
        self.number, self.method = number, method
        self.text = encode_command(0 if method == "send" else number, method, params)
        self.again = again
        self._done: Done | None = done

    def end(self, outcome: dict[str, Any] | Exception) -> None:
        """It has a result or an error; the first one holds."""
        done, self._done = self._done, None
        if done is not None:
            done(outcome)

    def forget(self) -> None:
        """Nobody waits for it any more."""
        self._done = None

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for it."""
        return self._done is not None


class Calls:
    """All commands of users, by the order in which they came.

    Args:
        most: that wait at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[Call] = deque()
        self._sent: dict[int, Call] = {}
        self._window: float = _WINDOW
        self._held = False
        self._refused: list[Call] = []

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent)

    def add(self, call: Call) -> None:
        """One more waits, or has failed because there are too many."""
        if self.has_room(len(self), call):
            self._waiting.append(call)

    def has_room(self, others: int, call: Call) -> bool:
        """Whether one more may wait besides the others; otherwise it has failed. May be
        called in any thread."""
        if others < self._most:
            return True
        text = f"the outbox has {self._most:,} commands already (max_outbox)"
        call.end(InvalidState(text))
        return False

    def drop(self, call: Call) -> None:
        """Nobody waits for it: it is not sent, or not again."""
        call.forget()
        call.again = False
        with suppress(ValueError):  # it was sent
            self._waiting.remove(call)

    def take(self) -> Iterator[Call]:
        """Those that are to be sent now."""
        while self._waiting and not self._held and len(self._sent) < self._window:
            call = self._waiting.popleft()
            if not call.awaited:
                continue
            if call.method == "send":
                call.end({})  # there is no reply
            else:
                self._sent[call.number] = call
            yield call

    def finish(self, reply: Reply) -> bool:
        """A reply has come; return whether it was for one of these."""
        call = self._sent.pop(reply.id, None)
        if call is None:
            return False
        if reply.error is not None and reply.error.code == TOO_MANY_REQUESTS.code:
            self._refused.append(call)
            return True
        self._window = min(_WINDOW, self._window + _GROWTH)
        call.end(reply.error or field(reply.result, call.method, dict, {}))
        return True

    @property
    def are_sent(self) -> bool:
        """Whether some were sent, and have no reply yet."""
        return bool(self._sent)

    @property
    def is_refused(self) -> bool:
        """Whether the server gets too many; then `pause` is to be called, and `resume`
        after a pause."""
        return bool(self._refused)

    def pause(self) -> None:
        """Send no more, and then fewer at once: first what was refused."""
        self._held, self._window = True, 1.0
        refused, self._refused = self._refused, []
        self._put_back(refused)

    def resume(self) -> None:
        """The pause is over."""
        self._held = False

    def on_lost(self, error: Exception) -> None:
        """The connection is lost: what may be sent again waits, at its old place."""
        sent, self._sent = self._sent, {}
        self._held = False
        self._put_back([call for call in sent.values() if call.again and call.awaited])
        for call in sent.values():
            if not call.again:
                call.end(error)

    def _put_back(self, calls: list[Call]) -> None:
        """They wait again, each at its place."""
        waiting = sorted([*calls, *self._waiting], key=lambda call: call.number)
        self._waiting = deque(waiting)

    def end(self, error: Exception) -> None:
        """There will be no connection any more."""
        sent, self._sent = self._sent, {}
        waiting, self._waiting = self._waiting, deque()
        for call in (*sent.values(), *waiting):
            call.end(error)
