"""Subscriptions of a client, as its session keeps them; users see `subscription`."""

from __future__ import annotations

import enum
from typing import Any, Protocol

from .codec import ClientInfo, Position, Publication

__all__ = ["Room", "RoomListener", "RoomState"]


class RoomState(enum.Enum):
    """Where a subscription is.

    WAITING ── the connection is there ──► (ASKING ──►) SUBSCRIBING ──► SUBSCRIBED
    SUBSCRIBED ── the connection is lost ──► WAITING
    any of them ── `pause` ──► PAUSED ── `resume` ──► WAITING
    any of them ── the user or the server ends it ──► ENDED
    """

    WAITING = enum.auto()
    #: For a token.
    ASKING = enum.auto()
    SUBSCRIBING = enum.auto()
    SUBSCRIBED = enum.auto()
    #: The user does not read.
    PAUSED = enum.auto()
    ENDED = enum.auto()


class RoomListener(Protocol):
    """What is told of it."""

    def on_publication(self, publication: Publication) -> None:
        """The next publication."""

    def on_gap(self) -> None:
        """Publications were missed for ever, before the next one."""

    def on_presence(self, joined: bool, info: ClientInfo) -> None:
        """Somebody has come or gone."""

    def on_subscribed(self, data: Any) -> None:
        """It has begun, or begun again."""

    def on_ended(self, error: Exception | None) -> None:
        """It has ended; None: the user has ended it."""


class Room:
    """One of them.

    Args:
        topic: its name.
        listener: is told of it.
        recover: what is missed is asked for.
        since: what the user has got; None: nothing.
        join_leave: it is told who comes and goes.
        data: for the server.
        token: "" without one.
        asks: there is a function for tokens.

    Attributes:
        state: see `RoomState`.
        position: of the newest publication, if what is missed is asked for; None in a
            topic without history.
        attempt: times in a row that it could not begin.
        call: number of the command that is under way; 0: none.
    """

    __slots__ = (
        "_known",
        "asks",
        "attempt",
        "call",
        "data",
        "join_leave",
        "listener",
        "position",
        "recover",
        "state",
        "token",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        listener: RoomListener,
        *,
        recover: bool = False,
        since: Position | None = None,
        join_leave: bool = False,
        data: Any = None,
        token: str = "",
        asks: bool = False,
    ) -> None:
        self.topic, self.listener = topic, listener
        self.recover = recover or since is not None
        self.join_leave = join_leave
        self.data, self.token, self.asks = data, token, asks
        self.state = RoomState.WAITING
        self.position = since
        self.attempt = 0
        self.call = 0
        # It was there before: what is not recovered is a gap.
        self._known = since is not None

    @property
    def recovers(self) -> bool:
        """Whether it can be told what was missed."""
        return self.recover and self.position is not None

    def params(self) -> dict[str, Any]:
        """What `subscribe` asks for."""
        params: dict[str, Any] = {"channel": self.topic}
        if self.token:
            params["token"] = self.token
        if self.data is not None:
            params["data"] = self.data
        if self.join_leave:
            params["join_leave"] = True
        if self.recover:
            params["recoverable"] = params["positioned"] = True
        if self.recovers:
            assert self.position is not None
            params |= self.position._asdict() | {"recover": True}
        return params

    def begin(
        self,
        epoch: str,
        offset: int | None,
        recovered: bool,
        missed: list[Publication],
    ) -> None:
        """The server has subscribed it, or again.

        Args:
            epoch: of the history.
            offset: of the newest publication; None: the topic has no history.
            recovered: `missed` is all that was missed.
            missed: publications, the oldest first.
        """
        self.state, self.attempt = RoomState.SUBSCRIBED, 0
        if not recovered:
            if self._known:
                self.listener.on_gap()
            self.position = None
        self._known = True
        for publication in missed:
            self.publish(publication)
        self.position = None if offset is None else Position(epoch, offset)

    def publish(self, publication: Publication) -> None:
        """A publication has come; one that was there before is passed over."""
        position = publication.position
        if position is not None and self.recover:
            if self.position is not None and position.offset <= self.position.offset:
                return
            self.position = position
        self.listener.on_publication(publication)

    def end(self, error: Exception | None) -> None:
        """It has ended."""
        if self.state is not RoomState.ENDED:
            self.state = RoomState.ENDED
            self.listener.on_ended(error)
