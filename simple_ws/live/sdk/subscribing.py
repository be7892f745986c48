"""How the subscriptions of a client begin, begin again, and end."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Protocol

from ...client.backoff import Backoff
from .. import codes
from ..codes import LiveError
from .codec import Reply, error_of, field, info_of, publication_of, publications_of
from .outcomes import TOKEN_EXPIRED, is_final, is_temporary, note_no_token, refusal
from .rooms import Room, RoomState

__all__ = ["Subscribing", "SubscribingHost"]


class SubscribingHost(Protocol):
    """What it needs of its session."""

    backoff: Backoff

    @property
    def is_connected(self) -> bool:
        """Whether commands can be sent."""

    def ask(
        self, method: str, params: dict[str, Any], done: Callable[[Reply], object]
    ) -> int:
        """Send a command; return its id."""

    def forget(self, number: int) -> None:
        """The reply is not wanted any more."""

    def ask_token(self, topic: str) -> None:
        """Ask the user for the token of a subscription."""

    def later(self, key: Hashable, delay: float, job: Callable[[], object]) -> None:
        """Do something after some seconds, unless it is cancelled."""

    def cancel(self, key: Hashable) -> None:
        """Do not do it."""

    def note_expiry(
        self, key: Hashable, result: dict[str, Any], job: Callable[[], object]
    ) -> None:
        """Have a token renewed in time."""


class Subscribing:
    """All of one client, by topic.

    Args:
        host: its session.
    """

    def __init__(self, host: SubscribingHost) -> None:
        self._host = host
        self._rooms: dict[str, Room] = {}

    def __contains__(self, topic: object) -> bool:
        return topic in self._rooms

    # The user

    def begin(self, room: Room) -> None:
        """Subscribe, as soon as the client is connected; there is none to its topic."""
        self._rooms[room.topic] = room
        self._subscribe(room)

    def end(self, room: Room, error: Exception | None = None) -> None:
        """End one."""
        if self._rooms.get(room.topic) is room:
            del self._rooms[room.topic]
            self._leave(room)
            room.end(error)

    def pause(self, room: Room) -> None:
        """The user does not read: leave the topic, and keep the place."""
        if room.state is not RoomState.ENDED:
            self._leave(room)
            room.state = RoomState.PAUSED

    def resume(self, room: Room) -> None:
        """The user reads again."""
        if room.state is RoomState.PAUSED:
            room.state = RoomState.WAITING
            self._subscribe(room)

    def _leave(self, room: Room) -> None:
        host = self._host
        host.cancel(room)
        host.cancel((room, "refresh"))
        host.forget(room.call)
        if room.state in (RoomState.SUBSCRIBING, RoomState.SUBSCRIBED):
            host.ask("unsubscribe", {"channel": room.topic}, lambda reply: None)
        room.call = 0

    # The connection

    def on_connected(self) -> None:
        """Subscribe to all topics."""
        for room in list(self._rooms.values()):
            self._subscribe(room)

    def on_lost(self) -> None:
        """The connection is lost."""
        for room in self._rooms.values():
            room.call = 0
            if room.state is not RoomState.PAUSED:
                room.state = RoomState.WAITING

    def end_all(self, error: Exception) -> None:
        """There will be no connection any more."""
        rooms, self._rooms = self._rooms, {}
        for room in rooms.values():
            room.end(error)

    def _subscribe(self, room: Room) -> None:
        if not self._host.is_connected or room.state is not RoomState.WAITING:
            return
        if room.asks and not room.token:
            room.state = RoomState.ASKING
            self._host.ask_token(room.topic)
            return
        room.state = RoomState.SUBSCRIBING
        done = partial(self._on_reply, room)
        room.call = self._host.ask("subscribe", room.params(), done)

    def _on_reply(self, room: Room, reply: Reply) -> None:
        room.call = 0
        if reply.error is not None:
            self._on_refused(room, reply.error)
            return
        result = field(reply.result, "subscribe", dict, {})
        epoch = field(result, "epoch", str, "")
        counts = any(
            field(result, name, bool, False) for name in ("positioned", "recoverable")
        )
        offset = field(result, "offset", int, 0) if counts else None
        missed = publications_of(room.topic, epoch, result)
        room.begin(epoch, offset, field(result, "recovered", bool, False), missed)
        self._note_expiry(room, result)
        room.listener.on_subscribed(result.get("data"))

    def _on_refused(self, room: Room, error: LiveError) -> None:
        if error.code == TOKEN_EXPIRED and room.asks:
            room.token = ""
            if not room.attempt:
                room.attempt, room.state = 1, RoomState.WAITING
                self._subscribe(room)
                return
        elif not is_temporary(error):
            del self._rooms[room.topic]
            room.end(error)
            return
        self._subscribe_later(room)

    def _subscribe_later(self, room: Room) -> None:
        room.state = RoomState.WAITING
        self._host.later(room, self._wait(room), partial(self._subscribe, room))

    def _wait(self, room: Room) -> float:
        """Seconds until the next attempt."""
        delay = self._host.backoff.delay(room.attempt)
        room.attempt += 1
        return delay

    # What the server pushes

    def on_publication(self, topic: str, value: dict[str, Any]) -> None:
        """A publication has come."""
        room = self._rooms[topic]
        if room.state is RoomState.SUBSCRIBED:
            epoch = room.position.epoch if room.position else ""
            room.publish(publication_of(topic, epoch, value))

    def on_presence(self, topic: str, joined: bool, value: dict[str, Any]) -> None:
        """Somebody has come or gone."""
        room = self._rooms.get(topic)
        if room is not None:
            room.listener.on_presence(joined, info_of(value.get("info") or {}))

    def on_unsubscribed(self, topic: str, value: dict[str, Any]) -> None:
        """The server has ended one; its code says whether to subscribe again."""
        room = self._rooms.get(topic)
        if room is None or room.state is not RoomState.SUBSCRIBED:
            return
        error = error_of(value)
        if error.code >= codes.Unsubscribe.INSUFFICIENT_STATE.code:
            self._subscribe_later(room)
        else:
            del self._rooms[topic]
            room.end(error)

    # Tokens

    def on_token(self, topic: str, token: str | Exception) -> None:
        """The user has given a token, or has failed to."""
        room = self._rooms.get(topic)
        if room is None:
            return
        if is_final(token):
            self.end(room, refusal(token))
        elif isinstance(token, Exception):
            note_no_token(token)
            if room.state is RoomState.ASKING:
                self._subscribe_later(room)
            elif room.state is RoomState.SUBSCRIBED:
                self._renew_later(room)
        elif room.state is RoomState.SUBSCRIBED:
            params = {"channel": topic, "token": token}
            self._host.ask("sub_refresh", params, partial(self._on_refreshed, room))
            room.token = token
        else:
            room.token = token
            if room.state is RoomState.ASKING:
                room.state = RoomState.WAITING
                self._subscribe(room)

    def _note_expiry(self, room: Room, result: dict[str, Any]) -> None:
        if room.asks:
            renew = partial(self._renew, room)
            self._host.note_expiry((room, "refresh"), result, renew)

    def _renew(self, room: Room) -> None:
        self._host.ask_token(room.topic)

    def _renew_later(self, room: Room) -> None:
        delay = self._wait(room)
        self._host.later((room, "refresh"), delay, partial(self._renew, room))

    def _on_refreshed(self, room: Room, reply: Reply) -> None:
        error = reply.error
        if room.state is not RoomState.SUBSCRIBED:
            return
        if error is None:
            room.attempt = 0
            self._note_expiry(room, field(reply.result, "sub_refresh", dict, {}))
        elif is_temporary(error) or error.code == TOKEN_EXPIRED:
            self._renew_later(room)
        else:
            self.end(room, error)
