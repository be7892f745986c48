"""What the calls of an application need of its mount."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .events import Application
from .lifespan import Lifespan

if TYPE_CHECKING:
    import asyncio

    from ..handlers.pending import PendingCalls

__all__ = ["Mounted"]


class Mounted(Protocol):
    """An application, and where it is (`mount.Mount`)."""

    app: Application
    lifespan: Lifespan
    #: In the log.
    name: str
    #: Path of the application, with what a proxy has removed before it.
    root_path: str
    #: What a proxy has removed.
    removed: str
    max_body: int | None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """In which it is awaited."""

    @property
    def pending(self) -> PendingCalls:
        """The pending calls of this run."""
