"""`SharedHandler`: a handler as one of several threads has it (worker_class="thread").

The callbacks, and all that the user keeps in the handler, are those of the handler
itself. Its connections, counters and limits are of one thread, so that no thread waits
for another.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..connection.admission import Admission
from ..connection.topics import Group
from ..speedups import Counters
from .handler import BaseHandler
from .wrapper import Wrapper

if TYPE_CHECKING:
    from ..connection.client import Client
    from ..connection.options import Options

__all__ = ["GroupOfAll", "GroupOfOne", "SharedHandler"]


class GroupOfAll(Group[Any]):
    """The connections of all threads, which all add and discard."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        super().__init__()
        self._lock = Lock()

    def add(self, member: Any) -> None:
        """Add a client."""
        with self._lock:
            super().add(member)

    def discard(self, member: Any) -> None:
        """Remove a client."""
        with self._lock:
            super().discard(member)


class GroupOfOne(Group[Any]):
    """The connections of one thread, which are among those of all.

    Args:
        everybody: of all threads.
    """

    __slots__ = ("_everybody",)

    def __init__(self, everybody: GroupOfAll) -> None:
        super().__init__()
        self._everybody = everybody

    def add(self, member: Any) -> None:
        """Add a client."""
        super().add(member)
        self._everybody.add(member)

    def discard(self, member: Any) -> None:
        """Remove a client."""
        super().discard(member)
        self._everybody.discard(member)


class SharedHandler(Wrapper):
    """See the head of the module.

    Args:
        handler: of the user.
        count: of the threads, among which limits are divided.
        clock: of the server.
    """

    _inner: BaseHandler

    def __init__(
        self, handler: BaseHandler, count: int, clock: Callable[[], float]
    ) -> None:
        self._inner = handler
        self._count = count
        self._clock = clock
        self._clients = GroupOfOne(_shared_clients(handler))
        self._own_counters = Counters()
        self._divided: tuple[Options | None, Any] = None, None
        self._limits: tuple[Admission | None, Admission | None] = None, None

    @property
    def options(self) -> Options:
        """The handler's options, with the limits of one of the threads."""
        given = self._inner.options
        if self._divided[0] is not given:
            self._divided = given, given.divided(self._count)
        divided: Options = self._divided[1]
        return divided

    @property
    def clients(self) -> Group[Client]:
        """The connections of this thread."""
        return self._clients

    @property
    def _message_callback(self) -> Any:  # type: ignore[override]  # never set
        # That of the user, so that a message costs no call more than without threads.
        return self._inner._message_callback

    def __getattr__(self, name: str) -> Any:
        """What else is asked of a handler is that of the user's."""
        return getattr(self._inner, name)

    @property
    def _counters(self) -> Counters:
        return self._own_counters

    @property
    def _admission(self) -> Admission | None:
        whole = self._inner._admission
        if self._limits[0] is not whole:
            own = None
            if whole is not None:
                own = Admission(self.options, self._clock)
                for client in self._clients:
                    own.enter(client.address)
            self._limits = whole, own
        return self._limits[1]


_making = Lock()


def _shared_clients(handler: BaseHandler) -> GroupOfAll:
    """The connections of a handler, for several threads from now on."""
    with _making:
        if not isinstance(handler.clients, GroupOfAll):
            handler._set(clients=GroupOfAll())
        everybody: Any = handler.clients
        shared: GroupOfAll = everybody
        return shared
