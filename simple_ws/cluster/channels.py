"""The names of channels of an engine: one for each topic and identity, and one for all.

prefix.t.TOPIC    prefix.i.KIND:IDENTITY    prefix.all

A topic with history has {prefix.k.TOPIC}e, and an engine that stores it begins the
names of its keys with what is before the `e`: so they are in one slot of a cluster.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import UUID

__all__ = ["Audience", "Channel", "Channels"]


class Audience(enum.Enum):
    """Who receives what is published to a channel."""

    #: The subscribers of a topic.
    TOPIC = "t"
    #: Those of a topic with history.
    KEPT = "k"
    #: The connections of an identity.
    IDENTITY = "i"
    EVERYBODY = "all"


class Channel(NamedTuple):
    """What a name stands for."""

    audience: Audience
    #: The topic, the identity, or None.
    value: Any


class Channels:
    """The names of one application.

    Args:
        prefix: keeps applications apart that share an engine.
    """

    def __init__(self, prefix: str) -> None:
        self.all = f"{prefix}.all"
        self._topic = f"{prefix}.t."
        self._kept = f"{{{prefix}.k."
        self._identity = f"{prefix}.i."

    def name(self, audience: Audience, value: Any) -> str:
        """The channel of an audience; see `identity` for the error that it raises."""
        if audience is Audience.TOPIC:
            return self._topic + value  # type: ignore[no-any-return]
        if audience is Audience.KEPT:
            return self.kept(value)
        return self.all if audience is Audience.EVERYBODY else self.identity(value)

    def topic(self, topic: str) -> str:
        """The channel of a topic."""
        return self._topic + topic

    def kept(self, topic: str) -> str:
        """The channel of a topic with history."""
        return f"{self._kept}{topic}}}e"

    def identity(self, identity: Any) -> str:
        """The channel of an identity.

        Raises:
            TypeError: Other processes could not know it: it is neither str, int, bytes
                nor UUID.
        """
        kind = type(identity)
        if kind is str:
            return f"{self._identity}s:{identity}"
        if kind is int:
            return f"{self._identity}i:{identity}"
        if kind is bytes:
            return f"{self._identity}b:{identity.hex()}"
        if kind is UUID:
            return f"{self._identity}u:{identity.hex}"
        raise TypeError(
            "with an engine an identity must be a str, int, bytes or UUID, not "
            f"{identity!r}"
        )

    def parse(self, name: str) -> Channel | None:
        """What a name stands for; None if it is none of ours."""
        if name.startswith(self._topic):
            return Channel(Audience.TOPIC, name[len(self._topic) :])
        if name.startswith(self._kept):
            return Channel(Audience.KEPT, name[len(self._kept) : -2])
        if name == self.all:
            return Channel(Audience.EVERYBODY, None)
        if name.startswith(self._identity):
            return _identity(name[len(self._identity) :])
        return None


_DECODERS: dict[str, Callable[[str], Any]] = {
    "s": str,
    "i": int,
    "b": bytes.fromhex,
    "u": UUID,
}


def _identity(text: str) -> Channel | None:
    kind, _, value = text.partition(":")
    decode = _DECODERS.get(kind)
    try:
        return None if decode is None else Channel(Audience.IDENTITY, decode(value))
    except ValueError:
        return None
