"""`WorkerHooks`: what users want done in each process before and after it serves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..cluster.worker import Worker
from ..loop.deferred import check_callback, check_not_deferred

__all__ = ["WorkerHooks"]

logger = logging.getLogger("simple_ws")


class WorkerHooks:
    """The callbacks of `Server.on_worker_start` and `on_worker_stop`."""

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Callable[[Worker], object]]] = {
            "start": [],
            "stop": [],
        }
        self._worker: Worker | None = None  # between the two

    def of_another_thread(self) -> WorkerHooks:
        """The same callbacks, of now and later, around what another thread serves."""
        hooks = WorkerHooks()
        hooks._callbacks = self._callbacks
        return hooks

    def add(self, when: str, callback: Any) -> None:
        """Add a callback for "start" or "stop".

        Raises:
            TypeError: It takes other arguments, or is async or `in_thread`.
        """
        name = f"on_worker_{when}"
        check_callback(name, callback, ("worker",))
        check_not_deferred(name, callback)
        self._callbacks[when].append(callback)

    def start(self, worker: Worker) -> None:
        """The process is about to serve; raises what a callback raises."""
        self._worker = worker
        for callback in self._callbacks["start"]:
            callback(worker)

    def stop(self) -> None:
        """The process has served."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        for callback in self._callbacks["stop"]:
            try:
                callback(worker)
            except Exception:
                logger.exception("on_worker_stop failed: %r", callback)
