"""`Subscription`: a topic as its user reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ...constants import CloseCause
from ...errors import ConnectionClosed, InvalidState
from ..codes import LiveError
from .codec import ClientInfo, History, Position, Publication
from .events import call_user
from .inbox import Inbox
from .interfaces import Driver
from .outcomes import closed_by
from .rooms import Room, RoomState
from .session import Session

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Self

__all__ = ["Subscription", "SubscriptionHost"]


class SubscriptionHost(Protocol):
    """What it needs of its client (`connection.LiveConnection`)."""

    def publish(
        self,
        topic: str,
        data: Any,
        *,
        key: str | None = None,
        resend: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Publish to a topic."""

    def enqueue(self, topic: str, data: Any, *, key: str | None = None) -> Future[None]:
        """Publish without waiting."""

    def history(
        self,
        topic: str,
        limit: int | None = None,
        *,
        since: Position | tuple[str, int] | None = None,
        reverse: bool = False,
        timeout: float | None = None,
    ) -> History:
        """Read what a topic keeps."""

    def presence(
        self, topic: str, *, timeout: float | None = None
    ) -> dict[str, ClientInfo]:
        """Who is in a topic."""

    def _forget(self, subscription: Any) -> None:
        """It has ended."""


class Subscription:
    """A subscription to a topic; `LiveConnection.subscribe` creates it.

    Iterate over it, or call `recv`, to get its publications. Every method can be called
    from any thread; what is read by one thread is not read by another.

    Publications that are not read wait. When `max_queue` of them do, a subscription
    with `recover` leaves the topic, and comes back when half of them are read: what it
    missed meanwhile comes from the history. Without it the oldest are dropped, which
    `lost` counts, and the next one has `gap`.

    Attributes:
        topic: the topic.
        data: what the server said when it was subscribed.
        gaps: how often publications were missed for ever.
    """

    def __init__(
        self,
        live: SubscriptionHost,
        driver: Driver,
        session: Session,
        topic: str,
        max_queue: int,
        callbacks: dict[str, Callable[..., object] | None],
        options: dict[str, Any],
    ) -> None:
        self.topic = topic
        self.data: Any = None
        self.gaps = 0
        self._live, self._driver, self._session = live, driver, session
        self._max_queue, self._callbacks = max_queue, callbacks
        self._inbox: Inbox[Publication] = Inbox(driver, self._why, self._look_for_room)
        self._begun = self._over = False
        self._error: Exception | None = None
        self._room = Room(topic, _Listener(self), **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.unsubscribe()

    def __iter__(self) -> Iterator[Publication]:
        """Iterate over publications until the subscription ends.

        It stops when the user ends it or closes the connection.

        Raises:
            LiveError: The server has ended it.
            ConnectionClosed: The connection has ended, and the client does not come
                back.
        """
        while True:
            try:
                publication = self.recv()
            except InvalidState:
                if self._error is None and self._over:
                    return
                raise
            except ConnectionClosed as error:
                if error.cause is CloseCause.LOCAL:
                    return
                raise
            yield publication

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.topic!r} {self.state}>"

    @property
    def state(self) -> str:
        """One of "subscribing", "subscribed" and, for good, "unsubscribed"."""
        if self._over:
            return "unsubscribed"
        subscribed = self._room.state is RoomState.SUBSCRIBED
        return "subscribed" if subscribed else "subscribing"

    @property
    def position(self) -> Position | None:
        """Of the newest publication that has come, for `since`; None without
        `recover`, and in a topic without history. Of one that you have read it is
        `Publication.position`."""
        return self._room.position

    # Reading

    def recv(self, timeout: float | None = None) -> Publication:
        """Wait for the next publication.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            TypeError, ValueError: `timeout` is not a number of seconds.
            TimeoutError: None came in time.
            LiveError: The server has ended the subscription.
            ConnectionClosed: The connection has ended, and the client does not come
                back; or you have closed it.
            InvalidState: You have ended the subscription; or a callback of this client
                waits, or a forked process.
        """
        return self._inbox.take(timeout)

    @property
    def lost(self) -> int:
        """Publications that were dropped because they were not read in time."""
        return self._inbox.lost

    @property
    def publications(self) -> list[Publication]:
        """Those that have come, and were not read yet."""
        return list(self._inbox)

    def _look_for_room(self) -> None:
        """Come back to the topic when half of what waited is read."""
        paused = self._room.state is RoomState.PAUSED
        if paused and len(self._inbox) <= self._max_queue // 2:
            self._driver.run(partial(self._session.rooms.resume, self._room))

    def _why(self) -> Exception | None:
        """Why it has ended, in an exception of its own for each caller; None: it has
        not."""
        error = self._error
        if not self._over:
            return None
        if error is None:
            return InvalidState(f"the subscription to {self.topic!r} has ended")
        if isinstance(error, LiveError):
            return LiveError._received(error.code, error.message, error.temporary)
        return closed_by(error)

    # Doing

    def unsubscribe(self) -> None:
        """End the subscription; nothing happens if it has ended."""
        self._live._forget(self)  # now, so that another can begin
        self._driver.run(partial(self._session.rooms.end, self._room))

    def publish(
        self,
        data: Any,
        *,
        key: str | None = None,
        resend: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Publish to this topic; see `LiveConnection.publish`."""
        self._live.publish(self.topic, data, key=key, resend=resend, timeout=timeout)

    def enqueue(self, data: Any, *, key: str | None = None) -> Future[None]:
        """Publish without waiting; see `LiveConnection.enqueue`."""
        return self._live.enqueue(self.topic, data, key=key)

    def history(
        self,
        limit: int | None = None,
        *,
        since: Position | tuple[str, int] | None = None,
        reverse: bool = False,
        timeout: float | None = None,
    ) -> History:
        """What is kept of this topic; see `LiveConnection.history`."""
        return self._live.history(
            self.topic, limit, since=since, reverse=reverse, timeout=timeout
        )

    def presence(self, *, timeout: float | None = None) -> dict[str, ClientInfo]:
        """Who is here; see `LiveConnection.presence`."""
        return self._live.presence(self.topic, timeout=timeout)


class _Listener:
    """What the session tells it."""

    def __init__(self, subscription: Subscription) -> None:
        self._of = subscription

    def on_publication(self, publication: Publication) -> None:
        """The next publication."""
        self._of._inbox.put(publication)
        if len(self._of._inbox) >= self._of._max_queue:
            self._make_room()

    def _make_room(self) -> None:
        of = self._of
        if of._room.recovers:
            if of._room.state is RoomState.SUBSCRIBED:
                of._session.rooms.pause(of._room)
        elif len(of._inbox) > of._max_queue:
            of._inbox.drop_oldest()

    def on_gap(self) -> None:
        """Publications were missed for ever, before the next one."""
        self._of.gaps += 1
        self._of._inbox.note_gap(self._of.topic)
        call_user(self._of._callbacks["on_gap"])

    def on_presence(self, joined: bool, info: ClientInfo) -> None:
        """Somebody has come or gone."""
        call_user(self._of._callbacks["on_join" if joined else "on_leave"], info)

    def on_subscribed(self, data: Any) -> None:
        """It has begun, or begun again."""
        self._of.data, self._of._begun = data, True

    def on_ended(self, error: Exception | None) -> None:
        """It has ended."""
        self._of._error, self._of._over = error, True
        self._of._live._forget(self._of)
