"""The names of channels of an engine: one for each topic and identity, and one for all.

prefix.t.TOPIC    prefix.i.KIND:IDENTITY    prefix.all

A topic with history has {prefix.k.TOPIC}e, and an engine that stores it begins the
names of its keys with what is before the `e`: so they are in one slot of a cluster.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

from ..text import parse_uuid

__all__ = [
    "Audience",
    "Channel",
    "Channels",
    "decode_identity",
    "encode_identity",
]


class Audience(enum.Enum):
    """Who receives what is published to a channel."""

    #: The subscribers of a topic.
    TOPIC = "t"
    #: Those of a topic with history.
    KEPT = "k"
    #: The connections of an identity.
    IDENTITY = "i"
    EVERYBODY = "all"
    #: All nodes.
    NODES = "ctl"
    #: One node.
    NODE = "n"
    #: The nodes that know who is present in a topic.
    PRESENCE = "p"


class Channel(NamedTuple):
    """What a name stands for."""

    audience: Audience
    #: The topic, the identity, the node, or None.
    value: Any


class Channels:
    """The names of one application.

    Args:
        prefix: keeps applications apart that share an engine.
    """

    def __init__(self, prefix: str) -> None:
        self.all = f"{prefix}.all"
        self.nodes = f"{prefix}.ctl"
        self._node = f"{prefix}.n."
        self._presence = f"{prefix}.p."
        self._topic = f"{prefix}.t."
        self._kept = f"{{{prefix}.k."
        self._identity = f"{prefix}.i."

    def name(self, audience: Audience, value: Any) -> str:
        """The channel of an audience; see `identity` for the error that it raises."""
        if audience is Audience.TOPIC:
            return self._topic + value  # type: ignore[no-any-return]
        if audience is Audience.KEPT:
            return self.kept(value)
        if audience is Audience.IDENTITY:
            return self.identity(value)
        if audience is Audience.EVERYBODY:
            return self.all
        if audience is Audience.NODES:
            return self.nodes
        return self.node(value) if audience is Audience.NODE else self.presence(value)

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
        return self._identity + encode_identity(identity)

    def node(self, node: str) -> str:
        """The channel of a node."""
        return self._node + node

    def presence(self, topic: str) -> str:
        """The channel of who is present in a topic."""
        return self._presence + topic

    def shard_key(self, name: str) -> str:
        """What decides which of several engines has a channel: a topic has one, with
        history or without."""
        if name.startswith(self._topic):
            return name[len(self._topic) :]
        if name.startswith(self._kept):
            return name[len(self._kept) : -2]
        return name

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
        if name == self.nodes:
            return Channel(Audience.NODES, None)
        if name.startswith(self._node):
            return Channel(Audience.NODE, name[len(self._node) :])
        if name.startswith(self._presence):
            return Channel(Audience.PRESENCE, name[len(self._presence) :])
        return None


def encode_identity(identity: Any) -> str:
    """An identity as text.

    Raises:
        TypeError: Other processes could not know it: it is neither str, int, bytes nor
            UUID.
    """
    kind = type(identity)
    if kind is str:
        return f"s:{identity}"
    if kind is int:
        return f"i:{identity}"
    if kind is bytes:
        return f"b:{identity.hex()}"
    from uuid import UUID  # only when needed

    if kind is UUID:
        return f"u:{identity.hex}"
    raise TypeError(
        "with an engine an identity must be a str, int, bytes or UUID, not "
        f"{identity!r}"
    )


_DECODERS: dict[str, Callable[[str], Any]] = {
    "s": str,
    "i": int,
    "b": bytes.fromhex,
    "u": parse_uuid,
}


def decode_identity(text: str) -> Any:
    """The identity that a text stands for.

    Raises:
        ValueError: It stands for none.
    """
    kind, _, value = text.partition(":")
    decode = _DECODERS.get(kind)
    if decode is None:
        raise ValueError(f"{text!r} is no identity")
    return decode(value)


def _identity(text: str) -> Channel | None:
    try:
        return Channel(Audience.IDENTITY, decode_identity(text))
    except ValueError:
        return None
