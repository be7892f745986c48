"""SIGINT and SIGTERM while a loop runs, without disturbing other handlers.

The effect of a signal is left to the handler.
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
#: The handlers of a program that has set none.
_UNTOUCHED = (signal.SIG_DFL, signal.default_int_handler)


class StopSignals:
    """Handles the signals that ask a program to end, as a context manager.

    A signal is left alone where Python cannot set its handler (in any thread but the
    main one of the main interpreter, which an embedded one may not even have) or could
    not restore it (it was set in C); a log line says so. At the end each handler is
    restored, unless the program has set another one meanwhile.

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
        """Restore the handlers."""
        self.give_back()

    def give_back(self) -> None:
        """Restore the earlier handlers; in a forked process, too."""
        while self._old:
            number, old = self._old.popitem()
            if signal.getsignal(number) == self._handler:
                with suppress(ValueError):  # in another thread: nothing can be done
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
