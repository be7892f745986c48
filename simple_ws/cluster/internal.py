"""What nodes say to each other: a JSON object with a version and a kind.

It travels in the usual envelope, which says who has sent it, and signs it. A kind that
is not known comes from a newer release: it is counted and passed over.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from .channels import Audience

__all__ = ["Inbox", "Malformed", "Nodes", "Reader", "encode", "value_of"]

#: A new version is read a release before it is written.
_VERSION = 1

T = TypeVar("T")

#: Called with who has sent a message, and the message.
Reader = Callable[[str, dict[str, Any]], object]


class Malformed(ValueError):
    """A message lacks something, or has it in a wrong form."""


class Nodes(Protocol):
    """How the parts of a node reach the other nodes, and the loop."""

    def time(self) -> float:
        """Seconds that never run backwards."""

    def call_later(self, delay: float, callback: Callable[[], object]) -> object:
        """Call it in so many seconds."""

    def send(self, audience: Audience, value: str | None, body: bytes) -> bool:
        """Send something; return False if the engine is not there."""


def encode(kind: str, **values: Any) -> bytes:
    """Encode a message."""
    message = {"v": _VERSION, "k": kind, **values}
    return json.dumps(message, separators=(",", ":")).encode()


def value_of(message: dict[str, Any], name: str, kind: type[T]) -> T:
    """A value of a message.

    Raises:
        Malformed: It is not there, or of another type.
    """
    value = message.get(name)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise Malformed(f"{name} must be of type {kind.__name__}")
    return value


class Inbox:
    """Passes messages of other nodes on to those who read them.

    Args:
        own: the id of this node, whose own messages come back and are dropped.
        note_invalid: called with the sender of a malformed one, and what is wrong.

    Attributes:
        unknown: messages of another version, or of a kind that nobody reads.
    """

    def __init__(self, own: str, note_invalid: Callable[[str, str], object]) -> None:
        self.unknown = 0
        self._own = own
        self._note_invalid = note_invalid
        self._readers: dict[str, Reader] = {}

    def add(self, kind: str, reader: Reader) -> None:
        """Pass messages of a kind to a function; it may raise `Malformed`."""
        self._readers[kind] = reader

    def receive(self, sender: str, body: bytes) -> None:
        """A message has come; never raises for what it is."""
        if sender == self._own:
            return
        try:
            message = json.loads(body)
        except (ValueError, RecursionError):
            self._note_invalid(sender, "what a node says must be JSON")
            return
        if not isinstance(message, dict):
            self._note_invalid(sender, "what a node says must be a JSON object")
            return
        kind = message.get("k")
        reader = self._readers.get(kind) if isinstance(kind, str) else None
        if reader is None or message.get("v") != _VERSION:
            self.unknown += 1
            return
        try:
            reader(sender, message)
        except Malformed as error:
            self._note_invalid(sender, f"{kind}: {error}")
