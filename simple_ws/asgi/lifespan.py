"""`Lifespan`: an application is told when the server begins, and when it has ended.

An application that does not know of lifespans raises or returns at once; the server
goes on without (ASGI 3.0, Lifespan Protocol).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from ..errors import HandshakeError, StartupFailed
from .events import Application, Message, Receive, Scope, Send, unexpected

__all__ = ["Lifespan"]

logger = logging.getLogger("simple_ws")


class Lifespan:
    """The lifespan of one application in one run of a server.

    Args:
        app: the application.
        loop: in which it is awaited.
        name: of the application, for the log.
        on_end: called when it is over.

    Attributes:
        state: what the application has put into `scope["state"]`; None if it has no
            lifespan.
        is_over: the application has shut down, or there is nothing to shut down.
        started: done when the application has started, or has no lifespan; its
            exception is a `StartupFailed`.
    """

    def __init__(
        self,
        app: Application,
        loop: asyncio.AbstractEventLoop,
        name: str,
        on_end: Callable[[], object],
    ) -> None:
        self.state: dict[str, Any] | None = {}
        self.is_over = False
        self.started: asyncio.Future[None] = loop.create_future()
        self._app = app
        self._loop = loop
        self._name = name
        self._begun = False  # the application has received `lifespan.startup`
        self._stop: asyncio.Future[None] = loop.create_future()
        self._on_end = on_end
        self._task: asyncio.Task[None] = loop.create_task(self._run())

    def stop(self) -> None:
        """Tell the application that all requests have ended."""
        if not self.started.done():
            self.end()
        elif not self._stop.done():
            self._stop.set_result(None)

    def end(self) -> None:
        """Wait no longer."""
        if not self._loop.is_closed():
            self._task.cancel()

    # Requests

    def guard(
        self, app: Application, scope: Scope, receive: Receive, send: Send
    ) -> Coroutine[Any, Any, None]:
        """A call of the application, which waits until it has started."""
        if self.started.done() and self.started.exception() is None:
            return app(scope, receive, send)
        return self._call_later(app, scope, receive, send)

    async def _call_later(
        self, app: Application, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            await asyncio.shield(self.started)
        except StartupFailed:
            raise HandshakeError(503, "The application could not start.") from None
        if self.state is not None:
            scope["state"] = self.state.copy()
        await app(scope, receive, send)

    # The application's side

    async def _run(self) -> None:
        scope: Scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._receive, self._send)
        except asyncio.CancelledError:
            self._fail("it was cancelled")
            raise
        except BaseException as error:
            self._note(error)
            if not isinstance(error, Exception):
                raise
        finally:
            if not self.started.done():
                self.state = None
                self.started.set_result(None)
            self._end()

    def _end(self) -> None:
        self.is_over = True
        self._on_end()

    def _note(self, error: BaseException) -> None:
        """The application has raised: perhaps only since it knows no lifespan."""
        if self.started.done() and self.started.exception() is not None:
            return  # it has told why, and raises it as well
        if self.started.done():
            logger.error("%s failed in its lifespan", self._name, exc_info=error)
        elif self._begun:
            logger.warning(
                "%s has no lifespan, or failed as it began", self._name, exc_info=error
            )
        else:
            logger.debug("%s has no lifespan: %r", self._name, error)

    async def _receive(self) -> Message:
        if not self._begun:
            self._begun = True
            return {"type": "lifespan.startup"}
        await asyncio.shield(self._stop)
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete" and not self.started.done():
            self.started.set_result(None)
        elif kind == "lifespan.startup.failed" and not self.started.done():
            self._fail(message.get("message", ""))
        elif kind == "lifespan.shutdown.complete" and self._stop.done():
            self._end()
        elif kind == "lifespan.shutdown.failed" and self._stop.done():
            self._end()
            logger.error(
                "%s failed to shut down: %s", self._name, message.get("message", "")
            )
        else:
            raise unexpected(message, "an event of the lifespan protocol, in its order")

    def _fail(self, text: str) -> None:
        if self.started.done():
            return
        said = f": {text}" if text else ""
        self.started.set_exception(StartupFailed(f"{self._name} failed to start{said}"))
        self.started.exception()  # retrieved: nobody may wait for it
