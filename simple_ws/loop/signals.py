"""SIGINT and SIGTERM while a loop runs, without harm to the handlers of others.

What a signal does is left to the handler.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

__all__ = ["StopSignals"]

logger = logging.getLogger("simple_ws")

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
#: What stands there where nobody has set anything.
_UNTOUCHED = (signal.SIG_DFL, signal.default_int_handler)


class StopSignals:
    """Handles the signals that ask a program to end, as a context manager.

    A signal is left alone where Python cannot set its handler (in any thread but the
    main one of the main interpreter, which an embedded one may not even have) or could
    not give it back (it was set in C); one line of the log says so. At the end each
    handler is given back, unless somebody has set another one meanwhile.

    Args:
        handler: called with the number and the frame, as by `signal.signal`.
        yielding: leave alone the signals for which the program has set a handler.
    """

    def __init__(
        self, handler: Callable[[int, Any], object], yielding: bool = False
    ) -> None:
        self._handler = handler
        self._yielding = yielding
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        """Set the handlers."""
        for number in _NUMBERS:
            try:
                self._set(number)
            except (ValueError, RuntimeError) as error:
                logger.info("signals do not stop this server: %s", error)
                break
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the handlers back."""
        self.give_back()

    def give_back(self) -> None:
        """Set the earlier handlers again; in a forked process, too."""
        while self._old:
            number, old = self._old.popitem()
            if signal.getsignal(number) == self._handler:
                with suppress(ValueError):  # of another thread: nothing can be done
                    signal.signal(number, old)

    def _set(self, number: int) -> None:
        old = signal.getsignal(number)
        if old is None:
            name = signal.Signals(number).name
            raise RuntimeError(f"the handler of {name} was not set from Python")
        if self._yielding and old not in _UNTOUCHED:
            return
        signal.signal(number, self._handler)
        self._old[number] = old
