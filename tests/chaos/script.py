"""A program that is no node, and publishes with `Publisher`, in a thread.

It keeps a journal as nodes do, so its messages are accounted for like theirs: the
engine has those whose call returned; for the others the error says what is known.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TextIO

from ledger import Ledger

from simple_ws import EngineError, Publisher

__all__ = ["Script"]

#: Messages a second, and seconds that a call may take.
_RATE, _TIMEOUT = 20.0, 2.0


class Script:
    """Publishes until it is stopped.

    Args:
        url: of the engine.
        ledger: of the run.
        directory: of the journals.

    Attributes:
        publishing: as long as it is True.
        errors: how often calls failed, by what was wrong.
        error: its thread has failed.
    """

    def __init__(self, url: str, ledger: Ledger, directory: Path) -> None:
        self.publishing = True
        self.errors: Counter[str] = Counter()
        self.error: BaseException | None = None
        self._publisher = Publisher(url, timeout=_TIMEOUT)
        self._session = ledger.session()
        self._session.open = False  # nobody reads there
        self._name = f"{os.getpid()}-{time.monotonic_ns()}"
        self._journal = directory / self._name
        self._fates: Counter[str] = Counter()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="script")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Publish no more, and close the journal."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._thread.join()

    def _run(self) -> None:
        try:
            with self._journal.open("a", buffering=1) as journal, self._publisher:
                number = 0
                while not self._stopping.wait(1 / _RATE):
                    if self.publishing:
                        number += 1
                        self._publish(number, journal)
                self._write(journal, "c", json.dumps(self._counts(number)))
        except BaseException as error:
            self.error = error

    def _publish(self, number: int, journal: TextIO) -> None:
        session = self._session
        text = f"{session.number} {number - 1}"
        self._write(journal, "t", f"{number} {text}")
        session.sent += 1
        try:
            self._publisher.publish("hall", f"m {self._name} {number} {text}")
        except EngineError as error:
            fate = "u" if error.unsure else "l"
            self.errors[error.problem] += 1
        else:
            fate = "a"
        self._fates[fate] += 1
        self._write(journal, fate, number)

    @staticmethod
    def _write(journal: TextIO, word: str, rest: object) -> None:
        print(word, rest, file=journal)

    def _counts(self, number: int) -> dict[str, int]:
        lost, unsure = self._fates["l"], self._fates["u"]
        counts = {"published": number - lost, "lost": lost, "unsure": unsure}
        return {**counts, "refused": 0, "invalid": 0, "noise": 0}
