"""Feeds: subscribers who get the messages of a topic in a form of their own.

A message is put into that form once for all of them. Which form it is, and what else
they are told, is left to the layer above (`live/`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple, Protocol, TypeVar, overload

from ..cluster.history import Entry
from ..cluster.position import Position
from ..connection.client import Client
from ..connection.topics import Group
from ..speedups import fan_out

__all__ = ["Arrival", "Encode", "Feeds", "Form", "Live"]

#: Called with a topic, a message of it, and its offset (0 in a topic without history):
#: the text that subscribers get.
Encode = Callable[[str, Any, int], str]

F = TypeVar("F", bound=Callable[[Any, Any], Any])


class Form(Protocol):
    """How that text is sent where it is not in frames of WebSocket."""

    def block(self, frame: str) -> bytes:
        """The text in this form."""


_NOBODY: Group[Client] = Group()


class Arrival(NamedTuple):
    """Where a subscriber begins.

    Attributes:
        position: of the newest message of the topic; None: it has no history.
        missed: the messages that the subscriber lacks, the oldest first.
        gap: how many it has missed for ever; None: not known.
    """

    position: Position | None = None
    missed: tuple[Entry, ...] = ()
    gap: int | None = 0


class Live(Protocol):
    """What `Server.live` returns; see `live.handler.Live`."""

    @property
    def clients(self) -> Group[Any]:
        """The open connections."""

    # Lets clients call a function; as a decorator.
    @overload
    def method(self, function: str) -> Callable[[F], F]: ...
    @overload
    def method(self, function: F) -> F: ...


class Feeds:
    """The subscribers of one form, by topic; false without any.

    Args:
        encode: makes the text that they get.
    """

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        #: Of each topic here, even where all of its subscribers are in `_streams`.
        self._groups: dict[str, Group[Client]] = {}
        #: Those with a form: they have a method `_write_published`.
        self._streams: dict[str, dict[Form, Group[Any]]] = {}

    def __bool__(self) -> bool:
        return bool(self._groups)

    def __contains__(self, topic: object) -> bool:
        return topic in self._groups

    def add(self, topic: str, client: Client) -> None:
        """The client gets what is published from now on."""
        group = self._groups.setdefault(topic, Group())
        form = client._form
        if form is not None:
            group = self._streams.setdefault(topic, {}).setdefault(form, Group())
        group.add(client)

    def discard(self, topic: str, client: Client) -> None:
        """It gets nothing more; nothing happens if it got nothing."""
        form, group = client._form, self._groups.get(topic)
        if group is None:
            return
        if form is None:
            group.discard(client)
        elif topic in self._streams:
            self._discard_from(self._streams[topic], form, client)
            if not self._streams[topic]:
                del self._streams[topic]
        if not group and topic not in self._streams:
            del self._groups[topic]

    def _discard_from(
        self, streams: dict[Form, Group[Any]], form: Form, client: Client
    ) -> None:
        group = streams.get(form)
        if group is not None:
            group.discard(client)
            if not group:
                del streams[form]

    def members(self, topic: str) -> list[Any]:
        """The subscribers of a topic, by form, the earliest first."""
        streams = self._streams.get(topic, {})
        groups = (self._groups.get(topic, _NOBODY), *streams.values())
        return [client for group in groups for client in group]

    def counts(self) -> dict[str, int]:
        """How many subscribers each topic has."""
        counts = {topic: len(group) for topic, group in self._groups.items()}
        for topic, streams in self._streams.items():
            counts[topic] += sum(map(len, streams.values()))
        return counts

    def send(
        self, topic: str, msg: object, exclude: Collection[Client], offset: int
    ) -> int:
        """Send a message to the subscribers of a topic; return how many accepted it.

        Args:
            topic: that somebody is subscribed to.
            msg: as for `Hub.publish`.
            exclude: clients that do not get it.
            offset: of the message in the history of the topic; 0 without one.

        Raises:
            TypeError, ValueError: JSON cannot represent the message.
        """
        text = self._encode(topic, msg, offset)
        taken = fan_out(self._groups[topic], text, exclude, raw=True)
        if topic in self._streams:
            taken += self._send_streams(topic, text, exclude, offset)
        return taken

    def _send_streams(
        self, topic: str, text: str, exclude: Collection[Client], offset: int
    ) -> int:
        taken = 0
        for form, group in list(self._streams[topic].items()):
            block = form.block(text)
            for client in group:
                if client not in exclude:
                    taken += bool(client._write_published(block, topic, offset))
        return taken

    def deliver(
        self, topic: str, msg: object, exclude: Collection[Client]
    ) -> Client | None:
        """Send a message to one subscriber of a topic: the latest that accepts it, and
        one with a form before the others.

        Args:
            topic: that somebody is subscribed to.
            msg: as for `send`, also for the errors raised.
            exclude: clients that do not get it.
        """
        text = self._encode(topic, msg, 0)
        for client in reversed(self.members(topic)):
            if client not in exclude and client._write_frame(text):
                taken: Client = client
                return taken
        return None
