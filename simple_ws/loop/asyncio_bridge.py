"""Turning a reactor from within an asyncio event loop (asyncio's own or uvloop).

There are two ways. Where our selector has a descriptor and the event loop can watch
descriptors, the event loop watches ours. Elsewhere (on Windows) a thread waits for
readiness and wakes the event loop.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import InvalidState
from .reactor import Reactor

if TYPE_CHECKING:
    import asyncio

__all__ = ["Attachment", "check_loop"]

#: Longest delay, in seconds, of a timer in the event loop: uvloop's have a limit.
_LONGEST = 86400.0
#: Seconds to wait for the watching thread to end, after it was told to.
_TIMEOUT = 1.0


def check_loop(loop: Any) -> None:
    """Refuse an object that is not an asyncio event loop.

    Raises:
        TypeError: It is something else.
        InvalidState: It is closed.
    """
    import asyncio

    if not isinstance(loop, asyncio.AbstractEventLoop):
        raise TypeError(f"loop must be an asyncio event loop, not {loop!r}")
    if loop.is_closed():
        raise InvalidState("the asyncio loop is closed")


class Attachment:
    """Turns a reactor whenever it has work.

    Args:
        loop: the event loop of this thread; it need not be running yet.
        reactor: open.
        after_turn: called after each turn; False ends the attachment.

    Attributes:
        loop: the loop.
        ended: a future that is done when the attachment has ended.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        reactor: Reactor,
        after_turn: Callable[[], bool],
    ) -> None:
        self.loop = loop
        self.ended: asyncio.Future[None] = loop.create_future()
        self._reactor = reactor
        self._after_turn = after_turn
        self._over = False
        self._soon: asyncio.Handle | None = None  # the next turn, without waiting
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = 0.0  # when the timer fires, by the clock of the event loop
        self._watcher: _Watcher | None = None
        self._fd = -1
        try:
            self._fd = reactor.fileno()
            loop.add_reader(self._fd, self._turn)
        except (AttributeError, NotImplementedError):
            self._fd = -1
            self._watcher = _Watcher(loop, reactor, self._turn_soon)
        reactor.work_listener = self._turn_soon
        reactor.eager = True
        self._turn_soon()

    def end(self) -> None:
        """Detach from the loop; call it before the reactor is closed."""
        self._over = True
        self._reactor.eager = False
        self._reactor.work_listener = _nothing
        if self._watcher is not None:
            self._watcher.end()
        for handle in (self._soon, self._timer):
            if handle is not None:
                handle.cancel()
        if self.loop.is_closed():
            return
        if self._fd >= 0:
            self.loop.remove_reader(self._fd)
        if not self.ended.done():
            self.ended.set_result(None)

    def finish(self) -> None:
        """Run the loop until the attachment ends, if it is not running already."""
        import asyncio

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self.loop.run_until_complete(self.ended)

    async def wait(
        self, stop: Callable[[], object], hurry: Callable[[], object]
    ) -> None:
        """Wait for the end.

        Args:
            stop: requests the end; called when this is cancelled.
            hurry: requests an immediate end; called when it is cancelled again.
        """
        import asyncio

        try:
            await asyncio.shield(self.ended)
        except asyncio.CancelledError:
            stop()
            try:
                await asyncio.shield(self.ended)
            except asyncio.CancelledError:
                hurry()
                self._turn()  # at once: the loop may be about to close
            raise

    def _turn(self, whole: bool = False) -> None:
        """Turn; `whole`: also look at the deadlines, and wait for the next of them."""
        if self._over:
            return
        soon, self._soon = self._soon, None
        if soon is not None:
            soon.cancel()  # a descriptor was ready before
        more = True
        try:
            more = self._reactor.run_ready() or whole
            if more:
                self._reactor.run_once(0)
        finally:
            # Also after an interrupt (Ctrl-C): the loop may continue, and so do we.
            if more and self._after_turn():
                self._wait(self._reactor.time_to_sleep(_LONGEST))
                if self._watcher is not None:
                    self._watcher.look()

    def _turn_soon(self) -> None:
        if self._soon is None:
            self._soon = self.loop.call_soon(self._turn)

    def _wait(self, seconds: float | None) -> None:
        if not seconds:
            self._turn_soon()
            return
        wakes_at = self.loop.time() + seconds
        if self._timer is not None:
            if self._wakes_at <= wakes_at:
                return  # a turn in vain now and then costs less than a timer each turn
            self._timer.cancel()
        # uvloop rounds down to milliseconds: below one it would spin.
        seconds = math.ceil(seconds * 1000) / 1000
        self._timer = self.loop.call_later(seconds, self._on_timer)
        self._wakes_at = wakes_at

    def _on_timer(self) -> None:
        self._timer = None
        self._turn(whole=True)  # in vain, maybe, but what is due later needs a timer


def _nothing() -> None:
    """Do nothing."""


class _Watcher:
    """Watches for readiness in its own thread.

    Args:
        loop: the event loop to wake.
        reactor: open.
        on_ready: called in the event loop.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        reactor: Reactor,
        on_ready: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._reactor = reactor
        self._on_ready = on_ready
        self._asked = threading.Semaphore(0)
        self._looking = self._found = self._over = False
        self._wait: Callable[[], object] = _nothing
        self._thread = threading.Thread(
            target=self._work, name="simple_ws watcher", daemon=True
        )
        self._thread.start()

    def look(self) -> None:
        """Watch what is registered now; call it after each turn."""
        if not self._looking:
            self._looking = True
            # Made here: the thread must not read a set that this one changes.
            self._wait = self._reactor.waiting()
            self._asked.release()
        elif not self._found:
            self._reactor.wake()  # it watches what was registered before this turn

    def end(self) -> None:
        """Stop watching; call it before the reactor is closed."""
        self._over = True
        self._asked.release()
        self._reactor.wake()
        self._thread.join(_TIMEOUT)

    def _work(self) -> None:
        while self._asked.acquire() and not self._over:
            self._wait()
            self._found = True
            try:
                self._loop.call_soon_threadsafe(self._tell)
            except RuntimeError:  # the loop is closed
                return

    def _tell(self) -> None:
        self._looking = self._found = False
        self._on_ready()
