"""`Applications`: the ASGI applications of a server, from its start to its end.

They need an asyncio loop: a server that is not attached to one makes its own here. What
an application does with a request is left to the folder `asgi/`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..loop.asyncio_bridge import Attachment

if TYPE_CHECKING:
    from ..asgi.mount import Mount
    from .run import Run

__all__ = ["Applications"]

logger = logging.getLogger("simple_ws")


class Applications:
    """All applications of one server.

    Attributes:
        new_loop: makes the loop of a server that is attached to none; None: asyncio
            decides.
        on_start: called when all have started in the own loop.
        failure: why one of them could not start, if the server is attached to a loop.
    """

    #: Seconds for `lifespan.shutdown`, after requests and clients were cut.
    patience = 10.0

    def __init__(self) -> None:
        self.new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None
        self.on_start: Callable[[], object] = lambda: None
        self.failure: BaseException | None = None
        self._mounts: list[Mount] = []
        self._running: list[Mount] = []
        self._runner: asyncio.Runner | None = None

    def add(self, mount: Mount, run: Run | None) -> None:
        """Add an application.

        Args:
            mount: the application.
            run: of the server, if it runs.
        """
        self._mounts.append(mount)
        if run is not None and run.asyncio_loop is not None:
            self._begin(mount, run, run.asyncio_loop)

    def begin(self, run: Run, loop: asyncio.AbstractEventLoop) -> None:
        """A run begins, and with it the lifespans."""
        self.failure = None
        for mount in self._mounts:
            self._begin(mount, run, loop)

    def _begin(self, mount: Mount, run: Run, loop: asyncio.AbstractEventLoop) -> None:
        mount.begin(run.pending, loop, run.reactor.want_attention)
        self._running.append(mount)

    def on_failure(self, abort: Callable[[], object]) -> None:
        """Log it and call a function when an application cannot start."""

        def look(started: asyncio.Future[None]) -> None:
            if not started.cancelled() and (error := started.exception()) is not None:
                logger.error("%s", error)
                self.failure = error
                abort()

        for mount in self._running:
            mount.lifespan.started.add_done_callback(look)

    async def started(self) -> None:
        """Wait until all have started.

        Raises:
            StartupFailed: One of them cannot.
        """
        for mount in self._running:
            await asyncio.shield(mount.lifespan.started)

    def are_over(self) -> bool:
        """Whether all have shut down; tells them to do so."""
        for mount in self._running:
            mount.lifespan.stop()
        return all(mount.lifespan.is_over for mount in self._running)

    def end(self) -> None:
        """The run has ended: wait for none of them any longer."""
        for mount in self._running:
            mount.lifespan.end()
        self._running = []

    # A loop of our own

    def open_loop(self) -> asyncio.AbstractEventLoop:
        """Make a loop for a run that is attached to none."""
        self._runner = asyncio.Runner(loop_factory=self.new_loop)
        return self._runner.get_loop()

    def start(self, run: Run, after_turn: Callable[[], bool]) -> None:
        """Turn the own loop until all applications have started.

        Raises:
            StartupFailed: One of them cannot start.
        """
        assert self._runner is not None
        loop = self._runner.get_loop()
        run.attachment = Attachment(loop, run.reactor, after_turn)
        run.owns_loop = True
        waits = asyncio.wait(
            [run.attachment.ended, loop.create_task(self.started())],
            return_when=asyncio.FIRST_COMPLETED,
        )
        done, _ = loop.run_until_complete(waits)
        for future in done:
            future.result()
        self.on_start()

    def serve(self, run: Run) -> None:
        """Turn the own loop to the end of the run."""
        assert self._runner is not None
        assert run.attachment is not None
        self._runner.get_loop().run_until_complete(run.attachment.ended)

    def close_loop(self) -> None:
        """End whatever applications have left in the own loop, and close it."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()
